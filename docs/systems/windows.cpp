// SPDX-License-Identifier: BSD-3-Clause
// family: Windows, documents and other masks over positions
#include "tensors.hpp"

// system: Sliding window, Longformer
// paper: Beltagy et al.: Longformer: The Long-Document Transformer, 2020
// header: attend/policy/mask/window.hpp, attend/policy/mask/global_tokens.hpp,
// attend/policy/mask/patterns.hpp
// test: tests/policy/mask/window_test.cpp, tests/policy/mask/patterns_test.cpp
// bench: attend_compare --only window, attend_sweep windows
void longformer() {
  softmax_attention(q, k, v, o, window{256, 256} | global_tokens(1));
  softmax_attention(q, k, v, o, dilated_window(128, 128, 4));
}

// system: Sinks and window
// paper: Xiao et al.: Efficient Streaming Language Models with Attention Sinks, 2023; Han et al.: LM-Infinite,
// 2023
// header: attend/policy/mask/streaming.hpp
// test: tests/policy/mask/streaming_test.cpp
// note: Over tensors; the store that keeps only these tokens is under caches.
void sinks_beside_a_window() { softmax_attention(q, k, v, o, streaming{4, 1024}); }

// system: Prefix LM
// paper: Raffel et al.: Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer, 2020
// header: attend/policy/mask/prefix_lm.hpp
// test: tests/policy/mask/prefix_lm_test.cpp
// bench: attend_bench --benchmark_filter=softmax/policy/prefix_lm
void prefix_language_model() { softmax_attention(q, k, v, o, prefix_lm{512}); }

// system: Prefix Global
// paper: Burns et al.: A Suite of Generative Tasks for Multi-Level Multimodal Webpage Understanding, 2023
// header: attend/policy/mask/global_tokens.hpp
// test: tests/policy/mask/global_tokens_test.cpp
void prefix_global() { softmax_attention(q, k, v, o, window{128, 128} | global_tokens(512)); }

// system: TrLDC
// paper: Dai et al.: Revisiting Transformer-based Models for Long Document Classification, 2022
// header: attend/policy/mask/global_tokens.hpp
// test: tests/policy/mask/global_tokens_test.cpp
// missing: Projections of their own for global tokens: those are two calls, put together by `merge`.
void tr_ldc() { softmax_attention(q, k, v, o, window{64, 64} | global_tokens(ids)); }

// system: MSWA
// paper: Xu et al.: MSWA: Refining Local Attention with Multi-ScaleWindow Attention, 2025
// header: attend/policy/mask/head_windows.hpp, attend/cache/evicting.hpp,
// attend/select/eviction_policies.hpp
// test: tests/policy/mask/head_windows_test.cpp, tests/attention/accumulate_weights_test.cpp
// bench: attend_bench --benchmark_filter=decode/mswa
// note: The cache keeps what the windows of its key-value heads show.
void multi_scale_window() {
  auto const windows = multi_scale_windows(1024, 0, 24, 16);  // base, layer, layers, heads
  softmax_attention(q, k, v, o, head_windows{windows});
  evicting_cache<float> kept(shape, {.pages = 4096});
  cached_attention(kept, q, k, v, o, head_windows{windows});
  // Heads that share keys have the window of those in their quarter of the layer.
  kept.evict(keep_window{.windows = multi_scale_windows(1024, 0, 24, 8)});
}

// system: MoA
// paper: Fu et al.: MoA: Mixture of Sparse Attention for Automatic Large Language Model Compression, 2024
// header: attend/policy/mask/head_windows.hpp, attend/cache/evicting.hpp,
// attend/select/eviction_policies.hpp
// test: tests/policy/mask/head_windows_test.cpp, tests/policy/mask/patterns_test.cpp,
// tests/select/eviction_policies_test.cpp
// bench: attend_bench --benchmark_filter=decode/moa
// missing: The search for offsets and slopes.
void mixture_of_sparse_attention() {
  auto const windows = elastic_windows(numbers, numbers, 131072);  // offsets and slopes of the heads, keys
  softmax_attention(q, k, v, o, (head_windows{windows} | keys_in(0, 64)) & causal{});
  evicting_cache<float> kept(shape, {.pages = 4096});
  cached_attention(kept, q, k, v, o);
  kept.evict(keep_window{.sinks = 64, .windows = windows});
}

