# SPDX-License-Identifier: BSD-3-Clause
"""Compares attend with PyTorch, ONNX Runtime and OpenVINO on the shapes of its own benchmarks, on this machine's CPU.

The shapes are read from the names of the benchmarks that `attend_bench` lists, such as

  softmax/prefill/f32/b1/hq8/hkv8/sq2048/skv2048/d128/causal/t1

(type f32, f16 or bf16; batch; query heads; key heads; queries; keys; head dimension, with `dv` where the value's
differs; causal or dense; threads). Names of another form have no peer and are passed over. Causal is bottom-right, as
a decoder with a cache needs it.

For every shape the script runs several rounds. In each round attend (one process of `attend_bench`) and the peers (in
this process) are measured one after the other, in an order that rotates, with the same number of threads.
A time is the median of its rounds; a ratio is peer time / attend time within one round, and of these the median too,
so that a machine that speeds up or slows down between rounds does not enter it. A ratio above 1 means that attend is
faster.

Each peer is asked in every way it has of saying the shape; a short trial picks the fastest, which is the one that is
compared and named:

  PyTorch       sdpa                    scaled_dot_product_attention, with enable_gqa for grouped heads
                sdpa, grouped rows      the queries of a group as the rows of one head (when no mask distinguishes them)
                sdpa, math              the same with the MATH backend
  ONNX Runtime  Attention               the ONNX operator, opset 23; opset 24 with nonpad_kv_seqlen for a causal mask
                                        with more keys than queries
                MultiHeadAttention      com.microsoft; equal head counts, causal only if queries = keys
                GroupQueryAttention     com.microsoft; causal or one query; keys and values are written into a cache
                                        that input and output share, as in a decoding loop
  OpenVINO      sdpa                    ScaledDotProductAttention, opset 13, on static shapes, in the type of its inputs
                                        (inference precision hint); keys and values of grouped heads are broadcast
                sdpa, grouped rows      as for PyTorch

Inputs are random normal numbers in the layout that each operator wants; making them is not timed, and neither is
allocating the outputs of ONNX Runtime and OpenVINO. All ways must agree with PyTorch's in number before they are timed.
Types that a peer's CPU kernels lack are reported as missing, and so is OpenVINO where it is not installed. A call from
Python costs a few microseconds more than one from C++: shapes that take less than about a hundred are not a fair
comparison. Rows with several threads need a machine with nothing else to do: a peer whose threads spin at a barrier
suffers more than its share from a busy core.

Written for the versions in requirements.txt. To run:

  python -m pip install -r requirements.txt
  python compare_peers.py --attend ../../build/release/bench/attend_bench --filter '^softmax/prefill' --json peers.json
  python compare_peers.py --page ../../docs/benchmarks.md --summary ../../README.md
"""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

import numpy
import onnx
import onnxruntime
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

try:
    import openvino
    import openvino.opset13
except ImportError:
    openvino = None

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY / "bench"))
import results  # noqa: E402

