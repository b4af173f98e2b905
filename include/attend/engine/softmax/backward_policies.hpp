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
//
// A gain of pairs g, which multiplies weights afterwards, stands between the weight and its gradient: the values are
// multiplied by p * g, and what a weight changes is g times what a pair's value would.
//
// A score that has a gradient of its own, of what it adds to a logit or multiplies it by, gives a pair a third number:
// the rate of that, which is the normalizer's times the slopes of the scores behind it, and times the logit before it
// where it multiplies.
#pragma once

#include "../../policy/position/rotary.hpp"
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

/// The place, among the scores of a tuple, of the one whose gradient is of that kind, and how many of them there are.
template <class Kind, class S>
inline constexpr bool gradient_is = requires { requires std::same_as<typename S::gradient_kind, Kind>; };
template <class Kind, class... S>
constexpr int count_of_gradient(std::type_identity<std::tuple<S...>>) {
  return (0 + ... + int(gradient_is<Kind, std::remove_cvref_t<S>>));
}
template <class Kind, class... S>
constexpr int place_of_gradient(std::type_identity<std::tuple<S...>>) {
  int at = 0, found = -1;
  ((found = gradient_is<Kind, std::remove_cvref_t<S>> ? at : found, ++at), ...);
  return found;
}

}  // namespace detail

namespace engine {

/// Which scores of a call have gradients of their own that are asked for.
struct wanted_of_scores {
  bool bias = false, logit_scale = false;
};

/// The numbers of a tile's pairs, [key][lanes] each. A call does without those that are null.
template <class A>
struct pair_numbers {
  A *weight, *rate, *gain, *bias_rate, *scale_rate;
};

template <class A>
class any_backward_policies : public any_mask<A> {
 public:
  bool const scores_hide;        // a score may turn a finite logit into -inf
  bool const rates_are_weights;  // so one array holds both
  bool const normalizes;         // whether the weights of a row add up to one: then delta is subtracted
  bool const writes_bias_rates;  // whether rates of the bias are numbers of their own
  bool const has_pair_gain;
  bool const rotates_queries, rotates_keys;
  bool const has_order;         // of tokens, other than the tensors'
  index_t const rotation_size;  // of the buffer of a rotation

  /// Turns products, which times `scale` are logits and stand where weights will, into the numbers of pairs. The
  /// products of hidden pairs are -inf where `masked`; all their numbers are 0. Rates are not written where they are
  /// the weights, and those of the bias not where no score changes slopes: they are the rates.
  virtual void weigh(int vectors, tile_rows<A> const& rows, key_range range, bool masked, A const* log_sum_exp, A scale,
                     pair_numbers<A> const& pairs) const = 0;
  /// The logit of a lane's sink, where there are sinks.
  virtual A sink(tile_rows<A> const& rows, int lane) const = 0;
  /// The rotation of a query or a key, in a buffer.
  virtual options::rotation<A> query_rotation(attending_place const& at, A* buffer) const = 0;
  virtual options::rotation<A> key_rotation(attended_place const& at, A* buffer) const = 0;
  /// The tokens of queries and keys in the order of the call, if it has one of its own.
  virtual void list_tokens(index_t count, index_t* tokens) const = 0;
  /// Adds changes of logits to the gradient of the table of a score.
  virtual void add_to_table(tile_rows<A> const& rows, key_range range, A const* changes, int lanes, A* table) const = 0;

