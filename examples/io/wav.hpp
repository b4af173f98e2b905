// SPDX-License-Identifier: BSD-3-Clause
// Reads .wav: RIFF files of uncompressed audio, as microphones, editors and speech synthesizers write them.
//
//     attend_io::audio const recording = attend_io::read_wav("speech.wav");
//     std::cout << recording.samples.size() / recording.rate << " seconds\n";
//
// The layout: "RIFF", a size, "WAVE", then chunks of a name, a size and as many bytes, padded to an even number. "fmt "
// says how samples are stored, "data" has them, one of each channel in turn; other chunks are skipped. Reads integers
// of 8 bits (without a sign), 16, 24 and 32 bits, and floats of 32 and 64. Channels are mixed into one, their mean.
//
// A file is not trusted. Whatever is wrong with it is a std::runtime_error that names the file.
//
// Microsoft and IBM: Multimedia Programming Interface and Data Specifications 1.0, 1991.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "bytes.hpp"
#include "elements.hpp"

namespace attend_io {

struct audio {
  std::vector<float> samples;  ///< one channel, from -1 to 1 where the file has integers
  std::uint32_t rate = 0;      ///< samples a second
};

namespace wav_detail {

struct format {
  std::uint16_t encoding, channels, frame_bytes, bits;
  std::uint32_t rate;

