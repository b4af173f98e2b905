# SPDX-License-Identifier: BSD-3-Clause
"""Makes torch_gradients.safetensors: what PyTorch's autograd says of scaled_dot_product_attention.

The inputs are float32 numbers from a fixed seed; PyTorch computes in double from those numbers, with its own
definition (the MATH backend), and the gradients are kept in double:

  <case>/query, key, value     as in make_torch_attention.py, float32
  <case>/of_output             [batch, query head, query, Dv]   float32, the gradient of the output
  <case>/mask                  bool (true: visible) or float32 (added to the logit), if there is one
  <case>/of_query, of_key, of_value   float64, of the shapes of the tensors

The metadata has one entry, `manifest`, a JSON text {cases, versions}; every case has the entries name, causal
(top-left), scale (null: the usual one) and mask (null, "bool" or "float").

Made with torch 2.11.0 and safetensors 0.8.0:

  python make_torch_gradients.py [torch_gradients.safetensors]
"""

import argparse
import importlib.metadata
import json
import pathlib

import safetensors.torch
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

SEED = 20261201

# One batch, two heads, as many key heads as query heads, no mask, the usual scale, unless a case says otherwise.
CASES = [
    {"name": "one_of_everything", "heads": (1, 1), "tokens": (1, 1), "dims": (1, 1)},
    {"name": "dense", "batch": 2, "tokens": (33, 65), "dims": (40, 24)},
    {"name": "grouped_causal", "heads": (6, 2), "tokens": (65, 65), "dims": (16, 16), "causal": True},
    {"name": "scale", "tokens": (17, 33), "dims": (24, 8), "scale": 0.5},
    {"name": "bool_mask", "tokens": (33, 65), "dims": (24, 24), "mask": "bool"},
    {"name": "float_mask", "heads": (4, 2), "tokens": (33, 17), "dims": (24, 40), "mask": "float"},
    {"name": "large_logits", "tokens": (33, 33), "dims": (24, 24), "spread": 6.0, "causal": True},
]


def convert(description, generator):
    """One case as (manifest entry, tensors by their short names)."""
    batch, (query_heads, key_heads) = description.get("batch", 1), description.get("heads", (2, 2))
    (queries, keys), (key_dim, value_dim) = description["tokens"], description["dims"]
    causal, scale, kind = description.get("causal", False), description.get("scale"), description.get("mask")

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    tensors = {
        "query": normal(batch, query_heads, queries, key_dim) * description.get("spread", 1.0),
        "key": normal(batch, key_heads, keys, key_dim),
        "value": normal(batch, key_heads, keys, value_dim),
        "of_output": normal(batch, query_heads, queries, value_dim),
    }
    mask = None
    if kind == "bool":
        mask = tensors["mask"] = torch.rand(1, query_heads, queries, keys, generator=generator) < 0.6
        mask[..., 0] = True
    elif kind == "float":
        tensors["mask"] = normal(1, query_heads, queries, keys)
        mask = tensors["mask"].double()

    inputs = [tensors[name].double().requires_grad_() for name in ("query", "key", "value")]
    with sdpa_kernel(SDPBackend.MATH):
        output = torch.nn.functional.scaled_dot_product_attention(
            *inputs, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=query_heads != key_heads
        )
    gradients = torch.autograd.grad(output, inputs, tensors["of_output"].double())
    tensors |= dict(zip(("of_query", "of_key", "of_value"), gradients, strict=True))
    case = {"name": description["name"], "causal": causal, "scale": scale, "mask": kind}
    return case, {name: tensor.contiguous() for name, tensor in tensors.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = pathlib.Path(__file__).resolve().parent
    parser.add_argument("path", nargs="?", type=pathlib.Path, default=here / "torch_gradients.safetensors")
    path = parser.parse_args().path

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(SEED)
    cases, tensors = [], {}
    for description in CASES:
        case, parts = convert(description, generator)
        cases.append(case)
        tensors |= {f"{case['name']}/{name}": part for name, part in parts.items()}
    versions = {package: importlib.metadata.version(package) for package in ("torch", "safetensors")}
    safetensors.torch.save_file(tensors, path, metadata={"manifest": json.dumps({"cases": cases, "versions": versions})})
    print(f"{path.name}: {len(cases)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
