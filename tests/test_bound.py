"""Every result within the published bound (tests/bound.py), on data chosen to break it."""

from fractions import Fraction

import bound
import numpy as np
import pytest
import zoo
from cases import Case, cases_of

import normc
from normc import reference


# ---- data: (groups, n) in float64, rounded to the type under test by the caller ------------------

def normal(mean):
    def data(rng, groups, n, dtype):
        return rng.normal(size=(groups, n)) + mean
    data.__name__ = f"normal_mean_{mean:g}"
    return data


def largest(rng, groups, n, dtype):
    """Close to the end of the type's range: 1e38 for float32."""
    return rng.uniform(-1, 1, (groups, n)) * 0.3 * 2.0 ** min(bound.MAXEXP[bound.name(dtype)], 128)


def subnormal(rng, groups, n, dtype):
    return rng.integers(-1000, 1000, (groups, n)) * bound.TINY[bound.name(dtype)]


def least_normal(rng, groups, n, dtype):
    name = bound.name(dtype)
    return rng.normal(size=(groups, n)) * bound.TINY[name] / bound.UNIT[name]


def outlier(rng, groups, n, dtype):
    x = rng.normal(size=(groups, n)) + 1
    x[np.arange(groups), rng.integers(0, n, groups)] = 0.9 * 2.0 ** min(
        100, bound.MAXEXP[bound.name(dtype)] - 1)
    return x


def two_valued(centre):
    """|x - mean| the same everywhere: every rounding of a square then errs to the same side."""
    def data(rng, groups, n, dtype):
        sign = np.where(np.arange(n) % 2, 1.0, -1.0)
        return centre + sign * rng.uniform(0.5, 1, (groups, 1))
    data.__name__ = f"two_valued_{centre:g}"
    return data


