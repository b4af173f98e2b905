// SPDX-License-Identifier: BSD-3-Clause
// Multiple head embeddings against their formula: keys, values and queries of every head written out.
#include <attend/attention/softmax/multi_head_embedding.hpp>
#include <attend/cache/contiguous.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/reference/rotary_embedding.hpp>

#include "support/cached_tokens.hpp"
#include "support/count_allocations.hpp"
#include "support/expect_error.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace systems;

namespace {

template <class T>
void expect_formula(head_combination settings, index_t batches, index_t heads, index_t queries, index_t keys,
                    index_t dimension, index_t values, auto const& mask, reference::visible_function const& visible) {
  SCOPED_TRACE(testing::Message() << heads << " heads, " << queries << " queries, " << dimension);
  using A = accumulation_t<T>;
  auto const q = test::normal<T, 3>({batches, queries, dimension}, 1),
             k = test::normal<T, 3>({batches, keys, dimension}, 2);
  auto const v = test::normal<T, 3>({batches, keys, values}, 3);
  auto const eq = test::normal<A, 2>({heads, dimension}, 4, 0.5), ek = test::normal<A, 2>({heads, dimension}, 5, 0.5);
  auto const ev = test::normal<A, 2>({heads, values}, 6, 0.5);
  auto o = test::filled<T, 4>({batches, heads, queries, values}, T(7));
  multi_head_embedding_attention(q.view(), k.view(), v.view(),
                                 head_embeddings<A>{settings, eq.view(), ek.view(), ev.view()}, o.view(), mask,
                                 threads{2});

  auto const of_heads = [&](auto const& rows, auto const& embedding) {
    std::vector<double> all;
    for (index_t b = 0; b < batches; ++b)
      for (index_t h = 0; h < heads; ++h)
        for (index_t t = 0; t < rows.extents[1]; ++t)
          for (index_t c = 0; c < rows.extents[2]; ++c) {
            double const x = static_cast<double>(rows.view()(b, t, c)), e = static_cast<double>(embedding.view()(h, c));
            all.push_back(settings == head_combination::add ? x + e : x * (1 + e));
          }
    return all;
  };
  auto const q_all = of_heads(q, eq), k_all = of_heads(k, ek), v_all = of_heads(v, ev);
  reference::options with;
  with.visible = visible;
  auto const expected = reference::softmax_attention<double>({q_all.data(), {batches, heads, queries, dimension}},
                                                             {k_all.data(), {batches, heads, keys, dimension}},
                                                             {v_all.data(), {batches, heads, keys, values}}, with);
  // Queries and outputs are rounded to T once more, and logits are twice as large.
  EXPECT_TRUE(test::near(o.elements, expected.output, 4 * test::tolerance<T>(8)));
}

TEST(MultiHeadEmbedding, FollowsItsFormula) {
  for (auto const settings : {head_combination::add, head_combination::multiply}) {
    expect_formula<float>(settings, 2, 5, 30, 70, 24, 20, causal{}, reference::causal_bottom_right());
    expect_formula<float>(settings, 1, 3, 1, 9, 7, 33, full{}, reference::everything());
    // The first queries see nothing: their output is 0.
    expect_formula<float>(settings, 1, 2, 8, 3, 16, 16, causal{}, reference::causal_bottom_right());
  }
}

TEST(MultiHeadEmbedding, FollowsItsFormulaInOtherTypes) {
  for (auto const settings : {head_combination::add, head_combination::multiply}) {
    expect_formula<double>(settings, 1, 4, 12, 40, 20, 9, full{}, reference::everything());
    expect_formula<bfloat16>(settings, 1, 4, 12, 40, 32, 32, full{}, reference::everything());
  }
}

// With rotary positions each head's own keys, written out and then rotated.
template <class T, class S>
void expect_rotary(head_combination settings, index_t heads, index_t tokens, index_t dimension, index_t pairs,
                   rotary_layout layout, double allowed) {
  using A = accumulation_t<T>;
  index_t const batches = 2, values = 12;
  auto const q = test::normal<T, 3>({batches, tokens, dimension}, 1),
             k = test::normal<T, 3>({batches, tokens, dimension}, 2),
             v = test::normal<T, 3>({batches, tokens, values}, 3);
  auto const eq = test::normal<A, 2>({heads, dimension}, 4, 0.5), ek = test::normal<A, 2>({heads, dimension}, 5, 0.5);
  auto const ev = test::normal<A, 2>({heads, values}, 6, 0.5);
  head_embeddings<A> const embeddings{settings, eq.view(), ek.view(), ev.view()};
  rotary const turn(rotary_frequencies(2 * pairs), layout);

  auto const stored = [&](auto const& rows) {
    test::tensor<double, 3> all{rows.extents, {}};
    contiguous_cache<S, S> cache({batches, 1, rows.extents[2], rows.extents[2]}, tokens);
    tensor_view<T const, 4> const one(rows.view().data(), {batches, 1, tokens, rows.extents[2]});
    cache.append(one, one);
    for (index_t b = 0; b < batches; ++b)
      for (auto const& row : test::stored_rows(cache, b, 0))
        all.elements.insert(all.elements.end(), row.key.begin(), row.key.end());
    return all;
  };
  auto const of_heads = [&](auto const& rows, auto const& embedding, bool turns) {
    std::vector<double> all;
    for (index_t b = 0; b < batches; ++b)
      for (index_t h = 0; h < heads; ++h)
        for (index_t t = 0; t < tokens; ++t)
          for (index_t c = 0; c < rows.extents[2]; ++c) {
            double const x = static_cast<double>(rows.view()(b, t, c)), e = static_cast<double>(embedding.view()(h, c));
            all.push_back(settings == head_combination::add ? x + e : x * (1 + e));
          }
    if (!turns) return all;
    return reference::rotary_embedding<double>(
        {all.data(), {batches, heads, tokens, rows.extents[2]}}, pairs, layout == rotary_layout::interleaved,
        [&](index_t, index_t token, index_t i) {
          return std::polar(1.0, static_cast<double>(token) * reference::rotary_frequency(i, 2 * pairs, 10000));
        });
  };
  auto const k_stored = stored(k), v_stored = stored(v);
  auto const q_all = of_heads(q, eq, true), k_all = of_heads(k_stored, ek, true), v_all = of_heads(v_stored, ev, false);
  reference::options with;
  with.visible = reference::causal_bottom_right();
  auto const expected = reference::softmax_attention<double>({q_all.data(), {batches, heads, tokens, dimension}},
                                                             {k_all.data(), {batches, heads, tokens, dimension}},
                                                             {v_all.data(), {batches, heads, tokens, values}}, with);
  auto o = test::filled<T, 4>({batches, heads, tokens, values}, T(7));
  if constexpr (std::same_as<S, T>) {
    multi_head_embedding_attention(q.view(), k.view(), v.view(), embeddings, o.view(), causal{}, turn, threads{2});
    EXPECT_TRUE(test::near(o.elements, expected.output, allowed));
  }
  // A prompt and steps, through one key and one value a token.
  contiguous_cache<S> cache({batches, 1, dimension, values}, tokens);
  std::fill(o.elements.begin(), o.elements.end(), T(7));
  for (index_t first = 0; first < tokens;) {
    index_t const count = first == 0 ? tokens - 3 : 1;
    auto const part = [&](auto const& rows) { return attend::detail::part(rows.view(), 1, first, count); };
    multi_head_embedding_attention(cache, part(q), part(k), part(v), embeddings,
                                   attend::detail::part(o.view(), 2, first, count), turn);
    first += count;
  }
  EXPECT_TRUE(test::near(o.elements, expected.output, allowed));
}

TEST(MultiHeadEmbedding, FollowsItsFormulaWithRotaryPositions) {
  double const allowed = 4 * test::tolerance<float>(8);
  for (auto const settings : {head_combination::add, head_combination::multiply}) {
    expect_rotary<float, float>(settings, 5, 70, 20, 10, rotary_layout::half_split, allowed);
    expect_rotary<float, float>(settings, 3, 40, 24, 9, rotary_layout::interleaved, allowed);
    expect_rotary<float, std::int8_t>(settings, 3, 20, 32, 16, rotary_layout::half_split, allowed);
    expect_rotary<bfloat16, bfloat16>(settings, 3, 40, 32, 16, rotary_layout::half_split,
                                      4 * test::tolerance<bfloat16>(8));
  }
}

TEST(MultiHeadEmbedding, KeepsNothingOfAPrompt) {
  index_t const tokens = 600, heads = 4;
  auto const q = test::normal<float, 3>({1, tokens, 32}, 1);
  auto const e = test::normal<float, 2>({heads, 32}, 2, 0.5);
  head_embeddings<float> const embeddings{head_combination::multiply, e.view(), e.view(), e.view()};
  rotary const turn(rotary_frequencies(32));
  auto o = test::filled<float, 4>({1, heads, tokens, 32}, 7), again = o;
  auto const call = [&](auto& output, int count) {
    multi_head_embedding_attention(q.view(), q.view(), q.view(), embeddings, output.view(), causal{}, turn,
                                   threads{count});
  };
  call(o, 1);
  EXPECT_EQ(test::allocations_of_two([&] { call(o, 1); }).second, 0);
  call(again, 3);
  EXPECT_TRUE(test::same_bits(o.elements, again.elements));
}

TEST(MultiHeadEmbedding, RefusesWhatDoesNotFit) {
  auto const q = test::normal<float, 3>({1, 3, 8}, 1);
  auto const two = test::normal<float, 2>({2, 8}, 2), narrow = test::normal<float, 2>({2, 7}, 2),
             three = test::normal<float, 2>({3, 8}, 2);
  auto o = test::filled<float, 4>({1, 2, 3, 8}, 7);
  auto const expect_error = [&](std::string const& message, auto const& a, auto const& b, auto const& c) {
    test::expect_error(message, [&] {
      multi_head_embedding_attention(q.view(), q.view(), q.view(),
                                     head_embeddings<float>{head_combination::add, a.view(), b.view(), c.view()},
                                     o.view());
    });
    EXPECT_TRUE(std::all_of(o.elements.begin(), o.elements.end(), [](float x) { return x == 7; }));
  };
  expect_error("head_embeddings (query): expected dimension 8 (as query), got 7", narrow, two, two);
  expect_error("head_embeddings (key): expected heads 2 (as output), got 3", two, three, two);
  expect_error("head_embeddings (value): expected dimension 8 (as output), got 7", two, two, narrow);
  head_embeddings<float> const good{head_combination::add, two.view(), two.view(), two.view()};
  test::expect_scale_error([&](scale const& factor) {
    multi_head_embedding_attention(q.view(), q.view(), q.view(), good, o.view(), factor);
  });
  EXPECT_TRUE(std::all_of(o.elements.begin(), o.elements.end(), [](float x) { return x == 7; }));
}

}  // namespace
}  // namespace attend
