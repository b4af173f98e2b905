// SPDX-License-Identifier: BSD-3-Clause
// The latent cache of multi-head latent attention: for each token one latent, from which keys and values of all heads
// are computed, and one rotary key, which all heads share.
//
//   row of a token = [latent | rotary key]
//
// Rows are the keys of an inner store with one head and without values: a contiguous_cache or a paged_cache, of any
// element type. To readers the latent cache is a store with one head, whose keys are the whole rows and whose values
// are the latents in them: the same memory, with no copy. With shards, each shard is a head, with its slice of the
// latent and the rotary key:
//
//   row of a token and shard = [latent / shards | rotary key]
//
// Memory: (latent dimension + shards * rotary dimension) elements for each token, and for quantized elements one scale
// for each row.
//
// Aixin Liu et al.: DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model, 2024. Xiaojuan
// Tang et al.: TPLA: Tensor Parallel Latent Attention for Efficient Disaggregated Prefill and Decode Inference, 2025
// (shards).
#pragma once

#include "contiguous.hpp"
#include "paged.hpp"

namespace attend::inline ATTEND_TARGET {

namespace caches {

/// The number of sequences and the dimensions of a latent cache, and the number of shards that the latent is cut into.
struct latent_shape {
  index_t sequences = 1;
  index_t latent_dimension = 512;
  index_t rotary_dimension = 64;
  index_t shards = 1;
};

/// Latents and rotary keys of tokens. Rows is the inner store: contiguous_cache<T, ...>, or paged_cache<T, ...> for a
/// paged_latent_cache. Its values have dimension 0, and a type without scales, so that none are stored.
///
///     latent_cache<bfloat16> latents({.sequences = 8, .latent_dimension = 512, .rotary_dimension = 64}, 4096);
template <StorageElement T, class Rows = contiguous_cache<T, extend::storage_accumulation_t<T>>>
class latent_cache {
  using A = extend::storage_accumulation_t<T>;

 public:
  using key_element = T;
  using value_element = T;

  /// Allocates the inner store. `room` is the capacity of a contiguous_cache in tokens, or the `paging` of a
  /// paged_cache. Throws argument_error for a negative extent, where the number of shards does not divide the latent
  /// dimension, or where the product does not fit in memory.
  template <class Room>
  latent_cache(latent_shape const& shape, Room const& room) : shape_(checked(shape)), rows_(of_rows(shape), room) {}

  latent_shape const& shape() const { return shape_; }
  index_t sequences() const { return shape_.sequences; }
  index_t key_value_heads() const { return shape_.shards; }
  index_t key_dimension() const { return rows_.key_dimension(); }
  index_t value_dimension() const { return shape_.latent_dimension / shape_.shards; }
  index_t size(index_t sequence) const { return rows_.size(sequence); }
  index_t stored(index_t sequence, index_t head) const { return rows_.stored(sequence, head); }

  /// The size of the cache's memory in bytes.
  index_t bytes() const { return rows_.bytes(); }

  key_value_rows<T> rows(index_t sequence, index_t head, index_t first) const {
    auto const in_store = rows_.rows(sequence, head, first);
    key_value_rows<T> run;
    run.key = run.value = in_store.key;
    run.key_stride = run.value_stride = in_store.key_stride;
    run.key_scale = run.value_scale = in_store.key_scale;
    run.key_scale_stride = run.value_scale_stride = in_store.key_scale_stride;
    run.count = in_store.count;
    run.position = in_store.position;
    return run;
  }

  /// Appends tokens to one sequence: latent [token, latent dimension], which the caller has normalized as the model
  /// requires, and rotary_key [token, rotary dimension], which the caller has rotated.
  ///
  /// Throws argument_error, before anything is written, where shapes do not fit or where there is no room.
  ///
  ///     latent_cache<float> latents({.sequences = 8, .latent_dimension = 512, .rotary_dimension = 64}, 4096);
  ///     latents.append(0, matrix, matrix);
  template <TensorArgument Latent, TensorArgument Key>
  void append(index_t sequence, Latent const& latent, Key const& rotary_key) {
    append_rotated(sequence, latent, rotary_key, detail::absent{});
  }

  /// Appends the same, but rotates the rotary keys first: the position of the first new token is size(sequence), or
  /// what rotary.at(...) says.
  template <TensorArgument Latent, TensorArgument Key, class Angles>
  void append(index_t sequence, Latent const& latent, Key const& rotary_key, rotary<Angles> const& rotary_option) {
    append_rotated(sequence, latent, rotary_key, rotary_option);
  }

