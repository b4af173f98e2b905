// SPDX-License-Identifier: BSD-3-Clause
// Continuous batching over pages: requests come and go while others decode, and share the pages of a common prompt.
//
// A slot of the cache holds the common prompt, with nobody decoding there. A request that joins takes a free slot,
// forks the prompt into it (no numbers are copied, but for a last page that is not full), takes in its own tokens, and
// from then on decodes one token a step beside the others. One that is done truncates its slot, and its pages are free
// again.
//
// A sequence has the same bits in any company: every output is compared with that of the request alone, in a cache of
// one piece.
#include <unsupported/Eigen/CXX11/Tensor>

#include <attend/attention/cached/cached_attention.hpp>
#include <attend/cache/contiguous.hpp>
#include <attend/cache/paged.hpp>
#include <attend/cache/sequences_of.hpp>

#include <algorithm>
#include <array>
#include <iostream>
#include <vector>

namespace {

using attend::index_t;

constexpr index_t heads = 8, key_value_heads = 2, dimension = 64;
constexpr index_t prompt_tokens = 40, page_tokens = 16, slots = 4;

using tensor = Eigen::Tensor<float, 4, Eigen::RowMajor>;  // [batch, head, token, dimension]

/// Some tokens, as a model would compute them.
struct piece {
  tensor q, k, v;

  explicit piece(index_t tokens)
      : q(1, heads, tokens, dimension), k(1, key_value_heads, tokens, dimension), v(k.dimensions()) {
    q.setRandom(), k.setRandom(), v.setRandom();
  }
};

struct request {
  index_t arrives;            // at this step
  std::vector<piece> pieces;  // its own part of the prompt, then token after token
  index_t slot = -1;          // while it is in the batch
  std::size_t taken = 0;      // pieces
  std::vector<float> outputs = {};
};

constexpr attend::caches::cache_shape shape_of(index_t sequences) {
  return {.sequences = sequences,
          .key_value_heads = key_value_heads,
          .key_dimension = dimension,
          .value_dimension = dimension};
}

/// The outputs of a request that nobody shares anything with.
std::vector<float> alone(piece const& prompt, request const& r) {
  attend::contiguous_cache<float> cache(shape_of(1), 256);
  cache.append(prompt.k, prompt.v);
  std::vector<float> outputs;
  for (piece const& p : r.pieces) {
    tensor output(p.q.dimensions());
    attend::cached_attention(cache, p.q, p.k, p.v, output);
    outputs.insert(outputs.end(), output.data(), output.data() + output.size());
  }
  return outputs;
}

/// The next piece of each of these requests, of as many tokens each.
void attend_together(attend::paged_cache<float>& cache, std::vector<request*> const& group_size) {
  tensor::Dimensions extents = group_size[0]->pieces[group_size[0]->taken].q.dimensions();
  index_t const numbers = extents.TotalSize();
  extents[0] = static_cast<index_t>(group_size.size());
  tensor queries(extents), outputs(extents);
  std::vector<index_t> slot;
  for (request* r : group_size) {
    piece const& next = r->pieces[r->taken++];
    cache.append(r->slot, next.k, next.v);
    std::copy_n(next.q.data(), numbers, queries.data() + static_cast<index_t>(slot.size()) * numbers);
    slot.push_back(r->slot);
  }
  attend::softmax_attention(queries, attend::caches::sequences_of(cache, slot), outputs, attend::causal{},
                            attend::threads{2});
  float const* output = outputs.data();
  for (request* r : group_size) r->outputs.insert(r->outputs.end(), output, output + numbers), output += numbers;
}

}  // namespace

int main() {
  piece const prompt(prompt_tokens);
  std::vector<request> requests;
  for (auto const& [arrives, own, decoded] :
       {std::array<index_t, 3>{0, 5, 30}, {0, 20, 12}, {3, 8, 9}, {4, 1, 20}, {10, 17, 3}, {11, 2, 40}}) {
    requests.push_back({arrives, {piece(own)}});
    for (index_t token = 0; token < decoded; ++token) requests.back().pieces.emplace_back(1);
  }

  attend::paged_cache<float> cache(shape_of(slots), {.pages = 32, .page_tokens = page_tokens});
  index_t const shared = slots - 1;
  std::vector<index_t> free_slots{0, 1, 2};
  cache.append(shared, prompt.k, prompt.v);

  auto const pages_of = [](index_t tokens) { return (tokens + page_tokens - 1) / page_tokens; };
  bool pages_right = true;
  index_t max_pages = 0, steps = 0;
  for (std::size_t finished = 0; finished < requests.size(); ++steps) {
    std::vector<request*> decoding;
    for (request& r : requests)
      if (r.slot >= 0) decoding.push_back(&r);
    if (!decoding.empty()) attend_together(cache, decoding);

    index_t expected = pages_of(prompt_tokens);
    for (request& r : requests) {
      if (r.slot >= 0 && r.taken == r.pieces.size()) {
        cache.truncate(r.slot, 0);
        free_slots.push_back(r.slot);
        r.slot = -1;
        ++finished;
      } else if (r.taken == 0 && r.arrives <= steps && !free_slots.empty()) {
        r.slot = free_slots.back();
        free_slots.pop_back();
        cache.fork(shared, r.slot);
        attend_together(cache, {&r});
      }
      // The full pages of the prompt are there once; everything else is a request's own.
      if (r.slot >= 0) expected += pages_of(cache.size(r.slot)) - prompt_tokens / page_tokens;
    }
    index_t const used = cache.pages() - cache.free_pages();
    pages_right = pages_right && used == expected;
    max_pages = std::max(max_pages, used);
  }

  bool same = true;
  for (request const& r : requests) same = same && r.outputs == alone(prompt, r);
  std::cout << requests.size() << " requests in " << steps << " steps, with at most " << max_pages << " pages of "
            << page_tokens << " tokens: " << (same ? "the same bits as" : "other bits than") << " each alone\n";
  return pages_right && same ? 0 : 1;
}
