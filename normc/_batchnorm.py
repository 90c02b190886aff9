"""BatchNorm: the Python side of the type in C."""

import numpy as np

from . import _core
from ._fields import activation, eps, flag, floating, momentum, word
from ._layer import FunctionLayer, Layer, parts_of_state
from ._moments import from_core

__all__ = ["BatchNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]


class _CallSignature:
    """What `inspect` sees of a layer whose call is C: the call of all layers."""

    def __get__(self, layer, kind=None):
        if layer is None:
            raise AttributeError("__signature__")  # the class has that of its __init__
        from inspect import signature

        return signature(FunctionLayer.__call__.__get__(layer))


class BatchNorm(Layer, _core.BatchNorm):
    """Batch normalization of each channel, over the batch and all other axes.

    In training, x is normalised by the mean and the biased variance of the batch, and the running
    statistics follow: ``(1 - momentum) * running + momentum * batch``. In evaluation x is
    normalised by them. A call is ``layer(x, *, where=None, out=None)``, as of `batch_norm`: a mask
    keeps elements out of mean, variance, running statistics and gradients. Calls on one layer from
    many threads are safe: each update is whole. While others train it, `state_dict` and
    `load_state_dict` may mix the states of two updates.

    Parameters
    ----------
    num_features : int
        Channels, C.
    eps : float
        Added to the variance, under the square root.
    momentum : float or None
        Weight of the new batch in the running statistics; None averages all batches alike.
        ``normc.decay`` converts the other convention.
    affine : bool
        Whether there is a weight, initially ones, and a bias, zeros.
    track_running_stats : bool
        Whether there are running statistics; without, evaluation takes the batch's, too.
    bias : bool
        False leaves the bias out.
    axis : int
        The channel axis: 1 for (N, C, *), -1 for (N, *, C).
    correction : {1, 0}
        Whether the running variance takes the unbiased variance of the batch or the biased one.
    dtype : dtype
        Of weight, bias and running statistics: float16, bfloat16, float32 (also if None) or
        float64. x may have another.
    on_single : {"error", "running"}
        A training batch with one value per channel is an error, or is normalised by the running
        statistics, which it leaves alone.
    on_nonfinite : {"propagate", "skip", "raise"}
        What a NaN or an infinity in the mean or variance of a training batch does to the running
        statistics: it enters them; the batch leaves them and the counter alone, and the result is
        what it is; or it does that and is a ValueError, after ``out`` was written.
    activation : {"relu"}, optional
        Applied to the result, as `relu` would, in the same pass; `backward` goes by the result.

    Attributes
    ----------
    weight, bias, running_mean, running_var : ndarray of shape (C,) or None
        May be assigned to.
    weight_grad, bias_grad : ndarray of the same shape and dtype, or None
        Zeros, to which `backward` adds.
    num_batches_tracked : 0-d ndarray of int64 or None
    training, frozen : bool

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type or out of range; the message names it. From a call: as
        from `batch_norm`.
    RuntimeError
        From a call of a layer whose ``__init__`` has not run.

    References
    ----------
    Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
    Covariate Shift", 2015, algorithms 1 and 2.

    Examples
    --------
    >>> import numpy as np, normc
    >>> bn = normc.BatchNorm(2)
    >>> x = np.array([[0, 10], [2, 30]], dtype=np.float32)
    >>> bn(x).round(3)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> bn.running_mean, bn.running_var
    (array([0.1, 2. ], dtype=float32), array([ 1.1, 20.9], dtype=float32))

    ``momentum=None`` averages all batches alike, however many there are:

    >>> bn = normc.BatchNorm(1, momentum=None)
    >>> for batch in ([[0.0], [2.0]], [[4.0], [6.0]], [[8.0], [10.0]]):
    ...     y = bn(batch)
    >>> bn.running_mean, bn.num_batches_tracked
    (array([5.], dtype=float32), array(3))

    A spoiled batch need not spoil the layer:

    >>> bn = normc.BatchNorm(1, on_nonfinite="skip")
    >>> y = bn([[np.nan], [1.0]])
    >>> bn.running_mean, bn.num_batches_tracked
    (array([0.], dtype=float32), array(0))

    A step of training:

    >>> bn = normc.BatchNorm(2)
    >>> y = bn(x)
    >>> dx = bn.backward(np.ones_like(y))
    >>> for parameter, gradient in zip(bn.parameters(), bn.gradients()):
    ...     parameter -= 0.1 * gradient
    >>> bn.bias
    array([-0.2, -0.2], dtype=float32)
    >>> bn.zero_grad()
    """

    _parameters = ("weight", "bias")
    _buffers = ("running_mean", "running_var", "num_batches_tracked")
    _checks = {"eps": eps, "momentum": momentum, "affine": flag,
               "track_running_stats": flag, "on_single": word("error", "running"),
               "on_nonfinite": word("propagate", "skip", "raise"), "activation": activation}
    _fixed = ("num_features", "axis", "correction", "dtype")
    affine = False
    _exchange = _core.BatchNorm._exchange
    __signature__ = _CallSignature()

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True,
                 *, bias=True, axis=1, correction=1, dtype=np.float32, on_single="error",
                 on_nonfinite="propagate", activation=None):
        dtype, bias = floating(dtype), flag(self, bias, "bias")
        fields = {"affine": affine, "track_running_stats": track_running_stats,
                  "momentum": momentum, "on_single": on_single, "on_nonfinite": on_nonfinite,
                  "activation": activation, "eps": eps}  # eps last: it makes the layer ready
        fields = {name: self._checks[name](self, value, name) for name, value in fields.items()}
        there = (("weight", "bias")[:fields["affine"] * (1 + bias)]
                 + self._buffers * fields["track_running_stats"])
        n = _core.BatchNorm(num_features, axis, correction, self._ranks).num_features  # all checked
        arrays = {name: np.full(() if name == "num_batches_tracked" else n, self._initial[name],
                                np.int64 if name == "num_batches_tracked" else dtype)
                  for name in there}
        _core.BatchNorm.__init__(self, num_features, axis, correction, self._ranks)
        self._forget()
        vars(self)["dtype"] = dtype
        for name, value in (arrays | fields).items():
            setattr(self, name, value)

    def __getstate__(self):
        """With the fields of the type in C."""
        return {"config": (self.num_features, self.axis, self.correction, self._ranks),
                "fields": {name: getattr(self, name) for name in self._checks},
                "object": super().__getstate__()}

    def __setstate__(self, state):
        try:
            own, *slots = parts_of_state(state["object"])
            _core.BatchNorm.__init__(self, *state["config"])
            vars(self).update(own)
            for part in (*slots, state["fields"]):
                for name, value in part.items():
                    setattr(self, name, value)
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"this is no state of a {type(self).__name__}: {error!r}") from error

    def __reduce_ex__(self, protocol):
        return super().__reduce_ex__(max(protocol, 2))  # the older ones know no types in C

    def _shape(self, name):
        return self.num_features,

    def _differentiate(self, grad, x, where, rows, weight, running_mean, running_var, eps,
                       rectified):
        """With what the call in C has left: the rows of its moments, or the statistics it used; and
        the result, if it was rectified."""
        if rectified is not None:
            grad = _core.relu_backward(grad, rectified)
        moments = None
        if rows is not None and x.size:
            shape = [1] * x.ndim
            shape[self.axis] = len(rows)
            moments = from_core(rows, shape, "mean")
        return _core.batch_norm_backward(
            grad, x, weight, eps=eps, axis=self.axis, moments=moments, running_mean=running_mean,
            running_var=running_var, where=where)

    def extra_repr(self):
        """What stands between the parentheses of the repr."""
        shown = (f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
                 f"affine={self.affine}, bias={self.bias is not None}, "
                 f"track_running_stats={self.track_running_stats}")
        usual = {"axis": 1, "correction": 1, "on_single": "error", "on_nonfinite": "propagate",
                 "activation": None}
        added = {name: getattr(self, name) for name in usual}
        return shown + "".join(f", {name}={a!r}" for name, a in added.items() if a != usual[name])


