// SPDX-License-Identifier: BSD-3-Clause
// Trains a small decoder on characters, with attend's attention and its gradient, and everything else in Eigen; and
// writes the weights, which `generate` reads, and how the loss fell: as a picture and as a table.
//
//   train [--steps N] [--layers N] [--attention softmax|linear] [--text FILE] [--seed N] [--threads N] [--out FOLDER]
//   generate --folder trained
//
// It needs no data: unless a text is given, it learns this repository's own pages and comments.
//
// Exits with 0; 1 where a file cannot be used; 2 for wrong options.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <iostream>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../bench/chart.hpp"
#include "../io/option_values.hpp"
#include "../io/table.hpp"
#include "../io/whole_file.hpp"
#include "../io/workers.hpp"
#include "attention.hpp"
#include "model_file.hpp"
#include "text.hpp"
#include "trainer.hpp"

namespace {

enum exit_code { success = 0, failure = 1, wrong_options = 2 };

constexpr char usage[] =
    "usage: train [--steps N] [--layers N] [--attention softmax|linear] [--text FILE] [--seed N] [--threads N]\n"
    "             [--out FOLDER]\n"
    "  --steps N      of four pieces of 256 characters each; unless given, 1000\n"
    "  --layers N     1 to 64; unless given, 2\n"
    "  --attention    softmax, or linear: with a state that decays; unless given, softmax\n"
    "  --text FILE    what is learned, but for its last tenth; unless given, this repository's pages and comments\n"
    "  --seed N       says with which weights training begins, and which pieces it takes; unless given, 1\n"
    "  --threads N    1 to 256; four at most have work, and the weights are the same; unless given, one\n"
    "  --out FOLDER   where loss.svg and loss.csv go, now and then, and at the end model.safetensors and "
    "held_out.txt;\n"
    "                 they replace files of these names; unless given, 'trained' in the present folder\n";

struct options {
  int steps = 1000, layers = 2, seed = 1, threads = 1;
  std::string attention = "softmax";
  std::optional<std::filesystem::path> text;
  std::filesystem::path out = "trained";
  bool help = false;
};

options parse_options(std::vector<std::string> const& arguments) {
  options result;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    std::string const& name = arguments[i];
    if (name == "--help" || name == "-h") {
      result.help = true;
      continue;
    }
    std::string const names[] = {"--steps", "--layers", "--attention", "--text", "--seed", "--threads", "--out"};
    if (std::find(std::begin(names), std::end(names), name) == std::end(names))
      throw std::invalid_argument(
          "expected --steps, --layers, --attention, --text, --seed, --threads, --out or --help, got '" + name + "'");
    if (++i == arguments.size()) throw std::invalid_argument(name + ": expected a value, got nothing");
    std::string const& value = arguments[i];
    if (name == "--steps") result.steps = attend_io::parse_number(name, value, 1, 1'000'000);
    if (name == "--layers") result.layers = attend_io::parse_number(name, value, 1, 64);
    if (name == "--seed") result.seed = attend_io::parse_number(name, value, 0, 1'000'000'000);
    if (name == "--threads") result.threads = attend_io::parse_number(name, value, 1, 256);
    if (name == "--text") result.text = value;
    if (name == "--out") result.out = value;
    if (name == "--attention") {
      if (value != "softmax" && value != "linear")
        throw std::invalid_argument(name + ": expected softmax or linear, got '" + value + "'");
      result.attention = value;
    }
  }
  return result;
}

/// How the loss fell, in nats a character: of each step, and now and then on what is held out.
struct losses {
  struct mark {
    int step;
    double trained, held_out;  // the mean of the steps since the mark before; the beginning of what is held out
  };
  std::vector<double> steps;
  std::vector<mark> marks;

  double mean_since_mark() const {
    auto const first = steps.begin() + (marks.empty() ? 0 : marks.back().step);
    double sum = 0;
    for (auto at = first; at != steps.end(); ++at) sum += *at;
    return sum / static_cast<double>(steps.end() - first);
  }

  std::string csv() const {
    attend_io::table all({"step", "loss", "held out"});
    auto next = marks.begin();
    for (std::size_t i = 0; i < steps.size(); ++i) {
      int const step = static_cast<int>(i) + 1;
      bool const marked = next != marks.end() && next->step == step;
      all.add({std::to_string(step), attend_io::fixed(steps[i], 6),
               marked ? attend_io::fixed((next++)->held_out, 6) : std::string()});
    }
    return all.csv();
  }

