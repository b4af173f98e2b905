// SPDX-License-Identifier: BSD-3-Clause
// The gradients of one chunk of a head's tokens, from the state S before the chunk, and from the gradient dS of the
// state after it. With b_i, e_j and Gamma_ij the decays from the chunk's beginning to token i, from token j to its end,
// and between j and i, a their product over the chunk, and y_i = scale do_i:
//
//   w_j  what the token writes: g_j v_j, or u_j of a delta rule         G_ij = y_i . w_j    P_ij = q_i . Gamma_ij k_j
//   dq_i = b_i S y_i + sum_{j <= i} G_ij Gamma_ij k_j
//   dk_j = e_j dS w_j + sum_{i >= j} G_ij Gamma_ij q_i
//   dw_j = dS^T e_j k_j + sum_{i >= j} P_ij y_i
//   dS  <- a dS + sum_i b_i q_i y_i^T
//
// Whatever reads the state is such a query. A delta rule has u_j = r_j x_j with x_j = v_j - b_j k_j^T S - sum_{l < j}
// L_jl u_l and L_jl = k_j . Gamma_jl k_l, so that its gradients are
//
//   dx_j = r_j (dw_j - sum_{i > j} L_ij dx_i)      a triangular system, the transpose of the first one
//   dv_j = dx_j,   dr_j = x_j . (dw_j - ...)
//   and the keys are read as a query is, by y_j = -dx_j, without the token's own product
//
// The gradients of decays are decay_gradient.hpp's.
//
// With z the sum of keys and s_i = scale q_i . z_i + epsilon, an output x_i / s_i has y_i = scale do_i / s_i, and s_i
// the gradient c_i = -(do_i . x_i) / s_i^2: z is one more value column, of ones, whose y is scale c_i.
//
// Cost for F features and D columns: 4 F D + C / 2 (3 F + 2 D) multiply-adds a token for a query, of which 2 F D and
// all products within the chunk again for each further one, and F D on the way forward; a delta rule adds 3 F D + C / 2
// (3 F
// + 3 D), and F D + C / 2 (F + D) on the way forward.
#pragma once

#include "chunk_decay.hpp"
#include "decay_gradient.hpp"
#include "feature_factors.hpp"
#include "gradient_layout.hpp"
#include "gradient_rows.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <Element T>
class chunk_gradient {
 public:
  using A = accumulation_t<T>;

  chunk_gradient(scratch& memory, state_problem<T> const& p, state_gradients<T> const& g,
                 any_state_policies<A> const& policies, any_feature_slope<A> const& slope,
                 gradient_layout<T> const& layout)
      : p_(p),
        g_(g),
        policies_(policies),
        slope_(slope),
        features_(layout.features),
        columns_(layout.columns),
        decay_(*policies.make_decay(memory, layout.features, true)),
        decays_of_features_(policies.kind == decay_kind::vector),
        raw_(memory.allocate<A>(features_.lanes * round_up(p.shape.key_dimension, width))),
        pulled_(memory.allocate<A>(features_.lanes * round_up(p.shape.key_dimension, width))),
        prefetch_(memory, p, g, policies, layout),
        query_rows_(memory, layout.chunk, p.shape.key_dimension),
        key_rows_(memory, layout.chunk, p.shape.key_dimension),
        value_rows_(memory, layout.chunk, p.shape.value_dimension),
        of_decay_(memory, layout.features, policies, g.of_decay) {
    auto const of_features = [&] { return row_matrix<A>::of(memory, features_.lanes, features_.stride); };
    auto const of_columns = [&] { return row_matrix<A>::of(memory, features_.lanes, columns_.stride); };
    auto const of_tokens = [&] { return row_matrix<A>::of(memory, features_.lanes, features_.lanes); };
    auto const numbers = [&] { return row_matrix<A>::of(memory, 1, features_.lanes).data; };
    key_ = of_features(), key_after_ = of_features(), query_ = of_features(), query_before_ = of_features();
    of_query_ = of_features(), of_key_ = of_features(), of_key_after_ = of_features();
    value_ = of_columns(), of_written_ = of_columns(), of_output_ = of_columns();
    written_ = policies.has_rates ? of_columns() : value_;
    products_ = of_tokens(), gradients_ = of_tokens();
    key_columns_ = row_matrix<A>::of(memory, features_.padded_features, features_.lanes);
    written_columns_ = row_matrix<A>::of(memory, columns_.padded_features, features_.lanes);
    state_ = row_matrix<A>::of(memory, features_.padded_features, columns_.stride);
    if (p.heads_per_group() > 1 || policies.reads_state)
      added_ = row_matrix<A>::of(memory, columns_.padded_features, features_.stride);
    rates_ = numbers(), of_rates_ = numbers(), of_divisor_ = numbers();
    sum_ = row_matrix<A>::of(memory, 1, features_.padded_features).data;
    if (policies.reads_state) key_products_ = of_tokens(), system_ = of_columns(), of_value_ = of_columns();
    if (decays_of_features_) {
      factors_ = new (memory.allocate<feature_factors<A>>(1)) feature_factors<A>(memory, features_);
    }
  }

