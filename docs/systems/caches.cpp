// SPDX-License-Identifier: BSD-3-Clause
// family: Caches and serving
#include "tensors.hpp"

// system: Flash-Decoding
// paper: Dao et al.: Flash-Decoding for long-context inference, 2023
// header: attend/attention/cached/decode_attention.hpp
// test: tests/attention/decode_attention_test.cpp
// bench: attend_bench --benchmark_filter=decode/contiguous
void flash_decoding() { decode_attention(q, cache, o, threads{8}); }

// system: Chunked prefill (SARATHI)
// paper: Agrawal et al.: SARATHI: Efficient LLM Inference by Piggybacking Decodes with Chunked Prefills, 2023
// header: attend/attention/cached/cached_attention.hpp
// test: tests/attention/cached_attention_chunks_test.cpp
// bench: attend_bench --benchmark_filter=cached_prefill/contiguous
void chunked_prefill() { cached_attention(cache, q, k, v, o, position, chunk_invariant{}); }

// system: PagedAttention
// paper: Kwon et al.: Efficient Memory Management for Large Language Model Serving with PagedAttention, 2023
// header: attend/cache/paged.hpp
// test: tests/cache/paged_test.cpp
// bench: attend_bench --benchmark_filter=decode/paged, attend_compare --only paged_cache
void paged() {
  paged_cache<bfloat16> pages(shape, {.pages = 4096, .page_tokens = 16});
  pages.fork(0, 1);
}

// system: StreamingLLM
// paper: Xiao et al.: Efficient Streaming Language Models with Attention Sinks, 2023
// header: attend/attention/cached/streaming_attention.hpp, attend/cache/rolling.hpp
// test: tests/attention/streaming_attention_test.cpp, tests/cache/rolling_test.cpp
// note: Positions are places in the cache; `cached_attention` over the same store takes positions of the text.
void streaming_llm() {
  rolling_cache<float> kept(shape, streaming{4, 2044}, 64);
  streaming_attention(kept, q, k, v, o, position);
}

// system: DuoAttention
// paper: Xiao et al.: DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads,
// 2024
// header: attend/cache/head_policy.hpp
// test: tests/cache/head_policy_test.cpp
// bench: attend_bench --benchmark_filter=decode/duo
// missing: How retrieval heads are found, by a blend of both kinds of attention.
void duo_attention() {
  std::vector<std::int32_t> const kinds{0, 1, 0, 1, 0, 1, 0, 1};  // 1: a streaming head
  head_policy_cache kept(paged_cache<float>({8, 4, 128, 128}, {.pages = 2048, .page_tokens = 16}),
                         rolling_cache<float>({8, 4, 128, 128}, streaming{128, 256}, 64), kinds);
  cached_attention(kept, q, k, v, o, position);
}

// system: RazorAttention
// paper: Tang et al.: RazorAttention: Efficient KV Cache Compression Through Retrieval Heads, 2024
// header: attend/attention/cached/razor_attention.hpp, attend/attention/cached/retrieval_heads.hpp,
// attend/cache/compensated.hpp
// test: tests/attention/razor_attention_test.cpp, tests/attention/retrieval_heads_test.cpp
// bench: attend_bench --benchmark_filter=decode/razor
// note: `copy_scores` and `choose_retrieval_heads` find the retrieval heads once for a model, from each layer's queries
// and keys of a repeated prompt; `alibi_window` is the window that ALiBi's slopes bound.
void razor() {
  std::vector<std::int32_t> const kinds{0, 1, 0, 1, 0, 1, 0, 1};  // 1: a streaming head
  head_policy_cache kept(paged_cache<float>({8, 4, 128, 128}, {.pages = 4096, .page_tokens = 16}),
                         compensated_cache<float>({8, 4, 128, 128}, {4, razor_window(4096)}, 64), kinds);
  razor_prefill(kept, q, k, v, o);     // a prompt attends to all of itself, and is dropped afterwards
  razor_attention(kept, q, k, v, o2);  // what follows attends to what is kept
}

// system: H2O, heavy hitters
// paper: Zhang et al.: H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models, 2023
// header: attend/cache/evicting.hpp, attend/select/eviction_policies.hpp,
// attend/attention/cached/accumulate_weights.hpp
// test: tests/cache/evicting_test.cpp, tests/attention/evicting_attention_test.cpp,
// tests/attention/accumulate_weights_test.cpp, tests/select/eviction_policies_test.cpp
// bench: attend_bench --benchmark_filter=decode/h2o, attend_compare --cache --only heaviest
// note: Each key-value head keeps the last tokens, and those whose weights add up to most over all queries so far.
void heavy_hitters() {
  evicting_cache<bfloat16> kept(shape, {.pages = 4096});
  cached_attention(kept, q, k, v, o, position, log_sum_exp(lse));
  accumulate_weights(q, lse, kept, rotary_queries(position));
  kept.evict(keep_heaviest{.recent = 512, .heaviest = 512});
}

// system: Eviction by norms
// paper: Devoto et al.: A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression, 2024; Guo et al.:
// Attention Score is not All You Need for Token Importance Indicator in KV Cache Reduction: Value Also Matters, 2024
// header: attend/select/eviction_policies.hpp, attend/cache/evicting.hpp
// test: tests/select/eviction_policies_test.cpp
// bench: attend_compare --cache --only short_keys, attend_compare --cache --only heaviest_values
// note: The shortest keys, or weights times the magnitude of values.
void eviction_by_norms() {
  evicting_cache<bfloat16> kept(shape, {.pages = 4096});
  cached_attention(kept, q, k, v, o, position);
  kept.evict(keep_smallest_keys{.recent = 64, .smallest = 960});
  kept.evict(keep_heaviest{.recent = 64, .heaviest = 960, .by_values = true});
}

