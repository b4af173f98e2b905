# SPDX-License-Identifier: BSD-3-Clause
"""Makes rotary.safetensors: rotary positions as ONNX and Hugging Face transformers define them.

ONNX cases are the node tests of the RotaryEmbedding operator, from the generator inside the onnx package (the same one
that makes the published test suite). Inputs of three axes are split into heads:

  <case>/x, <case>/y        [batch, head, token, dimension]
  <case>/cosine, .../sine   [position, pair], or [batch, token, pair] where there are no position ids
  <case>/positions          [batch, token] int64, where there are some

Hugging Face cases are the frequencies and the attention factor that a Llama model with these rope parameters uses, and a
tensor rotated by them; and the multimodal rotations of Qwen2-VL and Qwen3-VL:

  <case>/frequencies        [pair] radians per position; transformers computes them in single precision
  <case>/x, <case>/y        [1, head, token, dimension]
  <case>/positions          [1, token] int64, or [3, 1, token] for the multimodal ones

The metadata has one entry, `manifest`, a JSON text:

  onnx          [{name, interleaved}]
  transformers  [{name, dimension, base, scaling: {name, ...}, attention_factor, sections}]
  versions      of the packages

Made with onnx 1.23.2, transformers 5.23.0, torch 2.15.0, numpy 2.4.6 and safetensors 0.8.0:

  python make_rotary.py [rotary.safetensors]
"""

import argparse
import importlib.metadata
import json
import pathlib
import warnings

import numpy
import onnx
import safetensors.numpy
import torch
from onnx.backend.test.case.node import collect_testcases
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRotaryEmbedding
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

PACKAGES = ["onnx", "transformers", "torch", "numpy", "safetensors"]
HEADS, TOKENS = 2, 6

# Far apart, and small enough for the single precision in which transformers forms angles.
POSITIONS = [0, 1, 5, 63, 64, 500]

SCALINGS = [
    ("default", 64, 10000.0, 2048, {}),
    ("default_large_base", 128, 500000.0, 8192, {}),
    ("linear", 64, 10000.0, 2048, {"factor": 4.0}),
    ("dynamic_below", 64, 10000.0, 2048, {"factor": 4.0}),
    ("dynamic_above", 64, 10000.0, 128, {"factor": 4.0}),
    ("llama3_8", 128, 500000.0, 131072, {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}),
    ("llama3_32", 64, 500000.0, 131072, {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}),
    ("yarn_4", 128, 1000000.0, 131072, {"factor": 4.0, "original_max_position_embeddings": 32768}),
    ("yarn_40", 64, 10000.0, 163840, {"factor": 40.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}),
    ("yarn_given_factor", 96, 10000.0, 65536, {"factor": 16.0, "original_max_position_embeddings": 4096, "beta_fast": 24.0, "beta_slow": 2.0, "attention_factor": 0.75}),
    ("yarn_fractional", 64, 10000.0, 65536, {"factor": 16.0, "original_max_position_embeddings": 4096, "truncate": False}),
]


def split_heads(array, heads):
    if array.ndim == 4:
        return array
    batch, tokens, hidden = array.shape
    return numpy.ascontiguousarray(array.reshape(batch, tokens, heads, hidden // heads).transpose(0, 2, 1, 3))


def onnx_cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = collect_testcases("RotaryEmbedding")
    for test in tests:
        if test.name.endswith("_expanded"):
            continue
        [node] = test.model.graph.node
        [(inputs, [output])] = test.data_sets
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        heads = attributes.get("num_heads", 0)
        tensors = {
            "x": split_heads(inputs[0], heads),
            "cosine": inputs[1],
            "sine": inputs[2],
            "y": split_heads(output, heads),
        }
        if len(inputs) > 3:
            tensors["positions"] = inputs[3].astype(numpy.int64)
        dimension = attributes.get("rotary_embedding_dim", 0) or tensors["x"].shape[3]
        if tensors["cosine"].shape[-1] * 2 != dimension:
            raise AssertionError(f"{test.name}: the caches do not say how many channels are rotated")
        yield {"name": test.name, "interleaved": bool(attributes.get("interleaved", 0))}, tensors


def transformers_cases():
    generator = torch.Generator().manual_seed(1)
    for name, dimension, base, longest, parameters in SCALINGS:
        kind = name.split("_")[0]
        config = LlamaConfig(
            hidden_size=dimension * HEADS,
            num_attention_heads=HEADS,
            head_dim=dimension,
            max_position_embeddings=longest,
            rope_parameters={"rope_type": kind, "rope_theta": base, **parameters},
        )
        rotary = LlamaRotaryEmbedding(config)
        x = torch.randn(1, HEADS, TOKENS, dimension, generator=generator)
        positions = torch.tensor([POSITIONS])
        cosine, sine = rotary(x, positions)
        y, _ = apply_rotary_pos_emb(x, x, cosine, sine)
        about = {
            "name": name,
            "dimension": dimension,
            "base": base,
            "scaling": {"kind": kind, "longest": longest, "length": max(POSITIONS) + 1, **parameters},
            "attention_factor": float(rotary.attention_scaling),
            "sections": [],
        }
        yield about, {"frequencies": rotary.inv_freq, "x": x, "y": y, "positions": positions}

    # One set of frequencies, its pairs shared out over time, row and column.
    dimension, sections = 128, [16, 24, 24]
    positions = torch.tensor([[POSITIONS], [[3, 3, 4, 4, 5, 90]], [[0, 7, 0, 7, 0, 11]]])
    for name, config_type, rotary_type in (
        ("qwen2_vl", Qwen2VLTextConfig, Qwen2VLRotaryEmbedding),
        ("qwen3_vl", Qwen3VLTextConfig, Qwen3VLTextRotaryEmbedding),
    ):
        config = config_type(
            hidden_size=dimension * HEADS,
            num_attention_heads=HEADS,
            head_dim=dimension,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections},
        )
        rotary = rotary_type(config)
        x = torch.randn(1, HEADS, TOKENS, dimension, generator=generator)
        cosine, sine = rotary(x, positions)
        y, _ = apply_rotary_pos_emb(x, x, cosine, sine)
        about = {
            "name": name,
            "dimension": dimension,
            "base": 10000.0,
            "scaling": {"kind": "default"},
            "attention_factor": 1.0,
            "sections": sections,
        }
        yield about, {"frequencies": rotary.inv_freq, "x": x, "y": y, "positions": positions}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = pathlib.Path(__file__).resolve().parent
    parser.add_argument("path", nargs="?", type=pathlib.Path, default=here / "rotary.safetensors")
    path = parser.parse_args().path

    manifest, tensors = {"versions": {package: importlib.metadata.version(package) for package in PACKAGES}}, {}
    for source, cases in (("onnx", onnx_cases()), ("transformers", transformers_cases())):
        manifest[source] = []
        for about, parts in cases:
            manifest[source].append(about)
            tensors |= {f"{about['name']}/{name}": numpy.ascontiguousarray(part) for name, part in parts.items()}
    safetensors.numpy.save_file(tensors, path, metadata={"manifest": json.dumps(manifest)})
    print(f"{path.name}: {len(manifest['onnx'])} and {len(manifest['transformers'])} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
