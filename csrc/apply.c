/* One pass that writes: y = ((x - hi) - lo) * scale + shift. */
#include "work.h"
#include <math.h>

/* What a run of each group is normalised by: Affine's four rows of `count` values, and hi again. */
typedef struct {
    _Alignas(64) double values[4 * TILE]; /* of the arithmetic type */
    double fill[TILE];
} Params;

/* rstd * weight is rounded once where the weight is constant along the run. */
static void set_params(const Work *w, const Fold *f, ptrdiff_t count, ptrdiff_t param, Params *to)
{
    const ptrdiff_t step = across(w->plan)->step[PARAM];
    const void *weight = w->vector ? NULL : w->weight, *bias = w->vector ? NULL : w->bias;
    for (ptrdiff_t g = 0; g < count; g++, param += step) {
        put(w, to->values, g, f[g].hi);
        put(w, to->values, g + count, f[g].lo);
        put(w, to->values, g + 2 * count, f[g].rstd * parameter(w, weight, param, 1));
        put(w, to->values, g + 3 * count, parameter(w, bias, param, 0));
        if (w->plan->pack)
            to->fill[g] = f[g].hi;
    }
}

/* Elements of one run of each group, the run's parameters at `param`. */
static void apply_piece(const Work *w, const Piece *c, ptrdiff_t param, const Params *s)
{
    const Plan *p = w->plan;
    const Tensors *t = w->t;
    const int taken = !w->job->given_mean && !p->pack;
    const ptrdiff_t ahead = taken ? across(p)->step[X] * c->count : 0;
    const Affine a = {s->values, parameters(w, s->values, c->count),
                      parameters(w, s->values, 2 * c->count),
                      parameters(w, s->values, 3 * c->count), ahead};
    const void *weight = w->vector ? parameters(w, w->weight, param + c->i) : NULL;
    const void *bias = w->vector ? parameters(w, w->bias, param + c->i) : NULL;
    const Loop *step = p->form == COLS ? &p->inner[0] : across(p);
    void (*const kernel)(const void *, void *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                         const Affine *, const void *, const void *) =
        p->form == COLS ? w->kernels->apply_cols : w->kernels->apply_rows;
    if (p->pack) {
        Scratch x;
        const ptrdiff_t size = (p->form == COLS ? c->count : c->n) * arithsize(t->dtype);
        move(w, IN, c, &x, s->fill, NULL);
        kernel(&x, &x, size, size, c->n, c->count, &a, weight, bias);
        move(w, OUT, c, &x, s->fill, NULL);
        return;
    }
    ptrdiff_t here[STEPS];
    memcpy(here, c->at, sizeof here);
    locate(p->run, p->nrun, c->run, here);
    locate(p->inner, 1, c->i, here);
    kernel(t->x + here[X], t->y + here[Y], step->step[X], step->step[Y], c->n, c->count, &a, weight,
           bias);
}

/* Backwards where a group does not stay in the nearest cache: what was taken last is still near. */
static void apply_fast(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *f)
{
    enum { NEAR = 64, FAR = 1 << 15 };
    const Plan *p = w->plan;
    const ptrdiff_t piece = p->pack ? BLOCK / count : p->form == COLS ? NEAR : p->n;
    const int back = p->form == COLS || p->runs * p->n > FAR;
    Params params;
    ptrdiff_t param = -1;
    for (ptrdiff_t j = 0; j < p->runs; j++) {
        const ptrdiff_t run = back ? p->runs - 1 - j : j;
        ptrdiff_t here[STEPS] = {[PARAM] = at[PARAM]};
        locate(p->run, p->nrun, run, here);
        if (here[PARAM] != param)
            set_params(w, f, count, here[PARAM], &params);
        param = here[PARAM];
        for (ptrdiff_t i = (p->n - 1) / piece * piece; i >= 0; i -= piece) {
            const ptrdiff_t n = p->n - i < piece ? p->n - i : piece;
            apply_piece(w, &(Piece){at, count, run, 1, i, n}, param, &params);
        }
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

/* Stretches of groups that the fast road carries; one by one where a group's elements have a weight
 * of their own each. */
void apply(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *f)
{
    const ptrdiff_t step = across(w->plan)->step[PARAM], most = w->vector && step ? 1 : count;
    for (ptrdiff_t g = 0, end; g < count; g = end) {
        for (end = g; end < count && end - g < most; end++)
            if (f[end].exact || !parameters_carry(w, &f[end], at[PARAM] + end * step))
                break;
        if (end > g)
            apply_fast(w, nth(w, at, g).at, end - g, f + g);
        else
            exact_group(w, nth(w, at, end++).at, &f[g]);
    }
}
