// SPDX-License-Identifier: BSD-3-Clause
// The options that a call takes, as a list of their kinds. Options that are unknown, given twice or contradictory are
// refused when the call is compiled:
//
//   call::allows<option::scale, option::log_sum_exp, option::executor>::check<Options...>();
//
// The compiler's message then names the options and the list.
#pragma once

#include "../core/options.hpp"
#include "../policy/mask/causal.hpp"
#include "../policy/position/rotary_places.hpp"

namespace attend::inline ATTEND_TARGET::call {

/// Whether the weights of a call with this option are those of a softmax: false for a normalizer without a maximum.
template <class Option>
inline constexpr bool keeps_maximum = true;
template <class Option>
  requires requires { std::remove_cvref_t<Option>::keeps_maximum; }
inline constexpr bool keeps_maximum<Option> = std::remove_cvref_t<Option>::keeps_maximum;

template <class Option>
concept WeightFunction = requires { requires std::remove_cvref_t<Option>::of_weights; };

/// A list of kinds (core/options.hpp).
template <class... Kinds>
struct allows {
  template <class... Options>
  static constexpr bool all = (detail::is_option<Options, Kinds...> && ...);

  template <class... Options>
  static constexpr void check() {
    static_assert(((Executor<Options> || !detail::Schedules<std::remove_cvref_t<Options>>) && ...),
                  "attend: a pool of threads needs Schedule(task), NumThreads() and CurrentThreadId()");
    static_assert((!std::is_void_v<typename detail::kind_of<std::remove_cvref_t<Options>>::type> && ...),
                  "attend: unknown option: it has no option_kind, and is no executor");
    static_assert(all<Options...>, "attend: unknown option of this call: it takes the kinds of its call::allows");
    (Kinds::template check_count<detail::count_of_kind<Kinds, Options...>>(), ...);
    static_assert(
        !detail::has_kind<option::invariance, Options...> || !detail::has_kind<option::chunk_length, Options...>,
        "attend: chunk_invariant takes token after token, in no chunks");
    static_assert(!detail::has_kind<option::relative_bias, Options...> ||
                      !detail::has_kind<option::relative_embeddings, Options...>,
                  "attend: relative_bias and relative_embeddings given: a call takes one of them");
    static_assert(!detail::has_kind<option::log_sum_exp, Options...> || (keeps_maximum<Options> && ...),
                  "attend: log_sum_exp is known for softmax only");
    static_assert(!detail::has_kind<option::entropy, Options...> || (keeps_maximum<Options> && ...),
                  "attend: entropy is that of softmax weights: others do not sum up to 1");
    if constexpr ((WeightFunction<Options> || ...)) {
      static_assert((keeps_maximum<Options> && ...),
                    "attend: a weight_function is called with the weights of a softmax, with or without sinks");
      static_assert(!detail::has_kind<option::slots, Options...>,
                    "attend: a weight_function goes without extra key-value slots");
    }
  }
};

/// The options of a call with a softmax or another normalizer, and those of further kinds.
template <class... Kinds>
using softmax_options_and =
    allows<option::mask, option::score, option::scale, option::normalizer, option::position, option::slots,
           option::sequences, option::value_gain, option::pair_gain, option::head_gates, option::log_sum_exp,
           option::weights, option::logits, option::range_mass, option::heaviest_keys, option::entropy,
           option::block_maxima, option::tile_counts, option::invariance, option::precision, option::executor,
           Kinds...>;
using softmax_options = softmax_options_and<>;

/// The options of most named systems, whose formula defines everything else.
using system_options = allows<option::scale, option::log_sum_exp, option::tile_counts, option::executor>;

/// Whether the split engine can run a call. It makes no two passes over the keys, and its arithmetic depends on the
/// number of queries, which chunk_invariant forbids.
template <class... Options>
inline constexpr bool can_split =
    !detail::has_kind<option::invariance, Options...> && !(WeightFunction<Options> || ...);

/// The options of a call that the split engine always runs.
struct decode_options {
  template <class... Options>
  static constexpr void check() {
    softmax_options::check<Options...>();
    static_assert(!detail::has_kind<option::invariance, Options...>,
                  "attend: decode_attention splits keys: softmax_attention and cached_attention take chunk_invariant");
    static_assert(can_split<Options...>, "attend: decode_attention takes no weight_function");
  }
};

/// Refuses every mask but causal{}.
template <class... Options>
constexpr void check_only_causal() {
  static_assert(
      ((!detail::has_kind<option::mask, Options> || std::same_as<std::remove_cvref_t<Options>, causal>) && ...),
      "attend: this call has no mask but causal{}");
}

/// The executor of calls that are given none.
inline serial calling_thread;

/// The executor among the options, checked.
template <class... Options>
auto& executor_of(Options&... options) {
  auto& executor = detail::find_option<option::executor>(calling_thread, options...);
  detail::check_executor(executor);
  return executor;
}

}  // namespace attend::inline ATTEND_TARGET::call
