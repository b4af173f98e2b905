// SPDX-License-Identifier: BSD-3-Clause
// The factorized self-attention of Sparse Transformers: each query sees about the square root of the keys, and reaches
// every other in two layers.
//
//   strided   local    the last l + 1 keys, the own one among them
//             columns  j <= i with (i - j) mod l = 0
//   fixed     local    j <= i with floor(j / l) = floor(i / l): the own block
//             columns  j <= i with j mod l >= l - c: the last c of each block, which sum it up
//
//   o_i = softmax attention of q_i to the keys of its set, positions aligned at the last key
//
// The paper's three ways of using them: one head for the union of both (`sparse_set::both`, under one softmax); one set
// in each layer, in turns; and one set in each head, which is two calls on slices of the heads.
//
//   query, key, value, output   as for softmax_attention, with at most as many queries as keys
//
// Strided columns are permuted, not masked: token i becomes place floor(i / l) of residue class i mod l, in which its
// columns are all places up to its own. A class is read as rows that lie l tokens apart
// (engine/softmax/token_stride.hpp), and what a row saw there is kept until it has seen its window, of which no key is
// counted twice. Fixed columns of earlier blocks are seen whole: they are copied together, once for all blocks.
// strided_pattern and fixed_pattern are the same sets as masks.
//
// Cost: 2 * (key + value dimension) operations for each pair of the set, some l + n / (2 l) or l / 2 + c n / (2 l) of
// them for a query, and for strided both the state of a row, written and read once. Memory: those states, (value
// dimension + 2) for each row of a group of heads; or the columns of the keys, c / l of them.
//
// Rewon Child, Scott Gray, Alec Radford, Ilya Sutskever: Generating Long Sequences with Sparse Transformers, 2019. Its
// text has l + 1 local keys, the released code l, which `local` says; the union is the same. Its fixed heads may each
// have c columns of their own: (block_window(l) | key_columns{l, l - c, c, l - c}) & causal{} is such a head as a mask.
#pragma once

#include "../../call/plan.hpp"
#include "../../core/head_loop.hpp"
#include "../../engine/softmax/gathered.hpp"
#include "../../engine/softmax/row_parts.hpp"
#include "../../engine/softmax/token_stride.hpp"
#include "../../policy/mask/causal.hpp"
#include "../../policy/mask/window.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Names the set that a call uses: the union, or one of the two.
enum class sparse_set { both, local, columns };

/// Gives the strided sets: l (in tokens), which of them, and how many keys are local (l + 1 unless given), the query's
/// own among them.
struct strided_sets {
  index_t stride;
  sparse_set set = sparse_set::both;
  index_t local;

  constexpr strided_sets(index_t every, sparse_set which = sparse_set::both)
      : strided_sets(every, which, every < token_limit ? every + 1 : every) {}
  constexpr strided_sets(index_t every, sparse_set which, index_t keys) : stride(every), set(which), local(keys) {}
};

/// Gives the fixed sets: l and c in tokens, and which of them.
struct fixed_sets {
  index_t stride, columns;
  sparse_set set = sparse_set::both;
};

}  // namespace systems

namespace detail {

/// The work of one group of query heads that share keys and values, checked.
template <Element T>
class sparse_transformer_group {
 public:
  using A = accumulation_t<T>;

  sparse_transformer_group(engine::problem<T> const& p, index_t batch, index_t group)
      : p_(p),
        batch_(batch),
        heads_per_group_(p.heads_per_group()),
        first_head_(group * heads_per_group_),
        before_(p.shape.keys - p.shape.queries),
        source_(p),
        keys_{&source_, batch, group} {}

  template <class E>
  void strided(strided_sets const& sets, E& executor) const {
    auto const nothing = [](auto&, auto const&) {};
    auto const write = [](auto& tiles, auto const&) { tiles.write(); };
    if (sets.set == sparse_set::local) return local(sets, executor, nothing, write);
    if (sets.set == sparse_set::columns) return columns(sets.stride, 0, executor, nothing, write);
    scratch memory;
    engine::row_states<A> const states(memory, p_.shape.queries * heads_per_group_, p_.shape.value_dimension);
    auto const prefetch = [&](auto& tiles, auto const& state) { tiles.prefetch_fold(states, state); };
    // Columns that are in the window are left to it.
    columns(sets.stride, round_up(sets.local, sets.stride), executor, prefetch,
            [&](auto& tiles, auto const& state) { tiles.fold(states, state); });
    local(sets, executor, prefetch, [&](auto& tiles, auto const& state) { tiles.write(states, state); });
  }

