// SPDX-License-Identifier: BSD-3-Clause
// Multi-head latent attention: keys and values of all heads are made from one latent per token, and only that is kept.
//
//   k_j^h = [W_K^h c_j | r_j]      v_j^h = W_V^h c_j        c_j: latent, r_j: rotary key, both from the cache
//   q_i^h = [n_i^h | p_i^h]        s_ij^h = scale * q_i^h . k_j^h, scale 1/sqrt(dimension of q) unless given
//   o_i^h = sum_j softmax_j(s_ij^h) v_j^h
//
//   query  [sequence, head, token, plain + rotary dimension]
//   W_K    [head, plain dimension, latent dimension]
//   W_V    [head, value dimension, latent dimension]
//   output [sequence, head, token, value dimension]
//
// The same numbers in two forms, from the same cache:
//
//   absorbed   s_ij^h = scale * (W_K^h' n_i^h . c_j + p_i^h . r_j),  o_i^h = W_V^h sum_j p_ij c_j: all heads attend to
//              the latents themselves, as queries that share one head. For each (head, query, key) 2 * (2 latent +
//              rotary) operations, and for each (head, query) 2 * latent * (plain + value). A few queries: decoding.
//   expanded   keys and values of one head at a time are made from the latents: 2 * (plain + rotary + value) operations
//              for each (head, query, key), and for each (head, key) 2 * latent * (plain + value). Many queries:
//              prefill.
//
// Which one costs less is known from the shape; absorbed{} or expanded{} as an option asks for one of them. Working
// memory: absorbed, the queries and outputs of some heads (about 2000 rows of 2 * latent + rotary numbers); expanded,
// keys and values of one head for each thread, and its sequence's latents where they are quantized.
//
// Where queries, output, cache and projections are bfloat16, a matrix unit computes the attention of both forms if the
// machine has one (policy/precision.hpp). Absorbed, W_K^h' n_i^h and sum_j p_ij c_j then become bfloat16 as well, which
// changes a logit by at most 2^-8 scale sum_c |W_K^h' n_i^h|_c |c_j|_c; expanded, the unit also makes keys and values,
// which become bfloat16: a logit changes by at most 2^-8 scale sum_c |q_c| |k_c|, and an output by 2^-8 sum_j p_j
// |v_j|. So do rotary parts of queries that the call rotates.
//
// Aixin Liu et al.: DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model, 2024.
#pragma once

#include "../../cache/latent.hpp"
#include "../../call/plan.hpp"
#include "../../core/head_loop.hpp"
#include "../../engine/softmax/pair_projection.hpp"
#include "../../engine/softmax/projection.hpp"
#include "../../engine/softmax/split_pairs.hpp"
#include "../../policy/score/scale.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// The option that asks for the absorbed form of latent attention.
struct absorbed {
  using option_kind = option::latent_form;
};
/// The option that asks for the expanded form of latent attention.
struct expanded {
  using option_kind = option::latent_form;
};

}  // namespace options

namespace caches {

/// Holds views of what makes keys and values from latents: key [head, plain dimension, latent dimension], value [head,
/// value dimension, latent dimension]. Strides are free: the two may be slices of one tensor [head, plain + value
/// dimension, latent dimension].
template <Element T>
struct latent_projections {
  tensor_view<T const, 3> key, value;

  template <TensorArgument Key, TensorArgument Value>
  latent_projections(Key const& keys, Value const& values)
      : key(raise<3>(view_of(keys))), value(raise<3>(view_of(values))) {}
};
template <class Key, class Value>
latent_projections(Key const&, Value const&) -> latent_projections<element_of_t<Key const>>;

}  // namespace caches

namespace detail {

/// The arguments of a call, checked.
template <Element T, class Cache, Element W>
struct latent_problem {
  using element_type = T;
  using A = accumulation_t<T>;

  tensor_view<T const, 4> query;
  Cache const& cache;
  latent_projections<W> const& up;
  tensor_view<T, 4> output;
  A scale = 1;
  tile_counts* counts = nullptr;
  bool full_precision = false;
  tensor_view<A, 3> log_sum_exp{};  // [sequence, head, token], where it is asked for

