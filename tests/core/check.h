/* The core's own test: jobs on every instruction set and memory layout, against long double. */
#ifndef CHECK_H
#define CHECK_H
#include "norm.h"
#include <stdint.h>

enum { AXES = 4 };

/* norms.c: which elements share a mean, by kind and axis, or by flags */
typedef struct {
    const char *name;
    NormKind kind;
    int ndim;
    ptrdiff_t shape[AXES];
    int axis;
    ptrdiff_t num_groups;
    char reduce[AXES];
} Shape;
extern const Shape shapes[];
extern const int nshapes;

/* numbers.c: storage types, data, layouts */
typedef enum {
    CENTRED,
    MEAN_1,
    MEAN_1E3,
    LARGE_MEAN,
    CONSTANT,
    TWO_VALUED,
    LARGE,
    SUBNORMAL,
    OUTLIER,
    NOT_FINITE,
    DATA
} Data;

typedef enum {
    CONTIGUOUS,
    FORTRAN,
    CHANNELS_LAST,
    REVERSED,
    SPREAD,
    MISALIGNED,
    SWAPPED,
    LAYOUTS
} Layout;

typedef struct {
    Dtype dtype;
    int ndim, swapped;
    ptrdiff_t shape[AXES], step[AXES], size;
    char *data;  /* the element of index 0, 0, ... */
    char *block; /* what free() takes */
} Array;

extern const char *const dtype_names[DTYPES], *const data_names[DATA];
extern const char *const layout_names[LAYOUTS];

uint64_t random_bits(void);
double random_normal(void); /* about normal: mean 0, variance 1/3, no libm */
double rounded(Dtype, double);
double ulp(Dtype, double);
double largest(Dtype);
double read_element(Dtype, const char *, int swapped);
void write_element(Dtype, char *, double, int swapped);

Array new_array(Dtype, int ndim, const ptrdiff_t *shape, Layout);
Array laid_out(const Array *contiguous, Layout);
void fill(Array *contiguous, Data);
ptrdiff_t offset_of(const Array *, ptrdiff_t element); /* element in C order -> bytes */
uint64_t hash_double(double, uint64_t hash);           /* every NaN alike */
uint64_t hash_array(const Array *, uint64_t hash);     /* elements in C order */

/* expect.c: the formulas in long double, and the published bound */
typedef struct {
    long double count, mean, m2; /* the mean less origin_of(job) */
} Exact;

typedef struct {
    int nothing; /* excluded by the mask: y is 0 */
    long double y, weight, bias, mean, sigma;
} Expected;

long double origin_of(const Job *); /* 0 for RMS */
ptrdiff_t groups_of(const Job *);
ptrdiff_t parameters_of(const Job *); /* channels, or elements that share a mean */
Exact *exact_moments(const Job *);    /* one per group; free() */
/* One per channel, m2 the variance, from the groups' moments; free(). */
Exact *exact_channels(const Job *, const Exact *);
/* One per element in C order, from the groups' moments; free(). */
Expected *expected_norm(const Job *, const Exact *);
long double norm_bound(const Job *, const Expected *);
/* Of a result that is rounded once to t from a value within `error` of y. */
long double rounding_bound(Dtype, long double y, long double error);

/* main.c: one call, in every way that must not matter */
typedef struct {
    const char *name, *data, *way;
    int (*forward)(const void *job);
    const void *job;
    Tensors *t; /* the job's own */
    int takes_mask;
    Moment *moments;
    ptrdiff_t groups;
    ChannelStat *channels;
    ptrdiff_t nchannels;
} Call;

void point(Tensors *, const Array *x); /* x is where the job finds its input */
/* Runs it contiguous at the lowest level, then on every level and layout, in place, and with a
 * mask that excludes nothing; compares the bits and adds them to the hash of the program. Returns
 * y; free its block. */
Array check_bits(const Call *, const Array *x);
void check(int holds, const Call *, const char *what, ptrdiff_t element, double got,
           double expected);
void check_within(const Call *, const char *what, ptrdiff_t element, double got,
                  long double expected, long double bound);

/* Of the ways of a call: where races are looked for, all but some with many threads; in an emulator
 * those with threads. */
int left_out(int level, int layout, int threaded, int crowded);
/* Adds to the hash of the program. */
void digest(uint64_t);

void check_norms(void);     /* norms.c */
void check_bends(void);     /* elementwise.c */
void check_windows(void);   /* elementwise.c */
void check_gradients(void); /* gradients.c */
void check_pool(void);      /* pool.c */
#endif
