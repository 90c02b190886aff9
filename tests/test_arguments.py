"""What goes in and what comes out: types, shapes, axes, masks, empty arrays, signatures."""

import ast
import copy
import ctypes
import inspect
import pathlib
import pickle
import platform
import pydoc
import sys

import bound
import numpy as np
import pytest
import zoo
from cases import SMALL, Case, cases_of
from zoo import assert_same_bits

import normc

# The interface as its page prints it: names, order, defaults, and where keywords begin.
SIGNATURES = {
    "batch_norm": "(x, /, running_mean=None, running_var=None, weight=None, bias=None, "
                  "training=False, momentum=0.1, eps=1e-05, *, axis=1, correction=1, where=None, "
                  "out=None, return_moments=False, activation=None)",
    "instance_norm": "(x, /, running_mean=None, running_var=None, weight=None, bias=None, "
                     "use_input_stats=True, momentum=0.1, eps=1e-05, *, axis=1, correction=1, "
                     "where=None, out=None, return_moments=False, activation=None)",
    "layer_norm": "(x, /, normalized_shape=None, weight=None, bias=None, eps=1e-05, *, axis=None, "
                  "where=None, out=None, return_moments=False, activation=None, residual=None)",
    "rms_norm": "(x, /, normalized_shape=None, weight=None, eps=None, *, axis=None, where=None, "
                "out=None, return_moments=False, activation=None, residual=None)",
    "group_norm": "(x, /, num_groups, weight=None, bias=None, eps=1e-05, *, axis=1, where=None, "
                  "out=None, return_moments=False, activation=None)",
    "switchable_norm": "(x, /, mean_weight, var_weight, weight=None, bias=None, running_mean=None, "
                       "running_var=None, training=False, momentum=0.1, eps=1e-05, *, axis=1, "
                       "correction=0, out=None, return_moments=False, activation=None)",
    "local_response_norm": "(x, /, size, alpha=0.0001, beta=0.75, k=1.0, *, axis=1, "
                           "window='torch', out=None)",
    "standardize": "(x, /, axis=None, *, eps=0.0, where=None, out=None, return_moments=False)",
    "moments": "(x, /, axis=None, *, where=None)",
    "relu": "(x, /, *, out=None)",
    "leaky_relu": "(x, /, negative_slope=0.01, *, out=None)",
    "prelu": "(x, /, weight, *, axis=1, out=None)",
}
functions = pytest.mark.parametrize("name", SIGNATURES)
dtypes = pytest.mark.parametrize("dtype", zoo.DTYPES)
small = pytest.mark.parametrize("case", SMALL, ids=str)


# A plain call of every function on an array of three axes.
CALLS = {
    "batch_norm": lambda x, **k: normc.batch_norm(x, training=True, **k),
    "instance_norm": lambda x, **k: normc.instance_norm(x, **k),
    "layer_norm": lambda x, **k: normc.layer_norm(x, **k),
    "rms_norm": lambda x, **k: normc.rms_norm(x, **k),
    "group_norm": lambda x, **k: normc.group_norm(x, 1, **k),
    "switchable_norm": lambda x, **k: normc.switchable_norm(x, [1, 2, 3], [3, 2, 1], training=True,
                                                            **k),
    "local_response_norm": lambda x, **k: normc.local_response_norm(x, 3, **k),
    "standardize": lambda x, **k: normc.standardize(x, **k),
    "relu": lambda x, **k: normc.relu(x, **k),
    "leaky_relu": lambda x, **k: normc.leaky_relu(x, **k),
    "prelu": lambda x, **k: normc.prelu(x, 0.3, **k),
}
calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


# ---- signatures ----------------------------------------------------------------------------------

@functions
def test_signature(name):
    function = getattr(normc, name)
    assert str(inspect.signature(function)) == SIGNATURES[name]
    assert function.__name__ == name and function.__module__ == "normc"
    assert name in normc.__all__


@functions
def test_help_and_docstring(name):
    function = getattr(normc, name)
    assert name in pydoc.render_doc(function)
    doc = inspect.getdoc(function)
    for section in ("Parameters", "Returns", "Examples"):
        assert section in doc, f"{name} documents no {section}"
    for parameter in inspect.signature(function).parameters:
        assert parameter in doc, f"{name} does not document {parameter}"


