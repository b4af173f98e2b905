// SPDX-License-Identifier: BSD-3-Clause
// A cache whose keys and values are in two planes of small integers: the most significant bits, and the least
// significant ones of the same number. A reader takes the first plane alone, or both.
//
//   first plane    n1 = round(x / s1)              s1 = max |x| / m1      |error| <= s1 / 2
//   second plane   n2 = round((x - s1 n1) / s2)    s2 = max |x - s1 n1| / m2
//   both           s1 n1 + s2 n2                   |error| <= s2 / 2 <= s1 / (4 m2)
//
// with maxima over the row of a token and head, m = 7 for int4_pair and 127 for std::int8_t. Two planes of int4_pair
// take as many bits as std::int8_t. The second scale follows what the first plane left of the row; were it s1 / 16, the
// planes would be the upper and the lower four bits of one integer, which is the least accurate case of this.
//
// Each plane is an evicting_cache, with the same tokens in the same pages: what is appended, evicted, cut or forked
// goes to both. Scores are those of the first. Channel scales are not offered.
//
// Memory: that of both planes. Cost of appending: a row is read back from the first plane, and quantized twice.
//
// Hanrui Wang, Zhekai Zhang, Song Han: SpAtten: Efficient Sparse Attention Architecture with Cascade Token and Head
// Pruning, 2020 (progressive quantization).
#pragma once

#include "evicting.hpp"

namespace attend::inline ATTEND_TARGET {

namespace caches {

/// Keys and values in two planes, of the tokens that each head keeps.
///
///     bit_plane_cache<> planes(shape, {.pages = 4096, .page_tokens = 64});
///     planes.append(k, v);
///     decode_attention(q, planes.first(), o);  // as the first plane has them
template <StorageElement First = int4_pair, StorageElement Second = int4_pair>
  requires(extend::is_scaled<First> && extend::is_scaled<Second>)
class bit_plane_cache : public detail::appending<bit_plane_cache<First, Second>> {
 public:
  using key_element = First;
  using value_element = First;
  using first_plane = evicting_cache<First>;
  using second_plane = evicting_cache<Second>;

  /// Allocates all memory of the cache; a page is one in each plane. Throws argument_error where evicting_cache does.
  bit_plane_cache(cache_shape const& shape, paging const& pool) : first_(shape, pool), second_(shape, pool) {}

  index_t sequences() const { return first_.sequences(); }
  index_t key_value_heads() const { return first_.key_value_heads(); }
  index_t key_heads() const { return first_.key_heads(); }
  index_t value_heads() const { return first_.value_heads(); }
  index_t key_dimension() const { return first_.key_dimension(); }
  index_t value_dimension() const { return first_.value_dimension(); }
  cache_shape const& shape() const { return first_.shape(); }
  index_t size(index_t sequence) const { return first_.size(sequence); }
  index_t stored(index_t sequence, index_t head) const { return first_.stored(sequence, head); }
  key_value_rows<First> rows(index_t sequence, index_t head, index_t first) const {
    return first_.rows(sequence, head, first);
  }
  index_t bytes() const { return first_.bytes() + second_.bytes(); }

  /// The planes, which are stores: attention to the first one sees the most significant bits alone.
  first_plane const& first() const { return first_; }
  second_plane const& second() const { return second_; }

  /// As those of the planes.
  std::span<float> scores(index_t sequence, index_t head, index_t row) { return first_.scores(sequence, head, row); }
  std::span<float const> scores(index_t sequence, index_t head, index_t row) const {
    return first_.scores(sequence, head, row);
  }
  std::span<std::int32_t const> positions(index_t sequence, index_t head, index_t row) const {
    return first_.positions(sequence, head, row);
  }
  index_t heads_together() const { return first_.heads_together(); }
  index_t since_eviction(index_t sequence) const { return first_.since_eviction(sequence); }
  void separate() { first_.separate(); }
  index_t used_pages() const { return first_.used_pages(); }
  index_t free_pages() const { return first_.free_pages(); }

