"""What importing costs and brings along, and what the environment decides."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import zoo

import normc


def run(code, *options, **environment):
    environment = {**{k: v for k, v in os.environ.items() if k != "NORMC_CPU"}, **environment}
    done = subprocess.run([sys.executable, *options, "-c", code], env=environment, text=True,
                          capture_output=True, cwd=os.path.dirname(os.path.dirname(normc.__file__)))
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.skipif(np.__version__ < "2" or "NORMC_SANITIZE" in os.environ,
                    reason="normc is built with NumPy 2, and here without sanitizers")
def test_fast_math_in_the_environment_changes_no_other_code(tmp_path):
    """Linked with it, gcc would have the whole process flush subnormals to zero."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    subprocess.run([sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", tmp_path,
                    "--build-temp", tmp_path / "objects"], cwd=root, check=True, timeout=300,
                   env={**os.environ, "CFLAGS": "-Ofast -funsafe-math-optimizations"})
    core, = (tmp_path / "normc").glob("_core*")
    code = f"import ctypes, numpy; ctypes.CDLL({str(core)!r}); print(numpy.array([1e-310]) / 2)"
    assert "5.e-311" in run(code).stdout


TIMED = """
import time, numpy
t = time.perf_counter()
import normc
print(time.perf_counter() - t)
"""


@pytest.mark.skipif("NORMC_SANITIZE" in os.environ, reason="the promise is of the plain build")
def test_import_takes_30_ms_at_most(tmp_path):
    """With compiled modules at hand, as installers leave them."""
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    assert min(float(run(TIMED, **compiled).stdout) for _ in range(7)) <= 0.030


def test_import_brings_numpy_alone():
    code = """
import sys, numpy
before = set(sys.modules)
import normc
new = {m.split(".")[0] for m in set(sys.modules) - before} - {"numpy"}
print(*sorted(new - set(sys.stdlib_module_names)))
print("normc.reference" in sys.modules)
"""
    assert run(code).stdout.split() == ["normc", "False"]


def test_reference_comes_when_it_is_asked_for():
    code = "import normc; print(normc.reference.layer_norm([1.0, 3.0], eps=0))"
    assert run(code).stdout.strip() == "[-1.  1.]"


@pytest.mark.parametrize("level", zoo.CPU_LEVELS)
def test_environment_lowers_the_cpu(level):
    code = "import json, normc; print(json.dumps(normc.show_config(mode='dict')))"
    plain = json.loads(run(code).stdout)["cpu"]
    lowered = run(code, NORMC_CPU=level)
    cpu = json.loads(lowered.stdout)["cpu"]
    known = cpu["known"]
    assert cpu["used"] == known[min(known.index(level), known.index(plain["found"]))]
    assert plain["used"] == plain["found"] == cpu["found"]
    assert lowered.stderr == ""


def test_unknown_cpu_warns_and_is_ignored():
    code = "import normc; print(normc.show_config(mode='dict')['cpu']['used'])"
    plain = run(code)
    done = run(code, NORMC_CPU="sse9000")
    assert done.stdout == plain.stdout
    assert "RuntimeWarning" in done.stderr and "sse9000" in done.stderr
    for level in zoo.CPU_LEVELS:
        assert level in done.stderr
    assert run(code, NORMC_CPU="").stderr == ""


def test_results_do_not_depend_on_the_environment():
    code = """
import numpy as np, normc, zlib
x = np.random.default_rng(1).normal(size=(5, 6, 70)).astype(np.float32) + 3
print([zlib.crc32(f.tobytes()) for f in (normc.layer_norm(x), normc.group_norm(x, 2),
      normc.batch_norm(x, training=True), normc.local_response_norm(x, 5))])
"""
    assert len({run(code, NORMC_CPU=level).stdout for level in zoo.CPU_LEVELS}) == 1


def test_show_config(capsys):
    assert normc.show_config() is None
    printed = capsys.readouterr().out
    config = normc.show_config(mode="dict")
    assert config["version"] == normc.__version__
    for value in (config["version"], config["compiler"], config["numpy"]["running"],
                  config["cpu"]["found"], config["cpu"]["used"], str(config["threads"])):
        assert value in printed
    assert tuple(config["cpu"]["known"]) == zoo.CPU_LEVELS
    assert run("import runpy; runpy.run_module('normc', run_name='__main__')").stdout
    module = subprocess.run([sys.executable, "-m", "normc"], capture_output=True, text=True,
                            cwd=os.path.dirname(os.path.dirname(normc.__file__)))
    assert module.returncode == 0 and normc.__version__ in module.stdout
    with pytest.raises(ValueError, match="mode"):
        normc.show_config(mode="xml")


def test_version():
    from importlib import metadata

    try:
        installed = metadata.version("normc")
    except metadata.PackageNotFoundError:
        pytest.skip("normc is built in place, not installed")
    assert normc.__version__ == installed


def test_bfloat16_without_importing_ml_dtypes():
    code = """
import sys, normc
import numpy as np
normc.layer_norm(np.ones((2, 3)))
try:
    normc.layer_norm(np.zeros(3, "V2"))
except TypeError as error:
    print("TypeError")
print("ml_dtypes" in sys.modules)
"""
    assert run(code).stdout.split() == ["TypeError", "False"]


@zoo.needs_ml_dtypes
def test_ml_dtypes_may_come_later():
    code = """
import normc
import numpy as np, ml_dtypes
x = np.arange(6.0).reshape(2, 3).astype(ml_dtypes.bfloat16)
print(normc.layer_norm(x).dtype, normc.BatchNorm(3, dtype=ml_dtypes.bfloat16)(x).dtype)
for other in (ml_dtypes.float8_e4m3fn, ml_dtypes.int4):
    try:
        normc.layer_norm(x.astype(other))
    except TypeError as error:
        print(error.__class__.__name__)
"""
    assert run(code).stdout.split() == ["bfloat16", "bfloat16", "TypeError", "TypeError"]
