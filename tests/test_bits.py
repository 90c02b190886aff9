"""The same bits on every road: instruction set, memory, neighbours, form of the call."""

import numpy as np
import pytest
import zoo
from cases import SMALL, Case, cases_of
from hypothesis import given
from hypothesis import strategies as st
from zoo import assert_same_bits

import normc

# Lengths that leave tails in lanes, tiles and blocks, beside the small odd ones.
ALL = SMALL + [c for n in (2, 130, 4100) for c in cases_of(n)]


def data(case, rng, dtype, mean=2.0):
    """Some groups need the second look at the mean, one is constant."""
    groups, n = case.members().shape
    x = rng.normal(size=(groups, n)) + mean * np.resize([1, 300, 0, 20], groups)[:, None]
    x[-1] = 0.3
    if dtype == np.float16:
        x = np.clip(x, -6e4, 6e4)
    return case.fill(x.astype(dtype))


def parameters(case, rng):
    return rng.normal(size=(2, *case.parameter_shape)).astype(np.float32) * 10


def on_every_level(compute):
    """By instruction set, and with results that pass the caches by as large ones do."""
    before = normc._core._use_cpu("baseline")
    try:
        results = {}
        for level in zoo.CPU_LEVELS:
            normc._core._use_cpu(level)
            results[level] = compute()
            normc._core._stream_from(0)
            results[level + ", streamed"] = compute()
            normc._core._stream_from(-1)
    finally:
        normc._core._use_cpu(before)
        normc._core._stream_from(-1)
    return results


def everything(case, x, weight=None, bias=None, **more):
    """All that a call returns, as a list of arrays."""
    y, m = case.call(normc, x, weight, bias, return_moments=True, **more)
    return [y, np.asarray(m.count, np.float64), m.mean, m.m2]


def assert_all_same(a, b):
    for left, right in zip(a, b, strict=True):
        assert_same_bits(left, right)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("case", ALL, ids=str)
def test_every_instruction_set(case, dtype, rng):
    weight, bias = parameters(case, rng)
    for mean in (0, 2, 1e4):
        x = data(case, rng, dtype, mean)
        results = on_every_level(lambda x=x: everything(case, x, weight, bias))
        for level in results:
            assert_all_same(results[level], results["baseline"])


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("n", [31, 100, 4100, 8230])
def test_results_at_any_address(n, dtype, rng):
    """Of rows with more weights than are arranged at a time, too."""
    x = (rng.normal(size=(5, n)) + 1).astype(dtype)
    weight, bias = rng.normal(size=(2, n)).astype(dtype)
    expected = normc.layer_norm(zoo.strided(x), n, weight, bias)
    room = np.empty(x.size + 32, dtype)
    for first in (0, 1, 2, 15, 31):
        out = room[first:first + x.size].reshape(x.shape)
        results = on_every_level(lambda: normc.layer_norm(x, n, weight, bias, out=out).copy())
        for level in results:
            assert_same_bits(results[level], expected)


def beside(values, first):
    """A copy that begins `first` elements after a line, and what is around it."""
    room = np.full(values.size + 64, 7, values.dtype)
    first += -room.ctypes.data % 64 // values.itemsize
    array = room[first:first + values.size].reshape(values.shape)
    array[...] = values
    return array, (room[:first], room[first + values.size:])


def all_at(places, compute, arrays, out):
    """What compute(*arrays, out) leaves in out, and nowhere else, wherever in a line each begins;
    None: out is the first of them."""
    for place in places:
        there = [beside(a, first)[0] for a, first in zip(arrays, place, strict=False)]
        kept = [a.copy() for a in there]
        to, around = (there[0], ()) if place[-1] is None else beside(out, place[-1])
        compute(*there, to)
        assert all((part == 7).all() for part in around)
        for a, before in zip(there, kept, strict=True):
            if a is not to:
                assert_same_bits(a, before)
        yield to


PLACES = [(0, 0, 0, 0), (4, 4, 4, 4), (4, 1, 2, 4), (0, 3, 0, 5), (1, 0, 4, 0), (15, 8, 4, 15),
          (5, 4, 0, None), (12, 12, 12, None)]


@pytest.mark.parametrize("dtype", zoo.FLOATS)
@pytest.mark.parametrize("rows, n", [(90, 100), (64, 128), (41, 208), (33, 257), (9, 1024),
                                     (3, 4112), (70, 128 + 5)])
