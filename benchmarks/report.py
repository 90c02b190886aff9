"""What was measured, as a table, as JSON, as pictures, and beside an earlier run."""

import json
from pathlib import Path

from rich.table import Table

OURS = ("normc", "fresh")
PEERS = ("numpy", "torch", "compiled", "onnxruntime", "onednn", "jax")
WARM = ("onednn",)  # they write into existing arrays
LIMIT = 1.15  # of a ratio to the copy in the same run, beyond which it is a regression


def ours(result):
    """Into an existing array, where there is such a call."""
    return result["normc" if "normc" in result else "fresh"]


def ratios(result):
    """Peer -> its time over normc's, called as it is: into an existing array, or for a new one."""
    return {name: result[name]["min"] / (ours(result) if name in WARM else result["fresh"])["min"]
            for name in PEERS if name in result}


def number(value):
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def columns(results):
    some = ["alone"] * any("alone" in result for _, result in results)
    return ["copy", "out=", "fresh", *some, *PEERS, "of copy", "x best", *(["x alone"] * len(some)),
            "error"]


def row(result):
    """Column -> cell."""
    fresh, there = result["fresh"]["min"], ratios(result)
    cells = {name: number(r["min"]) for name, r in result.items() if isinstance(r, dict)}
    cells["out="] = cells.pop("normc", "")
    cells["of copy"] = f"{result['copy']['min'] / ours(result)['min']:.2f}"
    cells["x best"] = f"{min(there.values()):.2f}" if there else ""
    cells["x alone"] = f"{result['alone']['min'] / fresh:.2f}" if "alone" in result else ""
    cells["error"] = f"{max(result[n]['error'] for n in OURS if n in result):.2f}"
    return cells


def table(results):
    """For the terminal; results: (case, result) of each."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("microseconds, minimum", no_wrap=True)
    for name in columns(results):
        shown.add_column(name, justify="right", no_wrap=True)
    for case, result in results:
        cells = row(result)
        for name in ("x best", "x alone"):
            if cells[name] and float(cells[name]) < 1:
                cells[name] = f"[red]{cells[name]}[/red]"
        shown.add_row(f"{case.label} [dim]{case.network}[/dim]",
                      *(cells.get(name, "") for name in columns(results)))
    return shown


def markdown(results):
    names = columns(results)
    lines = ["| | network | " + " | ".join(names) + " |", "|---|---|" + "---:|" * len(names)]
    for case, result in results:
        cells = [row(result).get(name, "") for name in names]
        lines.append(f"| {case.label} | {case.network} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(path, results, about):
    data = {"about": about, "results": {case.key: result for case, result in results}}
    Path(path).write_text(json.dumps(data, indent=1) + "\n")


def compare(path, results):
    """Lines on the cases that are slower than in that file, measured by the copy beside each."""
    old, lines = json.loads(Path(path).read_text())["results"], []
    for case, result in results:
        before = old.get(case.key)
        for name in OURS:
            if before and name in before and name in result:
                was, now = (r[name]["min"] / r["copy"]["min"] for r in (before, result))
                if now > was * LIMIT:
                    lines.append(f"{case.label}, {name}: {was:.2f} -> {now:.2f} copies")
    return lines


# ---- pictures ------------------------------------------------------------------------------------

COLOURS = {"copy": "#999999", "normc": "#D55E00", "fresh": "#D55E00", "numpy": "#E69F00",
           "torch": "#0072B2", "compiled": "#56B4E9", "onnxruntime": "#009E73",
           "onednn": "#CC79A7", "jax": "#882255"}


def _figure(*size):
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def picture_of_peers(path, results, title):
    """Each peer's time over normc's: who is left of 1 is faster."""
    figure, axes = _figure(11, 0.27 * len(results) + 1.6)
    for y, (case, result) in enumerate(results):
        time = result["fresh"]["min"]
        axes.plot([0.3, 300], [y, y], color="#eeeeee", lw=0.8, zorder=0)
        for name, ratio in ratios(result).items():
            axes.plot(ratio, y, "o", color=COLOURS[name], ms=6)
        axes.plot(result["copy"]["min"] / time, y, "|", color="#555555", ms=11, mew=2)
    axes.axvline(1, color=COLOURS["normc"], lw=2, zorder=1)
    for name in PEERS:
        axes.plot([], [], "o", color=COLOURS[name], label=name)
    axes.plot([], [], "|", color="#555555", ms=11, mew=2, label="a copy of x")
    axes.set(xscale="log", xlim=(0.1, 300), ylim=(len(results) - 0.4, -0.6),
             xlabel="time / normc's time")
    axes.set_yticks(range(len(results)), [case.label for case, _ in results], fontsize=8)
    axes.set_xticks([0.1, 0.3, 1, 3, 10, 30, 100], ["0.1", "0.3", "1", "3", "10", "30", "100"])
    axes.tick_params(left=False)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    axes.set_title(title, fontsize=11)
    figure.savefig(path)


def picture_of_growth(path, results, title):
    """Gigabytes of x and y a second, by size."""
    figure, axes = _figure(9, 5)
    names = ["copy", *OURS, "numpy", "torch", "onnxruntime", "onednn", "jax"]
    for name in names:
        points = [(r["bytes"], 2e-3 * r["bytes"] / r[name]["min"]) for _, r in results if name in r]
        if points:
            style = {"color": COLOURS[name], "lw": 2.5 if name in ("copy", *OURS) else 1.3,
                     "ls": "--" if name == "fresh" else ":" if name == "copy" else "-"}
            label = {"normc": "normc, out=", "fresh": "normc, new array"}.get(name, name)
            axes.plot(*zip(*points), label=label, **style)
    axes.set(xscale="log", yscale="log", xlabel="bytes of x", ylabel="GB/s, x and y")
    ticks = {4e3: "4 KB", 64e3: "64 KB", 1e6: "1 MB", 16e6: "16 MB", 256e6: "256 MB", 1e9: "1 GB"}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    axes.set_title(title, fontsize=11)
    figure.savefig(path)
