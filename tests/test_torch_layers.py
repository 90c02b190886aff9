"""Layers beside torch's: names, state, messages, and three steps of training.

torch computes in float64 here, for its float32 is the less accurate side.
"""

import re
import warnings

import bound
import numpy as np
import pytest
import zoo
from test_torch_gradients import assert_near

import normc

torch = pytest.importorskip("torch", reason="parity is tested where torch is installed")

CASES = [
    ("BatchNorm1d", (4,), {}, (6, 4)), ("BatchNorm1d", (4,), {"momentum": None}, (6, 4, 5)),
    ("BatchNorm2d", (4,), {}, (3, 4, 5, 2)), ("BatchNorm2d", (4,), {"affine": False}, (3, 4, 5, 2)),
    ("BatchNorm2d", (4,), {"track_running_stats": False}, (3, 4, 5, 2)),
    ("BatchNorm3d", (4, 1e-3, 0.3), {"bias": False}, (2, 4, 3, 2, 2)),
    ("InstanceNorm1d", (4,), {}, (3, 4, 5)), ("InstanceNorm1d", (4,), {}, (4, 5)),
    ("InstanceNorm2d", (4,), {"affine": True}, (3, 4, 5, 2)),
    ("InstanceNorm2d", (4,), {"affine": True, "bias": False}, (4, 5, 2)),
    ("InstanceNorm2d", (4,), {"track_running_stats": True, "affine": True}, (3, 4, 5, 2)),
    ("InstanceNorm2d", (4,), {"track_running_stats": True, "momentum": None}, (3, 4, 5, 2)),
    ("InstanceNorm3d", (4, 1e-2, 0.5, True, True), {}, (2, 4, 3, 2, 2)),
    ("InstanceNorm3d", (4,), {"track_running_stats": True}, (4, 3, 2, 2)),
    ("LayerNorm", (5,), {}, (3, 4, 5)), ("LayerNorm", ((4, 5),), {"bias": False}, (3, 4, 5)),
    ("LayerNorm", ([4, 5], 1e-2, False), {}, (3, 4, 5)),
    ("RMSNorm", (5,), {}, (3, 4, 5)), ("RMSNorm", ((4, 5), 0.1), {}, (3, 4, 5)),
    ("RMSNorm", (5,), {"elementwise_affine": False}, (3, 4, 5)),
    ("GroupNorm", (2, 4), {}, (3, 4, 5)), ("GroupNorm", (4, 4), {"affine": False}, (3, 4, 5)),
    ("GroupNorm", (1, 4, 0.1), {"bias": False}, (3, 4, 5, 2)),
    ("LocalResponseNorm", (3,), {}, (3, 4, 5)),
    ("LocalResponseNorm", (2, 0.5, 0.6, 2), {}, (3, 4, 5, 2)),
    ("ReLU", (), {}, (3, 4)), ("LeakyReLU", (), {}, (3, 4)), ("LeakyReLU", (1,), {}, (3, 4)),
    ("PReLU", (), {}, (3, 4)), ("PReLU", (4, 0.1), {}, (3, 4, 5)), ("PReLU", (1,), {}, (7,)),
]
cases = pytest.mark.parametrize("name, args, options, shape", CASES,
                                ids=[f"{n}{a}{o}{s}" for n, a, o, s in CASES])


def pair(name, args, options):
    ours = getattr(normc, name)(*args, **options)
    return ours, getattr(torch.nn, name)(*args, **options)


def as_float64(layer):
    """The same layer, its arrays in float64."""
    for name, array in layer._arrays():
        if name != "num_batches_tracked":
            setattr(layer, name, array.astype(np.float64))
    return layer


def assert_close(ours, theirs, scale=1.0):
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    assert ours.shape == theirs.shape
    allowed = 512 * bound.UNIT["float64"] * (abs(theirs) + scale)
    assert (abs(ours - theirs) <= allowed).all(), abs(ours - theirs).max()


@cases
def test_repr(name, args, options, shape):
    ours, theirs = pair(name, args, options)
    assert repr(ours) == repr(theirs)


