// SPDX-License-Identifier: BSD-3-Clause
// Rotary positions of a cache's rows that its reader chooses, at each call: places in a shortened cache, slots of
// chosen blocks, or any others.
//
//   rotary_places(position, rule)   keys lie unrotated, and are rotated for their places as they are read
//   rotary_moves(position, rule)    keys were rotated for their positions in the sequence as they were appended, and
//   are
//                                   turned further, by place - position
//
// A rule says where the key in a stored row of a head stands, and where a query does that sees that head:
//
//   places_in_list{}                row i of a head stands at i, and the last query at the last row: positions in the
//                                   cache, however many tokens were dropped between the rows
//   given_places(keys, queries)     tensors of integers, [sequence, key head, row] and [sequence, key head, query]
//   places_by{key, query}           functions of extend::attended_place and extend::attending_place
//
// Masks and scores see positions in the sequence all the same. What was stored does not change, so each call may choose
// anew; a logit depends on the difference of two places.
//
// Cost: of each key that is read, once for all query heads that share it, two products of complex numbers and a
// rotation for each pair of channels (key_turns.hpp), and its copy in the accumulation type, a block at a time.
//
// Positions in the cache: Guangxuan Xiao et al.: Efficient Streaming Language Models with Attention Sinks, 2023.
#pragma once

#include "../../cache/key_value_rows.hpp"
#include "key_turns.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Rows stand one after the other, and the last query stands at the last row.
///
///     decode_attention(q, cache, o, rotary_places(position, places_in_list{}));
struct places_in_list {
  static constexpr bool reads_positions = false;

  index_t key(extend::attended_place const& at) const { return at.row; }
  index_t query(extend::attending_place const& at) const {
    return std::max<index_t>(at.stored - (at.keys - at.position), 0);
  }
  extend::key_range reach(extend::problem_shape const& shape) const { return {0, shape.keys - 1}; }
};

/// Places are functions of where keys and queries stand.
///
///     auto const halved = [](auto const& at) { return at.position / 2; };
///     decode_attention(q, cache, o, rotary_places(position, places_by{halved, halved}));
template <class OfKey, class OfQuery>
struct places_by {
  static constexpr bool reads_positions = true;

  OfKey key;
  OfQuery query;
};
template <class OfKey, class OfQuery>
places_by(OfKey, OfQuery) -> places_by<OfKey, OfQuery>;

/// Places are given in tensors of signed integers: keys [sequence, key head, row], queries [sequence, key head, query];
/// an extent of 1 in place of sequences or heads holds for all, and leading axes may be left out. There may be more
/// rows than a head has. The tensors must outlive this.
template <class Integer>
class given_places {
 public:
  static constexpr bool reads_positions = false;

  template <TensorArgument Keys, TensorArgument Queries>
  given_places(Keys const& keys, Queries const& queries)
      : keys_(extend::raise<3>(view_of(keys))), queries_(extend::raise<3>(view_of(queries))) {
    static_assert(std::is_integral_v<Integer> && std::is_signed_v<Integer>,
                  "attend: places are signed integers, of the same type for keys and queries");
    detail::check_view("given_places (keys)", keys_);
    detail::check_view("given_places (queries)", queries_);
  }

  index_t key(extend::attended_place const& at) const { return of(keys_, at.sequence, at.head, at.row); }
  index_t query(extend::attending_place const& at) const { return of(queries_, at.sequence, at.head, at.query); }

  /// Gives the least and the greatest of the places, and throws argument_error where the tensors do not fit so many
  /// sequences, key heads and queries, or a store with more(sequence) tokens more than it has.
  template <KeyValueSource Source, class More>
  extend::key_range check(Source const& source, index_t queries, More const& more) const {
    extend::key_range reach{extend::token_limit, -extend::token_limit};
    check_heads("given_places (keys)", keys_, source);
    check_heads("given_places (queries)", queries_, source);
    detail::check_extent("given_places (queries)", "queries", queries_.extent(2), queries, "query");
    for (index_t s = 0; s < source.sequences(); ++s)
      for (index_t head = 0; head < detail::key_heads_of(source); ++head) {
        index_t const rows = source.stored(s, head * detail::heads_of_key(source)) + more(s);
        if (rows > keys_.extent(2))
          extend::fail("given_places (keys)", "expected at least ", rows, " rows (sequence ", s, ", head ", head,
                       "), got ", keys_.extent(2));
        widen(reach, keys_, s, head, rows);
        widen(reach, queries_, s, head, queries);
      }
    if (reach.first <= -extend::token_limit || reach.last >= extend::token_limit) {
      if (reach.first > reach.last) return {0, -1};
      extend::fail("given_places", "expected places below ", extend::token_limit, " in magnitude, got ",
                   reach.first <= -extend::token_limit ? reach.first : reach.last);
    }
    return reach;
  }

 private:
  using view_type = tensor_view<Integer const, 3>;

