// SPDX-License-Identifier: BSD-3-Clause
// Softmax mass of blocks of keys for blocks of queries, estimated from sums along antidiagonals.
//
//   t_gj      = scale / S * sum_{s < S} q_{gS + S-1-s} . k_{jS + s}           for groups of S queries, and of S keys
//   w_gj      = softmax of t_gj over the groups j that begin at or before the group's last query
//   mass_IJ   = sum of w_gj over the groups g of block I and j of block J
//
// Each pair of groups is S x S logits, of which the S on one antidiagonal are summed up: every query and every key is
// in one of them, and vertical and slanted patterns cross it. As rows of S tokens one behind the other, the groups of
// queries (turned round) and of keys are matrices, whose product the sums are. Queries and keys that a group lacks at
// the ends of a sequence count as zeros. Groups of queries are counted from the call's first query.
//
// Cost: 2 * dimension operations for each pair of groups and each of their S tokens, 1/S of the logits, by a matrix
// unit where queries and keys are bfloat16 and the dimension a multiple of 32; an exponential for each pair of groups.
// Scratch: a tile's sums, [keys / S][tile lanes], and its queries.
//
// Ruyi Xu, Guangxuan Xiao, Haofeng Huang, Junxian Guo, Song Han: XAttention: Block Sparse Attention with Antidiagonal
// Scoring, 2025. Logits are also divided by the stride, as the authors' code does.
#pragma once

#include "../cache/quantize.hpp"
#include "../engine/softmax/pair_multiply.hpp"
#include "../policy/normalizer/softmax.hpp"
#include "../simd/pack.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// The masses for the queries [sequence, query head, query, dimension] and the keys of a store. A block has `groups`
/// groups of `stride` tokens.
template <Element T, KeyValueSource Source>
class antidiagonal_masses {
 public:
  using A = accumulation_t<T>;
  static constexpr index_t lanes = simd::tile_lanes<A>;

  antidiagonal_masses(tensor_view<T const, 4> const& query, Source const& source, index_t groups, index_t stride,
                      A scale)
      : query_(query),
        source_(source),
        groups_(groups),
        stride_(stride),
        depth_(stride * query.extent(3)),
        scale_(scale / static_cast<A>(stride)) {}

  /// How many blocks of queries fill a tile.
  index_t blocks_of_tile() const { return std::max<index_t>(lanes / groups_, 1); }

  /// Writes the masses of `count` blocks of queries from `first` on, [block][key block], of `key_blocks` blocks of
  /// keys.
  void write(index_t sequence, index_t head, index_t first, index_t count, index_t key_blocks, float* to) const {
    std::fill_n(to, count * key_blocks, 0.f);
    index_t const query_groups = divide_up(query_.extent(2), stride_);
    key_range const rows{first * groups_, std::min((first + count) * groups_, query_groups)};
    for (index_t group = rows.first; group < rows.last; group += lanes)
      add_tile(sequence, head, {group, std::min(group + lanes, rows.last)}, first, key_blocks, to);
  }

 private:
  using Key = typename Source::key_element;
  static constexpr bool may_use_pairs =
      simd::has_pair_products && std::same_as<T, bfloat16> && std::same_as<Key, bfloat16>;
  /// So many groups of keys are multiplied at once, in multiples of rows_of_product.
  static constexpr index_t groups_at_once = 64, rows_of_product = 16;
  static_assert(rows_of_product % simd::pair_tile == 0 && rows_of_product % simd::register_rows == 0);

  bool by_pairs() const {
    if constexpr (may_use_pairs)
      return simd::uses_pair_products() && simd::reads_in_place<simd::pair_unit>(query_.extent(3));
    else
      return false;
  }

  /// How many groups of keys a group of queries sees.
  index_t seen(index_t sequence, index_t group) const {
    index_t const size = source_.size(sequence), last = size - query_.extent(2) + (group + 1) * stride_ - 1;
    return last < 0 ? 0 : std::min(last / stride_ + 1, divide_up(size, stride_));
  }

