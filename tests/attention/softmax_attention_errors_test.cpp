// SPDX-License-Identifier: BSD-3-Clause
// Tensors that do not fit each other, or memory, or what is made of them: every error has its own message, and nothing
// is written before it is found.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/gain.hpp>
#include <attend/policy/sequence/sequences.hpp>
#include <attend/policy/slots.hpp>

#include "support/argument_errors.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

using test::index_numbers, test::read_view, test::write_view;
using Errors = test::argument_errors;

constexpr index_t huge = index_t{1} << 62;

TEST_F(Errors, AreStandardExceptions) { EXPECT_THROW(softmax_attention(q(), q(), v(), o()), std::invalid_argument); }

TEST_F(Errors, OfExtents) {
  float const* const data = in.query.elements.data();
  expect_view_error("query: expected extents of at least 0, got [2, 6, -1, 8]", {data, {2, 6, -1, 8}}, k(), v(), o());
  expect_view_error("key: expected extents of at least 0, got [2, -3, 9, 8]", q(), {data, {2, -3, 9, 8}}, v(), o());
  expect_view_error("value: expected extents of at least 0, got [-2, 3, 9, 4]", q(), k(), {data, {-2, 3, 9, 4}}, o());
  expect_view_error("output: expected extents of at least 0, got [2, 6, 5, -4]", q(), k(), v(),
                    {output.elements.data(), {2, 6, 5, -4}});
  std::string const too_large = "expected extents whose product fits in memory, got [4611686018427387904, 6, 5, 8]";
  expect_view_error("query: " + too_large, {data, {huge, 6, 5, 8}}, k(), v(), o());
  expect_view_error("key: " + too_large, q(), {data, {huge, 6, 5, 8}}, v(), o());
  expect_view_error("value: " + too_large, q(), k(), {data, {huge, 6, 5, 8}}, o());
  expect_view_error("output: " + too_large, q(), k(), v(), {output.elements.data(), {huge, 6, 5, 8}});
  // A product that fits as a number of elements, not of bytes; and one that only a zero would make small.
  expect_view_error("query: expected extents whose product fits in memory, got [1, 1, 4611686018427387904, 1]",
                    {data, {1, 1, huge, 1}}, k(), v(), o());
  expect_view_error("query: expected extents whose product fits in memory, got [0, 4611686018427387904, 4, 8]",
                    {data, {0, huge, 4, 8}}, k(), v(), o());
}

TEST_F(Errors, OfStrides) {
  float const* const data = in.query.elements.data();
  expect_view_error("query: expected a last stride of 1, got 2", {data, {2, 6, 5, 8}, {480, 80, 16, 2}}, k(), v(), o());
  expect_view_error("key: expected a last stride of 1, got 0", q(), {data, {2, 3, 9, 8}, {0, 0, 0, 0}}, v(), o());
  expect_view_error("value: expected a last stride of 1, got -1", q(), k(), {data, {2, 2, 9, 4}, {72, 36, 4, -1}}, o());
  expect_view_error("output: expected a last stride of 1, got 3", q(), k(), v(),
                    {output.elements.data(), {2, 6, 5, 4}, {0, 0, 0, 3}});
  expect_view_error(
      "query: expected strides that stay in memory, got extents [2, 6, 5, 8] and strides [4611686018427387904, 40, 8, "
      "1]",
      {data, {2, 6, 5, 8}, {huge, 40, 8, 1}}, k(), v(), o());
  expect_view_error(
      "key: expected strides that stay in memory, got extents [2, 3, 9, 8] and strides [216, -4611686018427387904, 8, "
      "1]",
      q(), {data, {2, 3, 9, 8}, {216, -huge, 8, 1}}, v(), o());
  for (int axis : {0, 1, 2}) {
    auto strides = o().strides();
    strides[static_cast<std::size_t>(axis)] = 0;
    expect_view_error("output: expected distinct elements, got stride 0 on axis " + std::to_string(axis) +
                          " of extent " + std::to_string(o().extent(axis)),
                      q(), k(), v(), {output.elements.data(), o().extents(), strides});
  }
}

