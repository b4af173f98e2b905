// SPDX-License-Identifier: BSD-3-Clause
// The benchmarks of attend: how fast each call is, as a fraction of what this machine can do.
//
//   attend_bench                                      all of them, in a few minutes
//   attend_bench --benchmark_list_tests=true          their names
//   attend_bench --benchmark_filter='^softmax/prefill.*/t1$' --benchmark_format=json
//
// A name is a path: family, element type, batch, query heads, key heads, queries, keys, dimension, mask, threads. What
// the counters mean stands in attention_benchmark.hpp; the other options are Google Benchmark's.
#include <attend/core/machine.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "attention_benchmark.hpp"
#include "benchmarks.hpp"
#include "build_information.hpp"
#include "ceilings.hpp"

namespace {

/// The best of some runs, in billions per second.
template <class Rate>
std::string in_billions(Rate rate) {
  double best = 0;
  for (int run = 0; run < 5; ++run) best = std::max(best, rate());
  std::ostringstream text;
  text << std::fixed << std::setprecision(1) << best / 1e9;
  return text.str();
}

void describe_machine() {
  benchmark::AddCustomContext("instruction_set", attend_bench::instruction_set());
  benchmark::AddCustomContext("compiler", attend_bench::compiler());
  benchmark::AddCustomContext("compiler_flags", attend_bench::compiler_flags());
  benchmark::AddCustomContext("machine", attend::detail::machine::here().words());
  // The buffer that bandwidth is measured with takes a second to make.
  bool const reads = attend_bench::reads_memory(benchmark::GetBenchmarkFilter());
  for (int const threads : {1, 2}) {
    std::string const suffix = "_t" + std::to_string(threads);
    benchmark::AddCustomContext("fma_peak_gflops" + suffix,
                                in_billions([=] { return attend_bench::fma_peak<float>(threads); }));
    if (reads)
      benchmark::AddCustomContext("read_bandwidth_gigabytes" + suffix,
                                  in_billions([=] { return attend_bench::read_bandwidth(threads); }));
  }
}

}  // namespace

int main(int argument_count, char** arguments) {
  // The default of a shorter time goes before what the caller says. Said to each benchmark instead, it would become a
  // part of the names.
  char shorter[] = "--benchmark_min_time=0.2";
  std::vector<char*> with_default(arguments, arguments + argument_count);
  with_default.insert(with_default.begin() + (argument_count > 0), shorter);
  int count = static_cast<int>(with_default.size());
  with_default.push_back(nullptr);
  benchmark::Initialize(&count, with_default.data());
  if (benchmark::ReportUnrecognizedArguments(count, with_default.data())) return 2;

  attend_bench::register_prefill();
  attend_bench::register_encoder();
  attend_bench::register_window();
  attend_bench::register_short();
  attend_bench::register_few_queries();
  attend_bench::register_caches();
  attend_bench::register_decode();
  attend_bench::register_policies();
  attend_bench::register_selective();
  attend_bench::register_latent();
  attend_bench::register_rotary();
  attend_bench::register_unequal_heads();
  attend_bench::register_longca();
  attend_bench::register_linear();
  attend_bench::register_linear_systems();
  attend_bench::register_select_pages();
  attend_bench::register_select_tokens();
  attend_bench::register_data();
  try {
    describe_machine();
    bool const some_ran = benchmark::RunSpecifiedBenchmarks() > 0;
    benchmark::Shutdown();
    return some_ran ? 0 : 2;
  } catch (std::exception const& error) {
    std::cerr << "attend_bench: " << error.what() << '\n';
    return 1;
  }
}
