"""Every layer: it calls its function, remembers its input, goes back once, and keeps its state."""

import copy
import gc
import inspect
import pickle
import sys
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
import zoo
from zoo import assert_same_bits

import normc

LAYERS = {
    "BatchNorm": (lambda **k: normc.BatchNorm(4, **k), (3, 4, 5)),
    "BatchNorm1d": (lambda **k: normc.BatchNorm1d(4, **k), (6, 4)),
    "BatchNorm2d": (lambda **k: normc.BatchNorm2d(4, **k), (3, 4, 2, 5)),
    "BatchNorm3d": (lambda **k: normc.BatchNorm3d(4, **k), (2, 4, 2, 3, 2)),
    "BatchNorm last": (lambda **k: normc.BatchNorm(4, axis=-1, **k), (3, 5, 4)),
    "InstanceNorm1d": (lambda **k: normc.InstanceNorm1d(4, affine=True, **k), (3, 4, 5)),
    "InstanceNorm2d": (lambda **k: normc.InstanceNorm2d(4, affine=True, **k), (3, 4, 2, 5)),
    "InstanceNorm3d": (lambda **k: normc.InstanceNorm3d(4, **k), (2, 4, 2, 3, 2)),
    "InstanceNorm tracking": (lambda **k: normc.InstanceNorm1d(
        4, affine=True, track_running_stats=True, **k), (3, 4, 5)),
    "InstanceNorm unbatched": (lambda **k: normc.InstanceNorm2d(4, affine=True, **k), (4, 2, 5)),
    "LayerNorm": (lambda **k: normc.LayerNorm((4, 5), **k), (3, 4, 5)),
    "LayerNorm axis": (lambda **k: normc.LayerNorm(4, axis=1, **k), (3, 4, 5)),
    "RMSNorm": (lambda **k: normc.RMSNorm(5, **k), (3, 4, 5)),
    "RMSNorm axes": (lambda **k: normc.RMSNorm((3, 5), axis=(-1, 0), **k), (3, 4, 5)),
    "GroupNorm": (lambda **k: normc.GroupNorm(2, 4, **k), (3, 4, 5)),
    "GroupNorm last": (lambda **k: normc.GroupNorm(2, 4, axis=-1, **k), (3, 5, 4)),
    "SwitchableNorm1d": (lambda **k: normc.SwitchableNorm1d(4, **k), (6, 4)),
    "SwitchableNorm2d": (lambda **k: normc.SwitchableNorm2d(4, **k), (3, 4, 2, 5)),
    "SwitchableNorm3d": (lambda **k: normc.SwitchableNorm3d(4, correction=1, **k),
                         (2, 4, 2, 3, 2)),
    "SwitchableNorm2d last": (lambda **k: normc.SwitchableNorm2d(4, 0.5, axis=-1, **k),
                              (3, 2, 5, 4)),
    "LocalResponseNorm": (lambda **k: normc.LocalResponseNorm(3, 0.5, **k), (3, 4, 5)),
    "LocalResponseNorm last": (lambda **k: normc.LocalResponseNorm(
        2, 0.5, axis=-1, window="onnx", **k), (3, 5, 4)),
    "ReLU": (lambda **k: normc.ReLU(), (3, 4)),
    "LeakyReLU": (lambda **k: normc.LeakyReLU(0.3), (3, 4)),
    "PReLU": (lambda **k: normc.PReLU(), (3, 4)),
    "PReLU channels": (lambda **k: normc.PReLU(4), (3, 4, 5)),
    "PReLU last": (lambda **k: normc.PReLU(4, axis=-1), (3, 5, 4)),
}
PLAIN = [n for n in LAYERS if "ReLU" in n or n.startswith("Local")]  # no dtype, no where
layers = pytest.mark.parametrize("name", LAYERS)
norms = pytest.mark.parametrize("name", [n for n in LAYERS if n not in PLAIN])
masked = pytest.mark.parametrize("name", [
    n for n in LAYERS if n not in PLAIN and not n.startswith("Switch")])
with_parameters = pytest.mark.parametrize("name", [
    n for n in LAYERS if list(LAYERS[n][0]().parameters())])
tracking = pytest.mark.parametrize("name", [
    n for n in LAYERS if getattr(LAYERS[n][0](), "running_mean", None) is not None])


def make(name, **options):
    """The layer, with parameters and statistics that are not those at first."""
    layer = LAYERS[name][0](**options)
    rng = np.random.default_rng(3)
    for key, array in layer.state_dict().items():
        if key != "num_batches_tracked":
            values = rng.normal(size=array.shape) / 3 + 1
            getattr(layer, key)[...] = abs(values) if key == "running_var" else values
    return layer


@pytest.fixture
def draw(rng):
    def draw(name, dtype=np.float32):
        shape = LAYERS[name][1]
        return ((rng.normal(size=shape) * 2 + 1).astype(dtype),
                rng.normal(size=shape).astype(dtype))
    return draw


def state(layer):
    return {k: v.tobytes() for k, v in layer.state_dict().items()}


def gradients(layer):
    return [g.copy() for g in layer.gradients()]


