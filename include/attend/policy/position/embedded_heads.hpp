// SPDX-License-Identifier: BSD-3-Clause
// Queries and keys of heads that share one projection and differ by a vector each (multi_head_embedding.hpp), made as
// tiles of queries are packed and blocks of keys are read.
//
//   add        q_h = q + e_h^Q          k_h = k + e_h^K
//   multiply   q_h = q (1 + e_h^Q)      k_h = k (1 + e_h^K)      channel by channel
//
// Without positions a logit is that of one key for all heads: e_h^K adds the same to all logits of a row, and
// q_h . (k (1 + e_h^K)) = (q_h (1 + e_h^K)) . k. With rotary positions, of R_j for position j, it depends on the head
// and the position, but what the heads share has only twice as many channels. For a pair of channels (a, b), with q' =
// R_i q_h:
//
//   add        q' . R_j (k + e) = q' . R_j k + (q'_a e_a + q'_b e_b) cos_j + (q'_b e_a - q'_a e_b) sin_j
//   multiply   R_j diag(f_a, f_b) k = m R_j k + d Z R_-j k,   f = 1 + e, m = (f_a + f_b) / 2, d = (f_a - f_b) / 2,
//              Z = diag(1, -1), since R_j Z = Z R_-j
//
// So a key is [R_j k, cos_j, sin_j] or [R_j k, R_-j k], made from the one key that is stored, and the query of a head
// what these are multiplied by.
//
// Huiyin Xue, Nikolaos Aletras: Pit One Against Many: Leveraging Attention-head Embeddings for Parameter-efficient
// Multi-head Attention, 2023. What becomes of embeddings under rotary positions is not in the paper: its models have
// others.
#pragma once

#include "../../simd/transform_row.hpp"
#include "key_turns.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Says whether an embedding is added to a projection, or multiplies it after 1 was added.
enum class head_combination { add, multiply };

}  // namespace systems

namespace detail {

/// to = row + embedding, or row (1 + embedding).
template <Element T, class A>
void combine_row(T const* row, A const* embedding, index_t count, systems::head_combination settings, A* to) {
  simd::transform_row(
      to, count,
      [&](simd::vector<A> const& x, simd::vector<A> const& e) {
        return settings == systems::head_combination::add ? x + e : simd::fused_multiply_add<A>(x, e, x);
      },
      row, embedding);
}

/// The policy of position that says so. Rotary is a rotary policy, or absent.
template <class A, class Rotary>
class embedded_heads {
 public:
  using option_kind = option::position;
  static constexpr bool rotates_keys = !std::same_as<Rotary, absent>, rotates_as_read = rotates_keys;
  static constexpr bool differs_by_head = true, turns_further = false;

  /// Embeddings are [head, dimension].
  embedded_heads(systems::head_combination combination, tensor_view<A const, 2> const& query,
                 tensor_view<A const, 2> const& key, Rotary const& settings)
      : combination_(combination), query_(query), key_(key), dimension_(query.extent(1)), settings_(settings) {}

  Rotary const& settings() const { return settings_; }
  bool moved() const { return false; }
  /// The channels of queries and keys that are multiplied.
  index_t channels() const {
    if constexpr (rotates_keys)
      return dimension_ + settings_.dimension();
    else
      return dimension_;
  }
  index_t buffer_size() const {
    if constexpr (rotates_keys)
      return settings_.buffer_size();
    else
      return 0;
  }
  void check(problem_shape const& shape, key_range positions) const {
    if constexpr (rotates_keys) settings_.check(shape, positions);
  }
  token_place key_angle(attended_place const& at) const { return token_place::on_all_axes(at.batch, at.position); }

  /// What is done to a query. It is not in place.
  struct of_query {
    embedded_heads const* heads = nullptr;
    index_t head = 0;
    rotation<A> turn{};

