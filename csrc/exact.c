/* The slow, plain road: element by element in double, scaled by a power of two so that nothing
 * leaves its range. For groups near the ends of the exponent range, chosen by the data alone. */
#include "work.h"
#include <limits.h>
#include <math.h>
#include <string.h>

int element(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t i, ptrdiff_t here[STEPS], double *x)
{
    const Plan *p = w->plan;
    const Tensors *t = w->t;
    double raw;
    memcpy(here, at, STEPS * sizeof *here);
    locate(across(p), 1, i / (p->runs * p->n), here);
    locate(p->run, p->nrun, i / p->n % p->runs, here);
    locate(p->inner, p->ninner, i % p->n, here);
    w->kernels->pack(&raw, t->x + here[X], 0, t->swapped, 1);
    *x = get(w, &raw, 0);
    return !t->mask || t->mask[here[MASK]];
}

/* The exponent e of the largest element, |x| < 2^e; INT_MIN if all are 0. *finite: all are. */
static int range(const Work *w, const ptrdiff_t at[STEPS], int *finite)
{
    ptrdiff_t here[STEPS];
    double most = 0, x;
    int e = 0;
    *finite = 1;
    for (ptrdiff_t i = 0; i < w->parts * w->plan->runs * w->plan->n; i++) {
        if (!element(w, at, i, here, &x))
            continue;
        if (!isfinite(x))
            *finite = 0;
        else
            most = fmax(most, fabs(x));
    }
    (void)frexp(most, &e);
    return most > 0 ? e : INT_MIN;
}

/* Sums of d = x * 2^-e - k. */
static void sum(const Work *w, const ptrdiff_t at[STEPS], int e, double k, double *count, double *r,
                double *q)
{
    Two rs = {0}, qs = {0};
    ptrdiff_t here[STEPS];
    double x;
    *count = 0;
    for (ptrdiff_t i = 0; i < w->parts * w->plan->runs * w->plan->n; i++)
        if (element(w, at, i, here, &x)) {
            const double d = ldexp(x, -e) - k;
            *count += 1;
            join(&rs, d);
            join(&qs, d * d);
        }
    *r = rs.hi + rs.lo;
    *q = qs.hi + qs.lo;
}

/* In units of 2^e. Once more about the mean, which so ends in two words. */
static Moment scaled_moment(const Work *w, const ptrdiff_t at[STEPS], int e)
{
    double count, r, q;
    sum(w, at, e, 0, &count, &r, &q);
    if (count == 0)
        return (Moment){0};
    if (!w->centred)
        return (Moment){.count = count, .m2 = q};
    Two mean = {r / count, 0};
    sum(w, at, e, mean.hi, &count, &r, &q);
    join(&mean, r / count);
    const double m2 = q - r * (r / count);
    return (Moment){count, mean.hi, mean.lo, m2 > 0 ? m2 : 0};
}

/* Of range(), made to cover a variance: what is then lost of either is nothing beside the other. */
static int cover(int e, double var)
{
    int of_var;
    (void)frexp(var, &of_var);
    return var > 0 && of_var / 2 > e ? of_var / 2 : e == INT_MIN ? 0 : e;
}

Moment exact_moment(const Work *w, const ptrdiff_t at[STEPS])
{
    int finite;
    const int e = cover(range(w, at, &finite), 0);
    Moment m = scaled_moment(w, at, e);
    if (!finite)
        return (Moment){m.count, NAN, 0, NAN};
    return (Moment){m.count, ldexp(m.hi, e), ldexp(m.lo, e), ldexp(m.m2, 2 * e)};
}

int scaled_moments(const Work *w, Moment *m)
{
    const Plan *p = w->plan;
    int e = INT_MIN, finite;
    for (ptrdiff_t g = 0; g < p->groups; g++) {
        ptrdiff_t at[STEPS] = {0};
        locate(p->kept, p->nkept, g, at);
        const int own = range(w, at, &finite);
        e = own > e ? own : e;
    }
    e = cover(e, w->job->eps);
    for (ptrdiff_t c = 0; w->job->given_var && c < w->job->t.shape[w->job->axis]; c++)
        e = cover(e, w->job->given_var[c]);
    for (ptrdiff_t g = 0; g < p->groups; g++) {
        ptrdiff_t at[STEPS] = {0};
        locate(p->kept, p->nkept, g, at);
        m[at[STAT]] = scaled_moment(w, at, e);
    }
    return e;
}

/* The statistics to apply, their unit with them: the group's own once more where a double's
 * variance was at stake. */
