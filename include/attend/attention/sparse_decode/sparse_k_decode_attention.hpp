// SPDX-License-Identifier: BSD-3-Clause
// Decoding with SparseK in constant memory: a cache that keeps, of each head, a window of the last tokens and the best
// k of those before it, and attention to these.
//
//   when token t comes    token t - w leaves the window and joins the others with its score u
//   kept                  the k of these with the largest scores, ties to the earlier token; the others are forgotten
//   p_j                   clip(u_j - tau, 0, 1), with tau of sparse_k over the scores so far; 1 in the window
//   o                     softmax attention to the kept keys, values p_j v_j
//
//   query   [sequence, query head, 1, key dimension]        key, value, scores   [sequence, key-value head, token, ...]
//   output  [sequence, query head, 1, value dimension]
//
// A token that is not among the k best never is again, so this is sparse_k_causal_attention row by row. A token that
// is pushed out leaves its slot to the one that did it: one row is copied, whatever k is, which is why this is not an
// evicting_cache, where rows move up behind one that goes. Nobody asks for positions: keys have been rotated if they
// are to be, and attention sees a cache whose rows stand in the order of their slots.
//
// tau needs the scores above it, which may be more than k. The cache remembers the largest ones, `scores` of them, and
// forgets_scores() says whether that was not enough for tau to be exact; p_j is then that of the remembered ones.
//
// Memory: k + w rows of keys and values for each head, and 16 bytes for each remembered score. Cost of a token: two
// rows written and O(log scores); of attention, k + w rows read.
//
// Chao Lou, Zixia Jia, Zilong Zheng, Kewei Tu: Sparser is Faster and Less is More: Efficient Sparse Attention for
// Long-Range Transformers, 2024.
#pragma once

#include <vector>

#include "../../cache/row_memory.hpp"
#include "../../policy/gain.hpp"
#include "../../select/sparse_k.hpp"
#include "../cached/decode_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// How many tokens a head keeps: the best of those that have left the window, and those of the window; and how many
/// scores it remembers for tau, 0 for four times `chosen`.
struct sparse_k_budget {
  index_t chosen = 0;
  index_t window = 1;
  index_t scores = 0;
};

/// The keys and values that SparseK keeps, of any element type, of the same number of heads.
///
///     sparse_k_cache<float> kept(shape, {.chosen = 256, .window = 512});
///     kept.append(k, v, tokens);
///     sparse_k_decode_attention(q, kept, o);
template <StorageElement Key, StorageElement Value = Key>
class sparse_k_cache {
 public:
  using key_element = Key;
  using value_element = Value;
  using A = storage_accumulation_t<Key>;

  /// Allocates all memory of the cache. Throws argument_error where an extent or a number is negative, the window less
  /// than 1, fewer scores are remembered than tokens chosen, key heads and value heads differ, or the product does not
  /// fit in memory.
  sparse_k_cache(cache_shape const& shape, sparse_k_budget const& budget,
                 tensor_view<float const, 2> channel_scales = {})
      : budget_(checked(shape, budget)),
        memory_(name, shape, shape.sequences * shape.key_value_heads, slots(), channel_scales,
                detail::slots_of::any_head),
        score_(name, std::array{lists(), slots()}),
        gate_(name, std::array{lists(), slots()}),
        ranking_(name, std::array{lists(), rank_type::numbers(budget_.scores, budget_.chosen)}),
        best_(name, std::array{lists(), budget_.chosen + 1}),
        sizes_(name, std::array{shape.sequences}) {
    std::fill_n(gate_.data(), gate_.size(), A(1));
    ranks_.reserve(array_size(lists()));
    for (index_t list = 0; list < lists(); ++list) ranks_.push_back(empty_rank(list));
    std::fill_n(sizes_.data(), sizes_.size(), 0);
  }

  cache_shape const& shape() const { return memory_.shape(); }
  sparse_k_budget const& budget() const { return budget_; }
  /// The number of tokens that a sequence has had, and of those that a head keeps.
  index_t size(index_t sequence) const { return sizes_[sequence]; }
  index_t stored(index_t sequence, index_t head) const {
    return ranks_[array_size(list_of(sequence, head))].count() + std::min(sizes_[sequence], budget_.window);
  }
  /// The size of the cache's memory in bytes, however many tokens come.
  index_t bytes() const {
    return memory_.bytes() + score_.bytes() + gate_.bytes() + ranking_.bytes() + best_.bytes() + sizes_.bytes() +
           lists() * static_cast<index_t>(sizeof(rank_type));
  }
  /// The threshold of a head, -inf as long as all kept tokens have gates of 1; and whether it would be a higher one if
  /// more scores were remembered.
  double tau(index_t sequence, index_t head) const { return ranks_[array_size(list_of(sequence, head))].tau(); }
  bool forgets_scores(index_t sequence, index_t head) const {
    return !ranks_[array_size(list_of(sequence, head))].is_exact();
  }