@cases
def test_three_steps_of_training(name, args, options, shape, rng):
    ours, theirs = pair(name, args, options)
    ours, theirs = as_float64(ours), theirs.double()
    optimiser = torch.optim.SGD([*theirs.parameters(), torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    for step in range(3):
        x, grad = rng.normal(size=(2, *shape)) * 2 + step
        tensor = torch.tensor(x, requires_grad=True)
        expected = theirs(tensor)
        expected.backward(torch.tensor(grad))
        assert_close(ours(x), expected, 16)
        assert_close(ours.backward(grad), tensor.grad, 16)
        for p, g, t in zip(ours.parameters(), ours.gradients(), theirs.parameters(), strict=True):
            assert_close(g, t.grad, 256)
            p -= 0.1 * g
        ours.zero_grad()
        optimiser.step()
        optimiser.zero_grad()
    for key, value in theirs.state_dict().items():
        assert_close(ours.state_dict()[key], value, 16)
    assert_close(ours.eval()(x), theirs.eval()(torch.tensor(x)), 16)


@cases
def test_state_both_ways(name, args, options, shape, rng):
    ours, theirs = pair(name, args, options)
    x = rng.normal(size=shape).astype(np.float32)
    ours(x), theirs(torch.from_numpy(x))
    state = ours.state_dict()
    assert list(state) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert tuple(value.shape) == state[key].shape
        assert str(value.dtype).removeprefix("torch.") == state[key].dtype.name
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    for key, value in theirs.state_dict().items():
        assert np.array_equal(value.numpy(), state[key])
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.uniform_(-3, 3)
    fresh, _ = pair(name, args, options)
    fresh.load_state_dict(theirs.state_dict(keep_vars=True))  # parameters that require gradients
    for key, value in theirs.state_dict().items():
        assert np.array_equal(fresh.state_dict()[key], value.numpy())
    half = theirs.bfloat16().state_dict()
    fresh.load_state_dict(half)
    for key, value in half.items():
        assert np.array_equal(fresh.state_dict()[key], value.double().numpy())


def test_safetensors_and_npz(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    layer = normc.SwitchableNorm2d(3)
    layer(np.random.default_rng(0).normal(size=(2, 3, 4, 4)))
    safetensors.save_file(layer.state_dict(), tmp_path / "state")
    np.savez(tmp_path / "state.npz", **layer.state_dict())
    for loaded in (safetensors.load_file(tmp_path / "state"), np.load(tmp_path / "state.npz")):
        other = normc.SwitchableNorm2d(3)
        other.load_state_dict(loaded)
        for key, value in layer.state_dict().items():
            assert np.array_equal(other.state_dict()[key], value)


def test_an_authors_checkpoint_of_switchable_norm():
    """Its arrays have axes of one, and there is no counter."""
    theirs = {"weight": torch.full((1, 3, 1, 1), 2.0), "bias": torch.ones(1, 3, 1, 1),
              "mean_weight": torch.tensor([1.0, 2, 3]), "var_weight": torch.ones(3),
              "running_mean": torch.zeros(1, 3, 1), "running_var": torch.ones(1, 3, 1)}
    layer = normc.SwitchableNorm2d(3)
    with pytest.raises(ValueError, match="size mismatch for weight"):
        layer.load_state_dict(theirs)
    layer.load_state_dict({k: v.flatten() for k, v in theirs.items()})
    assert layer.weight.tolist() == [2, 2, 2] and layer.mean_weight.tolist() == [1, 2, 3]


@pytest.mark.parametrize("dims, shape", [(1, (3,)), (1, (2, 3, 4, 5)), (2, (2, 3)),
                                         (2, (2, 3, 4, 5, 6)), (3, (2, 3, 4)), (3, (3,))])
def test_key_words_of_ranks(dims, shape):
    kind = f"InstanceNorm{dims}d"
    with pytest.raises(ValueError) as theirs:
        getattr(torch.nn, kind)(3)(torch.zeros(shape))
    with pytest.raises(ValueError, match=re.escape(str(theirs.value))):
        getattr(normc, kind)(3)(np.zeros(shape))


def zeros(*shape):
    return np.zeros(shape, np.float32)


MESSAGES = [
    (r"num_channels \(4\) must be divisible by num_groups \(3\)",
     lambda m, a: m.GroupNorm(3, 4)),
    (r"expected input's size at dim=1 to match num_features \(3\), but got: 4.",
     lambda m, a: m.InstanceNorm1d(3, affine=True)(a(2, 4, 5))),
    (r"expected input's size at dim=0 to match num_features \(3\), but got: 4.",
     lambda m, a: m.InstanceNorm2d(3, affine=True)(a(4, 5, 5))),
    (r"Expected more than 1 spatial element when training, got input size",
     lambda m, a: m.InstanceNorm1d(3)(a(2, 3, 1))),
    (r"Given normalized_shape=\[5\], expected input with shape \[\*, 5\], but got input of size",
     lambda m, a: m.LayerNorm(5)(a(3, 4))),
    (r"Expected 3D or higher dimensionality input \(got 2 dimensions\)",
     lambda m, a: m.LocalResponseNorm(3)(a(2, 3))),
    (r"Mismatch of parameter numbers and input channel size. Found parameter numbers = 3 and "
     r"channel size = 4", lambda m, a: m.PReLU(3)(a(2, 4))),
]


@pytest.mark.parametrize("message, call", MESSAGES, ids=[m for m, _ in MESSAGES])
def test_key_words(message, call):
    with pytest.raises(Exception) as theirs:
        call(torch.nn, torch.zeros)
    assert re.search(message, " ".join(str(theirs.value).split()))
    with pytest.raises(ValueError, match=message):
        call(normc, zeros)


def test_another_number_of_channels_warns():
    with pytest.warns(UserWarning, match="input's size at dim=1 does not match num_features"):
        expected = torch.nn.InstanceNorm1d(3)(torch.arange(40.0).reshape(2, 4, 5))
    with pytest.warns(UserWarning, match="input's size at dim=1 does not match num_features"):
        y = normc.InstanceNorm1d(3)(np.arange(40.0).reshape(2, 4, 5))
    assert np.abs(y - expected.numpy()).max() < 1e-6


# ---- torch's own inputs of modules ---------------------------------------------------------------

MODULES = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "InstanceNorm1d", "InstanceNorm2d",
           "InstanceNorm3d", "LayerNorm", "RMSNorm", "GroupNorm", "LocalResponseNorm", "ReLU",
           "LeakyReLU", "PReLU"]


def module_inputs(name, training):
    """What torch's own test suite feeds the module; it needs `expecttest` to import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("expecttest", reason="torch's module inputs need expecttest")
        modules = pytest.importorskip("torch.testing._internal.common_modules")
        infos = [m for m in modules.module_db if m.module_cls is getattr(torch.nn, name)]
        assert infos, f"torch has no inputs for {name}"
        return [i for info in infos for i in info.module_inputs_func(
            info, device="cpu", dtype=torch.float64, requires_grad=True, training=training)]


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODULES)
def test_torchs_own_inputs(name, training, dtype, rng):
    """In every type, against torch's float64 of the same numbers."""
    count = 0
    for given in module_inputs(name, training):
        build = given.constructor_input
        kwargs = {k: v for k, v in build.kwargs.items() if k not in ("device", "dtype", "inplace")}
        ours = getattr(normc, name)(*build.args, **kwargs).train(training)
        ours = as_float64(ours) if dtype == np.float64 else ours
        theirs = getattr(torch.nn, name)(*build.args, **build.kwargs).double().train(training)
        ours.load_state_dict(theirs.state_dict())
        theirs.load_state_dict({k: torch.from_numpy(v) for k, v in ours.state_dict().items()})
        if getattr(ours, "eps", 0) is None:
            theirs.eps = 2.0**-52 if dtype == np.float64 else 2.0**-23
        if given.forward_input is None:
            continue
        x = given.forward_input.args[0].detach().numpy().astype(dtype)
        at = torch.tensor(x.astype(float), requires_grad=True)
        expected = theirs(at)
        size = 1 + abs(expected.detach().numpy()).max(initial=0)
        assert_near(ours(x), expected, size)
        if training:
            grad = rng.normal(size=x.shape).astype(dtype)
            leaves = [at, *theirs.parameters()]
            exact = torch.autograd.grad(expected, leaves, torch.tensor(grad.astype(float)))
            got = [ours.backward(grad), *ours.gradients()]
            size *= 1 + 1 / max(float(np.std(x.astype(float))) if x.size else 1, 1e-3)
            for a, b in zip(got, exact, strict=True):
                assert_near(a, b, size, 64)
        for key, value in theirs.state_dict().items():
            if key == "num_batches_tracked":  # torch counts empty batches, too
                assert ours.state_dict()[key] == (value if x.size else 0)
            else:
                assert_near(ours.state_dict()[key], value, 1)
        count += 1
    assert count > 0


# ---- folding -------------------------------------------------------------------------------------

@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("make, shape", [
    (lambda b: torch.nn.Linear(6, 4, bias=b), (5, 6)),
    (lambda b: torch.nn.Conv2d(6, 4, 3, bias=b), (2, 6, 7, 8)),
    (lambda b: torch.nn.Conv1d(6, 4, 3, groups=2, bias=b), (2, 6, 9))],
    ids=["linear", "conv", "groups"])
def test_fold_as_torch_fuses(make, shape, bias, rng):
    from torch.nn.utils import fusion

    before = make(bias).double().eval()
    bn = (torch.nn.BatchNorm1d(4) if len(shape) == 2 else torch.nn.BatchNorm2d(4)).double().eval()
    with torch.no_grad():
        for tensor in (bn.weight, bn.bias, bn.running_mean):
            tensor.copy_(torch.tensor(rng.normal(size=4)))
        bn.running_var.copy_(torch.tensor(rng.uniform(0.5, 2, 4)))
    mine = as_float64(normc.BatchNorm(4))
    mine.load_state_dict(bn.state_dict())
    weight, shift = normc.fold_batch_norm(
        before.weight.detach(), None if before.bias is None else before.bias.detach(), mine)
    fuse = fusion.fuse_linear_bn_eval if len(shape) == 2 else fusion.fuse_conv_bn_eval
    fused = fuse(before, bn)
    assert_close(weight, fused.weight, 4)
    assert_close(shift, fused.bias, 4)
    with torch.no_grad():
        x = torch.tensor(rng.normal(size=shape))
        expected = mine.eval()(before(x).numpy())
        fused.weight.copy_(torch.tensor(weight))
        fused.bias.copy_(torch.tensor(shift))
        assert_close(expected, fused(x), 4)
