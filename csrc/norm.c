/* The table of norms: which elements share; a job as a plan and items of work. */
#include "norm.h"
#include "cpu.h"
#include "work.h"
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

/* Which elements share a mean, and along what the weight runs. The channel norms see x as (N, C,
 * P), wherever the channel axis stands; the others share the axes that the job names. */
static const struct {
    char channels;         /* (N, C, P); else the job's axes, along which the weight runs */
    char over_n, over_p;   /* which of them share */
    char split;            /* C is num_groups groups of channels, which share: parts, or a run */
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

/* (N, C): the rest is one element. */
static int flat(const Job *job)
{
    const ptrdiff_t examples = job->t.ndim > 1 ? job->t.shape[job->axis == 0] : 1;
    ptrdiff_t elements = 1;
    for (int i = 0; i < job->t.ndim; i++)
        elements *= job->t.shape[i];
    return elements == examples * job->t.shape[job->axis];
}

/* Are channels, which share, groups of the plan? */
static int parted(const Job *job)
{
    return table[job->kind].split && !flat(job) && job->num_groups < job->t.shape[job->axis];
}

int walked(const Job *job)
{
    return job->given_mean && !job->t.g && !table[job->kind].blended;
}

/* A run is what one channel has of an example, or, if that is one element, of all; but for the
 * gradients of the parameters. */
static int shares_n(const Job *job)
{
    return walked(job) ? flat(job) : table[job->kind].over_n;
}

/* (N, C, P): the first axis that is not the channels, the channels, the rest. */
static int channel_axes(const Job *job, Loop *axes, char *shared)
{
    const int first = job->axis == 0;
    int n = 0;
    if (job->t.ndim > 1) {
        axis_loop(&job->t, first, &axes[n]);
        shared[n++] = (char)shares_n(job);
    }
    axis_loop(&job->t, job->axis, &axes[n]);
    axes[n].step[PARAM] = 1;
    shared[n++] = 0;
    if (table[job->kind].split && flat(job)) { /* (C) -> (groups, C / groups) */
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
        axis_loop(&job->t, i, &axes[n]);
        shared[n++] = table[job->kind].over_p;
    }
    return n;
}

static int named_axes(const Job *job, Loop *axes, char *shared)
{
    ptrdiff_t along = 1;
    for (int i = job->t.ndim - 1; i >= 0; i--) {
        axis_loop(&job->t, i, &axes[i]);
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
        table[job->kind].channels && !parted(job) && job->axis == 0 && naxes > 1 && !shared[0];
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

/* Is each 0, or between 1 / MILD and MILD? */
static int mild(const Work *w, const void *values, ptrdiff_t n)
{
    int all = 1;
    if (w->t->dtype == F64)
        for (ptrdiff_t i = 0; values && i < n; i++) {
            const double size = fabs(((const double *)values)[i]);
            all &= (size >= 1 / MILD && size <= MILD) || size == 0;
        }
    else
        for (ptrdiff_t i = 0; values && i < n; i++) {
            const float size = fabsf(((const float *)values)[i]);
            all &= (size >= (float)(1 / MILD) && size <= (float)MILD) || size == 0;
        }
    return all;
}

/* Both parameters or neither along the elements of a run: what is missing is made. */
static int parameters_of(Work *w, ptrdiff_t n)
{
    const Job *job = w->job;
    w->weight = job->weight;
    w->bias = job->bias;
    w->vector = w->plan->vector && (job->weight || job->bias || job->t.g);
    if (w->vector && !(job->weight && (job->bias || job->t.g))) {
        w->owned = calloc((size_t)n, (size_t)arithsize(job->t.dtype));
        if (!w->owned)
            return -1;
        for (ptrdiff_t i = 0; !job->weight && i < n; i++)
            put(w, w->owned, i, 1);
        if (job->weight)
            w->bias = w->owned;
        else
            w->weight = w->owned;
    }
    w->mild = !w->vector && !w->t->g && mild(w, job->weight, n) && mild(w, job->bias, n);
    if (w->vector &&
        !w->t->g) { /* halves have no flat term in their bound for what float loses near zero */
        const int half = w->t->dtype < F32;
        w->far = (job->bias && any_above(w, job->bias, n, limits(w).far)) ||
                 (half && job->weight && any_above(w, job->weight, n, 0x1p30));
    }
    return 0;
}

/* Of ReLU. What rounds to -0 stays that, as it does where it is rounded first. */
static double cut_of(const Job *job)
{
    static const double zero[DTYPES] = {[F16] = -0x1p-25, [BF16] = -0x1p-134};
    return job->relu ? zero[job->t.dtype] : -INFINITY;
}

static ptrdiff_t tile_of(const Plan *p)
{
    if (!p->pack)
        return TILE;
    if (p->form == COLS) /* rows for all lanes */
        return BLOCK / LANES;
    const ptrdiff_t total = p->runs * p->n, few = total < BLOCK ? BLOCK / total : 1;
    return few < TILE ? few : TILE;
}

/* Groups of an item: many, for each waits for the statistics of its own groups, or of the item
 * before; so many that they stay in the second cache. Long rows of a pipeline come by several, for
 * their parameters to be near for all. */
static ptrdiff_t batch_of(const Work *w, const Plan *p)
{
    enum { FEW = 3072, FORWARD = 8192, GRADIENT = 1 << 14, FAR = 1 << 14 };
    const int waits = !p->pack && (w->t->g || !w->job->given_mean);
    const ptrdiff_t total = p->runs * p->n;
    const ptrdiff_t near = (!waits ? FEW : w->t->g ? GRADIENT : FORWARD) / total;
    const int far = w->piped && w->vector && total <= FAR && !w->job->sum;
    const ptrdiff_t least = far ? 4 : 1;
    const ptrdiff_t most = w->piped && p->run[0].step[PARAM] ? KEPT : w->tile;
    const ptrdiff_t batch = p->form == COLS || near > most ? most : near < least ? least : near;
    return batch < w->parts ? w->parts : means(w, batch) * w->parts;
}

/* Are the groups of an item applied while the next are taken, in one walk of both? */
static int pipes(const Work *w, const Plan *p)
{
    const Job *job = w->job;
    const int rows = p->form == ROWS && !p->pack && job->t.dtype != F64 && job->t.y && !job->t.g;
    const int own = w->vector && across(p)->step[PARAM]; /* parameters along each one's elements */
    const int fits = 2 * w->parts * p->runs * p->n * itemsize(job->t.dtype) <= cpu_cache_bytes();
    return rows && fits && w->parts <= TILE && !own && !w->blended && !job->given_mean;
}

/* Are the groups of an item packed once? */
static int keeps(const Work *w, const Plan *p)
{
    const int taken = !w->blended && !w->job->given_mean && !w->t->g;
    return p->form == ROWS && p->pack && taken && w->t->y && w->batch <= w->tile &&
           w->batch * p->runs * p->n * arithsize(w->t->dtype) <= (ptrdiff_t)sizeof(Scratch);
}

/* The plan knows of the sum. */
static int terms_aligned(const Tensors *s)
{
    const ptrdiff_t bits = (ptrdiff_t)((uintptr_t)s->x | (uintptr_t)s->g);
    return (bits & (itemsize(s->dtype) - 1)) == 0;
}

/* Is x made item by item? Rows that lie alike in all three; else, before anything is taken. */
static int adds(const Work *w, const Plan *p)
{
    const Tensors *s = w->job->sum, *t = w->t;
    if (!s || p->form != ROWS || p->pack || w->inside > 1 || s->swapped || s->gswapped ||
        s->gdtype != s->dtype || !terms_aligned(s))
        return 0;
    for (int i = 0; i < t->ndim; i++)
        if (t->shape[i] > 1 && (s->xstep[i] != t->xstep[i] || s->gstep[i] != t->xstep[i]))
            return 0;
    return 1;
}

/* Is a sum too large for the caches? Rows of an item follow each other. */
static int goes_past(const Work *w, const Plan *p)
{
    const ptrdiff_t row = p->n * itemsize(w->t->dtype);
    return w->stream && p->runs == 1 && across(p)->step[X] == row &&
           w->batch * row <= (ptrdiff_t)sizeof(Scratch);
}

int share_insides(Work *w, ptrdiff_t items)
{
    enum { TABLE = 1 << 16 }; /* bytes of sums at a time */
    if (w->threads == 1)
        return 0;
    const ptrdiff_t rounds = (items - 1) / w->threads + 1;
    if (4 * items >= 3 * rounds * w->threads) /* three quarters of their time is used */
        return 0;
    const ptrdiff_t most = w->batch < w->tile ? w->batch : w->tile;
    const ptrdiff_t all = w->blocks[w->t->g && w->plan->vector].spans; /* the most */
    const ptrdiff_t size = most * (ptrdiff_t)sizeof *w->spans, fit = (TABLE - 1) / size + 1;
    w->room = all < fit ? all : fit;
    w->spans = malloc((size_t)(w->room * size));
    w->inside = w->threads;
    w->threads = 1;
    return w->spans ? 0 : -1;
}

void work_close(Work *w)
{
    free(w->spans);
    free(w->owned);
}

static Finish finish_of(const Work *w)
{
    const Limits l = limits(w);
    const ptrdiff_t n = w->parts * w->plan->runs * w->plan->n;
    const double inverse = n & (n - 1) ? 0 : 1 / (double)n;
    return (Finish){inverse, w->job->eps, l.far, l.least, l.most, w->centred};
}

/* So many bytes of rows are under way. */
static ptrdiff_t ahead_of(const Plan *p, ptrdiff_t size)
{
    enum { AHEAD = 8192 };
    const ptrdiff_t bytes = p->n * size,
                    step = p->runs > 1 ? p->run[0].step[X] : across(p)->step[X];
    return bytes < AHEAD ? (AHEAD / bytes + 1) * step : bytes < 4 * AHEAD ? step : AHEAD;
}

int work_open(Work *w, Plan *plan, const Job *job)
{
    Loop axes[MAXLOOPS + 1];
    char shared[MAXLOOPS + 1];
    const int channels = table[job->kind].channels;
    const int naxes = channels ? channel_axes(job, axes, shared) : named_axes(job, axes, shared);
    *w = (Work){.t = &job->t,
                .plan = plan,
                .job = job,
                .kernels = kernels(job->t.dtype),
                .parts = parted(job) ? job->t.shape[job->axis] / job->num_groups : 1,
                .cut = cut_of(job),
                .centred = table[job->kind].centred,
                .blended = table[job->kind].blended};
    number_statistics(job, naxes, axes, shared);
    /* a parameter's gradient is summed over groups in their order, where the weight runs along
     * them; parts are neighbours */
    plan_make(plan, naxes, axes, shared, &job->t,
              parted(job) ? 0 : !job->t.g || (channels && !table[job->kind].split));
    if (plan->groups * plan->runs * plan->n == 0)
        return 0;
    if (parameters_of(w, norm_parameters(job)) < 0)
        return -1;
    w->walk = plan->pack && job->t.dtype < F32 ? kernels(F32) : w->kernels;
    const ptrdiff_t bytes = plan->groups * plan->runs * plan->n * itemsize(job->t.dtype);
    w->stream = job->t.dtype >= F32 && job->t.y && job->t.y != job->t.x && !plan->pack &&
                bytes * (job->t.g ? 3 : 2) > cpu_stream_bytes();
    blocks_of(plan, 0, &w->blocks[0]);
    if (job->t.g && plan->vector)
        blocks_of(plan, 1, &w->blocks[1]);
    w->ahead = ahead_of(plan, itemsize(job->t.dtype));
    w->finish = finish_of(w);
    w->piped = pipes(w, plan);
    w->tile = tile_of(plan);
    make_items(w, batch_of(w, plan));
    w->kept = keeps(w, plan);
    if ((!job->t.g || !w->vector) && share_insides(w, w->items) < 0) {
        work_close(w);
        return -1;
    }
    w->piped = w->piped && w->inside == 1;
    w->kept = w->kept && w->inside == 1;
    w->added = adds(w, plan);
    w->past = w->added && w->piped && goes_past(w, plan);
    w->summed = w->added && w->piped && job->t.dtype == F32 && !w->past;
    w->added = w->added && !w->summed;
    return 0;
}