  /// Carries the state through the keys of a step; the two states may be the same.
  void advance(index_t batch, index_t head, chunk_step const& step, turned_state<A> const& before,
               turned_state<A> const& after, gradient_ahead<A> const& ahead) {
    if (step.keys == 0) {
      if (before.key_sum == after.key_sum) return;
      std::copy_n(before.rows.data, columns_.padded_features * features_.stride, after.rows.data);
      std::copy_n(before.key_sum, features_.padded_features, after.key_sum);
      return;
    }
    prefetch_.clear();
    prefetch_.add_keys(batch, ahead);
    load_keys(batch, head, step, before, false);
    add_outer<A>(written_, rows_after(), step.keys, columns_.padded_features, features_.padded_features,
                 decay_.factors(), before.rows, after.rows, prefetch_.list());
    if (!policies_.sums_keys) return;
    for (index_t f = 0; f < features_.padded_features; f += width) {
      number sum(A(0));
      for (index_t j = 0; j < step.keys; ++j)
        sum = simd::fused_multiply_add(simd::load(rows_after().row(j) + f), number(rates_[j]), sum);
      simd::store(after.key_sum + f, decay_.factors().of_features(f, simd::load(before.key_sum + f), sum));
    }
  }

  /// Writes what a step's keys add to the state, D of S' = a S + D, and a.
  void write_added(index_t batch, index_t head, chunk_step const& step, row_matrix<A> added,
                   state_decay<A> const& decay) {
    prefetch_.clear();
    load_keys(batch, head, step, {}, false);
    multiply_columns_of<A>(written_, columns_.padded_features, step.keys, rows_after(), depth(), added);
    copy_decay(decay);
  }

  /// Writes what a step's queries add to the gradient of the state, E of dS = a dS' + E, and a.
  void read_added(index_t batch, index_t head, chunk_step const& step, row_matrix<A> added,
                  state_decay<A> const& decay) {
    prefetch_.clear();
    begin_step(batch, head, step);
    load_keys(batch, head, step, {}, true);
    copy_decay(decay);
    if (step.queries == 0) return added.clear(0, columns_.padded_features);
    for (index_t h = 0; h < p_.heads_per_group(); ++h) {
      load_queries(h);
      add_reads(query_decayed(query_), of_output_, step.queries, h, added);
    }
  }

  /// Writes the gradients of a step's tokens, and makes the gradient of the state before the step of that of the state
  /// after it, if `gives_state`. Returns the sum of the gradients of a constant decay.
  double go_back(index_t batch, index_t head, chunk_step const& step, turned_state<A> const& state,
                 turned_state<A> const& of_state, gradient_ahead<A> const& ahead, bool gives_state = true) {
    begin_step(batch, head, step);
    gives_state_ = gives_state;
    prefetch_.clear();
    prefetch_.add_written(batch, head, step);
    prefetch_.add_keys(batch, ahead);
    prefetch_.add_queries(batch, ahead);
    if (step.keys > 0) begin_keys(state, of_state);
    for (index_t h = 0; h < p_.heads_per_group() && step.queries > 0; ++h) read_queries(h, state, of_state);
    return step.keys > 0 ? end_keys(state, of_state) : 0.0;
  }

