/* One pass that writes: y = ((x - hi) - lo) * scale + shift, or dx = ((g * weight - mean) -
 * ((x - hi) - lo) * slope) * rstd. */
#include "work.h"
#include <math.h>

/* What a run of each group is made with: Affine's rows of `count` values, and hi again. */
enum { HI, LO, SCALE, SHIFT, SLOPE, WEIGHT, ROWS_OF_PARAMS };
typedef struct {
    _Alignas(64) double values[ROWS_OF_PARAMS * TILE]; /* of the arithmetic type */
    double fill[TILE];
    char *wide; /* set for each group with a dx that is not finite */
} Params;

/* rstd * weight is rounded once where the weight is constant along the run. */
static void set_params(const Work *w, const Fold *f, ptrdiff_t count, ptrdiff_t param, Params *to)
{
    const ptrdiff_t step = across(w->plan)->step[PARAM];
    const void *weights = w->vector ? NULL : w->weight, *bias = w->vector ? NULL : w->bias;
    const int gradient = w->t->g != NULL;
    for (ptrdiff_t g = 0; g < count; g++, param += step) {
        const double weight = parameter(w, weights, param, 1);
        put(w, to->values, g + HI * count, f[g].hi);
        put(w, to->values, g + LO * count, f[g].lo);
        put(w, to->values, g + SCALE * count, gradient ? f[g].rstd : f[g].rstd * weight);
        put(w, to->values, g + SHIFT * count, gradient ? f[g].mean : parameter(w, bias, param, 0));
        if (gradient) {
            put(w, to->values, g + SLOPE * count, f[g].slope * f[g].rstd);
            put(w, to->values, g + WEIGHT * count, weight);
        }
        if (w->plan->pack)
            to->fill[g] = f[g].hi;
    }
}

static void forward_piece(const Work *w, const Piece *c, const Walk *x, char *y, ptrdiff_t ystep,
                          const Affine *a, ptrdiff_t param)
{
    const void *weight = w->vector ? parameters(w, w->weight, param + c->i) : NULL;
    const void *bias = w->vector ? parameters(w, w->bias, param + c->i) : NULL;
    (w->plan->form == COLS ? w->rows->apply_cols : w->rows->apply_rows)(
        x->at, y, x->step, ystep, c->n, c->count, a, weight, bias);
}

static void dx_piece(const Work *w, const Piece *c, const Walk *x, const Walk *g, char *y,
                     ptrdiff_t ystep, const Affine *a, ptrdiff_t param, char *wide)
{
    const int cols = w->plan->form == COLS;
    int any = 0;
    (cols ? w->kernels->dx_cols
          : w->kernels->dx_rows)(x, g, y, ystep, c->n, c->count, a,
                                 w->vector ? parameters(w, w->weight, param + c->i) : NULL, &any);
    for (ptrdiff_t k = 0; any && k < c->count; k++)
        for (ptrdiff_t i = 0; i < c->n; i++)
            if (!isfinite(get(w, y + (cols ? i : k) * ystep, cols ? k : i)))
                wide[k] = 1;
}

/* Elements of one run of each group, the run's parameters at `param`. */
static void apply_piece(const Work *w, const Piece *c, ptrdiff_t param, const Params *s)
{
    const Plan *p = w->plan;
    const Tensors *t = w->t;
    const Loop *step = p->form == COLS ? &p->inner[0] : across(p);
    const ptrdiff_t next = w->job->given_mean || p->pack ? 0 : c->count;
    const Affine a = {.hi = s->values,
                      .lo = parameters(w, s->values, LO * c->count),
                      .scale = parameters(w, s->values, SCALE * c->count),
                      .shift = parameters(w, s->values, SHIFT * c->count),
                      .slope = parameters(w, s->values, SLOPE * c->count),
                      .weight = parameters(w, s->values, WEIGHT * c->count),
                      .ahead = across(p)->step[X] * next,
                      .stream = w->stream,
                      .flat = w->job->given_mean && !w->blended};
    ptrdiff_t here[STEPS];
    memcpy(here, c->at, sizeof here);
    locate(p->run, p->nrun, c->run, here);
    locate(p->inner, p->ninner, c->i, here);
    Walk x = {t->x + here[X], step->step[X], 0, 0}, g = {t->g, step->step[G], 0, 0};
    char *y = t->y + here[Y];
    ptrdiff_t ystep = step->step[Y];
    Scratch xs, gs;
    if (p->pack) {
        ystep = (p->form == COLS ? c->count : c->n) * arithsize(t->dtype);
        x = (Walk){y = xs.bytes, ystep, 0, 0};
        move(w, IN, c, &xs, s->fill, NULL);
    }
    if (t->g == NULL) {
        forward_piece(w, c, &x, y, ystep, &a, param);
    } else {
        if (p->pack)
            move(w, GRAD, c, &gs, NULL, NULL);
        g = p->pack ? (Walk){gs.bytes, ystep, 0, 0} : (Walk){t->g + here[G], g.step, 0, 0};
        dx_piece(w, c, &x, &g, y, ystep, &a, param, s->wide);
    }
    if (p->pack)
        move(w, OUT, c, &xs, s->fill, NULL);
}

/* Backwards where a group does not stay in the nearest cache: what was taken last is still near. */
static void apply_fast(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *f,
                       char wide[TILE])
{
    enum { NEAR = 1024, FAR = 1 << 15 };
    const Plan *p = w->plan;
    const ptrdiff_t piece = p->pack ? BLOCK / count : p->form == COLS ? NEAR : p->n;
    const int back = p->form == COLS || p->runs * p->n > FAR;
    Params params;
    params.wide = wide;
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
    if (w->t->g)
        return 1; /* fold_dots has seen to it */
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
 * of their own each. Of a gradient nobody knows before: it is made again, where it could be that g
 * * weight was too large. */
void apply(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *f)
{
    const ptrdiff_t step = across(w->plan)->step[PARAM], most = w->vector && step ? 1 : count;
    for (ptrdiff_t g = 0, end; g < count; g = end) {
        for (end = g; end < count && end - g < most; end++)
            if (f[end].exact || !parameters_carry(w, &f[end], at[PARAM] + end * step))
                break;
        char wide[TILE] = {0};
        if (end > g)
            apply_fast(w, nth(w, at, g).at, end - g, f + g, wide);
        else
            exact_group(w, nth(w, at, end++).at, &f[g]);
        for (ptrdiff_t i = g; i < end; i++)
            if (wide[i - g] && f[i].rstd == f[i].rstd)
                exact_group(w, nth(w, at, i).at, &f[i]);
    }
}
