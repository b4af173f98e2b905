// SPDX-License-Identifier: BSD-3-Clause
// A program of named parts: it runs those that its arguments name, or all of them; --quick makes their problems small.
#pragma once

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <string>

namespace attend_bench {

struct part {
  char const* name;
  void (*run)();
};

/// What main returns: 2 for an argument that is no part's name.
template <std::size_t Count>
int run_parts(int count, char** arguments, part const (&parts)[Count], bool& quick) {
  bool some = false;
  for (int i = 1; i < count; ++i) {
    std::string const wanted = arguments[i];
    if (wanted == "--quick") {
      quick = true;
      continue;
    }
    auto const found =
        std::find_if(std::begin(parts), std::end(parts), [&](part const& p) { return p.name == wanted; });
    if (found == std::end(parts)) {
      std::fprintf(stderr, "%s: expected --quick or one of", wanted.c_str());
      for (part const& p : parts) std::fprintf(stderr, " %s", p.name);
      std::fprintf(stderr, "\n");
      return 2;
    }
    some = true;
    found->run();
  }
  if (!some)
    for (part const& p : parts) p.run();
  return 0;
}

}  // namespace attend_bench
