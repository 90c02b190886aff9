#include "call.h"

const char *const array_names[ARRAYS] = {
    "weight",      "bias",      "running_mean", "running_var", "num_batches_tracked",
    "mean_weight", "var_weight"};

void call_init(Call *c, State *state, NormKind kind)
{
    operands_init(&c->o, state);
    memset((char *)c + offsetof(Call, arrays), 0,
           offsetof(Call, normalized_shape) - offsetof(Call, arrays));
    c->job.kind = kind;
    c->job.reduce = c->reduce;
    c->use_batch = 1;
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
    if (given)
        c->given = PyMem_New(double, 2 * channels);
    if ((c->update && c->job.channels == NULL) || (given && c->given == NULL)) {
        PyErr_NoMemory();
        return -1;
    }
    if (!given)
        return 0;
    vector_read(&c->running_mean, F64, c->given);
    vector_read(&c->running_var, F64, c->given + channels);
    c->job.given_mean = c->given;
    c->job.given_var = c->given + channels;
    return 0;
}

int job_place(Call *c)
{
    c->job.t = c->o.t;
    const npy_intp n = norm_parameters(&c->job);
    if (operands_place(&c->o) < 0 ||
        parameter_place(&c->o, "weight", n, &c->arrays[WEIGHT], &c->job.weight) < 0 ||
        parameter_place(&c->o, "bias", n, &c->arrays[BIAS], &c->job.bias) < 0)
        return -1;
    c->job.t = c->o.t;
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
    PyObject *moments = c->return_moments ? moments_show(c) : NULL, *result;
    if (c->return_moments && moments == NULL)
        return NULL;
    if (moments && c->o.writes)
        result = Py_BuildValue("ON", c->o.result, moments);
    else
        result = moments ? moments : Py_NewRef(c->o.result);
    if (result && c->update)
        running_update(&c->running_mean, &c->running_var, c->job.channels, c->momentum);
    return result;
}