  std::string picture(std::string const& title) const {
    attend_bench::chart_series trained{"training, on average since the mark before", {}}, held_out{"held out", {}};
    for (mark const& at : marks) {
      std::string const step = "step " + std::to_string(at.step) + ": ";
      trained.points.push_back(
          {{static_cast<double>(at.step), at.trained}, step + attend_io::fixed(at.trained, 3) + " nats"});
      held_out.points.push_back(
          {{static_cast<double>(at.step), at.held_out}, step + attend_io::fixed(at.held_out, 3) + " nats"});
    }
    return attend_bench::as_svg({title, "steps", "nats a character", {trained, held_out}, {}});
  }
};

/// One line of the terminal, written again and again, until it is left standing.
class progress_line {
 public:
  void show(std::string const& text) {
    std::size_t const wiped = width_ - std::min(width_, text.size());
    std::cout << '\r' << text << std::string(wiped, ' ') << std::flush;
    width_ = text.size();
  }
  void leave(std::string const& text) {
    show(text);
    std::cout << '\n';
    width_ = 0;
  }

 private:
  std::size_t width_ = 0;
};

void train_and_save(options const& given) {
  using clock = std::chrono::steady_clock;
  train::decoder_shape const shape{.layers = given.layers,
                                   .width = 128,
                                   .feed_forward = 192,
                                   .query_heads = 4,
                                   .key_value_heads = 2,
                                   .head_dimension = 32,
                                   .context = 256};
  train::texts const text = given.text ? train::texts_of_file(*given.text) : train::repository_texts(ATTEND_REPOSITORY);
  auto const context = static_cast<std::size_t>(shape.context);
  if (text.held_out.size() < context || text.trained.size() <= context)
    throw std::runtime_error(given.text.value_or(ATTEND_REPOSITORY).string() + ": expected at least " +
                             std::to_string(10 * context) + " characters that the model knows, got " +
                             std::to_string(text.held_out.size() + text.trained.size()));
  std::filesystem::create_directories(given.out);

  attend_io::workers threads(given.threads);
  train::trainer<float> trainer(
      shape, static_cast<train::Index>(train::characters().size()),
      [&] { return train::make_attention<float>(given.attention, shape); }, train::tokens_of(text.trained),
      static_cast<std::uint64_t>(given.seed), threads);
  std::string const what = std::to_string(trainer.of().numbers.size()) + " weights, " + given.attention + " attention";
  std::cout << what << ", " << text.trained.size() << " characters to learn, " << text.held_out.size() << " held out\n";

  std::vector<int> const scored = train::tokens_of(std::string_view(text.held_out).substr(0, train::scored_characters));
  int const characters_of_step = static_cast<int>(train::pieces_of_step * shape.context);
  losses fell;
  progress_line line;
  double seconds = 0, shown = 0, per_second = 0;
  int next_mark = 1;
  for (int step = 0; step < given.steps; ++step) {
    auto const start = clock::now();
    fell.steps.push_back(trainer.step(train::rate_at(step, given.steps)));
    seconds += std::chrono::duration<double>(clock::now() - start).count();
    int const done = step + 1;
    per_second = characters_of_step * done / seconds;
    std::string text_of_step = "step " + std::to_string(done) + " of " + std::to_string(given.steps) + "   loss " +
                               attend_io::fixed(fell.mean_since_mark(), 3);
    double const blink = .2;  // seconds
    if (bool const last = done == given.steps; done == next_mark || last) {
      double const held_out = trainer.loss(trainer.log_likelihoods(scored));
      fell.marks.push_back({done, fell.mean_since_mark(), held_out});
      line.leave(text_of_step + ", held out " + attend_io::fixed(held_out, 3));
      // Who interrupts this has the losses so far, and a folder that cannot be written is not found out at the end.
      attend_io::write_whole(given.out / "loss.csv", fell.csv());
      attend_io::write_whole(given.out / "loss.svg", fell.picture("Training a decoder: " + what));
      next_mark = std::max(done + 1, done * 5 / 4);  // as far apart in the picture, which has logarithmic axes
    } else if (seconds > shown + blink) {
      shown = seconds;
      line.show(text_of_step + ", " + attend_io::fixed(per_second, 0) + " characters/s, " +
                attend_io::fixed(seconds / done * (given.steps - done), 0) + " s left");
    }
  }

  double const loss = train::save_model(given.out, trainer, shape, given.attention, text);
  std::cout << attend_io::fixed(loss, 3) << " nats a held-out character, " << attend_io::fixed(per_second, 0)
            << " characters/s while training; weights and losses are in " << given.out.string() << '\n';
}

}  // namespace

int main(int argument_count, char** arguments) {
  options given;
  try {
    given = parse_options({arguments + 1, arguments + argument_count});
  } catch (std::invalid_argument const& error) {
    std::cerr << "train: " << error.what() << '\n' << usage;
    return wrong_options;
  }
  if (given.help) {
    std::cout << usage;
    return success;
  }
  try {
    train_and_save(given);
    return success;
  } catch (std::exception const& error) {
    std::cerr << "train: " << error.what() << '\n';
    return failure;
  }
}
