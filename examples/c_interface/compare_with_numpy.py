# SPDX-License-Identifier: BSD-3-Clause
"""Calls the library from Python and compares with NumPy. Ends with 77 where there is no NumPy.

    python3 compare_with_numpy.py libattention.so
"""

import ctypes
import sys

try:
    import numpy
except ImportError:
    print("skipped: no NumPy")
    sys.exit(77)


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("extents", ctypes.c_int64 * 4), ("strides", ctypes.c_int64 * 4)]

    def __init__(self, array):
        """The array must outlive the tensor: its memory is used where it lies."""
        super().__init__(
            array.ctypes.data,
            (ctypes.c_int64 * 4)(*array.shape),
            (ctypes.c_int64 * 4)(*(stride // array.itemsize for stride in array.strides)),
        )


class Options(ctypes.Structure):
    _fields_ = [
        ("scale", ctypes.c_double),
        ("window_left", ctypes.c_int64),
        ("window_right", ctypes.c_int64),
        ("causal", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    ]


class Library:
    """The functions of attention.h on NumPy arrays; a status that is not 0 becomes a ValueError."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.attention_default_options.restype = Options
        self.library.attention_message.restype = ctypes.c_char_p
        self.library.attention_target.restype = ctypes.c_char_p
        pointer = ctypes.POINTER(Tensor)
        self.library.attention_softmax.argtypes = [ctypes.c_int] + [pointer] * 4 + [ctypes.POINTER(Options)]
        self.library.attention_linear.argtypes = [pointer] * 5

    def target(self):
        return self.library.attention_target().decode()

    def check(self, status):
        if status != 0:
            raise ValueError(self.library.attention_message().decode())

    def softmax(self, query, key, value, output, **options):
        given = self.library.attention_default_options()
        for name, number in options.items():
            setattr(given, name, number)
        types = {numpy.dtype(numpy.float32): 0, numpy.dtype(numpy.float16): 1}
        tensors = [ctypes.byref(Tensor(array)) for array in (query, key, value, output)]
        self.check(self.library.attention_softmax(types.get(query.dtype, -1), *tensors, ctypes.byref(given)))

    def linear(self, query, key, value, state, output):
        tensors = [ctypes.byref(Tensor(array)) for array in (query, key, value, state, output)]
        self.check(self.library.attention_linear(*tensors))


def softmax(query, key, value, scale=None, causal=0, window_left=-1, window_right=-1):
    """The definition, in double."""
    query, key, value = (x.astype(numpy.float64) for x in (query, key, value))
    group = query.shape[1] // key.shape[1]
    key, value = (numpy.repeat(x, group, axis=1) for x in (key, value))
    logits = query @ key.swapaxes(2, 3) * (1 / numpy.sqrt(query.shape[3]) if scale is None else scale)
    distance = numpy.arange(key.shape[2]) - (numpy.arange(query.shape[2]) + key.shape[2] - query.shape[2])[:, None]
    seen = numpy.ones_like(distance, dtype=bool)
    if causal:
        seen &= distance <= 0
    if window_left >= 0:
        seen &= distance >= -window_left
    if window_right >= 0:
        seen &= distance <= window_right
    weights = numpy.where(seen, numpy.exp(logits - logits.max(axis=3, keepdims=True)), 0)
    return weights @ value / weights.sum(axis=3, keepdims=True)


def main():
    library = Library(sys.argv[1])
    print("compiled for", library.target())
    random = numpy.random.default_rng(1)

    # The bounds: rounding of the outputs, which are below 4, and the sums' own for float.
    for dtype, bound in ((numpy.float32, 1e-5), (numpy.float16, 4 * 2.0**-11 + 1e-5)):
        for options in (
            {},
            {"causal": 1, "threads": 2},
            {"window_left": 20, "window_right": 3, "scale": 0.2},
            {"causal": 1, "window_left": 16},
        ):
            query = random.standard_normal((2, 8, 45, 64)).astype(dtype)
            key, value = (random.standard_normal((2, 2, 100, 64)).astype(dtype) for _ in range(2))
            output = numpy.empty_like(query)
            library.softmax(query, key, value, output, **options)
            options.pop("threads", None)
            error = numpy.abs(softmax(query, key, value, **options) - output).max()
            print(dtype.__name__, options, error)
            assert error < bound

    # Query, key and value as parts of one buffer, [batch, token, (query, key, value), head, dimension].
    packed = random.standard_normal((2, 50, 3, 4, 32)).astype(numpy.float32)
    query, key, value = (packed[:, :, part].swapaxes(1, 2) for part in range(3))
    output = numpy.empty((2, 50, 4, 32), numpy.float32).swapaxes(1, 2)
    library.softmax(query, key, value, output, causal=1)
    error = numpy.abs(softmax(query, key, value, causal=1) - output).max()
    print("packed", error)
    assert error < 1e-5

    # Linear attention token by token: the state stays here.
    query, key, value = (random.standard_normal((1, 3, 20, 16)).astype(numpy.float32) for _ in range(3))
    state, output = numpy.zeros((1, 3, 16, 16), numpy.float32), numpy.empty_like(query)
    for token in range(20):
        one = slice(token, token + 1)
        library.linear(query[:, :, one], key[:, :, one], value[:, :, one], state, output[:, :, one])
    products = numpy.tril(query.astype(numpy.float64) @ key.swapaxes(2, 3))
    expected = products @ value
    error = numpy.abs(expected - output).max() / numpy.abs(expected).max()
    print("linear", error)
    assert error < 1e-5

    # What is refused, and what is said about it.
    for refused, message in (
        (lambda: library.softmax(query, key[..., :15], value, output), "key: expected head dimension 16"),
        (lambda: library.softmax(query[..., ::2], key, value, output), "query: expected a last stride of 1"),
        (lambda: library.softmax(query.astype(numpy.float64), key, value, output), "type: expected ATTENTION_FLOAT"),
    ):
        try:
            refused()
        except ValueError as error:
            print("refused:", error)
            assert message in str(error)
        else:
            raise AssertionError(f"not refused: {message}")


main()
