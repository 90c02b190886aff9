/* Between the rooms of the core: one call's plan and operands, and the stages that share them.
 *
 * Groups are handled in items: neighbours along the innermost kept loop, which all stages take by
 * the place `at` of the first and their count. Items depend on shape and layout, never on threads,
 * and touch disjoint elements. Threads share them out, neighbours together; where items are too few
 * for that, they come one by one, and threads share the spans and pieces of each. */
#ifndef NORMC_WORK_H
#define NORMC_WORK_H
#include "kernels.h"
#include "norm.h"
#include "plan.h"
#include "threads.h"
#include <math.h>
#include <stdint.h>
#include <string.h>

/* What has large arrays has them only while it runs: stacks of threads are small. */
#define OWN_FRAME __attribute__((noinline))

/* Blocks of a group in shape order, whole runs or parts of one, and spans of them. Where a weight
 * runs along the elements (each_run), a block is of one run. */
typedef struct {
    ptrdiff_t per;   /* runs of a block */
    ptrdiff_t along; /* blocks of a run */
    ptrdiff_t all, span, spans;
} Blocks;
/* Elements of a span at most, about; a small group has up to so many spans. */
enum { SPAN = 1 << 14, SPANS = 16 };

/* Of a group: two sums, each in two words, over a span of its blocks. */
typedef struct {
    double hi[2], lo[2], count;
} SpanSums;

typedef struct {
    const Tensors *t;
    const Job *job;                /* NULL where there are no statistics */
    const Kernels *kernels, *walk; /* walk: of x as it is walked, which is scratch if packed */
    int centred, blended;          /* as the table of norms has it */
    /* so many neighbouring groups of the plan share their mean: the channels of a GroupNorm's
     * group; else 1 */
    ptrdiff_t parts;
    ptrdiff_t bytes, each; /* its work, as bytes to be read and written; what repays a thread */
    int split;       /* a norm of columns, or a gradient: items have lines, or sums, in common */
    int threads;     /* that share the items, or 1: */
    int inside;      /* that share each item, or 1 */
    SpanSums *spans; /* of an item, where it is shared, */
    ptrdiff_t room;  /* for so many spans of its groups */
    ptrdiff_t batch; /* groups of an item at most; whole parts */
    /* groups that kernels are given at a time at most: <= TILE, and, packed, as scratch holds */
    ptrdiff_t tile;
    int walked;             /* x is read as it lies: walked() */
    int piped;              /* those of an item are applied while the next are taken */
    int kept;               /* they are packed once, and taken and applied in scratch */
    int added;              /* x is made item by item, before they are taken */
    int past;               /* ... in scratch, and past the caches where it belongs */
    int summed;             /* it is made while they are taken */
    ptrdiff_t items, tiles; /* tiles: items along the innermost kept loop */
    ptrdiff_t chunk;        /* groups that add to the same sums, of a gradient with weights along
                             * the elements: its items are chunks of so many */
    /* by so much the first of them is shorter, for the others to begin with a line of y */
    ptrdiff_t lead;
    Blocks blocks[2];          /* of sums; of dots, with weights along the elements */
    ptrdiff_t ahead;           /* bytes from what is taken of rows to what is asked for */
    int near;                  /* items stay in the second cache */
    int vector;                /* weight and bias run along the elements of a run: both are there */
    const void *weight, *bias; /* params of the arithmetic type; NULL: 1, 0 */
    ptrdiff_t params;
    void *owned;        /* what of them had to be made or moved */
    const double *wide; /* of a gradient with weights along a run: they, in double */
    /* of given statistics: what each channel is made with, rows of `pitch`; NULL: that is found by
     * group */
    const void *table;
    ptrdiff_t pitch;
    int far;    /* some weights or biases, along a run, could leave the type's range */
    int mild;   /* one a group: none could where the deviation is mild, too */
    int stream; /* y is apart, and too large to stay in cache */
    double cut; /* results that are less become 0 */
    Finish finish;
    const Plan *plan;
} Work;

/* Of so many groups of the plan, how many means. Most have one part, and dividing is slow (of `==
 * 1` gcc makes a division again). */
static inline ptrdiff_t means(const Work *w, ptrdiff_t groups)
{
    return w->parts > 1 ? groups / w->parts : groups;
}

/* Elements from the weights along a group to those along the next; 0: they have the same. Columns
 * do: channels of a group are nearer to each other than groups are. */
