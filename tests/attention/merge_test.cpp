// SPDX-License-Identifier: BSD-3-Clause
// Merging: keys held apart in any pieces, attended to apart, and merged, are the keys together. That is what attention
// over pieces on several machines (DistAttention, Lamina), around a ring, and over shared prefixes comes down to.
#include <Eigen/Core>

#include <attend/attention/softmax/merge.hpp>
#include <attend/policy/mask/causal.hpp>

#include <numeric>

#include "support/argument_errors.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace extend;

namespace {

/// Attention over some of the keys, with an output of its own.
template <class T>
struct piece {
  test::tensor<T, 4> output;
  test::tensor<accumulation_t<T>, 3> rows;

  partial_attention<T> part() const { return {output.view(), rows.view()}; }
};

/// Cuts the keys in so many pieces of random sizes, some of which may be empty.
template <class T>
std::vector<piece<T>> attend_in_pieces(test::inputs<T> const& in, int count, unsigned seed) {
  using A = accumulation_t<T>;
  auto const& s = in.size;
  std::mt19937 engine(seed);
  std::vector<index_t> cuts{0, s.keys};
  for (int i = 1; i < count; ++i) cuts.push_back(std::uniform_int_distribution<index_t>(0, s.keys)(engine));
  std::sort(cuts.begin(), cuts.end());
  std::vector<piece<T>> pieces;
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    index_t const keys = cuts[i + 1] - cuts[i];
    auto const some = [&](test::tensor<T, 4> const& all) {
      auto const view = all.view();
      return tensor_view<T const, 4>(view.data() + cuts[i] * view.stride(2),
                                     {view.extent(0), view.extent(1), keys, view.extent(3)}, view.strides());
    };
    piece<T> one{test::filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(7)),
                 test::filled<A, 3>({s.batches, s.query_heads, s.queries}, A(7))};
    // Queries stand where they stand among all of the keys.
    softmax_attention(in.query.view(), some(in.key), some(in.value), one.output.view(), log_sum_exp(one.rows.view()),
                      causal{offset(s.keys - s.queries - cuts[i])});
    pieces.push_back(std::move(one));
  }
  return pieces;
}

template <class T>
test::outputs<T> merged(std::vector<piece<T>> const& pieces, test::sizes const& s, threads settings = {1}) {
  std::vector<partial_attention<T>> parts;
  for (piece<T> const& one : pieces) parts.push_back(one.part());
  test::outputs<T> all{test::filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(7)),
                       test::filled<accumulation_t<T>, 3>({s.batches, s.query_heads, s.queries}, 7),
                       {}};
  merge(parts, all.output.view(), log_sum_exp(all.log_sum_exp.view()), settings);
  return all;
}

template <class T>
void expect_whole(test::sizes const& s, int pieces, unsigned seed) {
  auto const in = test::random_inputs<T>(s, seed);
  reference::options with;
  with.visible = reference::causal_bottom_right();
  // Each piece is rounded to T as well, hence the 2.
  EXPECT_TRUE(test::agrees(in, merged(attend_in_pieces(in, pieces, seed), s), with, 2)) << pieces << " pieces";
}

constexpr test::sizes some{.batches = 2,
                           .query_heads = 4,
                           .key_heads = 2,
                           .value_heads = 2,
                           .queries = 7,
                           .keys = 60,
                           .key_dimension = 24,
                           .value_dimension = 21};

TEST(Merge, OfAnyPiecesIsTheWhole) {
  for (int pieces : {1, 2, 3, 8, 60, 100}) {
    expect_whole<float>(some, pieces, static_cast<unsigned>(pieces));
    expect_whole<bfloat16>(some, pieces, static_cast<unsigned>(pieces));
  }
}

// A ring: the running result takes one piece after the other, in its own memory.
TEST(Merge, InPlaceOneAfterTheOther) {
  auto const in = test::random_inputs<float>(some, 3);
  auto pieces = attend_in_pieces(in, 5, 3);
  auto const group_size = merged(pieces, some);
  for (std::size_t i = 1; i < pieces.size(); ++i) {
    std::array const two{pieces[0].part(), pieces[i].part()};
    merge(two, pieces[0].output.view(), log_sum_exp(pieces[0].rows.view()));
  }
  EXPECT_TRUE(test::near(pieces[0].output.elements, group_size.output.elements, test::tolerance<float>(4)));
  EXPECT_TRUE(test::near(pieces[0].rows.elements, group_size.log_sum_exp.elements, test::tolerance<float>(8)));
}

