/* Which arrays share memory, and what is done about it. */
#include "arrays.h"

/* The bytes an array spans, first and past the last. */
static void bounds(PyArrayObject *array, const char **first, const char **last)
{
    const char *low = PyArray_BYTES(array), *high = low + PyArray_ITEMSIZE(array);
    for (int i = 0; i < PyArray_NDIM(array); i++) {
        const npy_intp extent = (PyArray_DIM(array, i) - 1) * PyArray_STRIDE(array, i);
        *(extent < 0 ? &low : &high) += extent;
    }
    *first = low;
    *last = PyArray_SIZE(array) ? high : low;
}

static int bounds_meet(PyArrayObject *a, PyArrayObject *b)
{
    const char *a_first, *a_last, *b_first, *b_last;
    bounds(a, &a_first, &a_last);
    bounds(b, &b_first, &b_last);
    return a_first < b_last && b_first < a_last;
}

int share_memory(const State *state, PyArrayObject *a, PyArrayObject *b)
{
    if (!bounds_meet(a, b))
        return 0;
    PyObject *answer = PyObject_CallFunctionObjArgs(state->shares_memory, a, b, NULL);
    const int shared = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return shared;
}

/* Are all of its elements apart? Sorted by stride, each axis of most arrays steps over the ones
 * before it. */
static int steps_nest(PyArrayObject *array)
{
    npy_intp stride[MAXD], extent[MAXD], reach = PyArray_ITEMSIZE(array);
    int n = 0;
    for (int i = 0; i < PyArray_NDIM(array); i++) {
        if (PyArray_DIM(array, i) <= 1)
            continue;
        const npy_intp step = Py_ABS(PyArray_STRIDE(array, i));
        int at = n++;
        for (; at > 0 && stride[at - 1] > step; at--) {
            stride[at] = stride[at - 1];
            extent[at] = extent[at - 1];
        }
        stride[at] = step;
        extent[at] = PyArray_DIM(array, i);
    }
    for (int i = 0; i < n; i++) {
        if (stride[i] < reach)
            return 0;
        reach += (extent[i] - 1) * stride[i];
    }
    return 1;
}

