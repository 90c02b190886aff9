"""Every bad call ends in the right exception, which names the argument; nothing changes."""

import inspect
import subprocess
import sys
import warnings

import numpy as np
import pytest
import zoo
from hypothesis import example, given, settings
from hypothesis import strategies as st

import normc

AxisError = np.exceptions.AxisError


def x2(dtype=np.float32):
    return np.arange(12, dtype=dtype).reshape(3, 4)


def x3(dtype=np.float32):
    return np.arange(60, dtype=dtype).reshape(3, 4, 5)


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def one_running():
    return np.zeros(4), np.ones(4)


def broadcast_out():
    return np.lib.stride_tricks.as_strided(np.zeros(5, np.float32), (3, 4, 5), (0, 0, 4))


def window_out():
    return np.lib.stride_tricks.as_strided(np.zeros(62, np.float32), (3, 4, 5), (4, 20, 4))


def running_inside(x):
    return x.reshape(-1)[:4], np.ones(4, x.dtype)


BAD = [
    # x
    ("complex x", TypeError, r"\bx\b.*complex64", normc.layer_norm, (x3(np.complex64),), {}),
    ("longdouble x", TypeError, r"\bx\b.*longdouble|\bx\b.*float128", normc.layer_norm,
     (x3(np.longdouble),), {}),
    ("object x", TypeError, r"\bx\b.*object", normc.relu, (np.array([1, None]),), {}),
    ("string x", TypeError, r"\bx\b.*<U", normc.standardize, (np.array(["a"]),), {}),
    ("datetime x", TypeError, r"\bx\b", normc.relu, (np.array(["2020-01-01"], "M8[D]"),), {}),
    ("structured x", TypeError, r"\bx\b", normc.relu, (np.zeros(3, "i4,f4"),), {}),
    ("None x", TypeError, r"\bx\b", normc.relu, (None,), {}),
    ("ragged x", ValueError, r"\bx\b", normc.relu, ([[1, 2], [3]],), {}),
    ("x by keyword", TypeError, r"x", normc.relu, (), {"x": x3()}),
    ("no x", TypeError, r"x", normc.layer_norm, (), {}),
    ("1-D batch", ValueError, r"\bx\b", normc.batch_norm, (ones(4),), {"training": True}),
    ("0-D group", ValueError, r"\bx\b", normc.group_norm, (1.0, 1), {}),
    ("1-D instance", ValueError, r"\bx\b|input", normc.instance_norm, (ones(4),), {}),
    ("2-D lrn", ValueError, r"Expected 3D or higher", normc.local_response_norm, (x2(), 3), {}),
    # unknown, doubled, too many
    ("unknown keyword", TypeError, r"weights", normc.layer_norm, (x3(),), {"weights": 1}),
    ("too many positions", TypeError, r"positional", normc.relu, (x3(), x3()), {}),
    ("twice", TypeError, r"normalized_shape", normc.layer_norm, (x3(), 5), {"normalized_shape": 5}),
    ("num_groups missing", TypeError, r"num_groups", normc.group_norm, (x3(),), {}),
    # eps
    ("negative eps", ValueError, r"eps must be non-negative, but got -1\.0", normc.layer_norm,
     (x3(),), {"eps": -1.0}),
    ("NaN eps", ValueError, r"eps must be non-negative, but got nan", normc.layer_norm, (x3(),),
     {"eps": np.nan}),
    ("eps of a layer", ValueError, r"eps", normc.BatchNorm, (4,), {"eps": -1e-5}),
    ("eps a string", TypeError, r"eps", normc.group_norm, (x3(), 2), {"eps": "1"}),
    ("eps None", TypeError, r"eps", normc.layer_norm, (x3(),), {"eps": None}),
    ("eps complex", TypeError, r"eps", normc.layer_norm, (x3(),), {"eps": 1j}),
    ("eps an array", TypeError, r"eps", normc.rms_norm, (x3(),), {"eps": ones(2)}),
    ("eps beyond double", ValueError, r"eps", normc.rms_norm, (x3(),), {"eps": 10**400}),
    # momentum, correction
    ("momentum NaN", ValueError, r"momentum", normc.batch_norm, (x3(), *one_running()),
     {"training": True, "momentum": np.nan}),
    ("momentum inf", ValueError, r"momentum", normc.instance_norm, (x3(), *one_running()),
     {"momentum": np.inf}),
    ("momentum None", TypeError, r"momentum", normc.batch_norm, (x3(), *one_running()),
     {"training": True, "momentum": None}),
    ("correction 2", ValueError, r"correction", normc.batch_norm, (x3(),),
     {"training": True, "correction": 2}),
    ("correction 0.5", (TypeError, ValueError), r"correction", normc.batch_norm, (x3(),),
     {"training": True, "correction": 0.5}),
    # axis
    ("axis 3", AxisError, r"3", normc.batch_norm, (x3(),), {"training": True, "axis": 3}),
    ("axis -4", AxisError, r"-4", normc.layer_norm, (x3(),), {"axis": -4}),
    ("one of the axes", AxisError, r"7", normc.standardize, (x3(), (0, 7)), {}),
    ("axis twice", ValueError, r"axis", normc.layer_norm, (x3(),), {"axis": (1, -2)}),
    ("axis a float", TypeError, r"axis", normc.layer_norm, (x3(),), {"axis": 1.0}),
    ("axis a tuple", TypeError, r"axis", normc.batch_norm, (x3(),),
     {"training": True, "axis": (1,)}),
    ("axis None", TypeError, r"axis", normc.group_norm, (x3(), 2), {"axis": None}),
    ("axis and shape", ValueError, r"normalized_shape.*axis|axis.*normalized_shape",
     normc.layer_norm, (x3(), 5), {"axis": 2}),
    ("axis of prelu", AxisError, r"5", normc.prelu, (x3(), ones(4)), {"axis": 5}),
    # normalized_shape
    ("wrong shape", ValueError, r"Given normalized_shape=\[4\]", normc.layer_norm, (x3(), 4), {}),
    ("too long a shape", ValueError, r"normalized_shape", normc.rms_norm, (x2(), (1, 3, 4)), {}),
    ("empty shape", ValueError, r"normalized_shape", normc.layer_norm, (x3(), ()), {}),
    ("shape a float", TypeError, r"normalized_shape", normc.layer_norm, (x3(), 5.0), {}),
    ("shape a string", TypeError, r"normalized_shape", normc.layer_norm, (x3(), "5"), {}),
    # weight, bias
    ("weight too short", ValueError, r"weight", normc.layer_norm, (x3(), 5, ones(4)), {}),
    ("bias too short", ValueError, r"bias", normc.layer_norm, (x3(), 5, None, ones(4)), {}),
    ("flat weight of two axes", ValueError, r"weight", normc.layer_norm, (x3(), (4, 5), ones(20)),
     {}),
    ("weight with an axis too many", ValueError, r"weight", normc.layer_norm, (x3(), 5, ones(1, 5)),
     {}),
    ("weight of channels", ValueError, r"weight should contain 4 elements not 5", normc.batch_norm,
     (x3(), None, None, ones(5)), {"training": True}),
    ("bias of groups", ValueError, r"bias", normc.group_norm, (x3(), 2, None, ones(2)), {}),
    ("weight complex", TypeError, r"weight", normc.layer_norm, (x3(), 5, ones(5, dtype="c8")), {}),
    ("weight strings", TypeError, r"weight", normc.rms_norm, (x3(), 5, ["a"] * 5), {}),
    ("weight an object", TypeError, r"weight", normc.group_norm, (x3(), 2, object()), {}),
    ("prelu's weight", ValueError, r"weight", normc.prelu, (x3(), ones(3)), {}),
    ("prelu's weight 2-D", ValueError, r"weight", normc.prelu, (x3(), ones(4, 1)), {}),
    ("prelu's weight None", TypeError, r"weight", normc.prelu, (x3(), None), {}),
    # running statistics
    ("running_mean alone", ValueError, r"must either both be None or neither be None",
     normc.batch_norm, (x3(), np.zeros(4)), {"training": True}),
    ("running_var alone", ValueError, r"must either both be None or neither be None",
     normc.instance_norm, (x3(), None, np.ones(4)), {}),
    ("running_mean too long", ValueError, r"running_mean should contain 4 elements not 5",
     normc.batch_norm, (x3(), np.zeros(5), np.ones(4)), {"training": True}),
    ("running_var too long", ValueError, r"running_var should contain 4 elements not 5",
     normc.instance_norm, (x3(), np.zeros(4), np.ones(5)), {}),
    ("running_mean 2-D", ValueError, r"running_mean", normc.batch_norm,
     (x3(), np.zeros((4, 1)), np.ones(4)), {"training": True}),
    ("running_mean a list", TypeError, r"running_mean", normc.batch_norm,
     (x3(), [0.0] * 4, np.ones(4)), {"training": True}),
    ("running_var integers", TypeError, r"running_var", normc.batch_norm,
     (x3(), np.zeros(4), np.ones(4, int)), {"training": True}),
    ("running_mean read-only", ValueError, r"running_mean.*read-only", normc.batch_norm,
     (x3(), zoo.read_only(np.zeros(4)), np.ones(4)), {"training": True}),
    ("running_var read-only", ValueError, r"running_var.*read-only", normc.switchable_norm,
     (x3(), [1, 2, 3], [1, 2, 3], None, None, np.zeros(4), zoo.read_only(np.ones(4)), True), {}),
    ("no statistics in evaluation", ValueError, r"running_mean", normc.batch_norm, (x3(),), {}),
    ("no statistics, instance", ValueError, r"running_mean", normc.instance_norm, (x3(),),
     {"use_input_stats": False}),
    ("no statistics, switchable", ValueError, r"running_mean", normc.switchable_norm,
     (x3(), [1, 2, 3], [1, 2, 3]), {}),
    # too few values
    ("one value per channel", ValueError, r"Expected more than 1 value per channel when training",
     normc.batch_norm, (ones(1, 4), np.zeros(4), np.ones(4)), {"training": True}),
    ("one value, 4-D", ValueError, r"Expected more than 1 value per channel when training",
     normc.batch_norm, (ones(1, 4, 1, 1),), {"training": True}),
    ("one spatial element", ValueError, r"Expected more than 1 spatial element when training",
     normc.instance_norm, (ones(3, 4, 1),), {}),
    # num_groups, logits, windows, slopes
    ("3 groups of 4", ValueError, r"num_channels \(4\) must be divisible by num_groups \(3\)",
     normc.group_norm, (x3(), 3), {}),
    ("0 groups", ValueError, r"num_groups", normc.group_norm, (x3(), 0), {}),
    ("-2 groups", ValueError, r"num_groups", normc.group_norm, (x3(), -2), {}),
    ("2.0 groups", TypeError, r"num_groups", normc.group_norm, (x3(), 2.0), {}),
    ("two logits", ValueError, r"mean_weight", normc.switchable_norm, (x3(), [1, 2], [1, 2, 3]),
     {"training": True}),
    ("three logits for 2-D", ValueError, r"mean_weight", normc.switchable_norm,
     (x2(), [1, 2, 3], [1, 2, 3]), {"training": True}),
    ("four var logits", ValueError, r"var_weight", normc.switchable_norm,
     (x3(), [1, 2, 3], [1, 2, 3, 4]), {"training": True}),
    ("logits None", TypeError, r"var_weight", normc.switchable_norm, (x3(), [1, 2, 3], None),
     {"training": True}),
    ("size 0", ValueError, r"size", normc.local_response_norm, (x3(), 0), {}),
    ("size a float", TypeError, r"size", normc.local_response_norm, (x3(), 3.0), {}),
    ("window", ValueError, r"window", normc.local_response_norm, (x3(), 3), {"window": "keras"}),
    ("window None", TypeError, r"window", normc.local_response_norm, (x3(), 3), {"window": None}),
    ("alpha a string", TypeError, r"alpha", normc.local_response_norm, (x3(), 3, "a"), {}),
    ("slope a string", TypeError, r"negative_slope", normc.leaky_relu, (x3(), "a"), {}),
    # where
    ("where of integers", TypeError, r"where.*bool", normc.layer_norm, (x3(),),
     {"where": ones(3, 4, 5, dtype=int)}),
    ("where of floats", TypeError, r"where", normc.moments, (x3(),), {"where": ones(5)}),
    ("where too short", ValueError, r"where", normc.layer_norm, (x3(),),
     {"where": ones(4, dtype=bool)}),
    ("where with an axis too many", ValueError, r"where", normc.batch_norm, (x3(),),
     {"training": True, "where": ones(1, 3, 4, 5, dtype=bool)}),
    ("where for lrn", TypeError, r"where", normc.local_response_norm, (x3(), 3), {"where": True}),
    # flags
    ("training a string", TypeError, r"training", normc.batch_norm, (x3(),), {"training": "yes"}),
    ("return_moments a float", TypeError, r"return_moments", normc.layer_norm, (x3(),),
     {"return_moments": 0.5}),
    ("moments in evaluation", ValueError, r"return_moments", normc.batch_norm,
     (x3(), *one_running()), {"return_moments": True}),
    ("moments of given statistics", ValueError, r"return_moments", normc.instance_norm,
     (x3(), *one_running()), {"use_input_stats": False, "return_moments": True}),
    # out
    ("out a list", TypeError, r"out", normc.layer_norm, (x3(),), {"out": [0.0]}),
    ("out too small", ValueError, r"out", normc.layer_norm, (x3(),), {"out": ones(3, 4, 4)}),
    ("out that would broadcast", ValueError, r"out", normc.relu, (x3(),),
     {"out": ones(1, 3, 4, 5)}),
    ("out float64", ValueError, r"out.*float64", normc.layer_norm, (x3(),),
     {"out": ones(3, 4, 5, dtype=np.float64)}),
    ("out float32 for integers", ValueError, r"out", normc.relu, (x3(int),),
     {"out": ones(3, 4, 5)}),
    ("out swapped", ValueError, r"out", normc.layer_norm, (x3(),),
     {"out": ones(3, 4, 5, dtype=">f4")}),
    ("out read-only", ValueError, r"out", normc.batch_norm, (x3(),),
     {"training": True, "out": zoo.read_only(ones(3, 4, 5))}),
    ("out of stride 0", ValueError, r"out", normc.layer_norm, (x3(),), {"out": broadcast_out()}),
    ("out of windows", ValueError, r"out", normc.group_norm, (x3(), 2), {"out": window_out()}),
    # layers
    ("no features", (TypeError, ValueError), r"num_features", normc.BatchNorm, (), {}),
    ("negative features", ValueError, r"num_features", normc.BatchNorm, (-1,), {}),
    ("features a float", TypeError, r"num_features", normc.BatchNorm2d, (2.5,), {}),
    ("layer dtype", (TypeError, ValueError), r"dtype", normc.BatchNorm, (4,), {"dtype": int}),
    ("layer dtype of NumPy 1", TypeError, r"dtype", normc.BatchNorm, (4,), {"dtype": "a"}),
    ("layer momentum", ValueError, r"momentum", normc.BatchNorm, (4,), {"momentum": np.inf}),
    ("layer correction", ValueError, r"correction", normc.BatchNorm, (4,), {"correction": 3}),
    ("layer keyword", TypeError, r"affin", normc.BatchNorm, (4,), {"affin": True}),
    ("layer: channels", ValueError, r"running_mean should contain 3 elements not 4",
     normc.BatchNorm2d(4), (ones(2, 3, 5, 5),), {}),
    ("layer: rank", ValueError, r"expected 4D input \(got 2D input\)", normc.BatchNorm2d(4),
     (x2(),), {}),
    ("layer: one value", ValueError, r"Expected more than 1 value per channel when training",
     normc.BatchNorm1d(4), (ones(1, 4),), {}),
    ("layer: out", ValueError, r"out", normc.BatchNorm1d(4), (x3(),), {"out": ones(3)}),
    ("layer: where", TypeError, r"where", normc.BatchNorm1d(4), (x3(),), {"where": ones(5)}),
]


