// SPDX-License-Identifier: BSD-3-Clause
// Keys rotated as they are read, for places that the reader chooses: against rotations in double and softmax of those
// logits, over caches that have dropped tokens, of any elements, by few queries and by many.
#include <attend/attention/cached/cached_attention.hpp>
#include <attend/cache/evicting.hpp>
#include <attend/policy/position/rotary_places.hpp>
#include <attend/reference/rotary_embedding.hpp>

#include "support/cached_tokens.hpp"
#include "support/count_allocations.hpp"
#include "support/expect_error.hpp"

namespace attend {
using namespace caches;
using namespace options;
using namespace extend;

namespace {

using test::sizes;
using row_of_numbers = std::vector<double>;

/// A row turned by the angles of a position: pairs of channels as complex numbers.
row_of_numbers turned(row_of_numbers row, double position, index_t pairs, rotary_layout layout) {
  for (index_t i = 0; i < pairs; ++i) {
    bool const halves = layout == rotary_layout::half_split;
    auto& real = row[static_cast<std::size_t>(halves ? i : 2 * i)];
    auto& imaginary = row[static_cast<std::size_t>(halves ? pairs + i : 2 * i + 1)];
    std::complex<double> const x = std::complex<double>(real, imaginary) *
                                   std::polar(1.0, position * reference::rotary_frequency(i, 2 * pairs, 10000));
    real = x.real(), imaginary = x.imag();
  }
  return row;
}

/// Places of the row of a head that holds a token, and of the query at a position.
using place_rule = std::function<double(index_t sequence, index_t key_head, index_t row, index_t token)>;

/// The definition: each head's rows of a cache, causally, at these places.
template <class T, class Cache>
std::vector<double> expected_output(test::inputs<double> const& stored, Cache const& cache, index_t pairs,
                                    rotary_layout layout, place_rule const& of_key, place_rule const& of_query) {
  sizes const& s = stored.size;
  std::vector<double> output;
  auto const row = [](auto const& tensor, index_t b, index_t h, index_t t) {
    double const* const first = &tensor.view()(b, h, t, 0);
    return row_of_numbers(first, first + tensor.extents[3]);
  };
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t h = 0; h < s.query_heads; ++h)
      for (index_t i = 0; i < s.queries; ++i) {
        index_t const position = s.keys - s.queries + i, key_head = h * s.key_heads / s.query_heads;
        index_t const kept = cache.stored(b, h * cache.key_value_heads() / s.query_heads);
        auto const q =
            turned(row(stored.query, b, h, i), of_query(b, key_head, kept - s.queries + i, i), pairs, layout);
        std::vector<double> weight;
        std::vector<index_t> token;
        for (index_t r = 0; r < kept; ++r) {
          index_t const t = cache.rows(b, h * cache.key_value_heads() / s.query_heads, r).position;
          if (t > position) break;
          auto const k = turned(row(stored.key, b, key_head, t), of_key(b, key_head, r, t), pairs, layout);
          double const dot = std::inner_product(q.begin(), q.end(), k.begin(), 0.0);
          weight.push_back(std::exp(dot / std::sqrt(static_cast<double>(s.key_dimension))));
          token.push_back(t);
        }
        double const total = std::accumulate(weight.begin(), weight.end(), 0.0);
        for (index_t c = 0; c < s.value_dimension; ++c) {
          double sum = 0;
          for (std::size_t r = 0; r < weight.size(); ++r)
            sum += weight[r] * stored.value.view()(b, h * s.value_heads / s.query_heads, token[r], c);
          output.push_back(total > 0 ? sum / total : 0);
        }
      }
  return output;
}

double in_list(index_t, index_t, index_t row, index_t) { return static_cast<double>(row); }

/// Each head keeps the last tokens, which queries are of, and others by chance.
template <class S>
evicting_cache<S> shortened(sizes const& s) {
  return evicting_cache<S>(test::shape_of(s), {.pages = s.batches * s.key_heads * (s.keys / 4 + 1), .page_tokens = 4});
}
template <class S>
void shorten(evicting_cache<S>& cache, sizes const& s, unsigned seed) {
  std::mt19937 engine(seed);
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t h = 0; h < s.key_heads; ++h) {
      std::vector<int> gone;
      for (index_t t = 0; t < s.keys - s.queries; ++t)
        if (engine() % 5 < static_cast<unsigned>(1 + h)) gone.push_back(static_cast<int>(t));
      cache.evict(b, h, gone);
    }
}

