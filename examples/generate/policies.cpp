// SPDX-License-Identifier: BSD-3-Clause
#include "policies.hpp"

#include <attend/cache.hpp>
#include <attend/sparse.hpp>

#include <cstdint>
#include <utility>

namespace generate {

namespace {

/// The size of stores and selectors for one text of the model's.
struct sizes {
  attend::caches::cache_shape shape;     // of all heads
  attend::caches::cache_shape one_head;  // of one of them
  index_t query_heads, tokens;

  explicit sizes(decoder_shape const& model)
      : shape{1, model.key_value_heads, model.head_dimension, model.head_dimension},
        one_head{1, 1, model.head_dimension, model.head_dimension},
        query_heads(model.query_heads),
        tokens(model.context) {}
};

// Of a text of 256 characters, a quarter is what those keep, or attend to, that drop or choose tokens.
constexpr index_t few_tokens = 64, sinks = 4, window = few_tokens - sinks, page_tokens = 8;

/// make(sizes) makes a store; Attention is one of the templates of attentions.hpp.
template <template <class> class Attention, class Make>
policy keeping(std::string name, bool exact, Make make) {
  return {std::move(name), exact, [make](decoder const& model, attend::threads executor) {
            sizes const of(model.shape());
            return std::make_unique<Attention<decltype(make(of))>>(model, executor, [&] { return make(of); });
          }};
}

/// From stores whose heads keep tokens of their own, the policy evicts all but few_tokens, in rounds of page_tokens.
template <bool Weighed, class Policy>
policy evicting(std::string name, Policy rule) {
  return {std::move(name), false, [rule](decoder const& model, attend::threads executor) {
            using store = attend::caches::evicting_cache<float>;
            sizes const of(model.shape());
            index_t const most = few_tokens + page_tokens + prompt_piece, pages_of_head = most / page_tokens + 1;
            auto const make = [&] {
              return store(of.shape, {.pages = of.shape.key_value_heads * pages_of_head, .page_tokens = page_tokens});
            };
            return std::make_unique<with_eviction<store, Policy, Weighed>>(model, executor, make, rule, page_tokens);
          }};
}

/// make(sizes) makes a selector over a full cache, and attend_chosen attends with it.
template <class Make, class AttendChosen>
policy choosing(std::string name, Make make, AttendChosen attend_chosen) {
  return {std::move(name), false, [=](decoder const& model, attend::threads executor) {
            using store = attend::contiguous_cache<float>;
            sizes const of(model.shape());
            return std::make_unique<with_chosen_tokens<store, decltype(make(of)), AttendChosen>>(
                model, executor, [&] { return store(of.shape, of.tokens); }, [&] { return make(of); }, attend_chosen);
          }};
}

template <class Key, class Value = Key>
attend::contiguous_cache<Key, Value> contiguous(sizes const& of) {
  return {of.shape, of.tokens};
}
template <class Key>
attend::paged_cache<Key> paged(sizes const& of, attend::caches::cache_shape const& shape) {
  return {shape, {.pages = (of.tokens + page_tokens - 1) / page_tokens, .page_tokens = page_tokens}};
}
attend::rolling_cache<float> rolling(attend::caches::cache_shape const& shape, index_t first, index_t last) {
  return {shape, {first, last}, prompt_piece};
}

}  // namespace

std::vector<policy> all_policies(decoder const& model) {
  if (model.linear())
    return {{"states, float", true,
             [](decoder const& of, attend::threads executor) { return std::make_unique<with_states>(of, executor); }}};

  using namespace attend::systems;
  using attend::caches::compensated_cache, attend::caches::head_policy_cache, attend::caches::int4_pair;
  static std::vector<std::int32_t> const second_head_streams{0, 1};
  attend::selection::selection_budget const budget{.tokens = few_tokens, .first = sinks, .last = page_tokens};

  // Steps through selectors that have select(): all but two.
  auto const selected = [](auto const& query, auto const& store, auto& selector, auto const& output, auto executor) {
    if constexpr (requires { selector.update(store); }) selector.update(store);
    attend::selection::selected_attention(query, store, selector, output, executor);
  };

  std::vector<policy> all;
  all.push_back(keeping<through_stores>("contiguous, float", true, contiguous<float>));
  all.push_back(
      keeping<through_stores>("paged, float", true, [](sizes const& of) { return paged<float>(of, of.shape); }));
  all.push_back(keeping<through_stores>("rolling, float, a window as long as the text", true,
                                        [](sizes const& of) { return rolling(of.shape, 0, of.tokens); }));
  all.push_back(keeping<through_stores>("a head in pages, a head in such a window", true, [](sizes const& of) {
    return head_policy_cache(paged<float>(of, of.one_head), rolling(of.one_head, 0, of.tokens), second_head_streams);
  }));

  all.push_back(keeping<through_stores>("contiguous, half", false, contiguous<attend::half>));
  all.push_back(keeping<through_stores>("contiguous, bfloat16", false, contiguous<attend::bfloat16>));
  all.push_back(keeping<through_stores>("contiguous, int8", false, contiguous<std::int8_t>));
  all.push_back(
      keeping<through_stores>("paged, int8", false, [](sizes const& of) { return paged<std::int8_t>(of, of.shape); }));
  all.push_back(
      keeping<through_stores>("contiguous, keys int8, values int4", false, contiguous<std::int8_t, int4_pair>));
  all.push_back(keeping<through_stores>("contiguous, int4", false, contiguous<int4_pair>));

  all.push_back(keeping<through_stores>("rolling, the last 64", false,
                                        [](sizes const& of) { return rolling(of.shape, 0, few_tokens); }));
  all.push_back(keeping<through_stores>("rolling, 4 sinks and the last 60", false,
                                        [=](sizes const& of) { return rolling(of.shape, sinks, window); }));
  all.push_back(keeping<with_cache_positions>("the same, positions in the cache", false,
                                              [=](sizes const& of) { return rolling(of.shape, sinks, window); }));
  all.push_back(keeping<with_compensation>("the same, compensated", false, [=](sizes const& of) {
    return compensated_cache<float>(of.shape, {sinks, window}, prompt_piece);
  }));
  all.push_back(keeping<through_stores>("a head in pages, a head rolling 4 + 60", false, [=](sizes const& of) {
    return head_policy_cache(paged<float>(of, of.one_head), rolling(of.one_head, sinks, window), second_head_streams);
  }));
  all.push_back(keeping<with_compensation>("the same, compensated head", false, [=](sizes const& of) {
    return head_policy_cache(paged<float>(of, of.one_head),
                             compensated_cache<float>(of.one_head, {sinks, window}, prompt_piece), second_head_streams);
  }));

  static std::vector<std::int32_t> const windows{window, few_tokens / 2 - sinks};
  all.push_back(evicting<false>("evicting, a head keeps 4 + 60, a head 4 + 28",
                                attend::caches::keep_window{.sinks = sinks, .windows = windows}));
  all.push_back(evicting<true>(
      "evicting, H2O: 4 + 28 and the 32 heaviest",
      attend::caches::keep_heaviest{.recent = few_tokens / 2 - sinks, .heaviest = few_tokens / 2, .sinks = sinks}));
  all.push_back(evicting<false>("evicting, 4 + 28 and the 32 shortest keys",
                                attend::caches::keep_smallest_keys{
                                    .recent = few_tokens / 2 - sinks, .smallest = few_tokens / 2, .sinks = sinks}));

  all.push_back(choosing(
      "Quest, 8 pages of 8",
      [](sizes const& of) {
        return quest_selector<float>(of.shape, of.query_heads, of.tokens,
                                     quest_pages({.tokens = few_tokens}, page_tokens));
      },
      selected));
  all.push_back(choosing(
      "Quest, 4 + 8 and pages of 8, 64 in all",
      [=](sizes const& of) {
        return quest_selector<float>(of.shape, of.query_heads, of.tokens, quest_pages(budget, page_tokens));
      },
      selected));
  all.push_back(choosing(
      "Kinetics, 4 + 8 and pages of 8, 64 in all",
      [=](sizes const& of) {
        return mean_page_selector<float>(of.shape, of.query_heads, of.tokens, kinetics_blocks(budget, page_tokens));
      },
      selected));
  all.push_back(choosing(
      "TokenSelect, 64 tokens for all heads",
      [=](sizes const& of) {
        return attend::selection::vote_selector<float>(of.shape, of.query_heads, of.tokens, {.budget = budget});
      },
      selected));
  all.push_back(choosing(
      "Recycled, 64 tokens, every 8th step full",
      [=](sizes const& of) {
        return recycled_selector<float>(of.shape, of.query_heads, of.tokens, {.budget = budget}, {.every = 8});
      },
      [](auto const& query, auto const& store, auto& selector, auto const& output, auto executor) {
        recycled_attention(query, store, selector, output, executor);
      }));
  all.push_back(choosing(
      "Retrieval, 4 + 28 and 32 of each query head",
      [](sizes const& of) {
        return retrieval_selector<>(of.shape, of.query_heads, of.tokens,
                                    {.first = sinks, .last = few_tokens / 2 - sinks, .tokens = few_tokens / 2});
      },
      [](auto const& query, auto const& store, auto& selector, auto const& output, auto executor) {
        selector.update(store);
        retrieval_attention(query, store, selector, output, executor);
      }));
  return all;
}

}  // namespace generate
