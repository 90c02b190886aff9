"""Arrays that are out of the ordinary, for the functions in C."""

import sys

import numpy as np


def as_ndarray(o):
    """Any array-like as an ndarray, other libraries' by what they offer."""
    kind = type(o)
    native = hasattr(kind, "__array__") or hasattr(kind, "__array_interface__") or _is_buffer(o)
    if hasattr(kind, "__dlpack__") and not native:
        return np.from_dlpack(o)
    return np.asarray(o)


def _is_buffer(o):
    try:
        memoryview(o)
    except (TypeError, BufferError):
        return False
    return True


def join_mask(x, where, takes_where):
    """`where` without what the mask of x hides, if x is a masked array."""
    ma = sys.modules.get("numpy.ma")
    if ma is None or not isinstance(x, ma.MaskedArray):
        return where
    kept = np.logical_not(x.mask)
    if takes_where:
        return kept if where is None else kept & where
    if not kept.all():
        raise TypeError("x has masked elements, but there is no where to join")
    return None


def overlaps_itself(array):
    """Whether two of its elements share a byte."""
    if not array.size:
        return False
    axes = sorted((abs(step), n) for n, step in zip(array.shape, array.strides) if n > 1)
    reach, nested = array.itemsize, True
    for step, n in axes:
        nested &= step >= reach
        reach += (n - 1) * step
    if nested or reach < array.nbytes:
        return not nested
    places = np.zeros(1, np.int64)
    for step, n in axes:
        places = np.add.outer(places, np.arange(n) * step).ravel()
    return bool((np.diff(np.sort(places)) < array.itemsize).any())