@functions
def test_functions_pickle_and_copy(name):
    function = getattr(normc, name)
    assert pickle.loads(pickle.dumps(function)) is function
    assert copy.copy(function) is function and copy.deepcopy(function) is function


@functions
def test_reference_has_the_same_signature(name):
    assert str(inspect.signature(getattr(normc.reference, name))) == SIGNATURES[name]


STUB = ast.parse(pathlib.Path(normc.__file__).with_name("__init__.pyi").read_text()).body
KINDS = {inspect.Parameter.POSITIONAL_ONLY: "positional only",
         inspect.Parameter.KEYWORD_ONLY: "keyword-only"}


def assert_stubbed(nodes, parameters):
    """Names, kinds and, if it has no overloads, defaults are those of the type stub."""
    for node in nodes:
        a = node.args
        stubbed = [(n, "positional only") for n in a.posonlyargs]
        stubbed += [(n, "positional or keyword") for n in a.args]
        stubbed += [(n, "keyword-only") for n in a.kwonlyargs]
        positional = [None] * (len(a.posonlyargs) + len(a.args) - len(a.defaults)) + a.defaults
        defaults = [*positional, *a.kw_defaults]
        real = [(p.name, KINDS.get(p.kind, "positional or keyword")) for p in parameters]
        assert [(n.arg, kind) for n, kind in stubbed] == real
        for parameter, default in zip(parameters, defaults):
            if len(nodes) == 1:
                assert (default is None) == (parameter.default is parameter.empty), parameter
                if default is not None and ast.unparse(default) != "...":
                    assert ast.literal_eval(default) == parameter.default


@functions
def test_stub_agrees(name):
    found = [n for n in STUB if isinstance(n, ast.FunctionDef) and n.name == name]
    assert found, f"no stub of {name}"
    assert_stubbed(found, list(inspect.signature(getattr(normc, name)).parameters.values()))


@pytest.mark.parametrize("method", ["__init__", "__call__"])
@pytest.mark.parametrize("name", [n for n in normc.__all__ if n[0].isupper() and n != "Moments"])
def test_stub_of_layers_agrees(name, method):
    classes = {n.name: n for n in STUB if isinstance(n, ast.ClassDef)}
    node, found = classes[name], []
    while not found:
        found = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == method]
        node = classes[node.bases[0].id] if not found else node
    layer = getattr(normc, name)
    if method == "__init__":
        own = inspect.signature(layer.__init__).parameters
    else:
        kinds = {"GroupNorm": (1, 1), "ReLU": (), "LeakyReLU": (), "PReLU": ()}
        called = inspect.signature(layer(*kinds.get(name, (1,)))).parameters
        own = {"self": inspect.Parameter("self", next(iter(called.values())).kind), **called}
    assert_stubbed(found, list(own.values()))


def test_all_names_exist():
    for name in normc.__all__:
        assert getattr(normc, name) is not None
    ranked = {f"{kind}Norm{n}d" for kind in ("Batch", "Instance", "Switchable") for n in (1, 2, 3)}
    assert set(SIGNATURES) | ranked | {
        "Moments", "BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "LocalResponseNorm", "ReLU",
        "LeakyReLU", "PReLU", "decay", "show_config", "recompute_stats",
        "fold_batch_norm"} <= set(normc.__all__)


# ---- what x may be -------------------------------------------------------------------------------

@calls
@dtypes
def test_result_is_like_x(call, dtype, rng):
    x = rng.normal(size=(3, 4, 5)).astype(dtype)
    for layout in zoo.LAYOUTS:
        given = zoo.in_layout(layout, x)
        before = given.tobytes()
        y = call(given)
        assert type(y) is np.ndarray and y.shape == x.shape
        assert y.dtype == np.dtype(dtype) and y.dtype.isnative
        assert y.strides == np.empty_like(given, dtype, subok=False).strides
        assert y.flags.writeable and y.flags.owndata and not np.shares_memory(y, given)
        assert given.tobytes() == before


@calls
@pytest.mark.parametrize("dtype", ["?", "b", "B", "h", "H", "i", "I", "l", "L", "q", ">i4"])
def test_integers_become_float64(call, dtype, rng):
    x = rng.integers(0, 2 if dtype == "?" else 100, (3, 4, 5)).astype(dtype)
    assert_same_bits(call(x), call(x.astype(np.float64)))


class Arrayed:
    """A foreign array that NumPy may look into."""

    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return self.x if dtype is None else self.x.astype(dtype)


