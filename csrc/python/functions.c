/* The public functions: a row of the table each, and the checks that are not common to all. */
#include "call.h"

#include <math.h>

/* ---- norms over named axes ------------------------------------------------------------------- */

static PyObject *sizes_list(const npy_intp *sizes, int n)
{
    PyObject *tuple = PyArray_IntTupleFromIntp(n, sizes);
    PyObject *list = tuple ? PySequence_List(tuple) : NULL;
    Py_XDECREF(tuple);
    return list;
}

static int refuse_shape(const Operands *o, const Sizes *shape)
{
    PyObject *list = sizes_list(shape->values, shape->n);
    PyObject *text = list ? PyObject_Repr(list) : NULL;
    PyObject *given = sizes_list(o->shape, o->t.ndim);
    if (text && given)
        PyErr_Format(
            PyExc_ValueError,
            "Given normalized_shape=%U, expected input with shape [*, %s, but got input of size%R",
            text, PyUnicode_AsUTF8(text) + 1, given);
    Py_XDECREF(list);
    Py_XDECREF(text);
    Py_XDECREF(given);
    return -1;
}

static int trailing_axes(Call *c, const Sizes *shape)
{
    const int first = c->o.t.ndim - shape->n;
    if (shape->n == 0) {
        PyErr_SetString(PyExc_ValueError, "Expected normalized_shape to be at least 1-dimensional, "
                                          "but got normalized_shape = []");
        return -1;
    }
    if (first < 0 || !PyArray_CompareLists(c->o.shape + first, shape->values, shape->n))
        return refuse_shape(&c->o, shape);
    memset(c->reduce, 0, (size_t)first);
    memset(c->reduce + first, 1, (size_t)shape->n);
    return 0;
}

/* A parameter has the shape of the reduced axes, in ascending order. */
static int reduced_check(const Call *c, PyArrayObject *array, const char *name)
{
    npy_intp shape[MAXD];
    int n = 0;
    if (array == NULL)
        return 0;
    for (int i = 0; i < c->o.t.ndim; i++)
        if (c->reduce[i])
            shape[n++] = c->o.t.shape[i];
    if (PyArray_NDIM(array) == n && PyArray_CompareLists(PyArray_DIMS(array), shape, n))
        return 0;
    PyObject *given = sizes_list(PyArray_DIMS(array), PyArray_NDIM(array));
    PyObject *wanted = sizes_list(shape, n);
    if (given && wanted)
        PyErr_Format(PyExc_ValueError,
                     "Expected %s to be of same shape as normalized_shape, but got %s of shape %R "
                     "and normalized_shape = %R",
                     name, name, given, wanted);
    Py_XDECREF(given);
    Py_XDECREF(wanted);
    return -1;
}

/* layer_norm, rms_norm: normalized_shape or axis; neither: the last axis. */
static int shape_check(Call *c)
{
    static const Sizes last = {1, {-1}};
    const Sizes *shape = &c->normalized_shape, *axes = c->axes.n >= 0 ? &c->axes : &last;
    if (shape->n >= 0 && c->axes.n >= 0) {
        PyErr_SetString(PyExc_ValueError, "normalized_shape and axis cannot both be given");
        return -1;
    }
    const int status = shape->n >= 0 ? trailing_axes(c, shape)
                                     : place_axes(c->o.state, axes, c->o.t.ndim, c->reduce);
    if (status < 0 || reduced_check(c, c->weight, "weight") < 0)
        return -1;
    return reduced_check(c, c->bias, "bias");
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
    if (groups < 1) {
        PyErr_Format(PyExc_ValueError, "Expected num_groups to be greater than 0, got %zd", groups);
        return -1;
    }
    if (channels % groups == 0)
        return 0;
    PyObject *shape = sizes_list(c->o.shape, c->o.t.ndim);
    if (shape)
        PyErr_Format(
            PyExc_ValueError,
            "num_channels (%zd) must be divisible by num_groups (%zd): Expected number of channels "
            "in input to be divisible by num_groups, but got input of shape %R and num_groups=%zd",
            channels, groups, shape, groups);
    Py_XDECREF(shape);
    return -1;
}

static int required_check(const PyArrayObject *array, const char *name)
{
    if (array)
        return 0;
    PyErr_Format(PyExc_TypeError, "%s must be an array, not None", name);
    return -1;
}

/* (instance, layer, batch); of (N, C), whose instances are single elements, (layer, batch). */
static int blend_check(Call *c)
{
    Logits *l = &c->job.logits;
    Vector mean, var;
    l->n = c->o.t.ndim == 2 ? 2 : 3;
    if (required_check(c->mean_weight, "mean_weight") < 0 ||
        required_check(c->var_weight, "var_weight") < 0 || channels_check(c) < 0 ||
        vector_check(c->mean_weight, "mean_weight", l->n) < 0 ||
        vector_check(c->var_weight, "var_weight", l->n) < 0)
        return -1;
    if (vector_take(c->o.state, c->mean_weight, "mean_weight", &mean) < 0 ||
        vector_take(c->o.state, c->var_weight, "var_weight", &var) < 0)
        return -1;
    vector_read(&mean, l->mean);
    vector_read(&var, l->var);
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
    PyArrayObject *weight = c->weight;
    if (required_check(weight, "weight") < 0)
        return -1;
    if (PyArray_NDIM(weight) > 1) {
        PyErr_Format(PyExc_ValueError,
                     "prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = %d",
                     PyArray_NDIM(weight));
        return -1;
    }
    c->bend.nslope = PyArray_SIZE(weight);
    if (c->bend.nslope == 1)
        return 0;
    if (place_axis(c->o.state, c->channel_axis, c->o.t.ndim, &c->bend.axis) < 0)
        return -1;
    if (c->bend.nslope == c->o.shape[c->bend.axis])
        return 0;
    PyErr_Format(PyExc_ValueError,
                 "weight: Mismatch of parameter numbers and input channel size. Found parameter "
                 "numbers = %zd and channel size = %zd.",
                 c->bend.nslope, c->o.shape[c->bend.axis]);
    return -1;
}

