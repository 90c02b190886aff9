"""The gradients: within their bound, of the same bits however they are called, and torch's."""

import bound
import numpy as np
import pytest
import zoo
from cases import SMALL, Case, cases_of
from hypothesis import given
from hypothesis import strategies as st
from test_bits import STREAMED
from test_bound import KINDS, make, normal, parameters
from zoo import assert_same_bits

import normc
from normc import reference

cases = pytest.mark.parametrize("case", [c for c in SMALL if c.norm != "standardize"], ids=str)
dtypes = pytest.mark.parametrize("dtype", zoo.DTYPES)


def back(case, grad, x, weight=None, eps=1e-5, module=normc, **more):
    """(dx, dweight) and, but for rms_norm, dbias."""
    function = getattr(module, f"{case.norm}_backward")
    more = {"weight": weight, "eps": eps, "axis": case.axis, **more}
    return function(grad, x, case.num_groups, **more) if case.norm == "group_norm" else function(
        grad, x, **more)


def check(case, grad, x, weight=None, eps=1e-5, where=None):
    """dx within the bound; the parameters' gradients within 4u of the sum of magnitudes.

    An xhat next to the mean is good to a part of u, not of itself: float64 sums have u / 2 of the
    sum of |grad| for that; of floats they are made in double.
    """
    dx, *others = back(case, grad, x, weight, eps, where=where)
    arithmetic = np.float64 if bound.name(x.dtype) == "float64" else np.float32
    w = case.along(weight, 1, arithmetic)
    mask = None if where is None else case.grouped(where)
    d, mean, var = bound.deviations(case.grouped(x), mask, case.centred)
    sigma = np.sqrt(var + bound.wide(eps))
    g = case.grouped(np.asarray(grad).astype(np.float64).astype(arithmetic))
    exact, allowed, terms = bound.gradient(x.dtype, g, w, d, sigma, mask, case.centred)
    # what the statistics themselves may be off: the forward's bound has the same term
    flat = 2.0**-46 if arithmetic is np.float32 else 8 * bound.UNIT["float64"]
    off = flat * abs(mean) * bound.reciprocal(sigma) * (0 if arithmetic is np.float64 else 1)
    rstd = bound.reciprocal(sigma)
    spread = abs(bound.widen(g) * w).mean(1, keepdims=True)
    allowed = allowed + off * rstd * spread * (1 + abs(d) * rstd)
    assert dx.dtype == x.dtype and dx.shape == x.shape
    bound.assert_within(case.grouped(dx), exact, allowed, x.dtype)
    places = np.broadcast_to(np.expand_dims(
        np.arange(np.prod(case.parameter_shape, dtype=int)).reshape(case.parameter_shape),
        [i for i in range(x.ndim) if i not in case.axes]), x.shape)
    places = case.grouped(places)
    g = bound.widen(g) if mask is None else np.where(mask, bound.widen(g), 0)
    near = bound.UNIT["float64"] / 2 if arithmetic is np.float64 else 2.0**-42
    for got, part, slack in zip(others, (terms, g), (off + near, 0)):
        want, size, loose = (np.zeros(case.parameter_shape, bound.wide).ravel() for _ in range(3))
        np.add.at(want, places, part)
        np.add.at(size, places, abs(part))
        np.add.at(loose, places, abs(g) * slack)
        unit = bound.UNIT[bound.name(got.dtype)]
        tolerance = 4 * bound.UNIT[np.dtype(arithmetic).name] * size + unit * abs(want) + loose
        assert got.shape == case.parameter_shape
        bound.assert_within(got.ravel(), want, tolerance + bound.TINY[bound.name(got.dtype)])


def draw(case, rng, kind, dtype, scale=1.0):
    x = make(kind, rng, case, dtype)
    return (rng.normal(size=x.shape) * scale + 0.3).astype(dtype), x, parameters(case, rng)[0]


# ---- the bound -----------------------------------------------------------------------------------

NORMS = ("batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm")
GRADED = [c for n in (3, 33, 150, 400) for c in cases_of(n) if c.norm in NORMS]


@dtypes
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_bound(kind, dtype, rng):
    for case in GRADED[::3]:
        grad, x, weight = draw(case, rng, kind, dtype)
        check(case, grad, x, weight)


