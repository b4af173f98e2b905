// SPDX-License-Identifier: BSD-3-Clause
// The C interface: exceptions end here, as a status and a message.
#include "attention.h"

#include <attend/dispatch.hpp>

#include <exception>
#include <limits>
#include <new>
#include <stdexcept>

#include "kernels.hpp"

namespace {

/// The calling thread's last message. It has a fixed size, so that running out of memory can be told as well.
char* message() {
  thread_local char text[512];
  return text;
}

attention_status failed(attention_status status, std::string_view why) noexcept {
  message()[why.copy(message(), 511)] = '\0';
  return status;
}

/// The kernels for this processor, or null, and then the status and the message are set.
kernels const* best(attention_status& status) noexcept {
  try {
    return &attend::dispatched<kernels>();
  } catch (std::exception const& error) {
    status = failed(ATTENTION_WRONG_PROCESSOR, error.what());
  } catch (...) {
    status = failed(ATTENTION_FAILED, "unknown failure");
  }
  return nullptr;
}

/// Calls a function with the kernels and tells how it went. An argument_error is thrown by one of several instruction
/// sets, as a class of its own: std::invalid_argument is what they have in common.
template <class Function>
attention_status run(Function const& function) noexcept {
  attention_status status = ATTENTION_OK;
  kernels const* const chosen = best(status);
  if (chosen == nullptr) return status;
  try {
    return function(*chosen);
  } catch (std::invalid_argument const& error) {
    return failed(ATTENTION_WRONG_ARGUMENT, error.what());
  } catch (std::bad_alloc const&) {
    return failed(ATTENTION_NO_MEMORY, "out of memory");
  } catch (std::exception const& error) {
    return failed(ATTENTION_FAILED, error.what());
  } catch (...) {
    return failed(ATTENTION_FAILED, "unknown failure");
  }
}

void check_given(char const* argument, attention_tensor const* tensor) {
  if (tensor == nullptr) attend::extend::fail(argument, "expected a tensor, got null");
}

}  // namespace

attention_options attention_default_options(void) {
  return {.scale = std::numeric_limits<double>::quiet_NaN(),
          .window_left = -1,
          .window_right = -1,
          .causal = 0,
          .threads = 1};
}

attention_status attention_softmax(attention_type type, attention_tensor const* query, attention_tensor const* key,
                                   attention_tensor const* value, attention_tensor const* output,
                                   attention_options const* options) {
  return run([&](kernels const& chosen) {
    check_given("query", query);
    check_given("key", key);
    check_given("value", value);
    check_given("output", output);
    if (type != ATTENTION_FLOAT && type != ATTENTION_HALF)
      attend::extend::fail("type", "expected ATTENTION_FLOAT or ATTENTION_HALF, got ", static_cast<int>(type));
    auto const softmax = type == ATTENTION_FLOAT ? chosen.softmax_of_float : chosen.softmax_of_half;
    softmax(*query, *key, *value, *output, options == nullptr ? attention_default_options() : *options);
    return ATTENTION_OK;
  });
}

attention_status attention_linear(attention_tensor const* query, attention_tensor const* key,
                                  attention_tensor const* value, attention_tensor const* state,
                                  attention_tensor const* output) {
  return run([&](kernels const& chosen) {
    check_given("query", query);
    check_given("key", key);
    check_given("value", value);
    check_given("state", state);
    check_given("output", output);
    chosen.linear(*query, *key, *value, *state, *output);
    return ATTENTION_OK;
  });
}

char const* attention_message(void) { return message(); }

char const* attention_target(void) {
  attention_status status = ATTENTION_OK;
  kernels const* const chosen = best(status);
  return chosen == nullptr ? "" : chosen->target();
}
