// The fourteen mask patterns of LongCA-bench, twelve that are known beforehand and two of blocks drawn at random, with
// its accounting: 4 * area * query heads * dimension operations, where the area counts allowed pairs alone. So a kernel
// that ignores the mask scores badly.
//
// The shapes are those of one machine: 4096 tokens, 8 query heads on one key head, windows and blocks scaled with them.
//
// LongCA-bench: Long-Context Attention Benchmark: From Kernel Efficiency to Distributed Context Parallelism, 2025.
#include <attend/policy/mask/block_builders.hpp>
#include <attend/policy/mask/block_sparse.hpp>
#include <attend/policy/mask/intervals.hpp>
#include <attend/policy/mask/patterns.hpp>

#include <numeric>
#include <random>

#include "benchmarks.hpp"
#include "softmax_call.hpp"
#include "visible_pairs.hpp"

namespace attend_bench {
namespace {

constexpr index_t heads = 8, tokens = 4096, sliding = 256, block = 512, prefix = 512;
constexpr attention_shape shape{1, heads, 1, tokens, tokens, 128};

/// Documents as they come in long-context corpora: most are short, a few are long.
std::vector<index_t> const& document_ends() {
  static std::vector<index_t> const ends{210, 300, 1130, 1300, 1390, 2400, 2520, 2790, 3700, 4096};
  return ends;
}
index_t document_of(index_t token) {
  auto const& ends = document_ends();
  return std::upper_bound(ends.begin(), ends.end(), token) - ends.begin();
}
index_t document_begin(index_t document) {
  return document == 0 ? 0 : document_ends()[static_cast<std::size_t>(document - 1)];
}
index_t document_end(index_t document) { return document_ends()[static_cast<std::size_t>(document)]; }

/// A pattern: the mask, and the pairs of one head that it allows.
template <class M>
void add(std::string const& name, M const& mask, double area, std::shared_ptr<void const> const& kept = nullptr) {
  register_attention({"longca", element_type::f32, shape, name, area, limit::arithmetic,
                      [=] { return softmax_call<float>(shape, kept, mask); }},
                     {1});
}

void register_static() {
  using namespace attend;
  auto const numbers = std::make_shared<std::vector<index_t>>();
  for (index_t token = 0; token < tokens; ++token) numbers->push_back(document_of(token));
  documents const same(*numbers);
  auto const begin = [](index_t i) { return document_begin(document_of(i)); };
  auto const end = [](index_t i) { return document_end(document_of(i)); };
  index_t const first_end = document_end(0), last_begin = begin(tokens - 1);
  // Keys that query i sees.
  auto const area = [](auto const& keys_of) { return visible_pairs(tokens, keys_of); };

  add("full", full{}, area([](index_t) { return tokens; }));
  add("causal", causal{}, area([](index_t i) { return i + 1; }));
  add("full_document", same, area([=](index_t i) { return end(i) - begin(i); }), numbers);
  add("causal_document", same & causal{}, area([=](index_t i) { return i + 1 - begin(i); }), numbers);
  add("sliding_window", window{sliding, sliding}, window_pairs(tokens, tokens, sliding, sliding));
  add("sliding_window_causal", window{sliding, 0}, window_pairs(tokens, tokens, sliding, 0));
  add("global_sliding", window{sliding, sliding} | global_tokens(2 * sliding), area([](index_t i) {
        index_t const global = 2 * sliding, last = std::min(i + sliding + 1, tokens);
        return i < global ? tokens : global + last - std::max(i - sliding, global);
      }));
  add("share_question", (same & causal{}) | (keys_in(0, first_end) & queries_in(first_end, tokens)),
      area([=](index_t i) { return i + 1 - begin(i) + (i >= first_end ? first_end : 0); }), numbers);
  add("causal_blockwise", (same & causal{}) | (queries_in(last_begin, tokens) & keys_in(0, last_begin)),
      area([=](index_t i) { return i + 1 - begin(i) + (i >= last_begin ? last_begin : 0); }), numbers);
  add("prefix_lm_causal", causal{} | keys_in(0, prefix + 1), area([](index_t i) { return std::max(i, prefix) + 1; }));

  auto const ends = std::make_shared<std::array<std::vector<index_t>, 2>>();
  auto const prefix_end = [=](index_t i) { return std::max(i + 1, std::min(begin(i) + prefix + 1, end(i))); };
  for (index_t i = 0; i < tokens; ++i) {
    (*ends)[0].push_back(begin(i));
    (*ends)[1].push_back(prefix_end(i));
  }
  add("prefix_lm_document", intervals((*ends)[0], (*ends)[1]),
      area([=](index_t i) { return prefix_end(i) - begin(i); }), ends);
  add("block_causal_document", same & block_window(block, -1, 0),
      area([=](index_t i) { return std::min((i / block + 1) * block, end(i)) - begin(i); }), numbers);
}

/// Blocks of one size, or of many sizes, of which a part is kept at random; every query block keeps at least one.
/// Blocks of many sizes are put together from blocks of 16.
void register_blocks(std::string const& name, index_t size, double kept) {
  std::mt19937 engine(1);
  std::vector<index_t> number;  // of the block that each piece of the table belongs to
  bool const uniform = size > 0;
  index_t const piece = uniform ? size : 16;
  std::uniform_int_distribution<index_t> pieces(2, 12);
  for (index_t blocks = 0; static_cast<index_t>(number.size()) < tokens / piece; ++blocks)
    for (index_t i = uniform ? 1 : pieces(engine); i > 0 && static_cast<index_t>(number.size()) < tokens / piece; --i)
      number.push_back(blocks);
  auto const count = static_cast<std::size_t>(number.back() + 1);
  std::bernoulli_distribution keep(kept);
  std::vector<bool> listed(count * count);
  for (std::size_t i = 0; i < listed.size(); ++i) listed[i] = keep(engine) || i / count == i % count;
  auto const number_of = [&](index_t piece_index) {
    return static_cast<std::size_t>(number[static_cast<std::size_t>(piece_index)]);
  };
  auto const table = std::make_shared<attend::block_table>(attend::table_of_blocks(
      {1, 1, tokens, tokens, piece, piece},
      [&](index_t, index_t, index_t i, index_t j) { return listed[number_of(i) * count + number_of(j)]; }));
  add(name + std::to_string(static_cast<int>(100 * kept)), attend::block_sparse(*table),
      table->density() * static_cast<double>(tokens * tokens), table);
}

}  // namespace

void register_longca() {
  register_static();
  for (double kept : {0.1, 0.2, 0.5, 0.8, 1.0}) {
    register_blocks("uniform_block64_", 64, kept);
    register_blocks("uniform_block128_", 128, kept);
    register_blocks("variable_block_", 0, kept);
  }
}

}  // namespace attend_bench
