// SPDX-License-Identifier: BSD-3-Clause
// What statistics of rows cost beside the call that they are taken from: none, each alone, and all of them. The wanted
// ratio to none is at most 1.25.
//
//   statistics/<which>/...   mass of 8 ranges; top1, top8: the heaviest keys; entropy; blocks: largest weights of
//                            64 x 64 pairs; all: mass, top1, entropy and blocks
#include <attend/attention/cached/decode_attention.hpp>
#include <attend/policy/functions.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/row_statistics.hpp>

#include <vector>

#include "benchmarks.hpp"
#include "softmax_call.hpp"
#include "visible_pairs.hpp"

namespace attend_bench {
namespace {

using namespace attend::options;

constexpr index_t ranges = 8, block = 64;

/// Room for the statistics of a shape.
struct told {
  std::vector<attend::extend::key_range> of_keys;
  random_tensor<float> masses, largest, of_eight, entropies, maxima;
  std::vector<std::int32_t> key, eight;
  attention_shape shape;

  explicit told(attention_shape const& s)
      : masses({s.batch, s.query_heads, s.queries, ranges}, 5),
        largest({s.batch, s.query_heads, s.queries, 1}, 5),
        of_eight({s.batch, s.query_heads, s.queries, 8}, 5),
        entropies({1, s.batch, s.query_heads, s.queries}, 5),
        maxima({s.batch, s.query_heads, (s.queries + block - 1) / block, s.keys / block}, 5),
        key(static_cast<std::size_t>(s.batch * s.query_heads * s.queries)),
        eight(key.size() * 8),
        shape(s) {
    for (index_t i = 0; i < ranges; ++i) of_keys.push_back({i * s.keys / ranges, (i + 1) * s.keys / ranges});
  }

  auto mass() { return range_mass(of_keys, masses.view()); }
  auto top1() { return heaviest_keys(keys(key, 1), largest.view()); }
  auto top8() { return heaviest_keys(keys(eight, 8), of_eight.view()); }
  auto disorder() {
    return entropy(
        attend::tensor_view<float, 3>(entropies.view().data(), {shape.batch, shape.query_heads, shape.queries}));
  }
  auto blocks() { return block_maxima(maxima.view(), {.queries = block, .keys = block}); }

 private:
  attend::tensor_view<std::int32_t, 4> keys(std::vector<std::int32_t>& numbers, index_t of_row) {
    return {numbers.data(), {shape.batch, shape.query_heads, shape.queries, of_row}};
  }
};

/// Registers call(query, key, value, output, options...) with each choice of statistics.
template <class T, class Call>
void add(element_type type, attention_shape const& shape, std::string const& mask, double pairs, limit limited_by,
         Call const& call) {
  auto const with = [&](char const* which, auto const& options_of) {
    register_attention({std::string("statistics/") + which, type, shape, mask, pairs, limited_by,
                        [=] {
                          auto const room = std::make_shared<told>(shape);
                          return tensor_call<T>(shape, room, [=](auto&&... more) {
                            std::apply([&](auto const&... options) { call(more..., options...); }, options_of(*room));
                          });
                        }},
                       {1});
  };
  with("none", [](told&) { return std::tuple(); });
  with("mass", [](told& to) { return std::tuple(to.mass()); });
  with("top1", [](told& to) { return std::tuple(to.top1()); });
  with("top8", [](told& to) { return std::tuple(to.top8()); });
  with("entropy", [](told& to) { return std::tuple(to.disorder()); });
  with("blocks", [](told& to) { return std::tuple(to.blocks()); });
  with("all", [](told& to) { return std::tuple(to.mass(), to.top1(), to.disorder(), to.blocks()); });
}

template <class T>
void add_prefill(element_type type, index_t dimension) {
  attention_shape const shape{1, 8, 2, 2048, 2048, dimension};
  add<T>(type, shape, "causal", window_pairs(shape.queries, shape.keys, -1, 0), limit::arithmetic,
         [](auto const&... arguments) { attend::softmax_attention(arguments..., attend::causal{}); });
}

}  // namespace

void register_statistics() {
  for (index_t const dimension : {64, 128}) {
    add_prefill<float>(element_type::f32, dimension);
    add_prefill<attend::bfloat16>(element_type::bf16, dimension);
  }
  attention_shape const decode{1, 32, 8, 1, 131072, 128};
  add<attend::bfloat16>(element_type::bf16, decode, "dense", static_cast<double>(decode.keys), limit::bandwidth,
                        [](auto const&... arguments) { attend::decode_attention(arguments...); });
}

}  // namespace attend_bench
