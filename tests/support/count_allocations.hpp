// SPDX-License-Identifier: BSD-3-Clause
// Counts all allocations of a test program, and their bytes: it replaces the global operator new, so one file of a
// program may include it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <utility>

namespace attend::test {
using namespace options;

inline std::atomic<long> allocations{0};
inline std::atomic<std::ptrdiff_t> allocated_bytes{0};  // those that were given back too

inline void* counted_allocation(std::size_t bytes, std::size_t alignment) {
  ++allocations;
  allocated_bytes += static_cast<std::ptrdiff_t>(bytes);
  void* const memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment + alignment);
  if (!memory) throw std::bad_alloc();
  return memory;
}

}  // namespace attend::test

void* operator new(std::size_t bytes) { return attend::test::counted_allocation(bytes, alignof(std::max_align_t)); }
void* operator new[](std::size_t bytes) { return attend::test::counted_allocation(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return attend::test::counted_allocation(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return attend::test::counted_allocation(bytes, static_cast<std::size_t>(alignment));
}
// What std::stable_sort and others ask for, which goes back through the operators below.
void* operator new(std::size_t bytes, std::nothrow_t const&) noexcept {
  try {
    return attend::test::counted_allocation(bytes, alignof(std::max_align_t));
  } catch (std::bad_alloc const&) {
    return nullptr;
  }
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace attend::test {

/// Allocations of the first call and of the second.
template <class Call>
std::pair<long, long> allocations_of_two(Call&& call) {
  long const before = allocations;
  call();
  long const between = allocations;
  call();
  return {between - before, allocations - between};
}

}  // namespace attend::test
