/* What takes no statistics: the rectifiers, and the norm with a window over channels. */
#include <math.h>

#include "arguments.h"
#include "arrays.h"
#include "norm.h"

static PyObject *take_result(const Operands *o, int failed)
{
    return failed ? PyErr_NoMemory() : Py_NewRef(o->result);
}

static PyObject *bend(Operands *o, Bend *b)
{
    if (operands_place(o) < 0)
        return NULL;
    b->t = o->t;
    PyThreadState *thread = release_gil(o);
    const int failed = bend_forward(b);
    restore_gil(thread);
    return take_result(o, failed);
}

/* One slope for all, in the arithmetic type. */
static PyObject *bend_evenly(Operands *o, double floor, double slope)
{
    const float narrow = (float)slope;
    const void *one = o->t.dtype == F64 ? (const void *)&slope : (const void *)&narrow;
    return bend(o, &(Bend){.nslope = 1, .floor = floor, .slope = one});
}

PyObject *relu(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    enum { X, OUT, N };
    PyObject *a[N], *result = NULL;
    Operands o;
    operands_init(&o, PyModule_GetState(module));
    if (parse(o.state, RELU, "relu", args, nargs, kwnames, N, a) < 0)
        return NULL;
    if (operands_convert(&o, a[X], NULL, a[OUT]) == 0)
        result = bend_evenly(&o, 0, 1);
    operands_clear(&o);
    return result;
}

PyObject *leaky_relu(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    enum { X, SLOPE, OUT, N };
    PyObject *a[N], *result = NULL;
    double slope;
    Operands o;
    operands_init(&o, PyModule_GetState(module));
    if (parse(o.state, LEAKY_RELU, "leaky_relu", args, nargs, kwnames, N, a) < 0)
        return NULL;
    if (operands_convert(&o, a[X], NULL, a[OUT]) == 0 &&
        as_double(a[SLOPE], "negative_slope", &slope) == 0)
        result = bend_evenly(&o, -INFINITY, slope);
    operands_clear(&o);
    return result;
}

/* Of more than one slope, each is a channel's. */
static int slopes_check(const Operands *o, PyArrayObject *weight, Py_ssize_t axis, Bend *b)
{
    b->nslope = PyArray_SIZE(weight);
    if (PyArray_NDIM(weight) > 1) {
        PyErr_Format(PyExc_ValueError,
                     "prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = %d",
                     PyArray_NDIM(weight));
        return -1;
    }
    if (b->nslope == 1)
        return 0;
    if (place_axis(o->state, axis, PyArray_NDIM(o->x), &b->axis) < 0)
        return -1;
    if (b->nslope == PyArray_DIM(o->x, b->axis))
        return 0;
    PyErr_Format(PyExc_ValueError,
                 "weight: Mismatch of parameter numbers and input channel size. Found parameter "
                 "numbers = %zd and channel size = %zd.",
                 b->nslope, PyArray_DIM(o->x, b->axis));
    return -1;
}

PyObject *prelu(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    enum { X, WEIGHT, AXIS, OUT, N };
    PyObject *a[N], *result = NULL;
    PyArrayObject *weight = NULL;
    Py_ssize_t axis;
    Bend b = {.floor = -INFINITY};
    Operands o;
    operands_init(&o, PyModule_GetState(module));
    if (parse(o.state, PRELU, "prelu", args, nargs, kwnames, N, a) < 0)
        return NULL;
    if (operands_convert(&o, a[X], NULL, a[OUT]) == 0 &&
        required_convert(o.state, a[WEIGHT], "weight", &weight) == 0 &&
        as_size(a[AXIS], "axis", &axis) == 0 && slopes_check(&o, weight, axis, &b) == 0 &&
        parameter_place(&o, &weight, &b.slope) == 0)
        result = bend(&o, &b);
    Py_XDECREF(weight);
    operands_clear(&o);
    return result;
}

/* ---- local response norm --------------------------------------------------------------------- */

/* Windows of even size reach one channel further back (torch) or ahead (ONNX). */
static int as_window(PyObject *o, int *onnx)
{
    if (!PyUnicode_Check(o)) {
        PyErr_Format(PyExc_TypeError, "window must be a string, not %s", Py_TYPE(o)->tp_name);
        return -1;
    }
    *onnx = PyUnicode_CompareWithASCIIString(o, "onnx") == 0;
    if (*onnx || PyUnicode_CompareWithASCIIString(o, "torch") == 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "window must be 'torch' or 'onnx', but got %R", o);
    return -1;
}

static int window_check(const Operands *o, Py_ssize_t axis, Window *w)
{
    const int ndim = PyArray_NDIM(o->x);
    if (ndim < 3) {
        PyErr_Format(PyExc_ValueError,
                     "Expected 3D or higher dimensionality input (got %d dimensions) for x", ndim);
        return -1;
    }
    if (w->size < 1) {
        PyErr_Format(PyExc_ValueError, "size must be at least 1, but got %zd", w->size);
        return -1;
    }
    return place_axis(o->state, axis, ndim, &w->axis);
}

static PyObject *respond(Operands *o, Window *w)
{
    if (operands_place(o) < 0)
        return NULL;
    w->t = o->t;
    PyThreadState *thread = release_gil(o);
    const int failed = lrn_forward(w);
    restore_gil(thread);
    return take_result(o, failed);
}

PyObject *local_response_norm(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    enum { X, SIZE, ALPHA, BETA, K, AXIS, WINDOW, OUT, N };
    PyObject *a[N], *result = NULL;
    Py_ssize_t axis;
    int onnx;
    Window w = {.size = 0};
    Operands o;
    operands_init(&o, PyModule_GetState(module));
    if (parse(o.state, LOCAL_RESPONSE_NORM, "local_response_norm", args, nargs, kwnames, N, a) < 0)
        return NULL;
    if (operands_convert(&o, a[X], NULL, a[OUT]) == 0 && as_size(a[SIZE], "size", &w.size) == 0 &&
        as_double(a[ALPHA], "alpha", &w.alpha) == 0 && as_double(a[BETA], "beta", &w.beta) == 0 &&
        as_double(a[K], "k", &w.k) == 0 && as_size(a[AXIS], "axis", &axis) == 0 &&
        as_window(a[WINDOW], &onnx) == 0 && window_check(&o, axis, &w) == 0) {
        w.before = onnx ? (w.size - 1) / 2 : w.size / 2;
        result = respond(&o, &w);
    }
    operands_clear(&o);
    return result;
}
