// SPDX-License-Identifier: BSD-3-Clause
// Any bytes, read as a .wav file: finite samples, no more of them than bytes, or a std::runtime_error. That no header
// makes the reader take memory is for the fuzzer's limit of an allocation to see.
#include <wav.hpp>

#include "readers.hpp"

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  attend::test::file_in_memory const file(data, size);
  try {
    attend_io::audio const audio = attend_io::read_wav(file.path());
    if (audio.samples.empty() || audio.samples.size() > size || audio.rate == 0)
      throw std::logic_error("a file has no samples, or more than bytes, or no rate");
    for (float const sample : audio.samples)
      if (!std::isfinite(sample)) throw std::logic_error("a sample is no number");
  } catch (std::runtime_error const&) {
  }
  return 0;
}
