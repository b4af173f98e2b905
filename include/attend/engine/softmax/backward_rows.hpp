// SPDX-License-Identifier: BSD-3-Clause
// What a backward call does with rows when all pairs are summed up.
//
//   rotary      dq_i, dk_j <- their rotation, the other way round
//   value_gain  dy_j = v_j . u_j,  dv_j = y_j u_j       with u_j = sum_i p_ij do_i
//   sinks       ds_h = -sum_i exp(s_h - lse_i) delta_i
//   head_gates  dx_h = sum_i do_i . o_i / x_h           o as the call wrote it, times x_h already
//
// Cost: each row is read once more.
#pragma once

#include "backward_policies.hpp"
#include "option_gradients.hpp"
#include "row_epilogue.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// What is known of a forward call's output, and where its gradients go. The log-sum-exp is missing where the
/// normalizer has none.
template <Element T>
struct gradients {
  using A = accumulation_t<T>;
  tensor_view<T const, 4> output, of_output;
  tensor_view<A const, 3> log_sum_exp;
  tensor_view<T, 4> of_query, of_key, of_value;
  option_gradients<A> of_options;

  /// The gradient of a row's log-sum-exp that the caller gives.
  A of_log_sum_exp(tile_rows<A> const& rows, int lane) const {
    auto const& given = of_options.of_log_sum_exp;
    return given.data() ? given(rows.batch, rows.head[lane], rows.query_token(lane)) : A(0);
  }
};

/// The rotation that undoes one, in a buffer of half the size of that one's.
template <class A>
options::rotation<A> turned_back(options::rotation<A> turn, A* buffer) {
  index_t const count = turn.layout == options::rotary_layout::half_split ? turn.pairs : 2 * turn.pairs;
  std::transform(turn.sine, turn.sine + count, buffer, std::negate<>());
  turn.sine = buffer;
  return turn;
}

template <Element T>
class backward_rows {
 public:
  using A = accumulation_t<T>;

  backward_rows(problem<T> const& p, gradients<T> const& g, any_backward_policies<A> const& call,
                attend::detail::any_executor const& executor)
      : p_(p), g_(g), call_(call), executor_(executor) {}

  /// Turns the gradients of rotated queries and keys into those of the tensors.
  void turn_back(tensor_view<A, 4> const& of_query, tensor_view<A, 4> const& of_key) const {
    if (call_.rotates_queries)
      turn_rows(of_query, p_.shape.queries, [&](index_t s, index_t i, A* buffer) {
        attend::detail::sequence const of = p_.sequences[s];
        attending_place at{of.batch, of.first_query + i, of.keys - of.queries + i};
        at.sequence = s;
        at.query = i;
        at.queries = of.queries;
        at.keys = at.stored = of.keys;
        return i < of.queries ? std::pair(at.token, call_.query_rotation(at, buffer)) : nothing();
      });
    if (call_.rotates_keys)
      turn_rows(of_key, p_.shape.keys, [&](index_t s, index_t j, A* buffer) {
        attend::detail::sequence const of = p_.sequences[s];
        return j < of.keys ? std::pair(of.first_key + j, call_.key_rotation(place_of(s, of, j), buffer)) : nothing();
      });
  }

  static attended_place place_of(index_t number, attend::detail::sequence const& of, index_t j) {
    attended_place at{of.batch, of.first_key + j, j};
    at.sequence = number;
    at.row = j;
    return at;
  }

  /// Turns sums of weights times gradients of the output into gradients of values, where these have gains, and writes
  /// the gradients of the gains.
  void end_values(tensor_view<A, 4> const& of_value, scratch& memory) const {
    tensor_view<A const, 3> const& gains = p_.value_gain;
    if (!gains.data()) return;
    problem_shape const& shape = p_.shape;
    std::array const extents{shape.batches, shape.value_heads, shape.keys};
    bool const wanted = g_.of_options.value_gain.data();
    tensor_view<A, 3> const of_gain(wanted ? memory.allocate<A>(extents[0] * extents[1] * extents[2]) : nullptr,
                                    extents);
    index_t const tasks = extents[0] * extents[1], columns = shape.value_dimension;
    executor_.run(tasks, tasks * loop_cost::of(0, 2 * shape.keys * columns * index_t{sizeof(A)}), [&](index_t task) {
      index_t const b = task / extents[1], h = task % extents[1];
      for (index_t j = 0; j < shape.keys; ++j) {
        A const gain = gains(gains.extent(0) == 1 ? 0 : b, gains.extent(1) == 1 ? 0 : h, j);
        A* const sum = columns > 0 ? &of_value(b, h, j, 0) : nullptr;
        T const* const value = columns > 0 ? &p_.value(b, h, j, 0) : nullptr;
        double of_one = 0;
        // What nobody sees has sums of 0, and may be anything itself.
        for (index_t c = 0; c < columns; ++c)
          if (sum[c] != 0) {
            of_one += static_cast<double>(sum[c]) * static_cast<double>(value[c]);
            sum[c] *= gain;
          }
        if (wanted) of_gain(b, h, j) = static_cast<A>(of_one);
      }
    });
    if (wanted) sum_shared_axes<A>(of_gain, g_.of_options.value_gain);
  }

