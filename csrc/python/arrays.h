/* Arrays: Python objects -> operands the core can walk, and the memory they may share. */
#ifndef NORMC_ARRAYS_H
#define NORMC_ARRAYS_H
#include "arguments.h"

_Static_assert(sizeof(npy_intp) == sizeof(ptrdiff_t), "NumPy's sizes are the core's");

/* x and what is walked beside it. All references are owned; arrays are base-class ndarrays. */
typedef struct {
    State *state;
    PyArrayObject *x, *where, *grad, *y; /* where NULL: no mask; grad NULL: a forward */
    PyArrayObject *residual, *sum;       /* NULL: x is no sum; else it will be made, in t.x */
    int writes, given;                   /* there is a y; it is the caller's */
    PyObject *result;                    /* y as the caller gets it: `out` itself if it was given */
    Tensors t;
    /* What t points at: another thread may reshape the arrays themselves at any time. */
    npy_intp nbytes; /* of x */
    npy_intp shape[MAXD], x_steps[MAXD], y_steps[MAXD];
    npy_intp grad_steps[MAXD];
    npy_intp where_steps[MAXD]; /* broadcast to x */
    npy_intp residual_steps[MAXD], sum_steps[MAXD];
    Tensors terms; /* x, residual as g, and the sum as y */
} Operands;

void operands_clear(Operands *);

/* First, conversion, which may run Python code. */
int x_convert(Operands *, PyObject *);
int grad_convert(Operands *, PyObject *);
int where_convert(Operands *, PyObject *);    /* None: no mask */
int out_convert(Operands *, PyObject *);      /* None: y is to be made. Not called: there is none */
int residual_convert(Operands *, PyObject *); /* None: there is none */
/* The mask of x, if it is a masked array, joins `where`; without one it may hide nothing. */
int mask_convert(Operands *, PyObject *x, int takes_where);
/* A parameter, of any dtype; None: *array stays NULL. */
int parameter_convert(const State *, PyObject *, const char *name, PyArrayObject **array);
/* Any ndarray of a supported floating dtype, as its base class; the memory is the caller's. */
int shared_convert(const State *, PyObject *, const char *name, PyArrayObject **array);

/* Then, when all is converted: the shape, and all operands as they lie now. They are checked
 * against each other; only t counts from here on. No Python code but NumPy's and normc's own runs
 * here or below. */
int operands_take(Operands *);
/* Once all checks have passed: makes y, or copies inputs that share memory with it. */
int operands_place(Operands *);
/* The parameter's n elements in C order and in the arithmetic type; NULL for none. */
int parameter_place(const Operands *, const char *name, npy_intp n, PyArrayObject **array,
                    const void **data);

/* The core's name of an array's dtype, -1 if it has none. */
int small_dtype_of(PyArrayObject *);
static inline int dtype_of(PyArrayObject *array)
{
    const int type = PyArray_TYPE(array);
    return type == NPY_FLOAT ? F32 : type == NPY_DOUBLE ? F64 : small_dtype_of(array);
}
/* ValueError if both are there and do: -1. */
int refuse_shared(const State *, PyArrayObject *, const char *name, PyArrayObject *other,
                  const char *other_name);
/* Whether out shares memory with x, the mask or another; -1: an exception is set. */
int out_overlaps(const Operands *, PyArrayObject *other);
/* ValueError: Python code or another thread has retyped or reshaped it in mid-call; -1. */
int refuse_changed(const char *name);

/* NumPy's own is a call into another library. */
static inline int same_shape(const npy_intp *a, const npy_intp *b, int n)
{
    int same = 1;
    for (int i = 0; i < n && same; i++)
        same = a[i] == b[i];
    return same;
}
static inline npy_intp size_of(PyArrayObject *array)
{
    npy_intp n = 1;
    for (int i = 0; i < PyArray_NDIM(array); i++)
        n *= PyArray_DIM(array, i);
    return n;
}

/* Below this many bytes, dropping the GIL costs more than it gives. */
enum { GIL_BYTES = 32768 };

static inline PyThreadState *release_gil(const Operands *o)
{
    return o->nbytes > GIL_BYTES ? PyEval_SaveThread() : NULL;
}

static inline void restore_gil(PyThreadState *thread)
{
    if (thread)
        PyEval_RestoreThread(thread);
}
#endif
