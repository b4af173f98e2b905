// SPDX-License-Identifier: BSD-3-Clause
// A call of every family for every element type, to be compiled with all warnings as errors, and not to be run.
#include <attend/attend.hpp>
#include <attend/gradients.hpp>
#include <attend/onnx.hpp>

namespace {

using attend::index_t;
using attend::tensor_view;

template <class T>
struct call {
  using A = attend::extend::accumulation_t<T>;

  tensor_view<T const, 4> q, k, v;
  tensor_view<T const, 3> query_rows, rows_of_heads;
  tensor_view<T, 4> o;
  tensor_view<A, 4> wide;
  tensor_view<A const, 3> rows;
  tensor_view<A, 3> sums;
  tensor_view<std::int32_t, 4> keys;
  std::vector<attend::extend::key_range> const ranges;
  tensor_view<A const, 2> matrix;
  tensor_view<A const, 1> list;
  tensor_view<A, 1> wide_list;
  tensor_view<A, 2> wide_matrix;
  std::vector<std::int64_t> const lengths;
  attend::rotary<attend::options::rotary_frequencies> const turned;
  attend::options::block_table& table;

  void softmax() const {
    using namespace attend;
    using namespace attend::systems;
    using namespace attend::extend;
    softmax_attention(q, k, v, o);
    softmax_attention(q, k, v, o, causal{} & window{4, 0}, alibi(alibi_slopes(8)), softcap{30.}, threads{2});
    softmax_attention(q, k, v, o, documents{lengths} | prefix_lm{4}, bias(wide), sinks{0.}, log_sum_exp(sums));
    softmax_attention(q, k, v, o, causal{}, entropy(sums), block_maxima(wide, {32, 32}), range_mass(ranges, wide),
                      heaviest_keys(keys, wide));
    attention_statistics(q, k, entropy(sums));
    softmax_attention(q, k, v, o, global_tokens(2) | block_window(8, 1, 1), query_logit_scale(rows),
                      head_logit_scale(list), turned);
    softmax_attention(q, k, v, o, mask([](auto i, auto j) { return i / 64 == j / 64; }),
                      score([](auto s, auto const& at) { return s - A(0.1) * (at.query_position - at.key_position); }));
    softmax_attention(q, k, v, o, block_sparse(table), sigmoid_weights{}, value_gain(rows));
    softmax_attention(q, k, v, o, ragged{lengths}, relu_weights{relu_scaling::sum}, scale{0.5});
    softmax_attention(q, k, v, o, prefix_key_values{k, v}, padded{lengths}, weights(wide), causal{});
    softmax_attention(q, k, v, o, streaming{4, 64}, gaussian_gain(rows, 4.), serial{});
    softmax_attention_backward(q, k, v, o, sums, o, o, o, o, causal{}, bias(wide), head_logit_scale(list), sinks(list),
                               of_log_sum_exp(rows), gradient_of_bias(wide), gradient_of_logit_scale(wide_list),
                               gradient_of_sinks(wide_list));
    softmax_attention(q, k, v, o, dropout{.probability = 0.1, .seed = 1});
    softmax_attention_backward(q, k, v, o, tensor_view<A, 3>(), o, o, o, o, relu_weights{relu_scaling::sum}, turned,
                               value_gain(rows), head_gates(matrix), dropout{.probability = 0.1},
                               gradient_of_value_gain(sums), gradient_of_head_gates(wide_matrix));
    attention_weights(q, k, wide, key_lengths{lengths});
    softmax_attention(q, k, v, o, causal{}, key_mass(sums, last_queries{4}));
    attention_key_mass(q, k, sums, key_mass(sums, query_list{lengths}), alibi(list));
    transposed_attention(q, k, sums, q, wide, key_mass(sums), prefix_key_values{k, v});
    std::vector<key_range> const segments{{0, 4}};
    softmax_attention(q, k, v, o, segment_gain(segments, wide), segment_bias(segments, wide));
    calibrated_gains(wide, wide, 0.5, wide);
    best_segments(wide, 2, wide);
    act_attention(q, k, v, o, lengths, {.threshold = 0.1});
    reversed_attention(q, k, q, wide, rows, key_mass(sums));
    head_contributions(q, k, v, wide);
    probabilistic_attention(q, k, v, o, mixture<T>{});
    adapt_keys(q, o, v, mixture<T>{}, {.steps = 2});
    propagate_values(q, k, o, mixture<T>{}, {.steps = 2});
    decode_attention(q, k, v, o, causal{}, threads{2});
    neighborhood_attention<2>(q, k, v, o, {8, 8}, {neighborhood_axis{3}, neighborhood_axis{3}});
    neighborhood_attention_backward<2>(q, k, v, o, sums, o, o, o, o, {8, 8},
                                       {neighborhood_axis{3}, neighborhood_axis{3}}, relative_bias(rows),
                                       gradient_of_relative_bias(sums));
    selective_attention(q, k, v, o, selective_temperature<A>{}, selective_temperature<A>{});
    multi_grained_attention(q, k, v, o, {8, 8}, 4);
    factorized_attention(q, k, v, o, {8, 8}, 2, 1);
    rotary_embedding(q, turned, o);
    merge_heads(k, o);
  }