class BatchNorm1d(BatchNorm):
    """`BatchNorm` of (N, C) or (N, C, L) alone, as ``torch.nn.BatchNorm1d``.

    Parameters, attributes and errors are those of `BatchNorm`.

    Examples
    --------
    >>> import numpy as np, normc
    >>> normc.BatchNorm1d(2)(np.zeros((4, 2))).shape
    (4, 2)
    """

    _ranks = (2, 3)


class BatchNorm2d(BatchNorm):
    """`BatchNorm` of (N, C, H, W) alone, as ``torch.nn.BatchNorm2d``.

    Parameters, attributes and errors are those of `BatchNorm`.

    Examples
    --------
    >>> import numpy as np, normc
    >>> normc.BatchNorm2d(2)(np.zeros((4, 2, 3, 3))).shape
    (4, 2, 3, 3)
    """

    _ranks = (4, 4)


class BatchNorm3d(BatchNorm):
    """`BatchNorm` of (N, C, D, H, W) alone, as ``torch.nn.BatchNorm3d``.

    Parameters, attributes and errors are those of `BatchNorm`.

    Examples
    --------
    >>> import numpy as np, normc
    >>> normc.BatchNorm3d(2)(np.zeros((4, 2, 2, 3, 3))).shape
    (4, 2, 2, 3, 3)
    """

    _ranks = (5, 5)
