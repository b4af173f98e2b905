// A boolean tensor [batch, query head, query, key]: true where the query sees the key. Any axis may have extent 1 and
// then holds for all; leading axes may be left out. Tiles without a true element are skipped.
#pragma once

#include "../pair_tensor.hpp"
#include "mask.hpp"

namespace attend {

class boolean_mask {
 public:
  using option_kind = option::mask;

  template <TensorLike Tensor>
    requires std::same_as<element_of_t<Tensor const>, bool>
  explicit boolean_mask(Tensor const& tensor) : tensor_(tensor) {}

  void check(problem_shape const& shape) const { tensor_.check("boolean_mask", shape); }
  template <class T>
  key_range bounds(tile_rows<T> const& rows) const {
    return {0, rows.keys};
  }
  template <class T>
  visibility classify(tile_rows<T> const& rows, key_range range) const {
    bool every = true, some = false;
    for (int lane = 0; lane < rows.count; ++lane) {
      bool const* const row = tensor_.row(rows, lane);
      index_t const first = tensor_.keys_shared() ? 0 : range.first;
      index_t const last = tensor_.keys_shared() ? 1 : range.last;
      // Bytes are added up rather than tested one by one: the compiler makes vectors of that.
      index_t seen = 0;
      for (index_t key = first; key < last; ++key) seen += row[key];
      every &= seen == last - first;
      some |= seen > 0;
    }
    return every ? visibility::all : some ? visibility::some : visibility::none;
  }
  template <class T>
  auto bind(tile_rows<T> const& rows, key_range range) const {
    struct bound {
      index_t first;
      // Uninitialised beyond the range: it is never read there.
      std::uint8_t seen[detail::most_block_keys][tile_rows<T>::lanes];
      auto operator()(mask_place<T> const& place) const {
        using integer = position_t<T>;
        constexpr int step = simd::width<T>;
        std::uint8_t const* const from = seen[place.key_index - first] + place.lane;
        alignas(64) integer lanes[step];
        for (int i = 0; i < step; ++i) lanes[i] = from[i];
        return simd::load(lanes) != simd::vector<integer>(integer(0));
      }
    };
    bound result;
    result.first = range.first;
    tensor_.for_each(rows, range, [&](index_t key, int lane, bool element) { result.seen[key][lane] = element; });
    return result;
  }

 private:
  detail::pair_tensor<bool> tensor_;
};

}  // namespace attend
