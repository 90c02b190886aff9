/* One pass that writes: y = ((x - hi) - lo) * scale + shift, or dx = ((g * weight - mean) -
 * ((x - hi) - lo) * slope) * rstd. */
#include "abreast.h"
#include <math.h>

void applying(Applying *a, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *f,
              const Affine *made, const Scratch *kept, Lines *lines)
{
    a->at = at;
    a->count = count;
    a->f = f;
    a->kept = kept;
    a->param = -1;
    a->s = made ? made : &a->affine;
    a->lines = lines;
}

/* rstd * weight is rounded once where the weight is constant along the run. Rows of `count` values;
 * the parameters are from param on, `step` apart. */
static inline void fill_values(int f64, const Work *w, const Fold *f, ptrdiff_t count,
                               ptrdiff_t param, ptrdiff_t step, void *values)
{
    const void *weights = w->vector ? NULL : w->weight, *bias = w->vector ? NULL : w->bias;
    const int gradient = w->t->g != NULL;
    for (ptrdiff_t g = 0; g < count; g++, f++, param += step) {
        const double weight = weights ? get_as(f64, weights, param) : 1;
        const double shift = bias ? get_as(f64, bias, param) : 0;
        put_as(f64, values, g + HI * count, f->hi);
        put_as(f64, values, g + LO * count, f->lo);
        put_as(f64, values, g + SCALE * count, gradient ? f->rstd : f->rstd * weight);
        put_as(f64, values, g + SHIFT * count, gradient ? f->mean : shift);
        if (gradient) {
            put_as(f64, values, g + SLOPE * count, f->slope * f->rstd);
            put_as(f64, values, g + WEIGHT * count, weight);
        }
    }
}

static void fill_params(const Work *w, const Fold *f, ptrdiff_t count, ptrdiff_t param,
                        ptrdiff_t step, void *values)
{
    if (w->t->dtype == F64)
        fill_values(1, w, f, count, param, step, values);
    else
        fill_values(0, w, f, count, param, step, values);
}

/* Of groups from the first on, of `count` whose values are there. In place: a copy would wait for
 * its parts. */
static void affine(const Work *w, const void *values, ptrdiff_t count, ptrdiff_t first, Affine *to)
{
    const char *row = parameters(w, values, first);
    const ptrdiff_t step = count * arithsize(w->t->dtype);
    to->hi = row + HI * step;
    to->lo = row + LO * step;
    to->scale = row + SCALE * step;
    to->shift = row + SHIFT * step;
    to->slope = row + SLOPE * step;
    to->weight = row + WEIGHT * step;
    to->cut = w->cut;
    to->stream = w->stream;
    to->flat = w->job->given_mean && !w->blended;
}

static void set_params(const Work *w, Applying *a, ptrdiff_t param)
{
    if (param == a->param || a->s != &a->affine)
        return;
    a->param = param;
    fill_params(w, a->f, a->count, param, across(w->plan)->step[PARAM], a->params);
    affine(w, a->params, a->count, 0, &a->affine);
}

/* Where a run's parameters are. */
static ptrdiff_t param_of(const Work *w, const Applying *a, ptrdiff_t run)
{
    ptrdiff_t here[STEPS] = {[PARAM] = a->at[PARAM]};
    locate(w->plan->run, w->plan->nrun, run, here);
    return here[PARAM];
}

/* In place: a copy would wait for its parts. */
void applied_rows(const Work *w, Applying *a, ptrdiff_t run, ptrdiff_t i, int back, Applied *to)
{
    const Tensors *t = w->t;
    const Loop *row = across(w->plan), *runs = &w->plan->run[0];
    const ptrdiff_t param = param_of(w, a, run), size = itemsize(t->dtype);
    set_params(w, a, param);
    to->x.at =
        a->kept ? a->kept->bytes + i * size : t->x + a->at[X] + run * runs->step[X] + i * size;
    to->x.step = row->step[X];
    to->x.run = back ? -runs->step[X] : runs->step[X];
    to->x.ahead = 0;
    to->y.at = t->y + a->at[Y] + run * runs->step[Y] + i * size;
    to->y.step = row->step[Y];
    to->y.run = back ? -runs->step[Y] : runs->step[Y];
    to->count = a->count;
    to->s = a->s;
    to->w = w->vector ? parameters(w, w->weight, param + i) : NULL;
    to->b = w->vector ? parameters(w, w->bias, param + i) : NULL;
    to->own = own_step(w) * arithsize(t->dtype);
    to->lines = a->lines;
}

/* Elements i .. i + n - 1 of some runs from `run` on, or back. Of x that was taken, the
 * next item is asked for, where there is one, items stay near and nothing else has asked for it. */
