# SPDX-License-Identifier: BSD-3-Clause
"""Trains the decoder of decoder.hpp on this repository's own text, and writes model.safetensors and held_out.txt.

The text is README.md, CONTRIBUTING.md, CHANGELOG.md, the pages of docs/ and the comments of the headers, one behind the
other in the order of their paths. docs/design.md is held out: no character of it is trained on, and held_out.txt is its
beginning, which `generate` scores each kind of cache with. A token is a character: printable ASCII and the line feed.

The model is a pre-norm decoder with rotary positions, grouped-query heads and a gated feed-forward network. Its norms
have no weights, since the products behind them have, and its embeddings are also its output. It sees 256 characters at
a time, and is trained by AdamW, whose rate is constant and falls to zero in the last fifth of the steps. Weights are
stored in half precision, which `generate` reads.

model.safetensors holds, beside the tensors, what the reader needs and where the file comes from: how many characters
the text had, its SHA-256, the losses on what is held out, and the log-likelihood that `generate` must find.

Made with torch 2.11.0 on one thread of a Xeon with AVX-512, in three and a half minutes: 1.295 nats a held-out
character, where a trigram model has 1.954. Other versions and processors round otherwise, and the text changes with the
repository: they give other weights of much the same loss.

  python train.py
"""

import argparse
import collections
import hashlib
import json
import math
import pathlib
import struct

import torch
from torch.nn import functional

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
LAYERS, WIDTH, FEED_FORWARD, QUERY_HEADS, KEY_VALUE_HEADS, DIMENSION = 2, 128, 192, 4, 2, 32
CONTEXT = 256
SEED = 3
ROTARY_BASE = 10000.0
EPSILON = 1e-5
HELD_OUT_CHARACTERS = 4096
BATCH, RATE, WARM_UP, STEPS = 4, 4e-3, 20, 4000


