"""What users do with layers: statistics of many batches, and one layer for two."""

import bound
import numpy as np
import pytest
import zoo

import normc


def state(layer):
    return {k: v.tobytes() for k, v in layer.state_dict().items()}


def exactly(values):
    return np.asarray(values).astype(np.longdouble)


# ---- recompute_stats -----------------------------------------------------------------------------

@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("axis", [1, -1])
def test_many_batches_are_as_one(correction, axis, rng):
    """Of different sizes, with a mean a billion times the deviation: to the last bits."""
    sizes = 5, 1, 64, 0, 17
    batches = [rng.normal(size=(n, 3, 4)) + [[1e9], [0.0], [-1e9]] for n in sizes]
    whole = exactly(np.concatenate(batches).transpose(1, 0, 2).reshape(3, -1))
    layer = normc.BatchNorm(3, axis=axis, correction=correction, dtype=np.float64)
    given = (np.moveaxis(b, 1, axis) for b in batches)
    assert normc.recompute_stats(layer, given) is layer
    mean = whole.mean(1)
    var = ((whole - mean[:, None]) ** 2).sum(1) / (whole.shape[1] - correction)
    u = bound.UNIT["float64"]
    assert (abs(layer.running_mean - mean) <= 4 * u * abs(mean) + 8 * u).all()
    assert (abs(layer.running_var - var) <= 64 * u * var).all()
    assert layer.num_batches_tracked == 4


def test_one_batch_gives_what_training_on_it_does(rng):
    x = rng.normal(size=(6, 4, 5)).astype(np.float32)
    layers = [normc.BatchNorm1d(4, momentum=1.0),
              normc.InstanceNorm1d(4, momentum=1.0, track_running_stats=True)]
    wide = x[..., None] + np.zeros(3, np.float32) * x[..., None]
    for correction in (0, 1):
        layers += [normc.SwitchableNorm1d(4, momentum=1.0, correction=correction),
                   normc.SwitchableNorm2d(4, momentum=1.0, correction=correction)]
    for layer in layers:
        kind = type(layer).__name__
        batch = {"SwitchableNorm1d": x[..., 0], "SwitchableNorm2d": wide}.get(kind, x)
        layer(batch)
        trained = layer.state_dict()
        layer.reset_running_stats()
        normc.recompute_stats(layer, [batch])
        for name in ("running_mean", "running_var"):
            got, expected = layer.state_dict()[name], trained[name]
            assert (abs(got - expected) <= 2.0**-23 * abs(expected)).all(), (kind, name)
        assert layer.num_batches_tracked == trained["num_batches_tracked"]


def test_masked_batches(rng):
    x = rng.normal(size=(2, 7, 3)) * 3 + 1
    where = rng.random(x.shape) < 0.6
    batches = [(x[0], where[0]), np.ma.array(x[1], mask=~where[1])]
    layer = normc.recompute_stats(normc.BatchNorm(3, dtype=np.float64), batches)
    for c in range(3):
        kept = x[..., c][where[..., c]]
        assert abs(layer.running_mean[c] - kept.mean()) < 1e-14
        assert abs(layer.running_var[c] - kept.var(ddof=1)) < 1e-13
    spoiled = [(np.where(w, b, np.nan), w) for b, w in zip(x, where)]
    other = normc.recompute_stats(normc.BatchNorm(3, dtype=np.float64), spoiled)
    assert state(other) == state(layer)
    few = np.zeros((4, 3), bool)
    few[0] = few[1, 0] = True
    layer = normc.recompute_stats(normc.BatchNorm(3), [(np.full((4, 3), 5.0), few)])
    assert layer.running_mean.tolist() == [5, 0, 0] and layer.running_var.tolist() == [0, 1, 1]


def test_instances_weigh_alike(rng):
    """Not batches: three samples in one, one in another; and one without its own batch axis."""
    batches = [rng.normal(size=(3, 2, 6)) + 4, rng.normal(size=(1, 2, 9)), rng.normal(size=(2, 5))]
    samples = [s for b in batches[:2] for s in b] + [batches[2]]
    layer = normc.InstanceNorm1d(2, track_running_stats=True, dtype=np.float64)
    normc.recompute_stats(layer, batches)
    mean = np.mean([s.mean(1) for s in samples], 0)
    var = np.mean([s.var(1, ddof=1) for s in samples], 0)
    assert np.abs(layer.running_mean - mean).max() < 1e-14
    assert np.abs(layer.running_var - var).max() < 1e-14
    assert layer.num_batches_tracked == 0


def test_switchable_norm_corrects_by_instances(rng):
    batches = [rng.normal(size=(n, 3, 2, 4)) * 2 + 1 for n in (2, 5)]
    layer = normc.SwitchableNorm2d(3, correction=1, dtype=np.float64)
    normc.recompute_stats(layer, batches)
    x = np.concatenate(batches)
    each, mean = x.mean((2, 3)), x.mean((0, 2, 3))
    var = (x.var((2, 3), ddof=1) + each**2).mean(0) - mean**2
    assert np.abs(layer.running_mean - mean).max() < 1e-14
    assert np.abs(layer.running_var - var).max() < 1e-13


