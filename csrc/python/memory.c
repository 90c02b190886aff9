/* Which arrays share memory, and what is done about it. */
#include "arrays.h"
#include "blocks.h"
#include "running.h"

static const char *const dtype_names[DTYPES] = {
    [F16] = "float16", [BF16] = "bfloat16", [F32] = "float32", [F64] = "float64"};

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

static int share_memory(const State *state, PyArrayObject *a, PyArrayObject *b)
{
    if (a == NULL || b == NULL || !bounds_meet(a, b))
        return 0;
    PyObject *answer = PyObject_CallFunctionObjArgs(state->imports[SHARES_MEMORY], a, b, NULL);
    const int shared = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return shared;
}

int out_overlaps(const Operands *o, PyArrayObject *other)
{
    PyArrayObject *const arrays[] = {o->x, o->where, other};
    int overlaps = 0;
    for (int i = 0; i < 3 && !overlaps; i++)
        overlaps = share_memory(o->state, arrays[i], o->y);
    return overlaps;
}

int refuse_shared(const State *state, PyArrayObject *array, const char *name, PyArrayObject *other,
                  const char *other_name)
{
    const int shared = share_memory(state, array, other);
    return shared > 0
               ? refuse(PyExc_ValueError, "%s and %s must not share memory", name, other_name)
               : shared;
}

/* The steps of an array of x's shape. */
static int take_steps(const Operands *o, PyArrayObject *array, const char *name, npy_intp *steps)
{
    const int ndim = PyArray_NDIM(array);
    int same = ndim == o->t.ndim;
    for (int i = 0; i < ndim && same; i++) {
        same = PyArray_DIM(array, i) == o->shape[i];
        steps[i] = PyArray_STRIDE(array, i);
    }
    if (!same)
        return refuse(PyExc_ValueError, "%s must have shape %s, as x has, but has %s", name,
                      SHAPE(o->t.ndim, o->shape), SHAPE(ndim, PyArray_DIMS(array)));
    return 0;
}

static int take_x(Operands *o)
{
    if (dtype_of(o->x) != (int)o->t.dtype)
        return refuse_changed("x");
    o->t.x = PyArray_BYTES(o->x);
    o->t.swapped = PyArray_ISBYTESWAPPED(o->x);
    return take_steps(o, o->x, "x", o->x_steps);
}

static int take_grad(Operands *o)
{
    const int dtype = dtype_of(o->grad);
    if (dtype < 0)
        return refuse_changed("grad");
    o->t.g = PyArray_BYTES(o->grad);
    o->t.gdtype = (Dtype)dtype;
    o->t.gswapped = PyArray_ISBYTESWAPPED(o->grad);
    return take_steps(o, o->grad, "grad", o->grad_steps);
}

/* Of x's own type: no sum is rounded twice. */
static int take_residual(Operands *o)
{
    const int dtype = dtype_of(o->residual);
    if (dtype != (int)o->t.dtype)
        return refuse(PyExc_TypeError,
                      "residual must have dtype %s, as x is computed in, but has %S",
                      dtype_names[o->t.dtype], (PyObject *)PyArray_DESCR(o->residual));
    return take_steps(o, o->residual, "residual", o->residual_steps);
}

static int take_where(Operands *o)
{
    const int ndim = PyArray_NDIM(o->where), extra = o->t.ndim - ndim;
    int fits = extra >= 0;
    if (PyArray_TYPE(o->where) != NPY_BOOL)
        return refuse_changed("where");
    for (int i = 0; i < o->t.ndim && fits; i++) {
        const npy_intp n = i < extra ? 1 : PyArray_DIM(o->where, i - extra);
        o->where_steps[i] = n == 1 ? 0 : PyArray_STRIDE(o->where, i - extra);
        fits = n == 1 || n == o->shape[i];
    }
    o->t.mask = PyArray_BYTES(o->where);
    return fits ? 0
                : refuse(PyExc_ValueError, "where has shape %s, which does not broadcast to x, %s",
                         SHAPE(ndim, PyArray_DIMS(o->where)), SHAPE(o->t.ndim, o->shape));
}