def by_function(name, x, weights, **options):
    """The function that the layer stands for."""
    kind = name.split()[0]
    w, b = weights.get("weight"), weights.get("bias")
    running = {k: weights.get(k) for k in ("running_mean", "running_var")}
    last = {"axis": -1} if name.endswith("last") else {}
    if kind.startswith("BatchNorm"):
        return normc.batch_norm(x, weight=w, bias=b, training=True, **running, **last, **options)
    if name == "InstanceNorm unbatched":
        return normc.instance_norm(x[None], weight=w, bias=b, **options)[0]
    if kind.startswith("InstanceNorm"):
        return normc.instance_norm(x, weight=w, bias=b, **running, **options)
    if kind.startswith("Switchable"):
        eps = 0.5 if last else 1e-5
        return normc.switchable_norm(x, weights["mean_weight"], weights["var_weight"], w, b,
                                     eps=eps, training=True, correction=int(kind.endswith("3d")),
                                     **running, **last)
    return {
        "LayerNorm": lambda: normc.layer_norm(x, (4, 5), w, b, **options),
        "LayerNorm axis": lambda: normc.layer_norm(x, None, w, b, axis=1, **options),
        "RMSNorm": lambda: normc.rms_norm(x, 5, w, **options),
        "RMSNorm axes": lambda: normc.rms_norm(x, None, w, axis=(0, 2), **options),
        "GroupNorm": lambda: normc.group_norm(x, 2, w, b, **options),
        "GroupNorm last": lambda: normc.group_norm(x, 2, w, b, axis=-1, **options),
        "LocalResponseNorm": lambda: normc.local_response_norm(x, 3, 0.5),
        "ReLU": lambda: normc.relu(x), "LeakyReLU": lambda: normc.leaky_relu(x, 0.3),
        "LocalResponseNorm last": lambda: normc.local_response_norm(x, 2, 0.5, axis=-1,
                                                                    window="onnx"),
        "PReLU": lambda: normc.prelu(x, w), "PReLU channels": lambda: normc.prelu(x, w),
        "PReLU last": lambda: normc.prelu(x, w, axis=-1),
    }[name]()


# ---- calls ---------------------------------------------------------------------------------------

@layers
@pytest.mark.parametrize("dtype", zoo.DTYPES)
def test_a_call_is_the_functions(name, dtype, draw):
    layer, (x, _) = make(name), draw(name, dtype)
    weights = layer.state_dict()
    y = layer(x)
    assert type(y) is np.ndarray
    assert_same_bits(y, by_function(name, x, weights))
    for key in ("running_mean", "running_var"):
        if key in weights:
            assert_same_bits(getattr(layer, key), weights[key])
    out = np.empty_like(x)
    assert make(name)(x, out=out) is out
    assert_same_bits(out, y)


@layers
def test_signature(name):
    layer = make(name)
    call = "(x, /, *, where=None, out=None)"
    if not name.startswith("BatchNorm"):
        assert str(inspect.signature(layer)) == call
    for args, kwargs in (((), {}), ((1.0, 2.0), {}), ((), {"x": 1.0}), ((1.0,), {"mask": None})):
        with pytest.raises(TypeError):
            layer(*args, **kwargs)


