// SPDX-License-Identifier: BSD-3-Clause
// A-VL: tokens of images and of text are kept, and attended to, by rules of their own. What an image token is worth
// lasts, but which ones count drifts; text matters while it is near.
//
//   of n image tokens, for each key-value head
//     secondary   the ceil(secondary * n) of the largest scores behind the prompt: kept; the others (minor) are evicted
//     core        the ceil(core * n) of the largest scores among them: attended to; chosen anew every few steps
//   of the text     the first tokens, the last ones, and those of the largest scores between them: kept, attended to
//
//   o = softmax over {core, kept text} of (s q . k), times v
//
// Behind the prompt scores are those of an evicting_cache, to which accumulate_weights has added the weights of the
// prompt's last query. When the core is chosen anew, they are the weights that the current query gives to all that is
// kept: the sum over the query heads of the group; several queries count by their mean.
//
// The object is a policy of eviction, which an evicting_cache applies, and a selector, whose lists selected_attention
// reads. Cost of a step: the bytes of the list; when the core is chosen anew, also those of all kept keys. The list is
// written anew only then, and after an eviction. Memory: 4 bytes for each row of a list, and for each core token.
//
// Junyang Zhang, Mu Yuan, Ruiguang Zhong, Puhan Luo, Huiyou Zhan, Ningkang Zhang, Chengchen Hu, Xiang-Yang Li: A-VL:
// Adaptive Attention for Large Vision-Language Models, 2024. Its fractions and intervals could not be read: those of
// the options are examples.
#pragma once

#include <cmath>
#include <span>

#include "../../cache/evicting.hpp"
#include "../../select/page_selector.hpp"
#include "../../select/query_likeness.hpp"
#include "../../select/soft_votes.hpp"
#include "../../select/stored_scores.hpp"
#include "selected_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// The shares of the image tokens that are secondary and core, how often the core is chosen anew, and the text that is
/// kept.
struct a_vl_options {
  double secondary = 0.5, core = 0.1;
  index_t every = 16;
  index_t sinks = 4, recent = 512, heaviest = 0;
};

/// Decides what a head keeps and sees. A is the accumulation type of queries and keys.
///
///     std::vector<std::uint8_t> images(8 * 4096);  // of each sequence's tokens: 1 of an image, 0 others
///     evicting_cache<float> kept(shape, {.pages = 4096});
///     cached_attention(kept, q, k, v, o, log_sum_exp(lse));
///     accumulate_weights(q, lse, kept);  // of a long prompt: its last query and log_sum_exp
///     a_vl_selector<float> selector(shape, 32, 4096, tensor_view(images.data(), {8, 4096}));
///     kept.evict(selector);
///     kept.append(k, v);
///     selected_attention(q, kept, selector, o);
template <class A = float>
class a_vl_selector {
 public:
  /// Views which tokens are of images [sequence, position]: 1 for one of an image, 0 for any other, as are those behind
  /// the last position; `capacity` is the most rows of a list. Throws argument_error where an extent is negative, where
  /// query heads are not a multiple of key-value heads, where there are not as many sequences as in the shape, or where
  /// an option is out of range.
  a_vl_selector(cache_shape const& shape, index_t query_heads, index_t capacity,
                tensor_view<std::uint8_t const, 2> images, a_vl_options const& choice = {})
      : choice_(checked(choice)),
        shape_(shape),
        query_heads_(detail::check_query_heads(query_heads, shape)),
        images_(images),
        lists_(shape.sequences, shape.key_value_heads, capacity),
        most_core_(most_core(shape, images, choice)),
        core_(name, std::array{shape.sequences, shape.key_value_heads, most_core_}),
        heads_(name, std::array{shape.sequences, shape.key_value_heads}),
        steps_(name, std::array{shape.sequences}) {
    std::fill_n(heads_.data(), heads_.size(), head_state{});
    std::fill_n(steps_.data(), steps_.size(), 0);
  }

  token_lists const& lists() const { return lists_; }
  a_vl_options const& choice() const { return choice_; }
  index_t bytes() const { return lists_.bytes() + core_.bytes() + heads_.bytes() + steps_.bytes(); }
  /// The positions of a head's core tokens, in ascending order.
  std::span<std::int32_t const> core(index_t sequence, index_t head) const {
    index_t const list = sequence * shape_.key_value_heads + head;
    return {core_.data() + list * most_core_, static_cast<std::size_t>(heads_[list].core)};
  }
  /// Makes the next step of a sequence its first: another prompt has taken its place.
  void restart(index_t sequence) {
    detail::check_sequence(sequence, shape_.sequences);
    steps_[sequence] = 0;
  }

