"""The formulas compiled by JAX, on one thread or on all."""

import os

if os.environ.get("OMP_NUM_THREADS", "1") == "1":
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

try:
    import jax
    import jax.numpy as jnp
except ImportError:
    jax = None


def versions():
    return {"jax": jax.__version__} if jax else {}


def array(result):
    return tuple(map(np.asarray, result)) if isinstance(result, tuple) else np.asarray(result)


def standardise(case, x, mean, var):
    """In the arithmetic of frameworks: halves in float32."""
    over = {"axis": case.shared, "keepdims": True}
    if case.norm == "rms_norm":
        return x * jax.lax.rsqrt(jnp.square(x).mean(**over) + case.eps)
    if case.training or case.norm != "batch_norm":
        mean, var = x.mean(**over), x.var(**over)
    else:
        mean, var = mean.reshape(case.along), var.reshape(case.along)
    return (x - mean) * jax.lax.rsqrt(var + case.eps)


def forward(case, x, weight, bias, mean, var):
    wide, w, b = (a.astype(jnp.promote_types(a.dtype, jnp.float32)) for a in (x, weight, bias))
    if case.norm == "local_response_norm":
        before = case.size // 2
        pads = [(0, 0), (before, case.size - 1 - before)] + [(0, 0)] * (x.ndim - 2)
        squares = jnp.pad(jnp.square(wide), pads)
        total = sum(squares[:, i:i + x.shape[1]] for i in range(case.size))
        return (wide / (1 + 1e-4 / case.size * total) ** 0.75).astype(x.dtype)
    y = standardise(case, wide.reshape(case.split), mean, var) * w.reshape(case.along)
    y = y + b.reshape(case.along) if case.has_bias else y
    return y.reshape(x.shape).astype(x.dtype)


def calls(case, data):
    if jax is None or case.dtype == "float64":
        return {}
    x, w, b, mean, var = map(jnp.asarray, (data.x, data.weight, data.bias, data.mean, data.var))
    if not case.backward:
        compiled = jax.jit(lambda x, w, b: forward(case, x, w, b, mean, var))
        return {"jax": lambda: compiled(x, w, b).block_until_ready()}
    leaves = 2 + case.has_bias

    @jax.jit
    def backward(grad, x, w, b):
        given = (x, w, b)[:leaves]
        _, pull = jax.vjp(lambda x, w, b=b: forward(case, x, w, b, mean, var), *given)
        return pull(grad)

    grad = jnp.asarray(data.grad)
    return {"jax": lambda: jax.block_until_ready(backward(grad, x, w, b))}