static PyObject *bend(Call *c, double floor)
{
    c->bend.t = c->o.t;
    c->bend.floor = floor;
    PyThreadState *thread = release_gil(&c->o);
    const int failed = bend_forward(&c->bend);
    restore_gil(thread);
    return failed ? PyErr_NoMemory() : Py_NewRef(c->o.result);
}

/* One slope for all, in the arithmetic type. */
static PyObject *bend_evenly(Call *c, double floor, double slope)
{
    const float narrow = (float)slope;
    if (operands_place(&c->o) < 0)
        return NULL;
    c->bend.nslope = 1;
    c->bend.slope = c->o.t.dtype == F64 ? (const void *)&slope : (const void *)&narrow;
    return bend(c, floor);
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
    if (operands_place(&c->o) < 0 ||
        parameter_place(&c->o, "weight", c->bend.nslope, &c->weight, &c->bend.slope) < 0)
        return NULL;
    return bend(c, -INFINITY);
}

static int window_check(Call *c)
{
    const int ndim = c->o.t.ndim;
    Window *w = &c->window;
    if (ndim < 3) {
        PyErr_Format(PyExc_ValueError,
                     "Expected 3D or higher dimensionality input (got %d dimensions) for x", ndim);
        return -1;
    }
    if (w->size < 1) {
        PyErr_Format(PyExc_ValueError, "size must be at least 1, but got %zd", w->size);
        return -1;
    }
    w->before = c->onnx_window ? (w->size - 1) / 2 : w->size / 2;
    return place_axis(c->o.state, c->channel_axis, ndim, &w->axis);
}

static PyObject *respond(Call *c)
{
    if (operands_place(&c->o) < 0)
        return NULL;
    c->window.t = c->o.t;
    PyThreadState *thread = release_gil(&c->o);
    const int failed = lrn_forward(&c->window);
    restore_gil(thread);
    return failed ? PyErr_NoMemory() : Py_NewRef(c->o.result);
}

/* ---- the table ------------------------------------------------------------------------------- */

/* Kinds matter to norms alone; the rest have channels, as BATCH. */
static const struct {
    NormKind kind;
    int (*check)(Call *);
    PyObject *(*compute)(Call *);
} table[FUNCTIONS] = {
    [BATCH_NORM] = {BATCH, channels_check, norm},
    [INSTANCE_NORM] = {INSTANCE, channels_check, norm},
    [LAYER_NORM] = {LAYER, shape_check, norm},
    [RMS_NORM] = {RMS, shape_check, norm},
    [GROUP_NORM] = {GROUP, groups_check, norm},
    [SWITCHABLE_NORM] = {SWITCHABLE, blend_check, norm},
    [LOCAL_RESPONSE_NORM] = {BATCH, window_check, respond},
    [STANDARDIZE] = {LAYER, axes_check, norm},
    [MOMENTS] = {LAYER, moments_check, norm},
    [RELU] = {BATCH, no_check, rectify},
    [LEAKY_RELU] = {BATCH, no_check, leak},
    [PRELU] = {BATCH, slopes_check, bend_channels},
};

/* Converts all arguments, then checks, then computes. */
static PyObject *run(SignatureId id, PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                     PyObject *kwnames)
{
    PyObject *result = NULL;
    Call c;
    call_init(&c, PyModule_GetState(module), table[id].kind);
    if (call_convert(&c, id, functions[id].ml_name, args, nargs, kwnames) == 0 &&
        table[id].check(&c) == 0)
        result = table[id].compute(&c);
    call_clear(&c);
    return result;
}

#define ENTRY(name, id)                                                              \
    static PyObject *name(PyObject *module, PyObject *const *args, Py_ssize_t nargs, \
                          PyObject *kwnames)                                         \
    {                                                                                \
        return run(id, module, args, nargs, kwnames);                                \
    }
ENTRY(batch_norm, BATCH_NORM)
ENTRY(instance_norm, INSTANCE_NORM)
ENTRY(layer_norm, LAYER_NORM)
ENTRY(rms_norm, RMS_NORM)
ENTRY(group_norm, GROUP_NORM)
ENTRY(switchable_norm, SWITCHABLE_NORM)
ENTRY(local_response_norm, LOCAL_RESPONSE_NORM)
ENTRY(standardize, STANDARDIZE)
ENTRY(moments, MOMENTS)
ENTRY(relu, RELU)
ENTRY(leaky_relu, LEAKY_RELU)
ENTRY(prelu, PRELU)

#define METHOD(name) \
    {#name, (PyCFunction)(void (*)(void))(name), METH_FASTCALL | METH_KEYWORDS, NULL}
PyMethodDef functions[FUNCTIONS] = {
    [BATCH_NORM] = METHOD(batch_norm),
    [INSTANCE_NORM] = METHOD(instance_norm),
    [LAYER_NORM] = METHOD(layer_norm),
    [RMS_NORM] = METHOD(rms_norm),
    [GROUP_NORM] = METHOD(group_norm),
    [SWITCHABLE_NORM] = METHOD(switchable_norm),
    [LOCAL_RESPONSE_NORM] = METHOD(local_response_norm),
    [STANDARDIZE] = METHOD(standardize),
    [MOMENTS] = METHOD(moments),
    [RELU] = METHOD(relu),
    [LEAKY_RELU] = METHOD(leaky_relu),
    [PRELU] = METHOD(prelu),
};
