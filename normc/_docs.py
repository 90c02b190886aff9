"""Signatures, defaults and docstrings of the functions in C, in this one place.

Each function below is written for its head and its docstring; ``attach`` gives both to the C
function of the same name, which sorts and converts its arguments by the names it finds there.
"""

from types import FunctionType

from . import _core, _docs_gradients


def batch_norm(x, /, running_mean=None, running_var=None, weight=None, bias=None, training=False,
               momentum=0.1, eps=1e-5, *, axis=1, correction=1, where=None, out=None,
               return_moments=False, activation=None):
    """Normalises each channel over the batch and all other axes.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias``, with one mean and one biased variance per
    channel: of the batch in training, the running ones otherwise.

    Parameters
    ----------
    x : array_like, shape (N, C, *)
        float16, bfloat16, float32 or float64; integers and bools become float64.
    running_mean, running_var : ndarray of shape (C,), optional
        Of any floating dtype; both or neither. In training they are updated in place, to
        ``(1 - momentum) * old + momentum * batch``.
    weight, bias : array_like of shape (C,), optional
        Ones and zeros if not given.
    training : bool
        Whether to use the statistics of the batch.
    momentum : float
        Weight of the new value; ``normc.decay`` converts from the weight of the old one.
    eps : float
        Added to the variance, under the square root.
    axis : int
        The channel axis: 1 for (N, C, *), -1 for (N, *, C).
    correction : {1, 0}
        Whether the running variance takes the unbiased variance of the batch or the biased one.
    where : array_like of bool, optional
        Elements to take part; broadcasts to x. The result is 0 at the others. A channel left with
        fewer than two keeps its running statistics.
    out : ndarray of the result's shape and dtype, optional
        Where to write the result; may be x, or overlap any input.
    return_moments : bool
        Whether to return ``(y, Moments)``; in training only.
    activation : {"relu"}, optional
        Applied to the result, as `relu` would, in the same pass.

    Returns
    -------
    ndarray, or (ndarray, Moments) with return_moments
        Of x's shape and dtype; float64 of integers and bools.

    Raises
    ------
    TypeError
        An argument has a wrong type, or x or a parameter a dtype that is not supported.
    ValueError
        A shape does not fit, a number is out of range, ``out`` or a running statistic cannot be
        written or shares memory that it must not, or there is only one value per channel.
    numpy.exceptions.AxisError
        There is no such axis.

    See Also
    --------
    BatchNorm : the layer.

    References
    ----------
    Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
    Covariate Shift", 2015, algorithm 1.

    Examples
    --------
    >>> import numpy as np, normc
    >>> x = np.array([[0.0, 10.0], [2.0, 30.0]])
    >>> normc.batch_norm(x, training=True, eps=0)
    array([[-1., -1.],
           [ 1.,  1.]])
    """


def instance_norm(x, /, running_mean=None, running_var=None, weight=None, bias=None,
                  use_input_stats=True, momentum=0.1, eps=1e-5, *, axis=1, correction=1, where=None,
                  out=None, return_moments=False, activation=None):
    """Normalises each channel of each sample over its positions.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias``, with one mean and one biased variance per
    sample and channel, or the running ones of the channel.

    Parameters
    ----------
    x : array_like, shape (N, C, *)
        float16, bfloat16, float32 or float64; integers and bools become float64.
    running_mean, running_var : ndarray of shape (C,), optional
        Of any floating dtype; both or neither. With `use_input_stats` they are updated in place,
        by means over N: ``(1 - momentum) * old + momentum * batch``.
    weight, bias : array_like of shape (C,), optional
        Ones and zeros if not given.
    use_input_stats : bool
        Whether to use the statistics of x rather than the running ones.
    momentum : float
        Weight of the new value.
    eps : float
        Added to the variance, under the square root.
    axis : int
        The channel axis: 1 for (N, C, *), -1 for (N, *, C).
    correction : {1, 0}
        Whether the running variance takes the unbiased variance or the biased one.
    where : array_like of bool, optional
        Elements to take part; broadcasts to x. The result is 0 at the others.
    out : ndarray of the result's shape and dtype, optional
        Where to write the result; may be x, or overlap any input.
    return_moments : bool
        Whether to return ``(y, Moments)``; with `use_input_stats` only.
    activation : {"relu"}, optional
        Applied to the result, as `relu` would, in the same pass.

    Returns
    -------
    ndarray, or (ndarray, Moments) with return_moments
        Of x's shape and dtype; float64 of integers and bools.

    Raises
    ------
    TypeError
        An argument has a wrong type, or x or a parameter a dtype that is not supported.
    ValueError
        A shape does not fit, a number is out of range, ``out`` or a running statistic cannot be
        written or shares memory that it must not, or there is only one position.
    numpy.exceptions.AxisError
        There is no such axis.

    References
    ----------
    Ulyanov, Vedaldi and Lempitsky, "Instance Normalization: The Missing Ingredient for Fast
    Stylization", 2016, equation 3.

    Examples
    --------
    >>> import numpy as np, normc
    >>> normc.instance_norm(np.array([[[0.0, 2.0], [10.0, 30.0]]]), eps=0)
    array([[[-1.,  1.],
            [-1.,  1.]]])
    """


