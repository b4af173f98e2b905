# SPDX-License-Identifier: BSD-3-Clause
"""Draws what attend_compare --select and --cache measured: a line for each selector over its budgets.

    attend_compare --select --cache --csv selection.csv
    python plot_selection.py selection.csv selection.png                              error against time
    python plot_selection.py selection.csv selection.png fraction_of_bytes recall     other columns of the table

One picture for each input and phase; dashed lines are attention to all keys. Needs matplotlib.
"""

import csv
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator


LABELS = {
    "milliseconds": "time (ms)",
    "error": "error",
    "recall": "share of the attention mass",
    "budget": "budget, of the keys",
    "keys_fraction": "share of the keys",
    "fraction_of_bytes": "bytes read, of dense attention's",
}


def read(path, x, y):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    panels = {}
    for row in rows:
        # A system that does not tell what it chose has no such number.
        if row[x] and row[y]:
            lines = panels.setdefault((row["input"], row["phase"]), {})
            lines.setdefault(row["selector"], []).append((float(row[x]), float(row[y])))
    return panels


def draw(panels, x, y, path):
    phases = sorted({phase for _, phase in panels})
    inputs = list(dict.fromkeys(name for name, _ in panels))
    figure, axes = plt.subplots(len(phases), len(inputs), figsize=(5 * len(inputs), 4.5 * len(phases)), squeeze=False)
    for i, phase in enumerate(phases):
        names = list(dict.fromkeys(n for name in inputs for n in panels.get((name, phase), {})))
        chosen = [name for name in names if not name.startswith("dense")]
        # Ten colours, told apart further by the marks.
        style = {name: (f"C{k % 10}", "osv^D*"[k // 10 % 6]) for k, name in enumerate(chosen)}
        for j, name in enumerate(inputs):
            axis = axes[i][j]
            if (name, phase) not in panels:
                axis.axis("off")
                continue
            for selector, points in panels.get((name, phase), {}).items():
                if selector in style:
                    colour, mark = style[selector]
                    axis.plot(*zip(*points), color=colour, marker=mark, markersize=4, linewidth=1)
                else:
                    for at, _ in points:
                        axis.axvline(at, color="black", linewidth=0.8, linestyle="--")
                        axis.annotate(selector, (at, 1), xycoords=("data", "axes fraction"), rotation=90,
                                      va="top", ha="right", fontsize=7)
            axis.set(title=f"{name}, {phase}", xscale="log", yscale="log", xlabel=LABELS[x], ylabel=LABELS[y])
            # Labels at 1, 2 and 5, which stay apart also where an axis spans less than a power of ten.
            for scale in (axis.xaxis, axis.yaxis):
                scale.set_minor_locator(LogLocator(subs=(2, 5)))
                scale.set_major_formatter("{x:g}")
                scale.set_minor_formatter("{x:g}")
            axis.tick_params(which="both", labelsize=7)
            axis.grid(True, which="both", alpha=0.2)
        entries = [Line2D([], [], color=style[n][0], marker=style[n][1], markersize=4, label=n) for n in chosen]
        axes[i][-1].legend(handles=entries, fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    columns = sys.argv[3:] or ["milliseconds", "error"]
    if len(sys.argv) < 3 or len(columns) != 2 or not set(columns) <= set(LABELS):
        sys.exit(f"usage: plot_selection.py selection.csv selection.png [x y], of the columns {', '.join(LABELS)}")
    draw(read(sys.argv[1], *columns), *columns, sys.argv[2])
