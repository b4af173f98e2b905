// SPDX-License-Identifier: BSD-3-Clause
// Few queries and many keys: the tiled engine splits the keys and merges what the parts have summed up. And values that
// are the first columns of the keys.
#include <attend/policy/gain.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/key_lengths.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/policy/normalizer/sigmoid.hpp>
#include <attend/policy/normalizer/sinks.hpp>
#include <attend/policy/slots.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace options;

namespace {

constexpr test::sizes few{.batches = 2,
                          .query_heads = 6,
                          .key_heads = 2,
                          .value_heads = 1,
                          .queries = 7,
                          .keys = 5000,
                          .key_dimension = 24,
                          .value_dimension = 21};

TEST(SplitKeys, GiveWhatTheDefinitionSays) {
  auto const in = test::random_inputs<float>(few, 1, 2);
  reference::options with;
  EXPECT_TRUE(test::agrees(in, test::attend_to(in), with));
  with.visible = reference::causal_bottom_right();
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, causal{}), with));
  // Whole parts are hidden from some rows or from all.
  with.visible = reference::sliding_window(600, 0);
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, window{600, 0}), with));
  with.visible = [](reference::place const& at) { return at.key < (at.batch == 0 ? 0 : 700); };
  std::vector<std::int64_t> const lengths{0, 700};
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, key_lengths(lengths)), with));
}

TEST(SplitKeys, KeepSinksSlotsAndGates) {
  auto const in = test::random_inputs<double>(few, 2);
  std::vector<double> const sink{-1, 0, 1, 2, 3, 9}, gate{1, 0, 0.5, 2, 0, 1};
  auto const slot_key = test::normal<double, 4>({1, 2, 5, 24}, 3),
             slot_value = test::normal<double, 4>({1, 1, 5, 21}, 4);
  reference::options with;
  with.sink = [&](index_t head) { return sink[static_cast<std::size_t>(head)]; };
  with.slot_key = slot_key.view();
  with.slot_value = slot_value.view();
  with.head_gate = [&](index_t, index_t head) { return gate[static_cast<std::size_t>(head)]; };
  EXPECT_TRUE(test::agrees(
      in, test::attend_to(in, sinks(sink), prefix_key_values(slot_key.view(), slot_value.view()), head_gates(gate)),
      with, 2));
}

TEST(SplitKeys, AddWeightsThatKnowNoMaximum) {
  auto const in = test::random_inputs<float>(few, 5);
  reference::options with;
  with.settings = reference::normalizer::sigmoid;
  with.sigmoid_bias = -8;
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, sigmoid_weights{-8}), with));
}

TEST(SplitKeys, GiveTheSameBitsForAnyThreads) {
  auto const in = test::random_inputs<bfloat16>(few, 6);
  auto const alone = test::attend_to(in, causal{});
  for (int count : {2, 3, 7}) {
    auto const group_size = test::attend_to(in, causal{}, threads{count});
    EXPECT_TRUE(test::same_bits(alone.output.elements, group_size.output.elements)) << count;
    EXPECT_TRUE(test::same_bits(alone.log_sum_exp.elements, group_size.log_sum_exp.elements)) << count;
  }
}

/// Values are the first columns of the keys' own memory: the same bits as from memory of their own.
template <class T>
void expect_shared_rows(index_t key_dimension, index_t value_dimension, index_t stride, index_t queries) {
  SCOPED_TRACE(testing::Message() << key_dimension << ", " << value_dimension << " of " << stride << ", " << queries
                                  << " queries");
  index_t const heads = 5, keys = 300;
  auto const query = test::normal<T, 4>({1, heads, queries, key_dimension}, 1);
  auto const rows = test::normal<T, 2>({keys, stride}, 2);
  auto const view = [&](T const* data, index_t dimension) {
    return tensor_view<T const, 4>(data, {1, 1, keys, dimension}, {0, 0, stride, 1});
  };
  auto const apart = rows;
  auto shared = test::filled<T, 4>({1, heads, queries, value_dimension}, T(7)), separate = shared;
  softmax_attention(query.view(), view(rows.elements.data(), key_dimension),
                    view(rows.elements.data(), value_dimension), shared.view(), causal{});
  softmax_attention(query.view(), view(rows.elements.data(), key_dimension),
                    view(apart.elements.data(), value_dimension), separate.view(), causal{});
  EXPECT_TRUE(test::near(shared.elements, separate.elements, test::tolerance<T>(5)));
}

TEST(SharedRows, ServeAsKeysAndValues) {
  for (index_t queries : {1, 40}) {
    expect_shared_rows<float>(40, 32, 40, queries);
    expect_shared_rows<float>(40, 29, 47, queries);
    expect_shared_rows<float>(7, 7, 7, queries);
    expect_shared_rows<bfloat16>(40, 32, 40, queries);
    expect_shared_rows<bfloat16>(37, 30, 41, queries);
    expect_shared_rows<float>(24, 16, 1024, queries);
  }
}

}  // namespace
}  // namespace attend
