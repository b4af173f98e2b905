# SPDX-License-Identifier: BSD-3-Clause
"""Makes onnxruntime.safetensors: outputs of ONNX Runtime's processor kernels for operators of com.microsoft.

The operators have no published node tests. Each case is one node, run by ONNX Runtime, under the names of the operators'
specifications:

  <case>/<input or output>    as the operator has it

What the operator leaves open is set, so that a whole tensor can be compared: output rows of padding tokens and cache rows
past a sequence's end are 0, and so are hidden weights; hidden logits are -inf, where ONNX Runtime has 0 or the lowest
number.

The metadata has one entry, `manifest`, a JSON text:

  cases      for every case
    name, operator, attributes
    modifiers   empty
    errors      by output: greatest distance between ONNX Runtime's output and the definition in double, below
  versions   of the packages

Made with onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6 and safetensors 0.8.0:

  python make_onnxruntime.py [onnxruntime.safetensors]
"""

import argparse
import importlib.metadata
import json
import pathlib

import numpy
import onnx
import onnxruntime
import safetensors.numpy
from onnx import helper

PACKAGES = ["onnxruntime", "onnx", "numpy", "safetensors"]
OPERATORS = {
    "MultiHeadAttention": (
        ["query", "key", "value", "bias", "key_padding_mask", "attention_bias", "past_key", "past_value"],
        ["output", "present_key", "present_value", "qk"],
    ),
    "GroupQueryAttention": (
        ["query", "key", "value", "past_key", "past_value", "seqlens_k", "total_sequence_length", "cos_cache", "sin_cache"]
        + ["position_ids", "attention_bias", "head_sink", "k_scale", "v_scale", "q_norm_weight", "k_norm_weight"]
        + ["query_seqlens"],
        ["output", "present_key", "present_value", "output_qk"],
    ),
}
random = numpy.random.default_rng(7)


def normal(*shape):
    return random.standard_normal(shape).astype(numpy.float32)


def integers(*numbers):
    return numpy.array(numbers, numpy.int32)


def run(operator, attributes, inputs, outputs):
    """The node's outputs by name."""
    names = [name if name in inputs else "" for name in OPERATORS[operator][0]]
    while not names[-1]:
        names.pop()
    asked = [name if name in outputs else "" for name in OPERATORS[operator][1]]
    while not asked[-1]:
        asked.pop()
    node = helper.make_node(operator, names, asked, domain="com.microsoft", **attributes)
    kind = lambda array: helper.np_dtype_to_tensor_dtype(array.dtype)
    graph = helper.make_graph(
        [node],
        operator,
        [helper.make_tensor_value_info(name, kind(array), array.shape) for name, array in inputs.items()],
        [helper.make_tensor_value_info(name, kind(inputs["query"]), None) for name in asked if name],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([name for name in asked if name], session.run(None, inputs), strict=True))


