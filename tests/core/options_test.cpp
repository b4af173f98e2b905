// SPDX-License-Identifier: BSD-3-Clause
// Options: found by what they say they are, in any order, with a fallback for those that are not given.
#include <attend/core/options.hpp>

#include <gtest/gtest.h>

#include <string>

namespace attend {
namespace {

struct red_mask {
  using option_kind = option::mask;
  int number;
};
struct doubling {
  using option_kind = option::score;
  int number;
};
struct halving {
  using option_kind = option::score;
  int number;
};
struct not_copied {
  using option_kind = option::normalizer;
  not_copied() = default;
  not_copied(not_copied const&) = delete;
};
struct of_no_kind {};

/// As a thread pool looks like; it cannot be copied either.
struct pool {
  pool() = default;
  pool(pool const&) = delete;
  void Schedule(std::function<void()>) {}
  int NumThreads() const { return 1; }
  int CurrentThreadId() const { return -1; }
};

TEST(Options, SayWhatTheyAre) {
  using detail::has_kind;
  static_assert(has_kind<option::mask, red_mask> && has_kind<option::mask, red_mask&>);
  static_assert(has_kind<option::mask, red_mask const&> && has_kind<option::mask, red_mask&&>);
  static_assert(!has_kind<option::score, red_mask> && !has_kind<option::mask, of_no_kind> &&
                !has_kind<option::mask, int>);
  static_assert(has_kind<option::executor, serial> && has_kind<option::executor, threads const&>);
  static_assert(has_kind<option::executor, pool&> && !has_kind<option::executor, pool*>);
  static_assert(has_kind<option::mask, doubling, red_mask&> && !has_kind<option::mask, doubling, of_no_kind> &&
                !has_kind<option::mask>);
}

TEST(Options, AreKnownIfTheirKindIs) {
  using detail::is_option;
  static_assert(is_option<doubling, option::mask, option::score>);
  static_assert(is_option<doubling const&, option::score>);
  static_assert(!is_option<doubling, option::mask, option::executor>);
  static_assert(!is_option<of_no_kind, option::mask, option::score, option::executor>);
  static_assert(!is_option<float, option::mask, option::score, option::executor> && !is_option<doubling>);
}

TEST(Options, AreCounted) {
  using detail::count_of_kind;
  static_assert(count_of_kind<option::score, doubling, red_mask const&, halving&, doubling> == 3);
  static_assert(count_of_kind<option::mask, doubling, red_mask const&, halving&, doubling> == 1);
  static_assert(count_of_kind<option::scale, doubling, red_mask> == 0 && count_of_kind<option::scale> == 0);
  static_assert(count_of_kind<option::executor, serial, threads&, of_no_kind> == 2);
}

TEST(Options, AreFoundWhereverTheyStand) {
  detail::absent none;
  doubling first{1};
  red_mask second{2};
  pool third;
  EXPECT_EQ(&detail::find_option<option::mask>(none, first, second, third), &second);
  EXPECT_EQ(&detail::find_option<option::mask>(none, second, third, first), &second);
  EXPECT_EQ(&detail::find_option<option::executor>(none, first, second, third), &third);
  red_mask const only_read{3};
  EXPECT_EQ(&detail::find_option<option::mask>(none, only_read, first), &only_read);
}

TEST(Options, ThatAreMissingAreTheFallback) {
  doubling first{1};
  not_copied fallback;
  EXPECT_EQ(&detail::find_option<option::normalizer>(fallback, first), &fallback);
  EXPECT_EQ(&detail::find_option<option::normalizer>(fallback), &fallback);
}

TEST(Options, OfOneKindAreListedInTheOrderGiven) {
  halving const first{1};
  doubling second{3};
  auto const found = detail::find_options<option::score>(first, red_mask{2}, second, pool(), halving{4});
  static_assert(std::same_as<decltype(found), std::tuple<halving, doubling, halving> const>);
  EXPECT_EQ(std::get<0>(found).number, 1);
  EXPECT_EQ(std::get<1>(found).number, 3);
  EXPECT_EQ(std::get<2>(found).number, 4);
  static_assert(std::same_as<decltype(detail::find_options<option::score>(red_mask{2})), std::tuple<>>);
  static_assert(std::same_as<decltype(detail::find_options<option::score>()), std::tuple<>>);
}

}  // namespace
}  // namespace attend
