// SPDX-License-Identifier: BSD-3-Clause
// family: Softmax attention, shared heads and extra slots
#include "tensors.hpp"

// system: Multi-head attention
// paper: Vaswani et al.: Attention Is All You Need, 2017
// header: attend/attention/softmax/softmax_attention.hpp
// test: tests/attention/softmax_attention_test.cpp,
// tests/attention/torch_attention_test.cpp
// bench: attend_bench --benchmark_filter=softmax/prefill, attend_compare --only softmax
void multi_head() { softmax_attention(q, k, v, o, causal{}, threads{2}); }

// system: FlashAttention
// paper: Dao et al.: FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness, 2022
// header: attend/attention/softmax/softmax_attention.hpp,
// attend/attention/softmax/softmax_attention_backward.hpp, attend/policy/mask/block_sparse.hpp,
// attend/policy/dropout.hpp
// test: tests/attention/softmax_attention_test.cpp, tests/policy/mask/block_sparse_test.cpp,
// tests/attention/softmax_attention_backward_test.cpp, tests/attention/torch_gradients_test.cpp,
// tests/policy/dropout_test.cpp, tests/attention/gradients_of_gains_test.cpp,
// tests/attention/gradients_of_options_test.cpp, tests/attention/torch_option_gradients_test.cpp
// bench: attend_bench --benchmark_filter=softmax/prefill, attend_bench --benchmark_filter=backward/, attend_compare
// --only block_sparse
// note: Every call is tiled with an online softmax; the block-sparse form takes a table of blocks, also on the way
// back. Dropout takes its numbers from a counter, and the backward call makes them again.
void flash_attention() {
  softmax_attention(q, k, v, o, causal{}, log_sum_exp{lse});
  softmax_attention_backward(q, k, v, o, lse, of_o, of_q, of_k, of_v, causal{});
  softmax_attention(q, k, v, o, block_sparse{table});
  softmax_attention(q, k, v, o, dropout{.probability = 0.1, .seed = 1}, log_sum_exp{lse});
  softmax_attention_backward(q, k, v, o, lse, of_o, of_q, of_k, of_v, dropout{.probability = 0.1, .seed = 1});
}

// system: FuseMax, the cascades of Einsums
// paper: Nayak et al.: FuseMax: Leveraging Extended Einsums to Optimize Attention Accelerator Design, 2024
// header: attend/attention/softmax/softmax_attention.hpp, attend/reference/cascades.hpp
// test: tests/reference/cascades_test.cpp
// note: The kernel is the cascade of one pass; those of two and three passes are oracles in
// `reference/cascades.hpp`.
// missing: The cascades of two and three passes are no kernels.
void fuse_max() { softmax_attention(q, k, v, o); }

// system: Multi-query attention (MQA)
// paper: Shazeer: Fast Transformer Decoding: One Write-Head is All You Need, 2019
// header: attend/attention/softmax/softmax_attention.hpp,
// attend/attention/cached/decode_attention.hpp
// test: tests/attention/systems_test.cpp
// bench: attend_compare --only mqa
// note: Keys and values have one head.
void multi_query() { softmax_attention(q, k, v, o, causal{}); }

// system: Grouped-query attention (GQA), mean-pooled checkpoints
// paper: Ainslie et al.: GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints,
// 2023
// header: attend/attention/softmax/softmax_attention.hpp,
// attend/attention/softmax/merge_heads.hpp
// test: tests/attention/systems_test.cpp
// bench: attend_compare --only gqa
// note: Keys and values have a number of heads that divides the queries'.
void grouped_query() {
  merge_heads(k2, k);  // the key heads of each group, averaged
  softmax_attention(q, k, v, o, causal{});
}

// system: WGQA, COLWGQA, ROWWGQA
// paper: Chinnakonduru, Mohapatra: Weighted Grouped Query Attention in Transformers, 2024
// header: attend/attention/softmax/merge_heads.hpp
// test: tests/attention/systems_test.cpp
// note: The weights are one for each head, each column or each row of a projection.
// missing: Merging is written for the time of loading a model: plain loops on one thread.
void weighted_grouped_query() { merge_heads(k2, numbers, k); }

// system: Fixed-size heads
// paper: Bhojanapalli et al.: Low-Rank Bottleneck in Multi-head Attention Models, 2020
// header: attend/attention/softmax/softmax_attention.hpp
// test: tests/attention/systems_test.cpp
// note: Keys and values may have any dimension, whatever the model's divided by its heads is.
void fixed_size_heads() { softmax_attention(q, k, v, o, scale{0.125}); }

// system: Head pruning and gates
// paper: Michel et al.: Are Sixteen Heads Really Better than One?, 2019
// header: attend/policy/gain.hpp
// test: tests/attention/systems_test.cpp, tests/policy/gain_test.cpp
// note: A head whose gate is 0 is not computed.
// missing: The importance of a head needs gradients, which are the caller's.
void head_pruning() { softmax_attention(q, k, v, o, head_gates(numbers)); }

