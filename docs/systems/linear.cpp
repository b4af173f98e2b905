// SPDX-License-Identifier: BSD-3-Clause
// family: Linear attention and states
#include "tensors.hpp"

// system: Linear attention
// paper: Katharopoulos et al.: Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention,
// 2020
// header: attend/attention/linear/linear_attention.hpp, attend/policy/feature/elu.hpp
// test: tests/attention/linear_attention_test.cpp, tests/attention/linear_systems_test.cpp
// bench: attend_bench --benchmark_filter=linear/prefill, attend_compare --only
// linear_causal
void katharopoulos() { linear_attention(q, k, v, o, causal{}, elu_features{}, key_sum{}); }

// system: RetNet's retention
// paper: Sun et al.: Retentive Network: A Successor to Transformer for Large Language Models, 2023
// header: attend/attention/linear/linear_attention.hpp, attend/policy/decay/head_decay.hpp
// test: tests/attention/linear_systems_test.cpp
// bench: attend_compare --only retention, attend_bench --benchmark_filter=linear/prefill
void retention() { linear_attention(q, k, v, o, causal{}, head_decay(retention_decays(8))); }

// system: Lightning Attention, TNL
// paper: Qin et al.: Various Lengths, Constant Speed: Efficient Language Modeling with Lightning Attention,
// 2024
// header: attend/attention/linear/linear_attention.hpp, attend/policy/state/normalizer.hpp
// test: tests/attention/linear_systems_test.cpp
// bench: attend_bench --benchmark_filter=linear/prefill, attend_bench
// --benchmark_filter=linear/transnormer_gated
// note: The layer's norm is over all heads side by side; the gate is the sigmoid of a projection.
void lightning() {
  linear_attention(q, k, v, o, causal{}, head_decay(lightning_decays(8, 0, 24)), joined_rms_norm{},
                   output_gate(features));
}

// system: Lightning Attention-2
// paper: Qin et al.: Lightning Attention-2: A Free Lunch for Handling Unlimited Sequence Lengths in Large
// Language Models, 2024
// header: attend/attention/linear/linear_attention.hpp, attend/attention/linear/linear_attention_backward.hpp,
// attend/policy/decay/head_decay.hpp
// test: tests/attention/linear_systems_test.cpp, tests/attention/linear_backward_calls_test.cpp
// bench: attend_bench --benchmark_filter=linear/prefill, attend_bench
// --benchmark_filter=linear_backward
void lightning_2() {
  linear_attention(q, k, v, o, causal{}, head_decay(lightning_decays(8, 0, 24)));
  linear_attention_backward(q, k, v, of_o, of_q, of_k, of_v, causal{}, head_decay(lightning_decays(8, 0, 24)));
}

// system: TransNormerLLM, LRPE-d
// paper: Qin et al.: TransNormerLLM: A Faster and Better Large Language Model with Improved TransNormer, 2023;
// Scaling TransNormer to 175 Billion Parameters
// header: attend/attention/linear/transnormer_attention.hpp
// test: tests/attention/kernel_systems_test.cpp
// bench: attend_bench --benchmark_filter=linear/transnormer
// missing: The projections around it, that of the gate among them.
void transnormer() {
  transnormer_attention(q, k, v, o, head_decay(lightning_decays(8, 0, 24)), transnormer_rotation(matrix),
                        output_gate(features));
}

// system: Gated linear attention (GLA)
// paper: Yang et al.: Gated Linear Attention Transformers with Hardware-Efficient Training, 2024
// header: attend/attention/linear/linear_attention.hpp,
// attend/policy/decay/feature_decay.hpp
// test: tests/attention/linear_systems_test.cpp
// bench: attend_bench --benchmark_filter=linear/prefill
void gated_linear() { linear_attention(q, k, v, o, causal{}, feature_decay(features), scale{1 / std::sqrt(128.)}); }

// system: Mamba-2, state space duality
// paper: Dao, Gu: Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State
// Space Duality, 2024
// header: attend/attention/linear/linear_attention.hpp, attend/policy/decay/token_decay.hpp
// test: tests/attention/linear_systems_test.cpp
// bench: attend_bench --benchmark_filter=linear/prefill
// note: Queries are C, keys B, values x, input gates the steps, and decays A times the steps.
// missing: The skip D x and the short convolution.
void state_space_duality() { linear_attention(q, k, v, o, causal{}, input_gates(tokens), token_decay(tokens)); }

