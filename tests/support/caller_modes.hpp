// SPDX-License-Identifier: BSD-3-Clause
// Calls in all the floating-point modes that a caller may be in: the bits of the result must be the same, and the mode
// and its exception flags afterwards what they were before.
#pragma once

#include <gtest/gtest.h>

#include <attend/core/arithmetic_mode.hpp>
#include <attend/core/executor.hpp>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

// Eigen's thread pool, without the tensors.
#define EIGEN_USE_THREADS
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "random_tensor.hpp"

namespace attend::test {
using namespace extend;

using mode_bits = attend::detail::floating_point::state;

struct caller_mode {
  char const* name;
  mode_bits bits;
};

/// The first is what threads begin with. The last one traps whatever is not exact: a call that computes outside of its
/// own mode ends the program there.
inline std::vector<caller_mode> caller_modes() {
#if defined(__SSE__)
  mode_bits const usual = 0x1f80, flush = 0x8040, down = 0x2000, up = 0x4000, to_zero = 0x6000;
  return {{"usual", usual},
          {"flushing", usual | flush},
          {"flushing results", usual | 0x8000},
          {"upward", usual | up},
          {"downward, flushing", usual | down | flush},
          {"to zero, with flags", usual | to_zero | 0x3f},
          {"trapping", 0}};
#elif defined(__aarch64__)
  mode_bits const flush = 1u << 24, up = 1u << 22, down = 2u << 22, to_zero = 3u << 22;
  return {{"usual", 0},
          {"flushing", flush},
          {"upward", up},
          {"downward, flushing", down | flush},
          {"to zero, with flags", to_zero | mode_bits{0x1f} << 32}};
#else
  return {{"usual", 0}};
#endif
}

/// While one lives, the thread is in this mode.
class in_mode {
 public:
  explicit in_mode(mode_bits bits) : before_(attend::detail::floating_point::read()) {
    attend::detail::floating_point::write(bits);
  }
  ~in_mode() { attend::detail::floating_point::write(before_); }
  in_mode(in_mode const&) = delete;
  in_mode& operator=(in_mode const&) = delete;

 private:
  mode_bits before_;
};

/// What a call gives, as bytes.
class bytes {
 public:
  template <class T>
  void add(T const* data, std::size_t count) {
    std::size_t const size = all_.size();
    all_.resize(size + count * sizeof(T));
    if (count > 0) std::memcpy(all_.data() + size, static_cast<void const*>(data), count * sizeof(T));
  }
  template <class T, int Rank>
  bytes& operator<<(tensor<T, Rank> const& t) {
    add(t.elements.data(), t.elements.size());
    return *this;
  }
  template <class T>
  bytes& operator<<(std::vector<T> const& numbers) {
    add(numbers.data(), numbers.size());
    return *this;
  }
  friend bool operator==(bytes const&, bytes const&) = default;

 private:
  std::vector<unsigned char> all_;
};

/// The same bytes from call() in all modes. Nothing in it but calls of attend may compute.
template <class Call>
void expect_one_result(Call const& call) {
  bytes expected;
  for (caller_mode const& mode : caller_modes()) {
    bytes got;
    mode_bits after = 0;
    {
      in_mode const there(mode.bits);
      got = call();
      after = attend::detail::floating_point::read();
    }
    EXPECT_EQ(after, mode.bits) << "the mode afterwards, of: " << mode.name;
    if (mode.bits == caller_modes().front().bits) expected = got;
    EXPECT_TRUE(got == expected) << "other bits in mode: " << mode.name;
  }
}

/// The same bytes from call(executor) in all modes, on every executor.
template <class Call>
void expect_one_result_everywhere(Call const& call) {
  serial alone;
  threads three{3};
  Eigen::ThreadPool pool(3);
  bytes const expected = call(alone);
  expect_one_result([&] { return call(alone); });
  expect_one_result([&] { return call(three); });
  expect_one_result([&] { return call(pool); });
  EXPECT_TRUE(call(three) == expected) << "threads";
  EXPECT_TRUE(call(pool) == expected) << "an Eigen pool";
}

/// Numbers of all sizes: rows of a tensor by turns normal, large enough to make logits peaked, tiny, and subnormal.
template <class T, int Rank>
tensor<T, Rank> of_all_sizes(std::array<index_t, Rank> const& extents, unsigned seed) {
  using A = accumulation_t<T>;
  tensor<T, Rank> result = normal<T, Rank>(extents, seed);
  A const smallest = std::same_as<T, half> ? A(0x1p-14) : std::numeric_limits<A>::min();
  A const peaked = std::same_as<T, double> ? A(200) : A(30);
  A const sizes[] = {A(1), peaked, std::sqrt(smallest), smallest / 64, A(1e-3)};
  std::size_t const width = static_cast<std::size_t>(extents[Rank - 1]);
  for (std::size_t i = 0; i < result.elements.size(); ++i)
    result.elements[i] = static_cast<T>(static_cast<A>(result.elements[i]) * sizes[i / width % std::size(sizes)]);
  return result;
}

}  // namespace attend::test
