// SPDX-License-Identifier: BSD-3-Clause
// The tokens of an image, region by region: regions row-major, and in each of them its tokens row-major. So a region is
// one run, and may be a block of a block table.
#pragma once

#include <array>

#include "../../core/check.hpp"
#include "../tile.hpp"

namespace attend::inline ATTEND_TARGET {

namespace grids {

/// An image of tokens, row-major, cut into equal regions.
struct image_regions {
  std::array<index_t, 2> image;   // rows and columns, in tokens
  std::array<index_t, 2> region;  // of one region

  index_t tokens() const { return image[0] * image[1]; }
  index_t area() const { return region[0] * region[1]; }
  index_t count() const { return tokens() / area(); }

  /// Throws argument_error, naming `argument`, unless regions fill the image and the image is that of a tensor's
  /// tokens.
  void check(char const* argument, index_t expected, char const* as) const {
    for (std::size_t axis = 0; axis < 2; ++axis) {
      if (image[axis] < 0 || image[axis] >= extend::token_limit)
        extend::fail(argument, "expected an image of 0 to ", extend::token_limit - 1, " tokens on each axis, got ",
                     image[axis]);
      if (region[axis] < 1 || region[axis] >= extend::token_limit || image[axis] % region[axis] != 0)
        extend::fail(argument, "expected a region that divides ", image[axis], " (axis ", axis, " of the image), got ",
                     region[axis]);
    }
    detail::check_extent(argument, "tokens", tokens(), expected, as);
  }

  /// The token of an image at a position of the order.
  index_t token(index_t position) const {
    index_t const across = image[1] / region[1], number = position / area(), within = position % area();
    return (number / across * region[0] + within / region[1]) * image[1] + number % across * region[1] +
           within % region[1];
  }
};

/// The order of queries and of keys, which may come from two images.
struct region_order {
  image_regions queries, keys;

  void query_tokens_at(extend::key_range range, index_t* tokens) const { fill(queries, range, tokens); }
  void tokens_at(extend::key_range range, index_t* tokens) const { fill(keys, range, tokens); }
  /// A row of a region.
  extend::token_run run_at(index_t position) const {
    return {keys.token(position), 1, keys.region[1] - position % keys.region[1]};
  }

 private:
  static void fill(image_regions const& from, extend::key_range range, index_t* tokens) {
    for (index_t position = range.first; position < range.last; ++position) *tokens++ = from.token(position);
  }
};

}  // namespace grids

}  // namespace attend::inline ATTEND_TARGET
