// That a call is refused, and with which words.
#pragma once

#include <gtest/gtest.h>

#include <attend/core/error.hpp>
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

}  // namespace attend::test
