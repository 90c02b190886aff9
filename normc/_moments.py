"""What a norm knows of its groups: how many elements, their mean, their spread."""

import numpy as np

__all__ = ["Moments"]


class Moments:
    """Count, mean and centred second moment of groups of numbers.

    Disjoint pieces of data can be measured apart and merged, so statistics may come in chunks, from
    several ranks, or batch by batch. ``normc.moments`` and every norm with ``return_moments=True``
    return one; all arrays have one shape, that of x with the averaged axes kept as 1.

    Parameters
    ----------
    count : array_like of int
        Elements of each group, n.
    mean : array_like of float
        Their mean; 0 where n is 0.
    m2 : array_like of float
        sum (x - mean)^2, or, about zero, sum x^2.
    mean_lo : array_like of float, optional
        Second word of the mean: the mean is ``mean + mean_lo`` to about 106 bits.
    about : {"mean", "zero"}
        What the second moment is about; ``rms_norm`` returns moments about zero, whose mean is 0.

    Raises
    ------
    TypeError
        count is not of integers.
    ValueError
        Shapes differ, a count or a second moment is negative, or `about` is neither "mean" nor
        "zero".

    Notes
    -----
    Merging follows Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for
    Computing Sample Variances", 1979. Another order of merging may change last bits.

    Examples
    --------
    >>> import numpy as np, normc
    >>> x = np.arange(8.0)
    >>> whole = normc.moments(x[:3]) + normc.moments(x[3:])
    >>> whole.count, whole.mean, whole.var(correction=1)
    (array([8]), array([3.5]), array([6.]))
    """

    def __init__(self, count, mean, m2, *, mean_lo=None, about="mean"):
        self.mean = _as_doubles(mean, "mean")
        self.m2 = _as_doubles(m2, "m2")
        self.mean_lo = np.zeros_like(self.mean) if mean_lo is None else _as_doubles(mean_lo,
                                                                                    "mean_lo")
        self.count = np.asarray(count)
        self.about = about
        if self.count.dtype.kind not in "iu":
            raise TypeError(f"count must be of integers, but has dtype {self.count.dtype}")
        self.count = self.count.astype(np.int64, copy=False)
        shapes = {name: getattr(self, name).shape for name in ("count", "mean", "m2", "mean_lo")}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"count, mean, m2 and mean_lo must have one shape, but have {shapes}")
        if about not in ("mean", "zero"):
            raise ValueError(f"about must be 'mean' or 'zero', but got {about!r}")
        if (self.count < 0).any():
            raise ValueError("count must not be negative")
        if (self.m2 < 0).any():
            raise ValueError("m2 must not be negative")

    def __getattr__(self, name):
        """Fields that are still to be taken apart."""
        if name not in _FIELDS or name not in _take_apart(self):
            raise AttributeError(f"Moments has no attribute {name!r}", name=name, obj=self)
        return self.__dict__[name]

    def __getstate__(self):
        return _take_apart(self).copy()

    @property
    def shape(self):
        """The shape of every field."""
        return self.mean.shape

    def var(self, correction=0):
        """Variance m2 / (count - correction); NaN where nothing is left to divide by.

        About zero it is the mean square.
        """
        left = self.count - correction
        return np.divide(self.m2, left, out=np.full(self.shape, np.nan), where=left > 0)

    def std(self, correction=0):
        """Square root of the variance."""
        return np.sqrt(self.var(correction))

    def rstd(self, eps):
        """1 / sqrt(var + eps), and 0 where that is 1 / 0: equal elements deviate by nothing."""
        if not eps >= 0:
            raise ValueError(f"eps must be non-negative, but got {eps}")
        root = np.sqrt(self.var() + eps)
        return np.divide(1.0, root, out=np.zeros(self.shape), where=root != 0)

    def __add__(self, other):
        """Moments of both pieces of data together."""
        return _merge(self, other) if isinstance(other, Moments) else NotImplemented

    @staticmethod
    def merge(pieces):
        """Moments of all pieces of data together.

        Parameters
        ----------
        pieces : iterable of Moments
            At least one; of one shape and kind.

        Returns
        -------
        Moments

        Raises
        ------
        ValueError
            There are none, or their shapes or kinds differ.
        """
        pieces = list(pieces)
        if not pieces:
            raise ValueError("pieces must hold at least one Moments")
        whole = pieces[0]
        for piece in pieces:
            if not isinstance(piece, Moments):
                raise TypeError(f"pieces must hold Moments, not {type(piece).__name__}")
        for piece in pieces[1:]:
            whole = _merge(whole, piece)
        return whole

    def update(self, x, where=None):
        """Takes more data in.

        Parameters
        ----------
        x : array_like
            Has as many axes as the moments. It is averaged over those of which they keep 1.
        where : array_like of bool, optional
            Elements to take; broadcasts to x.

        Returns
        -------
        Moments
            Itself.

        Raises
        ------
        ValueError
            x does not fit the shape of the moments.
        """
        from . import _core

        axes = tuple(i for i, n in enumerate(self.shape) if n == 1)
        if self.about == "mean":
            more = _core.moments(x, axis=axes, where=where)
        else:
            more = _core.rms_norm(x, axis=axes, where=where, return_moments=True)[1]
        self.__dict__.update(_merge(self, more).__dict__)
        return self

    def __eq__(self, other):
        if not isinstance(other, Moments):
            return NotImplemented
        return self.about == other.about and all(
            np.array_equal(getattr(self, name), getattr(other, name), equal_nan=True)
            for name in ("count", "mean", "m2", "mean_lo"))

    __hash__ = None

    def __repr__(self):
        names = ["count", "mean", "m2"] + ["mean_lo"] * bool(self.mean_lo.any())
        with np.printoptions(threshold=64, edgeitems=1):
            fields = [f"{name}={getattr(self, name)!r}" for name in names]
        if self.about != "mean":
            fields.append(f"about={self.about!r}")
        return f"Moments({', '.join(fields)})"


