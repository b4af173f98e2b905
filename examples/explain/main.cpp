// SPDX-License-Identifier: BSD-3-Clause
// Which characters does a decoder's next one depend on? What attention maps say, beside what happens if a character is
// blanked out. Samira Abnar and Willem Zuidema (Quantifying Attention Flow in Transformers, 2020) found that the
// weights of a high layer alone say little, and that rollout and flow through all layers say more:
//
//   blank-out    by how much the probability of the likeliest next character changes with a blank in the character's
//   place weights      the last token's row of a layer's weights, averaged over heads rollout      its row of attention
//   rollout flow         the maximum flow from it to each character
//
// The model is that of examples/generate, and the texts are pieces of one that it was not trained on. A row of the
// table is the rank correlation of a map with blanking out, over the characters but the last, averaged over texts.
//
// Exits with 0, and with 1 where rollout and flow agree less with blanking out than the weights of the last layer, or
// where a file cannot be used.
#include <attend/gradients.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../generate/decoder.hpp"
#include "../io/safetensors.hpp"

namespace {

using attend::index_t;
using numbers = std::vector<float>;

/// Attention to all tokens so far, which keeps the rotated queries and keys of each layer.
class kept_layers : public generate::layer_attention {
 public:
  explicit kept_layers(generate::decoder const& model) : model_(model) {}

  void attend(std::size_t, view const& query, view const& key, view const& value, view const& output) override {
    for (view const* rows : {&query, &key}) attend::options::rotary_embedding(*rows, model_.position(), *rows);
    attend::softmax_attention(query, key, value, output, attend::causal{});
    layers_.push_back({copy(query), copy(key)});
  }
  index_t bytes() const override { return 0; }

  std::vector<attend::systems::rollout_layer<float>> const& layers() const { return layers_; }

 private:
  /// The decoder's tensors live no longer than its step.
  attend::tensor_view<float const, 4> copy(view const& from) {
    auto const& e = from.extents();
    numbers& to = copies_.emplace_back(static_cast<std::size_t>(e[1] * e[2] * e[3]));
    view const rows(to.data(), e);
    for (index_t h = 0; h < e[1]; ++h)
      for (index_t i = 0; i < e[2]; ++i) std::copy_n(&from(0, h, i, 0), e[3], &rows(0, h, i, 0));
    return rows;
  }

  generate::decoder const& model_;
  std::vector<numbers> copies_;
  std::vector<attend::systems::rollout_layer<float>> layers_;
};

double probability(attend_io::row_vector const& logits, Eigen::Index token) {
  float const most = logits.maxCoeff();
  double sum = 0;
  for (float const x : logits) sum += std::exp(static_cast<double>(x - most));
  return std::exp(static_cast<double>(logits[token] - most)) / sum;
}

/// By how much blanking out each token but the last changes the probability of the likeliest next one.
numbers blanked_out(generate::decoder const& model, std::vector<int> tokens) {
  auto const next = [&] {
    kept_layers attention(model);
    return model.forward(tokens, attention);
  };
  attend_io::row_vector const whole = next();
  Eigen::Index likeliest = 0;
  whole.maxCoeff(&likeliest);
  int const blank = model.tokens_of(" ", 1, "blank").front();
  numbers effect;
  for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
    int const token = std::exchange(tokens[i], blank);
    double const change = probability(next(), likeliest) - probability(whole, likeliest);
    effect.push_back(static_cast<float>(std::abs(change)));
    tokens[i] = token;
  }
  return effect;
}

/// Ranks, from the least number on; equal numbers have the mean of theirs.
std::vector<double> ranks(numbers const& of) {
  std::vector<std::size_t> order(of.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return of[a] < of[b]; });
  std::vector<double> rank(of.size());
  for (std::size_t first = 0, last = 0; first < order.size(); first = last) {
    while (last < order.size() && !(of[order[first]] < of[order[last]])) ++last;
    for (std::size_t n = first; n < last; ++n) rank[order[n]] = static_cast<double>(first + last - 1) / 2;
  }
  return rank;
}

double rank_correlation(numbers const& a, numbers const& b) {
  std::vector<double> const x = ranks(a), y = ranks(b);
  double const middle = static_cast<double>(x.size() - 1) / 2;
  double both = 0, of_x = 0, of_y = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    both += (x[i] - middle) * (y[i] - middle);
    of_x += (x[i] - middle) * (x[i] - middle);
    of_y += (y[i] - middle) * (y[i] - middle);
  }
  return both / std::sqrt(std::max(of_x * of_y, 1e-9));
}

