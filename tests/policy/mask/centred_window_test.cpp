// Centred windows: keys within reach of a real number of each query's own.
#include <attend/policy/mask/centred_window.hpp>

#include "support/mask_checks.hpp"

namespace attend {
namespace {

std::vector<std::pair<index_t, index_t>> const lengths{{1, 1},    {1, 200},  {200, 1},  {65, 65},
                                                       {30, 170}, {170, 30}, {257, 257}};

problem_shape shape_of(index_t queries, index_t keys, index_t heads = 4) {
  return {1, heads, 1, 1, queries, keys, 4, 4, 1};
}

template <class M>
void expect_mask(M const& mask, problem_shape const& shape, reference::visible_function const& visible,
                 testing::Message const& what) {
  EXPECT_TRUE(test::is_sound(mask, shape, visible))
      << what << ", " << shape.queries << " queries, " << shape.keys << " keys";
  EXPECT_TRUE(test::is_exact(mask, shape, visible))
      << what << ", " << shape.queries << " queries, " << shape.keys << " keys";
}

template <class M>
void expect_error(std::string const& message, M const& mask, problem_shape const& shape) {
  try {
    mask.check(shape);
    ADD_FAILURE() << "expected the error: " << message;
  } catch (argument_error const& error) {
    EXPECT_EQ(error.what(), message);
  }
}

TEST(CentredWindow, AnswersSoundly) {
  std::mt19937 engine(5);
  for (auto [queries, keys] : lengths)
    for (double reach : {0., 0.5, 10., 1e9}) {
      std::vector<float> centres;
      for (index_t i = 0; i < 4 * queries; ++i)
        centres.push_back(std::uniform_real_distribution<float>(-20, static_cast<float>(keys + 20))(engine));
      centres[0] = std::numeric_limits<float>::quiet_NaN();
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
