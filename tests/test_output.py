"""Large results: their memory is recycled, up to a limit, and no call takes more than it must."""

import copy
import ctypes
import gc
import json
import os
import pathlib
import pickle
import queue
import re
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from zoo import assert_same_bits

import normc

multiarray = (np._core if np.__version__ >= "2" else np.core).multiarray
MIB = 2**20
needs_proc = pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", "") or not os.path.exists("/proc/self/clear_refs"),
    reason="memory is read from /proc, and counted without the address sanitizer")


def ones(mib, dtype=np.float32):
    return np.ones((mib, MIB // 1024 // np.dtype(dtype).itemsize, 1024), dtype)


def address(y):
    return y.ctypes.data


def kept():
    return normc.show_config(mode="dict")["output_cache"]["bytes"]


def handler_of(*array):
    return multiarray.get_handler_name(*array)


@pytest.fixture(autouse=True)
def nothing_kept():
    """Every test begins with the limit as it is by default, and nothing below it."""
    gc.collect()
    limit = normc.show_config(mode="dict")["output_cache"]["limit"]
    normc.set_output_cache(0)
    normc.set_output_cache(limit)
    yield
    normc.set_output_cache(limit)
    assert handler_of() == "default_allocator"


def run(code):
    """What the code prints, as JSON, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", HELPERS + code], capture_output=True, text=True,
                          cwd=os.path.dirname(os.path.dirname(normc.__file__)), timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout or "null")


HELPERS = """
import gc, json, os, resource, sys, threading
import numpy as np, normc
MIB = 2**20
def ones(mib, dtype=np.float32):
    return np.ones((mib, MIB // 1024 // np.dtype(dtype).itemsize, 1024), dtype)
def status(key):
    line, = [line for line in open("/proc/self/status") if line.startswith(key + ":")]
    return int(line.split()[1]) * 1024
def peak(call):
    "Bytes that were needed beside what was there already."
    gc.collect()
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    result = call()
    return status("VmHWM") - before
"""


# ---- what is recycled ----------------------------------------------------------------------------

def test_memory_comes_back():
    x = ones(40)
    y = normc.layer_norm(x)
    place = address(y)
    assert place % (2 * MIB) == 0 and kept() == 0
    del y
    assert kept() == 40 * MIB
    y = normc.relu(x)
    assert address(y) == place and kept() == 0
    z = normc.relu(x)
    assert address(z) != place and not np.shares_memory(y, z)


def test_gradients_and_layers_have_it_too():
    x, layer = ones(40), normc.BatchNorm1d(256)
    place = address(layer(x))
    assert address(layer.backward(x)) == place
    assert address(normc.layer_norm_backward(x, x)[0]) == place


@pytest.mark.parametrize("fits, asked", [(40, 40), (40, 39), (45, 36)])
def test_memory_serves_what_fills_four_fifths(fits, asked):
    place = address(normc.relu(ones(fits)))
    assert address(normc.relu(ones(asked))) == place


@pytest.mark.parametrize("kept_mib, asked", [(40, 41), (46, 36)])
def test_memory_serves_nothing_else(kept_mib, asked):
    normc.relu(ones(kept_mib))
    y = normc.relu(ones(asked))
    assert kept() == kept_mib * MIB
    del y
    assert kept() == (kept_mib + asked) * MIB


def test_the_nearest_in_size_serves():
    sizes = 45, 40, 42
    ys = [normc.relu(ones(mib)) for mib in sizes]
    places = {mib: address(y) for mib, y in zip(sizes, ys)}
    del ys
    assert address(normc.relu(ones(39))) == places[40]
    assert address(normc.relu(ones(41))) == places[42]


def test_what_was_there_is_not_seen():
    def soil():
        y = normc.relu(x)
        y.fill(np.nan)

    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 256, 1024), np.float32)
    where = rng.random(x.shape, np.float32) < 0.5
    where[3], where[:, 5] = False, False
    for call in (lambda **k: normc.layer_norm(x, where=where, **k),
                 lambda **k: normc.batch_norm(x, training=True, where=where, **k),
                 lambda **k: normc.instance_norm(x.transpose(0, 2, 1), **k),
                 lambda **k: normc.local_response_norm(x, 5, **k),
                 lambda **k: normc.standardize(x[:, :, ::-1], **k)):
        expected = call(out=np.zeros_like(call()))
        soil()
        assert kept() == 40 * MIB
        assert_same_bits(call(), expected)


# ---- how much is kept ----------------------------------------------------------------------------

def test_the_default_limit():
    assert run("print(normc.show_config(mode='dict')['output_cache']['limit'])") == 256 * MIB


def test_the_limit_holds():
    normc.set_output_cache(110 * MIB)
    rng, held = np.random.default_rng(5), []
    for mib in rng.integers(33, 120, 40):
        held.append(normc.relu(ones(int(mib))))
        while len(held) > 2 or (held and rng.random() < 0.5):
            del held[int(rng.integers(len(held)))]
            assert kept() <= 110 * MIB
    assert kept() > 0


def test_the_oldest_goes_first():
    normc.set_output_cache(110 * MIB)
    ys = {mib: normc.relu(ones(mib)) for mib in (33, 45, 60)}
    for mib, left in (33, 33), (45, 33 + 45), (60, 45 + 60):
        del ys[mib]
        assert kept() == left * MIB
    normc.relu(ones(111))
    assert kept() == 105 * MIB, "what is larger than the limit drives nothing out"
    normc.set_output_cache(104 * MIB)
    assert kept() == 60 * MIB


def test_zero_keeps_nothing():
    normc.set_output_cache(0)
    x = ones(40)
    y = normc.relu(x)
    assert handler_of(y) == "normc" and (y == 1).all()
    del y
    assert kept() == 0
    normc.set_output_cache(10**30)
    normc.relu(x)
    assert kept() == 40 * MIB


@needs_proc
def test_zero_gives_back_what_was_kept():
    before, after = run("""
x = ones(64)
normc.relu(x)
before = status("VmRSS")
normc.set_output_cache(0)
print(json.dumps([before, status("VmRSS")]))
""")
    assert before - after > 63 * MIB


@pytest.mark.parametrize("value, error", [
    (-1, ValueError), (True, TypeError), (np.True_, TypeError), (2.0, TypeError), ("1", TypeError),
    (None, TypeError), (np.float64(1), TypeError)])
def test_bad_limits(value, error):
    before = normc.show_config(mode="dict")
    with pytest.raises(error, match=r"\bbytes\b"):
        normc.set_output_cache(value)
    assert normc.show_config(mode="dict") == before


def test_integers_of_any_kind():
    class Index:
        def __index__(self):
            return 77 * MIB

    for value in (np.int64(77 * MIB), Index(), np.array(77 * MIB)):
        normc.set_output_cache(1)
        assert normc.set_output_cache(value) is None
        assert normc.show_config(mode="dict")["output_cache"]["limit"] == 77 * MIB


def test_show_config(capsys):
    normc.relu(ones(64))
    normc.show_config()
    assert "output cache  64.0 MiB kept, of at most 256.0 MiB\n" in capsys.readouterr().out


# ---- arrays as ever ------------------------------------------------------------------------------

@pytest.mark.parametrize("nbytes, name", [(32 * MIB - 4, "default_allocator"), (32 * MIB, "normc")])
def test_only_large_results_are_ours(nbytes, name):
    assert handler_of(normc.relu(np.ones(nbytes // 4, np.float32))) == name


def test_views_keep_their_memory():
    x = ones(40)
    y = normc.relu(x)[:, ::2].T
    place = y.base.ctypes.data
    gc.collect()
    assert kept() == 0 and address(normc.relu(-x)) != place
    assert (y == 1).all()
    del y
    assert kept() >= 40 * MIB


def test_resize():
    y = normc.standardize(np.arange(10 * MIB, dtype=np.float32))
    expected = y.copy()
    y.resize(20 * MIB, refcheck=False)
    assert np.array_equal(y[:10 * MIB], expected) and not y[10 * MIB:].any()
    assert handler_of(y) == "normc" and kept() == 40 * MIB
    y.resize(9 * MIB + 1, refcheck=False)
    assert np.array_equal(y, expected[:y.size])
    y.resize(10 * MIB, refcheck=False)
    assert np.array_equal(y[:9 * MIB + 1], expected[:9 * MIB + 1]) and not y[9 * MIB + 1:].any()
    y.resize(5, refcheck=False)
    assert np.array_equal(y, expected[:5])
    before = kept()
    del y
    assert kept() == before, "too small to be asked for"


def test_a_resized_array_has_the_memory_it_has():
    """Whatever NumPy says when it frees it."""
    y = normc.relu(ones(40))
    y.resize(34 * MIB // 4, refcheck=False)
    del y
    assert kept() == 34 * MIB
    place = address(normc.relu(ones(34)))
    y = normc.relu(ones(33))
    assert address(y) == place
    y.shape = -1
    y.resize(34 * MIB // 4, refcheck=False)
    assert address(y) == place


@needs_proc
def test_a_shrunken_array_gives_memory_back():
    before, after = run("""
y = normc.relu(ones(64))
before = status("VmRSS")
y.resize(1000, refcheck=False)
print(json.dumps([before, status("VmRSS")]))
""")
    assert before - after > 60 * MIB


def test_copies_and_pickles():
    y = normc.standardize(np.arange(9 * MIB, dtype=np.float32).reshape(9, -1))
    for other in (y.T.copy(), pickle.loads(pickle.dumps(y, 5)), copy.deepcopy(y), y + 0,
                  np.resize(y, y.shape)):
        assert handler_of(other) != "normc"
        assert np.array_equal(other, y.T if other.shape != y.shape else y)
    state = y.__reduce__()[2]
    del other
    place = address(y)
    y.__setstate__(state)
    assert kept() == 36 * MIB and address(y) != place


def test_tracemalloc_counts_arrays():
    x = ones(40)
    tracemalloc.start()
    try:
        for _ in range(3):
            before = tracemalloc.get_traced_memory()[0]
            y = normc.relu(x)
            taken = tracemalloc.take_snapshot().filter_traces(
                [tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)])
            assert sum(t.size for t in taken.traces) == 40 * MIB
            assert 0 <= tracemalloc.get_traced_memory()[0] - before - 40 * MIB < MIB
            del y, taken
            assert abs(tracemalloc.get_traced_memory()[0] - before) < MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(2**48, 1024), (2**61 - 1,)])
def test_memory_that_is_not_there(shape):
    """What is kept is given back before a call fails, and NumPy has its handler again."""
    x = np.broadcast_to(np.float32(1), shape)
    for call in (normc.layer_norm, normc.relu, lambda x: normc.relu(x[..., ::-1])):
        normc.relu(ones(40))
        with pytest.raises(MemoryError):
            call(x)
        assert handler_of() == "default_allocator"
        assert handler_of(np.empty(40 * MIB)) == "default_allocator"
        assert kept() == 0
    normc.relu(ones(40))
    assert kept() == 40 * MIB, "the limit is as it was"


def numpy_api(index, kind=ctypes.c_void_p):
    """An entry of NumPy's C API."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    entries = pointer(multiarray._ARRAY_API, None)
    return kind.from_address(entries + index * ctypes.sizeof(ctypes.c_void_p))


@pytest.fixture
def set_handler():
    """PyDataMem_SetHandler, which returns the one before."""
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(numpy_api(304).value)
    yield set_handler
    set_handler(numpy_api(306, ctypes.POINTER(ctypes.py_object))[0])


def test_another_handler_is_left_alone(set_handler):
    """NumPy's own under another name: whoever sets one wants it used."""
    default = numpy_api(306, ctypes.POINTER(ctypes.py_object))[0]
    data = ctypes.pythonapi.PyCapsule_GetPointer(default, b"mem_handler")
    size = 128 + 5 * ctypes.sizeof(ctypes.c_void_p)
    other = ctypes.create_string_buffer(ctypes.string_at(data, size), size)
    other[:6] = b"other\0"
    new = ctypes.pythonapi.PyCapsule_New
    new.restype = ctypes.py_object
    new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    x = ones(40)
    assert set_handler(new(ctypes.addressof(other), b"mem_handler", None)) is default
    y = normc.relu(x)
    assert handler_of(y) == "other" and handler_of() == "other"
    del y
    set_handler(default)
    assert handler_of(normc.relu(x)) == "normc"


@pytest.mark.skipif(ctypes.sizeof(ctypes.c_void_p) != 8, reason="the place of a field is known")
def test_the_handler_serves_everything(set_handler):
    """All that NumPy may ask of it, though it never asks for most."""
    y = normc.relu(ones(40))
    set_handler(ctypes.py_object.from_address(id(y) + 88).value)
    y.fill(7)
    del y
    assert kept() == 40 * MIB
    zeros, empty, small = np.zeros(40 * MIB, "u1"), np.empty(40 * MIB, "u1"), np.arange(3)
    assert {handler_of(a) for a in (zeros, empty, small)} == {"normc"}
    assert not zeros.any()
    small.resize(10**6, refcheck=False)
    assert small.tolist()[:4] == [0, 1, 2, 0] and not small[3:].any()
    small.resize(50 * MIB, refcheck=False)
    assert small[:4].tolist() == [0, 1, 2, 0] and not small[3:].any()
    small.resize(0, refcheck=False)
    small.resize(5, refcheck=False)
    assert small.tolist() == [0] * 5


# ---- threads, forks, the end ---------------------------------------------------------------------

def test_threads_make_and_free():
    """What one thread makes another frees; each sees its own numbers."""
    arrays, errors = queue.Queue(4), []

    def make(number):
        x = np.full((33, 256, 1024), number, np.float32)
        for i in range(25):
            y = normc.relu(x[:33 - i % 3])
            if not (y[::8, ::64, ::64] == number).all():
                errors.append(number)
            arrays.put(y)

    def free():
        while arrays.get() is not None:
            pass

    makers = [threading.Thread(target=make, args=(n,)) for n in (1, 2)]
    freer = threading.Thread(target=free)
    for thread in (*makers, freer):
        thread.start()
    for thread in makers:
        thread.join(120)
    arrays.put(None)
    freer.join(120)
    assert not errors and 0 < kept() <= 256 * MIB


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_has_a_copy():
    assert run("""
x = ones(40)
y = normc.relu(x)
normc.relu(2 * x)
stop = threading.Event()
def work():
    while not stop.is_set():
        normc.relu(x)
thread = threading.Thread(target=work)
thread.start()
codes = []
for _ in range(5):
    pid = os.fork()
    if pid == 0:
        a, b = normc.relu(3 * x), normc.relu(4 * x)
        good = (a == 3).all() and (b == 4).all() and (y == 1).all()
        del a, b, y
        normc.set_output_cache(0)
        os._exit(0 if good else 1)
    codes.append(os.waitpid(pid, 0)[1])
stop.set()
thread.join()
print(json.dumps([codes, bool((y == 1).all()), bool((normc.relu(x) == 1).all())]))
""") == [[0] * 5, True, True]


def test_arrays_outlive_the_module():
    assert run("""
class Cycle:
    pass
x = ones(40)
y, cycle = normc.relu(x), Cycle()
cycle.me, cycle.y = cycle, normc.relu(x)
before = normc
for name in [name for name in sys.modules if name.startswith("normc")]:
    del sys.modules[name]
del normc, before
gc.collect()
y.resize(50 * MIB // 4, refcheck=False)
import normc
del y
z = normc.relu(x)
print(json.dumps(bool((z == 1).all())))
""") is True


# ---- what it is for ------------------------------------------------------------------------------

@needs_proc
@pytest.mark.parametrize("call", [normc.layer_norm, lambda x: normc.batch_norm(x, training=True),
                                  lambda x: normc.layer_norm_backward(x, x)],
                         ids=["layer_norm", "batch_norm", "layer_norm_backward"])
def test_no_page_faults(call):
    """A fresh 64 MiB are 16,384 pages of 4 KiB, or 32 huge ones."""
    import resource

    x, counts = ones(64), [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
    for _ in range(4):
        call(x)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    assert counts[1] - counts[0] >= 32 and min(np.diff(counts)) < 8


@needs_proc
def test_no_more_is_mapped_than_asked_for():
    """Threads have their stacks from the first call on."""
    assert 0 <= run("""
x = ones(64)
normc.set_output_cache(0)
normc.relu(x)
before = status("VmSize")
y = normc.relu(x)
print(status("VmSize") - before - 64 * MIB)
""") < MIB


@needs_proc
def test_huge_pages():
    """They are asked for, but not for the rest of the last one."""
    y = normc.relu(np.ones(33 * MIB // 4 + 5, np.float32))
    advised = []
    for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            first, last = (int(n, 16) for n in match.groups())
        elif line.startswith("VmFlags:") and "hg" in line.split():
            advised.append((first, last))
    if not os.path.exists("/sys/kernel/mm/transparent_hugepage"):
        pytest.skip("the system has no huge pages")
    assert (address(y), address(y) + 32 * MIB) in advised


PEAKS = """
normc.set_output_cache(0)
three, rng, worst = np.zeros(3), np.random.default_rng(0), {}
CASES = [((20, 128, 64, 64), 1, (0, 1, 2, 3), np.float32), ((10240, 1024), 1, (0, 1), np.float32),
         ((20, 64, 64, 128), 3, (0, 1, 2, 3), np.float64), ((10240, 1024), 1, (0, 1), np.float64),
         ((20, 64, 64, 128), 1, (0, 3, 1, 2), np.float32),
         ((20, 64, 64, 128), 1, (0, 3, 1, 2), np.float16)]
for shape, axis, order, dtype in CASES:
    x = rng.standard_normal(shape, np.float32).astype(dtype).transpose(order)
    out, where = np.ones_like(x), rng.random(x.shape, np.float32) < 0.7
    mean, var, weight = (np.full(x.shape[axis], n, np.float32) for n in (0, 1, 1))
    a = {"axis": axis}
    w = {"weight": weight, "bias": weight, **a}
    calls = {
        "batch": lambda **k: normc.batch_norm(k.pop("x"), mean, var, training=True, **w, **k),
        "batch eval": lambda **k: normc.batch_norm(k.pop("x"), mean, var, **w, **k),
        "group": lambda **k: normc.group_norm(k.pop("x"), 32, **w, **k),
        "layer": lambda **k: normc.layer_norm(k.pop("x"), **w, **k),
        "rms": lambda **k: normc.rms_norm(k.pop("x"), **k),
        "standardize": lambda **k: normc.standardize(k.pop("x"), **k),
        "relu": lambda **k: normc.relu(k.pop("x"), **k),
        "prelu": lambda **k: normc.prelu(k.pop("x"), weight, **a, **k),
    }
    if x.ndim > 2:
        calls["instance"] = lambda **k: normc.instance_norm(k.pop("x"), mean, var, **w, **k)
        calls["switchable"] = lambda **k: normc.switchable_norm(k.pop("x"), three, three,
                                                                training=True, **w, **k)
        calls["lrn"] = lambda **k: normc.local_response_norm(k.pop("x"), 5, **a, **k)
    for name, call in calls.items():
        takes = name not in ("relu", "prelu", "switchable", "lrn")
        for masked in ({}, {"where": where})[:1 + takes]:
            new = peak(lambda: call(x=x, **masked)) - x.nbytes
            there = peak(lambda: (call(x=x, out=out, **masked), call(x=out, out=out, **masked)))
            worst[f"{name} {shape} {dtype.__name__} {[*masked]}"] = max(new, there)
print(json.dumps(worst))
"""


@needs_proc
def test_peak_memory():
    """Of a new result: itself, and 1 MiB for statistics and scratch. Else this MiB alone."""
    peaks = run(PEAKS)
    assert len(peaks) > 80
    assert not {name: n for name, n in peaks.items() if n > MIB}
