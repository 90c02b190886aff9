"""One case: its data, its check, its contenders, their times."""

import time

import numpy as np

from .cases import torch

# Unit roundoff of what a result is rounded to.
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24}


def data(case):
    """x of mean 0.5 and variance 1, weight, bias; None where the dtype needs a missing package."""
    dtype = np.dtype(case.dtype) if case.dtype != "bfloat16" else bfloat16()
    if dtype is None:
        return None
    rng = np.random.default_rng(1)
    n = case.shape[case.parameters]
    x = rng.standard_normal(case.shape, np.float32) + np.float32(0.5)
    weight, bias = 1 + rng.standard_normal((2, n), np.float32) / 2
    return [a.astype(dtype) for a in (x, weight, bias)]


def bfloat16():
    try:
        import ml_dtypes
    except ImportError:
        return None
    return np.dtype(ml_dtypes.bfloat16)


def check(case, x, weight, bias):
    """The largest error as a fraction of the published bound, over part of the groups."""
    chosen = slice(None, None, x.shape[case.apart] - 1)  # the first and the last
    part = [slice(None)] * x.ndim
    part[case.apart] = chosen
    if case.apart == case.parameters:
        exact_weight, exact_bias = weight[chosen], bias[chosen]
    else:
        exact_weight, exact_bias = weight, bias
    got = case.normc(x, weight, bias, None)[tuple(part)].astype(np.float64)
    wide = [a.astype(np.float64) for a in (x[tuple(part)], exact_weight, exact_bias)]
    exact = case.exact(*wide)
    return float((np.abs(got - exact) / bound(case, exact, wide)).max())


def bound(case, exact, wide):
    x, weight, bias = wide
    if case.window:
        return (case.window + 6) * UNIT[case.dtype] * np.abs(exact)
    spread = [1] * x.ndim
    spread[case.parameters] = -1
    weight, bias = weight.reshape(spread), bias.reshape(spread)
    bias = 0 if case.name == "rms_norm" else bias
    size, rest, u = np.abs(exact), np.abs(exact - bias), UNIT[case.dtype]
    if case.dtype == "float32":
        return u * size + 5 * u * rest + 2.0**-42 * np.abs(weight)
    return u * size + 2.0**-7 * u * np.maximum(size, rest)


def contenders(case, x, weight, bias):
    """name -> a call. copy is the limit: the same bytes, from one warm array to another."""
    out = np.empty_like(x)
    out[...] = 0
    calls = {
        "copy": lambda: np.copyto(out, x),
        "normc": lambda: case.normc(x, weight, bias, out),
        "fresh": lambda: case.normc(x, weight, bias, None),
    }
    if case.dtype == "float32":
        calls["numpy"] = lambda: case.numpy(x, weight, bias)
    if torch is not None:
        tensors = [tensor(a) for a in (x, weight, bias)]
        calls["torch"] = lambda: case.torch(*tensors)
    return calls


def tensor(a):
    if a.dtype.name == "bfloat16":
        return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(a)


def seconds(call, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def compete(calls, budget):
    """name -> seconds of each round. Rounds take turns, so that all share the machine's moods."""
    repeats = {name: max(1, int(2e-4 / max(seconds(call, 2), 1e-9)))
               for name, call in calls.items()}
    once = sum(seconds(call, 1) * repeats[name] for name, call in calls.items())
    rounds = min(max(int(budget / once), 5), 2000)
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call, repeats[name]))
    return times