// system: MaTVLM
// paper: MaTVLM: Hybrid Mamba-Transformer for Efficient Vision-Language Modeling, 2025
// header: attend/attention/linear/linear_attention.hpp, attend/policy/decay/token_decay.hpp
// test: tests/attention/linear_systems_test.cpp
// bench: attend_bench --benchmark_filter=linear/prefill
// note: Some layers are Mamba-2's, the others attention's.
// missing: The skip D x and the short convolution.
void ma_tvlm() {
  linear_attention(q, k, v, o, causal{}, input_gates(tokens), token_decay(tokens));
  softmax_attention(q, k, v, o, causal{});
}

// system: DeltaNet
// paper: Schlag et al.: Linear Transformers Are Secretly Fast Weight Programmers, 2021; Yang et al.:
// Parallelizing Linear Transformers with the Delta Rule over Sequence Length, 2024
// header: attend/attention/linear/linear_attention.hpp, attend/policy/update/update.hpp
// test: tests/attention/linear_systems_test.cpp
// bench: attend_bench --benchmark_filter=linear/prefill, attend_compare --only delta_rule
void delta_net() { linear_attention(q, k, v, o, causal{}, delta_rule(tokens)); }

// system: Gated DeltaNet, Kimi's delta attention
// paper: Yang et al.: Gated Delta Networks: Improving Mamba2 with Delta Rule, 2024; Kimi Team: Kimi Linear: An
// Expressive, Efficient Attention Architecture, 2025
// header: attend/attention/linear/linear_attention.hpp, attend/policy/update/update.hpp
// test: tests/attention/linear_systems_test.cpp
// bench: attend_bench --benchmark_filter=linear/prefill
void gated_delta_net() {
  linear_attention(q, k, v, o, causal{}, delta_rule(tokens), token_decay(tokens));
  linear_attention(q, k, v, o, causal{}, delta_rule(tokens), feature_decay(features));  // a gate for each feature
}

// system: RWKV-6
// paper: Peng et al.: Eagle and Finch: RWKV with Matrix-Valued States and Dynamic Recurrence, 2024
// header: attend/attention/linear/linear_attention.hpp,
// attend/policy/decay/feature_decay.hpp
// test: tests/attention/linear_systems_test.cpp
// note: A state that is read before it is written takes keys, values and decays one token behind the queries;
// the bonus of a token's own pair is added by the caller.
void rwkv_6() { linear_attention(q, k, v, o, causal{}, feature_decay(features)); }

// system: LightNet, additive decay, MD-LRPE, MD-TPE
// paper: Qin et al.: You Only Scan Once: Efficient Multi-dimension Sequential Modeling with LightNet, 2024
// header: attend/attention/linear/lightnet_attention.hpp
// test: tests/attention/time_softmax_test.cpp
// bench: attend_bench --benchmark_filter=linear/lightnet
// missing: Its positions: MD-TPE mixes each axis by a learned Toeplitz matrix, MD-LRPE rotates behind the
// features.
void lightnet() { lightnet_attention(q, k, v, o, causal{}, rms_norm{}); }

// system: Latte
// paper: Dolga et al.: Latent Attention for Linear Time Transformers, 2024
// header: attend/attention/linear/latte_attention.hpp
// test: tests/attention/time_softmax_test.cpp
// bench: attend_bench --benchmark_filter=linear/latte
// note: Queries and keys are the latents' logits.
void latte() { latte_attention(q, k, v, o, causal{}); }

// system: Linear log-normal attention (LLN), LLN+Diag
// paper: Nahshan et al.: Linear Log-Normal Attention with Unbiased Concentration, 2024
// header: attend/attention/linear/log_normal_attention.hpp,
// attend/policy/feature/log_normal.hpp
// test: tests/attention/time_softmax_test.cpp
// bench: attend_bench --benchmark_filter=linear/log_normal
// note: LLN+Diag is the mean of these two outputs.
// missing: A call of its own for LLN+Diag, and the fit of a and b on normal numbers.
void log_normal() {
  log_normal_attention(q, k, v, o, log_normal_features(2., 2.), causal{});
  softmax_attention(q, k, v, o2, block_window(64) & causal{});
}

