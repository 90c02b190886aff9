"""Calls that share their work among threads: the same bits for any number, limits, signals."""

import os
import signal
import threading

import child
import numpy as np
import pytest
import zoo
from cases import SMALL, Case
from hypothesis import given
from hypothesis import strategies as st
from test_gradients import assert_all_same, back

import normc

SANITIZED = pytest.mark.skipif("NORMC_SANITIZE" in os.environ,
                               reason="a sanitizer's runtime has memory and threads of its own")
needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/task"),
                                reason="threads are looked at in /proc")


@pytest.fixture(scope="module", autouse=True)
def threads_for_everything():
    """For calls of any size, and limits as they were in the end."""
    before = normc.get_num_threads()
    normc._core._threads_from(1)
    yield
    normc._core._threads_from(0)
    normc.set_num_threads(before)


def by_any_number(compute):
    """-> what compute() returns, a list of arrays, having compared its bits."""
    with normc.threads(1):
        alone = compute()
    for n in (2, 3, 7):
        with normc.threads(n):
            assert_all_same(compute(), alone)
    return alone


# ---- the same bits -------------------------------------------------------------------------------

# Few groups, so large that threads share what is inside of each.
LARGE = [
    Case("layer_norm", (1, 70000), -1), Case("layer_norm", (4, 30000), -1),
    Case("layer_norm", (70000, 1), 0), Case("layer_norm", (3, 5000, 7), 1),
    Case("rms_norm", (4, 30000), -1), Case("standardize", (2, 3, 9000), (0, 1, 2)),
    Case("batch_norm", (2, 1, 200, 200)), Case("batch_norm", (50, 40, 40, 6), -1),
    Case("batch_norm", (5000, 24)), Case("group_norm", (1, 64, 37, 41), 1, 1),
    Case("group_norm", (1, 64, 37, 41), 1, 32), Case("instance_norm", (2, 3, 9000)),
]


def plain(case, rng, dtype):
    """Some means need the second look, one group is constant."""
    groups, n = case.members().shape
    means = np.resize([2, 600, 0, 20], groups)[:, None]
    x = rng.normal(size=(groups, n)) + means
    x[-1] = x[-1] if groups == 1 else 0.3
    return case.fill(x.astype(dtype))


def far(case, rng, dtype):
    x = rng.normal(size=case.shape) + (1e4 if np.dtype(dtype).itemsize > 2 else 100)
    return x.astype(dtype)


