// SPDX-License-Identifier: BSD-3-Clause
// The work on a block of value columns of a state: what a chunk adds to it, what the chunk's queries read from it, and
// how it is carried from chunk to chunk.
//
//   S [panel][feature][Vectors * width]   a panel is as many columns as a register tile is wide, or fewer
//   z [feature]                           the sum of keys, where weights are divided by it
#pragma once

#include "chunk_cut.hpp"
#include "pair_columns.hpp"
#include "prepared_chunk.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// The numbers of a state: of a block of columns.
template <class A>
struct column_state {
  A* panels;   // [panel][padded feature][Vectors * width]
  A* key_sum;  // [padded feature]
};

/// How many steps later this block will be at its next one, and the chunk's memory will hold its next one.
struct steps_ahead {
  index_t advanced, prepared;
};

template <Element T>
class column_block {
 public:
  using A = accumulation_t<T>;
  using state_type = column_state<A>;

  column_block(scratch& memory, state_problem<T> const& p, chunk_cut const& cut, any_state_policies<A> const& policies,
               index_t first_column)
      : p_(p),
        cut_(cut),
        layout_(cut.layout),
        chunk_(cut.chunk),
        steps_(p, cut.chunk),
        policies_(policies),
        first_column_(first_column),
        columns_(std::min(cut.columns, p.shape.value_dimension - first_column)),
        padded_columns_(round_up(columns_, width)),
        value_(memory.allocate<A>(layout_.lanes * padded_columns_)),
        output_(memory.allocate<A>(policies.whole_rows ? layout_.lanes * padded_columns_ : 0)),
        finish_(memory.allocate<A>(layout_.lanes)),
        prefetch_(memory, max_runs()) {
    std::fill_n(value_, layout_.lanes * padded_columns_, A(0));
    std::fill_n(finish_, layout_.lanes, p.scale);
    if constexpr (may_use_matrix_unit<T>)
      if (uses_matrix_unit(p, policies)) {
        static_assert(std::is_trivially_destructible_v<pair_columns>);
        pairs_ = new (memory.allocate<pair_columns>(1))
            pair_columns(memory, layout_.features, cut.chunk, padded_columns_,
                         policies.kind == decay_kind::scalar || policies.has_rates);
      }
  }

  static state_type allocate_state(scratch& memory, chunk_cut const& cut) {
    index_t const features = cut.layout.padded_features;
    return {memory.allocate<A>(features * cut.columns), memory.allocate<A>(features)};
  }

  void enter(index_t batch, index_t head) {
    batch_ = batch;
    head_ = head;
  }

  /// Carries the state through a step.
  void advance(prepared_chunk<T> const& chunk, state_type const& state, index_t step, steps_ahead const& ahead,
               task_unit<T>& unit) {
    begin(chunk, step, ahead, unit);
    if (tokens_ > 0 && policies_.reads_state)
      for_panels([&]<int Vectors>(index_t column) { solve<Vectors>(chunk, state, column); });
    answer(chunk, state, unit);
    if (tokens_ == 0) return;
    for_panels(
        [&]<int Vectors>(index_t column) { write<Vectors>(chunk, state, state, column, 0, layout_.padded_features); });
    write_key_sum(chunk, state, state);
  }

  // The same in steps: begin, pass for each part, and answer.

  /// Loads the values of a chunk.
  void begin(prepared_chunk<T> const& chunk, index_t step, steps_ahead const& ahead,
             [[maybe_unused]] task_unit<T>& unit) {
    prefetch_memory(chunk.step(), step, ahead);
    tokens_ = chunk.step().keys;
    if (tokens_ == 0) return;
    if constexpr (may_use_matrix_unit<T>)
      if (pairs_) return multiply_pairs(chunk, unit.get());
    load_values(chunk);
  }

