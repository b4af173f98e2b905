// SPDX-License-Identifier: BSD-3-Clause
// family: Positions
#include "tensors.hpp"

// system: Rotary positions (RoPE)
// paper: Su et al.: RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021
// header: attend/policy/position/rotary.hpp, attend/attention/softmax/rotary_embedding.hpp
// test: tests/policy/position/rotary_test.cpp, tests/attention/rotary_attention_test.cpp
// bench: attend_bench --benchmark_filter=rotary/attention/fused
void rotary_positions() {
  softmax_attention(q, k, v, o, causal{}, rotary(rotary_frequencies(128)));
  rotary_embedding(q, rotary(rotary_frequencies(128)), o);
}

// system: Longer contexts: position interpolation, NTK-aware, YaRN, Llama 3.1
// paper: Chen et al.: Extending Context Window of Large Language Models via Positional Interpolation, 2023;
// Peng et al.: YaRN: Efficient Context Window Extension of Large Language Models, 2023
// header: attend/policy/position/rotary_scaling.hpp
// test: tests/attention/rotary_vectors_test.cpp
void rotary_scalings() {
  softmax_attention(q, k, v, o, causal{}, rotary(rotary_frequencies(128, 10000, linear_scaling{4})));
}

// system: Multimodal and axial rotary positions
// paper: Qwen2-VL, 2024; Qwen3-VL, 2025; Heo et al.: Rotary Position Embedding for Vision Transformer, 2024
// header: attend/policy/position/rotary_angles.hpp
// test: tests/policy/position/rotary_test.cpp
void axial_rotary() { softmax_attention(q, k, v, o, rotary(rotary_angles(tokens))); }

// system: SE-Attention (ST-LINK)
// paper: Jeon et al.: ST-LINK: Spatially-Aware Large Language Models for Spatio-Temporal Forecasting, 2025
// header: attend/policy/position/rotary_angles.hpp
// test: tests/policy/position/rotary_test.cpp
// missing: The angles of a graph are the caller's.
void st_link() { softmax_attention(q, k, v, o, rotary(rotary_angles(tokens))); }

// system: Attention Buckets
// paper: Fortify the Shortest Stave in Attention: Enhancing Context Awareness of Large Language Models for
// Effective Tool Use
// state: by hand
// header: attend/policy/position/rotary.hpp
// test: tests/attention/rotary_attention_test.cpp
// note: One call for each base of the frequencies.
void attention_buckets() {
  softmax_attention(q, k, v, o, causal{}, rotary(rotary_frequencies(128, 10000)));
  softmax_attention(q, k, v, o2, causal{}, rotary(rotary_frequencies(128, 17500)));
}

// system: CoCA
// paper: Cure the headache of Transformers via Collinear Constrained Attention
// state: by hand
// header: attend/attention/softmax/softmax_attention.hpp
// test: tests/attention/softmax_attention_test.cpp
// note: The caller makes the collinear keys and rotates both.
void coca() { softmax_attention(q, k, v, o, causal{}); }

// system: ALiBi
// paper: Press et al.: Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation,
// 2022
// header: attend/policy/score/alibi.hpp
// test: tests/policy/score/alibi_test.cpp
// bench: attend_bench --benchmark_filter=softmax/policy/alibi, attend_compare --only alibi
void alibi_slopes_by_head() { softmax_attention(q, k, v, o, causal{}, alibi(alibi_slopes(32))); }

// system: T5's relative biases
// paper: Raffel et al.: Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer, 2020
// header: attend/policy/lookup.hpp, attend/policy/score/score.hpp
// test: tests/policy/lookup_test.cpp
// bench: attend_bench --benchmark_filter=softmax/policy/lookup
void t5_biases() {
  softmax_attention(q, k, v, o, score([](auto s, auto const& at) {
                      return s + lookup(numbers, at.query_position - at.key_position);
                    }));
}

// system: Softcap
// paper: Gemma Team: Gemma 2: Improving Open Language Models at a Practical Size, 2024
// header: attend/policy/score/softcap.hpp
// test: tests/policy/score/softcap_test.cpp
// bench: attend_bench --benchmark_filter=softmax/policy/softcap, attend_compare --only
// softcap
void capped_logits() { softmax_attention(q, k, v, o, causal{}, softcap{50.}); }

// system: Shaw's relative positions
// paper: Self-Attention with Relative Position Representations
// state: not yet
// missing: A product of queries with a vector for each distance, and values for each distance.

// system: Music Transformer's relative attention
// paper: Music Transformer
// state: not yet
// missing: A product of queries with a vector for each distance on a line. On grids `relative_embeddings` has
// it.

