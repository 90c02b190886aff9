"""The normalization layers of deep learning, over NumPy arrays.

Every function here subtracts a mean, divides by a standard deviation, scales and shifts; norms
differ only in which elements share the mean. Names and arguments are those of
``torch.nn.functional`` and ``torch.nn``. ``normc.reference`` is the same in plain NumPy, to be
read.
"""

from . import _config, _core, _docs, _threads
from ._activations import LeakyReLU, PReLU, ReLU
from ._batchnorm import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d
from ._config import set_output_cache, show_config
from ._core import (batch_norm, batch_norm_backward, group_norm, group_norm_backward,
                    instance_norm, instance_norm_backward, layer_norm, layer_norm_backward,
                    leaky_relu, leaky_relu_backward, local_response_norm,
                    local_response_norm_backward, moments, prelu, prelu_backward, relu,
                    relu_backward, rms_norm, rms_norm_backward, standardize, switchable_norm,
                    switchable_norm_backward)
from ._moments import Moments
from ._norms import GroupNorm, LayerNorm, LocalResponseNorm, RMSNorm
from ._threads import get_num_threads, set_num_threads, threads
from ._tools import decay, fold_batch_norm, recompute_stats
from ._tracking import (InstanceNorm1d, InstanceNorm2d, InstanceNorm3d, SwitchableNorm1d,
                        SwitchableNorm2d, SwitchableNorm3d)

__all__ = ["BatchNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "GroupNorm", "InstanceNorm1d",
           "InstanceNorm2d", "InstanceNorm3d", "LayerNorm", "LeakyReLU", "LocalResponseNorm",
           "Moments", "PReLU", "RMSNorm", "ReLU", "SwitchableNorm1d", "SwitchableNorm2d",
           "SwitchableNorm3d", "batch_norm", "batch_norm_backward", "decay", "fold_batch_norm",
           "get_num_threads", "group_norm", "group_norm_backward", "instance_norm",
           "instance_norm_backward", "layer_norm", "layer_norm_backward", "leaky_relu",
           "leaky_relu_backward", "local_response_norm", "local_response_norm_backward", "moments",
           "prelu", "prelu_backward", "recompute_stats", "relu", "relu_backward", "rms_norm",
           "rms_norm_backward", "set_num_threads", "set_output_cache", "show_config",
           "standardize", "switchable_norm", "switchable_norm_backward", "threads"]
__version__ = _core.__version__

for _name in __all__:
    if isinstance(globals()[_name], type) or hasattr(globals()[_name], "__code__"):
        globals()[_name].__module__ = __name__
del _name

_docs.attach()
_config.obey_environment()
_threads.obey_environment()
_threads.be_seen()


def __getattr__(name):
    if name == "reference":
        from importlib import import_module

        return import_module(".reference", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
