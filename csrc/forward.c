/* The drivers of the forward: plan -> moments -> fold -> apply.
 *
 * by_group   a pipeline: while a batch of groups is applied, the next is taken, in one walk of both
 *            (rows), or each item is taken and applied before the next
 * by_phase   statistics of all groups first: they are blended, or given */
#include "cpu.h"
#include "threads.h"
#include "work.h"
#include <stdlib.h>

typedef struct {
    const Work *w;
    Moment *moments;   /* by STAT; NULL: not wanted */
    const Fold *folds; /* by_phase; by STAT, or by PARAM where the statistics are given */
    int by;
} Drive;

/* Neighbouring groups on their way: taken and folded, to be applied. */
typedef struct {
    ptrdiff_t at[STEPS], count;
    int plain; /* the kernels carry them all */
    Fold f[TILE];
} Batch;

static void finish(const Drive *d, Batch *b, double *k, Sums *s)
{
    const Work *w = d->w;
    const Limits l = limits(w);
    const Plan *p = w->plan;
    const double n = (double)(p->runs * p->n);
    const int joined = p->runs > p->per || p->n > p->block;
    const Finish how = {n, w->job->eps, l.far, l.least, l.most, w->centred, joined};
    Statistics to;
    Moment m[TILE];
    const int quick =
        w->t->dtype != F64 && !w->t->mask && w->kernels->finish(s, b->count, &how, &to);
    if (!quick)
        settle(w, b->at, b->count, k, s, m);
    for (ptrdiff_t g = 0; g < b->count; g++)
        b->f[g] =
            quick ? (Fold){.hi = to.hi[g], .lo = to.lo[g], .rstd = to.rstd[g]} : fold(w, &m[g]);
    for (ptrdiff_t g = 0, at = b->at[STAT]; d->moments && g < b->count; g++) {
        d->moments[at] = quick ? (Moment){n, to.mean[g], 0, to.m2[g]} : m[g];
        at += across(p)->step[STAT];
    }
    b->plain = all_carried(w, b->at, b->count, b->f);
}

/* Takes an item's moments, and, by_group, applies them while the data are still near. */
static void take_item(void *context, ptrdiff_t item)
{
    const Drive *d = context;
    const Work *w = d->w;
    double k[TILE];
    Sums s;
    Batch b;
    Lines lines;
    lines_open(&lines);
    b.count = item_groups(w, item, b.at);
    shifts(w, b.at, b.count, k);
    sums(w, b.at, b.count, 0, w->plan->runs, k, NULL, NULL, &s);
    finish(d, &b, k, &s);
    if (w->t->y && !w->blended)
        apply(w, b.at, b.count, b.f, &lines);
    lines_end(&lines);
}

/* After a take in reverse: what was taken last is still near. */
static void apply_item(void *context, ptrdiff_t item)
{
    const Drive *d = context;
    const Work *w = d->w;
    Fold f[TILE];
    Lines lines;
    ptrdiff_t at[STEPS];
    const ptrdiff_t count = item_groups(w, d->by == STAT ? w->items - 1 - item : item, at);
    for (ptrdiff_t g = 0; g < count; g++)
        f[g] = d->folds[at[d->by] + g * across(w->plan)->step[d->by]];
    apply(w, at, count, f, lines_open(&lines));
    lines_end(&lines);
}

/* Takes b while a is applied. */
static void turn(const Drive *d, const Batch *a, Batch *b, Lines *lines)
{
    const Work *w = d->w;
    Sums s;
    Applying meanwhile;
    applying(&meanwhile, a->at, a->count, a->f, lines);
    if (!a->plain)
        apply(w, a->at, a->count, a->f, lines);
    sums(w, b->at, b->count, 0, w->plan->runs, NULL, NULL, a->plain ? &meanwhile : NULL, &s);
    finish(d, b, NULL, &s);
}

static void pipe_item(void *context, ptrdiff_t item)
{
    const Drive *d = context;
    const Work *w = d->w;
    Batch two[2], *a = &two[0], *b = &two[1];
    Lines lines;
    ptrdiff_t at[STEPS];
    const ptrdiff_t groups = item_groups(w, item, at);
    lines_open(&lines);
    a->count = a->plain = 0;
    for (ptrdiff_t g = 0; g < groups; g += w->turn) {
        const Place here = nth(w, at, g);
        memcpy(b->at, here.at, sizeof b->at);
        b->count = groups - g < w->turn ? groups - g : w->turn;
        turn(d, a, b, &lines);
        Batch *next = a;
        a = b;
        b = next;
    }
    apply(w, a->at, a->count, a->f, &lines);
    lines_end(&lines);
}

static int by_group(const Work *w)
{
    const Job *job = w->job;
    Moment *own = NULL, *moments = job->moments;
    if (job->channels && !moments &&
        !(moments = own = malloc((size_t)w->plan->groups * sizeof *own)))
        return -1;
    parallel(w->items, w->piped ? pipe_item : take_item, &(Drive){w, moments, NULL, STAT});
    if (job->channels) {
        const Grid g = grid(job, w->plan->groups);
        report(w, &g, moments, job->channels);
    }
    free(own);
    return 0;
}

/* Switchable: the instance moments, blended. */
static int blend_all(const Work *w, const Grid *g, Fold *folds)
{
    const Job *job = w->job;
    Moment *own = malloc((size_t)w->plan->groups * sizeof *own);
    if (!own)
        return -1;
    parallel(w->items, take_item, &(Drive){w, own, NULL, STAT});
    for (ptrdiff_t i = 0; job->moments && i < w->plan->groups; i++)
        job->moments[i] = own[i];
    const int e = blend_units(w, own);
    const int failed = blend(w, g, own, e, folds, job->channels);
    free(own);
    return failed;
}

/* Statistics of all groups first, then every group is applied. */
static int by_phase(const Work *w)
{
    const Job *job = w->job;
    const int blended = w->blended;
    const Grid g = grid(job, w->plan->groups);
    Fold *folds = malloc((size_t)(blended ? w->plan->groups : g.channels) * sizeof *folds);
    int failed = !folds;
    if (!failed && blended)
        failed = blend_all(w, &g, folds);
    else if (!failed)
        fold_given(w, g.channels, folds);
    if (!failed && job->t.y)
        parallel(w->items, apply_item, &(Drive){w, NULL, folds, blended ? STAT : PARAM});
    free(folds);
    return failed ? -1 : 0;
}

int norm_forward(const Job *job)
{
    Plan plan;
    Work w;
    void *owned;
    if (work_open(&w, &plan, job, &owned) < 0)
        return -1;
    if (plan.groups * plan.runs * plan.n == 0) {
        for (ptrdiff_t g = 0; job->moments && g < plan.groups; g++)
            job->moments[g] = (Moment){0};
        for (ptrdiff_t c = 0; job->channels && c < job->t.shape[job->axis]; c++)
            job->channels[c] = (ChannelStat){.keep = 1};
        return 0;
    }
    const FpState saved = fp_enter();
    const int failed = w.blended || job->given_mean ? by_phase(&w) : by_group(&w);
    cpu_stream_end();
    fp_leave(saved);
    free(owned);
    return failed;
}
