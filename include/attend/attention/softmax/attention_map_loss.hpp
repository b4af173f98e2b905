// SPDX-License-Identifier: BSD-3-Clause
// Losses on attention maps: what guides a model by where its attention lies, by the gradient of a loss on sums of
// weights with respect to queries and keys.
//
//   w_ir = sum_j p_ij c_jr                  region_weights: what query i gives to region r of the keys
//   m_ar = sum_i b_ia w_ir                  sum_over_queries: what region a of the queries gives to it
//   L = L(m), a loss of the caller's; its gradient dm_ar
//   dw_ir = sum_a b_ia dm_ar                spread_over_queries
//   dp_ij = sum_r dw_ir c_jr,  ds_ij = p_ij (dp_ij - sum_l p_il dp_il),  dq_i = scale sum_j ds_ij k_j,
//   dk_j = scale sum_i ds_ij q_i            region_weights_backward
//
// Columns of c and b are 1 in a region and 0 outside, or any numbers: regions may overlap and have soft borders. A loss
// on the map itself, as on that of a text's few tokens, has a region for each key: c is the identity. A loss on the
// mean map of the heads has dw of one head, divided by their number, which holds for all.
//
// With the regions in the place of values, w is what softmax attention gives and dw is the gradient of its output: dp
// is dw times the regions, and sum_l p_il dp_il = sum_r dw_ir w_ir. So these are the loops of softmax_attention and of
// its gradients, with masks, scores and sequences, and no map of queries * keys is made.
//
//   query [batch, query head, query, dimension]       key_regions   c [batch, head, key, region]
//   key   [batch, key head, key, dimension]           query_regions b [batch, head, query, region]
//   weights, of_weights  w, dw [batch, query head, query, region of keys]
//   masses, of_masses    m, dm [batch, query head, region of queries, region of keys]
//
// Leading axes of the regions may be left out or be 1: they then hold for all batches and heads.
//
// Two of the losses that papers have, of objects o, each with its region of the queries and its words, region o of the
// keys, as means over objects, batches and heads:
//
//   token ratio     (1 - m_oo / n_o)^2            n_o: the pairs of the two regions
//   spatial ratio   3 - 4 m_oo / m_no             n: a further region, of all queries
//
// Cost: that of softmax_attention and of its gradients with values as wide as the regions are many. Memory beside the
// tensors: a number for each head, key and region.
//
// Qi Mao, Lan Chen, Yuchao Gu, Zhen Fang, Mike Zheng Shou: MAG-Edit: Localized Image Editing in Complex Scenarios via
// Mask-Based Attention-Adjusted Guidance, 2023 (the two ratios, as in the authors' code). Quynh Phung, Songwei Ge,
// Jia-Bin Huang: Grounded Text-to-Image Synthesis with Attention Refocusing, 2023 (its loss on self-attention is a sum
// over regions; that on cross-attention is a function of the mean map).
#pragma once

#include "../../core/head_loop.hpp"
#include "softmax_attention_backward.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// The same tensor, with its axes of batches and of heads as long as asked for where they are 1.
template <class T>
tensor_view<T, 4> shared_over(tensor_view<T, 4> const& tensor, index_t batches, index_t heads) {
  auto extents = tensor.extents(), strides = tensor.strides();
  index_t const wanted[] = {batches, heads};
  for (std::size_t axis = 0; axis < 2; ++axis)
    if (extents[axis] == 1 && wanted[axis] != 1) extents[axis] = wanted[axis], strides[axis] = 0;
  return {tensor.data(), extents, strides};
}

/// Checks a tensor [batch, head, token, region] whose first two axes may be 1, and widens them.
template <class T>
tensor_view<T const, 4> checked_shared(char const* argument, tensor_view<T const, 4> const& tensor, index_t batches,
                                       index_t heads, index_t tokens, char const* of) {
  check_view(argument, tensor);
  if (tensor.extent(0) != batches && tensor.extent(0) != 1)
    fail(argument, "expected ", one_or(batches, "batch", "batches"), ", got ", tensor.extent(0));
  if (tensor.extent(1) != heads && tensor.extent(1) != 1)
    fail(argument, "expected ", one_or(heads, "head", "heads"), ", got ", tensor.extent(1));
  check_extent(argument, "tokens", tensor.extent(2), tokens, of);
  return shared_over(tensor, batches, heads);
}

