// SPDX-License-Identifier: BSD-3-Clause
// The chunked engine: a state S [feature][value column] carried through a sequence.
//
//   S_t = diag(a_t) S_{t-1} + k_t w_t^T      w_t = v_t, or rate_t v_t, or rate_t (v_t - (diag(a_t) S_{t-1})^T k_t)
//   o_t = q_t^T S_t                          causal;   o_i = q_i^T S_n after all n keys otherwise
//
// A chunk of C tokens costs, for each value column and token, one product with the state (two for a delta rule), C / 2
// products with the chunk's own tokens (as many again to solve the delta rule's system), and one to write the state:
//
//   2 (2 F D + (C + 1) / 2 (F + D)) operations a token for F features and D value columns, additive
//   2 (3 F D + (C + 1) / 2 (2 F + 2 D)) for a delta rule (C - 1 for its system)
//
// The chunks of a head are processed one after the other; heads are tasks. Where there are more threads than heads, or
// the number of heads is not a multiple of theirs, threads share a head (chunk_pipeline.hpp): each carries the state of
// some of the value columns, and numbers that do not depend on value columns are computed once. Every value column is
// computed in the same way by any thread, so the results have the same bits for any number of threads. A call with a
// single token has its own loop (state_step.hpp).
//
// Working memory is a state and a few arrays of a chunk for each thread, whatever the length of the sequence.
//
// Zhen Qin et al.: Lightning Attention-2, 2024 (within chunks as a masked product, across them as a state); Songlin
// Yang, Bailin Wang, Yu Zhang, Yikang Shen, Yoon Kim: Parallelizing Linear Transformers with the Delta Rule over
// Sequence Length, 2024 (chunks of a delta rule as a triangular system; here it is solved against the state at hand,
// not inverted).
#pragma once

#include <array>
#include <new>
#include <numeric>
#include <type_traits>

#include "../../core/executor.hpp"
#include "chunk_pipeline.hpp"
#include "erased_state_policies.hpp"
#include "feature_totals.hpp"
#include "prepared_chunk.hpp"
#include "state_step.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// The cost of a call: each token writes the state and each query reads it. With one token it is memory traffic.
template <Element T>
attend::detail::loop_cost cost_of(state_problem<T> const& p) {
  state_shape const& s = p.shape;
  double const state = static_cast<double>(s.batches * s.state_heads()) * static_cast<double>(s.features) *
                       static_cast<double>(s.value_dimension);
  return {2 * state * static_cast<double>(s.keys + s.queries * p.heads_per_group()),
          2 * state * static_cast<double>(sizeof(accumulation_t<T>))};
}

/// How a problem is cut into chunks, blocks of value columns, and lines of heads.
struct chunk_cut {
  chunk_layout layout;
  index_t chunk;          // the tokens of a chunk
  index_t columns;        // the value columns of a block
  index_t column_blocks;  // the blocks of a head
  index_t lines;          // the number of heads that threads share at the same time; 0 if each has heads of its own

  static constexpr index_t shortest_usual = 32, longest_usual = 128;

  /// The number of tokens C of a chunk with products within the chunk, unless the call sets it. The products of a token
  /// with its own chunk, of length `depth`, take C / 2 (depth + columns) multiplications. Once for each chunk, the
  /// state is read and written, which takes as long as about 8 multiplications for each number, and a constant time is
  /// spent (machine::chunk_work); it is longer for vector decays, which are prepared block by block. The time for each
  /// token is smallest where C^2 is twice the ratio of the time for each chunk to depth + columns.
  static index_t chunk_for(index_t features, index_t depth, index_t columns, decay_kind kind) {
    index_t const constant = attend::detail::machine::here().chunk_work;
    index_t const once = 8 * features * columns + (kind == decay_kind::vector ? constant / 5 * 8 : constant);
    index_t chunk = shortest_usual;
    // The power of two that is nearest to that C, by ratio.
    while (chunk < longest_usual && once >= chunk * chunk * (depth + columns)) chunk *= 2;
    return chunk;
  }

