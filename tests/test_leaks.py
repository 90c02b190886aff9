"""Memory and references, over many calls, those that fail included."""

import gc
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import zoo

import normc

# Its allocator keeps what was freed apart for a while, so nothing here could be told.
pytestmark = pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""),
                                reason="memory is counted without the address sanitizer")

X = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
WEIGHT, BIAS = np.ones(5, np.float32), np.zeros(5)
MEAN, VAR = np.zeros(4), np.ones(4)
WHERE = np.arange(60).reshape(3, 4, 5) % 3 > 0
OUT = np.zeros_like(X)
WIDE_OUT, FOUR, THREE = np.zeros(X.shape), np.ones(4), np.ones(3)
LAYER = normc.BatchNorm1d(4)
LAYERS = [LAYER, normc.BatchNorm1d(4, on_nonfinite="skip").freeze(),
          normc.InstanceNorm1d(4, affine=True, track_running_stats=True), normc.LayerNorm(5),
          normc.GroupNorm(2, 4)]
ACTIVATED = [normc.BatchNorm1d(4, activation="relu"), normc.LayerNorm(5, activation="relu")]
SPOILED = X * np.float32(np.nan)
STRICT = normc.BatchNorm1d(4, on_nonfinite="raise")
BAD_X = np.zeros(3, complex)


class Refusal(ValueError):
    """Of a class of its own, whose references no other error counts."""


class Refusing:
    """Fails in Python code, so that the error has a traceback, whose frame knows this object."""

    def refuse(self, *args, **kwargs):
        raise Refusal("no")

    __float__ = __index__ = __array__ = refuse


REFUSING = Refusing()


def fails(call):
    def failing():
        try:
            call()
        except (TypeError, ValueError):
            return
        raise AssertionError("this call was to fail")
    return failing


def there_and_back(layers):
    for layer in layers:
        layer(X, where=WHERE)
        layer.backward(OUT)
        layer(X, out=OUT)
        layer.eval()(X)
        layer.train()(X)


def merge():
    m = normc.moments(X, 2) + normc.moments(X, 2)
    return m.update(X)


