// SPDX-License-Identifier: BSD-3-Clause
#include "attention_benchmark.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <regex>

#include "ceilings.hpp"
#include "scratch_of.hpp"

namespace attend_bench {
namespace {

std::string path_without_threads(attention_benchmark const& what) {
  attention_shape const& s = what.shape;
  auto const part = [](char const* name, index_t number) { return std::string("/") + name + std::to_string(number); };
  return what.family + "/" + name_of(what.type) + part("b", s.batch) + part("hq", s.query_heads) +
         part("hkv", s.key_heads) + part("sq", s.queries) + part("skv", s.keys) + part("d", s.dimension) + "/" +
         what.mask;
}

/// What does not change from run to run.
struct prepared {
  std::string path;
  attention_call call;
  std::vector<std::function<void()>> serial_calls;  // the same on tensors of their own, for each thread
  index_t scratch_bytes = 0;
  double pairs_computed = 0;
};

prepared prepare_call(attention_benchmark const& what, std::string const& path) {
  prepared now{path, what.prepare(), {}, 0, 0};
  attend::options::tile_counts counts;
  now.scratch_bytes = scratch_of(
      [&] { now.call.count ? now.call.count(attend::threads{1}, counts) : now.call.run(attend::threads{1}); });
  now.pairs_computed = static_cast<double>(counts.pairs.load());
  return now;
}

/// Prepares a benchmark, unless it is the one that ran last: benchmarks run several times to find out how many
/// iterations they need, and with several numbers of threads, and inputs take longer to make than to use.
prepared const& prepare(attention_benchmark const& what, int threads) {
  static std::optional<prepared> last;
  std::string const path = path_without_threads(what);
  if (!last || last->path != path) {
    last.reset();
    last = prepare_call(what, path);
  }
  std::vector<std::function<void()>>& serial = last->serial_calls;
  if (threads > 1)
    for (int count = static_cast<int>(serial.size()); count < threads; ++count)
      serial.push_back([run = count == 0 ? last->call.run : what.prepare().run] { run(attend::threads{1}); });
  return *last;
}

double flops_of(attention_benchmark const& what) {
  if (what.flops > 0) return what.flops;
  attention_shape const& s = what.shape;
  return 4.0 * static_cast<double>(s.dimension) * static_cast<double>(s.batch * s.query_heads) * what.pairs_of_head;
}

/// Keys and values, read once for all the heads that share them, and queries and output.
double bytes_of(attention_benchmark const& what) {
  if (what.bytes > 0) return what.bytes;
  attention_shape const& s = what.shape;
  index_t const rows = s.key_heads * s.keys + s.query_heads * s.queries;
  return with_element_type(
      what.type, [&]<class T>() { return 2.0 * sizeof(T) * static_cast<double>(s.batch * rows * s.dimension); });
}

/// What the machine can do around the time of a measurement: the best of runs before and after it.
class ceilings {
 public:
  ceilings(attention_benchmark const& what, prepared const& ready, int threads)
      : what_(what), ready_(ready), threads_(threads) {}

  void sample() {
    constexpr int runs = 5;
    for (int run = 0; run < runs; ++run) {
      double const peak = what_.type == element_type::f64 ? fma_peak<double>(threads_) : fma_peak<float>(threads_);
      peak_ = std::max(peak_, peak);
      if (what_.limited_by == limit::bandwidth) bandwidth_ = std::max(bandwidth_, read_bandwidth(threads_));
    }
    if (threads_ == 1) return;
    std::vector<std::function<void()>> const calls(ready_.serial_calls.begin(), ready_.serial_calls.begin() + threads_);
    for (int run = 0; run < runs; ++run) calls_ = std::max(calls_, calls_per_second(calls));
  }
  double peak() const { return peak_; }
  double bandwidth() const { return bandwidth_; }
  double calls() const { return calls_; }

 private:
  attention_benchmark const& what_;
  prepared const& ready_;
  int threads_;
  double peak_ = 0, bandwidth_ = 0, calls_ = 0;
};

void measure(benchmark::State& state, attention_benchmark const& what, int threads) {
  using clock = std::chrono::steady_clock;
  prepared const& ready = prepare(what, threads);
  ceilings machine(what, ready, threads);

  machine.sample();
  auto const begin = clock::now();
  for (auto _ : state) ready.call.run(attend::threads{threads});
  double const seconds =
      std::chrono::duration<double>(clock::now() - begin).count() / static_cast<double>(state.iterations());
  machine.sample();

  double const flops = flops_of(what);
  state.counters["peak_fraction"] = flops / seconds / machine.peak();
  state.counters["flops"] = flops / seconds;
  state.counters["bytes"] = bytes_of(what);
  if (threads > 1) state.counters["scaling_fraction"] = 1 / seconds / machine.calls();
  if (what.pairs_of_head > 0 && ready.call.count)
    state.counters["work_ratio"] =
        ready.pairs_computed / (what.pairs_of_head * static_cast<double>(what.shape.batch * what.shape.query_heads));
  state.counters["scratch_bytes"] = static_cast<double>(ready.scratch_bytes);
  if (what.limited_by == limit::bandwidth)
    state.counters["bandwidth_fraction"] = bytes_of(what) / seconds / machine.bandwidth();
  if (what.limited_by == limit::overhead) state.counters["overhead_us"] = (seconds - flops / machine.peak()) * 1e6;
}

std::vector<int>& asked_threads() {
  static std::vector<int> threads;
  return threads;
}

std::vector<std::string>& paths_that_read_memory() {
  static std::vector<std::string> paths;
  return paths;
}

}  // namespace

void ask_for_threads(std::vector<int> const& threads) { asked_threads() = threads; }

void register_attention(attention_benchmark const& what, std::vector<int> const& threads) {
  for (int const count : asked_threads().empty() ? threads : asked_threads()) {
    std::string const path = path_without_threads(what) + "/t" + std::to_string(count);
    if (what.limited_by == limit::bandwidth) paths_that_read_memory().push_back(path);
    benchmark::RegisterBenchmark(path.c_str(), [=](benchmark::State& state) {
      measure(state, what, count);
    })->Unit(flops_of(what) < 1e8 ? benchmark::kMicrosecond : benchmark::kMillisecond);
  }
}

bool reads_memory(std::string const& filter) {
  if (filter.empty() || filter == "all") return !paths_that_read_memory().empty();
  bool const inverted = filter[0] == '-';
  std::regex const pattern(filter.substr(inverted), std::regex::extended);
  for (std::string const& path : paths_that_read_memory())
    if (std::regex_search(path, pattern) != inverted) return true;
  return false;
}

}  // namespace attend_bench