@pytest.mark.parametrize("case", GRADED, ids=str)
def test_bound_of_every_order_of_axes(case, rng, cpu):
    for dtype in (np.float32, np.float64):
        for eps in (0.0, 1e-5, 1e3):
            grad, x, weight = draw(case, rng, normal(3), dtype, 10.0)
            check(case, grad, x, weight, eps)
            check(case, grad, x, None, eps)


@pytest.mark.parametrize("n", [4095, 4097, 70000])
def test_bound_of_long_groups(n, rng):
    for case in (Case("layer_norm", (3, n), -1), Case("layer_norm", (n, 3), 0),
                 Case("batch_norm", (n, 3)), Case("rms_norm", (2, n), -1),
                 Case("layer_norm", (n, 5), -1)):
        for dtype, mean in ((np.float32, 1e6), (np.float64, 1e12), (np.float16, 1)):
            check(case, *draw(case, rng, normal(mean), dtype))


@cases
@dtypes
def test_bound_with_a_mask(case, dtype, rng):
    grad, x, weight = draw(case, rng, normal(5), dtype)
    where = rng.random(x.shape) < 0.6
    where.reshape(-1)[case.members()[0]] = False  # a group that has none
    clean = grad.copy(), x.copy()
    clean[0][~where], clean[1][~where] = 0, 1
    grad[~where], x[~where] = np.nan, np.inf
    check(case, *clean, weight, where=where)
    assert_all_same(back(case, grad, x, weight, where=where),
                    back(case, *clean, weight, where=where))


@given(st.integers(1, 70), st.integers(1, 9), st.integers(-20, 20), st.integers(0, 2**32))
def test_bound_of_any_shape(n, groups, power, seed):
    rng = np.random.default_rng(seed)
    for case in (Case("layer_norm", (groups, n), -1), Case("rms_norm", (n, groups), 0),
                 Case("group_norm", (2, 2 * groups, n), 1, groups), Case("batch_norm", (n + 1, 3))):
        x = (rng.normal(size=case.shape) + rng.normal() * 100) * 2.0**power
        check(case, rng.normal(size=case.shape).astype(np.float32), x.astype(np.float32),
              rng.normal(size=case.parameter_shape), 0.0)


# ---- bits ----------------------------------------------------------------------------------------

def untouched(case, grad, x, weight):
    """The results, of inputs that nothing could write to."""
    grad, x = grad.copy(), x.copy()
    grad.flags.writeable = x.flags.writeable = False
    return back(case, grad, x, weight)


