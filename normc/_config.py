"""What was built and what is used."""

import os
import sys
import warnings

import numpy as np

from . import _core
from ._convert import integer

__all__ = ["set_output_cache", "show_config"]


def show_config(mode="stdout"):
    """Shows how normc was built and what it uses on this machine.

    Parameters
    ----------
    mode : {"stdout", "dict"}
        Whether to print it, or to return it as a dict.

    Returns
    -------
    dict or None

    Raises
    ------
    ValueError
        Any other mode.

    Notes
    -----
    ``NORMC_CPU`` in the environment lowers the CPU capability in use when normc is imported, to one
    of the names listed. Results are the same bits with each.

    Examples
    --------
    >>> import normc
    >>> normc.show_config(mode="dict")["threads"] == normc.get_num_threads()
    True
    """
    if mode not in ("stdout", "dict"):
        raise ValueError(f"mode must be 'stdout' or 'dict', but got {mode!r}")
    core = _core._config()
    config = {
        "version": core["version"],
        "compiler": core["compiler"],
        "numpy": {"built": core["numpy_built"], "running": np.__version__},
        "cpu": {"known": list(core["cpu_names"]), "found": core["cpu_found"],
                "used": core["cpu_used"]},
        "threads": _core._get_threads(),
        "output_cache": {"bytes": core["output_kept"], "limit": core["output_limit"]},
    }
    if mode == "dict":
        return config
    print(f"normc     {config['version']}")
    print(f"compiler  {config['compiler']}")
    print(f"numpy     built with {config['numpy']['built']}, running {config['numpy']['running']}")
    print(f"cpu       {config['cpu']['used']} in use, {config['cpu']['found']} found, "
          f"of {', '.join(config['cpu']['known'])}")
    print(f"threads   {config['threads']}")
    print(f"output cache  {core['output_kept'] / 2**20:.1f} MiB kept, of at most "
          f"{core['output_limit'] / 2**20:.1f} MiB")
    return None


def set_output_cache(bytes):
    """Sets how much memory of large results is kept for the next ones.

    New results of 32 MiB and more lie in huge pages where the system has them, and when such an
    array is gone its memory serves the next of about its size: the pages of a new one would cost
    more time than a norm takes. At most 256 MiB are kept, if this function has not been called.

    Parameters
    ----------
    bytes : int
        What is kept at most, the oldest being given back first; what exceeds it is given back at
        once. 0: nothing is kept.

    Raises
    ------
    TypeError
        bytes is no integer.
    ValueError
        bytes is negative.

    See Also
    --------
    show_config : has how much is kept.

    Notes
    -----
    Memory serves a result that fills at least four fifths of it. Where the system has ``MADV_FREE``
    it may take what is kept, when it is short of memory. Results below 32 MiB are NumPy's affair,
    and so are all where another handler of NumPy's memory (NEP 49) is set.

    Examples
    --------
    >>> import normc
    >>> normc.set_output_cache(64 * 2**20)
    >>> normc.show_config(mode="dict")["output_cache"]["limit"]
    67108864
    >>> normc.set_output_cache(256 * 2**20)
    """
    if isinstance(bytes, bool):
        raise TypeError("bytes must be an integer, not bool")
    limit = integer(bytes, "bytes")
    if limit < 0:
        raise ValueError(f"bytes must be non-negative, but got {limit}")
    _core._output_cache(min(limit, sys.maxsize))


def obey_environment():
    """Lowers the CPU capability to NORMC_CPU."""
    name = os.environ.get("NORMC_CPU")
    if not name:
        return
    known = _core._config()["cpu_names"]
    if name in known:
        _core._use_cpu(name)
    else:
        warnings.warn(f"NORMC_CPU={name!r} is ignored: it must be one of {', '.join(known)}",
                      RuntimeWarning, stacklevel=3)
