// SPDX-License-Identifier: BSD-3-Clause
// Landmark attention at a decoding step: against the grouped softmax over all blocks, and over those chosen.
#include <attend/attention/sparse_decode/landmark_attention.hpp>
#include <attend/reference/landmark_attention.hpp>

#include "support/chosen_inputs.hpp"
#include "support/count_allocations.hpp"
#include "support/selection.hpp"

namespace attend {
using namespace caches;
using namespace systems;

namespace {

using test::expect_error;
using test::shape_of;
using test::sizes;

template <class T>
void expect_definition(test::inputs<T> const& in, index_t block, index_t blocks) {
  sizes const& s = in.size;
  index_t const tokens = s.keys;
  auto const cache = test::filled_cache<T>(in);
  auto const expected =
      reference::landmark_attention<T>(in.query.view(), in.key.view(), in.value.view(), block, blocks);
  landmark_selector<T> selector(shape_of(s), 6, tokens, blocks, block);
  selector.update(cache);
  auto output = test::filled<T, 4>({s.batches, 6, 1, s.value_dimension}, T(7)), threaded = output;
  landmark_attention(in.query.view(), cache, selector, output.view());
  double const largest = test::largest_magnitude(in.value.elements);
  EXPECT_TRUE(test::near(output.elements, expected, test::tolerance<T>(largest)))
      << tokens << " tokens, " << blocks << " blocks";
  landmark_attention(in.query.view(), cache, selector, threaded.view(), threads{2});
  EXPECT_TRUE(test::same_bits(output.elements, threaded.elements));
}
template <class T>
void expect_definition(index_t tokens, index_t block, index_t blocks, unsigned seed) {
  expect_definition(test::random_inputs<T>({2, 6, 2, 2, 1, tokens, 20, 13}, seed), block, blocks);
}

TEST(LandmarkAttention, TakesTheLowerOfEqualLandmarks) {
  expect_definition(test::whole_number_inputs<float>({2, 6, 2, 2, 1, 200, 3, 13}, 20), 5, 9);
}

TEST(LandmarkAttention, ShowsAValueToThoseThatChoseItsBlock) {
  expect_definition(test::with_nan_values(test::random_inputs<float>({2, 6, 2, 2, 1, 200, 20, 13}, 21)), 7, 6);
}

using numbers = std::vector<double>;

/// The paper's attention with retrieval, of the last queries of each sequence; pairs > 0: with rotary positions in
/// slots.
numbers retrieved(test::inputs<float> const& in, index_t block, index_t blocks, landmark_sharing const& sharing,
                  index_t pairs) {
  sizes const& s = in.size;
  double const scale = 1 / std::sqrt(static_cast<double>(s.key_dimension));
  auto const row = [](auto const& tensor, index_t b, index_t h, index_t t) {
    float const* const first = &tensor.view()(b, h, t, 0);
    return numbers(first, first + tensor.extents[3]);
  };
  auto const turn = [&](numbers x, index_t place) {
    for (index_t i = 0; i < pairs; ++i) {
      auto &a = x[static_cast<std::size_t>(i)], &b = x[static_cast<std::size_t>(pairs + i)];
      double const angle =
          static_cast<double>(place) * std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(pairs));
      std::tie(a, b) = std::pair(a * std::cos(angle) - b * std::sin(angle), b * std::cos(angle) + a * std::sin(angle));
    }
    return x;
  };
  index_t const own = (s.keys - 1) / block, wanted = std::min(blocks, own), group = s.query_heads / s.key_heads;
  auto const own_place = [&](index_t token) { return (wanted + 1) * block + token - own * block; };
  numbers output;
  for (index_t b = 0; b < s.batches; ++b) {
    auto const logit = [&](index_t h, index_t i, index_t token, index_t place) {
      index_t const position = s.keys - s.queries + i;
      auto const q = turn(row(in.query, b, h, i), own_place(position)),
                 k = turn(row(in.key, b, h / group, token), place);
      return scale * std::inner_product(q.begin(), q.end(), k.begin(), 0.0);
    };
    auto const chosen_by = [&](index_t h, index_t i) {
      numbers score(static_cast<std::size_t>(own), 0.0);
      for (index_t hh = 0; hh < s.query_heads; ++hh)
        for (index_t ii = 0; ii < s.queries; ++ii) {
          bool const shares = (sharing.queries || ii == i) &&
                              (hh == h || sharing.heads == landmark_heads::all ||
                               (sharing.heads == landmark_heads::of_key_head && hh / group == h / group));
          if (!shares) continue;
          numbers p;
          for (index_t c = 0; c < own; ++c) {
            index_t const slot = c >= own - wanted ? c - (own - wanted) + 1 : 0;
            p.push_back(std::exp(logit(hh, ii, c * block + block - 1, slot * block + block - 1)));
          }
          double const total = std::accumulate(p.begin(), p.end(), 0.0);
          for (std::size_t c = 0; c < p.size(); ++c) score[c] = std::max(score[c], p[c] / total);
        }
      std::vector<index_t> order(static_cast<std::size_t>(own));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](index_t x, index_t y) {
        return score[static_cast<std::size_t>(x)] > score[static_cast<std::size_t>(y)];
      });
      order.resize(static_cast<std::size_t>(wanted));
      std::sort(order.begin(), order.end());
      return order;
    };
    for (index_t h = 0; h < s.query_heads; ++h)
      for (index_t i = 0; i < s.queries; ++i) {
        index_t const position = s.keys - s.queries + i;
        numbers sum(static_cast<std::size_t>(s.value_dimension), 0.0);
        double total = 0;
        auto const add = [&](index_t token, double weight) {
          for (index_t c = 0; c < s.value_dimension; ++c)
            sum[static_cast<std::size_t>(c)] +=
                weight * static_cast<double>(in.value.view()(b, h * s.value_heads / s.query_heads, token, c));
        };
        index_t a = 0;
        for (index_t const c : chosen_by(h, i)) {
          index_t const slot = a++ + (c >= own - wanted ? 1 : 0);
          double const gate = std::exp(logit(h, i, c * block + block - 1, slot * block + block - 1));
          double inside = 0;
          for (index_t t = 0; t + 1 < block; ++t) inside += std::exp(logit(h, i, c * block + t, slot * block + t));
          for (index_t t = 0; t + 1 < block; ++t)
            add(c * block + t, gate * std::exp(logit(h, i, c * block + t, slot * block + t)) / inside);
          total += gate;
        }
        for (index_t t = own * block; t <= position && t < own * block + block - 1; ++t) {
          double const weight = std::exp(logit(h, i, t, own_place(t)));
          add(t, weight);
          total += weight;
        }
        for (double x : sum) output.push_back(x / total);
      }
  }
  return output;
}