def test_rows_wherever_each_array_begins(cpu, rows, n, dtype, rng):
    """Vectors of y are of one line each, and so are those of weights, which are moved for that."""
    x = (rng.normal(size=(rows, n)) + 1).astype(dtype)
    weight, bias = rng.normal(size=(2, n)).astype(dtype)
    strided = zoo.strided(x)
    for parameters in ((weight, bias), (weight, None), (None, bias), (None, None)):
        expected = normc.layer_norm(strided, n, *parameters, activation="relu")
        given = [p for p in parameters if p is not None]

        def relued(x, *rest):
            *ps, to = rest
            ps = iter(ps)
            w, b = (None if p is None else next(ps) for p in parameters)
            normc.layer_norm(x, n, w, b, activation="relu", out=to)

        places = [(p[0], *p[1:1 + len(given)], p[-1]) for p in PLACES]
        for result in all_at(places, relued, [x, *given], x):
            assert_same_bits(result, expected)
    expected = normc.rms_norm(strided, n, weight)
    for result in all_at([(p[0], p[1], p[-1]) for p in PLACES],
                         lambda x, w, to: normc.rms_norm(x, n, w, out=to), [x, weight], x):
        assert_same_bits(result, expected)


@pytest.mark.parametrize("dtype", zoo.FLOATS)
@pytest.mark.parametrize("rows, n", [(30, 100), (70, 128), (41, 208), (33, 257), (9, 1024)])
def test_gradients_of_rows_wherever_each_array_begins(cpu, rows, n, dtype, rng):
    """Vectors of dx are of one line each, too; malloc places it, now here, now there."""
    x, grad = rng.normal(size=(2, rows, n)).astype(dtype) + dtype(1)
    weight = rng.normal(size=n).astype(dtype)
    computes = [
        lambda g, x, w: normc.layer_norm_backward(g, x, n, w),
        lambda g, x, w: normc.layer_norm_backward(g, x, n),
        lambda g, x, w: normc.rms_norm_backward(g, x, n, w),
        lambda g, x, w: normc.group_norm_backward(g[None], x[None], 1, w[:rows]),
        lambda g, x, w: normc.batch_norm_backward(g[:8].reshape(4, 2, n), x[:8].reshape(4, 2, n)),
    ]
    kept = []  # what is given back could be there still, and right
    for compute in computes:
        expected = compute(zoo.strided(grad), zoo.strided(x), weight)
        for place in 2 * PLACES:
            there = zip((grad, x, weight), place, strict=False)
            kept.append(compute(*(beside(a, first)[0] for a, first in there)))
            assert_all_same(kept[-1], expected)
            kept.append(np.empty(16 * len(kept), np.uint8))  # the next begins elsewhere


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("columns", [1, 3, 7, 16, 49, 64, 100, 120, 512, 520])
def test_columns_wherever_each_array_begins(cpu, columns, dtype, rng):
    """Rows without a gap are applied from the first line on."""
    for rows in (5, 16, 67):
        x, grad = rng.normal(size=(2, rows, columns)).astype(dtype) + dtype(1)
        weight, bias, mean, var = np.abs(rng.normal(size=(4, columns))).astype(np.float32) + 0.5
        strided = zoo.strided(x)
        trained = normc.batch_norm(strided, weight=weight, bias=bias, training=True)
        evaluated = normc.batch_norm(strided, mean, var, weight, bias, activation="relu")
        back = normc.batch_norm_backward(zoo.strided(grad), strided, weight=weight)

        def train(x, w, b, to):
            normc.batch_norm(x, weight=w, bias=b, training=True, out=to)

        def evaluate(x, w, b, to):
            normc.batch_norm(x, mean, var, w, b, activation="relu", out=to)

        for result in all_at(PLACES, train, [x, weight, bias], x):
            assert_same_bits(result, trained)
        for result in all_at(PLACES, evaluate, [x, weight, bias], x):
            assert_same_bits(result, evaluated)
        for first, second, *_ in PLACES:
            there = beside(grad, first)[0], beside(x, second)[0]
            assert_all_same(normc.batch_norm_backward(*there, weight=weight), back)


@pytest.mark.parametrize("n", [67, 80, 1009])
def test_a_streamed_gradient_that_is_made_again(n, rng):
    """One run of a group overflows in float; the ends of the others must not come after the group's
    second making."""
    x = rng.normal(size=(3, 4, n)).astype(np.float32) * 1024
    grad = rng.normal(size=x.shape).astype(np.float32)
    grad[:, 0, 3] = 2.0**29
    weight = np.array([2.0**100, 1, 1, 1], np.float32)
    results = on_every_level(lambda: normc.group_norm_backward(grad, x, 2, weight))
    for level in results:
        assert_all_same(results[level], results["baseline"])


