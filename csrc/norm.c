/* The table of norms, and the two drivers. */
#include "norm.h"
#include "cpu.h"
#include "threads.h"
#include "work.h"
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

/* Which elements share a mean, and along what the weight runs. The channel norms see x as (N, C,
 * P), wherever the channel axis stands; the others share the axes that the job names. */
static const struct {
    char channels;         /* (N, C, P); else the job's axes, along which the weight runs */
    char over_n, over_p;   /* which of them share */
    char split;            /* C is num_groups groups of channels, which share */
    char centred, blended; /* blended: between take and apply, instance, layer and batch */
} table[NORMS] = {
    [BATCH] = {.channels = 1, .over_n = 1, .over_p = 1, .centred = 1},
    [INSTANCE] = {.channels = 1, .over_p = 1, .centred = 1},
    [GROUP] = {.channels = 1, .over_p = 1, .split = 1, .centred = 1},
    [SWITCHABLE] = {.channels = 1, .over_p = 1, .centred = 1, .blended = 1},
    [LAYER] = {.centred = 1},
    [RMS] = {.centred = 0},
};

int norm_centred(NormKind kind)
{
    return table[kind].centred;
}

int norm_has_channels(NormKind kind)
{
    return table[kind].channels;
}

ptrdiff_t norm_groups(const Job *job, ptrdiff_t *shape)
{
    ptrdiff_t groups = 1;
    for (int i = 0; i < job->t.ndim; i++) {
        const int kept = !table[job->kind].channels ? !job->reduce[i]
                         : i == job->axis           ? 1
                                          : i == (job->axis == 0) && !table[job->kind].over_n;
        shape[i] = kept ? job->t.shape[i] : 1;
        if (table[job->kind].split && i == job->axis)
            shape[i] = job->num_groups;
        groups *= shape[i];
    }
    return groups;
}

ptrdiff_t norm_parameters(const Job *job)
{
    ptrdiff_t n = 1;
    if (table[job->kind].channels)
        return job->t.shape[job->axis];
    for (int i = 0; i < job->t.ndim; i++)
        n *= job->reduce[i] ? job->t.shape[i] : 1;
    return n;
}

/* ---- axes ---------------------------------------------------------------------------- */

/* (N, C, P): the first axis that is not the channels, the channels, the rest. Where the statistics
 * are given nothing is taken, and x is walked as it lies; but for the gradients of the parameters.
 */
static int channel_axes(const Job *job, Loop *axes, char *shared)
{
    const int first = job->axis == 0;
    int n = 0;
    if (job->t.ndim > 1) {
        axes[n] = axis_loop(&job->t, first);
        shared[n++] = table[job->kind].over_n && (!job->given_mean || job->t.g);
    }
    axes[n] = axis_loop(&job->t, job->axis);
    axes[n].step[PARAM] = 1;
    shared[n++] = 0;
    if (table[job->kind].split) { /* (C) -> (groups, C / groups) */
        axes[n] = axes[n - 1];
        axes[n].n /= job->num_groups;
        shared[n++] = 1;
        axes[n - 2].n = job->num_groups;
        for (int s = 0; s < STEPS; s++)
            axes[n - 2].step[s] *= axes[n - 1].n;
    }
    for (int i = first + 1; i < job->t.ndim; i++) {
        if (i == job->axis)
            continue;
        axes[n] = axis_loop(&job->t, i);
        shared[n++] = table[job->kind].over_p;
    }
    return n;
}

static int named_axes(const Job *job, Loop *axes, char *shared)
{
    ptrdiff_t along = 1;
    for (int i = job->t.ndim - 1; i >= 0; i--) {
        axes[i] = axis_loop(&job->t, i);
        shared[i] = job->reduce[i];
        if (shared[i]) {
            axes[i].step[PARAM] = along;
            along *= axes[i].n;
        }
    }
    return job->t.ndim;
}

/* Statistics are stored in the order of the kept axes as they stand in x: where the channels come
 * first, (C, N). */
static void number_statistics(const Job *job, int naxes, Loop *axes, const char *shared)
{
    const int channels_first =
        table[job->kind].channels && job->axis == 0 && naxes > 1 && !shared[0];
    ptrdiff_t along = 1;
    for (int i = naxes - 1; i >= 0; i--)
        if (!shared[i] && !(channels_first && i == 1)) {
            axes[i].step[STAT] = along;
            along *= axes[i].n;
        }
    if (channels_first)
        axes[1].step[STAT] = along;
}

Grid grid(const Job *job, ptrdiff_t groups)
{
    const ptrdiff_t channels = job->t.shape[job->axis], instances = groups / channels;
    return job->axis == 0 ? (Grid){instances, channels, 1, instances}
                          : (Grid){instances, channels, channels, 1};
}

/* ---- one call's work ----------------------------------------------------------------- */

