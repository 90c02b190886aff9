/* Moments -> what is applied, and what a channel reports. Tiny, plain C. */
#include "elementary.h"
#include "work.h"
#include <math.h>
#include <stdlib.h>

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
static Fold fold_stats(const Work *w, double mean, double rest, double var)
{
    const int wide = w->t->dtype == F64 || fabs(mean) >= limits(w).far;
    Fold f = {.rstd = var > 0 ? 1 / sqrt(var) : var == 0 ? 0 : NAN};
    if (mean != mean || f.rstd != f.rstd)
        return (Fold){.rstd = NAN};
    f.hi = wide ? mean : (double)(float)mean;
    f.lo = (mean - f.hi) + rest;
    f.exact = !carries(w, &f, var);
    return f;
}

Fold fold(const Work *w, const Moment *m)
{
    if (m->count == 0)
        return (Fold){0};
    return fold_stats(w, m->hi, m->lo, m->m2 / m->count + w->job->eps);
}

/* Evaluation: every channel's own. */
void fold_given(const Work *w, ptrdiff_t channels, Fold *f)
{
    for (ptrdiff_t c = 0; c < channels; c++)
        f[c] = fold_stats(w, w->job->given_mean[c], 0, w->job->given_var[c] + w->job->eps);
}

static double variance(const Moment *m, int correction)
{
    return m->m2 / (m->count - correction);
}

/* Moments of n groups of equal count, every step-th of m: mean = m[0].hi + rest, and the variance
 * of all. The correction is of the groups' own variance; where they are single elements (two
 * logits), of the variance between them. */
typedef struct {
    double rest, var;
} Pooled;

static Pooled pool(const Work *w, const Moment *m, ptrdiff_t n, ptrdiff_t step)
{
    const int correction = w->job->correction, single = w->job->logits.n == 2;
    Two move = {0}, within = {0}, between = {0};
    for (ptrdiff_t i = 0; i < n; i++) {
        join(&move, m[i * step].hi - m[0].hi);
        join(&move, m[i * step].lo);
    }
    const double rest = (move.hi + move.lo) / (double)n;
    for (ptrdiff_t i = 0; i < n; i++) {
        const double d = ((m[i * step].hi - m[0].hi) + m[i * step].lo) - rest;
        join(&between, d * d);
        join(&within, single ? 0 : variance(&m[i * step], m[i * step].count > 1 ? correction : 0));
    }
    const double var = (within.hi + within.lo) / (double)n +
                       (between.hi + between.lo) / (double)(single && n > 1 ? n - correction : n);
    return (Pooled){rest, var};
}

static void softmax(const double *logits, int n, double *share)
{
    double top = logits[0], total = 0;
    for (int i = 1; i < n; i++)
        top = logits[i] > top ? logits[i] : top;
    for (int i = 0; i < n; i++)
        total += share[i] = norm_exp(logits[i] - top);
    for (int i = 0; i < n; i++)
        share[i] /= total;
}

/* One group's share of the three, about its own mean so that nothing cancels. */
static Fold blend_group(const Work *w, const Moment *own, int e, const double *mean,
                        const double *var, double layer_move, double layer_var, double batch_move,
                        double batch_var)
{
    const double move = mean[1] * (layer_move - own->lo) + mean[2] * (batch_move - own->lo);
    const double hi = own->hi + move, part = hi - own->hi;
    const double rest = (own->hi - (hi - part)) + (move - part);
    const double own_var = variance(own, own->count > 1 ? w->job->correction : 0);
    const double blended = var[0] * own_var + var[1] * layer_var + var[2] * batch_var;
    Fold f = fold_stats(w, hi, rest + own->lo, blended + ldexp(w->job->eps, -2 * e));
    f.exact |= e != 0;
    f.e = e;
    return f;
}

int blend(const Work *w, const Grid *g, const Moment *m, int e, Fold *f, ChannelStat *channels)
{
    const Job *job = w->job;
    const Logits *l = &job->logits;
    double mean[3] = {0}, var[3] = {0};
    Pooled *batch = malloc((size_t)g->channels * sizeof *batch);
    if (!batch)
        return -1;
    softmax(l->mean, l->n, mean + 3 - l->n);
    softmax(l->var, l->n, var + 3 - l->n);
    for (ptrdiff_t c = 0; c < g->channels; c++) {
        const Moment *first = &m[c * g->channel_step];
        batch[c] = pool(w, first, g->instances, g->instance_step);
        if (channels)
            channels[c] =
                (ChannelStat){ldexp(first->hi + batch[c].rest, e), ldexp(batch[c].var, 2 * e),
                              (double)g->instances * first->count < 2};
    }
    for (ptrdiff_t n = 0; n < g->instances; n++) {
        const Moment *row = &m[n * g->instance_step];
        const Pooled layer = pool(w, row, g->channels, g->channel_step);
        for (ptrdiff_t c = 0; c < g->channels; c++) {
            const Moment *own = &row[c * g->channel_step];
            const double layer_move = (row->hi - own->hi) + layer.rest;
            const double batch_move = job->given_mean
                                          ? ldexp(job->given_mean[c], -e) - own->hi
                                          : (m[c * g->channel_step].hi - own->hi) + batch[c].rest;
            f[own - m] =
                blend_group(w, own, e, mean, var, layer_move, layer.var, batch_move,
                            job->given_mean ? ldexp(job->given_var[c], -2 * e) : batch[c].var);
        }
    }
    free(batch);
    return 0;
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
