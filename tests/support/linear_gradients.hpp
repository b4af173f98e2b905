// SPDX-License-Identifier: BSD-3-Clause
// What linear_attention_backward makes of a problem of linear attention, and whether that are the gradients of the
// definition.
#pragma once

#include <attend/attention/linear/linear_attention_backward.hpp>
#include <attend/reference/linear_backward.hpp>

#include "linear_problem.hpp"

namespace attend::test {

template <class T>
struct linear_gradients {
  using A = accumulation_t<T>;
  tensor<T, 4> query, key, value;
  tensor<A, 4> state;
  tensor<A, 3> key_sum, rates;
  tensor<A, 4> decay;  // [batch, state head, token, feature or 1], or [1, state head, 1, 1]
};

/// What the gradients are computed from, besides the problem.
template <class T>
struct given_gradients {
  using A = accumulation_t<T>;
  tensor<T, 4> output;
  tensor<A, 4> state;
  tensor<A, 3> key_sum;

  explicit given_gradients(linear_inputs<T> const& in, unsigned seed = 91) {
    linear_sizes const& s = in.size;
    output = normal<T, 4>({s.batches, s.output_heads(), s.queries, s.value_dimension}, seed);
    state = normal<A, 4>(in.state.extents, seed + 1);
    key_sum = normal<A, 3>(in.key_sum.extents, seed + 2);
  }
};

namespace detail {
template <class Kind, class... Options>
inline constexpr bool has = attend::detail::has_kind<Kind, Options...>;

template <class T, class... Options>
constexpr auto decay_extents(linear_sizes const& s) {
  using kinds = std::remove_cvref_t<decltype(attend::detail::find_option<option::decay>(
      std::declval<no_decay const&>(), std::declval<Options const&>()...))>;
  if constexpr (kinds::kind == decay_kind::vector)
    return std::array<index_t, 4>{s.batches, s.state_heads(), s.keys, s.state_rows()};
  else if constexpr (is_constant<kinds>)
    return std::array<index_t, 4>{1, s.state_heads(), 1, 1};
  else
    return std::array<index_t, 4>{s.batches, s.state_heads(), s.keys, 1};
}
}  // namespace detail

/// Calls the kernel with the inputs' state and the given gradients, and asks for all gradients that there are.
template <class T, class... Options>
linear_gradients<T> gradients_of(linear_inputs<T> const& in, given_gradients<T> const& given,
                                 Options const&... options) {
  using A = accumulation_t<T>;
  using decay_type = std::remove_cvref_t<decltype(attend::detail::find_option<option::decay>(
      std::declval<no_decay const&>(), std::declval<Options const&>()...))>;
  linear_gradients<T> g{filled<T, 4>(in.query.extents, T(7)),
                        filled<T, 4>(in.key.extents, T(7)),
                        filled<T, 4>(in.value.extents, T(7)),
                        filled<A, 4>(in.state.extents, 7),
                        filled<A, 3>(in.key_sum.extents, 7),
                        filled<A, 3>(in.rates.extents, 7),
                        filled<A, 4>(detail::decay_extents<T, Options...>(in.size), 7)};
  auto const call = [&](auto const&... more) {
    linear_attention_backward(in.query.view(), in.key.view(), in.value.view(), given.output.view(), g.query.view(),
                              g.key.view(), g.value.view(), options..., more...);
  };
  auto const with_states = [&](auto const&... more) {
    if constexpr (detail::sums_keys<Options...>)
      call(initial_state(in.state.view(), in.key_sum.view()),
           gradient_of_initial_state(g.state.view(), g.key_sum.view()),
           gradient_of_final_state(given.state.view(), given.key_sum.view()), more...);
    else
      call(initial_state(in.state.view()), gradient_of_initial_state(g.state.view()),
           gradient_of_final_state(given.state.view()), more...);
  };
  auto const with_rates = [&](auto const&... more) {
    if constexpr (detail::has<option::update, Options...>)
      with_states(gradient_of_rates(g.rates.view()), more...);
    else
      with_states(more...);
  };
  auto const& e = g.decay.extents;
  if constexpr (decay_type::kind == decay_kind::vector)
    with_rates(gradient_of_decay(g.decay.view()));
  else if constexpr (is_constant<decay_type>)
    with_rates(gradient_of_decay(tensor_view<A, 1>(g.decay.elements.data(), {e[1]})));
  else if constexpr (decay_type::kind == decay_kind::scalar)
    with_rates(gradient_of_decay(tensor_view<A, 3>(g.decay.elements.data(), {e[0], e[1], e[2]})));
  else
    with_rates();
  return g;
}

/// The gradients of the definition, those of decays summed up to the shape of the kernel's.
template <class T, class... Options>
reference::linear_gradients expected_gradients(linear_inputs<T> const& in, given_gradients<T> const& given,
                                               reference::linear_options with) {
  with.state.assign(in.state.elements.begin(), in.state.elements.end());
  bool const sums = with.divisor == reference::state_divisor::key_sum;
  if (sums) with.key_sum.assign(in.key_sum.elements.begin(), in.key_sum.elements.end());
  std::vector<double> const of_state(given.state.elements.begin(), given.state.elements.end());
  std::vector<double> of_sum;
  if (sums) of_sum.assign(given.key_sum.elements.begin(), given.key_sum.elements.end());
  auto g = reference::linear_backward<T>(in.query.view(), in.key.view(), in.value.view(), given.output.view(), with,
                                         of_state, of_sum);
  linear_sizes const& s = in.size;
  auto const e = detail::decay_extents<T, Options...>(s);
  std::vector<double> decay(static_cast<std::size_t>(e[0] * e[1] * e[2] * e[3]));
  std::size_t from = 0;
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t h = 0; h < s.state_heads(); ++h)
      for (index_t t = 0; t < s.keys; ++t)
        for (index_t f = 0; f < s.state_rows(); ++f, ++from) {
          index_t const at_b = e[0] == 1 ? 0 : b, at_t = e[2] == 1 ? 0 : t, at_f = e[3] == 1 ? 0 : f;
          decay[static_cast<std::size_t>(((at_b * e[1] + h) * e[2] + at_t) * e[3] + at_f)] += g.decay[from];
        }
  g.decay = decay;
  return g;
}

