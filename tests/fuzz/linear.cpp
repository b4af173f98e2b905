// SPDX-License-Identifier: BSD-3-Clause
// Random calls of linear attention: bytes choose a decay and an update, shapes, strides, kinds of numbers, threads, the
// length of chunks, the caller's floating-point mode, and a mistake. A state comes in and one goes out.
// Outputs and states are those of the recurrence; threads and the mode change no bits, and nothing else is written; a
// mistake is an argument_error, and nothing at all is written.
#include <attend/policy/feature/elu.hpp>

#include "placed.hpp"
#include "support/caller_modes.hpp"
#include "support/choices.hpp"
#include "support/linear_problem.hpp"

namespace attend::test {
using namespace linear;

namespace {

class random_linear_call {
 public:
  explicit random_linear_call(byte_choices& choices)
      : choices_(choices), in_(sizes(choices), choices.fresh(), choices.real(0, 2)) {
    choose_numbers();
  }

  void run() {
    switch (choices_.from_to(0, 2)) {
      case 0:
        with_.update = reference::state_update::delta;
        with_.rate = in_.by_token(in_.rates);
        with_.log_decay = in_.token_logs();
        return attend_with<false>(delta_rule(in_.rates.view()), token_decay(in_.token_decays.view()));
      case 1:
        with_.rate = in_.by_token(in_.rates);
        with_.log_decay = in_.key_logs();
        return attend_with<false>(input_gates(in_.rates.view()), feature_decay(in_.key_decays.view()));
      default:
        // Sums of positive keys are far from 0, as the formula wants it.
        for (float& x : in_.state.elements) x = std::abs(x);
        with_.divisor = reference::state_divisor::key_sum;
        with_.epsilon = 0.5;
        with_.features = [](std::vector<double> row, bool, index_t, index_t, index_t) {
          for (double& x : row) x = x > 0 ? x + 1 : std::exp(x);
          return row;
        };
        with_.log_decay = in_.head_logs();
        return attend_with<true>(elu_features{}, key_sum{0.5}, head_decay(in_.head_decays.view()));
    }
  }

 private:
  using rows = placed<float, 4>;
  using sums = placed<float, 3>;

  static linear_sizes sizes(byte_choices& choices) {
    static constexpr index_t heads[][3] = {{1, 1, 1}, {4, 2, 2}, {2, 2, 6}, {3, 1, 3}, {6, 3, 1}};
    auto const& [query_heads, key_heads, value_heads] = heads[choices.from_to(0, 4)];
    index_t const keys = choices.from_to(0, 1) ? choices.from_to(0, 6) : choices.from_to(0, 140);
    return {choices.from_to(0, 3),  query_heads,           key_heads, value_heads, choices.from_to(0, keys), keys,
            choices.from_to(0, 40), choices.from_to(0, 70)};
  }

  void choose_numbers() {
    auto const scale = [](tensor<float, 4>& all, float factor) {
      for (float& x : all.elements) x *= factor;
    };
    switch (choices_.from_to(0, 5)) {
      case 0:
        scale(in_.query, static_cast<float>(std::exp2(choices_.from_to(-140, 10))));
        break;
      case 1:
        scale(in_.value, static_cast<float>(std::exp2(choices_.from_to(-140, 10))));
        scale(in_.state, static_cast<float>(std::exp2(choices_.from_to(-140, 10))));
        break;
      case 2:  // a zero tail, and decays that forget all
        std::fill(in_.key.elements.begin() + static_cast<std::ptrdiff_t>(in_.key.elements.size() / 2),
                  in_.key.elements.end(), 0.f);
        for (auto* decays : {&in_.token_decays.elements, &in_.key_decays.elements, &in_.head_decays.elements})
          for (std::size_t i = 0; i < decays->size(); i += 3) (*decays)[i] = -200;
        break;
      case 3:
        for (auto* decays : {&in_.token_decays.elements, &in_.key_decays.elements, &in_.head_decays.elements})
          std::fill(decays->begin(), decays->end(), 0.f);
        break;
      default:
        break;
    }
  }