CALLS = {
    "layer_norm": lambda: normc.layer_norm(X, 5, WEIGHT, BIAS),
    "layer_norm out": lambda: normc.layer_norm(X, 5, WEIGHT, BIAS, out=OUT),
    "layer_norm where": lambda: normc.layer_norm(X, where=WHERE),
    "layer_norm moments": lambda: normc.layer_norm(X, return_moments=True),
    "layer_norm list": lambda: normc.layer_norm([[1, 2], [3, 4]], [2], [1, 2], (3, 4)),
    "layer_norm swapped": lambda: normc.layer_norm(X.astype(">f4"), axis=(1, -1)),
    "layer_norm masked": lambda: normc.layer_norm(np.ma.array(X, mask=WHERE), where=WHERE),
    "layer_norm overlap": lambda: normc.layer_norm(OUT[1:], out=OUT[:-1]),
    "layer_norm residual": lambda: normc.layer_norm(X, residual=X, return_moments=True),
    "layer_norm residual out": lambda: normc.layer_norm(X, residual=OUT[::-1], out=OUT,
                                                        activation="relu"),
    "rms_norm residual list": lambda: normc.rms_norm([[1, 2]], residual=[[1, 2]]),
    "batch_norm": lambda: normc.batch_norm(X, MEAN, VAR, FOUR, None, True, return_moments=True),
    "batch_norm eval": lambda: normc.batch_norm(X, MEAN, VAR, VAR.copy(), out=OUT),
    "instance_norm": lambda: normc.instance_norm(X, MEAN, VAR, where=WHERE, return_moments=True),
    "group_norm": lambda: normc.group_norm(X, 2, return_moments=True),
    "rms_norm": lambda: normc.rms_norm(X, 5, WEIGHT, return_moments=True),
    "switchable_norm": lambda: normc.switchable_norm(X, THREE, [1, 2, 3], None, None, MEAN, VAR,
                                                     True, return_moments=True),
    "local_response_norm": lambda: normc.local_response_norm(X, 3, window="onnx"),
    "standardize": lambda: normc.standardize(X, (0, 2)),
    "moments": merge,
    "relu": lambda: normc.relu(X, out=OUT),
    "prelu": lambda: normc.prelu(X, VAR),
    "float16": lambda: normc.layer_norm(X.astype(np.float16)),
    "layer": lambda: LAYER(X, where=WHERE, out=OUT),
    "layers and back": lambda: there_and_back(LAYERS),
    "activated layers and back": lambda: there_and_back(ACTIVATED),
    "nonfinite": fails(lambda: STRICT(SPOILED)),
    "new layer": lambda: normc.BatchNorm2d(3, bias=False),
    "state_dict": lambda: LAYER.load_state_dict(LAYER.state_dict()),
    # np.ones and np.zeros of NumPy 2.4 lose a reference to float64 of their own: not in here
    "assign": lambda: setattr(LAYER, "weight", FOUR),
    "bad dtype": fails(lambda: normc.layer_norm(BAD_X)),
    "bad keyword": fails(lambda: normc.layer_norm(X, axes=1)),
    "bad axis": fails(lambda: normc.layer_norm(X, axis=(1, 9))),
    "bad weight": fails(lambda: normc.layer_norm(X, 5, WEIGHT[:3])),
    "bad weight dtype": fails(lambda: normc.layer_norm(X, 5, BAD_X)),
    "bad bias": fails(lambda: normc.layer_norm(X, 5, WEIGHT, [[1]])),
    "bad eps": fails(lambda: normc.layer_norm(X, 5, WEIGHT, BIAS, -1.0, where=WHERE, out=OUT)),
    "bad out": fails(lambda: normc.layer_norm(X, 5, WEIGHT, BIAS, out=OUT[1:])),
    "bad out dtype": fails(lambda: normc.group_norm(X, 2, out=WIDE_OUT)),
    "bad where": fails(lambda: normc.layer_norm(X, where=WHERE[0, 0, :2])),
    "bad where dtype": fails(lambda: normc.layer_norm(X, where=X)),
    "bad residual": fails(lambda: normc.layer_norm(X, residual=X[:2], out=OUT)),
    "bad residual dtype": fails(lambda: normc.rms_norm(X, residual=WIDE_OUT, where=WHERE)),
    "bad activation": fails(lambda: normc.group_norm(X, 2, activation="gelu")),
    "bad running": fails(lambda: normc.batch_norm(X, MEAN, VAR[:3], training=True)),
    "shared running": fails(lambda: normc.batch_norm(X, MEAN, MEAN, training=True)),
    "bad logits": fails(lambda: normc.switchable_norm(X, [1, 2, 3], [1, 2], training=True)),
    "bad groups": fails(lambda: normc.group_norm(X, 3)),
    "bad x": fails(lambda: normc.relu([[1], [2, 3]])),
    "refused number": fails(lambda: normc.layer_norm(X, eps=REFUSING)),
    "refused size": fails(lambda: normc.layer_norm(X, REFUSING)),
    "refused sizes": fails(lambda: normc.layer_norm(X, axis=(1, REFUSING))),
    "refused array": fails(lambda: normc.layer_norm(X, 5, REFUSING)),
    "refused residual": fails(lambda: normc.layer_norm(X, residual=REFUSING)),
    "refused x": fails(lambda: normc.layer_norm(REFUSING)),
    "bad layer": fails(lambda: normc.BatchNorm(4, eps=-1)),
    "bad init": fails(lambda: LAYER.__init__(-4)),
    "bad call": fails(lambda: LAYER(X[:, :3])),
    "bad assignment": fails(lambda: setattr(LAYER, "bias", THREE)),
    "bad state": fails(lambda: LAYER.load_state_dict({"weight": 1})),
}
if zoo.bfloat16 is not None:
    CALLS["bfloat16"] = lambda: normc.layer_norm(X.astype(zoo.bfloat16), 5, WEIGHT)

SHARED = [X, WEIGHT, BIAS, MEAN, VAR, WHERE, OUT, BAD_X, None, np.dtype("f4"), np.dtype("f8"),
          np.dtype(bool), np.dtype(complex), normc.Moments, normc.BatchNorm, type(LAYER), LAYER,
          Refusal, REFUSING]
if zoo.bfloat16 is not None:
    SHARED.append(np.dtype(zoo.bfloat16))


