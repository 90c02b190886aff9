"""Norms of instances that keep running statistics: InstanceNorm, SwitchableNorm."""

import threading
import warnings

import numpy as np

from . import _convert, _core
from ._fields import activation, count, eps, flag, floating, momentum, word
from ._layer import FunctionLayer

__all__ = ["InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "SwitchableNorm1d",
           "SwitchableNorm2d", "SwitchableNorm3d"]


class _ChannelLayer(FunctionLayer):
    """One value per channel in every array, but for what a layer has of its own."""

    _parameters = ("weight", "bias")
    _buffers = ("running_mean", "running_var", "num_batches_tracked")
    _fixed = ("num_features", "axis", "dtype")
    _checks = {"eps": eps, "momentum": momentum, "affine": flag,
               "on_nonfinite": word("propagate", "skip", "raise"), "activation": activation}

    def _begin_channels(self, num_features, axis, dtype, affine, bias, others, **settings):
        """The arguments that all have; names of arrays beside weight and bias, other settings."""
        affine = flag(self, affine, "affine")
        arrays = ("weight", "bias")[:affine * (1 + flag(self, bias, "bias"))]
        self._begin({"num_features": count(self, num_features, "num_features"),
                     "axis": _convert.integer(axis, "axis"), "dtype": floating(dtype)},
                    {"affine": affine, **settings}, arrays + others)

    def _shape(self, name):
        return () if name == "num_batches_tracked" else (self.num_features,)

    def _running(self):
        """Those that calls go by, mean and variance; None: each goes by its own."""
        return self.running_mean, self.running_var

    def _forward(self, x, where, out, training):
        """One call at a time, where it updates the running statistics."""
        self._check_input(x)
        batch, running = training and not self.frozen, self._running()
        updated = [a for a in running or () if a is not None] if batch else []
        if not updated:
            return self._compute(x, where, out, training, batch, running, 0.0)
        with vars(self).setdefault("_lock", threading.RLock()):
            before = [a.copy() for a in updated]
            result = self._compute(x, where, out, training, batch, running, self._share())
            if self.on_nonfinite == "propagate" or not _spoiled(before, updated):
                self._count(x)
                return result
            for a, kept in zip(updated, before):
                a[...] = kept
        if self.on_nonfinite == "raise":
            raise ValueError("x has a mean or variance that is not finite, and on_nonfinite is "
                             "'raise'")
        return result

    def _backward_arguments(self, batch, running):
        """Those that all have; with running statistics, if the call goes by them."""
        mean, var = (None, None) if batch or running is None else running
        return {"weight": self.weight, "eps": self.eps, "axis": self.axis, "running_mean": mean,
                "running_var": var, "activation": self.activation}

    def _share(self):
        """The momentum of this call."""
        return self.momentum or 0.0

    def _count(self, x):
        """After an update."""

    def _added_repr(self, **usual):
        usual |= {"on_nonfinite": "propagate", "activation": None}
        added = {name: getattr(self, name) for name in usual}
        return "".join(f", {name}={a!r}" for name, a in added.items() if a != usual[name])


def _spoiled(before, after):
    return any((np.isfinite(a) & ~np.isfinite(b)).any() for a, b in zip(before, after))


def _same_shape(a, x, name):
    if a.shape != x.shape:
        raise ValueError(f"{name} must have shape {x.shape}, as x has, but has {a.shape}")


