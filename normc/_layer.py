"""What all layers share: modes, state, copies, repr, gradients."""

from collections import namedtuple
from collections.abc import Mapping

import numpy as np
from numpy import ndarray

from . import _core
from ._convert import FLOATING, detached, join_mask, mask, numbers, rounded
from ._fields import array, counter, flag
from ._memory import EVALUATED, OVERLAPPED, SPENT, UNCALLED

IncompatibleKeys = namedtuple("IncompatibleKeys", ["missing_keys", "unexpected_keys"])


class Gradient:
    """Of a parameter, which it has the shape and dtype of: zeros, to which `backward` adds."""

    def __init__(self, parameter):
        self.parameter = parameter
        self.__doc__ = f"Gradient of {parameter}, to which `backward` adds; None if there is none."

    def __get__(self, layer, kind=None):
        if layer is None:
            return self
        parameter, held = getattr(layer, self.parameter), vars(layer).setdefault("_gradients", {})
        if parameter is None:
            return None
        gradient = held.get(self.parameter)
        if gradient is None or not _alike(gradient, parameter):
            dtype = parameter.dtype.newbyteorder("=")
            gradient = held[self.parameter] = np.zeros(parameter.shape, dtype)
        return gradient

    def __set__(self, layer, value):
        gradient = self.__get__(layer)
        if value is None:
            vars(layer)["_gradients"].pop(self.parameter, None)
        elif (isinstance(value, ndarray) and gradient is not None and _alike(value, gradient)
              and value.flags.writeable):
            vars(layer)["_gradients"][self.parameter] = value
        else:
            raise ValueError(f"{self.parameter}_grad must be a writeable ndarray of the shape and "
                             f"dtype of {self.parameter}")


def _alike(gradient, parameter):
    same_dtype = gradient.dtype == parameter.dtype.newbyteorder("=")
    return same_dtype and gradient.shape == parameter.shape


class Layer:
    """What all layers share: modes, state, copies, repr, gradients.

    A layer names its arrays in ``_parameters`` and ``_buffers``, of which those that are None do
    not count; ``_checks`` tells of each other field what may be assigned, ``_fixed`` which are only
    to be read.
    """

    _parameters = ()
    _buffers = ()
    _fixed = ()
    _checks = {}
    _ranks = (0, 64)
    _initial = {"weight": 1, "bias": 0, "mean_weight": 1, "var_weight": 1, "running_mean": 0,
                "running_var": 1, "num_batches_tracked": 0}
    _transient = ("_gradients", "_remembered", "_lock")

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        arrays = dict.fromkeys(cls._parameters + cls._buffers, array)
        if "num_batches_tracked" in arrays:
            arrays["num_batches_tracked"] = counter
        cls._checks = {"training": flag, "frozen": flag, **arrays, **cls._checks}
        for name in cls._parameters:
            setattr(cls, f"{name}_grad", Gradient(name))

    def __setattr__(self, name, value):
        if name in self._fixed:
            raise AttributeError(f"{name} cannot be assigned to")
        if name in self._checks:
            value = self._checks[name](self, value, name)
        super().__setattr__(name, value)

    def __delattr__(self, name):
        if name in self._checks or name in self._fixed:
            raise AttributeError(f"{name} cannot be deleted")
        super().__delattr__(name)

    # ---- modes -----------------------------------------------------------------------------------

    def train(self, mode=True):
        """Sets training mode, or with False evaluation; returns the layer."""
        self.training = mode
        return self

    def eval(self):
        """Sets evaluation mode; returns the layer."""
        return self.train(False)

    def freeze(self):
        """Normalises by the running statistics from now on, and leaves them, whatever `train` says.

        Parameters go on learning: in training mode a frozen layer has gradients, those of
        evaluation. Without running statistics nothing changes. Returns the layer.

        Examples
        --------
        >>> import normc
        >>> bn = normc.BatchNorm(1, eps=0).freeze()
        >>> bn([[3.0], [5.0]])
        array([[3.],
               [5.]])
        >>> bn.running_mean, bn.num_batches_tracked
        (array([0.], dtype=float32), array(0))
        """
        self.frozen = True
        return self

    def unfreeze(self):
        """Undoes `freeze`; returns the layer."""
        self.frozen = False
        return self

    # ---- arrays ----------------------------------------------------------------------------------

    def named_parameters(self):
        """Yields (name, array) of every parameter."""
        return ((name, array) for name, array in self._arrays() if name in self._parameters)

    def parameters(self):
        """Yields the array of every parameter."""
        return (array for _, array in self.named_parameters())

    def gradients(self):
        """Yields the array of every parameter's gradient, in the order of `parameters`."""
        return (getattr(self, f"{name}_grad") for name, _ in self.named_parameters())

    def zero_grad(self):
        """Sets all gradients to zero, in place."""
        for gradient in self.gradients():
            gradient[...] = 0

    def _arrays(self):
        named = ((name, getattr(self, name)) for name in self._parameters + self._buffers)
        return [(name, array) for name, array in named if array is not None]

    def reset_running_stats(self):
        """Running mean 0, variance 1, no batches tracked; those that are None stay."""
        self._reset(self._buffers)

    def reset_parameters(self):
        """Parameters as they were at first, weight 1 and bias 0, and `reset_running_stats`."""
        self._reset(self._parameters + self._buffers)

    def _reset(self, names):
        for name, array in self._arrays():
            if name in names:
                array[...] = self._initial[name]

    def _check_input(self, x):
        if not self._ranks[0] <= x.ndim <= self._ranks[1]:
            ranks = " or ".join(f"{rank}D" for rank in sorted({*self._ranks}))
            raise ValueError(f"expected {ranks} input (got {x.ndim}D input) for x")

    # ---- gradients -------------------------------------------------------------------------------

    def backward(self, grad):
        """The gradient of x, from that of the result; those of the parameters are added up.

        A call in training mode remembers what it was of, by reference and without a copy: do not
        change x, where or the parameters before `backward`, nor, of a layer with an activation, the
        result. Afterwards the layer holds nothing.

        Parameters
        ----------
        grad : array_like of x's shape
            Gradient of the result of the last call.

        Returns
        -------
        ndarray
            Gradient of x, of its shape and dtype. What each parameter's is, was added to
            ``weight_grad``, ``bias_grad`` and so on.

        Raises
        ------
        RuntimeError
            There is nothing to go back to: no call yet, one in evaluation mode or with an ``out``
            that overlaps what it was of, or it has had its backward.
        TypeError, ValueError
            grad has a wrong dtype or shape; nothing is added then.
        """
        held = self._exchange(SPENT) or UNCALLED
        try:
            if isinstance(held, str):
                raise RuntimeError(f"{type(self).__name__}.backward: {held}")
            dx, *gradients = self._differentiate(grad, *held)
        except BaseException:
            self._exchange(held)
            raise
        with np.errstate(all="ignore"):
            for name, gradient in zip(self._parameters, gradients, strict=True):
                total = getattr(self, f"{name}_grad")
                if total is not None:
                    total += gradient.astype(total.dtype, copy=False)
        return dx

    def _exchange(self, memory):
        """Remembers this, and returns what was: one of many threads gets it."""
        held = vars(self).pop("_remembered", None)
        vars(self)["_remembered"] = memory
        return held

    def _forget(self):
        """What belongs to calls, not to the layer."""
        for name in self._transient:
            vars(self).pop(name, None)

    # ---- state -----------------------------------------------------------------------------------

    def state_dict(self):
        """Copies of all arrays by name, with torch's names: in C order and native byte order."""
        return {name: np.array(array, array.dtype.newbyteorder("="), order="C")
                for name, array in self._arrays()}

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

    def __getstate__(self):
        """What lasts, as `object` has it: the dict, or that and the slots."""
        own, *slots = parts_of_state(super().__getstate__())
        own = {name: value for name, value in own.items() if name not in self._transient}
        return (own, *slots) if slots else own