// system: LongCA-bench, its fourteen masks
// paper: Long-Context Attention Benchmark: From Kernel Efficiency to Distributed Context Parallelism, 2025
// header: attend/policy/mask/documents.hpp, attend/policy/mask/intervals.hpp,
// attend/policy/mask/block_sparse.hpp
// test: tests/policy/mask/longca_test.cpp
// bench: attend_bench --benchmark_filter=longca
// note: Three of the fourteen; the benchmark has them all.
// missing: Its schemes of context parallelism.
void long_ca() {
  softmax_attention(q, k, v, o, documents{ids} & causal{});
  softmax_attention(q, k, v, o, window{1024, 1024} | global_tokens(2048));
  softmax_attention(q, k, v, o, block_sparse{table});
}

// system: LongLoRA, S2-Attn
// paper: Chen et al.: LongLoRA: Efficient Fine-tuning of Long-Context Large Language Models, 2023
// header: attend/policy/mask/patterns.hpp
// test: tests/policy/mask/patterns_test.cpp
void long_lora() { softmax_attention(q, k, v, o, shifted_groups(2048, 32)); }

// system: SinkLoRA, SF-Attn
// paper: Zhang: SinkLoRA: Enhanced Efficiency and Chat Capabilities for Long-Context Large Language Models,
// 2024
// header: attend/policy/mask/patterns.hpp, attend/select/eviction_policies.hpp,
// attend/attention/cached/accumulate_weights.hpp
// test: tests/policy/mask/patterns_test.cpp, tests/attention/accumulate_weights_test.cpp
// bench: attend_bench --benchmark_filter=decode/h2o
// note: The mask is for fine-tuning: of the half of the heads that LongLoRA shifts, those before the given one have
// gone back. The model then attends to everything, and decodes over a cache of first, recent and heaviest tokens (H2O).
void sink_lora() {
  softmax_attention(q, k, v, o, sink_fixed_groups(2048, 24, 4));  // of 32 heads 8 are shifted
  evicting_cache<bfloat16> kept(shape, {.pages = 4096});
  cached_attention(kept, q, k, v, o, position, log_sum_exp(lse));
  accumulate_weights(q, lse, kept, rotary_queries(position));
  kept.evict(keep_heaviest{.recent = 512, .heaviest = 512, .sinks = 4});
}

// system: Sparse Transformer, strided and fixed
// paper: Child et al.: Generating Long Sequences with Sparse Transformers, 2019
// header: attend/attention/sparse_prefill/sparse_transformer_attention.hpp,
// attend/policy/mask/patterns.hpp
// test: tests/attention/sparse_transformer_attention_test.cpp,
// tests/policy/mask/patterns_test.cpp
// bench: attend_chosen strided, attend_chosen fixed
// missing: Columns that differ from head to head; they can be said as masks.
void sparse_transformer() {
  strided_sparse_attention(q, k, v, o, 128);
  fixed_sparse_attention(q, k, v, o, {128, 8});
  softmax_attention(q, k, v, o, strided_pattern(128));
}

// system: LSG attention
// paper: Condevaux, Harispe: LSG Attention: Extrapolation of Pretrained Transformers to Long Sequences, 2022
// header: attend/attention/sparse_prefill/lsg_attention.hpp
// test: tests/attention/lsg_attention_test.cpp
// bench: attend_chosen lsg
// note: All its selections of distant tokens, causal or not.
void local_sparse_and_global() {
  lsg_attention(q, k, v, o, {.block = 128, .factor = 8, .selection = lsg_selection::norm, .global = 1});
  softmax_attention(q, k, v, o, local_sparse_global(128, 8, 1));  // the strided selection as a mask
}