def test_evaluation_uses_them(rng):
    x = rng.normal(size=(40, 3)) * [1, 5, 0.1] + [0, 100, -3]
    bn = normc.recompute_stats(normc.BatchNorm1d(3, correction=0, dtype=np.float64),
                               np.split(x, 8)).eval()
    y = bn(x)
    assert np.abs(y.mean(0)).max() < 1e-12 and np.abs(y.std(0) - 1).max() < 1e-3


@pytest.mark.parametrize("batches, error, words", [
    ([], ValueError, "batches"), ([np.ones((2, 4))], ValueError, "3 channels"),
    ([np.ones((2, 3)), np.ones((2, 3, 2, 2))], ValueError, "expected 2D or 3D"),
    ([(np.ones((2, 3)), np.ones(5, bool))], ValueError, "where"),
    ([(np.ones((2, 3)), np.ones(3))], TypeError, "where"), ([[["a"]]], TypeError, "x"),
    (3, TypeError, "iterable"), ([(np.ones((2, 3)),) * 3], TypeError, "a tuple of 3"),
    ([((1, 2), (3, 4), (5, 6))], TypeError, "x, where")])
def test_bad_batches_write_nothing(batches, error, words):
    layer = normc.BatchNorm1d(3)
    before = state(layer)
    with pytest.raises(error, match=words):
        normc.recompute_stats(layer, batches)
    assert state(layer) == before


def test_statistics_that_cannot_be_written(rng):
    x = rng.normal(size=(4, 3, 2))
    for make in (normc.BatchNorm1d, lambda n: normc.InstanceNorm1d(n, track_running_stats=True)):
        for name in ("running_mean", "running_var"):
            layer = make(3)
            held = getattr(layer, name).copy()
            held.flags.writeable = False
            setattr(layer, name, held)
            before = state(layer)
            with pytest.raises(ValueError, match=f"{name} is to be updated, but is read-only"):
                normc.recompute_stats(layer, [x])
            assert state(layer) == before
        layer = make(3)
        layer.running_var = layer.running_mean
        with pytest.raises(ValueError, match="must not share memory"):
            normc.recompute_stats(layer, [x])


@pytest.mark.parametrize("make", [
    normc.BatchNorm1d, normc.SwitchableNorm1d,
    lambda n, **k: normc.InstanceNorm1d(n, track_running_stats=True, **k)],
    ids=["batch", "switchable", "instance"])
def test_batches_with_nan(make, rng):
    x = rng.normal(size=(6, 3)) if make is normc.SwitchableNorm1d else rng.normal(size=(6, 3, 4))
    bad = x.copy()
    bad[1, 2] = np.nan
    clean = normc.recompute_stats(make(3), [x])
    skipping = normc.recompute_stats(make(3, on_nonfinite="skip"), [bad, x, bad])
    assert state(skipping) == state(clean)
    strict = make(3, on_nonfinite="raise")
    before = state(strict)
    with pytest.raises(ValueError, match="not finite"):
        normc.recompute_stats(strict, [x, bad])
    assert state(strict) == before
    with pytest.raises(ValueError, match="at least one batch that is taken"):
        normc.recompute_stats(make(3, on_nonfinite="skip"), [bad])
    assert np.isnan(normc.recompute_stats(make(3), [bad]).running_var).any()


def test_a_batch_that_is_all_masked_does_not_count(rng):
    x = rng.normal(size=(4, 3))
    batches = [(x, np.zeros(3, bool)), (x, np.ones(3, bool))]
    assert normc.recompute_stats(normc.BatchNorm1d(3), batches).num_batches_tracked == 1


def test_masked_instances(rng):
    """Those of one element say nothing."""
    x = rng.normal(size=(3, 2, 6))
    where = rng.random(x.shape) < 0.6
    where[1, 0] = False
    where[1, 0, 2] = True
    layer = normc.InstanceNorm1d(2, track_running_stats=True, dtype=np.float64)
    normc.recompute_stats(layer, [(x, where)])
    for c in range(2):
        kept = [x[n, c][where[n, c]] for n in range(3) if where[n, c].sum() > 1]
        assert layer.running_mean[c] == pytest.approx(np.mean([k.mean() for k in kept]), rel=1e-13)
        assert layer.running_var[c] == pytest.approx(np.mean([k.var(ddof=1) for k in kept]),
                                                     rel=1e-13)


def test_bad_layers():
    with pytest.raises(ValueError, match="running statistics"):
        normc.recompute_stats(normc.BatchNorm(3, track_running_stats=False), [np.ones((2, 3))])
    for layer in (normc.LayerNorm(3), None, 3):
        with pytest.raises(TypeError, match="layer must be"):
            normc.recompute_stats(layer, [np.ones((2, 3))])