class InstanceNorm(_ChannelLayer):
    _backward = staticmethod(_core.instance_norm_backward)
    _checks = {**_ChannelLayer._checks, "track_running_stats": flag}

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=False,
                 track_running_stats=False, *, bias=True, axis=1, dtype=np.float32,
                 on_nonfinite="propagate", activation=None):
        track = flag(self, track_running_stats, "track_running_stats")
        self._begin_channels(num_features, axis, dtype, affine, bias, self._buffers * track,
                             eps=eps, momentum=momentum, track_running_stats=track,
                             on_nonfinite=on_nonfinite, activation=activation)

    def _running(self):
        return super()._running() if self.track_running_stats else None

    def _check_input(self, x):
        super()._check_input(x)
        axis = self.axis + x.ndim if self.axis < 0 else self.axis - (x.ndim == self._ranks[0])
        axis = max(axis, 0)
        if axis >= x.ndim or x.shape[axis] == self.num_features:
            return
        text = f"expected input's size at dim={axis} to match num_features"
        if self.affine or self.track_running_stats:
            raise ValueError(f"{text} ({self.num_features}), but got: {x.shape[axis]}.")
        warnings.warn(f"input's size at dim={axis} does not match num_features, which is not used "
                      "because affine=False", stacklevel=4)

    def _sampled(self, a, x):
        """With an axis of samples in it, where x and a have none."""
        if x.ndim > self._ranks[0] or not isinstance(a, np.ndarray) or a.ndim != x.ndim:
            return a
        return np.expand_dims(a, int(self.axis in (0, -self._ranks[1])))

    def _compute(self, x, where, out, training, batch, running, momentum):
        own, sampled = batch or running is None, (x, where, out)
        arguments = self._backward_arguments(batch, running)
        if x.ndim == self._ranks[0]:
            if isinstance(out, np.ndarray):
                _same_shape(out, x, "out")
            sampled = [self._sampled(a, x) for a in sampled]
        y = _core.instance_norm(sampled[0], *(running or (None, None)), arguments["weight"],
                                self.bias, own, momentum, arguments["eps"], axis=self.axis,
                                where=sampled[1], out=sampled[2], return_moments=own and training,
                                activation=arguments["activation"])
        if x.ndim > self._ranks[0]:
            return y, arguments
        y, *moments = y if isinstance(y, tuple) else (y,)
        y = y.reshape(x.shape) if out is None else out
        return (y, *moments) if moments else y, arguments

    def _differentiate(self, grad, x, arguments, rectified=None):
        grad = _convert.gradient(grad, "grad")
        _same_shape(grad, x, "grad")
        if rectified is not None:
            grad = _core.relu_backward(grad, rectified)
        where = self._sampled(arguments["where"], x)
        dx, *others = super()._differentiate(self._sampled(grad, x), self._sampled(x, x),
                                             {**arguments, "where": where})
        return dx.reshape(x.shape), *others

    def extra_repr(self):
        """What stands between the parentheses of the repr."""
        return (f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
                f"affine={self.affine}, bias={self.bias is not None}, "
                f"track_running_stats={self.track_running_stats}{self._added_repr(axis=1)}")


class InstanceNorm1d(InstanceNorm):
    """Instance normalization of (N, C, L) or (C, L): each channel of each sample by itself.

    As ``torch.nn.InstanceNorm1d``. With running statistics, evaluation normalises by them.

    Parameters
    ----------
    num_features : int
        Channels, C.
    eps : float
        Added to the variance, under the square root.
    momentum : float or None
        Weight of the new batch in the running statistics; ``normc.decay`` converts the other
        convention. None leaves them as they are, as in torch.
    affine : bool
        Whether there is a weight, initially ones, and a bias, zeros.
    track_running_stats : bool
        Whether there are running statistics: averages over samples of mean and unbiased variance.
    bias : bool
        False leaves the bias out.
    axis : int
        The channel axis: 1 for (N, C, L), -1 for (N, L, C); (C, L) and (L, C) without samples.
    dtype : dtype
        Of the arrays: float16, bfloat16, float32 (also if None) or float64. x may have another.
    on_nonfinite : {"propagate", "skip", "raise"}
        What a NaN or an infinity in the statistics of a training batch does to the running ones:
        it enters them; the batch leaves them alone; or it does that and is a ValueError, after
        ``out`` was written.
    activation : {"relu"}, optional
        Applied to the result, as `relu` would, in the same pass; `backward` goes by the result.

    Attributes
    ----------
    weight, bias, running_mean, running_var : ndarray of shape (C,) or None
        May be assigned to.
    weight_grad, bias_grad : ndarray of the same shape and dtype, or None
        Zeros, to which `backward` adds.
    num_batches_tracked : 0-d ndarray of int64 or None
        Stays 0, as in torch.
    training, frozen : bool

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type or out of range; the message names it. From a call: as
        from `instance_norm`.

    Warns
    -----
    UserWarning
        x has another number of channels, and no array of the layer minds.

    References
    ----------
    Ulyanov, Vedaldi and Lempitsky, "Instance Normalization: The Missing Ingredient for Fast
    Stylization", 2016.

    Examples
    --------
    >>> import numpy as np, normc
    >>> layer = normc.InstanceNorm1d(2)
    >>> layer(np.array([[1.0, 3], [10, 30]])).round(3)
    array([[-1.,  1.],
           [-1.,  1.]])
    """

    _ranks = (2, 3)


