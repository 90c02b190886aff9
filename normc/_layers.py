"""Layers: functions with parameters and running statistics of their own."""

from collections import namedtuple
from collections.abc import Mapping
from copyreg import __newobj__

import numpy as np

from . import _core
from ._convert import FLOATING, real
from ._fields import counter, eps, flag, momentum, vector

__all__ = ["BatchNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "decay"]

IncompatibleKeys = namedtuple("IncompatibleKeys", ["missing_keys", "unexpected_keys"])


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


class Layer:
    """What all layers share: modes, state, copies, repr.

    It comes before the class that holds the fields, whose ``__init__`` takes ``_config()``. A layer
    names its arrays in ``_parameters`` and ``_buffers``, of which those that are None do not count,
    and its other fields in ``_settings``; ``_checks`` tells of each what may be assigned.
    """

    _parameters = ()
    _buffers = ()
    _settings = ()
    _checks = {}

    def __setattr__(self, name, value):
        if name in self._checks:
            value = self._checks[name](self, value, name)
        super().__setattr__(name, value)

    def __delattr__(self, name):
        if name in self._checks:
            raise AttributeError(f"{name} cannot be deleted")
        super().__delattr__(name)

    def train(self, mode=True):
        """Sets training mode, or with False evaluation; returns the layer."""
        self.training = mode
        return self

    def eval(self):
        """Sets evaluation mode; returns the layer."""
        return self.train(False)

    def freeze(self):
        """Behaves as in evaluation from now on, whatever `train` says; returns the layer."""
        self.frozen = True
        return self

    def unfreeze(self):
        """Undoes `freeze`; returns the layer."""
        self.frozen = False
        return self

    def named_parameters(self):
        """Yields (name, array) of every parameter."""
        return ((name, array) for name, array in self._arrays() if name in self._parameters)

    def parameters(self):
        """Yields the array of every parameter."""
        return (array for _, array in self.named_parameters())

    def _arrays(self):
        named = ((name, getattr(self, name)) for name in self._parameters + self._buffers)
        return [(name, array) for name, array in named if array is not None]

    def state_dict(self):
        """Copies of all arrays by name, with torch's names."""
        return {name: np.array(array) for name, array in self._arrays()}

    def load_state_dict(self, state_dict, strict=True):
        """Copies the arrays of a `state_dict` into the layer's own, all or none.

        Parameters
        ----------
        state_dict : mapping of str to array_like
            normc's or torch's.
        strict : bool
            Whether missing and unexpected names are errors. The counter alone may be missing, as
            from old checkpoints; then it stays.

        Returns
        -------
        IncompatibleKeys
            Two lists, ``missing_keys`` and ``unexpected_keys``.

        Raises
        ------
        TypeError
            state_dict is no mapping.
        ValueError
            Names are missing or unexpected, or arrays have another shape or kind of dtype; the
            message names them all.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be a mapping, not {type(state_dict).__name__}")
        own = dict(self._arrays())
        missing = [name for name in own if name not in state_dict]
        required = [name for name in missing if name != "num_batches_tracked"]
        unexpected = [name for name in state_dict if name not in own]
        problems = []
        if strict and required:
            problems.append(f"Missing key(s) in state_dict: {_quoted(required)}.")
        if strict and unexpected:
            problems.append(f"Unexpected key(s) in state_dict: {_quoted(unexpected)}.")
        values = {}
        for name in [name for name in own if name in state_dict]:
            values[name], problem = _loadable(name, state_dict[name], own[name])
            problems += problem
        if problems:
            title = f"Error(s) in loading state_dict for {type(self).__name__}:"
            raise ValueError("\n\t".join([title, *problems]))
        for name, value in values.items():
            own[name][...] = value
        return IncompatibleKeys(missing, unexpected)

    def extra_repr(self):
        """What stands between the parentheses of the repr."""
        return ""

    def __repr__(self):
        return f"{type(self).__name__}({self.extra_repr()})"

    def __reduce__(self):
        names = (*self._settings, *self._parameters, *self._buffers)
        state = {"config": self._config(), "fields": {name: getattr(self, name) for name in names},
                 "dict": vars(self)}
        return __newobj__, (type(self),), state

    def __setstate__(self, state):
        try:
            super().__init__(*state["config"])
            for name, value in state["fields"].items():
                setattr(self, name, value)
            vars(self).update(state["dict"])
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"this is no state of a {type(self).__name__}: {error!r}") from error


def _quoted(names):
    return ", ".join(f'"{name}"' for name in names)


def _as_array(entry):
    """An ndarray, also of another library's tensor that NumPy cannot read as it is."""
    if not isinstance(entry, np.ndarray) and hasattr(entry, "detach"):
        entry = entry.detach()
    try:
        return np.asarray(entry)
    except (TypeError, RuntimeError):
        if not hasattr(entry, "double"):
            raise
        return np.asarray(entry.double())


def _loadable(name, entry, own):
    """The entry as an array of own's dtype and shape, and what is wrong with it, in a list."""
    try:
        value = _as_array(entry)
    except (TypeError, ValueError, RuntimeError) as error:
        return None, [f"{name} is no array: {error}"]
    kinds = "iu" if own.dtype.kind in "iu" else "iufb"
    if value.dtype.kind not in kinds and not (kinds == "iufb" and value.dtype.name in FLOATING):
        return None, [f"dtype mismatch for {name}: {value.dtype} in state_dict, {own.dtype} here."]
    if value.shape != own.shape:
        return None, [f"size mismatch for {name}: copying a param with shape {value.shape} from "
                      f"checkpoint, the shape in current model is {own.shape}."]
    if kinds == "iu" and ((value < 0) | (value >= np.iinfo(own.dtype).max)).any():
        return None, [f"{name} counts from 0 to {np.iinfo(own.dtype).max - 1}, but has {value}."]
    if not own.flags.writeable:
        return None, [f"{name} is read-only."]
    with np.errstate(all="ignore"):
        return value.astype(own.dtype), []


class BatchNorm(Layer, _core.BatchNorm):
    """Batch normalization of each channel, over the batch and all other axes.

    In training, x is normalised by the mean and the biased variance of the batch, and the running
    statistics follow: ``(1 - momentum) * running + momentum * batch``. In evaluation x is
    normalised by them. Calls on one layer from many threads are safe: each update is whole. While
    others train it, `state_dict` and `load_state_dict` may mix the states of two updates.

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

    Attributes
    ----------
    weight, bias, running_mean, running_var : ndarray of shape (C,) or None
        May be assigned to.
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
    """

    _parameters = ("weight", "bias")
    _buffers = ("running_mean", "running_var", "num_batches_tracked")
    _settings = ("eps", "momentum", "affine", "track_running_stats", "training", "frozen")
    _checks = {"weight": vector, "bias": vector, "running_mean": vector, "running_var": vector,
               "num_batches_tracked": counter, "eps": eps, "momentum": momentum,
               "affine": flag, "track_running_stats": flag, "training": flag, "frozen": flag}
    _ranks = (0, 64)
    affine = False

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True,
                 *, bias=True, axis=1, correction=1, dtype=np.float32):
        try:
            dtype = np.dtype(np.float32 if dtype is None else dtype)
        except (TypeError, ValueError, DeprecationWarning) as error:  # a warning: if it is an error
            raise TypeError(f"dtype: {error}") from error
        bias = flag(self, bias, "bias")
        if dtype.name not in FLOATING:
            raise TypeError(f"dtype must be one of {', '.join(FLOATING)}, but got {dtype}")
        fields = {"affine": affine, "track_running_stats": track_running_stats,
                  "momentum": momentum, "eps": eps}  # eps last: it makes the layer ready
        fields = {name: self._checks[name](self, value, name) for name, value in fields.items()}
        super().__init__(num_features, axis, correction, self._ranks)
        self.dtype = dtype
        if affine:
            self.weight = np.ones(self.num_features, dtype)
        if affine and bias:
            self.bias = np.zeros(self.num_features, dtype)
        if track_running_stats:
            self.running_mean = np.zeros(self.num_features, dtype)
            self.running_var = np.ones(self.num_features, dtype)
            self.num_batches_tracked = 0
        for name, value in fields.items():
            setattr(self, name, value)

    def _config(self):
        return self.num_features, self.axis, self.correction, self._ranks

    def reset_running_stats(self):
        """Running mean 0, variance 1, no batches tracked; those that are None stay."""
        for name, value in (("running_mean", 0), ("running_var", 1), ("num_batches_tracked", 0)):
            if getattr(self, name) is not None:
                getattr(self, name)[...] = value

    def reset_parameters(self):
        """Weight 1, bias 0, and `reset_running_stats`."""
        self.reset_running_stats()
        for name, value in (("weight", 1), ("bias", 0)):
            if getattr(self, name) is not None:
                getattr(self, name)[...] = value

    def extra_repr(self):
        shown = (f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
                 f"affine={self.affine}, bias={self.bias is not None}, "
                 f"track_running_stats={self.track_running_stats}")
        added = {"axis": self.axis, "correction": self.correction}
        return shown + "".join(f", {name}={n}" for name, n in added.items() if n != 1)


class BatchNorm1d(BatchNorm):
    """`BatchNorm` of (N, C) or (N, C, L) alone, as ``torch.nn.BatchNorm1d``."""

    _ranks = (2, 3)


class BatchNorm2d(BatchNorm):
    """`BatchNorm` of (N, C, H, W) alone, as ``torch.nn.BatchNorm2d``."""

    _ranks = (4, 4)


class BatchNorm3d(BatchNorm):
    """`BatchNorm` of (N, C, D, H, W) alone, as ``torch.nn.BatchNorm3d``."""

    _ranks = (5, 5)