void expect_retrieved(sizes const& s, index_t block, index_t blocks, landmark_sharing const& sharing, unsigned seed) {
  SCOPED_TRACE(testing::Message() << s.queries << " queries, " << s.keys << " keys");
  auto const in = test::random_inputs<float>(s, seed);
  auto const cache = test::filled_cache<float>(in);
  landmark_selector<float> selector(shape_of(s), s.query_heads, s.keys, blocks, block, sharing);
  selector.update(cache);
  auto output = test::filled<float, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, 7), threaded = output;
  double const allowed = test::tolerance<float>(test::largest_magnitude(in.value.elements));
  landmark_attention(in.query.view(), cache, selector, output.view());
  EXPECT_TRUE(test::near(output.elements, retrieved(in, block, blocks, sharing, 0), allowed));
  rotary const turn(options::rotary_frequencies(16));
  landmark_attention(in.query.view(), cache, selector, output.view(), turn, threads{1});
  EXPECT_TRUE(test::near(output.elements, retrieved(in, block, blocks, sharing, 8), allowed));
  landmark_attention(in.query.view(), cache, selector, threaded.view(), turn, threads{2});
  EXPECT_TRUE(test::same_bits(output.elements, threaded.elements));
}

TEST(LandmarkAttention, ChoosesInSlotsForHeadsAndQueries) {
  for (auto const heads : {landmark_heads::each, landmark_heads::of_key_head, landmark_heads::all}) {
    expect_retrieved({2, 6, 2, 2, 1, 100, 20, 13}, 9, 4, {heads, false}, 30);
    for (bool const queries : {false, true}) expect_retrieved({1, 6, 2, 2, 5, 70, 20, 13}, 8, 3, {heads, queries}, 31);
  }
  // Fewer blocks than are wanted, and blocks that are longer than one of the engine.
  expect_retrieved({1, 4, 2, 2, 3, 30, 20, 13}, 9, 5, {}, 32);
  expect_retrieved({1, 4, 2, 2, 3, 600, 20, 13}, 100, 3, {}, 33);
}

