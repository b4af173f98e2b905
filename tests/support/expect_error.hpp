// SPDX-License-Identifier: BSD-3-Clause
// That a call is refused, and with which words.
#pragma once

#include <gtest/gtest.h>

#include <attend/core/error.hpp>
#include <attend/policy/score/scale.hpp>
#include <cmath>
#include <string>

namespace attend::test {

template <class Call>
void expect_error(std::string const& message, Call&& call) {
  try {
    call();
    ADD_FAILURE() << "expected the error: " << message;
  } catch (argument_error const& error) {
    EXPECT_EQ(error.what(), message);
  }
}

/// That a call, given a scale, refuses one that is not finite: 1e300 is not where sums are in float.
template <class Call>
void expect_scale_error(Call const& call) {
  expect_error("scale: expected a finite number, got inf", [&] { call(scale(1e300)); });
  expect_error("scale: expected a finite number, got nan", [&] { call(scale(std::nan(""))); });
}

}  // namespace attend::test
