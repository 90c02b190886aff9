"""The layer: modes, state, copies, threads, the life of its objects."""

import copy
import gc
import io
import pickle
import sys
import threading
import weakref
from contextlib import nullcontext

import bound
import numpy as np
import pytest
import zoo
from zoo import assert_same_bits

import normc
from normc import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d

dtypes = pytest.mark.parametrize("dtype", zoo.DTYPES)


@pytest.fixture
def x(rng):
    return (rng.normal(size=(6, 4, 5)) * 2 + 3).astype(np.float32)


def state(layer):
    return {k: v.tobytes() for k, v in layer.state_dict().items()}


# ---- attributes and modes ------------------------------------------------------------------------

def test_fresh_layer():
    layer = BatchNorm(4)
    assert layer.num_features == 4 and layer.eps == 1e-5 and layer.momentum == 0.1
    assert layer.affine is True and layer.track_running_stats is True and layer.training is True
    assert layer.axis == 1 and layer.correction == 1 and layer.dtype == np.float32
    for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
        a = getattr(layer, name)
        assert type(a) is np.ndarray and a.shape == (4,) and a.dtype == np.float32
        assert (a == value).all()
    tracked = layer.num_batches_tracked
    assert isinstance(tracked, np.ndarray) and tracked.shape == () and tracked.dtype == np.int64
    assert tracked == 0
    bare = BatchNorm(4, affine=False, track_running_stats=False)
    assert bare.weight is bare.bias is bare.running_mean is bare.running_var is None
    assert bare.num_batches_tracked is None
    assert BatchNorm(4, bias=False).bias is None and BatchNorm(4, bias=False).weight is not None


@dtypes
def test_dtype(dtype, x):
    layer = BatchNorm(4, dtype=dtype)
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert getattr(layer, name).dtype == dtype
    assert layer.dtype == np.dtype(dtype)
    for other in (np.float16, np.float32, np.float64):
        assert layer(x.astype(other)).dtype == other
    assert layer.running_mean.dtype == dtype and layer.num_batches_tracked == 3


@pytest.mark.parametrize("dtype", zoo.HALVES)
def test_running_statistics_are_rounded_once(dtype):
    """Beside the middle of any two neighbours, where a stop at float would round twice."""
    finite = np.arange(np.array(np.inf, dtype).view(np.uint16), dtype=np.uint16).view(dtype)
    below, above = finite[:-1], finite[1:]
    middle = (below.astype(float) + above.astype(float)) / 2
    even = np.where(below.view(np.uint16) % 2 == 0, below, above)
    for nudge, expected in ((1 - 2.0**-40, below), (1, even), (1 + 2.0**-40, above),
                            (-1 - 2.0**-40, -above)):
        x = np.stack([middle * nudge] * 2)
        mean = np.zeros((2, len(below)), dtype)[0, ::-1]
        normc.batch_norm(x, mean, np.ones(len(below)), training=True, momentum=1)
        assert np.array_equal(mean.view(np.uint16), expected.view(np.uint16))


def test_modes(x):
    layer = BatchNorm1d(4)
    assert layer.eval() is layer and layer.training is False
    before = state(layer)
    y = layer(x)
    assert state(layer) == before
    assert_same_bits(y, normc.batch_norm(x, layer.running_mean, layer.running_var, layer.weight,
                                         layer.bias))
    assert layer.train() is layer and layer.training is True
    assert layer.train(False).training is False
    layer.training = True
    assert not np.array_equal(layer(x), y)
    assert layer.num_batches_tracked == 1


def test_freeze(x):
    """Frozen, a layer stays in evaluation whatever train() says."""
    layer = BatchNorm1d(4)
    layer(x)
    expected = layer.eval()(x)
    assert layer.train().freeze() is layer
    before = state(layer)
    for mode in (True, False):
        layer.train(mode)
        assert_same_bits(layer(x), expected)
    assert state(layer) == before
    assert layer.unfreeze() is layer
    layer.train()(x)
    assert layer.num_batches_tracked == 2


def test_without_statistics_batches_always_count(x):
    layer = BatchNorm1d(4, track_running_stats=False)
    expected = normc.batch_norm(x, None, None, layer.weight, layer.bias, True)
    assert_same_bits(layer(x), expected)
    assert_same_bits(layer.eval()(x), expected)


