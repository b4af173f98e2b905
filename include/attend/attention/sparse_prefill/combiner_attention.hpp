// SPDX-License-Identifier: BSD-3-Clause
// Combiner: every query reaches every key it may see, some directly, the others through expectations over regions.
//
//   o_i    = sum_{j in D_i} p(j|i) v_j + sum_{r in R_i} p(r|i) vbar_r
//   p(.|i) = one softmax over s q_i . k_j for the keys and s q_i . kbar_r for the regions
//   qbar_r, kbar_r = largest element of each dimension among the queries and keys of region r
//   vbar_r = sum_{j in r} softmax_{j in r}(s qbar_r . k_j) v_j             shared by all queries
//
//   fixed        segments of length B; D_i the own segment, R_i all other ones; causal: D_i up to i, R_i earlier ones
//   logsparse    causal; D_i = {i}, R_i the dyadic spans that tile [0, i), one for each bit of i
//   axial        causal, a grid of tokens, row-major; D_i the own row up to i, R_i each column above the row
//
//   query, key, value, output   as for softmax_attention, as many queries as keys; query heads have their own regions
//
// Cost of n tokens: fixed n * (B + n / B) pairs; logsparse n log n; axial n * 3 / 2 columns, and n * rows / 2 for its
// summaries, which are attention themselves: of pooled queries to the columns above. Memory: the summaries.
//
// Hongyu Ren et al.: Combiner: Full Attention Transformer with Sparse Computation Cost, 2021; with its max pooling.
// Axial is the form with rows that are read directly. Not here: pooling by mean or sum and behind a ReLU or a small
// network; the axial forms whose regions are earlier rows, or which also read their own column; logsparse and axial
// without a causal mask, which the authors' code has not either; and decoding, where queries are fewer than keys.
#pragma once

#include "../../call/plan.hpp"
#include "../../core/head_loop.hpp"
#include "../../engine/softmax/gathered.hpp"
#include "../../engine/softmax/row_parts.hpp"
#include "../../engine/softmax/token_stride.hpp"
#include "../../policy/mask/causal.hpp"
#include "../../simd/dot.hpp"
#include "../../simd/transform_row.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// Regions of a head, in the accumulation type: pooled queries and keys [region][key dimension], values
/// [region][value dimension].
template <class A>
struct region_summaries {
  A *query, *key, *value;
  index_t key_dimension, value_dimension;

  region_summaries(scratch& memory, index_t regions, problem_shape const& shape)
      : query(memory.allocate<A>(regions * shape.key_dimension)),
        key(memory.allocate<A>(regions * shape.key_dimension)),
        value(memory.allocate<A>(regions * shape.value_dimension)),
        key_dimension(shape.key_dimension),
        value_dimension(shape.value_dimension) {}

  /// Rows for the engine.
  engine::tensor_rows<A> rows(index_t first, index_t count) const {
    return {{key + first * key_dimension, key_dimension}, {value + first * value_dimension, value_dimension}, count};
  }
};

/// The work of one head of a batch, checked.
template <Element T>
class combiner_head {
 public:
  using A = accumulation_t<T>;

  combiner_head(engine::problem<T> const& p, index_t batch, index_t head)
      : p_(p),
        batch_(batch),
        head_(head),
        source_(p),
        keys_{&source_, batch, head / p.heads_per_group()},
        query_(engine::rows_of_head(p.query, batch, head, 0)),
        key_(engine::rows_of_head(p.key, batch, head / (p.shape.query_heads / p.shape.key_heads), 0)),
        value_(engine::rows_of_head(p.value, batch, head / (p.shape.query_heads / p.shape.value_heads), 0)) {}

