// SPDX-License-Identifier: BSD-3-Clause
// What was written down of a window, and whether it is speech. Whisper writes words where it hears none; two signs
// together say so, and neither is believed alone:
//
//   <|nocaptions|> has a probability above 0.6 behind <|startoftranscript|>
//   the mean log-probability of the tokens and the end of the text is below -1
//
// Alec Radford et al.: Robust Speech Recognition via Large-Scale Weak Supervision, 2022 (4.5), and its transcribe.py.
#pragma once

#include <vector>

namespace whisper {

struct transcript {
  std::vector<int> tokens;
  double no_speech_probability = 0;
  double log_probability = 0;  // the mean, in nats

  bool seems_silent() const { return no_speech_probability > 0.6; }
  bool is_speech() const { return !seems_silent() || log_probability >= -1; }
};

}  // namespace whisper
