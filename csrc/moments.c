/* Moments of a group: sums of d and d * d about a shift k, in double.
 *
 * Of float data k is 0: the squares of floats are exact in double, so nothing overflows, underflows
 * or is lost until mean^2 outweighs the variance by 2^22 (the variance is then good to 2^-25 at the
 * very worst, where all squares are alike). Beyond that the sums are taken once more about the
 * mean. Of double data k is the mean of four elements of the group, and once more about the mean if
 * that was further from it than a standard deviation: no sum can then lose more than a bit. The
 * data alone decide. A group of equal elements comes out exact: every d is 0. */
#include "work.h"
#include <math.h>
#include <string.h>

typedef struct {
    double count;
    Two r, q;
} Sums;

static void sums_rows(const Work *w, ptrdiff_t group, double k, Sums *s)
{
    const Plan *p = w->plan;
    const Tensors *t = w->t;
    const ptrdiff_t size = arithsize(t->dtype), b = p->block, per = p->per;
    const ptrdiff_t run_step = p->nrun ? p->run[0].step[X] : 0;
    ptrdiff_t at[STEPS] = {0};
    Scratch scratch;
    double sums[2];
    *s = (Sums){.count = t->mask ? 0 : (double)(p->runs * p->n)};
    locate(p->kept, p->nkept, group, at);
    for (ptrdiff_t run = 0; run < p->runs; run += per)
        for (ptrdiff_t i = 0; i < p->n; i += b) {
            const ptrdiff_t runs = p->runs - run < per ? p->runs - run : per,
                            n = p->n - i < b ? p->n - i : b;
            if (p->pack) {
                move_rows(w, IN, at, run, runs, i, n, &scratch, k, &s->count);
                w->kernels->take_rows(&scratch, n, n * size, runs, k, sums);
            } else {
                w->kernels->take_rows(t->x + at[X] + run * run_step + i * size, n, run_step, runs,
                                      k, sums);
            }
            join(&s->r, sums[0]);
            join(&s->q, sums[1]);
        }
}

/* Rows i .. i + n - 1 of a run, in strips whose lines stay in cache while their lanes are walked.
 */
static void take_strips(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t run, ptrdiff_t i,
                        ptrdiff_t n, ptrdiff_t width, const double *k, double *lanes,
                        double *included)
{
    const Plan *p = w->plan;
    const Tensors *t = w->t;
    const ptrdiff_t step = p->ninner ? p->inner[0].step[X] : 0;
    const ptrdiff_t strip = p->pack ? BLOCK / width / LANES * LANES : STRIP, end = i + n;
    Scratch scratch;
    for (; i < end; i += strip) {
        const ptrdiff_t rows = end - i < strip ? end - i : strip;
        if (p->pack) {
            move_cols(w, IN, at, run, i, rows, width, &scratch, k, included);
            w->kernels->take_cols(&scratch, width * arithsize(t->dtype), rows, width, k, lanes);
        } else {
            ptrdiff_t here[STEPS] = {[X] = at[X] + i * step};
            locate(p->run, p->nrun, run, here);
            w->kernels->take_cols(t->x + here[X], step, rows, width, k, lanes);
        }
    }
}

static void sums_cols(const Work *w, ptrdiff_t first, ptrdiff_t width, const double *k, Sums *s)
{
    const Plan *p = w->plan;
    const ptrdiff_t b = p->block, per = p->per;
    _Alignas(64) double lanes[2 * LANES * TILE], sums[2 * TILE], included[TILE] = {0};
    ptrdiff_t at[STEPS] = {0};
    memset(lanes, 0, sizeof lanes);
    memset(s, 0, (size_t)width * sizeof *s);
    locate(p->kept, p->nkept, first, at);
    for (ptrdiff_t run = 0; run < p->runs; run += per)
        for (ptrdiff_t i = 0; i < p->n; i += b) {
            for (ptrdiff_t r = run; r < run + per && r < p->runs; r++)
                take_strips(w, at, r, i, p->n - i < b ? p->n - i : b, width, k, lanes, included);
            w->kernels->fold_cols(lanes, width, sums);
            for (ptrdiff_t c = 0; c < width; c++) {
                join(&s[c].r, sums[c]);
                join(&s[c].q, sums[TILE + c]);
            }
        }
    for (ptrdiff_t c = 0; c < width; c++)
        s[c].count = w->t->mask ? included[c] : (double)(p->runs * p->n);
}

