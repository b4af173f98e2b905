// SPDX-License-Identifier: BSD-3-Clause
// Functions of rows, element by element: of every length, in place, and nothing past the end.
#include <attend/simd/transform_row.hpp>

#include "support/compare.hpp"
#include "support/random_tensor.hpp"

namespace attend {
using namespace extend;

namespace {

template <class T>
void expect_transformed(index_t count) {
  using A = accumulation_t<T>;
  using V = simd::vector<A>;
  auto const x = test::normal<T, 1>({count}, 1);
  auto const y = test::normal<A, 1>({count}, 2);
  // One more element, which stays as it is.
  auto z = test::filled<T, 1>({count + 1}, T(7));
  simd::transform_row(
      z.elements.data(), count, [](V const& a, V const& b) { return a * b; }, x.elements.data(), y.elements.data());
  for (std::size_t c = 0; c < static_cast<std::size_t>(count); ++c)
    EXPECT_EQ(z.elements[c], static_cast<T>(static_cast<A>(x.elements[c]) * y.elements[c])) << c << " of " << count;
  EXPECT_EQ(z.elements.back(), T(7));

  auto const before = z.elements;
  simd::transform_row(z.elements.data(), count, [](V const& a) { return a + a; }, z.elements.data());
  for (std::size_t c = 0; c < static_cast<std::size_t>(count); ++c)
    EXPECT_EQ(z.elements[c], static_cast<T>(2 * static_cast<A>(before[c]))) << c << " of " << count << ", in place";
  EXPECT_EQ(z.elements.back(), T(7));
}

TEST(TransformRow, IsTheFunctionOfEachElement) {
  for (index_t count : {0, 1, 3, 15, 16, 17, 40}) {
    expect_transformed<float>(count);
    expect_transformed<double>(count);
    expect_transformed<half>(count);
    expect_transformed<bfloat16>(count);
  }
}

}  // namespace
}  // namespace attend
