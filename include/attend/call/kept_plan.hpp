// SPDX-License-Identifier: BSD-3-Clause
// A plan that the caller keeps: where a loop makes the same call again and again, its arguments are checked only once.
//
//   auto step = attend::plan(query, key, value, output, options...);          softmax_attention of tensors
//   auto step = attend::plan(query, cache, output, options...);               softmax_attention to a cache
//   auto step = attend::plan(cache, query, key, value, output, options...);   cached_attention
//
//   step.run();                                 the call, on the tensors of the plan and their present contents
//   step.run(query, key, value, output);        the call on other tensors of the same shapes, which the plan keeps
//
// The results have the bits of the call's. After its first run, run() allocates nothing, and it reads no option again;
// a plan on a cache reads the present lengths of its sequences. A plan holds views, which what they refer to must
// outlive: tensors, also those of options, lengths and offsets, the cache, and options and executors that are given as
// variables. A policy or an executor that is given as a temporary is moved into the plan. Numbers in memory may change
// between runs, but not lengths, offsets and other lists of integers: they were checked when the plan was made.
//
// A plan may be copied and moved. One thread at a time may run it.
#pragma once

#include "append_plan.hpp"

namespace attend::inline ATTEND_TARGET {

namespace call {

/// A plan on a cache takes no options whose tensors grow with the sequences: weights, logits, block_maxima and gains of
/// values.
using cache_plan_options =
    allows<option::mask, option::score, option::scale, option::normalizer, option::position, option::slots,
           option::pair_gain, option::head_gates, option::log_sum_exp, option::range_mass, option::heaviest_keys,
           option::entropy, option::tile_counts, option::invariance, option::precision, option::executor>;

/// Replaces one of a plan's tensors by another one, whose shape it checks.
template <class T, class Tensor>
void replace(char const* argument, tensor_view<T, 4>& view, Tensor& tensor) {
  static_assert(std::same_as<std::remove_const_t<element_of_t<Tensor>>, std::remove_const_t<T>>,
                "attend: a plan's tensors keep their element type");
  tensor_view<T, 4> const other = raise<4>(view_of(tensor));
  if constexpr (std::is_const_v<T>)
    detail::check_view(argument, other);
  else
    detail::check_output_view(argument, other);
  if (other.extents() != view.extents())
    fail(argument, "expected shape ", detail::shape_text<4>(view.extents()), " (the plan's), got ",
         detail::shape_text<4>(other.extents()));
  view = other;
}

/// A plan's problem with its tensors replaced by others, which are checked.
template <class Problem, class Query, class Key, class Value, class Output>
Problem with_tensors(Problem p, Query const& query, Key const& key, Value const& value, Output& output) {
  replace("query", p.query, query);
  replace("key", p.key, key);
  replace("value", p.value, value);
  replace("output", p.output, output);
  check_memory(p);
  return p;
}

/// Makes `p`, whose tensors are checked, the problem of a plan on a cache, with the lengths that the sequences have
/// after `coming` more tokens each. Throws argument_error where a policy does not fit them; the plan is then unchanged.
template <class Plan, class Problem, KeyValueSource Source>
void follow_cache(Plan& plan, Problem p, Source const& cache, index_t coming, scratch& memory) {
  detail::check_readable(cache);
  p.shape.keys = longest_in(cache, coming);
  p.sequences = detail::sequence_list(p.shape, padded_keys(lengths_in(cache, coming, memory)));
  plan.code.check(p);
  plan.problem = p;
}

/// A planned softmax_attention of tensors; plan() makes it.
template <class Planned>
class attention_plan {
 public:
  explicit attention_plan(Planned plan) : plan_(std::move(plan)) {}

  void run() { call::run(plan_, engine::problem_rows(plan_.problem)); }

  /// Runs on other tensors of the same shapes. Throws argument_error, before anything is written, where shapes differ,
  /// or where tensors that are read and written share memory; the plan is then unchanged.
  template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output>
  void run(Query const& query, Key const& key, Value const& value, Output&& output) {
    plan_.problem = with_tensors(plan_.problem, query, key, value, output);
    run();
  }

 private:
  Planned plan_;
};

/// A planned softmax_attention to a cache; plan() makes it.
template <class Cache, class Planned>
class cache_plan {
 public:
  cache_plan(Cache const& cache, Planned plan) : cache_(&cache), plan_(std::move(plan)) {}

  /// Runs on the tokens that the cache has now. Throws argument_error, before anything is written, where a policy does
  /// not fit them.
  void run() { run_on(plan_.problem); }

  /// Runs on other tensors of the same shapes, which the plan then keeps. Throws argument_error, before anything is
  /// written, where shapes differ, where tensors that are read and written share memory, or where run() would; the plan
  /// is then unchanged.
  template <TensorArgument Query, TensorArgument Output>
  void run(Query const& query, Output&& output) {
    auto next = plan_.problem;
    replace("query", next.query, query);
    replace("output", next.output, output);
    check_memory(next);
    check_apart_from_cache(*cache_, "output", next.output);
    run_on(next);
  }

 private:
  template <class Problem>
  void run_on(Problem const& problem) {
    arithmetic_mode const arithmetic;
    scratch memory;
    follow_cache(plan_, problem, *cache_, 0, memory);
    call::run(plan_, *cache_);
  }

