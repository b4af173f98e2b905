// SPDX-License-Identifier: BSD-3-Clause
// LSG attention: each block of queries sees the blocks beside it, a sparse choice of what lies beyond, and global
// tokens.
//
//   block t of b tokens: tokens [t b, (t + 1) b);  the first g tokens are global
//   o_i, i in block t     softmax attention, under one softmax, to
//     global              the first g tokens
//     local               blocks t - 1, t and t + 1
//     sparse              for each head its choice of the f blocks left of those, and of the f blocks right of them:
//                         b / f rows of each block, 2 b in all
//   o_i, i global         softmax attention to all tokens
//
// Global tokens are neither in the local nor in the sparse part: nothing counts twice. Under causal{} blocks t - 1 and
// t up to i, the sparse part on the left alone, and a global token sees what is before it. Up to 2 b tokens all of this
// is plain attention. For head h the choice of a block is
//
//   stride        tokens j with j mod f = h mod f
//   block_stride  b / f tokens from place h b / f mod b of the block on
//   norm          the b / f keys of largest |k|, the lower of equal ones
//   pooling       the means of every f tokens' keys and values
//   bos_pooling   the same with weights softmax(s q_0 . k_j) over the f tokens, q_0 the first token's query
//   lsh           the means of keys and values that fall into the same of b / f buckets: the largest of x and -x, where
//                 x = k . directions
//
// Tokens that are not `attended` (padding) are seen by nobody: they are not in a mean, and a group or a bucket that
// holds none but them is not there. So are the places behind the last token.
//
//   query, key, value, output   as for softmax_attention, as many queries as keys
//
// Cost: 5 b + g keys for a query (causal 3 b + g), 2 * (key + value dimension) operations each; rows of a choice are
// made once for a head, and put side by side for each block. Memory: the rows of a head, tokens / f of them.
//
// Charles Condevaux, Sebastien Harispe: LSG Attention: Extrapolation of Pretrained Transformers to Long Sequences,
// 2022. Blocks count from the first token, as with the mask local_sparse_global, which is `stride`; the authors'
// converter counts them from the first token that is not global. Their lsh may hash once before into as many buckets as
// there are tokens; here it does not. Their bos_pooling counts the first token once more in the mean of its group; here
// global tokens are in no group.
#pragma once

#include "../../call/plan.hpp"
#include "../../core/head_loop.hpp"
#include "../../core/order.hpp"
#include "../../engine/softmax/gathered.hpp"
#include "../../engine/softmax/row_parts.hpp"
#include "../../policy/mask/boolean_mask.hpp"
#include "../../policy/mask/causal.hpp"
#include "../../select/top_k.hpp"
#include "../../simd/dot.hpp"
#include "../../simd/mean.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Names how the sparse part of a block is chosen; what each name means stands at the beginning of this file.
enum class lsg_selection { stride, block_stride, norm, pooling, bos_pooling, lsh };

/// Gives b (tokens of a block), f (a block over its chosen rows), how each head chooses, and g (global tokens).
struct lsg_options {
  index_t block = 128;
  index_t factor = 8;  // a divisor of the block
  lsg_selection selection = lsg_selection::stride;
  index_t global = 1;
  /// Says which tokens are no padding, [batch or 1, token]; empty, all of them are attended to.
  tensor_view<bool const, 2> attended = {};
  /// Normal random numbers for lsh, [query head or 1, block / factor / 2, key dimension].
  tensor_view<float const, 3> directions = {};
};

}  // namespace systems

namespace detail {

/// The work of one head of a batch, checked. There are more than two blocks of tokens.
template <Element T>
class lsg_head {
 public:
  using A = accumulation_t<T>;