// system: Performer (FAVOR+)
// paper: Choromanski et al.: Rethinking Attention with Performers, 2021
// header: attend/attention/linear/performer_attention.hpp
// test: tests/attention/time_softmax_test.cpp
// bench: attend_bench --benchmark_filter=linear/performer
void performer() { performer_attention(q, k, v, o, random_features<float>(256, 128, 1), causal{}); }

// system: Hedgehog
// paper: Zhang et al.: The Hedgehog & the Porcupine: Expressive Linear Attentions with Softmax Mimicry, 2024
// header: attend/attention/linear/hedgehog_attention.hpp,
// attend/policy/feature/hedgehog.hpp
// test: tests/attention/hedgehog_attention_test.cpp
// bench: attend_bench --benchmark_filter=linear/hedgehog
void hedgehog() {
  hedgehog_features<float> const layers(head_matrices, head_matrices);
  hedgehog_attention(q, k, v, o, layers, causal{});                      // a softmax of both halves
  hedgehog_attention(q, k, v, o, layers.softmax_of_halves(), causal{});  // of each half
  hedgehog_attention(q, k, v, o, layers.exponentials(), causal{});       // [exp y, exp -y], as the paper writes them
}

// system: cosFormer
// paper: Qin et al.: cosFormer: Rethinking Softmax in Attention, 2022
// header: attend/attention/linear/cosformer_attention.hpp
// test: tests/attention/kernel_systems_test.cpp
// bench: attend_bench --benchmark_filter=linear/cosformer
void cos_former() { cosformer_attention(q, k, v, o, cosine_horizon{4096}, causal{}); }

// system: mixFormer: softmax or cosFormer in each layer
// paper: Liu et al.: Neural Architecture Search on Efficient Transformers and Beyond, 2022
// header: attend/attention/linear/cosformer_attention.hpp,
// attend/attention/softmax/softmax_attention.hpp
// test: tests/attention/kernel_systems_test.cpp
// bench: attend_bench --benchmark_filter=linear/cosformer
// missing: The search for which layer takes which.
void mix_former() {
  cosformer_attention(q, k, v, o, cosine_horizon{4096}, causal{});
  softmax_attention(q, k, v, o, causal{});
}

// system: Fastmax (FAST)
// paper: Gerami et al.: FAST: Factorizable Attention for Speeding up Transformers, 2024
// header: attend/attention/linear/fastmax_attention.hpp
// test: tests/attention/kernel_systems_test.cpp
// bench: attend_bench --benchmark_filter=linear/fastmax
// missing: The authors' code's scales, 1/(8 sqrt d) and by the largest norm.
void fastmax() { fastmax_attention(q, k, v, o, fastmax_order::second, causal{}); }

// system: Based
// paper: Arora et al.: Simple linear attention language models balance the recall-throughput tradeoff, 2024
// header: attend/attention/linear/based_attention.hpp
// test: tests/attention/kernel_systems_test.cpp
// bench: attend_bench --benchmark_filter=linear/based
// missing: The gated short convolutions.
void based() {
  based_attention(q, k, v, o);
  based_window_attention(q, k, v, o, 64);
}

// system: Flow-Attention (Flowformer)
// paper: Wu et al.: Flowformer: Linearizing Transformers with Conservation Flows, 2022
// header: attend/attention/linear/flow_attention.hpp
// test: tests/attention/flow_attention_test.cpp
// bench: attend_bench --benchmark_filter=linear/flow
// missing: A state that is given and taken, so no decoding and no sequence in pieces; grouped heads.
void flow() { flow_attention(q, k, v, o, causal{}); }

// system: InLine attention
// paper: Han et al.: Bridging the Divide: Reconsidering Softmax and Linear Attention, 2024
// header: attend/attention/linear/inline_attention.hpp
// test: tests/attention/inline_attention_test.cpp
// bench: attend_bench --benchmark_filter=linear/inline
// missing: The local residual, a depthwise convolution of values whose taps the mean token predicts.
void in_line() { inline_attention(q, k, v, o, scale{1 / (std::sqrt(64.) * 196)}); }

// system: Aaren, attention as a prefix scan
// paper: Feng et al.: Attention as an RNN, 2024
// header: attend/attention/linear/aaren_attention.hpp
// test: tests/attention/aaren_attention_test.cpp
// bench: attend_bench --benchmark_filter=linear/aaren
void aaren() { aaren_attention(rows, k, v, o, prefix_scan{scan_form::tree}); }

