// SPDX-License-Identifier: BSD-3-Clause
// How the frequencies of rotary positions are chosen, and stretched for sequences longer than those of training.
//
// With d = dimension, b = base, pair i = 0 .. d/2 - 1, in radians per position:
//
//   unscaled        theta_i = b^(-2i/d)
//   linear          theta_i / factor                                        (position interpolation)
//   NTK             b' = b * factor^(d/(d-2)) in place of b
//   dynamic NTK     b' = b * (factor * n/L - (factor - 1))^(d/(d-2)), n = max(length, L), L = original length
//   YaRN            theta_i * (1 - r_i + r_i / factor), r_i = clamp((i - low) / (high - low), 0, 1), where low and high
//                   are the pairs that turn beta_fast and beta_slow times over L positions, rounded outwards to whole
//                   ones: pair(n) = d ln(L / (2 pi n)) / (2 ln b). Cosine and sine are multiplied by an attention
//                   factor, 0.1 ln(factor) + 1 unless given.
//   Llama 3         wavelength w_i = 2 pi / theta_i; theta_i where w_i < L/high, theta_i / factor where w_i > L/low,
//                   and in between (1 - s) theta_i / factor + s theta_i with s = (L/w_i - low) / (high - low)
//
// A scaling is a type with frequency(pair, dimension, base), attention_factor() and check().
//
// Jianlin Su et al.: RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021. Shouyuan Chen et al.:
// Extending Context Window of Large Language Models via Positional Interpolation, 2023 (linear). bloc97, emozilla:
// NTK-aware and dynamically scaled RoPE, 2023. Bowen Peng et al.: YaRN: Efficient Context Window Extension of Large
// Language Models, 2023. Llama team: The Llama 3 Herd of Models, 2024 (the rule as published with Llama 3.1).
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>

#include "../../core/arithmetic_mode.hpp"
#include "../../core/check.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Leaves frequencies as they are. It is the default.
struct unscaled {
  double frequency(index_t pair, index_t dimension, double base) const {
    return std::pow(base, -2 * static_cast<double>(pair) / static_cast<double>(dimension));
  }
  double attention_factor() const { return 1; }
  void check() const {}
};

}  // namespace options

namespace detail {
inline void check_scaling(char const* argument, char const* what, double value, double least) {
  check_finite(argument, value);
  if (value < least) fail(argument, "expected ", what, " of at least ", least, ", got ", value);
}
inline double stretched_base(double base, double by, index_t dimension) {
  double const d = static_cast<double>(dimension);
  return dimension > 2 ? base * std::pow(by, d / (d - 2)) : base;
}
}  // namespace detail

namespace options {

/// Divides all frequencies by a factor of at least 1.
///
///     rotary const stretched(rotary_frequencies(128, 10000, linear_scaling{4}));
struct linear_scaling {
  double factor;

  double frequency(index_t pair, index_t dimension, double base) const {
    return unscaled{}.frequency(pair, dimension, base) / factor;
  }
  double attention_factor() const { return 1; }
  void check() const { detail::check_scaling("linear_scaling", "a factor", factor, 1); }
};

/// Stretches the base by a factor of at least 1.
///
///     rotary const stretched(rotary_frequencies(128, 10000, ntk_scaling{4}));
struct ntk_scaling {
  double factor;

  double frequency(index_t pair, index_t dimension, double base) const {
    return unscaled{}.frequency(pair, dimension, detail::stretched_base(base, factor, dimension));
  }
  double attention_factor() const { return 1; }
  void check() const { detail::check_scaling("ntk_scaling", "a factor", factor, 1); }
};

/// Stretches the base as the length of the sequence at hand, in tokens, asks for it: keys that were rotated for one
/// length do not fit another.
///
///     rotary const stretched(rotary_frequencies(128, 10000, dynamic_ntk_scaling{2, 4096, 16384}));
struct dynamic_ntk_scaling {
  double factor;
  index_t original_length, length;