# ---- fold_batch_norm -----------------------------------------------------------------------------

def trained(n, rng, **options):
    bn = normc.BatchNorm(n, dtype=np.float64, **options)
    for array in (bn.weight, bn.bias, bn.running_mean):
        if array is not None:
            array[...] = rng.normal(size=n)
    bn.running_var[...] = rng.uniform(0.5, 2, n)
    return bn


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"bias": False}, {"eps": 0.1}],
                         ids=str)
@pytest.mark.parametrize("with_bias", [True, False])
def test_folded_linear(options, with_bias, rng):
    bn = trained(5, rng, **options)
    before = state(bn)
    x, weight = rng.normal(size=(7, 3)), rng.normal(size=(5, 3))
    bias = rng.normal(size=5) if with_bias else None
    folded, shift = normc.fold_batch_norm(weight, bias, bn)
    assert folded.dtype == shift.dtype == np.float64 and shift.shape == (5,)
    expected = bn.eval()(x @ weight.T + (0 if bias is None else bias))
    assert np.abs(x @ folded.T + shift - expected).max() < 1e-14
    assert state(bn) == before
    again = normc.fold_batch_norm(weight, bias, bn.train())
    assert np.array_equal(again[0], folded) and np.array_equal(again[1], shift)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("shape", [(5, 3), (5, 1, 3, 3), (5, 2, 4, 1, 2)], ids=str)
def test_folded_numbers_are_rounded_once(shape, dtype, rng):
    bn = trained(5, rng)
    weight = rng.normal(size=shape).astype(dtype)
    bias = rng.normal(size=5).astype(dtype)
    folded, shift = normc.fold_batch_norm(weight, bias, bn)
    assert folded.dtype == shift.dtype == dtype and folded.shape == shape
    scale = exactly(bn.weight) / np.sqrt(exactly(bn.running_var) + 1e-5)
    along = scale.reshape(5, *[1] * (len(shape) - 1))
    half = 0.5 + 2.0**-20 if bound.name(dtype) != "float64" else 3
    for got, exact in ((folded, bound.widen(weight) * along),
                       (shift, (bound.widen(bias) - bn.running_mean) * scale + bn.bias)):
        error = abs(bound.widen(got) - exact)
        slack = 8 * bound.UNIT["float64"] * (abs(exact) + 8)
        assert (error <= half * bound.ulp(exact, dtype) + slack).all()


@zoo.needs_ml_dtypes
def test_to_bfloat16_in_one_step():
    """By way of float32 the first would be a tie, and go down to even."""
    from normc._convert import rounded

    finite = np.arange(1, 0x7F7F, dtype=np.uint16).view(zoo.bfloat16)
    below, above = finite[:-1], finite[1:]
    middle = (below.astype(float) + above.astype(float)) / 2
    even = np.where(below.view(np.uint16) % 2 == 0, below, above)
    for nudge, expected in ((1 - 2.0**-40, below), (1, even), (1 + 2.0**-40, above)):
        normal = below.astype(float) >= 2.0**-126
        for sign in (1, -1):
            got = rounded(middle * nudge * sign, zoo.bfloat16).astype(float)
            assert np.array_equal(got[normal], sign * expected.astype(float)[normal])
    odd = rounded(np.array([np.nan, np.inf, -np.inf, 1e300, 0, -0.0]), zoo.bfloat16).astype(float)
    assert np.isnan(odd[0]) and odd[1:4].tolist() == [np.inf, -np.inf, np.inf]
    assert not odd[4:].any() and np.signbit(odd[5])


def test_folded_arrays_are_native(rng):
    folded, shift = normc.fold_batch_norm(np.ones((5, 2), ">f4"), None, trained(5, rng))
    assert folded.dtype == shift.dtype == np.float32 and folded.dtype.isnative


def test_what_fold_refuses(rng):
    bn = trained(5, rng)
    for args, error, words in (
            ((np.ones((4, 5)), None, bn), ValueError, "5 channels"),
            ((np.ones((5, 4)), np.ones(4), bn), ValueError, "5 channels"),
            ((np.ones(()), None, bn), ValueError, "5 channels"),
            ((np.ones((5, 4), complex), None, bn), TypeError, "weight"),
            ((np.ones((5, 4)), None, normc.LayerNorm(5)), TypeError, "bn"),
            ((np.ones((5, 4)), None, normc.BatchNorm(5, track_running_stats=False)), ValueError,
             "running statistics")):
        with pytest.raises(error, match=words):
            normc.fold_batch_norm(*args)
    silent = normc.BatchNorm(1, eps=0)
    silent.running_var[...] = 0
    folded, shift = normc.fold_batch_norm([[2.0]], [3.0], silent)
    assert folded == 0 and shift == 0 and silent.eval()([[7.0]]) == 0
