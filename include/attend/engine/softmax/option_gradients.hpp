// SPDX-License-Identifier: BSD-3-Clause
// Gradients of options that are sums over pairs: those of a bias and of temperatures, for any axes that these share.
//
//   bias [b|1, h|1, i|1, j|1]     key axis shared: sums of rows;  query axis shared: sums of columns;  neither: pairs
//   temperatures [b|1, h|1, i|1]  sums of rows
//
// Sums of rows and columns are kept for each query head and batch, a number for a token, and added up over the shared
// axes at the end, in order. Pairs are added where they belong: memory for them is the gradient alone. Tasks that add
// to the same pairs, those of batches or heads that share them, are run one after the other by one thread.
#pragma once

#include "../../core/scratch.hpp"
#include "../../simd/pack.hpp"
#include "problem.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// What a backward call is given and gives for its options. Those that are not asked for are empty.
template <class A>
struct option_gradients {
  tensor_view<A const, 3> of_log_sum_exp;  // [batch, query head, query], which is read
  tensor_view<A, 4> bias;
  bool bias_is_padded = false;  // its only column is then that of key 0
  tensor_view<A, 3> logit_scale;
  tensor_view<A, 1> sinks;       // [query head | 1]
  tensor_view<A, 3> value_gain;  // [batch | 1, value head | 1, key]
  tensor_view<A, 2> head_gates;  // [batch | 1, query head]
  tensor_view<A, 2> table;       // [query head, place], without gaps, of a score that reads its numbers from a table
};

/// to = sums of `from` over the axes that have extent 1, or fewer heads, there: in order, in double.
template <class A>
void sum_shared_axes(tensor_view<A const, 3> const& from, tensor_view<A, 3> const& to) {
  auto const& all = from.extents();
  auto const& kept = to.extents();
  auto const part = [&](std::size_t axis, index_t at) {
    index_t const each = kept[axis] > 0 ? all[axis] / kept[axis] : 0;
    return key_range{at * each, (at + 1) * each};
  };
  for (index_t b = 0; b < kept[0]; ++b)
    for (index_t h = 0; h < kept[1]; ++h)
      for (index_t t = 0; t < kept[2]; ++t) {
        double sum = 0;
        key_range const batches = part(0, b), heads = part(1, h), tokens = part(2, t);
        for (index_t x = batches.first; x < batches.last; ++x)
          for (index_t y = heads.first; y < heads.last; ++y)
            for (index_t z = tokens.first; z < tokens.last; ++z) sum += static_cast<double>(from(x, y, z));
        to(b, h, t) = static_cast<A>(sum);
      }
}

/// The sums of a call.
template <class A>
class option_sums {
 public:
  static constexpr int lanes = simd::tile_lanes<A>;

  option_sums() = default;
  option_sums(option_gradients<A> const& g, problem_shape const& shape, scratch& memory) : g_(g) {
    auto const cleared = [&](index_t tokens) {
      std::array const extents{shape.batches, shape.query_heads, tokens};
      index_t const count = extents[0] * extents[1] * extents[2];
      A* const numbers = memory.allocate<A>(count);
      std::fill_n(numbers, count, A(0));
      return tensor_view<A, 3>(numbers, extents);
    };
    if (g.logit_scale.data()) logit_scale_ = cleared(shape.queries);
    if (!g.bias.data()) return;
    keys_shared_ = g.bias.extent(3) == 1 && shape.keys != 1 && !g.bias_is_padded;
    queries_shared_ = g.bias.extent(2) == 1 && shape.queries != 1;
    if (keys_shared_)
      bias_ = cleared(shape.queries);
    else if (queries_shared_)
      bias_ = cleared(shape.keys);
    else
      clear_pairs();
  }

  bool of_bias() const { return g_.bias.data(); }
  bool of_logit_scale() const { return g_.logit_scale.data(); }
  /// Whether tasks of several batches, and of how many heads of queries, add to the same pairs.
  bool pairs_share_batches(problem_shape const& shape) const {
    return of_pairs() && shape.batches > 1 && g_.bias.extent(0) == 1;
  }
  index_t heads_of_pairs(problem_shape const& shape) const {
    return of_pairs() ? shape.query_heads / std::max<index_t>(g_.bias.extent(1), 1) : 1;
  }

  /// Adds a row's sums.
  void add_row(tile_rows<A> const& rows, int lane, A of_bias, A of_scale) const {
    if (keys_shared_) bias_(rows.batch, rows.head[lane], rows.query_token(lane)) += of_bias;
    if (of_logit_scale()) logit_scale_(rows.batch, rows.head[lane], rows.query_token(lane)) += of_scale;
  }

  /// Adds what the pairs of a tile and a range of keys give to the bias: [key][stride].
  void add_pairs(tile_rows<A> const& rows, key_range range, A const* of_bias, index_t stride) const {
    if (keys_shared_) return;
    if (queries_shared_) {
      for (index_t j = 0; j < range.count(); ++j)
        for (int lane = 0; lane < rows.count; ++lane)
          bias_(rows.batch, rows.head[lane], rows.first_key_token + range.first + j) += of_bias[j * stride + lane];
      return;
    }
    scratch memory;
    A* const turned = memory.allocate<A>(lanes * max_block_keys);
    A* row[array_size(lanes)] = {};
    for (int lane = 0; lane < rows.count; ++lane) row[lane] = turned + lane * max_block_keys;
    lane_values<A> const one([](int) { return 1; });
    simd::unpack_columns<A>(of_bias, static_cast<int>(stride), range.count(), one.values, row);
    // A bias that is padded has columns for the first keys alone.
    index_t const first = rows.first_key_token + range.first;
    index_t const count = std::min(range.count(), g_.bias.extent(3) - first);
    if (count <= 0) return;
    index_t const heads = rows.shape->query_heads / g_.bias.extent(1);
    for (int lane = 0; lane < rows.count; ++lane) {
      A* const to =
          &g_.bias(g_.bias.extent(0) == 1 ? 0 : rows.batch, rows.head[lane] / heads, rows.query_token(lane), first);
      for (index_t j = 0; j < count; ++j) to[j] += row[lane][j];
    }
  }

  /// Writes the gradients that are sums of rows and columns.
  void finish() const {
    if (of_logit_scale()) sum_shared_axes<A>(logit_scale_, g_.logit_scale);
    if (!of_bias() || of_pairs()) return;
    auto const& extents = g_.bias.extents();
    auto const& strides = g_.bias.strides();
    std::size_t const axis = keys_shared_ ? 2 : 3;
    sum_shared_axes<A>(bias_, tensor_view<A, 3>(g_.bias.data(), {extents[0], extents[1], extents[axis]},
                                                {strides[0], strides[1], strides[axis]}));
  }

 private:
  bool of_pairs() const { return of_bias() && !keys_shared_ && !queries_shared_; }

  void clear_pairs() const {
    auto const& e = g_.bias.extents();
    if (e[3] == 0) return;
    for (index_t b = 0; b < e[0]; ++b)
      for (index_t h = 0; h < e[1]; ++h)
        for (index_t i = 0; i < e[2]; ++i) std::fill_n(&g_.bias(b, h, i, 0), e[3], A(0));
  }

  option_gradients<A> g_;
  tensor_view<A, 3> bias_, logit_scale_;
  bool keys_shared_ = false, queries_shared_ = false;
};

}  // namespace attend::inline ATTEND_TARGET::engine
