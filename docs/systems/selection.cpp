// SPDX-License-Identifier: BSD-3-Clause
// family: Keys chosen from the data: a whole prompt
#include "tensors.hpp"

// system: MoBA
// paper: Lu et al.: MoBA: Mixture of Block Attention for Long-Context LLMs, 2025
// header: attend/attention/sparse_prefill/moba_attention.hpp,
// attend/attention/sparse_decode/mean_page_selector.hpp,
// attend/attention/sparse_decode/selected_attention.hpp
// test: tests/attention/moba_attention_test.cpp,
// tests/attention/mean_page_attention_test.cpp
// bench: attend_chosen mixture, attend_compare --select --only moba, attend_bench
// --benchmark_filter=select/decode/moba
void moba() {
  moba_attention(q, k, v, o, moba_options{512, 3});
  mean_page_selector<float> selector(shape, 32, 4096, moba_blocks({.tokens = 1536}));  // and decoding
  selector.update(cache);
  selected_attention(q, cache, selector, o);
}

// system: SampleAttention
// paper: Zhu et al.: SampleAttention: Near-Lossless Acceleration of Long Context LLM Inference with Adaptive
// Structured Sparse Attention, 2024
// header: attend/attention/sparse_prefill/sample_attention.hpp
// test: tests/attention/sample_attention_test.cpp
// bench: attend_chosen stripes, attend_compare --select --only sample
void sampled() { sample_attention(q, k, v, o, sample_options{.rows = 0.05, .weight_sum = 0.95, .window = 0.08}); }

// system: HiP
// paper: Lee et al.: HiP Attention: Sparse Sub-Quadratic Attention with Hierarchical Attention Pruning, 2024
// header: attend/attention/sparse_prefill/hip_attention.hpp,
// attend/attention/sparse_decode/hip_selector.hpp,
// attend/attention/sparse_decode/selected_attention.hpp
// test: tests/attention/hip_attention_test.cpp,
// tests/attention/hip_selector_test.cpp
// bench: attend_chosen tree, attend_compare --select --only hip, attend_bench
// --benchmark_filter=select/decode/hip
// note: hip_form says whether an interval is scored by its middle token, as in the text, by its first one, or by
// its first block and every second query, as in the authors' release.
void hip() {
  hip_attention(q, k, v, o, table, hip_options{.query_block = 32, .key_block = 64, .blocks = 16});
  hip_selector<float> selector(shape, 32, 4096, {.blocks = 16, .every = 4});  // and decoding
  selected_attention(q, cache, selector, o);
}

// system: HyperAttention
// paper: Han et al.: HyperAttention: Long-context Attention in Near-Linear Time, 2023
// header: attend/attention/sparse_prefill/hyper_attention.hpp,
// attend/select/sorted_hashing.hpp
// test: tests/attention/hyper_attention_test.cpp
// bench: attend_chosen hyper, attend_compare --select --only hyper
// missing: The sampling of values by their norm, which the authors' code leaves out too.
void hyper() { hyper_attention(q, k, v, o, hash_directions(7, 128, 1), hyper_options{}, causal{}); }

// system: Routing Transformer
// paper: Roy et al.: Efficient Content-Based Sparse Attention with Routing Transformers, 2021
// header: attend/attention/sparse_prefill/routing_attention.hpp
// test: tests/attention/routing_attention_test.cpp
// bench: attend_chosen routing, attend_compare --select --only routing
// missing: A public implementation's null key and value of each cluster.
void routing() {
  routing_attention(q, k, v, o, head_matrices, 128, causal{});
  update_centroids(head_matrices, q, k, 0.999);
}

// system: Combiner: fixed, logsparse, axial
// paper: Ren et al.: Combiner: Full Attention Transformer with Sparse Computation Cost, 2021
// header: attend/attention/sparse_prefill/combiner_attention.hpp
// test: tests/attention/combiner_attention_test.cpp
// bench: attend_chosen axial, attend_compare --select --only combiner
// missing: Regions pooled otherwise than by their largest elements; two of the three axial forms, the mixture,
// and decoding.
void combiner() {
  combiner_fixed_attention(q, k, v, o, 64, causal{});
  combiner_logsparse_attention(q, k, v, o);
  combiner_axial_attention(q, k, v, o, 64);
}

// system: SparseK
// paper: Lou et al.: Sparser is Faster and Less is More: Efficient Sparse Attention for Long-Range
// Transformers, 2024
// header: attend/attention/sparse_prefill/sparse_k_attention.hpp,
// attend/attention/sparse_prefill/sparse_k_causal_attention.hpp,
// attend/attention/sparse_decode/sparse_k_decode_attention.hpp, attend/select/sparse_k.hpp
// test: tests/attention/sparse_k_attention_test.cpp,
// tests/attention/sparse_k_decode_attention_test.cpp
// bench: attend_compare --select --only sparse_k, attend_bench
// --benchmark_filter=select/decode/sparse_k
void sparse_keys() {
  sparse_k_attention(q, k, v, o, tokens, 256);
  sparse_k_causal_attention(q, k, v, o, tokens, 256, 512);
  sparse_k_cache<float> kept(shape, {.chosen = 256, .window = 512});  // decoding, in constant memory
  kept.append(k, v, tokens);
  sparse_k_decode_attention(q, kept, o);
}

