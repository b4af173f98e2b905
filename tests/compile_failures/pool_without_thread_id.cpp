// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a pool of threads needs Schedule(task), NumThreads() and CurrentThreadId()
// A pool of the user's own that lacks a member.
#include <attend/softmax.hpp>

struct pool {
  template <class Task>
  void Schedule(Task const&) {}
  int NumThreads() const { return 1; }
};

void call(attend::tensor_view<float, 4> const& t, pool& threads) { attend::softmax_attention(t, t, t, t, threads); }
