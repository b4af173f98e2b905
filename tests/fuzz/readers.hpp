// SPDX-License-Identifier: BSD-3-Clause
// What the readers of files are given: the bytes of an input as a file, in memory.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>

namespace attend::test {

class file_in_memory {
 public:
  file_in_memory(std::uint8_t const* data, std::size_t size) : descriptor_(memfd_create("input", MFD_CLOEXEC)) {
    for (std::size_t written = 0; written < size;) {
      ssize_t const count = write(descriptor_, data + written, size - written);
      if (count <= 0) throw std::logic_error("the input cannot be written into memory");
      written += static_cast<std::size_t>(count);
    }
  }
  ~file_in_memory() { close(descriptor_); }
  file_in_memory(file_in_memory const&) = delete;
  file_in_memory& operator=(file_in_memory const&) = delete;

  std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

}  // namespace attend::test
