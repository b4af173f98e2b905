// SPDX-License-Identifier: BSD-3-Clause
// family: Other scores and normalizers, graphs
#include "tensors.hpp"

// system: Pointer Networks
// paper: Pointer Networks
// state: not yet
// missing: The additive score v . tanh(q + k). With dot products, `attention_weights` is the pointer.

// system: Attentive Reader, Impatient Reader
// paper: Teaching Machines to Read and Comprehend
// state: not yet
// missing: The additive score v . tanh(q + k).

// system: Show, Attend and Tell
// paper: Show, Attend and Tell: Neural Image Caption Generation with Visual Attention
// state: not yet
// missing: The additive score v . tanh(q + k), and the hard form, which takes a single key.

// system: Coarse-to-fine attention
// paper: Image-to-Markup Generation with Coarse-to-Fine Attention
// state: not yet
// missing: The additive score v . tanh(q + k), and its choice of coarse cells.

// system: Adaptive attention with a visual sentinel
// paper: Knowing When to Look: Adaptive Attention via A Visual Sentinel for Image Captioning
// state: not yet
// missing: The additive score v . tanh(q + k), and a slot for each query.

// system: Attention conditioning
// paper: Attention-based Conditioning Methods for External Knowledge Integration
// state: not yet
// missing: The additive score v . tanh(q + k) over features that are gated or shifted.

// system: Stacked attention networks (SAN)
// paper: Stacked Attention Networks for Image Question Answering
// state: not yet
// missing: The additive score v . tanh(q + k).

// system: Flat and hierarchical attention to several sources
// paper: Attention Strategies for Multi-Source Sequence-to-Sequence Learning
// state: part
// header: attend/attention/softmax/merge.hpp, attend/attention/softmax/softmax_attention.hpp
// test: tests/attention/merge_test.cpp
// note: With dot products, flat attention is one softmax over all sources; hierarchical attention attends to
// the outputs of the sources.
// missing: The additive score v . tanh(q + k).
void several_sources() {
  softmax_attention(q, k, v, o, log_sum_exp(lse));
  softmax_attention(q, k2, v2, o2, log_sum_exp(lse2));
  merge(std::vector<partial_attention<float>>{{o, lse}, {o2, lse2}}, o);
}

// system: Graph attention (GAT)
// paper: Leveraging Graph Structures to Detect Hallucinations in Large Language Models
// state: not yet
// missing: The additive score of two ends of an edge, over lists of neighbours.

// system: GridMM's aggregation by relevance to an instruction
// paper: GridMM: Grid Memory Map for Vision-and-Language Navigation
// state: not yet
// missing: A softmax within each segment of the keys.

// system: Comateformer
// paper: Comateformer: Combined Attention Transformer for Semantic Sentence Matching
// state: not yet
// missing: The score of absolute differences, and the normalizer tanh times sigmoid.

// system: MOTCat's co-attention by optimal transport
// paper: Multimodal Optimal Transport-based Co-Attention Transformer with Global Structure Consistency for
// Survival Prediction
// state: not yet
// missing: A transport plan, by Sinkhorn's iterations, in the place of a softmax.

// system: Normalized attention pooling (NAP)
// paper: Normalized Attention Without Probability Cage
// state: not yet
// missing: A normalizer that takes mean and deviation of a row.

// system: Neural Attention
// paper: Neural Attention: A Novel Mechanism for Enhanced Expressive Power in Transformer Models
// state: not yet
// missing: A small perceptron for each pair.

// system: Relational attention (DAT)
// paper: Disentangling and Integrating Relational and Sensory Information in Transformer Architectures
// state: by hand
// header: attend/attention/softmax/softmax_attention.hpp
// test: tests/attention/softmax_attention_test.cpp
// note: Values are relation keys and symbols side by side; the caller multiplies the first part of the outputs
// with relation queries.
void relational() { softmax_attention(q, k, v, o); }

// system: Reading a sparse distributed memory (SDM)
// paper: Attention Approximates Sparse Distributed Memory
// state: by hand
// header: attend/policy/score/scale.hpp
// test: tests/policy/score/score_test.cpp
// note: Queries and keys have length 1, and the scale is the inverse temperature.
void sparse_distributed_memory() { softmax_attention(q, k, v, o, scale{8.}); }

// system: Window memory networks
// paper: The Goldilocks Principle: Reading Children's Books with Explicit Memory Representations
// state: by hand
// header: attend/policy/score/scale.hpp
// test: tests/policy/score/score_test.cpp
// missing: The hard choice of one memory.
void window_memories() { softmax_attention(q, k, v, o, scale{1.}); }

// system: Variational attention
// paper: Latent Alignment and Variational Attention
// state: not yet
// missing: Samples of keys, and the divergence between two rows of weights.

// system: Probabilistic attention
// paper: Probabilistic Attention for Interactive Segmentation
// header: attend/attention/softmax/probabilistic_attention.hpp
// test: tests/attention/probabilistic_attention_test.cpp
// note: One precision for all channels of a key; embeddings of positions are added to queries and keys by the caller.
void probabilistic() {
  mixture<float> const with{.key_precision = 0.125, .magnitude_priors = true};
  adapt_keys(q, k, v, with, {.steps = 2, .prior_precision = 1});
  probabilistic_attention(q, k, v, o, with);
  propagate_values(q, k, v, mixture<float>{.known_values = view_of(q), .known = view_of(gates)}, {.steps = 5});
}

// system: Attention calibration (ACT)
// paper: Unveiling and Harnessing Hidden Attention Sinks: Enhancing Large Language Models without Training
// through Attention Calibration
// header: attend/attention/softmax/act_attention.hpp
// test: tests/attention/key_systems_test.cpp
// note: For prompts. Which heads are calibrated is found beforehand, on other texts.
void act() { act_attention(q, k, v, o, ids, {.threshold = 0.1, .beta = 0.4}); }

// system: Found-in-the-middle
// paper: Found in the Middle: Calibrating Positional Attention Bias Improves Long Context Utilization
// header: attend/attention/softmax/segment_calibration.hpp, attend/policy/segment_gain.hpp,
// attend/policy/row_statistics.hpp
// test: tests/policy/segment_gain_test.cpp
// note: The same call on a prompt with a dummy document in each place gives the baseline. Which layers are calibrated
// is the caller's.
void found_in_the_middle() {
  std::vector<key_range> const documents{{35, 160}, {160, 290}};
  softmax_attention(q, k2, v2, o2, causal{}, range_mass(documents, pairs2));  // the dummy documents
  softmax_attention(q, k, v, o, causal{}, range_mass(documents, pairs));
  calibrated_gains(pairs, pairs2, 0.1, features);
  softmax_attention(q, k, v, o, causal{}, segment_gain(documents, features));
}
