// SPDX-License-Identifier: BSD-3-Clause
// family: Reading and steering the weights
#include "tensors.hpp"

// system: Attention rollout, attention flow
// paper: Quantifying Attention Flow in Transformers
// header: attend/attention/softmax/attention_rollout.hpp, attend/attention/softmax/attention_flow.hpp
// test: tests/attention/attention_rollout_test.cpp, tests/attention/attention_flow_test.cpp
// note: Rollout with the mean of the heads makes no map: columns of it, or rows, such as that of a class token. The
// maximum of the heads, and flow, take maps that are stored. The example explain compares them with blanking characters
// out for a trained decoder: both agree twice as well as the weights of its last layer.
void rollout() {
  std::vector<rollout_layer<float>> const layers{{view_of(q), view_of(k)}, {view_of(q), view_of(k2)}};
  attention_rollout(layers, rows, targets);
  attention_rollout_rows(layers, rows, targets);
  residual_map(q, k, head_matrices, head_fusion::maximum);  // of one layer; they stand side by side
  map_rollout(head_matrices, matrix);
  attention_flow(head_matrices, ids, matrix);
}

// system: Relevance-weighted rollout
// paper: Transformer Interpretability Beyond Attention Visualization
// header: attend/attention/softmax/relevance_rollout.hpp, attend/attention/softmax/attention_relevance.hpp
// test: tests/attention/relevance_rollout_test.cpp, tests/attention/attention_relevance_test.cpp
// note: Rollout without maps, and the rules of relevance through attention itself. Those of a model's other layers,
// which bring the gradient and the relevance to each output, are the model's.
void weighted_rollout() {
  softmax_attention_backward(q, k, v, o, lse, of_o, of_q, of_k, of_v);        // to the layer before
  attention_relevance(q, k, v, o, lse, o2, of_q, of_k, of_v, deep_taylor{});  // likewise; o2 is o's relevance
  std::vector<relevance_layer<float>> const layers{
      {view_of(q), view_of(k), view_of(v), view_of(o), view_of(of_o), view_of(o2)}};
  relevance_rollout_rows(layers, rows, targets);
}

// system: AttnLRP
// paper: AttnLRP: Attention-Aware Layer-wise Relevance Propagation for Transformers
// header: attend/attention/softmax/attention_relevance.hpp
// test: tests/attention/attention_relevance_test.cpp
// note: Its rules for softmax and products, in the loop of the gradients. Rules of linear layers and normalizations are
// the model's.
void attn_lrp_rules() {
  softmax_attention(q, k, v, o, causal{}, log_sum_exp(lse));
  attention_relevance(q, k, v, o, lse, of_o, of_q, of_k, of_v, attn_lrp{}, causal{});
}

// system: Losses on attention maps
// paper: MAG-Edit; Attention Refocusing (grounded text-to-image)
// header: attend/attention/softmax/attention_map_loss.hpp
// test: tests/attention/attention_map_loss_test.cpp
// note: With the regions in the place of values, the gradient of a loss is that of softmax attention; a region for each
// key makes dP whole. The losses themselves are the caller's but for MAG-Edit's two ratios.
void map_losses() {
  region_weights(q, k, state, o, lse);   // of each query to each region of the keys
  sum_over_queries(o, features, pairs);  // of each region of the queries
  double const loss = token_ratio_loss(view_of(pairs), numbers, view_of(pairs2));
  spread_over_queries(features, pairs2, of_o);
  region_weights_backward(q, k, state, o, lse, of_o, of_q, of_k);
  static_cast<void>(loss);
}

// system: TAG's aggregation of maps
// paper: Attention-driven GUI Grounding
// header: attend/attention/softmax/tag_map.hpp, attend/attention/softmax/key_sums.hpp
// test: tests/attention/row_statistics_systems_test.cpp
// note: Transposed cross-attention spreads what the chosen tokens give to the image's tokens over its patches.
// missing: How the paper chooses the tokens of the text.
void tag() {
  attention_key_mass(q, k, lse, key_mass(matrix, query_list{ids}), causal{});
  std::vector<index_t> const heads = tag_heads(matrix, {10, 490}, 8);
  tag_weights(matrix, {10, 490}, heads, 3, numbers);
  tensor_view<float, 4> const given(numbers.data(), {1, 1, 480, 1}), spread = raise<4>(view_of(matrix));
  transposed_attention(rotated_query, k2, lse2, given, spread);
}

// system: Contributions of heads and keys
// paper: Interpreting CLIP via text-based decomposition
// header: attend/attention/softmax/contributions.hpp
// test: tests/attention/key_systems_test.cpp
// note: Of a query with one token. The caller multiplies each row with the head's projection.
void contributions() { head_contributions(q, k, v, features); }

