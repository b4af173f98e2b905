# SPDX-License-Identifier: BSD-3-Clause
"""Keeps what attend_bench measured on a machine, and compares two such files.

    python3 bench/results.py keep epyc_9r14                      measures, and writes bench/results/epyc_9r14.json
    python3 bench/results.py compare before.json after.json      fails where a row takes 5% longer than before

A kept file is Google Benchmark's JSON with a row for each benchmark in place of one for each repetition: `real_time` is
the median of the repetitions, and `least_time`, to which other processes add least, the shortest of them. Its context
says processor, commit, compiler, flags and the machine's numbers. `compare` takes JSON as attend_bench writes it as
well. It compares least times, and prints the median and the quartiles of new / old time and the worst rows: above 1 the
new one is slower. It fails with 1 where a row lost more than the limit or is gone, and with 2 where a file cannot be
compared. On a machine whose clock changes between runs all rows change together: with --against-median each is held
against the median of all.
"""

import argparse
import json
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
# One thread, each system once: the rows on numbers of other kinds are attend_data's.
USUAL = "^(softmax|decode|latent|linear|rotary|select|selective|cached_prefill|longca)/.*/t1(/manual_time)?$"
NANOSECONDS = {"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9}
# What depends on the machine's name, on the moment, or on where things lie.
DROPPED = ("host_name", "executable", "load_avg", "cpu_scaling_enabled", "library_build_type")
KEPT = ("time_unit", "bytes", "flops", "peak_fraction", "bandwidth_fraction")


def fail(message):
    print(f"results.py: {message}", file=sys.stderr)
    sys.exit(2)


def read(path):
    try:
        report = json.loads(pathlib.Path(path).read_text())
        return report["context"], kept_rows(report["benchmarks"])
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    except (ValueError, KeyError, TypeError) as error:
        fail(f"{path}: expected the JSON of attend_bench, got {type(error).__name__} at {error}")


def kept_rows(rows):
    """A row for each name: the median and the least time of its repetitions."""
    repetitions = {}
    for row in rows:
        if row.get("run_type", "iteration") == "iteration" and not row.get("error_occurred"):
            repetitions.setdefault(row.get("run_name", row["name"]), []).append(row)
    kept = []
    for name, runs in repetitions.items():
        middle = sorted(runs, key=lambda run: run["real_time"])[len(runs) // 2]
        least = min(run.get("least_time", run["real_time"]) for run in runs)
        one = {"name": name, "run_type": "iteration", "real_time": middle["real_time"], "least_time": least}
        kept.append(one | {key: middle[key] for key in KEPT if key in middle})
    return kept


def processor():
    information = pathlib.Path("/proc/cpuinfo")
    match = information.exists() and re.search(r"^model name\s*:\s*(.+)$", information.read_text(), re.MULTILINE)
    return match[1] if match else platform.processor() or platform.machine()


def commit():
    """Of the sources, or that there is none to name, as in an archive of them."""
    command = ["git", "-C", REPOSITORY, "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def text_of(context, rows):
    """JSON with a line for each row, which version control can show the changes of."""
    head = json.dumps(context, indent=1)
    lines = ",\n".join(json.dumps({k: round_off(v) for k, v in row.items()}) for row in rows)
    return f'{{"context": {head},\n"benchmarks": [\n{lines}\n]}}\n'


def round_off(value):
    return float(f"{value:.4g}") if isinstance(value, float) else value


def keep(arguments):
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "benchmark.json"
        command = [
            arguments.attend,
            f"--benchmark_filter={arguments.filter}",
            f"--benchmark_repetitions={arguments.repetitions}",
            f"--benchmark_min_time={arguments.min_time}",
            f"--benchmark_out={output}",
        ]
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            fail(error)
        context, rows = read(output)
    for key in DROPPED:
        context.pop(key, None)
    context = {"processor": processor(), "commit": commit(), **context}
    path = REPOSITORY / "bench" / "results" / f"{arguments.machine}.json"
    path.write_text(text_of(context, rows))
    print(f"{path.relative_to(REPOSITORY)}: {len(rows)} rows")


def compare(arguments):
    (old_context, old), (new_context, new) = read(arguments.old), read(arguments.new)
    for key in ("processor", "compiler", "compiler_flags", "instruction_set", "machine"):
        if old_context.get(key) != new_context.get(key):
            print(f"{key} differs: {old_context.get(key)} before, {new_context.get(key)} now")

    def times(rows):
        return {row["name"]: row["least_time"] * NANOSECONDS[row["time_unit"]] for row in rows}

    before, now = times(old), times(new)
    ratios = sorted(((now[name] / before[name], name) for name in before.keys() & now.keys()), reverse=True)
    if not ratios:
        fail("expected files with rows of the same names, got none in common")
    values = [ratio for ratio, _ in ratios]
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    print(f"{len(values)} rows, new / old time: median {median:.3f}, quartiles {lower:.3f} and {upper:.3f}")
    most = (median if arguments.against_median else 1) * (1 + arguments.limit / 100)
    lost = sum(ratio > most for ratio in values)
    for ratio, name in ratios[: max(arguments.worst, lost)]:
        print(f"{ratio:7.3f}  {name}" + ("  <- lost" if ratio > most else ""))
    gone = sorted(before.keys() - now.keys())
    for name in gone:
        print(f"   gone  {name}")
    if lost or gone:
        print(f"{lost} rows lost more than {arguments.limit:g}%, and {len(gone)} are gone", file=sys.stderr)
        sys.exit(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    keeping = commands.add_parser("keep", help="measure, and write bench/results/MACHINE.json")
    keeping.add_argument("machine", help="the name of the file: maker and model, such as epyc_9r14")
    keeping.add_argument("--attend", default=REPOSITORY / "build" / "release" / "bench" / "attend_bench")
    keeping.add_argument("--filter", default=USUAL, help="which benchmarks, a regular expression")
    keeping.add_argument("--repetitions", type=int, default=5)
    keeping.add_argument("--min-time", type=float, default=0.1, help="seconds of a repetition")
    keeping.set_defaults(run=keep)
    comparing = commands.add_parser("compare", help="compare two files")
    comparing.add_argument("old")
    comparing.add_argument("new")
    comparing.add_argument("--limit", type=float, default=5, help="percent that a row may lose")
    comparing.add_argument("--against-median", action="store_true", help="hold rows against the median of all rows")
    comparing.add_argument("--worst", type=int, default=10, help="how many of the worst rows are printed")
    comparing.set_defaults(run=compare)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
