// SPDX-License-Identifier: BSD-3-Clause
// Attention to a key-value cache: the stores (contiguous, paged, rolling, latent, ...), append, cached_attention for
// prefill, chunks and decoding, decode_attention over tensors, and the named systems that keep a cache of their own.
#pragma once

#include "cache/compensated.hpp"
#include "cache/contiguous.hpp"
#include "cache/head_policy.hpp"
#include "cache/latent.hpp"
#include "cache/paged.hpp"
#include "cache/rolling.hpp"
#include "cache/sequences_of.hpp"
#include "variant/block_attention.hpp"
#include "variant/cached_attention.hpp"
#include "variant/decode_attention.hpp"
#include "variant/latent_attention.hpp"
#include "variant/razor_attention.hpp"
#include "variant/shared_prefix_attention.hpp"
#include "variant/sliced_latent_attention.hpp"
#include "variant/streaming_attention.hpp"