static inline ptrdiff_t own_step(const Work *w)
{
    return w->vector ? across(w->plan)->step[PARAM] : 0;
}

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
 * exact: that type cannot carry the group; exact_group() can; FOUND: in units of 2^e.
 * Of a gradient also the mean of g * weight, and slope, that of g * weight * xhat. */
enum { FOUND = 2 };
typedef struct {
    double hi, lo, rstd;
    int exact, e;
    double mean, slope;
} Fold;

static inline double variance(const Moment *m, int correction)
{
    return m->m2 / (m->count - correction);
}

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

static inline void join_two(Two *t, Two x)
{
    join(t, x.hi);
    if (isfinite(x.hi)) /* else lo is nothing */
        join(t, x.lo);
}

static inline Two sum_of(const Sums *s, int o, ptrdiff_t g)
{
    return (Two){s->hi[o][g], s->joined ? s->lo[o][g] : 0};
}

static inline double total(Two t)
{
    return isfinite(t.hi) ? t.hi + t.lo : t.hi;
}

/* Items of at most `batch` groups, and who shares them; of groups that are columns with nothing in
 * common: fewer, where that is more even. */
void make_items(Work *, ptrdiff_t batch);
void make_narrow_items(Work *, ptrdiff_t batch);

static inline ptrdiff_t chunks_of(const Work *w)
{
    return (w->plan->groups + w->chunk - 1) / w->chunk;
}

/* The place of an item's first group; how many there are. */
static inline ptrdiff_t item_groups(const Work *w, ptrdiff_t item, ptrdiff_t at[STEPS])
{
    const Plan *p = w->plan;
    const ptrdiff_t line = w->tiles > 1 ? item / w->tiles : item, tile = item - line * w->tiles;
    const ptrdiff_t first = tile ? tile * w->batch - w->lead : 0;
    const ptrdiff_t left = across(p)->n - first, most = tile ? w->batch : w->batch - w->lead;
    memset(at, 0, STEPS * sizeof *at);
    locate(p->kept, p->nkept - 1, line, at);
    locate(across(p), 1, first, at);
    return left < most ? left : most;
}

/* The place of the g-th group of an item. */
typedef struct {
    ptrdiff_t at[STEPS];
} Place;

static inline Place nth(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t g)
{
    Place p;
    memcpy(p.at, at, sizeof p.at);
    locate(across(w->plan), 1, g, p.at);
    return p;
}

/* Which moment is that of the group at `at`, or of its parts; from one group to its neighbour.
 * Statistics lie as the kept axes in x; groups of parts are numbered (N, C). */
static inline ptrdiff_t stat_of(const Work *w, const ptrdiff_t at[STEPS])
{
    const Job *job = w->job;
    if (w->parts == 1)
        return at[STAT];
    const ptrdiff_t channels = job->t.shape[job->axis], n = at[STAT] / channels;
    const ptrdiff_t group = at[PARAM] / w->parts, examples = w->plan->groups / channels;
    return job->axis == 0 ? group * examples + n : n * job->num_groups + group;
}
static inline ptrdiff_t stat_step(const Work *w)
{
    const Job *job = w->job;
    if (w->parts == 1)
        return across(w->plan)->step[STAT];
    return job->axis == 0 ? w->plan->groups / job->t.shape[job->axis] : 1;
}

/* weights.c: weight and bias of this call; -1: out of memory. */
int weights_open(Work *);

/* A packed piece: at most BLOCK elements of the arithmetic type, in shape order. */
typedef union {
    _Alignas(LINE) float f32[BLOCK];
    double f64[BLOCK];
    uint32_t u32[BLOCK];
    uint64_t u64[BLOCK];
    char bytes[8 * BLOCK];
} Scratch;

/* Values of the arithmetic type. */
static inline double get_as(int f64, const void *values, ptrdiff_t i)
{
    return f64 ? ((const double *)values)[i] : (double)((const float *)values)[i];
}

static inline void put_as(int f64, void *values, ptrdiff_t i, double value)
{
    if (f64)
        ((double *)values)[i] = value;
    else
        ((float *)values)[i] = (float)value;
}

static inline double get(const Work *w, const void *values, ptrdiff_t i)
{
    return get_as(w->t->dtype == F64, values, i);
}

static inline void put(const Work *w, void *values, ptrdiff_t i, double value)
{
    put_as(w->t->dtype == F64, values, i, value);
}

