// The chunked engine: a state S [feature][value column] carried through a sequence.
//
//   S_t = diag(a_t) S_{t-1} + k_t w_t^T      w_t = v_t, or rate_t v_t, or rate_t (v_t - (diag(a_t) S_{t-1})^T k_t)
//   o_t = q_t^T S_t                          causal;   o_i = q_i^T S_n after all n keys otherwise
//
// A chunk of C tokens costs, for each value column and token, one product with the state (two for a delta rule), C / 2
// products with the chunk's own tokens (as many again to solve the delta rule's system), and one to write the state:
//
//   2 (2 F D + (C + 1) / 2 (F + D)) operations a token for F features and D value columns, additive
//   2 (3 F D + (C + 1) / 2 (2 F + 2 D)) for a delta rule (C - 1 for its system)
//
// Chunks of a head come one after the other; heads, and columns of a head where there are fewer heads than threads, are
// tasks. Every lane of a value column is computed in the same way whoever computes it, so the same bits come out for
// any number of threads. One token is a step of its own (state_step.hpp).
//
// Working memory is a state and a few arrays of a chunk for each thread, whatever the length.
//
// Zhen Qin et al.: Lightning Attention-2, 2024 (within chunks as a masked product, across them as a state); Songlin
// Yang, Bailin Wang, Yu Zhang, Yikang Shen, Yoon Kim: Parallelizing Linear Transformers with the Delta Rule over
// Sequence Length, 2024 (chunks of a delta rule as a triangular system; here it is solved against the state at hand,
// not inverted).
#pragma once

#include "../core/executor.hpp"
#include "chunk_decay.hpp"
#include "chunk_kernel.hpp"
#include "state_rows.hpp"
#include "state_step.hpp"

namespace attend::engine {

/// How a problem is cut.
struct chunk_cut {
  chunk_layout layout;
  index_t chunk;          // tokens
  index_t columns;        // value columns of a task
  index_t column_blocks;  // tasks of a head
  bool small;             // so little work that waking a thread would cost more

  template <Element T>
  static chunk_cut of(state_problem<T> const& p, bool whole_rows, index_t workers) {
    using A = accumulation_t<T>;
    constexpr index_t width = simd::width<A>;
    state_shape const& s = p.shape;
    chunk_cut cut;
    cut.chunk = std::max<index_t>(1, std::min(p.chunk > 0 ? p.chunk : usual_chunk, std::max(s.keys, s.queries)));
    cut.layout = chunk_layout::of<A>(s.features, cut.chunk);
    index_t const heads = s.batches * s.state_heads(), vectors = divide_up(s.value_dimension, width);
    cut.column_blocks = 1;
    // Tasks of one head repeat what does not depend on the columns: no more of them than it takes to give every thread
    // the same.
    auto const uneven = [&] {
      return heads * cut.column_blocks < 4 * workers && heads * cut.column_blocks % workers != 0;
    };
    if (!whole_rows)
      while (cut.column_blocks < vectors / 2 && uneven()) ++cut.column_blocks;
    cut.columns = divide_up(vectors, cut.column_blocks) * width;
    cut.column_blocks = std::max<index_t>(1, divide_up(s.value_dimension, std::max<index_t>(cut.columns, 1)));
    double const work = static_cast<double>(heads) * static_cast<double>(s.keys + s.queries * p.heads_together()) *
                        static_cast<double>(s.features) * static_cast<double>(s.value_dimension);
    cut.small = work < 2e6;
    return cut;
  }

  static constexpr index_t usual_chunk = 64;
};

/// Some value columns of one head's state, from the first token to the last.
template <Element T, class Steering>
class chunked_task {
 public:
  using A = accumulation_t<T>;

