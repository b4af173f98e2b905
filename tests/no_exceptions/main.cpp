// SPDX-License-Identifier: BSD-3-Clause
// A program without exceptions and run-time types: calls compute, on all executors, and an argument error calls the
// handler that was set, or prints its message and aborts. The first argument says which of these is tried.
#include <attend/attend.hpp>

#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unsupported/Eigen/CXX11/ThreadPool>

static_assert(ATTEND_NO_EXCEPTIONS);

namespace {

using tensor = Eigen::Tensor<float, 4, Eigen::RowMajor>;

struct problem {
  tensor query{2, 4, 70, 16}, key{2, 2, 70, 16}, value{2, 2, 70, 16}, output{2, 4, 70, 16};

  problem() {
    query.setRandom();
    key.setRandom();
    value.setConstant(2.f);
    output.setZero();
  }

  /// Values that are all alike have themselves as mean, within 200 unit roundoffs.
  bool is_mean() const {
    for (Eigen::Index i = 0; i < output.size(); ++i)
      if (std::abs(output.data()[i] - 2.f) > 200 * 0x1p-24f * 2) return false;
    return true;
  }
};

template <class... Options>
bool computes(Options&&... options) {
  problem p;
  attend::softmax_attention(p.query, p.key, p.value, p.output, options...);
  return p.is_mean();
}

bool computes() {
  Eigen::ThreadPool pool(2);
  bool right = computes(attend::causal{}) && computes(attend::threads{3}) && computes(pool);

  problem p;
  attend::contiguous_cache<float> cache(
      {.sequences = 2, .key_value_heads = 2, .key_dimension = 16, .value_dimension = 16}, 70);
  attend::cached_attention(cache, p.query, p.key, p.value, p.output, attend::threads{2});
  right = right && p.is_mean();

  problem linear;
  attend::linear_attention(linear.query, linear.key, linear.value, linear.output, attend::causal{},
                           attend::linear::elu_features{}, attend::linear::key_sum{}, attend::threads{3});
  return right && linear.is_mean();
}

void fail() {
  problem p;
  tensor const narrow(2, 2, 70, 8);
  attend::softmax_attention(p.query, narrow, p.value, p.output, attend::threads{2});
}

}  // namespace

int main(int count, char const* const* arguments) {
  char const* const what = count == 2 ? arguments[1] : "";
  if (std::strcmp(what, "computes") == 0) return computes() ? 0 : 1;
  if (std::strcmp(what, "calls_the_handler") == 0) {
    attend::runtime::error_handler const first = attend::runtime::set_error_handler([](char const* message) {
      std::printf("handled: %s\n", message);
      std::fflush(stdout);
      std::_Exit(0);
    });
    if (first == nullptr) fail();
  }
  // The test runner takes an abort for a failure, so it is turned into an exit here.
  if (std::strcmp(what, "aborts") == 0 || std::strcmp(what, "aborts_behind_the_handler") == 0) {
    std::signal(SIGABRT, [](int) { std::_Exit(0); });
    if (std::strcmp(what, "aborts_behind_the_handler") == 0)
      attend::runtime::set_error_handler([](char const* message) { std::fprintf(stderr, "returns: %s\n", message); });
    fail();
  }
  return 1;
}
