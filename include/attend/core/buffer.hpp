// SPDX-License-Identifier: BSD-3-Clause
// Memory that an object owns for as long as it lives: one aligned block, whose size is checked before it is allocated.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <memory>
#include <type_traits>

#include "check.hpp"
#include "scratch.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// Advises the system to use large pages. A key-value cache is read from end to end again and again, and with pages of
/// 4 KiB the translation of their addresses takes a good part of that time. The system may ignore the advice.
inline void advise_large_pages([[maybe_unused]] std::byte* memory, [[maybe_unused]] index_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr index_t page = 4096, large_page = index_t{1} << 21;
  if (bytes < 2 * large_page) return;
  index_t const before = -static_cast<index_t>(reinterpret_cast<std::uintptr_t>(memory)) & (page - 1);
  madvise(memory + before, static_cast<std::size_t>((bytes - before) & -page), MADV_HUGEPAGE);
#endif
}

/// An array of elements, which hold no defined values until they are written.
template <class T>
class buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  buffer() = default;

  /// Holds as many elements as the product of the extents. Throws argument_error where an extent is negative, or where
  /// the product does not fit in memory.
  template <std::size_t Rank>
  buffer(char const* argument, std::array<index_t, Rank> const& extents) {
    index_t count = 1, bytes = sizeof(T);
    bool overflow = false, none = false;
    for (index_t extent : extents) {
      if (extent < 0)
        fail(argument, "expected extents of at least 0, got ", shape_text<static_cast<int>(Rank)>(extents));
      none = none || extent == 0;
    }
    for (index_t extent : extents) {
      if (none) break;
      overflow |= __builtin_mul_overflow(bytes, extent, &bytes);
      overflow |= __builtin_mul_overflow(count, extent, &count);
    }
    if (overflow || bytes > byte_limit)
      fail(argument, "expected extents whose product fits in memory, got ",
           shape_text<static_cast<int>(Rank)>(extents));
    if (none) return;
    size_ = count;
    memory_.reset(
        static_cast<std::byte*>(::operator new[](static_cast<std::size_t>(bytes), std::align_val_t{cache_line})));
    advise_large_pages(memory_.get(), bytes);
  }

  T* data() { return reinterpret_cast<T*>(memory_.get()); }
  T const* data() const { return reinterpret_cast<T const*>(memory_.get()); }
  T& operator[](index_t i) { return data()[i]; }
  T const& operator[](index_t i) const { return data()[i]; }
  index_t size() const { return size_; }
  index_t bytes() const { return size_ * static_cast<index_t>(sizeof(T)); }

 private:
  std::unique_ptr<std::byte[], aligned_delete> memory_;
  index_t size_ = 0;
};

}  // namespace attend::inline ATTEND_TARGET::detail
