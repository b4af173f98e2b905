// SPDX-License-Identifier: BSD-3-Clause
// Any bytes, read as a .npy file: an array whose elements fill its shape, or a std::runtime_error. That no header makes
// the reader take memory is for the fuzzer's limit of an allocation to see.
#include <npy.hpp>

#include "readers.hpp"

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  attend::test::file_in_memory const file(data, size);
  try {
    attend_io::array const array = attend_io::load_npy(file.path());
    std::size_t elements = 1;
    for (std::int64_t const extent : array.shape) elements *= static_cast<std::size_t>(extent);
    bool const is_floating = array.dtype.starts_with('f');
    std::size_t const values = is_floating ? array.values<double>().size() : array.values<std::int64_t>().size();
    if (values != elements) throw std::logic_error("an array's elements do not fill its shape");
    if (array.bytes.size() > size) throw std::logic_error("an array has more bytes than its file");
    if (is_floating)
      array.values<Eigen::half>();
    else
      array.values<std::uint8_t>();
  } catch (std::runtime_error const&) {
  }
  return 0;
}