  lsg_head(engine::problem<T> const& p, lsg_options const& settings, bool is_causal, index_t batch, index_t head,
           scratch& memory)
      : p_(p),
        settings_(settings),
        is_causal_(is_causal),
        batch_(batch),
        head_(head),
        tokens_(p.shape.keys),
        blocks_(divide_up(p.shape.keys, settings.block)),
        most_(settings.block / settings.factor),
        source_(p),
        rows_{&source_, batch, head / p.heads_per_group()},
        key_(engine::rows_of_head(p.key, batch, head / (p.shape.query_heads / p.shape.key_heads), 0)),
        value_(engine::rows_of_head(p.value, batch, head / (p.shape.query_heads / p.shape.value_heads), 0)),
        chosen_key_(memory.allocate<A>(blocks_ * most_ * p.shape.key_dimension)),
        chosen_value_(memory.allocate<A>(blocks_ * most_ * p.shape.value_dimension)),
        chosen_(memory.allocate<index_t>(blocks_)) {
    if (!settings.attended.data()) return;
    attended_ = &settings.attended(settings.attended.extent(0) == 1 ? 0 : batch, 0);
    list_ = memory.allocate<std::int32_t>(tokens_);
    for (index_t j = 0; j < tokens_; ++j)
      if (attended_[j]) list_[listed_++] = static_cast<std::int32_t>(j);
  }

  template <class E>
  void run(E& executor) const {
    loop_cost const read{
        .bytes = static_cast<double>(settings_.block * (p_.shape.key_dimension + p_.shape.value_dimension)) *
                 static_cast<double>(sizeof(T))};
    for_heads(executor, 1, blocks_, read, [&](index_t, index_t block) { choose(block); });
    // Parts of a block as long as each other. Global tokens see everything elsewhere.
    index_t const queries = divide_up(settings_.block, divide_up(settings_.block, max_rows));
    engine::for_block_parts(p_, 1, {settings_.global, tokens_}, settings_.block, queries,
                            std::min(5 * settings_.block + settings_.global, tokens_), executor,
                            [&](index_t block, key_range part) { attend_part(block, part.first, part.last); });
  }

 private:
  using tiles_type = engine::gathered_tiles<T>;
  static constexpr index_t max_rows = tiles_type::max_rows;

  bool counts(index_t token) const {
    return token >= settings_.global && token < tokens_ && (!attended_ || attended_[token]);
  }

  /// The rows of a block that its choice leaves: those that there are come first.
  void choose(index_t block) const {
    index_t const first = block * settings_.block, factor = settings_.factor, last = first + settings_.block;
    index_t& count = chosen_[block] = 0;
    auto const add = [&](index_t token) {
      if (!counts(token)) return;
      simd::widen_row(key_.row(token), key_at(block, count), p_.shape.key_dimension);
      simd::widen_row(value_.row(token), value_at(block, count), p_.shape.value_dimension);
      ++count;
    };
    // One by one, every choice is the whole block.
    lsg_selection const settings = factor == 1 ? lsg_selection::stride : settings_.selection;
    scratch memory;
    auto* const members = memory.allocate<index_t>(settings_.block);
    switch (settings) {
      case lsg_selection::stride:
        for (index_t j = first + head_ % factor; j < last; j += factor) add(j);
        return;
      case lsg_selection::block_stride:
        for (index_t place = 0; place < most_; ++place) add(first + (head_ * most_ + place) % settings_.block);
        return;
      case lsg_selection::norm:
        return choose_by_norm(first, add);
      case lsg_selection::pooling:
      case lsg_selection::bos_pooling:
        for (index_t group = first; group < last; group += factor) {
          index_t found = 0;
          for (index_t j = group; j < group + factor; ++j)
            if (counts(j)) members[found++] = j;
          count += pool(block, count, members, found, settings == lsg_selection::bos_pooling);
        }
        return;
      case lsg_selection::lsh:
        return choose_by_hash(block, members);
    }
  }