  std::size_t sample_bytes() const { return bits / std::size_t{8}; }
};

inline constexpr std::uint16_t integers = 1, floats = 3, extensible = 0xFFFE;

/// From here on a size means "until the end of the file": what programs write that write to a pipe, and cannot come
/// back to say how long it was.
inline constexpr std::uint32_t unknown_size = 0x7FFFF000;

/// Throws std::runtime_error where the samples are stored in another way than those that the file's first lines name.
inline format read_format(std::span<std::byte const> chunk, std::string const& file) {
  detail::byte_reader reader(chunk, file + ": fmt");
  format result{};
  result.encoding = reader.number<std::uint16_t>("the encoding");
  result.channels = reader.number<std::uint16_t>("the number of channels");
  result.rate = reader.number<std::uint32_t>("the rate");
  reader.take(4, "the bytes a second");
  result.frame_bytes = reader.number<std::uint16_t>("the bytes of a frame");
  result.bits = reader.number<std::uint16_t>("the bits of a sample");
  if (result.encoding == extensible) {
    reader.take(8, "the extension");
    result.encoding = reader.number<std::uint16_t>("the extension's encoding");
  }

  auto const is_one_of = [&](auto... bits) { return ((result.bits == bits) || ...); };
  if (result.encoding != integers && result.encoding != floats)
    throw std::runtime_error(file + ": expected uncompressed samples (encoding 1 or 3), got encoding " +
                             std::to_string(result.encoding));
  if (result.encoding == integers ? !is_one_of(8, 16, 24, 32) : !is_one_of(32, 64))
    throw std::runtime_error(file + ": expected " +
                             (result.encoding == integers ? "integers of 8, 16, 24 or 32" : "floats of 32 or 64") +
                             " bits, got " + std::to_string(result.bits));
  if (result.channels == 0) throw std::runtime_error(file + ": expected at least 1 channel, got 0");
  if (result.rate == 0) throw std::runtime_error(file + ": expected at least 1 sample a second, got 0");
  if (result.frame_bytes != result.channels * result.sample_bytes())
    throw std::runtime_error(file + ": expected frames of " + std::to_string(result.channels * result.sample_bytes()) +
                             " bytes (" + std::to_string(result.channels) + " channels of " +
                             std::to_string(result.bits) + " bits), got " + std::to_string(result.frame_bytes));
  return result;
}

/// A signed integer of some bytes, the last of which has the sign, as a fraction of the largest.
inline float fraction(std::byte const* bytes, std::size_t count) {
  std::uint32_t raw = 0;
  std::memcpy(reinterpret_cast<std::byte*>(&raw) + (sizeof raw - count), bytes, count);
  return static_cast<float>(static_cast<std::int32_t>(raw)) * 0x1p-31f;
}

/// All samples of all channels, one behind the other.
inline std::vector<float> read_samples(std::span<std::byte const> data, format const& stored) {
  if (stored.encoding == floats)
    return stored.bits == 32 ? detail::rounded<float, float>(data) : detail::rounded<float, double>(data);
  if (stored.bits == 8)
    return detail::converted<float, std::uint8_t>(data,
                                                  [](int element) { return static_cast<float>(element - 128) / 128; });
  std::vector<float> result;
  std::size_t const size = stored.sample_bytes();
  result.reserve(data.size() / size);
  for (std::size_t offset = 0; offset + size <= data.size(); offset += size)
    result.push_back(fraction(data.data() + offset, size));
  return result;
}

inline std::vector<float> mixed(std::vector<float> samples, std::size_t channels) {
  if (channels == 1) return samples;
  std::vector<float> result(samples.size() / channels);
  for (std::size_t frame = 0; frame < result.size(); ++frame) {
    double sum = 0;
    for (std::size_t channel = 0; channel < channels; ++channel)
      sum += static_cast<double>(samples[frame * channels + channel]);
    result[frame] = static_cast<float>(sum / static_cast<double>(channels));
  }
  return result;
}

}  // namespace wav_detail

/// Reads a .wav file as one channel. Throws std::runtime_error where it cannot be read, is no .wav file, ends early,
/// has no samples or some that are not numbers, or stores them in a way that this reader does not know.
///
///     attend_io::audio const recording = attend_io::read_wav("speech.wav");
inline audio read_wav(std::filesystem::path const& path) {
  std::string const file = path.string();
  std::vector<std::byte> const bytes = detail::read_file(path);
  detail::byte_reader reader(bytes, file);
  if (bytes.empty()) throw std::runtime_error(file + ": expected a .wav file, got an empty one");
  bool const is_riff = bytes.size() >= 12 && std::memcmp(bytes.data(), "RIFF", 4) == 0;
  if (!is_riff || std::memcmp(bytes.data() + 8, "WAVE", 4) != 0)
    throw std::runtime_error(file + ": expected a .wav file, which begins with RIFF and WAVE");
  reader.take(12, "the header");

  std::optional<wav_detail::format> stored;
  while (reader.left() > 0) {
    auto const name = reader.text(4, "the name of a chunk");
    auto const size = reader.number<std::uint32_t>("the size of a chunk");
    if (name != "data") {
      auto const chunk = reader.take(size, "the chunk " + detail::excerpt(name, 4));
      if (name == "fmt ") stored = wav_detail::read_format(chunk, file);
      if (size % 2 == 1 && reader.left() > 0) reader.take(1, "padding");
      continue;
    }
    if (!stored) throw std::runtime_error(file + ": expected the chunk 'fmt ' before the chunk 'data', got none");
    bool const is_known = size < wav_detail::unknown_size;
    auto const data = reader.take(is_known ? size : reader.left(), "the samples");
    // A writer that was stopped may leave a part of a frame behind.
    auto const whole = data.first(data.size() - data.size() % stored->frame_bytes);
    if (whole.empty()) throw std::runtime_error(file + ": expected samples, got none");
    std::vector<float> samples = wav_detail::read_samples(whole, *stored);
    for (std::size_t i = 0; i < samples.size(); ++i)
      if (!std::isfinite(samples[i]))
        throw std::runtime_error(file + ": expected finite samples, got " + std::to_string(samples[i]) + " at " +
                                 std::to_string(i));
    return {wav_detail::mixed(std::move(samples), stored->channels), stored->rate};
  }
  throw std::runtime_error(file + ": expected a chunk 'data' with samples, got none");
}

}  // namespace attend_io
