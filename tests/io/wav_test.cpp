// SPDX-License-Identifier: BSD-3-Clause
// The .wav reader: every kind of samples from bytes made by hand, and no damaged or hostile file gets past a clear
// std::runtime_error.
#include "wav.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;
using testing::StartsWith;

template <class T>
std::string bytes_of(std::vector<T> const& values) {
  std::string result(values.size() * sizeof(T), '\0');
  std::memcpy(result.data(), values.data(), result.size());
  return result;
}

std::string chunk(std::string const& name, std::string const& bytes) {
  return name + bytes_of<std::uint32_t>({static_cast<std::uint32_t>(bytes.size())}) + bytes +
         std::string(bytes.size() % 2, '\0');
}

std::string riff(std::string const& chunks) { return "RIFF" + bytes_of<std::uint32_t>({0}) + "WAVE" + chunks; }

struct stored {
  std::uint16_t encoding = 1, channels = 1, bits = 16;
  std::uint32_t rate = 16000;
  int frame_bytes = -1;  // what the others say, if negative
};

std::string format(stored const& as) {
  int const frame = as.frame_bytes >= 0 ? as.frame_bytes : as.channels * as.bits / 8;
  return bytes_of<std::uint16_t>({as.encoding, as.channels}) +
         bytes_of<std::uint32_t>({as.rate, as.rate * static_cast<std::uint32_t>(frame)}) +
         bytes_of<std::uint16_t>({static_cast<std::uint16_t>(frame), as.bits});
}

std::string wav(stored const& as, std::string const& data) {
  return riff(chunk("fmt ", format(as)) + chunk("data", data));
}

class WavTest : public testing::Test {
 protected:
  WavTest() : path_(std::filesystem::path(testing::TempDir()) / name()) {}
  ~WavTest() override { std::filesystem::remove(path_); }

  static std::string name() {
    return std::string("attend_wav_") + testing::UnitTest::GetInstance()->current_test_info()->name() + ".wav";
  }

  attend_io::audio read(std::string const& bytes) const {
    std::ofstream(path_, std::ios::binary) << bytes;
    return attend_io::read_wav(path_);
  }

  /// The message that the file is refused with, which has to name the file.
  std::string refusal(std::string const& bytes) const {
    try {
      read(bytes);
    } catch (std::runtime_error const& error) {
      EXPECT_THAT(error.what(), StartsWith(path_.string()));
      return error.what();
    }
    return "not refused";
  }

  std::filesystem::path path_;
};

TEST_F(WavTest, ReadsIntegers) {
  auto const audio = read(wav({.bits = 8, .rate = 8000}, bytes_of<std::uint8_t>({0, 128, 192, 255})));
  EXPECT_EQ(audio.rate, 8000u);
  EXPECT_THAT(audio.samples, ElementsAre(-1, 0, .5f, 127 / 128.f));
  EXPECT_THAT(read(wav({}, bytes_of<std::int16_t>({-32768, 0, 16384}))).samples, ElementsAre(-1, 0, .5f));
  EXPECT_THAT(read(wav({.bits = 24}, bytes_of<std::uint8_t>({0, 0, 0x80, 0, 0, 0x40, 1, 0, 0}))).samples,
              ElementsAre(-1, .5f, 0x1p-23f));
  EXPECT_THAT(read(wav({.bits = 32}, bytes_of<std::int32_t>({-0x7FFFFFFF - 1, 0x40000000}))).samples,
              ElementsAre(-1, .5f));
}

TEST_F(WavTest, ReadsFloats) {
  EXPECT_THAT(read(wav({.encoding = 3, .bits = 32}, bytes_of<float>({-1, .25f}))).samples, ElementsAre(-1, .25f));
  EXPECT_THAT(read(wav({.encoding = 3, .bits = 64}, bytes_of<double>({-1, .25}))).samples, ElementsAre(-1, .25f));
}

TEST_F(WavTest, MixesChannels) {
  EXPECT_THAT(read(wav({.channels = 2}, bytes_of<std::int16_t>({16384, 0, -16384, -32768}))).samples,
              ElementsAre(.25f, -.75f));
}

TEST_F(WavTest, ReadsTheExtensibleFormat) {
  std::string const extension = bytes_of<std::uint16_t>({22, 32}) + bytes_of<std::uint32_t>({4}) +
                                bytes_of<std::uint16_t>({3}) + std::string(14, 'x');
  EXPECT_THAT(read(riff(chunk("fmt ", format({.encoding = 0xFFFE, .bits = 32}) + extension) +
                        chunk("data", bytes_of<float>({.5f}))))
                  .samples,
              ElementsAre(.5f));
}

