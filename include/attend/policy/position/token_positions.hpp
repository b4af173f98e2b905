// SPDX-License-Identifier: BSD-3-Clause
// Where tokens stand, for what depends on position: one after the other from a first one, all at one place, or anywhere
// a tensor of integers says; on one axis (text), two (image: row, column) or three (video: time, row, column).
#pragma once

#include "../../core/check.hpp"
#include "../tile.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Says at which positions tokens stand.
///
///     rotary_embedding(q, rotary(rotary_frequencies(128)), q, token_positions(512));  // 512, 513, ...
class token_positions {
 public:
  /// Token t stands at first + t.
  constexpr token_positions(index_t first = 0) : first_(first) {}

  /// Every token stands at `position`.
  static constexpr token_positions all_at(index_t position) {
    token_positions here(position);
    here.step_ = 0;
    return here;
  }

  /// Takes 32- or 64-bit signed integers, [token], [batch, token] or [axis, batch, token]; the batch may be 1 and then
  /// holds for all. The tensor must outlive this.
  template <class Tensor>
    requires(!std::same_as<std::remove_cvref_t<Tensor>, token_positions> && TensorArgument<Tensor>)
  token_positions(Tensor const& tensor) : given_(true) {
    auto const view = extend::raise<3>(view_of(tensor));
    using Integer = typename decltype(view)::value_type;
    static_assert(
        std::is_integral_v<Integer> && std::is_signed_v<Integer> && (sizeof(Integer) == 4 || sizeof(Integer) == 8),
        "attend: positions are 32- or 64-bit signed integers");
    detail::check_view("positions", view);
    if constexpr (sizeof(Integer) == 4)
      narrow_ = reinterpret_cast<narrow const*>(view.data());
    else
      wide_ = reinterpret_cast<wide const*>(view.data());
    extents_ = view.extents();
    strides_ = view.strides();
  }

  /// Whether a tensor says where tokens stand.
  constexpr bool given() const { return given_; }
  /// How many axes a tensor has; without one, tokens stand at the same place on all axes.
  constexpr index_t axes() const { return extents_[0]; }

  constexpr index_t operator()(index_t axis, index_t batch, index_t token) const {
    if (!given_) return first_ + step_ * token;
    index_t const at = (extents_[0] == 1 ? 0 : axis * strides_[0]) + (extents_[1] == 1 ? 0 : batch * strides_[1]) +
                       token * strides_[2];
    return narrow_ ? narrow_[at] : static_cast<index_t>(wide_[at]);
  }

  /// The least and the greatest of them; 0 and -1 if there are none. Throws argument_error if they do not fit `batches`
  /// and `tokens`, have fewer than `axes` axes (but for one, which then serves for all), or are too large to count
  /// with.
  extend::key_range check(char const* argument, index_t axes, index_t batches, index_t tokens) const {
    if (given_) {
      if (extents_[0] != 1 && extents_[0] < axes)
        extend::fail(argument, "expected ", axes, " axes of positions, got ", extents_[0]);
      if (extents_[1] != 1) detail::check_extent(argument, "batch", extents_[1], batches, "the tensor");
      detail::check_extent(argument, "tokens", extents_[2], tokens, "the tensor");
    }
    if (batches == 0 || tokens == 0) return {0, -1};
    if (!given_ && (first_ <= -extend::token_limit || first_ >= extend::token_limit))
      extend::fail(argument, "expected positions below ", extend::token_limit, " in magnitude, got ", first_);
    extend::key_range reach{(*this)(0, 0, 0), (*this)(0, 0, 0)};
    auto const widen = [&](index_t position) {
      reach = {std::min(reach.first, position), std::max(reach.last, position)};
    };
    if (given_) {
      for (index_t axis = 0; axis < extents_[0]; ++axis)
        for (index_t batch = 0; batch < extents_[1]; ++batch)
          for (index_t token = 0; token < tokens; ++token) widen((*this)(axis, batch, token));
    } else {
      widen((*this)(0, 0, tokens - 1));
    }
    if (reach.first <= -extend::token_limit || reach.last >= extend::token_limit)
      extend::fail(argument, "expected positions below ", extend::token_limit, " in magnitude, got ",
                   reach.first <= -extend::token_limit ? reach.first : reach.last);
    return reach;
  }

 private:
  // Of long and long long, only one is std::int64_t.
  using narrow [[gnu::may_alias]] = std::int32_t;
  using wide [[gnu::may_alias]] = std::int64_t;

  bool given_ = false;
  index_t first_ = 0, step_ = 1;
  narrow const* narrow_ = nullptr;
  wide const* wide_ = nullptr;
  std::array<index_t, 3> extents_{1, 1, 0}, strides_{};
};

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
