// SPDX-License-Identifier: BSD-3-Clause
// family: Images, videos and volumes
#include "tensors.hpp"

// system: Neighborhood attention: NATTEN, FNA, GEMM-NA
// paper: Hassani et al.: Faster Neighborhood Attention: Reducing the O(n^2) Cost of Self Attention at the
// Threadblock Level, 2024
// header: attend/attention/image/neighborhood_attention.hpp,
// attend/attention/image/neighborhood_attention_backward.hpp
// test: tests/attention/neighborhood_attention_test.cpp,
// tests/attention/neighborhood_attention_backward_test.cpp
// bench: attend_compare --only neighborhood, attend_sweep images
// missing: The form that is not fused, whose weights go out and come in again.
void neighborhoods() {
  neighborhood_axis const axis{7};
  neighborhood_attention<2>(q, k, v, o, {56, 56}, {axis, axis}, log_sum_exp{lse});
  neighborhood_attention_backward<2>(q, k, v, o, lse, of_o, of_q, of_k, of_v, {56, 56}, {axis, axis});
}

// system: Generalized neighborhood attention (GNA)
// paper: Hassani et al.: Generalized Neighborhood Attention: Multi-dimensional Sparse Attention at the Speed of
// Light, 2025
// header: attend/attention/image/neighborhood_attention.hpp
// test: tests/attention/neighborhood_attention_test.cpp
// bench: attend_sweep images, attend_sweep volumes
void generalized_neighborhoods() {
  neighborhood_axis const axis{.window = 16, .stride = 8, .dilation = 1};
  neighborhood_attention<3>(q, k, v, o, {32, 32, 32}, {axis, axis, axis});
}

// system: Swin
// paper: Liu et al.: Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, 2021
// header: attend/attention/image/neighborhood_attention.hpp,
// attend/attention/image/neighborhood_attention_backward.hpp, attend/policy/score/grid_bias.hpp
// test: tests/attention/neighborhood_attention_test.cpp,
// tests/attention/neighborhood_attention_backward_test.cpp
// bench: attend_sweep images
void swin() {
  std::array const windows{swin_window(7, 3), swin_window(7, 3)};
  neighborhood_attention<2>(q, k, v, o, {56, 56}, windows, relative_bias(head_matrices), log_sum_exp{lse});
  neighborhood_attention_backward<2>(q, k, v, o, lse, of_o, of_q, of_k, of_v, {56, 56}, windows,
                                     relative_bias(head_matrices), gradient_of_relative_bias(transformed));
}

// system: StyleSwin's double attention
// paper: Zhang et al.: StyleSwin: Transformer-based GAN for High-resolution Image Generation, 2022
// header: attend/attention/image/neighborhood_attention.hpp
// test: tests/attention/window_systems_test.cpp
// note: One call for the half of the heads without a shift, one for the other half.
void style_swin() {
  neighborhood_attention<2>(q, k, v, o, {64, 64}, {swin_window(8), swin_window(8)});
  neighborhood_attention<2>(q, k2, v2, o2, {64, 64}, {swin_window(8, 4), swin_window(8, 4)});
}

// system: Att-SwinU-Net
// paper: Aghdam et al.: Attention Swin U-Net: Cross-Contextual Attention Mechanism for Skin Lesion
// Segmentation, 2022
// header: attend/attention/image/neighborhood_attention.hpp
// test: tests/attention/window_systems_test.cpp
// note: Queries are the decoder's, keys and values the encoder's.
// missing: Weights that are used twice: they take a second whole call.
void att_swin_u_net() { neighborhood_attention<2>(q, k, v, o, {56, 56}, {swin_window(7), swin_window(7)}); }

// system: MaxViT's multi-axis attention
// paper: Tu et al.: MaxViT: Multi-Axis Vision Transformer, 2022
// header: attend/attention/image/neighborhood_attention.hpp
// test: tests/attention/neighborhood_attention_test.cpp
void max_vit() {
  neighborhood_attention<2>(q, k, v, o, {56, 56}, {maxvit_block(7), maxvit_block(7)});
  neighborhood_attention<2>(q, k, v, o, {56, 56}, {maxvit_grid(56, 7), maxvit_grid(56, 7)});
}