  bool empty() const { return sequences() * heads() * tokens() == 0; }
  index_t sequences() const { return query.extent(0); }
  index_t heads() const { return query.extent(1); }
  index_t tokens() const { return query.extent(2); }
  index_t plain() const { return up.key.extent(1); }
  index_t rotary_dimension() const { return cache.shape().rotary_dimension; }
  index_t latent() const { return cache.shape().latent_dimension; }
  index_t values() const { return up.value.extent(1); }
  index_t max_keys() const {
    index_t most = 0;
    for (index_t s = 0; s < sequences(); ++s) most = std::max(most, cache.size(s));
    return most;
  }

  void check() const {
    check_view("query", query);
    check_extent("query", "sequences", query.extent(0), cache.sequences(), "the cache");
    check_projection("projections (key)", up.key);
    check_projection("projections (value)", up.value);
    check_extent("query", "head dimension", query.extent(3), plain() + rotary_dimension(), "keys: plain and rotary");
    if (tokens() >= token_limit) fail("query", "expected fewer than ", token_limit, " tokens, got ", tokens());
    check_output_view("output", output);
    check_extent("output", "sequences", output.extent(0), sequences(), "query");
    check_extent("output", "heads", output.extent(1), heads(), "query");
    check_extent("output", "tokens", output.extent(2), tokens(), "query");
    check_extent("output", "head dimension", output.extent(3), values(), "projections (value)");
    check_apart("output", output, "query", query);
    check_apart("output", output, "projections (key)", raise<4>(up.key));
    check_apart("output", output, "projections (value)", raise<4>(up.value));
  }

  /// Checks and takes the tensor of log-sum-exps.
  template <class Rows>
  void take_log_sum_exp(Rows const& rows) {
    static_assert(std::same_as<Rows, tensor_view<A, 3>>,
                  "attend: log_sum_exp holds the accumulation type: float, or double for tensors of double");
    check_output_view("log_sum_exp", rows);
    check_extent("log_sum_exp", "sequences", rows.extent(0), sequences(), "query");
    check_extent("log_sum_exp", "heads", rows.extent(1), heads(), "query");
    check_extent("log_sum_exp", "tokens", rows.extent(2), tokens(), "query");
    auto const raised = raise<4>(rows);
    check_apart("log_sum_exp", raised, "query", query);
    check_apart("log_sum_exp", raised, "output", output);
    check_apart("log_sum_exp", raised, "projections (key)", raise<4>(up.key));
    check_apart("log_sum_exp", raised, "projections (value)", raise<4>(up.value));
    log_sum_exp = rows;
  }

  /// Whether a matrix unit may compute the attention of the absorbed form, and whether it does for so many rows.
  static constexpr bool may_absorb_in_pairs = engine::may_split_in_pairs<T, Cache> && std::same_as<W, bfloat16>;
  bool absorbs_in_pairs(index_t rows) const {
    return engine::splits_in_pairs<T, Cache>(cache.key_dimension(), cache.value_dimension(), full_precision, rows);
  }

  /// The same of the expanded form, where the unit also makes keys and values.
  static constexpr bool may_expand_in_pairs = engine::may_use_pairs<T, Cache> && std::same_as<W, bfloat16>;
  bool expands_in_pairs() const { return simd::uses_pair_products() && !full_precision; }

  /// A matrix of one head, and of one slice of the latents.
  static tensor_view<W const, 2> matrix(tensor_view<W const, 3> const& all, index_t head, index_t first,
                                        index_t count) {
    return {all.data() + head * all.stride(0) + first, {all.extent(1), count}, {all.stride(1), 1}};
  }

  /// The rotary part of a query to `to`, rotated if there is a rotary policy.
  template <class Rotary, Element E>
  void place_rotary(Rotary const& settings, index_t sequence, index_t head, index_t token, A* angles, E* to) const {
    T const* const from = &query(sequence, head, token, 0) + plain();
    if constexpr (std::same_as<Rotary, absent>)
      convert_row(from, rotary_dimension(), to);
    else
      settings.template query_rotation<A>({sequence, token, cache.size(sequence) - tokens() + token}, angles)
          .apply(from, to, rotary_dimension());
  }