  template <class E>
  void fixed(fixed_sets const& sets, E& executor) const {
    index_t const stride = sets.stride, blocks = divide_up(p_.shape.keys, stride);
    // Of all blocks but the last, which nobody comes after.
    index_t const count = sets.set == sparse_set::local ? 0 : (blocks - 1) * sets.columns;
    index_t const key_dimension = p_.shape.key_dimension, value_dimension = p_.shape.value_dimension;
    scratch memory;
    A* const key = memory.allocate<A>(count * key_dimension);
    A* const value = memory.allocate<A>(count * value_dimension);
    for_tokens(executor, 1, 1, count, loop_cost::of(0, row_bytes()),
               [&](index_t, index_t, index_t first, index_t last) {
                 for (index_t c = first; c < last; ++c) {
                   auto const row = keys_.rows(c / sets.columns * stride + stride - sets.columns + c % sets.columns);
                   simd::widen_row(row.key, key + c * key_dimension, key_dimension);
                   simd::widen_row(row.value, value + c * value_dimension, value_dimension);
                 }
               });
    index_t const longest = std::min(stride, p_.shape.keys);
    index_t const parts = divide_up(longest * heads_per_group_, max_rows), queries = divide_up(longest, parts);
    engine::for_block_parts(
        p_, heads_per_group_, {before_, p_.shape.keys}, stride, queries, longest / 2 + count / 2, executor,
        [&](index_t block, key_range part) {
          index_t const from = part.first, to = part.last;
          index_t const own = sets.set == sparse_set::columns ? stride - sets.columns : 0;
          for_rows((to - from) * heads_per_group_, [&](index_t row) { return from - before_ + row; },
                   [&](auto& tiles, auto const&) {
                     scratch memory_of_columns;
                     index_t const earlier = count > 0 ? block * sets.columns : 0;
                     engine::tensor_rows<A> const rows{{key, key_dimension}, {value, value_dimension}, earlier};
                     engine::key_block columns_block(memory_of_columns, rows, tiles.shape_of_block());
                     tiles.add_keys(columns_block, rows, 0, earlier, full{});
                     engine::key_block own_block(memory_of_columns, keys_, tiles.shape_of_block());
                     if (to > block * stride + own)
                       tiles.add_keys(own_block, keys_, block * stride + own, to - block * stride - own, causal{});
                     tiles.write();
                   });
        });
  }

 private:
  using tiles_type = engine::gathered_tiles<T>;
  static constexpr index_t max_rows = tiles_type::max_rows, classes_per_task = 8;

  /// function(tiles, row) for some rows at a time of the (query, head) pairs of `count` rows, heads innermost:
  /// query(n) is the n-th query. row(i) is the number of the tiles' i-th row among all rows of the group.
  template <class Query, class Function>
  void for_rows(index_t count, Query const& query, Function const& function) const {
    scratch memory;
    tiles_type tiles(p_, batch_, memory);
    for (index_t first = 0; first < count; first += max_rows) {
      tiles.set_rows(std::min(max_rows, count - first), [&](index_t i) {
        return typename tiles_type::row{first_head_ + (first + i) % heads_per_group_,
                                        query((first + i) / heads_per_group_)};
      });
      function(tiles, [&](index_t i) {
        return query((first + i) / heads_per_group_) * heads_per_group_ + (first + i) % heads_per_group_;
      });
    }
  }

  index_t row_bytes() const {
    return (p_.shape.key_dimension + p_.shape.value_dimension) * static_cast<index_t>(sizeof(T) + sizeof(A));
  }
  /// then(tiles, row) for the rows of each class, some at a time, once they have seen their columns at this distance.
  template <class E, class First, class Then>
  void columns(index_t stride, index_t distance, E& executor, First const& first_of_all, Then const& then) const {
    index_t const keys = p_.shape.keys, classes = std::min(stride, keys);
    // Each row of a class sees those before it. Neighbouring classes lie in the same pages.
    index_t const of_class = divide_up(keys, classes);
    loop_cost const of_classes = loop_cost::of(classes_per_task * heads_per_group_ * of_class * of_class *
                                               (p_.shape.key_dimension + p_.shape.value_dimension));
    for_heads(executor, 1, divide_up(classes, classes_per_task), of_classes, [&](index_t, index_t task) {
      scratch memory;
      tiles_type tiles(p_, batch_, memory);
      struct residue_class {
        engine::token_stride tokens;
        index_t first;  // place of the first query
      };
      auto const class_of = [&](index_t residue) {
        index_t const count = residue < classes ? divide_up(keys - residue, stride) : 0;
        return residue_class{{residue, stride, count}, before_ > residue ? divide_up(before_ - residue, stride) : 0};
      };
      auto const rows_of = [&](residue_class const& of) {
        return [&, of](index_t i) {
          return typename tiles_type::row{first_head_ + i % heads_per_group_,
                                          of.tokens.token(of.first + i / heads_per_group_) - before_};
        };
      };
      using keys_type = engine::ordered_rows<engine::source_rows<engine::problem_rows<T>>, engine::token_stride>;
      for (index_t residue = task * classes_per_task; residue < std::min((task + 1) * classes_per_task, classes);
           ++residue) {
        residue_class const own = class_of(residue), next = class_of(residue + 1);
        index_t const rows = (own.tokens.count - own.first) * heads_per_group_;
        for (index_t first = 0; first < rows; first += max_rows) {
          auto const row = [&](index_t i) { return rows_of(own)(first + i); };
          auto const number = [&](index_t i) { return row(i).query * heads_per_group_ + row(i).head - first_head_; };
          tiles.set_rows(std::min(max_rows, rows - first), row);
          if (first + max_rows >= rows)
            tiles.prefetch_next((next.tokens.count - next.first) * heads_per_group_, rows_of(next),
                                keys_type{keys_, next.tokens}, next.tokens.count);
          first_of_all(tiles, number);
          scratch memory_of_keys;
          keys_type const columns{keys_, own.tokens};
          engine::key_block block(memory_of_keys, columns, tiles.shape_of_block());
          tiles.add_keys(block, columns, 0, own.tokens.count, engine::stride_before{own.tokens, distance});
          then(tiles, number);
        }
      }
    });
  }

