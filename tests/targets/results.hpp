// SPDX-License-Identifier: BSD-3-Clause
// What each translation unit computes. Plain arrays, so that the units share nothing but attend.
#pragma once

struct results {
  static constexpr int heads = 4, key_heads = 2, tokens = 24, dimension = 32;
  static constexpr int count = heads * tokens * dimension, key_count = key_heads * tokens * dimension;

  float softmax[count], linear[count], cached[count], cached_half[count];
  bool refused;  // a wrong argument, caught where it was thrown
};

struct inputs {
  float query[results::count], key[results::key_count], value[results::key_count];
};
