// SPDX-License-Identifier: BSD-3-Clause
// Rotary positions as an option of the systems that choose or drop tokens: each against what it is without the option,
// on rows that were rotated beforehand.
#include <attend/attention/cached/razor_attention.hpp>
#include <attend/attention/sparse_decode/retrieval_attention.hpp>
#include <attend/attention/sparse_decode/selected_attention.hpp>
#include <attend/reference/razor_attention.hpp>
#include <attend/reference/rotary_embedding.hpp>

#include "support/selection.hpp"

namespace attend {
using namespace caches;
using namespace options;
using namespace systems;

namespace {

using test::sizes;

/// Rows [batch, head, token, dimension] turned by the angles of their places, in double.
test::tensor<double, 4> turned(test::tensor<float, 4> const& rows, std::function<double(index_t token)> const& place) {
  index_t const pairs = rows.extents[3] / 2;
  return {rows.extents,
          reference::rotary_embedding<float>(rows.view(), pairs, false, [&](index_t, index_t t, index_t i) {
            return std::polar(1.0, place(t) * reference::rotary_frequency(i, 2 * pairs, 10000));
          })};
}
test::tensor<double, 4> doubled(test::tensor<float, 4> const& rows) {
  return {rows.extents, std::vector<double>(rows.elements.begin(), rows.elements.end())};
}

/// A choice of tokens that was made beforehand.
struct fixed_selector {
  selection::token_lists chosen;

  template <class Query, class Cache, class E>
  void select(Query const&, Cache const&, E&) {}
  selection::token_lists const& lists() const { return chosen; }
};

TEST(RotaryCalls, SelectedRowsStandInTheirListOrWhereTheyAreSaidTo) {
  sizes const s{2, 4, 2, 2, 1, 60, 16, 12};
  auto const in = test::random_inputs<float>(s, 1);
  auto const cache = test::filled_cache<float>(in);
  rotary const settings(rotary_frequencies(16));
  fixed_selector chooser{selection::token_lists(2, 4, 60)};
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 4; ++h) {
      chooser.chosen.add(b, h, h, h + 9);
      chooser.chosen.add(b, h, 30 + b, 51 + b);
    }
  auto list = test::filled<float, 4>({2, 4, 1, 12}, 7), places = list, text = list, all = list;
  selected_attention(in.query.view(), cache, chooser, list.view(), settings);
  selected_attention(in.query.view(), cache, chooser, places.view(), rotary_places(settings, places_in_list{}));
  EXPECT_TRUE(test::same_bits(list.elements, places.elements));

