// SPDX-License-Identifier: BSD-3-Clause
// Published patterns: each against the rule that its paper gives, one pair at a time, and what of it is computed.
#include <attend/policy/mask/head_windows.hpp>
#include <attend/policy/mask/patterns.hpp>
#include <attend/policy/mask/streaming.hpp>

#include "support/any_policy.hpp"
#include "support/mask_checks.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace systems;

namespace {

constexpr index_t tokens = 300, heads = 4;

/// The mask alone and in the kernel, which is compiled once for all of them.
template <class M>
void expect_pattern(M const& mask, reference::visible_function const& visible) {
  EXPECT_TRUE(test::is_sound(mask, {1, heads, 2, 2, tokens, tokens, 4, 4, 1}, visible));
  auto const in = test::random_inputs<float>(
      {.query_heads = heads, .key_heads = 2, .value_heads = 2, .queries = tokens, .keys = tokens}, 1);
  reference::options with;
  with.visible = visible;
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, test::any_mask(mask)), with));
}

/// Pairs that are computed beyond those that are seen, for each query.
template <class M>
double excess(M const& mask, index_t length, reference::visible_function const& visible) {
  test::sizes const s{
      .query_heads = heads, .queries = length, .keys = length, .key_dimension = 1, .value_dimension = 1};
  index_t seen = 0;
  for (index_t h = 0; h < heads; ++h)
    for (index_t i = 0; i < length; ++i)
      for (index_t j = 0; j < length; ++j) seen += visible({0, h, i, j, length, length});
  return static_cast<double>(test::count_work(s, mask).pairs - seen) / static_cast<double>(heads * length);
}

TEST(Patterns, Streaming) {
  auto const visible = [](reference::place const& at) {
    return at.key <= at.query && (at.key < 4 || at.query - at.key <= 40);
  };
  expect_pattern(streaming{4, 41}, visible);
}

TEST(Patterns, DilatedWindow) {
  expect_pattern(dilated_window(5, 3, 7), [](reference::place const& at) {
    index_t const distance = at.key - at.query;
    return distance % 7 == 0 && distance >= -35 && distance <= 21;
  });
  // Where the dilation exceeds a tile, the keys between are not visited.
  auto const wide = [](reference::place const& at) { return (at.key - at.query) % 256 == 0 && at.key <= at.query; };
  EXPECT_LE(excess(dilated_window(-1, 0, 256), 1500, wide), 6 * simd::tile_lanes<float>);
}

TEST(Patterns, Strided) {
  expect_pattern(strided_pattern(17), [](reference::place const& at) {
    return at.key <= at.query && (at.query - at.key <= 17 || (at.query - at.key) % 17 == 0);
  });
}

TEST(Patterns, Fixed) {
  expect_pattern(fixed_pattern(64, 8), [](reference::place const& at) {
    return at.key <= at.query && (at.key / 64 == at.query / 64 || at.key % 64 >= 56);
  });
}

TEST(Patterns, ShiftedGroupsAreARollWithoutItsLeak) {
  // Rolled by half a group, cut, rolled back: but tokens of the end and of the beginning, which meet, stay apart.
  index_t const size = 60;
  auto const visible = [=](reference::place const& at) {
    if (at.head < 2) return at.key <= at.query && at.key / size == at.query / size;
    index_t const query = (at.query - size / 2 + tokens) % tokens, key = (at.key - size / 2 + tokens) % tokens;
    bool const leak = (at.query < size / 2) != (at.key < size / 2) && query / size == tokens / size - 1;
    return at.key <= at.query && query / size == key / size && !leak;
  };
  expect_pattern(shifted_groups(size, heads), visible);
}

TEST(Patterns, SinkFixedGroups) {
  expect_pattern(sink_fixed_groups(100, 3, 4), [](reference::place const& at) {
    index_t const shift = at.head >= 3 ? 50 : 0;
    return at.key <= at.query && (at.key < 4 || (at.key + shift) / 100 == (at.query + shift) / 100);
  });
}

TEST(Patterns, ParallelContext) {
  std::vector<index_t> pieces;
  for (index_t t = 0; t < tokens; ++t) pieces.push_back(t < 10 ? 0 : t < 250 ? 1 + (t - 10) / 80 : 9);
  auto const visible = [&](reference::place const& at) {
    bool const same = pieces[static_cast<std::size_t>(at.key)] == pieces[static_cast<std::size_t>(at.query)];
    return at.key <= at.query && (same || at.key < 10 || at.query >= 250);
  };
  expect_pattern(parallel_context(pieces, 10, 250), visible);
}

TEST(Patterns, LocalSparseGlobal) {
  index_t const b = 16, f = 4;
  expect_pattern(local_sparse_global(b, f, 3), [=](reference::place const& at) {
    index_t const far = std::abs(at.key / b - at.query / b);
    return far <= 1 || (far <= 1 + f && at.key % f == at.head % f) || at.key < 3 || at.query < 3;
  });
}

TEST(Patterns, HeadsWithPatternsOfTheirOwn) {
  // Two heads see equal tokens, one the neighbours, one everything.
  std::vector<index_t> words;
  for (index_t t = 0; t < tokens; ++t) words.push_back(t * t % 11);
  auto const visible = [&](reference::place const& at) {
    bool const same = words[static_cast<std::size_t>(at.key)] == words[static_cast<std::size_t>(at.query)];
    return at.head < 2 ? same : at.head < 3 ? std::abs(at.key - at.query) == 1 : true;
  };
  expect_pattern((heads_in(0, 2) & documents(words)) | (heads_in(2, 3) & window{1, 1} & !window{0, 0}) | heads_in(3, 4),
                 visible);
}

TEST(Patterns, ElasticWindowsWithSinks) {
  std::vector<index_t> const left{10, 20, 100, 290};
  auto const visible = [&](reference::place const& at) {
    return at.key <= at.query && (at.key < 64 || at.query - at.key <= left[static_cast<std::size_t>(at.head)]);
  };
  expect_pattern((head_windows(left) | keys_in(0, 64)) & causal{}, visible);
  // Heads that share keys are kept apart: a narrow one does not pay for a wide one.
  EXPECT_LE(excess(head_windows(left), 1000,
                   [&](reference::place const& at) {
                     return at.key <= at.query && at.query - at.key <= left[static_cast<std::size_t>(at.head)];
                   }),
            simd::tile_lanes<float>);
}

}  // namespace
}  // namespace attend
