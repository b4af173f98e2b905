// SPDX-License-Identifier: BSD-3-Clause
// Appending tokens to a key-value store, which is the same for all stores:
//
//   append(sequence, key, value[, rotary])   key [key head, token, key dimension], value [value head, token, value
//                                            dimension]
//   append(key, value[, rotary])             the same number of tokens to every sequence: [sequence, head, token,
//                                            dimension]
//
// With a rotary policy keys are rotated before they are stored: the position of the first new token of a sequence is
// the sequence's size, or what rotary.at(...) says. The angles of a token serve all heads, and rotated keys are rounded
// once, when they are stored.
//
// Appended tensors may have another element type than the store: their elements are rounded, or quantized, once.
// Nothing is allocated. Only one thread may change a store at a time; any number may read it while no thread does.
//
// Appending to several sequences changes all of them or none: all errors are found before anything changes
// (check_append), since some changes cannot be undone (a ring drops tokens, a shared page is copied).
//
// A caller may also append in two steps, to spread the work over threads or to compute keys head by head:
// make_room(sequence, tokens), then write(sequence, head, position, key, value) for each head, or write_keys and
// write_values where keys and values have different numbers of heads.
#pragma once

#include "../core/scratch.hpp"
#include "../policy/position/rotary.hpp"
#include "key_value_rows.hpp"

namespace attend::inline ATTEND_TARGET::detail {

inline void check_sequence(index_t sequence, index_t sequences, char const* argument = "sequence") {
  if (sequence < 0 || sequence >= sequences) fail(argument, "expected from 0 to ", sequences - 1, ", got ", sequence);
}

/// Checks that the positions of `tokens` new tokens are below token_limit.
inline void check_token_limit(index_t sequence, index_t size, index_t tokens, char const* argument) {
  index_t const most = token_limit - 1;
  if (tokens > most - size)
    fail(argument, "expected at most ", most - size, " more tokens (sequence ", sequence, " has ", size, " of ", most,
         "), got ", tokens);
}

/// Tokens that are about to be appended: `count` to each of the sequences [first, last), `group_size` at a time. With a
/// list of sequences, first and last are numbers in the list; with counts, each sequence has its own.
struct new_tokens {
  index_t first, last;
  index_t count, group_size;
  char const* argument;  // the name of the argument that holds them, for error messages
  index_t const* sequences = nullptr;
  index_t const* counts = nullptr;

  index_t sequence(index_t i) const { return sequences ? sequences[i] : i; }
  index_t tokens(index_t i) const { return counts ? counts[i] : count; }
};

/// A store has what a KeyValueSource has, and
///   check_memory(new_tokens)                        throws argument_error where there is no room for all of them
///   grow(sequence, tokens)                          increases the size by `tokens`, for which there is room
///   write_key_rows(sequence, head, position, key)   [token, dimension], of a key head, where all is checked; the first
///                                                   token has this position
///   write_value_rows(sequence, head, position, value)    the same of a value head
///   truncate(sequence, size)
template <class Store>
class appending {
 public:
  /// Appends tokens to one sequence: key [key head, token, key dimension], value [value head, token, value dimension].
  ///
  /// Throws argument_error, before anything is written, where shapes or positions do not fit or where there is no room.
  ///
  ///     cache.append(0, prefix_key, prefix_value);
  template <TensorArgument Keys, TensorArgument Values>
  void append(index_t sequence, Keys const& key, Values const& value) {
    append_one(sequence, key, value, absent{});
  }
  template <TensorArgument Keys, TensorArgument Values, class Angles>
  void append(index_t sequence, Keys const& key, Values const& value, rotary<Angles> const& rotary_option) {
    append_one(sequence, key, value, rotary_option);
  }

  /// Appends the same number of tokens to every sequence: key [sequence, key head, token, key dimension], value
  /// [sequence, value head, token, value dimension].
  ///
  /// Throws argument_error, before anything is written, where shapes or positions do not fit or where there is no room.
  ///
  ///     cache.append(k, v);
  template <TensorArgument Keys, TensorArgument Values>
    requires(!std::integral<Keys>)
  void append(Keys const& key, Values const& value) {
    append_all(key, value, absent{});
  }
  template <TensorArgument Keys, TensorArgument Values, class Angles>
    requires(!std::integral<Keys>)
  void append(Keys const& key, Values const& value, rotary<Angles> const& rotary_option) {
    append_all(key, value, rotary_option);
  }