  template <class E>
  void fixed(index_t segment, bool is_causal, E& executor) const {
    index_t const tokens = p_.shape.keys, segments = divide_up(tokens, segment);
    scratch memory;
    region_summaries<A> const all(memory, segments, p_.shape);
    auto const first = [&](index_t r) { return r * segment; };
    auto const size = [&](index_t r) { return std::min(segment, tokens - r * segment); };
    for_heads(executor, 1, segments, std::min(segment, tokens) * of_member(), [&](index_t, index_t r) {
      for (index_t j = 0; j < size(r); ++j) pool(all, r, j == 0 ? none : r, first(r) + j);
      prefetch(all, r, size(r), [&](index_t j) { return first(r) + j; });
    });
    index_t const seen = std::min(segment, tokens) + segments;
    engine::for_block_parts(p_, 1, {0, tokens}, segment, max_rows, seen, executor, [&](index_t r, key_range part) {
      index_t const from = part.first, count = part.count();
      scratch memory_of_task;
      engine::gathered_tiles<T> tiles(p_, batch_, memory_of_task);
      set_rows(tiles, from, count);
      engine::key_block block(memory_of_task, keys_, tiles.shape_of_block());
      if (is_causal)
        tiles.add_keys(block, keys_, first(r), from + count - first(r), causal{});
      else
        tiles.add_keys(block, keys_, first(r), size(r), full{});
      add_regions(tiles, all, 0, r);
      if (!is_causal) add_regions(tiles, all, r + 1, segments - r - 1);
      tiles.write();
    });
  }

  template <class E>
  void axial(index_t columns, E& executor) const {
    index_t const rows = p_.shape.keys / columns;
    scratch memory;
    // What stands above row y in column x is region y * columns + x; there is none above the first row.
    region_summaries<A> const all(memory, rows * columns, p_.shape);
    // Each place of a column attends to those above it.
    loop_cost const of_columns = columns_per_task * rows * divide_up(rows, 2) * of_member();
    for_heads(executor, 1, divide_up(columns, columns_per_task), of_columns, [&](index_t, index_t part) {
      index_t const last = std::min((part + 1) * columns_per_task, columns);
      for (index_t y = 1; y < rows; ++y)
        for (index_t x = part * columns_per_task; x < last; ++x) {
          index_t const r = y * columns + x;
          pool(all, r, y == 1 ? none : r - columns, r - columns);
        }
      prefetch_above(all, part * columns_per_task, last, columns);
    });
    key_range const all_tokens{0, p_.shape.keys};
    engine::for_block_parts(p_, 1, all_tokens, columns, max_rows, 3 * columns / 2, executor,
                            [&](index_t y, key_range part) {
                              index_t const from = part.first, count = part.count();
                              scratch memory_of_task;
                              engine::gathered_tiles<T> tiles(p_, batch_, memory_of_task);
                              set_rows(tiles, from, count);
                              engine::key_block block(memory_of_task, keys_, tiles.shape_of_block());
                              tiles.add_keys(block, keys_, y * columns, from + count - y * columns, causal{});
                              if (y > 0) add_regions(tiles, all, y * columns, columns);
                              tiles.write();
                            });
  }

  template <class E>
  void logsparse(E& executor) const {
    index_t const tokens = p_.shape.keys;
    // Level l has the spans [m 2^l, (m + 1) 2^l) that are whole, from place first[l] on; level 0 is the tokens.
    index_t first[64], levels = 0, count = 0;
    for (; tokens >> levels > 0; ++levels) {
      first[levels] = count;
      count += tokens >> levels;
    }
    scratch memory;
    region_summaries<A> const all(memory, count, p_.shape);
    for (index_t level = 0; level < levels; ++level)
      for_tokens(executor, 1, 1, tokens >> level, divide_up(index_t{1} << level, 2) * of_member(),
                 [&](index_t, index_t, index_t from, index_t to) {
                   for (index_t m = from; m < to; ++m) {
                     index_t const r = first[level] + m;
                     if (level == 0) {
                       pool(all, r, none, m);
                       simd::widen_row(value_.row(m), all.value + r * all.value_dimension, all.value_dimension);
                       continue;
                     }
                     for (A* pooled : {all.query, all.key})
                       for (index_t c = 0; c < all.key_dimension; ++c) {
                         A const* const halves = pooled + (first[level - 1] + 2 * m) * all.key_dimension + c;
                         pooled[r * all.key_dimension + c] = std::max(halves[0], halves[all.key_dimension]);
                       }
                     // Only spans that end where a longer one has its middle are ever seen.
                     if (m % 2 == 0) prefetch(all, r, index_t{1} << level, [&](index_t j) { return (m << level) + j; });
                   }
                 });
    for_tokens(executor, 1, 1, tokens, levels * of_member(), [&](index_t, index_t, index_t from, index_t to) {
      scratch memory_of_part;
      A* const own = memory_of_part.allocate<A>(all.key_dimension);
      for (index_t i = from; i < to; ++i) {
        index_t list[64], size = 0;
        list[size++] = i;
        for (index_t level = 0; level < levels; ++level)
          if (i >> level & 1) list[size++] = first[level] + (i >> level) - 1;
        simd::widen_row(query_.row(i), own, all.key_dimension);
        A factor[64];
        for (index_t r = 0; r < size; ++r)
          factor[r] = p_.scale * simd::dot(own, all.key + list[r] * all.key_dimension, all.key_dimension);
        A const log_sum_exp = engine::merge_factors(factor, size);
        if (all.value_dimension > 0)
          engine::merge_rows(
              factor, size, [&](index_t r) { return all.value + list[r] * all.value_dimension; }, all.value_dimension,
              &p_.output(batch_, head_, i, 0));
        if (p_.log_sum_exp.data()) p_.log_sum_exp(batch_, head_, i) = log_sum_exp;
      }
    });
  }