  void add_tile(index_t sequence, index_t head, key_range rows, index_t first_block, index_t key_blocks,
                float* to) const {
    index_t const used = round_up(rows.count(), simd::width<A>), count = seen(sequence, rows.last - 1);
    if (count == 0) return;
    scratch memory;
    A* const sums = memory.allocate<A>(round_up(count, rows_of_product) * used);
    if (by_pairs())
      multiply_pairs(sequence, head, rows, count, used, sums);
    else
      multiply(sequence, head, rows, count, used, sums);
    // What not all of the rows see.
    for (index_t j = seen(sequence, rows.first); j < count; ++j)
      for (index_t row = rows.first; row < rows.last; ++row)
        if (j >= seen(sequence, row)) sums[j * used + row - rows.first] = -infinity<A>;
    A* const masses = memory.allocate<A>(key_blocks * used);
    index_t const blocks = divide_up(count, groups_);
    for (index_t lane = 0; lane < used; lane += simd::width<A>) weigh(sums + lane, count, used, masses + lane);
    for (index_t row = rows.first; row < rows.last; ++row) {
      float* const block = to + (row / groups_ - first_block) * key_blocks;
      for (index_t J = 0; J < blocks; ++J) block[J] += static_cast<float>(masses[J * used + row - rows.first]);
    }
  }

  /// Softmax over one vector of rows, summed up for each block.
  void weigh(A const* sums, index_t count, index_t used, A* masses) const {
    using namespace simd;
    vector<A> most(-infinity<A>), total(A(0));
    for (index_t j = 0; j < count; ++j) most = simd::max(most, load(sums + j * used));
    most = simd::select(most == vector<A>(-infinity<A>), vector<A>(A(0)), most);
    for (index_t j = 0; j < count; j += groups_) {
      vector<A> mass(A(0));
      for (index_t i = j; i < std::min(j + groups_, count); ++i)
        mass = mass + softmax_weight<A>(load(sums + i * used), most);
      store(masses + j / groups_ * used, mass);
      total = total + mass;
    }
    total = simd::select(total == vector<A>(A(0)), vector<A>(A(1)), total);
    for (index_t j = 0; j < count; j += groups_) {
      A* const mass = masses + j / groups_ * used;
      store(mass, load(mass) / total);
    }
  }

  /// Calls function(s, row) for each token s of a group of keys, with the rows that the groups of queries have there,
  /// in the lanes of a tile: `nothing` where they have none.
  template <class Function>
  void for_turned_rows(index_t sequence, index_t head, key_range rows, index_t used, T const* nothing,
                       Function const& function) const {
    T const* row[array_size(lanes)];
    for (index_t s = 0; s < stride_; ++s) {
      for (index_t lane = 0; lane < used; ++lane) {
        index_t const at = (rows.first + lane) * stride_ + stride_ - 1 - s;
        bool const there = lane < rows.count() && at < query_.extent(2);
        row[lane] = there ? &query_(sequence, head, at, 0) : nothing;
      }
      function(s, row);
    }
  }

  /// sums[j][lane] for the first `count` groups of keys.
  void multiply(index_t sequence, index_t head, key_range rows, index_t count, index_t used, A* sums) const {
    scratch memory;
    index_t const dimension = query_.extent(3);
    A* const packed = memory.allocate<A>(depth_ * used);
    for_turned_rows(sequence, head, rows, used, nullptr, [&](index_t s, T const* const* row) {
      simd::pack_columns(row, static_cast<int>(used), dimension, packed + s * dimension * used, used, scale_);
    });
    for_key_groups<A>(sequence, head, count, [&](engine::rows_of<A> const& keys, index_t first, index_t some) {
      simd::vector<A> peak[simd::register_vectors];
      for (auto& most : peak) most = simd::vector<A>(A(0));
      engine::block_prefetch none;
      engine::multiply_keys(static_cast<int>(used / simd::width<A>),
                            engine::key_work<A>{keys, some, {0, some}, packed, depth_, used}, sums + first * used, peak,
                            none);
    });
  }

