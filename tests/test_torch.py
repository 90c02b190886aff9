"""Parity with torch, whose float64 is the exact side: its float32 is less accurate than normc's.

What a result may differ by is the published bound and, beside it, what torch's float64 itself
rounds: it computes x * scale + shift, with statistics from sums of at most a few thousand terms.
"""

import re
import warnings

import bound
import numpy as np
import pytest
import zoo
from cases import Case
from zoo import assert_same_bits

import normc

torch = pytest.importorskip("torch", reason="parity is tested where torch is installed")
F = torch.nn.functional

TORCH_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16,
                "float32": torch.float32, "float64": torch.float64}


def tensor(a):
    return None if a is None else torch.from_numpy(np.asarray(a).astype(np.float64))


def parameters(rng, *shape):
    """Far from 1 and 0, and values that float32 has."""
    weight, bias = rng.normal(size=(2, *shape)) * 20 - 7
    return np.round(weight * 64) / 64, np.round(bias * 64) / 64


def assert_parity(case, y, expected, x, weight=None, bias=None, eps=1e-5):
    """Within the bound of the exact result, for the mean and deviation that x has."""
    y, expected = np.asarray(y), expected.detach().numpy()
    assert y.shape == expected.shape == x.shape
    if not x.size:
        return
    d, mean, var = bound.deviations(case.grouped(x), None, case.centred)
    w = case.along(weight, 1, np.float64)
    b = case.along(bias, 0, np.float64)
    sigma = np.sqrt(var + bound.wide(eps))
    settle(case.grouped(y), case.grouped(expected), d, mean, sigma, w, b)


def settle(y, expected, d, mean, sigma, w, b):
    rstd = bound.reciprocal(sigma)
    allowed = bound.tolerance(y.dtype, bound.widen(expected), b, w, mean, sigma)
    slack = 32 * bound.UNIT["float64"] * (abs(w) * (1 + abs(d) + abs(mean)) * rstd + abs(b))
    bound.assert_within(y, expected, allowed + slack + abs(w) * 32 * bound.UNIT["float64"])


def same_in(layout, x):
    return zoo.in_layout(layout, x) if x.ndim and x.size else x.copy()


