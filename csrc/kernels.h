/* The table of kernels: one per instruction set and storage type, all with the same arithmetic in
 * the same order. T is a storage type, A the arithmetic type it computes in (double for F64, else
 * float); pointers are void because one table serves all. Steps are in bytes. */
#ifndef NORMC_KERNELS_H
#define NORMC_KERNELS_H
#include "tensor.h"

/* Element i of a run is summed in lane i % LANES. Lanes fold to one double, 8 + 8, 4 + 4, 2 + 2,
 * 1 + 1, at the end of each block: BLOCK elements of a run, or as many whole runs as add no more
 * terms to a lane. Terms that are equal round alike, so lanes are short: a sum of 256 errs by at
 * most 86 u of itself, and, since squares of doubles are not exact, one of 8 by 2.7 u. */
enum { LANES = 16, BLOCK = 4096, BLOCK_F64 = 128 };
enum { TILE = 256 }; /* groups of one call at most */
/* Lanes of columns are LANES rows of this many: no multiple of a page, whose rows would meet in few
 * sets of the cache. */
enum { PITCH = TILE + LANES };
enum { STRIP = 256 }; /* rows of columns that are taken together: their lines stay in L2 */

/* How each of up to TILE groups is normalised, as arrays of A: y = ((x - hi) - lo) * scale + shift.
 * Rows: meanwhile x is asked for `ahead` bytes further, where the next item stands, as y is while x
 * is summed; either alone was slower than neither. */
typedef struct {
    const void *hi, *lo, *scale, *shift;
    ptrdiff_t ahead;
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
    int direct; /* kernels of rows walk the storage type itself */
#define STORED(name, args)   void(*name) args;
#define COMPUTED(name, args) void(*name) args;
#define DIRECT(name, args)   void(*name) args;
#include "kernels/kernels.def"
#undef STORED
#undef COMPUTED
#undef DIRECT
} Kernels;

const Kernels *kernels(Dtype);
extern const Kernels kernels_baseline[DTYPES];
#ifdef NORMC_HAVE_AVX2
extern const Kernels kernels_avx2[DTYPES];
#endif
#endif