template <class T, class S = T>
void expect_places(sizes const& s, index_t pairs, rotary_layout layout, unsigned seed) {
  SCOPED_TRACE(testing::Message() << s.queries << " queries, " << s.keys << " keys, " << pairs << " pairs");
  auto const in = test::random_inputs<T>(s, seed);
  rotary const settings(rotary_frequencies(2 * pairs), layout);
  auto const stored = test::as_stored<S, S>(in);
  double const allowed = test::tolerance<T>(test::largest_magnitude(stored.value.elements));
  auto output = test::filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(7)), threaded = output;

  auto cache = shortened<S>(s);
  cache.append(in.key.view(), in.value.view());
  shorten(cache, s, seed);
  auto const expect = [&](auto const& what, place_rule const& of_key, place_rule const& of_query) {
    softmax_attention(in.query.view(), cache, output.view(), causal{}, what, threads{1});
    EXPECT_TRUE(
        test::near(output.elements, expected_output<T>(stored, cache, pairs, layout, of_key, of_query), allowed));
    softmax_attention(in.query.view(), cache, threaded.view(), causal{}, what, threads{3});
    EXPECT_TRUE(test::same_bits(output.elements, threaded.elements));
  };
  expect(rotary_places(settings, places_in_list{}), in_list, in_list);
  expect(
      settings, [](index_t, index_t, index_t, index_t token) { return static_cast<double>(token); },
      [&](index_t, index_t, index_t, index_t i) { return static_cast<double>(s.keys - s.queries + i); });

  std::mt19937 engine(seed);
  auto of_keys = test::filled<std::int32_t, 3>({s.batches, s.key_heads, s.keys + 3}, 0);
  auto of_queries = test::filled<std::int32_t, 3>({1, s.key_heads, s.queries}, 0);
  for (auto* all : {&of_keys.elements, &of_queries.elements})
    for (auto& x : *all) x = static_cast<std::int32_t>(engine() % 3000) - 1000;
  expect(
      rotary_places(settings, given_places(of_keys.view(), of_queries.view())),
      [&](index_t b, index_t h, index_t row, index_t) { return static_cast<double>(of_keys.view()(b, h, row)); },
      [&](index_t, index_t h, index_t, index_t i) { return static_cast<double>(of_queries.view()(0, h, i)); });
  expect(
      rotary_places(settings, places_by{[](attended_place const& at) { return at.position / 3 + 100 * at.head; },
                                        [](attending_place const& at) { return 2 * at.stored + at.query; }}),
      [](index_t, index_t h, index_t, index_t token) { return static_cast<double>(token / 3 + 100 * h); },
      [&](index_t, index_t, index_t row, index_t i) { return static_cast<double>(2 * (row + s.queries - i) + i); });

  // Rotated as they were appended, and turned further.
  if constexpr (!is_scaled<S> && std::same_as<S, accumulation_t<T>>) {
    cache = shortened<S>(s);
    cache.append(in.key.view(), in.value.view(), settings);
    shorten(cache, s, seed);
    expect(rotary_moves(settings, places_in_list{}), in_list, in_list);
  }
}

TEST(RotaryPlaces, AreThoseOfTheReader) {
  for (index_t queries : {1, 3, 40}) {
    expect_places<float>({2, 4, 2, 2, queries, 150, 20, 13}, 10, rotary_layout::half_split, 1);
    expect_places<float>({1, 6, 2, 2, queries, 90, 40, 16}, 12, rotary_layout::interleaved, 2);
  }
}

TEST(RotaryPlaces, AreThoseOfTheReaderInAnyStore) {
  expect_places<float, std::int8_t>({1, 4, 2, 2, 1, 150, 32, 32}, 16, rotary_layout::half_split, 3);
  expect_places<bfloat16>({2, 4, 2, 2, 2, 150, 32, 16}, 16, rotary_layout::half_split, 4);
}