/* One parameter, or the place of a vector of them. */
static inline double parameter(const Work *w, const void *values, ptrdiff_t i, double none)
{
    return values ? get(w, values, i) : none;
}

static inline const void *parameters(const Work *w, const void *values, ptrdiff_t i)
{
    return values ? (const char *)values + i * arithsize(w->t->dtype) : NULL;
}

/* Of `count` neighbouring groups, the first of them at `at`: elements i .. i + n - 1 of runs run ..
 * run + runs - 1. In scratch: groups, runs, elements (ROWS), or elements, groups (COLS; one run).
 */
typedef struct {
    const ptrdiff_t *at;
    ptrdiff_t count, run, runs, i, n;
} Piece;

/* pack.c: moves a piece between memory and scratch. IN: x; a group's excluded elements become its
 * fill, the others are counted in its included. GRAD: g, OUT: y; excluded elements become 0. */
typedef enum { IN, GRAD, OUT } Direction;
void move(const Work *, Direction, const Piece *, void *scratch, const double *fill,
          double *included);

/* A piece of columns that will be moved is asked for. */
void ask_piece(const Work *, const Piece *);

enum { KEPT = 16 }; /* groups whose lanes are kept from run to run */

/* What a run of each group is made with: Affine's rows of `count` values, and hi again. */
enum { HI, LO, SCALE, SHIFT, SLOPE, WEIGHT, ROWS_OF_PARAMS };

/* Neighbouring groups that are being applied, and what their runs are made with: the same
 * everywhere, or `affine`, from param on; -1: nothing yet. */
typedef struct {
    const ptrdiff_t *at;
    ptrdiff_t count;
    const Fold *f;
    ptrdiff_t param;
    const Affine *s;
    const Scratch *kept; /* where x has just been made, one run each; NULL: where it lies */
    _Alignas(LINE) double params[ROWS_OF_PARAMS * TILE]; /* of the arithmetic type */
    double fill[TILE]; /* hi, what excluded elements become; packed */
    Affine affine;
    Lines *lines;
} Applying;

/* How a gradient is summed: about what, and, where weights run along the elements, into which sums
 * of theirs. */
typedef struct {
    Deviations about;
    double *params;
    ptrdiff_t pitch;
} Weighing;

/* What is summed, d and d * d where d = x - k (NULL: 0), or by what a gradient is; in COLS that is
 * there for a whole number of LANES. Meanwhile other groups may be applied, run for run. kept: x is
 * packed there, or has just been made there, whole groups. */
typedef struct {
    const double *k;
    const Weighing *by;
    Applying *meanwhile;
    Scratch *kept;
    int adds; /* what is taken is made first */
} Summing;

/* sums.c */
void blocks_of(const Plan *, int each_run, Blocks *);
/* Those of block b; at and count are the caller's. */
Piece block_of(const Plan *, const Blocks *, ptrdiff_t b);
/* Of each of an item's groups, tile of them at most; the included elements. */
void sums(const Work *, const ptrdiff_t at[STEPS], ptrdiff_t count, const Summing *, Sums *);

/* moments.c: the moments of an item's groups, parts together; their sums, as sums() has them, or
 * about what k is then; and the moments from these (k NULL: about 0, as rows of floats are). */
void take(const Work *, const ptrdiff_t at[STEPS], ptrdiff_t count, Moment *);
void sum_shared(const Work *, const ptrdiff_t at[STEPS], ptrdiff_t count, const Summing *, Sums *);
void take_sums(const Work *, const ptrdiff_t at[STEPS], ptrdiff_t count, Scratch *kept, double *k,
               Sums *);
void settle(const Work *, const ptrdiff_t at[STEPS], ptrdiff_t count, double *k, Sums *, Moment *);
/* What groups share, f[0] .. f[count / parts - 1], to each of their parts: count of them, or TILE
 * if one group has more. */
void spread(const Work *, const ptrdiff_t at[STEPS], ptrdiff_t count, Fold *f);
/* apply.c: normalises an item's groups, or makes their dx; f: of each, or, of more than TILE, of
 * all. */
void apply(const Work *, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *, Lines *,
           Scratch *);
/* At most w->tile groups, by what they are made with. */
void apply_made(const Work *, const ptrdiff_t at[STEPS], ptrdiff_t count, const Affine *, Lines *);
/* Makes the dx of at most w->tile groups; weight: of each, NULL: along their elements. 1: some are
 * not finite, float may not have carried them. */