 private:
  void check_projection(char const* argument, tensor_view<W const, 3> const& matrix) const {
    check_view(argument, matrix);
    check_extent(argument, "heads", matrix.extent(0), heads(), "query");
    check_extent(argument, "latent dimension", matrix.extent(2), latent(), "the cache");
  }
};

template <class Rotary, class A>
A* allocate_angles(Rotary const& settings, scratch& memory) {
  if constexpr (std::same_as<Rotary, absent>)
    return nullptr;
  else
    return memory.allocate<A>(settings.buffer_size());
}

/// The plan of a call: its problem, checked; who sees whom, how queries are rotated, and who runs it.
template <class Problem, Mask M, class Rotary, class E>
struct latent_plan {
  Problem problem;
  M const& mask;
  Rotary const& rotation;
  E& executor;
  bool absorbs;
};

/// Some heads of the absorbed form, from `first` on, with a softmax for each shard of the cache: queries are taken to
/// the latents' space, attend there, and what they mix is taken to the values' space. E: the elements of queries in the
/// latents' space, and of what they mix.
template <class Plan, Element E>
class absorbed_heads {
 public:
  using A = accumulation_t<E>;

  absorbed_heads(Plan const& plan, index_t first, index_t heads, scratch& memory)
      : plan_(plan),
        first_(first),
        heads_(heads),
        shards_(plan.problem.cache.shape().shards),
        width_(plan.problem.cache.value_dimension()),
        rows_(plan.problem.sequences() * plan.problem.tokens()),
        few_(plan.problem.tokens() < simd::width<A>),
        query_(of_shards(plan.problem.cache.key_dimension(), memory)),
        mixed_(of_shards(width_, memory)) {}

  /// Queries in the latents' space: q W_k / proportion[shard], and behind it the rotary part.
  void absorb_keys(A const* proportion) const {
    auto const& p = plan_.problem;
    using Rotary = std::remove_cvref_t<decltype(plan_.rotation)>;
    for_heads(plan_.executor, 1, heads_, cost_of_head(p.plain()), [&](index_t, index_t head) {
      scratch own;
      auto* const from = own.allocate<typename decltype(p.query)::value_type const*>(rows_);
      E** const to = own.allocate<E*>(rows_);
      A* const angles = allocate_angles<Rotary, A>(plan_.rotation, own);
      for (index_t shard = 0; shard < shards_; ++shard) {
        index_t const target = shard * heads_ + head;
        for (index_t s = 0, i = 0; s < p.sequences(); ++s)
          for (index_t t = 0; t < p.tokens(); ++t, ++i) {
            from[i] = &p.query(s, first_ + head, t, 0);
            to[i] = &query_(s, target, t, 0);
            p.place_rotary(plan_.rotation, s, first_ + head, t, angles, to[i] + width_);
          }
        scratch of_matrix;
        engine::projection const down(of_matrix, p.matrix(p.up.key, first_ + head, shard * width_, width_), rows_,
                                      few_);
        down.multiply(from, to);
        if (proportion[shard] != 1)
          for (index_t i = 0; i < rows_; ++i)
            for (index_t c = 0; c < width_; ++c)
              to[i][c] = static_cast<E>(static_cast<A>(to[i][c]) / proportion[shard]);
      }
    });
  }

  void attend(scratch& memory) const {
    auto const& p = plan_.problem;
    auto of_heads = call::cache_problem<E>(tensor_view<E const, 4>(query_), p.cache, mixed_);
    auto attention = call::plan_on_cache(of_heads, p.cache, padded_keys(call::lengths_in(p.cache, 0, memory)),
                                         plan_.mask, attend::scale{p.scale}, plan_.executor);
    of_heads.counts = p.counts;
    of_heads.full_precision = p.full_precision;
    // One shard has one softmax, whose sums are those of the call.
    if (p.log_sum_exp.data()) of_heads.log_sum_exp = part(p.log_sum_exp, 1, first_, heads_);
    call::run(attention, p.cache);
  }