def arrays_in(args, kwargs, function):
    found = [a for a in [*args, *kwargs.values()] if isinstance(a, np.ndarray)]
    if isinstance(function, normc.BatchNorm):
        found += [function.weight, function.bias, function.running_mean, function.running_var,
                  function.num_batches_tracked]
    return found


def snapshot(arrays):
    return [a.tobytes() for a in arrays if a.dtype != object]


@pytest.mark.parametrize("error, message, function, args, kwargs", [b[1:] for b in BAD],
                         ids=[b[0] for b in BAD])
def test_bad_call(error, message, function, args, kwargs):
    arrays = arrays_in(args, kwargs, function)
    before = snapshot(arrays)
    with pytest.raises(error, match=f"(?s){message}"):
        function(*args, **kwargs)
    assert snapshot(arrays) == before


def test_shared_memory_of_statistics():
    x = x3(np.float64)
    stats = np.ones(8)
    w = np.ones(4)
    pairs = [
        (r"running_mean and running_var", (x, stats[:4], stats[:4]), {}),
        (r"running_mean and running_var", (x, stats[:4], stats[2:6]), {}),
        (r"running_mean.*x|x.*running_mean", (x, *running_inside(x)), {}),
        (r"running_var.*x|x.*running_var", (x, *running_inside(x)[::-1]), {}),
        (r"running_mean.*weight", (x, stats[:4], stats[4:], stats[3:7]), {}),
        (r"running_var.*bias", (x, stats[:4], w, None, w), {}),
        (r"out.*running_mean|running_mean.*out", (x, (o := np.ones((3, 4, 5)))[0, :, 2], w),
         {"out": o}),
        (r"out.*running_var|running_var.*out", (x, w, (p := np.ones((3, 4, 5)))[1, :, 0]),
         {"out": p}),
    ]
    for message, args, kwargs in pairs:
        before = snapshot([a for a in [*args, *kwargs.values()] if a is not None])
        for function, more in ((normc.batch_norm, {"training": True}), (normc.instance_norm, {})):
            with pytest.raises(ValueError, match=message):
                function(*args, **kwargs, **more)
            assert snapshot([a for a in [*args, *kwargs.values()] if a is not None]) == before
    for message, args, kwargs in pairs[-2:]:  # out is written in evaluation, too
        before = snapshot([*args, *kwargs.values()])
        layer = normc.BatchNorm1d(4).eval()
        layer.running_mean, layer.running_var = args[1:]
        for function, given in ((normc.batch_norm, args), (layer, args[:1])):
            with pytest.raises(ValueError, match=message):
                function(*given, **kwargs)
        assert snapshot([*args, *kwargs.values()]) == before
    same = np.lib.stride_tricks.as_strided(np.zeros(1), (4,), (0,))
    with pytest.raises(ValueError, match="running_mean has two elements in one place"):
        normc.batch_norm(x, same, w, training=True)
    interleaved = np.ones((4, 2))  # neighbours in memory, but nothing shared
    normc.batch_norm(x, interleaved[:, 0], interleaved[:, 1], training=True)


