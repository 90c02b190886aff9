"""How far results are from exact ones, as a fraction of the bound that the README publishes."""

from dataclasses import replace

import numpy as np

from . import cases
from .cases import UNIT

WIDE = np.longdouble


def error(case, data, result):
    """The largest error of the groups that are looked at: the first and the last."""
    chosen, part, axis = _part(case, data)
    if case.backward:
        dx, *gradients = result
        return max(_of_dx(chosen, part, _take(dx, axis)), _of_parameters(case, data, gradients))
    y = _take(result, axis).astype(WIDE)
    exact = cases.forward(chosen, part.x, part.weight, part.bias, part.mean, part.var)
    return _largest(y, exact, _allowed(chosen, part, exact))


def _take(a, axis):
    return np.asarray(a)[tuple(slice(None, None, max(a.shape[axis] - 1, 1)) if i == axis
                               else slice(None) for i in range(a.ndim))]


def _part(case, data):
    """A case of two groups at least, its data in extended precision, the axis they are from."""
    axis = case.axis % len(case.shape) if case.norm == "batch_norm" else 0
    x = _take(data.x, axis).astype(WIDE)
    grad = None if data.grad is None else _take(data.grad, axis).astype(WIDE)
    vectors = [a.astype(WIDE) for a in (data.weight, data.bias, data.mean, data.var)]
    if case.norm == "batch_norm":
        vectors = [_take(a, 0) for a in vectors]
    return replace(case, shape=x.shape), cases.Data(x, *vectors, grad), axis


def _largest(got, exact, allowed):
    return float((abs(got - exact) / allowed).max())


def _allowed(case, part, y):
    u = UNIT[case.dtype]
    if case.norm == "local_response_norm":
        return (case.size + 6) * u * abs(y)
    weight, bias = (np.broadcast_to(a.reshape(case.along), case.split).reshape(y.shape)
                    for a in (part.weight, part.bias))
    rest = abs(y - bias) if case.has_bias else abs(y)
    if case.dtype in ("float16", "bfloat16"):
        return u * abs(y) + 2.0**-7 * u * np.maximum(abs(y), rest)
    flat = 2.0**-42 if case.dtype == "float32" else 8 * u
    return u * abs(y) + (5 if case.dtype == "float32" else 8) * u * rest + flat * abs(weight)


def _of_dx(case, part, dx):
    xhat, rstd, t, centre, slope = cases.terms(case, part.grad, part.x, part.weight)
    exact = (t - centre - xhat * slope) * rstd
    allowed = 8 * rstd * (abs(t) + abs(centre) + abs(xhat * slope))
    if case.dtype in ("float16", "bfloat16"):
        allowed = allowed * UNIT["float32"] + UNIT[case.dtype] * abs(exact) * (1 + 2.0**-7)
    else:
        allowed = allowed * UNIT[case.dtype]
    return _largest(dx.astype(WIDE).reshape(case.split), exact, allowed + np.finfo(np.float32).tiny)


def _of_parameters(case, data, gradients):
    """Sums of all that there is, in double."""
    x, grad = data.x.astype(float), data.grad.astype(float).reshape(case.split)
    xhat, _ = cases.standardise(case, x)
    over = tuple(i for i, n in enumerate(case.along) if n == 1)
    worst = 0.0
    for got, a in zip(gradients, (grad * xhat, grad)):
        exact, size = a.sum(over).ravel(), abs(a).sum(over).ravel()
        unit = UNIT[case.dtype] if case.dtype in ("float16", "bfloat16") else 0
        allowed = 4 * UNIT["float32"] * size + unit * abs(exact)
        worst = max(worst, _largest(np.asarray(got).astype(float).ravel(), exact, allowed))
    return worst
