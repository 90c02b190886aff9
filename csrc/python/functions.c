/* The public norms: each names its arguments in the order of normc/_docs.py, converts them all,
 * then checks, then computes. */
#include <float.h>

#include "arguments.h"
#include "norms.h"

static PyObject *compute_and_finish(Call *c)
{
    return call_compute(c) < 0 ? NULL : call_finish(c);
}

static PyObject *batch_or_instance(SignatureId id, const char *name, NormKind kind,
                                   PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                                   PyObject *kwnames)
{
    enum {
        X,
        MEAN,
        VAR,
        WEIGHT,
        BIAS,
        USE_BATCH,
        MOMENTUM,
        EPS,
        AXIS,
        CORRECTION,
        WHERE,
        OUT,
        RETURN,
        N
    };
    PyObject *a[N], *result = NULL;
    Py_ssize_t axis;
    Call c;
    call_init(&c, PyModule_GetState(module), kind);
    if (parse(c.o.state, id, name, args, nargs, kwnames, N, a) < 0)
        return NULL;
    if (call_convert(&c, a[X], a[WHERE], a[OUT]) == 0 &&
        running_convert(&c, a[MEAN], a[VAR]) == 0 &&
        parameters_convert(&c, a[WEIGHT], a[BIAS]) == 0 &&
        as_bool(a[USE_BATCH], kind == BATCH ? "training" : "use_input_stats", &c.use_batch) == 0 &&
        as_finite(a[MOMENTUM], "momentum", &c.momentum) == 0 && as_eps(a[EPS], &c.job.eps) == 0 &&
        as_size(a[AXIS], "axis", &axis) == 0 &&
        as_correction(a[CORRECTION], &c.job.correction) == 0 &&
        as_bool(a[RETURN], "return_moments", &c.return_moments) == 0 &&
        channels_check(&c, axis) == 0)
        result = compute_and_finish(&c);
    call_clear(&c);
    return result;
}

PyObject *batch_norm(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return batch_or_instance(BATCH_NORM, "batch_norm", BATCH, module, args, nargs, kwnames);
}

PyObject *instance_norm(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                        PyObject *kwnames)
{
    return batch_or_instance(INSTANCE_NORM, "instance_norm", INSTANCE, module, args, nargs,
                             kwnames);
}

/* ---- norms over named axes ------------------------------------------------------------------- */

static int refuse_shape(PyArrayObject *x, const Sizes *shape)
{
    PyObject *wanted = PyArray_IntTupleFromIntp(shape->n, (npy_intp *)shape->values);
    PyObject *list = wanted ? PySequence_List(wanted) : NULL, *given = shape_list(x);
    PyObject *text = list ? PyObject_Repr(list) : NULL;
    if (text && given)
        PyErr_Format(
            PyExc_ValueError,
            "Given normalized_shape=%U, expected input with shape [*, %s, but got input of "
            "size%R",
            text, PyUnicode_AsUTF8(text) + 1, given);
    Py_XDECREF(wanted);
    Py_XDECREF(list);
    Py_XDECREF(given);
    Py_XDECREF(text);
    return -1;
}

static int trailing_axes(Call *c, const Sizes *shape)
{
    PyArrayObject *x = c->o.x;
    const int first = PyArray_NDIM(x) - shape->n;
    if (shape->n == 0) {
        PyErr_SetString(PyExc_ValueError, "Expected normalized_shape to be at least 1-dimensional, "
                                          "but got normalized_shape = []");
        return -1;
    }
    if (first < 0 || !PyArray_CompareLists(PyArray_DIMS(x) + first, shape->values, shape->n))
        return refuse_shape(x, shape);
    memset(c->reduce, 0, (size_t)first);
    memset(c->reduce + first, 1, (size_t)shape->n);
    return 0;
}

/* c->reduce from normalized_shape or axis; neither: the last axis. */
static int reduced_axes(Call *c, const Sizes *shape, const Sizes *axes)
{
    static const Sizes last = {1, {-1}};
    if (shape->n >= 0 && axes->n >= 0) {
        PyErr_SetString(PyExc_ValueError, "normalized_shape and axis cannot both be given");
        return -1;
    }
    return shape->n >= 0 ? trailing_axes(c, shape)
                         : place_axes(c->o.state, axes->n >= 0 ? axes : &last, PyArray_NDIM(c->o.x),
                                      c->reduce);
}

