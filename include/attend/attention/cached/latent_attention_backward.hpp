// SPDX-License-Identifier: BSD-3-Clause
// The gradients of latent attention in its expanded form (latent_attention.hpp), from that of its output:
//
//   k_j^h = [W_K^h c_j | r_j],  v_j^h = W_V^h c_j       dq_i^h, dk_j^h, dv_j^h: softmax_attention_backward.hpp
//
//   dc_j   = sum_h W_K^h' dk_j^h[plain] + W_V^h' dv_j^h
//   dr_j   = sum_h dk_j^h[rotary]
//   dW_K^h = sum_j dk_j^h[plain] c_j',  dW_V^h = sum_j dv_j^h c_j'      over the keys of all batches
//
//   query  [batch, head, query token, plain + rotary]   output [batch, head, query token, value dimension]
//   latent [batch, key token, latent dimension]         rotary key [batch, key token, rotary dimension]
//   W_K    [head, plain, latent dimension]              W_V    [head, value dimension, latent dimension]
//
// Cost: for each (head, query, key) the five products of softmax attention, and for each (head, key) 6 * latent *
// (plain + value) operations: keys and values are made again, and their gradients taken to latents and to projections.
//
// Memory: keys, values and their gradients of one head at a time, or of so many heads of a sequence as have 16384 keys
// together: 2 * (plain + rotary + value) numbers for each of these keys, 42 MB in float for 128 + 64 + 128. For 16-bit
// elements, besides, queries, outputs and gradients of those heads in float, and the sums of all other gradients.
//
// Aixin Liu et al.: DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model, 2024 (the
// forward form); Tri Dao et al.: FlashAttention, 2022 (the gradients of keys, values and queries).
#pragma once

#include "../softmax/softmax_attention_backward.hpp"
#include "latent_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace caches {

/// Holds views of the gradients of latent_projections, of the same shapes: key [head, plain dimension, latent
/// dimension], value [head, value dimension, latent dimension].
template <Element T>
struct latent_projection_gradients {
  tensor_view<T, 3> key, value;

  template <TensorArgument Key, TensorArgument Value>
  latent_projection_gradients(Key&& keys, Value&& values)
      : key(raise<3>(view_of(keys))), value(raise<3>(view_of(values))) {}
};
template <class Key, class Value>
latent_projection_gradients(Key&&, Value&&) -> latent_projection_gradients<element_of_t<Key>>;

}  // namespace caches

namespace detail {

/// The tensors of a backward call.
template <Element T>
struct latent_gradient_problem {
  using A = accumulation_t<T>;

  tensor_view<T const, 4> query;
  tensor_view<T const, 3> latent, rotary_key;
  latent_projections<T> up;
  tensor_view<T const, 4> output;
  tensor_view<A const, 3> log_sum_exp;
  tensor_view<T const, 4> of_output;
  tensor_view<T, 4> of_query;
  tensor_view<T, 3> of_latent, of_rotary_key;
  latent_projection_gradients<T> of_up;

  index_t batches() const { return query.extent(0); }
  index_t heads() const { return query.extent(1); }
  index_t queries() const { return query.extent(2); }
  index_t keys() const { return latent.extent(1); }
  index_t plain() const { return up.key.extent(1); }
  index_t rotary_dimension() const { return rotary_key.extent(2); }
  index_t latent_dimension() const { return latent.extent(2); }
  index_t dimension() const { return query.extent(3); }
  index_t values() const { return up.value.extent(1); }

  /// As many heads as have 16384 keys together, which is 32 tasks of 512 keys for the engine, or one head.
  index_t heads_at_once() const {
    constexpr index_t keys_at_once = 16384;
    return std::clamp<index_t>(keys_at_once / std::max<index_t>(keys(), 1), 1, std::max<index_t>(heads(), 1));
  }

  problem_shape shape_of_heads(index_t count) const {
    return {1, count, count, count, queries(), keys(), dimension(), values(), 1};
  }

