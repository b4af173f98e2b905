// SPDX-License-Identifier: BSD-3-Clause
// What encoder and decoder are made of: products with a bias, norms, GELU, and rows of heads as attend sees them. A
// matrix has one token a row.
//
// A product of many rows takes as long as its operations, and its weights are floats. One of a row or two takes as long
// as reading the weights, which are kept in half precision, as the files of the model have them.
#pragma once

#include <Eigen/Core>
#include <unsupported/Eigen/SpecialFunctions>

#include <attend/core/tensor_view.hpp>
#include <attend/simd/dot.hpp>

#include <cmath>
#include <string>

#include "../io/arrays.hpp"
#include "../io/ctranslate2.hpp"
#include "../io/workers.hpp"

namespace whisper {

using attend_io::ctranslate2_model;
using attend_io::matrix;
using attend_io::read_array;
using attend_io::read_matrix;
using attend_io::read_vector;
using attend_io::row_vector;
using attend_io::workers;
using Eigen::Index;
using half_matrix = attend_io::matrix_of<attend::half>;
using rows = Eigen::Ref<matrix const, 0, Eigen::OuterStride<>>;

/// y = x W^T for many rows, which are parted among the threads, each part with all of W.
inline matrix product(rows const& x, matrix const& weight, workers& threads) {
  // Eigen packs W for each part: 192 rows are enough to make that small.
  Index const part = 192;
  matrix y(x.rows(), weight.rows());
  threads.for_parts(x.rows(), part, [&](Index first, Index count) {
    y.middleRows(first, count).noalias() = x.middleRows(first, count) * weight.transpose();
  });
  return y;
}

/// y = x W^T for few rows: all of them for each row of W that is read.
inline matrix product(rows const& x, half_matrix const& weight, workers& threads) {
  // So many outputs are worth waking a thread for.
  Index const part = 2048;
  matrix y(x.rows(), weight.rows());
  threads.for_parts(weight.rows(), part, [&](Index first, Index count) {
    for (Index output = first; output < first + count; ++output)
      for (Index row = 0; row < x.rows(); ++row)
        y(row, output) = attend::simd::dot(weight.row(output).data(), x.row(row).data(), x.cols());
  });
  return y;
}

/// y = x W^T + b
template <class Element>
struct linear {
  attend_io::matrix_of<Element> weight;
  row_vector bias;

  linear(ctranslate2_model const& model, std::string const& name, Index inputs, Index outputs)
      : weight(read_matrix<Element>(model, name + "/weight", outputs, inputs)),
        bias(read_vector(model, name + "/bias", outputs)) {}

  matrix operator()(rows const& x, workers& threads) const {
    matrix y = product(x, weight, threads);
    y.rowwise() += bias;
    return y;
  }
};

/// Every row with mean 0 and variance 1, then scaled and shifted column by column.
struct layer_norm {
  row_vector gamma, beta;

  layer_norm(ctranslate2_model const& model, std::string const& name, Index width)
      : gamma(read_vector(model, name + "/gamma", width)), beta(read_vector(model, name + "/beta", width)) {}

  matrix operator()(matrix x) const {
    float const epsilon = 1e-5f;
    for (auto row : x.rowwise()) {
      row.array() -= row.mean();
      float const variance = row.squaredNorm() / static_cast<float>(row.size());
      row = (row.array() / std::sqrt(variance + epsilon) * gamma.array() + beta.array()).matrix();
    }
    return x;
  }
};

/// x becomes x Phi(x), Phi the normal distribution.
inline void gelu(matrix& x, workers& threads) {
  float const inverse_sqrt_2 = 0.70710678f;
  threads.for_parts(x.rows(), 192, [&](Index first, Index count) {
    auto part = x.middleRows(first, count).array();
    part = .5f * part * (1 + (part * inverse_sqrt_2).erf());
  });
}

/// linear(gelu(linear(layer_norm(x))))
template <class Element>
struct feed_forward {
  layer_norm norm;
  linear<Element> inner, output;

  feed_forward(ctranslate2_model const& model, std::string const& name, Index width)
      : norm(model, name + "/layer_norm", width),
        inner(model, name + "/linear_0", width, 4 * width),
        output(model, name + "/linear_1", 4 * width, width) {}

  matrix operator()(matrix const& x, workers& threads) const {
    matrix hidden = inner(norm(x), threads);
    gelu(hidden, threads);
    return output(hidden, threads);
  }
};

/// Columns from `first` on as [1, head, token, dimension]: extents, then the step from one to the next of each.
template <class Element>
attend::tensor_view<Element, 4> heads_of(Element* first, Index tokens, Index columns, Index heads, Index dimension) {
  return {first, {1, heads, tokens, dimension}, {0, dimension, columns, 1}};
}

}  // namespace whisper
