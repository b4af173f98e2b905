// SPDX-License-Identifier: BSD-3-Clause
// The comparison of selectors: runs each on each problem and budget, and holds it against exact attention in double.
#include "compare_selection.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <iostream>

#include "ceilings.hpp"
#include "compare_selection_report.hpp"
#include "compare_softmax.hpp"

namespace attend_bench {
namespace {

constexpr double budgets[] = {0.02, 0.05, 0.1, 0.2, 0.5};

std::vector<selector> all_selectors(compare_options const& options) {
  std::vector<selector> all = exact_selectors();
  auto const add = [&](auto... lists) {
    for (auto const list : {lists...})
      for (selector& one : list()) all.push_back(std::move(one));
  };
  if (options.select) add(page_selectors, token_selectors, graph_selectors, prefill_selectors, encoder_selectors);
  if (options.cache) add(kept_selectors);
  return all;
}

/// Exact weights and outputs of sampled rows.
struct exact_rows {
  reference::result result;

  exact_rows(selection_problem const& p, row_sample const& rows, bool causal) {
    reference::options options;
    if (causal) options.visible = reference::causal_bottom_right();
    result = define(rows, p.query, p.key, p.value, options);
  }
};

struct closeness {
  std::optional<double> keys_fraction, recall;
  double error, bytes;
};

/// Keys that a query sees, in prefill.
double mean_keys_seen(selection_problem const& p, bool causal) {
  return window_pairs(p.queries(), p.keys(), -1, causal ? 0 : -1) / static_cast<double>(p.queries());
}

/// Runs all steps once.
closeness compare_with(exact_rows const& exact, prepared_selector const& prepared, selection_problem const& p,
                       row_sample const& rows, attend::tensor_view<float, 4> const& output, bool causal,
                       attend::threads threads) {
  double keys = 0, weight_sum = 0, difference = 0, size = 0, bytes = 0;
  std::vector<std::int32_t> chosen;
  index_t const steps = p.steps();
  for (index_t step = 0; step < steps; ++step) {
    prepared.run(step, threads);
    bytes += prepared.bytes() / static_cast<double>(steps);
    for (index_t i = 0; i < rows.count; ++i) {
      index_t const query = rows[i];
      if (steps > 1 && query != step) continue;
      for (index_t b = 0; b < p.batch(); ++b)
        for (index_t h = 0; h < p.heads(); ++h) {
          auto const row = static_cast<std::size_t>((b * p.heads() + h) * rows.count + i);
          double const* const expected = &exact.result.output[row * static_cast<std::size_t>(p.value_dimension())];
          for (index_t c = 0; c < p.value_dimension(); ++c) {
            double const apart = static_cast<double>(output(b, h, query, c)) - expected[c];
            difference += apart * apart;
            size += expected[c] * expected[c];
          }
          if (prepared.log_sum_exp)
            weight_sum += std::exp(prepared.log_sum_exp({b, h, query}) - exact.result.log_sum_exp[row]);
          if (!prepared.chosen) continue;
          chosen.clear();
          prepared.chosen({b, h, query}, chosen);
          double const* const weights = &exact.result.weights[row * static_cast<std::size_t>(p.keys())];
          index_t const seen = causal && p.when == phase::prefill ? p.keys() - p.queries() + query + 1 : p.keys();
          index_t count = 0;
          for (std::int32_t const key : chosen) {
            count += key < seen;
            weight_sum += weights[key];
          }
          keys += static_cast<double>(count) / static_cast<double>(seen);
        }
    }
  }
  double const all_rows = static_cast<double>(p.batch() * p.heads() * rows.count);
  closeness result{{}, {}, std::sqrt(difference / size), bytes};
  if (prepared.keys_of_row) keys = prepared.keys_of_row() / mean_keys_seen(p, causal) * all_rows;
  if (prepared.chosen || prepared.keys_of_row) result.keys_fraction = keys / all_rows;
  if (prepared.chosen || prepared.log_sum_exp) result.recall = weight_sum / all_rows;
  return result;
}

/// The median of a step's time, over repetitions that together take no longer than the clock needs. A cache that has
/// more keys and values than a last-level cache finds nothing of them there from step to step of a model, which reads
/// other layers and its weights in between: here other memory is read before the first step.
double milliseconds_of(prepared_selector const& prepared, selection_problem const& p, compare_options const& options) {
  constexpr double enough_seconds = 0.05, last_level_cache = 32e6;
  index_t const steps = p.steps();
  bool const is_cold = p.when == phase::decode &&
                       p.row_bytes() * static_cast<double>(p.batch() * p.key_heads() * p.keys()) > last_level_cache;
  using clock = std::chrono::steady_clock;
  auto const start = clock::now();
  auto const seconds_since = [](clock::time_point begin) {
    return std::chrono::duration<double>(clock::now() - begin).count();
  };
  std::vector<double> times;
  do {
    if (is_cold) read_bandwidth(1);
    auto const begin = clock::now();
    for (index_t step = 0; step < steps; ++step) prepared.run(step, attend::threads{options.threads});
    times.push_back(1e3 * seconds_since(begin) / static_cast<double>(steps));
  } while (seconds_since(start) < enough_seconds && static_cast<int>(times.size()) < options.repetitions);
  auto const middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

void compare_on(selection_problem const& p, std::vector<selector> const& selectors, compare_options const& options,
                std::vector<selection_result>& results) {
  row_sample const rows(p.batch() * p.heads(), p.queries(), p.keys());
  std::optional<exact_rows> exact[2];  // causal or not
  double dense_milliseconds[2], dense_bytes[2];
  tensor<float> output({p.batch(), p.heads(), p.queries(), p.value_dimension()});

  for (bool const causal : {false, true}) {
    auto const of_kind = [&](selector const& one) { return one.when == p.when && one.causal == causal; };
    if (std::none_of(selectors.begin(), selectors.end(), of_kind)) continue;
    exact[causal].emplace(p, rows, causal);
    prepared_selector const dense = dense_attention(p, output.view(), causal);
    dense.run(0, attend::threads{options.threads});
    dense_milliseconds[causal] = milliseconds_of(dense, p, options);
    dense_bytes[causal] = dense.bytes();
  }
  for (selector const& one : selectors) {
    if (one.when != p.when) continue;
    for (double const budget : budgets) {
      bool const once = one.whole;
      std::optional<prepared_selector> const prepared = one.prepare(p, output.view(), once ? 1 : budget);
      std::cerr << p.name << ", " << name_of(p.when) << ": " << one.name;
      if (!prepared) {
        std::cerr << ": does not fit, left out\n";
        break;
      }
      std::cerr << (once ? std::string() : " at " + std::to_string(static_cast<int>(std::lround(100 * budget))) + "%")
                << '\n';
      closeness const close = compare_with(*exact[one.causal], *prepared, p, rows, output.view(), one.causal,
                                           attend::threads{options.threads});
      double const milliseconds = milliseconds_of(*prepared, p, options);
      results.push_back({p.name, name_of(p.when), one.name, one.what, once ? 1 : budget, milliseconds,
                         close.bytes / 1e6, dense_milliseconds[one.causal] / milliseconds,
                         close.bytes / dense_bytes[one.causal], close.keys_fraction, close.recall, close.error});
      if (once) break;
    }
  }
}

}  // namespace

void compare_selectors(compare_options const& options) {
  std::vector<selector> const selectors = chosen_by_name(all_selectors(options), options.only);
  std::vector<selection_result> results;
  for (selection_problem const& p : make_selection_problems(options)) compare_on(p, selectors, options, results);
  if (results.empty())
    throw option_error("--only: expected a selector that fits the problem, got '" + *options.only + "'");
  if (options.csv) {
    std::ofstream file(*options.csv);
    write_selection_csv(file, results);
    if (!file.flush()) throw std::runtime_error(options.csv->string() + ": cannot be written");
  }
  if (options.json)
    std::cout << selection_as_json(results, options).dump(1) << '\n';
  else
    print_selection(std::cout, results, options);
}

}  // namespace attend_bench