static void walk_rows(const Work *w, Applying *a, ptrdiff_t run, ptrdiff_t runs, ptrdiff_t i,
                      ptrdiff_t n, int back, char *wide)
{
    const Loop *row = across(w->plan);
    static const Taken none;
    Applied rows;
    const ptrdiff_t g_run = w->plan->run[0].step[G], size = itemsize(w->t->dtype);
    applied_rows(w, a, run, i, back, &rows);
    const int asks = !w->walked && !w->piped && w->near && !w->stream;
    rows.x.ahead = asks && !are_last(w->plan, a->at, a->count) ? row->step[X] * a->count : 0;
    if (!w->t->g) {
        w->walk->sweep_rows(&rows, &none, n, runs);
        return;
    }
    const Walk g = {w->t->g + a->at[G] + run * g_run + i * size, row->step[G],
                    back ? -g_run : g_run, 0};
    w->walk->dx_rows(&rows, &g, n, runs, wide);
}

void apply_rows(const Work *w, Applying *a, int back, char *wide)
{
    const Plan *p = w->plan;
    const ptrdiff_t each = p->run[0].step[PARAM] || w->vector ? 1 : p->runs;
    for (ptrdiff_t run = 0; run < p->runs; run += each)
        walk_rows(w, a, back ? p->runs - 1 - run : run, each, 0, p->n, back, wide);
}

static void forward_piece(const Work *w, const Piece *c, Applying *a, const Walk *x, char *y,
                          ptrdiff_t ystep, ptrdiff_t param)
{
    const void *weight = w->vector ? parameters(w, w->weight, param + c->i) : NULL;
    const void *bias = w->vector ? parameters(w, w->bias, param + c->i) : NULL;
    static const Taken none;
    const Applied rows = {.x = *x,
                          .y = {y, ystep, 0},
                          .count = c->count,
                          .s = a->s,
                          .w = weight,
                          .b = bias,
                          .own = own_step(w) * arithsize(w->t->dtype),
                          .lines = a->lines};
    if (w->plan->form == COLS)
        w->walk->apply_cols(x->at, y, x->step, ystep, c->n, c->count, a->s, weight, bias);
    else
        w->walk->sweep_rows(&rows, &none, c->n, 1);
}

static void dx_piece(const Work *w, const Piece *c, const Applying *a, const Walk *x, const Walk *g,
                     char *y, ptrdiff_t ystep, ptrdiff_t param, char *wide)
{
    const void *weight = w->vector ? parameters(w, w->weight, param + c->i) : NULL;
    const Applied rows = {.x = *x,
                          .y = {y, ystep, 0},
                          .count = c->count,
                          .s = a->s,
                          .w = weight,
                          .own = own_step(w) * arithsize(w->t->dtype),
                          .lines = a->lines};
    if (w->plan->form == COLS)
        w->walk->dx_cols(x, g, y, ystep, c->n, c->count, a->s, weight, wide);
    else
        w->walk->dx_rows(&rows, g, c->n, 1, wide);
}

/* Elements of one run of each group, of columns or by way of scratch. */
static OWN_FRAME void apply_piece(const Work *w, const Piece *c, Applying *a, char *wide)
{
    const Plan *p = w->plan;
    const Tensors *t = w->t;
    const Loop *step = p->form == COLS ? &p->inner[0] : across(p);
    const double *fill = a->fill;
    ptrdiff_t here[STEPS];
    memcpy(here, c->at, sizeof here);
    locate(p->run, p->nrun, c->run, here);
    const ptrdiff_t param = here[PARAM];
    set_params(w, a, param);
    locate(p->inner, p->ninner, c->i, here);
    Walk x = {t->x + here[X], step->step[X], 0, 0}, g = {t->g, step->step[G], 0, 0};
    char *y = t->y + here[Y];
    ptrdiff_t ystep = step->step[Y];
    Scratch xs, gs;
    if (p->pack) {
        ystep = (p->form == COLS ? c->count : c->n) * arithsize(t->dtype);
        x = (Walk){y = xs.bytes, ystep, 0, 0};
        move(w, IN, c, &xs, fill, NULL);
    }
    if (t->g == NULL) {
        forward_piece(w, c, a, &x, y, ystep, param);
    } else {
        if (p->pack)
            move(w, GRAD, c, &gs, NULL, NULL);
        g = p->pack ? (Walk){gs.bytes, ystep, 0, 0} : (Walk){t->g + here[G], g.step, 0, 0};
        dx_piece(w, c, a, &x, &g, y, ystep, param, wide);
    }
    if (p->pack)
        move(w, OUT, c, &xs, fill, NULL);
}

