// SPDX-License-Identifier: BSD-3-Clause
// Streams tokens of a small decoder through each kind of cache: a prompt is prefilled in chunks, then tokens follow one
// by one. Caches that lose nothing must give the same text; the others say how long they keep to it. For each: the
// bytes that it takes, and tokens per second.
//
// The decoder's weights are random, from a fixed seed (decoder.hpp): its text has no meaning, and the speeds are those
// of a model that is mostly not attention.
#include <attend/cache.hpp>
#include <attend/softmax.hpp>

#include <array>
#include <chrono>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

#include "decoder.hpp"

namespace {

using attend::index_t;
using generate::decoder;

constexpr std::string_view alphabet = "abcdefghijklmnopqrstuvwxyz ,.-'\n";
constexpr std::string_view opening =
    "the cache of a decoder grows by one row a token, and every token reads all of it. whoever wants to answer fast "
    "must therefore read little, or read it fast. this text is here to be read again and again, by nobody in "
    "particular.";
constexpr std::array<int, 2> recent_by_head{124, 60};  // tokens that an evicting cache keeps
constexpr index_t prompt_tokens = 512, new_tokens = 160, max_tokens = prompt_tokens + new_tokens, prefill_chunk = 128;

std::vector<int> prompt() {
  std::vector<int> tokens;
  for (index_t i = 0; i < prompt_tokens; ++i) {
    auto const letter = alphabet.find(opening[static_cast<std::size_t>(i) % opening.size()]);
    tokens.push_back(static_cast<int>(letter));
  }
  return tokens;
}

/// Samples by adding noise of a fixed seed for each position to the logits: the same choice for the same logits.
int sample(Eigen::RowVectorXf const& logits, index_t position) {
  std::mt19937 engine(static_cast<unsigned>(position));
  std::extreme_value_distribution<float> noise;
  Eigen::Index best = 0;
  float most = -INFINITY;
  for (Eigen::Index token = 0; token < logits.size(); ++token)
    if (float const score = logits[token] + noise(engine); score > most) most = score, best = token;
  return static_cast<int>(best);
}

struct run {
  std::string text;
  index_t bytes = 0;
  double prefill = 0, decode = 0;  // tokens per second
};

/// Generates with a cache for each layer, which `make` makes.
template <class Make>
run stream(decoder const& model, Make const& make) {
  using clock = std::chrono::steady_clock;
  auto const seconds_since = [](clock::time_point start) {
    return std::chrono::duration<double>(clock::now() - start).count();
  };
  std::vector<decltype(make())> caches;
  run result;
  for (index_t l = 0; l < model.shape().layers; ++l) {
    caches.push_back(make());
    result.bytes += caches.back().bytes();
  }
  // Steps of one token are alike: a layer's is planned at the first of them, and not checked again.
  using view = attend::tensor_view<float, 4>;
  using step_type = decltype(attend::plan(caches[0], view(), view(), view(), view(), model.position()));
  std::vector<std::optional<step_type>> steps(caches.size());
  auto const attend_to_cache = [&](std::size_t layer, view const& query, view const& key, view const& value,
                                   view const& output) {
    if constexpr (requires { caches[layer].compensated(0); }) {
      // A compensation token is a mean of keys as they are cached: it takes them rotated.
      auto const positions = attend::options::token_positions(caches[layer].size(0));
      for (auto const& rows : {query, key}) attend::options::rotary_embedding(rows, model.position(), rows, positions);
      attend::systems::razor_attention(caches[layer], query, key, value, output);
    } else if (query.extent(2) > 1) {
      attend::cached_attention(caches[layer], query, key, value, output, model.position());
    } else {
      if (!steps[layer]) steps[layer].emplace(attend::plan(caches[layer], query, key, value, output, model.position()));
      steps[layer]->run(query, key, value, output);
    }
    if constexpr (requires { caches[layer].used_pages(); })
      caches[layer].evict(attend::caches::keep_window{.sinks = 4, .windows = recent_by_head});
  };

  std::vector<int> const tokens = prompt();
  Eigen::RowVectorXf logits;
  auto start = clock::now();
  for (index_t first = 0; first < prompt_tokens; first += prefill_chunk)
    logits = model.forward(std::span(tokens).subspan(static_cast<std::size_t>(first), prefill_chunk), attend_to_cache);
  result.prefill = static_cast<double>(prompt_tokens) / seconds_since(start);

  start = clock::now();
  for (index_t position = prompt_tokens; position < max_tokens; ++position) {
    int const token = sample(logits, position);
    result.text += alphabet[static_cast<std::size_t>(token)];
    logits = model.forward(std::span(&token, 1), attend_to_cache);
  }
  result.decode = static_cast<double>(new_tokens) / seconds_since(start);
  return result;
}

/// How many characters two texts have in common at their beginning.
std::size_t agreement(std::string const& a, std::string const& b) {
  return static_cast<std::size_t>(std::mismatch(a.begin(), a.end(), b.begin()).first - a.begin());
}

}  // namespace

