// SPDX-License-Identifier: BSD-3-Clause
// decode_attention over stores: of elements with scales, of sequences with different lengths, in scattered runs, with
// dropped rows; against the definition over the numbers that they stand for.
#include <attend/attention/cached/decode_attention.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/policy/precision.hpp>
#include <attend/policy/score/alibi.hpp>

#include "support/expect_error.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace caches;
using namespace extend;

namespace {

/// Random stored numbers, and what they stand for.
template <class T>
struct stored_tensor {
  test::tensor<T, 4> stored;
  test::tensor<float, 3> scale;
  test::tensor<float, 4> meant;
};

template <class T>
stored_tensor<T> random_stored(std::array<index_t, 4> const& extents, unsigned seed,
                               test::tensor<float, 2> const* channels = nullptr) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<float> scales(0.5f, 1.5f);
  auto const [sequences, heads, tokens, dimension] = extents;
  stored_tensor<T> result{
      {{sequences, heads, tokens, dimension / elements_in<T>}, {}}, {{sequences, heads, tokens}, {}}, {extents, {}}};
  for (index_t s = 0; s < sequences; ++s)
    for (index_t head = 0; head < heads; ++head)
      for (index_t token = 0; token < tokens; ++token) {
        float const scale = is_scaled<T> ? scales(engine) / (std::same_as<T, int4_pair> ? 4.f : 64.f) : 1.f;
        result.scale.elements.push_back(scale);
        for (index_t c = 0; c < dimension; c += elements_in<T>) {
          auto const mean = [&](int number, index_t column) {
            float const channel = channels ? channels->view()(head, column) : 1.f;
            result.meant.elements.push_back(scale * channel * static_cast<float>(number));
          };
          if constexpr (std::same_as<T, int4_pair>) {
            std::uniform_int_distribution<int> numbers(-7, 7);
            int const low = numbers(engine), high = numbers(engine);
            result.stored.elements.push_back({static_cast<std::uint8_t>((low + 8) | (high + 8) << 4)});
            mean(low, c);
            mean(high, c + 1);
          } else if constexpr (std::same_as<T, std::int8_t>) {
            int const number = std::uniform_int_distribution<int>(-127, 127)(engine);
            result.stored.elements.push_back(static_cast<T>(number));
            mean(number, c);
          } else {
            T const number(std::normal_distribution<float>()(engine));
            result.stored.elements.push_back(number);
            result.meant.elements.push_back(static_cast<float>(number));
          }
        }
      }
  return result;
}

template <class Key, class Value>
void expect_stored(index_t query_heads, index_t heads, index_t queries, index_t keys, index_t key_dimension,
                   index_t value_dimension, bool with_channels, unsigned seed) {
  SCOPED_TRACE(testing::Message() << query_heads << ' ' << heads << ' ' << queries << ' ' << keys << ' '
                                  << key_dimension << ' ' << value_dimension);
  auto channels = test::normal<float, 2>({heads, key_dimension}, seed + 9);
  auto const key = random_stored<Key>({2, heads, keys, key_dimension}, seed, with_channels ? &channels : nullptr);
  auto const value = random_stored<Value>({2, heads, keys, value_dimension}, seed + 1);
  std::vector<std::int32_t> const lengths{static_cast<std::int32_t>(keys), static_cast<std::int32_t>(keys / 2)};
  key_value_tensors<Key, Value> source(key.stored.view(), value.stored.view(), lengths);
  auto const scales_of = []<class T>(stored_tensor<T> const& all) {
    return is_scaled<T> ? all.scale.view() : tensor_view<float const, 3>();
  };
  source = source.with_scales(scales_of(key), scales_of(value));
  if (with_channels) source = source.with_channel_scales(channels.view());

  test::inputs<float> in = test::random_inputs<float>(
      {2, query_heads, heads, heads, queries, keys, key_dimension, value_dimension}, seed + 2);
  in.key = key.meant;
  in.value = value.meant;
  test::outputs<float> out{test::filled<float, 4>({2, query_heads, queries, value_dimension}, 7),
                           test::filled<float, 3>({2, query_heads, queries}, 7),
                           {}};
  decode_attention(in.query.view(), source, out.output.view(), log_sum_exp(out.log_sum_exp.view()), causal{});
  reference::options with;
  with.visible = reference::causal_bottom_right();
  with.key_length = [&](index_t batch) { return lengths[static_cast<std::size_t>(batch)]; };
  EXPECT_TRUE(test::agrees(in, out, with));
}

