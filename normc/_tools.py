"""What users do with layers, beside calling them."""

import numpy as np

from ._convert import real

__all__ = ["decay"]


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