def assert_all_same(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert_same_bits(a, b)


LARGE = [Case("layer_norm", (9, 30, 17), -1), Case("rms_norm", (30, 9, 7, 5), 2),
         Case("layer_norm", (3, 5, 7, 11), (1, 3)), Case("batch_norm", (9, 40, 30))]


@pytest.mark.parametrize("case", [c for c in SMALL if c.norm != "standardize"] + LARGE, ids=str)
@dtypes
@pytest.mark.parametrize("layout", zoo.LAYOUTS, ids=lambda f: f.__name__)
def test_layouts(case, dtype, layout, rng, cpu):
    grad, x, weight = draw(case, rng, normal(1), dtype)
    plain = untouched(case, grad, x, weight)
    assert_all_same(back(case, zoo.in_layout(layout, grad), x, weight), plain)
    assert_all_same(back(case, grad, zoo.in_layout(layout, x), weight), plain)
    both = back(case, zoo.in_layout(layout, grad), zoo.in_layout(layout, x), weight)
    assert_all_same(both, plain)
    assert both[0].strides == np.empty_like(zoo.in_layout(layout, x)).strides


@cases
@dtypes
def test_moments_masks_weights_and_sets_of_instructions(case, dtype, rng):
    grad, x, weight = draw(case, rng, normal(300), dtype)
    plain = untouched(case, grad, x, weight)
    _, moments = case.call(normc, x, weight, return_moments=True)
    assert_all_same(back(case, grad, x, weight, moments=moments), plain)
    assert_all_same(back(case, grad, x, weight, where=np.ones(x.shape, bool)), plain)
    ones = np.ones(weight.shape, np.float64 if dtype == np.float64 else np.float32)
    assert_all_same(back(case, grad, x, where=True), back(case, grad, x, ones))
    before = normc._core._use_cpu("baseline")
    try:
        assert_all_same(back(case, grad, x, weight), plain)
    finally:
        normc._core._use_cpu(before)


@pytest.mark.parametrize("dtype", zoo.FLOATS)
@pytest.mark.parametrize("case", STREAMED, ids=str)
def test_past_the_caches(cpu, case, dtype, rng):
    """dx is written past them; with a mask, by way of scratch, it is not."""
    x, grad = rng.normal(size=(2, *case.shape)).astype(dtype)
    weight = rng.normal(size=case.parameter_shape)
    assert_all_same(back(case, grad, x, weight), back(case, grad, x, weight, where=True))


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("shape, axis", [((2, 7, 7, 64), -1), ((3, 5, 9, 12), -1),
                                         ((2, 32, 7, 7), 1), ((2, 6, 50), 1), ((100, 8), 1),
                                         ((40, 33), 1)], ids=str)
def test_a_gradient_that_is_broadcast(cpu, shape, axis, dtype, rng):
    """As that of a sum or a mean is: it does not move along some axes, or all."""
    x = rng.normal(size=shape).astype(dtype)
    channels = shape[axis]
    weight, statistics = rng.normal(size=(2, channels)).astype(np.float32)
    calls = [lambda g: normc.batch_norm_backward(g, x, weight, axis=axis),
             lambda g: normc.batch_norm_backward(g, x, weight, axis=axis, running_mean=statistics,
                                                 running_var=statistics**2),
             lambda g: normc.layer_norm_backward(g, x, axis=axis, weight=weight.astype(dtype)),
             lambda g: normc.layer_norm_backward(g, x, axis=axis)]
    if len(shape) > 2:
        calls += [lambda g: normc.instance_norm_backward(g, x, weight, axis=axis),
                  lambda g: normc.group_norm_backward(g, x, 2, weight, axis=axis)]
    for moves in np.ndindex((2,) * len(shape)):
        small = rng.normal(size=np.where(moves, shape, 1)).astype(dtype)
        grad = np.broadcast_to(small, shape)
        for call in calls:
            assert_all_same(call(grad), call(grad.copy()))


@cases
@dtypes
@pytest.mark.parametrize("other", zoo.DTYPES)
def test_a_gradient_of_any_type_computes_in_that_of_x(case, dtype, other, rng):
    grad, x, weight = draw(case, rng, normal(1), dtype)
    arithmetic = np.float64 if dtype == np.float64 else np.float32
    grad = grad.astype(other)
    assert_all_same(back(case, grad, x, weight),
                    back(case, grad.astype(np.float64).astype(arithmetic), x, weight))


@pytest.mark.parametrize("case", [Case("layer_norm", (9, 37), -1), Case("rms_norm", (9, 37), -1),
                                  Case("instance_norm", (9, 5, 7)),
                                  Case("group_norm", (9, 6, 7), 1, 3)], ids=str)
@dtypes
def test_neighbours_in_the_batch_change_nothing(case, dtype, rng):
    grad, x, weight = draw(case, rng, normal(1), dtype)
    dx = back(case, grad, x, weight)[0]
    x[3].flat[0] = np.nan
    for i in (0, 4, 8):
        one = slice(i, i + 1)
        assert_same_bits(back(case, grad[one], x[one], weight)[0], dx[one])
        assert_same_bits(back(case, grad, x, weight)[0][one], dx[one])
    spoilt = back(case, grad, x, weight)[0][3]
    assert np.isnan(spoilt.astype(float)).any()


# ---- against readable NumPy, and by differences --------------------------------------------------

def agree(ours, theirs):
    for a, b in zip(ours if isinstance(ours, tuple) else (ours,),
                    theirs if isinstance(theirs, tuple) else (theirs,), strict=True):
        a, b = np.asarray(a, float), np.asarray(b, float)
        assert a.shape == b.shape
        assert abs(a - b).max(initial=0) <= 1e-12 * (1 + abs(b).max(initial=0))


CHANNELS = [((5, 6), 1), ((6, 5), 0), ((3, 6, 4), 1), ((6, 3, 4), 0), ((3, 4, 6), -1),
            ((2, 3, 6, 4), 2)]
channels = pytest.mark.parametrize("shape, axis", CHANNELS, ids=str)


@channels
@pytest.mark.parametrize("masked", [False, True])
def test_given_statistics(shape, axis, masked, rng):
    x, grad = rng.normal(size=(2, *shape)) * 3 + 1
    where = rng.random(shape) < 0.6 if masked else None
    mean, var, weight = rng.normal(size=6), rng.uniform(0.1, 2, 6), rng.normal(size=6)
    more = dict(eps=0.1, axis=axis, running_mean=mean, running_var=var, where=where)
    for name in ("batch_norm_backward", "instance_norm_backward"):
        for w in (weight, None):
            agree(getattr(normc, name)(grad, x, w, **more),
                  getattr(reference, name)(grad, x, w, **more))
    x[0] = np.inf  # which has no say in dx
    assert np.isfinite(normc.batch_norm_backward(grad, x, weight, **more)[0]).all()


@channels
@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("fixed", [False, True])
def test_switchable_norm(shape, axis, correction, fixed, rng):
    x, grad = rng.normal(size=(2, *shape)) * 3 + 1
    logits = rng.normal(size=(2, 2 if x.ndim == 2 else 3))
    more = dict(eps=0.1, axis=axis, correction=correction)
    if fixed:
        more.update(running_mean=rng.normal(size=6), running_var=rng.uniform(1, 2, 6))
    weight = rng.normal(size=6)
    theirs = reference.switchable_norm_backward(grad, x, *logits, weight, **more)
    ours = normc.switchable_norm_backward(grad, x, *logits, weight, **more)
    agree(ours, theirs)
    _, m = normc.switchable_norm(x, *logits, eps=0.1, axis=axis, correction=correction,
                                 training=True, return_moments=True)
    assert_all_same(normc.switchable_norm_backward(grad, x, *logits, weight, moments=m, **more),
                    ours)
    for scale in (2.0**600, 2.0**-600):  # squares leave double's range
        if not fixed:
            far = dict(more, eps=0.0)
            big = normc.switchable_norm_backward(grad, x * scale, *logits, weight, **far)
            near = reference.switchable_norm_backward(grad, x, *logits, weight, **far)
            agree((big[0] * scale, *big[1:]), near)


@channels
@pytest.mark.parametrize("window", ["torch", "onnx"])
def test_the_others(shape, axis, window, rng):
    x, grad = rng.normal(size=(2, *shape))
    slopes = rng.normal(size=6)
    if x.ndim > 2:
        for size in (1, 2, 5, 13):
            for beta in (0.5, 0.75, 1.0, 0.6, -1.5):
                args = grad, x, size, 0.3, beta, 2.0
                agree(normc.local_response_norm_backward(*args, axis=axis, window=window),
                      reference.local_response_norm_backward(*args, axis=axis, window=window))
    x.flat[:3] = 0.0, -0.0, np.nan
    nan_aside = np.nan_to_num(x)
    agree(normc.relu_backward(grad, x), reference.relu_backward(grad, x))
    agree(normc.leaky_relu_backward(grad, x, -2), reference.leaky_relu_backward(grad, x, -2))
    agree(normc.prelu_backward(grad, nan_aside, slopes, axis=axis),
          reference.prelu_backward(grad, nan_aside, slopes, axis=axis))
    for one in (0.3, [0.3], np.array(0.25)):
        agree(normc.prelu_backward(grad, nan_aside, one),
              reference.prelu_backward(grad, nan_aside, one))


@dtypes
@pytest.mark.parametrize("layout", zoo.LAYOUTS, ids=lambda f: f.__name__)
def test_layouts_of_the_others(dtype, layout, rng, cpu):
    x, grad = (rng.normal(size=(2, 3, 21, 4, 5)) * 2).astype(dtype)
    calls = [lambda g, x: normc.local_response_norm_backward(g, x, 5, 0.5),
             lambda g, x: normc.local_response_norm_backward(g, x, 4, 0.5, 0.6),
             lambda g, x: normc.switchable_norm_backward(g, x, [1, 2, 3], [3, 2, 1], np.arange(21)),
             normc.relu_backward, normc.leaky_relu_backward,
             lambda g, x: normc.prelu_backward(g, x, np.arange(21) / 9),
             lambda g, x: normc.prelu_backward(g, x, 0.25)]
    for call in calls:
        plain = call(grad, x)
        plain = plain if isinstance(plain, tuple) else (plain,)
        for g, a in ((zoo.in_layout(layout, grad), x), (grad, zoo.in_layout(layout, x))):
            got = call(g, a)
            assert_all_same(got if isinstance(got, tuple) else (got,), plain)


def differences(f, a, grad, rng):
    """The derivative of sum(grad * f(a)) along a random direction, by central differences."""
    direction, step = rng.normal(size=np.shape(a)), 1e-5
    sides = [(grad * f(a + sign * step * direction)).sum() for sign in (1, -1)]
    return direction, (sides[0] - sides[1]) / (2 * step)


def test_finite_differences(rng):
    x, grad = rng.normal(size=(2, 3, 6, 5)) * 2
    w, b = rng.normal(size=(2, 6))
    mean_logits, var_logits = rng.normal(size=(2, 3))
    lw, lb = rng.normal(size=(2, 6, 5))
    table = [
        (normc.batch_norm_backward(grad, x, w),
         [(lambda a: normc.batch_norm(a, None, None, w, b, True), x),
          (lambda a: normc.batch_norm(x, None, None, a, b, True), w),
          (lambda a: normc.batch_norm(x, None, None, w, a, True), b)]),
        (normc.instance_norm_backward(grad, x, w),
         [(lambda a: normc.instance_norm(a, None, None, w, b), x),
          (lambda a: normc.instance_norm(x, None, None, a, b), w)]),
        (normc.group_norm_backward(grad, x, 2, w),
         [(lambda a: normc.group_norm(a, 2, w, b), x),
          (lambda a: normc.group_norm(x, 2, a, b), w)]),
        (normc.layer_norm_backward(grad, x, (6, 5), lw),
         [(lambda a: normc.layer_norm(a, (6, 5), lw, lb), x),
          (lambda a: normc.layer_norm(x, (6, 5), a, lb), lw)]),
        (normc.rms_norm_backward(grad, x, (6, 5), lw),
         [(lambda a: normc.rms_norm(a, (6, 5), lw), x),
          (lambda a: normc.rms_norm(x, (6, 5), a), lw)]),
        (normc.switchable_norm_backward(grad, x, mean_logits, var_logits, w, correction=1),
         [(lambda a: normc.switchable_norm(a, mean_logits, var_logits, w, training=True,
                                           correction=1), x),
          (lambda a: normc.switchable_norm(x, a, var_logits, w, training=True, correction=1),
           mean_logits),
          (lambda a: normc.switchable_norm(x, mean_logits, a, w, training=True, correction=1),
           var_logits)]),
        ((normc.local_response_norm_backward(grad, x, 3, 2.0),),
         [(lambda a: normc.local_response_norm(a, 3, 2.0), x)]),
        (normc.prelu_backward(grad, x, w),
         [(lambda a: normc.prelu(a, w), x), (lambda a: normc.prelu(x, a), w)]),
    ]
    for gradients, functions in table:
        for gradient, (f, a) in zip(gradients, functions):
            direction, expected = differences(f, a, grad, rng)
            assert (gradient * direction).sum() == pytest.approx(expected, rel=1e-6, abs=1e-6)


# ---- where the arithmetic type does not carry it -------------------------------------------------

FAR = [(np.float64, 505), (np.float64, -505), (np.float32, 110), (np.float32, -70)]
far = pytest.mark.parametrize("dtype, power", FAR, ids=str)


def same_but_for_scale(got, near, scale, dtype):
    """dx is inversely as large as x; the others do not know."""
    u = 2.0**-46 if dtype == np.float64 else 2.0**-20
    for a, b in zip((got[0] * scale, *got[1:]), near, strict=True):
        assert (abs(a - b) <= u * (1 + abs(b).max())).all()


@cases
@far
@pytest.mark.parametrize("masked", [False, True])
def test_scaled(case, dtype, power, masked, rng):
    """The exact road, beside the fast one, with eps and masks."""
    scale = 2.0**power
    grad, x, weight = draw(case, rng, normal(1), dtype)
    where = rng.random(x.shape) < 0.7 if masked else None
    near = back(case, grad, x, weight, 0.1, where=where)
    got = back(case, grad, (x * scale).astype(dtype), weight, 0.1 * scale * scale, where=where)
    same_but_for_scale([a.astype(float) for a in got], near, scale, dtype)


@far
@pytest.mark.parametrize("name", ["batch_norm_backward", "instance_norm_backward",
                                  "switchable_norm_backward"])
def test_scaled_with_fixed_statistics(name, dtype, power, rng):
    scale, function = 2.0**power, getattr(normc, name)
    x, grad = rng.normal(size=(2, 3, 6, 5)).astype(dtype)
    mean, var = rng.normal(size=6), rng.uniform(1, 2, 6)
    logits = ([1, 2, 3], [3, 1, 2]) if name.startswith("switch") else ()
    results = [function(grad, (x * s).astype(dtype), *logits, mean, eps=0.1 * s * s,
                        running_mean=mean * s, running_var=var * s * s) for s in (1, scale)]
    same_but_for_scale([np.asarray(a, float) for a in results[1]], results[0], scale, dtype)


def test_scaled_groups_of_many_channels(rng):
    """In time that grows with the elements alone."""
    x, grad = rng.normal(size=(2, 1, 2048, 16))
    near = normc.group_norm_backward(grad, x, 1, eps=0)
    same_but_for_scale(normc.group_norm_backward(grad, x * 2.0**520, 1, eps=0), near, 2.0**520,
                       np.float64)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("cols", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_products_that_overflow(masked, cols, paired, rng):
    """grad * weight leaves float's range, dx does not; and no other group takes notice. Of pairs
    that cancel the means stay in range, too, and dx alone tells."""
    x, grad = rng.normal(size=(2, 40, 24)).astype(np.float32)
    if paired:
        x[7, 1::2], grad[7, 1::2] = x[7, ::2], -grad[7, ::2]
    grad[7], x[7] = grad[7] * np.float32(1e30), x[7] * np.float32(1e12)
    where = rng.random(x.shape) < 0.8

    def dx(grad, x, where):
        turned = [a.T if cols else a for a in (grad, x, where)]
        turned[2] = turned[2] if masked else None
        dx = normc.layer_norm_backward(*turned[:2], None, np.full(24, 1e10), 0.0,
                                       axis=int(not cols), where=turned[2])[0]
        return dx.T if cols else dx

    got, wide = dx(grad, x, where), dx(grad.astype(float), x.astype(float), where)
    assert np.isfinite(got).all()
    assert abs(got[7] - wide[7]).max() < 1e-5 * abs(wide[7]).max()
    for part in (slice(0, 7), slice(7, 8), slice(8, 40)):
        assert_same_bits(got[part], dx(grad[part], x[part], where[part]))


def test_products_that_overflow_with_fixed_statistics():
    x = np.array([[1.0, 2], [-1, 1]], np.float32) * np.float32(1e10)
    grad = np.array([[1e30, 1], [-1e30, 2]], np.float32)
    dx, *_ = normc.batch_norm_backward(grad, x, [1e10, 1], eps=0, running_mean=np.zeros(2),
                                       running_var=np.full(2, 1e20))
    assert np.allclose(dx[:, 0].astype(float), [1e30, -1e30], rtol=1e-6)
    assert np.allclose(dx[:, 1].astype(float), [1e-10, 2e-10], rtol=1e-6)


@pytest.mark.parametrize("layer", ["layer_norm_backward", "instance_norm_backward"])
def test_constant_groups_far_from_zero(layer):
    grad, x = np.array([[[1.0, 2, 3, 4]]]), np.full((1, 1, 4), 1.5e308)
    dx = getattr(normc, layer)(grad, x, eps=1e-5)[0]
    assert np.allclose(dx, (grad - 2.5) / np.sqrt(1e-5), rtol=1e-12)
    assert (normc.layer_norm(x, eps=1e-5) == 0).all()


@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0, 0.6])
@pytest.mark.parametrize("power", [-430, 430])
def test_responses_far_from_one(power, beta, rng):
    """With k = 0, dx is as (scale of x)^(-2 beta)."""
    x, grad = rng.normal(size=(2, 2, 9, 3))
    near = normc.local_response_norm_backward(grad, x, 3, 1.0, beta, 0.0)
    got = normc.local_response_norm_backward(grad, x * 2.0**power, 3, 1.0, beta, 0.0)
    back = np.exp2(2 * beta * power / 4)
    for _ in range(4):
        got = got * back
    assert np.allclose(got, near, rtol=1e-11, atol=1e-12)


