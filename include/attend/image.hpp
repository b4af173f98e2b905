// SPDX-License-Identifier: BSD-3-Clause
// Attention over images, and other grids of tokens: neighborhoods, biases and embeddings of a grid's offsets, and the
// named systems that cut an image into windows, blocks or regions.
#pragma once

#include "attention/image/a2k_attention.hpp"
#include "attention/image/bi_level_routing_attention.hpp"
#include "attention/image/factorized_attention.hpp"
#include "attention/image/multi_grained_attention.hpp"
#include "attention/image/neighborhood_attention.hpp"
#include "policy/mask/neighborhood.hpp"
#include "policy/score/grid_bias.hpp"
#include "policy/score/grid_embedding.hpp"
