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

__all__ = ["Moments", "batch_norm", "batch_norm_backward", "group_norm", "group_norm_backward",
           "instance_norm", "instance_norm_backward", "layer_norm", "layer_norm_backward",
           "leaky_relu", "leaky_relu_backward", "local_response_norm",
           "local_response_norm_backward", "moments", "prelu", "prelu_backward", "relu",
           "relu_backward", "rms_norm", "rms_norm_backward", "standardize", "switchable_norm",
           "switchable_norm_backward"]


def batch_norm(x, /, running_mean=None, running_var=None, weight=None, bias=None, training=False,
               momentum=0.1, eps=1e-5, *, axis=1, correction=1, where=None, out=None,
               return_moments=False, activation=None):
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
    return _result(y, where, [axis], out, return_moments and m, activation=activation)


def instance_norm(x, /, running_mean=None, running_var=None, weight=None, bias=None,
                  use_input_stats=True, momentum=0.1, eps=1e-5, *, axis=1, correction=1, where=None,
                  out=None, return_moments=False, activation=None):
    """Each channel of each sample by itself (Ulyanov, Vedaldi and Lempitsky, 2016).

    The running statistics take the average, over the samples, of mean and of variance.
    """
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, eps=eps, axis=axis,
                          where=where, out=out, activation=activation)
    x, where = _input(x, where, [axis])
    y, m = _norm(x, where, range(1, x.ndim - 1), eps, weight, bias)
    _track(running_mean, running_var, momentum, correction, *m)
    return _result(y, where, [axis], out, return_moments and m, activation=activation)


def layer_norm(x, /, normalized_shape=None, weight=None, bias=None, eps=1e-5, *, axis=None,
               where=None, out=None, return_moments=False, activation=None, residual=None):
    """Over the trailing axes of ``normalized_shape``, or over ``axis`` (Ba, Kiros, Hinton, 2016).

    Weight and bias have one value for each element that shares the mean.
    """
    axes, (x, total) = _axes(x, normalized_shape, axis), _joined(x, residual)
    x, where = _input(x, where, axes)
    y, m = _norm(x, where, range(-len(axes), 0), eps, weight, bias)
    return _result(y, where, axes, out, return_moments and m, activation=activation, total=total)


