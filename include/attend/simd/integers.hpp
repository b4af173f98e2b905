// SPDX-License-Identifier: BSD-3-Clause
// Positions in lanes: integers with all of the arithmetic that a mask may want, division and remainder included, which
// vector units do not have.
//
// The quotient is formed in doubles and truncated: two 32-bit integers whose quotient is not whole are far enough from
// the next whole number for that to be exact. Positions are below 2^31, also where they are kept in 64 bits.
#pragma once

#include "vector.hpp"

namespace attend::inline ATTEND_TARGET::simd {

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
  ATTEND_INLINE friend integers operator*(integers const& a, integers const& b) { return multiply(a.lanes_, b.lanes_); }
  ATTEND_INLINE friend integers operator-(integers const& a) { return batch(element(0)) - a.lanes_; }
  friend integers operator/(integers const& a, integers const& b) { return divide(a.lanes_, b.lanes_); }
  friend integers operator%(integers const& a, integers const& b) { return a - a / b * b; }

  ATTEND_INLINE friend integers operator&(integers const& a, integers const& b) { return a.lanes_ & b.lanes_; }
  ATTEND_INLINE friend integers operator|(integers const& a, integers const& b) { return a.lanes_ | b.lanes_; }
  ATTEND_INLINE friend integers operator^(integers const& a, integers const& b) { return a.lanes_ ^ b.lanes_; }
  template <std::integral I>
  ATTEND_INLINE friend integers operator<<(integers const& a, I by) {
    return a.lanes_ << static_cast<int>(by);
  }
  template <std::integral I>
  ATTEND_INLINE friend integers operator>>(integers const& a, I by) {
    return a.lanes_ >> static_cast<int>(by);
  }

  ATTEND_INLINE friend truth operator==(integers const& a, integers const& b) { return a.lanes_ == b.lanes_; }
  ATTEND_INLINE friend truth operator!=(integers const& a, integers const& b) { return !(a.lanes_ == b.lanes_); }
  ATTEND_INLINE friend truth operator<(integers const& a, integers const& b) { return a.lanes_ < b.lanes_; }
  ATTEND_INLINE friend truth operator<=(integers const& a, integers const& b) { return !(b.lanes_ < a.lanes_); }
  ATTEND_INLINE friend truth operator>(integers const& a, integers const& b) { return b.lanes_ < a.lanes_; }
  ATTEND_INLINE friend truth operator>=(integers const& a, integers const& b) { return !(a.lanes_ < b.lanes_); }

  ATTEND_INLINE friend integers abs(integers const& a) { return max(a, -a); }
  ATTEND_INLINE friend integers min(integers const& a, integers const& b) { return choose(a < b, a, b); }
  ATTEND_INLINE friend integers max(integers const& a, integers const& b) { return choose(a < b, b, a); }