  void relevance() const {
    using namespace attend::systems;
    region_weights(q, k, v, o, sums, attend::causal{});
    sum_over_queries(q, v, wide);
    spread_over_queries(v, wide, o);
    region_weights_backward(q, k, v, q, rows, q, o, o, attend::causal{});
    if constexpr (!std::same_as<T, attend::half>) {
      attention_relevance(q, k, v, q, rows, q, o, o, o, attn_lrp{}, attend::causal{});
      attention_relevance(q, k, v, q, rows, q, o, o, o, deep_taylor{});
      std::vector<relevance_layer<T>> const explained{{q, k, v, q, q, q}};
      relevance_rollout(explained, query_rows, tensor_view<T, 3>(), attend::causal{});
      relevance_rollout_rows(explained, query_rows, tensor_view<T, 3>());
    }
    head_divergence(q, v, tensor_view<double, 2>());
    reinforced_heads<A>(tensor_view<double const, 2>(), {}, tensor_view<A, 2>());
    emphasis_bias(list, emphasized_tokens(list, {.rows = 4, .columns = 4}), 0.5, wide);
    std::vector<rollout_layer<T>> const layers{{q, k}, {q, k}};
    attention_rollout(layers, query_rows, tensor_view<T, 3>(), attend::causal{});
    attention_rollout_rows(layers, query_rows, tensor_view<T, 3>(), attend::causal{});
    residual_map(q, k, sums, head_fusion::mean, attend::causal{});
    map_rollout(rows, tensor_view<A, 2>());
    attention_flow(rows, lengths, tensor_view<A, 2>(), attend::threads{2});
    static_cast<void>(token_ratio_loss(wide, list, wide) + spatial_ratio_loss(wide, wide));
  }

  void linear() const {
    using namespace attend;
    using namespace attend::systems;
    using namespace attend::extend;
    linear_attention(q, k, v, o);
    linear_attention(q, k, v, o, causal{}, head_decay(retention_decays(8)), threads{2});
    linear_attention(q, k, v, o, causal{}, feature_decay(wide), rms_norm{}, initial_state(wide), final_state(wide));
    linear_attention(q, k, v, o, causal{}, token_decay(rows), delta_rule(rows));
    linear_attention(q, k, v, o, causal{}, options::full_precision{});
    linear_attention(q, k, v, o, causal{}, elu_features{}, key_sum{}, input_gates(rows), chunk_length{64});
    linear_attention_backward(q, k, v, o, o, o, o, causal{}, delta_rule(rows), token_decay(rows), initial_state(wide),
                              gradient_of_decay(sums), gradient_of_rates(sums), gradient_of_initial_state(wide),
                              gradient_of_final_state(wide), threads{2});
    linear_attention_backward(q, k, v, o, o, o, o, taylor_features{}, key_sum{}, feature_decay(wide),
                              gradient_of_decay(wide));
    based_attention(q, k, v, o);
    cosformer_attention(q, k, v, o, cosine_horizon{64}, causal{});
    fastmax_attention(q, k, v, o, fastmax_order::second);
    flow_attention(q, k, v, o, causal{});
    hedgehog_attention(q, k, v, o, hedgehog_features<A>(rows, rows), causal{});
    latte_attention(q, k, v, o, causal{});
    lightnet_attention(q, k, v, o, causal{});
    log_normal_attention(q, k, v, o, log_normal_features{});
    performer_attention(q, k, v, o, random_features<A>(64, 16, 1), causal{});
    transnormer_attention(q, k, v, o, head_decay(retention_decays(8)), transnormer_rotation(matrix));
    inline_attention(q, k, v, o);
    infini_attention(q, k, v, o, infini_memory<A>(64, list));
    aaren_attention(query_rows, k, v, o);
  }