TEST(LandmarkAttention, TakesAPromptBlockByBlock) {
  sizes const s{2, 4, 2, 2, 60, 60, 20, 13};
  auto const in = test::random_inputs<float>(s, 34);
  rotary const turn(options::rotary_frequencies(16));
  contiguous_cache<float> cache(shape_of(s), s.keys);
  landmark_selector<float> selector(shape_of(s), 4, s.keys, 2, 8);
  auto output = test::filled<float, 4>({2, 4, 60, 13}, 7);
  for (index_t first : {0, 21})
    landmark_prefill(cache, selector, test::tokens_of(in.query, first, first == 0 ? 21 : 39),
                     test::tokens_of(in.key, first, first == 0 ? 21 : 39),
                     test::tokens_of(in.value, first, first == 0 ? 21 : 39),
                     test::tokens_of(output, first, first == 0 ? 21 : 39), turn);
  for (index_t token : {0, 6, 7, 8, 20, 21, 39, 40, 59}) {
    index_t const keys = token + 1;
    auto const copied = [&](auto const& view) {
      auto part = test::filled<float, 4>(view.extents(), 0);
      for (index_t b = 0; b < view.extent(0); ++b)
        for (index_t h = 0; h < view.extent(1); ++h)
          for (index_t t = 0; t < view.extent(2); ++t)
            std::copy_n(&view(b, h, t, 0), view.extent(3), &part.view()(b, h, t, 0));
      return part;
    };
    test::inputs<float> const step{{2, 4, 2, 2, 1, keys, 20, 13},
                                   copied(test::tokens_of(in.query, token, 1)),
                                   copied(test::tokens_of(in.key, 0, keys)),
                                   copied(test::tokens_of(in.value, 0, keys))};
    EXPECT_TRUE(test::near(copied(test::tokens_of(std::as_const(output), token, 1)).elements,
                           retrieved(step, 8, 2, {}, 8),
                           test::tolerance<float>(test::largest_magnitude(in.value.elements))))
        << token;
  }
}

// A landmark stands for its block: it is what is looked for.
TEST(LandmarkAttention, FindsLandmarks) {
  sizes const s{1, 4, 2, 2, 1, 2000, 64, 16};
  EXPECT_GE(test::needles_found(
                s, 100, [&] { return landmark_selector<float>(shape_of(s), 4, s.keys, 9, 10); },
                [](index_t token) { return token / 10 * 10 + 9; }),
            0.99);
}

TEST(LandmarkAttention, ForgetsWhatIsTakenBack) {
  sizes const s{2, 6, 2, 2, 1, 100, 20, 13};
  auto const in = test::random_inputs<float>(s, 22);
  auto cache = test::filled_cache<float>(in);
  landmark_selector<float> selector(shape_of(s), 6, 100, 3, 11), fresh(shape_of(s), 6, 100, 3, 11);
  selector.update(cache);
  for (index_t b : {0, 1}) {
    selector.truncate(cache, b, 58 - b);
    cache.truncate(b, 58 - b);
  }
  fresh.update(cache);
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7), expected = output;
  landmark_attention(in.query.view(), cache, selector, output.view());
  landmark_attention(in.query.view(), cache, fresh, expected.view());
  EXPECT_TRUE(test::same_bits(output.elements, expected.elements));
}

TEST(LandmarkAttention, IsTheGroupedSoftmaxOfTheChosenBlocks) {
  for (index_t tokens : {1, 6, 7, 8, 62, 63, 64, 200})
    for (index_t blocks : {0, 1, 3, 40}) expect_definition<float>(tokens, 7, blocks, static_cast<unsigned>(tokens));
  expect_definition<bfloat16>(100, 11, 4, 3);
}

TEST(LandmarkAttention, OfOneBlockIsSoftmaxAttention) {
  sizes const s{1, 4, 2, 2, 1, 30, 20, 13};
  auto const in = test::random_inputs<float>(s, 4);
  auto const cache = test::filled_cache<float>(in);
  landmark_selector<float> selector(shape_of(s), 4, 30, 2, 31);
  selector.update(cache);
  auto output = test::filled<float, 4>({1, 4, 1, 13}, 7), dense = output;
  landmark_attention(in.query.view(), cache, selector, output.view());
  decode_attention(in.query.view(), cache, dense.view());
  EXPECT_TRUE(
      test::near(output.elements, dense.elements, test::tolerance<float>(test::largest_magnitude(in.value.elements))));
}

TEST(LandmarkAttention, AllocatesNothingOnceWarm) {
  sizes const s{2, 6, 2, 2, 1, 100, 20, 13};
  auto const in = test::random_inputs<float>(s, 6);
  auto const cache = test::filled_cache<float>(in);
  landmark_selector<float> selector(shape_of(s), 6, 100, 3, 11);
  selector.update(cache);
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7);
  auto const step = [&] { landmark_attention(in.query.view(), cache, selector, output.view()); };
  step();
  EXPECT_EQ(test::allocations_of_two(step).second, 0);
}