  void check() const {
    check_view("query", query);
    check_view("latent", latent);
    check_view("rotary_key", rotary_key);
    check_extent("latent", "batch", latent.extent(0), batches(), "query");
    check_extent("rotary_key", "batch", rotary_key.extent(0), batches(), "query");
    check_extent("rotary_key", "tokens", rotary_key.extent(1), keys(), "latent");
    check_projection("projections (key)", up.key);
    check_projection("projections (value)", up.value);
    check_extent("query", "head dimension", dimension(), plain() + rotary_dimension(), "keys: plain and rotary");
    if (queries() >= token_limit) fail("query", "expected fewer than ", token_limit, " tokens, got ", queries());
    if (keys() >= token_limit) fail("latent", "expected fewer than ", token_limit, " tokens, got ", keys());
    check_view("output", output);
    check_view("of_output", of_output);
    call::check_extents_of_output("output", output, shape());
    call::check_extents_of_output("of_output", of_output, shape());
    check_view("log_sum_exp", log_sum_exp);
    check_extent("log_sum_exp", "batch", log_sum_exp.extent(0), batches(), "query");
    check_extent("log_sum_exp", "heads", log_sum_exp.extent(1), heads(), "query");
    check_extent("log_sum_exp", "tokens", log_sum_exp.extent(2), queries(), "query");
    check_gradient("of_query", of_query, query);
    check_gradient("of_latent", of_latent, latent);
    check_gradient("of_rotary_key", of_rotary_key, rotary_key);
    check_gradient("of_projections (key)", of_up.key, up.key);
    check_gradient("of_projections (value)", of_up.value, up.value);
    check_memory();
  }

 private:
  problem_shape shape() const {
    problem_shape all = shape_of_heads(heads());
    all.batches = all.sequences = batches();
    return all;
  }
  void check_projection(char const* argument, tensor_view<T const, 3> const& matrix) const {
    check_view(argument, matrix);
    check_extent(argument, "heads", matrix.extent(0), heads(), "query");
    check_extent(argument, "latent dimension", matrix.extent(2), latent_dimension(), "latent");
  }
  template <int Rank>
  static void check_gradient(char const* argument, tensor_view<T, Rank> const& gradient,
                             tensor_view<T const, Rank> const& of) {
    check_output_view(argument, gradient);
    if (gradient.extents() != of.extents())
      fail(argument, "expected shape ", shape_text<Rank>(of.extents()), ", got ", shape_text<Rank>(gradient.extents()));
  }
  void check_memory() const {
    auto const latents = raise<4>(latent), rotary_keys = raise<4>(rotary_key), key = raise<4>(up.key),
               value = raise<4>(up.value);
    auto const sums = raise<4>(log_sum_exp);
    auto const of_latents = raise<4>(of_latent), of_rotary_keys = raise<4>(of_rotary_key), of_key = raise<4>(of_up.key),
               of_value = raise<4>(of_up.value);
    named_layout const written[] = {{"of_query", of_query},
                                    {"of_latent", of_latents},
                                    {"of_rotary_key", of_rotary_keys},
                                    {"of_projections (key)", of_key},
                                    {"of_projections (value)", of_value}};
    named_layout const read[] = {{"query", query},
                                 {"latent", latents},
                                 {"rotary_key", rotary_keys},
                                 {"projections (key)", key},
                                 {"projections (value)", value},
                                 {"output", output},
                                 {"log_sum_exp", sums},
                                 {"of_output", of_output}};
    check_apart(written, read);
  }
};

/// The passes of a backward call. Tasks depend on the shape alone, and each adds to numbers of its own in the order of
/// batches, heads and keys: so the bits do not depend on threads.
template <Element T, Mask M, class E>
class latent_gradient_run {
 public:
  using A = accumulation_t<T>;

  latent_gradient_run(latent_gradient_problem<T> const& p, A scale, M const& mask, E& executor)
      : p_(p), scale_(scale), mask_(mask), executor_(executor) {}

  void run() {
    of_latent_ = sums_of(p_.of_latent);
    of_rotary_key_ = sums_of(p_.of_rotary_key);
    of_key_matrix_ = sums_of(p_.of_up.key);
    of_value_matrix_ = sums_of(p_.of_up.value);
    for (index_t batch = 0; batch < p_.batches(); ++batch)
      for (index_t first = 0; first < p_.heads(); first += p_.heads_at_once())
        run_heads(batch, first, std::min(p_.heads_at_once(), p_.heads() - first));
    if constexpr (!std::same_as<T, A>) {
      round(of_latent_, p_.of_latent);
      round(of_rotary_key_, p_.of_rotary_key);
      round(of_key_matrix_, p_.of_up.key);
      round(of_value_matrix_, p_.of_up.value);
    }
  }

 private:
  /// Keys and values of some heads, or their gradients: [1, head, key, dimension].
  struct expanded_rows {
    tensor_view<A, 4> key, value;

    expanded_rows(latent_gradient_problem<T> const& p, index_t heads, scratch& memory)
        : key(memory.allocate<A>(heads * p.keys() * p.dimension()), {1, heads, p.keys(), p.dimension()}),
          value(memory.allocate<A>(heads * p.keys() * p.values()), {1, heads, p.keys(), p.values()}) {}
  };

