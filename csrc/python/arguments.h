/* Errors, keywords and scalars. Every error names the argument. */
#ifndef NORMC_ARGUMENTS_H
#define NORMC_ARGUMENTS_H
#include "state.h"
#include "tensor.h"

/* PyErr_Format, but yields -1. */
#define refuse(...) (PyErr_Format(__VA_ARGS__), -1)
/* For a format's %s, until the enclosing block ends: as a tuple prints, "(2, 3)", or a list. */
#define SHAPE(n, dims)      shape_text((char[SHAPE_TEXT]){0}, n, dims, "()")
#define SHAPE_LIST(n, dims) shape_text((char[SHAPE_TEXT]){0}, n, dims, "[]")
enum { SHAPE_TEXT = 22 * MAXD + 4 };
const char *shape_text(char *text, int n, const npy_intp *dims, const char brackets[2]);
/* An argument of a type that C does not know, as a function of normc/_convert.py makes it. */
PyObject *ask(const State *, int which, PyObject *, const char *name);

/* A call's arguments in the order of the parameters, borrowed; NULL, or not among the first
 * `count`: not given, there is a default. */
typedef struct {
    PyObject *const *values; /* the call's own, or, with keywords, sorted */
    int count;
    PyObject *sorted[MAXARGS];
} Arguments;
int parse(const Signature *, const char *function, PyObject *const *args, Py_ssize_t nargs,
          PyObject *kwnames, Arguments *);

/* 0, or -1 with an exception set. May run Python code, so all of them come before the checks. */
int as_double(const State *, PyObject *, const char *name, double *);
int as_finite(const State *, PyObject *, const char *name, double *);
int as_eps(const State *, PyObject *, const char *name, double *);
int as_size(const State *, PyObject *, const char *name, Py_ssize_t *); /* clipped to Py_ssize_t */
int as_bool(const State *, PyObject *, const char *name, int *);
int as_window(const State *, PyObject *, const char *name, int *onnx);     /* else torch's */
int as_activation(const State *, PyObject *, const char *name, int *relu); /* None: none */
int as_correction(const State *, PyObject *, const char *name, int *);

/* An int or a sequence of ints. n < 0: None was given. */
typedef struct {
    int n;
    Py_ssize_t values[MAXD];
} Sizes;
int as_sizes(const State *, PyObject *, const char *name, Sizes *);

/* No Python code runs below. */
int place_axis(const State *, Py_ssize_t axis, int ndim, int *placed);
/* flags[i] = 1 for each of the axes; none given: all. */
int place_axes(const State *, const Sizes *, int ndim, char *flags);
#endif
