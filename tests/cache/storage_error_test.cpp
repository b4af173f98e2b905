// SPDX-License-Identifier: BSD-3-Clause
// What it costs to keep keys and values in fewer bits, held to a bound from the steps of each element type.
//
// A stored key is off by at most e_jc, a stored value by at most f_jc: half a step of its row (times its channel's
// scale), or half an ulp. So no logit of query i is off by more than d = scale * max_j sum_c |q_ic| e_jc; no weight by
// a factor of more than exp(2d), as numerator and denominator may move apart; and
//
//   |o'_i - o_i| <= max_j f_jc + (exp(2d) - 1) * max_j |v_jc|
//
// beside the rounding of the kernel. The bound is for the worst case, in which all errors of a row have the same sign.
#include <cmath>

#include "support/cached_tokens.hpp"

namespace attend {
using namespace caches;
using namespace extend;

namespace {

using test::sizes;

/// Half a step of a row of stored elements, relative to its largest magnitude, and of a number, relative to itself;
/// with the roundings of scale and quotient.
template <class S>
double half_step() {
  if constexpr (is_scaled<S>)
    return 0.5 / detail::max_steps<S> + 3 * 0x1p-24;
  else
    return std::same_as<S, float> ? 0 : test::unit_roundoff<S>();
}

/// The most by which the elements of a row may be off.
template <class S>
std::vector<double> errors_of_row(float const* row, index_t count, float const* channel_scale) {
  double largest = 0;
  for (index_t c = 0; c < count; ++c)
    largest = std::max(largest, std::abs(static_cast<double>(row[c])) / (channel_scale ? channel_scale[c] : 1.0));
  std::vector<double> errors;
  for (index_t c = 0; c < count; ++c)
    errors.push_back(half_step<S>() *
                     (is_scaled<S> ? largest * (channel_scale ? channel_scale[c] : 1.0) : std::abs(double{row[c]})));
  return errors;
}

struct error {
  double largest = 0, root_mean_square = 0;
};

/// Keeps each output within its bound, and gives the error relative to the outputs' root mean square.
template <class S>
error expect_bounded(test::inputs<float> const& in, tensor_view<float const, 2> channel_scales = {}) {
  sizes const& s = in.size;
  contiguous_cache<S> cache({s.batches, s.key_heads, s.key_dimension, s.value_dimension}, s.keys, channel_scales);
  cache.append(in.key.view(), in.value.view());
  auto got = test::filled<float, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, 7);
  softmax_attention(in.query.view(), cache, got.view());
  auto const exact = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view());
  double const rounding = test::tolerance<float>(test::largest_magnitude(in.value.elements));

  error seen;
  double squares = 0, all = 0;
  std::size_t at = 0;
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t h = 0; h < s.query_heads; ++h) {
      index_t const shared = h / (s.query_heads / s.key_heads);
      auto const of_channels = channel_scales.data() ? &channel_scales(shared, 0) : nullptr;
      std::vector<double> value_error(static_cast<std::size_t>(s.value_dimension)), largest_value(value_error);
      for (index_t j = 0; j < s.keys; ++j) {
        float const* const value = &in.value.view()(b, shared, j, 0);
        auto const errors = errors_of_row<S>(value, s.value_dimension, nullptr);
        for (std::size_t c = 0; c < errors.size(); ++c) {
          value_error[c] = std::max(value_error[c], errors[c]);
          largest_value[c] = std::max(largest_value[c], std::abs(static_cast<double>(value[c])));
        }
      }
      for (index_t i = 0; i < s.queries; ++i) {
        double logit_error = 0;
        for (index_t j = 0; j < s.keys; ++j) {
          auto const errors = errors_of_row<S>(&in.key.view()(b, shared, j, 0), s.key_dimension, of_channels);
          double sum = 0;
          for (std::size_t c = 0; c < errors.size(); ++c)
            sum += std::abs(static_cast<double>(in.query.view()(b, h, i, static_cast<index_t>(c)))) * errors[c];
          logit_error = std::max(logit_error, sum / std::sqrt(static_cast<double>(s.key_dimension)));
        }
        for (std::size_t c = 0; c < value_error.size(); ++c, ++at) {
          double const off = static_cast<double>(got.elements[at]) - exact.output[at];
          double const allowed = value_error[c] + std::expm1(2 * logit_error) * largest_value[c] + rounding;
          EXPECT_LE(std::abs(off), allowed) << "at " << at;
          seen.largest = std::max(seen.largest, std::abs(off));
          squares += off * off;
          all += exact.output[at] * exact.output[at];
        }
      }
    }
  seen.root_mean_square = std::sqrt(squares / all);
  return seen;
}

sizes const shape{.batches = 1,
                  .query_heads = 4,
                  .key_heads = 2,
                  .value_heads = 2,
                  .queries = 8,
                  .keys = 256,
                  .key_dimension = 128,
                  .value_dimension = 128};

TEST(StorageError, StaysWithinHalfStepsForEveryElementType) {
  auto const in = test::random_inputs<float>(shape, 1);
  error const none = expect_bounded<float>(in), of_half = expect_bounded<half>(in),
              of_bfloat16 = expect_bounded<bfloat16>(in), of_int8 = expect_bounded<std::int8_t>(in),
              of_int4 = expect_bounded<int4_pair>(in);
  RecordProperty("float", std::to_string(none.root_mean_square));
  RecordProperty("half", std::to_string(of_half.root_mean_square));
  RecordProperty("bfloat16", std::to_string(of_bfloat16.root_mean_square));
  RecordProperty("int8", std::to_string(of_int8.root_mean_square));
  RecordProperty("int4", std::to_string(of_int4.root_mean_square));
  // Each type is what its bits say: none of them stands in for another.
  EXPECT_LT(none.root_mean_square, of_half.root_mean_square);
  EXPECT_LT(of_half.root_mean_square, of_bfloat16.root_mean_square);
  EXPECT_LT(of_bfloat16.root_mean_square, of_int8.root_mean_square);
  EXPECT_LT(of_int8.root_mean_square, of_int4.root_mean_square);
}

// Keys of language models have a few channels far larger than the others, in all tokens.
TEST(StorageError, OfKeysWithLargeChannelsShrinksWithChannelScales) {
  auto in = test::random_inputs<float>(shape, 2);
  auto scales = test::filled<float, 2>({2, 128}, 1);
  for (index_t head = 0; head < 2; ++head)
    for (index_t c : {3, 60}) {
      scales.view()(head, c) = 16;
      for (index_t j = 0; j < shape.keys; ++j) in.key.view()(0, head, j, c) *= 16;
      // Queries are as much smaller there, so that these channels do not decide alone.
      for (index_t h = 2 * head; h < 2 * head + 2; ++h)
        for (index_t i = 0; i < shape.queries; ++i) in.query.view()(0, h, i, c) /= 16;
    }
  tensor_view<float const, 2> const channels = scales.view();
  error const without = expect_bounded<int4_pair>(in), with = expect_bounded<int4_pair>(in, channels);
  RecordProperty("int4", std::to_string(without.root_mean_square));
  RecordProperty("int4_with_channel_scales", std::to_string(with.root_mean_square));
  EXPECT_LT(with.root_mean_square, without.root_mean_square / 2);
  EXPECT_LT(expect_bounded<std::int8_t>(in, channels).root_mean_square,
            expect_bounded<std::int8_t>(in).root_mean_square);
}

}  // namespace
}  // namespace attend
