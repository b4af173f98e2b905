// SPDX-License-Identifier: BSD-3-Clause
// What is chosen from the data is the same, and so is attention to it, in whatever floating-point mode it is called, on
// numbers of all sizes: selectors of decoding steps, lists for prompts, regions of images.
#include <attend/attention/image/a2k_attention.hpp>
#include <attend/attention/image/bi_level_routing_attention.hpp>
#include <attend/attention/softmax/decoupled_embedding_attention.hpp>
#include <attend/attention/softmax/focus_icl_attention.hpp>
#include <attend/attention/sparse_decode/hip_selector.hpp>
#include <attend/attention/sparse_decode/landmark_attention.hpp>
#include <attend/attention/sparse_decode/loki_selector.hpp>
#include <attend/attention/sparse_decode/long_heads_attention.hpp>
#include <attend/attention/sparse_decode/ltri_attention.hpp>
#include <attend/attention/sparse_decode/mean_page_selector.hpp>
#include <attend/attention/sparse_decode/probe_attention.hpp>
#include <attend/attention/sparse_decode/quest_selector.hpp>
#include <attend/attention/sparse_decode/recycled_attention.hpp>
#include <attend/attention/sparse_decode/retrieval_attention.hpp>
#include <attend/attention/sparse_decode/seer_attention.hpp>
#include <attend/attention/sparse_decode/sparse_k_decode_attention.hpp>
#include <attend/attention/sparse_decode/spatten_attention.hpp>
#include <attend/attention/sparse_prefill/combiner_attention.hpp>
#include <attend/attention/sparse_prefill/hip_attention.hpp>
#include <attend/attention/sparse_prefill/hyper_attention.hpp>
#include <attend/attention/sparse_prefill/landmark_prompt_attention.hpp>
#include <attend/attention/sparse_prefill/long_heads_prompt_attention.hpp>
#include <attend/attention/sparse_prefill/moba_attention.hpp>
#include <attend/attention/sparse_prefill/routing_attention.hpp>
#include <attend/attention/sparse_prefill/sample_attention.hpp>
#include <attend/attention/sparse_prefill/seer_prefill_attention.hpp>
#include <attend/attention/sparse_prefill/sparse_k_attention.hpp>
#include <attend/attention/sparse_prefill/sparse_k_causal_attention.hpp>
#include <attend/attention/sparse_prefill/x_attention.hpp>
#include <attend/cache/contiguous.hpp>
#include <attend/select/projected_index.hpp>
#include <attend/select/sparse_k.hpp>
#include <attend/select/vote_selector.hpp>

#include "support/caller_mode_names.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace selection;
using namespace grids;
using namespace extend;
using namespace systems;

namespace {

constexpr index_t tokens = 96;
constexpr cache_shape shape{.sequences = 1, .key_value_heads = 2, .key_dimension = 16, .value_dimension = 16};

class CallerModeOfChoices : public testing::Test {
 protected:
  test::tensor<float, 4> query = of_all_sizes<float, 4>({1, 2, tokens, 16}, 1);
  test::tensor<float, 4> key = of_all_sizes<float, 4>({1, 2, tokens, 16}, 2);
  test::tensor<float, 4> value = of_all_sizes<float, 4>({1, 2, tokens, 16}, 3);
  test::tensor<float, 4> output = test::filled<float, 4>({1, 2, tokens, 16}, 7.f);
  contiguous_cache<float> cache{shape, tokens};

  CallerModeOfChoices() { cache.append(key.view(), value.view()); }

  auto last_query() const { return detail::part(query.view(), 2, tokens - 1, 1); }