/// Checks a tensor [batch, head, row, region of keys] of the map.
template <class View>
void check_map_rows(char const* argument, View const& rows, index_t batches, index_t heads, char const* what,
                    index_t count, char const* of, index_t regions) {
  check_extent(argument, "batch", rows.extent(0), batches, "query");
  check_extent(argument, "heads", rows.extent(1), heads, "query");
  check_extent(argument, what, rows.extent(2), count, of);
  check_extent(argument, "regions", rows.extent(3), regions, "key_regions");
}

/// Checks the sums of a loss and their gradient: as many regions of keys as there are objects, and of queries so many
/// more.
template <class A>
index_t checked_objects(tensor_view<A const, 4> const& masses, tensor_view<A, 4> const& of_masses, index_t further) {
  check_view("masses", masses);
  check_output_view("of_masses", of_masses);
  if (masses.extent(2) != masses.extent(3) + further)
    fail("masses", "expected ", masses.extent(3) + further, " regions of queries for ", masses.extent(3),
         " regions of keys, got ", masses.extent(2));
  if (of_masses.extents() != masses.extents())
    fail("of_masses", "expected shape ", shape_text<4>(masses.extents()), " (as masses), got ",
         shape_text<4>(of_masses.extents()));
  check_apart("of_masses", of_masses, "masses", masses);
  return masses.extent(3);
}

}  // namespace detail

namespace systems {

/// Writes what each query gives to each region of the keys, and the log-sum-exp of each row, [batch, query head, query]
/// of the accumulation type, which the gradients need. Options: a mask, scores, scale, sinks, sequences, executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     region_weights(q, k, state, o, lse, causal{});  // state: the keys' regions
template <TensorArgument Query, TensorArgument Key, TensorArgument Regions, TensorArgument Weights,
          TensorArgument LogSumExp, class... Options>
void region_weights(Query const& query, Key const& key, Regions const& key_regions, Weights&& weights,
                    LogSumExp&& log_sum_exp, Options&&... options) {
  using T = call::element_of_call<Weights, Query, Key, Regions>;
  call::map_options::check<Options...>();
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key));
  tensor_view<T, 4> const w = raise<4>(view_of(weights));
  auto const lse = raise<3>(view_of(log_sum_exp));
  problem_shape const shape = call::checked_shape<T>(q, k);
  auto const regions = detail::checked_shared<T>("key_regions", raise<4>(view_of(key_regions)), shape.batches,
                                                 shape.query_heads, shape.keys, "key");
  detail::check_output_view("weights", w);
  detail::check_map_rows("weights", w, shape.batches, shape.query_heads, "tokens", shape.queries, "query",
                         regions.extent(3));
  detail::check_apart("weights", w, "key_regions", regions);
  softmax_attention(q, k, regions, w, options::log_sum_exp(lse), std::forward<Options>(options)...);
}

/// Writes the gradients of `query` and `key`, given that of the weights of the regions: `weights` and `log_sum_exp` are
/// those that region_weights wrote with the same options, and `of_weights` has their shape, or one batch or head that
/// holds for all. Results have the same bits for any number of threads.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     region_weights_backward(q, k, state, o, lse, of_o, of_q, of_k, causal{});
template <TensorArgument Query, TensorArgument Key, TensorArgument Regions, TensorArgument Weights,
          TensorArgument LogSumExp, TensorArgument OfWeights, TensorArgument OfQuery, TensorArgument OfKey,
          class... Options>