# Rows that fill no lanes, fill them evenly, or not; columns of less than a vector, and of some.
FEW = [(700, 1, 1, 3), (40, 2, 2, 4), (17, 3, 1, 5), (9, 4, 4, 12), (3, 8, 2, 1), (40, 7, 7, 3),
       (5, 4, 8, 20), (2, 5, 5, 31), (33, 1, 1, 33), (600, 2, 1, 16), (30, 3, 3, 130),
       (6, 2, 1, 600)]


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("shape", FEW, ids=str)
def test_channels_that_lie_last(shape, dtype, rng):
    """Rows of all channels without a gap between them, whatever one channel needs: a second look at
    its mean, the exact road, a gradient that is not finite, which are nobody else's."""
    x, grad = (rng.normal(size=(2, *shape)) + 1).astype(dtype)
    channels = shape[-1]
    weight, bias, mean, var = rng.normal(size=(4, channels)).astype(np.float32)
    x[..., channels // 2] = 3
    x[..., 0] *= np.asarray(2**-6, dtype)
    weight[channels // 3] = 2.0**126
    grad[0, 0, 0, channels - 1] = np.inf
    last = [np.moveaxis(a, -1, 1) for a in (x, grad)]
    first = [np.ascontiguousarray(a) for a in last]

    def results(x, grad, out):
        out[:] = x
        given = {"running_mean": mean, "running_var": var**2}
        logits = np.array([0.5, -1, 1])
        yield normc.batch_norm(x, weight=weight, bias=bias, training=True, activation="relu")
        yield normc.batch_norm(out, weight=weight, training=True, out=out).copy()
        yield normc.batch_norm(x, **given, weight=weight, bias=bias)
        yield normc.batch_norm(x, **given, activation="relu")
        yield from normc.batch_norm_backward(grad, x, weight)
        yield from normc.batch_norm_backward(grad, x, weight, **given)
        yield from normc.group_norm_backward(grad, x, 1, weight)
        yield normc.group_norm(x, 1, weight, bias)
        out[:] = x
        yield normc.switchable_norm(out, logits, logits, training=True, out=out)

    with np.errstate(all="ignore"):
        expected = list(results(*first, first[0].copy()))
    for threads in (1, 3):
        with normc.threads(threads):
            by_level = on_every_level(lambda: list(results(*last, np.moveaxis(x.copy(), -1, 1))))
        for got in by_level.values():
            assert_all_same(got, expected)


def widened(*arrays):
    return [a.astype(np.float32) for a in arrays]


@pytest.mark.parametrize("dtype", zoo.HALVES)
@pytest.mark.parametrize("n", [*range(1, 36), 47, 63, 65, 255, 257, 272, 511, 513])
def test_halves_are_floats_rounded(cpu, n, dtype, rng):
    """Rows and columns of every width: whatever is left of a vector is computed as the rest is, and
    nothing beside it is written."""
    shape = (5, 3, n)
    x, grad = (rng.normal(size=(2, *shape)) + 1).astype(dtype)
    weight, bias = rng.normal(size=(2, n)).astype(np.float32)
    wide, wide_grad = widened(x, grad)
    calls = [lambda x, **out: normc.layer_norm(x, n, weight, bias, **out),
             lambda x, **out: normc.layer_norm(x, n, **out),
             lambda x, **out: normc.instance_norm(x, eps=0.5, **out) if n > 1 else x,
             lambda x, **out: normc.batch_norm(x, weight=weight, bias=bias, training=True, axis=-1,
                                               **out),
             lambda x, **out: normc.batch_norm(x, bias, weight**2, weight, bias, axis=-1,
                                               activation="relu", **out)]
    for call in calls:
        expected = call(wide).astype(dtype)
        assert_same_bits(call(x), expected)
        room = np.full(x.size + 2, 7, dtype)
        out = room[1:-1].reshape(shape)
        out[:] = x
        if call(out, out=out) is out:
            assert_same_bits(out, expected)
        assert room[0] == room[-1] == 7
    gradients = [lambda g, x: normc.layer_norm_backward(g, x, n, weight),
                 lambda g, x: normc.batch_norm_backward(g, x, weight=weight, axis=-1),
                 lambda g, x: normc.batch_norm_backward(g, x, weight=weight, axis=-1,
                                                        running_mean=bias, running_var=weight**2),
                 lambda g, x: normc.batch_norm_backward(g, x),
                 lambda g, x: normc.layer_norm_backward(g, x, axis=1)]
    for gradient in gradients:
        assert_same_bits(gradient(grad, x)[0], gradient(wide_grad, wide)[0].astype(dtype))


@zoo.needs_ml_dtypes
@pytest.mark.parametrize("n", [3, 8, 13, 16, 21, 40])
def test_gradients_of_halves_that_float_does_not_carry(n, rng):
    """One product of a gradient and its weight leaves float, what comes of it does not: it is made
    again, of a row or a column alone."""
    dtype = zoo.bfloat16
    x, grad = rng.normal(size=(2, 6, 4, n)).astype(dtype)
    x *= 16
    for at in np.ndindex(2, 4):
        spoilt = grad.copy()
        spoilt[(1 + at[0], at[1], n // 2)] = 2e38
        for gradient in (
                lambda g: normc.layer_norm_backward(g, x, n, np.full(n, 2, dtype))[0],
                lambda g: normc.batch_norm_backward(g, x, np.full(n, 2, dtype), axis=-1)[0],
                lambda g: normc.instance_norm_backward(g, x, np.full(4, 2, dtype))[0]):
            results = on_every_level(lambda g=gradient, s=spoilt: g(s))
            for level in results:
                assert_same_bits(results[level], results["baseline"])
            assert np.isfinite(results["baseline"].astype(float)).all()


@pytest.mark.parametrize("dtype", zoo.DTYPES)
def test_every_instruction_set_for_the_others(dtype, rng):
    x = rng.normal(size=(3, 37, 11)).astype(dtype) * 5
    where = rng.random(x.shape) < 0.7
    slope = rng.normal(size=37)
    calls = [
        lambda: normc.local_response_norm(x, 5),
        lambda: normc.local_response_norm(x, 4, 0.3, 0.61, 2.0, axis=-1, window="onnx"),
        lambda: normc.local_response_norm(x, 3, beta=1.0), lambda: normc.relu(x),
        lambda: normc.leaky_relu(x, 0.3), lambda: normc.prelu(x, slope),
        lambda: normc.switchable_norm(x, [1, 2, 3], [0.1, 0, -1], training=True),
        lambda: normc.switchable_norm(x[..., 0], [1, 2], [0.1, 0], training=True, correction=1),
        lambda: normc.batch_norm(x, slope, slope**2),
        lambda: normc.layer_norm(x, where=where), lambda: normc.group_norm(x, 37, where=where),
        lambda: normc.moments(x, (0, 2)).m2, lambda: normc.moments(x).mean,
    ]
    for call in calls:
        results = on_every_level(call)
        for level in results:
            assert_same_bits(results[level], results["baseline"])


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("case", ALL, ids=str)
def test_every_layout(cpu, case, dtype, rng):
    x = data(case, rng, dtype)
    weight, bias = parameters(case, rng)
    plain = everything(case, x, weight, bias)
    assert plain[0].flags.c_contiguous
    for layout in zoo.LAYOUTS:
        assert_all_same(everything(case, zoo.in_layout(layout, x), weight, bias), plain)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("n", [500, 2000])
def test_packed_columns_of_any_width(cpu, n, dtype, rng):
    """33 columns: a scratch holds a number of rows that is no multiple of the lanes. The squares
    are of so many sizes that even those of the half types round where they are added."""
    case = Case("layer_norm", (n, 33), 0)
    x = (rng.normal(size=case.shape) * 2.0 ** rng.integers(-14, 13, case.shape)).astype(dtype)
    rows = everything(case, zoo.fortran(x))
    for layout in (zoo.contiguous, zoo.byte_swapped, zoo.misaligned):
        other = zoo.in_layout(layout, x)
        assert_all_same(everything(case, other), rows)
        assert_all_same(everything(case, other, where=np.ones(x.shape, bool)), rows)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("shape, groups", [((2, 300, 20), 1), ((2, 64, 400), 2), ((2, 1100, 3), 1),
                                           ((1, 1100, 9), 2), ((2, 12, 5000), 3),
                                           ((1, 64, 3136), 1), ((2, 600, 35), 1)])
def test_groups_of_many_channels(cpu, shape, groups, dtype, rng):
    """More of them than are summed at a time, or than fit into scratch."""
    x, grad = rng.normal(size=(2, *shape)).astype(dtype)
    x[0, :3] *= 50
    weight, bias = rng.normal(size=(2, shape[1])).astype(np.float32)

    def both(x, grad, **more):
        y, m = normc.group_norm(x, groups, weight, bias, return_moments=True, **more)
        back = normc.group_norm_backward(grad, x, groups, weight, **more)
        again = normc.group_norm_backward(grad, x, groups, weight, moments=m, **more)
        return [y, m.mean, m.m2, *back, *again]

    plain = both(x, grad)
    alone = both(x[-1:], grad[-1:])
    assert_all_same([alone[0], alone[3]], [plain[0][-1:], plain[3][-1:]])
    for layout in zoo.LAYOUTS:
        there = zoo.in_layout(layout, x), zoo.in_layout(layout, grad)
        assert_all_same(both(*there), plain)
        assert_all_same(both(*there, where=np.ones(shape, bool)), plain)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("norm", ["batch_norm", "instance_norm", "group_norm", "layer_norm"])
def test_a_mask_of_all_beside_a_spoilt_group(cpu, norm, dtype, rng):
    x, grad = rng.normal(size=(2, 4, 30, 133)).astype(dtype)
    x[1, :, 5] = np.inf
    more = [3] if norm == "group_norm" else []
    call = getattr(normc, norm + "_backward")
    plain = call(grad, x, *more)
    assert np.isfinite(plain[2].astype(float)).all()
    assert_all_same(call(grad, x, *more, where=np.ones(x.shape, bool)), plain)


@pytest.mark.parametrize("norm", ["batch_norm", "instance_norm", "group_norm"])
def test_a_channel_without_elements_beside_a_spoilt_one(cpu, norm, rng):
    x, grad = rng.normal(size=(2, 2, 4, 33)).astype(np.float32)
    x[:, 0, 5] = np.inf
    where = np.ones(x.shape, bool)
    where[:, 2] = False
    more = [1] if norm == "group_norm" else []
    _, dweight, dbias = getattr(normc, norm + "_backward")(grad, x, *more, where=where)
    assert np.isnan(dweight[0])
    assert dweight[2] == dbias[2] == 0


@pytest.mark.parametrize("other", [2.0**-61, 2.0**61, np.inf, np.nan])
def test_weights_of_another_group(cpu, other):
    """They do not decide how this one is made, either."""
    x = np.array([[[1e25, -2e25, 4e25]] * 4], np.float32)
    x *= np.array([1, 0.7, 0.3, 0.9], np.float32).reshape(1, 4, 1)
    weight = np.array([2.0**-50, 1, 1, 1], np.float32)
    expected = normc.group_norm(x, 2, weight)[:, :2]
    weight[3] = other
    assert_same_bits(normc.group_norm(x, 2, weight)[:, :2], expected)


def test_a_weight_that_underflows_with_the_deviation(cpu, rng):
    x = rng.normal(size=(2, 4, 5)) * 1e140
    weight = np.array([1, 1e-300, 1, 1])
    unit = [normc.instance_norm(x, eps=0), normc.group_norm(x, 2, eps=0)]
    for y, xhat in zip([normc.instance_norm(x, None, None, weight, eps=0),
                        normc.group_norm(x, 2, weight, eps=0)], unit, strict=True):
        np.testing.assert_allclose(y[:, 1], xhat[:, 1] * 1e-300, rtol=1e-14)


@pytest.mark.parametrize("dtype", zoo.FLOATS)
@pytest.mark.parametrize("extreme", ["small", "large", "infinite"])
def test_one_channel_that_no_type_carries(cpu, extreme, dtype, rng):
    """The group is made the exact way, from data of which nothing is overwritten yet."""
    size, least, most = (1e15, 1e-25, 1e30) if dtype == np.float32 else (1e140, 1e-170, 1e200)
    x = rng.normal(size=(2, 6, 40)).astype(dtype) * dtype(1 / size if extreme == "large" else size)
    weight = np.ones(6, dtype)
    weight[2] = {"small": least, "large": most, "infinite": np.inf}[extreme]
    expected = normc.group_norm(x, 2, weight, eps=0)
    assert_same_bits(normc.group_norm(zoo.channels_last(x), 2, weight, eps=0), expected)
    assert_same_bits(normc.group_norm(x[1:], 2, weight, eps=0), expected[1:])
    assert_same_bits(normc.group_norm(x, 2, weight, eps=0, out=x), expected)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("layout", zoo.LAYOUTS, ids=lambda f: f.__name__)
def test_layouts_of_the_others(layout, dtype, rng):
    x = rng.normal(size=(3, 37, 11)).astype(dtype) * 5
    slope = rng.normal(size=37)
    other = zoo.in_layout(layout, x)
    for call in (lambda x: normc.local_response_norm(x, 5), normc.relu, normc.leaky_relu,
                 lambda x: normc.local_response_norm(x, 4, 0.3, 0.61, axis=-1),
                 lambda x: normc.prelu(x, slope),
                 lambda x: normc.switchable_norm(x, [1, 2, 3], [0.1, 0, -1], training=True),
                 lambda x: normc.batch_norm(x, slope, slope**2)):
        assert_same_bits(call(other), call(x))


@pytest.mark.parametrize("dtype", zoo.DTYPES)
def test_negative_zero_slope(cpu, dtype, rng):
    """Minus times minus: 0 of a plus, in whole vectors and in the tail behind them."""
    for n in (*range(1, 40), 4099):
        x = np.full(n, -1, dtype)
        assert_same_bits(normc.leaky_relu(x, -0.0), np.zeros_like(x))
        channels = np.full((2, 3, n), -1, dtype)
        for y in (channels, zoo.channels_last(channels), channels.transpose(0, 2, 1)):
            weight = np.full(y.shape[1], -0.0)
            assert_same_bits(np.ascontiguousarray(normc.prelu(y, weight)), np.zeros(y.shape, dtype))


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_broadcast_input(case, dtype, rng):
    x = data(case, rng, dtype)
    for axis in range(x.ndim):
        repeated = np.broadcast_to(x.take([0], axis), x.shape)
        assert 0 in repeated.strides
        assert_all_same(everything(case, repeated, None, None),
                        everything(case, repeated.copy(), None, None))


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("case", [c for c in ALL if c.norm not in ("batch_norm", "standardize")],
                         ids=str)
def test_alone_or_in_a_batch(case, dtype, rng):
    axis = 0 if case.axes != (0,) else 1
    x = data(case, rng, dtype)
    weight, bias = parameters(case, rng)
    together = case.call(normc, x, weight, bias)
    for i in range(min(x.shape[axis], 5)):
        part = x.take([i], axis)
        alone = Case(case.norm, part.shape, case.axis, case.num_groups)
        assert_same_bits(alone.call(normc, part, weight, bias), together.take([i], axis))


@pytest.mark.parametrize("dtype", zoo.DTYPES)
def test_batch_norm_channels_alone(dtype, rng):
    x = rng.normal(size=(3, 19, 5, 7)).astype(dtype)
    together = normc.batch_norm(x, training=True)
    last = normc.batch_norm(np.moveaxis(x, 1, -1), training=True, axis=-1)
    assert_same_bits(np.moveaxis(last, -1, 1), together)
    for c in range(19):
        assert_same_bits(normc.batch_norm(x[:, c:c + 1], training=True), together[:, c:c + 1])


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("case", [c for c in ALL if not c.shared_by_axis and len(c.shape) > 2],
                         ids=str)
def test_channel_axis_anywhere(case, dtype, rng):
    """Where the channels stand decides nothing: moving their axis moves the result."""
    x = data(case, rng, dtype)
    weight, bias = parameters(case, rng)
    y = case.call(normc, x, weight, bias)
    (axis,) = case.axes
    for to in range(1, x.ndim):
        moved = np.moveaxis(x, axis, to)
        other = Case(case.norm, moved.shape, to, case.num_groups)
        assert_same_bits(np.moveaxis(other.call(normc, moved, weight, bias), to, axis), y)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_every_form_of_the_call(case, dtype, rng):
    x = data(case, rng, dtype)
    weight, bias = parameters(case, rng)
    plain = case.call(normc, x, weight, bias)

    def same(y):
        assert_same_bits(np.ascontiguousarray(y), plain)

    same(case.call(normc, x, weight, bias))
    same(case.call(normc, x, weight, bias, return_moments=True)[0])
    same(case.call(normc, x, weight, bias, where=True))
    same(case.call(normc, x, weight, bias, where=np.ones(x.shape, bool)))
    same(case.call(normc, x, weight, bias, where=np.ones(x.shape, bool, order="F")))
    same(case.call(normc, x, weight.astype(np.float64), bias.astype(np.float64)))
    same(case.call(normc, x, weight[..., ::-1].copy()[..., ::-1], bias.astype(">f8")))
    for layout in zoo.LAYOUTS:
        if layout in (zoo.read_only, zoo.byte_swapped, zoo.byte_swapped_channels_last):
            continue
        out = zoo.in_layout(layout, np.zeros_like(x))
        assert case.call(normc, x, weight, bias, out=out) is out
        same(out)
        inplace = zoo.in_layout(layout, x)
        assert case.call(normc, inplace, weight, bias, out=inplace) is inplace
        same(inplace)


def overlaps(x):
    """(input, out): out shares a part of the input's memory, every way round."""
    n = len(x)
    for start in (1, 2, n - 1):
        for forward in (True, False):
            room = np.zeros((n + start, *x.shape[1:]), x.dtype)
            a, b = (room[:n], room[start:]) if forward else (room[start:], room[:n])
            yield a, b
    room = x.copy()
    yield room, room[::-1]
    if x.shape[-1] == x.shape[-2]:
        yield room, np.swapaxes(room, -1, -2)
    raw = np.zeros(x.nbytes + 3 * x.dtype.itemsize, np.uint8)
    shifted = [raw[k:k + x.nbytes].view(x.dtype).reshape(x.shape) for k in (0, x.dtype.itemsize, 1)]
    for a, b in ((0, 1), (1, 0), (0, 2), (2, 1)):
        yield shifted[a], shifted[b]


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("case", [*SMALL, Case("layer_norm", (5, 7, 7), -1),
                                  Case("batch_norm", (3, 5, 6, 6)),
                                  Case("group_norm", (3, 4, 600), 1, 2)], ids=str)
def test_out_overlaps_input(case, dtype, rng):
    x = data(case, rng, dtype)
    weight, bias = parameters(case, rng)
    plain = case.call(normc, x, weight, bias)
    for source, out in overlaps(x):
        source[...] = x
        assert case.call(normc, source, weight, bias, out=out) is out
        assert_same_bits(np.ascontiguousarray(out), plain)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
def test_out_overlaps_input_of_the_others(dtype, rng):
    x = rng.normal(size=(5, 7, 9)).astype(dtype)
    slope = rng.normal(size=7)
    for call in (lambda x, out: normc.local_response_norm(x, 3, out=out),
                 lambda x, out: normc.local_response_norm(x, 4, 1.0, 0.3, axis=-1, out=out),
                 lambda x, out: normc.relu(x, out=out), lambda x, out: normc.leaky_relu(x, out=out),
                 lambda x, out: normc.prelu(x, slope, out=out),
                 lambda x, out: normc.standardize(x, 1, out=out),
                 lambda x, out: normc.batch_norm(x, slope, slope**2, out=out),
                 lambda x, out: normc.switchable_norm(x, [1, 2, 3], [3, 2, 1], training=True,
                                                      out=out)):
        plain = call(x, None)
        for source, out in [*overlaps(x), (a := x.copy(), a)]:
            source[...] = x
            assert call(source, out) is out
            assert_same_bits(np.ascontiguousarray(out), plain)


def test_out_overlaps_parameters_and_mask(rng):
    room = np.zeros((6, 6), np.float32)
    x = rng.normal(size=(6, 6)).astype(np.float32)
    weight, bias = rng.normal(size=(2, 6)).astype(np.float32)
    plain = normc.layer_norm(x, 6, weight, bias)
    for place in (room[0], room[3], room[:, 2], room[::-1, 5]):
        place[...] = weight
        normc.layer_norm(x, 6, place, bias, out=room)
        assert_same_bits(room, plain)
        place[...] = bias
        normc.layer_norm(x, 6, weight, place, out=room)
        assert_same_bits(room, plain)
    where = rng.random((6, 6)) < 0.5
    plain = normc.layer_norm(x, 6, where=where)
    raw = room.view(np.bool_)
    for mask in (raw[:, 3:9], raw[::-1, 3:9], raw.reshape(-1)[:36].reshape(6, 6),
                 raw.reshape(-1)[-36:].reshape(6, 6)):
        mask[...] = where
        normc.layer_norm(x, 6, where=mask, out=room)
        assert_same_bits(room, plain)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
def test_masks_in_every_layout(cpu, dtype, rng):
    for case in SMALL:
        x = data(case, rng, dtype)
        where = rng.random(x.shape) < 0.6
        plain = case.call(normc, x, where=where)
        for layout in zoo.LAYOUTS:
            mask = where if layout is zoo.misaligned else zoo.in_layout(layout, where)
            assert_same_bits(case.call(normc, zoo.in_layout(layout, x), where=where), plain)
            assert_same_bits(case.call(normc, x, where=mask), plain)
        row = rng.random(x.shape[-1]) < 0.7
        assert_same_bits(case.call(normc, x, where=row),
                         case.call(normc, x, where=np.broadcast_to(row, x.shape).copy()))


@pytest.mark.parametrize("case", [Case("batch_norm", (40001, 16)),
                                  Case("layer_norm", (20000, 63), -1),
                                  Case("instance_norm", (3, 7, 60001))], ids=str)
def test_what_parameters_put_beyond_float_knows_no_neighbours(cpu, case, rng):
    """Nor a mask: their groups take the exact road from the same mean, to its last word."""
    x = (rng.normal(size=case.shape) + 1000).astype(np.float32)
    weight = bias = np.full(case.parameter_shape, 1e31, np.float32)
    plain = case.call(normc, x, weight, bias)
    assert_same_bits(case.call(normc, x, weight, bias, where=np.ones(x.shape, bool)), plain)
    places = case.members()
    x.flat[places[0, 0]] = np.nan
    spoilt = case.call(normc, x, weight, bias).reshape(-1)
    assert np.isnan(spoilt[places[0]]).all()
    assert_same_bits(spoilt[places[1:]], plain.reshape(-1)[places[1:]])


# More than caches hold: what is apart from x is then written past them.
STREAMED = [Case("layer_norm", (2100, 1601), -1), Case("rms_norm", (37000, 91), -1),
            Case("batch_norm", (9, 33, 11400)), Case("batch_norm", (53000, 65), -1),
            Case("batch_norm", (2700, 1301), -1), Case("instance_norm", (3, 900, 1261), -1),
            Case("group_norm", (9, 34, 11000), 1, 17), Case("instance_norm", (101, 33, 1013)),
            Case("layer_norm", (7, 97, 5003), 1), Case("layer_norm", (300, 70, 161), (1, 2))]


@pytest.mark.parametrize("dtype", zoo.FLOATS + zoo.HALVES)
@pytest.mark.parametrize("case", STREAMED, ids=str)
def test_past_the_caches(cpu, case, dtype, rng):
    x = rng.normal(size=case.shape).astype(dtype)
    weight, bias = parameters(case, rng)
    room = np.empty(x.nbytes + 128, np.uint8)
    expected = case.call(normc, x.copy(), weight, bias, where=True)
    for shift in (0, 8, 40):
        room[...] = 0
        start = -room.ctypes.data % 64 + shift
        out = room[start:start + x.nbytes].view(dtype).reshape(x.shape)
        assert_same_bits(case.call(normc, x, weight, bias, out=out), expected)
        assert not room[:start].any() and not room[start + x.nbytes:].any()
    assert_same_bits(case.call(normc, x, weight, bias, out=x), expected)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
def test_layer_and_function(cpu, dtype, rng):
    for kind, shape, options in ((normc.BatchNorm1d, (19, 5), {}),
                                 (normc.BatchNorm2d, (3, 5, 7, 2), {}),
                                 (normc.BatchNorm, (3, 7, 5), {"axis": -1, "correction": 0})):
        layer = kind(5, momentum=0.3, eps=1e-3, dtype=dtype, **options)
        layer.weight, layer.bias = rng.normal(size=(2, 5)).astype(dtype)
        running = layer.running_mean.copy(), layer.running_var.copy()
        for step in range(4):
            layer.train(step != 2)
            x = rng.normal(size=shape).astype(dtype) + np.array(step, dtype)
            y = normc.batch_norm(x, *running, layer.weight, layer.bias, step != 2, 0.3, 1e-3,
                                 **options)
            assert_same_bits(layer(x), y)
            assert_same_bits(layer.running_mean, running[0])
            assert_same_bits(layer.running_var, running[1])


@st.composite
def arrays_and_axes(draw):
    """A shape of up to five axes, which of them share, and a memory order with gaps and flips."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=5)))
    if draw(st.booleans()):
        shape = (*shape[:-1], draw(st.integers(8, 70)))
    axes = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    order = draw(st.permutations(range(len(shape))))
    steps = draw(st.lists(st.sampled_from([1, 1, 2, 3, -1, -2]), min_size=len(shape),
                          max_size=len(shape)))
    return shape, tuple(sorted(axes)), order, steps, draw(st.integers(0, 2**32 - 1))


def walked(x, order, steps):
    """x's values in memory of that order of axes, with those steps."""
    inverse = np.argsort(order)
    memory = np.zeros([x.shape[i] * abs(steps[i]) for i in order], x.dtype)
    view = memory.transpose(inverse)[tuple(slice(None, None, s) for s in steps)]
    view[...] = x
    return view


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@given(drawn=arrays_and_axes())
def test_any_shape_axes_and_strides(dtype, drawn):
    shape, axes, order, steps, seed = drawn
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=shape) * 3 + 1).astype(dtype)
    view = walked(x, order, steps)
    assert np.array_equal(view, x)
    parameter = tuple(shape[i] for i in axes)
    weight, bias = rng.normal(size=(2, *parameter)).astype(np.float32)
    where = rng.random(shape) < 0.8
    for norm in ("layer_norm", "rms_norm", "standardize"):
        case = Case(norm, shape, axes)
        for mask in (None, where):
            y = case.call(normc, x, weight, bias, where=mask)
            assert_same_bits(case.call(normc, view, weight, bias, where=mask), y)
            case.check(y, x, weight, bias, where=mask)
            out = walked(np.zeros_like(x), order[::-1], steps[::-1])
            case.call(normc, view, weight, bias, where=mask, out=out)
            assert_same_bits(np.ascontiguousarray(out), y)
    if len(shape) > 1:
        channel = axes[0] or 1
        weight = rng.normal(size=shape[channel]).astype(np.float32)
        for case in (Case("batch_norm", shape, channel), Case("instance_norm", shape, channel),
                     Case("group_norm", shape, channel, shape[channel])):
            count = case.members().shape[1]
            if count < 2 or (case.norm == "instance_norm" and len(shape) < 3):
                continue
            y = case.call(normc, x, weight, -weight)
            assert_same_bits(case.call(normc, view, weight, -weight), y)
            case.check(y, x, weight, -weight)


@pytest.mark.parametrize("dtype, mean, exponent", [
    pytest.param(zoo.bfloat16, 257, 121, id="bfloat16", marks=zoo.needs_ml_dtypes),
    pytest.param(np.float32, 2**20, 109, id="float32"),
    pytest.param(np.float64, 2**20, 1005, id="float64")])
def test_lanes_without_an_element_do_not_overflow(dtype, mean, exponent):
    """All that is there is carried; what a lane of zeros would make is not."""
    for n in range(2, 70):
        signs = np.where(np.arange(n) % 2, 1.0, -1.0)
        x = np.tile(mean + signs, (3, 1)).astype(dtype)
        g = np.tile(signs * 2.0**exponent * (1 + np.arange(n) % 3 / 4), (3, 1)).astype(dtype)
        weight = (1 + np.arange(n) / n).astype(dtype)
        columns = np.ascontiguousarray(x.T), np.ascontiguousarray(g.T)
        results = on_every_level(lambda: [
            normc.layer_norm_backward(g, x, n, weight)[0],
            normc.group_norm_backward(g, x, 1)[0],
            normc.batch_norm_backward(columns[1], columns[0])[0],
            normc.layer_norm_backward(columns[1], columns[0], 3)[0]])
        for level in results:
            assert_all_same(results[level], results["baseline"])