TEST(LandmarkAttention, TakesNoMemoryForBlocksThatCannotBe) {
  sizes const s{1, 4, 2, 2, 1, 30, 20, 13};
  auto const in = test::random_inputs<float>(s, 6);
  auto const cache = test::filled_cache<float>(in);
  auto output = test::filled<float, 4>({1, 4, 1, 13}, 7), expected = output;
  for (index_t blocks : {index_t{3}, index_t{1000000}, std::numeric_limits<index_t>::max()}) {
    landmark_selector<float> selector(shape_of(s), 4, 30, blocks, 10);
    EXPECT_EQ(selector.blocks(), 3);
    selector.update(cache);
    landmark_attention(in.query.view(), cache, selector, output.view());
    if (blocks == 3) expected = output;
    EXPECT_TRUE(test::same_bits(output.elements, expected.elements));
  }
  // Blocks that are longer than the sequences.
  EXPECT_EQ(landmark_selector<float>(shape_of(s), 4, 30, 1, 1 << 28).bytes(),
            landmark_selector<float>(shape_of(s), 4, 30, 1, 30).bytes());
}

TEST(LandmarkAttention, SaysWhatIsWrong) {
  sizes const s{1, 4, 2, 2, 1, 30, 20, 13};
  expect_error("blocks: expected at least 0, got -1", [&] { landmark_selector<float>(shape_of(s), 4, 30, -1); });
  expect_error("block_tokens: expected at least 2, a landmark among them, got 1",
               [&] { landmark_selector<float>(shape_of(s), 4, 30, 1, 1); });
  auto const in = test::random_inputs<float>(s, 5);
  auto const cache = test::filled_cache<float>(in);
  landmark_selector<float> selector(shape_of(s), 4, 30, 2, 10);
  auto output = test::filled<float, 4>({1, 4, 1, 13}, 7), wide = test::filled<float, 4>({1, 4, 1, 14}, 7);
  expect_error("cache: expected tokens 0 (as the selector was told), got 30",
               [&] { landmark_attention(in.query.view(), cache, selector, output.view()); });
  selector.update(cache);
  expect_error("output: expected head dimension 13 (as the cache), got 14",
               [&] { landmark_attention(in.query.view(), cache, selector, wide.view()); });
  auto values = in.value;
  key_value_tensors<float> const in_place(in.key.view(), std::as_const(values).view());
  expect_error("output: expected memory of its own, got memory that overlaps the cache's values", [&] {
    landmark_attention(in.query.view(), in_place, selector,
                       tensor_view<float, 4>(values.elements.data(), {1, 4, 1, 13}));
  });
  test::expect_scale_error(
      [&](scale const& factor) { landmark_attention(in.query.view(), cache, selector, output.view(), factor); });
  auto const two = test::normal<float, 4>({1, 4, 2, 20}, 1);
  auto both = test::filled<float, 4>({1, 4, 2, 13}, 7);
  // The query at 30 begins a block.
  landmark_selector<float> short_blocks(shape_of(s), 4, 30, 2, 29);
  short_blocks.update(cache);
  expect_error("query: expected at most 1 tokens (those of the last block of sequence 0), got 2",
               [&] { landmark_attention(two.view(), cache, short_blocks, both.view()); });
  contiguous_cache<float> more(shape_of(s), 60);
  more.append(in.key.view(), in.value.view());
  auto const rest = test::random_inputs<float>({1, 4, 2, 2, 2, 2, 20, 13}, 6);
  expect_error("query: expected at most 0 tokens (the selector's capacity, sequence 0), got 2", [&] {
    landmark_prefill(more, selector, rest.query.view(), rest.key.view(), rest.value.view(), both.view());
  });
  rotary const wide_turn(options::rotary_frequencies(22)), turn(options::rotary_frequencies(20));
  landmark_selector<float> roomy(shape_of(s), 4, 60, 2, 10);
  roomy.update(more);
  auto const prefill = [&](auto const& rotation) {
    landmark_prefill(more, roomy, rest.query.view(), rest.key.view(), rest.value.view(), both.view(), rotation);
  };
  expect_error("rotary: expected at most 20 channels (the head dimension), got 22", [&] { prefill(wide_turn); });
  expect_error("rotary: expected the positions of the text, got positions of its own",
               [&] { prefill(turn.at(options::token_positions(1))); });
  EXPECT_EQ(more.size(0), 30);
  for (float x : both.elements) EXPECT_EQ(x, 7);
  expect_error("rotary: expected at most 20 channels (the head dimension), got 22",
               [&] { landmark_attention(in.query.view(), cache, selector, output.view(), wide_turn); });
  expect_error("rotary: expected the positions of the text, got positions of its own", [&] {
    landmark_attention(in.query.view(), cache, selector, output.view(), turn.at(options::token_positions(1)));
  });
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
