// SPDX-License-Identifier: BSD-3-Clause
// A list of 32- or 64-bit integers that somebody else owns: lengths, offsets, document numbers.
#pragma once

#include "check.hpp"

namespace attend::inline ATTEND_TARGET {

namespace extend {

class index_list {
 public:
  constexpr index_list() = default;

  /// From std::vector, std::array, std::span, an Eigen vector or a one-axis view of 32- or 64-bit signed integers.
  template <class Range>
    requires(!std::same_as<std::remove_cvref_t<Range>, index_list> && TensorArgument<Range>)
  constexpr index_list(Range const& range) : index_list("index_list", range) {}

  /// The same; error messages begin with `argument`.
  template <class Range>
    requires TensorArgument<Range>
  constexpr index_list(char const* argument, Range const& range) {
    auto const view = view_of(range);
    using Integer = typename decltype(view)::value_type;
    static_assert(
        std::is_integral_v<Integer> && std::is_signed_v<Integer> && (sizeof(Integer) == 4 || sizeof(Integer) == 8),
        "attend: lengths, offsets and document numbers are 32- or 64-bit signed integers");
    static_assert(decltype(view)::rank == 1, "attend: lengths, offsets and document numbers have one axis");
    detail::check_view(argument, view);
    if constexpr (sizeof(Integer) == 4)
      narrow_ = reinterpret_cast<narrow const*>(view.data());
    else
      wide_ = reinterpret_cast<wide const*>(view.data());
    size_ = view.extent(0);
  }

  constexpr index_t size() const { return size_; }
  constexpr index_t operator[](index_t i) const { return narrow_ ? narrow_[i] : static_cast<index_t>(wide_[i]); }

 private:
  // long and long long may both have 64 bits, but only one of them is std::int64_t: may_alias lets a pointer to it read
  // the other as well.
  using narrow [[gnu::may_alias]] = std::int32_t;
  using wide [[gnu::may_alias]] = std::int64_t;

  narrow const* narrow_ = nullptr;
  wide const* wide_ = nullptr;
  index_t size_ = 0;
};

}  // namespace extend

}  // namespace attend::inline ATTEND_TARGET
