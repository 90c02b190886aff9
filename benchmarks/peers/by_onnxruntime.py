"""onnxruntime: a model of one node; new outputs every time."""

import os

try:
    import onnxruntime
    from onnx import TensorProto, helper
except ImportError:
    onnxruntime = None

# Operator sets that onnxruntime has CPU kernels for.
OPSETS = {"layer_norm": 17, "rms_norm": 23, "batch_norm": 15, "group_norm": 21,
          "instance_norm": 6, "local_response_norm": 13}


def versions():
    return {"onnxruntime": onnxruntime.__version__} if onnxruntime else {}


def array(result):
    return result


def node(case):
    """The operator, its inputs beside x, its attributes; None: there is none."""
    trailing = case.axis in (-1, len(case.shape) - 1)
    if case.norm in ("layer_norm", "rms_norm"):
        name = "LayerNormalization" if case.norm == "layer_norm" else "RMSNormalization"
        return (name, ["w", "b"][:1 + case.has_bias],
                {"axis": -1, "epsilon": case.eps}) if trailing else None
    if case.axis != 1:
        return None
    return {
        "batch_norm": None if case.training else (
            "BatchNormalization", ["w", "b", "mean", "var"], {"epsilon": case.eps}),
        "group_norm": ("GroupNormalization", ["w", "b"],
                       {"epsilon": case.eps, "num_groups": case.num_groups}),
        "instance_norm": ("InstanceNormalization", ["w", "b"], {"epsilon": case.eps}),
        "local_response_norm": ("LRN", [], {"size": case.size, "alpha": 1e-4, "beta": 0.75,
                                            "bias": 1.0}),
    }[case.norm]


def calls(case, data):
    types = {"float32": "FLOAT", "float16": "FLOAT16"}
    if onnxruntime is None or case.backward or case.dtype not in types or node(case) is None:
        return {}
    operator, names, attributes = node(case)
    kind = getattr(TensorProto, types[case.dtype])
    feeds = {"x": data.x, "w": data.weight, "b": data.bias, "mean": data.mean, "var": data.var}
    feeds = {name: feeds[name] for name in ["x", *names]}
    graph = helper.make_graph(
        [helper.make_node(operator, list(feeds), ["y"], **attributes)], "one",
        [helper.make_tensor_value_info(name, kind, a.shape) for name, a in feeds.items()],
        [helper.make_tensor_value_info("y", kind, case.shape)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSETS[case.norm])],
                              ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options,
                                               providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime's own, of several classes: no kernel for this
        return {}
    return {"onnxruntime": lambda: session.run(None, feeds)[0]}
