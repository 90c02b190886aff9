"""Signatures, defaults and docstrings of the gradients in C; see `_docs`.

With x^ = (x - mean) * rstd and g^ = grad * weight, whatever shares the mean:

    dx = rstd * (g^ - mean(g^) - x^ * mean(g^ * x^)),  dweight = sum(grad * x^),  dbias = sum(grad)
"""


def batch_norm_backward(grad, x, /, weight=None, *, eps=1e-5, axis=1, moments=None,
                        running_mean=None, running_var=None, where=None):
    """Gradients of `batch_norm`, in training or with fixed statistics.

    Parameters
    ----------
    grad : array_like of x's shape
        Gradient of the result; of any floating dtype, computes in x's.
    x : array_like, shape (N, C, *)
        float16, bfloat16, float32 or float64; integers and bools become float64.
    weight : array_like of shape (C,), optional
        Ones if not given.
    eps : float
        Added to the variance, under the square root.
    axis : int
        The channel axis: 1 for (N, C, *), -1 for (N, *, C).
    moments : Moments, optional
        Those that the forward returned; else they are taken again, to the same bits.
    running_mean, running_var : ndarray of shape (C,), optional
        Both or neither: the statistics of an evaluation, which do not depend on x.
    where : array_like of bool, optional
        Elements that took part; broadcasts to x. dx is 0 at the others, whose grad is not read.

    Returns
    -------
    dx : ndarray
        Of x's shape and dtype. NaN in every group with an element of x or grad that is not finite,
        0 where a group is without spread and eps 0.
    dweight, dbias : ndarray
        Of weight's shape and dtype; of no weight, as of one of ones: float32, of float64 x float64.

    Raises
    ------
    TypeError
        An argument has a wrong type, or an array a dtype that is not supported.
    ValueError
        A shape does not fit, a number is out of range, or moments and running
        statistics come together.
    numpy.exceptions.AxisError
        There is no such axis.

    References
    ----------
    Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
    Covariate Shift", 2015, section 3.

    Examples
    --------
    >>> import numpy as np, normc
    >>> x = np.array([[0.0, 10.0], [2.0, 30.0], [4.0, 20.0]])
    >>> grad = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    >>> dx, dweight, dbias = normc.batch_norm_backward(grad, x)
    >>> dx.round(3)
    array([[ 0.102, -0.041],
           [-0.204, -0.041],
           [ 0.102,  0.082]])
    >>> dweight.round(3), dbias
    (array([-1.225,  0.   ]), array([1., 1.]))
    """


def instance_norm_backward(grad, x, /, weight=None, *, eps=1e-5, axis=1, moments=None,
                           running_mean=None, running_var=None, where=None):
    """Gradients of `instance_norm`, by its own statistics or with fixed ones.

    Parameters
    ----------
    grad : array_like of x's shape
        Gradient of the result; of any floating dtype, computes in x's.
    x : array_like, shape (N, C, *)
        float16, bfloat16, float32 or float64; integers and bools become float64.
    weight : array_like of shape (C,), optional
        Ones if not given.
    eps : float
        Added to the variance, under the square root.
    axis : int
        The channel axis: 1 for (N, C, *), -1 for (N, *, C).
    moments : Moments, optional
        Those that the forward returned; else they are taken again, to the same bits.
    running_mean, running_var : ndarray of shape (C,), optional
        Both or neither: the statistics of an evaluation, which do not depend on x.
    where : array_like of bool, optional
        Elements that took part; broadcasts to x. dx is 0 at the others, whose grad is not read.

    Returns
    -------
    dx : ndarray
        Of x's shape and dtype. NaN in every group with an element of x or grad that is not finite,
        0 where a group is without spread and eps 0.
    dweight, dbias : ndarray
        Of weight's shape and dtype; of no weight, as of one of ones: float32, of float64 x float64.

    Raises
    ------
    TypeError
        An argument has a wrong type, or an array a dtype that is not supported.
    ValueError
        A shape does not fit, a number is out of range, or moments and running
        statistics come together.
    numpy.exceptions.AxisError
        There is no such axis.

    References
    ----------
    Ulyanov, Vedaldi and Lempitsky, "Instance Normalization: The Missing Ingredient for Fast
    Stylization", 2016.

    Examples
    --------
    >>> import normc
    >>> dx, dweight, dbias = normc.instance_norm_backward([[[1.0, 0, 0]]], [[[0.0, 2, 4]]])
    >>> dx.round(3), dweight.round(3), dbias
    (array([[[ 0.102, -0.204,  0.102]]]), array([-1.225]), array([1.]))
    """


