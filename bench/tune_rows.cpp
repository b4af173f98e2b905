// SPDX-License-Identifier: BSD-3-Clause
#include "tune_rows.hpp"

#include <time.h>

#include <attend/attention/cached/latent_attention.hpp>
#include <attend/attention/linear/linear_attention.hpp>
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/attention/sparse_prefill/moba_attention.hpp>
#include <attend/cache/latent.hpp>
#include <attend/policy/decay/head_decay.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/update/update.hpp>

#include <algorithm>
#include <iterator>

#include "random_tensor.hpp"

namespace attend_bench {
namespace {

using attend::bfloat16, attend::index_t, attend::simd::width;

double seconds_of(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// The least time of some runs of about `total` seconds together. Without threads it is the processor's, which other
/// processes add little to.
template <class Call>
double least_seconds(double total, clockid_t clock, Call const& call) {
  call();  // takes memory and starts threads
  double const begin = seconds_of(clock);
  double least = 1e9;
  int runs = 0;
  do {
    double const from = seconds_of(clock);
    call();
    least = std::min(least, seconds_of(clock) - from);
  } while (++runs < 3 || seconds_of(clock) - begin < total);
  return least;
}
template <class Call>
double least_seconds(double total, Call const& call) {
  return least_seconds(total, CLOCK_PROCESS_CPUTIME_ID, call);
}

/// The tensors of a call.
template <class T>
struct problem {
  random_tensor<T> query, key, value, output;

  problem(index_t batch, index_t heads, index_t key_heads, index_t queries, index_t keys, index_t dimension)
      : query({batch, heads, queries, dimension}, 1),
        key({batch, key_heads, keys, dimension}, 2),
        value({batch, key_heads, keys, dimension}, 3),
        output({batch, heads, queries, dimension}, 4) {}

  double attend(double total) {
    return least_seconds(total,
                         [&] { attend::softmax_attention(query.view(), key.view(), value.view(), output.view()); });
  }
  double attend_with_threads(double total) {
    return least_seconds(total, CLOCK_MONOTONIC, [&] {
      attend::softmax_attention(query.view(), key.view(), value.view(), output.view(), attend::threads{});
    });
  }
};

/// A step of decoding over 192 MiB of keys and values, which few caches hold.
template <class T>
double read(double total, bool quick) {
  index_t const keys = quick ? 64 : 6144 / static_cast<index_t>(sizeof(T));
  return problem<T>(16, 32, 8, 1, 2 * keys, 128).attend(total);
}

template <class T, int Dimension>
double prefill(double total, bool quick) {
  index_t const tokens = quick ? 64 : 1024;
  return problem<T>(1, 4, 4, tokens, tokens, Dimension).attend(total);
}

/// As many rows on each key head as a vector has lanes, times `Halves` / 2, and keys and values of `Kilobytes` a head
/// in the accumulation type, in so many heads that they do not stay in a near cache.
template <class T, int Halves, int Kilobytes>
double few_rows(double total, bool quick) {
  index_t const keys = Kilobytes * 1024 / (256 * static_cast<index_t>(sizeof(float)));
  index_t const heads = quick ? 1 : std::max<index_t>(8, 32 * 1024 / Kilobytes);
  return problem<T>(1, heads * width<float> * Halves / 2, heads, 1, keys, 128).attend(total);
}

/// A tile of queries or less, whose keys threads may share.
template <int Keys>
double few_tiles(double total, bool quick) {
  return problem<float>(1, 1, 1, 32, quick ? 64 : Keys, 64).attend_with_threads(total);
}

/// A call that is guessed to take a core 26 microseconds with 32 tokens, and 420 with 128: somewhere between them,
/// another thread pays.
template <int Tokens>
double small_call(double total, bool) {
  return problem<float>(1, 8, 8, Tokens, Tokens, 64).attend_with_threads(total);
}

template <int Dimension, bool Delta>
double state(double total, bool quick) {
  index_t const heads = 4, tokens = quick ? 64 : 2048;
  problem<float> p(1, heads, heads, tokens, tokens, Dimension);
  std::vector<float> const logs(static_cast<std::size_t>(heads), -0.1f);
  std::vector<float> const rates(static_cast<std::size_t>(heads * tokens), 0.01f);
  return least_seconds(total, [&] {
    auto const call = [&](auto const&... options) {
      attend::linear_attention(p.query.view(), p.key.view(), p.value.view(), p.output.view(), attend::causal{},
                               attend::linear::head_decay(logs), options...);
    };
    if constexpr (Delta)
      call(attend::linear::delta_rule(attend::tensor_view<float const, 3>(rates.data(), {1, heads, tokens})));
    else
      call();
  });
}

/// One head, which more than two threads share by chunks or by columns.
template <int Dimension>
double shared_state(double total, bool quick) {
  index_t const tokens = quick ? 64 : 2048;
  problem<float> p(1, 1, 1, tokens, tokens, Dimension);
  return least_seconds(total, CLOCK_MONOTONIC, [&] {
    attend::linear_attention(p.query.view(), p.key.view(), p.value.view(), p.output.view(), attend::causal{},
                             attend::threads{});
  });
}

/// A piece of a prompt over latents with DeepSeek-V3's dimensions.
double latent(double total, bool quick) {
  constexpr index_t size = 512, rotary = 64, plain = 128, values = 128;
  index_t const heads = 32, tokens = quick ? 8 : 128, keys = 4 * tokens;
  random_tensor<bfloat16> key({1, heads, plain, size}, 1), value({1, heads, values, size}, 2);
  random_tensor<bfloat16> latents({1, 1, keys, size}, 3), rotary_keys({1, 1, keys, rotary}, 4);
  random_tensor<float> query({1, heads, tokens, plain + rotary}, 5), output({1, heads, tokens, values}, 6);
  auto const matrix = [](auto& tensor) {
    auto const all = tensor.view();
    return attend::tensor_view<bfloat16 const, 2>(all.data(), {all.extent(2), all.extent(3)});
  };
  auto const matrices = [](auto& tensor) {
    auto const all = tensor.view();
    return attend::tensor_view<bfloat16 const, 3>(all.data(), {all.extent(1), all.extent(2), all.extent(3)});
  };
  attend::caches::latent_cache<bfloat16> cache({1, size, rotary}, keys);
  cache.append(0, matrix(latents), matrix(rotary_keys));
  attend::caches::latent_projections<bfloat16> const projections{matrices(key), matrices(value)};
  return least_seconds(total, [&] {
    attend::caches::latent_attention(query.view(), cache, projections, output.view(), attend::causal{},
                                     attend::options::absorbed{});
  });
}

/// So many blocks that the rows which keep states are as many as there may be.
double mixture(double total, bool quick) {
  index_t const tokens = quick ? 256 : 8192;
  problem<float> p(1, 4, 1, tokens, tokens, 64);
  return least_seconds(total, [&] {
    attend::systems::moba_attention(p.query.view(), p.key.view(), p.value.view(), p.output.view(),
                                    attend::systems::moba_options{.block = 64, .top = 2});
  });
}

constexpr tuned_row rows[] = {{"read/f32", read<float>},
                              {"read/bf16", read<bfloat16>},
                              {"prefill/f32/d64", prefill<float, 64>},
                              {"prefill/f32/d128", prefill<float, 128>},
                              {"prefill/f32/d256", prefill<float, 256>},
                              {"prefill/bf16/d64", prefill<bfloat16, 64>},
                              {"prefill/bf16/d128", prefill<bfloat16, 128>},
                              {"few_rows/f32/one_vector/512k", few_rows<float, 2, 512>},
                              {"few_rows/f32/one_vector/4m", few_rows<float, 2, 4096>},
                              {"few_rows/bf16/one_vector/512k", few_rows<bfloat16, 2, 512>},
                              {"few_rows/bf16/one_vector/4m", few_rows<bfloat16, 2, 4096>},
                              {"few_rows/f32/three_halves/512k", few_rows<float, 3, 512>},
                              {"few_rows/bf16/three_halves/4m", few_rows<bfloat16, 3, 4096>},
                              {"few_tiles/1k", few_tiles<1024>},
                              {"few_tiles/4k", few_tiles<4096>},
                              {"small/32", small_call<32>},
                              {"small/48", small_call<48>},
                              {"small/64", small_call<64>},
                              {"small/128", small_call<128>},
                              {"state/d64", state<64, false>},
                              {"state/d128", state<128, false>},
                              {"state/d64/delta", state<64, true>},
                              {"shared_state/256k", shared_state<256>},
                              {"shared_state/1m", shared_state<512>},
                              {"latent", latent},
                              {"mixture", mixture}};

}  // namespace

tuned_row const* find_tuned_row(std::string const& name) {
  auto const found =
      std::find_if(std::begin(rows), std::end(rows), [&](tuned_row const& row) { return row.name == name; });
  return found == std::end(rows) ? nullptr : found;
}

}  // namespace attend_bench