def test_cumulative_momentum(rng):
    """None: the running statistics are the mean over all batches."""
    layer = BatchNorm(3, momentum=None, dtype=np.float64)
    means, variances = [], []
    for step in range(7):
        x = rng.normal(size=(5, 3)) + step
        layer(x)
        means.append(x.mean(0))
        variances.append(x.var(0, ddof=1))
        assert layer.num_batches_tracked == step + 1
        assert np.abs(layer.running_mean - np.mean(means, 0)).max() < 1e-13
        assert np.abs(layer.running_var - np.mean(variances, 0)).max() < 1e-13
    assert layer.momentum is None


def test_correction_and_axis(rng):
    x = rng.normal(size=(6, 5, 4)).astype(np.float32)
    layer = BatchNorm(4, axis=-1, correction=0, momentum=1.0)
    y = layer(x)
    running = np.zeros(4, np.float32), np.ones(4, np.float32)
    assert_same_bits(y, normc.batch_norm(x, *running, layer.weight, layer.bias, True, 1.0, axis=-1,
                                         correction=0))
    assert_same_bits(layer.running_var, running[1])
    assert np.abs(layer.running_var - x.var((0, 1))).max() < 1e-6


def test_where_and_out(x, rng):
    where = rng.random(x.shape) < 0.7
    layer, other = BatchNorm(4), BatchNorm(4)
    out = np.empty_like(x)
    assert layer(x, where=where, out=out) is out
    running = np.zeros(4, np.float32), np.ones(4, np.float32)
    assert_same_bits(out, normc.batch_norm(x, *running, other.weight, other.bias, True,
                                           where=where))
    assert_same_bits(layer.running_mean, running[0])
    masked = other(np.ma.array(x, mask=~where))
    assert_same_bits(masked, out)


def test_empty_batch(x):
    layer = BatchNorm1d(4)
    layer(x)
    before = state(layer)
    for shape in ((0, 4), (0, 4, 5), (3, 4, 0)):
        assert layer(np.zeros(shape, np.float32)).shape == shape
    assert state(layer) == before


def test_one_value_per_channel(x):
    layer = BatchNorm1d(4)
    layer(x)
    before = state(layer)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        layer(np.ones((1, 4), np.float32))
    assert state(layer) == before
    assert layer.eval()(np.ones((1, 4), np.float32)).shape == (1, 4)


def test_reset(x):
    layer = BatchNorm1d(4)
    layer.weight[...] = 3
    arrays = layer.weight, layer.running_mean, layer.num_batches_tracked
    layer(x)
    layer.reset_running_stats()
    assert (layer.running_mean == 0).all() and (layer.running_var == 1).all()
    assert layer.num_batches_tracked == 0 and (layer.weight == 3).all()
    layer(x)
    layer.reset_parameters()
    assert (layer.weight == 1).all() and (layer.bias == 0).all() and (layer.running_mean == 0).all()
    for a, b in zip(arrays, (layer.weight, layer.running_mean, layer.num_batches_tracked)):
        assert a is b or np.shares_memory(a, b)


def test_running_statistics_are_updated_in_place(x):
    layer = BatchNorm1d(4)
    mean, var, tracked = layer.running_mean, layer.running_var, layer.num_batches_tracked
    layer(x)
    assert layer.running_mean is mean and layer.running_var is var
    assert (mean != 0).all() and tracked == 1


def test_parameters_in_order():
    layer = BatchNorm(4)
    assert [n for n, _ in layer.named_parameters()] == ["weight", "bias"]
    first, second = layer.parameters()
    assert first is layer.weight and second is layer.bias
    assert list(BatchNorm(4, affine=False).parameters()) == []


# ---- assigning -----------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
def test_arrays_may_be_assigned(name, x):
    layer = BatchNorm1d(4)
    before = getattr(layer, name)
    for value in (np.full(4, 2.0), np.full(4, 2, ">f4"), np.full((4, 2), 2, np.float16)[:, 0]):
        setattr(layer, name, value)
        assert (getattr(layer, name) == 2).all()
        assert layer(x).shape == x.shape
    for bad, error in ((np.zeros(3), ValueError), (np.zeros((4, 1)), ValueError),
                       (np.zeros(4, int), TypeError), (np.zeros(4, complex), TypeError),
                       ("abcd", TypeError), (object(), TypeError)):
        current = getattr(layer, name)
        with pytest.raises(error, match=name):
            setattr(layer, name, bad)
        assert getattr(layer, name) is current
    assert before is not getattr(layer, name)
    with pytest.raises((TypeError, AttributeError)):
        delattr(layer, name)


