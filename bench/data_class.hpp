// SPDX-License-Identifier: BSD-3-Clause
// Kinds of numbers that the same call may meet. Its time should not tell them apart: processors that take long for
// subnormal numbers do so wherever weights, sums or states leave the normal range.
//
//   normal      deviation 1
//   peaked      queries 30 times as large, and so the logits; 200 times in double, whose range is wider
//   small       all numbers so small that their products are below the normal range: 1e-20 in float
//   tiny        all numbers far below one, the products of three of them 0: 1e-30 in float
//   subnormal   keys and values below the normal range
//   zero_tail   keys and values 0 in the last three quarters of the tokens, behind which a state decays
#pragma once

#include <attend/core/tensor_view.hpp>

#include <Eigen/Core>
#include <cmath>
#include <limits>

namespace attend_bench {

enum class data_class { normal, peaked, small, tiny, subnormal, zero_tail };

inline constexpr data_class data_classes[] = {data_class::normal, data_class::peaked,    data_class::small,
                                              data_class::tiny,   data_class::subnormal, data_class::zero_tail};

constexpr char const* name_of(data_class data) {
  switch (data) {
    case data_class::normal:
      return "normal";
    case data_class::peaked:
      return "peaked";
    case data_class::small:
      return "small";
    case data_class::tiny:
      return "tiny";
    case data_class::subnormal:
      return "subnormal";
    default:
      return "zero_tail";
  }
}

template <class T>
void multiply(attend::tensor_view<T, 4> const& all, double factor) {
  attend::index_t count = 1;
  for (attend::index_t extent : all.extents()) count *= extent;
  using A = attend::extend::accumulation_t<T>;
  for (attend::index_t i = 0; i < count; ++i)
    all.data()[i] = static_cast<T>(static_cast<A>(all.data()[i]) * static_cast<A>(factor));
}

template <class T>
void clear_tail(attend::tensor_view<T, 4> const& all) {
  attend::index_t const rows = all.extent(0) * all.extent(1), tokens = all.extent(2), dimension = all.extent(3);
  for (attend::index_t row = 0; row < rows; ++row)
    std::fill(all.data() + (row * tokens + tokens / 4) * dimension, all.data() + (row + 1) * tokens * dimension, T(0));
}

/// What numbers of deviation 1 are multiplied by for the classes that are all of one size.
template <class T>
double size_of(data_class data) {
  // A half's subnormals begin at 6e-5; what is far below them is 0.
  bool const is_half = std::same_as<T, attend::half>;
  double const least = is_half ? 0x1p-14 : double{std::numeric_limits<attend::extend::accumulation_t<T>>::min()};
  switch (data) {
    case data_class::small:
      return std::sqrt(least) / 8;
    case data_class::tiny:
      return std::pow(least, 0.8);
    case data_class::subnormal:
      return least / 64;
    default:
      return 1;
  }
}

/// Makes normal numbers those of a class.
template <class T>
void turn_into(data_class data, attend::tensor_view<T, 4> const& query, attend::tensor_view<T, 4> const& key,
               attend::tensor_view<T, 4> const& value) {
  if (data == data_class::normal) return;
  if (data == data_class::zero_tail) {
    clear_tail(key);
    clear_tail(value);
    return;
  }
  if (data == data_class::peaked) return multiply(query, std::same_as<T, double> ? 200 : 30);
  if (data != data_class::subnormal) multiply(query, size_of<T>(data));
  multiply(key, size_of<T>(data));
  multiply(value, size_of<T>(data));
}

}  // namespace attend_bench
