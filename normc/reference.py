"""Every norm in plain NumPy, from its formula: what normc computes, and what its tests trust.

All but two functions here are one formula,

    y = (x - mean) / sqrt(var + eps) * weight + bias,

and differ only in which elements of x share a mean and a variance:

    batch_norm     all of one channel                     axes 0, 2, 3 of (N, C, H, W)
    instance_norm  one channel of one sample              axes 2, 3
    layer_norm     one sample                             axes 1, 2, 3, or any that are named
    group_norm     a group of channels of one sample      axes 1 (in part), 2, 3
    rms_norm       as layer_norm, but about zero          y = x / sqrt(mean(x^2) + eps) * weight

Names, arguments and meanings are those of ``normc``; bad arguments are not looked for. Inside,
everything is ``np.longdouble``; results are rounded once, to float64 or to the type of ``out``.
"""

from typing import NamedTuple

import numpy as np

__all__ = ["Moments", "batch_norm", "group_norm", "instance_norm", "layer_norm", "leaky_relu",
           "local_response_norm", "moments", "prelu", "relu", "rms_norm", "standardize",
           "switchable_norm"]


class Moments(NamedTuple):
    """Of each group: count n, mean = sum x / n, and m2 = sum (x - mean)^2."""

    count: np.ndarray
    mean: np.ndarray
    m2: np.ndarray

    @np.errstate(divide="ignore", invalid="ignore")
    def var(self, correction=0):
        """m2 / (n - correction): biased, or with 1 unbiased; NaN where nothing is left."""
        rest = self.count - correction
        return np.where(rest > 0, self.m2 / rest, np.nan)

    def rstd(self, eps):
        """1 / sqrt(var + eps), and 0 where var + eps is 0: equal elements deviate by nothing."""
        return _reciprocal_root(self.var() + eps)


def batch_norm(x, /, running_mean=None, running_var=None, weight=None, bias=None, training=False,
               momentum=0.1, eps=1e-5, *, axis=1, correction=1, where=None, out=None,
               return_moments=False):
    """Each channel by its own mean and variance over the batch (Ioffe and Szegedy, 2015).

    In training also, in place: running = (1 - momentum) * running + momentum * batch, where the
    batch's variance is m2 / (n - correction). Otherwise by the running mean and variance.
    """
    (x, where), channel = _input(x, where), (axis % np.ndim(x),)
    if not training:
        d, rstd = x - _along(running_mean, x, channel, 0), _along(running_var, x, channel, 1) + eps
        return _result(d, _reciprocal_root(rstd), x, channel, weight, bias, where, out)
    d, m = _centre(x, where, _all_but(x, channel))
    _track(running_mean, running_var, m, correction, momentum, channel)
    return _result(d, m.rstd(eps), x, channel, weight, bias, where, out, return_moments and m)


def instance_norm(x, /, running_mean=None, running_var=None, weight=None, bias=None,
                  use_input_stats=True, momentum=0.1, eps=1e-5, *, axis=1, correction=1,
                  where=None, out=None, return_moments=False):
    """Each channel of each sample by itself (Ulyanov, Vedaldi and Lempitsky, 2016).

    The running statistics take the average, over the samples, of mean and of variance.
    """
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps,
                          axis=axis, where=where, out=out)
    (x, where), channel = _input(x, where), (axis % np.ndim(x),)
    d, m = _centre(x, where, _all_but(x, (0, *channel)))
    _track(running_mean, running_var, m, correction, momentum, channel)
    return _result(d, m.rstd(eps), x, channel, weight, bias, where, out, return_moments and m)


def layer_norm(x, /, normalized_shape=None, weight=None, bias=None, eps=1e-5, *, axis=None,
               where=None, out=None, return_moments=False):
    """Over the trailing axes of ``normalized_shape``, or over ``axis`` (Ba, Kiros, Hinton, 2016).

    Weight and bias have one value for each element that shares the mean.
    """
    (x, where), axes = _input(x, where), _shared_axes(x, normalized_shape, axis)
    d, m = _centre(x, where, axes)
    return _result(d, m.rstd(eps), x, axes, weight, bias, where, out, return_moments and m)


