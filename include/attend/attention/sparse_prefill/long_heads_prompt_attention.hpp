// SPDX-License-Identifier: BSD-3-Clause
// LongHeads (prompts): each query of each head attends to few chunks of the tokens before it, at positions that the
// model was trained for.
//
//   query t of chunk c = t / l:   list = {0}, {c - 1, c}, the k - 3 others of largest representative . q
//                                 (sparse_decode/long_heads_selector.hpp); all chunks where there are at most k
//   o_t = causal attention to the list's tokens, rotated for positions one after the other, the query among them
//
//   query, key, value, output   as for softmax_attention, causal, all of a prompt from its first token on, not rotated
//
// So the first k * l queries have ordinary causal attention. Keys are rotated once, for their place in their chunk, and
// a query for each chunk of its list (sparse_decode/long_heads_attention.hpp): then a chunk's keys are the same for all
// that chose it. The choice is inverted, as that of MoBA is: each chunk is met by the rows (query, head) that chose it,
// in full tiles, and a row's softmax goes from chunk to chunk. Between them a row and its keys are rounded to their
// element type.
//
// The chunks are represented in the selector, with which decoding goes on. A last chunk that is not full is not.
//
// Cost: 2 (key + value dimension) operations for each query and key of its list, 2 * dimension for each query and
// chunk, and attention within each chunk. Memory: the keys once more, and k rotations of each token of a chunk.
//
// Yi Lu et al.: LongHeads: Multi-Head Attention is Secretly a Long Context Processor, 2024.
#pragma once

#include "../../call/plan.hpp"
#include "../../engine/softmax/gathered.hpp"
#include "../../engine/softmax/row_parts.hpp"
#include "../../policy/mask/causal.hpp"
#include "../../select/row_products.hpp"
#include "../softmax/rotary_embedding.hpp"
#include "../sparse_decode/long_heads_selector.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// The work of long_heads_prompt_attention, checked: `p` has keys that are rotated for their places in their chunks.
template <Element T, Element S>
class chunk_mixing {
 public:
  using A = accumulation_t<T>;

  chunk_mixing(engine::problem<T> const& p, long_heads_selector<S> const& selector,
               rotary<rotary_frequencies> const& position, scratch& memory)
      : p_(p),
        selector_(selector),
        heads_per_group_(p.heads_per_group()),
        tokens_(selector.chunk_tokens()),
        chunks_(std::min(selector.chunks(), divide_up(p.shape.keys, tokens_))),
        turns_(memory.allocate<rotation<A>>(chunks_ * tokens_)) {
    for (index_t distance = 0; distance < chunks_ * tokens_; ++distance)
      turns_[distance] =
          position.rotation_at(token_place::on_all_axes(0, distance), memory.allocate<A>(position.buffer_size()));
    // As many rows as make a few tiles for each chunk.
    index_t const wanted = wanted_rows * divide_up(p.shape.keys, tokens_) / chunks_;
    index_t const rows = std::max(min_rows, std::min(wanted, machine::here().mixture_rows));
    queries_ = std::max<index_t>(rows / heads_per_group_, 1);
  }

  template <class E>
  void run(E& executor) const {
    engine::for_row_parts(p_, heads_per_group_, queries_ * heads_per_group_, std::min(chunks_ * tokens_, p_.shape.keys),
                          executor, [&](engine::row_part const& part) { attend(part); });
  }

 private:
  static constexpr index_t wanted_rows = 128, min_rows = 512;

  /// Query t's own chunk, and the number of chunks in its list.
  index_t own_chunk(index_t query) const { return query / tokens_; }
  index_t list_size(index_t query) const { return std::min(own_chunk(query) + 1, chunks_); }

