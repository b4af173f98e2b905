// SPDX-License-Identifier: BSD-3-Clause
// Centred windows: keys within reach of a real number of each query's own.
#include <attend/policy/mask/centred_window.hpp>

#include "support/pattern_masks.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

using test::expect_error, test::expect_mask, test::lengths, test::shape_of;

TEST(CentredWindow, AnswersSoundly) {
  std::mt19937 engine(5);
  for (auto [queries, keys] : lengths)
    for (double reach : {0., 0.5, 10., 1e9, infinity<double>}) {
      std::vector<float> centres;
      for (index_t i = 0; i < 4 * queries; ++i)
        centres.push_back(std::uniform_real_distribution<float>(-20, static_cast<float>(keys + 20))(engine));
      centres[0] = std::numeric_limits<float>::quiet_NaN();
      centres[1] = infinity<float>, centres[2] = -infinity<float>;
      tensor_view<float const, 2> const view(centres.data(), {4, queries});
      auto const visible = [&](reference::place const& at) {
        return std::abs(static_cast<double>(at.key) - view(at.head, at.query)) <= reach;
      };
      expect_mask(centred_window(view, reach), shape_of(queries, keys), visible,
                  testing::Message() << "reach " << reach);
    }
}

TEST(CentredWindow, RefusesWhatIsWrong) {
  std::vector<float> const centres(8, 1.f);
  expect_error("centred_window: expected a reach of at least 0, got -1", centred_window(centres, -1.), shape_of(8, 8));
  expect_error(
      "centred_window: expected shape [1, 4, 9] (batch, query head, query) with 1 for an axis that is shared, got [1, "
      "1, 8]",
      centred_window(centres, 1.), shape_of(9, 8));
}

}  // namespace
}  // namespace attend