  /// Outputs: mixed latents times W_v.
  void absorb_values() const {
    auto const& p = plan_.problem;
    for_heads(plan_.executor, 1, heads_, cost_of_head(p.values()), [&](index_t, index_t head) {
      scratch own;
      E** const from = own.allocate<E*>(rows_);
      auto** const to = own.allocate<typename decltype(p.output)::value_type*>(rows_);
      for (index_t s = 0, i = 0; s < p.sequences(); ++s)
        for (index_t t = 0; t < p.tokens(); ++t, ++i) {
          to[i] = &p.output(s, first_ + head, t, 0);
          if (shards_ == 1) {
            from[i] = &mixed_(s, head, t, 0);
            continue;
          }
          // The slices of a row stand side by side, and one product sums over all of them.
          from[i] = own.allocate<E>(shards_ * width_);
          for (index_t shard = 0; shard < shards_; ++shard)
            std::copy_n(&mixed_(s, shard * heads_ + head, t, 0), width_, from[i] + shard * width_);
        }
      engine::projection const up(own, p.matrix(p.up.value, first_ + head, 0, p.latent()), rows_, few_);
      up.multiply_transposed(from, to);
    });
  }

 private:
  tensor_view<E, 4> of_shards(index_t dimension, scratch& memory) const {
    auto const& p = plan_.problem;
    return tensor_view<E, 4>(memory.allocate<E>(rows_ * shards_ * heads_ * dimension),
                             {p.sequences(), shards_ * heads_, p.tokens(), dimension});
  }
  loop_cost cost_of_head(index_t dimension) const {
    index_t const numbers = dimension * plan_.problem.latent();
    return loop_cost::of(2 * numbers * rows_, numbers * static_cast<index_t>(sizeof(plan_.problem.up.key(0, 0, 0))));
  }

