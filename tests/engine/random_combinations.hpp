// SPDX-License-Identifier: BSD-3-Clause
// Random problems: random shapes, sequences, masks, scores, slots, gains and threads, all at once, each beside its
// plain meaning. The definition is asked for every sequence on its own.
#pragma once

#include <attend/attention/cached/decode_attention.hpp>
#include <attend/policy/gain.hpp>
#include <attend/policy/mask/boolean_mask.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/documents.hpp>
#include <attend/policy/mask/predicate.hpp>
#include <attend/policy/mask/prefix_lm.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/policy/score/alibi.hpp>
#include <attend/policy/score/bias.hpp>
#include <attend/policy/score/logit_scale.hpp>
#include <attend/policy/score/softcap.hpp>
#include <attend/policy/slots.hpp>

#include <deque>
#include <string>

#include "support/any_policy.hpp"
#include "support/boolean_tensor.hpp"
#include "support/choices.hpp"
#include "support/problem.hpp"

namespace attend::test {
using namespace options;
using namespace extend;

/// Where a sequence stands in the tensors.
struct placed_sequence {
  index_t number, batch, first_query, queries, first_key, keys;
};

using placed_visible = std::function<bool(placed_sequence const&, reference::place const&)>;
using placed_score = std::function<double(double, placed_sequence const&, reference::place const&)>;

struct meant_mask {
  any_mask mask;
  placed_visible visible;
  std::string text;
};

struct meant_score {
  any_score score;
  placed_score apply;
  std::string text;
};

template <class T, class Choices = seeded_choices>
class random_problem {
 public:
  using A = accumulation_t<T>;

  /// Dimensions are multiples of `unit`.
  explicit random_problem(unsigned seed, index_t unit = 1) : random_problem(Choices(seed), seed, unit) {}
  random_problem(Choices choices, unsigned seed, index_t unit = 1) : choices_(choices), unit_(unit) {
    choose_sizes();
    choose_sequences();
    in = random_inputs<T>(size, seed);
  }

  index_t from_to(index_t least, index_t most) { return choices_.from_to(least, most); }
  bool chance(double probability) { return choices_.chance(probability); }
  double real(double least, double most) { return choices_.real(least, most); }

  meant_mask mask() {
    switch (from_to(0, 5)) {
      case 0: {
        meant_mask const a = simple_mask(), b = simple_mask();
        return {a.mask & b.mask, [=](auto const& s, auto const& at) { return a.visible(s, at) && b.visible(s, at); },
                "(" + a.text + " & " + b.text + ")"};
      }
      case 1: {
        meant_mask const a = simple_mask(), b = simple_mask();
        return {a.mask | b.mask, [=](auto const& s, auto const& at) { return a.visible(s, at) || b.visible(s, at); },
                "(" + a.text + " | " + b.text + ")"};
      }
      case 2: {
        meant_mask const a = simple_mask();
        return {!a.mask, [=](auto const& s, auto const& at) { return !a.visible(s, at); }, "!" + a.text};
      }
      default:
        return simple_mask();
    }
  }

