/* What LocalResponseNorm's forward and gradient share. */
#ifndef NORMC_LRN_H
#define NORMC_LRN_H
#include "work.h"

/* k + alpha * sum of x^2 as m * 2^(2 e), m about 1, so that no square leaves the range. */
typedef struct {
    double m;
    int e;
} Scaled;

/* Of element i of the window's rows, in units of alpha for one element. */
Scaled lrn_scaled(const Window *, double alpha, double (*value)(const void *row, ptrdiff_t i),
                  const void *const *window, ptrdiff_t size, ptrdiff_t i);
/* The power as roots, where nothing cancels and nothing underflows. */
Power lrn_power(const Window *, double alpha);
/* Sets axes and plan: groups are columns, each with the channels as its elements. */
void lrn_plan(const Window *, Work *, Plan *);
/* Channels of c's window, clipped: *first .. the end that is returned. */
ptrdiff_t lrn_window(ptrdiff_t c, ptrdiff_t before, ptrdiff_t size, ptrdiff_t channels,
                     ptrdiff_t *first);
#endif