def test_what_a_mask_leaves_of_a_group_of_nan():
    x = np.array([[np.nan, 1.0, 2.0, 4.0], [3.0, 1.0, 4.0, 1.0]])
    grad = np.array([[1.0, 2.0, 3.0, 4.0], [1.0, -1.0, 2.0, 1.5]])
    where = np.ones((2, 4), bool)
    where[0, 3] = False
    for dtype in (np.float32, np.float64):
        dx, dweight, dbias = normc.layer_norm_backward(grad, x.astype(dtype), where=where)
        _, alone, _ = normc.layer_norm_backward(grad[1:], x[1:].astype(dtype))
        assert np.isnan(dweight[:3]).all() and dweight[3] == alone[3]
        assert np.isnan(dx[0, :3]).all() and dx[0, 3] == 0 and np.isfinite(dx[1]).all()


# ---- edges ---------------------------------------------------------------------------------------

def test_nothing_to_do():
    for shape in ((0, 3, 4), (2, 3, 0), (2, 0, 4)):
        x = np.zeros(shape, np.float32)
        for dx, dweight, dbias in (normc.batch_norm_backward(x, x, axis=1),
                                   normc.instance_norm_backward(x, x),
                                   normc.group_norm_backward(x, x, 1),
                                   normc.layer_norm_backward(x, x, axis=1)):
            assert dx.shape == shape and dx.dtype == np.float32
            assert dweight.shape == dbias.shape == (shape[1],)
            assert not dweight.any() and not dbias.any()
        assert not normc.prelu_backward(x, x, 0.5)[1].any()
        assert normc.local_response_norm_backward(x, x, 3).shape == shape


