// SPDX-License-Identifier: BSD-3-Clause
// Draws masks and block tables as pictures: rows are queries, columns are keys, dark is seen.
//
//   draw_mask [directory]      writes one SVG for each of the main patterns, into the present directory by default
//
// To see a mask of your own, add a line to main: write("name", attend::options::table_of_mask(pairs, your_mask)).
#include <attend/policy/mask/block_builders.hpp>
#include <attend/policy/mask/head_windows.hpp>
#include <attend/policy/mask/neighborhood.hpp>
#include <attend/policy/mask/patterns.hpp>
#include <attend/policy/mask/prefix_lm.hpp>
#include <attend/policy/mask/sentinel_spans.hpp>
#include <attend/policy/mask/streaming.hpp>

#include <fstream>
#include <iostream>
#include <string>

namespace {

using attend::index_t;
using attend::options::block_table;

/// An SVG of a table: a rectangle for each run of listed blocks, over as many equal rows as follow each other. Heads
/// stand side by side.
std::string picture(block_table const& table) {
  attend::options::block_grid const& grid = table.grid();
  index_t const rows = grid.query_blocks(), columns = grid.key_blocks(), unit = 2, gap = 6;
  index_t const width = grid.heads * (columns * unit + gap) - gap, height = rows * unit;
  std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + std::to_string(width) + "\" height=\"" +
                    std::to_string(height) + "\" fill=\"#1f4e79\">\n";
  auto const rectangle = [&](index_t x, index_t y, index_t w, index_t h, char const* more) {
    svg += "<path d=\"M" + std::to_string(x) + ' ' + std::to_string(y) + 'h' + std::to_string(w) + 'v' +
           std::to_string(h) + 'h' + std::to_string(-w) + "z\"" + more + "/>\n";
  };
  for (index_t head = 0; head < grid.heads; ++head) {
    index_t const left = head * (columns * unit + gap);
    rectangle(left, 0, columns * unit, height, " fill=\"#eef2f6\"");
    for (index_t row = 0, next; row < rows; row = next) {
      auto const list = table.list(table.row(0, head, row));
      for (next = row + 1; next < rows; ++next) {
        auto const other = table.list(table.row(0, head, next));
        if (!std::equal(list.begin(), list.end(), other.begin(), other.end())) break;
      }
      for (auto first = list.begin(); first != list.end();) {
        auto last = first + 1;
        while (last != list.end() && *last == *(last - 1) + 1) ++last;
        rectangle(left + *first * unit, row * unit, (last - first) * unit, (next - row) * unit, "");
        first = last;
      }
    }
  }
  return svg + "</svg>\n";
}

}  // namespace

int main(int count, char** arguments) {
  std::string const directory = count > 1 ? std::string(arguments[1]) + "/" : "";
  bool good = true;
  auto const write = [&](std::string const& name, block_table const& table) {
    std::ofstream file(directory + name + ".svg");
    file << picture(table);
    good = good && file.good();
    std::cout << name << ": " << static_cast<int>(100 * table.density() + 0.5) << "% of the pairs\n";
  };

  index_t const tokens = 64;
  // Blocks of one token are pairs.
  attend::options::block_grid const pairs{1, 1, tokens, tokens, 1, 1}, pairs_of_two_heads{1, 2, tokens, tokens, 1, 1};
  auto const draw = [&](std::string const& name, auto const& mask) {
    write(name, attend::options::table_of_mask(pairs, mask));
  };

  draw("causal", attend::causal{});
  draw("window", attend::window{12, 0});
  draw("prefix_lm", attend::options::prefix_lm(16));
  draw("streaming", attend::options::streaming{4, 13});
  draw("dilated_window", attend::systems::dilated_window(5, 5, 3));
  draw("local_and_global", attend::window{6, 6} | attend::options::global_tokens(4));
  draw("strided", attend::systems::strided_pattern(8));
  draw("fixed", attend::systems::fixed_pattern(8, 2));
  write("shifted_groups", attend::options::table_of_mask(pairs_of_two_heads, attend::systems::shifted_groups(16, 2)));
  std::vector<index_t> const left{7, 31};
  write("head_windows", attend::options::table_of_mask(pairs_of_two_heads, attend::options::head_windows(left)));

  std::vector<index_t> pieces;
  for (index_t t = 0; t < tokens; ++t) pieces.push_back(t < 4 ? 0 : t < 52 ? 1 + (t - 4) / 16 : 9);
  draw("parallel_context", attend::systems::parallel_context(pieces, 4, 52));
  std::vector<index_t> const open{8, 28}, close{22, 44};
  draw("sentinel_spans", attend::options::sentinel_spans(open, close));
  draw("local_sparse_global", attend::systems::local_sparse_global(8, 4, 2));

  attend::options::block_grid const blocks{1, 2, 4096, 4096, 64, 64};
  write("sharded_blocks", attend::options::sharded_blocks(blocks, {.local = 4, .stride = 8}));

  // An image of 8 x 8 tokens, windows of 3 x 3.
  attend::grids::neighborhood_axis const side{3};
  auto const near = [&](index_t query, index_t key) {
    attend::extend::key_range const seen = side.keys(query, 8);
    return seen.first <= key && key < seen.last;
  };
  write("neighborhood", attend::options::table_of_blocks(pairs, [&](index_t, index_t, index_t query, index_t key) {
          return near(query / 8, key / 8) && near(query % 8, key % 8);
        }));
  return good ? 0 : 1;
}