  // A policy of eviction.
  void check(cache_shape const& shape) const {
    detail::check_extent("cache", "heads", shape.key_value_heads, shape_.key_value_heads, "the selector");
    detail::check_extent("cache", "sequences", shape.sequences, shape_.sequences, "the selector");
  }
  template <class Cache>
  void operator()(kept_tokens<Cache> const& tokens, std::span<bool> stays) const {
    index_t const s = tokens.sequence;
    auto const score = [&](index_t row) { return tokens.score[static_cast<std::size_t>(row)]; };
    auto const keep = [&](index_t most, auto const& may_go) {
      scratch memory;
      auto* const row = memory.allocate<std::int32_t>(static_cast<index_t>(stays.size()) + 1);
      index_t const left = largest(tokens.position, most, may_go, score, row,
                                   [&](index_t of_rest) { stays[static_cast<std::size_t>(of_rest)] = false; });
      for (index_t i = 0; i < left; ++i) stays[static_cast<std::size_t>(row[i])] = true;
    };
    keep(share(choice_.secondary, s, tokens.size), [&](index_t position) { return is_image(s, position); });
    keep(choice_.heaviest, [&](index_t position) {
      return !is_image(s, position) && position >= choice_.sinks && position < tokens.size - choice_.recent;
    });
  }

  /// Writes the lists for query [sequence, query head, query, key dimension], of the tokens that were appended last.
  /// Throws argument_error where the query or the cache does not fit, or where a head keeps more rows than a list may
  /// have.
  template <TensorArgument Query, StorageElement Key, StorageElement Value, Executor E = serial>
  void select(Query const& query, evicting_cache<Key, Value> const& cache, E&& executor = {}) {
    arithmetic_mode const arithmetic;
    using T = element_of_t<Query const>;
    static_assert(std::same_as<accumulation_t<T>, A> && std::same_as<storage_accumulation_t<Key>, A>,
                  "attend: queries, keys and the selector must have one accumulation type");
    tensor_view<T const, 4> const q = raise<4>(view_of(query));
    detail::check_selecting_query(q, shape_, query_heads_);
    check(cache.shape());
    detail::check_extent("cache", "head dimension", cache.key_dimension(), shape_.key_dimension, "the selector");
    detail::check_executor(executor);
    index_t const heads = shape_.key_value_heads;
    scratch memory;
    auto* const most = memory.allocate<index_t>(shape_.sequences + 1);
    for (index_t s = 0; s < shape_.sequences; ++s)
      most[s] = is_due(s) ? std::min(share(choice_.core, s, cache.size(s)), most_core_) : 0;
    double operations = 0;
    for (index_t list = 0; list < heads_.size(); ++list) {
      index_t const rows = cache.stored(list / heads, list % heads);
      if (rows > lists_.capacity())
        fail("cache", "expected at most ", lists_.capacity(), " rows of a head (the capacity), got ", rows);
      bool const scores = steps_[list / heads] > 0 && is_due(list / heads);
      operations +=
          static_cast<double>(rows) *
          (scores ? 2.0 * static_cast<double>(query_heads_ / heads) * static_cast<double>(shape_.key_dimension) : 0.1);
    }
    detail::parallel_for(executor, heads_.size(), detail::loop_cost{operations, operations}, [&](index_t list) {
      index_t const s = list / heads, head = list % heads;
      bool const anew = is_due(s);
      if (anew) choose(q, cache, s, head, most[s]);
      follow(cache, s, head, anew);
    });
    for (index_t s = 0; s < shape_.sequences; ++s) ++steps_[s];
  }

 private:
  static constexpr char const* name = "a_vl_selector";

  /// How many rows and tokens there were when the list was written, and how many core tokens there are.
  struct head_state {
    index_t rows = 0, size = 0, core = 0;
  };

  static a_vl_options const& checked(a_vl_options const& choice) {
    if (!(choice.core >= 0 && choice.core <= choice.secondary && choice.secondary <= 1))
      fail("a_vl_options", "expected shares that ascend from 0 to 1, got ", choice.core, " and ", choice.secondary);
    if (choice.every < 1) fail("a_vl_options", "expected a choice in at least 1 step, got ", choice.every);
    for (index_t const count : {choice.sinks, choice.recent, choice.heaviest})
      if (count < 0) fail("a_vl_options", "expected numbers of at least 0 tokens, got ", count);
    return choice;
  }
  static index_t most_core(cache_shape const& shape, tensor_view<std::uint8_t const, 2> const& images,
                           a_vl_options const& choice) {
    detail::check_view("images", images);
    detail::check_extent("images", "sequences", images.extent(0), shape.sequences, "the cache");
    return static_cast<index_t>(std::ceil(choice.core * static_cast<double>(images.extent(1))));
  }

  bool is_due(index_t sequence) const { return steps_[sequence] % choice_.every == 0; }
  bool is_image(index_t sequence, index_t position) const {
    return position < images_.extent(1) && images_(sequence, position) == 1;
  }
  /// A share of the image tokens among the first `size` tokens of a sequence.
  index_t share(double part, index_t sequence, index_t size) const {
    std::uint8_t const* const flags = images_.data() + sequence * images_.stride(0);
    auto const count = std::count(flags, flags + std::min(size, images_.extent(1)), std::uint8_t{1});
    return static_cast<index_t>(std::ceil(part * static_cast<double>(count)));
  }