def comments(path):
    """The sentences of a header: its comments without what marks them as such."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return "\n".join(line.lstrip("/").removeprefix(" ") for line in lines if line.startswith("//"))


def known(text):
    """The text in the characters that the model knows."""
    for typographic, plain in {"\u2018": "'", "\u2019": "'", "\u00b5": "u"}.items():
        text = text.replace(typographic, plain)
    return "".join(character for character in text if character in CHARACTERS)


def read_text():
    """What is trained on, and what is held out."""
    held_out = ROOT / "docs/design.md"
    pages = [ROOT / name for name in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]]
    pages += [page for page in sorted((ROOT / "docs").glob("*.md")) if page != held_out]
    parts = [page.read_text(encoding="utf-8") for page in pages]
    parts += [comments(header) for header in sorted((ROOT / "include").rglob("*.hpp"))]
    return known("\n\n".join(parts)), known(held_out.read_text(encoding="utf-8"))


def tokens_of(text):
    number = {character: token for token, character in enumerate(CHARACTERS)}
    return torch.tensor([number[character] for character in text])


def n_gram_loss(text, held_out, characters):
    """Nats a character of a model that sees the last `characters` - 1, mixed with those that see fewer."""
    counts, totals = collections.Counter(), collections.Counter()
    for n in range(1, characters + 1):
        for i in range(len(text) - n + 1):
            counts[text[i : i + n]] += 1
            totals[text[i : i + n - 1]] += 1
    weight = 5  # of the shorter model, in occurrences
    loss = 0
    for i in range(characters - 1, len(held_out)):
        probability = 1 / len(CHARACTERS)
        for n in range(1, characters + 1):
            seen = held_out[i - n + 1 : i + 1]
            probability = (counts[seen] + weight * probability) / (totals[seen[:-1]] + weight)
        loss -= math.log(probability)
    return loss / (len(held_out) - characters + 1)


def norm(x):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON)


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.query = torch.nn.Linear(WIDTH, QUERY_HEADS * DIMENSION, bias=False)
        self.key = torch.nn.Linear(WIDTH, KEY_VALUE_HEADS * DIMENSION, bias=False)
        self.value = torch.nn.Linear(WIDTH, KEY_VALUE_HEADS * DIMENSION, bias=False)
        self.output = torch.nn.Linear(QUERY_HEADS * DIMENSION, WIDTH, bias=False)
        self.gate = torch.nn.Linear(WIDTH, FEED_FORWARD, bias=False)
        self.up = torch.nn.Linear(WIDTH, FEED_FORWARD, bias=False)
        self.down = torch.nn.Linear(FEED_FORWARD, WIDTH, bias=False)

    def forward(self, x, cosine, sine):
        def heads(rows):
            return rows.unflatten(-1, (-1, DIMENSION)).transpose(1, 2)

        def rotated(rows):
            left, right = rows.chunk(2, -1)
            return torch.cat([left * cosine - right * sine, right * cosine + left * sine], -1)

        seen = norm(x)
        query, key, value = rotated(heads(self.query(seen))), rotated(heads(self.key(seen))), heads(self.value(seen))
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        x = x + self.output(attended.transpose(1, 2).flatten(2))
        seen = norm(x)
        return x + self.down(functional.silu(self.gate(seen)) * self.up(seen))


class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(len(CHARACTERS), WIDTH)
        self.layers = torch.nn.ModuleList(Layer() for _ in range(LAYERS))
        for name, parameter in self.named_parameters():
            # What is added to the stream begins small, since several are.
            added = name.endswith(("output.weight", "down.weight"))
            torch.nn.init.normal_(parameter, std=0.05 / math.sqrt(2 * LAYERS) if added else 0.05)
        angles = torch.arange(CONTEXT)[:, None] / ROTARY_BASE ** (torch.arange(0, DIMENSION, 2) / DIMENSION)
        self.cosine, self.sine = angles.cos(), angles.sin()

    def forward(self, tokens):
        x = self.embedding(tokens)
        cosine, sine = self.cosine[: tokens.shape[1]], self.sine[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, cosine, sine)
        return norm(x) @ self.embedding.weight.T


def log_likelihoods(model, tokens):
    """Of the pieces that the model sees at a time: of each character but the first, given those before it."""
    pieces = tokens[: len(tokens) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    with torch.no_grad():
        return model(pieces[:, :-1]).log_softmax(-1).gather(-1, pieces[:, 1:, None]).squeeze(-1)


def rate_at(step, steps):
    return RATE * min((step + 1) / WARM_UP, 1, (steps - step) / (steps / 5))


class Training:
    def __init__(self, tokens):
        self.tokens, self.model = tokens, Decoder()
        embedding = self.model.embedding.weight
        matrices = [parameter for parameter in self.model.parameters() if parameter is not embedding]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": [embedding], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
        self.generator = torch.Generator().manual_seed(SEED)

    def step(self, rate):
        first = torch.randint(len(self.tokens) - CONTEXT, (BATCH,), generator=self.generator)
        pieces = self.tokens[first[:, None] + torch.arange(CONTEXT + 1)]
        logits = self.model(pieces[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), pieces[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def write(path, tensors, metadata):
    """The format of safetensors: the length of a header in JSON, the header, and the numbers that it points into."""
    header, data = {"__metadata__": metadata}, b""
    for name, tensor in sorted(tensors.items()):
        numbers = tensor.detach().half().numpy().tobytes()
        offsets = [len(data), len(data) + len(numbers)]
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": offsets}
        data += numbers
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def store(folder, model, text, held_out_text):
    """Rounds the weights to half precision and writes both files, with what is known about the weights."""
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    loss = -log_likelihoods(model, tokens_of(held_out_text)).mean().item()
    excerpt = held_out_text[:HELD_OUT_CHARACTERS]
    second_halves = log_likelihoods(model, tokens_of(excerpt))[:, CONTEXT // 2 - 1 :]
    metadata = {
        "format": "attend character decoder",
        "characters": CHARACTERS,
        "context": str(CONTEXT),
        "head_dimension": str(DIMENSION),
        "trained_on": f"{len(text)} characters of the repository's own text",
        "sha256_of_text": hashlib.sha256(text.encode()).hexdigest(),
        "loss": f"{loss:.3f} nats a held-out character",
        "loss_of_a_trigram_model": f"{n_gram_loss(text, held_out_text, 3):.3f} nats a held-out character",
        "held_out_log_likelihood": f"{second_halves.mean().item():.5f}",
    }
    print(json.dumps(metadata, indent=2))
    tensors = {name.removesuffix(".weight"): tensor for name, tensor in model.state_dict().items()}
    write(folder / "model.safetensors", tensors, metadata)
    (folder / "held_out.txt").write_text(excerpt, encoding="ascii")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--folder", type=pathlib.Path, default=HERE, help="where the two files go")
    given = parser.parse_args()

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    text, held_out_text = read_text()
    training = Training(tokens_of(text))
    print(f"{len(text)} characters, {sum(parameter.numel() for parameter in training.model.parameters())} parameters")
    for step in range(given.steps):
        loss = training.step(rate_at(step, given.steps))
        if step % 100 == 99:
            print(f"step {step + 1}: {loss:.3f} nats a character", flush=True)
    store(given.folder, training.model, text, held_out_text)


if __name__ == "__main__":
    main()
