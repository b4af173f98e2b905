# SPDX-License-Identifier: BSD-3-Clause
"""Makes torch_linear_gradients.safetensors: what PyTorch's autograd says of linear attention, token by token.

The inputs are float32 numbers from a fixed seed; PyTorch computes the recurrence in double from those numbers, and the
gradients are kept in float32:

  <case>/query, key, value            [batch, head, token, dimension]
  <case>/of_output, of_final          the gradients of the output and of the final state
  <case>/state                        [batch, head, feature, value dimension], before the first token
  <case>/logs                         of a decay of heads [head, 1, 1, 1], tokens [batch, head, token, 1] or features
  <case>/rates                        [batch, head, token, 1], if there are some
  <case>/of_query, of_key, of_value, of_state, of_logs, of_rates

The metadata has one entry, `manifest`, a JSON text {cases, versions}; every case has the entries name, decay (null,
"head", "token" or "feature"), update ("additive", "gates" or "delta") and elu (whether queries and keys are mapped by
elu(x) + 1 and outputs divided by the sum of keys, with an epsilon of 1e-6 and no state).

Made with torch 1.13.1:

  python make_torch_linear_gradients.py [torch_linear_gradients.safetensors]
"""

import argparse
import json
import pathlib
import struct

import torch

SEED = 20261201

CASES = [
    {"name": "plain"},
    {"name": "retention", "decay": "head"},
    {"name": "mamba2", "decay": "token", "update": "gates"},
    {"name": "gated_linear_attention", "decay": "feature"},
    {"name": "delta_net", "update": "delta"},
    {"name": "gated_delta_net", "decay": "token", "update": "delta"},
    {"name": "delta_of_features", "decay": "feature", "update": "delta"},
    {"name": "linear_transformer", "elu": True},
]
BATCH, HEADS, TOKENS, KEY_DIM, VALUE_DIM = 1, 2, 37, 6, 5


def output_and_state(case, query, key, value, state, logs, rates):
    """The recurrence."""
    if case["elu"]:
        query, key = torch.nn.functional.elu(query) + 1, torch.nn.functional.elu(key) + 1
    total, outputs = torch.zeros_like(key[:, :, 0]), []
    for t in range(TOKENS):
        k, v = key[:, :, t], value[:, :, t]
        if logs is not None:
            log = logs[:, :, 0] if case["decay"] == "head" else logs[:, :, t]
            state = state * log.exp().unsqueeze(-1)
        if case["update"] == "delta":
            v = v - torch.einsum("bhf,bhfd->bhd", k, state)
        if rates is not None:
            v = v * rates[:, :, t]
        state = state + torch.einsum("bhf,bhd->bhfd", k, v)
        total = total + k
        o = torch.einsum("bhf,bhfd->bhd", query[:, :, t], state)
        if case["elu"]:
            o = o / ((query[:, :, t] * total).sum(-1, keepdim=True) + 1e-6)
        outputs.append(o)
    return torch.stack(outputs, 2), state


def convert(description, generator):
    """One case as (manifest entry, tensors by their short names)."""
    case = {"decay": None, "update": "additive", "elu": False} | description

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    inputs = {
        "query": normal(BATCH, HEADS, TOKENS, KEY_DIM),
        "key": normal(BATCH, HEADS, TOKENS, KEY_DIM) / KEY_DIM**0.5,
        "value": normal(BATCH, HEADS, TOKENS, VALUE_DIM),
    }
    if not case["elu"]:
        inputs["state"] = normal(BATCH, HEADS, KEY_DIM, VALUE_DIM)
    if case["decay"]:
        shape = {
            "head": (1, HEADS, 1, 1),
            "token": (BATCH, HEADS, TOKENS, 1),
            "feature": (BATCH, HEADS, TOKENS, KEY_DIM),
        }[case["decay"]]
        inputs["logs"] = -normal(*shape).abs() / 4
    if case["update"] != "additive":
        inputs["rates"] = normal(BATCH, HEADS, TOKENS, 1).sigmoid()
    given = {"of_output": normal(BATCH, HEADS, TOKENS, VALUE_DIM)}
    if not case["elu"]:
        given["of_final"] = normal(BATCH, HEADS, KEY_DIM, VALUE_DIM)

    leaves = {name: tensor.double().requires_grad_() for name, tensor in inputs.items()}
    start = leaves.get("state", torch.zeros(BATCH, HEADS, KEY_DIM, VALUE_DIM, dtype=torch.double))
    output, state = output_and_state(
        case, leaves["query"], leaves["key"], leaves["value"], start, leaves.get("logs"), leaves.get("rates")
    )
    loss = (output * given["of_output"]).sum()
    if not case["elu"]:
        loss = loss + (state * given["of_final"]).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    named = {"of_" + name: gradient.float() for name, gradient in zip(leaves, gradients)}
    return case, inputs | given | named


def save(path, tensors, metadata):
    """The format is a length, a JSON text of that length, and the numbers."""
    header, offset, parts = {"__metadata__": metadata}, 0, []
    for name, tensor in sorted(tensors.items()):
        data = tensor.detach().contiguous().numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = pathlib.Path(__file__).resolve().parent
    parser.add_argument("path", nargs="?", type=pathlib.Path, default=here / "torch_linear_gradients.safetensors")
    path = parser.parse_args().path

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(SEED)
    cases, tensors = [], {}
    for description in CASES:
        case, parts = convert(description, generator)
        cases.append(case)
        tensors |= {f"{case['name']}/{name}": part for name, part in parts.items()}
    manifest = {"cases": cases, "versions": {"torch": torch.__version__}}
    save(path, tensors, {"manifest": json.dumps(manifest)})
    print(f"{path.name}: {len(cases)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
