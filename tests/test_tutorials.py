"""The worked examples, as their pages print them: four decimals, in C order."""

import numpy as np
import pytest

import normc
from normc import reference

modules = pytest.mark.parametrize("m", [normc, reference], ids=["normc", "reference"])
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def numbers(text):
    return np.array(text.split(), float)


def assert_prints(y, table):
    """Every number, printed with four decimals, is the table's; -0.0000 is 0.0000."""
    printed = [f"{v:.4f}".replace("-0.0000", "0.0000") for v in np.asarray(y, float).ravel()]
    assert printed == table.replace("-0.0000", "0.0000").split()


# ---- 1. three norms by hand, on one (3, 4, 2, 2) tensor ------------------------------------------

X1 = numbers("""
1 1 1 1 0 1 1 0 0 0 0 1 1 1 0 0 2 2 0 0 2 0 1 1 1 0 0 2 2 1 1 0 3 1 2 2 3 0 0 2 2 3 1 2 3 3 2 1
""").reshape(3, 4, 2, 2)

BATCH = """
-0.3922 -0.3922 -0.3922 -0.3922 -0.9611 0.0874 0.0874 -0.9611 -1.0000 -1.0000 -1.0000 0.0000
-0.2474 -0.2474 -1.2372 -1.2372 0.7845 0.7845 -1.5689 -1.5689 1.1358 -0.9611 0.0874 0.0874
0.0000 -1.0000 -1.0000 1.0000 0.7423 -0.2474 -0.2474 -1.2372 1.9611 -0.3922 0.7845 0.7845
2.1842 -0.9611 -0.9611 1.1358 1.0000 2.0000 0.0000 1.0000 1.7320 1.7320 0.7423 -0.2474
"""
LAYER = {
    (4, 2, 2): """
0.8819 0.8819 0.8819 0.8819 -1.1339 0.8819 0.8819 -1.1339 -1.1339 -1.1339 -1.1339 0.8819
0.8819 0.8819 -1.1339 -1.1339 1.2851 1.2851 -1.1339 -1.1339 1.2851 -1.1339 0.0756 0.0756
0.0756 -1.1339 -1.1339 1.2851 1.2851 0.0756 0.0756 -1.1339 1.1339 -0.8819 0.1260 0.1260
1.1339 -1.8898 -1.8898 0.1260 0.1260 1.1339 -0.8819 0.1260 1.1339 1.1339 0.1260 -0.8819
""",
    (2, 2): """
0.0000 0.0000 0.0000 0.0000 -1.0000 1.0000 1.0000 -1.0000 -0.5773 -0.5773 -0.5773 1.7320
1.0000 1.0000 -1.0000 -1.0000 1.0000 1.0000 -1.0000 -1.0000 1.4142 -1.4142 0.0000 0.0000
0.3015 -0.9045 -0.9045 1.5075 1.4142 0.0000 0.0000 -1.4142 1.4142 -1.4142 0.0000 0.0000
1.3471 -0.9622 -0.9622 0.5773 0.0000 1.4142 -1.4142 0.0000 0.9045 0.9045 -0.3015 -1.5075
""",
    (2,): """
0.0000 0.0000 0.0000 0.0000 -1.0000 1.0000 1.0000 -1.0000 0.0000 0.0000 -1.0000 1.0000
0.0000 0.0000 0.0000 0.0000 0.0000 0.0000 0.0000 0.0000 1.0000 -1.0000 0.0000 0.0000
1.0000 -1.0000 -1.0000 1.0000 1.0000 -1.0000 1.0000 -1.0000 1.0000 -1.0000 0.0000 0.0000
1.0000 -1.0000 -1.0000 1.0000 -1.0000 1.0000 -1.0000 1.0000 0.0000 0.0000 1.0000 -1.0000
""",
}
GROUP = """
0.5773 0.5773 0.5773 0.5773 -1.7320 0.5773 0.5773 -1.7320 -0.7746 -0.7746 -0.7746 1.2910
1.2910 1.2910 -0.7746 -0.7746 1.1547 1.1547 -1.1547 -1.1547 1.1547 -1.1547 0.0000 0.0000
0.1601 -1.1209 -1.1209 1.4411 1.4411 0.1601 0.1601 -1.1209 1.2376 -0.5625 0.3375 0.3375
1.2376 -1.4626 -1.4626 0.3375 -0.1601 1.1209 -1.4411 -0.1601 1.1209 1.1209 -0.1601 -1.4411
"""


