// SPDX-License-Identifier: BSD-3-Clause
// Probabilistic attention: a query is a point of a mixture of Gaussians whose centres are the keys, and its value that
// of a mixture whose centres are the values. Keys and values are fitted to what is observed by expectation
// maximization.
//
//   ln w_ij = ln pi_j - alpha_j / 2 |q_i - zeta_j|^2 - beta_j / 2 |v_i - mu_j|^2      the last where v_i is known
//   p_ij    = w_ij / sum_j w_ij           o_i = sum_j p_ij mu_j                         probabilistic_attention
//   zeta_j <- (theta zeta_j + alpha_j sum_i p_ij q_i) / (theta + alpha_j sum_i p_ij)    adapt_keys
//   mu_j   <- (theta mu_j + beta_j sum_i m_i p_ij v_i) / (theta + beta_j sum_i m_i p_ij)  propagate_values
//
// m_i is 1 where v_i is known, and 0 elsewhere.
//
// Without theta, centres become weighted means: sum_i p_ij q_i / sum_i p_ij. A centre that nothing is near stays where
// it is. The prior's centre is zeta_j as it was before a step (moving, the release's reading), or as it was given
// (fixed): they differ from the second step on.
//
//   q     [batch, query head, query, key dimension]     known values   [batch, query head, query, value dimension]
//   zeta  [batch, key head, key, key dimension]         m              [batch, query head, query]
//   mu    [batch, key head, key, value dimension]       alpha, beta, ln pi   [batch, key head, key]
//
// Query heads that share a key head are points of one mixture. With pi_j proportional to exp(alpha_j / 2 |zeta_j|^2 +
// beta_j / 2 |mu_j|^2), the magnitude prior, one alpha and no value that is known, attention is plain, with scale
// alpha, where beta is 0.
//
// Distances are products of longer vectors, of which parts that are the same for all keys of a query are left out:
//
//   [q_i, |q_i|^2, m_i |v_i|^2, m_i v_i, m_i, 1]
//     . [alpha_j zeta_j, -alpha_j / 2, -beta_j / 2, beta_j mu_j, -beta_j / 2 |mu_j|^2,
//        ln pi_j - alpha_j / 2 |zeta_j|^2]
//
// Cost: those vectors, and softmax attention with them; a step of an update is two passes more (P^T Q). Memory: the
// vectors.
//
// Prasad Gabbur, Manjot Bilkhu, Javier Movellan: Probabilistic Attention for Interactive Segmentation, 2021, and its
// released code (one precision for all channels here).
#pragma once

#include "key_sums.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Describes the mixture of a call; what is left empty does without.
template <Element T>
struct mixture {
  using A = accumulation_t<T>;
  double key_precision = 1;                       // alpha of all keys
  tensor_view<A const, 3> key_precisions = {};    // alpha of each key instead
  tensor_view<A const, 3> log_priors = {};        // ln pi
  bool magnitude_priors = false;                  // or those that make attention plain
  double value_precision = 1;                     // beta
  tensor_view<A const, 3> value_precisions = {};  // beta of each key instead
  tensor_view<T const, 4> known_values = {};
  tensor_view<A const, 3> known = {};  // m
};

/// How keys or values are fitted.
struct mixture_update {
  index_t steps = 1;
  double prior_precision = 0;  // theta
  bool fixed_prior = false;
};

}  // namespace systems

namespace detail {

/// A mixture whose arguments are checked, and its long vectors.
template <Element T>
class mixture_vectors {
 public:
  using A = accumulation_t<T>;

