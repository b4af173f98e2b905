// SPDX-License-Identifier: BSD-3-Clause
// Attention over images, and other grids of tokens: neighborhoods, biases and embeddings of a grid's offsets, and the
// named systems that cut an image into windows, blocks or regions.
#pragma once

#include "policy/neighborhood.hpp"
#include "policy/score/grid_bias.hpp"
#include "policy/score/grid_embedding.hpp"
#include "variant/all_to_key_attention.hpp"
#include "variant/bi_level_routing_attention.hpp"
#include "variant/factorized_attention.hpp"
#include "variant/multi_grained_attention.hpp"
#include "variant/neighborhood_attention.hpp"
