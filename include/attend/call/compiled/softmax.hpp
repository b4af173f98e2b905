// SPDX-License-Identifier: BSD-3-Clause
// What attend::compiled has of softmax attention (once.hpp).
#pragma once

#include "../../engine/softmax/split.hpp"
#include "../../engine/softmax/tiled.hpp"
#include "../../select/row_scores.hpp"
#include "../problem.hpp"
#include "once.hpp"

// Of an accumulation type: a tile takes a block of keys.
#define ATTEND_COMPILED_STEPS(A)                                                                         \
  ATTEND_COMPILED_ONCE void attend::engine::softmax_step(attend::engine::tile_step<A>&,                  \
                                                         attend::engine::any_policies<A> const&, bool,   \
                                                         attend::engine::own_keys<A> const*);            \
  ATTEND_COMPILED_ONCE void attend::engine::update_softmax(attend::engine::tile_step<A>&,                \
                                                           attend::engine::any_policies<A> const&, bool, \
                                                           attend::engine::own_keys<A> const*);          \
  ATTEND_COMPILED_ONCE void attend::engine::weigh(attend::options::softmax const&, int,                  \
                                                  attend::extend::key_range const*, A const*, A*, A*);

// Where a matrix unit computes logits: what vectors do beside it, for tiles of so many vectors.
#define ATTEND_COMPILED_STAGE(Vectors)                                                          \
  ATTEND_COMPILED_ONCE void attend::engine::run_stage<Vectors>(attend::options::softmax const&, \
                                                               attend::engine::pair_stage const&);

// Of the elements of a store: what a few queries compute with a block of keys and values.
#define ATTEND_COMPILED_BLOCKS(K, as_integers) \
  ATTEND_COMPILED_ONCE class attend::engine::split_step<K, K, as_integers, as_integers>;

// Of the elements of a store: the scores of so many queries at a time, by which selectors rank rows.
#define ATTEND_COMPILED_SCORES_OF(K, queries)                                                                    \
  ATTEND_COMPILED_ONCE void attend::detail::score_rows<K, queries, false>(attend::detail::scored_rows<K> const&, \
                                                                          float const*, attend::index_t, int, int);
#define ATTEND_COMPILED_SCORES(K) \
  ATTEND_COMPILED_SCORES_OF(K, 1) ATTEND_COMPILED_SCORES_OF(K, 2) ATTEND_COMPILED_SCORES_OF(K, 4)

// Of an element type: the checks of tensors, rows of queries and outputs, and a few queries that take a block of keys.
#define ATTEND_COMPILED_ROWS(T)                                                                                        \
  ATTEND_COMPILED_ONCE attend::engine::problem<T> attend::call::tensor_problem(                                        \
      attend::tensor_view<T const, 4> const&, attend::tensor_view<T const, 4> const&,                                  \
      attend::tensor_view<T const, 4> const&, attend::tensor_view<T, 4> const&);                                       \
  ATTEND_COMPILED_ONCE void attend::call::check_memory(attend::engine::problem<T> const&);                             \
  ATTEND_COMPILED_ONCE void attend::engine::softmax_step(                                                              \
      attend::engine::split_step<T, T, false, false>&,                                                                 \
      attend::engine::any_policies<attend::extend::accumulation_t<T>> const&, bool,                                    \
      attend::engine::own_keys<attend::extend::accumulation_t<T>> const*);                                             \
  ATTEND_COMPILED_ONCE attend::extend::accumulation_t<T> attend::engine::row_epilogue(                                 \
      attend::engine::problem<T> const&, attend::engine::any_policies<attend::extend::accumulation_t<T>> const&,       \
      attend::extend::tile_rows<attend::extend::accumulation_t<T>> const&, int, attend::extend::accumulation_t<T>*,    \
      attend::extend::accumulation_t<T> const*, attend::index_t,                                                       \
      attend::engine::finished_lanes<attend::extend::accumulation_t<T>>*);                                             \
  ATTEND_COMPILED_ONCE void attend::simd::pack_columns(T const* const*, int, attend::index_t,                          \
                                                       attend::extend::accumulation_t<T>*, attend::index_t,            \
                                                       attend::extend::accumulation_t<T>);                             \
  ATTEND_COMPILED_ONCE void attend::simd::unpack_columns<T>(attend::extend::accumulation_t<T> const*, int,             \
                                                            attend::index_t, attend::extend::accumulation_t<T> const*, \
                                                            T* const*);

