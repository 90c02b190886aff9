"""ReLU and a residual in the pass of a norm: the bits of the separate calls, on every road."""

import itertools

import numpy as np
import pytest
import zoo
from cases import SMALL, Case
from zoo import assert_same_bits

import normc

# Beside the small odd ones: several items of rows, rows longer than an item or than scratch, a row
# alone, more columns than a tile has, planes, groups of more channels than are summed at a time.
CASES = [c for c in SMALL if c.norm != "standardize"] + [
    Case("layer_norm", (700, 40)), Case("layer_norm", (5, 5000)), Case("layer_norm", (3, 8230)),
    Case("layer_norm", (2, 17000)),
    Case("layer_norm", (1, 70000)), Case("layer_norm", (2, 5, 530)),
    Case("layer_norm", (2, 3, 4, 3, 7), (1, 3)), Case("rms_norm", (300, 128)),
    Case("rms_norm", (1, 70000)), Case("rms_norm", (9, 530), 0), Case("batch_norm", (9, 530)),
    Case("batch_norm", (3, 5, 7, 7)), Case("instance_norm", (3, 5, 7, 7)),
    Case("group_norm", (2, 12, 7, 7), 1, 3), Case("group_norm", (40, 8), 1, 2),
    Case("group_norm", (2, 130, 33), 1, 2)]
SUMS = [c for c in CASES if c.norm in ("layer_norm", "rms_norm")]
dtypes = pytest.mark.parametrize("dtype", zoo.DTYPES)
every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_sum = pytest.mark.parametrize("case", SUMS, ids=str)


@pytest.fixture
def roads():
    """Instruction sets, past the caches and not, on one thread and on three."""
    core, threads = normc._core, normc.get_num_threads()
    level = core._use_cpu("baseline")

    def every():
        for name, stream, shared in itertools.product(zoo.CPU_LEVELS, (-1, 0), (0, 1)):
            core._use_cpu(name)
            core._stream_from(stream)
            core._threads_from(shared)
            normc.set_num_threads(3 if shared else 1)
            yield name, stream, shared

    yield every
    core._use_cpu(level)
    core._stream_from(-1)
    core._threads_from(0)
    normc.set_num_threads(threads)