class InstanceNorm2d(InstanceNorm):
    """Instance normalization of (N, C, H, W) or (C, H, W); all else as `InstanceNorm1d`.

    Examples
    --------
    >>> import numpy as np, normc
    >>> x = np.array([1.0, 3, 10, 30]).reshape(1, 2, 1, 2)
    >>> normc.InstanceNorm2d(2)(x).ravel().round(3)
    array([-1.,  1., -1.,  1.])
    """

    _ranks = (3, 4)


class InstanceNorm3d(InstanceNorm):
    """Instance normalization of (N, C, D, H, W) or (C, D, H, W); all else as `InstanceNorm1d`.

    Examples
    --------
    >>> import numpy as np, normc
    >>> layer = normc.InstanceNorm3d(2, affine=True)
    >>> layer(np.zeros((5, 2, 4, 4, 4), dtype=np.float32)).shape
    (5, 2, 4, 4, 4)
    """

    _ranks = (4, 5)


class SwitchableNorm(_ChannelLayer):
    _backward = staticmethod(_core.switchable_norm_backward)
    _masked = False
    _parameters = ("weight", "bias", "mean_weight", "var_weight")
    _fixed = (*_ChannelLayer._fixed, "correction")

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, *, bias=True, axis=1,
                 correction=0, dtype=np.float32, on_nonfinite="propagate", activation=None):
        correction = _convert.integer(correction, "correction")
        if correction not in (0, 1):
            raise ValueError(f"correction must be 0 or 1, but got {correction}")
        self._begin_channels(num_features, axis, dtype, affine, bias,
                             ("mean_weight", "var_weight", *self._buffers), eps=eps,
                             momentum=momentum, on_nonfinite=on_nonfinite, activation=activation)
        vars(self)["correction"] = correction

    def _shape(self, name):
        logits = name in ("mean_weight", "var_weight")
        return (2 if self._ranks[1] == 2 else 3,) if logits else super()._shape(name)

    def _compute(self, x, where, out, training, batch, running, momentum):
        arguments = {**self._backward_arguments(batch, running), "mean_weight": self.mean_weight,
                     "var_weight": self.var_weight, "correction": self.correction}
        given = {**arguments, "running_mean": running[0], "running_var": running[1]}
        y = _core.switchable_norm(x, bias=self.bias, training=batch, momentum=momentum, out=out,
                                  return_moments=training, **given)
        return y, arguments

    def _share(self):
        if self.momentum is not None or self.num_batches_tracked is None:
            return super()._share()
        return 1 / (int(self.num_batches_tracked) + 1)

    def _count(self, x):
        if x.size and self.num_batches_tracked is not None:
            np.add(self.num_batches_tracked, 1, out=self.num_batches_tracked)

    def _differentiate(self, grad, x, arguments, rectified=None):
        dx, mean_weight, var_weight, *affine = super()._differentiate(grad, x, arguments, rectified)
        return dx, *affine, mean_weight, var_weight

    def extra_repr(self):
        """What stands between the parentheses of the repr."""
        return (f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
                f"affine={self.affine}, bias={self.bias is not None}"
                f"{self._added_repr(axis=1, correction=0)}")


