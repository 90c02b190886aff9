#include "arrays.h"

/* bfloat16 is ml_dtypes', which need never be imported here. */
static int is_bfloat16(PyArray_Descr *descr)
{
    const char *name = descr->typeobj->tp_name, *dot = strrchr(name, '.');
    return PyTypeNum_ISUSERDEF(descr->type_num) && PyDataType_ELSIZE(descr) == 2 &&
           strcmp(dot ? dot + 1 : name, "bfloat16") == 0;
}

int small_dtype_of(PyArrayObject *array)
{
    if (PyArray_TYPE(array) == NPY_HALF)
        return F16;
    return is_bfloat16(PyArray_DESCR(array)) ? BF16 : -1;
}

void operands_clear(Operands *o)
{
    Py_XDECREF(o->x);
    Py_XDECREF(o->where);
    Py_XDECREF(o->grad);
    Py_XDECREF(o->y);
    Py_XDECREF(o->residual);
    Py_XDECREF(o->sum);
    Py_XDECREF(o->result);
}

/* Subclasses could answer NumPy's functions with code of their own. */
static PyArrayObject *base_array(PyArrayObject *array)
{
    if (PyArray_CheckExact(array))
        return (PyArrayObject *)Py_NewRef(array);
    return (PyArrayObject *)PyArray_View(array, NULL, &PyArray_Type);
}

int refuse_changed(const char *name)
{
    return refuse(PyExc_ValueError, "%s has changed its dtype or shape during the call", name);
}

static PyArrayObject *floating(const State *state, int which, PyObject *o, const char *name)
{
    if (PyArray_CheckExact(o) && dtype_of((PyArrayObject *)o) >= 0)
        return (PyArrayObject *)Py_NewRef(o);
    return (PyArrayObject *)ask(state, which, o, name);
}

static int array_convert(const State *state, PyObject *o, const char *name, PyArrayObject **array)
{
    *array = floating(state, NUMBERS, o, name);
    return *array ? 0 : -1;
}

int parameter_convert(const State *state, PyObject *o, const char *name, PyArrayObject **array)
{
    return o == Py_None ? 0 : array_convert(state, o, name, array);
}

int shared_convert(const State *state, PyObject *o, const char *name, PyArrayObject **array)
{
    *array = floating(state, SHARED, o, name);
    return *array ? 0 : -1;
}

int x_convert(Operands *o, PyObject *x)
{
    if (array_convert(o->state, x, "x", &o->x) < 0)
        return -1;
    const int dtype = dtype_of(o->x);
    o->t.dtype = (Dtype)dtype;
    return dtype < 0 ? refuse_changed("x") : 0;
}

int residual_convert(Operands *o, PyObject *residual)
{
    return parameter_convert(o->state, residual, "residual", &o->residual);
}

/* The gradients are new arrays, always. */
int grad_convert(Operands *o, PyObject *grad)
{
    o->writes = 1;
    o->grad = floating(o->state, GRADIENT, grad, "grad");
    return o->grad ? 0 : -1;
}

int where_convert(Operands *o, PyObject *where)
{
    if (where == Py_None)
        return 0;
    const int known = PyArray_CheckExact(where) && PyArray_TYPE((PyArrayObject *)where) == NPY_BOOL;
    PyObject *mask = known ? Py_NewRef(where) : ask(o->state, MASK, where, "where");
    Py_XSETREF(o->where, (PyArrayObject *)mask);
    return mask ? 0 : -1;
}

int mask_convert(Operands *o, PyObject *x, int takes_where)
{
    if (x == NULL || !PyArray_Check(x) || PyArray_CheckExact(x))
        return 0;
    PyObject *where = o->where ? (PyObject *)o->where : Py_None;
    PyObject *joined = PyObject_CallFunctionObjArgs(o->state->imports[JOIN_MASK], x, where,
                                                    takes_where ? Py_True : Py_False, NULL);
    const int status = joined ? where_convert(o, joined) : -1;
    Py_XDECREF(joined);
    return status;
}

int out_convert(Operands *o, PyObject *out)
{
    o->writes = 1;
    o->given = out != Py_None;
    if (!o->given)
        return 0;
    if (!PyArray_Check(out))
        return refuse(PyExc_TypeError, "out must be an ndarray, not %s", Py_TYPE(out)->tp_name);
    o->result = Py_NewRef(out);
    o->y = base_array((PyArrayObject *)out);
    return o->y ? 0 : -1;
}