NAME = re.compile(
    r"softmax/(?P<phase>\w+)/(?P<dtype>f32|f16|bf16)/b(?P<batch>\d+)/hq(?P<query_heads>\d+)/hkv(?P<key_heads>\d+)"
    r"/sq(?P<queries>\d+)/skv(?P<keys>\d+)/d(?P<key_dim>\d+)(/dv(?P<value_dim>\d+))?/(?P<mask>dense|causal)"
    r"/t(?P<threads>\d+)(/real_time)?"
)
TORCH_TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
# Outputs are means of standard normal numbers, at most about 4; the 16-bit kernels round their weights and sums to
# the type, and the peers do it at different places.
AGREEMENT = {"f32": 1e-4, "f16": 2e-2, "bf16": 1e-1}
NANOSECONDS = {"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9}
TRIAL_SECONDS = 0.05
TRIAL_ROUNDS = 3
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
RESULTS = re.compile(f"{BEGIN}\n(.*?)\n{END}", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Shape:
    name: str
    dtype: str
    batch: int
    query_heads: int
    key_heads: int
    queries: int
    keys: int
    key_dim: int
    value_dim: int
    causal: bool  # with more than one query: a single query at the bottom-right sees every key
    threads: int

    @property
    def group(self):
        return self.query_heads // self.key_heads


@dataclasses.dataclass
class Way:
    """One way of asking a peer: `run` is timed, `output` runs once and returns [batch, head, query, Dv]."""

    name: str
    run: object
    output: object


def parse_shape(name):
    match = NAME.fullmatch(name)
    if match is None:
        return None
    counts = ("batch", "query_heads", "key_heads", "queries", "keys", "key_dim", "threads")
    number = {count: int(match[count]) for count in counts}
    value_dim = int(match["value_dim"] or match["key_dim"])
    causal = match["mask"] == "causal" and number["queries"] > 1
    return Shape(name=name, dtype=match["dtype"], value_dim=value_dim, causal=causal, **number)


# ---- attend


def list_benchmarks(binary, pattern):
    arguments = [binary, "--benchmark_list_tests=true", f"--benchmark_filter={pattern}"]
    listing = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    return [line.strip() for line in listing.splitlines() if line.strip()]


def measure_attend(binary, name, seconds, repetitions):
    """(nanoseconds, {peak_fraction, bandwidth_fraction} as far as reported, context): the median of the repetitions."""
    arguments = [
        binary,
        f"--benchmark_filter=^{name}$",
        "--benchmark_format=json",
        f"--benchmark_min_time={seconds}",  # without a unit: older releases take no other
        f"--benchmark_repetitions={repetitions}",
        "--benchmark_report_aggregates_only=true",
    ]
    report = json.loads(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)
    rows = report["benchmarks"]
    medians = [row for row in rows if row.get("aggregate_name") == "median"]
    [row] = medians if medians else rows
    if row.get("error_occurred"):
        raise RuntimeError(f"{name}: {row.get('error_message')}")
    fractions = {key: row[key] for key in ("peak_fraction", "bandwidth_fraction") if key in row}
    return row["real_time"] * NANOSECONDS[row["time_unit"]], fractions, report["context"]


# ---- PyTorch


def make_inputs(shape):
    generator = torch.Generator().manual_seed(1)

    def normal(*extents):
        return torch.randn(extents, generator=generator).to(TORCH_TYPES[shape.dtype])

    return (
        normal(shape.batch, shape.query_heads, shape.queries, shape.key_dim),
        normal(shape.batch, shape.key_heads, shape.keys, shape.key_dim),
        normal(shape.batch, shape.key_heads, shape.keys, shape.value_dim),
    )


def torch_ways(shape, query, key, value):
    attention = torch.nn.functional.scaled_dot_product_attention
    square = shape.queries == shape.keys
    options = {"is_causal": shape.causal and square, "enable_gqa": shape.group > 1}
    if shape.causal and not square:
        visible = torch.ones(shape.queries, shape.keys, dtype=torch.bool)
        options["attn_mask"] = visible.tril(shape.keys - shape.queries)

    def default():
        return attention(query, key, value, **options)

    def math():
        with sdpa_kernel(SDPBackend.MATH):
            return attention(query, key, value, **options)

    ways = [Way("sdpa", default, default), Way("sdpa, math", math, math)]
    if shape.group > 1 and not shape.causal:
        rows = query.reshape(shape.batch, shape.key_heads, shape.group * shape.queries, shape.key_dim)

        def grouped():
            output = attention(rows, key, value)
            return output.view(shape.batch, shape.query_heads, shape.queries, shape.value_dim)

        ways.append(Way("sdpa, grouped rows", grouped, grouped))
    return ways


# ---- ONNX Runtime


def ort_value(tensor, dtype):
    """An OrtValue in the memory of a contiguous tensor; numpy has no bfloat16, so those pass as their bits."""
    assert tensor.is_contiguous()
    if dtype == "bf16":
        bits = tensor.view(torch.int16).numpy().view(numpy.uint16)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, onnx.TensorProto.BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(tensor.numpy())


def ort_way(shape, node, opset, inputs, outputs, answer):
    """Builds a session for one node. `inputs` and `outputs` are {name: OrtValue}; `answer()` reads the output."""

    def information(name, value):
        return onnx.helper.make_tensor_value_info(name, value.element_type(), value.shape())

    graph = onnx.helper.make_graph(
        [node],
        "attention",
        [information(*item) for item in inputs.items()],
        [information(*item) for item in outputs.items()],
    )
    opsets = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = shape.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Idle workers must not spin into the others' measurements.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for input_name, value in inputs.items():
        binding.bind_ortvalue_input(input_name, value)
    for output_name, value in outputs.items():
        binding.bind_ortvalue_output(output_name, value)

    def run():
        session.run_with_iobinding(binding)

    def output():
        run()
        return answer()

    return Way(node.op_type, run, output)


def ort_builders(shape, query, key, value):
    """{name: function that builds the Way}; a function raises if ONNX Runtime lacks a kernel for it."""
    square = shape.queries == shape.keys

    def wrapped(tensor):
        return ort_value(tensor.contiguous(), shape.dtype)

    def tokens_first(tensor):
        """[batch, head, token, dim] becomes [batch, token, head * dim]."""
        return tensor.transpose(1, 2).flatten(2)

    def indices(array, element):
        return onnxruntime.OrtValue.ortvalue_from_numpy(numpy.array(array, element))

    def contributed(name, inputs, outputs, **attributes):
        """A com.microsoft operator: its queries and outputs are [batch, token, head * dim]."""
        output = torch.zeros(
            (shape.batch, shape.queries, shape.query_heads * shape.value_dim), dtype=TORCH_TYPES[shape.dtype]
        )
        outputs = {"output": wrapped(output), **outputs}
        node = onnx.helper.make_node(
            name, list(inputs), list(outputs), domain="com.microsoft", num_heads=shape.query_heads, **attributes
        )

        def answer():
            return output.unflatten(2, (shape.query_heads, shape.value_dim)).transpose(1, 2)

        return ort_way(shape, node, 21, inputs, outputs, answer)

    def attention():
        inputs = {"query": wrapped(query), "key": wrapped(key), "value": wrapped(value)}
        names, opset = list(inputs), 23
        if shape.causal and not square:
            # With the number of valid keys ONNX aligns the causal mask at the bottom-right.
            inputs["lengths"] = indices([shape.keys] * shape.batch, numpy.int64)
            names, opset = [*names, "", "", "", "lengths"], 24
        output = torch.zeros(query.shape[:3] + value.shape[3:], dtype=TORCH_TYPES[shape.dtype])
        node = onnx.helper.make_node("Attention", names, ["output"], is_causal=int(shape.causal))
        return ort_way(shape, node, opset, inputs, {"output": wrapped(output)}, lambda: output)

    def multi_head_attention():
        inputs = {
            "query": wrapped(tokens_first(query)),
            "key": wrapped(tokens_first(key)),
            "value": wrapped(tokens_first(value)),
        }
        return contributed("MultiHeadAttention", inputs, {}, unidirectional=int(shape.causal))

    def group_query_attention():
        past = shape.keys - shape.queries
        key_cache, value_cache = wrapped(key.clone()), wrapped(value.clone())
        inputs = {
            "query": wrapped(tokens_first(query)),
            "key": wrapped(tokens_first(key[:, :, past:])),
            "value": wrapped(tokens_first(value[:, :, past:])),
            "past_key": key_cache,
            "past_value": value_cache,
            "last_position": indices([shape.keys - 1] * shape.batch, numpy.int32),
            "total_length": indices(shape.keys, numpy.int32),
        }
        outputs = {"present_key": key_cache, "present_value": value_cache}
        return contributed("GroupQueryAttention", inputs, outputs, kv_num_heads=shape.key_heads)

    builders = {"Attention": attention}
    if shape.group == 1 and (square or not shape.causal):
        builders["MultiHeadAttention"] = multi_head_attention
    if (shape.causal or shape.queries == 1) and shape.queries <= shape.keys and shape.key_dim == shape.value_dim:
        builders["GroupQueryAttention"] = group_query_attention
    return builders


def ort_ways(shape, query, key, value):
    """(ways, why the others are missing)."""
    ways, missing = [], []
    for name, build in ort_builders(shape, query, key, value).items():
        try:
            way = build()
            way.run()
        except Exception as error:  # onnxruntime has no common base class for "no kernel"
            first_line = str(error).strip().splitlines()[0]
            missing.append(f"{name}: {'no CPU kernel' if 'NOT_IMPLEMENTED' in first_line else first_line}")
        else:
            ways.append(way)
    return ways, missing


# ---- OpenVINO


def openvino_tensor(tensor, dtype):
    """A tensor in the memory of a contiguous one; numpy has no bfloat16, so those pass as their bits."""
    array = tensor.view(torch.int16).numpy().view(numpy.uint16) if dtype == "bf16" else tensor.numpy()
    return openvino.Tensor(array, openvino.Shape(tensor.shape), getattr(openvino.Type, dtype))


def openvino_way(shape, name, query, key, value, answer):
    """Asks for queries on keys of as many heads, or fewer."""
    operators = openvino.opset13
    inputs = [tensor.contiguous() for tensor in (query, key, value)]
    parameters = [operators.parameter(list(tensor.shape), getattr(openvino.Type, shape.dtype)) for tensor in inputs]

    def of_all_heads(node, heads, tokens, dimension):
        """Each key head once for every query head that reads it."""
        group = query.shape[1] // heads
        if group == 1:
            return node
        extents = numpy.array([shape.batch, heads, group, tokens, dimension])
        apart = operators.broadcast(operators.unsqueeze(node, operators.constant([2])), operators.constant(extents))
        together = numpy.array([shape.batch, heads * group, tokens, dimension])
        return operators.reshape(apart, operators.constant(together), False)

    nodes = [parameters[0], *(of_all_heads(node, *node.shape[1:]) for node in parameters[1:])]
    square = shape.queries == shape.keys
    if shape.causal and not square:
        visible = numpy.ones((shape.queries, shape.keys), bool)
        nodes.append(operators.constant(numpy.tril(visible, shape.keys - shape.queries)))
    node = operators.scaled_dot_product_attention(*nodes, causal=shape.causal and square)
    options = {
        "INFERENCE_PRECISION_HINT": shape.dtype,
        "INFERENCE_NUM_THREADS": shape.threads,
        "NUM_STREAMS": 1,
        # Threads stay where the system puts them, as the others' do.
        "ENABLE_CPU_PINNING": False,
    }
    request = openvino.compile_model(openvino.Model([node], parameters), "CPU", options).create_infer_request()
    output = torch.zeros(query.shape[:3] + value.shape[3:], dtype=TORCH_TYPES[shape.dtype])
    for index, tensor in enumerate(inputs):
        request.set_input_tensor(index, openvino_tensor(tensor, shape.dtype))
    request.set_output_tensor(0, openvino_tensor(output, shape.dtype))

    def run():
        request.infer()

    def once():
        run()
        return answer(output)

    return Way(name, run, once)


def openvino_ways(shape, query, key, value):
    """(ways, why the others are missing)."""
    if openvino is None:
        return [], []

    def grouped():
        rows = query.reshape(shape.batch, shape.key_heads, shape.group * shape.queries, shape.key_dim)
        extents = (shape.batch, shape.query_heads, shape.queries, shape.value_dim)
        return openvino_way(shape, "sdpa, grouped rows", rows, key, value, lambda output: output.view(extents))

    builders = {"sdpa": lambda: openvino_way(shape, "sdpa", query, key, value, lambda output: output)}
    if shape.group > 1 and not shape.causal:
        builders["sdpa, grouped rows"] = grouped
    ways, missing = [], []
    for name, build in builders.items():
        try:
            way = build()
            way.run()
        except RuntimeError as error:
            missing.append(f"{name}: {str(error).strip().splitlines()[0]}")
        else:
            ways.append(way)
    return ways, missing


# ---- measuring


def measure(run, seconds):
    """Median nanoseconds of a call, after one to warm up."""
    run()
    times = []
    begin = time.perf_counter_ns()
    while len(times) < 3 or time.perf_counter_ns() - begin < seconds * 1e9:
        start = time.perf_counter_ns()
        run()
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times)


def agreeing(shape, ways, expected):
    """The ways whose output is PyTorch's; the others are named on the error stream."""
    kept = []
    for way in ways:
        difference = float((way.output().float() - expected).abs().max())
        if difference <= AGREEMENT[shape.dtype]:
            kept.append(way)
        else:
            print(f"{shape.name}: {way.name} is off by {difference:.2g}, left out", file=sys.stderr)
    return kept


def fastest(ways):
    if len(ways) == 1:
        return ways[0]
    times = {way.name: [] for way in ways}
    for _ in range(TRIAL_ROUNDS):
        for way in ways:
            times[way.name].append(measure(way.run, TRIAL_SECONDS))
    return min(ways, key=lambda way: statistics.median(times[way.name]))


def compare(shape, arguments):
    """One row of the result."""
    torch.set_num_threads(shape.threads)
    query, key, value = make_inputs(shape)
    row = {"name": shape.name, "attend": {}, "peers": {}}
    with torch.inference_mode():
        ways = torch_ways(shape, query, key, value)
        expected = ways[0].output().float()
        runners = {"torch": fastest(agreeing(shape, ways, expected))}
        row["peers"]["torch"] = {"operator": runners["torch"].name, "missing": []}
        for peer, ways_of in (("onnxruntime", ort_ways), ("openvino", openvino_ways)):
            ways, missing = ways_of(shape, query, key, value)
            ways = agreeing(shape, ways, expected)
            row["peers"][peer] = {"missing": missing}
            if ways:
                runners[peer] = fastest(ways)
                row["peers"][peer]["operator"] = runners[peer].name
            ways.clear()

        times = {"attend": [], **{peer: [] for peer in runners}}
        fractions, context = {}, {}
        order = list(times)
        for _ in range(arguments.rounds):
            for subject in order:
                if subject == "attend":
                    nanoseconds, reported, context = measure_attend(
                        arguments.attend, shape.name, arguments.min_time, arguments.repetitions
                    )
                    for key_name, fraction in reported.items():
                        fractions.setdefault(key_name, []).append(fraction)
                else:
                    nanoseconds = measure(runners[subject].run, arguments.min_time)
                times[subject].append(nanoseconds)
            order = order[1:] + order[:1]

    row["attend"] = {"nanoseconds": statistics.median(times["attend"]), "rounds": times["attend"]}
    row["attend"] |= {key_name: statistics.median(values) for key_name, values in fractions.items()}
    for peer in order:
        if peer == "attend":
            continue
        ratios = [theirs / ours for theirs, ours in zip(times[peer], times["attend"], strict=True)]
        row["peers"][peer] |= {
            "nanoseconds": statistics.median(times[peer]),
            "ratio": statistics.median(ratios),
            "ratio_lowest": min(ratios),
            "ratio_highest": max(ratios),
            "rounds": times[peer],
        }
    return row, context


# ---- reporting


def machine(context):
    """What the documentation may say of this machine."""
    known = {key: context[key] for key in ("instruction_set", "compiler", "compiler_flags") if key in context}
    return {"cpu": results.processor(), "cores": os.cpu_count(), **known, "commit": results.commit()}


def duration(nanoseconds):
    for unit, factor in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= factor:
            return f"{nanoseconds / factor:.3g} {unit}"
    return f"{nanoseconds:.3g} ns"


def cells(row):
    def fraction(name):
        return f"{row['attend'][name]:.2f}" if name in row["attend"] else ""

    def ratio(name):
        peer = row["peers"].get(name, {})
        if "ratio" in peer:
            return f"{peer['ratio']:.2f} ({peer['operator']})"
        return "" if name == "openvino" and openvino is None else "no kernel"

    return [
        row["name"],
        duration(row["attend"]["nanoseconds"]),
        fraction("peak_fraction"),
        fraction("bandwidth_fraction"),
        ratio("torch"),
        ratio("onnxruntime"),
        ratio("openvino"),
    ]


def headings():
    versions = [torch.__version__.split("+")[0], onnxruntime.__version__]
    versions.append(openvino.__version__.split("-")[0] if openvino else "")
    return [
        "benchmark",
        "attend",
        "of FMA peak",
        "of read bandwidth",
        f"PyTorch {versions[0]} / attend",
        f"ONNX Runtime {versions[1]} / attend",
        f"OpenVINO {versions[2]} / attend",
    ]


def table(rows):
    """Headings and cells; a column that is empty throughout is left out."""
    lines = [cells(row) for row in rows]
    columns = [index for index in range(len(headings())) if any(line[index] for line in lines)]
    return [[line[index] for index in columns] for line in [headings(), *lines]]


def print_table(rows):
    lines = table(rows)
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def markdown(rows, description):
    first, *rest = table(rows)
    alignment = [":--"] + ["--:"] * (len(first) - 1)
    rest = [[f"`{line[0]}`", *line[1:]] for line in rest]
    text = name_of(description)
    text += "".join(f", {description[key]}" for key in ("instruction_set", "compiler") if key in description)
    text += f", flags `{description['compiler_flags']}`" if "compiler_flags" in description else ""
    text += f", commit {description['commit']}" if "commit" in description else ""
    lines = [text + ". The ratios are peer time / attend time: above 1, attend is faster.", ""]
    lines += [f"| {' | '.join(line)} |" for line in (first, alignment, *rest)]
    return "\n".join(lines)


def name_of(description):
    """The beginning of a table, which tells machines apart."""
    return f"{description['cpu']}, {description['cores']} {'core' if description['cores'] == 1 else 'cores'}"


def replace_results(path, text, machine_name=""):
    """Replaces the table that begins with the machine's name. One that is not there yet comes after the last one."""
    page = path.read_text(encoding="utf-8")
    tables = list(RESULTS.finditer(page))
    if not tables:
        raise ValueError(f"{path} has no {BEGIN} followed by {END}")
    old = next((found for found in tables if found[1].startswith(machine_name)), None)
    begin, end = old.span() if old else (tables[-1].end(), tables[-1].end())
    gap = "" if old else "\n\n"
    path.write_text(f"{page[:begin]}{gap}{BEGIN}\n{text}\n{END}{page[end:]}", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default_binary = REPOSITORY / "build" / "release" / "bench" / "attend_bench"
    parser.add_argument("--attend", type=pathlib.Path, default=default_binary, help="the attend_bench program")
    parser.add_argument("--filter", default="^softmax/", help="regular expression over the names of the benchmarks")
    parser.add_argument("--rounds", type=int, default=5, help="rounds per shape")
    parser.add_argument("--min-time", type=float, default=0.3, help="seconds per measurement")
    parser.add_argument("--repetitions", type=int, default=3, help="repetitions within one run of attend_bench")
    parser.add_argument("--json", type=pathlib.Path, help="a file for all that is measured; its other rows are kept")
    parser.add_argument("--page", type=pathlib.Path, help="replace this machine's table there by all rows, or add one")
    parser.add_argument("--summary", type=pathlib.Path, help="replace the table there by the rows that it has")
    arguments = parser.parse_args()

    if openvino is None:
        print("OpenVINO is not installed: going on without it", file=sys.stderr)
    names = list_benchmarks(arguments.attend, arguments.filter)
    shapes = [shape for shape in map(parse_shape, names) if shape]
    print(f"{len(shapes)} shapes; {len(names) - len(shapes)} benchmarks have no peer", file=sys.stderr)
    if not shapes:
        raise SystemExit("nothing to compare")

    threads = max(shape.threads for shape in shapes)
    if os.getloadavg()[0] + threads > os.cpu_count() + 0.5:
        print("this machine is busy: times of rows with several threads will mislead", file=sys.stderr)

    measured, description = {}, {}
    if arguments.json and arguments.json.exists():
        measured = {row["name"]: row for row in json.loads(arguments.json.read_text(encoding="utf-8"))["rows"]}
    for shape in shapes:
        row, context = compare(shape, arguments)
        measured[row["name"]] = row
        description = machine(context)
        print("  ".join(cells(row)), file=sys.stderr, flush=True)
        for peer, of_peer in row["peers"].items():
            for reason in of_peer["missing"]:
                print(f"  {peer}: {reason}", file=sys.stderr)
    order = list_benchmarks(arguments.attend, ".")
    rows = [measured[name] for name in order if name in measured]
    print_table(rows)

    if arguments.json:
        versions = {
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
            "onnx": onnx.__version__,
            "numpy": numpy.__version__,
            "openvino": openvino.__version__ if openvino else None,
        }
        options = {"rounds": arguments.rounds, "min_time": arguments.min_time, "repetitions": arguments.repetitions}
        report = {"machine": description, "versions": versions, "options": options, "rows": rows}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.page:
        replace_results(arguments.page, markdown(rows, description), name_of(description))
    if arguments.summary:
        shown = arguments.summary.read_text(encoding="utf-8")
        named = [row for row in rows if f"`{row['name']}`" in shown]
        replace_results(arguments.summary, markdown(named, description))


if __name__ == "__main__":
    main()