def layer_norm(x, /, normalized_shape=None, weight=None, bias=None, eps=1e-5, *, axis=None,
               where=None, out=None, return_moments=False, activation=None, residual=None):
    """Normalises over the trailing axes, or over any others.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias``, with one mean and one biased variance for
    each place along the other axes.

    Parameters
    ----------
    x : array_like
        float16, bfloat16, float32 or float64; integers and bools become float64.
    normalized_shape : int or tuple of int, optional
        The lengths of the trailing axes to normalise over.
    weight, bias : array_like, optional
        Of the shape of those axes, in ascending order. Ones and zeros if not given.
    eps : float
        Added to the variance, under the square root.
    axis : int or tuple of int, optional
        The axes, instead of `normalized_shape`: ``axis=1`` normalises (N, C, H, W) over channels.
        Neither given: the last axis.
    where : array_like of bool, optional
        Elements to take part; broadcasts to x. The result is 0 at the others.
    out : ndarray of the result's shape and dtype, optional
        Where to write the result; may be x, or overlap any input.
    return_moments : bool
        Whether to return ``(y, Moments)``.
    activation : {"relu"}, optional
        Applied to the result, as `relu` would, in the same pass.
    residual : array_like of x's shape and dtype, optional
        Added to x before it is normalised; the sum, rounded as any, is returned beside the result.
        In the same pass where the last axes are normalised and both arrays are dense.

    Returns
    -------
    ndarray, or a tuple of it, with residual the sum, and with return_moments Moments
        Of x's shape and dtype; float64 of integers and bools.

    Raises
    ------
    TypeError
        An argument has a wrong type, or x or a parameter a dtype that is not supported.
    ValueError
        A shape does not fit, eps is negative, or ``out`` cannot be written.
    numpy.exceptions.AxisError
        There is no such axis.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, equations 3 and 4.

    Examples
    --------
    >>> import numpy as np, normc
    >>> normc.layer_norm(np.array([[0.0, 2.0], [10.0, 30.0]]), 2, eps=0)
    array([[-1.,  1.],
           [-1.,  1.]])

    Two branches of a network, joined and normalised at once:

    >>> y, total = normc.layer_norm([[0.0, 2.0]], residual=[[1.0, 3.0]], activation="relu", eps=0)
    >>> y, total
    (array([[0., 1.]]), array([[1., 5.]]))
    """


def rms_norm(x, /, normalized_shape=None, weight=None, eps=None, *, axis=None, where=None, out=None,
             return_moments=False, activation=None, residual=None):
    """Divides by the root mean square over the trailing axes, or over any others.

    ``y = x / sqrt(mean(x**2) + eps) * weight``.

    Parameters
    ----------
    x : array_like
        float16, bfloat16, float32 or float64; integers and bools become float64.
    normalized_shape : int or tuple of int, optional
        The lengths of the trailing axes to normalise over.
    weight : array_like, optional
        Of the shape of those axes, in ascending order. Ones if not given.
    eps : float, optional
        Added to the mean square, under the root. None: 2**-52 for float64, else 2**-23.
    axis : int or tuple of int, optional
        The axes, instead of `normalized_shape`. Neither given: the last axis.
    where : array_like of bool, optional
        Elements to take part; broadcasts to x. The result is 0 at the others.
    out : ndarray of the result's shape and dtype, optional
        Where to write the result; may be x, or overlap any input.
    return_moments : bool
        Whether to return ``(y, Moments)``; the moments are about zero.
    activation : {"relu"}, optional
        Applied to the result, as `relu` would, in the same pass.
    residual : array_like of x's shape and dtype, optional
        Added to x before it is normalised; the sum, rounded as any, is returned beside the result.
        In the same pass where the last axes are normalised and both arrays are dense.

    Returns
    -------
    ndarray, or a tuple of it, with residual the sum, and with return_moments Moments
        Of x's shape and dtype; float64 of integers and bools.

    Raises
    ------
    TypeError
        An argument has a wrong type, or x or a parameter a dtype that is not supported.
    ValueError
        A shape does not fit, eps is negative, or ``out`` cannot be written.
    numpy.exceptions.AxisError
        There is no such axis.

    References
    ----------
    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4.

    Examples
    --------
    >>> import numpy as np, normc
    >>> normc.rms_norm(np.array([1.0, 7.0]), eps=0)
    array([0.2, 1.4])
    """


