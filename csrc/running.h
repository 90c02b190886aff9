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
/* to[n], dense and native, each value rounded once. */
void round_values(const double *values, ptrdiff_t n, Dtype, char *to);
/* running = (1 - momentum) * running + momentum * batch, rounded once, but in channels to keep. */
void running_update(const Vector *mean, const Vector *var, const ChannelStat *, double momentum);
/* The first channel of which that would leave something that is not finite, where it was before;
 * mean->n: there is none. */
ptrdiff_t running_overflow(const Vector *mean, const Vector *var, const ChannelStat *,
                           double momentum);
#endif
