# SPDX-License-Identifier: BSD-3-Clause
"""Trains the decoder of `train` once by `train` and once by PyTorch, and compares the losses and the speeds.

Both begin with the same weights, since these are drawn by the same numbers of SplitMix64, and take the same pieces of
the same text in the same order. Roundings differ, and grow with the steps: the losses are not the same, but close.
They grow faster with linear attention: the first token sees itself alone, and of the product of its query and its key
the norm of a head leaves the sign. Exits with 1 where losses are further apart than they should be.

  python compare_with_torch.py --program build/release/examples/train/train --steps 300 --attention softmax

Both run on one thread, and speeds are by the processor's time, so that other programs do not count; that of `train`
has all that the program does in it, as reading the text and writing the files, and that of PyTorch the steps alone.
PyTorch 1.13 and newer will do; what has scaled_dot_product_attention uses it.

300 steps on a Xeon with AVX-512, beside PyTorch 1.13.1 of Debian with OpenBLAS 0.3.21: with softmax attention 2.0172
nats a held-out character by `train` and 2.0174 by PyTorch, 36000 and 7900 characters a second; with linear attention
2.245 and 2.262, 43000 and 8500. The first 30 steps are the same to 6 digits with softmax, and to 4 with linear
attention. Where both are made to compute in double, and PyTorch to take the decays as floats, 40 steps are the same
to 12 digits with softmax, and to 10 with linear attention.
"""

import argparse
import csv
import importlib.util
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy
import torch
from torch.nn import functional

HERE = pathlib.Path(__file__).resolve().parent
# The text, the sizes, the norm and the rate are those of the other script.
specification = importlib.util.spec_from_file_location("other", HERE.parent / "generate" / "train.py")
other = importlib.util.module_from_spec(specification)
specification.loader.exec_module(other)

BEHIND_THE_WEIGHTS = 1 << 40  # where in the numbers of a seed those of the pieces begin
DEVIATION = 0.05
PARTS = ["query", "key", "value", "output", "gate", "up", "down"]
# How far apart losses may be, in nats a character: on what is held out at the end, and of a step on average.
MOST_APART = {"softmax": 0.02, "linear": 0.05}


def random_bits(seed, places):
    """The 64-bit numbers of SplitMix64 at these places."""
    with numpy.errstate(over="ignore"):
        bits = numpy.uint64(seed) + (places.astype(numpy.uint64) + numpy.uint64(1)) * numpy.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        return bits ^ (bits >> numpy.uint64(31))


def first_weights(layers, seed):
    """The embedding, and the matrices of each layer."""
    width, inner = other.WIDTH, other.FEED_FORWARD
    queries, keys = other.QUERY_HEADS * other.DIMENSION, other.KEY_VALUE_HEADS * other.DIMENSION
    rows = [queries, keys, keys, width, inner, inner, width]
    columns = [width, width, width, queries, width, width, inner]
    place = 0

    def draw(shape, deviation):
        nonlocal place
        count = shape[0] * shape[1]
        bits = (random_bits(seed, numpy.arange(place, place + count)) >> numpy.uint64(40)).astype(numpy.float64)
        place += count
        numbers = math.sqrt(3) * deviation * ((2 * bits + 1) / (1 << 24) - 1)
        return torch.tensor(numbers.astype(numpy.float32).reshape(shape), requires_grad=True)

    embedding = draw((len(other.CHARACTERS), width), DEVIATION)
    added = DEVIATION / math.sqrt(2 * layers)
    return embedding, [
        {
            name: draw(shape, added if name in ("output", "down") else DEVIATION)
            for name, *shape in zip(PARTS, rows, columns)
        }
        for _ in range(layers)
    ]


def softmax_attention(query, key, value):
    if hasattr(functional, "scaled_dot_product_attention"):
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    hidden = torch.full(2 * query.shape[-2:-1], -torch.inf).triu(1)
    return (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1]) + hidden).softmax(-1) @ value


def linear_attention(query, key, value):
    """Retention, with all pairs at once, and a norm for each head."""
    apart = torch.arange(query.shape[-2])[:, None] - torch.arange(query.shape[-2])
    state = torch.arange(other.QUERY_HEADS) // (other.QUERY_HEADS // other.KEY_VALUE_HEADS)
    decay = torch.log1p(-(2.0 ** (-5 - state)))[:, None, None]
    weights = torch.where(apart < 0, torch.zeros(()), torch.exp(decay * apart.clamp(min=0)))
    return other.norm((query @ key.transpose(-2, -1) * weights) @ value)


ATTENTION = {"softmax": softmax_attention, "linear": linear_attention}


