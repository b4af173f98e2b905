// Positions in lanes: integers with all of the arithmetic that a mask may want, division and remainder included, which
// vector units do not have.
//
// The quotient is formed in doubles and truncated: two 32-bit integers whose quotient is not whole are far enough from
// the next whole number for that to be exact. Positions are below 2^31, also where they are kept in 64 bits.
#pragma once

#include "vector.hpp"

namespace attend::simd {

/// As many integers as a vector of T has lanes. Behaves like an int: quotients are truncated towards zero.
template <class T>
class integers {
 public:
  using element = position_t<T>;
  using batch = vector<element>;
  using truth = vector_mask<element>;

  ATTEND_INLINE integers(batch const& lanes) : lanes_(lanes) {}
  /// The same integer in every lane.
  template <std::integral I>
  ATTEND_INLINE integers(I value) : lanes_(static_cast<element>(value)) {}

  ATTEND_INLINE batch const& lanes() const { return lanes_; }

  ATTEND_INLINE friend integers operator+(integers const& a, integers const& b) { return a.lanes_ + b.lanes_; }
  ATTEND_INLINE friend integers operator-(integers const& a, integers const& b) { return a.lanes_ - b.lanes_; }
  ATTEND_INLINE friend integers operator*(integers const& a, integers const& b) { return a.lanes_ * b.lanes_; }
  ATTEND_INLINE friend integers operator-(integers const& a) { return batch(element(0)) - a.lanes_; }
  friend integers operator/(integers const& a, integers const& b) { return divide(a.lanes_, b.lanes_); }
  friend integers operator%(integers const& a, integers const& b) { return a - a / b * b; }

  ATTEND_INLINE friend integers operator&(integers const& a, integers const& b) { return a.lanes_ & b.lanes_; }
  ATTEND_INLINE friend integers operator|(integers const& a, integers const& b) { return a.lanes_ | b.lanes_; }
  ATTEND_INLINE friend integers operator^(integers const& a, integers const& b) { return a.lanes_ ^ b.lanes_; }
  ATTEND_INLINE friend integers operator<<(integers const& a, int by) { return a.lanes_ << by; }
  ATTEND_INLINE friend integers operator>>(integers const& a, int by) { return a.lanes_ >> by; }

  ATTEND_INLINE friend truth operator==(integers const& a, integers const& b) { return a.lanes_ == b.lanes_; }
  ATTEND_INLINE friend truth operator!=(integers const& a, integers const& b) { return !(a.lanes_ == b.lanes_); }
  ATTEND_INLINE friend truth operator<(integers const& a, integers const& b) { return a.lanes_ < b.lanes_; }
  ATTEND_INLINE friend truth operator<=(integers const& a, integers const& b) { return !(b.lanes_ < a.lanes_); }
  ATTEND_INLINE friend truth operator>(integers const& a, integers const& b) { return b.lanes_ < a.lanes_; }
  ATTEND_INLINE friend truth operator>=(integers const& a, integers const& b) { return !(a.lanes_ < b.lanes_); }

  ATTEND_INLINE friend integers abs(integers const& a) { return max(a, -a); }
  ATTEND_INLINE friend integers min(integers const& a, integers const& b) { return xsimd::select(a < b, a.lanes_, b.lanes_); }
  ATTEND_INLINE friend integers max(integers const& a, integers const& b) { return xsimd::select(a < b, b.lanes_, a.lanes_); }

 private:
  static batch divide(batch const& a, batch const& b) {
    constexpr int count = static_cast<int>(batch::size);
    alignas(64) element dividend[count], divisor[count];
    a.store_aligned(dividend);
    b.store_aligned(divisor);
    // Plain loops over fixed counts: compilers turn conversion and division of doubles into vector instructions. A
    // division by zero, which an int would not survive, gives zero.
    for (int lane = 0; lane < count; ++lane) {
      double const quotient = static_cast<double>(dividend[lane]) / static_cast<double>(divisor[lane]);
      dividend[lane] = divisor[lane] == 0 ? 0 : static_cast<element>(quotient);
    }
    return batch::load_aligned(dividend);
  }

  batch lanes_;
};

}  // namespace attend::simd
