// SPDX-License-Identifier: BSD-3-Clause
// What Whisper hears: the logarithm of the power in 80 bands of frequencies, a hundred times a second.
//
//   power[frame, bin] = |fourier transform of 400 samples around 160 frame, under a Hann window|^2     201 bins of 40
//   Hz mel[frame, band]  = power times triangles, which are as wide as the ear's bands, above 1000 Hz, and of equal
//   area y = (max(log10 mel, its largest - 8) + 4) / 4                                   mel is taken as 1e-10 at least
//
// A window is 30 seconds, 480000 samples at 16 kHz and 3000 frames: silence follows what is shorter. Ahead of the first
// sample and behind the last, where frames reach out by half, the audio is mirrored.
//
// Alec Radford et al.: Robust Speech Recognition via Large-Scale Weak Supervision, 2022. The bands are those of Malcolm
// Slaney: Auditory Toolbox, 1998.
#pragma once

#include <Eigen/Core>
#include <unsupported/Eigen/FFT>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace whisper {

using Eigen::Index;
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

inline constexpr std::uint32_t sample_rate = 16000;
inline constexpr Index window_samples = 30 * Index{sample_rate};
inline constexpr Index frame_samples = 400, hop = 160, window_frames = window_samples / hop;
inline constexpr Index bins = frame_samples / 2 + 1, bands = 80;

/// Slaney's scale: 15 mels are 1000 Hz, linear below, and above it 27 mels are a factor of 6.4.
inline double mel_to_hertz(double mel) { return mel < 15 ? mel * 200 / 3 : 1000 * std::pow(6.4, (mel - 15) / 27); }

inline double hertz_to_mel(double hertz) {
  return hertz < 1000 ? hertz * 3 / 200 : 15 + 27 * std::log(hertz / 1000) / std::log(6.4);
}

/// [band, bin]: triangles whose corners stand evenly on the scale of mels from 0 to 8000 Hz, each of area 1 over hertz.
inline matrix mel_filters() {
  double const highest = hertz_to_mel(sample_rate / 2.);
  auto const corner = [&](Index i) { return mel_to_hertz(highest * static_cast<double>(i) / (bands + 1)); };
  matrix filters(bands, bins);
  for (Index band = 0; band < bands; ++band) {
    double const left = corner(band), middle = corner(band + 1), right = corner(band + 2);
    for (Index bin = 0; bin < bins; ++bin) {
      double const hertz = static_cast<double>(bin) * sample_rate / frame_samples;
      double const height = std::min((hertz - left) / (middle - left), (right - hertz) / (right - middle));
      filters(band, bin) = static_cast<float>(std::max(height, 0.) * 2 / (right - left));
    }
  }
  return filters;
}

class log_mel {
 public:
  log_mel() : filters_(mel_filters()), hann_(frame_samples) {
    for (Index i = 0; i < frame_samples; ++i)
      hann_[i] = static_cast<float>(.5 - .5 * std::cos(2 * std::numbers::pi * static_cast<double>(i) / frame_samples));
    fourier_.SetFlag(Eigen::FFT<float>::HalfSpectrum);
  }

  /// [3000 frames, 80 bands] of at most 480000 samples at 16 kHz. Throws std::invalid_argument for more.
  matrix operator()(std::span<float const> samples) {
    if (static_cast<Index>(samples.size()) > window_samples)
      throw std::invalid_argument("samples: expected at most " + std::to_string(window_samples) +
                                  " (30 seconds), got " + std::to_string(samples.size()));
    Index const margin = frame_samples / 2;
    Eigen::RowVectorXf padded = Eigen::RowVectorXf::Zero(window_samples + 2 * margin);
    padded.segment(margin, static_cast<Index>(samples.size())) =
        Eigen::Map<Eigen::RowVectorXf const>(samples.data(), static_cast<Index>(samples.size()));
    padded.head(margin) = padded.segment(margin + 1, margin).reverse();
    padded.tail(margin) = padded.segment(window_samples - 1, margin).reverse();

    matrix power(window_frames, bins);
    Eigen::RowVectorXf frame(frame_samples);
    std::vector<std::complex<float>> spectrum(frame_samples);  // whose second half mirrors the first, and is left out
    for (Index i = 0; i < window_frames; ++i) {
      frame = padded.segment(i * hop, frame_samples).cwiseProduct(hann_);
      fourier_.fwd(spectrum.data(), frame.data(), frame_samples);
      for (Index bin = 0; bin < bins; ++bin) power(i, bin) = std::norm(spectrum[static_cast<std::size_t>(bin)]);
    }
    matrix mel = (power * filters_.transpose()).cwiseMax(1e-10f).array().log10();
    float const floor = mel.maxCoeff() - 8;
    return (mel.cwiseMax(floor).array() + 4) / 4;
  }

 private:
  matrix filters_;
  Eigen::RowVectorXf hann_;
  Eigen::FFT<float> fourier_;
};

}  // namespace whisper
