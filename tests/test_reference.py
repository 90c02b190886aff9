"""normc.reference, written from the formulas, and normc: the same answer to every form of a call.

How close they are is the matter of test_bound.py; here it is which elements share, and in what
order things come out.
"""

import numpy as np
import pytest

import normc
from normc import reference

# Channels are 6 everywhere, so that they stand wherever the axis says.
SHAPES = [((5, 6), 1), ((6, 5), 0), ((1, 6, 4), 1), ((3, 6, 1), 1), ((3, 6, 4), 1), ((6, 3, 4), 0),
          ((3, 4, 6), -1), ((2, 3, 6, 4), 2), ((6, 2, 3, 4), -4)]
shapes = pytest.mark.parametrize("shape, axis", SHAPES)
masks = pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
corrections = pytest.mark.parametrize("correction", [0, 1])


def assert_agree(call):
    """What a call of each returns, as lists of arrays; NaN and infinity are both no number."""
    for ours, theirs in zip(call(normc), call(reference), strict=True):
        ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
        assert ours.shape == theirs.shape
        finite = np.isfinite(theirs)
        assert np.array_equal(np.isfinite(ours), finite)
        ours, theirs = ours[finite], theirs[finite]
        assert np.abs(ours - theirs).max(initial=0) <= 1e-12 * (1 + np.abs(theirs).max(initial=0))


def parts(result):
    y, m = result
    return [y, m.count, m.mean, m.m2]


def drawn(rng, shape, masked):
    """Data, a mask that leaves some groups one element or none, parameters, running statistics."""
    x = rng.normal(size=shape) * 3 + 7
    where = rng.random(shape) < 0.4 if masked else None
    return x, where, *rng.normal(size=(3, 6)), rng.uniform(1, 2, 6)


@masks
@corrections
@shapes
def test_batch_and_instance_norm(shape, axis, correction, masked, rng):
    x, where, w, b, mean, var = drawn(rng, shape, masked)
    one = x.size == 6 * shape[1 if axis % x.ndim == 0 else 0]  # element to an instance: refused
    for norm in ("batch_norm",) if one else ("batch_norm", "instance_norm"):
        def call(m, norm=norm):
            running = mean.copy(), var.copy()
            result = getattr(m, norm)(x, *running, w, b, True, 0.3, 0.1, axis=axis, where=where,
                                      correction=correction, return_moments=True)
            return [*parts(result), *running]

        assert_agree(call)
        assert_agree(lambda m, norm=norm: [getattr(m, norm)(x, mean, var, w, b, False, axis=axis,
                                                            where=where)])


@masks
@shapes
def test_group_norm(shape, axis, masked, rng):
    x, where, w, b, *_ = drawn(rng, shape, masked)
    for groups in (1, 2, 6):
        assert_agree(lambda m, groups=groups: parts(m.group_norm(
            x, groups, w, b, 0.1, axis=axis, where=where, return_moments=True)))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("training", [True, False])
@corrections
@shapes
def test_switchable_norm(shape, axis, correction, training, order, rng):
    x, _, w, b, mean, var = drawn(rng, shape, False)
    x = np.asarray(x, order=order)
    logits = rng.normal(size=(2, 2 if x.ndim == 2 else 3))

    def call(m):
        running = mean.copy(), var.copy()
        result = m.switchable_norm(x, *logits, w, b, *running, training, 0.3, 0.1, axis=axis,
                                   correction=correction, return_moments=True)
        return [*parts(result), *running]

    assert_agree(call)
    one = np.moveaxis(np.ones(shape), axis, -1)
    one[..., 0] = 2.0**600  # a channel alone, the others far below it
    for scale, eps in ((2.0**600, 0), (2.0**-600, 0), (2.0**-480, 2.0**-960),
                       (np.moveaxis(one, -1, axis), 0)):  # squares leave double's range
        def scaled(m, scale=scale, eps=eps):
            most = np.max(scale)
            running = mean * most, var * most
            y = m.switchable_norm(x * scale, *logits, w, b, *running, training, 1.0, eps,
                                  axis=axis, correction=correction)
            return [y, running[0] / most, running[1] / most / most]

        with np.errstate(over="ignore", under="ignore"):
            assert_agree(scaled)


@corrections
def test_switchable_norm_of_one_channel_or_one_sample(correction, rng):
    x, mean, var = rng.normal(size=(5, 1)), np.array([0.5]), np.array([2.0])
    assert_agree(lambda m: [
        m.switchable_norm(x, [1, 2], [2, 1], training=True, correction=correction),
        m.switchable_norm(x, [1, 2], [2, 1], None, None, mean, var, correction=correction),
        m.switchable_norm(x.T, [1, 2], [2, 1], None, None, mean.repeat(5), var.repeat(5),
                          correction=correction)])


@masks
@pytest.mark.parametrize("axes", [0, (1,), -1, (2, 0), (1, 2), (0, 1, 2)])
def test_layer_and_rms_norm(axes, masked, rng):
    x, where, *_ = drawn(rng, (3, 6, 4), masked)
    w, b = rng.normal(size=(2, *(x.shape[i] for i in sorted(i % 3 for i in np.ravel(axes)))))
    assert_agree(lambda m: parts(m.layer_norm(x, None, w, b, axis=axes, where=where,
                                              return_moments=True)))
    assert_agree(lambda m: parts(m.rms_norm(x, None, w, axis=axes, where=where,
                                            return_moments=True)))
    assert_agree(lambda m: parts(m.standardize(x, axes, where=where, return_moments=True)))


@shapes
def test_the_others(shape, axis, rng):
    x, _, slope, *_ = drawn(rng, shape, False)
    x = x - 7
    assert_agree(lambda m: [m.prelu(x, slope, axis=axis), m.prelu(x, 0.3, axis=axis),
                            m.leaky_relu(x, -2), m.relu(x)])
    if x.ndim > 2:
        assert_agree(lambda m: [m.local_response_norm(x, size, 0.3, 0.6, 2, axis=axis, window=at)
                                for size in (1, 2, 4, 5, 13) for at in ("torch", "onnx")])


def test_not_finite(rng):
    x = rng.normal(size=(4, 6, 5))
    x[0, 1, 2], x[1, 2, 3], x[2, 3, 4] = np.nan, np.inf, -np.inf
    assert_agree(lambda m: [
        m.batch_norm(x, training=True), m.instance_norm(x), m.layer_norm(x), m.rms_norm(x),
        m.group_norm(x, 2), m.switchable_norm(x, [1, 2, 3], [3, 2, 1], training=True),
        m.layer_norm(x, where=np.isfinite(x))])


def test_out_and_masked_arrays(rng):
    x = np.ma.array(rng.normal(size=(3, 4)), mask=rng.random((3, 4)) < 0.3)
    out = np.zeros((4, 3), np.float32).T
    assert reference.layer_norm(x, out=out) is out
    assert np.array_equal(out, reference.layer_norm(x).astype(np.float32))
    assert_agree(lambda m: [m.layer_norm(x), m.layer_norm(x, where=x.data > 0)])