// 2 key heads and 4 value heads: keys are rotated once for the two heads that share them, for the same places.
TEST(RotaryPlaces, ArePlacesOfKeyHeads) {
  sizes const s{2, 8, 2, 4, 1, 300, 16, 12};
  auto const in = test::random_inputs<float>(s, 6);
  contiguous_cache<float> cache({2, 4, 16, 12, 2, 4}, s.keys);
  cache.append(in.key.view(), in.value.view());
  rotary const settings(rotary_frequencies(16));
  auto const halved = [](auto const& at) { return at.position / 2 + 50 * at.head; };
  auto output = test::filled<float, 4>({2, 8, 1, 12}, 7);
  decode_attention(in.query.view(), cache, output.view(), rotary_places(settings, places_by{halved, halved}));
  test::inputs<double> stored{s, {in.query.extents, {}}, {in.key.extents, {}}, {in.value.extents, {}}};
  stored.query.elements.assign(in.query.elements.begin(), in.query.elements.end());
  stored.key.elements.assign(in.key.elements.begin(), in.key.elements.end());
  stored.value.elements.assign(in.value.elements.begin(), in.value.elements.end());
  auto const place = [](index_t, index_t h, index_t row, index_t) { return static_cast<double>(row / 2 + 50 * h); };
  EXPECT_TRUE(test::near(output.elements,
                         expected_output<float>(stored, cache, 8, rotary_layout::half_split, place, place),
                         test::tolerance<float>(test::largest_magnitude(in.value.elements))));
}

// A cache that drops nothing has its tokens at their places: it is the text's positions, in any pieces.
TEST(RotaryPlaces, InTheListAreThoseOfTheTextWhereNothingIsDropped) {
  sizes const s{2, 4, 2, 2, 70, 70, 20, 13};
  auto const in = test::random_inputs<float>(s, 7);
  rotary const settings(rotary_frequencies(20));
  contiguous_cache<float> text(test::shape_of(s), s.keys), list(test::shape_of(s), s.keys),
      moved(test::shape_of(s), s.keys);
  double const allowed = 2 * test::tolerance<float>(test::largest_magnitude(in.value.elements));
  auto const whole = test::in_pieces(text, in, [&] { return s.keys; }, settings);
  for (index_t piece : {1, 9, 70}) {
    for (index_t b : {0, 1}) list.truncate(b, 0), moved.truncate(b, 0);
    EXPECT_TRUE(test::near(test::in_pieces(
                               list, in, [&] { return piece; }, rotary_places(settings, places_in_list{}))
                               .elements,
                           whole.elements, allowed));
    EXPECT_TRUE(test::near(test::in_pieces(
                               moved, in, [&] { return piece; }, rotary_moves(settings, places_in_list{}))
                               .elements,
                           whole.elements, allowed));
  }
}

TEST(RotaryPlaces, GiveTheSameBitsInAnyBatchAndAllocateNothing) {
  sizes const s{2, 4, 2, 2, 1, 1500, 32, 32};
  auto const in = test::random_inputs<float>(s, 8);
  auto cache = shortened<float>(s);
  cache.append(in.key.view(), in.value.view());
  shorten(cache, s, 8);
  auto alone = shortened<float>({1, 4, 2, 2, 1, 1500, 32, 32});
  tensor_view<float const, 4> const key(&in.key.view()(1, 0, 0, 0), {1, 2, 1500, 32}),
      value(&in.value.view()(1, 0, 0, 0), {1, 2, 1500, 32}), query(&in.query.view()(1, 0, 0, 0), {1, 4, 1, 32});
  alone.append(key, value);
  for (index_t h : {0, 1}) {
    std::vector<int> kept;
    cache.with_tokens(1, h, [&](auto const& tokens) { kept.assign(tokens.position.begin(), tokens.position.end()); });
    alone.keep(0, h, kept);
  }
  rotary const settings(rotary_frequencies(32));
  auto output = test::filled<float, 4>({2, 4, 1, 32}, 7), one = test::filled<float, 4>({1, 4, 1, 32}, 7);
  auto const step = [&] {
    decode_attention(in.query.view(), cache, output.view(), rotary_places(settings, places_in_list{}));
  };
  step();
  decode_attention(query, alone, one.view(), rotary_places(settings, places_in_list{}));
  EXPECT_TRUE(std::equal(one.elements.begin(), one.elements.end(), output.elements.begin() + 4 * 32));
  EXPECT_EQ(test::allocations_of_two(step).second, 0);
}