  template <class E, class First, class Then>
  void local(strided_sets const& sets, E& executor, First const& first_of_all, Then const& then) const {
    index_t const queries = std::max<index_t>(max_rows / heads_per_group_, 1);
    window const seen{sets.local - 1, 0};
    engine::for_block_parts(p_, heads_per_group_, {0, p_.shape.queries}, p_.shape.queries, queries,
                            std::min(sets.local, p_.shape.keys), executor, [&](index_t, key_range part) {
                              index_t const from = part.first, to = part.last;
                              index_t const first_key = std::max<index_t>(from + before_ - sets.local + 1, 0);
                              for_rows((to - from) * heads_per_group_, [&](index_t n) { return from + n; },
                                       [&](auto& tiles, auto const& row) {
                                         first_of_all(tiles, row);
                                         scratch memory;
                                         engine::key_block block(memory, keys_, tiles.shape_of_block());
                                         tiles.add_keys(block, keys_, first_key, to + before_ - first_key, seen);
                                         then(tiles, row);
                                       });
                            });
  }

  engine::problem<T> const& p_;
  index_t batch_, heads_per_group_, first_head_, before_;
  engine::problem_rows<T> source_;
  engine::source_rows<engine::problem_rows<T>> keys_;
};

template <class Query, class Key, class Value, class Output, class Run, class... Options>
void run_sparse_transformer(Query const& query, Key const& key, Value const& value, Output&& output, Run const& run,
                            Options&... options) {
  using T = element_of_t<Output>;
  auto problem = call::problem_of(query, key, value, output);
  if (problem.shape.queries > problem.shape.keys)
    fail("query", "expected at most ", problem.shape.keys, " tokens (as key), got ", problem.shape.queries);
  auto plan = call::plan<call::system_options>(problem, options...);
  if (problem.shape.queries == 0 || problem.shape.query_heads == 0) return;
  index_t const groups = problem.shape.query_heads / problem.heads_per_group();
  for (index_t task = 0; task < problem.shape.batches * groups; ++task)
    run(sparse_transformer_group<T>(problem, task / groups, task % groups), plan.executor);
}

inline void check_stride(index_t stride) {
  if (stride < 1 || stride >= token_limit) fail("stride", "expected 1 to ", token_limit - 1, ", got ", stride);
}

}  // namespace detail

namespace systems {

/// Attends to the strided sets. Query, key, value and output have the shapes of softmax_attention, with at most as many
/// queries as keys. A stride is in tokens; a number alone means the union of both sets in every head. Options: scale
/// (1/sqrt(key dimension) unless given), log_sum_exp, count_tiles and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, there are
/// more queries than keys, or `sets` has a stride or a local part of less than 1 key.
///
///     strided_sparse_attention(q, k, v, o, 128);                         // the union, in every head
///     strided_sparse_attention(q, k, v, o, {128, sparse_set::columns});  // this layer's set
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void strided_sparse_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                              strided_sets const& sets, Options&&... options) {
  arithmetic_mode const arithmetic;
  detail::check_stride(sets.stride);
  if (sets.local < 1 || sets.local > token_limit)
    fail("local", "expected 1 to ", token_limit, " keys, got ", sets.local);
  detail::run_sparse_transformer(
      query, key, value, output, [&](auto const& group, auto& executor) { group.strided(sets, executor); }, options...);
}

/// Attends to the fixed sets: blocks of sets.stride tokens, of which the last sets.columns are seen from later blocks.
/// Shapes and options are those of strided_sparse_attention.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, there are
/// more queries than keys, or the columns are not between 1 and the stride.
///
///     fixed_sparse_attention(q, k, v, o, {128, 8});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void fixed_sparse_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                            fixed_sets const& sets, Options&&... options) {
  arithmetic_mode const arithmetic;
  detail::check_stride(sets.stride);
  if (sets.columns < 1 || sets.columns > sets.stride)
    fail("columns", "expected 1 to ", sets.stride, " (the stride), got ", sets.columns);
  detail::run_sparse_transformer(
      query, key, value, output, [&](auto const& group, auto& executor) { group.fixed(sets, executor); }, options...);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