  meant_score score() {
    switch (from_to(0, 6)) {
      case 0: {
        double const cap = real(1, 20);
        return {softcap(cap), [=](double s, auto const&, auto const&) { return cap * std::tanh(s / cap); }, "softcap"};
      }
      case 1:
        return bias_of(biases_.emplace_back(normal<A, 4>(pair_extents(), fresh())));
      case 2:
        return bias_of(narrow_biases_.emplace_back(normal<bfloat16, 4>(pair_extents(), fresh())));
      case 3: {
        auto const& slopes = of_heads_.emplace_back(normal<A, 1>({size.query_heads}, fresh(), 0.05));
        return {alibi(slopes.view()),
                [&](double s, auto const&, reference::place const& at) {
                  return s - static_cast<double>(slopes.view()(at.head)) *
                                 std::abs(static_cast<double>(at.position() - at.key));
                },
                "alibi"};
      }
      case 4: {
        auto const& factors = positive(of_heads_.emplace_back(normal<A, 1>({size.query_heads}, fresh())));
        return {head_logit_scale(factors.view()),
                [&](double s, auto const&, reference::place const& at) {
                  return s * static_cast<double>(factors.view()(at.head));
                },
                "head_logit_scale"};
      }
      case 5: {
        auto const& factors = positive(of_rows_.emplace_back(
            normal<A, 3>({shared_or(size.batches), shared_or(size.query_heads), shared_or(size.queries)}, fresh())));
        return {query_logit_scale(factors.view()),
                [&](double s, placed_sequence const& sequence, reference::place const& at) {
                  auto const& [batches, heads, queries] = factors.extents;
                  return s *
                         static_cast<double>(factors.view()(batches == 1 ? 0 : sequence.batch, heads == 1 ? 0 : at.head,
                                                            queries == 1 ? 0 : sequence.first_query + at.query));
                },
                "query_logit_scale"};
      }
      default: {
        double const slope = real(-0.02, 0.02);
        return {attend::score([=](auto s, auto const& at) {
                  using V = decltype(s);
                  return s + V(static_cast<A>(slope)) * (at.query_position - at.key_position);
                }),
                [=](double s, auto const&, reference::place const& at) {
                  return s + static_cast<double>(static_cast<A>(slope)) * static_cast<double>(at.position() - at.key);
                },
                "score"};
      }
    }
  }

  /// Runs one random combination with that normalizer, and holds it against the definition. With Split, by the split
  /// engine.
  template <bool Split = false, class N>
  testing::AssertionResult agrees_with(
      N const& normalizer, std::function<void(reference::options&, placed_sequence const&)> const& normalize) {
    return agrees_with<Split>(normalizer, normalize, [this](auto const&... options) {
      if constexpr (Split)
        return decode(options...);
      else
        return attend_to(in, options...);
    });
  }

  /// The same, with what calls attend: run(options...) gives outputs<T>.
  template <bool Split, class N, class Run>
  testing::AssertionResult agrees_with(
      N const& normalizer, std::function<void(reference::options&, placed_sequence const&)> const& normalize,
      Run const& attend) {
    meant_mask const seen = mask();
    if (hidden_is_poison) poison_hidden(seen);
    meant_score const first = score(), second = score();
    any_mask const& hide = seen.mask;
    any_score const &change = first.score, &change_again = second.score;
    threads const many{static_cast<int>(from_to(1, 3))};
    scale const factor(real(0.1, 0.8));

    // What is not wanted is there, and does nothing: fewer calls to compile.
    bool const extras = chance(0.5);
    index_t const slots = extras ? from_to(0, 20) : 0;
    auto const& slot_key =
        slots_of_.emplace_back(normal<T, 4>({1, size.key_heads, slots, size.key_dimension}, fresh()));
    auto const& slot_value =
        slots_of_.emplace_back(normal<T, 4>({1, size.value_heads, slots, size.value_dimension}, fresh()));
    auto gains = normal<A, 3>({shared_or(size.batches), shared_or(size.value_heads), size.keys}, fresh());
    auto gates = normal<A, 2>({shared_or(size.batches), size.query_heads}, fresh());
    if (chance(0.5)) gates.elements[0] = 0;
    if (!extras) std::fill(gains.elements.begin(), gains.elements.end(), A(1));
    if (!extras) {
      std::fill(gates.elements.begin(), gates.elements.end(), A(1));
    }
    auto const run = [&](auto const& sequences) {
      return attend(sequences, hide, change, change_again, normalizer, factor, many,
                    prefix_key_values(slot_key.view(), slot_value.view()), value_gain(gains.view()),
                    head_gates(gates.view()));
    };
    outputs<T> const got =
        packed_ ? run(ragged(query_offsets_, key_offsets_)) : run(padded(query_lengths_, key_lengths_));

    if (!is_comparable) return testing::AssertionSuccess();
    std::vector<double> const exact_key(slot_key.elements.begin(), slot_key.elements.end());
    std::vector<double> const exact_value(slot_value.elements.begin(), slot_value.elements.end());
    double const magnification =
        std::max(1.0, largest_magnitude(gains.elements)) * std::max(1.0, largest_magnitude(gates.elements));
    for (placed_sequence const& s : sequences_) {
      reference::options with;
      with.scale = factor.factor;
      with.visible = [&](reference::place const& at) { return seen.visible(s, at); };
      with.scores = {[&](double x, reference::place const& at) { return first.apply(x, s, at); },
                     [&](double x, reference::place const& at) { return second.apply(x, s, at); }};
      with.slot_key = tensor_view<double const, 4>(exact_key.data(), slot_key.extents);
      with.slot_value = tensor_view<double const, 4>(exact_value.data(), slot_value.extents);
      with.value_gain = [&](index_t, index_t head, index_t key) {
        return static_cast<double>(
            gains.view()(gains.extents[0] == 1 ? 0 : s.batch, gains.extents[1] == 1 ? 0 : head, s.first_key + key));
      };
      with.head_gate = [&](index_t, index_t head) {
        return static_cast<double>(gates.view()(gates.extents[0] == 1 ? 0 : s.batch, head));
      };
      normalize(with, s);
      if (auto result = agrees(tokens_of(in, s), tokens_of(got, s), with, magnification, largest_logit); !result)
        return result << " in sequence " << s.number << " of " << sequences_.size() << ", " << describe() << ", "
                      << seen.text << ", " << first.text << ", " << second.text << (extras ? ", extras" : "");
      if (!also) continue;
      if (auto result = also(tokens_of(in, s), with, s); !result)
        return result << " in sequence " << s.number << " of " << sequences_.size() << ", " << describe() << ", "
                      << seen.text << ", " << first.text << ", " << second.text << (extras ? ", extras" : "");
    }
    return padding_is_clear(got);
  }