/* Is any magnitude at least `most`, or NaN? In the type itself, so that the loop is a vector's. */
static int any_above(const Work *w, const void *values, ptrdiff_t n, double most)
{
    int above = 0;
    if (w->t->dtype == F64)
        for (ptrdiff_t i = 0; i < n; i++)
            above |= !(fabs(((const double *)values)[i]) < most);
    else
        for (ptrdiff_t i = 0; i < n; i++)
            above |= !(fabsf(((const float *)values)[i]) < (float)most);
    return above;
}

/* Both parameters or neither along the elements of a run: what is missing is filled into *owned. */
static int parameters_of(Work *w, ptrdiff_t n, void **owned)
{
    const Job *job = w->job;
    w->weight = job->weight;
    w->bias = job->bias;
    w->vector = w->plan->vector && (job->weight || job->bias || job->t.g);
    if (w->vector && !(job->weight && (job->bias || job->t.g))) {
        *owned = calloc((size_t)n, (size_t)arithsize(job->t.dtype));
        if (!*owned)
            return -1;
        for (ptrdiff_t i = 0; !job->weight && i < n; i++)
            put(w, *owned, i, 1);
        if (job->weight)
            w->bias = *owned;
        else
            w->weight = *owned;
    }
    if (w->vector &&
        !w->t->g) { /* halves have no flat term in their bound for what float loses near zero */
        const int half = w->t->dtype < F32;
        w->far = (job->bias && any_above(w, job->bias, n, limits(w).far)) ||
                 (half && job->weight && any_above(w, job->weight, n, 0x1p30));
    }
    return 0;
}

/* ---- drivers ------------------------------------------------------------------------- */

typedef struct {
    const Work *w;
    Moment *moments;   /* by STAT; NULL: not wanted */
    const Fold *folds; /* by_phase; by STAT, or by PARAM where the statistics are given */
    int by;
} Drive;

/* Takes an item's moments, and, by_group, applies them while the data are still near. */
static void take_item(void *context, ptrdiff_t item)
{
    const Drive *d = context;
    const Work *w = d->w;
    Moment m[TILE];
    Fold f[TILE];
    ptrdiff_t at[STEPS];
    const ptrdiff_t count = item_groups(w, item, at), step = across(w->plan)->step[STAT];
    take(w, at, count, m);
    for (ptrdiff_t g = 0; d->moments && g < count; g++)
        d->moments[at[STAT] + g * step] = m[g];
    if (!w->t->y || w->blended)
        return;
    for (ptrdiff_t g = 0; g < count; g++)
        f[g] = fold(w, &m[g]);
    apply(w, at, count, f);
}

/* After a take in reverse: what was taken last is still near. */
static void apply_item(void *context, ptrdiff_t item)
{
    const Drive *d = context;
    const Work *w = d->w;
    Fold f[TILE];
    ptrdiff_t at[STEPS];
    const ptrdiff_t count = item_groups(w, d->by == STAT ? w->items - 1 - item : item, at);
    for (ptrdiff_t g = 0; g < count; g++)
        f[g] = d->folds[at[d->by] + g * across(w->plan)->step[d->by]];
    apply(w, at, count, f);
}

/* Each item's groups are taken, folded and applied before the next. */
static int by_group(const Work *w)
{
    const Job *job = w->job;
    Moment *own = NULL, *moments = job->moments;
    if (job->channels && !moments &&
        !(moments = own = malloc((size_t)w->plan->groups * sizeof *own)))
        return -1;
    parallel(w->items, take_item, &(Drive){w, moments, NULL, STAT});
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

int work_open(Work *w, Plan *plan, const Job *job, void **owned)
{
    enum { NEAR = 3072 }; /* elements of an item of rows: x and y together stay in L1 */
    Loop axes[MAXLOOPS + 1];
    char shared[MAXLOOPS + 1];
    const int channels = table[job->kind].channels;
    const int naxes = channels ? channel_axes(job, axes, shared) : named_axes(job, axes, shared);
    *owned = NULL;
    *w = (Work){.t = &job->t,
                .plan = plan,
                .job = job,
                .kernels = kernels(job->t.dtype),
                .centred = table[job->kind].centred,
                .blended = table[job->kind].blended};
    number_statistics(job, naxes, axes, shared);
    /* a parameter's gradient is summed over groups in their order, where the weight runs along them
     */
    plan_make(plan, naxes, axes, shared, &job->t,
              !job->t.g || (channels && !table[job->kind].split));
    if (plan->groups * plan->runs * plan->n == 0)
        return 0;
    if (parameters_of(w, norm_parameters(job), owned) < 0)
        return -1;
    w->rows = plan->pack && job->t.dtype < F32 ? kernels(F32) : w->kernels;
    const ptrdiff_t bytes = plan->groups * plan->runs * plan->n * itemsize(job->t.dtype);
    w->stream = job->t.y && job->t.y != job->t.x && !plan->pack &&
                bytes * (job->t.g ? 3 : 2) > cpu_stream_bytes();
    const ptrdiff_t near = NEAR / (plan->runs * plan->n);
    make_items(w, plan->form == COLS || near > TILE ? TILE : near < 1 ? 1 : near);
    return 0;
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
