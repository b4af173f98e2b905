// SPDX-License-Identifier: BSD-3-Clause
// Neighborhood attention against its definition, on lines, images and volumes; its identities with other systems.
#include <attend/attention/image/neighborhood_attention.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/reference/neighborhood.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace grids;
using namespace extend;

namespace {

template <int Axes>
using extents_of = std::array<index_t, Axes>;
template <int Axes>
using axes_of = std::array<neighborhood_axis, Axes>;

template <int Axes>
index_t tokens_of(extents_of<Axes> const& extents) {
  index_t tokens = 1;
  for (index_t extent : extents) tokens *= extent;
  return tokens;
}

template <int Axes>
reference::visible_function neighbors(extents_of<Axes> const& extents, axes_of<Axes> const& axes) {
  std::vector<reference::neighborhood_rule> rules;
  for (int a = 0; a < Axes; ++a)
    rules.push_back({extents[a], axes[a].window, axes[a].stride, axes[a].dilation, axes[a].causal,
                     axes[a].at_border == border::clip, axes[a].shift});
  return [rules](reference::place const& at) { return reference::is_neighbor(rules, at.query, at.key); };
}

template <class T, int Axes, class... Options>
test::outputs<T> attend_to(test::inputs<T> const& in, extents_of<Axes> const& extents, axes_of<Axes> const& axes,
                           Options const&... options) {
  using A = accumulation_t<T>;
  auto const& s = in.size;
  test::outputs<T> out{test::filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(7)),
                       test::filled<A, 3>({s.batches, s.query_heads, s.queries}, A(7)),
                       {}};
  neighborhood_attention<Axes>(in.query.view(), in.key.view(), in.value.view(), out.output.view(), extents, axes,
                               log_sum_exp(out.log_sum_exp.view()), options...);
  return out;
}

template <class T, int Axes>
test::inputs<T> inputs_on(extents_of<Axes> const& extents, unsigned seed) {
  index_t const tokens = tokens_of<Axes>(extents);
  return test::random_inputs<T>({.batches = 2,
                                 .query_heads = 2,
                                 .key_heads = 1,
                                 .value_heads = 1,
                                 .queries = tokens,
                                 .keys = tokens,
                                 .key_dimension = 5,
                                 .value_dimension = 9},
                                seed);
}

template <class T, int Axes>
void expect_definition(extents_of<Axes> const& extents, axes_of<Axes> const& axes, unsigned seed) {
  auto const in = inputs_on<T, Axes>(extents, seed);
  reference::options with;
  with.visible = neighbors<Axes>(extents, axes);
  auto text = testing::Message();
  for (int a = 0; a < Axes; ++a)
    text << extents[a] << ": window " << axes[a].window << ", stride " << axes[a].stride << ", dilation "
         << axes[a].dilation << ", causal " << axes[a].causal << ", shift " << axes[a].shift << "; ";
  EXPECT_TRUE(test::agrees(in, attend_to<T, Axes>(in, extents, axes), with)) << text;
}

neighborhood_axis random_axis(index_t extent, std::mt19937& engine) {
  auto const from_to = [&](index_t least, index_t most) {
    return std::uniform_int_distribution<index_t>(least, std::max(least, most))(engine);
  };
  neighborhood_axis axis{1};
  axis.dilation = from_to(0, 2) > 0 ? 1 : from_to(1, extent);
  axis.window = from_to(1, extent / axis.dilation);
  axis.stride = from_to(0, 1) ? 1 : from_to(1, axis.window);
  axis.causal = from_to(0, 3) == 0;
  if (!axis.causal && from_to(0, 2) == 0) {
    axis.at_border = border::clip;
    axis.shift = from_to(0, axis.stride - 1);
  }
  return axis;
}

template <class T>
class NeighborhoodAttention : public testing::Test {};
using Elements = testing::Types<float, bfloat16>;
TYPED_TEST_SUITE(NeighborhoodAttention, Elements);

