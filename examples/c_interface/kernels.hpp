// SPDX-License-Identifier: BSD-3-Clause
// What the library compiles once for each instruction set. The functions throw; attention.cpp catches.
#pragma once

#include "attention.h"

struct kernels {
  char const* (*target)();
  void (*softmax_of_float)(attention_tensor const& query, attention_tensor const& key, attention_tensor const& value,
                           attention_tensor const& output, attention_options const& options);
  void (*softmax_of_half)(attention_tensor const& query, attention_tensor const& key, attention_tensor const& value,
                          attention_tensor const& output, attention_options const& options);
  void (*linear)(attention_tensor const& query, attention_tensor const& key, attention_tensor const& value,
                 attention_tensor const& state, attention_tensor const& output);
};