 private:
  static constexpr index_t max_rows = engine::gathered_tiles<T>::max_rows;
  static constexpr index_t columns_per_task = 8;
  static constexpr index_t none = -1;  // region

  /// What a token costs in a region: its logit and its value.
  loop_cost of_member() const { return loop_cost::of(2 * (p_.shape.key_dimension + p_.shape.value_dimension)); }

  void set_rows(engine::gathered_tiles<T>& tiles, index_t first, index_t count) const {
    tiles.set_rows(count, [&](index_t i) { return typename engine::gathered_tiles<T>::row{head_, first + i}; });
  }

  void add_regions(engine::gathered_tiles<T>& tiles, region_summaries<A> const& all, index_t first,
                   index_t count) const {
    if (count <= 0) return;
    scratch memory;
    auto const rows = all.rows(first, count);
    engine::key_block block(memory, rows, tiles.shape_of_block());
    tiles.add_keys(block, rows, 0, count, full{});
  }

  /// The values of the regions in columns [first, last) of a grid: pooled queries attend to the tokens above them, as
  /// the queries of a problem of their own.
  void prefetch_above(region_summaries<A> const& all, index_t first, index_t last, index_t columns) const {
    index_t const tokens = p_.shape.keys, rows = tokens / columns;
    scratch memory;
    tensor_view<A const, 4> const pooled(all.query, {1, 1, tokens, all.key_dimension});
    problem_shape const shape{1, 1, 1, 1, tokens, tokens, all.key_dimension, all.value_dimension, 1};
    engine::problem<A> regions(pooled, pooled, shape);
    regions.output = tensor_view<A, 4>(all.value, {1, 1, tokens, all.value_dimension});
    regions.scale = p_.scale;
    engine::gathered_tiles<A> tiles(regions, 0, memory);
    for (index_t x = first; x < last; ++x)
      for (index_t y = 1; y < rows; y += max_rows) {
        index_t const count = std::min(max_rows, rows - y);
        tiles.set_rows(count,
                       [&](index_t i) { return typename engine::gathered_tiles<A>::row{0, (y + i) * columns + x}; });
        engine::token_stride const column{x, columns, y + count - 1};
        engine::ordered_rows<engine::source_rows<engine::problem_rows<T>>, engine::token_stride> const above{keys_,
                                                                                                             column};
        scratch memory_of_keys;
        engine::key_block block(memory_of_keys, above, tiles.shape_of_block());
        tiles.add_keys(block, above, 0, column.count, engine::stride_before{column, columns});
        tiles.write();
      }
  }

  /// The pooled query and key of region r are those of another, or of none, and of a token.
  void pool(region_summaries<A> const& all, index_t r, index_t other, index_t token) const {
    index_t const dimension = all.key_dimension;
    auto const raise = [&](T const* row, A* pooled) {
      using V = simd::vector<A>;
      A* const to = pooled + r * dimension;
      if (other == none) return simd::widen_row(row, to, dimension);
      simd::transform_row(
          to, dimension, [](V const& most, V const& come) { return simd::select(most < come, come, most); },
          static_cast<A const*>(pooled + other * dimension), row);
    };
    raise(query_.row(token), all.query);
    raise(key_.row(token), all.key);
  }

