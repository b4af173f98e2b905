// SPDX-License-Identifier: BSD-3-Clause
// Random calls of softmax attention, tiled and split, over batches, padded and packed sequences, in ATTEND_FUZZED:
// bytes choose what engine/random_combinations.hpp chooses, and besides strides, shared axes, kinds of numbers, the
// caller's floating-point mode, and a mistake. The result is that of the definition, has the same bits on any number of
// threads, and nothing else is written; a mistake is an argument_error, and nothing at all is written.
#include <attend/policy/normalizer/sinks.hpp>

#include "engine/random_combinations.hpp"
#include "placed.hpp"
#include "support/caller_modes.hpp"

namespace attend::test {
using namespace options;
using namespace extend;

namespace {

template <class T>
class random_call {
 public:
  using A = accumulation_t<T>;
  using problem = random_problem<T, byte_choices>;

  explicit random_call(problem& p) : p_(p) { choose_numbers(); }

  void run() {
    double const sink = p_.chance(0.3) ? p_.real(-3, 3) : -infinity<double>;
    auto const normalize = [sink](reference::options& with, placed_sequence const&) {
      with.sink = [sink](index_t) { return sink; };
    };
    sinks const normalizer(sink);
    auto const result =
        p_.chance(0.4) ? p_.template agrees_with<true>(normalizer, normalize,
                                                       [&](auto const&... options) { return attend<true>(options...); })
                       : p_.template agrees_with<false>(
                             normalizer, normalize, [&](auto const&... options) { return attend<false>(options...); });
    require(static_cast<bool>(result), result.message());
  }

 private:
  using written = placed<T, 4>;

  void choose_numbers() {
    auto const scale = [&](tensor<T, 4>& rows, double factor) {
      for (T& x : rows.elements) x = static_cast<T>(static_cast<double>(x) * factor);
    };
    switch (p_.from_to(0, 8)) {
      case 0: {  // peaked
        double const factor = p_.real(1, 40);
        scale(p_.in.query, factor);
        scale(p_.in.key, factor);
        break;
      }
      case 1: {  // small, tiny, subnormal
        double const factor = std::exp2(p_.from_to(-140, 0));
        scale(p_.in.query, factor);
        scale(p_.in.key, factor);
        scale(p_.in.value, factor);
        break;
      }
      case 2:
        p_.in.key = of_all_sizes<T, 4>(p_.in.key.extents, 1);
        p_.in.value = of_all_sizes<T, 4>(p_.in.value.extents, 2);
        break;
      case 3:
        p_.hidden_is_poison = true;
        break;
      case 4: {  // anywhere: only that nothing breaks
        p_.is_comparable = false;
        T const not_numbers[] = {std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity(),
                                 -std::numeric_limits<T>::infinity(), std::numeric_limits<T>::max()};
        for (auto* rows : {&p_.in.query, &p_.in.key, &p_.in.value})
          for (T& x : rows->elements)
            if (p_.chance(0.02)) x = not_numbers[p_.from_to(0, 3)];
        break;
      }
      default:
        break;
    }
    if (!p_.hidden_is_poison)
      for (index_t axis : {0, 1}) {
        shared_[static_cast<std::size_t>(axis)] = p_.chance(0.2);
        if (shared_[static_cast<std::size_t>(axis)]) share(p_.in.key, axis), share(p_.in.value, axis);
      }
    // Two temperatures of at most 2.7, and what other scores add.
    double const query = largest_magnitude(p_.in.query.elements), key = largest_magnitude(p_.in.key.elements);
    if (query > 6 || key > 6)
      p_.largest_logit = 8 * std::max(1.0, 0.8 * query * key * static_cast<double>(p_.size.key_dimension));
  }

  /// The elements at index 0 of that axis, at all its indices.
  static void share(tensor<T, 4>& rows, index_t axis) {
    auto const view = rows.view();
    auto const& [batches, heads, tokens, dimension] = rows.extents;
    for (index_t b = 0; b < batches; ++b)
      for (index_t h = 0; h < heads; ++h)
        for (index_t t = 0; t < tokens; ++t)
          for (index_t c = 0; c < dimension; ++c) view(b, h, t, c) = axis == 0 ? view(0, h, t, c) : view(b, 0, t, c);
  }

  template <bool Split, class... Arguments>
  static void call(Arguments const&... arguments) {
    if constexpr (Split)
      decode_attention(arguments...);
    else
      softmax_attention(arguments...);
  }

  template <class Option>
  static Option alone(Option const& option) {
    return option;
  }
  static threads alone(threads const&) { return {1}; }

