// SPDX-License-Identifier: BSD-3-Clause
// family: Pooling, learned queries, low rank and several kinds of keys
#include "tensors.hpp"

// system: Linformer
// paper: Linformer: Self-Attention with Linear Complexity
// state: by hand
// header: attend/attention/softmax/softmax_attention.hpp
// test: tests/attention/softmax_attention_test.cpp
// note: Keys and values are projected along tokens by the caller: k2 = E k, v2 = F v.
void linformer() { softmax_attention(q, k2, v2, o); }

// system: Low-rank multi-head pooling (LAMA)
// paper: Low Rank Factorization for Compact Multi-Head Self-Attention
// state: by hand
// header: attend/attention/softmax/softmax_attention.hpp
// test: tests/attention/softmax_attention_test.cpp
// note: A head's query is its row of the low-rank product with the context; keys have one head.
void lama() { softmax_attention(q, k, v, o, scale{1.}); }

// system: Optimized, Efficient and Super Attention
// paper: You Need to Pay Better Attention
// state: by hand
// header: attend/core/tensor_view.hpp, attend/attention/softmax/softmax_attention.hpp
// test: tests/core/tensor_view_test.cpp, tests/attention/softmax_attention_layouts_test.cpp
// note: Keys or values that are the tokens themselves are views of them; the product along tokens is the
// caller's.
void super_attention() {
  float const* x = nullptr;  // [token, heads * 64]
  tensor_view const keys(x, {1, 8, 512, 64}, {0, 64, 8 * 64, 1});
  softmax_attention(q, keys, keys, o);
}

// system: Bag of learnable queries (BoQ)
// paper: BoQ: A Place is Worth a Bag of Learnable Queries
// state: by hand
// header: attend/attention/softmax/softmax_attention.hpp
// test: tests/attention/softmax_attention_test.cpp
// note: The learned queries see each other, and then the image.
void bag_of_queries() {
  softmax_attention(q, q, q, o);
  softmax_attention(o, k, v, o2);
}

// system: Trainable pooling over layers, causal or bidirectional
// paper: Pooling And Attention: What Are Effective Designs For LLm-Based Embedding Models?
// state: by hand
// header: attend/attention/softmax/softmax_attention.hpp
// test: tests/attention/softmax_attention_test.cpp
// note: Learned queries attend to one vector of each layer.
void pooling_over_layers() { softmax_attention(q, k, v, o); }

// system: Label attention layer (LAL)
// paper: Rethinking Self-Attention: Towards Interpretability in Neural Parsing
// state: by hand
// header: attend/policy/score/scale.hpp
// test: tests/policy/score/score_test.cpp
// note: One learned query for each head, and the scale of the model's dimension.
void label_attention() { softmax_attention(q, k, v, o, scale{1 / std::sqrt(1024.)}); }

// system: DELF
// paper: Large-Scale Image Retrieval with Attentive Deep Local Features
// state: by hand
// header: attend/policy/score/bias.hpp, attend/policy/output.hpp
// test: tests/policy/score/bias_test.cpp
// note: Weights that are not normalized are softmax weights of their logarithms, times exp(lse); keys have no
// elements.
void delf() { softmax_attention(q, k, v, o, bias(pairs), log_sum_exp(lse)); }

// system: FLAIR's pooling by text
// paper: FLAIR: VLM with Fine-grained Language-informed Image Representations
// state: by hand
// header: attend/policy/normalizer/sinks.hpp
// test: tests/policy/normalizer/sinks_test.cpp
// note: The empty token has the logit 0 and no value.
void flair() { softmax_attention(q, k, v, o, sinks{0.}); }

// system: ELITE's local mapping
// paper: ELITE: Encoding Visual Concepts into Textual Embeddings for Customized Text-to-Image Generation
// state: by hand
// header: attend/policy/gain.hpp
// test: tests/policy/gain_test.cpp
// note: Cross attention to the text and to local features; the caller adds both outputs.
// missing: Weights of one column of the first call as gates of the second.
void elite() {
  softmax_attention(q, k, v, o);
  softmax_attention(q, k2, v2, o2, value_gain(tokens));
}

// system: Nested Attention
// paper: Nested Attention: Semantic-aware Attention Values for Concept Personalization
// state: by hand
// header: attend/attention/softmax/softmax_attention.hpp, attend/policy/output.hpp
// test: tests/attention/softmax_attention_outputs_test.cpp
// note: The inner call makes the value of one key for each query; the caller adds it with weight exp(s - lse),
// s that key's logit.
void nested() {
  softmax_attention(q, k2, v2, o2);
  softmax_attention(q, k, v, o, log_sum_exp(lse));  // with a value of 0 for that key
}

// system: Q-Perturbation
// paper: Object-Aware Query Perturbation for Cross-Modal Image-Text Retrieval
// state: by hand
// header: attend/attention/softmax/softmax_attention.hpp,
// attend/attention/cached/principal_slicing.hpp
// test: tests/attention/softmax_attention_test.cpp,
// tests/attention/sliced_latent_attention_test.cpp
// note: The caller changes queries along principal axes of an object's keys.
void query_perturbation() { softmax_attention(q, k, v, o); }

// system: Sentence attention block
// paper: Sentence Attention Blocks for Answer Grounding
// state: not yet
// missing: All of it: a gate for each channel, in which no query meets a key.