def one_differs(rng, groups, n, dtype):
    """All but one equal, by one ulp: the least variance there is."""
    value = np.array(rng.uniform(1, 2, (groups, 1))).astype(dtype)
    x = np.repeat(value, n, 1)
    x[:, n // 3] += x[:, 0] * np.array(2 * bound.UNIT[bound.name(dtype)], dtype)
    return x


def mixed_scales(rng, groups, n, dtype):
    reach = 4 if bound.name(dtype) == "float16" else 30
    return rng.normal(size=(groups, n)) * 2.0 ** rng.integers(-reach, reach, (groups, n))


KINDS = [normal(0), normal(1), normal(1e3), normal(1e4), normal(1e5), normal(1e7), largest,
         subnormal, least_normal, outlier, two_valued(0), two_valued(1), two_valued(1000),
         two_valued(2e4), one_differs, mixed_scales]


def make(kind, rng, case, dtype):
    """An x for the case, each of its groups drawn by itself."""
    data = kind(rng, *case.members().shape, dtype)
    return case.fill((np.clip(data, -6e4, 6e4) if dtype == np.float16 else data).astype(dtype))


def parameters(case, rng, arithmetic=np.float32):
    """Far from 1 and 0, of both signs, some zero."""
    weight, bias = rng.normal(size=(2, *case.parameter_shape)) * 10.0 ** rng.integers(
        -3, 4, (2, *case.parameter_shape))
    weight.flat[::7] = 0
    bias.flat[::3] = 0
    return weight.astype(arithmetic), bias.astype(arithmetic)


def run(case, x, rng, eps=1e-5, affine=True):
    weight, bias = parameters(case, rng) if affine else (None, None)
    case.check(case.call(normc, x, weight, bias, eps), x, weight, bias, eps)


# ---- the yardstick itself ------------------------------------------------------------------------

@pytest.mark.parametrize("kind", [*KINDS, normal(1e12)], ids=lambda k: k.__name__)
def test_exact_results_are_exact(kind, rng):
    x = kind(rng, 2, 33, np.float64)
    d, mean, var = bound.deviations(x)
    for row, got_d, got_var in zip(x, d, var[:, 0]):
        exact = [Fraction(v) for v in row]
        mu = sum(exact) / len(exact)
        variance = sum((v - mu) ** 2 for v in exact) / len(exact)

        def ratio(a, b):
            high = float(a)
            return Fraction(high) + Fraction(float(a - np.longdouble(high))) - b

        unit = Fraction(2) ** -58
        assert abs(ratio(got_var, variance)) <= unit * variance + Fraction(2) ** -1074
        for v, g in zip(exact, got_d):
            assert abs(ratio(g, v - mu)) ** 2 <= unit**2 * variance + Fraction(2) ** -2148


@pytest.mark.parametrize("kind", [*KINDS, normal(1e12)], ids=lambda k: k.__name__)
def test_reference_within_the_bound_of_float64(kind, rng):
    for case in cases_of(30):
        x = make(kind, rng, case, np.float64)
        weight, bias = parameters(case, rng)
        case.check(case.call(reference, x, weight, bias), x, weight, bias)


# ---- the bound -----------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("n", [2, 3, 5, 16, 33, 128, 1000])
def test_every_norm(n, kind, dtype, rng):
    for case in cases_of(n):
        run(case, make(kind, rng, case, dtype), rng)


LONG = [normal(0), normal(1e3), normal(1e5), normal(1e7), least_normal, outlier, two_valued(0),
        two_valued(1000), one_differs]


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("kind", LONG, ids=lambda k: k.__name__)
def test_every_norm_on_long_groups(kind, dtype, rng):
    for case in cases_of(16 * 521):
        run(case, make(kind, rng, case, dtype), rng)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("kind", [normal(0), normal(1e7), two_valued(0), two_valued(1), outlier,
                                  one_differs], ids=lambda k: k.__name__)
def test_a_million_to_a_mean(kind, dtype, rng):
    n = 10**6
    for case in (Case("layer_norm", (1, n), -1), Case("batch_norm", (1000, 1000, 1), -1)):
        run(case, make(kind, rng, case, dtype), rng)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("positions", [1, 2, 3, 5, 15])
def test_many_short_runs(positions, dtype, rng):
    """Every run starts at the first lane: these must not carry the whole group."""
    for case in (Case("batch_norm", (900, 3, positions)),
                 Case("batch_norm", (900, positions, 9), -1),
                 Case("standardize", (900, 3, positions), (0, 2))):
        for kind in (normal(0), two_valued(1), two_valued(1000)):
            for _ in range(10):
                run(case, make(kind, rng, case, dtype), rng, eps=0, affine=False)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
def test_long_columns(dtype, rng):
    case = Case("layer_norm", (200000, 9), 0)
    for kind in (normal(0), normal(1e5), two_valued(1)):
        run(case, make(kind, rng, case, dtype), rng)


@pytest.mark.parametrize("dtype", zoo.FLOATS)
@pytest.mark.parametrize("n", [256, 4096, 30000])
def test_two_valued_rows_of_many_values(n, dtype, rng):
    """Among many values of |x - mean| are some whose squares and sums all round to one side."""
    for _ in range(4):
        x = two_valued(0)(rng, 2**22 // n // 4, n, dtype).astype(dtype)
        x *= np.array(2.0 ** rng.integers(-30, 30), dtype)
        run(Case("layer_norm", x.shape, -1), x, rng, eps=0, affine=False)


def one_sided(rng, terms, count=2):
    """Of many values those whose equal squares, added one after another, err most.

    Equal terms round alike as their sum grows; for some values nearly all of the roundings go to
    one side, and a sum of L terms is then off by L / 4 units.
    """
    a = rng.uniform(0.5, 1, 20000)
    total = np.zeros_like(a)
    for _ in range(terms):
        total += a * a
    error = total / (terms * bound.widen(a) ** 2) - 1
    return a[np.argsort(error)[[*range(count), *range(-count, 0)]]]


@pytest.mark.parametrize("terms", [8, 64, 256])
def test_float64_sums_of_equal_squares(terms, rng):
    """Lanes of float64 are short. Of +-a all squares are equal; outliers at many deviations turn
    the variance's relative error into as many units of y. Lanes of 64 terms break the bound here,
    longer ones break it more."""
    n = 2**17
    a = one_sided(rng, terms)
    x = a[:, None] * np.where(np.arange(n) % 2, 1.0, -1.0) * 2.0 ** rng.integers(-30, 30)
    for row in x:
        row[rng.choice(n, 4, replace=False)] = abs(row[0]) * rng.uniform(50, 60, 4)
    for case in (Case("layer_norm", (4, n), -1), Case("layer_norm", (n, 4), 0),
                 Case("batch_norm", (n // 16, 4, 16)), Case("rms_norm", (4, n), -1)):
        run(case, case.fill(x), rng, eps=0, affine=False)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
def test_block_edges(dtype, rng):
    """Lengths on both sides of every multiple at which lanes, tiles and blocks end."""
    for n in [15, 17, 31, 63, 65, 127, 129, 255, 256, 257, 511, 513, 4095, 4096, 4097, 8191, 8193]:
        for kind in (normal(3), two_valued(1000)):
            for case in (Case("layer_norm", (3, n), -1), Case("layer_norm", (n, 9), 0),
                         Case("batch_norm", (2, 3, n)), Case("batch_norm", (n, 2, 8), -1)):
                run(case, make(kind, rng, case, dtype), rng)
    for n in (7, 8, 9, 15, 16, 17, 127, 128, 129, 257):
        for case in (Case("layer_norm", (33, n), 0), Case("batch_norm", (5, 3, n), -1)):
            run(case, make(normal(300), rng, case, dtype), rng)


@pytest.mark.parametrize("ratio", [1e8, 1e10, 1e12])
@pytest.mark.parametrize("n", [2, 31, 1000, 16 * 521])
def test_float64_mean_a_million_million_deviations_away(n, ratio, rng):
    for case in cases_of(n):
        run(case, make(normal(ratio), rng, case, np.float64), rng, eps=0)


@pytest.mark.parametrize("scale", [2.0**-1060, 1e-300, 1e-160, 2.0**-452, 2.0**-448, 2.0**497,
                                   2.0**502, 1e160, 1e300])
def test_float64_squares_beyond_its_range(scale, rng):
    """Variances outside it and on both sides of its ends; means of one sign and far away; eps as
    large as the variance; what is excluded is of any size."""
    square = scale * scale if 0 < scale * scale < np.inf else 0.0
    far = 1e12 if scale < 1e290 else 1e6
    for case in cases_of(30):
        for centre, eps in ((0, 0.0), (0, 1e-5), (0, square), (-9, square), (-far, 0.0)):
            x = (rng.normal(size=case.shape) + centre) * scale
            run(case, x, rng, eps=eps)
            where = rng.random(case.shape) < 0.6
            x[~where] = rng.choice([np.nan, -np.inf, 1e308, 0], np.count_nonzero(~where))
            case.check(case.call(normc, x, None, None, eps, where=where), x, eps=eps, where=where)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("n", [30, 1000])
def test_both_ends_of_the_range(n, dtype, rng):
    """Means between the smallest numbers there are; deviations whose reciprocal is subnormal."""
    name = bound.name(dtype)
    near_zero = [150, -150] * (n * 2 // 5) + [1]  # so is the mean, and other elements are 0
    for case in cases_of(n):
        groups = case.members().shape
        small = rng.permuted(np.resize([*near_zero, *[0] * (n - len(near_zero))], groups), axis=1)
        large = np.where(np.arange(n) % 2, 1, -1) * rng.uniform(1, 1.98, (groups[0], 1))
        for data in (small * bound.TINY[name], large * 2.0 ** (bound.MAXEXP[name] - 1)):
            run(case, case.fill(data.astype(dtype)), rng, eps=0)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-40, 1e-12, 0.5, 100.0, 1e30])
@pytest.mark.parametrize("kind", [normal(1), subnormal, largest, two_valued(1), one_differs],
                         ids=lambda k: k.__name__)
def test_eps(kind, eps, dtype, rng):
    for case in cases_of(30):
        run(case, make(kind, rng, case, dtype), rng, eps=eps)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
def test_without_parameters(dtype, rng):
    for case in cases_of(60):
        run(case, make(normal(100), rng, case, dtype), rng, affine=False)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("size", [1e-30, 1e-10, 1e10, 1e30])
def test_weight_and_bias_of_any_size(size, dtype, rng):
    for case in cases_of(30):
        x = make(normal(1), rng, case, dtype)
        for w, b in ((size, 1), (1, size), (size, size), (size, -size)):
            weight = (rng.uniform(1, 2, case.parameter_shape) * w).astype(np.float32)
            bias = (rng.uniform(1, 2, case.parameter_shape) * b).astype(np.float32)
            case.check(case.call(normc, x, weight, bias), x, weight, bias)


@pytest.mark.parametrize("dtype", [*zoo.HALVES, np.float32])
def test_bias_brings_an_overflow_back(cpu, dtype, rng):
    """The product leaves the range from 1.1 deviations on, the sum only from 2.1 on."""
    for case in cases_of(30):
        for deviation in (1, 8) if "bias" in case.takes else ():  # the factor overflows, or not
            x = make(normal(1), rng, case, dtype) * np.array(deviation, dtype)
            weight = np.full(case.parameter_shape, 3e38, np.float32)
            case.check(case.call(normc, x, weight, -weight), x, weight, -weight)


@pytest.mark.parametrize("dtype, size", [(np.float32, 2.0**50), (np.float64, 2.0**300)])
def test_weight_over_deviation_may_be_subnormal(dtype, size, rng):
    """The result is a normal number all the same."""
    for case in cases_of(30):
        x = make(normal(1), rng, case, dtype) * dtype(size)
        weight, bias = np.zeros((2, *case.parameter_shape), dtype)
        weight[...] = rng.uniform(1, 2, case.parameter_shape) * bound.TINY[bound.name(dtype)]
        weight *= dtype(size) * dtype(512)
        case.check(case.call(normc, x, weight, bias), x, weight, bias)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-5, 3.0])
@pytest.mark.parametrize("n", [1, 2, 3, 17, 1000, 5000])
def test_constant_group_gives_exactly_bias(n, eps, dtype, rng):
    largest = np.finfo(np.float32).max if bound.MAXEXP[bound.name(dtype)] >= 128 else 65504
    values = [0, 0.1, -1 / 3, 1e4, -0.7 * float(largest), bound.TINY[bound.name(dtype)]]
    for case in cases_of(n):
        if not case.centred or (n == 1 and case.norm in ("batch_norm", "instance_norm")):
            continue
        groups = len(case.members())
        constants = np.repeat(np.resize(values, groups)[:, None], n, 1).astype(dtype)
        x = case.fill(constants)
        weight, bias = parameters(case, rng)
        weight[...] = np.where(weight == 0, 1e30, weight)
        arithmetic = np.float64 if dtype == np.float64 else np.float32
        y = case.call(normc, x, weight, bias, eps)
        exact = case.along(bias if "bias" in case.takes else None, 0, arithmetic)
        exact = np.broadcast_to(exact, constants.shape).astype(np.float64).astype(dtype)
        assert np.array_equal(case.grouped(y), exact), str(case)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("layout", zoo.LAYOUTS, ids=lambda f: f.__name__)
def test_every_layout(layout, dtype, rng):
    for case in cases_of(12 * 7):
        for kind in (normal(0), normal(1e7), two_valued(1)):
            x = zoo.in_layout(layout, make(kind, rng, case, dtype))
            run(case, x, rng)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("kind", [normal(0), normal(1e7), two_valued(1), one_differs, largest],
                         ids=lambda k: k.__name__)
def test_masks(kind, dtype, rng):
    for n in (12, 1000):
        for case in cases_of(n):
            x = make(kind, rng, case, dtype)
            where = rng.random(case.shape) < 0.6
            x[~where] = rng.choice([np.nan, np.inf, 3], np.count_nonzero(~where)).astype(dtype)
            weight, bias = parameters(case, rng)
            y = case.call(normc, x, weight, bias, where=where)
            case.check(y, x, weight, bias, where=where)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("n", [4090, 5000, 9000])
def test_masks_at_the_ends_of_pieces(n, dtype, rng):
    """Excluded alone: the last element of the row, and of every piece of 4,096."""
    for case in (Case("layer_norm", (3, n), -1), Case("layer_norm", (n, 9), 0),
                 Case("batch_norm", (2, 3, n)), Case("batch_norm", (n, 2, 9), -1)):
        x = make(normal(3), rng, case, dtype)
        where = np.ones(case.shape, bool)
        along = np.moveaxis(where, case.shape.index(n), -1)
        along[..., [-1, *range(4095, n, 4096)]] = False
        x[~where] = np.nan
        case.check(case.call(normc, x, where=where), x, where=where)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("ratio", [0, 1, 1e3, 1e7])
@pytest.mark.parametrize("function", ["batch_norm", "instance_norm"])
def test_given_statistics(function, ratio, dtype, rng):
    for shape, axis in (((4, 5, 33), 1), ((4, 33, 5), -1), ((17, 5), 1)):
        if len(shape) == 2 and function == "instance_norm":
            continue
        case = Case("batch_norm", shape, axis)
        variance = rng.uniform(0.1, 30, 5)
        mean = ratio * np.sqrt(variance)
        along = np.ones(len(shape), int)
        along[axis] = 5
        x = rng.normal(size=shape) * np.sqrt(variance).reshape(along) + mean.reshape(along)
        with np.errstate(over="ignore"):
            x = np.clip(x, -6e4, 6e4).astype(dtype) if dtype == np.float16 else x.astype(dtype)
        weight, bias = parameters(case, rng)
        y = getattr(normc, function)(x, mean, variance, weight, bias, False, 0.1, 0.3, axis=axis)
        arithmetic = np.float64 if dtype == np.float64 else np.float32
        w, b = case.along(weight, 1, arithmetic), case.along(bias, 0, arithmetic)
        m, v = case.along(mean, 0, np.float64), case.along(variance, 0, np.float64)
        sigma = np.sqrt(v + bound.wide(0.3))
        exact = (bound.widen(case.grouped(x)) - m) / sigma * w + b
        allowed = bound.tolerance(dtype, exact, b, w, m, sigma)
        bound.assert_within(case.grouped(y), exact, allowed, dtype)


@pytest.mark.parametrize("dtype, mean, var, weight, bias, expected", [
    (np.float32, 1e39, 1e80, 1, 0, -0.1), (np.float32, -1e39, 1e80, 2, 1, 1.2),
    (np.float64, 7.8e299, 8.6e-301, 0, -0.78, -0.78)])
def test_given_statistics_beyond_the_range(cpu, dtype, mean, var, weight, bias, expected, rng):
    """Of the type, or of the product of deviation and 1 / sigma."""
    for shape, axis in (((4, 5, 33), 1), ((4, 33, 5), -1), ((17, 5), 1)):
        x = rng.normal(size=shape).astype(dtype)
        x.flat[7] = np.nan
        given = [np.full(5, v) for v in (mean, var, weight, bias)]
        y = normc.batch_norm(x, *given, eps=0, axis=axis)
        exact = np.full(shape, expected, bound.wide)
        exact.flat[7] = np.nan
        sigma = np.sqrt(bound.wide(var))
        allowed = bound.tolerance(dtype, exact, bias, weight, mean, sigma)
        bound.assert_within(y, exact, allowed)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
def test_given_mean_at_the_other_end_of_the_range(dtype, rng):
    """The deviation alone would overflow."""
    largest = 2.0 ** (bound.MAXEXP[bound.name(dtype)] - 1)
    x = (rng.uniform(1, 1.9, (4, 5, 33)) * largest).astype(dtype)
    mean, var = -rng.uniform(1, 1.9, 5) * largest, rng.uniform(1, 1.9, 5) * largest
    m, sigma = bound.widen(mean)[:, None], np.sqrt(bound.widen(var))[:, None]
    exact = (bound.widen(x) - m) / sigma
    y = normc.batch_norm(x, mean, var, eps=0)
    bound.assert_within(y, exact, bound.tolerance(dtype, exact, 0, 1, m, sigma))


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("mean", [0, 1, 1e3, 1e7])
@pytest.mark.parametrize("shape, axis", [((5, 4, 3, 7), 1), ((5, 3, 7, 4), -1), ((6, 4), 1),
                                         ((3, 8, 1000), 1), ((5, 4, 1), 1),
                                         ((100_000, 1, 1), 1), ((2, 50_000, 2), 1)])
def test_switchable(shape, axis, mean, correction, dtype, rng):
    """The blend is formed here in extended precision from the formula's own averages."""
    mean = min(mean, 6e4) if bound.name(dtype) == "float16" else mean
    x = (rng.normal(size=shape) * 3 + mean).astype(dtype)
    x64 = np.moveaxis(bound.widen(x), axis, 1)
    n, c = x64.shape[:2]
    centre = bound.wide(np.float64(x64.mean()))
    x64 = x64 - centre  # exact, and what follows then has no large mean to lose anything to
    rows = x64.reshape(n * c, -1)
    p = rows.shape[1]
    _, im, iv = (a.reshape(n, c) if a.shape[1] == 1 else a for a in bound.deviations(rows))
    lm, lv = bound.deviations(im)[1:]
    bm, bv = (a.T for a in bound.deviations(im.T)[1:])
    if x.ndim == 2:
        lv, bv = lv * c / (c - correction), bv * n / (n - correction)
    else:
        iv = iv * p / max(p - correction, 1)
        lv, bv = lv + iv.mean(1, keepdims=True), bv + iv.mean(0, keepdims=True)
    logits = rng.normal(size=(2, 2 if x.ndim == 2 else 3))
    weights = np.exp(logits.astype(bound.wide))
    weights /= weights.sum(1, keepdims=True)
    parts = [(im, iv), (lm, lv), (bm, bv)][-logits.shape[1]:]
    m = sum(w * part[0] for w, part in zip(weights[0], parts))
    v = sum(w * part[1] for w, part in zip(weights[1], parts))
    sigma = np.sqrt(v + bound.wide(1e-5))
    weight, bias = rng.normal(size=(2, c)).astype(np.float32) * 30
    rm, rv = np.full(c, 0.5), np.full(c, 2.0)
    y = normc.switchable_norm(x, *logits, weight, bias, rm, rv, True, 0.3, axis=axis,
                              correction=correction)

    def full(a):
        return np.broadcast_to(a, (n, c)).reshape(n, c, *[1] * (x.ndim - 2))

    w, b = full(bound.widen(weight)), full(bound.widen(bias))
    exact = (x64 - full(m)) / full(sigma) * w + b
    allowed = bound.tolerance(dtype, exact, b, w, full(m) + centre, full(sigma))
    bound.assert_within(np.moveaxis(y, axis, 1), exact, allowed, dtype)
    bm = bm + centre
    off_mean, off_var = bound.statistics(dtype, bm[0], bv[0])
    for got, old, batch, off in ((rm, 0.5, bm[0], off_mean), (rv, 2.0, bv[0], off_var)):
        exact = bound.wide(0.7) * old + bound.wide(0.3) * batch
        bound.assert_within(got, exact, 0.3 * off + 8 * 2.0**-53 * abs(exact))


def check_lrn(x, size, alpha, beta, k, axis=1, window="torch"):
    """Relative error (size + 6) u; the half types round once more."""
    name = bound.name(x.dtype)
    half = name in ("float16", "bfloat16")
    u = bound.wide(bound.UNIT["float32" if half else name])
    y = normc.local_response_norm(x, size, alpha, beta, k, axis=axis, window=window)
    rows = np.moveaxis(bound.widen(x), axis, 0)
    before = size // 2 if window == "torch" else (size - 1) // 2
    total = np.array([(rows[max(c - before, 0):max(c - before + size, 0)]**2).sum(0)
                      for c in range(len(rows))])
    exact = rows / (k + bound.wide(alpha) / size * total) ** bound.wide(beta)
    allowed = (size + 6) * u * abs(exact) + bound.TINY[name]
    if half:
        allowed += bound.ulp(exact, name) * (0.5 + 2.0**-8)
    bound.assert_within(np.moveaxis(y, axis, 0), exact, allowed, x.dtype)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0, 0.6, 2.3, 0.0])
