// SPDX-License-Identifier: BSD-3-Clause
// A cache from which tokens are evicted, by each key-value head those that it can do without: so heads keep different
// numbers of tokens, in pages of one pool.
//
//   list (sequence, head)    its kept tokens in ascending order of their positions, in pages of page_lists.hpp
//   slot                     a key, a value, the position of their token, and a score
//
// Evicting moves the rows that stay to the beginning of the list, in their order (stable compaction), and gives back
// the pages that become empty. Nothing is encoded again, and positions stay those in the whole sequence: masks, scores
// and rotations that depend on positions see what was appended. The score of a row is a number that the caller adds to,
// such as the weights that attention gave to the token so far; it moves with the row.
//
// Heads that share keys or values keep the same tokens: 4 key heads and 16 value heads have 4 lists, and a slot has the
// rows of all of a list's heads.
//
// A fork shares the pages of a sequence. A list that evicts, appends to a page or changes scores first copies those of
// the pages it writes to that others have too (copy on write); what stays before them stays shared.
//
// Attention that asks for no positions, as a decoding step, reads the rows of a list in full blocks, whatever was
// evicted between them. Otherwise it reads runs of consecutive positions: many queries at once are slow where what is
// kept is scattered.
//
// Memory: the pool, 8 bytes for each slot beside its key and value, and 4 for each page of each list. Cost of an
// eviction: the bytes of those rows that stay behind the first one that goes, read and written once, in constant
// memory.
//
// Suyu Ge et al.: Model Tells You What to Discard: Adaptive KV Cache Compression for LLMs, 2023 (lengths by head).
#pragma once

#include <numeric>
#include <span>

#include "../core/executor.hpp"
#include "../core/index_list.hpp"
#include "../core/order.hpp"
#include "eviction.hpp"
#include "page_lists.hpp"

namespace attend::inline ATTEND_TARGET {

namespace caches {

/// Keys and values of the tokens that each head keeps, of any element type.
///
///     index_t const budget = index_t{1} << 20, page = evicting_cache<bfloat16>::page_bytes(shape, 16);
///     evicting_cache<bfloat16> kept(shape, {.pages = budget / page, .page_tokens = 16});
///     std::vector<int> const rows{3, 5};
///     kept.append(k, v);
///     kept.evict(0, 1, rows);  // sequence, head
template <StorageElement Key, StorageElement Value = Key>
class evicting_cache : public detail::appending<evicting_cache<Key, Value>> {
 public:
  using key_element = Key;
  using value_element = Value;

  /// Allocates all memory of the cache; a page has rows of one head of one sequence. `channel_scales` [head, key
  /// dimension] are for quantized keys; by default there are none. Throws argument_error for a negative extent, for
  /// pages without tokens, and where the product does not fit in memory.
  evicting_cache(cache_shape const& shape, paging const& pool, tensor_view<float const, 2> channel_scales = {})
      : memory_(name, shape, 1, detail::page_lists::slots(name, pool), channel_scales, detail::slots_of::any_head),
        lists_(name, shape.sequences * memory_.sets(), pool),
        position_(name, std::array{pool.pages, pool.page_tokens}),
        score_(name, std::array{pool.pages, pool.page_tokens}),
        counts_(name, std::array{shape.sequences, memory_.sets()}),
        sizes_(name, std::array{shape.sequences}),
        evicted_at_(name, std::array{shape.sequences}) {
    std::fill_n(counts_.data(), counts_.size(), 0);
    std::fill_n(sizes_.data(), sizes_.size(), 0);
    std::fill_n(evicted_at_.data(), evicted_at_.size(), 0);
  }

