// SPDX-License-Identifier: BSD-3-Clause
// The gradients of a call that carries a state: the chunks of a head once forward, for the states between them, and
// once backward, for all gradients (chunk_gradient.hpp).
//
//   S_0 -> S_1 -> ... -> S_n         kept, or of a long sequence only every so many, from which the others are computed
//   dS_n -> ... -> dS_0              once more, a segment after the other
//
// State heads that share a query, a key or a value head are a task: their chunks are gone through side by side, so that
// what a shared row gets from each of them is summed up in one order. How a call is cut depends on its shape alone: the
// results have the same bits for any number of threads and in any batch.
//
// Where there are more threads than tasks, and the update is additive, chunks are tasks as well. Of the chunks of a
// segment, each computes what it adds to S and to dS; the sums of these are a scan; and then each chunk has all that
// its gradients need. The first product with the queries is computed twice, and two states are kept for each chunk of a
// segment. Every number is computed as on the other way, so that the results have the same bits.
//
// Working memory of a thread: some twenty arrays of a chunk, and the states of a segment. A sequence whose states take
// up to `kept_bytes` is one segment. Of a longer one as many states are kept as fit there, but no fewer than the square
// root of the number of chunks, and one state for each segment besides; each chunk's state is then computed once more,
// F D multiply-adds a token.
#pragma once

#include <cmath>

#include "../../core/executor.hpp"
#include "chunk_gradient.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <Element T>
class backward_states {
 public:
  using A = accumulation_t<T>;

  backward_states(state_problem<T> const& p, state_gradients<T> const& g, any_state_policies<A> const& policies,
                  any_feature_slope<A> const& slope)
      : p_(p), g_(g), policies_(policies), slope_(slope), layout_(gradient_layout<T>::of(p)) {}

  void run(attend::detail::any_executor const& executor) const {
    state_shape const& s = p_.shape;
    index_t const units = std::min({s.query_heads, s.key_heads, s.value_heads});
    if (units == 0) return;
    index_t const heads = s.state_heads() / units;
    scratch memory;
    // A constant decay's gradient is a sum over all tokens and batches.
    double* const logs = memory.allocate<double>(s.batches * s.state_heads());
    std::fill_n(logs, s.batches * s.state_heads(), 0.0);
    index_t const workers = executor.workers_for(cost());
    if (can_share_heads() && s.batches > 0 && s.batches * units < workers)
      run_phases(executor, workers, units, logs);
    else
      executor.run(s.batches * units, cost(), [&](index_t task) {
        index_t const batch = task / units, first = task % units * heads;
        run_task(batch, first, heads, logs + batch * s.state_heads() + first);
      });
    if (!policies_.has_constant_decay || !g_.of_decay.data()) return;
    for (index_t h = 0; h < s.state_heads(); ++h) {
      double sum = 0;
      for (index_t b = 0; b < s.batches; ++b) sum += logs[b * s.state_heads() + h];
      g_.of_decay(0, h, 0, 0) = static_cast<A>(sum);
    }
  }

 private:
  using state_type = turned_state<A>;
  static constexpr index_t kept_bytes = index_t{4} << 20;
  static constexpr index_t width = simd::width<A>;

  attend::detail::loop_cost cost() const {
    attend::detail::loop_cost one = cost_of(p_);
    one.operations *= 2.5;
    one.bytes *= 2.5;
    return one;
  }

  /// The steps of a segment.
  index_t segment_for(index_t steps, index_t heads) const {
    index_t const bytes = heads * layout_.state_numbers() * index_t{sizeof(A)};
    index_t const root = static_cast<index_t>(std::ceil(std::sqrt(static_cast<double>(steps))));
    return std::clamp<index_t>(std::max(kept_bytes / std::max<index_t>(bytes, 1), root), 1,
                               std::max<index_t>(steps, 1));
  }

