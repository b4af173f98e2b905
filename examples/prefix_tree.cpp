// SPDX-License-Identifier: BSD-3-Clause
// Requests that begin alike share the pages of what they have in common: a radix tree over the pages of a cache.
//
//   node       some pages of tokens, which follow those of its parent; a sequence of the cache has all from the root on
//   request    forks the longest prefix that the tree has, computes its other tokens, and leaves its pages to the tree
//   full pool  the leaf that was used least recently is dropped
//
// Every output is compared with that of the request alone, which has the same bits.
//
// Lianmin Zheng et al.: SGLang: Efficient Execution of Structured Language Model Programs, 2024 (RadixAttention).
#include <unsupported/Eigen/CXX11/Tensor>

#include <attend/attention/cached/cached_attention.hpp>
#include <attend/cache/contiguous.hpp>
#include <attend/cache/paged.hpp>
#include <attend/cache/sequences_of.hpp>

#include <algorithm>
#include <iostream>
#include <memory>
#include <random>
#include <span>
#include <vector>

namespace {

using attend::index_t;
using tensor = Eigen::Tensor<float, 4, Eigen::RowMajor>;  // [batch, head, token, dimension]
using text = std::vector<int>;                            // numbers of tokens

constexpr index_t heads = 8, key_value_heads = 2, dimension = 64, vocabulary = 100;
constexpr index_t page_tokens = 16, pages = 48;

constexpr attend::caches::cache_shape shape_of(index_t sequences) {
  return {.sequences = sequences,
          .key_value_heads = key_value_heads,
          .key_dimension = dimension,
          .value_dimension = dimension};
}

/// The tree, and the sequences of the cache that its nodes have. A node has a page of its own at least, so that there
/// are never more nodes than pages.
class prefix_tree {
 public:
  explicit prefix_tree(attend::paged_cache<float>& cache) : cache_(cache) {
    for (index_t s = cache.sequences(); s-- > 1;) free_.push_back(s);
  }

  /// Makes the empty sequence 0 begin with the longest prefix of `tokens`, in whole pages, that the tree has.
  index_t fork_longest_prefix(std::span<int const> tokens) {
    auto const [last, in_last, matched] = find(tokens);
    if (matched > 0) cache_.fork(last->sequence, 0, matched);
    return matched;
  }

  /// Adds the full pages of sequence 0, whose tokens these are.
  void insert(std::span<int const> tokens) {
    auto const [last, in_last, matched] = find(tokens);
    index_t const full = std::ssize(tokens) / page_tokens * page_tokens;
    if (full == matched) return;
    if (in_last < std::ssize(last->tokens)) {
      // The text leaves within the pages of a node: those that it has in common become a node above.
      auto below = std::make_unique<node>(std::move(*last));
      last->tokens.assign(below->tokens.begin(), below->tokens.begin() + in_last);
      below->tokens.erase(below->tokens.begin(), below->tokens.begin() + in_last);
      last->children.clear();
      last->children.push_back(std::move(below));
      last->sequence = take_sequence(last->children[0]->sequence, matched);
    }
    auto added = std::make_unique<node>();
    added->tokens.assign(tokens.begin() + matched, tokens.begin() + full);
    added->sequence = take_sequence(0, full);
    added->used = clock_;
    last->children.push_back(std::move(added));
  }

  /// Drops leaves until so many pages are free. Pages that a request has forked stay with it.
  void make_room(index_t free_pages) {
    while (cache_.free_pages() < free_pages && drop_oldest_leaf()) continue;
  }

  index_t dropped() const { return dropped_; }

 private:
  struct node {
    text tokens;
    index_t sequence = 0;
    long used = 0;
    std::vector<std::unique_ptr<node>> children;
  };
  struct place {
    node* last;
    index_t in_last, matched;  // tokens of the last node that the text has, and of all
  };

  /// Follows a text down the tree, page by page.
  place find(std::span<int const> tokens) {
    place at{&root_, 0, 0};
    ++clock_;
    auto const next_page = [&] { return tokens.subspan(static_cast<std::size_t>(at.matched), page_tokens); };
    while (std::ssize(tokens) - at.matched >= page_tokens) {
      if (at.in_last == std::ssize(at.last->tokens)) {
        auto const child = std::ranges::find_if(at.last->children, [&](auto const& candidate) {
          return std::equal(next_page().begin(), next_page().end(), candidate->tokens.begin());
        });
        if (child == at.last->children.end()) break;
        at.last = child->get();
        at.in_last = 0;
      } else if (!std::equal(next_page().begin(), next_page().end(), at.last->tokens.begin() + at.in_last)) {
        break;
      }
      at.last->used = clock_;
      at.in_last += page_tokens;
      at.matched += page_tokens;
    }
    return at;
  }

  index_t take_sequence(index_t from, index_t tokens) {
    index_t const sequence = free_.back();
    free_.pop_back();
    cache_.fork(from, sequence, tokens);
    return sequence;
  }

  struct leaf {
    node* parent = nullptr;
    std::size_t number = 0;

    node& get() const { return *parent->children[number]; }
  };