  mixture_vectors(tensor_view<T const, 4> const& query, tensor_view<T const, 4> const& key,
                  tensor_view<T const, 4> const& value, systems::mixture<T> const& with)
      : query_(query), key_(key), value_(value), with_(with), shape_(call::checked_shape<T>(query, key)) {
    call::check_value<T>(value, shape_);
    check_extent("value", "heads", value.extent(1), key.extent(1), "key");
    check_number("mixture (key_precision)", with.key_precision);
    check_number("mixture (value_precision)", with.value_precision);
    auto const check_of = [](char const* argument, auto const& rows, auto const& tokens, char const* as) {
      if (!rows.data()) return;
      check_view(argument, rows);
      check_extent(argument, "batch", rows.extent(0), tokens.extent(0), as);
      check_extent(argument, "heads", rows.extent(1), tokens.extent(1), as);
      check_extent(argument, "tokens", rows.extent(2), tokens.extent(2), as);
    };
    check_of("mixture (key_precisions)", with.key_precisions, key, "key");
    check_of("mixture (value_precisions)", with.value_precisions, key, "key");
    check_of("mixture (log_priors)", with.log_priors, key, "key");
    check_of("mixture (known)", with.known, query, "query");
    check_of("mixture (known_values)", with.known_values, query, "query");
    if (knows() != (with.known_values.data() != nullptr))
      fail("mixture", "expected known_values and known, got one of them alone");
    if (knows())
      check_extent("mixture (known_values)", "head dimension", with.known_values.extent(3), value.extent(3), "value");
    if (with.magnitude_priors && with.log_priors.data())
      fail("mixture", "expected log_priors or magnitude_priors, got both");
    length_ = query.extent(3) + (varies() ? 1 : 0) + (knows() ? value.extent(3) + 1 : 0) +
              (knows() && values_vary() ? 1 : 0) + 1;
    std::array const of_queries{query.extent(0), query.extent(1), query.extent(2), length_};
    std::array const of_keys{key.extent(0), key.extent(1), key.extent(2), length_};
    queries_ = {memory_.template allocate<A>(of_queries[0] * of_queries[1] * of_queries[2] * length_), of_queries};
    keys_ = {memory_.template allocate<A>(of_keys[0] * of_keys[1] * of_keys[2] * length_), of_keys};
    for_tokens(queries_, [&](index_t b, index_t h, index_t i) { write_query(b, h, i); });
  }

  /// Makes the keys' vectors from these centres.
  void write_keys(tensor_view<A const, 4> const& key, tensor_view<A const, 4> const& value) {
    for_tokens(keys_, [&](index_t b, index_t h, index_t j) {
      A const *zeta = row(key, b, h, j), *mu = row(value, b, h, j);
      A* to = &keys_(b, h, j, 0);
      A const alpha = precision(b, h, j), beta = value_precision(b, h, j);
      A const size = square(zeta, key_.extent(3)), value_size = square(mu, value_.extent(3));
      for (index_t c = 0; c < key_.extent(3); ++c) *to++ = alpha * zeta[c];
      if (varies()) *to++ = -alpha / 2;
      if (knows()) {
        if (values_vary()) *to++ = -beta / 2;
        for (index_t c = 0; c < value_.extent(3); ++c) *to++ = beta * mu[c];
        *to++ = -beta / 2 * value_size;
      }
      if (with_.magnitude_priors)
        *to = beta / 2 * value_size;
      else
        *to = (with_.log_priors.data() ? with_.log_priors(b, h, j) : A(0)) - alpha / 2 * size;
    });
  }

  /// Rows of a tensor as numbers of the accumulation type, in memory of this object.
  tensor_view<A, 4> widened(tensor_view<T const, 4> const& from) {
    tensor_view<A, 4> const to(
        memory_.template allocate<A>(from.extent(0) * from.extent(1) * from.extent(2) * from.extent(3)),
        from.extents());
    for_tokens(to, [&](index_t b, index_t h, index_t t) {
      simd::widen_row(&from(b, h, t, 0), &to(b, h, t, 0), to.extent(3));
    });
    return to;
  }

  template <class Row>
  static void for_tokens(tensor_view<A, 4> const& tensor, Row const& row) {
    if (tensor.extent(3) == 0) return;
    for (index_t b = 0; b < tensor.extent(0); ++b)
      for (index_t h = 0; h < tensor.extent(1); ++h)
        for (index_t t = 0; t < tensor.extent(2); ++t) row(b, h, t);
  }

  bool knows() const { return with_.known.data() != nullptr; }
  A precision(index_t b, index_t h, index_t j) const {
    return varies() ? with_.key_precisions(b, h, j) : static_cast<A>(with_.key_precision);
  }
  A value_precision(index_t b, index_t h, index_t j) const {
    return values_vary() ? with_.value_precisions(b, h, j) : static_cast<A>(with_.value_precision);
  }
  tensor_view<A const, 4> queries() const { return constant(queries_); }
  tensor_view<A const, 4> keys() const { return constant(keys_); }
  static tensor_view<A const, 4> constant(tensor_view<A, 4> const& view) {
    return {view.data(), view.extents(), view.strides()};
  }

