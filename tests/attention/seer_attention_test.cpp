// SPDX-License-Identifier: BSD-3-Clause
// SeerAttention's gate: blocks by pooled, projected and rotated keys, against the formula.
#include <attend/attention/sparse_decode/seer_attention.hpp>

#include "support/chosen_inputs.hpp"
#include "support/selection.hpp"

namespace attend {
using namespace options;
using namespace selection;
using namespace systems;

namespace {

using test::expect_error;
using test::shape_of;
using test::sizes;

sizes const odd{2, 6, 2, 2, 1, 205, 10, 13};

std::vector<std::vector<reference::number_row>> rows_of(test::tensor<float, 3> const& weight) {
  std::vector<std::vector<reference::number_row>> rows;
  auto const view = weight.view();
  for (index_t h = 0; h < view.extent(0); ++h) {
    rows.emplace_back();
    for (index_t i = 0; i < view.extent(1); ++i)
      rows.back().emplace_back(&view(h, i, 0), &view(h, i, 0) + view.extent(2));
  }
  return rows;
}

void expect_definition(test::inputs<float> const& in, index_t block, index_t blocks, index_t gate_heads, list_of lists,
                       unsigned seed) {
  auto const cache = test::filled_cache<float>(in);
  auto const stored = test::as_stored(cache, in);
  auto const w_q = test::normal<float, 3>({gate_heads, 10, 8}, seed + 1),
             w_k = test::normal<float, 3>({2, 30, 8}, seed + 2);
  seer_selector<float> selector(shape_of(odd), 6, odd.keys, seer_blocks({.tokens = blocks * block}, block, lists),
                                seer_gate(w_q.view(), w_k.view(), rotary(rotary_frequencies(8)), block));
  selector.update(cache);
  reference::page_rule const rule{.score = reference::gate_of_page(rows_of(w_q), rows_of(w_k), block),
                                  .page_tokens = block,
                                  .last_pages = 1,
                                  .pages = blocks - 1,
                                  .heads_per_group = lists == list_of::query_head ? 1 : 3};
  test::expect_selection(in, cache, selector, reference::select_pages(stored.query.view(), stored.key.view(), rule));
}

void expect_definition(index_t block, index_t blocks, index_t gate_heads, list_of lists, unsigned seed) {
  expect_definition(test::random_inputs<float>(odd, seed), block, blocks, gate_heads, lists, seed);
}

// Keys of zeros open all gates alike.
TEST(SeerAttention, TakesTheLowerOfEqualBlocks) {
  auto in = test::random_inputs<float>(odd, 20);
  std::fill(in.key.elements.begin(), in.key.elements.end(), 0.f);
  expect_definition(in, 16, 4, 6, list_of::query_head, 20);
}

TEST(SeerAttention, ShowsAValueToThoseThatChoseItsBlock) {
  expect_definition(test::with_nan_values(test::random_inputs<float>(odd, 21)), 7, 5, 6, list_of::query_head, 21);
}

// A gate that was made for it: the largest and the least of each channel, times the query's.
TEST(SeerAttention, FindsNeedlesThatItsGateWasMadeFor) {
  sizes const s{1, 4, 2, 2, 1, 2000, 64, 16};
  auto w_q = test::filled<float, 3>({1, 64, 64}, 0), w_k = test::filled<float, 3>({2, 192, 64}, 0);
  for (index_t c = 0; c < 64; ++c) {
    w_q.view()(0, c, c) = 1;
    for (index_t head : {0, 1}) w_k.view()(head, c, c) = w_k.view()(head, 64 + c, c) = 1;
  }
  seer_gate const gate(std::as_const(w_q).view(), std::as_const(w_k).view(), rotary(rotary_frequencies(2)), 8);
  EXPECT_GE(test::needles_found(
                s, 100,
                [&] { return seer_selector<float>(shape_of(s), 4, s.keys, seer_blocks({.fraction = 0.05}, 8), gate); }),
            0.99);
}

TEST(SeerAttention, TakesTheBlocksThatTheGateOpens) {
  expect_definition(16, 4, 6, list_of::query_head, 1);
  expect_definition(16, 4, 1, list_of::query_head, 4);
  expect_definition(7, 9, 6, list_of::key_value_head, 7);
}

TEST(SeerAttention, GatesByKeysOfAnotherStore) {
  auto const in = test::random_inputs<float>(odd, 10), plain = test::random_inputs<float>(odd, 11);
  auto const cache = test::filled_cache<float>(in), gated = test::filled_cache<float>(plain);
  auto const w_q = test::normal<float, 3>({1, 10, 8}, 12), w_k = test::normal<float, 3>({2, 30, 8}, 13);
  auto const make = [&](double fraction) {
    return seer_selector<float>(shape_of(odd), 6, odd.keys, seer_blocks({.fraction = fraction}, 16),
                                seer_gate(w_q.view(), w_k.view(), rotary(rotary_frequencies(8)), 16));
  };
  auto selector = make(0.3), all = make(1);
  selector.update(gated);
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7);
  seer_attention(in.query.view(), plain.query.view(), cache, selector, output.view());
  auto const stored = test::as_stored(gated, plain);
  reference::page_rule const rule{
      .score = reference::gate_of_page(rows_of(w_q), rows_of(w_k), 16), .page_tokens = 16, .last_pages = 1, .pages = 3};
  auto const seen = reference::select_pages(stored.query.view(), stored.key.view(), rule);
  EXPECT_TRUE(test::lists_are(selector.lists(), seen));
  EXPECT_TRUE(test::near(output.elements, test::attention_to(test::as_stored(cache, in), seen).output,
                         test::tolerance<float>(test::largest_magnitude(in.value.elements))));
  all.update(gated);
  test::expect_dense(in, cache, all);
}

TEST(SeerAttention, SaysWhatIsWrong) {
  auto const w_q = test::normal<float, 3>({1, 10, 8}, 12), w_k = test::normal<float, 3>({2, 30, 8}, 13),
             short_k = test::normal<float, 3>({2, 29, 8}, 13), narrow = test::normal<float, 3>({2, 30, 7}, 13);
  auto const gate = [&](auto const& keys, index_t channels) {
    return seer_gate(w_q.view(), keys.view(), rotary(rotary_frequencies(channels)), 16);
  };
  expect_error("key_weight: expected rows 30 (as three times query_weight's), got 29", [&] { gate(short_k, 8); });
  expect_error("key_weight: expected gate dimension 8 (as query_weight), got 7", [&] { gate(narrow, 8); });
  expect_error("rotation: expected at most 8 channels (the gate dimension), got 10", [&] { gate(w_k, 10); });
  expect_error("query_weight: expected rows 12 (as the head dimension), got 10",
               [&] { seer_selector<float>({1, 2, 12, 12}, 6, 10, seer_blocks({}), gate(w_k, 8)); });
  expect_error("block_tokens: expected 1 to 536870911, got 0",
               [&] { seer_gate(w_q.view(), w_k.view(), rotary(rotary_frequencies(8)), 0); });
  auto const three = test::normal<float, 3>({3, 10, 8}, 12);
  seer_gate const few(three.view(), w_k.view(), rotary(rotary_frequencies(8)), 16);
  expect_error("query_weight: expected 1 or 6 heads, got 3",
               [&] { seer_selector<float>({1, 2, 10, 13}, 6, 10, seer_blocks({}, 16), few); });
  expect_error("key_weight: expected heads 3 (as the cache), got 2",
               [&] { seer_selector<float>({1, 3, 10, 13}, 3, 10, seer_blocks({}, 16), few); });
  expect_error("seer_gate: expected tokens of a block 32 (as the choice), got 16",
               [&] { seer_selector<float>({1, 2, 10, 13}, 6, 10, seer_blocks({}, 32), few); });
  auto const in = test::random_inputs<float>(odd, 14);
  auto const cache = test::filled_cache<float>(in);
  seer_selector<float> selector(shape_of(odd), 6, odd.keys, seer_blocks({}, 16), gate(w_k, 8));
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7);
  auto const two = test::normal<float, 4>({2, 6, 2, 10}, 1), heads = test::normal<float, 4>({2, 4, 1, 10}, 1);
  auto const attend = [&](auto const& gate_query, auto const&... options) {
    seer_attention(in.query.view(), gate_query.view(), cache, selector, output.view(), options...);
  };
  expect_error("cache: expected tokens 0 (as the selector was told), got 205", [&] { attend(in.query); });
  selector.update(cache);
  expect_error("gate_query: expected tokens 1 (as query), got 2", [&] { attend(two); });
  expect_error("query: expected heads 6 (as the selector), got 4", [&] { attend(heads); });
  test::expect_scale_error([&](scale const& factor) { attend(in.query, factor); });
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
