// SPDX-License-Identifier: BSD-3-Clause
// What each policy costs: all on one shape, so that they can be compared with each other and with plain attention.
#include <attend/policy/functions.hpp>
#include <attend/policy/key_mass.hpp>
#include <attend/policy/mask/boolean_mask.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/documents.hpp>
#include <attend/policy/mask/predicate.hpp>
#include <attend/policy/mask/prefix_lm.hpp>
#include <attend/policy/normalizer/relu.hpp>
#include <attend/policy/normalizer/sigmoid.hpp>
#include <attend/policy/normalizer/sinks.hpp>
#include <attend/policy/score/alibi.hpp>
#include <attend/policy/score/bias.hpp>
#include <attend/policy/score/softcap.hpp>
#include <attend/policy/weight_function.hpp>

#include "benchmarks.hpp"
#include "softmax_call.hpp"
#include "visible_pairs.hpp"

namespace attend_bench {
namespace {

constexpr index_t heads = 8, tokens = 2048;
constexpr attention_shape shape{1, heads, heads, tokens, tokens, 128};

/// A policy's benchmark: the mask's name, the pairs that it allows, and the call.
void add(std::string const& policy, std::string const& mask, double pairs,
         std::function<attention_call()> const& prepare) {
  register_attention({"softmax/policy/" + policy, element_type::f32, shape, mask, pairs, limit::arithmetic, prepare},
                     {1});
}

/// A policy beside a causal mask, which is what most of them are used with.
void add_causal(std::string const& policy, std::function<attention_call()> const& prepare) {
  add(policy, "causal", window_pairs(tokens, tokens, -1, 0), prepare);
}

/// The call with options that refer to nothing.
template <class... Options>
std::function<attention_call()> call_with(Options const&... options) {
  return [=] { return softmax_call<float>(shape, nullptr, options...); };
}

void register_scores() {
  add_causal("softcap", call_with(attend::causal{}, attend::options::softcap{30}));
  add_causal("alibi", [] {
    auto const slopes = std::make_shared<std::vector<float>>(attend::options::alibi_slopes(heads));
    return softmax_call<float>(shape, slopes, attend::causal{}, attend::alibi(*slopes));
  });
  // One bias for all heads.
  add_causal("bias", [] {
    auto const pairs = std::make_shared<random_tensor<float>>(std::array<index_t, 4>{1, 1, tokens, tokens}, 5);
    return softmax_call<float>(shape, pairs, attend::causal{}, attend::bias(pairs->view()));
  });
  // A bias of each head by the distance, up to 128: T5's, as a table of distances.
  add_causal("lookup", [] {
    auto const table = std::make_shared<random_tensor<float>>(std::array<index_t, 4>{1, 1, heads, 129}, 5);
    attend::tensor_view<float const, 2> const of_heads(table->view().data(), {heads, 129});
    auto const relative = [=](auto s, auto const& at) {
      return s + attend::extend::lookup(of_heads, at.head(), at.query_position - at.key_position);
    };
    return softmax_call<float>(shape, table, attend::causal{}, attend::score(relative));
  });
  add_causal("bias_of_heads", [] {
    auto const pairs = std::make_shared<random_tensor<float>>(std::array<index_t, 4>{1, heads, tokens, tokens}, 5);
    return softmax_call<float>(shape, pairs, attend::causal{}, attend::bias(pairs->view()));
  });
  auto const falling = [](auto s, auto const& at) { return s - 0.1f * (at.query_position - at.key_position); };
  add_causal("score_function", call_with(attend::causal{}, attend::score(falling)));
}

/// What is called with the final weights takes the keys twice.
void register_weight_function() {
  auto const square = [](auto p, auto const&) { return p * p; };
  add_causal("weight_function", call_with(attend::causal{}, attend::options::weight_function(square)));
}

void register_masks() {
  // Two keys of three below the diagonal, which leaves no tile full.
  auto const seen = [](index_t query, index_t key) { return key <= query && (query + key) % 3 != 0; };
  auto const seen_by = [=](index_t query) {
    index_t count = 0;
    for (index_t key = 0; key < tokens; ++key) count += seen(query, key);
    return count;
  };
  add("boolean_mask", "two_of_three", visible_pairs(tokens, seen_by), [=] {
    std::shared_ptr<bool[]> const pairs(new bool[tokens * tokens]);
    for (index_t query = 0; query < tokens; ++query)
      for (index_t key = 0; key < tokens; ++key) pairs[query * tokens + key] = seen(query, key);
    attend::tensor_view<bool const, 2> const view(pairs.get(), {tokens, tokens});
    return softmax_call<float>(shape, pairs, attend::options::boolean_mask(view));
  });

  static constexpr int block = 64;
  auto const same_block = [](auto query, auto key) { return query / block == key / block; };
  add("mask_function", "blocks64", static_cast<double>(tokens * block), call_with(attend::mask(same_block)));

  // Documents of lengths that no tile divides.
  static constexpr index_t document = 300;
  auto const document_length = [](index_t query) {
    index_t const first = query / document * document;
    return std::min(first + document, tokens) - first;
  };
  add("documents", "documents300", visible_pairs(tokens, document_length), [] {
    auto const numbers = std::make_shared<std::vector<std::int32_t>>(tokens);
    for (index_t token = 0; token < tokens; ++token)
      (*numbers)[static_cast<std::size_t>(token)] = static_cast<std::int32_t>(token / document);
    return softmax_call<float>(shape, numbers, attend::options::documents(*numbers));
  });

  static constexpr index_t prefix = 512;
  auto const seen_with_prefix = [](index_t query) { return std::max(query + 1, prefix); };
  add("prefix_lm", "prefix512", visible_pairs(tokens, seen_with_prefix), call_with(attend::options::prefix_lm(prefix)));
}

void register_normalizers() {
  add_causal("sinks", [] {
    auto const logits = std::make_shared<std::vector<float>>(heads, 0.5f);
    return softmax_call<float>(shape, logits, attend::causal{}, attend::options::sinks(*logits));
  });
  add_causal("sigmoid_weights", call_with(attend::causal{}, attend::options::sigmoid_weights{}));
  add_causal("relu_weights",
             call_with(attend::causal{}, attend::options::relu_weights{attend::options::relu_scaling::count}));
}

void register_outputs() {
  add_causal("log_sum_exp", [] {
    auto const rows = std::make_shared<std::vector<float>>(heads * tokens);
    attend::tensor_view<float, 3> const view(rows->data(), {1, heads, tokens});
    return softmax_call<float>(shape, rows, attend::causal{}, attend::options::log_sum_exp(view));
  });
  add_causal("weights", [] {
    auto const pairs = std::make_shared<std::vector<float>>(heads * tokens * tokens);
    attend::tensor_view<float, 4> const view(pairs->data(), {1, heads, tokens, tokens});
    return softmax_call<float>(shape, pairs, attend::causal{}, attend::options::weights(view));
  });
}

/// What calls add up for keys, in a second pass: a product of queries and keys more than the call has, which counts as
/// work of the call's own.
void register_key_sums() {
  auto const add_mass = [](std::string const& name, index_t of_heads, attend::detail::query_choice const& queries) {
    auto const prepare = [=] {
      auto const sums = std::make_shared<std::vector<float>>(of_heads * tokens);
      attend::tensor_view<float, 3> const view(sums->data(), {1, of_heads, tokens});
      return softmax_call<float>(shape, sums, attend::causal{}, attend::options::key_mass(view, queries));
    };
    register_attention({"statistics/" + name, element_type::f32, shape, "causal", window_pairs(tokens, tokens, -1, 0),
                        limit::arithmetic, prepare},
                       {1});
  };
  add_mass("key_mass", heads, {});
  add_mass("key_mass_of_all_heads", 1, {});
  add_mass("key_mass_of_last64", heads, attend::options::last_queries{64});
}

}  // namespace

void register_policies() {
  register_scores();
  register_masks();
  register_normalizers();
  register_weight_function();
  register_outputs();
  register_key_sums();
}

}  // namespace attend_bench
