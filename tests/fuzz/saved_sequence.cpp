// SPDX-License-Identifier: BSD-3-Clause
// Any bytes, read as a saved sequence: an argument_error, and an empty store that still takes tokens; or a sequence
// that is saved as the same bytes, whose rows can be read and which goes on, so that nothing of what it claims leads
// out of the store's memory. The first byte chooses the store. The second may give the rest the header and the checksum
// that belong to it: a fuzzer finds those of no input by itself.
#include <Eigen/Core>

#include <attend/cache/compensated.hpp>
#include <attend/cache/evicting.hpp>
#include <attend/cache/head_policy.hpp>
#include <attend/cache/latent.hpp>
#include <attend/cache/paged.hpp>
#include <attend/cache/saved_sequence.hpp>

#include <cstring>
#include <vector>

#include "support/random_tensor.hpp"

namespace attend::test {
using namespace caches;

namespace {

void require(bool holds, char const* message) {
  if (!holds) throw std::logic_error(message);
}

constexpr index_t heads = 2, dimension = 3;

/// Reads all rows, and takes a few tokens more.
template <class Store>
void use(Store& store, index_t sequence) {
  double sum = 0;
  for (index_t head = 0; head < store.key_value_heads(); ++head)
    for (index_t first = 0; first < store.stored(sequence, head);) {
      auto const run = store.rows(sequence, head, first);
      require(run.count > 0 && first + run.count <= store.stored(sequence, head), "a run has a wrong length");
      std::vector<float> key(static_cast<std::size_t>(store.key_dimension())),
          value(static_cast<std::size_t>(store.value_dimension()));
      for (index_t i = 0; i < run.count; ++i) {
        attend::detail::read_key(run, i, store.key_dimension(), key.data());
        attend::detail::read_value(run, i, store.value_dimension(), value.data());
        for (float const x : key) sum += static_cast<double>(x);
      }
      first += run.count;
    }
  auto const take = [&](index_t count) {
    if constexpr (requires { store.shape().latent_dimension; }) {
      auto const tokens = filled<float, 2>({count, dimension}, 1.0f);
      store.append(sequence, tokens.view(), tokens.view());
    } else {
      auto const tokens = filled<float, 3>({heads, count, dimension}, 1.0f);
      store.append(sequence, tokens.view(), tokens.view());
    }
  };
  index_t const size = store.size(sequence);
  try {
    for (int step = 0; step < 12; ++step) take(step % 3);
    store.truncate(sequence, size);
    take(2);
    if constexpr (requires { store.separate(); }) {
      store.truncate(1 - sequence, 0);
      store.fork(sequence, 1 - sequence);
      store.evict(
          [](auto const& tokens, std::span<bool> stays) {
            for (std::size_t i = 0; i < stays.size(); ++i) stays[i] = tokens.position[i] % 3 != 1;
          },
          1);
    }
  } catch (argument_error const&) {
  }
  store.truncate(sequence, 0);
  require(store.size(sequence) == 0, "a sequence has tokens after truncate(0)");
}

template <class Store>
void read(Store store, bool all, std::vector<std::byte> const& bytes) {
  index_t read_bytes = 0;
  try {
    read_bytes = all ? load(store, bytes) : load(store, 1, bytes);
  } catch (argument_error const&) {
    for (index_t s = 0; s < store.sequences(); ++s) require(store.size(s) == 0, "a refused sequence has tokens");
    if constexpr (requires { store.free_pages(); })
      require(store.free_pages() == store.pages(), "a refused sequence has pages");
  }
  if (read_bytes > 0) {
    index_t const expected = all ? saved_bytes(store) : saved_bytes(store, 1);
    require(read_bytes == expected && read_bytes <= std::ssize(bytes), "a sequence has another size than was read");
    std::vector<std::byte> again(static_cast<std::size_t>(expected));
    if (all)
      save(store, again);
    else
      save(store, 1, again);
    // How many were saved together is not kept.
    std::size_t const together = offsetof(attend::detail::saved_header, sequences);
    for (std::size_t i = 0; i < again.size(); ++i)
      require(again[i] == bytes[i] || (!all && (i - together < 8 || i < together)),
              "other bytes are saved than were read");
  }
  for (index_t s = 0; s < store.sequences(); ++s) use(store, s);
}

void run(std::uint8_t kind, bool mends, std::vector<std::byte> bytes) {
  using header = attend::detail::saved_header;
  if (mends && bytes.size() >= sizeof(header)) {
    header mended, given;
    std::memcpy(&given, bytes.data(), sizeof(header));
    mended.sequences = given.sequences, mended.size = given.size, mended.shape = given.shape;
    mended.bytes = std::ssize(bytes);
    std::memcpy(bytes.data(), &mended, sizeof(header));
    std::size_t const summed = offsetof(header, bytes);
    mended.checksum = attend::detail::checksum(std::span(bytes).subspan(summed));
    std::memcpy(bytes.data(), &mended, sizeof(header));
  }
  cache_shape const shape{2, heads, dimension, dimension}, one_head{2, 1, dimension, dimension};
  latent_shape const latents{.sequences = 2, .latent_dimension = dimension, .rotary_dimension = dimension};
  static std::vector<int> const kinds{1, 0};
  bool const all = kind & 8;
  if (kind & 16) {
    auto const scales = filled<float, 2>({heads, dimension}, 0.5f);
    return read(
        evicting_cache<std::int8_t, half>(shape, {.pages = 12, .page_tokens = 3, .max_tokens = 14}, scales.view()), all,
        bytes);
  }
  switch (kind % 8) {
    case 0:
      return read(contiguous_cache<float>(shape, 12), all, bytes);
    case 1:
      return read(paged_cache<bfloat16>(shape, {.pages = 6, .page_tokens = 3, .max_tokens = 14}), all, bytes);
    case 2: {
      auto const scales = filled<float, 2>({heads, dimension}, 0.5f);
      return read(paged_cache<std::int8_t, int4_pair>(shape, {.pages = 6, .page_tokens = 3}, scales.view()), all,
                  bytes);
    }
    case 3:
      return read(rolling_cache<float>(shape, {2, 4}, 3), all, bytes);
    case 4:
      return read(compensated_cache<half>(shape, {1, 3}, 2), all, bytes);
    case 5:
      return read(latent_cache<bfloat16>(latents, 12), all, bytes);
    case 6:
      return read(head_policy_cache(paged_cache<float>(one_head, {.pages = 6, .page_tokens = 3}),
                                    compensated_cache<float>(one_head, {1, 3}, 2), kinds),
                  all, bytes);
    default:
      return read(rolling_cache<std::int8_t>(shape, {0, 1}, 1), all, bytes);
  }
}

}  // namespace
}  // namespace attend::test

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  if (size < 2) return 0;
  auto const* const bytes = reinterpret_cast<std::byte const*>(data);
  attend::test::run(data[0], data[1] & 1, std::vector<std::byte>(bytes + 2, bytes + size));
  return 0;
}