@modules
@dtypes
def test_batch_norm_has_four_means(m, dtype):
    y, moments = m.batch_norm(X1.astype(dtype), training=True, return_moments=True)
    assert_prints(y, BATCH)
    assert moments.count.shape == (1, 4, 1, 1) and (np.asarray(moments.count) == 12).all()


@modules
@dtypes
@pytest.mark.parametrize("shape, means", [((4, 2, 2), 3), ((2, 2), 12), ((2,), 24)])
def test_layer_norm_over_trailing_axes(shape, means, m, dtype):
    x = X1.astype(dtype)
    y, moments = m.layer_norm(x, shape, return_moments=True)
    assert_prints(y, LAYER[shape])
    assert np.size(moments.mean) == means
    assert_prints(m.layer_norm(x, axis=tuple(range(-len(shape), 0))), LAYER[shape])
    assert_prints(m.standardize(x, tuple(range(-len(shape), 0)), eps=1e-5), LAYER[shape])


@modules
@dtypes
def test_group_norm_has_six_means(m, dtype):
    y, moments = m.group_norm(X1.astype(dtype), 2, return_moments=True)
    assert_prints(y, GROUP)
    assert np.size(moments.mean) == 6


@modules
def test_only_batch_norm_sees_the_batch(m):
    alone = [m.layer_norm(X1[:1], (4, 2, 2)), m.group_norm(X1[:1], 2), m.instance_norm(X1[:1])]
    among = [m.layer_norm(X1, (4, 2, 2)), m.group_norm(X1, 2), m.instance_norm(X1)]
    for a, b in zip(alone, among):
        assert np.array_equal(a[0], b[0])
    alone, among = m.batch_norm(X1[:1], training=True), m.batch_norm(X1, training=True)
    assert not np.allclose(alone[0], among[0])


@dtypes
def test_layer_form(dtype):
    layer = normc.BatchNorm2d(4, dtype=dtype)
    assert_prints(layer(X1.astype(dtype)), BATCH)
    assert np.array_equal(layer.weight, np.ones(4)) and np.array_equal(layer.bias, np.zeros(4))


# ---- 2. a batch norm of one's own ----------------------------------------------------------------

def batch_norm_by_hand(x, gamma, beta, moving_mean, moving_var, training, eps=1e-5, momentum=0.9):
    """The tutorial's function: momentum weighs the old value, the moving variance is biased."""
    if not training:
        return (x - moving_mean) / np.sqrt(moving_var + eps) * gamma + beta, moving_mean, moving_var
    axes = 0 if x.ndim == 2 else (0, 2, 3)
    mean = x.mean(axes, keepdims=True)
    var = ((x - mean) ** 2).mean(axes, keepdims=True)
    moving_mean = momentum * moving_mean + (1 - momentum) * mean
    moving_var = momentum * moving_var + (1 - momentum) * var
    return (x - mean) / np.sqrt(var + eps) * gamma + beta, moving_mean, moving_var


inputs = pytest.mark.parametrize("shape", [(16, 5), (4, 5, 6, 7)], ids=["2-D", "4-D"])