class DLPacked:
    def __init__(self, x):
        self.x = x

    def __dlpack__(self, **kwargs):
        return self.x.__dlpack__()

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()


class Subclass(np.ndarray):
    def __array_ufunc__(self, *args, **kwargs):
        raise AssertionError("a subclass is taken for the array it is")

    def __array_function__(self, *args, **kwargs):
        raise AssertionError("a subclass is taken for the array it is")


@calls
def test_array_likes(call, rng):
    x = rng.normal(size=(3, 4, 5))
    plain = call(x)
    for given in (x.tolist(), tuple(map(tuple, x.tolist())), Arrayed(x), DLPacked(x),
                  x.view(Subclass), memoryview(x)):
        y = call(given)
        assert type(y) is np.ndarray
        assert_same_bits(y, plain)
    assert_same_bits(call(Arrayed(x.astype(np.float32))), call(x.astype(np.float32)))
    assert_same_bits(call(DLPacked(x.astype(np.float32))), call(x.astype(np.float32)))


def test_parameters_may_be_array_likes(rng):
    x = rng.normal(size=(3, 4, 5)).astype(np.float32)
    weight, bias = rng.integers(-9, 9, (2, 5))
    plain = normc.layer_norm(x, 5, weight.astype(np.float32), bias.astype(np.float32))
    for convert in (list, tuple, Arrayed, lambda p: p.astype(np.int8), lambda p: p.astype(">f4"),
                    lambda p: DLPacked(p.astype(np.float32)), lambda p: p.astype(np.float16),
                    lambda p: p.view(Subclass)):
        assert_same_bits(normc.layer_norm(x, 5, convert(weight), convert(bias)), plain)


@dtypes
@small
def test_parameters_of_any_float_type(case, dtype, rng):
    """The same numbers in every type and memory give the same bits."""
    x = rng.normal(size=case.shape).astype(dtype)
    weight, bias = rng.integers(-64, 64, (2, *case.parameter_shape)) / 16
    plain = case.call(normc, x, weight, bias)
    case.check(plain, x, weight, bias)
    kinds = [np.float16, np.float32, ">f4", ">f8", *([zoo.bfloat16] if zoo.bfloat16 else [])]
    for kind in kinds:
        assert_same_bits(case.call(normc, x, weight.astype(kind), bias), plain)
        assert_same_bits(case.call(normc, x, weight, bias.astype(kind)), plain)
    for layout in (zoo.strided, zoo.negative, zoo.fortran, zoo.misaligned, zoo.read_only):
        if weight.ndim:
            assert_same_bits(case.call(normc, x, layout(weight), layout(bias)), plain)
    one = np.broadcast_to(np.float32(1.5), weight.shape)
    assert_same_bits(case.call(normc, x, one, one), case.call(normc, x, one.copy(), one.copy()))
    before = weight.tobytes() + bias.tobytes()
    case.call(normc, x, weight, bias, out=x)
    assert weight.tobytes() + bias.tobytes() == before


@dtypes
@small
def test_one_parameter_alone(case, dtype, rng):
    if case.takes != ("weight", "bias"):
        return
    x = rng.normal(size=case.shape).astype(dtype)
    weight, bias = rng.normal(size=(2, *case.parameter_shape)).astype(np.float32)
    assert_same_bits(case.call(normc, x, weight), case.call(normc, x, weight, 0 * bias))
    assert_same_bits(case.call(normc, x, None, bias), case.call(normc, x, 0 * weight + 1, bias))
    assert_same_bits(case.call(normc, x), case.call(normc, x, 0 * weight + 1, 0 * bias))


def test_positional_order_is_torchs(rng):
    x = rng.normal(size=(3, 4, 5))
    w, b, m = rng.normal(size=(3, 4))
    v = rng.uniform(1, 2, 4)
    assert_same_bits(normc.batch_norm(x, m, v, w, b, False, 0.2, 0.3), normc.batch_norm(
        x, running_mean=m, running_var=v, weight=w, bias=b, training=False, momentum=0.2, eps=0.3))
    rm, rv = m.copy(), v.copy()
    normc.instance_norm(x, rm, rv, w, b, True, 0.2, 0.3)
    m2, v2 = m.copy(), v.copy()
    normc.instance_norm(x, bias=b, weight=w, running_var=v2, running_mean=m2, eps=0.3, momentum=0.2,
                        use_input_stats=True)
    assert_same_bits(rm, m2)
    assert_same_bits(rv, v2)
    assert_same_bits(normc.group_norm(x, 2, w, b, 0.3),
                     normc.group_norm(x, num_groups=2, weight=w, bias=b, eps=0.3))
    assert_same_bits(normc.local_response_norm(x, 3, 0.1, 0.6, 2.0),
                     normc.local_response_norm(x, size=3, alpha=0.1, beta=0.6, k=2.0))