  /// Writes the gradients of sinks and of gates.
  void sum_rows(scratch& memory) const {
    auto const& of = g_.of_options;
    bool const of_sinks = of.sinks.data(), of_gates = of.head_gates.data();
    if (!of_sinks && !of_gates) return;
    problem_shape const& shape = p_.shape;
    index_t const heads = shape.query_heads;
    std::array const extents{shape.batches, heads, index_t{1}};
    auto const cleared = [&] {
      A* const numbers = memory.allocate<A>(shape.batches * heads);
      std::fill_n(numbers, shape.batches * heads, A(0));
      return tensor_view<A, 3>(numbers, extents);
    };
    tensor_view<A, 3> const sink = cleared(), gate = cleared();
    executor_.run(
        heads, heads * loop_cost::of(0, 2 * shape.batches * shape.queries * shape.value_dimension * index_t{sizeof(T)}),
        [&](index_t head) {
          for (index_t s = 0; s < p_.sequences.size(); ++s) {
            attend::detail::sequence const sequence = p_.sequences[s];
            A const factor = head_gate(p_, sequence.batch, head);
            if (factor == 0) continue;
            row_sums const sums = sums_of(s, sequence, head);
            sink(sequence.batch, head, 0) += static_cast<A>(sums.of_sink);
            gate(sequence.batch, head, 0) += static_cast<A>(sums.of_output / static_cast<double>(factor));
          }
        });
    if (of_sinks)
      sum_shared_axes<A>(sink,
                         tensor_view<A, 3>(of.sinks.data(), {1, of.sinks.extent(0), 1}, {0, of.sinks.stride(0), 0}));
    if (of_gates)
      sum_shared_axes<A>(gate, tensor_view<A, 3>(of.head_gates.data(), {of.head_gates.extent(0), heads, 1},
                                                 {of.head_gates.stride(0), of.head_gates.stride(1), 0}));
  }

 private:
  using loop_cost = attend::detail::loop_cost;
  using turn_of_token = std::pair<index_t, options::rotation<A>>;

  struct row_sums {
    double of_sink = 0, of_output = 0;
  };

  static turn_of_token nothing() { return {-1, {}}; }

  row_sums sums_of(index_t s, attend::detail::sequence const& sequence, index_t head) const {
    row_sums sums;
    tile_rows<A> rows;
    for (index_t first = 0; first < sequence.queries; first += tile_rows<A>::lanes) {
      place_rows(rows, p_.shape, s, sequence, &head, 1, first,
                 std::min<index_t>(sequence.queries - first, tile_rows<A>::lanes));
      for (int lane = 0; lane < rows.count; ++lane) {
        double const change = change_of_output(rows, lane);
        sums.of_output += change;
        if (!g_.of_options.sinks.data()) continue;
        A const sum = g_.log_sum_exp(rows.batch, head, rows.query_token(lane));
        double const weight = std::exp(static_cast<double>(call_.sink(rows, lane) - sum));
        if (weight > 0) sums.of_sink -= weight * (change - static_cast<double>(g_.of_log_sum_exp(rows, lane)));
      }
    }
    return sums;
  }

  /// do . o of a row; where nothing is seen, o is 0 and adds nothing.
  double change_of_output(tile_rows<A> const& rows, int lane) const {
    T const *const output = row_of_lane(g_.output, rows, lane), *const gradient = row_of_lane(g_.of_output, rows, lane);
    double sum = 0;
    for (index_t c = 0; c < p_.shape.value_dimension; ++c)
      if (output[c] != T(0)) sum += static_cast<double>(output[c]) * static_cast<double>(gradient[c]);
    return sum;
  }

  /// Turns the rows of all heads at each token back; turn(sequence, number, buffer) gives the token and its rotation.
  template <class Turn>
  void turn_rows(tensor_view<A, 4> const& rows, index_t tokens, Turn const& turn) const {
    constexpr index_t run = 64;  // tokens of a task
    index_t const runs = divide_up(tokens, run), columns = rows.extent(3);
    if (columns == 0) return;
    executor_.run(
        p_.sequences.size() * runs,
        loop_cost::of(0, rows.extent(0) * rows.extent(1) * tokens * columns * index_t{sizeof(A)}), [&](index_t task) {
          index_t const s = task / runs, first = task % runs * run;
          scratch memory;
          A *const buffer = memory.allocate<A>(call_.rotation_size), *const sines =
                                                                         memory.allocate<A>(call_.rotation_size);
          for (index_t t = first; t < std::min(first + run, tokens); ++t) {
            auto const [token, forward] = turn(s, t, buffer);
            if (token < 0) break;
            options::rotation<A> const back = turned_back(forward, sines);
            for (index_t h = 0; h < rows.extent(1); ++h) {
              A* const row = &rows(p_.sequences[s].batch, h, token, 0);
              back.apply(row, row, columns);
            }
          }
        });
  }

  problem<T> const& p_;
  gradients<T> const& g_;
  any_backward_policies<A> const& call_;
  attend::detail::any_executor const& executor_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