def rms_norm(x, /, normalized_shape=None, weight=None, eps=None, *, axis=None, where=None,
             out=None, return_moments=False):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich, 2019): no mean is subtracted.

    eps is 2^-52 for float64 and integers, 2^-23 for the smaller floating types.
    """
    if eps is None:
        small = np.asarray(x).dtype.kind not in "biu" and np.asarray(x).dtype.itemsize < 8
        eps = 2.0**-23 if small else 2.0**-52
    (x, where), axes = _input(x, where), _shared_axes(x, normalized_shape, axis)
    d, m = _centre(x, where, axes, times=0)
    return _result(d, m.rstd(eps), x, axes, weight, None, where, out, return_moments and m)


def group_norm(x, /, num_groups, weight=None, bias=None, eps=1e-5, *, axis=1, where=None, out=None,
               return_moments=False):
    """Neighbouring channels of one sample together, in num_groups groups (Wu and He, 2018)."""
    (x, where), axis = _input(x, where), axis % np.ndim(x)
    split = (*x.shape[:axis], num_groups, x.shape[axis] // num_groups, *x.shape[axis + 1:])
    shared = tuple(i for i in range(x.ndim + 1) if i not in (0, axis))
    d, m = _centre(x.reshape(split), where.reshape(split), shared)
    d = (d * m.rstd(eps)).reshape(x.shape)
    m = Moments(*(field.squeeze(axis + 1) for field in m))
    return _result(d, 1, x, (axis,), weight, bias, where, out, return_moments and m)


def switchable_norm(x, /, mean_weight, var_weight, weight=None, bias=None, running_mean=None,
                    running_var=None, training=False, momentum=0.1, eps=1e-5, *, axis=1,
                    correction=0, out=None, return_moments=False):
    """By a blend of instance, layer and batch statistics (Luo et al., 2018):

        mean = sum_k softmax(mean_weight)_k mean_k,   var = sum_k softmax(var_weight)_k var_k.

    Layer and batch statistics come of the instances', averaged over channels or over samples:
    mean_k = avg(mean), var_k = avg(var + mean^2) - mean_k^2 = avg(var) + avg((mean - mean_k)^2).
    For (N, C), where an instance has no variance, k is layer and batch alone, both of x itself.
    """
    (x, where), axis = _input(x, None), axis % np.ndim(x)
    # Without the mean of all, no mean that is blended below is a large number.
    centre = np.where(np.isfinite(x), x, 0).sum() / max(x.size, 1)
    d, (count, mean, m2) = _centre(x - centre, where, _all_but(x, (0, axis)))
    var = Moments(count, mean, m2).var(correction * (count > 1))
    blend = [(mean, var)]
    for over in (axis, 0):
        m, inner = _centre(mean, np.True_, (over,))[1], _centre(var, np.True_, (over,))[1].mean
        blend.append((m.mean, m.var(correction) if x.ndim == 2 else inner + m.var()))
    if training:
        _publish(running_mean, (blend[2][0] + centre).ravel(), momentum, x.size > 0)
        _publish(running_var, blend[2][1].ravel(), momentum, x.size > 0)
    else:
        blend[2] = _along(running_mean, x, (axis,), 0) - centre, _along(running_var, x, (axis,), 1)
    means, variances = zip(*blend[x.ndim == 2:])
    d = d + sum(w * (mean - part) for w, part in zip(_softmax(mean_weight), means))
    var = sum(w * part for w, part in zip(_softmax(var_weight), variances))
    m = return_moments and Moments(count, mean + centre, m2)
    return _result(d, _reciprocal_root(var + eps), x, (axis,), weight, bias, where, out, m)


def local_response_norm(x, /, size, alpha=1e-4, beta=0.75, k=1.0, *, axis=1, window="torch",
                        out=None):
    """x / (k + alpha / size * sum x^2)^beta (Krizhevsky, Sutskever and Hinton, 2012).

    The sum runs over ``size`` channels around each; of an even size, "torch" takes the odd one
    before it and "onnx" the one after it. Channels outside x count as zero.
    """
    x, where = _input(x, None)
    before = size // 2 if window == "torch" else (size - 1) // 2
    squares = np.moveaxis(x * x, axis, 0)
    sums = np.zeros_like(squares)
    for c in range(len(sums)):
        sums[c] = squares[max(c - before, 0):max(c - before + size, 0)].sum(0)
    d = (k + alpha / wide(size) * np.moveaxis(sums, 0, axis)) ** wide(beta)
    return _result(x / d, 1, x, (), None, None, where, out)


def standardize(x, /, axis=None, *, eps=0.0, where=None, out=None, return_moments=False):
    """(x - mean) / sqrt(var + eps) over any axes, all by default."""
    return layer_norm(x, eps=eps, axis=range(np.ndim(x)) if axis is None else axis, where=where,
                      out=out, return_moments=return_moments)


def moments(x, /, axis=None, *, where=None):
    """Count, mean and centred second moment over any axes, all by default; dimensions are kept."""
    return standardize(x, axis, where=where, return_moments=True)[1]


def relu(x, /, *, out=None):
    """x where x >= 0, else 0."""
    return leaky_relu(np.maximum(x, 0), 1, out=out)


def leaky_relu(x, /, negative_slope=0.01, *, out=None):
    """x where x >= 0, else x * negative_slope (Maas, Hannun and Ng, 2013)."""
    x, where = _input(x, None)
    return _result(np.where(x < 0, x * negative_slope, x), 1, x, (), None, None, where, out)


def prelu(x, /, weight, *, axis=1, out=None):
    """leaky_relu with one slope, or one slope per channel (He et al., 2015)."""
    slope = np.asarray(weight).astype(wide)
    slope = slope.reshape(()) if slope.size == 1 else _along(slope, np.asarray(x), (axis,), 1)
    return leaky_relu(x, slope, out=out)


wide = np.longdouble


def _input(x, where):
    """x in the wide type, and which of its elements count."""
    where = np.True_ if where is None else where
    where = np.broadcast_to(where, np.shape(x)) & ~np.ma.getmask(x)
    return np.ma.getdata(x).astype(np.float64).astype(wide), where


@np.errstate(invalid="ignore")
def _centre(x, where, axes, times=2):
    """Each element less its group's mean, and the groups' moments.

    Centring twice takes away what rounding left of the first mean, so that nothing is lost even
    where the mean is a million million times the deviation; the square of a mean is never formed.
    """
    where = np.broadcast_to(where, x.shape)
    group = {"axis": axes, "keepdims": True}
    count = where.sum(**group)
    d, mean = np.where(where, x, 0), np.zeros(count.shape, wide)
    for _ in range(times):
        shift = d.sum(**group) / np.maximum(count, 1)
        # A mean is never outside its elements: those of a constant group then deviate by zero.
        least, most = d.min(**group, where=where, initial=np.inf), d.max(**group, initial=-np.inf,
                                                                         where=where)
        shift = np.where(count, np.clip(shift, least, most), 0)
        d, mean = np.where(where, d - shift, 0), mean + shift
    m2 = (d * d).sum(**group)
    return d, Moments(count, mean, np.where(np.isfinite(m2), m2, np.nan))


@np.errstate(divide="ignore", invalid="ignore")
def _reciprocal_root(v):
    return np.where(v == 0, 0, 1 / np.sqrt(v))


def _track(running_mean, running_var, m, correction, momentum, channel):
    """Running statistics take the samples' average; a single element teaches them nothing."""
    over = {"axis": _all_but(m.mean, channel), "where": m.count > 1}
    samples = (m.count > 1).sum(over["axis"])
    for running, value in (running_mean, m.mean), (running_var, m.var(correction)):
        _publish(running, value.sum(**over) / np.maximum(samples, 1), momentum, samples > 0)