// The engines over tensors, whose positions turn nothing.
#define ATTEND_COMPILED_TILED(T)                                                                                     \
  ATTEND_COMPILED_ONCE void attend::engine::run_tiled_tasks(                                                         \
      attend::engine::problem<T> const&, attend::engine::problem_rows<T> const&,                                     \
      attend::engine::any_policies<attend::extend::accumulation_t<T>> const&, attend::engine::token_access<> const&, \
      attend::detail::any_executor const&);
#define ATTEND_COMPILED_SPLIT(T)                                                                                     \
  ATTEND_COMPILED_ONCE void attend::engine::run_split_tasks(                                                         \
      attend::engine::problem<T> const&, attend::engine::problem_rows<T> const&,                                     \
      attend::engine::any_policies<attend::extend::accumulation_t<T>> const&, attend::engine::token_access<> const&, \
      attend::detail::any_executor const&);

// The engines over stores of elements K, for tensors of T.
#define ATTEND_COMPILED_STORES(T, K)                                                                                 \
  ATTEND_COMPILED_ONCE void attend::engine::run_tiled_tasks(                                                         \
      attend::engine::problem<T> const&, attend::engine::any_source<K, K> const&,                                    \
      attend::engine::any_policies<attend::extend::accumulation_t<T>> const&, attend::engine::token_access<> const&, \
      attend::detail::any_executor const&);                                                                          \
  ATTEND_COMPILED_ONCE void attend::engine::run_split_tasks(                                                         \
      attend::engine::problem<T> const&, attend::engine::any_source<K, K> const&,                                    \
      attend::engine::any_policies<attend::extend::accumulation_t<T>> const&, attend::engine::token_access<> const&, \
      attend::detail::any_executor const&);

ATTEND_COMPILED_STEPS(float)
ATTEND_COMPILED_STEPS(double)
ATTEND_COMPILED_STAGE(1)
ATTEND_COMPILED_STAGE(2)
ATTEND_COMPILED_STAGE(3)
ATTEND_COMPILED_BLOCKS(float, false)
ATTEND_COMPILED_BLOCKS(Eigen::half, false)
ATTEND_COMPILED_BLOCKS(Eigen::bfloat16, false)
ATTEND_COMPILED_BLOCKS(std::int8_t, false)
ATTEND_COMPILED_BLOCKS(std::int8_t, true)
ATTEND_COMPILED_BLOCKS(attend::caches::int4_pair, false)
ATTEND_COMPILED_SCORES(float)
ATTEND_COMPILED_SCORES(Eigen::half)
ATTEND_COMPILED_SCORES(Eigen::bfloat16)
ATTEND_COMPILED_SCORES(std::int8_t)
ATTEND_COMPILED_SCORES(attend::caches::int4_pair)
ATTEND_COMPILED_ROWS(float)
ATTEND_COMPILED_ROWS(double)
ATTEND_COMPILED_ROWS(Eigen::half)
ATTEND_COMPILED_ROWS(Eigen::bfloat16)
ATTEND_COMPILED_TILED(float)
ATTEND_COMPILED_TILED(double)
ATTEND_COMPILED_TILED(Eigen::half)
ATTEND_COMPILED_TILED(Eigen::bfloat16)
ATTEND_COMPILED_SPLIT(float)
ATTEND_COMPILED_SPLIT(double)
ATTEND_COMPILED_SPLIT(Eigen::half)
ATTEND_COMPILED_SPLIT(Eigen::bfloat16)
ATTEND_COMPILED_STORES(float, float)
ATTEND_COMPILED_STORES(float, Eigen::half)
ATTEND_COMPILED_STORES(float, Eigen::bfloat16)
ATTEND_COMPILED_STORES(float, std::int8_t)
ATTEND_COMPILED_STORES(float, attend::caches::int4_pair)
ATTEND_COMPILED_STORES(double, double)
ATTEND_COMPILED_STORES(Eigen::half, Eigen::half)
ATTEND_COMPILED_STORES(Eigen::bfloat16, Eigen::bfloat16)
ATTEND_COMPILED_STORES(Eigen::bfloat16, std::int8_t)