@masked
def test_where(name, draw, rng):
    x, grad = draw(name)
    where = rng.random(x.shape) < 0.7
    layer = make(name)
    weights = layer.state_dict()
    y = layer(x, where=where)
    assert (y[~where] == 0).all()
    if name != "InstanceNorm unbatched":
        assert_same_bits(y, by_function(name, x, weights, where=where))
    dx = layer.backward(np.where(where, grad, np.nan))
    assert (dx[~where] == 0).all() and np.isfinite(dx).all() and dx.any()
    other = make(name)
    assert_same_bits(other(np.ma.array(x, mask=~where)), y)
    assert_same_bits(other.backward(grad), dx)
    for a, b in zip(layer.gradients(), other.gradients(), strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("name", [*PLAIN, "SwitchableNorm1d"])
def test_some_take_no_where(name, draw):
    x, _ = draw(name)
    with pytest.raises(TypeError, match="where"):
        make(name)(x, where=np.ones(x.shape, bool))
    with pytest.raises(TypeError, match="where"):
        make(name)(np.ma.array(x, mask=x > 0))


@layers
def test_array_likes(name, draw):
    x, grad = draw(name, np.float64)
    expected = make(name)(x)
    layer = make(name)
    assert_same_bits(layer(x.tolist()), expected)
    dx = layer.backward(grad.tolist())
    assert_same_bits(layer(np.asfortranarray(x)), np.asfortranarray(make(name)(x)))
    layer.zero_grad()
    assert_same_bits(layer.backward(grad), dx)


# ---- backward ------------------------------------------------------------------------------------

@layers
@pytest.mark.parametrize("dtype", zoo.DTYPES)
def test_the_gradient_has_the_form_of_x(name, dtype, draw):
    layer, (x, grad) = make(name), draw(name, dtype)
    layer(x)
    dx = layer.backward(grad)
    assert type(dx) is np.ndarray and dx.shape == x.shape and dx.dtype == x.dtype
    for parameter, gradient in zip(layer.parameters(), layer.gradients(), strict=True):
        assert gradient.shape == parameter.shape and gradient.dtype == parameter.dtype
        assert gradient.any()


@layers
def test_the_gradient_is_that_of_differences(name, draw):
    """Central differences of the layer itself, along a direction in x and in each parameter."""
    options = {} if name in PLAIN else {"dtype": np.float64}
    layer, (x, grad) = make(name, **options), draw(name, np.float64)
    if name.startswith("PReLU"):
        layer.weight = layer.weight.astype(np.float64)
    before = layer.state_dict()
    layer(x)
    dx = layer.backward(grad)

    def loss(step, name=None, direction=None):
        layer.load_state_dict(before)
        if name is not None:
            getattr(layer, name)[...] += step * direction
        return (layer(x + (step * direction if name is None else 0)) * grad).sum()

    rng, h = np.random.default_rng(5), 1e-6
    pairs = [(None, dx), *((n, getattr(layer, f"{n}_grad")) for n, _ in layer.named_parameters())]
    for key, gradient in pairs:
        direction = rng.normal(size=gradient.shape)
        slope = (loss(h, key, direction) - loss(-h, key, direction)) / (2 * h)
        expected = (gradient * direction).sum()
        assert abs(slope - expected) <= 1e-7 * (abs(gradient * direction).sum() + 1), key


@with_parameters
def test_gradients_add_up(name, draw):
    layer, (x, grad) = make(name), draw(name)
    layer(x)
    first = layer.backward(grad)
    once, arrays = gradients(layer), list(layer.gradients())
    layer(x)
    assert_same_bits(layer.backward(grad), first)
    for a, b, array in zip(once, layer.gradients(), arrays, strict=True):
        assert b is array and np.array_equal(b, a + a)
    layer.zero_grad()
    assert all(b is a and not b.any() for a, b in zip(arrays, layer.gradients(), strict=True))
    layer(x)
    layer.backward(grad)
    for a, b in zip(once, layer.gradients(), strict=True):
        assert_same_bits(a, b)


def test_gradients_are_there_from_the_start():
    layer = normc.LayerNorm(3, dtype=np.float16)
    assert layer.weight_grad.dtype == np.float16 and layer.bias_grad.tolist() == [0, 0, 0]
    assert layer.weight_grad is layer.weight_grad
    assert normc.LayerNorm(3, bias=False).bias_grad is None
    assert [g.shape for g in normc.SwitchableNorm2d(5).gradients()] == [(5,), (5,), (3,), (3,)]
    assert not hasattr(normc.ReLU(), "weight_grad")


def test_gradients_follow_their_parameter():
    layer = normc.LayerNorm(3)
    layer.weight_grad += 1
    assert layer.weight_grad.tolist() == [1, 1, 1]
    layer.weight = np.ones(3, np.float32)
    assert layer.weight_grad.tolist() == [1, 1, 1]
    layer.weight = np.ones(3)
    assert layer.weight_grad.dtype == np.float64 and layer.weight_grad.tolist() == [0, 0, 0]
    layer.weight_grad = given = np.full(3, 2.0)
    assert layer.weight_grad is given
    layer.weight_grad = None
    assert layer.weight_grad.tolist() == [0, 0, 0]
    for bad in (np.ones(3, np.float32), np.ones(4), [1.0, 2, 3], 0):
        with pytest.raises(ValueError, match="weight_grad"):
            layer.weight_grad = bad
    layer.bias = None
    with pytest.raises(ValueError, match="bias_grad"):
        layer.bias_grad = np.zeros(3, np.float32)
    assert [n for n, _ in layer.named_parameters()] == ["weight"]
    layer([[1.0, 2, 4]])
    layer.backward([[1.0, 0, 0]])
    assert layer.weight_grad.any() and layer.bias_grad is None


@layers
def test_each_call_has_one_backward(name, draw):
    layer, (x, grad) = make(name), draw(name)
    with pytest.raises(RuntimeError, match="has not been called"):
        layer.backward(grad)
    layer(x)
    layer.backward(grad)
    before = gradients(layer)
    with pytest.raises(RuntimeError, match="each call has one"):
        layer.backward(grad)
    layer(x)
    layer.eval()(x)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="evaluation mode"):
            layer.train().backward(grad)
    layer(x)
    for bad, error in ((grad[:1], ValueError), (grad[None], ValueError), (grad + 1j, TypeError)):
        with pytest.raises(error):
            layer.backward(bad)
    with pytest.raises((TypeError, ValueError)):
        layer(x.astype(complex))  # changes nothing
    for a, b in zip(before, layer.gradients(), strict=True):
        assert_same_bits(a, b)
    assert layer.backward(grad).shape == x.shape


@layers
def test_nothing_goes_back_through_what_was_overwritten(name, draw):
    layer, (x, grad) = make(name), draw(name)
    room = np.zeros((*x.shape, 2), x.dtype)
    room[..., 0] = x
    layer(room[..., 0], out=room[..., 1])  # side by side: both are there afterwards
    dx = layer.backward(grad)
    other = make(name)
    other(x)
    assert_same_bits(np.array(dx), other.backward(grad))
    line = np.zeros(x.size + 1, x.dtype)
    line[:-1] = x.ravel()
    pairs = [(x.copy(),) * 2, (line[:-1].reshape(x.shape), line[1:].reshape(x.shape))]
    for given, out in pairs:
        layer(given, out=out)
        with pytest.raises(RuntimeError, match="out overlapped x"):
            layer.backward(grad)
    layer(x)
    layer.backward(grad)