@pytest.mark.parametrize("window", ["torch", "onnx"])
def test_local_response_norm(window, beta, dtype, rng):
    for size in (1, 2, 3, 4, 5, 8, 11):
        for shape, axis in (((2, 7, 3, 5), 1), ((2, 3, 5, 7), -1), ((3, 130, 17), 1)):
            for scale in (1e-3, 1.0, 100.0):
                x = (rng.normal(size=shape) * scale).astype(dtype)
                check_lrn(x, size, 0.3, beta, 2.0, axis, window)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0, 0.9])
@pytest.mark.parametrize("alpha, k", [(1e-4, 1.0), (1e20, 1.0), (1e-20, 1e-10), (2.0, 0.0),
                                      (1e-4, 1e30), (0.0, 3.0)])
def test_local_response_norm_of_any_size(alpha, k, beta, dtype, rng):
    """Squares that leave the type's range, and terms that vanish beside each other."""
    name = bound.name(dtype)
    reach = {"float16": 10, "float64": 900}.get(name, 100)
    for exponent in (-reach, -reach // 2, 0, reach // 2, reach):
        x = rng.uniform(0.5, 1, (2, 9, 35)) * rng.choice([-1, 1], 35) * 2.0**exponent
        check_lrn(x.astype(dtype), 5, alpha, beta, k)


@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0, 0.9])
@pytest.mark.parametrize("size, alpha, k, low, high", [
    (1, 1e-45, 0.0, 1e16, 1e19), (3, 3e-45, 0.0, 1e-20, 1e19), (1, -1.0, 1.0, 0.9998, 0.9999),
    (1, 1.0, -1.0, 1.0001, 1.001), (3, 1.0, -1.0, 10.0, 1e4), (3, 1e-4, -1.0, 1e3, 1e20)])
