"""oneDNN's own primitives through its C API, as the `onednn-cpu-gomp` wheel has it; output warm.

Handles and descriptors are kept as long as the case is measured.
"""

import ctypes
import sys
from ctypes import byref, c_float, c_int, c_int64, c_uint, c_void_p
from pathlib import Path

import numpy as np

try:
    LIBRARY = ctypes.CDLL(str(Path(sys.prefix, "lib", "libdnnl.so.3")))
except OSError:
    LIBRARY = None

# Values of dnnl_types.h, 3.x
DTYPES = {"float16": 1, "bfloat16": 2, "float32": 3, "float64": 7}
TRAINING, INFERENCE, BACKWARD = 64, 96, 128
GLOBAL_STATS, SCALE, SHIFT = 1, 2, 4
ACROSS_CHANNELS = 0xaff
SRC, DST, MEAN, VARIANCE, GAMMA, BETA, WORKSPACE = 1, 17, 49, 50, 51, 52, 64
DIFF_SRC, DIFF_DST, DIFF_GAMMA, DIFF_BETA = 129, 145, 255, 256


class Refused(Exception):
    """oneDNN has no such primitive."""


class Argument(ctypes.Structure):
    _fields_ = [("arg", c_int), ("memory", c_void_p)]


def versions():
    if LIBRARY is None:
        return {}
    fields = (c_int * 3).from_address(ctypes.cast(_call_pointer("dnnl_version"), c_void_p).value)
    return {"onednn": ".".join(map(str, fields))}


def _call_pointer(name):
    function = getattr(LIBRARY, name)
    function.restype = c_void_p
    return function()


def call(name, *args):
    if getattr(LIBRARY, name)(*args):
        raise Refused(name)


class Primitive:
    """One primitive with its memory: by argument, arrays."""

    def __init__(self, kind, create, arrays):
        self.engine, self.stream, self.primitive = c_void_p(), c_void_p(), c_void_p()
        call("dnnl_engine_create", byref(self.engine), 1, c_int64(0))
        call("dnnl_stream_create", byref(self.stream), self.engine, c_uint(1))
        self.arrays = arrays
        self.descriptors = {key: self._descriptor(a) for key, a in arrays.items()}
        description = c_void_p()
        call(f"dnnl_{kind}_primitive_desc_create", byref(description), self.engine,
             *create(self.descriptors))
        call("dnnl_primitive_create", byref(self.primitive), description)
        self.description = description
        self.arguments = (Argument * len(arrays))(
            *(Argument(key, self._memory(key)) for key in arrays))

    def _descriptor(self, a):
        dims, strides = ((c_int64 * a.ndim)(*values) for values in
                         (a.shape, (step // a.itemsize for step in a.strides)))
        descriptor = c_void_p()
        call("dnnl_memory_desc_create_with_strides", byref(descriptor), a.ndim, dims,
             DTYPES[a.dtype.name], strides)
        return descriptor

    def _memory(self, key):
        memory = c_void_p()
        call("dnnl_memory_create", byref(memory), self.descriptors[key], self.engine,
             c_void_p(self.arrays[key].ctypes.data))
        return memory

    def __call__(self):
        call("dnnl_primitive_execute", self.primitive, self.stream, len(self.arguments),
             self.arguments)
        call("dnnl_stream_wait", self.stream)


def array(result):
    return result


def calls(case, data):
    make = {"layer_norm": layer_norm, "batch_norm": batch_norm,
            "local_response_norm": respond}.get(case.norm)
    if LIBRARY is None or make is None:
        return {}
    try:
        return make(case, data)
    except Refused:
        return {}


def _timed(case, primitive, keys):
    arrays = [primitive.arrays[key] for key in keys]

    def run():
        primitive()
        return tuple(arrays) if len(arrays) > 1 else arrays[0]

    return {"onednn": run}


def _vectors(case, data):
    return {GAMMA: data.weight.astype(np.float32), BETA: data.bias.astype(np.float32)}


def layer_norm(case, data):
    if case.axis not in (-1, len(case.shape) - 1):
        return {}
    stats = {key: np.zeros(case.shape[:-1], np.float32) for key in (MEAN, VARIANCE)}
    arrays = {SRC: data.x, DST: np.zeros_like(data.x), **_vectors(case, data)}
    kind = TRAINING if case.backward else INFERENCE
    forward = Primitive("layer_normalization_forward", lambda d: (
        kind, d[SRC], d[DST], d.get(MEAN), c_float(case.eps), c_uint(SCALE | SHIFT), None),
        {**arrays, **(stats if case.backward else {})})
    forward()
    if not case.backward:
        return _timed(case, forward, [DST])
    backward = Primitive("layer_normalization_backward", lambda d: (
        BACKWARD, d[DIFF_SRC], d[DIFF_DST], d[SRC], d[MEAN], c_float(case.eps),
        c_uint(SCALE | SHIFT), forward.description, None),
        {**_backward_arrays(case, data, stats), BETA: arrays[BETA]})
    return _timed(case, backward, [DIFF_SRC, DIFF_GAMMA, DIFF_BETA])


def _backward_arrays(case, data, stats):
    gamma = data.weight.astype(np.float32)
    return {SRC: data.x, DIFF_DST: data.grad, DIFF_SRC: np.zeros_like(data.x), **stats,
            GAMMA: gamma, DIFF_GAMMA: np.zeros_like(gamma), DIFF_BETA: np.zeros_like(gamma)}


def batch_norm(case, data):
    """x is (N, C, H, W) wherever the channels lie."""
    moved = {name: None if a is None else np.moveaxis(a, case.axis, 1)
             for name, a in (("x", data.x), ("grad", data.grad))}
    y = np.moveaxis(np.zeros_like(data.x), case.axis, 1)
    stats = {MEAN: data.mean.astype(np.float32), VARIANCE: data.var.astype(np.float32)}
    flags = SCALE | SHIFT | GLOBAL_STATS * (not case.training)
    kind = TRAINING if case.training else INFERENCE
    forward = Primitive("batch_normalization_forward", lambda d: (
        kind, d[SRC], d[DST], c_float(case.eps), c_uint(flags), None),
        {SRC: moved["x"], DST: y, **_vectors(case, data), **stats})
    forward()
    if not case.backward:
        run, back = forward, np.moveaxis(y, 1, case.axis)

        def forwards():
            run()
            return back

        return {"onednn": forwards}
    dx = np.moveaxis(np.zeros_like(data.x), case.axis, 1)
    arrays = _backward_arrays(case, data, stats) | {SRC: moved["x"], DIFF_DST: moved["grad"],
                                                    DIFF_SRC: dx}
    backward = Primitive("batch_normalization_backward", lambda d: (
        BACKWARD, d[DIFF_SRC], d[DIFF_DST], d[SRC], c_float(case.eps), c_uint(flags),
        forward.description, None), arrays)
    results = np.moveaxis(dx, 1, case.axis), arrays[DIFF_GAMMA], arrays[DIFF_BETA]

    def backwards():
        backward()
        return results

    return {"onednn": backwards}


def respond(case, data):
    forward = Primitive("lrn_forward", lambda d: (
        INFERENCE, ACROSS_CHANNELS, d[SRC], d[DST], c_int64(case.size), c_float(1e-4),
        c_float(0.75), c_float(1.0), None), {SRC: data.x, DST: np.zeros_like(data.x)})
    return _timed(case, forward, [DST])
