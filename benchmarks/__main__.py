"""Times norms beside their peers, after a check of every result."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import statistics
import sys

from . import measure, peers
from .cases import CASES

COLUMNS = ("copy", "normc", "fresh", "numpy", "torch")


def arguments():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="cases whose label contains one of these")
    parser.add_argument("--seconds", type=float, default=3, help="for each case (default 3)")
    parser.add_argument("--json", metavar="FILE", help="write every minimum and median")
    return parser.parse_args()


def microseconds(times):
    """Minimum and median."""
    return {name: (min(t) * 1e6, statistics.median(t) * 1e6) for name, t in times.items()}


def shown(pair):
    def number(v):
        return f"{v:.2f}" if v < 10 else f"{v:.1f}" if v < 100 else f"{v:.0f}"

    return f"{number(pair[0])} {'(' + number(pair[1]) + ')':>9}" if pair else "-"


def ratio(result, peer, ours):
    return f"{result[peer][0] / result[ours][0]:.2f}" if peer in result else "-"


def line(label, result, error):
    ours = "normc" if "normc" in result else "fresh"
    cells = "".join(f"{shown(result.get(name)):>18}" for name in COLUMNS)
    return (f"{label:<48}{cells}{ratio(result, 'copy', ours):>8}"
            f"{ratio(result, 'numpy', 'fresh'):>9}{ratio(result, 'torch', 'fresh'):>9}"
            f"{error:>8.2f}")


def main():
    options = arguments()
    chosen = [c for c in CASES
              if not options.names or any(name in c.label for name in options.names)]
    if not chosen:
        sys.exit("no such case; there are: " + ", ".join(c.label for c in CASES))
    named = ", ".join(f"{name} {version}" for name, version in peers.versions().items())
    print(f"{named}; one thread, microseconds: minimum (median)\n")
    print(f"{'':<48}" + "".join(f"{name:>8}{'':>10}" for name in COLUMNS)
          + f"{'of copy':>8}{'x numpy':>9}{'x torch':>9}{'error':>8}")
    results, wrong = {}, []
    for case in chosen:
        measured = measure.run(case, options.seconds)
        if measured is None:
            print(f"{case.label:<48} needs ml_dtypes")
            continue
        times, errors = measured
        error = max(errors[name] for name in ("normc", "fresh") if name in errors)
        if not error <= 1:
            wrong.append(case.label)
        result = microseconds(times)
        print(line(case.label, result, error), flush=True)
        results[case.label] = {name: dict(zip(("min", "median"), pair), error=errors.get(name))
                               for name, pair in result.items()}
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)
    if wrong:
        sys.exit("outside the bound: " + ", ".join(wrong))


if __name__ == "__main__":
    main()
