// SPDX-License-Identifier: BSD-3-Clause
// Long audio in windows of at most 30 seconds: each is cut where it is quietest in its last five seconds, so that few
// words are cut in two.
#pragma once

#include <Eigen/Core>

#include <cstddef>
#include <limits>
#include <span>

#include "log_mel.hpp"

namespace whisper {

/// How many of the samples, at 16 kHz, make the next window: all, or up to the middle of the quietest fifth of a
/// second.
inline std::size_t next_window(std::span<float const> samples) {
  std::size_t const longest = window_samples, searched = 5 * std::size_t{sample_rate}, quiet = sample_rate / 5;
  if (samples.size() <= longest) return samples.size();
  std::size_t best = longest;
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t start = longest - searched; start + quiet <= longest; start += quiet / 2) {
    double const energy = Eigen::Map<Eigen::RowVectorXf const>(samples.data() + start, static_cast<Eigen::Index>(quiet))
                              .cast<double>()
                              .squaredNorm();
    if (energy < least) least = energy, best = start + quiet / 2;
  }
  return best;
}

}  // namespace whisper