@layers
def test_out_over_anything_else_that_backward_needs(name, draw):
    layer, (x, grad) = make(name), draw(name)
    parameters = [p for p in layer.parameters() if p.size > 1 and p.dtype == x.dtype]
    if parameters:
        room = np.empty(x.size + parameters[0].size, x.dtype)
        weight = room[:parameters[0].size].reshape(parameters[0].shape)
        weight[...] = parameters[0]
        layer.weight = weight
        y = layer(x.copy())
        layer.backward(grad)
        out = room[1:1 + x.size].reshape(x.shape)  # over the weight but for one element
        assert_same_bits(layer(x, out=out).copy(), y)
        with pytest.raises(RuntimeError, match="out overlapped"):
            layer.backward(grad)
    if name not in PLAIN and not name.startswith("Switch"):
        ones = np.ones(x.size * x.itemsize + 4, np.uint8)
        where = ones[:x.size].reshape(x.shape).view(bool)
        out = ones[:x.size * x.itemsize].view(x.dtype).reshape(x.shape)
        layer(x, where=where, out=out)
        with pytest.raises(RuntimeError, match="out overlapped"):
            layer.backward(grad)


@layers
def test_one_of_many_threads_goes_back(name, draw):
    layer, (x, grad) = make(name), draw(name)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            layer.zero_grad()
            layer(x)
            done, barrier = [], threading.Barrier(3)

            def back():
                barrier.wait()
                try:
                    done.append(layer.backward(grad))
                except RuntimeError:
                    pass

            threads = [threading.Thread(target=back) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(done) == 1
    finally:
        sys.setswitchinterval(interval)


def test_a_masked_gradient_flows_where_it_is_not_masked(draw):
    x, grad = draw("LayerNorm")
    for name in ("LayerNorm", "BatchNorm", "InstanceNorm1d", "PReLU channels"):
        mask = grad > 1
        first, second = make(name), make(name)
        first(x)
        second(x)
        spoiled = np.ma.array(np.where(mask, np.nan, grad), mask=mask)
        assert_same_bits(first.backward(spoiled), second.backward(np.where(mask, 0, grad)))


@layers
def test_the_input_is_held_by_reference_and_let_go(name, draw):
    layer, (x, grad) = make(name), draw(name)
    for mode in (True, False):
        layer.train(mode)
        given = x.copy()
        ref = weakref.ref(given)
        layer(given)
        del given
        assert (ref() is not None) == mode
    layer.train()
    given = x.copy()
    ref = weakref.ref(given)
    layer(given)
    holders = [h for h in gc.get_referrers(given) if isinstance(h, tuple) and h[0] is given]
    assert len(holders) == 1
    del given, holders
    layer.backward(grad)
    assert ref() is None
    given = x.copy()
    ref = weakref.ref(given)
    layer(given)
    del given
    layer(x)
    assert ref() is None


@norms
def test_a_call_keeps_no_copy(name):
    layer = make(name)
    shape = [n * 12 if i == 0 and n != 4 else n for i, n in enumerate(LAYERS[name][1])]
    if "LayerNorm" not in name and "RMSNorm" not in name:
        shape = [n if n == 4 else n * 8 for n in shape]
    if name == "RMSNorm axes":
        shape[0], shape[1] = 3, 999
    x = np.random.default_rng(0).normal(size=shape).astype(np.float64)
    layer(x)
    gc.collect()
    tracemalloc.start()
    try:
        layer(x)
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    groups = 4 * shape[0] * shape[1]  # at most, of four doubles each
    assert kept <= 4096 + 40 * groups, (kept, x.nbytes)


@pytest.mark.parametrize("name", [n for n in LAYERS if n not in ("RMSNorm axes",
                                                                 "InstanceNorm unbatched")])
def test_empty_batches(name, draw):
    layer, (x, grad) = make(name), draw(name)
    before = state(layer)
    assert layer(x[:0]).shape == x[:0].shape and state(layer) == before
    assert layer.backward(grad[:0]).shape == x[:0].shape
    assert not any(g.any() for g in layer.gradients())


@tracking
def test_frozen_layers_learn_with_fixed_statistics(name, draw):
    layer, (x, grad) = make(name), draw(name)
    assert layer.freeze() is layer and layer.training
    before = state(layer)
    y = layer(x)
    assert_same_bits(y, copy.deepcopy(layer).eval()(x))
    dx = layer.backward(grad)
    assert state(layer) == before
    if not name.startswith("Switch"):
        axis = -1 if name.endswith("last") else 1
        along = [1] * x.ndim
        along[axis] = 4
        rstd = 1 / np.sqrt(layer.running_var.astype(float) + layer.eps)
        expected = grad * (layer.weight * rstd).reshape(along)
        assert np.abs(dx - expected).max() <= 1e-6 * np.abs(expected).max()
    else:
        layer.unfreeze()(x)
        assert np.abs(layer.backward(grad) - dx).max() > 1e-3
    assert layer.weight_grad.any() and layer.bias_grad.any()
    assert layer.unfreeze() is layer
    layer(x)
    assert state(layer) != before


def test_in_evaluation_without_statistics_nothing_is_remembered():
    for layer in (normc.BatchNorm(2, track_running_stats=False).eval(), normc.LayerNorm(2).eval()):
        layer([[1.0, 2], [3, 5]])
        with pytest.raises(RuntimeError, match="evaluation mode"):
            layer.backward([[1.0, 2], [3, 5]])


def test_what_counts_is_what_the_call_saw(rng):
    """A parameter, eps or mode that is replaced after the call does not enter its gradient."""
    x, grad = rng.normal(size=(2, 5, 3))
    for kind in (normc.BatchNorm, normc.LayerNorm):
        layer, other = kind(3), kind(3)
        for each in (layer, other):
            each(x)
        layer.weight = np.full(3, 7.0)
        layer.eps = 3.0
        layer.freeze().eval()
        assert_same_bits(layer.backward(grad), other.backward(grad))


def test_a_loop_of_an_optimiser(rng):
    """Two layers, by gradient descent, towards a target that they can reach."""
    x = rng.normal(size=(64, 3))
    goal = normc.batch_norm(x, training=True) * [1.0, -2, 0.5] + [3, 0, 1]
    stack = [normc.BatchNorm(3, dtype=np.float64), normc.PReLU(3, init=1.0)]
    losses = []
    for _ in range(200):
        y = x
        for layer in stack:
            y = layer(y)
        grad = (y - goal) / len(x)
        for layer in reversed(stack):
            grad = layer.backward(grad)
        for layer in stack:
            for p, g in zip(layer.parameters(), layer.gradients(), strict=True):
                p -= 0.3 * g
            layer.zero_grad()
        losses.append(((y - goal) ** 2).mean())
    assert losses[-1] < 1e-3 * losses[0]


# ---- state ---------------------------------------------------------------------------------------

@layers
def test_state_goes_round(name, draw):
    layer, (x, _) = make(name), draw(name)
    layer(x)
    other = LAYERS[name][0]()
    arrays = [a for _, a in other._arrays()]
    missing, unexpected = other.load_state_dict(layer.state_dict())
    assert not missing and not unexpected and state(other) == state(layer)
    assert all(a is b for a, (_, b) in zip(arrays, other._arrays(), strict=True))
    assert_same_bits(other.eval()(x), layer.eval()(x))
    for key, value in layer.state_dict().items():
        assert not np.shares_memory(value, getattr(layer, key))


def test_state_is_dense_and_native():
    """safetensors writes the bytes as they lie, and torch takes native order alone."""
    layer = normc.LayerNorm((2, 3), dtype=">f4")
    layer.weight = np.arange(6, dtype=">f4").reshape(3, 2).T
    layer.bias = np.asfortranarray([[0.0, 1, 2], [3, 4, 5]], dtype=np.float32)
    for key, array in layer.state_dict().items():
        assert array.flags.c_contiguous and array.dtype.isnative
        assert np.array_equal(array, getattr(layer, key))


@zoo.needs_ml_dtypes
def test_bfloat16_through_a_file(tmp_path):
    """NumPy forgets the type's name, not the bits."""
    layer, other = (normc.LayerNorm(3, dtype=zoo.bfloat16) for _ in range(2))
    layer.weight[...] = [0.1, 2, 3e30]
    np.savez(tmp_path / "state.npz", **layer.state_dict())
    other.load_state_dict(np.load(tmp_path / "state.npz"))
    assert state(other) == state(layer)


@with_parameters
def test_one_message_names_all_that_is_wrong(name):
    layer = make(name)
    before, good = state(layer), layer.state_dict()
    first, *rest = good
    bad = {first: np.ones(17), "gamma": 1, "delta": 2}
    with pytest.raises(ValueError) as error:
        layer.load_state_dict(bad)
    text = str(error.value)
    for words in (type(layer).__name__, "size mismatch for " + first, '"gamma", "delta"',
                  *(f'"{key}"' for key in rest if key != "num_batches_tracked")):
        assert words in text
    assert state(layer) == before
    layer.load_state_dict({k: v for k, v in good.items() if k != "num_batches_tracked"})


class Named(normc.GroupNorm):
    """A subclass with state and arguments of its own, some there from before the rest."""

    def __init__(self, name):
        self.name = name
        super().__init__(2, 4, affine=True)


class Tagged:
    def __init__(self, tag):
        self.tag = tag


class Mixed(normc.LayerNorm, Tagged):
    """Its other base is not begun anew in a copy."""

    def __init__(self, name):
        normc.LayerNorm.__init__(self, 5)
        Tagged.__init__(self, name)

    name = property(lambda self: self.tag)


class Slotted(normc.BatchNorm):
    """Slots, a lock that does not pickle, and a property that needs what is not there at first."""

    __slots__ = ("name",)

    def __init__(self, name):
        super().__init__(4)
        self.name, self.lock, self.shared = name, threading.Lock(), {}

    @property
    def momentum(self):
        return normc._core.BatchNorm.momentum.__get__(self)

    @momentum.setter
    def momentum(self, value):
        if hasattr(self, "lock"):
            self.shared["momentum"] = value
        normc._core.BatchNorm.momentum.__set__(self, value)

    def __getstate__(self):
        state = super().__getstate__()
        own, slots = state["object"]
        return {**state, "object": ({k: v for k, v in own.items() if k != "lock"}, slots)}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.lock = threading.Lock()


SUBCLASSES = {"Named": (lambda: Named("first"), "GroupNorm"),
              "Mixed": (lambda: Mixed("first"), "LayerNorm"),
              "Slotted": (lambda: Slotted("first"), "BatchNorm")}
COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy,
          **{f"pickle{p}": lambda layer, p=p: pickle.loads(pickle.dumps(layer, p))
             for p in range(pickle.HIGHEST_PROTOCOL + 1)}}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", [*LAYERS, *SUBCLASSES])
