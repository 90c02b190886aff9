/* The drivers of the forward: plan -> moments -> fold -> apply.
 *
 * by_group   a pipeline: while an item is applied, the next is taken, in one walk of both (rows),
 *            or each item is taken and applied before the next
 * by_phase   statistics of all groups first: they are blended
 * by_channel   they are given */
#include "cpu.h"
#include "plans.h"
#include <stdlib.h>

typedef struct {
    const Work *w;
    Moment *moments;   /* by STAT; NULL: not wanted */
    const Fold *folds; /* by_phase; by STAT, or by PARAM where the statistics are given */
    int by;
} Drive;

/* Neighbouring groups on their way: taken and finished, to be applied. */
typedef struct {
    ptrdiff_t at[STEPS], count;
    Scratch *kept; /* where their x is made; NULL: where it lies */
    int plain;     /* the kernels carry them all */
    int made;      /* with what is there; else with what the folds will make */
    Affine with;
    Statistics own;
    Fold f[TILE];
    _Alignas(LINE) double params[4 * TILE]; /* of the arithmetic type */
} Batch;

/* Of all at once, if nothing stands in their way. */
static int finish_quick(const Work *w, const double *k, ptrdiff_t count, const Sums *s,
                        Statistics *to)
{
    return !s->masked && w->kernels->finish(s, k, count, &w->finish, to);
}

/* What kernels take of them without a fold: they have no parameters, or one each that is mild. */
static int finish_made(const Work *w, ptrdiff_t count, Batch *b)
{
    static const Values none;
    const int bare = w->vector ? !w->far : !w->weight && !w->bias;
    const Statistics *own = &b->own;
    if (bare && w->parts == 1) {
        b->with = (Affine){.hi = &own->hi,
                           .lo = &own->lo,
                           .scale = &own->scale,
                           .shift = &none,
                           .cut = w->cut,
                           .stream = w->stream};
        return 1;
    }
    if (w->vector || !w->mild || across(w->plan)->step[PARAM] != 1)
        return 0;
    b->with = (Affine){.hi = b->params,
                       .lo = parameters(w, b->params, TILE),
                       .scale = parameters(w, b->params, 2 * TILE),
                       .shift = parameters(w, b->params, 3 * TILE),
                       .cut = w->cut,
                       .stream = w->stream};
    return w->kernels->fold_params(own, count, w->parts, parameters(w, w->weight, b->at[PARAM]),
                                   parameters(w, w->bias, b->at[PARAM]), b->params, TILE);
}

static void finish(const Drive *d, Batch *b, double *k, Sums *s)
{
    const Work *w = d->w;
    const Statistics *own = &b->own;
    const ptrdiff_t count = means(w, b->count);
    Moment m[TILE];
    const int quick = finish_quick(w, k, count, s, &b->own);
    if (!quick)
        settle(w, b->at, count, k, s, m);
    const int made = !w->kept && !w->blended;
    b->made = quick && made && b->count <= w->tile && finish_made(w, count, b);
    for (ptrdiff_t g = 0; g < count && !b->made; g++)
        if (quick)
            b->f[g] = (Fold){.hi = get(w, &own->hi, g), .lo = own->rest[g], .rstd = own->rstd[g]};
        else
            fold(w, &m[g], &b->f[g]);
    for (ptrdiff_t g = 0, at = stat_of(w, b->at); d->moments && g < count; g++) {
        d->moments[at] =
            quick ? (Moment){s->n, own->mean[g], w->t->dtype == F64 ? own->rest[g] : 0, own->m2[g]}
                  : m[g];
        at += stat_step(w);
    }
    if (!b->made)
        spread(w, b->at, b->count, b->f);
    b->plain = b->made || (w->piped && all_carried(w, b->at, b->count, b->f));
}

/* Makes x of an item's groups, from two terms. */
static void add_in(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, Scratch *kept)
{
    const Plan *p = w->plan;
    const Tensors *s = w->job->sum;
    const ptrdiff_t n = p->n * itemsize(s->dtype), step = across(p)->step[X];
    const int dense = p->runs == 1 && step == n; /* as one */
    for (ptrdiff_t g = 0; g < (dense ? count > 0 : count); g++)
        for (ptrdiff_t run = 0; run < p->runs; run++) {
            const ptrdiff_t here = at[X] + g * step + run * p->run[0].step[X];
            w->kernels->add_rows(s->x + here, s->g + here, s->y + here, dense ? count * p->n : p->n,
                                 kept ? kept->bytes + g * n : NULL);
        }
}