  // Operators between lanes and a number are templates, which match exactly: otherwise, with the conversion below,
  // either operand could be converted to the type of the other, and the call would be ambiguous.
  template <std::integral I>
  ATTEND_INLINE friend integers operator+(integers const& a, I b) {
    return a + integers(b);
  }
  template <std::integral I>
  ATTEND_INLINE friend integers operator+(I a, integers const& b) {
    return integers(a) + b;
  }
  template <std::integral I>
  ATTEND_INLINE friend integers operator-(integers const& a, I b) {
    return a - integers(b);
  }
  template <std::integral I>
  ATTEND_INLINE friend integers operator-(I a, integers const& b) {
    return integers(a) - b;
  }
  template <std::integral I>
  ATTEND_INLINE friend integers operator*(integers const& a, I b) {
    return a * integers(b);
  }
  template <std::integral I>
  ATTEND_INLINE friend integers operator*(I a, integers const& b) {
    return integers(a) * b;
  }
  template <std::integral I>
  ATTEND_INLINE friend integers operator/(integers const& a, I b) {
    return a / integers(b);
  }
  template <std::integral I>
  ATTEND_INLINE friend integers operator/(I a, integers const& b) {
    return integers(a) / b;
  }
  template <std::integral I>
  ATTEND_INLINE friend integers operator%(integers const& a, I b) {
    return a % integers(b);
  }
  template <std::integral I>
  ATTEND_INLINE friend integers operator%(I a, integers const& b) {
    return integers(a) % b;
  }
  template <std::integral I>
  ATTEND_INLINE friend integers operator&(integers const& a, I b) {
    return a & integers(b);
  }
  template <std::integral I>
  ATTEND_INLINE friend integers operator&(I a, integers const& b) {
    return integers(a) & b;
  }
  template <std::integral I>
  ATTEND_INLINE friend integers operator|(integers const& a, I b) {
    return a | integers(b);
  }
  template <std::integral I>
  ATTEND_INLINE friend integers operator|(I a, integers const& b) {
    return integers(a) | b;
  }
  template <std::integral I>
  ATTEND_INLINE friend integers operator^(integers const& a, I b) {
    return a ^ integers(b);
  }
  template <std::integral I>
  ATTEND_INLINE friend integers operator^(I a, integers const& b) {
    return integers(a) ^ b;
  }
  template <std::integral I>
  ATTEND_INLINE friend truth operator==(integers const& a, I b) {
    return a == integers(b);
  }
  template <std::integral I>
  ATTEND_INLINE friend truth operator==(I a, integers const& b) {
    return integers(a) == b;
  }
  template <std::integral I>
  ATTEND_INLINE friend truth operator!=(integers const& a, I b) {
    return a != integers(b);
  }
  template <std::integral I>
  ATTEND_INLINE friend truth operator!=(I a, integers const& b) {
    return integers(a) != b;
  }
  template <std::integral I>
  ATTEND_INLINE friend truth operator<(integers const& a, I b) {
    return a < integers(b);
  }
  template <std::integral I>
  ATTEND_INLINE friend truth operator<(I a, integers const& b) {
    return integers(a) < b;
  }
  template <std::integral I>
  ATTEND_INLINE friend truth operator<=(integers const& a, I b) {
    return a <= integers(b);
  }
  template <std::integral I>
  ATTEND_INLINE friend truth operator<=(I a, integers const& b) {
    return integers(a) <= b;
  }
  template <std::integral I>
  ATTEND_INLINE friend truth operator>(integers const& a, I b) {
    return a > integers(b);
  }
  template <std::integral I>
  ATTEND_INLINE friend truth operator>(I a, integers const& b) {
    return integers(a) > b;
  }
  template <std::integral I>
  ATTEND_INLINE friend truth operator>=(integers const& a, I b) {
    return a >= integers(b);
  }
  template <std::integral I>
  ATTEND_INLINE friend truth operator>=(I a, integers const& b) {
    return integers(a) >= b;
  }

  /// Does not compile where it is used, for example to index a list: the message says what to write in a mask instead.
  /// It is a member of a template, so that the assertion is instantiated only by a use.
  operator std::ptrdiff_t() const {
    static_assert(!std::same_as<T, T>,
                  "attend: a mask's positions are vectors, not numbers: for tokens of the same document use "
                  "attend::options::documents{ids}, for table[position] use attend::extend::lookup(table, position), "
                  "and take positions as auto");
    return 0;
  }

  ATTEND_INLINE friend integers select(truth const& condition, integers const& yes, integers const& no) {
    return choose(condition, yes, no);
  }

 private:
  // Chooses between the lanes as lanes of T: xsimd 8's select of integers does not compile for AVX-512 without
  // optimization.
  ATTEND_INLINE static batch choose(truth const& condition, integers const& yes, integers const& no) {
    return reinterpret<element>(
        simd::select(reinterpret_mask<T>(condition), reinterpret<T>(yes.lanes_), reinterpret<T>(no.lanes_)));
  }

  static constexpr int count = static_cast<int>(batch::size);
  using whole [[gnu::vector_size(sizeof(element) * count)]] = element;

  // The compiler's product of vectors: xsimd's product of 64-bit integers takes an instruction that not all processors
  // with AVX-512 have.
  ATTEND_INLINE static batch multiply(batch const& a, batch const& b) {
    return std::bit_cast<batch>(whole(std::bit_cast<whole>(a) * std::bit_cast<whole>(b)));
  }

  static batch divide(batch const& a, batch const& b) {
    using real [[gnu::vector_size(sizeof(double) * count)]] = double;
    real const divisor = __builtin_convertvector(std::bit_cast<whole>(b), real);
    // A division by zero, which would trap for an int, becomes a division by infinity and gives zero.
    real const safe = divisor == 0. ? real{} + infinity<double> : divisor;
    real const quotient = __builtin_convertvector(std::bit_cast<whole>(a), real) / safe;
    return std::bit_cast<batch>(whole(__builtin_convertvector(quotient, whole)));
  }

  batch lanes_;
};

}  // namespace attend::inline ATTEND_TARGET::simd