def test_copies(name, how, draw):
    if name == "Slotted" and how in ("pickle0", "pickle1"):
        pytest.skip("Python's protocols 0 and 1 know no slots")
    layer = SUBCLASSES[name][0]() if name in SUBCLASSES else make(name)
    x, grad = draw(SUBCLASSES[name][1] if name in SUBCLASSES else name)
    layer(x)
    layer.backward(grad)
    layer(x)
    layer.extra = [1, 2]
    other = COPIES[how](layer)
    assert type(other) is type(layer) and repr(other) == repr(layer)
    assert state(other) == state(layer) and other.training and other.extra == [1, 2]
    assert getattr(other, "name", None) == getattr(layer, "name", None)
    with pytest.raises(RuntimeError, match="has not been called"):
        other.backward(grad)
    assert not any(g.any() for g in other.gradients())
    for key, array in layer._arrays():
        assert (getattr(other, key) is array) == (how == "copy")
    layer.eval().freeze()
    again = COPIES[how](layer)
    assert again.frozen and not again.training
    assert_same_bits(again(x), layer(x))


@layers
def test_weak_references_and_cycles(name, draw):
    layer, (x, _) = make(name), draw(name)
    layer.me = layer
    layer(x)
    ref = weakref.ref(layer)
    del layer
    gc.collect()
    assert ref() is None