 private:
  using number = simd::vector<A>;
  static constexpr index_t width = simd::width<A>;

  void copy_decay(state_decay<A> const& to) const {
    state_factors<A> const factors = decay_.factors();
    if (!factors.high) return;
    std::copy_n(factors.high, depth(), to.high);
    std::copy_n(factors.low, depth(), to.low);
  }

  void begin_step(index_t batch, index_t head, chunk_step const& step) {
    step_ = step;
    batch_ = batch;
    head_ = head;
    attends_ = p_.causal && step.queries > 0 && step.keys > 0;
    readers_ = (step.queries > 0 ? p_.heads_per_group() : 0) + (step.keys > 0 && policies_.reads_state ? 1 : 0);
  }

  bool asks_rates() const { return policies_.has_rates && g_.of_rates.data() != nullptr; }
  /// Whether products within the chunk are needed without their decays as well.
  bool splits_products() const {
    return policies_.kind == decay_kind::scalar && (of_decay_.asked() || policies_.sums_keys);
  }
  rows_of<A> rows_after() const { return policies_.kind == decay_kind::none ? key_ : key_after_; }
  index_t depth() const { return features_.padded_features; }

  /// to_i = x_i times what is left of it from the beginning of the chunk, or until its end.
  void decay_until_end(rows_of<A> x, row_matrix<A> to) const {
    decay_rows<A>(x, decay_.after(), decays_of_features_ ? factors_->after() : rows_of<A>{}, step_.keys, depth(), to);
  }
  void decay_since_begin(rows_of<A> x, row_matrix<A> to) const {
    decay_rows<A>(x, decay_.row_factors(), decays_of_features_ ? factors_->before() : rows_of<A>{}, step_.keys, depth(),
                  to);
  }

  void load_rows(tensor_view<T const, 4> const& tensor, feature_tokens const& run, index_t count, row_matrix<A> to) {
    load_features(tensor, policies_, run, count, raw_, to.data, to.stride);
    to.clear(count, round_up(count, chunk_block<A>));
  }
  void load_columns(tensor_view<T const, 4> const& tensor, index_t batch, index_t head, index_t first, index_t count,
                    row_matrix<A> to) const {
    rows_of<T> const from = rows_of_head(tensor, batch, head, first);
    for (index_t i = 0; i < count; ++i) simd::widen_row(from.row(i), to.row(i), p_.shape.value_dimension);
    to.clear(count, round_up(count, chunk_block<A>));
  }

  /// Loads keys, decays, rates and values, and what the tokens write. `reads` says whether there are reads of the
  /// state.
  void load_keys(index_t batch, index_t head, chunk_step const& step, turned_state<A> const& before, bool reads) {
    step_ = step;
    index_t const count = step.keys;
    load_rows(p_.key, p_.keys_from(batch, head, step.first_key), count, key_);
    decay_.move_to(policies_, batch, head, step.first_key, count);
    if (decays_of_features_)
      factors_->set({decay_.token_factors(), features_.stride}, count, reads || policies_.reads_state);
    if (policies_.kind != decay_kind::none) {
      decay_until_end(key_, key_after_);
      key_after_.clear(count, round_up(count, chunk_block<A>));
    }
    if (policies_.has_rates)
      policies_.read_rates(batch, head, step.first_key, count, rates_);
    else
      std::fill_n(rates_, count, A(1));
    std::fill(rates_ + count, rates_ + features_.lanes, A(0));
    load_columns(p_.value, batch, p_.value_head(head), step.first_key, count, value_);
    if (policies_.reads_state) return solve(before);
    if (!policies_.has_rates) return;
    for (index_t j = 0; j < round_up(count, chunk_block<A>); ++j)
      for (index_t c = 0; c < columns_.padded_features; c += width)
        simd::store(written_.row(j) + c, simd::load(value_.row(j) + c) * number(rates_[j]));
  }