  void chosen() const {
    using namespace attend;
    using namespace attend::systems;
    using namespace attend::extend;
    moba_attention(q, k, v, o, moba_options{16, 2});
    sample_attention(q, k, v, o, sample_options{});
    hip_attention(q, k, v, o, table, hip_options{});
    x_attention(q, k, v, o, table, x_attention_options{});
    hyper_attention(q, k, v, o, hash_directions(7, 16, 1), hyper_options{});
    combiner_fixed_attention(q, k, v, o, 16);
    combiner_logsparse_attention(q, k, v, o);
    combiner_axial_attention(q, k, v, o, 16);
    bi_level_routing_attention(q, k, v, o, table, image_regions{{8, 8}, {2, 2}}, 4);
    landmark_prompt_attention(q, k, v, o, 16);
    sparse_k_attention(q, k, v, o, rows, 16);
    sparse_k_causal_attention(q, k, v, o, rows, 16, 4);
    sparse_k_cache<T> best({1, 2, 16, 16}, {.chosen = 16, .window = 4});
    best.append(k, v, rows);
    sparse_k_decode_attention(q, best, o);
    hepos_attention(q, k, v, o, 2);
  }

  template <class Cache>
  void stored(Cache& cache) const {
    using namespace attend;
    using namespace attend::systems;
    using namespace attend::extend;
    cached_attention(cache, q, k, v, o, causal{}, threads{2});
    decode_attention(q, cache, o);
  }

  template <class Cache>
  void put_aside(Cache& cache) const {
    using namespace attend::caches;
    std::vector<std::byte> bytes(static_cast<std::size_t>(saved_bytes(cache) + saved_bytes(cache, 0)));
    save(cache, bytes), save(cache, 0, bytes);
    load(cache, bytes), load(cache, 0, bytes);
  }

