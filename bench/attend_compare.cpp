// SPDX-License-Identifier: BSD-3-Clause
// Compares all variants on the same problem: how long each takes, how much of the machine that is, and how far its
// output is from exact softmax attention; or, with --select and --cache, the systems that attend to chosen or kept
// keys. `attend_compare --help` says what it can be asked.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <iostream>
#include <map>
#include <utility>

#include "ceilings.hpp"
#include "compare_html.hpp"
#include "compare_options.hpp"
#include "compare_problem.hpp"
#include "compare_report.hpp"
#include "compare_selection.hpp"
#include "compare_softmax.hpp"
#include "compare_variant.hpp"
#include "scratch_of.hpp"

namespace attend_bench {
namespace {

enum exit_code { success = 0, failure = 1, wrong_options = 2 };

std::vector<variant> all_variants() {
  std::vector<variant> all;
  for (auto const list : {mask_variants, pattern_variants, head_variants, storage_variants, cache_variants,
                          slot_variants, normalizer_variants, score_variants, selective_variants, linear_variants})
    for (variant& one : list()) all.push_back(std::move(one));
  return all;
}

double seconds_of(prepared_variant const& prepared, attend::threads threads, int calls) {
  auto const begin = std::chrono::steady_clock::now();
  for (int call = 0; call < calls; ++call) prepared.run(threads);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / calls;
}

double peak_of(element_type type, int threads) {
  return type == element_type::f64 ? fma_peak<double>(threads) : fma_peak<float>(threads);
}

struct speed {
  double seconds, peak_fraction, bandwidth_fraction;
};

/// The median of repetitions, each of as many calls as the clock needs; and what the machine can do between them.
speed measure(prepared_variant const& prepared, compare_options const& options) {
  constexpr double min_seconds = 0.002;
  constexpr int max_calls = 10'000;
  attend::threads const threads{options.threads};
  double const once = std::max(seconds_of(prepared, threads, 1), min_seconds / max_calls);
  int const calls = std::max(1, static_cast<int>(min_seconds / once));
  double peak = 0, bandwidth = 0;
  auto const sample_ceilings = [&] {
    peak = std::max(peak, peak_of(prepared.type, options.threads));
    if (prepared.bytes > 0) bandwidth = std::max(bandwidth, read_bandwidth(options.threads));
  };
  sample_ceilings();
  std::vector<double> times;
  for (int repetition = 0; repetition < options.repetitions; ++repetition) {
    times.push_back(seconds_of(prepared, threads, calls));
    sample_ceilings();
  }
  auto const middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return {*middle, prepared.operations / *middle / peak, prepared.bytes > 0 ? prepared.bytes / *middle / bandwidth : 0};
}

double largest(std::vector<double> const& numbers) {
  double result = 0;
  for (double const number : numbers) result = std::max(result, std::abs(number));
  return result;
}

double largest_difference(std::vector<double> const& got, std::vector<double> const& expected) {
  double result = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    double const difference = std::abs(got[i] - expected[i]);
    // A NaN where a number is expected is as far away as can be.
    result = std::max(result, std::isnan(difference) ? attend::extend::infinity<double> : difference);
  }
  return result;
}

double largest_ratio(std::vector<double> const& got, defined_rows const& expected) {
  double result = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    double const difference = std::abs(got[i] - expected.output[i]);
    if (difference != 0)
      result = std::max(result,
                        std::isnan(difference) ? attend::extend::infinity<double> : difference / expected.allowed[i]);
  }
  return result;
}

double relative(double difference, double to) { return to > 0 ? difference / to : difference; }

/// Exact softmax attention of a problem, in double, once for each mask.
class exact_attention {
 public:
  exact_attention(problem const& p, row_sample const& rows) : problem_(p), rows_(rows) {}

  std::vector<double> const& under(attend::window const& mask) {
    auto const [entry, is_new] = known_.try_emplace({mask.left, mask.right});
    if (is_new) {
      reference::options options;
      options.visible = reference::sliding_window(mask.left, mask.right);
      entry->second = define(rows_, problem_.query, problem_.key, problem_.value, options).output;
    }
    return entry->second;
  }

 private:
  problem const& problem_;
  row_sample rows_;
  std::map<std::pair<index_t, index_t>, std::vector<double>> known_;
};

/// Query, key, value and output, once each.
double tensor_bytes(problem const& p, element_type type) {
  index_t const queries = p.heads() * p.queries() * (p.dimension() + p.value_dimension());
  index_t const keys = p.keys() * (p.key_heads() * p.dimension() + p.value_heads() * p.value_dimension());
  return with_element_type(type, [&]<class T>() {
    return static_cast<double>(sizeof(T)) * static_cast<double>(p.batch() * (queries + keys));
  });
}

