/* Between the rooms of the core: one call's plan and operands, and the stages that share them.
 *
 * Groups are numbered by the plan's kept loops and handled in items: a batch of groups (ROWS) or a
 * tile of columns (COLS). Items depend on the shape alone and touch disjoint elements. */
#ifndef NORMC_WORK_H
#define NORMC_WORK_H
#include "kernels.h"
#include "norm.h"
#include "plan.h"

typedef struct {
    const Tensors *t;
    const Job *job; /* NULL where there are no statistics */
    const Kernels *kernels;
    int centred;
    ptrdiff_t items, tiles;    /* tiles of one row of columns; ROWS: all items */
    ptrdiff_t batch;           /* groups of an item at most, <= TILE */
    int vector;                /* weight and bias run along the elements of a run: both are there */
    const void *weight, *bias; /* of the arithmetic type; NULL: 1, 0 */
    int far;                   /* some of them, along a run, could leave the type's range */
    const Plan *plan;
} Work;

/* What the arithmetic type holds: x - far is finite for every finite x, and normal numbers keep
 * their precision. */
typedef struct {
    double far, least, most;
} Limits;

static inline Limits limits(const Work *w)
{
    return w->t->dtype == F64 ? (Limits){0x1p1000, 0x1p-1022, 0x1p1023}
                              : (Limits){0x1p102, 0x1p-126, 0x1p127};
}

/* A group's statistics as they are applied: hi + lo is the mean, hi exact in the arithmetic type.
 * exact: that type cannot carry the group; exact_group() can. Then they are in units of 2^e. */
typedef struct {
    double hi, lo, rstd;
    int exact, e;
} Fold;

/* A sum that loses nothing: hi + lo, joined by Knuth's TwoSum. */
typedef struct {
    double hi, lo;
} Two;

static inline void join(Two *t, double x)
{
    const double sum = t->hi + x, part = sum - t->hi;
    t->lo += (t->hi - (sum - part)) + (x - part);
    t->hi = sum;
}

/* Groups first .. first + count - 1 of an item. */
static inline void item_groups(const Work *w, ptrdiff_t item, ptrdiff_t *first, ptrdiff_t *count)
{
    const Plan *p = w->plan;
    const ptrdiff_t row = p->form == COLS ? p->kept[p->nkept - 1].n : p->groups;
    const ptrdiff_t at = item % w->tiles * w->batch;
    *first = item / w->tiles * row + at;
    *count = row - at < w->batch ? row - at : w->batch;
}

/* A packed piece: at most BLOCK elements of the arithmetic type, in shape order. */
typedef union {
    _Alignas(64) float f32[BLOCK];
    double f64[BLOCK];
} Scratch;

/* One parameter, or the place of a vector of them. */
static inline double parameter(const Work *w, const void *values, ptrdiff_t i, double none)
{
    if (!values)
        return none;
    return w->t->dtype == F64 ? ((const double *)values)[i] : (double)((const float *)values)[i];
}

static inline const void *parameters(const Work *w, const void *values, ptrdiff_t i)
{
    return values ? (const char *)values + i * arithsize(w->t->dtype) : NULL;
}

/* pack.c: moves a piece between memory and scratch: `runs` runs (all of each, or one run's elements
 * i .. i + n - 1), or n rows of `width` columns. `at` is the place of the group, or of its first
 * column. IN: excluded elements become fill (of each column), the others are counted in included
 * (of each column). OUT: excluded elements become 0. */
typedef enum { IN, OUT } Direction;
void move_rows(const Work *, Direction, const ptrdiff_t at[STEPS], ptrdiff_t run, ptrdiff_t runs,
               ptrdiff_t i, ptrdiff_t n, Scratch *, double fill, double *included);
void move_cols(const Work *, Direction, const ptrdiff_t at[STEPS], ptrdiff_t run, ptrdiff_t i,
               ptrdiff_t n, ptrdiff_t width, Scratch *, const double *fill, double *included);

/* moments.c: the moments of an item's groups, in plan order. */
void take(const Work *, ptrdiff_t first, ptrdiff_t count, Moment *);
/* apply.c: normalises an item's groups. */
void apply(const Work *, ptrdiff_t first, ptrdiff_t count, const Fold *);

/* Statistics of N x C groups, in the order of Moments: group (n, c) is n * instance_step + c *
 * channel_step. BatchNorm has one instance. */
typedef struct {
    ptrdiff_t instances, channels, instance_step, channel_step;
} Grid;

/* fold.c: moments, eps, parameters -> what is applied. */
Fold fold(const Work *, const Moment *);
void fold_given(const Work *, ptrdiff_t channels, Fold *);
/* SwitchableNorm's blend of instance, layer and batch, moments and folds in units of 2^e; -1: out
 * of memory. */
int blend(const Work *, const Grid *, const Moment *, int e, Fold *, ChannelStat *channels);
/* What running statistics take in: the mean over instances of mean and variance. */
void report(const Work *, const Grid *, const Moment *, ChannelStat *channels);

/* exact.c: element by element in scaled double, for what the fast road cannot carry. */
Moment exact_moment(const Work *, ptrdiff_t group);
/* The moments of all groups in units of 2^e, by STAT; returns e. */
int scaled_moments(const Work *, Moment *);
void exact_group(const Work *, ptrdiff_t group, const Fold *);
#endif
