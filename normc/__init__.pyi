from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ContextDecorator
from typing import Any, Literal, NamedTuple, Self, SupportsFloat, SupportsIndex, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import reference as reference

__version__: str
__all__ = ["BatchNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "GroupNorm", "InstanceNorm1d",
           "InstanceNorm2d", "InstanceNorm3d", "LayerNorm", "LeakyReLU", "LocalResponseNorm",
           "Moments", "PReLU", "RMSNorm", "ReLU", "SwitchableNorm1d", "SwitchableNorm2d",
           "SwitchableNorm3d", "batch_norm", "batch_norm_backward", "decay", "fold_batch_norm",
           "get_num_threads", "group_norm", "group_norm_backward", "instance_norm",
           "instance_norm_backward", "layer_norm", "layer_norm_backward", "leaky_relu",
           "leaky_relu_backward", "local_response_norm", "local_response_norm_backward", "moments",
           "prelu", "prelu_backward", "recompute_stats", "relu", "relu_backward", "rms_norm",
           "rms_norm_backward", "set_num_threads", "set_output_cache", "show_config",
           "standardize", "switchable_norm", "switchable_norm_backward", "threads"]

_Array = NDArray[Any]
_Axes = SupportsIndex | Sequence[SupportsIndex]
_Mask = ArrayLike
_L = TypeVar("_L", bound=_Tracking)
_Activation = Literal["relu"] | None
_Result = Any  # an ndarray, or with return_moments=True (ndarray, Moments)

def batch_norm(
    x: ArrayLike, /, running_mean: _Array | None = None, running_var: _Array | None = None,
    weight: ArrayLike | None = None, bias: ArrayLike | None = None, training: bool = False,
    momentum: SupportsFloat = 0.1, eps: SupportsFloat = 1e-05, *, axis: SupportsIndex = 1,
    correction: Literal[0, 1] = 1, where: _Mask | None = None, out: _Array | None = None,
    return_moments: bool = False, activation: _Activation = None) -> _Result: ...
def instance_norm(
    x: ArrayLike, /, running_mean: _Array | None = None, running_var: _Array | None = None,
    weight: ArrayLike | None = None, bias: ArrayLike | None = None, use_input_stats: bool = True,
    momentum: SupportsFloat = 0.1, eps: SupportsFloat = 1e-05, *, axis: SupportsIndex = 1,
    correction: Literal[0, 1] = 1, where: _Mask | None = None, out: _Array | None = None,
    return_moments: bool = False, activation: _Activation = None) -> _Result: ...
def layer_norm(
    x: ArrayLike, /, normalized_shape: _Axes | None = None, weight: ArrayLike | None = None,
    bias: ArrayLike | None = None, eps: SupportsFloat = 1e-05, *, axis: _Axes | None = None,
    where: _Mask | None = None, out: _Array | None = None, return_moments: bool = False,
    activation: _Activation = None, residual: ArrayLike | None = None) -> _Result: ...
def rms_norm(
    x: ArrayLike, /, normalized_shape: _Axes | None = None, weight: ArrayLike | None = None,
    eps: SupportsFloat | None = None, *, axis: _Axes | None = None, where: _Mask | None = None,
    out: _Array | None = None, return_moments: bool = False, activation: _Activation = None,
    residual: ArrayLike | None = None) -> _Result: ...
def group_norm(
    x: ArrayLike, /, num_groups: SupportsIndex, weight: ArrayLike | None = None,
    bias: ArrayLike | None = None, eps: SupportsFloat = 1e-05, *, axis: SupportsIndex = 1,
    where: _Mask | None = None, out: _Array | None = None, return_moments: bool = False,
    activation: _Activation = None) -> _Result: ...
def switchable_norm(
    x: ArrayLike, /, mean_weight: ArrayLike, var_weight: ArrayLike, weight: ArrayLike | None = None,
    bias: ArrayLike | None = None, running_mean: _Array | None = None,
    running_var: _Array | None = None, training: bool = False, momentum: SupportsFloat = 0.1,
    eps: SupportsFloat = 1e-05, *, axis: SupportsIndex = 1, correction: Literal[0, 1] = 0,
    out: _Array | None = None, return_moments: bool = False,
    activation: _Activation = None) -> _Result: ...
