// SPDX-License-Identifier: BSD-3-Clause
#include "chart.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>

#include "text_table.hpp"

namespace attend_bench {
namespace {

// In pixels. A character is taken to be as wide as wide digits are, so that a name has room in any font.
constexpr double width = 860, left = 64, right = 24, top = 88, plot_height = 380, legend_top = 62, line_height = 20;
constexpr double plot_width = width - left - right, character_width = 6.6, mark_radius = 4;

// Colours that are told apart on white and on black.
constexpr char const* colours[] = {"#2f7fc4", "#d9661f", "#1f9e77", "#b05fc4",
                                   "#b8860b", "#d6456b", "#768694", "#2f93a8"};
constexpr char const* style =
    "<style>"
    ".chart{font:12px system-ui,sans-serif}"
    ".chart text{fill:#24292f}.chart .title{font-size:15px;font-weight:600}"
    ".chart .paper{fill:#fff}.chart .grid{stroke:#d8dee4}.chart .limit{stroke:#24292f;stroke-dasharray:6 4;fill:none}"
    "@media(prefers-color-scheme:dark){"
    ".chart text{fill:#e6edf3}.chart .paper{fill:#14181d}.chart .grid{stroke:#363d45}.chart .limit{stroke:#e6edf3}}"
    "</style>\n";

std::string pixels(double x) { return text("%.1f", x); }

bool has_place(chart_place const& at) { return at.x > 0 && at.y > 0 && std::isfinite(at.x) && std::isfinite(at.y); }

/// A logarithmic axis from `low` to `high`, which lie at two pixels.
class axis {
 public:
  axis(std::vector<double> const& numbers, double at_low, double at_high) : at_low_(at_low), at_high_(at_high) {
    constexpr double margin = 1.3, least_ratio = 4;
    auto const [least, most] = std::minmax_element(numbers.begin(), numbers.end());
    low_ = numbers.empty() ? 1 : *least / margin;
    high_ = numbers.empty() ? 1 : *most * margin;
    double const widen = std::max(1.0, std::sqrt(least_ratio * low_ / high_));
    low_ /= widen;
    high_ *= widen;
  }

  double pixel_of(double number) const {
    return at_low_ + (at_high_ - at_low_) * std::log(number / low_) / std::log(high_ / low_);
  }

  /// Powers of ten; where these are few, twice and five times them too.
  std::vector<double> ticks() const {
    bool const few = std::log10(high_ / low_) < 3;
    std::vector<double> all;
    for (int power = static_cast<int>(std::floor(std::log10(low_))); std::pow(10.0, power) <= high_; ++power)
      for (double const factor : {1.0, 2.0, 5.0}) {
        double const number = factor * std::pow(10.0, power);
        if ((few || factor == 1) && number >= low_ && number <= high_) all.push_back(number);
      }
    return all;
  }

 private:
  double low_, high_, at_low_, at_high_;
};

std::string tick_text(double number) { return text(number < 1e-3 || number >= 1e6 ? "%.0e" : "%g", number); }

std::string element(std::string const& name, std::string const& attributes, std::string const& content) {
  return '<' + name + ' ' + attributes + '>' + content + "</" + name + ">\n";
}

std::string text_at(double x, double y, std::string const& words, std::string const& more = "") {
  return element("text", "x=\"" + pixels(x) + "\" y=\"" + pixels(y) + '"' + more, escaped(words));
}

std::string line_between(double x0, double y0, double x1, double y1) {
  return "<path class=\"grid\" d=\"M" + pixels(x0) + ' ' + pixels(y0) + 'L' + pixels(x1) + ' ' + pixels(y1) + "\"/>\n";
}

/// The mark of a series at a pixel: colours first, then other shapes.
std::string mark(std::size_t series, double x, double y, std::string const& name) {
  std::size_t const kinds = std::size(colours);
  std::string const place = 'M' + pixels(x) + ' ' + pixels(y);
  char const* const shapes[] = {"m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", "m-4 -4h8v8h-8z", "m0 -5l5 9h-10z",
                                "m0 -5l5 5l-5 5l-5 -5z"};
  return element("path",
                 std::string("fill=\"") + colours[series % kinds] + "\" d=\"" + place +
                     shapes[(series + series / kinds) % std::size(shapes)] + '"',
                 name.empty() ? "" : "<title>" + escaped(name) + "</title>");
}

struct box {
  double x0, y0, x1, y1;

  bool meets(box const& other) const { return x0 < other.x1 && other.x0 < x1 && y0 < other.y1 && other.y0 < y1; }
  bool is_within(box const& other) const {
    return x0 >= other.x0 && x1 <= other.x1 && y0 >= other.y0 && y1 <= other.y1;
  }
};

/// Names beside points: each where it meets neither a point nor another name, or not at all.
class labels {
 public:
  void avoid(double x, double y) {
    taken_.push_back({x - mark_radius, y - mark_radius, x + mark_radius, y + mark_radius});
  }

  std::string place(double x, double y, std::string const& name) {
    constexpr double away = mark_radius + 2, ascent = 9, descent = 3;
    double const length = character_width * static_cast<double>(name.size());
    struct candidate {
      double begin, baseline;
    };
    candidate const candidates[] = {{x + away, y + 4},
                                    {x - away - length, y + 4},
                                    {x - length / 2, y - away - descent},
                                    {x - length / 2, y + away + ascent}};
    for (candidate const& at : candidates) {
      box const room = {at.begin, at.baseline - ascent, at.begin + length, at.baseline + descent};
      if (!room.is_within(plot) ||
          std::any_of(taken_.begin(), taken_.end(), [&](box const& b) { return b.meets(room); }))
        continue;
      taken_.push_back(room);
      return text_at(at.begin, at.baseline, name);
    }
    return {};
  }