  /// Makes `oldest` the leaf below `top`, if there is one, that was used before it.
  static void find_oldest(node& top, leaf& oldest) {
    for (std::size_t i = 0; i < top.children.size(); ++i) {
      node& child = *top.children[i];
      find_oldest(child, oldest);
      if (child.children.empty() && (!oldest.parent || child.used < oldest.get().used)) oldest = {&top, i};
    }
  }

  bool drop_oldest_leaf() {
    leaf oldest;
    find_oldest(root_, oldest);
    if (!oldest.parent) return false;
    cache_.truncate(oldest.get().sequence, 0);
    free_.push_back(oldest.get().sequence);
    oldest.parent->children.erase(oldest.parent->children.begin() + static_cast<std::ptrdiff_t>(oldest.number));
    ++dropped_;
    return true;
  }

  attend::paged_cache<float>& cache_;
  std::vector<index_t> free_;  // sequences
  node root_;
  long clock_ = 0;
  index_t dropped_ = 0;
};

/// A layer of attention, whose queries, keys and values depend on the token and, by rotation, on its position.
class layer {
 public:
  layer() : query_(1, heads, vocabulary, dimension), key_(1, key_value_heads, vocabulary, dimension), value_(key_) {
    query_.setRandom(), key_.setRandom(), value_.setRandom();
  }

  /// Appends tokens to a cache of one sequence, and returns the output of the last of them. However a text is cut into
  /// calls, the bits are the same.
  template <class Cache>
  std::vector<float> append(Cache&& cache, std::span<int const> tokens) const {
    tensor const q = rows(query_, tokens), k = rows(key_, tokens), v = rows(value_, tokens);
    tensor output(q.dimensions());
    attend::cached_attention(cache, q, k, v, output, rotary_, attend::options::chunk_invariant{});
    std::vector<float> last;
    for (index_t head = 0; head < heads; ++head)
      for (index_t c = 0; c < dimension; ++c) last.push_back(output(0, head, std::ssize(tokens) - 1, c));
    return last;
  }

 private:
  static tensor rows(tensor const& table, std::span<int const> tokens) {
    tensor found(1, table.dimension(1), std::ssize(tokens), dimension);
    for (index_t head = 0; head < table.dimension(1); ++head)
      for (index_t t = 0; t < std::ssize(tokens); ++t)
        std::copy_n(&table(0, head, tokens[static_cast<std::size_t>(t)], 0), dimension, &found(0, head, t, 0));
    return found;
  }

  tensor query_, key_, value_;
  attend::rotary<attend::options::rotary_frequencies> rotary_{attend::options::rotary_frequencies(dimension)};
};

}  // namespace

int main() {
  std::mt19937 engine(1);
  auto const up_to = [&](int most) { return std::uniform_int_distribution<int>(0, most)(engine); };
  auto const words = [&](int count) {
    text some(static_cast<std::size_t>(count));
    for (int& token : some) token = up_to(vocabulary - 1);
    return some;
  };
  // Conversations: each begins with one of two instructions, and every turn has all that was said before.
  std::vector<text> const instructions{words(72), words(45)};
  std::vector<text> conversations;
  for (int c = 0; c < 6; ++c) conversations.push_back(instructions[static_cast<std::size_t>(c % 2)]);

  layer const model;
  attend::paged_cache<float> cache(shape_of(pages + 1), {.pages = pages, .page_tokens = page_tokens});
  prefix_tree tree(cache);
  std::vector<int> const served{0};
  index_t tokens = 0, computed = 0, shared_pages = 0;
  bool same = true;
  for (int turn = 0; turn < 40; ++turn) {
    text& said = conversations[static_cast<std::size_t>(up_to(5))];
    if (said.size() > 200) said = instructions[static_cast<std::size_t>(up_to(1))];
    text const question = words(5 + up_to(20)), answer = words(8);
    said.insert(said.end(), question.begin(), question.end());

    // The last token is computed in any case: its output chooses the first token of the answer.
    std::span<int const> const prompt(said);
    index_t const shared = tree.fork_longest_prefix(prompt.first(prompt.size() - 1));
    index_t const all = std::ssize(said) + std::ssize(answer);
    tree.make_room((all + page_tokens - 1) / page_tokens - shared / page_tokens);
    attend::contiguous_cache<float> alone(shape_of(1), all);
    attend::caches::sequences_of request(cache, served);
    same =
        same && model.append(request, prompt.subspan(static_cast<std::size_t>(shared))) == model.append(alone, prompt);
    for (int const& token : answer) {
      same = same && model.append(request, std::span(&token, 1)) == model.append(alone, std::span(&token, 1));
      said.push_back(token);
    }
    tree.insert(said);
    cache.truncate(0, 0);

    tokens += all;
    computed += all - shared;
    shared_pages += shared / page_tokens;
  }
  std::cout << computed << " of " << tokens << " tokens computed, " << shared_pages << " pages shared, "
            << tree.dropped() << " prefixes dropped: " << (same ? "the same bits as" : "other bits than")
            << " without sharing\n";
  return same && shared_pages > 0 && tree.dropped() > 0 ? 0 : 1;
}
