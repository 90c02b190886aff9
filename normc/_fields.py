"""What may be assigned to the fields of a layer, and as what it is kept."""

import numpy as np

from . import _convert


def flag(layer, value, name):
    return _convert.flag(value, name)


def number(layer, value, name):
    """A float; integers stay what they are, for the repr."""
    real = _convert.real(value, name)
    return value if type(value) is int else real


def finite(layer, value, name):
    kept = number(layer, value, name)
    if not np.isfinite(float(kept)):
        raise ValueError(f"{name} must be finite, but got {value}")
    return kept


def optional(check):
    """The same check, but None stays None."""
    return lambda layer, value, name: None if value is None else check(layer, value, name)


momentum = optional(finite)


def activation(layer, value, name):
    """None or the word that `normc._convert.is_relu` knows: as itself, for the repr."""
    return "relu" if value is not None and _convert.is_relu(value, name) else None


def eps(layer, value, name):
    kept = number(layer, value, name)
    if not kept >= 0:
        raise ValueError(f"{name} must be non-negative, but got {value}")
    return kept


def word(*words):
    """One of these strings."""
    def check(layer, value, name):
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a string, not {type(value).__name__}")
        if value not in words:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, words))}, but got "
                             f"{value!r}")
        return value
    return check


def count(layer, value, name):
    """How many there are of something."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not bool")
    n = _convert.integer(value, name)
    if n < 0:
        raise ValueError(f"{name} must be non-negative, but got {n}")
    return n


def floating(dtype):
    """The dtype of a layer's arrays; None is float32."""
    try:
        dtype = np.dtype(np.float32 if dtype is None else dtype)
    except (TypeError, ValueError, DeprecationWarning) as error:  # a warning: if it is an error
        raise TypeError(f"dtype: {error}") from error
    if dtype.name not in _convert.FLOATING:
        raise TypeError(f"dtype must be one of {', '.join(_convert.FLOATING)}, but got {dtype}")
    return dtype


def array(layer, value, name):
    """Of the shape it has in this layer; an ndarray is kept, so that both see each other's changes.
    """
    if value is None:
        return None
    given = isinstance(value, np.ndarray)
    converted = (_convert.shared if given else _convert.numbers)(value, name)
    if converted.shape != layer._shape(name):
        raise ValueError(f"{name} must have shape {layer._shape(name)}, but has {converted.shape}")
    return value if given else converted


def counter(layer, value, name):
    """A 0-d array of int64, kept if it is one; it counts up from 0."""
    if value is None:
        return None
    count = _convert.integer(value, name)
    if not 0 <= count < 2**63 - 1:
        raise ValueError(f"{name} must be from 0 to 2**63 - 2")
    shared = isinstance(value, np.ndarray) and value.shape == () and value.flags.behaved
    return value if shared and value.dtype == np.int64 else np.array(count, dtype=np.int64)
