// Decoding over stores of keys and values: one query against half a gigabyte of them, which no cache holds. Elements of
// the store come after its name; queries and outputs are bfloat16 for those with scales. Pages of a paged store lie
// apart.
#include <attend/cache/paged.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/variant/decode_attention.hpp>

#include <memory>

#include "attention_benchmark.hpp"
#include "benchmarks.hpp"
#include "random_tensor.hpp"
#include "visible_pairs.hpp"

namespace attend_bench {
namespace {

using attend::StorageElement;

/// Numbers as a cache holds them.
template <StorageElement Stored>
std::vector<Stored> random_elements(index_t count, unsigned seed) {
  std::vector<Stored> elements(static_cast<std::size_t>(count));
  if constexpr (attend::Element<Stored>) {
    random_tensor<Stored> numbers({1, 1, 1, count}, seed);
    std::copy_n(numbers.view().data(), count, elements.begin());
  } else {
    // Any byte is one 8-bit number, or two of 4 bits.
    std::mt19937 engine(seed);
    for (Stored& element : elements) element = std::bit_cast<Stored>(static_cast<std::uint8_t>(engine()));
  }
  return elements;
}

template <class T, StorageElement Stored>
struct decode_tensors {
  random_tensor<T> query, output;
  std::vector<Stored> keys, values;
  std::vector<float> scales;
  attend::key_value_tensors<Stored> store;

  explicit decode_tensors(attention_shape const& s)
      : query({s.batch, s.query_heads, s.queries, s.dimension}, 1),
        output({s.batch, s.query_heads, s.queries, s.dimension}, 2) {
    index_t const row = s.dimension / attend::elements_in<Stored>, rows = s.batch * s.key_heads * s.keys;
    keys = random_elements<Stored>(rows * row, 3);
    values = random_elements<Stored>(rows * row, 4);
    std::array<index_t, 4> const extents{s.batch, s.key_heads, s.keys, row};
    store = {attend::tensor_view<Stored const, 4>(keys.data(), extents),
             attend::tensor_view<Stored const, 4>(values.data(), extents)};
    if constexpr (attend::is_scaled<Stored>) {
      scales.assign(static_cast<std::size_t>(rows), 0.01f);
      attend::tensor_view<float const, 3> const each(scales.data(), {s.batch, s.key_heads, s.keys});
      store = store.with_scales(each, each);
    }
  }
};

/// Pages of one sequence lie apart in the pool: sequences grow in turn.
template <class T>
struct paged_tensors {
  random_tensor<T> query, output;
  attend::paged_cache<T> store;

  paged_tensors(attention_shape const& s, index_t page_tokens)
      : query({s.batch, s.query_heads, s.queries, s.dimension}, 1),
        output({s.batch, s.query_heads, s.queries, s.dimension}, 2),
        store({s.batch, s.key_heads, s.dimension, s.dimension},
              {.pages = s.batch * s.keys / page_tokens, .page_tokens = page_tokens}) {
    random_tensor<T> page({1, s.key_heads, page_tokens, s.dimension}, 3);
    for (index_t first = 0; first < s.keys; first += page_tokens)
      for (index_t sequence = 0; sequence < s.batch; ++sequence) store.append(sequence, page.view(), page.view());
  }
};

template <StorageElement Stored, class Tensors>
void add(std::string const& family, element_type type, attention_shape const& shape,
         std::function<std::shared_ptr<Tensors>()> make) {
  attention_benchmark what{family,           type, shape, "causal", window_pairs(shape.queries, shape.keys, -1, 0),
                           limit::bandwidth, {}};
  double const row_bytes = static_cast<double>(shape.dimension) * sizeof(Stored) / attend::elements_in<Stored> +
                           (attend::is_scaled<Stored> ? sizeof(float) : 0);
  what.bytes = 2 * row_bytes * static_cast<double>(shape.batch * shape.key_heads * shape.keys);
  what.prepare = [make] {
    auto const call = [tensors = make()](auto const&... options) {
      attend::decode_attention(tensors->query.view(), tensors->store, tensors->output.view(), attend::causal{},
                               options...);
    };
    return attention_call{
        [=](attend::threads threads) { call(threads); },
        [=](attend::threads threads, attend::tile_counts& counts) { call(threads, attend::count_tiles(counts)); }};
  };
  register_attention(what, {1, 2});
}

template <class T, StorageElement Stored>
void add_contiguous(char const* family, element_type type, attention_shape const& shape) {
  add<Stored, decode_tensors<T, Stored>>(family, type, shape,
                                         [=] { return std::make_shared<decode_tensors<T, Stored>>(shape); });
}

}  // namespace

void register_decode() {
  // One query head for each key head, and four.
  for (index_t const query_heads : {8, 32}) {
    auto const shape = [=](index_t batch) { return attention_shape{batch, query_heads, 8, 1, 8192, 128}; };
    add_contiguous<float, float>("decode/contiguous", element_type::f32, shape(8));
    add_contiguous<attend::half, attend::half>("decode/contiguous", element_type::f16, shape(16));
    add_contiguous<attend::bfloat16, attend::bfloat16>("decode/contiguous", element_type::bf16, shape(16));
    add_contiguous<attend::bfloat16, std::int8_t>("decode/contiguous/int8", element_type::bf16, shape(32));
    add_contiguous<attend::bfloat16, attend::int4_pair>("decode/contiguous/int4", element_type::bf16, shape(64));
  }
  // A few tokens at once, as in speculative decoding.
  for (index_t const queries : {2, 4})
    add_contiguous<attend::bfloat16, attend::bfloat16>("decode/contiguous", element_type::bf16,
                                                       {16, 32, 8, queries, 8192, 128});
  for (index_t const page_tokens : {16, 128}) {
    attention_shape const shape{16, 32, 8, 1, 8192, 128};
    add<attend::bfloat16, paged_tensors<attend::bfloat16>>(
        "decode/paged" + std::to_string(page_tokens), element_type::bf16, shape,
        [=] { return std::make_shared<paged_tensors<attend::bfloat16>>(shape, page_tokens); });
  }
}

}  // namespace attend_bench
