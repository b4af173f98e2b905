// SPDX-License-Identifier: BSD-3-Clause
// Attention to caches from which heads evicted tokens of their own: that of the definition with the evicted tokens
// hidden, whichever engine reads them, in full blocks, with the same bits for any number of threads and any batch.
#include <attend/attention/cached/cached_attention.hpp>
#include <attend/cache/evicting.hpp>
#include <attend/cache/sequences_of.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/policy/score/alibi.hpp>

#include "support/cached_tokens.hpp"
#include "support/executors.hpp"

namespace attend {
using namespace caches;
using namespace extend;

namespace {

using test::sizes;

/// The tokens that each head keeps, [sequence, head][token]: random runs of them.
std::vector<std::vector<bool>> random_choice(sizes const& s, unsigned seed) {
  std::mt19937 engine(seed);
  std::vector<std::vector<bool>> kept;
  for (index_t list = 0; list < s.batches * s.key_heads; ++list) {
    kept.emplace_back(static_cast<std::size_t>(s.keys));
    // A head may keep all, most, few or none.
    unsigned const drop = static_cast<unsigned>(list) % 5 == 4 ? 0 : 1 + engine() % 8;
    for (std::size_t t = 0; t < kept.back().size();) {
      bool const keeps = engine() % 8 >= drop;
      for (std::size_t const end = t + 1 + engine() % 6; t < end && t < kept.back().size(); ++t) kept.back()[t] = keeps;
    }
  }
  return kept;
}

template <class Cache>
void keep_chosen(Cache& cache, std::vector<std::vector<bool>> const& kept) {
  for (std::size_t list = 0; list < kept.size(); ++list) {
    std::vector<std::int32_t> rows;
    for (std::size_t t = 0; t < kept[list].size(); ++t)
      if (kept[list][t]) rows.push_back(static_cast<std::int32_t>(t));
    index_t const number = static_cast<index_t>(list), heads = cache.key_value_heads();
    cache.keep(number / heads, number % heads, rows);
  }
}

template <class Cache, class T>
Cache filled_cache(test::inputs<T> const& in, index_t page_tokens) {
  sizes const& s = in.size;
  index_t const pages = s.batches * s.key_heads * divide_up(s.keys, page_tokens);
  Cache cache(test::shape_of(s), {.pages = pages, .page_tokens = page_tokens});
  cache.append(in.key.view(), in.value.view());
  return cache;
}

template <class T, class Key, class Value = Key>
void expect_only_kept(sizes const& s, index_t page_tokens, unsigned seed) {
  SCOPED_TRACE(testing::Message() << s.query_heads << ' ' << s.queries << ' ' << s.keys << ", pages of "
                                  << page_tokens);
  auto const in = test::random_inputs<T>(s, seed);
  auto cache = filled_cache<evicting_cache<Key, Value>>(in, page_tokens);
  auto const kept = random_choice(s, seed);
  keep_chosen(cache, kept);
  auto const stored = test::as_stored<Key, Value>(in);
  auto const slopes = test::normal<float, 1>({s.query_heads}, seed + 5, 0.1);
  auto const expect = [&](auto const& what, reference::options with, auto const&... options) {
    with.visible = [&, before = with.visible](reference::place const& at) {
      index_t const list = at.batch * s.key_heads + at.head * s.key_heads / s.query_heads;
      return before(at) && kept[static_cast<std::size_t>(list)][static_cast<std::size_t>(at.key)];
    };
    auto const expected =
        reference::softmax_attention<double>(stored.query.view(), stored.key.view(), stored.value.view(), with);
    auto output = test::filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(7));
    auto rows = test::filled<accumulation_t<T>, 3>({s.batches, s.query_heads, s.queries}, 7);
    what(in.query.view(), cache, output.view(), log_sum_exp(rows.view()), options...);
    EXPECT_TRUE(test::near(output.elements, expected.output,
                           test::tolerance<T>(test::largest_magnitude(stored.value.elements))));
    EXPECT_TRUE(test::near(rows.elements, expected.log_sum_exp,
                           test::tolerance<accumulation_t<T>>(test::largest_magnitude(expected.log_sum_exp))));
  };
  auto const split = [](auto const&... arguments) { decode_attention(arguments...); };
  auto const any = [](auto const&... arguments) { softmax_attention(arguments...); };
  reference::options const none;
  reference::options past;
  past.visible = reference::causal_bottom_right();
  auto near_past = past;
  near_past.visible = [before = past.visible](reference::place const& at) {
    return before(at) && at.position() - at.key <= 60;
  };
  auto sloping = past;
  sloping.scores.push_back([&](double logit, reference::place const& at) {
    return logit - static_cast<double>(slopes.elements[static_cast<std::size_t>(at.head)]) *
                       std::abs(static_cast<double>(at.position() - at.key));
  });
  expect(split, none);
  expect(any, past, causal{});
  // Compiling takes its time for each of the others.
  if constexpr (std::same_as<Key, float>) {
    expect(split, past, causal{}, threads{2});
    expect(split, near_past, causal{} & window{60, 0});
    expect(split, sloping, causal{}, alibi(slopes.elements));
    expect(any, sloping, causal{}, alibi(slopes.elements));
  }
}

template <class T, class Key, class Value = Key>
void expect_only_kept() {
  unsigned seed = 1;
  for (index_t page_tokens : {1, 5, 64}) {
    expect_only_kept<T, Key, Value>({2, 8, 2, 2, 1, 333, 40, 24}, page_tokens, seed += 10);
    expect_only_kept<T, Key, Value>({1, 6, 6, 6, 3, 150, 32, 34}, page_tokens, seed += 10);
    expect_only_kept<T, Key, Value>({2, 4, 2, 2, 40, 100, 20, 20}, page_tokens, seed += 10);
  }
}

TEST(EvictingAttention, SeesWhatIsKept) { expect_only_kept<float, float>(); }
TEST(EvictingAttention, SeesWhatIsKeptInOtherElements) {
  expect_only_kept<double, double>();
  expect_only_kept<half, half>();
  expect_only_kept<bfloat16, bfloat16>();
}
TEST(EvictingAttention, SeesWhatIsKeptInFewBits) {
  expect_only_kept<float, std::int8_t, half>();
  expect_only_kept<float, int4_pair, std::int8_t>();
}

// Two key heads and four value heads, and the other way round: what a list keeps is seen by all of its heads.
TEST(EvictingAttention, SeesWhatHeadsKeepTogether) {
  for (auto const& [of_keys, of_values] : {std::pair<index_t, index_t>{2, 4}, {4, 2}, {1, 4}}) {
    sizes const s{1, 8, of_keys, of_values, 30, 150, 16, 12};
    auto const in = test::random_inputs<float>(s, static_cast<unsigned>(of_keys));
    index_t const together = 4 / std::gcd(of_keys, of_values);
    evicting_cache<float> cache({1, 4, 16, 12, of_keys, of_values}, {.pages = 200, .page_tokens = 4});
    cache.append(in.key.view(), in.value.view());
    auto const keeps = [=](index_t position, index_t head) { return (position * 7 + head / together) % 11 > 3; };
    cache.evict(
        [&](auto const& tokens, std::span<bool> stays) {
          for (std::size_t i = 0; i < stays.size(); ++i) stays[i] = keeps(tokens.position[i], tokens.head);
        },
        1);
    reference::options with;
    with.visible = [&](reference::place const& at) { return at.key <= at.query + 120 && keeps(at.key, at.head / 2); };
    auto const expected =
        reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with).output;
    double const allowed = test::tolerance<float>(test::largest_magnitude(in.value.elements));
    auto output = test::filled<float, 4>({1, 8, 30, 12}, 7), last = test::filled<float, 4>({1, 8, 1, 12}, 7);
    softmax_attention(in.query.view(), cache, output.view(), causal{});
    EXPECT_TRUE(test::near(output.elements, expected, allowed)) << of_keys << ", " << of_values;
    decode_attention(test::tokens_of(in.query, 29, 1), cache, last.view());
    std::vector<double> rows;
    for (std::size_t h = 0; h < 8; ++h)
      rows.insert(rows.end(), expected.begin() + static_cast<std::ptrdiff_t>((h * 30 + 29) * 12),
                  expected.begin() + static_cast<std::ptrdiff_t>((h * 30 + 30) * 12));
    EXPECT_TRUE(test::near(last.elements, rows, allowed)) << of_keys << ", " << of_values;
  }
}

