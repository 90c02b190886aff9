/* SwitchableNorm: mean and variance of instance, layer and batch, blended by softmax; and back. */
#include "elementary.h"
#include "work.h"
#include <math.h>
#include <stdlib.h>

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

/* Do a double's squares, within groups or between them, leave its range? */
int blend_units(const Work *w, Moment *m)
{
    int out = 0;
    for (ptrdiff_t g = 0; w->t->dtype == F64 && g < w->plan->groups; g++)
        out |= m[g].m2 / m[g].count + w->job->eps < 0x1p-900 || m[g].m2 > 0x1p1000 ||
               fabs(m[g].hi) > 0x1p499;
    return out ? scaled_moments(w, m) : 0;
}

/* What all groups of a call share: the softmax of both logits, and every channel's batch. */
typedef struct {
    const Work *w;
    const Grid *g;
    const Moment *m;
    int e;
    double mean[3], var[3]; /* shares of instance, layer, batch */
    Pooled *batch;
} Blend;

static int blend_open(Blend *b, const Work *w, const Grid *g, const Moment *m, int e)
{
    const Logits *l = &w->job->logits;
    *b = (Blend){.w = w, .g = g, .m = m, .e = e};
    if (!(b->batch = malloc((size_t)g->channels * sizeof *b->batch)))
        return -1;
    softmax(l->mean, l->n, b->mean + 3 - l->n);
    softmax(l->var, l->n, b->var + 3 - l->n);
    for (ptrdiff_t c = 0; c < g->channels; c++)
        b->batch[c] = pool(w, &m[c * g->channel_step], g->instances, g->instance_step);
    return 0;
}

static const Moment *instance(const Blend *b, ptrdiff_t n, ptrdiff_t c)
{
    return &b->m[n * b->g->instance_step + c * b->g->channel_step];
}

/* The three means of a group, as they lie from its own, so that nothing cancels; the variances. */
typedef struct {
    double move[3], var[3];
} Parts;

static Parts parts_of(const Blend *b, const Pooled *layer, ptrdiff_t n, ptrdiff_t c)
{
    const Job *job = b->w->job;
    const Moment *own = instance(b, n, c);
    const double to_layer = (instance(b, n, 0)->hi - own->hi) + layer->rest;
    const double to_batch = job->given_mean ? ldexp(job->given_mean[c], -b->e) - own->hi
                                            : (instance(b, 0, c)->hi - own->hi) + b->batch[c].rest;
    return (Parts){{0, to_layer - own->lo, to_batch - own->lo},
                   {variance(own, own->count > 1 ? job->correction : 0), layer->var,
                    job->given_mean ? ldexp(job->given_var[c], -2 * b->e) : b->batch[c].var}};
}

static double blended(const double share[3], const double part[3])
{
    return share[0] * part[0] + share[1] * part[1] + share[2] * part[2];
}

static Fold blend_group(const Blend *b, const Moment *own, const Parts *p)
{
    Two mean = {own->hi, 0};
    join(&mean, b->mean[1] * p->move[1] + b->mean[2] * p->move[2]);
    const double var = blended(b->var, p->var) + ldexp(b->w->job->eps, -2 * b->e);
    Fold f;
    fold_stats(b->w, mean.hi, mean.lo + own->lo, var, &f);
    f.exact |= b->e != 0;
    f.e = b->e;
    return f;
}

int blend(const Work *w, const Grid *g, const Moment *m, int e, Fold *f, ChannelStat *channels)
{
    Blend b;
    if (blend_open(&b, w, g, m, e) < 0)
        return -1;
    for (ptrdiff_t c = 0; channels && c < g->channels; c++) {
        const Moment *first = instance(&b, 0, c);
        channels[c] =
            (ChannelStat){ldexp(first->hi + b.batch[c].rest, e), ldexp(b.batch[c].var, 2 * e),
                          (double)g->instances * first->count < 2};
    }
    for (ptrdiff_t n = 0; n < g->instances; n++) {
        const Pooled layer = pool(w, instance(&b, n, 0), g->channels, g->channel_step);
        for (ptrdiff_t c = 0; c < g->channels; c++) {
            const Parts p = parts_of(&b, &layer, n, c);
            f[instance(&b, n, c) - m] = blend_group(&b, instance(&b, n, c), &p);
        }
    }
    free(b.batch);
    return 0;
}

/* ---- back ---------------------------------------------------------------------------- */

/* The loss by a blended mean and variance, in units of 2^e; or sums of it. */
typedef struct {
    Two mean, var;
} Pull;