def test_what_is_remembered_is_collected_in_cycles():
    """An input that holds its layer."""
    class Holding(np.ndarray):
        pass

    layer = normc.BatchNorm(2)
    note = {"layer": layer}
    layer._exchange((note,))
    ref = weakref.ref(layer)
    del layer, note
    gc.collect()
    assert ref() is None


@layers
def test_assignments(name):
    layer = make(name)
    before = state(layer)
    for key, array in layer._arrays():
        if key == "num_batches_tracked":
            continue
        for bad, error in ((np.ones(17), ValueError), (np.ones(array.shape, int), TypeError),
                           ("a", TypeError)):
            with pytest.raises(error, match=key):
                setattr(layer, key, bad)
        with pytest.raises(AttributeError):
            delattr(layer, key)
        setattr(layer, key, array)
        assert getattr(layer, key) is array
    for key in ("num_features", "normalized_shape", "num_groups", "num_channels",
                "num_parameters", "axis"):
        if hasattr(layer, key):
            with pytest.raises((AttributeError, TypeError)):
                setattr(layer, key, 3)
    if hasattr(layer, "eps"):
        with pytest.raises(ValueError, match="eps must be non-negative"):
            layer.eps = -1.0
    with pytest.raises(TypeError, match="training"):
        layer.training = "yes"
    assert state(layer) == before