// Each piece sees what was left when it came.
TEST(EvictingAttention, GoesOnAfterEachEviction) {
  sizes const s{2, 4, 2, 2, 120, 120, 16, 12};
  auto const in = test::random_inputs<float>(s, 3);
  std::mt19937 engine(3);
  for (index_t most : {1, 3, 30}) {
    evicting_cache<float> cache(test::shape_of(s), {.pages = 200, .page_tokens = 4});
    auto output = test::filled<float, 4>({2, 4, 120, 12}, 7);
    // The number of tokens that the sequence had when a head evicted its token, [sequence, head][token].
    std::vector<std::vector<index_t>> end(4, std::vector<index_t>(120, 1000));
    for (index_t first = 0, count; first < 120; first += count) {
      count = std::min<index_t>(1 + static_cast<index_t>(engine()) % most, 120 - first);
      cached_attention(cache, test::tokens_of(in.query, first, count), test::tokens_of(in.key, first, count),
                       test::tokens_of(in.value, first, count), test::tokens_of(output, first, count));
      cache.evict(
          [&](auto const& tokens, std::span<bool> stays) {
            auto& gone = end[static_cast<std::size_t>(tokens.sequence * 2 + tokens.head)];
            for (std::size_t i = 0; i < stays.size(); ++i) {
              auto const p = static_cast<std::size_t>(tokens.position[i]);
              stays[i] = (p * 7 + static_cast<std::size_t>(tokens.size + tokens.head)) % 11 > 0;
              if (!stays[i]) gone[p] = tokens.size;
            }
          },
          1);
    }
    reference::options with;
    with.visible = [&](reference::place const& at) {
      return at.key <= at.query &&
             at.query < end[static_cast<std::size_t>(at.batch * 2 + at.head / 2)][static_cast<std::size_t>(at.key)];
    };
    auto const stored = test::as_stored<float, float>(in);
    auto const expected =
        reference::softmax_attention<double>(stored.query.view(), stored.key.view(), stored.value.view(), with);
    EXPECT_TRUE(test::near(output.elements, expected.output,
                           test::tolerance<float>(test::largest_magnitude(stored.value.elements))));
  }
}