  template <Element T>
  static chunk_cut of(state_problem<T> const& p, index_t usual_chunk, bool whole_rows, bool can_share,
                      index_t workers) {
    using A = accumulation_t<T>;
    constexpr index_t width = simd::width<A>;
    state_shape const& s = p.shape;
    chunk_cut cut;
    cut.chunk = std::max<index_t>(1, std::min(p.chunk > 0 ? p.chunk : usual_chunk, std::max(s.keys, s.queries)));
    cut.layout = chunk_layout::of<A>(s.features, cut.chunk);
    index_t const heads = s.batches * s.state_heads(), vectors = divide_up(s.value_dimension, width);
    workers = std::min(workers, cost_of(p).worthwhile_threads());
    // A block of one vector would keep too few sums in flight. Blocks that cannot share chunks prepare each chunk
    // again, which takes as long as some 50 columns where features are sigmoids or exponentials.
    index_t const least_vectors = can_share ? 2 : std::max<index_t>(2, 64 / width);
    index_t const max_blocks = whole_rows ? 1 : std::max<index_t>(1, vectors / least_vectors);
    bool const even = heads % workers == 0 || heads >= 4 * workers;
    cut.column_blocks = 1;
    cut.lines = 0;
    if (!even && max_blocks > 1) {
      index_t const group_size = std::min(heads, std::max(std::gcd(heads, workers), divide_up(workers, max_blocks)));
      cut.column_blocks = std::min(max_blocks, divide_up(workers, group_size));
      if (can_share && cut.column_blocks > 1) cut.lines = group_size;
    }
    cut.columns = divide_up(vectors, cut.column_blocks) * width;
    cut.column_blocks = std::max<index_t>(1, divide_up(s.value_dimension, std::max<index_t>(cut.columns, 1)));
    return cut;
  }
};

/// A block of value columns of a state, which is carried from the first token of a head to the last.
template <Element T>
class column_block {
 public:
  using A = accumulation_t<T>;

  column_block(scratch& memory, state_problem<T> const& p, chunk_cut const& cut, any_state_policies<A> const& policies,
               index_t first_column)
      : p_(p),
        layout_(cut.layout),
        chunk_(cut.chunk),
        steps_(p, cut.chunk),
        policies_(policies),
        first_column_(first_column),
        columns_(std::min(cut.columns, p.shape.value_dimension - first_column)),
        padded_columns_(round_up(columns_, width)),
        state_(memory.allocate<A>(layout_.padded_features * padded_columns_)),
        value_(memory.allocate<A>(layout_.lanes * padded_columns_)),
        output_(memory.allocate<A>(policies.whole_rows ? layout_.lanes * padded_columns_ : 0)),
        finish_(memory.allocate<A>(layout_.lanes)),
        key_sum_(memory.allocate<A>(layout_.padded_features)),
        prefetch_(memory, max_runs()) {
    std::fill_n(value_, layout_.lanes * padded_columns_, A(0));
    std::fill_n(finish_, layout_.lanes, p.scale);
  }

  /// Begins a head, and reads its initial state.
  void enter(index_t batch, index_t head) {
    batch_ = batch;
    head_ = head;
    load_state();
  }
  void leave() { store_state(); }

  /// Carries the state through a step. The chunk that is prepared next in the place of this one is `ahead` steps later.
  void advance(prepared_chunk<T> const& chunk, index_t step, index_t ahead) {
    prefetch_memory(chunk.step(), step, ahead);
    tokens_ = chunk.step().keys;
    if (tokens_ > 0) {
      load_values(chunk);
      if (policies_.reads_state)
        for_panels([&]<int Vectors>(chunk_panel<A> panel, index_t) {
          solve_panel<Vectors>(chunk.keys_before(), chunk.row_factors(), chunk.key_products(), chunk.rates(), panel,
                               tokens_, layout_, prefetch_);
        });
    }
    if (columns_ > 0 && chunk.step().queries > 0)
      for (index_t h = 0; h < p_.heads_per_group(); ++h) answer(chunk, h);
    if (tokens_ > 0) write(chunk);
  }

 private:
  static constexpr index_t width = simd::width<A>;

  /// Calls function.template operator()<Vectors>(panel, first column of the panel within the block) for each panel.
  template <class Function>
  void for_panels(Function&& function) const {
    simd::for_tile_widths(static_cast<int>(padded_columns_ / width), [&]<int Vectors>(int first) {
      index_t const column = first * width;
      function.template operator()<Vectors>(
          chunk_panel<A>{state_ + column * layout_.padded_features, value_ + column * layout_.lanes}, column);
    });
  }