@pytest.mark.parametrize("call, error, words", [
    (lambda: normc.LayerNorm(-1), ValueError, "normalized_shape"),
    (lambda: normc.LayerNorm(2.5), TypeError, "normalized_shape"),
    (lambda: normc.LayerNorm(4, eps=-1), ValueError, "eps must be non-negative"),
    (lambda: normc.LayerNorm(4, eps=None), TypeError, "eps"),
    (lambda: normc.LayerNorm(4, dtype=int), TypeError, "dtype"),
    (lambda: normc.LayerNorm(4, axis=(1, 2)), ValueError, "axis"),
    (lambda: normc.RMSNorm(4, elementwise_affine="x"), TypeError, "elementwise_affine"),
    (lambda: normc.GroupNorm(3, 4), ValueError, r"num_channels \(4\) must be divisible by"),
    (lambda: normc.GroupNorm(0, 4), ValueError, "num_groups"),
    (lambda: normc.InstanceNorm1d(-1), ValueError, "num_features"),
    (lambda: normc.InstanceNorm1d(2, momentum=np.nan), ValueError, "momentum"),
    (lambda: normc.SwitchableNorm2d(2, correction=2), ValueError, "correction"),
    (lambda: normc.LocalResponseNorm(2, window="keras"), ValueError, "window"),
    (lambda: normc.LocalResponseNorm("a"), TypeError, "size"),
    (lambda: normc.LeakyReLU("a"), TypeError, "negative_slope"),
    (lambda: normc.PReLU(True), TypeError, "num_parameters"),
    (lambda: normc.PReLU(1, np.inf), ValueError, "init"),
    (lambda: normc.ReLU(True), TypeError, "argument"),
])
def test_bad_constructors(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_what_gradients_may_be_assigned():
    layer = normc.LayerNorm(3)
    for bad in (np.zeros(4, np.float32), np.zeros(3), [0, 0, 0],
                np.broadcast_to(np.float32(0), 3)):
        with pytest.raises(ValueError, match="weight_grad must be a writeable ndarray"):
            layer.weight_grad = bad
    mine = layer.weight_grad = np.ones(3, np.float32)
    assert layer.weight_grad is mine
    big = normc.LayerNorm(3, dtype=">f4")
    assert big.weight_grad.dtype.isnative


@pytest.mark.parametrize("name", ["BatchNorm", "LayerNorm", "GroupNorm", "SwitchableNorm2d"])
def test_an_init_that_finds_no_memory(name):
    layer = make(name)
    before, text = state(layer), repr(layer)
    with pytest.raises((MemoryError, ValueError)):
        layer.__init__(*(1,) * (name == "GroupNorm"), 2**50)
    assert state(layer) == before and repr(layer) == text


@layers
def test_a_failed_init(name):
    layer = make(name)
    before, text = state(layer), repr(layer)
    with pytest.raises((TypeError, ValueError)):
        layer.__init__("a", "b", "c", "d", "e", "f")
    with pytest.raises((TypeError, ValueError)):
        layer.__init__(object())
    assert state(layer) == before and repr(layer) == text


@layers
def test_another_init(name, draw):
    """It begins anew; what others have put there stays."""
    (x, grad), fresh = draw(name), LAYERS[name][0]()
    layer = make(name)
    layer.extra = 3
    layer.freeze()(x)
    layer.backward(grad)
    layer(x)
    arguments = inspect.signature(type(layer).__init__).parameters
    layer.__init__(**{n: getattr(layer, n) for n in arguments if n not in ("self", "bias")})
    assert state(layer) == state(fresh) and repr(layer) == repr(fresh)
    assert layer.extra == 3 and not layer.frozen
    assert not any(g.any() for g in layer.gradients())
    with pytest.raises(RuntimeError, match="has not been called"):
        layer.backward(grad)


@layers
def test_corrupted_pickles(name):
    layer = make(name)
    function, args, *_ = layer.__reduce_ex__(2)
    bare = function(*args)
    for use in (repr, lambda layer: layer([[1.0]]), lambda layer: layer.state_dict()):
        try:
            use(bare)
        except (AttributeError, RuntimeError, TypeError, ValueError):
            continue
    if not hasattr(bare, "__setstate__"):  # it has no more to it than any object of Python's
        return
    config = (4, 1, 1, (0, 64))
    for junk in (None, {}, 3, (1, 2), {"config": (1,)}, {"config": (), "fields": 3, "object": {}},
                 {"config": config, "fields": {"eps": "a"}, "object": {}},
                 {"config": config, "fields": {}, "object": 7}):
        with pytest.raises(ValueError, match="state"):
            bare.__setstate__(junk)


@layers
def test_reset(name, draw):
    layer, (x, _) = make(name), draw(name)
    layer(x)
    layer.reset_parameters()
    assert state(layer) == state(LAYERS[name][0]())


# ---- each kind -----------------------------------------------------------------------------------

@pytest.mark.parametrize("axis", [0, 1, -1])
def test_unbatched_input(axis, rng):
    """As one sample of a batch of its own, wherever the channels stand."""
    batch = rng.normal(size=(1, 4, 5, 6))
    where = rng.random(batch.shape) < 0.8
    place = {0: (1, 0), 1: (0, 1), -1: (0, 3)}[axis]
    x, mask = (np.moveaxis(a, (0, 1), place) for a in (batch, where))
    options = {"affine": True, "track_running_stats": True, "axis": axis, "dtype": np.float64}
    one, other = (normc.InstanceNorm2d(4, **options) for _ in range(2))
    sample, sample_mask = (a.squeeze(place[0]) for a in (x, mask))
    out = np.empty_like(sample)
    assert one(sample, where=sample_mask, out=out) is out
    assert_same_bits(out, other(x, where=mask).squeeze(place[0]))
    assert state(one) == state(other)
    dx = one.backward(sample)
    assert_same_bits(dx, other.backward(x).squeeze(place[0]))
    assert_same_bits(one.weight_grad, other.weight_grad)
    with pytest.raises(ValueError, match="out must have shape"):
        one(sample, out=np.empty(x.shape))


def test_running_statistics_of_instances(rng):
    x = rng.normal(size=(3, 4, 9)) + 2
    layer = normc.InstanceNorm1d(4, track_running_stats=True, momentum=0.5, dtype=np.float64)
    layer(x)
    assert np.allclose(layer.running_mean, x.mean(2).mean(0) / 2, atol=1e-14)
    assert np.allclose(layer.running_var, 0.5 + x.var(2, ddof=1).mean(0) / 2, atol=1e-14)
    assert layer.num_batches_tracked == 0
    y = layer.eval()(x)
    mean, var = (a[:, None] for a in (layer.running_mean, layer.running_var))
    assert np.allclose(y, (x - mean) / np.sqrt(var + 1e-5), atol=1e-13)
    still = normc.InstanceNorm1d(4, track_running_stats=True, momentum=None)
    still(x)
    assert not still.running_mean.any()


def test_channels_that_are_not_the_layers(rng):
    x = np.ones((2, 5, 3), np.float32)
    with pytest.raises(ValueError, match=r"size at dim=1 to match num_features \(4\), but got: 5"):
        normc.InstanceNorm1d(4, affine=True)(x)
    with pytest.raises(ValueError, match="dim=0 to match num_features"):
        normc.InstanceNorm1d(4, track_running_stats=True)(x[0])
    with pytest.warns(UserWarning, match="does not match num_features") as record:
        assert normc.InstanceNorm1d(4)(x).shape == x.shape
    assert record[0].filename == __file__
    for layer in (normc.GroupNorm(2, 4), normc.SwitchableNorm1d(4), normc.BatchNorm(4)):
        with pytest.raises(ValueError, match="elements not"):
            layer(x[..., 0] + x[:, :1, 1])
    with pytest.raises(ValueError, match=r"normalized_shape=\[4\]"):
        normc.LayerNorm(4, axis=1, elementwise_affine=False)(x)
    assert normc.LayerNorm(5, axis=-2, elementwise_affine=False)(x).shape == x.shape


def test_cumulative_statistics_of_switchable_norm_by_threads(rng):
    layer = normc.SwitchableNorm1d(2, momentum=None, dtype=np.float64)
    batches = rng.normal(size=(4, 200, 5, 2))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=lambda own=own: [layer(x) for x in own])
                   for own in batches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert layer.num_batches_tracked == 800
    assert abs(layer.running_mean - batches.mean((0, 1, 2))).max() < 1e-13
    assert abs(layer.running_var - batches.var(2).mean((0, 1))).max() < 1e-13


