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

/* The element at position i of a group, or the next included one, once round; 0 if there is none.
 */
static double near(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t i)
{
    const ptrdiff_t total = w->parts * w->plan->runs * w->plan->n;
    ptrdiff_t here[STEPS];
    double x;
    for (ptrdiff_t tried = 0; tried < total; tried++)
        if (element(w, at, (i + tried) % total, here, &x))
            return x;
    return 0;
}

/* Where the four elements of a sample are: at odd and even places, for patterns are common. */
enum { SAMPLE = 4 };
static ptrdiff_t place_of(ptrdiff_t total, ptrdiff_t j)
{
    return (total / SAMPLE * j + total % SAMPLE * j / SAMPLE + j) % total;
}

/* The shift of double data; equal elements give exactly theirs. */
static double sample(const double x[SAMPLE])
{
    double rest = 0;
    for (int j = 1; j < SAMPLE; j++)
        rest += x[j] - x[0];
    return x[0] + 0.25 * rest;
}

/* Of the g-th group. */
static Two sums_of(const Sums *s, ptrdiff_t g)
{
    const Two r = sum_of(s, 0, g), q = sum_of(s, 1, g);
    return (Two){r.hi + r.lo, q.hi + q.lo};
}

/* Are its sums to be taken once more, about *k, now nearer the mean? */
static int strays(const Work *w, const Sums *s, ptrdiff_t g, double *k)
{
    const int is_double = w->t->dtype == F64;
    const double most = is_double ? 0.5 : 0x1p22, inverse = s->masked ? 0 : w->finish.inverse;
    const double count = s->masked ? s->count[g] : s->n;
    const Two both = sums_of(s, g);
    const double mean = inverse > 0 ? both.hi * inverse : both.hi / count;
    const double square = inverse > 0 ? both.lo * inverse : both.lo / count;
    if (!(mean * mean > most * (square - mean * mean)) || !isfinite(both.hi) || !isfinite(both.lo))
        return 0;
    *k = is_double ? *k + mean : (double)(float)(*k + mean);
    return 1;
}

/* From its sums about k. */
static Moment moment(const Work *w, const Sums *s, ptrdiff_t g, double k)
{
    const double count = s->masked ? s->count[g] : s->n;
    const Two both = sums_of(s, g);
    const double mean = both.hi / count, var = both.lo / count - mean * mean;
    Two sum = {k, 0};
    join(&sum, mean);
    if (count == 0)
        return (Moment){0};
    if (!w->centred)
        return (Moment){.count = count, .m2 = isfinite(both.lo) ? both.lo : NAN};
    if (!isfinite(both.lo) || !isfinite(both.hi))
        return (Moment){count, NAN, 0, NAN};
    return (Moment){count, sum.hi, sum.lo, (var > 0 ? var : 0) * count};
}

/* Both sums of a group, joined at once. */
typedef double Both __attribute__((vector_size(2 * sizeof(double))));

static inline void join_both(Both *hi, Both *lo, double r, double q)
{
    const Both x = {r, q}, sum = *hi + x, part = sum - *hi;
    *lo += (*hi - (sum - part)) + (x - part);
    *hi = sum;
}

/* Adds sums of n parts of group g. */
static void share(const Sums *parts, ptrdiff_t first, ptrdiff_t n, Sums *to, ptrdiff_t g)
{
    Both hi = {to->hi[0][g], to->hi[1][g]}, lo = {to->lo[0][g], to->lo[1][g]};
    for (ptrdiff_t i = first; i < first + n; i++) {
        join_both(&hi, &lo, parts->hi[0][i], parts->hi[1][i]);
        if (parts->joined)
            join_both(&hi, &lo, parts->lo[0][i], parts->lo[1][i]);
    }
    for (int o = 0; o < 2; o++) {
        to->hi[o][g] = hi[o];
        to->lo[o][g] = lo[o];
    }
    for (ptrdiff_t i = first; i < first + n && to->masked; i++)
        to->count[g] += parts->count[i];
}

/* A group may have more parts than are summed at a time. */
static OWN_FRAME void sum_parts(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count,
                                const Summing *how, Sums *to)
{
    const ptrdiff_t parts = w->parts, all = count * parts;
    _Alignas(LINE) double k[TILE];
    Sums each;
    Summing own = *how;
    own.k = how->k ? k : NULL;
    for (ptrdiff_t g = 0; g < count; g++)
        to->hi[0][g] = to->lo[0][g] = to->hi[1][g] = to->lo[1][g] = to->count[g] = 0;
    for (ptrdiff_t first = 0; first < all || first == 0; first += w->tile) {
        const ptrdiff_t n = all - first < w->tile ? all - first : w->tile;
        for (ptrdiff_t i = 0; how->k && (i < n || i % LANES); i++)
            k[i] = i < n ? how->k[(first + i) / parts] : 0;
        sums(w, nth(w, at, first).at, n, &own, &each);
        to->masked = each.masked;
        for (ptrdiff_t i = 0, some; i < n; i += some) {
            const ptrdiff_t left = parts - (first + i) % parts;
            some = left < n - i ? left : n - i;
            share(&each, i, some, to, (first + i) / parts);
        }
    }
    to->n = each.n * (double)parts;
    to->joined = 1;
}