def test_settings_may_be_assigned_and_are_checked(x):
    layer = BatchNorm1d(4)
    layer.eps = 0.5
    layer.momentum = None
    layer.momentum = 0.25
    running = np.zeros(4, np.float32), np.ones(4, np.float32)
    y = normc.batch_norm(x, *running, layer.weight, layer.bias, True, 0.25, 0.5)
    assert_same_bits(layer(x), y)
    assert_same_bits(layer.running_var, running[1])
    for name, bad in (("eps", -1.0), ("eps", "a"), ("momentum", np.nan), ("momentum", "a")):
        with pytest.raises((TypeError, ValueError), match=name):
            setattr(layer, name, bad)
    assert layer.eps == 0.5 and layer.momentum == 0.25


def test_what_is_not_there_cannot_be_found():
    layer = BatchNorm(4)
    with pytest.raises(AttributeError):
        layer.gamma
    layer.note = "a layer has a __dict__"
    assert layer.note and vars(layer)["note"]


# ---- state_dict ----------------------------------------------------------------------------------

KEYS = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def test_state_dict(x):
    layer = BatchNorm1d(4)
    layer(x)
    d = layer.state_dict()
    assert type(d) is dict and list(d) == KEYS
    assert d["num_batches_tracked"].shape == () and d["num_batches_tracked"].dtype == np.int64
    for key in KEYS:
        assert type(d[key]) is np.ndarray and not np.shares_memory(d[key], getattr(layer, key))
    assert list(BatchNorm(4, affine=False).state_dict()) == KEYS[2:]
    assert list(BatchNorm(4, track_running_stats=False).state_dict()) == KEYS[:2]
    assert list(BatchNorm(4, bias=False).state_dict()) == [KEYS[0], *KEYS[2:]]


def test_round_trip_through_npz(x):
    layer = BatchNorm1d(4)
    layer.weight[...] = [1, 2, 3, 4]
    layer(x)
    file = io.BytesIO()
    np.savez(file, **layer.state_dict())
    file.seek(0)
    other = BatchNorm1d(4)
    arrays = other.weight, other.running_mean
    missing, unexpected = other.load_state_dict(dict(np.load(file)))
    assert not missing and not unexpected
    assert state(other) == state(layer)
    assert other.weight is arrays[0] and other.running_mean is arrays[1]
    assert_same_bits(other.eval()(x), layer.eval()(x))


def test_round_trip_through_safetensors(x):
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    layer = BatchNorm1d(4)
    layer(x)
    other = BatchNorm1d(4)
    other.load_state_dict(numpy.load(numpy.save(layer.state_dict())))
    assert state(other) == state(layer)


def test_load_converts_types():
    layer = BatchNorm(3, dtype=np.float64)
    layer.load_state_dict({"weight": [1, 2, 3], "bias": np.float32([0.5, 1, 2]),
                           "running_mean": np.float16([1, 2, 3]), "running_var": (1.0, 2.0, 3.0),
                           "num_batches_tracked": 7})
    assert layer.weight.dtype == np.float64 and layer.weight.tolist() == [1, 2, 3]
    assert layer.num_batches_tracked == 7 and layer.num_batches_tracked.dtype == np.int64


def test_bad_state_dicts_change_nothing(x):
    """One message names all that is wrong."""
    layer = BatchNorm1d(4)
    layer(x)
    before = state(layer)
    good = BatchNorm1d(4).state_dict()
    bad = {**good, "weight": np.ones(3), "running_var": np.ones((4, 1)), "gamma": np.ones(4)}
    del bad["bias"]
    with pytest.raises(Exception) as error:
        layer.load_state_dict(bad)
    assert isinstance(error.value, (ValueError, RuntimeError, KeyError))
    for words in ("weight", "running_var", "gamma", "bias", "Missing", "Unexpected",
                  "size mismatch"):
        assert words in str(error.value)
    assert state(layer) == before
    for key, value in (("weight", np.ones(4, complex)), ("weight", ["a"] * 4), ("bias", None),
                       ("num_batches_tracked", np.ones(2, int)), ("running_mean", object())):
        with pytest.raises((TypeError, ValueError, RuntimeError), match=key):
            layer.load_state_dict({**good, key: value})
        assert state(layer) == before
    with pytest.raises(TypeError, match="state_dict"):
        layer.load_state_dict([1, 2])