struct explanation {
  std::string name;
  numbers of_token;
};

/// What each map says of the tokens but the last: the last layer's weights, those of the layers below it, rollout,
/// flow.
std::vector<explanation> explain(generate::decoder const& model, std::vector<int> const& tokens) {
  using namespace attend::systems;
  kept_layers attention(model);
  static_cast<void>(model.forward(tokens, attention));
  auto const& layers = attention.layers();
  auto const count = static_cast<index_t>(tokens.size()), depth = static_cast<index_t>(layers.size());
  std::vector<explanation> all;
  auto const add = [&](std::string const& name, numbers row) {
    row.pop_back();
    all.push_back({name, std::move(row)});
  };
  numbers maps(static_cast<std::size_t>(depth * count * count));
  for (index_t l = depth; l-- > 0;) {
    auto const& [query, key] = layers[static_cast<std::size_t>(l)];
    index_t const heads = query.extent(1);
    numbers weights(static_cast<std::size_t>(heads * count * count)), mean(tokens.size());
    attend::tensor_view<float, 4> const pairs(weights.data(), {1, heads, count, count});
    attend::options::attention_weights(query, key, pairs, attend::causal{});
    for (index_t h = 0; h < heads; ++h)
      for (index_t j = 0; j < count; ++j)
        mean[static_cast<std::size_t>(j)] += pairs(0, h, count - 1, j) / static_cast<float>(heads);
    add("weights of layer " + std::to_string(l + 1), mean);
    residual_map(query, key,
                 attend::tensor_view<float, 3>(&maps[static_cast<std::size_t>(l * count * count)], {1, count, count}),
                 head_fusion::mean, attend::causal{});
  }
  numbers last(tokens.size()), rolled(tokens.size()), flow(tokens.size());
  last.back() = 1;
  attention_rollout_rows(layers, attend::tensor_view<float const, 3>(last.data(), {1, 1, count}),
                         attend::tensor_view<float, 3>(rolled.data(), {1, 1, count}), attend::causal{});
  add("rollout", rolled);
  attention_flow(attend::tensor_view<float const, 3>(maps.data(), {depth, count, count}),
                 std::vector<std::int64_t>{count - 1}, attend::tensor_view<float, 2>(flow.data(), {1, count}));
  add("flow", flow);
  return all;
}

}  // namespace

int main() try {
  std::filesystem::path const folder = EXPLAIN_MODEL;
  attend_io::safetensors const weights(folder / "model.safetensors");
  generate::decoder const model(weights);
  std::ifstream file(folder / "held_out.txt", std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (text.size() < 64)
    throw std::runtime_error("held_out.txt: expected a text, got " + std::to_string(text.size()) + " bytes");
  while (!text.empty() && text.back() == '\n') text.pop_back();
  index_t const length = 48;
  std::size_t const texts = 40;
  std::vector<explanation> first;
  std::vector<double> agreement;
  for (std::size_t n = 0; n < texts; ++n) {
    std::string const piece =
        text.substr(n * (text.size() - static_cast<std::size_t>(length)) / texts, static_cast<std::size_t>(length));
    std::vector<int> const tokens = model.tokens_of(piece, length, "held_out.txt");
    numbers const effect = blanked_out(model, tokens);
    std::vector<explanation> const maps = explain(model, tokens);
    agreement.resize(maps.size());
    for (std::size_t m = 0; m < maps.size(); ++m)
      agreement[m] += rank_correlation(maps[m].of_token, effect) / static_cast<double>(texts);
    if (n == 0) first = maps;
  }
  std::printf("%zu texts of %td characters\n\n%-20s %s\n", texts, length, "", "rank correlation with blanking out");
  for (std::size_t m = 0; m < first.size(); ++m) std::printf("%-20s %.3f\n", first[m].name.c_str(), agreement[m]);
  double const of_last_layer = agreement.front(), of_rollout = agreement[agreement.size() - 2];
  return of_rollout > of_last_layer && agreement.back() > of_last_layer ? 0 : 1;
} catch (std::exception const& error) {
  std::cerr << "explain: " << error.what() << '\n';
  return 1;
}