  void run_task(index_t batch, index_t first_head, index_t heads, double* logs) const {
    scratch memory;
    chunk_steps<T> const steps(p_, layout_.chunk);
    index_t const count = steps.count(), segment = segment_for(count, heads);
    index_t const segments = std::max<index_t>(divide_up(count, segment), 1);
    chunk_gradient<T> chunk(memory, p_, g_, policies_, slope_, layout_);
    state_type* const begins = allocate_states(memory, segments * heads);     // of the segments
    state_type* const kept = allocate_states(memory, (segment - 1) * heads);  // the others of a segment
    state_type* const gradients = allocate_states(memory, heads);
    auto const state_at = [&](index_t of_segment, index_t step, index_t h) -> state_type const& {
      return step == 0 ? begins[of_segment * heads + h] : kept[(step - 1) * heads + h];
    };
    for (index_t h = 0; h < heads; ++h) {
      load(batch, first_head + h, p_.initial_state, p_.initial_sum, begins[h]);
      load(batch, first_head + h, g_.of_final_state, g_.of_final_sum, gradients[h]);
      for (index_t i = 0; i < (segments - 1) * segment; ++i) {
        state_type const& after = begins[(i / segment + 1) * heads + h];
        chunk.advance(batch, first_head + h, steps[i], i % segment == 0 ? begins[i / segment * heads + h] : after,
                      after, {first_head + h, steps[i + 1], &after});
      }
    }
    for (index_t s = segments - 1; s >= 0; --s) {
      index_t const first = s * segment, of_segment = std::min(segment, count - first);
      for (index_t h = 0; h < heads; ++h)
        for (index_t step = 0; step + 1 < of_segment; ++step)
          chunk.advance(
              batch, first_head + h, steps[first + step], state_at(s, step, h), state_at(s, step + 1, h),
              {first_head + h, steps[first + step + 1], step + 2 < of_segment ? &state_at(s, step + 2, h) : nullptr});
      for (index_t step = of_segment - 1; step >= 0; --step)
        for (index_t h = 0; h < heads; ++h) {
          gradient_ahead<A> next;
          if (h + 1 < heads)
            next = {first_head + h + 1, steps[first + step], &state_at(s, step, h + 1)};
          else if (step > 0)
            next = {first_head, steps[first + step - 1], &state_at(s, step - 1, 0)};
          logs[h] +=
              chunk.go_back(batch, first_head + h, steps[first + step], state_at(s, step, h), gradients[h], next);
        }
    }
    for (index_t h = 0; h < heads; ++h) store(batch, first_head + h, gradients[h]);
  }

  /// Whether chunks of a head may be tasks: what they add to the gradient of the state must not depend on the state.
  bool can_share_heads() const { return p_.causal && !policies_.reads_state && !policies_.sums_keys; }

  void run_phases(attend::detail::any_executor const& executor, index_t workers, index_t units, double* logs) const {
    state_shape const& s = p_.shape;
    chunk_steps<T> const steps(p_, layout_.chunk);
    index_t const count = steps.count(), all = s.batches * s.state_heads(), of_unit = s.state_heads() / units;
    // Each thread has some runs of a segment, of so many chunks that what a run sets up takes a small part of the time.
    constexpr index_t longest_run = 4, runs_of_thread = 4;
    index_t const wanted = divide_up(runs_of_thread * workers, s.batches * units);
    index_t const run = std::clamp<index_t>(count / wanted, 1, longest_run);
    index_t const segment = std::max<index_t>(std::min(run * wanted, count), 1);
    index_t const segments = std::max<index_t>(divide_up(count, segment), 1);
    scratch memory;
    state_type* const begins = allocate_states(memory, segments * all);
    state_type* const states = allocate_states(memory, (segment + 1) * all);     // before each chunk, and the last
    state_type* const gradients = allocate_states(memory, (segment + 1) * all);  // the same
    auto* const decays = memory.allocate<state_decay<A>>(segment * all);
    double* const chunk_logs = memory.allocate<double>(segment * all);
    for (index_t i = 0; i < segment * all; ++i)
      decays[i] = policies_.kind == decay_kind::none
                      ? state_decay<A>{}
                      : state_decay<A>{memory.allocate<A>(layout_.features.padded_features),
                                       memory.allocate<A>(layout_.features.padded_features)};
    for (index_t head = 0; head < all; ++head) {
      load(head / s.state_heads(), head % s.state_heads(), p_.initial_state, p_.initial_sum, begins[head]);
      load(head / s.state_heads(), head % s.state_heads(), g_.of_final_state, g_.of_final_sum,
           gradients[segment * all + head]);
    }
    auto const chunks_of = [&](index_t part) { return std::min(segment, count - part * segment); };
    /// Calls body(chunk, batch, head, step within the segment) for all chunks, those of a unit's heads side by side.
    auto const for_chunks = [&](index_t part, auto const& body) {
      index_t const runs = divide_up(chunks_of(part), run);
      executor.run(s.batches * units * runs, cost(), [&](index_t task) {
        index_t const batch = task / runs / units, unit = task / runs % units, first = task % runs * run;
        scratch own;
        chunk_gradient<T> chunk(own, p_, g_, policies_, slope_, layout_);
        for (index_t step = first; step < std::min(first + run, chunks_of(part)); ++step)
          for (index_t head = unit * of_unit; head < (unit + 1) * of_unit; ++head) body(chunk, batch, head, step);
      });
    };
    /// states[to] = decay states[from] + states[to], for all heads.
    auto const scan = [&](index_t part, state_type const* sums, bool forward) {
      constexpr index_t rows = simd::register_rows;
      index_t const chunks = chunks_of(part), blocks = layout_.columns.padded_features / rows;
      executor.run(all * blocks, cost(), [&](index_t task) {
        index_t const head = task / blocks, offset = task % blocks * rows;
        for (index_t n = 0; n < chunks; ++n) {
          index_t const step = forward ? n : chunks - 1 - n, from = forward ? step : step + 1,
                        to = forward ? step + 1 : step;
          for (index_t d = offset; d < offset + rows; ++d)
            add_row(sums[from * all + head].rows.row(d), decays[step * all + head], sums[to * all + head].rows.row(d));
        }
      });
    };
    auto const go_forward = [&](index_t part) {
      for (index_t head = 0; head < all; ++head) copy_rows(begins[part * all + head], states[head]);
      for_chunks(part, [&](chunk_gradient<T>& chunk, index_t batch, index_t head, index_t step) {
        index_t const at = batch * s.state_heads() + head;
        chunk.write_added(batch, head, steps[part * segment + step], states[(step + 1) * all + at].rows,
                          decays[step * all + at]);
      });
      scan(part, states, true);
    };
    for (index_t part = 0; part + 1 < segments; ++part) {
      go_forward(part);
      for (index_t head = 0; head < all; ++head)
        copy_rows(states[segment * all + head], begins[(part + 1) * all + head]);
    }
    for (index_t part = segments - 1; part >= 0; --part) {
      index_t const chunks = chunks_of(part), last = chunks * all;
      go_forward(part);
      // The gradient of the state after the segment stands behind a whole one.
      for (index_t head = 0; head < all && chunks < segment; ++head)
        copy_rows(gradients[segment * all + head], gradients[last + head]);
      for_chunks(part, [&](chunk_gradient<T>& chunk, index_t batch, index_t head, index_t step) {
        index_t const at = batch * s.state_heads() + head;
        chunk.read_added(batch, head, steps[part * segment + step], gradients[step * all + at].rows,
                         decays[step * all + at]);
      });
      scan(part, gradients, false);
      for_chunks(part, [&](chunk_gradient<T>& chunk, index_t batch, index_t head, index_t step) {
        index_t const at = batch * s.state_heads() + head;
        chunk_logs[step * all + at] = chunk.go_back(batch, head, steps[part * segment + step], states[step * all + at],
                                                    gradients[(step + 1) * all + at], {}, false);
      });
      for (index_t step = chunks - 1; step >= 0; --step)
        for (index_t head = 0; head < all; ++head) logs[head] += chunk_logs[step * all + head];
      for (index_t head = 0; head < all; ++head) copy_rows(gradients[head], gradients[segment * all + head]);
    }
    for (index_t head = 0; head < all; ++head)
      store(head / s.state_heads(), head % s.state_heads(), gradients[segment * all + head]);
  }
  void add_row(A const* before, state_factors<A> factors, A* to) const {
    for (index_t f = 0; f < layout_.features.padded_features; f += width)
      simd::store(to + f, factors.of_features(f, simd::load(before + f), simd::load(to + f)));
  }
  void copy_rows(state_type const& from, state_type const& to) const {
    std::copy_n(from.rows.data, layout_.columns.padded_features * layout_.features.stride, to.rows.data);
  }