// system: HaloNet, blocked local attention
// paper: Vaswani et al.: Scaling Local Self-Attention for Parameter Efficient Visual Backbones, 2021
// header: attend/attention/image/neighborhood_attention.hpp,
// attend/policy/score/grid_embedding.hpp
// test: tests/attention/neighborhood_attention_test.cpp
// missing: Downsampling, where queries stand at every second token: queries must fill the grid.
void halo_net() {
  neighborhood_attention<2>(q, k, v, o, {64, 64}, {halo_window(8, 3), halo_window(8, 3)},
                            relative_embeddings(matrix, matrix));
}

// system: Axial attention
// paper: Ho et al.: Axial Attention in Multidimensional Transformers, 2019
// header: attend/attention/image/neighborhood_attention.hpp
// test: tests/attention/neighborhood_attention_test.cpp
// missing: The shift of the causal model's input; grids of more than three axes.
void axial_attention() { neighborhood_attention<2>(q, k, v, o, {64, 64}, {own_coordinate(), whole_axis(64)}); }

// system: Efficient-VQGAN
// paper: Cao et al.: Efficient-VQGAN: Towards High-Resolution Image Generation with Efficient Vision
// Transformers, 2023
// header: attend/attention/image/multi_grained_attention.hpp,
// attend/policy/mask/block_window.hpp
// test: tests/attention/multi_grained_attention_test.cpp
void efficient_vqgan() {
  multi_grained_attention(q, k, v, o, {64, 64}, 8);
  softmax_attention(q, k, v, o, block_window(64, -1));  // generation, block after block
}

// system: FaViT, factorized self-attention
// paper: Qin et al.: Factorization Vision Transformer: Modeling Long Range Dependency with Local Window Cost,
// 2023
// header: attend/attention/image/factorized_attention.hpp
// test: tests/attention/factorized_attention_test.cpp
// missing: Groups of channels with dilations of their own, the strided convolution of the global group, and the
// depthwise convolution of values.
void fa_vit() { factorized_attention(q, k, v, o, {56, 56}, 7, 2); }

// system: BiFormer, bi-level routing attention (BRA)
// paper: Zhu et al.: BiFormer: Vision Transformer with Bi-Level Routing Attention, 2023
// header: attend/attention/image/bi_level_routing_attention.hpp
// test: tests/attention/image_regions_test.cpp
// bench: attend_compare --select --only bi_level_routing
// missing: The depthwise convolution of values that is added; regions that do not divide the image; grouped
// heads.
void bi_former() { bi_level_routing_attention(q, k, v, o, table, image_regions{{56, 56}, {8, 8}}, 4); }

// system: All-to-key attention (StyA2K)
// paper: Zhu et al.: All-to-key Attention for Arbitrary Style Transfer, 2023
// header: attend/attention/image/a2k_attention.hpp
// test: tests/attention/image_regions_test.cpp
// bench: attend_compare --select --only progressive
void all_to_key() {
  image_regions const regions{{64, 64}, {8, 8}};
  a2k_distributed_attention(q, k, v, o, regions, a2k_gate{1.f, 0.f});
  a2k_progressive_attention(q, k, v, o2, table, regions, regions);
}

// system: TransNeXt's aggregated attention
// paper: TransNeXt: Robust Foveal Visual Perception for Vision Transformers
// state: part
// header: attend/attention/image/neighborhood_attention.hpp,
// attend/attention/softmax/merge.hpp
// test: tests/attention/neighborhood_attention_test.cpp, tests/attention/merge_test.cpp
// note: The window and the pooled keys are two calls under one softmax.
// missing: The table that is added behind the softmax, and a single call.
void trans_next() {
  neighborhood_attention<2>(q, k, v, o, {28, 28}, {neighborhood_axis{3}, neighborhood_axis{3}}, log_sum_exp(lse));
  softmax_attention(q, k2, v2, o2, bias(pairs), log_sum_exp(lse2));
  merge(std::vector<partial_attention<float>>{{o, lse}, {o2, lse2}}, o);
}

// system: OverLoCK's ContMix
// paper: OverLoCK: An Overview-first-Look-Closely-next ConvNet with Context-Mixing Dynamic Kernels
// state: not yet
// missing: Values of a neighborhood times weights that are given.

// system: SymPoint
// paper: Symbol as Points: Panoptic Symbol Spotting via Point-based Representation
// state: not yet
// missing: A softmax for each channel over lists of neighbours.

