/* One call: from Python arguments to the core's job and back. */
#ifndef NORMC_CALL_H
#define NORMC_CALL_H
#include "arguments.h"
#include "arrays.h"
#include "norm.h"

/* A 1-d array as it lay when it was checked. */
typedef struct {
    char *data;
    npy_intp n, step;
    Dtype dtype;
    int swapped;
} Vector;

/* The running statistics, as the caller's own arrays, both NULL: none; and as running_check took
 * them. */
typedef struct {
    PyArrayObject *mean, *var;
    Vector mean_at, var_at;
} Running;

enum { COUNT, MEAN, M2, MEAN_LO, FIELDS }; /* of Moments */

/* All that a parameter may set. Arrays are owned. */
typedef struct {
    Operands o;
    PyArrayObject *weight, *bias, *mean_weight, *var_weight;
    Running running;
    PyObject *moments; /* class Moments, on `fields`, which are filled at the end; or NULL */
    PyArrayObject *fields[FIELDS];
    Job job;
    Window window;
    Bend bend;
    Py_ssize_t channel_axis;
    double momentum, negative_slope, *given; /* given: the running statistics for the core */
    int use_batch;                           /* the batch's statistics, else the running ones */
    int update;                              /* ... and published into the running ones */
    int return_moments, onnx_window, takes_where;
    Sizes normalized_shape, axes;
    char reduce[MAXD];
} Call;

/* 0, or -1 with an exception set. call_init before, call_clear after all. */
void call_init(Call *, State *, NormKind);
void call_clear(Call *);
/* Parses and converts everything: the only step that may run Python code. */
int call_convert(Call *, SignatureId, const char *function, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames);

/* Checks of a norm with channels; of an array that is NULL or should have shape (n,). */
int channels_check(Call *);
int vector_check(PyArrayObject *, const char *name, npy_intp n);

/* Places the operands and computes. The running statistics stay as they are. */
int norm_compute(Call *);
/* Publishes the running statistics; the result, (y, Moments) or, without y, Moments. */
PyObject *norm_finish(Call *);

/* running.c. Of an array that has passed vector_check. */
int vector_take(State *, PyArrayObject *, const char *name, Vector *);
void vector_read(const Vector *, double *values);
/* Takes the running statistics; refuses arrays that cannot be updated, or that share memory with
 * other operands. */
int running_check(Call *);
/* (1 - momentum) * old + momentum * batch */
void running_publish(const Running *, const ChannelStat *, double momentum);
#endif