def test_one_element_and_equal_elements():
    grad = np.array([[1.0, -2.0, 5.0]])
    for x in (np.full((1, 3), 7.0), np.full((1, 3), 7.0, np.float16)):
        dx, dweight, dbias = normc.layer_norm_backward(grad, x, eps=0)
        assert not dx.any() and not dweight.any() and (dbias == grad[0]).all()
    dx, dweight, dbias = normc.layer_norm_backward(grad.T, grad.T * 3)
    assert not dx.any() and not dweight.any() and dbias == 4
    dx, dweight, dbias = normc.layer_norm_backward(np.array(2.0)[None], np.array(3.0)[None])
    assert dx == 0 and dweight == 0 and dbias == 2


@dtypes
def test_not_finite(dtype, rng):
    x, grad = rng.normal(size=(2, 4, 6, 5)).astype(dtype)
    case = Case("group_norm", x.shape, 1, 2)
    clean = back(case, grad, x)[0]
    for bad in (np.nan, np.inf):
        for a in (x, grad):
            kept = a[1, 4, 2]
            a[1, 4, 2] = bad
            dx = back(case, grad, x)[0]
            a[1, 4, 2] = kept
            assert np.isnan(dx[1, 3:].astype(float)).all()
            dx[1, 3:] = clean[1, 3:]
            assert_same_bits(dx, clean)


