// SPDX-License-Identifier: BSD-3-Clause
// The numbers of a chunk of tokens that do not depend on the value columns: features, decays, and the chunk's products
// with itself. All blocks of columns share them.
#pragma once

#include <new>
#include <optional>
#include <type_traits>

#include "chunk_decay.hpp"
#include "chunk_kernel.hpp"
#include "pair_chunk.hpp"
#include "state_rows.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// One step of a sequence: keys that are added to the state, and queries that read it. In a causal call they are the
/// same tokens, except for the first keys if there are fewer queries than keys; otherwise all keys come first, and all
/// queries read the last state.
struct chunk_step {
  index_t first_key = 0, keys = 0, first_query = 0, queries = 0;
};

/// The steps of a sequence, in order.
template <Element T>
class chunk_steps {
 public:
  chunk_steps(state_problem<T> const& p, index_t chunk)
      : chunk_(chunk),
        unasked_(p.causal ? p.shape.keys - p.shape.queries : p.shape.keys),
        queries_(p.shape.queries),
        causal_(p.causal) {}

  index_t count() const { return divide_up(unasked_, chunk_) + divide_up(queries_, chunk_); }
  chunk_step operator[](index_t step) const {
    index_t const unasked = divide_up(unasked_, chunk_), at = step * chunk_;
    if (step < unasked) return {at, std::min(chunk_, unasked_ - at), 0, 0};
    index_t const first = (step - unasked) * chunk_, count = std::min(chunk_, queries_ - first);
    return {unasked_ + first, causal_ ? count : 0, first, count};
  }

 private:
  index_t chunk_, unasked_, queries_;
  bool causal_;
};

/// Whether the products of chunks are computed by the features' kernel. With a decay they are not, since a decay is
/// part of the products of features.
template <class A>
bool multiplies_by_kernel(any_state_policies<A> const& policies) {
  return policies.has_kernel && !policies.reads_state && policies.kind == decay_kind::none;
}

/// Whether a matrix unit may multiply chunks of such elements.
template <Element T>
inline constexpr bool may_use_matrix_unit = has_chunk_unit && std::same_as<T, bfloat16>;

/// Whether it does (pair_chunk.hpp). A delta rule solves a system, token after token, in float.
template <Element T>
bool uses_matrix_unit(state_problem<T> const& p, any_state_policies<accumulation_t<T>> const& policies) {
  // From so many tokens of a chunk, and numbers of a state, on it saves more than what is rearranged for it takes:
  // measured on Sapphire Rapids, with 16 to 4096 tokens and dimensions of 8 to 256.
  constexpr index_t least_tokens = 64, least_state = 2048;
  state_shape const& s = p.shape;
  index_t const longest = std::max(s.keys, s.queries), tokens = p.chunk > 0 ? std::min(p.chunk, longest) : longest;
  return may_use_matrix_unit<T> && simd::uses_pair_products() && !p.full_precision && !policies.reads_state &&
         policies.has_identity && policies.kind != decay_kind::vector && tokens >= least_tokens &&
         s.features * s.value_dimension >= least_state;
}

/// A thread's matrix unit for a task that uses it: setting it up takes about a microsecond, as long as some products of
/// a chunk.
template <Element T>
class task_unit {
 public:
  task_unit(state_problem<T> const& p, any_state_policies<accumulation_t<T>> const& policies) {
    if (uses_matrix_unit(p, policies)) unit_.emplace();
  }
  chunk_unit& get() { return *unit_; }

 private:
  std::optional<chunk_unit> unit_;
};
template <Element T>
  requires(!may_use_matrix_unit<T>)
class task_unit<T> {
 public:
  task_unit(state_problem<T> const&, any_state_policies<accumulation_t<T>> const&) {}
};

template <Element T>
class prepared_chunk {
 public:
  using A = accumulation_t<T>;

