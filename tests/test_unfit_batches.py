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


def test_single_values_under_a_mask(rng):
    """What a mask leaves decides: of every channel one value at most, as if there were no more."""
    layer = normc.BatchNorm1d(3, on_single="running", dtype=np.float64)
    layer(rng.normal(size=(9, 3)) + 5)
    before, x = state(layer), rng.normal(size=(4, 3))
    one = np.zeros((4, 1), bool)
    one[2] = True
    y = layer(x, where=one)
    expected = normc.batch_norm(x[2:3], layer.running_mean, layer.running_var)
    assert_same_bits(y[2:3], expected)
    assert not y[[0, 1, 3]].any()
    assert state(layer) == before
    assert_same_bits(layer(x[:1], where=np.ones((1, 3), bool)), layer(x[:1]))
    two = np.array([[1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 0, 0]], bool)
    layer(x, where=two)
    assert layer.running_mean[0] != np.frombuffer(before["running_mean"])[0]
    assert (layer.running_mean[1:] == np.frombuffer(before["running_mean"])[1:]).all()
    strict = normc.BatchNorm1d(3)
    assert not strict(x, where=one).any()  # no error under a mask: each is its own mean


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


@pytest.mark.parametrize("dtype, value", [(np.float32, 1e30), (np.float16, 1e4)], ids=str)
def test_statistics_that_do_not_fit(dtype, value):
    """Finite in double, infinite in the layer's arrays."""
    x = np.array([[value, 1], [-value, 3]])
    plain = normc.BatchNorm(2, dtype=dtype)
    plain(x)
    assert np.isinf(plain.running_var[0])
    skip = normc.BatchNorm(2, dtype=dtype, on_nonfinite="skip", momentum=None)
    skip(x)
    assert skip.running_var.tolist() == [1, 1] and skip.num_batches_tracked == 0
    strict = normc.BatchNorm(2, dtype=dtype, on_nonfinite="raise")
    with pytest.raises(ValueError, match="channel 0"):
        strict(x)
    plain.on_nonfinite = "raise"
    plain(np.array([[1.0, 1], [2, 3]]))  # what is infinite already is not this batch's fault


@pytest.mark.parametrize("make", [
    lambda **k: normc.InstanceNorm1d(4, track_running_stats=True, **k),
    lambda **k: normc.SwitchableNorm2d(4, **k),
    lambda **k: normc.SwitchableNorm2d(4, momentum=None, **k)], ids=["instance", "switchable",
                                                                     "cumulative"])
def test_the_other_layers_with_statistics(make, rng):
    x = rng.normal(size=(3, 4, 5)).astype(np.float32)
    x = x if isinstance(make(), normc.InstanceNorm1d) else x[..., None]
    bad = x.copy()
    bad[1, 2, 0] = np.nan
    plain, skip, strict = make(), make(on_nonfinite="skip"), make(on_nonfinite="raise")
    fresh, expected = state(skip), plain(bad)
    assert np.isnan(plain.running_var[2])
    assert_same_bits(skip(bad), expected)
    assert np.isnan(skip.backward(bad)).any()
    with pytest.raises(ValueError, match="not finite"):
        strict(bad)
    assert state(skip) == state(strict) == fresh
    clean = make()
    clean(x), skip(x), strict(x)
    assert state(skip) == state(strict) == state(clean)
    assert "on_nonfinite='skip'" in repr(skip) and "on_nonfinite" not in repr(clean)


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