def layer_norm_backward(grad, x, /, normalized_shape=None, weight=None, eps=1e-5, *, axis=None,
                        moments=None, where=None):
    """Gradients of `layer_norm`.

    Parameters
    ----------
    grad : array_like of x's shape
        Gradient of the result; of any floating dtype, computes in x's.
    x : array_like, shape (*, *normalized_shape)
        float16, bfloat16, float32 or float64; integers and bools become float64.
    normalized_shape : int or tuple of int, optional
        The last axes, as they share a mean.
    weight : array_like of the shape of the shared axes, optional
        Ones if not given.
    eps : float
        Added to the variance, under the square root.
    axis : int or tuple of int, optional
        The shared axes, if not the last; without either, the last one.
    moments : Moments, optional
        Those that the forward returned; else they are taken again, to the same bits.
    where : array_like of bool, optional
        Elements that took part; broadcasts to x. dx is 0 at the others, whose grad is not read.

    Returns
    -------
    dx : ndarray
        Of x's shape and dtype. NaN in every group with an element of x or grad that is not finite,
        0 where a group is without spread and eps 0.
    dweight, dbias : ndarray
        Of weight's shape and dtype; of no weight, as of one of ones: float32, of float64 x float64.

    Raises
    ------
    TypeError
        An argument has a wrong type, or an array a dtype that is not supported.
    ValueError
        A shape does not fit, a number is out of range, or moments are of another shape or kind.
    numpy.exceptions.AxisError
        There is no such axis.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016.

    Examples
    --------
    >>> import normc
    >>> dx, dweight, dbias = normc.layer_norm_backward([[1.0, 0, 0]], [[0.0, 2, 4]])
    >>> dx.round(3)
    array([[ 0.102, -0.204,  0.102]])
    >>> dweight.round(3), dbias
    (array([-1.225,  0.   ,  0.   ]), array([1., 0., 0.]))
    """


def rms_norm_backward(grad, x, /, normalized_shape=None, weight=None, eps=None, *, axis=None,
                      moments=None, where=None):
    """Gradients of `rms_norm`: as those of `layer_norm`, without the mean of g^.

    Parameters
    ----------
    grad : array_like of x's shape
        Gradient of the result; of any floating dtype, computes in x's.
    x : array_like, shape (*, *normalized_shape)
        float16, bfloat16, float32 or float64; integers and bools become float64.
    normalized_shape : int or tuple of int, optional
        The last axes, as they share a mean square.
    weight : array_like of the shape of the shared axes, optional
        Ones if not given.
    eps : float, optional
        Added to the mean square; None: 2^-52 for float64, else 2^-23.
    axis : int or tuple of int, optional
        The shared axes, if not the last; without either, the last one.
    moments : Moments, optional
        Those that the forward returned; else they are taken again, to the same bits.
    where : array_like of bool, optional
        Elements that took part; broadcasts to x. dx is 0 at the others, whose grad is not read.

    Returns
    -------
    dx : ndarray
        Of x's shape and dtype. NaN in every group with an element of x or grad that is not finite,
        0 where a group is without spread and eps 0.
    dweight : ndarray
        Of weight's shape and dtype; of no weight, as of one of ones: float32, of float64 x float64.

    Raises
    ------
    TypeError
        An argument has a wrong type, or an array a dtype that is not supported.
    ValueError
        A shape does not fit, a number is out of range, or moments are of another shape or kind.
    numpy.exceptions.AxisError
        There is no such axis.

    References
    ----------
    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, section 4.

    Examples
    --------
    >>> import normc
    >>> dx, dweight = normc.rms_norm_backward([[1.0, 0, 0]], [[0.0, 2, 4]])
    >>> dx.round(3), dweight
    (array([[0.387, 0.   , 0.   ]]), array([0., 0., 0.]))
    """