static void sums(const Work *w, ptrdiff_t first, ptrdiff_t count, const double *k, Sums *s)
{
    if (w->plan->form == COLS)
        sums_cols(w, first, count, k, s);
    else
        for (ptrdiff_t g = 0; g < count; g++)
            sums_rows(w, first + g, k[g], s + g);
}

/* The element at position i of a group, or the next included one, once round; 0 if there is none.
 */
static double element(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t i)
{
    const Plan *p = w->plan;
    const Tensors *t = w->t;
    const ptrdiff_t total = p->runs * p->n;
    for (ptrdiff_t tried = 0; tried < total; tried++, i = i + 1 < total ? i + 1 : 0) {
        ptrdiff_t here[STEPS];
        double x;
        memcpy(here, at, sizeof here);
        locate(p->run, p->nrun, i / p->n, here);
        locate(p->inner, p->ninner, i % p->n, here);
        if (t->mask && !t->mask[here[MASK]])
            continue;
        w->kernels->pack(&x, t->x + here[X], 0, t->swapped, 1);
        return x;
    }
    return 0;
}

/* The shift of double data; equal elements give exactly theirs. */
static double sample(const Work *w, ptrdiff_t group)
{
    const Plan *p = w->plan;
    const ptrdiff_t total = p->runs * p->n;
    ptrdiff_t at[STEPS] = {0};
    locate(p->kept, p->nkept, group, at);
    const double x = element(w, at, 0);
    double rest = 0;
    for (int j = 1; j < 4; j++) /* at odd and even places: patterns are common */
        rest += element(w, at, (total / 4 * j + total % 4 * j / 4 + j) % total) - x;
    return x + 0.25 * rest;
}

/* From sums about k; *again: they have to be taken about *k, now nearer the mean. */
static Moment moment(const Sums *s, int is_double, int centred, double *k, int *again)
{
    const double r = s->r.hi + s->r.lo, q = s->q.hi + s->q.lo;
    *again = 0;
    if (s->count == 0)
        return (Moment){0};
    if (!centred)
        return (Moment){.count = s->count, .m2 = q};
    const double mean = r / s->count, mean_square = q / s->count, var = mean_square - mean * mean;
    const double limit = is_double ? 0.5 : 0x1p22;
    Moment m = {.count = s->count, .m2 = (var > 0 ? var : 0) * s->count};
    Two sum = {*k, 0};
    join(&sum, mean);
    m.hi = sum.hi;
    m.lo = sum.lo;
    if (!isfinite(q) || !isfinite(r))
        m = (Moment){s->count, NAN, 0, NAN};
    else if (mean * mean > limit * var) {
        *again = 1;
        *k = is_double ? sum.hi : (double)(float)sum.hi;
    }
    return m;
}

void take(const Work *w, ptrdiff_t first, ptrdiff_t count, Moment *m)
{
    const int is_double = w->t->dtype == F64;
    const ptrdiff_t step = w->plan->form == COLS ? count : 1;
    double k[TILE];
    int again[TILE], unused;
    Sums s[TILE];
    for (ptrdiff_t g = 0; g < count || g % LANES; g++) /* columns come in whole lanes */
        k[g] = g < count && is_double && w->centred ? sample(w, first + g) : 0;
    sums(w, first, count, k, s);
    for (ptrdiff_t g = 0; g < count; g++)
        m[g] = moment(&s[g], is_double, w->centred, &k[g], &again[g]);
    for (ptrdiff_t g = 0; g < count; g += step) {
        int any = 0;
        for (ptrdiff_t c = g; c < g + step; c++)
            any |= again[c];
        if (any)
            sums(w, first + g, step, k + g, s + g);
        for (ptrdiff_t c = g; c < g + step; c++)
            if (again[c])
                m[c] = moment(&s[c], is_double, w->centred, &(double){k[c]}, &unused);
    }
    for (ptrdiff_t g = 0; g < count && is_double; g++)
        if (!isfinite(m[g].m2)) /* not finite, or only its squares */
            m[g] = exact_moment(w, first + g);
}
