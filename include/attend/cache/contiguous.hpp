// Keys and values in one piece: tensors [sequence, head, token, dimension], of which each sequence uses its first
// tokens.
//
//   key_value_tensors   over tensors that somebody else owns
//   contiguous_cache    owns them; tokens are appended up to a capacity
//
// Every sequence reserves its whole capacity. All rows of a (sequence, head) are one run.
#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "../core/check.hpp"
#include "../core/index_list.hpp"
#include "../core/scratch.hpp"
#include "key_value_rows.hpp"

namespace attend {

/// Keys and values that stand in tensors. It holds views of them, and of the lengths; both must outlive it.
template <StorageElement Key, StorageElement Value = Key>
class key_value_tensors {
 public:
  using key_element = Key;
  using value_element = Value;
  template <class T>
  using rows_view = tensor_view<T const, 4>;
  using scale_view = tensor_view<float const, 3>;

  key_value_tensors() = default;

  /// key and value [sequence, head, token, dimension]; the dimension counts storage elements. Every sequence has all of
  /// the tokens. Throws argument_error where the shapes do not fit each other.
  key_value_tensors(rows_view<Key> key, rows_view<Value> value) : key_(key), value_(value) {
    detail::check_view("key", key_);
    detail::check_view("value", value_);
    for (int axis : {0, 1, 2})
      detail::check_extent("value", axis_names[axis], value_.extent(axis), key_.extent(axis), "key");
  }

  /// The same; sequence s has its first lengths[s] tokens.
  key_value_tensors(rows_view<Key> key, rows_view<Value> value, index_list lengths) : key_value_tensors(key, value) {
    if (lengths.size() != sequences())
      fail("lengths", "expected one for each of ", sequences(), " sequences, got ", lengths.size());
    for (index_t s = 0; s < lengths.size(); ++s)
      if (lengths[s] < 0 || lengths[s] > key_.extent(2))
        fail("lengths", "expected lengths from 0 to ", key_.extent(2), " (the tokens), got ", lengths[s], " at ", s);
    lengths_ = lengths;
    has_lengths_ = true;
  }

  /// Scales [sequence, head, token] of 8- and 4-bit keys and values.
  key_value_tensors with_scales(scale_view key_scale, scale_view value_scale) const {
    key_value_tensors scaled(*this);
    scaled.key_scale_ = checked("key_scale", key_scale);
    scaled.value_scale_ = checked("value_scale", value_scale);
    return scaled;
  }

  /// Scales [head, key dimension] of the channels of keys.
  key_value_tensors with_channel_scales(tensor_view<float const, 2> channel_scale) const {
    detail::check_view("channel_scale", channel_scale);
    detail::check_extent("channel_scale", "heads", channel_scale.extent(0), key_value_heads(), "key");
    detail::check_extent("channel_scale", "dimension", channel_scale.extent(1), key_dimension(), "key");
    key_value_tensors scaled(*this);
    scaled.channel_scale_ = channel_scale;
    return scaled;
  }

  index_t sequences() const { return key_.extent(0); }
  index_t key_value_heads() const { return key_.extent(1); }
  index_t key_dimension() const { return key_.extent(3) * elements_in<Key>; }
  index_t value_dimension() const { return value_.extent(3) * elements_in<Value>; }
  index_t size(index_t sequence) const { return has_lengths_ ? lengths_[sequence] : key_.extent(2); }
  index_t stored(index_t sequence, index_t) const { return size(sequence); }

  key_value_rows<Key, Value> rows(index_t sequence, index_t head, index_t first) const {
    key_value_rows<Key, Value> run;
    run.key = key_.data() + sequence * key_.stride(0) + head * key_.stride(1) + first * key_.stride(2);
    run.value = value_.data() + sequence * value_.stride(0) + head * value_.stride(1) + first * value_.stride(2);
    run.key_stride = key_.stride(2);
    run.value_stride = value_.stride(2);
    if (key_scale_.data()) run.key_scale = &key_scale_(sequence, head, first);
    if (value_scale_.data()) run.value_scale = &value_scale_(sequence, head, first);
    run.key_scale_stride = key_scale_.stride(2);
    run.value_scale_stride = value_scale_.stride(2);
    if (channel_scale_.data()) run.channel_scale = &channel_scale_(head, 0);
    run.count = size(sequence) - first;
    run.position = first;
    return run;
  }

