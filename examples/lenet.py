"""LeNet in NumPy, its normalization layers normc's: what each norm does for training.

    python examples/lenet.py [--norms batch,none] [--epochs 40] [--seed 0] [--data DIR]

Sigmoids and a learning rate of 1 make it a network that hardly learns without normalization. The
data are scikit-learn's 1,797 handwritten digits, scaled from 8 x 8 to 28 x 28 pixels; or, with
--data, the IDX files in a folder, such as Fashion-MNIST's. Writes lenet.png.

Architecture: LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document
Recognition", 1998, with a norm after each convolution and each hidden dense layer.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from idx import read_split

import normc

BATCH = 256

# ---- layers: y = layer(x); dx = layer.backward(dy), which adds to the layer's gradients ----------


class Plain:
    """A layer without parameters, the same in training and evaluation."""

    def parameters(self):
        return []

    gradients = parameters

    def zero_grad(self):
        for gradient in self.gradients():
            gradient[...] = 0

    def train(self, mode=True):
        pass


class Dense(Plain):
    """y = x W^T + b of (N, inputs)."""

    def __init__(self, rng, inputs, outputs):
        self.weight = glorot(rng, (outputs, inputs), inputs, outputs)
        self.bias = np.zeros(outputs, np.float32)
        self.weight_grad, self.bias_grad = np.zeros_like(self.weight), np.zeros_like(self.bias)

    def parameters(self):
        return [self.weight, self.bias]

    def gradients(self):
        return [self.weight_grad, self.bias_grad]

    def __call__(self, x):
        self.x = x
        return x @ self.weight.T + self.bias

    def backward(self, dy):
        self.weight_grad += dy.T @ self.x
        self.bias_grad += dy.sum(0)
        return dy @ self.weight


class Conv(Dense):
    """A k x k convolution of (N, C, H, W) without padding: a dense layer of every patch."""

    def __init__(self, rng, inputs, outputs, k):
        super().__init__(rng, inputs * k * k, outputs)
        self.weight = glorot(rng, self.weight.shape, inputs * k * k, outputs * k * k)
        self.k = k

    def __call__(self, x):
        self.shape = n, c, h, w = x.shape
        patches = np.lib.stride_tricks.sliding_window_view(x, (self.k, self.k), axis=(2, 3))
        columns = patches.transpose(0, 2, 3, 1, 4, 5).reshape(-1, c * self.k**2)
        y = super().__call__(columns)
        return y.reshape(n, h - self.k + 1, w - self.k + 1, -1).transpose(0, 3, 1, 2)

    def backward(self, dy):
        n, c, h, w = self.shape
        rows, columns = dy.shape[2:]
        patches = super().backward(dy.transpose(0, 2, 3, 1).reshape(-1, dy.shape[1]))
        patches = patches.reshape(n, rows, columns, c, self.k, self.k)
        dx = np.zeros((n, h, w, c), dy.dtype)
        for i in range(self.k):
            for j in range(self.k):
                dx[:, i:i + rows, j:j + columns] += patches[..., i, j]
        return dx.transpose(0, 3, 1, 2)


class Sigmoid(Plain):
    def __call__(self, x):
        self.y = 1 / (1 + np.exp(-x))
        return self.y

    def backward(self, dy):
        return dy * self.y * (1 - self.y)


class MaxPool(Plain):
    """The largest of each 2 x 2 square; the first of them, if several are."""

    def __call__(self, x):
        n, c, h, w = x.shape
        squares = x.reshape(n, c, h // 2, 2, w // 2, 2).swapaxes(3, 4).reshape(
            n, c, h // 2, w // 2, 4)
        self.shape, self.largest = x.shape, squares.argmax(-1)[..., None]
        return np.take_along_axis(squares, self.largest, -1)[..., 0]

    def backward(self, dy):
        n, c, h, w = self.shape
        squares = np.zeros((*dy.shape, 4), dy.dtype)
        np.put_along_axis(squares, self.largest, dy[..., None], -1)
        return squares.reshape(n, c, h // 2, w // 2, 2, 2).swapaxes(3, 4).reshape(self.shape)


class Flatten(Plain):
    def __call__(self, x):
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dy):
        return dy.reshape(self.shape)


def glorot(rng, shape, inputs, outputs):
    """Glorot and Bengio, 2010: keeps the variance of activations and gradients alike."""
    reach = np.sqrt(6 / (inputs + outputs))
    return rng.uniform(-reach, reach, shape).astype(np.float32)


# ---- the network ---------------------------------------------------------------------------------

# A norm after a convolution, of shape (C, H, W), and after a dense layer, of shape (C,). A single
# number has no instance to speak of: after dense layers InstanceNorm is left out.
NORMS = {
    "none": lambda c, *plane: [],
    "batch": lambda c, *plane: [normc.BatchNorm2d(c) if plane else normc.BatchNorm1d(c)],
    "layer": lambda c, *plane: [normc.LayerNorm((c, *plane))],
    "group": lambda c, *plane: [normc.GroupNorm(2, c)],
    "instance": lambda c, *plane: [normc.InstanceNorm2d(c, affine=True)] if plane else [],
    "rms": lambda c, *plane: [normc.RMSNorm((c, *plane))],
    "switchable": lambda c, *plane: [normc.SwitchableNorm2d(c) if plane
                                     else normc.SwitchableNorm1d(c)],
}


class LeNet:
    def __init__(self, norm, seed=0):
        rng, after = np.random.default_rng(seed), NORMS[norm]
        self.layers = [
            Conv(rng, 1, 6, 5), *after(6, 24, 24), Sigmoid(), MaxPool(),
            Conv(rng, 6, 16, 5), *after(16, 8, 8), Sigmoid(), MaxPool(), Flatten(),
            Dense(rng, 256, 120), *after(120), Sigmoid(),
            Dense(rng, 120, 84), *after(84), Sigmoid(),
            Dense(rng, 84, 10)]

    def train(self, mode=True):
        for layer in self.layers:
            layer.train(mode)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def step(self, x, labels, rate):
        """One step of stochastic gradient descent; the loss before it."""
        loss, grad = cross_entropy(self(x), labels)
        for layer in self.layers:
            layer.zero_grad()
        for layer in reversed(self.layers):
            grad = layer.backward(grad)
        for layer in self.layers:
            for parameter, gradient in zip(layer.parameters(), layer.gradients()):
                parameter -= rate * gradient
        return loss


def cross_entropy(scores, labels):
    """The mean of -log softmax(scores)[label], and its gradient."""
    shifted = scores - scores.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    rows = np.arange(len(labels))
    grad = np.exp(log_p)
    grad[rows, labels] -= 1
    return -log_p[rows, labels].mean(), grad / len(labels)


def accuracy(net, images, labels):
    net.train(False)
    right = sum((net(images[i:i + 1024]).argmax(1) == labels[i:i + 1024]).sum()
                for i in range(0, len(images), 1024))
    net.train(True)
    return right / len(images)


def fit(norm, train, test, epochs, rate, seed):
    """A trained network, and per epoch its mean loss and its accuracy on the test images."""
    from tqdm import tqdm

    net, rng, losses, scores = LeNet(norm, seed), np.random.default_rng(seed + 1), [], []
    images, labels = train
    bar = tqdm(range(epochs), desc=f"{norm:>10}", unit="epoch", disable=None)
    for _ in bar:
        order, loss = rng.permutation(len(images)), 0.0
        for i in range(0, len(images) - 1, BATCH):  # a last batch of one has no variance
            batch = order[i:i + BATCH]
            loss += net.step(images[batch], labels[batch], rate) * len(batch)
        losses.append(loss / len(images))
        scores.append(accuracy(net, *test))
        bar.set_postfix(loss=f"{losses[-1]:.3f}", test=f"{scores[-1]:.1%}")
    return net, losses, scores


# ---- data and picture ----------------------------------------------------------------------------

def digits(seed):
    """scikit-learn's digits, of which a fifth is for the test."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = enlarge(data.images.astype(np.float32) / 16, 28)[:, None]
    order = np.random.default_rng(seed).permutation(len(images))
    test, train = np.split(order, [len(images) // 5])
    return (images[train], data.target[train]), (images[test], data.target[test])


def enlarge(images, size):
    """Square images by linear interpolation, corner to corner."""
    n = images.shape[-1]
    at = np.linspace(0, n - 1, size)
    weights = np.maximum(0, 1 - abs(at[:, None] - np.arange(n))).astype(images.dtype)
    return weights @ images @ weights.T


def idx(folder):
    splits = (read_split(folder, split) for split in ("train", "t10k"))
    return tuple((images[:, None], labels) for images, labels in splits)


COLOURS = {"none": "#666666", "batch": "#D55E00", "layer": "#0072B2", "group": "#009E73",
           "instance": "#CC79A7", "rms": "#E69F00", "switchable": "#56B4E9"}


def picture(curves, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), dpi=110, layout="constrained")
    for norm, (losses, scores) in curves.items():
        style = {"color": COLOURS[norm], "lw": 2, "ls": "--" if norm == "none" else "-"}
        epochs = np.arange(1, len(losses) + 1)
        left.plot(epochs, losses, label="no norm" if norm == "none" else norm, **style)
        right.plot(epochs, np.multiply(scores, 100), **style)
    left.set(title="Loss in training", xlabel="epoch", yscale="log")
    right.set(title="Test accuracy, %", xlabel="epoch", ylim=(0, 102))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle("LeNet with sigmoids: a norm after each hidden layer (instance: after "
                    "convolutions), or none", fontsize=11)
    figure.savefig(path)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--norms", default=",".join(NORMS), help="which, separated by commas")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the training images")
    parser.add_argument("--rate", type=float, default=1.0, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and split")
    parser.add_argument("--data", metavar="DIR", help="a folder of IDX files, as Fashion-MNIST's; "
                        "without, scikit-learn's digits")
    parser.add_argument("--picture", type=Path, default="lenet.png", help="file to draw to")
    options = parser.parse_args()
    options.norms = list(dict.fromkeys(filter(None, map(str.strip, options.norms.split(",")))))
    unknown = [name for name in options.norms if name not in NORMS]
    if unknown or not options.norms:
        parser.error(f"no norm is named {', '.join(unknown)!r}; there are {', '.join(NORMS)}")
    if options.epochs < 1 or options.seed < 0:
        parser.error("--epochs must be positive, --seed not negative")
    if not options.picture.parent.is_dir() or not options.picture.suffix:
        parser.error(f"cannot draw to {options.picture}: no such folder, or no suffix as .png")
    try:
        return options, idx(options.data) if options.data else digits(options.seed)
    except (OSError, ValueError) as error:
        parser.error(str(error))


def main():
    options, (train, test) = arguments()
    print(f"{len(train[0])} images to train, {len(test[0])} to test, "
          f"{options.epochs} epochs at rate {options.rate}")
    curves, nets, begin = {}, {}, time.perf_counter()
    for norm in options.norms:
        nets[norm], *curves[norm] = fit(norm, train, test, options.epochs, options.rate,
                                        options.seed)
    print(f"\n{'norm':>10}  {'loss':>7}  {'test':>6}  {'best':>6}")
    for norm, (losses, scores) in curves.items():
        print(f"{norm:>10}  {losses[-1]:7.4f}  {scores[-1]:6.1%}  {max(scores):6.1%}")
    if "batch" in nets:
        first = nets["batch"].layers[1]
        with np.printoptions(precision=3, suppress=True):
            print(f"\nfirst BatchNorm:\n  gamma {first.weight}\n  beta  {first.bias}")
    picture(curves, options.picture)
    print(f"\n{options.picture} written, {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
