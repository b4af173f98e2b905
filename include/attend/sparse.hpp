// SPDX-License-Identifier: BSD-3-Clause
// Sparse attention whose tokens are chosen from the data: the selectors, decoding with the tokens of a cache that they
// choose (selected_attention), and the named systems that choose tokens or blocks for decoding and for prefill.
// Patterns that are fixed before a call are masks: attend/softmax.hpp.
#pragma once

#include "attention/softmax/decoupled_embedding_attention.hpp"
#include "attention/softmax/focus_icl_attention.hpp"
#include "attention/sparse_decode/landmark_attention.hpp"
#include "attention/sparse_decode/loki_selector.hpp"
#include "attention/sparse_decode/long_heads_selector.hpp"
#include "attention/sparse_decode/mean_page_selector.hpp"
#include "attention/sparse_decode/quest_selector.hpp"
#include "attention/sparse_decode/recycled_attention.hpp"
#include "attention/sparse_decode/retrieval_attention.hpp"
#include "attention/sparse_decode/seer_attention.hpp"
#include "attention/sparse_decode/selected_attention.hpp"
#include "attention/sparse_prefill/combiner_attention.hpp"
#include "attention/sparse_prefill/hip_attention.hpp"
#include "attention/sparse_prefill/hyper_attention.hpp"
#include "attention/sparse_prefill/landmark_prompt_attention.hpp"
#include "attention/sparse_prefill/lsg_attention.hpp"
#include "attention/sparse_prefill/moba_attention.hpp"
#include "attention/sparse_prefill/routing_attention.hpp"
#include "attention/sparse_prefill/sample_attention.hpp"
#include "attention/sparse_prefill/seer_prefill_attention.hpp"
#include "attention/sparse_prefill/sparse_k_attention.hpp"
#include "attention/sparse_prefill/sparse_k_causal_attention.hpp"
#include "attention/sparse_prefill/sparse_transformer_attention.hpp"
#include "policy/mask/block_table.hpp"
#include "select/flat_index.hpp"
#include "select/page_selector.hpp"
#include "select/selected_rows.hpp"
#include "select/sorted_hashing.hpp"
#include "select/sparse_k.hpp"
#include "select/token_lists.hpp"
#include "select/top_k.hpp"
#include "select/vote_selector.hpp"
#include "select/weight_selector.hpp"

#if defined(ATTEND_COMPILED)
#include "compiled/softmax.hpp"
#endif