  Plan const& plan_;
  index_t first_, heads_, shards_, width_, rows_;
  bool few_;
  tensor_view<E, 4> query_, mixed_;  // [sequence, shard * heads + head, token, dimension]
};

/// The absorbed form, with a softmax for each shard of the cache, whose logits are q . c / proportion[shard] + p . r.
/// Latent attention has one shard, of proportion 1.
template <class Plan, class A>
void attend_absorbed(Plan const& plan, A const* proportion) {
  auto const& p = plan.problem;
  constexpr index_t min_rows = 96;
  index_t const wanted_rows = machine::here().latent_rows;
  // By the tokens of one sequence: a row's bits depend on the rows beside it in its own sequence, not on other ones.
  index_t const heads_of_chunk =
      std::clamp<index_t>(std::max(wanted_rows / p.tokens(), divide_up(min_rows, p.tokens())), 1, p.heads());
  auto const attend_in = [&]<Element E>() {
    for (index_t first = 0; first < p.heads(); first += heads_of_chunk) {
      scratch memory;
      absorbed_heads<Plan, E> const chunk(plan, first, std::min(heads_of_chunk, p.heads() - first), memory);
      chunk.absorb_keys(proportion);
      chunk.attend(memory);
      chunk.absorb_values();
    }
  };
  using problem_type = std::remove_cvref_t<decltype(p)>;
  if constexpr (problem_type::may_absorb_in_pairs)
    if (p.absorbs_in_pairs(heads_of_chunk * p.tokens()))
      return attend_in.template operator()<typename problem_type::element_type>();
  attend_in.template operator()<A>();
}

/// Makes keys and values of one head from `count` latents.
template <class Problem, Element L, Element E>
void expand_latents(Problem const& p, index_t head, L const* const* latent, E* const* key, E* const* value,
                    index_t count) {
  scratch memory;
  auto const of_keys = p.matrix(p.up.key, head, 0, p.latent()), of_values = p.matrix(p.up.value, head, 0, p.latent());
  if constexpr (std::same_as<E, bfloat16>) {
    simd::pair_unit unit;
    engine::pair_projection<E>(memory, of_keys).multiply_transposed(unit, latent, key, count);
    engine::pair_projection<E>(memory, of_values).multiply_transposed(unit, latent, value, count);
  } else {
    engine::projection(memory, of_keys, count).multiply_transposed(latent, key);
    engine::projection(memory, of_values, count).multiply_transposed(latent, value);
  }
}

/// The expanded form. E: the elements of queries, keys, values and outputs of one head.
template <Element E, class Plan>
void attend_expanded_in(Plan const& plan) {
  auto const& p = plan.problem;
  auto const& settings = plan.rotation;
  using Rotary = std::remove_cvref_t<decltype(settings)>;
  using A = typename std::remove_cvref_t<decltype(p)>::A;
  index_t const tokens = p.tokens(), dimension = p.plain() + p.rotary_dimension(), values = p.values();
  index_t const max_keys = p.max_keys();
  loop_cost const of_key = loop_cost::of(2 * (tokens * (dimension + values) + p.latent() * (p.plain() + values)));
  for_heads(plan.executor, p.sequences(), p.heads(), max_keys * of_key, [&](index_t s, index_t head) {
    index_t const keys = p.cache.size(s);
    scratch memory;
    tensor_view<E, 2> const query(memory.allocate<E>(tokens * dimension), {tokens, dimension});
    // As many rows for all sequences, so that a mask is told of as many keys as in the absorbed form.
    tensor_view<E, 2> const key(memory.allocate<E>(max_keys * dimension), {max_keys, dimension});
    tensor_view<E, 2> const value(memory.allocate<E>(max_keys * values), {max_keys, values});
    tensor_view<E, 2> const output(memory.allocate<E>(tokens * values), {tokens, values});
    A* const angles = allocate_angles<Rotary, A>(settings, memory);
    for (index_t t = 0; t < tokens; ++t) {
      convert_row(&p.query(s, head, t, 0), p.plain(), &query(t, 0));
      p.place_rotary(settings, s, head, t, angles, &query(t, 0) + p.plain());
    }
    if (keys > 0) {
      using C = typename std::remove_cvref_t<decltype(p.cache)>::key_element;
      using L = std::conditional_t<is_scaled<C>, A, C>;
      L const** const latent = memory.allocate<L const*>(keys);
      E** const to_key = memory.allocate<E*>(keys);
      E** const to_value = memory.allocate<E*>(keys);
      [[maybe_unused]] A* const widened = memory.allocate<A>(is_scaled<C> ? keys * p.cache.key_dimension() : 0);
      for (index_t j = 0; j < keys;) {
        auto const run = p.cache.rows(s, 0, j);
        for (index_t row = 0; row < run.count; ++row, ++j) {
          if constexpr (is_scaled<C>) {
            A* const to = widened + j * p.cache.key_dimension();
            read_key(run, row, p.cache.key_dimension(), to);
            latent[j] = to;
          } else {
            latent[j] = run.key + row * run.key_stride;
          }
          to_key[j] = &key(j, 0);
          to_value[j] = &value(j, 0);
          convert_row(latent[j] + p.latent(), p.rotary_dimension(), to_key[j] + p.plain());
        }
      }
      expand_latents(p, head, latent, to_key, to_value, keys);
    }
    std::array const length{keys};
    auto of_head = call::problem_of(query, key, value, output);
    auto attention = call::plan(of_head, padded_keys(length), plan.mask, attend::scale{p.scale});
    of_head.counts = p.counts;
    if (p.log_sum_exp.data()) of_head.log_sum_exp = part(part(p.log_sum_exp, 0, s, 1), 1, head, 1);
    call::run(attention, engine::problem_rows(of_head));
    for (index_t t = 0; t < tokens; ++t) convert_row(&output(t, 0), values, &p.output(s, head, t, 0));
  });
}

template <class Plan>
void attend_expanded(Plan const& plan) {
  using problem_type = std::remove_cvref_t<decltype(plan.problem)>;
  if constexpr (problem_type::may_expand_in_pairs)
    if (plan.problem.expands_in_pairs()) return attend_expanded_in<bfloat16>(plan);
  attend_expanded_in<typename problem_type::A>(plan);
}

/// Reads the options and checks everything; the form is the one that is asked for, or that costs less.
template <Element T, class Query, class Cache, Element W, class Output, class... Options>
auto plan_latent(Query const& query, Cache const& cache, latent_projections<W> const& projections, Output& output,
                 Options&... options) {
  static constexpr absent none;
  static constexpr full everything;
  auto& settings = find_option<option::position>(none, options...);
  auto& mask = find_option<option::mask>(everything, options...);
  auto& executor = call::executor_of(options...);
  latent_problem<T, Cache, W> p{raise<4>(view_of(query)), cache, projections, raise<4>(view_of(output))};
  p.check();
  p.scale = scale_or<accumulation_t<T>>(usual_scale(p.query.extent(3)), options...);
  if constexpr (has_kind<option::tile_counts, Options...>)
    p.counts = find_option<option::tile_counts>(none, options...).counts;
  p.full_precision = has_kind<option::precision, Options...>;
  if constexpr (has_kind<option::log_sum_exp, Options...>)
    p.take_log_sum_exp(find_option<option::log_sum_exp>(none, options...).rows);
  if constexpr (!std::same_as<std::remove_cvref_t<decltype(settings)>, absent>) {
    index_t least = p.max_keys();
    for (index_t s = 0; s < p.sequences(); ++s) least = std::min(least, cache.size(s));
    settings.check_queries(p.sequences(), p.tokens(), {least - p.tokens(), p.max_keys() - 1}, p.rotary_dimension());
  }
  // One head of one sequence, or some of all of them: the forms and their chunks differ in that.
  problem_shape shape{1, 1, 1, 1, p.tokens(), p.max_keys(), p.query.extent(3), p.values(), 1};
  mask.check(shape);
  shape.batches = shape.sequences = p.sequences();
  shape.query_heads = p.heads();
  mask.check(shape);
  bool absorbs =
      2 * p.latent() * p.tokens() <= (p.plain() + p.values()) * p.tokens() + p.latent() * (p.plain() + p.values());
  if constexpr ((std::same_as<std::remove_cvref_t<Options>, absorbed> || ...)) absorbs = true;
  if constexpr ((std::same_as<std::remove_cvref_t<Options>, expanded> || ...)) absorbs = false;
  return latent_plan<decltype(p), std::remove_cvref_t<decltype(mask)>, std::remove_cvref_t<decltype(settings)>,
                     std::remove_reference_t<decltype(executor)>>{p, mask, settings, executor, absorbs};
}

}  // namespace detail

