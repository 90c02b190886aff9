"""Arrays as users have them: the same numbers in every kind of memory."""

import tempfile

import numpy as np
import pytest

try:
    from ml_dtypes import bfloat16
except ImportError:
    bfloat16 = None

CPU_LEVELS = ("baseline", "avx2", "avx512")

needs_ml_dtypes = pytest.mark.skipif(bfloat16 is None, reason="bfloat16 needs ml_dtypes")
HALVES = [pytest.param(np.float16, id="float16"),
          pytest.param(bfloat16, id="bfloat16", marks=needs_ml_dtypes)]
FLOATS = [pytest.param(np.float32, id="float32"), pytest.param(np.float64, id="float64")]
DTYPES = HALVES + FLOATS


def contiguous(x):
    return np.array(x, order="C")


def fortran(x):
    return np.array(x, order="F")


def strided(x):
    wide = np.zeros([2 * n + 1 for n in x.shape], x.dtype)
    view = wide[tuple(slice(1, 2 * n + 1, 2) for n in x.shape)]
    view[...] = x
    return view


def padded_rows(x):
    wide = np.zeros((*x.shape[:-1], x.shape[-1] + 3), x.dtype)
    view = wide[..., 1:-2]
    view[...] = x
    return view


def negative(x):
    flip = (slice(None, None, -1),) * x.ndim
    return x[flip].copy()[flip]


def channels_last(x):
    """(N, C, *) in shape, (N, *, C) in memory."""
    return np.moveaxis(np.moveaxis(x, 1, -1).copy(), -1, 1)


def first_axis_last(x):
    return np.moveaxis(np.moveaxis(x, 0, -1).copy(), -1, 0)


def swapped_axes(x):
    return np.swapaxes(np.swapaxes(x, 0, 1).copy(), 0, 1)


def misaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def byte_swapped(x):
    return x.astype(x.dtype.newbyteorder())


def byte_swapped_channels_last(x):
    return channels_last(byte_swapped(x))


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def memory_map(x):
    with tempfile.TemporaryFile() as file:
        file.write(b"header!")
        file.write(x.tobytes())
        file.flush()
        return np.memmap(file, x.dtype, "r+", 7, x.shape)


LAYOUTS = [contiguous, fortran, strided, padded_rows, negative, channels_last, first_axis_last,
           swapped_axes, misaligned, byte_swapped, byte_swapped_channels_last, read_only,
           memory_map]


def in_layout(layout, x):
    """x in that layout; where type or rank cannot have it, the nearest that they can."""
    if x.dtype.kind == "V":  # ml_dtypes knows native order only
        layout = {byte_swapped: contiguous, byte_swapped_channels_last: channels_last}.get(
            layout, layout)
    if layout in (channels_last, byte_swapped_channels_last, swapped_axes) and x.ndim < 2:
        return contiguous(x)
    return layout(x)


def bits(x):
    """The array as integers, every NaN the same one, zeros with their sign."""
    x = np.ascontiguousarray(x)
    raw = x.view(f"u{x.dtype.itemsize}").copy()
    raw[np.isnan(x.astype(np.float64))] = 2 ** (8 * x.dtype.itemsize - 1) - 1
    return raw


def assert_same_bits(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype
    a, b = bits(a), bits(b)
    if not np.array_equal(a, b):
        at = tuple(np.argwhere(a != b)[0])
        raise AssertionError(f"{np.count_nonzero(a != b)} of {a.size} elements differ in bits, "
                             f"first at {at}: {a[at]:#x} and {b[at]:#x}")
