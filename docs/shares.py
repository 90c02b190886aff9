"""Draws shares.png: which elements of one (3, 4, 2, 2) array share a mean, norm by norm.

    python docs/shares.py

The groups are read off the moments that normc returns, so the picture shows what it computes.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import normc

X = np.array("""1 1 1 1  0 1 1 0  0 0 0 1  1 1 0 0
                2 2 0 0  2 0 1 1  1 0 0 2  2 1 1 0
                3 1 2 2  3 0 0 2  2 3 1 2  3 3 2 1""".split(), dtype=float).reshape(3, 4, 2, 2)

NORMS = [
    ("BatchNorm2d(4)", lambda x: normc.batch_norm(x, training=True, return_moments=True)),
    ("LayerNorm([4, 2, 2])", lambda x: normc.layer_norm(x, (4, 2, 2), return_moments=True)),
    ("GroupNorm(2, 4)", lambda x: normc.group_norm(x, 2, return_moments=True)),
    ("InstanceNorm2d(4), LayerNorm([2, 2])",
     lambda x: normc.instance_norm(x, return_moments=True)),
    ("LayerNorm(2)", lambda x: normc.layer_norm(x, 2, return_moments=True)),
    ("LayerNorm(4, axis=1)", lambda x: normc.layer_norm(x, axis=1, return_moments=True)),
]
FIRST, OTHERS = "#D55E00", ["#CFE3F1", "#E9EEF2", "#D5EDE2", "#F3E6CF", "#E6DDF0"]
GAP, SIDE = 0.55, 2  # between planes, and of one


def groups(moments, shape):
    """The number of its group for every element."""
    numbers = np.arange(moments.count.size).reshape(moments.shape)
    for axis, (few, many) in enumerate(zip(moments.shape, shape)):
        numbers = np.repeat(numbers, many // few, axis)
    return numbers


def draw(axes, title, norm):
    _, moments = norm(X)
    number = groups(moments, X.shape)
    for n, c, h, w in np.ndindex(X.shape):
        left, top = c * (SIDE + GAP) + w, n * (SIDE + GAP) + h
        first = number[n, c, h, w] == 0
        colour = FIRST if first else OTHERS[number[n, c, h, w] % len(OTHERS)]
        axes.add_patch(Rectangle((left, top), 1, 1, facecolor=colour, edgecolor="white", lw=1))
        axes.text(left + 0.5, top + 0.54, f"{X[n, c, h, w]:.0f}", ha="center", va="center",
                  color="white" if first else "#333333", size=9,
                  weight="bold" if first else "normal")
    n, c = X.shape[:2]
    for i in range(n):
        axes.text(-0.35, i * (SIDE + GAP) + 1, f"n={i}", ha="right", va="center", size=8)
    for i in range(c):
        axes.text(i * (SIDE + GAP) + 1, -0.3, f"c={i}", ha="center", va="bottom", size=8)
    count = int(moments.count.flat[0])
    axes.set_title(f"{title}\n{moments.count.size} means, each of {count} numbers", size=10, pad=14)
    axes.set(xlim=(-1.5, c * (SIDE + GAP)), ylim=(n * (SIDE + GAP) - GAP + 0.1, -0.9),
             aspect="equal")
    axes.axis("off")


def main():
    figure = Figure(figsize=(10, 6.6), dpi=110, layout="constrained")
    for axes, (title, norm) in zip(figure.subplots(2, 3).flat, NORMS):
        draw(axes, title, norm)
    figure.suptitle("Which numbers share a mean with the first one, n=0, c=0, top left; "
                    "other groups by tint", size=11)
    path = Path(__file__).with_name("shares.png")
    figure.savefig(path)
    print(f"{path.name} written")


if __name__ == "__main__":
    main()