  /// What a delta rule writes: x in system_, u in written_.
  void solve(turned_state<A> const& before) {
    index_t const count = step_.keys;
    transpose_rows<A>(before.rows, columns_.padded_features, features_.padded_features, state_);
    decay_.set_keys(key_);
    decay_.products(key_, key_products_.data);
    rows_of<A> const key = keys_before();
    multiply_rows<A>(key, count, features_.features, state_, columns_.padded_features, nullptr, system_,
                     prefetch_.list());
    for (index_t j = 0; j < round_up(count, chunk_block<A>); ++j)
      for (index_t c = 0; c < columns_.padded_features; c += width)
        simd::store(system_.row(j) + c,
                    j < count ? simd::load(value_.row(j) + c) - simd::load(system_.row(j) + c) : number(A(0)));
    solve_lower<A>(key_products_, rates_, count, columns_.padded_features, system_, written_, prefetch_.list());
    written_.clear(count, round_up(count, chunk_block<A>));
  }
  /// The keys with which a delta rule reads the state; they are in query_before_.
  rows_of<A> keys_before() const {
    if (policies_.kind == decay_kind::none) return key_;
    decay_since_begin(key_, query_before_);
    return query_before_;
  }

  void begin_keys(turned_state<A> const& state, turned_state<A> const& of_state) {
    index_t const count = step_.keys;
    load_keys(batch_, head_, step_, state, true);
    transpose_rows<A>(written_, round_up(count, chunk_block<A>), columns_.padded_features, written_columns_);
    transpose_rows<A>(key_, round_up(count, chunk_block<A>), features_.padded_features, key_columns_);
    if (decays_of_features_ && !policies_.reads_state) decay_.set_keys(key_);
    transpose_rows<A>(of_state.rows, columns_.padded_features, features_.padded_features, state_);
    multiply_rows<A>(rows_after(), count, features_.features, state_, columns_.padded_features, nullptr, of_written_,
                     prefetch_.list());
    multiply_rows<A>(written_, count, columns_.features, of_state.rows, depth(), nullptr, of_key_after_,
                     prefetch_.list());
    if (policies_.sums_keys)
      for (index_t j = 0; j < count; ++j) {
        of_rates_[j] = dot(rows_after().row(j), of_state.key_sum, depth());
        for (index_t f = 0; f < depth(); f += width)
          simd::store(of_key_after_.row(j) + f,
                      simd::fused_multiply_add(number(rates_[j]), simd::load(of_state.key_sum + f),
                                               simd::load(of_key_after_.row(j) + f)));
      }
    else
      std::fill_n(of_rates_, count, A(0));
    if (policies_.kind != decay_kind::none) decay_until_end(of_key_after_, of_key_after_);
    of_key_.clear(0, round_up(count, chunk_block<A>));
    if (of_decay_.asked())
      of_decay_.begin(count, columns_.padded_features, policies_.sums_keys, decay_.factors(), state, of_state, key_,
                      of_key_after_);
    if (policies_.kind == decay_kind::none || !gives_state_) return;
    if (readers_ == 0) add_to_state<A>({}, step_factors(), columns_.padded_features, depth(), of_state.rows);
    if (policies_.sums_keys) add_to_state<A>({}, step_factors(), 1, depth(), {of_state.key_sum, 0});
  }

  /// The decay of the state over the step.
  state_factors<A> step_factors() const {
    return step_.keys > 0 ? decay_.factors() : state_factors<A>{nullptr, nullptr};
  }
  rows_of<A> query_decayed(row_matrix<A> x) const {
    if (!attends_ || policies_.kind == decay_kind::none) return x;
    decay_since_begin(x, query_before_);
    return query_before_;
  }

  /// Adds what the rows x, which read by y, add to the gradient of the state: the first reader of a step begins the
  /// sum.
  void add_reads(rows_of<A> x, rows_of<A> y, index_t count, index_t reader, row_matrix<A> sum) {
    if (reader == 0)
      multiply_columns_of<A>(y, columns_.padded_features, count, x, depth(), sum, prefetch_.list());
    else
      add_outer<A>(y, x, count, columns_.padded_features, depth(), {nullptr, nullptr}, sum, sum, prefetch_.list());
  }

