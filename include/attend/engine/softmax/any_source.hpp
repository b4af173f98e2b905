// SPDX-License-Identifier: BSD-3-Clause
// A store of keys and values behind one interface for the engines, which ask it a few times for each run of rows: so
// they are compiled once for all stores of the same elements, whatever else these are (in one piece, pages, rings, a
// choice of rows).
#pragma once

#include <span>

#include "../../cache/key_value_rows.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <StorageElement Key, StorageElement Value>
class any_source {
 public:
  using key_element = Key;
  using value_element = Value;
  using run_type = key_value_rows<Key, Value>;

  /// The entries of a list of rows, and the run that begins at the first of them.
  struct listed {
    run_type run;
    std::span<std::int32_t const> list;
  };

  template <KeyValueSource Source>
  explicit any_source(Source const& source)
      : lists_rows(requires(index_t i) { source.listed_rows(i, i, i); }),
        source_(&source),
        sequences_(source.sequences()),
        heads_(source.key_value_heads()),
        key_heads_(attend::detail::key_heads_of(source)),
        value_heads_(attend::detail::value_heads_of(source)),
        key_dimension_(source.key_dimension()),
        value_dimension_(source.value_dimension()),
        size_([](void const* from, index_t sequence) -> index_t { return as<Source>(from).size(sequence); }),
        stored_([](void const* from, index_t sequence, index_t head) -> index_t {
          return as<Source>(from).stored(sequence, head);
        }),
        rows_([](void const* from, index_t sequence, index_t head, index_t first) {
          return as<Source>(from).rows(sequence, head, first);
        }),
        adjacent_rows_([](void const* from, index_t sequence, index_t head, index_t first) {
          return attend::detail::adjacent_rows(as<Source>(from), sequence, head, first);
        }) {
    if constexpr (requires(index_t i) { source.listed_rows(i, i, i); })
      listed_rows_ = [](void const* from, index_t sequence, index_t head, index_t first) {
        auto const [run, list] = as<Source>(from).listed_rows(sequence, head, first);
        return listed{run, list};
      };
    if constexpr (requires { source.mask().sinks; }) sinks_ = source.mask().sinks;
  }

  /// Whether its rows are a choice of another's.
  bool const lists_rows;

  index_t sequences() const { return sequences_; }
  index_t key_value_heads() const { return heads_; }
  index_t key_heads() const { return key_heads_; }
  index_t value_heads() const { return value_heads_; }
  index_t key_dimension() const { return key_dimension_; }
  index_t value_dimension() const { return value_dimension_; }
  index_t size(index_t sequence) const { return size_(source_, sequence); }
  index_t stored(index_t sequence, index_t head) const { return stored_(source_, sequence, head); }
  run_type rows(index_t sequence, index_t head, index_t first) const { return rows_(source_, sequence, head, first); }
  run_type adjacent_rows(index_t sequence, index_t head, index_t first) const {
    return adjacent_rows_(source_, sequence, head, first);
  }
  listed listed_rows(index_t sequence, index_t head, index_t first) const {
    return listed_rows_(source_, sequence, head, first);
  }
  /// The first tokens that the store keeps for ever, where it drops others.
  index_t sinks() const { return sinks_; }

 private:
  template <class Source>
  static Source const& as(void const* from) {
    return *static_cast<Source const*>(from);
  }

  void const* source_;
  index_t sequences_, heads_, key_heads_, value_heads_, key_dimension_, value_dimension_, sinks_ = 0;
  index_t (*size_)(void const*, index_t);
  index_t (*stored_)(void const*, index_t, index_t);
  run_type (*rows_)(void const*, index_t, index_t, index_t);
  run_type (*adjacent_rows_)(void const*, index_t, index_t, index_t);
  listed (*listed_rows_)(void const*, index_t, index_t, index_t) = nullptr;
};

/// The source that an engine is compiled for: a call's own tensors, or any store.
template <KeyValueSource Source>
auto source_of_engine(Source const& source) {
  if constexpr (requires { requires Source::in_one_run; })
    return source;
  else
    return any_source<typename Source::key_element, typename Source::value_element>(source);
}

}  // namespace attend::inline ATTEND_TARGET::engine