static Fold scaled_fold(const Work *w, const ptrdiff_t at[STEPS], const Fold *f)
{
    const Job *job = w->job;
    if (f->rstd != f->rstd || f->exact & FOUND)
        return *f;
    if (w->t->dtype != F64 || job->given_mean || job->kind == SWITCHABLE) {
        const int e = fabs(f->hi) > 0x1p1000 ? 2 : 0; /* x - hi stays finite */
        return (Fold){.hi = ldexp(f->hi, -e),
                      .lo = ldexp(f->lo, -e),
                      .rstd = ldexp(f->rstd, e),
                      .e = f->e + e};
    }
    int finite;
    const Place first = nth(w, at, w->parts > 1 ? -(at[PARAM] % w->parts) : 0);
    const int e = cover(range(w, first.at, &finite), job->eps);
    const Moment m = scaled_moment(w, first.at, e);
    if (m.m2 == 0) /* eps is all there is, however far the mean */
        return (Fold){.hi = ldexp(m.hi, e),
                      .lo = ldexp(m.lo, e),
                      .rstd = job->eps > 0 ? 1 / sqrt(job->eps) : 0};
    const double var = m.count > 0 ? m.m2 / m.count + ldexp(job->eps, -2 * e) : 0;
    return (Fold){.hi = m.hi, .lo = m.lo, .rstd = var > 0 ? 1 / sqrt(var) : 0, .e = e};
}

void exact_fold(const Work *w, const ptrdiff_t at[STEPS], Fold *f)
{
    const Fold s = scaled_fold(w, at, f);
    *f = (Fold){s.hi, s.lo, s.rstd, f->exact | FOUND, s.e, f->mean, f->slope};
}

/* Element i as it counts: xhat, and the gradient. */
typedef struct {
    ptrdiff_t here[STEPS];
    double x, xhat, g;
    int included;
} Element;

static Element normalised(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t i, const Fold *s)
{
    const Tensors *t = w->t;
    Element e = {.g = 0};
    double raw;
    e.included = element(w, at, i, e.here, &e.x);
    e.xhat = ((ldexp(e.x, -s->e) - s->hi) - s->lo) * s->rstd;
    if (t->g) {
        kernels(t->gdtype)->pack(&raw, t->g + e.here[G], 0, t->gswapped, 1);
        e.g = get(w, &raw, 0);
    }
    return e;
}

static double forward_element(const Work *w, const Element *e, const Fold *s)
{
    const double weight = parameter(w, w->weight, e->here[PARAM], 1);
    const int nothing = weight == 0 && isfinite(e->x) && s->rstd == s->rstd;
    return (nothing ? 0 : e->xhat * weight) + parameter(w, w->bias, e->here[PARAM], 0);
}

/* flat: x has no say. */
static double dx_element(const Work *w, const Element *e, const Fold *f, const Fold *s)
{
    const int flat = w->job->given_mean && !w->blended;
    const double t = e->g * parameter(w, w->weight, e->here[PARAM], 1) - f->mean;
    return ldexp((flat ? t : t - e->xhat * f->slope) * s->rstd, -s->e);
}

void exact_group(const Work *w, const ptrdiff_t at[STEPS], const Fold *f)
{
    const Fold s = scaled_fold(w, at, f);
    for (ptrdiff_t i = 0; i < w->plan->runs * w->plan->n; i++) {
        const Element e = normalised(w, at, i, &s);
        const double y = w->t->g ? dx_element(w, &e, f, &s) : forward_element(w, &e, &s);
        double raw;
        put(w, &raw, 0, e.included ? y : 0);
        if (get(w, &raw, 0) < w->cut)
            put(w, &raw, 0, 0);
        w->kernels->unpack(w->t->y + e.here[Y], 0, &raw, 1);
    }
}

static void add_term(const Work *w, double *to, ptrdiff_t pitch, double term)
{
    double none = 0, *lo = w->t->dtype == F64 ? to + 2 * pitch : &none;
    Two sum = {*to, *lo};
    join(&sum, term);
    *to = sum.hi;
    *lo = sum.lo;
}

void exact_dots(const Work *w, const ptrdiff_t at[STEPS], const Fold *f, Dot *d, double *sums,
                ptrdiff_t pitch)
{
    const Fold s = scaled_fold(w, at, f);
    Two r = {0}, q = {0};
    for (ptrdiff_t i = 0; i < w->plan->runs * w->plan->n; i++) {
        const Element e = normalised(w, at, i, &s);
        if (!e.included)
            continue;
        const double t = w->vector ? e.g * parameter(w, w->weight, e.here[PARAM], 1) : e.g;
        join(&r, t);
        join(&q, t * e.xhat);
        if (w->vector) {
            add_term(w, sums + e.here[PARAM], pitch, e.g * e.xhat);
            add_term(w, sums + pitch + e.here[PARAM], pitch, e.g);
        }
    }
    *d = (Dot){total(r), total(q)};
}
