// SPDX-License-Identifier: BSD-3-Clause
// Sequences of a store as bytes, to be kept elsewhere (another memory, a file) while they are not attended to.
//
//   saved_bytes(cache, sequence)    how many bytes that takes
//   save(cache, sequence, bytes)    writes them
//   load(cache, sequence, bytes)    gives them to an empty sequence, of this cache or of another one
//
// and the same without a number of a sequence, for all of them. Rows are copied as the store has them: attention to the
// sequence has the same bits before and after, and nothing is encoded again. A sequence is its tokens, whatever memory
// they are in: one of pages of 16 tokens may be read into pages of 128, or into a contiguous_cache. Stores that drop
// tokens keep all that is not dropped, so that truncating works as before. What sequences share is saved with each.
//
// A saved sequence, in the order of bytes of the machine that wrote it:
//
//   saved_header                  what it is, its size, a checksum of all that follows, and the shape of the store
//   [key-value head]              which of the stores beneath has the head (head_policy_cache has two)
//   then for each of the stores beneath
//     saved_part                  its shape, which of the tokens it has, and how many its sums stand for
//     [key head, key dimension]   channel scales, if there are any
//     [key head, token]           keys, and behind those of each head their scales, if elements have them
//     [value head, token]         values, in the same way
//     [head, key + value]         sums of what was dropped, in double (compensated.hpp)
//
// An evicting_cache has lists of tokens (evicting.hpp), and behind the channel scales
//
//   the size at which it last evicted, and the number of tokens of each list
//   then for each list: positions, scores, and its heads' keys and values as above
//
// Cost: each byte is read and written once, and once more for the checksum. Nothing is allocated.
#pragma once

#include "row_store.hpp"
#include "saved_format.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// Sums that stand for dropped tokens of a sequence, and of how many; null where a store has none.
template <class Count = index_t, class Sum = double>
struct saved_sums {
  Count* count = nullptr;
  std::span<Sum> numbers = {};
};
template <class Count, class Sum>
saved_sums(Count*, std::span<Sum>) -> saved_sums<Count, Sum>;

/// What a store consists of, in the order in which it is saved; it is a friend of the stores.
struct saved_parts {
  static constexpr row_part row_parts[] = {row_part::key, row_part::key_scale, row_part::value, row_part::value_scale};

  /// Whether a store keeps a list of tokens for each head, at positions of their own.
  template <class Rows>
  static constexpr bool has_lists = requires(Rows const& rows) { rows.evicted_at_; };

  /// Calls visit(rows, sums) for each of the stores of rows beneath a store.
  template <class Store, class Visit>
  static void for_each(Store& store, [[maybe_unused]] index_t sequence, Visit const& visit) {
    if constexpr (requires { store.streaming_heads(); }) {
      for_each(store.full_, sequence, visit);
      for_each(store.streaming_, sequence, visit);
    } else if constexpr (requires { store.compensated(0); }) {
      index_t const sums = store.key_value_heads() * (store.key_dimension() + store.value_dimension());
      visit(store.rolling_,
            saved_sums{store.dropped_.data() + sequence, std::span(store.sums(sequence, 0), array_size(sums))});
    } else if constexpr (requires { store.shape().latent_dimension; }) {
      for_each(store.rows_, sequence, visit);
    } else {
      using Own = std::remove_const_t<Store>;
      static_assert(has_lists<Own> ||
                        std::derived_from<Own, row_store<Own, typename Own::key_element, typename Own::value_element>>,
                    "attend: this store cannot be saved: contiguous, paged, evicting, rolling, compensated, latent and "
                    "head_policy "
                    "caches can");
      visit(store, saved_sums<>{});
    }
  }

  /// The number of the store of rows that has a head.
  template <class Store>
  static std::int64_t part_of(Store const& store, index_t head) {
    if constexpr (requires { store.streaming_heads(); })
      return store.streams_[head];
    else
      return 0;
  }