 private:
  static constexpr box plot = {left, top, left + plot_width, top + plot_height};
  std::vector<box> taken_;
};

std::string axes_of(chart const& what, axis const& x, axis const& y) {
  double const bottom = top + plot_height;
  std::string svg;
  for (double const number : x.ticks()) {
    svg += line_between(x.pixel_of(number), top, x.pixel_of(number), bottom);
    svg += text_at(x.pixel_of(number), bottom + 18, tick_text(number), " text-anchor=\"middle\"");
  }
  for (double const number : y.ticks()) {
    svg += line_between(left, y.pixel_of(number), left + plot_width, y.pixel_of(number));
    svg += text_at(left - 8, y.pixel_of(number) + 4, tick_text(number), " text-anchor=\"end\"");
  }
  svg += text_at(left, top - 12, what.y_label);
  return svg + text_at(left + plot_width, bottom + 36, what.x_label, " text-anchor=\"end\"");
}

std::string limit_path(chart_limit const& limit, axis const& x, axis const& y) {
  std::string path;
  for (chart_place const& at : limit.line)
    path += (path.empty() ? 'M' : 'L') + pixels(x.pixel_of(at.x)) + ' ' + pixels(y.pixel_of(at.y));
  return "<path class=\"limit\" d=\"" + path + "\"/>\n";
}

/// What colours and lines mean, in columns below the plot; and how high that is.
std::pair<std::string, double> legend_of(chart const& what) {
  std::size_t longest = 1;
  for (auto const& series : what.series) longest = std::max(longest, series.name.size());
  for (auto const& limit : what.limits) longest = std::max(longest, limit.name.size());
  double const column = 44 + character_width * static_cast<double>(longest);
  std::size_t const columns = std::max<std::size_t>(1, static_cast<std::size_t>(plot_width / column));
  std::size_t count = 0;
  std::string svg;
  auto const next = [&] {
    std::size_t const row = count / columns, place_of_row = count % columns;
    ++count;
    return chart_place{left + column * static_cast<double>(place_of_row),
                       top + plot_height + legend_top + line_height * static_cast<double>(row)};
  };
  for (auto const& limit : what.limits) {
    chart_place const at = next();
    svg += "<path class=\"limit\" d=\"M" + pixels(at.x) + ' ' + pixels(at.y) + "h24\"/>\n" +
           text_at(at.x + 32, at.y + 4, limit.name);
  }
  for (std::size_t i = 0; i < what.series.size(); ++i) {
    chart_place const at = next();
    svg += mark(i, at.x + 12, at.y, "") + text_at(at.x + 32, at.y + 4, what.series[i].name);
  }
  std::size_t const rows = (count + columns - 1) / columns;
  return {svg, line_height * static_cast<double>(rows)};
}

}  // namespace

std::string escaped(std::string const& words) {
  std::string result;
  for (char const letter : words) switch (letter) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += letter;
    }
  return result;
}

std::string as_svg(chart const& what) {
  std::vector<double> xs, ys;
  auto const take_in = [&](chart_place const& at) {
    if (!has_place(at)) return;
    xs.push_back(at.x);
    ys.push_back(at.y);
  };
  for (auto const& series : what.series)
    for (auto const& point : series.points) take_in(point.at);
  for (auto const& limit : what.limits) take_in(limit.shown);
  axis const x(xs, left, left + plot_width), y(ys, top + plot_height, top);

  std::string marks, names;
  for (auto const& limit : what.limits) marks += limit_path(limit, x, y);
  labels named;
  for (bool const is_naming : {false, true})
    for (std::size_t i = 0; i < what.series.size(); ++i)
      for (auto const& point : what.series[i].points) {
        if (!has_place(point.at)) continue;
        double const px = x.pixel_of(point.at.x), py = y.pixel_of(point.at.y);
        if (!is_naming) {
          named.avoid(px, py);
          marks += mark(i, px, py, point.name);
        } else if (what.names_points) {
          names += named.place(px, py, point.name);
        }
      }

  auto const [legend, legend_height] = legend_of(what);
  double const height = top + plot_height + legend_top + legend_height;
  auto const rectangle = [](double x0, double y0, double w, double h) {
    return pixels(x0) + ' ' + pixels(y0) + ' ' + pixels(w) + ' ' + pixels(h);
  };
  // An svg within the svg cuts off what is outside of the axes.
  return "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" width=\"" + pixels(width) + "\" height=\"" +
         pixels(height) + "\" viewBox=\"" + rectangle(0, 0, width, height) + "\" role=\"img\" aria-label=\"" +
         escaped(what.title) + "\">\n" + style + "<path class=\"paper\" d=\"M0 0h" + pixels(width) + 'v' +
         pixels(height) + "H0z\"/>\n" + text_at(left, 26, what.title, " class=\"title\"") +
         text_at(left, 46, what.note) + axes_of(what, x, y) + "<svg x=\"" + pixels(left) + "\" y=\"" + pixels(top) +
         "\" width=\"" + pixels(plot_width) + "\" height=\"" + pixels(plot_height) + "\" viewBox=\"" +
         rectangle(left, top, plot_width, plot_height) + "\">\n" + marks + "</svg>\n" + names + legend + "</svg>\n";
}

}  // namespace attend_bench
