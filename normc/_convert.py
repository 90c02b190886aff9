"""Arguments of types that C does not know, made into those it does.

C takes exact floats, ints, bools, tuples and ndarrays as they are; all others come here once.
Errors name the argument.
"""

import sys
from itertools import islice
from operator import index

import numpy as np

FLOATING = ("float16", "bfloat16", "float32", "float64")


def _named(name, convert, value):
    """convert(value), whose errors name the argument."""
    try:
        return convert(value)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from error
    except (ValueError, RuntimeError, BufferError) as error:
        raise ValueError(f"{name}: {error}") from error


def _wrong_type(name, expected, value):
    return TypeError(f"{name} must be {expected}, not {type(value).__name__}")


# ---- scalars -------------------------------------------------------------------------------------

def _is_real(value):
    """NumPy would drop imaginary parts with no more than a warning, and read numbers from text."""
    if isinstance(value, np.ndarray):
        plain = type(value) is np.ndarray and value.ndim == 0
        return plain and (value.dtype.kind in "biuf" or value.dtype.name in FLOATING)
    if isinstance(value, (complex, np.complexfloating, np.flexible, np.timedelta64)):
        return False
    return hasattr(type(value), "__float__") or hasattr(type(value), "__index__")


def real(value, name):
    if not _is_real(value):
        raise _wrong_type(name, "a real number", value)
    try:
        return _named(name, float, value)
    except OverflowError as error:
        kind = type(value).__name__
        raise ValueError(f"{name} must fit a double, but got a larger {kind}") from error


def integer(value, name):
    if not hasattr(type(value), "__index__") or isinstance(value, np.bool_):
        raise _wrong_type(name, "an integer", value)
    return int(_named(name, index, value))


def flag(value, name):
    if not isinstance(value, (int, np.bool_)):
        raise _wrong_type(name, "a bool", value)
    return bool(value)


def is_onnx(value, name):
    """Windows of even size reach one channel further back (torch) or ahead (onnx)."""
    if not isinstance(value, str):
        raise _wrong_type(name, "a string", value)
    if value not in ("torch", "onnx"):
        raise ValueError(f"{name} must be 'torch' or 'onnx', but got {value!r}")
    return value == "onnx"


def is_relu(value, name):
    if not isinstance(value, str):
        raise _wrong_type(name, "a string or None", value)
    if value != "relu":
        raise ValueError(f"{name} must be 'relu' or None, but got {value!r}")
    return True


def sizes(value, name):
    """A tuple of whatever a sequence holds, or of one integer."""
    kind = type(value)
    if hasattr(kind, "__index__"):
        return integer(value, name),
    if not hasattr(kind, "__getitem__") or isinstance(value, (str, bytes, dict, np.generic)):
        raise _wrong_type(name, "an integer or a tuple of integers", value)
    return _named(name, lambda sequence: tuple(islice(sequence, 65)), value)


# ---- arrays --------------------------------------------------------------------------------------

def _is_buffer(o):
    try:
        memoryview(o)
    except (TypeError, BufferError):
        return False
    return True


def _as_ndarray(o):
    """Any array-like, other libraries' by what they offer."""
    kind = type(o)
    native = hasattr(kind, "__array__") or hasattr(kind, "__array_interface__") or _is_buffer(o)
    if hasattr(kind, "__dlpack__") and not native:
        return np.from_dlpack(o)
    return np.asarray(o)


def _base(o, name):
    """As a base-class ndarray: subclasses could answer NumPy with code of their own."""
    array = o if isinstance(o, np.ndarray) else _named(name, _as_ndarray, o)
    if type(array) is np.ndarray:
        return array
    return _named(name, lambda subclass: np.ndarray.view(subclass, np.ndarray), array)


def _checked(array, name, kinds, expected):
    if array.dtype.kind not in kinds and array.dtype.name not in FLOATING:
        raise TypeError(f"{name} must have dtype {expected}, but has {array.dtype}")
    return array


def numbers(o, name):
    """Floating as it is, integers and bools as float64."""
    array = _checked(_base(o, name), name, "biu",
                     "float16, bfloat16, float32, float64, integer or bool")
    return array.astype(np.float64) if array.dtype.kind in "biu" else array


def detached(o):
    """A tensor of torch without its graph, of bfloat16 as float64: what NumPy can read."""
    if isinstance(o, np.ndarray) or not hasattr(o, "detach"):
        return o
    o = o.detach()
    try:
        return np.asarray(o)
    except (TypeError, RuntimeError):
        return np.asarray(o.double()) if hasattr(o, "double") else o


def gradient(o, name):
    """The same; where a mask hides it, nothing flows back."""
    ma = sys.modules.get("numpy.ma")
    if ma is not None and isinstance(o, ma.MaskedArray):
        hidden, o = ma.getmaskarray(o), _named(name, np.array, ma.getdata(o))
        o[hidden] = 0
    return numbers(o, name)


@np.errstate(all="ignore")
def rounded(values, dtype):
    """To dtype, and once: ml_dtypes goes from float64 to bfloat16 by way of float32."""
    if values.dtype.itemsize == 8 and np.dtype(dtype).name == "bfloat16":
        narrow = values.astype(np.float32)
        inexact = (narrow != values) & np.isfinite(narrow)
        bits = narrow.view(np.uint32) - (inexact & (abs(narrow) > abs(values)))
        values = (bits | inexact).astype(np.uint32).view(np.float32)  # to odd, as in running.c
    return values.astype(dtype)


def mask(o, name):
    array = _base(o, name)
    if array.dtype != bool:
        raise TypeError(f"{name} must have dtype bool, but has {array.dtype}")
    return array


def shared(o, name):
    """The caller's own memory."""
    if not isinstance(o, np.ndarray):
        raise _wrong_type(name, "an ndarray", o)
    return _checked(_base(o, name), name, "", "float16, bfloat16, float32 or float64")


def full_mask(where, x):
    """The mask in x's shape; None is all of it."""
    where = True if where is None else mask(where, "where")
    return _named("where", lambda given: np.broadcast_to(given, x.shape), where)


def join_mask(x, where, takes_where):
    """`where` without what the mask of x hides, if x is a masked array."""
    ma = sys.modules.get("numpy.ma")
    if ma is None or not isinstance(x, ma.MaskedArray):
        return where
    kept = _named("x", np.logical_not, x.mask)
    if takes_where:
        return kept if where is None else _named("where", kept.__and__, where)
    if not kept.all():
        raise TypeError("x has masked elements, but there is no where to join")
    return None


def leaves_pairs(where, shape, axis):
    """Whether a mask of this shape, once broadcast, leaves any channel two elements."""
    others = tuple(i for i in range(len(shape)) if i != axis)
    return bool((np.broadcast_to(where, shape).sum(others) > 1).any())


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
