// SPDX-License-Identifier: BSD-3-Clause
// Options follow the tensors of a call, in any order. Each option type names its kind as `option_kind`, and a call
// finds an option by its kind. call/allows.hpp says which kinds a call takes.
#pragma once

#include <tuple>
#include <type_traits>

#include "executor.hpp"

namespace attend::inline ATTEND_TARGET {

/// The kinds of options. An option type names its kind with `using option_kind = option::...;`. A call that is given
/// two options of one kind does not compile, and the compiler's message names the kind; only scores may be given in any
/// number.
namespace option {
#define ATTEND_OPTION_KIND(kind, name)                           \
  struct kind {                                                  \
    template <int Given>                                         \
    static constexpr void check_count() {                        \
      static_assert(Given <= 1, "attend: " name " given twice"); \
    }                                                            \
  };

struct mask {
  template <int Given>
  static constexpr void check_count() {
    static_assert(Given <= 1, "attend: mask given twice: combine masks with & | !");
  }
};
struct score {
  template <int>
  static constexpr void check_count() {}
};
ATTEND_OPTION_KIND(scale, "scale")
ATTEND_OPTION_KIND(normalizer, "normalizer")
ATTEND_OPTION_KIND(position, "rotary")
ATTEND_OPTION_KIND(slots, "extra key-value slots")
ATTEND_OPTION_KIND(sequences, "sequences (padded, ragged)")
ATTEND_OPTION_KIND(value_gain, "value_gain")
ATTEND_OPTION_KIND(pair_gain, "gain of pairs, or weight_function,")
ATTEND_OPTION_KIND(relative_bias, "relative_bias")
ATTEND_OPTION_KIND(relative_embeddings, "relative_embeddings")
ATTEND_OPTION_KIND(head_gates, "head_gates")
ATTEND_OPTION_KIND(latent_form, "form of latent attention (absorbed, expanded)")
ATTEND_OPTION_KIND(log_sum_exp, "log_sum_exp")
ATTEND_OPTION_KIND(weights, "weights")
ATTEND_OPTION_KIND(logits, "logits")
ATTEND_OPTION_KIND(key_mass, "key_mass")
ATTEND_OPTION_KIND(range_mass, "range_mass")
ATTEND_OPTION_KIND(heaviest_keys, "heaviest_keys")
ATTEND_OPTION_KIND(entropy, "entropy")
ATTEND_OPTION_KIND(block_maxima, "block_maxima")
ATTEND_OPTION_KIND(tile_counts, "count_tiles")
ATTEND_OPTION_KIND(of_log_sum_exp, "of_log_sum_exp")
ATTEND_OPTION_KIND(gradient_of_bias, "gradient_of_bias")
ATTEND_OPTION_KIND(gradient_of_logit_scale, "gradient_of_logit_scale")
ATTEND_OPTION_KIND(gradient_of_relative_bias, "gradient_of_relative_bias")
ATTEND_OPTION_KIND(gradient_of_sinks, "gradient_of_sinks")
ATTEND_OPTION_KIND(gradient_of_value_gain, "gradient_of_value_gain")
ATTEND_OPTION_KIND(gradient_of_head_gates, "gradient_of_head_gates")
ATTEND_OPTION_KIND(decay, "decay")
ATTEND_OPTION_KIND(update, "update")
ATTEND_OPTION_KIND(features, "feature map")
ATTEND_OPTION_KIND(state_normalizer, "normalizer")
ATTEND_OPTION_KIND(output_gate, "output_gate")
ATTEND_OPTION_KIND(initial_state, "initial_state")
ATTEND_OPTION_KIND(final_state, "final_state")
ATTEND_OPTION_KIND(gradient_of_decay, "gradient_of_decay")
ATTEND_OPTION_KIND(gradient_of_rates, "gradient_of_rates")
ATTEND_OPTION_KIND(gradient_of_initial_state, "gradient_of_initial_state")
ATTEND_OPTION_KIND(gradient_of_final_state, "gradient_of_final_state")
ATTEND_OPTION_KIND(chunk_length, "chunk_length")
ATTEND_OPTION_KIND(scan, "prefix_scan")
ATTEND_OPTION_KIND(unrotated, "unrotated query and key")
ATTEND_OPTION_KIND(invariance, "chunk_invariant")
ATTEND_OPTION_KIND(precision, "full_precision")
ATTEND_OPTION_KIND(executor, "executor")

#undef ATTEND_OPTION_KIND
}  // namespace option

namespace detail {

template <class Option>
struct kind_of {
  using type = void;
};
template <class Option>
  requires requires { typename Option::option_kind; }
struct kind_of<Option> {
  using type = typename Option::option_kind;
};
template <Executor Option>
struct kind_of<Option> {
  using type = option::executor;
};

/// Whether one of the options is of that kind.
template <class Kind, class... Options>
inline constexpr bool has_kind = (std::is_same_v<typename kind_of<std::remove_cvref_t<Options>>::type, Kind> || ...);

/// Most policies have check(shape), which throws argument_error where the policy does not fit the shape of the call.
template <class Policy, class... Shape>
concept HasCheck = requires(Policy const& policy, Shape const&... shape) { policy.check(shape...); };

template <class Kind, class... Options>
inline constexpr int count_of_kind = (0 + ... + int(has_kind<Kind, Options>));

/// Whether Option is one of the kinds that a call takes.
template <class Option, class... Kinds>
inline constexpr bool is_option = (has_kind<Kinds, Option> || ...);

/// The option of that kind, or the fallback where none is given.
template <class Kind, class Fallback>
constexpr Fallback& find_option(Fallback& fallback) {
  return fallback;
}
template <class Kind, class Fallback, class First, class... Rest>
constexpr auto& find_option(Fallback& fallback, First& first, Rest&... rest) {
  if constexpr (has_kind<Kind, First>)
    return first;
  else
    return find_option<Kind>(fallback, rest...);
}

template <class Kind>
constexpr std::tuple<> find_options() {
  return {};
}
/// All options of that kind, copied, in the order given.
template <class Kind, class First, class... Rest>
constexpr auto find_options(First const& first, Rest const&... rest) {
  if constexpr (has_kind<Kind, First>)
    return std::tuple_cat(std::tuple<First>(first), find_options<Kind>(rest...));
  else
    return find_options<Kind>(rest...);
}

/// Stands for an option that was not given.
struct absent {};

}  // namespace detail
}  // namespace attend::inline ATTEND_TARGET
