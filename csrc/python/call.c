#include "call.h"

void call_init(Call *c, State *state, NormKind kind)
{
    operands_init(&c->o, state);
    memset((char *)c + offsetof(Call, weight), 0,
           offsetof(Call, normalized_shape) - offsetof(Call, weight));
    c->job.kind = kind;
    c->job.reduce = c->reduce;
    c->use_batch = 1;
}

void call_clear(Call *c)
{
    operands_clear(&c->o);
    Py_XDECREF(c->weight);
    Py_XDECREF(c->bias);
    Py_XDECREF(c->mean_weight);
    Py_XDECREF(c->var_weight);
    Py_XDECREF(c->running.mean);
    Py_XDECREF(c->running.var);
    PyMem_Free(c->given);
    PyMem_Free(c->job.channels);
    PyMem_Free(c->job.moments);
}

int vector_check(PyArrayObject *array, const char *name, npy_intp n)
{
    if (array == NULL || (PyArray_NDIM(array) == 1 && PyArray_DIM(array, 0) == n))
        return 0;
    PyObject *shape = shape_tuple(array);
    if (shape && PyArray_SIZE(array) != n)
        PyErr_Format(PyExc_ValueError, "%s should contain %zd elements not %zd (its shape is %R)",
                     name, n, PyArray_SIZE(array), shape);
    else if (shape)
        PyErr_Format(PyExc_ValueError, "%s must have shape (%zd,), but has %R", name, n, shape);
    Py_XDECREF(shape);
    return -1;
}

/* A single value has no variance to speak of. Masks are exempt: what they leave is data, not a
 * shape. */
static int batch_size_check(const Call *c)
{
    PyArrayObject *x = c->o.x;
    const int instance = c->job.kind == INSTANCE;
    npy_intp groups = PyArray_DIM(x, c->job.axis);
    if (instance)
        groups *= PyArray_DIM(x, c->job.axis == 0);
    if (!c->use_batch || c->job.kind == GROUP || c->o.where || PyArray_SIZE(x) == 0 ||
        PyArray_SIZE(x) > groups)
        return 0;
    PyObject *shape = shape_tuple(x);
    if (shape)
        PyErr_Format(PyExc_ValueError, "Expected more than 1 %s when training, got input size %R",
                     instance ? "spatial element" : "value per channel", shape);
    Py_XDECREF(shape);
    return -1;
}

static int running_use_check(const Call *c)
{
    const int instance = c->job.kind == INSTANCE;
    if ((c->running.mean == NULL) != (c->running.var == NULL)) {
        PyErr_SetString(PyExc_ValueError,
                        "running_mean and running_var must either both be None or neither be None");
        return -1;
    }
    if (!c->use_batch && c->running.mean == NULL) {
        PyErr_Format(
            PyExc_ValueError, "Expected running_mean and running_var to be defined %s",
            instance ? "when use_input_stats is false"
                     : "when training is false: running_mean must be defined in evaluation mode");
        return -1;
    }
    if (!c->use_batch && c->return_moments && c->job.kind != SWITCHABLE) {
        PyErr_Format(PyExc_ValueError,
                     "return_moments needs the statistics of the batch, but got %s",
                     instance ? "use_input_stats=False" : "training=False");
        return -1;
    }
    return 0;
}

int channels_check(Call *c)
{
    PyArrayObject *x = c->o.x;
    const int nothing = PyArray_NDIM(x) == 1 && PyArray_SIZE(x) == 0; /* as torch: no channels */
    if (PyArray_NDIM(x) < 2 && !nothing) {
        PyObject *shape = shape_tuple(x);
        if (shape)
            PyErr_Format(PyExc_ValueError,
                         "Expected at least 2 dimensions (N, C, *) for x but received %d, shape %R",
                         PyArray_NDIM(x), shape);
        Py_XDECREF(shape);
        return -1;
    }
    if (place_axis(c->o.state, nothing ? 0 : c->channel_axis, PyArray_NDIM(x), &c->job.axis) < 0)
        return -1;
    const npy_intp channels = PyArray_DIM(x, c->job.axis);
    if (running_use_check(c) < 0 || vector_check(c->running.mean, "running_mean", channels) < 0 ||
        vector_check(c->running.var, "running_var", channels) < 0 ||
        vector_check(c->weight, "weight", channels) < 0 ||
        vector_check(c->bias, "bias", channels) < 0 || batch_size_check(c) < 0)
        return -1;
    c->update = c->use_batch && c->running.mean;
    return running_check(c);
}

