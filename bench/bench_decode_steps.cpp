// SPDX-License-Identifier: BSD-3-Clause
// Steps of decoding with what belongs to them beside attention to a store, which bench_decode.cpp measures alone. One
// query, bfloat16, 131072 tokens (decode/dense of bench_decode.cpp attends to all of them), and 1024 for a look at
// whether the steps run. The bytes are those of the keys and values that are kept, read once.
//
//   razor          a token is appended; two heads of eight keep all, six 4 sinks, the last fifth and the mean of the
//                  others                                                                             RazorAttention
//   dist           attention to each of eight parts of the tokens, merged by log-sum-exp              DistAttention
//   lamina         attention to the tokens before, then to the new token's own pair, and both merged  Lamina
//   block          attention to a prompt of 16 passages, the keys of each rotated to its place        Block-Attention
//   block/enter    a passage of a sixteenth enters the prompt: read, rotated and written
//   h2o/step       a token is appended, attention, its weights, and once in 32 steps all are evicted but the last tenth
//                  and the heaviest tenth                                                                         H2O
//   evicting/step  a token is appended, attention, and once in 32 steps head h of 8 keeps (h + 1) / 8 of the last
//   tokens
#include <attend/attention/cached/accumulate_weights.hpp>
#include <attend/attention/cached/block_attention.hpp>
#include <attend/attention/cached/decode_attention.hpp>
#include <attend/attention/cached/razor_attention.hpp>
#include <attend/attention/cached/retrieval_heads.hpp>
#include <attend/attention/softmax/merge.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/select/eviction_policies.hpp>

#include <memory>
#include <vector>

#include "attention_benchmark.hpp"
#include "benchmarks.hpp"
#include "random_tensor.hpp"

namespace attend_bench {
namespace {

using attend::bfloat16;
using attend::options::log_sum_exp;
using contiguous = attend::contiguous_cache<bfloat16>;
using evicting = attend::caches::evicting_cache<bfloat16>;

constexpr index_t tokens_of_turn = 32;

attend::caches::cache_shape shape_of(attention_shape const& s, index_t heads) {
  return {s.batch, heads, s.dimension, s.dimension};
}

/// Tensors of a step: its query, key and value, and what parts of its attention write.
struct step_tensors {
  explicit step_tensors(attention_shape const& s)
      : query({s.batch, s.query_heads, 1, s.dimension}, 1),
        key({s.batch, s.key_heads, 1, s.dimension}, 2),
        value({s.batch, s.key_heads, 1, s.dimension}, 3),
        output({s.batch, s.query_heads, 1, s.dimension}, 4) {}

  attend::tensor_view<bfloat16, 4> part(index_t number) {
    auto const extents = output.view().extents();
    return {memory_of(parts_, number, extents[0] * extents[1] * extents[3]), extents};
  }
  attend::tensor_view<float, 3> sums(index_t number, index_t queries = 1) {
    auto const extents = output.view().extents();
    return {memory_of(sums_, number, extents[0] * extents[1] * queries), {extents[0], extents[1], queries}};
  }

  random_tensor<bfloat16> query, key, value, output;

 private:
  template <class T>
  static T* memory_of(std::vector<std::vector<T>>& all, index_t number, index_t size) {
    auto const index = static_cast<std::size_t>(number);
    if (all.size() <= index) all.resize(index + 1);
    all[index].resize(static_cast<std::size_t>(size));
    return all[index].data();
  }

