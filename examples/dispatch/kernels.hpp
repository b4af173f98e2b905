// SPDX-License-Identifier: BSD-3-Clause
// What this program compiles once for each instruction set: pointers to functions. Arguments are pointers and numbers,
// since attend's own types are other types in each of them.
#pragma once

struct kernels {
  /// The instruction set that the functions are compiled for.
  char const* (*target)();

  /// Causal attention of one sequence, as [tokens][dimension].
  void (*attention)(float const* query, float const* key, float const* value, float* output, long tokens,
                    long dimension);

  /// The next token: q, k, v and o have one row for each head. The state is [heads][dimension][dimension].
  void (*linear_step)(float const* query, float const* key, float const* value, float* state, float* output, long heads,
                      long dimension);
};