def test_scalars_may_be_numpys(rng):
    x = rng.normal(size=(3, 4, 5))
    plain = normc.layer_norm(x, 5, eps=0.25)
    for eps in (np.float32(0.25), np.float64(0.25), np.array(0.25)):
        assert_same_bits(normc.layer_norm(x, np.int64(5), eps=eps), plain)
    assert_same_bits(normc.layer_norm(x, axis=np.int8(2), eps=0.25), plain)
    assert_same_bits(normc.layer_norm(x, (np.int16(4), np.uint8(5)), eps=1),
                     normc.layer_norm(x, [4, 5], eps=np.int32(1)))
    assert_same_bits(normc.batch_norm(x, training=np.True_, correction=np.int16(0)),
                     normc.batch_norm(x, training=True, correction=False))


# ---- axes ----------------------------------------------------------------------------------------

@dtypes
def test_axes_may_be_named_in_any_way(dtype, rng):
    x = rng.normal(size=(3, 4, 5, 6)).astype(dtype)
    weight, bias = rng.normal(size=(2, 4, 6)).astype(np.float32)
    plain = normc.layer_norm(x, None, weight, bias, axis=(1, 3))
    for axis in ((3, 1), (-3, -1), [1, -1], (3, -3)):
        assert_same_bits(normc.layer_norm(x, None, weight, bias, axis=axis), plain)
    assert_same_bits(normc.standardize(x), normc.standardize(x, (0, 1, 2, 3)))
    assert_same_bits(normc.standardize(x, 2), normc.standardize(x, axis=(-2,)))
    assert_same_bits(normc.layer_norm(x), normc.layer_norm(x, 6))
    assert_same_bits(normc.layer_norm(x), normc.layer_norm(x, axis=-1))
    assert_same_bits(normc.layer_norm(x, (5, 6)), normc.layer_norm(x, axis=(2, 3)))
    for axis in range(4):
        for call in (lambda a: normc.batch_norm(x, training=True, axis=a),
                     lambda a: normc.local_response_norm(x, 3, axis=a),
                     lambda a: normc.prelu(x, np.arange(x.shape[a]), axis=a)):
            assert_same_bits(call(axis), call(axis - 4))


def test_channel_axis_first(rng):
    """The samples are then the next axis; statistics stand where their axes stand."""
    x = rng.normal(size=(6, 3, 4, 5))
    for norm in ("batch_norm", "instance_norm", "group_norm"):
        case = Case(norm, (3, 6, 4, 5), 1, 2)
        first = Case(norm, (6, 3, 4, 5), 0, 2)
        weight, bias = rng.normal(size=(2, 6))
        y = case.call(normc, np.swapaxes(x, 0, 1), weight, bias)
        assert_same_bits(first.call(normc, x, weight, bias), np.swapaxes(y, 0, 1).copy())
    y, m = normc.instance_norm(x, axis=0, return_moments=True)
    assert m.mean.shape == (6, 3, 1, 1)
    assert np.abs(m.mean - x.mean((2, 3), keepdims=True)).max() < 1e-14


# ---- shapes of every size ------------------------------------------------------------------------

EMPTY = [(0, 4, 5), (3, 4, 0), (0, 4, 0), (3, 0, 5), (0, 0, 0)]


@calls
@dtypes
@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_empty(shape, call, dtype):
    with np.errstate(all="raise"):
        y = call(np.zeros(shape, dtype))
    assert y.shape == shape and y.dtype == dtype
    out = np.zeros(shape, dtype)
    assert call(np.zeros(shape, dtype), out=out) is out


@dtypes
@pytest.mark.parametrize("shape", [(0, 4, 5), (3, 4, 0), (0, 4, 0)], ids=str)
def test_empty_batch_leaves_running_statistics(shape, dtype, rng):
    mean, var = rng.normal(size=4).astype(np.float32), rng.uniform(1, 2, 4).astype(np.float32)
    before = mean.tobytes(), var.tobytes()
    x = np.zeros(shape, dtype)
    normc.batch_norm(x, mean, var, training=True)
    normc.instance_norm(x, mean, var)
    normc.switchable_norm(x, [1, 2, 3], [1, 2, 3], None, None, mean, var, True)
    assert (mean.tobytes(), var.tobytes()) == before
    assert normc.batch_norm(x, mean, var).shape == shape