 private:
  static constexpr char const* axis_names[] = {"sequences", "heads", "tokens"};

  scale_view checked(char const* argument, scale_view scale) const {
    // Scales need not be next to each other.
    detail::check_view(argument,
                       tensor_view<float const, 4>(scale.data(), {scale.extent(0), scale.extent(1), scale.extent(2), 1},
                                                   {scale.stride(0), scale.stride(1), scale.stride(2), 1}));
    for (int axis : {0, 1, 2})
      detail::check_extent(argument, axis_names[axis], scale.extent(axis), key_.extent(axis), "key");
    return scale;
  }

  rows_view<Key> key_;
  rows_view<Value> value_;
  scale_view key_scale_, value_scale_;
  tensor_view<float const, 2> channel_scale_;
  index_list lengths_;
  bool has_lengths_ = false;
};

/// A cache in one piece, for elements that need no scales.
template <Element T>
class contiguous_cache {
 public:
  using key_element = T;
  using value_element = T;

  /// Memory for `capacity` tokens of each sequence. Throws argument_error for a negative extent, or where the product
  /// does not fit in memory.
  contiguous_cache(index_t sequences, index_t heads, index_t capacity, index_t key_dimension, index_t value_dimension)
      : key_(nullptr, {sequences, heads, capacity, key_dimension}),
        value_(nullptr, {sequences, heads, capacity, value_dimension}) {
    key_ = allocate("contiguous_cache (keys)", key_, key_memory_);
    value_ = allocate("contiguous_cache (values)", value_, value_memory_);
    sizes_.resize(static_cast<std::size_t>(sequences));
  }

  index_t sequences() const { return key_.extent(0); }
  index_t key_value_heads() const { return key_.extent(1); }
  index_t capacity() const { return key_.extent(2); }
  index_t key_dimension() const { return key_.extent(3); }
  index_t value_dimension() const { return value_.extent(3); }
  index_t size(index_t sequence) const { return sizes_[static_cast<std::size_t>(sequence)]; }
  index_t stored(index_t sequence, index_t) const { return size(sequence); }

  /// Bytes of keys and values that the cache holds memory for.
  index_t bytes() const {
    return sequences() * key_value_heads() * capacity() * (key_dimension() + value_dimension()) *
           static_cast<index_t>(sizeof(T));
  }

  /// Adds tokens to one sequence: key [head, token, key dimension], value [head, token, value dimension]. Throws
  /// argument_error, before anything is written, where shapes do not fit or the sequence would exceed the capacity.
  template <TensorLike Keys, TensorLike Values>
  void append(index_t sequence, Keys const& key, Values const& value) {
    check_sequence(sequence);
    auto const [k, v] = checked(raise<4>(view_of(key)), raise<4>(view_of(value)), 1);
    check_room(sequence, k.extent(2));
    write(sequence, 0, k, v);
  }

  /// Adds tokens to every sequence: key [sequence, head, token, key dimension], value likewise.
  template <TensorLike Keys, TensorLike Values>
  void append(Keys const& key, Values const& value) {
    auto const [k, v] = checked(raise<4>(view_of(key)), raise<4>(view_of(value)), sequences());
    for (index_t s = 0; s < sequences(); ++s) check_room(s, k.extent(2));
    for (index_t s = 0; s < sequences(); ++s) write(s, s, k, v);
  }