// system: Transformer in Transformer (TNT)
// paper: Transformer in Transformer
// state: by hand
// header: attend/attention/softmax/softmax_attention.hpp
// test: tests/attention/softmax_attention_test.cpp
// bench: attend_bench --benchmark_filter=softmax/short
// note: Every patch is a batch of 16 tokens; the outer attention is a second call.
void transformer_in_transformer() {
  softmax_attention(q, k, v, o);
  softmax_attention(q, k2, v2, o2);
}

// system: BiSIC's bidirectional attention
// paper: Bidirectional Stereo Image Compression with Cross-Dimensional Entropy Model
// state: by hand
// header: attend/attention/softmax/softmax_attention.hpp
// test: tests/attention/softmax_attention_test.cpp
// note: Two calls with exchanged roles.
void bi_sic() {
  softmax_attention(q, k2, v2, o);
  softmax_attention(k2, q, v, o2);
}

// system: ColorMNet
// paper: ColorMNet: A Memory-based Deep Spatial-Temporal Feature Propagation Network for Video Colorization
// state: part
// header: attend/attention/softmax/decoupled_embedding_attention.hpp
// test: tests/attention/decoupled_embedding_attention_test.cpp
// note: Squared distances are products of vectors with one more element; the memory's 30 best pixels are a list
// for each query.
// missing: A bias on a window that depends on the content.
void color_mnet() { decoupled_embedding_attention(rows, rows, rows, rows, rows, 30); }

// system: FateZero
// paper: FateZero: Fusing Attentions for Zero-shot Text-based Video Editing
// state: by hand
// header: attend/policy/output.hpp, attend/policy/score/bias.hpp
// test: tests/attention/softmax_attention_outputs_test.cpp,
// tests/policy/score/bias_test.cpp
// note: Keys of chosen frames are views. Weights are stored, blended by the caller, and applied through their
// logarithms, which takes memory for all pairs.
void fate_zero() {
  attention_weights(q, k, pairs);
  softmax_attention(q, k2, v, o, bias(pairs2));  // k2 has key dimension 0, pairs2 the logarithms of the blend
}

// system: VQ-Font
// paper: Few shot font generation via transferring similarity guided global style and quantization local style
// state: by hand
// header: attend/attention/softmax/softmax_attention.hpp, attend/policy/score/bias.hpp
// test: tests/attention/softmax_attention_test.cpp
// note: Codes of a book are the queries; the global pooling is a softmax of a table of similarities.
void vq_font() {
  softmax_attention(q, k, v, o);
  softmax_attention(q, k2, v2, o2, bias(pairs));  // k2 has key dimension 0, pairs the similarities
}

// system: Skim-Attention, Skimformer
// paper: Skim-Attention: Learning to Focus via Document Layout
// state: by hand
// header: attend/policy/output.hpp, attend/policy/score/bias.hpp
// test: tests/attention/softmax_attention_outputs_test.cpp,
// tests/policy/score/bias_test.cpp
// note: Queries and keys are made of the layout alone. Weights that all layers share are stored once, and
// applied through their logarithms; or the layers' values stand side by side in one call.
void skim() {
  attention_weights(q, k, pairs);
  softmax_attention(q, k2, v, o, bias(pairs2));
}

// system: DCAL
// paper: Dual Cross-Attention Learning for Fine-Grained Visual Categorization and Object Re-Identification
// header: attend/attention/softmax/dual_cross_attention.hpp, attend/attention/softmax/attention_rollout.hpp,
// attend/policy/slots.hpp
// test: tests/attention/key_systems_test.cpp, tests/attention/attention_rollout_test.cpp
// note: The class token's row of the rollout chooses the queries. A pair of images is one softmax over two sets of
// keys.
void dual_cross_attention() {
  std::vector<rollout_layer<float>> const layers{{view_of(q), view_of(k)}, {view_of(q), view_of(k2)}};
  attention_rollout_rows(layers, rows, targets);
  Eigen::Tensor<std::int32_t, 2, Eigen::RowMajor> chosen(1, o.dimension(2));
  chosen_query_attention(q, k, v, matrix, chosen, o);
  softmax_attention(q, k, v, o, prefix_key_values(k2, v2));
}
