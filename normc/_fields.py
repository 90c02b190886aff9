"""What may be assigned to the fields of a layer, and as what it is kept."""

from operator import index

import numpy as np

from . import _core
from ._arrays import as_ndarray

FLOATING = ("float16", "bfloat16", "float32", "float64")


def named(name, convert, value):
    """convert(value), whose errors name the argument."""
    try:
        return convert(value)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from error
    except (ValueError, RuntimeError, BufferError) as error:
        raise ValueError(f"{name}: {error}") from error


def flag(layer, value, name):
    if not isinstance(value, (int, np.bool_)):
        raise TypeError(f"{name} must be a bool, not {type(value).__name__}")
    return bool(value)


def eps(layer, value, name):
    number = _core._real(value, name)
    if not number >= 0:
        raise ValueError(f"{name} must be non-negative, but got {value}")
    return value if type(value) is int else number


def momentum(layer, value, name):
    """None, or a finite number; integers stay what they are, for the repr."""
    if value is None:
        return None
    number = _core._real(value, name)
    if not np.isfinite(number):
        raise ValueError(f"{name} must be finite, but got {value}")
    return value if type(value) is int else number


def vector(layer, value, name):
    """One number per channel; an ndarray is kept, so that both sides see each other's changes."""
    if value is None:
        return None
    array = value if isinstance(value, np.ndarray) else named(name, as_ndarray, value)
    if array is not value and array.dtype.kind in "biu":
        array = array.astype(np.float64)
    if array.dtype.name not in FLOATING:
        raise TypeError(f"{name} must have dtype {', '.join(FLOATING)}, but has {array.dtype}")
    if array.shape != (layer.num_features,):
        raise ValueError(f"{name} must have shape ({layer.num_features},), but has {array.shape}")
    return array


def counter(layer, value, name):
    """A 0-d array of int64, kept if it is one; it counts up from 0."""
    if value is None:
        return None
    try:
        count = index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}") from error
    if not 0 <= count < 2**63 - 1:
        raise ValueError(f"{name} must be from 0 to 2**63 - 2")
    shared = isinstance(value, np.ndarray) and value.shape == () and value.flags.behaved
    return value if shared and value.dtype == np.int64 else np.array(count, dtype=np.int64)