  /// Throws argument_error where append(key, value) to every sequence would, with or without a rotary policy, for
  /// tokens that are appended `group_size` at a time. Returns views of key and value, [sequence, head, token,
  /// dimension].
  template <TensorArgument Keys, TensorArgument Values, class Rotary = absent>
  auto check_append(Keys const& key, Values const& value, index_t group_size, Rotary const& rotary_option = {}) const {
    index_t const sequences = self().sequences();
    auto const both = checked(key, value, sequences);
    index_t const tokens = both.first.extent(2);
    key_range sizes{token_limit, 0};
    for (index_t sequence = 0; sequence < sequences; ++sequence) {
      index_t const size = self().size(sequence);
      sizes = {std::min(sizes.first, size), std::max(sizes.last, size)};
    }
    check_rotary(rotary_option, sequences, {sizes.first, sizes.last + tokens - 1}, tokens);
    check_room({0, sequences, tokens, group_size, "key"});
    return both;
  }

  /// Throws argument_error where there is no room for these tokens.
  void check_room(new_tokens const& asked) const {
    for (index_t i = asked.first; i < asked.last; ++i) {
      index_t const sequence = asked.sequence(i), tokens = asked.tokens(i);
      if (tokens < 0) fail(asked.argument, "expected at least 0 more tokens, got ", tokens);
      check_token_limit(sequence, self().size(sequence), tokens, asked.argument);
    }
    self().check_memory(asked);
  }

  /// Grows a sequence by tokens that are not written yet. Throws argument_error, which names `argument`, where there is
  /// no room; nothing has changed then.
  void make_room(index_t sequence, index_t tokens, char const* argument = "key") {
    check_sequence(sequence, self().sequences());
    check_room({sequence, sequence + 1, tokens, tokens, argument});
    self().grow(sequence, tokens);
  }

  /// Writes tokens of one key-value head, for which make_room() has made room: key [token, key dimension], value
  /// [token, value dimension]; the first token has position `position`. Throws argument_error, before anything is
  /// written, where shapes or positions do not fit.
  template <Element K, Element V>
  void write(index_t sequence, index_t head, index_t position, tensor_view<K const, 2> const& key,
             tensor_view<V const, 2> const& value) {
    arithmetic_mode const arithmetic;
    check_sequence(sequence, self().sequences());
    check_sequence(head, self().key_value_heads(), "head");
    check_rows("key", key, self().key_dimension());
    check_rows("value", value, self().value_dimension());
    check_extent("value", "tokens", value.extent(0), key.extent(0), "key");
    check_position(sequence, position, key.extent(0));
    self().write_key_rows(sequence, head / heads_of_key(self()), position, key);
    self().write_value_rows(sequence, head / heads_of_value(self()), position, value);
  }

  /// The same for the keys of one key head alone, and for the values of one value head.
  template <Element K>
  void write_keys(index_t sequence, index_t head, index_t position, tensor_view<K const, 2> const& key) {
    arithmetic_mode const arithmetic;
    check_sequence(sequence, self().sequences());
    check_sequence(head, key_heads_of(self()), "head");
    check_rows("key", key, self().key_dimension());
    check_position(sequence, position, key.extent(0));
    self().write_key_rows(sequence, head, position, key);
  }
  template <Element V>
  void write_values(index_t sequence, index_t head, index_t position, tensor_view<V const, 2> const& value) {
    arithmetic_mode const arithmetic;
    check_sequence(sequence, self().sequences());
    check_sequence(head, value_heads_of(self()), "head");
    check_rows("value", value, self().value_dimension());
    check_position(sequence, position, value.extent(0));
    self().write_value_rows(sequence, head, position, value);
  }

 protected:
  void check_size(index_t sequence, index_t size) const {
    check_sequence(sequence, self().sequences());
    if (size < 0 || size > self().size(sequence))
      fail("size", "expected from 0 to ", self().size(sequence), " (the tokens), got ", size);
  }

 private:
  Store const& self() const { return static_cast<Store const&>(*this); }
  Store& self() { return static_cast<Store&>(*this); }

  template <class Rows>
  void check_rows(char const* argument, Rows const& rows, index_t dimension) const {
    check_view(argument, rows);
    check_extent(argument, "head dimension", rows.extent(1), dimension, "the cache");
  }

  /// Throws argument_error where the sequence has not these positions.
  void check_position(index_t sequence, index_t position, index_t tokens) const {
    index_t const size = self().size(sequence);
    if (position < 0 || position > size - tokens)
      fail("position", "expected ", tokens, " tokens within the ", size, " of sequence ", sequence, ", got ", position);
  }

  template <class Keys, class Values, class Rotary>
  void append_one(index_t sequence, Keys const& key, Values const& value, Rotary const& rotary_option) {
    arithmetic_mode const arithmetic;
    check_sequence(sequence, self().sequences());
    auto const [k, v] = checked(key, value, 1);
    index_t const first = self().size(sequence), tokens = k.extent(2);
    check_rotary(rotary_option, 1, {first, first + tokens - 1}, tokens);
    make_room(sequence, tokens);
    write_heads(sequence, 0, first, k, v, rotary_option);
  }