def test_moments_of_nothing():
    m = normc.moments(np.zeros((3, 0)), 1)
    assert m.count.shape == (3, 1) and (m.count == 0).all()
    assert (m.mean == 0).all() and (m.m2 == 0).all() and np.isnan(m.var()).all()
    m = normc.moments(np.zeros((0, 3)), 1)
    assert m.count.shape == (0, 1)


@dtypes
def test_few_dimensions(dtype):
    x = np.array([1, 2, 4], dtype)
    case = Case("layer_norm", (3,), 0)
    case.check(normc.layer_norm(x), x)
    case.check(normc.layer_norm(x, 3), x)
    Case("standardize", (3,), 0).check(normc.standardize(x), x, eps=0)
    Case("rms_norm", (3,), 0).check(normc.rms_norm(x, eps=1e-5), x)
    zero_d = np.array(-7, dtype)
    for y, value in ((normc.standardize(zero_d), 0), (normc.relu(zero_d), 0),
                     (normc.leaky_relu(zero_d, 0.5), -3.5), (normc.prelu(zero_d, 2), -14),
                     (normc.prelu(x, [2.0])[:1], 1)):
        assert isinstance(y, np.ndarray) and y.dtype == dtype and (y == value).all()
    m = normc.moments(zero_d)
    assert m.count.shape == () and m.count == 1 and m.mean == -7 and m.m2 == 0
    assert normc.relu(-3.0).shape == ()
    for call in (normc.layer_norm, normc.rms_norm):
        with pytest.raises(np.exceptions.AxisError):
            call(zero_d)


@dtypes
def test_groups_of_one_element_give_bias(dtype, rng):
    x = rng.normal(size=(3, 4, 1)).astype(dtype)
    w, b = rng.integers(-9, 9, (2, 4))
    for eps in (0.0, 1e-5):
        assert (normc.layer_norm(x, 1, [5.0], [3.0], eps) == 3).all()
        assert (normc.group_norm(x, 4, w, b, eps) == b[:, None]).all()
        assert (normc.standardize(x, 2, eps=eps) == 0).all()
    assert (normc.layer_norm(x, eps=0.0) == 0).all()


def test_many_axes(rng):
    shape = (2,) * 12
    x = rng.normal(size=shape)
    axes = (0, 3, 4, 7, 11)
    Case("layer_norm", shape, axes).check(normc.layer_norm(x, axis=axes), x)
    most = 32 if np.__version__ < "2" else 64
    shape = (1,) * (most - 3) + (5,) + (1,) * 2
    x = rng.normal(size=shape)
    y, moments = normc.standardize(x, most - 3, return_moments=True)
    Case("standardize", shape, (most - 3,)).check(y, x, eps=0)
    assert moments.shape == (1,) * most and moments.count.item() == 5
    assert normc.batch_norm(x, training=True, return_moments=True)[1].shape == (1,) * most


# ---- where, and numpy.ma -------------------------------------------------------------------------

@dtypes
@small
def test_excluded_elements(case, dtype, rng):
    x = rng.normal(size=case.shape).astype(dtype)
    where = rng.random(case.shape) < 0.5
    plain = case.call(normc, x, where=where)
    for junk in (np.nan, np.inf, 1e4):
        other = np.where(where, x, np.array(junk, dtype)).astype(dtype)
        assert_same_bits(case.call(normc, other, where=where), plain)
    assert (plain[~where] == 0).all()
    nothing = case.call(normc, x, where=np.zeros(case.shape, bool))
    assert (nothing == 0).all()
    assert (case.call(normc, x, where=False) == 0).all()


@dtypes
@small
def test_masked_arrays(case, dtype, rng):
    if np.dtype(dtype).kind == "V":
        return
    x = rng.normal(size=case.shape).astype(dtype)
    mask, where = rng.random((2, *case.shape)) < 0.3
    y = case.call(normc, np.ma.array(x, mask=mask))
    assert type(y) is np.ndarray
    assert_same_bits(y, case.call(normc, x, where=~mask))
    assert_same_bits(case.call(normc, np.ma.array(x, mask=mask), where=~where),
                     case.call(normc, x, where=~mask & ~where))
    assert_same_bits(case.call(normc, np.ma.array(x)), case.call(normc, x))