  /// The value of region r, whose tokens are token(0), token(1), ...
  template <class Token>
  void prefetch(region_summaries<A> const& all, index_t r, index_t tokens, Token const& token) const {
    scratch memory;
    A* const factor = memory.allocate<A>(tokens);
    for (index_t j = 0; j < tokens; ++j)
      factor[j] = p_.scale * simd::dot(key_.row(token(j)), all.query + r * all.key_dimension, all.key_dimension);
    engine::merge_factors(factor, tokens);
    if (all.value_dimension > 0)
      engine::merge_rows(
          factor, tokens, [&](index_t j) { return value_.row(token(j)); }, all.value_dimension,
          all.value + r * all.value_dimension);
  }

  engine::problem<T> const& p_;
  index_t batch_, head_;
  engine::problem_rows<T> source_;
  engine::source_rows<engine::problem_rows<T>> keys_;
  engine::rows_of<T> query_, key_, value_;
};

template <class Query, class Key, class Value, class Output, class Run, class... Options>
void run_combiner(Query const& query, Key const& key, Value const& value, Output&& output, Run const& run,
                  Options&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  call::check_only_causal<Options...>();
  auto problem = call::problem_of(query, key, value, output);
  check_extent("key", "tokens", problem.shape.keys, problem.shape.queries, "query");
  full everything;
  check_last_at_last(find_option<option::mask>(everything, options...), problem.shape);
  auto plan =
      call::plan<call::allows<option::mask, option::scale, option::log_sum_exp, option::executor>>(problem, options...);
  if (problem.shape.queries == 0) return;
  for (index_t task = 0; task < problem.shape.batches * problem.shape.query_heads; ++task)
    run(combiner_head<T>(problem, task / problem.shape.query_heads, task % problem.shape.query_heads), plan.executor);
}

}  // namespace detail

namespace systems {

/// The fixed form, with segments of `segment` tokens. Query, key, value and output have the shapes of
/// softmax_attention, with as many queries as keys. Options: causal{}, scale (1/sqrt(key dimension) unless given),
/// log_sum_exp and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, or the
/// segment is less than 1 token.
///
///     combiner_fixed_attention(q, k, v, o, 64, causal{});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void combiner_fixed_attention(Query const& query, Key const& key, Value const& value, Output&& output, index_t segment,
                              Options&&... options) {
  if (segment < 1 || segment >= token_limit)
    fail("segment", "expected 1 to ", token_limit - 1, " tokens, got ", segment);
  detail::run_combiner(
      query, key, value, output,
      [&](auto const& head, auto& executor) {
        head.fixed(segment, detail::has_kind<option::mask, Options...>, executor);
      },
      options...);
}

/// The logsparse form, which is causal. Query, key, value and output have the shapes of softmax_attention, with as many
/// queries as keys. Options: scale (1/sqrt(key dimension) unless given), log_sum_exp and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     combiner_logsparse_attention(q, k, v, o);
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void combiner_logsparse_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                                  Options&&... options) {
  detail::run_combiner(
      query, key, value, output, [](auto const& head, auto& executor) { head.logsparse(executor); }, options...);
}

/// The axial form, which is causal, over a grid with `columns` columns, row-major. Query, key, value and output have
/// the shapes of softmax_attention, with as many queries as keys. Options: scale (1/sqrt(key dimension) unless given),
/// log_sum_exp and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, or the
/// columns do not divide the tokens.
///
///     combiner_axial_attention(q, k, v, o, 64);
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void combiner_axial_attention(Query const& query, Key const& key, Value const& value, Output&& output, index_t columns,
                              Options&&... options) {
  index_t const tokens = raise<4>(view_of(query)).extent(2);
  if (columns < 1 || tokens % columns != 0)
    fail("columns", "expected a divisor of ", tokens, " (tokens of query), got ", columns);
  detail::run_combiner(
      query, key, value, output, [&](auto const& head, auto& executor) { head.axial(columns, executor); }, options...);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
