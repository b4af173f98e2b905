// SPDX-License-Identifier: BSD-3-Clause
// A softmax attention call in two steps: a plan of its checked arguments, and a run of the plan by an engine.
//
//   auto plan = call::plan(problem, options...);                   checks everything, writes nothing
//   call::run(plan, engine::problem_rows(plan.problem));           runs the engines, checks nothing
//
// A plan is a value: the problem, the policies and the executor. Temporaries are moved into the plan; it refers to
// lvalues, which must outlive it. Options that are data (scale, sequences, gains, outputs) are read into the problem,
// as views of the caller's memory. To check a call without running it, make its plan.
#pragma once

#include "../engine/softmax/split.hpp"
#include "../engine/softmax/tiled.hpp"
#include "../engine/softmax/two_passes.hpp"
#include "../policy/gain.hpp"
#include "../policy/invariance.hpp"
#include "../policy/score/scale.hpp"
#include "../policy/slots.hpp"
#include "allows.hpp"
#include "problem.hpp"

namespace attend::inline ATTEND_TARGET::call {

/// What a plan keeps of the option of a kind: the value of a temporary, or a reference to an lvalue. Where no such
/// option is given, it is a value of type Usual.
template <class Kind, class Usual>
constexpr Usual keep() {
  return {};
}
template <class Kind, class Usual, class First, class... Rest>
constexpr decltype(auto) keep(First&& first, Rest&&... rest) {
  if constexpr (detail::has_kind<Kind, First>)
    return First(std::forward<First>(first));
  else
    return keep<Kind, Usual>(std::forward<Rest>(rest)...);
}
template <class Kind, class Usual, class... Options>
using kept = decltype(keep<Kind, Usual>(std::declval<Options>()...));

/// The same of all options of a kind, as a tuple.
template <class Kind, class... Options>
constexpr auto keep_all(Options&&... options) {
  return std::tuple_cat([]<class Option>(Option&& option) {
    if constexpr (detail::has_kind<Kind, Option>)
      return std::tuple<Option>(std::forward<Option>(option));
    else
      return std::tuple<>();
  }(std::forward<Options>(options))...);
}

/// The policies of a call, as a plan keeps them.
template <class M, class Scores, class N, class Position, class PairGain, bool HasSlots, bool CanSplit>
struct kept_policies {
  static constexpr bool can_split = CanSplit;

  M mask;
  Scores scores;  // a tuple of values and references
  N normalizer;
  Position position;
  PairGain pair_gain;

  /// References to the policies, for an engine. They are valid until the plan is moved.
  auto policies() const {
    return std::apply(
        [&]<class... S>(S const&... score) {
          return engine::policies<std::remove_cvref_t<M>, std::tuple<S const&...>, std::remove_cvref_t<N>,
                                  std::remove_cvref_t<Position>, std::remove_cvref_t<PairGain>, in_order, HasSlots>{
              mask, {score...}, normalizer, position, pair_gain};
        },
        scores);
  }

  /// Throws argument_error where a policy does not fit the extents and positions of a call.
  template <Element T>
  void check(engine::problem<T> const& p) const {
    mask.check(p.shape);
    normalizer.check(p.shape);
    std::apply([&](auto const&... score) { (score.check(p.shape), ...); }, scores);
    if constexpr (!std::same_as<std::remove_cvref_t<Position>, detail::absent>)
      position.check(p.shape, p.sequences.query_positions());
    if constexpr (!std::same_as<std::remove_cvref_t<PairGain>, detail::absent>) pair_gain.check(p.shape);
  }
};

/// The plan of a call.
template <class Problem, class Policies, class E>
struct planned {
  Problem problem;  // engine::problem<T>, or a reference to one
  Policies code;
  E executor;

