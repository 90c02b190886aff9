/* The public functions: a row of the table each, and the checks that are not common to all. */
#include "call.h"
#include "cpu.h"

#include <math.h>

/* ---- norms over named axes ------------------------------------------------------------------- */

static int trailing_axes(Call *c, const Sizes *shape)
{
    const int ndim = c->o.t.ndim, first = ndim - shape->n;
    if (shape->n == 0)
        return refuse(PyExc_ValueError, "Expected normalized_shape to be at least 1-dimensional, "
                                        "but got normalized_shape = []");
    if (first < 0 || !same_shape(c->o.shape + first, shape->values, shape->n)) {
        const char *wanted = SHAPE_LIST(shape->n, shape->values);
        return refuse(
            PyExc_ValueError,
            "Given normalized_shape=%s, expected input with shape [*, %s, but got input of size%s",
            wanted, wanted + 1, SHAPE_LIST(ndim, c->o.shape));
    }
    for (int i = 0; i < ndim; i++)
        c->reduce[i] = i >= first;
    return 0;
}

/* A parameter has the shape of the reduced axes, in ascending order. */
static int reduced_check(const Call *c, int which, int n, const npy_intp *shape)
{
    PyArrayObject *array = c->arrays[which];
    const char *name = array_names[which];
    if (array == NULL || (PyArray_NDIM(array) == n && same_shape(PyArray_DIMS(array), shape, n)))
        return 0;
    return refuse(PyExc_ValueError,
                  "Expected %s to be of same shape as normalized_shape, but got %s of shape %s and "
                  "normalized_shape = %s",
                  name, name, SHAPE_LIST(PyArray_NDIM(array), PyArray_DIMS(array)),
                  SHAPE_LIST(n, shape));
}

/* layer_norm, rms_norm: normalized_shape or axis; neither: the last axis. */
static int shape_check(Call *c)
{
    static const Sizes last = {1, {-1}};
    const Sizes *shape = &c->normalized_shape, *axes = c->axes.n >= 0 ? &c->axes : &last;
    if (shape->n >= 0 && c->axes.n >= 0)
        return refuse(PyExc_ValueError, "normalized_shape and axis cannot both be given");
    npy_intp reduced[MAXD];
    int n = 0;
    if ((shape->n >= 0 ? trailing_axes(c, shape)
                       : place_axes(c->o.state, axes, c->o.t.ndim, c->reduce)) < 0)
        return -1;
    for (int i = 0; i < c->o.t.ndim; i++)
        if (c->reduce[i])
            reduced[n++] = c->o.shape[i];
    return reduced_check(c, WEIGHT, n, reduced) < 0 ? -1 : reduced_check(c, BIAS, n, reduced);
}

static int axes_check(Call *c)
{
    return place_axes(c->o.state, &c->axes, c->o.t.ndim, c->reduce);
}

static int moments_check(Call *c)
{
    c->return_moments = 1;
    return axes_check(c);
}

/* ---- norms of groups of channels, and blended ------------------------------------------------ */

static int groups_check(Call *c)
{
    if (channels_check(c) < 0)
        return -1;
    const npy_intp channels = c->o.shape[c->job.axis], groups = c->job.num_groups;
    if (groups < 1)
        return refuse(PyExc_ValueError, "Expected num_groups to be greater than 0, got %zd",
                      groups);
    if (channels % groups == 0)
        return 0;
    return refuse(
        PyExc_ValueError,
        "num_channels (%zd) must be divisible by num_groups (%zd): Expected number of channels in "
        "input to be divisible by num_groups, but got input of shape %s and num_groups=%zd",
        channels, groups, SHAPE_LIST(c->o.t.ndim, c->o.shape), groups);
}

static int required_check(const Call *c, int which)
{
    return c->arrays[which]
               ? 0
               : refuse(PyExc_TypeError, "%s must be an array, not None", array_names[which]);
}

/* (instance, layer, batch); of (N, C), whose instances are single elements, (layer, batch). */
static int blend_check(Call *c)
{
    Logits *l = &c->job.logits;
    Vector mean, var;
    l->n = c->o.t.ndim == 2 ? 2 : 3;
    if (required_check(c, MEAN_WEIGHT) < 0 || required_check(c, VAR_WEIGHT) < 0 ||
        channels_check(c) < 0 || vector_take(c, MEAN_WEIGHT, l->n, &mean) < 0 ||
        vector_take(c, VAR_WEIGHT, l->n, &var) < 0)
        return -1;
    vector_read(&mean, F64, l->mean);
    vector_read(&var, F64, l->var);
    return 0;
}

static PyObject *norm(Call *c)
{
    return norm_compute(c) < 0 ? NULL : norm_finish(c);
}

/* ---- rectifiers, and the norm with a window over channels: no statistics --------------------- */

static int no_check(Call *c)
{
    (void)c;
    return 0;
}

