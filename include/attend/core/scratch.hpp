// SPDX-License-Identifier: BSD-3-Clause
// Working memory of a kernel: one arena per thread, kept from call to call, so that nothing is allocated after the
// first call of a shape. Blocks are taken and given back in the order of a stack.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <new>
#include <vector>

#include "exceptions.hpp"
#include "mutex.hpp"
#include "types.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

inline constexpr std::size_t cache_line = 64;

struct aligned_delete {
  void operator()(std::byte* memory) const { ::operator delete[](memory, std::align_val_t{cache_line}); }
};

inline std::atomic<index_t>& scratch_total() {
  static std::atomic<index_t> total{0};
  return total;
}

class arena {
 public:
  arena() = default;
  arena(arena const&) = delete;
  arena& operator=(arena const&) = delete;
  ~arena() { release(); }

  static arena& of_this_thread() {
#if ATTEND_THREADS
    thread_local arena arena;
#else
    static arena arena;
#endif
    return arena;
  }

  std::byte* allocate(std::size_t bytes) {
    bytes = (bytes + cache_line - 1) / cache_line * cache_line;
    while (current_ < chunks_.size() && chunks_[current_].used + bytes > chunks_[current_].size) ++current_;
    if (current_ == chunks_.size()) {
      auto* memory = static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{cache_line}));
      chunks_.push_back({std::unique_ptr<std::byte[], aligned_delete>(memory), bytes, 0});
      scratch_total() += static_cast<index_t>(bytes);
    }
    chunk& from = chunks_[current_];
    std::byte* const block = from.memory.get() + from.used;
    from.used += bytes;
    return block;
  }

  struct mark {
    std::size_t chunk, used;
  };
  mark here() const { return {current_, current_ < chunks_.size() ? chunks_[current_].used : 0}; }
  void back_to(mark to) {
    for (std::size_t c = to.chunk + 1; c < chunks_.size(); ++c) chunks_[c].used = 0;
    if (to.chunk < chunks_.size()) chunks_[to.chunk].used = to.used;
    current_ = to.chunk;
    // Once nothing is in use, several chunks become one as large as all: the next call of this shape finds it ready.
    if (current_ == 0 && to.used == 0 && chunks_.size() > 1) {
      std::size_t bytes = 0;
      for (chunk const& c : chunks_) bytes += c.size;
      release();
      // This runs in a destructor, which must not throw: where there is not that much memory in one piece, the next
      // call allocates what it needs.
      attempt(
          [&] {
            allocate(bytes);
            chunks_[0].used = 0;
          },
          [] {});
    }
  }

  /// The number of bytes that this arena keeps.
  index_t reserved() const {
    index_t bytes = 0;
    for (chunk const& c : chunks_) bytes += static_cast<index_t>(c.size);
    return bytes;
  }

  void release() {
    scratch_total() -= reserved();
    chunks_.clear();
    current_ = 0;
  }

 private:
  struct chunk {
    std::unique_ptr<std::byte[], aligned_delete> memory;
    std::size_t size, used;
  };
  std::vector<chunk> chunks_;
  std::size_t current_ = 0;
};

}  // namespace detail

namespace extend {

/// Takes blocks from the calling thread's arena and gives all of them back in its destructor. Blocks are aligned to 64
/// bytes and hold no defined values.
class scratch {
 public:
  scratch() : arena_(detail::arena::of_this_thread()), mark_(arena_.here()) {}
  scratch(scratch const&) = delete;
  scratch& operator=(scratch const&) = delete;
  ~scratch() { arena_.back_to(mark_); }

  template <class T>
  T* allocate(index_t count) {
    return reinterpret_cast<T*>(arena_.allocate(static_cast<std::size_t>(count) * sizeof(T)));
  }

 private:
  detail::arena& arena_;
  detail::arena::mark mark_;
};

}  // namespace extend

namespace runtime {

/// Bytes of working memory that all threads of the process keep at this moment.
inline index_t scratch_bytes() { return detail::scratch_total().load(); }

/// Gives the calling thread's working memory back to the system. The thread's next call allocates it again.
inline void release_scratch() { detail::arena::of_this_thread().release(); }

}  // namespace runtime

}  // namespace attend::inline ATTEND_TARGET
