"""Makes onnx_attention.safetensors: the node tests of ONNX's Attention operator.

The cases come from the generator inside the onnx package itself (the same one that makes the published test suite),
so inputs and expected outputs are ONNX's own. Each case is kept in the words of `softmax_attention`:

  <case>/query        [batch, query head, query, Dk]   three-dimensional inputs are split into heads
  <case>/key          [batch, key head, key, Dk]       past keys stand before the new ones
  <case>/value        [batch, key head, key, Dv]       past values likewise
  <case>/mask         [batch or 1, head or 1, query or 1, key]   bool (true: visible) or float (added to the logit)
  <case>/offsets      [batch] int64   query i of the batch stands at position i + offset
  <case>/key_lengths  [batch] int64   only the first so many keys exist (where nonpad_kv_seqlen is given)
  <case>/output       [batch, query head, query, Dv]
  <case>/weights      [batch, query head, query, key]   the attention weights (where qk_matmul_output_mode is 3)

The metadata has one entry, `manifest`, a JSON text:

  cases           for every case
    name, opset, dtype
    causal          bool: query i sees key j only if j <= i + offset
    causal_offset   the offset: one number, or a list with a number per batch where they differ
    window_left, window_right   query i sees key j only if i + offset - left <= j <= i + offset + right; -1 is open
    scale           a number, or null for 1/sqrt(Dk)
    softcap         a number, 0 for none; it is applied before a float mask is added
    mask            null, "bool" or "float"
    key_lengths, weights        bool: the tensor is there
    softmax_precision           the type ONNX asks for, or null
    dropped_outputs             outputs of the case that are not kept
    tolerance                   {relative, absolute}: ONNX's own
    output_error, weights_error greatest distance between ONNX's expectation and the same definition in double
  inexpressible   [{name, why}]: cases that `softmax_attention` cannot say
  versions        of the packages

What ONNX's reference implementation defines, and how the case says it here:

  * logit = scale * q.k, then the softcap, then the mask is added, then the softmax.
  * is_causal and the windows place query i at i + offset. The offset is 0 (top-left) without a cache, the length of
    the past with past_key, and nonpad_kv_seqlen - (number of queries), per batch and possibly negative, with
    nonpad_kv_seqlen.
  * nonpad_kv_seqlen also hides every key from that length on, causal or not.
  * A mask with fewer columns than there are keys hides the keys that are missing. It is kept here padded: with false
    or with -inf. Masks of rank one to three are aligned at the right and kept with four dimensions.
  * A query that sees no key has output 0 and weights 0.
  * Query head h reads key head h / (query heads / key heads).
  * ONNX computes 16-bit cases in 16-bit arithmetic, step by step: output_error says how far that is from the exact
    result.

Every case with an "_expanded" twin (the same test, with the operator written out in primitive operators) is kept once.

Made with onnx 1.23.2, numpy 2.4.6, ml_dtypes 0.6.0 and safetensors 0.8.0:

  python make_onnx_attention.py [onnx_attention.safetensors]
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

KNOWN_ATTRIBUTES = {
    "is_causal",
    "kv_num_heads",
    "left_window_size",
    "q_num_heads",
    "qk_matmul_output_mode",
    "right_window_size",
    "scale",
    "softcap",
    "softmax_precision",
}
EPSILON = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
PACKAGES = ["onnx", "numpy", "ml_dtypes", "safetensors"]
AFTER_SOFTMAX = 3


class Inexpressible(Exception):
    """The case asks for something that `softmax_attention` does not have."""


def split_heads(array, heads):
    """[batch, token, heads * dim] becomes [batch, head, token, dim]; four dimensions stay as they are."""
    if array.ndim == 4:
        return array
    batch, tokens, hidden = array.shape
    return numpy.ascontiguousarray(array.reshape(batch, tokens, heads, hidden // heads).transpose(0, 2, 1, 3))


def four_dimensional_mask(mask, keys):
    """Four dimensions, and one column for every key: a missing column hides its key."""
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    missing = keys - mask.shape[-1]
    if missing > 0:
        hidden = False if mask.dtype == numpy.bool_ else -numpy.inf
        mask = numpy.pad(mask, [(0, 0), (0, 0), (0, 0), (0, missing)], constant_values=hidden)
    return mask


def definition(case, tensors):
    """(output, weights) of one case in double, from what the file says and nothing else."""
    query = tensors["query"].astype(numpy.float64)
    group = query.shape[1] // tensors["key"].shape[1]
    key = tensors["key"].astype(numpy.float64).repeat(group, axis=1)
    value = tensors["value"].astype(numpy.float64).repeat(group, axis=1)
    batch, _, queries, dim = query.shape
    keys = key.shape[2]

    scale = dim**-0.5 if case["scale"] is None else case["scale"]
    logits = scale * (query @ key.swapaxes(2, 3))
    if case["softcap"] > 0:
        logits = case["softcap"] * numpy.tanh(logits / case["softcap"])

    offsets = tensors["offsets"].reshape(batch, 1, 1, 1)
    distance = numpy.arange(queries).reshape(queries, 1) + offsets - numpy.arange(keys)
    visible = numpy.ones((batch, 1, queries, keys), bool)
    if case["causal"]:
        visible &= distance >= 0
    if case["window_left"] >= 0:
        visible &= distance <= case["window_left"]
    if case["window_right"] >= 0:
        visible &= -distance <= case["window_right"]
    if case["key_lengths"]:
        visible &= numpy.arange(keys) < tensors["key_lengths"].reshape(batch, 1, 1, 1)
    if case["mask"] == "bool":
        visible = visible & tensors["mask"]
    if case["mask"] == "float":
        logits = logits + tensors["mask"].astype(numpy.float64)

    logits = numpy.where(visible, logits, -numpy.inf)
    largest = logits.max(axis=-1, keepdims=True)
    weights = numpy.exp(logits - numpy.where(numpy.isneginf(largest), 0, largest))
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights / numpy.where(total == 0, 1, total)
    return weights @ value, weights


def greatest_difference(first, second):
    return float(numpy.max(numpy.abs(first.astype(numpy.float64) - second), initial=0.0))


def convert(test):
    """One published test as (manifest entry, tensors by their short names)."""
    [node] = test.model.graph.node
    [(input_arrays, output_arrays)] = test.data_sets
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    inputs = dict(zip([name for name in node.input if name], input_arrays, strict=True))
    outputs = dict(zip([name for name in node.output if name], output_arrays, strict=True))
    # Inputs and outputs are known by their place; the names above only follow it by custom.
    places = ["Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen"]
    inputs = {place: inputs[name] for place, name in zip(places, node.input) if name}
    places = ["Y", "present_key", "present_value", "qk_matmul_output"]
    outputs = {place: outputs[name] for place, name in zip(places, node.output) if name}

    unknown = set(attributes) - KNOWN_ATTRIBUTES
    if unknown:
        raise Inexpressible(f"attributes {sorted(unknown)} have no counterpart")
    types = {inputs[name].dtype.name for name in "QKV"}
    if len(types) != 1 or not types <= set(EPSILON):
        raise Inexpressible(f"query, key and value are of the types {sorted(types)}")

    query_heads = attributes.get("q_num_heads", inputs["Q"].shape[1])
    key_heads = attributes.get("kv_num_heads", inputs["K"].shape[1])
    query = split_heads(inputs["Q"], query_heads)
    key = split_heads(inputs["K"], key_heads)
    value = split_heads(inputs["V"], key_heads)
    batch, _, queries, _ = query.shape
    offsets = numpy.zeros(batch, numpy.int64)
    if "past_key" in inputs:
        offsets[:] = inputs["past_key"].shape[2]
        key = numpy.concatenate([inputs["past_key"], key], axis=2)
        value = numpy.concatenate([inputs["past_value"], value], axis=2)
    elif "nonpad_kv_seqlen" in inputs:
        offsets[:] = inputs["nonpad_kv_seqlen"] - queries
    for name, expected in (("present_key", key), ("present_value", value)):
        if name in outputs and not numpy.array_equal(outputs[name], expected):
            raise AssertionError(f"{test.name}: {name} is not the past followed by the new")

    tensors = {"query": query, "key": key, "value": value, "offsets": offsets}
    tensors["output"] = split_heads(outputs["Y"], query_heads)
    dropped = sorted(set(outputs) - {"Y"})
    if "attn_mask" in inputs:
        tensors["mask"] = four_dimensional_mask(inputs["attn_mask"], key.shape[2])
    if "nonpad_kv_seqlen" in inputs:
        tensors["key_lengths"] = inputs["nonpad_kv_seqlen"].astype(numpy.int64)
    if "qk_matmul_output" in outputs and attributes.get("qk_matmul_output_mode", 0) == AFTER_SOFTMAX:
        tensors["weights"] = outputs["qk_matmul_output"]
        dropped.remove("qk_matmul_output")

    mask = None
    if "mask" in tensors:
        mask = "bool" if tensors["mask"].dtype == numpy.bool_ else "float"
    softmax_precision = None
    if "softmax_precision" in attributes:
        softmax_precision = onnx.helper.tensor_dtype_to_np_dtype(attributes["softmax_precision"]).name
    case = {
        "name": test.name,
        "opset": test.model.opset_import[0].version,
        "dtype": query.dtype.name,
        "causal": bool(attributes.get("is_causal", 0)),
        "causal_offset": int(offsets[0]) if len(set(offsets.tolist())) == 1 else offsets.tolist(),
        "window_left": attributes.get("left_window_size", -1),
        "window_right": attributes.get("right_window_size", -1),
        "scale": attributes.get("scale"),
        "softcap": attributes.get("softcap", 0.0),
        "mask": mask,
        "key_lengths": "key_lengths" in tensors,
        "weights": "weights" in tensors,
        "softmax_precision": softmax_precision,
        "dropped_outputs": dropped,
        "tolerance": {"relative": test.rtol, "absolute": test.atol},
    }

    output, weights = definition(case, tensors)
    case["output_error"] = greatest_difference(tensors["output"], output)
    case["weights_error"] = greatest_difference(tensors["weights"], weights) if "weights" in tensors else 0.0
    # ONNX rounds after every step: the two square roots of the scale, the products and their sums, the logits, the
    # weights and the output. Sixteen roundings, each as large as the greatest value, are a wide margin.
    allowed = 16 * EPSILON[query.dtype.name]
    if max(case["output_error"] / max(1.0, numpy.abs(output).max()), case["weights_error"]) > allowed:
        raise AssertionError(f"{test.name}: ONNX and the definition differ by {case['output_error']}")
    return case, tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = pathlib.Path(__file__).resolve().parent
    parser.add_argument("path", nargs="?", type=pathlib.Path, default=here / "onnx_attention.safetensors")
    path = parser.parse_args().path

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = collect_testcases("Attention")

    cases, tensors, inexpressible = [], {}, []
    for test in tests:
        if test.name.endswith("_expanded"):
            continue
        try:
            case, parts = convert(test)
        except Inexpressible as reason:
            inexpressible.append({"name": test.name, "why": str(reason)})
            continue
        cases.append(case)
        tensors |= {f"{case['name']}/{name}": numpy.ascontiguousarray(part) for name, part in parts.items()}

    manifest = {
        "cases": cases,
        "inexpressible": inexpressible,
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }
    safetensors.numpy.save_file(tensors, path, metadata={"manifest": json.dumps(manifest)})
    print(f"{path.name}: {len(cases)} cases, {len(inexpressible)} inexpressible, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
