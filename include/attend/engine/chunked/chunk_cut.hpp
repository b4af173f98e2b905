// SPDX-License-Identifier: BSD-3-Clause
// How a call with a state is cut: tokens into chunks, value columns into blocks, and who shares a head.
#pragma once

#include <numeric>

#include "../../core/executor.hpp"
#include "../../core/machine.hpp"
#include "chunk_products.hpp"
#include "state_problem.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// The cost of a call: each token writes the state and each query reads it. With one token it is memory traffic.
template <Element T>
attend::detail::loop_cost cost_of(state_problem<T> const& p) {
  state_shape const& s = p.shape;
  double const state = static_cast<double>(s.batches * s.state_heads()) * static_cast<double>(s.features) *
                       static_cast<double>(s.value_dimension);
  return {2 * state * static_cast<double>(s.keys + s.queries * p.heads_per_group()),
          2 * state * static_cast<double>(sizeof(accumulation_t<T>))};
}

/// What threads can share of a head.
enum class head_sharing {
  value_columns,  // each has some of the value columns, and prepares all chunks
  added_chunks,   // chunks, of which each adds to the state what does not depend on it
  solved_chunks,  // chunks, of which each solves a system against the state (a delta rule)
};

/// How a problem is cut into chunks, blocks of value columns, and lines of heads.
struct chunk_cut {
  chunk_layout layout;
  index_t chunk;          // the tokens of a chunk
  index_t columns;        // the value columns of a block
  index_t column_blocks;  // the blocks of a head
  index_t lines;          // the number of heads with a pipeline at the same time; 0 without
  index_t sharers;        // the number of threads that share chunks; 0 if none do
  index_t run;            // the consecutive chunks that such a thread takes at a time
  index_t panel_vectors;  // the widest panel of columns, in vectors
  index_t part_features;  // the features of a panel that go from thread to thread at a time
  index_t panels;         // the panels of a block

  static constexpr index_t shortest_usual = 32, longest_usual = 128;
  // To fetch a state from another processor takes about half as long as the work on a chunk. In a run of six chunks
  // that is a twelfth, and longer runs lose in the cache what they save.
  static constexpr index_t longest_run = 6;

  index_t parts_of_panel() const { return divide_up(layout.padded_features, part_features); }
  /// The number of parts in which a state goes from thread to thread.
  index_t parts() const { return std::max<index_t>(1, panels * parts_of_panel()); }

  /// The number of tokens C of a chunk with products within the chunk, unless the call sets it. The products of a token
  /// with its own chunk, of length `depth`, take C / 2 (depth + columns) multiplications. Once for each chunk, the
  /// state is read and written, which takes as long as about 8 multiplications for each number, and a constant time is
  /// spent (machine::chunk_work); it is longer for vector decays, which are prepared block by block. The time for each
  /// token is smallest where C^2 is twice the ratio of the time for each chunk to depth + columns.
  static index_t chunk_for(index_t features, index_t depth, index_t columns, decay_kind kind) {
    index_t const constant = attend::detail::machine::here().chunk_work;
    index_t const once = 8 * features * columns + (kind == decay_kind::vector ? constant / 5 * 8 : constant);
    index_t chunk = shortest_usual;
    // The power of two that is nearest to that C, by ratio.
    while (chunk < longest_usual && once >= chunk * chunk * (depth + columns)) chunk *= 2;
    return chunk;
  }