  state_type* allocate_states(scratch& memory, index_t count) const {
    state_type* const states = memory.allocate<state_type>(count);
    for (index_t i = 0; i < count; ++i) states[i] = layout_.allocate_state(memory);
    return states;
  }

  /// Reads a state, or zeros where none is given.
  void load(index_t batch, index_t head, tensor_view<A const, 4> const& state, tensor_view<A const, 3> const& sum,
            state_type const& to) const {
    layout_.clear(to);
    index_t const features = p_.shape.features, columns = p_.shape.value_dimension;
    if (state.data() && features > 0 && columns > 0)
      for (index_t f = 0; f < features; ++f)
        for (index_t d = 0; d < columns; ++d) to.rows.row(d)[f] = state(batch, head, f, d);
    if (sum.data() && features > 0) std::copy_n(&sum(batch, head, 0), features, to.key_sum);
  }
  void store(index_t batch, index_t head, state_type const& from) const {
    index_t const features = p_.shape.features, columns = p_.shape.value_dimension;
    if (g_.of_initial_state.data())
      for (index_t f = 0; f < features; ++f)
        for (index_t d = 0; d < columns; ++d) g_.of_initial_state(batch, head, f, d) = from.rows.row(d)[f];
    if (g_.of_initial_sum.data() && features > 0)
      std::copy_n(from.key_sum, features, &g_.of_initial_sum(batch, head, 0));
  }

  state_problem<T> const& p_;
  state_gradients<T> const& g_;
  any_state_policies<A> const& policies_;
  any_feature_slope<A> const& slope_;
  gradient_layout<T> const layout_;
};

/// Runs a problem whose arguments are checked, compiled once for all policies.
template <Element T>
void run_backward_states(state_problem<T> const& p, state_gradients<T> const& g,
                         any_state_policies<accumulation_t<T>> const& policies,
                         any_feature_slope<accumulation_t<T>> const& slope,
                         attend::detail::any_executor const& executor) {
  backward_states<T>(p, g, policies, slope).run(executor);
}

}  // namespace attend::inline ATTEND_TARGET::engine
