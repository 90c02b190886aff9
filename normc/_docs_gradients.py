"""Signatures, defaults and docstrings of the gradients in C; see `_docs`."""


def batch_norm_backward(grad, x, /, weight=None, *, eps=1e-5, axis=1, moments=None,
                        running_mean=None, running_var=None, where=None):
    """Gradients of `batch_norm`."""


def instance_norm_backward(grad, x, /, weight=None, *, eps=1e-5, axis=1, moments=None,
                           running_mean=None, running_var=None, where=None):
    """Gradients of `instance_norm`."""


def layer_norm_backward(grad, x, /, normalized_shape=None, weight=None, eps=1e-5, *, axis=None,
                        moments=None, where=None):
    """Gradients of `layer_norm`."""


def rms_norm_backward(grad, x, /, normalized_shape=None, weight=None, eps=None, *, axis=None,
                      moments=None, where=None):
    """Gradients of `rms_norm`."""


def group_norm_backward(grad, x, /, num_groups, weight=None, eps=1e-5, *, axis=1, moments=None,
                        where=None):
    """Gradients of `group_norm`."""


def switchable_norm_backward(grad, x, /, mean_weight, var_weight, weight=None, *, eps=1e-5, axis=1,
                             moments=None, running_mean=None, running_var=None, correction=0):
    """Gradients of `switchable_norm`."""


def local_response_norm_backward(grad, x, /, size, alpha=1e-4, beta=0.75, k=1.0, *, axis=1,
                                 window="torch"):
    """Gradient of `local_response_norm`."""


def relu_backward(grad, x, /):
    """Gradient of `relu`."""


def leaky_relu_backward(grad, x, /, negative_slope=0.01):
    """Gradient of `leaky_relu`."""


def prelu_backward(grad, x, /, weight, *, axis=1):
    """Gradients of `prelu`."""