  template <Element T>
  static chunk_cut of(state_problem<T> const& p, index_t usual_chunk, bool whole_columns, head_sharing sharing,
                      index_t workers) {
    using A = accumulation_t<T>;
    constexpr index_t width = simd::width<A>;
    state_shape const& s = p.shape;
    index_t const longest = std::max(s.keys, s.queries);
    chunk_cut cut;
    cut.chunk = std::max<index_t>(1, std::min(p.chunk > 0 ? p.chunk : usual_chunk, longest));
    cut.layout = chunk_layout::of<A>(s.features, cut.chunk);
    cut.column_blocks = 1;
    cut.lines = cut.sharers = 0;
    cut.run = 1;
    index_t const heads = s.batches * s.state_heads(), vectors = divide_up(s.value_dimension, width);
    workers = std::min(workers, cost_of(p).worthwhile_threads());
    bool const even = heads % workers == 0 || heads >= 4 * workers, can_share = sharing != head_sharing::value_columns,
               solves = sharing == head_sharing::solved_chunks;
    // A block of one vector would keep too few sums in flight. Blocks that cannot share chunks prepare each chunk
    // again, which takes as long as some 50 columns where features are sigmoids or exponentials.
    index_t const least_vectors = can_share ? 2 : std::max<index_t>(2, 64 / width);
    index_t const max_blocks = whole_columns ? 1 : std::max<index_t>(1, vectors / least_vectors);
    index_t const state_bytes = cut.layout.padded_features * vectors * width * static_cast<index_t>(sizeof(A));
    index_t const chunks = heads * divide_up(longest, cut.chunk);
    index_t const run = run_for(p, cut.chunk, state_bytes, chunks / workers);
    // Two threads that would pass on a state after each chunk move less memory with blocks of columns. Where they solve
    // systems, which is most of the work, either has a block to go on with while the other one does not run.
    bool const relays = can_share && chunks > 1 && state_bytes <= attend::detail::machine::here().relay_bytes &&
                        (workers > 2 || (run > 1 && !solves) || max_blocks == 1);
    cut.panel_vectors = simd::register_vectors;
    if (!even && relays) {
      cut.run = run;
      if (solves) cut.panel_vectors = panel_for(vectors, heads, workers);
      // Where systems are solved, two threads for each panel are more than enough.
      cut.sharers = std::min({workers, chunks, solves ? 2 * heads * panels_of(vectors, cut.panel_vectors) : workers});
    } else if (!even && max_blocks > 1) {
      index_t const group_size = std::min(heads, std::max(std::gcd(heads, workers), divide_up(workers, max_blocks)));
      cut.column_blocks = std::min(max_blocks, divide_up(workers, group_size));
      if (can_share && cut.column_blocks > 1) cut.lines = group_size;
    }
    cut.columns = divide_up(vectors, cut.column_blocks) * width;
    cut.column_blocks = std::max<index_t>(1, divide_up(s.value_dimension, std::max<index_t>(cut.columns, 1)));
    cut.panels = panels_of(cut.columns / width, cut.panel_vectors);
    // What a thread passes on at a time and others wait for is a few kilobytes, which another processor reads within a
    // microsecond. Smaller parts read the chunk's values more often; but a state of 64 features and columns, in panels
    // of two wide vectors, needs them to be in the hands of 16 threads at once. A system is solved for whole panels.
    index_t const features = cut.layout.padded_features;
    cut.part_features = solves ? std::max<index_t>(features, 8) : features < 128 ? 8 : 16;
    static_assert(8 % simd::register_rows == 0);
    return cut;
  }

 private:
  static index_t panels_of(index_t vectors, index_t widest) {
    index_t panels = 0;
    for_panel_widths(vectors, widest, [&]<int>(index_t) { ++panels; });
    return panels;
  }

  /// The widest panel, in vectors, with which most threads work where systems are solved against the state. Of the work
  /// on a chunk, three fifths wait for the state before it, an equal share of them for each panel: so five thirds of a
  /// head's panels are the threads that it keeps busy. A tile of one vector, which loads for each product, takes a
  /// fifth longer for everything; one of fewer than eight sums would wait for itself.
  static index_t panel_for(index_t vectors, index_t heads, index_t workers) {
    auto const busy = [&](index_t widest) {
      return std::min(3 * workers, 5 * heads * panels_of(vectors, widest)) * (widest == 1 ? 5 : 6);
    };
    index_t best = simd::register_vectors;
    for (index_t widest = best - 1; widest * simd::register_rows >= 8; --widest)
      if (busy(widest) > busy(best)) best = widest;
    return best;
  }

  /// How many chunks a thread takes at a time, of the `chunks_of_thread` that it has in all. The more they are, the
  /// rarer a state moves between processors; but the states between them, and their queries, keys, values and outputs,
  /// shall stay in the thread's level-2 cache. Each thread has at least four runs, so that all end at about the same
  /// time.
  template <Element T>
  static index_t run_for(state_problem<T> const& p, index_t chunk, index_t state_bytes, index_t chunks_of_thread) {
    index_t const of_token = (1 + p.heads_per_group()) * (p.shape.features + p.shape.value_dimension),
                  of_chunk = state_bytes + chunk * of_token * static_cast<index_t>(sizeof(accumulation_t<T>)),
                  fitting = attend::detail::machine::here().relay_bytes / std::max<index_t>(of_chunk, 1);
    return std::max<index_t>(1, std::min({longest_run, fitting, chunks_of_thread / 4}));
  }
};

}  // namespace attend::inline ATTEND_TARGET::engine
