// SPDX-License-Identifier: BSD-3-Clause
// Multi-grained attention over an image that is cut into blocks: a token sees the tokens of its own block one by one,
// and of every block the mean.
//
//   k'_B = mean of k_j over the tokens j of block B, v'_B likewise
//   o_i  = softmax attention of q_i to k_j, v_j for j in the block of i, and to k'_B, v'_B for all B
//
// One softmax over both grains; the text has attention of both kinds and leaves open how they are added. The paper's
// order of generation, block after block, is `block_window(size, -1)` on tokens that stand block by block.
//
// Cost: one pass over keys and values for the means, and block * block + blocks keys for each query. The means are all
// that is kept.
//
// Shiyue Cao et al.: Efficient-VQGAN: Towards High-Resolution Image Generation with Efficient Vision Transformers,
// 2023.
#pragma once

#include "../../engine/pooled_rows.hpp"
#include "neighborhood_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Attends from each token to those of its own block and to the means of all blocks. Query, key, value and output have
/// the shapes of softmax_attention; tokens are the image's, row-major, `extents` are its height and width, and a block
/// is `block` tokens high and wide, or less at the far borders. Options are those of neighborhood_attention but for
/// slots, which the means are.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     multi_grained_attention(q, k, v, o, {64, 64}, 8);
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void multi_grained_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                             std::array<index_t, 2> const& extents, index_t block, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  static_assert(!detail::has_kind<option::slots, Options...>, "attend: the means are the slots");
  tensor_view<T const, 4> const k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  detail::check_view("key", k);
  detail::check_view("value", v);
  for (index_t extent : extents)
    if (extent < 0 || extent >= token_limit) fail("extents", "expected 0 to ", token_limit - 1, ", got ", extent);
  if (block < 1 || block >= token_limit) fail("block", "expected 1 to ", token_limit - 1, ", got ", block);
  detail::check_extent("key", "tokens", k.extent(2), extents[0] * extents[1], "extents");
  detail::check_extent("value", "tokens", v.extent(2), extents[0] * extents[1], "extents");

  index_t const across = divide_up(extents[1], block), blocks = divide_up(extents[0], block) * across;
  auto const members = [&](index_t number, auto const& add) {
    index_t const top = number / across * block, left = number % across * block;
    for (index_t y = top; y < std::min(top + block, extents[0]); ++y)
      for (index_t x = left; x < std::min(left + block, extents[1]); ++x) add(y * extents[1] + x);
  };
  auto& executor = call::executor_of(options...);
  scratch memory;
  index_t const most = std::min(block, extents[0]) * std::min(block, extents[1]);
  tensor_view<T, 4> const keys = engine::token_means(k, blocks, most, members, memory, executor);
  tensor_view<T, 4> const values = engine::token_means(v, blocks, most, members, memory, executor);
  neighborhood_attention<2>(query, key, value, output, extents, {swin_window(block), swin_window(block)},
                            prefix_key_values(keys, values), std::forward<Options>(options)...);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