  void run_heads(index_t batch, index_t first, index_t heads) {
    scratch memory;
    expanded_rows const made(p_, heads, memory), gradients(p_, heads, memory);
    expand(batch, first, made);
    run_softmax(batch, first, made, gradients);
    to_latents(batch, first, gradients);
    to_projections(batch, first, gradients);
  }

  void expand(index_t batch, index_t first, expanded_rows const& made) const {
    index_t const runs = divide_up(p_.keys(), rows_at_once), heads = made.key.extent(1);
    parallel_for(executor_, heads * runs, cost_of_product(heads), [&](index_t task) {
      index_t const head = task / runs, from = task % runs * rows_at_once,
                    count = std::min(rows_at_once, p_.keys() - from);
      T const* latent[array_size(rows_at_once)];
      A *key[array_size(rows_at_once)], *value[array_size(rows_at_once)];
      for (index_t j = 0; j < count; ++j) {
        latent[j] = &p_.latent(batch, from + j, 0);
        key[j] = &made.key(0, head, from + j, 0);
        value[j] = &made.value(0, head, from + j, 0);
        convert_row(&p_.rotary_key(batch, from + j, 0), p_.rotary_dimension(), key[j] + p_.plain());
      }
      scratch memory;
      projection_of(memory, p_.up.key, first + head, count).multiply_transposed(latent, key);
      projection_of(memory, p_.up.value, first + head, count).multiply_transposed(latent, value);
    });
  }

  void run_softmax(index_t batch, index_t first, expanded_rows const& made, expanded_rows const& gradients) const {
    index_t const heads = made.key.extent(1);
    scratch memory;
    auto const some = [&](auto const& tensor) { return part(part(tensor, 0, batch, 1), 1, first, heads); };
    tensor_view<A const, 4> const query = widened(some(p_.query), memory), output = widened(some(p_.output), memory),
                                  of_output = widened(some(p_.of_output), memory);
    tensor_view<T, 4> const to = some(p_.of_query);
    tensor_view<A, 4> of_query;
    if constexpr (std::same_as<T, A>)
      of_query = to;
    else
      of_query = {memory.allocate<A>(heads * p_.queries() * p_.dimension()), to.extents()};
    auto problem = call::backward_problem<A>(query, made.key, made.value);
    auto const g =
        call::gradient_tensors<A>(output, some(p_.log_sum_exp), of_output, of_query, gradients.key, gradients.value);
    auto plan = call::plan<call::backward_options>(problem, mask_, attend::scale{scale_}, executor_);
    call::run_gradients<>(plan, g, plan.policies());
    if constexpr (!std::same_as<T, A>) round(of_query, to);
  }

  /// Adds to the gradients of latents and of rotary keys: each task takes its tokens through all heads.
  void to_latents(index_t batch, index_t first, expanded_rows const& gradients) const {
    index_t const heads = gradients.key.extent(1), width = p_.latent_dimension();
    parallel_for(executor_, divide_up(p_.keys(), rows_at_once), cost_of_product(heads), [&](index_t task) {
      index_t const from = task * rows_at_once, count = std::min(rows_at_once, p_.keys() - from);
      scratch memory;
      A* const product = memory.allocate<A>(count * width);
      A const *key[array_size(rows_at_once)], *value[array_size(rows_at_once)];
      A* to[array_size(rows_at_once)];
      for (index_t j = 0; j < count; ++j) to[j] = product + j * width;
      auto const add_product = [&] {
        for (index_t j = 0; j < count; ++j) add_row(to[j], width, &of_latent_(batch, from + j, 0));
      };
      for (index_t head = 0; head < heads; ++head) {
        for (index_t j = 0; j < count; ++j) {
          key[j] = &gradients.key(0, head, from + j, 0);
          value[j] = &gradients.value(0, head, from + j, 0);
          add_row(key[j] + p_.plain(), p_.rotary_dimension(), &of_rotary_key_(batch, from + j, 0));
        }
        scratch own;
        projection_of(own, p_.up.key, first + head, count).multiply(key, to);
        add_product();
        projection_of(own, p_.up.value, first + head, count).multiply(value, to);
        add_product();
      }
    });
  }

