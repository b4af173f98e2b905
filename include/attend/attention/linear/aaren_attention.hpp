// SPDX-License-Identifier: BSD-3-Clause
// Aaren, attention as a recurrent network: softmax attention of one query that does not change with the token, to all
// prefixes of the keys.
//
//   s_j = scale * q . k_j       o_t = sum_{j <= t} exp(s_j) v_j / sum_{j <= t} exp(s_j)
//
//   query  [batch, query head, key dimension]      one for each head, learned; batch may be 1 or left out
//   key    [batch, key head,   token, key dimension]
//   value  [batch, value head, token, value dimension]
//   output [batch, query head, token, value dimension]
//
// Every output is that of softmax attention over a prefix, and all of them cost one scan
// (engine/softmax/softmax_scan.hpp): O(1) for a token more. The state is the last output and the logarithm of the sum
// of weights, initial_state{mean, log} and final_state{mean, log} of shapes [batch, query head, 1, value dimension] and
// [batch, query head, 1]; before the first token the logarithm is -inf.
//
// Heads, scale (1/sqrt(key dimension) unless given) and element types as for softmax_attention.
//
// Leo Feng, Frederick Tung, Hossein Hajimirsadeghi, Mohamed Osama Ahmed, Yoshua Bengio, Greg Mori: Attention as an RNN,
// 2024.
#pragma once

#include "../../call/allows.hpp"
#include "../../call/problem.hpp"
#include "../../call/state_problem.hpp"
#include "../../engine/softmax/softmax_scan.hpp"
#include "../../policy/score/scale.hpp"
#include "../../simd/row_sums.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// Checks the tensors of a scan, whose heads are in groups as those of softmax_attention, and reads their shape.
template <Element T>
void check_scan_tensors(engine::state_problem<T>& p) {
  problem_shape s = call::checked_shape<T>(p.query, p.key);
  call::check_values<T>(p.value, p.output, s);
  p.shape = {s.batches, s.query_heads, s.key_heads,     s.value_heads,
             s.queries, s.keys,        s.key_dimension, s.value_dimension};
}

/// Checks and runs a scan whose logits are those of write_logits(batch, head, first, count, scale, to). `p` has key,
/// value and output, and its shape.
template <Element T, class Write, class... Options>
void run_softmax_scan(engine::state_problem<T>& p, Write const& write_logits, Options&... options) {
  arithmetic_mode const arithmetic;
  using A = accumulation_t<T>;
  call::allows<option::scale, option::initial_state, option::final_state, option::scan,
               option::executor>::check<Options...>();
  state_shape const& s = p.shape;
  auto& executor = call::executor_of(options...);
  A const scale = scale_or<A>(usual_scale(s.key_dimension), options...);
  // The state is one row for each output head.
  engine::state_problem<T> rows = p;
  rows.shape.features = 1;
  rows.shape.key_heads = rows.shape.value_heads = s.query_heads;
  read_states(rows, true, options...);
  check_state_memory(rows);

  auto const head_of = [&](index_t number) {
    index_t const b = number / s.query_heads, h = number % s.query_heads;
    // Rows without columns need not be anywhere.
    auto const first_row = [&](auto const& tensor) { return tensor.empty() ? nullptr : &tensor(b, h, 0, 0); };
    engine::softmax_scan_head<T> head{};
    head.value = engine::rows_of_head(p.value, b, h * s.value_heads / s.query_heads, 0);
    head.output = first_row(p.output);
    head.output_stride = p.output.stride(2);
    if (rows.initial_sum.data()) {
      head.initial_mean = first_row(rows.initial_state);
      head.initial = engine::softmax_sum<A>::of_log(rows.initial_sum(b, h, 0));
    }
    if (rows.final_sum.data()) {
      head.final_mean = first_row(rows.final_state);
      head.final_log = &rows.final_sum(b, h, 0);
    }
    return head;
  };
  auto const logits_of = [&](index_t number, index_t first, index_t count, A* to) {
    write_logits(number / s.query_heads, number % s.query_heads, first, count, scale, to);
  };
  index_t const heads = s.batches * s.query_heads;
  using scan_type =
      engine::softmax_scan<T, decltype(head_of), decltype(logits_of), std::remove_reference_t<decltype(executor)>>;
  scan_type scan(heads, s.keys, s.value_dimension, head_of, logits_of, executor);
  prefix_scan usual{scan_type::usual_form(heads, s.keys)};
  scan.run(find_option<option::scan>(usual, options...).form);
}

}  // namespace detail

namespace systems {

/// Attends from one query for each head to every prefix of the keys; shapes stand at the beginning of this file.
/// Options: scale (1/sqrt(key dimension) unless given), initial_state, final_state, prefix_scan (the form suits the
/// shape unless given) and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     aaren_attention(rows, k, v, o, prefix_scan{scan_form::tree});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void aaren_attention(Query const& query, Key const& key, Value const& value, Output&& output, Options&&... options) {
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  tensor_view<T const, 3> const q = raise<3>(view_of(query));
  engine::state_problem<T> p;
  p.key = raise<4>(view_of(key));
  p.value = raise<4>(view_of(value));
  p.output = raise<4>(view_of(output));
  detail::check_view("query", q);
  detail::check_view("key", p.key);
  if (q.extent(0) != 1 && q.extent(0) != p.key.extent(0))
    fail("query", "expected ", detail::one_or(p.key.extent(0), "batch", "batches"), " (as key), got ", q.extent(0));
  // As a query of each token, all of them the same.
  p.query = {q.data(),
             {p.key.extent(0), q.extent(1), p.key.extent(2), q.extent(2)},
             {q.extent(0) == 1 ? 0 : q.stride(0), q.stride(1), 0, q.stride(2)}};
  detail::check_scan_tensors(p);
  auto const write_logits = [&](index_t batch, index_t head, index_t first, index_t count, A scale, A* to) {
    T const* const row = engine::rows_of_head(p.query, batch, head, 0).row(0);
    auto const keys = engine::rows_of_head(p.key, batch, head * p.shape.key_heads / p.shape.query_heads, first);
    simd::row_sums(
        count, p.shape.key_dimension, scale, to, [&](index_t) { return row; }, [&](index_t j) { return keys.row(j); },
        [](auto const& sum, auto const& x, auto const& y) { return simd::fused_multiply_add(x, y, sum); });
  };
  detail::run_softmax_scan(p, write_logits, options...);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