  void evict(index_t sequence, index_t head, index_list rows) {
    first_.evict(sequence, head, rows);
    second_.evict(sequence, head, rows);
  }
  /// Evicts what a policy says of the first plane's rows and scores, as evicting_cache does.
  template <class Policy, Executor E = serial>
    requires extend::EvictionPolicy<Policy, first_plane>
  index_t evict(Policy const& policy, index_t slack = 32, E&& executor = {}) {
    if constexpr (requires { policy.check(shape()); }) policy.check(shape());
    // What it said of each list, for the second plane.
    extend::scratch memory;
    index_t const heads = key_value_heads();
    bool** const said = memory.allocate<bool*>(sequences() * heads + 1);
    for (index_t list = 0; list < sequences() * heads; ++list)
      said[list] = memory.allocate<bool>(stored(list / heads, list % heads) + 1);
    index_t const gone = first_.evict(
        [&](kept_tokens<first_plane> const& tokens, std::span<bool> stays) {
          policy(tokens, stays);
          std::copy(stays.begin(), stays.end(), said[tokens.sequence * heads + tokens.head]);
        },
        slack, executor);
    second_.evict(
        [&](kept_tokens<second_plane> const& tokens, std::span<bool> stays) {
          std::copy_n(said[tokens.sequence * heads + tokens.head], stays.size(), stays.begin());
        },
        slack, executor);
    return gone;
  }
  void truncate(index_t sequence, index_t size) {
    first_.truncate(sequence, size);
    second_.truncate(sequence, size);
  }

  /// As evicting_cache::fork.
  void fork(index_t from, index_t to, index_t tokens) {
    first_.fork(from, to, tokens);
    second_.fork(from, to, tokens);
  }

 private:
  friend detail::appending<bit_plane_cache>;

  void check_memory(detail::new_tokens const& asked) const {
    first_.check_room(asked);
    second_.check_room(asked);
  }
  void grow(index_t sequence, index_t tokens) {
    first_.make_room(sequence, tokens);
    second_.make_room(sequence, tokens);
  }

  template <Element K>
  void write_key_rows(index_t sequence, index_t head, index_t position, tensor_view<K const, 2> const& key) {
    first_.write_keys(sequence, head, position, key);
    index_t const of_key = key_value_heads() / key_heads();
    for_rest(
        sequence, head * of_key, position, key,
        [&](index_t at, tensor_view<float const, 2> const& rest) { second_.write_keys(sequence, head, at, rest); },
        [](key_value_rows<First> const& run, index_t dimension, float* to) {
          detail::read_key(run, 0, dimension, to);
        });
  }
  template <Element V>
  void write_value_rows(index_t sequence, index_t head, index_t position, tensor_view<V const, 2> const& value) {
    first_.write_values(sequence, head, position, value);
    index_t const of_value = key_value_heads() / value_heads();
    for_rest(
        sequence, head * of_value, position, value,
        [&](index_t at, tensor_view<float const, 2> const& rest) { second_.write_values(sequence, head, at, rest); },
        [](key_value_rows<First> const& run, index_t dimension, float* to) {
          detail::read_value(run, 0, dimension, to);
        });
  }
  /// Calls write(position, row) with what the first plane leaves of the tokens that it keeps.
  template <class T, class Write, class Read>
  void for_rest(index_t sequence, index_t head, index_t position, tensor_view<T const, 2> const& rows,
                Write const& write, Read const& read) {
    index_t const dimension = rows.extent(1);
    extend::scratch memory;
    float *const rest = memory.allocate<float>(dimension + 1), *const there = memory.allocate<float>(dimension + 1);
    for (index_t t = 0; t < rows.extent(0); ++t) {
      index_t const row = first_.row_from(sequence, head, position + t);
      if (row == first_.stored(sequence, head)) return;
      auto const run = first_.rows(sequence, head, row);
      if (run.position != position + t) continue;
      read(run, dimension, there);
      simd::widen_row(rows.data() + t * rows.stride(0), rest, dimension);
      for (index_t c = 0; c < dimension; ++c) rest[c] -= there[c];
      write(position + t, tensor_view<float const, 2>(rest, {1, dimension}));
    }
  }

  first_plane first_;
  second_plane second_;
};

}  // namespace caches

}  // namespace attend::inline ATTEND_TARGET