/// Whether all gradients are those of the definition. Each is a sum whose terms have the size of the largest of them;
/// in tensors of 16-bit elements it is rounded once more.
template <class T, class... Options>
testing::AssertionResult gradients_agree(linear_inputs<T> const& in, reference::linear_options const& with,
                                         Options const&... options) {
  given_gradients<T> const given(in);
  auto const got = gradients_of(in, given, options...);
  auto const expected = expected_gradients<T, Options...>(in, given, with);
  auto const check = [&]<class U>(char const* name, std::vector<U> const& have, std::vector<double> const& want) {
    auto result = near(have, want, tolerance<U>(largest_of(want)));
    if (!result) result << " (" << name << ", " << in.size << ")";
    return result;
  };
  if (auto result = check("query", got.query.elements, expected.query); !result) return result;
  if (auto result = check("key", got.key.elements, expected.key); !result) return result;
  if (auto result = check("value", got.value.elements, expected.value); !result) return result;
  if (auto result = check("state", got.state.elements, expected.state); !result) return result;
  if constexpr (detail::has<option::update, Options...>)
    if (auto result = check("rates", got.rates.elements, expected.rate); !result) return result;
  if constexpr (detail::has<option::decay, Options...>)
    if (auto result = check("decay", got.decay.elements, expected.decay); !result) return result;
  if constexpr (detail::sums_keys<Options...>)
    if (auto result = check("key_sum", got.key_sum.elements, expected.key_sum); !result) return result;
  return testing::AssertionSuccess();
}

}  // namespace attend::test