def group_norm_backward(grad, x, /, num_groups, weight=None, eps=1e-5, *, axis=1, moments=None,
                        where=None):
    """Gradients of `group_norm`.

    Parameters
    ----------
    grad : array_like of x's shape
        Gradient of the result; of any floating dtype, computes in x's.
    x : array_like, shape (N, C, *)
        float16, bfloat16, float32 or float64; integers and bools become float64.
    num_groups : int
        Into how many groups the channels were split.
    weight : array_like of shape (C,), optional
        Ones if not given.
    eps : float
        Added to the variance, under the square root.
    axis : int
        The channel axis: 1 for (N, C, *), -1 for (N, *, C).
    moments : Moments, optional
        Those that the forward returned; else they are taken again, to the same bits.
    where : array_like of bool, optional
        Elements that took part; broadcasts to x. dx is 0 at the others, whose grad is not read.

    Returns
    -------
    dx : ndarray
        Of x's shape and dtype. NaN in every group with an element of x or grad that is not finite,
        0 where a group is without spread and eps 0.
    dweight, dbias : ndarray
        Of weight's shape and dtype; of no weight, as of one of ones: float32, of float64 x float64.

    Raises
    ------
    TypeError
        An argument has a wrong type, or an array a dtype that is not supported.
    ValueError
        A shape does not fit, a number is out of range, or moments are of another shape or kind.
    numpy.exceptions.AxisError
        There is no such axis.

    References
    ----------
    Wu and He, "Group Normalization", 2018.

    Examples
    --------
    >>> import normc
    >>> x = [[0, 2, 4, 1, 5, 9]]
    >>> dx, dweight, dbias = normc.group_norm_backward([[1, 0, 0, 0, 0, 1]], x, 2)
    >>> dx.round(3)
    array([[ 0.102, -0.204,  0.102,  0.051, -0.102,  0.051]])
    >>> dweight.round(3), dbias
    (array([-1.225,  0.   ,  0.   ,  0.   ,  0.   ,  1.225]), array([1., 0., 0., 0., 0., 1.]))
    """


def switchable_norm_backward(grad, x, /, mean_weight, var_weight, weight=None, *, eps=1e-5, axis=1,
                             moments=None, running_mean=None, running_var=None, correction=0):
    """Gradients of `switchable_norm`, those of its logits among them.

    Parameters
    ----------
    grad : array_like of x's shape
        Gradient of the result; of any floating dtype, computes in x's.
    x : array_like, shape (N, C, *)
        float16, bfloat16, float32 or float64; integers and bools become float64.
    mean_weight, var_weight : array_like of shape (3,), or (2,) of x with two axes
        Logits of instance, layer and batch; or of layer and batch.
    weight : array_like of shape (C,), optional
        Ones if not given.
    eps : float
        Added to the variance, under the square root.
    axis : int
        The channel axis: 1 for (N, C, *), -1 for (N, *, C).
    moments : Moments, optional
        Of the instances, as the forward returned; else they are taken again, to the same bits.
    running_mean, running_var : ndarray of shape (C,), optional
        Both or neither: what stood for the batch, and does not depend on x.
    correction : {0, 1}
        As in the forward.

    Returns
    -------
    dx : ndarray
        Of x's shape and dtype.
    dmean_weight, dvar_weight : ndarray
        Of the logits' shapes and dtypes.
    dweight, dbias : ndarray
        Of weight's shape and dtype; of no weight, as of one of ones: float32, of float64 x float64.

    Raises
    ------
    TypeError
        An argument has a wrong type, or an array a dtype that is not supported.
    ValueError
        A shape does not fit, a number is out of range, or moments are of another shape or kind.
    numpy.exceptions.AxisError
        There is no such axis.

    References
    ----------
    Luo, Ren, Peng, Zhang and Li, "Differentiable Learning-to-Normalize via Switchable
    Normalization", 2018, appendix.

    Examples
    --------
    >>> import normc
    >>> x, grad = [[[0.0, 1], [4, 9]]], [[[1.0, 0], [0, 0]]]
    >>> dx, dmean, dvar, _, _ = normc.switchable_norm_backward(grad, x, [1, 1, 1], [1, 1, 1])
    >>> dmean.round(3), dvar.round(3)
    (array([ 0.162, -0.323,  0.162]), array([-0.114,  0.228, -0.114]))
    """


