"""normc: into an existing array ("normc"), and returning a new one ("fresh"); where calls share
their work among threads, the latter once more, to be timed on one ("alone")."""

import normc


def versions():
    return {"normc": normc.__version__}


def array(result):
    return result


def calls(case, data):
    function, args, keywords = _call(case, data)
    if case.backward:
        forward, its_args, its_keywords = _call(case, data, backward=False)
        _, moments = forward(*its_args, **its_keywords, return_moments=True)
        return alone({"fresh": lambda: function(*args, moments=moments, **keywords)})
    out = data.x.copy()
    return alone({"normc": lambda: function(*args, out=out, **keywords),
                  "fresh": lambda: function(*args, **keywords)})


def alone(calls):
    return calls if normc.get_num_threads() == 1 else {**calls, "alone": calls["fresh"]}


def _call(case, data, backward=None):
    back = case.backward if backward is None else backward
    function = getattr(normc, case.norm + "_backward" * back)
    x, w, b, axis = data.x, data.weight, data.bias, case.axis
    args = [data.grad, x] if back else [x]
    bias = {} if back or not case.has_bias else {"bias": b}
    if case.norm in ("layer_norm", "rms_norm"):
        if axis == -1:
            args.append(case.channels)
            return function, args, {"weight": w, **bias}
        return function, args, {"weight": w, "axis": axis, **bias}
    if case.norm == "local_response_norm":
        return function, [*args, case.size], {"axis": axis}
    if case.norm == "group_norm":
        args.append(case.num_groups)
    keywords = {"weight": w, "axis": axis, **bias}
    if case.norm == "batch_norm" and not back:
        running = data.mean.copy(), data.var.copy()
        keywords |= dict(zip(("running_mean", "running_var"), running), training=case.training)
    return function, args, keywords