  template <class Store>
  static saved_shape shape_of(Store const& store) {
    saved_shape shape{element_number<typename Store::key_element>,
                      element_number<typename Store::value_element>,
                      key_heads_of(store),
                      value_heads_of(store),
                      store.key_dimension(),
                      store.value_dimension()};
    for_each(store, 0, [&](auto const&, auto const&) { ++shape[saved_shape_at::stores]; });
    if constexpr (requires { store.memory_; })
      shape[saved_shape_at::channel_scales] = store.memory_.channel_scales() != nullptr;
    shape[saved_shape_at::lists] = has_lists<Store>;
    if constexpr (requires { store.state_; }) {
      shape[saved_shape_at::sinks] = store.mask().sinks;
      shape[saved_shape_at::window] = store.mask().window;
      shape[saved_shape_at::chunk] = store.chunk();
    }
    return shape;
  }

  template <class Rows>
  static sequence_state state_of(Rows const& rows, index_t sequence) {
    if constexpr (requires { rows.state_; })
      return rows.state_[sequence];
    else
      return {rows.size(sequence), rows.size(sequence), 0};
  }

  /// Makes an empty sequence one with this state, whose rows are not written yet.
  template <class Rows>
  static void set_state(Rows& rows, index_t sequence, sequence_state const& state) {
    if constexpr (requires { rows.state_; })
      rows.state_[sequence] = state;
    else if constexpr (has_lists<Rows>)
      rows.sizes_[sequence] = state.size;
    else
      rows.make_room(sequence, state.size);
  }

  /// The numbers that describe the lists of a sequence: the size at which it last evicted, and how many tokens each
  /// has.
  template <class Rows, class Visit>
  static void for_lists(Rows& rows, index_t sequence, Visit const& visit) {
    index_t const sets = rows.memory_.sets();
    visit(std::as_bytes(std::span(rows.evicted_at_.data() + sequence, 1)));
    visit(std::as_bytes(std::span(rows.counts_.data() + sequence * sets, array_size(sets))));
  }

  /// Reads these numbers and the lists' positions behind them, checks them, and skips their rows. `pages` are those
  /// that sequences before take from the pool, and then those that this one takes too.
  template <class Rows>
  static void check_lists(Rows const& rows, index_t size, saved_reader& from, index_t& pages) {
    auto const evicted_at = from.take<index_t>();
    if (evicted_at < 0 || evicted_at > size)
      fail("saved", "expected eviction at 0 to ", size, " tokens, got ", evicted_at);
    saved_reader counts(from.take(rows.memory_.sets(), sizeof(index_t)));
    for (index_t list = 0; list < rows.memory_.sets(); ++list) {
      auto const count = counts.take<index_t>();
      if (count < 0 || count > size || count > rows.lists_.max_rows())
        fail("saved", "expected lists of 0 to ", std::min(size, rows.lists_.max_rows()), " tokens, got ", count, " at ",
             list);
      pages += rows.lists_.pages_of(count);
      saved_reader positions(from.take(count, sizeof(std::int32_t)));
      for (std::int32_t i = 0, least = 0; i < count; ++i) {
        auto const position = positions.take<std::int32_t>();
        if (position < least || position >= size)
          fail("saved", "expected ascending positions below ", size, " (tokens), got ", position, " at ", i);
        least = position + 1;
      }
      from.take(count, sizeof(float));
      for (row_part const piece : row_parts)
        from.take(count * rows.memory_.in_slot(rows.memory_.heads_of(piece)), rows.memory_.row_bytes(piece));
    }
    if (pages > rows.free_pages())
      fail("saved", "expected at most ", rows.free_pages(), " pages of ", rows.page_tokens(),
           " tokens of a list (those that are free), got ", pages);
  }

