/* Checks of the norms that have channels, and of their running statistics. */
#include "call.h"

int vector_check(PyArrayObject *array, const char *name, npy_intp n)
{
    if (array == NULL || (PyArray_NDIM(array) == 1 && PyArray_DIM(array, 0) == n))
        return 0;
    const char *shape = SHAPE(PyArray_NDIM(array), PyArray_DIMS(array));
    if (PyArray_SIZE(array) == n)
        return refuse(PyExc_ValueError, "%s must have shape (%zd,), but has %s", name, n, shape);
    return refuse(PyExc_ValueError, "%s should contain %zd elements not %zd (its shape is %s)",
                  name, n, PyArray_SIZE(array), shape);
}

int vector_take(const Call *c, int which, npy_intp n, Vector *v)
{
    PyArrayObject *array = c->arrays[which];
    if (array == NULL)
        return 0;
    if (vector_check(array, array_names[which], n) < 0)
        return -1;
    const int dtype = dtype_of(array);
    if (dtype < 0)
        return refuse_changed(array_names[which]);
    *v = (Vector){PyArray_BYTES(array), n, PyArray_STRIDE(array, 0), (Dtype)dtype,
                  PyArray_ISBYTESWAPPED(array)};
    return 0;
}

/* A single value has no variance to speak of. */
static int is_single(const Call *c)
{
    const npy_intp *dims = c->o.shape, size = PyArray_MultiplyList(dims, c->o.t.ndim);
    npy_intp groups = dims[c->job.axis];
    if (c->job.kind == INSTANCE)
        groups *= dims[c->job.axis == 0];
    return c->use_batch && c->job.kind != GROUP && size && size <= groups;
}

/* Also where a mask leaves no channel two values; -1: an exception is set. */
static int batch_is_single(const Call *c)
{
    if (!c->o.where || is_single(c))
        return is_single(c);
    PyObject *answer =
        PyObject_CallFunction(c->o.state->imports[LEAVES_PAIRS], "ONi", c->o.where,
                              PyArray_IntTupleFromIntp(c->o.t.ndim, c->o.shape), c->job.axis);
    const int pairs = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return pairs < 0 ? -1 : !pairs;
}

/* The statistics that a batch of one value per channel is normalised by, if a layer was asked to.
 */
static int settle_single(Call *c)
{
    if (!c->running_on_single || !c->use_batch || !c->arrays[RUNNING_MEAN])
        return 0;
    const int single = batch_is_single(c);
    if (single > 0)
        c->use_batch = 0;
    return single < 0 ? -1 : 0;
}

static int batch_size_check(const Call *c)
{
    if (!is_single(c) || c->o.where) /* what a mask leaves is data, not a shape */
        return 0;
    return refuse(PyExc_ValueError, "Expected more than 1 %s when training, got input size %s",
                  c->job.kind == INSTANCE ? "spatial element" : "value per channel",
                  SHAPE(c->o.t.ndim, c->o.shape));
}

static int running_use_check(const Call *c)
{
    const int instance = c->job.kind == INSTANCE, has_mean = c->arrays[RUNNING_MEAN] != NULL;
    if (has_mean != (c->arrays[RUNNING_VAR] != NULL))
        return refuse(PyExc_ValueError, "running_mean and running_var must either both be None or "
                                        "neither be None");
    if (!c->use_batch && !has_mean)
        return refuse(
            PyExc_ValueError, "Expected running_mean and running_var to be defined %s",
            instance ? "when use_input_stats is false"
                     : "when training is false: running_mean must be defined in evaluation mode");
    if (!c->use_batch && c->return_moments && c->job.kind != SWITCHABLE)
        return refuse(PyExc_ValueError,
                      "return_moments needs the statistics of the batch, but got %s",
                      instance ? "use_input_stats=False" : "training=False");
    return 0;
}

/* Statistics lie apart from out and, if they are updated, from each other and all that is read. */
static int running_memory_check(const Call *c)
{
    const struct {
        PyArrayObject *array;
        const char *name;
    } read[] = {{c->o.x, "x"}, {c->o.where, "where"}};
    for (int i = RUNNING_MEAN; i <= TRACKED; i++) {
        PyArrayObject *running = c->arrays[i];
        const char *name = array_names[i];
        if (refuse_shared(c->o.state, running, name, c->o.y, "out") < 0)
            return -1;
        if (running == NULL || !c->update)
            continue;
        if (!PyArray_ISWRITEABLE(running))
            return refuse(PyExc_ValueError, "%s is to be updated, but is read-only", name);
        if (PyArray_SIZE(running) > 1 &&
            Py_ABS(PyArray_STRIDE(running, 0)) < PyArray_ITEMSIZE(running))
            return refuse(PyExc_ValueError, "%s has two elements in one place", name);
        for (int j = 0; j < 2; j++)
            if (refuse_shared(c->o.state, running, name, read[j].array, read[j].name) < 0)
                return -1;
        for (int j = 0; j < ARRAYS; j++)
            if (j != i &&
                refuse_shared(c->o.state, running, name, c->arrays[j], array_names[j]) < 0)
                return -1;
    }
    return 0;
}

int channels_check(Call *c)
{
    const int ndim = c->o.t.ndim;
    const int nothing = ndim == 1 && c->o.shape[0] == 0; /* as torch: no channels */
    if (ndim < 2 && !nothing)
        return refuse(PyExc_ValueError,
                      "Expected at least 2 dimensions (N, C, *) for x but received %d, shape %s",
                      ndim, SHAPE(ndim, c->o.shape));
    if (place_axis(c->o.state, nothing ? 0 : c->channel_axis, ndim, &c->job.axis) < 0)
        return -1;
    const npy_intp n = c->o.shape[c->job.axis];
    if (c->o.grad) /* fixed statistics, or those of the batch */
        c->use_batch = c->arrays[RUNNING_MEAN] == NULL && c->arrays[RUNNING_VAR] == NULL;
    if (settle_single(c) < 0 || running_use_check(c) < 0 ||
        vector_take(c, RUNNING_MEAN, n, &c->running_mean) < 0 ||
        vector_take(c, RUNNING_VAR, n, &c->running_var) < 0 ||
        vector_check(c->arrays[WEIGHT], "weight", n) < 0 ||
        vector_check(c->arrays[BIAS], "bias", n) < 0 || batch_size_check(c) < 0)
        return -1;
    c->update = c->use_batch && c->arrays[RUNNING_MEAN];
    return running_memory_check(c);
}