  /// Loads one vector of a row that has `columns_` elements.
  template <Element U>
  simd::vector<A> load_part(U const* row, index_t column) const {
    return column + width <= columns_ ? simd::widen(row + column) : simd::widen_part(row + column, columns_ - column);
  }

  void load_state() {
    std::fill_n(state_, layout_.padded_features * padded_columns_, A(0));
    std::fill_n(key_sum_, layout_.padded_features, A(0));
    if (p_.initial_state.data())
      for_panels([&]<int Vectors>(chunk_panel<A> panel, index_t column) {
        for (index_t f = 0; f < layout_.features; ++f)
          for (int v = 0; v < Vectors; ++v)
            simd::store(panel.state + (f * Vectors + v) * width,
                        load_part(&p_.initial_state(batch_, head_, f, first_column_), column + v * width));
      });
    if (policies_.sums_keys && p_.initial_sum.data() && layout_.features > 0)
      std::copy_n(&p_.initial_sum(batch_, head_, 0), layout_.features, key_sum_);
  }

  void store_state() {
    if (p_.final_state.data())
      for_panels([&]<int Vectors>(chunk_panel<A> panel, index_t column) {
        for (index_t f = 0; f < layout_.features; ++f)
          for (int v = 0; v < Vectors; ++v) {
            A* const to = &p_.final_state(batch_, head_, f, first_column_) + column + v * width;
            simd::vector<A> const x = simd::load(panel.state + (f * Vectors + v) * width);
            index_t const left = columns_ - column - v * width;
            left >= width ? x.store_unaligned(to) : simd::narrow_part(to, x, left);
          }
      });
    if (policies_.sums_keys && p_.final_sum.data() && layout_.features > 0 && first_column_ == 0)
      std::copy_n(key_sum_, layout_.features, &p_.final_sum(batch_, head_, 0));
  }