static int take_out(Operands *o)
{
    if (dtype_of(o->y) != (int)o->t.dtype)
        return refuse(PyExc_ValueError, "out must have dtype %s, as the result has, but has %S",
                      dtype_names[o->t.dtype], (PyObject *)PyArray_DESCR(o->y));
    if (PyArray_ISBYTESWAPPED(o->y))
        return refuse(PyExc_ValueError, "out must have native byte order");
    if (!PyArray_ISWRITEABLE(o->y))
        return refuse(PyExc_ValueError, "out is read-only");
    o->t.y = PyArray_BYTES(o->y);
    return take_steps(o, o->y, "out", o->y_steps);
}

/* Elements of an array in one segment lie apart. */
static int refuse_overlap(const Operands *o)
{
    if (PyArray_ISONESEGMENT(o->y))
        return 0;
    PyObject *answer = PyObject_CallOneArg(o->state->imports[OVERLAPS_ITSELF], (PyObject *)o->y);
    const int overlaps = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return overlaps > 0 ? refuse(PyExc_ValueError, "out has two elements in one place") : overlaps;
}

int operands_take(Operands *o)
{
    Tensors *t = &o->t;
    t->ndim = PyArray_NDIM(o->x);
    o->nbytes = PyArray_ITEMSIZE(o->x);
    for (int i = 0; i < t->ndim; i++)
        o->nbytes *= o->shape[i] = PyArray_DIM(o->x, i);
    t->shape = (const ptrdiff_t *)o->shape;
    t->xstep = (const ptrdiff_t *)o->x_steps;
    t->mstep = (const ptrdiff_t *)o->where_steps;
    t->ystep = (const ptrdiff_t *)o->y_steps;
    t->gstep = (const ptrdiff_t *)o->grad_steps;
    if (o->given && (take_out(o) < 0 || refuse_overlap(o) < 0)) /* which runs normc's Python */
        return -1;
    if (take_x(o) < 0 || (o->residual && take_residual(o) < 0) || /* whose mask is in where */
        (o->where && take_where(o) < 0) || (o->grad && take_grad(o) < 0))
        return -1;
    return o->given ? take_out(o) : 0;
}

/* y element for element: then each is read before it is written. */
static int in_place(const Operands *o, PyArrayObject *array, const npy_intp *steps)
{
    if (PyArray_BYTES(array) != o->t.y || PyArray_ISBYTESWAPPED(array))
        return 0;
    for (int i = 0; i < o->t.ndim; i++)
        if (o->shape[i] > 1 && steps[i] != o->y_steps[i])
            return 0;
    return 1;
}

/* Replaces an input by a copy of it, which may drop the GIL. Bounds are enough to ask for: a copy
 * too many costs time only. */
static int set_apart(const Operands *o, PyArrayObject **array)
{
    if (*array == NULL || !bounds_meet(*array, o->y))
        return 0;
    PyObject *copy = PyArray_NewCopy(*array, NPY_KEEPORDER);
    if (copy == NULL)
        return -1;
    Py_SETREF(*array, (PyArrayObject *)copy);
    return 1;
}

/* Dense, and of the arithmetic type: how the core reads parameters. */
static PyArrayObject *arithmetic_copy(PyArrayObject *p, Dtype dtype, Dtype arithmetic)
{
    const npy_intp n = PyArray_SIZE(p);
    PyArrayObject *dense = (PyArrayObject *)PyArray_NewCopy(p, NPY_CORDER), *copy;
    if (dense == NULL)
        return NULL;
    copy = (PyArrayObject *)PyArray_SimpleNew(PyArray_NDIM(dense), PyArray_DIMS(dense),
                                              arithmetic == F64 ? NPY_DOUBLE : NPY_FLOAT);
    if (copy)
        vector_read(&(Vector){PyArray_BYTES(dense), n, PyArray_ITEMSIZE(dense), dtype,
                              PyArray_ISBYTESWAPPED(dense)},
                    arithmetic, PyArray_DATA(copy));
    Py_DECREF(dense);
    return copy;
}

