// SPDX-License-Identifier: BSD-3-Clause
// Infini-attention: softmax attention within a segment, and a compressive memory of all segments before it, in one
// head.
//
//   local    A_dot = causal softmax attention of the segment to itself
//   memory   A_mem = s(Q) M / (s(Q) z + 1e-6)      s(x) = elu(x) + 1; M and z as they were before the segment
//   output   g A_mem + (1 - g) A_dot               g = sigmoid(gate of the head)
//   update   M <- M + s(K)^T V                                  linear
//            M <- M + s(K)^T (V - s(K) M / (s(K) z + 1e-6))     delta
//            z <- z + sum of s(K)
//
// The memory is linear attention's state: reading it is a call without keys, writing it one without queries. An empty
// memory reads as 0. Positions are for the local part alone: where query and key are rotated, unrotated{query, key}
// gives the memory its own.
//
//   query [batch, query head, token, dimension]   key, value [batch, key head, token, ...]   gates [query head]
//
// As many queries as keys. The last segment may be shorter, and is written to the memory as the others are: a sequence
// that comes in pieces is to be cut where segments end. States are M and z, one of each for a key head; more query
// heads share them.
//
// What the memory says is rounded to the element type before it is mixed or, for delta, subtracted, and so is the local
// part; M, z and the mix itself are in the accumulation type.
//
// Cost, a token: that of softmax attention over half a segment, and 4 * dimension * value dimension for the memory (6
// for delta). Memory beside the state: tiles and a few rows for each thread.
//
// Tsendsuren Munkhdalai, Manaal Faruqui, Siddharth Gopal: Leave No Context Behind: Efficient Infinite Context
// Transformers with Infini-attention, 2024.
#pragma once

#include "../../core/head_loop.hpp"
#include "../../policy/feature/elu.hpp"
#include "../../policy/score/scale.hpp"
#include "../../simd/transform_row.hpp"
#include "../softmax/softmax_attention.hpp"
#include "linear_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Names the two updates of the memory.
enum class memory_update { linear, delta };

/// Says how long segments are, in tokens, how each query head weighs memory against its segment, and how the memory is
/// written.
template <class A>
struct infini_memory {
  index_t segment;
  tensor_view<A const, 1> gates;
  memory_update update;

  /// Gates are [query head].
  template <TensorArgument Gates>
  infini_memory(index_t tokens, Gates const& numbers, memory_update settings = memory_update::linear)
      : segment(tokens), gates(view_of(numbers)), update(settings) {}

  static constexpr char const* name() { return "infini_memory (gates)"; }
  tensor_view<A const, 1> const& view() const { return gates; }
};
template <class Gates>
infini_memory(index_t, Gates const&, memory_update = memory_update::linear) -> infini_memory<element_of_t<Gates const>>;

/// Gives queries and keys for the memory, of the shapes of those for the segment, where the latter are rotated.
template <class T>
struct unrotated {
  using option_kind = option::unrotated;
  tensor_view<T const, 4> query, key;

  template <TensorArgument Query, TensorArgument Key>
  unrotated(Query const& q, Key const& k) : query(raise<4>(view_of(q))), key(raise<4>(view_of(k))) {}
};
template <class Query, class Key>
unrotated(Query const&, Key const&) -> unrotated<element_of_t<Query const>>;

}  // namespace systems

namespace detail {

/// Tokens [first, first + count) of some heads of one batch.
template <class T>
tensor_view<T, 4> part_of(tensor_view<T, 4> const& tensor, index_t batch, index_t head, index_t heads, index_t first,
                          index_t count) {
  return {tensor.data() + batch * tensor.stride(0) + head * tensor.stride(1) + first * tensor.stride(2),
          {1, heads, count, tensor.extent(3)},
          tensor.strides()};
}

/// Whole segments of one batch side by side, as if each were a batch of its own.
template <class T>
tensor_view<T, 4> segments_of(tensor_view<T, 4> const& tensor, index_t batch, index_t segments, index_t length) {
  return {tensor.data() + batch * tensor.stride(0),
          {segments, tensor.extent(1), length, tensor.extent(3)},
          {length * tensor.stride(2), tensor.stride(1), tensor.stride(2), tensor.stride(3)}};
}

/// The memory of one key head, from the first segment to the last.
template <Element T>
class infini_head {
 public:
  using A = accumulation_t<T>;

