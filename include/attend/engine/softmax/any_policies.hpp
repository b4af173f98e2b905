// SPDX-License-Identifier: BSD-3-Clause
// The policies of a call (mask, scores, normalizer, gains) behind one virtual interface for the engines.
//
// An engine makes a few virtual calls for each tile and block of keys, and each call loops over some thousand pairs: so
// the calls cost little. The engine's own loops (loading, packing, products, sums, outputs) depend on no policy and are
// compiled once for an element type; a further combination of policies adds only the loops in this file to a program.
//
// Logits and weights are [key][lanes], `vectors` whole vectors of lanes beside each other.
#pragma once

#include "any_mask.hpp"
#include "pair_stage.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <class A>
class any_policies : public any_mask<A> {
 public:
  bool const has_scores;
  bool const scores_hide;  // a score may turn a finite logit into -inf
  bool const has_pair_gain;
  bool const keeps_maximum;  // of the normalizer: normalizer/softmax.hpp
  bool const has_sinks;
  bool const has_runs;   // the mask names gaps between the keys that it shows
  bool const shows_all;  // there is no mask

  /// Applies the scores, and the mask where it hides a part of the range; sets the peak of each vector of rows.
  virtual void apply(int vectors, tile_rows<A> const& rows, key_range range, bool masked, A* logits,
                     simd::vector<A>* peak) const = 0;
  /// Turns logits into weights and adds them to the weight sums: for each vector of rows, those of the keys in its
  /// range.
  virtual void weigh(int vectors, tile_rows<A> const& rows, key_range const* ranges, A const* maximum, A* weight_sum,
                     A* logits) const = 0;
  /// The same for a matrix unit, beside its products: run_stage() of pair_stage.hpp.
  virtual void run_stage(pair_stage const& stage) const = 0;
  virtual void multiply_pairs(int vectors, tile_rows<A> const& rows, key_range range, A* weights) const = 0;
  /// The logit of a lane's sink, where there are sinks.
  virtual A sink(tile_rows<A> const& rows, int lane) const = 0;
  virtual A factor(A weight_sum) const = 0;
  /// Turns a row of final logits into its weights.
  virtual void finish_weights(A* row, index_t keys, index_t keys_of_sequence, A maximum, A factor) const = 0;

 protected:
  any_policies(bool scores, bool hide, bool gain, bool maximum, bool sinks, bool runs, bool all)
      : has_scores(scores),
        scores_hide(hide),
        has_pair_gain(gain),
        keeps_maximum(maximum),
        has_sinks(sinks),
        has_runs(runs),
        shows_all(all) {}
  ~any_policies() = default;
};

template <class A, class Policies>
class erased_policies final : public erased_mask<any_policies<A>, A, typename Policies::mask_type> {
  using mask_type = typename Policies::mask_type;
  using normalizer_type = typename Policies::normalizer_type;
  using pair_gain_type = typename Policies::pair_gain_type;
  static constexpr std::size_t score_count = std::tuple_size_v<typename Policies::scores_type>;
  static constexpr bool sinks =
      requires(normalizer_type const& normalizer, tile_rows<A> const& rows) { normalizer.sink(rows, 0); };
  static constexpr bool gains = !std::same_as<pair_gain_type, detail::absent>;

 public:
  explicit erased_policies(Policies const& policies)
      : erased_mask<any_policies<A>, A, mask_type>(
            policies.mask, score_count > 0,
            std::apply([]<class... S>(S const&...) { return (S::may_hide || ...); }, policies.scores), gains,
            normalizer_type::keeps_maximum, sinks, detail::HasRuns<mask_type>, std::same_as<mask_type, full>),
        policies_(policies) {}

  void apply(int vectors, tile_rows<A> const& rows, key_range range, bool masked, A* logits,
             simd::vector<A>* peak) const override {
    std::apply(
        [&](auto const&... scores) {
          if (masked)
            apply_policies(vectors, rows, range, logits, peak, detail::bind_mask(policies_.mask, rows, range),
                           detail::bind_score(scores, rows, range)...);
          else if constexpr (score_count > 0)
            apply_policies(vectors, rows, range, logits, peak, detail::absent{},
                           detail::bind_score(scores, rows, range)...);
        },
        policies_.scores);
  }

  void weigh(int vectors, tile_rows<A> const& rows, key_range const* ranges, A const* maximum, A* weight_sum,
             A* logits) const override {
    engine::weigh(normalizer_for(rows.keys), vectors, ranges, maximum, weight_sum, logits);
  }

  void run_stage([[maybe_unused]] pair_stage const& stage) const override {
    if constexpr (simd::has_pair_products && std::same_as<A, float>) {
      pair_piece const* const piece = stage.scores ? stage.scores : stage.weighs ? stage.weighs : stage.adds;
      for_vectors(piece->tile->vectors,
                  [&]<int Vectors>() { engine::run_stage<Vectors>(normalizer_for(piece->tile->rows.keys), stage); });
    }
  }

  void multiply_pairs(int vectors, tile_rows<A> const& rows, key_range range, A* weights) const override {
    if constexpr (gains) engine::multiply_pairs(vectors, rows, range, weights, policies_.pair_gain.bind(rows, range));
  }

  A sink(tile_rows<A> const& rows, int lane) const override {
    if constexpr (sinks)
      return policies_.normalizer.sink(rows, lane);
    else
      return -infinity<A>;
  }

  A factor(A weight_sum) const override { return policies_.normalizer.template factor<A>(weight_sum); }

  void finish_weights(A* row, index_t keys, index_t keys_of_sequence, A maximum, A factor) const override {
    using namespace simd;
    constexpr index_t step = width<A>;
    auto const& normalizer = normalizer_for(keys_of_sequence);
    auto const weigh = [&](vector<A> const& s) {
      return normalizer.template weight<A>(s, vector<A>(maximum)) * vector<A>(factor);
    };
    index_t key = 0;
    for (; key + step <= keys; key += step) weigh(widen(row + key)).store_unaligned(row + key);
    if (key < keys) narrow_part(row + key, weigh(widen_part(row + key, keys - key)), keys - key);
  }

 private:
  /// A normalizer may depend on how many keys a sequence has.
  decltype(auto) normalizer_for(index_t keys) const {
    if constexpr (requires { policies_.normalizer.for_keys(keys); })
      return policies_.normalizer.for_keys(keys);
    else
      return (policies_.normalizer);
  }

  Policies const& policies_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