    template <Element T>
    void apply(T const* from, A* to, index_t) const {
      heads->make_query(from, head, turn, to);
    }
  };
  of_query query_rotation(attending_place const& at, A* buffer) const {
    if constexpr (rotates_keys)
      return {this, at.query_head, settings_.rotation_at(token_place::on_all_axes(at.batch, at.position), buffer)};
    else
      return {this, at.query_head, {}};
  }

  /// What is done to a key, in place or apart.
  struct of_key {
    embedded_heads const* heads;
    rotation<A> turn;

    template <Element T>
    void apply(T const* from, A* to, index_t) const {
      heads->make_key(from, turn, to);
    }
  };
  of_key key_turn(rotation<A> const& turn) const { return {this, turn}; }
  of_key key_rotation(attended_place const& at, A* buffer) const {
    return key_turn(settings_.rotation_at(key_angle(at), buffer));
  }

 private:
  /// Calls function(pair, its first channel, its second).
  template <class Function>
  void for_pairs(rotation<A> const& turn, Function const& function) const {
    bool const halves = turn.layout == rotary_layout::half_split;
    for (index_t i = 0; i < turn.pairs; ++i) function(i, halves ? i : 2 * i, halves ? turn.pairs + i : 2 * i + 1);
  }

  template <Element T>
  void make_query(T const* from, index_t head, [[maybe_unused]] rotation<A> const& turn, A* to) const {
    bool const adds = combination_ == systems::head_combination::add;
    A const* const e = &key_(head, 0);
    combine_row(from, &query_(head, 0), dimension_, combination_, to);
    if constexpr (!rotates_keys) {
      if (!adds) combine_row(static_cast<A const*>(to), e, dimension_, combination_, to);
    } else {
      turn.apply(to, to, dimension_);
      A* const more = to + dimension_;
      if (adds)
        return for_pairs(turn, [&](index_t i, index_t a, index_t b) {
          more[i] = to[a] * e[a] + to[b] * e[b];
          more[turn.pairs + i] = to[b] * e[a] - to[a] * e[b];
        });
      for_pairs(turn, [&](index_t, index_t a, index_t b) {
        A const mean = 1 + (e[a] + e[b]) / 2, difference = (e[a] - e[b]) / 2;
        more[a] = difference * to[a], more[b] = -difference * to[b];
        to[a] *= mean, to[b] *= mean;
      });
      for (index_t c = 2 * turn.pairs; c < dimension_; ++c) to[c] *= 1 + e[c];
    }
  }

  template <Element T>
  void make_key(T const* from, rotation<A> const& turn, A* to) const {
    A* const more = to + dimension_;
    bool const halves = turn.layout == rotary_layout::half_split;
    if (combination_ == systems::head_combination::add) {
      turn.apply(from, to, dimension_);
      if (halves) {
        std::copy_n(turn.cosine, turn.pairs, more);
        std::copy_n(turn.sine, turn.pairs, more + turn.pairs);
        return;
      }
      // An interleaved layout has a number for each channel; of sines, the second has its own sign.
      for (index_t i = 0; i < turn.pairs; ++i)
        more[i] = turn.cosine[2 * i], more[turn.pairs + i] = turn.sine[2 * i + 1];
      return;
    }
    auto const back = [&](index_t i, index_t count) ATTEND_INLINE_LAMBDA {
      return std::pair(simd::turn_numbers(turn.cosine + i, count), -simd::turn_numbers(turn.sine + i, count));
    };
    // Before the key is rotated, which may be in place.
    if (halves)
      simd::rotate_halves_by(from, more, turn.pairs, back);
    else
      simd::rotate_interleaved_by(from, more, turn.pairs, back);
    turn.apply(from, to, dimension_);
  }

  systems::head_combination combination_;
  tensor_view<A const, 2> query_, key_;
  index_t dimension_;
  Rotary const& settings_;
};

}  // namespace detail

}  // namespace attend::inline ATTEND_TARGET