TYPED_TEST(NeighborhoodAttention, OnALine) {
  std::mt19937 engine(1);
  for (unsigned trial = 0; trial < 40; ++trial) {
    index_t const extent = std::uniform_int_distribution<index_t>(1, 200)(engine);
    expect_definition<TypeParam, 1>({extent}, {random_axis(extent, engine)}, trial);
  }
}

TYPED_TEST(NeighborhoodAttention, OnAnImage) {
  std::mt19937 engine(2);
  for (unsigned trial = 0; trial < 60; ++trial) {
    index_t const height = std::uniform_int_distribution<index_t>(1, 24)(engine);
    index_t const width = std::uniform_int_distribution<index_t>(1, 24)(engine);
    expect_definition<TypeParam, 2>({height, width}, {random_axis(height, engine), random_axis(width, engine)}, trial);
  }
}

TYPED_TEST(NeighborhoodAttention, InAVolume) {
  std::mt19937 engine(3);
  for (unsigned trial = 0; trial < 40; ++trial) {
    extents_of<3> extents;
    axes_of<3> axes{{{1}, {1}, {1}}};
    for (int a = 0; a < 3; ++a) {
      extents[a] = std::uniform_int_distribution<index_t>(1, 8)(engine);
      axes[a] = random_axis(extents[a], engine);
    }
    expect_definition<TypeParam, 3>(extents, axes, trial);
  }
}

TEST(NeighborhoodIdentities, AWindowAsWideAsTheGridIsDense) {
  extents_of<2> const extents{9, 13};
  auto const in = inputs_on<float, 2>(extents, 1);
  EXPECT_TRUE(test::agrees(in, attend_to<float, 2>(in, extents, {{{9}, {13}}}), {}));
}

TEST(NeighborhoodIdentities, AWindowOfOneCopiesTheOwnValue) {
  extents_of<3> const extents{4, 5, 6};
  auto const in = inputs_on<float, 3>(extents, 1);
  auto const out = attend_to<float, 3>(in, extents, {{{1}, {1}, {1}}});
  std::vector<float> values;
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < 120; ++i)
        for (index_t c = 0; c < 9; ++c) values.push_back(in.value.view()(b, 0, i, c));
  EXPECT_TRUE(test::near(out.output.elements, values, test::tolerance<float>(test::largest_magnitude(values))));
}

TEST(NeighborhoodIdentities, CausalOnALineIsASlidingWindow) {
  auto const in = inputs_on<float, 1>({300}, 1);
  auto const line = attend_to<float, 1>(in, {300}, {{{.window = 40, .causal = true}}});
  auto const window_out = test::attend_to(in, window{39, 0});
  EXPECT_TRUE(test::same_bits(line.output.elements, window_out.output.elements));
}

TEST(NeighborhoodIdentities, AxialAttentionTakesEachRowOnItsOwn) {
  extents_of<2> const extents{7, 60};
  auto const in = inputs_on<float, 2>(extents, 5);
  reference::options with;
  with.visible = [](reference::place const& at) { return at.query / 60 == at.key / 60; };
  EXPECT_TRUE(test::agrees(in, attend_to<float, 2>(in, extents, {{own_coordinate(), whole_axis(60)}}), with));
  with.visible = [](reference::place const& at) { return at.query % 60 == at.key % 60; };
  EXPECT_TRUE(test::agrees(in, attend_to<float, 2>(in, extents, {{whole_axis(7), own_coordinate()}}), with));
}

TEST(NeighborhoodIdentities, SwinWindowsAreARollAndARegionMask) {
  // Rolled by -shift, cut into windows, pairs of different regions masked, rolled back.
  index_t const height = 14, width = 21, w = 7, shift = 3;
  extents_of<2> const extents{height, width};
  auto const in = inputs_on<float, 2>(extents, 6);
  auto const region = [=](index_t rolled, index_t extent) {
    return rolled < extent - w ? 0 : rolled < extent - shift ? 1 : 2;
  };
  reference::options with;
  with.visible = [=](reference::place const& at) {
    auto const same = [=](index_t a, index_t b, index_t extent) {
      index_t const ra = (a - shift + extent) % extent, rb = (b - shift + extent) % extent;
      return ra / w == rb / w && region(ra, extent) == region(rb, extent);
    };
    return same(at.query / width, at.key / width, height) && same(at.query % width, at.key % width, width);
  };
  EXPECT_TRUE(
      test::agrees(in, attend_to<float, 2>(in, extents, {{swin_window(w, shift), swin_window(w, shift)}}), with));
  with.visible = [=](reference::place const& at) {
    return at.query / width / w == at.key / width / w && at.query % width / w == at.key % width / w;
  };
  EXPECT_TRUE(test::agrees(in, attend_to<float, 2>(in, extents, {{swin_window(w), swin_window(w)}}), with));
  EXPECT_TRUE(test::agrees(in, attend_to<float, 2>(in, extents, {{maxvit_block(w), maxvit_block(w)}}), with));
}