// system: Lookback Lens
// paper: Lookback Lens: Detecting and Mitigating Contextual Hallucinations in Large Language Models Using Only
// Attention Maps
// header: attend/attention/softmax/lookback_lens.hpp, attend/policy/row_statistics.hpp
// test: tests/attention/row_statistics_systems_test.cpp
// note: The classifier of the ratios is the caller's.
void lookback() {
  std::vector<key_range> const ranges = lookback_ranges(first);  // contexts of so many tokens
  softmax_attention(q, k, v, o, causal{}, range_mass(ranges, masses));
  lookback_ratios(masses, first, lengths, lse);
}

// system: DependencyViT's reversed attention
// paper: Visual Dependency Transformers: Dependency Tree Emerges from Reversed Attention
// header: attend/attention/softmax/reversed_attention.hpp, attend/policy/key_mass.hpp
// test: tests/attention/key_systems_test.cpp
// note: Gates of messages are the model's. Tokens that receive little are pruned by the caller, by their masses.
void reversed() {
  reversed_attention(q, k, v, o, scale{0.125}, key_mass(tokens));
  reversed_attention(q, k, v, o, gates);
}

// system: InfiniRetri
// paper: Infinite Retrieval: Attention Enhanced LLMs in Long-Context Processing
// header: attend/attention/softmax/infini_retri.hpp
// test: tests/attention/key_systems_test.cpp
// note: The question's queries against the keys of the last layer. Sentences, token ids and their cache are the
// caller's.
void keep_sentences() {
  std::vector<key_range> const sentences{{0, 14}, {14, 40}};
  std::vector<std::int32_t> chosen(sentences.size());
  chosen.resize(infini_retri(q, k, sentences, {.phrase = 3, .tokens = 300}, chosen));
}

// system: Attention sorting
// paper: Attention Sorting Combats Recency Bias In Long Context Language Models
// header: attend/attention/softmax/attention_sorting.hpp, attend/policy/row_statistics.hpp
// test: tests/attention/row_statistics_systems_test.cpp
void sorting() {
  auto const order = attention_sorting(20, 4, [&](std::span<index_t const> places, document_masses& got) {
    std::vector<key_range> const ranges(places.size());         // of the documents in this order
    decode_attention(q, cache, o, range_mass(ranges, masses));  // in each layer
    got.add(masses);
  });
}

// system: Token emphasis and head modulation
// paper: Fixing Imbalanced Attention to Mitigate In-Context Hallucination of Large Vision-Language Model
// header: attend/attention/softmax/token_emphasis.hpp
// test: tests/attention/steering_systems_test.cpp
// note: Of the paper its abstract is known: the formulas are the simplest reading of it. Saliency and the masses of
// heads come from the weights of the image's keys (key_mass, range_mass). A whole range of keys takes a segment_bias.
void emphasis() {
  std::vector<std::int64_t> const keys = emphasized_tokens(numbers, {.rows = 24, .columns = 24});
  emphasis_bias(numbers, keys, 0.5, pairs);
  softmax_attention(q, k, v, o, causal{}, bias(pairs));
}

// system: Vision-aware head divergence and reinforcement (VHD, VHR)
// paper: Cracking the Code of Hallucination in LVLMs with Vision-aware Head Divergence
// header: attend/attention/softmax/vision_aware_heads.hpp
// test: tests/attention/steering_systems_test.cpp
// note: Which divergences are outliers is this library's reading; the gates are those of all layers.
void vision_aware() {
  std::vector<double> distances(32);
  tensor_view<double, 2> const divergences(distances.data(), {1, 32});
  softmax_attention(q, k, v, o, causal{});
  softmax_attention(q, k, v, o2, causal{} & !keys_in(35, 611));  // without the image
  head_divergence(o, o2, divergences);
  reinforced_heads<float>(divergences, {.factor = 2}, {numbers.data(), {1, 32}});
  softmax_attention(q, k, v, o, causal{}, head_gates(numbers));
}

// system: LoFiT
// paper: LoFiT: Localized Fine-tuning on LLM Representations
// state: by hand
// header: attend/policy/gain.hpp
// test: tests/policy/gain_test.cpp
// note: The vector that is added to a head's output is the caller's.
void lofit() { softmax_attention(q, k, v, o, causal{}, head_gates(numbers)); }

// system: EchoAtt, shared weights of layers
// paper: EchoAtt: Attend, Copy, then Adjust for More Efficient Large Language Models
// state: by hand
// header: attend/attention/softmax/softmax_attention.hpp
// test: tests/attention/softmax_attention_test.cpp
// note: The values of the layers that share weights stand side by side.
void echo_att() { softmax_attention(q, k, v, o, causal{}); }

// system: Pointer-guided segment ordering
// paper: Pointer-Guided Pre-Training: Infusing Large Language Models with Paragraph-Level Contextual Awareness
// state: by hand
// header: attend/policy/output.hpp
// test: tests/attention/softmax_attention_outputs_test.cpp
void segment_ordering() { attention_weights(q, k, pairs); }
