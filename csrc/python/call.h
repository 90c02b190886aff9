/* One call: from Python arguments to the core's job and back. */
#ifndef NORMC_CALL_H
#define NORMC_CALL_H
#include "arrays.h"
#include "norm.h"
#include "running.h"

/* Arrays of a call beside its operands; the first are also a layer's. */
enum {
    WEIGHT,
    BIAS,
    RUNNING_MEAN,
    RUNNING_VAR,
    TRACKED,
    LAYER_ARRAYS,
    MEAN_WEIGHT = LAYER_ARRAYS,
    VAR_WEIGHT,
    ARRAYS
};
extern const char *const array_names[ARRAYS];

enum { FEW_CHANNELS = 64 }; /* whose statistics need no memory of their own */

/* All that a parameter may set. References are owned; NULL: none. */
typedef struct {
    Operands o;
    PyArrayObject *arrays[ARRAYS]; /* running statistics and counter: the caller's own */
    Vector running_mean, running_var;
    int64_t *count;         /* in the counter; NULL: nothing is counted */
    PyArrayObject *moments; /* (groups, 4): the core's Moment, as it is; given: (*shape, 4) */
    PyObject *x, *residual; /* as they were given; borrowed, during conversion */
    Job job;                /* eps NaN: the epsilon of x's arithmetic type */
    Window window;
    Bend bend;
    Py_ssize_t channel_axis;
    double momentum, negative_slope, *given; /* given: of many channels, as `few` */
    int use_batch;                           /* the batch's statistics, else the running ones */
    int update;                              /* ... and published into the running ones */
    int return_moments, onnx_window, takes_where;
    int keep_moments;      /* ... of the batch, for a layer's backward */
    int running_on_single; /* one value per channel: the running statistics for the batch's */
    int on_nonfinite;      /* batchnorm.c has the words */
    Sizes normalized_shape, axes;
    char reduce[MAXD];
    double few[2 * FEW_CHANNELS]; /* the running statistics, as the core reads them */
} Call;

/* Parses and converts everything, which may run Python code; operands_take comes next. 0, and
 * call_clear comes last; or -1 with an exception set, and there is nothing to clear. */
int call_open(Call *, State *, SignatureId, const char *function, PyObject *const *args,
              Py_ssize_t nargs, PyObject *kwnames);
void call_clear(Call *);
/* parameters.c: those that are not NULL. */
int convert_all(Call *, const Signature *, PyObject *const *values, int count);
/* functions.c */
extern const NormKind kinds[SIGNATURES];

/* channels.c. Checks of a norm with channels; of arrays[which], which is NULL or should have shape
 * (n,); the same, and takes it as it lies. */
int channels_check(Call *);
int vector_check(PyArrayObject *, const char *name, npy_intp n);
int vector_take(const Call *, int which, npy_intp n, Vector *);

/* Places the operands, the parameters and the given statistics in the job. */
int job_place(Call *);
/* The same, and computes. The running statistics stay as they are. */
int norm_compute(Call *);
/* A new array like a parameter: its shape and dtype. */
typedef struct {
    int ndim, type;
    npy_intp shape[MAXD];
} Like;
Like like(PyArrayObject *);
PyObject *rounded(const Like *, const double *values);
/* gradients.c: the forward's Moments, as the core's rows; the gradients of a norm. */
int moments_convert(Call *, PyObject *);
PyObject *gradient(Call *);
/* Publishes the running statistics; the result, (y, Moments) or, without y, Moments. */
PyObject *norm_finish(Call *);
#endif