def group_norm(x, /, num_groups, weight=None, bias=None, eps=1e-5, *, axis=1, where=None, out=None,
               return_moments=False, activation=None):
    """Normalises groups of neighbouring channels of each sample.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias``, with one mean and one biased variance per
    sample and group, weight and bias per channel.

    Parameters
    ----------
    x : array_like, shape (N, C, *)
        float16, bfloat16, float32 or float64; integers and bools become float64.
    num_groups : int
        Divides C.
    weight, bias : array_like of shape (C,), optional
        Ones and zeros if not given.
    eps : float
        Added to the variance, under the square root.
    axis : int
        The channel axis: 1 for (N, C, *), -1 for (N, *, C).
    where : array_like of bool, optional
        Elements to take part; broadcasts to x. The result is 0 at the others.
    out : ndarray of the result's shape and dtype, optional
        Where to write the result; may be x, or overlap any input.
    return_moments : bool
        Whether to return ``(y, Moments)``; their channel axis has length `num_groups`.
    activation : {"relu"}, optional
        Applied to the result, as `relu` would, in the same pass.

    Returns
    -------
    ndarray, or (ndarray, Moments) with return_moments
        Of x's shape and dtype; float64 of integers and bools.

    Raises
    ------
    TypeError
        An argument has a wrong type, or x or a parameter a dtype that is not supported.
    ValueError
        A shape does not fit, num_groups does not divide C, eps is negative, or ``out`` cannot be
        written.
    numpy.exceptions.AxisError
        There is no such axis.

    References
    ----------
    Wu and He, "Group Normalization", 2018, equations 1 to 3 and 7.

    Examples
    --------
    >>> import numpy as np, normc
    >>> normc.group_norm(np.array([[0.0, 2.0, 10.0, 30.0]]), 2, eps=0)
    array([[-1.,  1., -1.,  1.]])
    """


def switchable_norm(x, /, mean_weight, var_weight, weight=None, bias=None, running_mean=None,
                    running_var=None, training=False, momentum=0.1, eps=1e-5, *, axis=1,
                    correction=0, out=None, return_moments=False, activation=None):
    """Normalises by a blend of instance, layer and batch statistics.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias``, where mean and variance are sums of those
    of the sample's channel, of the sample and of the batch's channel, weighed by softmax.

    Parameters
    ----------
    x : array_like, shape (N, C, *)
        float16, bfloat16, float32 or float64; integers and bools become float64.
    mean_weight, var_weight : array_like of shape (3,)
        Logits of instance, layer and batch; for x of shape (N, C), of shape (2,), layer and batch.
    weight, bias : array_like of shape (C,), optional
        Ones and zeros if not given.
    running_mean, running_var : ndarray of shape (C,), optional
        Of any floating dtype; both or neither. Updated in place in training, to
        ``(1 - momentum) * old + momentum * batch``; used for the batch's otherwise.
    training : bool
        Whether to use the statistics of the batch.
    momentum : float
        Weight of the new value.
    eps : float
        Added to the variance, under the square root.
    axis : int
        The channel axis: 1 for (N, C, *), -1 for (N, *, C).
    correction : {0, 1}
        1 reproduces the authors' code, where the instance variance is unbiased and the others are
        derived from it.
    out : ndarray of the result's shape and dtype, optional
        Where to write the result; may be x, or overlap any input.
    return_moments : bool
        Whether to return ``(y, Moments)``, those of the instances.
    activation : {"relu"}, optional
        Applied to the result, as `relu` would, in the same pass.

    Returns
    -------
    ndarray, or (ndarray, Moments) with return_moments
        Of x's shape and dtype; float64 of integers and bools.

    Raises
    ------
    TypeError
        An argument has a wrong type, or x or a parameter a dtype that is not supported.
    ValueError
        A shape does not fit, a number is out of range, ``out`` or a running statistic cannot be
        written or shares memory that it must not, or there is only one value per channel.
    numpy.exceptions.AxisError
        There is no such axis.

    References
    ----------
    Luo, Ren, Peng, Zhang and Li, "Differentiable Learning-to-Normalize via Switchable
    Normalization", 2018, equations 3 to 5.

    Examples
    --------
    >>> import numpy as np, normc
    >>> x = np.array([[[0.0, 2.0]], [[10.0, 30.0]]])
    >>> normc.switchable_norm(x, [50, 0, 0], [50, 0, 0], training=True, eps=0).round(6)
    array([[[-1.,  1.]],
    <BLANKLINE>
           [[-1.,  1.]]])
    """