void region_weights_backward(Query const& query, Key const& key, Regions const& key_regions, Weights const& weights,
                             LogSumExp const& log_sum_exp, OfWeights const& of_weights, OfQuery&& of_query,
                             OfKey&& of_key, Options&&... options) {
  using T = call::element_of_call<OfQuery, Query, Key, Regions, Weights, OfWeights, OfKey>;
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)),
                                w = raise<4>(view_of(weights));
  problem_shape const shape = call::checked_shape<T>(q, k);
  auto const regions = detail::checked_shared<T>("key_regions", raise<4>(view_of(key_regions)), shape.batches,
                                                 shape.query_heads, shape.keys, "key");
  auto const of_w = detail::checked_shared<T>("of_weights", raise<4>(view_of(of_weights)), shape.batches,
                                              shape.query_heads, shape.queries, "query");
  detail::check_view("weights", w);
  detail::check_map_rows("weights", w, shape.batches, shape.query_heads, "tokens", shape.queries, "query",
                         regions.extent(3));
  detail::check_extent("of_weights", "regions", of_w.extent(3), regions.extent(3), "key_regions");
  scratch memory;
  // The regions' own gradients, which nobody asks for, are a narrow product.
  tensor_view<T, 4> const of_regions(
      memory.allocate<T>(shape.batches * shape.query_heads * shape.keys * regions.extent(3)), regions.extents());
  softmax_attention_backward(q, k, regions, w, log_sum_exp, of_w, of_query, of_key, of_regions,
                             std::forward<Options>(options)...);
}

/// Writes what each region of the queries gives to each region of the keys, in the accumulation type. A query outside
/// a region has no influence on its sums, whatever its weights are. Options: executor.
///
/// Throws argument_error, before anything is written, where shapes, strides or memory do not fit.
///
///     sum_over_queries(o, features, pairs);  // features: the queries' regions, pairs: [batch, head, region, region]
template <TensorArgument Weights, TensorArgument Regions, TensorArgument Masses, class... Options>
void sum_over_queries(Weights const& weights, Regions const& query_regions, Masses&& masses, Options&&... options) {
  arithmetic_mode const arithmetic;
  call::allows<option::executor>::check<Options...>();
  using T = element_of_t<Weights const>;
  using A = accumulation_t<T>;
  tensor_view<T const, 4> const w = raise<4>(view_of(weights));
  tensor_view<A, 4> const sums = raise<4>(view_of(masses));
  detail::check_view("weights", w);
  index_t const batches = w.extent(0), heads = w.extent(1), count = w.extent(3);
  tensor_view<T const, 4> const given = raise<4>(view_of(query_regions));
  auto const regions = detail::checked_shared<T>("query_regions", given, batches, heads, w.extent(2), "weights");
  detail::check_output_view("masses", sums);
  detail::check_map_rows("masses", sums, batches, heads, "regions of queries", regions.extent(3), "query_regions",
                         count);
  detail::check_apart("masses", sums, "weights", w);
  detail::check_apart("masses", sums, "query_regions", regions);
  auto& executor = call::executor_of(options...);
  detail::for_heads(executor, batches, heads, detail::loop_cost::of(2 * w.extent(2) * count * regions.extent(3)),
                    [&](index_t b, index_t h) {
                      for (index_t a = 0; a < regions.extent(3); ++a)
                        for (index_t r = 0; r < count; ++r) {
                          double sum = 0;
                          for (index_t i = 0; i < w.extent(2); ++i)
                            if (double const share = static_cast<double>(regions(b, h, i, a)); share != 0)
                              sum += share * static_cast<double>(w(b, h, i, r));
                          sums(b, h, a, r) = static_cast<A>(sum);
                        }
                    });
}

/// Writes the gradient of the weights of regions from that of the sums over regions of queries, which are in the
/// accumulation type. Options: executor.
///
/// Throws argument_error, before anything is written, where shapes, strides or memory do not fit.
///
///     spread_over_queries(features, pairs, of_o);
template <TensorArgument Regions, TensorArgument OfMasses, TensorArgument OfWeights, class... Options>
void spread_over_queries(Regions const& query_regions, OfMasses const& of_masses, OfWeights&& of_weights,
                         Options&&... options) {
  arithmetic_mode const arithmetic;
  call::allows<option::executor>::check<Options...>();
  using T = element_of_t<OfWeights>;
  using A = accumulation_t<T>;
  tensor_view<T, 4> const w = raise<4>(view_of(of_weights));
  tensor_view<A const, 4> const sums = raise<4>(view_of(of_masses));
  detail::check_output_view("of_weights", w);
  detail::check_view("of_masses", sums);
  index_t const batches = w.extent(0), heads = w.extent(1), count = w.extent(3);
  tensor_view<T const, 4> const given = raise<4>(view_of(query_regions));
  auto const regions = detail::checked_shared<T>("query_regions", given, batches, heads, w.extent(2), "of_weights");
  detail::check_map_rows("of_masses", sums, batches, heads, "regions of queries", regions.extent(3), "query_regions",
                         count);
  detail::check_apart("of_weights", w, "query_regions", regions);
  detail::check_apart("of_weights", w, "of_masses", sums);
  auto& executor = call::executor_of(options...);
  detail::for_tokens(executor, batches, heads, w.extent(2), detail::loop_cost::of(2 * count * regions.extent(3)),
                     [&](index_t b, index_t h, index_t first, index_t last) {
                       for (index_t i = first; i < last; ++i)
                         for (index_t r = 0; r < count; ++r) {
                           A sum = 0;
                           for (index_t a = 0; a < regions.extent(3); ++a)
                             sum += static_cast<A>(regions(b, h, i, a)) * sums(b, h, a, r);
                           w(b, h, i, r) = static_cast<T>(sum);
                         }
                     });
}