TEST(Merge, GivesTheSameBitsWithThreads) {
  auto const in = test::random_inputs<float>(some, 4);
  auto const pieces = attend_in_pieces(in, 4, 4);
  auto const one = merged(pieces, some), several = merged(pieces, some, threads{3});
  EXPECT_TRUE(test::same_bits(one.output.elements, several.output.elements));
  EXPECT_TRUE(test::same_bits(one.log_sum_exp.elements, several.log_sum_exp.elements));
}

// A part that saw nothing has no influence, whatever it holds; where no part saw anything, the result says so.
TEST(Merge, TakesNothingFromWhatSawNothing) {
  float const nan = std::numeric_limits<float>::quiet_NaN(), nothing = -infinity<float>;
  std::vector<float> const first{1, 2, nan, nan}, second{nan, nan, nan, nan}, first_rows{0.5f, nothing},
      second_rows{nothing, nothing};
  std::vector<float> output(4, 7), rows(2, 7);
  tensor_view<float, 2> const to(output.data(), {2, 2});
  tensor_view<float, 1> const rows_to(rows.data(), {2});
  auto const part = [](std::vector<float> const& o, std::vector<float> const& l) {
    return partial_attention<float>(tensor_view<float const, 2>(o.data(), {2, 2}), l);
  };
  merge(std::array{part(first, first_rows), part(second, second_rows)}, to, log_sum_exp(rows_to));
  EXPECT_EQ(output, (std::vector<float>{1, 2, 0, 0}));
  EXPECT_EQ(rows, (std::vector<float>{0.5f, nothing}));
  merge(std::vector<partial_attention<float>>{}, to, log_sum_exp(rows_to));
  EXPECT_EQ(output, std::vector<float>(4, 0));
  EXPECT_EQ(rows, std::vector<float>(2, nothing));
}

TEST(Merge, KeepsFarApartLogits) {
  std::vector<float> const low{1}, high{2}, low_rows{-1000}, high_rows{1000};
  std::vector<float> output(1), rows(1);
  tensor_view<float, 2> const to(output.data(), {1, 1});
  merge(std::array{partial_attention<float>(tensor_view<float const, 2>(low.data(), {1, 1}), low_rows),
                   partial_attention<float>(tensor_view<float const, 2>(high.data(), {1, 1}), high_rows)},
        to, log_sum_exp(tensor_view<float, 1>(rows.data(), {1})));
  EXPECT_EQ(output[0], 2);
  EXPECT_EQ(rows[0], 1000);
}

TEST(Merge, SaysWhatIsWrong) {
  auto const part_output = test::filled<float, 4>({2, 3, 4, 5}, 1);
  auto const part_rows = test::filled<float, 3>({2, 3, 4}, 1);
  auto output = test::filled<float, 4>({2, 3, 4, 5}, 7);
  auto rows = test::filled<float, 3>({2, 3, 4}, 7);
  std::array const parts{partial_attention<float>(part_output.view(), part_rows.view())};
  auto const expect_error = [&](std::string const& message, auto const& call) {
    test::expect_error(message, call);
    EXPECT_EQ(output.elements, std::vector<float>(120, 7));
  };
  auto wide = test::filled<float, 4>({2, 3, 4, 6}, 7);
  expect_error("parts (output): expected head dimension 6 (as output), got 5", [&] { merge(parts, wide.view()); });
  auto fewer = test::filled<float, 3>({2, 3, 3}, 7);
  expect_error("log_sum_exp: expected tokens 4 (as output), got 3",
               [&] { merge(parts, output.view(), log_sum_exp(fewer.view())); });
  std::array const wrong{partial_attention<float>(part_output.view(), fewer.view())};
  expect_error("parts (log_sum_exp): expected tokens 4 (as output), got 3", [&] { merge(wrong, output.view()); });
  std::array const shifted{partial_attention<float>(
      tensor_view<float, 4>(output.elements.data(), {2, 3, 4, 5}, {30, 10, 5, 1}), part_rows.view())};
  expect_error("output: expected memory of its own, got memory that overlaps parts (output)",
               [&] { merge(shifted, output.view()); });
  expect_error("threads: expected a count of at least 0, got -1", [&] { merge(parts, output.view(), threads{-1}); });
}

}  // namespace
}  // namespace attend
