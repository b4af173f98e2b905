// SPDX-License-Identifier: BSD-3-Clause
// Sequences of calls on key-value caches: bytes choose a contiguous, a paged or a rolling cache, its sizes, and what
// happens to it: tokens are appended and attended to, appended to one sequence, taken back, shared by a fork. Every
// output is the definition's on the tokens that a plain list says are there. Where there is no room, or a size is none,
// it is an argument_error, and neither the cache nor the output has changed.
#include <attend/cache/paged.hpp>
#include <attend/cache/rolling.hpp>
#include <attend/policy/score/alibi.hpp>

#include "placed.hpp"
#include "support/cached_tokens.hpp"
#include "support/caller_modes.hpp"
#include "support/choices.hpp"

namespace attend::test {
using namespace caches;

namespace {

struct token {
  std::vector<float> key, value;  // [head, dimension]
};

template <class Cache>
class cache_history {
 public:
  cache_history(byte_choices& choices, sizes const& size, Cache cache, reference::visible_function visible)
      : choices_(choices),
        size_(size),
        cache_(std::move(cache)),
        visible_(std::move(visible)),
        tokens_(static_cast<std::size_t>(size.batches)),
        slopes_(normal<float, 1>({size.query_heads}, choices.fresh(), 0.05)) {}

  void run() {
    index_t const events = choices_.from_to(1, 12);
    for (index_t i = 0; i < events; ++i) {
      switch (choices_.from_to(0, 5)) {
        case 0:
          truncate();
          break;
        case 1:
          append_to_one();
          break;
        case 2:
          fork();
          break;
        default:
          attend();
      }
      for (index_t s = 0; s < size_.batches; ++s)
        require(cache_.size(s) == length(s), "a sequence has another number of tokens than it was given");
    }
  }

 private:
  index_t length(index_t sequence) const { return static_cast<index_t>(tokens_of(sequence).size()); }
  std::vector<token> const& tokens_of(index_t sequence) const { return tokens_[static_cast<std::size_t>(sequence)]; }
  std::vector<token>& tokens_of(index_t sequence) { return tokens_[static_cast<std::size_t>(sequence)]; }
  index_t a_sequence() { return choices_.from_to(0, size_.batches - 1); }

  template <class Call>
  static bool is_refused(Call const& call) {
    try {
      call();
      return false;
    } catch (argument_error const&) {
      return true;
    }
  }

  /// Whether a store must, or may, have no room for that many tokens more in these sequences.
  bool has_no_room(index_t first, index_t last, index_t count) const {
    if constexpr (requires { cache_.capacity(); })
      for (index_t s = first; s < last; ++s)
        if (length(s) + count > cache_.capacity()) return true;
    return false;
  }
  static constexpr bool may_refuse = requires(Cache const& cache) { cache.free_pages(); };

  void truncate() {
    index_t const s = a_sequence(), kept = choices_.from_to(-1, length(s) + 1);
    bool const refused = is_refused([&] { cache_.truncate(s, kept); });
    bool const is_wrong = kept < 0 || kept > length(s);
    // A rolling cache has forgotten what some sizes would need.
    constexpr bool forgets = requires { cache_.chunk(); };
    require(is_wrong ? refused : !refused || forgets, "truncate took or refused a size wrongly");
    if (!refused) tokens_of(s).resize(static_cast<std::size_t>(kept));
  }

  void fork() {
    if constexpr (requires { cache_.fork(0, 0, 0); }) {
      bool const is_wrong = choices_.chance(0.1);
      index_t const from = is_wrong ? size_.batches : a_sequence(), to = choices_.chance(0.1) ? -1 : a_sequence();
      // Only an empty sequence may become a fork: most have been used before.
      if (to >= 0 && to != from && choices_.chance(0.8)) {
        cache_.truncate(to, 0);
        tokens_of(to).clear();
      }
      bool const exist = from < size_.batches && to >= 0;
      index_t const shared = choices_.from_to(0, exist ? length(from) + 1 : 1);
      bool const refused = is_refused([&] { cache_.fork(from, to, shared); });
      require(refused == !(exist && shared <= length(from) && length(to) == 0), "fork took or refused wrongly");
      if (refused) return;
      auto const& parent = tokens_of(from);
      std::vector<token> const first(parent.begin(), parent.begin() + shared);
      tokens_of(to) = first;
    }
  }