  /// Makes a part of the state after the chunk of the same part of the state before it, and the sum of keys with the
  /// first part. Where the update reads the state, that solves the chunk's system for the part's columns.
  void pass(prepared_chunk<T> const& chunk, state_type const& before, state_type const& after, index_t part) {
    index_t const of_panel = cut_.parts_of_panel(), first = part % of_panel * cut_.part_features,
                  last = std::min(first + cut_.part_features, layout_.padded_features);
    index_t panels_before = part / of_panel;
    for_panels([&]<int Vectors>(index_t column) {
      if (panels_before-- != 0) return;
      constexpr index_t lanes = Vectors * width;
      if (tokens_ > 0) {
        if (policies_.reads_state) solve<Vectors>(chunk, before, column);
        write<Vectors>(chunk, before, after, column, first, last);
      } else {
        std::copy(panel_state(before, column) + first * lanes, panel_state(before, column) + last * lanes,
                  panel_state(after, column) + first * lanes);
      }
    });
    if (part == 0) write_key_sum(chunk, before, after);
  }

  /// Answers the queries of the chunk, from the state before it.
  void answer(prepared_chunk<T> const& chunk, state_type const& before, task_unit<T>& unit) {
    if (columns_ == 0 || chunk.step().queries == 0) return;
    if constexpr (may_use_matrix_unit<T>)
      if (pairs_)
        for_panels([&]<int Vectors>(index_t column) {
          pairs_->template set_state<Vectors>(column, panel_state(before, column), layout_.padded_features);
        });
    for (index_t h = 0; h < p_.heads_per_group(); ++h) answer_head(chunk, before, h, unit);
  }

  /// Reads the state before the first token.
  void load(state_type const& to) const {
    index_t const given = p_.initial_state.data() ? layout_.features : 0;
    for_panels([&]<int Vectors>(index_t column) {
      A* const state = panel_state(to, column);
      for (index_t f = 0; f < given; ++f)
        for (int v = 0; v < Vectors; ++v)
          simd::store(state + (f * Vectors + v) * width,
                      load_part(&p_.initial_state(batch_, head_, f, first_column_), column + v * width));
      std::fill(state + given * Vectors * width, state + layout_.padded_features * Vectors * width, A(0));
    });
    if (!policies_.sums_keys) return;
    std::fill_n(to.key_sum, layout_.padded_features, A(0));
    if (p_.initial_sum.data() && layout_.features > 0)
      std::copy_n(&p_.initial_sum(batch_, head_, 0), layout_.features, to.key_sum);
  }

  /// Writes the state after the last token.
  void store(state_type const& from) const {
    if (p_.final_state.data())
      for_panels([&]<int Vectors>(index_t column) {
        for (index_t f = 0; f < layout_.features; ++f)
          for (int v = 0; v < Vectors; ++v) {
            A* const to = &p_.final_state(batch_, head_, f, first_column_) + column + v * width;
            simd::vector<A> const x = simd::load(panel_state(from, column) + (f * Vectors + v) * width);
            index_t const left = columns_ - column - v * width;
            left >= width ? x.store_unaligned(to) : simd::narrow_part(to, x, left);
          }
      });
    if (policies_.sums_keys && p_.final_sum.data() && layout_.features > 0 && first_column_ == 0)
      std::copy_n(from.key_sum, layout_.features, &p_.final_sum(batch_, head_, 0));
  }

 private:
  static constexpr index_t width = simd::width<A>;

  /// Calls function.template operator()<Vectors>(first column of the panel within the block) for each panel.
  template <class Function>
  void for_panels(Function&& function) const {
    for_panel_widths(padded_columns_ / width, cut_.panel_vectors,
                     [&]<int Vectors>(index_t first) { function.template operator()<Vectors>(first * width); });
  }
  A* panel_state(state_type const& state, index_t column) const {
    return state.panels + column * layout_.padded_features;
  }
  A* panel_value(index_t column) const { return value_ + column * layout_.lanes; }

  /// Loads one vector of a row that has `columns_` elements.
  template <Element U>
  simd::vector<A> load_part(U const* row, index_t column) const {
    return column + width <= columns_ ? simd::widen(row + column) : simd::widen_part(row + column, columns_ - column);
  }

