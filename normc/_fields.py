"""What may be assigned to the fields of a layer, and as what it is kept."""

import numpy as np

from . import _convert


def flag(layer, value, name):
    return _convert.flag(value, name)


def eps(layer, value, name):
    number = _convert.real(value, name)
    if not number >= 0:
        raise ValueError(f"{name} must be non-negative, but got {value}")
    return value if type(value) is int else number


def momentum(layer, value, name):
    """None, or a finite number; integers stay what they are, for the repr."""
    if value is None:
        return None
    number = _convert.real(value, name)
    if not np.isfinite(number):
        raise ValueError(f"{name} must be finite, but got {value}")
    return value if type(value) is int else number


def vector(layer, value, name):
    """One number per channel; an ndarray is kept, so that both sides see each other's changes."""
    if value is None:
        return None
    given = isinstance(value, np.ndarray)
    array = (_convert.shared if given else _convert.numbers)(value, name)
    if array.shape != (layer.num_features,):
        raise ValueError(f"{name} must have shape ({layer.num_features},), but has {array.shape}")
    return value if given else array


def counter(layer, value, name):
    """A 0-d array of int64, kept if it is one; it counts up from 0."""
    if value is None:
        return None
    count = _convert.integer(value, name)
    if not 0 <= count < 2**63 - 1:
        raise ValueError(f"{name} must be from 0 to 2**63 - 2")
    shared = isinstance(value, np.ndarray) and value.shape == () and value.flags.behaved
    return value if shared and value.dtype == np.int64 else np.array(count, dtype=np.int64)