  /// Adds to the gradients of projections: each task takes its rows of a head's two matrices through all tokens.
  void to_projections(index_t batch, index_t first, expanded_rows const& gradients) {
    index_t const heads = gradients.key.extent(1);
    index_t const key_pieces = divide_up(p_.plain(), rows_at_once),
                  pieces = key_pieces + divide_up(p_.values(), rows_at_once);
    parallel_for(executor_, heads * pieces, cost_of_product(heads), [&](index_t task) {
      index_t const head = task / pieces, piece = task % pieces;
      if (piece < key_pieces)
        to_matrix(batch, head, piece * rows_at_once, p_.plain(), gradients.key,
                  part(of_key_matrix_, 0, first + head, 1));
      else
        to_matrix(batch, head, (piece - key_pieces) * rows_at_once, p_.values(), gradients.value,
                  part(of_value_matrix_, 0, first + head, 1));
    });
  }

  /// matrix[row][c] += sum_j gradient[j][row] latent[j][c], for the rows from `first` on.
  void to_matrix(index_t batch, index_t head, index_t first, index_t all_rows, tensor_view<A, 4> const& gradient,
                 tensor_view<A, 3> const& matrix) const {
    index_t const rows = std::min(rows_at_once, all_rows - first), width = p_.latent_dimension();
    scratch memory;
    A* const turned = memory.allocate<A>(rows * rows_at_once);
    A* const latents = memory.allocate<A>(rows_at_once * width);
    A* const product = memory.allocate<A>(rows * width);
    A const* from[array_size(rows_at_once)];
    A* to[array_size(rows_at_once)];
    for (index_t row = 0; row < rows; ++row) {
      from[row] = turned + row * rows_at_once;
      to[row] = product + row * width;
    }
    for (index_t token = 0; token < p_.keys(); token += rows_at_once) {
      index_t const count = std::min(rows_at_once, p_.keys() - token);
      for (index_t j = 0; j < count; ++j) {
        A const* const of_row = &gradient(0, head, token + j, first);
        bool counts = false;
        for (index_t row = 0; row < rows; ++row) {
          turned[row * rows_at_once + j] = of_row[row];
          counts |= of_row[row] != 0;
        }
        // What nobody sees has no gradient, and then adds nothing, whatever the latent holds.
        if (counts)
          convert_row(&p_.latent(batch, token + j, 0), width, latents + j * width);
        else
          std::fill_n(latents + j * width, width, A(0));
      }
      scratch own;
      engine::projection(own, tensor_view<A const, 2>(latents, {count, width}), rows, false).multiply(from, to);
      for (index_t row = 0; row < rows; ++row) add_row(to[row], width, &matrix(0, first + row, 0));
    }
  }

  /// A product with a head's matrix, whose sums have one order for any number of rows.
  static engine::projection<T> projection_of(scratch& memory, tensor_view<T const, 3> const& matrices, index_t head,
                                             index_t count) {
    return {memory,
            {matrices.data() + head * matrices.stride(0),
             {matrices.extent(1), matrices.extent(2)},
             {matrices.stride(1), 1}},
            count,
            false};
  }

  static void add_row(A const* from, index_t count, A* to) {
    for (index_t c = 0; c < count; ++c) to[c] += from[c];
  }

  /// The products of all keys of some heads with both matrices.
  loop_cost cost_of_product(index_t heads) const {
    return loop_cost::of(2 * heads * p_.keys() * p_.latent_dimension() * (p_.plain() + p_.values()));
  }

  /// Sums in the accumulation type, which begin at 0: the gradient itself, if it has that type.
  tensor_view<A, 3> sums_of(tensor_view<T, 3> const& gradient) {
    tensor_view<A, 3> sums;
    if constexpr (std::same_as<T, A>)
      sums = gradient;
    else
      sums = {memory_.allocate<A>(gradient.extent(0) * gradient.extent(1) * gradient.extent(2)), gradient.extents()};
    for_rows(raise<4>(sums), [&](A* row, index_t, index_t, index_t, index_t count) { std::fill_n(row, count, A(0)); });
    return sums;
  }

  template <int Rank>
  void round(tensor_view<A, Rank> const& sums, tensor_view<T, Rank> const& gradient) const {
    auto const to = raise<4>(gradient);
    for_rows(raise<4>(sums), [&](A const* row, index_t a, index_t b, index_t c, index_t count) {
      simd::narrow_row(row, &to(a, b, c, 0), count);
    });
  }

  tensor_view<A const, 4> widened(tensor_view<T const, 4> const& rows, scratch& memory) const {
    if constexpr (std::same_as<T, A>) {
      return rows;
    } else {
      tensor_view<A, 4> const wide(
          memory.allocate<A>(rows.extent(0) * rows.extent(1) * rows.extent(2) * rows.extent(3)), rows.extents());
      for_rows(wide, [&](A* row, index_t a, index_t b, index_t c, index_t count) {
        simd::widen_row(&rows(a, b, c, 0), row, count);
      });
      return wide;
    }
  }

