"""Norms that look at one sample alone: no running statistics."""

import numpy as np

from . import _convert, _core
from ._fields import activation, count, eps, flag, floating, number, optional, word
from ._layer import FunctionLayer

__all__ = ["GroupNorm", "LayerNorm", "LocalResponseNorm", "RMSNorm"]


def _named_axes(normalized_shape, axis):
    """Both as tuples; of as many numbers, if axis is given."""
    shape = tuple(count(None, n, "normalized_shape")
                  for n in _convert.sizes(normalized_shape, "normalized_shape"))
    if axis is None:
        return shape, None
    axis = tuple(_convert.integer(i, "axis") for i in _convert.sizes(axis, "axis"))
    if len(axis) != len(shape):
        raise ValueError(f"axis and normalized_shape must name as many axes, but are {axis} and "
                         f"{shape}")
    return shape, axis


def _activation_repr(layer):
    return "" if layer.activation is None else f", activation={layer.activation!r}"


class _AxesNorm(FunctionLayer):
    """What LayerNorm and RMSNorm share: the axes that they reduce, and their shape."""

    _fixed = ("normalized_shape", "axis", "dtype")

    def _shape(self, name):
        return self.normalized_shape

    def _check_axes(self, x):
        """The function does, if it sees their shape in weight."""
        axes = sorted(i % x.ndim for i in self.axis if -x.ndim <= i < x.ndim)
        shape = tuple(x.shape[i] for i in axes)
        if len(axes) == len(self.axis) and shape != self.normalized_shape:
            raise ValueError(f"Given normalized_shape={list(self.normalized_shape)} and axis="
                             f"{self.axis}, expected x to have that shape along them, but got "
                             f"input of size {list(x.shape)}")

    def _added_repr(self):
        axis = "" if self.axis is None else f", axis={self.axis}"
        return axis + _activation_repr(self)


class LayerNorm(_AxesNorm):
    """Layer normalization, over the last axes or over named ones; as ``torch.nn.LayerNorm``.

    Parameters
    ----------
    normalized_shape : int or tuple of int
        Shape of the axes that share a mean.
    eps : float
        Added to the variance, under the square root.
    elementwise_affine : bool
        Whether there is a weight, initially ones, and a bias, zeros.
    bias : bool
        False leaves the bias out.
    axis : int or tuple of int, optional
        Which axes these are, if not the last: ``axis=1`` normalises the channels of (N, C, *).
        ``normalized_shape`` is in ascending order of them.
    dtype : dtype
        Of weight and bias: float16, bfloat16, float32 (also if None) or float64. x may have
        another.
    activation : {"relu"}, optional
        Applied to the result, as `relu` would, in the same pass; `backward` goes by the result.

    Attributes
    ----------
    weight, bias : ndarray of shape normalized_shape, or None
        May be assigned to.
    weight_grad, bias_grad : ndarray of the same shape and dtype, or None
        Zeros, to which `backward` adds.
    training, frozen : bool

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type or out of range; the message names it. From a call: as
        from `layer_norm`.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, equation 4.

    Examples
    --------
    >>> import numpy as np, normc
    >>> layer = normc.LayerNorm(3)
    >>> layer(np.array([[1.0, 2, 3], [0, 0, 6]])).round(3)
    array([[-1.225,  0.   ,  1.225],
           [-0.707, -0.707,  1.414]])
    >>> layer
    LayerNorm((3,), eps=1e-05, elementwise_affine=True, bias=True)
    >>> images = np.zeros((2, 3, 8, 8), dtype=np.float32)
    >>> normc.LayerNorm(3, axis=1)(images).shape
    (2, 3, 8, 8)
    """

    _backward = staticmethod(_core.layer_norm_backward)
    _parameters = ("weight", "bias")
    _checks = {"eps": eps, "elementwise_affine": flag, "activation": activation}

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True, *, axis=None,
                 dtype=np.float32, activation=None):
        shape, axis = _named_axes(normalized_shape, axis)
        affine = flag(self, elementwise_affine, "elementwise_affine")
        parameters = ("weight", "bias")[:affine * (1 + flag(self, bias, "bias"))]
        self._begin({"normalized_shape": shape, "axis": axis, "dtype": floating(dtype)},
                    {"eps": eps, "elementwise_affine": affine, "activation": activation},
                    parameters)

    def _forward(self, x, where, out, training):
        weight, eps, axis, activation = self.weight, self.eps, self.axis, self.activation
        shape = self.normalized_shape if axis is None else None
        if shape is None and weight is None:
            self._check_axes(x)
        y = _core.layer_norm(x, shape, weight, self.bias, eps, axis=axis, where=where, out=out,
                             return_moments=training, activation=activation)
        return y, training and {"normalized_shape": shape, "weight": weight, "eps": eps,
                                "axis": axis, "activation": activation}

    def extra_repr(self):
        """What stands between the parentheses of the repr."""
        return (f"{self.normalized_shape}, eps={self.eps}, elementwise_affine="
                f"{self.elementwise_affine}, bias={self.bias is not None}{self._added_repr()}")


