// SPDX-License-Identifier: BSD-3-Clause
// Weights added up for keys, and transposed weights times rows: random problems against the definition.
#include <attend/attention/softmax/key_sums.hpp>
#include <attend/policy/normalizer/relu.hpp>
#include <attend/policy/normalizer/sigmoid.hpp>
#include <attend/policy/normalizer/sinks.hpp>

#include "engine/random_combinations.hpp"

namespace attend {
using namespace options;

namespace {

using test::filled;
using test::normal;

/// Calls function(options...) without the options of that kind.
template <class Kind, class Function, class... Options>
void without(Function const& function, Options const&... options) {
  auto const keep = []<class Option>(Option const& option) {
    if constexpr (detail::has_kind<Kind, Option>)
      return std::tuple<>();
    else
      return std::tuple<Option const&>(option);
  };
  std::apply(function, std::tuple_cat(keep(options)...));
}

/// A random choice of the queries of each sequence, and what it means.
struct chosen_queries {
  detail::query_choice choice;
  std::function<bool(index_t query, index_t queries)> holds;
  std::optional<std::vector<std::int64_t>> list = {};
};

template <class Problem>
chosen_queries choose_queries(Problem& problem) {
  index_t const queries = problem.size.queries;
  switch (problem.from_to(0, 3)) {
    case 0: {
      index_t const n = problem.from_to(0, queries + 3);
      return {last_queries{n}, [=](index_t i, index_t all) { return i >= all - n; }};
    }
    case 1: {
      index_t const last = problem.from_to(0, queries), first = problem.from_to(0, last);
      return {query_range{first, last}, [=](index_t i, index_t) { return first <= i && i < last; }};
    }
    case 2: {
      std::vector<std::int64_t> list;
      for (index_t i = 0; i < queries; ++i)
        if (problem.chance(0.4)) list.push_back(i);
      return {{}, [list](index_t i, index_t) { return std::binary_search(list.begin(), list.end(), i); }, list};
    }
    default:
      return {{}, [](index_t, index_t) { return true; }};
  }
}

/// The masses of one random problem, and the transposed weights times rows, are those of the definition.
template <class T, class N>
testing::AssertionResult agrees(unsigned seed, N const& normalizer,
                                std::function<void(reference::options&, test::placed_sequence const&)> const& meaning) {
  using A = accumulation_t<T>;
  test::random_problem<T> problem(seed);
  test::sizes const& s = problem.size;
  chosen_queries chosen = choose_queries(problem);
  if (chosen.list) chosen.choice = query_list{*chosen.list};
  index_t const heads[] = {s.query_heads, s.key_heads, 1}, columns = problem.from_to(0, 20);
  index_t const of_mass = heads[problem.from_to(0, 2)], of_sums = heads[problem.from_to(0, 2)];
  auto mass = filled<A, 3>({s.batches, of_mass, s.keys}, A(7)), all = mass;
  auto sums = filled<A, 4>({s.batches, of_sums, s.keys, columns}, A(7));
  auto const rows = normal<T, 4>({s.batches, s.query_heads, s.queries, columns}, seed + 5000);
  auto const run = [&](auto const&... options) {
    test::outputs<T> out{filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(7)), {}, {}};
    tensor_view<A, 3> lse;
    softmax_attention(problem.in.query.view(), problem.in.key.view(), problem.in.value.view(), out.output.view(),
                      options..., key_mass(mass.view(), chosen.choice));
    without<option::value_gain>(
        [&](auto const&... rest) {
          transposed_attention(problem.in.query.view(), problem.in.key.view(), lse, rows.view(), sums.view(), rest...,
                               key_mass(all.view()));
        },
        options...);
    return out;
  };
  problem.also = [&](test::inputs<T> const& in, reference::options const& with, test::placed_sequence const& at) {
    auto const expected = reference::softmax_attention<T>(in.query.view(), in.key.view(), in.value.view(), with);
    auto const weight = [&](index_t head, index_t i, index_t j) {
      return expected.weights[static_cast<std::size_t>((head * at.queries + i) * at.keys + j)];
    };
    auto const check = [&](std::string const& what, double got, double meant, double terms) {
      if (with.settings != reference::normalizer::softmax) terms += static_cast<double>(at.queries);
      double const allowed = test::tolerance<A>(std::max(1.0, terms));
      return std::abs(got - meant) <= allowed ? testing::AssertionSuccess()
                                              : testing::AssertionFailure() << what << ": expected " << meant
                                                                            << " within " << allowed << ", got " << got;
    };
    for (index_t j = 0; j < at.keys; ++j) {
      for (bool every : {false, true})
        for (index_t h = 0; h < of_mass; ++h) {
          double sum = 0;
          for (index_t head = h * s.query_heads / of_mass; head < (h + 1) * s.query_heads / of_mass; ++head)
            for (index_t i = 0; i < at.queries; ++i)
              if (every || chosen.holds(i, at.queries)) sum += weight(head, i, j);
          if (auto result = check(
                  "mass", static_cast<double>((every ? all : mass).view()(at.batch, h, at.first_key + j)), sum, sum);
              !result)
            return result;
        }
      for (index_t h = 0; h < of_sums; ++h)
        for (index_t c = 0; c < columns; ++c) {
          double sum = 0, terms = 0;
          for (index_t head = h * s.query_heads / of_sums; head < (h + 1) * s.query_heads / of_sums; ++head)
            for (index_t i = 0; i < at.queries; ++i) {
              double const x =
                  weight(head, i, j) * static_cast<double>(rows.view()(at.batch, head, at.first_query + i, c));
              sum += x;
              terms += std::abs(x);
            }
          if (auto result =
                  check("sum", static_cast<double>(sums.view()(at.batch, h, at.first_key + j, c)), sum, terms);
              !result)
            return result;
        }
    }
    return testing::AssertionSuccess();
  };
  return problem.template agrees_with<false>(normalizer, meaning, run);
}

template <class T, class N>
void expect_agreement(unsigned first, int count, N const& normalizer,
                      std::function<void(reference::options&, test::placed_sequence const&)> const& meaning) {
  for (unsigned seed = first; seed < first + static_cast<unsigned>(count); ++seed)
    EXPECT_TRUE(agrees<T>(seed, normalizer, meaning)) << "seed " << seed;
}

TEST(KeySums, OfSoftmaxInFloat) {
  expect_agreement<float>(1000, 100, softmax{}, [](auto&, auto const&) {});
}

TEST(KeySums, OfSinksInDouble) {
  expect_agreement<double>(2000, 40, sinks(1.5),
                           [](reference::options& with, auto const&) { with.sink = [](index_t) { return 1.5; }; });
}

TEST(KeySums, OfSoftmaxInBfloat16) {
  expect_agreement<bfloat16>(3000, 40, softmax{}, [](auto&, auto const&) {});
}

TEST(KeySums, OfSigmoidInHalf) {
  expect_agreement<half>(4000, 40, sigmoid_weights{}, [](reference::options& with, test::placed_sequence const& s) {
    with.settings = reference::normalizer::sigmoid;
    with.sigmoid_bias = -std::log(std::max(1.0, static_cast<double>(s.keys)));
  });
}

TEST(KeySums, OfReluInFloat) {
  using reference::normalizer;
  std::pair<relu_scaling, normalizer> const kinds[] = {{relu_scaling::none, normalizer::relu},
                                                       {relu_scaling::count, normalizer::relu_by_count},
                                                       {relu_scaling::sum, normalizer::relu_by_sum}};
  unsigned seed = 5000;
  for (auto const& [scaling, meant] : kinds)
    expect_agreement<float>(seed += 100, 30, relu_weights{scaling},
                            [meant = meant](reference::options& with, auto const&) { with.settings = meant; });
}

}  // namespace
}  // namespace attend