  index_t sequences() const { return shape().sequences; }
  index_t key_value_heads() const { return shape().key_value_heads; }
  index_t key_heads() const { return shape().key_heads; }
  index_t value_heads() const { return shape().value_heads; }
  /// How many consecutive key-value heads keep the same tokens, since they share keys or values: 1 where heads of keys
  /// and of values are as many.
  index_t heads_together() const { return key_value_heads() / std::max<index_t>(memory_.sets(), 1); }
  index_t key_dimension() const { return shape().key_dimension; }
  index_t value_dimension() const { return shape().value_dimension; }
  cache_shape const& shape() const { return memory_.shape(); }
  index_t size(index_t sequence) const { return sizes_[sequence]; }
  index_t stored(index_t sequence, index_t head) const { return counts_[list_of(sequence, head)]; }
  /// How many tokens a sequence has had since a policy last evicted some of it.
  index_t since_eviction(index_t sequence) const { return sizes_[sequence] - evicted_at_[sequence]; }

  index_t page_tokens() const { return lists_.page_rows(); }
  index_t pages() const { return lists_.pages(); }
  index_t free_pages() const { return lists_.free_pages(); }
  index_t used_pages() const { return pages() - free_pages(); }
  /// The size of the store's memory in bytes: all of its pages, and the lists.
  index_t bytes() const {
    return memory_.bytes() + lists_.bytes() + position_.bytes() + score_.bytes() + counts_.bytes() + sizes_.bytes() +
           evicted_at_.bytes();
  }
  /// The bytes of a page of a pool, which has tokens of one list, for the number of pages that a budget pays for.
  static index_t page_bytes(cache_shape const& shape, index_t page_tokens = paging{}.page_tokens) {
    index_t const keys = shape.key_heads > 0 ? shape.key_heads : shape.key_value_heads;
    index_t const values = shape.value_heads > 0 ? shape.value_heads : shape.key_value_heads;
    index_t const sets = std::max<index_t>(std::gcd(keys, values), 1);
    auto const rows = [&]<class S>(S const*, index_t heads, index_t dimension) {
      return heads / sets *
             (detail::row_elements<S>(dimension) * static_cast<index_t>(sizeof(S)) +
              static_cast<index_t>(extend::is_scaled<S> ? sizeof(float) : 0));
    };
    return page_tokens * (rows(static_cast<Key const*>(nullptr), keys, shape.key_dimension) +
                          rows(static_cast<Value const*>(nullptr), values, shape.value_dimension) +
                          static_cast<index_t>(sizeof(std::int32_t) + sizeof(float)));
  }

