// SPDX-License-Identifier: BSD-3-Clause
// The spectrogram that Whisper hears: numbers of its definition in NumPy, and what the filters promise.
#include "log_mel.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <stdexcept>
#include <vector>

namespace {

using whisper::Index;

TEST(LogMel, FiltersAreTrianglesOfEqualArea) {
  whisper::matrix const filters = whisper::mel_filters();
  ASSERT_EQ(filters.rows(), 80);
  ASSERT_EQ(filters.cols(), 201);
  EXPECT_GE(filters.minCoeff(), 0);
  double last = -1;
  for (Index band = 0; band < filters.rows(); ++band) {
    Index middle = 0;
    filters.row(band).maxCoeff(&middle);
    EXPECT_GE(middle, last);
    last = static_cast<double>(middle);
    // Where a triangle has many bins, their sum times the 40 Hz between them is its area, 1.
    if (band > 60) {
      EXPECT_NEAR(filters.row(band).sum() * 40, 1, .03) << band;
    }
  }
  EXPECT_EQ(filters(0, 0), 0);
  EXPECT_EQ(filters(79, 200), 0);
}

TEST(LogMel, MelsAreSlaneys) {
  EXPECT_DOUBLE_EQ(whisper::mel_to_hertz(3), 200);
  EXPECT_DOUBLE_EQ(whisper::mel_to_hertz(15), 1000);
  EXPECT_DOUBLE_EQ(whisper::mel_to_hertz(42), 6400);
  for (double const hertz : {0., 440., 999., 1000., 1001., 8000.})
    EXPECT_NEAR(whisper::mel_to_hertz(whisper::hertz_to_mel(hertz)), hertz, 1e-9);
}

/// Made with the function log_mel of examples/transcribe/make_expected.py, in double precision:
///   i = numpy.arange(20000); log_mel(0.4 * numpy.sin(1e-5 * i * i) + 0.1 * numpy.cos(0.01 * i))[::16, frames]
TEST(LogMel, AgreesWithNumpy) {
  struct {
    Index frame;
    float bands[5];
  } const expected[] = {{0, {1.096672f, -.576605f, -.576605f, -.576605f, -.576605f}},
                        {60, {1.055860f, .283483f, -.576605f, -.576605f, -.576605f}},
                        {124, {1.095176f, .197283f, .272087f, -.159821f, -.357588f}},
                        {126, {.140785f, .190007f, .210923f, -.181510f, -.374747f}},
                        {2999, {-.576605f, -.576605f, -.576605f, -.576605f, -.576605f}}};
  std::vector<float> samples;
  for (int i = 0; i < 20000; ++i)
    samples.push_back(static_cast<float>(.4 * std::sin(1e-5 * i * i) + .1 * std::cos(.01 * i)));
  whisper::log_mel log_mel;
  whisper::matrix const mel = log_mel(samples);
  ASSERT_EQ(mel.rows(), 3000);
  ASSERT_EQ(mel.cols(), 80);
  // The smallest numbers are of powers 8 decades below the largest one, of amplitudes 4 decades below: a transform in
  // float, with errors of some 1e-6 of the largest amplitude, has 1% of such a one, 0.004 decades, a fourth of which is
  // left.
  for (auto const& [frame, of_bands] : expected)
    for (Index i = 0; i < 5; ++i) EXPECT_NEAR(mel(frame, 16 * i), of_bands[i], 1e-3) << frame << ", band " << 16 * i;
  EXPECT_NEAR(mel.maxCoeff() - mel.minCoeff(), 2, 1e-6);
}

TEST(LogMel, HearsSilence) {
  whisper::log_mel log_mel;
  // log10 of 1e-10, and nothing larger to cut at.
  for (std::size_t const samples : {0u, 1u, 480000u}) {
    whisper::matrix const mel = log_mel(std::vector<float>(samples));
    EXPECT_NEAR(mel.maxCoeff(), -1.5, 1e-6);
    EXPECT_NEAR(mel.minCoeff(), -1.5, 1e-6);
  }
}

/// Of a click at sample 100 the first frame has the mirror image at -100 too, half a frame ahead and under a window of
/// the same height: odd multiples of 40 Hz cancel out, even ones add up.
TEST(LogMel, MirrorsTheAudioAheadOfItsFirstSample) {
  std::vector<float> samples(1000);
  samples[100] = 1;
  whisper::log_mel log_mel;
  whisper::matrix const mel = log_mel(samples);
  ASSERT_EQ(whisper::mel_filters().row(0).sum(), whisper::mel_filters()(0, 1)) << "the first band is of 40 Hz alone";
  EXPECT_EQ(mel(0, 0), mel.minCoeff());
  EXPECT_GT(mel.row(0).maxCoeff(), mel.maxCoeff() - .5f);
}

TEST(LogMel, RefusesMoreThanAWindow) {
  whisper::log_mel log_mel;
  EXPECT_THROW(log_mel(std::vector<float>(480001)), std::invalid_argument);
}

}  // namespace