def local_response_norm(x, /, size, alpha=1e-4, beta=0.75, k=1.0, *, axis=1, window="torch",
                        out=None):
    """Divides by a power of the squares of neighbouring channels.

    ``y = x / (k + alpha / size * sum(x**2))**beta``, summed over a window of `size` channels around
    each.

    Parameters
    ----------
    x : array_like, shape (N, C, *)
        Of at least 3 dimensions. float16, bfloat16, float32 or float64; integers and bools become
        float64.
    size : int
        Channels of a window; those outside x count as 0.
    alpha, beta, k : float
        Factor, exponent and offset.
    axis : int
        The channel axis.
    window : {"torch", "onnx"}
        Where a window of even size lies: size 2 is channels c - 1 and c, or c and c + 1.
    out : ndarray of the result's shape and dtype, optional
        Where to write the result; may be x, or overlap it.

    Returns
    -------
    ndarray
        Of x's shape and dtype; float64 of integers and bools.

    Raises
    ------
    TypeError
        An argument has a wrong type, or x a dtype that is not supported.
    ValueError
        x has fewer than 3 dimensions, size is below 1, window is unknown, or ``out`` cannot be
        written.
    numpy.exceptions.AxisError
        There is no such axis.

    References
    ----------
    Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural
    Networks", 2012, section 3.3.

    Examples
    --------
    >>> import numpy as np, normc
    >>> x = np.array([[[1.0], [2.0], [2.0]]])
    >>> normc.local_response_norm(x, 3, alpha=3.0, beta=0.5, k=0.0).ravel().round(4)
    array([0.4472, 0.6667, 0.7071])
    """


def standardize(x, /, axis=None, *, eps=0.0, where=None, out=None, return_moments=False):
    """Subtracts the mean and divides by the standard deviation.

    ``y = (x - mean) / sqrt(var + eps)``, over any axes; 0 where all elements are equal.

    Parameters
    ----------
    x : array_like
        float16, bfloat16, float32 or float64; integers and bools become float64.
    axis : int or tuple of int, optional
        The axes that share a mean; all if not given.
    eps : float
        Added to the variance, under the square root.
    where : array_like of bool, optional
        Elements to take part; broadcasts to x. The result is 0 at the others.
    out : ndarray of the result's shape and dtype, optional
        Where to write the result; may be x, or overlap any input.
    return_moments : bool
        Whether to return ``(y, Moments)``.

    Returns
    -------
    ndarray, or (ndarray, Moments) with return_moments
        Of x's shape and dtype; float64 of integers and bools.

    Raises
    ------
    TypeError
        An argument has a wrong type, or x a dtype that is not supported.
    ValueError
        `where` does not broadcast to x, eps is negative, or ``out`` cannot be written.
    numpy.exceptions.AxisError
        There is no such axis.

    References
    ----------
    LeCun, Bottou, Orr and Müller, "Efficient BackProp", 1998, section 4.3.

    Examples
    --------
    >>> import numpy as np, normc
    >>> normc.standardize(np.array([[0, 10], [2, 30]]), axis=0)
    array([[-1., -1.],
           [ 1.,  1.]])
    """


def moments(x, /, axis=None, *, where=None):
    """Counts elements and takes their mean and centred second moment.

    Parameters
    ----------
    x : array_like
        float16, bfloat16, float32 or float64; integers and bools become float64.
    axis : int or tuple of int, optional
        The axes to average over; all if not given. They are kept, with length 1.
    where : array_like of bool, optional
        Elements to take; broadcasts to x.

    Returns
    -------
    Moments
        In float64, the mean in two words.

    Raises
    ------
    TypeError
        An argument has a wrong type, or x a dtype that is not supported.
    ValueError
        `where` does not broadcast to x.
    numpy.exceptions.AxisError
        There is no such axis.

    References
    ----------
    Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance: Analysis and
    Recommendations", 1983.

    Examples
    --------
    >>> import numpy as np, normc
    >>> m = normc.moments(np.array([[0.0, 2.0], [10.0, 30.0]]), axis=1)
    >>> m.mean.ravel(), m.var().ravel()
    (array([ 1., 20.]), array([  1., 100.]))
    """