/* Takes an item's moments, and, by_group, applies them while the data are still near. */
static OWN_FRAME void take_in(const Drive *d, ptrdiff_t item, Lines *lines, Scratch *kept)
{
    const Work *w = d->w;
    _Alignas(LINE) double k[TILE];
    Sums s;
    Batch b;
    b.count = item_groups(w, item, b.at);
    if (w->added)
        add_in(w, b.at, b.count, NULL);
    take_sums(w, b.at, means(w, b.count), kept, k, &s);
    finish(d, &b, k, &s);
    if (w->t->y && b.made)
        apply_made(w, b.at, b.count, &b.with, lines);
    else if (w->t->y && !w->blended)
        apply(w, b.at, b.count, b.f, lines, kept);
}

static OWN_FRAME void take_packed(const Drive *d, ptrdiff_t item, Lines *lines)
{
    Scratch kept;
    take_in(d, item, lines, &kept);
}

static void take_items(void *context, Share *share)
{
    const Drive *d = context;
    Lines lines;
    lines_open(&lines);
    for (ptrdiff_t item; next_item(share, &item);)
        if (d->w->kept)
            take_packed(d, item, &lines);
        else
            take_in(d, item, &lines, NULL);
    lines_end(&lines);
}

/* After a take in reverse: what was taken last is still near. */
static OWN_FRAME void apply_item(const Drive *d, ptrdiff_t item, Lines *lines)
{
    const Work *w = d->w;
    Fold own[TILE];
    ptrdiff_t at[STEPS];
    const ptrdiff_t count = item_groups(w, d->by == STAT ? w->items - 1 - item : item, at);
    if (w->table && w->plan->form == ROWS && !w->plan->pack && w->inside == 1) {
        apply_tabled(w, at, count, lines);
        return;
    }
    const ptrdiff_t step = across(w->plan)->step[d->by];
    const Fold *f = d->folds ? d->folds + at[d->by] : NULL; /* there is a table */
    for (ptrdiff_t g = 0; g < count && step != 1; g++)
        own[g] = f[g * step];
    apply(w, at, count, step == 1 ? f : own, lines, NULL);
}

static void apply_items(void *context, Share *share)
{
    Lines lines;
    lines_open(&lines);
    for (ptrdiff_t item; next_item(share, &item);)
        apply_item(context, item, &lines);
    lines_end(&lines);
}

/* Takes b while a is applied; either may be empty, of count 0. */
static OWN_FRAME void turn(const Drive *d, const Batch *a, Batch *b, Lines *lines)
{
    const Work *w = d->w;
    Sums s;
    Applying meanwhile;
    const int both = a->count && a->plain;
    const Summing how = {.meanwhile = both ? &meanwhile : NULL, .kept = b->kept, .adds = w->summed};
    if (w->added)
        add_in(w, b->at, b->count, b->kept);
    if (both)
        applying(&meanwhile, a->at, a->count, a->f, a->made ? &a->with : NULL, a->kept, lines);
    else if (a->count)
        apply(w, a->at, a->count, a->f, lines, NULL);
    if (b->count) {
        sum_shared(w, b->at, means(w, b->count), &how, &s);
        finish(d, b, NULL, &s);
    } else if (both) {
        apply_rows(w, &meanwhile, 0, NULL);
    }
}

static OWN_FRAME void pipe(const Drive *d, Share *share, Scratch *kept)
{
    const Work *w = d->w;
    Batch two[2], *a = &two[0], *b = &two[1];
    Lines lines;
    a->kept = kept;
    b->kept = kept ? kept + 1 : NULL;
    lines_open(&lines);
    a->count = 0;
    for (ptrdiff_t item, more = 1; more;) {
        more = next_item(share, &item);
        b->count = more ? item_groups(w, item, b->at) : 0;
        turn(d, a, b, &lines);
        Batch *next = a;
        a = b;
        b = next;
    }
    lines_end(&lines);
}

static OWN_FRAME void pipe_sums(const Drive *d, Share *share)
{
    Scratch two[2];
    pipe(d, share, two);
}

static void pipe_items(void *context, Share *share)
{
    const Drive *d = context;
    if (d->w->past)
        pipe_sums(d, share);
    else
        pipe(d, share, NULL);
}

