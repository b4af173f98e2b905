// SPDX-License-Identifier: BSD-3-Clause
// How a state forgets, and what a decay policy is. Before token t is written, the state is multiplied by a_t:
//
//   S_t = diag(a_t) S_{t-1} + k_t w_t^T          0 <= a_t <= 1
//
// Decays are given as natural logarithms, log a_t <= 0; -inf forgets everything. A decay policy says of what kind it
// is:
//
//   none      a_t = 1
//   scalar    one number for a token (or for all tokens): read(batch, head, first, count, to) writes count numbers
//   vector    one number for each feature: read(batch, head, first, count, to, stride) writes count rows
//
// and may say `constant` where all tokens of a head have the same scalar. A logarithm above 0 makes the state grow, and
// is meant by no published system; it is computed as it stands.
#pragma once

#include "../../core/options.hpp"
#include "../state/token_tensor.hpp"

namespace attend::inline ATTEND_TARGET {

namespace extend {

enum class decay_kind { none, scalar, vector };

/// The state forgets nothing. The default.
struct no_decay {
  using option_kind = option::decay;
  static constexpr decay_kind kind = decay_kind::none;

  void check(state_shape const&) const {}
};

}  // namespace extend

}  // namespace attend::inline ATTEND_TARGET
