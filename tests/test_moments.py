"""Moments: merging, in any order and any pieces, keeps what the data hold."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import bound
import numpy as np
import pytest
import zoo
from hypothesis import given
from hypothesis import strategies as st

import normc
from normc import Moments

dtypes = pytest.mark.parametrize("dtype", zoo.DTYPES)


def exact(x):
    """Mean and sum of squares about it, of all of x, in the wide type."""
    d, mean, var = bound.deviations(np.ravel(x)[None])
    return mean[0, 0], (d * d).sum()


def assert_moments(m, x, pieces=1):
    """Merging rounds a few times per piece: u of the mean, and u of the spread."""
    mean, m2 = exact(x)
    n = np.size(x)
    sigma = np.sqrt(m2 / n)
    u = bound.wide(bound.UNIT["float64"])
    off_mean, off_var = bound.statistics(np.asarray(x).dtype, mean, m2 / n)
    assert m.count.ravel().tolist() == [n]
    got = bound.widen(m.mean).ravel()[0] + bound.widen(m.mean_lo).ravel()[0]
    assert abs(got - mean) <= off_mean + 8 * pieces * u * sigma
    assert abs(bound.widen(m.m2).ravel()[0] - m2) <= off_var * n + 8 * pieces * u * m2


@dtypes
@pytest.mark.parametrize("mean", [0, 1e3, 1e7, 1e12])
@pytest.mark.parametrize("cuts", [(500,), (1, 2, 3), (0, 999), (16, 17, 400, 401),
                                  tuple(range(7, 1000, 7))],
                         ids=["halves", "few", "ends", "uneven", "many"])
def test_any_split(cuts, mean, dtype, rng):
    if dtype == np.float16:
        mean = min(mean, 6e4)
    x = (rng.normal(size=1000) + mean).astype(dtype)
    pieces = [normc.moments(part) for part in np.split(x, cuts)]
    assert_moments(Moments.merge(pieces), x, len(pieces))
    assert_moments(Moments.merge(pieces[::-1]), x, len(pieces))
    assert_moments(Moments.merge(iter(pieces)), x, len(pieces))
    half = len(pieces) // 2
    tree = Moments.merge(pieces[:half or 1]) + Moments.merge(pieces[half or 1:])
    assert_moments(tree, x, len(pieces))
    running = normc.moments(x[:0])
    for part in np.split(x, cuts):
        assert running.update(part) is running
    assert_moments(running, x, len(pieces) + 1)


@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=8), seed=st.integers(0, 2**32 - 1),
       offset=st.sampled_from([0.0, 1.0, 1e6, -1e10]))
def test_pieces_of_any_size(sizes, seed, offset):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=n) * 10.0 ** rng.integers(-3, 4) + offset for n in sizes]
    x = np.concatenate(parts)
    whole = Moments.merge([normc.moments(p) for p in parts])
    assert whole.count == x.size
    if x.size:
        assert_moments(whole, x, len(parts))
    else:
        assert whole.mean == 0 and whole.m2 == 0 and np.isnan(whole.var())


@dtypes
def test_kept_dimensions(dtype, rng):
    x = rng.normal(size=(6, 4, 5)).astype(dtype)
    whole = normc.moments(x, (0, 2))
    merged = normc.moments(x[:2], (0, 2)) + normc.moments(x[2:], (0, 2))
    assert whole.count.shape == merged.mean.shape == (1, 4, 1)
    for c in range(4):
        assert_moments(Moments(*(f[:, [c]] for f in (merged.count, merged.mean, merged.m2)),
                               mean_lo=merged.mean_lo[:, [c]]), x[:, c], 2)
    updated = normc.moments(x[:2], (0, 2)).update(x[2:])
    assert updated == merged


@pytest.mark.parametrize("scale", [1, 2.0**600, 2.0**-600])
def test_mean_in_two_words(scale, rng):
    """float64 data a million million deviations from 0 lose nothing, whatever their size."""
    x = (rng.normal(size=997) + 1e12) * scale
    m = normc.moments(x[:300]) + normc.moments(x[300:])
    mean, m2 = exact(x)
    assert abs(m.mean_lo.item()) <= np.spacing(m.mean.item()) / 2
    assert abs(bound.widen(m.mean).item() + bound.widen(m.mean_lo).item() - mean) < 8e-15 * scale
    if scale == 1:
        assert abs(m.m2.item() - m2) <= 16 * 2.0**-53 * m2


@dtypes
def test_a_norm_returns_what_merging_needs(dtype, rng):
    """Statistics by chunks, then the whole normalised by them, as one."""
    x = (rng.normal(size=(8, 4, 5)) + 3).astype(dtype)
    chunks = [normc.batch_norm(part, training=True, return_moments=True)[1]
              for part in np.split(x, [3, 4])]
    m = Moments.merge(chunks)
    y = normc.batch_norm(x, m.mean.ravel(), m.var().ravel())
    whole = normc.batch_norm(x, training=True).astype(np.float64)
    # both are within the bound of the same exact result, whose deviations stay below 16
    tolerance = bound.tolerance(dtype, whole, 0, 1, 3, 1)
    assert (abs(y.astype(np.float64) - whole) <= 2 * tolerance + 32 * 2.0**-53).all()


def test_about_zero(rng):
    x = rng.normal(size=(3, 40)) + 5
    y, m = normc.rms_norm(x, eps=0.0, return_moments=True)
    assert m.about == "zero" and (m.mean == 0).all()
    bound.close(m.m2[:, 0], (bound.widen(x)**2).sum(1), 16)
    bound.close(m.rstd(0)[:, 0], 1 / np.sqrt((bound.widen(x)**2).mean(1)), 16)
    first, second = (normc.rms_norm(part, return_moments=True)[1] for part in (x[:, :7], x[:, 7:]))
    merged = first + second
    assert merged.about == "zero"
    bound.close(merged.m2[:, 0], (bound.widen(x)**2).sum(1), 16)
    assert first.update(x[:, 7:]) == merged
    with pytest.raises(ValueError, match="zero"):
        m + normc.moments(x, 1)
    with pytest.raises(ValueError, match="zero"):
        Moments.merge([normc.moments(x, 1), m])


def test_var_std_rstd():
    m = Moments([4, 1, 0], [2.0, 3.0, 0.0], [12.0, 0.0, 0.0])
    assert np.array_equal(m.var(), [3, 0, np.nan], equal_nan=True)
    assert np.array_equal(m.var(1), [4, np.nan, np.nan], equal_nan=True)
    assert np.array_equal(m.std(1), [2, np.nan, np.nan], equal_nan=True)
    assert np.array_equal(m.rstd(1.0)[:2], [0.5, 1])
    assert m.rstd(0.0)[1] == 0
    with pytest.raises(ValueError, match="eps"):
        m.rstd(-1.0)


def test_counts_of_zero(rng):
    nothing = normc.moments(np.zeros((0,)))
    some = normc.moments(rng.normal(size=5))
    assert nothing + some == some and some + nothing == some
    assert (nothing + nothing).count == 0 and (nothing + nothing).mean == 0
    x = rng.normal(size=(2, 6))
    where = np.array([[True] * 6, [False] * 6])
    m = normc.moments(x, 1, where=where)
    assert m.count.ravel().tolist() == [6, 0] and m.mean[1] == 0 and m.m2[1] == 0
    m.update(x, where=~where)
    assert m.count.ravel().tolist() == [6, 6]
    bound.close(m.mean[1, 0], bound.widen(x[1]).mean(), 8)
    with np.errstate(all="raise"):
        assert np.isnan((nothing + nothing).var())


def test_where_and_update(rng):
    x = rng.normal(size=(3, 50))
    where = rng.random(x.shape) < 0.5
    m = normc.moments(x, 1, where=where).update(x, where=~where)
    for row in range(3):
        one = Moments(m.count[row], m.mean[row], m.m2[row], mean_lo=m.mean_lo[row])
        assert_moments(one, x[row], 2)


def test_not_finite():
    m = normc.moments(np.array([[1, np.inf, 2], [1, 2, 4], [np.nan, 0, 0]]), 1)
    assert np.isnan(m.m2[[0, 2]]).all() and np.isfinite(m.m2[1]).all()
    assert m.count.ravel().tolist() == [3, 3, 3]


def test_pickle_copy_eq_repr(rng):
    m = normc.moments(rng.normal(size=(3, 7)) + 1e9, 1)
    for other in (copy.copy(m), copy.deepcopy(m)):
        assert type(other) is Moments and other == m
    with np.printoptions(precision=17):
        assert eval(repr(m), {"Moments": Moments, "array": np.array}) == m
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(m, protocol)) == m
    assert m == copy.deepcopy(m) and not m != copy.deepcopy(m)
    assert m != normc.moments(np.zeros((3, 7)), 1) and m != 3 and m != None  # noqa: E711
    assert "count=" in repr(m) and "mean=" in repr(m) and "m2=" in repr(m)
    zero = normc.rms_norm(np.ones((2, 3)), return_moments=True)[1]
    assert "about='zero'" in repr(zero) and zero == pickle.loads(pickle.dumps(zero))
    nan = normc.moments(np.array([np.nan, 1]))
    assert nan == copy.deepcopy(nan)
    a = normc.moments(np.arange(6.0))
    b = copy.deepcopy(a)
    a.update(np.ones(3))
    assert b.count == 6 and a.count == 9 and a != b


@pytest.mark.parametrize("error, message, build", [
    (ValueError, "shape", lambda: Moments([1, 2], [1.0], [0.0])),
    (ValueError, "about", lambda: Moments([1], [1.0], [0.0], about="median")),
    (ValueError, "count", lambda: Moments([-1], [1.0], [0.0])),
    (TypeError, "count", lambda: Moments([1.5], [1.0], [0.0])),
    (TypeError, "mean_lo|positional", lambda: Moments([1], [1.0], [0.0], [0.0])),
    (ValueError, "shape", lambda: normc.moments(np.ones(3)) + normc.moments(np.ones((3, 2)), 1)),
    (TypeError, "Moments", lambda: normc.moments(np.ones(3)) + 1),
    (ValueError, "at least one", lambda: Moments.merge([])),
    (TypeError, "Moments", lambda: Moments.merge([normc.moments(np.ones(3)), 1])),
    (ValueError, "shape", lambda: normc.moments(np.ones((3, 4)), 1).update(np.ones((2, 4)))),
    (TypeError, "x", lambda: normc.moments(np.ones(3)).update(np.ones(3, complex))),
])
def test_bad_moments(error, message, build):
    with pytest.raises(error, match=message):
        build()


def test_a_failed_update_changes_nothing(rng):
    m = normc.moments(rng.normal(size=(3, 5)), 1)
    before = copy.deepcopy(m)
    for bad in (np.ones((2, 5)), np.ones((3, 5, 1)), np.ones((3, 5), complex), "a"):
        with pytest.raises((TypeError, ValueError)):
            m.update(bad)
        assert m == before


@pytest.mark.parametrize("shape, axis", [((100, 64, 0), 1), ((0, 64, 5), 1), ((64, 100, 0), 0)])
def test_groups_without_elements(shape, axis):
    y, m = normc.group_norm(np.zeros(shape), 2, axis=axis, return_moments=True)
    groups = np.moveaxis(np.zeros(shape), axis, 1).shape[0] * 2
    assert y.shape == shape
    assert m.count.size == m.mean.size == groups
    assert not m.count.any() and not m.mean.any() and not m.m2.any()


FIELDS = ("count", "mean", "mean_lo", "m2")


@pytest.mark.parametrize("first", FIELDS)
def test_fields_are_there_whichever_is_asked_for_first(first):
    """What the core returns is taken apart when a field is asked for."""
    x = np.arange(12.0).reshape(3, 4) * 0.1
    fresh, whole = normc.moments(x, 1), normc.moments(x, 1)
    assert whole.shape == (3, 1)
    np.testing.assert_array_equal(getattr(fresh, first), getattr(whole, first))
    assert vars(fresh).keys() == {*FIELDS, "about"}
    assert fresh == whole
    with pytest.raises(AttributeError, match="nonsense"):
        fresh.nonsense


@pytest.mark.parametrize("through", [copy.copy, copy.deepcopy,
                                     lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_of_moments_nobody_has_looked_at(through):
    x = np.arange(12.0).reshape(3, 4)
    moments = normc.moments(x, 1)
    assert through(moments) == moments == normc.moments(x, 1)


def test_a_field_that_was_set_stays():
    x = np.arange(12.0).reshape(3, 4)
    grad, changed = x * x, normc.moments(x, 1)
    changed.mean = np.zeros((3, 1))
    theirs = normc.layer_norm_backward(grad, x, moments=changed)[0]
    moments = normc.moments(x, 1)
    own = normc.layer_norm_backward(grad, x, moments=moments)[0]
    assert (changed.mean == 0).all() and changed.m2.tolist() == moments.m2.tolist()
    assert not np.array_equal(theirs, own)
    np.testing.assert_array_equal(normc.layer_norm_backward(grad, x, moments=moments)[0], own)


def test_many_threads_take_the_same_moments_apart():
    x = np.arange(12.0).reshape(3, 4)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(50):
            moments = normc.moments(x, 1)
            shapes = set(pool.map(lambda name: getattr(moments, name).shape, FIELDS * 4))
            assert shapes == {(3, 1)}
