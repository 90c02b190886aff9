"""Layers with ReLU: the bits of the layer without and of ReLU, there and back."""

import copy
import pickle

import numpy as np
import pytest
import test_layers
import zoo
from test_fused import relu
from zoo import assert_same_bits

import normc

NORMS = [name for name in test_layers.LAYERS if name not in test_layers.PLAIN]
norms = pytest.mark.parametrize("name", NORMS)
ON = {"activation": "relu"}


def pair(name, **options):
    """The same layer, without and with ReLU."""
    return test_layers.make(name, **options), test_layers.make(name, **options, **ON)


def drawn_for(name, rng, dtype=np.float32):
    x, grad = rng.normal(size=(2, *test_layers.LAYERS[name][1])) * 2
    return (x + 1).astype(dtype), grad.astype(dtype)


def assert_as_composed(plain, fused, x, grad, **more):
    """Forward, backward and state are those of the layer without, and of relu_backward."""
    y = plain(x, **more)
    got = fused(x, **more)
    assert_same_bits(got, relu(y))
    assert (got == 0).any() and (got > 0).any()
    if plain.training:
        assert_same_bits(fused.backward(grad), plain.backward(normc.relu_backward(grad, y)))
        for mine, separate in zip(fused.gradients(), plain.gradients(), strict=True):
            assert_same_bits(mine, separate)
    with pytest.raises(RuntimeError, match="backward"):
        fused.backward(grad)
    assert test_layers.state(fused) == test_layers.state(plain)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@norms
def test_layer_is_the_composition(name, dtype, rng):
    plain, fused = pair(name)
    x, grad = drawn_for(name, rng, dtype)
    assert_as_composed(plain, fused, x, grad)
    assert_as_composed(plain, fused, x, grad.astype(np.float64))
    assert_as_composed(plain.freeze(), fused.freeze(), x, grad)
    assert_as_composed(plain.eval(), fused.eval(), x, grad)
    layer, out = fused.unfreeze().train(), np.empty_like(x)
    assert layer(x, out=out) is out
    plain.unfreeze().train()
    assert_same_bits(layer.backward(grad), plain.backward(normc.relu_backward(grad, plain(x))))
    layer(x, out=x)
    with pytest.raises(RuntimeError, match="overlap"):
        layer.backward(grad)


@pytest.mark.parametrize("name", [name for name in NORMS if "Switch" not in name])
def test_layer_with_a_mask(name, rng):
    x, grad = drawn_for(name, rng)
    where = rng.random(x.shape) < 0.8
    x[~where] = np.nan
    assert_as_composed(*pair(name), x, grad, where=where)


@norms
def test_layer_keeps_its_activation(name, rng):
    plain, fused = pair(name)
    (x, grad), shown = drawn_for(name, rng), repr(plain)
    assert repr(fused) == f"{shown[:-1]}, activation='relu')"
    assert list(fused.state_dict()) == list(plain.state_dict())
    expected = relu(plain.eval()(x))
    for same in (copy.copy(fused), copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert same.activation == "relu"
        assert_same_bits(same.eval()(x), expected)
    fused.load_state_dict(plain.state_dict())
    assert_same_bits(fused.eval()(x), expected)
    fused.activation = None
    assert repr(fused) == shown
    assert_as_composed(*pair(name), x, grad)


@norms
def test_activation_is_checked(name, rng):
    layer, (x, _) = pair(name)[1].eval(), drawn_for(name, rng)
    y = layer(x)
    for word, error in (("gelu", ValueError), (b"relu", TypeError), (0, TypeError)):
        with pytest.raises(error, match="activation must be"):
            layer.activation = word
        with pytest.raises(error, match="activation must be"):
            test_layers.make(name, activation=word)
        assert layer.activation == "relu"
        assert_same_bits(layer(x), y)
    with pytest.raises(AttributeError):
        del layer.activation
    layer.activation = None
    assert layer.activation is None and (layer(x) < 0).any()
    layer.activation = np.str_("relu")
    assert type(layer.activation) is str
    assert_same_bits(layer(x), y)


@norms
def test_a_pickle_of_before(name, rng):
    """Its state does not have the field."""
    make, args, state = pair(name)[0].__reduce_ex__(2)[:3]
    for fields in (state, state.get("fields", {})):
        fields.pop("activation", None)
    old, (x, grad) = make(*args), drawn_for(name, rng)
    getattr(old, "__setstate__", vars(old).update)(state)
    assert old.activation is None
    old.activation = "relu"
    assert_as_composed(pair(name)[0], old, x, grad)


@pytest.mark.parametrize("name", ["BatchNorm", "InstanceNorm tracking", "SwitchableNorm2d"])
def test_layer_and_batches_that_are_not_finite(name, rng):
    x, grad = drawn_for(name, rng)
    x[0, 1, 0] = np.nan
    assert_as_composed(*pair(name, on_nonfinite="skip"), x, grad)
    assert_as_composed(*pair(name), x, grad)
    layer = pair(name, on_nonfinite="raise")[1]
    before = test_layers.state(layer)
    with pytest.raises(ValueError, match="not finite"):
        layer(x)
    assert test_layers.state(layer) == before


def test_one_value_per_channel(rng):
    plain, fused = pair("BatchNorm", on_single="running")
    x, grad = rng.normal(size=(2, 1, 4, 1)).astype(np.float32)
    assert_as_composed(plain, fused, x, grad)


@pytest.mark.parametrize("name", ["BatchNorm", "InstanceNorm tracking", "SwitchableNorm2d"])
def test_recomputed_statistics_are_of_the_input(name, rng):
    plain, fused = pair(name)
    batches = [drawn_for(name, rng)[0] for _ in range(3)]
    before = test_layers.state(plain)
    normc.recompute_stats(plain, batches)
    normc.recompute_stats(fused, batches)
    assert test_layers.state(fused) == test_layers.state(plain) != before


def test_an_activation_is_not_folded(rng):
    plain, fused = pair("BatchNorm")
    weight = rng.normal(size=(4, 3))
    with pytest.raises(ValueError, match="bn has activation 'relu'"):
        normc.fold_batch_norm(weight, None, fused)
    fused.activation = None
    for mine, separate in zip(normc.fold_batch_norm(weight, None, fused),
                              normc.fold_batch_norm(weight, None, plain), strict=True):
        assert_same_bits(mine, separate)


def test_layers_as_torchs(rng):
    """Sequential(norm, ReLU) in float64: forward, gradients, and its state."""
    torch = pytest.importorskip("torch", reason="parity is tested where torch is installed")
    import test_torch_layers as beside

    cases = [c for c in beside.CASES if "Norm" in c[0] and "Local" not in c[0]]
    assert len(cases) > 20
    for name, args, options, shape in cases:
        ours = beside.as_float64(getattr(normc, name)(*args, **options, **ON))
        norm = getattr(torch.nn, name)(*args, **options).double()
        with torch.no_grad():
            for parameter in norm.parameters():
                parameter.normal_()
        ours.load_state_dict(norm.state_dict())
        x, grad = rng.normal(size=(2, *shape)) + 0.5
        tensor = torch.tensor(x, requires_grad=True)
        expected = torch.nn.Sequential(norm, torch.nn.ReLU())(tensor)
        expected.backward(torch.tensor(grad))
        beside.assert_close(ours(x), expected, 16)
        beside.assert_close(ours.backward(grad), tensor.grad, 64)
        for mine, theirs in zip(ours.gradients(), norm.parameters(), strict=True):
            beside.assert_close(mine, theirs.grad, 256)
        for key, value in norm.state_dict().items():
            beside.assert_close(ours.state_dict()[key], value, 16)