TEST_F(Errors, OfMissingData) {
  expect_view_error("query: expected data for extents [2, 6, 5, 8], got null", {nullptr, q().extents()}, k(), v(), o());
  expect_view_error("key: expected data for extents [2, 3, 9, 8], got null", q(), {nullptr, k().extents()}, v(), o());
  expect_view_error("value: expected data for extents [2, 2, 9, 4], got null", q(), k(), {nullptr, v().extents()}, o());
  expect_view_error("output: expected data for extents [2, 6, 5, 4], got null", q(), k(), v(),
                    {nullptr, o().extents()});
}

TEST_F(Errors, OfShapes) {
  float const* const data = in.query.elements.data();
  auto const shaped = [&](index_t b, index_t h, index_t i, index_t c) { return read_view(data, {b, h, i, c}); };
  auto const written = [&](index_t b, index_t h, index_t i, index_t c) {
    return write_view(output.elements.data(), {b, h, i, c});
  };
  expect_view_error("key: expected batch 2 (as query), got 1", q(), shaped(1, 3, 9, 8), v(), o());
  expect_view_error("key: expected head dimension 8 (as query), got 6", q(), shaped(2, 3, 9, 6), v(), o());
  expect_view_error("key: expected a head count that divides 6 (query), got 4", q(), shaped(2, 4, 9, 8), v(), o());
  expect_view_error("key: expected a head count that divides 6 (query), got 0", q(), shaped(2, 0, 9, 8), v(), o());
  expect_view_error("key: expected a head count that divides 6 (query), got 12", q(), shaped(2, 12, 2, 8), v(), o());
  expect_view_error("value: expected batch 2 (as query), got 3", q(), k(), shaped(3, 2, 9, 4), o());
  expect_view_error("value: expected tokens 9 (as key), got 8", q(), k(), shaped(2, 2, 8, 4), o());
  expect_view_error("value: expected a head count that divides 6 (query), got 5", q(), k(), shaped(2, 5, 9, 4), o());
  expect_view_error("value: expected a head count that divides 6 (query), got 0", q(), k(), shaped(2, 0, 9, 4), o());
  expect_view_error("output: expected batch 2 (as query), got 1", q(), k(), v(), written(1, 6, 5, 4));
  expect_view_error("output: expected heads 6 (as query), got 3", q(), k(), v(), written(2, 3, 5, 4));
  expect_view_error("output: expected tokens 5 (as query), got 4", q(), k(), v(), written(2, 6, 4, 4));
  expect_view_error("output: expected head dimension 4 (as value), got 2", q(), k(), v(), written(2, 6, 5, 2));
  index_t const many = token_limit;
  expect_view_error("query: expected fewer than 536870912 tokens, got 536870912", {data, {2, 6, many, 8}, {0, 0, 0, 1}},
                    k(), v(), o());
  expect_view_error("key: expected fewer than 536870912 tokens, got 536870912", q(),
                    {data, {2, 3, many, 8}, {0, 0, 0, 1}}, v(), o());
}

TEST_F(Errors, OfOverlap) {
  std::vector<float> memory(1000, 7);
  auto const reads = [&](test::tensor<float, 4> const& like, index_t first) {
    return read_view(memory.data() + first, like.extents);
  };
  auto const expect_overlap = [&](char const* input, read_view query, read_view key, read_view value,
                                  write_view written) {
    expect_error(std::string("output: expected memory of its own, got memory that overlaps ") + input,
                 [&] { softmax_attention(query, key, value, written); });
    EXPECT_TRUE(std::all_of(memory.begin(), memory.end(), [](float x) { return x == 7; }));
  };
  // The output's 240 elements begin at 200. Inputs begin within them, at the last of them, or end at the first.
  write_view const at_200(memory.data() + 200, {2, 6, 5, 4});
  index_t const values = static_cast<index_t>(in.value.elements.size());
  expect_overlap("query", reads(in.query, 250), k(), v(), at_200);
  expect_overlap("query", reads(in.query, 439), k(), v(), at_200);
  expect_overlap("key", q(), reads(in.key, 200), v(), at_200);
  expect_overlap("value", q(), k(), reads(in.value, 439), at_200);
  expect_overlap("value", q(), k(), reads(in.value, 201 - values), at_200);
  // Side by side is no overlap.
  softmax_attention(reads(in.query, 440), k(), reads(in.value, 200 - values), at_200);
}

