// SPDX-License-Identifier: BSD-3-Clause
// family: Attention over several processes
#include "tensors.hpp"

// system: Ring Attention
// paper: Ring Attention with Blockwise Transformers for Near-Infinite Context
// state: part
// header: attend/attention/softmax/merge.hpp, attend/policy/mask/causal.hpp
// test: tests/attention/merge_test.cpp
// note: A step of the ring, in one process: a block of keys that came later, and one that came earlier.
// missing: The ring itself, in which keys and values travel between processes.
void ring_attention() {
  softmax_attention(q, k, v, o, causal{}, log_sum_exp(lse));
  softmax_attention(q, k2, v2, o2, causal{offset(4096)}, log_sum_exp(lse2));
  merge(std::vector<partial_attention<float>>{{o, lse}, {o2, lse2}}, o);
}

// system: Ring Self-Attention
// paper: Sequence Parallelism: Long Sequence Training from System Perspective
// state: not yet
// missing: Two rings between processes, the first of which gathers whole rows of scores.

// system: Star Attention
// paper: Star Attention: Efficient LLM Inference over Long Sequences
// state: part
// header: attend/policy/mask/parts.hpp, attend/policy/mask/documents.hpp,
// attend/attention/softmax/merge.hpp
// test: tests/policy/mask/parts_test.cpp, tests/attention/merge_test.cpp
// note: The context: blocks that see themselves and the first block. Then the query, whose parts are merged.
// missing: Hosts that hold the blocks.
void star() {
  softmax_attention(q, k, v, o, (documents{ids} | keys_in(0, 4096)) & causal{});
  decode_attention(q, cache, o, log_sum_exp(lse));
  decode_attention(q, k2, v2, o2, log_sum_exp(lse2));
  merge(std::vector<partial_attention<float>>{{o, lse}, {o2, lse2}}, o);
}

// system: Distributed multi-head attention of the unified view
// paper: A Unified View of Long-Sequence Models towards Modeling Million-Scale Dependencies
// state: part
// header: attend/core/executor.hpp
// test: tests/attention/softmax_attention_threads_test.cpp
// note: Heads and rows are parted over threads.
// missing: Processes.
void unified_view() { softmax_attention(q, k, v, o, threads{16}); }

// system: Zeppelin
// paper: Zeppelin: Balancing Variable-length Workloads in Data Parallel Large Model Training
// state: part
// header: attend/policy/sequence/sequences.hpp
// test: tests/policy/sequence/sequences_test.cpp
// note: Sequences of different lengths in one call, whose tasks are balanced over threads.
// missing: The zones of processes.
void zeppelin() { softmax_attention(q, k, v, o, causal{}, ragged{lengths}, threads{16}); }