// system: SeerAttention
// paper: Gao et al.: SeerAttention: Learning Intrinsic Sparse Attention in Your LLMs, 2024
// header: attend/attention/sparse_prefill/seer_prefill_attention.hpp,
// attend/attention/sparse_prefill/seer_target.hpp, attend/attention/sparse_decode/seer_attention.hpp
// test: tests/attention/seer_prefill_attention_test.cpp,
// tests/attention/seer_attention_test.cpp, tests/attention/row_statistics_systems_test.cpp
// bench: attend_bench --benchmark_filter=select/decode/seer
void seer() {
  seer_prefill_blocks(q, k, head_matrices, head_matrices, position, table,
                      seer_prefill_options{.block = 64, .top = 16});
  softmax_attention(q, k, v, o, block_sparse{table} & causal{});

  seer_gate const gate(head_matrices, head_matrices, position, 64);  // and decoding
  seer_selector<float> selector(shape, 32, 4096, seer_blocks({.tokens = 1024}), gate);
  selector.update(cache);
  seer_attention(q, k2, cache, selector, o);

  softmax_attention(q, k, v, o, causal{}, block_maxima(pairs, {.queries = 64, .keys = 64}));
  seer_target(pairs);  // what the gate is trained on, by the loss seer_loss(pairs, gate)
}

// system: Hepos
// paper: Huang et al.: Efficient Attentions for Long Document Summarization, 2021
// header: attend/attention/softmax/hepos_attention.hpp
// test: tests/attention/hepos_attention_test.cpp
// bench: attend_compare --select --only hepos
// missing: A form over a cache.
void hepos() { hepos_attention(q, k, v, o, 4); }

// system: Landmark attention
// paper: Mohtashami, Jaggi: Landmark Attention: Random-Access Infinite Context Length for Transformers, 2023
// header: attend/attention/sparse_prefill/landmark_prompt_attention.hpp,
// attend/attention/sparse_decode/landmark_attention.hpp
// test: tests/attention/landmark_prompt_attention_test.cpp,
// tests/attention/landmark_attention_test.cpp
// bench: attend_bench --benchmark_filter=select/decode/landmark
// note: With rotary positions, chosen blocks stand in slots just before the own block. Heads or queries may share a
// choice.
void landmark() {
  landmark_prompt_attention(q, k, v, o, 50);
  landmark_selector<float> selector(shape, 32, 4096, 4, 51);  // and decoding, with 4 blocks
  selector.update(cache);
  landmark_attention(q, cache, selector, o, rotary(rotary_frequencies(128)));
}

// system: DARE
// paper: Feng et al.: Long-Sequence Recommendation Models Need Decoupled Embeddings, 2025
// header: attend/attention/softmax/decoupled_embedding_attention.hpp
// test: tests/attention/decoupled_embedding_attention_test.cpp
// bench: attend_compare --select --only decoupled
void dare() {
  tensor<3> targets, history, target_values, history_values;  // [batch, item, dimension]
  decoupled_embedding_attention(targets, history, target_values, history_values, rows, 50);
}

// system: Hierarchical chunk attention memory (HCAM)
// paper: Towards mental time travel: a hierarchical memory for reinforcement learning agents
// state: part
// header: attend/attention/sparse_decode/mean_page_selector.hpp,
// attend/attention/sparse_decode/selected_attention.hpp
// test: tests/attention/mean_page_attention_test.cpp
// note: The chunks of largest mean key, under one softmax.
// missing: A softmax within each chunk, merged by weights of the chunks alone.
void hcam() {
  mean_page_selector<float> selector(shape, 32, 4096, moba_blocks({.tokens = 256}, 32));
  selector.update(cache);
  selected_attention(q, cache, selector, o);
}

// system: CCA-Attention
// paper: Core Context Aware Attention for Long Context Language Modeling
// state: not yet
// missing: Keys that stand for groups, pooled by a softmax of the group's last query, under one softmax with
// the window.

// system: Flux Attention
// paper: Flux Attention: Context-Aware Hybrid Attention for Efficient LLMs Inference, 2026
// header: attend/attention/sparse_prefill/flux_attention.hpp,
// attend/attention/sparse_prefill/x_attention.hpp
// test: tests/attention/flux_attention_test.cpp,
// tests/attention/x_attention_test.cpp
// note: The networks' weights are the program's. With XAttention as the sparse form, sequences that stream are calls of
// x_attention.
void flux() {
  std::array<float, 256> const weights{};  // one layer of 128 to 2; the paper has five
  std::array<float, 2> const bias{};
  flux_layer const layer[] = {{tensor_view<float const, 2>(weights.data(), {2, 128}), view_of(bias)}};
  std::vector<std::int32_t> full(static_cast<std::size_t>(q.dimension(0)));
  flux_router{{}, layer}.route(q, full);
  softmax_attention(q, k, v, o, flux_mask{.full = full});
  decode_attention(q, cache, o, flux_mask{.full = full});
}

// system: XAttention
// paper: Xu et al.: XAttention: Block Sparse Attention with Antidiagonal Scoring, 2025
// header: attend/attention/sparse_prefill/x_attention.hpp,
// attend/select/antidiagonal_masses.hpp
// test: tests/attention/x_attention_test.cpp
// bench: attend_chosen antidiagonals, attend_compare --select --only x_attention
// missing: The thresholds that the paper finds for each head.
void antidiagonals() {
  x_attention(q, k, v, o, table, {.block = 128, .stride = 16, .share = 0.9});
  x_attention(q, cache, o, table, {.block = 128, .stride = 16, .share = 0.9});  // a chunk that was appended
}