// system: S2-Attention, DKernel
// paper: Lin et al.: Efficient LLM Training and Serving with Heterogeneous Context Sharding among Attention
// Heads, 2024
// header: attend/policy/mask/block_builders.hpp, attend/policy/mask/block_sparse.hpp,
// attend/select/eviction_policies.hpp
// test: tests/policy/mask/block_builders_test.cpp, tests/select/eviction_policies_test.cpp
// bench: attend_sweep tables, attend_bench --benchmark_filter=decode/s2, attend_compare --cache --only shards
// note: For decoding, `keep_shard` leaves each head of an `evicting_cache` its local and strided blocks alone.
void heterogeneous_sharding() {
  auto const shards = sharded_blocks({.heads = 32, .queries = 8192, .keys = 8192}, {.local = 4, .stride = 16});
  softmax_attention(q, k, v, o, block_sparse{shards} & causal{});
}

// system: Parallel context encoding with shared sinks
// paper: Zhang et al.: Attention Entropy is a Key Factor: An Analysis of Parallel Context Encoding with
// Full-attention-based Pre-trained Language Models, 2024
// header: attend/policy/mask/patterns.hpp, attend/attention/softmax/segment_calibration.hpp,
// attend/policy/segment_gain.hpp, attend/policy/row_statistics.hpp
// test: tests/policy/mask/patterns_test.cpp, tests/policy/segment_gain_test.cpp
// note: The pieces with the most weight are those with the largest log-sum-exps. Scores of mean logits are logits of
// the pieces' mean keys.
void parallel_context_encoding() {
  softmax_attention(q, k, v, o, parallel_context(ids, 16, 4000), entropy(lse));
  std::vector<key_range> const pieces{{16, 1000}, {1000, 2000}, {2000, 4000}};
  softmax_attention(q, k, v, o, causal{}, range_mass(pieces, pairs));
  best_segments(pairs, 2, pairs2);
  softmax_attention(q, k, v, o, causal{}, segment_bias(pieces, pairs2));
}

// system: Sentinel-token compression
// paper: Ren et al.: Context Compression for Auto-regressive Transformers with Sentinel Tokens, 2023
// header: attend/policy/mask/sentinel_spans.hpp, attend/select/eviction_policies.hpp,
// attend/cache/evicting.hpp
// test: tests/policy/mask/sentinel_spans_test.cpp, tests/select/eviction_policies_test.cpp
// bench: attend_compare --cache --only sentinels
// note: Sentinels stand at the position of the token before them, which `sentinel_positions` counts.
void sentinel_tokens() {
  softmax_attention(q, k, v, o, sentinel_spans{first, last} & causal{});
  evicting_cache<float> kept(shape, {.pages = 4096});
  cached_attention(kept, q, k, v, o, sentinel_spans{first, last});
  kept.evict(drop_closed_spans(first, last), 1);
  auto const places = sentinel_positions(first, last, 4096);
  softmax_attention(q, k, v, o, sentinel_spans{first, last} & causal{}, position.at(places));
}

// system: DeepGraph
// paper: Zhao et al.: Are More Layers Beneficial to Graph Transformers?, 2023
// header: attend/policy/mask/parts.hpp, attend/policy/mask/boolean_mask.hpp
// test: tests/attention/pattern_systems_test.cpp
void deep_graph() { softmax_attention(q, k, v, o, queries_in(0, 100) | boolean_mask(seen)); }

// system: Human-guided patterns, fixed-pattern heads
// paper: Li et al.: Human Guided Exploitation of Interpretable Attention Patterns in Summarization and Topic
// Segmentation, 2022
// header: attend/policy/mask/parts.hpp, attend/policy/mask/documents.hpp
// test: tests/policy/mask/parts_test.cpp, tests/policy/mask/patterns_test.cpp
void human_guided() { softmax_attention(q, k, v, o, (heads_in(0, 2) & documents{ids}) | heads_in(2, 12)); }

// system: Latent monotonic attention
// paper: Zeyer et al.: A study of latent monotonic attention variants, 2021
// header: attend/policy/mask/intervals.hpp
// test: tests/policy/mask/intervals_test.cpp
// missing: The model of positions, with its searches.
void latent_monotonic() { softmax_attention(q, k, v, o, intervals{first, last}); }