  sizes size;
  inputs<T> in;
  // What whoever changes `in` says of it.
  bool hidden_is_poison = false;  // keys that nobody sees, and their values, become NaN and infinite
  bool is_comparable = true;      // false: with numbers whose result is not defined
  double largest_logit = 1;       // where logits are larger than those of normal numbers
  // What else is compared with the definition of each sequence: the sequence's tokens, and what is meant.
  std::function<testing::AssertionResult(inputs<T> const&, reference::options const&, placed_sequence const&)> also;

 private:
  /// Rows of keys and values that no query of a key or value head sees.
  void poison_hidden(meant_mask const& seen) {
    auto const poison = [&](tensor<T, 4>& rows, index_t heads) {
      auto const visible = [&](index_t batch, index_t row_head, index_t token) {
        index_t const group = size.query_heads / heads;
        for (placed_sequence const& s : sequences_)
          if (s.batch == batch && s.first_key <= token && token < s.first_key + s.keys)
            for (index_t head = row_head * group; head < (row_head + 1) * group; ++head)
              for (index_t query = 0; query < s.queries; ++query)
                if (seen.visible(s, {0, head, query, token - s.first_key, s.queries, s.keys})) return true;
        return false;
      };
      for (index_t batch = 0; batch < size.batches; ++batch)
        for (index_t head = 0; head < heads; ++head)
          for (index_t token = 0; token < size.keys; ++token)
            if (!visible(batch, head, token))
              for (index_t c = 0; c < rows.extents[3]; ++c)
                rows.view()(batch, head, token, c) =
                    c % 2 == 0 ? std::numeric_limits<T>::quiet_NaN() : std::numeric_limits<T>::infinity();
    };
    poison(in.key, size.key_heads);
    poison(in.value, size.value_heads);
  }

