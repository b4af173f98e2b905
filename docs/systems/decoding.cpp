// SPDX-License-Identifier: BSD-3-Clause
// family: Keys chosen from the data: decoding over a cache
#include "tensors.hpp"

// system: Quest
// paper: Tang et al.: Quest: Query-Aware Sparsity for Efficient Long-Context LLM Inference, 2024
// header: attend/attention/sparse_decode/quest_selector.hpp,
// attend/attention/sparse_decode/selected_attention.hpp
// test: tests/attention/quest_attention_test.cpp
// bench: attend_bench --benchmark_filter=select/decode/quest, attend_compare --select
// --only quest
// note: One list serves the heads that share keys, unless a list for each query head is asked for, as in the
// paper.
void quest() {
  quest_selector<float> selector(shape, 32, 4096, quest_pages({.tokens = 1024}, 16, list_of::query_head));
  selector.update(cache);
  selected_attention(q, cache, selector, o);
}

// system: Kinetics, block top-k
// paper: Sadhukhan et al.: Kinetics: Rethinking Test-Time Scaling Laws, 2025
// header: attend/attention/sparse_decode/mean_page_selector.hpp,
// attend/attention/sparse_decode/selected_attention.hpp
// test: tests/attention/mean_page_attention_test.cpp
// bench: attend_bench --benchmark_filter=select/decode/kinetics
// missing: Blocks that begin behind the sinks; the model of costs.
void kinetics() {
  mean_page_selector<float> selector(shape, 32, 4096, kinetics_blocks({.tokens = 1024}));
  selector.update(cache);
  selected_attention(q, cache, selector, o);
}

// system: LongHeads
// paper: Lu et al.: LongHeads: Multi-Head Attention is Secretly a Long Context Processor, 2024
// header: attend/attention/sparse_prefill/long_heads_prompt_attention.hpp,
// attend/attention/sparse_decode/long_heads_attention.hpp,
// attend/attention/sparse_decode/long_heads_selector.hpp,
// attend/attention/sparse_decode/selected_attention.hpp
// test: tests/attention/long_heads_prompt_test.cpp, tests/attention/long_heads_attention_test.cpp
// bench: attend_bench --benchmark_filter=select/decode/long_heads, attend_chosen long_heads
// note: The cache has keys that are rotated for their places in their chunks. selected_attention takes keys that are
// not rotated, and rotates those of each step.
void long_heads() {
  long_heads_selector<float> selector(shape, 32, 4096, 16, 256);
  long_heads_prompt_attention(q, k, v, o, selector, position);  // represents the prompt's chunks
  selector.represent(0, q, k, v, position);                     // sequence 0 has a whole chunk more
  long_heads_attention(q, cache, selector, o, position);
}

// system: Loki
// paper: Singhania et al.: Loki: Low-Rank Keys for Efficient Sparse Attention, 2024
// header: attend/attention/sparse_decode/loki_selector.hpp,
// attend/attention/sparse_decode/selected_attention.hpp
// test: tests/attention/loki_attention_test.cpp
// bench: attend_bench --benchmark_filter=select/decode/loki32, attend_compare --select
// --only loki
// missing: A rank by explained variance.
void loki() {
  to_principal_axes(q, head_matrices, o);  // and keys, before they are appended
  loki_selector<float> selector(shape, 32, 4096, loki_tokens({.tokens = 1024}), leading_keys{32});
  selector.update(cache);
  selected_attention(o, cache, selector, o2);
}

// system: TokenSelect
// paper: Wu et al.: TokenSelect: Efficient Long-Context Inference and Length Extrapolation for LLMs via Dynamic
// Token-Level KV Cache Selection, 2024
// header: attend/select/vote_selector.hpp,
// attend/attention/sparse_decode/selected_attention.hpp
// test: tests/attention/token_select_attention_test.cpp
// bench: attend_bench --benchmark_filter=select/decode/token_select, attend_compare
// --select --only token_select
void token_select() {
  vote_selector<float> selector(shape, 32, 4096, {.budget = {.tokens = 2048, .first = 128, .last = 512}});
  selected_attention(q, cache, selector, o, position);
}

// system: Recycled Attention
// paper: Xu et al.: Recycled Attention: Efficient inference for long-context language models, 2024
// header: attend/attention/sparse_decode/recycled_attention.hpp
// test: tests/attention/recycled_attention_test.cpp
// bench: attend_bench --benchmark_filter=select/decode/recycled, attend_compare --select
// --only recycled
void recycled() {
  recycled_selector<float> selector(shape, 32, 4096, {.budget = {.tokens = 4096}}, {.every = 50});
  recycled_attention(q, cache, selector, o);
}

