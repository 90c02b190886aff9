#include "arguments.h"

#include <math.h>

const char *shape_text(char *text, int n, const npy_intp *dims, const char brackets[2])
{
    char *end = text;
    *end++ = brackets[0];
    for (int i = 0; i < n; i++)
        end += sprintf(end, i ? ", %zd" : "%zd", (Py_ssize_t)dims[i]);
    if (n == 1 && brackets[0] == '(')
        *end++ = ',';
    *end++ = brackets[1];
    *end = 0;
    return text;
}

int name_argument(const char *name)
{
    PyObject *type, *cause, *trace;
    if (!PyErr_ExceptionMatches(PyExc_TypeError) && !PyErr_ExceptionMatches(PyExc_ValueError) &&
        !PyErr_ExceptionMatches(PyExc_RuntimeError) && !PyErr_ExceptionMatches(PyExc_BufferError))
        return -1;
    PyErr_Fetch(&type, &cause, &trace);
    PyErr_NormalizeException(&type, &cause, &trace);
    PyObject *kind =
        PyErr_GivenExceptionMatches(type, PyExc_TypeError) ? PyExc_TypeError : PyExc_ValueError;
    if (trace)
        PyException_SetTraceback(cause, trace);
    PyErr_Format(kind, "%s: %S", name, cause);
    Py_XDECREF(type);
    Py_XDECREF(trace);
    PyErr_Fetch(&type, &kind, &trace);
    PyErr_NormalizeException(&type, &kind, &trace);
    PyException_SetCause(kind, cause);
    PyErr_Restore(type, kind, trace);
    return -1;
}

/* Call sites intern their keywords, so identity nearly always decides. */
static int find_keyword(const Signature *s, const char *function, PyObject *keyword)
{
    for (int i = 1; i < s->count; i++)
        if (s->names[i] == keyword)
            return i;
    for (int i = 1; i < s->count; i++)
        if (PyUnicode_Compare(s->names[i], keyword) == 0)
            return i;
    const int first = PyUnicode_Compare(keyword, s->names[0]) == 0;
    return refuse(PyExc_TypeError,
                  first ? "%s() takes %R as a positional argument only"
                        : "%s() got an unexpected keyword argument %R",
                  function, keyword);
}

int parse(const Signature *s, const char *function, PyObject *const *args, Py_ssize_t nargs,
          PyObject *kwnames, PyObject **values)
{
    const Py_ssize_t nkeywords = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    if (s->count == 0)
        return refuse(PyExc_RuntimeError, "%s() has no signature yet: normc was imported in part",
                      function);
    if (nargs > s->positional)
        return refuse(PyExc_TypeError, "%s() takes at most %d positional argument%s (%zd given)",
                      function, s->positional, s->positional == 1 ? "" : "s", nargs);
    for (int i = 0; i < s->count; i++)
        values[i] = i < nargs ? args[i] : NULL;
    for (Py_ssize_t k = 0; k < nkeywords; k++) {
        PyObject *keyword = PyTuple_GET_ITEM(kwnames, k);
        const int i = find_keyword(s, function, keyword);
        if (i < 0)
            return -1;
        if (values[i])
            return refuse(PyExc_TypeError, "%s() got multiple values for argument %R", function,
                          keyword);
        values[i] = args[nargs + k];
    }
    for (int i = 0; i < s->count; i++) {
        if (values[i] == NULL)
            values[i] = s->defaults[i];
        if (values[i] == NULL)
            return refuse(PyExc_TypeError, "%s() missing required argument %R", function,
                          s->names[i]);
    }
    return 0;
}

static int wrong_type(const char *name, const char *expected, PyObject *o)
{
    return refuse(PyExc_TypeError, "%s must be %s, not %s", name, expected, Py_TYPE(o)->tp_name);
}

/* NumPy would drop imaginary parts with no more than a warning, and read numbers out of strings. */
static int is_real(PyObject *o)
{
    if (PyComplex_Check(o) || PyArray_IsScalar(o, ComplexFloating) ||
        PyArray_IsScalar(o, Flexible) || PyArray_IsScalar(o, Timedelta))
        return 0;
    if (PyArray_Check(o)) {
        const int type = PyArray_TYPE((PyArrayObject *)o);
        return PyArray_CheckExact(o) && PyArray_NDIM((PyArrayObject *)o) == 0 &&
               !PyTypeNum_ISCOMPLEX(type) &&
               (PyTypeNum_ISNUMBER(type) || PyTypeNum_ISBOOL(type) || PyTypeNum_ISUSERDEF(type));
    }
    const PyNumberMethods *number = Py_TYPE(o)->tp_as_number;
    return number && (number->nb_float || number->nb_index);
}