  template <class Keys, class Values, class Rotary>
  void append_all(Keys const& key, Values const& value, Rotary const& rotary_option) {
    arithmetic_mode const arithmetic;
    index_t const tokens = raise<4>(view_of(key)).extent(2);
    auto const [k, v] = check_append(key, value, tokens, rotary_option);
    for (index_t s = 0; s < self().sequences(); ++s) {
      index_t const first = self().size(s);
      self().grow(s, tokens);
      write_heads(s, s, first, k, v, rotary_option);
    }
  }

  template <class Rotary>
  void check_rotary(Rotary const& rotary_option, index_t batches, key_range positions, index_t tokens) const {
    if constexpr (!std::same_as<Rotary, absent>)
      rotary_option.check_keys(batches, tokens, positions, self().key_dimension());
  }

  /// Checks key and value, and returns views of them, [sequence, head, token, dimension].
  template <class Keys, class Values>
  auto checked(Keys const& key, Values const& value, index_t sequences) const {
    using T = std::remove_const_t<element_of_t<Keys const>>;
    static_assert(Element<T> && std::same_as<std::remove_const_t<element_of_t<Values const>>, T>,
                  "attend: keys and values that are appended have one element type: float, double, half or bfloat16");
    static_assert(std::same_as<accumulation_t<T>, storage_accumulation_t<typename Store::key_element>> &&
                      std::same_as<accumulation_t<T>, storage_accumulation_t<typename Store::value_element>>,
                  "attend: a cache of double takes tensors of double, and no other cache does");
    std::pair<tensor_view<T const, 4>, tensor_view<T const, 4>> const both{raise<4>(view_of(key)),
                                                                           raise<4>(view_of(value))};
    auto const& [k, v] = both;
    check_view("key", k);
    check_extent("key", "sequences", k.extent(0), sequences, "the cache");
    check_extent("key", "heads", k.extent(1), key_heads_of(self()), "the cache");
    check_extent("key", "head dimension", k.extent(3), self().key_dimension(), "the cache");
    check_view("value", v);
    check_extent("value", "sequences", v.extent(0), sequences, "the cache");
    check_extent("value", "heads", v.extent(1), value_heads_of(self()), "the cache");
    check_extent("value", "tokens", v.extent(2), k.extent(2), "key");
    check_extent("value", "head dimension", v.extent(3), self().value_dimension(), "the cache");
    return both;
  }

  /// Writes batch `from` of the tensors to the tokens of a sequence from `position` on.
  template <class T, class Rotary>
  void write_heads(index_t sequence, index_t from, index_t position, tensor_view<T, 4> const& key,
                   tensor_view<T, 4> const& value, Rotary const& rotary_option) {
    auto const tokens_of = [from](tensor_view<T, 4> const& all, index_t head, index_t first, index_t count) {
      return tensor_view<T, 2>(all.data() + from * all.stride(0) + head * all.stride(1) + first * all.stride(2),
                               {count, all.extent(3)}, {all.stride(2), all.stride(3)});
    };
    index_t const heads = key.extent(1), tokens = key.extent(2), dimension = key.extent(3);
    for (index_t head = 0; head < value.extent(1); ++head)
      self().write_value_rows(sequence, head, position, tokens_of(value, head, 0, tokens));
    if constexpr (std::same_as<Rotary, absent>) {
      for (index_t head = 0; head < heads; ++head)
        self().write_key_rows(sequence, head, position, tokens_of(key, head, 0, tokens));
    } else {
      using A = accumulation_t<std::remove_const_t<T>>;
      constexpr index_t group_size = 16;
      scratch memory;
      A* const rows = memory.allocate<A>(group_size * dimension);
      A* const angles = memory.allocate<A>(group_size * rotary_option.buffer_size());
      rotation<A> turn[group_size];
      for (index_t first = 0; first < tokens; first += group_size) {
        index_t const count = std::min(group_size, tokens - first);
        for (index_t t = 0; t < count; ++t)
          turn[t] = rotary_option.key_rotation({from, first + t, position + first + t},
                                               angles + t * rotary_option.buffer_size());
        for (index_t head = 0; head < heads; ++head) {
          auto const unrotated = tokens_of(key, head, first, count);
          for (index_t t = 0; t < count; ++t)
            turn[t].apply(unrotated.data() + t * unrotated.stride(0), rows + t * dimension, dimension);
          self().write_key_rows(sequence, head, position + first, tensor_view<A const, 2>(rows, {count, dimension}));
        }
      }
    }
  }
};

}  // namespace attend::inline ATTEND_TARGET::detail
