"""What is timed: norms on shapes that networks have, and the formula of each, once for all."""

from dataclasses import dataclass, replace

import numpy as np

EPS = 1e-5
# Unit roundoff of what a result is rounded to.
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}


@dataclass(frozen=True)
class Case:
    """A norm, a shape and where it comes from.

    `axis` is that of the channels; of layer_norm and rms_norm the one that shares a mean.
    """

    norm: str
    shape: tuple
    network: str
    dtype: str = "float32"
    axis: int = 1
    num_groups: int = 1  # of group_norm
    size: int = 0  # of local_response_norm
    training: bool = True  # of batch_norm; else by running statistics
    backward: bool = False

    @property
    def key(self):
        """Of this case among all: two networks may have one shape."""
        return f"{self.label} [{self.network}]"

    @property
    def label(self):
        words = [self.norm + "_backward" * self.backward, str(self.shape).replace(" ", "")]
        if self.norm == "batch_norm":
            words.append("train" if self.training else "eval")
        if self.norm in ("layer_norm", "rms_norm") and self.axis not in (-1, len(self.shape) - 1):
            words.append(f"axis={self.axis}")
        elif self.norm not in ("layer_norm", "rms_norm") and self.axis == -1:
            words.append("channels-last")
        words += [f"{self.num_groups} groups"] * (self.norm == "group_norm")
        words += [f"size {self.size}"] * (self.norm == "local_response_norm")
        words += [self.dtype] * (self.dtype != "float32")
        return " ".join(words)

    @property
    def bytes(self):
        """Of x."""
        size = 1
        for n in self.shape:
            size *= n
        return size * {"float64": 8, "float32": 4}.get(self.dtype, 2)

    @property
    def channels(self):
        return self.shape[self.axis]

    @property
    def split(self):
        """The shape in which whole axes share a mean: channels stand as (groups, channels)."""
        axis, groups = self.axis % len(self.shape), self.num_groups
        return *self.shape[:axis], groups, self.channels // groups, *self.shape[axis + 1:]

    @property
    def shared(self):
        """Those axes of `split`."""
        axis, ndim = self.axis % len(self.shape), len(self.split)
        rest = [i for i in range(1, ndim) if i not in (axis, axis + 1)]
        return {"batch_norm": (0, *rest), "instance_norm": tuple(rest),
                "group_norm": (*rest, axis + 1)}.get(self.norm, (axis + 1,))

    @property
    def along(self):
        """The shape of a parameter beside `split`."""
        axis = self.axis % len(self.shape)
        return tuple(n if i in (axis, axis + 1) else 1 for i, n in enumerate(self.split))

    @property
    def eps(self):
        return 2.0**-23 if self.norm == "rms_norm" else EPS

    @property
    def has_bias(self):
        return self.norm not in ("rms_norm", "local_response_norm")


@dataclass
class Data:
    """x of mean 0.5 and deviation 1, parameters, running statistics, the gradient of y."""

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    grad: np.ndarray = None


def draw(case):
    """None where the dtype needs a package that is missing."""
    dtype = dtype_of(case.dtype)
    if dtype is None:
        return None
    rng = np.random.default_rng(1)
    x = rng.standard_normal(case.shape, np.float32)
    x += np.float32(0.5)
    weight, bias = 1 + rng.standard_normal((2, case.channels), np.float32) / 2
    grad = rng.standard_normal(case.shape, np.float32).astype(dtype) if case.backward else None
    return Data(x.astype(dtype, copy=False), weight.astype(dtype), bias.astype(dtype),
                np.full(case.channels, 0.25, np.float32), np.full(case.channels, 1.5, np.float32),
                grad)


def dtype_of(name):
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        return None
    return np.dtype(ml_dtypes.bfloat16)


# ---- the formulas, in the precision of their arguments -------------------------------------------

def standardise(case, x, mean=None, var=None):
    """xhat and the reciprocal deviation, in the shape of `split`."""
    x, over = x.reshape(case.split), {"axis": case.shared, "keepdims": True}
    if case.norm == "rms_norm":
        rstd = 1 / np.sqrt(np.square(x).mean(**over) + x.dtype.type(case.eps))
        return x * rstd, rstd
    if case.training or case.norm != "batch_norm":
        mean, var = x.mean(**over), x.var(**over)
    else:
        mean, var = (a.reshape(case.along) for a in (mean, var))
    rstd = 1 / np.sqrt(var + x.dtype.type(case.eps))
    return (x - mean) * rstd, rstd


def forward(case, x, weight, bias, mean=None, var=None):
    if case.norm == "local_response_norm":
        return respond(case, x)
    xhat, _ = standardise(case, x, mean, var)
    y = xhat * weight.reshape(case.along)
    return (y + bias.reshape(case.along) if case.has_bias else y).reshape(x.shape)


def respond(case, x):
    before = case.size // 2
    squares = np.pad(np.square(x), [(0, 0), (before, case.size - 1 - before)]
                     + [(0, 0)] * (x.ndim - 2))
    total = sum(squares[:, i:i + x.shape[1]] for i in range(case.size))
    return x / (1 + x.dtype.type(1e-4 / case.size) * total) ** x.dtype.type(0.75)