  /// Calls visit(bytes) for the positions, scores, keys and values of the lists of a sequence.
  template <class Rows, class Visit>
  static void for_listed_rows(Rows& rows, index_t sequence, Visit const& visit) {
    index_t const sets = rows.memory_.sets();
    auto const bytes_of = [](auto& numbers, slot_run const& run) {
      auto const part = std::span(numbers.data() + run.slot, array_size(run.count));
      if constexpr (std::is_const_v<Rows>)
        return std::as_bytes(part);
      else
        return std::as_writable_bytes(part);
    };
    for (index_t list = sequence * sets; list < (sequence + 1) * sets; ++list) {
      auto const for_runs = [&](auto const& of_run) {
        for (index_t row = 0; row < rows.counts_[list];) {
          slot_run const run = rows.slots(list, row);
          of_run(run);
          row += run.count;
        }
      };
      for_runs([&](slot_run const& run) { visit(bytes_of(rows.position_, run)); });
      for_runs([&](slot_run const& run) { visit(bytes_of(rows.score_, run)); });
      for (row_part const piece : row_parts)
        for (index_t head = 0; head < rows.memory_.in_slot(rows.memory_.heads_of(piece)); ++head)
          for_runs([&](slot_run const& run) {
            visit(rows.memory_.bytes_of(rows.memory_, piece, 0, head, run.slot, run.count));
          });
    }
  }

  /// Whether a sequence can have this state, and this number of tokens in its sums.
  template <class Rows, class Sums>
  static bool is_possible(Rows const& rows, sequence_state const& state, Sums const& sums, std::int64_t summed) {
    if constexpr (requires { rows.state_; }) {
      if (!rows.is_possible(state)) return false;
      auto const& kept = rows.mask();
      if (sums.count)
        return summed >= 0 && (summed == 0 || summed <= state.size - kept.sinks - kept.window) &&
               state.oldest <= kept.sinks + summed;
    } else if (state.reach != state.size || state.oldest != 0) {
      return false;
    }
    return summed == 0;
  }

  /// Calls visit(first, count) for the positions of the tokens that are in memory.
  template <class Rows, class Visit>
  static void for_positions(Rows const& rows, sequence_state const& state, Visit const& visit) {
    if constexpr (requires { rows.state_; }) visit(index_t{0}, std::min(rows.mask().sinks, state.size));
    visit(state.oldest, std::max<index_t>(0, state.size - state.oldest));
  }

  /// Calls visit(bytes) for the memory of a sequence's rows, which is constant where the store is.
  template <class Rows, class Visit>
  static void for_rows(Rows& rows, index_t sequence, Visit const& visit) {
    if constexpr (has_lists<std::remove_const_t<Rows>>) {
      for_listed_rows(rows, sequence, visit);
    } else {
      auto& memory = rows.memory_;
      auto const of_head = [&](row_part part, index_t head) {
        for_positions(rows, state_of(rows, sequence), [&](index_t position, index_t count) {
          rows.for_slots(sequence, position, count, [&](slot_run const& run, index_t) {
            visit(memory.bytes_of(memory, part, run.block, head, run.slot, run.count));
          });
        });
      };
      for (index_t head = 0; head < rows.key_heads(); ++head)
        of_head(row_part::key, head), of_head(row_part::key_scale, head);
      for (index_t head = 0; head < rows.value_heads(); ++head)
        of_head(row_part::value, head), of_head(row_part::value_scale, head);
    }
  }

  /// The channel scales of a store; none where all are 1.
  template <class Rows>
  static std::span<std::byte const> channel_scales(Rows const& rows) {
    float const* const scales = rows.memory_.channel_scales();
    return std::as_bytes(std::span(scales, scales ? array_size(rows.key_heads() * rows.key_dimension()) : 0));
  }

