// SPDX-License-Identifier: BSD-3-Clause
// Whether time depends on data: each row's time with each class of numbers over its time with normal ones.
//
//   attend_data                 all rows, in a minute or two
//   attend_data --only latent   rows whose names have this in them
//   attend_data --most 1.3      exits with 1 where a ratio is larger; without it, ratios are only printed
//
// Classes are measured by turns, so that what else the machine does meets all of them; times are lower quartiles.
#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <iomanip>
#include <iostream>
#include <optional>

#include "data_rows.hpp"

namespace attend_bench {
namespace {

constexpr int rounds = 13;

std::string path_of(attention_benchmark const& what) {
  return what.family + "/" + name_of(what.type) + "/" + what.mask;
}

/// Of the processor: what other programs take does not count.
double seconds_of(attention_call const& call, int calls) {
  std::clock_t const begin = std::clock();
  for (int i = 0; i < calls; ++i) call.run(attend::threads{1});
  return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC / calls;
}

double lower_quartile(std::vector<double> times) {
  auto const at = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 4);
  std::nth_element(times.begin(), at, times.end());
  return *at;
}

/// Prints a row, and gives its largest ratio.
double measure(data_row const& row) {
  constexpr double min_seconds = 0.003;
  std::vector<attention_call> calls;
  for (data_class const data : data_classes) calls.push_back(row.prepare(data));
  // The first call takes memory; the second says how many the clock needs with normal numbers.
  for (attention_call const& call : calls) call.run(attend::threads{1});
  int const times = std::max(1, static_cast<int>(min_seconds / std::max(seconds_of(calls[0], 1), 1e-7)));
  std::vector<std::vector<double>> seconds(calls.size());
  for (int round = 0; round < rounds; ++round)
    for (std::size_t i = 0; i < calls.size(); ++i) seconds[i].push_back(seconds_of(calls[i], times));
  double const normal = lower_quartile(seconds[0]);
  double largest = 0;
  std::cout << std::left << std::setw(44) << path_of(row.what) << std::right << std::fixed << std::setprecision(3)
            << std::setw(10) << normal * 1e3 << std::setprecision(2);
  for (std::size_t i = 1; i < calls.size(); ++i) {
    double const ratio = lower_quartile(seconds[i]) / normal;
    largest = std::max(largest, ratio);
    std::cout << std::setw(11) << ratio;
  }
  std::cout << std::endl;
  return largest;
}

struct data_options {
  std::string only;
  std::optional<double> most;
};

std::optional<data_options> parse(int count, char** arguments) {
  data_options given;
  for (int i = 1; i < count; i += 2) {
    std::string const name = arguments[i];
    if (i + 1 == count) return std::nullopt;
    char* end = arguments[i + 1];
    if (name == "--only")
      given.only = arguments[i + 1];
    else if (name == "--most" && (given.most = std::strtod(arguments[i + 1], &end), *end != '\0' || !(*given.most > 0)))
      return std::nullopt;
    else if (name != "--most")
      return std::nullopt;
  }
  return given;
}

int run(data_options const& options) {
  std::vector<data_row> rows = all_data_rows();
  std::erase_if(rows, [&](data_row const& row) { return path_of(row.what).find(options.only) == std::string::npos; });
  if (rows.empty()) {
    std::cerr << "attend_data: --only: expected a part of a row's name, got '" << options.only << "'\n";
    return 2;
  }
  std::cout << std::left << std::setw(44) << "row" << std::right << std::setw(10) << "normal, ms";
  for (data_class const data : data_classes)
    if (data != data_class::normal) std::cout << std::setw(11) << name_of(data);
  std::cout << '\n';
  double largest = 0;
  for (data_row const& row : rows) largest = std::max(largest, measure(row));
  std::cout << "largest ratio: " << largest << '\n';
  return options.most && largest > *options.most ? 1 : 0;
}

}  // namespace
}  // namespace attend_bench

int main(int argument_count, char** arguments) {
  auto const options = attend_bench::parse(argument_count, arguments);
  if (!options) {
    std::cerr << "usage: attend_data [--only PART_OF_A_NAME] [--most RATIO]\n";
    return 2;
  }
  return attend_bench::run(*options);
}