  /// Writes the rows of the `most` largest scores among those whose position is asked for, in ascending order, and
  /// returns their number; before that, calls each(row) for all that are asked for, if they are more.
  template <class Asked, class Score, class Each>
  static index_t largest(std::span<std::int32_t const> positions, index_t most, Asked const& asked, Score const& score,
                         std::int32_t* to, Each const& each) {
    auto const rows = static_cast<index_t>(positions.size());
    scratch memory;
    float* const scores = memory.allocate<float>(rows + 1);
    auto* const row = memory.allocate<std::int32_t>(rows + 1);
    index_t count = 0;
    for (index_t i = 0; i < rows; ++i)
      if (asked(positions[static_cast<std::size_t>(i)])) {
        scores[count] = static_cast<float>(score(i));
        row[count++] = static_cast<std::int32_t>(i);
      }
    if (count > most)
      for (index_t i = 0; i < count; ++i) each(row[i]);
    index_t const found = top_k(scores, count, most, to);
    for (index_t i = 0; i < found; ++i) to[i] = row[to[i]];
    return found;
  }

  /// Chooses the core of a head, of at most so many tokens: in the first step by the cache's scores, later by the
  /// query.
  template <Element T, class Cache>
  void choose(tensor_view<T const, 4> const& query, Cache const& cache, index_t sequence, index_t head, index_t most) {
    scratch memory;
    index_t const list = sequence * shape_.key_value_heads + head;
    cache.with_tokens(sequence, head, [&](auto const& tokens) {
      auto const rows = static_cast<index_t>(tokens.position.size());
      float* const weights = memory.allocate<float>(rows + 1);
      if (steps_[sequence] == 0)
        std::copy_n(tokens.score.data(), rows, weights);
      else
        weigh(query, cache, sequence, head, weights, rows);
      std::int32_t* const to = memory.allocate<std::int32_t>(rows + 1);
      index_t const found = largest(
          tokens.position, most, [&](index_t position) { return is_image(sequence, position); },
          [&](index_t row) { return weights[row]; }, to, [](index_t) {});
      for (index_t i = 0; i < found; ++i)
        core_[list * most_core_ + i] = tokens.position[static_cast<std::size_t>(to[i])];
      heads_[list].core = found;
    });
  }

  /// The weights that the query heads of a group give to a head's rows together.
  template <Element T, class Cache>
  void weigh(tensor_view<T const, 4> const& query, Cache const& cache, index_t sequence, index_t head, float* weights,
             index_t rows) const {
    index_t const group = query_heads_ / shape_.key_value_heads, dimension = shape_.key_dimension;
    index_t const stride = round_up(rows, index_t{simd::width<float>});
    auto const scale = static_cast<A>(detail::usual_scale(dimension));
    scratch memory;
    A* const mean = memory.allocate<A>(group * dimension + 1);
    float* const scores = memory.allocate<float>(group * stride + 1);
    for (index_t i = 0; i < group; ++i) {
      detail::mean_query(query, sequence, head * group + i, mean + i * dimension);
      for (index_t c = 0; c < dimension; ++c) mean[i * dimension + c] *= scale;
    }
    detail::score_stored_keys(
        cache, sequence, head, 0, rows, group, [&](index_t i) { return mean + i * dimension; }, scores, stride, false);
    std::fill_n(weights, rows, 0.f);
    for (index_t i = 0; i < group; ++i) detail::add_soft_votes(scores + i * stride, rows, 1, weights);
  }

  /// Writes a head's list: new rows are added to it, unless rows have moved or the core is another.
  template <class Cache>
  void follow(Cache const& cache, index_t sequence, index_t head, bool anew) {
    index_t const list = sequence * shape_.key_value_heads + head;
    head_state& state = heads_[list];
    index_t const rows = cache.stored(sequence, head), size = cache.size(sequence);
    bool const appended = !anew && size >= state.size && rows - state.rows == size - state.size;
    if (!appended) lists_.clear(sequence, head);
    auto const core_tokens = core(sequence, head);
    auto next = core_tokens.begin();
    index_t begin = -1;  // of the rows that are beside each other in the list
    for (index_t row = appended ? state.rows : 0; row < rows;) {
      auto const positions = cache.positions(sequence, head, row);
      for (index_t const position : positions) {
        bool seen = !is_image(sequence, position);
        if (!seen) {
          while (next != core_tokens.end() && *next < position) ++next;
          seen = next != core_tokens.end() && *next == position;
        }
        if (seen && begin < 0) begin = row;
        if (!seen && begin >= 0) lists_.add(sequence, head, std::exchange(begin, -1), row);
        ++row;
      }
    }
    if (begin >= 0) lists_.add(sequence, head, begin, rows);
    state.rows = rows;
    state.size = size;
  }

  a_vl_options choice_;
  cache_shape shape_;
  index_t query_heads_;
  tensor_view<std::uint8_t const, 2> images_;
  token_lists lists_;
  index_t most_core_;
  detail::buffer<std::int32_t> core_;
  detail::buffer<head_state> heads_;
  detail::buffer<index_t> steps_;
};

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
