/* Running statistics: vectors of any dtype, step and byte order, read and updated in double. */
#ifndef NORMC_RUNNING_H
#define NORMC_RUNNING_H
#include "norm.h"

typedef struct {
    char *data;
    ptrdiff_t n, step; /* in bytes */
    Dtype dtype;
    int swapped;
} Vector;

/* to[n], of the arithmetic type: doubles of F64, floats of the others. */
void vector_read(const Vector *, Dtype arithmetic, void *to);
/* Of n values, each rounded once. */
void vector_write(const Vector *, const double *values);
/* running = (1 - momentum) * running + momentum * batch, rounded once, but in channels to keep. */
void running_update(const Vector *mean, const Vector *var, const ChannelStat *, double momentum);
#endif
