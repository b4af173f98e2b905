// SPDX-License-Identifier: BSD-3-Clause
// SpAtten, a decoding step over keys and values in two bit planes: progressive quantization, local value pruning, and
// the importance of tokens.
//
//   s_j = scale * q . k_j        k_j of the first plane alone
//   P   = softmax(s)             if max_j P_j < threshold, the row is flat: s and P anew with both planes of its keys
//   S   = the `values` tokens of largest P_j
//   o   = sum over S of P_j v_j  v_j of as many planes as the row's keys; no other values are read
//   score_j += P_j               over the query heads that share j's head: what cascade_pruning ranks tokens by
//
//   query   [sequence, query head, 1, key dimension]
//   output  [sequence, query head, 1, value dimension]
//
// A peaked row needs few bits: its softmax is decided by which logit is largest, where a flat one adds up many errors.
// What is left out of S is left out, and not shared among the rest. All that the paper prunes by comes out of one pass
// over the keys: weights of tokens go to the scores of the cache's rows, and head_gates() of cascade_heads skip heads.
//
// Bytes: the first plane of the keys, once for all query heads that share them, their second plane where one of these
// is flat, and the values of S for each query head. Operations: 2 * key dimension for each key and query head, two
// exponentials, and a choice of the largest. Scratch for each thread: the logits of a group of query heads. The heads
// are shared among threads.
//
// Hanrui Wang, Zhekai Zhang, Song Han: SpAtten: Efficient Sparse Attention Architecture with Cascade Token and Head
// Pruning, 2020.
#pragma once

#include <atomic>

#include "../../cache/bit_planes.hpp"
#include "../../call/plan.hpp"
#include "../../engine/softmax/row_epilogue.hpp"
#include "../../policy/gain.hpp"
#include "../../select/cascade_pruning.hpp"
#include "../../select/integer_scores.hpp"
#include "../../select/page_kinds.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Bytes that calls have read of keys and values, and how many rows were flat, of how many.
struct spatten_counts {
  std::atomic<index_t> first_keys{0}, second_keys{0}, values{0}, flat_rows{0}, rows{0};
};

/// Where a row is flat, and how many values each row reads, 0 for all; and where what is read is counted, if anywhere.
struct spatten_options {
  double threshold = 0.1;
  index_t values = 0;
  spatten_counts* counts = nullptr;
};

}  // namespace systems

namespace detail {

/// A query's softmax over its logits, which are in the base 2: the largest one, and the sum relative to it.
struct flat_softmax {
  float maximum = -infinity<float>, sum = 0;

  flat_softmax() = default;
  /// `logits` are in whole vectors, of which those past the last are -inf.
  flat_softmax(float const* logits, index_t vectors) {
    using namespace simd;
    using lanes = vector<float>;
    lanes most(-infinity<float>), total(0.f);
    for (index_t v = 0; v < vectors; ++v) most = simd::max(most, load(logits + v * width<float>));
    alignas(64) float each[array_size(width<float>)];
    store(each, most);
    maximum = *std::max_element(each, each + width<float>);
    if (maximum == -infinity<float>) {
      // A maximum may pass over NaN, which a row keeps.
      for (index_t i = 0; i < vectors * width<float>; ++i)
        if (logits[i] != logits[i]) sum = logits[i];
      return;
    }
    for (index_t v = 0; v < vectors; ++v) total = total + exp2<float>(load(logits + v * width<float>) - lanes(maximum));
    store(each, total);
    for (float const part : each) sum += part;
  }
  /// The largest weight is 1 / sum.
  bool is_flat(double threshold) const { return !(1 >= threshold * static_cast<double>(sum)); }
};

/// The work of spatten_attention on one key-value head.
template <Element T, class Cache>
class spatten_head {
  using First = typename Cache::key_element;
  using Second = typename Cache::second_plane::key_element;

