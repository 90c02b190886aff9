"""Times calls on a few elements, beside NumPy's and torch's: what a call costs, whatever it is of.

python -m benchmarks.calls [--seconds 5]: nanoseconds a call, the least of many rounds.
"""

import argparse
import timeit
from contextlib import suppress

import numpy as np

import normc

REPEATS = 2000

CALLS = """
np.empty_like(x)
np.add(x, x)
np.add(x, x, out=y)
layer_norm(x, 10, w, b)
layer_norm(x, 10, weight=w, bias=b)
layer_norm(x, 10, w, b, eps=1e-5)
layer_norm(x, 10, w, b, out=y)
rms_norm(x, 10, w)
relu(x)
moments(x, 1)
batch_norm(z, training=True)
layer_norm_backward(x, x, 10, w)
batch_norm_layer(z)
layer_norm_layer(x)
layer_norm_training(x)
torch_layer_norm(tx, (10,), tw, tb)
torch_relu(tx)
torch_batch_norm_layer(tz)
""".split("\n")[1:-1]


def contenders():
    """What the calls name."""
    x, z = np.random.default_rng(1).normal(size=(2, 240)).astype(np.float32)
    x, z = x[:80].reshape(8, 10), z[:48].reshape(3, 4, 2, 2)
    w, b = np.ones(10, np.float32), np.zeros(10, np.float32)
    names = {name: getattr(normc, name)
             for name in ("layer_norm", "rms_norm", "relu", "moments", "batch_norm",
                          "layer_norm_backward")}
    names |= {"np": np, "x": x, "y": np.empty_like(x), "z": z, "w": w, "b": b,
              "batch_norm_layer": normc.BatchNorm(4).eval(),
              "layer_norm_layer": normc.LayerNorm(10).eval(),
              "layer_norm_training": normc.LayerNorm(10)}
    with suppress(ImportError):
        names |= of_torch(x, z, w, b)
    return names


def of_torch(x, z, w, b):
    """The same on one thread, without gradients."""
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    return {"torch_layer_norm": torch.nn.functional.layer_norm, "torch_relu": torch.relu,
            "torch_batch_norm_layer": torch.nn.BatchNorm2d(4).eval(),
            "tx": torch.from_numpy(x), "tz": torch.from_numpy(z), "tw": torch.from_numpy(w),
            "tb": torch.from_numpy(b)}


def least(calls, names, seconds):
    """call -> nanoseconds. Rounds take turns, so that all share the machine's moods."""
    timers = {call: timeit.Timer(call, globals=names) for call in calls}
    times = dict.fromkeys(calls, np.inf)
    end = timeit.default_timer() + seconds
    while timeit.default_timer() < end or np.inf in times.values():
        for call, timer in timers.items():
            times[call] = min(times[call], timer.timeit(REPEATS) / REPEATS * 1e9)
    return times


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calls", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="in all (default 5)")
    names = contenders()
    calls = [call for call in CALLS if call.split("(")[0].split(".")[0] in names]
    for call, ns in least(calls, names, parser.parse_args().seconds).items():
        print(f"{call:38}{ns:8,.0f} ns")


if __name__ == "__main__":
    main()
