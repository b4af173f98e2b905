// SPDX-License-Identifier: BSD-3-Clause
// One more feature that is 1 for every token:   phi(x) = [map(x), 1]
//
// The state's last row is then the sum of all values, and what stands there is added to every output.
#pragma once

#include "feature.hpp"

namespace attend::inline ATTEND_TARGET {

namespace linear {

/// Adds a feature that is 1 for every token to another map.
///
///     linear_attention(q, k, v, o, causal{}, with_constant(elu_features{}));
template <FeatureMap Map>
class with_constant {
 public:
  using option_kind = option::features;

  constexpr explicit with_constant(Map map) : map_(std::move(map)) {}

  index_t features(index_t dimension) const { return map_.features(dimension) + 1; }
  void check(extend::state_shape const& shape) const { map_.check(shape); }
  template <class A>
  void fill(extend::token_rows<A> const& rows, A* to, index_t stride) const {
    extend::fill_features(map_, rows, to, stride);
    for (index_t i = 0; i < rows.count; ++i) to[i * stride + map_.features(rows.dimension)] = 1;
  }
  template <class A>
    requires extend::HasPull<Map, A>
  void pull(extend::token_rows<A> const& rows, A const* of_features, index_t stride, A* to, index_t to_stride) const {
    extend::pull_features(map_, rows, of_features, stride, to, to_stride);
  }
  Map const& map() const { return map_; }

 private:
  Map map_;
};

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
