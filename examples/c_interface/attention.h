// SPDX-License-Identifier: BSD-3-Clause
/* Attention through a C interface, for languages that can call C. The library behind it is compiled for several
   instruction sets and takes the best that the processor has.

   Every function that can fail returns a status, and attention_message() tells what was wrong: the argument, what was
   expected and what came. Nothing is written by a call that is refused. All functions may be called from any thread. */
#ifndef ATTENTION_H
#define ATTENTION_H

#include <stdint.h>

/* What the library shows. */
#if defined(__GNUC__)
#define ATTENTION_API __attribute__((visibility("default")))
#else
#define ATTENTION_API
#endif

#if defined(__cplusplus)
extern "C" {
#endif

typedef enum {
  ATTENTION_OK = 0,
  ATTENTION_WRONG_ARGUMENT = 1,
  ATTENTION_NO_MEMORY = 2,
  ATTENTION_WRONG_PROCESSOR = 3, /* it has none of the instruction sets that the library is compiled for */
  ATTENTION_FAILED = 4
} attention_status;

typedef enum { ATTENTION_FLOAT = 0, ATTENTION_HALF = 1 } attention_type;

/* A tensor that the caller owns: [batch, head, token, dimension]. Strides count elements, and the last one is 1; so
   [batch, token, head, dimension], and a part of a packed buffer, are as good. */
typedef struct {
  void* data;
  int64_t extents[4];
  int64_t strides[4];
} attention_tensor;

typedef struct {
  double scale;                      /* of the products of queries and keys; NaN: 1/sqrt(dimension) */
  int64_t window_left, window_right; /* how many keys before and behind itself a token sees; -1: all of them */
  int32_t causal;  /* not 0: a token sees nothing behind itself. The last query is the last key's token */
  int32_t threads; /* how many work on a call; 0: one for each processor */
} attention_options;

/* No window, not causal, the usual scale, one thread. */
ATTENTION_API attention_options attention_default_options(void);

/* output = softmax(scale * query key^T) value. Query heads are a multiple of key heads and of value heads. All tensors
   have elements of the type. Without options (NULL) the default ones are taken. */
ATTENTION_API attention_status attention_softmax(attention_type type, attention_tensor const* query,
                                                 attention_tensor const* key, attention_tensor const* value,
                                                 attention_tensor const* output, attention_options const* options);

/* Linear attention with a carried state: state += key^T value for each token, output = query state. All float; the
   state is [batch, head, key dimension, value dimension], read and written. */
ATTENTION_API attention_status attention_linear(attention_tensor const* query, attention_tensor const* key,
                                                attention_tensor const* value, attention_tensor const* state,
                                                attention_tensor const* output);

/* What the calling thread's last call that failed had to say. It stays until the thread's next one. */
ATTENTION_API char const* attention_message(void);

/* The instruction set that was taken, such as "x86-64-v4"; empty where the processor has none of them. */
ATTENTION_API char const* attention_target(void);

#if defined(__cplusplus)
}
#endif

#endif