int main() {
  using namespace attend;
  using namespace attend::caches;
  using namespace attend::options;
  decoder const model(generate::decoder_shape{}, 3);
  auto const& m = model.shape();
  cache_shape const all{1, m.key_value_heads, m.head_dimension, m.head_dimension};
  cache_shape const one{1, 1, m.head_dimension, m.head_dimension};
  std::vector<std::int32_t> const second_head_streams{0, 1};
  paging const pages{.pages = (max_tokens + 15) / 16, .page_tokens = 16};
  streaming const whole{0, max_tokens}, recent{4, 124};

  run const first = stream(model, [&] { return contiguous_cache<float>(all, max_tokens); });
  std::printf("compiled for %s\n\n", attend::runtime::target());
  std::printf("%-46s %9s %9s %9s  %s\n", "cache", "bytes", "prefill/s", "decode/s", "the same text for");
  bool agree = true;
  auto const report = [&](char const* name, bool exact, run const& result) {
    std::size_t const same = agreement(result.text, first.text);
    bool const differs = exact && same != first.text.size();
    agree = agree && !differs;
    std::printf("%-46s %9td %9.0f %9.0f  %zu of %zu tokens%s\n", name, result.bytes, result.prefill, result.decode,
                same, first.text.size(),
                differs ? ", but should never differ"
                : exact ? " (exact)"
                        : "");
  };
  report("contiguous, float", true, first);
  report("paged by 16 tokens, float", true, stream(model, [&] { return paged_cache<float>(all, pages); }));
  report("rolling, float, window as long as the text", true,
         stream(model, [&] { return rolling_cache<float>(all, whole, prefill_chunk); }));
  report("one head retrieves, one streams all of the text", true, stream(model, [&] {
           return head_policy_cache(paged_cache<float>(one, pages), rolling_cache<float>(one, whole, prefill_chunk),
                                    second_head_streams);
         }));
  report("contiguous, bfloat16", false, stream(model, [&] { return contiguous_cache<bfloat16>(all, max_tokens); }));
  report("paged by 16 tokens, int8", false, stream(model, [&] { return paged_cache<std::int8_t>(all, pages); }));
  report("paged by 16 tokens, int4", false, stream(model, [&] { return paged_cache<int4_pair>(all, pages); }));
  report("rolling, float, 4 sinks and 124 recent", false,
         stream(model, [&] { return rolling_cache<float>(all, recent, prefill_chunk); }));
  report("one head retrieves, one streams 4 + 124", false, stream(model, [&] {
           return head_policy_cache(paged_cache<float>(one, pages), rolling_cache<float>(one, recent, prefill_chunk),
                                    second_head_streams);
         }));
  report("the same with a compensation token", false, stream(model, [&] {
           return head_policy_cache(paged_cache<float>(one, pages),
                                    compensated_cache<float>(one, recent, prefill_chunk), second_head_streams);
         }));
  // A chunk of the prompt comes to what each head keeps, with a slack.
  paging const few{.pages = 40, .page_tokens = 16};
  report("evicting, float, heads keep 4 + 124 and 4 + 60", false,
         stream(model, [&] { return evicting_cache<float>(all, few); }));
  std::printf("\n%s\n", first.text.c_str());
  return agree ? 0 : 1;
}
