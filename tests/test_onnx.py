"""ONNX's own node vectors, within the tolerance that ONNX states for each."""

import warnings

import numpy as np
import pytest

import normc
from normc import reference

onnx = pytest.importorskip("onnx", reason="ONNX's node vectors are tested where onnx is installed")


def vectors():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
    found = {}
    for case in cases:
        node = case.model.graph.node[0] if case.model else None
        if node is None or len(case.model.graph.node) != 1 or node.op_type not in OPERATORS:
            continue
        for inputs, outputs in case.data_sets:
            found[case.name] = (node, inputs, outputs, case.rtol, case.atol)
    return found


def trailing(x, axis):
    return tuple(range(axis % x.ndim, x.ndim))


def batch_normalization(m, inputs, epsilon=1e-5, momentum=0.9, training_mode=0):
    x, weight, bias, mean, var = inputs
    mean, var = mean.copy(), var.copy()
    y = m.batch_norm(x, mean, var, weight, bias, bool(training_mode), 1 - momentum, epsilon,
                     correction=0)
    return (y, mean, var) if training_mode else (y,)


def layer_normalization(m, inputs, epsilon=1e-5, axis=-1, stash_type=1):
    x, weight, *bias = inputs
    axes = trailing(x, axis)
    y, moments = m.layer_norm(x, None, weight, bias[0] if bias else None, epsilon, axis=axes,
                              return_moments=True)
    return y, moments.mean, moments.rstd(epsilon)


def group_normalization(m, inputs, num_groups, epsilon=1e-5, stash_type=1):
    """Operator set 18 had a scale and a bias per group, 21 has one per channel."""
    x, weight, bias = inputs
    if len(weight) == num_groups != x.shape[1]:
        weight, bias = (np.repeat(p, x.shape[1] // num_groups) for p in (weight, bias))
    return (m.group_norm(x, num_groups, weight, bias, epsilon),)


def rms_normalization(m, inputs, epsilon=1e-5, axis=-1, stash_type=1):
    x, weight = inputs
    return (m.rms_norm(x, None, weight, epsilon, axis=trailing(x, axis)),)


def mean_variance_normalization(m, inputs, axes=(0, 2, 3)):
    # its function body divides by the deviation + 1e-9
    return (m.standardize(inputs[0], tuple(axes), eps=1e-18),)


def prelu(m, inputs):
    """The slope meets the trailing axes: of these, every element is a channel."""
    x, slope = inputs
    return (m.prelu(x.reshape(-1, slope.size), slope.ravel()).reshape(x.shape),)


OPERATORS = {
    "BatchNormalization": batch_normalization,
    "InstanceNormalization": lambda m, inputs, epsilon=1e-5: (
        m.instance_norm(inputs[0], None, None, *inputs[1:], eps=epsilon),),
    "LayerNormalization": layer_normalization,
    "GroupNormalization": group_normalization,
    "RMSNormalization": rms_normalization,
    "MeanVarianceNormalization": mean_variance_normalization,
    "LRN": lambda m, inputs, size, alpha=1e-4, beta=0.75, bias=1.0: (
        m.local_response_norm(inputs[0], size, alpha, beta, bias, window="onnx"),),
    "Relu": lambda m, inputs: (m.relu(inputs[0]),),
    "LeakyRelu": lambda m, inputs, alpha=0.01: (m.leaky_relu(inputs[0], alpha),),
    "PRelu": prelu,
}


VECTORS = vectors()
modules = pytest.mark.parametrize("m", [normc, reference], ids=["normc", "reference"])


def test_every_operator_has_vectors():
    assert {node.op_type for node, *_ in VECTORS.values()} == set(OPERATORS)
    assert len(VECTORS) > 50


def assert_vector(m, node, inputs, outputs, rtol, atol):
    options = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    for y, expected in zip(OPERATORS[node.op_type](m, inputs, **options), outputs):
        assert np.shape(y) == expected.shape
        np.testing.assert_allclose(y, expected, rtol, atol)


@modules
@pytest.mark.parametrize("name", VECTORS)
def test_vector(name, m):
    assert_vector(m, *VECTORS[name])


@modules
@pytest.mark.parametrize("version", [18, 21])
def test_group_normalization_of_both_versions(version, m, rng):
    """By the function that the standard itself gives as the operator's body."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    x = rng.normal(size=(3, 6, 4, 5)).astype(np.float32)
    size = 2 if version == 18 else 6
    weight, bias = rng.normal(size=(2, size)).astype(np.float32)
    node = helper.make_node("GroupNormalization", ["x", "w", "b"], ["y"], num_groups=2, epsilon=0.2)
    names = [("x", x.shape), ("w", (size,)), ("b", (size,))]
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in names],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    expected = ReferenceEvaluator(model).run(None, {"x": x, "w": weight, "b": bias})
    assert_vector(m, node, [x, weight, bias], expected, 1e-3, 1e-7)