  feature_tokens load_queries(index_t h) {
    index_t const count = step_.queries, output_head = head_ * p_.heads_per_group() + h;
    feature_tokens const run = p_.queries_from(batch_, output_head, step_.first_query);
    load_rows(p_.query, run, count, query_);
    load_columns(g_.of_output, batch_, output_head, step_.first_query, count, of_output_);
    for (index_t i = 0; i < count; ++i)
      for (index_t c = 0; c < columns_.padded_features; c += width)
        simd::store(of_output_.row(i) + c, simd::load(of_output_.row(i) + c) * number(p_.scale));
    return run;
  }

  void read_queries(index_t h, turned_state<A> const& state, turned_state<A> const& of_state) {
    index_t const count = step_.queries, output_head = head_ * p_.heads_per_group() + h;
    feature_tokens const run = load_queries(h);
    if (attends_) {
      if (decays_of_features_)
        decay_.products(query_, products_.data);
      else
        multiply_lower<A>(query_, key_columns_.data, count, features_, products_.data,
                          splits_products() ? nullptr : decay_.between());
    }
    read(query_, of_output_, count, state, of_state, h, false);
    index_t const of_query = p_.shape.output_heads() / p_.shape.query_heads;
    write(p_.query, run, count, of_query_, output_head % of_query == 0, output_head % of_query == of_query - 1,
          g_.of_query, query_rows_);
  }

  /// Rows x read the state by y: adds to the gradients of keys and of what they write, and to that of the state, and
  /// writes those of x to of_query_. `strictly`: a row does not read what its own token writes.
  void read(row_matrix<A> x, row_matrix<A> y, index_t count, turned_state<A> const& state,
            turned_state<A> const& of_state, index_t reader, bool strictly) {
    multiply_rows<A>(y, count, columns_.features, state.rows, depth(), attends_ ? decay_.row_factors() : nullptr,
                     of_query_, prefetch_.list());
    if (attends_ && decays_of_features_) decay_since_begin(of_query_, of_query_);
    if (attends_) {
      multiply_lower<A>(y, written_columns_.data, count, columns_, gradients_.data, decay_.between());
      if (strictly)
        for (index_t i = 0; i < count; ++i) gradients_.row(i)[i] = products_.row(i)[i] = 0;
    }
    if (policies_.sums_keys) divide(x, y, count, state);
    if (attends_ && of_decay_.asked() && !decays_of_features_)
      of_decay_.add_pairs(count, x, of_query_, products_, gradients_);
    if (attends_ && splits_products()) multiply_pairs<A>(count, decay_.between(), features_.lanes, products_);
    rows_of<A> const before = query_decayed(x);
    if (attends_) {
      if (decays_of_features_) {
        factors_->add_lower(gradients_, key_, of_query_);
        factors_->add_lower_transposed(gradients_, x, of_key_);
      } else {
        add_lower<A>(gradients_, count, key_, depth(), of_query_, prefetch_.list());
        add_lower_transposed<A>(gradients_, count, x, depth(), of_key_, prefetch_.list());
      }
      if (!strictly)
        add_lower_transposed<A>(products_, count, y, columns_.padded_features, of_written_, prefetch_.list());
      if (policies_.sums_keys && asks_rates()) add_divisors_to_rates(count);
      if (of_decay_.asked() && decays_of_features_) of_decay_.add_reads(count, x, of_query_);
    }
    if (!gives_state_) return;
    if (readers_ == 1) {
      add_outer<A>(y, before, count, columns_.padded_features, depth(), step_factors(), of_state.rows, of_state.rows,
                   prefetch_.list());
    } else {
      add_reads(before, y, count, reader, added_);
      if (reader == readers_ - 1)
        add_to_state<A>(added_, step_factors(), columns_.padded_features, depth(), of_state.rows);
    }
    if (policies_.sums_keys)
      for (index_t f = 0; f < depth(); f += width) {
        number sum = simd::load(of_state.key_sum + f);
        for (index_t i = 0; i < count; ++i)
          sum = simd::fused_multiply_add(number(of_divisor_[i]), simd::load(before.row(i) + f), sum);
        simd::store(of_state.key_sum + f, sum);
      }
  }