def split(array, heads):
    """[batch, token, heads * dim] becomes [batch, head, token, dim]; four dimensions stay as they are."""
    array = array.astype(numpy.float64)
    return array if array.ndim == 4 else array.reshape(*array.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def pack(array):
    return array.transpose(0, 2, 1, 3).reshape(array.shape[0], array.shape[2], -1)


def weights_of(logits, sinks=None):
    """Softmax, with a sink in the denominator for each head."""
    most = numpy.maximum(logits.max(axis=-1, keepdims=True), -1e300)
    powers = numpy.exp(logits - most)
    total = powers.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total = total + numpy.exp(sinks.astype(numpy.float64).reshape(1, -1, 1, 1) - most)
    return powers / numpy.where(total == 0, 1, total)


def multi_head_attention(attributes, inputs):
    heads = attributes["num_heads"]
    query, key, value = (split(inputs[name], heads) for name in ("query", "key", "value"))
    if "bias" in inputs:
        bounds = numpy.cumsum([part.shape[1] * part.shape[3] for part in (query, key)])
        rows = numpy.split(inputs["bias"].astype(numpy.float64), bounds)
        query, key, value = (
            part + row.reshape(1, heads, 1, -1) for part, row in zip((query, key, value), rows, strict=True)
        )
    before = 0
    if "past_key" in inputs:
        before = inputs["past_key"].shape[2]
        key = numpy.concatenate([inputs["past_key"], key], axis=2)
        value = numpy.concatenate([inputs["past_value"], value], axis=2)
    queries, keys = query.shape[2], key.shape[2]
    logits = (attributes.get("scale", 0) or query.shape[3] ** -0.5) * (query @ key.swapaxes(2, 3))
    if "attention_bias" in inputs:
        logits = logits + inputs["attention_bias"]
    if "key_padding_mask" in inputs:
        mask = inputs["key_padding_mask"]
        if mask.ndim == 1:
            mask = numpy.arange(keys) < mask[: query.shape[0], None]
        mask = mask.reshape(query.shape[0], 1, -1, keys)
        logits = logits + numpy.where(mask, 0, attributes.get("mask_filter_value", -10000.0))
    if attributes.get("unidirectional", 0):
        logits = numpy.where(numpy.arange(keys) <= numpy.arange(queries)[:, None] + before, logits, -numpy.inf)
    output = pack(weights_of(logits) @ value)
    return {"output": output, "present_key": key, "present_value": value, "qk": logits}, {}


def rotated(rows, cosine, sine, positions, interleaved):
    cosine, sine = (array.astype(numpy.float64)[positions][:, None] for array in (cosine, sine))
    pairs = cosine.shape[-1]
    first, second = slice(0, pairs), slice(pairs, 2 * pairs)
    if interleaved:
        first, second = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    result = rows.copy()
    result[..., first] = rows[..., first] * cosine - rows[..., second] * sine
    result[..., second] = rows[..., first] * sine + rows[..., second] * cosine
    return result


def group_query_attention(attributes, inputs):
    heads, groups = attributes["num_heads"], attributes["kv_num_heads"]
    if "key" in inputs:
        query, key, value = split(inputs["query"], heads), split(inputs["key"], groups), split(inputs["value"], groups)
    else:
        packed = split(inputs["query"], heads + 2 * groups)
        query, key, value = packed[:, :heads], packed[:, heads:-groups], packed[:, -groups:]
    batches, _, fresh, dimension = query.shape
    total = int(inputs["total_sequence_length"][0])
    after = inputs["seqlens_k"].astype(int) + 1
    valid = inputs["query_seqlens"].astype(int) if "query_seqlens" in inputs else numpy.minimum(fresh, after)
    positions = (after - valid)[:, None] + numpy.arange(fresh)
    if attributes.get("do_rotary", 0):
        angles = positions
        if "position_ids" in inputs:
            ids = inputs["position_ids"]
            angles = ids[:1, :1] + numpy.arange(fresh) + numpy.zeros((batches, 1), int) if fresh == total else ids
        angles = numpy.minimum(angles, inputs["cos_cache"].shape[0] - 1)  # of padding
        turn = lambda rows: rotated(
            rows, inputs["cos_cache"], inputs["sin_cache"], angles, attributes.get("rotary_interleaved", 0)
        )
        query, key = turn(query), turn(key)
    capacity = max(total, inputs["past_key"].shape[2] if "past_key" in inputs else 0)
    present = {}
    for name, new in (("key", key), ("value", value)):
        rows = numpy.zeros((batches, groups, capacity, dimension))
        for b in range(batches):
            before = after[b] - valid[b]
            if before:
                rows[b, :, :before] = inputs[f"past_{name}"][b, :, :before]
            rows[b, :, before : after[b]] = new[b, :, : valid[b]]
        present[name] = rows
    wide = {name: rows[:, :, :total].repeat(heads // groups, axis=1) for name, rows in present.items()}
    logits = (attributes.get("scale", 0) or dimension**-0.5) * (query @ wide["key"].swapaxes(2, 3))
    if attributes.get("softcap", 0):
        logits = attributes["softcap"] * numpy.tanh(logits / attributes["softcap"])
    if "attention_bias" in inputs:
        logits = logits + inputs["attention_bias"]
    keys = numpy.arange(total)
    seen = keys < after[:, None, None]
    if attributes.get("causal", 1):
        seen = seen & (keys <= positions[:, :, None])
    if attributes.get("local_window_size", -1) > 0:
        seen = seen & (keys > positions[:, :, None] - attributes["local_window_size"])
    seen = (seen & (numpy.arange(fresh) < valid[:, None])[:, :, None])[:, None]
    logits = numpy.where(seen, logits, -numpy.inf)
    sinks = inputs.get("head_sink", numpy.zeros(heads) if attributes.get("smooth_softmax", -1) == 1 else None)
    weights = weights_of(logits, sinks)
    outputs = {
        "output": pack(weights @ wide["value"]),
        "present_key": present["key"],
        "present_value": present["value"],
        "output_qk": logits if attributes.get("qk_output", 0) == 1 else weights,
    }
    kept = numpy.arange(capacity) < after[:, None]
    rows = (numpy.arange(fresh) < valid[:, None])[..., None]
    cache = kept[:, None, :, None]
    return outputs, {"output": rows, "present_key": cache, "present_value": cache, "output_qk": seen}


EXACT = {"MultiHeadAttention": multi_head_attention, "GroupQueryAttention": group_query_attention}


def multi_head_cases():
    batch, heads, queries, keys, dim = 2, 2, 3, 5, 8
    hidden = heads * dim
    cross = lambda: {"query": normal(batch, queries, hidden), "key": normal(batch, keys, hidden), "value": normal(batch, keys, hidden)}
    own = lambda: {name: normal(batch, queries, hidden) for name in ("query", "key", "value")}
    past = lambda: {name: normal(batch, heads, 4, dim) for name in ("past_key", "past_value")}
    presents = ["present_key", "present_value"]
    mask = lambda *shape: (random.random(shape) < 0.6).astype(numpy.int32)
    with_key = lambda array: numpy.maximum(array, numpy.arange(array.shape[-1]) == 0).astype(numpy.int32)
    yield "cross", {}, cross(), []
    yield "one_query", {}, cross() | {"query": normal(batch, 1, hidden)}, ["qk"]
    yield "scale", {"scale": 0.3}, cross(), []
    yield "value_dimension", {}, cross() | {"value": normal(batch, keys, heads * 6)}, []
    yield "bias", {}, cross() | {"bias": normal(3 * hidden)}, []
    yield "bias_value_dimension", {}, cross() | {"value": normal(batch, keys, heads * 6), "bias": normal(2 * hidden + 12)}, []
    yield "heads_as_axis", {}, {"query": normal(batch, queries, hidden)} | {name: normal(batch, heads, keys, dim) for name in ("key", "value")}, []
    yield "lengths", {}, cross() | {"key_padding_mask": integers(3, 5)}, []
    yield "lengths_and_offsets", {}, own() | {"key_padding_mask": integers(2, 3, 0, 2, 5, 0, 2, 5)}, []
    yield "mask_of_keys", {}, cross() | {"key_padding_mask": with_key(mask(batch, keys))}, []
    yield "mask_of_pairs", {}, cross() | {"key_padding_mask": with_key(mask(batch, queries, keys))}, ["qk"]
    yield "nothing_but_padding", {"mask_filter_value": -30.0}, cross() | {"key_padding_mask": integers(0, 2)}, ["qk"]
    for shape in ((1, 1), (batch, 1), (1, heads), (batch, heads)):
        yield f"attention_bias_{shape[0]}_{shape[1]}", {}, cross() | {"attention_bias": normal(*shape, queries, keys)}, []
    yield "unidirectional", {"unidirectional": 1}, own(), []
    yield "unidirectional_mask", {"unidirectional": 1}, own() | {"key_padding_mask": with_key(mask(batch, queries))}, ["qk"]
    yield "present", {}, own(), presents
    yield "past", {}, own() | past(), presents
    yield "past_unidirectional", {"unidirectional": 1}, own() | past(), presents + ["qk"]
    yield "past_bias", {}, own() | past() | {"bias": normal(3 * hidden)}, presents
    yield "past_everything", {"unidirectional": 1, "scale": 0.5}, own() | past() | {"bias": normal(3 * hidden), "key_padding_mask": with_key(mask(batch, queries + 4)), "attention_bias": normal(1, heads, queries, queries + 4)}, presents
    step = {name: normal(batch, 1, hidden) for name in ("query", "key", "value")}
    yield "past_step", {"unidirectional": 1}, step | past() | {"key_padding_mask": integers(5, 2)}, presents


def group_query_cases():
    batch, heads, groups, dim = 2, 4, 2, 16
    own = lambda batch, new: {"query": normal(batch, new, heads * dim)} | {name: normal(batch, new, groups * dim) for name in ("key", "value")}
    past = lambda batch, capacity: {name: normal(batch, groups, capacity, dim) for name in ("past_key", "past_value")}
    lengths = lambda *after: {"seqlens_k": integers(*after) - 1, "total_sequence_length": integers(max(after))}
    angles = lambda: {name: normal(20, dim // 2) for name in ("cos_cache", "sin_cache")}
    presents = ["present_key", "present_value"]
    prompt = lambda: own(batch, 5) | lengths(5, 5)
    yield "prompt", {}, prompt(), presents
    yield "prompt_alone", {}, prompt(), []
    yield "prompt_padded", {}, own(batch, 5) | lengths(5, 3), presents
    yield "prompt_scale", {"scale": 0.4}, prompt(), presents
    yield "prompt_not_causal", {"causal": 0}, own(batch, 5) | lengths(5, 4), presents
    yield "prompt_window_1", {"local_window_size": 1}, prompt(), presents
    yield "prompt_window_3", {"local_window_size": 3}, prompt(), presents
    yield "prompt_softcap", {"softcap": 0.7}, prompt(), presents
    yield "prompt_bias", {}, prompt() | {"attention_bias": normal(1, heads, 5, 5)}, presents
    yield "prompt_softcap_bias", {"softcap": 0.7}, prompt() | {"attention_bias": normal(batch, 1, 5, 5)}, presents
    yield "prompt_sinks", {}, prompt() | {"head_sink": normal(heads)}, presents
    yield "prompt_smooth", {"smooth_softmax": 1}, prompt(), presents
    yield "prompt_everything", {"softcap": 0.9, "local_window_size": 2, "do_rotary": 1}, prompt() | angles() | {"attention_bias": normal(1, 1, 5, 5), "head_sink": normal(heads)}, presents
    packed = {"query": normal(batch, 5, (heads + 2 * groups) * dim)}
    yield "prompt_packed", {}, packed | lengths(5, 5), presents
    yield "prompt_packed_rotary", {"do_rotary": 1}, packed | lengths(5, 5) | angles(), presents
    yield "prompt_rotary", {"do_rotary": 1}, own(batch, 5) | lengths(5, 3) | angles(), presents
    yield "prompt_rotary_interleaved", {"do_rotary": 1, "rotary_interleaved": 1}, prompt() | angles(), presents
    yield "prompt_positions", {"do_rotary": 1}, prompt() | angles() | {"position_ids": random.integers(0, 12, (batch, 5))}, presents
    yield "prompt_logits", {"qk_output": 1, "softcap": 0.7}, prompt(), presents + ["output_qk"]
    yield "prompt_weights", {"qk_output": 2, "smooth_softmax": 1}, prompt(), presents + ["output_qk"]
    step = lambda: own(batch, 1)
    yield "step", {}, step() | past(batch, 6) | lengths(7, 7), presents
    yield "step_ragged", {}, step() | past(batch, 6) | lengths(7, 3), presents
    yield "step_capacity", {}, step() | past(batch, 12) | lengths(7, 3), presents
    yield "step_rotary", {"do_rotary": 1}, step() | past(batch, 12) | lengths(7, 3) | angles(), presents
    yield "step_positions", {"do_rotary": 1, "rotary_interleaved": 1}, step() | past(batch, 6) | lengths(7, 7) | angles() | {"position_ids": numpy.array([[11], [3]])}, presents
    yield "step_window", {"local_window_size": 3}, step() | past(batch, 6) | lengths(7, 2), presents
    yield "step_softcap_bias", {"softcap": 0.8}, step() | past(batch, 6) | lengths(7, 5) | {"attention_bias": normal(1, heads, 1, 7)}, presents
    yield "step_sinks", {}, step() | past(batch, 6) | lengths(7, 5) | {"head_sink": normal(heads)}, presents
    yield "chunk", {"do_rotary": 1}, own(1, 4) | past(1, 5) | lengths(9) | angles(), presents
    yield "chunk_window", {"local_window_size": 4}, own(1, 4) | past(1, 5) | lengths(9), presents
    yield "chunks_padded", {"do_rotary": 1}, own(batch, 4) | past(batch, 12) | lengths(9, 6) | angles() | {"query_seqlens": integers(3, 1)}, presents
    yield "chunks_idle", {}, own(batch, 4) | past(batch, 12) | lengths(7, 3) | {"query_seqlens": integers(4, 0)}, presents


def distance(got, exact):
    """The greatest where both are finite; where one is not, both must be the same."""
    got, finite = got.astype(numpy.float64), numpy.isfinite(exact)
    if not numpy.array_equal(got[~finite], exact[~finite]):
        raise AssertionError("infinities differ")
    return float(numpy.max(numpy.abs(got[finite] - exact[finite]), initial=0.0))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = pathlib.Path(__file__).resolve().parent
    parser.add_argument("path", nargs="?", type=pathlib.Path, default=here / "onnxruntime.safetensors")
    path = parser.parse_args().path

    cases, tensors = [], {}
    listed = [("MultiHeadAttention", {"num_heads": 2}, case) for case in multi_head_cases()]
    listed += [("GroupQueryAttention", {"num_heads": 4, "kv_num_heads": 2}, case) for case in group_query_cases()]
    for operator, heads, (name, attributes, inputs, outputs) in listed:
        attributes = heads | attributes
        got = run(operator, attributes, inputs, ["output", *outputs])
        exact, defined = EXACT[operator](attributes, inputs)
        name, errors = f"{operator}/{name}", {}
        for output, array in got.items():
            if output in defined:
                array = numpy.where(defined[output], array, exact[output]).astype(array.dtype)
            if output == "qk":
                array = numpy.where(array == numpy.finfo(array.dtype).min, -numpy.inf, array).astype(array.dtype)
            got[output] = array
            errors[output] = distance(array, exact[output])
            largest = numpy.max(numpy.abs(exact[output][numpy.isfinite(exact[output])]), initial=1.0)
            if errors[output] > 1e-5 * max(1.0, 1e-1 * largest):
                raise AssertionError(f"{name}: {output} differs from the definition by {errors[output]}")
        cases.append({"name": name, "operator": operator, "attributes": attributes, "modifiers": {}, "errors": errors})
        tensors |= {f"{name}/{part}": numpy.ascontiguousarray(array) for part, array in (inputs | got).items()}
    manifest = {"cases": cases, "versions": {package: importlib.metadata.version(package) for package in PACKAGES}}
    safetensors.numpy.save_file(tensors, path, metadata={"manifest": json.dumps(manifest)})
    print(f"{path.name}: {len(cases)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
