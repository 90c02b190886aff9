/* Moments -> what is applied, and what a channel reports. Tiny, plain C. */
#include "work.h"
#include <math.h>

/* Can the arithmetic type carry (x - hi) - lo and 1 / deviation? */
static int carries(const Work *w, const Fold *f, double var)
{
    const int f64 = w->t->dtype == F64;
    const Limits l = limits(w);
    const int constant = var == 0 && fabs(f->hi) > 0x1p-480; /* no square can have been lost */
    if (f64 && !constant && (var < 0x1p-900 || var > 0x1p1000))
        return 0;
    if (!f64 && f->rstd > 1 && fabs(f->lo) < l.least && (double)(float)f->lo != f->lo)
        return 0; /* what the mean loses to underflow would show */
    return fabs(f->hi) < l.far && (f->rstd == 0 || (f->rstd >= l.least && f->rstd <= l.most));
}

/* From a mean in two words and a variance that includes eps. NaN in either: a group of NaN. */
void fold_stats(const Work *w, double mean, double rest, double var, Fold *f)
{
    const int wide = w->t->dtype == F64 || fabs(mean) >= limits(w).far;
    const double rstd = var > 0 ? 1 / sqrt(var) : var == 0 ? 0 : NAN;
    *f = (Fold){.rstd = NAN};
    if (mean != mean || rstd != rstd)
        return;
    f->rstd = rstd;
    f->hi = wide ? mean : (double)(float)mean;
    f->lo = (mean - f->hi) + rest;
    f->exact = !carries(w, f, var);
}

void fold(const Work *w, const Moment *m, Fold *f)
{
    if (m->count == 0)
        *f = (Fold){0};
    else
        fold_stats(w, m->hi, m->lo, m->m2 / m->count + w->job->eps, f);
}

/* Do scale and shift of a group stay in the type's range? An overflow could come back by
 * the bias, and a subnormal scale has lost digits. Nor are NaN parameters of halves carried. */
int parameters_carry(const Work *w, const Fold *f, ptrdiff_t param)
{
    const Limits l = limits(w);
    if (mild_fold(w, f))
        return 1;
    const int half = w->t->dtype < F32;
    const double weight = parameter(w, w->weight, param, 1), scale = fabs(f->rstd * weight);
    const double shift = fabs(parameter(w, w->bias, param, 0));
    return !((scale < l.least && weight != 0 && f->rstd != 0) || scale > l.most || shift >= l.far ||
             (half && (weight != weight || shift != shift)));
}

void spread(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, Fold *f)
{
    const ptrdiff_t most = count < TILE ? count : TILE, groups = means(w, count);
    if (w->parts == 1)
        return;
    for (ptrdiff_t g = 0; g < groups; g++) {
        const ptrdiff_t first = at[PARAM] + g * w->parts;
        int exact = f[g].exact;
        const int known = w->t->g || mild_fold(w, &f[g]);
        for (ptrdiff_t i = 0; i < w->parts && !exact && !known; i++)
            exact = !parameters_carry(w, &f[g], first + i);
        if (exact)
            exact_fold(w, nth(w, at, g * w->parts).at, &f[g]);
    }
    for (ptrdiff_t last = most, g = (most - 1) / w->parts; g >= 0; last = g-- * w->parts)
        for (ptrdiff_t i = last - 1; i >= g * w->parts; i--)
            f[i] = f[g];
}

/* Evaluation: every channel's own. */
void fold_given(const Work *w, ptrdiff_t channels, Fold *f)
{
    for (ptrdiff_t c = 0; c < channels; c++)
        fold_stats(w, w->job->given_mean[c], 0, w->job->given_var[c] + w->job->eps, &f[c]);
}

void report(const Work *w, const Grid *g, const Moment *m, ChannelStat *channels)
{
    for (ptrdiff_t c = 0; c < g->channels; c++) {
        ChannelStat s = {0};
        double used = 0;
        for (ptrdiff_t n = 0; n < g->instances; n++) {
            const Moment *own = &m[n * g->instance_step + c * g->channel_step];
            if (own->count < 2)
                continue;
            s.mean += own->hi + own->lo;
            s.var += variance(own, w->job->correction);
            used += 1;
        }
        s.keep = used == 0;
        if (used > 1) {
            s.mean /= used;
            s.var /= used;
        }
        channels[c] = s;
    }
}
