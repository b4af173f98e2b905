// SPDX-License-Identifier: BSD-3-Clause
// The policies of a call behind one virtual interface, as gradients need them: which pairs are visible, the weight of
// each pair from its logit and the row's log-sum-exp, and how a change of the product of query and key changes it.
//
//   s_0 = scale * q . k,  s_n = score n of s_(n-1)              the slope of a pair is the product of ds_n/ds_(n-1)
//   softmax (with sinks or without)   p = exp(s - lse)          dp/ds_0 . g = p * slope * (g - delta)
//   another normalizer                p = weight(s)             dp/ds_0 . g = weight'(s) * slope * g
//
// where g is the gradient of the weight and delta the sum of p * g over the row. So a pair has two numbers: its weight
// p, and the rate by which (g - delta) is multiplied; delta is 0 where weights are not normalized.
//
// A score has a slope where it says so: `keeps_slope` where it only adds, or slope(s, place), or bind_slope(rows,
// range), which gives a function of the two.
#pragma once

#include "any_mask.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

template <class S>
concept KeepsSlope = requires { requires S::keeps_slope; };
template <class S, class T>
concept BindsSlope = requires(S const& score, tile_rows<T> const& rows, key_range range, simd::vector<T> const& s,
                              score_place<T> const& place) {
  { score.bind_slope(rows, range)(s, place) } -> std::convertible_to<simd::vector<T>>;
};
template <class S, class T>
concept GivesSlope = requires(S const& score, simd::vector<T> const& s, score_place<T> const& place) {
  { score.slope(s, place) } -> std::convertible_to<simd::vector<T>>;
};
template <class S, class T>
concept HasSlope = KeepsSlope<S> || BindsSlope<S, T> || GivesSlope<S, T>;

/// The slope of a score as a function of the logit before it and the place.
template <class S, class T>
ATTEND_INLINE auto bound_slope(S const& score, tile_rows<T> const& rows, key_range range) {
  if constexpr (KeepsSlope<S>)
    return [](simd::vector<T> const&, score_place<T> const&) { return simd::vector<T>(T(1)); };
  else if constexpr (BindsSlope<S, T>)
    return score.bind_slope(rows, range);
  else
    return [&score](simd::vector<T> const& s, score_place<T> const& place)
               ATTEND_INLINE_LAMBDA { return score.slope(s, place); };
}

}  // namespace detail

namespace engine {

template <class A>
class any_backward_policies : public any_mask<A> {
 public:
  bool const scores_hide;        // a score may turn a finite logit into -inf
  bool const rates_are_weights;  // so one array holds both
  bool const normalizes;         // whether the weights of a row add up to one: then delta is subtracted

  /// Turns products, times `scale`, into weights in place, and writes the rates, unless they are the weights. The
  /// products of hidden pairs are -inf where `masked`; both their numbers are 0.
  virtual void weigh(int vectors, tile_rows<A> const& rows, key_range range, bool masked, A const* log_sum_exp, A scale,
                     A* logits, A* rates) const = 0;

 protected:
  any_backward_policies(bool hide, bool one_array, bool normalized)
      : scores_hide(hide), rates_are_weights(one_array), normalizes(normalized) {}
  ~any_backward_policies() = default;
};

template <class A, class Policies>
class erased_backward_policies final : public erased_mask<any_backward_policies<A>, A, typename Policies::mask_type> {
  using mask_type = typename Policies::mask_type;
  using normalizer_type = typename Policies::normalizer_type;
  using scores_type = typename Policies::scores_type;
  static constexpr bool normalized = normalizer_type::keeps_maximum;
  static constexpr bool keeps_slopes = []<class... S>(std::type_identity<std::tuple<S...>>) {
    return (detail::KeepsSlope<std::remove_cvref_t<S>> && ...);
  }(std::type_identity<scores_type>{});
  static constexpr bool one_array = normalized && keeps_slopes;

 public:
  explicit erased_backward_policies(Policies const& policies)
      : erased_mask<any_backward_policies<A>, A, mask_type>(
            policies.mask, std::apply([]<class... S>(S const&...) { return (S::may_hide || ...); }, policies.scores),
            one_array, normalized),
        policies_(policies) {}

  void weigh(int vectors, tile_rows<A> const& rows, key_range range, bool masked, A const* log_sum_exp, A scale,
             A* logits, A* rates) const override {
    std::apply(
        [&](auto const&... scores) {
          weigh_pairs(
              vectors, rows, range, masked, log_sum_exp, scale, logits, rates,
              bound_score{detail::bind_score(scores, rows, range), detail::bound_slope(scores, rows, range)}...);
        },
        policies_.scores);
  }

 private:
  template <class Score, class Slope>
  struct bound_score {
    Score apply;
    Slope slope;
  };
  template <class Score, class Slope>
  bound_score(Score, Slope) -> bound_score<Score, Slope>;

  template <class... Scores>
  void weigh_pairs(int vectors, tile_rows<A> const& rows, key_range range, bool masked, A const* log_sum_exp, A scale,
                   A* logits, [[maybe_unused]] A* rates, Scores const&... scores) const {
    using namespace simd;
    index_t const lanes = vectors * width<A>;
    vector<A> const hidden(-infinity<A>), nothing(A(0)), factor(scale);
    auto const& normalizer = normalizer_for(rows.keys);
    for (int v = 0; v < vectors; ++v) {
      int const lane = v * width<A>;
      // A row that sees nothing has -inf: 0 in its place makes the weights of hidden keys exp(-inf).
      vector<A> const sum = finite_maximum(log_sum_exp + lane);
      // One that sees NaN has NaN, and of the keys that are hidden from it none.
      bool const are_numbers = all<A>(sum == sum);
      vector<A> const position = lane_values<A>([&](int i) { return rows.position[i]; }).at(lane);
      for (index_t key = range.first; key < range.last; ++key) {
        index_t const at = (key - range.first) * lanes + lane;
        vector<A> const product = load(logits + at);
        vector<A> s = product * factor, slope(A(1));
        if constexpr (sizeof...(Scores) > 0) {
          score_place<A> const place{position, vector<A>(static_cast<A>(key)), rows, key, lane};
          if constexpr (keeps_slopes)
            ((s = scores.apply(s, place)), ...);
          else
            ((slope = slope * scores.slope(s, place), s = scores.apply(s, place)), ...);
        }
        // A scale or a score may make a number of what the mask has hidden.
        if (masked) s = simd::select(product == hidden, hidden, s);
        vector<A> weight, rate;
        if constexpr (normalized) {
          weight = simd::exp<A>(s - sum);
          if (!are_numbers) weight = simd::select(s == hidden, nothing, weight);
          rate = weight;
        } else {
          weight = normalizer.template weight<A>(s, nothing);
          rate = normalizer.template weight_slope<A>(s, weight);
        }
        store(logits + at, weight);
        if constexpr (!one_array) {
          if constexpr (!keeps_slopes) rate = rate * slope;
          store(rates + at, simd::select(s == hidden, nothing, rate));
        }
      }
    }
  }

  decltype(auto) normalizer_for(index_t keys) const {
    if constexpr (requires { policies_.normalizer.for_keys(keys); })
      return policies_.normalizer.for_keys(keys);
    else
      return (policies_.normalizer);
  }

  Policies const& policies_;
};

}  // namespace engine

}  // namespace attend::inline ATTEND_TARGET
