// SPDX-License-Identifier: BSD-3-Clause
// Softmax attention: softmax_attention and its options, which are the masks, the scores, the normalizers, rotary
// positions, packed and padded sequences, gains, slots, and what a call may write besides; merging by log-sum-exp; and
// the named systems that are softmax attention over all tokens. A first program needs no more.
//
// Eigen's headers are not among these: a program with Eigen tensors includes <unsupported/Eigen/CXX11/Tensor>, one with
// halves includes <Eigen/Core>, and one that has tensors returned includes attend/core/eigen_tensor.hpp.
#pragma once

#include "attention/softmax/context_aware_cross_attention.hpp"
#include "attention/softmax/hepos_attention.hpp"
#include "attention/softmax/merge.hpp"
#include "attention/softmax/merge_heads.hpp"
#include "attention/softmax/multi_head_embedding.hpp"
#include "attention/softmax/rotary_embedding.hpp"
#include "attention/softmax/selective_attention.hpp"
#include "attention/softmax/softmax_attention.hpp"
#include "policy/functions.hpp"
#include "policy/gain.hpp"
#include "policy/invariance.hpp"
#include "policy/mask/block_builders.hpp"
#include "policy/mask/block_sparse.hpp"
#include "policy/mask/block_window.hpp"
#include "policy/mask/boolean_mask.hpp"
#include "policy/mask/causal.hpp"
#include "policy/mask/centred_window.hpp"
#include "policy/mask/documents.hpp"
#include "policy/mask/global_tokens.hpp"
#include "policy/mask/head_windows.hpp"
#include "policy/mask/intervals.hpp"
#include "policy/mask/key_lengths.hpp"
#include "policy/mask/parts.hpp"
#include "policy/mask/patterns.hpp"
#include "policy/mask/predicate.hpp"
#include "policy/mask/prefix_lm.hpp"
#include "policy/mask/residues.hpp"
#include "policy/mask/sentinel_spans.hpp"
#include "policy/mask/streaming.hpp"
#include "policy/mask/window.hpp"
#include "policy/normalizer/relu.hpp"
#include "policy/normalizer/sigmoid.hpp"
#include "policy/normalizer/sinks.hpp"
#include "policy/normalizer/softmax.hpp"
#include "policy/output.hpp"
#include "policy/pair_gain.hpp"
#include "policy/position/rotary.hpp"
#include "policy/score/alibi.hpp"
#include "policy/score/bias.hpp"
#include "policy/score/logit_scale.hpp"
#include "policy/score/scale.hpp"
#include "policy/score/softcap.hpp"
#include "policy/sequence/sequences.hpp"
#include "policy/slots.hpp"
#include "policy/weight_function.hpp"

#if defined(ATTEND_COMPILED)
#include "compiled/softmax.hpp"
#endif
