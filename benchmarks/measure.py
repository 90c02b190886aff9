"""One case: its check, its contenders, their times."""

import random
import statistics
import time
from contextlib import nullcontext

import numpy as np

import normc

from . import check, peers
from .cases import draw


PAUSE = 0.005  # seconds: OpenMP's threads look for work longer than others
WARM = 3  # calls, after it: who wakes threads when a second call follows has them by the third
WITHIN = {"alone": lambda: normc.threads(1)}


def run(case, budget, without=(), threads=1):
    """name -> {"min", "median": microseconds, "error"}, or None where the dtype is missing.

    The contenders are those of `peers`, and "copy": the limit, the same bytes from one warm array
    to another.
    """
    data = draw(case)
    if data is None:
        return None
    entries = {name: entry for name, entry in peers.calls(case, data).items()
               if name not in without}
    errors = {name: check.error(case, data, array(call()))
              for name, (call, array) in entries.items()}
    out = data.x.copy()
    calls = {"copy": lambda: np.copyto(out, data.x)}
    calls |= {name: call for name, (call, _) in entries.items()}
    return {name: {"min": min(t) * 1e6, "median": statistics.median(t) * 1e6,
                   "error": errors.get(name)}
            for name, t in compete(calls, budget, PAUSE * (threads > 1), WITHIN).items()}


def seconds(call, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def compete(calls, budget, pause=0, within={}):
    """name -> seconds of each round. Rounds take turns, so that all share the machine's moods, in
    random order, so that nobody always follows the same one, whose data are in the caches and whose
    threads may still be busy, nor itself; who takes most of the time is left out after a few
    rounds, for the others to have more. Before each there is a pause, for threads that wait for
    another call of theirs to fall asleep, and then some calls that are not timed. within: name ->
    what makes the context of a round."""
    once = {name: seconds(call, 2) for name, call in calls.items()}
    stretch = 1e-3 if pause else 2e-4
    repeats = {name: max(1, int(stretch / max(t, 1e-9))) for name, t in once.items()}
    times = {name: [] for name in calls}
    spent, least = dict.fromkeys(calls, 0.0), 5
    order, last, shuffle = list(calls), None, random.Random(0).shuffle
    end = time.perf_counter() + budget
    while time.perf_counter() < end or min(map(len, times.values())) < least:
        shuffle(order)
        if order[0] == last:
            order.reverse()
        last = order[-1]
        for name in order:
            call = calls[name]
            if len(times[name]) < least or spent[name] <= budget / 4:
                with within.get(name, nullcontext)():
                    if pause:
                        time.sleep(pause)
                        seconds(call, WARM)
                    times[name].append(seconds(call, repeats[name]))
                spent[name] += times[name][-1] * (repeats[name] + WARM * bool(pause))
        if all(s > budget / 4 for s in spent.values()):
            break
    return times