  /// Policies of later tasks may be others, of the same kinds.
  prepared_chunk(scratch& memory, state_problem<T> const& p, any_state_policies<A> const& policies,
                 chunk_layout const& layout, index_t max_tokens)
      : p_(p),
        layout_(layout),
        reads_state_(policies.reads_state),
        by_kernel_(multiplies_by_kernel(policies)),
        decay_(*policies.make_decay(memory, layout, !by_kernel_ && (p.causal || reads_state_))),
        kernel_(memory, by_kernel_ ? p.shape.key_dimension : 0, by_kernel_ ? max_tokens : 0),
        key_(rows(memory)),
        key_before_(reads_state_ && policies.kind == decay_kind::vector ? rows(memory) : nullptr),
        key_after_(policies.kind != decay_kind::none ? rows(memory) : nullptr),
        query_(memory.allocate<A>(p.heads_per_group() * rows_size())),
        products_(memory.allocate<A>((p.heads_per_group() + reads_state_) * products_size())),
        raw_(memory.allocate<A>(layout.lanes * round_up(p.shape.key_dimension, width))),
        rates_(memory.allocate<A>(layout.lanes)),
        query_rows_(memory.allocate<rows_of<A>>(p.heads_per_group())) {
    std::fill_n(query_, p.heads_per_group() * rows_size(), A(0));
    std::fill_n(rates_, layout.lanes, A(1));
    if constexpr (may_use_matrix_unit<T>)
      if (uses_matrix_unit(p, policies)) {
        static_assert(std::is_trivially_destructible_v<pair_chunk>);
        pairs_ = new (memory.allocate<pair_chunk>(1))
            pair_chunk(memory, layout.features, max_tokens, p.heads_per_group(), p.causal);
        written_ = memory.allocate<A>(layout.lanes);
      }
  }

  void prepare(any_state_policies<A> const& policies, index_t batch, index_t head, chunk_step const& step,
               [[maybe_unused]] task_unit<T>& unit) {
    step_ = step;
    if constexpr (may_use_matrix_unit<T>)
      if (pairs_) return prepare_pairs(policies, batch, head, unit.get());
    if (step.keys > 0) prepare_keys(policies, batch, head);
    if (step.queries > 0)
      for (index_t h = 0; h < p_.heads_per_group(); ++h) prepare_queries(policies, batch, head, h);
  }

  chunk_step const& step() const { return step_; }
  /// Whether keys of their own chunk are visible to the queries of this step, and their products are prepared.
  bool attends() const { return p_.causal && step_.queries > 0; }

  /// The chunk as a matrix unit reads it, or null where none multiplies.
  pair_chunk const* pairs() const { return pairs_; }
  /// What the unit multiplies values by where tokens write them, or null.
  A const* value_factors() const { return values_are_written_ ? nullptr : written_; }

  A const* rates() const { return rates_; }
  A const* row_factors() const { return decay_.row_factors(); }
  state_factors<A> factors() const { return decay_.factors(); }
  chunk_writes<A> const& writes() const { return writes_; }
  /// For a delta rule: the keys with which the state before the chunk is read, and the products of keys with keys.
  rows_of<A> keys_before() const { return keys_before_; }
  A const* key_products() const { return products(p_.heads_per_group()); }
  /// The queries of query head h of the group, decayed since the chunk began, unless row_factors has the decays.
  rows_of<A> queries(index_t h) const { return query_rows_[h]; }
  A const* query_products(index_t h) const { return products(h); }

 private:
  static constexpr index_t width = simd::width<A>;

  index_t rows_size() const { return layout_.lanes * layout_.stride; }
  A* rows(scratch& memory) const {
    A* const to = memory.allocate<A>(rows_size());
    std::fill_n(to, rows_size(), A(0));
    return to;
  }
  /// A matrix unit writes whole tiles of rows.
  index_t products_size() const { return round_up(layout_.lanes, simd::pair_tile) * layout_.lanes; }
  A* products(index_t number) const { return products_ + number * products_size(); }

  /// The features of `count` tokens: the tensor's own rows if `may_serve`, they are whole blocks and are their own
  /// features, in the accumulation type; else written to `to`.
  rows_of<A> load_rows(any_state_policies<A> const& policies, tensor_view<T const, 4> const& tensor,
                       feature_tokens const& run, index_t count, bool may_serve, A* to) {
    if constexpr (std::same_as<T, A>)
      if (may_serve && policies.has_identity && !policies.sums_keys && count % chunk_block<A> == 0 &&
          layout_.features == layout_.padded_features)
        return rows_of_head(tensor, run.batch, run.head, run.first);
    if (by_kernel_)
      kernel_.load(tensor, policies, run, count, raw_, to, layout_.stride);
    else
      load_features(tensor, policies, run, count, raw_, to, layout_.stride);
    for (index_t i = count; i < round_up(count, chunk_block<A>); ++i)
      std::fill_n(to + i * layout_.stride, layout_.padded_features, A(0));
    return {to, layout_.stride};
  }