  /// The divisor of each query, and what of_query_, y and the products' gradients become by it.
  void divide(rows_of<A> x, row_matrix<A> y, index_t count, turned_state<A> const& state) {
    A const* const since = attends_ ? decay_.row_factors() : nullptr;
    for (index_t i = 0; i < count; ++i) {
      A weighed = dot(x.row(i), of_query_.row(i), depth());
      number weights(A(0)), terms(A(0));
      if (attends_)
        for_seen<A>(i, [&](index_t j, index_t lanes) {
          number const p = simd::load(products_.row(i) + j);
          terms = terms + first_lanes<A>(p * simd::load(gradients_.row(i) + j), lanes);
          number const decayed = splits_products() ? p * simd::load(decay_.between() + i * features_.lanes + j) : p;
          weights = weights + first_lanes<A>(decayed * simd::load(rates_ + j), lanes);
        });
      weighed += sum_of_lanes(terms);
      for (index_t f = 0; f < depth(); f += width) simd::store(sum_ + f, sum_before(state, since, i, f));
      A const sum = dot(x.row(i), sum_, depth()) + sum_of_lanes(weights);
      A const factor = policies_.factor(p_.scale, sum), of_divisor = -p_.scale * factor * factor * weighed;
      of_divisor_[i] = of_divisor;
      number const times(factor), of_sum(of_divisor);
      for (index_t f = 0; f < depth(); f += width)
        simd::store(of_query_.row(i) + f,
                    simd::fused_multiply_add(of_sum, simd::load(sum_ + f), simd::load(of_query_.row(i) + f) * times));
      for (index_t c = 0; c < columns_.padded_features; c += width)
        simd::store(y.row(i) + c, simd::load(y.row(i) + c) * times);
      if (attends_)
        for_seen<A>(i, [&](index_t j, index_t) {
          number of_weight = of_sum * simd::load(rates_ + j);
          if (policies_.kind == decay_kind::scalar)
            of_weight = of_weight * simd::load(decay_.between() + i * features_.lanes + j);
          simd::store(gradients_.row(i) + j,
                      simd::fused_multiply_add(simd::load(gradients_.row(i) + j), times, of_weight));
        });
    }
  }
  /// The sum of keys before the chunk, as query i sees it.
  number sum_before(turned_state<A> const& state, A const* since, index_t i, index_t f) const {
    number const z = simd::load(state.key_sum + f);
    if (since) return z * number(since[i]);
    if (attends_ && decays_of_features_) return z * simd::load(factors_->before().row(i) + f);
    return z;
  }

  /// dr_j += sum_{i >= j} P_ij c_i
  void add_divisors_to_rates(index_t count) const {
    for (index_t i = 0; i < count; ++i)
      for_seen<A>(i, [&](index_t j, index_t lanes) {
        number const p = first_lanes<A>(simd::load(products_.row(i) + j), lanes);
        simd::store(of_rates_ + j, simd::fused_multiply_add(p, number(of_divisor_[i]), simd::load(of_rates_ + j)));
      });
  }

  double end_keys(turned_state<A> const& state, turned_state<A> const& of_state) {
    index_t const count = step_.keys;
    row_matrix<A> of_value = of_written_;
    if (policies_.reads_state) {
      unsolve(state, of_state);
      of_value = of_value_;
    } else if (policies_.has_rates) {
      for (index_t j = 0; j < count; ++j) {
        if (asks_rates()) of_rates_[j] += dot(of_written_.row(j), value_.row(j), columns_.padded_features);
        for (index_t c = 0; c < columns_.padded_features; c += width)
          simd::store(of_written_.row(j) + c, simd::load(of_written_.row(j) + c) * number(rates_[j]));
      }
    }
    if (asks_rates())
      for (index_t j = 0; j < count; ++j) g_.of_rates(batch_, head_, step_.first_key + j) = of_rates_[j];
    double logs = 0;
    if (of_decay_.asked() && decays_of_features_)
      of_decay_.write_features(count, key_, of_key_, factors_->tokens(), {batch_, head_, step_.first_key});
    else if (of_decay_.asked())
      logs = of_decay_.write_tokens(count, {batch_, head_, step_.first_key});
    for (index_t j = 0; j < count; ++j)
      for (index_t f = 0; f < depth(); f += width) {
        number sum = simd::load(of_key_.row(j) + f) + simd::load(of_key_after_.row(j) + f);
        if (policies_.reads_state) sum = sum + simd::load(of_query_.row(j) + f);
        simd::store(of_key_.row(j) + f, sum);
      }
    state_shape const& s = p_.shape;
    index_t const of_key = s.state_heads() / s.key_heads, of_values = s.state_heads() / s.value_heads;
    write(p_.key, p_.keys_from(batch_, head_, step_.first_key), count, of_key_, head_ % of_key == 0,
          head_ % of_key == of_key - 1, g_.of_key, key_rows_);
    value_rows_.add(of_value, count, head_ % of_values == 0, head_ % of_values == of_values - 1, g_.of_value,
                    {batch_, p_.value_head(head_), step_.first_key});
    return logs;
  }

