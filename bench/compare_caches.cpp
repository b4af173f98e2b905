// SPDX-License-Identifier: BSD-3-Clause
// The same attention to keys and values that a cache holds: in pages, or in fewer bits. The error is what that storage
// costs; the definition is on the numbers as they are stored.
#include <attend/attention/cached/cached_attention.hpp>
#include <attend/cache/paged.hpp>

#include "compare_softmax.hpp"

namespace attend_bench {
namespace {

using attend::extend::StorageElement;

/// The problem as a cache stores it.
template <class T, class Store>
typed_tensors<attend::extend::accumulation_t<T>> as_stored(problem const& p, Store const& store) {
  typed_tensors<attend::extend::accumulation_t<T>> result(p);
  result.query = rounded<attend::extend::accumulation_t<T>>(rounded<T>(p.query));
  for (index_t b = 0; b < p.batch(); ++b)
    for (index_t head = 0; head < p.key_heads(); ++head)
      for (index_t first = 0; first < p.keys();) {
        auto const run = store.rows(b, head, first);
        for (index_t i = 0; i < run.count; ++i, ++first) {
          attend::detail::read_key(run, i, p.dimension(), &result.key.view()(b, head, first, 0));
          attend::detail::read_value(run, i, p.value_dimension(), &result.value.view()(b, head, first, 0));
        }
      }
  return result;
}

/// Bytes of a number, with the scale that a token has for all of its numbers.
template <StorageElement Stored>
double stored_bytes(index_t dimension) {
  return static_cast<double>(dimension) * sizeof(Stored) / attend::extend::elements_in<Stored> +
         (attend::extend::is_scaled<Stored> ? sizeof(float) : 0);
}

template <class T, StorageElement Stored, class Store>
prepared_variant prepare(problem const& p, std::shared_ptr<Store> const& store) {
  auto const tensors = std::make_shared<typed_tensors<T>>(p);
  for (index_t b = 0; b < p.batch(); ++b) {
    auto const of_sequence = [b](auto const& all) {
      auto const whole = std::as_const(all).view();
      return attend::tensor_view<T const, 4>(&whole(b, 0, 0, 0),
                                             {1, whole.extent(1), whole.extent(2), whole.extent(3)});
    };
    store->append(b, of_sequence(tensors->key), of_sequence(tensors->value));
  }
  softmax_definition definition{.mask = p.mask};
  complete_visible(definition);
  double const operations = operations_of(p, definition);
  return {
      type_of<T>(),
      operations,
      [=, mask = p.mask](attend::threads threads) {
        attend::softmax_attention(tensors->query.view(), *store, tensors->output.view(), mask, threads);
      },
      [=](row_sample const& rows) { return sampled(rows, tensors->output); },
      [=, &p](row_sample const& rows) { return define_with_rounding<T>(rows, as_stored<T>(p, *store), definition); },
      bytes_of(p, stored_bytes<Stored>(p.dimension()) + stored_bytes<Stored>(p.value_dimension()), operations)};
}

attend::caches::cache_shape shape_of(problem const& p) {
  return {p.batch(), p.key_heads(), p.dimension(), p.value_dimension()};
}

template <class T>
std::optional<prepared_variant> prepare_paged(problem const& p) {
  constexpr index_t page_tokens = 16;
  if (p.key_heads() != p.value_heads()) return std::nullopt;
  index_t const pages = p.batch() * attend::extend::divide_up(p.keys(), page_tokens);
  return prepare<T, T>(p, std::make_shared<attend::paged_cache<T>>(
                              shape_of(p), attend::caches::paging{.pages = pages, .page_tokens = page_tokens}));
}

template <class T, StorageElement Stored>
std::optional<prepared_variant> prepare_contiguous(problem const& p) {
  // What is stored in 8 bits or fewer is summed in float.
  if (p.key_heads() != p.value_heads() || (attend::extend::is_scaled<Stored> && std::same_as<T, double>))
    return std::nullopt;
  if constexpr (!attend::extend::is_scaled<Stored> || !std::same_as<T, double>)
    return prepare<T, Stored>(p, std::make_shared<attend::contiguous_cache<Stored>>(shape_of(p), p.keys()));
  return std::nullopt;
}

}  // namespace

std::vector<variant> cache_variants() {
  return {
      {"contiguous_cache", "keys and values in a cache",
       for_each_type([]<class T>(problem const& p) { return prepare_contiguous<T, T>(p); })},
      {"paged_cache", "in pages of 16 tokens",
       for_each_type([]<class T>(problem const& p) { return prepare_paged<T>(p); })},
      {"int8_cache", "in 8 bits, with a scale for each token and head",
       for_each_type([]<class T>(problem const& p) { return prepare_contiguous<T, std::int8_t>(p); })},
      {"int4_cache", "in 4 bits, with a scale for each token and head",
       for_each_type([]<class T>(problem const& p) { return prepare_contiguous<T, attend::caches::int4_pair>(p); })}};
}

}  // namespace attend_bench