  /// Calls visit(bytes) for all that a saved sequence consists of; the header has no size and checksum yet.
  template <class Store, class Visit>
  static void for_bytes(Store const& store, index_t sequence, index_t together, Visit const& visit) {
    auto const visit_number = [&](auto const& number) { visit(std::as_bytes(std::span(&number, 1))); };
    saved_header header;
    header.sequences = together;
    header.size = store.size(sequence);
    header.shape = shape_of(store);
    visit_number(header);
    for (index_t head = 0; head < store.key_value_heads(); ++head) visit_number(part_of(store, head));
    for_each(store, sequence, [&](auto const& rows, auto const& sums) {
      sequence_state const state = state_of(rows, sequence);
      visit_number(saved_part{shape_of(rows), state.reach, state.oldest, sums.count ? *sums.count : 0});
      visit(channel_scales(rows));
      if constexpr (has_lists<std::remove_cvref_t<decltype(rows)>>) for_lists(rows, sequence, visit);
      for_rows(rows, sequence, visit);
      visit(std::as_bytes(sums.numbers));
    });
  }

  /// Writes a sequence, and returns how many bytes it takes.
  template <class Store>
  static index_t write(Store const& store, index_t sequence, index_t together, std::span<std::byte> to) {
    index_t bytes = 0;
    for_bytes(store, sequence, together, [&](std::span<std::byte const> part) {
      if (!part.empty()) std::memcpy(to.data() + bytes, part.data(), part.size());
      bytes += std::ssize(part);
    });
    auto header = saved_reader(to).take<saved_header>();
    header.bytes = bytes;
    std::memcpy(to.data(), &header, sizeof(header));
    std::size_t const begin = offsetof(saved_header, bytes);
    header.checksum = checksum(to.subspan(begin, array_size(bytes) - begin));
    std::memcpy(to.data(), &header, sizeof(header));
    return bytes;
  }

  /// Checks that a saved sequence, whose header is checked, fits the store, but for the room that it needs where that
  /// follows from its size (check_room). `pages` counts those of lists.
  template <class Store>
  static void check(Store const& store, index_t sequence, saved_header const& header, std::span<std::byte const> bytes,
                    [[maybe_unused]] index_t& pages) {
    saved_reader from(bytes.first(static_cast<std::size_t>(header.bytes)));
    from.take<saved_header>();
    check_saved_shape(header.shape, shape_of(store));
    for (index_t head = 0; head < store.key_value_heads(); ++head)
      if (auto const got = from.take<std::int64_t>(), expected = part_of(store, head); got != expected)
        fail("saved", "expected a ", expected ? "streaming" : "retrieval", " head (as the cache), got another one at ",
             head);
    for_each(store, sequence, [&](auto const& rows, auto const& sums) {
      auto const part = from.take<saved_part>();
      check_saved_shape(part.shape, shape_of(rows));
      std::span<std::byte const> const scales = channel_scales(rows), got = from.take(std::ssize(scales), 1);
      if (!std::equal(got.begin(), got.end(), scales.begin()))
        fail("saved", "expected the channel scales of the cache, got others");
      sequence_state const state{static_cast<index_t>(header.size), static_cast<index_t>(part.reach),
                                 static_cast<index_t>(part.oldest)};
      if (!is_possible(rows, state, sums, part.summed))
        fail("saved", "expected a state that a sequence of the cache can have, got ", header.size, " tokens, ",
             part.reach, " to attend to, ", part.oldest, " the oldest, ", part.summed, " in sums");
      if constexpr (has_lists<std::remove_cvref_t<decltype(rows)>>) {
        check_lists(rows, state.size, from, pages);
      } else {
        index_t tokens = 0;
        for_positions(rows, state, [&](index_t, index_t count) { tokens += count; });
        for (row_part const piece : row_parts)
          for (index_t head = 0; head < rows.memory_.heads_of(piece); ++head)
            from.take(tokens, rows.memory_.row_bytes(piece));
      }
      from.take(std::ssize(sums.numbers), sizeof(double));
    });
    if (from.left() > 0) fail("saved", "expected no bytes behind those of the tokens, got ", from.left());
  }