LAYOUTS = [zoo.contiguous, zoo.strided, zoo.channels_last, zoo.fortran]
layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
dtypes = pytest.mark.parametrize("dtype", zoo.DTYPES)
C = 12  # channels: enough of them that neighbours fill a vector
SHAPES = [(5, C), (5, C, 7), (2, C, 5, 3), (2, C, 3, 2, 5), (1, C, 9, 1), (0, C, 4, 4),
          (3, C, 16, 16)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
spatial_shapes = pytest.mark.parametrize("shape", [s for s in SHAPES if len(s) > 2], ids=str)
epsilons = pytest.mark.parametrize("eps", [1e-5, 0.7, 50.0])


@pytest.fixture
def draw(rng):
    def draw(shape, dtype):
        return (rng.normal(size=shape) * 3 + 2).astype(dtype)
    return draw


# ---- functions -----------------------------------------------------------------------------------

@dtypes
@layouts
@shapes
@epsilons
def test_batch_norm(eps, shape, layout, dtype, draw, rng):
    x = draw(shape, dtype)
    weight, bias = parameters(rng, C)
    case = Case("batch_norm", shape)
    stats = rng.normal(size=C), rng.uniform(0.5, 4, C)
    ours, theirs = [s.copy() for s in stats], [tensor(s) for s in stats]
    for training in (True, False, True):
        y = normc.batch_norm(same_in(layout, x), *ours, weight, bias, training, 0.3, eps)
        if x.size or not training:  # torch writes NaN into the statistics of an empty batch
            mean, var = (t.numpy().copy() for t in theirs)
            expected = F.batch_norm(tensor(x), *theirs, tensor(weight), tensor(bias), training,
                                    0.3, eps)
            if training:
                assert_parity(case, y, expected, x, weight, bias, eps)
            elif x.size:
                w, b = case.along(weight, 1, np.float64), case.along(bias, 0, np.float64)
                m, v = case.along(mean, 0, np.float64), case.along(var, 0, np.float64)
                d = bound.widen(case.grouped(x)) - m
                settle(case.grouped(y), case.grouped(expected.numpy()), d, m,
                       np.sqrt(v + bound.wide(eps)), w, b)
        assert y.shape == x.shape and y.dtype == x.dtype
        for a, b in zip(ours, theirs):
            slack = 64 * bound.UNIT["float64"] * (abs(b.numpy()) + 30)
            assert (abs(a - b.numpy()) <= slack).all()


@dtypes
@layouts
@spatial_shapes
@epsilons
def test_instance_norm(eps, shape, layout, dtype, draw, rng):
    x = draw(shape, dtype)
    weight, bias = parameters(rng, C)
    case = Case("instance_norm", shape)
    ours = [np.zeros(C), np.ones(C)]
    theirs = [tensor(s) for s in ours]
    y = normc.instance_norm(same_in(layout, x), *ours, weight, bias, True, 0.3, eps)
    assert y.shape == x.shape and y.dtype == x.dtype
    if x.size:
        expected = F.instance_norm(tensor(x), *theirs, tensor(weight), tensor(bias), True, 0.3, eps)
        assert_parity(case, y, expected, x, weight, bias, eps)
        for a, b in zip(ours, theirs):
            assert (abs(a - b.numpy()) <= 64 * bound.UNIT["float64"] * (abs(b.numpy()) + 30)).all()


@dtypes
@layouts
@shapes
@epsilons
def test_layer_and_rms_norm(eps, shape, layout, dtype, draw, rng):
    x = draw(shape, dtype)
    for last in range(1, len(shape) + 1):
        trailing = shape[-last:]
        if 0 in trailing:
            continue
        weight, bias = parameters(rng, *trailing)
        axes = tuple(range(len(shape) - last, len(shape)))
        y = normc.layer_norm(same_in(layout, x), trailing, weight, bias, eps)
        expected = F.layer_norm(tensor(x), trailing, tensor(weight), tensor(bias), eps)
        assert_parity(Case("layer_norm", shape, axes), y, expected, x, weight, bias, eps)
        y = normc.rms_norm(same_in(layout, x), trailing, weight, eps)
        expected = F.rms_norm(tensor(x), trailing, tensor(weight), eps)
        assert_parity(Case("rms_norm", shape, axes), y, expected, x, weight, None, eps)


@dtypes
def test_rms_norm_default_eps(dtype, rng):
    """Data so small that eps is all there is under the root."""
    x = (rng.normal(size=(4, 32)) * 1e-5).astype(dtype)
    eps = float(torch.finfo(TORCH_DTYPES["float64" if dtype == np.float64 else "float32"]).eps)
    expected = F.rms_norm(tensor(x), (32,), None, eps)
    assert_parity(Case("rms_norm", x.shape, -1), normc.rms_norm(x, 32), expected, x, eps=eps)
    theirs = F.rms_norm(tensor(x).to(TORCH_DTYPES[bound.name(dtype)]), (32,))
    error = np.abs(theirs.double().numpy() - normc.rms_norm(x, 32).astype(float)).max()
    assert error <= 8 * bound.UNIT[bound.name(dtype)] * np.abs(expected.numpy()).max()


@dtypes
@layouts
@shapes
@epsilons
def test_group_norm(eps, shape, layout, dtype, draw, rng):
    x = draw(shape, dtype)
    weight, bias = parameters(rng, C)
    for groups in (1, 3, 12):
        y = normc.group_norm(same_in(layout, x), groups, weight, bias, eps)
        if np.prod(shape[2:]) * C // groups > 1 or not x.size:
            expected = F.group_norm(tensor(x), groups, tensor(weight), tensor(bias), eps)
            assert_parity(Case("group_norm", shape, 1, groups), y, expected, x, weight, bias, eps)


@dtypes
@layouts
@spatial_shapes
def test_local_response_norm(shape, layout, dtype, draw):
    x = draw(shape, dtype)
    name = bound.name(dtype)
    u = bound.UNIT["float64" if name == "float64" else "float32"]
    for size in (1, 2, 3, 4, 5, 9):
        for alpha, beta, k in ((1e-4, 0.75, 1.0), (0.5, 0.5, 2.0), (0.3, 1.3, 0.7)):
            y = normc.local_response_norm(same_in(layout, x), size, alpha, beta, k)
            expected = F.local_response_norm(tensor(x), size, alpha, beta, k).numpy()
            relative = (size + 6) * u + 16 * bound.UNIT["float64"]
            allowed = relative * abs(expected) + bound.TINY[name]
            if name in ("float16", "bfloat16"):
                allowed = allowed + bound.ulp(expected, name) * (0.5 + 2.0**-8)
            bound.assert_within(y, expected, allowed)


@dtypes
@layouts
@shapes
def test_activations(shape, layout, dtype, draw, rng):
    x = draw(shape, dtype)
    slope = np.round(rng.normal(size=C) * 64) / 64
    u = bound.UNIT["float64" if dtype == np.float64 else "float32"]
    for ours, theirs in (
            (normc.relu(same_in(layout, x)), F.relu(tensor(x))),
            (normc.leaky_relu(same_in(layout, x), 0.3), F.leaky_relu(tensor(x), 0.3)),
            (normc.prelu(same_in(layout, x), slope), F.prelu(tensor(x), tensor(slope))),
            (normc.prelu(same_in(layout, x), slope[:1]), F.prelu(tensor(x), tensor(slope[:1])))):
        expected = bound.widen(theirs.numpy())
        allowed = bound.ulp(expected, dtype) * (0.5 + 2.0**-8) + 2 * u * abs(expected)
        bound.assert_within(ours, expected, allowed)


# ---- layers --------------------------------------------------------------------------------------

@dtypes
@pytest.mark.parametrize("options", [
    {}, {"momentum": 0.3}, {"momentum": None}, {"eps": 2.0}, {"affine": False},
    {"track_running_stats": False}, {"affine": False, "track_running_stats": False},
    {"bias": False}], ids=str)
@pytest.mark.parametrize("dims, shape", [(1, (9, C)), (1, (3, C, 5)), (2, (3, C, 5, 7)),
                                         (3, (2, C, 3, 2, 5))])
def test_batch_norm_layer_over_many_steps(dims, shape, options, dtype, draw, rng):
    """torch's layer follows in float64, from normc's own statistics at each step."""
    kind = f"BatchNorm{dims}d"
    ours = getattr(normc, kind)(C, **options)
    theirs = getattr(torch.nn, kind)(C, dtype=torch.float64, **options)
    weight, bias = parameters(rng, C)
    if ours.weight is not None:
        ours.weight = weight.astype(np.float32)
        theirs.weight.data = tensor(weight)
    if ours.bias is not None:
        ours.bias = bias.astype(np.float32)
        theirs.bias.data = tensor(bias)
    case = Case("batch_norm", shape)
    eps = options.get("eps", 1e-5)
    for step in range(12):
        training = step % 4 != 3
        ours.train(training)
        theirs.train(training)
        x = same_in(LAYOUTS[step % 4], draw(shape, dtype) + np.array(step, dtype))
        w = None if ours.weight is None else ours.weight
        b = None if ours.bias is None else ours.bias
        if theirs.running_mean is not None:
            theirs.running_mean.data = tensor(ours.running_mean)
            theirs.running_var.data = tensor(ours.running_var)
        if training or theirs.running_mean is None:
            assert_parity(case, ours(x), theirs(tensor(x)), x, w, b, eps)
        else:
            m = case.along(ours.running_mean, 0, np.float64)
            v = case.along(ours.running_var, 0, np.float64)
            settle(case.grouped(ours(x)), case.grouped(theirs(tensor(x)).detach().numpy()),
                   bound.widen(case.grouped(x)) - m, m, np.sqrt(v + bound.wide(eps)),
                   case.along(w, 1, np.float64), case.along(b, 0, np.float64))
        if theirs.running_mean is None:
            assert ours.running_mean is None and ours.num_batches_tracked is None
            continue
        assert ours.num_batches_tracked == theirs.num_batches_tracked.item()
        for name in ("running_mean", "running_var"):
            a, b = getattr(ours, name), getattr(theirs, name).numpy()
            assert a.dtype == np.float32
            half = bound.ulp(b, np.float32) / 2 + 64 * bound.UNIT["float64"] * (abs(b) + 200)
            bound.assert_within(a, b, half)


def test_float64_layer_never_drifts(rng):
    """Many steps without bringing the two together again."""
    ours = normc.BatchNorm2d(5, dtype=np.float64)
    theirs = torch.nn.BatchNorm2d(5, dtype=torch.float64)
    for step in range(60):
        x = rng.normal(size=(4, 5, 6, 3)) * (1 + step % 7) + step % 5
        y, expected = ours(x), theirs(tensor(x))
        assert_parity(Case("batch_norm", x.shape), y, expected, x)
        for name in ("running_mean", "running_var"):
            a, b = getattr(ours, name), getattr(theirs, name).numpy()
            assert (abs(a - b) <= 64 * (step + 1) * bound.UNIT["float64"] * (abs(b) + 60)).all()


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False},
                                     {"bias": False}], ids=str)