TEST_F(Errors, OfOverlapOfMoreOutputs) {
  std::vector<float> memory(2000, 7);
  auto const reads = [&](test::tensor<float, 4> const& like, index_t first) {
    return read_view(memory.data() + first, like.extents);
  };
  tensor_view<float, 3> const rows_at_600(memory.data() + 600, {2, 6, 5});
  write_view const pairs_at_600(memory.data() + 600, {2, 6, 5, 9}), output_at_600(memory.data() + 600, {2, 6, 5, 4});
  auto const expect_overlap = [&](char const* written, char const* other, auto&& call) {
    expect_error(std::string(written) + ": expected memory of its own, got memory that overlaps " + other, call);
    EXPECT_TRUE(std::all_of(memory.begin(), memory.end(), [](float x) { return x == 7; }));
  };
  auto const with_rows = [&](read_view query, read_view key, read_view value, write_view written) {
    return [=] { softmax_attention(query, key, value, written, log_sum_exp(rows_at_600)); };
  };
  expect_overlap("log_sum_exp", "query", with_rows(reads(in.query, 640), k(), v(), o()));
  expect_overlap("log_sum_exp", "key", with_rows(q(), reads(in.key, 640), v(), o()));
  expect_overlap("log_sum_exp", "value", with_rows(q(), k(), reads(in.value, 640), o()));
  expect_overlap("log_sum_exp", "output", with_rows(q(), k(), v(), output_at_600));
  auto const with_pairs = [&](read_view query, read_view key, read_view value, write_view written) {
    return [=] { softmax_attention(query, key, value, written, weights(pairs_at_600)); };
  };
  expect_overlap("weights", "query", with_pairs(reads(in.query, 640), k(), v(), o()));
  expect_overlap("weights", "key", with_pairs(q(), reads(in.key, 640), v(), o()));
  expect_overlap("weights", "value", with_pairs(q(), k(), reads(in.value, 640), o()));
  expect_overlap("weights", "output", with_pairs(q(), k(), v(), output_at_600));
  expect_overlap("weights", "log_sum_exp",
                 [&] { softmax_attention(q(), k(), v(), o(), log_sum_exp(rows_at_600), weights(pairs_at_600)); });
  expect_overlap("logits", "value",
                 [&] { softmax_attention(q(), k(), reads(in.value, 640), o(), logits(pairs_at_600)); });
  expect_overlap("logits", "weights",
                 [&] { softmax_attention(q(), k(), v(), o(), weights(pairs_at_600), logits(pairs_at_600)); });
  expect_overlap("weights", "query", [&] { attention_weights(reads(in.query, 640), k(), pairs_at_600); });
  // An output and weights side by side in the same rows of 4 and 9.
  std::vector<float> shared(2 * 6 * 5 * 13, 7);
  std::array<index_t, 4> const strides{6 * 5 * 13, 5 * 13, 13, 1};
  softmax_attention(q(), k(), v(), write_view(shared.data(), {2, 6, 5, 4}, strides),
                    weights(write_view(shared.data() + 4, {2, 6, 5, 9}, strides)));
}