def test_load_not_strict():
    layer = BatchNorm1d(4)
    some = {"weight": np.full(4, 5.0), "other": 1}
    missing, unexpected = layer.load_state_dict(some, strict=False)
    assert list(missing) == KEYS[1:] and list(unexpected) == ["other"]
    assert (layer.weight == 5).all() and (layer.running_var == 1).all()
    with pytest.raises((ValueError, RuntimeError), match="weight"):
        layer.load_state_dict({"weight": np.ones(3)}, strict=False)


# ---- copies --------------------------------------------------------------------------------------

class Named(BatchNorm2d):
    """A subclass with state of its own."""

    def __init__(self, *args, name="bn", **kwargs):
        super().__init__(*args, **kwargs)
        self.name = name


COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy,
          **{f"pickle{p}": lambda layer, p=p: pickle.loads(pickle.dumps(layer, p))
             for p in range(2, pickle.HIGHEST_PROTOCOL + 1)}}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("make", [
    lambda: BatchNorm(4, 1e-3, None, axis=-1, correction=0, dtype=np.float64),
    lambda: BatchNorm1d(4, affine=False), lambda: BatchNorm2d(4, bias=False, momentum=0.3),
    lambda: BatchNorm3d(4, track_running_stats=False), lambda: Named(4, name="first")],
    ids=["BatchNorm", "no affine", "no bias", "no statistics", "subclass"])
def test_copies(make, how, rng):
    layer = make()
    shape = {BatchNorm: (6, 5, 4), BatchNorm1d: (6, 4)}.get(type(layer), (6, 4, 3, 2))
    shape = (2, 4, 3, 2, 2) if isinstance(layer, BatchNorm3d) else shape
    x = rng.normal(size=shape).astype(np.float32)
    layer(x)
    layer.extra = [1, 2]
    layer.eval()
    other = COPIES[how](layer)
    assert type(other) is type(layer) and repr(other) == repr(layer)
    assert state(other) == state(layer) and other.training is False
    assert vars(other) == vars(layer)
    assert_same_bits(other(x), layer(x))
    for name in ("axis", "correction", "dtype", "eps", "momentum", "num_features"):
        assert getattr(other, name) == getattr(layer, name)
    if how != "copy":
        assert other.extra is not layer.extra
        layer.train()(x)
        for name in KEYS:
            a, b = getattr(layer, name), getattr(other, name)
            assert a is None or not np.shares_memory(a, b)
    frozen = COPIES[how](layer.freeze())
    before = state(frozen)
    frozen.train()
    if frozen.running_mean is not None:
        frozen(x)
        assert state(frozen) == before


def test_corrupted_pickles():
    layer = BatchNorm(4)
    function, args, *rest = layer.__reduce_ex__(2)
    bare = function(*args)
    for junk in (None, {}, 3, {"num_features": "x"}, (1, 2), {"config": (1,)},
                 {"config": (), "arrays": {}, "dict": {}, "training": True, "frozen": False}):
        with pytest.raises((TypeError, ValueError, KeyError, AttributeError, RuntimeError)):
            bare.__setstate__(junk)
    data = pickle.dumps(layer)
    for cut in range(1, len(data) - 1, 7):
        try:
            pickle.loads(data[:cut])
        except Exception:
            continue


@pytest.mark.parametrize("kind, text", [
    (BatchNorm2d, "BatchNorm2d(4, eps=1e-05, momentum=0.1, affine=True, bias=True, "
                  "track_running_stats=True)"),
    (Named, "Named(4, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)")])
def test_repr(kind, text):
    assert repr(kind(4)) == text
    assert "axis=-1" in repr(BatchNorm(4, axis=-1))
    assert "correction=0" in repr(BatchNorm(4, correction=0))


# ---- objects -------------------------------------------------------------------------------------