def test_state_dict_both_ways(options, rng):
    ours = normc.BatchNorm2d(4, **options)
    theirs = torch.nn.BatchNorm2d(4, **options)
    x = rng.normal(size=(3, 4, 5, 6)).astype(np.float32)
    for layer, batch in ((ours, x), (theirs, torch.from_numpy(x))):
        for _ in range(3):
            layer(batch)
    state = ours.state_dict()
    assert list(state) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert tuple(value.shape) == state[key].shape
        assert str(value.dtype).removeprefix("torch.") == state[key].dtype.name
    fresh = torch.nn.BatchNorm2d(4, **options)
    fresh.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    for key, value in fresh.state_dict().items():
        assert np.array_equal(value.numpy(), state[key])
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.uniform_(-3, 3)
    back = normc.BatchNorm2d(4, **options)
    back.load_state_dict(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert np.array_equal(back.state_dict()[key], value.numpy())


@pytest.mark.parametrize("name", ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"])
@pytest.mark.parametrize("options", [
    {}, {"eps": 0.001}, {"eps": 1e-12}, {"momentum": None}, {"momentum": 0.25}, {"affine": False},
    {"track_running_stats": False}, {"bias": False}, {"eps": 1, "momentum": 1}], ids=str)
def test_repr(name, options):
    assert repr(getattr(normc, name)(7, **options)) == repr(getattr(torch.nn, name)(7, **options))


def test_tensors_go_in(rng):
    x = rng.normal(size=(4, 6, 3)).astype(np.float32)
    weight = rng.normal(size=6).astype(np.float32)
    y = normc.batch_norm(torch.from_numpy(x), None, None, torch.from_numpy(weight), training=True)
    assert isinstance(y, np.ndarray)
    assert_same_bits(y, normc.batch_norm(x, None, None, weight, training=True))
    half = torch.from_numpy(x).half()
    assert_same_bits(normc.layer_norm(half), normc.layer_norm(half.numpy()))


# ---- messages ------------------------------------------------------------------------------------

def zeros(*shape):
    return np.zeros(shape, np.float32)


MESSAGES = [
    ("Expected more than 1 value per channel when training, got input size",
     lambda m, a: m.batch_norm(a(1, 3), None, None, training=True)),
    ("Expected more than 1 spatial element when training, got input size",
     lambda m, a: m.instance_norm(a(2, 3, 1))),
    (r"running_mean should contain 3 elements not 4",
     lambda m, a: m.batch_norm(a(2, 3, 4), a(4), a(4), training=True)),
    (r"running_var should contain 3 elements not 4",
     lambda m, a: m.batch_norm(a(2, 3, 4), a(3), a(4), training=True)),
    (r"weight should contain 3 elements not 2",
     lambda m, a: m.batch_norm(a(2, 3, 4), None, None, a(2), training=True)),
    (r"bias should contain 3 elements not 2",
     lambda m, a: m.batch_norm(a(2, 3, 4), None, None, a(3), a(2), training=True)),
    (r"Expected number of channels in input to be divisible by num_groups",
     lambda m, a: m.group_norm(a(2, 4, 5), 3)),
    (r"Given normalized_shape=\[4\], expected input with shape \[\*, 4\], but got input of size",
     lambda m, a: m.layer_norm(a(2, 3), (4,))),
    (r"Given normalized_shape=\[2, 3\], expected input with shape",
     lambda m, a: m.rms_norm(a(5, 3), (2, 3))),
    (r"Expected 3D or higher dimensionality input \(got 2 dimensions\)",
     lambda m, a: m.local_response_norm(a(2, 3), 3)),
]


@pytest.mark.parametrize("message, call", MESSAGES, ids=[m for m, _ in MESSAGES])
def test_key_words_of_functions(message, call):
    with pytest.raises(Exception) as theirs:
        call(F, torch.zeros)
    assert re.search(message, " ".join(str(theirs.value).split()))
    with pytest.raises(ValueError, match=message):
        call(normc, zeros)


@pytest.mark.parametrize("dims, shape", [
    (1, (3,)), (1, (2, 3, 4, 5)), (2, (2, 3)), (2, (2, 3, 4)), (2, (2, 3, 4, 5, 6)),
    (3, (2, 3, 4, 5)), (3, (2, 3))])
def test_key_words_of_ranks(dims, shape):
    kind = f"BatchNorm{dims}d"
    with pytest.raises(ValueError) as theirs:
        getattr(torch.nn, kind)(3)(torch.zeros(shape))
    with pytest.raises(ValueError, match=re.escape(str(theirs.value))):
        getattr(normc, kind)(3)(zeros(*shape))


# ---- torch's own sample inputs -------------------------------------------------------------------

def samples(name):
    """What torch's own test suite feeds the function; it needs `expecttest` to import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("expecttest", reason="torch's sample inputs need expecttest")
        methods = pytest.importorskip("torch.testing._internal.common_methods_invocations")
        found = [op for op in methods.op_db if op.name == name]
        assert found, f"torch has no samples for {name}"
        return [s for op in found for s in op.sample_inputs("cpu", torch.float64)]


def as_numpy(value):
    return value.numpy().copy() if isinstance(value, torch.Tensor) else value


NATIVE = {  # the same norms under their internal names: arguments in another order
    "native_layer_norm": lambda x, shape, w, b, eps: normc.layer_norm(x, shape, w, b, eps),
    "native_group_norm": lambda x, w, b, n, c, hw, groups, eps: normc.group_norm(
        x, groups, w, b, eps),
    "native_batch_norm": lambda x, w, b, rm, rv, training, momentum, eps: normc.batch_norm(
        x, rm, rv, w, b, training, momentum, eps),
}
SAMPLED = ["batch_norm", "instance_norm", "layer_norm", "rms_norm", "group_norm",
           "local_response_norm", "relu", "leaky_relu", "prelu"]


@dtypes
@pytest.mark.parametrize("name", [f"nn.functional.{n}" for n in SAMPLED] + list(NATIVE))
def test_torchs_own_samples(name, dtype):
    short = name.rsplit(".", 1)[-1]
    ours = NATIVE.get(name) or getattr(normc, short)
    theirs = getattr(F, short, None) or getattr(torch, short)
    count = 0
    for sample in samples(name):
        kwargs = {k: v for k, v in sample.kwargs.items() if k != "inplace"}
        x = sample.input.numpy().astype(dtype)
        args = [as_numpy(a) for a in sample.args]
        mine = {k: as_numpy(v) for k, v in kwargs.items()}
        exact = theirs(tensor(x), *map(clone, sample.args),
                       **{k: clone(v) for k, v in kwargs.items()})
        exact = exact[0] if isinstance(exact, tuple) else exact
        if (mine.get("eps") or 0) < 0 or (name in NATIVE and args[-1] < 0):
            with pytest.raises(ValueError, match="eps must be non-negative"):
                ours(x, *args, **mine)
            continue
        y = ours(x, *args, **mine)
        assert y.dtype == dtype and y.shape == tuple(exact.shape)
        assert_sample(short, y, exact.numpy(), x, args, mine)
        count += 1
    assert count > 2


def clone(value):
    return value.clone() if isinstance(value, torch.Tensor) else value


def assert_sample(name, y, exact, x, args, kwargs):
    """torch's samples have few elements and no large means, so that |x|, |mean| <= 10 * sigma;
    parameters that float32 does not have are rounded to it, which costs u each."""
    dtype = bound.name(y.dtype)
    numbers = [abs(np.asarray(a, np.float64)).max() for a in [*args, *kwargs.values()]
               if isinstance(a, np.ndarray) and a.size]
    biggest = max([1.0, *numbers])
    u = bound.UNIT["float64" if dtype == "float64" else "float32"]
    spread = abs(exact) + biggest
    allowed = u * (16 * spread + 16 * biggest)
    if dtype in ("float16", "bfloat16"):
        allowed = allowed + bound.ulp(exact, dtype) * (0.5 + 2.0**-8)
    bound.assert_within(y, exact, allowed)


def test_flush_to_zero_is_set_aside_and_put_back(rng):
    """Subnormals are numbers to normc even where the caller's arithmetic flushes them."""
    x = (rng.normal(size=(5, 37)) * 1e-40).astype(np.float32)
    calls = [lambda x: normc.layer_norm(x, eps=0), lambda x: normc.standardize(x, 0),
             lambda x: normc.batch_norm(x, training=True, eps=0), normc.leaky_relu, normc.relu,
             lambda x: normc.prelu(x, 0.5), lambda x: normc.local_response_norm(x[None], 3, k=2)]
    plain = [call(x) for call in calls]
    assert all(y.any() for y in plain)
    results, flushed = [], []
    if not torch.set_flush_denormal(True):
        pytest.skip("torch cannot set flush-to-zero on this machine")
    try:
        for call in calls:
            results.append(call(x))
            flushed.append(not (x[0] * np.float32(0.5)).any())
    finally:
        torch.set_flush_denormal(False)
    assert all(flushed)
    for got, expected in zip(results, plain, strict=True):
        assert_same_bits(got, expected)
