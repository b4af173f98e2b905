// SPDX-License-Identifier: BSD-3-Clause
// What is prefetched: streams in turns, whose pieces hold each byte once, and rows as runs of the two halves of a
// block.
#include <attend/engine/softmax/row_list.hpp>

#include <gtest/gtest.h>

#include <vector>

namespace attend {
namespace {

using engine::byte_run;
using engine::row_list;

std::vector<char const*> bytes_of(std::span<byte_run const> runs) {
  std::vector<char const*> all;
  for (byte_run const& run : runs)
    for (char const* byte = run.first; byte != run.last; ++byte) all.push_back(byte);
  return all;
}

TEST(ReadAhead, ListsStreamsInTurns) {
  std::vector<char> const memory(20000);
  char const* const at = memory.data();
  constexpr index_t piece = engine::piece_bytes;
  // Of different lengths, in several runs, of no run and of no bytes.
  byte_run const first[] = {{at, at + 3 * piece + 100}, {at + 5000, at + 5000 + piece}},
                 second[] = {{at + 8000, at + 8100}},
                 fourth[] = {{at + 9000, at + 9000}, {at + 10000, at + 10000 + 2 * piece}};
  std::span<byte_run const> const streams[] = {first, second, {}, fourth};
  std::vector<byte_run> listed(7 + 20000 / piece);
  listed.resize(static_cast<std::size_t>(engine::list_in_turns(streams, listed.data()) - listed.data()));
  ASSERT_GE(listed.size(), 3u);
  EXPECT_EQ(listed[0].first, first[0].first);
  EXPECT_EQ(listed[0].last, first[0].first + piece);
  EXPECT_EQ(listed[1].first, second[0].first);
  EXPECT_EQ(listed[1].last, second[0].last);
  for (byte_run const& run : listed) EXPECT_LE(run.last - run.first, piece);
  // Each stream's bytes are in its own order, and there are no others.
  std::size_t count = 0;
  auto const all = bytes_of(listed);
  for (auto const& stream : streams) {
    std::vector<char const*> const wanted = bytes_of(stream);
    std::size_t next = 0;
    for (char const* byte : all)
      if (next < wanted.size() && byte == wanted[next]) ++next;
    EXPECT_EQ(next, wanted.size());
    count += wanted.size();
  }
  EXPECT_EQ(all.size(), count);
}

TEST(ReadAhead, CutsRunsInTwo) {
  std::vector<char> const memory(20000);
  char const* const at = memory.data();
  constexpr index_t piece = engine::piece_bytes;
  std::vector<std::vector<byte_run>> const lists{{},
                                                 {{at, at + 100}},
                                                 {{at, at + 4 * piece}},
                                                 {{at, at + 2 * piece}, {at + 9000, at + 9000 + 2 * piece}},
                                                 {{at, at + 100}, {at + 5000, at + 5000 + 6 * piece}, {at, at + 30}}};
  for (auto const& runs : lists) {
    std::vector<byte_run> cut(runs.size() + 1);
    auto const parts = engine::cut_in_two(runs, cut.data());
    auto all = bytes_of(parts[0]);
    auto const second = bytes_of(parts[1]);
    // Equally many bytes, up to what whole pieces allow.
    EXPECT_LE(all.size(), second.size());
    EXPECT_LE(second.size() - all.size(), static_cast<std::size_t>(2 * piece));
    all.insert(all.end(), second.begin(), second.end());
    EXPECT_EQ(all, bytes_of(runs));
  }
}

/// Expects the list's runs to hold the first `count` rows, those of each half of a block in its half.
void expect_halves(row_list const& list, index_t count, index_t row_bytes) {
  std::vector<char const*> first, second;
  for (index_t i = 0; i < count; ++i)
    for (index_t byte = 0; byte < row_bytes; ++byte)
      (i < row_list::half ? first : second).push_back(static_cast<char const*>(list.row[i]) + byte);
  EXPECT_EQ(bytes_of(list.first_half()), first);
  EXPECT_EQ(bytes_of(list.second_half()), second);
}

TEST(RowList, HasRunsOfBothHalves) {
  constexpr index_t dimension = 3, row_bytes = dimension * 4;
  std::vector<float> const memory(4000);
  for (index_t const stride : {dimension, dimension + 2})
    for (index_t const lead : {0, 1, 31, 32, 40})
      for (index_t const rows : {1, 20, 24}) {
        SCOPED_TRACE(testing::Message() << stride << ' ' << lead << ' ' << rows);
        row_list list;
        list.clear();
        if (lead > 0) list.add(0, memory.data(), stride, lead, row_bytes);
        // The rows follow each other in memory, or lie apart.
        for (index_t const gap : {0, 1}) {
          row_list longer = list;
          longer.add(lead, memory.data() + (lead + gap) * stride, stride, rows, row_bytes);
          expect_halves(longer, lead + rows, row_bytes);
          if (stride == dimension) {
            EXPECT_LE(longer.runs, 3);
          }
        }
      }
}

TEST(RowList, HasListedRowsInBothHalves) {
  std::vector<float> const memory(1000);
  std::vector<std::int32_t> places;
  for (std::int32_t i = 0; i < 64; ++i) places.push_back(i + i / 5);
  row_list list;
  list.clear();
  list.add_listed(0, memory.data(), 4, places, 16);
  expect_halves(list, 64, 16);
}

}  // namespace
}  // namespace attend