@dtypes
def test_channels_with_too_few_elements_keep_their_statistics(dtype, rng):
    x = rng.normal(size=(3, 4, 5)).astype(dtype)
    where = np.ones(x.shape, bool)
    where[:, 0] = False           # nothing left
    where[:, 1] = False
    where[1, 1, 2] = True         # one element
    where[0, 2, 0] = False
    for correction in (0, 1):
        mean, var = np.full(4, 7.0), np.full(4, 3.0)
        y = normc.batch_norm(x, mean, var, training=True, momentum=0.5, where=where,
                             correction=correction)
        assert (mean[:2] == 7).all() and (var[:2] == 3).all()
        for c in (2, 3):
            kept = x[:, c][where[:, c]].astype(np.float64)
            off_mean, off_var = bound.statistics(dtype, kept.mean(), kept.var())
            assert abs(mean[c] - (3.5 + kept.mean() / 2)) <= off_mean + 2.0**-50 * 8
            assert abs(var[c] - (1.5 + kept.var(ddof=correction) / 2)) <= 2 * off_var + 2.0**-50 * 8
        assert (y[:, :2] == 0).all()


@dtypes
def test_masked_instances_average_over_those_with_data(dtype, rng):
    x = rng.normal(size=(3, 2, 5)).astype(dtype)
    where = np.ones(x.shape, bool)
    where[0, 0] = False
    where[1, 0, 1:] = False
    mean, var = np.zeros(2), np.zeros(2)
    normc.instance_norm(x, mean, var, momentum=1.0, where=where)
    x64 = x.astype(np.float64)
    for got, exact in ((mean, [x64[2, 0].mean(), x64[:, 1].mean(1).mean()]),
                       (var, [x64[2, 0].var(ddof=1), x64[:, 1].var(1, ddof=1).mean()])):
        off = max(map(np.max, bound.statistics(dtype, np.float64(1), np.float64(2))))
        assert np.abs(got - exact).max() <= off + 2.0**-50


# ---- running statistics --------------------------------------------------------------------------

@dtypes
@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0, -1.2, 7.5])
@pytest.mark.parametrize("running", [*zoo.DTYPES, ">f8"])
def test_running_statistics(running, momentum, correction, dtype, rng):
    """(1 - momentum) * old + momentum * batch in float64, rounded once to the array's type."""
    x = (rng.normal(size=(5, 4, 3, 7)) * 3 + 10).astype(dtype)
    wide = np.zeros((4, 2), running)
    mean, var = wide[:, 0], zoo.negative(np.zeros(4, running))
    mean[...], var[...] = rng.normal(size=4), rng.uniform(1, 2, 4)
    old = mean.astype(np.float64), var.astype(np.float64)
    batch_mean, batch_var = (a[:, 0] for a in bound.deviations(
        Case("batch_norm", x.shape).grouped(x))[1:])
    batch_var = batch_var * 105 / (105 - correction)
    normc.batch_norm(x, mean, var, training=True, momentum=momentum, correction=correction)
    m, name = bound.wide(momentum), "float64" if running == ">f8" else running
    offs = bound.statistics(dtype, batch_mean, batch_var)
    for got, was, batch, off in zip((mean, var), old, (batch_mean, batch_var), offs):
        exact = (1 - m) * was + m * batch
        allowed = abs(m) * off + 2.0**-51 * (abs((1 - m) * was) + abs(m * batch))
        allowed += bound.ulp(exact, name) / 2
        bound.assert_within(got.astype(np.float64), exact, allowed, name)
    assert (wide[:, 1] == 0).all()


def test_both_meanings_of_momentum(rng):
    x = rng.normal(size=(8, 3))
    new, old = (np.zeros(3), np.ones(3)), (np.zeros(3), np.ones(3))
    normc.batch_norm(x, *new, training=True, momentum=0.1)
    normc.batch_norm(x, *old, training=True, momentum=normc.decay(0.9))
    for a, b in zip(new, old):
        bound.close(a, b, 4)
    for weight_of_old in (0.0, 0.5, 0.9, 0.99, 0.999, 1.0):
        m = normc.decay(weight_of_old)
        assert type(m) is float and abs(m - (1 - weight_of_old)) <= 2.0**-53