  /// Appends tokens to one sequence: key [head, token, key dimension], value [head, token, value dimension], scores
  /// [head, token], of the accumulation type. A token whose score is -inf or NaN is not kept behind the window.
  ///
  /// Throws argument_error, before anything is written, where shapes do not fit.
  ///
  ///     sparse_k_cache<float> kept(shape, {.chosen = 256, .window = 512});
  ///     kept.append(0, prefix_key, prefix_value, matrix);
  template <TensorArgument Keys, TensorArgument Values, TensorArgument Scores>
  void append(index_t sequence, Keys const& key, Values const& value, Scores const& scores) {
    arithmetic_mode const arithmetic;
    detail::check_sequence(sequence, shape().sequences);
    append_to(sequence, 1, key, value, scores);
  }
  /// Appends the same number of tokens to every sequence: [sequence, head, token, dimension] and [sequence, head,
  /// token].
  template <TensorArgument Keys, TensorArgument Values, TensorArgument Scores>
    requires(!std::integral<Keys>)
  void append(Keys const& key, Values const& value, Scores const& scores) {
    arithmetic_mode const arithmetic;
    append_to(0, shape().sequences, key, value, scores);
  }

  /// Forgets all tokens of a sequence.
  void clear(index_t sequence) {
    detail::check_sequence(sequence, shape().sequences);
    for (index_t head = 0; head < heads(); ++head)
      ranks_[array_size(list_of(sequence, head))] = empty_rank(list_of(sequence, head));
    sizes_[sequence] = 0;
  }

  /// The kept rows as a source of the engines, in the order of their slots: first the chosen ones, then the window.
  class kept_rows {
   public:
    using key_element = Key;
    using value_element = Value;

    explicit kept_rows(sparse_k_cache const& cache) : cache_(cache) {}
    index_t sequences() const { return cache_.shape().sequences; }
    index_t key_value_heads() const { return cache_.heads(); }
    index_t key_dimension() const { return cache_.shape().key_dimension; }
    index_t value_dimension() const { return cache_.shape().value_dimension; }
    /// As many rows as the head of a sequence has that keeps most.
    index_t size(index_t sequence) const {
      index_t most = 0;
      for (index_t head = 0; head < key_value_heads(); ++head) most = std::max(most, stored(sequence, head));
      return most;
    }
    index_t stored(index_t sequence, index_t head) const { return cache_.stored(sequence, head); }
    key_value_rows<Key, Value> rows(index_t sequence, index_t head, index_t first) const {
      index_t const list = cache_.list_of(sequence, head), chosen = cache_.ranks_[array_size(list)].count();
      bool const is_chosen = first < chosen;
      return cache_.memory_.rows(list, head, is_chosen ? first : cache_.budget_.chosen + first - chosen,
                                 (is_chosen ? chosen : stored(sequence, head)) - first, first);
    }

   private:
    sparse_k_cache const& cache_;
  };
  kept_rows rows() const { return kept_rows(*this); }
  /// p of each kept row, [sequence, head, row].
  tensor_view<A const, 3> gates() const {
    index_t longest = 0;
    for (index_t s = 0; s < shape().sequences; ++s) longest = std::max(longest, rows().size(s));
    return {gate_.data(), {shape().sequences, heads(), longest}, {heads() * slots(), slots(), 1}};
  }

 private:
  static constexpr char const* name = "sparse_k_cache";
  using rank_type = selection::running_sparse_k<A>;

  static sparse_k_budget checked(cache_shape const& shape, sparse_k_budget budget) {
    if (budget.chosen < 0) fail(name, "expected at least 0 chosen tokens, got ", budget.chosen);
    if (budget.window < 1) fail(name, "expected a window of at least 1 token, got ", budget.window);
    for (index_t const number : {budget.chosen, budget.window, budget.scores})
      if (number >= token_limit) fail(name, "expected fewer than ", token_limit, " tokens, got ", number);
    if (budget.scores == 0) budget.scores = 4 * budget.chosen;
    if (budget.scores < budget.chosen)
      fail(name, "expected at least ", budget.chosen, " scores (chosen), got ", budget.scores);
    for (index_t const own : {shape.key_heads, shape.value_heads})
      if (own != 0 && own != shape.key_value_heads)
        fail(name, "expected key heads and value heads that keep tokens together, ", shape.key_value_heads,
             " of each, got ", own);
    return budget;
  }

  index_t heads() const { return shape().key_value_heads; }
  index_t lists() const { return shape().sequences * heads(); }
  index_t slots() const { return budget_.chosen + budget_.window; }
  index_t list_of(index_t sequence, index_t head) const { return sequence * heads() + head; }
  rank_type empty_rank(index_t list) {
    return {budget_.scores, budget_.chosen, ranking_.data() + list * rank_type::numbers(budget_.scores, budget_.chosen),
            best_.data() + list * (budget_.chosen + 1)};
  }

