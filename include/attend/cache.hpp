// SPDX-License-Identifier: BSD-3-Clause
// Attention to a key-value cache: the stores (contiguous, paged, rolling, latent, ...), append, cached_attention for
// prefill, chunks and decoding, decode_attention over tensors, and the named systems that keep a cache of their own.
#pragma once

#include "attention/cached/accumulate_weights.hpp"
#include "attention/cached/block_attention.hpp"
#include "attention/cached/cached_attention.hpp"
#include "attention/cached/decode_attention.hpp"
#include "attention/cached/latent_attention.hpp"
#include "attention/cached/razor_attention.hpp"
#include "attention/cached/retrieval_heads.hpp"
#include "attention/cached/retrieval_scores.hpp"
#include "attention/cached/shared_prefix_attention.hpp"
#include "attention/cached/sliced_latent_attention.hpp"
#include "attention/cached/streaming_attention.hpp"
#include "cache/bit_planes.hpp"
#include "cache/compensated.hpp"
#include "cache/contiguous.hpp"
#include "cache/evicting.hpp"
#include "cache/head_policy.hpp"
#include "cache/latent.hpp"
#include "cache/paged.hpp"
#include "cache/rolling.hpp"
#include "cache/saved_sequence.hpp"
#include "cache/sequences_of.hpp"
#include "call/kept_plan.hpp"
#include "select/eviction_policies.hpp"
#include "select/fastgen_eviction.hpp"