def test_instance_norm_by_given_statistics(rng):
    x = rng.normal(size=(3, 4, 5))
    mean, var, w, b = rng.uniform(1, 2, (4, 4))
    before = mean.tobytes(), var.tobytes()
    y = normc.instance_norm(x, mean, var, w, b, False)
    assert_same_bits(y, normc.batch_norm(x, mean, var, w, b, False))
    assert (mean.tobytes(), var.tobytes()) == before


def test_statistics_that_are_only_read_may_be_read_only(rng):
    x = rng.normal(size=(3, 4, 5))
    mean, var = zoo.read_only(rng.normal(size=4)), zoo.read_only(rng.uniform(1, 2, 4))
    assert normc.batch_norm(x, mean, var).shape == x.shape
    zero = normc.batch_norm(x, np.zeros(4), np.zeros(4), eps=0.0)
    assert (zero == 0).all()  # var + eps is 0: so is rstd


# ---- moments -------------------------------------------------------------------------------------

@dtypes
@pytest.mark.parametrize("mean", [0, 1, 1e3, 1e7])
@pytest.mark.parametrize("case", cases_of(84) + SMALL, ids=str)
def test_returned_moments(case, mean, dtype, rng):
    """As good as the bound on y needs them; kept dimensions, in the order of x's axes."""
    mean = min(mean, 6e4) if dtype == np.float16 else mean
    x = (rng.normal(size=case.shape) + mean).astype(dtype)
    where = None if mean == 1 else rng.random(case.shape) < 0.8
    y, m = case.call(normc, x, where=where, return_moments=True)
    assert_same_bits(y, case.call(normc, x, where=where))
    grouped = case.grouped(x)
    mask = None if where is None else case.grouped(where)
    d, mu, var = bound.deviations(grouped, mask, case.centred)
    count = np.full(len(grouped), grouped.shape[1]) if mask is None else mask.sum(1)
    shape = [n if i not in case.axes else 1 for i, n in enumerate(case.shape)]
    if not case.shared_by_axis:
        shape = [n if i == case.axes[0] or (i == 0 and case.norm != "batch_norm") else 1
                 for i, n in enumerate(case.shape)]
        if case.norm == "group_norm":
            shape[case.axes[0]] = case.num_groups
    assert m.count.shape == m.mean.shape == m.m2.shape == tuple(shape)
    assert m.count.dtype == np.int64 and m.mean.dtype == m.m2.dtype == np.float64
    assert np.array_equal(m.count.ravel(), count)
    mu, var = mu[:, 0], var[:, 0]
    off_mean, off_var = bound.statistics(dtype, mu, var)
    bound.assert_within(m.mean.ravel(), mu, off_mean + 2.0**-53 * abs(mu))
    bound.assert_within(m.m2.ravel(), var * count, off_var * count + bound.TINY["float64"])
    if not case.centred:
        assert m.about == "zero" and (m.mean == 0).all()
        bound.assert_within(m.rstd(0).ravel(), 1 / np.sqrt(var), 2.0**-30 / np.sqrt(var))


@dtypes
def test_switchable_returns_the_instances_moments(dtype, rng):
    x = rng.normal(size=(3, 4, 5, 6)).astype(dtype)
    y, m = normc.switchable_norm(x, [1, 2, 3], [3, 2, 1], training=True, return_moments=True)
    other = normc.instance_norm(x, return_moments=True)[1]
    assert m.mean.shape == (3, 4, 1, 1)
    assert_same_bits(m.mean, other.mean)
    assert_same_bits(m.m2, other.m2)


def test_switchable_in_evaluation(rng):
    """Instance and layer of the data, the batch's part from the running statistics."""
    x = rng.normal(size=(3, 4, 5))
    rm, rv = rng.normal(size=4), rng.uniform(1, 2, 4)
    before = rm.tobytes(), rv.tobytes()
    for logits in ([0, 0, 50.0], [50.0, 0, 0], [0, 1.0, 2.0]):
        y = normc.switchable_norm(x, logits, logits, None, None, rm, rv)
        expected = normc.reference.switchable_norm(x, logits, logits, None, None, rm, rv)
        assert np.abs(y - expected).max() <= 32 * 2.0**-53 * np.abs(expected).max()
    batch_only = normc.switchable_norm(x, [0, 0, 800.0], [0, 0, 800.0], None, None, rm, rv)
    assert np.abs(batch_only - normc.batch_norm(x, rm, rv)).max() < 1e-14
    assert (rm.tobytes(), rv.tobytes()) == before