  double frequency(index_t pair, index_t dimension, double base) const {
    double const ratio = static_cast<double>(std::max(length, original_length)) / static_cast<double>(original_length);
    return unscaled{}.frequency(pair, dimension,
                                detail::stretched_base(base, factor * ratio - (factor - 1), dimension));
  }
  double attention_factor() const { return 1; }
  void check() const {
    detail::check_scaling("dynamic_ntk_scaling", "a factor", factor, 1);
    detail::check_scaling("dynamic_ntk_scaling", "an original length", static_cast<double>(original_length), 1);
  }
};

/// 0.1 * weight * ln(factor) + 1. DeepSeek multiplies the scale of logits by the square of it, with a weight of its
/// own.
inline double yarn_magnitude(double factor, double weight = 1) {
  extend::arithmetic_mode const arithmetic;
  return factor <= 1 ? 1 : 0.1 * weight * std::log(factor) + 1;
}

/// Stretches slow pairs alone, and the temperature. `original_length` is in tokens.
///
///     rotary const stretched(rotary_frequencies(128, 10000, yarn_scaling{4, 4096}));
struct yarn_scaling {
  double factor;
  index_t original_length;
  double beta_fast = 32, beta_slow = 1;
  /// The number that cosine and sine are multiplied by; 0 stands for yarn_magnitude(factor).
  double factor_of_attention = 0;
  /// Says whether low and high are rounded to whole pairs.
  bool whole_pairs = true;

  double frequency(index_t pair, index_t dimension, double base) const {
    double low = pair_that_turns(beta_fast, dimension, base), high = pair_that_turns(beta_slow, dimension, base);
    if (whole_pairs) low = std::floor(low), high = std::ceil(high);
    low = std::max(low, 0.0);
    high = std::min(high, static_cast<double>(dimension - 1));
    if (low == high) high += 0.001;
    double const ramp = std::clamp((static_cast<double>(pair) - low) / (high - low), 0.0, 1.0);
    return unscaled{}.frequency(pair, dimension, base) * (1 - ramp + ramp / factor);
  }
  double attention_factor() const { return factor_of_attention != 0 ? factor_of_attention : yarn_magnitude(factor); }
  void check() const {
    detail::check_scaling("yarn_scaling", "a factor", factor, 1);
    detail::check_scaling("yarn_scaling", "an original length", static_cast<double>(original_length), 1);
    detail::check_scaling("yarn_scaling", "an attention factor", factor_of_attention, 0);
    check_finite_positive(beta_fast);
    check_finite_positive(beta_slow);
  }

 private:
  static void check_finite_positive(double beta) {
    if (!(beta > 0 && std::isfinite(beta))) extend::fail("yarn_scaling", "expected finite betas above 0, got ", beta);
  }
  double pair_that_turns(double times, index_t dimension, double base) const {
    double const length = static_cast<double>(original_length);
    return static_cast<double>(dimension) * std::log(length / (times * 2 * std::numbers::pi)) / (2 * std::log(base));
  }
};

/// Stretches long wavelengths alone. `original_length` is in tokens.
///
///     rotary const stretched(rotary_frequencies(128, 10000, llama3_scaling{}));
struct llama3_scaling {
  double factor = 8, low_frequency_factor = 1, high_frequency_factor = 4;
  index_t original_length = 8192;

  double frequency(index_t pair, index_t dimension, double base) const {
    double const theta = unscaled{}.frequency(pair, dimension, base);
    double const turns = static_cast<double>(original_length) * theta / (2 * std::numbers::pi);  // L / w_i
    double const smooth = (turns - low_frequency_factor) / (high_frequency_factor - low_frequency_factor);
    double const kept = std::clamp(smooth, 0.0, 1.0);
    return (1 - kept) * theta / factor + kept * theta;
  }
  double attention_factor() const { return 1; }
  void check() const {
    detail::check_scaling("llama3_scaling", "a factor", factor, 1);
    detail::check_scaling("llama3_scaling", "an original length", static_cast<double>(original_length), 1);
    detail::check_finite("llama3_scaling", high_frequency_factor);
    if (!(low_frequency_factor < high_frequency_factor))
      extend::fail("llama3_scaling", "expected a low frequency factor below the high one (", high_frequency_factor,
                   "), got ", low_frequency_factor);
  }
};

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