// system: Luong's attention, local and global
// paper: Luong et al.: Effective Approaches to Attention-based Neural Machine Translation, 2015
// header: attend/policy/mask/centred_window.hpp, attend/policy/pair_gain.hpp
// test: tests/policy/mask/centred_window_test.cpp, tests/policy/pair_gain_test.cpp
// note: The general score is a projection of the caller's, the location score a bias.
// missing: The score concat, which is additive.
void luong() {
  softmax_attention(q, k, v, o, scale{1.});
  softmax_attention(q, k, v, o, centred_window(tokens, 10.), gaussian_gain(tokens, 5.), scale{1.});
}

// system: UnifiedGesture's cross-local attention
// paper: Yang et al.: UnifiedGesture: A Unified Gesture Synthesis Model for Multiple Skeletons, 2023
// header: attend/policy/mask/block_window.hpp
// test: tests/policy/mask/block_window_test.cpp, tests/attention/pattern_systems_test.cpp
void unified_gesture() { softmax_attention(q, k, v, o, block_window(6, 6) & causal{}); }

// system: TKL's local self-attention
// paper: Hofstaetter et al.: Local Self-Attention over Long Text for Efficient Document Retrieval, 2020
// header: attend/policy/mask/block_window.hpp
// test: tests/policy/mask/block_window_test.cpp
// missing: Kernel pooling and saturation, which are no attention.
void tkl() { softmax_attention(q, k, v, o, block_window(40, 5, 5)); }

// system: Context-aware cross-attention (CCAN)
// paper: Ding et al.: Context-Aware Cross-Attention for Non-Autoregressive Translation, 2020
// header: attend/attention/softmax/context_aware_cross_attention.hpp
// test: tests/attention/context_aware_cross_attention_test.cpp
// missing: A single pass over the logits: the window and the whole are two.
void context_aware() { context_aware_cross_attention(q, k, v, o, tokens, tokens, 3.); }

// system: FocusICL
// paper: Yuan et al.: Focused Large Language Models are Stable Many-Shot Learners, 2024
// header: attend/attention/softmax/focus_icl_attention.hpp
// test: tests/attention/focus_icl_attention_test.cpp,
// tests/attention/pattern_systems_test.cpp
// bench: attend_chosen focus
void focus_icl() {
  softmax_attention(q, k, v, o, documents{ids} & causal{});                         // the demonstrations
  focus_icl_attention(q, k, v, o, {.tokens = 4096, .batches = 4, .trivial = 0.4});  // the question behind them
}

// system: Block-sparse attention
// paper: Dao et al.: FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness, 2022
// header: attend/policy/mask/block_sparse.hpp, attend/policy/mask/block_builders.hpp
// test: tests/policy/mask/block_sparse_test.cpp, tests/policy/mask/block_builders_test.cpp
// bench: attend_compare --only block_sparse, attend_sweep tables
void blocks_from_a_table() {
  auto const blocks = table_of_mask({.heads = 8, .queries = 4096, .keys = 4096}, window{512, 0} | global_tokens(64));
  softmax_attention(q, k, v, o, block_sparse{blocks} & causal{});
}

// system: FlexAttention
// paper: Dong et al.: Flex Attention: A Programming Model for Generating Optimized Attention Kernels, 2024
// header: attend/policy/mask/predicate.hpp, attend/policy/score/score.hpp,
// attend/policy/weight_function.hpp
// test: tests/policy/mask/predicate_test.cpp, tests/policy/score/score_test.cpp,
// tests/policy/weight_function_test.cpp
// bench: attend_bench --benchmark_filter=softmax/policy/mask_function, attend_bench
// --benchmark_filter=softmax/policy/score_function, attend_bench
// --benchmark_filter=softmax/policy/weight_function
void flex() {
  softmax_attention(q, k, v, o, mask([](auto query, auto key) { return query / 64 == key / 64; }),
                    score([](auto s, auto const& at) { return s - 0.1f * (at.query_position - at.key_position); }),
                    weight_function([](auto p, auto const&) { return p * p; }));
}