/* A parameter has the shape of the reduced axes, in ascending order. */
static int reduced_check(const Call *c, PyArrayObject *array, const char *name)
{
    npy_intp shape[MAXD];
    int n = 0;
    if (array == NULL)
        return 0;
    for (int i = 0; i < PyArray_NDIM(c->o.x); i++)
        if (c->reduce[i])
            shape[n++] = PyArray_DIM(c->o.x, i);
    if (PyArray_NDIM(array) == n && PyArray_CompareLists(PyArray_DIMS(array), shape, n))
        return 0;
    PyObject *given = shape_list(array), *tuple = PyArray_IntTupleFromIntp(n, shape);
    PyObject *wanted = tuple ? PySequence_List(tuple) : NULL;
    if (given && wanted)
        PyErr_Format(PyExc_ValueError,
                     "Expected %s to be of same shape as normalized_shape, but got %s of shape %R "
                     "and normalized_shape = %R",
                     name, name, given, wanted);
    Py_XDECREF(given);
    Py_XDECREF(tuple);
    Py_XDECREF(wanted);
    return -1;
}

PyObject *layer_norm(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    enum { X, SHAPE, WEIGHT, BIAS, EPS, AXIS, WHERE, OUT, RETURN, N };
    PyObject *a[N], *result = NULL;
    Sizes shape, axes;
    Call c;
    call_init(&c, PyModule_GetState(module), LAYER);
    if (parse(c.o.state, LAYER_NORM, "layer_norm", args, nargs, kwnames, N, a) < 0)
        return NULL;
    if (call_convert(&c, a[X], a[WHERE], a[OUT]) == 0 &&
        parameters_convert(&c, a[WEIGHT], a[BIAS]) == 0 && as_eps(a[EPS], &c.job.eps) == 0 &&
        as_sizes(a[SHAPE], "normalized_shape", &shape) == 0 &&
        as_sizes(a[AXIS], "axis", &axes) == 0 &&
        as_bool(a[RETURN], "return_moments", &c.return_moments) == 0 &&
        reduced_axes(&c, &shape, &axes) == 0 && reduced_check(&c, c.weight, "weight") == 0 &&
        reduced_check(&c, c.bias, "bias") == 0)
        result = compute_and_finish(&c);
    call_clear(&c);
    return result;
}

/* As torch: the arithmetic type's own epsilon. */
static int rms_eps(PyObject *eps, Call *c)
{
    if (eps != Py_None)
        return as_eps(eps, &c->job.eps);
    c->job.eps = c->o.t.dtype == F64 ? DBL_EPSILON : FLT_EPSILON;
    return 0;
}

PyObject *rms_norm(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    enum { X, SHAPE, WEIGHT, EPS, AXIS, WHERE, OUT, RETURN, N };
    PyObject *a[N], *result = NULL;
    Sizes shape, axes;
    Call c;
    call_init(&c, PyModule_GetState(module), RMS);
    if (parse(c.o.state, RMS_NORM, "rms_norm", args, nargs, kwnames, N, a) < 0)
        return NULL;
    if (call_convert(&c, a[X], a[WHERE], a[OUT]) == 0 &&
        parameters_convert(&c, a[WEIGHT], Py_None) == 0 && rms_eps(a[EPS], &c) == 0 &&
        as_sizes(a[SHAPE], "normalized_shape", &shape) == 0 &&
        as_sizes(a[AXIS], "axis", &axes) == 0 &&
        as_bool(a[RETURN], "return_moments", &c.return_moments) == 0 &&
        reduced_axes(&c, &shape, &axes) == 0 && reduced_check(&c, c.weight, "weight") == 0)
        result = compute_and_finish(&c);
    call_clear(&c);
    return result;
}

PyObject *standardize(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    enum { X, AXIS, EPS, WHERE, OUT, RETURN, N };
    PyObject *a[N], *result = NULL;
    Sizes axes;
    Call c;
    call_init(&c, PyModule_GetState(module), LAYER);
    if (parse(c.o.state, STANDARDIZE, "standardize", args, nargs, kwnames, N, a) < 0)
        return NULL;
    if (call_convert(&c, a[X], a[WHERE], a[OUT]) == 0 && as_eps(a[EPS], &c.job.eps) == 0 &&
        as_sizes(a[AXIS], "axis", &axes) == 0 &&
        as_bool(a[RETURN], "return_moments", &c.return_moments) == 0 &&
        place_axes(c.o.state, &axes, PyArray_NDIM(c.o.x), c.reduce) == 0)
        result = compute_and_finish(&c);
    call_clear(&c);
    return result;
}

PyObject *moments(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    enum { X, AXIS, WHERE, N };
    PyObject *a[N], *result = NULL;
    Sizes axes;
    Call c;
    call_init(&c, PyModule_GetState(module), LAYER);
    c.return_moments = 1;
    if (parse(c.o.state, MOMENTS, "moments", args, nargs, kwnames, N, a) < 0)
        return NULL;
    if (call_convert(&c, a[X], a[WHERE], NULL) == 0 && as_sizes(a[AXIS], "axis", &axes) == 0 &&
        place_axes(c.o.state, &axes, PyArray_NDIM(c.o.x), c.reduce) == 0)
        result = compute_and_finish(&c);
    call_clear(&c);
    return result;
}