  void prepare_keys(any_state_policies<A> const& policies, index_t batch, index_t head) {
    index_t const tokens = step_.keys;
    bool const with_products = attends() || reads_state_;
    // Without products, rows are read again for each panel, token after token: rows are then copied, since those of a
    // tensor may be far apart in memory.
    rows_of<A> const key =
        load_rows(policies, p_.key, p_.keys_from(batch, head, step_.first_key), tokens, with_products, key_);
    read_decays_and_rates(policies, batch, head);
    if (with_products) by_kernel_ ? kernel_.set_keys(tokens) : decay_.set_keys(key);
    if (reads_state_) {
      decay_.products(key, products(p_.heads_per_group()));
      keys_before_ = decay_.before(key, key_before_);
    }
    // A delta rule's system reads the keys' rows, so that these are at hand.
    writes_ = decay_.writes(key, key_after_, with_products && !by_kernel_ && !policies.sums_keys && !reads_state_);
  }

  void read_decays_and_rates(any_state_policies<A> const& policies, index_t batch, index_t head) {
    index_t const tokens = step_.keys;
    decay_.move_to(policies, batch, head, step_.first_key, tokens);
    if (!policies.has_rates) return;
    policies.read_rates(batch, head, step_.first_key, tokens, rates_);
    std::fill(rates_ + tokens, rates_ + layout_.lanes, A(0));
  }

  void prepare_pairs(any_state_policies<A> const& policies, index_t batch, index_t head, chunk_unit& unit) {
    if (step_.keys > 0) prepare_key_pairs(policies, batch, head);
    if (step_.queries > 0)
      for (index_t h = 0; h < p_.heads_per_group(); ++h) prepare_query_pairs(policies, batch, head, h, unit);
  }

  /// Keys and queries are in float as well where a normalizer sums keys.
  void prepare_key_pairs(any_state_policies<A> const& policies, index_t batch, index_t head) {
    index_t const tokens = step_.keys;
    feature_tokens const run = p_.keys_from(batch, head, step_.first_key);
    read_decays_and_rates(policies, batch, head);
    A const* const after = decay_.after();
    values_are_written_ = !after && !policies.has_rates;
    for (index_t j = 0; !values_are_written_ && j < layout_.lanes; ++j)
      written_[j] = j < tokens ? (after ? after[j] : A(1)) * rates_[j] : A(0);
    if (policies.sums_keys)
      writes_ = decay_.writes(load_rows(policies, p_.key, run, tokens, false, key_), key_after_, false);
    pairs_->set_keys(rows_of_head(p_.key, run.batch, run.head, run.first), tokens);
  }

  void prepare_query_pairs(any_state_policies<A> const& policies, index_t batch, index_t head, index_t h,
                           chunk_unit& unit) {
    index_t const tokens = step_.queries;
    feature_tokens const run = p_.queries_from(batch, head * p_.heads_per_group() + h, step_.first_query);
    if (policies.sums_keys)
      query_rows_[h] = load_rows(policies, p_.query, run, tokens, false, query_ + h * rows_size());
    pairs_->set_queries(h, rows_of_head(p_.query, run.batch, run.head, run.first), tokens);
    if (!attends()) return;
    pairs_->multiply(unit, h, tokens, products(h), layout_.lanes);
    pairs_->set_weights(h, tokens, products(h), layout_.lanes, decay_.between(), policies.has_rates ? rates_ : nullptr);
  }

  void prepare_queries(any_state_policies<A> const& policies, index_t batch, index_t head, index_t h) {
    feature_tokens const run = p_.queries_from(batch, head * p_.heads_per_group() + h, step_.first_query);
    A* const own = query_ + h * rows_size();
    rows_of<A> query = load_rows(policies, p_.query, run, step_.queries, true, own);
    if (attends()) {
      if (by_kernel_)
        kernel_.products(policies, step_.queries, products(h));
      else
        decay_.products(query, products(h));
      query = decay_.before(query, own);
    }
    query_rows_[h] = query;
  }

  state_problem<T> const& p_;
  chunk_layout const& layout_;
  chunk_step step_;
  bool const reads_state_, by_kernel_;
  any_chunk_decay<A>& decay_;
  chunk_kernel<A> kernel_;
  A *key_, *key_before_, *key_after_, *query_, *products_, *raw_, *rates_, *written_ = nullptr;
  pair_chunk* pairs_ = nullptr;
  bool values_are_written_ = false;  // whether tokens write their values as they are
  rows_of<A>* query_rows_;
  rows_of<A> keys_before_;
  chunk_writes<A> writes_{};
};

}  // namespace attend::inline ATTEND_TARGET::engine