  void remember(index_t sequence, tensor<float, 4> const& key, tensor<float, 4> const& value, index_t batch) {
    for (index_t t = 0; t < key.extents[2]; ++t) {
      token added;
      auto const rows = [&](tensor<float, 4> const& all, std::vector<float>& row) {
        for (index_t h = 0; h < all.extents[1]; ++h)
          for (index_t c = 0; c < all.extents[3]; ++c) row.push_back(all.view()(batch, h, t, c));
      };
      rows(key, added.key);
      rows(value, added.value);
      tokens_of(sequence).push_back(std::move(added));
    }
  }

  inputs<float> new_tokens(index_t batches, index_t count) {
    sizes s = size_;
    s.batches = batches;
    s.queries = s.keys = count;
    return random_inputs<float>(s, choices_.fresh(), choices_.chance(0.2) ? 6 : 1);
  }

  void append_to_one() {
    index_t const s = a_sequence(), count = choices_.from_to(0, 20);
    auto const in = new_tokens(1, count);
    auto const one = [](tensor<float, 4> const& all) {
      auto const view = all.view();
      return tensor_view<float const, 3>(view.data(), {view.extent(1), view.extent(2), view.extent(3)});
    };
    bool const refused = is_refused([&] { cache_.append(s, one(in.key), one(in.value)); });
    require(may_refuse || refused == has_no_room(s, s + 1, count), "append took or refused tokens wrongly");
    if (!refused) remember(s, in.key, in.value, 0);
  }

  void attend() {
    index_t const count = choices_.from_to(0, choices_.chance(0.7) ? 4 : 40);
    auto const in = new_tokens(size_.batches, count);
    using buffer = placed<float, 4>;
    buffer query(in.query.extents, choices_), key(in.key.extents, choices_), value(in.value.extents, choices_);
    query.write(in.query);
    key.write(in.key);
    value.write(in.value);
    buffer output({size_.batches, size_.query_heads, count, size_.value_dimension}, choices_);
    bool const wrong = choices_.chance(0.1);
    tensor_view<float const, 4> const given = std::as_const(key).view();
    tensor_view<float const, 4> const keys =
        wrong ? tensor_view<float const, 4>(given.data(),
                                            {given.extent(0), given.extent(1), given.extent(2), given.extent(3) + 1},
                                            given.strides())
              : given;
    auto const modes = caller_modes();
    // In the last mode whatever is inexact traps: also what writes the message of an error.
    caller_mode const& mode =
        modes[static_cast<std::size_t>(choices_.from_to(0, static_cast<index_t>(modes.size()) - 2))];
    mode_bits after = 0;
    bool const refused = is_refused([&] {
      in_mode const there(mode.bits);
      cached_attention(cache_, std::as_const(query).view(), keys, std::as_const(value).view(), output.view(),
                       alibi(slopes_.view()), threads{static_cast<int>(choices_.from_to(1, 3))});
      after = attend::detail::floating_point::read();
    });
    if (wrong) {
      require(refused, "keys of another dimension were taken");
    } else {
      require(may_refuse || refused == has_no_room(0, size_.batches, count), "tokens were taken or refused wrongly");
    }
    require(output.is_untouched_around(), "something was written beside the output");
    if (refused) return require(output.is_untouched(), "something was written before an error");
    require(after == mode.bits, std::string("the caller's mode is another one after: ") + mode.name);
    for (index_t s = 0; s < size_.batches; ++s) remember(s, in.key, in.value, s);
    auto const got = output.read();
    for (index_t s = 0; s < size_.batches; ++s) compare(s, in, got);
  }

