// SPDX-License-Identifier: BSD-3-Clause
// Any bytes, read as CTranslate2's model.bin: arrays whose elements fill their shapes, or a std::runtime_error. That no
// size makes the reader take memory is for the fuzzer's limit of an allocation to see.
#include <ctranslate2.hpp>

#include "readers.hpp"

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  attend::test::file_in_memory const file(data, size);
  try {
    attend_io::ctranslate2_model const model(file.path());
    for (auto const& [name, array] : model.arrays()) {
      std::size_t elements = 1;
      for (std::int64_t const extent : array.shape) elements *= static_cast<std::size_t>(extent);
      bool const is_floating = array.type.find("float") != std::string::npos;
      std::size_t const values =
          is_floating ? model.values<double>(name).size() : model.values<std::int64_t>(name).size();
      if (values != elements) throw std::logic_error("an array's elements do not fill its shape");
      if (array.bytes.size() > size) throw std::logic_error("an array has more bytes than its file");
    }
  } catch (std::runtime_error const&) {
  }
  return 0;
}
