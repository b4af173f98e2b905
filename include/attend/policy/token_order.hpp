// The order in which a kernel takes tokens. In another order than the tensors' own, tokens that see the same keys stand
// side by side, and what they see is a few long runs: boxes of an image, residue classes of a stride.
//
// An order says which token of its sequence stands where: query(position) for one query, and keys(range, tokens) for
// the keys of a range of positions; both are bijections on [0, tokens). Rows of keys and values are gathered block by
// block as they are needed, queries where they are packed. Masks and scores see positions in that order.
#pragma once

#include "../core/types.hpp"

namespace attend {

/// The tensors' own order: nothing is gathered.
struct in_order {
  constexpr index_t query(index_t position) const { return position; }
};

}  // namespace attend