class RMSNorm(_AxesNorm):
    """Root mean square normalization, over the last axes or named ones; as ``torch.nn.RMSNorm``.

    Parameters
    ----------
    normalized_shape : int or tuple of int
        Shape of the axes that share a mean square.
    eps : float, optional
        Added to the mean square, under the square root. None: 2^-52 for float64, 2^-23 for the
        smaller types.
    elementwise_affine : bool
        Whether there is a weight, initially ones.
    axis : int or tuple of int, optional
        Which axes these are, if not the last, in ascending order.
    dtype : dtype
        Of weight: float16, bfloat16, float32 (also if None) or float64. x may have another.
    activation : {"relu"}, optional
        Applied to the result, as `relu` would, in the same pass; `backward` goes by the result.

    Attributes
    ----------
    weight : ndarray of shape normalized_shape, or None
        May be assigned to.
    weight_grad : ndarray of the same shape and dtype, or None
        Zeros, to which `backward` adds.
    training, frozen : bool

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type or out of range; the message names it. From a call: as
        from `rms_norm`.

    References
    ----------
    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4.

    Examples
    --------
    >>> import normc
    >>> layer = normc.RMSNorm(2, eps=0.0)
    >>> layer([[3.0, 3], [7, 1]])
    array([[1. , 1. ],
           [1.4, 0.2]])
    """

    _backward = staticmethod(_core.rms_norm_backward)
    _parameters = ("weight",)
    _checks = {"eps": optional(eps), "elementwise_affine": flag, "activation": activation}

    def __init__(self, normalized_shape, eps=None, elementwise_affine=True, *, axis=None,
                 dtype=np.float32, activation=None):
        shape, axis = _named_axes(normalized_shape, axis)
        affine = flag(self, elementwise_affine, "elementwise_affine")
        self._begin({"normalized_shape": shape, "axis": axis, "dtype": floating(dtype)},
                    {"eps": eps, "elementwise_affine": affine, "activation": activation},
                    ("weight",) * affine)

    def _forward(self, x, where, out, training):
        weight, eps, axis, activation = self.weight, self.eps, self.axis, self.activation
        shape = self.normalized_shape if axis is None else None
        if shape is None and weight is None:
            self._check_axes(x)
        y = _core.rms_norm(x, shape, weight, eps, axis=axis, where=where, out=out,
                           return_moments=training, activation=activation)
        return y, training and {"normalized_shape": shape, "weight": weight, "eps": eps,
                                "axis": axis, "activation": activation}

    def extra_repr(self):
        """What stands between the parentheses of the repr."""
        return (f"{self.normalized_shape}, eps={self.eps}, elementwise_affine="
                f"{self.elementwise_affine}{self._added_repr()}")