  std::vector<std::vector<bfloat16>> parts_;
  std::vector<std::vector<float>> sums_;
};

template <class Store>
void fill(Store& store, attention_shape const& s, index_t tokens, unsigned seed = 5) {
  random_tensor<bfloat16> key({1, s.key_heads, tokens_of_turn, s.dimension}, seed),
      value({1, s.key_heads, tokens_of_turn, s.dimension}, seed + 1);
  for (index_t sequence = 0; sequence < store.sequences(); ++sequence)
    for (index_t first = 0; first < tokens; first += tokens_of_turn) store.append(sequence, key.view(), value.view());
}

/// `prepare` makes the step, a function of threads. `kept` is the share of the tokens whose keys and values it reads.
template <class Prepare>
void add(std::string const& family, attention_shape const& shape, double kept, Prepare const& prepare,
         std::vector<int> const& threads = {1, 2}) {
  attention_benchmark what{family, element_type::bf16, shape, "causal", 0, limit::bandwidth, {}};
  what.bytes = kept * 2 * sizeof(bfloat16) * static_cast<double>(shape.batch * shape.key_heads * shape.keys) *
               static_cast<double>(shape.dimension);
  what.flops = kept * 4 * static_cast<double>(shape.batch * shape.query_heads * shape.keys * shape.dimension);
  what.prepare = [=] { return attention_call{prepare(), {}}; };
  register_attention(what, threads);
}

void add_razor(attention_shape const& shape) {
  static std::vector<std::int32_t> const kinds{0, 1, 1, 1, 0, 1, 1, 1};
  index_t const window = attend::systems::razor_window(shape.keys, 64);
  double const streaming = static_cast<double>(4 + window) / static_cast<double>(shape.keys);
  add("decode/razor", shape, 0.25 + 0.75 * streaming, [=] {
    struct {
      step_tensors step;
      attend::caches::head_policy_cache<contiguous, attend::caches::compensated_cache<bfloat16>> store;
    } made{step_tensors(shape),
           {contiguous(shape_of(shape, 2), shape.keys + 1), {shape_of(shape, 6), {4, window}, tokens_of_turn}, kinds}};
    fill(made.store, shape, shape.keys);
    return [kept = std::make_shared<decltype(made)>(std::move(made)), keys = shape.keys](attend::threads threads) {
      step_tensors& step = kept->step;
      attend::systems::razor_attention(kept->store, step.query.view(), step.key.view(), step.value.view(),
                                       step.output.view(), threads);
      kept->store.truncate(0, keys);
    };
  });
}

void add_dist(attention_shape const& shape) {
  constexpr index_t parts = 8;
  add("decode/dist", shape, 1, [=] {
    auto const step = std::make_shared<step_tensors>(shape);
    auto const stores = std::make_shared<std::vector<contiguous>>();
    std::vector<attend::caches::partial_attention<bfloat16>> all;
    for (index_t i = 0; i < parts; ++i) {
      stores->emplace_back(shape_of(shape, shape.key_heads), shape.keys / parts);
      fill(stores->back(), shape, shape.keys / parts, static_cast<unsigned>(10 + 2 * i));
      all.emplace_back(step->part(i), step->sums(i));
    }
    return [=](attend::threads threads) {
      for (index_t i = 0; i < parts; ++i)
        attend::decode_attention(step->query.view(), (*stores)[static_cast<std::size_t>(i)], step->part(i),
                                 log_sum_exp(step->sums(i)), threads);
      attend::caches::merge(all, step->output.view(), threads);
    };
  });
}

void add_lamina(attention_shape const& shape) {
  add("decode/lamina", shape, 1, [=] {
    auto const step = std::make_shared<step_tensors>(shape);
    auto const store = std::make_shared<contiguous>(shape_of(shape, shape.key_heads), shape.keys);
    fill(*store, shape, shape.keys);
    return [=](attend::threads threads) {
      attend::decode_attention(step->query.view(), *store, step->part(0), log_sum_exp(step->sums(0)), threads);
      attend::softmax_attention(step->query.view(), step->key.view(), step->value.view(), step->part(1),
                                log_sum_exp(step->sums(1)), threads);
      using part = attend::caches::partial_attention<bfloat16>;
      attend::caches::merge(std::array{part(step->part(0), step->sums(0)), part(step->part(1), step->sums(1))},
                            step->output.view(), threads);
    };
  });
}

void add_block(attention_shape const& shape) {
  constexpr index_t passages = 16;
  attend::rotary<attend::options::rotary_frequencies> const position{
      attend::options::rotary_frequencies(shape.dimension)};
  struct prompt {
    step_tensors step;
    contiguous passage, store;
  };
  auto const make = [=](index_t count) {
    auto made = std::make_shared<prompt>(prompt{step_tensors(shape),
                                                contiguous(shape_of(shape, shape.key_heads), shape.keys / passages),
                                                contiguous(shape_of(shape, shape.key_heads), shape.keys)});
    fill(made->passage, shape, shape.keys / passages);
    for (index_t i = 0; i < count; ++i) attend::systems::append_block(made->passage, 0, made->store, 0, position);
    return made;
  };
  add("decode/block", shape, 1, [=] {
    return [all = make(passages)](attend::threads threads) {
      attend::decode_attention(all->step.query.view(), all->store, all->step.output.view(), attend::causal{}, threads);
    };
  });
  // Read and written, by one thread.
  add("decode/block/enter", shape, 2.0 / passages,
      [=] {
        return [all = make(passages - 1), position](attend::threads) {
          index_t const before = all->store.size(0);
          attend::systems::append_block(all->passage, 0, all->store, 0, position);
          all->store.truncate(0, before);
        };
      },
      {1});
}

/// Steps through an evicting store. If `weighed`, the weights of four steps are added up at a time, since four query
/// heads share keys and 16 queries read them once, and nothing is evicted in between.
template <bool weighed, class Policy>
void add_evicting(std::string const& family, attention_shape const& shape, index_t page_tokens, double kept,
                  Policy const& policy) {
  static constexpr index_t gathered = weighed ? 4 : 1;
  add(family, shape, kept, [=] {
    struct {
      step_tensors step;
      evicting store;
      random_tensor<bfloat16> queries;
      index_t steps = 0;
    } made{step_tensors(shape),
           {shape_of(shape, shape.key_heads),
            {.pages = shape.batch * shape.key_heads * (shape.keys / page_tokens + 2 * tokens_of_turn),
             .page_tokens = page_tokens}},
           random_tensor<bfloat16>({shape.batch, shape.query_heads, gathered, shape.dimension}, 7)};
    fill(made.store, shape, shape.keys);
    // A product with an odd number gives each token a score of its own.
    for (index_t s = 0; s < shape.batch; ++s)
      for (index_t head = 0; head < shape.key_heads; ++head)
        for (index_t row = 0; row < shape.keys;)
          for (float& score : made.store.scores(s, head, row)) score = static_cast<float>(row++ * 40503 % 65536);
    made.store.evict(policy);
    return [kept = std::make_shared<decltype(made)>(std::move(made)), policy](attend::threads threads) {
      step_tensors& step = kept->step;
      index_t const number = kept->steps++ % gathered;
      auto const queries = kept->queries.view();
      auto const sums = step.sums(0, gathered);
      auto const query = attend::detail::part(queries, 2, number, 1);
      kept->store.append(step.key.view(), step.value.view());
      attend::decode_attention(query, kept->store, step.output.view(),
                               log_sum_exp(attend::detail::part(sums, 2, number, 1)), threads);
      if (number + 1 < gathered) return;
      if constexpr (weighed) attend::caches::accumulate_weights(queries, sums, kept->store, threads);
      kept->store.evict(policy, 32, threads);
    };
  });
}

void add_all(index_t keys) {
  attention_shape const shape{1, 32, 8, 1, keys, 128};
  add_razor(shape);
  add_dist(shape);
  add_lamina(shape);
  add_block(shape);
  add_evicting<true>("decode/h2o/step", shape, 128, static_cast<double>(2 * (keys / 10)) / static_cast<double>(keys),
                     attend::caches::keep_heaviest{.recent = keys / 10, .heaviest = keys / 10});
  // The tokens that decode/evicting16 and decode/evicting128 keep, of the last ones.
  index_t const batch = 16, last = keys / batch, heads = shape.key_heads;
  for (index_t const page_tokens : {16, 128})
    add_evicting<false>("decode/evicting" + std::to_string(page_tokens) + "/step",
                        {batch, shape.query_heads, heads, 1, last, shape.dimension}, page_tokens,
                        static_cast<double>(heads + 1) / static_cast<double>(2 * heads),
                        [=](auto const& tokens, std::span<bool> stays) {
                          for (std::size_t i = 0; i < stays.size(); ++i)
                            stays[i] = tokens.position[i] >= tokens.size - last &&
                                       (tokens.position[i] * 5 + tokens.position[i] / heads) % heads <= tokens.head;
                        });
}

}  // namespace

void register_decode_steps() {
  for (index_t const keys : {1024, 131072}) add_all(keys);
}

}  // namespace attend_bench
