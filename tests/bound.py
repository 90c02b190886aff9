"""The published bound, against results that are exact for the data as given.

Exact means: in ``np.longdouble`` (64 bits of mantissa or more, and an exponent that neither squares
of 1e308 nor subnormals leave), with pairwise sums and means taken away twice. What that leaves is
below 2^-56 of a standard deviation for a million elements; test_bound.py holds it against
fractions.
"""

import numpy as np

wide = np.longdouble

if np.finfo(wide).nmant < 63:
    raise RuntimeError("the exact results need an np.longdouble of at least 64 bits of mantissa")


def name(dtype):
    return np.dtype(dtype).name


# unit roundoff, smallest subnormal, largest finite
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
TINY = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "float64": 2.0**-1074}
MAXEXP = {"float16": 16, "bfloat16": 128, "float32": 128, "float64": 1024}


def widen(x):
    """To the wide type; its own values stay, and bfloat16 goes through float64."""
    x = np.asarray(x)
    return x if x.dtype == wide else x.astype(np.float64).astype(wide)


def ulp(v, dtype):
    """Distance of neighbours of `dtype` at v."""
    exponent = np.frexp(np.where(np.isfinite(v), v, 0))[1] - 1
    spacing = np.ldexp(wide(2 * UNIT[name(dtype)]), exponent)
    return np.maximum(spacing, TINY[name(dtype)])


def deviations(x, where=None, centred=True):
    """(groups, n) -> deviations, mean and biased variance of each row, (groups, 1)."""
    x = np.ascontiguousarray(widen(x))
    where = np.ones(x.shape, bool) if where is None else where
    count = np.maximum(where.sum(1, keepdims=True), 1)
    d = np.where(where, x, 0)
    mean = np.zeros((len(x), 1), wide)
    for _ in range(2 if centred else 0):
        shift = d.sum(1, keepdims=True) / count
        d, mean = np.where(where, d - shift, 0), mean + shift
    if centred and d.size:  # rounding must not give a constant group a variance
        least = np.where(where, x, np.inf).min(1, keepdims=True)
        most = np.where(where, x, -np.inf).max(1, keepdims=True)
        d, mean = np.where(least == most, 0, d), np.where(least == most, least, mean)
    return d, mean, (d * d).sum(1, keepdims=True) / count


def reciprocal(sigma):
    return np.where(sigma == 0, 0, 1 / np.where(sigma == 0, 1, sigma))


def tolerance(dtype, y, bias, weight, mean, sigma):
    """How far a result may be from y, the exact one."""
    dtype = name(dtype)
    spread, weight, rstd = abs(y - bias), abs(weight), reciprocal(sigma)
    u, tiny = wide(UNIT[dtype]), wide(TINY[dtype])
    if dtype == "float32":
        flat = 2.0**-42 + 2.0**-46 * abs(mean) * rstd
        return u * abs(y) + 5 * u * spread + weight * flat + tiny * (1 + weight * rstd)
    if dtype == "float64":
        return u * abs(y) + 8 * u * spread + 8 * u * weight + tiny * (1 + weight * rstd)
    return ulp(y, dtype) / 2 + ulp(np.maximum(abs(y), spread), dtype) / 256


def assert_within(got, exact, allowed, dtype=None):
    """|got - exact| <= allowed, NaN where NaN is due, infinite only where rounding overflows."""
    dtype = name(got.dtype if dtype is None else dtype)
    assert np.shape(got) == np.shape(exact)
    got, exact, allowed = np.broadcast_arrays(widen(got), widen(exact), allowed)
    overflow = np.ldexp(wide(1), MAXEXP[dtype]) * (1 - wide(UNIT[dtype]) / 2)
    with np.errstate(invalid="ignore"):
        fine = abs(got - exact) <= allowed
        same_side = np.isinf(got) & (np.sign(got) == np.sign(exact))
        fine |= same_side & (abs(exact) + allowed >= overflow)
    fine |= np.isnan(got) & np.isnan(exact)
    if not fine.all():
        worst = np.argwhere(~fine)[0]
        at = tuple(worst)
        raise AssertionError(
            f"{dtype}: {np.count_nonzero(~fine)} of {fine.size} beyond the bound, first at {at}: "
            f"got {got[at]!r}, exact {exact[at]!r}, error {abs(got[at] - exact[at]):.3e}, "
            f"allowed {allowed[at]:.3e}")


def statistics(dtype, mean, var):
    """How far mean and variance may be from exact ones, where the bound on y is to hold.

    Squares of the smaller types are summed in double about zero as long as mean^2 <= 2^22 var: the
    sum of squares, the square of the sum and their difference then round by 2^-31 of var each.
    """
    sigma, u = np.sqrt(var), UNIT["float64"]
    if name(dtype) == "float64":
        return 8 * u * sigma + u * abs(mean), 16 * u * var
    return 2.0**-42 * sigma + 2.0**-46 * abs(mean), 3 * 2.0**-31 * var


def close(got, exact, factor=4):
    """float64 arithmetic: a few roundings away from exact."""
    exact = widen(exact)
    tol = factor * wide(UNIT["float64"]) * abs(exact) + TINY["float64"]
    assert_within(np.asarray(got, np.float64), exact, tol)


def gradient(dtype, g, w, d, sigma, where=None, centred=True):
    """Exact dx and the terms of dweight, and how far dx and such a term may be from them.

    g, w and d, the deviations, are (groups, n); g counts as rounded to the type computed in. The
    flat terms are what the sums in double and the statistics leave where everything else cancels.
    """
    dtype = name(dtype)
    rstd, n = reciprocal(sigma), 1 if where is None else np.maximum(where.sum(1, keepdims=True), 1)
    n = g.shape[1] if where is None else n
    g, d = (a if where is None else np.where(where, a, 0) for a in (widen(g), d))
    t, xhat = g * w, d * rstd

    def mean(a):
        return a.sum(1, keepdims=True) / n

    centre = mean(t) if centred else 0 * mean(t)
    dx = (t - centre - xhat * mean(t * xhat)) * rstd
    u = wide(UNIT["float64" if dtype == "float64" else "float32"])
    if dtype == "float64":
        allowed = 8 * u * (abs(t) + mean(abs(t)) + abs(xhat) * mean(abs(t * xhat)))
        allowed += 8 * u * (1 + abs(xhat)) * mean(abs(t))
    else:
        allowed = 8 * u * (abs(t) + abs(centre) + abs(xhat * mean(t * xhat)))
        allowed += 2.0**-42 * (1 + abs(xhat)) * mean(abs(t))
    allowed = allowed * rstd
    tiny = wide(TINY["float64" if dtype == "float64" else "float32"])
    allowed = allowed + tiny * (1 + rstd * (1 + abs(w)) + abs(xhat))
    if dtype in ("float16", "bfloat16"):
        allowed = allowed + ulp(dx, dtype) / 2 + ulp(abs(dx) + allowed, dtype) / 256
    if where is not None:
        dx, allowed = np.where(where, dx, 0), np.where(where, allowed, 0)
    return dx, allowed, g * xhat