def test_new_without_init():
    for kind in (BatchNorm, BatchNorm2d, Named):
        layer = kind.__new__(kind)
        with pytest.raises((RuntimeError, AttributeError, ValueError, TypeError)):
            layer(np.ones((2, 4, 3, 3), np.float32))
        for use in (repr, lambda l: l.state_dict(), lambda l: l.weight, lambda l: l.eval(),
                    lambda l: l.num_features, copy.copy, lambda l: setattr(l, "weight", np.ones(4)),
                    lambda l: l.load_state_dict({}), lambda l: l.reset_parameters()):
            try:
                use(layer)
            except (RuntimeError, AttributeError, ValueError, TypeError):
                pass


class Odd:
    """A number that runs code; and takes its own place away."""

    def __init__(self, layer):
        self.layer = layer

    def __float__(self):
        normc._core.BatchNorm.momentum.__set__(self.layer, 0.1)
        return float("inf")


NO_NUMBERS = [Odd(BatchNorm1d(4)), np.float32(2), "text", object(), np.zeros(3), np.array(None),
              np.nan, 1j]
NO_VECTORS = [*NO_NUMBERS, 3, 1.5, np.zeros((4, 1)), np.zeros(4, int), np.zeros(4, complex),
              np.zeros(()), np.array(5, np.int32), np.array([5])]
ENDS = {"weight": None, "bias": None, "num_batches_tracked": None, "momentum": None,
        "eps": RuntimeError, "running_mean": ValueError, "running_var": ValueError}


@pytest.mark.parametrize("name", ENDS)
def test_what_slipped_past_the_checks_ends_in_an_error(name, x):
    """The fields in C take any object; a call refuses what it cannot use, and changes nothing."""
    field = getattr(normc._core.BatchNorm, name)
    for junk in NO_NUMBERS if name in ("eps", "momentum") else NO_VECTORS:
        layer = BatchNorm1d(4)
        before = state(layer)
        field.__set__(layer, junk)
        with pytest.raises((TypeError, ValueError), match=name):
            layer(x)
        field.__set__(layer, getattr(BatchNorm1d(4), name))
        assert state(layer) == before
    field.__delete__(layer)
    with pytest.raises(ENDS[name]) if ENDS[name] else nullcontext():
        layer(x)


def test_double_init(x):
    layer = BatchNorm(4)
    layer(x)
    layer.__init__(5, momentum=0.3)
    assert layer.num_features == 5 and layer.momentum == 0.3 and layer.weight.shape == (5,)
    assert layer.num_batches_tracked == 0
    assert layer(np.ones((3, 5), np.float32)).shape == (3, 5)
    for _ in range(100):
        layer.__init__(4, affine=False)
    assert layer.weight is None
    with pytest.raises((TypeError, ValueError)):
        layer.__init__(-3)
    assert isinstance(repr(layer), str)


@pytest.mark.parametrize("bad", [{"eps": -1}, {"momentum": "x"}, {"affine": "x"}, {"axis": "x"},
                                 {"correction": 2}, {"num_features": -1}, {"dtype": int},
                                 {"track_running_stats": None}], ids=str)
def test_a_failed_init(bad, x):
    """A layer that was whole stays so, and one that was nothing stays that."""
    whole, nothing = BatchNorm(4, momentum=0.3), BatchNorm.__new__(BatchNorm)
    whole(x)
    before, text = state(whole), repr(whole)
    for layer in (whole, nothing):
        with pytest.raises((TypeError, ValueError), match=list(bad)[0]):
            layer.__init__(**{"num_features": 5, **bad})
    assert state(whole) == before and repr(whole) == text
    with pytest.raises(RuntimeError, match="__init__"):
        nothing(x)


def test_a_layer_that_changes_while_it_is_read():
    """What a call uses of a layer is held; an __init__ in between ends in an error or nothing."""
    layer, done = BatchNorm(4, momentum=1), False

    class Subclass(np.ndarray):
        pass

    class Again:
        def __array__(self, dtype=None, copy=None):
            with pytest.raises(MemoryError):
                layer.__init__(2**50)  # changes nothing
            normc._core.BatchNorm.__init__(layer, 4, 1, 1, (0, 64))
            return np.ones((3, 4))

    def change():
        number = 0.0
        while not done:
            number += 0.37
            layer.eps = layer.momentum = number
            layer.weight = np.ones(4).view(Subclass)
            layer.__init__(4)

    thread = threading.Thread(target=change)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(20_000):
            try:
                layer([[1.0, 2, 3, 4]] * 3)
            except (RuntimeError, ValueError):
                pass
    finally:
        done = True
        thread.join()
        sys.setswitchinterval(interval)
    with pytest.raises(RuntimeError, match="__init__"):
        layer(Again())


