"""torch.nn.functional, eager and compiled ("compiled"), which always returns new tensors; its
gradients by autograd, whose graph is kept."""

import os

import numpy as np

try:
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
except ImportError:
    torch = None


def versions():
    return {"torch": torch.__version__} if torch else {}  # of "compiled", too


def tensor(a):
    if a.dtype.name == "bfloat16":
        return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(a)


def array(result):
    if isinstance(result, tuple):
        return tuple(array(part) for part in result)
    result = result.detach()
    return result.float().numpy() if result.dtype.itemsize == 2 else result.numpy()


def calls(case, data):
    if torch is None:
        return {}
    eager = functional(case)
    torch._dynamo.reset()
    compiled = torch.compile(eager, dynamic=False)
    return {name: call for name, function in (("torch", eager), ("compiled", compiled))
            if (call := _call(case, data, function))}


def _call(case, data, function):
    x, w, b = (tensor(a) for a in (data.x, data.weight, data.bias))
    running = [torch.from_numpy(v.copy()).to(w.dtype) for v in (data.mean, data.var)]
    if not case.backward:
        return lambda: function(x, w, b, *running)
    leaves = [a.requires_grad_() for a in (x, w, b)][:2 + case.has_bias]
    y, grad = function(x, w, b, *running), tensor(data.grad)
    return lambda: torch.autograd.grad(y, leaves, grad, retain_graph=True)


def functional(case):
    """x, weight, bias, running mean and variance -> y, of a case's norm."""
    axis, n = case.axis, (case.channels,)
    last = axis in (-1, len(case.shape) - 1)
    if case.norm == "layer_norm" and last:
        return lambda x, w, b, m, v: F.layer_norm(x, n, w, b)
    if case.norm == "layer_norm":
        return lambda x, w, b, m, v: F.layer_norm(x.movedim(axis, -1), n, w, b).movedim(-1, axis)
    if case.norm == "batch_norm":
        return lambda x, w, b, m, v: F.batch_norm(x.movedim(axis, 1), m, v, w, b,
                                                  case.training).movedim(1, axis)
    if case.norm == "group_norm":
        return lambda x, w, b, m, v: F.group_norm(x.movedim(axis, 1), case.num_groups, w,
                                                  b).movedim(1, axis)
    return {
        "rms_norm": lambda x, w, b, m, v: F.rms_norm(x, n, w, case.eps),
        "instance_norm": lambda x, w, b, m, v: F.instance_norm(x, None, None, w, b),
        "local_response_norm": lambda x, w, b, m, v: F.local_response_norm(x, case.size),
    }[case.norm]
