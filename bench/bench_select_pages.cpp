// SPDX-License-Identifier: BSD-3-Clause
// Decoding with chosen pages (select_decode.hpp).
//
//   landmark     blocks of 64, a list for each query head
//   long_heads   chunks of 256, a list for each query head, whose keys are rotated for their places in their chunks;
//                long_heads_rotating: keys that are not rotated before they are chosen
//   seer         blocks of 64 by a gate of random weights, a list for the heads that share keys
#include <attend/attention/sparse_decode/landmark_attention.hpp>
#include <attend/attention/sparse_decode/long_heads_attention.hpp>
#include <attend/attention/sparse_decode/mean_page_selector.hpp>
#include <attend/attention/sparse_decode/quest_selector.hpp>
#include <attend/attention/sparse_decode/seer_attention.hpp>

#include <type_traits>

#include "benchmarks.hpp"
#include "select_decode.hpp"

namespace attend_bench {
namespace {

using problem = select_decode_problem;
constexpr auto budget_tokens = static_cast<index_t>(problem::budget * problem::keys);

auto const bytes_told = [](auto const& chooser) {
  return static_cast<double>(chooser.bytes_scored()) + list_bytes(chooser.lists());
};

void add_landmark() {
  using chooser = attend::systems::landmark_selector<problem::T>;
  constexpr index_t block = 64;
  add_select_decode(
      "landmark", [](problem& p) { return chooser(p.shape(), p.query_heads, p.keys, budget_tokens / block, block); },
      [](problem& p, chooser& chosen, attend::threads threads) {
        attend::systems::landmark_attention(p.query.view(), p.store, chosen, p.output.view(), threads);
      },
      bytes_told);
}

/// What the chunks are represented by are other random numbers than the cache's: it makes no difference to the time.
void add_long_heads() {
  using chooser = attend::systems::long_heads_selector<problem::T>;
  constexpr index_t chunk = 256;
  auto const make = [](problem& p) {
    chooser made(p.shape(), p.query_heads, p.keys, budget_tokens / chunk, chunk);
    random_tensor<problem::T> query({1, p.query_heads, chunk, p.dimension}, 7),
        keys({1, p.key_heads, 2 * chunk, p.dimension}, 8);
    auto const all = keys.view();
    for (index_t number = 0; number < p.keys / chunk; ++number) {
      attend::tensor_view<problem::T const, 4> const key(&all(0, 0, number * 97 % chunk, 0),
                                                         {1, p.key_heads, chunk, p.dimension}, all.strides());
      made.represent(0, query.view(), key, key, attend::threads{2});
    }
    return made;
  };
  auto const position = [] { return attend::rotary(attend::options::rotary_frequencies(problem::dimension)); };
  add_select_decode(
      "long_heads", make,
      [=](problem& p, chooser& chosen, attend::threads threads) {
        attend::systems::long_heads_attention(p.query.view(), p.store, chosen, p.output.view(), position(), threads);
      },
      bytes_told);
  add_select_decode(
      "long_heads_rotating", make,
      [=](problem& p, chooser& chosen, attend::threads threads) {
        attend::selection::selected_attention(p.query.view(), p.store, chosen, p.output.view(), position(), threads);
      },
      bytes_told);
}

struct gated {
  static constexpr index_t d = problem::dimension;
  random_tensor<float> query_weight{{1, 1, d, d}, 9}, key_weight{{1, problem::key_heads, 3 * d, d}, 10};
  attend::systems::seer_selector<problem::T> chooser{
      problem::shape(), problem::query_heads, problem::keys,
      attend::systems::seer_blocks({.fraction = problem::budget}, 64, attend::selection::list_of::key_value_head),
      attend::systems::seer_gate(
          attend::tensor_view<float const, 3>(query_weight.view().data(), {1, d, d}),
          attend::tensor_view<float const, 3>(key_weight.view().data(), {problem::key_heads, 3 * d, d}),
          attend::rotary(attend::options::rotary_frequencies(d)), 64)};

  template <class Store>
  void update(Store const& store) {
    chooser.update(store, attend::threads{2});
  }
};

void add_seer() {
  add_select_decode(
      "seer", [](problem&) { return gated(); },
      [](problem& p, gated& gate, attend::threads threads) {
        attend::systems::seer_attention(p.query.view(), p.query.view(), p.store, gate.chooser, p.output.view(),
                                        threads);
      },
      [](gated const& gate) { return bytes_told(gate.chooser); });
}

}  // namespace

void register_select_pages() {
  using quest = attend::systems::quest_selector<problem::T>;
  using means = attend::systems::mean_page_selector<problem::T>;
  using attend::selection::list_of;
  attend::selection::selection_budget const budget{.fraction = problem::budget};
  auto const pages = [](auto kind, attend::selection::page_selector_options const& choice) {
    return [=](problem& p) { return typename decltype(kind)::type(p.shape(), p.query_heads, p.keys, choice); };
  };
  add_select_decode("quest", pages(std::type_identity<quest>{}, attend::systems::quest_pages(budget)));
  add_select_decode("quest_of_head",
                    pages(std::type_identity<quest>{}, attend::systems::quest_pages(budget, 16, list_of::query_head)));
  add_select_decode(
      "moba", pages(std::type_identity<means>{}, attend::systems::moba_blocks(budget, 512, list_of::key_value_head)));
  add_select_decode("kinetics", pages(std::type_identity<means>{}, attend::systems::kinetics_blocks(budget)));
  add_landmark();
  add_long_heads();
  add_seer();
}

}  // namespace attend_bench