  static index_t start(view_type const& all, index_t sequence, index_t head) {
    return (all.extent(0) == 1 ? 0 : sequence * all.stride(0)) + (all.extent(1) == 1 ? 0 : head * all.stride(1));
  }
  static index_t of(view_type const& all, index_t sequence, index_t head, index_t i) {
    return static_cast<index_t>(all.data()[start(all, sequence, head) + i * all.stride(2)]);
  }
  template <class Source>
  static void check_heads(char const* argument, view_type const& all, Source const& source) {
    if (all.extent(0) != 1) detail::check_extent(argument, "sequences", all.extent(0), source.sequences(), "the cache");
    if (all.extent(1) != 1)
      detail::check_extent(argument, "heads", all.extent(1), detail::key_heads_of(source), "the cache's keys");
  }
  static void widen(extend::key_range& reach, view_type const& all, index_t sequence, index_t head, index_t count) {
    Integer const* const from = all.data() + start(all, sequence, head);
    for (index_t i = 0; i < count; ++i) {
      index_t const place = static_cast<index_t>(from[i * all.stride(2)]);
      reach = {std::min(reach.first, place), std::max(reach.last, place)};
    }
  }

  view_type keys_, queries_;
};
template <class Keys, class Queries>
given_places(Keys const&, Queries const&)
    -> given_places<std::remove_const_t<typename decltype(view_of(std::declval<Keys const&>()))::value_type>>;

}  // namespace options

namespace detail {

/// Whether a rule is tensors, for one call.
template <class Rule>
inline constexpr bool gives_places = false;
template <class Integer>
inline constexpr bool gives_places<given_places<Integer>> = true;

/// What rotary_places and rotary_moves share: the engines' side.
template <class Angles, class Rule, bool TurnsFurther>
class placed_rotary {
 public:
  using option_kind = option::position;
  static constexpr bool rotates_keys = true, rotates_as_read = true, places_rows = true, turns_further = TurnsFurther;
  static constexpr bool reads_positions = TurnsFurther || Rule::reads_positions;

  placed_rotary(rotary<Angles> const& settings, Rule rule) : settings_(&settings), rule_(std::move(rule)) {
    static_assert(angles_add<Angles> ||
                      (!TurnsFurther && (requires(Rule const& r, problem_shape const& s) { r.reach(s); } || is_given)),
                  "attend: angles of a table know no difference of positions, nor places of which no one knows how far "
                  "they reach: take rotary_frequencies");
    if (settings.moved()) fail("rotary", "expected the positions of the text, got positions of its own");
  }

  rotary<Angles> const& settings() const { return *settings_; }
  Rule const& rule() const { return rule_; }
  index_t buffer_size() const { return settings_->buffer_size(); }
  /// Whether what was given is for one call as a whole.
  bool moved() const { return is_given; }

  void check(problem_shape const& shape, key_range positions) const {
    if constexpr (requires { rule_.reach(shape); })
      settings_->check_keys(shape.batches, shape.keys, rule_.reach(shape), shape.key_dimension);
    else
      settings_->check_keys(0, 0, positions, shape.key_dimension);
  }
  template <KeyValueSource Source, class More>
  void check_rows(Source const& source, index_t queries, More const& more) const {
    if constexpr (is_given) settings_->angles().check(rule_.check(source, queries, more), source.sequences());
  }

  token_place key_angle(attended_place const& at) const {
    return token_place::on_all_axes(at.batch, rule_.key(at) - (TurnsFurther ? at.position : 0));
  }
  template <class A>
  rotation<A> key_rotation(attended_place const& at, A* buffer) const {
    if constexpr (TurnsFurther)
      return settings_->rotation_by(key_angle(at), buffer);
    else
      return settings_->rotation_at(key_angle(at), buffer);
  }
  template <class A>
  rotation<A> query_rotation(attending_place const& at, A* buffer) const {
    return settings_->rotation_at(token_place::on_all_axes(at.batch, rule_.query(at)), buffer);
  }

 private:
  static constexpr bool is_given = gives_places<Rule>;

  rotary<Angles> const* settings_;
  Rule rule_;
};

/// Whether an option rotates stored rows for places of its own, whatever happened as they were appended.
template <class Option>
inline constexpr bool places_rows = requires { requires std::remove_cvref_t<Option>::places_rows; };

}  // namespace detail

namespace options {

/// Rotates the keys of a cache, which lie unrotated, for the places that a rule gives them, and queries. A cached call
/// then appends keys as they are. The rotary policy must outlive it; masks and scores see positions in the sequence.
///
///     decode_attention(q, cache, o, rotary_places(position, places_in_list{}));
template <RotaryAngles Angles, class Rule>
class rotary_places : public detail::placed_rotary<Angles, Rule, false> {
 public:
  using detail::placed_rotary<Angles, Rule, false>::placed_rotary;
};
template <class Angles, class Rule>
rotary_places(rotary<Angles> const&, Rule) -> rotary_places<Angles, Rule>;

/// Does the same for keys that were rotated for their positions in the sequence as they were appended, by the same
/// policy: they are turned further, from their positions to their places. A cached call appends keys rotated.
///
///     decode_attention(q, cache, o, rotary_moves(position, places_in_list{}));
template <RotaryAngles Angles, class Rule>
class rotary_moves : public detail::placed_rotary<Angles, Rule, true> {
 public:
  using detail::placed_rotary<Angles, Rule, true>::placed_rotary;
};
template <class Angles, class Rule>
rotary_moves(rotary<Angles> const&, Rule) -> rotary_moves<Angles, Rule>;

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
