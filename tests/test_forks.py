"""Forks, in every order with calls: right results in parent and child, by threads of their own.

Each program runs with -W error: from 3.12 on Python warns of a fork while the process has other
threads. A child that hangs is killed by its own alarm.
"""

import os

import child
import pytest

if not os.path.exists("/proc/self/task"):
    pytest.skip("threads are counted in /proc", allow_module_level=True)
if "NORMC_SANITIZE" in os.environ:
    pytest.skip("a sanitizer's own locks do not live through forks of many threads",
                allow_module_level=True)

PRELUDE = """
import os, signal, sys, threading, time, traceback, warnings
import numpy as np
import normc

x = np.random.default_rng(5).normal(size=(48, 3000)) + 3
with normc.threads(1):
    expected = normc.layer_norm(x).tobytes()
normc.set_num_threads(3)
normc._core._threads_from(1)

def counted():
    "As Python does, to warn."
    with open("/proc/self/stat") as file:
        return int(file.read().rpartition(")")[2].split()[17])

def check():
    "The same bits, by three threads; the system may know a joined one of Python's for a while."
    for _ in range(10):
        assert normc.layer_norm(x).tobytes() == expected, "other bits"
    late = time.monotonic() + 5
    while (n := counted()) != 3 and time.monotonic() < late:
        time.sleep(0.001)
    assert n == 3, f"{n} threads"

def fork(work=check):
    "-> the child's id; its status is 0 if work() returned."
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return pid

def wait(pid):
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, "the child hung" if status == -signal.SIGALRM else f"status {status}"
"""
# Where Python itself has other threads, that is no warning of ours.
KNOWN = "\nwarnings.simplefilter('ignore', DeprecationWarning)\n"


def run(code):
    child.run(PRELUDE + code, "-W", "error")


def test_before_the_first_call():
    run("""
wait(fork())
assert counted() == 1
check()
""")


def test_between_calls():
    """While threads look for the next one, while they sleep, and at any time between."""
    run("""
for i in range(40):
    check()
    time.sleep(i % 4 * 30e-6)
    pid = fork()
    assert counted() == 1, "a thread was there while the process forked"
    wait(pid)
""")


def test_many_threads():
    run("""
many = np.ones((400, 2000))
with normc.threads(100):
    for _ in range(30):
        normc.layer_norm(many)
        assert counted() == 100
        pid = fork(lambda: None)
        assert counted() == 1, f"{counted()} threads"
        wait(pid)
""")


def test_during_calls_of_another_thread():
    run(KNOWN + """
big = np.random.default_rng(6).normal(size=(300, 10000))
with normc.threads(1):
    right = normc.layer_norm(big).tobytes()
out, done, wrong = np.empty_like(big), threading.Event(), []

def call():
    while not done.is_set():
        normc.layer_norm(big, out=out)
        if out.tobytes() != right:
            wrong.append(1)

caller = threading.Thread(target=call)
caller.start()
amid = 0
for i in range(20):
    time.sleep(i * 0.001)
    pid = fork()
    amid += counted() == 4
    wait(pid)
done.set()
caller.join()
assert not wrong and amid > 0, (wrong, amid)
check()
""")


def test_during_the_first_call():
    """Of another thread. Children that have called nothing yet stand for new processes: often, for
    it is a matter of microseconds."""
    run(KNOWN + """
def call():
    assert normc.layer_norm(x).tobytes() == expected and counted() == 3, f"{counted()} threads"

def first():
    caller = threading.Thread(target=normc.layer_norm, args=(x,))
    caller.start()
    time.sleep(0)
    pid = fork(call)
    caller.join()
    wait(pid)

for _ in range(150):
    for pid in [fork(first), fork(first)]:
        wait(pid)
""")


def test_within_a_call():
    """In Python code that the call runs to convert its argument; which also calls."""
    run("""
class Forking:
    def __array__(self, dtype=None, copy=None):
        wait(fork())
        check()
        wait(fork())
        return x

for _ in range(3):
    assert normc.layer_norm(Forking()).tobytes() == expected
    check()
""")


def test_children_of_children():
    run("""
def descend(generations):
    check()
    if generations:
        time.sleep(0.01)
        pid = fork(lambda: descend(generations - 1))
        assert counted() == 1
        check()
        wait(pid)
        check()

descend(4)
""")


def test_by_several_threads_at_once():
    run(KNOWN + """
failed = []

def forks():
    try:
        for _ in range(25):
            normc.layer_norm(x)
            wait(fork())
    except BaseException as error:
        failed.append(error)

threads = [threading.Thread(target=forks) for _ in range(4)]
for t in threads:
    t.start()
for t in threads:
    t.join()
assert not failed, failed
check()
""")


def test_limits_go_along():
    run("""
def both():
    assert normc.get_num_threads() == 2
    normc.layer_norm(x)
    assert counted() == 2

with normc.threads(2):
    wait(fork(both))
wait(fork())
normc.set_num_threads(2)
wait(fork(both))
""")


def test_in_a_child_that_will_be_another_program():
    run("""
import subprocess
for _ in range(3):
    check()
    done = subprocess.Popen([sys.executable, "-c", "print(5)"], preexec_fn=check,
                            stdout=subprocess.PIPE)
    assert done.communicate(timeout=60)[0] == b"5\\n" and done.returncode == 0
""")


# Data that are shared out whatever the call before was: children have no hook that is set. One that
# is slow to start may have had no work when it is asked for its threads, so that is a call, too.
POOLS = PRELUDE + f"""
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
sys.path.append({os.path.dirname(child.__file__)!r})
from child import threads_after

x = np.random.default_rng(5).normal(size=(2, 400000))
with normc.threads(1):
    expected = normc.layer_norm(x).tobytes()
check()
context = multiprocessing.get_context(METHOD)
"""
USES = {
    "Pool": """
with context.Pool(2, normc.set_num_threads, (3,)) as pool:
    for y in pool.map(normc.layer_norm, [x] * 6, 1):
        assert y.tobytes() == expected
    # multiprocessing may have a thread of its own there, too
    assert pool.apply(threads_after, (normc.layer_norm, x)) >= 3
    pool.close()
    pool.join()
check()
""",
    "Process": """
for _ in range(2):
    process = context.Process(target=normc.layer_norm, args=(x,))
    process.start()
    process.join(60)
    assert process.exitcode == 0, process.exitcode
    check()
""",
    "ProcessPoolExecutor": """
with ProcessPoolExecutor(2, context, normc.set_num_threads, (3,)) as pool:
    for y in pool.map(normc.layer_norm, [x] * 6):
        assert y.tobytes() == expected
    assert pool.submit(threads_after, normc.layer_norm, x).result(60) >= 3
check()
""",
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(method, use):
    child.run(f"METHOD = {method!r}\n{POOLS}{USES[use]}", "-W", "error")