def test_the_counter(x):
    layer = BatchNorm(4, momentum=None)
    for bad in (-1, 2**63 - 1, 2**63, np.int64(-5)):
        with pytest.raises(ValueError, match="num_batches_tracked"):
            layer.num_batches_tracked = bad
        with pytest.raises(ValueError, match="num_batches_tracked"):
            layer.load_state_dict({**layer.state_dict(), "num_batches_tracked": np.array(bad)})
    layer.num_batches_tracked[...] = 2**63 - 1
    before = state(layer)
    with pytest.raises(ValueError, match="num_batches_tracked"):
        layer(x)
    assert state(layer) == before
    layer.num_batches_tracked = counter = np.array(7)
    twin = copy.copy(layer)
    assert twin.num_batches_tracked is layer.num_batches_tracked is counter
    twin(x)
    assert counter == 8


def test_what_is_kept_keeps_its_bits():
    """A channel without elements is not rewritten, not even a signalling NaN of it."""
    mean = np.array([0x7C01, 0], np.uint16).view(np.float16)
    x, where = np.ones((5, 2)), np.array([[False, True]])
    with np.errstate(all="raise"):
        normc.batch_norm(x, mean, np.ones(2), training=True, where=where)
    assert mean.view(np.uint16)[0] == 0x7C01 and mean[1] != 0


def test_a_long_chain_of_layers_is_let_go():
    chain = None
    for _ in range(400_000):
        link = normc._core.BatchNorm(1, 1, 1, (0, 64))
        normc._core.BatchNorm.weight.__set__(link, chain)
        chain = link
    del chain, link


def test_weak_references_and_cycles(x):
    layer = BatchNorm(4)
    layer.me = layer
    layer.others = [BatchNorm(2), {"layer": layer}]
    ref = weakref.ref(layer)
    array = weakref.ref(layer.weight)
    layer(x)
    del layer
    gc.collect()
    assert ref() is None and array() is None


def test_a_call_of_its_own(x):
    """Whether the class has it from the start, gets it when there are layers, or loses it."""
    def call(self, x, **more):
        calls.append(sorted(more))
        return super(Base, self).__call__(x, **more) + 1

    calls = []
    Base = type("Base", (normc.BatchNorm,), {})
    Heir = type("Heir", (Base,), {})
    Born = type("Born", (Base,), {"__call__": call})
    plain, layers = normc.BatchNorm(4).eval(), [Base(4).eval(), Heir(4).eval()]
    want, out = plain(x), np.empty_like(x)
    np.testing.assert_array_equal(Born(4).eval()(x), want + 1)
    for layer in layers:
        np.testing.assert_array_equal(layer(x, out=out), want)
    assert calls.pop() == [] and calls == []
    Base.__call__ = call
    for layer in [*layers, Heir(4).eval(), Base(4).eval()]:
        for _ in range(2):
            np.testing.assert_array_equal(layer(x, out=out), want + 1)
            assert calls.pop() == ["out"] and calls == []
    with pytest.raises(TypeError, match="positional"):
        layers[0](x, x, x)
    del Base.__call__
    for layer in [*layers, Heir(4).eval()]:
        for _ in range(2):
            np.testing.assert_array_equal(layer(x, out=out), want)
    assert calls == []


def test_subclass_in_a_cycle_through_its_class():
    kind = type("Local", (BatchNorm1d,), {})
    layer = kind(3)
    kind.instance = layer
    ref = weakref.ref(kind)
    del kind, layer
    gc.collect()
    assert ref() is None


def test_zero_features():
    layer = BatchNorm(0)
    assert layer(np.zeros((3, 0, 2), np.float32)).shape == (3, 0, 2)


def test_arguments_of_the_call(x):
    layer = BatchNorm(4)
    for args, kwargs in (((), {}), ((x, x), {}), ((x,), {"mask": None}), ((), {"x": x})):
        with pytest.raises(TypeError):
            layer(*args, **kwargs)
    assert layer.num_batches_tracked == 0


# ---- threads -------------------------------------------------------------------------------------