 public:
  spatten_head(Cache& cache, systems::spatten_options const& settings, index_t sequence, index_t head, index_t queries)
      : cache_(cache),
        settings_(settings),
        sequence_(sequence),
        head_(head),
        queries_(queries),
        rows_(cache.stored(sequence, head)),
        stride_(round_up(std::max<index_t>(rows_, 1), simd::width<float>)),
        logits_(memory_.allocate<float>(queries * stride_)),
        softmax_(memory_.allocate<flat_softmax>(queries)),
        flat_(memory_.allocate<index_t>(queries)) {}

  /// Queries are those of query(i), times the scale and log2(e).
  template <class Query>
  void score(Query const& query) {
    score_plane(cache_.first(), queries_, query, logits_);
    index_t const vectors = stride_ / simd::width<float>;
    index_t flat = 0;
    for (index_t i = 0; i < queries_; ++i) {
      std::fill(logits_ + i * stride_ + rows_, logits_ + (i + 1) * stride_, -infinity<float>);
      softmax_[i] = flat_softmax(logits_ + i * stride_, vectors);
      if (softmax_[i].is_flat(settings_.threshold)) flat_[flat++] = i;
    }
    if (flat > 0 && rows_ > 0) {
      scratch memory;
      float* const rest = memory.allocate<float>(flat * stride_);
      score_plane(cache_.second(), flat, [&](index_t i) { return query(flat_[i]); }, rest);
      for (index_t i = 0; i < flat; ++i) {
        float* const to = logits_ + flat_[i] * stride_;
        for (index_t row = 0; row < rows_; ++row) to[row] += rest[i * stride_ + row];
        softmax_[flat_[i]] = flat_softmax(to, vectors);
      }
    }
    flat_count_ = flat;
    if (auto* const counts = settings_.counts) {
      counts->first_keys += rows_ * row_bytes<First>(cache_.key_dimension());
      if (flat > 0) counts->second_keys += rows_ * row_bytes<Second>(cache_.key_dimension());
      counts->flat_rows += flat;
      counts->rows += queries_;
    }
  }

  /// Adds the weights of all queries to the scores of the rows.
  void add_weights() {
    using lanes = simd::vector<float>;
    for (index_t row = 0; row < rows_;) {
      auto const scores = cache_.scores(sequence_, head_, row);
      for (index_t i = 0; i < queries_; ++i) {
        if (!(softmax_[i].sum > 0)) continue;
        lanes const most(softmax_[i].maximum), share(1 / softmax_[i].sum);
        combine_rows(scores.data(), logits_ + i * stride_ + row, static_cast<index_t>(scores.size()),
                     [&](lanes const& sum, lanes const& logit) {
                       return simd::fused_multiply_add(simd::exp2<float>(logit - most), share, sum);
                     });
      }
      row += static_cast<index_t>(scores.size());
    }
  }

  /// Writes the output of query i, times the gate of its head.
  void write(index_t i, float gate, T* to) {
    scratch memory;
    index_t const dimension = cache_.value_dimension();
    float const* const logits = logits_ + i * stride_;
    index_t count = settings_.values > 0 ? std::min(settings_.values, rows_) : rows_;
    auto* const chosen = memory.allocate<std::int32_t>(count + 1);
    if (count < rows_)
      count = selection::top_k(logits, rows_, count, chosen);
    else
      std::iota(chosen, chosen + count, 0);
    bool const both = std::find(flat_, flat_ + flat_count_, i) != flat_ + flat_count_;
    float* const sum = memory.allocate<float>(dimension + 1);
    std::fill_n(sum, dimension, 0.f);
    std::span<std::int32_t const> const rows{chosen, static_cast<std::size_t>(count)};
    // A row that sees nothing has 0, and one whose logits are NaN or infinite has NaN.
    if (softmax_[i].sum != 0) {
      add_values(cache_.first(), rows, i, sum, memory);
      if (both) add_values(cache_.second(), rows, i, sum, memory);
    }
    for (index_t c = 0; c < dimension; ++c) sum[c] *= gate;
    simd::narrow_row(sum, to, dimension);
    if (settings_.counts)
      settings_.counts->values +=
          count * (row_bytes<First>(dimension) + (both ? row_bytes<Second>(dimension) : index_t{0}));
  }