/* The other arrays are walked with a map of the bytes they span: 1, 0 or, on error, -1. */
static int overlaps_itself(PyArrayObject *array)
{
    const char *first, *last;
    const npy_intp size = PyArray_SIZE(array), item = PyArray_ITEMSIZE(array);
    if (size == 0 || steps_nest(array))
        return 0;
    bounds(array, &first, &last);
    char *taken = PyMem_Calloc((size_t)(last - first), 1);
    if (taken == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    int found = 0;
    for (npy_intp i = 0; i < size && !found; i++) {
        npy_intp place = PyArray_BYTES(array) - first, rest = i;
        for (int axis = PyArray_NDIM(array) - 1; axis >= 0; axis--) {
            place += rest % PyArray_DIM(array, axis) * PyArray_STRIDE(array, axis);
            rest /= PyArray_DIM(array, axis);
        }
        for (npy_intp byte = place; byte < place + item; byte++)
            found |= taken[byte]++;
    }
    PyMem_Free(taken);
    return found;
}

static int refuse_out(const char *reason)
{
    PyErr_Format(PyExc_ValueError, "out %s", reason);
    return -1;
}

static int check_out(const Operands *o)
{
    PyArrayObject *y = o->y;
    if (dtype_of(o->state, y) != (int)o->t.dtype) {
        PyArray_Descr *expected = native_descr(o->state, o->t.dtype);
        PyErr_Format(PyExc_ValueError, "out must have dtype %S, as the result has, but has %S",
                     (PyObject *)expected, (PyObject *)PyArray_DESCR(y));
        Py_DECREF(expected);
        return -1;
    }
    if (PyArray_NDIM(y) != PyArray_NDIM(o->x) ||
        !PyArray_CompareLists(PyArray_DIMS(y), PyArray_DIMS(o->x), PyArray_NDIM(y))) {
        PyObject *given = shape_tuple(y), *expected = shape_tuple(o->x);
        if (given && expected)
            PyErr_Format(PyExc_ValueError, "out must have shape %R, as x has, but has %R", expected,
                         given);
        Py_XDECREF(given);
        Py_XDECREF(expected);
        return -1;
    }
    if (PyArray_ISBYTESWAPPED(y))
        return refuse_out("must have native byte order");
    if (!PyArray_ISWRITEABLE(y))
        return refuse_out("is read-only");
    const int overlap = overlaps_itself(y);
    return overlap > 0 ? refuse_out("has two elements in one place") : overlap;
}

/* x element for element: then each is read before it is written. */
static int in_place(const Operands *o)
{
    if (PyArray_BYTES(o->x) != PyArray_BYTES(o->y) || PyArray_ISBYTESWAPPED(o->x))
        return 0;
    for (int i = 0; i < PyArray_NDIM(o->x); i++)
        if (PyArray_DIM(o->x, i) > 1 && PyArray_STRIDE(o->x, i) != PyArray_STRIDE(o->y, i))
            return 0;
    return 1;
}

/* Replaces an input by a copy of it. */
static int set_apart(PyArrayObject **array)
{
    PyObject *copy = PyArray_NewCopy(*array, NPY_KEEPORDER);
    if (copy == NULL)
        return -1;
    Py_SETREF(*array, (PyArrayObject *)copy);
    return 0;
}

static void take_steps(PyArrayObject *array, npy_intp *steps)
{
    for (int i = 0; i < PyArray_NDIM(array); i++)
        steps[i] = PyArray_STRIDE(array, i);
}

/* x as it lies, if it still is what the checks have seen. */
static int take_x(Operands *o)
{
    Tensors *t = &o->t;
    if (PyArray_NDIM(o->x) != t->ndim || dtype_of(o->state, o->x) != (int)t->dtype ||
        !PyArray_CompareLists(PyArray_DIMS(o->x), o->shape, t->ndim))
        return refuse_changed("x");
    take_steps(o->x, o->x_steps);
    t->swapped = PyArray_ISBYTESWAPPED(o->x);
    t->x = PyArray_BYTES(o->x);
    t->xstep = (const ptrdiff_t *)o->x_steps;
    return 0;
}

static int make_out(Operands *o)
{
    PyArray_Descr *descr = native_descr(o->state, o->t.dtype);
    PyObject *y = PyArray_IS_C_CONTIGUOUS(o->x)
                      ? PyArray_NewFromDescr(&PyArray_Type, descr, PyArray_NDIM(o->x),
                                             PyArray_DIMS(o->x), NULL, NULL, 0, NULL)
                      : PyArray_NewLikeArray(o->x, NPY_KEEPORDER, descr, 0);
    if (y == NULL)
        return -1;
    o->y = (PyArrayObject *)y;
    o->result = Py_NewRef(y);
    return 0;
}

static int broadcast_where(Operands *o)
{
    const int extra = PyArray_NDIM(o->x) - PyArray_NDIM(o->where);
    int fits = extra >= 0;
    if (PyArray_TYPE(o->where) != NPY_BOOL)
        return refuse_changed("where");
    for (int i = 0; i < PyArray_NDIM(o->x) && fits; i++) {
        const int own = i >= extra;
        const npy_intp n = own ? PyArray_DIM(o->where, i - extra) : 1;
        o->where_steps[i] = n == 1 ? 0 : PyArray_STRIDE(o->where, i - extra);
        fits = n == 1 || n == PyArray_DIM(o->x, i);
    }
    if (fits)
        return 0;
    PyObject *given = shape_tuple(o->where), *expected = shape_tuple(o->x);
    if (given && expected)
        PyErr_Format(PyExc_ValueError, "where has shape %R, which does not broadcast to x, %R",
                     given, expected);
    Py_XDECREF(given);
    Py_XDECREF(expected);
    return -1;
}

/* Copying may drop the GIL. Bounds are enough here: a copy too many costs time only. */
static int set_inputs_apart(Operands *o)
{
    const int where_meets = o->where && bounds_meet(o->where, o->y);
    if (bounds_meet(o->x, o->y) && !in_place(o) && (set_apart(&o->x) < 0 || take_x(o) < 0))
        return -1;
    return where_meets && (set_apart(&o->where) < 0 || broadcast_where(o) < 0) ? -1 : 0;
}

int operands_place(Operands *o)
{
    Tensors *t = &o->t;
    if (take_x(o) < 0 || (o->where && broadcast_where(o) < 0))
        return -1;
    if (o->writes) {
        if ((o->given ? check_out(o) : make_out(o)) < 0)
            return -1;
        take_steps(o->y, o->y_steps);
        t->y = PyArray_BYTES(o->y);
        t->ystep = (const ptrdiff_t *)o->y_steps;
        if (o->given && set_inputs_apart(o) < 0)
            return -1;
    }
    t->mask = o->where ? PyArray_BYTES(o->where) : NULL;
    t->mstep = (const ptrdiff_t *)o->where_steps;
    return 0;
}

/* The core reads parameters as they lie. Doubles are narrowed here, in the copy's own memory, since
 * NumPy's cast would warn where they overflow. */
static PyArrayObject *arithmetic_copy(PyArrayObject *p, int arithmetic)
{
    const int narrows = arithmetic == NPY_FLOAT && PyArray_TYPE(p) == NPY_DOUBLE;
    PyArray_Descr *descr = PyArray_DescrFromType(narrows ? NPY_DOUBLE : arithmetic);
    PyObject *copy =
        PyArray_FromArray(p, descr, NPY_ARRAY_CARRAY | NPY_ARRAY_ENSURECOPY | NPY_ARRAY_FORCECAST);
    if (copy == NULL || !narrows)
        return (PyArrayObject *)copy;
    char *data = PyArray_BYTES((PyArrayObject *)copy);
    for (npy_intp i = 0; i < PyArray_SIZE((PyArrayObject *)copy); i++) {
        double wide;
        memcpy(&wide, data + i * 8, 8);
        const float narrow = (float)wide;
        memcpy(data + i * 4, &narrow, 4);
    }
    return (PyArrayObject *)copy;
}

int parameter_place(const Operands *o, const char *name, npy_intp n, PyArrayObject **array,
                    const void **data)
{
    const int arithmetic = o->t.dtype == F64 ? NPY_DOUBLE : NPY_FLOAT;
    *data = NULL;
    if (*array == NULL)
        return 0;
    if (PyArray_SIZE(*array) != n ||
        (PyArray_TYPE(*array) != arithmetic && dtype_of(o->state, *array) < 0))
        return refuse_changed(name);
    if (PyArray_TYPE(*array) != arithmetic || !PyArray_ISCARRAY_RO(*array) ||
        (o->given && bounds_meet(*array, o->y))) {
        PyArrayObject *copy = arithmetic_copy(*array, arithmetic);
        if (copy == NULL)
            return -1;
        Py_SETREF(*array, copy);
    }
    *data = PyArray_DATA(*array);
    return 0;
}