@modules
@inputs
def test_function_of_ones_own(shape, m, rng):
    state = (1, 5) if len(shape) == 2 else (1, 5, 1, 1)
    gamma, beta = rng.normal(size=(2, 5))
    moving = np.zeros(state), np.ones(state)
    running_mean, running_var = np.zeros(5), np.ones(5)
    momentum = normc.decay(0.9)
    for step in range(6):
        x = rng.normal(size=shape) * (step + 1) + step
        training = step < 4
        expected, *moving = batch_norm_by_hand(
            x, gamma.reshape(state), beta.reshape(state), *moving, training)
        y = m.batch_norm(x, running_mean, running_var, gamma, beta, training, momentum,
                         correction=0)
        assert np.abs(y - expected).max() < 1e-12
        assert np.abs(running_mean - moving[0].ravel()).max() < 1e-13
        assert np.abs(running_var - moving[1].ravel()).max() < 1e-12


@inputs
def test_class_of_ones_own(shape, rng):
    """gamma = 1, beta = 0, moving_mean = 0, moving_var = 1, updating itself."""
    kind = normc.BatchNorm1d if len(shape) == 2 else normc.BatchNorm2d
    layer = kind(5, momentum=normc.decay(0.9), correction=0, dtype=np.float64)
    state = (1, 5) if len(shape) == 2 else (1, 5, 1, 1)
    moving = np.zeros(state), np.ones(state)
    for step in range(6):
        x = rng.normal(size=shape) * 3 - step
        layer.train(step % 3 < 2)
        expected, *moving = batch_norm_by_hand(x, 1, 0, *moving, step % 3 < 2)
        assert np.abs(layer(x) - expected).max() < 1e-12
        assert np.abs(layer.running_mean - moving[0].ravel()).max() < 1e-13
        assert np.abs(layer.running_var - moving[1].ravel()).max() < 1e-12
    assert layer.num_batches_tracked == 4


def test_lenet_shapes(rng):
    """The four places where LeNet has a batch norm, with batches of 256."""
    for kind, shape in ((normc.BatchNorm2d, (256, 6, 24, 24)), (normc.BatchNorm2d, (256, 16, 8, 8)),
                        (normc.BatchNorm1d, (256, 120)), (normc.BatchNorm1d, (256, 84))):
        layer = kind(shape[1])
        x = rng.normal(size=shape).astype(np.float32) * 2 + 1
        y = layer(x)
        axes = tuple(i for i in range(x.ndim) if i != 1)
        assert y.dtype == np.float32 and y.shape == shape
        assert np.abs(y.mean(axes, dtype=float)).max() < 1e-6
        assert np.abs(y.std(axes, dtype=float) - 1).max() < 1e-5
        assert np.abs(layer.running_mean - 0.1 * x.mean(axes, dtype=float)).max() < 1e-6
        layer.eval()
        assert not np.array_equal(layer(x), y)


# ---- 3. LayerNorm(10, eps=0) of one row, then the activations ------------------------------------

X3 = numbers("-0.9 0.1 0.0 -0.1 0.9 -0.4 0.9 -0.5 0.8 0.1")
NORMALISED = "-1.6906 0.0171 -0.1537 -0.3245 1.3833 -0.8368 1.3833 -1.0076 1.2125 0.0171"
RELU = "0.0000 0.0171 0.0000 0.0000 1.3833 0.0000 1.3833 0.0000 1.2125 0.0171"
PRELU = "-0.4227 0.0171 -0.0384 -0.0811 1.3833 -0.2092 1.3833 -0.2519 1.2125 0.0171"
LEAKY = "-0.0169 0.0171 -0.0015 -0.0032 1.3833 -0.0084 1.3833 -0.0101 1.2125 0.0171"


@modules
@dtypes
def test_layer_norm_then_activations(m, dtype):
    y = m.layer_norm(X3.astype(dtype), 10, eps=0)
    assert_prints(y, NORMALISED)
    assert_prints(m.relu(y), RELU)
    assert_prints(m.prelu(y, 0.25), PRELU)
    assert_prints(m.prelu(y, np.array([0.25])), PRELU)
    assert_prints(m.leaky_relu(y), LEAKY)
    assert_prints(m.standardize(X3.astype(dtype)), NORMALISED)


# ---- 4. BatchNorm2d(2, affine=False), equal to the loop over channels ----------------------------