TEST(NeighborhoodIdentities, MaxVitGridsSpanTheImage) {
  index_t const height = 12, width = 20, g = 4;
  extents_of<2> const extents{height, width};
  auto const in = inputs_on<float, 2>(extents, 7);
  reference::options with;
  with.visible = [=](reference::place const& at) {
    return at.query / width % (height / g) == at.key / width % (height / g) &&
           at.query % width % (width / g) == at.key % width % (width / g);
  };
  EXPECT_TRUE(
      test::agrees(in, attend_to<float, 2>(in, extents, {{maxvit_grid(height, g), maxvit_grid(width, g)}}), with));
}

TEST(NeighborhoodIdentities, HalosSurroundTheirBlocks) {
  index_t const height = 16, width = 24, b = 8, h = 3;
  extents_of<2> const extents{height, width};
  auto const in = inputs_on<float, 2>(extents, 8);
  reference::options with;
  auto const near = [=](index_t query, index_t key) {
    return key >= query / b * b - h && key < (query / b + 1) * b + h;
  };
  with.visible = [=](reference::place const& at) {
    return near(at.query / width, at.key / width) && near(at.query % width, at.key % width);
  };
  EXPECT_TRUE(test::agrees(in, attend_to<float, 2>(in, extents, {{halo_window(b, h), halo_window(b, h)}}), with));
}

TEST(NeighborhoodBias, IsReadByRelativePlace) {
  for (auto const& [extents, axes] : {std::pair<extents_of<2>, axes_of<2>>{{9, 14}, {{{5}, {7}}}},
                                      {{12, 10}, {{{3, 1, 2}, {4, 2}}}},
                                      {{1, 30}, {{{1}, {9}}}}}) {
    auto const in = inputs_on<float, 2>(extents, 9);
    for (index_t heads : {1, 2}) {
      index_t const high = 2 * axes[0].window - 1, wide = 2 * axes[1].window - 1;
      auto const numbers = test::normal<float, 3>({heads, high, wide}, 11);
      // The last row, or head, may come first.
      float const* const first = numbers.elements.data();
      using table_view = tensor_view<float const, 3>;
      for (auto const& table :
           {numbers.view(), table_view(first + (high - 1) * wide, {heads, high, wide}, {high * wide, -wide, 1}),
            table_view(first + (heads - 1) * high * wide, {heads, high, wide}, {-high * wide, wide, 1})}) {
        reference::options with;
        with.visible = neighbors<2>(extents, axes);
        with.scores.push_back([&, width = extents[1], axes = axes](double s, reference::place const& at) {
          index_t const dy = at.key / width / axes[0].dilation - at.query / width / axes[0].dilation;
          index_t const dx = at.key % width / axes[1].dilation - at.query % width / axes[1].dilation;
          return s + table(heads == 1 ? 0 : at.head, dy + axes[0].window - 1, dx + axes[1].window - 1);
        });
        EXPECT_TRUE(test::agrees(in, attend_to<float, 2>(in, extents, axes, relative_bias(table)), with));
      }
    }
  }
}

