// SPDX-License-Identifier: BSD-3-Clause
// What may stand in a decoder's layers: any store of the library's with attention to all that it keeps, stores with a
// compensation token or with positions of their own, and a whole cache of which each step attends to chosen tokens.
//
//   through_stores       cached_attention, and a plan of it for steps of one token
//   with_compensation    razor_attention: rotated keys, since a compensation token is a mean of keys as they are cached
//   with_cache_positions streaming_attention: positions are those in the cache and not those in the text
//   with_eviction        what a policy of eviction lets go is dropped, by the weights that tokens had so far, where it
//                        asks for them
//   with_states          linear attention, for models that were trained with it: what a layer keeps is a state
//   with_chosen_tokens   a prompt attends to all tokens, and a step of one token to those that a selector chooses
//
// A layer has a store, and a selector where there is one.
#pragma once

#include <attend/cache.hpp>
#include <attend/linear.hpp>
#include <attend/softmax.hpp>
#include <attend/sparse.hpp>

#include <optional>
#include <utility>
#include <vector>

#include "decoder.hpp"

namespace generate {

/// Stores that `make` makes, one for each layer.
template <class Store>
class stores : public layer_attention {
 public:
  template <class Make>
  stores(decoder const& model, attend::threads executor, Make const& make) : model_(model), executor_(executor) {
    for (index_t l = 0; l < model.shape().layers; ++l) stores_.push_back(make());
  }

  index_t bytes() const override {
    index_t sum = 0;
    for (Store const& store : stores_) sum += store.bytes();
    return sum;
  }

 protected:
  /// Rotates queries of the tokens from `first` on, and keys where they are given, in place.
  template <class... Rows>
  void rotate(index_t first, Rows const&... rows) const {
    attend::options::token_positions const positions(first);
    (attend::options::rotary_embedding(rows, model_.position(), rows, positions), ...);
  }

  decoder const& model_;
  attend::threads executor_;
  std::vector<Store> stores_;
};

template <class Store>
class through_stores : public stores<Store> {
 public:
  using typename layer_attention::view;
  template <class Make>
  through_stores(decoder const& model, attend::threads executor, Make const& make)
      : stores<Store>(model, executor, make), steps_(this->stores_.size()) {}

  void attend(std::size_t layer, view const& query, view const& key, view const& value, view const& output) override {
    Store& store = this->stores_[layer];
    if (query.extent(2) > 1)
      return attend::cached_attention(store, query, key, value, output, this->model_.position(), this->executor_);
    // Steps of one token are alike: a layer's is planned at the first of them, and not checked again.
    if (!steps_[layer])
      steps_[layer].emplace(attend::plan(store, query, key, value, output, this->model_.position(), this->executor_));
    steps_[layer]->run(query, key, value, output);
  }

 private:
  using step = decltype(attend::plan(std::declval<Store&>(), view(), view(), view(), view(),
                                     std::declval<decoder const&>().position(), std::declval<attend::threads&>()));
  std::vector<std::optional<step>> steps_;
};

template <class Store>
class with_compensation : public stores<Store> {
 public:
  using typename layer_attention::view;
  using stores<Store>::stores;

  void attend(std::size_t layer, view const& query, view const& key, view const& value, view const& output) override {
    this->rotate(this->stores_[layer].size(0), query, key);
    attend::systems::razor_attention(this->stores_[layer], query, key, value, output, this->executor_);
  }
};

template <class Store>
class with_cache_positions : public stores<Store> {
 public:
  using typename layer_attention::view;
  using stores<Store>::stores;

  void attend(std::size_t layer, view const& query, view const& key, view const& value, view const& output) override {
    attend::systems::streaming_attention(this->stores_[layer], query, key, value, output, this->model_.position(),
                                         this->executor_);
  }
};

/// The store is an evicting_cache, from which `policy` evicts when `slack` tokens have come since it last did. Weights
/// are added up where `Weighed` says that the policy goes by them.
template <class Store, class Policy, bool Weighed>
class with_eviction : public stores<Store> {
 public:
  using typename layer_attention::view;
  template <class Make>
  with_eviction(decoder const& model, attend::threads executor, Make const& make, Policy policy, index_t slack)
      : stores<Store>(model, executor, make), policy_(std::move(policy)), slack_(slack) {}

