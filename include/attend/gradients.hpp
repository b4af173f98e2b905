// SPDX-License-Identifier: BSD-3-Clause
// Gradients, for programs that train: of softmax attention, over sequences and neighborhoods, from that of its output
// to those of queries, keys and values; and what is made with them: losses on attention maps, relevance, rollout and
// flow. And of linear attention, to those of decays, rates and states as well.
//
// Eigen's headers are not among these, as in softmax.hpp.
#pragma once

#include "attention/cached/latent_attention_backward.hpp"
#include "attention/image/neighborhood_attention_backward.hpp"
#include "attention/linear/linear_attention_backward.hpp"
#include "attention/softmax/attention_flow.hpp"
#include "attention/softmax/attention_map_loss.hpp"
#include "attention/softmax/attention_relevance.hpp"
#include "attention/softmax/attention_rollout.hpp"
#include "attention/softmax/relevance_rollout.hpp"
#include "attention/softmax/softmax_attention_backward.hpp"
#include "linear.hpp"
#include "softmax.hpp"