/* Of more than one slope, each is a channel's. */
static int slopes_check(Call *c)
{
    PyArrayObject *weight = c->arrays[WEIGHT];
    if (required_check(c, WEIGHT) < 0)
        return -1;
    if (PyArray_NDIM(weight) > 1)
        return refuse(PyExc_ValueError,
                      "prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = %d",
                      PyArray_NDIM(weight));
    c->bend.nslope = PyArray_SIZE(weight);
    if (c->bend.nslope == 1)
        return 0;
    if (place_axis(c->o.state, c->channel_axis, c->o.t.ndim, &c->bend.axis) < 0)
        return -1;
    const npy_intp channels = c->o.shape[c->bend.axis];
    return c->bend.nslope == channels
               ? 0
               : refuse(PyExc_ValueError,
                        "weight: Mismatch of parameter numbers and input channel size. Found "
                        "parameter numbers = %zd and channel size = %zd.",
                        c->bend.nslope, channels);
}

/* dslope: of prelu_backward, else NULL. */
static PyObject *bend(Call *c, double floor, double *dslope)
{
    c->bend.t = c->o.t;
    c->bend.floor = floor;
    PyThreadState *thread = release_gil(&c->o);
    const int failed = c->o.grad ? bend_backward(&c->bend, dslope) : bend_forward(&c->bend);
    restore_gil(thread);
    return failed ? PyErr_NoMemory() : Py_NewRef(c->o.result);
}

/* One slope for all, in the arithmetic type. */
static PyObject *bend_evenly(Call *c, double floor, double slope)
{
    const FpState saved = fp_enter();
    const float narrow = (float)slope;
    fp_leave(saved);
    if (operands_place(&c->o) < 0)
        return NULL;
    c->bend.nslope = 1;
    c->bend.slope = c->o.t.dtype == F64 ? (const void *)&slope : (const void *)&narrow;
    return bend(c, floor, NULL);
}

static PyObject *rectify(Call *c)
{
    return bend_evenly(c, 0, 1);
}

static PyObject *leak(Call *c)
{
    return bend_evenly(c, -INFINITY, c->negative_slope);
}

static PyObject *bend_channels(Call *c)
{
    const Like weight = like(c->arrays[WEIGHT]);
    if (operands_place(&c->o) < 0 ||
        parameter_place(&c->o, "weight", c->bend.nslope, &c->arrays[WEIGHT], &c->bend.slope) < 0)
        return NULL;
    if (c->o.grad == NULL)
        return bend(c, -INFINITY, NULL);
    double *dslope = PyMem_New(double, c->bend.nslope);
    PyObject *dx = dslope ? bend(c, -INFINITY, dslope) : PyErr_NoMemory();
    PyObject *result = dx ? Py_BuildValue("NN", dx, rounded(&weight, dslope)) : NULL;
    PyMem_Free(dslope);
    return result;
}

static int window_check(Call *c)
{
    const int ndim = c->o.t.ndim;
    Window *w = &c->window;
    if (ndim < 3)
        return refuse(PyExc_ValueError,
                      "Expected 3D or higher dimensionality input (got %d dimensions) for x", ndim);
    if (w->size < 1)
        return refuse(PyExc_ValueError, "size must be at least 1, but got %zd", w->size);
    w->before = c->onnx_window ? (w->size - 1) / 2 : w->size / 2;
    return place_axis(c->o.state, c->channel_axis, ndim, &w->axis);
}

static PyObject *respond(Call *c)
{
    if (operands_place(&c->o) < 0)
        return NULL;
    c->window.t = c->o.t;
    PyThreadState *thread = release_gil(&c->o);
    const int failed = c->o.grad ? lrn_backward(&c->window) : lrn_forward(&c->window);
    restore_gil(thread);
    return failed ? PyErr_NoMemory() : Py_NewRef(c->o.result);
}

/* ---- the table ------------------------------------------------------------------------------- */

const NormKind kinds[SIGNATURES] = {
#define FUNCTION(name, kind, ...) [ID_##name] = kind,
#include "functions.def"
#undef FUNCTION
    [LAYER_CALL] = BATCH};

typedef struct {
    int (*check)(Call *);
    PyObject *(*compute)(Call *);
} Row;

/* Converts all arguments, then checks, then computes. */
static PyObject *run(SignatureId id, Row row, PyObject *module, PyObject *const *args,
                     Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *result = NULL;
    Call c;
    if (call_open(&c, PyModule_GetState(module), id, functions[id].ml_name, args, nargs, kwnames) <
        0)
        return NULL;
    if (operands_take(&c.o) == 0 && row.check(&c) == 0)
        result = row.compute(&c);
    call_clear(&c);
    return result;
}

#define FUNCTION(name, kind, check, compute)                                            \
    static PyObject *call_##name(PyObject *module, PyObject *const *args, Py_ssize_t n, \
                                 PyObject *kwnames)                                     \
    {                                                                                   \
        return run(ID_##name, (Row){check, compute}, module, args, n, kwnames);         \
    }
#include "functions.def"
#undef FUNCTION

#define FUNCTION(name, ...) \
    {#name, (PyCFunction)(void (*)(void))(call_##name), METH_FASTCALL | METH_KEYWORDS, NULL},
PyMethodDef functions[FUNCTIONS] = {
#include "functions.def"
};
