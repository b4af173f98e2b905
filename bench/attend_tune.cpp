// SPDX-License-Identifier: BSD-3-Clause
// Which of the machine's numbers (core/machine.hpp) are worth replacing on the machine at hand:
//
//   attend_tune                       tries all of them, in less than two minutes
//   attend_tune read_ahead wake       these words alone
//
// A process decides its numbers once, so each candidate is measured by a process of its own: this program, started
// again with the candidate's word in ATTEND_MACHINE. Words that stand there already are what candidates are held
// against. The candidates of a word take turns, since a machine's speed changes with time. A gain is time without /
// time with the word, the geometric mean over the rows: of the least times of all turns, to which other processes add
// least, and as the median of the gains within each turn. Among the candidates is one that changes nothing, and gains
// what chance gives. A word that gains more by both is kept for the words after it, and all that were kept are measured
// once more, since the best of several candidates owes some of its gain to chance as well.
//
// The machine should have nothing else to do.
#include <attend/core/machine.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "tune_rows.hpp"

namespace attend_bench {
namespace {

using attend::index_t;

/// A word, the numbers to try, and the rows that it decides something of.
struct tuned_word {
  char const* name;
  std::vector<index_t> numbers;
  std::vector<char const*> rows;
};

std::vector<tuned_word> words_to_try() {
  std::vector<char const*> const reads{"read/f32", "read/bf16"}, pairs{"prefill/bf16/d64", "prefill/bf16/d128"},
      blocks{"prefill/f32/d64", "prefill/f32/d128", "prefill/f32/d256", "prefill/bf16/d128"};
  return {{"non_temporal", {0, 1}, reads},
          {"pages_in_turns", {0, 1}, reads},
          {"read_ahead", {4096, 8192, 12288, 18432, 24576}, reads},
          {"matrix_unit", {0}, pairs},
          {"pair_instructions", {0, 1}, pairs},
          {"wake", {1250, 2500, 3500, 5000, 10000, 20000}, {"small/32", "small/48", "small/64", "small/128"}},
          {"relay_bytes", {131072, 262144, 524288, 1048576, 2097152}, {"shared_state/256k", "shared_state/1m"}},
          {"block_bytes", {65536, 131072, 262144, 524288}, blocks},
          {"tile_bytes", {153600, 307200, 614400, 1228800}, blocks},
          {"split_bytes",
           {262144, 1048576, 16777216, 268435456},
           {"few_rows/f32/one_vector/512k", "few_rows/f32/one_vector/4m", "few_rows/bf16/one_vector/512k",
            "few_rows/bf16/one_vector/4m", "few_rows/f32/three_halves/512k", "few_rows/bf16/three_halves/4m"}},
          {"part_work", {500000, 2000000, 8000000, 32000000}, {"few_tiles/1k", "few_tiles/4k"}},
          {"chunk_work", {12500, 25000, 50000, 100000}, {"state/d64", "state/d128", "state/d64/delta"}},
          {"latent_rows", {512, 1024, 2048, 4096}, {"latent"}},
          {"mixture_rows", {2048, 4096, 8192, 16384}, {"mixture"}}};
}

/// How long each row is measured, and how often.
struct effort {
  bool quick = false;
  double seconds() const { return quick ? 0 : 0.04; }
  int turns() const { return quick ? 1 : 5; }
};

/// Seconds of each row in a process with these words.
std::vector<double> measure(std::string const& program, std::string const& words, std::span<char const* const> rows,
                            effort const& how) {
  setenv("ATTEND_MACHINE", words.c_str(), 1);
  std::string command = "'" + program + "' --measure" + (how.quick ? " --quick" : "");
  for (char const* const row : rows) command += std::string(" ") + row;
  std::vector<double> seconds;
  if (std::FILE* const output = popen(command.c_str(), "r")) {
    for (double one = 0; std::fscanf(output, "%lf", &one) == 1;) seconds.push_back(one);
    pclose(output);
  }
  if (seconds.size() != rows.size()) throw std::runtime_error("no times from " + command + " with " + words);
  return seconds;
}

/// What the process that measure() starts does.
int print_seconds(std::span<char* const> names, effort const& how) {
  for (char const* const name : names) {
    tuned_row const* const row = find_tuned_row(name);
    if (!row) return 2;
    std::printf("%.9f\n", row->seconds(how.seconds(), how.quick));
  }
  return 0;
}

double geometric_mean(std::vector<double> const& numbers) {
  double product = 1;
  for (double const number : numbers) product *= number;
  return std::pow(product, 1 / static_cast<double>(numbers.size()));
}

/// What a candidate gains.
class gains {
 public:
  /// Adds the seconds of each row in one turn.
  void add(std::vector<double> const& without, std::vector<double> const& with) {
    if (means_.empty()) least_without_ = without, least_with_ = with;
    std::vector<double> ratios;
    for (std::size_t row = 0; row < with.size(); ++row) {
      least_without_[row] = std::min(least_without_[row], without[row]);
      least_with_[row] = std::min(least_with_[row], with[row]);
      ratios.push_back(without[row] / with[row]);
    }
    means_.push_back(geometric_mean(ratios));
  }

  /// By the least times of each row.
  double least() const {
    std::vector<double> ratios;
    for (std::size_t row = 0; row < least_with_.size(); ++row) ratios.push_back(of_row(row));
    return geometric_mean(ratios);
  }