  template <bool SumsKeys, class... Options>
  void attend_with(Options const&... options) {
    linear_sizes const& s = in_.size;
    rows query(in_.query.extents, choices_), key(in_.key.extents, choices_), value(in_.value.extents, choices_);
    query.write(in_.query);
    key.write(in_.key);
    value.write(in_.value);
    with_.scale = choices_.real(0.1, 2);
    with_.causal = choices_.chance(0.7);
    std::array<index_t, 4> const extents{s.batches, s.output_heads(), s.queries, s.value_dimension};
    auto const call = [&](auto const& q, auto const& k, auto const& v, auto const& output, auto const& state,
                          auto const& key_sum, int threads_wanted, chunk_length chunk) {
      auto const with_states = [&](auto const&... more) {
        if constexpr (SumsKeys)
          linear_attention(q, k, v, output, options..., scale(with_.scale), chunk, threads{threads_wanted},
                           initial_state(in_.state.view(), in_.key_sum.view()), final_state(state, key_sum), more...);
        else
          linear_attention(q, k, v, output, options..., scale(with_.scale), chunk, threads{threads_wanted},
                           initial_state(in_.state.view()), final_state(state), more...);
      };
      with_.causal ? with_states(causal{}) : with_states();
    };
    chunk_length const chunk(choices_.chance(0.5) ? choices_.from_to(1, 255) : 64);
    auto const read = [](rows const& from) { return from.view(); };
    rows output(extents, choices_), again(extents, choices_);
    rows state(in_.state.extents, choices_), state_again(in_.state.extents, choices_);
    sums key_sum(in_.key_sum.extents, choices_), key_sum_again(in_.key_sum.extents, choices_);

    if (choices_.chance(0.15)) {
      expect_mistake([&](int which, auto const& change) {
        call(which == 0 ? change(read(query)) : read(query), which == 1 ? change(read(key)) : read(key),
             which == 2 ? change(read(value)) : read(value), which == 3 ? change(output.view()) : output.view(),
             which == 4 ? change(state.view()) : state.view(), key_sum.view(), 1, chunk);
      });
      require(output.is_untouched() && state.is_untouched() && key_sum.is_untouched(),
              "something was written before a mistake was refused");
    }

    auto const modes = caller_modes();
    caller_mode const& mode =
        modes[static_cast<std::size_t>(choices_.from_to(0, static_cast<index_t>(modes.size()) - 1))];
    // What the mode must not change is prepared before.
    int const many = static_cast<int>(choices_.from_to(1, 3));
    mode_bits after = 0;
    {
      in_mode const there(mode.bits);
      call(read(query), read(key), read(value), output.view(), state.view(), key_sum.view(), many, chunk);
      after = attend::detail::floating_point::read();
    }
    require(after == mode.bits, std::string("the caller's mode is another one after: ") + mode.name);
    call(read(query), read(key), read(value), again.view(), state_again.view(), key_sum_again.view(), 1, chunk);

    linear_outputs<float> const all{output.read(), state.read(), key_sum.read()};
    auto const same = [](auto const& a, auto const& b) {
      return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0);
    };
    require(same(all.output.elements, again.read().elements) && same(all.state.elements, state_again.read().elements) &&
                same(all.key_sum.elements, key_sum_again.read().elements),
            "threads or the mode change the bits");
    require(output.is_untouched_around() && state.is_untouched_around() && key_sum.is_untouched_around() &&
                (SumsKeys || key_sum.is_untouched()),
            "something was written beside the outputs");
    require(same(query.read().elements, in_.query.elements) && same(key.read().elements, in_.key.elements) &&
                same(value.read().elements, in_.value.elements),
            "an input was written");
    auto const result = agrees(in_, all, with_);
    require(static_cast<bool>(result), result.message());
  }

  template <class Call>
  void expect_mistake(Call const& call) {
    int const which = static_cast<int>(choices_.from_to(0, 4));
    index_t const axis = choices_.from_to(0, 3), kind = choices_.from_to(0, 2);
    bool refused = false;
    try {
      call(which, [&](auto const& view) {
        auto changed = view.extents();
        index_t& extent = changed[static_cast<std::size_t>(axis)];
        // Heads may be any that divide those of others, of which there are at most 6.
        extent = kind == 0 ? -extent - 1 : kind == 1 ? std::numeric_limits<index_t>::max() : extent + 7;
        return std::remove_cvref_t<decltype(view)>(view.data(), changed, view.strides());
      });
    } catch (argument_error const&) {
      refused = true;
    }
    require(refused, "a mistake was not refused");
  }

  byte_choices& choices_;
  linear_inputs<float> in_;
  reference::linear_options with_;
};

}  // namespace
}  // namespace attend::test

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  attend::test::byte_choices choices({data, size});
  attend::test::random_linear_call(choices).run();
  return 0;
}