 private:
  template <StorageElement S>
  static index_t row_bytes(index_t dimension) {
    return row_elements<S>(dimension) * static_cast<index_t>(sizeof(S)) + static_cast<index_t>(sizeof(float));
  }

  template <class Plane, class Query>
  void score_plane(Plane const& plane, index_t queries, Query const& query, float* to) const {
    if constexpr (sizeof(T) == 2 && simd::multiplies_pairs)
      score_stored_integers(plane, sequence_, head_, 0, rows_, queries, query, to, stride_);
    else
      score_stored_keys(plane, sequence_, head_, 0, rows_, queries, query, to, stride_, false);
  }

  /// Adds the chosen rows of one plane's values times their weights.
  template <class Plane>
  void add_values(Plane const& plane, std::span<std::int32_t const> rows, index_t i, float* to, scratch& memory) {
    using namespace simd;
    using S = typename Plane::value_element;
    using lanes = vector<float>;
    index_t const dimension = plane.value_dimension(), elements = row_elements<S>(dimension);
    index_t const vectors = divide_up(dimension, group_elements<S>) * row_group<S>;
    index_t const padded = vectors * width<float> / elements_in<S>;
    float* const sums = memory.allocate<float>(vectors * width<float>);
    std::fill_n(sums, vectors * width<float>, 0.f);
    // Rows are read in whole groups.
    S* const copy = memory.allocate<S>(padded);
    std::memset(static_cast<void*>(copy), 0, static_cast<std::size_t>(padded) * sizeof(S));
    float const* const logits = logits_ + i * stride_;
    constexpr index_t step = width<float>;
    auto const count = static_cast<index_t>(rows.size());
    // Where the rows are, and their weights times their scales.
    S const** const row = memory.allocate<S const*>(count + 1);
    float* const weight = memory.allocate<float>(round_up(count, step) + step);
    typename std::remove_cvref_t<decltype(plane.adjacent_rows(0, 0, 0))> run;
    for (index_t n = 0, first = 0; n < count; ++n) {
      if (n == 0 || rows[static_cast<std::size_t>(n)] >= first + run.count)
        run = plane.adjacent_rows(sequence_, head_, first = rows[static_cast<std::size_t>(n)]);
      row[n] = run.value + (rows[static_cast<std::size_t>(n)] - first) * run.value_stride;
      weight[n] = run.value_scale[(rows[static_cast<std::size_t>(n)] - first) * run.value_scale_stride];
    }
    lanes const most(softmax_[i].maximum), share(1 / softmax_[i].sum);
    for (index_t n = 0; n < count; n += step) {
      alignas(64) float logit[array_size(step)] = {};
      for (index_t j = n; j < std::min(n + step, count); ++j) logit[j - n] = logits[rows[static_cast<std::size_t>(j)]];
      store(weight + n, load(weight + n) * exp2<float>(load(logit) - most) * share);
    }
    // So many rows ahead, as they lie apart.
    constexpr index_t ahead = 16;
    for (index_t n = 0; n < count; ++n) {
      S const* from = row[n];
      if (n + ahead < count)
        for (index_t byte = 0; byte < elements * index_t{sizeof(S)}; byte += engine::read_ahead::line)
          __builtin_prefetch(reinterpret_cast<std::byte const*>(row[n + ahead]) + byte);
      if (padded != elements) from = std::copy_n(from, elements, copy) - elements;
      lanes const factor(weight[n]);
      for (index_t v = 0; v < vectors; v += row_group<S>) {
        row_cursor<S> cursor(from, v);
        ATTEND_UNROLL for (int g = 0; g < row_group<S>; ++g)
            store(sums + (v + g) * step, fused_multiply_add(cursor.next(), factor, load(sums + (v + g) * step)));
      }
    }
    for (index_t v = 0; v < vectors; ++v)
      for (index_t lane = 0; lane < step; ++lane)
        if (index_t const column = stored_column<S>(v, lane); column < dimension) to[column] += sums[v * step + lane];
  }