def test_local_response_norm_that_float32_cannot_carry(cpu, size, alpha, k, low, high, beta, rng):
    """An alpha that float32 rounds, and sums that cancel."""
    for shape, axis in (((2, 9, 35), 1), ((2, 35, 9), -1)):
        x = np.exp(rng.uniform(np.log(low), np.log(high), shape)).astype(np.float32)
        check_lrn(x * rng.choice(np.float32([-1, 1]), shape), size, alpha, beta, k, axis)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
def test_activations(dtype, rng):
    """Slope and product are rounded, once each; positive elements are themselves."""
    x = np.concatenate([rng.normal(size=200), [0, -0.0, np.inf, -np.inf, np.nan, -1e-40, 1e-40]])
    x = x.astype(dtype).reshape(3, 3, 23)
    positive = ~(bound.widen(x) < 0)
    u = bound.UNIT["float64" if dtype == np.float64 else "float32"]
    y = normc.relu(x)
    assert np.array_equal(y, np.where(positive, x, np.zeros_like(x)), equal_nan=True)
    slopes = np.array([0.25, -3.7, 1e-3])
    for slope, y in ((0.01, normc.leaky_relu(x)), (-1.7, normc.leaky_relu(x, -1.7)),
                     (0.3, normc.prelu(x, 0.3)),
                     (slopes[:, None], normc.prelu(x, slopes)),
                     (slopes[:, None, None], normc.prelu(x, slopes, axis=0))):
        exact = np.where(positive, bound.widen(x), bound.widen(x) * bound.widen(slope))
        with np.errstate(invalid="ignore"):
            allowed = bound.ulp(exact, dtype) * (0.5 + 2.0**-8) + 2 * u * abs(exact)
        assert y.dtype == dtype
        bound.assert_within(y, exact, allowed)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
def test_not_finite_stays_in_its_group(dtype, rng):
    for case in cases_of(84):
        data = case.grouped(make(normal(1), rng, case, dtype))
        clean = case.call(normc, case.fill(data))
        for bad in (np.nan, np.inf, -np.inf):
            broken = data.copy()
            broken[1, 17] = bad
            y = case.grouped(case.call(normc, case.fill(broken)))
            assert np.isnan(y[1].astype(np.float64)).all(), str(case)
            others = np.arange(len(data)) != 1
            zoo.assert_same_bits(y[others], case.grouped(clean)[others])
