// SPDX-License-Identifier: BSD-3-Clause
#include "compare_options.hpp"

#include <algorithm>
#include <charconv>
#include <functional>
#include <limits>
#include <string_view>

namespace attend_bench {
namespace {

using attend::index_t;

index_t parse_number(std::string const& name, std::string_view text, index_t least, index_t most) {
  index_t number = 0;
  auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || number < least || number > most)
    throw option_error(name + ": expected a whole number from " + std::to_string(least) + " to " +
                       std::to_string(most) + ", got '" + std::string(text) + "'");
  return number;
}

attend::window parse_mask(std::string const& name, std::string const& text) {
  std::string const prefix = "window:";
  if (text == "none") return {};
  if (text == "causal") return {-1, 0};
  std::size_t const comma = text.find(',');
  if (!text.starts_with(prefix) || comma == std::string::npos)
    throw option_error(name + ": expected none, causal or window:LEFT,RIGHT, got '" + text + "'");
  std::string_view const left = std::string_view(text).substr(prefix.size(), comma - prefix.size());
  std::string_view const right = std::string_view(text).substr(comma + 1);
  index_t const most = attend::extend::token_limit;
  return {parse_number(name, left, -1, most), parse_number(name, right, -1, most)};
}

element_type parse_type(std::string const& name, std::string const& text) {
  std::optional<element_type> const type = find_element_type(text);
  if (!type) throw option_error(name + ": expected f32, f64, f16 or bf16, got '" + text + "'");
  return *type;
}

/// A tensor of more numbers is refused rather than tried.
constexpr index_t max_numbers = index_t{1} << 30;
constexpr index_t max_extent = index_t{1} << 28;

void check_size(char const* tensor, std::initializer_list<index_t> extents) {
  index_t count = 1;
  for (index_t const extent : extents)
    if (__builtin_mul_overflow(count, extent, &count) || count > max_numbers)
      throw option_error(std::string(tensor) + ": expected at most " + std::to_string(max_numbers) +
                         " numbers, got more by --batch, --heads, --kv-heads, --queries, --keys, --dim or --value-dim");
}

void complete_shape(compare_options& given, bool has_keys, bool has_key_heads, bool has_value_dimension) {
  if (!has_keys) given.keys = given.queries;
  if (!has_key_heads) given.key_heads = given.heads;
  if (!has_value_dimension) given.value_dimension = given.dimension;
  if (given.heads % given.key_heads != 0)
    throw option_error("--kv-heads: expected a number that divides " + std::to_string(given.heads) +
                       " (--heads), got " + std::to_string(given.key_heads));
  check_size("query", {given.batch, given.heads, given.queries, given.dimension});
  check_size("output", {given.batch, given.heads, given.queries, given.value_dimension});
  check_size("key", {given.batch, given.key_heads, given.keys, given.dimension});
  check_size("value", {given.batch, given.key_heads, given.keys, given.value_dimension});
}

/// Other defaults: a long cache for decoding, and a prompt.
void set_selection_shape(compare_options& given) {
  given.heads = 8;
  given.key_heads = 2;
  given.queries = 2048;
  given.keys = 32768;
  given.dimension = given.value_dimension = 128;
}

void check_selection(compare_options const& given) {
  if (given.csv && !given.chooses()) throw option_error("--csv: expected --select or --cache beside it");
  if (!given.chooses()) return;
  std::string const beside = given.select ? "beside --select" : "beside --cache";
  if (given.html)
    throw option_error("--html: expected no " + std::string(given.select ? "--select" : "--cache") + " beside it");
  if (given.type != element_type::f32)
    throw option_error("--dtype: expected f32 " + beside + ", got '" + name_of(given.type) + "'");
  if (given.mask_name != "none")
    throw option_error("--mask: expected none " + beside + ", got '" + given.mask_name + "'");
  if (!given.query && given.keys < decode_steps)
    throw option_error("--keys: expected at least " + std::to_string(decode_steps) + " " + beside + ", got " +
                       std::to_string(given.keys));
}

void check_files(compare_options const& given) {
  int const files = given.query.has_value() + given.key.has_value() + given.value.has_value();
  if (files == 0) return;
  if (files < 3) throw option_error("--query, --key, --value: expected all three or none");
  if (given.has_shape) throw option_error("--query: expected no shape beside it, since the files have one");
}

}  // namespace

