/* Every norm subtracts a mean and divides by a standard deviation; they differ only in which
 * elements share them. plan -> moments -> fold -> apply. */
#ifndef NORMC_NORM_H
#define NORMC_NORM_H
#include "tensor.h"

/* Rows of the table in norm.c. LAYER also serves standardize and moments. */
typedef enum { BATCH, INSTANCE, GROUP, SWITCHABLE, LAYER, RMS, NORMS } NormKind;

/* Of `count` elements: their mean hi + lo, and m2 = sum (x - mean)^2. RMS: hi = lo = 0, m2 = sum
 * x^2. count 0: all zero. NaN in m2: an element is not finite. Read as four doubles, too. */
typedef struct {
    double count, hi, lo, m2;
} Moment;

/* What a channel adds to its running statistics. */
typedef struct {
    double mean, var;
    int keep; /* fewer than two elements: the running statistics stay */
} ChannelStat;

/* SWITCHABLE: raw logits, (instance, layer, batch) or, n = 2, (layer, batch). */
typedef struct {
    int n;
    double mean[3], var[3];
} Logits;

typedef struct {
    NormKind kind;
    Tensors t;
    int axis;                  /* the channel axis: BATCH, INSTANCE, GROUP, SWITCHABLE */
    ptrdiff_t num_groups;      /* GROUP; divides the channels */
    const char *reduce;        /* LAYER, RMS: one flag per axis, 1 where it shares the mean */
    const void *weight, *bias; /* arithmetic type, contiguous; per channel, or over the reduced axes
                                  in C order; NULL: ones, zeros */
    double eps;                /* >= 0 */
    int relu;                  /* y = max(y, 0), as bend_forward() of what is rounded */
    const Tensors
        *sum; /* LAYER, RMS: x is made first, there of x and g into y; NULL: it is there */
    const double *given_mean, *given_var; /* per channel: used instead of the batch's (evaluation);
                                             SWITCHABLE: in place of the batch part only */
    Logits logits;
    int correction;  /* of ChannelStat.var; SWITCHABLE: of the instance variance, and so of all */
    Moment *moments; /* out: per group, C order of the kept axes as they stand in x; or NULL */
    ChannelStat *channels; /* out: per channel (BATCH, INSTANCE, SWITCHABLE); or NULL */
} Job;

int norm_centred(NormKind);
int norm_has_channels(NormKind); /* else its axes are named, and the parameters run along them */
/* How many groups there are, and the shape of their statistics: 1 along the shared axes. */
ptrdiff_t norm_groups(const Job *, ptrdiff_t *shape);

/* How many weights there are: channels, or elements that share a mean. */
ptrdiff_t norm_parameters(const Job *);

/* 0; -1: out of memory, nothing written. y NULL: moments (and channels) only. Empty x: y is
 * untouched, moments have count 0, channels are kept. */
int norm_forward(const Job *);

/* The gradients of a forward's x (into job.t.y), weight, bias and logits by its y (job.t.g). The
 * forward's moments, if they are at hand, else they are taken again; of a weight of ones, if none
 * is given. */
typedef struct {
    Job job;
    const Moment *moments;
    double *dweight, *dbias; /* out: as many as there are weights */
    Logits dlogits;          /* out: SWITCHABLE */
} Gradient;
int norm_backward(Gradient *);

/* y = x + g, rounded once. */
int add_forward(const Tensors *);

/* y = x < 0 ? max(x, floor) * slope : x; slope: one value, or (nslope = channels) one per channel.
 */
typedef struct {
    Tensors t;
    int axis;
    ptrdiff_t nslope;
    double floor;
    const void *slope; /* arithmetic type, contiguous */
    int add;           /* instead: y = x + g */
} Bend;
int bend_forward(const Bend *);
/* dx = x > 0 ? g : g * slope; floor 0 (ReLU): x <= 0 ? 0 : g. dslope[nslope], or NULL: sum of g * x
 * where x is not positive. */
int bend_backward(const Bend *, double *dslope);

/* y = x / (k + alpha / size * sum of x^2 over channels c - before .. c - before + size - 1)^beta */
typedef struct {
    Tensors t;
    int axis;
    ptrdiff_t size, before;
    double alpha, beta, k;
} Window;
int lrn_forward(const Window *);
int lrn_backward(const Window *);
#endif
