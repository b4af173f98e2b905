# SPDX-License-Identifier: BSD-3-Clause
"""Compares attend's linear attention with a chunked version in PyTorch, on this machine's CPU.

PyTorch has no operator for it: the peer is the chunked algorithm said in batched matrix products, as one would write it
there. What does not depend on the state is computed for all chunks at once; the state goes from chunk to chunk in a loop.
The shapes are read from the names of the benchmarks that `attend_bench` lists, such as

  linear/prefill/f32/b1/hq8/hkv8/sq4096/skv4096/d128/token_decay/t1

with one state for each query head, as many queries as keys, type f32. In each round attend (one process of
`attend_bench`) and PyTorch (in this process) are measured one after the other; a ratio is peer time / attend time within
one round, and of these the median. Before it is timed, the peer is held against the recurrence, token by token in double,
on a short sequence. Several chunk lengths are tried, and the fastest is compared.

  python compare_linear_peers.py --attend ../../build/release/bench/attend_bench --filter 'd128/.*/t1$'
"""

import argparse
import pathlib
import re
import statistics

import torch

from compare_peers import REPOSITORY, list_benchmarks, measure, measure_attend

NAME = re.compile(
    r"linear/prefill/f32/b(?P<batch>\d+)/hq(?P<heads>\d+)/hkv(?P=heads)/sq(?P<tokens>\d+)/skv(?P=tokens)"
    r"/d(?P<dim>\d+)/(?P<system>\w+)/t(?P<threads>\d+)"
)
CHUNKS = {"feature_decay": (8, 16, 32)}  # the decays of all pairs and features of a chunk have to be held
USUAL_CHUNKS = (32, 64, 128, 256)


def make_inputs(system, batch, heads, tokens, dim, dtype):
    """query, key, value, log decay [batch, head, token, 1 or dim] or None, beta [batch, head, token, 1] or None"""
    generator = torch.Generator().manual_seed(1)

    def normal(*extents):
        return torch.randn(extents, generator=generator, dtype=torch.float64).to(dtype)

    rows = (batch, heads, tokens)
    query, key, value = normal(*rows, dim), normal(*rows, dim) / dim**0.5, normal(*rows, dim)
    decay = beta = None
    if system == "head_decay":
        decay = (-0.2 * torch.rand(heads, generator=generator).to(dtype)).view(1, heads, 1, 1).expand(*rows, 1)
    elif system in ("token_decay", "gated_delta_rule", "feature_decay"):
        decay = -0.2 * torch.rand(*rows, dim if system == "feature_decay" else 1, generator=generator).to(dtype)
    if "delta_rule" in system:
        beta = torch.rand(*rows, 1, generator=generator).to(dtype)
    return query, key, value, decay, beta


def recurrence(query, key, value, decay, beta):
    state = query.new_zeros(*key.shape[:2], key.shape[3], value.shape[3])
    output = torch.empty_like(value)
    for t in range(query.shape[2]):
        if decay is not None:
            state = state * decay[:, :, t, :, None].exp()
        written = value[:, :, t]
        if beta is not None:
            written = beta[:, :, t] * (written - torch.einsum("bhkv,bhk->bhv", state, key[:, :, t]))
        state = state + key[:, :, t, :, None] * written[:, :, None]
        output[:, :, t] = torch.einsum("bhkv,bhk->bhv", state, query[:, :, t])
    return output


