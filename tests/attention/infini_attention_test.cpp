// SPDX-License-Identifier: BSD-3-Clause
// Infini-attention against its definition, and what it is at the ends of its gate.
#include <attend/attention/linear/infini_attention.hpp>
#include <attend/core/eigen_tensor.hpp>
#include <attend/policy/functions.hpp>
#include <attend/policy/mask/predicate.hpp>
#include <attend/reference/infini_attention.hpp>

#include "support/sequence_problem.hpp"

namespace attend {
using namespace systems;

namespace {

using reference::row;
using test::sequence_inputs;

struct pieces {
  index_t segment;
  memory_update update = memory_update::linear;
  std::vector<float> gates = {0.4f, -1.f, 2.f, 0.f};

  template <class A = float>
  auto memory(index_t heads) const {
    return infini_memory<A>{segment, tensor_view<A const, 1>(gates.data(), {heads}), update};
  }
};

/// The definition's output, [batch, query head, token, column], with the memory of `other` where it is given.
template <class T>
std::vector<double> expected_output(sequence_inputs<T> const& in, pieces const& with, double factor,
                                    sequence_inputs<T> const* other = nullptr) {
  auto const& s = in.size;
  sequence_inputs<T> const& memory = other ? *other : in;
  std::vector<double> output;
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t h = 0; h < s.query_heads; ++h) {
      index_t const kh = h * s.key_heads / s.query_heads;
      reference::infini_rows rows;
      for (index_t i = 0; i < s.keys; ++i) {
        rows.query.push_back(reference::row_of<T>(in.query.view(), b, h, i));
        rows.memory_query.push_back(reference::row_of<T>(memory.query.view(), b, h, i));
        rows.key.push_back(reference::row_of<T>(in.key.view(), b, kh, i));
        rows.memory_key.push_back(reference::row_of<T>(memory.key.view(), b, kh, i));
        rows.value.push_back(reference::row_of<T>(in.value.view(), b, kh, i));
      }
      reference::infini_state state{std::vector<row>(std::size_t(s.dimension), row(std::size_t(s.columns))),
                                    row(std::size_t(s.dimension))};
      for (row const& o :
           reference::infini_attention(rows, state, std::size_t(with.segment), with.gates[std::size_t(h)], factor,
                                       with.update == memory_update::delta))
        output.insert(output.end(), o.begin(), o.end());
    }
  return output;
}

TEST(InfiniAttention, IsItsDefinition) {
  unsigned seed = 1;
  for (test::sequence_sizes const& s : std::vector<test::sequence_sizes>{{1, 1, 1, 1, 1, 1, 4, 4},
                                                                         {2, 4, 2, 2, 70, 70, 12, 9},
                                                                         {1, 2, 2, 2, 150, 150, 16, 33},
                                                                         {1, 2, 1, 1, 0, 0, 4, 4}})
    for (index_t segment : {1, 32, 64, 70, 1000})
      for (auto update : {memory_update::linear, memory_update::delta}) {
        sequence_inputs<float> const in(s, seed += 10);
        pieces const with{segment, update};
        auto const got = in.output([&](auto const&... t) { infini_attention(t..., with.memory(s.query_heads)); });
        EXPECT_TRUE(test::near(got.elements, expected_output(in, with, 1 / std::sqrt(double(s.dimension))),
                               test::tolerance<float>(8)))
            << segment;
      }
}

TEST(InfiniAttention, TheMemoryMayHaveItsOwnQueriesAndKeys) {
  test::sequence_sizes const s{1, 2, 1, 1, 90, 90, 8, 8};
  sequence_inputs<float> const in(s, 2), other(s, 3);
  pieces const with{32};
  auto const got = in.output([&](auto const&... t) {
    infini_attention(t..., with.memory(2), unrotated(other.query.view(), other.key.view()), scale(0.3));
  });
  EXPECT_TRUE(test::near(got.elements, expected_output(in, with, 0.3, &other), test::tolerance<float>(8)));
}

TEST(InfiniAttention, SixteenBitElementsRoundWhatTheMemorySays) {
  // Both parts are rounded before they are mixed, and the mix once more; a delta rounds what it writes.
  sequence_inputs<half> const in({1, 2, 2, 2, 60, 60, 8, 8}, 4);
  pieces const with{16, memory_update::delta};
  auto const got = in.output([&](auto const&... t) { infini_attention(t..., with.memory(2)); });
  EXPECT_TRUE(test::near(got.elements, expected_output(in, with, 1 / std::sqrt(8.0)), 4 * test::tolerance<half>(4)));
}

TEST(InfiniAttention, AStateCarriesSegments) {
  sequence_inputs<float> const in({1, 4, 2, 2, 100, 100, 8, 12}, 5);
  pieces const with{20, memory_update::delta};
  auto const whole = in.output([&](auto const&... t) { infini_attention(t..., with.memory(4)); });
  auto state = test::filled<float, 4>({1, 2, 8, 12}, 0);
  auto sum = test::filled<float, 3>({1, 2, 8}, 0);
  auto const cut = in.output([&](auto const& q, auto const& k, auto const& v, auto const& o) {
    for (index_t first : {0, 40, 60}) {
      index_t const last = first == 0 ? 40 : first == 40 ? 60 : 100;
      infini_attention(test::tokens<float const>(q, first, last), test::tokens<float const>(k, first, last),
                       test::tokens<float const>(v, first, last), test::tokens<float>(o, first, last), with.memory(4),
                       initial_state(state.view(), sum.view()), final_state(state.view(), sum.view()));
    }
  });
  EXPECT_TRUE(test::near(cut.elements, whole.elements, test::tolerance<float>(8)));
}

TEST(InfiniAttention, AClosedGateIsAttentionWithinSegments) {
  sequence_inputs<float> const in({1, 1, 1, 1, 50, 50, 8, 8}, 6);
  float const gate = -200;
  auto const got = in.output([&](auto const&... t) {
    infini_attention(t..., infini_memory<float>{16, tensor_view<float const, 1>(&gate, {1})});
  });
  auto const local = in.output([](auto const&... t) {
    softmax_attention(t..., mask([](auto query, auto key) { return query / 16 == key / 16; }) & causal{});
  });
  EXPECT_TRUE(test::near(got.elements, local.elements, test::tolerance<float>(4)));
}

TEST(InfiniAttention, AnOpenGateIsZeroWhereTheMemoryIsEmpty) {
  sequence_inputs<float> const in({1, 1, 1, 1, 50, 50, 8, 8}, 7);
  float const gate = 200;
  auto const got = in.output([&](auto const&... t) {
    infini_attention(t..., infini_memory<float>{16, tensor_view<float const, 1>(&gate, {1})});
  });
  for (std::size_t i = 0; i < 16 * 8; ++i) EXPECT_EQ(got.elements[i], 0);
}

TEST(InfiniAttention, GatesMayBeAList) {
  sequence_inputs<float> const in({1, 2, 1, 1, 40, 40, 8, 8}, 10);
  std::vector<float> const gates = {0.4f, -1.f};
  auto const of_list = in.output([&](auto const&... t) { infini_attention(t..., infini_memory<float>{16, gates}); });
  auto const of_view = in.output([&](auto const&... t) { infini_attention(t..., pieces{16}.memory(2)); });
  EXPECT_EQ(of_list.elements, of_view.elements);
  EXPECT_EQ(of_list.elements,
            in.output([&](auto const&... t) { infini_attention(t..., infini_memory(16, gates)); }).elements);
}

TEST(InfiniAttention, ValuesWithoutColumnsNeedNoMemory) {
  sequence_inputs<float> const in({1, 2, 2, 2, 40, 40, 8, 0}, 11);
  EXPECT_NO_THROW({
    auto const output = in.output([&](auto const&... t) { infini_attention(t..., pieces{16}.memory(2)); });
    EXPECT_TRUE(output.elements.empty());
  });
}

TEST(InfiniAttention, TheSameBitsForAnyNumberOfThreads) {
  sequence_inputs<float> const in({1, 4, 2, 2, 300, 300, 32, 32}, 8);
  pieces const with{64};
  auto const one = in.output([&](auto const&... t) { infini_attention(t..., with.memory(4)); });
  EXPECT_EQ(one.elements,
            in.output([&](auto const&... t) { infini_attention(t..., with.memory(4), threads{3}); }).elements);
}

TEST(InfiniAttention, RefusesWhatDoesNotFit) {
  auto const message = [](test::sequence_sizes const& s, auto const& with, auto const&... options) -> std::string {
    sequence_inputs<float> const in(s, 9);
    auto output = test::filled<float, 4>({s.batches, s.query_heads, s.queries, s.columns}, 7);
    std::string result;
    try {
      infini_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), with, options...);
    } catch (argument_error const& error) {
      result = error.what();
      for (float x : output.elements) EXPECT_EQ(x, 7);
    }
    return result;
  };
  pieces const with{16};
  test::sequence_sizes const good{1, 4, 2, 2, 9, 9, 8, 8};
  EXPECT_EQ(message(good, with.memory(4)), "");
  EXPECT_EQ(message(good, with.memory(3)), "infini_memory: expected gates 4 (as query heads), got 3");
  EXPECT_EQ(message(good, pieces{0}.memory(4)), "infini_memory: expected segments of at least 1 token, got 0");
  EXPECT_EQ(message({1, 4, 2, 2, 8, 9, 8, 8}, with.memory(4)), "query: expected tokens 9 (as key), got 8");
  EXPECT_EQ(message({1, 4, 2, 1, 9, 9, 8, 8}, with.memory(4)), "value: expected heads 2 (as key), got 1");
  EXPECT_EQ(message(good, with.memory(4), scale(1e300)), "scale: expected a finite number, got inf");
  auto const other = test::filled<float, 4>({1, 4, 9, 7}, 1);
  EXPECT_EQ(message(good, with.memory(4), unrotated(other.view(), other.view())),
            "unrotated (query): expected shape [1, 4, 9, 8] (as query), got [1, 4, 9, 7]");
  auto state = test::filled<float, 4>({1, 2, 8, 8}, 0);
  EXPECT_EQ(message(good, with.memory(4), final_state(state.view())),
            "final_state: expected a sum of keys of shape [1, 2, 8] (batch, state head, feature), got none");
  auto sum = test::filled<float, 3>({1, 2, 8}, 0);
  infini_memory<float> const over_sum(16, std::span<float const>(sum.elements.data() + 3, 4));
  EXPECT_EQ(message(good, over_sum, final_state(state.view(), sum.view())),
            "final_state: expected memory of its own, got memory that overlaps infini_memory (gates)");
}

}  // namespace
}  // namespace attend
