# SPDX-License-Identifier: BSD-3-Clause
"""Checks what attend_compare --select and --cache say about three choices: by definitions in double, written out here.

    attend_compare --cache --only window --query q.npy --key k.npy --value v.npy --csv window.csv
    python3 check_selection.py window.csv q.npy k.npy v.npy

The choices are all keys (dense), those of most weight for each query (exact_top_k), and the first 4 and the last ones
(window). The share of the keys, the share of the attention mass and the error of the last 8 queries are computed from
the files and compared. Needs nothing but Python.
"""

import ast
import csv
import math
import struct
import sys

STEPS, SINKS = 8, 4
FORMATS = {"<f4": "f", "<f2": "e", "<f8": "d"}


def read(path):
    """[head][token][dimension] of a file [1, head, token, dimension]."""
    with open(path, "rb") as file:
        data = file.read()
    size = struct.unpack_from("<H", data, 8)[0]
    header = ast.literal_eval(data[10 : 10 + size].decode())
    one, heads, tokens, dimension = header["shape"]
    if one != 1 or header["fortran_order"]:
        sys.exit(f"{path}: expected [1, head, token, dimension] in C order, got {header}")
    numbers = struct.unpack_from(f"<{heads * tokens * dimension}{FORMATS[header['descr']]}", data, 10 + size)
    rows = [numbers[i : i + dimension] for i in range(0, len(numbers), dimension)]
    return [rows[head * tokens : (head + 1) * tokens] for head in range(heads)]


def mean(weights, chosen, values):
    total = sum(weights[j] for j in chosen)
    return [sum(weights[j] * values[j][c] for j in chosen) / total for c in range(len(values[0]))]


def chosen_by(name, budget, weights):
    keys = len(weights)
    count = min(max(math.ceil(budget * keys), 1), keys)
    if name == "dense":
        return range(keys)
    if name == "exact_top_k":
        return sorted(range(keys), key=lambda j: -weights[j])[:count]
    if name == "window":
        last = max(count - SINKS, 1)
        return [j for j in range(keys) if j < SINKS or j >= keys - last]
    sys.exit(f"expected dense, exact_top_k or window, got {name}")


def main():
    if len(sys.argv) != 5:
        sys.exit("usage: check_selection.py table.csv query.npy key.npy value.npy")
    query, key, value = (read(path) for path in sys.argv[2:])
    rows = []  # of each query: weights, values, output
    for q, k, v in zip(query, key, value):
        for one in q[-STEPS:]:
            logits = [sum(a * b for a, b in zip(one, other)) / math.sqrt(len(one)) for other in k]
            weights = [math.exp(logit - max(logits)) for logit in logits]
            total = sum(weights)
            weights = [weight / total for weight in weights]
            rows.append((weights, v, mean(weights, range(len(k)), v)))
    size = sum(x * x for _, _, output in rows for x in output)
    wrong = checked = 0
    with open(sys.argv[1], newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if line["phase"] != "decode":
                continue
            share = recall = difference = 0
            for weights, values, output in rows:
                chosen = chosen_by(line["selector"], float(line["budget"]), weights)
                share += len(chosen) / len(weights) / len(rows)
                recall += sum(weights[j] for j in chosen) / len(rows)
                difference += sum((a - b) ** 2 for a, b in zip(mean(weights, chosen, values), output))
            expected = {"keys_fraction": share, "recall": recall, "error": math.sqrt(difference / size)}
            # Floats of sums of some hundred numbers, and six digits in the table.
            for name, number in expected.items():
                checked += 1
                if abs(float(line[name]) - number) > 2e-6 + 1e-5 * number:
                    wrong += 1
                    print(f"{line['selector']} at {line['budget']}: {name}: expected {number:.6g}, got {line[name]}")
    if wrong or not checked:
        sys.exit(f"{wrong} of {checked} numbers are not those of the definition")


if __name__ == "__main__":
    main()