template <class Key, class Value>
void expect_stored_shapes() {
  unsigned seed = 1;
  for (bool channels : {false, is_scaled<Key>})
    for (index_t query_heads : {1, 2, 4, 5, 32}) {
      expect_stored<Key, Value>(query_heads, 1, 1, 150, 128, 128, channels, seed += 3);
      expect_stored<Key, Value>(query_heads, 1, 3, 77, 64, 40, channels, seed += 3);
      expect_stored<Key, Value>(2 * query_heads, 2, 2, 65, 34, 256, channels, seed += 3);
    }
}

TEST(DecodeStores, OfBytes) { expect_stored_shapes<std::int8_t, std::int8_t>(); }
TEST(DecodeStores, OfFourBits) { expect_stored_shapes<int4_pair, int4_pair>(); }
TEST(DecodeStores, OfDifferentElements) { expect_stored_shapes<std::int8_t, bfloat16>(); }

/// Queries of 16 bits become integers of 16 bits where the machine multiplies these with stored ones. Then a logit is
/// off by at most half a step of the query for each unit of its key, and a weight by half a step of the largest of 64.
template <class T, class Key, class Value>
void expect_stored_for(index_t query_heads, index_t keys, index_t key_dimension, index_t value_dimension,
                       unsigned seed) {
  SCOPED_TRACE(testing::Message() << query_heads << ' ' << keys << ' ' << key_dimension << ' ' << value_dimension);
  index_t const heads = 2, queries = 2;
  auto const channels = test::normal<float, 2>({heads, key_dimension}, seed + 9);
  auto const key = random_stored<Key>({1, heads, keys, key_dimension}, seed, &channels);
  auto const value = random_stored<Value>({1, heads, keys, value_dimension}, seed + 1);
  std::vector<std::int32_t> const lengths{static_cast<std::int32_t>(keys)};
  key_value_tensors<Key, Value> source(key.stored.view(), value.stored.view(), lengths);
  source = source.with_scales(key.scale.view(), value.scale.view()).with_channel_scales(channels.view());

  auto const query = test::normal<T, 4>({1, heads * query_heads, queries, key_dimension}, seed + 2);
  test::inputs<float> in = test::random_inputs<float>(
      {1, heads * query_heads, heads, heads, queries, keys, key_dimension, value_dimension}, seed + 2);
  for (std::size_t i = 0; i < query.elements.size(); ++i) in.query.elements[i] = static_cast<float>(query.elements[i]);
  in.key = key.meant;
  in.value = value.meant;
  reference::options with;
  with.visible = reference::causal_bottom_right();
  auto const expected = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);

  double largest_key_sum = 0, largest_channel = 0;
  for (index_t row = 0; row < heads * keys; ++row) {
    double sum = 0;
    for (index_t c = 0; c < key_dimension; ++c) {
      double const channel = channels.view()(row / keys, c);
      sum += std::abs(in.key.elements[static_cast<std::size_t>(row * key_dimension + c)] / channel);
      largest_channel = std::max(largest_channel, std::abs(channel));
    }
    largest_key_sum = std::max(largest_key_sum, sum);
  }
  double const steps = 2 * 32767, largest_value = test::largest_magnitude(in.value.elements),
               largest_logit = test::largest_magnitude(expected.log_sum_exp);
  double const of_logit = largest_key_sum * largest_channel * test::largest_magnitude(in.query.elements) /
                          std::sqrt(static_cast<double>(key_dimension)) / steps;
  double const of_output = (std::expm1(2 * of_logit) + 64 / steps) * largest_value;
  for (bool const full : {false, true}) {
    auto output = test::filled<T, 4>({1, heads * query_heads, queries, value_dimension}, T(7));
    auto rows = test::filled<float, 3>({1, heads * query_heads, queries}, 7);
    if (full)
      decode_attention(query.view(), source, output.view(), log_sum_exp(rows.view()), causal{}, full_precision{});
    else
      decode_attention(query.view(), source, output.view(), log_sum_exp(rows.view()), causal{});
    EXPECT_TRUE(test::near(output.elements, expected.output,
                           test::tolerance<T>(std::max(1.0, largest_logit) * largest_value) + (full ? 0 : of_output)))
        << full;
    EXPECT_TRUE(test::near(rows.elements, expected.log_sum_exp,
                           test::tolerance<float>(std::max(1.0, largest_logit)) + (full ? 0 : of_logit)))
        << full;
  }
}

template <class T, class Stored>
void expect_stored_shapes_for() {
  unsigned seed = 1;
  for (index_t query_heads : {1, 2, 4, 5, 8}) {
    expect_stored_for<T, Stored, Stored>(query_heads, 150, 128, 128, seed += 3);
    expect_stored_for<T, Stored, Stored>(query_heads, 65, 34, 200, seed += 3);
    expect_stored_for<T, Stored, Stored>(query_heads, 64, 576, 48, seed += 3);
  }
}