  /// Takes `update.steps` steps: `moved` are the centres that move, of `of`, [key head] of those of `fit`'s rows; each
  /// step calls sums(to, mass) for the weighted sums of what is observed and of the weights, and write() for new
  /// vectors.
  template <class Sums, class Write>
  void fit(tensor_view<A, 4> const& moved, systems::mixture_update const& update, Sums const& sums,
           Write const& write) {
    auto const& extents = moved.extents();
    index_t const keys = extents[0] * extents[1] * extents[2];
    scratch memory;
    tensor_view<A, 4> const to(memory.allocate<A>(keys * extents[3]), extents);
    tensor_view<A, 3> const mass(memory.allocate<A>(keys), {extents[0], extents[1], extents[2]});
    A* const given = memory.allocate<A>(keys * extents[3]);
    std::copy_n(moved.data(), keys * extents[3], given);
    A const theta = static_cast<A>(update.prior_precision);
    for (index_t step = 0; step < update.steps; ++step) {
      sums(to, mass);
      index_t at = 0;
      for_tokens(moved, [&](index_t b, index_t h, index_t j) {
        A const total = theta + mass(b, h, j);
        A const* const prior = update.fixed_prior ? given + at : &moved(b, h, j, 0);
        for (index_t c = 0; total > 0 && c < extents[3]; ++c)
          moved(b, h, j, c) = (theta * prior[c] + to(b, h, j, c)) / total;
        at += extents[3];
      });
      write();
    }
  }

 private:
  static void check_number(char const* argument, double value) {
    if (!(value >= 0 && std::isfinite(value))) fail(argument, "expected a finite number of at least 0, got ", value);
  }
  static A const* row(tensor_view<A const, 4> const& tensor, index_t b, index_t h, index_t t) {
    return tensor.data() + b * tensor.stride(0) + h * tensor.stride(1) + t * tensor.stride(2);
  }
  static A square(A const* row, index_t count) {
    A sum = 0;
    for (index_t c = 0; c < count; ++c) sum += row[c] * row[c];
    return sum;
  }
  bool varies() const { return with_.key_precisions.data() != nullptr; }
  bool values_vary() const { return with_.value_precisions.data() != nullptr; }

  void write_query(index_t b, index_t h, index_t i) {
    A* const first = &queries_(b, h, i, 0);
    A* to = first;
    for (index_t c = 0; c < query_.extent(3); ++c) *to++ = static_cast<A>(query_(b, h, i, c));
    if (varies()) *to++ = square(first, query_.extent(3));
    if (knows()) {
      A const m = with_.known(b, h, i);
      // What is not known may hold anything.
      A size = 0;
      for (index_t c = 0; m != 0 && values_vary() && c < value_.extent(3); ++c) {
        A const v = static_cast<A>(with_.known_values(b, h, i, c));
        size += v * v;
      }
      if (values_vary()) *to++ = m * size;
      for (index_t c = 0; c < value_.extent(3); ++c)
        *to++ = m == 0 ? A(0) : m * static_cast<A>(with_.known_values(b, h, i, c));
      *to++ = m;
    }
    *to = 1;
  }

  tensor_view<T const, 4> query_, key_, value_;
  systems::mixture<T> const& with_;
  problem_shape shape_;
  scratch memory_;
  index_t length_ = 0;
  tensor_view<A, 4> queries_, keys_;
};

inline void check_update(systems::mixture_update const& update) {
  if (update.steps < 0) fail("mixture_update", "expected at least 0 steps, got ", update.steps);
  if (!(update.prior_precision >= 0 && std::isfinite(update.prior_precision)))
    fail("mixture_update", "expected a finite prior_precision of at least 0, got ", update.prior_precision);
}

/// Writes the centres back in the tensors' type.
template <class A, Element T>
void keep_centres(tensor_view<A, 4> const& from, tensor_view<T, 4> const& to) {
  for (index_t b = 0; to.extent(3) > 0 && b < to.extent(0); ++b)
    for (index_t h = 0; h < to.extent(1); ++h)
      for (index_t t = 0; t < to.extent(2); ++t) simd::narrow_row(&from(b, h, t, 0), &to(b, h, t, 0), to.extent(3));
}

}  // namespace detail

namespace systems {

/// Writes the values of a mixture at the queries, [batch, query head, query, value dimension]; shapes stand at the
/// beginning of this file. Options: a mask and an executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory, the mixture or an option do not
/// fit.
///
///     probabilistic_attention(q, k, v, o, mixture<float>{.key_precision = 0.125});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void probabilistic_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                             mixture<element_of_t<Output>> const& with, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  call::allows<option::mask, option::executor>::check<Options...>();
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  static_cast<void>(call::tensor_problem<T>(q, k, v, o));
  detail::mixture_vectors<T> vectors(q, k, v, with);
  for (auto const& [argument, read] : {std::pair{"query", q}, {"key", k}, {"value", v}})
    detail::check_apart("output", o, argument, read);
  tensor_view<A, 4> const mu = vectors.widened(v), zeta = vectors.widened(k);
  vectors.write_keys(vectors.constant(zeta), vectors.constant(mu));
  if constexpr (std::same_as<T, A>) {
    softmax_attention(vectors.queries(), vectors.keys(), mu, o, scale{1.}, options...);
  } else {
    scratch memory;
    tensor_view<A, 4> const wide(memory.allocate<A>(o.extent(0) * o.extent(1) * o.extent(2) * o.extent(3)),
                                 o.extents());
    softmax_attention(vectors.queries(), vectors.keys(), mu, wide, scale{1.}, options...);
    detail::keep_centres(wide, o);
  }
}