  Cache& cache_;
  systems::spatten_options const& settings_;
  index_t sequence_, head_, queries_, rows_, stride_;
  scratch memory_;
  float* logits_;  // [query][stride]
  flat_softmax* softmax_;
  index_t* flat_;
  index_t flat_count_ = 0;
};

}  // namespace detail

namespace systems {

/// Attends from the last token of each sequence to what a cache in two bit planes keeps, and adds the weights to the
/// scores of its rows; shapes stand at the beginning of this file. Options: scale (1/sqrt(key dimension) unless given),
/// head_gates (heads whose gate is 0 are skipped, with an output of 0) and executor. Queries are float, half or
/// bfloat16.
///
/// Throws argument_error, before anything is written, where shapes or an option do not fit, a number is negative, or
/// forks share pages and the pool has too few free ones to copy them.
///
///     bit_plane_cache<> planes(shape, {.pages = 4096, .page_tokens = 64});
///     planes.append(k, v);
///     spatten_attention(q, planes, o, {.threshold = 0.1, .values = 256}, threads{8});
template <TensorArgument Query, StorageElement First, StorageElement Second, TensorArgument Output, class... Options>
void spatten_attention(Query const& query, bit_plane_cache<First, Second>& cache, Output&& output,
                       spatten_options const& settings, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  call::allows<option::scale, option::head_gates, option::executor>::check<Options...>();
  tensor_view<T const, 4> const q = raise<4>(view_of(query));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  detail::check_extent("query", "tokens", q.extent(2), 1, "a decoding step");
  auto problem = call::cache_problem<T>(q, cache, o);
  detail::check_apart("output", o, "query", q);
  if (!(settings.threshold >= 0)) fail("threshold", "expected at least 0, got ", settings.threshold);
  if (settings.values < 0) fail("values", "expected at least 0 tokens, got ", settings.values);
  auto plan = call::plan(problem, options...);
  index_t const heads = cache.key_value_heads(), together = cache.heads_together();
  if (heads == 0) return;
  cache.separate();
  index_t const group = q.extent(1) / heads, dimension = q.extent(3), lists = heads / together;
  double rows = 0;
  for (index_t s = 0; s < cache.sequences(); ++s)
    for (index_t head = 0; head < heads; ++head) rows += static_cast<double>(cache.stored(s, head));
  // Beside its product, a logit is read by a few loops.
  detail::loop_cost const cost{rows * static_cast<double>(group) * static_cast<double>(2 * dimension + 60),
                               rows * static_cast<double>(detail::row_elements<First>(dimension))};
  detail::parallel_for(plan.executor, cache.sequences() * lists, cost, [&](index_t task) {
    index_t const s = task / lists;
    for (index_t head = task % lists * together, last = head + together; head < last; ++head) {
      scratch memory;
      float* const packed = memory.allocate<float>(group * dimension + 1);
      index_t* const of_query = memory.allocate<index_t>(group + 1);
      index_t count = 0;
      for (index_t h = head * group; h < (head + 1) * group; ++h) {
        if (engine::head_gate(problem, s, h) == 0) {
          std::fill_n(o.extent(3) > 0 ? &o(s, h, 0, 0) : nullptr, o.extent(3), T(0));
          continue;
        }
        simd::widen_row(&q(s, h, 0, 0), packed + count * dimension, dimension);
        for (index_t c = 0; c < dimension; ++c)
          packed[count * dimension + c] *= problem.scale * static_cast<float>(log2_e);
        of_query[count++] = h;
      }
      if (count == 0) continue;
      detail::spatten_head<T, bit_plane_cache<First, Second>> work(cache, settings, s, head, count);
      work.score([&](index_t i) { return packed + i * dimension; });
      work.add_weights();
      for (index_t i = 0; i < count; ++i) {
        index_t const h = of_query[i];
        work.write(i, engine::head_gate(problem, s, h), o.data() + s * o.stride(0) + h * o.stride(1));
      }
    }
  });
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
