/* The gradient's sums: of a group, for its dx; of a parameter, for its own gradient. With t = g *
 * weight and xhat = (x - mean) * rstd, in double, about the mean, so that nothing cancels. */
#include "work.h"
#include <math.h>

static void dots_fast(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *f,
                      Dot *d, ptrdiff_t step, double *params, ptrdiff_t pitch)
{
    const int is_double = w->t->dtype == F64, cols = w->plan->form == COLS;
    _Alignas(LINE) double k[TILE], lo[TILE], rstd[TILE];
    const Weighing by = {{k, lo, rstd}, params, pitch};
    const Summing how = {.k = k, .by = &by};
    Sums sum;
    for (ptrdiff_t g = 0; g < count || (cols && g % LANES); g++) {
        k[g] = g >= count ? 0 : is_double ? f[g].hi : f[g].hi + f[g].lo;
        lo[g] = g < count && is_double ? f[g].lo : 0;
        rstd[g] = g < count ? f[g].rstd : 0;
    }
    sums(w, at, count, &how, &sum);
    for (ptrdiff_t g = 0; g < count; g++) {
        const double r = total(sum_of(&sum, 0, g));
        const double q = total(sum_of(&sum, 1, g));
        const double xhat = (is_double ? q : q * rstd[g]) - lo[g] * rstd[g] * r;
        const int none = sum.masked && sum.count[g] == 0; /* even in a group of NaN */
        d[g * step] = none ? (Dot){0} : (Dot){r, w->vector ? q : xhat};
    }
}

/* A stretch of groups from g on, within what one call of the kernels may take; 0: the exact road,
 * which also keeps the parameters of excluded elements out of a group of NaN. */
static ptrdiff_t stretch(const Work *w, ptrdiff_t count, const Fold *f, ptrdiff_t g)
{
    ptrdiff_t n = 0;
    while (g + n < count && !f[g + n].exact &&
           !(w->vector && w->t->mask && f[g + n].rstd != f[g + n].rstd))
        n++;
    return n;
}

void dots(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *f, Dot *d,
          ptrdiff_t step, double *sums, ptrdiff_t pitch)
{
    for (ptrdiff_t g = 0, many; g < count; g += many) {
        const Place here = nth(w, at, g);
        many = stretch(w, count, f, g);
        if (many)
            dots_fast(w, here.at, many, f + g, d + g * step, step, sums, pitch);
        else
            exact_dots(w, here.at, f + g, d + g * step, sums, pitch);
        many += !many;
    }
}

void fold_dots(const Work *w, ptrdiff_t param, const Dot *d, double count, Fold *f)
{
    Two r = {0}, q = {0};
    if (w->vector) { /* weights are in the dots */
        r.hi = d->r;
        q.hi = d->q;
    }
    for (ptrdiff_t part = 0; !w->vector && part < w->parts; part++) {
        const double weight = parameter(w, w->weight, param + part, 1);
        join(&r, weight * d[part].r);
        join(&q, weight * d[part].q);
    }
    const double mean = total(r) / count, slope = total(q) / count;
    if (!isfinite(mean) || !isfinite(slope)) {
        *f = (Fold){.rstd = count > 0 ? NAN : 0};
        return;
    }
    f->mean = w->centred ? mean : 0;
    f->slope = slope;
    f->exact |= !dx_carries(w, f);
}
