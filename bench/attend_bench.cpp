// SPDX-License-Identifier: BSD-3-Clause
// The benchmarks of attend: how fast each call is, as a fraction of what this machine can do.
//
//   attend_bench                                      all of them, in a few minutes
//   attend_bench --benchmark_list_tests=true          their names
//   attend_bench --benchmark_filter='^softmax/prefill.*/t1$' --benchmark_format=json
//   attend_bench --threads=1,16                       on so many threads, instead of those that each benchmark has
//
// A name is a path: family, element type, batch, query heads, key heads, queries, keys, dimension, mask, threads. What
// the counters mean stands in attention_benchmark.hpp; the other options are Google Benchmark's.
#include <attend/core/machine.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <charconv>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
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

/// Takes --threads=1,2,... out of the arguments: numbers of threads, or none where it is not there. Throws where they
/// are not from 1 to 256.
std::vector<int> take_threads(std::vector<char*>& arguments) {
  constexpr std::string_view name = "--threads=";
  auto const found = std::find_if(arguments.begin(), arguments.end(),
                                  [&](char const* argument) { return std::string_view(argument).starts_with(name); });
  std::vector<int> counts;
  if (found == arguments.end()) return counts;
  std::string_view const text = std::string_view(*found).substr(name.size());
  char const* at = text.data();
  for (bool ends = false; !ends; ++at) {
    int count = 0;
    auto const [end, error] = std::from_chars(at, text.data() + text.size(), count);
    ends = *end == 0;
    if (error != std::errc() || (*end != ',' && !ends) || count < 1 || count > 256)
      throw std::invalid_argument("--threads: expected numbers from 1 to 256, apart by commas, got '" +
                                  std::string(text) + "'");
    counts.push_back(count);
    at = end;
  }
  arguments.erase(found);
  return counts;
}

void describe_machine(std::vector<int> const& thread_counts) {
  benchmark::AddCustomContext("instruction_set", attend_bench::instruction_set());
  benchmark::AddCustomContext("compiler", attend_bench::compiler());
  benchmark::AddCustomContext("compiler_flags", attend_bench::compiler_flags());
  benchmark::AddCustomContext("machine", attend::detail::machine::here().words());
  // The buffer that bandwidth is measured with takes a second to make.
  bool const reads = attend_bench::reads_memory(benchmark::GetBenchmarkFilter());
  for (int const threads : thread_counts) {
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
  std::vector<int> thread_counts;
  try {
    thread_counts = take_threads(with_default);
  } catch (std::invalid_argument const& error) {
    std::cerr << "attend_bench: " << error.what() << '\n';
    return 2;
  }
  attend_bench::ask_for_threads(thread_counts);
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
  attend_bench::register_decode_steps();
  attend_bench::register_policies();
  attend_bench::register_statistics();
  attend_bench::register_selective();
  attend_bench::register_latent();
  attend_bench::register_rotary();
  attend_bench::register_unequal_heads();
  attend_bench::register_longca();
  attend_bench::register_backward();
  attend_bench::register_linear();
  attend_bench::register_linear_systems();
  attend_bench::register_select_graphs();
  attend_bench::register_select_pages();
  attend_bench::register_select_spans();
  attend_bench::register_select_tokens();
  attend_bench::register_select_kept();
  attend_bench::register_data();
  try {
    describe_machine(thread_counts.empty() ? std::vector<int>{1, 2} : thread_counts);
    bool const some_ran = benchmark::RunSpecifiedBenchmarks() > 0;
    benchmark::Shutdown();
    return some_ran ? 0 : 2;
  } catch (std::exception const& error) {
    std::cerr << "attend_bench: " << error.what() << '\n';
    return 1;
  }
}