  template <class... Options>
  outputs<T> decode(Options const&... options) const {
    outputs<T> all{filled<T, 4>({size.batches, size.query_heads, size.queries, size.value_dimension}, T(7)), {}, {}};
    auto const call = [&](auto const&... wanted) {
      decode_attention(in.query.view(), in.key.view(), in.value.view(), all.output.view(), options..., wanted...);
    };
    if constexpr ((detail::is_not_softmax<Options> || ...)) {
      call();
    } else {
      all.log_sum_exp = filled<A, 3>({size.batches, size.query_heads, size.queries}, A(7));
      call(log_sum_exp(all.log_sum_exp.view()));
    }
    return all;
  }

  unsigned fresh() { return choices_.fresh(); }
  index_t shared_or(index_t extent) { return chance(0.4) ? 1 : extent; }
  std::array<index_t, 4> pair_extents() {
    return {shared_or(size.batches), shared_or(size.query_heads), shared_or(size.queries), shared_or(size.keys)};
  }

  // Temperatures of a bias of -inf must leave it there.
  template <int Rank>
  static tensor<A, Rank> const& positive(tensor<A, Rank>& tensor) {
    for (A& element : tensor.elements) element = A(0.2) + std::abs(element) / 2;
    return tensor;
  }

  template <class Value>
  meant_score bias_of(tensor<Value, 4>& tensor) {
    if (chance(0.5))
      for (Value& element : tensor.elements)
        if (chance(0.1)) element = -std::numeric_limits<Value>::infinity();
    return {
        bias(tensor.view()),
        [&tensor](double s, placed_sequence const& sequence, reference::place const& at) {
          double const added = static_cast<double>(shared_element<Value const>(
              tensor.view(), sequence.batch, at.head, sequence.first_query + at.query, sequence.first_key + at.key));
          return added == -std::numeric_limits<double>::infinity() ? added : s + added;
        },
        "bias"};
  }

  meant_mask simple_mask() {
    switch (from_to(0, 7)) {
      case 0:
        return {full{}, [](auto const&, auto const&) { return true; }, "full"};
      case 1:
        return {causal{}, [](auto const&, reference::place const& at) { return at.key <= at.position(); }, "causal"};
      case 2: {
        index_t const n = from_to(-20, 60);
        return {causal{offset(n)}, [=](auto const&, reference::place const& at) { return at.key <= at.query + n; },
                "causal offset"};
      }
      case 3: {
        index_t const left = from_to(-1, 70), right = from_to(-1, 70);
        return {window{left, right},
                [=](auto const&, reference::place const& at) {
                  return (left < 0 || at.key >= at.position() - left) && (right < 0 || at.key <= at.position() + right);
                },
                "window"};
      }
      case 4: {
        auto const& query = list(size.queries * (chance(0.5) ? 1 : size.batches), 2);
        auto const& key = list(size.keys * (chance(0.5) ? 1 : size.batches), 2);
        auto const of = [](std::vector<std::int64_t> const& numbers, index_t tokens, index_t batch, index_t token) {
          bool const shared = static_cast<index_t>(numbers.size()) == tokens;
          return numbers[static_cast<std::size_t>(shared ? token : batch * tokens + token)];
        };
        return {documents(query, key),
                [&, of, this](placed_sequence const& s, reference::place const& at) {
                  return of(query, size.queries, s.batch, s.first_query + at.query) ==
                         of(key, size.keys, s.batch, s.first_key + at.key);
                },
                "documents"};
      }
      case 5: {
        auto const& lengths = list(static_cast<index_t>(sequences_.size()), size.keys);
        auto const below = [&](placed_sequence const& s, reference::place const& at) {
          return at.key < lengths[static_cast<std::size_t>(s.number)];
        };
        if (chance(0.5)) return {key_lengths(lengths), below, "key_lengths"};
        return {prefix_lm(lengths),
                [=](auto const& s, auto const& at) { return below(s, at) || at.key <= at.position(); }, "prefix_lm"};
      }
      case 6: {
        auto const& truths = truths_.emplace_back(random_booleans<4>(pair_extents(), fresh(), real(0.05, 0.95)));
        return {boolean_mask(truths.view()),
                [&](placed_sequence const& s, reference::place const& at) {
                  return shared_element<bool const>(truths.view(), s.batch, at.head, s.first_query + at.query,
                                                    s.first_key + at.key);
                },
                "boolean_mask"};
      }
      default: {
        index_t const step = from_to(1, 40);
        return {attend::mask([=](auto const& at) {
                  return (at.query_position / step + at.key_position / step + at.head()) % 3 != 1;
                }),
                [=](auto const&, reference::place const& at) {
                  return (at.position() / step + at.key / step + at.head) % 3 != 1;
                },
                "mask"};
      }
    }
  }

