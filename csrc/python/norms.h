/* One call of a norm: from Python arguments to the core's job and back. */
#ifndef NORMC_NORMS_H
#define NORMC_NORMS_H
#include "arrays.h"
#include "norm.h"

/* The running statistics, as the caller's own arrays; both NULL: none. */
typedef struct {
    PyArrayObject *mean, *var;
} Running;

typedef struct {
    Operands o;
    PyArrayObject *weight, *bias; /* owned */
    Running running;              /* owned */
    Job job;
    int use_batch; /* the batch's statistics, else the running ones */
    int update;    /* ... and published into the running ones */
    int return_moments;
    double momentum, *given; /* given: the running statistics as the core reads them */
    char reduce[MAXD];
} Call;

/* Three steps, each 0, or -1 with an exception set. call_init before, call_clear after all. */
void call_init(Call *, State *, NormKind);
void call_clear(Call *);

/* First, everything that may run Python code. running_mean ...: None or arrays. */
int call_convert(Call *, PyObject *x, PyObject *where, PyObject *out);
int parameters_convert(Call *, PyObject *weight, PyObject *bias);
int running_convert(Call *, PyObject *mean, PyObject *var);

/* Then the checks of a norm with channels, ... */
int channels_check(Call *, Py_ssize_t axis);
/* (one of them: array is NULL or has shape (n,)) */
int vector_check(PyArrayObject *array, const char *name, npy_intp n);
/* ... and the work: places the operands, computes. The running statistics stay as they are. */
int call_compute(Call *);
/* Publishes the running statistics; the result, (y, Moments) or, without y, Moments. */
PyObject *call_finish(Call *);

/* running.c: refuses arrays that cannot be updated, or that share memory with other operands. */
int running_check(const Call *);
void running_read(State *, PyArrayObject *, double *values);
/* (1 - momentum) * old + momentum * batch */
void running_publish(State *, const Running *, const ChannelStat *, double momentum);
#endif