// system: Dynamical systems framework (DSF), attention with a learned normalizer
// paper: Sieber et al.: Understanding the differences in Foundation Models: Attention, State Space Models, and
// Recurrent Neural Networks, 2024
// header: attend/reference/dynamical_system.hpp,
// attend/attention/linear/linear_attention.hpp
// test: tests/reference/dynamical_system_test.cpp
// state: by hand
// note: One recurrence in double is the oracle of many systems. The paper's own layer divides by a number of
// the query's token: an output gate of its reciprocals.
// missing: A normalizer that takes these numbers one for each token.
void dynamical_system() { linear_attention(q, k, v, o, causal{}, output_gate(features)); }

// system: Message passing with a virtual node (MPNN+VN)
// paper: Cai et al.: On the Connection Between MPNN and Graph Transformer, 2023
// header: attend/attention/linear/linear_attention.hpp
// test: tests/attention/linear_systems_test.cpp
// bench: attend_compare --only linear
// note: The virtual node gathers, and the nodes read.
void virtual_node() { linear_attention(q, k, v, o, elu_features{}, key_sum{}); }

// system: Polynormer
// paper: Polynormer: Polynomial-Expressive Graph Transformer in Linear Time
// state: part
// header: attend/attention/linear/linear_attention.hpp, attend/policy/feature/feature.hpp
// test: tests/policy/feature/feature_maps_test.cpp
// note: The global layer, with sigmoid features.
// missing: The local layer, which is graph attention over lists of neighbours.
void polynormer() {
  linear_attention(q, k, v, o, elementwise_features([](auto x) { return 1.f / (1.f + exp(-x)); }), key_sum{});
}

// system: Agent attention
// paper: Agent Attention: On the Integration of Softmax and Linear Attention
// state: by hand
// header: attend/attention/softmax/softmax_attention.hpp, attend/policy/score/bias.hpp
// test: tests/attention/softmax_attention_test.cpp, tests/policy/score/bias_test.cpp
// note: Agents gather, as queries k2 over keys and values; then queries read the agents' outputs.
// missing: The depthwise convolution of values that is added.
void agent() {
  softmax_attention(k2, k, v, o2, bias(pairs));
  softmax_attention(q, k2, o2, o, bias(pairs2));
}

// system: Comprehensive attention benchmark (CAB)
// paper: CAB: Comprehensive Attention Benchmarking on Long Sequence Modeling
// state: part
// header: attend/attention/linear/performer_attention.hpp,
// attend/attention/linear/cosformer_attention.hpp, attend/policy/mask/window.hpp
// test: tests/attention/time_softmax_test.cpp, tests/attention/kernel_systems_test.cpp,
// tests/policy/mask/window_test.cpp
// note: Three of its nine: local attention, Performer and cosFormer.
// missing: ABC, Nystroem, LARA, ProbSparse, LongShort and S4D; the table of which supports what.
void cab() {
  softmax_attention(q, k, v, o, window{64, 64});
  performer_attention(q, k, v, o, random_features<float>(256, 128, 1));
  cosformer_attention(q, k, v, o, cosine_horizon{4096});
}

// system: Local linear attention (LLA, FlashLLA)
// paper: Local Linear Attention: An Optimal Interpolation of Linear and Softmax Attention For Test-Time
// Regression
// state: not yet
// missing: For each query a small linear system of weighted second moments of keys.

// system: Kernelized attention with relative positions by FFT (NPRF)
// paper: Stable, Fast and Accurate: Kernelized Attention with Relative Positional Encoding
// state: not yet
// missing: Toeplitz products by FFT over features times values.

// system: LASP-2, LASP-2H
// paper: LASP-2: Rethinking Sequence Parallelism for Linear Attention and Its Hybrid
// state: part
// header: attend/policy/state/carried_state.hpp
// test: tests/attention/linear_attention_state_test.cpp
// note: A shard starts from the state of those before it, in one process.
// missing: Gathering the states of other processes.
void lasp_2() { linear_attention(q, k, v, o, causal{}, initial_state(state), final_state(state2)); }

// system: ZeCO, All-Scan
// paper: ZeCO: Zero Communication Overhead Sequence Parallelism for Linear Attention
// state: not yet
// missing: A chain of states that is pipelined between processes. `initial_state` and `final_state` carry a
// state in one.