  std::vector<std::int64_t> const& list(index_t count, index_t most) {
    auto& numbers = lists_.emplace_back();
    for (index_t i = 0; i < count; ++i) numbers.push_back(from_to(0, most));
    if (chance(0.5)) std::sort(numbers.begin(), numbers.end());
    return numbers;
  }

  // Around the widths of vectors, register tiles, tiles and blocks.
  index_t tokens() {
    static constexpr index_t near[] = {0,  1,  2,  3,  4,  7,  8,  9,  12,  15,  17,  23, 24,
                                       25, 31, 47, 48, 49, 63, 65, 97, 127, 128, 129, 160};
    return near[from_to(0, std::size(near) - 1)];
  }
  index_t dimension() {
    static constexpr index_t near[] = {1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 33, 40, 64, 65};
    return round_up(near[from_to(0, std::size(near) - 1)], unit_);
  }

  void choose_sizes() {
    static constexpr index_t heads[][3] = {{1, 1, 1}, {2, 1, 2}, {2, 2, 1}, {3, 3, 3},
                                           {4, 2, 2}, {6, 3, 2}, {6, 2, 3}, {5, 1, 1}};
    auto const& [query_heads, key_heads, value_heads] = heads[from_to(0, std::size(heads) - 1)];
    size = {from_to(1, 3), query_heads, key_heads, value_heads, tokens(), tokens(), dimension(), dimension()};
  }

  void choose_sequences() {
    index_t const kind = from_to(0, 3);
    packed_ = kind == 0;
    padded_ = kind == 1;
    if (packed_) {
      size.batches = 1;
      index_t const count = from_to(1, 4);
      auto const offsets = [&](index_t last) {
        std::vector<std::int64_t> cuts{0};
        for (index_t i = 1; i < count; ++i) cuts.push_back(from_to(0, last));
        cuts.push_back(last);
        std::sort(cuts.begin(), cuts.end());
        return cuts;
      };
      query_offsets_ = offsets(size.queries);
      key_offsets_ = offsets(size.keys);
      for (index_t s = 0; s < count; ++s) {
        auto const i = static_cast<std::size_t>(s);
        sequences_.push_back({s, 0, query_offsets_[i], query_offsets_[i + 1] - query_offsets_[i], key_offsets_[i],
                              key_offsets_[i + 1] - key_offsets_[i]});
      }
      return;
    }
    for (index_t b = 0; b < size.batches; ++b) {
      query_lengths_.push_back(padded_ ? from_to(0, size.queries) : size.queries);
      key_lengths_.push_back(padded_ ? from_to(0, size.keys) : size.keys);
      sequences_.push_back({b, b, 0, query_lengths_.back(), 0, key_lengths_.back()});
    }
  }

