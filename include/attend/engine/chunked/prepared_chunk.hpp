// SPDX-License-Identifier: BSD-3-Clause
// The numbers of a chunk of tokens that do not depend on the value columns: features, decays, and the chunk's products
// with itself. All blocks of columns share them.
#pragma once

#include "chunk_decay.hpp"
#include "chunk_kernel.hpp"
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

template <Element T, class Policies>
class prepared_chunk {
 public:
  using A = accumulation_t<T>;

  /// Whether the chunk's products are computed by the features' kernel. With a decay they are not, since a decay is
  /// part of the products of features.
  static constexpr bool by_kernel = KernelFeatures<typename Policies::features_type> &&
                                    !Policies::update_type::reads_state &&
                                    Policies::decay_type::kind == decay_kind::none;

  prepared_chunk(scratch& memory, state_problem<T> const& p, chunk_layout const& layout, index_t max_tokens)
      : p_(p),
        layout_(layout),
        decay_(memory, layout, !by_kernel && (p.causal || reads_state)),
        kernel_(memory, by_kernel ? p.shape.key_dimension : 0, by_kernel ? max_tokens : 0),
        key_(rows(memory)),
        key_before_(reads_state && kind == decay_kind::vector ? rows(memory) : nullptr),
        key_after_(kind != decay_kind::none ? rows(memory) : nullptr),
        query_(memory.allocate<A>(p.heads_together() * rows_size())),
        products_(memory.allocate<A>((p.heads_together() + reads_state) * layout.lanes * layout.lanes)),
        raw_(memory.allocate<A>(layout.lanes * round_up(p.shape.key_dimension, width))),
        rates_(memory.allocate<A>(layout.lanes)),
        query_rows_(memory.allocate<rows_of<A>>(p.heads_together())) {
    std::fill_n(query_, p.heads_together() * rows_size(), A(0));
    std::fill_n(rates_, layout.lanes, A(1));
  }

  void prepare(Policies const& policies, index_t batch, index_t head, chunk_step const& step) {
    step_ = step;
    if (step.keys > 0) prepare_keys(policies, batch, head);
    if (step.queries > 0)
      for (index_t h = 0; h < p_.heads_together(); ++h) prepare_queries(policies, batch, head, h);
  }

  chunk_step const& step() const { return step_; }
  /// Whether keys of their own chunk are visible to the queries of this step, and their products are prepared.
  bool attends() const { return p_.causal && step_.queries > 0; }

  A const* rates() const { return rates_; }
  A const* row_factors() const { return decay_.row_factors(); }
  A const* state_high() const { return decay_.state_high(); }
  A const* state_low() const { return decay_.state_low(); }
  chunk_writes<A> const& writes() const { return writes_; }
  /// For a delta rule: the keys with which the state before the chunk is read, and the products of keys with keys.
  rows_of<A> keys_before() const { return keys_before_; }
  A const* key_products() const { return products(p_.heads_together()); }
  /// The queries of query head h of the group, decayed since the chunk began, unless row_factors has the decays.
  rows_of<A> queries(index_t h) const { return query_rows_[h]; }
  A const* query_products(index_t h) const { return products(h); }

 private:
  static constexpr index_t width = simd::width<A>;
  static constexpr decay_kind kind = Policies::decay_type::kind;
  static constexpr bool reads_state = Policies::update_type::reads_state;
  static constexpr bool sums_keys = Policies::normalizer_type::sums_keys;
  // Whether rows of the tensor are read in place: features are the identity, and elements have the accumulation type.
  static constexpr bool reads_tensor =
      std::same_as<typename Policies::features_type, identity_features> && std::same_as<T, A> && !sums_keys;

  index_t rows_size() const { return layout_.lanes * layout_.stride; }
  A* rows(scratch& memory) const {
    A* const to = memory.allocate<A>(rows_size());
    std::fill_n(to, rows_size(), A(0));
    return to;
  }
  A* products(index_t number) const { return products_ + number * layout_.lanes * layout_.lanes; }

  /// The features of `count` tokens: the tensor's own rows if `may_serve` and they are whole blocks, else written to
  /// `to`.
  rows_of<A> load_rows(Policies const& policies, tensor_view<T const, 4> const& tensor, feature_tokens const& run,
                       index_t count, bool may_serve, A* to) {
    if constexpr (reads_tensor)
      if (may_serve && count % chunk_block<A> == 0 && layout_.features == layout_.padded_features)
        return rows_of_head(tensor, run.batch, run.head, run.first);
    if constexpr (by_kernel)
      kernel_.load(tensor, policies.features, run, count, raw_, to, layout_.stride);
    else
      load_features(tensor, policies.features, run, count, raw_, to, layout_.stride);
    for (index_t i = count; i < round_up(count, chunk_block<A>); ++i)
      std::fill_n(to + i * layout_.stride, layout_.padded_features, A(0));
    return {to, layout_.stride};
  }

  void prepare_keys(Policies const& policies, index_t batch, index_t head) {
    index_t const tokens = step_.keys;
    bool const with_products = attends() || reads_state;
    // Without products, rows are read again for each panel, token after token: rows are then copied, since those of a
    // tensor may be far apart in memory.
    rows_of<A> const key =
        load_rows(policies, p_.key, p_.keys_from(batch, head, step_.first_key), tokens, with_products, key_);
    decay_.move_to(policies.decay, batch, head, step_.first_key, tokens);
    if constexpr (Policies::update_type::has_rates) {
      policies.update.read(batch, head, step_.first_key, tokens, rates_);
      std::fill(rates_ + tokens, rates_ + layout_.lanes, A(0));
    }
    if (with_products) by_kernel ? kernel_.set_keys(tokens) : decay_.set_keys(key);
    if constexpr (reads_state) {
      decay_.products(key, products(p_.heads_together()));
      keys_before_ = decay_.before(key, key_before_);
    }
    if constexpr (kind != decay_kind::vector && !by_kernel && !sums_keys) {
      if (with_products) {
        writes_ = decay_.writes();
        return;
      }
    }
    writes_ = decay_.writes_of(key, key_after_);
  }

  void prepare_queries(Policies const& policies, index_t batch, index_t head, index_t h) {
    feature_tokens const run = p_.queries_from(batch, head * p_.heads_together() + h, step_.first_query);
    A* const own = query_ + h * rows_size();
    rows_of<A> query = load_rows(policies, p_.query, run, step_.queries, true, own);
    if (attends()) {
      if constexpr (by_kernel)
        kernel_.products(policies.features, step_.queries, products(h));
      else
        decay_.products(query, products(h));
      query = decay_.before(query, own);
    }
    query_rows_[h] = query;
  }

  state_problem<T> const& p_;
  chunk_layout const& layout_;
  chunk_step step_;
  chunk_decay<A, kind> decay_;
  chunk_kernel<A> kernel_;
  A *key_, *key_before_, *key_after_, *query_, *products_, *raw_, *rates_;
  rows_of<A>* query_rows_;
  rows_of<A> keys_before_;
  chunk_writes<A> writes_{};
};

}  // namespace attend::inline ATTEND_TARGET::engine