def chunked(query, key, value, decay, beta, chunk):
    batch, heads, tokens, dim = query.shape

    def in_chunks(x):
        return None if x is None else x.reshape(batch * heads, tokens // chunk, chunk, x.shape[-1])

    query, key, value, decay, beta = map(in_chunks, (query, key, value, decay, beta))
    before, after, total = query, key, None
    key_before = key
    visible = torch.ones(chunk, chunk, dtype=torch.bool).tril()
    if decay is None:
        pairs = (query @ key.mT).masked_fill(~visible, 0)
        key_pairs = key @ key.mT
    else:
        sums = decay.cumsum(2)
        last = sums[:, :, -1:]
        before, after, total = query * sums.exp(), key * (last - sums).exp(), last.mT.exp()
        key_before = key * sums.exp()
        if decay.shape[-1] == 1:
            between = (sums - sums.mT).masked_fill(~visible, float("-inf")).exp()
            pairs = (query @ key.mT) * between
            key_pairs = (key @ key.mT) * between
        else:
            between = (sums[:, :, :, None] - sums[:, :, None]).masked_fill(~visible[:, :, None], float("-inf")).exp()
            pairs = torch.einsum("ncid,ncjd,ncijd->ncij", query, key, between)
    if beta is not None:
        system = torch.eye(chunk, dtype=key.dtype) + (beta * key_pairs).tril(-1)
        value = torch.linalg.solve_triangular(system, beta * value, upper=False, unitriangular=True)
        from_state = torch.linalg.solve_triangular(system, beta * key_before, upper=False, unitriangular=True)
    else:
        own = pairs @ value
        writes = after.mT @ value

    state = value.new_zeros(batch * heads, dim, value.shape[-1])
    output = torch.empty_like(value)
    for c in range(tokens // chunk):
        if beta is None:
            torch.baddbmm(own[:, c], before[:, c], state, out=output[:, c])
            write = writes[:, c]
        else:
            written = torch.baddbmm(value[:, c], from_state[:, c], state, alpha=-1)
            output[:, c] = torch.baddbmm(pairs[:, c] @ written, before[:, c], state)
            write = after[:, c].mT @ written
        state = write + state if total is None else torch.addcmul(write, state, total[:, c])
    return output.reshape(batch, heads, tokens, -1)


def check(system, chunk):
    inputs = make_inputs(system, 1, 2, 4 * chunk, 16, torch.float64)
    difference = (chunked(*inputs, chunk) - recurrence(*inputs)).abs().max()
    if difference > 1e-9:
        raise AssertionError(f"{system}: the peer differs from the recurrence by {difference}")


def compare(name, match, arguments):
    system, threads = match["system"], int(match["threads"])
    torch.set_num_threads(threads)
    batch, heads, tokens, dim = (int(match[count]) for count in ("batch", "heads", "tokens", "dim"))
    inputs = make_inputs(system, batch, heads, tokens, dim, torch.float32)
    trials = []
    for chunk in CHUNKS.get(system, USUAL_CHUNKS):
        check(system, chunk)
        trials.append((measure(lambda chunk=chunk: chunked(*inputs, chunk), arguments.min_time), chunk))
    chunk = min(trials)[1]

    ours, theirs, fractions = [], [], []
    for _ in range(arguments.rounds):
        nanoseconds, counters, _ = measure_attend(arguments.attend, name, arguments.min_time, 1)
        ours.append(nanoseconds)
        fractions.append(counters["peak_fraction"])
        theirs.append(measure(lambda: chunked(*inputs, chunk), arguments.min_time))
    ratio = statistics.median(peer / own for peer, own in zip(theirs, ours, strict=True))
    print(
        f"{name}  attend {statistics.median(ours) / 1e6:.2f} ms, of peak {statistics.median(fractions):.2f},"
        f"  PyTorch {torch.__version__} / attend {ratio:.2f} (chunks of {chunk})",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default_binary = REPOSITORY / "build" / "release" / "bench" / "attend_bench"
    parser.add_argument("--attend", type=pathlib.Path, default=default_binary, help="the attend_bench program")
    parser.add_argument("--filter", default="hq8.*/t1$", help="regular expression over the names of the benchmarks")
    parser.add_argument("--rounds", type=int, default=3, help="rounds per shape")
    parser.add_argument("--min-time", type=float, default=0.1, help="seconds per measurement")
    arguments = parser.parse_args()
    with torch.inference_mode():
        for name in list_benchmarks(arguments.attend, arguments.filter):
            match = NAME.fullmatch(name.removesuffix("/real_time"))
            if match is not None:
                compare(name, match, arguments)


if __name__ == "__main__":
    main()