  auto policies() const { return code.policies(); }
};

/// Checks a tensor with an element for each pair, which the call writes.
template <Element T, class A>
tensor_view<A, 4> checked_pairs(engine::problem<T> const& p, char const* argument, tensor_view<A, 4> const& pairs) {
  static_assert(std::same_as<A, accumulation_t<T>>,
                "attend: weights and logits hold the accumulation type: float, or double for tensors of double");
  detail::check_output_view(argument, pairs);
  detail::check_extent(argument, "batch", pairs.extent(0), p.shape.batches, "query");
  detail::check_extent(argument, "heads", pairs.extent(1), p.shape.query_heads, "query");
  detail::check_extent(argument, "queries", pairs.extent(2), p.shape.queries, "query");
  detail::check_extent(argument, "keys", pairs.extent(3), p.shape.keys, "key");
  if (p.sequences.packed()) fail(argument, "expected sequences that are not packed, got ragged");
  return pairs;
}

template <Element T, class Rows>
void check_log_sum_exp(engine::problem<T> const& p, Rows const& rows) {
  static_assert(std::same_as<Rows, tensor_view<accumulation_t<T>, 3>>,
                "attend: log_sum_exp holds the accumulation type: float, or double for tensors of double");
  detail::check_output_view("log_sum_exp", rows);
  detail::check_extent("log_sum_exp", "batch", rows.extent(0), p.shape.batches, "query");
  detail::check_extent("log_sum_exp", "heads", rows.extent(1), p.shape.query_heads, "query");
  detail::check_extent("log_sum_exp", "tokens", rows.extent(2), p.shape.queries, "query");
}

/// Checks how many heads a tensor has whose heads are sums over query heads.
inline void check_summed_heads(char const* argument, index_t heads, problem_shape const& shape) {
  if (heads != shape.query_heads && heads != shape.key_heads && heads != 1)
    fail(argument, "expected ", shape.query_heads, ", ", shape.key_heads,
         " or 1 heads (as query, as key, or for all), ", "got ", heads);
}

template <Element T, class Mass>
void check_key_mass(engine::problem<T> const& p, Mass const& mass) {
  static_assert(std::same_as<decltype(mass.rows), tensor_view<accumulation_t<T>, 3>>,
                "attend: key_mass holds the accumulation type: float, or double for tensors of double");
  detail::check_output_view("key_mass", mass.rows);
  detail::check_extent("key_mass", "batch", mass.rows.extent(0), p.shape.batches, "query");
  check_summed_heads("key_mass", mass.rows.extent(1), p.shape);
  detail::check_extent("key_mass", "keys", mass.rows.extent(2), p.shape.keys, "key");
  mass.queries.check("key_mass", p.shape.queries);
}

/// Checks the options whose data a call reads besides its tensors, and puts them into the problem.
template <Element T, class... Options>
void read_inputs(engine::problem<T>& p, Options const&... options) {
  using A = accumulation_t<T>;
  detail::absent const none;
  if constexpr (detail::has_kind<option::slots, Options...>) {
    auto& slots = detail::find_option<option::slots>(none, options...);
    static_assert(std::same_as<typename decltype(slots.key)::value_type, T>,
                  "attend: extra key-value slots must have the element type of key and value");
    slots.check(p.shape);
    p.slot_key = slots.key;
    if constexpr (requires { slots.value; }) {
      p.slot_value = slots.value;
      p.slots_have_values = p.has_values;
    }
  }
  if constexpr (detail::has_kind<option::value_gain, Options...>) {
    auto& gain = detail::find_option<option::value_gain>(none, options...);
    static_assert(std::same_as<typename decltype(gain.gains)::value_type, A>,
                  "attend: value_gain holds the accumulation type: float, or double for tensors of double");
    gain.check(p.shape);
    p.value_gain = gain.gains;
  }
  if constexpr (detail::has_kind<option::head_gates, Options...>) {
    auto& gates = detail::find_option<option::head_gates>(none, options...);
    static_assert(std::same_as<typename decltype(gates.gates)::value_type, A>,
                  "attend: head_gates holds the accumulation type: float, or double for tensors of double");
    gates.check(p.shape);
    p.head_gates = gates.gates;
  }
}

/// Checks a tensor with a row for each query, which the call writes.
template <Element T, class U>
void check_rows_of_queries(engine::problem<T> const& p, char const* argument, tensor_view<U, 4> const& rows) {
  detail::check_output_view(argument, rows);
  detail::check_extent(argument, "batch", rows.extent(0), p.shape.batches, "query");
  detail::check_extent(argument, "heads", rows.extent(1), p.shape.query_heads, "query");
  detail::check_extent(argument, "queries", rows.extent(2), p.shape.queries, "query");
}

/// Checks ranges of keys: as many as a tensor has numbers, for all sequences or for each.
inline void check_ranges(std::span<key_range const> ranges, index_t of_row, index_t sequences) {
  auto const given = static_cast<index_t>(ranges.size());
  if (given != of_row && given != of_row * sequences)
    fail("range_mass (ranges)", "expected ", of_row, " ranges (as the tensor), or as many for each of ", sequences,
         " sequences, got ", given);
  for (index_t i = 0; i < given; ++i) {
    key_range const& range = ranges[static_cast<std::size_t>(i)];
    index_t const before = of_row > 0 && i % of_row > 0 ? ranges[static_cast<std::size_t>(i - 1)].last : 0;
    if (range.first < before || range.last < range.first)
      fail("range_mass (ranges)", "expected ascending ranges that do not overlap, got ",
           detail::list_text(std::array{range.first, range.last}), " behind ", before, " at ", i);
  }
}

/// Checks the statistics of rows that a call writes, and puts them into the problem.
template <Element T, class... Options>
void read_statistics(engine::problem<T>& p, Options const&... options) {
  using A = accumulation_t<T>;
  detail::absent const none;
  auto const check_type = []<class U>(tensor_view<U, 4> const&) {
    static_assert(std::same_as<U, A>,
                  "attend: statistics hold the accumulation type: float, or double for tensors of double");
  };
  if constexpr (detail::has_kind<option::entropy, Options...>) {
    auto const& rows = detail::find_option<option::entropy>(none, options...).rows;
    check_type(raise<4>(rows));
    detail::check_output_view("entropy", rows);
    detail::check_extent("entropy", "batch", rows.extent(0), p.shape.batches, "query");
    detail::check_extent("entropy", "heads", rows.extent(1), p.shape.query_heads, "query");
    detail::check_extent("entropy", "queries", rows.extent(2), p.shape.queries, "query");
    p.statistics.entropy = rows;
  }
  if constexpr (detail::has_kind<option::range_mass, Options...>) {
    auto const& option = detail::find_option<option::range_mass>(none, options...);
    check_type(option.rows);
    check_rows_of_queries(p, "range_mass", option.rows);
    check_ranges(option.ranges, option.rows.extent(3), p.sequences.size());
    p.statistics.range_mass = option.rows;
    p.statistics.ranges = option.ranges;
  }
  if constexpr (detail::has_kind<option::heaviest_keys, Options...>) {
    auto const& option = detail::find_option<option::heaviest_keys>(none, options...);
    check_type(option.weights);
    check_rows_of_queries(p, "heaviest_keys (keys)", option.keys);
    check_rows_of_queries(p, "heaviest_keys (weights)", option.weights);
    detail::check_extent("heaviest_keys (weights)", "numbers of a row", option.weights.extent(3), option.keys.extent(3),
                         "keys");
    p.statistics.heaviest_keys = option.keys;
    p.statistics.heaviest_weights = option.weights;
  }
  if constexpr (detail::has_kind<option::block_maxima, Options...>) {
    auto const& option = detail::find_option<option::block_maxima>(none, options...);
    check_type(option.rows);
    if (option.block.queries < 1 || option.block.keys < 1)
      fail("block_maxima", "expected blocks of at least 1 query and 1 key, got ", option.block.queries, " and ",
           option.block.keys);
    // A block of more tokens than there are is one of all.
    index_t const queries = std::min(option.block.queries, std::max<index_t>(p.shape.queries, 1));
    index_t const keys = std::min(option.block.keys, std::max<index_t>(p.shape.keys, 1));
    detail::check_output_view("block_maxima", option.rows);
    detail::check_extent("block_maxima", "batch", option.rows.extent(0), p.shape.batches, "query");
    detail::check_extent("block_maxima", "heads", option.rows.extent(1), p.shape.query_heads, "query");
    detail::check_extent("block_maxima", "blocks of queries", option.rows.extent(2),
                         divide_up(p.shape.queries, queries), "query");
    detail::check_extent("block_maxima", "blocks of keys", option.rows.extent(3), divide_up(p.shape.keys, keys), "key");
    if (p.sequences.packed()) fail("block_maxima", "expected sequences that are not packed, got ragged");
    p.statistics.block_maxima = option.rows;
    p.statistics.block_queries = queries;
    p.statistics.block_keys = keys;
  }
}

/// Checks the options whose tensors a call writes besides its output, and puts them into the problem.
template <Element T, class... Options>
void read_outputs(engine::problem<T>& p, Options const&... options) {
  detail::absent const none;
  if constexpr (detail::has_kind<option::log_sum_exp, Options...>) {
    auto const& rows = detail::find_option<option::log_sum_exp>(none, options...).rows;
    check_log_sum_exp(p, rows);
    p.log_sum_exp = rows;
  }
  if constexpr (detail::has_kind<option::key_mass, Options...>) {
    auto const& mass = detail::find_option<option::key_mass>(none, options...);
    check_key_mass(p, mass);
    p.key_mass = mass.rows;
  }
  if constexpr (detail::has_kind<option::weights, Options...>)
    p.weights = checked_pairs(p, "weights", detail::find_option<option::weights>(none, options...).rows);
  if constexpr (detail::has_kind<option::logits, Options...>)
    p.logits = checked_pairs(p, "logits", detail::find_option<option::logits>(none, options...).rows);
  read_statistics(p, options...);
  if constexpr (detail::has_kind<option::tile_counts, Options...>)
    p.counts = detail::find_option<option::tile_counts>(none, options...).counts;
}

/// Whether an option that is a mask, a score or a normalizer has all members, for logits of type A.
template <class Option, class A>
consteval bool has_members() {
  using type = std::remove_cvref_t<Option>;
  if constexpr (detail::has_kind<option::mask, type>)
    return detail::has_mask_members<type, A>();
  else if constexpr (detail::has_kind<option::score, type>)
    return detail::has_score_members<type, A>();
  else if constexpr (detail::has_kind<option::normalizer, type>)
    return detail::has_normalizer_members<type, A>();
  else
    return true;
}

/// The plan of a call on `problem` with these options, whose kinds must be in Allowed. Throws argument_error where an
/// option does not fit; nothing is written.
template <class Allowed = softmax_options, class Problem, class... Options>
auto plan(Problem&& problem, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = typename std::remove_cvref_t<Problem>::element_type;
  Allowed::template check<Options...>();
  static_assert((has_members<Options, accumulation_t<T>>() && ...));
  static_assert(
      !(detail::places_rows<Options> || ...) || requires { Allowed::knows_rows; },
      "attend: rotary_places and rotary_moves are for the rows of a cache: tensors take rotary.at(queries, "
      "keys)");
  using scores_type = decltype(keep_all<option::score>(std::declval<Options>()...));
  using policies_type =
      kept_policies<kept<option::mask, full, Options...>, scores_type, kept<option::normalizer, softmax, Options...>,
                    kept<option::position, detail::absent, Options...>,
                    kept<option::pair_gain, detail::absent, Options...>, detail::has_kind<option::slots, Options...>,
                    can_split<Options...>>;
  planned<Problem, policies_type, kept<option::executor, serial, Options...>> made{
      std::forward<Problem>(problem),
      {keep<option::mask, full>(std::forward<Options>(options)...),
       keep_all<option::score>(std::forward<Options>(options)...),
       keep<option::normalizer, softmax>(std::forward<Options>(options)...),
       keep<option::position, detail::absent>(std::forward<Options>(options)...),
       keep<option::pair_gain, detail::absent>(std::forward<Options>(options)...)},
      keep<option::executor, serial>(std::forward<Options>(options)...)};
  auto& p = made.problem;
  p.scale = detail::scale_or<accumulation_t<T>>(detail::usual_scale(p.shape.key_dimension), options...);
  detail::absent none;
  p.sequences = detail::sequence_list(p.shape, detail::find_option<option::sequences>(none, options...));
  p.shape.sequences = p.sequences.size();
  p.chunk_invariant = detail::has_kind<option::invariance, Options...>;
  p.full_precision = detail::has_kind<option::precision, Options...>;
  made.code.check(p);
  detail::check_executor(made.executor);
  read_inputs(p, options...);
  read_outputs(p, options...);
  check_memory(p);
  return made;
}

/// The options of a call whose keys are stored rows, which may have places of their own.
template <class Allowed>
struct on_stored_rows : Allowed {
  static constexpr bool knows_rows = true;
};

/// The plan of a call on a cache, with the sequences that the policy `sequences` defines.
template <class Allowed = softmax_options, class Problem, KeyValueSource Source, class Sequences, class... Options>
auto plan_on_cache(Problem&& problem, Source const& cache, Sequences const& sequences, Options&&... options) {
  static_assert(!detail::has_kind<option::sequences, Options...>,
                "attend: the cache knows the lengths of its sequences");
  auto made =
      plan<on_stored_rows<Allowed>>(std::forward<Problem>(problem), sequences, std::forward<Options>(options)...);
  if constexpr ((detail::places_rows<Options> || ...))
    made.code.position.check_rows(cache, made.problem.shape.queries, [&](index_t sequence) {
      return made.problem.sequences[sequence].keys - cache.size(sequence);
    });
  check_apart_from_cache(cache, "log_sum_exp", raise<4>(made.problem.log_sum_exp));
  check_apart_from_cache(cache, "key_mass", raise<4>(made.problem.key_mass));
  check_apart_from_cache(cache, "weights", made.problem.weights);
  check_apart_from_cache(cache, "logits", made.problem.logits);
  auto const& statistics = made.problem.statistics;
  check_apart_from_cache(cache, "entropy", raise<4>(statistics.entropy));
  check_apart_from_cache(cache, "range_mass", statistics.range_mass);
  check_apart_from_cache(cache, "heaviest_keys (keys)", statistics.heaviest_keys);
  check_apart_from_cache(cache, "heaviest_keys (weights)", statistics.heaviest_weights);
  check_apart_from_cache(cache, "block_maxima", statistics.block_maxima);
  return made;
}

/// Runs a plan: each sequence with the engine that is faster for its number of queries.
template <class Plan, KeyValueSource Source>
void run(Plan&& plan, Source const& source) {
  arithmetic_mode const arithmetic;
  auto const& p = plan.problem;
  auto const policies = plan.policies();
  using policies_type = std::remove_const_t<decltype(policies)>;
  // A concept, since gcc 13 and 14 hold every `requires` within a requires-expression for false that is about the type
  // of a local variable.
  if constexpr (WeightFunction<typename policies_type::pair_gain_type>) {
    engine::run_in_two_passes(p, source, policies, plan.executor);
  } else if constexpr (std::remove_cvref_t<decltype(plan.code)>::can_split &&
                       !detail::HasRuns<typename policies_type::mask_type>) {
    index_t const sequences = p.sequences.size();
    scratch memory;
    bool* const splits = memory.allocate<bool>(sequences);
    index_t split = 0;
    for (index_t s = 0; s < sequences; ++s)
      split += splits[s] = engine::suits_split<decltype(policies.access())>(p, source, p.sequences[s]);
    if (split == sequences) return engine::run_split(p, source, policies, plan.executor);
    if (split == 0) return engine::run_tiled(p, source, policies, plan.executor);
    auto some = p;
    some.chosen = {splits, true};
    engine::run_split(some, source, policies, plan.executor);
    some.chosen.wanted = false;
    engine::run_tiled(some, source, policies, plan.executor);
  } else {
    engine::run_tiled(p, source, policies, plan.executor);
  }
}

}  // namespace attend::inline ATTEND_TARGET::call

#if defined(ATTEND_COMPILED)
#include "compiled/softmax.hpp"
#endif