  template <class U>
  static tensor<U, 4> rows_of(tensor<U, 4> const& from, index_t batch, index_t first, index_t count,
                              index_t columns = -1) {
    if (columns < 0) columns = from.extents[3];
    tensor<U, 4> part{{1, from.extents[1], count, columns}, {}};
    for (index_t head = 0; head < from.extents[1]; ++head)
      for (index_t token = first; token < first + count; ++token)
        for (index_t c = 0; c < columns; ++c) part.elements.push_back(from.view()(batch, head, token, c));
    return part;
  }
  static inputs<T> tokens_of(inputs<T> const& all, placed_sequence const& s) {
    inputs<T> part{all.size, rows_of(all.query, s.batch, s.first_query, s.queries),
                   rows_of(all.key, s.batch, s.first_key, s.keys), rows_of(all.value, s.batch, s.first_key, s.keys)};
    part.size.batches = 1;
    part.size.queries = s.queries;
    part.size.keys = s.keys;
    return part;
  }
  static outputs<T> tokens_of(outputs<T> const& all, placed_sequence const& s) {
    outputs<T> part;
    part.output = rows_of(all.output, s.batch, s.first_query, s.queries);
    if (!all.log_sum_exp.elements.empty())
      for (index_t head = 0; head < all.output.extents[1]; ++head)
        for (index_t query = 0; query < s.queries; ++query)
          part.log_sum_exp.elements.push_back(all.log_sum_exp.view()(s.batch, head, s.first_query + query));
    if (!all.weights.elements.empty()) part.weights = rows_of(all.weights, s.batch, s.first_query, s.queries, s.keys);
    return part;
  }

  testing::AssertionResult padding_is_clear(outputs<T> const& got) const {
    for (placed_sequence const& s : sequences_)
      for (index_t head = 0; head < size.query_heads; ++head) {
        if (!got.weights.elements.empty())
          for (index_t query = 0; query < size.queries; ++query)
            for (index_t key = query < s.queries ? s.keys : 0; key < size.keys; ++key)
              if (got.weights.view()(s.batch, head, query, key) != 0)
                return testing::AssertionFailure() << "a weight of padding is not 0, " << describe();
        if (packed_) continue;
        for (index_t query = s.queries; query < size.queries; ++query) {
          for (index_t c = 0; c < size.value_dimension; ++c)
            if (static_cast<float>(got.output.view()(s.batch, head, query, c)) != 0)
              return testing::AssertionFailure() << "an output of padding is not 0, " << describe();
          if (!got.log_sum_exp.elements.empty() && got.log_sum_exp.view()(s.batch, head, query) != -infinity<A>)
            return testing::AssertionFailure() << "a log-sum-exp of padding is not -inf, " << describe();
        }
      }
    return testing::AssertionSuccess();
  }

  std::string describe() const {
    auto const& s = size;
    std::string text = packed_ ? "packed" : padded_ ? "padded" : "batched";
    for (index_t extent :
         {s.batches, s.query_heads, s.key_heads, s.value_heads, s.queries, s.keys, s.key_dimension, s.value_dimension})
      text += ' ' + std::to_string(extent);
    return text;
  }

  Choices choices_;
  index_t unit_;
  bool packed_ = false, padded_ = false;
  std::vector<std::int64_t> query_offsets_, key_offsets_, query_lengths_, key_lengths_;
  std::vector<placed_sequence> sequences_;
  // Data of policies, which only refer to it.
  std::deque<std::vector<std::int64_t>> lists_;
  std::deque<tensor<A, 1>> of_heads_;
  std::deque<tensor<A, 3>> of_rows_;
  std::deque<tensor<A, 4>> biases_;
  std::deque<tensor<bfloat16, 4>> narrow_biases_;
  std::deque<tensor<T, 4>> slots_of_;
  std::deque<boolean_tensor<4>> truths_;
};

/// `count` random problems with that normalizer, whose dimensions are multiples of `unit`.
template <class T, bool Split = false, class N>
void expect_random_combinations(unsigned first_seed, int count, N const& normalizer,
                                std::function<void(reference::options&, placed_sequence const&)> const& normalize,
                                index_t unit = 1) {
  for (int i = 0; i < count; ++i) {
    unsigned const seed = first_seed + static_cast<unsigned>(i);
    EXPECT_TRUE(random_problem<T>(seed, unit).template agrees_with<Split>(normalizer, normalize)) << "seed " << seed;
  }
}

}  // namespace attend::test