TEST_F(Errors, OfSlots) {
  auto const key = [](index_t b, index_t h, index_t n, index_t c) { return test::filled<float, 4>({b, h, n, c}, 1); };
  auto const expect_slots = [&](std::string const& message, test::tensor<float, 4> const& keys,
                                test::tensor<float, 4> const& values) {
    expect_option_error(message, prefix_key_values(keys.view(), values.view()));
  };
  expect_slots("prefix_key_values (keys): expected 1 or 2 batches, got 3", key(3, 3, 4, 8), key(1, 2, 4, 4));
  expect_slots("prefix_key_values (keys): expected heads 3 (as key), got 6", key(1, 6, 4, 8), key(1, 2, 4, 4));
  expect_slots("prefix_key_values (keys): expected dimension 8 (as key), got 4", key(1, 3, 4, 4), key(1, 2, 4, 4));
  expect_slots("prefix_key_values (values): expected 1 or 2 batches, got 0", key(1, 3, 4, 8), key(0, 2, 4, 4));
  expect_slots("prefix_key_values (values): expected heads 2 (as value), got 3", key(1, 3, 4, 8), key(1, 3, 4, 4));
  expect_slots("prefix_key_values (values): expected dimension 4 (as value), got 8", key(1, 3, 4, 8), key(1, 2, 4, 8));
  expect_slots("prefix_key_values (values): expected slots 4 (as the keys), got 5", key(1, 3, 4, 8), key(1, 2, 5, 4));
  expect_option_error("key_bias: expected heads 3 (as key), got 2", key_bias(key(1, 2, 4, 8).view()));
  expect_option_error("key_bias: expected dimension 8 (as key), got 9", key_bias(key(1, 3, 4, 9).view()));
  expect_option_error("key_bias: expected data for extents [1, 3, 4, 8], got null",
                      key_bias(tensor_view<float const, 3>(nullptr, {3, 4, 8})));
}

TEST_F(Errors, OfGains) {
  std::string const expected =
      "value_gain: expected shape [2, 2, 9] (batch, value head, key) with 1 for a batch or head that is shared, got ";
  expect_option_error(expected + "[1, 1, 8]", value_gain(test::several<float>(8)));
  expect_option_error(expected + "[1, 1, 1]", value_gain(test::several<float>(1)));
  expect_option_error(expected + "[1, 3, 9]", value_gain(test::filled<float, 2>({3, 9}, 1).view()));
  expect_option_error(expected + "[3, 1, 9]", value_gain(test::filled<float, 3>({3, 1, 9}, 1).view()));
  expect_option_error("head_gates: expected heads 6 (as query), got 3", head_gates(test::several<float>(3)));
  expect_option_error("head_gates: expected batch 2 (as query), got 3",
                      head_gates(test::filled<float, 2>({3, 6}, 1).view()));
}

TEST_F(Errors, OfSequences) {
  index_numbers const one{3}, good{3, 4}, long_query{3, 6}, long_key{10, 4}, negative{-1, 4};
  expect_option_error("padded (queries): expected one length for each of 2 batches, got 1", padded(one, good));
  expect_option_error("padded (keys): expected one length for each of 2 batches, got 1", padded(good, one));
  expect_option_error("padded (queries): expected lengths from 0 to 5, got 6 at 1", padded(long_query, good));
  expect_option_error("padded (keys): expected lengths from 0 to 9, got 10 at 0", padded_keys(long_key));
  expect_option_error("padded (keys): expected lengths from 0 to 9, got -1 at 0", padded_keys(negative));
  expect_option_error("ragged: expected tensors of batch 1, got 2", ragged(good));

  auto const expect_ragged = [&](std::string const& message, index_numbers const& query, index_numbers const& key) {
    read_view const one_query(in.query.elements.data(), {1, 6, 5, 8}), one_key(in.key.elements.data(), {1, 3, 9, 8}),
        one_value(in.value.elements.data(), {1, 2, 9, 4});
    write_view const one_output(output.elements.data(), {1, 6, 5, 4});
    expect_error(message, [&] { softmax_attention(one_query, one_key, one_value, one_output, ragged(query, key)); });
  };
  expect_ragged("ragged (queries): expected at least one offset, got none", {}, {0, 9});
  expect_ragged("ragged (keys): expected at least one offset, got none", {0, 5}, {});
  expect_ragged("ragged (queries): expected a first offset of 0, got 1", {1, 5}, {0, 9});
  expect_ragged("ragged (keys): expected offsets that never fall, got 2 after 4 at 2", {0, 2, 5}, {0, 4, 2, 9});
  expect_ragged("ragged (queries): expected a last offset of 5 (the tokens), got 4", {0, 4}, {0, 9});
  expect_ragged("ragged (keys): expected a last offset of 9 (the tokens), got 10", {0, 5}, {0, 10});
  expect_ragged("ragged: expected as many key offsets as query offsets (3), got 2", {0, 2, 5}, {0, 9});
}