@pytest.fixture(scope="module", autouse=True)
def quick_collections():
    """What other tests have left need not be looked through time and again."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("name", CALLS)
def test_references_are_given_back(name):
    call = CALLS[name]
    for _ in range(20):
        call()
    gc.collect()
    before = [sys.getrefcount(o) for o in SHARED]
    for _ in range(200):
        call()
    gc.collect()
    for o, old, new in zip(SHARED, before, [sys.getrefcount(o) for o in SHARED]):
        assert abs(new - old) < 100, f"references to {type(o).__name__} {o!r:.60}"


@pytest.mark.parametrize("name", CALLS)
def test_blocks_are_given_back(name):
    """NumPy's arrays and PyMem blocks both go through tracemalloc."""
    call = CALLS[name]

    def grown(calls):
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(calls):
            call()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before

    grown(50)
    tracemalloc.start()
    try:
        # A leak shows in every round, at least 16 bytes a call; NumPy's caches fill in some.
        least = min(grown(400) for _ in range(4))
    finally:
        tracemalloc.stop()
    assert least < 400 * 16, f"{least} bytes in 400 calls"


def growth(code):
    """Bytes by which a process has grown between two calls of pages(), as the code prints them."""
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("memory is read from /proc")
    pages = """
import os, numpy as np, normc
def pages():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
"""
    done = subprocess.run([sys.executable, "-c", pages + code], capture_output=True, text=True,
                          cwd=os.path.dirname(os.path.dirname(normc.__file__)))
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_the_process_does_not_grow():
    """What the C core itself allocates, seen from outside: big calls, good and bad."""
    grown = growth("""
x = np.ones((2, 2, 2000), np.float32)
w = np.ones(2000)
c = np.ones((4, 100, 20), np.float32)
rm, rv = np.zeros(100), np.ones(100)
layer = normc.BatchNorm1d(100)
def round():
    normc.layer_norm(x, 2000, w)
    normc.layer_norm(x[:, ::-1, ::2], where=x[:, :, ::2] > 0)
    normc.layer_norm(x.astype(">f8"), axis=1)
    normc.switchable_norm(c, [1, 2, 3], [1, 2, 3], training=True, return_moments=True)
    normc.instance_norm(c, rm, rv)
    normc.local_response_norm(c, 5, beta=0.3)
    layer(c, out=c)
    c[...] = 1
    for bad in (dict(out=x[1:]), dict(eps=-1), dict(where=x)):
        try:
            normc.layer_norm(x, 2000, w, **bad)
        except (TypeError, ValueError):
            pass
for _ in range(100):
    round()
first = pages()
for _ in range(500):
    round()
print(pages() - first)
""")
    # What a round could lose is 8 kB and more, 4 MB in all.
    assert grown < 2**20


def test_ten_thousand_steps_of_training():
    """Forward and backward, of every layer; half of the forwards are never gone back through."""
    grown = growth("""
flat, images = np.random.default_rng(0).normal(size=(2, 6, 4)), np.ones((2, 4, 3, 3), np.float32)
images[0, :, 1] = 3
where, unmasked = images > 1, (normc.SwitchableNorm2d, normc.LocalResponseNorm, normc.PReLU)
layers = [(normc.BatchNorm1d(4), flat[0]), (normc.BatchNorm2d(4), images),
          (normc.BatchNorm2d(4).freeze(), images), (normc.InstanceNorm2d(4, affine=True), images),
          (normc.InstanceNorm2d(4, track_running_stats=True), images),
          (normc.LayerNorm(4), flat), (normc.RMSNorm(4), flat), (normc.GroupNorm(2, 4), images),
          (normc.SwitchableNorm1d(4), flat[1]), (normc.SwitchableNorm2d(4), images),
          (normc.LocalResponseNorm(3), images), (normc.ReLU(), flat), (normc.LeakyReLU(), flat),
          (normc.PReLU(4), images)]
def steps(n):
    for i in range(n):
        for layer, x in layers:
            takes = i % 2 and x is images and not isinstance(layer, unmasked)
            masked = {"where": where} if takes else {}
            layer(x, **masked)
            layer.backward(layer(x, **masked))
            layer.zero_grad()
steps(500)
first = pages()
steps(10000)
print(pages() - first)
""")
    # 16 bytes of a layer's step would be 2 MB.
    assert grown < 2**19
