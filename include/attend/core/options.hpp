// SPDX-License-Identifier: BSD-3-Clause
// Options of a call come after its tensors in any order. Each says by its `option_kind` what it is; this is how a call
// finds them, and how an unknown or doubled one becomes a compile error that names it.
#pragma once

#include <tuple>
#include <type_traits>

#include "executor.hpp"

namespace attend::inline ATTEND_TARGET {

/// What an option is about. An option type says so with `using option_kind = option::...;`.
namespace option {
struct mask;
struct score;
struct scale;
struct normalizer;
struct position;
struct slots;
struct sequences;
struct value_gain;
struct pair_gain;
struct relative_bias;
struct relative_embeddings;
struct head_gates;
struct latent_form;
struct log_sum_exp;
struct weights;
struct logits;
struct tile_counts;
struct decay;
struct update;
struct features;
struct state_normalizer;
struct output_gate;
struct initial_state;
struct final_state;
struct chunk_length;
struct invariance;
struct executor;
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

/// References to the options that are of none of these kinds, in the order given.
template <class... Kinds, class... Options>
constexpr auto options_without(Options&... options) {
  [[maybe_unused]] auto const kept = []<class Option>(Option& option) {
    if constexpr (is_option<Option, Kinds...>)
      return std::tuple<>();
    else
      return std::tuple<Option&>(option);
  };
  return std::tuple_cat(kept(options)...);
}

/// Stands for an option that was not given.
struct absent {};

}  // namespace detail
}  // namespace attend::inline ATTEND_TARGET