// Where axes differ, angles are taken as they are, and where they do not, they are products.
TEST(RotaryPlaces, MayHaveAxes) {
  sizes const s{1, 4, 2, 2, 1, 90, 16, 12};
  auto const in = test::random_inputs<float>(s, 11);
  auto places = test::filled<std::int32_t, 3>({2, 1, 90}, 0), last = test::filled<std::int32_t, 3>({2, 1, 1}, 95);
  for (index_t t = 0; t < 90; ++t) places.view()(0, 0, t) = places.view()(1, 0, t) = static_cast<std::int32_t>(t);
  for (index_t t = 3; t < 90; t += 7) places.view()(1, 0, t) += 11;
  rotary const settings(rotary_frequencies(16).sections({5, 3}));
  auto output = test::filled<float, 4>({1, 4, 1, 12}, 7);
  decode_attention(in.query.view(), in.key.view(), in.value.view(), output.view(),
                   settings.at(token_positions(last.view()), token_positions(places.view())));
  auto const turn = [&](auto const& rows, auto const& of) {
    return reference::rotary_embedding<float>(rows.view(), 8, false, [&](index_t, index_t t, index_t i) {
      return std::polar(
          1.0, static_cast<double>(of.view()(i < 5 ? 0 : 1, 0, t)) * reference::rotary_frequency(i, 16, 10000));
    });
  };
  auto const q = turn(in.query, last), k = turn(in.key, places);
  std::vector<double> const v(in.value.elements.begin(), in.value.elements.end());
  auto const expected = reference::softmax_attention<double>({q.data(), {1, 4, 1, 16}}, {k.data(), {1, 2, 90, 16}},
                                                             {v.data(), {1, 2, 90, 12}}, {});
  EXPECT_TRUE(
      test::near(output.elements, expected.output, test::tolerance<float>(test::largest_magnitude(in.value.elements))));
}

TEST(RotaryPlaces, SayWhatIsWrong) {
  sizes const s{1, 4, 2, 2, 1, 30, 20, 13};
  auto const in = test::random_inputs<float>(s, 9);
  contiguous_cache<float> cache(test::shape_of(s), 40);
  cache.append(in.key.view(), in.value.view());
  rotary const settings(rotary_frequencies(20)), wide(rotary_frequencies(22));
  auto output = test::filled<float, 4>({1, 4, 1, 13}, 7);
  auto const call = [&](auto const& what) { decode_attention(in.query.view(), cache, output.view(), what); };
  auto const keys = test::filled<std::int32_t, 3>({1, 2, 30}, 3), few = test::filled<std::int32_t, 3>({1, 2, 29}, 3),
             heads = test::filled<std::int32_t, 3>({1, 3, 30}, 3), two = test::filled<std::int32_t, 3>({1, 1, 2}, 3),
             query = test::filled<std::int32_t, 3>({1, 1, 1}, 3);
  test::expect_error("rotary: expected at most 20 channels (the head dimension), got 22",
                     [&] { call(rotary_places(wide, places_in_list{})); });
  test::expect_error("rotary: expected the positions of the text, got positions of its own",
                     [&] { call(rotary_places(settings.at(token_positions(3)), places_in_list{})); });
  test::expect_error("given_places (keys): expected at least 30 rows (sequence 0, head 0), got 29",
                     [&] { call(rotary_places(settings, given_places(few.view(), query.view()))); });
  test::expect_error("given_places (keys): expected heads 2 (as the cache's keys), got 3",
                     [&] { call(rotary_places(settings, given_places(heads.view(), query.view()))); });
  test::expect_error("given_places (queries): expected queries 1 (as query), got 2",
                     [&] { call(rotary_places(settings, given_places(keys.view(), two.view()))); });
  auto far = keys;
  far.elements[4] = std::numeric_limits<std::int32_t>::max();
  test::expect_error("given_places: expected places below 536870912 in magnitude, got 2147483647",
                     [&] { call(rotary_places(settings, given_places(far.view(), query.view()))); });
  auto const table = test::filled<float, 3>({1, 10, 10}, 1);
  rotary const tabled(rotary_table(table.view(), table.view()));
  test::expect_error("rotary_table (cosine): expected positions from 0 to 9, got 29",
                     [&] { call(rotary_places(tabled, places_in_list{})); });
  // What comes with a step is counted: the cache then has 31 rows.
  auto const step = test::random_inputs<float>({1, 4, 2, 2, 1, 1, 20, 13}, 10);
  test::expect_error("given_places (keys): expected at least 31 rows (sequence 0, head 0), got 30", [&] {
    cached_attention(cache, step.query.view(), step.key.view(), step.value.view(), output.view(),
                     rotary_places(settings, given_places(keys.view(), query.view())));
  });
  EXPECT_EQ(cache.size(0), 30);
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
