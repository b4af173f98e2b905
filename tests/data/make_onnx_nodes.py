# SPDX-License-Identifier: BSD-3-Clause
"""Makes onnx_nodes.safetensors: the published node tests of ONNX's attention operators.

The cases come from the generator inside the onnx package itself (the same one that makes the published test suite), so
inputs, attributes and expected outputs are ONNX's own, under the names of the operators' specifications:

  <case>/<input or output>    as the operator has it; its type is ONNX's

The metadata has one entry, `manifest`, a JSON text:

  cases      for every case
    name, operator, opset
    attributes   by name; graphs are left out
    modifiers    of FlexAttention: the names of its score_mod and prob_mod graphs, and the numbers that they hold
    inputs, outputs   the names that are there
    errors       by output: greatest distance between ONNX's expectation and the same definition in double
  versions   of the packages

ONNX computes 16-bit cases in 16-bit arithmetic, step by step: `errors` says how far that is from the exact result.
Every case with an "_expanded" twin (the same test, with the operator written out in primitive operators) is kept once.

Made with onnx 1.23.2, numpy 2.4.6, ml_dtypes 0.6.0 and safetensors 0.8.0:

  python make_onnx_nodes.py [onnx_nodes.safetensors]
"""

import argparse
import importlib.metadata
import json
import pathlib
import warnings

import numpy
import onnx
import onnx.numpy_helper
import safetensors.numpy
from onnx.backend.test.case.node import collect_testcases
from onnx.reference.ops.aionnx_preview.op_flex_attention import _compute_flex_attention
from onnx.reference.ops.op_attention import _compute_attention

PACKAGES = ["onnx", "numpy", "ml_dtypes", "safetensors"]
OPERATORS = {
    "Attention": (
        ["Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen"],
        ["Y", "present_key", "present_value", "qk_matmul_output"],
    ),
    "LinearAttention": (["query", "key", "value", "past_state", "decay", "beta"], ["output", "present_state"]),
    "FlexAttention": (["Q", "K", "V"], ["Y"]),
    "RotaryEmbedding": (["X", "cos_cache", "sin_cache", "position_ids"], ["Y"]),
}


def widened(array):
    """In double, if it is a floating-point array."""
    return array if array.dtype.kind in "biu" else array.astype(numpy.float64)


def attention(inputs, attributes):
    attributes = {name: value for name, value in attributes.items() if name != "softmax_precision"}
    outputs = _compute_attention(*[inputs.get(name) for name in OPERATORS["Attention"][0]], **attributes, _validate_attention25=False)
    return dict(zip(OPERATORS["Attention"][1], outputs, strict=True))