TEST(EvictingAttention, ReadsFullBlocksWhateverIsEvicted) {
  sizes const s{1, 2, 1, 1, 1, 1000, 16, 16};
  auto const in = test::random_inputs<float>(s, 1);
  auto cache = filled_cache<evicting_cache<float>>(in, 16);
  cache.evict([](auto const& tokens, std::span<bool> stays) {
    for (std::size_t i = 0; i < stays.size(); ++i) stays[i] = tokens.position[i] % 5 == 4;
  });
  auto output = test::filled<float, 4>({1, 2, 1, 16}, 7);
  auto const count = [&](auto const& store, auto const&... options) {
    tile_counts counts;
    decode_attention(in.query.view(), store, output.view(), count_tiles(counts), options...);
    return counts.full + counts.masked;
  };
  std::vector<int> const first{0};
  index_t const blocks = divide_up(200, engine::split_block_keys);
  EXPECT_EQ(count(cache), blocks);
  EXPECT_EQ(count(cache, causal{}), blocks);
  EXPECT_EQ(count(sequences_of(cache, first), causal{}), blocks);
  // A window that some of the rows are behind has to ask for positions.
  EXPECT_GT(count(cache, window{100, 0}), blocks);
}

TEST(EvictingAttention, HasTheSameBitsForAnyThreadsAndBatch) {
  sizes const s{3, 8, 2, 2, 1, 700, 32, 32};
  auto const in = test::random_inputs<bfloat16>(s, 1);
  auto cache = filled_cache<evicting_cache<bfloat16>>(in, 16);
  keep_chosen(cache, random_choice(s, 2));
  auto const attend = [&](auto const& query, auto const& store, auto const&... options) {
    auto output = test::filled<bfloat16, 4>({store.sequences(), 8, 1, 32}, bfloat16(7));
    softmax_attention(query, store, output.view(), causal{}, options...);
    return output.elements;
  };
  auto const alone = attend(in.query.view(), cache);
  test::for_executors([&](auto const& executor, std::string const& name) {
    EXPECT_TRUE(test::same_bits(attend(in.query.view(), cache, executor), alone)) << name;
  });
  std::vector<int> const last{2};
  auto const query = in.query.view();
  tensor_view<bfloat16 const, 4> const third(query.data() + 2 * query.stride(0), {1, 8, 1, 32});
  auto const one = attend(third, sequences_of(cache, last));
  EXPECT_TRUE(test::same_bits(one, {alone.end() - static_cast<std::ptrdiff_t>(one.size()), alone.end()}));
}

}  // namespace
}  // namespace attend
