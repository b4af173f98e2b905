// SPDX-License-Identifier: BSD-3-Clause
// What attend_compare can be asked for.
#pragma once

#include <attend/policy/mask/window.hpp>

#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "element_type.hpp"

namespace attend_bench {

/// Queries that follow each other, in a comparison of selectors that decode.
inline constexpr attend::index_t decode_steps = 8;

struct compare_options {
  attend::index_t batch = 1, heads = 8, key_heads = 8, queries = 1024, keys = 1024, dimension = 64,
                  value_dimension = 64;
  /// Whether one of the numbers above was given: then that problem alone is compared.
  bool has_shape = false;
  element_type type = element_type::f32;
  int threads = 1;
  attend::window mask;
  std::string mask_name = "none";
  unsigned seed = 1;
  /// All three or none: then these alone are compared.
  std::optional<std::filesystem::path> query, key, value;
  std::optional<std::string> only;
  int repetitions = 9;
  bool json = false;
  /// Selectors are compared in place of variants, or what caches keep, or both; and their table is written to a file
  /// too.
  bool select = false, cache = false;
  bool chooses() const { return select || cache; }
  std::optional<std::filesystem::path> csv;
  /// The page that the tables are written to as well, with pictures.
  std::optional<std::filesystem::path> html;
  bool help = false;
};

/// A wrong option or value. The message names it.
class option_error : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

compare_options parse_compare_options(std::vector<std::string> const& arguments);

std::string compare_usage();

/// All, or the one that was asked for.
template <class Named>
std::vector<Named> chosen_by_name(std::vector<Named> const& all, std::optional<std::string> const& only) {
  if (!only) return all;
  std::string names;
  for (Named const& one : all) {
    if (one.name == *only) return {one};
    names += (names.empty() ? "" : ", ") + one.name;
  }
  throw option_error("--only: expected one of " + names + ", got '" + *only + "'");
}

}  // namespace attend_bench
