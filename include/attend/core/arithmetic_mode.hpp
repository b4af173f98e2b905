// SPDX-License-Identifier: BSD-3-Clause
// The floating-point mode that attend computes in, whatever the mode of the thread that calls it:
//
//   results are rounded to nearest even, subnormal operands count as zero, subnormal results become zero, and no
//   floating-point exception traps.
//
// Many processors take a hundred times as long for a subnormal number, and weights far below the largest are often
// subnormal. Also, results that depended on the caller's mode would differ between programs.
//
// x86 keeps the mode in MXCSR (flush-to-zero and denormals-are-zero), 64-bit Arm in FPCR (FZ). On both, conversions
// from and to half keep subnormal halves, since these are normal floats. On other targets nothing is set, and the mode
// is the caller's.
#pragma once

#include <cstdint>
#include <optional>

#include "target.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

// A state holds the control bits and the sticky exception flags in one number. The memory clobbers keep the compiler
// from moving loads and stores across a change of the mode, and so the arithmetic between a load and a store stays on
// its side of the change.
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

/// While an object of this class lives, its thread computes in attend's mode; its destructor restores the mode and the
/// sticky exception flags, also when an exception ends the scope. Every public function that computes holds such an
/// object, and so does every worker while it runs tasks: a mask or a score that is a user's lambda therefore runs in
/// this mode as well. An object within the scope of another one costs a few cycles.
class arithmetic_mode {
 public:
  // On a target without a mode to set, `callers` stays empty: of_caller then has nothing to restore.
  arithmetic_mode() noexcept
      : before_(detail::floating_point::read()), outermost_(detail::floating_point::own != 0 && !callers) {
    if (outermost_) callers = before_;
    if ((before_ & ~detail::floating_point::flags) != detail::floating_point::own)
      detail::floating_point::write(detail::floating_point::own);
  }
  ~arithmetic_mode() {
    if (outermost_) callers.reset();
    if (detail::floating_point::read() != before_) detail::floating_point::write(before_);
  }
  arithmetic_mode(arithmetic_mode const&) = delete;
  arithmetic_mode& operator=(arithmetic_mode const&) = delete;

  /// While an object of this class lives, its thread is back in the mode of attend's caller. It is for work on the
  /// caller's behalf, such as handing tasks to a pool: the pool may start threads, and a new thread inherits the mode
  /// of the thread that starts it.
  class of_caller {
   public:
    of_caller() noexcept : before_(detail::floating_point::read()) {
      if (callers) detail::floating_point::write(*callers);
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
  // The mode of attend's caller, while the thread is in a call.
  static constinit inline thread_local std::optional<detail::floating_point::state> callers;

  detail::floating_point::state const before_;
  bool const outermost_;
};

}  // namespace extend

}  // namespace attend::inline ATTEND_TARGET
