// SPDX-License-Identifier: BSD-3-Clause
// The floating-point mode that attend computes in, whatever the mode of the thread that calls it:
//
//   results are rounded to nearest even, subnormal numbers count as zero and become zero, and nothing traps.
//
// Many processors take a hundred times as long for a subnormal number, and weights far below the largest are full of
// them. And a result that depended on the caller's mode would be another one in a program that sets it.
//
// x86 keeps the mode in MXCSR (flush-to-zero and denormals-are-zero), 64-bit Arm in FPCR (FZ). On other targets nothing
// is set: there the mode is the caller's. Conversions from and to half keep subnormal halves, which are normal floats,
// on both.
#pragma once

#include <cstdint>

#include "target.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

// The state is control bits and sticky exception flags in one number. The clobbers keep what is loaded and stored on
// its side of a change, and with it all arithmetic on it.
#if defined(__SSE__)

struct floating_point {
  using state = std::uint32_t;
  static constexpr state flags = 0x003f;
  static constexpr state own = 0x1f80 | 0x8000 | 0x0040;  // exceptions masked, flush to zero, denormals are zero

  static state read() {
    state now;
    asm volatile("stmxcsr %0" : "=m"(now) : : "memory");
    return now;
  }
  static void write(state next) { asm volatile("ldmxcsr %0" : : "m"(next) : "memory"); }
};

#elif defined(__aarch64__)

struct floating_point {
  using state = std::uint64_t;  // FPCR, and FPSR above it
  static constexpr state flags = ~state{0} << 32;
  static constexpr state own = 1 << 24;  // FZ

  static state read() {
    std::uint64_t control, status;
    asm volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(control), "=r"(status) : : "memory");
    return control | status << 32;
  }
  static void write(state next) {
    std::uint64_t const control = next & ~flags, status = next >> 32;
    asm volatile("msr fpcr, %0\n\tmsr fpsr, %1" : : "r"(control), "r"(status) : "memory");
  }
};

#else

struct floating_point {
  using state = int;
  static constexpr state flags = 0, own = 0;

  static state read() { return own; }
  static void write(state) {}
};

#endif

}  // namespace detail

namespace extend {

/// While one lives, its thread computes in attend's mode; then the mode and the sticky exception flags are again what
/// they were, also when an exception ends the scope. Every public function that computes holds one, and so does every
/// worker while it runs tasks: a mask or a score that is a user's lambda therefore runs in this mode as well. One
/// inside another costs a few cycles.
class arithmetic_mode {
 public:
  // Where there is no mode to set, nobody need be known.
  arithmetic_mode() noexcept
      : before_(detail::floating_point::read()), outermost_(detail::floating_point::own != 0 && !callers) {
    if (outermost_) callers = this;
    if ((before_ & ~detail::floating_point::flags) != detail::floating_point::own)
      detail::floating_point::write(detail::floating_point::own);
  }
  ~arithmetic_mode() {
    if (outermost_) callers = nullptr;
    if (detail::floating_point::read() != before_) detail::floating_point::write(before_);
  }
  arithmetic_mode(arithmetic_mode const&) = delete;
  arithmetic_mode& operator=(arithmetic_mode const&) = delete;

  /// While one lives, the thread is in the mode of whoever called attend again: for what is done on the caller's
  /// behalf, such as handing tasks to a pool, which may make threads, which take over the mode of the thread that makes
  /// them.
  class of_caller {
   public:
    of_caller() noexcept : before_(detail::floating_point::read()) {
      if (callers) detail::floating_point::write(callers->before_);
    }
    ~of_caller() {
      if (callers) detail::floating_point::write(before_);
    }
    of_caller(of_caller const&) = delete;
    of_caller& operator=(of_caller const&) = delete;

   private:
    detail::floating_point::state const before_;
  };

 private:
  // The one that a thread's outermost call holds.
  static constinit inline thread_local arithmetic_mode const* callers = nullptr;

  detail::floating_point::state const before_;
  bool const outermost_;
};

}  // namespace extend

}  // namespace attend::inline ATTEND_TARGET
