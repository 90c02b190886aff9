"""Times norms beside their peers, after a check of every result."""

import argparse
import os

early = argparse.ArgumentParser(add_help=False)
early.add_argument("--threads", type=int, default=1, help="of every contender (default 1)")
THREADS = early.parse_known_args()[0].threads
for name in ("NORMC", "OMP", "OPENBLAS", "MKL"):  # which they read when they are imported
    os.environ[f"{name}_NUM_THREADS"] = str(THREADS)

import platform
import sys
import warnings
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import normc

from . import cases, measure, peers, report

HERE = Path(__file__).parent


def arguments():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__,
                                     parents=[early])
    parser.add_argument("names", nargs="*", help="cases whose label or network contains one of "
                        "these; `growth`: rows of 1,024 from 4 KB to 1 GB")
    parser.add_argument("--seconds", type=float, default=2, help="for each case (default 2)")
    parser.add_argument("--without", default="", metavar="PEERS",
                        help=f"leave out some of {','.join(report.PEERS)}")
    parser.add_argument("--json", metavar="FILE", help="write what was measured")
    parser.add_argument("--markdown", metavar="FILE", help="write the table")
    parser.add_argument("--pictures", metavar="DIR", help="write peers.png and growth.png")
    parser.add_argument("--compare", metavar="OLD.json",
                        help="end with an error if a case got slower than it was there")
    return parser.parse_args()


def chosen(names):
    """(cases, cases of growth)."""
    if not names:
        return cases.CASES, cases.growth()
    some = [c for c in cases.CASES if any(n in f"{c.label} {c.network}" for n in names)]
    return some, cases.growth() if "growth" in names else []


def machine():
    """What the times are of."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.split(":")[1].strip() for line in info.read_text().splitlines()
                  if line.startswith("model name")]
        model = models[0] if models else model
    config = normc.show_config(mode="dict")
    return {"cpu": model, "cores": os.cpu_count(), "used": config["cpu"]["used"],
            "compiler": config["compiler"], "python": platform.python_version(),
            **peers.versions(), "threads": THREADS}


def run_all(several, options, console):
    """(case, result) of each that can run."""
    results, without = [], options.without.split(",")
    columns = (TextColumn("{task.description:<58}"), BarColumn(bar_width=30),
               MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(several))
        for case in several:
            progress.update(task, description=case.label)
            result = measure.run(case, options.seconds, without, THREADS)
            if result is None:
                console.print(f"{case.label} needs ml_dtypes")
            else:
                result["bytes"] = case.bytes
                results.append((case, result))
            progress.advance(task)
    return results


def main():
    options = arguments()
    warnings.simplefilter("ignore")
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    about = machine()
    some, grown = chosen(options.names)
    if not some and not grown:
        sys.exit("no such case; there are: " + ", ".join(c.label for c in cases.CASES))
    console.print(", ".join(f"{key} {value}" for key, value in about.items()) + "\n")
    results = run_all(some, options, console)
    growth = run_all(grown, options, console)
    for part in filter(None, (results, growth)):
        console.print(report.table(part))
        console.print()
    if options.json:
        report.write(options.json, results + growth, about)
    if options.markdown:
        parts = filter(None, (results, growth))
        Path(options.markdown).write_text("\n".join(map(report.markdown, parts)))
    if options.pictures:
        title = f"{THREADS} thread{'s' * (THREADS > 1)}, {about['cpu']}"
        if results:
            report.picture_of_peers(Path(options.pictures, "peers.png"), results, title)
        if growth:
            report.picture_of_growth(Path(options.pictures, "growth.png"), growth,
                                     f"layer_norm of rows of 1,024, float32, {title}")
    bad = [f"{case.label} is outside its bound" for case, result in results + growth
           if not max(result[n]["error"] for n in report.OURS if n in result) <= 1]
    if options.compare:
        bad += report.compare(options.compare, results + growth)
    if bad:
        sys.exit("\n".join(bad))


if __name__ == "__main__":
    main()
