/* The gradients of groups in whose way nothing stands: vectors fold them, groups beside each other.
 */
#include "backward.h"

int nothing_in_way(const Work *w)
{
    return !w->t->mask && !w->blended && w->batch <= w->tile;
}

static const _Alignas(LINE) double none[TILE];

static int quick_statistics(const Drive *d, const ptrdiff_t at[STEPS], ptrdiff_t groups,
                            Statistics *own)
{
    const Work *w = d->w;
    const int is_double = w->t->dtype == F64;
    _Alignas(LINE) double k[TILE];
    Sums s;
    if (d->moments)
        return w->kernels->fold_moments(d->moments + stat_of(w, at), stat_step(w), groups,
                                        &w->finish, own);
    if (is_double)
        take_sums(w, at, groups, NULL, k, &s);
    else
        sum_shared(w, at, groups, &(Summing){.k = w->plan->form == COLS ? none : NULL}, &s);
    return w->kernels->finish(&s, k, groups, &w->finish, own);
}

/* Of groups with weights along their elements, whose sums are in s: params has them already, so
 * what is not carried is made again from here. */
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

/* sum g * xhat of group g, or of one of its parts, from sums as kernel dots_rows has them. */
static inline double slope_of(int f64, double r, double q, const Statistics *own, ptrdiff_t g)
{
    return f64 ? q - own->rest[g] * own->rstd[g] * r : q * own->rstd[g];
}

/* The dots of groups with a weight each are kept, and weighted in s. */
static inline void keep_as(int f64, const Drive *d, const ptrdiff_t at[STEPS], ptrdiff_t groups,
                           const Values *weights, const Statistics *own, Sums *s)
{
    const ptrdiff_t step = across(d->w->plan)->step[STAT];
    double *const r = s->hi[0], *const q = s->hi[1];
    Dot *dot = d->dots + at[STAT];
    for (ptrdiff_t g = 0; g < groups && s->joined; g++) {
        r[g] = total(sum_of(s, 0, g));
        q[g] = total(sum_of(s, 1, g));
    }
    for (ptrdiff_t g = 0; g < groups; g++, dot += step) {
        const double slope = slope_of(f64, r[g], q[g], own, g), weight = get_as(f64, weights, g);
        *dot = (Dot){r[g], slope};
        r[g] = 0 + r[g] * weight; /* never -0, as in a sum of parts */
        q[g] = 0 + slope * weight;
    }
    s->joined = 0;
}

/* Those of parts with a weight each; s: of their groups. */
static inline void share_as(int f64, const Drive *d, const ptrdiff_t at[STEPS], ptrdiff_t groups,
                            const Values *weights, const Statistics *own, Sums *s)
{
    const ptrdiff_t parts = d->w->parts, step = across(d->w->plan)->step[STAT];
    Dot *dot = d->dots + at[STAT];
    for (ptrdiff_t g = 0; g < groups; g++) {
        Two r = {0}, q = {0};
        for (ptrdiff_t i = g * parts; i < (g + 1) * parts; i++, dot += step) {
            const double sum = total(sum_of(s, 0, i)), weight = get_as(f64, weights, i);
            *dot = (Dot){sum, slope_of(f64, sum, total(sum_of(s, 1, i)), own, g)};
            join(&r, weight * dot->r);
            join(&q, weight * dot->q);
        }
        s->hi[0][g] = total(r);
        s->hi[1][g] = total(q);
    }
    s->joined = 0;
}

static void keep_dots(const Drive *d, const ptrdiff_t at[STEPS], ptrdiff_t groups,
                      const Values *weights, const Statistics *own, Sums *s)
{
    const int f64 = d->w->t->dtype == F64;
    if (d->w->parts > 1 && f64)
        share_as(1, d, at, groups, weights, own, s);
    else if (d->w->parts > 1)
        share_as(0, d, at, groups, weights, own, s);
    else if (f64)
        keep_as(1, d, at, groups, weights, own, s);
    else
        keep_as(0, d, at, groups, weights, own, s);
}

/* From groups to their parts, in place. */
static inline void to_parts_as(int f64, ptrdiff_t groups, ptrdiff_t parts, void *values)
{
    for (ptrdiff_t g = groups - 1, i = groups * parts; g >= 0; g--)
        for (ptrdiff_t p = 0; p < parts; p++)
            put_as(f64, values, --i, get_as(f64, values, g));
}

static void to_parts(const Work *w, ptrdiff_t groups, void *values)
{
    if (w->t->dtype == F64)
        to_parts_as(1, groups, w->parts, values);
    else
        to_parts_as(0, groups, w->parts, values);
}

/* Columns come in whole lanes. */
static void fill_lanes(ptrdiff_t count, double *values)
{
    for (; count % LANES; count++)
        values[count] = 0;
}

/* What groups are summed about, as the kernels take it: of their own, or, in `spread`, of their
 * parts. Without weights along the elements there is no use for a second word, nor, of floats, for
 * rstd. */
static Deviations about(const Work *w, ptrdiff_t groups, Statistics *own, double spread[2][TILE])
{
    const int f64 = w->t->dtype == F64;
    if (w->parts == 1) {
        fill_lanes(groups, own->mean);
        fill_lanes(groups, own->rstd);
        return (Deviations){own->mean, f64 && w->vector ? own->rest : none, own->rstd};
    }
    const double *const from[2] = {own->mean, own->rstd};
    for (int o = 0; o < 1 + f64; o++) {
        for (ptrdiff_t i = 0, g = 0; g < groups; g++)
            for (ptrdiff_t p = 0; p < w->parts; p++)
                spread[o][i++] = from[o][g];
        fill_lanes(groups * w->parts, spread[o]);
    }
    return (Deviations){spread[0], none, f64 ? spread[1] : none};
}

int back_quick(const Drive *d, const ptrdiff_t at[STEPS], ptrdiff_t count, double *params,
               Lines *lines)
{
    const Work *w = d->w;
    const ptrdiff_t groups = means(w, count), step = across(w->plan)->step[PARAM];
    _Alignas(LINE) double spread[2][TILE];
    Values weight;
    Sums s;
    Statistics own;
    if (!quick_statistics(d, at, groups, &own))
        return 0;
    const Weighing by = {about(w, groups, &own, spread), params, d->pitch};
    sums(w, at, count, &(Summing){.k = by.about.k, .by = &by}, &s);
    if (!w->vector) {
        for (ptrdiff_t i = 0; i < count; i++)
            put(w, &weight, i, parameter(w, w->weight, at[PARAM] + i * step, 1));
        keep_dots(d, at, groups, &weight, &own, &s);
    }
    int carried = w->kernels->fold_sums(&s, groups, &w->finish, &own);
    if (carried) {
        Values *const each[] = {&own.hi, &own.lo, &own.scale, &own.shift, &own.slope};
        for (int i = 0; i < 5 && w->parts > 1; i++)
            to_parts(w, groups, each[i]);
        carried = !apply_dx(w, at, count, &own, w->vector ? NULL : &weight, lines);
    }
    if (!carried && w->vector)
        apply_carefully(d, at, count, &s, &own, lines);
    else if (!carried)
        lines_end(lines);
    return carried || w->vector;
}