int as_double(PyObject *o, const char *name, double *value)
{
    if (PyFloat_CheckExact(o)) {
        *value = PyFloat_AS_DOUBLE(o);
        return 0;
    }
    if (!is_real(o))
        return wrong_type(name, "a real number", o);
    *value = PyFloat_AsDouble(o);
    if (*value != -1.0 || !PyErr_Occurred())
        return 0;
    if (!PyErr_ExceptionMatches(PyExc_OverflowError))
        return name_argument(name);
    PyErr_Clear();
    return refuse(PyExc_ValueError, "%s must fit a double, but got a larger %s", name,
                  Py_TYPE(o)->tp_name);
}

static int wrong_value(const char *name, const char *expected, double value)
{
    PyObject *number = PyFloat_FromDouble(value);
    if (number)
        PyErr_Format(PyExc_ValueError, "%s must be %s, but got %R", name, expected, number);
    Py_XDECREF(number);
    return -1;
}

int as_finite(PyObject *o, const char *name, double *value)
{
    if (as_double(o, name, value) < 0)
        return -1;
    return isfinite(*value) ? 0 : wrong_value(name, "finite", *value);
}

int as_eps(PyObject *o, const char *name, double *value)
{
    if (as_double(o, name, value) < 0)
        return -1;
    return *value >= 0 ? 0 : wrong_value(name, "non-negative", *value);
}

int as_size(PyObject *o, const char *name, Py_ssize_t *value)
{
    if (!PyIndex_Check(o) || PyArray_IsScalar(o, Bool)) /* as NumPy 2; 1.26 warns */
        return wrong_type(name, "an integer", o);
    *value = PyNumber_AsSsize_t(o, NULL);
    return *value == -1 && PyErr_Occurred() ? name_argument(name) : 0;
}

int as_bool(PyObject *o, const char *name, int *value)
{
    if (PyBool_Check(o)) {
        *value = o == Py_True;
        return 0;
    }
    if (!PyArray_IsScalar(o, Bool) && !PyLong_Check(o))
        return wrong_type(name, "a bool", o);
    *value = PyObject_IsTrue(o);
    return *value < 0 ? -1 : 0;
}

int as_correction(PyObject *o, const char *name, int *value)
{
    Py_ssize_t n;
    if (as_size(o, name, &n) < 0)
        return -1;
    if (n != 0 && n != 1)
        return refuse(PyExc_ValueError, "%s must be 0 or 1, but got %zd", name, n);
    *value = (int)n;
    return 0;
}

int as_sizes(PyObject *o, const char *name, Sizes *sizes)
{
    sizes->n = -1;
    if (o == Py_None)
        return 0;
    if (PyIndex_Check(o)) {
        sizes->n = 1;
        return as_size(o, name, &sizes->values[0]);
    }
    if (!PySequence_Check(o) || PyUnicode_Check(o) || PyBytes_Check(o))
        return wrong_type(name, "an integer or a tuple of integers", o);
    PyObject *items = PySequence_Tuple(o);
    if (items == NULL)
        return -1;
    int status = 0;
    const Py_ssize_t n = PyTuple_GET_SIZE(items);
    if (n > MAXD)
        status =
            refuse(PyExc_ValueError, "%s has %zd entries, more than an array has axes", name, n);
    for (Py_ssize_t i = 0; i < n && status == 0; i++)
        status = as_size(PyTuple_GET_ITEM(items, i), name, &sizes->values[i]);
    sizes->n = (int)n;
    Py_DECREF(items);
    return status;
}

int place_axis(const State *state, Py_ssize_t axis, int ndim, int *placed)
{
    if (axis < -ndim || axis >= ndim) {
        PyObject *type = state->imports[AXIS_ERROR];
        PyObject *error = PyObject_CallFunction(type, "ni", axis, ndim);
        if (error)
            PyErr_SetObject(type, error);
        Py_XDECREF(error);
        return -1;
    }
    *placed = (int)(axis < 0 ? axis + ndim : axis);
    return 0;
}

int place_axes(const State *state, const Sizes *axes, int ndim, char *flags)
{
    memset(flags, axes->n < 0, (size_t)ndim);
    for (int i = 0; i < axes->n; i++) {
        int axis;
        if (place_axis(state, axes->values[i], ndim, &axis) < 0)
            return -1;
        if (flags[axis])
            return refuse(PyExc_ValueError, "axis %d is given twice", axis);
        flags[axis] = 1;
    }
    return 0;
}