  chunked_task(state_problem<T> const& p, chunk_cut const& cut, Steering const& steer, index_t batch, index_t head,
               index_t first_column)
      : p_(p),
        layout_(cut.layout),
        chunk_(cut.chunk),
        steer_(steer),
        batch_(batch),
        head_(head),
        first_column_(first_column),
        columns_(std::min(cut.columns, p.shape.value_dimension - first_column)),
        padded_columns_(round_up(columns_, width)),
        decay_(memory_, layout_, p.causal || reads_state),
        kernel_(memory_, by_kernel ? p.shape.key_dimension : 0, by_kernel ? chunk_ : 0),
        state_(zeros(layout_.padded_features * padded_columns_)),
        value_(zeros(layout_.lanes * padded_columns_)),
        key_(zeros(layout_.lanes * layout_.stride)),
        query_(zeros(layout_.lanes * layout_.stride)),
        scaled_(zeros(layout_.lanes * layout_.stride)),
        raw_(memory_.take<A>(layout_.lanes * round_up(p.shape.key_dimension, width))),
        products_(memory_.take<A>(layout_.lanes * layout_.lanes)),
        output_(memory_.take<A>(layout_.lanes * padded_columns_)),
        rates_(filled(layout_.lanes, A(1))),
        key_sum_(zeros(layout_.padded_features)),
        prefetch_(memory_, most_runs()) {}

  void run() {
    load_state();
    index_t const keys = p_.shape.keys, queries = p_.shape.queries;
    index_t const unasked = p_.causal ? keys - queries : keys;
    for (index_t first = 0; first < unasked; first += chunk_) {
      expect_memory(-1, first + chunk_);
      open_chunk(first, std::min(chunk_, unasked - first), reads_state);
      close_chunk();
    }
    for (index_t first = 0; first < queries; first += chunk_) {
      index_t const count = std::min(chunk_, queries - first);
      if (p_.causal) {
        expect_memory(first, unasked + first + chunk_);
        open_chunk(unasked + first, count, true);
      }
      for (index_t h = 0; h < p_.heads_together(); ++h) answer(head_ * p_.heads_together() + h, first, count);
      if (p_.causal) close_chunk();
    }
    store_state();
  }

 private:
  using normalizer_type = typename Steering::normalizer_type;
  static constexpr index_t width = simd::width<A>;
  static constexpr bool reads_state = Steering::update_type::reads_state;
  static constexpr bool sums_keys = normalizer_type::sums_keys;
  // A decay for each feature, or one between tokens, is no function of their product.
  static constexpr bool by_kernel = KernelFeatures<typename Steering::features_type> && !reads_state &&
                                    Steering::decay_type::kind == decay_kind::none;

  A* filled(index_t count, A number) {
    A* const memory = memory_.take<A>(count);
    std::fill_n(memory, count, number);
    return memory;
  }
  A* zeros(index_t count) { return filled(count, A(0)); }

  /// function.template operator()<Vectors>(panel, its first column, counted from the task's).
  template <class Function>
  void for_panels(Function&& function) const {
    simd::for_tile_widths(static_cast<int>(padded_columns_ / width), [&]<int Vectors>(int first) {
      index_t const column = first * width;
      function.template operator()<Vectors>(
          chunk_panel<A>{state_ + column * layout_.padded_features, value_ + column * layout_.lanes}, column);
    });
  }

  /// One vector of a row that has `columns_` elements.
  template <Element U>
  simd::vector<A> load_part(U const* row, index_t column) const {
    return column + width <= columns_ ? simd::widen(row + column) : simd::widen_part(row + column, columns_ - column);
  }

  void load_state() {
    if (p_.initial_state.data())
      for_panels([&]<int Vectors>(chunk_panel<A> panel, index_t column) {
        for (index_t f = 0; f < layout_.features; ++f)
          for (int v = 0; v < Vectors; ++v)
            simd::store(panel.state + (f * Vectors + v) * width,
                        load_part(&p_.initial_state(batch_, head_, f, first_column_), column + v * width));
      });
    if (sums_keys && p_.initial_sum.data() && layout_.features > 0)
      std::copy_n(&p_.initial_sum(batch_, head_, 0), layout_.features, key_sum_);
  }