def in_threads(count, work):
    errors = []
    gate = threading.Barrier(count)

    def run(i):
        gate.wait()
        try:
            work(i)
        except BaseException as error:  # shown in the thread that started these
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors, errors


@pytest.mark.parametrize("size", [3, 4000], ids=["small", "without the GIL"])
def test_eight_threads_on_one_layer(size):
    """Each update is whole: with momentum 1/2 and batches of mean +-1, var 1 or 4, the statistics
    are pairs that whole updates alone can reach."""
    layer = BatchNorm1d(4, momentum=0.5, correction=0, dtype=np.float64)
    ones = np.where(np.arange(2 * size) % 2, 1.0, -1.0)
    calls = 150

    def batch(i):
        scale = np.array([1.0, 2.0])[i % 2]  # mean: 1 or 2; var: 1 or 4
        return np.ascontiguousarray(np.broadcast_to(ones * scale + scale, (4, ones.size)).T)

    expected = [normc.batch_norm(batch(i), None, None, np.ones(4), np.zeros(4), True)
                for i in range(2)]

    def work(i):
        x = batch(i)
        for _ in range(calls):
            assert_same_bits(layer(x), expected[i % 2])

    in_threads(8, work)
    assert layer.num_batches_tracked == 8 * calls
    # after a whole update all channels are equal, mean in [1, 2] and var = 3 * mean - 2
    mean, var = layer.running_mean, layer.running_var
    assert (mean == mean[0]).all() and (var == var[0]).all()
    assert 1 <= mean[0] <= 2 and abs(var[0] - (3 * mean[0] - 2)) <= 2.0**-40


def test_no_update_is_lost():
    """momentum None: the cumulative mean over all calls, whoever made them."""
    layer = BatchNorm(2, momentum=None, correction=0, dtype=np.float64)
    calls = 100

    def work(i):
        x = np.array([[i - 1.0, 5.0], [i + 1.0, 7.0]]).repeat(3000, 0)
        for _ in range(calls):
            layer(x)

    in_threads(8, work)
    assert layer.num_batches_tracked == 8 * calls
    assert abs(layer.running_mean[0] - 3.5) < 1e-10 and abs(layer.running_mean[1] - 6) < 1e-10
    assert np.abs(layer.running_var - 1).max() < 1e-10


def test_threads_that_change_the_layer(x):
    """Assigning, saving, resetting and switching modes beside calls: no crash, no torn array."""
    layer = BatchNorm1d(4)
    big = np.tile(x, (50, 1, 20))
    done = threading.Event()

    def work(i):
        try:
            for step in range(200):
                if i < 4:
                    layer(big)
                elif i == 4:
                    layer.weight = np.full(4, step, np.float32)
                    layer.running_mean = np.zeros(4)
                elif i == 5:
                    assert set(layer.state_dict()) == set(KEYS)
                elif i == 6:
                    pickle.loads(pickle.dumps(layer))
                else:
                    layer.train(step % 2 == 0)
                    layer.reset_running_stats()
        finally:
            done.set()

    in_threads(8, work)
    assert np.isfinite(layer.running_var).all()


def test_functions_in_threads(rng):
    x = rng.normal(size=(64, 3000)).astype(np.float32)
    expected = normc.layer_norm(x)
    outs = np.zeros((8, *x.shape), np.float32)

    def work(i):
        for _ in range(20):
            normc.layer_norm(x, out=outs[i])
            assert_same_bits(outs[i], expected)

    in_threads(8, work)


def test_closeness_of_running_statistics_to_exact(rng):
    """float32 buffers: each step rounds once, to nearest."""
    layer = BatchNorm1d(3, momentum=0.25)
    for _ in range(50):
        x = (rng.normal(size=(9, 3)) * 3 + 5).astype(np.float32)
        old_mean, old_var = bound.widen(layer.running_mean), bound.widen(layer.running_var)
        layer(x)
        _, mean, var = bound.deviations(x.T)
        off_mean, off_var = bound.statistics(np.float32, mean[:, 0], var[:, 0])
        for got, old, new, off in ((layer.running_mean, old_mean, mean[:, 0], off_mean),
                                   (layer.running_var, old_var, var[:, 0] * 9 / 8, 2 * off_var)):
            exact = old * 0.75 + new * 0.25
            bound.assert_within(got, exact, bound.ulp(exact, np.float32) / 2 + off)
