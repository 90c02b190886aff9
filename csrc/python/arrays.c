#include "arrays.h"

#define FLOATING "float16, bfloat16, float32 or float64"

/* bfloat16 is ml_dtypes', which need never be imported here. */
static int is_bfloat16(PyArray_Descr *descr)
{
    const char *name = descr->typeobj->tp_name, *dot = strrchr(name, '.');
    return PyTypeNum_ISUSERDEF(descr->type_num) && PyDataType_ELSIZE(descr) == 2 &&
           strcmp(dot ? dot + 1 : name, "bfloat16") == 0;
}

int dtype_of(PyArrayObject *array)
{
    switch (PyArray_TYPE(array)) {
    case NPY_HALF:
        return F16;
    case NPY_FLOAT:
        return F32;
    case NPY_DOUBLE:
        return F64;
    default:
        return is_bfloat16(PyArray_DESCR(array)) ? BF16 : -1;
    }
}

void operands_init(Operands *o, State *state)
{
    memset(o, 0, offsetof(Operands, shape));
    o->state = state;
}

void operands_clear(Operands *o)
{
    Py_XDECREF(o->x);
    Py_XDECREF(o->where);
    Py_XDECREF(o->y);
    Py_XDECREF(o->result);
}

/* Subclasses could answer NumPy's functions with code of their own. */
static PyArrayObject *base_array(PyArrayObject *array)
{
    if (PyArray_CheckExact(array))
        return (PyArrayObject *)Py_NewRef(array);
    return (PyArrayObject *)PyArray_View(array, NULL, &PyArray_Type);
}

/* Any array-like as a base-class ndarray of whatever dtype. */
static PyArrayObject *any_array(const State *state, PyObject *o, const char *name)
{
    if (PyArray_Check(o))
        return base_array((PyArrayObject *)o);
    PyObject *array = PyObject_CallOneArg(state->imports[AS_NDARRAY], o);
    if (array == NULL)
        name_argument(name);
    return (PyArrayObject *)array;
}

static int wrong_dtype(PyArrayObject *array, const char *name, const char *expected)
{
    return refuse(PyExc_TypeError, "%s must have dtype %s, but has %S", name, expected,
                  (PyObject *)PyArray_DESCR(array));
}

int refuse_changed(const char *name)
{
    return refuse(PyExc_ValueError, "%s has changed its dtype or shape during the call", name);
}

int parameter_convert(const State *state, PyObject *o, const char *name, PyArrayObject **array)
{
    if (o == Py_None)
        return 0;
    if ((*array = any_array(state, o, name)) == NULL)
        return -1;
    if (dtype_of(*array) >= 0)
        return 0;
    if (!PyTypeNum_ISINTEGER(PyArray_TYPE(*array)) && !PyTypeNum_ISBOOL(PyArray_TYPE(*array)))
        return wrong_dtype(*array, name, FLOATING ", integer or bool");
    PyObject *wide = PyArray_FromArray(*array, PyArray_DescrFromType(NPY_DOUBLE), 0);
    Py_SETREF(*array, (PyArrayObject *)wide);
    return wide ? 0 : -1;
}

int shared_convert(PyObject *o, const char *name, PyArrayObject **array)
{
    if (!PyArray_Check(o))
        return refuse(PyExc_TypeError, "%s must be an ndarray, not %s", name, Py_TYPE(o)->tp_name);
    if (dtype_of((PyArrayObject *)o) < 0)
        return wrong_dtype((PyArrayObject *)o, name, FLOATING);
    *array = base_array((PyArrayObject *)o);
    return *array ? 0 : -1;
}

int x_convert(Operands *o, PyObject *x)
{
    if (x == Py_None)
        return refuse(PyExc_TypeError, "x must be an array, not None");
    if (parameter_convert(o->state, x, "x", &o->x) < 0)
        return -1;
    o->t.dtype = (Dtype)dtype_of(o->x);
    return 0;
}

int where_convert(Operands *o, PyObject *where)
{
    if (where == Py_None)
        return 0;
    Py_XSETREF(o->where, any_array(o->state, where, "where"));
    if (o->where == NULL)
        return -1;
    return PyArray_TYPE(o->where) == NPY_BOOL ? 0 : wrong_dtype(o->where, "where", "bool");
}

int mask_convert(Operands *o, PyObject *x, int takes_where)
{
    if (!PyArray_Check(x) || PyArray_CheckExact(x))
        return 0;
    PyObject *where = o->where ? (PyObject *)o->where : Py_None;
    PyObject *joined = PyObject_CallFunctionObjArgs(o->state->imports[JOIN_MASK], x, where,
                                                    takes_where ? Py_True : Py_False, NULL);
    const int status = joined ? where_convert(o, joined) : name_argument(o->where ? "where" : "x");
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
