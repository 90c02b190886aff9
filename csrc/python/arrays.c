#include "arrays.h"

#include "arguments.h"

#define FLOATING "float16, bfloat16, float32 or float64"

/* bfloat16 is ml_dtypes', known by its type object alone; it need never be imported here. */
static int is_bfloat16(State *state, PyArray_Descr *descr)
{
    if (state->bfloat16)
        return descr->typeobj == state->bfloat16->typeobj;
    if (descr->kind != 'V' || PyDataType_ELSIZE(descr) != 2 ||
        !PyTypeNum_ISUSERDEF(descr->type_num))
        return 0;
    PyObject *name = PyUnicode_FromString("ml_dtypes"), *module = NULL, *type = NULL;
    if (name)
        module = PyImport_GetModule(name);
    if (module)
        type = PyObject_GetAttrString(module, "bfloat16");
    if (type && (PyTypeObject *)type == descr->typeobj)
        state->bfloat16 = PyArray_DescrFromType(descr->type_num);
    Py_XDECREF(name);
    Py_XDECREF(module);
    Py_XDECREF(type);
    PyErr_Clear();
    return state->bfloat16 != NULL;
}

int dtype_of(State *state, PyArrayObject *array)
{
    switch (PyArray_TYPE(array)) {
    case NPY_HALF:
        return F16;
    case NPY_FLOAT:
        return F32;
    case NPY_DOUBLE:
        return F64;
    default:
        return is_bfloat16(state, PyArray_DESCR(array)) ? BF16 : -1;
    }
}

PyArray_Descr *native_descr(const State *state, Dtype dtype)
{
    static const int types[DTYPES] = {[F16] = NPY_HALF, [F32] = NPY_FLOAT, [F64] = NPY_DOUBLE};
    if (dtype != BF16)
        return PyArray_DescrFromType(types[dtype]);
    Py_INCREF(state->bfloat16);
    return state->bfloat16;
}

PyObject *shape_tuple(PyArrayObject *array)
{
    return PyArray_IntTupleFromIntp(PyArray_NDIM(array), PyArray_DIMS(array));
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
    if (PyArray_CheckExact(array)) {
        Py_INCREF(array);
        return array;
    }
    return (PyArrayObject *)PyArray_View(array, NULL, &PyArray_Type);
}

/* Any array-like as a base-class ndarray of whatever dtype. */
static PyArrayObject *any_array(const State *state, PyObject *o, const char *name)
{
    if (PyArray_Check(o))
        return base_array((PyArrayObject *)o);
    PyObject *type = (PyObject *)Py_TYPE(o), *array;
    const int dlpack = !PyObject_HasAttrString(type, "__array__") &&
                       !PyObject_HasAttrString(type, "__array_interface__") &&
                       !PyObject_CheckBuffer(o) && PyObject_HasAttrString(type, "__dlpack__");
    array = dlpack ? PyObject_CallOneArg(state->from_dlpack, o) : PyArray_FROM_O(o);
    if (array == NULL) {
        name_argument(name);
        return NULL;
    }
    PyArrayObject *base = base_array((PyArrayObject *)array);
    Py_DECREF(array);
    return base;
}

static int wrong_dtype(PyArrayObject *array, const char *name, const char *expected)
{
    PyErr_Format(PyExc_TypeError, "%s must have dtype %s, but has %S", name, expected,
                 (PyObject *)PyArray_DESCR(array));
    return -1;
}

/* An array-like of a supported dtype; integers and bools become float64. */
static PyArrayObject *number_array(State *state, PyObject *o, const char *name, int *dtype)
{
    PyArrayObject *array = any_array(state, o, name);
    if (array == NULL)
        return NULL;
    *dtype = dtype_of(state, array);
    if (*dtype >= 0)
        return array;
    PyObject *wide = NULL;
    if (PyTypeNum_ISINTEGER(PyArray_TYPE(array)) || PyTypeNum_ISBOOL(PyArray_TYPE(array)))
        wide = PyArray_FromArray(array, PyArray_DescrFromType(NPY_DOUBLE), 0);
    else
        wrong_dtype(array, name, FLOATING ", integer or bool");
    Py_DECREF(array);
    *dtype = F64;
    return (PyArrayObject *)wide;
}