  void store_state() {
    if (p_.final_state.data())
      for_panels([&]<int Vectors>(chunk_panel<A> panel, index_t column) {
        for (index_t f = 0; f < layout_.features; ++f)
          for (int v = 0; v < Vectors; ++v) {
            A* const to = &p_.final_state(batch_, head_, f, first_column_) + column + v * width;
            simd::vector<A> const x = simd::load(panel.state + (f * Vectors + v) * width);
            index_t const left = columns_ - column - v * width;
            left >= width ? x.store_unaligned(to) : simd::narrow_part(to, x, left);
          }
      });
    if (sums_keys && p_.final_sum.data() && layout_.features > 0 && first_column_ == 0)
      std::copy_n(key_sum_, layout_.features, &p_.final_sum(batch_, head_, 0));
  }

  void load_rows(tensor_view<T const, 4> const& tensor, token_side side, index_t head, index_t first, A* to) {
    index_t const position = side == token_side::key ? first : first + p_.shape.keys - p_.shape.queries;
    if constexpr (by_kernel)
      kernel_.load(tensor, steer_.features, side, batch_, head, first, position, tokens_, raw_, to, layout_.stride);
    else
      load_features(tensor, steer_.features, side, batch_, head, first, position, tokens_, raw_, to, layout_.stride);
    for (index_t i = tokens_; i < round_up(tokens_, chunk_block<A>); ++i)
      std::fill_n(to + i * layout_.stride, layout_.padded_features, A(0));
  }

  /// Brings in keys and values; what the tokens write is known afterwards.
  void open_chunk(index_t first, index_t tokens, bool with_products) {
    tokens_ = tokens;
    load_rows(p_.key, token_side::key, p_.key_head(head_), first, key_);
    decay_.move_to(steer_.decay, batch_, head_, first, tokens);
    if constexpr (Steering::update_type::has_rates) {
      steer_.update.read(batch_, head_, first, tokens, rates_);
      std::fill(rates_ + tokens, rates_ + layout_.lanes, A(0));
    }
    load_values(first);
    if (with_products) by_kernel ? kernel_.set_keys(tokens) : decay_.set_keys(key_);
    if constexpr (reads_state) {
      decay_.products(key_, products_);
      A const* const before = decay_.before(key_, scaled_);
      for_panels([&]<int Vectors>(chunk_panel<A> panel, index_t) {
        solve_panel<Vectors>(before, decay_.row_factors(), products_, rates_, panel, tokens_, layout_, prefetch_);
      });
    }
  }

  void load_values(index_t first) {
    rows_of<T> const from = rows_of_head(p_.value, batch_, p_.value_head(head_), first);
    constexpr bool gated = Steering::update_type::has_rates && !reads_state;
    for_panels([&]<int Vectors>(chunk_panel<A> panel, index_t column) {
      bool const whole = column + Vectors * width <= columns_;
      for (index_t j = 0; j < tokens_; ++j) {
        T const* const row = from.row(j) + first_column_;
        ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) {
          index_t const at = column + v * width;
          simd::vector<A> x = whole ? simd::widen(row + at) : load_part(row, at);
          if constexpr (gated) x = x * simd::vector<A>(rates_[j]);
          simd::store(panel.value + (j * Vectors + v) * width, x);
        }
      }
      std::fill(panel.value + tokens_ * Vectors * width,
                panel.value + round_up(tokens_, chunk_block<A>) * Vectors * width, A(0));
    });
  }

  template <Element U>
  void expect(tensor_view<U const, 4> const& tensor, index_t head, index_t first, index_t first_column,
              index_t columns) {
    index_t const count = std::min(chunk_, tensor.extent(2) - first);
    if (count <= 0) return;
    rows_of<U> rows = rows_of_head(tensor, batch_, tensor.extent(1) == 1 ? 0 : head, first);
    rows.data += first_column;
    prefetch_.add(rows, count, columns);
  }