def relu(x, /, *, out=None):
    """Sets negative elements to 0; NaN stays.

    Parameters
    ----------
    x : array_like
        float16, bfloat16, float32 or float64; integers and bools become float64.
    out : ndarray of the result's shape and dtype, optional
        Where to write the result; may be x, or overlap it.

    Returns
    -------
    ndarray
        Of x's shape and dtype; float64 of integers and bools.

    Raises
    ------
    TypeError
        x has a dtype that is not supported, or out is no ndarray.
    ValueError
        ``out`` cannot be written.

    References
    ----------
    Nair and Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines", 2010.

    Examples
    --------
    >>> import normc
    >>> normc.relu([-1.0, 2.0])
    array([0., 2.])
    """


def leaky_relu(x, /, negative_slope=0.01, *, out=None):
    """Multiplies negative elements by a small slope.

    Parameters
    ----------
    x : array_like
        float16, bfloat16, float32 or float64; integers and bools become float64.
    negative_slope : float
        The factor.
    out : ndarray of the result's shape and dtype, optional
        Where to write the result; may be x, or overlap it.

    Returns
    -------
    ndarray
        Of x's shape and dtype; float64 of integers and bools.

    Raises
    ------
    TypeError
        An argument has a wrong type, or x a dtype that is not supported.
    ValueError
        ``out`` cannot be written.

    References
    ----------
    Maas, Hannun and Ng, "Rectifier Nonlinearities Improve Neural Network Acoustic Models", 2013.

    Examples
    --------
    >>> import normc
    >>> normc.leaky_relu([-1.0, 2.0])
    array([-0.01,  2.  ])
    """


def prelu(x, /, weight, *, axis=1, out=None):
    """Multiplies negative elements by a slope, which may be each channel's own.

    Parameters
    ----------
    x : array_like
        float16, bfloat16, float32 or float64; integers and bools become float64.
    weight : array_like of shape (), (1,) or (C,)
        The slopes: one for all, or one per channel.
    axis : int
        The channel axis, where there is more than one slope.
    out : ndarray of the result's shape and dtype, optional
        Where to write the result; may be x, or overlap any input.

    Returns
    -------
    ndarray
        Of x's shape and dtype; float64 of integers and bools.

    Raises
    ------
    TypeError
        An argument has a wrong type, or x or weight a dtype that is not supported.
    ValueError
        weight has neither one element nor one per channel, or ``out`` cannot be written.
    numpy.exceptions.AxisError
        There is no such axis.

    References
    ----------
    He, Zhang, Ren and Sun, "Delving Deep into Rectifiers: Surpassing Human-Level Performance on
    ImageNet Classification", 2015, equation 1.

    Examples
    --------
    >>> import normc
    >>> normc.prelu([[-1.0, -1.0], [1.0, 1.0]], [0.25, 0.5])
    array([[-0.25, -0.5 ],
           [ 1.  ,  1.  ]])
    """


def __call__(x, /, *, where=None, out=None):
    """Of every layer."""


HEADS = [head for room in (globals(), vars(_docs_gradients)) for head in list(room.values())
         if isinstance(head, FunctionType)]


def attach():
    """Hands heads and docstrings to C."""
    for head in HEADS:
        code = head.__code__
        names = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]
        defaults = (head.__defaults__ or ()) + tuple((head.__kwdefaults__ or {}).values())
        required = (...,) * (len(names) - len(defaults))
        text = f"{head.__name__}({_signature(code, names, defaults)})\n--\n\n{head.__doc__ or ''}"
        _core._define(head.__name__, names, required + defaults, code.co_posonlyargcount,
                      code.co_argcount, text)


def _signature(code, names, defaults):
    """As `inspect` reads it at the top of a C function's docstring."""
    required = len(names) - len(defaults)
    parts = list(names[:required])
    parts += [f"{name}={value!r}" for name, value in zip(names[required:], defaults)]
    if code.co_kwonlyargcount:
        parts.insert(code.co_argcount, "*")
    parts.insert(code.co_posonlyargcount, "/")
    return ", ".join(parts)
