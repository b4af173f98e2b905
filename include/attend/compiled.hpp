// SPDX-License-Identifier: BSD-3-Clause
// What the target attend::compiled has compiled, once for all files that link it: the engines' loops for each element
// type over tensors, which no option changes; and the steps below them, which engines over caches and chosen keys
// share. What a call of a program's own then costs a compiler is its options.
//
// The target defines ATTEND_COMPILED, with which the headers of families include this one; nothing else changes for a
// program. Library and program are compiled for one instruction set: where they are not, the namespaces that hold
// attend have different names (core/target.hpp), and the program does not link.
#pragma once

#include "attention/softmax/softmax_attention.hpp"
#include "engine/softmax/split.hpp"
#include "engine/softmax/tiled.hpp"

// The library's own files define ATTEND_COMPILED_HERE; each of them has the lists below for one type.
#if defined(ATTEND_COMPILED_HERE)
#define ATTEND_COMPILED_ONCE template
#else
#define ATTEND_COMPILED_ONCE extern template
#endif

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

// Of an element type: the checks of tensors, rows of queries and outputs, and a few queries that take a block of keys.
#define ATTEND_COMPILED_ROWS(T)                                                                                        \
  ATTEND_COMPILED_ONCE attend::engine::problem<T> attend::call::tensor_problem(                                        \
      attend::tensor_view<T const, 4> const&, attend::tensor_view<T const, 4> const&,                                  \
      attend::tensor_view<T const, 4> const&, attend::tensor_view<T, 4> const&);                                       \
  ATTEND_COMPILED_ONCE void attend::call::check_memory(attend::engine::problem<T> const&);                             \
  ATTEND_COMPILED_ONCE void attend::engine::softmax_step(                                                              \
      attend::engine::split_step<T, T>&, attend::engine::any_policies<attend::extend::accumulation_t<T>> const&, bool, \
      attend::engine::own_keys<attend::extend::accumulation_t<T>> const*);                                             \
  ATTEND_COMPILED_ONCE void attend::engine::row_epilogue(                                                              \
      attend::engine::problem<T> const&, attend::engine::any_policies<attend::extend::accumulation_t<T>> const&,       \
      attend::extend::tile_rows<attend::extend::accumulation_t<T>> const&, int, attend::extend::accumulation_t<T>*,    \
      attend::extend::accumulation_t<T> const*, attend::index_t);                                                      \
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

#if !defined(ATTEND_COMPILED_HERE)
ATTEND_COMPILED_STEPS(float)
ATTEND_COMPILED_STEPS(double)
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
#endif