compare_options parse_compare_options(std::vector<std::string> const& arguments) {
  compare_options given;
  auto const has = [&](char const* name) {
    return std::find(arguments.begin(), arguments.end(), name) != arguments.end();
  };
  given.select = has("--select");
  given.cache = has("--cache");
  if (given.chooses()) set_selection_shape(given);
  bool has_keys = given.chooses(), has_key_heads = given.chooses(), has_value_dimension = false;

  struct option {
    char const* name;
    std::function<void(std::string const& name, std::string const& value)> read;
  };
  auto const extent = [&](index_t& number) {
    return [&](std::string const& name, std::string const& value) {
      number = parse_number(name, value, 1, max_extent);
      given.has_shape = true;
    };
  };
  auto const optional_extent = [&](index_t& number, bool& has_it) {
    return [&, read = extent(number)](std::string const& name, std::string const& value) {
      read(name, value);
      has_it = true;
    };
  };
  auto const text = [](auto& target) { return [&](std::string const&, std::string const& value) { target = value; }; };
  std::vector<option> const options = {
      {"--batch", extent(given.batch)},
      {"--heads", extent(given.heads)},
      {"--kv-heads", optional_extent(given.key_heads, has_key_heads)},
      {"--queries", extent(given.queries)},
      {"--keys", optional_extent(given.keys, has_keys)},
      {"--dim", extent(given.dimension)},
      {"--value-dim", optional_extent(given.value_dimension, has_value_dimension)},
      {"--dtype", [&](auto const& name, auto const& value) { given.type = parse_type(name, value); }},
      {"--threads", [&](auto const& name,
                        auto const& value) { given.threads = static_cast<int>(parse_number(name, value, 1, 256)); }},
      {"--mask",
       [&](auto const& name, auto const& value) {
         given.mask = parse_mask(name, value);
         given.mask_name = value;
       }},
      {"--seed",
       [&](auto const& name, auto const& value) {
         given.seed = static_cast<unsigned>(parse_number(name, value, 0, std::numeric_limits<unsigned>::max()));
       }},
      {"--query", text(given.query)},
      {"--key", text(given.key)},
      {"--value", text(given.value)},
      {"--only", text(given.only)},
      {"--csv", text(given.csv)},
      {"--html", text(given.html)},
      {"--repetitions",
       [&](auto const& name, auto const& value) {
         given.repetitions = static_cast<int>(parse_number(name, value, 1, 10'000));
       }},
  };

  for (std::size_t i = 0; i < arguments.size(); ++i) {
    std::string const& name = arguments[i];
    if (name == "--select" || name == "--cache") continue;
    if (name == "--json" || name == "--help") {
      (name == "--json" ? given.json : given.help) = true;
      continue;
    }
    auto const found = std::find_if(options.begin(), options.end(), [&](option const& o) { return o.name == name; });
    if (found == options.end()) throw option_error("'" + name + "': expected an option, see --help");
    if (++i == arguments.size()) throw option_error(name + ": expected a value, got nothing");
    found->read(name, arguments[i]);
  }
  complete_shape(given, has_keys, has_key_heads, has_value_dimension);
  check_files(given);
  check_selection(given);
  return given;
}

std::string compare_usage() {
  return "usage: attend_compare [options]\n"
         "\n"
         "Compares all variants of attention on one problem: time, share of this machine's peak, working memory,\n"
         "and distance from exact attention. Without a shape or files it takes seven: random numbers, the same with\n"
         "peaks, tiny and with a tail of zeros, what a trained encoder feeds its first and its last layer, and a step\n"
         "of decoding.\n"
         "\n"
         "  --batch N --heads N --kv-heads N --queries N --keys N --dim N --value-dim N\n"
         "                       random normal numbers of this shape [1, 8, as heads, 1024, as queries, 64, as dim]\n"
         "  --query F --key F --value F\n"
         "                       .npy files, [batch, head, token, dimension]; leading axes may be left out\n"
         "  --dtype TYPE         f32, f64, f16 or bf16: what the tensors are stored in [f32]\n"
         "  --mask MASK          none, causal or window:LEFT,RIGHT, where -1 leaves a side open [none]\n"
         "  --threads N          [1]\n"
         "  --seed N             of the random numbers [1]\n"
         "  --only NAME          one variant\n"
         "  --repetitions N      how many times are measured; their median is shown [9]\n"
         "  --json               one JSON document instead of tables\n"
         "  --html FILE          one page with the tables, error against time and the roofline, too; not with "
         "--select\n"
         "                       or --cache\n"
         "  --select             compares the systems that choose keys from the data, at budgets of 2, 5, 10, 20 and "
         "50%\n"
         "                       of the keys: time, bytes read, share of the attention mass that the chosen keys "
         "have,\n"
         "                       and error; in decoding (--keys [32768]) and in prefill (--queries [2048]), on random\n"
         "                       numbers, on planted keys with heavy tails, and on what models feed their layers;\n"
         "                       [8 heads, 2 of keys, dimension 128]; f32 and no mask\n"
         "  --cache              compares what caches keep in the same way: policies of eviction, and fewer bits; "
         "with\n"
         "                       --select both are in one table\n"
         "  --csv FILE           with --select or --cache: the table as comma-separated values, too; plot_selection.py "
         "draws it\n"
         "  --help\n"
         "\n"
         "Exits with 0; with 1 if a result is further from its definition than rounding explains, or a file cannot be\n"
         "used; with 2 for a wrong option.\n";
}

}  // namespace attend_bench
