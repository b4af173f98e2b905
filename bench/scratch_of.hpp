// SPDX-License-Identifier: BSD-3-Clause
// The working memory of a call, for one thread.
#pragma once

#include <attend/core/scratch.hpp>

#include <exception>
#include <thread>

namespace attend_bench {

/// Bytes that a thread keeps after the call. It is made on a new thread, which has kept nothing before; no other call
/// may be on its way.
template <class Call>
attend::index_t scratch_of(Call&& call) {
  attend::index_t const before = attend::runtime::scratch_bytes();
  attend::index_t after = before;
  std::exception_ptr error;
  std::thread alone([&] {
    try {
      call();
      after = attend::runtime::scratch_bytes();
    } catch (...) {
      error = std::current_exception();
    }
  });
  alone.join();
  if (error) std::rethrow_exception(error);
  return after - before;
}

}  // namespace attend_bench
