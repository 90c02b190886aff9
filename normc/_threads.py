"""How many threads the calls share, and who says so."""

import os
import sys
import warnings
from contextlib import ContextDecorator
from threading import local

from . import _core
from ._convert import integer
from ._quota import cpus

__all__ = ["get_num_threads", "set_num_threads", "threads"]


def _number(n, name):
    if isinstance(n, bool):
        raise TypeError(f"{name} must be an integer, not bool")
    number = integer(n, name)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, but got {number}")
    return min(number, _core._MAX_THREADS)


def get_num_threads():
    """How many threads a call from here may share its work among.

    Returns
    -------
    int

    See Also
    --------
    set_num_threads : says how many, and has the rest.

    Examples
    --------
    >>> import normc
    >>> normc.get_num_threads() >= 1
    True
    """
    return _core._get_threads()


def set_num_threads(n):
    """Sets how many threads each call may share its work among; results are the same bits with any.

    Calls of less than about 2 MB, or, where they follow each other closely, of less than 130 KB
    (gradients 50 KB), use one thread whatever is set. At first it is what ``NORMC_NUM_THREADS``,
    or else ``OMP_NUM_THREADS``, says in the environment when normc is imported, or else as many as
    the process may use: of its affinity mask and its control groups' quota (rounded up), the
    smaller.

    Parameters
    ----------
    n : int
        At least 1; more than 256 are 256.

    Raises
    ------
    TypeError
        n is no integer.
    ValueError
        n is less than 1.

    See Also
    --------
    threads : for a while, and for one thread alone.

    Notes
    -----
    One call at a time has the threads; others that come meanwhile, from other Python threads, run
    alone. The threads sleep between calls, and are made again after a fork, in parent and child.
    ``threadpoolctl`` sees and limits them, too.

    Examples
    --------
    >>> import normc
    >>> before = normc.get_num_threads()
    >>> normc.set_num_threads(2)
    >>> normc.get_num_threads()
    2
    >>> normc.set_num_threads(before)
    """
    _core._set_threads(_number(n, "n"))


class threads(ContextDecorator):
    """In a ``with`` block, calls of this Python thread share their work among n threads at most.

    Other Python threads go by `set_num_threads`. It may be nested, and decorate a function. The
    limit is the thread's, not a task's or a generator's: while one of these waits inside the block,
    it holds for what runs meanwhile.

    Parameters
    ----------
    n : int
        As of `set_num_threads`.

    Raises
    ------
    TypeError, ValueError
        As from `set_num_threads`.

    Examples
    --------
    >>> import normc
    >>> with normc.threads(1):
    ...     normc.get_num_threads()
    1
    """

    _entered = local()  # those of a thread, the last of which counts

    def __init__(self, n):
        self.n = _number(n, "n")

    def __enter__(self):
        vars(self._entered).setdefault("all", []).append(self)
        _core._set_own_threads(self.n)

    def __exit__(self, *exception):
        """Wherever it stands: generators may leave in another order, or in another thread."""
        entered = vars(self._entered).setdefault("all", [])
        for i in reversed(range(len(entered))):
            if entered[i] is self:
                del entered[i]
                break
        _core._set_own_threads(entered[-1].n if entered else 0)

    def _recreate_cm(self):
        return type(self)(self.n)

    def __repr__(self):
        return f"normc.threads({self.n})"


# ---- at import -----------------------------------------------------------------------------------

def obey_environment():
    """The number that the environment asks for, or else of the CPUs that there are."""
    for name in ("NORMC_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "").split(",")[0].strip()  # OpenMP: one for each level
        if not value:
            continue
        try:
            return set_num_threads(int(value))
        except ValueError:
            warnings.warn(f"{name}={os.environ[name]!r} is ignored: it must be a number of "
                          "threads, at least 1", RuntimeWarning, stacklevel=3)
    set_num_threads(cpus())


class _Registrar:
    """Tells threadpoolctl of normc's threads when it is imported, whichever comes first."""

    def find_spec(self, name, path=None, target=None):
        if name != "threadpoolctl":
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module):
                load(module)
                register(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)

            spec.loader.exec_module = load_and_register
        return spec


def register(threadpoolctl):
    """With threadpoolctl, which from 3.2 on knows how."""
    if not hasattr(threadpoolctl, "register"):
        return

    class Controller(threadpoolctl.LibController):
        user_api = internal_api = "normc"
        filename_prefixes = "_core.",
        check_symbols = "normc_threads",

        def get_num_threads(self):
            return _core._get_threads(True)

        def set_num_threads(self, num_threads):
            set_num_threads(num_threads)

        def get_version(self):
            return _core.__version__

    threadpoolctl.register(Controller)


def be_seen():
    if "threadpoolctl" in sys.modules:
        register(sys.modules["threadpoolctl"])
    else:
        sys.meta_path.insert(0, _Registrar())