  void attend(std::size_t layer, view const& query, view const& key, view const& value, view const& output) override {
    Store& store = this->stores_[layer];
    auto const& position = this->model_.position();
    denominators_.resize(static_cast<std::size_t>(query.extent(1) * query.extent(2)));
    attend::tensor_view<float, 3> const denominators(denominators_.data(), {1, query.extent(1), query.extent(2)});
    attend::cached_attention(store, query, key, value, output, position, attend::options::log_sum_exp(denominators),
                             this->executor_);
    if constexpr (Weighed)
      attend::caches::accumulate_weights(query, denominators, store, attend::options::rotary_queries(position),
                                         this->executor_);
    store.evict(policy_, slack_, this->executor_);
  }

 private:
  Policy policy_;
  index_t slack_;
  std::vector<float> denominators_;
};

/// Retention: a matrix for each key-value head is all that a layer keeps, however long the text.
class with_states : public layer_attention {
 public:
  with_states(decoder const& model, attend::threads executor)
      : model_(model), executor_(executor), decays_(attend::systems::retention_decays(model.shape().key_value_heads)) {
    decoder_shape const& shape = model.shape();
    index_t const numbers = shape.key_value_heads * shape.head_dimension * shape.head_dimension;
    for (index_t l = 0; l < shape.layers; ++l)
      layers_.push_back({std::vector<float>(static_cast<std::size_t>(numbers))});
  }

  void attend(std::size_t layer, view const& query, view const& key, view const& value, view const& output) override {
    kept& so_far = layers_[layer];
    index_t const dimension = key.extent(3);
    attend::tensor_view<float, 4> const state(so_far.state.data(), {1, key.extent(1), dimension, dimension});
    attend::options::token_positions const positions(so_far.tokens);
    attend::options::rotary_embedding(query, model_.position(), query, positions);
    attend::options::rotary_embedding(key, model_.position(), key, positions);
    attend::linear_attention(query, key, value, output, attend::causal{}, attend::linear::head_decay(decays_),
                             attend::linear::rms_norm{norm_epsilon}, attend::linear::initial_state(state),
                             attend::linear::final_state(state), executor_);
    so_far.tokens += key.extent(2);
  }

  index_t bytes() const override {
    std::size_t sum = 0;
    for (kept const& layer : layers_) sum += layer.state.size() * sizeof(float);
    return static_cast<index_t>(sum);
  }

 private:
  struct kept {
    std::vector<float> state;  // [head, key dimension, value dimension]
    index_t tokens = 0;
  };

  decoder const& model_;
  attend::threads executor_;
  std::vector<float> decays_;
  std::vector<kept> layers_;
};

/// `make_selector` makes a selector for each layer. attend_chosen(query, store, selector, output, executor) is the
/// attention of a step, whose token the store already has.
template <class Store, class Selector, class AttendChosen>
class with_chosen_tokens : public stores<Store> {
 public:
  using typename layer_attention::view;
  template <class Make, class MakeSelector>
  with_chosen_tokens(decoder const& model, attend::threads executor, Make const& make,
                     MakeSelector const& make_selector, AttendChosen attend_chosen)
      : stores<Store>(model, executor, make), attend_chosen_(std::move(attend_chosen)) {
    for (std::size_t l = 0; l < this->stores_.size(); ++l) selectors_.push_back(make_selector());
  }

  void attend(std::size_t layer, view const& query, view const& key, view const& value, view const& output) override {
    Store& store = this->stores_[layer];
    if (query.extent(2) > 1)
      return attend::cached_attention(store, query, key, value, output, this->model_.position(), this->executor_);
    this->rotate(store.size(0), query);
    store.append(key, value, this->model_.position());
    attend_chosen_(query, store, selectors_[layer], output, this->executor_);
  }

  /// Of the stores and of what the selectors keep.
  index_t bytes() const override {
    index_t sum = stores<Store>::bytes();
    for (Selector const& selector : selectors_) sum += selector.bytes();
    return sum;
  }

 private:
  AttendChosen attend_chosen_;
  std::vector<Selector> selectors_;
};

}  // namespace generate