void sum_shared(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Summing *how,
                Sums *to)
{
    if (w->parts == 1)
        sums(w, at, count, how, to);
    else
        sum_parts(w, at, count, how, to);
}

/* A group of an item. */
static Place group(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t g)
{
    return nth(w, at, g * w->parts);
}

static OWN_FRAME void retake_one(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t g, double *k,
                                 Sums *to)
{
    Sums s;
    sum_shared(w, group(w, at, g).at, 1, &(Summing){.k = k}, &s);
    for (int o = 0; o < 2; o++) {
        to->hi[o][g] = s.hi[o][0];
        to->lo[o][g] = s.joined ? s.lo[o][0] : 0;
    }
}

/* Once more, where the first shift was far from the mean. */
static void retake(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, double *k, Sums *s)
{
    const int cols = w->plan->form == COLS;
    int any = 0;
    for (ptrdiff_t g = 0; g < count && w->centred; g++)
        if (strays(w, s, g, &k[g])) {
            any = 1;
            if (!cols)
                retake_one(w, at, g, k + g, s);
        }
    if (any && cols)
        sum_shared(w, at, count, &(Summing){.k = k}, s);
}

void settle(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, double *k, Sums *s,
            Moment *m)
{
    double zero[TILE] = {0};
    const int is_double = w->t->dtype == F64;
    k = k ? k : zero;
    if (!is_double) /* doubles have been, for kernel finish() to find them near the mean */
        retake(w, at, count, k, s);
    for (ptrdiff_t g = 0; g < count; g++) {
        m[g] = moment(w, s, g, k[g]);
        if (is_double && !isfinite(m[g].m2)) /* not finite, or only its squares */
            m[g] = exact_moment(w, group(w, at, g).at);
    }
}

/* Of included elements, group by group. */
static void sample_masked(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, double *k)
{
    const ptrdiff_t total = w->parts * w->plan->runs * w->plan->n;
    for (ptrdiff_t g = 0; g < count; g++) {
        const Place here = group(w, at, g);
        double x[SAMPLE];
        for (int j = 0; j < SAMPLE; j++)
            x[j] = near(w, here.at, place_of(total, j));
        k[g] = sample(x);
    }
}

/* The places are the same in all groups. */
static void sample_all(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, double *k)
{
    const Plan *p = w->plan;
    const ptrdiff_t each = p->runs * p->n, step = w->parts * across(p)->step[X];
    const char *from[SAMPLE];
    for (int j = 0; j < SAMPLE; j++) {
        const ptrdiff_t i = place_of(w->parts * each, j);
        ptrdiff_t here[STEPS];
        memcpy(here, at, sizeof here);
        locate(across(p), 1, i / each, here);
        locate(p->run, p->nrun, i / p->n % p->runs, here);
        locate(p->inner, p->ninner, i % p->n, here);
        from[j] = w->t->x + here[X];
    }
    for (ptrdiff_t g = 0; g < count; g++) {
        double x[SAMPLE];
        for (int j = 0; j < SAMPLE; j++)
            if (w->t->swapped)
                w->kernels->pack(&x[j], from[j] + g * step, sizeof(double), 1, 1);
            else /* sooner than a kernel is called */
                memcpy(&x[j], from[j] + g * step, sizeof(double));
        k[g] = sample(x);
    }
}

static void shifts(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, double *k)
{
    const int sampled = w->t->dtype == F64 && w->centred, cols = w->plan->form == COLS;
    if (sampled)
        (w->t->mask ? sample_masked : sample_all)(w, at, count, k);
    /* columns come in whole lanes */
    for (ptrdiff_t g = sampled ? count : 0; g < count || (cols && g % LANES); g++)
        k[g] = 0;
}

void take_sums(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, Scratch *kept, double *k,
               Sums *s)
{
    shifts(w, at, count, k);
    sum_shared(w, at, count, &(Summing){.k = k, .kept = kept}, s);
    if (w->t->dtype == F64)
        retake(w, at, count, k, s);
}

void take(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, Moment *m)
{
    _Alignas(LINE) double k[TILE];
    Sums s;
    take_sums(w, at, count, NULL, k, &s);
    settle(w, at, count, k, &s, m);
}