# ---- out -----------------------------------------------------------------------------------------

@calls
@dtypes
def test_out_is_returned(call, dtype, rng):
    x = rng.normal(size=(3, 4, 5)).astype(dtype)
    plain = call(x)
    for layout in (zoo.contiguous, zoo.fortran, zoo.strided, zoo.negative, zoo.channels_last,
                   zoo.misaligned, zoo.memory_map):
        out = layout(np.zeros_like(x))
        assert call(x, out=out) is out
        assert_same_bits(np.ascontiguousarray(out).view(np.ndarray), plain)
    sub = np.zeros_like(x).view(Subclass)
    assert call(x, out=sub) is sub
    assert_same_bits(np.asarray(sub).view(np.ndarray), plain)


@small
def test_untouched_around_out(case, rng):
    """Elements between those of a strided out stay."""
    x = rng.normal(size=case.shape).astype(np.float32)
    room = np.full([2 * n + 1 for n in case.shape], 7, np.float32)
    out = room[tuple(slice(1, None, 2) for _ in case.shape)]
    case.call(normc, x, out=out)
    rest = np.ones(room.shape, bool)
    rest[tuple(slice(1, None, 2) for _ in case.shape)] = False
    assert (room[rest] == 7).all()


# ---- quiet ---------------------------------------------------------------------------------------

@calls
@dtypes
def test_no_floating_point_warnings(call, dtype):
    limit = np.float64(bound.wide(2)**(bound.MAXEXP[bound.name(dtype)] - 1))
    tiny = bound.TINY[bound.name(dtype)]
    values = [0, tiny, -tiny, limit, -limit, 1, np.nan, np.inf, -np.inf, 1e-3, 3e4, -7]
    with np.errstate(all="ignore"):
        x = np.array(values * 5).astype(dtype).reshape(3, 4, 5)
    with np.errstate(all="raise"):
        call(x)
        call(np.zeros_like(x))
        call(np.where(np.isfinite(x), x, np.zeros_like(x)))


# FE_UPWARD of C's <fenv.h>, by machine.
UPWARD = {"x86_64": 0x800, "aarch64": 0x400000}


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() not in UPWARD,
                    reason="the number that means upward is known for Linux on these machines only")
@dtypes
def test_rounding_mode_is_set_aside_and_put_back(cpu, dtype, rng):
    x = rng.normal(size=(3, 37, 11)).astype(dtype) * 5
    mean, var = rng.normal(size=37), rng.uniform(1, 3, 37)
    weight, bias = rng.normal(size=(2, 11))
    averaging = [normc.BatchNorm(37, momentum=None, dtype=t) for t in (np.float16, np.float64)]

    def after_three_batches(x):
        for layer in averaging:
            layer.reset_running_stats()
            for batch in (x[:0], x, 2 * x, x[::-1]):
                layer(batch)
        return np.concatenate([layer.running_var.astype(float) for layer in averaging])

    swapped, where = zoo.in_layout(zoo.byte_swapped, x), x > 0
    calls = [*(call for name, call in CALLS.items() if name not in ("leaky_relu", "prelu")),
             lambda x: normc.leaky_relu(x, np.float32(0.3)),
             lambda x: normc.prelu(x, np.float32(-0.7)),
             lambda x: normc.batch_norm(x, mean, var), after_three_batches,
             lambda x: normc.local_response_norm(x, 3, 0.1),
             lambda x: normc.layer_norm(x, 11, weight, bias),
             lambda x: normc.layer_norm(x, where=where), lambda x: normc.layer_norm(swapped)]
    plain = [call(x) for call in calls]
    libc = ctypes.CDLL(None)
    upward, before = UPWARD[platform.machine()], libc.fegetround()
    results, after = [], []
    try:
        assert libc.fesetround(upward) == 0
        for call in calls:
            results.append(call(x))
            after.append(libc.fegetround())
    finally:
        libc.fesetround(before)
    assert after == [upward] * len(calls)
    for got, expected in zip(results, plain, strict=True):
        for a, b in zip(moments_or_array(got), moments_or_array(expected), strict=True):
            assert_same_bits(a, b)


def moments_or_array(result):
    return (result.mean, result.m2) if isinstance(result, normc.Moments) else (result,)