TEST_F(WavTest, SkipsOtherChunks) {
  EXPECT_THAT(read(riff(chunk("LIST", "odd") + chunk("fmt ", format({})) + chunk("fact", "four") +
                        chunk("data", bytes_of<std::int16_t>({16384})) + "anything"))
                  .samples,
              ElementsAre(.5f));
}

TEST_F(WavTest, TakesAllThatIsLeftWhereAWriterToAPipeSaysNoSize) {
  for (std::uint32_t const size : {0x7FFFF000u, 0x7FFFFFFFu, 0xFFFFFFFFu}) {
    std::string const file = riff(chunk("fmt ", format({})) + "data" + bytes_of<std::uint32_t>({size}));
    EXPECT_THAT(read(file + bytes_of<std::int16_t>({16384, 0}) + "x").samples, ElementsAre(.5f, 0));
    EXPECT_THAT(refusal(file), HasSubstr("expected samples, got none"));
  }
}

TEST_F(WavTest, RefusesOtherFiles) {
  EXPECT_THAT(refusal(""), HasSubstr("expected a .wav file, got an empty one"));
  EXPECT_THAT(refusal("RIFF"), HasSubstr("begins with RIFF and WAVE"));
  EXPECT_THAT(refusal("OggS" + std::string(100, 'x')), HasSubstr("begins with RIFF and WAVE"));
  EXPECT_THAT(refusal("RIFF" + std::string(4, '\0') + "AVI " + std::string(100, 'x')), HasSubstr("RIFF and WAVE"));
  EXPECT_THROW(attend_io::read_wav(path_.string() + ".none"), std::runtime_error);
  EXPECT_THROW(attend_io::read_wav(testing::TempDir()), std::runtime_error);
}

TEST_F(WavTest, RefusesFilesThatEndEarly) {
  std::string const whole = wav({}, bytes_of<std::int16_t>({1, 2, 3, 4}));
  for (std::size_t size = 0; size < whole.size(); ++size)
    EXPECT_THAT(refusal(whole.substr(0, size)), testing::Not("not refused")) << size << " bytes";
  EXPECT_THAT(refusal(whole.substr(0, whole.size() - 1)), HasSubstr("expected 8 bytes for the samples, got 7"));
  EXPECT_THAT(read(whole).samples, SizeIs(4));
}

TEST_F(WavTest, RefusesChunksThatDoNotFit) {
  std::string const samples = chunk("data", bytes_of<std::int16_t>({1}));
  EXPECT_THAT(refusal(riff(samples)), HasSubstr("expected the chunk 'fmt ' before the chunk 'data'"));
  EXPECT_THAT(refusal(riff(chunk("fmt ", format({})))), HasSubstr("expected a chunk 'data'"));
  EXPECT_THAT(refusal(wav({}, "")), HasSubstr("expected samples, got none"));
  EXPECT_THAT(refusal(wav({}, "x")), HasSubstr("expected samples, got none"));
  EXPECT_THAT(refusal(riff(chunk("fmt ", "short") + samples)), HasSubstr("fmt: truncated"));
  EXPECT_THAT(refusal(riff(chunk("fmt ", format({.encoding = 0xFFFE})) + samples)), HasSubstr("the extension"));
  EXPECT_THAT(refusal(riff("LIST" + bytes_of<std::uint32_t>({0xFFFFFFFF}) + "x")),
              HasSubstr("expected 4294967295 bytes for the chunk 'LIST', got 1"));
}

TEST_F(WavTest, RefusesFormatsThatItDoesNotKnow) {
  std::string const data(64, 'x');
  EXPECT_THAT(refusal(wav({.encoding = 2}, data)), HasSubstr("got encoding 2"));
  EXPECT_THAT(refusal(wav({.bits = 12}, data)), HasSubstr("integers of 8, 16, 24 or 32 bits, got 12"));
  EXPECT_THAT(refusal(wav({.encoding = 3, .bits = 16}, data)), HasSubstr("floats of 32 or 64 bits, got 16"));
  EXPECT_THAT(refusal(wav({.channels = 0}, data)), HasSubstr("expected at least 1 channel"));
  EXPECT_THAT(refusal(wav({.rate = 0}, data)), HasSubstr("expected at least 1 sample a second"));
  EXPECT_THAT(refusal(wav({.frame_bytes = 3}, data)), HasSubstr("expected frames of 2 bytes"));
}

TEST_F(WavTest, RefusesSamplesThatAreNoNumbers) {
  float const nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(refusal(wav({.encoding = 3, .bits = 32}, bytes_of<float>({0, nan}))), HasSubstr("at 1"));
  EXPECT_THAT(refusal(wav({.encoding = 3, .bits = 64}, bytes_of<double>({1e300}))), HasSubstr("got inf at 0"));
}

}  // namespace
