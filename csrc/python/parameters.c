/* What each parameter's name means, in every function that has it: one row each. */
#include "call.h"

#include <float.h>

typedef int(Converter)(Call *, PyObject *, const Parameter *);

struct Parameter {
    const char *name;
    Converter *convert;
    size_t offset; /* of the field in Call, where the converter needs to be told */
};

static void *field(Call *c, const Parameter *p)
{
    return (char *)c + p->offset;
}

static int to_x(Call *c, PyObject *o, const Parameter *p)
{
    (void)p;
    return x_convert(&c->o, o);
}

static int to_where(Call *c, PyObject *o, const Parameter *p)
{
    (void)p;
    c->takes_where = 1;
    return where_convert(&c->o, o);
}

static int to_out(Call *c, PyObject *o, const Parameter *p)
{
    (void)p;
    return out_convert(&c->o, o);
}

static int to_parameter(Call *c, PyObject *o, const Parameter *p)
{
    return parameter_convert(c->o.state, o, p->name, field(c, p));
}

static int to_running(Call *c, PyObject *o, const Parameter *p)
{
    return o == Py_None ? 0 : shared_convert(c->o.state, o, p->name, field(c, p));
}

static int to_bool(Call *c, PyObject *o, const Parameter *p)
{
    return as_bool(o, p->name, field(c, p));
}

static int to_size(Call *c, PyObject *o, const Parameter *p)
{
    return as_size(o, p->name, field(c, p));
}

static int to_sizes(Call *c, PyObject *o, const Parameter *p)
{
    return as_sizes(o, p->name, field(c, p));
}

static int to_double(Call *c, PyObject *o, const Parameter *p)
{
    return as_double(o, p->name, field(c, p));
}

static int to_finite(Call *c, PyObject *o, const Parameter *p)
{
    return as_finite(o, p->name, field(c, p));
}

static int to_correction(Call *c, PyObject *o, const Parameter *p)
{
    return as_correction(o, p->name, &c->job.correction);
}

/* None is rms_norm's alone: as torch, the arithmetic type's own epsilon. */
static int to_eps(Call *c, PyObject *o, const Parameter *p)
{
    if (o != Py_None || c->job.kind != RMS)
        return as_eps(o, p->name, &c->job.eps);
    c->job.eps = c->o.t.dtype == F64 ? DBL_EPSILON : FLT_EPSILON;
    return 0;
}

/* The channels', or any axes. */
static int to_axis(Call *c, PyObject *o, const Parameter *p)
{
    const int any = c->job.kind == LAYER || c->job.kind == RMS;
    return any ? as_sizes(o, p->name, &c->axes) : as_size(o, p->name, &c->channel_axis);
}

/* Windows of even size reach one channel further back (torch) or ahead (ONNX). */
static int to_window(Call *c, PyObject *o, const Parameter *p)
{
    if (!PyUnicode_Check(o)) {
        PyErr_Format(PyExc_TypeError, "%s must be a string, not %s", p->name, Py_TYPE(o)->tp_name);
        return -1;
    }
    c->onnx_window = PyUnicode_CompareWithASCIIString(o, "onnx") == 0;
    if (c->onnx_window || PyUnicode_CompareWithASCIIString(o, "torch") == 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s must be 'torch' or 'onnx', but got %R", p->name, o);
    return -1;
}

static const Parameter table[] = {
    {"x", to_x, 0},
    {"where", to_where, 0},
    {"out", to_out, 0},
    {"weight", to_parameter, offsetof(Call, weight)},
    {"bias", to_parameter, offsetof(Call, bias)},
    {"mean_weight", to_parameter, offsetof(Call, mean_weight)},
    {"var_weight", to_parameter, offsetof(Call, var_weight)},
    {"running_mean", to_running, offsetof(Call, running.mean)},
    {"running_var", to_running, offsetof(Call, running.var)},
    {"training", to_bool, offsetof(Call, use_batch)},
    {"use_input_stats", to_bool, offsetof(Call, use_batch)},
    {"return_moments", to_bool, offsetof(Call, return_moments)},
    {"momentum", to_finite, offsetof(Call, momentum)},
    {"eps", to_eps, 0},
    {"correction", to_correction, 0},
    {"axis", to_axis, 0},
    {"normalized_shape", to_sizes, offsetof(Call, normalized_shape)},
    {"num_groups", to_size, offsetof(Call, job.num_groups)},
    {"size", to_size, offsetof(Call, window.size)},
    {"alpha", to_double, offsetof(Call, window.alpha)},
    {"beta", to_double, offsetof(Call, window.beta)},
    {"k", to_double, offsetof(Call, window.k)},
    {"window", to_window, 0},
    {"negative_slope", to_double, offsetof(Call, negative_slope)},
};

const Parameter *find_parameter(const char *name)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    return NULL;
}

int call_convert(Call *c, SignatureId id, const char *function, PyObject *const *args,
                 Py_ssize_t nargs, PyObject *kwnames)
{
    const Signature *s = &c->o.state->signatures[id];
    PyObject *values[MAXARGS];
    if (parse(s, function, args, nargs, kwnames, values) < 0)
        return -1;
    for (int i = 0; i < s->count; i++)
        if (s->parameters[i]->convert(c, values[i], s->parameters[i]) < 0)
            return -1;
    return mask_convert(&c->o, values[0], c->takes_where) < 0 ? -1 : shape_note(&c->o);
}