  /// Whether a candidate gains more than chance gives, which is what `nothing` gained, and no row pays much for the
  /// others.
  bool worth_setting(gains const& nothing) const {
    return least() >= 1.03 * std::max(nothing.least(), 1.0) && median() >= 1.03 * std::max(nothing.median(), 1.0) &&
           of_row(worst_row()) >= 0.95;
  }

  void print(std::string const& word, std::span<char const* const> rows) const {
    std::printf("%-24s gain %5.3f by least times, %5.3f by the median, %5.3f in the worst row %s\n", word.c_str(),
                least(), median(), of_row(worst_row()), rows[worst_row()]);
    std::fflush(stdout);
  }

 private:
  double of_row(std::size_t row) const { return least_without_[row] / least_with_[row]; }
  std::size_t worst_row() const {
    std::size_t worst = 0;
    for (std::size_t row = 1; row < least_with_.size(); ++row)
      if (of_row(row) < of_row(worst)) worst = row;
    return worst;
  }
  double median() const {
    std::vector<double> means = means_;
    std::sort(means.begin(), means.end());
    return means[means.size() / 2];
  }

  std::vector<double> least_without_, least_with_;
  std::vector<double> means_;  // of the rows, in each turn
};

/// The gains of each of some candidates, which are words behind those of `base`, over `base` alone; the last one is
/// that of no word.
std::vector<gains> compare(std::string const& program, std::string const& base, std::vector<std::string> candidates,
                           std::span<char const* const> rows, effort const& how) {
  candidates.push_back("");
  std::vector<gains> all(candidates.size());
  std::vector<std::vector<double>> times(candidates.size() + 1);
  for (int turn = 0; turn < how.turns(); ++turn) {
    for (std::size_t i = 0; i < times.size(); ++i) {
      std::size_t const at = (i + static_cast<std::size_t>(turn)) % times.size();
      times[at] = measure(program, at == 0 ? base : base + ' ' + candidates[at - 1], rows, how);
    }
    for (std::size_t i = 0; i < all.size(); ++i) all[i].add(times[0], times[i + 1]);
  }
  return all;
}

/// The number that the process has for a word, as it is written.
std::string number_of(char const* word) {
  std::string const all = ' ' + attend::detail::machine::here().words() + ' ', sign = std::string(" ") + word + '=';
  std::size_t const first = all.find(sign) + sign.size();
  return all.substr(first, all.find(' ', first) - first);
}

void tune(std::string const& program, std::vector<tuned_word> const& words, effort const& how) {
  std::string const machine = attend::detail::machine::here().words();
  std::printf("%s\n\n", machine.c_str());
  struct kept_word {
    std::string word;
    tuned_word const* of;
  };
  std::vector<kept_word> kept;
  std::string base = machine;
  for (tuned_word const& word : words) {
    std::vector<std::string> candidates;
    for (index_t const number : word.numbers)
      if (std::to_string(number) != number_of(word.name))
        candidates.push_back(std::string(word.name) + '=' + std::to_string(number));
    if (candidates.empty()) continue;
    std::vector<gains> const all = compare(program, base, candidates, word.rows, how);
    std::size_t best = 0;
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      all[i].print(candidates[i], word.rows);
      if (all[i].least() > all[best].least()) best = i;
    }
    all.back().print("no word", word.rows);
    if (!all[best].worth_setting(all.back())) continue;
    kept.push_back({candidates[best], &word});
    base += ' ' + candidates[best];
  }

  std::printf("\nAll that gained, once more:\n");
  std::string worth;
  for (auto const& [word, of] : kept) {
    std::vector<gains> const again = compare(program, machine, {base}, of->rows, how);
    again[0].print(word, of->rows);
    if (again[0].worth_setting(again[1])) worth += (worth.empty() ? "" : " ") + word;
  }
  if (worth.empty())
    std::printf("No word gains 3%% on this machine.\n");
  else
    std::printf("\nATTEND_MACHINE=\"%s\"\n", worth.c_str());
}

int run(int count, char** arguments) {
  effort how;
  std::vector<tuned_word> const all = words_to_try();
  std::vector<tuned_word> wanted;
  for (int i = 1; i < count; ++i) {
    std::string const argument = arguments[i];
    if (argument == "--quick") {
      how.quick = true;
      continue;
    }
    if (argument == "--measure") {
      bool const quick = i + 1 < count && std::strcmp(arguments[i + 1], "--quick") == 0;
      how.quick = quick;
      return print_seconds({arguments + i + 1 + quick, arguments + count}, how);
    }
    auto const found =
        std::find_if(all.begin(), all.end(), [&](tuned_word const& word) { return word.name == argument; });
    if (found == all.end()) {
      std::fprintf(stderr, "%s: expected --quick or one of", argument.c_str());
      for (tuned_word const& word : all) std::fprintf(stderr, " %s", word.name);
      std::fprintf(stderr, "\n");
      return 2;
    }
    wanted.push_back(*found);
  }
  tune(arguments[0], wanted.empty() ? all : wanted, how);
  return 0;
}

}  // namespace
}  // namespace attend_bench

int main(int count, char** arguments) {
  try {
    return attend_bench::run(count, arguments);
  } catch (std::exception const& error) {
    std::fprintf(stderr, "attend_tune: %s\n", error.what());
    return 1;
  }
}