def test_an_out_that_repeats_itself_is_refused_without_looking_at_each_element():
    huge = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (2**40,), (0,))
    with pytest.raises(ValueError, match="out has two elements in one place"):
        normc.relu(huge, out=huge)
    with pytest.raises(ValueError, match="out must have shape"):
        normc.relu(np.zeros(3, np.float32), out=huge)


def test_an_out_that_folds_during_the_call(x=x3()):
    out = np.zeros((3, 4, 5), np.float32)

    class Folding(int):
        def __bool__(self):
            with warnings.catch_warnings(action="ignore"):
                out.strides = 0, 20, 4
            return False

    with pytest.raises(ValueError, match="out has two elements in one place"):
        normc.layer_norm(x, out=out, return_moments=Folding(0))
    assert (out == 0).all()


class Endless:
    def __getitem__(self, i):
        return 0

    def __repr__(self):
        return "Endless()"


@pytest.mark.parametrize("bad", [np.float32(1), np.True_, np.complex64(1), 1.0, "1", {1: 1}, {1},
                                 Endless(), range(10**9), [0.5], [None]], ids=repr)
def test_axes_that_are_none(bad):
    for name in ("axis", "normalized_shape"):
        with pytest.raises((TypeError, ValueError), match=name):
            normc.layer_norm(x3(), **{name: bad})


