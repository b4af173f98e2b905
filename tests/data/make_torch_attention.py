# SPDX-License-Identifier: BSD-3-Clause
"""Makes torch_attention.safetensors: outputs of PyTorch's scaled_dot_product_attention.

The inputs are float32 numbers from a fixed seed; PyTorch computes in double from those numbers, with its own
definition (the MATH backend), and the outputs are kept in double:

  <case>/query        [batch, query head, query, Dk]   float32
  <case>/key          [batch, key head, key, Dk]       float32
  <case>/value        [batch, key head, key, Dv]       float32
  <case>/mask         [batch or 1, head or 1, query or 1, key]   bool (true: visible) or float32 (added to the logit)
  <case>/offsets      [batch] int64   query i stands at position i + offset
  <case>/output       [batch, query head, query, Dv]   float64

The metadata has one entry, `manifest`, a JSON text {cases, inexpressible, versions}; every case has the entries name,
dtype, causal, causal_offset, window_left, window_right, scale, softcap, mask, key_lengths and weights.

PyTorch's is_causal is top-left: query i sees key j if j <= i, whatever the number of keys; causal_offset is always 0.
A query that sees no key has output 0. Query head h reads key head h / (query heads / key heads).

Made with torch 2.15.0, numpy 2.4.6 and safetensors 0.8.0:

  python make_torch_attention.py [torch_attention.safetensors]
"""

import argparse
import importlib.metadata
import json
import pathlib

import numpy
import safetensors.numpy
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

SEED = 20240229
PACKAGES = ["torch", "numpy", "safetensors"]

# What a case does not say: one batch, two heads, as many key heads as query heads, no mask, the default scale.
# `mask` is (kind, shape); `hidden_row` hides every key from that query; `spread` is the deviation of the inputs.
CASES = [
    {"name": "one_of_everything", "heads": (1, 1), "tokens": (1, 1), "dims": (1, 1)},
    {"name": "dense_odd", "batch": 2, "heads": (3, 3), "tokens": (33, 33), "dims": (40, 40)},
    {"name": "dense_cross", "tokens": (7, 65), "dims": (72, 72)},
    {"name": "dense_more_queries", "tokens": (65, 7), "dims": (3, 3)},
    {"name": "dense_wide_value", "tokens": (33, 65), "dims": (40, 72)},
    {"name": "dense_narrow_value", "tokens": (33, 33), "dims": (72, 3)},
    {"name": "dense_single_value", "tokens": (7, 33), "dims": (3, 1)},
    {"name": "decode_grouped", "batch": 2, "heads": (8, 2), "tokens": (1, 65), "dims": (80, 80)},
    {"name": "decode_one_key_head", "heads": (6, 1), "tokens": (1, 33), "dims": (72, 40)},
    {"name": "causal_square", "tokens": (65, 65), "dims": (80, 80), "causal": True},
    {"name": "causal_more_keys", "tokens": (7, 33), "dims": (40, 40), "causal": True},
    {"name": "causal_more_queries", "tokens": (33, 7), "dims": (40, 40), "causal": True},
    {"name": "causal_grouped", "heads": (6, 2), "tokens": (33, 33), "dims": (40, 72), "causal": True},
    {"name": "bool_mask", "tokens": (33, 65), "dims": (40, 40), "mask": ("bool", (1, 1, 33, 65))},
    {"name": "bool_mask_per_batch", "batch": 2, "tokens": (7, 33), "dims": (72, 72), "mask": ("bool", (2, 1, 1, 33))},
    {"name": "hidden_row", "tokens": (7, 33), "dims": (3, 3), "mask": ("bool", (1, 2, 7, 33)), "hidden_row": 4},
    {"name": "float_mask", "tokens": (33, 33), "dims": (40, 40), "mask": ("float", (1, 1, 33, 33))},
    {"name": "float_mask_heads", "heads": (4, 2), "tokens": (7, 65), "dims": (80, 3), "mask": ("float", (1, 4, 7, 65))},
    {"name": "float_mask_infinite", "tokens": (33, 7), "dims": (40, 40), "mask": ("infinite", (1, 2, 33, 7))},
    {"name": "scale_small", "tokens": (33, 33), "dims": (72, 72), "scale": 0.01},
    {"name": "scale_one_causal", "tokens": (33, 33), "dims": (40, 40), "scale": 1.0, "causal": True},
    {"name": "large_logits", "tokens": (33, 65), "dims": (40, 40), "spread": 8.0},
]