TEST(DecodeStores, OfBytesForHalves) { expect_stored_shapes_for<half, std::int8_t>(); }
TEST(DecodeStores, OfFourBitsForHalves) { expect_stored_shapes_for<half, int4_pair>(); }
TEST(DecodeStores, OfBytesForBfloat16) { expect_stored_shapes_for<bfloat16, std::int8_t>(); }
TEST(DecodeStores, OfDifferentIntegers) { expect_stored_for<half, int4_pair, std::int8_t>(4, 100, 64, 96, 5); }

// A row with a NaN is read back as NaN by the queries that see it, and a query with an infinity has no output.
TEST(DecodeStores, KeepWhatIsNotFinite) {
  contiguous_cache<std::int8_t> cache({1, 1, 64, 64}, 80);
  auto const key = test::normal<half, 4>({1, 1, 80, 64}, 1);
  auto value = test::normal<half, 4>({1, 1, 80, 64}, 2);
  value.view()(0, 0, 79, 5) = half(std::numeric_limits<float>::quiet_NaN());
  cache.append(key.view(), value.view());
  auto query = test::normal<half, 4>({1, 2, 2, 64}, 3);
  query.view()(0, 1, 0, 9) = half(infinity<float>);
  auto output = test::filled<half, 4>({1, 2, 2, 64}, half(7));
  decode_attention(query.view(), cache, output.view(), causal{});
  for (index_t c = 0; c < 64; ++c) {
    EXPECT_TRUE(std::isfinite(static_cast<float>(output.view()(0, 0, 0, c)))) << c;
    EXPECT_TRUE(std::isnan(static_cast<float>(output.view()(0, 0, 1, c)))) << c;
    EXPECT_TRUE(std::isnan(static_cast<float>(output.view()(0, 1, 0, c)))) << c;
  }
}

/// Rows in random places, in runs of random lengths; some positions were dropped.
class scattered_rows {
 public:
  using key_element = float;
  using value_element = float;

  scattered_rows(index_t size, index_t dimension, unsigned seed) : size_(size), dimension_(dimension) {
    std::mt19937 engine(seed);
    std::uniform_int_distribution<index_t> lengths(1, 40);
    for (index_t position = 0; position < size;) {
      index_t const count = std::min(lengths(engine), size - position);
      // Every fourth run is dropped.
      if (engine() % 4 != 0) {
        index_t const stride = dimension + static_cast<index_t>(engine() % 3);
        runs_.push_back({test::normal<float, 2>({count, stride}, static_cast<unsigned>(engine())),
                         test::normal<float, 2>({count, stride}, static_cast<unsigned>(engine())), stored_, count,
                         position});
        stored_ += count;
      }
      position += count;
    }
  }

  index_t sequences() const { return 1; }
  index_t key_value_heads() const { return 1; }
  index_t key_dimension() const { return dimension_; }
  index_t value_dimension() const { return dimension_; }
  index_t size(index_t) const { return size_; }
  index_t stored(index_t, index_t) const { return stored_; }
  key_value_rows<float> rows(index_t, index_t, index_t first) const {
    run const* const of =
        &*std::find_if(runs_.begin(), runs_.end(), [&](run const& r) { return first < r.first + r.count; });
    index_t const i = first - of->first, stride = of->key.extents[1];
    key_value_rows<float> result;
    result.key = of->key.elements.data() + i * stride;
    result.value = of->value.elements.data() + i * stride;
    result.key_stride = result.value_stride = stride;
    result.count = of->count - i;
    result.position = of->position + i;
    return result;
  }

 private:
  struct run {
    test::tensor<float, 2> key, value;
    index_t first, count, position;
  };
  index_t size_, dimension_, stored_ = 0;
  std::vector<run> runs_;
};

