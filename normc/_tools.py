"""What users do with layers, beside calling them."""

import numpy as np

from . import _core
from ._batchnorm import BatchNorm
from ._convert import detached, full_mask, join_mask, numbers, real, rounded
from ._moments import Moments
from ._tracking import InstanceNorm, SwitchableNorm

__all__ = ["decay", "fold_batch_norm", "recompute_stats"]


def decay(weight_of_old):
    """Momentum from the weight of the *old* value, as d2l, Keras, Flax and ONNX state it.

    normc's ``momentum`` is torch's, the weight of the *new* value.

    Parameters
    ----------
    weight_of_old : float

    Returns
    -------
    float
        1 - weight_of_old, taken in decimal as it is written, so that ``decay(0.9)`` is 0.1.

    Raises
    ------
    TypeError
        It is no real number.
    ValueError
        It is not finite.

    Examples
    --------
    >>> import normc
    >>> normc.decay(0.9)
    0.1
    """
    from decimal import Decimal

    value = real(weight_of_old, "weight_of_old")
    if not np.isfinite(value):
        raise ValueError(f"weight_of_old must be finite, but got {value}")
    return float(1 - Decimal(repr(value)))


# ---- statistics of many batches as of one --------------------------------------------------------

def recompute_stats(layer, batches):
    """Sets running statistics to those of many batches taken together, as if they were one.

    The running averages of training trail behind, and give the last batches the most weight; this
    is what to evaluate with after the weights have settled. Nothing is an average of averages: the
    batches' `Moments` are merged, so that they may be of any sizes.

    Parameters
    ----------
    layer : BatchNorm, InstanceNorm1d, SwitchableNorm1d or the like
        With running statistics. Of an InstanceNorm they are averages over all samples, of the mean
        and of the variance, as in its training. Its `on_nonfinite` decides what a batch does whose
        mean or variance is not finite.
    batches : iterable of array_like, or of tuples (x, where)
        What the layer gets: for a layer inside a network, its inputs there. ``where`` is a mask, as
        in a call. May be a generator; one batch is held at a time.

    Returns
    -------
    layer
        With ``num_batches_tracked`` set to the number of batches of which something was taken, but
        for an InstanceNorm's, which stays 0. A channel with fewer than two elements in all keeps
        its statistics.

    Raises
    ------
    TypeError
        layer is none of these, or a batch has a wrong type.
    ValueError
        There is no batch, one does not fit the layer, or that has no running statistics, or such as
        cannot be written. Nothing is written then.

    See Also
    --------
    Moments : the same for any norm, by hand.

    References
    ----------
    Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3 (precise statistics).

    Examples
    --------
    >>> import numpy as np, normc
    >>> bn = normc.BatchNorm(1)
    >>> batches = [[0.0], [0.0], [0.0]], [[8.0]]
    >>> normc.recompute_stats(bn, batches).running_mean
    array([2.], dtype=float32)
    >>> bn.running_var, bn.num_batches_tracked
    (array([16.], dtype=float32), array(2))
    """
    kinds = [kind for kind in _MEASURES if isinstance(layer, kind)]
    if not kinds:
        raise TypeError("layer must be a BatchNorm, InstanceNorm or SwitchableNorm, not "
                        f"{type(layer).__name__}")
    running, tracked = _writable(layer), layer.num_batches_tracked
    measure, conclude = _MEASURES[kinds[0]]
    totals, number = None, 0
    for batch in batches:
        x, where = _input(layer, batch)
        pieces = measure(layer, x, where)
        if layer.on_nonfinite == "propagate" or _finite(layer, pieces):
            totals = pieces if totals is None else [a + b for a, b in zip(totals, pieces)]
            number += bool(where.any())
    if totals is None:
        raise ValueError("batches must hold at least one batch that is taken")
    *values, known = conclude(layer, *totals)
    values = [rounded(v[known], a.dtype) for v, a in zip(values, running)]
    for array, value in zip(running, values):
        array[known] = value
    if tracked is not None and not isinstance(layer, InstanceNorm):
        tracked[...] = number
    return layer


def _writable(layer):
    """The running statistics, which can be written, each for itself."""
    running = {name: getattr(layer, name) for name in ("running_mean", "running_var")}
    if any(array is None for array in running.values()):
        raise ValueError("layer has no running statistics")
    for name, array in running.items():
        if not array.flags.writeable:
            raise ValueError(f"{name} is to be updated, but is read-only")
    if np.shares_memory(*running.values()):
        raise ValueError("running_mean and running_var must not share memory")
    return list(running.values())


def _finite(layer, pieces):
    """Whether a batch is to be taken, where some are not."""
    finite = all(np.isfinite(m.mean).all() and np.isfinite(m.m2).all() for m in pieces)
    if not finite and layer.on_nonfinite == "raise":
        raise ValueError("a batch has a mean or variance that is not finite, and on_nonfinite is "
                         "'raise'")
    return finite


