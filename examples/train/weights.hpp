// SPDX-License-Identifier: BSD-3-Clause
// The weights of the decoder of ../generate/decoder.hpp, or their gradients, as one run of numbers: the embedding, and
// behind it the seven matrices of each layer, each [outputs, inputs] in row-major order.
//
// Matrices that have the same inputs lie one behind the other, so that one product serves them: query, key and value;
// gate and up.
//
// Guy L. Steele, Doug Lea, Christine H. Flood: Fast Splittable Pseudorandom Number Generators, 2014: SplitMix64, whose
// n-th number can be had without those before it, so that other programs can begin with the same weights.
#pragma once

#include <Eigen/Core>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "../generate/decoder.hpp"
#include "../io/arrays.hpp"

namespace train {

using attend_io::matrix_of;
using Eigen::Index;
using generate::decoder_shape;

/// The n-th of a seed's 64-bit numbers.
inline std::uint64_t random_bits(std::uint64_t seed, std::uint64_t n) {
  std::uint64_t bits = seed + (n + 1) * 0x9e3779b97f4a7c15;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111eb;
  return bits ^ (bits >> 31);
}

/// Matrices of a layer, in their order.
enum class part { query, key, value, output, gate, up, down };
inline constexpr char const* part_names[] = {"query", "key", "value", "output", "gate", "up", "down"};
inline constexpr std::size_t parts = std::size(part_names);

template <class T>
class weights {
 public:
  struct place {
    std::string name;  // as model.safetensors has it
    Index first, rows, columns;
    bool added;  // whether what it gives is added to the stream
  };

  /// All of them zero.
  weights(decoder_shape const& shape, Index tokens) {
    Index const width = shape.width, queries = shape.query_heads * shape.head_dimension,
                keys = shape.key_value_heads * shape.head_dimension, inner = shape.feed_forward;
    Index size = 0;
    auto const add = [&](std::string name, Index rows, Index columns, bool added) {
      places_.push_back({std::move(name), size, rows, columns, added});
      size += rows * columns;
    };
    add("embedding", tokens, width, false);
    Index const rows[parts] = {queries, keys, keys, width, inner, inner, width};
    Index const columns[parts] = {width, width, width, queries, width, width, inner};
    for (Index l = 0; l < shape.layers; ++l)
      for (std::size_t i = 0; i < parts; ++i)
        add("layers." + std::to_string(l) + "." + part_names[i], rows[i], columns[i],
            part(i) == part::output || part(i) == part::down);
    numbers.setZero(size);
  }

  /// Draws them evenly from a range around zero, the number at place n from random_bits(seed, n).
  void draw(std::uint64_t seed, Index layers) {
    double const deviation = .05;
    for (place const& at : places_) {
      // What is added to the stream begins small, since several are.
      double const most =
          std::sqrt(3.) * (at.added ? deviation / std::sqrt(2. * static_cast<double>(layers)) : deviation);
      for (Index n = at.first; n < at.first + at.rows * at.columns; ++n) {
        // 24 bits of the middles of as many equal parts of the range.
        auto const bits = static_cast<double>(random_bits(seed, static_cast<std::uint64_t>(n)) >> 40);
        numbers[n] = static_cast<T>(most * ((2 * bits + 1) / (1 << 24) - 1));
      }
    }
  }

  std::vector<place> const& places() const { return places_; }

  auto embedding() { return rows_of(*this, places_[0], places_[0].rows); }
  auto embedding() const { return rows_of(*this, places_[0], places_[0].rows); }
  /// One matrix of a layer, or those from `first` to `last`, which have the same inputs, one below the other.
  auto of(std::size_t layer, part first, part last) { return joined(*this, layer, first, last); }
  auto of(std::size_t layer, part first, part last) const { return joined(*this, layer, first, last); }
  auto of(std::size_t layer, part one) { return joined(*this, layer, one, one); }
  auto of(std::size_t layer, part one) const { return joined(*this, layer, one, one); }

  Eigen::Matrix<T, Eigen::Dynamic, 1> numbers;

 private:
  template <class Weights>
  static auto rows_of(Weights& weights, place const& first, Index rows) {
    using matrix = std::conditional_t<std::is_const_v<Weights>, matrix_of<T> const, matrix_of<T>>;
    return Eigen::Map<matrix>(weights.numbers.data() + first.first, rows, first.columns);
  }
  template <class Weights>
  static auto joined(Weights& weights, std::size_t layer, part first, part last) {
    Index rows = 0;
    auto const at = [&](part one) -> place const& {
      return weights.places_[1 + parts * layer + static_cast<std::size_t>(one)];
    };
    for (auto i = static_cast<int>(first); i <= static_cast<int>(last); ++i) rows += at(part(i)).rows;
    return rows_of(weights, at(first), rows);
  }

  std::vector<place> places_;
};

}  // namespace train