  template <class Add>
  void choose_by_norm(index_t first, Add const& add) const {
    scratch memory;
    auto* const token = memory.allocate<index_t>(settings_.block);
    auto* const square = memory.allocate<float>(settings_.block);
    auto* const largest = memory.allocate<std::int32_t>(settings_.block);
    A* const row = memory.allocate<A>(p_.shape.key_dimension);
    index_t found = 0;
    for (index_t j = first; j < first + settings_.block; ++j) {
      if (!counts(j)) continue;
      simd::widen_row(key_.row(j), row, p_.shape.key_dimension);
      square[found] = static_cast<float>(simd::dot(row, row, p_.shape.key_dimension));
      token[found++] = j;
    }
    index_t const chosen = top_k(square, found, most_, largest);
    for (index_t i = 0; i < chosen; ++i) add(token[largest[i]]);
  }

  void choose_by_hash(index_t block, index_t* members) const {
    index_t const first = block * settings_.block, hashes = settings_.directions.extent(1);
    scratch memory;
    auto* const bucket = memory.allocate<index_t>(settings_.block);
    A* const direction = memory.allocate<A>(p_.shape.key_dimension);
    A* const best = memory.allocate<A>(settings_.block);
    std::fill_n(best, settings_.block, -infinity<A>);
    std::fill_n(bucket, settings_.block, index_t{0});
    for (index_t hash = 0; hash < hashes; ++hash) {
      float const* const from = &settings_.directions(settings_.directions.extent(0) == 1 ? 0 : head_, hash, 0);
      std::copy_n(from, p_.shape.key_dimension, direction);
      for (index_t place = 0; place < settings_.block && first + place < tokens_; ++place) {
        A const x = simd::dot(key_.row(first + place), direction, p_.shape.key_dimension);
        if (std::abs(x) > best[place]) best[place] = std::abs(x), bucket[place] = x >= 0 ? hash : hashes + hash;
      }
    }
    index_t& count = chosen_[block];
    for (index_t b = 0; b < 2 * hashes; ++b) {
      index_t found = 0;
      for (index_t place = 0; place < settings_.block; ++place)
        if (counts(first + place) && bucket[place] == b) members[found++] = first + place;
      count += pool(block, count, members, found, false);
    }
  }

  /// Writes the mean of some tokens as row `to` of a block, or their mean by the first query's weights. None of them
  /// leave no row: gives how many were written.
  index_t pool(index_t block, index_t to, index_t const* members, index_t count, bool weighed) const {
    if (count == 0) return 0;
    if (!weighed) {
      simd::mean_of_rows<T>([&](index_t i) { return key_.row(members[i]); }, count, p_.shape.key_dimension,
                            key_at(block, to));
      simd::mean_of_rows<T>([&](index_t i) { return value_.row(members[i]); }, count, p_.shape.value_dimension,
                            value_at(block, to));
      return 1;
    }
    scratch memory;
    A* const query = memory.allocate<A>(p_.shape.key_dimension);
    A* const weight = memory.allocate<A>(count);
    simd::widen_row(engine::rows_of_head(p_.query, batch_, head_, 0).data, query, p_.shape.key_dimension);
    for (index_t i = 0; i < count; ++i)
      weight[i] = p_.scale * simd::dot(key_.row(members[i]), query, p_.shape.key_dimension);
    engine::merge_factors(weight, count);
    engine::merge_rows(
        weight, count, [&](index_t i) { return key_.row(members[i]); }, p_.shape.key_dimension, key_at(block, to));
    engine::merge_rows(
        weight, count, [&](index_t i) { return value_.row(members[i]); }, p_.shape.value_dimension,
        value_at(block, to));
    return 1;
  }

  A* key_at(index_t block, index_t row) const { return chosen_key_ + (block * most_ + row) * p_.shape.key_dimension; }
  A* value_at(index_t block, index_t row) const {
    return chosen_value_ + (block * most_ + row) * p_.shape.value_dimension;
  }