  /// The longest run of rows with consecutive positions from stored row `first` on.
  key_value_rows<Key, Value> rows(index_t sequence, index_t head, index_t first) const {
    auto run = adjacent_rows(sequence, head, first);
    run.count = detail::consecutive(positions(sequence, head, first), run.count);
    return run;
  }
  /// The longest run of rows beside each other in memory, whatever tokens were evicted between them.
  key_value_rows<Key, Value> adjacent_rows(index_t sequence, index_t head, index_t first) const {
    detail::slot_run const run = slots(list_of(sequence, head), first);
    return memory_.rows(0, head, run.slot, run.count, position_[run.slot]);
  }
  /// The positions of those rows.
  std::span<std::int32_t const> positions(index_t sequence, index_t head, index_t first) const {
    detail::slot_run const run = slots(list_of(sequence, head), first);
    return {position_.data() + run.slot, static_cast<std::size_t>(run.count)};
  }
  /// Their scores: a token's is 0 when it is appended. Scores that may be changed are the sequence's own: pages that
  /// forks share are copied first, which separate() does for all of them. Throws argument_error where the pool has too
  /// few free pages for that.
  std::span<float> scores(index_t sequence, index_t head, index_t first) {
    index_t const list = list_of(sequence, head);
    if (lists_.any_shared()) {
      index_t const last = first + slots(list, first).count;
      std::array const writes{detail::page_range{list, first / page_tokens(), lists_.pages_of(last)}};
      lists_.separate("scores", writes, page_copy());
    }
    detail::slot_run const run = slots(list, first);
    return {score_.data() + run.slot, static_cast<std::size_t>(run.count)};
  }
  /// Gives each sequence pages of its own. Throws argument_error, before anything changes, where the pool has too few
  /// free pages.
  void separate() {
    if (!lists_.any_shared()) return;
    extend::scratch memory;
    auto* const all = memory.allocate<detail::page_range>(counts_.size());
    for (index_t list = 0; list < counts_.size(); ++list) all[list] = {list, 0, lists_.pages_of(counts_[list])};
    lists_.separate("separate", {all, static_cast<std::size_t>(counts_.size())}, page_copy());
  }
  std::span<float const> scores(index_t sequence, index_t head, index_t first) const {
    detail::slot_run const run = slots(list_of(sequence, head), first);
    return {score_.data() + run.slot, static_cast<std::size_t>(run.count)};
  }
  /// The first stored row whose token is at this position or behind it.
  index_t row_from(index_t sequence, index_t head, index_t position) const {
    index_t const list = list_of(sequence, head);
    index_t low = 0, high = counts_[list];
    while (low < high) {
      index_t const middle = low + (high - low) / 2;
      if (position_[slots(list, middle).slot] < position)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }

  /// Calls function(kept_tokens) with the tokens of a head.
  template <class Function>
  void with_tokens(index_t sequence, index_t head, Function const& function) const {
    index_t const count = stored(sequence, head);
    auto const rows = static_cast<std::size_t>(count);
    extend::scratch memory;
    auto* const position = memory.allocate<std::int32_t>(count + 1);
    float* const score = memory.allocate<float>(count + 1);
    for (index_t row = 0; row < count;) {
      auto const run = positions(sequence, head, row);
      std::copy(run.begin(), run.end(), position + row);
      std::copy_n(scores(sequence, head, row).data(), run.size(), score + row);
      row += static_cast<index_t>(run.size());
    }
    function(kept_tokens<evicting_cache>{
        *this, sequence, head, heads_together(), sizes_[sequence], {position, rows}, {score, rows}});
  }

  /// Evicts some of a head's stored rows, an ascending list of their numbers, and with them those of the heads that
  /// keep the same tokens. Throws argument_error, before anything changes, where the list does not ascend or has a row
  /// that is not stored, and where rows would move within pages that forks share and the pool has too few free pages to
  /// copy these.
  void evict(index_t sequence, index_t head, index_list rows) { compact_listed(sequence, head, rows, false); }
  /// Evicts all others. Throws argument_error where evict would.
  void keep(index_t sequence, index_t head, index_list rows) { compact_listed(sequence, head, rows, true); }

  /// Evicts what a policy says, in all sequences that had at least `slack` tokens since their last such call, and
  /// returns the number of rows that are gone. With a slack of n a head keeps up to n - 1 tokens more than the policy
  /// wants, but rows are moved only once in n tokens. Throws argument_error, before anything changes, where the policy
  /// does not fit or the pool has too few free pages to copy what forks share; what the policy throws changes nothing
  /// either. The policy is asked once for the heads that keep the same tokens.
  ///
  ///     evicting_cache<float> kept(shape, {.pages = 64, .page_tokens = 16});
  ///     kept.append(k, v);
  ///     kept.evict(keep_window{.sinks = 4, .window = 16});
  template <class Policy, Executor E = serial>
    requires extend::EvictionPolicy<Policy, evicting_cache>
  index_t evict(Policy const& policy, index_t slack = 32, E&& executor = {}) {
    arithmetic_mode const arithmetic;
    if (slack < 1) extend::fail("slack", "expected at least 1 token, got ", slack);
    if constexpr (requires { policy.check(shape()); }) policy.check(shape());
    detail::check_executor(executor);
    index_t const sets = memory_.sets();
    extend::scratch memory;
    bool** const stays = memory.allocate<bool*>(counts_.size() + 1);
    double all = 0;
    for (index_t list = 0; list < counts_.size(); ++list) {
      index_t const s = list / sets;
      stays[list] = nullptr;
      if (since_eviction(s) < slack) continue;
      stays[list] = memory.allocate<bool>(counts_[list] + 1);
      all += static_cast<double>(counts_[list]);
    }
    // A policy looks at a number for each row, or ranks them.
    constexpr double operations = 40;
    detail::parallel_for(executor, counts_.size(), detail::loop_cost{operations * all, 0}, [&](index_t list) {
      if (!stays[list]) return;
      std::fill_n(stays[list], counts_[list], true);
      with_tokens(list / sets, list % sets * heads_together(), [&](kept_tokens<evicting_cache> const& tokens) {
        policy(tokens, std::span<bool>(stays[list], tokens.position.size()));
      });
    });
    index_t* const kept = memory.allocate<index_t>(counts_.size() + 1);
    if (lists_.any_shared()) {
      auto* const writes = memory.allocate<detail::page_range>(counts_.size());
      std::size_t count = 0;
      for (index_t list = 0; list < counts_.size(); ++list)
        if (stays[list]) writes[count++] = written_pages(list, [&](index_t row) { return stays[list][row]; });
      lists_.separate("evict", {writes, count}, page_copy());
    }
    double const row_bytes = static_cast<double>(page_bytes(shape(), 1));
    detail::parallel_for(executor, counts_.size(), detail::loop_cost{0, 2 * row_bytes * all}, [&](index_t list) {
      if (stays[list]) kept[list] = compact(list, [&](index_t row) { return stays[list][row]; });
    });
    // One after the other, since all lists give their pages back to one pool.
    index_t gone = 0;
    for (index_t list = 0; list < counts_.size(); ++list) {
      if (!stays[list]) continue;
      evicted_at_[list / sets] = sizes_[list / sets];
      gone += counts_[list] - kept[list];
      finish(list, kept[list]);
    }
    return gone;
  }

  /// Removes the tokens of a sequence from `size` on; those before it that were evicted do not return. Throws
  /// argument_error where it has had fewer tokens.
  void truncate(index_t sequence, index_t size) {
    this->check_size(sequence, size);
    for (index_t head = 0; head < key_value_heads(); head += heads_together())
      finish(list_of(sequence, head), row_from(sequence, head, size));
    sizes_[sequence] = size;
    evicted_at_[sequence] = std::min(evicted_at_[sequence], size);
  }

  /// Makes the empty sequence `to` begin with what `from` has kept of its first `tokens` tokens, by default of all of
  /// them, and with their scores; both share the pages until one writes to them. Throws argument_error if `to` has
  /// tokens, or `from` has had fewer.
  ///
  ///     evicting_cache<float> kept(shape, {.pages = 64, .page_tokens = 16});
  ///     kept.append(0, prefix_key, prefix_value);
  ///     kept.fork(0, 1);
  void fork(index_t from, index_t to, index_t tokens) {
    detail::check_sequence(from, sequences(), "from");
    detail::check_sequence(to, sequences(), "to");
    this->check_size(from, tokens);
    if (sizes_[to] != 0) extend::fail("to", "expected an empty sequence, got one of ", sizes_[to], " tokens");
    for (index_t head = 0; head < key_value_heads(); head += heads_together()) {
      index_t const rows = row_from(from, head, tokens);
      lists_.share(list_of(from, head), list_of(to, head), rows);
      counts_[list_of(to, head)] = rows;
    }
    sizes_[to] = tokens;
    evicted_at_[to] = std::min(evicted_at_[from], tokens);
  }
  void fork(index_t from, index_t to) {
    detail::check_sequence(from, sequences(), "from");
    fork(from, to, sizes_[from]);
  }

 private:
  friend detail::appending<evicting_cache>;
  friend detail::saved_parts;
  static constexpr char const* name = "evicting_cache";

  index_t list_of(index_t sequence, index_t head) const { return sequence * memory_.sets() + head / heads_together(); }

  /// Copies a page of the pool.
  auto page_copy() {
    return [this](index_t from, index_t to) {
      index_t const source = from * page_tokens(), target = to * page_tokens();
      memory_.copy(0, source, target, page_tokens());
      std::copy_n(position_.data() + source, page_tokens(), position_.data() + target);
      std::copy_n(score_.data() + source, page_tokens(), score_.data() + target);
    };
  }

  /// The pages that compact() writes to.
  template <class Stays>
  detail::page_range written_pages(index_t list, Stays&& stays) const {
    index_t first = counts_[list], kept = 0;
    for (index_t row = 0; row < counts_[list]; ++row)
      if (stays(row))
        ++kept;
      else
        first = std::min(first, row);
    return {list, first / page_tokens(), kept > first ? lists_.pages_of(kept) : 0};
  }

  /// The slots of the rows from `row` on that lie beside each other.
  detail::slot_run slots(index_t list, index_t row) const {
    detail::slot_run run = lists_.run(list, row, counts_[list]);
    run.count = std::min(run.count, counts_[list] - row);
    return run;
  }

  // Tokens that were evicted since make_room() are left out.
  template <Element K>
  void write_key_rows(index_t sequence, index_t head, index_t position, tensor_view<K const, 2> const& key) {
    index_t const first = head * (key_value_heads() / key_heads());
    for_slots(sequence, first, position, key.extent(0), [&](detail::slot_run const& run, index_t token) {
      memory_.write_keys(0, head, run.slot, run.count, key.data() + token * key.stride(0), key.stride(0));
    });
  }
  template <Element V>
  void write_value_rows(index_t sequence, index_t head, index_t position, tensor_view<V const, 2> const& value) {
    index_t const first = head * (key_value_heads() / value_heads());
    for_slots(sequence, first, position, value.extent(0), [&](detail::slot_run const& run, index_t token) {
      memory_.write_values(0, head, run.slot, run.count, value.data() + token * value.stride(0), value.stride(0));
    });
  }
  /// Calls function(slots, token) for the slots of those of `tokens` tokens from `position` on that are kept, and the
  /// first token of each run.
  template <class Function>
  void for_slots(index_t sequence, index_t head, index_t position, index_t tokens, Function const& function) const {
    index_t const list = list_of(sequence, head);
    for (index_t row = row_from(sequence, head, position); row < counts_[list];) {
      detail::slot_run run = slots(list, row);
      index_t const token = position_[run.slot] - position;
      if (token >= tokens) return;
      run.count = std::min(detail::consecutive(positions(sequence, head, row), run.count), tokens - token);
      function(run, token);
      row += run.count;
    }
  }

  /// The pages that `tokens` more tokens of a sequence take from the pool, beside copies of shared ones.
  index_t more_pages(index_t sequence, index_t tokens) const {
    index_t pages = 0;
    for (index_t head = 0; head < key_value_heads(); head += heads_together()) {
      index_t const rows = stored(sequence, head);
      pages += lists_.pages_of(rows + tokens) - lists_.pages_of(rows);
    }
    return pages;
  }

  /// Throws argument_error where the pool has too few free pages for the new tokens of all heads of all sequences, or
  /// where a head would have more rows than its list can hold.
  void check_memory(detail::new_tokens const& asked) const {
    extend::scratch memory;
    detail::page_copies copies(lists_, memory);
    index_t free = lists_.free_pages();
    for (index_t i = asked.first; i < asked.last; ++i) {
      index_t const s = asked.sequence(i), count = asked.tokens(i);
      index_t longest = 0, copied = 0;
      for (index_t head = 0; head < key_value_heads(); head += heads_together()) {
        index_t const list = list_of(s, head), rows = counts_[list];
        longest = std::max(longest, rows);
        if (count > 0) copied += copies.of(list, rows / page_tokens(), lists_.pages_of(rows));
      }
      auto const fits = [&](index_t tokens) {
        return tokens <= lists_.max_rows() - longest && copied + more_pages(s, tokens) <= free;
      };
      if (!fits(count)) {
        index_t most = 0, least_not = count;
        while (least_not - most > 1) {
          index_t const middle = most + (least_not - most) / 2;
          (fits(middle) ? most : least_not) = middle;
        }
        extend::fail(asked.argument, "expected at most ", most, " more tokens (sequence ", s, " has ", sizes_[s], ", ",
                     free, " of ", pages(), " pages of ", page_tokens(), " tokens of a head are free), got ", count);
      }
      free -= copied + more_pages(s, count);
    }
  }

  void grow(index_t sequence, index_t tokens) {
    for (index_t head = 0; head < key_value_heads(); head += heads_together()) {
      index_t const list = list_of(sequence, head), before = counts_[list];
      // A page that is full is not written to.
      if (tokens > 0) lists_.separate(list, before / page_tokens(), lists_.pages_of(before), page_copy());
      lists_.resize(list, before, before + tokens);
      counts_[list] += tokens;
      for (index_t i = 0; i < tokens;) {
        detail::slot_run const run = slots(list, before + i);
        std::iota(position_.data() + run.slot, position_.data() + run.slot + run.count,
                  static_cast<std::int32_t>(sizes_[sequence] + i));
        std::fill_n(score_.data() + run.slot, run.count, 0.f);
        i += run.count;
      }
    }
    sizes_[sequence] += tokens;
  }

  /// Keeps the rows of a list, or all others.
  void compact_listed(index_t sequence, index_t head, index_list rows, bool listed_stay) {
    index_t const list = checked_list(sequence, head, rows);
    // Is asked for rows one after the other.
    auto const walk = [&](index_t next = 0) {
      return [&rows, listed_stay, next](index_t row) mutable {
        bool const listed = next < rows.size() && rows[next] == row;
        next += listed;
        return listed == listed_stay;
      };
    };
    if (lists_.any_shared()) {
      std::array const writes{written_pages(list, walk())};
      lists_.separate("rows", writes, page_copy());
    }
    finish(list, compact(list, walk()));
  }

  index_t checked_list(index_t sequence, index_t head, index_list const& rows) const {
    detail::check_sequence(sequence, sequences());
    detail::check_sequence(head, key_value_heads(), "head");
    index_t const there = stored(sequence, head);
    for (index_t i = 0; i < rows.size(); ++i)
      if (rows[i] < (i > 0 ? rows[i - 1] + 1 : 0) || rows[i] >= there)
        extend::fail("rows", "expected ascending rows below ", there, " (the stored ones), got ", rows[i], " at ", i);
    return list_of(sequence, head);
  }

  /// Moves the rows for which stays(row) holds to the beginning of their list, and returns their number.
  template <class Stays>
  index_t compact(index_t list, Stays&& stays) {
    index_t const count = counts_[list];
    index_t to = 0;
    for (index_t row = 0; row < count;) {
      if (!stays(row++)) continue;
      index_t const first = row - 1;
      while (row < count && stays(row)) ++row;
      // The row behind these, if there is one, goes.
      move(list, first, to, row - first);
      to += row - first;
      ++row;
    }
    return to;
  }

  /// Moves rows of a list to a place before them.
  void move(index_t list, index_t from, index_t to, index_t count) {
    if (from == to) return;
    while (count > 0) {
      detail::slot_run const source = slots(list, from), target = slots(list, to);
      index_t const rows = std::min({count, source.count, target.count});
      memory_.copy(0, source.slot, target.slot, rows);
      std::copy_n(position_.data() + source.slot, rows, position_.data() + target.slot);
      std::copy_n(score_.data() + source.slot, rows, score_.data() + target.slot);
      from += rows;
      to += rows;
      count -= rows;
    }
  }

  /// Lets a list end behind its first `count` rows.
  void finish(index_t list, index_t count) {
    lists_.resize(list, counts_[list], count);
    counts_[list] = count;
  }

  detail::row_memory<Key, Value> memory_;
  detail::page_lists lists_;
  detail::buffer<std::int32_t> position_;
  detail::buffer<float> score_;
  detail::buffer<index_t> counts_, sizes_, evicted_at_;
};

}  // namespace caches

}  // namespace attend::inline ATTEND_TARGET