/* ---- norms of groups of channels, and blended ------------------------------------------------ */

static int num_groups_check(const Call *c)
{
    PyArrayObject *x = c->o.x;
    const npy_intp channels = PyArray_DIM(x, c->job.axis), groups = c->job.num_groups;
    if (groups >= 1 && channels % groups == 0)
        return 0;
    PyObject *shape = shape_list(x);
    if (shape && groups < 1)
        PyErr_Format(PyExc_ValueError, "Expected num_groups to be greater than 0, got %zd", groups);
    else if (shape)
        PyErr_Format(
            PyExc_ValueError,
            "num_channels (%zd) must be divisible by num_groups (%zd): Expected number of "
            "channels in input to be divisible by num_groups, but got input of shape %R and "
            "num_groups=%zd",
            channels, groups, shape, groups);
    Py_XDECREF(shape);
    return -1;
}

PyObject *group_norm(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    enum { X, NUM_GROUPS, WEIGHT, BIAS, EPS, AXIS, WHERE, OUT, RETURN, N };
    PyObject *a[N], *result = NULL;
    Py_ssize_t axis;
    Call c;
    call_init(&c, PyModule_GetState(module), GROUP);
    if (parse(c.o.state, GROUP_NORM, "group_norm", args, nargs, kwnames, N, a) < 0)
        return NULL;
    if (call_convert(&c, a[X], a[WHERE], a[OUT]) == 0 &&
        as_size(a[NUM_GROUPS], "num_groups", &c.job.num_groups) == 0 &&
        parameters_convert(&c, a[WEIGHT], a[BIAS]) == 0 && as_eps(a[EPS], &c.job.eps) == 0 &&
        as_size(a[AXIS], "axis", &axis) == 0 &&
        as_bool(a[RETURN], "return_moments", &c.return_moments) == 0 &&
        channels_check(&c, axis) == 0 && num_groups_check(&c) == 0)
        result = compute_and_finish(&c);
    call_clear(&c);
    return result;
}

/* (instance, layer, batch); of (N, C), whose instances are single elements, (layer, batch). */
static int logits_read(Call *c, PyArrayObject *mean, PyArrayObject *var)
{
    Logits *l = &c->job.logits;
    l->n = PyArray_NDIM(c->o.x) == 2 ? 2 : 3;
    if (vector_check(mean, "mean_weight", l->n) < 0 || vector_check(var, "var_weight", l->n) < 0)
        return -1;
    running_read(c->o.state, mean, l->mean);
    running_read(c->o.state, var, l->var);
    return 0;
}

PyObject *switchable_norm(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames)
{
    enum {
        X,
        MEAN_WEIGHT,
        VAR_WEIGHT,
        WEIGHT,
        BIAS,
        MEAN,
        VAR,
        TRAINING,
        MOMENTUM,
        EPS,
        AXIS,
        CORRECTION,
        OUT,
        RETURN,
        N
    };
    PyObject *a[N], *result = NULL;
    PyArrayObject *mean = NULL, *var = NULL;
    Py_ssize_t axis;
    Call c;
    call_init(&c, PyModule_GetState(module), SWITCHABLE);
    if (parse(c.o.state, SWITCHABLE_NORM, "switchable_norm", args, nargs, kwnames, N, a) < 0)
        return NULL;
    if (call_convert(&c, a[X], NULL, a[OUT]) == 0 &&
        required_convert(c.o.state, a[MEAN_WEIGHT], "mean_weight", &mean) == 0 &&
        required_convert(c.o.state, a[VAR_WEIGHT], "var_weight", &var) == 0 &&
        parameters_convert(&c, a[WEIGHT], a[BIAS]) == 0 &&
        running_convert(&c, a[MEAN], a[VAR]) == 0 &&
        as_bool(a[TRAINING], "training", &c.use_batch) == 0 &&
        as_finite(a[MOMENTUM], "momentum", &c.momentum) == 0 && as_eps(a[EPS], &c.job.eps) == 0 &&
        as_size(a[AXIS], "axis", &axis) == 0 &&
        as_correction(a[CORRECTION], &c.job.correction) == 0 &&
        as_bool(a[RETURN], "return_moments", &c.return_moments) == 0 &&
        channels_check(&c, axis) == 0 && logits_read(&c, mean, var) == 0)
        result = compute_and_finish(&c);
    Py_XDECREF(mean);
    Py_XDECREF(var);
    call_clear(&c);
    return result;
}
