"""No call touches what is beside its arrays: they end, or begin, at a page that nobody may read.

A call that does ends the process.
"""

import ctypes
import mmap

import numpy as np
import pytest
import zoo

import normc

SIZES = [*range(1, 36), 47, 48, 49, 63, 64, 65, 127, 130]


def fenced(values, ends):
    """A copy that ends at the fence, or begins there."""
    page = mmap.PAGESIZE
    inside = -(-values.nbytes // page) * page
    region = mmap.mmap(-1, inside + 2 * page)
    first = ctypes.addressof(ctypes.c_char.from_buffer(region))
    protect = ctypes.CDLL(None).mprotect
    for fence in (first, first + page + inside):
        assert protect(ctypes.c_void_p(fence), ctypes.c_size_t(page), 0) == 0
    start = page + ends * (inside - values.nbytes)
    bytes_of = np.frombuffer(region, np.uint8, values.nbytes, start)
    array = bytes_of.view(values.dtype).reshape(values.shape)
    array[...] = values
    return array


@pytest.mark.parametrize("ends", [True, False], ids=["end", "start"])
@pytest.mark.parametrize("dtype", zoo.DTYPES)
def test_nothing_beside_an_array_is_touched(dtype, ends, rng, cpu):
    for n in SIZES:
        for rows in (3, 20):
            x, g, y = (fenced(rng.normal(size=(rows, n)).astype(dtype), ends) for _ in range(3))
            weight, bias, mean, var = (
                fenced(np.abs(rng.normal(size=n)).astype(dtype) + dtype(1), ends)
                for _ in range(4))
            normc.layer_norm(x, n, weight, bias, out=y)
            normc.layer_norm(x, n, weight, bias, residual=g, activation="relu")
            normc.layer_norm(x, axis=0, out=y)
            normc.layer_norm_backward(g, x, n, weight)
            normc.batch_norm(x, weight=weight, bias=bias, training=True, out=y)
            normc.batch_norm(x, mean, var, weight, bias, out=y)
            normc.batch_norm_backward(g, x, weight=weight)
            normc.group_norm(x, 1, weight, bias, out=y)
            normc.group_norm_backward(g, x, n, weight)
            normc.relu(x, out=y)
            normc.relu_backward(g, x)
            images = x.reshape(1, rows, n, 1), x.reshape(1, n, rows, 1), g.reshape(1, n, rows, 1)
            normc.local_response_norm(images[0], 3, out=y.reshape(1, rows, n, 1))
            normc.local_response_norm_backward(images[2], images[1], 3)
            normc.instance_norm(np.moveaxis(images[0], 1, -1))
