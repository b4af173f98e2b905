// SPDX-License-Identifier: BSD-3-Clause
// A picture of measured points over two logarithmic axes, as an SVG of its own: no script, no other file, text as text,
// in the reader's light or dark colours. It is a file, or a part of a page.
#pragma once

#include <string>
#include <vector>

namespace attend_bench {

/// A place on the axes, both of them positive: a point that has no place there is left out of the picture.
struct chart_place {
  double x, y;
};

struct chart_point {
  chart_place at;
  std::string name;  // shown when the point is pointed at, and beside it where the picture names its points
};

/// Points of one colour and mark.
struct chart_series {
  std::string name;
  std::vector<chart_point> points;
};

/// What no point can be beyond: a dashed line through these places.
struct chart_limit {
  std::string name;
  std::vector<chart_place> line;
  chart_place shown;  // a place on the line that the axes take in, whatever the points are
};

struct chart {
  std::string title, x_label, y_label;  // the labels with their units
  std::vector<chart_series> series;     // where names have no room, those of earlier series win
  std::vector<chart_limit> limits;
  bool names_points = false;
  std::string note = {};  // a line below the title
};

std::string as_svg(chart const& what);

/// A text within XML: its characters that would be taken for marks are written in another way.
std::string escaped(std::string const& words);

}  // namespace attend_bench