def _as_doubles(values, name):
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise TypeError(f"{name} must be of real numbers, but has dtype {array.dtype}")
    return array.astype(np.float64, copy=False)


def from_core(rows, shape, about):
    """Moments of the core's rows of count, mean in two words, m2; taken apart when asked for."""
    moments = object.__new__(Moments)
    moments._rows = rows, shape
    moments.about = about
    return moments


def _take_apart(moments):
    """Fields in place of rows; another thread may be at it, too, or have set some."""
    fields, held = moments.__dict__, moments.__dict__.get("_rows")
    if held:
        rows, shape = held
        count, mean, lo, m2 = (column.reshape(shape) for column in np.ascontiguousarray(rows.T))
        for name, field in zip(_FIELDS, (count.astype(np.int64), mean, lo, m2)):
            fields.setdefault(name, field)
        fields.pop("_rows", None)
    return fields


_FIELDS = ("count", "mean", "mean_lo", "m2")


_DTYPES = tuple(map(np.dtype, (np.int64, np.float64, np.float64, np.float64)))  # of the fields


def rows_of(moments, about):
    """The core's rows of Moments about the mean or zero, behind the axes of their shape."""
    if not isinstance(moments, Moments):
        raise TypeError(f"moments must be Moments, not {type(moments).__name__}")
    if moments.about != about:
        raise ValueError(f"moments must be about {about}, but are about {moments.about}")
    if moments.__dict__.keys() == {"_rows", "about"}:
        rows, shape = moments.__dict__["_rows"]
        return rows.reshape(*shape, 4)
    fields = moments.count, moments.mean, moments.mean_lo, moments.m2
    if any(type(a) is not np.ndarray or a.dtype != dtype or a.shape != fields[0].shape
           for a, dtype in zip(fields, _DTYPES)):  # checked when made, but anybody's since
        count, mean, lo, m2 = fields
        return rows_of(Moments(count, mean, m2, mean_lo=lo, about=about), about)
    rows = np.empty((*fields[0].shape, 4), np.float64)  # its default loses a reference in NumPy 2.4
    for i, a in enumerate(fields):
        rows[..., i] = a
    return rows


def _two_sum(a, b):
    """a + b, rounded, and what the rounding lost (Knuth)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@np.errstate(all="ignore")
def _merge(a, b):
    if a.about != b.about:
        raise ValueError(f"moments about the {a.about} and about the {b.about} do not merge")
    if a.shape != b.shape:
        raise ValueError(f"moments of shapes {a.shape} and {b.shape} do not merge")
    count = a.count + b.count
    share = b.count / count
    delta, lost = _two_sum(b.mean, -a.mean)
    delta = delta + (lost + (b.mean_lo - a.mean_lo))
    mean, lost = _two_sum(a.mean, delta * share)
    mean, lo = _two_sum(mean, lost + a.mean_lo)
    m2 = a.m2 + b.m2 + delta * delta * (a.count * share)

    def unless_empty(merged, of_a, of_b):
        """Where one side has no elements, the other as it is."""
        return np.where(b.count == 0, of_a, np.where(a.count == 0, of_b, merged))

    return Moments(count, unless_empty(mean, a.mean, b.mean), unless_empty(m2, a.m2, b.m2),
                   mean_lo=unless_empty(lo, a.mean_lo, b.mean_lo), about=a.about)
