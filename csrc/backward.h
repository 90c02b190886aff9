/* Between the drivers of the gradients and their quick road. */
#ifndef NORMC_BACKWARD_H
#define NORMC_BACKWARD_H
#include "work.h"

typedef struct {
    const Work *w;
    const Moment *moments; /* by STAT; NULL: to be taken */
    const Fold *folds;     /* by STAT, or by PARAM where they are of given statistics; or NULL */
    int by;
    Dot *dots;    /* by STAT of each part; NULL: not kept */
    double *sums; /* `words` rows of `pitch` for each chunk of groups, and 4 for all; NULL: none */
    ptrdiff_t params, pitch, words;
    int quick; /* back_quick() may do */
} Drive;

/* back_quick.c: may it do? */
int nothing_in_way(const Work *);
/* The dx of neighbouring groups, their dots kept, or added to params. 0: something stands in its
 * way, and nothing is done that is not done anew. */
int back_quick(const Drive *, const ptrdiff_t at[STEPS], ptrdiff_t count, double *params, Lines *);
#endif
