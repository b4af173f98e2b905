// SPDX-License-Identifier: BSD-3-Clause
// com.microsoft's GroupQueryAttention as one call: a step or a prompt of a decoder with its cache.
//
//   queries and new keys rotated; new keys and values behind the cached ones
//   s = scale * q.k; softcap; + attention_bias; -inf where causal or the window hides
//   output = softmax(s) . v, with a sink in the denominator where one is asked for
//
//   query [batch, new, num_heads * d], key and value [batch, new, kv_num_heads * d], output as query
//   packed: all three side by side, [batch, new, (num_heads + 2 * kv_num_heads) * d]
//   past and present [batch, kv_num_heads, capacity, d]
//
// A batch has T = seqlens_k + 1 tokens after the step. Of the new ones the first Q are valid, query_seqlens or else the
// smaller of T and their number, and stand at T - Q, T - Q + 1, ...; the others are padding, whose output is 0. A query
// sees the keys up to its own; local_window_size counts its own key, which window{left, 0} does not. Of the past, the
// first T - Q rows are read. The present has zeros from T on, unless it is the past's memory: a cache of fixed capacity
// that is updated where it stands.
//
// total_sequence_length is the largest T. Where it is the number of new tokens and query_seqlens is left out, the call
// is a prompt: the first of position_ids then says where all sequences begin, and the others nothing.
//
// Left out: caches of 8 and 4 bits, sliding_window_cache, and the normalization of queries and keys (q_norm_weight,
// k_norm_weight). The library has cache/quantize.hpp and cache/rolling.hpp.
//
// Cost: that of softmax_attention; queries are copied once where they are rotated, new keys and values once into the
// present, and the past with them where it stands elsewhere.
#pragma once

#include <optional>

#include "../attention/softmax/rotary_embedding.hpp"
#include "softmax_call.hpp"
#include "token_state.hpp"

namespace attend::inline ATTEND_TARGET {
namespace onnx::microsoft {

/// The operator's attributes, with its names and defaults.
struct group_query_attention_attributes {
  index_t causal = 1;
  index_t do_rotary = 0;
  /// Both are needed.
  index_t kv_num_heads = 0;
  /// Keys that a query sees, its own among them; -1 is all.
  index_t local_window_size = -1;
  index_t num_heads = 0;
  /// What output_qk holds: 1 logits, 2 weights; 0 is no output.
  index_t qk_output = 0;
  index_t rotary_interleaved = 0;
  /// 0 is 1/sqrt(d).
  double scale = 0;
  /// 1: a sink of 0 for every head.
  index_t smooth_softmax = -1;
  /// 0 is none.
  double softcap = 0;
};

/// The operator's inputs but for query, key and value. The first two are needed.
template <Element T>
struct group_query_attention_inputs {
  /// [batch]: the tokens of each batch after the step, less one.
  index_list seqlens_k = {};
  /// The largest of them, not less one.
  index_t total_sequence_length = 0;
  /// [batch, kv_num_heads, capacity, d]: both or none.
  optional_tensor<T const, 4> past_key = {}, past_value = {};
  /// [position, pairs], with do_rotary.
  optional_tensor<T const, 2> cos_cache = {}, sin_cache = {};
  /// [batch, new]
  optional_tensor<std::int64_t const, 2> position_ids = {};
  /// [batch or 1, num_heads or 1, new, total_sequence_length]
  optional_tensor<T const, 4> attention_bias = {};
  /// [num_heads]: the logit of each head's sink.
  optional_tensor<T const, 1> head_sink = {};
  /// [batch]: how many of the new tokens are valid.
  std::optional<index_list> query_seqlens = {};
};

/// The operator's optional outputs.
template <Element T>
struct group_query_attention_outputs {
  /// [batch, kv_num_heads, capacity, d], with room for all tokens: both or none.
  optional_tensor<T, 4> present_key = {}, present_value = {};
  /// [batch, num_heads, new, total_sequence_length]: logits, -inf where hidden, or weights.
  optional_tensor<T, 4> output_qk = {};
};

}  // namespace onnx::microsoft

namespace detail {

/// A cache that takes some tokens: its past, what it becomes, and what is to be read of it.
template <Element T>
struct group_cache {
  tensor_view<T const, 4> fresh, past;
  tensor_view<T, 4> present;
  tensor_view<T, 4> written;      // the caller's, for the check of memory
  tensor_view<T const, 4> apart;  // a past that does not stand in it

