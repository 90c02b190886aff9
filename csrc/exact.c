/* The slow, plain road: element by element in double, scaled by a power of two so that nothing
 * leaves its range. For groups near the ends of the exponent range, chosen by the data alone. */
#include "work.h"
#include <limits.h>
#include <math.h>
#include <string.h>

typedef struct {
    const Work *w;
    ptrdiff_t at[STEPS], here[STEPS], i;
    double x;
} Walk;

static Walk walk(const Work *w, ptrdiff_t group)
{
    Walk k = {.w = w};
    locate(w->plan->kept, w->plan->nkept, group, k.at);
    return k;
}

/* The next element in shape order: 1, with its place and value; 0 at the end. */
static int next(Walk *k, int *included)
{
    const Plan *p = k->w->plan;
    const Tensors *t = k->w->t;
    if (k->i == p->runs * p->n)
        return 0;
    memcpy(k->here, k->at, sizeof k->here);
    locate(p->run, p->nrun, k->i / p->n, k->here);
    locate(p->inner, p->ninner, k->i % p->n, k->here);
    k->i++;
    *included = !t->mask || t->mask[k->here[MASK]];
    union {
        float f32;
        double f64;
    } v;
    k->w->kernels->pack(&v, t->x + k->here[X], 0, t->swapped, 1);
    k->x = t->dtype == F64 ? v.f64 : v.f32;
    return 1;
}

/* The exponent e of the largest element, |x| < 2^e; INT_MIN if all are 0. *finite: all are. */
static int range(const Work *w, ptrdiff_t group, int *finite)
{
    Walk k = walk(w, group);
    double most = 0;
    int included, e = 0;
    *finite = 1;
    while (next(&k, &included)) {
        if (!included)
            continue;
        if (!isfinite(k.x))
            *finite = 0;
        else if (fabs(k.x) > most)
            most = fabs(k.x);
    }
    (void)frexp(most, &e);
    return most > 0 ? e : INT_MIN;
}

/* Sums of d = x * 2^-e - k. */
static void sum(const Work *w, ptrdiff_t group, int e, double k, double *count, double *r,
                double *q)
{
    Walk step = walk(w, group);
    Two rs = {0}, qs = {0};
    int included;
    *count = 0;
    while (next(&step, &included))
        if (included) {
            const double d = ldexp(step.x, -e) - k;
            *count += 1;
            join(&rs, d);
            join(&qs, d * d);
        }
    *r = rs.hi + rs.lo;
    *q = qs.hi + qs.lo;
}

/* In units of 2^e. Twice about the mean so far: it ends in two words. */
static Moment scaled_moment(const Work *w, ptrdiff_t group, int e)
{
    double count, r, q, k = 0;
    sum(w, group, e, 0, &count, &r, &q);
    if (count == 0)
        return (Moment){0};
    if (!w->centred)
        return (Moment){.count = count, .m2 = q};
    Two mean = {0};
    for (int again = 0; again < 2; again++) {
        join(&mean, r / count);
        k = mean.hi;
        mean.lo = 0;
        sum(w, group, e, k, &count, &r, &q);
    }
    join(&mean, r / count);
    const double m2 = q - r * (r / count);
    return (Moment){count, mean.hi, mean.lo, m2 > 0 ? m2 : 0};
}

/* Of range(), made to cover eps: what is then lost of either is nothing beside the other. */
static int cover(int e, double eps)
{
    int of_eps;
    (void)frexp(eps, &of_eps);
    return eps > 0 && of_eps / 2 > e ? of_eps / 2 : e == INT_MIN ? 0 : e;
}

Moment exact_moment(const Work *w, ptrdiff_t group)
{
    int finite;
    const int e = cover(range(w, group, &finite), 0);
    Moment m = scaled_moment(w, group, e);
    if (!finite)
        return (Moment){m.count, NAN, 0, NAN};
    return (Moment){m.count, ldexp(m.hi, e), ldexp(m.lo, e), ldexp(m.m2, 2 * e)};
}

int scaled_moments(const Work *w, Moment *m)
{
    int e = INT_MIN, finite;
    for (ptrdiff_t g = 0; g < w->plan->groups; g++) {
        const int own = range(w, g, &finite);
        e = own > e ? own : e;
    }
    e = cover(e, w->job->eps);
    for (ptrdiff_t g = 0; g < w->plan->groups; g++)
        m[walk(w, g).at[STAT]] = scaled_moment(w, g, e);
    return e;
}

/* The statistics to apply, their unit with them: the group's own once more where a double's
 * variance was at stake. */
static Fold scaled_fold(const Work *w, ptrdiff_t group, const Fold *f)
{
    const Job *job = w->job;
    if (w->t->dtype != F64 || job->given_mean || job->kind == SWITCHABLE) {
        const int e = f->e ? 0 : fabs(f->hi) > 0x1p1000 ? 2 : 0; /* x - hi stays finite */
        return (Fold){ldexp(f->hi, -e), ldexp(f->lo, -e), ldexp(f->rstd, e), 1, f->e + e};
    }
    int finite;
    const int own = range(w, group, &finite), e = cover(own, job->eps);
    if (own == INT_MIN)
        return (Fold){.exact = 1};
    const Moment m = scaled_moment(w, group, e);
    const double var = m.count > 0 ? m.m2 / m.count + ldexp(job->eps, -2 * e) : 0;
    return (Fold){m.hi, m.lo, var > 0 ? 1 / sqrt(var) : 0, 1, e};
}

void exact_group(const Work *w, ptrdiff_t group, const Fold *f)
{
    int included;
    const Fold s = scaled_fold(w, group, f);
    Walk k = walk(w, group);
    while (next(&k, &included)) {
        const double xhat = ((ldexp(k.x, -s.e) - s.hi) - s.lo) * s.rstd;
        const double weight = parameter(w, w->weight, k.here[PARAM], 1);
        const double scaled = weight == 0 && isfinite(k.x) && s.rstd == s.rstd ? 0 : xhat * weight;
        const double y = scaled + parameter(w, w->bias, k.here[PARAM], 0);
        const double f64 = included ? y : 0;
        const float f32 = (float)f64;
        w->kernels->unpack(w->t->y + k.here[Y], 0, w->t->dtype == F64 ? (const void *)&f64 : &f32,
                           1);
    }
}