class Decoder:
    def __init__(self, layers, seed, attention):
        self.embedding, self.layers = first_weights(layers, seed)
        self.attention = ATTENTION[attention]
        angles = torch.arange(other.CONTEXT)[:, None] / other.ROTARY_BASE ** (
            torch.arange(0, other.DIMENSION, 2) / other.DIMENSION
        )
        self.cosine, self.sine = angles.cos(), angles.sin()

    def heads(self, rows, repeats):
        return rows.unflatten(-1, (-1, other.DIMENSION)).transpose(1, 2).repeat_interleave(repeats, 1)

    def rotated(self, rows):
        cosine, sine = self.cosine[: rows.shape[-2]], self.sine[: rows.shape[-2]]
        left, right = rows.chunk(2, -1)
        return torch.cat([left * cosine - right * sine, right * cosine + left * sine], -1)

    def __call__(self, tokens):
        x = functional.embedding(tokens, self.embedding)
        shared = other.QUERY_HEADS // other.KEY_VALUE_HEADS
        for layer in self.layers:
            seen = other.norm(x)
            query = self.rotated(self.heads(seen @ layer["query"].T, 1))
            key = self.rotated(self.heads(seen @ layer["key"].T, shared))
            value = self.heads(seen @ layer["value"].T, shared)
            x = x + self.attention(query, key, value).transpose(1, 2).flatten(2) @ layer["output"].T
            seen = other.norm(x)
            x = x + (functional.silu(seen @ layer["gate"].T) * (seen @ layer["up"].T)) @ layer["down"].T
        return other.norm(x) @ self.embedding.T


def train_here(given, text, held_out):
    """The losses of all steps, the loss on what is held out, and characters per second."""
    model = Decoder(given.layers, given.seed, given.attention)
    matrices = [layer[name] for layer in model.layers for name in PARTS]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": [model.embedding], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    tokens, losses = other.tokens_of(text), []
    begin = time.process_time()
    for step in range(given.steps):
        numbers = random_bits(given.seed, BEHIND_THE_WEIGHTS + other.BATCH * step + numpy.arange(other.BATCH))
        first = torch.tensor((numbers % numpy.uint64(len(tokens) - other.CONTEXT)).astype(numpy.int64))
        pieces = tokens[first[:, None] + torch.arange(other.CONTEXT + 1)]
        loss = functional.cross_entropy(model(pieces[:, :-1]).flatten(0, 1), pieces[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(matrices + [model.embedding], 1.0)
        for group in optimizer.param_groups:
            group["lr"] = other.rate_at(step, given.steps)
        optimizer.step()
        losses.append(loss.item())
    seconds = time.process_time() - begin
    scored = other.tokens_of(held_out[: other.HELD_OUT_CHARACTERS])
    loss = -other.log_likelihoods(model, scored).mean().item()
    return losses, loss, given.steps * other.BATCH * other.CONTEXT / seconds


def train_there(given, characters):
    """The same of `train`."""
    seconds_before = os.times().children_user + os.times().children_system
    with tempfile.TemporaryDirectory() as folder:
        options = ["steps", "layers", "seed", "attention"]
        arguments = [word for name in options for word in (f"--{name}", str(getattr(given, name)))]
        run = subprocess.run([given.program, *arguments, "--out", folder], check=True, stdout=subprocess.PIPE)
        with open(pathlib.Path(folder) / "loss.csv", encoding="ascii") as file:
            rows = list(csv.DictReader(file))
    if f"{characters} characters to learn".encode() not in run.stdout:
        sys.exit(f"expected that train learns the {characters} characters of this repository, got {run.stdout[:80]}")
    seconds = os.times().children_user + os.times().children_system - seconds_before
    speed = given.steps * other.BATCH * other.CONTEXT / seconds
    return [float(row["loss"]) for row in rows], float(rows[-1]["held out"]), speed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True, help="where `train` is")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--layers", type=int, default=other.LAYERS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--attention", choices=sorted(ATTENTION), default="softmax")
    given = parser.parse_args()

    torch.set_num_threads(1)
    text, held_out = other.read_text()
    here, held_out_here, speed_here = train_here(given, text, held_out)
    there, held_out_there, speed_there = train_there(given, len(text))

    print(f"{given.attention} attention, {given.layers} layers, PyTorch {torch.__version__}, one thread")
    print(f"{'step':>8} {'train':>9} {'PyTorch':>9} {'apart':>9}   nats a character")
    marks = sorted({1, 2, 5, 10, *range(given.steps // 10, given.steps + 1, max(1, given.steps // 10))})
    for step in (mark for mark in marks if 1 <= mark <= given.steps):
        ours, its = there[step - 1], here[step - 1]
        print(f"{step:>8} {ours:>9.5f} {its:>9.5f} {abs(ours - its):>9.1e}")
    on_average = sum(abs(a - b) for a, b in zip(here, there)) / given.steps
    apart = abs(held_out_here - held_out_there)
    print(f"{'held out':>8} {held_out_there:>9.5f} {held_out_here:>9.5f} {apart:>9.1e}")
    print(f"steps are {on_average:.1e} apart on average, {max(abs(a - b) for a, b in zip(here, there)):.1e} at most")
    print(f"characters/s: train {speed_there:.0f}, PyTorch {speed_here:.0f}, {speed_there / speed_here:.2f} times")
    sys.exit(0 if max(apart, on_average) <= MOST_APART[given.attention] else 1)


if __name__ == "__main__":
    main()
