// SPDX-License-Identifier: BSD-3-Clause
// The answers of a combination of policies to what the chunked engine asks (any_state_policies.hpp).
#pragma once

#include <new>
#include <type_traits>

#include "any_state_policies.hpp"
#include "chunk_decay.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <class A, class Policies>
class erased_state_policies final : public any_state_policies<A> {
  using decay_type = typename Policies::decay_type;
  using update_type = typename Policies::update_type;
  using features_type = typename Policies::features_type;
  using normalizer_type = typename Policies::normalizer_type;

 public:
  explicit erased_state_policies(Policies const& policies) : any_state_policies<A>(policies), policies_(policies) {}

  void fill([[maybe_unused]] token_rows<A> const& rows, [[maybe_unused]] A* to,
            [[maybe_unused]] index_t stride) const override {
    if constexpr (!std::same_as<features_type, identity_features> && !FollowingFeatures<features_type>)
      policies_.features.fill(rows, to, stride);
  }
  void prepare([[maybe_unused]] token_rows<A> const& rows, [[maybe_unused]] A* to,
               [[maybe_unused]] index_t stride) const override {
    if constexpr (KernelFeatures<features_type>) policies_.features.prepare(rows, to, stride);
  }
  void fill_prepared([[maybe_unused]] token_rows<A> const& rows, [[maybe_unused]] A* to,
                     [[maybe_unused]] index_t stride) const override {
    if constexpr (KernelFeatures<features_type>) policies_.features.fill_prepared(rows, to, stride);
  }
  void apply_kernel([[maybe_unused]] A* products, [[maybe_unused]] index_t count,
                    [[maybe_unused]] index_t dimension) const override {
    if constexpr (KernelFeatures<features_type>)
      for (index_t i = 0; i < count; i += simd::width<A>)
        simd::store(products + i, policies_.features.kernel(simd::load(products + i), dimension));
  }

  void read_decays([[maybe_unused]] index_t batch, [[maybe_unused]] index_t head, [[maybe_unused]] index_t first,
                   [[maybe_unused]] index_t count, [[maybe_unused]] A* to,
                   [[maybe_unused]] index_t stride) const override {
    if constexpr (decay_type::kind == decay_kind::scalar)
      policies_.decay.read(batch, head, first, count, to);
    else if constexpr (decay_type::kind == decay_kind::vector)
      policies_.decay.read(batch, head, first, count, to, stride);
  }
  void prefetch_decays([[maybe_unused]] chunk_prefetch& prefetch, [[maybe_unused]] index_t batch,
                       [[maybe_unused]] index_t head, [[maybe_unused]] index_t first,
                       [[maybe_unused]] index_t count) const override {
    if constexpr (decay_type::kind == decay_kind::vector && requires { policies_.decay.view(); }) {
      auto const& view = policies_.decay.view();
      prefetch.add(view, batch, head, first, count, 0, view.extent(3));
    }
  }
  any_chunk_decay<A>* make_decay(scratch& memory, chunk_layout const& layout, bool attends) const override {
    using made = chunk_decay<A, decay_type::kind>;
    static_assert(std::is_trivially_destructible_v<made>);
    return new (memory.allocate<made>(1)) made(memory, layout, attends);
  }

  void read_rates([[maybe_unused]] index_t batch, [[maybe_unused]] index_t head, [[maybe_unused]] index_t first,
                  [[maybe_unused]] index_t count, [[maybe_unused]] A* to) const override {
    if constexpr (update_type::has_rates) policies_.update.read(batch, head, first, count, to);
  }
  A factor([[maybe_unused]] A scale, [[maybe_unused]] A number) const override {
    if constexpr (normalizer_type::sums_keys || normalizer_type::whole_rows)
      return policies_.normalizer.template factor<A>(scale * number);
    else
      return 1;
  }

 private:
  Policies const& policies_;
};

/// `totals` are those of feature_totals, or null.
template <Element T, class Policies, class Totals>
class erased_state_call final : public any_state_call<T> {
  using A = accumulation_t<T>;
  using features_type = typename Policies::features_type;

 public:
  erased_state_call(Policies const& of_call, erased_state_policies<A, Policies> const& erased, Totals const* totals)
      : any_state_call<T>(erased, FollowingFeatures<features_type>), policies_(of_call), totals_(totals) {}

  void follow([[maybe_unused]] followed_sequence<T> const& sequence, [[maybe_unused]] index_t key_head,
              [[maybe_unused]] typename any_state_call<T>::run_task* run,
              [[maybe_unused]] void* context) const override {
    if constexpr (FollowingFeatures<features_type>) {
      scratch memory;
      auto const walk = [&] {
        if constexpr (TotalledFeatures<features_type>)
          return policies_.features.open(sequence, totals_ ? totals_ + key_head : nullptr, memory);
        else
          return policies_.features.open(sequence, memory);
      }();
      using walk_type = std::remove_const_t<decltype(walk)>;
      using walk_policies = state_policies<walk_type, walk_type, walk_type, typename Policies::normalizer_type>;
      walk_policies const of_head{walk, walk, walk, policies_.normalizer};
      run(context, erased_state_policies<A, walk_policies>(of_head));
    }
  }

 private:
  Policies const& policies_;
  Totals const* totals_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
