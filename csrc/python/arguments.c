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

PyObject *ask(const State *state, int which, PyObject *o, const char *name)
{
    return PyObject_CallFunction(state->imports[which], "Os", o, name);
}

/* Call sites intern their keywords, so identity nearly always decides. */
static int find_keyword(const Signature *s, const char *function, PyObject *keyword)
{
    for (int i = s->unnamed; i < s->count; i++)
        if (PyTuple_GET_ITEM(s->names, i) == keyword)
            return i;
    int i = s->count;
    while (i-- && PyUnicode_Compare(PyTuple_GET_ITEM(s->names, i), keyword) != 0)
        ;
    if (i >= s->unnamed)
        return i;
    return refuse(PyExc_TypeError,
                  i >= 0 ? "%s() takes %R as a positional argument only"
                         : "%s() got an unexpected keyword argument %R",
                  function, keyword);
}

int parse(const Signature *s, const char *function, PyObject *const *args, Py_ssize_t nargs,
          PyObject *kwnames, Arguments *to)
{
    const Py_ssize_t nkeywords = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    PyObject **values = to->sorted;
    if (s->initial == NULL)
        return refuse(PyExc_RuntimeError, "%s() has no signature yet: normc was imported in part",
                      function);
    if (nargs > s->positional)
        return refuse(PyExc_TypeError, "%s() takes at most %d positional argument%s (%zd given)",
                      function, s->positional, s->positional == 1 ? "" : "s", nargs);
    to->values = args;
    to->count = (int)nargs;
    if (nkeywords == 0 && nargs >= s->required)
        return 0;
    to->values = values;
    to->count = s->count;
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
    for (int i = 0; i < s->required; i++)
        if (values[i] == NULL)
            return refuse(PyExc_TypeError, "%s() missing required argument %R", function,
                          PyTuple_GET_ITEM(s->names, i));
    return 0;
}

int as_double(const State *state, PyObject *o, const char *name, double *value)
{
    if (PyLong_CheckExact(o)) {
        *value = PyLong_AsDouble(o);
        if (*value != -1 || !PyErr_Occurred())
            return 0;
        PyErr_Clear(); /* it is asked for once more, and refused by name */
    }
    if (PyFloat_Check(o)) {
        *value = PyFloat_AS_DOUBLE(o);
        return 0;
    }
    PyObject *number = ask(state, REAL, o, name);
    if (number == NULL)
        return -1;
    *value = PyFloat_AS_DOUBLE(number);
    Py_DECREF(number);
    return 0;
}

static int wrong_value(const char *name, const char *expected, double value)
{
    PyObject *number = PyFloat_FromDouble(value);
    if (number)
        PyErr_Format(PyExc_ValueError, "%s must be %s, but got %R", name, expected, number);
    Py_XDECREF(number);
    return -1;
}

int as_finite(const State *state, PyObject *o, const char *name, double *value)
{
    if (as_double(state, o, name, value) < 0)
        return -1;
    return isfinite(*value) ? 0 : wrong_value(name, "finite", *value);
}

int as_eps(const State *state, PyObject *o, const char *name, double *value)
{
    if (as_double(state, o, name, value) < 0)
        return -1;
    return *value >= 0 ? 0 : wrong_value(name, "non-negative", *value);
}

int as_size(const State *state, PyObject *o, const char *name, Py_ssize_t *value)
{
    if (PyLong_Check(o)) {
        *value = PyNumber_AsSsize_t(o, NULL);
        return 0;
    }
    PyObject *number = ask(state, INTEGER, o, name);
    if (number == NULL)
        return -1;
    *value = PyNumber_AsSsize_t(number, NULL);
    Py_DECREF(number);
    return 0;
}

static int as_truth(const State *state, int which, PyObject *o, const char *name, int *value)
{
    if (PyBool_Check(o) && which == FLAG) {
        *value = o == Py_True;
        return 0;
    }
    PyObject *truth = ask(state, which, o, name);
    if (truth == NULL)
        return -1;
    *value = truth == Py_True;
    Py_DECREF(truth);
    return 0;
}

int as_bool(const State *state, PyObject *o, const char *name, int *value)
{
    return as_truth(state, FLAG, o, name, value);
}

int as_window(const State *state, PyObject *o, const char *name, int *onnx)
{
    return as_truth(state, WINDOW, o, name, onnx);
}

int as_activation(const State *state, PyObject *o, const char *name, int *relu)
{
    *relu = 0;
    return o == Py_None ? 0 : as_truth(state, ACTIVATION, o, name, relu);
}

int as_correction(const State *state, PyObject *o, const char *name, int *value)
{
    Py_ssize_t n;
    if (as_size(state, o, name, &n) < 0)
        return -1;
    if (n != 0 && n != 1)
        return refuse(PyExc_ValueError, "%s must be 0 or 1, but got %zd", name, n);
    *value = (int)n;
    return 0;
}

int as_sizes(const State *state, PyObject *o, const char *name, Sizes *sizes)
{
    sizes->n = o == Py_None ? -1 : 1;
    if (o == Py_None || PyLong_Check(o))
        return o == Py_None ? 0 : as_size(state, o, name, &sizes->values[0]);
    PyObject *items = PyTuple_CheckExact(o) ? Py_NewRef(o) : ask(state, SIZES, o, name);
    if (items == NULL)
        return -1;
    int status = 0;
    const Py_ssize_t n = PyTuple_GET_SIZE(items);
    if (n > MAXD)
        status = refuse(PyExc_ValueError, "%s has more entries than an array has axes", name);
    for (Py_ssize_t i = 0; i < n && status == 0; i++)
        status = as_size(state, PyTuple_GET_ITEM(items, i), name, &sizes->values[i]);
    sizes->n = (int)n;
    Py_DECREF(items);
    return status;
}

int place_axis(const State *state, Py_ssize_t axis, int ndim, int *placed)
{
    if (axis < -ndim || axis >= ndim) {
        PyObject *values = Py_BuildValue("ni", axis, ndim);
        if (values)
            PyErr_SetObject(state->imports[AXIS_ERROR], values);
        Py_XDECREF(values);
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