  void load_values(prepared_chunk<T> const& chunk) {
    rows_of<T> const from = rows_of_head(p_.value, batch_, p_.value_head(head_), chunk.step().first_key);
    bool const gated = policies_.has_rates && !policies_.reads_state;
    for_panels([&]<int Vectors>(chunk_panel<A> panel, index_t column) {
      bool const whole = column + Vectors * width <= columns_;
      for (index_t j = 0; j < tokens_; ++j) {
        T const* const row = from.row(j) + first_column_;
        simd::vector<A> const rate(gated ? chunk.rates()[j] : A(1));
        ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) {
          index_t const at = column + v * width;
          simd::vector<A> const x = whole ? simd::widen(row + at) : load_part(row, at);
          simd::store(panel.value + (j * Vectors + v) * width, x * rate);
        }
      }
      std::fill(panel.value + tokens_ * Vectors * width,
                panel.value + round_up(tokens_, chunk_block<A>) * Vectors * width, A(0));
    });
  }

  void prefetch(tensor_view<T const, 4> const& tensor, index_t head, index_t first, index_t first_column,
                index_t columns) {
    prefetch_.add(tensor, batch_, head, first, chunk_, first_column, columns);
  }

  /// Lists what the products of this step prefetch: memory that will be written, and memory that the next steps will
  /// read, in the order in which it will be needed. Only the first block of columns prefetches keys and only the last
  /// one queries, since both serve all columns. Where blocks share chunks, another processor may have prepared the next
  /// step's queries: every block prefetches these from that processor's cache.
  void prefetch_memory(chunk_step const& now, index_t step, index_t ahead) {
    prefetch_.clear();
    index_t const heads = p_.heads_per_group(), first_head = head_ * heads;
    if (now.queries > 0)
      for (index_t h = 0; h < heads; ++h) prefetch(p_.output, first_head + h, now.first_query, first_column_, columns_);
    if (step + 1 < steps_.count())
      prefetch(p_.value, p_.value_head(head_), steps_[step + 1].first_key, first_column_, columns_);
    auto const prefetch_queries = [&](chunk_step const& of) {
      for (index_t h = 0; h < heads && of.queries > 0; ++h)
        prefetch(p_.query, p_.query_head(first_head + h), of.first_query, 0, p_.shape.key_dimension);
    };
    if (ahead > 1 && step + 1 < steps_.count()) prefetch_queries(steps_[step + 1]);
    if (step + ahead >= steps_.count()) return;
    bool const first = ahead == 1 || first_column_ == 0,
               last = ahead == 1 || first_column_ + columns_ == p_.shape.value_dimension;
    chunk_step const next = steps_[step + ahead];
    if (first && next.keys > 0) {
      prefetch(p_.key, p_.key_head(head_), next.first_key, 0, p_.shape.key_dimension);
      policies_.prefetch_decays(prefetch_, batch_, head_, next.first_key, chunk_);
    }
    if (last) prefetch_queries(next);
  }
  index_t max_runs() const {
    index_t const rows = p_.shape.key_dimension, heads = p_.heads_per_group();
    return chunk_ * ((2 * heads + 1) * chunk_prefetch::runs_of<T>(rows) +
                     (heads + 1) * chunk_prefetch::runs_of<T>(columns_) + chunk_prefetch::runs_of<A>(layout_.features));
  }

  /// Writes the outputs of one query head of the group.
  void answer(prepared_chunk<T> const& chunk, index_t h) {
    chunk_step const& step = chunk.step();
    bool const attends = chunk.attends();
    rows_of<A> const query = chunk.queries(h);
    A const *const products = attends ? chunk.query_products(h) : nullptr, *const factors =
                                                                               attends ? chunk.row_factors() : nullptr;
    if (policies_.sums_keys)
      for (index_t i = 0; i < step.queries; ++i)
        finish_[i] =
            p_.scale * policies_.factor(p_.scale, sum_of_weights(query.row(i), factors, products, chunk.rates(), i));
    T* const to = &p_.output(batch_, head_ * p_.heads_per_group() + h, step.first_query, first_column_);
    index_t const stride = p_.output.stride(2);
    for_panels([&]<int Vectors>(chunk_panel<A> panel, index_t column) {
      auto const read = [&](auto const& output) {
        read_panel<Vectors>(query, factors, products, finish_, panel, step.queries, layout_, output, prefetch_);
      };
      if (policies_.whole_rows)
        read(chunk_output<A>{output_ + column, padded_columns_, padded_columns_ - column});
      else
        read(chunk_output<T>{to + column, stride, columns_ - column});
    });
    if (policies_.whole_rows)
      for (index_t i = 0; i < step.queries; ++i)
        finish_row(policies_, A(1), A(0), output_ + i * padded_columns_, columns_, to + i * stride,
                   p_.mean_square(batch_, head_ * p_.heads_per_group() + h, step.first_query + i));
  }

  /// The weight sum of query i: q_i . z plus the products with the chunk's own keys up to i.
  A sum_of_weights(A const* query, A const* factors, A const* products, A const* rates, index_t i) const {
    A sum = dot(query, key_sum_, layout_.padded_features);
    if (!products) return sum;
    if (factors) sum *= factors[i];
    A const* const row = products + i * layout_.lanes;
    index_t const whole = (i + 1) / width * width;
    sum += dot(row, rates, whole);
    for (index_t j = whole; j <= i; ++j) sum += row[j] * rates[j];
    return sum;
  }

  /// Updates the state by the chunk.
  void write(prepared_chunk<T> const& chunk) {
    chunk_writes<A> const& key = chunk.writes();
    for_panels([&]<int Vectors>(chunk_panel<A> panel, index_t) {
      write_panel<Vectors>(key, chunk.state_high(), chunk.state_low(), panel, tokens_, layout_, prefetch_);
    });
    if (policies_.sums_keys)
      for (index_t f = 0; f < layout_.padded_features; f += width) {
        simd::vector<A> sum = simd::load(key_sum_ + f);
        if (chunk.state_high())
          sum = simd::fused_multiply_add(sum, simd::load(chunk.state_high() + f),
                                         sum * simd::load(chunk.state_low() + f));
        for (index_t j = 0; j < tokens_; ++j)
          sum = simd::fused_multiply_add(simd::load(key.data + j * key.stride + f), simd::vector<A>(chunk.rates()[j]),
                                         sum);
        simd::store(key_sum_ + f, sum);
      }
  }

  state_problem<T> const& p_;
  chunk_layout const& layout_;
  index_t const chunk_;
  chunk_steps<T> const steps_;
  any_state_policies<A> const& policies_;
  index_t const first_column_, columns_, padded_columns_;
  A *state_, *value_, *output_, *finish_, *key_sum_;
  chunk_prefetch prefetch_;
  index_t batch_ = 0, head_ = 0, tokens_ = 0;
};

