# SPDX-License-Identifier: BSD-3-Clause
"""Writes neighborhoods.npy: who sees whom on one axis, for all small axes, by NATTEN's public definition.

NATTEN says it by a centre: the group's leader (the query in the middle of its stride group, or the last one if causal),
pushed so far inside that the window around it fits. A key is seen where it is at most floor(W / 2) before the centre and at
most floor(W / 2) + (W mod 2) - 1 behind it; if causal, where it is not behind the query and less than W before the leader.
Under dilation all of this holds for the quotients within a residue class.

Rows are extent, window, stride, dilation, causal, query, and the seen keys as 16 bits, low byte first.

    python make_neighborhoods.py
"""

import numpy as np


def seen(extent, window, stride, dilation, causal, query, key):
    if query % dilation != key % dilation:
        return False
    length = len(range(query % dilation, extent, dilation))
    i, j = query // dilation, key // dilation
    group = [member for member in range(length) if member // stride == i // stride]
    if causal:
        return j <= i and group[-1] - j < window
    leader = min(group[0] + stride // 2, length - 1)
    left, right = window // 2, window // 2 + window % 2 - 1
    centre = sorted([left, leader, length - 1 - right])[1]
    return -left <= j - centre <= right


rows = []
for extent in range(1, 11):
    for dilation in range(1, extent + 1):
        for window in range(1, extent // dilation + 1):
            for stride in range(1, window + 1):
                for causal in (0, 1):
                    for query in range(extent):
                        bits = sum(
                            seen(extent, window, stride, dilation, causal, query, key) << key
                            for key in range(extent)
                        )
                        rows.append((extent, window, stride, dilation, causal, query, bits & 255, bits >> 8))
np.save("neighborhoods.npy", np.array(rows, dtype=np.uint8))