  infini_head(engine::state_problem<T> const& p, infini_memory<A> const& with, index_t batch, index_t head)
      : p_(p),
        with_(with),
        batch_(batch),
        head_(head),
        group_(p.heads_per_group()),
        values_(memory_.allocate<T>(std::max(group_, index_t{1}) * block * p.shape.value_dimension)),
        state_(memory_state::of(memory_, p.shape)),
        old_(memory_state::of(memory_, p.shape)) {
    for (index_t f = 0; f < p_.shape.features; ++f) {
      for (index_t c = 0; c < p_.shape.value_dimension; ++c)
        state_.state(0, 0, f, c) = p_.initial_state.data() ? p_.initial_state(batch, head, f, c) : A(0);
      state_.sum(0, 0, f) = p_.initial_sum.data() ? p_.initial_sum(batch, head, f) : A(0);
    }
  }

  void run() {
    index_t const tokens = p_.shape.keys;
    for (index_t first = 0; first < tokens; first += with_.segment) {
      index_t const last = std::min(tokens, first + with_.segment);
      for (index_t i = first; i < last; i += block) answer(i, std::min(block, last - i));
      write(first, last);
    }
    for (index_t f = 0; p_.final_state.data() && f < p_.shape.features; ++f) {
      for (index_t c = 0; c < p_.shape.value_dimension; ++c)
        p_.final_state(batch_, head_, f, c) = state_.state(0, 0, f, c);
      p_.final_sum(batch_, head_, f) = state_.sum(0, 0, f);
    }
  }

 private:
  static constexpr index_t block = 64;  // tokens that are read at a time

  struct memory_state {
    tensor_view<A, 4> state;
    tensor_view<A, 3> sum;

    static memory_state of(scratch& memory, state_shape const& s) {
      return {{memory.allocate<A>(s.features * s.value_dimension), {1, 1, s.features, s.value_dimension}},
              {memory.allocate<A>(s.features), {1, 1, s.features}}};
    }
  };

  /// Retrieves for `rows` [1, heads, count, dimension].
  tensor_view<T, 4> read(tensor_view<T const, 4> const& rows, memory_state const& from) {
    tensor_view<T, 4> const read(values_, {1, rows.extent(1), rows.extent(2), p_.shape.value_dimension});
    linear_attention(rows, part_of(p_.key, batch_, head_, 1, 0, 0), part_of(p_.value, batch_, head_, 1, 0, 0), read,
                     elu_features{}, key_sum{}, initial_state(from.state, from.sum));
    return read;
  }

  /// output <- g memory + (1 - g) output
  void answer(index_t first, index_t count) {
    using V = simd::vector<A>;
    index_t const columns = p_.shape.value_dimension;
    if (columns == 0) return;
    auto const from = read(part_of(p_.query, batch_, head_ * group_, group_, first, count), state_);
    for (index_t h = 0; h < group_; ++h) {
      A const gate = 1 / (1 + std::exp(-with_.gates(head_ * group_ + h)));
      V const memory(gate), local(1 / (1 + std::exp(with_.gates(head_ * group_ + h))));
      for (index_t i = 0; i < count; ++i) {
        T* const to = &p_.output(batch_, head_ * group_ + h, first + i, 0);
        simd::transform_row(
            to, columns, [&](V const& x, V const& y) { return simd::fused_multiply_add(memory, x, local * y); },
            &from(0, h, i, 0), to);
      }
    }
  }

  void write(index_t first, index_t last) {
    bool const delta = with_.update == memory_update::delta;
    if (delta) {
      std::copy_n(state_.state.data(), p_.shape.features * p_.shape.value_dimension, old_.state.data());
      std::copy_n(state_.sum.data(), p_.shape.features, old_.sum.data());
    }
    index_t const group_size = delta ? block : last - first;
    for (index_t j = first; j < last; j += group_size) {
      index_t const count = std::min(group_size, last - j);
      tensor_view<T const, 4> const keys = part_of(p_.key, batch_, head_, 1, j, count);
      tensor_view<T const, 4> values = part_of(p_.value, batch_, head_, 1, j, count);
      if (delta) {
        tensor_view<T, 4> const known = read(keys, old_);
        using V = simd::vector<A>;
        for (index_t i = 0; i < count && p_.shape.value_dimension > 0; ++i)
          simd::transform_row(
              &known(0, 0, i, 0), p_.shape.value_dimension, [](V const& x, V const& y) { return x - y; },
              &values(0, 0, i, 0), &known(0, 0, i, 0));
        values = known;
      }
      linear_attention(part_of(p_.key, batch_, head_, 1, 0, 0), keys, values, part_of(p_.output, batch_, 0, 1, 0, 0),
                       elu_features{}, key_sum{}, initial_state(state_.state, state_.sum),
                       final_state(state_.state, state_.sum));
    }
  }