int apply_dx(const Work *, const ptrdiff_t at[STEPS], ptrdiff_t count, const Statistics *,
             const Values *weight, Lines *);
/* The same of a table, of rows as they lie. */
void apply_tabled(const Work *, const ptrdiff_t at[STEPS], ptrdiff_t count, Lines *);
/* Of given statistics: what every channel is made with into values, ROWS_OF_PARAMS rows, if groups
 * that are neighbours are of channels that are, and the arithmetic type carries all. */
void tabulate(Work *, const Fold *, ptrdiff_t channels, void *values);
/* Can it carry scale and shift of a group, whatever its parameter is; if it is that? */
static inline int mild_fold(const Work *w, const Fold *f)
{
    return w->mild && f->rstd >= 1 / MILD && f->rstd <= MILD;
}
/* Can the arithmetic type carry them all? */
int all_carried(const Work *, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *);
void applying(Applying *, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *,
              const Affine *made, const Scratch *kept, Lines *);
/* Rows as they lie: elements i .. of runs run .. of the groups that are being applied; all of them,
 * the last run first if back. wide: of a gradient, as kernel dx_rows has it. */
void applied_rows(const Work *, Applying *, ptrdiff_t run, ptrdiff_t i, int back, Applied *);
void apply_rows(const Work *, Applying *, int back, char *wide);

/* dots.c: sum g and sum g * xhat of a group, without its weight where it has one for all.
 * Joined as pairs of doubles, dbias and dweight. */
typedef struct {
    double r, q;
} Dot;
/* d[g * step] of an item's groups. sums: where weights run along the elements, the same for each of
 * them, rows of `pitch` as kernel dots_rows has them. */
void dots(const Work *, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *, Dot *d,
          ptrdiff_t step, double *sums, ptrdiff_t pitch);
/* What dx takes of the dots of all parts, into the fold; param: of the first; count: elements. */
void fold_dots(const Work *, ptrdiff_t param, const Dot *, double count, Fold *);
/* Can the arithmetic type carry mean and slope? */
static inline int dx_carries(const Work *w, const Fold *f)
{
    const double most = limits(w).most;
    return fabs(f->mean) <= most && fabs(f->slope * f->rstd) <= most;
}
/* Statistics of N x C groups, in the order of Moments: group (n, c) is n * instance_step + c *
 * channel_step. BatchNorm has one instance. */
typedef struct {
    ptrdiff_t instances, channels, instance_step, channel_step;
} Grid;

Grid grid(const Job *, ptrdiff_t groups);

/* fold.c: moments, eps, parameters -> what is applied. */
void fold(const Work *, const Moment *, Fold *);
void fold_stats(const Work *, double mean, double rest, double var, Fold *); /* var includes eps */
void fold_given(const Work *, ptrdiff_t channels, Fold *);
int parameters_carry(const Work *, const Fold *, ptrdiff_t param);
/* blend.c: the unit 2^e in which the moments are blended; where it is not 1 they are taken again.
 */
int blend_units(const Work *, Moment *);
/* SwitchableNorm's blend of instance, layer and batch, moments and folds in units of 2^e;
 * -1: out of memory. */
int blend(const Work *, const Grid *, const Moment *, int e, Fold *, ChannelStat *channels);
/* From its folds and dots, the folds of dx and the logits' gradient. */
int blend_dots(const Work *, const Grid *, const Moment *, int e, const Dot *, Fold *, Logits *);
/* What running statistics take in: the mean over instances of mean and variance. */
void report(const Work *, const Grid *, const Moment *, ChannelStat *channels);

/* exact.c: element by element in scaled double, for what the fast road cannot carry. */
Moment exact_moment(const Work *, const ptrdiff_t at[STEPS]);
/* What parts share is found before one of them is written. */
void exact_fold(const Work *, const ptrdiff_t at[STEPS], Fold *);
/* The moments of all groups in units of 2^e, by STAT; returns e. */
int scaled_moments(const Work *, Moment *);
void exact_group(const Work *, const ptrdiff_t at[STEPS], const Fold *);
void exact_dots(const Work *, const ptrdiff_t at[STEPS], const Fold *, Dot *, double *sums,
                ptrdiff_t pitch);
/* Element i, in shape order, of the group at `at` and its parts: its place and value; is it
 * included? */
int element(const Work *, const ptrdiff_t at[STEPS], ptrdiff_t i, ptrdiff_t here[STEPS], double *x);
#endif
