// SPDX-License-Identifier: BSD-3-Clause
// Decoding with chosen tokens (select_decode.hpp).
//
//   loki           rank 32 of 128; the keys stand for keys on their principal axes, and each step turns the query
//   token_select   a step that finds its selection from the one before
//   recycled       a step between two full ones
//   layer_reuse    a layer that takes the list of the one before
//   hip            a search among blocks of 64 in each `every`-th step, by middle tokens or by first blocks; a
//   benchmark is
//                  as many steps, beside as many dense ones
//   retrieval      half of the tokens are resident, half found by the flat index, which reads all keys
#include <attend/attention/sparse_decode/hip_selector.hpp>
#include <attend/attention/sparse_decode/loki_selector.hpp>
#include <attend/attention/sparse_decode/recycled_attention.hpp>
#include <attend/attention/sparse_decode/retrieval_attention.hpp>
#include <attend/select/vote_selector.hpp>

#include <utility>

#include "benchmarks.hpp"
#include "select_decode.hpp"

namespace attend_bench {
namespace {

using problem = select_decode_problem;
using T = problem::T;
constexpr attend::selection::selection_budget budget{.fraction = problem::budget};
constexpr double key_bytes = problem::row_bytes / 2 * problem::key_heads * problem::keys;

struct turned_query {
  random_tensor<T> query{{1, problem::query_heads, 1, problem::dimension}, 5};
  random_tensor<float> axes{{1, problem::key_heads, problem::dimension, problem::dimension}, 6};
  attend::systems::loki_selector<T> chooser;

  void update(attend::contiguous_cache<T> const& store) { chooser.update(store); }
};

void add_loki() {
  constexpr index_t rank = 32;
  add_select_decode(
      "loki32",
      [](problem& p) {
        return turned_query{
            .chooser = {p.shape(), p.query_heads, p.keys, attend::systems::loki_tokens(budget), {rank}}};
      },
      [](problem& p, turned_query& t, attend::threads threads) {
        attend::tensor_view<float const, 3> const axes(t.axes.view().data(), {p.key_heads, p.dimension, p.dimension});
        attend::systems::to_principal_axes(p.query.view(), axes, t.query.view());
        attend::selection::selected_attention(t.query.view(), p.store, t.chooser, p.output.view(), threads);
      },
      [](turned_query const& t) {
        return static_cast<double>(t.chooser.bytes_scored()) + list_bytes(t.chooser.lists());
      });
}

void add_token_select() {
  using chooser = attend::selection::vote_selector<float>;
  add_select_decode(
      "token_select", [](problem& p) { return chooser(p.shape(), p.query_heads, p.keys, {.budget = budget}); },
      [](problem& p, chooser& chosen, attend::threads threads) {
        attend::selection::selected_attention(p.query.view(), p.store, chosen, p.output.view(), threads);
      },
      [](chooser const& chosen) { return static_cast<double>(chosen.bytes_scored()) + list_bytes(chosen.lists()); });
}

void add_recycled() {
  using chooser = attend::systems::recycled_selector<float>;
  add_select_decode(
      "recycled",
      [](problem& p) {
        return chooser(p.shape(), p.query_heads, p.keys, {.budget = budget}, {.every = 1'000'000'000});
      },
      [](problem& p, chooser& chosen, attend::threads threads) {
        attend::systems::recycled_attention(p.query.view(), p.store, chosen, p.output.view(), threads);
      },
      [](chooser const& chosen) { return list_bytes(chosen.lists()); });
}

void add_layer_reuse() {
  struct layers {
    attend::selection::weight_selector<float> chooser;
    bool chosen = false;
  };
  add_select_decode(
      "layer_reuse", [](problem& p) { return layers{{p.shape(), p.query_heads, p.keys, {.budget = budget}}}; },
      [](problem& p, layers& all, attend::threads threads) {
        bool const full_layer = !std::exchange(all.chosen, true);
        attend::systems::hylra_attention(p.query.view(), p.store, all.chooser, full_layer, p.output.view(), threads);
      },
      [](layers const& all) { return list_bytes(all.chooser.lists()); });
}

void add_hip(std::string const& name, attend::systems::hip_form form, index_t every, int threads) {
  using chooser = attend::systems::hip_selector<float>;
  constexpr index_t block = 64;
  constexpr auto blocks = static_cast<index_t>(problem::budget * problem::keys) / block;
  auto const path = "select/decode/" + name + "/bf16/b1/hq32/hkv8/sq1/skv131072/d128/budget5/every" +
                    std::to_string(every) + "/t" + std::to_string(threads);
  register_select(path, 3, [=] {
    problem& p = problem::instance();
    auto const kept = std::make_shared<chooser>(
        p.shape(), p.query_heads, p.keys,
        attend::systems::hip_selector_options{.block_tokens = block, .blocks = blocks, .form = form, .every = every});
    auto const bytes = std::make_shared<double>(0);
    auto const steps = [every](auto const& step) {
      for (index_t i = 0; i < every; ++i) step();
    };
    return select_run{
        [=, &p] {
          *bytes = 0;
          steps([&] {
            attend::selection::selected_attention(p.query.view(), p.store, *kept, p.output.view(),
                                                  attend::threads{threads});
            *bytes += static_cast<double>(kept->bytes_scored()) + list_bytes(kept->lists());
          });
        },
        [=, &p] {
          steps([&] { attend::decode_attention(p.query.view(), p.store, p.output.view(), attend::threads{threads}); });
        },
        [=] { return problem::row_bytes * static_cast<double>(problem::key_heads * problem::keys * every) / *bytes; }};
  });
}

void add_retrieval() {
  using chooser = attend::systems::retrieval_selector<>;
  constexpr auto tokens = static_cast<index_t>(problem::budget * problem::keys);
  add_select_decode(
      "retrieval_flat",
      [](problem& p) { return chooser(p.shape(), p.query_heads, p.keys, {tokens / 8, tokens * 3 / 8, tokens / 2}); },
      [](problem& p, chooser& chosen, attend::threads threads) {
        attend::systems::retrieval_attention(p.query.view(), p.store, chosen, p.output.view(), threads);
      },
      [](chooser const& chosen) { return key_bytes + list_bytes(chosen.lists()) + list_bytes(chosen.resident()); });
}

}  // namespace

void register_select_tokens() {
  add_loki();
  add_token_select();
  add_recycled();
  add_layer_reuse();
  for (int const threads : {1, 2})
    for (index_t const every : {1, 4, 8}) {
      add_hip("hip", attend::systems::hip_form::middle_token, every, threads);
      add_hip("hip_released", attend::systems::hip_form::first_block, every, threads);
    }
  add_retrieval();
}

}  // namespace attend_bench
