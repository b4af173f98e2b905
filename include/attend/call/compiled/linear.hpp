// SPDX-License-Identifier: BSD-3-Clause
// What attend::compiled has of attention with a state (once.hpp).
#pragma once

#include "../../engine/chunked/chunked.hpp"
#include "../state_problem.hpp"
#include "once.hpp"

// Of an accumulation type: the decays within a chunk.
#define ATTEND_COMPILED_DECAYS(A)                                                                \
  ATTEND_COMPILED_ONCE class attend::engine::chunk_decay<A, attend::extend::decay_kind::none>;   \
  ATTEND_COMPILED_ONCE class attend::engine::chunk_decay<A, attend::extend::decay_kind::scalar>; \
  ATTEND_COMPILED_ONCE class attend::engine::chunk_decay<A, attend::extend::decay_kind::vector>;

// Of an element type: the engine, and the checks of tensors.
#define ATTEND_COMPILED_CHUNKED(T)                                                                      \
  ATTEND_COMPILED_ONCE void attend::detail::check_state_tensors(attend::engine::state_problem<T>&);     \
  ATTEND_COMPILED_ONCE void attend::detail::check_state_apart(attend::engine::state_problem<T> const&); \
  ATTEND_COMPILED_ONCE void attend::engine::run_chunked_tasks(attend::engine::state_problem<T> const&,  \
                                                              attend::engine::any_state_call<T> const&, \
                                                              attend::index_t, attend::detail::any_executor const&);

ATTEND_COMPILED_DECAYS(float)
ATTEND_COMPILED_DECAYS(double)
ATTEND_COMPILED_CHUNKED(float)
ATTEND_COMPILED_CHUNKED(double)
ATTEND_COMPILED_CHUNKED(Eigen::half)
ATTEND_COMPILED_CHUNKED(Eigen::bfloat16)