def test_numbers_that_cannot_be_printed():
    """Python refuses to write out integers of 4,300 digits and more."""
    for name in ("eps", "momentum", "correction", "axis"):
        with pytest.raises(ValueError, match=name if name != "axis" else "axis"):
            normc.batch_norm(x3(), training=True, **{name: 10**5000})
    for name in ("num_features", "eps", "momentum", "correction"):
        with pytest.raises(ValueError, match=name):
            normc.BatchNorm(**{"num_features": 4, name: 10**5000})
    with pytest.raises(ValueError, match="weight_of_old"):
        normc.decay(10**5000)
    with pytest.raises(ValueError, match="num_batches_tracked"):
        normc.BatchNorm(4).num_batches_tracked = 10**5000


@pytest.mark.parametrize("bad", [np.void(b"12345678"), np.timedelta64(3, "s"), np.ma.masked,
                                 np.array("3"), np.str_("3")], ids=repr)
def test_scalars_that_are_no_numbers(bad):
    with pytest.raises(TypeError, match="eps must be a real number"):
        normc.layer_norm(x3(), eps=bad)


class Unreadable:
    """As a tensor that requires a gradient, or lies on another device."""

    def __init__(self, error):
        self.error = error

    def __array__(self, dtype=None, copy=None):
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("on another device"), BufferError("locked"),
                                   UnicodeDecodeError("utf-8", b"", 0, 1, "odd"),
                                   ValueError("ragged")], ids=lambda e: type(e).__name__)
