"""Makes onnx_linear_attention.safetensors: the node tests of ONNX's LinearAttention operator.

The cases come from the generator inside the onnx package itself (the same one that makes the published test suite),
so inputs and expected outputs are ONNX's own. Each case is kept in the words of `linear_attention`:

  <case>/query          [batch, query head, token, Dk]   packed heads are split
  <case>/key            [batch, head, token, Dk]
  <case>/value          [batch, head, token, Dv]
  <case>/decay          [batch, head, token] or [batch, head, token, Dk]   logarithms, where there is a decay
  <case>/beta           [batch, head or 1, token]        where there is a delta rule
  <case>/past_state     [batch, head, Dk, Dv]            where there is one
  <case>/output         [batch, query head, token, Dv]
  <case>/present_state  [batch, head, Dk, Dv]

The metadata has one entry, `manifest`, a JSON text:

  cases      for every case
    name, opset, dtype
    update       "linear", "gated", "delta" or "gated_delta"
    decay        null, "token" or "key"
    past_state   bool
    scale        a number, never null: 1/sqrt(Dk) where ONNX's is 0
    tolerance    {relative, absolute}: ONNX's own
    output_error, state_error   greatest distance between ONNX's expectation and the recurrence in double
  versions   of the packages

Every case with an "_expanded" twin (the same test, with the operator written out in primitive operators) is kept once.

Made with onnx 1.23.2, numpy 2.4.6 and safetensors 0.8.0:

  python make_onnx_linear_attention.py [onnx_linear_attention.safetensors]
"""

import argparse
import importlib.metadata
import json
import pathlib
import warnings

import numpy
import onnx
import safetensors.numpy
from onnx.backend.test.case.node import collect_testcases

PLACES = ["query", "key", "value", "past_state", "decay", "beta"]
KNOWN_ATTRIBUTES = {"chunk_size", "kv_num_heads", "q_num_heads", "scale", "update_rule"}
EPSILON = {"float32": 2.0**-23, "float16": 2.0**-10}
PACKAGES = ["onnx", "numpy", "safetensors"]


def split_heads(array, heads):
    """[batch, token, heads * dim] becomes [batch, head, token, dim]."""
    batch, tokens, hidden = array.shape
    return numpy.ascontiguousarray(array.reshape(batch, tokens, heads, hidden // heads).transpose(0, 2, 1, 3))


def recurrence(case, tensors):
    """(output, present state) in double, from what the file says and nothing else."""
    wide = {name: tensor.astype(numpy.float64) for name, tensor in tensors.items()}
    query, key, value = wide["query"], wide["key"], wide["value"]
    state = wide.get("past_state", numpy.zeros(key.shape[:2] + (key.shape[3], value.shape[3]))).copy()
    group = query.shape[1] // key.shape[1]
    output = numpy.zeros(query.shape[:3] + value.shape[3:])
    for t in range(query.shape[2]):
        if case["decay"] == "token":
            state *= numpy.exp(wide["decay"][:, :, t, None, None])
        elif case["decay"] == "key":
            state *= numpy.exp(wide["decay"][:, :, t, :, None])
        written = value[:, :, t]
        if "delta" in case["update"]:
            written = wide["beta"][:, :, t, None] * (written - numpy.einsum("bhkv,bhk->bhv", state, key[:, :, t]))
        state += key[:, :, t, :, None] * written[:, :, None, :]
        shared = state.repeat(group, axis=1)
        output[:, :, t] = case["scale"] * numpy.einsum("bhk,bhkv->bhv", query[:, :, t], shared)
    return output, state


def greatest_difference(first, second):
    return float(numpy.max(numpy.abs(first.astype(numpy.float64) - second), initial=0.0))


def convert(test):
    """One published test as (manifest entry, tensors by their short names)."""
    [node] = test.model.graph.node
    [(input_arrays, output_arrays)] = test.data_sets
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if not set(attributes) <= KNOWN_ATTRIBUTES:
        raise AssertionError(f"{test.name}: unknown attributes {sorted(set(attributes) - KNOWN_ATTRIBUTES)}")
    named = dict(zip([name for name in node.input if name], input_arrays, strict=True))
    inputs = {place: named[name] for place, name in zip(PLACES, node.input) if name}
    expected, present = output_arrays

    heads, query_heads = attributes["kv_num_heads"], attributes["q_num_heads"]
    dimension = inputs["key"].shape[2] // heads
    tensors = {
        "query": split_heads(inputs["query"], query_heads),
        "key": split_heads(inputs["key"], heads),
        "value": split_heads(inputs["value"], heads),
        "output": split_heads(expected, query_heads),
        "present_state": present,
    }
    decay = None
    if "decay" in inputs:
        decay = "key" if inputs["decay"].shape[2] == heads * dimension else "token"
        tensors["decay"] = split_heads(inputs["decay"], heads)
        if decay == "token":
            tensors["decay"] = tensors["decay"][..., 0]
    if "beta" in inputs:
        tensors["beta"] = inputs["beta"].transpose(0, 2, 1)
    if "past_state" in inputs:
        tensors["past_state"] = inputs["past_state"]

    case = {
        "name": test.name,
        "opset": test.model.opset_import[0].version,
        "dtype": tensors["query"].dtype.name,
        "update": attributes.get("update_rule", b"gated_delta").decode(),
        "decay": decay,
        "past_state": "past_state" in inputs,
        "scale": attributes.get("scale", 0.0) or dimension**-0.5,
        "tolerance": {"relative": test.rtol, "absolute": test.atol},
    }
    output, state = recurrence(case, tensors)
    case["output_error"] = greatest_difference(tensors["output"], output)
    case["state_error"] = greatest_difference(tensors["present_state"], state)
    # ONNX's own reference accumulates in float and rounds the results to the type.
    allowed = 16 * EPSILON[case["dtype"]]
    if max(case["output_error"], case["state_error"]) > allowed * max(1.0, numpy.abs(output).max(), numpy.abs(state).max()):
        raise AssertionError(f"{test.name}: ONNX and the recurrence differ")
    return case, tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = pathlib.Path(__file__).resolve().parent
    parser.add_argument("path", nargs="?", type=pathlib.Path, default=here / "onnx_linear_attention.safetensors")
    path = parser.parse_args().path

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = collect_testcases("LinearAttention")
    cases, tensors = [], {}
    for test in tests:
        if test.name.endswith("_expanded"):
            continue
        case, parts = convert(test)
        cases.append(case)
        tensors |= {f"{case['name']}/{name}": numpy.ascontiguousarray(part) for name, part in parts.items()}
    manifest = {"cases": cases, "versions": {package: importlib.metadata.version(package) for package in PACKAGES}}
    safetensors.numpy.save_file(tensors, path, metadata={"manifest": json.dumps(manifest)})
    print(f"{path.name}: {len(cases)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