  /// The same on a matrix unit.
  void multiply_pairs(index_t sequence, index_t head, key_range rows, index_t count, index_t used, A* sums) const {
    if constexpr (may_use_pairs) {
      scratch memory;
      index_t const dimension = query_.extent(3);
      auto* const packed = memory.allocate<simd::pair_bits>(depth_ / 2 * used);
      T* const nothing = memory.allocate<T>(dimension);
      std::memset(static_cast<void*>(nothing), 0, static_cast<std::size_t>(dimension) * sizeof(T));
      for_turned_rows(sequence, head, rows, used, nothing, [&](index_t s, T const* const* row) {
        void const* from[array_size(lanes)];
        std::copy_n(row, used, from);
        simd::transpose_pairs(from, used, dimension / 2, packed + s * dimension / 2 * used, used);
      });
      simd::pair_unit unit;
      engine::for_vectors(static_cast<int>(used / simd::width<A>), [&]<int Vectors>() {
        for_key_groups<T>(sequence, head, count, [&](engine::rows_of<T> const& keys, index_t first, index_t some) {
          constexpr index_t size = sizeof(T);
          simd::pair_matrix const matrix{reinterpret_cast<char const*>(keys.data), keys.stride * size,
                                         simd::pair_tile * keys.stride * size, simd::pair_depth * size};
          A* const to = sums + first * used;
          engine::block_prefetch none;
          engine::multiply_pair_rows<Vectors>(
              unit, matrix, some, packed, depth_, to, true, none, [] {}, [](index_t) {});
          for (index_t i = 0; i < some * used; i += simd::width<A>)
            simd::store(to + i, simd::load(to + i) * simd::vector<A>(scale_));
        });
      });
    }
  }

  /// Calls function(rows, first, count) for the first `count` groups of keys, some at a time: rows of their tokens one
  /// behind the other, where they lie if they are that already, else in a copy of type K. Rows behind the last group,
  /// up to a multiple of rows_of_product, and tokens behind the sequence are zeros.
  template <class K, class Function>
  void for_key_groups(index_t sequence, index_t head, index_t count, Function const& function) const {
    scratch memory;
    index_t const dimension = query_.extent(3), source_head = head / (query_.extent(1) / source_.key_value_heads());
    K* copy = nullptr;
    for (index_t first = 0; first < count; first += groups_at_once) {
      index_t const some = round_up(std::min(groups_at_once, count - first), rows_of_product);
      index_t const begin = first * stride_;
      index_t const end = std::min(begin + std::min(some, count - first) * stride_, source_.size(sequence));
      if constexpr (std::same_as<Key, K>) {
        auto const run = source_.rows(sequence, source_head, begin);
        if (run.key_stride == dimension && run.count >= some * stride_) {
          function(engine::rows_of<K>{run.key, depth_}, first, some);
          continue;
        }
      }
      if (!copy) copy = memory.allocate<K>(groups_at_once * depth_);
      for (index_t at = begin; at < end;) {
        auto const run = source_.rows(sequence, source_head, at);
        index_t const there = std::min(run.count, end - at);
        for (index_t i = 0; i < there; ++i) {
          K* const to = copy + (at - begin + i) * dimension;
          if constexpr (std::same_as<Key, K>)
            std::memcpy(static_cast<void*>(to), run.key + i * run.key_stride,
                        static_cast<std::size_t>(dimension) * sizeof(K));
          else
            read_key(run, i, dimension, to);
        }
        at += there;
      }
      std::memset(static_cast<void*>(copy + (end - begin) * dimension), 0,
                  static_cast<std::size_t>(some * depth_ - (end - begin) * dimension) * sizeof(K));
      function(engine::rows_of<K>{copy, depth_}, first, some);
    }
  }

  tensor_view<T const, 4> query_;
  Source const& source_;
  index_t groups_, stride_, depth_;
  A scale_;
};

}  // namespace attend::inline ATTEND_TARGET::detail