def test_arrays_that_cannot_be_read(error):
    for name in ("weight", "bias"):
        with pytest.raises(ValueError, match=f"^{name}: ") as raised:
            normc.layer_norm(x3(), 5, **{name: Unreadable(error)})
        assert raised.value.__cause__ is error
        with pytest.raises(ValueError, match=f"^{name}: "):
            setattr(normc.BatchNorm(4), name, Unreadable(error))
    with pytest.raises(ValueError, match="^x: "):
        normc.relu(Unreadable(error))


def test_signalling_parameters_raise_no_warning():
    """Widening a signalling NaN sets a flag that NumPy reports."""
    weight = np.array([0x7F800001] * 5, np.uint32).view(np.float32)
    with np.errstate(all="raise"):
        y = normc.layer_norm(x3(np.float64), 5, weight)
        z = normc.prelu(-x3(np.float64), weight, axis=2)
    assert np.isnan(y).all() and np.isnan(z[z != 0]).all()


def test_core_without_its_signatures():
    """A second import of the extension alone has none; it says so."""
    code = ("import sys, normc; del sys.modules['normc._core']; import normc._core as c\n"
            "try: c.layer_norm()\nexcept RuntimeError as e: print(e)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "layer_norm() has no signature" in done.stdout, done.stderr


class Boom(Exception):
    pass


class Explosive:
    """Fails wherever it is asked for a value."""

    def __array__(self, dtype=None, copy=None):
        raise Boom

    def __index__(self):
        raise Boom

    def __float__(self):
        raise Boom

    def __bool__(self):
        raise Boom

    def __iter__(self):
        raise Boom

    def __len__(self):
        raise Boom

    def __getitem__(self, i):
        raise Boom


class Meddling:
    """Changes the very arrays of the call while it is converted."""

    def __init__(self, x):
        self.x = x

    def __float__(self):
        self.meddle()
        return 1e-5

    def __index__(self):
        self.meddle()
        return 1

    def __array__(self, dtype=None, copy=None):
        self.meddle()
        return np.ones(4)

    def meddle(self):
        if self.x.flags.owndata:
            self.x.resize((0,), refcheck=False)


@pytest.mark.parametrize("name", ["eps", "axis", "weight", "bias", "momentum", "where", "out"])
def test_explosive_arguments(name):
    x = x3()
    mean, var = one_running()
    with pytest.raises((Boom, TypeError, ValueError)):
        normc.batch_norm(x, mean, var, training=True, **{name: Explosive()})
    assert np.array_equal(x, x3()) and (mean == 0).all() and (var == 1).all()


@pytest.mark.parametrize("name", ["eps", "axis", "weight", "bias", "momentum"])
def test_arrays_that_shrink_during_the_call(name):
    """Pointers are taken only after every conversion has run."""
    for victim in ("x", "running_mean", "running_var", "out"):
        values = {"x": x3(), "running_mean": np.zeros(4), "running_var": np.ones(4),
                  "out": np.zeros((3, 4, 5), np.float32)}
        x = values.pop("x")
        meddling = Meddling(x if victim == "x" else values[victim])
        try:
            normc.batch_norm(x, training=True, **values, **{name: meddling})
        except (TypeError, ValueError):
            pass


JUNK = [None, True, -1, 0, 1, 2, 3, 2**70, -(2**70), 2.5, -0.5, np.nan, np.inf, 1j, "a", "torch",
        b"x", (), [], {}, (0, 1), (-1,), [1.5], [[1], [2, 3]], object(), print, Ellipsis,
        np.float32(0.1), np.int8(1), np.bool_(True), np.longdouble(1), np.str_("b")]
ARRAYS = [lambda: np.zeros(4), lambda: np.ones(4, np.float32), lambda: np.ones(5),
          lambda: np.ones((4, 5)), lambda: np.zeros((3, 4, 5), np.float32), lambda: np.zeros(()),
          lambda: np.zeros(0), lambda: np.ones(4, bool), lambda: np.ones((3, 4, 5), bool),
          lambda: np.ones(3), lambda: np.ones(4, complex), lambda: np.array([None] * 4),
          lambda: np.array(["a"] * 4), lambda: np.zeros((3, 4, 5), ">f4"),
          lambda: np.zeros((3, 4, 5), np.float16),
          lambda: np.broadcast_to(np.float32(1), (3, 4, 5)),
          lambda: np.zeros(4, "V2"), lambda: np.zeros(4, "M8[s]"),
          lambda: np.ma.array(np.ones((3, 4, 5)), mask=True), lambda: memoryview(b"abcd"),
          Explosive]
XS = [x3, lambda: x3(np.float64), x2, lambda: np.zeros((0, 4, 5)), lambda: 1.0, lambda: [1, 2],
      lambda: x3(np.float16), lambda: x3()[::-1, ::2], lambda: x3(int), *ARRAYS]
FUNCTIONS = [normc.batch_norm, normc.instance_norm, normc.layer_norm, normc.rms_norm,
             normc.group_norm, normc.switchable_norm, normc.local_response_norm, normc.standardize,
             normc.moments, normc.relu, normc.leaky_relu, normc.prelu]
value = st.one_of(st.sampled_from(JUNK), st.sampled_from(ARRAYS).map(lambda make: make()))


@st.composite
def random_calls(draw):
    function = draw(st.sampled_from(FUNCTIONS))
    names = list(inspect.signature(function).parameters)[1:]
    chosen = draw(st.lists(st.sampled_from(names), unique=True, max_size=4))
    args = [draw(st.sampled_from(XS))()]
    kwargs = {name: draw(value) for name in chosen}
    if function is normc.group_norm:
        kwargs.setdefault("num_groups", 2)
    return function, args, kwargs


@settings(max_examples=1500)
@given(call=random_calls())
def test_random_calls(call):
    """Any argument whatever: a result, or one of three kinds of exception and nothing changed."""
    function, args, kwargs = call
    arrays = [a for a in [*args, *kwargs.values()] if isinstance(a, np.ndarray)]
    before = snapshot(arrays)
    try:
        with np.errstate(all="raise"):
            result = function(*args, **kwargs)
    except (TypeError, ValueError, Boom) as error:
        assert str(error) or isinstance(error, Boom)
        assert snapshot(arrays) == before
    else:
        assert result is not None


@settings(max_examples=300)
@given(kwargs=st.dictionaries(st.sampled_from(["eps", "momentum", "affine", "track_running_stats",
                                               "bias", "axis", "correction", "dtype"]), value,
                              max_size=3), features=value, x=st.sampled_from(XS))
@example(kwargs={}, features=4, x=x3)
def test_random_layers(features, kwargs, x):
    try:
        layer = normc.BatchNorm(features, **kwargs)
    except (TypeError, ValueError, Boom):
        return
    arrays = [a for a in (layer.running_mean, layer.running_var, layer.num_batches_tracked)
              if a is not None]
    before = snapshot(arrays)
    try:
        layer(x())
    except (TypeError, ValueError, Boom):
        assert snapshot(arrays) == before


RESHAPED = """
import sys, threading, warnings
import numpy as np, normc

warnings.simplefilter("ignore")
sys.setswitchinterval(1e-5)
arrays = {"x": np.random.rand(20000, 64), "out": np.zeros((20000, 64)),
          "where": np.ones((20000, 64), bool)}
victim, done = arrays[sys.argv[1]], False
x = arrays.pop("x")
given = {name: a for name, a in arrays.items() if a is victim}

def reshape():
    while not done:
        victim.shape = 64, 20000
        victim.shape = 20000, 64

thread = threading.Thread(target=reshape)
thread.start()
try:
    for _ in range(100):
        for norm in (normc.layer_norm, normc.standardize, normc.rms_norm, normc.relu):
            try:
                norm(x, **({} if norm is normc.relu and "where" in given else given))
            except ValueError:
                pass
finally:
    done = True
    thread.join()
"""


@pytest.mark.parametrize("victim", ["x", "out", "where"])
def test_an_array_reshaped_by_another_thread(victim):
    """The call computes with the shape it found, or refuses the array; it never crashes."""
    done = subprocess.run([sys.executable, "-c", RESHAPED, victim], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
