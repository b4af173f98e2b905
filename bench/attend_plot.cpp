// SPDX-License-Identifier: BSD-3-Clause
// Draws what the benchmarks measured, from their JSON: no machine but the one that measured enters the pictures.
//
//   attend_bench --benchmark_format=json > benchmark.json
//   attend_compare --json > compare.json
//   attend_plot benchmark.json compare.json FOLDER
//
// writes into the folder, as SVG,
//   roofline_tN.svg               of the benchmarks on N threads that count operations and bytes
//   decode_tN.svg                 of those that are limited by reading: time against bytes, of one sequence
//   error_against_time_NAME.svg   for each problem of the comparison
// with the ceilings of their own process: the best of those that it measured when it began and beside each benchmark.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <regex>
#include <stdexcept>

#include "performance_charts.hpp"

namespace attend_bench {
namespace {

using nlohmann::json;

json read(std::filesystem::path const& path) {
  std::ifstream file(path);
  json document = json::parse(file, nullptr, false);
  if (document.is_discarded())
    throw std::runtime_error(path.string() + ": expected the JSON of attend_bench or attend_compare");
  return document;
}

/// How many of something, and what they were measured with.
std::string note_of(std::size_t count, std::string const& what, json const& machine) {
  return std::to_string(count) + ' ' + what + "; " + machine.value("instruction_set", "") + ", " +
         machine.value("compiler", "") + ", flags " + machine.value("compiler_flags", "");
}

void write(std::filesystem::path const& path, chart what, std::string const& note) {
  what.note = note;
  std::ofstream file(path);
  file << as_svg(what);
  if (!file.flush()) throw std::runtime_error(path.string() + ": cannot be written");
  std::cout << path.string() << '\n';
}

/// A rate of the document's context, in units; 0 if it was not measured.
double context_rate(json const& document, std::string const& name, std::string const& threads) {
  return 1e9 * std::stod(document["context"].value(name + "_t" + threads, "0"));
}

/// What the benchmarks on one number of threads found out.
struct thread_results {
  machine_limits machine;
  std::vector<measured_call> calls, reading;
};

/// The first two parts of a family.
std::string group_of(std::string const& family) { return family.substr(0, family.find('/', family.find('/') + 1)); }

/// By the number of threads, from names as family/type/bBATCH/.../tTHREADS.
std::map<std::string, thread_results> read_benchmarks(json const& document) {
  static std::regex const form("(.*)/(f32|f64|f16|bf16)/b([0-9]+)/.*/t([0-9]+)");
  std::map<std::string, double> const seconds_in = {{"ns", 1e-9}, {"us", 1e-6}, {"ms", 1e-3}, {"s", 1}};
  std::map<std::string, thread_results> by_threads;
  for (json const& one : document["benchmarks"]) {
    std::string const name = one.value("name", "");
    std::smatch part;
    if (!one.contains("bytes") || one.value("run_type", "") != "iteration" || !std::regex_match(name, part, form))
      continue;
    std::string const threads = part[4];
    auto const [entry, is_new] = by_threads.try_emplace(threads);
    thread_results& results = entry->second;
    if (is_new)
      results.machine = {context_rate(document, "fma_peak_gflops", threads),
                         context_rate(document, "read_bandwidth_gigabytes", threads)};
    double const seconds = one.at("real_time").get<double>() * seconds_in.at(one.at("time_unit").get<std::string>());
    double const rate = one.at("flops").get<double>(), bytes = one.at("bytes").get<double>();
    results.calls.push_back({name, group_of(part[1]), seconds, rate * seconds, bytes});
    results.machine.peak = std::max(results.machine.peak, rate / one.at("peak_fraction").get<double>());
    if (!one.contains("bandwidth_fraction")) continue;
    double const sequences = std::stod(part[3]), fraction = one["bandwidth_fraction"].get<double>();
    results.machine.bandwidth = std::max(results.machine.bandwidth, bytes / seconds / fraction);
    results.reading.push_back({name, part[1].str() + ' ' + part[2].str(), seconds / sequences,
                               rate * seconds / sequences, bytes / sequences});
  }
  return by_threads;
}

void plot_benchmarks(json const& document, std::filesystem::path const& folder) {
  for (auto const& [threads, results] : read_benchmarks(document)) {
    std::string const on = " on " + threads + (threads == "1" ? " thread" : " threads");
    auto const note = [&](std::vector<measured_call> const& calls) {
      return note_of(calls.size(), "benchmarks", document["context"]);
    };
    write(folder / ("roofline_t" + threads + ".svg"), roofline("Roofline" + on, results.calls, results.machine),
          note(results.calls));
    if (results.reading.empty()) continue;
    write(folder / ("decode_t" + threads + ".svg"),
          decode_against_bytes("Decoding: time against bytes of one sequence" + on, results.reading, results.machine),
          note(results.reading));
  }
}

void plot_comparison(json const& document, std::filesystem::path const& folder) {
  std::string const threads = "; threads " + std::to_string(document.value("threads", 1));
  for (json const& problem : document["problems"]) {
    std::vector<measured_error> variants;
    // JSON has no word for an infinite error.
    for (json const& one : problem.at("variants"))
      if (one.at("error").is_number()) variants.push_back({one.at("name"), one.at("milliseconds"), one["error"]});
    std::string const name = problem.at("name");
    std::string file = "error_against_time_" + name + ".svg";
    std::replace_if(file.begin(), file.end(), [](unsigned char c) { return !std::isalnum(c) && c != '.'; }, '_');
    write(folder / file, error_against_time("Error against time: " + name, variants),
          note_of(variants.size(), "variants", document["machine"]) + threads);
  }
}

void plot(std::vector<std::filesystem::path> const& documents, std::filesystem::path const& folder) {
  for (auto const& path : documents) {
    json const document = read(path);
    if (document.contains("benchmarks"))
      plot_benchmarks(document, folder);
    else if (document.contains("problems"))
      plot_comparison(document, folder);
    else
      throw std::runtime_error(path.string() + ": expected the JSON of attend_bench or attend_compare");
  }
}

}  // namespace
}  // namespace attend_bench

int main(int argument_count, char** arguments) {
  if (argument_count < 3) {
    std::cerr << "usage: attend_plot FILE.json... FOLDER\n";
    return 2;
  }
  try {
    attend_bench::plot({arguments + 1, arguments + argument_count - 1}, arguments[argument_count - 1]);
  } catch (std::exception const& error) {
    std::cerr << "attend_plot: " << error.what() << '\n';
    return 1;
  }
}