def local_response_norm(
    x: ArrayLike, /, size: SupportsIndex, alpha: SupportsFloat = 0.0001,
    beta: SupportsFloat = 0.75, k: SupportsFloat = 1.0, *, axis: SupportsIndex = 1,
    window: Literal["torch", "onnx"] = "torch", out: _Array | None = None) -> _Array: ...
def standardize(
    x: ArrayLike, /, axis: _Axes | None = None, *, eps: SupportsFloat = 0.0,
    where: _Mask | None = None, out: _Array | None = None,
    return_moments: bool = False) -> _Result: ...
def moments(
    x: ArrayLike, /, axis: _Axes | None = None, *, where: _Mask | None = None) -> Moments: ...
def relu(x: ArrayLike, /, *, out: _Array | None = None) -> _Array: ...
def leaky_relu(
    x: ArrayLike, /, negative_slope: SupportsFloat = 0.01, *,
    out: _Array | None = None) -> _Array: ...
def prelu(
    x: ArrayLike, /, weight: ArrayLike, *, axis: SupportsIndex = 1,
    out: _Array | None = None) -> _Array: ...
def batch_norm_backward(
    grad: ArrayLike, x: ArrayLike, /, weight: ArrayLike | None = None, *,
    eps: SupportsFloat = 1e-05, axis: SupportsIndex = 1, moments: Moments | None = None,
    running_mean: _Array | None = None, running_var: _Array | None = None,
    where: _Mask | None = None) -> tuple[_Array, _Array, _Array]: ...
def instance_norm_backward(
    grad: ArrayLike, x: ArrayLike, /, weight: ArrayLike | None = None, *,
    eps: SupportsFloat = 1e-05, axis: SupportsIndex = 1, moments: Moments | None = None,
    running_mean: _Array | None = None, running_var: _Array | None = None,
    where: _Mask | None = None) -> tuple[_Array, _Array, _Array]: ...
def layer_norm_backward(
    grad: ArrayLike, x: ArrayLike, /, normalized_shape: _Axes | None = None,
    weight: ArrayLike | None = None, eps: SupportsFloat = 1e-05, *, axis: _Axes | None = None,
    moments: Moments | None = None,
    where: _Mask | None = None) -> tuple[_Array, _Array, _Array]: ...
def rms_norm_backward(
    grad: ArrayLike, x: ArrayLike, /, normalized_shape: _Axes | None = None,
    weight: ArrayLike | None = None, eps: SupportsFloat | None = None, *,
    axis: _Axes | None = None, moments: Moments | None = None,
    where: _Mask | None = None) -> tuple[_Array, _Array]: ...
def group_norm_backward(
    grad: ArrayLike, x: ArrayLike, /, num_groups: SupportsIndex,
    weight: ArrayLike | None = None, eps: SupportsFloat = 1e-05, *, axis: SupportsIndex = 1,
    moments: Moments | None = None,
    where: _Mask | None = None) -> tuple[_Array, _Array, _Array]: ...
def switchable_norm_backward(
    grad: ArrayLike, x: ArrayLike, /, mean_weight: ArrayLike, var_weight: ArrayLike,
    weight: ArrayLike | None = None, *, eps: SupportsFloat = 1e-05, axis: SupportsIndex = 1,
    moments: Moments | None = None, running_mean: _Array | None = None,
    running_var: _Array | None = None,
    correction: Literal[0, 1] = 0) -> tuple[_Array, _Array, _Array, _Array, _Array]: ...
def local_response_norm_backward(
    grad: ArrayLike, x: ArrayLike, /, size: SupportsIndex, alpha: SupportsFloat = 0.0001,
    beta: SupportsFloat = 0.75, k: SupportsFloat = 1.0, *, axis: SupportsIndex = 1,
    window: Literal["torch", "onnx"] = "torch") -> _Array: ...