/// Calls run(policies) with the policies of one task: those of the call, unless its feature map follows the sequence
/// and makes policies for each head.
template <Element T, class Run>
void with_policies(state_problem<T> const& p, any_state_call<T> const& call, index_t batch, index_t head,
                   bool writes_sum, index_t max_tokens, Run const& run) {
  using A = accumulation_t<T>;
  if (!call.follows) return run(call.policies);
  rows_of<T> const query = rows_of_head(p.query, batch, p.query_head(head * p.heads_per_group()), 0);
  rows_of<T> const key = rows_of_head(p.key, batch, p.key_head(head), 0);
  bool const has_sum = p.shape.features > 0;
  followed_sequence<T> const sequence{
      query.data,
      key.data,
      query.stride,
      key.stride,
      p.shape.queries,
      p.shape.keys,
      p.shape.key_dimension,
      p.shape.features,
      p.causal,
      max_tokens,
      has_sum && p.initial_sum.data() ? &p.initial_sum(batch, head, 0) : nullptr,
      has_sum && writes_sum && p.final_sum.data() ? &p.final_sum(batch, head, 0) : nullptr};
  auto const run_task = [](void* context, any_state_policies<A> const& policies) {
    (*static_cast<Run const*>(context))(policies);
  };
  call.follow(sequence, batch * p.shape.key_heads + p.key_head(head), run_task,
              const_cast<void*>(static_cast<void const*>(&run)));
}

/// Runs a problem whose tokens are steps of their own: it has only one, or is to have the bits of single tokens.
template <Element T>
void run_single_tokens(state_problem<T> const& p, any_state_call<T> const& call, detail::any_executor const& executor) {
  using A = accumulation_t<T>;
  state_shape const& s = p.shape;
  bool const one = s.keys == 1 && s.queries == 1;
  // A task has several consecutive heads, so that it can prefetch the state of the next head.
  index_t const heads = s.batches * s.state_heads(), group_size = one ? 8 : 1;
  executor.run(divide_up(heads, group_size), cost_of(p), [&](index_t number) {
    state_step<T> step(p);
    for (index_t at = number * group_size; at < std::min(heads, (number + 1) * group_size); ++at) {
      index_t const batch = at / s.state_heads(), head = at % s.state_heads();
      with_policies(p, call, batch, head, true, 1, [&](any_state_policies<A> const& policies) {
        one ? step.run(policies, batch, head) : step.run_each(policies, batch, head);
      });
    }
  });
}

/// Runs a problem with several threads on each head: line l has heads l, l + lines, and so on.
template <Element T>
void run_shared(state_problem<T> const& p, any_state_policies<accumulation_t<T>> const& policies, chunk_cut const& cut,
                detail::any_executor const& executor) {
  using chunk_type = prepared_chunk<T>;
  using columns_type = column_block<T>;
  static_assert(std::is_trivially_destructible_v<chunk_type> && std::is_trivially_destructible_v<columns_type>);
  index_t const heads = p.shape.batches * p.shape.state_heads();
  // Each block may be at a chunk of its own, and as many chunks again may be prepared ahead.
  pipeline_size const size{cut.lines, cut.column_blocks, 2 * cut.column_blocks};
  scratch memory;
  chunk_type* const chunks = memory.allocate<chunk_type>(size.lines * size.slots);
  for (index_t i = 0; i < size.lines * size.slots; ++i)
    new (chunks + i) chunk_type(memory, p, policies, cut.layout, cut.chunk);
  columns_type* const columns = memory.allocate<columns_type>(size.lines * size.blocks);
  for (index_t i = 0; i < size.lines * size.blocks; ++i)
    new (columns + i) columns_type(memory, p, cut, policies, i % size.blocks * cut.columns);

  chunk_steps<T> const steps(p, cut.chunk);
  // A head without tokens still has one step, in which its initial state becomes its final state.
  index_t const of_head = std::max<index_t>(steps.count(), 1);
  auto const count = [&](index_t line) { return divide_up(heads - line, size.lines) * of_head; };
  auto const locate = [&](index_t line, index_t step) {
    index_t const head = line + step / of_head * size.lines;
    return std::array{head / p.shape.state_heads(), head % p.shape.state_heads(), step % of_head};
  };
  auto const prepare = [&](index_t line, index_t step, index_t slot) {
    auto const at = locate(line, step);
    chunks[slot].prepare(policies, at[0], at[1], steps.count() > 0 ? steps[at[2]] : chunk_step{});
  };
  auto const advance = [&](index_t line, index_t block, index_t step, index_t slot) {
    auto const at = locate(line, step);
    columns_type& mine = columns[line * size.blocks + block];
    if (at[2] == 0) mine.enter(at[0], at[1]);
    mine.advance(chunks[slot], at[2], size.slots);
    if (at[2] + 1 == of_head) mine.leave();
  };
  chunk_pipeline pipeline(memory, size, count, prepare, advance);
  executor.run(size.lines * size.blocks, cost_of(p), [&](index_t task) { pipeline.work(task % size.lines); });
}