def rms_norm(x, /, normalized_shape=None, weight=None, eps=None, *, axis=None, where=None, out=None,
             return_moments=False, activation=None, residual=None):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich, 2019): no mean is subtracted.

    eps is 2^-52 for float64 and integers, 2^-23 for the smaller floating types.
    """
    axes, eps = _axes(x, normalized_shape, axis), _rms_eps(x, eps)
    x, total = _joined(x, residual)
    x, where = _input(x, where, axes)
    y, m = _norm(x, where, range(-len(axes), 0), eps, weight, None, about="zero")
    return _result(y, where, axes, out, return_moments and m, "zero", activation, total)


def group_norm(x, /, num_groups, weight=None, bias=None, eps=1e-5, *, axis=1, where=None, out=None,
               return_moments=False, activation=None):
    """Neighbouring channels of one sample together, in num_groups groups (Wu and He, 2018)."""
    x, where = _input(x, where, [axis])
    split = (*x.shape[:-1], num_groups, x.shape[-1] // num_groups)
    weight, bias = (p if p is None else np.reshape(p, split[-2:]) for p in (weight, bias))
    y, m = _norm(x.reshape(split), where.reshape(split), (*range(1, x.ndim - 1), -1), eps, weight,
                 bias)
    return _result(y.reshape(x.shape), where, [axis], out,
                   return_moments and [part[..., 0] for part in m], activation=activation)


def switchable_norm(x, /, mean_weight, var_weight, weight=None, bias=None, running_mean=None,
                    running_var=None, training=False, momentum=0.1, eps=1e-5, *, axis=1,
                    correction=0, out=None, return_moments=False, activation=None):
    """By a blend of instance, layer and batch statistics (Luo et al., 2018):

        mean = sum_k softmax(mean_weight)_k mean_k,   var = sum_k softmax(var_weight)_k var_k.

    Layer and batch statistics come of the instances', averaged over channels or over samples:
    mean_k = avg(mean), var_k = avg(var + mean^2) - mean_k^2: where var is biased, the mean and the
    variance of all their elements. An instance's correction raises them by its average.
    For (N, C), where an instance has no variance, k is layer and batch alone, both of x itself.
    """
    x, where = _input(x, None, [axis])
    moments, deviations, variances, _ = _parts(x, where, correction)
    if training:
        n, mean, _ = moments[2]
        _track(running_mean, running_var, momentum, 0, n, mean, variances[2] * n)
    else:
        deviations[2], variances[2] = x - running_mean, running_var
    own = int(x.ndim == 2)
    d, var = _blend(mean_weight, deviations[own:]), _blend(var_weight, variances[own:])
    y = _affine(d, var, eps, weight, bias)
    return _result(y, where, [axis], out, return_moments and moments[0], activation=activation)


def local_response_norm(x, /, size, alpha=1e-4, beta=0.75, k=1.0, *, axis=1, window="torch",
                        out=None):
    """x / (k + alpha / size * sum x^2)^beta (Krizhevsky, Sutskever and Hinton, 2012).

    The sum runs over ``size`` channels around each; of an even size, "torch" takes the odd one
    before it and "onnx" the one after it. Channels outside x count as zero.
    """
    x, where = _input(x, None, [axis])
    before = size // 2 if window == "torch" else (size - 1) // 2
    sums = _window_sums(x * x, before, size)
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


# ---- gradients -----------------------------------------------------------------------------------

def batch_norm_backward(grad, x, /, weight=None, *, eps=1e-5, axis=1, moments=None,
                        running_mean=None, running_var=None, where=None, over=0):
    """With g = grad * weight and xhat = (x - mean) * rstd, averages over what shares the mean:

        dx = rstd * (g - avg(g) - xhat * avg(g * xhat)),  dweight = sum(grad * xhat),
        dbias = sum(grad);

    the second and third term come of mean and variance, and of given ones they are not there.
    """
    grad, x, where = _inputs(grad, x, where, [axis])
    if running_mean is None:
        m = moments and _given(moments, [axis])
        dx, xhat = _back(grad, x, where, range(over, x.ndim - 1), eps, weight, m)
    else:
        dx = _affine(grad, running_var, eps, weight, None)
        xhat = _affine(x - running_mean, running_var, eps, None, None)
    return _gradients(dx, grad, xhat, where, [axis])


def instance_norm_backward(grad, x, /, weight=None, **options):
    """As of batch_norm, but for which elements share."""
    return batch_norm_backward(grad, x, weight, **options, over=1)


def layer_norm_backward(grad, x, /, normalized_shape=None, weight=None, eps=1e-5, *, axis=None,
                        moments=None, where=None, about="mean"):
    """As of batch_norm, but for which elements share, each with a weight of its own."""
    axes = _axes(x, normalized_shape, axis)
    grad, x, where = _inputs(grad, x, where, axes)
    m = moments and _given(moments, axes)
    dx, xhat = _back(grad, x, where, range(-len(axes), 0), eps, weight, m, about)
    return _gradients(dx, grad, xhat, where, axes)


def rms_norm_backward(grad, x, /, normalized_shape=None, weight=None, eps=None, **options):
    """As of layer_norm, without the mean of g: dx = rstd * (g - xhat * avg(g * xhat))."""
    return layer_norm_backward(grad, x, normalized_shape, weight, _rms_eps(x, eps), **options,
                               about="zero")[:2]


def group_norm_backward(grad, x, /, num_groups, weight=None, eps=1e-5, *, axis=1, moments=None,
                        where=None):
    """As of batch_norm, but for which elements share."""
    grad, x, where = _inputs(grad, x, where, [axis])
    split = (*x.shape[:-1], num_groups, x.shape[-1] // num_groups)
    m = moments and [part[..., None] for part in _given(moments, [axis])]
    weight = weight if weight is None else np.reshape(weight, split[-2:])
    parts = _back(grad.reshape(split), x.reshape(split), where.reshape(split),
                  (*range(1, x.ndim - 1), -1), eps, weight, m)
    dx, xhat = (part.reshape(x.shape) for part in parts)
    return _gradients(dx, grad, xhat, where, [axis])


def switchable_norm_backward(grad, x, /, mean_weight, var_weight, weight=None, *, eps=1e-5, axis=1,
                             moments=None, running_mean=None, running_var=None, correction=0):
    """By the chain rule: through the blended mean and variance to those of each part, to x.

    By x - mean the loss changes by rstd * g, by the variance by -rstd^2 / 2 * sum(g * xhat), by a
    share k of either by as much times what it is a share of, and by its logit by
    share_k * (by_k - sum_j share_j by_j). Moments save the C code work, and nothing here.
    """
    grad, x, where = _inputs(grad, x, None, [axis])
    _, deviations, variances, ways = _parts(x, where, correction)
    if running_mean is not None:
        deviations[2], variances[2] = x - running_mean, np.asarray(running_var, x.dtype)
    own, shares = int(x.ndim == 2), (_softmax(mean_weight), _softmax(var_weight))
    d, var = _blend(mean_weight, deviations[own:]), _blend(var_weight, variances[own:])
    xhat = _affine(d, var, eps, None, None)
    by_d = _affine(grad, var, eps, weight, None)
    by_var = (by_d * xhat).sum(tuple(range(1, x.ndim - 1)), keepdims=True)
    by_var = _affine(by_var, var, eps, -0.5, None)
    dx, by_share = by_d, ([], [])
    for k, mean_share, var_share in zip(range(own, 3), *shares):
        by_share[0].append((by_d * deviations[k]).sum())
        by_share[1].append((by_var * variances[k]).sum())
        if k < 2 or running_mean is None:
            shared, over, n, way = ways[k]
            dx = dx - mean_share * by_d.sum(shared, keepdims=True) / n
            dx = dx + var_share * by_var.sum(over, keepdims=True) * way
    logits = [s * (np.array(by) - (s * np.array(by)).sum()) for s, by in zip(shares, by_share)]
    dx, dweight, dbias = _gradients(dx, grad, xhat, where, [axis])
    return dx, *(by.astype(float) for by in logits), dweight, dbias


def local_response_norm_backward(grad, x, /, size, alpha=1e-4, beta=0.75, k=1.0, *, axis=1,
                                 window="torch"):
    """With s = k + alpha / size * sum x^2, over the channels i whose windows hold j:

    dx_j = grad_j s_j^-beta - 2 alpha beta / size * x_j * sum_i grad_i x_i s_i^(-beta - 1).
    """
    grad, x, where = _inputs(grad, x, None, [axis])
    before = size // 2 if window == "torch" else (size - 1) // 2
    s = k + alpha / size * _window_sums(x * x, before, size)
    sums = _window_sums(grad * x * s ** (-beta - 1), size - 1 - before, size)
    return _result(grad * s**-beta - 2 * alpha * beta / size * x * sums, where, [axis], None)


def relu_backward(grad, x, /):
    """grad, but 0 where x <= 0."""
    return np.where(np.less_equal(x, 0), 0.0, grad)


def leaky_relu_backward(grad, x, /, negative_slope=0.01):
    """grad where x > 0, else grad * negative_slope."""
    return prelu_backward(grad, x, negative_slope)[0]


def prelu_backward(grad, x, /, weight, *, axis=1):
    """grad where x > 0, else grad * weight, and there dweight = sum(grad * x)."""
    axes, shape = ([], ()) if np.size(weight) == 1 else ([axis], -1)
    grad, x, where = _inputs(grad, x, None, axes)
    dx = np.where(x > 0, grad, grad * np.reshape(weight, shape))
    dx, dweight, _ = _gradients(dx, grad, np.where(x > 0, 0, x), where, axes)
    return dx, np.reshape(dweight, np.shape(weight))


# ---- what they are made of -----------------------------------------------------------------------

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


@np.errstate(invalid="ignore")
def _back(grad, x, where, shared, eps, weight, m, about="mean"):
    """dx and xhat, where elements along the axes ``shared`` share a mean; m: n, mean and m2."""
    group = {"axis": tuple(shared), "keepdims": True}
    d, own = _centre(x, where, shared, about)
    n, mean, m2 = own if m is None else m
    var, there = m2 / np.maximum(n, 1), np.maximum(n, 1)
    xhat = _affine(d if m is None else np.where(where, x - mean, 0), var, eps, None, None)
    g = np.where(where, grad, 0) * (1 if weight is None else weight)
    centre = g.sum(**group) / there if about == "mean" else 0
    return _affine(g - centre - xhat * (g * xhat).sum(**group) / there, var, eps, None, None), xhat


@np.errstate(invalid="ignore")
def _parts(x, where, correction):
    """Of instance, layer and batch: moments, deviations, variances, and the way from these to x.

    That is the axes shared, those of them that average instances, n, and dvar / dx.
    """
    moments, deviations, variances, ways = [], [], [], []
    for over in (), (-1,), (0,):
        shared = (*range(1, x.ndim - 1), *over)
        d, (n, mean, m2) = _centre(x, where, shared)
        if not over or x.ndim == 2:
            by = correction / np.maximum(n - correction, 1)
            raised, raised_d = m2 * by, d * by
        moments.append((n, mean, m2))
        deviations.append(d)
        variances.append((m2 + raised.sum(over, keepdims=True)) / np.maximum(n, 1))
        ways.append((shared, over, np.maximum(n, 1), 2 * (d + raised_d) / np.maximum(n, 1)))
    return moments, deviations, variances, ways


def _window_sums(a, before, size):
    """Over the channels c - before .. c - before + size - 1, for each c."""
    sums = np.zeros_like(a)
    for c in range(a.shape[-1]):
        sums[..., c] = a[..., max(c - before, 0):max(c - before + size, 0)].sum(-1)
    return sums


def _track(running_mean, running_var, momentum, correction, n, mean, m2):
    """Running statistics take the average over samples; a single element teaches them nothing."""
    over = {"axis": tuple(range(n.ndim - 1)), "where": n > 1}
    samples = (n > 1).sum(over["axis"])
    for running, value in (running_mean, mean), (running_var, m2 / np.maximum(n - correction, 1)):
        if running is not None:
            batch = value.sum(**over) / np.maximum(samples, 1)
            new = (1 - momentum) * running.astype(np.longdouble) + momentum * batch
            running[...] = np.where(samples, new, running)


def _softmax(logits):
    shares = np.exp(np.subtract(logits, np.max(logits), dtype=np.longdouble))
    return shares / shares.sum()


def _blend(logits, parts):
    """sum_k softmax(logits)_k parts_k."""
    return sum(share * part for share, part in zip(_softmax(logits), parts))


def _rms_eps(x, eps):
    dtype = np.asarray(x).dtype
    double = dtype.kind in "biu" or dtype.itemsize == 8
    return eps if eps is not None else 2.0**-52 if double else 2.0**-23


def _axes(x, normalized_shape, axis):
    if axis is None:
        axis = range(-(1 if normalized_shape is None else np.size(normalized_shape)), 0)
    return sorted(i % np.ndim(x) for i in np.ravel(axis).astype(int))


def _joined(x, residual):
    """x and the other branch of a network, added and rounded; and that, to be returned."""
    total = None if residual is None else np.add(x, residual)
    return (x if total is None else total), total


def _input(x, where, axes):
    """x in extended precision and which of its elements count, ``axes`` behind the others."""
    where = np.broadcast_to(True if where is None else where, np.shape(x)) & ~np.ma.getmask(x)
    x = np.ma.getdata(x).astype(np.longdouble)
    return [np.moveaxis(a, axes, range(-len(axes), 0)) for a in (x, where)]


def _inputs(grad, x, where, axes):
    """The same of a gradient, of x and of a mask."""
    grad, _ = _input(grad, None, axes)
    return grad, *_input(x, where, axes)


def _given(moments, axes):
    """n, mean and m2 of Moments, with their axes as those of x."""
    mean = moments.mean.astype(np.longdouble) + moments.mean_lo
    return [np.moveaxis(a, axes, range(-len(axes), 0)) for a in (moments.count, mean, moments.m2)]


def _gradients(dx, grad, xhat, where, axes):
    """dx as x lies, dweight and dbias: sums over all axes but those that the weight runs along."""
    over = tuple(range(dx.ndim - len(axes)))
    sums = [np.where(where, a, 0).sum(over).astype(float) for a in (grad * xhat, grad)]
    return _result(dx, where, axes, None), *sums


@np.errstate(over="ignore", under="ignore")
def _result(y, where, axes, out, m=(), about="mean", activation=None, total=None):
    """The same way back, rounded, 0 where an element was excluded, rectified if asked for; and what
    x was the sum of, and the moments, if any."""
    results = [np.where(where, y, 0), *(m or ())]
    y, *m = (np.moveaxis(a, range(-len(axes), 0), axes) for a in results)
    out = np.empty(y.shape) if out is None else out
    out[...] = y
    if activation == "relu":
        out[out < 0] = 0
    results = [out, *([] if total is None else [total]), *([Moments(*m, about=about)] if m else [])]
    return tuple(results) if len(results) > 1 else out