  engine::state_problem<T> const& p_;
  infini_memory<A> const& with_;
  index_t const batch_, head_, group_;
  scratch memory_;
  T* values_;
  memory_state state_, old_;
};

}  // namespace detail

namespace systems {

/// Attends within segments and to a memory of the segments before; shapes stand at the beginning of this file. Options:
/// scale of the local part (1/sqrt(key dimension) unless given), unrotated, initial_state, final_state and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     infini_memory<float> const memory{2048, numbers, memory_update::delta};  // tokens of a segment, gates
///     infini_attention(q, k, v, o, memory, final_state(state, tokens));
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class A,
          class... Options>
void infini_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                      infini_memory<A> const& with, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  static_assert(std::same_as<A, accumulation_t<T>>,
                "attend: gates hold the accumulation type: float, or double for tensors of double");
  call::allows<option::scale, option::unrotated, option::initial_state, option::final_state,
               option::executor>::check<Options...>();
  detail::absent none;
  auto& executor = call::executor_of(options...);
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key));
  engine::state_problem<T> p;
  p.query = q, p.key = k;
  p.value = raise<4>(view_of(value));
  p.output = raise<4>(view_of(output));
  detail::check_state_tensors(p);
  p.shape.features = p.shape.key_dimension;
  state_shape const& s = p.shape;
  detail::check_extent("query", "tokens", s.queries, s.keys, "key");
  detail::check_extent("value", "heads", s.value_heads, s.key_heads, "key");
  if (s.query_heads < s.key_heads)
    fail("query", "expected at least ", s.key_heads, " heads (as key), got ", s.query_heads);
  if (with.segment < 1) fail("infini_memory", "expected segments of at least 1 token, got ", with.segment);
  detail::check_view("infini_memory (gates)", with.gates);
  detail::check_extent("infini_memory", "gates", with.gates.extent(0), s.query_heads, "query heads");
  detail::read_states(p, true, options...);
  detail::check_state_memory(p, with);
  A const factor = detail::scale_or<A>(detail::usual_scale(s.key_dimension), options...);
  if constexpr (detail::has_kind<option::unrotated, Options...>) {
    auto const& other = detail::find_option<option::unrotated>(none, options...);
    static_assert(std::same_as<typename decltype(other.query)::value_type, T>,
                  "attend: unrotated query and key must have the element type of query and key");
    detail::check_view("unrotated (query)", other.query);
    detail::check_view("unrotated (key)", other.key);
    if (other.query.extents() != q.extents())
      fail("unrotated (query)", "expected shape ", detail::shape_text<4>(q.extents()), " (as query), got ",
           detail::shape_text<4>(other.query.extents()));
    if (other.key.extents() != k.extents())
      fail("unrotated (key)", "expected shape ", detail::shape_text<4>(k.extents()), " (as key), got ",
           detail::shape_text<4>(other.key.extents()));
    p.query = other.query;
    p.key = other.key;
    detail::check_state_memory(p);
  }

  auto const local = [&](auto const&... parts) { softmax_attention(parts..., causal{}, executor, scale(factor)); };
  index_t const segment = std::min(with.segment, std::max<index_t>(s.keys, 1)), whole = s.keys / segment;
  index_t const rest = s.keys - whole * segment;
  for (index_t b = 0; b < s.batches; ++b) {
    auto const segments = [&](auto const& tensor) { return detail::segments_of(tensor, b, whole, segment); };
    auto const end = [&](auto const& tensor) {
      return detail::part_of(tensor, b, 0, tensor.extent(1), whole * segment, rest);
    };
    local(segments(q), segments(k), segments(p.value), segments(p.output));
    if (rest > 0) local(end(q), end(k), end(p.value), end(p.output));
  }
  // A token writes the memory, and its queries read it.
  detail::loop_cost const of_head =
      detail::loop_cost::of(2 * s.features * s.value_dimension * (s.keys + s.queries * p.heads_per_group()));
  detail::for_heads(executor, s.batches, s.key_heads, of_head,
                    [&](index_t batch, index_t head) { detail::infini_head<T>(p, with, batch, head).run(); });
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
