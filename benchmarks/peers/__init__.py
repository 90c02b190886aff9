"""Who is timed: for each a function that makes its calls of a case, or none.

A peer's `calls(case, data)` returns a dict of name -> call; a call takes nothing, computes the case
once and returns its result. `array` turns a result into ndarrays. A peer that is not installed, or
does not know a norm, has no calls.
"""

from . import by_jax, by_normc, by_numpy, by_onednn, by_onnxruntime, by_torch

PEERS = (by_normc, by_numpy, by_torch, by_onnxruntime, by_onednn, by_jax)


def versions():
    return {name: version for peer in PEERS for name, version in peer.versions().items()}


def calls(case, data):
    """name -> (call, array)."""
    return {name: (call, peer.array) for peer in PEERS
            for name, call in peer.calls(case, data).items()}
