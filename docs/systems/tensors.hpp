// SPDX-License-Identifier: BSD-3-Clause
// What the snippets of this folder, and the examples in the doc comments of include/attend, are written with. Nothing
// here is defined, and nothing runs: tests compile them.
#pragma once

#include <attend/attend.hpp>

using namespace attend;
using namespace attend::options;
using namespace attend::linear;
using namespace attend::caches;
using namespace attend::selection;
using namespace attend::grids;
using namespace attend::systems;
using namespace attend::extend;
using namespace attend::runtime;

template <int Rank>
using tensor = Eigen::Tensor<float, Rank, Eigen::RowMajor>;

extern tensor<4> q, k, v, o;                 // [batch, head, token, dimension]
extern tensor<4> k2, v2, o2, rotated_query;  // a second set of keys and values, a second output; rotated q
extern tensor<4> of_q, of_k, of_v, of_o;     // gradients of them
extern tensor<3> lse, lse2, of_lse;          // [batch, head, query]
extern tensor<4> pairs, pairs2, of_pairs;    // [batch, head, query, key]
extern tensor<4> masses;                     // [batch, head, query, range]
extern Eigen::Tensor<std::int32_t, 4, Eigen::RowMajor> heaviest;  // [batch, head, query, 1]
extern tensor<3> tokens, gates, centres, of_tokens;               // [batch, head, token]
extern Eigen::Tensor<bool, 4, Eigen::RowMajor> seen;              // [batch, head, query, key]
extern tensor<4> features;                                        // [batch, head, token, feature]
extern tensor<4> state, state2;                                   // [batch, head, feature, value dimension]
extern tensor<3> head_matrices, of_matrices, transformed;         // [head, row, column]
extern tensor<3> prefix_key, prefix_value;                        // [head, token, dimension]
extern tensor<3> rows, targets, history;                          // [batch, token, dimension]
extern tensor<3> target_values, history_values;                   // [batch, token, dimension]
extern tensor<3> query_rows, key_rows, value_rows;                // [batch, token, head * dimension]
extern tensor<3> output_rows;                                     // [batch, token, head * dimension]
extern tensor<2> matrix, of_matrix;                               // [row, column]
extern tensor<2> cosines, sines;                                  // [position, pair]
extern std::vector<float> numbers, of_numbers, of_sinks;          // one for each head
extern std::vector<std::int64_t> ids, lengths, first, last;

inline cache_shape const shape{.sequences = 8, .key_value_heads = 8, .key_dimension = 128, .value_dimension = 128};
inline contiguous_cache<float> cache(shape, 4096);
inline rotary<rotary_frequencies> const position(rotary_frequencies(128));
inline block_table table;
