"""The example that trains: its data reader, its layers, and the same network in torch."""

import gzip
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import idx  # noqa: E402
import lenet  # noqa: E402


# ---- IDX files -----------------------------------------------------------------------------------

def idx_bytes(array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, idx.UBYTE, array.ndim, *array.shape)
    return header + array.tobytes()


@pytest.fixture
def folder(tmp_path, rng):
    """Two splits, one of them gzipped."""
    for split, n, zipped in (("train", 5, False), ("t10k", 3, True)):
        for name, shape in (("images-idx3", (n, 28, 28)), ("labels-idx1", (n,))):
            data = idx_bytes(rng.integers(0, 10, shape).astype(np.uint8))
            path = tmp_path / f"{split}-{name}-ubyte"
            if zipped:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data))
            else:
                path.write_bytes(data)
    return tmp_path


def test_read_idx(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "plain").write_bytes(idx_bytes(array))
    (tmp_path / "zipped.gz").write_bytes(gzip.compress(idx_bytes(array)))
    for name in ("plain", "zipped.gz"):
        assert np.array_equal(idx.read_idx(tmp_path / name), array)


def test_read_a_folder(folder):
    (images, labels), (test_images, test_labels) = lenet.idx(folder)
    assert images.shape == (5, 1, 28, 28) and labels.shape == (5,)
    assert test_images.shape == (3, 1, 28, 28) and test_labels.shape == (3,)
    assert images.dtype == np.float32 and 0 <= images.min() and images.max() <= 1


@pytest.mark.parametrize("data, text", [
    (b"", "no IDX file"), (b"\x89PNG....", "no IDX file"),
    (idx_bytes(np.zeros(3, np.uint8))[:6], "within its header"),
    (idx_bytes(np.zeros(3, np.uint8))[:-1], "should hold 3 bytes"),
    (idx_bytes(np.zeros(3, np.uint8)) + b"x", "should hold 3 bytes"),
    (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "type 0x0d"),
    (gzip.compress(bytes(99), mtime=0)[:-9], "broken gzip"), (b"\x1f\x8b<html>", "broken gzip")])
def test_what_is_no_idx_file(data, text, tmp_path):
    path = tmp_path / "broken"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=text) as caught:
        idx.read_idx(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("images, labels, text", [
    (np.zeros((5, 32, 32), np.uint8), np.zeros(5, np.uint8), "28 x 28"),
    (np.zeros((1, 28, 28), np.uint8), np.zeros(1, np.uint8), "two images"),
    (np.zeros((5, 28, 28), np.uint8), np.full(5, 10, np.uint8), "below 10")])
def test_images_that_the_network_cannot_take(images, labels, text, folder):
    (folder / "train-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    with pytest.raises(ValueError, match=text):
        idx.read_split(folder, "train")


@pytest.mark.parametrize("options, text", [
    (["--norms", "nonsense, none"], "no norm is named 'nonsense'"), (["--norms", ","], "no norm"),
    (["--epochs", "0"], "--epochs"), (["--seed", "-1"], "--seed"),
    (["--picture", "none/there.png"], "cannot draw"), (["--picture", "curves"], "cannot draw"),
    (["--data", "none/there"], "no folder none/there")])
def test_bad_options(options, text, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lenet.py", *options])
    with pytest.raises(SystemExit):
        lenet.arguments()
    assert text in capsys.readouterr().err


def test_a_last_batch_of_one(rng):
    """It is left out: no norm of the batch can do anything with it."""
    pytest.importorskip("tqdm", reason="the example shows its progress by tqdm")
    images, labels = data(rng, lenet.BATCH + 1)
    lenet.fit("batch", (images, labels), (images, labels), 1, 1.0, 0)


def test_a_folder_that_lacks_something(folder):
    (folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(4, np.uint8)))
    with pytest.raises(ValueError, match="do not belong together"):
        idx.read_split(folder, "train")
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="train-labels-idx1-ubyte"):
        idx.read_split(folder, "train")


# ---- layers --------------------------------------------------------------------------------------

def double(layer):
    """In float64, so that differences tell."""
    for name, value in vars(layer).items():
        if isinstance(value, np.ndarray):
            setattr(layer, name, value.astype(np.float64))
    return layer


def layers(rng):
    return [(double(lenet.Dense(rng, 7, 5)), (3, 7)),
            (double(lenet.Conv(rng, 2, 3, 3)), (2, 2, 6, 7)),
            (lenet.Sigmoid(), (3, 4)), (lenet.MaxPool(), (2, 3, 6, 4)),
            (lenet.Flatten(), (2, 3, 4, 5))]


def test_layers_by_differences(rng):
    for layer, shape in layers(rng):
        x = rng.normal(size=shape)
        grad = rng.normal(size=layer(x).shape)
        dx = layer.backward(grad)
        for a, gradient in [(x, dx), *zip(layer.parameters(), layer.gradients())]:
            step, along = 1e-6, rng.normal(size=a.shape)
            sides = []
            for sign in (1, -1):
                a += sign * step * along
                sides.append((layer(x) * grad).sum())
                a -= sign * step * along
            expected = (sides[0] - sides[1]) / (2 * step)
            assert (gradient * along).sum() == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_loss_by_differences(rng):
    scores, labels = rng.normal(size=(6, 10)), rng.integers(0, 10, 6)
    loss, grad = lenet.cross_entropy(scores, labels)
    along = rng.normal(size=scores.shape)
    sides = [lenet.cross_entropy(scores + sign * 1e-6 * along, labels)[0] for sign in (1, -1)]
    assert (grad * along).sum() == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-6)
    assert loss == pytest.approx(np.mean([-np.log(np.exp(s)[l] / np.exp(s).sum())
                                          for s, l in zip(scores, labels)]))


