// SPDX-License-Identifier: BSD-3-Clause
// Elements right before a page that may not be touched: whoever reads or writes past the last one ends the program.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

namespace attend::test {

template <class T>
class end_of_memory {
 public:
  explicit end_of_memory(std::size_t count) : count_(count) {
    std::size_t const page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    std::size_t const used = (count * sizeof(T) + page - 1) / page * page;
    size_ = used + page;
    memory_ = static_cast<char*>(mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory_ == MAP_FAILED || mprotect(memory_ + used, page, PROT_NONE) != 0)
      throw std::runtime_error("no memory to guard");
    data_ = reinterpret_cast<T*>(memory_ + used - count * sizeof(T));
  }
  explicit end_of_memory(std::vector<T> const& elements) : end_of_memory(elements.size()) {
    std::copy(elements.begin(), elements.end(), data_);
  }
  end_of_memory(end_of_memory const&) = delete;
  end_of_memory& operator=(end_of_memory const&) = delete;
  ~end_of_memory() { munmap(memory_, size_); }

  T* data() const { return data_; }
  std::size_t size() const { return count_; }
  T& operator[](std::size_t i) const { return data_[i]; }

 private:
  std::size_t count_, size_;
  char* memory_;
  T* data_;
};

}  // namespace attend::test
