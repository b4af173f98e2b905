// SPDX-License-Identifier: BSD-3-Clause
// Packing: rows become lanes and come back, whatever their length, and only they are touched.
#include <attend/simd/pack.hpp>

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <vector>
#include <xsimd/memory/xsimd_aligned_allocator.hpp>

#include "simd/end_of_memory.hpp"

namespace attend::simd {
namespace {

template <class A>
using aligned = std::vector<A, xsimd::aligned_allocator<A, 64>>;

template <class T>
using row_memory = std::vector<std::unique_ptr<test::end_of_memory<T>>>;

/// Rows of `columns` elements, each at the end of memory of its own; every `null_every`th is null.
template <class T>
row_memory<T> make_rows(int lanes, index_t columns, int null_every) {
  row_memory<T> rows;
  for (int lane = 0; lane < lanes; ++lane)
    rows.push_back(lane % null_every == null_every - 1
                       ? nullptr
                       : std::make_unique<test::end_of_memory<T>>(static_cast<std::size_t>(columns)));
  return rows;
}

template <class Pointer, class T>
std::vector<Pointer> pointers(row_memory<T> const& rows) {
  std::vector<Pointer> result;
  for (auto const& row : rows) result.push_back(row ? row->data() : nullptr);
  return result;
}

/// A number of its own for each place, exact in all types up to 16 x 16.
template <class T>
T at(index_t lane, index_t column) {
  return static_cast<T>(static_cast<float>((lane % 16) * 16 + column % 16));
}

template <class T>
class Pack : public testing::Test {
 protected:
  template <class Check>
  static void for_shapes(Check const& check) {
    constexpr int step = width<accumulation_t<T>>;
    for (int lanes : {step, 2 * step, 3 * step})
      for (int columns : {0, 1, step - 1, step, step + 1, 2 * step, 3 * step - 1, 37})
        for (int null_every : {3, 1000}) {
          SCOPED_TRACE(testing::Message() << lanes << " lanes, " << columns << " columns, null every " << null_every);
          check(lanes, columns, null_every);
        }
  }
};
using Elements = testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(Pack, Elements);

TYPED_TEST(Pack, RowsBecomeLanes) {
  using T = TypeParam;
  using A = accumulation_t<T>;
  this->for_shapes([](int lanes, index_t columns, int null_every) {
    auto const rows = make_rows<T>(lanes, columns, null_every);
    for (int lane = 0; lane < lanes; ++lane)
      for (index_t column = 0; rows[static_cast<std::size_t>(lane)] && column < columns; ++column)
        (*rows[static_cast<std::size_t>(lane)])[static_cast<std::size_t>(column)] = at<T>(lane, column);
    // One column more than is written.
    aligned<A> packed(static_cast<std::size_t>(lanes * (columns + 1)), A(-1));
    pack_columns<T>(pointers<T const*>(rows).data(), lanes, columns, packed.data());
    for (index_t column = 0; column <= columns; ++column)
      for (int lane = 0; lane < lanes; ++lane) {
        bool const is_null = !rows[static_cast<std::size_t>(lane)];
        A const expected = column == columns ? A(-1) : is_null ? A(0) : at<A>(lane, column);
        ASSERT_EQ(packed[static_cast<std::size_t>(column * lanes + lane)], expected) << lane << ' ' << column;
      }
  });
}

TYPED_TEST(Pack, LanesBecomeRowsTimesTheirFactor) {
  using T = TypeParam;
  using A = accumulation_t<T>;
  this->for_shapes([](int lanes, index_t columns, int null_every) {
    auto const rows = make_rows<T>(lanes, columns, null_every);
    aligned<A> packed, factors;
    for (index_t column = 0; column < columns; ++column)
      for (int lane = 0; lane < lanes; ++lane) packed.push_back(at<A>(lane, column));
    for (int lane = 0; lane < lanes; ++lane) factors.push_back(A(1 << lane % 4));
    // Lanes without a row hold anything.
    for (int lane = 0; lane < lanes; ++lane)
      if (!rows[static_cast<std::size_t>(lane)]) factors[static_cast<std::size_t>(lane)] = std::nan("");
    unpack_columns<T>(packed.data(), lanes, columns, factors.data(), pointers<T*>(rows).data());
    for (int lane = 0; lane < lanes; ++lane)
      for (index_t column = 0; rows[static_cast<std::size_t>(lane)] && column < columns; ++column)
        ASSERT_EQ((*rows[static_cast<std::size_t>(lane)])[static_cast<std::size_t>(column)],
                  static_cast<T>(at<A>(lane, column) * A(1 << lane % 4)))
            << lane << ' ' << column;
  });
}

TYPED_TEST(Pack, RowsMayShareMemory) {
  using T = TypeParam;
  using A = accumulation_t<T>;
  // All lanes read one row, from an odd address on.
  std::vector<T> elements;
  for (int i = 0; i < 40; ++i) elements.push_back(at<T>(1, i));
  std::vector<T const*> const rows(width<A>, &elements[1]);
  aligned<A> packed(static_cast<std::size_t>(width<A> * 39));
  pack_columns<T>(rows.data(), width<A>, 39, packed.data());
  for (int column = 0; column < 39; ++column)
    for (int lane = 0; lane < width<A>; ++lane)
      ASSERT_EQ(packed[static_cast<std::size_t>(column * width<A> + lane)], at<A>(1, column + 1));
}

TYPED_TEST(Pack, UnpacksPartsOfLongerRows) {
  using T = TypeParam;
  using A = accumulation_t<T>;
  // The columns of one head between those of others: what stands around them stays.
  index_t const columns = width<A> + 3, row = columns + 8;
  std::vector<T> elements(static_cast<std::size_t>(width<A> * row), T(-1.f));
  std::vector<T*> rows;
  for (int lane = 0; lane < width<A>; ++lane) rows.push_back(&elements[static_cast<std::size_t>(lane * row + 4)]);
  aligned<A> const packed(static_cast<std::size_t>(width<A> * columns), A(5)), ones(width<A>, A(1));
  unpack_columns<T>(packed.data(), width<A>, columns, ones.data(), rows.data());
  for (index_t i = 0; i < width<A> * row; ++i)
    ASSERT_EQ(elements[static_cast<std::size_t>(i)], i % row >= 4 && i % row < 4 + columns ? T(5.f) : T(-1.f)) << i;
}

TEST(PackTruths, BecomeZeroAndOneInEitherWidth) {
  auto const check = [](auto zero) {
    using A = decltype(zero);
    int const lanes = 2 * width<A>;
    index_t const columns = 2 * width<A> + 3;
    auto const rows = make_rows<bool>(lanes, columns, 5);
    for (int lane = 0; lane < lanes; ++lane)
      for (index_t column = 0; rows[static_cast<std::size_t>(lane)] && column < columns; ++column)
        (*rows[static_cast<std::size_t>(lane)])[static_cast<std::size_t>(column)] = (lane + 2 * column) % 3 == 0;
    aligned<A> packed(static_cast<std::size_t>(lanes * columns), A(-1));
    pack_columns(pointers<bool const*>(rows).data(), lanes, columns, packed.data());
    for (index_t column = 0; column < columns; ++column)
      for (int lane = 0; lane < lanes; ++lane)
        ASSERT_EQ(packed[static_cast<std::size_t>(column * lanes + lane)],
                  A(rows[static_cast<std::size_t>(lane)] && (lane + 2 * column) % 3 == 0))
            << lane << ' ' << column;
  };
  check(0.f);
  check(0.);
}

TEST(PackColumns, LeavesWhatStandsBetweenColumns) {
  constexpr int lanes = 2 * width<float>;
  constexpr index_t columns = 5, stride = lanes + width<float>;
  std::vector<std::vector<float>> rows;
  std::vector<float const*> row;
  for (int lane = 0; lane < lanes; ++lane) {
    rows.emplace_back();
    for (index_t column = 0; column < columns; ++column) rows.back().push_back(at<float>(lane, column));
  }
  for (auto const& r : rows) row.push_back(r.data());
  aligned<float> to(columns * stride, -1.f);
  pack_columns(row.data(), lanes, columns, to.data(), stride);
  for (index_t column = 0; column < columns; ++column)
    for (index_t lane = 0; lane < stride; ++lane)
      ASSERT_EQ(to[static_cast<std::size_t>(column * stride + lane)], lane < lanes ? at<float>(lane, column) : -1.f);
}

}  // namespace
}  // namespace attend::simd