 protected:
  struct facts {
    bool scores_hide, rates_are_weights, normalizes, writes_bias_rates, has_pair_gain, rotates_queries, rotates_keys,
        has_order;
    index_t rotation_size;
  };
  explicit any_backward_policies(facts const& of)
      : scores_hide(of.scores_hide),
        rates_are_weights(of.rates_are_weights),
        normalizes(of.normalizes),
        writes_bias_rates(of.writes_bias_rates),
        has_pair_gain(of.has_pair_gain),
        rotates_queries(of.rotates_queries),
        rotates_keys(of.rotates_keys),
        has_order(of.has_order),
        rotation_size(of.rotation_size) {}
  ~any_backward_policies() = default;
};

template <class A, class Policies, wanted_of_scores Wanted = wanted_of_scores{}>
class erased_backward_policies final : public erased_mask<any_backward_policies<A>, A, typename Policies::mask_type> {
  using mask_type = typename Policies::mask_type;
  using normalizer_type = typename Policies::normalizer_type;
  using scores_type = typename Policies::scores_type;
  static constexpr bool normalized = normalizer_type::keeps_maximum;
  static constexpr bool keeps_slopes = []<class... S>(std::type_identity<std::tuple<S...>>) {
    return (detail::KeepsSlope<std::remove_cvref_t<S>> && ...);
  }(std::type_identity<scores_type>{});
  using position_type = typename Policies::position_type;
  static constexpr bool rotates = !std::same_as<position_type, detail::absent>;
  static constexpr bool gains = !std::same_as<typename Policies::pair_gain_type, detail::absent>;
  static constexpr bool has_order = !std::same_as<typename Policies::order_type, in_order>;
  static constexpr int table_place =
      detail::place_of_gradient<option::gradient_of_relative_bias>(std::type_identity<scores_type>{});
  static constexpr bool divides = requires(normalizer_type const& normalizer) { normalizer.divides(); };
  static constexpr bool one_array = normalized && keeps_slopes && !gains;
  static constexpr int bias_place =
      Wanted.bias ? detail::place_of_gradient<option::gradient_of_bias>(std::type_identity<scores_type>{}) : -1;
  static constexpr int scale_place =
      Wanted.logit_scale ? detail::place_of_gradient<option::gradient_of_logit_scale>(std::type_identity<scores_type>{})
                         : -1;
  static constexpr bool writes_bias_rates = bias_place >= 0 && !keeps_slopes;

 public:
  explicit erased_backward_policies(Policies const& policies)
      : erased_mask<any_backward_policies<A>, A, mask_type>(policies.mask, facts_of(policies)), policies_(policies) {}

  void weigh(int vectors, tile_rows<A> const& rows, key_range range, bool masked, A const* log_sum_exp, A scale,
             pair_numbers<A> const& pairs) const override {
    std::apply(
        [&](auto const&... scores) {
          weigh_pairs(
              std::index_sequence_for<decltype(scores)...>{}, vectors, rows, range, masked, log_sum_exp, scale, pairs,
              bound_gain(rows, range),
              bound_score{detail::bind_score(scores, rows, range), detail::bound_slope(scores, rows, range)}...);
        },
        policies_.scores);
  }

  A sink([[maybe_unused]] tile_rows<A> const& rows, [[maybe_unused]] int lane) const override {
    if constexpr (requires { policies_.normalizer.sink(rows, lane); })
      return policies_.normalizer.sink(rows, lane);
    else
      return -infinity<A>;
  }

  void list_tokens([[maybe_unused]] index_t count, [[maybe_unused]] index_t* tokens) const override {
    if constexpr (has_order) policies_.order.tokens_at({0, count}, tokens);
  }
  void add_to_table([[maybe_unused]] tile_rows<A> const& rows, [[maybe_unused]] key_range range,
                    [[maybe_unused]] A const* changes, [[maybe_unused]] int lanes,
                    [[maybe_unused]] A* table) const override {
    if constexpr (table_place >= 0)
      std::get<static_cast<std::size_t>(table_place)>(policies_.scores).add_changes(rows, range, changes, lanes, table);
  }

  options::rotation<A> query_rotation([[maybe_unused]] attending_place const& at,
                                      [[maybe_unused]] A* buffer) const override {
    if constexpr (rotates)
      return policies_.position.query_rotation(at, buffer);
    else
      return {};
  }
  options::rotation<A> key_rotation([[maybe_unused]] attended_place const& at,
                                    [[maybe_unused]] A* buffer) const override {
    if constexpr (detail::rotates_keys<position_type>)
      return policies_.position.key_rotation(at, buffer);
    else
      return {};
  }