/* numpy.ma: the mask joins where. Sets *where to a new reference, or leaves it NULL. */
static int join_mask(PyObject *x, PyArrayObject **where)
{
    PyObject *name = NULL, *module = NULL, *type = NULL, *mask = NULL, *kept = NULL, *both = NULL;
    int status = -1;
    if ((name = PyUnicode_FromString("numpy.ma")) == NULL)
        goto out;
    if ((module = PyImport_GetModule(name)) == NULL) {
        status = PyErr_Occurred() ? -1 : 0;
        goto out;
    }
    if ((type = PyObject_GetAttrString(module, "MaskedArray")) == NULL)
        goto out;
    if ((status = PyObject_IsInstance(x, type)) <= 0)
        goto out;
    status = -1;
    if ((mask = PyObject_GetAttrString(x, "mask")) == NULL ||
        (kept = PyNumber_Invert(mask)) == NULL)
        goto out;
    both = *where ? PyNumber_And(kept, (PyObject *)*where) : Py_NewRef(kept);
    if (both == NULL) {
        name_argument("where");
        goto out;
    }
    Py_XSETREF(*where, (PyArrayObject *)PyArray_FROM_O(both));
    status = *where ? 0 : -1;
out:
    Py_XDECREF(name);
    Py_XDECREF(module);
    Py_XDECREF(type);
    Py_XDECREF(mask);
    Py_XDECREF(kept);
    Py_XDECREF(both);
    return status;
}

int x_convert(Operands *o, PyObject *x)
{
    int dtype;
    if ((o->x = number_array(o->state, x, "x", &dtype)) == NULL)
        return -1;
    o->t.dtype = (Dtype)dtype;
    return 0;
}

int where_convert(Operands *o, PyObject *where)
{
    if (where == Py_None)
        return 0;
    if ((o->where = any_array(o->state, where, "where")) == NULL)
        return -1;
    return PyArray_TYPE(o->where) == NPY_BOOL ? 0 : wrong_dtype(o->where, "where", "bool");
}

int out_convert(Operands *o, PyObject *out)
{
    o->writes = 1;
    o->given = out != Py_None;
    if (!o->given)
        return 0;
    if (!PyArray_Check(out)) {
        PyErr_Format(PyExc_TypeError, "out must be an ndarray, not %s", Py_TYPE(out)->tp_name);
        return -1;
    }
    o->result = Py_NewRef(out);
    o->y = base_array((PyArrayObject *)out);
    return o->y ? 0 : -1;
}

/* Where there is no `where`, a mask may hide nothing. */
static int drop_mask(Operands *o)
{
    if (o->where == NULL)
        return 0;
    PyObject *all = PyObject_CallMethod((PyObject *)o->where, "all", NULL);
    const int idle = all ? PyObject_IsTrue(all) : -1;
    Py_XDECREF(all);
    Py_CLEAR(o->where);
    if (idle == 0)
        PyErr_SetString(PyExc_TypeError, "x has masked elements, but there is no where to join");
    return idle > 0 ? 0 : -1;
}

int mask_convert(Operands *o, PyObject *x, int takes_where)
{
    if (!PyArray_Check(x) || PyArray_CheckExact(x))
        return 0;
    return join_mask(x, &o->where) < 0 || (!takes_where && drop_mask(o) < 0) ? -1 : 0;
}

int refuse_changed(const char *name)
{
    PyErr_Format(PyExc_ValueError, "%s has changed its dtype or shape during the call", name);
    return -1;
}

int shape_note(Operands *o)
{
    if (dtype_of(o->state, o->x) != (int)o->t.dtype)
        return refuse_changed("x");
    o->t.ndim = PyArray_NDIM(o->x);
    for (int i = 0; i < o->t.ndim; i++) /* no memcpy: of no axes there is no address */
        o->shape[i] = PyArray_DIM(o->x, i);
    o->t.shape = (const ptrdiff_t *)o->shape;
    return 0;
}

int parameter_convert(State *state, PyObject *o, const char *name, PyArrayObject **array)
{
    int dtype;
    if (o == Py_None)
        return 0;
    *array = number_array(state, o, name, &dtype);
    return *array ? 0 : -1;
}

int shared_convert(State *state, PyObject *o, const char *name, PyArrayObject **array)
{
    if (!PyArray_Check(o)) {
        PyErr_Format(PyExc_TypeError, "%s must be an ndarray, not %s", name, Py_TYPE(o)->tp_name);
        return -1;
    }
    if (dtype_of(state, (PyArrayObject *)o) < 0)
        return wrong_dtype((PyArrayObject *)o, name, FLOATING);
    *array = base_array((PyArrayObject *)o);
    return *array ? 0 : -1;
}