  template <bool Split, class... Options>
  outputs<T> attend(Options const&... options) {
    constexpr bool packed = (std::same_as<Options, ragged> || ...);
    sizes const& s = p_.size;
    written query(p_.in.query.extents, p_), key(p_.in.key.extents, shared_, p_),
        value(p_.in.value.extents, shared_, p_);
    query.write(p_.in.query);
    key.write(p_.in.key);
    value.write(p_.in.value);
    auto const read = [](written const& from) { return std::as_const(from).view(); };
    std::array<index_t, 4> const extents{s.batches, s.query_heads, s.queries, s.value_dimension};

    if (p_.chance(0.15)) {
      written output(extents, p_);
      expect_mistake<Split>(read(query), read(key), read(value), output, options...);
    }

    auto const modes = caller_modes();
    caller_mode const& mode = modes[static_cast<std::size_t>(p_.from_to(0, static_cast<index_t>(modes.size()) - 1))];
    mode_bits after = 0;
    written output(extents, p_), again(extents, p_);
    placed<A, 3> rows({s.batches, s.query_heads, s.queries}, p_);
    placed<A, 4> pairs({s.batches, s.query_heads, s.queries, packed ? 0 : s.keys}, p_);
    {
      in_mode const there(mode.bits);
      log_sum_exp const wanted(rows.view());
      if constexpr (packed)
        call<Split>(read(query), read(key), read(value), output.view(), options..., wanted);
      else
        call<Split>(read(query), read(key), read(value), output.view(), options..., wanted, weights(pairs.view()));
      after = attend::detail::floating_point::read();
    }
    require(after == mode.bits, std::string("the caller's mode is another one after: ") + mode.name);
    call<Split>(read(query), read(key), read(value), again.view(), alone(options)...);

    outputs<T> all{output.read(), rows.read(), {}};
    if constexpr (!packed) all.weights = pairs.read();
    require(same_bits(all.output.elements, again.read().elements),
            "threads, the mode, or asking for more outputs changes the bits");
    require(output.is_untouched_around() && again.is_untouched_around() && rows.is_untouched_around() &&
                pairs.is_untouched_around(),
            "something was written beside the outputs");
    require(same_bits(query.read().elements, p_.in.query.elements) &&
                same_bits(key.read().elements, p_.in.key.elements) &&
                same_bits(value.read().elements, p_.in.value.elements) && query.is_untouched_around() &&
                key.is_untouched_around() && value.is_untouched_around(),
            "an input was written");
    return all;
  }

  template <bool Split, class... Options>
  void expect_mistake(tensor_view<T const, 4> query, tensor_view<T const, 4> key, tensor_view<T const, 4> value,
                      written& output, Options const&... options) {
    tensor_view<T, 4> wrong_output = output.view();
    auto const changed = [&](auto& view) {
      auto view_extents = view.extents(), view_strides = view.strides();
      index_t const axis = p_.from_to(0, 3);
      index_t& extent = view_extents[static_cast<std::size_t>(axis)];
      switch (p_.from_to(0, 3)) {
        case 0:
          extent = -extent - 1;
          break;
        case 1:
          extent = std::numeric_limits<index_t>::max() - p_.from_to(0, 3);
          break;
        case 2:
          view_strides[3] = view_extents[3] > 1 ? 2 : 1;
          // Heads of keys and values may be any that divide those of queries, of which there are at most 6.
          view_extents[static_cast<std::size_t>(axis)] += axis == 1 ? 7 : 1;
          break;
        default:
          extent += axis == 1 ? 7 : 1;
      }
      view = std::remove_reference_t<decltype(view)>(view.data(), view_extents, view_strides);
    };
    bool const in_sequences = p_.chance(0.3);
    if (!in_sequences) {
      switch (p_.from_to(0, 3)) {
        case 0:
          changed(query);
          break;
        case 1:
          changed(key);
          break;
        case 2:
          changed(value);
          break;
        default:
          changed(wrong_output);
      }
    }
    bool refused = false;
    try {
      if (in_sequences)
        call<Split>(query, key, value, wrong_output, with_mistake(options)...);
      else
        call<Split>(query, key, value, wrong_output, options...);
    } catch (argument_error const&) {
      refused = true;
    }
    require(refused, "a mistake was not refused");
    require(output.is_untouched(), "something was written before a mistake was refused");
  }

  template <class Option>
  Option with_mistake(Option const& option) {
    return option;
  }
  padded with_mistake(padded const& option) {
    wrong_ = numbers_of(option.key_lengths);
    make_mistake(p_.size.keys + 1);
    return option.query_lengths ? padded(*option.query_lengths, wrong_) : padded_keys(wrong_);
  }
  ragged with_mistake(ragged const& option) {
    wrong_ = numbers_of(option.key_offsets);
    make_mistake(p_.size.keys + 1);
    return ragged(option.query_offsets, wrong_);
  }
  static std::vector<std::int64_t> numbers_of(index_list const& list) {
    std::vector<std::int64_t> numbers;
    for (index_t i = 0; i < list.size(); ++i) numbers.push_back(list[i]);
    return numbers;
  }
  void make_mistake(std::int64_t too_much) {
    auto const at = static_cast<std::size_t>(p_.from_to(0, static_cast<index_t>(wrong_.size()) - 1));
    switch (p_.from_to(0, 3)) {
      case 0:
        wrong_[at] = -1;
        break;
      case 1:
        wrong_[at] = too_much;
        break;
      case 2:
        wrong_[at] = std::numeric_limits<std::int64_t>::max();
        break;
      default:
        wrong_.push_back(too_much);
    }
  }

  problem& p_;
  std::array<index_t, 4> shared_{};
  std::vector<std::int64_t> wrong_;
};

}  // namespace
}  // namespace attend::test

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  using namespace attend;
  test::random_problem<ATTEND_FUZZED, test::byte_choices> problem(test::byte_choices({data, size}), 1);
  test::random_call<ATTEND_FUZZED>(problem).run();
  return 0;
}