def data(case, rng, dtype, wild=True):
    """Groups of every kind; the wild are constant, beyond what kernels carry, or spoilt."""
    groups, n = case.members().shape
    huge, tiny = {"float16": (6e4, 1e-6), "float64": (1e300, 1e-310)}.get(
        np.dtype(dtype).name, (1e37, 1e-40))
    kinds = [(0, 1), (2, 1), (300, 1)] + [(0.3, 0), (huge, huge / 64), (0, tiny), (0, 0)] * wild
    mean, scale = np.resize(rng.permutation(kinds), (groups, 2)).T[..., None]
    x = (rng.normal(size=(groups, n)) * scale + mean).astype(dtype)
    if wild:
        x[groups // 2, n // 2] = np.nan
        x[groups // 3, n // 3] = -np.inf
    return case.fill(x)


def parameters(n, rng):
    """Of some the negative results round to -0; where a bias is -0 they are that already."""
    weight = [1, -3, 2.0**-26, -2.0**-25, -1e-9, 1e-41, 0, 0.5]
    bias = [0, -0.0, 0.5, -0.0, -2, -0.0, 0]
    return rng.permutation(np.resize(weight, n)), rng.permutation(np.resize(bias, n))


def drawn(case, rng, *, bias=True):
    pair = parameters(int(np.prod(case.parameter_shape)), rng)
    return {key: p.reshape(case.parameter_shape) for key, p in zip(case.takes, pair)}


def relu(y):
    """normc's, which is NumPy's as well: -0 and NaN stay."""
    z = normc.relu(y)
    assert_same_bits(z, np.where(y.astype(float) < 0, np.zeros((), y.dtype), y))
    return z


def added(x, residual):
    with np.errstate(all="ignore"):
        return np.add(x, residual)


def variants(case, rng):
    """Arguments of calls."""
    given = drawn(case, rng)
    where = rng.random(case.shape) < 0.8
    return [{}, given, {"weight": given["weight"], "eps": 0.0}, {**given, "where": where}]


# ---- activation ----------------------------------------------------------------------------------

@dtypes
@every_case
def test_relu_on_every_road(case, dtype, roads, rng):
    for wild, more in itertools.product((False, True), variants(case, rng)):
        x = data(case, rng, dtype, wild)
        expected = relu(case.call(normc, x, **more))
        for _ in roads():
            assert_same_bits(case.call(normc, x, activation="relu", **more), expected)


@dtypes
@every_case
def test_relu_in_every_layout(cpu, case, dtype, rng):
    x, (_, given, _, masked) = data(case, rng, dtype), variants(case, rng)
    for more in (given, masked):
        expected = relu(case.call(normc, x, **more))
        more["activation"] = "relu"
        out = zoo.strided(np.ones(x.shape, dtype))
        for layout in zoo.LAYOUTS:
            z = zoo.in_layout(layout, x)
            assert_same_bits(case.call(normc, z, **more), expected)
            assert_same_bits(case.call(normc, z, out=out, **more), expected)
            if z.flags.writeable and z.dtype.isnative:
                assert case.call(normc, z, out=z, **more) is z
                assert_same_bits(z, expected)


@dtypes
@every_case
def test_relu_within_the_bound(case, dtype, rng):
    x, given = data(case, rng, dtype, wild=False), drawn(case, rng)
    case.check(case.call(normc, x, activation="relu"), x, relu=True)
    where = rng.random(x.shape) < 0.7
    y = case.call(normc, x, activation="relu", where=where, **given)
    case.check(y, x, where=where, relu=True, **given)


def by_channel(x, axis, w, b, mean, var):
    """Of functions with channels: by given statistics, and by a blend of them."""
    var, kinds = abs(var), min(x.ndim, 3)
    mixed = [0.1, 0.7, -1][:kinds], [1.0, 2, 3][:kinds], w, b
    yield lambda **k: normc.batch_norm(x, mean, var, w, b, axis=axis, **k)
    yield lambda **k: normc.batch_norm(x, mean, var, axis=axis, **k)
    if x.ndim > 2:
        yield lambda **k: normc.instance_norm(x, mean, var, w, b, False, axis=axis, **k)
    yield lambda **k: normc.switchable_norm(x, *mixed, mean, var, axis=axis, **k)
    yield lambda **k: normc.switchable_norm(x, *mixed, training=True, axis=axis, **k)


@dtypes
@pytest.mark.parametrize("shape, axis", [((3, 21, 7, 7), 1), ((3, 7, 21), -1), ((19, 21), 1),
                                         ((2, 5, 2100), 1), ((21, 4, 9), 0)])
def test_relu_of_given_and_of_blended_statistics(shape, axis, dtype, roads, rng):
    case = Case("batch_norm", shape, axis)
    for wild in (False, True):
        x, n = data(case, rng, dtype, wild), shape[axis]
        with np.errstate(over="ignore"):
            others = np.array([*parameters(n, rng), *rng.normal(size=(2, n))]).astype(np.float32)
        for call in by_channel(x, axis, *others):
            expected = relu(call())
            for _ in roads():
                assert_same_bits(call(activation="relu"), expected)


@dtypes
@pytest.mark.parametrize("shape, axis", [((6, 90), 1), ((90, 6), 0), ((90, 40), 0)])
def test_relu_of_what_rounds_to_minus_zero(shape, axis, dtype, roads):
    """The results are the weights, with either sign: as they are, or half of the smallest number
    and its neighbours."""
    edge = {"float16": 2.0**-25, "bfloat16": 2.0**-134}.get(np.dtype(dtype).name, 0)
    weight = edge * np.resize([0, 0.5, 1 - 2.0**-10, 1, 1 + 2.0**-10, 2, 3, 2.0**20], 90)
    x = np.ones(shape, dtype)
    x[(slice(None),) * axis + (slice(None, None, 2),)] = -1
    more = {"axis": axis, "eps": 0.0, "bias": np.full(90, -0.0)}
    y = normc.layer_norm(x, weight=weight, **more)
    expected = relu(y)
    assert (np.signbit(expected) & (expected == 0)).any()
    assert edge == 0 or ((y < 0) & (expected == 0)).any()
    for _ in roads():
        assert_same_bits(normc.layer_norm(x, weight=weight, activation="relu", **more), expected)
        z = x.copy()
        normc.layer_norm(z, weight=weight, activation="relu", out=z, **more)
        assert_same_bits(z, expected)


@pytest.mark.parametrize("word, error", [("gelu", ValueError), ("ReLU", ValueError),
                                         ("", ValueError), (b"relu", TypeError), (1, TypeError),
                                         (True, TypeError), (normc.relu, TypeError)])
@pytest.mark.parametrize("norm, more", [
    ("batch_norm", {"training": True}), ("instance_norm", {}), ("layer_norm", {}), ("rms_norm", {}),
    ("group_norm", {"num_groups": 2}),
    ("switchable_norm", {"mean_weight": [1] * 3, "var_weight": [1] * 3, "training": True})])
def test_no_such_activation(norm, more, word, error, rng):
    x, out = rng.normal(size=(2, 4, 3)), np.full((2, 4, 3), 7.0)
    norm = getattr(normc, norm)
    with pytest.raises(error, match="activation must be"):
        norm(x, **more, out=out, activation=word)
    assert (out == 7).all()
    assert_same_bits(norm(x, **more, activation=np.str_("relu")), relu(norm(x, **more)))


@pytest.mark.parametrize("name", ["standardize", "local_response_norm", "relu", "leaky_relu"])
def test_functions_without_activation_or_residual(name):
    for more in ({"activation": "relu"}, {"residual": np.ones((2, 3, 4))}):
        with pytest.raises(TypeError, match="unexpected keyword"):
            getattr(normc, name)(np.ones((2, 3, 4)), *[1][:"local" in name], **more)


# ---- residual ------------------------------------------------------------------------------------

def assert_sum(case, x, residual, expected, **more):
    """The call with a residual is the sum, and the norm of the sum: `expected`, with moments."""
    y, total, m = case.call(normc, x, residual=residual, return_moments=True, **more)
    assert_same_bits(total, added(x, residual).astype(x.dtype.newbyteorder("=")))
    assert_same_bits(y, expected[0])
    for mine, separate in zip((m.count, m.mean, m.m2), expected[1:], strict=True):
        assert_same_bits(mine.astype(float), separate)


def of_sum(case, x, residual, **more):
    """Result and moments of the separate calls, as arrays."""
    y, m = case.call(normc, added(x, residual), return_moments=True, **more)
    return [y, m.count.astype(float), m.mean, m.m2]


@dtypes
@every_sum
def test_residual_on_every_road(case, dtype, roads, rng):
    for wild, more in itertools.product((False, True), variants(case, rng)):
        x, residual = data(case, rng, dtype, wild), data(case, rng, dtype, False)
        more["activation"] = [None, "relu"][wild]
        before, expected = (x.tobytes(), residual.tobytes()), of_sum(case, x, residual, **more)
        for _ in roads():
            assert_sum(case, x, residual, expected, **more)
            assert_sum(case, residual, x, expected, **more)
        assert (x.tobytes(), residual.tobytes()) == before


@dtypes
@pytest.mark.parametrize("case", [Case("layer_norm", (5, 37)), Case("rms_norm", (3, 19, 12), 1),
                                  Case("layer_norm", (3, 4, 5, 3), (1, 3)),
                                  Case("layer_norm", (300, 64))], ids=str)
def test_residual_in_every_pair_of_layouts(cpu, case, dtype, rng):
    x, residual = data(case, rng, dtype), data(case, rng, dtype)
    for given in variants(case, rng)[1::2]:
        expected = of_sum(case, x, residual, **given)
        for one, other in itertools.product(zoo.LAYOUTS, zoo.LAYOUTS):
            assert_sum(case, zoo.in_layout(one, x), zoo.in_layout(other, residual), expected,
                       **given)
        same = zoo.in_layout(one, x)
        assert_sum(case, same, same, of_sum(case, x, x, **given), **given)


def overlaps(x, residual):
    """x, residual and out in one memory, in every way."""
    n = len(x)

    def placed(at_x, at_residual, at_out):
        room = np.zeros((n + 2, *x.shape[1:]), x.dtype)
        at = [None if i is None else room[i:i + n] for i in (at_x, at_residual, at_out)]
        for i, values in enumerate((x, residual)):
            at[i] = values.copy() if at[i] is None else at[i]
            at[i][...] = values
        return at

    yield from (placed(None, None, 1), placed(1, None, 1), placed(None, 1, 1))
    yield from (placed(i, None, 1) for i in (0, 2))
    yield from (placed(None, i, 1) for i in (0, 2))
    same = x.copy()
    yield same, same, np.empty_like(x)
    yield same.copy(), (shared := residual.copy())[::-1][::-1], shared
    yield x.copy(), residual.copy(), zoo.strided(x)
    yield (flipped := x.copy()), residual.copy(), flipped[::-1]
    yield x.copy(), (flipped := residual.copy()), flipped[..., ::-1]
    yield (one := x.copy()), one, one
    rest = zoo.fortran(np.stack([x, residual]))
    yield rest[0], rest[1], rest[1]


@dtypes
@pytest.mark.parametrize("case", [Case("layer_norm", (700, 40)), Case("layer_norm", (6, 9000)),
                                  Case("rms_norm", (5, 19, 12), 1)], ids=str)
def test_residual_with_out(case, dtype, roads, rng):
    for more, _ in itertools.product(variants(case, rng)[:2], roads()):
        values = data(case, rng, dtype, False), data(case, rng, dtype, False)
        for x, residual, out in overlaps(*values):
            total = added(x, residual)
            expected = case.call(normc, total, **more)
            y, got = case.call(normc, x, residual=residual, out=out, **more)
            assert y is out and not np.shares_memory(got, out)
            assert_same_bits(got, total)
            assert_same_bits(out, expected)


@pytest.mark.parametrize("norm", [normc.layer_norm, normc.rms_norm])
def test_residual_of_any_kind(norm):
    y, total = norm([[1, 2, 3]], residual=[[True, False, True]])
    assert y.dtype == total.dtype == np.float64 and total.tolist() == [[2, 2, 4]]
    assert_same_bits(y, norm(np.array([[2.0, 2, 4]])))
    for shape in ((0, 3), (3, 0), (0,)):
        nothing = np.zeros(shape, np.float32)
        y, total, m = norm(nothing, residual=nothing, return_moments=True)
        assert y.shape == total.shape == shape and m.mean.shape == (*shape[:-1], 1)
    y, total = norm(np.float32(3), axis=(), residual=np.float32(4), eps=0.0)
    assert y.shape == total.shape == () and total == 7 and y == (norm is normc.rms_norm)
    assert type(norm(np.ones(3), residual=None)) is np.ndarray


@pytest.mark.parametrize("norm", [normc.layer_norm, normc.rms_norm])
def test_residual_with_masks(norm, rng):
    """Of either array's own, and what they hide is used for nothing but the sum."""
    x, residual = rng.normal(size=(2, 6, 40))
    hidden, also, where = rng.random((3, 6, 40)) < 0.2
    x[hidden], residual[also] = np.nan, np.inf
    kept = ~(hidden | also | where)
    expected = norm(x + residual, where=kept)
    assert np.isfinite(expected).all()
    joined = np.ma.array(x, mask=hidden), np.ma.array(residual, mask=also)
    for y, total in (norm(x, residual=residual, where=kept),
                     norm(joined[0], residual=joined[1], where=~where),
                     norm(x, residual=joined[1], where=~(where | hidden))):
        assert type(y) is type(total) is np.ndarray
        assert_same_bits(y, expected)
        assert_same_bits(total, x + residual)


@pytest.mark.parametrize("norm", [normc.layer_norm, normc.rms_norm])
@pytest.mark.parametrize("residual, error, message", [
    (np.ones((1, 3), np.float32), ValueError, r"residual must have shape \(2, 3\)"),
    (np.ones((3, 2), np.float32), ValueError, r"residual must have shape \(2, 3\)"),
    (np.ones((1, 2, 3), np.float32), ValueError, r"residual must have shape \(2, 3\)"),
    (np.float32(1), ValueError, r"residual must have shape \(2, 3\)"),
    (np.ma.array(np.ones((2, 4), np.float32), mask=np.eye(2, 4)), ValueError, "residual must have"),
    (np.ones((2, 3)), TypeError, "residual must have dtype float32, as x is computed in, but has "
     "float64"),
    (np.ones((2, 3), np.float16), TypeError, "residual must have dtype float32"),
    ([[1, 2, 3]] * 2, TypeError, "residual must have dtype float32"),
    (np.ones((2, 3), complex), TypeError, "residual must have dtype"),
    ("sum", TypeError, "residual"), ({}, TypeError, "residual")])
def test_no_such_residual(norm, residual, error, message):
    x, out = np.ones((2, 3), np.float32), np.full((2, 3), 7, np.float32)
    with pytest.raises(error, match=message):
        norm(x, residual=residual, out=out)
    assert (out == 7).all() and (x == 1).all()


def test_the_reference_knows_both(rng):
    x, residual = rng.normal(size=(2, 5, 9))
    for case in (Case("layer_norm", (5, 9)), Case("rms_norm", (5, 9), 0)):
        y, total, m = case.call(normc.reference, x, residual=residual, activation="relu",
                                return_moments=True)
        case.check(y, x + residual, relu=True)
        assert_same_bits(total, x + residual)
        assert (abs(m.mean - total.mean(case.axis, keepdims=True) * case.centred) < 1e-12).all()
    for case in CASES[:6]:
        x = rng.normal(size=case.shape)
        case.check(case.call(normc.reference, x, activation="relu"), x, relu=True)
