#include "call.h"

#include <float.h>
#include <math.h>

const char *const array_names[ARRAYS] = {
    "weight",      "bias",      "running_mean", "running_var", "num_batches_tracked",
    "mean_weight", "var_weight"};

/* Of a Call, what is not for later: its arrays of steps and sizes are large. */
typedef struct {
    char operands[offsetof(Operands, shape)];
    char rest[offsetof(Call, normalized_shape) - offsetof(Call, arrays)];
} Initial;
_Static_assert(offsetof(Call, o) == 0, "operands come first");

static void begin(Call *c, const Initial *from)
{
    memcpy(c, from->operands, sizeof from->operands);
    memcpy(c->arrays, from->rest, sizeof from->rest);
    c->normalized_shape.n = c->axes.n = -1;
    c->job.reduce = c->reduce;
}

/* Defaults are numbers and words, which are kept as they were converted, or None. */
static int is_initial(const Call *c)
{
    int objects = c->o.x || c->o.where || c->o.grad || c->o.y || c->o.residual || c->moments;
    for (int i = 0; i < ARRAYS; i++)
        objects |= c->arrays[i] != NULL;
    return !objects && c->normalized_shape.n < 0 && c->axes.n < 0;
}

int initial_make(State *state, SignatureId id, PyObject *defaults)
{
    Signature *s = &state->signatures[id];
    PyObject *values[MAXARGS];
    Call c;
    Initial *to = PyMem_Calloc(1, sizeof *to);
    if (to == NULL)
        return refuse(PyExc_MemoryError, "no memory for a signature");
    begin(&c, to);
    c.o.state = state;
    c.job.kind = kinds[id];
    c.use_batch = 1;
    s->required = 0;
    for (int i = 0; i < s->count; i++) {
        const int needed = PyTuple_GET_ITEM(defaults, i) == Py_Ellipsis;
        values[i] = needed ? NULL : PyTuple_GET_ITEM(defaults, i);
        s->required = needed ? i + 1 : s->required;
    }
    int status = convert_all(&c, s, values, s->count);
    if (status == 0 && !is_initial(&c))
        status = refuse(PyExc_ValueError, "a default is neither None nor a number or word");
    memcpy(to->operands, &c, sizeof to->operands);
    memcpy(to->rest, c.arrays, sizeof to->rest);
    if (status < 0)
        call_clear(&c);
    PyMem_Free(status < 0 ? to : s->initial);
    s->initial = status < 0 ? s->initial : to;
    return status;
}

int call_open(Call *c, State *state, SignatureId id, const char *function, PyObject *const *args,
              Py_ssize_t nargs, PyObject *kwnames)
{
    const Signature *s = &state->signatures[id];
    Arguments given;
    if (parse(s, function, args, nargs, kwnames, &given) < 0)
        return -1;
    begin(c, s->initial);
    if (convert_all(c, s, given.values, given.count) == 0 &&
        mask_convert(&c->o, c->x, c->takes_where) == 0 &&
        mask_convert(&c->o, c->residual, c->takes_where) == 0) {
        if (isnan(c->job.eps))
            c->job.eps = c->o.t.dtype == F64 ? DBL_EPSILON : FLT_EPSILON;
        return 0;
    }
    call_clear(c);
    return -1;
}

void call_clear(Call *c)
{
    operands_clear(&c->o);
    for (int i = 0; i < ARRAYS; i++)
        Py_XDECREF(c->arrays[i]);
    Py_XDECREF(c->moments);
    PyMem_Free(c->given);
    PyMem_Free(c->job.channels);
}

static int moments_make(Call *c)
{
    ptrdiff_t shape[MAXD];
    npy_intp size[2] = {norm_groups(&c->job, shape), 4};
    _Static_assert(sizeof(Moment) == 4 * sizeof(double), "a row is a Moment");
    if ((c->moments = (PyArrayObject *)PyArray_ZEROS(2, size, NPY_DOUBLE, 0)) == NULL)
        return -1;
    c->job.moments = PyArray_DATA(c->moments);
    return 0;
}

/* The statistics as class Moments. */
static PyObject *moments_show(const Call *c)
{
    ptrdiff_t shape[MAXD];
    norm_groups(&c->job, shape);
    return PyObject_CallFunction(c->o.state->imports[MOMENTS], "ONs", c->moments,
                                 PyArray_IntTupleFromIntp(c->o.t.ndim, (npy_intp *)shape),
                                 norm_centred(c->job.kind) ? "mean" : "zero");
}

/* Statistics that come in or go out by channel. */
static int statistics_place(Call *c)
{
    const npy_intp channels = c->running_mean.n;
    const int given = !c->use_batch && c->arrays[RUNNING_MEAN];
    if (c->update)
        c->job.channels = PyMem_New(ChannelStat, channels);
    if (given && channels > FEW_CHANNELS)
        c->given = PyMem_New(double, 2 * channels);
    if ((c->update && c->job.channels == NULL) ||
        (given && channels > FEW_CHANNELS && c->given == NULL)) {
        PyErr_NoMemory();
        return -1;
    }
    if (!given)
        return 0;
    double *to = channels > FEW_CHANNELS ? c->given : c->few;
    vector_read(&c->running_mean, F64, to);
    vector_read(&c->running_var, F64, to + channels);
    c->job.given_mean = to;
    c->job.given_var = to + channels;
    return 0;
}

int job_place(Call *c)
{
    if (operands_place(&c->o) < 0)
        return -1;
    c->job.t = c->o.t;
    c->job.sum = c->o.residual ? &c->o.terms : NULL;
    const npy_intp n = norm_parameters(&c->job);
    if (parameter_place(&c->o, "weight", n, &c->arrays[WEIGHT], &c->job.weight) < 0 ||
        parameter_place(&c->o, "bias", n, &c->arrays[BIAS], &c->job.bias) < 0)
        return -1;
    return statistics_place(c);
}

int norm_compute(Call *c)
{
    if (job_place(c) < 0 ||
        ((c->return_moments || (c->keep_moments && c->use_batch)) && moments_make(c) < 0))
        return -1;
    PyThreadState *thread = release_gil(&c->o);
    const int failed = norm_forward(&c->job);
    restore_gil(thread);
    if (failed)
        PyErr_NoMemory();
    return failed;
}

PyObject *norm_finish(Call *c)
{
    const Operands *o = &c->o;
    PyObject *moments = c->return_moments ? moments_show(c) : NULL, *result;
    if (c->return_moments && moments == NULL)
        return NULL;
    if (o->sum)
        result = moments ? Py_BuildValue("OON", o->result, o->sum, moments)
                         : Py_BuildValue("OO", o->result, o->sum);
    else if (moments && o->writes)
        result = Py_BuildValue("ON", o->result, moments);
    else
        result = moments ? moments : Py_NewRef(o->result);
    if (result && c->update)
        running_update(&c->running_mean, &c->running_var, c->job.channels, c->momentum);
    return result;
}
