// SPDX-License-Identifier: BSD-3-Clause
// Decoding over stores that the systems fill themselves (select_decode.hpp).
//
//   ltri           a token is appended, sees the spans that are chosen for it, and is observed; spans of 20 to 107
//   tokens a_vl           a step between two choices of the core: one half of the image tokens is kept, one in twenty
//   seen a_vl_choice    a step that chooses the core, for which it reads all kept keys
#include <attend/attention/sparse_decode/a_vl_selector.hpp>
#include <attend/attention/sparse_decode/ltri_attention.hpp>

#include "benchmarks.hpp"
#include "select_decode.hpp"

namespace attend_bench {
namespace {

using problem = select_decode_problem;
using T = problem::T;
using attend::caches::evicting_cache;

/// The problem's keys and values, a piece at a time.
template <class Store>
void fill_store(problem& p, Store& store) {
  index_t const tokens = problem::keys / 16;
  for (index_t first = 0; first < problem::keys; first += tokens) {
    auto const rows = p.store.rows(0, 0, first);
    auto const strides = [](index_t row) { return std::array<index_t, 4>{0, problem::keys * row, row, 1}; };
    std::array<index_t, 4> const extents{1, problem::key_heads, tokens, problem::dimension};
    store.append(attend::tensor_view<T const, 4>(rows.key, extents, strides(rows.key_stride)),
                 attend::tensor_view<T const, 4>(rows.value, extents, strides(rows.value_stride)));
  }
}

struct span_stream {
  attend::contiguous_cache<T> store{problem::shape(), problem::keys};
  attend::systems::span_selector<T> chooser{
      problem::shape(),
      problem::query_heads,
      problem::keys,
      {.budget = {.tokens = static_cast<index_t>(problem::budget * problem::keys), .first = 4, .last = 512}}};
  random_tensor<T> key{{1, problem::key_heads, 1, problem::dimension}, 7};
  random_tensor<T> queries{{1, problem::query_heads, 128, problem::dimension}, 8};

  /// All blocks but the last are divided by triangles of given lengths; the last one is half full.
  explicit span_stream(problem& p) {
    fill_store(p, store);
    index_t const block = chooser.choice().block_tokens, half = block / 2;
    std::vector<float> map(static_cast<std::size_t>(block * block), 0.f);
    index_t begin = 0;
    for (index_t const length : {20, 64, 40, 107, 25}) {
      for (index_t i = begin; i < begin + length; ++i)
        for (index_t j = begin; j <= i; ++j)
          map[static_cast<std::size_t>(i * block + j)] = 0.7f / static_cast<float>(i - begin + 1);
      begin += length;
    }
    while (chooser.observed(0) + block < problem::keys) chooser.add_block(0, {map.data(), {block, block}}, store);
    store.truncate(0, problem::keys - half);
    std::vector<float> const lse(static_cast<std::size_t>(problem::query_heads * half), 10.f);
    chooser.observe(queries.view(), attend::tensor_view<float const, 3>(lse.data(), {1, problem::query_heads, half}),
                    store);
  }

  void step(problem& p, attend::threads threads) {
    attend::systems::ltri_attention(store, chooser, p.query.view(), key.view(), key.view(), p.output.view(), 1,
                                    threads);
    index_t const size = store.size(0) - 1;
    store.truncate(0, size);
    chooser.truncate(0, size);
  }
};

void add_ltri() {
  add_select_decode(
      "ltri", [](problem& p) { return span_stream(p); },
      [](problem& p, span_stream& stream, attend::threads threads) { stream.step(p, threads); },
      [](span_stream const& stream) {
        // The keys of the block are read once more, for their weights.
        double const observed = static_cast<double>(stream.chooser.observed(0) % stream.chooser.choice().block_tokens) *
                                problem::key_heads * problem::row_bytes / 2;
        return static_cast<double>(stream.chooser.bytes_scored()) + list_bytes(stream.chooser.lists()) + observed;
      });
}

struct image_tiers {
  index_t const page_tokens = 128;
  evicting_cache<T> store{problem::shape(),
                          {.pages = problem::key_heads * problem::keys / page_tokens, .page_tokens = page_tokens}};
  std::vector<std::uint8_t> images = std::vector<std::uint8_t>(problem::keys, 1);
  attend::systems::a_vl_selector<float> chooser;

  image_tiers(problem& p, index_t every)
      : chooser(problem::shape(), problem::query_heads, problem::keys, {images.data(), {1, problem::keys}},
                {.secondary = 0.5, .core = problem::budget, .every = every, .sinks = 4, .recent = 512}) {
    fill_store(p, store);
    std::fill(images.end() - 512, images.end(), std::uint8_t{0});
    // A product with an odd number gives each token a score of its own.
    for (index_t head = 0; head < problem::key_heads; ++head)
      for (index_t row = 0; row < problem::keys;)
        for (float& score : store.scores(0, head, row)) score = static_cast<float>(row++ * 40503 % 65536);
    store.evict(chooser);
  }
};

void add_a_vl(char const* name, index_t every) {
  add_select_decode(
      name, [=](problem& p) { return image_tiers(p, every); },
      [](problem& p, image_tiers& tiers, attend::threads threads) {
        attend::selection::selected_attention(p.query.view(), tiers.store, tiers.chooser, p.output.view(), threads);
      },
      [=](image_tiers const& tiers) {
        double rows = 0;
        for (index_t head = 0; every == 1 && head < problem::key_heads; ++head)
          rows += static_cast<double>(tiers.store.stored(0, head));
        return list_bytes(tiers.chooser.lists()) + rows * problem::row_bytes / 2;
      });
}

}  // namespace

void register_select_spans() {
  add_ltri();
  add_a_vl("a_vl", 1'000'000'000);
  add_a_vl("a_vl_choice", 1);
}

}  // namespace attend_bench