def make_mask(kind, shape, hidden_row, generator):
    """A mask in which every query sees a key, but for the hidden row."""
    if kind == "float":
        return torch.randn(shape, generator=generator)
    visible = torch.rand(shape, generator=generator) < 0.6
    visible[..., 0] = True
    if hidden_row is not None:
        visible[:, :, hidden_row] = False
    if kind == "bool":
        return visible
    return torch.randn(shape, generator=generator).masked_fill(~visible, -torch.inf)


def definition(query, key, value, mask, causal, scale):
    """The formula, to see that the manifest says what PyTorch did."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    logits = (query.shape[-1] ** -0.5 if scale is None else scale) * query @ key.mT
    if causal:
        logits = logits.masked_fill(torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    return torch.softmax(logits, -1).nan_to_num(0) @ value


def convert(description, generator):
    """One case as (manifest entry, tensors by their short names)."""
    batch, (query_heads, key_heads) = description.get("batch", 1), description.get("heads", (2, 2))
    (queries, keys), (key_dim, value_dim) = description["tokens"], description["dims"]
    causal, scale = description.get("causal", False), description.get("scale")
    kind, mask_shape = description.get("mask", (None, None))

    query = torch.randn(batch, query_heads, queries, key_dim, generator=generator) * description.get("spread", 1.0)
    key = torch.randn(batch, key_heads, keys, key_dim, generator=generator)
    value = torch.randn(batch, key_heads, keys, value_dim, generator=generator)
    tensors = {"query": query, "key": key, "value": value, "offsets": torch.zeros(batch, dtype=torch.int64)}
    mask = None
    if kind:
        tensors["mask"] = make_mask(kind, mask_shape, description.get("hidden_row"), generator)
        mask = tensors["mask"] if kind == "bool" else tensors["mask"].double()

    arguments = [tensor.double() for tensor in (query, key, value)]
    with sdpa_kernel(SDPBackend.MATH):
        output = torch.nn.functional.scaled_dot_product_attention(
            *arguments, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=query_heads != key_heads
        )
    assert output.isfinite().all() and output.dtype == torch.float64, description["name"]
    torch.testing.assert_close(output, definition(*arguments, mask, causal, scale), rtol=1e-11, atol=1e-12)
    tensors["output"] = output

    case = {
        "name": description["name"],
        "dtype": "float32",
        "causal": causal,
        "causal_offset": 0,
        "window_left": -1,
        "window_right": -1,
        "scale": scale,
        "softcap": 0.0,
        "mask": {None: None, "bool": "bool", "float": "float", "infinite": "float"}[kind],
        "key_lengths": False,
        "weights": False,
    }
    return case, {name: tensor.contiguous().numpy() for name, tensor in tensors.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = pathlib.Path(__file__).resolve().parent
    parser.add_argument("path", nargs="?", type=pathlib.Path, default=here / "torch_attention.safetensors")
    path = parser.parse_args().path

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(SEED)
    cases, tensors = [], {}
    for description in CASES:
        case, parts = convert(description, generator)
        cases.append(case)
        tensors |= {f"{case['name']}/{name}": numpy.ascontiguousarray(part) for name, part in parts.items()}

    manifest = {
        "cases": cases,
        "inexpressible": [],
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }
    safetensors.numpy.save_file(tensors, path, metadata={"manifest": json.dumps(manifest)})
    print(f"{path.name}: {len(cases)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
