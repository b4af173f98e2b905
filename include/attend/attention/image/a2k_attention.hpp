// SPDX-License-Identifier: BSD-3-Clause
// All-to-key attention (A2K, StyA2K): each token of an image sees what stands for the regions of another, in two ways.
//
//   distributed   kc_x = mean of the keys of region x,  w_xy = sigmoid(alpha kc_x . k_xy + beta)  for its r tokens y
//                 K_x  = (sum_y w_xy k_xy + kc_x) / (r + 1),  V_x likewise of the values, with the same w
//                 o_i  = softmax attention of q_i to all K_x, V_x
//   progressive   L_xz = sum_y q_xy . k_zy, tokens at the same place of region x of the queries and z of the keys
//                 o_i  = softmax attention of q_i, i in region x, to the tokens of the region z with the largest L_xz
//
// There is no 1 / sqrt(dimension): the scale is 1 unless given. Ties go to the lower region. What is made of the two
// outputs (projections and a sum with the content) is the caller's. Regions are compared, not tokens: in a region's sum
// one of them weighs little.
//
//   query [batch, head, token of one image], key and value [.., token of another], row-major; regions of equal size
//
// Cost: distributed, one pass over keys and values and a product of tokens * regions; progressive, a product of regions
// * regions for each place of a region, and of each token with one region.
//
// Mingrui Zhu et al.: All-to-key Attention for Arbitrary Style Transfer, 2023.
#pragma once

#include "../../call/plan.hpp"
#include "../../engine/pooled_rows.hpp"
#include "../../policy/mask/block_sparse.hpp"
#include "../../policy/order/region_order.hpp"
#include "../../policy/score/scale.hpp"
#include "../../select/region_choice.hpp"
#include "../../simd/dot.hpp"
#include "../../simd/mean.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Holds the two learned numbers of the gate that weighs a region's tokens.
struct a2k_gate {
  double alpha = 1;
  double beta = 0;
};

}  // namespace systems

namespace detail {

/// (sum_y weight[y] row(y) + mean of rows) / (area + 1), the mean as it is given.
template <Element T, class Row>
void gated_mean(Row const& row, index_t area, index_t dimension, accumulation_t<T> const* weight,
                accumulation_t<T> const* mean, T* to) {
  using A = accumulation_t<T>;
  constexpr index_t step = simd::width<A>;
  simd::vector<A> const factor(1 / static_cast<A>(area + 1));
  for (index_t c = 0; c < dimension; c += step) {
    index_t const part = std::min(step, dimension - c);
    simd::vector<A> sum = simd::widen_part(mean + c, part);
    for (index_t y = 0; y < area; ++y)
      sum = simd::fused_multiply_add<A>(simd::vector<A>(weight[y]), simd::widen_part(row(y) + c, part), sum);
    simd::narrow_part(to + c, sum * factor, part);
  }
}

}  // namespace detail

namespace systems {

/// The distributed form: every query sees one key for each region. Query, key, value and output have the shapes of
/// softmax_attention, with equal key and value heads. Options are those of softmax_attention over one key for each
/// region; the scale is 1 unless given.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, or where
/// the regions do not fill the image of the keys.
///
///     a2k_distributed_attention(q, k, v, o, image_regions{{64, 64}, {8, 8}}, a2k_gate{.alpha = 1, .beta = 0});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void a2k_distributed_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                               image_regions const& regions, a2k_gate const& gate, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  tensor_view<T const, 4> const k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  problem_shape const shape = call::tensor_problem<T>(raise<4>(view_of(query)), k, v, raise<4>(view_of(output))).shape;
  regions.check("image_regions", shape.keys, "key");
  detail::check_extent("value", "heads", shape.value_heads, shape.key_heads, "key");
  detail::check_finite("a2k_gate (alpha)", gate.alpha);
  detail::check_finite("a2k_gate (beta)", gate.beta);
  scratch memory;
  index_t const count = regions.count(), area = regions.area(), heads = shape.key_heads;
  tensor_view<T, 4> const keys(memory.allocate<T>(shape.batches * heads * count * shape.key_dimension),
                               {shape.batches, heads, count, shape.key_dimension});
  tensor_view<T, 4> const values(memory.allocate<T>(shape.batches * heads * count * shape.value_dimension),
                                 {shape.batches, heads, count, shape.value_dimension});
  auto const members = [&](index_t x, auto const& add) {
    for (index_t y = 0; y < area; ++y) add(regions.token(x * area + y));
  };
  engine::for_pools(
      k, count, area, members, call::executor_of(options...),
      [&](index_t batch, index_t head, index_t x, T const* const* rows, index_t) {
        scratch memory_of_region;
        A* const weight = memory_of_region.allocate<A>(area);
        A* const mean = memory_of_region.allocate<A>(std::max(shape.key_dimension, shape.value_dimension));
        auto const key_row = [&](index_t y) { return rows[y]; };
        auto const value_row = [&](index_t y) { return &v(batch, head, regions.token(x * area + y), 0); };
        simd::mean_of_rows<T>(key_row, area, shape.key_dimension, mean);
        for (index_t y = 0; y < area; ++y)
          weight[y] = 1 / (1 + std::exp(-(static_cast<A>(gate.alpha) * simd::dot(rows[y], mean, shape.key_dimension) +
                                          static_cast<A>(gate.beta))));
        detail::gated_mean<T>(key_row, area, shape.key_dimension, weight, mean, &keys(batch, head, x, 0));
        simd::mean_of_rows<T>(value_row, area, shape.value_dimension, mean);
        detail::gated_mean<T>(value_row, area, shape.value_dimension, weight, mean, &values(batch, head, x, 0));
      });
  auto pooled = call::problem_of(query, keys, values, output);
  auto plan = call::plan(pooled, options...);
  if constexpr (!detail::has_kind<option::scale, Options...>) pooled.scale = 1;
  call::run(plan, engine::problem_rows(pooled));
}

/// The progressive form: the queries of a region see the tokens of one region of keys. `table` takes the chosen
/// regions, one for each region of the queries and each query head; its storage is kept from call to call. Options:
/// scale (1 unless given), log_sum_exp, count_tiles and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, or where
/// the regions do not fill their images or differ in size.
///
///     image_regions const regions{{64, 64}, {8, 8}};
///     a2k_progressive_attention(q, k, v, o, table, regions, regions);
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void a2k_progressive_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                               block_table& table, image_regions const& query_regions, image_regions const& key_regions,
                               Options&&... options) {
  arithmetic_mode const arithmetic;
  auto problem = call::problem_of(query, key, value, output);
  problem_shape const& shape = problem.shape;
  query_regions.check("image_regions (query)", shape.queries, "query");
  key_regions.check("image_regions (key)", shape.keys, "key");
  for (std::size_t axis = 0; axis < 2; ++axis)
    detail::check_extent("image_regions (key)", "extent of a region", key_regions.region[axis],
                         query_regions.region[axis], "query");
  index_t const area = query_regions.area(), others = key_regions.count();
  // A call that is refused leaves the table as it was.
  call::plan<call::system_options>(problem, options...);
  table.reset({shape.batches, shape.query_heads, shape.queries, shape.keys, area, area}, std::min<index_t>(others, 1));

  detail::choose_region_by_pairs(problem, query_regions, key_regions, table, call::executor_of(options...));
  block_sparse const mask{table};
  auto plan = call::plan(problem, mask, options...);
  if constexpr (!detail::has_kind<option::scale, Options...>) problem.scale = 1;
  engine::run_tiled(problem, engine::problem_rows(problem),
                    plan.policies().in(region_order{query_regions, key_regions}), plan.executor);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
