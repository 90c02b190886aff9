"""Batches that say nothing of their variance: of one value, or of none that is finite."""

import numpy as np
import pytest
from zoo import assert_same_bits

import normc


def state(layer):
    return {k: v.tobytes() for k, v in layer.state_dict().items()}


def test_single_values_by_the_running_statistics(rng):
    layer = normc.BatchNorm1d(4, on_single="running")
    many = rng.normal(size=(9, 4)).astype(np.float32) + 2
    layer(many)
    before = state(layer)
    for one in (many[:1], many[:1, :, None]):
        y = layer(one)
        assert_same_bits(y, normc.batch_norm(one, layer.running_mean, layer.running_var,
                                             layer.weight, layer.bias))
        dx = layer.backward(np.ones_like(one))
        along = (1, 4) + (1,) * (one.ndim - 2)
        rstd = (1 / np.sqrt(layer.running_var.astype(float) + 1e-5)).reshape(along)
        assert np.abs(dx - rstd).max() < 1e-6
    assert state(layer) == before
    layer(many[:2])
    assert state(layer) != before and layer.num_batches_tracked == 2
    layer.on_single = "error"
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        layer(many[:1])


def test_single_values_without_running_statistics():
    layer = normc.BatchNorm(3, track_running_stats=False, on_single="running")
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        layer(np.ones((1, 3)))


SPOILED = [(np.nan, np.float32), (np.inf, np.float16), (-np.inf, np.float64), (1e300, np.float64)]


@pytest.mark.parametrize("value, dtype", SPOILED, ids=str)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_statistics_that_are_not_finite(value, dtype, momentum, rng):
    x = rng.normal(size=(6, 4, 3)).astype(dtype)
    bad = x.copy()
    bad[2, 1, 0] = value
    plain = normc.BatchNorm(4, momentum=momentum)
    expected = plain(bad)
    assert plain.num_batches_tracked == 1
    skip = normc.BatchNorm(4, momentum=momentum, on_nonfinite="skip")
    strict = normc.BatchNorm(4, momentum=momentum, on_nonfinite="raise")
    fresh = state(skip)
    for _ in range(2):
        assert_same_bits(skip(bad), expected)
        assert state(skip) == fresh
        with pytest.raises(ValueError, match="x has a mean or variance .* in channel 1"):
            strict(bad)
        assert state(strict) == fresh
    with pytest.raises(RuntimeError, match="not been called"):
        strict.backward(bad)
    assert not np.isfinite(plain.running_var).all()
    for layer in (skip, strict):
        assert np.isfinite(layer(x)).all()
        assert np.isfinite(layer.running_mean).all() and layer.num_batches_tracked == 1
    hidden = np.ones(bad.shape, bool)
    hidden[2, 1, 0] = False
    strict(bad, where=hidden)
    assert strict.num_batches_tracked == 2
    strict.eval()(bad)


def test_non_finite_values_without_statistics(rng):
    bad = np.array([[1.0, 2], [np.nan, 4]])
    with pytest.raises(ValueError, match="channel 0"):
        normc.BatchNorm(2, track_running_stats=False, on_nonfinite="raise")(bad)
    normc.BatchNorm(2, on_nonfinite="raise").freeze()(bad)


@pytest.mark.parametrize("name, words", [("on_single", ("error", "running")),
                                         ("on_nonfinite", ("propagate", "skip", "raise"))])
def test_the_words(name, words):
    layer = normc.BatchNorm(2)
    assert getattr(layer, name) == words[0] and name not in repr(layer)
    for word in words:
        setattr(layer, name, word)
        assert getattr(layer, name) == word
    assert f"{name}='{words[-1]}'" in repr(layer)
    for bad, error in (("", ValueError), ("Skip", ValueError), (None, TypeError), (1, TypeError)):
        with pytest.raises(error, match=name):
            setattr(layer, name, bad)
        with pytest.raises(error, match=name):
            normc.BatchNorm(2, **{name: bad})
    field = getattr(normc._core.BatchNorm, name)
    for junk in (3, "word", np.ones(3), object()):
        field.__set__(layer, junk)
        with pytest.raises(TypeError, match=name):
            layer([[1.0, 2], [3, 4]])
    field.__delete__(layer)
    layer([[1.0, 2], [3, 4]])