def _publish(running, batch, momentum, use):
    if running is not None:
        value = (1 - momentum) * running.astype(wide) + momentum * batch
        running[...] = np.where(use, value, running)


def _along(parameter, x, axes, default):
    """A parameter with one value per element of ``axes``, shaped to meet x; None: ``default``."""
    if parameter is None:
        return wide(default)
    axes = sorted(i % x.ndim for i in axes)
    parameter = np.asarray(parameter).astype(wide).reshape([x.shape[i] for i in axes])
    return np.expand_dims(parameter, _all_but(x, axes))


def _all_but(x, kept):
    return tuple(i for i in range(x.ndim) if i not in kept)


def _shared_axes(x, normalized_shape, axis):
    if axis is None:
        axis = range(-(1 if normalized_shape is None else np.size(normalized_shape)), 0)
    return tuple(i % np.ndim(x) for i in np.ravel(axis).astype(int))


def _softmax(logits):
    e = np.exp(np.asarray(logits).astype(wide) - np.max(logits))
    return e / e.sum()


def _result(d, rstd, x, axes, weight, bias, where, out, m=False):
    y = d * rstd * _along(weight, x, axes, 1) + _along(bias, x, axes, 0)
    out = np.empty(x.shape) if out is None else out
    with np.errstate(over="ignore", under="ignore"):
        out[...] = np.where(where, y, 0)
    if not m:
        return out
    return out, Moments(m.count, m.mean.astype(np.float64), m.m2.astype(np.float64))