  /// Queries [first, last) of a block, none of them global.
  void attend_part(index_t block, index_t first, index_t last) const {
    scratch memory;
    tiles_type tiles(p_, batch_, memory);
    tiles.set_rows(last - first, [&](index_t i) { return typename tiles_type::row{head_, first + i}; });
    // Global tokens and both sides' choices side by side.
    index_t const most = settings_.global + 2 * settings_.factor * most_;
    index_t const key_dimension = p_.shape.key_dimension, value_dimension = p_.shape.value_dimension;
    A* const key = memory.allocate<A>(most * key_dimension);
    A* const value = memory.allocate<A>(most * value_dimension);
    index_t count = 0;
    for (index_t j = 0; j < settings_.global; ++j) {
      if (attended_ && !attended_[j]) continue;
      simd::widen_row(key_.row(j), key + count * key_dimension, key_dimension);
      simd::widen_row(value_.row(j), value + count++ * value_dimension, value_dimension);
    }
    auto const add = [&](index_t from, index_t to) {
      for (index_t b = std::max<index_t>(from, 0); b < std::min(to, blocks_); ++b) {
        std::copy_n(key_at(b, 0), chosen_[b] * key_dimension, key + count * key_dimension);
        std::copy_n(value_at(b, 0), chosen_[b] * value_dimension, value + count * value_dimension);
        count += chosen_[b];
      }
    };
    add(block - 1 - settings_.factor, block - 1);
    if (!is_causal_) add(block + 2, block + 2 + settings_.factor);
    engine::tensor_rows<A> const beyond{{key, key_dimension}, {value, value_dimension}, count};
    engine::key_block beyond_block(memory, beyond, tiles.shape_of_block());
    tiles.add_keys(beyond_block, beyond, 0, count, full{});

    key_range const local{std::max((block - 1) * settings_.block, settings_.global),
                          is_causal_ ? last : std::min((block + 2) * settings_.block, tokens_)};
    if (attended_ != nullptr)
      add_listed(tiles, memory, local);
    else if (is_causal_)
      add_local(tiles, memory, local, causal{});
    else
      add_local(tiles, memory, local, full{});
    tiles.write();
  }

  template <Mask M>
  void add_local(tiles_type& tiles, scratch& memory, key_range local, M const& mask) const {
    engine::key_block block(memory, rows_, tiles.shape_of_block());
    tiles.add_keys(block, rows_, local.first, local.count(), mask);
  }

  /// Those of the local tokens that are attended.
  void add_listed(tiles_type& tiles, scratch& memory, key_range local) const {
    auto const place = [&](index_t token) {
      return std::lower_bound(list_, list_ + listed_, token, ascending{}) - list_;
    };
    std::int32_t const* const from = list_ + place(local.first);
    index_t const count = place(local.last) - place(local.first);
    if (count == 0) return;
    engine::ordered_rows<engine::source_rows<engine::problem_rows<T>>, engine::token_list> const rows{rows_, {from}};
    engine::key_block block(memory, rows, tiles.shape_of_block());
    if (is_causal_)
      tiles.add_keys(block, rows, 0, count, engine::listed_before{from, count, 0});
    else
      tiles.add_keys(block, rows, 0, count, full{});
  }

  engine::problem<T> const& p_;
  lsg_options const& settings_;
  bool is_causal_;
  index_t batch_, head_, tokens_, blocks_, most_;
  engine::problem_rows<T> source_;
  engine::source_rows<engine::problem_rows<T>> rows_;
  engine::rows_of<T> key_, value_;
  A *chosen_key_, *chosen_value_;  // [block][most][dimension]
  index_t* chosen_;                // rows of each block that there are
  bool const* attended_ = nullptr;
  std::int32_t* list_ = nullptr;
  index_t listed_ = 0;
};

inline void check_lsg(lsg_options const& settings, problem_shape const& shape) {
  if (settings.block < 1 || settings.block >= token_limit)
    fail("lsg_options", "expected blocks of 1 to ", token_limit - 1, " tokens, got ", settings.block);
  if (settings.factor < 1 || settings.block % settings.factor != 0)
    fail("lsg_options", "expected a factor that divides ", settings.block, " (the block), got ", settings.factor);
  if (settings.global < 0 || settings.global > shape.keys)
    fail("lsg_options", "expected 0 to ", shape.keys, " global tokens, got ", settings.global);
  if (settings.attended.data()) {
    check_view("attended", settings.attended);
    if (settings.attended.extent(0) != 1)
      check_extent("attended", "batch", settings.attended.extent(0), shape.batches, "query");
    check_extent("attended", "tokens", settings.attended.extent(1), shape.keys, "key");
  }
  if (settings.selection != lsg_selection::lsh || settings.factor == 1) return;
  index_t const hashes = settings.block / settings.factor / 2;
  if (hashes < 1)
    fail("lsg_options", "expected at least 2 buckets of a block for lsh, got ", settings.block / settings.factor);
  check_view("directions", settings.directions);
  if (settings.directions.extent(0) != 1)
    check_extent("directions", "heads", settings.directions.extent(0), shape.query_heads, "query");
  if (settings.directions.extent(1) != hashes)
    fail("directions", "expected ", hashes, " of them (half of the buckets), got ", settings.directions.extent(1));
  check_extent("directions", "dimension", settings.directions.extent(2), shape.key_dimension, "query");
}

}  // namespace detail