X4 = numbers("1 1 1 2 -1 1 0 1 0 -1 2 2 0 -1 3 1").reshape(2, 2, 2, 2)
CHANNELS = """0.0000 0.0000 0.0000 1.0000 -1.2247 0.4082 -0.4082 0.4082
-1.0000 -2.0000 1.0000 1.0000 -0.4082 -1.2247 2.0412 0.4082"""


@modules
@dtypes
def test_batch_norm_without_parameters(m, dtype):
    x = X4.astype(dtype)
    y, moments = m.batch_norm(x, training=True, return_moments=True)
    assert_prints(y, CHANNELS)
    assert_prints(moments.mean, "1.0000 0.5000")
    assert_prints(moments.var(), "1.0000 1.5000")
    assert_prints(moments.var(1), "1.1429 1.7143")
    by_hand = np.empty_like(x)
    for c in range(2):
        channel = x[:, c]
        by_hand[:, c] = (channel - channel.mean()) / np.sqrt(channel.var() + 1e-5)
    assert_prints(by_hand, CHANNELS)
    assert np.abs(y - by_hand).max() <= 4 * np.finfo(dtype).eps * np.abs(by_hand).max()


@dtypes
def test_batch_norm_layer_without_parameters(dtype):
    layer = normc.BatchNorm2d(2, affine=False, dtype=dtype)
    assert_prints(layer(X4.astype(dtype)), CHANNELS)
    assert layer.weight is None and layer.bias is None
    assert_prints(layer.running_mean, "0.1000 0.0500")
    assert_prints(layer.running_var, f"{0.9 + 0.1 * 8 / 7:.4f} {0.9 + 0.1 * 12 / 7:.4f}")


# ---- 5. LayerNorm over the whole image and over channels, on (1, 3, 5, 5) ------------------------

X5 = (np.arange(1.0, 26) + np.array([0, 10, 30])[:, None]).reshape(1, 3, 5, 5)
FIRST = """
-1.7584 -1.6890 -1.6196 -1.5502 -1.4808 -1.4114 -1.3420 -1.2725 -1.2031 -1.1337 -1.0643 -0.9949
-0.9255 -0.8561 -0.7867 -0.7173 -0.6478 -0.5784 -0.5090 -0.4396 -0.3702 -0.3008 -0.2314 -0.1620
-0.0925
"""
LAST = """
0.3239 0.3933 0.4627 0.5322 0.6016 0.6710 0.7404 0.8098 0.8792 0.9486 1.0180 1.0875 1.1569 1.2263
1.2957 1.3651 1.4345 1.5039 1.5733 1.6427 1.7122 1.7816 1.8510 1.9204 1.9898
"""


@modules
@dtypes
def test_layer_norm_over_the_image(m, dtype):
    y = m.layer_norm(X5.astype(dtype), [3, 5, 5])
    assert_prints(y[0, 0], FIRST)
    assert_prints(y[0, 2], LAST)
    assert_prints(m.layer_norm(X5.astype(dtype), axis=(1, 2, 3)), " ".join(
        f"{v:.4f}" for v in y.ravel()))


@modules
@dtypes
@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_layer_norm_over_channels(eps, m, dtype):
    x = X5.astype(dtype)
    pixel = "-1.0690 -0.2673 1.3363"
    last = m.layer_norm(x.transpose(0, 2, 3, 1), 3, eps=eps)
    assert_prints(last, " ".join([pixel] * 25))
    first = m.layer_norm(x, axis=1, eps=eps)
    assert np.array_equal(first, last.transpose(0, 3, 1, 2))
    weight, bias = np.array([2.0, -3, 0.5], dtype), np.array([1.0, 0, -7], dtype)
    u = x.mean(1, keepdims=True)
    s = ((x - u) ** 2).mean(1, keepdims=True)
    by_hand = weight[:, None, None] * ((x - u) / np.sqrt(s + eps)) + bias[:, None, None]
    y = m.layer_norm(x, None, weight, bias, eps, axis=1)
    assert np.abs(y - by_hand).max() <= 8 * np.finfo(dtype).eps * np.abs(by_hand).max()