// system: DiffQKV (Sigma)
// paper: Lin et al.: Sigma: Differential Rescaling of Query, Key and Value for Efficient Language Models, 2025
// header: attend/attention/cached/cached_attention.hpp, attend/cache/contiguous.hpp,
// attend/attention/sparse_decode/selective_values.hpp
// test: tests/attention/systems_test.cpp, tests/cache/unequal_heads_test.cpp,
// tests/engine/split_unequal_heads_test.cpp, tests/attention/selective_values_test.cpp
// bench: attend_bench --benchmark_filter=diffqkv
// note: Keys have fewer heads than values, and a smaller dimension; a small key that the model expands folds into the
// query. Stores keep each head once, and decoding reads it once. Selective values: those of the keys of largest weight,
// for each query head, with their weights among all keys.
void diff_qkv() {
  cache_shape const fewer_keys{.key_value_heads = 16, .key_dimension = 64, .value_dimension = 128, .key_heads = 4};
  contiguous_cache<bfloat16> kept(fewer_keys, 4096);
  cached_attention(kept, q, k, v, o);
  largest_weights<float> selector(fewer_keys, 32, 4096, 100);  // values of 100 tokens for each query head
  selective_value_attention(q, kept, selector, o);
}

// system: Multiple head embeddings (MHE)
// paper: Xue, Aletras: Pit One Against Many: Leveraging Attention-head Embeddings for Parameter-efficient
// Multi-head Attention, 2023
// header: attend/attention/softmax/multi_head_embedding.hpp
// test: tests/attention/multi_head_embedding_test.cpp
// bench: attend_bench --benchmark_filter=multi_head_embedding/prefill
// note: Over tensors, and over a cache with one key and one value a token. With rotary positions, which the paper's
// models do not have, keys lie unrotated.
void multiple_head_embeddings() {
  tensor_view<float const, 2> to_query, to_key, to_value;  // [head, dimension]
  multi_head_embedding_attention(
      rows, rows, rows, head_embeddings<float>{head_combination::add, to_query, to_key, to_value}, o, causal{});
  contiguous_cache<float> shared({.sequences = 1, .key_value_heads = 1, .key_dimension = 128, .value_dimension = 128},
                                 4096);
  multi_head_embedding_attention(shared, rows, rows, rows,
                                 head_embeddings<float>{head_combination::multiply, to_query, to_key, to_value}, o,
                                 rotary(rotary_frequencies(128)));
}

// system: Mixture-of-Head attention (MoH)
// paper: MoH: Multi-Head Attention as Mixture-of-Head Attention
// state: part
// header: attend/policy/gain.hpp
// test: tests/policy/gain_test.cpp
// note: Heads that are off for a whole call are skipped.
// missing: A choice of heads for each token, and the gated sum of the chosen ones.
void mixture_of_head() { softmax_attention(q, k, v, o, causal{}, head_gates(numbers)); }

// system: BAM's soft mixture of attention
// paper: BAM! Just Like That: Simple and Efficient Parameter Upcycling for Mixture of Experts
// state: by hand
// header: attend/attention/softmax/softmax_attention.hpp
// test: tests/attention/systems_test.cpp
// note: The experts' queries stand side by side as heads over shared keys and values.
// missing: Gates for each token: the caller blends the experts' outputs.
void bam() { softmax_attention(q, k, v, o, causal{}); }

// system: DeconAttn: random, fixed and static queries and keys
// paper: Xue, Moosavi, Aletras: Deconstructing Attention: Investigating Design Principles for Effective
// Language Modeling, 2025
// header: attend/attention/linear/non_approximate_attention.hpp,
// attend/attention/linear/based_attention.hpp, attend/policy/score/bias.hpp
// test: tests/attention/aaren_attention_test.cpp, tests/attention/kernel_systems_test.cpp
// note: The non-approximate and the approximate form are calls. A constant matrix of weights is kept, and
// applied through its logarithms beside keys that have no elements.
// missing: A call that takes the weights themselves.
void deconstructed() {
  non_approximate_attention(q, k, v, o);
  based_attention(q, k, v, o);
  softmax_attention(q, k, v, o, bias(pairs));  // key dimension 0; pairs holds the logarithms of the weights
}

// system: NoPE head temperature
// paper: Wang et al.: Length Generalization of Causal Transformers without Position Encoding, 2024
// header: attend/policy/score/logit_scale.hpp
// test: tests/policy/score/logit_scale_test.cpp, tests/attention/systems_test.cpp
// bench: attend_compare --only head_logit_scale
void nope_temperature() { softmax_attention(q, k, v, o, causal{}, head_logit_scale(numbers)); }

// system: Selective self-attention (SSA)
// paper: Zhang et al.: Selective Attention: Enhancing Transformer through Principled Context Control, 2024
// header: attend/attention/softmax/selective_attention.hpp
// test: tests/attention/systems_test.cpp
// bench: attend_bench --benchmark_filter=selective/prefill, attend_compare --only
// selective_attention
// missing: There must be as many queries as keys: no decoding step, and no cache.
void selective_self_attention() {
  selective_temperature<float> of_queries, of_values;  // {token, position}: of each token, and of each head
  selective_attention(q, k, v, o, of_queries, of_values);
}

