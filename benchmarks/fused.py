"""Times ReLU and residuals in the pass of a norm, beside the separate calls.

python -m benchmarks.fused [--seconds 3]: microseconds a call, the least of rounds that take turns;
one thread, results in warm arrays.
"""

import argparse

import numpy as np

import normc

from .cases import Case, draw
from .measure import compete

RELU = [
    Case("layer_norm", (128, 768), "BERT, one sequence", axis=-1),
    *(Case("layer_norm", (4096, 768), "BERT", dtype, -1)
      for dtype in ("float32", "float16", "bfloat16")),
    Case("layer_norm", (32, 96, 56, 56), "ConvNeXt, channels-first"),
    Case("batch_norm", (32, 64, 56, 56), "ResNet-50"),
    Case("batch_norm", (32, 64, 56, 56), "ResNet-50", training=False),
    Case("batch_norm", (32, 56, 56, 64), "ResNet-50", axis=-1),
    Case("group_norm", (32, 64, 56, 56), "ResNet-50", num_groups=32),
]
RESIDUAL = [
    *(Case("layer_norm", (4096, 768), "BERT", dtype, -1)
      for dtype in ("float32", "float16", "bfloat16")),
    Case("layer_norm", (16384, 1024), "GPT-2 medium", axis=-1),
    Case("rms_norm", (4096, 4096), "Llama", axis=-1),
]


def norm_of(case, data):
    """A function of x and keywords."""
    function = getattr(normc, case.norm)
    more = {"axis": case.axis, "weight": data.weight}
    more |= {"bias": data.bias} if case.has_bias else {}
    if case.norm == "group_norm":
        more["num_groups"] = case.num_groups
    if case.norm == "batch_norm":
        more["training"] = case.training
        more |= {} if case.training else {"running_mean": data.mean, "running_var": data.var}
    return lambda x, **k: function(x, **more, **k)


def with_relu(case, data):
    norm, x, y = norm_of(case, data), data.x, np.empty_like(data.x)
    return {"alone": lambda: norm(x, out=y), "fused": lambda: norm(x, out=y, activation="relu"),
            "separate": lambda: normc.relu(norm(x, out=y), out=y)}


def with_residual(case, data):
    """`alone` is two copies of x, for two arrays are read and two written."""
    norm, x, y = norm_of(case, data), data.x, np.empty_like(data.x)
    residual, total = x[::-1].copy(), np.empty_like(x)
    return {"alone": lambda: (np.copyto(y, x), np.copyto(total, residual)),
            "fused": lambda: norm(x, residual=residual, out=y),
            "separate": lambda: norm(np.add(x, residual), out=y)}


def table(cases, contenders, seconds, alone):
    print(f"| | {alone} | fused | separate calls | fused / {alone} | separate / fused |")
    print("|---|---:|---:|---:|---:|---:|")
    for case in cases:
        data = draw(case)
        if data is not None:
            times = compete(contenders(case, data), seconds)
            a, f, s = (min(times[name]) * 1e6 for name in ("alone", "fused", "separate"))
            print(f"| {case.label} | {a:,.0f} | {f:,.0f} | {s:,.0f} | {f / a:.2f} | {s / f:.2f} |")


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fused", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3, help="for each case (default 3)")
    seconds = parser.parse_args().seconds
    normc.set_num_threads(1)
    table(RELU, with_relu, seconds, "norm alone")
    print()
    table(RESIDUAL, with_residual, seconds, "two copies")


if __name__ == "__main__":
    main()
