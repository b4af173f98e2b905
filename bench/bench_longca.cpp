// SPDX-License-Identifier: BSD-3-Clause
// The fourteen mask patterns of LongCA-bench (longca_masks.hpp), with its accounting: 4 * area * query heads *
// dimension operations, where the area counts allowed pairs alone. So a kernel that ignores the mask scores badly.
//
// The shapes are those of one machine: 4096 tokens, 8 query heads on one key head, windows and blocks scaled with them.
#include "benchmarks.hpp"
#include "longca_masks.hpp"
#include "softmax_call.hpp"

namespace attend_bench {
namespace {

constexpr index_t heads = 8, tokens = 4096;
constexpr attention_shape shape{1, heads, 1, tokens, tokens, 128};

/// A pattern: the mask, and the pairs of one head that it allows.
template <class M>
void add(std::string const& name, M const& mask, double area, std::shared_ptr<void const> const& kept) {
  register_attention({"longca", element_type::f32, shape, name, area, limit::arithmetic,
                      [=] { return softmax_call<float>(shape, kept, mask); }},
                     {1});
}

void register_blocks(std::string const& name, index_t size, double kept) {
  auto const blocks = std::make_shared<longca_blocks>(random_longca_blocks(tokens, size, kept));
  add(name + std::to_string(static_cast<int>(100 * kept)), attend::options::block_sparse(blocks->table),
      blocks->table.density() * static_cast<double>(tokens * tokens), blocks);
}

}  // namespace

void register_longca() {
  // Documents as they come in long-context corpora: most are short, a few are long.
  longca_sizes const sizes{{210, 300, 1130, 1300, 1390, 2400, 2520, 2790, 3700, tokens}, 256, 512, 512};
  for_longca_masks(sizes, [](std::string const& name, auto const& mask, double area, auto const& kept) {
    add(name, mask, area, kept);
  });
  for (double kept : {0.1, 0.2, 0.5, 0.8, 1.0}) {
    register_blocks("uniform_block64_", 64, kept);
    register_blocks("uniform_block128_", 128, kept);
    register_blocks("variable_block_", 0, kept);
  }
}

}  // namespace attend_bench
