// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a selector needs lists(), which gives a token_lists const&
// A selector of the user's own that lacks a member.
#include <attend/attention/sparse_decode/selected_attention.hpp>

struct nothing {
  template <class Query, class Cache, class E>
  void select(Query const&, Cache const&, E&) {}
};

void call(attend::tensor_view<float, 4> const& t, attend::contiguous_cache<float> const& cache, nothing& selector) {
  attend::selection::selected_attention(t, cache, selector, t);
}