/* Elements `piece` by `piece` of run after run of some groups; the next of those to be applied, or
 * of a share of them. */
typedef struct {
    const Work *w;
    const ptrdiff_t *at;
    ptrdiff_t count, piece, along; /* pieces of a run; flat: of all runs */
    int flat;
    const Fold *f;
    const Affine *made; /* of a gradient, in place of the folds; or NULL */
    char *wide;
} Pieces;

void apply_tabled(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, Lines *lines)
{
    Applying a;
    Affine own;
    affine(w, w->table, w->pitch, at[PARAM], &own);
    applying(&a, at, count, NULL, &own, NULL, lines);
    apply_rows(w, &a, 0, NULL);
}

static OWN_FRAME void apply_flat(const Pieces *s, Share *share, Applying *a, int back, char *wide)
{
    const Plan *p = s->w->plan;
    const ptrdiff_t rows = p->runs * p->n;
    Abreast b;
    set_params(s->w, a, s->at[PARAM]);
    abreast_open(s->w, s->at, s->count, a->s, &b);
    for (ptrdiff_t item; next_item(share, &item);) {
        const ptrdiff_t i = (back ? s->along - 1 - item : item) * s->piece;
        apply_abreast(s->w, &b, i, rows - i < s->piece ? rows - i : s->piece, wide);
    }
}

/* Backwards where a group was taken and does not stay in the nearest cache: what was taken last is
 * still near. */
static OWN_FRAME void apply_pieces(const Pieces *s, Share *share, Lines *lines)
{
    enum { FAR = 1 << 15 };
    const Work *w = s->w;
    const Plan *p = w->plan;
    const ptrdiff_t last = p->runs * s->along - 1;
    const int back = !w->walked && (p->form == COLS || p->runs * p->n > FAR);
    char wide[TILE] = {0};
    Applying a;
    Affine own;
    if (w->table)
        affine(w, w->table, w->pitch, s->at[PARAM], &own);
    applying(&a, s->at, s->count, s->f, w->table ? &own : s->made, NULL, lines);
    for (ptrdiff_t g = 0; g < s->count && w->t->mask; g++)
        a.fill[g] = s->f[g].hi;
    const int rows = p->form == ROWS && !p->pack;
    if (rows && w->inside == 1)
        apply_rows(w, &a, back, wide);
    else if (s->flat)
        apply_flat(s, share, &a, back, wide);
    for (ptrdiff_t item; (!rows || w->inside > 1) && next_item(share, &item);) {
        const ptrdiff_t q = back ? last - item : item, i = q % s->along * s->piece;
        const ptrdiff_t n = p->n - i < s->piece ? p->n - i : s->piece;
        if (p->pack && p->form == COLS && i)
            ask_piece(w, &(Piece){s->at, s->count, q / s->along, 1, i - s->piece, s->piece});
        if (rows)
            walk_rows(w, &a, q / s->along, 1, i, n, 0, wide);
        else
            apply_piece(w, &(Piece){s->at, s->count, q / s->along, 1, i, n}, &a, wide);
    }
    for (ptrdiff_t g = 0; g < s->count && w->t->g; g++)
        if (wide[g])
            __atomic_store_n(&s->wide[g], 1, __ATOMIC_RELAXED);
}

static void apply_share(void *context, Share *share)
{
    Lines lines;
    apply_pieces(context, share, lines_open(&lines));
    lines_end(&lines);
}

static void apply_fast(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *f,
                       const Affine *made, Lines *lines, char wide[TILE])
{
    enum { NEAR = 256, FLAT = 1 << 14 };
    const Plan *p = w->plan;
    const int flat = p->flat && !w->vector && count == across(p)->n;
    const ptrdiff_t runs = flat ? 1 : p->runs, n = flat ? p->runs * p->n : p->n;
    const ptrdiff_t whole = w->inside > 1 && n > SPAN ? SPAN : n;
    const ptrdiff_t few = flat && FLAT / count > NEAR ? FLAT / count / LANES * LANES : NEAR;
    const ptrdiff_t piece = p->pack ? BLOCK / count : p->form == COLS ? few : whole;
    const ptrdiff_t along = n > piece ? (n - 1) / piece + 1 : 1;
    const Pieces s = {w, at, count, piece, along, flat, f, made, wide};
    if (w->inside > 1)
        parallel(w->inside, runs * s.along, apply_share, (void *)&s);
    else
        apply_pieces(&s, &(Share){.last = runs * s.along, .alone = 1}, lines);
}