TEST(NeighborhoodEmbeddings, AreMultipliedWithTheQuery) {
  for (auto const& [extents, axes] :
       {std::pair<extents_of<2>, axes_of<2>>{{16, 24}, {{halo_window(8, 3), halo_window(8, 3)}}},
        {{9, 14}, {{{5}, {7}}}},
        {{12, 10}, {{{3, 1, 2}, {1}}}}}) {
    auto const in = inputs_on<float, 2>(extents, 9);
    auto const rows = test::normal<float, 2>({2 * axes[0].window - 1, 5}, 12),
               columns = test::normal<float, 2>({2 * axes[1].window - 1, 5}, 13);
    reference::options with;
    with.visible = neighbors<2>(extents, axes);
    with.scores.push_back([&, width = extents[1], axes = axes](double s, reference::place const& at) {
      index_t const dy = at.key / width / axes[0].dilation - at.query / width / axes[0].dilation;
      index_t const dx =
          axes[1].window == 1 ? 0 : at.key % width / axes[1].dilation - at.query % width / axes[1].dilation;
      for (index_t c = 0; c < 5; ++c)
        s += in.query.view()(at.batch, at.head, at.query, c) / std::sqrt(5.) *
             (double(rows.view()(dy + axes[0].window - 1, c)) + columns.view()(dx + axes[1].window - 1, c));
      return s;
    });
    EXPECT_TRUE(test::agrees(
        in, attend_to<float, 2>(in, extents, axes, relative_embeddings(rows.view(), columns.view())), with));
  }
}

TEST(NeighborhoodWork, IsThatOfTheTouchedColumns) {
  auto const pairs = [](extents_of<2> const& extents, axes_of<2> const& axes) {
    index_t const tokens = extents[0] * extents[1];
    auto const in =
        test::random_inputs<float>({.queries = tokens, .keys = tokens, .key_dimension = 1, .value_dimension = 1}, 1);
    auto out = test::filled<float, 4>({1, 1, tokens, 1}, 7.f);
    tile_counts counts;
    neighborhood_attention<2>(in.query.view(), in.key.view(), in.value.view(), out.view(), extents, axes,
                              count_tiles(counts));
    return std::pair<index_t, index_t>{counts.pairs, counts.masked};
  };
  // Groups that share a window, in blocks of the order: nothing but what is seen, and nothing masked.
  EXPECT_EQ(pairs({64, 64}, {{{16, 16}, {16, 16}}}), (std::pair<index_t, index_t>(4096 * 256, 0)));
  EXPECT_EQ(pairs({56, 56}, {{{7, 7}, {7, 7}}}), (std::pair<index_t, index_t>(3136 * 49, 0)));
  EXPECT_EQ(pairs({64, 64}, {{{8, 8, 8}, {8, 8, 8}}}), (std::pair<index_t, index_t>(4096 * 64, 0)));
  // A tile of queries is a box of some rows and eight columns, a few times six by eight: it reads the rows of its
  // windows, in whole columns.
  index_t const tile = simd::tile_lanes<float>, rows = divide_up(tile, 8) + 1;
  EXPECT_LE(pairs({96, 96}, {{{33}, {33}}}).first, 96 * 96 * (33 + rows) * (33 + 7 + 7 + 7) * 5 / 4);
}

TEST(NeighborhoodWork, TakesAWindowThatStandsApartInOnePiece) {
  // Several windows share a block of keys, but none is cut by its end; lanes are left empty up to a whole vector.
  index_t const heads = 8, windows = 64, area = 49;
  auto const in = test::random_inputs<float>({.query_heads = heads,
                                              .key_heads = heads,
                                              .value_heads = heads,
                                              .queries = windows * area,
                                              .keys = windows * area,
                                              .key_dimension = 2,
                                              .value_dimension = 2},
                                             1);
  auto out = test::filled<float, 4>({1, heads, windows * area, 2}, 7.f);
  tile_counts counts;
  neighborhood_attention<2>(in.query.view(), in.key.view(), in.value.view(), out.view(), {56, 56}, {{{7, 7}, {7, 7}}},
                            count_tiles(counts));
  EXPECT_EQ(counts.full.load(), heads * windows * divide_up(area, simd::tile_lanes<float>));
  EXPECT_EQ(counts.pairs.load(), heads * windows * area * area);
  EXPECT_EQ(counts.padded_pairs.load(), heads * windows * area * round_up(area, simd::width<float>));
}

}  // namespace
}  // namespace attend
