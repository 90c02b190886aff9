/* One pass that writes: y = ((x - hi) - lo) * scale + shift. */
#include "work.h"
#include <math.h>
#include <string.h>

/* rstd * weight is rounded once where the weight is constant along the run. */
static Affine affine(const Work *w, const Fold *f, ptrdiff_t param)
{
    if (w->vector)
        return (Affine){f->hi, f->lo, f->rstd, 0};
    return (Affine){f->hi, f->lo, f->rstd * parameter(w, w->weight, param, 1),
                    parameter(w, w->bias, param, 0)};
}

static void apply_run(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t run, const Fold *f)
{
    const Plan *p = w->plan;
    const Tensors *t = w->t;
    const ptrdiff_t piece = p->pack ? BLOCK : p->n;
    Scratch scratch;
    ptrdiff_t here[STEPS];
    memcpy(here, at, sizeof here);
    locate(p->run, p->nrun, run, here);
    const Affine a = affine(w, f, here[PARAM]);
    for (ptrdiff_t i = 0; i < p->n; i += piece) {
        const ptrdiff_t n = p->n - i < piece ? p->n - i : piece;
        const void *weight = w->vector ? parameters(w, w->weight, here[PARAM] + i) : NULL;
        const void *bias = w->vector ? parameters(w, w->bias, here[PARAM] + i) : NULL;
        if (!p->pack) {
            w->kernels->apply_rows(t->x + here[X], t->y + here[Y], n, &a, weight, bias);
            continue;
        }
        move_rows(w, IN, at, run, 1, i, n, &scratch, f->hi, NULL);
        w->kernels->apply_rows(&scratch, &scratch, n, &a, weight, bias);
        move_rows(w, OUT, at, run, 1, i, n, &scratch, 0, NULL);
    }
}

/* What a tile is normalised by, in the arithmetic type. */
typedef union {
    _Alignas(64) float f32[TILE];
    double f64[TILE];
} Column;

typedef struct {
    Column hi, lo, scale, shift;
    double fill[TILE];
} TileParams;

static void put(const Work *w, Column *c, ptrdiff_t i, double value)
{
    if (w->t->dtype == F64)
        c->f64[i] = value;
    else
        c->f32[i] = (float)value;
}

static void tile_params(const Work *w, const Fold *f, ptrdiff_t width, ptrdiff_t param,
                        TileParams *to)
{
    const Plan *p = w->plan;
    for (ptrdiff_t c = 0; c < width; c++) {
        const Affine a = affine(w, &f[c], param + c * p->kept[p->nkept - 1].step[PARAM]);
        put(w, &to->hi, c, a.hi);
        put(w, &to->lo, c, a.lo);
        put(w, &to->scale, c, a.scale);
        put(w, &to->shift, c, a.shift);
        to->fill[c] = a.hi;
    }
}

static void apply_strip(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t run, ptrdiff_t i,
                        ptrdiff_t n, ptrdiff_t width, ptrdiff_t param, const TileParams *s)
{
    const Plan *p = w->plan;
    const Tensors *t = w->t;
    const AffineCols a = {&s->hi, &s->lo, &s->scale, &s->shift};
    const void *weight = w->vector ? parameters(w, w->weight, param + i) : NULL;
    const void *bias = w->vector ? parameters(w, w->bias, param + i) : NULL;
    Scratch scratch;
    if (p->pack) {
        const ptrdiff_t step = width * arithsize(t->dtype);
        move_cols(w, IN, at, run, i, n, width, &scratch, s->fill, NULL);
        w->kernels->apply_cols(&scratch, &scratch, step, step, n, width, &a, weight, bias);
        move_cols(w, OUT, at, run, i, n, width, &scratch, NULL, NULL);
        return;
    }
    ptrdiff_t here[STEPS];
    memcpy(here, at, sizeof here);
    locate(p->run, p->nrun, run, here);
    locate(p->inner, p->ninner, i, here);
    const Loop *inner = p->ninner ? &p->inner[0] : NULL;
    w->kernels->apply_cols(t->x + here[X], t->y + here[Y], inner ? inner->step[X] : 0,
                           inner ? inner->step[Y] : 0, n, width, &a, weight, bias);
}

/* Backwards: what was read last is still near. */
static void apply_tile(const Work *w, ptrdiff_t first, ptrdiff_t width, const Fold *f)
{
    enum { NEAR = 64 };
    const Plan *p = w->plan;
    const ptrdiff_t strip = p->pack ? BLOCK / width : NEAR;
    TileParams params;
    ptrdiff_t at[STEPS] = {0}, param = -1;
    locate(p->kept, p->nkept, first, at);
    for (ptrdiff_t run = p->runs - 1; run >= 0; run--) {
        ptrdiff_t here[STEPS];
        memcpy(here, at, sizeof here);
        locate(p->run, p->nrun, run, here);
        if (here[PARAM] != param)
            tile_params(w, f, width, here[PARAM], &params);
        param = here[PARAM];
        for (ptrdiff_t i = (p->n - 1) / strip * strip; i >= 0; i -= strip)
            apply_strip(w, at, run, i, p->n - i < strip ? p->n - i : strip, width, param, &params);
    }
}

/* Do scale and shift of a group's runs stay in the type's range? An overflow could come back by
 * the bias, and a subnormal scale has lost digits. */
static int parameters_carry(const Work *w, const Fold *f, ptrdiff_t param)
{
    const Plan *p = w->plan;
    const ptrdiff_t step = p->nrun ? p->run[p->nrun - 1].step[PARAM] : 0;
    const Limits l = limits(w);
    if (w->vector || (!w->weight && !w->bias))
        return !w->far;
    for (ptrdiff_t run = 0; run < (step ? p->runs : 1); run++, param += step) {
        const double scale = fabs(f->rstd * parameter(w, w->weight, param, 1));
        if ((scale != 0 && scale < l.least) || scale > l.most ||
            fabs(parameter(w, w->bias, param, 0)) >= l.far)
            return 0;
    }
    return 1;
}

/* Is a group, the c-th of an item whose first is at `at`, for the fast road? */
static int fast(const Work *w, const Fold *f, const ptrdiff_t at[STEPS], ptrdiff_t c)
{
    const Plan *p = w->plan;
    const ptrdiff_t step = p->form == COLS ? p->kept[p->nkept - 1].step[PARAM] : 0;
    return !f->exact && parameters_carry(w, f, at[PARAM] + c * step);
}

static void apply_columns(const Work *w, ptrdiff_t first, ptrdiff_t count, const Fold *f)
{
    ptrdiff_t at[STEPS] = {0};
    locate(w->plan->kept, w->plan->nkept, first, at);
    for (ptrdiff_t c = 0, end; c < count; c = end) {
        for (end = c; end < count && fast(w, &f[end], at, end); end++)
            ;
        if (end > c)
            apply_tile(w, first + c, end - c, f + c);
        else
            exact_group(w, first + end++, &f[c]);
    }
}

void apply(const Work *w, ptrdiff_t first, ptrdiff_t count, const Fold *f)
{
    if (w->plan->form == COLS) {
        apply_columns(w, first, count, f);
        return;
    }
    for (ptrdiff_t g = 0; g < count; g++) {
        ptrdiff_t at[STEPS] = {0};
        locate(w->plan->kept, w->plan->nkept, first + g, at);
        if (fast(w, &f[g], at, 0))
            for (ptrdiff_t run = 0; run < w->plan->runs; run++)
                apply_run(w, at, run, &f[g]);
        else
            exact_group(w, first + g, &f[g]);
    }
}