namespace systems {

/// Attends to local, sparse and global tokens. Query, key, value and output have the shapes of softmax_attention, with
/// as many queries as keys. Options: causal{}, scale (1/sqrt(key dimension) unless given), log_sum_exp and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, a block
/// has no token, the factor does not divide it, or there are more global tokens than tokens.
///
///     lsg_attention(q, k, v, o, {.block = 128, .factor = 8, .selection = lsg_selection::norm, .global = 1});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void lsg_attention(Query const& query, Key const& key, Value const& value, Output&& output, lsg_options const& settings,
                   Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  call::check_only_causal<Options...>();
  static constexpr bool is_causal = detail::has_kind<option::mask, Options...>;
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  auto problem = call::tensor_problem<T>(q, k, v, o);
  detail::check_extent("key", "tokens", problem.shape.keys, problem.shape.queries, "query");
  full everything;
  auto const& mask = detail::find_option<option::mask>(everything, options...);
  detail::check_last_at_last(mask, problem.shape);
  detail::check_lsg(settings, problem.shape);
  if (settings.attended.data()) detail::check_apart("output", o, "attended", raise<4>(settings.attended));
  if (settings.directions.data()) detail::check_apart("output", o, "directions", raise<4>(settings.directions));
  index_t const tokens = problem.shape.keys;
  bool const is_plain = tokens <= 2 * settings.block;
  // The first `count` queries see everybody.
  auto const add_all = [&](index_t count, auto& executor) {
    auto const seeing = [&](auto const& seen) {
      auto some = call::tensor_problem<T>(detail::part(q, 2, 0, count), k, v, detail::part(o, 2, 0, count));
      auto plan = call::plan(some, seen, scale(static_cast<double>(problem.scale)));
      if (problem.log_sum_exp.data()) some.log_sum_exp = detail::part(problem.log_sum_exp, 2, 0, count);
      engine::run_tiled(some, engine::problem_rows(some), plan.policies(), executor);
    };
    auto const with_mask = [&](auto const& seen) {
      if (!settings.attended.data()) return seeing(seen);
      seeing(seen & boolean_mask(tensor_view<bool const, 4>(
                        settings.attended.data(), {settings.attended.extent(0), 1, 1, tokens},
                        {settings.attended.stride(0), settings.attended.stride(0), settings.attended.stride(0), 1})));
    };
    if constexpr (is_causal)
      with_mask(causal{top_left});
    else
      with_mask(full{});
  };
  auto plan =
      call::plan<call::allows<option::mask, option::scale, option::log_sum_exp, option::executor>>(problem, options...);
  problem_shape const& shape = problem.shape;
  if (shape.queries == 0 || shape.query_heads == 0) return;
  if (is_plain) return add_all(tokens, plan.executor);
  if (settings.global > 0) add_all(settings.global, plan.executor);
  for (index_t task = 0; task < shape.batches * shape.query_heads; ++task) {
    scratch memory;
    detail::lsg_head<T>(problem, settings, is_causal, task / shape.query_heads, task % shape.query_heads, memory)
        .run(plan.executor);
  }
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
