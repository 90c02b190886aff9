"""Gradients against torch's autograd in float64, on torch's own samples and on shapes of ours."""

import inspect

import bound
import numpy as np
import pytest
import zoo
from test_torch import F, clone, samples, tensor, torch

import normc

dtypes = pytest.mark.parametrize("dtype", zoo.DTYPES)


def leaf(a):
    return tensor(a).requires_grad_()


def assert_near(got, exact, scale=1.0, factor=32):
    """Within some u of the largest number in it: samples are small, and have no large means."""
    dtype = bound.name(got.dtype)
    exact = exact.detach().numpy().reshape(got.shape)
    u = bound.UNIT["float64" if dtype == "float64" else "float32"]
    allowed = factor * u * (abs(exact).max(initial=0) + scale)
    if dtype in ("float16", "bfloat16"):
        allowed = allowed + bound.ulp(exact, dtype) * (0.5 + 2.0**-7)
    exact = np.where((got == 0) & (abs(exact) < 1e-11), 0, exact)  # equal elements: torch's noise
    bound.assert_within(got, exact, np.broadcast_to(allowed, got.shape))


# How normc's gradient takes what torch's function was given: names of arguments that both have, and
# those of them that torch differentiates.
SAMPLED = {
    "batch_norm": ("weight", "bias"), "instance_norm": ("weight", "bias"),
    "layer_norm": ("weight", "bias"), "rms_norm": ("weight",), "group_norm": ("weight", "bias"),
    "local_response_norm": (), "relu": (), "leaky_relu": (), "prelu": ("weight",),
}


def arguments(name, sample):
    """All arguments of torch's function after x, by name."""
    function = torch.prelu if name == "prelu" else getattr(F, name)
    try:
        names = list(inspect.signature(function).parameters)[1:]
    except ValueError:
        names = ["weight"]
    given = dict(zip(names, sample.args)) | dict(sample.kwargs)
    return {key: value for key, value in given.items() if key != "inplace"}


def backward(name, grad, x, given):
    """normc's gradients of this call."""
    function = getattr(normc, f"{name}_backward")
    names = inspect.signature(function).parameters
    more = {key: np.asarray(value) if isinstance(value, torch.Tensor) else value
            for key, value in given.items() if key in names}
    own = given.get("training", False) if name == "batch_norm" else given.get(
        "use_input_stats", True)
    if own:
        more = {key: value for key, value in more.items() if not key.startswith("running")}
    result = function(grad, x, **more)
    return result if isinstance(result, tuple) else (result,)


