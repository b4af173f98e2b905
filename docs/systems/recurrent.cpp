// SPDX-License-Identifier: BSD-3-Clause
// family: Memories, state space models and hybrids
#include "tensors.hpp"

// system: Infini-attention
// paper: Munkhdalai et al.: Leave No Context Behind: Efficient Infinite Context Transformers with
// Infini-attention, 2024
// header: attend/attention/linear/infini_attention.hpp
// test: tests/attention/infini_attention_test.cpp
// bench: attend_bench --benchmark_filter=linear/infini
// missing: Tokens one by one within a segment: pieces end where segments end.
void infini() {
  infini_attention(q, k, v, o, infini_memory<float>{2048, numbers, memory_update::delta}, final_state(state, tokens));
}

// system: Titans: neural memory, MAC, MAG, MAL
// paper: Titans: Learning to Memorize at Test Time
// state: part
// header: attend/attention/linear/linear_attention.hpp, attend/policy/update/update.hpp
// test: tests/attention/linear_systems_test.cpp
// note: Without momentum the linear memory is a gated delta rule, with rates theta / (1 - alpha) and values (1
// - alpha) v.
// missing: Momentum, updates from a chunk's beginning, and memories that are perceptrons.
void titans() { linear_attention(q, k, v, o, causal{}, delta_rule(tokens), token_decay(tokens)); }

// system: Miras: Moneta, Yaad, Memora
// paper: It's All Connected: A Journey Through Test-Time Memorization, Attentional Bias, Retention, and Online
// Optimization
// state: not yet
// missing: Updates of the state that are not linear in it.

// system: NAtS-L
// paper: Neural Attention Search Linear: Towards Adaptive Token-Level Hybrid Attention Models
// state: not yet
// missing: A choice between softmax and the gated delta rule for each chunk, with a state that passes chunks
// over.

// system: Mega, Mega-chunk
// paper: Mega: Moving Average Equipped Gated Attention
// state: part
// header: attend/policy/mask/block_window.hpp
// test: tests/policy/mask/block_window_test.cpp
// note: The chunks, with a softmax.
// missing: The damped moving average; the normalizers Laplace and squared ReLU.
void mega() { softmax_attention(q, k, v, o, block_window(128) & causal{}); }

// system: SeqBoat, sparse modular activation (SMA)
// paper: Sparse Modular Activation for Efficient Sequence Modeling
// state: not yet
// missing: The moving average, and a window over the active tokens alone.

// system: DocMamba
// paper: DocMamba: Efficient Document Pre-training with State Space Model
// state: not yet
// missing: The selective scan (S6), and its order of segments.

// system: LaMamba-Diff
// paper: LaMamba-Diff: Linear-Time High-Fidelity Diffusion Models Based on Local Attention and Mamba
// state: part
// header: attend/attention/image/neighborhood_attention.hpp
// test: tests/attention/neighborhood_attention_test.cpp
// note: The windows.
// missing: The selective scan (S6).
void la_mamba() { neighborhood_attention<2>(q, k, v, o, {32, 32}, {swin_window(8), swin_window(8)}); }

// system: LocalMamba
// paper: LocalMamba: Visual State Space Model with Windowed Selective Scan
// state: not yet
// missing: The selective scan (S6), and orders of tokens by windows.

// system: Samba-ASR
// paper: Samba-asr state-of-the-art speech recognition leveraging structured state-space models
// state: not yet
// missing: The selective scan (S6).

// system: Folded context condensation
// paper: Folded context condensation in Path Integral formalism for infinite context transformers
// state: by hand
// header: attend/cache/rolling.hpp, attend/attention/cached/cached_attention.hpp
// test: tests/cache/rolling_test.cpp, tests/attention/cached_attention_test.cpp
// note: The window before the current one stays as keys.
void folded_context() {
  rolling_cache<float> windows(shape, streaming{0, 2048}, 1024);
  cached_attention(windows, q, k, v, o);
}

// system: Superlinear attention
// paper: Superlinear Multi-Step Attention
// state: not yet
// missing: Spans that each query chooses by scores of anchors, and their softmaxes merged by those scores.

// system: Input-dependent lookups, BaseConv, MQAR (Zoology)
// paper: Zoology: Measuring and Improving Recall in Efficient Language Models
// state: part
// header: attend/policy/mask/intervals.hpp
// test: tests/policy/mask/intervals_test.cpp
// note: Attention of the chosen queries, whose rows the caller puts together.
// missing: The long convolution, and the generator of the task.
void zoology() { softmax_attention(q, k, v, o, intervals{first, last}); }

// system: Lightweight and dynamic convolutions (LightConv, DynamicConv)
// paper: Pay Less Attention with Lightweight and Dynamic Convolutions
// state: not yet
// missing: Convolutions whose taps are a softmax, for each head or for each token.

// system: ConvBERT
// paper: ConvBERT: Improving BERT with Span-based Dynamic Convolution
// state: not yet
// missing: Convolutions whose taps each token predicts.

// system: Efficient local attention (ELA)
// paper: ELA: Efficient Local Attention for Deep Convolutional Neural Networks
// state: not yet
// missing: All of it: means of strips, a convolution, a group norm and a gate, in which no query meets a key.

// system: Gated associative memory (GAM)
// paper: Gated Associative Memory: A Parallel O(N) Architecture for Efficient Sequence Modeling
// state: part
// header: attend/attention/softmax/softmax_attention.hpp
// test: tests/attention/softmax_attention_test.cpp
// note: A learned bank is both keys and values.
// missing: The causal depthwise convolution, and the gates that mix both.
void associative_memory() { softmax_attention(q, k, k, o, scale{1.}); }
