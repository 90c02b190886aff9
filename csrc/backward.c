/* The drivers of the gradients: plan -> moments -> dots -> fold -> apply.
 *
 * Where a weight is one for a group, or one of its parts, their dots are all that its own gradient
 * needs; they are kept, and summed group by group at the end. Where weights run along the elements,
 * each is summed over groups in passing: in at most CHUNKS chunks of groups, joined in order. */
#include "cpu.h"
#include "plans.h"
#include <stdlib.h>

enum { CHUNKS = 16, CHUNK_MIN = 64 };
enum { EACH = LINE / sizeof(double) };
typedef struct {
    const Work *w;
    const Moment *moments; /* by STAT; NULL: to be taken */
    const Fold *folds;     /* by STAT, or by PARAM where they are of given statistics; or NULL */
    int by;
    Dot *dots;    /* by STAT of each part; NULL: not kept */
    double *sums; /* `words` rows of `pitch` for each chunk of groups; NULL: none */
    ptrdiff_t params, pitch, words, chunk;
    int quick; /* back_rows() may do */
} Drive;

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

/* Rows of floats or halves, with a weight for each element, in whose way nothing stands: vectors
 * fold them. 0: something does, and nothing is done. */
static int back_rows(const Drive *d, const ptrdiff_t at[STEPS], ptrdiff_t count, double *params,
                     Lines *lines)
{
    static const double none[TILE];
    const Work *w = d->w;
    Sums s;
    Statistics own;
    int plain;
    if (d->moments) {
        plain = w->kernels->fold_moments(d->moments + at[STAT], across(w->plan)->step[STAT], count,
                                         &w->finish, &own);
    } else {
        sums(w, at, count, &(Summing){.k = NULL}, &s);
        plain = w->kernels->finish(&s, count, &w->finish, &own);
    }
    if (!plain)
        return 0;
    const Weighing by = {{own.mean, none, own.rstd}, params, d->pitch};
    sums(w, at, count, &(Summing){.k = own.mean, .by = &by}, &s);
    if (w->kernels->fold_sums(&s, count, &w->finish, &own) && !apply_dx(w, at, count, &own, lines))
        return 1;
    Fold f[TILE];
    for (ptrdiff_t g = 0; g < count; g++) {
        f[g] = (Fold){.hi = own.hi[g], .lo = own.rest[g], .rstd = own.rstd[g]};
        fold_dots(w, at[PARAM], &(Dot){total(sum_of(&s, 0, g)), total(sum_of(&s, 1, g))},
                  own.count[g], &f[g]);
    }
    lines_end(lines);
    apply(w, at, count, f, lines, NULL);
    return 1;
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
    if (d->quick && back_rows(d, at, count, sums, lines))
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
    const ptrdiff_t first = chunk * d->chunk, row = across(p)->n;
    const ptrdiff_t last = p->groups - first < d->chunk ? p->groups : first + d->chunk;
    for (ptrdiff_t g = first, count; g < last; g += count) {
        const ptrdiff_t left = last - g < row - g % row ? last - g : row - g % row;
        ptrdiff_t at[STEPS] = {0};
        locate(p->kept, p->nkept, g, at);
        count = left < d->w->batch ? left : d->w->batch;
        back(d, at, count, d->sums + chunk * d->words * d->pitch, lines);
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

static void add(Two *to, ptrdiff_t param, Dot d)
{
    join(&to[2 * param], d.q);
    join(&to[2 * param + 1], d.r);
}

/* Of the kept dots, in the order of groups. */
static void sum_dots(const Drive *d, Two *to, Gradient *job)
{
    const Dot *dot = d->dots;
    const Plan *p = d->w->plan;
    const Loop *row = across(p);
    for (ptrdiff_t first = 0; first < p->groups; first += row->n) {
        ptrdiff_t at[STEPS] = {0};
        locate(p->kept, p->nkept, first, at);
        for (ptrdiff_t g = 0; g < row->n; g++)
            add(to, at[PARAM] + g * row->step[PARAM], dot[at[STAT] + g * row->step[STAT]]);
    }
    for (ptrdiff_t i = 0; i < d->params; i++) {
        job->dweight[i] = total(to[2 * i]);
        job->dbias[i] = total(to[2 * i + 1]);
    }
}

static void sum_chunks(const Drive *d, ptrdiff_t chunks, Gradient *job)
{
    const double *sums = d->sums;
    for (ptrdiff_t i = 0; i < d->params; i++, sums++) {
        Two to[2] = {{0}};
        for (ptrdiff_t row = 0; row < chunks * d->words; row++)
            join(&to[row % 2], sums[row * d->pitch]);
        job->dweight[i] = total(to[0]);
        job->dbias[i] = total(to[1]);
    }
}

/* ---- drivers ------------------------------------------------------------------------- */

/* Elements of one weight each, group after group. */
static int by_chunk(Drive *d, Work *w, Gradient *job)
{
    const ptrdiff_t groups = d->w->plan->groups, even = (groups + CHUNKS - 1) / CHUNKS;
    d->chunk = even < CHUNK_MIN ? CHUNK_MIN : even;
    const ptrdiff_t chunks = (groups + d->chunk - 1) / d->chunk;
    d->words = d->w->t->dtype == F64 ? 4 : 2;
    d->pitch = (d->params + EACH - 1) / EACH * EACH;
    if (share_insides(w, chunks) < 0)
        return -1;
    const size_t size = (size_t)((chunks * d->words + 1) * d->pitch) * sizeof *d->sums;
    double *rows = aligned_alloc(LINE, size);
    if (!rows)
        return -1;
    memset(rows, 0, size);
    for (ptrdiff_t i = 0; i < d->params; i++)
        rows[i] = get(w, w->weight, i);
    w->wide = rows;
    d->sums = rows + d->pitch;
    d->quick = w->plan->form == ROWS && w->t->dtype != F64 && !w->t->mask && !w->blended &&
               w->batch <= w->tile && across(w->plan)->step[PARAM] == 0;
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
    Two *to = calloc((size_t)d->params * 2, sizeof *to);
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