def _input(layer, batch):
    """x with the channels last and, if it has none, an axis of samples; the mask likewise."""
    x, where = batch if isinstance(batch, tuple) and len(batch) == 2 else (batch, None)
    if isinstance(x, tuple):
        raise TypeError(f"a batch must be x or (x, where), not a tuple of {len(x)}")
    if where is not None and isinstance(layer, SwitchableNorm):
        raise TypeError(f"{type(layer).__name__} takes no where")
    where, x = join_mask(x, where, not isinstance(layer, SwitchableNorm)), numbers(x, "x")
    layer._check_input(x)
    if not -x.ndim <= layer.axis < x.ndim:
        raise np.exceptions.AxisError(layer.axis, x.ndim)
    where = full_mask(where, x)
    if isinstance(layer, InstanceNorm):
        x, where = layer._sampled(x, x), layer._sampled(where, x)
    x, where = (np.moveaxis(a, layer.axis, -1) for a in (x, where))
    if x.shape[-1] != layer.num_features:
        raise ValueError(f"x must have {layer.num_features} channels, but has {x.shape[-1]}")
    return x, where


def _moments(x, where, kept):
    """Over all axes but those kept, without them."""
    axes = tuple(i for i in range(x.ndim) if i not in kept)
    m = _core.moments(x, axis=axes, where=where)
    count, mean, m2, lo = (a.squeeze(axes) for a in (m.count, m.mean, m.m2, m.mean_lo))
    return Moments(count, mean, m2, mean_lo=lo)


def _pool(layer, x, where):
    return [_moments(x, where, {x.ndim - 1})]


def _pooled(layer, all_elements):
    return all_elements.mean, all_elements.var(layer.correction), all_elements.count > 1


def _sample(layer, x, where):
    """Of each sample's mean and unbiased variance, their moments."""
    each = _moments(x, where, {0, x.ndim - 1})
    known = each.count > 1
    return [_moments(each.mean, known, {1}), _moments(each.var(1), known, {1})]


def _sampled(layer, means, variances):
    return means.mean, variances.mean, means.count > 0


def _blend(layer, x, where):
    """Of all elements, and of what the correction adds to each sample's second moment."""
    each = _moments(x, where, {0, x.ndim - 1})
    raised = each.m2 / np.maximum(each.count - 1, 1) if x.ndim > 2 else np.zeros(each.shape)
    return [*_pool(layer, x, where), _moments(raised, None, {1})]


def _blended(layer, all_elements, raised):
    mean, var, known = _pooled(layer, all_elements)
    if layer.correction and layer._ranks[1] > 2:
        added = all_elements.m2 + raised.mean * raised.count
        var = added / np.maximum(all_elements.count, 1)
    return mean, var, known


_MEASURES = {BatchNorm: (_pool, _pooled), InstanceNorm: (_sample, _sampled),
             SwitchableNorm: (_blend, _blended)}


# ---- one layer for two ---------------------------------------------------------------------------

def fold_batch_norm(weight, bias, bn):
    """Folds what a BatchNorm does in evaluation into the layer before it.

    That layer computes ``y = weight @ x + bias`` or a convolution; with the folded weight and bias
    it computes ``bn(y)``, in evaluation or frozen, whatever its mode is now. An activation cannot
    be folded: set it to None before, and call `relu` after that layer.

    Parameters
    ----------
    weight : array_like, (out, in) or (out, in / groups, *k)
        Of a linear layer or a convolution, output channels first; torch's own, too. Those of a
        transposed convolution are second: swap the axes before and after.
    bias : array_like of shape (out,), or None
        None is zeros.
    bn : BatchNorm
        With running statistics of ``out`` channels.

    Returns
    -------
    weight, bias : ndarray
        Computed in float64 and rounded once, to the dtype of weight (float64 of integers).

    Raises
    ------
    TypeError
        weight or bias has a dtype that is not supported, or bn is no BatchNorm.
    ValueError
        A shape does not fit bn, or that has no running statistics, or an activation.

    Examples
    --------
    >>> import numpy as np, normc
    >>> bn = normc.BatchNorm(2, eps=0)
    >>> bn.running_mean[...], bn.running_var[...] = [1, 2], [4, 16]
    >>> weight, bias = normc.fold_batch_norm([[2.0, 4.0], [8.0, 4.0]], None, bn)
    >>> weight
    array([[1., 2.],
           [2., 1.]])
    >>> bias
    array([-0.5, -0.5])
    """
    if not isinstance(bn, BatchNorm):
        raise TypeError(f"bn must be a BatchNorm, not {type(bn).__name__}")
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("bn has no running statistics")
    if bn.activation is not None:
        raise ValueError(f"bn has activation {bn.activation!r}, which no weight and bias can hold: "
                         "set it to None, and apply it to what the folded layer computes")
    weight, shape = numbers(detached(weight), "weight"), (bn.num_features,)
    bias = np.zeros(shape) if bias is None else numbers(detached(bias), "bias")
    if weight.shape[:1] != shape or bias.shape != shape:
        raise ValueError(f"weight and bias must have the {bn.num_features} channels of bn first, "
                         f"but have shapes {weight.shape} and {bias.shape}")
    mean, var, gain, shift = (
        np.full(shape, usual) if array is None else array.astype(np.float64) for array, usual in
        ((bn.running_mean, 0.0), (bn.running_var, 1.0), (bn.weight, 1.0), (bn.bias, 0.0)))
    with np.errstate(all="ignore"):
        root = np.sqrt(var + bn.eps)
        scale = np.where(root == 0, 0.0, gain / root)
        scaled = weight.astype(np.float64) * scale.reshape(-1, *[1] * (weight.ndim - 1))
        moved = (bias.astype(np.float64) - mean) * scale + shift
    dtype = weight.dtype.newbyteorder("=")
    return rounded(scaled, dtype), rounded(moved, dtype)