TEST_F(Errors, OfWeightsOfPackedSequences) {
  index_numbers const query{0, 5}, key{0, 9};
  read_view const one_query(in.query.elements.data(), {1, 6, 5, 8}), one_key(in.key.elements.data(), {1, 3, 9, 8}),
      one_value(in.value.elements.data(), {1, 2, 9, 4});
  write_view const one_output(output.elements.data(), {1, 6, 5, 4}), one_pairs(pairs.elements.data(), {1, 6, 5, 9});
  expect_error("weights: expected sequences that are not packed, got ragged", [&] {
    softmax_attention(one_query, one_key, one_value, one_output, ragged(query, key), weights(one_pairs));
  });
  expect_error("weights: expected sequences that are not packed, got ragged",
               [&] { attention_weights(one_query, one_key, one_pairs, ragged(query, key)); });
  expect_error("logits: expected sequences that are not packed, got ragged",
               [&] { attention_logits(one_query, one_key, one_pairs, ragged(query, key)); });
}

TEST_F(Errors, OfOutputs) {
  auto const expect_rows = [&](std::string const& message, std::array<index_t, 3> const& extents) {
    expect_error(message, [&] {
      softmax_attention(q(), k(), v(), o(), log_sum_exp(tensor_view<float, 3>(rows.elements.data(), extents)));
    });
  };
  expect_rows("log_sum_exp: expected batch 2 (as query), got 1", {1, 6, 5});
  expect_rows("log_sum_exp: expected heads 6 (as query), got 3", {2, 3, 5});
  expect_rows("log_sum_exp: expected tokens 5 (as query), got 9", {2, 6, 9});
  expect_error("log_sum_exp: expected data for extents [2, 6, 5], got null",
               [&] { softmax_attention(q(), k(), v(), o(), log_sum_exp(tensor_view<float, 3>(nullptr, {2, 6, 5}))); });
  expect_error("log_sum_exp: expected distinct elements, got stride 0 on axis 1 of extent 6", [&] {
    softmax_attention(q(), k(), v(), o(),
                      log_sum_exp(tensor_view<float, 3>(rows.elements.data(), {2, 6, 5}, {30, 0, 1})));
  });

  auto const expect_pairs = [&](std::string const& message, std::array<index_t, 4> const& extents) {
    write_view const view(pairs.elements.data(), extents);
    expect_error("weights: " + message, [&] { softmax_attention(q(), k(), v(), o(), weights(view)); });
    expect_error("weights: " + message, [&] { attention_weights(q(), k(), view); });
    expect_error("logits: " + message, [&] { softmax_attention(q(), k(), v(), o(), logits(view)); });
    expect_error("logits: " + message, [&] { attention_logits(q(), k(), view); });
  };
  expect_pairs("expected batch 2 (as query), got 1", {1, 6, 5, 9});
  expect_pairs("expected heads 6 (as query), got 3", {2, 3, 5, 9});
  expect_pairs("expected queries 5 (as query), got 4", {2, 6, 4, 9});
  expect_pairs("expected keys 9 (as key), got 5", {2, 6, 5, 5});
  expect_error("weights: expected data for extents [2, 6, 5, 9], got null",
               [&] { attention_weights(q(), k(), write_view(nullptr, {2, 6, 5, 9})); });
  expect_error("key: expected head dimension 8 (as query), got 4", [&] { attention_weights(q(), v(), pairs.view()); });
}

TEST_F(Errors, OfThreads) {
  expect_error("threads: expected a count of at least 0, got -1",
               [&] { softmax_attention(q(), k(), v(), o(), threads{-1}); });
}

}  // namespace
}  // namespace attend
