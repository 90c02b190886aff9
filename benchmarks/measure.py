"""One case: its check, its contenders, their times."""

import time

import numpy as np

from . import check, peers
from .cases import draw


def run(case, budget):
    """(name -> seconds of each round, name -> error), or None where the dtype is missing.

    The contenders are those of `peers`, and "copy": the limit, the same bytes from one warm array
    to another.
    """
    data = draw(case)
    if data is None:
        return None
    entries = peers.calls(case, data)
    errors = {name: check.error(case, data, array(call()))
              for name, (call, array) in entries.items()}
    out = data.x.copy()
    calls = {"copy": lambda: np.copyto(out, data.x)}
    calls |= {name: call for name, (call, _) in entries.items()}
    return compete(calls, budget), errors


def seconds(call, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def compete(calls, budget):
    """name -> seconds of each round. Rounds take turns, so that all share the machine's moods."""
    repeats = {name: max(1, int(2e-4 / max(seconds(call, 2), 1e-9)))
               for name, call in calls.items()}
    once = sum(seconds(call, 1) * repeats[name] for name, call in calls.items())
    rounds = min(max(int(budget / once), 5), 2000)
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call, repeats[name]))
    return times
