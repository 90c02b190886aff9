/* The gradients of floats or halves in whose way nothing stands: vectors fold them, groups beside
 * each other. */
#include "backward.h"

int nothing_in_way(const Work *w)
{
    return w->t->dtype != F64 && !w->t->mask && !w->blended && w->batch <= w->tile;
}

static const double none[TILE];

static int quick_statistics(const Drive *d, const ptrdiff_t at[STEPS], ptrdiff_t groups,
                            Statistics *own)
{
    const Work *w = d->w;
    const Summing how = {.k = w->plan->form == COLS ? none : NULL};
    Sums s;
    if (d->moments)
        return w->kernels->fold_moments(d->moments + stat_of(w, at), stat_step(w), groups,
                                        &w->finish, own);
    sum_shared(w, at, groups, &how, &s);
    return w->kernels->finish(&s, NULL, groups, &w->finish, own);
}

/* Of groups with weights along their elements, whose sums are in s: params has them already, so
 * what floats do not carry is made again from here. */
static void apply_carefully(const Drive *d, const ptrdiff_t at[STEPS], ptrdiff_t count,
                            const Sums *s, const Statistics *own, Lines *lines)
{
    Fold f[TILE];
    for (ptrdiff_t g = 0; g < count; g++) {
        f[g] = (Fold){.hi = get(d->w, &own->hi, g), .lo = own->rest[g], .rstd = own->rstd[g]};
        fold_dots(d->w, at[PARAM], &(Dot){total(sum_of(s, 0, g)), total(sum_of(s, 1, g))},
                  own->count[g], &f[g]);
    }
    lines_end(lines);
    apply(d->w, at, count, f, lines, NULL);
}

/* The dots of groups with a weight each are kept, and weighted in s. */
static void keep_dots(const Drive *d, const ptrdiff_t at[STEPS], ptrdiff_t groups,
                      const float *weight, const Statistics *own, Sums *s)
{
    const ptrdiff_t step = across(d->w->plan)->step[STAT];
    double *const r = s->hi[0], *const q = s->hi[1];
    Dot *dot = d->dots + at[STAT];
    for (ptrdiff_t g = 0; g < groups && s->joined; g++) {
        r[g] = total(sum_of(s, 0, g));
        q[g] = total(sum_of(s, 1, g));
    }
    for (ptrdiff_t g = 0; g < groups; g++, dot += step) {
        const double slope = q[g] * own->rstd[g];
        *dot = (Dot){r[g], slope};
        r[g] = 0 + r[g] * weight[g]; /* never -0, as in a sum of parts */
        q[g] = 0 + slope * weight[g];
    }
    s->joined = 0;
}

/* Those of parts with a weight each; s: of their groups. */
static void share_dots(const Drive *d, const ptrdiff_t at[STEPS], ptrdiff_t groups,
                       const float *weight, const Statistics *own, Sums *s)
{
    const ptrdiff_t parts = d->w->parts, step = across(d->w->plan)->step[STAT];
    Dot *dot = d->dots + at[STAT];
    for (ptrdiff_t g = 0; g < groups; g++) {
        Two r = {0}, q = {0};
        for (ptrdiff_t i = g * parts; i < (g + 1) * parts; i++, dot += step) {
            *dot = (Dot){total(sum_of(s, 0, i)), total(sum_of(s, 1, i)) * own->rstd[g]};
            join(&r, weight[i] * dot->r);
            join(&q, weight[i] * dot->q);
        }
        s->hi[0][g] = total(r);
        s->hi[1][g] = total(q);
    }
    s->joined = 0;
}

/* From groups to their parts, in place. */
static void to_parts(ptrdiff_t groups, ptrdiff_t parts, float *values)
{
    for (ptrdiff_t g = groups - 1, i = groups * parts; g >= 0; g--)
        for (ptrdiff_t p = 0; p < parts; p++)
            values[--i] = values[g];
}

/* Columns come in whole lanes. */
static void fill_lanes(ptrdiff_t count, double *values)
{
    for (; count % LANES; count++)
        values[count] = 0;
}

int back_quick(const Drive *d, const ptrdiff_t at[STEPS], ptrdiff_t count, double *params,
               Lines *lines)
{
    const Work *w = d->w;
    const ptrdiff_t parts = w->parts, groups = means(w, count);
    const ptrdiff_t step = across(w->plan)->step[PARAM];
    double k[TILE];
    float weight[TILE];
    Sums s;
    Statistics own;
    if (!quick_statistics(d, at, groups, &own))
        return 0;
    for (ptrdiff_t i = 0, g = 0; g < groups && parts > 1; g++)
        for (ptrdiff_t p = 0; p < parts; p++)
            k[i++] = own.mean[g];
    fill_lanes(count, parts > 1 ? k : own.mean);
    fill_lanes(groups, own.rstd);
    /* parts have no weights along their elements, and need no rstd yet */
    const Deviations about = {parts > 1 ? k : own.mean, none, parts > 1 ? none : own.rstd};
    const Weighing by = {about, params, d->pitch};
    sums(w, at, count, &(Summing){.k = about.k, .by = &by}, &s);
    if (!w->vector) {
        for (ptrdiff_t i = 0; i < count; i++)
            weight[i] = w->weight ? ((const float *)w->weight)[at[PARAM] + i * step] : 1;
        (parts > 1 ? share_dots : keep_dots)(d, at, groups, weight, &own, &s);
    }
    int carried = w->kernels->fold_sums(&s, groups, &w->finish, &own);
    if (carried) {
        Values *const each[] = {&own.hi, &own.lo, &own.scale, &own.shift, &own.slope};
        for (int i = 0; i < 5 && parts > 1; i++)
            to_parts(groups, parts, each[i]->f32);
        carried = !apply_dx(w, at, count, &own, w->vector ? NULL : weight, lines);
    }
    if (!carried && w->vector)
        apply_carefully(d, at, count, &s, &own, lines);
    else if (!carried)
        lines_end(lines);
    return carried || w->vector;
}