static PyObject *new_like_x(const Operands *o)
{
    PyArray_Descr *descr = PyArray_DescrFromType(PyArray_TYPE(o->x));
    return PyArray_IS_C_CONTIGUOUS(o->x) ? PyArray_NewFromDescr(&PyArray_Type, descr, o->t.ndim,
                                                                o->shape, NULL, NULL, 0, NULL)
                                         : PyArray_NewLikeArray(o->x, NPY_KEEPORDER, descr, 0);
}

static PyArrayObject *make_result(const Operands *o)
{
    PyObject *handler;
    if (blocks_enter(o->nbytes, &handler) < 0)
        return NULL;
    PyObject *result = new_like_x(o);
    if (blocks_leave(handler) < 0)
        Py_CLEAR(result);
    return (PyArrayObject *)result;
}

static int make_out(Operands *o)
{
    if ((o->y = make_result(o)) == NULL)
        return -1;
    o->result = Py_NewRef((PyObject *)o->y);
    o->t.y = PyArray_BYTES(o->y);
    return take_steps(o, o->y, "out", o->y_steps);
}

/* From here on x is the sum, which the core makes. */
static int make_sum(Operands *o)
{
    if (o->residual == NULL)
        return 0;
    if ((o->sum = make_result(o)) == NULL || take_steps(o, o->sum, "residual", o->sum_steps) < 0)
        return -1;
    o->terms = o->t;
    o->terms.mask = NULL;
    o->terms.g = PyArray_BYTES(o->residual);
    o->terms.gdtype = o->t.dtype;
    o->terms.gswapped = PyArray_ISBYTESWAPPED(o->residual);
    o->terms.gstep = (const ptrdiff_t *)o->residual_steps;
    o->terms.y = PyArray_BYTES(o->sum);
    o->terms.ystep = o->t.xstep = (const ptrdiff_t *)o->sum_steps;
    o->t.x = o->terms.y;
    o->t.swapped = 0;
    return 0;
}

/* The gradient may have any floating type, but computes in x's. */
static int grad_place(Operands *o)
{
    const Dtype arithmetic = o->t.dtype == F64 ? F64 : F32;
    if (o->grad == NULL || (o->t.gdtype == F64) == (arithmetic == F64))
        return 0;
    PyArrayObject *copy = arithmetic_copy(o->grad, o->t.gdtype, arithmetic);
    if (copy == NULL)
        return -1;
    Py_SETREF(o->grad, copy);
    return take_grad(o);
}

int operands_place(Operands *o)
{
    if (!o->writes)
        return 0;
    if (grad_place(o) < 0)
        return -1;
    if (!o->given)
        return make_out(o) < 0 ? -1 : make_sum(o);
    const int x_moved = in_place(o, o->x, o->x_steps) ? 0 : set_apart(o, &o->x);
    if (x_moved < 0 || (x_moved && take_x(o) < 0))
        return -1;
    const int where_moved = set_apart(o, &o->where);
    if (where_moved < 0 || (where_moved && take_where(o) < 0))
        return -1;
    const int apart = o->residual == NULL || in_place(o, o->residual, o->residual_steps);
    const int residual_moved = apart ? 0 : set_apart(o, &o->residual);
    if (residual_moved < 0 || (residual_moved && take_residual(o) < 0))
        return -1;
    return make_sum(o);
}

int parameter_place(const Operands *o, const char *name, npy_intp n, PyArrayObject **array,
                    const void **data)
{
    const Dtype arithmetic = o->t.dtype == F64 ? F64 : F32;
    *data = NULL;
    if (*array == NULL)
        return 0;
    const int dtype = dtype_of(*array);
    if (size_of(*array) != n || dtype < 0)
        return refuse_changed(name);
    if (dtype != (int)arithmetic || !PyArray_ISCARRAY_RO(*array) ||
        (o->given && bounds_meet(*array, o->y))) {
        PyArrayObject *copy = arithmetic_copy(*array, (Dtype)dtype, arithmetic);
        if (copy == NULL)
            return -1;
        Py_SETREF(*array, copy);
    }
    *data = PyArray_DATA(*array);
    return 0;
}
