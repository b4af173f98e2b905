// SPDX-License-Identifier: BSD-3-Clause
// A selector, as attend_compare --select and --cache see it: a name, what it chooses, and how it is made ready for a
// problem and a budget. A new one is one entry in the list of a compare_selectors_*.cpp or of compare_evictions.cpp,
// and that list is one entry in compare_selection.cpp.
#pragma once

#include <attend/core/executor.hpp>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "compare_problem.hpp"

namespace attend_bench {

/// Decoding: the queries are steps that follow each other, one at a time, and each attends to all keys. Prefill: all
/// queries at once, as many as keys.
enum class phase { decode, prefill };

constexpr char const* name_of(phase which) { return which == phase::decode ? "decode" : "prefill"; }

struct selection_problem {
  std::string name;
  phase when;
  tensor<float> query, key, value;
  /// Of decoding: queries that came before the steps, of which a cache has seen what they attend to.
  tensor<float> observed = {};

  index_t batch() const { return query.extents[0]; }
  index_t heads() const { return query.extents[1]; }
  index_t key_heads() const { return key.extents[1]; }
  index_t queries() const { return query.extents[2]; }
  index_t keys() const { return key.extents[2]; }
  index_t dimension() const { return query.extents[3]; }
  index_t value_dimension() const { return value.extents[3]; }
  /// Calls that it takes to answer all queries.
  index_t steps() const { return when == phase::decode ? queries() : 1; }
  /// Bytes of a key and its value.
  double row_bytes() const {
    return static_cast<double>(sizeof(float)) * static_cast<double>(dimension() + value_dimension());
  }

  /// Rows of a tensor like query or output that a step is about.
  template <class T>
  attend::tensor_view<T, 4> rows_of_step(attend::tensor_view<T, 4> const& whole, index_t step) const {
    if (when == phase::prefill) return whole;
    return {&whole(0, 0, step, 0),
            {whole.extent(0), whole.extent(1), 1, whole.extent(3)},
            {whole.stride(0), whole.stride(1), whole.stride(2), 1}};
  }
};

std::vector<selection_problem> make_selection_problems(compare_options const& options);

struct query_row {
  index_t batch, head, query;
};

/// A selector that is ready to run on a problem with a budget.
struct prepared_selector {
  /// Chooses keys for a step's queries and attends to them.
  std::function<void(index_t step, attend::threads)> run;
  /// Appends the keys that a row of the last step attended to. None where the system does not tell.
  std::function<void(query_row const&, std::vector<std::int32_t>&)> chosen;
  /// Bytes that the last step had to read: what it chose by, and the keys and values of each list of chosen ones. In
  /// prefill each query reads for itself, so that this is in proportion to the work.
  std::function<double()> bytes;
  /// Where `chosen` is none: the log-sum-exp of the logits that a row of the last step attended to, and their number, a
  /// mean over all rows. None where the system weighs other than by softmax over chosen keys.
  std::function<double(query_row const&)> log_sum_exp = {};
  std::function<double()> keys_of_row = {};
};

struct selector {
  std::string name, what;
  phase when;
  /// Whether queries see no later keys, in prefill.
  bool causal;
  /// Ready for a fraction of the keys, writing to an output that is as large as the query tensor. Nothing where the
  /// system does not fit the problem.
  std::function<std::optional<prepared_selector>(selection_problem const&, attend::tensor_view<float, 4> const& output,
                                                 double budget)>
      prepare;
  /// Whether it has no budget: then it is run once.
  bool whole = false;
};

/// Attention to all keys.
prepared_selector dense_attention(selection_problem const& p, attend::tensor_view<float, 4> const& output, bool causal);

std::vector<selector> exact_selectors();
std::vector<selector> page_selectors();
std::vector<selector> token_selectors();
std::vector<selector> graph_selectors();
std::vector<selector> prefill_selectors();
std::vector<selector> encoder_selectors();
std::vector<selector> kept_selectors();

/// Compares all selectors that are asked for, or one of them, and prints what it found.
void compare_selectors(compare_options const& options);

}  // namespace attend_bench
