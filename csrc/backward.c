/* The drivers of the gradients: plan -> moments -> dots -> fold -> apply.
 *
 * Where a weight is one for a group, or one of its parts, their dots are all that its own gradient
 * needs; they are kept, and summed group by group at the end. Where weights run along the elements,
 * each is summed over groups in passing: in chunks of groups, joined in order. */
#include "backward.h"
#include "cpu.h"
#include "plans.h"
#include <stdlib.h>

enum { EACH = LINE / sizeof(double) };

/* As the forward folded them: groups, parts together. */
static void folds_of(const Drive *d, const ptrdiff_t at[STEPS], ptrdiff_t count, Moment *m, Fold *f)
{
    const Loop *row = across(d->w->plan);
    const ptrdiff_t stat = stat_of(d->w, at), step = stat_step(d->w);
    if (!d->folds && !d->moments)
        take(d->w, at, count, m);
    for (ptrdiff_t g = 0; g < count; g++) {
        if (!d->folds && d->moments)
            m[g] = d->moments[stat + g * step];
        if (d->folds)
            f[g] = d->folds[at[d->by] + g * row->step[d->by]];
        else
            fold(d->w, &m[g], &f[g]);
    }
}

/* Neighbouring groups; of blended ones the dots alone. */
static void back(const Drive *d, const ptrdiff_t at[STEPS], ptrdiff_t count, double *sums,
                 Lines *lines)
{
    const Work *w = d->w;
    const Loop *row = across(w->plan);
    const ptrdiff_t parts = w->parts, groups = count / parts, step = d->dots ? row->step[STAT] : 1;
    Moment m[TILE];
    Fold shared[TILE], each[TILE], *f = parts > 1 ? each : shared;
    Dot own[TILE], *dot = d->dots ? d->dots + at[STAT] : own;
    if (d->quick && back_quick(d, at, count, sums, lines))
        return;
    folds_of(d, at, groups, m, shared);
    if (parts > 1)
        memcpy(each, shared, (size_t)groups * sizeof *each);
    spread(w, at, count, f);
    for (ptrdiff_t g = 0; g < count; g += w->tile)
        dots(w, nth(w, at, g).at, count - g < w->tile ? count - g : w->tile,
             count > TILE ? f : f + g, dot + g * step, step, sums, d->pitch);
    if (w->blended)
        return;
    for (ptrdiff_t g = 0; g < groups && !d->folds; g++)
        fold_dots(w, at[PARAM] + g * parts * row->step[PARAM], dot + g * parts * step, m[g].count,
                  &shared[g]);
    spread(w, at, count, shared);
    apply(w, at, count, shared, lines, NULL);
}

/* One item after the other: lines of y that two have in common wait from one to the next. */
typedef void Step(const Drive *, const ptrdiff_t at[STEPS], ptrdiff_t count, Lines *);

static void by_item(const Drive *d, Share *share, Step *step)
{
    Lines lines;
    lines_open(&lines);
    for (ptrdiff_t item; next_item(share, &item);) {
        ptrdiff_t at[STEPS];
        const ptrdiff_t count = item_groups(d->w, item, at);
        step(d, at, count, &lines);
    }
    lines_end(&lines);
}

static void back_step(const Drive *d, const ptrdiff_t at[STEPS], ptrdiff_t count, Lines *lines)
{
    back(d, at, count, NULL, lines);
}

static void back_items(void *context, Share *share)
{
    by_item(context, share, back_step);
}

static void back_chunk(const Drive *d, ptrdiff_t chunk, Lines *lines)
{
    const Plan *p = d->w->plan;
    const ptrdiff_t most = d->w->chunk, first = chunk * most, row = across(p)->n;
    const ptrdiff_t last = p->groups - first < most ? p->groups : first + most;
    double *sums = d->sums + chunk * d->words * d->pitch;
    memset(sums, 0, (size_t)(d->words * d->pitch) * sizeof *sums);
    for (ptrdiff_t g = first, count; g < last; g += count) {
        const ptrdiff_t left = last - g < row - g % row ? last - g : row - g % row;
        ptrdiff_t at[STEPS] = {0};
        locate(p->kept, p->nkept, g, at);
        count = left < d->w->batch ? left : d->w->batch;
        back(d, at, count, sums, lines);
    }
}

static void back_chunks(void *context, Share *share)
{
    Lines lines;
    lines_open(&lines);
    for (ptrdiff_t chunk; next_item(share, &chunk);)
        back_chunk(context, chunk, &lines);
    lines_end(&lines);
}

static void dx_step(const Drive *d, const ptrdiff_t at[STEPS], ptrdiff_t count, Lines *lines)
{
    Moment m[TILE];
    Fold f[TILE];
    folds_of(d, at, count, m, f);
    apply(d->w, at, count, f, lines, NULL);
}

static void dx_items(void *context, Share *share)
{
    by_item(context, share, dx_step);
}

static void take_step(const Drive *d, const ptrdiff_t at[STEPS], ptrdiff_t count, Lines *lines)
{
    Moment m[TILE], *to = (Moment *)d->moments;
    const ptrdiff_t step = across(d->w->plan)->step[STAT];
    (void)lines;
    take(d->w, at, count, m);
    for (ptrdiff_t g = 0; g < count; g++)
        to[at[STAT] + g * step] = m[g];
}

static void take_items(void *context, Share *share)
{
    by_item(context, share, take_step);
}

/* ---- parameters ---------------------------------------------------------------------- */

