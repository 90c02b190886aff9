"""How many threads there are at first: environment, affinity mask, control groups; and what
threadpoolctl sees of them."""

import os
import re
import textwrap
import threading

import child
import pytest

import normc
from normc._quota import cpus

PRINT = "import normc; print(normc.get_num_threads())"
has_masks = hasattr(os, "sched_setaffinity")
needs_masks = pytest.mark.skipif(not has_masks, reason="this system has no affinity masks")


def at_first(**environment):
    return int(child.run(PRINT, "-W", "error", **environment))


# ---- environment ---------------------------------------------------------------------------------

@pytest.mark.parametrize("value, threads", [("1", 1), ("3", 3), (" 3 ", 3), ("4,2", 4),
                                            ("5 , 1", 5), ("300", 256), ("9" * 30, 256)])
@pytest.mark.parametrize("name", ["NORMC_NUM_THREADS", "OMP_NUM_THREADS"])
def test_environment(name, value, threads):
    assert at_first(**{name: value}) == threads


def test_our_own_variable_is_first():
    assert at_first(NORMC_NUM_THREADS="5", OMP_NUM_THREADS="3") == 5
    assert at_first(NORMC_NUM_THREADS="", OMP_NUM_THREADS="3") == 3
    assert at_first(NORMC_NUM_THREADS=" ", OMP_NUM_THREADS="3") == 3
    assert at_first(NORMC_NUM_THREADS="5", OMP_NUM_THREADS="x") == 5


@pytest.mark.parametrize("value", ["x", "0", "-2", "1.5", "0,4", "4 threads"])
def test_values_that_are_ignored(value):
    code = f"""
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    {PRINT}
for w in caught:
    print(w.category.__name__, w.message)
"""
    number, warning = child.run(code, NORMC_NUM_THREADS=value, OMP_NUM_THREADS="7").splitlines()
    assert number == "7"
    assert warning == (f"RuntimeWarning NORMC_NUM_THREADS={value!r} is ignored: it must be a "
                       "number of threads, at least 1")
    number, warning = child.run(code, OMP_NUM_THREADS=value).splitlines()
    assert int(number) == at_first()
    assert warning.startswith(f"RuntimeWarning OMP_NUM_THREADS={value!r} is ignored")


# ---- affinity ------------------------------------------------------------------------------------

@needs_masks
def test_affinity_mask():
    code = f"import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); {PRINT}"
    assert child.run(code) == "1\n"
    assert child.run(code, NORMC_NUM_THREADS="3") == "3\n"


@pytest.fixture
def sixteen(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)


@pytest.mark.parametrize("counted, threads", [(5, 5), (None, 1)])
def test_without_masks(counted, threads, monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: counted)
    assert cpus(tmp_path) == threads


# ---- control groups ------------------------------------------------------------------------------

class Machine:
    """/proc/self and a file system of control groups, both below one folder."""

    def __init__(self, folder):
        self.folder, self.proc, self.mounts = folder, folder / "proc", []
        self.proc.mkdir()

    def mount(self, place, kind, options="rw", root="/"):
        where = self.folder / place
        where.mkdir(parents=True, exist_ok=True)
        self.mounts.append(f"{30 + len(self.mounts)} 25 0:26 {root} {where} rw,nosuid shared:4 - "
                           f"{kind} {kind} {options}\n")
        (self.proc / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda rw\n"
                                             + "".join(self.mounts))
        return where

    def groups(self, *lines):
        (self.proc / "cgroup").write_text("".join(line + "\n" for line in lines))

    def v2(self, folder, text):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(text + "\n")

    def v1(self, folder, quota, period=100000):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


@pytest.fixture
def machine(tmp_path, sixteen):
    return Machine(tmp_path)


def test_no_control_groups(machine):
    assert cpus(machine.proc) == 16
    machine.mount("sys", "cgroup2")
    assert cpus(machine.proc) == 16
    machine.groups("0::/")
    assert cpus(machine.proc) == 16


