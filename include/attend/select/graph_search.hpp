// SPDX-License-Identifier: BSD-3-Clause
// Best-first search in a graph of keys: from an entry, the best key that was not expanded yet is expanded, which means
// that the keys it is joined to are scored, until none of the beam's keys is left.
//
//   beam = the `width` best keys of a range of tokens that were scored so far, best first
//
// A graph knows no ranges: keys outside of it are expanded as others are, where they are better than the beam's last
// key, but do not count.
//
// A key is scored once. Which ones were is known by a bit each: the bits of 131072 keys are 16 KiB, so they stay in the
// level-1 cache, and clearing them takes a quarter of a microsecond, less than what marks by number of search would
// cost in misses. They are scratch memory, so searches may run side by side.
//
// Cost: the keys that are scored, at random places, and sorting each into the beam.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "../core/scratch.hpp"
#include "../core/types.hpp"
#include "../policy/tile.hpp"

namespace attend::inline ATTEND_TARGET::detail {

class graph_search {
 public:
  struct entry {
    float score;
    std::int32_t token;
    bool counts, expanded;
  };

  /// Allocates scratch memory for a graph of `tokens` keys, of which one is joined to at most `links`. Tokens of
  /// `range` count, and the beam has up to `width` >= 1 of them.
  graph_search(scratch& memory, index_t tokens, index_t links, key_range range, index_t width)
      : range_(range),
        width_(width),
        words_(divide_up(tokens, 64)),
        seen_(memory.allocate<std::uint64_t>(words_ + 1)),
        beam_(memory.allocate<entry>(std::min(width + tokens - range.count(), tokens) + 2)),
        fresh_(memory.allocate<std::int32_t>(links + 1)),
        score_(memory.allocate<float>(links + 1)) {}

  /// Searches from `start`. links(token) gives the keys that a key is joined to, and score(tokens, count, to) scores
  /// keys. Scores of NaN and -inf are no scores.
  template <class Links, class Score>
  void run(std::int32_t start, Links const& links, Score const& score) {
    std::fill_n(seen_, words_, std::uint64_t{0});
    size_ = counting_ = scored_ = 0;
    expand(std::span(&start, 1), score);
    for (index_t at = 0; at < size_;) {
      beam_[at].expanded = true;
      index_t const first_new = expand(links(beam_[at].token), score);
      at = std::min(at + 1, first_new);
      while (at < size_ && beam_[at].expanded) ++at;
    }
  }

  /// The beam of the last search, with keys that do not count between the others.
  std::span<entry const> beam() const { return {beam_, static_cast<std::size_t>(size_)}; }
  /// How many keys the last search has scored.
  index_t scored() const { return scored_; }

 private:
  /// Returns the best place of the beam that was taken.
  template <class Score>
  index_t expand(std::span<std::int32_t const> links, Score const& score) {
    index_t count = 0, first_new = size_ + 1;
    for (std::int32_t const token : links) {
      std::uint64_t& word = seen_[token / 64];
      std::uint64_t const bit = std::uint64_t{1} << token % 64;
      if (word & bit) continue;
      word |= bit;
      fresh_[count++] = token;
    }
    if (count == 0) return first_new;
    score(fresh_, count, score_);
    scored_ += count;
    for (index_t i = 0; i < count; ++i)
      if (score_[i] > least()) first_new = std::min(first_new, insert(score_[i], fresh_[i]));
    return first_new;
  }

  /// What a key must exceed to belong to the beam.
  float least() const { return counting_ < width_ ? -infinity<float> : beam_[size_ - 1].score; }

  index_t insert(float score, std::int32_t token) {
    entry* const place =
        std::upper_bound(beam_, beam_ + size_, score, [](float s, entry const& other) { return s > other.score; });
    std::copy_backward(place, beam_ + size_, beam_ + size_ + 1);
    *place = {score, token, token >= range_.first && token < range_.last, false};
    ++size_;
    counting_ += place->counts;
    // A full beam ends in a key that counts.
    while (counting_ > width_ || (counting_ == width_ && !beam_[size_ - 1].counts)) counting_ -= beam_[--size_].counts;
    return place - beam_;
  }

  key_range range_;
  index_t width_, words_;
  std::uint64_t* seen_;
  entry* beam_;
  std::int32_t* fresh_;
  float* score_;
  index_t size_ = 0, counting_ = 0, scored_ = 0;
};

}  // namespace attend::inline ATTEND_TARGET::detail