  template <class Body>
  void for_rows(tensor_view<A, 4> const& rows, Body const& body) const {
    index_t const columns = rows.extent(3);
    if (columns == 0) return;
    for_heads(executor_, rows.extent(0), rows.extent(1),
              loop_cost::of(0, 2 * rows.extent(2) * columns * index_t{sizeof(A)}), [&](index_t a, index_t b) {
                for (index_t c = 0; c < rows.extent(2); ++c) body(&rows(a, b, c, 0), a, b, c, columns);
              });
  }

  // Rows of a task, and keys that a product sums over: their latents and a head's matrices fit in a level-2 cache.
  static constexpr index_t rows_at_once = 128;

  latent_gradient_problem<T> const& p_;
  A scale_;
  M const& mask_;
  E& executor_;
  scratch memory_;
  tensor_view<A, 3> of_latent_, of_rotary_key_, of_key_matrix_, of_value_matrix_;
};

}  // namespace detail

namespace caches {

/// Writes the gradients of queries, latents, rotary keys and projections of latent attention, given that of the output;
/// shapes stand at the beginning of this file. `latent` and `rotary_key` are what the cache was given, for sequences of
/// equal lengths; `output` and `log_sum_exp` are those that latent_attention wrote with the same options, in either
/// form. Queries and rotary keys are rotated already, and their gradients are those of the rotated ones. All tensors
/// have one element type but the log-sum-exp, which has the accumulation type. Options, in any order: a mask of
/// positions (it is not told batches and heads), scale (1/sqrt(plain + rotary dimension) unless given) and executor.
/// Results have the same bits for any number of threads. Of bfloat16, too, everything is computed in float: where a
/// matrix unit rounded keys in the forward call, full_precision there gives the log-sum-exp that goes with these. A
/// latent that nobody sees adds nothing, whatever it holds.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     latent_cache<float> latents({.sequences = 1, .latent_dimension = 512, .rotary_dimension = 64}, 4096);
///     latents.append(0, matrix, matrix);
///     latent_projections const up(head_matrices, head_matrices);
///     latent_attention(q, latents, up, o, causal{}, log_sum_exp(lse));
///     latent_attention_backward(q, matrix, matrix, up, o, lse, of_o, of_q, of_matrix, of_matrix,
///                               latent_projection_gradients(of_matrices, of_matrices), causal{});
template <TensorArgument Query, TensorArgument Latent, TensorArgument RotaryKey, Element W, TensorArgument Output,
          TensorArgument LogSumExp, TensorArgument OfOutput, TensorArgument OfQuery, TensorArgument OfLatent,
          TensorArgument OfRotaryKey, class... Options>
void latent_attention_backward(Query const& query, Latent const& latent, RotaryKey const& rotary_key,
                               latent_projections<W> const& projections, Output const& output,
                               LogSumExp const& log_sum_exp, OfOutput const& of_output, OfQuery&& of_query,
                               OfLatent&& of_latent, OfRotaryKey&& of_rotary_key,
                               latent_projection_gradients<W> const& of_projections, Options&&... options) {
  using namespace detail;
  using T = typename call::written_element_type<OfQuery, Query, Latent, RotaryKey, Output, OfOutput, OfLatent,
                                                OfRotaryKey>::type;
  static_assert(std::same_as<W, T>, "attend: query, latents and projections must have one element type");
  call::allows<option::mask, option::scale, option::executor>::check<Options...>();
  static constexpr full everything;
  arithmetic_mode const arithmetic;
  latent_gradient_problem<T> const p{raise<4>(view_of(query)),
                                     raise<3>(view_of(latent)),
                                     raise<3>(view_of(rotary_key)),
                                     projections,
                                     raise<4>(view_of(output)),
                                     raise<3>(view_of(log_sum_exp)),
                                     raise<4>(view_of(of_output)),
                                     raise<4>(view_of(of_query)),
                                     raise<3>(view_of(of_latent)),
                                     raise<3>(view_of(of_rotary_key)),
                                     of_projections};
  p.check();
  auto const& mask = find_option<option::mask>(everything, options...);
  for (index_t const heads : {index_t{1}, p.heads()}) mask.check(p.shape_of_heads(heads));
  auto const scale = scale_or<accumulation_t<T>>(usual_scale(p.dimension()), options...);
  auto& executor = call::executor_of(options...);
  latent_gradient_run(p, scale, mask, executor).run();
}

}  // namespace caches

}  // namespace attend::inline ATTEND_TARGET