 private:
  static typename any_backward_policies<A>::facts facts_of(Policies const& policies) {
    bool normalizes = normalized;
    if constexpr (divides) normalizes = policies.normalizer.divides_by_sum();
    index_t rotation_size = 0;
    if constexpr (rotates) rotation_size = policies.position.buffer_size();
    return {std::apply([]<class... S>(S const&...) { return (S::may_hide || ...); }, policies.scores),
            one_array,
            normalizes,
            writes_bias_rates,
            gains,
            rotates,
            detail::rotates_keys<position_type>,
            has_order,
            rotation_size};
  }

  auto bound_gain([[maybe_unused]] tile_rows<A> const& rows, [[maybe_unused]] key_range range) const {
    if constexpr (gains)
      return policies_.pair_gain.bind(rows, range);
    else
      return detail::absent{};
  }

  template <class Score, class Slope>
  struct bound_score {
    Score apply;
    Slope slope;
  };
  template <class Score, class Slope>
  bound_score(Score, Slope) -> bound_score<Score, Slope>;

  /// A logit on its way through the scores, with the slopes of those that it has passed.
  struct passing_logit {
    simd::vector<A> s, slope = simd::vector<A>(A(1)), of_bias = slope, of_scale = slope;

    template <int Place, class Score>
    ATTEND_INLINE void pass(Score const& score, score_place<A> const& place) {
      simd::vector<A> const by = score.slope(s, place);
      slope = slope * by;
      if constexpr (bias_place >= 0 && Place > bias_place) of_bias = of_bias * by;
      if constexpr (scale_place >= 0 && Place > scale_place) of_scale = of_scale * by;
      if constexpr (Place == scale_place) of_scale = s;
      s = score.apply(s, place);
    }
  };

  template <std::size_t... Place, class Gain, class... Scores>
  void weigh_pairs(std::index_sequence<Place...>, int vectors, tile_rows<A> const& rows, key_range range, bool masked,
                   A const* log_sum_exp, A scale, pair_numbers<A> const& pairs, [[maybe_unused]] Gain const& gain,
                   Scores const&... scores) const {
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
      vector<A> quotient(A(1));
      if constexpr (divides)
        quotient = lane_values<A>([&](int i) { return normalizer.template factor<A>(log_sum_exp[i]); }).at(lane);
      vector<A> const position = lane_values<A>([&](int i) { return rows.position[i]; }).at(lane);
      for (index_t key = range.first; key < range.last; ++key) {
        index_t const at = (key - range.first) * lanes + lane;
        vector<A> const product = load(pairs.weight + at);
        passing_logit logit{product * factor};
        vector<A>& s = logit.s;
        [[maybe_unused]] score_place<A> const place{position, vector<A>(static_cast<A>(key)), rows, key, lane};
        if constexpr (sizeof...(Scores) > 0) {
          if constexpr (keeps_slopes)
            ((s = scores.apply(s, place)), ...);
          else
            (logit.template pass<static_cast<int>(Place)>(scores, place), ...);
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
          if constexpr (divides) weight = weight * quotient, rate = rate * quotient;
        }
        if constexpr (gains) {
          vector<A> const by = gain(place);
          store(pairs.gain + at, by);
          store(pairs.weight + at, simd::select(weight == nothing, nothing, weight * by));
        } else {
          store(pairs.weight + at, weight);
        }
        if constexpr (writes_bias_rates)
          store(pairs.bias_rate + at, simd::select(s == hidden, nothing, rate * logit.of_bias));
        if constexpr (scale_place >= 0)
          store(pairs.scale_rate + at, simd::select(s == hidden, nothing, rate * logit.of_scale));
        if constexpr (!one_array) {
          if constexpr (!keeps_slopes) rate = rate * logit.slope;
          store(pairs.rate + at, simd::select(s == hidden, nothing, rate));
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
