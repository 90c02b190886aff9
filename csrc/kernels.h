/* The table of kernels: one per instruction set and storage type, all with the same arithmetic in
 * the same order. T is a storage type, A the arithmetic type it computes in (double for F64, else
 * float); pointers are void because one table serves all. Steps are in bytes. */
#ifndef NORMC_KERNELS_H
#define NORMC_KERNELS_H
#include "norm.h"
#include "tensor.h"
#include <string.h>

/* Element i of a run is summed in lane i % LANES. Lanes fold to one double, 8 + 8, 4 + 4, 2 + 2,
 * 1 + 1, at the end of each block: BLOCK elements of a run, or as many whole runs as add no more
 * terms to a lane. Terms that are equal round alike, so lanes are short: a sum of 256 errs by at
 * most 86 u of itself, and, since squares of doubles are not exact, one of 8 by 2.7 u. */
enum { LANES = 16, BLOCK = 4096, BLOCK_F64 = 128 };
enum { TILE = 512 }; /* groups of one call at most */
/* Lanes of columns are LANES rows of this many: no multiple of a page, whose rows would meet in few
 * sets of the cache. */
enum { PITCH = TILE + LANES };
/* Rows of columns that are taken together: DEEP to a lane, whose sums come and go once, and still
 * nearly in the order of memory; more where sums need none, for lines stay in the second cache. */
enum { STRIP = 64, DEEP = STRIP / LANES, FOLDED = 256 };

/* How each of up to TILE groups is normalised, as arrays of A: y = ((x - hi) - lo) * scale + shift.
 */
typedef struct {
    const void *hi, *lo, *scale, *shift;
    double cut; /* what is less becomes 0 */
    int stream; /* y is apart, and its lines pass the caches by */
    /* of a gradient: shift is the mean of g * weight; flat: x has no say */
    const void *slope, *weight;
    int flat;
} Affine;

/* An array as it is walked: from group to group (rows) or element to element (cols); from run to
 * run. Meanwhile it is asked for `ahead` bytes further; 0: it is not. */
typedef struct {
    const char *at;
    ptrdiff_t step, run, ahead;
} Walk;

/* Runs of so many elements have vectors of y that are of one line each. */
enum { LINED = 128 };

/* Lines of y that two runs share, where lines pass the caches by: the end of a run waits here for
 * the start of the next, `made` bytes of `at`, and so does the line a few runs longer, until its
 * stores are no longer on their way. */
enum { LINE = 64, SHARED = 4 };
typedef struct {
    _Alignas(LINE) char bytes[SHARED][LINE];
    char *at[SHARED];
    ptrdiff_t made[SHARED];
    int now;
} Lines;

/* Neighbouring groups of rows to be applied. */
typedef struct {
    Walk x;
    struct {
        char *at;
        ptrdiff_t step, run;
    } y;
    ptrdiff_t count;
    const Affine *s;
    const void *w, *b;
    ptrdiff_t own; /* bytes to those of the next group; 0: all have the same */
    Lines *lines;  /* of a stream */
} Applied;

/* To be taken, about k; NULL: 0. A block that comes in several calls keeps its lanes, 2 * LANES of
 * each group, from one to the next: the first does not resume, the last does not keep. adds: what
 * is taken is made first, z bytes further, from x and what is r bytes further; k is 0. */
typedef struct {
    Walk x;
    ptrdiff_t count;
    const double *k;
    double *lanes;
    int resume, keep;
    double *sums;
    int adds;
    ptrdiff_t r, z;
} Taken;

/* Of up to TILE groups: two sums in two words each, the first as kernels have them; joined: the
 * second are there, too. And their elements, n; masked: the included ones are counted. */
typedef struct {
    _Alignas(LINE) double hi[2][TILE], lo[2][TILE], count[TILE], n;
    int joined, masked;
} Sums;

/* Of each: the mean, rest of which is beyond float, or, of doubles, beyond the mean; sum (x -
 * mean)^2; 1 / sqrt of the variance and eps. And, in the arithmetic type, what makes xhat,
 * ((x - hi) - lo) * scale, and dx, with shift and slope, too; beyond these limits it does not carry
 * them. inverse: 1 / n where that is exact, else 0. */
typedef struct {
    double inverse, eps, far, least, most;
    int centred;
} Finish;
typedef union {
    _Alignas(LINE) float f32[TILE];
    double f64[TILE];
} Values;
typedef struct {
    _Alignas(LINE) double count[TILE], mean[TILE], rest[TILE], m2[TILE], rstd[TILE];
    Values hi, lo, scale, shift, slope;
} Statistics;

#define MILD 0x1p60 /* products of two such, or their inverses, are carried */

/* xhat = ((x - k) - lo) * rstd of each of up to TILE groups, in double. */
typedef struct {
    const double *k, *lo, *rstd;
} Deviations;

/* The powers that need no logarithm. */
typedef enum { POW_HALF, POW_THREE_QUARTERS, POW_ONE, POW_OTHER } Power;

/* Where the kernels' sum k + alpha * sum x^2 is neither near overflow nor made of lost squares. */
#define LRN_LOW_f32  0x1p-100f
#define LRN_HIGH_f32 0x1p120f
#define LRN_LOW_f64  0x1p-900
#define LRN_HIGH_f64 0x1p1000

typedef struct {
    int direct; /* kernels walk the storage type itself */
#define STORED(name, args)   void(*name) args;
#define COMPUTED(name, args) void(*name) args;
#define DIRECT(name, args)   void(*name) args;
#define FOLDED(name, args)   int(*name) args;
#define COMMON(name, args)   void(*name) args;
#include "kernels/kernels.def"
#undef STORED
#undef COMPUTED
#undef DIRECT
#undef FOLDED
#undef COMMON
} Kernels;

static inline Lines *lines_open(Lines *l)
{
    for (int i = 0; i < SHARED; i++) {
        l->at[i] = l->bytes[i];
        l->made[i] = 0;
    }
    l->now = 0;
    return l;
}

/* What still waits is stored. */
static inline void lines_end(Lines *l)
{
    for (int i = 0; i < SHARED; i++)
        if (l->made[i]) {
            memcpy(l->at[i], l->bytes[i], (size_t)l->made[i]);
            l->made[i] = 0;
        }
}

const Kernels *kernels(Dtype);
extern const Kernels kernels_baseline[DTYPES];
#ifdef __x86_64__
extern const Kernels kernels_avx2[DTYPES], kernels_avx512[DTYPES];
#endif
#endif
