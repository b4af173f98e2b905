// SPDX-License-Identifier: BSD-3-Clause
// The bytes of a saved sequence (saved_sequence.hpp): headers, in the byte order of the machine that writes them, a
// checksum, and a reader that stays within what it is given.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>

#include "../core/check.hpp"
#include "../core/storage.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// The numbers of a shape that a store and a saved sequence have in common, in the order of their names.
inline constexpr char const* saved_shape_names[] = {
    "key elements",    "value elements", "key heads", "value heads", "key dimension", "value dimension",
    "stores of heads", "channel scales", "sinks",     "window",      "chunk",         "lists of kept tokens"};
inline constexpr std::size_t saved_shape_numbers = std::size(saved_shape_names);
using saved_shape = std::array<std::int64_t, saved_shape_numbers>;
/// Places of the later ones of these numbers.
struct saved_shape_at {
  enum : std::size_t { stores = 6, channel_scales, sinks, window, chunk, lists };
};

struct saved_header {
  std::array<char, 8> magic{'a', 't', 't', 'e', 'n', 'd', 'K', 'V'};
  std::uint32_t byte_order = 0x01020304, version = 2;
  std::uint64_t checksum = 0;
  std::int64_t bytes = 0;      // with the header
  std::int64_t sequences = 0;  // that were saved together
  std::int64_t size = 0;       // tokens
  saved_shape shape{};
};
struct saved_part {
  saved_shape shape{};
  std::int64_t reach = 0, oldest = 0;  // of a sequence_state
  std::int64_t summed = 0;             // tokens that are dropped, and in the sums
};
static_assert(std::has_unique_object_representations_v<saved_header> &&
                  std::has_unique_object_representations_v<saved_part>,
              "all bytes are defined");

template <StorageElement T>
inline constexpr std::int64_t element_number = std::same_as<T, float>         ? 1
                                               : std::same_as<T, double>      ? 2
                                               : std::same_as<T, half>        ? 3
                                               : std::same_as<T, bfloat16>    ? 4
                                               : std::same_as<T, std::int8_t> ? 5
                                                                              : 6;
inline std::string element_text(std::int64_t number) {
  char const* const names[] = {"float", "double", "half", "bfloat16", "std::int8_t", "int4_pair"};
  return number >= 1 && number <= std::ssize(names) ? names[number - 1] : "type " + std::to_string(number);
}

/// A sum of words of 8 bytes, which is another one wherever a single word is changed: each step maps different sums to
/// different ones. Four sums run side by side, since a multiplication takes longer than the reading of 8 bytes.
inline std::uint64_t checksum(std::span<std::byte const> bytes) {
  auto const mixed = [](std::uint64_t sum, std::uint64_t word) {
    sum = (sum ^ word) * 0x9e3779b97f4a7c15;  // odd, so that it has an inverse: 2^64 divided by the golden ratio
    return sum ^ (sum >> 32);
  };
  std::uint64_t sums[4] = {1, 2, 3, 4}, words[4];
  for (; bytes.size() >= sizeof(words); bytes = bytes.subspan(sizeof(words))) {
    std::memcpy(words, bytes.data(), sizeof(words));
    for (int i = 0; i < 4; ++i) sums[i] = mixed(sums[i], words[i]);
  }
  std::fill_n(words, 4, 0);
  if (!bytes.empty()) std::memcpy(words, bytes.data(), bytes.size());
  std::uint64_t sum = 0;
  for (int i = 0; i < 4; ++i) sum = mixed(sum, mixed(sums[i], words[i]));
  return sum;
}

/// Reads bytes from the front of a span. Throws argument_error where there are too few.
class saved_reader {
 public:
  explicit saved_reader(std::span<std::byte const> bytes) : bytes_(bytes) {}

  /// The next count * each bytes.
  std::span<std::byte const> take(index_t count, index_t each) {
    if (each > 0 && count > std::ssize(bytes_) / each)
      fail("saved", "expected ", count, " times ", each, " more bytes, got ", bytes_.size());
    auto const taken = bytes_.first(array_size(count * each));
    bytes_ = bytes_.subspan(taken.size());
    return taken;
  }
  template <class T>
  T take() {
    T value;
    std::memcpy(&value, take(1, sizeof(T)).data(), sizeof(T));
    return value;
  }
  index_t left() const { return std::ssize(bytes_); }

 private:
  std::span<std::byte const> bytes_;
};

/// Checks that bytes begin with a saved sequence that is as it was written, and returns its header.
inline saved_header check_saved(std::span<std::byte const> bytes) {
  saved_header const own;
  if (bytes.size() < sizeof(saved_header))
    fail("saved", "expected at least ", sizeof(saved_header), " bytes (those of a header), got ", bytes.size());
  auto const header = saved_reader(bytes).take<saved_header>();
  if (header.magic != own.magic) fail("saved", "expected bytes that save() wrote, got others");
  if (header.byte_order != own.byte_order)
    fail("saved", "expected the byte order of this machine, got that of another one");
  if (header.version != own.version) fail("saved", "expected version ", own.version, ", got ", header.version);
  if (header.bytes < std::int64_t{sizeof(saved_header)} || header.bytes > std::ssize(bytes))
    fail("saved", "expected ", header.bytes, " bytes (as the header says), got ", bytes.size());
  std::size_t const end = static_cast<std::size_t>(header.bytes), begin = offsetof(saved_header, bytes);
  if (checksum(bytes.subspan(begin, end - begin)) != header.checksum)
    fail("saved", "expected the bytes that save() wrote, got changed ones (by their checksum)");
  if (header.size < 0 || header.size >= token_limit)
    fail("saved", "expected from 0 to ", token_limit - 1, " tokens, got ", header.size);
  return header;
}

inline void check_saved_shape(saved_shape const& got, saved_shape const& expected) {
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (got[i] == expected[i]) continue;
    if (i < 2)
      fail("saved", "expected ", saved_shape_names[i], " ", element_text(expected[i]), " (as the cache), got ",
           element_text(got[i]));
    fail("saved", "expected ", saved_shape_names[i], " ", expected[i], " (as the cache), got ", got[i]);
  }
}

}  // namespace attend::inline ATTEND_TARGET::detail
