# SPDX-License-Identifier: BSD-3-Clause
"""Makes torch_option_gradients.safetensors: what PyTorch's autograd says of softmax attention with options.

The inputs are float32 numbers from a fixed seed; PyTorch computes the formulas below in double from those numbers, and
the gradients are kept in float32. Every case has query, key, value [batch, head, token, dimension], of_output, and

  bias           [1, key head, query, key]
  temperature    [head]
  value_gain     [batch, 1, key]
  gates          [batch, head]
  centres        [query], of a Gaussian of deviation 6
  sinks, of_lse  [head], [batch, head, query]: of softmax alone

with a gradient of_<name> of each but the centres and of_lse. Positions are rotary (in halves), logits are bounded by
5 tanh(s / 5), multiplied by the temperature, and the bias is added; the mask is causal, ending with the keys.

The metadata has one entry, `manifest`, a JSON text {cases, versions}; every case has the entries name and normalizer
("softmax", "count" or "sum").

Made with torch 1.13.1:

  python make_torch_option_gradients.py [torch_option_gradients.safetensors]
"""

import argparse
import json
import pathlib

import torch
from make_torch_linear_gradients import save

SEED = 20261202

CASES = [
    {"name": "softmax", "normalizer": "softmax"},
    {"name": "relu_by_count", "normalizer": "count"},
    {"name": "relu_by_sum", "normalizer": "sum"},
]
BATCH, HEADS, KEY_HEADS, QUERIES, KEYS, KEY_DIM, VALUE_DIM = 2, 4, 2, 9, 13, 8, 5


def rotate(rows, first):
    """Rows of positions first, first + 1, ..., rotated in halves."""
    half = rows.shape[-1] // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(first, first + rows.shape[2], dtype=torch.float64)[:, None] * frequencies
    a, b = rows[..., :half], rows[..., half:]
    return torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()), -1)


def loss(normalizer, x):
    shared = HEADS // KEY_HEADS
    query, key = rotate(x["query"], KEYS - QUERIES), rotate(x["key"], 0)
    logits = query @ key.repeat_interleave(shared, 1).transpose(-1, -2) / KEY_DIM**0.5
    logits = 5 * torch.tanh(logits / 5) * x["temperature"][:, None, None]
    logits = logits + x["bias"].repeat_interleave(shared, 1)
    seen = torch.ones(QUERIES, KEYS, dtype=torch.bool).tril(KEYS - QUERIES)
    result = 0
    if normalizer == "softmax":
        logits = logits.masked_fill(~seen, float("-inf"))
        sinks = x["sinks"][:, None, None].expand(BATCH, HEADS, QUERIES, 1)
        all_logits = torch.cat((logits, sinks), -1)
        weights = torch.softmax(all_logits, -1)[..., :-1]
        result = (torch.logsumexp(all_logits, -1) * x["of_lse"]).sum()
    else:
        weights = torch.relu(logits) * seen
        weights = weights / (seen.sum(-1)[:, None] if normalizer == "count" else weights.sum(-1, keepdim=True) + 1e-5)
    distance = torch.arange(KEYS) - x["centres"][:, None]
    weights = weights * torch.exp(-(distance**2) / (2 * 6.0**2))
    value = (x["value"] * x["value_gain"][..., None]).repeat_interleave(shared, 1)
    output = weights @ value * x["gates"][:, :, None, None]
    return result + (output * x["of_output"]).sum()


def convert(case, generator):
    """The tensors of a case by their short names."""

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    inputs = {
        "query": normal(BATCH, HEADS, QUERIES, KEY_DIM),
        "key": normal(BATCH, KEY_HEADS, KEYS, KEY_DIM),
        "value": normal(BATCH, KEY_HEADS, KEYS, VALUE_DIM),
        "bias": normal(1, KEY_HEADS, QUERIES, KEYS),
        "temperature": normal(HEADS),
        "value_gain": normal(BATCH, 1, KEYS),
        "gates": normal(BATCH, HEADS),
    }
    given = {"of_output": normal(BATCH, HEADS, QUERIES, VALUE_DIM), "centres": torch.rand(QUERIES) * KEYS}
    if case["normalizer"] == "softmax":
        inputs["sinks"] = normal(HEADS)
        given["of_lse"] = normal(BATCH, HEADS, QUERIES)
    doubles = {name: tensor.double().requires_grad_() for name, tensor in inputs.items()}
    total = loss(case["normalizer"], doubles | {name: tensor.double() for name, tensor in given.items()})
    gradients = torch.autograd.grad(total, list(doubles.values()))
    return inputs | given | {f"of_{name}": g.float() for name, g in zip(doubles, gradients, strict=True)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = pathlib.Path(__file__).resolve().parent
    parser.add_argument("path", nargs="?", type=pathlib.Path, default=here / "torch_option_gradients.safetensors")
    path = parser.parse_args().path

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(SEED)
    tensors = {}
    for case in CASES:
        tensors |= {f"{case['name']}/{name}": part.contiguous() for name, part in convert(case, generator).items()}
    manifest = {"cases": CASES, "versions": {"torch": torch.__version__}}
    save(path, tensors, {"manifest": json.dumps(manifest)})
    print(f"{path.name}: {len(CASES)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