  void load_values(prepared_chunk<T> const& chunk) {
    rows_of<T> const from = rows_of_head(p_.value, batch_, p_.value_head(head_), chunk.step().first_key);
    bool const gated = policies_.has_rates && !policies_.reads_state;
    for_panels([&]<int Vectors>(index_t column) {
      A* const values = panel_value(column);
      bool const whole = column + Vectors * width <= columns_;
      for (index_t j = 0; j < tokens_; ++j) {
        T const* const row = from.row(j) + first_column_;
        simd::vector<A> const rate(gated ? chunk.rates()[j] : A(1));
        ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) {
          index_t const at = column + v * width;
          simd::vector<A> const x = whole ? simd::widen(row + at) : load_part(row, at);
          simd::store(values + (j * Vectors + v) * width, x * rate);
        }
      }
      std::fill(values + tokens_ * Vectors * width, values + round_up(tokens_, chunk_block<A>) * Vectors * width, A(0));
    });
  }

  void prefetch(tensor_view<T const, 4> const& tensor, index_t head, index_t first, index_t first_column,
                index_t columns) {
    prefetch_.add(tensor, batch_, head, first, chunk_, first_column, columns);
  }

  /// Lists what the products of this step prefetch: memory that will be written, and memory that the next steps will
  /// read, in the order in which it will be needed. Where blocks share chunks, only the first block of columns
  /// prefetches keys and only the last one queries, since both serve all columns; and another processor may have
  /// prepared the next step's queries: every block prefetches these from that processor's cache.
  void prefetch_memory(chunk_step const& now, index_t step, steps_ahead const& ahead) {
    prefetch_.clear();
    index_t const heads = p_.heads_per_group(), first_head = head_ * heads;
    for (index_t h = 0; h < heads && now.queries > 0; ++h)
      prefetch(p_.output, first_head + h, now.first_query, first_column_, columns_);
    index_t const next = step + ahead.advanced, prepared = step + ahead.prepared;
    if (next < steps_.count())
      prefetch(p_.value, p_.value_head(head_), steps_[next].first_key, first_column_, columns_);
    auto const prefetch_queries = [&](chunk_step const& of) {
      for (index_t h = 0; h < heads && of.queries > 0; ++h)
        prefetch(p_.query, p_.query_head(first_head + h), of.first_query, 0, p_.shape.key_dimension);
    };
    bool const shares = prepared != next;
    if (shares && next < steps_.count()) prefetch_queries(steps_[next]);
    if (prepared >= steps_.count()) return;
    chunk_step const later = steps_[prepared];
    if (later.keys > 0 && (!shares || first_column_ == 0)) {
      prefetch(p_.key, p_.key_head(head_), later.first_key, 0, p_.shape.key_dimension);
      policies_.prefetch_decays(prefetch_, batch_, head_, later.first_key, chunk_);
    }
    if (!shares || first_column_ + columns_ == p_.shape.value_dimension) prefetch_queries(later);
  }
  index_t max_runs() const {
    index_t const rows = p_.shape.key_dimension, heads = p_.heads_per_group();
    return chunk_ * ((2 * heads + 1) * chunk_prefetch::runs_of<T>(rows) +
                     (heads + 1) * chunk_prefetch::runs_of<T>(columns_) + chunk_prefetch::runs_of<A>(layout_.features));
  }

  /// Writes the outputs of one query head of the group.
  void answer_head(prepared_chunk<T> const& chunk, state_type const& state, index_t h,
                   [[maybe_unused]] task_unit<T>& unit) {
    chunk_step const& step = chunk.step();
    bool const attends = chunk.attends();
    rows_of<A> const query = chunk.queries(h);
    A const *const products = attends ? chunk.query_products(h) : nullptr, *const factors =
                                                                               attends ? chunk.row_factors() : nullptr;
    if (policies_.sums_keys)
      for (index_t i = 0; i < step.queries; ++i)
        finish_[i] = p_.scale * policies_.factor(
                                    p_.scale, sum_of_weights(dot(query.row(i), state.key_sum, layout_.padded_features),
                                                             factors, products, chunk.rates(), i));
    T* const to = &p_.output(batch_, head_ * p_.heads_per_group() + h, step.first_query, first_column_);
    index_t const stride = p_.output.stride(2);
    for_panels([&]<int Vectors>(index_t column) {
      auto const read = [&](auto const& output) {
        if constexpr (may_use_matrix_unit<T>)
          if (pairs_) return read_pairs<Vectors>(unit.get(), chunk, h, column, factors, output);
        read_panel<Vectors>(query, factors, products, finish_, {panel_state(state, column), panel_value(column)},
                            step.queries, layout_, output, prefetch_);
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

  /// The weight sum of query i: `sum`, which is q_i . z, plus the products with the chunk's own keys up to i.
  A sum_of_weights(A sum, A const* factors, A const* products, A const* rates, index_t i) const {
    if (!products) return sum;
    if (factors) sum *= factors[i];
    A const* const row = products + i * layout_.lanes;
    index_t const whole = (i + 1) / width * width;
    sum += dot(row, rates, whole);
    for (index_t j = whole; j <= i; ++j) sum += row[j] * rates[j];
    return sum;
  }

  /// Solves the system of an update that reads the state, for the panel of a column.
  template <int Vectors>
  void solve(prepared_chunk<T> const& chunk, state_type const& before, index_t column) {
    solve_panel<Vectors>(chunk.keys_before(), chunk.row_factors(), chunk.key_products(), chunk.rates(),
                         {panel_state(before, column), panel_value(column)}, tokens_, layout_, prefetch_);
  }

  /// Writes the features [first, last) of the panel of a column.
  template <int Vectors>
  void write(prepared_chunk<T> const& chunk, state_type const& before, state_type const& after, index_t column,
             index_t first, index_t last) {
    if constexpr (may_use_matrix_unit<T>)
      if (pairs_)
        return add_panel<Vectors>(chunk.factors(), pairs_->added(column),
                                  {panel_state(before, column), panel_state(after, column), first, last});
    write_panel<Vectors>(chunk.writes(), chunk.factors(), panel_value(column),
                         {panel_state(before, column), panel_state(after, column), first, last}, tokens_, prefetch_);
  }

  /// Loads the values of a chunk for a matrix unit, which multiplies what they add to the state.
  void multiply_pairs(prepared_chunk<T> const& chunk, chunk_unit& unit) {
    for_panels([&]<int Vectors>(index_t column) {
      bool const whole = column + Vectors * width <= columns_;
      rows_of<T> const from = values_of(chunk);
      pairs_->template set_values<Vectors>(column, tokens_, chunk.value_factors(),
                                           [&](index_t j, int v) ATTEND_INLINE_LAMBDA {
                                             T const* const row = from.row(j);
                                             index_t const at = column + v * width;
                                             return whole ? simd::widen(row + at) : load_part(row, at);
                                           });
      pairs_->template multiply_added<Vectors>(unit, *chunk.pairs(), column, layout_.features, tokens_);
    });
    if (!pairs_->values_are_finite()) add_infinities_to_state(chunk);
  }

  /// The outputs of a panel, read by a matrix unit.
  template <int Vectors, class Output>
  void read_pairs(chunk_unit& unit, prepared_chunk<T> const& chunk, index_t h, index_t column, A const* factors,
                  Output const& output) {
    constexpr index_t lanes = Vectors * width;
    bool const weighs = chunk.attends();
    pairs_->template read<Vectors>(
        unit, *chunk.pairs(), h, column, chunk.step().queries, weighs, prefetch_,
        [&](index_t i, index_t rows, A const* read, A* weighed) ATTEND_INLINE_LAMBDA {
          if (weighs && !pairs_->values_are_finite()) add_infinities<Vectors>(chunk, h, column, i, rows, weighed);
          for (index_t r = 0; r < rows; r += simd::register_rows) {
            simd::register_tile<A, Vectors> tile;
            ATTEND_UNROLL for (int row = 0; row < simd::register_rows; ++row) {
              index_t const at = (r + row) * lanes;
              simd::vector<A> const finish(finish_[i + r + row]), factor(factors ? factors[i + r + row] : A(1));
              ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) {
                simd::vector<A> const x = simd::load(read + at + v * width) * factor;
                tile.sum[row][v] = (weighs ? x + simd::load(weighed + at + v * width) : x) * finish;
              }
            }
            output.store(tile, i + r, rows - r);
          }
        });
  }

  // The products with values that are not finite, which the unit does not have.

  template <int Vectors>
  [[gnu::cold, gnu::noinline]] void add_infinities(prepared_chunk<T> const& chunk, index_t h, index_t column, index_t i,
                                                   index_t rows, A* sums) const {
    for_infinities<Vectors>(chunk, column, [&](index_t j, index_t c, A value) {
      for (index_t r = std::max<index_t>(j - i, 0); r < rows; ++r)
        sums[r * Vectors * width + c] += chunk.pairs()->weight(h, i + r, j) * value;
    });
  }
  [[gnu::cold, gnu::noinline]] void add_infinities_to_state(prepared_chunk<T> const& chunk) const {
    A const* const factors = chunk.value_factors();
    for_panels([&]<int Vectors>(index_t column) {
      for_infinities<Vectors>(chunk, column, [&](index_t j, index_t c, A value) {
        for (index_t f = 0; f < layout_.features; ++f)
          pairs_->added(column)[f * Vectors * width + c] +=
              chunk.pairs()->key(f, j) * (factors ? factors[j] * value : value);
      });
    });
  }
  template <int Vectors, class Function>
  void for_infinities(prepared_chunk<T> const& chunk, index_t column, Function&& function) const {
    rows_of<T> const from = values_of(chunk);
    for (index_t j = 0; j < tokens_; ++j)
      for (index_t c = 0; c < std::min<index_t>(Vectors * width, columns_ - column); ++c)
        if (A const value = static_cast<A>(from.row(j)[column + c]); !(std::abs(value) < infinity<A>))
          function(j, c, value);
  }

  /// Row j of the values: those of this block's columns.
  rows_of<T> values_of(prepared_chunk<T> const& chunk) const {
    rows_of<T> rows = rows_of_head(p_.value, batch_, p_.value_head(head_), chunk.step().first_key);
    rows.data += first_column_;
    return rows;
  }

  void write_key_sum(prepared_chunk<T> const& chunk, state_type const& before, state_type const& after) const {
    if (!policies_.sums_keys) return;
    state_factors<A> const factors = chunk.factors();
    for (index_t f = 0; f < layout_.padded_features; f += width) {
      simd::vector<A> const old = simd::load(before.key_sum + f);
      simd::store(after.key_sum + f, tokens_ > 0 ? factors.of_features(f, old, sum_of_keys(chunk, f)) : old);
    }
  }

  /// A vector of features of what a chunk adds to the sum of keys.
  simd::vector<A> sum_of_keys(prepared_chunk<T> const& chunk, index_t f) const {
    chunk_writes<A> const& key = chunk.writes();
    simd::vector<A> sum(A(0));
    for (index_t j = 0; j < tokens_; ++j)
      sum = simd::fused_multiply_add(simd::load(key.data + j * key.stride + f), simd::vector<A>(chunk.rates()[j]), sum);
    return sum;
  }

  state_problem<T> const& p_;
  chunk_cut const& cut_;
  chunk_layout const& layout_;
  index_t const chunk_;
  chunk_steps<T> const steps_;
  any_state_policies<A> const& policies_;
  index_t const first_column_, columns_, padded_columns_;
  A *value_, *output_, *finish_;
  chunk_prefetch prefetch_;
  pair_columns* pairs_ = nullptr;
  index_t batch_ = 0, head_ = 0, tokens_ = 0;
};

}  // namespace attend::inline ATTEND_TARGET::engine