/// Gives MAG-Edit's loss on token ratios, and writes its gradient: masses [batch, head, object, object] are the sums
/// over the objects' regions, and pairs[o] says how many pairs of a query and a key are in those of object o.
///
/// Throws argument_error, before anything is written, where shapes, strides or memory do not fit.
///
///     double const loss = token_ratio_loss(view_of(pairs), numbers, view_of(pairs2));
template <class A, TensorArgument Pairs>
double token_ratio_loss(tensor_view<A, 4> const& masses, Pairs const& pairs,
                        tensor_view<std::remove_const_t<A>, 4> of_masses) {
  tensor_view<A const, 4> const sums = masses;
  index_t const objects = detail::checked_objects(sums, of_masses, 0);
  auto const areas = view_of(pairs);
  detail::check_view("pairs", areas);
  detail::check_extent("pairs", "objects", areas.extent(0), objects, "masses");
  double const share = 1 / static_cast<double>(std::max<index_t>(sums.extent(0) * sums.extent(1) * objects, 1));
  double loss = 0;
  for (index_t b = 0; b < sums.extent(0); ++b)
    for (index_t h = 0; h < sums.extent(1); ++h)
      for (index_t o = 0; o < objects; ++o) {
        double const area = static_cast<double>(areas(o)), rest = 1 - static_cast<double>(sums(b, h, o, o)) / area;
        loss += share * rest * rest;
        for (index_t r = 0; r < objects; ++r)
          of_masses(b, h, o, r) = static_cast<std::remove_const_t<A>>(r == o ? -2 * share * rest / area : 0);
      }
  return loss;
}

/// Gives MAG-Edit's loss on spatial ratios, and writes its gradient: masses [batch, head, object or all, object] are
/// the sums over the objects' regions, and, in the last row, those over all queries. An object whose words get no
/// weight at all has a loss and gradients that are not numbers.
///
/// Throws argument_error, before anything is written, where shapes, strides or memory do not fit.
///
///     double const loss = spatial_ratio_loss(view_of(pairs), view_of(pairs2));
template <class A>
double spatial_ratio_loss(tensor_view<A, 4> const& masses, tensor_view<std::remove_const_t<A>, 4> of_masses) {
  tensor_view<A const, 4> const sums = masses;
  index_t const objects = detail::checked_objects(sums, of_masses, 1);
  double const share = 1 / static_cast<double>(std::max<index_t>(sums.extent(0) * sums.extent(1) * objects, 1));
  double loss = 0;
  for (index_t b = 0; b < sums.extent(0); ++b)
    for (index_t h = 0; h < sums.extent(1); ++h)
      for (index_t r = 0; r < objects; ++r) {
        double const own = static_cast<double>(sums(b, h, r, r)), all = static_cast<double>(sums(b, h, objects, r));
        loss += share * (3 - 4 * own / all);
        for (index_t a = 0; a <= objects; ++a)
          of_masses(b, h, a, r) = static_cast<std::remove_const_t<A>>(a == r         ? -4 * share / all
                                                                      : a == objects ? 4 * share * own / (all * all)
                                                                                     : 0);
      }
  return loss;
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
