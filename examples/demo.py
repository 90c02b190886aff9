"""Normalises two photographs and 1,797 handwritten digits by every norm, in float32.

Each result is checked against normc.reference, within the bound that the README promises; the
table says which elements shared a mean, and demo.png shows what that does to a picture.
"""

import sys
import time
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits, load_sample_images

import normc
from normc import reference

EPS = 1e-5
UNIT = 2.0**-24  # float32 rounds by at most this fraction


class Row(NamedTuple):
    """A norm, its input, the axes whose elements share a mean, and what one writes in NumPy."""

    name: str
    x: np.ndarray
    shares: str
    plain: object
    arguments: dict


def numpy_norm(x, axes):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + EPS)


def numpy_group_norm(x, groups):
    return numpy_norm(x.reshape(*x.shape[:-1], groups, -1), (1, 2, 4)).reshape(x.shape)


def numpy_rms_norm(x):
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + np.finfo(x.dtype).eps)


def numpy_switchable_norm(x, mean_weight, var_weight):
    p, q = (np.exp(w) / np.exp(w).sum() for w in (mean_weight, var_weight))
    kinds = [(1, 2), (1, 2, 3), (0, 1, 2)]
    mean = sum(share * x.mean(axes, keepdims=True) for share, axes in zip(p, kinds))
    var = sum(share * x.var(axes, keepdims=True) for share, axes in zip(q, kinds))
    return (x - mean) / np.sqrt(var + EPS)