// system: Block-Attention
// paper: Ma et al.: Block-Attention for Efficient Prefilling (Block-Attention for Efficient RAG), 2024
// header: attend/attention/cached/block_attention.hpp
// test: tests/attention/block_attention_test.cpp
// bench: attend_bench --benchmark_filter=decode/block
// missing: Other angles than those of `rotary_frequencies`.
void block_attention() {
  paged_cache<float> blocks(shape, {.pages = 1024, .page_tokens = 16});
  cached_attention(blocks, q, k, v, o, position);  // each passage is a sequence of its own
  append_block(blocks, 0, cache, 0, position);     // a passage enters a prompt
  cached_attention(cache, q, k2, v2, o2, position);
}

// system: KIVI's scales for each channel of keys
// paper: Liu et al.: KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache, 2024
// header: attend/cache/contiguous.hpp, attend/cache/quantize.hpp
// test: tests/cache/quantize_test.cpp, tests/cache/storage_error_test.cpp
// bench: attend_compare --only int8_cache, attend_compare --only int4_cache
// missing: Two bits, and zero points.
void kivi() {
  tensor_view<float const, 2> key_scales;  // [head, key dimension]
  contiguous_cache<int4_pair, int4_pair> quantized(shape, 4096, key_scales);
}

// system: Hydragen, cascade inference
// paper: Juravsky et al.: Hydragen: High-Throughput LLM Inference with Shared Prefixes, 2024; Ye et al.:
// Cascade Inference: Memory Bandwidth Efficient Shared Prefix Batch Decoding, 2024
// header: attend/attention/cached/shared_prefix_attention.hpp
// test: tests/attention/shared_prefix_attention_test.cpp
void hydragen() { shared_prefix_attention(q, rows, rows, cache, o); }

// system: DistAttention (Infinite-LLM)
// paper: Lin et al.: Infinite-LLM: Efficient LLM Service for Long Context with DistAttention and Distributed
// KVCache, 2024
// header: attend/attention/softmax/merge.hpp, attend/policy/output.hpp
// test: tests/attention/merge_test.cpp
// bench: attend_bench --benchmark_filter=decode/dist
// missing: Parts that other processes hold.
void dist_attention() {
  softmax_attention(q, k, v, o, log_sum_exp(lse));
  softmax_attention(q, k2, v2, o2, log_sum_exp(lse2));
  merge(std::vector<partial_attention<float>>{{o, lse}, {o2, lse2}}, o);
}

// system: Lamina, attention offloading
// paper: Chen et al.: Efficient and Economic Large Language Model Inference with Attention Offloading, 2024
// header: attend/attention/softmax/merge.hpp, attend/attention/cached/decode_attention.hpp
// test: tests/attention/merge_test.cpp
// bench: attend_bench --benchmark_filter=decode/lamina
// note: The cache's part comes before the new token's own pair is known, and both are merged.
// missing: An example of how both overlap.
void lamina() {
  decode_attention(q, cache, o, log_sum_exp(lse));
  softmax_attention(q, k, v, o2, log_sum_exp(lse2));
  merge(std::vector<partial_attention<float>>{{o, lse}, {o2, lse2}}, o);
}

// system: Multi-head latent attention (MLA)
// paper: DeepSeek-AI: DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model, 2024
// header: attend/attention/cached/latent_attention.hpp, attend/attention/cached/latent_attention_backward.hpp,
// attend/cache/latent.hpp
// test: tests/attention/latent_attention_test.cpp, tests/attention/latent_attention_backward_test.cpp
// bench: attend_bench --benchmark_filter=latent/decode/absorbed, attend_bench
// --benchmark_filter=latent/prefill/expanded
void latent() {
  latent_cache<bfloat16> latents({.sequences = 8, .latent_dimension = 512, .rotary_dimension = 64}, 4096);
  latent_projections const up(head_matrices, head_matrices);
  latent_attention(q, latents, up, o, causal{}, log_sum_exp(lse));
  latent_attention_backward(q, rows, rows, up, o, lse, of_o, of_q, targets, targets,
                            latent_projection_gradients(of_matrices, of_matrices), causal{});  // to train
}

// system: TPLA
// paper: Tang et al.: TPLA: Tensor Parallel Latent Attention for Efficient Disaggregated Prefill and Decode
// Inference, 2025
// header: attend/attention/cached/sliced_latent_attention.hpp,
// attend/attention/cached/latent_slicing.hpp, attend/attention/cached/principal_slicing.hpp
// test: tests/attention/sliced_latent_attention_test.cpp
// bench: attend_bench --benchmark_filter=latent/sliced2, attend_bench
// --benchmark_filter=latent/sliced4
// missing: The part of a single shard, for another process: all shards run in one call.
void tpla() {
  auto const slicing = hadamard_slicing<float>(512, 2);
  latent_cache<float> latents({.sequences = 8, .latent_dimension = 512, .rotary_dimension = 64, .shards = 2}, 4096);
  append_sliced(latents, 0, matrix, matrix, slicing, 1e-6);
  sliced_latent_attention(q, latents, latent_projections(head_matrices, head_matrices), slicing, o);
}