/// Moves the keys to the queries that they are close to, step by step, and writes them back. Options: a mask and an
/// executor. Results have the same bits for any number of threads.
///
/// Throws argument_error, before anything is written, where shapes, strides, the mixture, the update or an option do
/// not fit.
///
///     adapt_keys(q, k, v, mixture<float>{.key_precision = 0.125}, {.steps = 2, .prior_precision = 1});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, class... Options>
void adapt_keys(Query const& query, Key&& key, Value const& value, mixture<element_of_t<Key>> const& with,
                mixture_update const& update, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Key>;
  using A = accumulation_t<T>;
  call::allows<option::mask, option::executor>::check<Options...>();
  tensor_view<T, 4> const k = raise<4>(view_of(key));
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), v = raise<4>(view_of(value));
  detail::check_output_view("key", k);
  detail::check_update(update);
  detail::mixture_vectors<T> vectors(q, k, v, with);
  detail::check_apart("key", k, "query", q);
  detail::check_apart("key", k, "value", v);
  tensor_view<A, 4> const zeta = vectors.widened(k), mu = vectors.widened(v), rows = vectors.widened(q);
  auto const write = [&] { vectors.write_keys(vectors.constant(zeta), vectors.constant(mu)); };
  write();
  vectors.fit(
      zeta, update,
      [&](tensor_view<A, 4> const& to, tensor_view<A, 3> const& mass) {
        transposed_attention(vectors.queries(), vectors.keys(), tensor_view<A, 3>(), rows, to, scale{1.},
                             key_mass(mass), options...);
        vectors.for_tokens(to, [&](index_t b, index_t h, index_t j) {
          A const alpha = vectors.precision(b, h, j);
          for (index_t c = 0; c < to.extent(3); ++c) to(b, h, j, c) *= alpha;
          mass(b, h, j) *= alpha;
        });
      },
      write);
  detail::keep_centres(zeta, k);
}

/// Moves the values to those that are known of the queries close to their keys, step by step, and writes them back. The
/// mixture has known values. Options: a mask and an executor. Results have the same bits for any number of threads.
///
/// Throws argument_error, before anything is written, where shapes, strides, the mixture, the update or an option do
/// not fit.
///
///     propagate_values(q, k, v, mixture<float>{.known_values = view_of(q), .known = view_of(gates)}, {.steps = 5});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, class... Options>
void propagate_values(Query const& query, Key const& key, Value&& value, mixture<element_of_t<Value>> const& with,
                      mixture_update const& update, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Value>;
  using A = accumulation_t<T>;
  call::allows<option::mask, option::executor>::check<Options...>();
  tensor_view<T, 4> const v = raise<4>(view_of(value));
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key));
  detail::check_output_view("value", v);
  detail::check_update(update);
  detail::mixture_vectors<T> vectors(q, k, v, with);
  if (!vectors.knows()) fail("mixture", "expected known_values and known, got none");
  detail::check_apart("value", v, "query", q);
  detail::check_apart("value", v, "key", k);
  detail::check_apart("value", v, "mixture (known_values)", with.known_values);
  tensor_view<A, 4> const zeta = vectors.widened(k), mu = vectors.widened(v);
  auto const write = [&] { vectors.write_keys(vectors.constant(zeta), vectors.constant(mu)); };
  write();
  // The part [m_i v_i, m_i] of the queries' vectors: one pass gives the sums of values and of weights.
  index_t const columns = v.extent(3) + 1, first = vectors.queries().extent(3) - columns - 1;
  auto const known = detail::part(vectors.queries(), 3, first, columns);
  scratch memory;
  auto extents = v.extents();
  extents[3] = columns;
  tensor_view<A, 4> const sums(memory.allocate<A>(extents[0] * extents[1] * extents[2] * columns), extents);
  vectors.fit(
      mu, update,
      [&](tensor_view<A, 4> const& to, tensor_view<A, 3> const& mass) {
        transposed_attention(vectors.queries(), vectors.keys(), tensor_view<A, 3>(), known, sums, scale{1.},
                             options...);
        vectors.for_tokens(sums, [&](index_t b, index_t h, index_t j) {
          A const beta = vectors.value_precision(b, h, j);
          for (index_t c = 0; c < columns - 1; ++c) to(b, h, j, c) = beta * sums(b, h, j, c);
          mass(b, h, j) = beta * sums(b, h, j, columns - 1);
        });
      },
      write);
  detail::keep_centres(mu, v);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