@pytest.mark.parametrize("text, threads", [
    ("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1), ("100001 50000", 3),
    ("9900000 100000", 16), ("max 100000", 16)])
def test_v2_own_group(text, threads, machine):
    top = machine.mount("sys", "cgroup2")
    machine.groups("0::/user.slice/job:1")  # names may have colons
    machine.v2(top / "user.slice/job:1", text)
    assert cpus(machine.proc) == threads


def test_v2_ancestors(machine):
    """The tightest of all; the top of a container's own tree is one of them."""
    top = machine.mount("sys", "cgroup2")
    machine.groups("0::/a/b/c")
    machine.v2(top / "a/b/c", "700000 100000")
    machine.v2(top / "a", "max 100000")
    assert cpus(machine.proc) == 7
    machine.v2(top / "a/b", "300000 100000")
    assert cpus(machine.proc) == 3
    machine.v2(top, "200000 100000")
    assert cpus(machine.proc) == 2
    machine.v2(top / "other", "100000 100000")
    machine.v2(top.parent, "100000 100000")  # outside of the tree
    assert cpus(machine.proc) == 2


def test_v1(machine):
    top = machine.mount("sys/cpu,cpuacct", "cgroup", "rw,cpu,cpuacct")
    memory = machine.mount("sys/memory", "cgroup", "rw,memory")
    sets = machine.mount("sys/cpuset", "cgroup", "rw,cpuset")
    machine.groups("4:memory:/job", "3:cpuset:/job", "2:cpu,cpuacct:/job/step", "1:name=systemd:/")
    machine.v1(top / "job/step", -1)
    machine.v1(memory / "job", 100000)
    machine.v1(sets / "job", 100000)
    assert cpus(machine.proc) == 16
    machine.v1(top / "job", 550000)
    assert cpus(machine.proc) == 6
    machine.v1(top / "job/step", 25000, 10000)
    assert cpus(machine.proc) == 3


def test_v1_in_a_container_that_sees_the_paths_of_its_host(machine):
    """The mount's root is the container's group, and the path is as the host has it."""
    top = machine.mount("sys/cpu", "cgroup", "rw,cpu", root="/docker/0123")
    machine.groups("2:cpu:/docker/0123/inner")
    machine.v1(top, 400000)
    assert cpus(machine.proc) == 4
    machine.v1(top / "inner", 300000)
    assert cpus(machine.proc) == 3
    machine.groups("2:cpu:/docker/0123")
    assert cpus(machine.proc) == 4
    # the name of another begins alike
    machine.groups("2:cpu:/docker/01234/inner")
    machine.v1(top / "4/inner", 100000)
    assert cpus(machine.proc) == 4


@pytest.mark.parametrize("path", ["/../other", "/../../x", "/.."])
def test_a_group_outside_of_what_is_mounted(path, machine):
    top = machine.mount("sys/inside", "cgroup2")
    machine.groups(f"0::{path}")
    machine.v2(top, "300000 100000")
    machine.v2(top.parent / "other", "100000 100000")
    machine.v2(top.parent, "100000 100000")
    assert cpus(machine.proc) == 3


def test_both_versions(machine):
    """Where v1 has the controller and v2 the names, and the other way round."""
    second = machine.mount("sys/unified", "cgroup2")
    first = machine.mount("sys/cpu", "cgroup", "rw,cpu")
    machine.groups("2:cpu:/job", "0::/job")
    (second / "job").mkdir()
    machine.v1(first / "job", 500000)
    assert cpus(machine.proc) == 5
    machine.v2(second / "job", "400000 100000")
    assert cpus(machine.proc) == 4


@pytest.mark.parametrize("text", ["", "x", "100000", "1 2 3", "100000 0", "0 100000", "-5 100000",
                                  "1e5 100000", "max"])
def test_malformed_quotas(text, machine):
    top = machine.mount("sys", "cgroup2")
    machine.groups("0::/job")
    machine.v2(top, "300000 100000")
    machine.v2(top / "job", text)
    assert cpus(machine.proc) == 3


@pytest.mark.parametrize("mounts, groups, threads", [
    (b"", b"0::/\n", 16), (b"x\n\n", b"0::/\n", 16), (b"36 25 0:26 / /sys\n", b"0::/\n", 16),
    (b"36 25 0:26 / /sys rw -\n", b"0::/\n", 16), (b"- cgroup2 x rw\n", b"0::/\n", 16),
    (b" - cgroup2 x rw\n", b"0::/\n", 16), (b"\xff\xfe - \xff", b"0::/\n", 16),
    (None, b"\n0\n0:\n::::\n", 16), (None, b"0::/\xff\n", 3), (None, b"0::\n", 3),
    (None, b"0::job\n", 3), (None, b"0::/\0\n", 3)])
def test_malformed_tables(mounts, groups, threads, machine):
    machine.v2(machine.mount("sys", "cgroup2"), "300000 100000")
    for name, text in (("mountinfo", mounts), ("cgroup", groups)):
        if text is not None:
            (machine.proc / name).write_bytes(text)
    assert cpus(machine.proc) == threads


def test_mounts_with_spaces(machine):
    """As the kernel writes them."""
    top = machine.mount("sys fs", "cgroup2")
    machine.groups("0::/my job")
    machine.v2(top / "my job", "300000 100000")
    table = machine.proc / "mountinfo"
    table.write_text(table.read_text().replace("sys fs", r"sys\040fs"))
    assert cpus(machine.proc) == 3


def test_this_machine():
    limit = cpus()
    assert 1 <= limit <= (len(os.sched_getaffinity(0)) if has_masks else os.cpu_count())
    assert at_first() == min(limit, 256)


# ---- threadpoolctl -------------------------------------------------------------------------------

CONTROL = """
import numpy as np
def ours():
    found = [m for m in threadpoolctl.threadpool_info() if m["user_api"] == "normc"]
    assert len(found) == 1, found
    return found[0]
normc.set_num_threads(5)
assert ours()["num_threads"] == 5 and ours()["version"] == normc.__version__, ours()
assert ours()["internal_api"] == "normc" and ours()["prefix"] == "_core.", ours()
with normc.threads(2):
    assert ours()["num_threads"] == 5
for limits in 1, {"normc": 1}:
    with threadpoolctl.threadpool_limits(limits):
        assert normc.get_num_threads() == 1 and ours()["num_threads"] == 1
    assert normc.get_num_threads() == 5
with threadpoolctl.threadpool_limits({"blas": 1}):
    assert normc.get_num_threads() == 5
with threadpoolctl.threadpool_limits(1):
    with threadpoolctl.threadpool_limits(3, "normc"):
        assert normc.get_num_threads() == 3
    assert normc.get_num_threads() == 1
assert normc.get_num_threads() == 5
"""


@pytest.mark.parametrize("imports", [
    "import normc, threadpoolctl", "import threadpoolctl, normc",
    "import normc, importlib; threadpoolctl = importlib.import_module('threadpoolctl')"])
def test_threadpoolctl(imports):
    control = pytest.importorskip("threadpoolctl", reason="needs threadpoolctl")
    if tuple(int(i) for i in re.findall(r"\d+", control.__version__)[:2]) < (3, 2):
        pytest.skip("this threadpoolctl takes no controllers of others")
    child.run(imports + CONTROL, "-W", "error")


@pytest.mark.parametrize("code", [
    """
    import sys, normc
    assert "threadpoolctl" not in sys.modules
    import json, xml.dom, importlib.util
    assert importlib.util.find_spec("no_such_module") is None
    try:
        import no_such_module
    except ModuleNotFoundError:
        print(normc.get_num_threads() > 0)
    """,
    """
    import sys
    sys.modules["threadpoolctl"] = None
    import normc
    try:
        import threadpoolctl
    except ModuleNotFoundError:
        print(normc.get_num_threads() > 0)
    """,
    """
    import sys, normc
    sys.modules["threadpoolctl"] = None
    try:
        import threadpoolctl
    except ModuleNotFoundError:
        print(normc.get_num_threads() > 0)
    """,
    """
    import sys, normc
    sys.path[:] = []
    sys.path_importer_cache.clear()
    for _ in range(2):
        try:
            import threadpoolctl
        except ModuleNotFoundError as error:
            assert error.name == "threadpoolctl"
        else:
            raise AssertionError("where from?")
    print(normc.get_num_threads() > 0)
    """,
], ids=["never wanted", "forbidden before", "forbidden", "not installed"])
def test_without_threadpoolctl(code):
    assert child.run(textwrap.dedent(code), "-W", "error") == "True\n"


def test_an_old_threadpoolctl(tmp_path):
    """Before 3.2 it knows no controllers of others."""
    (tmp_path / "threadpoolctl.py").write_text("found = 5\n")
    code = """
import normc, sys
sys.path.insert(0, sys.argv[1])
import threadpoolctl
print(threadpoolctl.found, threadpoolctl.__spec__.name, normc.get_num_threads() > 0)
"""
    code = code.replace("sys.argv[1]", repr(str(tmp_path)))
    assert child.run(code, "-W", "error") == "5 threadpoolctl True\n"


def test_threadpoolctl_may_be_looked_for_first():
    pytest.importorskip("threadpoolctl")
    code = """
import importlib.util, normc
assert importlib.util.find_spec("threadpoolctl")
import threadpoolctl
print(sum(each["user_api"] == "normc" for each in threadpoolctl.threadpool_info()))
"""
    assert child.run(code) == "1\n"


def test_generators_leave_in_any_order():
    def waits(n):
        with normc.threads(n):
            yield normc.get_num_threads()

    before = normc.get_num_threads()
    first, second = waits(3), waits(5)
    assert (next(first), next(second)) == (3, 5)
    first.close()
    assert normc.get_num_threads() == 5
    second.close()
    assert normc.get_num_threads() == before


def test_a_generator_may_end_in_another_thread():
    def waits():
        with normc.threads(1):
            yield

    generator, errors = waits(), []
    next(generator)

    def close():
        try:
            generator.close()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    assert not errors
    normc._core._set_own_threads(0)
    normc.threads._entered.all.clear()