  /// The gradients of a delta rule's system: of its values, in of_value_, and of its keys as they read.
  void unsolve(turned_state<A> const& state, turned_state<A> const& of_state) {
    index_t const count = step_.keys;
    of_written_.clear(count, round_up(count, chunk_block<A>));
    of_value_.clear(count, round_up(count, chunk_block<A>));
    solve_upper<A>(key_products_, rates_, count, columns_.padded_features, of_written_, of_value_, prefetch_.list());
    if (asks_rates())
      for (index_t j = 0; j < count; ++j)
        of_rates_[j] = dot(of_written_.row(j), system_.row(j), columns_.padded_features);
    for (index_t j = 0; j < round_up(count, chunk_block<A>); ++j)
      for (index_t c = 0; c < columns_.padded_features; c += width)
        simd::store(of_output_.row(j) + c, number(A(0)) - simd::load(of_value_.row(j) + c));
    attends_ = true;
    if (splits_products()) multiply_lower<A>(key_, key_columns_.data, count, features_, products_.data);
    read(key_, of_output_, count, state, of_state, readers_ - 1, true);
  }

  /// Turns gradients of features into those of a tensor's rows, and writes them or adds them up.
  void write(tensor_view<T const, 4> const& tensor, feature_tokens const& run, index_t count, row_matrix<A> of_features,
             bool begins, bool ends, tensor_view<T, 4> const& to, gradient_rows<T> const& rows) {
    rows_of<A> from = of_features;
    if (!policies_.has_identity) {
      index_t const stride = round_up(p_.shape.key_dimension, width);
      slope_.pull(load_raw(tensor, run, count, raw_), from.data, from.stride, pulled_, stride);
      from = {pulled_, stride};
    }
    rows.add(from, count, begins, ends, to, {run.batch, run.head, run.first});
  }

  state_problem<T> const& p_;
  state_gradients<T> const& g_;
  any_state_policies<A> const& policies_;
  any_feature_slope<A> const& slope_;
  chunk_layout const &features_, &columns_;
  any_chunk_decay<A>& decay_;
  bool const decays_of_features_;
  A *raw_, *pulled_;
  gradient_prefetch<T> prefetch_;
  gradient_rows<T> query_rows_, key_rows_, value_rows_;
  decay_gradient<A> of_decay_;
  chunk_step step_;
  index_t batch_ = 0, head_ = 0;
  bool attends_ = false, gives_state_ = true;
  index_t readers_ = 0;                                                         // of the step: rows that read the state
  row_matrix<A> key_, key_after_, query_, query_before_;                        // features
  row_matrix<A> of_query_, of_key_, of_key_after_;                              // their gradients
  row_matrix<A> value_, written_, system_, of_written_, of_value_, of_output_;  // value columns
  row_matrix<A> products_, gradients_, key_products_;                           // pairs
  row_matrix<A> key_columns_, written_columns_, state_, added_;
  A *rates_, *of_rates_, *of_divisor_, *sum_;
  feature_factors<A>* factors_ = nullptr;
};

}  // namespace attend::inline ATTEND_TARGET::engine