def linear_attention(inputs, attributes):
    """The recurrence; heads are packed into the last axis."""
    heads, query_heads = attributes["kv_num_heads"], attributes["q_num_heads"]
    split = lambda array, count: array.reshape(*array.shape[:2], count, -1).transpose(0, 2, 1, 3)
    query, key, value = split(inputs["query"], query_heads), split(inputs["key"], heads), split(inputs["value"], heads)
    scale = attributes.get("scale", 0.0) or key.shape[3] ** -0.5
    state = inputs.get("past_state", numpy.zeros(key.shape[:2] + (key.shape[3], value.shape[3]))).copy()
    output = numpy.zeros(query.shape[:3] + value.shape[3:])
    for t in range(query.shape[2]):
        if "decay" in inputs:
            state *= numpy.exp(split(inputs["decay"], heads)[:, :, t, :, None])
        written = value[:, :, t]
        if "beta" in inputs:
            rate = inputs["beta"].transpose(0, 2, 1)[:, :, t, None]
            written = rate * (written - numpy.einsum("bhkv,bhk->bhv", state, key[:, :, t]))
        state += key[:, :, t, :, None] * written[:, :, None, :]
        shared = state.repeat(query_heads // heads, axis=1)
        output[:, :, t] = scale * numpy.einsum("bhk,bhkv->bhv", query[:, :, t], shared)
    return {"output": output.transpose(0, 2, 1, 3).reshape(*inputs["query"].shape[:2], -1), "present_state": state}


class Modifier:
    """A graph of FlexAttention, in double: what its name says, with the numbers that it holds."""

    def __init__(self, graph):
        self.input_names = [graph.input[0].name]
        self.name = graph.name
        self.numbers = {
            tensor.name: float(onnx.numpy_helper.to_array(tensor))
            for tensor in graph.initializer
            if not tensor.dims and tensor.name in ("bias", "scale", "cap")
        }

    def run(self, _, feeds, attributes=None):
        [values] = feeds.values()
        query, key = numpy.indices(values.shape)[2:]
        number = next(iter(self.numbers.values()), None)
        return [
            {
                "score_mod_bias": lambda: values + number,
                "prob_mod_scale": lambda: values * number,
                "score_mod_causal_mask": lambda: numpy.where(query >= key, values, -numpy.inf),
                "score_mod_soft_cap": lambda: numpy.tanh(values / number) * number,
                "score_mod_relative_positional": lambda: values + (query - key),
            }[self.name]()
        ]


def flex_attention(inputs, attributes):
    modifiers = {name: Modifier(value) for name, value in attributes.items() if isinstance(value, onnx.GraphProto)}
    [output] = _compute_flex_attention(inputs["Q"], inputs["K"], inputs["V"], attributes.get("scale"), **modifiers)
    return {"Y": output}


def rotary_embedding(inputs, attributes):
    x = inputs["X"]
    heads = attributes.get("num_heads", 0)
    rows = x.transpose(0, 2, 1, 3) if x.ndim == 4 else x.reshape(*x.shape[:2], heads, -1)
    cosine, sine = inputs["cos_cache"], inputs["sin_cache"]
    if "position_ids" in inputs:
        cosine, sine = cosine[inputs["position_ids"]], sine[inputs["position_ids"]]
    cosine, sine = cosine[:, :, None], sine[:, :, None]
    pairs = cosine.shape[-1]
    first, second = slice(0, pairs), slice(pairs, 2 * pairs)
    if attributes.get("interleaved", 0):
        first, second = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    rotated = rows.copy()
    rotated[..., first] = rows[..., first] * cosine - rows[..., second] * sine
    rotated[..., second] = rows[..., first] * sine + rows[..., second] * cosine
    return {"Y": rotated.transpose(0, 2, 1, 3) if x.ndim == 4 else rotated.reshape(x.shape)}


EXACT = {
    "Attention": attention,
    "LinearAttention": linear_attention,
    "FlexAttention": flex_attention,
    "RotaryEmbedding": rotary_embedding,
}


def distance(expected, exact):
    """The greatest where both are finite; where one is not, both must be the same."""
    expected = expected.astype(numpy.float64)
    finite = numpy.isfinite(exact)
    if not numpy.array_equal(expected[~finite], exact[~finite], equal_nan=True):
        raise AssertionError("infinities differ")
    return float(numpy.max(numpy.abs(expected[finite] - exact[finite]), initial=0.0))


def convert(operator, test):
    """One published test as (manifest entry, tensors by their short names)."""
    [node] = test.model.graph.node
    [(input_arrays, output_arrays)] = test.data_sets
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    named = dict(zip([name for name in node.input if name], input_arrays, strict=True))
    inputs = {place: named[name] for place, name in zip(OPERATORS[operator][0], node.input) if name}
    named = dict(zip([name for name in node.output if name], output_arrays, strict=True))
    outputs = {place: named[name] for place, name in zip(OPERATORS[operator][1], node.output) if name}
    exact = EXACT[operator]({name: widened(array) for name, array in inputs.items()}, attributes)
    graphs = {name: Modifier(value) for name, value in attributes.items() if isinstance(value, onnx.GraphProto)}
    plain = {name: value for name, value in attributes.items() if name not in graphs}
    case = {
        "name": test.name,
        "operator": operator,
        "opset": test.model.opset_import[0].version,
        "attributes": {name: value.decode() if isinstance(value, bytes) else value for name, value in plain.items()},
        "modifiers": {name: {"graph": graph.name, "numbers": graph.numbers} for name, graph in graphs.items()},
        "inputs": list(inputs),
        "outputs": list(outputs),
        "errors": {name: distance(outputs[name], exact[name]) for name in outputs},
    }
    return case, inputs | outputs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = pathlib.Path(__file__).resolve().parent
    parser.add_argument("path", nargs="?", type=pathlib.Path, default=here / "onnx_nodes.safetensors")
    path = parser.parse_args().path

    # They are made as a module is imported, so all at once.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = collect_testcases("")
    cases, tensors = [], {}
    for test in tests:
        operator = test.model.graph.node[0].op_type
        if operator not in OPERATORS or test.name.endswith("_expanded"):
            continue
        case, parts = convert(operator, test)
        cases.append(case)
        tensors |= {f"{case['name']}/{name}": numpy.ascontiguousarray(part) for name, part in parts.items()}
    manifest = {"cases": cases, "versions": {package: importlib.metadata.version(package) for package in PACKAGES}}
    safetensors.numpy.save_file(tensors, path, metadata={"manifest": json.dumps(manifest)})
    print(f"{path.name}: {len(cases)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