class GroupNorm(FunctionLayer):
    """Group normalization: neighbouring channels of one sample share a mean; as in ``torch.nn``.

    Parameters
    ----------
    num_groups, num_channels : int
        The first divides the second.
    eps : float
        Added to the variance, under the square root.
    affine : bool
        Whether there is a weight, initially ones, and a bias, zeros.
    bias : bool
        False leaves the bias out.
    axis : int
        The channel axis: 1 for (N, C, *), -1 for (N, *, C).
    dtype : dtype
        Of weight and bias: float16, bfloat16, float32 (also if None) or float64. x may have
        another.
    activation : {"relu"}, optional
        Applied to the result, as `relu` would, in the same pass; `backward` goes by the result.

    Attributes
    ----------
    weight, bias : ndarray of shape (num_channels,), or None
        May be assigned to.
    weight_grad, bias_grad : ndarray of the same shape and dtype, or None
        Zeros, to which `backward` adds.
    training, frozen : bool

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type or out of range, or the groups do not divide the channels;
        the message names it. From a call: as from `group_norm`.

    References
    ----------
    Wu and He, "Group Normalization", 2018, equation 7.

    Examples
    --------
    >>> import normc
    >>> layer = normc.GroupNorm(2, 4)
    >>> layer([[1.0, 3, 10, 30]]).round(3)
    array([[-1.,  1., -1.,  1.]])
    >>> layer
    GroupNorm(2, 4, eps=1e-05, affine=True, bias=True)
    """

    _backward = staticmethod(_core.group_norm_backward)
    _parameters = ("weight", "bias")
    _fixed = ("num_groups", "num_channels", "axis", "dtype")
    _checks = {"eps": eps, "affine": flag, "activation": activation}

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True, *, bias=True, axis=1,
                 dtype=np.float32, activation=None):
        groups, channels = (count(self, num_groups, "num_groups"),
                            count(self, num_channels, "num_channels"))
        if groups < 1 or channels % groups:
            raise ValueError(f"num_channels ({channels}) must be divisible by num_groups "
                             f"({groups})")
        affine = flag(self, affine, "affine")
        parameters = ("weight", "bias")[:affine * (1 + flag(self, bias, "bias"))]
        self._begin({"num_groups": groups, "num_channels": channels, "dtype": floating(dtype),
                     "axis": _convert.integer(axis, "axis")},
                    {"eps": eps, "affine": affine, "activation": activation}, parameters)

    def _shape(self, name):
        return self.num_channels,

    def _forward(self, x, where, out, training):
        weight, eps, activation = self.weight, self.eps, self.activation
        y = _core.group_norm(x, self.num_groups, weight, self.bias, eps, axis=self.axis,
                             where=where, out=out, return_moments=training, activation=activation)
        return y, training and {"num_groups": self.num_groups, "weight": weight, "eps": eps,
                                "axis": self.axis, "activation": activation}

    def extra_repr(self):
        """What stands between the parentheses of the repr."""
        axis = "" if self.axis == 1 else f", axis={self.axis}"
        return (f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
                f"bias={self.bias is not None}{axis}{_activation_repr(self)}")


class LocalResponseNorm(FunctionLayer):
    """Local response normalization, over a window of channels; as in ``torch.nn``.

    Parameters
    ----------
    size : int
        Channels in the window.
    alpha, beta, k : float
        x is divided by ``(k + alpha / size * sum of x^2)^beta``.
    axis : int
        The channel axis: 1 for (N, C, *), -1 for (N, *, C).
    window : {"torch", "onnx"}
        Whether a window of even size has one channel more before its middle or after it.

    Attributes
    ----------
    training, frozen : bool

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type or out of range; the message names it. From a call: as
        from `local_response_norm`.

    References
    ----------
    Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural
    Networks", 2012, section 3.3.

    Examples
    --------
    >>> import numpy as np, normc
    >>> layer = normc.LocalResponseNorm(2, alpha=2.0, beta=1.0)
    >>> layer(np.array([1.0, 2, 3]).reshape(1, 3, 1)).ravel().round(3)
    array([0.5  , 0.333, 0.214])
    """

    _backward = staticmethod(_core.local_response_norm_backward)
    _masked = False
    _fixed = ("axis",)
    _checks = {"size": count, "alpha": number, "beta": number, "k": number,
               "window": word("torch", "onnx")}

    def __init__(self, size, alpha=1e-4, beta=0.75, k=1.0, *, axis=1, window="torch"):
        self._begin({"axis": _convert.integer(axis, "axis")},
                    {"size": size, "alpha": alpha, "beta": beta, "k": k, "window": window})

    def _forward(self, x, where, out, training):
        arguments = {"size": self.size, "alpha": self.alpha, "beta": self.beta, "k": self.k,
                     "axis": self.axis, "window": self.window}
        return _core.local_response_norm(x, out=out, **arguments), arguments

    def extra_repr(self):
        """What stands between the parentheses of the repr."""
        added = {"axis": (self.axis, 1), "window": (self.window, "torch")}
        return (f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
                + "".join(f", {name}={a!r}" for name, (a, usual) in added.items() if a != usual))
