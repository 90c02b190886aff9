/* What each parameter's name means, in every function that has it: one row each. */
#include "call.h"

#include <math.h>

typedef enum {
    TO_X,
    TO_GRAD,
    TO_MOMENTS,
    TO_WHERE,
    TO_OUT,
    TO_ARRAY,  /* read only */
    TO_SHARED, /* the caller's memory */
    TO_BOOL,
    TO_SIZE,
    TO_SIZES,
    TO_DOUBLE,
    TO_FINITE,
    TO_CORRECTION,
    TO_EPS,
    TO_AXIS,
    TO_WINDOW,
    TO_ACTIVATION,
    TO_RESIDUAL
} Conversion;

struct Parameter {
    const char *name;
    Conversion conversion;
    size_t offset; /* of the field in Call */
};

static const Parameter table[] = {
    {"x", TO_X, 0},
    {"grad", TO_GRAD, 0},
    {"moments", TO_MOMENTS, 0},
    {"where", TO_WHERE, 0},
    {"out", TO_OUT, 0},
    {"weight", TO_ARRAY, offsetof(Call, arrays[WEIGHT])},
    {"bias", TO_ARRAY, offsetof(Call, arrays[BIAS])},
    {"mean_weight", TO_ARRAY, offsetof(Call, arrays[MEAN_WEIGHT])},
    {"var_weight", TO_ARRAY, offsetof(Call, arrays[VAR_WEIGHT])},
    {"running_mean", TO_SHARED, offsetof(Call, arrays[RUNNING_MEAN])},
    {"running_var", TO_SHARED, offsetof(Call, arrays[RUNNING_VAR])},
    {"training", TO_BOOL, offsetof(Call, use_batch)},
    {"use_input_stats", TO_BOOL, offsetof(Call, use_batch)},
    {"return_moments", TO_BOOL, offsetof(Call, return_moments)},
    {"momentum", TO_FINITE, offsetof(Call, momentum)},
    {"eps", TO_EPS, offsetof(Call, job.eps)},
    {"correction", TO_CORRECTION, offsetof(Call, job.correction)},
    {"axis", TO_AXIS, 0},
    {"normalized_shape", TO_SIZES, offsetof(Call, normalized_shape)},
    {"num_groups", TO_SIZE, offsetof(Call, job.num_groups)},
    {"size", TO_SIZE, offsetof(Call, window.size)},
    {"alpha", TO_DOUBLE, offsetof(Call, window.alpha)},
    {"beta", TO_DOUBLE, offsetof(Call, window.beta)},
    {"k", TO_DOUBLE, offsetof(Call, window.k)},
    {"window", TO_WINDOW, offsetof(Call, onnx_window)},
    {"activation", TO_ACTIVATION, offsetof(Call, job.relu)},
    {"residual", TO_RESIDUAL, 0},
    {"negative_slope", TO_DOUBLE, offsetof(Call, negative_slope)},
    {NULL, TO_X, 0},
};

const Parameter *find_parameter(const char *name)
{
    const Parameter *p = table;
    while (p->name && strcmp(p->name, name) != 0)
        p++;
    return p->name ? p : NULL;
}

static int convert(Call *c, const Parameter *p, PyObject *o)
{
    const State *state = c->o.state;
    void *field = (char *)c + p->offset;
    switch (p->conversion) {
    case TO_X:
        c->x = o;
        return x_convert(&c->o, o);
    case TO_GRAD:
        return grad_convert(&c->o, o);
    case TO_MOMENTS:
        return moments_convert(c, o);
    case TO_WHERE:
        c->takes_where = 1;
        return where_convert(&c->o, o);
    case TO_OUT:
        return out_convert(&c->o, o);
    case TO_ARRAY:
        return parameter_convert(state, o, p->name, field);
    case TO_SHARED:
        return o == Py_None ? 0 : shared_convert(state, o, p->name, field);
    case TO_BOOL:
        return as_bool(state, o, p->name, field);
    case TO_SIZE:
        return as_size(state, o, p->name, field);
    case TO_SIZES:
        return as_sizes(state, o, p->name, field);
    case TO_DOUBLE:
        return as_double(state, o, p->name, field);
    case TO_FINITE:
        return as_finite(state, o, p->name, field);
    case TO_CORRECTION:
        return as_correction(state, o, p->name, field);
    case TO_EPS: /* None is for rms_norm: as torch, the arithmetic type's own epsilon */
        if (o != Py_None || norm_centred(c->job.kind))
            return as_eps(state, o, p->name, field);
        c->job.eps = NAN;
        return 0;
    case TO_AXIS: /* the channels', or any axes */
        return norm_has_channels(c->job.kind) ? as_size(state, o, p->name, &c->channel_axis)
                                              : as_sizes(state, o, p->name, &c->axes);
    case TO_WINDOW:
        return as_window(state, o, p->name, field);
    case TO_ACTIVATION:
        return as_activation(state, o, p->name, field);
    case TO_RESIDUAL:
        c->residual = o;
        return residual_convert(&c->o, o);
    }
    Py_UNREACHABLE();
}

int convert_all(Call *c, const Signature *s, PyObject *const *values, int count)
{
    for (int i = 0; i < count; i++)
        if (values[i] && convert(c, s->parameters[i], values[i]) < 0)
            return -1;
    return 0;
}