class SwitchableNorm1d(SwitchableNorm):
    """Switchable normalization of (N, C): a learned blend of layer and batch statistics.

    Parameters
    ----------
    num_features : int
        Channels, C.
    eps : float
        Added to the variance, under the square root.
    momentum : float or None
        Weight of the new batch in the running statistics, which stand for the batch in evaluation;
        None averages all batches alike. ``normc.decay`` converts the other convention.
    affine : bool
        Whether there is a weight, initially ones, and a bias, zeros.
    bias : bool
        False leaves the bias out.
    axis : int
        The channel axis: 1 for (N, C, *), -1 for (N, *, C).
    correction : {0, 1}
        Whether all variances derive from the biased one of an instance or from the unbiased, as in
        the authors' code.
    dtype : dtype
        Of the arrays: float16, bfloat16, float32 (also if None) or float64. x may have another.
    on_nonfinite : {"propagate", "skip", "raise"}
        What a NaN or an infinity in the statistics of a training batch does to the running ones:
        it enters them; the batch leaves them alone; or it does that and is a ValueError, after
        ``out`` was written.
    activation : {"relu"}, optional
        Applied to the result, as `relu` would, in the same pass; `backward` goes by the result.

    Attributes
    ----------
    weight, bias : ndarray of shape (C,) or None
    mean_weight, var_weight : ndarray of shape (2,) for (layer, batch), else (3,) with the instance
        before them. Logits, initially ones.
    running_mean, running_var : ndarray of shape (C,)
        All of these may be assigned to.
    weight_grad, bias_grad, mean_weight_grad, var_weight_grad : ndarray
        Zeros, to which `backward` adds.
    num_batches_tracked : 0-d ndarray of int64
        Batches in the running statistics; the authors' code has none, and what it saved loads
        without, once each array is flat.
    training, frozen : bool

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type or out of range; the message names it. From a call: as
        from `switchable_norm`.

    References
    ----------
    Luo, Ren, Peng, Zhang and Li, "Differentiable Learning-to-Normalize via Switchable
    Normalization", 2018, equation 3.

    Examples
    --------
    >>> import normc
    >>> layer = normc.SwitchableNorm1d(2)
    >>> layer([[1.0, 3], [5, 7]]).round(3)
    array([[-0.949, -0.316],
           [ 0.316,  0.949]])
    >>> layer.mean_weight
    array([1., 1.], dtype=float32)
    """

    _ranks = (2, 2)


class SwitchableNorm2d(SwitchableNorm):
    """Switchable normalization of (N, C, H, W): blends instance, layer and batch statistics.

    There are three logits each, in this order; all else is as in `SwitchableNorm1d`.

    Examples
    --------
    >>> import numpy as np, normc
    >>> layer = normc.SwitchableNorm2d(3)
    >>> layer(np.zeros((2, 3, 4, 4), dtype=np.float32)).shape
    (2, 3, 4, 4)
    >>> layer
    SwitchableNorm2d(3, eps=1e-05, momentum=0.1, affine=True, bias=True)
    """

    _ranks = (4, 4)


class SwitchableNorm3d(SwitchableNorm):
    """Switchable normalization of (N, C, D, H, W): blends instance, layer and batch statistics.

    There are three logits each, in this order; all else is as in `SwitchableNorm1d`.

    Examples
    --------
    >>> import numpy as np, normc
    >>> layer = normc.SwitchableNorm3d(2, correction=1)
    >>> layer(np.zeros((2, 2, 3, 4, 4), dtype=np.float32)).shape
    (2, 2, 3, 4, 4)
    """

    _ranks = (5, 5)
