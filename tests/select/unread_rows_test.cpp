// SPDX-License-Identifier: BSD-3-Clause
// A step reads the tokens that it has chosen, and no others: their rows lie in pages of memory that may not be touched,
// so that whoever reads one ends the program.
#include <sys/mman.h>
#include <unistd.h>

#include <attend/attention/sparse_decode/landmark_attention.hpp>
#include <attend/attention/sparse_decode/loki_selector.hpp>
#include <attend/attention/sparse_decode/long_heads_selector.hpp>
#include <attend/attention/sparse_decode/mean_page_selector.hpp>
#include <attend/attention/sparse_decode/quest_selector.hpp>
#include <attend/attention/sparse_decode/recycled_attention.hpp>
#include <attend/attention/sparse_decode/retrieval_attention.hpp>
#include <attend/attention/sparse_decode/seer_attention.hpp>
#include <attend/select/vote_selector.hpp>

#include "support/selection.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace selection;
using namespace extend;
using namespace systems;

namespace {

constexpr index_t tokens = 300, dimension = 64, query_heads = 2;
cache_shape const shape{1, 1, dimension, dimension};

/// Rows of one head, each in a page of memory of its own.
class guarded_rows {
 public:
  explicit guarded_rows(unsigned seed) : page_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))) {
    memory_ =
        static_cast<char*>(mmap(nullptr, tokens * page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory_ == MAP_FAILED) throw std::runtime_error("no memory to guard");
    auto const numbers = test::normal<float, 2>({tokens, dimension}, seed);
    for (index_t t = 0; t < tokens; ++t)
      std::copy_n(&numbers.view()(t, 0), dimension, reinterpret_cast<float*>(memory_) + t * stride());
  }
  guarded_rows(guarded_rows const&) = delete;
  guarded_rows& operator=(guarded_rows const&) = delete;
  ~guarded_rows() { munmap(memory_, tokens * page_); }

  tensor_view<float const, 4> view() const {
    return {reinterpret_cast<float const*>(memory_),
            {1, 1, tokens, dimension},
            {tokens * stride(), tokens * stride(), stride(), 1}};
  }

  void allow(std::vector<bool> const& rows) const {
    for (std::size_t t = 0; t < rows.size(); ++t)
      if (mprotect(memory_ + t * page_, page_, rows[t] ? PROT_READ : PROT_NONE) != 0)
        throw std::runtime_error("memory is not guarded");
  }

 private:
  index_t stride() const { return static_cast<index_t>(page_ / sizeof(float)); }

  std::size_t page_;
  char* memory_;
};

enum class guarded { keys_and_values, values };

class unread_rows : public testing::Test {
 protected:
  guarded_rows key{1}, value{2};
  key_value_tensors<float> store{key.view(), value.view()};
  test::tensor<float, 4> const query = test::normal<float, 4>({1, query_heads, 1, dimension}, 3);

  /// The same step twice, the second time with nothing but the lists' rows. `most` of them at most.
  template <class Selector, class Attend>
  void expect_unread(Selector& selector, Attend const& attend, index_t most, guarded what = guarded::keys_and_values) {
    auto output = test::filled<float, 4>({1, query_heads, 1, dimension}, 7), again = output;
    attend(query.view(), store, selector, output.view());
    attend(query.view(), store, selector, output.view());
    std::vector<bool> chosen(tokens, false);
    auto const take = [&](token_lists const& lists) {
      for (index_t list = 0; list < lists.heads(); ++list)
        for (index_t token : lists(0, list)) chosen[static_cast<std::size_t>(token)] = true;
    };
    take(selector.lists());
    if constexpr (requires { selector.resident(); }) take(selector.resident());
    auto const count = std::count(chosen.begin(), chosen.end(), true);
    EXPECT_GT(count, 0);
    EXPECT_LE(count, most) << "so that there is something to guard";
    if (what == guarded::keys_and_values) key.allow(chosen);
    value.allow(chosen);
    attend(query.view(), store, selector, again.view());
    EXPECT_TRUE(test::same_bits(output.elements, again.elements));
  }

  /// Selectors of selected_attention.
  template <class Selector>
  void expect_unread(Selector&& selector, index_t most, guarded what = guarded::keys_and_values) {
    if constexpr (requires { selector.update(store); }) selector.update(store);
    expect_unread(
        selector,
        [](auto const& q, auto const& cache, auto& chooser, auto&& o) { selected_attention(q, cache, chooser, o); },
        most, what);
  }
};

