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
    Py_XDECREF(c->moments);
    for (int i = 0; i < FIELDS; i++)
        Py_XDECREF(c->fields[i]);
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
    const npy_intp *dims = c->o.shape, size = PyArray_MultiplyList(dims, c->o.t.ndim);
    const int instance = c->job.kind == INSTANCE;
    npy_intp groups = dims[c->job.axis];
    if (instance)
        groups *= dims[c->job.axis == 0];
    if (!c->use_batch || c->job.kind == GROUP || c->o.where || size == 0 || size > groups)
        return 0;
    PyObject *shape = PyArray_IntTupleFromIntp(c->o.t.ndim, dims);
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
    const int ndim = c->o.t.ndim;
    const int nothing = ndim == 1 && c->o.shape[0] == 0; /* as torch: no channels */
    if (ndim < 2 && !nothing) {
        PyObject *shape = PyArray_IntTupleFromIntp(ndim, c->o.shape);
        if (shape)
            PyErr_Format(PyExc_ValueError,
                         "Expected at least 2 dimensions (N, C, *) for x but received %d, shape %R",
                         ndim, shape);
        Py_XDECREF(shape);
        return -1;
    }
    if (place_axis(c->o.state, nothing ? 0 : c->channel_axis, ndim, &c->job.axis) < 0)
        return -1;
    const npy_intp channels = c->o.shape[c->job.axis];
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
    for (int i = 0; i < c->o.t.ndim; i++) {
        const int kept =
            named ? !c->reduce[i] : i == job->axis || (job->kind != BATCH && i == first);
        shape[i] = kept ? c->o.shape[i] : 1;
        if (job->kind == GROUP && i == job->axis)
            shape[i] = job->num_groups;
        groups *= shape[i];
    }
    return groups;
}

/* Moments of zeros, to be filled: all they need is allocated before anything is written. */
static int moments_make(Call *c)
{
    npy_intp shape[MAXD];
    const npy_intp groups = kept_shape(c, shape);
    if ((c->job.moments = PyMem_New(Moment, groups)) == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (int i = 0; i < FIELDS; i++)
        if ((c->fields[i] = (PyArrayObject *)PyArray_ZEROS(
                 c->o.t.ndim, shape, i == COUNT ? NPY_INT64 : NPY_DOUBLE, 0)) == NULL)
            return -1;
    PyObject *args = PyTuple_Pack(3, c->fields[COUNT], c->fields[MEAN], c->fields[M2]);
    PyObject *keywords = Py_BuildValue("{sOss}", "mean_lo", c->fields[MEAN_LO], "about",
                                       c->job.kind == RMS ? "zero" : "mean");
    if (args && keywords)
        c->moments = PyObject_Call(c->o.state->moments, args, keywords);
    Py_XDECREF(args);
    Py_XDECREF(keywords);
    return c->moments ? 0 : -1;
}

static int statistics_place(Call *c)
{
    Job *job = &c->job;
    const size_t channels = c->running.mean ? (size_t)c->running.mean_at.n : 0;
    int short_of_memory = 0;
    if (c->running.mean && !c->use_batch) {
        if ((c->given = PyMem_New(double, 2 * channels)) != NULL) {
            vector_read(&c->running.mean_at, c->given);
            vector_read(&c->running.var_at, c->given + channels);
            job->given_mean = c->given;
            job->given_var = c->given + channels;
        }
        short_of_memory |= c->given == NULL;
    }
    if (c->update)
        short_of_memory |= (job->channels = PyMem_New(ChannelStat, channels)) == NULL;
    return short_of_memory ? -1 : 0;
}

/* How many elements a weight or bias has. */
static npy_intp parameter_size(const Call *c)
{
    npy_intp n = 1;
    if (c->job.kind != LAYER && c->job.kind != RMS)
        return c->o.shape[c->job.axis];
    for (int i = 0; i < c->o.t.ndim; i++)
        n *= c->reduce[i] ? c->o.shape[i] : 1;
    return n;
}

int norm_compute(Call *c)
{
    Operands *o = &c->o;
    const npy_intp n = parameter_size(c);
    if ((c->return_moments && moments_make(c) < 0) || operands_place(o) < 0 ||
        parameter_place(o, "weight", n, &c->weight, &c->job.weight) < 0 ||
        parameter_place(o, "bias", n, &c->bias, &c->job.bias) < 0)
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

static void fill_moments(const Call *c)
{
    const Moment *m = c->job.moments;
    int64_t *count = PyArray_DATA(c->fields[COUNT]);
    double *mean = PyArray_DATA(c->fields[MEAN]), *m2 = PyArray_DATA(c->fields[M2]);
    double *lo = PyArray_DATA(c->fields[MEAN_LO]);
    for (npy_intp i = 0; i < PyArray_SIZE(c->fields[COUNT]); i++) {
        count[i] = (int64_t)m[i].count;
        mean[i] = m[i].hi;
        m2[i] = m[i].m2;
        lo[i] = m[i].lo;
    }
}

PyObject *norm_finish(Call *c)
{
    PyObject *result;
    if (c->return_moments)
        fill_moments(c);
    if (c->return_moments && c->o.writes)
        result = PyTuple_Pack(2, c->o.result, c->moments);
    else
        result = Py_NewRef(c->return_moments ? c->moments : c->o.result);
    if (result && c->update)
        running_publish(&c->running, c->job.channels, c->momentum);
    return result;
}
