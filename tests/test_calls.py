"""What a call costs beside its arithmetic, and that what is not given is as if it were."""

import inspect
import os
import pickle
import timeit

import numpy as np
import pytest

import normc

X = np.random.default_rng(7).normal(size=(3, 4, 5)).astype(np.float32)
GRAD = np.ascontiguousarray(X[::-1])
LOGITS = np.float32([0.5, -1, 2])
RUNNING = {"running_mean": np.float32([1, 2, 3, 4]), "running_var": np.float32([4, 3, 2, 1])}

# What each function needs, by name where it is not required.
REQUIRED = {
    "batch_norm": ((X,), RUNNING),
    "instance_norm": ((X,), {}),
    "layer_norm": ((X,), {}),
    "rms_norm": ((X,), {}),
    "group_norm": ((X, 2), {}),
    "switchable_norm": ((X, LOGITS, LOGITS), RUNNING),
    "local_response_norm": ((X, 3), {}),
    "standardize": ((X,), {}),
    "moments": ((X,), {}),
    "relu": ((X,), {}),
    "leaky_relu": ((X,), {}),
    "prelu": ((X, np.float32([0.1, 0.2, 0.3, 0.4])), {}),
}
REQUIRED |= {f"{name}_backward": ((GRAD, *args), {}) for name, (args, _) in REQUIRED.items()
             if hasattr(normc, f"{name}_backward")}
LAYERS = {"BatchNorm": normc.BatchNorm(4).eval(), "LayerNorm": normc.LayerNorm(5),
          "InstanceNorm1d": normc.InstanceNorm1d(4), "ReLU": normc.ReLU()}


def defaults(function):
    return {name: parameter.default
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.default is not parameter.empty}


def functions():
    return [name for name in normc._core.__dict__
            if not name.startswith("_") and name != "BatchNorm"]


def test_all_functions_are_here():
    assert set(functions()) == set(REQUIRED)


@pytest.mark.parametrize(("name", "parameter"), [
    (name, parameter) for name in functions() for parameter in defaults(getattr(normc, name))])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_default_that_is_given_changes_nothing(name, parameter, dtype):
    function, (args, options) = getattr(normc, name), REQUIRED[name]
    args = [a.astype(dtype) if isinstance(a, np.ndarray) else a for a in args]
    if parameter in options:
        options = {}
    given = {parameter: defaults(function)[parameter]}
    assert outcome(function, args, {**options, **given}) == outcome(function, args, options)


@pytest.mark.parametrize("name", LAYERS)
def test_nor_does_one_of_a_layer(name):
    layer = LAYERS[name]
    plain = outcome(layer, (X,), {})
    for parameter in ("where", "out"):
        assert outcome(layer, (X,), {parameter: None}) == plain


def outcome(function, args, options):
    """The bits of all results, or the error."""
    try:
        result = function(*args, **{name: np.copy(value) if isinstance(value, np.ndarray) else value
                                    for name, value in options.items()})
    except ValueError as error:
        return str(error)
    return [pickle.dumps(part) if isinstance(part, normc.Moments) else
            (part.dtype, part.shape, part.tobytes())
            for part in (result if isinstance(result, tuple) else (result,))]


def test_one_call_leaves_nothing_to_the_next():
    """What a call was given is forgotten, also where it ends with an error."""
    plain = outcome(normc.layer_norm, (X,), {})
    normc.layer_norm(X, weight=LOGITS[[0, 1, 2, 0, 1]], eps=3.0, where=X > 0, out=X.copy())
    for wrong in ({"eps": -1.0}, {"axis": 7}, {"out": X[0]}, {"nonsense": 1}):
        with pytest.raises((ValueError, TypeError)):
            normc.layer_norm(X, weight=LOGITS[[0, 1, 2, 0, 1]], **wrong)
    assert outcome(normc.layer_norm, (X,), {}) == plain


@pytest.mark.skipif("NORMC_SANITIZE" in os.environ, reason="sanitizers take their own time")
@pytest.mark.parametrize(("call", "most"), [
    ("layer_norm(x, 10, w, w)", 6), ("layer_norm(x, 10, weight=w, bias=w)", 6),
    ("layer_norm(x, 10, w, w, out=y)", 6), ("relu(x)", 4), ("bn(x)", 8),
    ("moments(x, 1)", 12), ("ln(x)", 25)])
def test_small_calls_are_quick(call, most):
    """In calls of np.add on the same array: twice what was measured, and more."""
    x, w = np.ones((8, 10), np.float32), np.ones(10, np.float32)
    names = {**vars(normc), "np": np, "x": x, "w": w, "y": x.copy(),
             "bn": normc.BatchNorm(10).eval(), "ln": normc.LayerNorm(10).eval()}
    own, add = (timeit.Timer(text, globals=names) for text in (call, "np.add(x, x)"))
    times = [(own.timeit(500), add.timeit(500)) for _ in range(40)]
    assert min(t for t, _ in times) < most * min(t for _, t in times)