  /// Reads a sequence that is checked, for which there is room.
  template <class Store>
  static void read(Store& store, index_t sequence, saved_header const& header, std::span<std::byte const> bytes) {
    saved_reader from(bytes);
    from.take<saved_header>();
    from.take(store.key_value_heads(), sizeof(std::int64_t));
    auto const read_into = [&](std::span<std::byte> to) {
      if (!to.empty()) std::memcpy(to.data(), from.take(std::ssize(to), 1).data(), to.size());
    };
    for_each(store, sequence, [&](auto& rows, auto const& sums) {
      auto const part = from.take<saved_part>();
      from.take(std::ssize(channel_scales(rows)), 1);
      set_state(
          rows, sequence,
          {static_cast<index_t>(header.size), static_cast<index_t>(part.reach), static_cast<index_t>(part.oldest)});
      if constexpr (has_lists<std::remove_cvref_t<decltype(rows)>>) {
        rows.evicted_at_[sequence] = from.take<index_t>();
        for (index_t set = 0, list = sequence * rows.memory_.sets(); set < rows.memory_.sets(); ++set, ++list) {
          rows.counts_[list] = from.take<index_t>();
          rows.lists_.resize(list, 0, rows.counts_[list]);
        }
      }
      for_rows(rows, sequence, read_into);
      if (sums.count) *sums.count = static_cast<index_t>(part.summed);
      read_into(std::as_writable_bytes(sums.numbers));
    });
  }

  /// Throws argument_error where a store has no room for tokens.
  template <class Store>
  static void check_room(Store const& store, new_tokens const& asked) {
    for_each(store, 0, [&](auto const& rows, auto const&) {
      if constexpr (!has_lists<std::remove_cvref_t<decltype(rows)>>) rows.check_room(asked);
    });
  }
};

inline void check_saved_memory(index_t expected, std::span<std::byte> to) {
  if (std::ssize(to) < expected) fail("to", "expected at least ", expected, " bytes, got ", to.size());
}

template <class Store>
void check_is_empty(Store const& store, index_t sequence) {
  if (store.size(sequence) != 0)
    fail("sequence", "expected an empty sequence, got one of ", store.size(sequence), " tokens at ", sequence);
}

}  // namespace detail