@dtypes
@pytest.mark.parametrize("name", SAMPLED)
def test_torchs_own_samples(name, dtype, rng):
    count = 0
    for sample in samples(f"nn.functional.{name}"):
        given = arguments(name, sample)
        x = sample.input.detach().numpy().astype(dtype)
        if (given.get("eps") or 0) < 0:
            with pytest.raises(ValueError, match="eps must be non-negative"):
                backward(name, x, x, {k: clone(v) for k, v in given.items()})
            continue
        if name == "rms_norm" and given.get("eps") is None:
            given["eps"] = 2.0**-52 if dtype == np.float64 else 2.0**-23
        grad = rng.normal(size=x.shape).astype(dtype)
        given = {k: v.detach().clone() if isinstance(v, torch.Tensor) else v
                 for k, v in given.items()}
        for key in SAMPLED[name]:
            if given.get(key) is not None:
                single = given[key].to(torch.float64 if dtype == np.float64 else torch.float32)
                given[key] = single.double().requires_grad_()
        at = leaf(x)
        function = torch.prelu if name == "prelu" else getattr(F, name)
        y = function(at, **{k: clone(v) if k.startswith("running") else v
                            for k, v in given.items()}) if name != "prelu" else function(
            at, given["weight"])
        leaves = [at] + [given[k] for k in SAMPLED[name] if given.get(k) is not None]
        expected = torch.autograd.grad(y, leaves, tensor(grad), allow_unused=True)
        plain = {k: v.detach() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
        got = backward(name, grad, x, plain)
        keys = [k for k in SAMPLED[name] if given.get(k) is not None]
        ours = [got[0]] + [got[1 + SAMPLED[name].index(k)] for k in keys]
        biggest = 1 + max([abs(p.detach().numpy()).max(initial=0) for p in leaves[1:]], default=0)
        if x.size > 1:
            biggest *= 1 + 1 / max(float(np.std(x.astype(float))), 1e-3)
        for a, b in zip(ours, expected, strict=True):
            if b is not None:
                assert_near(a, b, biggest, 64)
        count += 1
    assert count > 1


SHAPES = [(5, 12), (5, 12, 7), (2, 12, 5, 3), (2, 12, 3, 2, 5)]


@dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("eps", [1e-5, 10.0, 1e3])
def test_masks_against_autograd(eps, shape, dtype, rng):
    """A masked layer and batch norm, written out in torch."""
    x, grad = (rng.normal(size=(2, *shape)) * 2 + 1).astype(dtype)
    where = rng.random(shape) < 0.7
    kept = tensor(where)
    for axes, axis in ((tuple(range(1, len(shape))), None), ((0, *range(2, len(shape))), 1)):
        weight = rng.normal(size=[shape[i] for i in axes] if axis is None else 12)
        weight = weight.astype(np.float64 if dtype == np.float64 else np.float32)
        at, w = leaf(x), leaf(weight)
        along = w if axis is None else w.reshape(1, -1, *[1] * (len(shape) - 2))
        n = kept.sum(axes, keepdim=True)
        mean = (at * kept).sum(axes, keepdim=True) / n
        var = (((at - mean) * kept) ** 2).sum(axes, keepdim=True) / n
        y = (at - mean) / (var + eps).sqrt() * along * kept
        expected = torch.autograd.grad(y, (at, w), tensor(grad))
        spoilt = np.where(where, x, np.nan).astype(dtype), np.where(where, grad, np.inf)
        if axis is None:
            got = normc.layer_norm_backward(spoilt[1].astype(dtype), spoilt[0], None, weight, eps,
                                            axis=axes, where=where)
        else:
            got = normc.batch_norm_backward(spoilt[1].astype(dtype), spoilt[0], weight, eps=eps,
                                            where=where)
        for a, b in zip(got, expected):
            assert_near(a, b)


@dtypes
@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_switchable_norm_against_autograd(shape, correction, dtype, rng):
    """The paper's formula; layer and batch variance of the instances', as in its authors' code."""
    x, grad = (rng.normal(size=(2, *shape)) * 2 + 1).astype(dtype)
    logits = rng.normal(size=(2, 3))[:, int(len(shape) == 2):]
    weight = rng.normal(size=12).astype(np.float64 if dtype == np.float64 else np.float32)
    at, w, mean_logits, var_logits = leaf(x), leaf(weight), leaf(logits[0]), leaf(logits[1])
    inner = tuple(range(2, len(shape)))
    if inner:
        mean, var = at.mean(inner, True), at.var(inner, correction=correction, keepdim=True)
        square = var + mean**2
        means = [mean, mean.mean(1, True), mean.mean(0, True)]
        variances = [var] + [square.mean(i, True) - mean.mean(i, True) ** 2 for i in (1, 0)]
    else:
        means = [at.mean(1, True), at.mean(0, True)]
        variances = [at.var(i, correction=correction, keepdim=True) for i in (1, 0)]
    mean = sum(s * m for s, m in zip(mean_logits.softmax(0), means))
    var = sum(s * v for s, v in zip(var_logits.softmax(0), variances))
    y = (at - mean) / (var + 1e-5).sqrt() * w.reshape(1, -1, *[1] * len(inner))
    expected = torch.autograd.grad(y, (at, mean_logits, var_logits, w), tensor(grad))
    got = normc.switchable_norm_backward(grad, x, *logits, weight, correction=correction)
    for a, b in zip(got, expected):
        assert_near(a, b, factor=64)