// system: HyLRA
// paper: HyLRA: Hybrid Layer Reuse Attention for Efficient Long-Context Inference, 2026
// header: attend/attention/sparse_decode/recycled_attention.hpp,
// attend/select/weight_selector.hpp, attend/select/layer_reuse.hpp
// test: tests/attention/recycled_attention_test.cpp, tests/select/layer_reuse_test.cpp
// bench: attend_bench --benchmark_filter=select/decode/layer_reuse, attend_compare --select
// --only layer_reuse
// note: `layer_profile` and `choose_full_layers` find the full layers once for a model, from the similarity of lists
// and the sensitivity of layers, by dynamic programming.
void layer_reuse() {
  weight_selector<float> selector(shape, 32, 4096, {.budget = {.tokens = 2048}});
  hylra_attention(q, cache, selector, true, o);    // a full layer,
  hylra_attention(q, cache, selector, false, o2);  // and one that takes its list
}

// system: RetrievalAttention
// paper: Liu et al.: RetrievalAttention: Accelerating Long-Context LLM Inference via Vector Retrieval, 2024
// header: attend/attention/sparse_decode/retrieval_attention.hpp,
// attend/select/projected_index.hpp, attend/select/projected_graph.hpp,
// attend/select/flat_index.hpp, attend/select/hnsw_index.hpp
// test: tests/attention/retrieval_attention_test.cpp, tests/select/projected_index_test.cpp,
// tests/select/hnsw_index_test.cpp
// bench: attend_bench --benchmark_filter=select/decode/retrieval_,
// attend_bench --benchmark_filter=select/index, attend_compare --select --only retrieval
// note: The graph is projected from the prompt's queries, as RoarGraph (Chen et al., 2024) does. The index reads the
// tokens that came since it was built exactly. An exact index and the off-the-shelf graph of hnswlib are the others.
void retrieval() {
  projected_index index(shape, 4096);
  index.build(cache, k2);  // the prompt's queries
  retrieval_selector<projected_index> selector(shape, 32, 4096, {.first = 128, .last = 512, .tokens = 100},
                                               std::move(index));
  selector.update(cache);
  retrieval_attention(q, cache, selector, o);
}

// system: Focused Transformer (FoT), LongLLaMA
// paper: Focused Transformer: Contrastive Training for Context Scaling
// state: by hand
// header: attend/attention/cached/decode_attention.hpp, attend/attention/softmax/merge.hpp
// test: tests/attention/decode_attention_test.cpp, tests/attention/merge_test.cpp
// note: The local keys, and a memory whose keys stand at position 0, under one softmax.
void focused_transformer() {
  decode_attention(q, cache, o, log_sum_exp(lse));
  decode_attention(q, k2, v2, o2, log_sum_exp(lse2));
  merge(std::vector<partial_attention<float>>{{o, lse}, {o2, lse2}}, o);
}

// system: ActQKV
// paper: Xiao et al.: Activation-aware Probe-Query: Effective Key-Value Retrieval for Long-Context LLMs Inference, 2025
// header: attend/attention/sparse_decode/probe_attention.hpp, attend/select/page_selector.hpp
// test: tests/attention/probe_attention_test.cpp
// note: The window's weights, its pages, and budgets of layers by the entropies of their pages' scores. The formulas
// are those of the authors' release, with the window's own mean and variance.
// missing: Comparing pages by cosines over all heads together.
void act_qkv() {
  std::vector<float> biases(8 * 512), scores(256);
  activation_weights(q, tensor_view(biases.data(), {8, 512}));
  mean_page_selector<float> selector(shape, 32, 4096, kinetics_blocks({.tokens = 1024, .last = 512}));
  selector.update(cache);
  probe_attention(q, tensor_view(biases.data(), {8, 512}), cache, selector, o);
  selector.score_pages(q, 0, 0, scores);  // of each layer, in decoding
  std::vector<double> const densities{information_density(scores), 0.5};
  std::vector<index_t> budgets(2);
  density_budgets(4096, densities, 512, 4096, budgets);
  selector.set_budget({.tokens = budgets[0]});
}

// system: A-VL
// paper: Zhang et al.: A-VL: Adaptive Attention for Large Vision-Language Models, 2024
// header: attend/attention/sparse_decode/a_vl_selector.hpp, attend/cache/evicting.hpp,
// attend/attention/cached/accumulate_weights.hpp
// test: tests/attention/a_vl_attention_test.cpp
// bench: attend_bench --benchmark_filter=select/decode/a_vl
// note: The selector is the policy of eviction as well. The weights of the prompt's last query are the first scores.
void a_vl() {
  std::vector<std::uint8_t> images(8 * 4096);  // of each sequence's tokens: 1 of an image, 0 others
  evicting_cache<float> kept(shape, {.pages = 4096});
  cached_attention(kept, q, k, v, o, position, log_sum_exp(lse));
  accumulate_weights(q, lse, kept, rotary_queries(position));
  a_vl_selector<float> selector(shape, 32, 4096, tensor_view(images.data(), {8, 4096}),
                                {.secondary = 0.5, .core = 0.1});
  kept.evict(selector);  // the image tokens that are neither, and the text between the first and the last tokens
  kept.append(k2, v2);
  selected_attention(rotated_query, kept, selector, o2);  // core and text
}