  /// Writes the list of row i to lists[i * chunks]: ascending.
  void choose(engine::row_part const& rows, std::int32_t* lists) const {
    for (index_t i = 0; i < rows.count; ++i) {
      index_t const own = own_chunk(rows(i).query), size = list_size(rows(i).query);
      std::int32_t* const list = lists + i * chunks_;
      std::iota(list, list + size, static_cast<std::int32_t>(own + 1 - size));
      list[0] = 0;
    }
    // Lists of all chunks are complete, as are those in which nothing is left to be chosen.
    index_t const most = own_chunk(rows.last_query()) + 1, wanted = chunks_ - 3;
    if (most <= chunks_ || wanted < 1) return;
    for (index_t head = 0; head < rows.heads; ++head) {
      index_t const count = rows.count / rows.heads;
      row_products(
          selector_.representatives(rows.batch, rows.first_head + head), count, row_order::own_bits,
          [&](index_t i) { return &p_.query(rows.batch, rows.first_head + head, rows.first_query() + i, 0); },
          [&](index_t i, auto const* products) {
            index_t const own = own_chunk(rows.first_query() + i);
            if (own < chunks_) return;
            std::int32_t* const list = lists + (i * rows.heads + head) * chunks_ + 1;
            top_products(products + 1, own - 2, wanted, list);
            for (index_t c = 0; c < wanted; ++c) ++list[c];
          });
    }
  }

  /// The rows (query, head) of some queries of a group of heads, heads innermost: they choose, and then each chunk is
  /// met by those that chose it.
  void attend(engine::row_part const& row) const {
    scratch memory;
    index_t const rows = row.count, all = own_chunk(row.last_query()) + 1, dimension = p_.shape.key_dimension;
    auto* const chosen = memory.allocate<std::int32_t>(rows * chunks_);
    auto* const first_of_chunk = memory.allocate<index_t>(all + 1);
    choose(row, chosen);
    // Places of lists by chunk: counted, and dealt out in the order of their rows.
    std::fill_n(first_of_chunk, all + 1, 0);
    auto const for_chosen = [&](auto const& function) {
      for (index_t i = 0; i < rows; ++i)
        for (index_t c = 0; c < list_size(row(i).query); ++c)
          function(static_cast<std::int32_t>(i * chunks_ + c), chosen[i * chunks_ + c]);
    };
    for_chosen([&](std::int32_t, index_t chunk) { ++first_of_chunk[chunk + 1]; });
    std::partial_sum(first_of_chunk, first_of_chunk + all + 1, first_of_chunk);
    auto* const place = memory.allocate<std::int32_t>(first_of_chunk[all]);
    for_chosen([&](std::int32_t at, index_t chunk) { place[first_of_chunk[chunk]++] = at; });

    engine::row_states<A> const states(memory, rows, p_.shape.value_dimension);
    engine::problem_rows<T> const source(p_);
    engine::source_rows<engine::problem_rows<T>> const keys{&source, row.batch, row.first_head / heads_per_group_};
    // Rotated rows, one for each head of a problem of their own, in which a query stands where its token does.
    using tiles_type = engine::gathered_tiles<T>;
    T* const rotated = memory.allocate<T>(tiles_type::max_rows * dimension);
    problem_shape shape = p_.shape;
    shape.batches = shape.sequences = shape.key_heads = shape.value_heads = 1;
    shape.query_heads = tiles_type::max_rows;
    engine::problem<T> of_rows({rotated, {1, tiles_type::max_rows, shape.queries, dimension}, {0, dimension, 0, 1}},
                               p_.key, shape);
    of_rows.scale = p_.scale;
    of_rows.has_values = true;
    tiles_type tiles(of_rows, 0, memory);
    engine::key_block block(memory, keys, tiles.shape_of_block());
    index_t first = 0;
    for (index_t chunk = 0; chunk < all; ++chunk) {
      for (index_t const last = first_of_chunk[chunk]; first < last;) {
        index_t const count = std::min(last - first, tiles.max_rows);
        std::int32_t const* const places = place + first;
        auto const state = [&](index_t i) { return places[i] / chunks_; };
        for (index_t i = 0; i < count; ++i) {
          auto const [head, query] = row(state(i));
          index_t const behind = list_size(query) - 1 - places[i] % chunks_;
          turns_[behind * tokens_ + query % tokens_].apply(&p_.query(row.batch, head, query, 0),
                                                           rotated + i * dimension, dimension);
        }
        tiles.set_rows(count, [&](index_t i) { return typename tiles_type::row{i, row(state(i)).query}; });
        tiles.prefetch_fold(states, state);
        tiles.add_keys(block, keys, chunk * tokens_, std::min(tokens_, p_.shape.keys - chunk * tokens_), causal{});
        tiles.fold(states, state);
        first += count;
      }
    }
    for (index_t i = 0; i < rows; ++i) states.write(i, p_, row.batch, row(i).head, row(i).query);
  }

