// SPDX-License-Identifier: BSD-3-Clause
// What nearly every test would compile again: both engines for a full and a causal mask, and the loops below them, for
// each element type. They are declared here, for all tests, and compiled once, one file for each element type, which
// defines COMPILED_HERE. A program of one's own can keep its compile time down in the same way.
#pragma once

#include <attend/attend.hpp>

#ifdef COMPILED_HERE
#define COMPILED_ONCE template
#else
#define COMPILED_ONCE extern template
#endif

namespace attend::test {
using namespace extend;

template <Element T, class Mask>
using plain_steering = engine::policies<Mask, std::tuple<>, softmax, detail::absent, detail::absent, in_order>;

}  // namespace attend::test

#define ATTEND_COMPILED_ENGINES(T, Mask)                                                                       \
  COMPILED_ONCE void attend::engine::run_tiled(attend::engine::problem<T> const&,                              \
                                               attend::engine::problem_rows<T> const&,                         \
                                               attend::test::plain_steering<T, Mask> const&, attend::serial&); \
  COMPILED_ONCE void attend::engine::run_split(attend::engine::problem<T> const&,                              \
                                               attend::engine::problem_rows<T> const&,                         \
                                               attend::test::plain_steering<T, Mask> const&, attend::serial&);

#define ATTEND_COMPILED_SPLIT_LOOPS(T, Rows)                                                                     \
  COMPILED_ONCE void attend::engine::score_keys<T, Rows, attend::engine::line_vectors<T>>(                       \
      void const* const*, float const*, attend::index_t, attend::accumulation_t<T> const*, attend::index_t, int, \
      attend::accumulation_t<T>*, attend::engine::read_ahead*);                                                  \
  COMPILED_ONCE void attend::engine::add_values_in_steps<T, Rows>(                                               \
      attend::engine::value_work<attend::accumulation_t<T>>, attend::index_t, attend::engine::read_ahead*);

#define ATTEND_COMPILED_TILE_LOOPS(A, Vectors)                                                                       \
  COMPILED_ONCE void attend::engine::multiply_keys<Vectors>(                                                         \
      attend::engine::key_work<A> const&, A*, attend::simd::vector<A>*, attend::engine::block_prefetch&);            \
  COMPILED_ONCE void attend::engine::multiply_values<Vectors>(attend::engine::rows_of<A>, attend::index_t, A const*, \
                                                              attend::index_t, attend::index_t, A*,                  \
                                                              attend::engine::block_prefetch&, bool);

#define ATTEND_COMPILED_ACCUMULATION(A) \
  ATTEND_COMPILED_TILE_LOOPS(A, 1)      \
  ATTEND_COMPILED_TILE_LOOPS(A, 2)      \
  ATTEND_COMPILED_TILE_LOOPS(A, 3)

#define ATTEND_COMPILED(T)                                                                                         \
  ATTEND_COMPILED_ENGINES(T, attend::full)                                                                         \
  ATTEND_COMPILED_ENGINES(T, attend::causal)                                                                       \
  ATTEND_COMPILED_SPLIT_LOOPS(T, 1)                                                                                \
  ATTEND_COMPILED_SPLIT_LOOPS(T, 2)                                                                                \
  ATTEND_COMPILED_SPLIT_LOOPS(T, 4)                                                                                \
  COMPILED_ONCE void attend::call::check_memory(attend::engine::problem<T> const&);                                \
  COMPILED_ONCE void attend::simd::pack_columns(T const* const*, int, attend::index_t, attend::accumulation_t<T>*, \
                                                attend::index_t, attend::accumulation_t<T>);                       \
  COMPILED_ONCE void attend::simd::unpack_columns<T>(attend::accumulation_t<T> const*, int, attend::index_t,       \
                                                     attend::accumulation_t<T> const*, T* const*);                 \
  COMPILED_ONCE class attend::engine::key_block<attend::engine::tensor_rows<T>>;                                   \
  COMPILED_ONCE class attend::engine::key_block<attend::engine::source_rows<attend::engine::problem_rows<T>>>;

#ifndef COMPILED_HERE
ATTEND_COMPILED(float)
ATTEND_COMPILED(double)
ATTEND_COMPILED(Eigen::half)
ATTEND_COMPILED(Eigen::bfloat16)
ATTEND_COMPILED_ACCUMULATION(float)
ATTEND_COMPILED_ACCUMULATION(double)
#endif
