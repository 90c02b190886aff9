"""The ReLU family as layers."""

import numpy as np

from . import _convert, _core
from ._fields import count, finite, floating, number
from ._layer import FunctionLayer

__all__ = ["LeakyReLU", "PReLU", "ReLU"]


class ReLU(FunctionLayer):
    """x where it is positive, else 0; as ``torch.nn.ReLU``.

    Attributes
    ----------
    training, frozen : bool

    Examples
    --------
    >>> import normc
    >>> layer = normc.ReLU()
    >>> layer([-1.0, 2.0])
    array([0., 2.])
    """

    _backward = staticmethod(_core.relu_backward)
    _masked = False

    def __init__(self):
        self._begin({}, {})

    def _forward(self, x, where, out, training):
        return _core.relu(x, out=out), training and {}


class LeakyReLU(FunctionLayer):
    """x where it is positive, else x * negative_slope; as ``torch.nn.LeakyReLU``.

    Parameters
    ----------
    negative_slope : float

    Attributes
    ----------
    training, frozen : bool

    Raises
    ------
    TypeError
        negative_slope is no real number.

    Examples
    --------
    >>> import normc
    >>> layer = normc.LeakyReLU(0.5)
    >>> layer([-1.0, 2.0])
    array([-0.5,  2. ])
    """

    _backward = staticmethod(_core.leaky_relu_backward)
    _masked = False
    _checks = {"negative_slope": number}

    def __init__(self, negative_slope=0.01):
        self._begin({}, {"negative_slope": negative_slope})

    def _forward(self, x, where, out, training):
        slope = self.negative_slope
        return _core.leaky_relu(x, slope, out=out), training and {"negative_slope": slope}

    def extra_repr(self):
        """What stands between the parentheses of the repr."""
        return f"negative_slope={self.negative_slope}"


class PReLU(FunctionLayer):
    """x where it is positive, else x times a learned slope; as ``torch.nn.PReLU``.

    Parameters
    ----------
    num_parameters : int
        1, a slope for all, or one for each channel.
    init : float
        The slopes at first.
    axis : int
        The channel axis: 1 for (N, C, *), -1 for (N, *, C).
    dtype : dtype
        Of weight: float16, bfloat16, float32 (also if None) or float64. x may have another.

    Attributes
    ----------
    weight : ndarray of shape (num_parameters,)
        May be assigned to.
    weight_grad : ndarray of the same shape and dtype
        Zeros, to which `backward` adds.
    training, frozen : bool

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type or out of range; the message names it. From a call: as
        from `prelu`.

    References
    ----------
    He, Zhang, Ren and Sun, "Delving Deep into Rectifiers: Surpassing Human-Level Performance on
    ImageNet Classification", 2015, equation 1.

    Examples
    --------
    >>> import normc
    >>> layer = normc.PReLU()
    >>> layer([-1.0, 2.0])
    array([-0.25,  2.  ])
    """

    _backward = staticmethod(_core.prelu_backward)
    _masked = False
    _parameters = ("weight",)
    _fixed = ("num_parameters", "axis", "dtype")
    _checks = {"init": finite}

    def __init__(self, num_parameters=1, init=0.25, *, axis=1, dtype=np.float32):
        self._begin({"num_parameters": count(self, num_parameters, "num_parameters"),
                     "axis": _convert.integer(axis, "axis"), "dtype": floating(dtype)},
                    {"init": init}, ("weight",))

    @property
    def _initial(self):
        return {"weight": self.init}

    def _shape(self, name):
        return self.num_parameters,

    def _forward(self, x, where, out, training):
        weight, axis = self.weight, self.axis
        return _core.prelu(x, weight, axis=axis, out=out), training and {"weight": weight,
                                                                         "axis": axis}

    def extra_repr(self):
        """What stands between the parentheses of the repr."""
        axis = "" if self.axis == 1 else f", axis={self.axis}"
        return f"num_parameters={self.num_parameters}{axis}"