namespace caches {

/// How many bytes save(cache, sequence, to) writes. Throws argument_error for a sequence that the cache does not have.
///
///     index_t const size = saved_bytes(cache, 0);
template <KeyValueSource Store>
index_t saved_bytes(Store const& cache, index_t sequence) {
  detail::check_sequence(sequence, cache.sequences());
  index_t bytes = 0;
  detail::saved_parts::for_bytes(cache, sequence, 1, [&](auto const& part) { bytes += std::ssize(part); });
  return bytes;
}

/// How many bytes save(cache, to) writes: those of all sequences.
///
///     index_t const size = saved_bytes(cache);
template <KeyValueSource Store>
index_t saved_bytes(Store const& cache) {
  index_t bytes = 0;
  for (index_t s = 0; s < cache.sequences(); ++s) bytes += saved_bytes(cache, s);
  return bytes;
}

/// Writes a sequence of a contiguous, paged, evicting, rolling, compensated, latent or head_policy cache to the first
/// saved_bytes(cache, sequence) bytes of `to`, and returns how many these are. The cache stays as it is: truncate(0)
/// then frees the memory of the sequence. Throws argument_error, before anything is written, for a sequence that the
/// cache does not have, and where `to` has fewer bytes.
///
///     std::vector<std::byte> bytes(static_cast<std::size_t>(saved_bytes(cache, 0)));
///     save(cache, 0, bytes);
///     cache.truncate(0, 0);
///     load(cache, 0, bytes);
template <KeyValueSource Store>
index_t save(Store const& cache, index_t sequence, std::span<std::byte> to) {
  detail::check_saved_memory(saved_bytes(cache, sequence), to);
  return detail::saved_parts::write(cache, sequence, 1, to);
}

/// Writes all sequences to the first saved_bytes(cache) bytes of `to`, one after the other, and returns how many these
/// are. Each may also be read by itself, at its place. Throws argument_error, before anything is written, where `to`
/// has fewer bytes.
///
///     std::vector<std::byte> bytes(static_cast<std::size_t>(saved_bytes(cache)));
///     save(cache, bytes);
template <KeyValueSource Store>
index_t save(Store const& cache, std::span<std::byte> to) {
  detail::check_saved_memory(saved_bytes(cache), to);
  index_t bytes = 0;
  for (index_t s = 0; s < cache.sequences(); ++s)
    bytes += detail::saved_parts::write(cache, s, cache.sequences(), to.subspan(extend::array_size(bytes)));
  return bytes;
}

/// Reads a sequence that `saved` begins with into the empty sequence of a cache, and returns how many bytes it has. The
/// cache has the element types, heads, dimensions and channel scales of the one that was saved; and sinks, window and
/// chunk, if it drops tokens. Its memory may be another one: pages of another size, a contiguous_cache for a
/// paged_cache.
///
/// Throws argument_error where the cache has another shape or no room for the tokens, where the sequence has tokens
/// already, and where bytes are missing, changed, or not those that save() wrote on a machine of this byte order; the
/// cache is then unchanged. The checksum finds damage; it does not tell who wrote the bytes.
///
///     std::vector<std::byte> bytes(static_cast<std::size_t>(saved_bytes(cache, 0)));
///     save(cache, 0, bytes);
///     cache.truncate(0, 0);
///     load(cache, 0, bytes);
template <KeyValueSource Store>
index_t load(Store& cache, index_t sequence, std::span<std::byte const> saved) {
  detail::check_sequence(sequence, cache.sequences());
  detail::check_is_empty(cache, sequence);
  auto const header = detail::check_saved(saved);
  index_t pages = 0;
  detail::saved_parts::check(cache, sequence, header, saved, pages);
  index_t const size = static_cast<index_t>(header.size);
  detail::saved_parts::check_room(cache, {sequence, sequence + 1, size, size, "saved"});
  detail::saved_parts::read(cache, sequence, header, saved);
  return static_cast<index_t>(header.bytes);
}

/// Reads all sequences, as save(cache, to) wrote them, into a cache of as many sequences, which are all empty, and
/// returns how many bytes they have. What sequences shared they no longer share, so that they may need more pages than
/// before. Throws argument_error as load(cache, sequence, saved) does, and where another number of sequences was saved;
/// the cache is then unchanged.
///
///     std::vector<std::byte> bytes(static_cast<std::size_t>(saved_bytes(cache)));
///     save(cache, bytes);
///     for (index_t s = 0; s < cache.sequences(); ++s) cache.truncate(s, 0);
///     load(cache, bytes);
template <KeyValueSource Store>
index_t load(Store& cache, std::span<std::byte const> saved) {
  extend::scratch memory;
  index_t const sequences = cache.sequences();
  index_t* const sizes = memory.allocate<index_t>(sequences);
  // First all are checked, then all are read.
  auto const for_saved = [&](auto const& visit) {
    index_t bytes = 0;
    for (index_t s = 0; s < sequences; ++s) {
      auto const from = saved.subspan(extend::array_size(bytes));
      auto const header = visit(s, from);
      bytes += static_cast<index_t>(header.bytes);
    }
    return bytes;
  };
  index_t pages = 0;
  for_saved([&](index_t s, std::span<std::byte const> from) {
    detail::check_is_empty(cache, s);
    auto const header = detail::check_saved(from);
    if (header.sequences != sequences)
      extend::fail("saved", "expected sequences ", sequences, " (as the cache), got ", header.sequences);
    detail::saved_parts::check(cache, s, header, from, pages);
    sizes[s] = static_cast<index_t>(header.size);
    return header;
  });
  detail::saved_parts::check_room(cache, {0, sequences, 0, 0, "saved", nullptr, sizes});
  return for_saved([&](index_t s, std::span<std::byte const> from) {
    auto const header = detail::saved_reader(from).take<detail::saved_header>();
    detail::saved_parts::read(cache, s, header, from);
    return header;
  });
}

}  // namespace caches

}  // namespace attend::inline ATTEND_TARGET