TEST(DecodeStores, InScatteredRunsWithDroppedRows) {
  for (unsigned seed : {1, 2, 3}) {
    index_t const size = 700, dimension = 48, heads = 3, queries = 2;
    scattered_rows const source(size, dimension, seed);
    test::inputs<float> in = test::random_inputs<float>({1, heads, 1, 1, queries, size, dimension, dimension}, seed);
    std::vector<bool> kept(size);
    for (index_t i = 0; i < source.stored(0, 0); ++i) {
      auto const row = source.rows(0, 0, i);
      kept[static_cast<std::size_t>(row.position)] = true;
      std::copy_n(row.key, dimension, in.key.elements.data() + row.position * dimension);
      std::copy_n(row.value, dimension, in.value.elements.data() + row.position * dimension);
    }
    std::vector<float> const slopes{0.1f, 0.01f, 0.2f};
    test::outputs<float> out{
        test::filled<float, 4>({1, heads, queries, dimension}, 7), test::filled<float, 3>({1, heads, queries}, 7), {}};
    decode_attention(in.query.view(), source, out.output.view(), log_sum_exp(out.log_sum_exp.view()),
                     causal{} & window{333, 0}, alibi(slopes));
    reference::options with;
    with.visible = [&](reference::place const& at) {
      return kept[static_cast<std::size_t>(at.key)] && at.key <= at.position() && at.key >= at.position() - 333;
    };
    with.scores = {[&](double s, reference::place const& at) {
      return s - static_cast<double>(slopes[static_cast<std::size_t>(at.head)]) *
                     static_cast<double>(std::abs(at.position() - at.key));
    }};
    EXPECT_TRUE(test::agrees(in, out, with)) << seed;
  }
}

TEST(DecodeStores, ThatAreEmptyGiveNothing) {
  contiguous_cache<float> const cache({2, 1, 8, 8}, 4);
  auto const query = test::normal<float, 4>({2, 2, 1, 8}, 1);
  auto output = test::filled<float, 4>({2, 2, 1, 8}, 7);
  auto rows = test::filled<float, 3>({2, 2, 1}, 7);
  decode_attention(query.view(), cache, output.view(), log_sum_exp(rows.view()));
  EXPECT_EQ(output.elements, std::vector<float>(32, 0));
  EXPECT_EQ(rows.elements, std::vector<float>(4, -infinity<float>));
}

TEST(DecodeStores, SayWhatIsWrong) {
  contiguous_cache<float> const cache({2, 3, 8, 6}, 4);
  auto output = test::filled<float, 4>({2, 6, 1, 6}, 7);
  auto const expect_error = [&](std::string const& message, std::array<index_t, 4> const& query_extents,
                                tensor_view<float, 4> to) {
    auto const query = test::normal<float, 4>(query_extents, 1);
    test::expect_error(message, [&] { decode_attention(query.view(), cache, to); });
    EXPECT_EQ(output.elements, std::vector<float>(72, 7));
  };
  expect_error("query: expected sequences 2 (as the cache), got 1", {1, 6, 1, 8}, output.view());
  expect_error("query: expected head dimension 8 (as the cache), got 7", {2, 6, 1, 7}, output.view());
  expect_error("query: expected a multiple of 3 heads (the cache), got 4", {2, 4, 1, 8}, output.view());
  expect_error("output: expected tokens 2 (as query), got 1", {2, 6, 2, 8}, output.view());
  auto narrow = test::filled<float, 4>({2, 6, 1, 5}, 7);
  expect_error("output: expected head dimension 6 (as the cache), got 5", {2, 6, 1, 8}, narrow.view());
}

// Tensors of somebody else may lack scales, or be the output too.
TEST(DecodeStores, RefuseTensorsThatCannotBeRead) {
  auto const bytes = test::filled<std::int8_t, 4>({1, 1, 5, 8}, 1);
  auto numbers = test::filled<float, 4>({1, 1, 5, 8}, 1);
  auto const scale = test::filled<float, 3>({1, 1, 5}, 1);
  auto const query = test::normal<float, 4>({1, 1, 1, 8}, 1);
  auto output = test::filled<float, 4>({1, 1, 1, 8}, 7);
  key_value_tensors<std::int8_t, float> const half_scaled(bytes.view(), std::as_const(numbers).view());
  test::expect_error("key_scale: expected scales of quantized keys, got none",
                     [&] { decode_attention(query.view(), half_scaled, output.view()); });
  EXPECT_EQ(output.elements, std::vector<float>(8, 7));
  decode_attention(query.view(), half_scaled.with_scales(scale.view(), {}), output.view());
  // Five equal keys have equal weights, whatever these are: two sums of five numbers are rounded, and their quotient.
  for (float x : output.elements) EXPECT_NEAR(x, 1, (5 + 5 + 2) * test::unit_roundoff<float>());
  test::expect_error("output: expected memory of its own, got memory that overlaps the cache's values", [&] {
    decode_attention(query.view(), half_scaled.with_scales(scale.view(), {}),
                     tensor_view<float, 4>(numbers.elements.data() + 8, {1, 1, 1, 8}));
  });
  EXPECT_EQ(numbers.elements, std::vector<float>(40, 1));
}

}  // namespace
}  // namespace attend
