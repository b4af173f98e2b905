// The latent cache of multi-head latent attention: for each token one latent, from which keys and values of all heads
// are made, and one rotary key, which all heads share.
//
//   row of a token = [latent | rotary key]      bytes: capacity * (latent + rotary dimension) * element size, a
//   sequence
//
// To readers it is a store with one head, whose keys are the whole rows and whose values are the latents in them: the
// same memory, with no copy. With shards, each of them is a head with its slice of the latent and the rotary key:
//
//   row of a token and shard = [latent / shards | rotary key]
//
// Aixin Liu et al.: DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model, 2024. Xiaojuan
// Tang et al.: TPLA: Tensor Parallel Latent Attention for Efficient Disaggregated Prefill and Decode Inference, 2025
// (shards).
#pragma once

#include "../core/buffer.hpp"
#include "../policy/position/rotary.hpp"
#include "append.hpp"
#include "quantize.hpp"

namespace attend {

struct latent_shape {
  index_t sequences = 1;
  index_t latent_dimension = 512;
  index_t rotary_dimension = 64;
  index_t shards = 1;
};

template <Element T>
class latent_cache {
 public:
  using key_element = T;
  using value_element = T;
  /// A value is the first elements of its key.
  static constexpr bool values_in_keys() { return true; }

  /// Memory for `capacity` tokens of each sequence. Throws argument_error for a negative extent, shards that do not
  /// divide the latent, or where the product does not fit in memory.
  latent_cache(latent_shape const& shape, index_t capacity) : shape_(shape), capacity_(capacity) {
    for (index_t extent : {shape.sequences, shape.latent_dimension, shape.rotary_dimension, capacity})
      if (extent < 0) fail(name, "expected extents of at least 0, got ", extent);
    if (shape.shards < 1 || shape.latent_dimension % shape.shards != 0)
      fail(name, "expected shards that divide the latent dimension (", shape.latent_dimension, "), got ", shape.shards);
    rows_ = {name, std::array{shape.sequences, shape.shards, capacity, key_dimension()}};
    sizes_ = {name, std::array{shape.sequences}};
    std::fill_n(sizes_.data(), sizes_.size(), 0);
  }

  latent_shape const& shape() const { return shape_; }
  index_t capacity() const { return capacity_; }
  index_t sequences() const { return shape_.sequences; }
  index_t key_value_heads() const { return shape_.shards; }
  index_t key_dimension() const { return value_dimension() + shape_.rotary_dimension; }
  index_t value_dimension() const { return shape_.latent_dimension / shape_.shards; }
  index_t size(index_t sequence) const { return sizes_[sequence]; }
  index_t stored(index_t sequence, index_t) const { return sizes_[sequence]; }

  /// Bytes that the cache holds memory for.
  index_t bytes() const { return rows_.bytes() + sizes_.bytes(); }

  key_value_rows<T> rows(index_t sequence, index_t head, index_t first) const {
    key_value_rows<T> run;
    run.key = run.value = rows_.data() + row_offset(sequence, head, first);
    run.key_stride = run.value_stride = key_dimension();
    run.count = size(sequence) - first;
    run.position = first;
    return run;
  }

  /// Adds tokens to one sequence: latent [token, latent dimension], normalised by the caller as the model says, and
  /// rotary_key [token, rotary dimension], rotated already. Throws argument_error, before anything is written, where
  /// shapes do not fit or where there is no room.
  template <TensorLike Latent, TensorLike Key>
  void append(index_t sequence, Latent const& latent, Key const& rotary_key) {
    append_rotated(sequence, latent, rotary_key, detail::absent{});
  }

  /// The same, and the rotary keys are rotated on the way: the first new token stands at size(sequence).
  template <TensorLike Latent, TensorLike Key, class Angles>
  void append(index_t sequence, Latent const& latent, Key const& rotary_key, rotary<Angles> const& how) {
    append_rotated(sequence, latent, rotary_key, how);
  }

  /// Forgets the tokens of a sequence from `size` on.
  void truncate(index_t sequence, index_t size) {
    detail::check_sequence(sequence, sequences());
    if (size < 0 || size > sizes_[sequence])
      fail("size", "expected from 0 to ", sizes_[sequence], " (the tokens), got ", size);
    sizes_[sequence] = size;
  }

 private:
  static constexpr char const* name = "latent_cache";

  index_t row_offset(index_t sequence, index_t shard, index_t row) const {
    return ((sequence * shape_.shards + shard) * capacity_ + row) * key_dimension();
  }

  template <class Latent, class Key, class Rotary>
  void append_rotated(index_t sequence, Latent const& latent_tensor, Key const& key_tensor, Rotary const& how) {
    using U = element_of_t<Latent const>;
    using A = accumulation_t<T>;
    static_assert(Element<U> && std::same_as<element_of_t<Key const>, U>,
                  "attend: latents and rotary keys have one element type: float, double, half or bfloat16");
    static_assert(std::same_as<accumulation_t<U>, A>,
                  "attend: a cache of double takes tensors of double, and no other cache does");
    constexpr bool rotates = !std::same_as<Rotary, detail::absent>;
    tensor_view<U const, 2> const latent = raise<2>(view_of(latent_tensor)), key = raise<2>(view_of(key_tensor));
    detail::check_sequence(sequence, sequences());
    detail::check_view("latent", latent);
    detail::check_extent("latent", "dimension", latent.extent(1), shape_.latent_dimension, "the cache");
    detail::check_view("rotary_key", key);
    detail::check_extent("rotary_key", "tokens", key.extent(0), latent.extent(0), "latent");
    detail::check_extent("rotary_key", "dimension", key.extent(1), shape_.rotary_dimension, "the cache");
    index_t& size = sizes_[sequence];
    index_t const tokens = latent.extent(0), room = std::min(capacity_, token_limit - 1) - size;
    if (tokens > room)
      fail("latent", "expected at most ", room, " more tokens (sequence ", sequence, " has ", size, " of ", capacity_,
           "), got ", tokens);
    if constexpr (rotates) how.check(token_positions(size), 1, tokens, shape_.rotary_dimension);

    scratch memory;
    A* angles = nullptr;
    if constexpr (rotates) angles = memory.take<A>(how.buffer_size());
    for (index_t token = 0; token < tokens; ++token) {
      U const* const from = latent.data() + token * latent.stride(0);
      U const* const rotary_from = key.data() + token * key.stride(0);
      T* const first = rows_.data() + row_offset(sequence, 0, size + token) + value_dimension();
      if constexpr (rotates)
        how.rotation_at(token_place::on_all_axes(0, size + token), angles)
            .apply(rotary_from, first, shape_.rotary_dimension);
      else
        detail::convert_row(rotary_from, shape_.rotary_dimension, first);
      for (index_t shard = 0; shard < shape_.shards; ++shard) {
        T* const row = rows_.data() + row_offset(sequence, shard, size + token);
        detail::convert_row(from + shard * value_dimension(), value_dimension(), row);
        if (shard > 0) std::copy_n(first, shape_.rotary_dimension, row + value_dimension());
      }
    }
    size += tokens;
  }

  latent_shape shape_;
  index_t capacity_;
  detail::buffer<T> rows_;
  detail::buffer<index_t> sizes_;
};

}  // namespace attend
