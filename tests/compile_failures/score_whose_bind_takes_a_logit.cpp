// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a score needs apply(s, place) const, which gives a vector of logits, or bind(rows, range)
// A score of the user's own whose bind gives a function of the logits alone.
#include <attend/softmax.hpp>

struct doubled {
  using option_kind = attend::option::score;
  static constexpr bool may_hide = false;
  void check(attend::extend::problem_shape const&) const {}
  template <class T>
  auto bind(attend::extend::tile_rows<T> const&, attend::extend::key_range) const {
    return [](auto const& s) { return s + s; };
  }
};

void call(attend::tensor_view<float, 4> const& t) { attend::softmax_attention(t, t, t, t, doubled{}); }