  Cache const* cache_;
  Planned plan_;
};

/// A planned cached_attention: each run appends the tokens and attends to them. plan() makes it.
template <class Cache, class Rotary, class Planned>
class append_plan {
 public:
  append_plan(Cache& cache, Rotary const& settings, Planned plan)
      : cache_(&cache), settings_(&settings), plan_(std::move(plan)) {}

  /// Appends the plan's tokens and attends to them. Throws argument_error where cached_attention would; nothing is
  /// written then, and the cache is unchanged.
  void run() { run_on(plan_.problem); }

  /// Runs on other tensors of the same shapes, which the plan then keeps. Throws argument_error, before anything is
  /// written, where shapes differ, where tensors that are read and written share memory, or where run() would; the plan
  /// is then unchanged.
  template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output>
  void run(Query const& query, Key const& key, Value const& value, Output&& output) {
    auto const next = with_tensors(plan_.problem, query, key, value, output);
    check_apart_from_cache(*cache_, "output", next.output);
    run_on(next);
  }

 private:
  template <class Problem>
  void run_on(Problem const& problem) {
    arithmetic_mode const arithmetic;
    scratch memory;
    index_t const tokens = problem.shape.queries;
    cache_->check_append(problem.key, problem.value, tokens_per_append(*cache_, tokens), *settings_);
    follow_cache(plan_, problem, *cache_, tokens, memory);
    attend_to_new_tokens(*cache_, *settings_, plan_);
  }

  Cache* cache_;
  Rotary const* settings_;
  Planned plan_;
};

}  // namespace call

/// Checks softmax_attention(query, key, value, output, options...) once, so that it can run many times. Throws
/// argument_error where that call would.
///
///     auto planned = plan(q, k, v, o, causal{}, threads{8});
///     planned.run();
///     planned.run(q, k2, v2, o2);  // other tensors of the same shapes
template <extend::TensorArgument Query, extend::TensorArgument Key, extend::TensorArgument Value,
          extend::TensorArgument Output, class... Options>
[[nodiscard]] auto plan(Query const& query, Key const& key, Value const& value, Output&& output, Options&&... options) {
  return call::attention_plan(
      call::plan(call::problem_of(query, key, value, output), std::forward<Options>(options)...));
}

/// Checks softmax_attention(query, cache, output, options...) once; each run attends to the tokens that the cache then
/// has. It takes the options whose size does not grow with the cache: all but weights, logits, block_maxima and
/// value_gain. The tensor of a mask or a score over keys must have as many keys as the longest sequence at each run.
/// The cache must be a variable, to which the plan refers.
///
///     auto planned = plan(q, cache, o, causal{});
///     planned.run();
template <extend::TensorArgument Query, class Cache, extend::TensorArgument Output, class... Options>
  requires(detail::StoreLike<std::remove_cvref_t<Cache>> && !extend::TensorArgument<Cache>)
[[nodiscard]] auto plan(Query const& query, Cache&& cache, Output&& output, Options&&... options) {
  static_assert(detail::has_store_members<std::remove_cvref_t<Cache>>());
  using T = call::element_of_call<Output, Query>;
  static_assert(std::is_lvalue_reference_v<Cache>, "attend: a plan refers to a cache: keep it in a variable");
  call::cache_plan_options::check<Options...>();
  extend::scratch memory;
  return call::cache_plan(std::as_const(cache),
                          call::plan_on_cache(call::cache_problem<T>(extend::raise<4>(extend::view_of(query)), cache,
                                                                     extend::raise<4>(extend::view_of(output))),
                                              cache, options::padded_keys(call::lengths_in(cache, 0, memory)),
                                              std::forward<Options>(options)...));
}

/// Checks cached_attention(cache, query, key, value, output, options...) once; each run() appends the tokens and
/// attends to them. It takes the options of the plan on a cache; a rotary policy must be a variable, to which the plan
/// refers.
///
///     auto step = plan(cache, q, k, v, o, position);
///     step.run();  // appends k and v as they are now
template <class Cache, extend::TensorArgument Query, extend::TensorArgument Key, extend::TensorArgument Value,
          extend::TensorArgument Output, class... Options>
  requires(detail::StoreLike<std::remove_const_t<Cache>> && !extend::TensorArgument<Cache>)
[[nodiscard]] auto plan(Cache& cache, Query const& query, Key const& key, Value const& value, Output&& output,
                        Options&&... options) {
  static_assert(detail::has_store_members<std::remove_const_t<Cache>>());
  static_assert(call::is_appendable<Cache>());
  using T = call::element_of_call<Output, Query, Key, Value>;
  static_assert(((std::is_lvalue_reference_v<Options> || !detail::rotates_keys<std::remove_cvref_t<Options>>) && ...),
                "attend: a plan refers to a rotary policy: keep it in a variable");
  static constexpr detail::absent none{};
  auto const& settings = call::key_rotation(none, options...);
  return call::append_plan(
      cache, settings,
      call::plan_cached<call::cache_plan_options>(
          cache, tensor_view<T const, 4>(extend::raise<4>(extend::view_of(query))),
          tensor_view<T const, 4>(extend::raise<4>(extend::view_of(key))),
          tensor_view<T const, 4>(extend::raise<4>(extend::view_of(value))),
          tensor_view<T, 4>(extend::raise<4>(extend::view_of(output))), std::forward<Options>(options)...));
}

}  // namespace attend::inline ATTEND_TARGET