TEST_F(unread_rows, OfPages) {
  expect_unread(quest_selector<float>(shape, query_heads, tokens, quest_pages({.tokens = 48})), 48);
}

TEST_F(unread_rows, OfPagesForEachHead) {
  expect_unread(quest_selector<float>(shape, query_heads, tokens, quest_pages({.tokens = 48}, 16, list_of::query_head)),
                96);
}

TEST_F(unread_rows, OfMobaBlocks) {
  expect_unread(mean_page_selector<float>(shape, query_heads, tokens, moba_blocks({.tokens = 64}, 32)), 128);
}

TEST_F(unread_rows, OfKineticsBlocks) {
  expect_unread(
      mean_page_selector<float>(shape, query_heads, tokens, kinetics_blocks({.tokens = 40, .first = 4, .last = 4})),
      40);
}

TEST_F(unread_rows, OfLeadingChannels) {
  expect_unread(loki_selector<float>(shape, query_heads, tokens, loki_tokens({.tokens = 30}), {16}), 30);
}

TEST_F(unread_rows, OfGatedBlocks) {
  auto const w_q = test::normal<float, 3>({1, dimension, 16}, 4),
             w_k = test::normal<float, 3>({1, 3 * dimension, 16}, 5);
  expect_unread(seer_selector<float>(shape, query_heads, tokens, seer_blocks({.tokens = 48}, 16),
                                     seer_gate(w_q.view(), w_k.view(), rotary(rotary_frequencies(16)), 16)),
                96);
}

TEST_F(unread_rows, OfRepresentedChunks) {
  long_heads_selector<float> selector(shape, query_heads, tokens, 4, 20);
  auto const queries = test::normal<float, 4>({1, query_heads, 20, dimension}, 6);
  for (index_t chunk = 0; chunk < 13; ++chunk)
    selector.represent(0, queries.view(), detail::part(key.view(), 2, 20 * chunk, 20),
                       detail::part(value.view(), 2, 20 * chunk, 20));
  expect_unread(std::move(selector), 100);
}

TEST_F(unread_rows, OfLandmarkBlocks) {
  landmark_selector<float> selector(shape, query_heads, tokens, 3, 16);
  selector.update(store);
  expect_unread(
      selector,
      [](auto const& q, auto const& cache, auto& chooser, auto&& o) { landmark_attention(q, cache, chooser, o); }, 112);
}

TEST_F(unread_rows, OfASelectionThatServesAgain) {
  expect_unread(vote_selector<float>(shape, query_heads, tokens, {.budget = {.tokens = 30, .first = 2, .last = 5}}),
                30);
}

TEST_F(unread_rows, OfVotesAreKeysAlone) {
  expect_unread(vote_selector<float>(shape, query_heads, tokens, {.budget = {.tokens = 30}, .similarity = 2}), 30,
                guarded::values);
}

TEST_F(unread_rows, OfAFlatIndexAreKeysAlone) {
  retrieval_selector<> selector(shape, query_heads, tokens, {.first = 4, .last = 10, .tokens = 20});
  expect_unread(
      selector,
      [](auto const& q, auto const& cache, auto& chooser, auto&& o) { retrieval_attention(q, cache, chooser, o); }, 54,
      guarded::values);
}

TEST_F(unread_rows, OfRecycledSteps) {
  recycled_selector<float> selector(shape, query_heads, tokens, {.budget = {.tokens = 30}});
  expect_unread(
      selector,
      [](auto const& q, auto const& cache, auto& chooser, auto&& o) { recycled_attention(q, cache, chooser, o); }, 30);
}

TEST_F(unread_rows, OfReusedLayers) {
  weight_selector<float> selector(shape, query_heads, tokens, {.budget = {.tokens = 30}});
  auto output = test::filled<float, 4>({1, query_heads, 1, dimension}, 7);
  hylra_attention(query.view(), store, selector, true, output.view());
  expect_unread(
      selector,
      [](auto const& q, auto const& cache, auto& chooser, auto&& o) { hylra_attention(q, cache, chooser, false, o); },
      30);
}

}  // namespace
}  // namespace attend
