// SPDX-License-Identifier: BSD-3-Clause
// Audio at another rate: between its samples it is the sum of the sinc functions that they scale, cut off by a window.
//
//   y[t] = sum over k of x[k] w(p - k),   p = t from / to,   w(d) = sinc(c d) hann(c d / zeros),   c = min(1, to /
//   from)
//
// c lowers the highest frequency to half of the lower rate, so that nothing is folded back. Weights depend on the
// fraction of p alone, which takes to / gcd(from, to) values: they are computed once, and each row of them is divided
// by its sum, so that a constant stays as it is.
//
// Cost: 2 zeros / c products a sample. Source: Julius O. Smith: Digital Audio Resampling Home Page, 1984-2002.
#pragma once

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace whisper {

/// What a table of weights takes stays below 100 MB, and speech needs no more.
inline constexpr std::uint32_t lowest_rate = 4000, highest_rate = 192000;

/// `samples` at `from` samples a second, as they are at `to` a second. Throws std::invalid_argument for rates beyond
/// 4000 to 192000.
///
///     std::vector<float> const speech = resample(recording.samples, recording.rate, 16000);
inline std::vector<float> resample(std::span<float const> samples, std::uint32_t from, std::uint32_t to) {
  for (std::uint32_t const rate : {from, to})
    if (rate < lowest_rate || rate > highest_rate)
      throw std::invalid_argument("rate: expected " + std::to_string(lowest_rate) + " to " +
                                  std::to_string(highest_rate) + " samples a second, got " + std::to_string(rate));
  if (from == to) return {samples.begin(), samples.end()};

  using Eigen::Index;
  double const zeros = 32;  // of the sinc on each side: what passes fades out within 6% of the highest frequency
  double const cutoff = std::min(1., static_cast<double>(to) / from);
  Index const reach = static_cast<Index>(std::ceil(zeros / cutoff));
  std::uint32_t const divisor = std::gcd(from, to);
  Index const step = from / divisor, phases = to / divisor;

  // Row `phase` has the weights of the samples from floor(p) - reach + 1 to floor(p) + reach.
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> weights(phases, 2 * reach);
  for (Index phase = 0; phase < phases; ++phase) {
    for (Index k = 0; k < 2 * reach; ++k) {
      double const place = static_cast<double>(phase) / static_cast<double>(phases);
      double const distance = cutoff * (place - static_cast<double>(k - reach + 1));
      double const angle = std::numbers::pi * distance;
      double const window = std::abs(distance) < zeros ? .5 + .5 * std::cos(angle / zeros) : 0;
      weights(phase, k) = static_cast<float>((distance == 0 ? 1 : std::sin(angle) / angle) * window);
    }
    weights.row(phase) /= weights.row(phase).sum();
  }

  auto const size = static_cast<Index>(samples.size());
  Index const new_size = (size * phases + step - 1) / step;
  std::vector<float> result(static_cast<std::size_t>(new_size));
  Eigen::Map<Eigen::RowVectorXf const> const x(samples.data(), size);
  for (Index t = 0; t < new_size; ++t) {
    Index const start = t * step / phases - reach + 1;
    Index const first = std::max<Index>(start, 0), last = std::min(start + 2 * reach, size);  // outside it is silent
    result[static_cast<std::size_t>(t)] =
        x.segment(first, last - first).dot(weights.row(t * step % phases).segment(first - start, last - first));
  }
  return result;
}

}  // namespace whisper