/// Runs a problem in chunks.
template <Element T>
void run_chunks(state_problem<T> const& p, any_state_call<T> const& call, index_t workers,
                detail::any_executor const& executor) {
  using A = accumulation_t<T>;
  state_shape const& s = p.shape;
  any_state_policies<A> const& kinds = call.policies;
  // Each block of columns reads the initial sum of keys: where the final sum may be in the same memory, a head has one
  // block, which would otherwise read what another has written.
  bool const sum_in_place = p.final_sum.data() && p.initial_sum.data();
  // Features that follow the sequence may have a decay for each feature.
  decay_kind const kind = call.follows ? decay_kind::vector : kinds.kind;
  index_t const depth = multiplies_by_kernel(kinds) ? s.key_dimension : s.features;
  index_t const usual = p.causal || kinds.reads_state ? chunk_cut::chunk_for(s.features, depth, s.value_dimension, kind)
                                                      : chunk_cut::longest_usual;
  chunk_cut const cut = chunk_cut::of(p, usual, kinds.whole_rows || sum_in_place, !call.follows, workers);
  if (cut.lines > 0) return run_shared(p, kinds, cut, executor);
  chunk_steps<T> const steps(p, cut.chunk);
  executor.run(s.batches * s.state_heads() * cut.column_blocks, cost_of(p), [&](index_t number) {
    index_t const head = number / cut.column_blocks, block = number % cut.column_blocks;
    index_t const batch = head / s.state_heads(), state_head = head % s.state_heads();
    with_policies(p, call, batch, state_head, block == 0, cut.chunk, [&](any_state_policies<A> const& policies) {
      scratch memory;
      prepared_chunk<T> chunk(memory, p, policies, cut.layout, cut.chunk);
      column_block<T> columns(memory, p, cut, policies, block * cut.columns);
      columns.enter(batch, state_head);
      for (index_t step = 0; step < steps.count(); ++step) {
        chunk.prepare(policies, batch, state_head, steps[step]);
        columns.advance(chunk, step, 1);
      }
      columns.leave();
    });
  });
}

/// Runs all tasks, for any policies and any executor: a program may compile this function once. `workers` is the number
/// of threads that the executor has for them.
template <Element T>
void run_chunked_tasks(state_problem<T> const& p, any_state_call<T> const& call, index_t workers,
                       detail::any_executor const& executor) {
  bool const one = p.shape.keys == 1 && p.shape.queries == 1;
  if ((one || (p.token_by_token && p.shape.keys > 0)) && p.shape.value_dimension > 0)
    run_single_tokens(p, call, executor);
  else
    run_chunks(p, call, workers, executor);
}

/// Runs a problem whose arguments are checked.
template <Element T, class Policies, class E>
void run_chunked(state_problem<T> const& p, Policies const& policies, E& executor) {
  if (p.shape.batches == 0 || p.shape.state_heads() == 0) return;
  scratch memory;
  auto const* const totals = [&] {
    if constexpr (TotalledFeatures<typename Policies::features_type>)
      return p.causal ? nullptr : feature_totals(p, policies.features, memory, executor);
    else
      return static_cast<void const*>(nullptr);
  }();
  erased_state_policies<accumulation_t<T>, Policies> const erased(policies);
  erased_state_call<T, Policies,
                    std::remove_const_t<std::remove_pointer_t<std::remove_const_t<decltype(totals)>>>> const
      call(policies, erased, totals);
  run_chunked_tasks<T>(p, call, detail::workers_for(executor, cost_of(p)), detail::any_executor(executor));
}

}  // namespace attend::inline ATTEND_TARGET::engine