def parts_of_state(state):
    """The dict of `object.__getstate__` and, if the class has slots, theirs."""
    own, *slots = state if isinstance(state, tuple) else (state,)
    return own or {}, *slots


def _quoted(names):
    return ", ".join(f'"{name}"' for name in names)


def _loadable(name, entry, own):
    """The entry as an array of own's dtype and shape, and what is wrong with it, in a list."""
    try:
        value = np.asarray(detached(entry))
    except (TypeError, ValueError, RuntimeError) as error:
        return None, [f"{name} is no array: {error}"]
    if value.dtype == "V2" and own.dtype.name == "bfloat16":  # as np.load reads it
        value = value.view(own.dtype)
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
    return rounded(value, own.dtype), []


class FunctionLayer(Layer):
    """A layer that is one function of normc, and its gradient, with arguments of its own.

    ``_forward`` calls the function, and returns what that does (in training the result and moments,
    if it has them) and, in training, the arguments of ``_backward``, the gradient, beside where and
    moments, and the activation, if there may be one. It reads each field once: other threads may
    assign to it. ``_masked`` tells whether the two take ``where``.
    """

    _masked = True
    _remembered = None
    activation = None

    def _begin(self, fixed, settings, arrays=()):
        """Takes the fields, and makes the arrays that are named; all or nothing."""
        before = dict(vars(self))
        try:
            self._forget()
            vars(self).update(fixed, training=True, frozen=False)
            for name, value in settings.items():
                setattr(self, name, value)
            for name in self._parameters + self._buffers:
                dtype = np.int64 if name == "num_batches_tracked" else self.dtype
                there = name in arrays
                setattr(self, name, np.zeros(self._shape(name), dtype) if there else None)
            self.reset_parameters()
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    def __call__(self, x, /, *, where=None, out=None):
        """The layer's function of x; ``where`` and ``out`` as the function takes them.

        Examples
        --------
        >>> import normc
        >>> normc.LayerNorm(3, eps=0)([[1.0, 3.0, 99.0]], where=[[True, True, False]])
        array([[-1.,  1.,  0.]])
        """
        if where is not None or type(x) is not ndarray:
            x, where = self._converted(x, where)
        training, memory = self.training, EVALUATED
        result, arguments = self._forward(x, where, out, training)
        if training:
            result, moments = result if type(result) is tuple else (result, None)
            memory = self._memory(x, where, out, moments, result, arguments)
        if self._remembered is not memory:
            self.__dict__["_remembered"] = memory
        return result

    def _converted(self, x, where):
        if where is not None and not self._masked:
            raise TypeError(f"{type(self).__name__} takes no where")
        where, x = join_mask(x, where, self._masked), numbers(x, "x")
        return x, where if where is None else mask(where, "where")

    def _memory(self, x, where, out, moments, result, arguments):
        """What `_differentiate` takes beside grad, or why there is nothing to take."""
        activation = arguments.pop("activation", None)
        if self._masked:
            arguments["where"] = where
        if out is not None and any(np.shares_memory(out, a) for a in (x, *arguments.values())
                                   if isinstance(a, ndarray)):
            return OVERLAPPED
        if moments is not None:
            arguments["moments"] = moments
        return x, arguments, None if activation is None else result

    def _differentiate(self, grad, x, arguments, rectified=None):
        """rectified: the result, if it was: nothing flows back where it is 0."""
        if rectified is not None:
            grad = _core.relu_backward(grad, rectified)
        result = self._backward(grad, x, **arguments)
        return result if isinstance(result, tuple) else (result,)
