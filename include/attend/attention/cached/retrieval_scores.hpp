// SPDX-License-Identifier: BSD-3-Clause
// How much of a needle each head copies: the retrieval score of a head.
//
//   While a model answers from a needle, a run of n tokens of its prompt, head h copies token j of the needle at step t
//   if j is the key of its largest weight, j = argmax_i p_h(t, i), lies in the needle, and is the token that is
//   generated:
//
//   g_h      = {j in the needle: j = argmax_i p_h(t, i) and prompt_j = generated_t for some step t}
//   score(h) = |g_h| / n, averaged over samples: needles, their depths and the lengths of prompts
//
// Heads whose score is at least a threshold, 0.1, are retrieval heads, which keep all tokens (head_policy_cache); a
// key-value head is one if any of its query heads is.
//
// Cost: nothing beside heaviest_keys, which gives the keys from the pass of the answer.
//
// Wenhao Wu, Yizhong Wang, Guangxuan Xiao, Hao Peng, Yao Fu: Retrieval Head Mechanistically Explains Long-Context
// Factuality, 2024. A token that is copied at several steps counts once, as in the paper's set; a count of steps, which
// programs use as well, is the same where each token is generated once.
#pragma once

#include <vector>

#include "../../core/index_list.hpp"
#include "../../policy/tile.hpp"

namespace attend::inline ATTEND_TARGET::systems {

/// Retrieval scores of the query heads of a layer, averaged over the samples that are added.
///
///     retrieval_scores scores(32);
///     std::vector<std::int64_t> const prompt(512, 7), generated(512, 7);  // token numbers
///     Eigen::Tensor<std::int32_t, 4, Eigen::RowMajor> keys(1, 32, 512, 1);
///     tensor<4> largest(1, 32, 512, 1);
///     softmax_attention(q, k, v, o, causal{}, heaviest_keys(keys, largest));
///     scores.add(keys, prompt, generated, {100, 120});
///     std::vector<std::int32_t> kinds(8);
///     scores.choose(kinds);  // 0: keeps all tokens, 1: any other
class retrieval_scores {
 public:
  /// Scores of so many query heads, without samples. Throws argument_error for a negative number.
  explicit retrieval_scores(index_t heads) {
    if (heads < 0) fail("heads", "expected at least 0, got ", heads);
    sums_.assign(static_cast<std::size_t>(heads), 0);
  }

  /// Adds a sample. `keys` is [query head, step, k] of std::int32_t, or [1, query head, step, k]: of each step's row,
  /// the key of largest weight comes first, as heaviest_keys has it. Step t generated the token numbered
  /// `generated[t]`; prompt[j] is the number of the token at key j, and `needle` are the keys that hold the needle.
  /// Throws argument_error, and adds nothing, where lists or shapes do not fit.
  template <TensorArgument Keys>
  void add(Keys const& keys, index_list const& prompt, index_list const& generated, key_range needle) {
    auto const largest = raise<4>(view_of(keys));
    static_assert(std::same_as<std::remove_const_t<element_of_t<Keys const>>, std::int32_t>,
                  "attend: keys of largest weight are std::int32_t, as heaviest_keys writes them");
    index_t const heads = static_cast<index_t>(sums_.size()), steps = generated.size();
    detail::check_view("keys", largest);
    detail::check_extent("keys", "batch", largest.extent(0), 1, "a sample");
    detail::check_extent("keys", "heads", largest.extent(1), heads, "retrieval_scores");
    detail::check_extent("keys", "steps", largest.extent(2), steps, "generated");
    if (steps > 0 && largest.extent(3) < 1) fail("keys", "expected at least 1 key for each step, got 0");
    if (needle.first < 0 || needle.empty() || needle.last > prompt.size())
      fail("needle", "expected keys within ", prompt.size(), " tokens, got ",
           detail::list_text(std::array{needle.first, needle.last}));
    std::vector<bool> copied(static_cast<std::size_t>(needle.count()));
    for (index_t head = 0; head < heads; ++head) {
      copied.assign(copied.size(), false);
      for (index_t step = 0; step < steps; ++step)
        if (index_t const key = largest(0, head, step, 0); needle.contains(key) && prompt[key] == generated[step])
          copied[static_cast<std::size_t>(key - needle.first)] = true;
      sums_[static_cast<std::size_t>(head)] +=
          static_cast<double>(std::count(copied.begin(), copied.end(), true)) / static_cast<double>(needle.count());
    }
    ++samples_;
  }

  index_t heads() const { return static_cast<index_t>(sums_.size()); }
  index_t samples() const { return samples_; }
  /// The score of a head, which is in range: from 0 to 1, and 0 without samples.
  double score(index_t head) const {
    return samples_ == 0 ? 0 : sums_[static_cast<std::size_t>(head)] / static_cast<double>(samples_);
  }

  /// Says which key-value heads are retrieval heads: `streams` has an entry of std::int32_t for each, which becomes 0
  /// for a retrieval head and 1 for any other, as head_policy_cache takes them. Throws argument_error where their
  /// number does not divide that of the query heads, or the threshold is no share.
  template <TensorArgument Streams>
  void choose(Streams&& streams, double threshold = 0.1) const {
    tensor_view<std::int32_t, 1> const to = view_of(streams);
    index_t const stored = to.extent(0);
    detail::check_output_view("streams", to);
    if (stored == 0 ? heads() > 0 : heads() % stored != 0)
      fail("streams", "expected a divisor of ", heads(), " heads, got ", stored);
    if (!(threshold >= 0 && threshold <= 1)) fail("threshold", "expected a share from 0 to 1, got ", threshold);
    for (index_t i = 0; i < stored; ++i) {
      to(i) = 1;
      for (index_t head = i * heads() / stored; head < (i + 1) * heads() / stored; ++head)
        if (score(head) >= threshold) to(i) = 0;
    }
  }

 private:
  std::vector<double> sums_;  // of the samples' scores, for each head
  index_t samples_ = 0;
};

}  // namespace attend::inline ATTEND_TARGET::systems
