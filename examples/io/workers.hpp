// SPDX-License-Identifier: BSD-3-Clause
// The threads of the program: Eigen's pool, which attend's calls are given, and loops over parts of matrices.
//
// What a part is depends on the shapes alone, so that results have the same bits with any number of threads.
#pragma once

#include <unsupported/Eigen/CXX11/ThreadPool>

#include <Eigen/Core>

#include <algorithm>
#include <atomic>
#include <latch>

namespace attend_io {

class workers {
 public:
  /// `threads` that work on a loop, the calling one among them. Those that wait sleep.
  explicit workers(int threads) : pool_(threads, /*allow_spinning=*/false) {}

  Eigen::ThreadPool& pool() { return pool_; }

  /// Calls body(first, count) for runs of at most `part` of the numbers from 0 to size - 1, in any order.
  template <class Body>
  void for_parts(Eigen::Index size, Eigen::Index part, Body const& body) {
    Eigen::Index const parts = (size + part - 1) / part;
    std::atomic<Eigen::Index> next = 0;
    auto const work = [&] {
      for (Eigen::Index i; (i = next.fetch_add(1)) < parts;) body(i * part, std::min(part, size - i * part));
    };
    Eigen::Index const helpers = std::min<Eigen::Index>(parts, pool_.NumThreads()) - 1;
    if (helpers <= 0) return work();
    std::latch done(helpers);
    for (Eigen::Index helper = 0; helper < helpers; ++helper)
      pool_.Schedule([&] {
        work();
        done.count_down();
      });
    work();
    done.wait();
  }

 private:
  Eigen::ThreadPool pool_;
};

}  // namespace attend_io