int apply_dx(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Statistics *made,
             const Values *weight, Lines *lines)
{
    char wide[TILE] = {0};
    const Affine own = {.hi = &made->hi,
                        .lo = &made->lo,
                        .scale = &made->scale,
                        .shift = &made->shift,
                        .slope = &made->slope,
                        .weight = weight ? weight : &made->scale, /* nobody's */
                        .cut = w->cut,
                        .stream = w->stream};
    apply_fast(w, at, count, NULL, &own, lines, wide);
    return memchr(wide, 1, (size_t)count) != NULL;
}

void apply_made(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Affine *made,
                Lines *lines)
{
    apply_fast(w, at, count, NULL, made, lines, NULL);
}

/* In scratch, where they lie since they were taken. */
static void apply_kept(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *f,
                       char *x)
{
    const Plan *p = w->plan;
    const ptrdiff_t size = arithsize(w->t->dtype), step = p->runs * p->n * size;
    Applying a;
    applying(&a, at, count, f, NULL, NULL, NULL);
    for (ptrdiff_t j = 0; j < p->runs; j++) {
        const ptrdiff_t param = param_of(w, &a, j);
        const Piece run = {at, count, j, 1, 0, p->n};
        char *here = x + j * p->n * size;
        set_params(w, &a, param);
        forward_piece(w, &run, &a, &(Walk){here, step, 0, 0}, here, step, param);
    }
    move(w, OUT, &(Piece){at, count, 0, p->runs, 0, p->n}, x, NULL, NULL);
}

/* How many groups from g on come in one call of the kernels; 0: the exact road. */
static ptrdiff_t stretch(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *f,
                         ptrdiff_t g)
{
    const ptrdiff_t step = across(w->plan)->step[PARAM];
    if (w->table)
        return count - g;
    const int known = w->t->g || w->vector || (!w->weight && !w->bias); /* fold_dots, w->far */
    ptrdiff_t n = 0;
    for (const Fold *own = f + g; g + n < count && !own->exact && !w->far; n++, own++)
        if (!known && !mild_fold(w, own) && !parameters_carry(w, own, at[PARAM] + (g + n) * step))
            break;
    return n;
}

void tabulate(Work *w, const Fold *f, ptrdiff_t channels, void *values)
{
    int carried = across(w->plan)->step[PARAM] == 1;
    for (ptrdiff_t c = 0; c < channels && carried; c++)
        carried = !f[c].exact && parameters_carry(w, &f[c], c);
    if (!carried)
        return;
    fill_params(w, f, channels, 0, 1, values);
    w->table = values;
    w->pitch = channels;
}

int all_carried(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *f)
{
    return stretch(w, at, count, f, 0) == count;
}

/* What was made again last: parts of a group find its statistics once. */
typedef struct {
    Fold f;
    ptrdiff_t stat;
} Found;

/* Of a gradient nobody knows before: it is made again, where it could be that g * weight was too
 * large. */
static void apply_tile(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *f,
                       Lines *lines, Scratch *kept, Found *found)
{
    const ptrdiff_t size = w->plan->runs * w->plan->n * arithsize(w->t->dtype);
    for (ptrdiff_t g = 0, many; g < count; g += many) {
        char wide[TILE];
        many = stretch(w, at, count, f, g);
        if (w->t->g)
            memset(wide, 0, (size_t)count);
        if (many && kept)
            apply_kept(w, nth(w, at, g).at, many, f + g, kept->bytes + g * size);
        else if (many)
            apply_fast(w, nth(w, at, g).at, many, f + g, NULL, lines, wide);
        else
            exact_group(w, nth(w, at, g).at, &f[g]);
        many += !many;
        for (ptrdiff_t i = g; i < g + many && w->t->g; i++)
            if (wide[i - g] && f[i].rstd == f[i].rstd) {
                const Place here = nth(w, at, i);
                lines_end(lines); /* or the ends of its runs would come after it */
                if (stat_of(w, here.at) != found->stat) {
                    *found = (Found){f[i], stat_of(w, here.at)};
                    exact_fold(w, here.at, &found->f);
                }
                exact_group(w, here.at, &found->f);
            }
    }
}

/* Backwards: what was taken last is still near. */
void apply(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Fold *f, Lines *lines,
           Scratch *kept)
{
    Found found = {.stat = -1};
    for (ptrdiff_t g = count > w->tile ? (count - 1) / w->tile * w->tile : 0; g >= 0; g -= w->tile)
        apply_tile(w, nth(w, at, g).at, count - g < w->tile ? count - g : w->tile,
                   count > TILE ? f : f + g, lines, kept, &found);
}
