"""Every norm as a shape, a call, and the list of elements that share a mean."""

from dataclasses import dataclass, field

import bound
import numpy as np
from bound import wide


@dataclass(frozen=True)
class Case:
    """A norm on a shape. `axis`: channel axis, or the shared axes of layer, rms and standardize."""

    norm: str
    shape: tuple
    axis: object = 1
    num_groups: int = 1
    options: dict = field(default_factory=dict)

    def __str__(self):
        groups = f"-{self.num_groups}groups" if self.norm == "group_norm" else ""
        shape = "x".join(map(str, self.shape))
        return f"{self.norm}-{shape}-axis{self.axis}{groups}".replace(" ", "")

    @property
    def centred(self):
        return self.norm != "rms_norm"

    @property
    def takes(self):
        return {"standardize": (), "rms_norm": ("weight",)}.get(self.norm, ("weight", "bias"))

    @property
    def shared_by_axis(self):
        return self.norm in ("layer_norm", "rms_norm", "standardize")

    @property
    def axes(self):
        """The axes that the parameters run along."""
        return tuple(sorted(i % len(self.shape) for i in np.ravel(self.axis)))

    @property
    def parameter_shape(self):
        return tuple(self.shape[i] for i in self.axes)

    def call(self, module, x, weight=None, bias=None, eps=1e-5, **more):
        more = {**self.options, **more, "axis": self.axis, "eps": eps}
        given = {"weight": weight, "bias": bias}
        more.update({key: given[key] for key in self.takes if given[key] is not None})
        function = getattr(module, self.norm)
        if self.norm == "batch_norm":
            more.setdefault("training", True)
        if self.norm == "group_norm":
            return function(x, self.num_groups, **more)
        return function(x, **more)

    def members(self):
        """Flat C-order places of the elements of x, one row per group."""
        shape, kept = self.shape, ()
        if self.shared_by_axis:
            kept = tuple(i for i in range(len(shape)) if i not in self.axes)
        elif self.norm == "batch_norm":
            kept = self.axes
        elif self.norm == "instance_norm":
            kept = (0, *self.axes)
        else:
            (c,) = self.axes
            shape = (*shape[:c], self.num_groups, shape[c] // self.num_groups, *shape[c + 1:])
            kept = (0, c)
        shared = tuple(i for i in range(len(shape)) if i not in kept)
        places = np.arange(np.prod(shape, dtype=int)).reshape(shape).transpose(kept + shared)
        return places.reshape(int(np.prod([shape[i] for i in kept], dtype=int)), -1)

    def fill(self, data):
        """(groups, n) -> x of this case's shape."""
        x = np.empty(np.prod(self.shape, dtype=int), data.dtype)
        x[self.members()] = data
        return x.reshape(self.shape)

    def grouped(self, x):
        return np.ascontiguousarray(np.broadcast_to(x, self.shape)).reshape(-1)[self.members()]

    def along(self, parameter, default, arithmetic):
        """A parameter in the type it computes in, one value per element, as (groups, n)."""
        if parameter is None:
            return wide(default)
        p = np.asarray(parameter).astype(np.float64).astype(arithmetic)
        p = p.reshape(self.parameter_shape)
        others = [i for i in range(len(self.shape)) if i not in self.axes]
        return bound.widen(self.grouped(np.expand_dims(p, others)))

    def check(self, y, x, weight=None, bias=None, eps=1e-5, where=None, relu=False):
        """y is what this norm, or ReLU of it, makes of x, within the published bound."""
        assert isinstance(y, np.ndarray) and y.shape == x.shape == self.shape
        arithmetic = np.float64 if bound.name(y.dtype) == "float64" else np.float32
        w = self.along(weight if "weight" in self.takes else None, 1, arithmetic)
        b = self.along(bias if "bias" in self.takes else None, 0, arithmetic)
        where = None if where is None else self.grouped(where)
        d, mean, var = bound.deviations(self.grouped(x), where, self.centred)
        sigma = np.sqrt(var + wide(eps))
        exact = d * bound.reciprocal(sigma) * w + b
        allowed = bound.tolerance(y.dtype, exact, b, w, mean, sigma)
        if where is not None:
            exact, allowed = np.where(where, exact, 0), np.where(where, allowed, 0)
        exact = np.maximum(exact, 0) if relu else exact
        bound.assert_within(self.grouped(y), exact, allowed, y.dtype)


def divisor(n):
    """The greatest divisor of n that is at most its root."""
    return max(d for d in range(1, int(n**0.5) + 1) if n % d == 0)


def cases_of(n):
    """Every norm, in every order of axes, with n elements to a mean, and groups enough in a row
    that vectors of them are full, and tiles of them more than one where n allows."""
    a = divisor(n)
    b = n // a
    row = 150 if n <= 200 else 21
    return [
        Case("batch_norm", (a, 4, b)),
        Case("batch_norm", (a, b, row), -1),
        Case("batch_norm", (a, b, 3), -1),
        Case("batch_norm", (n, row)),
        Case("batch_norm", (n, 13)),
        Case("instance_norm", (2, 2, a, b)),
        Case("instance_norm", (2, n, row), -1),
        Case("group_norm", (2, 2 * a, b), 1, 2),
        Case("group_norm", (2, b, 17 * a), -1, 17),
        Case("instance_norm", (2, n, 4), -1),
        Case("group_norm", (5, 3 * n), 1, 3),
        Case("layer_norm", (4, n), -1),
        Case("layer_norm", (4, a, b), (1, 2)),
        Case("layer_norm", (2, n, row), 1),
        Case("layer_norm", (2, n, 3), 1),
        Case("layer_norm", (n, row), 0),
        Case("rms_norm", (4, n), -1),
        Case("rms_norm", (2, n, row), 1),
        Case("standardize", (a, 4, b), (0, 2)),
        Case("standardize", (a, b, row), (0, 1)),
    ]


# One shape of each kind, odd in size, for tests of everything but numbers.
SMALL = [
    Case("batch_norm", (3, 5, 7, 2)),
    Case("batch_norm", (3, 7, 2, 21), -1),
    Case("batch_norm", (37, 2, 3), -1),
    Case("batch_norm", (19, 21)),
    Case("instance_norm", (3, 5, 7, 3)),
    Case("instance_norm", (3, 7, 20), 2),
    Case("group_norm", (3, 6, 5, 3), 1, 2),
    Case("group_norm", (3, 5, 18), -1, 9),
    Case("group_norm", (5, 51), 1, 3),
    Case("layer_norm", (5, 37), -1),
    Case("layer_norm", (3, 5, 17), (1, 2)),
    Case("layer_norm", (3, 19, 5), 1),
    Case("layer_norm", (3, 19, 2, 9), 1),
    Case("layer_norm", (3, 4, 5, 3), (1, 3)),
    Case("layer_norm", (7, 23), 0),
    Case("rms_norm", (5, 37), -1),
    Case("rms_norm", (3, 19, 11), 1),
    Case("standardize", (3, 4, 5), (0, 2)),
    Case("standardize", (3, 4, 15), (0, 1)),
    Case("standardize", (3, 4, 5), (0, 1, 2)),
]