def numpy_local_response_norm(x, size):
    beside = (size // 2, (size - 1) // 2)
    squares = np.pad(np.square(x), [(0, 0)] * 3 + [beside])
    window = sum(squares[..., i : i + x.shape[-1]] for i in range(size))
    return x / (1 + np.float32(1e-4 / size) * window) ** np.float32(0.75)


def inputs():
    """Photographs (N, H, W, C), the same in patches of 4 x 4 pixels, and digits (N, C)."""
    photographs = np.stack(load_sample_images().images).astype(np.float32)
    n, h, w, c = photographs.shape
    tiles = photographs[:, : h // 4 * 4].reshape(n, h // 4, 4, w // 4, 4, c)
    patches = tiles.transpose(0, 1, 3, 2, 4, 5).reshape(n, h // 4, w // 4, 16 * c)
    return photographs, patches, load_digits().data.astype(np.float32)


def table(photographs, patches, digits):
    logits = np.array([0.5, 0.0, -0.5], np.float32)
    blend = {"mean_weight": logits, "var_weight": logits}
    last, training = {"axis": -1}, {"training": True}
    return [
        Row("batch_norm", photographs, "N H W", lambda x: numpy_norm(x, (0, 1, 2)),
            training | last),
        Row("instance_norm", photographs, "H W", lambda x: numpy_norm(x, (1, 2)), last),
        Row("layer_norm", photographs, "H W C", lambda x: numpy_norm(x, (1, 2, 3)),
            {"axis": (1, 2, 3)}),
        Row("layer_norm", photographs, "C", lambda x: numpy_norm(x, (3,)), last),
        Row("switchable_norm", photographs, "blend",
            lambda x: numpy_switchable_norm(x, logits, logits), blend | training | last),
        Row("standardize", photographs, "N H W C", lambda x: numpy_norm(x, None), {"eps": EPS}),
        Row("group_norm", patches, "H W C/6", lambda x: numpy_group_norm(x, 6),
            {"num_groups": 6} | last),
        Row("local_response_norm", patches, "5 of C", lambda x: numpy_local_response_norm(x, 5),
            {"size": 5} | last),
        Row("batch_norm", digits, "N", lambda x: numpy_norm(x, (0,)), training),
        Row("layer_norm", digits, "C", lambda x: numpy_norm(x, (1,)), {}),
        Row("rms_norm", digits, "C", numpy_rms_norm, {}),
    ]


def compare(row):
    """normc's result, its largest error in ulps, and the largest as a fraction of the bound."""
    y = getattr(normc, row.name)(row.x, **row.arguments)
    formula = getattr(reference, row.name)
    if row.name == "local_response_norm":
        exact = formula(row.x, **row.arguments)
        bound = (row.arguments["size"] + 6) * UNIT * np.abs(exact)
    else:
        exact, moments = formula(row.x, **row.arguments, return_moments=True)
        offset = np.abs(moments.mean * moments.rstd(row.arguments.get("eps", EPS))).max()
        bound = 6 * UNIT * np.abs(exact) + 2.0**-42 + 2.0**-46 * offset
    error = np.abs(y - exact)
    ulp = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    share = np.divide(error, bound, out=np.zeros(error.shape), where=error > 0)
    return y, float((error / ulp).max()), float(share.max())


def best(f, *args, **kwargs):
    """Seconds of the fastest of five calls."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        f(*args, **kwargs)
        times.append(time.perf_counter() - start)
    return min(times)


def brighten(y):
    """Three standard deviations to either side fill the range of a screen."""
    return np.clip(0.5 + y / 6, 0, 1)


def draw(results, digits, path):
    """Before and after: the photographs, the statistics of their colours, some digits."""
    chosen = [(row, y) for row, y in results if row.x.shape[-1] == 3][:4]
    before = chosen[0][0].x
    columns = [("before", "", before / 255, before)]
    columns += [(r.name, f"mean over {r.shares}", brighten(y), y) for r, y in chosen]
    figure = Figure(figsize=(15, 8.5), facecolor="white", dpi=100)
    parts = figure.add_gridspec(2, 1, height_ratios=[3.6, 1], left=0.025, right=0.985, top=0.925,
                                bottom=0.02, hspace=0.2)
    grid = parts[0].subgridspec(3, 5, height_ratios=[1, 1, 0.6], hspace=0.07, wspace=0.05)
    for i, (name, shares, picture, values) in enumerate(columns):
        for n in range(2):
            axes = figure.add_subplot(grid[n, i])
            axes.imshow(picture[n], interpolation="antialiased")
            axes.set_axis_off()
            if n == 0:
                axes.set_title(name, fontweight="bold", fontsize=13, pad=20)
                axes.text(0.5, 1.03, shares, transform=axes.transAxes, ha="center", color="0.35")
        statistics(figure.add_subplot(grid[2, i]), values, standard=i > 0)
    strips(figure, parts[1], results, digits)
    figure.text(0.025, 0.228, "Bars: mean and one standard deviation of red, green and blue, the "
                "pagoda's above the flower's. After a norm, grey is 0 and ±3 fill the range.",
                color="0.35", fontsize=10)
    figure.savefig(path)


def statistics(axes, values, standard):
    """Mean and one standard deviation to either side, of red, green and blue of each photograph."""
    for n in range(2):
        for channel, colour in enumerate(["#c8443c", "#4f9d4f", "#3f78b5"]):
            v, height = values[n, ..., channel], -4 * n - channel
            mean, std = v.mean(dtype=np.float64), v.std(dtype=np.float64)
            axes.plot([mean - std, mean + std], [height, height], color=colour, linewidth=5,
                      solid_capstyle="butt", alpha=0.55)
            axes.plot(mean, height, "o", color=colour, markersize=7)
    span, ticks = ((-2.2, 2.2), [-1, 0, 1]) if standard else ((-45, 265), [0, 128, 255])
    axes.set(xlim=span, ylim=(-7, 1), xticks=ticks, yticks=[])
    axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def strips(figure, place, results, digits):
    after = [(row, y) for row, y in results if row.x is digits]
    strip = [("before", digits / 16)]
    strip += [(f"{r.name}, mean over {r.shares}", brighten(y)) for r, y in after]
    grid = place.subgridspec(len(strip) // 2, 2, hspace=0.45, wspace=0.03)
    for i, (title, values) in enumerate(strip):
        axes = figure.add_subplot(grid[i // 2, i % 2])
        tiles = np.pad(values[:14].reshape(-1, 8, 8), [(0, 0), (0, 0), (0, 1)],
                       constant_values=np.nan)
        axes.imshow(np.hstack(list(tiles)), cmap="gray", vmin=0, vmax=1)
        axes.set_title(title, fontsize=11, loc="left", pad=4)
        axes.set_axis_off()


def main():
    photographs, patches, digits = inputs()
    rows, results, kept = table(photographs, patches, digits), [], True
    print(f"normc {normc.__version__}, float32, every result against normc.reference\n")
    header = ("norm", "shape", "mean over", "max error", "of bound", "time", "x NumPy")
    print("{:<20} {:<18} {:<12} {:>10} {:>9} {:>10} {:>8}".format(*header))
    print("-" * 93)
    for row in rows:
        y, ulps, share = compare(row)
        ours = best(getattr(normc, row.name), row.x, **row.arguments)
        theirs = best(row.plain, row.x)
        shape = str(row.x.shape).replace(" ", "")
        print(f"{row.name:<20} {shape:<18} {row.shares:<12} {ulps:>6.2f} ulp {share:>9.2f} "
              f"{ours * 1e3:>7.2f} ms {theirs / ours:>7.1f}x{'  OUTSIDE' if share > 1 else ''}")
        results.append((row, y))
        kept &= share <= 1
    draw(results, digits, "demo.png")
    print("\n(N, H, W, C): photographs, the same in patches of 4 x 4 pixels; (N, C): digits."
          "\nof bound: the largest error, as a fraction of what the README promises."
          "\nx NumPy: how many times as fast as the formula in float32 NumPy."
          "\nwritten: demo.png")
    return 0 if kept else "a result is outside its bound"


if __name__ == "__main__":
    sys.exit(main())
