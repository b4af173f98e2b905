// SPDX-License-Identifier: BSD-3-Clause
// SampleAttention: each head sees a local window, and the few columns (stripes) that a sample of its queries looks at
// most.
//
//   P_i  = causal softmax of s q_i . k_j, for a sample of the queries       i = queries - 1, and every 1 / rows before
//   c_j  = sum_i P_ij
//   I    = the fewest keys whose c_j sum up to `weight_sum` of all, largest first; ties to the lower index
//   o_i  = softmax attention of q_i to the keys j <= p_i with p_i - j < w or j in I       w = ceil(window * keys)
//
//   query, key, value, output   as for softmax_attention, causal, aligned at the last token; a list for each query head
//
// A key that none of the sampled queries looks at is no stripe, however much another query does.
//
// Cost: 2 * key dimension operations for each sampled pair, whose logits pass through memory twice; then 2 * (key +
// value dimension) for each chosen pair. Stripes are gathered a block at a time for a few hundred queries. Memory:
// `keys` sums for each head and part of the sample, and the logits of one tile of sampled queries for each thread.
//
// Qianchao Zhu et al.: SampleAttention: Near-Lossless Acceleration of Long Context LLM Inference with Adaptive
// Structured Sparse Attention, 2024.
#pragma once

#include "../../call/plan.hpp"
#include "../../core/head_loop.hpp"
#include "../../core/order.hpp"
#include "../../engine/softmax/gathered.hpp"
#include "../../engine/softmax/row_parts.hpp"
#include "../../engine/softmax/scored_keys.hpp"
#include "../../policy/mask/causal.hpp"
#include "../../policy/mask/window.hpp"
#include "../../select/top_k.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Gives three fractions: `rows` of the queries are sampled, `weight_sum` of their weights is to be kept by the
/// stripes, and the local window is `window` of the keys wide, rounded up to tokens. Every n-th query is sampled, with
/// n = 1 / rows rounded. As few stripes are taken as reach the sum, and at most `most` of them; 0 is no limit.
struct sample_options {
  double rows = 0.05;
  double weight_sum = 0.95;
  double window = 0.08;
  index_t most = 0;
};

}  // namespace systems

namespace detail {

/// The work of sample_attention, checked.
template <Element T>
class stripe_sampling {
 public:
  using A = accumulation_t<T>;

  stripe_sampling(engine::problem<T> const& p, sample_options const& settings, scratch& memory)
      : p_(p),
        settings_(settings),
        keys_(p.shape.keys),
        window_(static_cast<index_t>(std::ceil(settings.window * static_cast<double>(keys_)))),
        stride_(settings.rows > 0 ? std::llround(std::clamp(1 / settings.rows, 1.0, static_cast<double>(token_limit)))
                                  : 0),
        samples_(stride_ > 0 ? divide_up(p.shape.queries, stride_) : 0),
        most_(settings.most > 0 ? std::min(settings.most, keys_) : keys_) {
    index_t const heads = p.shape.batches * p.shape.query_heads;
    sums_ = memory.allocate<A>(heads * parts * keys_);
    stripes_ = memory.allocate<std::int32_t>(heads * most_);
    stripe_count_ = memory.allocate<index_t>(heads);
  }

  template <class E>
  void run(E& executor) const {
    index_t const heads = p_.shape.batches * p_.shape.query_heads;
    // A logit passes through memory and a sum; a column's sums are added up, ranked and sorted.
    loop_cost const of_part =
        loop_cost::of(divide_up(samples_ * keys_, parts) * (2 * p_.shape.key_dimension + logit_operations));
    for_heads(executor, heads, parts, of_part, [&](index_t head, index_t part) { sample(head, part); });
    for_heads(executor, 1, heads, loop_cost::of(choice_operations * keys_),
              [&](index_t, index_t head) { choose(head); });
    engine::for_row_parts(p_, 1, engine::gathered_tiles<T>::max_rows, keys_ / 4, executor,
                          [&](engine::row_part const& part) { attend(part); });
  }

 private:
  using source_type = engine::problem_rows<T>;

  // Of a head's sample, which threads may take apart.
  static constexpr index_t parts = 4;
  // About what is done, beside its product, for a logit of the sample, and for a column.
  static constexpr index_t logit_operations = 60, choice_operations = 100;

  engine::source_rows<source_type> rows_of_keys(source_type const& source, index_t head) const {
    return {&source, head / p_.shape.query_heads, head % p_.shape.query_heads / p_.heads_per_group()};
  }