// system: Sigmoid attention, FlashSigmoid
// paper: Ramapuram et al.: Theory, Analysis, and Best Practices for Sigmoid Self-Attention, 2024
// header: attend/policy/normalizer/sigmoid.hpp
// test: tests/policy/normalizer/sigmoid_test.cpp
// bench: attend_bench --benchmark_filter=softmax/policy/sigmoid_weights, attend_compare
// --only sigmoid_weights
// missing: The forward pass alone.
void sigmoid_attention() { softmax_attention(q, k, v, o, causal{}, sigmoid_weights{}); }

// system: ReLU attention
// paper: Guo et al.: Active-Dormant Attention Heads: Mechanistically Demystifying Extreme-Token Phenomena in
// LLMs, 2024; Wortsman et al.: Replacing softmax with ReLU in Vision Transformers, 2023
// header: attend/policy/normalizer/relu.hpp
// test: tests/policy/normalizer/relu_test.cpp
// bench: attend_bench --benchmark_filter=softmax/policy/relu_weights
void relu_attention() { softmax_attention(q, k, v, o, causal{}, relu_weights{relu_scaling::count}); }

// system: MPCViT: ReLU-softmax and scale attention
// paper: MPCViT: Searching for Accurate and Efficient MPC-Friendly Vision Transformer with Heterogeneous
// Attention
// state: part
// header: attend/policy/normalizer/relu.hpp, attend/attention/linear/linear_attention.hpp
// test: tests/policy/normalizer/relu_test.cpp, tests/attention/linear_systems_test.cpp
// missing: The normalizer 2Quad, (x + c)^2 over its sum.
void mpc_vit() {
  softmax_attention(q, k, v, o, relu_weights{relu_scaling::sum});
  linear_attention(q, k, v, o, scale{1. / (196 * 8)});  // 1 / (keys * sqrt(dimension))
}

// system: Random-feature layer of attention theory
// paper: What can a Single Attention Layer Learn? A Study Through the Random Features Lens
// state: by hand
// header: attend/policy/normalizer/relu.hpp
// test: tests/policy/normalizer/relu_test.cpp
// note: The query is a random matrix times the first token, which the caller multiplies.
void random_feature_layer() { softmax_attention(q, k, v, o, relu_weights{relu_scaling::count}, scale{1.}); }

// system: Attention sinks: learned logit, zero slot
// paper: Xiao et al.: Efficient Streaming Language Models with Attention Sinks, 2023
// header: attend/policy/normalizer/sinks.hpp
// test: tests/policy/normalizer/sinks_test.cpp
// bench: attend_bench --benchmark_filter=softmax/policy/sinks, attend_compare --only
// zero_slot
void learned_sinks() {
  softmax_attention(q, k, v, o, causal{}, sinks(numbers));
  softmax_attention(q, k, v, o, causal{}, sinks{0.});
}

// system: K-bias and KV-bias sinks, kernels without a sum
// paper: Gu et al.: When Attention Sink Emerges in Language Models: An Empirical View, 2024
// header: attend/policy/slots.hpp
// test: tests/policy/slots_test.cpp, tests/attention/systems_test.cpp
// bench: attend_compare --only key_bias
// missing: Similarities of sigmoid, elu + 1 or identity that are divided by their sum over pairs; the sink
// metric without storing all weights.
void key_value_bias() {
  softmax_attention(q, k, v, o, causal{}, key_bias(k2));
  softmax_attention(q, k, v, o, causal{}, prefix_key_values(k2, v2));
  softmax_attention(q, k, v, o, causal{}, sigmoid_weights{});
}

// system: Explicit attention bias
// paper: Sun et al.: Massive Activations in Large Language Models, 2024
// header: attend/policy/slots.hpp
// test: tests/attention/systems_test.cpp
// bench: attend_compare --only prefix_key_values
// note: One slot for each head.
void explicit_attention_bias() { softmax_attention(q, k, v, o, causal{}, prefix_key_values(k2, v2)); }

// system: Prototypical memory (PMA-Net)
// paper: Barraco et al.: With a Little Help from your own Past: Prototypical Memory Networks for Image
// Captioning, 2023
// header: attend/policy/slots.hpp
// test: tests/attention/systems_test.cpp
// bench: attend_compare --only prefix_key_values
// missing: How prototypes are made, by k-means over a bank of past keys; segment vectors.
void prototypical_memory() { softmax_attention(q, k, v, o, prefix_key_values(k2, v2)); }

// system: FedPerfix
// paper: Sun et al.: FedPerfix: Towards Partial Model Personalization of Vision Transformers in Federated
// Learning, 2023
// header: attend/policy/slots.hpp
// test: tests/attention/systems_test.cpp
// bench: attend_compare --only prefix_key_values
// missing: The adapter that makes the prefix.
void fed_perfix() { softmax_attention(q, k, v, o, prefix_key_values(k2, v2)); }
