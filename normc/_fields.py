"""What may be assigned to the fields of a layer, and as what it is kept."""

from operator import index

import numpy as np

from . import _core
from ._arrays import as_ndarray

FLOATING = ("float16", "bfloat16", "float32", "float64")


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
    try:
        array = value if isinstance(value, np.ndarray) else as_ndarray(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error
    if array is not value and array.dtype.kind in "biu":
        array = array.astype(np.float64)
    if array.dtype.name not in FLOATING:
        raise TypeError(f"{name} must have dtype {', '.join(FLOATING)}, but has {array.dtype}")
    if array.shape != (layer.num_features,):
        raise ValueError(f"{name} must have shape ({layer.num_features},), but has {array.shape}")
    return array


def counter(layer, value, name):
    if value is None:
        return None
    try:
        return np.array(index(value), dtype=np.int64)
    except TypeError as error:
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}") from error
    except OverflowError as error:
        raise ValueError(f"{name} must fit an int64, but got {value}") from error
