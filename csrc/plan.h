/* Shape, strides, and the axes that share statistics -> a few nested loops of plain integers.
 *
 * A group is what shares one mean: `runs` runs of n elements. Shape and axes alone define them, and
 * with them the order of every sum; strides only choose the form in which memory is walked:
 *
 *   ROWS  the elements of a run are neighbours, or at least nearer than the groups are
 *   COLS  groups are neighbours (channels-last BatchNorm, channels-first LayerNorm)
 *   pack  in either form: pieces go through scratch first, widened, native and dense
 */
#ifndef NORMC_PLAN_H
#define NORMC_PLAN_H
#include "tensor.h"

/* What a step moves along: four arrays in bytes, the parameters in elements, the statistics in
 * groups. */
enum { X, Y, G, MASK, PARAM, STAT, STEPS };

typedef struct {
    ptrdiff_t n, step[STEPS];
} Loop;

typedef enum { ROWS, COLS } Form;

enum { MAXLOOPS = MAXD + 1 }; /* a channel axis may be split in two: (N, C) */

typedef struct {
    Form form;
    int pack;
    int flat; /* COLS: rows of all columns follow each other without a gap, in every array, run
               * after run; and have no parameters of their own */
    int nkept, nrun, ninner; /* at least 1; loops of extent 1 stand only where there is no other */
    Loop kept[MAXLOOPS], run[MAXLOOPS], inner[MAXLOOPS];
    ptrdiff_t groups, runs, n;
    ptrdiff_t end[STEPS]; /* the place of a group after the last */
    ptrdiff_t block, per; /* a block of sums: so many elements of a run, or runs; the first
                           * lane, in which every run starts, takes no more of either */
    int vector;           /* the parameters run along the elements of a run, one by one */
} Plan;

/* axes: outermost first; shared[i]: axis i belongs to the group. STAT steps of shared axes are 0.
 * sorted: groups follow each other as they lie in memory; else in shape order.
 * A run is the longest stretch of neighbouring shared axes along which the parameters move evenly;
 * kept axes end a stretch even if their extent is 1, so that a batch of one sums as any other. */
void plan_make(Plan *, int naxes, const Loop *axes, const char *shared, const Tensors *,
               int sorted);

/* An axis of t as a loop: no parameters, no statistics. In place: a copy would wait for its parts.
 */
static inline void axis_loop(const Tensors *t, int i, Loop *l)
{
    l->n = t->shape[i];
    l->step[X] = t->xstep[i];
    l->step[Y] = t->y ? t->ystep[i] : 0;
    l->step[G] = t->g ? t->gstep[i] : 0;
    l->step[MASK] = t->mask ? t->mstep[i] : 0;
    l->step[PARAM] = l->step[STAT] = 0;
}

/* The loop over neighbouring groups: the columns of COLS. */
static inline const Loop *across(const Plan *p)
{
    return &p->kept[p->nkept - 1];
}

/* Is there no group after these in x? */
static inline int are_last(const Plan *p, const ptrdiff_t at[STEPS], ptrdiff_t count)
{
    return at[X] + count * across(p)->step[X] == p->end[X];
}

/* Walks columns whatever is nearest, by kernels that know no halves: for what has no sums, and so
 * no order to keep. */
void plan_columns(Plan *, const Tensors *);

/* Adds to `at` the place of index i of nested loops. */
static inline void locate(const Loop *loops, int nloops, ptrdiff_t i, ptrdiff_t at[STEPS])
{
    for (int j = nloops - 1; j >= 0 && i; j--) {
        const ptrdiff_t here = j ? i % loops[j].n : i;
        for (int s = 0; s < STEPS; s++)
            at[s] += here * loops[j].step[s];
        i = j ? i / loops[j].n : 0;
    }
}
#endif