  engine::problem<T> const& p_;
  long_heads_selector<S> const& selector_;
  index_t heads_per_group_, tokens_, chunks_, queries_ = 1;
  rotation<A>* turns_;
};

}  // namespace detail

namespace systems {

/// Attends from each query of a prompt to the chunks that its head chooses, and represents the prompt's full chunks in
/// the selector, which has represented none. Query, key, value and output have the shapes of softmax_attention, with as
/// many queries as keys and one dimension for keys and values. Options: scale (1/sqrt(key dimension) unless given),
/// log_sum_exp and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, where
/// `position` has positions of its own, or where the selector was made for another shape or for shorter sequences, or
/// knows of tokens.
///
///     long_heads_selector<float> selector(shape, 32, 4096, 16, 256);
///     long_heads_prompt_attention(q, k, v, o, selector, position, threads{8});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, Element S,
          class... Options>
void long_heads_prompt_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                                 long_heads_selector<S>& selector, rotary<rotary_frequencies> const& position,
                                 Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  auto problem = call::problem_of(query, key, value, output);
  auto plan = call::plan<call::allows<option::scale, option::log_sum_exp, option::executor>>(problem, options...);
  problem_shape const& shape = problem.shape;
  index_t const tokens = selector.chunk_tokens(), dimension = shape.key_dimension;
  detail::check_extent("query", "tokens", shape.queries, shape.keys, "key");
  selector.check_prompt(shape.batches, shape.query_heads, shape.key_heads, shape.keys, dimension);
  detail::check_extent("value", "heads", shape.value_heads, shape.key_heads, "key");
  detail::check_extent("value", "head dimension", shape.value_dimension, dimension, "key");
  detail::check_own_positions(position);
  position.check(token_positions(0), 1, selector.chunks() * tokens, dimension);
  if (shape.query_heads == 0 || shape.keys == 0) return;
  scratch memory;
  auto const chunk_of = [&](auto const& tensor, index_t batch, index_t chunk) {
    auto extents = tensor.extents();
    extents[0] = 1;
    extents[2] = std::min(tokens, tensor.extent(2) - chunk * tokens);
    return std::remove_cvref_t<decltype(tensor)>(
        tensor.data() + batch * tensor.stride(0) + chunk * tokens * tensor.stride(2), extents, tensor.strides());
  };
  tensor_view<T, 4> const rotated(memory.allocate<T>(shape.batches * shape.key_heads * shape.keys * dimension),
                                  {shape.batches, shape.key_heads, shape.keys, dimension});
  for (index_t batch = 0; batch < shape.batches; ++batch)
    for (index_t chunk = 0; chunk * tokens < shape.keys; ++chunk) {
      auto const keys = chunk_of(problem.key, batch, chunk);
      rotary_embedding(keys, position, chunk_of(rotated, batch, chunk), token_positions(0), plan.executor);
      if (keys.extent(2) == tokens)
        selector.represent(batch, chunk_of(problem.query, batch, chunk), keys, chunk_of(problem.value, batch, chunk),
                           position, plan.executor);
    }
  problem.key = rotated;
  detail::chunk_mixing<T, S>(problem, selector, position, memory).run(plan.executor);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