  /// Forgets the tokens of a sequence from `size` on.
  void truncate(index_t sequence, index_t size) {
    check_sequence(sequence);
    index_t& present = sizes_[static_cast<std::size_t>(sequence)];
    if (size < 0 || size > present) fail("size", "expected from 0 to ", present, " (the tokens), got ", size);
    present = size;
  }

  key_value_rows<T> rows(index_t sequence, index_t head, index_t first) const {
    key_value_rows<T> run;
    run.key = key_.data() + sequence * key_.stride(0) + head * key_.stride(1) + first * key_.stride(2);
    run.value = value_.data() + sequence * value_.stride(0) + head * value_.stride(1) + first * value_.stride(2);
    run.key_stride = key_.stride(2);
    run.value_stride = value_.stride(2);
    run.count = size(sequence) - first;
    run.position = first;
    return run;
  }

 private:
  using view = tensor_view<T, 4>;
  using const_view = tensor_view<T const, 4>;

  struct aligned_elements_delete {
    void operator()(T* memory) const { ::operator delete[](memory, std::align_val_t{detail::cache_line}); }
  };
  using memory = std::unique_ptr<T[], aligned_elements_delete>;

  static view allocate(char const* argument, view const& shape, memory& owner) {
    for (index_t extent : shape.extents())
      if (extent < 0) fail(argument, "expected extents of at least 0, got ", detail::shape_text<4>(shape.extents()));
    index_t bytes = static_cast<index_t>(sizeof(T));
    bool overflow = false;
    for (index_t extent : shape.extents()) overflow |= __builtin_mul_overflow(bytes, extent, &bytes);
    if (overflow || bytes > detail::byte_limit)
      fail(argument, "expected extents whose product fits in memory, got ", detail::shape_text<4>(shape.extents()));
    owner.reset(
        static_cast<T*>(::operator new[](static_cast<std::size_t>(bytes), std::align_val_t{detail::cache_line})));
    return {owner.get(), shape.extents()};
  }

  void check_sequence(index_t sequence) const {
    if (sequence < 0 || sequence >= sequences())
      fail("sequence", "expected from 0 to ", sequences() - 1, ", got ", sequence);
  }

  void check_room(index_t sequence, index_t tokens) const {
    if (tokens > capacity() - size(sequence))
      fail("key", "expected at most ", capacity() - size(sequence), " more tokens (sequence ", sequence, " has ",
           size(sequence), " of ", capacity(), "), got ", tokens);
  }

  std::pair<const_view, const_view> checked(const_view const& key, const_view const& value, index_t sequences) const {
    detail::check_view("key", key);
    detail::check_extent("key", "sequences", key.extent(0), sequences, "the cache");
    detail::check_extent("key", "heads", key.extent(1), key_value_heads(), "the cache");
    detail::check_extent("key", "head dimension", key.extent(3), key_dimension(), "the cache");
    detail::check_view("value", value);
    detail::check_extent("value", "sequences", value.extent(0), sequences, "the cache");
    detail::check_extent("value", "heads", value.extent(1), key_value_heads(), "the cache");
    detail::check_extent("value", "tokens", value.extent(2), key.extent(2), "key");
    detail::check_extent("value", "head dimension", value.extent(3), value_dimension(), "the cache");
    return {key, value};
  }

  void write(index_t sequence, index_t from, const_view const& key, const_view const& value) {
    index_t& size = sizes_[static_cast<std::size_t>(sequence)];
    auto const copy_rows = [&](const_view const& rows, view const& to) {
      if (rows.extent(3) == 0) return;
      for (index_t head = 0; head < rows.extent(1); ++head)
        for (index_t token = 0; token < rows.extent(2); ++token)
          std::copy_n(&rows(from, head, token, 0), rows.extent(3), &to(sequence, head, size + token, 0));
    };
    copy_rows(key, key_);
    copy_rows(value, value_);
    size += key.extent(2);
  }

  view key_, value_;
  memory key_memory_, value_memory_;
  std::vector<index_t> sizes_;
};

}  // namespace attend
