"""Every norm in plain NumPy, from its formula: what normc computes, and what its tests trust.

Every norm here but local_response_norm is one formula,

    y = (x - mean) / sqrt(var + eps) * weight + bias,

and differ only in which elements of x share a mean and a variance:

    batch_norm     all of one channel                     axes 0, 2, 3 of (N, C, H, W)
    instance_norm  one channel of one sample              axes 2, 3
    layer_norm     one sample                             axes 1, 2, 3, or any that are named
    group_norm     a group of channels of one sample      axes 1 (in part), 2, 3
    standardize    all, or any that are named             without weight and bias
    rms_norm       as layer_norm, but about zero          y = x / sqrt(mean(x^2) + eps) * weight
    switchable_norm blends mean and variance of instance, layer and batch

Names, arguments and meanings are those of ``normc``; bad arguments are not looked for. Inside,
everything is ``np.longdouble``; results are rounded once, to float64 or to the type of ``out``. The
axes that weight and bias run along are moved behind the others, where NumPy broadcasts them.
"""

import numpy as np

from ._moments import Moments

__all__ = ["Moments", "batch_norm", "group_norm", "instance_norm", "layer_norm", "leaky_relu",
           "local_response_norm", "moments", "prelu", "relu", "rms_norm", "standardize",
           "switchable_norm"]


def batch_norm(x, /, running_mean=None, running_var=None, weight=None, bias=None, training=False,
               momentum=0.1, eps=1e-5, *, axis=1, correction=1, where=None, out=None,
               return_moments=False):
    """Each channel by its own mean and variance over the batch (Ioffe and Szegedy, 2015).

    In training also, in place: running = (1 - momentum) * running + momentum * batch, where the
    batch's variance is m2 / (n - correction). Otherwise by the running mean and variance.
    """
    x, where = _input(x, where, [axis])
    if training:
        y, m = _norm(x, where, range(x.ndim - 1), eps, weight, bias)
        _track(running_mean, running_var, momentum, correction, *m)
    else:
        y, m = _affine(x - running_mean, running_var, eps, weight, bias), ()
    return _result(y, where, [axis], out, return_moments and m)


def instance_norm(x, /, running_mean=None, running_var=None, weight=None, bias=None,
                  use_input_stats=True, momentum=0.1, eps=1e-5, *, axis=1, correction=1,
                  where=None, out=None, return_moments=False):
    """Each channel of each sample by itself (Ulyanov, Vedaldi and Lempitsky, 2016).

    The running statistics take the average, over the samples, of mean and of variance.
    """
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, eps=eps, axis=axis,
                          where=where, out=out)
    x, where = _input(x, where, [axis])
    y, m = _norm(x, where, range(1, x.ndim - 1), eps, weight, bias)
    _track(running_mean, running_var, momentum, correction, *m)
    return _result(y, where, [axis], out, return_moments and m)


def layer_norm(x, /, normalized_shape=None, weight=None, bias=None, eps=1e-5, *, axis=None,
               where=None, out=None, return_moments=False):
    """Over the trailing axes of ``normalized_shape``, or over ``axis`` (Ba, Kiros, Hinton, 2016).

    Weight and bias have one value for each element that shares the mean.
    """
    axes = _axes(x, normalized_shape, axis)
    x, where = _input(x, where, axes)
    y, m = _norm(x, where, range(-len(axes), 0), eps, weight, bias)
    return _result(y, where, axes, out, return_moments and m)