  /// Has the products of this chunk ask for what will be written and for what the next chunk will read, in the order in
  /// which it will be needed.
  void expect_memory(index_t first_query, index_t next_key) {
    prefetch_.clear();
    index_t const heads = p_.causal && first_query >= 0 ? p_.heads_together() : 0,
                  first_head = head_ * p_.heads_together();
    for (index_t h = 0; h < heads; ++h) {
      expect<T>(p_.output, first_head + h, first_query, first_column_, columns_);
      index_t const next = (h + 1) % heads;
      expect(p_.query, p_.query_head(first_head + next), next > 0 ? first_query : first_query + chunk_, 0,
             p_.shape.key_dimension);
    }
    expect(p_.key, p_.key_head(head_), next_key, 0, p_.shape.key_dimension);
    expect(p_.value, p_.value_head(head_), next_key, first_column_, columns_);
    if constexpr (Steering::decay_type::kind == decay_kind::vector && requires { steer_.decay.view(); })
      expect(steer_.decay.view(), head_, next_key, 0, layout_.features);
  }
  index_t most_runs() const {
    index_t const rows = p_.shape.key_dimension, heads = p_.heads_together();
    return chunk_ * ((heads + 1) * chunk_prefetch::runs_of<T>(rows) +
                     (heads + 1) * chunk_prefetch::runs_of<T>(columns_) + chunk_prefetch::runs_of<A>(layout_.features));
  }

  /// The outputs of one query head for as many queries as the chunk has tokens; without a causal chunk, of the state.
  void answer(index_t output_head, index_t first, index_t tokens) {
    if (columns_ == 0) return;
    tokens_ = tokens;
    load_rows(p_.query, token_side::query, p_.query_head(output_head), first, query_);
    A const* query = query_;
    if (p_.causal) {
      if constexpr (by_kernel)
        kernel_.products(steer_.features, tokens, products_);
      else
        decay_.products(query_, products_);
      query = decay_.before(query_, scaled_);
    }
    for_panels([&]<int Vectors>(chunk_panel<A> panel, index_t column) {
      read_panel<Vectors>(query, p_.causal ? decay_.row_factors() : nullptr, p_.causal ? products_ : nullptr, panel,
                          tokens_, layout_, output_ + column, padded_columns_, prefetch_);
    });
    for (index_t i = 0; i < tokens; ++i) {
      A sum = 0;
      if constexpr (sums_keys) sum = sum_of_weights(query + i * layout_.stride, i);
      finish_row(steer_.normalizer, p_.scale, sum, output_ + i * padded_columns_, columns_,
                 &p_.output(batch_, output_head, first + i, first_column_));
    }
  }

  /// q_i . z, and the products with the chunk's own keys up to i.
  A sum_of_weights(A const* query, index_t i) const {
    A sum = dot(query, key_sum_, layout_.padded_features);
    if (!p_.causal) return sum;
    if (decay_.row_factors()) sum *= decay_.row_factors()[i];
    A const* const row = products_ + i * layout_.lanes;
    index_t const whole = (i + 1) / width * width;
    sum += dot(row, rates_, whole);
    for (index_t j = whole; j <= i; ++j) sum += row[j] * rates_[j];
    return sum;
  }

  /// The state takes what the chunk wrote.
  void close_chunk() {
    A const* const after = decay_.after(key_, scaled_);
    for_panels([&]<int Vectors>(chunk_panel<A> panel, index_t) {
      write_panel<Vectors>(after, decay_.state_high(), decay_.state_low(), panel, tokens_, layout_, prefetch_);
    });
    if constexpr (sums_keys)
      for (index_t f = 0; f < layout_.padded_features; f += width) {
        simd::vector<A> sum = simd::load(key_sum_ + f);
        if (decay_.state_high())
          sum = simd::fused_multiply_add(sum, simd::load(decay_.state_high() + f),
                                         sum * simd::load(decay_.state_low() + f));
        for (index_t j = 0; j < tokens_; ++j) {
          simd::vector<A> const key = simd::load(after + j * layout_.stride + f);
          sum = simd::fused_multiply_add(key, simd::vector<A>(rates_[j]), sum);
        }
        simd::store(key_sum_ + f, sum);
      }
  }