  // Keys that were rotated for the text, and those that are as they are read.
  contiguous_cache<float> rotated(test::shape_of(s), s.keys);
  rotated.append(in.key.view(), in.value.view(), settings);
  auto const where = [](auto const& at) { return at.position; };
  selected_attention(in.query.view(), rotated, chooser, text.view(), rotary_queries(settings));
  selected_attention(in.query.view(), cache, chooser, all.view(), rotary_places(settings, places_by{where, where}));
  double const allowed = 2 * test::tolerance<float>(test::largest_magnitude(in.value.elements));
  EXPECT_TRUE(test::near(text.elements, all.elements, allowed));
  // Lists of different lengths have places all the same.
  chooser.chosen.erase(0, 1, 35);
  selected_attention(in.query.view(), cache, chooser, places.view(), rotary_places(settings, places_in_list{}));
  selected_attention(in.query.view(), rotated, chooser, list.view(), rotary_moves(settings, places_in_list{}));
  EXPECT_TRUE(test::near(places.elements, list.elements, allowed));
}

TEST(RotaryCalls, RetrievalOfAllTokensIsDense) {
  sizes const s{1, 4, 2, 2, 1, 80, 16, 12};
  auto const in = test::random_inputs<float>(s, 2);
  auto const cache = test::filled_cache<float>(in);
  rotary const settings(rotary_frequencies(16));
  retrieval_selector<> selector(test::shape_of(s), 4, 80, {.first = 5, .last = 9, .tokens = 66});
  selector.update(cache);
  auto output = test::filled<float, 4>({1, 4, 1, 12}, 7);
  retrieval_attention(in.query.view(), cache, selector, output.view(), settings);
  auto const expected = reference::softmax_attention<double>(
      turned(in.query, [](index_t) { return 79.0; }).view(),
      turned(in.key, [](index_t t) { return static_cast<double>(t); }).view(), doubled(in.value).view(), {});
  EXPECT_TRUE(
      test::near(output.elements, expected.output, test::tolerance<float>(test::largest_magnitude(in.value.elements))));
}

TEST(RotaryCalls, RazorRotatesKeysAsItAppendsThem) {
  sizes const s{2, 4, 2, 2, 50, 50, 20, 13};
  auto const in = test::random_inputs<float>(s, 3);
  rotary const settings(rotary_frequencies(20));
  auto const text = [](index_t t) { return static_cast<double>(t); };
  auto const expected =
      reference::razor_attention<double>(turned(in.query, text).view(), turned(in.key, text).view(),
                                         doubled(in.value).view(), 3, 11, [](index_t) { return true; });
  double const allowed = test::tolerance<float>(test::largest_magnitude(in.value.elements));
  for (index_t piece : {1, 7}) {
    compensated_cache<float> cache(test::shape_of(s), {3, 11}, 5);
    auto output = test::filled<float, 4>({2, 4, 50, 13}, 7);
    for (index_t first = 0; first < 50; first += piece) {
      index_t const count = std::min<index_t>(piece, 50 - first);
      razor_attention(cache, test::tokens_of(in.query, first, count), test::tokens_of(in.key, first, count),
                      test::tokens_of(in.value, first, count), test::tokens_of(output, first, count), settings);
    }
    EXPECT_TRUE(test::near(output.elements, expected.output, allowed));
  }
  // A prompt, and a step behind it, see the same keys.
  compensated_cache<float> prompt(test::shape_of(s), {3, 11}, 5);
  auto output = test::filled<float, 4>({2, 4, 49, 13}, 7), step = test::filled<float, 4>({2, 4, 1, 13}, 7);
  razor_prefill(prompt, test::tokens_of(in.query, 0, 49), test::tokens_of(in.key, 0, 49),
                test::tokens_of(in.value, 0, 49), output.view(), settings);
  razor_attention(prompt, test::tokens_of(in.query, 49, 1), test::tokens_of(in.key, 49, 1),
                  test::tokens_of(in.value, 49, 1), step.view(), settings);
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 4; ++h)
      for (index_t c = 0; c < 13; ++c)
        EXPECT_NEAR(step.view()(b, h, 0, c),
                    expected.output[static_cast<std::size_t>(((b * 4 + h) * 50 + 49) * 13 + c)], allowed);
}

// All keys stand at 5, and queries 11 places behind: so does the compensation, just before the window of 11.
TEST(RotaryCalls, RazorPlacesTheCompensationBeforeTheWindow) {
  sizes const s{2, 4, 2, 2, 50, 50, 20, 13};
  auto const in = test::random_inputs<float>(s, 4);
  rotary const settings(rotary_frequencies(20));
  auto const expected =
      reference::razor_attention<double>(turned(in.query, [](index_t) { return 11.0; }).view(), doubled(in.key).view(),
                                         doubled(in.value).view(), 3, 11, [](index_t) { return true; });
  compensated_cache<float> cache(test::shape_of(s), {3, 11}, 5);
  auto output = test::filled<float, 4>({2, 4, 50, 13}, 7);
  razor_attention(cache, in.query.view(), in.key.view(), in.value.view(), output.view(),
                  rotary_places(settings, places_by{[](extend::attended_place const&) { return 5; },
                                                    [](extend::attending_place const&) { return 16; }}));
  EXPECT_TRUE(
      test::near(output.elements, expected.output, test::tolerance<float>(test::largest_magnitude(in.value.elements))));
}

TEST(RotaryCalls, SayWhatIsWrong) {
  sizes const s{1, 2, 2, 2, 1, 1, 20, 13};
  auto const in = test::random_inputs<float>(s, 5);
  compensated_cache<float> cache(test::shape_of(s), {3, 11}, 5);
  auto output = test::filled<float, 4>({1, 2, 1, 13}, 7);
  rotary const settings(rotary_frequencies(20)), wide(rotary_frequencies(22));
  auto const call = [&](auto const& what) {
    razor_attention(cache, in.query.view(), in.key.view(), in.value.view(), output.view(), what);
  };
  test::expect_error("rotary: expected the positions of the text, got positions of its own",
                     [&] { call(settings.at(token_positions(1))); });
  test::expect_error("rotary: expected at most 20 channels (the head dimension), got 22", [&] { call(wide); });
  EXPECT_EQ(cache.size(0), 0);
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
