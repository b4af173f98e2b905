// SPDX-License-Identifier: BSD-3-Clause
// What the variants are compared on: a query, a key and a value tensor, and who may see whom. The numbers are kept in
// double; each variant rounds them to its own element type.
#pragma once

#include <attend/core/tensor_view.hpp>
#include <attend/policy/mask/window.hpp>

#include <algorithm>
#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include "compare_options.hpp"

namespace attend_bench {

using attend::index_t;

/// [batch, head, token, dimension]
template <class T>
struct tensor {
  std::array<index_t, 4> extents{};
  std::vector<T> elements;

  tensor() = default;
  explicit tensor(std::array<index_t, 4> const& shape)
      : extents(shape), elements(static_cast<std::size_t>(shape[0] * shape[1] * shape[2] * shape[3])) {}

  attend::tensor_view<T, 4> view() { return {elements.data(), extents}; }
  attend::tensor_view<T const, 4> view() const { return {elements.data(), extents}; }
};

template <class To, class From>
tensor<To> rounded(tensor<From> const& from) {
  tensor<To> to(from.extents);
  std::transform(from.elements.begin(), from.elements.end(), to.elements.begin(),
                 [](From element) { return static_cast<To>(element); });
  return to;
}

struct problem {
  std::string name;
  tensor<double> query, key, value;
  attend::window mask;
  bool is_encoder = false;  // queries come in no order
  bool is_scaled = false;   // random numbers, made larger or smaller

  index_t batch() const { return query.extents[0]; }
  index_t heads() const { return query.extents[1]; }
  index_t key_heads() const { return key.extents[1]; }
  index_t value_heads() const { return value.extents[1]; }
  index_t queries() const { return query.extents[2]; }
  index_t keys() const { return key.extents[2]; }
  index_t dimension() const { return query.extents[3]; }
  index_t value_dimension() const { return value.extents[3]; }
};

/// The problems that the options ask for. Throws std::runtime_error where a file cannot be used.
std::vector<problem> make_problems(compare_options const& options);

/// What a model of speech feeds its attention: that of its encoder, or the decoder's to what was heard ("cross").
problem speech_problem(std::string const& which);

/// Random numbers for a step of decoding: a query of each head, and more keys than caches hold.
problem decoding_problem(compare_options const& options);

/// Whether none of the problem's numbers is too large for the type.
bool holds(element_type type, problem const& p);

/// The same problem with the key-value heads merged to `heads` by their plain mean.
problem with_merged_heads(problem const& from, index_t heads);

/// Who is seen through both windows.
attend::window intersection_of(attend::window const& a, attend::window const& b);

/// The query rows of each head whose errors are looked at: evenly spaced, the last one among them. The definition in
/// double is slow, and a few rows tell as much as all.
struct row_sample {
  index_t queries = 0, count = 0, step = 0;

  explicit row_sample(problem const& p) : row_sample(p.batch() * p.heads(), p.queries(), p.keys()) {}
  row_sample(index_t all_heads, index_t query_count, index_t keys);

  index_t operator[](index_t i) const { return queries - 1 - (count - 1 - i) * step; }
};

}  // namespace attend_bench