  group_cache(scratch& memory, char const* past_name, char const* present_name, tensor_view<T const, 4> const& coming,
              index_t total, onnx::optional_tensor<T const, 4> const& given, onnx::optional_tensor<T, 4> const& asked)
      : fresh(coming), written(asked.view()) {
    index_t const batches = fresh.extent(0), heads = fresh.extent(1), dimension = fresh.extent(3);
    past = given ? given.view() : tensor_view<T const, 4>(nullptr, {batches, heads, 0, dimension});
    char const* const axes = "batch, head, capacity, dimension";
    check_shape(past_name, past, {batches, heads, past.extent(2), dimension}, axes);
    if (!same_rows(past, written)) apart = past;
    if (asked) {
      present = written;
      check_shape(present_name, present, {batches, heads, present.extent(2), dimension}, axes);
      check_output_view(present_name, present);
      if (present.extent(2) < total)
        fail(present_name, "expected a capacity of at least ", total, " (total_sequence_length), got ",
             present.extent(2));
    } else {
      present = {memory.allocate<T>(batches * heads * total * dimension + 1), {batches, heads, total, dimension}};
    }
  }

  /// The first tokens of a batch's past, and zeros where its new tokens end.
  void copy_past(index_t batch, index_t before, index_t after) const {
    bool const here = same_rows(past, present);
    for (index_t head = 0; head < present.extent(1) && !here; ++head)
      for (index_t row = 0; row < present.extent(2); ++row) {
        T* const to = &present(batch, head, row, 0);
        if (row < before)
          std::copy_n(&past(batch, head, row, 0), present.extent(3), to);
        else if (row >= after)
          std::fill_n(to, present.extent(3), T(0));
      }
  }
};

/// Rotates some tokens of a batch, or copies them.
template <Element T>
void place_tokens(tensor_view<T const, 4> const& from, tensor_view<T, 4> const& to, index_t batch, index_t count,
                  std::optional<rotary<rotary_table<T>>> const& settings, token_positions const& positions) {
  serial alone;
  auto const some = [&](auto const& tensor) { return part(part(tensor, 0, batch, 1), 2, 0, count); };
  if (settings)
    attend::options::rotary_embedding(some(from), *settings, some(to), positions, alone);
  else
    copy_rows<T>(some(from), some(to), alone);
}

template <Element T, class E>
void run_group_query_attention(tensor_view<T const, 4> const& query, tensor_view<T const, 4> const& key,
                               tensor_view<T const, 4> const& value, tensor_view<T, 4> const& output,
                               onnx::microsoft::group_query_attention_attributes const& attributes,
                               onnx::microsoft::group_query_attention_inputs<T> const& inputs,
                               onnx::microsoft::group_query_attention_outputs<T> const& outputs, E& executor) {
  using A = accumulation_t<T>;
  bool const causal = flag("causal", attributes.causal), rotates = flag("do_rotary", attributes.do_rotary),
             interleaved = flag("rotary_interleaved", attributes.rotary_interleaved);
  index_t const width = attributes.local_window_size, total = inputs.total_sequence_length;
  if (width != -1 && width < 1) fail("local_window_size", "expected -1 or at least 1, got ", width);
  if (!causal && width != -1) fail("local_window_size", "expected -1 without causal, got ", width);
  if (attributes.qk_output < 0 || attributes.qk_output > 2)
    fail("qk_output", "expected 0, 1 or 2, got ", attributes.qk_output);
  if ((attributes.qk_output != 0) != static_cast<bool>(outputs.output_qk))
    fail("output_qk", "expected it with a qk_output of 1 or 2 and with no other, got qk_output ", attributes.qk_output);
  check_softcap(attributes.softcap);
  check_both_or_none("past_key", inputs.past_key, "past_value", inputs.past_value);
  check_both_or_none("present_key", outputs.present_key, "present_value", outputs.present_value);
  index_t const batches = query.extent(0), heads = query.extent(1), fresh = query.extent(2),
                dimension = query.extent(3);
  check_extent("key", "batch", key.extent(0), batches, "query");
  check_extent("key", "tokens", key.extent(2), fresh, "query");
  check_extent("value", "batch", value.extent(0), batches, "query");
  check_extent("value", "tokens", value.extent(2), fresh, "query");
  if (total < 0 || total >= token_limit)
    fail("total_sequence_length", "expected 0 to ", token_limit - 1, ", got ", total);

  scratch memory;
  group_cache<T> const keys(memory, "past_key", "present_key", key, total, inputs.past_key, outputs.present_key);
  group_cache<T> const values(memory, "past_value", "present_value", value, total, inputs.past_value,
                              outputs.present_value);
  check_extent("past_value", "capacity", values.past.extent(2), keys.past.extent(2), "past_key");

  // Tokens of each batch after the step, and how many of the new ones are among them.
  check_extent("seqlens_k", "lengths", inputs.seqlens_k.size(), batches, "query");
  if (inputs.query_seqlens) check_extent("query_seqlens", "lengths", inputs.query_seqlens->size(), batches, "query");
  auto* const lengths = memory.allocate<std::int64_t>(batches + 1);
  auto* const valid = memory.allocate<std::int64_t>(batches + 1);
  for (index_t b = 0; b < batches; ++b) {
    index_t const after = inputs.seqlens_k[b] + 1;
    if (after < 0 || after > total)
      fail("seqlens_k", "expected -1 to ", total - 1, " (total_sequence_length - 1), got ", after - 1, " at ", b);
    index_t const most = std::min(fresh, after), given = inputs.query_seqlens ? (*inputs.query_seqlens)[b] : most;
    if (given < 0 || given > most) fail("query_seqlens", "expected 0 to ", most, ", got ", given, " at ", b);
    if (after - given > keys.past.extent(2))
      fail("past_key", "expected a capacity of at least ", after - given, " (the cached tokens of batch ", b, "), got ",
           keys.past.extent(2));
    lengths[b] = after;
    valid[b] = given;
  }

  std::optional<rotary<rotary_table<T>>> settings;
  bool const prompt = fresh == total && !inputs.query_seqlens;
  auto const& ids = inputs.position_ids.view();
  if (inputs.position_ids) check_shape("position_ids", ids, {batches, fresh}, "batch, new token");
  auto const positions = [&](index_t batch) {
    if (!inputs.position_ids) return token_positions(lengths[batch] - valid[batch]);
    if (prompt) return token_positions(ids(0, 0));
    return token_positions(tensor_view<std::int64_t const, 1>(&ids(batch, 0), {valid[batch]}));
  };
  if (rotates) {
    if (!inputs.cos_cache || !inputs.sin_cache) fail("cos_cache", "expected it and sin_cache with do_rotary, got none");
    settings.emplace(rotary_table<T>(inputs.cos_cache.view(), inputs.sin_cache.view()),
                     interleaved ? rotary_layout::interleaved : rotary_layout::half_split);
    for (index_t b = 0; b < batches; ++b)
      if (valid[b] > 0) settings->check(positions(b), 1, valid[b], dimension);
  }

  softmax_call<T> call;
  call.query = query;
  if (rotates)
    call.query = tensor_view<T, 4>(memory.allocate<T>(batches * heads * fresh * dimension + 1), query.extents());
  call.key = part(tensor_view<T const, 4>(keys.present), 2, 0, total);
  call.value = part(tensor_view<T const, 4>(values.present), 2, 0, total);
  call.output = output;
  call.scale = attributes.scale != 0 ? attributes.scale : usual_scale(dimension);
  call.softcap = attributes.softcap;
  call.seen = {width == -1 ? -1 : width - 1, causal ? 0 : -1, bottom_right};
  call.key_lengths = tensor_view<std::int64_t const, 1>(lengths, {batches});
  call.query_lengths = tensor_view<std::int64_t const, 1>(valid, {batches});
  call.bias = inputs.attention_bias;
  check_attention_bias<T>(call.bias, {batches, heads, fresh, total});
  A* const sinks = memory.allocate<A>(heads + 1);
  if (inputs.head_sink || attributes.smooth_softmax == 1) {
    if (inputs.head_sink) check_shape("head_sink", inputs.head_sink.view(), {heads}, "num_heads");
    for (index_t h = 0; h < heads; ++h) sinks[h] = inputs.head_sink ? static_cast<A>(inputs.head_sink.view()(h)) : A(0);
    call.sinks = tensor_view<A const, 1>(sinks, {heads});
  }
  if (outputs.output_qk) {
    auto const& asked = outputs.output_qk.view();
    check_shape("output_qk", asked, {batches, heads, fresh, total}, "batch, query head, new token, key");
    check_output_view("output_qk", asked);
    (attributes.qk_output == 1 ? call.logits : call.weights) = accumulating(memory, asked);
  }
  auto const cosine = raise<4>(inputs.cos_cache.view()), sine = raise<4>(inputs.sin_cache.view()),
             sink = raise<4>(inputs.head_sink.view());
  named_layout const written[] = {{"present_key", keys.written},
                                  {"present_value", values.written},
                                  {"output", output},
                                  {"output_qk", outputs.output_qk.view()}};
  named_layout const read[] = {{"query", query},
                               {"key", key},
                               {"value", value},
                               {"past_key", keys.apart},
                               {"past_value", values.apart},
                               {"cos_cache", cosine},
                               {"sin_cache", sine},
                               {"attention_bias", inputs.attention_bias.view()},
                               {"head_sink", sink}};
  check_apart(written, read);

  run_softmax_call(call, executor, [&] {
    // Rows that come, and those of the past where they are in other memory, are read and written.
    bool const in_place = same_rows(keys.past, keys.present) && same_rows(values.past, values.present);
    index_t const moved = keys.present.extent(1) * (in_place ? query.extent(2) : keys.present.extent(2)) *
                          (keys.present.extent(3) + values.present.extent(3));
    loop_cost const of_batch = loop_cost::of(0, 2 * moved * static_cast<index_t>(sizeof(T)));
    for_heads(executor, batches, 1, of_batch, [&](index_t b, index_t) {
      index_t const count = valid[b], before = lengths[b] - count;
      keys.copy_past(b, before, lengths[b]);
      values.copy_past(b, before, lengths[b]);
      if (count == 0) return;
      auto const behind = [&](auto const& cache) { return part(cache.present, 2, before, count); };
      place_tokens<T>(keys.fresh, behind(keys), b, count, settings, positions(b));
      place_tokens<T>(values.fresh, behind(values), b, count, std::nullopt, 0);
      if (rotates)
        place_tokens<T>(query, tensor_view<T, 4>(const_cast<T*>(call.query.data()), query.extents()), b, count,
                        settings, positions(b));
    });
  });
  if (outputs.output_qk)
    copy_rows<T>(attributes.qk_output == 1 ? call.logits : call.weights, outputs.output_qk.view(), executor);
}

}  // namespace detail

namespace onnx::microsoft {

/// Group-query attention of ONNX Runtime: optional inputs and outputs are given by name, in the shapes that their
/// comments say. All tensors have one element type: float, double, half or bfloat16; lengths are 32- or 64-bit signed
/// integers.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an attribute do not fit.
///
///     onnx::microsoft::group_query_attention(
///         query_rows, key_rows, value_rows, output_rows, {.kv_num_heads = 2, .num_heads = 8},
///         {.seqlens_k = lengths, .total_sequence_length = 17, .past_key = k, .past_value = v},
///         {.present_key = k, .present_value = v});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, Executor E = serial>
void group_query_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                           group_query_attention_attributes const& attributes,
                           group_query_attention_inputs<element_of_t<Output>> const& inputs,
                           group_query_attention_outputs<element_of_t<Output>> const& outputs = {}, E&& executor = {}) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  index_t const heads = attributes.num_heads, groups = attributes.kv_num_heads;
  tensor_view<T const, 4> const q = attend::detail::with_heads("query", view_of(query), "num_heads", heads);
  tensor_view<T const, 4> const k = attend::detail::with_heads("key", view_of(key), "kv_num_heads", groups);
  tensor_view<T const, 4> const v = attend::detail::with_heads("value", view_of(value), "kv_num_heads", groups);
  tensor_view<T, 4> const o = attend::detail::with_heads("output", view_of(output), "num_heads", heads);
  attend::detail::run_group_query_attention<T>(q, k, v, o, attributes, inputs, outputs, executor);
}

/// The same with query, key and value side by side in one tensor, [batch, new, (num_heads + 2 * kv_num_heads) * d].
template <TensorArgument Packed, TensorArgument Output, Executor E = serial>
void group_query_attention(Packed const& query_key_value, Output&& output,
                           group_query_attention_attributes const& attributes,
                           group_query_attention_inputs<element_of_t<Output>> const& inputs,
                           group_query_attention_outputs<element_of_t<Output>> const& outputs = {}, E&& executor = {}) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  index_t const heads = attributes.num_heads, groups = attributes.kv_num_heads;
  if (groups < 1) fail("kv_num_heads", "expected at least 1, got ", groups);
  tensor_view<T const, 4> const all =
      attend::detail::with_heads("query", view_of(query_key_value), "num_heads + 2 * kv_num_heads", heads + 2 * groups);
  attend::detail::run_group_query_attention<T>(
      attend::detail::part(all, 1, 0, heads), attend::detail::part(all, 1, heads, groups),
      attend::detail::part(all, 1, heads + groups, groups),
      attend::detail::with_heads("output", view_of(output), "num_heads", heads), attributes, inputs, outputs, executor);
}

}  // namespace onnx::microsoft
}  // namespace attend::inline ATTEND_TARGET