def terms(case, grad, x, weight):
    """xhat, rstd, t = grad * weight, and the means of t and t * xhat."""
    xhat, rstd = standardise(case, x)
    t = grad.reshape(case.split) * weight.reshape(case.along)
    over = {"axis": case.shared, "keepdims": True}
    centre = 0 if case.norm == "rms_norm" else t.mean(**over)
    return xhat, rstd, t, centre, (t * xhat).mean(**over)


def backward(case, grad, x, weight):
    """dx, dweight, dbias."""
    xhat, rstd, t, centre, slope = terms(case, grad, x, weight)
    dx = (t - centre - xhat * slope) * rstd
    over = tuple(i for i, n in enumerate(case.along) if n == 1)
    grad = grad.reshape(case.split)
    return dx.reshape(x.shape), (grad * xhat).sum(over).ravel(), grad.sum(over).ravel()


# ---- the rows ------------------------------------------------------------------------------------

def both(case):
    return [case, replace(case, backward=True)]


def rows(shape, network, **more):
    return Case("layer_norm", shape, network, axis=-1, **more)


def images(norm, shape, network, **more):
    return Case(norm, shape, network, **more)


CASES = [
    # rows
    rows((8, 10), "tiny"),
    rows((1, 1024), "one token"),
    rows((4096, 16), "short rows"),
    *both(rows((4096, 64), "attention heads")),
    rows((128, 768), "BERT, one sequence"),
    *both(rows((4096, 768), "BERT, GPT-2")),
    rows((50432, 768), "ViT-B, batch 256"),
    *both(rows((16384, 1024), "GPT-2 medium")),
    rows((100352, 128), "ConvNeXt-T, channels-last"),
    rows((4, 4194304), "huge rows"),
    *(rows((4096, 768), "BERT", dtype=dtype) for dtype in ("float16", "bfloat16", "float64")),
    replace(rows((4096, 768), "BERT", dtype="bfloat16"), backward=True),
    Case("rms_norm", (128, 768), "T5", axis=-1),
    *both(Case("rms_norm", (4096, 4096), "Llama", axis=-1)),
    Case("layer_norm", (32, 96, 56, 56), "ConvNeXt, channels-first"),
    # channels
    images("batch_norm", (256, 120), "LeNet"),
    images("batch_norm", (256, 120), "LeNet", training=False),
    *both(images("batch_norm", (32, 1024), "multilayer perceptron")),
    images("batch_norm", (32, 1024), "multilayer perceptron", training=False),
    *both(images("batch_norm", (64, 224, 224, 3), "RGB images", axis=-1)),
    images("batch_norm", (64, 224, 224, 3), "RGB images", axis=-1, training=False),
    images("batch_norm", (256, 6, 24, 24), "LeNet"),
    *both(images("batch_norm", (32, 64, 56, 56), "ResNet-50")),
    images("batch_norm", (64, 256, 14, 14), "ResNet-50"),
    images("batch_norm", (64, 512, 7, 7), "ResNet-50"),
    images("batch_norm", (64, 512, 7, 7), "ResNet-50", training=False),
    *both(images("batch_norm", (64, 512, 7, 7), "ResNet-50", dtype="bfloat16")),
    images("batch_norm", (64, 128, 56, 56), "ResNet-50, batch 64"),
    images("batch_norm", (64, 128, 56, 56), "ResNet-50, batch 64", training=False),
    images("batch_norm", (32, 64, 56, 56), "ResNet-50", training=False),
    *both(images("batch_norm", (32, 56, 56, 64), "ResNet-50", axis=-1)),
    images("batch_norm", (32, 56, 56, 64), "ResNet-50", axis=-1, training=False),
    *both(images("batch_norm", (16, 28, 28, 512), "ResNet-50", axis=-1)),
    *both(images("batch_norm", (16, 28, 28, 512), "ResNet-50", axis=-1, dtype="bfloat16")),
    *both(images("group_norm", (32, 64, 56, 56), "ResNet-50", num_groups=32)),
    images("group_norm", (1, 128, 256, 256), "Stable Diffusion", num_groups=32),
    images("group_norm", (2, 320, 64, 64), "Stable Diffusion", num_groups=32),
    images("group_norm", (2, 64, 64, 320), "Stable Diffusion", axis=-1, num_groups=32),
    *both(images("group_norm", (32, 56, 56, 64), "ResNet-50", axis=-1, num_groups=32)),
    images("group_norm", (64, 512, 7, 7), "ResNet-50", num_groups=32),
    *both(images("group_norm", (4096, 768), "after a linear layer", num_groups=32)),
    *both(images("instance_norm", (32, 64, 56, 56), "style transfer")),
    images("instance_norm", (2, 32, 16, 112, 112), "3-D U-Net"),
    images("local_response_norm", (32, 96, 55, 55), "AlexNet", size=5),
]


def growth(norm="layer_norm", most=2**30):
    """Rows of 1,024 from 4 KB to 1 GB, or to `most` bytes."""
    counts = [4**i for i in range(10) if 4**i * 4096 <= most]
    return [Case(norm, (n, 1024), "growth", axis=-1) for n in counts]
