/* The gradient's sums: of a group, for its dx; of a parameter, for its own gradient. With t = g *
 * weight and xhat = (x - mean) * rstd, in double, about the mean, so that nothing cancels. */
#include "work.h"
#include <math.h>

ptrdiff_t units(const Work *w)
{
    const Plan *p = w->plan;
    return !p->vector && p->run[p->nrun - 1].step[PARAM] ? p->runs : 1;
}

static void dots_fast(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *f,
                      Dot *d, ptrdiff_t pitch)
{
    const int is_double = w->t->dtype == F64, cols = w->plan->form == COLS;
    const ptrdiff_t n = units(w), each = w->plan->runs / n;
    double k[TILE], s[TILE];
    Sums sum[TILE];
    for (ptrdiff_t g = 0; g < count || (cols && g % LANES); g++) {
        k[g] = g < count ? f[g].hi : 0;
        s[g] = g < count ? f[g].rstd : 0;
    }
    for (ptrdiff_t u = 0; u < n; u++) {
        sums(w, at, count, u * each, each, k, s, sum);
        for (ptrdiff_t g = 0; g < count; g++) {
            const double r = total(sum[g].r), q = total(sum[g].q);
            d[g * pitch + u] = (Dot){r, (is_double ? q : q * s[g]) - f[g].lo * s[g] * r};
        }
    }
}

/* A stretch of groups from g on, within what one call of the kernels may take: those with
 * parameters of their own along their elements come one by one; 0: the exact road, which also
 * keeps what is excluded out of a group of NaN. */
static ptrdiff_t stretch(const Work *w, ptrdiff_t count, const Fold *f, ptrdiff_t g)
{
    const ptrdiff_t most = w->plan->vector && across(w->plan)->step[PARAM] ? 1 : count;
    ptrdiff_t n = 0;
    while (g + n < count && n < most && !f[g + n].exact &&
           !(w->t->mask && f[g + n].rstd != f[g + n].rstd))
        n++;
    return n;
}

void dots(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *f, Dot *d,
          ptrdiff_t pitch)
{
    const ptrdiff_t n = units(w), each = w->plan->runs / n;
    for (ptrdiff_t g = 0, many; g < count; g += many) {
        const Place here = nth(w, at, g);
        many = stretch(w, count, f, g);
        if (many)
            dots_fast(w, here.at, many, f + g, d + g * pitch, pitch);
        for (ptrdiff_t u = 0; !many && u < n; u++)
            d[g * pitch + u] = exact_dot(w, here.at, u * each, each, f + g);
        many += !many;
    }
}

void fold_dots(const Work *w, const ptrdiff_t at[STEPS], const Dot *d, double count, Fold *f)
{
    const Plan *p = w->plan;
    const ptrdiff_t step = p->run[p->nrun - 1].step[PARAM];
    Two r = {0}, q = {0};
    for (ptrdiff_t u = 0; u < units(w); u++) {
        const double weight = p->vector ? 1 : parameter(w, w->weight, at[PARAM] + u * step, 1);
        join(&r, weight * d[u].r);
        join(&q, weight * d[u].q);
    }
    const double mean = total(r) / count, slope = total(q) / count;
    if (!isfinite(mean) || !isfinite(slope)) {
        *f = (Fold){.rstd = count > 0 ? NAN : 0};
        return;
    }
    f->mean = w->centred ? mean : 0;
    f->slope = slope;
    f->exact |= !dx_carries(w, f);
}

/* Run by run, and, packed, piece by piece. */
static void gather_fast(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *f,
                        double *sums, ptrdiff_t pitch)
{
    const Plan *p = w->plan;
    const Loop *step = p->form == COLS ? &p->inner[0] : across(p);
    const ptrdiff_t size = arithsize(w->t->dtype), most = p->pack ? BLOCK / count : p->n;
    void (*const kernel)(const Walk *, const Walk *, ptrdiff_t, ptrdiff_t, const Deviations *,
                         double *, ptrdiff_t) =
        p->form == COLS ? w->kernels->params_cols : w->kernels->params_rows;
    double k[TILE], lo[TILE], rstd[TILE];
    Scratch xs, gs;
    for (ptrdiff_t g = 0; g < count; g++) {
        k[g] = f[g].hi;
        lo[g] = f[g].lo;
        rstd[g] = f[g].rstd;
    }
    for (ptrdiff_t run = 0; run < p->runs; run++)
        for (ptrdiff_t i = 0; i < p->n; i += most) {
            const Piece c = {at, count, run, 1, i, p->n - i < most ? p->n - i : most};
            const ptrdiff_t wide = (p->form == COLS ? count : c.n) * size;
            ptrdiff_t here[STEPS];
            memcpy(here, at, sizeof here);
            locate(p->run, p->nrun, run, here);
            locate(p->inner, p->ninner, i, here);
            Walk x = {w->t->x + here[X], step->step[X], 0},
                 g = {w->t->g + here[G], step->step[G], 0};
            if (p->pack) {
                x = (Walk){xs.bytes, wide, 0};
                g = (Walk){gs.bytes, wide, 0};
                move(w, IN, &c, &xs, k, NULL);
                move(w, GRAD, &c, &gs, NULL, NULL);
            }
            kernel(&x, &g, c.n, count, &(Deviations){k, lo, rstd}, sums + here[PARAM], pitch);
        }
}

void gather(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *f, double *sums,
            ptrdiff_t pitch)
{
    for (ptrdiff_t g = 0, many; g < count; g += many) {
        const Place here = nth(w, at, g);
        many = stretch(w, count, f, g);
        if (many)
            gather_fast(w, here.at, many, f + g, sums, pitch);
        else
            exact_gather(w, here.at, f + g, sums, pitch);
        many += !many;
    }
}
