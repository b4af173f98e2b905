// SPDX-License-Identifier: BSD-3-Clause
// Any bytes, read as a .safetensors file: tensors that cover its data, or a std::runtime_error. That no header makes
// the reader take memory is for the fuzzer's limit of an allocation to see.
#include <safetensors.hpp>

#include "readers.hpp"

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  attend::test::file_in_memory const file(data, size);
  try {
    attend_io::safetensors const weights(file.path());
    std::size_t covered = 0;
    for (auto const& [name, tensor] : weights.tensors()) {
      covered += tensor.bytes.size();
      std::size_t elements = 1;
      for (std::int64_t const extent : tensor.shape) elements *= static_cast<std::size_t>(extent);
      bool const is_floating = tensor.dtype.find('F') != std::string::npos;
      std::size_t const values =
          is_floating ? weights.values<double>(name).size() : weights.values<std::int64_t>(name).size();
      if (values != elements) throw std::logic_error("a tensor's elements do not fill its shape");
    }
    if (covered > size) throw std::logic_error("tensors cover more bytes than their file has");
    for (auto const& [name, tensor] : weights.tensors())
      if (tensor.dtype.starts_with('I')) weights.values<std::uint8_t>(name);
  } catch (std::runtime_error const&) {
  }
  return 0;
}