  void compare(index_t s, inputs<float> const& in, tensor<float, 4> const& got) {
    index_t const count = in.size.queries, keys = length(s);
    tensor<float, 4> query{{1, size_.query_heads, count, size_.key_dimension}, {}};
    tensor<float, 4> key{{1, size_.key_heads, keys, size_.key_dimension}, {}};
    tensor<float, 4> value{{1, size_.value_heads, keys, size_.value_dimension}, {}};
    auto const append = [](std::vector<float>& to, std::vector<float> const& from, std::size_t first,
                           std::size_t many) {
      to.insert(to.end(), from.begin() + static_cast<std::ptrdiff_t>(first),
                from.begin() + static_cast<std::ptrdiff_t>(first + many));
    };
    auto const of_one = [&](tensor<float, 4> const& all) {
      std::size_t const size = all.elements.size() / static_cast<std::size_t>(size_.batches);
      std::vector<float> part;
      append(part, all.elements, static_cast<std::size_t>(s) * size, size);
      return part;
    };
    query.elements = of_one(in.query);
    auto const gather = [&](tensor<float, 4>& to, std::vector<float> token::* row) {
      auto const width = static_cast<std::size_t>(to.extents[3]);
      for (std::size_t head = 0; head < static_cast<std::size_t>(to.extents[1]); ++head)
        for (token const& one : tokens_of(s)) append(to.elements, one.*row, head * width, width);
    };
    gather(key, &token::key);
    gather(value, &token::value);

    reference::options with;
    with.visible = visible_;
    with.scores = {[&](double x, reference::place const& at) {
      return x - static_cast<double>(slopes_.view()(at.head)) * std::abs(static_cast<double>(at.position() - at.key));
    }};
    auto const expected = reference::softmax_attention<float>(std::as_const(query).view(), std::as_const(key).view(),
                                                              std::as_const(value).view(), with);
    // A logit has the error of its terms, and a weight that of two logits.
    double const logit = std::max(1.0, largest_magnitude(query.elements) * largest_magnitude(key.elements) *
                                           std::sqrt(static_cast<double>(size_.key_dimension)) / 20);
    // A product of a weight and a value may become zero where it is below the normal range, in the unit of weights.
    double const lost = static_cast<double>(std::numeric_limits<float>::min()) / attend::detail::weight_unit<double>;
    auto const result =
        near(of_one(got), expected.output,
             tolerance<float>(logit * std::max(lost / unit_roundoff<float>(), largest_magnitude(value.elements))));
    require(static_cast<bool>(result), std::string(result.message()) + " in sequence " + std::to_string(s) + " of " +
                                           std::to_string(keys) + " tokens, " + std::to_string(count) + " new");
  }

  byte_choices& choices_;
  sizes size_;
  Cache cache_;
  reference::visible_function visible_;
  std::vector<std::vector<token>> tokens_;  // of each sequence
  tensor<float, 1> slopes_;
};

void run(byte_choices& choices) {
  static constexpr index_t heads[][2] = {{1, 1}, {2, 2}, {4, 2}, {6, 2}, {5, 1}, {3, 3}};
  auto const& [query_heads, key_heads] = heads[choices.from_to(0, 5)];
  sizes const size{.batches = choices.from_to(1, 4),
                   .query_heads = query_heads,
                   .key_heads = key_heads,
                   .value_heads = key_heads,
                   .key_dimension = choices.from_to(1, 40),
                   .value_dimension = choices.from_to(1, 40)};
  switch (choices.from_to(0, 2)) {
    case 0:
      return cache_history(choices, size, contiguous_cache<float>(shape_of(size), choices.from_to(0, 90)),
                           reference::causal_bottom_right())
          .run();
    case 1: {
      paging const pool{.pages = choices.from_to(0, 60),
                        .page_tokens = choices.from_to(1, 20),
                        .max_tokens = choices.chance(0.3) ? choices.from_to(0, 50) : 0};
      return cache_history(choices, size, paged_cache<float>(shape_of(size), pool), reference::causal_bottom_right())
          .run();
    }
    default: {
      index_t const sinks = choices.from_to(0, 5), window = choices.from_to(1, 40);
      return cache_history(choices, size, rolling_cache<float>(shape_of(size), {sinks, window}, choices.from_to(1, 30)),
                           [=](reference::place const& at) {
                             return at.key <= at.position() && (at.key < sinks || at.position() - at.key < window);
                           })
          .run();
    }
  }
}

}  // namespace
}  // namespace attend::test

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  attend::test::byte_choices choices({data, size});
  attend::test::run(choices);
  return 0;
}