/* One item is all there is, and nothing to pipe. */
static void take_one(void *context, Share *share)
{
    const Drive *d = context;
    const Work *w = d->w;
    Sums s;
    Batch b;
    Applying now;
    Lines lines, *to = w->stream ? lines_open(&lines) : NULL;
    (void)share;
    b.count = item_groups(w, 0, b.at);
    sum_shared(w, b.at, means(w, b.count), &(Summing){.k = NULL}, &s);
    finish(d, &b, NULL, &s);
    if (b.plain) {
        applying(&now, b.at, b.count, b.f, b.made ? &b.with : NULL, NULL, to);
        apply_rows(w, &now, 0, NULL);
    } else {
        apply(w, b.at, b.count, b.f, to, NULL);
    }
    if (to)
        lines_end(to);
}

static int by_group(const Work *w)
{
    const Job *job = w->job;
    Moment *own = NULL, *moments = job->moments;
    if (job->channels && !moments &&
        !(moments = own = malloc((size_t)w->plan->groups * sizeof *own)))
        return -1;
    Worker *const piping = w->items == 1 && !job->sum ? take_one : pipe_items;
    parallel(w->threads, w->items, w->piped ? piping : take_items,
             &(Drive){w, moments, NULL, STAT});
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
    parallel(w->threads, w->items, take_items, &(Drive){w, own, NULL, STAT});
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
    const Grid g = grid(w->job, w->plan->groups);
    Fold *folds = malloc((size_t)w->plan->groups * sizeof *folds);
    const int failed = !folds || blend_all(w, &g, folds);
    if (!failed && w->t->y)
        parallel(w->threads, w->items, apply_items, &(Drive){w, NULL, folds, STAT});
    free(folds);
    return failed ? -1 : 0;
}

/* The statistics are given. What every channel is made with, if nothing stands in the way of any;
 * values: four rows of `pitch`. */
static int tabulate_quick(Work *w, ptrdiff_t channels, void *values, ptrdiff_t pitch)
{
    const Job *job = w->job;
    if (w->plan->pack || !w->mild || across(w->plan)->step[PARAM] != 1)
        return 0;
    for (ptrdiff_t c = 0; c < channels; c += TILE) {
        const ptrdiff_t n = channels - c < TILE ? channels - c : TILE;
        Statistics s;
        if (!w->kernels->fold_channels(job->given_mean + c, job->given_var + c, n, &w->finish,
                                       &s) ||
            !w->kernels->fold_params(&s, n, 1, parameters(w, w->weight, c),
                                     parameters(w, w->bias, c),
                                     (char *)values + c * arithsize(w->t->dtype), pitch))
            return 0;
    }
    w->table = values;
    w->pitch = pitch;
    return 1;
}

static int by_channel(Work *w)
{
    const ptrdiff_t channels = w->t->shape[w->job->axis];
    const ptrdiff_t pitch = (channels + LINE - 1) / LINE * LINE; /* whole lines, of any type */
    const ptrdiff_t table = ROWS_OF_PARAMS * arithsize(w->t->dtype) * pitch;
    const int few = channels <= TILE;
    _Alignas(LINE) double own[4 * TILE]; /* of the arithmetic type */
    char *room = NULL;                   /* of a table, and folds after it */
    Fold *folds = NULL;
    if (!few || !tabulate_quick(w, channels, own, pitch)) {
        if (!(room = aligned_alloc(LINE, (size_t)(table + pitch * (ptrdiff_t)sizeof *folds))))
            return -1;
        if (few || !tabulate_quick(w, channels, room, pitch)) {
            folds = (Fold *)(void *)(room + table);
            fold_given(w, channels, folds);
            tabulate(w, folds, channels, room);
        }
    }
    parallel(w->threads, w->items, apply_items, &(Drive){w, NULL, folds, PARAM});
    free(room);
    return 0;
}

int norm_forward(const Job *job)
{
    Planned own;
    Work *w = work_open(&own, job);
    if (!w)
        return -1;
    const Plan *plan = w->plan;
    if (plan->groups * plan->runs * plan->n == 0) {
        for (ptrdiff_t g = 0; job->moments && g < plan->groups / w->parts; g++)
            job->moments[g] = (Moment){0};
        for (ptrdiff_t c = 0; job->channels && c < job->t.shape[job->axis]; c++)
            job->channels[c] = (ChannelStat){.keep = 1};
        return 0;
    }
    const FpState saved = fp_enter();
    if (job->sum && !w->added && !w->summed)
        add_forward(job->sum);
    const int failed = w->blended ? by_phase(w) : job->given_mean ? by_channel(w) : by_group(w);
    if (w->stream)
        cpu_stream_end();
    fp_leave(saved);
    work_close(w);
    return failed;
}