  /// The column sums of one part of a head's sample, a tile at a time.
  void sample(index_t head, index_t part) const {
    scratch memory;
    A* const sums = sums_ + (head * parts + part) * keys_;
    std::fill_n(sums, keys_, A(0));
    source_type const source(p_);
    auto const keys = rows_of_keys(source, head);
    index_t const batch = head / p_.shape.query_heads;
    engine::gathered_tiles<T> tiles(p_, batch, memory);
    engine::key_block block(memory, keys, tiles.shape_of_block());
    constexpr index_t lanes = engine::gathered_tiles<T>::lanes;
    A* const logits = memory.allocate<A>((keys_ + simd::register_rows) * lanes);
    // From the first sampled query on, which is the one that makes the last token's the last.
    index_t const first_sample = p_.shape.queries - 1 - (samples_ - 1) * stride_;
    for (index_t tile = part; tile * lanes < samples_; tile += parts) {
      index_t const first = tile * lanes, count = std::min(lanes, samples_ - first);
      auto const query = [&](index_t i) { return first_sample + (first + i) * stride_; };
      index_t const seen = std::clamp<index_t>(query(count - 1) + 1 + keys_ - p_.shape.queries, 0, keys_);
      tiles.set_rows(count, [&](index_t i) {
        return typename engine::gathered_tiles<T>::row{head % p_.shape.query_heads, query(i)};
      });
      tiles.score(
          block, keys, 0, seen, causal{},
          [&](index_t, key_range range) { return logits + range.first * tiles.lanes_of(0); },
          [](index_t, key_range) {});
      engine::add_columns(logits, seen, tiles.lanes_of(0), tiles.rows_in(0), sums);
    }
  }

  /// A head's stripes, ascending.
  void choose(index_t head) const {
    scratch memory;
    auto* const weight_sum = memory.allocate<float>(keys_);
    double total = 0, kept = 0;
    for (index_t j = 0; j < keys_; ++j) {
      A sum = 0;
      for (index_t part = 0; part < parts; ++part) sum += sums_[(head * parts + part) * keys_ + j];
      weight_sum[j] = static_cast<float>(sum);
      total += static_cast<double>(weight_sum[j]);
    }
    std::int32_t* const list = stripes_ + head * most_;
    index_t const most = top_k(weight_sum, keys_, most_, list, top_k_order::score);
    index_t count = 0;
    while (count < most && kept < settings_.weight_sum * total) kept += static_cast<double>(weight_sum[list[count++]]);
    // A sum of 1 is all keys, whatever the sums' rounding says of the last ones.
    if (settings_.weight_sum >= 1) count = most;
    std::sort(list, list + count, detail::ascending{});
    stripe_count_[head] = count;
  }

  /// Some queries that follow each other: the stripes before the window, and the window.
  void attend(engine::row_part const& part) const {
    scratch memory;
    source_type const source(p_);
    index_t const head = part.batch * p_.shape.query_heads + part.first_head;
    auto const keys = rows_of_keys(source, head);
    index_t const last_position = part.last_query() + keys_ - p_.shape.queries;
    engine::gathered_tiles<T> tiles(p_, part.batch, memory);
    tiles.set_rows(part.count, part);
    std::int32_t const* const list = stripes_ + head * most_;
    index_t const stripes =
        std::upper_bound(list, list + stripe_count_[head], last_position - window_, detail::ascending{}) - list;
    if (stripes > 0) {
      engine::ordered_rows<engine::source_rows<source_type>, engine::token_list> const columns{keys, {list}};
      engine::key_block block(memory, columns, tiles.shape_of_block());
      tiles.add_keys(block, columns, 0, stripes, engine::listed_before{list, stripes, window_});
    }
    index_t const from = std::clamp<index_t>(last_position - part.count - window_ + 2, 0, keys_);
    index_t const to = std::clamp<index_t>(last_position + 1, 0, keys_);
    if (window_ > 0 && from < to) {
      engine::key_block block(memory, keys, tiles.shape_of_block());
      tiles.add_keys(block, keys, from, to - from, window{window_ - 1, 0});
    }
    tiles.write();
  }

  engine::problem<T> const& p_;
  sample_options settings_;
  index_t keys_, window_, stride_, samples_, most_;
  A* sums_;
  std::int32_t* stripes_;
  index_t* stripe_count_;
};

}  // namespace detail

namespace systems {

/// Attends to a window and to the stripes that a sample of the queries finds. Query, key, value and output have the
/// shapes of softmax_attention. Options: scale (1/sqrt(key dimension) unless given), log_sum_exp, count_tiles and
/// executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, or where a
/// fraction is not in [0, 1].
///
///     sample_attention(q, k, v, o, sample_options{.rows = 0.05, .weight_sum = 0.95, .window = 0.08});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void sample_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                      sample_options const& settings, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  for (auto const& [what, fraction] : {std::pair{"rows", settings.rows}, std::pair{"weight_sum", settings.weight_sum},
                                       std::pair{"window", settings.window}})
    if (!(fraction >= 0 && fraction <= 1))
      fail("sample_options", "expected a fraction of ", what, " from 0 to 1, got ", fraction);
  if (settings.most < 0) fail("sample_options", "expected at least 0 stripes, got ", settings.most);
  auto problem = call::problem_of(query, key, value, output);
  auto plan = call::plan<call::system_options>(problem, options...);
  if (problem.shape.queries == 0) return;
  scratch memory;
  detail::stripe_sampling<T>(problem, settings, memory).run(plan.executor);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
