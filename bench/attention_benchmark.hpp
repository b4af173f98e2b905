// SPDX-License-Identifier: BSD-3-Clause
// One benchmark of attend_bench: a shape, a call, and the counters that tell its speed as a fraction of what the
// machine can do.
//
//   peak_fraction        of the fused multiply-adds that the machine can do in the time (ceilings.hpp)
//   bandwidth_fraction   of the bytes that it can read in the time; where reading is the limit
//   flops                floating-point operations per second: 2 * (key + value dimension) for each allowed pair, or
//                        what the benchmark says
//   bytes                that a call must read and write: keys, values, queries and outputs, or what the benchmark says
//   scaling_fraction     calls per second with several threads / those of as many threads that each make serial calls
//   on
//                        tensors of their own at the same time: 1 where sharing a call costs nothing
//   work_ratio           pairs that were computed / pairs that are allowed; of attention over pairs
//   scratch_bytes        working memory that each thread keeps
//   overhead_us          time beyond what the operations take at the machine's peak; of short calls
#pragma once

#include <attend/core/executor.hpp>
#include <attend/policy/output.hpp>

#include <functional>
#include <string>
#include <vector>

#include "element_type.hpp"

namespace attend_bench {

using attend::index_t;

struct attention_shape {
  index_t batch, query_heads, key_heads, queries, keys, dimension;
};

/// What is measured, with its inputs in place: the call itself, and, where it has pairs, the same call counting its
/// work. Two of them may run at the same time.
struct attention_call {
  std::function<void(attend::threads)> run;
  std::function<void(attend::threads, attend::options::tile_counts&)> count;
};

/// Which counters a benchmark has beside the ones that all have.
enum class limit { arithmetic, bandwidth, overhead };

struct attention_benchmark {
  std::string family;  // the first parts of the name
  element_type type = element_type::f32;
  attention_shape shape{};
  std::string mask;          // the name's part that says who sees whom
  double pairs_of_head = 0;  // allowed pairs of a query and a key; 0 where the work is not one of pairs
  limit limited_by = limit::arithmetic;
  std::function<attention_call()> prepare;
  double bytes = 0;  // that must be read and written; 0: keys, values, queries and outputs of that type
  double flops = 0;  // that the definition needs; 0: 4 * dimension for each allowed pair
};

/// Registers the benchmark once for each number of threads, or of those that the program was asked for.
void register_attention(attention_benchmark const& what, std::vector<int> const& threads);

/// Replaces the numbers of threads of benchmarks that are registered from now on.
void ask_for_threads(std::vector<int> const& threads);

/// Whether a benchmark that the program was asked for is limited by reading.
bool reads_memory(std::string const& filter);

}  // namespace attend_bench