def rms_norm(x, /, normalized_shape=None, weight=None, eps=None, *, axis=None, where=None,
             out=None, return_moments=False):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich, 2019): no mean is subtracted.

    eps is 2^-52 for float64 and integers, 2^-23 for the smaller floating types.
    """
    if eps is None:
        dtype = np.asarray(x).dtype
        eps = 2.0**-52 if dtype.kind in "biu" or dtype.itemsize == 8 else 2.0**-23
    axes = _axes(x, normalized_shape, axis)
    x, where = _input(x, where, axes)
    y, m = _norm(x, where, range(-len(axes), 0), eps, weight, None, about="zero")
    return _result(y, where, axes, out, return_moments and m, about="zero")


def group_norm(x, /, num_groups, weight=None, bias=None, eps=1e-5, *, axis=1, where=None, out=None,
               return_moments=False):
    """Neighbouring channels of one sample together, in num_groups groups (Wu and He, 2018)."""
    x, where = _input(x, where, [axis])
    split = (*x.shape[:-1], num_groups, x.shape[-1] // num_groups)
    weight, bias = (p if p is None else np.reshape(p, split[-2:]) for p in (weight, bias))
    y, m = _norm(x.reshape(split), where.reshape(split), (*range(1, x.ndim - 1), -1), eps, weight,
                 bias)
    return _result(y.reshape(x.shape), where, [axis], out,
                   return_moments and [part[..., 0] for part in m])


def switchable_norm(x, /, mean_weight, var_weight, weight=None, bias=None, running_mean=None,
                    running_var=None, training=False, momentum=0.1, eps=1e-5, *, axis=1,
                    correction=0, out=None, return_moments=False):
    """By a blend of instance, layer and batch statistics (Luo et al., 2018):

        mean = sum_k softmax(mean_weight)_k mean_k,   var = sum_k softmax(var_weight)_k var_k.

    Layer and batch statistics come of the instances', averaged over channels or over samples:
    mean_k = avg(mean), var_k = avg(var + mean^2) - mean_k^2: where var is biased, the mean and the
    variance of all their elements. An instance's correction raises them by its average.
    For (N, C), where an instance has no variance, k is layer and batch alone, both of x itself.
    """
    x, where = _input(x, None, [axis])
    moments, deviations, variances = [], [], []
    for over in (), (-1,), (0,):
        d, (n, mean, m2) = _centre(x, where, (*range(1, x.ndim - 1), *over))
        if not over or x.ndim == 2:
            raised = m2 * correction / np.maximum(n - correction, 1)
        moments.append((n, mean, m2))
        deviations.append(d)
        variances.append((m2 + raised.sum(over, keepdims=True)) / np.maximum(n, 1))
    if training:
        _track(running_mean, running_var, momentum, 0, n, mean, variances[2] * n)
    else:
        deviations[2], variances[2] = x - running_mean, running_var
    own = int(x.ndim == 2)
    d, var = _blend(mean_weight, deviations[own:]), _blend(var_weight, variances[own:])
    y = _affine(d, var, eps, weight, bias)
    return _result(y, where, [axis], out, return_moments and moments[0])


def local_response_norm(x, /, size, alpha=1e-4, beta=0.75, k=1.0, *, axis=1, window="torch",
                        out=None):
    """x / (k + alpha / size * sum x^2)^beta (Krizhevsky, Sutskever and Hinton, 2012).

    The sum runs over ``size`` channels around each; of an even size, "torch" takes the odd one
    before it and "onnx" the one after it. Channels outside x count as zero.
    """
    x, where = _input(x, None, [axis])
    before = size // 2 if window == "torch" else (size - 1) // 2
    sums = np.zeros_like(x)
    for c in range(x.shape[-1]):
        sums[..., c] = (x[..., max(c - before, 0):c - before + size] ** 2).sum(-1)
    return _result(x / (k + alpha * sums / size) ** beta, where, [axis], out)


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
    return prelu(x, negative_slope, out=out)


def prelu(x, /, weight, *, axis=1, out=None):
    """leaky_relu with one slope, or one slope per channel (He et al., 2015)."""
    axes, shape = ([], ()) if np.size(weight) == 1 else ([axis], -1)
    x, where = _input(x, None, axes)
    return _result(np.where(x < 0, x * np.reshape(weight, shape), x), where, axes, out)


def _norm(x, where, shared, eps, weight, bias, about="mean"):
    """The formula, where elements along the axes ``shared`` share n, mean and m2; and those."""
    d, (n, mean, m2) = _centre(x, where, shared, about)
    return _affine(d, m2 / np.maximum(n, 1), eps, weight, bias), (n, mean, m2)


@np.errstate(invalid="ignore")
def _centre(x, where, shared, about="mean"):
    """Each element less the mean of its group, and the group's n, mean and sum (x - mean)^2."""
    group = {"axis": tuple(shared), "keepdims": True}
    n = where.sum(**group)
    origin = mean = np.zeros(n.shape, x.dtype)
    if about == "mean":
        # First less the least element: equal ones are then 0, and large means cost no digits.
        origin = np.where(n, x.min(**group, where=where, initial=np.inf), 0)
        mean = np.where(where, x - origin, 0).sum(**group) / np.maximum(n, 1)
    d = np.where(where, x - origin - mean, 0)
    m2 = (d * d).sum(**group)
    return d, (n, origin + mean, np.where(np.isfinite(m2), m2, np.nan))


@np.errstate(invalid="ignore")
def _affine(d, var, eps, weight, bias):
    """d / sqrt(var + eps) * weight + bias; d / 0 is 0, for equal elements deviate by nothing."""
    var = var + np.longdouble(eps)
    y = d / np.sqrt(np.where(var == 0, np.inf, var))
    return y * (1 if weight is None else weight) + (0 if bias is None else bias)


def _track(running_mean, running_var, momentum, correction, n, mean, m2):
    """Running statistics take the average over samples; a single element teaches them nothing."""
    over = {"axis": tuple(range(n.ndim - 1)), "where": n > 1}
    samples = (n > 1).sum(over["axis"])
    for running, value in (running_mean, mean), (running_var, m2 / np.maximum(n - correction, 1)):
        if running is not None:
            batch = value.sum(**over) / np.maximum(samples, 1)
            new = (1 - momentum) * running.astype(np.longdouble) + momentum * batch
            running[...] = np.where(samples, new, running)


def _blend(logits, parts):
    """sum_k softmax(logits)_k parts_k."""
    shares = np.exp(np.subtract(logits, np.max(logits), dtype=np.longdouble))
    return sum(share * part for share, part in zip(shares / shares.sum(), parts))


def _axes(x, normalized_shape, axis):
    if axis is None:
        axis = range(-(1 if normalized_shape is None else np.size(normalized_shape)), 0)
    return sorted(i % np.ndim(x) for i in np.ravel(axis).astype(int))


def _input(x, where, axes):
    """x in extended precision and which of its elements count, ``axes`` behind the others."""
    where = np.broadcast_to(True if where is None else where, np.shape(x)) & ~np.ma.getmask(x)
    x = np.ma.getdata(x).astype(np.longdouble)
    return [np.moveaxis(a, axes, range(-len(axes), 0)) for a in (x, where)]


@np.errstate(over="ignore", under="ignore")
def _result(y, where, axes, out, m=(), about="mean"):
    """The same way back, rounded, 0 where an element was excluded; and the moments, if any."""
    results = [np.where(where, y, 0), *(m or ())]
    y, *m = (np.moveaxis(a, range(-len(axes), 0), axes) for a in results)
    out = np.empty(y.shape) if out is None else out
    out[...] = y
    return (out, Moments(*m, about=about)) if m else out
