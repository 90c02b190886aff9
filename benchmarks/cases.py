"""What is timed: each norm on shapes that networks have, by normc, by NumPy and by torch.

Every call takes x, weight and bias; torch's take tensors over the same memory.
"""

from dataclasses import dataclass
from typing import Callable

import numpy as np

import normc
from normc import reference

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None

EPS = 1e-5


@dataclass(frozen=True)
class Case:
    """One row. Groups of the first and the last index of `apart` are checked without the rest."""

    name: str
    shape: tuple
    apart: int  # an axis that no mean runs over
    parameters: int  # the axis that weight and bias run along
    normc: Callable  # x, w, b, out -> y
    exact: Callable  # x, w, b -> float64
    numpy: Callable
    torch: Callable
    dtype: str = "float32"
    note: str = ""
    window: int = 0

    @property
    def label(self):
        notes = ["" if self.dtype == "float32" else self.dtype, self.note]
        return " ".join([self.name, str(self.shape).replace(" ", ""), *filter(None, notes)])


def standard(x, axes):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + EPS)


def planes(parameter):
    return parameter[:, None, None]


def layer_norm(shape, dtype="float32"):
    n = shape[-1]
    return Case(
        "layer_norm", shape, 0, -1, dtype=dtype,
        normc=lambda x, w, b, out: normc.layer_norm(x, n, w, b, out=out),
        exact=lambda x, w, b: reference.layer_norm(x, n, w, b),
        numpy=lambda x, w, b: standard(x, -1) * w + b,
        torch=lambda x, w, b: F.layer_norm(x, (n,), w, b))


def layer_norm_channels_first(shape):
    return Case(
        "layer_norm", shape, 0, 1, note="axis=1",
        normc=lambda x, w, b, out: normc.layer_norm(x, None, w, b, axis=1, out=out),
        exact=lambda x, w, b: reference.layer_norm(x, None, w, b, axis=1),
        numpy=lambda x, w, b: standard(x, 1) * planes(w) + planes(b),
        torch=lambda x, w, b: F.layer_norm(
            x.permute(0, 2, 3, 1), w.shape, w, b).permute(0, 3, 1, 2))


def rms_norm(shape):
    n, eps = shape[-1], 2.0**-23
    return Case(
        "rms_norm", shape, 0, -1,
        normc=lambda x, w, b, out: normc.rms_norm(x, n, w, out=out),
        exact=lambda x, w, b: reference.rms_norm(x, n, w),
        numpy=lambda x, w, b: x / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps) * w,
        torch=lambda x, w, b: F.rms_norm(x, (n,), w))


def batch_norm(shape, axis=1):
    """Training; normc and torch update running statistics, each its own."""
    c = shape[axis]
    reduced = tuple(i for i in range(len(shape)) if i != axis % len(shape))
    spread = planes if axis == 1 else np.asarray
    running, theirs = statistics(c), tensors(statistics(c))

    def by_torch(x, w, b):
        return F.batch_norm(x.movedim(axis, 1), *theirs, w, b, True).movedim(1, axis)

    return Case(
        "batch_norm", shape, axis, axis, note="train" + (" channels-last" if axis != 1 else ""),
        normc=lambda x, w, b, out: normc.batch_norm(x, *running, w, b, True, axis=axis, out=out),
        exact=lambda x, w, b: reference.batch_norm(x, None, None, w, b, True, axis=axis),
        numpy=lambda x, w, b: standard(x, reduced) * spread(w) + spread(b),
        torch=by_torch)


def batch_norm_eval(shape):
    running = mean, var = statistics(shape[1])
    theirs = tensors(running)
    return Case(
        "batch_norm", shape, 0, 1, note="eval",
        normc=lambda x, w, b, out: normc.batch_norm(x, *running, w, b, out=out),
        exact=lambda x, w, b: reference.batch_norm(x, *running, w, b),
        numpy=lambda x, w, b: (x - planes(mean)) * planes(w / np.sqrt(var + EPS)) + planes(b),
        torch=lambda x, w, b: F.batch_norm(x, *theirs, w, b))


def statistics(c):
    return np.full(c, 0.25, np.float32), np.full(c, 1.5, np.float32)


def tensors(arrays):
    return [torch.from_numpy(a) for a in arrays] if torch else None


def group_norm(shape, groups):
    def by_numpy(x, w, b):
        split = x.reshape(shape[0], groups, -1)
        return standard(split, -1).reshape(shape) * planes(w) + planes(b)

    return Case(
        "group_norm", shape, 0, 1, note=f"{groups} groups",
        normc=lambda x, w, b, out: normc.group_norm(x, groups, w, b, out=out),
        exact=lambda x, w, b: reference.group_norm(x, groups, w, b),
        numpy=by_numpy,
        torch=lambda x, w, b: F.group_norm(x, groups, w, b))


def instance_norm(shape):
    return Case(
        "instance_norm", shape, 0, 1,
        normc=lambda x, w, b, out: normc.instance_norm(x, None, None, w, b, out=out),
        exact=lambda x, w, b: reference.instance_norm(x, None, None, w, b),
        numpy=lambda x, w, b: standard(x, (2, 3)) * planes(w) + planes(b),
        torch=lambda x, w, b: F.instance_norm(x, None, None, w, b))


def local_response_norm(shape, size):
    def by_numpy(x, w, b):
        beside = (size // 2, (size - 1) // 2)
        squares = np.pad(np.square(x), [(0, 0), beside, (0, 0), (0, 0)])
        total = sum(squares[:, i : i + shape[1]] for i in range(size))
        return x / (1 + np.float32(1e-4 / size) * total) ** np.float32(0.75)

    return Case(
        "local_response_norm", shape, 0, 1, note=f"size {size}", window=size,
        normc=lambda x, w, b, out: normc.local_response_norm(x, size, out=out),
        exact=lambda x, w, b: reference.local_response_norm(x, size),
        numpy=by_numpy,
        torch=lambda x, w, b: F.local_response_norm(x, size))


CASES = [
    layer_norm((8, 10)),
    layer_norm((128, 768)),
    layer_norm((4096, 768)),
    layer_norm((16384, 1024)),
    layer_norm_channels_first((32, 96, 56, 56)),
    layer_norm((4096, 768), "float16"),
    layer_norm((4096, 768), "bfloat16"),
    rms_norm((128, 768)),
    rms_norm((16384, 1024)),
    batch_norm((32, 64, 56, 56)),
    batch_norm((32, 56, 56, 64), axis=-1),
    batch_norm_eval((32, 64, 56, 56)),
    group_norm((32, 64, 56, 56), 32),
    instance_norm((32, 64, 56, 56)),
    local_response_norm((32, 96, 55, 55), 5),
]