def test_images_are_enlarged_linearly():
    slope = np.tile(np.arange(8.0), (1, 8, 1))
    large = lenet.enlarge(slope, 28)
    assert large.shape == (1, 28, 28)
    assert np.allclose(large[0, 0], np.linspace(0, 7, 28))


# ---- training ------------------------------------------------------------------------------------

def data(rng, n=64):
    """Blots whose place is their label."""
    labels = rng.integers(0, 10, n)
    images = rng.normal(size=(n, 1, 28, 28)).astype(np.float32) * 0.3
    for image, label in zip(images, labels):
        image[0, 2 * label:2 * label + 6] += 1
    return images, labels


def losses(net, images, labels, steps, rate=1.0):
    return [net.step(images, labels, rate) for _ in range(steps)]


@pytest.mark.parametrize("norm", lenet.NORMS)
def test_a_seed_fixes_everything(norm, rng):
    images, labels = data(rng, 16)
    first, again, other = (losses(lenet.LeNet(norm, seed), images, labels, 3)
                           for seed in (1, 1, 2))
    assert first == again != other
    assert np.isfinite(first).all()


# What these add to a few steps is curves, and most of their time is NumPy's.
LONG = pytest.mark.skipif("NORMC_SANITIZE" in os.environ, reason="sanitizers take minutes for it")


@LONG
@pytest.mark.parametrize("norm", [n for n in lenet.NORMS if n != "none"])
def test_it_learns(norm, rng):
    curve = losses(lenet.LeNet(norm), *data(rng), 100, 0.3)
    assert curve[-1] < 0.5 * curve[0]


@LONG
def test_it_reads_digits():
    """What `make train` promises: 97 % of the digits it has not seen, within 40 epochs."""
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    pytest.importorskip("tqdm", reason="the example shows its progress by tqdm")
    train, test = lenet.digits(0)
    assert len(train[0]) == 1438 and len(test[0]) == 359 and train[0].shape[1:] == (1, 28, 28)
    _, curve, accuracies = lenet.fit("batch", train, test, 40, 1.0, 0)
    assert max(accuracies) >= 0.97
    assert curve[-1] < 0.1 * curve[0]


def torch_twin(torch, net):
    """The same network, its weights and statistics those of `net`, by state_dict."""
    nn = torch.nn
    modules = [nn.Conv2d(1, 6, 5), nn.BatchNorm2d(6), nn.Sigmoid(), nn.MaxPool2d(2),
               nn.Conv2d(6, 16, 5), nn.BatchNorm2d(16), nn.Sigmoid(), nn.MaxPool2d(2), nn.Flatten(),
               nn.Linear(256, 120), nn.BatchNorm1d(120), nn.Sigmoid(),
               nn.Linear(120, 84), nn.BatchNorm1d(84), nn.Sigmoid(), nn.Linear(84, 10)]
    for module, layer in zip(modules, net.layers, strict=True):
        if hasattr(layer, "state_dict"):
            state = layer.state_dict()
        elif layer.parameters():
            state = {"weight": layer.weight.reshape(module.weight.shape), "bias": layer.bias}
        else:
            continue
        module.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})
    return nn.Sequential(*modules)


def test_torch_follows_the_same_curve(rng):
    torch = pytest.importorskip("torch", reason="the same network in torch needs torch")
    images, labels = data(rng, 256)
    ours = lenet.LeNet("batch", 3)
    theirs = torch_twin(torch, ours)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=1.0)
    curve, expected = [], []
    for i in range(20):
        batch = np.arange(i * 64, i * 64 + 64) % 256
        curve.append(ours.step(images[batch], labels[batch], 1.0))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(theirs(torch.from_numpy(images[batch])),
                                                 torch.from_numpy(labels[batch]))
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert curve[-1] < curve[0]
    assert abs(np.array(curve) - expected).max() < 1e-4
    ours.train(False)
    theirs.eval()
    with torch.no_grad():
        scores = theirs(torch.from_numpy(images)).numpy()
    assert abs(ours(images) - scores).max() < 1e-2