  /// Throws argument_error where append would, for tokens of the right shapes.
  template <class Rotary = detail::absent>
  void check_room(index_t sequence, index_t tokens, Rotary const& rotary_option = {}) const {
    detail::check_sequence(sequence, sequences());
    if constexpr (!std::same_as<Rotary, detail::absent>)
      rotary_option.check_keys(1, tokens, {size(sequence), size(sequence) + tokens - 1}, shape_.rotary_dimension);
    rows_.check_room({sequence, sequence + 1, tokens, tokens, "latent"});
  }

  /// Removes the tokens of a sequence from `size` on. Throws argument_error where it has fewer tokens.
  void truncate(index_t sequence, index_t size) { rows_.truncate(sequence, size); }

  /// Makes the empty sequence `to` begin with the tokens of `from`, whose pages both then share. Throws argument_error
  /// if `to` has tokens.
  void fork(index_t from, index_t to)
    requires requires(Rows& store) { store.fork(from, to); }
  {
    rows_.fork(from, to);
  }

 private:
  friend detail::saved_parts;
  static constexpr char const* name = "latent_cache";

  static latent_shape const& checked(latent_shape const& shape) {
    for (index_t extent : {shape.sequences, shape.latent_dimension, shape.rotary_dimension})
      if (extent < 0) extend::fail(name, "expected extents of at least 0, got ", extent);
    if (shape.shards < 1 || shape.latent_dimension % shape.shards != 0)
      extend::fail(name, "expected shards that divide the latent dimension (", shape.latent_dimension, "), got ",
                   shape.shards);
    return shape;
  }
  static cache_shape of_rows(latent_shape const& shape) {
    return {shape.sequences, shape.shards, shape.latent_dimension / shape.shards + shape.rotary_dimension, 0};
  }

  template <class Latent, class Key, class Rotary>
  void append_rotated(index_t sequence, Latent const& latent_tensor, Key const& key_tensor,
                      Rotary const& rotary_option) {
    extend::arithmetic_mode const arithmetic;
    using U = element_of_t<Latent const>;
    static_assert(Element<U> && std::same_as<element_of_t<Key const>, U>,
                  "attend: latents and rotary keys have one element type: float, double, half or bfloat16");
    static_assert(std::same_as<accumulation_t<U>, A>,
                  "attend: a cache of double takes tensors of double, and no other cache does");
    constexpr bool rotates = !std::same_as<Rotary, detail::absent>;
    tensor_view<U const, 2> const latent = extend::raise<2>(view_of(latent_tensor)),
                                  key = extend::raise<2>(view_of(key_tensor));
    detail::check_view("latent", latent);
    detail::check_extent("latent", "dimension", latent.extent(1), shape_.latent_dimension, "the cache");
    detail::check_view("rotary_key", key);
    detail::check_extent("rotary_key", "tokens", key.extent(0), latent.extent(0), "latent");
    detail::check_extent("rotary_key", "dimension", key.extent(1), shape_.rotary_dimension, "the cache");
    index_t const tokens = latent.extent(0), width = value_dimension();
    check_room(sequence, tokens, rotary_option);
    index_t const first = size(sequence);
    rows_.make_room(sequence, tokens, "latent");

    extend::scratch memory;
    A* const row = memory.allocate<A>(key_dimension());
    tensor_view<A const, 2> const one_row(row, {1, key_dimension()}), no_value(row, {1, 0});
    [[maybe_unused]] A* angles = nullptr;
    if constexpr (rotates) angles = memory.allocate<A>(rotary_option.buffer_size());
    for (index_t token = 0; token < tokens; ++token) {
      U const* const from = latent.data() + token * latent.stride(0);
      U const* const rotary_from = key.data() + token * key.stride(0);
      if constexpr (rotates)
        rotary_option.key_rotation({0, token, first + token}, angles)
            .apply(rotary_from, row + width, shape_.rotary_dimension);
      else
        detail::convert_row(rotary_from, shape_.rotary_dimension, row + width);
      for (index_t shard = 0; shard < shape_.shards; ++shard) {
        detail::convert_row(from + shard * width, width, row);
        rows_.write(sequence, shard, first + token, one_row, no_value);
      }
    }
  }

  latent_shape shape_;
  Rows rows_;
};

template <StorageElement T>
using paged_latent_cache = latent_cache<T, paged_cache<T, extend::storage_accumulation_t<T>>>;

}  // namespace caches

}  // namespace attend::inline ATTEND_TARGET