// system: SpAtten
// paper: Wang et al.: SpAtten: Efficient Sparse Attention Architecture with Cascade Token and Head Pruning, 2020
// header: attend/attention/sparse_decode/spatten_attention.hpp, attend/select/cascade_pruning.hpp,
// attend/cache/bit_planes.hpp
// test: tests/attention/spatten_attention_test.cpp, tests/select/cascade_pruning_test.cpp
// bench: attend_bench --benchmark_filter=select/decode/spatten
// note: The second plane holds what the first one leaves of a row, with a scale of its own.
void spatten() {
  bit_plane_cache<> planes(shape, {.pages = 4096});  // of a layer
  cascade_pruning pruning(8, 4096);                  // of all layers
  cascade_heads<float> heads(8, 32);
  planes.append(k, v, position);
  spatten_attention(q, planes, o, {.threshold = 0.1, .values = 256}, head_gates(heads.gates()));
  pruning.add_weights(planes);
  heads.add_outputs(o);
  heads.keep(28);
  pruning.prune(planes, 1, {.heaviest = 512, .first = 4, .recent = 128});  // before the next layer, its cache
}

// system: DeltaLLM
// paper: DeltaLLM: A Training-Free Framework Exploiting Temporal Sparsity for Efficient Edge LLM Inference
// state: not yet
// missing: Keys that are stored as differences of the channels that change, and full attention within a window. Only
// the abstract could be read, which has no formula: one that is rebuilt from it would not be the paper's.

// system: FastGen
// paper: Model Tells You What to Discard: Adaptive KV Cache Compression for LLMs
// header: attend/select/fastgen_eviction.hpp, attend/cache/evicting.hpp,
// attend/attention/cached/accumulate_weights.hpp
// test: tests/select/fastgen_eviction_test.cpp, tests/attention/accumulate_weights_test.cpp
// bench: attend_compare --cache --only fastgen
// note: The rule by the weight that is kept; the L1 norm of what is lost is twice the weight that is lost.
void fastgen() {
  std::vector<std::uint8_t> kinds(8 * 4096);  // of each sequence's tokens: 1 special, 2 punctuation, 0 others
  evicting_cache<float> kept(shape, {.pages = 4096});
  cached_attention(kept, q, k, v, o, position, log_sum_exp(lse));
  accumulate_weights(q, lse, kept, rotary_queries(position));
  fastgen_eviction policy(shape, tensor_view(kinds.data(), {8, 4096}), {.weight = 0.95});
  policy.choose(kept);
  kept.evict(policy);
}

// system: Ltri-LLM
// paper: Tang et al.: Ltri-LLM: Streaming Long Context Inference for LLMs with Training-Free Dynamic Triangular
// Attention Pattern, 2024
// header: attend/attention/sparse_decode/ltri_attention.hpp, attend/attention/sparse_decode/span_selector.hpp,
// attend/select/triangle_spans.hpp
// test: tests/attention/ltri_attention_test.cpp, tests/select/triangle_spans_test.cpp
// bench: attend_bench --benchmark_filter=select/decode/ltri, attend_compare --select --only ltri
// note: Prompts in chunks of 256 tokens, and decoding, in one call. The headers say which of the formulas are the
// paper's, and which are this library's, since its text could not be read.
// missing: Positions other than those of the text for retrieved spans.
void ltri() {
  span_selector<float> selector(shape, 32, 4096, {.budget = {.tokens = 1024, .first = 4, .last = 256}});
  ltri_attention(cache, selector, q, k, v, o, 256);
}

// system: Retrieval heads
// paper: Retrieval Head Mechanistically Explains Long-Context Factuality
// header: attend/attention/cached/retrieval_scores.hpp, attend/policy/row_statistics.hpp, attend/cache/head_policy.hpp
// test: tests/attention/row_statistics_systems_test.cpp, tests/cache/head_policy_test.cpp
// note: The store in which retrieval heads keep all tokens and the others a window.
void retrieval_heads() {
  retrieval_scores scores(32);
  softmax_attention(q, k, v, o, causal{}, heaviest_keys(heaviest, masses));  // of an answer from a needle
  scores.add(heaviest, ids, lengths, {100, 120});                            // tokens of prompt and answer
  std::vector<std::int32_t> kinds(8);
  scores.choose(kinds);
  head_policy_cache kept(contiguous_cache<float>({8, 4, 128, 128}, 4096),
                         rolling_cache<float>({8, 4, 128, 128}, streaming{4, 1020}, 64), kinds);
  cached_attention(kept, q, k, v, o);
}