def spoilt(case, rng, dtype):
    x = plain(case, rng, dtype)
    places = case.members()
    x.reshape(-1)[places[0, -1]] = np.nan
    x.reshape(-1)[places[len(places) // 2, 0]] = np.inf
    return x


def uncarried(case, rng, dtype):
    """Past what fast arithmetic carries: scaled double, and half types as large as they go."""
    large = {2: 3e4, 4: 1e37, 8: 1e306}[np.dtype(dtype).itemsize]
    return (rng.normal(size=case.shape) * 0.2 * large).astype(dtype)


def forward_and_back(case, grad, x, weight, bias, where):
    results = []
    for mask in (None, where):
        y, m = case.call(normc, x, weight, bias, where=mask, return_moments=True)
        results += [y, m.mean, m.m2, *(() if m.mean_lo is None else (m.mean_lo,))]
        if case.norm != "standardize":
            results += back(case, grad, x, weight, where=mask)
            results += back(case, grad, x, weight, where=mask, moments=m)
    return results


def assert_any_number(case, kind, dtype, layout, rng):
    x, grad = kind(case, rng, dtype), rng.normal(size=case.shape).astype(dtype)
    weight, bias = rng.normal(size=(2, *case.parameter_shape)).astype(np.float32)
    where = rng.random(case.shape) < 0.8
    x, grad = zoo.in_layout(layout, x), zoo.in_layout(layout, grad)
    by_any_number(lambda: forward_and_back(case, grad, x, weight, bias, where))


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("kind", [plain, far, spoilt, uncarried], ids=lambda k: k.__name__)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_small(case, kind, dtype, rng):
    for layout in (zoo.contiguous, zoo.channels_last, zoo.strided):
        assert_any_number(case, kind, dtype, layout, rng)


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_large_groups(case, dtype, rng):
    for kind, layout in ((plain, zoo.contiguous), (far, zoo.channels_last), (spoilt, zoo.strided)):
        assert_any_number(case, kind, dtype, layout, rng)


def test_more_spans_than_are_summed_at_a_time(rng):
    """Of 512 columns the sums of three have room."""
    case = Case("batch_norm", (30000, 512))
    x, where = plain(case, rng, np.float32), rng.random(case.shape) < 0.8

    def compute():
        both = [case.call(normc, x, where=mask, return_moments=True)[1] for mask in (None, where)]
        return [*back(case, x, x),
                *(part for m in both for part in (m.count, m.mean, m.mean_lo, m.m2))]

    by_any_number(compute)


@pytest.mark.parametrize("case", LARGE[:4] + LARGE[-1:], ids=str)
def test_large_groups_in_scaled_double(case, rng):
    assert_any_number(case, uncarried, np.float32, zoo.contiguous, rng)


@pytest.mark.parametrize("layout", [zoo.contiguous, zoo.channels_last, zoo.strided],
                         ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", [(3, 6, 4, 11), (1, 6, 100, 130), (700, 6, 3, 2)], ids=str)
@pytest.mark.parametrize("dtype", zoo.DTYPES)
def test_what_is_blended_or_has_statistics(dtype, shape, layout, rng):
    x, grad = (zoo.in_layout(layout, a.astype(dtype)) for a in rng.normal(size=(2, *shape)) + 1)
    logits, weight, bias = [0.5, 1, -1], *rng.normal(size=(2, 6))
    running = rng.normal(size=6), rng.random(6) + 0.5

    def compute():
        results = []
        for function, more in ((normc.batch_norm, {}), (normc.instance_norm, {"momentum": 0.3})):
            name = function.__name__
            kept = running[0].copy(), running[1].copy()
            results += [function(x, *kept, weight, bias, **more), *kept]
            results += [function(x, *kept, weight, bias, True, **more), *kept]
            results += getattr(normc, name + "_backward")(
                grad, x, weight, running_mean=running[0], running_var=running[1])
        for correction in (0, 1):
            kept = running[0].copy(), running[1].copy()
            results += [normc.switchable_norm(x, logits, logits, weight, bias, *kept, True,
                                              correction=correction), *kept]
            results += normc.switchable_norm_backward(grad, x, logits, logits, weight,
                                                      correction=correction)
        results += [normc.switchable_norm(x, logits, logits, weight, bias, *running)]
        return results + list(normc.switchable_norm_backward(
            grad, x, logits, logits, weight, running_mean=running[0], running_var=running[1]))

    by_any_number(compute)


@pytest.mark.parametrize("layout", [zoo.contiguous, zoo.channels_last, zoo.strided],
                         ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", [(3, 7, 5), (2, 40, 1300), (2, 1300, 40), (100000, 1, 1)],
                         ids=str)
@pytest.mark.parametrize("dtype", zoo.DTYPES)
def test_windows_and_slopes(dtype, shape, layout, rng):
    x, grad = (zoo.in_layout(layout, a.astype(dtype)) for a in rng.normal(size=(2, *shape)) * 3)
    slopes, one = rng.normal(size=shape[1]), rng.normal(size=1)

    def compute():
        results = [normc.relu(x), normc.relu_backward(grad, x), normc.leaky_relu(x, 0.2),
                   normc.leaky_relu_backward(grad, x, 0.2)]
        for slope in (slopes, one):
            results += [normc.prelu(x, slope), *normc.prelu_backward(grad, x, slope)]
        for options in ({"size": 5}, {"size": 4, "window": "onnx", "beta": 0.6, "axis": -1}):
            results += [normc.local_response_norm(x, **options),
                        normc.local_response_norm_backward(grad, x, **options)]
        return results

    by_any_number(compute)


@pytest.mark.parametrize("shape, axis", [((70000,), None), ((3, 30000), 1), ((30000, 3), 0),
                                         ((9, 7, 5), (0, 2))])
@pytest.mark.parametrize("dtype", zoo.DTYPES)
def test_moments(dtype, shape, axis, rng):
    x = (rng.normal(size=shape) + 50).astype(dtype)
    where = rng.random(shape) < 0.7

    def compute():
        m = normc.moments(x, axis).update(x, where)
        return [m.mean, m.m2, *(() if m.mean_lo is None else (m.mean_lo,))]

    by_any_number(compute)


@pytest.mark.parametrize("case", [
    Case("layer_norm", (1, 70000), -1), Case("layer_norm", (90, 600), -1),
    Case("batch_norm", (5000, 24)), Case("batch_norm", (2, 1, 200, 200)),
    Case("group_norm", (1, 64, 20, 20), 1, 2),
], ids=str)
def test_gradients_whose_sums_overflow(case, rng):
    """In one place only, so that blocks that hold and such that do not are joined."""
    x, grad = rng.normal(size=(2, *case.shape))
    grad.reshape(-1)[case.members()[0, 5:9]] = 1.6e308, 1.7e308, 1.5e308, -1e308
    weight = rng.normal(size=case.parameter_shape)
    dx, *_ = by_any_number(lambda: [*back(case, grad, x, weight), *back(case, grad, x)])
    assert not np.isfinite(dx).all() or abs(dx).max() > 1e300


@st.composite
def calls(draw):
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    shape[draw(st.integers(0, len(shape) - 1))] = draw(st.sampled_from([1, 3, 40, 700, 4200]))
    axes = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    return tuple(shape), tuple(sorted(axes)), draw(st.sampled_from(zoo.LAYOUTS))


@pytest.mark.parametrize("dtype", zoo.DTYPES)
@given(call=calls(), seed=st.integers(0, 2**32 - 1), n=st.integers(2, 9))
def test_any_shape_axes_and_number(dtype, call, seed, n):
    shape, axes, layout = call
    rng = np.random.default_rng(seed)
    cases = [Case(norm, shape, axes) for norm in ("layer_norm", "rms_norm", "standardize")]
    if len(shape) > 2:
        cases += [Case("batch_norm", shape, axes[0]), Case("instance_norm", shape, axes[0] or 1)]
    for case in cases:
        if case.members().shape[1] < 2:
            continue
        x, grad = plain(case, rng, dtype), rng.normal(size=shape).astype(dtype)
        weight, bias = rng.normal(size=(2, *case.parameter_shape))
        where = rng.random(shape) < 0.8
        there = [zoo.in_layout(layout, a) for a in (grad, x)]
        with normc.threads(1):
            expected = forward_and_back(case, grad, x, weight, bias, where)
        with normc.threads(n):
            assert_all_same(forward_and_back(case, *there, weight, bias, where), expected)


@pytest.mark.parametrize("least", [0, 1])
def test_one_layout_by_any_number_in_turn(least, rng):
    """A plan is kept, but for other threads than those of the last call, or who share an item."""
    shapes = [(64, 1024), (300, 64), (2, 30000), (40, 600), (7, 5, 6, 6), (3, 700), (128, 512),
              (130, 700)]
    arrays = [rng.normal(size=(2, *shape)).astype(np.float32) for shape in shapes]
    weights = [rng.normal(size=shape[-1]).astype(np.float32) for shape in shapes]

    def all_of(x, grad, weight):
        dx = [normc.batch_norm_backward(grad, x), normc.layer_norm_backward(grad, x, x.shape[-1]),
              normc.layer_norm_backward(grad, x, x.shape[-1], weight)]
        return [normc.batch_norm(x, training=True), normc.layer_norm(x, x.shape[-1], weight),
                *(part for parts in dx for part in parts if part is not None)]

    with normc.threads(1):
        expected = [all_of(*a, w) for a, w in zip(arrays, weights)]
    normc._core._threads_from(least)  # 0: as it repays, calls that follow each other closely too
    try:
        for n in rng.integers(1, 9, 60):
            i = rng.integers(len(arrays))
            with normc.threads(int(n)):
                for _ in range(3):
                    assert_all_same(all_of(*arrays[i], weights[i]), expected[i])
    finally:
        normc._core._threads_from(1)


# ---- limits --------------------------------------------------------------------------------------

@pytest.mark.parametrize("setting", [normc.set_num_threads, normc.threads])
def test_numbers_of_threads(setting):
    for bad in (0, -1, -10**30):
        with pytest.raises(ValueError, match=f"n must be at least 1, but got {bad}"):
            setting(bad)
    for bad in (1.5, 2.0, "2", None, True):
        with pytest.raises(TypeError, match="n must be"):
            setting(bad)
    assert normc.get_num_threads() >= 1


def test_the_limit_of_all():
    for given, kept in ((1, 1), (np.int64(5), 5), (256, 256), (257, 256), (10**9, 256),
                        (10**40, 256)):
        normc.set_num_threads(given)
        assert normc.get_num_threads() == kept
        assert normc.show_config(mode="dict")["threads"] == kept


def test_blocks():
    normc.set_num_threads(4)
    with normc.threads(3) as nothing:
        assert nothing is None and normc.get_num_threads() == 3
        again = normc.threads(1)
        with again, normc.threads(10**9):
            assert normc.get_num_threads() == 256
            with again:
                assert normc.get_num_threads() == 1
            normc.set_num_threads(5)  # is not of here
            assert normc.get_num_threads() == 256
        assert normc.get_num_threads() == 3
        with pytest.raises(KeyError), normc.threads(2):
            raise KeyError
        assert normc.get_num_threads() == 3
    assert normc.get_num_threads() == 5


def test_decorated_functions():
    @normc.threads(2)
    def inner(depth):
        """Doc."""
        return [normc.get_num_threads(), *(inner(depth - 1) if depth else [])]

    normc.set_num_threads(4)
    assert inner(2) == [2, 2, 2] and normc.get_num_threads() == 4
    assert inner.__name__ == "inner" and inner.__doc__ == "Doc."


def test_a_block_is_of_one_python_thread():
    """One object, in use by two of them, too."""
    normc.set_num_threads(4)
    block, entered, seen, seen_inside = normc.threads(2), threading.Event(), [], []

    def other():
        seen.append(normc.get_num_threads())
        with normc.threads(3), block:
            seen_inside.append(normc.get_num_threads())
            entered.set()
            left.wait(20)
            seen_inside.append(normc.get_num_threads())
        seen.append(normc.get_num_threads())

    left = threading.Event()
    with block:
        thread = threading.Thread(target=other)
        thread.start()
        assert entered.wait(20)
    assert normc.get_num_threads() == 4
    left.set()
    thread.join()
    assert seen == [4, 4] and seen_inside == [2, 2]


@needs_proc
@SANITIZED
def test_so_many_threads_work():
    """As many others as the limit allows, made when they are wanted; calls of 64 KB have none."""
    assert child.run("""
import os, numpy as np, normc
def others():
    return len(os.listdir("/proc/self/task")) - 1
x = np.ones((1000, 1000))
print(others())
for n in 1, 3, 2, 7:
    normc.set_num_threads(n)
    normc.layer_norm(x)
    print(others())
normc.set_num_threads(64)
with normc.threads(9):
    for _ in range(1000):
        normc.layer_norm(x[:8])
    print(others())
    normc.layer_norm(x)
print(others())
""").split() == ["0", "0", "2", "2", "6", "6", "8"]


@needs_proc
@SANITIZED
@pytest.mark.parametrize("call", [
    "layer_norm(x.reshape(1, -1), out=y.reshape(1, -1))", "rms_norm(x.reshape(1, -1))",
    "group_norm(x, 1)", "batch_norm(x, zero, one)"])
def test_what_is_one_item_is_shared_where_calls_follow_each_other(call):
    assert child.run(f"""
import os, time, numpy as np, normc
from normc import *
set_num_threads(2)
x, zero, one = np.ones((1, 1, 100000), np.float32), np.zeros(1, np.float32), np.ones(1, np.float32)
y, last = np.empty_like(x), time.monotonic() + 20
while len(os.listdir("/proc/self/task")) == 1 and time.monotonic() < last:
    for _ in range(100):
        {call}
print(len(os.listdir("/proc/self/task")))
""") == "2\n"


# ---- the threads themselves ----------------------------------------------------------------------

@needs_proc
@SANITIZED
def test_threads_take_no_signals():
    """But those that nobody can refuse; and the caller is left as it was."""
    blocked, own = child.run("""
import os, signal, threading, numpy as np, normc
normc.set_num_threads(4)
before = set(os.listdir("/proc/self/task"))
normc.layer_norm(np.ones((1000, 1000)))
masks = []
for task in set(os.listdir("/proc/self/task")) - before:
    with open(f"/proc/self/task/{task}/status") as file:
        masks += [int(line.split()[1], 16) for line in file if line.startswith("SigBlk:")]
assert len(masks) == 3, masks
refusable = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
print(all(mask >> s - 1 & 1 for mask in masks for s in refusable))
print(*signal.pthread_sigmask(signal.SIG_BLOCK, []))
""").split("\n", 1)
    assert blocked == "True" and not own.strip()


def test_ctrl_c():
    """Comes after the call that it meets: its results are whole, and the next call works."""
    program = child.start("""
import signal, sys, numpy as np, normc
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
normc.set_num_threads(3)
x = np.random.default_rng(1).normal(size=(1500, 2000)) ** 3 + 7
before, calls = x.copy(), 0
try:
    print("ready", flush=True)
    while True:
        normc.layer_norm(x, eps=0.1, out=x)
        calls += 1
except KeyboardInterrupt:
    after = x.copy()
with normc.threads(1):
    for _ in range(calls):
        normc.layer_norm(before, eps=0.1, out=before)
    whole = (before == after).all() or (normc.layer_norm(before, eps=0.1) == after).all()
    following = normc.layer_norm(after)
print(calls > 0, whole, (normc.layer_norm(after) == following).all())
""")
    assert program.stdout.readline() == "ready\n"
    for delay in (0.3, 0.01, 0.01):
        try:
            program.wait(delay)
        except child.subprocess.TimeoutExpired:
            pass
        if delay == 0.3:
            program.send_signal(signal.SIGINT)
    assert child.finish(program).split() == ["True"] * 3


@needs_proc
@SANITIZED
@pytest.mark.parametrize("room, others", [(1, [0]), (11, [1, 2])])
def test_where_the_system_grants_fewer(room, others):
    """Address space for so many MiB; a thread's stack takes four."""
    few, all_of_them = child.run(f"""
import os, resource, numpy as np, normc
x = np.random.default_rng(1).normal(size=(400, 3000))
with normc.threads(1):
    expected = normc.layer_norm(x)
out = np.empty_like(x)
normc.set_num_threads(7)
with open("/proc/self/statm") as file:
    taken = int(file.read().split()[0]) * resource.getpagesize()
unlimited = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (taken + ({room} << 20), unlimited[1]))
for _ in range(3):
    out[:] = 0
    normc.layer_norm(x, out=out)
few = len(os.listdir("/proc/self/task")) - 1
resource.setrlimit(resource.RLIMIT_AS, unlimited)
assert out.tobytes() == expected.tobytes()
assert normc.layer_norm(x).tobytes() == expected.tobytes()
print(few, len(os.listdir("/proc/self/task")) - 1)
""").split()
    assert int(few) in others and all_of_them == "6"


def test_on_one_processor():
    """More threads than can run at once, so that who calls has to sleep until others are done."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity masks")
    child.run("""
import os, numpy as np, normc
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
normc._core._threads_from(1)
for shape, calls in ((30, 70), 1000), ((40, 20000), 100):
    x = np.random.default_rng(1).normal(size=shape)
    with normc.threads(1):
        expected = normc.layer_norm(x).tobytes()
    for i in range(calls):
        with normc.threads(2 + i % 6):
            assert normc.layer_norm(x).tobytes() == expected
""")


@needs_proc
@SANITIZED
def test_woken_beside_the_caller():
    """On any processor that it may use but its own; where there are too few, on all of them."""
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one processor, or none can be told")
    child.run("""
import ctypes, os, time, numpy as np, normc
here = ctypes.CDLL(None).sched_getcpu
x = np.ones((1000, 1000))
allowed = set(sorted(os.sched_getaffinity(0))[:2])
os.sched_setaffinity(0, allowed)
def woken(n):
    time.sleep(0.01)  # they fall asleep
    with normc.threads(n):
        normc.layer_norm(x)
    tasks = set(map(int, os.listdir("/proc/self/task"))) - {os.getpid()}
    return [os.sched_getaffinity(task) for task in tasks]
def beside(others):
    for i in range(100):
        before = here()
        masks = woken(2)
        if here() == before:
            assert masks == [allowed - {before}] * others, (masks, before)
            return
    raise AssertionError("never in one place")
beside(1)
for cpu in allowed:
    os.sched_setaffinity(0, {cpu})
    assert woken(2) == [{cpu}], cpu
os.sched_setaffinity(0, allowed)
assert woken(4) == [allowed] * 3  # one processor would not be enough
beside(3)
""")


def test_eight_python_threads(rng):
    """On shared layers, beside others that call and change limits: no update is lost."""
    batch = rng.normal(size=(300, 40)).astype(np.float32) + 3
    x = rng.normal(size=(40, 3000)).astype(np.float32)
    with normc.threads(1):
        expected = normc.layer_norm(x)
        once = normc.BatchNorm1d(40, momentum=None)
        once(batch)
    training, average = normc.BatchNorm1d(40), normc.BatchNorm1d(40, momentum=None)
    rounds, errors, gate = 60, [], threading.Barrier(8)

    def train(i):
        training(batch + np.float32(i % 5))

    def same(i):
        average(batch)

    def call(i):
        zoo.assert_same_bits(normc.layer_norm(x), expected)

    def limit_all(i):
        normc.set_num_threads(1 + i % 7)
        call(i)

    def limit_own(i):
        with normc.threads(1 + i % 5):
            call(i)

    def work(one):
        gate.wait()
        try:
            for i in range(rounds):
                one(i)
        except BaseException as error:
            errors.append(error)

    each = [train, train, train, same, same, call, limit_all, limit_own]
    threads = [threading.Thread(target=work, args=(one,)) for one in each]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a call hangs"
    assert not errors, errors
    assert training.num_batches_tracked == 3 * rounds
    assert average.num_batches_tracked == 2 * rounds
    assert np.isfinite(training.running_mean).all() and np.isfinite(training.running_var).all()
    # shifts 0 .. 4, each as often: the mean is between, and no channel is behind the others
    shift = training.running_mean - batch.mean(0)
    assert (0 < shift).all() and (shift < 4).all() and np.ptp(shift) < 1e-3
    zoo.assert_same_bits(average.running_mean, once.running_mean)
    zoo.assert_same_bits(average.running_var, once.running_var)
