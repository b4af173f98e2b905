// SPDX-License-Identifier: BSD-3-Clause
// Argument checks: each refuses what it is for, in words that name the argument, what was expected and what came, and
// lets the rest pass. Overlap is compared with the addresses of all elements.
#include <attend/core/check.hpp>

#include <gtest/gtest.h>

#include <random>
#include <unordered_set>
#include <vector>

namespace attend {
using namespace extend;

namespace {

constexpr index_t most = std::numeric_limits<index_t>::max();

template <class Check>
std::string refusal(Check const& check) {
  try {
    check();
  } catch (argument_error const& error) {
    return error.what();
  }
  return "not refused";
}

template <class T, int Rank>
std::string refusal_of_view(tensor_view<T, Rank> const& view) {
  return refusal([&] { detail::check_view("key", view); });
}

template <class T, int Rank>
std::string refusal_of_output(tensor_view<T, Rank> const& view) {
  return refusal([&] { detail::check_output_view("output", view); });
}

TEST(ArgumentError, IsAnInvalidArgumentWithAMessageInOneStyle) {
  static_assert(std::is_base_of_v<std::invalid_argument, argument_error>);
  EXPECT_EQ(refusal([] { fail("window", "expected at least ", -1, " on a side, got ", -2.5, '!'); }),
            "window: expected at least -1 on a side, got -2.5!");
}

TEST(CheckExtent, NamesTheOtherArgument) {
  EXPECT_EQ(refusal([] { detail::check_extent("key", "head dimension", 96, 128, "query"); }),
            "key: expected head dimension 128 (as query), got 96");
  EXPECT_EQ(refusal([] { detail::check_extent("key", "head dimension", 128, 128, "query"); }), "not refused");
}

TEST(CheckFinite, RefusesInfinitiesAndNaN) {
  EXPECT_EQ(refusal([] { detail::check_finite("scale", 1e300); }), "not refused");
  EXPECT_EQ(refusal([] { detail::check_finite("scale", infinity<double>); }),
            "scale: expected a finite number, got inf");
  EXPECT_EQ(refusal([] { detail::check_finite("scale", -infinity<double>); }),
            "scale: expected a finite number, got -inf");
  EXPECT_NE(refusal([] { detail::check_finite("scale", std::nan("")); }), "not refused");
}

TEST(CheckView, LetsUsualTensorsPass) {
  float elements[120];
  EXPECT_EQ(refusal_of_view(tensor_view<float, 4>(elements, {2, 3, 4, 5})), "not refused");
  EXPECT_EQ(refusal_of_view(tensor_view<float const, 4>(elements, {2, 4, 3, 5}, {60, 5, 20, 1})), "not refused");
  EXPECT_EQ(refusal_of_view(tensor_view<float, 3>(elements, {9, 4, 5}, {0, 5, 1})), "not refused") << "broadcast";
  EXPECT_EQ(refusal_of_view(tensor_view<float, 2>(elements + 115, {4, 5}, {-5, 1})), "not refused") << "backwards";
  EXPECT_EQ(refusal_of_view(tensor_view<float, 2>(elements, {4, 1}, {5, 17})), "not refused")
      << "an extent of 1 has no use for its stride";
}

TEST(CheckView, LetsEmptyTensorsPassWithoutData) {
  EXPECT_EQ(refusal_of_view(tensor_view<float, 3>()), "not refused");
  EXPECT_EQ(refusal_of_view(tensor_view<float, 3>(nullptr, {4, 0, 5})), "not refused");
  EXPECT_EQ(refusal_of_view(tensor_view<float, 3>(nullptr, {4, 5, 0})), "not refused");
  EXPECT_EQ(refusal_of_view(tensor_view<float, 2>(nullptr, {0, 5}, {1, 2})), "not refused");
}

TEST(CheckView, RefusesNegativeExtents) {
  float element;
  EXPECT_EQ(refusal_of_view(tensor_view<float, 3>(&element, {2, -3, 4})),
            "key: expected extents of at least 0, got [2, -3, 4]");
  EXPECT_EQ(refusal_of_view(tensor_view<float, 2>(&element, {0, -1})),
            "key: expected extents of at least 0, got [0, -1]");
  EXPECT_EQ(refusal_of_view(tensor_view<float, 2>(&element, {-1, -1})),
            "key: expected extents of at least 0, got [-1, -1]");
}

TEST(CheckView, RefusesExtentsWhoseProductOverflows) {
  float element;
  EXPECT_EQ(refusal_of_view(tensor_view<float, 2>(&element, {index_t{1} << 32, index_t{1} << 32})),
            "key: expected extents whose product fits in memory, got [4294967296, 4294967296]");
  // The strides are harmless: it is the number of elements that is not.
  EXPECT_EQ(refusal_of_view(tensor_view<float, 3>(&element, {most, 2, 2}, {0, 0, 1})),
            "key: expected extents whose product fits in memory, got [9223372036854775807, 2, 2]");
  EXPECT_NE(refusal_of_view(tensor_view<float, 3>(nullptr, {0, most, 2})), "not refused")
      << "an extent of 0 does not hide the others";
}

TEST(CheckView, RefusesMoreBytesThanCanBeCounted) {
  char unused = 0;
  auto* const elements = reinterpret_cast<double*>(&unused);
  EXPECT_EQ(refusal_of_view(tensor_view<double, 2>(elements, {index_t{1} << 30, index_t{1} << 30}, {0, 1})),
            "key: expected extents whose product fits in memory, got [1073741824, 1073741824]");
  EXPECT_EQ(refusal_of_view(tensor_view<double, 2>(elements, {index_t{1} << 29, index_t{1} << 30}, {0, 1})),
            "not refused");
}

TEST(CheckView, RefusesALastStrideOtherThanOne) {
  float elements[64];
  EXPECT_EQ(refusal_of_view(tensor_view<float, 2>(elements, {4, 5}, {10, 2})),
            "key: expected a last stride of 1, got 2");
  EXPECT_EQ(refusal_of_view(tensor_view<float, 1>(elements, {4}, {0})), "key: expected a last stride of 1, got 0");
  EXPECT_EQ(refusal_of_view(tensor_view<float, 1>(elements + 4, {4}, {-1})),
            "key: expected a last stride of 1, got -1");
}

TEST(CheckView, RefusesStridesThatLeaveMemory) {
  float element;
  std::string const message = "key: expected strides that stay in memory, got extents [3, 4] and strides ";
  auto const with_stride = [&](index_t stride) {
    return refusal_of_view(tensor_view<float, 2>(&element, {3, 4}, {stride, 1}));
  };
  EXPECT_EQ(with_stride(most), message + "[9223372036854775807, 1]") << "the product overflows";
  EXPECT_EQ(with_stride(most / 2), message + "[4611686018427387903, 1]") << "the sum overflows";
  EXPECT_EQ(with_stride(most / 8), message + "[1152921504606846975, 1]") << "the bytes overflow";
  EXPECT_EQ(with_stride(-most / 4), message + "[-2305843009213693951, 1]") << "the bytes overflow downwards";
  EXPECT_EQ(with_stride(most / 32), message + "[288230376151711743, 1]") << "more bytes than there are addresses";
  EXPECT_EQ(with_stride(-most / 32), message + "[-288230376151711743, 1]");
  EXPECT_EQ(with_stride(most / 128), "not refused");
  EXPECT_EQ(with_stride(-most / 128), "not refused");
  EXPECT_EQ(refusal_of_view(tensor_view<float, 2>(&element, {1, 4}, {most, 1})), "not refused")
      << "an extent of 1 takes no step";
}

TEST(CheckView, RefusesElementsWithoutData) {
  EXPECT_EQ(refusal_of_view(tensor_view<float, 2>(nullptr, {2, 3})), "key: expected data for extents [2, 3], got null");
}

TEST(CheckOutputView, RefusesABroadcastAxis) {
  float elements[60];
  EXPECT_EQ(refusal_of_output(tensor_view<float, 3>(elements, {4, 3, 5}, {15, 0, 1})),
            "output: expected distinct elements, got stride 0 on axis 1 of extent 3");
  EXPECT_EQ(refusal_of_output(tensor_view<float, 3>(elements, {4, 1, 5}, {5, 0, 1})), "not refused");
  EXPECT_EQ(refusal_of_output(tensor_view<float, 3>(elements, {0, 3, 5}, {0, 0, 1})), "not refused");
  EXPECT_EQ(refusal_of_output(tensor_view<float, 3>(elements, {4, 3, 5})), "not refused");
}

TEST(CheckOutputView, ChecksWhatEveryViewIsCheckedFor) {
  float elements[60];
  EXPECT_EQ(refusal_of_output(tensor_view<float, 2>(elements, {4, 5}, {10, 2})),
            "output: expected a last stride of 1, got 2");
  EXPECT_EQ(refusal_of_output(tensor_view<float, 2>(nullptr, {4, 5})),
            "output: expected data for extents [4, 5], got null");
}

template <class T, int Rank>
std::vector<char const*> addresses(tensor_view<T, Rank> const& view) {
  std::vector<char const*> found{reinterpret_cast<char const*>(view.data())};
  for (int axis = 0; axis < Rank; ++axis) {
    std::vector<char const*> further;
    for (char const* address : found)
      for (index_t i = 0; i < view.extent(axis); ++i)
        further.push_back(address + i * view.stride(axis) * static_cast<index_t>(sizeof(T)));
    found = std::move(further);
  }
  return found;
}

/// Whether any byte belongs to an element of both: the definition.
template <class A, class B, int Rank>
bool share_bytes(tensor_view<A, Rank> const& a, tensor_view<B, Rank> const& b) {
  std::unordered_set<char const*> bytes;
  for (char const* address : addresses(a))
    for (std::size_t i = 0; i < sizeof(A); ++i) bytes.insert(address + i);
  for (char const* address : addresses(b))
    for (std::size_t i = 0; i < sizeof(B); ++i)
      if (bytes.contains(address + i)) return true;
  return false;
}

template <class A, class B, int Rank>
testing::AssertionResult apart(tensor_view<A, Rank> const& a, tensor_view<B, Rank> const& b) {
  bool const reported = detail::overlap(a, b);
  if (reported != detail::overlap(b, a)) return testing::AssertionFailure() << "the two orders disagree";
  if (!reported && share_bytes(a, b)) return testing::AssertionFailure() << "reported apart, but elements coincide";
  if (reported) return testing::AssertionFailure() << "reported to overlap";
  return testing::AssertionSuccess();
}

template <class A, class B, int Rank>
testing::AssertionResult overlapping(tensor_view<A, Rank> const& a, tensor_view<B, Rank> const& b) {
  if (!share_bytes(a, b)) return testing::AssertionFailure() << "no element coincides: not what the test means";
  if (!detail::overlap(a, b) || !detail::overlap(b, a)) return testing::AssertionFailure() << "reported apart";
  return testing::AssertionSuccess();
}

using matrix = tensor_view<float, 2>;

TEST(Overlap, OfSeparateRangesIsNone) {
  float elements[40];
  EXPECT_TRUE(apart(matrix(elements, {4, 5}), matrix(elements + 20, {4, 5}))) << "one right behind the other";
  EXPECT_TRUE(apart(matrix(elements, {2, 5}), matrix(elements + 15, {5, 3})));
  EXPECT_TRUE(apart(matrix(elements + 5, {2, 5}, {-5, 1}), matrix(elements + 10, {2, 5})))
      << "the first runs backwards";
  EXPECT_TRUE(overlapping(matrix(elements + 10, {2, 5}, {-5, 1}), matrix(elements + 10, {2, 5})));
}

TEST(Overlap, OfATensorWithItself) {
  float elements[40];
  EXPECT_TRUE(overlapping(matrix(elements, {4, 5}), matrix(elements, {4, 5})));
  EXPECT_TRUE(overlapping(matrix(elements, {4, 5}, {10, 1}), matrix(elements, {4, 5}, {10, 1})));
  EXPECT_TRUE(overlapping(matrix(elements, {4, 5}), matrix(elements, {5, 4})));
}

TEST(Overlap, OfPartsOfTensors) {
  float elements[40];
  EXPECT_TRUE(overlapping(matrix(elements, {4, 5}), matrix(elements + 19, {4, 5}))) << "one element";
  EXPECT_TRUE(overlapping(matrix(elements, {4, 5}), matrix(elements + 7, {1, 1}))) << "one inside the other";
}

TEST(Overlap, OfEmptyTensorsIsNone) {
  float elements[40];
  EXPECT_TRUE(apart(matrix(elements, {4, 0}), matrix(elements, {4, 5})));
  EXPECT_TRUE(apart(matrix(elements, {0, 5}), matrix(elements, {0, 5})));
  EXPECT_TRUE(apart(matrix(), matrix(elements, {4, 5})));
}

TEST(Overlap, OfColumnsIsDecidedByTheRemainderOfTheShift) {
  float elements[40];
  matrix const written(elements, {3, 6}, {10, 1});
  // Columns 8 to 13: the last four of them are the first four of the next row.
  EXPECT_TRUE(overlapping(written, matrix(elements + 8, {3, 6}, {10, 1})));
  EXPECT_TRUE(overlapping(written, matrix(elements + 5, {3, 2}, {10, 1})));
  EXPECT_TRUE(overlapping(written, matrix(elements + 15, {1, 6}, {10, 1}))) << "a row that starts in the last column";
  EXPECT_TRUE(apart(written, matrix(elements + 6, {3, 4}, {10, 1})));
  EXPECT_TRUE(apart(written, matrix(elements + 16, {2, 4}, {10, 1}))) << "the same columns, one row later";
}

TEST(Overlap, OfTheColumnsOfOnePackedBufferIsNone) {
  // [batch, token, (query, key, value, output) x head x dimension], read as [batch, head, token, dimension].
  index_t const batches = 2, tokens = 5, heads = 3, dimension = 4, row = 4 * heads * dimension;
  std::vector<float> buffer(static_cast<std::size_t>(batches * tokens * row));
  auto const columns = [&](index_t part) {
    return tensor_view<float, 4>(buffer.data() + part * heads * dimension, {batches, heads, tokens, dimension},
                                 {tokens * row, dimension, row, 1});
  };
  for (int a = 0; a < 4; ++a)
    for (int b = 0; b < 4; ++b)
      if (a == b)
        EXPECT_TRUE(overlapping(columns(a), columns(b)));
      else
        EXPECT_TRUE(apart(columns(a), columns(b))) << a << ' ' << b;
  // One column too far to the left, into the last head of the part before.
  for (index_t part = 1; part < 4; ++part) {
    tensor_view<float, 4> const shifted(columns(part).data() - 1, columns(part).extents(), columns(part).strides());
    EXPECT_TRUE(overlapping(columns(part - 1), shifted)) << part;
  }
}

TEST(Overlap, OfHeadsThatAreInterleavedIsNone) {
  // [token, head, (query, key, value), dimension]: the parts alternate from head to head.
  index_t const tokens = 5, heads = 3, dimension = 4;
  std::vector<half> buffer(static_cast<std::size_t>(tokens * heads * 3 * dimension));
  auto const part = [&](index_t which) {
    return tensor_view<half, 3>(buffer.data() + which * dimension, {heads, tokens, dimension},
                                {3 * dimension, heads * 3 * dimension, 1});
  };
  EXPECT_TRUE(apart(part(0), part(1)));
  EXPECT_TRUE(apart(part(0), part(2)));
  EXPECT_TRUE(apart(part(1), part(2)));
}

TEST(Overlap, OfGroupedHeadsInOnePackedBufferIsNone) {
  // Query and output have eight heads, key and value two.
  index_t const tokens = 5, dimension = 4, row = (8 + 2 + 2 + 8) * dimension;
  std::vector<float> buffer(static_cast<std::size_t>(tokens * row));
  auto const columns = [&](index_t first_head, index_t heads) {
    return tensor_view<float, 3>(buffer.data() + first_head * dimension, {heads, tokens, dimension},
                                 {dimension, row, 1});
  };
  auto const query = columns(0, 8), key = columns(8, 2), value = columns(10, 2), output = columns(12, 8);
  EXPECT_TRUE(apart(output, query));
  EXPECT_TRUE(apart(output, key));
  EXPECT_TRUE(apart(output, value));
  EXPECT_TRUE(apart(query, key));
  EXPECT_TRUE(overlapping(columns(7, 2), query));
  EXPECT_TRUE(overlapping(columns(11, 8), value));
}

TEST(Overlap, OfHeadsOfDifferentDimensionsInOnePackedBufferIsNone) {
  index_t const tokens = 5, heads = 3, key_dimension = 6, value_dimension = 4;
  index_t const row = heads * (2 * key_dimension + 2 * value_dimension);
  std::vector<float> buffer(static_cast<std::size_t>(tokens * row));
  auto const columns = [&](index_t first, index_t dimension) {
    return tensor_view<float, 3>(buffer.data() + first, {heads, tokens, dimension}, {dimension, row, 1});
  };
  auto const query = columns(0, key_dimension), key = columns(heads * key_dimension, key_dimension);
  auto const value = columns(heads * 2 * key_dimension, value_dimension);
  auto const output = columns(heads * (2 * key_dimension + value_dimension), value_dimension);
  EXPECT_TRUE(apart(output, query));
  EXPECT_TRUE(apart(output, key));
  EXPECT_TRUE(apart(output, value));
  EXPECT_TRUE(overlapping(columns(1, value_dimension), query));
}

TEST(Overlap, IsCheckedBetweenElementTypes) {
  alignas(8) char buffer[160];
  auto* const halves = reinterpret_cast<half*>(buffer);
  auto* const floats = reinterpret_cast<float*>(buffer);
  tensor_view<half, 2> const written(halves, {4, 6}, {20, 1});
  EXPECT_TRUE(overlapping(written, tensor_view<float, 2>(floats, {4, 3}, {10, 1})));
  EXPECT_TRUE(overlapping(written, tensor_view<float, 2>(floats + 12, {1, 1})));
  EXPECT_TRUE(apart(written, tensor_view<float, 2>(floats + 33, {1, 7}))) << "behind the last";
  // Not on a boundary of elements: the second half of one and the first of the next.
  EXPECT_TRUE(overlapping(written, tensor_view<half, 2>(reinterpret_cast<half*>(buffer + 11), {4, 1}, {20, 1})));
}

// Random views, some laid out like tensors and some in no order: never apart where elements coincide.
template <class A, class B>
void expect_no_overlap_missed(unsigned seed) {
  std::mt19937 engine(seed);
  auto const number = [&](int least, int largest) {
    return std::uniform_int_distribution<int>(least, largest)(engine);
  };
  std::vector<char> memory(1 << 14);
  char* const middle = memory.data() + memory.size() / 2;
  int reported_apart = 0, reported_overlapping = 0;
  for (int trial = 0; trial < 10000; ++trial) {
    bool const nested = number(0, 1) == 0, same_extents = number(0, 1) == 0;
    std::array<index_t, 3> strides{}, other_strides{}, extents{}, other_extents{};
    index_t stride = 1;
    for (int axis = 2; axis >= 0; --axis) {
      extents[axis] = number(1, 4);
      other_extents[axis] = same_extents ? extents[axis] : number(1, 4);
      strides[axis] = nested ? stride : number(-12, 12);
      stride *= std::max(extents[axis], other_extents[axis]) + number(0, 2);
      // Strides count elements: the same step in bytes, where there is one.
      index_t const step = strides[axis] * static_cast<index_t>(sizeof(A)), size = static_cast<index_t>(sizeof(B));
      other_strides[axis] = step % size == 0 && (nested || number(0, 2) > 0) ? step / size : number(-12, 12);
    }
    if (number(0, 1)) {
      std::swap(strides[0], strides[1]), std::swap(other_strides[0], other_strides[1]);
      std::swap(extents[0], extents[1]), std::swap(other_extents[0], other_extents[1]);
    }
    index_t const shift = number(-40, 40) * static_cast<index_t>(sizeof(A)) + (number(0, 9) == 0 ? number(0, 3) : 0);
    tensor_view<A, 3> const a(reinterpret_cast<A*>(middle), extents, strides);
    tensor_view<B, 3> const b(reinterpret_cast<B*>(middle + shift), other_extents, other_strides);
    bool const reported = detail::overlap(a, b), true_answer = share_bytes(a, b);
    ASSERT_TRUE(reported || !true_answer)
        << "apart, but elements coincide: extents " << detail::shape_text<3>(extents) << ' '
        << detail::shape_text<3>(other_extents) << " strides " << detail::shape_text<3>(strides) << ' '
        << detail::shape_text<3>(other_strides) << " shift " << shift;
    ASSERT_EQ(reported, detail::overlap(b, a));
    // Where the axes are nested like a tensor's, the answer is exact.
    if (nested && sizeof(A) == sizeof(B)) {
      ASSERT_EQ(reported, true_answer) << "extents " << detail::shape_text<3>(extents) << ' '
                                       << detail::shape_text<3>(other_extents) << " strides "
                                       << detail::shape_text<3>(strides) << " shift " << shift;
    }
    bool const ranges_meet = [&] {
      auto const all = addresses(a), others = addresses(b);
      auto const [first, last] = std::minmax_element(all.begin(), all.end());
      auto const [other_first, other_last] = std::minmax_element(others.begin(), others.end());
      return *first <= *other_last && *other_first <= *last;
    }();
    if (ranges_meet) ++(reported ? reported_overlapping : reported_apart);
  }
  EXPECT_GT(reported_apart, 100) << "the test has lost its interleaved cases";
  EXPECT_GT(reported_overlapping, 100);
}

TEST(Overlap, IsNeverMissedBetweenRandomViewsOfOneType) { expect_no_overlap_missed<float, float const>(1); }
TEST(Overlap, IsNeverMissedBetweenRandomViewsOfTwoTypes) { expect_no_overlap_missed<half, float const>(2); }

TEST(CheckApart, NamesBoth) {
  float elements[40];
  matrix const output(elements, {4, 5});
  tensor_view<float const, 2> const key(elements + 12, {4, 5});
  EXPECT_EQ(refusal([&] { detail::check_apart("output", output, "key", key); }),
            "output: expected memory of its own, got memory that overlaps key");
  EXPECT_EQ(refusal([&] {
              detail::check_apart("output", output, "key", tensor_view<float const, 2>(elements + 20, {4, 5}));
            }),
            "not refused");
}

}  // namespace
}  // namespace attend
