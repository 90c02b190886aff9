"""Programs in a process of their own, with all that they start, for so long at most."""

import os
import signal
import subprocess
import sys

import normc

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(normc.__file__)))
# NumPy's own threads would be counted with normc's.
ALONE = {"OPENBLAS_NUM_THREADS": "1", "NORMC_NUM_THREADS": "", "OMP_NUM_THREADS": ""}


def start(code, *options, **environment):
    """As the leader of a group."""
    return subprocess.Popen([sys.executable, *options, "-c", code], cwd=ROOT, text=True,
                            env={**os.environ, **ALONE, **environment}, start_new_session=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process, timeout=150):
    """-> what it printed, which must be no error or warning."""
    try:
        out, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, errors = process.communicate()
        raise AssertionError(f"no end after {timeout} s: {out}{errors}") from None
    assert process.returncode == 0 and not errors, f"status {process.returncode}: {out}{errors}"
    return out


def run(code, *options, **environment):
    return finish(start(code, *options, **environment))


def threads_after(function, *args):
    """-> how many threads this process has then."""
    function(*args)
    return len(os.listdir("/proc/self/task"))