  /// Output and lists of a step with a selector of selected_attention.
  template <class Selector, class E>
  bytes step(Selector&& selector, E& executor) const {
    auto o = test::filled<float, 4>({1, 2, 1, 16}, 7.f);
    if constexpr (requires { selector.update(cache, executor); }) selector.update(cache, executor);
    selected_attention(last_query(), cache, selector, o.view(), executor);
    return lists(selector) << o;
  }
  template <class Selector>
  static bytes lists(Selector& selector) {
    bytes all;
    for (index_t head = 0; head < selector.lists().heads(); ++head)
      all.add(selector.lists()(0, head).data(), selector.lists()(0, head).size());
    return all;
  }
  /// call(query, key, value, output), all as views.
  template <class Call>
  bytes prompt(Call const& call) const {
    auto o = output;
    call(query.view(), key.view(), value.view(), o.view());
    return bytes() << o;
  }
};

TEST_F(CallerModeOfChoices, OfDecodingSteps) {
  auto const w_q = test::normal<float, 3>({2, 16, 8}, 4), w_k = test::normal<float, 3>({2, 48, 8}, 5);
  expect_one_result_everywhere([&](auto& executor) {
    return step(quest_selector<float>(shape, 2, tokens, quest_pages({.tokens = 32}, 8)), executor);
  });
  serial alone;
  expect_one_result(
      [&] { return step(hip_selector<float>(shape, 2, tokens, {.block_tokens = 4, .blocks = 3}), alone); });
  expect_one_result(
      [&] { return step(mean_page_selector<float>(shape, 2, tokens, moba_blocks({.tokens = 32}, 8)), alone); });
  expect_one_result(
      [&] { return step(loki_selector<float>(shape, 2, tokens, loki_tokens({.fraction = 0.17}), {6}), alone); });
  expect_one_result([&] {
    return step(seer_selector<float>(shape, 2, tokens, seer_blocks({.tokens = 32}, 8),
                                     seer_gate(w_q.view(), w_k.view(), rotary(rotary_frequencies(8)), 8)),
                alone);
  });
  expect_one_result([&] {
    return step(vote_selector<float>(shape, 2, tokens, {.budget = {.tokens = 30, .last = 3}, .neighbours = 3}), alone);
  });
  expect_one_result([&] {
    long_heads_selector<float> selector(shape, 2, tokens, 3, 16);
    for (index_t chunk = 0; chunk < 5; ++chunk) {
      auto const some = [&](auto const& all) { return detail::part(all.view(), 2, 16 * chunk, 16); };
      selector.represent(0, some(query), some(key), some(value), rotary(rotary_frequencies(16)));
    }
    return step(selector, alone);
  });
}

TEST_F(CallerModeOfChoices, OfStepsOfTheirOwn) {
  expect_one_result([&] {
    auto o = test::filled<float, 4>({1, 2, 1, 16}, 7.f), recycled = o, found = o;
    landmark_selector<float> landmarks(shape, 2, tokens, 3, 8);
    landmarks.update(cache);
    landmark_attention(last_query(), cache, landmarks, o.view());
    recycled_selector<float> kept(shape, 2, tokens, {.budget = {.tokens = 20}});
    recycled_attention(last_query(), cache, kept, recycled.view());
    recycled_attention(last_query(), cache, kept, recycled.view());
    retrieval_selector<> index(shape, 2, tokens, {.first = 4, .last = 10, .tokens = 20});
    retrieval_attention(last_query(), cache, index, found.view());
    return lists(kept) << o << recycled << found;
  });
  expect_one_result([&] {
    std::vector<float> biases(tokens);
    auto o = output, probed = output;
    activation_weights(query.view(), tensor_view<float, 2>(biases.data(), {1, tokens}));
    mean_page_selector<float> pages(shape, 2, tokens, kinetics_blocks({.tokens = 40, .last = 8}, 8));
    pages.update(cache);
    probe_attention(query.view(), tensor_view<float, 2>(biases.data(), {1, tokens}), cache, pages, probed.view());
    contiguous_cache<float> stream(shape, tokens);
    span_selector<float> spans(
        shape, 2, tokens,
        {.budget = {.tokens = 30, .last = 8}, .triangles = {.shortest = 2, .longest = 8}, .block_tokens = 16});
    ltri_attention(stream, spans, query.view(), key.view(), value.view(), o.view(), 11);
    return lists(spans) << o << probed << biases;
  });
}

TEST_F(CallerModeOfChoices, OfGraphsAndOfChunksInAPrompt) {
  expect_one_result([&] {
    auto o = test::filled<float, 4>({1, 2, 1, 16}, 7.f);
    projected_index graph(shape, tokens, 20, {.nearest = 10, .links = 6});
    graph.build(cache, query.view());
    retrieval_selector<projected_index> index(shape, 2, tokens, {.first = 4, .last = 10, .tokens = 20},
                                              std::move(graph));
    retrieval_attention(last_query(), cache, index, o.view());
    return lists(index) << o;
  });
  expect_one_result([&] {
    auto prompt = output, o = test::filled<float, 4>({1, 2, 1, 16}, 7.f);
    rotary const position(rotary_frequencies(16));
    long_heads_selector<float> selector(shape, 2, tokens, 4, 16);
    long_heads_prompt_attention(query.view(), key.view(), value.view(), prompt.view(), selector, position);
    selector.update(cache);
    long_heads_attention(last_query(), cache, selector, o.view(), position);
    return lists(selector) << prompt << o;
  });
}

TEST_F(CallerModeOfChoices, OfScoresAlone) {
  auto const scores = of_all_sizes<float, 2>({100, 3}, 4);
  expect_one_result([&] {
    std::vector<std::int32_t> chosen(120);
    top_k(scores.elements.data(), 300, 120, chosen.data(), top_k_order::score);
    std::vector<float> weights(300);
    sparse_k(scores.elements.data(), 300, 17, weights.data());
    return bytes() << chosen << weights;
  });
}

TEST_F(CallerModeOfChoices, OfWhatIsKept) {
  auto const scores = of_all_sizes<float, 3>({1, 2, tokens}, 4);
  auto const kept_output = [] { return test::filled<float, 4>({1, 2, 1, 16}, 7.f); };
  expect_one_result_everywhere([&](auto& executor) {
    sparse_k_cache<float> kept(shape, {.chosen = 20, .window = 7});
    kept.append(key.view(), value.view(), scores.view());
    auto o = kept_output();
    sparse_k_decode_attention(last_query(), kept, o.view(), executor);
    return bytes() << o.elements;
  });
  expect_one_result_everywhere([&](auto& executor) {
    bit_plane_cache<> planes(shape, {.pages = 20, .page_tokens = 16});
    planes.append(key.view(), value.view());
    cascade_pruning pruning(1, tokens);
    cascade_heads<float> heads(1, 2);
    auto o = kept_output();
    spatten_attention(last_query(), planes, o.view(), {.threshold = 0.5, .values = 20}, executor);
    pruning.add_weights(planes);
    heads.add_outputs(o.view());
    pruning.prune(planes, 0, {.heaviest = 30, .recent = 10}, 1, executor);
    spatten_attention(last_query(), planes, o.view(), {.threshold = 2}, executor);
    auto const importance = pruning.importance(0);
    return bytes() << o.elements << std::vector<float>(importance.begin(), importance.end())
                   << std::vector<double>{heads.importance()(0, 0), heads.importance()(0, 1)};
  });
}

TEST_F(CallerModeOfChoices, OfPrompts) {
  auto const scores = of_all_sizes<float, 3>({1, 2, tokens}, 4);
  expect_one_result_everywhere([&](auto& executor) {
    return prompt([&](auto const&... t) { moba_attention(t..., moba_options{8, 3}, executor); });
  });
  expect_one_result([&] {
    block_table found;
    return prompt([&](auto const&... t) { x_attention(t..., found, {8, 4, 0.7}); });
  });
  expect_one_result(
      [&] { return prompt([&](auto const&... t) { sample_attention(t..., sample_options{0.2, 0.9, 0.1, 0}); }); });
  expect_one_result([&] {
    hash_directions const directions(5, 16, 3);
    return prompt([&](auto const&... t) { hyper_attention(t..., directions, hyper_options{8, 8, 16, 1}); });
  });
  expect_one_result([&] { return prompt([&](auto const&... t) { sparse_k_attention(t..., scores.view(), 20); }); });
  expect_one_result(
      [&] { return prompt([&](auto const&... t) { sparse_k_causal_attention(t..., scores.view(), 20, 7); }); });
  expect_one_result([&] { return prompt([&](auto const&... t) { landmark_prompt_attention(t..., 9); }); });
  expect_one_result([&] {
    auto o = test::filled<float, 4>({1, 2, 32, 16}, 7.f);
    focus_icl_attention(detail::part(query.view(), 2, 64, 32), key.view(), value.view(), o.view(),
                        focus_icl_options{64, 4, 0.3});
    return bytes() << o;
  });
}

TEST_F(CallerModeOfChoices, OfListsOfBlocks) {
  auto const w_q = test::normal<float, 3>({2, 16, 8}, 4), w_k = test::normal<float, 3>({2, 48, 8}, 5);
  expect_one_result([&] {
    block_table found, gated;
    auto o = output;
    hip_attention(query.view(), key.view(), value.view(), o.view(), found, hip_options{8, 8, 3, 1, 1});
    seer_prefill_blocks(query.view(), key.view(), w_q.view(), w_k.view(), rotary(rotary_frequencies(8)), gated,
                        seer_prefill_options{8, 0, 0.05});
    return bytes() << o;
  });
}

TEST_F(CallerModeOfChoices, OfClustersAndRegions) {
  auto const start = test::normal<float, 3>({2, 4, 16}, 4);
  expect_one_result([&] {
    auto centroids = start;
    update_centroids(centroids.view(), query.view(), key.view(), 0.7);
    auto o = output;
    routing_attention(query.view(), key.view(), value.view(), o.view(), centroids.view(), 0, causal{});
    return bytes() << centroids << o;
  });
  expect_one_result([&] {
    auto fixed = output, sparse = output, axial = output;
    combiner_fixed_attention(query.view(), key.view(), value.view(), fixed.view(), 8);
    combiner_logsparse_attention(query.view(), key.view(), value.view(), sparse.view());
    combiner_axial_attention(query.view(), key.view(), value.view(), axial.view(), 8);
    return bytes() << fixed << sparse << axial;
  });
  expect_one_result([&] {
    image_regions const regions{{8, 12}, {4, 4}};
    block_table routed, progressive;
    auto bi_level = output, distributed = output, chosen = output;
    bi_level_routing_attention(query.view(), key.view(), value.view(), bi_level.view(), routed, regions, 2);
    a2k_distributed_attention(query.view(), key.view(), value.view(), distributed.view(), regions, a2k_gate{0.7, 0.1});
    a2k_progressive_attention(query.view(), key.view(), value.view(), chosen.view(), progressive, regions, regions);
    return bytes() << bi_level << distributed << chosen;
  });
}

TEST_F(CallerModeOfChoices, OfHistories) {
  auto const t = of_all_sizes<float, 3>({1, 6, 16}, 4), h = of_all_sizes<float, 3>({1, 70, 16}, 5);
  auto const u = of_all_sizes<float, 3>({1, 6, 12}, 6), v = of_all_sizes<float, 3>({1, 70, 12}, 7);
  expect_one_result([&] {
    auto o = test::filled<float, 3>({1, 6, 12}, 7.f);
    decoupled_embedding_attention(t.view(), h.view(), u.view(), v.view(), o.view(), 20);
    return bytes() << o;
  });
}

}  // namespace
}  // namespace attend
