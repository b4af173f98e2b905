// SPDX-License-Identifier: BSD-3-Clause
// Continues a text with a small trained decoder (decoder.hpp, train.py) whose keys and values go through each kind of
// store, and compares them with a full cache: how long the text is the same, how often the likeliest character is the
// same on a text that is given, how likely that text is, the bytes that are kept, and characters per second. A model
// that
// ../train trained with linear attention keeps states, and nothing else.
//
//   generate [--folder FOLDER] [--prompt TEXT] [--characters N] [--pieces N] [--threads N] [--texts] [--csv FILE]
//
// Exits with 0; 1 where a store that loses nothing gives something else than the full cache, where the full cache's
// score is not the one that the model had when it was trained, or where a file cannot be used; 2 for wrong options.
#include <cmath>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <iostream>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "../io/bytes.hpp"
#include "../io/option_values.hpp"
#include "../io/safetensors.hpp"
#include "../io/table.hpp"
#include "decoder.hpp"
#include "policies.hpp"
#include "streaming.hpp"

namespace {

using generate::index_t;

enum exit_code { success = 0, failure = 1, wrong_options = 2 };

constexpr char usage[] =
    "usage: generate [--folder FOLDER] [--prompt TEXT] [--characters N] [--pieces N] [--threads N] [--texts]\n"
    "                [--csv FILE]\n"
    "  --folder FOLDER  with model.safetensors and held_out.txt; unless given, that of the sources\n"
    "  --prompt TEXT    what is continued; unless given, the beginning of held_out.txt\n"
    "  --characters N   how many follow the prompt; unless given, as many as the model's context leaves\n"
    "  --pieces N       how many pieces of held_out.txt are scored; unless given, all\n"
    "  --threads N      how many threads attend, 1 to 256; unless given, one\n"
    "  --texts          write the text of each store, and not that of the full cache alone\n"
    "  --csv FILE       write the table there, too\n";

struct options {
  std::filesystem::path folder = GENERATE_FOLDER;
  std::optional<std::string> prompt;
  std::optional<index_t> characters, pieces;
  std::optional<std::filesystem::path> csv;
  int threads = 1;
  bool texts = false, help = false;
};

options parse_options(std::vector<std::string> const& arguments) {
  options result;
  int const most_characters = 1 << 20;  // the model's context is shorter, and says so
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    std::string const& name = arguments[i];
    if (name == "--help" || name == "-h") {
      result.help = true;
    } else if (name == "--texts") {
      result.texts = true;
    } else if (name == "--folder" || name == "--prompt" || name == "--characters" || name == "--pieces" ||
               name == "--threads" || name == "--csv") {
      if (++i == arguments.size()) throw std::invalid_argument(name + ": expected a value, got nothing");
      std::string const& value = arguments[i];
      if (name == "--folder") result.folder = value;
      if (name == "--prompt") result.prompt = value;
      if (name == "--characters") result.characters = attend_io::parse_number(name, value, 1, most_characters);
      if (name == "--pieces") result.pieces = attend_io::parse_number(name, value, 1, most_characters);
      if (name == "--threads") result.threads = attend_io::parse_number(name, value, 1, 256);
      if (name == "--csv") result.csv = value;
    } else {
      throw std::invalid_argument(
          "expected --folder, --prompt, --characters, --pieces, --threads, --texts, --csv or --help, got '" + name +
          "'");
    }
  }
  return result;
}

/// What is continued and scored, in tokens, and how many characters follow.
struct task {
  std::vector<int> prompt, held_out;
  index_t characters;
  bool whole;  // all of held_out.txt is scored