def local_response_norm_backward(grad, x, /, size, alpha=1e-4, beta=0.75, k=1.0, *, axis=1,
                                 window="torch"):
    """Gradient of `local_response_norm`.

    With s_i = k + alpha / size * (sum of x^2 over the window of i), ``dx_j = grad_j s_j^-beta -
    2 alpha / size * beta * x_j * sum(grad_i x_i s_i^(-beta - 1))``, over i whose windows hold j.

    Parameters
    ----------
    grad : array_like of x's shape
        Gradient of the result; of any floating dtype, computes in x's.
    x : array_like, shape (N, C, *), at least three axes
        float16, bfloat16, float32 or float64; integers and bools become float64.
    size : int
        Channels of a window.
    alpha, beta, k : float
        As in the forward.
    axis : int
        The channel axis: 1 for (N, C, *), -1 for (N, *, C).
    window : {"torch", "onnx"}
        Where a window of even size lies.

    Returns
    -------
    ndarray
        dx, of x's shape and dtype.

    Raises
    ------
    TypeError
        An argument has a wrong type, or an array a dtype that is not supported.
    ValueError
        A shape does not fit, a number is out of range, or x has fewer than three
        axes.
    numpy.exceptions.AxisError
        There is no such axis.

    References
    ----------
    Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural
    Networks", 2012, section 3.3.

    Examples
    --------
    >>> import normc
    >>> x = [[[1.0], [2.0], [3.0]]]
    >>> normc.local_response_norm_backward([[[1.0], [0], [0]]], x, 3, alpha=1.0).round(3)
    array([[[ 0.389],
            [-0.18 ],
            [ 0.   ]]])
    """


def relu_backward(grad, x, /):
    """Gradient of `relu`: grad, and 0 where x is not above 0; grad where x is NaN.

    Parameters
    ----------
    grad : array_like of x's shape
        Gradient of the result; of any floating dtype, computes in x's.
    x : array_like
        float16, bfloat16, float32 or float64; integers and bools become float64.

    Returns
    -------
    ndarray
        dx, of x's shape and dtype.

    Raises
    ------
    TypeError
        An array has a dtype that is not supported, or an argument a wrong type.
    ValueError
        grad has another shape than x.

    References
    ----------
    Nair and Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines", 2010.

    Examples
    --------
    >>> import normc
    >>> normc.relu_backward([5.0, 5, 5], [-1.0, 0, 2])
    array([0., 0., 5.])
    """


def leaky_relu_backward(grad, x, /, negative_slope=0.01):
    """Gradient of `leaky_relu`: grad, times the slope where x is not above 0.

    Parameters
    ----------
    grad : array_like of x's shape
        Gradient of the result; of any floating dtype, computes in x's.
    x : array_like
        float16, bfloat16, float32 or float64; integers and bools become float64.
    negative_slope : float
        The factor.

    Returns
    -------
    ndarray
        dx, of x's shape and dtype.

    Raises
    ------
    TypeError
        An array has a dtype that is not supported, or an argument a wrong type.
    ValueError
        grad has another shape than x.

    References
    ----------
    Maas, Hannun and Ng, "Rectifier Nonlinearities Improve Neural Network Acoustic Models", 2013.

    Examples
    --------
    >>> import normc
    >>> normc.leaky_relu_backward([5.0, 5, 5], [-1.0, 0, 2], 0.1)
    array([0.5, 0.5, 5. ])
    """


def prelu_backward(grad, x, /, weight, *, axis=1):
    """Gradients of `prelu`.

    dx is grad, times the weight where x is not above 0; there alone, grad times x adds to dweight.

    Parameters
    ----------
    grad : array_like of x's shape
        Gradient of the result; of any floating dtype, computes in x's.
    x : array_like
        float16, bfloat16, float32 or float64; integers and bools become float64.
    weight : array_like, of one element or of shape (C,)
        The slopes.
    axis : int
        The channel axis, where there is more than one slope.

    Returns
    -------
    dx : ndarray
        Of x's shape and dtype.
    dweight : ndarray
        Of weight's shape and dtype.

    Raises
    ------
    TypeError
        An argument has a wrong type, or an array a dtype that is not supported.
    ValueError
        A shape does not fit, a number is out of range, or weight has neither one
        element nor one per channel.
    numpy.exceptions.AxisError
        There is no such axis.

    References
    ----------
    He, Zhang, Ren and Sun, "Delving Deep into Rectifiers: Surpassing Human-Level Performance on
    ImageNet Classification", 2015, equation 4.

    Examples
    --------
    >>> import normc
    >>> normc.prelu_backward([[5.0, 5]], [[-1.0, 2]], [0.1, 0.2])
    (array([[0.5, 5. ]]), array([-5.,  0.]))
    """