/* Of the kept dots, in the order of groups: hi[2] and lo[2] of each parameter were 0. */
static void sum_dots(const Drive *d, double *hi, Gradient *job)
{
    const Dot *dot = d->dots;
    const Plan *p = d->w->plan;
    const Loop *row = across(p);
    const ptrdiff_t n = row->step[PARAM] == 1 && row->step[STAT] == 1 ? row->n : 1;
    double *lo = hi + 2 * d->params;
    for (ptrdiff_t first = 0; first < p->groups; first += row->n) {
        ptrdiff_t at[STEPS] = {0};
        locate(p->kept, p->nkept, first, at);
        for (ptrdiff_t g = 0; g < row->n; g += n) {
            const ptrdiff_t to = 2 * (at[PARAM] + g * row->step[PARAM]);
            d->w->kernels->join_rows(hi + to, lo + to, &dot[at[STAT] + g * row->step[STAT]].r,
                                     2 * n);
        }
    }
    for (ptrdiff_t i = 0; i < d->params; i++) {
        job->dbias[i] = total((Two){hi[2 * i], lo[2 * i]});
        job->dweight[i] = total((Two){hi[2 * i + 1], lo[2 * i + 1]});
    }
}

static void sum_chunks(const Drive *d, ptrdiff_t chunks, Gradient *job)
{
    const ptrdiff_t n = 2 * d->pitch;
    double *hi = d->sums + chunks * d->words * d->pitch, *lo = hi + n;
    memset(hi, 0, (size_t)(2 * n) * sizeof *hi);
    for (ptrdiff_t i = 0; i < chunks * d->words / 2; i++)
        d->w->kernels->join_rows(hi, lo, d->sums + i * n, n);
    for (ptrdiff_t i = 0; i < d->params; i++) {
        job->dweight[i] = total((Two){hi[i], lo[i]});
        job->dbias[i] = total((Two){hi[d->pitch + i], lo[d->pitch + i]});
    }
}

/* ---- drivers ------------------------------------------------------------------------- */

/* Elements of one weight each, group after group. */
static int by_chunk(Drive *d, Work *w, Gradient *job)
{
    const ptrdiff_t chunks = chunks_of(w);
    d->words = d->w->t->dtype == F64 ? 4 : 2;
    d->pitch = (d->params + EACH - 1) / EACH * EACH;
    const size_t size = (size_t)((1 + chunks * d->words + 4) * d->pitch) * sizeof *d->sums;
    double *rows = aligned_alloc(LINE, size);
    if (!rows)
        return -1;
    memset(rows, 0, (size_t)d->pitch * sizeof *rows);
    for (ptrdiff_t i = 0; i < d->params; i++)
        rows[i] = get(w, w->weight, i);
    w->wide = rows;
    d->sums = rows + d->pitch;
    d->quick = nothing_in_way(w);
    parallel(w->threads, chunks, back_chunks, d);
    sum_chunks(d, chunks, job);
    free(rows);
    return 0;
}

/* Moments of all, dots of all, dx of all. */
static int by_phase(Drive *d, Gradient *job)
{
    const Work *w = d->w;
    const ptrdiff_t groups = w->plan->groups;
    const Grid g = grid(&job->job, groups);
    Moment *m = malloc((size_t)groups * sizeof *m);
    Fold *f = malloc((size_t)groups * sizeof *f);
    int failed = !m || !f;
    d->by = STAT;
    if (!failed) {
        Drive taking = {.w = w, .moments = m};
        if (job->moments)
            memcpy(m, job->moments, (size_t)groups * sizeof *m);
        else
            parallel(w->threads, w->items, take_items, &taking);
        const int e = blend_units(w, m);
        d->folds = f;
        failed = blend(w, &g, m, e, f, NULL);
        if (!failed)
            parallel(w->threads, w->items, back_items, d);
        failed = failed || blend_dots(w, &g, m, e, d->dots, f, &job->dlogits);
        if (!failed)
            parallel(w->threads, w->items, dx_items, d);
    }
    free(m);
    free(f);
    return failed ? -1 : 0;
}

static int by_group(Drive *d, Gradient *job)
{
    const Work *w = d->w;
    const ptrdiff_t groups = w->plan->groups;
    Fold *given = NULL;
    double *to = calloc((size_t)d->params * 4, sizeof *to);
    int failed = !(d->dots = malloc((size_t)groups * sizeof *d->dots)) || !to;
    if (!failed && w->blended) {
        failed = by_phase(d, job);
    } else if (!failed) {
        if (job->job.given_mean) {
            failed = !(given = malloc((size_t)d->params * sizeof *given));
            if (given)
                fold_given(w, d->params, given);
            d->folds = given;
        }
        d->quick = !d->folds && nothing_in_way(w) && w->plan->run[0].step[PARAM] == 0;
        if (!failed)
            parallel(w->threads, w->items, back_items, d);
    }
    if (!failed)
        sum_dots(d, to, job);
    free(given);
    free(d->dots);
    free(to);
    return failed ? -1 : 0;
}

int norm_backward(Gradient *job)
{
    Planned own;
    const ptrdiff_t params = norm_parameters(&job->job);
    Work *w = work_open(&own, &job->job);
    if (!w)
        return -1;
    if (w->plan->groups * w->plan->runs * w->plan->n == 0) {
        for (ptrdiff_t i = 0; i < params; i++)
            job->dweight[i] = job->dbias[i] = 0;
        return 0;
    }
    const FpState saved = fp_enter();
    Drive d = {.w = w, .moments = job->moments, .by = PARAM, .params = params};
    const int failed = w->vector ? by_chunk(&d, w, job) : by_group(&d, job);
    cpu_stream_end();
    fp_leave(saved);
    work_close(w);
    return failed ? -1 : 0;
}
