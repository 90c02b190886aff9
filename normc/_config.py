"""What was built and what is used."""

import os
import warnings

import numpy as np

from . import _core

__all__ = ["show_config"]


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
    }
    if mode == "dict":
        return config
    print(f"normc     {config['version']}")
    print(f"compiler  {config['compiler']}")
    print(f"numpy     built with {config['numpy']['built']}, running {config['numpy']['running']}")
    print(f"cpu       {config['cpu']['used']} in use, {config['cpu']['found']} found, "
          f"of {', '.join(config['cpu']['known'])}")
    print(f"threads   {config['threads']}")
    return None


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