namespace caches {

/// Attends from `query` to what a latent cache holds; shapes stand at the beginning of this file. The last query of a
/// sequence stands at the last token that was appended. The element types of query and output, of the cache and of the
/// projections may differ, but double goes with double alone. Options, in any order: a mask of positions (it is not
/// told batches and heads), scale (1/sqrt(plain + rotary dimension) unless given), a rotary policy for the last
/// channels of the queries (without one they are taken as rotated already), absorbed or expanded (the cheaper one
/// unless given), full_precision, log_sum_exp [sequence, head, token], count_tiles and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     latent_cache<bfloat16> latents({.sequences = 8, .latent_dimension = 512, .rotary_dimension = 64}, 4096);
///     latent_attention(q, latents, latent_projections(head_matrices, head_matrices), o, causal{});
template <TensorArgument Query, StorageElement C, class Rows, Element W, TensorArgument Output, class... Options>
void latent_attention(Query const& query, latent_cache<C, Rows> const& cache, latent_projections<W> const& projections,
                      Output&& output, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  static_assert(Element<T> && std::same_as<element_of_t<Query const>, T>,
                "attend: query and output must have one element type");
  static_assert(std::same_as<storage_accumulation_t<C>, A> && std::same_as<accumulation_t<W>, A>,
                "attend: double goes with a cache and projections of double, and no other type does");
  call::allows<option::mask, option::scale, option::position, option::latent_form, option::tile_counts,
               option::precision, option::log_sum_exp, option::executor>::check<Options...>();
  if (cache.shape().shards != 1) fail("cache", "expected one shard, got ", cache.shape().shards);
  auto const plan = detail::plan_latent<T>(query, cache, projections, output, options...);
  A const whole = 1;
  if (plan.problem.empty()) return;
  if (plan.absorbs)
    detail::attend_absorbed(plan, &whole);
  else
    detail::attend_expanded(plan);
}

}  // namespace caches

}  // namespace attend::inline ATTEND_TARGET