def test_sums_of_parts(rng):
    x, grad = rng.normal(size=(2, 40, 6)).astype(np.float32)
    whole = normc.layer_norm_backward(grad, x)
    halves = [normc.layer_norm_backward(grad[s], x[s]) for s in (slice(0, 20), slice(20, 40))]
    for a, b, c in zip(whole[1:], halves[0][1:], halves[1][1:]):
        assert np.allclose(a, b + c, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("parameter", zoo.DTYPES)
@dtypes
def test_types_and_shapes_of_results(dtype, parameter, rng):
    x = rng.normal(size=(4, 6)).astype(dtype)
    weight = np.ones((1, 6))[0].astype(parameter)
    if weight.dtype.kind == "f":
        weight = weight.astype(weight.dtype.newbyteorder())
    dx, dweight, dbias = normc.layer_norm_backward(x, x, 6, weight)
    assert dx.dtype == x.dtype and dweight.dtype == dbias.dtype == np.dtype(parameter)
    assert dweight.dtype.isnative
    dx, dweight, dbias = normc.batch_norm_backward(x, x)
    assert dweight.dtype == dbias.dtype == (np.float64 if dtype == np.float64 else np.float32)
    dx, *_ = normc.batch_norm_backward([[1, 0], [0, 1]], [[1, 2], [3, 4]])
    assert dx.dtype == np.float64


# ---- moments -------------------------------------------------------------------------------------

def test_moments_in_any_order(rng):
    x, grad = rng.normal(size=(2, 5, 4, 3))
    plain = normc.layer_norm_backward(grad, x, axis=1)
    m = normc.moments(x.transpose(2, 1, 0).copy(), 1)
    turned = normc.Moments(m.count.T, m.mean.T, m.m2.T, mean_lo=m.mean_lo.T)
    assert turned == normc.moments(x, 1)
    assert_all_same(normc.layer_norm_backward(grad, x, axis=1, moments=turned), plain)
    for dtype in (np.float32, np.float16):
        narrow = normc.moments(x, 1)
        narrow.mean, narrow.m2, narrow.mean_lo = (
            a.astype(dtype) for a in (narrow.mean, narrow.m2, narrow.mean_lo))
        for a, b in zip(normc.layer_norm_backward(grad, x, axis=1, moments=narrow), plain):
            assert abs(a - b).max() < 0.05 * abs(b).max()


def test_moments_of_something_else(rng):
    x = rng.normal(size=(6, 4))
    for m, mask in ((normc.moments(x, 0) + normc.moments(x, 0), None),
                    (normc.moments(x[:5], 0), None),
                    (normc.moments(x, 0) + normc.moments(x, 0), np.ones((6, 4), bool))):
        with pytest.raises(ValueError, match="moments must be of this x"):
            normc.batch_norm_backward(x, x, moments=m, where=mask)
    m = normc.moments(x, 0)
    with pytest.raises(ValueError, match="m2 must not be negative"):
        normc.Moments(m.count, m.mean, -m.m2)
    for name, junk in (("m2", -m.m2), ("mean", m.mean + 1j), ("mean", m.mean.astype(str)),
                       ("mean", m.mean.astype(object)), ("count", m.count * 1.0),
                       ("mean_lo", m.mean_lo[0]), ("m2", None)):
        spoiled = normc.moments(x, 0)
        setattr(spoiled, name, junk)
        with pytest.raises((TypeError, ValueError), match=name):
            normc.batch_norm_backward(x, x, moments=spoiled)


# ---- errors --------------------------------------------------------------------------------------

X = np.arange(24.0).reshape(2, 3, 4)
M = normc.moments(X, 2)
BAD = [
    (lambda: normc.layer_norm_backward(X[:1], X), ValueError, "grad must have shape"),
    (lambda: normc.relu_backward(X.T, X), ValueError, "grad must have shape"),
    (lambda: normc.layer_norm_backward(X * 1j, X), TypeError, "grad must have dtype"),
    (lambda: normc.layer_norm_backward(None, X), TypeError, "grad"),
    (lambda: normc.layer_norm_backward(X, X, moments=3), TypeError, "moments must be Moments"),
    (lambda: normc.layer_norm_backward(X, X, moments=normc.moments(X, 1)), ValueError,
     "moments must have shape"),
    (lambda: normc.batch_norm_backward(X, X, moments=M), ValueError, "moments must have shape"),
    (lambda: normc.rms_norm_backward(X, X, moments=M), ValueError, "moments must be about zero"),
    (lambda: normc.instance_norm_backward(X, X, moments=M, running_mean=np.zeros(3),
                                          running_var=np.ones(3)), ValueError,
     "moments and running statistics"),
    (lambda: normc.batch_norm_backward(X, X, running_mean=np.zeros(3)), ValueError, "both be None"),
    (lambda: normc.batch_norm_backward(X, X, running_mean=np.zeros(2), running_var=np.ones(3)),
     ValueError, "running_mean"),
    (lambda: normc.batch_norm_backward(X, X, np.ones(4)), ValueError, "weight"),
    (lambda: normc.layer_norm_backward(X, X, 4, eps=-1.0), ValueError, "eps must be non-negative"),
    (lambda: normc.layer_norm_backward(X, X, (3, 5)), ValueError, "normalized_shape"),
    (lambda: normc.layer_norm_backward(X, X, where=np.ones(5, bool)), ValueError, "where"),
    (lambda: normc.group_norm_backward(X, X, 2), ValueError, "num_groups"),
    (lambda: normc.group_norm_backward(X, X), TypeError, "num_groups"),
    (lambda: normc.layer_norm_backward(X), TypeError, "'x'"),
    (lambda: normc.layer_norm_backward(X, x=X), TypeError, "'x' as a positional argument only"),
    (lambda: normc.layer_norm_backward(X, X, out=X), TypeError, "'out'"),
    (lambda: normc.batch_norm_backward(X[:1, :, :1], X[:1, :, :1]), ValueError, "Expected more"),
    (lambda: normc.switchable_norm_backward(X, X, [1, 2], [1, 2, 3]), ValueError, "mean_weight"),
    (lambda: normc.prelu_backward(X, X, [1, 2]), ValueError, "weight"),
    (lambda: normc.local_response_norm_backward(X, X, 0), ValueError, "size"),
    (lambda: normc.batch_norm_backward(X, X, axis=3), np.exceptions.AxisError, "axis 3"),
]


@pytest.mark.parametrize("call, error, text", BAD, ids=[text for _, _, text in BAD])
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call()