def test_cumulative_statistics_of_switchable_norm(rng):
    layer = normc.SwitchableNorm1d(3, momentum=None, dtype=np.float64)
    means, variances = [], []
    for step in range(5):
        x = rng.normal(size=(6, 3)) + step
        layer(x)
        means.append(x.mean(0))
        variances.append(x.var(0))
        assert layer.num_batches_tracked == step + 1
        assert np.abs(layer.running_mean - np.mean(means, 0)).max() < 1e-13
        assert np.abs(layer.running_var - np.mean(variances, 0)).max() < 1e-13
    before = state(layer)
    layer.eval()(x)
    layer.train().freeze()(x)
    layer.unfreeze()(x[:0])
    assert state(layer) == before


@pytest.mark.parametrize("shape, name", [
    ((3, 4), "SwitchableNorm2d"), ((3, 4, 5), "SwitchableNorm1d"), ((4,), "InstanceNorm1d"),
    ((2, 4), "InstanceNorm2d"), ((2, 3, 4), "InstanceNorm3d")])
def test_ranks(shape, name):
    with pytest.raises(ValueError, match=rf"expected .*D input \(got {len(shape)}D input\)"):
        getattr(normc, name)(4)(np.ones(shape))


@pytest.mark.parametrize("name", ["BatchNorm", "LayerNorm", "SwitchableNorm2d"])
def test_threads_on_one_layer(name, draw):
    """Each thread gets its own result; what is remembered is some whole call."""
    layer, (x, grad) = make(name), draw(name)
    batches = [np.concatenate([x + i] * 400) for i in range(4)]
    grads = np.concatenate([grad] * 400)
    expected = [make(name)(b) for b in batches]
    errors = []

    def work(i):
        try:
            for _ in range(10):
                assert_same_bits(layer(batches[i]), expected[i])
                copy.copy(layer)
        except BaseException as error:  # shown in the thread that started these
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors, errors
    layer.zero_grad()
    dx = layer.backward(grads)
    others = [make(name) for _ in batches]
    possible = []
    for other, batch in zip(others, batches):
        other(batch)
        possible.append(other.backward(grads))
    assert any(np.array_equal(dx, p) for p in possible)


@pytest.mark.parametrize("name", [n for n in LAYERS if not n.startswith("Batch")])
def test_backward_goes_by_what_the_call_went_by(name, draw, monkeypatch):
    """Whatever another thread assigns meanwhile."""
    x, grad = draw(name)
    layer, twin = make(name), make(name)

    class Core:
        def __getattr__(self, function):
            def call(*args, **kwargs):
                result = getattr(normc._core, function)(*args, **kwargs)
                if not function.endswith("_backward"):
                    for field in {"weight", "mean_weight", "running_mean"} & vars(layer).keys():
                        if getattr(layer, field) is not None:
                            setattr(layer, field, getattr(layer, field) * 3)
                    for field, value in {"eps": 7.0, "beta": 1.0, "negative_slope": 0.7}.items():
                        if field in vars(layer):
                            setattr(layer, field, value)
                    layer.freeze()
                return result
            return call

    expected = twin(x), twin.backward(grad)
    with monkeypatch.context() as patch:
        for module in (normc._norms, normc._tracking, normc._activations):
            patch.setattr(module, "_core", Core())
        y = layer(x)
    for got, right in zip((y, layer.backward(grad)), expected, strict=True):
        assert_same_bits(got, right)


@pytest.mark.parametrize("name", [n for n in LAYERS if n in PLAIN or n.startswith("Switch")])
def test_layers_that_take_no_where(name, draw):
    x, _ = draw(name)
    for given in (x, np.ma.masked_array(x), x.tolist()):
        with pytest.raises(TypeError, match="takes no where"):
            make(name)(given, where=np.ones(x.shape, bool))