/* The shape of the statistics, and how many groups there are. */
static npy_intp kept_shape(const Call *c, npy_intp *shape)
{
    const Job *job = &c->job;
    const int named = job->kind == LAYER || job->kind == RMS, first = job->axis == 0;
    npy_intp groups = 1;
    for (int i = 0; i < PyArray_NDIM(c->o.x); i++) {
        const int kept =
            named ? !c->reduce[i] : i == job->axis || (job->kind != BATCH && i == first);
        shape[i] = kept ? PyArray_DIM(c->o.x, i) : 1;
        if (job->kind == GROUP && i == job->axis)
            shape[i] = job->num_groups;
        groups *= shape[i];
    }
    return groups;
}

static int statistics_place(Call *c)
{
    npy_intp shape[MAXD];
    Job *job = &c->job;
    const size_t channels = c->running.mean ? (size_t)PyArray_DIM(c->running.mean, 0) : 0;
    int short_of_memory = 0;
    if (c->running.mean && !c->use_batch) {
        if ((c->given = PyMem_New(double, 2 * channels)) != NULL) {
            running_read(c->o.state, c->running.mean, c->given);
            running_read(c->o.state, c->running.var, c->given + channels);
            job->given_mean = c->given;
            job->given_var = c->given + channels;
        }
        short_of_memory |= c->given == NULL;
    }
    if (c->update)
        short_of_memory |= (job->channels = PyMem_New(ChannelStat, channels)) == NULL;
    if (c->return_moments)
        short_of_memory |= (job->moments = PyMem_New(Moment, kept_shape(c, shape))) == NULL;
    return short_of_memory ? -1 : 0;
}

int norm_compute(Call *c)
{
    Operands *o = &c->o;
    if (operands_place(o) < 0 || parameter_place(o, &c->weight, &c->job.weight) < 0 ||
        parameter_place(o, &c->bias, &c->job.bias) < 0)
        return -1;
    int failed = statistics_place(c);
    if (!failed) {
        c->job.t = o->t;
        PyThreadState *thread = release_gil(o);
        failed = norm_forward(&c->job);
        restore_gil(thread);
    }
    if (failed)
        PyErr_NoMemory();
    return failed;
}

enum { COUNT, MEAN, M2, MEAN_LO, FIELDS };

static void fill_moments(const Moment *m, npy_intp groups, PyObject *const *fields)
{
    int64_t *count = PyArray_DATA((PyArrayObject *)fields[COUNT]);
    double *mean = PyArray_DATA((PyArrayObject *)fields[MEAN]);
    double *m2 = PyArray_DATA((PyArrayObject *)fields[M2]);
    double *lo = PyArray_DATA((PyArrayObject *)fields[MEAN_LO]);
    for (npy_intp i = 0; i < groups; i++) {
        count[i] = (int64_t)m[i].count;
        mean[i] = m[i].hi;
        m2[i] = m[i].m2;
        lo[i] = m[i].lo;
    }
}

static PyObject *moments_object(const Call *c)
{
    npy_intp shape[MAXD];
    const npy_intp groups = kept_shape(c, shape);
    PyObject *fields[FIELDS] = {NULL}, *args = NULL, *keywords = NULL, *object = NULL;
    for (int i = 0; i < FIELDS; i++)
        if ((fields[i] = PyArray_SimpleNew(PyArray_NDIM(c->o.x), shape,
                                           i == COUNT ? NPY_INT64 : NPY_DOUBLE)) == NULL)
            goto out;
    fill_moments(c->job.moments, groups, fields);
    args = PyTuple_Pack(3, fields[COUNT], fields[MEAN], fields[M2]);
    keywords = Py_BuildValue("{sOss}", "mean_lo", fields[MEAN_LO], "about",
                             c->job.kind == RMS ? "zero" : "mean");
    if (args && keywords)
        object = PyObject_Call(c->o.state->moments, args, keywords);
out:
    for (int i = 0; i < FIELDS; i++)
        Py_XDECREF(fields[i]);
    Py_XDECREF(args);
    Py_XDECREF(keywords);
    return object;
}

PyObject *norm_finish(Call *c)
{
    PyObject *moments = NULL, *result = NULL;
    if (c->return_moments && (moments = moments_object(c)) == NULL)
        return NULL;
    if (c->return_moments && c->o.writes)
        result = PyTuple_Pack(2, c->o.result, moments);
    else
        result = Py_NewRef(moments ? moments : c->o.result);
    Py_XDECREF(moments);
    if (result && c->update)
        running_publish(c->o.state, &c->running, c->job.channels, c->momentum);
    return result;
}