  /// Throws std::invalid_argument where a text does not fit the model.
  task(generate::decoder const& model, options const& given) {
    auto const path = given.folder / "held_out.txt";
    std::vector<std::byte> const bytes = attend_io::detail::read_file(path);
    std::string const text(reinterpret_cast<char const*>(bytes.data()), bytes.size());
    index_t const context = model.shape().context, most = static_cast<index_t>(text.size());
    if (most < context)
      throw std::invalid_argument(path.string() + ": expected at least " + std::to_string(context) +
                                  " characters, got " + std::to_string(most));
    prompt = model.tokens_of(given.prompt.value_or(text.substr(0, static_cast<std::size_t>(context / 2))), context - 1,
                             "prompt");
    index_t const left = context - static_cast<index_t>(prompt.size());
    characters = given.characters.value_or(left);
    if (characters > left)
      throw std::invalid_argument("--characters: expected at most " + std::to_string(left) +
                                  " (what the model's context leaves behind the prompt), got " +
                                  std::to_string(characters));
    held_out = model.tokens_of(text, most, path.string());
    index_t const pieces = most / context, scored = given.pieces.value_or(pieces);
    if (scored > pieces)
      throw std::invalid_argument("--pieces: expected 1 to " + std::to_string(pieces) + " (of " + path.string() +
                                  "), got " + std::to_string(scored));
    whole = scored == pieces;
    held_out.resize(static_cast<std::size_t>(scored * context));
  }
};

/// Whether the log-likelihood is the one that train.py computed with the same weights.
bool is_as_trained(attend_io::safetensors const& weights, double log_likelihood) {
  // Logits differ by some roundings of numbers up to 20 or so, the mean by less; the file says it to 5 digits.
  double const largest_difference = 1e-4;
  auto const found = weights.metadata().find("held_out_log_likelihood");
  double const trained = found == weights.metadata().end() ? NAN : std::strtod(found->second.c_str(), nullptr);
  if (std::abs(trained - log_likelihood) <= largest_difference) return true;
  std::cerr << "generate: expected the log-likelihood " << trained << ", as it was trained, got " << log_likelihood
            << '\n';
  return false;
}

bool compare(options const& given) {
  attend_io::safetensors const weights(given.folder / "model.safetensors");
  generate::decoder const model(weights);
  task const work(model, given);
  attend::threads const executor{given.threads};

  std::cout << "compiled for " << attend::runtime::target() << "\n\n";
  attend_io::table results({"cache", "bytes", "same text", "same choice", "log-likelihood", "prompt/s", "steps/s"});
  bool as_expected = true;
  std::string full_text;
  generate::text_score full;
  for (generate::policy const& policy : generate::all_policies(model)) {
    bool const first = full_text.empty();
    if (given.texts) std::cout << "--- " << policy.name << '\n';
    auto const attention = policy.begin(model, executor);
    std::string const text = generate::continued(model, work.prompt, work.characters, *attention, [&](char character) {
      if (first || given.texts) std::cout << character << std::flush;
    });
    if (first || given.texts) std::cout << "\n\n";
    generate::text_score const score = generate::score(model, work.held_out, policy, executor);
    if (first) full_text = text, full = score;
    if (policy.exact && (text != full_text || score.choices != full.choices)) {
      as_expected = false;
      std::cerr << "generate: expected the full cache's text and choices, got others: " << policy.name << '\n';
    }
    results.add({policy.name, std::to_string(attention->bytes()),
                 attend_io::fixed(generate::same_beginning(full_text, text), 3),
                 attend_io::fixed(generate::same_choices(full.choices, score.choices), 4),
                 attend_io::fixed(score.log_likelihood, 4), attend_io::fixed(score.prompt.per_second(), 0),
                 attend_io::fixed(score.steps.per_second(), 0)});
  }
  std::cout << results.text();
  if (given.csv) results.write_csv(*given.csv);
  return (!work.whole || is_as_trained(weights, full.log_likelihood)) && as_expected;
}

}  // namespace

int main(int argument_count, char** arguments) {
  options given;
  try {
    given = parse_options({arguments + 1, arguments + argument_count});
  } catch (std::invalid_argument const& error) {
    std::cerr << "generate: " << error.what() << '\n' << usage;
    return wrong_options;
  }
  if (given.help) {
    std::cout << usage;
    return success;
  }
  try {
    return compare(given) ? success : failure;
  } catch (std::exception const& error) {
    std::cerr << "generate: " << error.what() << '\n';
    return failure;
  }
}