  state_problem<T> const& p_;
  chunk_layout const& layout_;
  index_t const chunk_;
  Steering const& steer_;
  index_t const batch_, head_, first_column_, columns_, padded_columns_;
  scratch memory_;
  chunk_decay<A, Steering::decay_type::kind> decay_;
  chunk_kernel<A> kernel_;
  A *state_, *value_, *key_, *query_, *scaled_, *raw_, *products_, *output_, *rates_, *key_sum_;
  chunk_prefetch prefetch_;
  index_t tokens_ = 0;
};

/// Calls run(steering) with what steers one task: what steers the call, unless its feature map follows the sequence.
template <Element T, class Steering, class Run>
void with_steering(state_problem<T> const& p, Steering const& steer, index_t batch, index_t head, bool writes_sum,
                   index_t most_tokens, Run&& run) {
  if constexpr (FollowingFeatures<typename Steering::features_type>) {
    scratch memory;
    auto const walk = steer.features.open(p, batch, head, writes_sum, most_tokens, memory);
    using walk_type = std::remove_const_t<decltype(walk)>;
    run(state_steering<walk_type, walk_type, walk_type, typename Steering::normalizer_type>{walk, walk, walk,
                                                                                            steer.normalizer});
  } else {
    run(steer);
  }
}

/// Runs a problem whose arguments are checked.
template <Element T, class Steering, class E>
void run_chunked(state_problem<T> const& p, Steering const& steer, E& executor) {
  using normalizer_type = typename Steering::normalizer_type;
  state_shape const& s = p.shape;
  if (s.batches == 0 || s.state_heads() == 0) return;
  serial alone;
  if (s.keys == 1 && s.queries == 1 && s.value_dimension > 0 && p.final_state.data()) {
    // A thread steps through neighbouring heads: it asks for the next one's state in advance.
    index_t const heads = s.batches * s.state_heads(), together = 8;
    auto const run_task = [&](index_t number) {
      for (index_t at = number * together; at < std::min(heads, (number + 1) * together); ++at) {
        index_t const batch = at / s.state_heads(), head = at % s.state_heads();
        with_steering(p, steer, batch, head, true, 1,
                      [&]<class S>(S const& task_steer) { state_step<T, S>(p, task_steer, batch, head).run(); });
      }
    };
    if (heads * s.features * s.value_dimension < 100'000)
      detail::parallel_for(alone, divide_up(heads, together), run_task);
    else
      detail::parallel_for(executor, divide_up(heads, together), run_task);
    return;
  }

  // Column blocks each read the sum of the keys; none may have written it before.
  bool const sum_in_place = p.final_sum.data() && p.initial_sum.data();
  chunk_cut const cut = chunk_cut::of(p, normalizer_type::whole_rows || sum_in_place, detail::worker_limit(executor));
  auto const run_task = [&](index_t number) {
    index_t const head = number / cut.column_blocks, block = number % cut.column_blocks;
    index_t const batch = head / s.state_heads(), state_head = head % s.state_heads();
    with_steering(p, steer, batch, state_head, block == 0, cut.chunk, [&]<class S>(S const& task_steer) {
      chunked_task<T, S>(p, cut, task_steer, batch, state_head, block * cut.columns).run();
    });
  };
  index_t const tasks = s.batches * s.state_heads() * cut.column_blocks;
  if (cut.small)
    detail::parallel_for(alone, tasks, run_task);
  else
    detail::parallel_for(executor, tasks, run_task);
}

}  // namespace attend::engine