  template <class Keys, class Values, class Scores>
  void append_to(index_t first, index_t sequences, Keys const& key, Values const& value, Scores const& scores) {
    using T = std::remove_const_t<element_of_t<Keys const>>;
    static_assert(Element<T> && std::same_as<std::remove_const_t<element_of_t<Values const>>, T>,
                  "attend: keys and values that are appended have one element type: float, double, half or bfloat16");
    static_assert(std::same_as<accumulation_t<T>, A> && std::same_as<A, storage_accumulation_t<Value>>,
                  "attend: a cache of double takes tensors of double, and no other cache does");
    static_assert(std::same_as<std::remove_const_t<element_of_t<Scores const>>, A>,
                  "attend: scores have the accumulation type: float, or double for tensors of double");
    tensor_view<T const, 4> const k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
    tensor_view<A const, 3> const u = raise<3>(view_of(scores));
    check_tokens("key", k, sequences, shape().key_dimension, k.extent(2));
    check_tokens("value", v, sequences, shape().value_dimension, k.extent(2));
    detail::check_view("scores", u);
    detail::check_extent("scores", "sequences", u.extent(0), sequences, "the cache");
    detail::check_extent("scores", "heads", u.extent(1), heads(), "the cache");
    detail::check_extent("scores", "tokens", u.extent(2), k.extent(2), "key");
    for (index_t s = first; s < first + sequences; ++s) detail::check_token_limit(s, sizes_[s], k.extent(2), "key");
    for (index_t s = 0; s < sequences; ++s) {
      for (index_t head = 0; head < heads(); ++head) {
        index_t const list = list_of(first + s, head);
        for (index_t t = 0; t < k.extent(2); ++t)
          add(list, head, sizes_[first + s] + t, &k(s, head, t, 0), &v(s, head, t, 0), u(s, head, t));
        set_gates(list);
      }
      sizes_[first + s] += k.extent(2);
    }
  }

  template <class T>
  void check_tokens(char const* argument, tensor_view<T const, 4> const& rows, index_t sequences, index_t dimension,
                    index_t tokens) const {
    detail::check_view(argument, rows);
    detail::check_extent(argument, "sequences", rows.extent(0), sequences, "the cache");
    detail::check_extent(argument, "heads", rows.extent(1), heads(), "the cache");
    detail::check_extent(argument, "tokens", rows.extent(2), tokens, "key");
    detail::check_extent(argument, "head dimension", rows.extent(3), dimension, "the cache");
  }

  /// Takes the token at a position into the window; the one that leaves it joins the others.
  template <class T>
  void add(index_t list, index_t head, index_t position, T const* key, T const* value, A score) {
    index_t const slot = budget_.chosen + position % budget_.window;
    A* const scores = score_.data() + list * slots();
    if (position >= budget_.window) {
      auto const [gone, place] = ranks_[array_size(list)].add(position - budget_.window, scores[slot]);
      if (place >= 0) {
        memory_.copy(list, slot, place, 1);
        scores[place] = scores[slot];
      }
    }
    memory_.write_keys(list, head, slot, 1, key, 0);
    memory_.write_values(list, head, slot, 1, value, 0);
    scores[slot] = score;
  }

  /// The gates of the chosen rows; those of the window are 1.
  void set_gates(index_t list) {
    rank_type const& rank = ranks_[array_size(list)];
    A const* const scores = score_.data() + list * slots();
    A* const gates = gate_.data() + list * slots();
    A const tau = static_cast<A>(rank.tau());
    // Places that are taken later were those of the window before.
    for (index_t row = 0; row < rank.count(); ++row)
      gates[row] = std::clamp(detail::finite_score(scores[row]) - tau, A(0), A(1));
    std::fill(gates + rank.count(), gates + slots(), A(1));
  }

  sparse_k_budget budget_;
  detail::row_memory<Key, Value> memory_;
  detail::buffer<A> score_, gate_, ranking_;  // score_ [list][slot], gate_ [list][row]
  detail::buffer<typename rank_type::ranked> best_;
  std::vector<rank_type> ranks_;
  detail::buffer<index_t> sizes_;
};

/// Attends from the last token of each sequence to what the cache keeps; shapes stand at the beginning of this file.
/// Options: scale (1/sqrt(key dimension) unless given), log_sum_exp and executor.
///
/// Throws argument_error, before the output is written, where shapes or an option do not fit, or where a sequence is
/// empty.
///
///     sparse_k_cache<float> kept(shape, {.chosen = 256, .window = 512});
///     kept.append(k, v, tokens);
///     sparse_k_decode_attention(q, kept, o, threads{8});
template <TensorArgument Query, StorageElement Key, StorageElement Value, TensorArgument Output, class... Options>
void sparse_k_decode_attention(Query const& query, sparse_k_cache<Key, Value> const& cache, Output&& output,
                               Options&&... options) {
  call::allows<option::scale, option::log_sum_exp, option::executor>::check<Options...>();
  detail::check_extent("query", "tokens", raise<4>(view_of(query)).extent(2), 1, "a decoding step");
  decode_attention(query, cache.rows(), output, options::value_gain(cache.gates()), options...);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