comparison compare(problem const& p, variant const& one, prepared_variant const& prepared,
                   std::vector<double> const& exact, row_sample const& rows, compare_options const& options) {
  comparison row{one.name, one.what, prepared.type};
  row.scratch_bytes = scratch_of([&] { prepared.run(attend::threads{1}); });

  speed const measured = measure(prepared, options);
  row.milliseconds = measured.seconds * 1e3;
  row.gigaflops = prepared.operations / measured.seconds / 1e9;
  row.peak_fraction = measured.peak_fraction;
  row.bytes = prepared.bytes > 0 ? prepared.bytes : tensor_bytes(p, prepared.type);
  if (prepared.bytes > 0) row.bandwidth_fraction = measured.bandwidth_fraction;

  std::vector<double> const output = prepared.output(rows);
  defined_rows const definition = prepared.definition(rows);
  row.error = relative(largest_difference(output, exact), largest(exact));
  row.rounding = relative(largest_difference(output, definition.output), largest(definition.output));
  row.rounding_of_allowed = largest_ratio(output, definition);
  return row;
}

compared_problem compare_on(problem const& p, std::vector<variant> const& variants, compare_options const& options) {
  if (!holds(options.type, p))
    throw std::runtime_error(p.name + ": some numbers are too large for " + name_of(options.type));
  // The library's own checks say whether the tensors belong together, before anybody else relies on it.
  plain_softmax(p, options.type, p.mask).run(attend::threads{1});
  row_sample const rows(p);
  exact_attention exact(p, rows);
  compared_problem result(p, rows);
  for (std::size_t i = 0; i < variants.size(); ++i) {
    variant const& one = variants[i];
    std::cerr << p.name << ": " << one.name << " (" << i + 1 << " of " << variants.size() << ")";
    std::optional<prepared_variant> const prepared = one.prepare(p, options.type);
    std::cerr << (prepared ? "\n" : ": does not fit, left out\n");
    if (!prepared) continue;
    attend::window const mask = one.causal ? intersection_of(p.mask, {-1, 0}) : p.mask;
    result.rows.push_back(compare(p, one, *prepared, exact.under(mask), rows, options));
  }
  return result;
}

/// The best of some runs.
machine_limits limits_of(compare_options const& options) {
  constexpr int runs = 5;
  machine_limits best;
  for (int run = 0; run < runs; ++run) {
    best.peak = std::max(best.peak, peak_of(options.type, options.threads));
    best.bandwidth = std::max(best.bandwidth, read_bandwidth(options.threads));
  }
  return best;
}

int run(compare_options const& options) {
  if (options.chooses()) {
    compare_selectors(options);
    return success;
  }
  std::ofstream page;
  auto const check_page = [&] {
    if (options.html && !page) throw std::runtime_error(options.html->string() + ": cannot be written");
  };
  // A wrong path is told before the minutes that measuring takes.
  if (options.html) page.open(*options.html);
  check_page();
  std::vector<variant> const variants = chosen_by_name(all_variants(), options.only);
  std::vector<compared_problem> compared;
  std::vector<problem> problems = make_problems(options);
  if (!options.has_shape && !options.query) problems.push_back(decoding_problem(options));
  for (problem const& p : problems) {
    compared_problem result = compare_on(p, variants, options);
    if (!result.rows.empty()) compared.push_back(std::move(result));
  }
  if (compared.empty())
    throw option_error("--only: expected a variant that fits the problem, got '" + *options.only + "'");

  if (options.html) write_html(page, compared, limits_of(options), options);
  page.flush();
  check_page();
  if (options.json)
    std::cout << as_json(compared, options).dump(1) << '\n';
  else
    print_tables(std::cout, compared, options);
  if (passed(compared)) return success;
  std::cerr << "attend_compare: a result is further from its definition than rounding explains\n";
  return failure;
}

}  // namespace
}  // namespace attend_bench

int main(int argument_count, char** arguments) {
  using namespace attend_bench;
  try {
    compare_options const options = parse_compare_options({arguments + 1, arguments + argument_count});
    if (options.help) {
      std::cout << compare_usage();
      return success;
    }
    return run(options);
  } catch (option_error const& error) {
    std::cerr << "attend_compare: " << error.what() << '\n';
    return wrong_options;
  } catch (std::bad_alloc const&) {
    std::cerr << "attend_compare: not enough memory for this problem\n";
    return failure;
  } catch (std::exception const& error) {
    std::cerr << "attend_compare: " << error.what() << '\n';
    return failure;
  }
}