def relu_backward(grad: ArrayLike, x: ArrayLike, /) -> _Array: ...
def leaky_relu_backward(
    grad: ArrayLike, x: ArrayLike, /, negative_slope: SupportsFloat = 0.01) -> _Array: ...
def prelu_backward(
    grad: ArrayLike, x: ArrayLike, /, weight: ArrayLike, *,
    axis: SupportsIndex = 1) -> tuple[_Array, _Array]: ...
def decay(weight_of_old: SupportsFloat) -> float: ...
def set_output_cache(bytes: SupportsIndex) -> None: ...
@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dict"]) -> dict[str, Any]: ...

class Moments:
    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]
    mean_lo: NDArray[np.float64]
    about: Literal["mean", "zero"]
    __hash__: None  # type: ignore[assignment]
    def __init__(
        self, count: ArrayLike, mean: ArrayLike, m2: ArrayLike, *,
        mean_lo: ArrayLike | None = None, about: Literal["mean", "zero"] = "mean") -> None: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def var(self, correction: float = 0) -> NDArray[np.float64]: ...
    def std(self, correction: float = 0) -> NDArray[np.float64]: ...
    def rstd(self, eps: float) -> NDArray[np.float64]: ...
    def __add__(self, other: Moments) -> Moments: ...
    @staticmethod
    def merge(pieces: Iterable[Moments]) -> Moments: ...
    def update(self, x: ArrayLike, where: _Mask | None = None) -> Self: ...

class _IncompatibleKeys(NamedTuple):
    missing_keys: list[str]
    unexpected_keys: list[str]

class _Layer:
    training: bool
    frozen: bool
    def __call__(
        self, x: ArrayLike, /, *, where: _Mask | None = None,
        out: _Array | None = None) -> _Array: ...
    def backward(self, grad: ArrayLike) -> _Array: ...
    def train(self, mode: bool = True) -> Self: ...
    def eval(self) -> Self: ...
    def freeze(self) -> Self: ...
    def unfreeze(self) -> Self: ...
    def parameters(self) -> Iterator[_Array]: ...
    def named_parameters(self) -> Iterator[tuple[str, _Array]]: ...
    def gradients(self) -> Iterator[_Array]: ...
    def zero_grad(self) -> None: ...
    def state_dict(self) -> dict[str, _Array]: ...
    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True) -> _IncompatibleKeys: ...
    def reset_parameters(self) -> None: ...
    def reset_running_stats(self) -> None: ...
    def extra_repr(self) -> str: ...

class _Affine(_Layer):
    activation: _Activation
    weight: _Array | None
    bias: _Array | None
    weight_grad: _Array | None
    bias_grad: _Array | None
    eps: float
    dtype: np.dtype[Any]

class _Tracking(_Affine):
    running_mean: _Array | None
    running_var: _Array | None
    num_batches_tracked: NDArray[np.int64] | None
    momentum: float | None
    affine: bool
    on_nonfinite: Literal["propagate", "skip", "raise"]
    @property
    def num_features(self) -> int: ...
    @property
    def axis(self) -> int: ...

class BatchNorm(_Tracking):
    track_running_stats: bool
    on_single: Literal["error", "running"]
    @property
    def correction(self) -> int: ...
    def __init__(
        self, num_features: SupportsIndex, eps: float = 1e-05, momentum: float | None = 0.1,
        affine: bool = True, track_running_stats: bool = True, *, bias: bool = True,
        axis: SupportsIndex = 1, correction: Literal[0, 1] = 1, dtype: DTypeLike = ...,
        on_single: Literal["error", "running"] = "error",
        on_nonfinite: Literal["propagate", "skip", "raise"] = "propagate",
        activation: _Activation = None) -> None: ...

class BatchNorm1d(BatchNorm): ...
class BatchNorm2d(BatchNorm): ...
class BatchNorm3d(BatchNorm): ...

class _InstanceNorm(_Tracking):
    track_running_stats: bool
    def __init__(
        self, num_features: SupportsIndex, eps: float = 1e-05, momentum: float | None = 0.1,
        affine: bool = False, track_running_stats: bool = False, *, bias: bool = True,
        axis: SupportsIndex = 1, dtype: DTypeLike = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = "propagate",
        activation: _Activation = None) -> None: ...