static void pull_add(Pull *to, const Blend *b, const Dot *d, const Fold *f, ptrdiff_t c)
{
    const double weight = parameter(b->w, b->w->weight, c, 1);
    join(&to->mean, -f->rstd * (weight * d->r));
    join(&to->var, -0.5 * f->rstd * f->rstd * (weight * d->q));
}

/* What n instances, or channels, pass on through their pooled mean and variance to one of them:
 * by its mean, whose way to the pooled one is `move`, and by its variance. */
typedef struct {
    double mean, var;
} Push;

static Push through(const Blend *b, int part, const Pull *sum, ptrdiff_t n, double move)
{
    const Job *job = b->w->job;
    const int single = job->logits.n == 2;
    const ptrdiff_t between = single && n > 1 ? n - job->correction : n;
    const double of_var = b->var[part] * total(sum->var);
    return (Push){b->mean[part] * total(sum->mean) / (double)n -
                      2 * of_var * move / (double)between,
                  single ? 0 : of_var / (double)n};
}

/* dx = ((t - mean) - d * slope * rstd) * rstd about the group's own mean. */
static Fold back_group(const Blend *b, const Moment *own, const Fold *f, double by_mean,
                       double by_var)
{
    const double left = own->count - (own->count > 1 ? b->w->job->correction : 0);
    Fold back;
    fold_stats(b->w, own->hi, own->lo, 1, &back);
    back.rstd = f->rstd;
    back.exact |= f->exact;
    back.e = f->e;
    if (f->rstd == 0)
        return back;
    back.mean = -by_mean / (own->count * f->rstd);
    back.slope = -2 * by_var / (left * f->rstd * f->rstd);
    if (!isfinite(back.mean) || !isfinite(back.slope))
        return (Fold){.rstd = NAN};
    back.exact |= !dx_carries(b->w, &back);
    return back;
}

static void back_row(const Blend *b, const Dot *d, ptrdiff_t n, const Pull *by_channel, Fold *f,
                     Pull *logits)
{
    const Grid *g = b->g;
    const Pooled layer = pool(b->w, instance(b, n, 0), g->channels, g->channel_step);
    Pull row = {0};
    for (ptrdiff_t c = 0; c < g->channels; c++) {
        const ptrdiff_t i = instance(b, n, c) - b->m;
        pull_add(&row, b, &d[i], &f[i], c);
    }
    for (ptrdiff_t c = 0; c < g->channels; c++) {
        const ptrdiff_t i = instance(b, n, c) - b->m;
        const Parts p = parts_of(b, &layer, n, c);
        const double move = blended(b->mean, p.move), var = blended(b->var, p.var);
        Pull own = {0};
        pull_add(&own, b, &d[i], &f[i], c);
        for (int k = 0; k < 3; k++) {
            join(&logits[k].mean, total(own.mean) * (p.move[k] - move));
            join(&logits[k].var, total(own.var) * (p.var[k] - var));
        }
        const Push of_own = through(b, 0, &own, 1, 0),
                   of_layer = through(b, 1, &row, g->channels, p.move[1]);
        const Push of_batch = b->w->job->given_mean
                                  ? (Push){0}
                                  : through(b, 2, &by_channel[c], g->instances, p.move[2]);
        f[i] = back_group(b, &b->m[i], &f[i], of_own.mean + of_layer.mean + of_batch.mean,
                          of_own.var + of_layer.var + of_batch.var);
    }
}

int blend_dots(const Work *w, const Grid *g, const Moment *m, int e, const Dot *d, Fold *f,
               Logits *to)
{
    Blend b;
    Pull logits[3] = {0}, *by_channel = calloc((size_t)g->channels, sizeof *by_channel);
    if (!by_channel || blend_open(&b, w, g, m, e) < 0) {
        free(by_channel);
        return -1;
    }
    for (ptrdiff_t n = 0; n < g->instances; n++)
        for (ptrdiff_t c = 0; c < g->channels; c++) {
            const ptrdiff_t i = instance(&b, n, c) - m;
            pull_add(&by_channel[c], &b, &d[i], &f[i], c);
        }
    for (ptrdiff_t n = 0; n < g->instances; n++)
        back_row(&b, d, n, by_channel, f, logits);
    to->n = w->job->logits.n;
    for (int k = 0; k < to->n; k++) {
        const int part = k + 3 - to->n;
        to->mean[k] = b.mean[part] * total(logits[part].mean);
        to->var[k] = b.var[part] * total(logits[part].var);
    }
    free(b.batch);
    free(by_channel);
    return 0;
}