  void stores() const {
    using namespace attend;
    using namespace attend::systems;
    using namespace attend::extend;
    cache_shape const shape{1, 2, 16, 16};
    contiguous_cache<T> whole(shape, 64);
    stored(whole);
    if constexpr (!std::same_as<T, double>) {
      contiguous_cache<std::int8_t, int4_pair> quantized(shape, 64);
      stored(quantized);
      put_aside(quantized);
    }
    paged_cache<T> pages(shape, {.pages = 8, .page_tokens = 16});
    stored(pages);
    evicting_cache<T> evicting(shape, {.pages = 16, .page_tokens = 16});
    stored(evicting);
    if constexpr (!std::same_as<T, double>) {
      bit_plane_cache<> planes(shape, {.pages = 16, .page_tokens = 16});
      stored(planes);
      spatten_attention(q, planes, o, {});
      cascade_pruning pruning(1, 64);
      pruning.add_weights(planes);
      pruning.prune(planes, 0, {.heaviest = 8});
    }
    put_aside(evicting);
    accumulate_weights(q, rows, evicting);
    evicting.evict(keep_window{.sinks = 4, .window = 60});
    evicting.evict(keep_heaviest{.recent = 30, .heaviest = 30});
    evicting.evict(keep_smallest_keys{.recent = 30, .smallest = 30});
    evicting.evict(drop_closed_spans(std::array{4}, std::array{9}));
    std::vector<std::uint8_t> const kinds_of_tokens(64);
    fastgen_eviction policy(shape, tensor_view(kinds_of_tokens.data(), {1, 64}));
    policy.choose(evicting);
    evicting.evict(policy);
    rolling_cache<T> rolling(shape, streaming{4, 60});
    stored(rolling);
    streaming_attention(rolling, q, k, v, o, turned);
    put_aside(whole), put_aside(pages), put_aside(rolling);
    cached_attention(whole, q, k, v, o, turned);
    decode_attention(q, whole, o, rotary_moves(turned, places_in_list{}));
    tensor_view<std::int32_t const, 1> const places;
    softmax_attention(q, whole, o, rotary_places(turned, given_places(places, places)));
    multi_head_embedding_attention(whole, query_rows, query_rows, query_rows,
                                   head_embeddings<A>{head_combination::add, matrix, matrix, matrix}, o, turned);
    std::vector<std::int32_t> const first{0};
    cached_attention(sequences_of(pages, first), q, k, v, o);

    quest_selector<A> quest(shape, 8, 64, quest_pages({.tokens = 16}));
    selected_attention(q, whole, quest, o);
    loki_selector<A> loki(shape, 8, 64, loki_tokens({.tokens = 16}));
    selected_attention(q, whole, loki, o);
    mean_page_selector<A> means(shape, 8, 64, moba_blocks({.tokens = 16}));
    selected_attention(q, whole, means, o);
    long_heads_selector<A> chunks(shape, 8, 64, 3, 16);
    selected_attention(q, whole, chunks, o);
    landmark_selector<A> landmarks(shape, 8, 64, 3, 8);
    landmark_attention(q, whole, landmarks, o);
    landmark_prefill(whole, landmarks, q, k, v, o, turned);
    vote_selector<A> votes(shape, 8, 64, {.budget = {.tokens = 16}});
    selected_attention(q, whole, votes, o);
    recycled_selector<A> recycled(shape, 8, 64, {.budget = {.tokens = 16}}, {});
    recycled_attention(q, whole, recycled, o);
    contiguous_cache<T> fewer_keys({.key_value_heads = 2, .key_dimension = 16, .value_dimension = 16, .key_heads = 1},
                                   64);
    cached_attention(fewer_keys, q, k, v, o);
    largest_weights<A> largest(shape, 8, 64, 16);
    selective_value_attention(q, whole, largest, o, scale{0.5}, threads{2});
    shared_prefix_attention(q, k, v, whole, o);

    std::vector<std::int32_t> const kinds{0, 1};
    head_policy_cache kept(paged_cache<T>({1, 1, 16, 16}, {.pages = 8, .page_tokens = 16}),
                           compensated_cache<T>({1, 1, 16, 16}, {4, 60}, 8), kinds);
    razor_attention(kept, q, k, v, o);
    put_aside(kept);

    latent_cache<T> latents({1, 16, 8}, 64);
    put_aside(latents);
    latent_attention(q, latents, latent_projections(rows_of_heads, rows_of_heads), o, absorbed{});
    latent_attention(q, latents, latent_projections(rows_of_heads, rows_of_heads), o, expanded{}, causal{},
                     log_sum_exp(sums));
    tensor_view<T, 3> const of_rows;
    latent_attention_backward(q, query_rows, query_rows, latent_projections(rows_of_heads, rows_of_heads), q, rows, q,
                              o, of_rows, of_rows, latent_projection_gradients(of_rows, of_rows), causal{}, scale{0.5});
  }

  void operators() const {
    using namespace attend;
    using namespace attend::systems;
    using namespace attend::extend;
    tensor_view<T, 3> const y;
    tensor_view<T const, 5> const packed;
    tensor_view<T const, 2> const angles;
    tensor_view<std::int32_t const, 1> const padding;
    onnx::attention(q, k, v, o, {.is_causal = 1, .softcap = 30.}, {.attn_mask = q, .past_key = k, .past_value = v},
                    {.qk_matmul_output = o});
    onnx::linear_attention(query_rows, query_rows, query_rows, y, {.kv_num_heads = 1, .q_num_heads = 2},
                           {.past_state = q, .decay = query_rows, .beta = query_rows}, {.present_state = wide});
    onnx::flex_attention(
        q, k, v, o, {}, [](auto s, auto const& at) { return s + at.key_position; },
        [](auto p, auto const&) { return p * p; });
    onnx::rotary_embedding(q, angles, angles, o, {.interleaved = 1});
    onnx::microsoft::multi_head_attention(packed, o, {.num_heads = 2}, {.key_padding_mask = padding});
    onnx::microsoft::group_query_attention(
        q, k, v, o, {.do_rotary = 1, .kv_num_heads = 1, .num_heads = 2},
        {.seqlens_k = padding, .total_sequence_length = 8, .cos_cache = angles, .sin_cache = angles});
  }

  void all() const {
    softmax();
    operators();
    relevance();
    linear();
    chosen();
    stores();
  }
};

}  // namespace

template void call<float>::all() const;
template void call<double>::all() const;
template void call<attend::half>::all() const;
template void call<attend::bfloat16>::all() const;