class InstanceNorm1d(_InstanceNorm): ...
class InstanceNorm2d(_InstanceNorm): ...
class InstanceNorm3d(_InstanceNorm): ...

class _SwitchableNorm(_Tracking):
    mean_weight: _Array
    var_weight: _Array
    mean_weight_grad: _Array
    var_weight_grad: _Array
    @property
    def correction(self) -> int: ...
    def __init__(
        self, num_features: SupportsIndex, eps: float = 1e-05, momentum: float | None = 0.1,
        affine: bool = True, *, bias: bool = True, axis: SupportsIndex = 1,
        correction: Literal[0, 1] = 0, dtype: DTypeLike = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = "propagate",
        activation: _Activation = None) -> None: ...

class SwitchableNorm1d(_SwitchableNorm): ...
class SwitchableNorm2d(_SwitchableNorm): ...
class SwitchableNorm3d(_SwitchableNorm): ...

class LayerNorm(_Affine):
    elementwise_affine: bool
    @property
    def normalized_shape(self) -> tuple[int, ...]: ...
    @property
    def axis(self) -> tuple[int, ...] | None: ...
    def __init__(
        self, normalized_shape: _Axes, eps: float = 1e-05, elementwise_affine: bool = True,
        bias: bool = True, *, axis: _Axes | None = None, dtype: DTypeLike = ...,
        activation: _Activation = None) -> None: ...

class RMSNorm(_Layer):
    activation: _Activation
    weight: _Array | None
    weight_grad: _Array | None
    eps: float | None
    elementwise_affine: bool
    dtype: np.dtype[Any]
    @property
    def normalized_shape(self) -> tuple[int, ...]: ...
    @property
    def axis(self) -> tuple[int, ...] | None: ...
    def __init__(
        self, normalized_shape: _Axes, eps: float | None = None, elementwise_affine: bool = True,
        *, axis: _Axes | None = None, dtype: DTypeLike = ...,
        activation: _Activation = None) -> None: ...

class GroupNorm(_Affine):
    affine: bool
    @property
    def num_groups(self) -> int: ...
    @property
    def num_channels(self) -> int: ...
    @property
    def axis(self) -> int: ...
    def __init__(
        self, num_groups: SupportsIndex, num_channels: SupportsIndex, eps: float = 1e-05,
        affine: bool = True, *, bias: bool = True, axis: SupportsIndex = 1,
        dtype: DTypeLike = ..., activation: _Activation = None) -> None: ...

class LocalResponseNorm(_Layer):
    size: int
    alpha: float
    beta: float
    k: float
    window: Literal["torch", "onnx"]
    @property
    def axis(self) -> int: ...
    def __init__(
        self, size: SupportsIndex, alpha: float = 0.0001, beta: float = 0.75, k: float = 1.0, *,
        axis: SupportsIndex = 1, window: Literal["torch", "onnx"] = "torch") -> None: ...

class ReLU(_Layer):
    def __init__(self) -> None: ...

class LeakyReLU(_Layer):
    negative_slope: float
    def __init__(self, negative_slope: float = 0.01) -> None: ...

class PReLU(_Layer):
    weight: _Array
    weight_grad: _Array
    init: float
    @property
    def num_parameters(self) -> int: ...
    @property
    def axis(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __init__(
        self, num_parameters: SupportsIndex = 1, init: float = 0.25, *,
        axis: SupportsIndex = 1, dtype: DTypeLike = ...) -> None: ...

def get_num_threads() -> int: ...
def set_num_threads(n: SupportsIndex) -> None: ...

class threads(ContextDecorator):
    n: int
    def __init__(self, n: SupportsIndex) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *exception: object) -> None: ...

def recompute_stats(layer: _L, batches: Iterable[ArrayLike | tuple[ArrayLike, _Mask]]) -> _L: ...
def fold_batch_norm(
    weight: ArrayLike, bias: ArrayLike | None, bn: BatchNorm) -> tuple[_Array, _Array]: ...