// system: Relative positions of Huang et al., methods 1 to 4
// paper: Improve Transformer Models with Better Relative Position Embeddings
// state: part
// header: attend/policy/score/score.hpp, attend/policy/lookup.hpp
// test: tests/policy/lookup_test.cpp
// note: Methods 1 and 2 multiply each logit by a number of the distance.
// missing: Methods 3 and 4, which take products of queries and keys with vectors of the distance.
void relative_methods() {
  softmax_attention(q, k, v, o, score([](auto s, auto const& at) {
                      return s * lookup(numbers, at.query_position - at.key_position);
                    }));
}

// system: Squeezeformer
// paper: Squeezeformer: An Efficient Transformer for Automatic Speech Recognition
// state: not yet
// missing: Transformer-XL's products with vectors of the distance.

// system: RCMHA
// paper: RCMHA: Relative Convolutional Multi-Head Attention for Natural Language Modelling
// state: not yet
// missing: Transformer-XL's products with vectors of the distance, and depthwise convolutions of queries, keys
// and values.

// system: CoPE
// paper: Contextual Position Encoding: Learning to Count What's Important
// state: not yet
// missing: A running sum of gates from the diagonal back to the first key, before the softmax.

// system: Monotonic and OneStep location attention, mix-directional relative positions
// paper: Monotonic Location Attention for Length Generalization
// state: by hand
// header: attend/policy/score/bias.hpp
// test: tests/policy/score/bias_test.cpp
// note: The logits are Gaussians of places: a bias beside keys that have no elements. The recurrence of the
// means is the caller's.
void location_attention() { softmax_attention(q, k, v, o, bias(pairs)); }

// system: GMM attention, location-relative attention
// paper: Location-Relative Attention Mechanisms For Robust Long-Form Speech Synthesis
// state: by hand
// header: attend/policy/score/bias.hpp, attend/policy/output.hpp
// test: tests/policy/score/bias_test.cpp
// note: Weights that are not normalized are softmax weights of their logarithms, times the sum: keys have no
// elements, and the caller multiplies outputs by exp(lse).
// missing: The convolutions of dynamic convolution attention.
void gmm_attention() { softmax_attention(q, k, v, o, bias(pairs), log_sum_exp(lse)); }

// system: Positional attention
// paper: Positional Attention: Expressivity and Learnability of Algorithmic Computation
// state: by hand
// header: attend/attention/softmax/softmax_attention.hpp, attend/policy/score/bias.hpp
// test: tests/attention/softmax_attention_test.cpp, tests/policy/score/bias_test.cpp
// note: Queries and keys are made of positions alone. Weights that are kept are applied through their
// logarithms.
void positional_attention() {
  softmax_attention(q, k, v, o);
  attention_weights(q, k, pairs);
  softmax_attention(q, k2, v, o, bias(pairs2));  // k2 has key dimension 0, pairs2 the logarithms of pairs
}

// system: OAT's object positions and pointers
// paper: OAT: Object-Level Attention Transformer for Gaze Scanpath Prediction
// state: by hand
// header: attend/attention/softmax/softmax_attention.hpp
// test: tests/attention/softmax_attention_outputs_test.cpp
// note: The encoding of objects is the caller's; the weights are the output.
void object_pointers() { attention_weights(q, k, pairs); }

// system: Time attention (mTAND), interleaved multimodal attention
// paper: Improving Medical Predictions by Irregular Multimodal Electronic Health Records Modeling
// state: by hand
// header: attend/policy/mask/boolean_mask.hpp
// test: tests/policy/mask/boolean_mask_test.cpp
// note: Each channel is a value head of its own, with a mask of what was observed.
// missing: Logits that all channels share: they are computed once for each.
void time_attention() { softmax_attention(q, k, v, o, boolean_mask(seen)); }

// system: Astroformer, CoAtNet's relative attention
// paper: Astroformer: More Data Might not be all you need for Classification
// state: by hand
// header: attend/attention/image/neighborhood_attention.hpp,
// attend/policy/score/grid_bias.hpp
// test: tests/attention/neighborhood_attention_test.cpp
void coatnet() {
  neighborhood_attention<2>(q, k, v, o, {14, 14}, {whole_axis(14), whole_axis(14)}, relative_bias(head_matrices));
}

// system: Localized filtering-based attention (Yuan 2.0)
// paper: YUAN 2.0: A Large Language Model with Localized Filtering-based Attention
// state: by hand
// header: attend/attention/softmax/softmax_attention.hpp
// test: tests/attention/softmax_attention_test.cpp
// missing: The two causal convolutions in front of queries and keys.
void localized_filtering() { softmax_attention(q, k, v, o, causal{}, position); }
