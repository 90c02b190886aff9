#include "abreast.h"

/* So many as fill a few lines; all, if they do not. */
static ptrdiff_t rows_abreast(ptrdiff_t columns, ptrdiff_t all)
{
    enum { FEW = 4 * LANES };
    ptrdiff_t rows = 1;
    while (columns * rows * 2 <= TILE && (columns * rows < FEW || columns * rows % LANES))
        rows *= 2;
    return rows < all ? rows : all;
}

/* By doubling. */
static const void *repeated(const void *values, ptrdiff_t bytes, ptrdiff_t times, double *to)
{
    if (times == 1)
        return values;
    memcpy(to, values, (size_t)bytes);
    for (ptrdiff_t done = bytes, all = bytes * times; done < all; done *= 2)
        memcpy((char *)to + done, to, (size_t)(all - done < done ? all - done : done));
    return to;
}

void abreast_open(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t columns, const Affine *s,
                  Abreast *to)
{
    const ptrdiff_t bytes = columns * arithsize(w->t->dtype);
    const ptrdiff_t rows = rows_abreast(columns, w->plan->runs * w->plan->n);
    to->at = at;
    to->columns = columns;
    to->abreast = rows;
    to->s = *s;
    to->s.hi = repeated(s->hi, bytes, rows, to->params[HI]);
    to->s.lo = repeated(s->lo, bytes, rows, to->params[LO]);
    to->s.scale = repeated(s->scale, bytes, rows, to->params[SCALE]);
    to->s.shift = repeated(s->shift, bytes, rows, to->params[SHIFT]);
    if (w->t->g) {
        to->s.slope = repeated(s->slope, bytes, rows, to->params[SLOPE]);
        to->s.weight = repeated(s->weight, bytes, rows, to->params[WEIGHT]);
    }
}

/* n rows of `width`. */
static void apply_wide(const Work *w, const Abreast *b, ptrdiff_t first, ptrdiff_t n,
                       ptrdiff_t width, char *wide)
{
    const Tensors *t = w->t;
    const ptrdiff_t size = itemsize(t->dtype), from = first * b->columns * size;
    const Walk x = {t->x + b->at[X] + from, width * size, 0, 0};
    char *y = t->y + b->at[Y] + from;
    if (n == 0)
        return;
    if (!t->g) {
        w->walk->apply_cols(x.at, y, x.step, x.step, n, width, &b->s, NULL, NULL);
        return;
    }
    const Walk g = {t->g + b->at[G] + from, x.step, 0, 0};
    char bad[TILE] = {0};
    w->walk->dx_cols(&x, &g, y, x.step, n, width, &b->s, NULL, bad);
    const int any = memchr(bad, 1, (size_t)width) != NULL;
    for (ptrdiff_t i = 0; any && i < width; i++)
        wide[i % b->columns] |= bad[i];
}

void apply_abreast(const Work *w, const Abreast *b, ptrdiff_t first, ptrdiff_t n, char wide[TILE])
{
    const ptrdiff_t whole = n / b->abreast, rest = n % b->abreast;
    apply_wide(w, b, first, whole, b->abreast * b->columns, wide);
    apply_wide(w, b, first + n - rest, rest > 0, rest * b->columns, wide);
}

/* ---- sums ---------------------------------------------------------------------------- */

/* Lanes that rows go to in turn. */
static ptrdiff_t period_of(const Piece *c)
{
    return c->n < LANES ? c->n : LANES;
}

/* Do so many rows go abreast? */
static int is_narrow(const Work *w, const Piece *c)
{
    enum { NARROW = 2 * LANES };
    const ptrdiff_t columns = c->count;
    return columns < NARROW && columns % LANES && columns == across(w->plan)->n &&
           c->runs * c->n >= 2 * period_of(c);
}

int sums_flat(const Work *w, const Piece *c, int at_once)
{
    const int lanes_go_on = c->runs == 1 || c->n <= LANES || c->n % LANES == 0;
    return w->plan->flat && lanes_go_on && (is_narrow(w, c) || !at_once);
}

/* Rows `from` .. from + n - 1 of the block, every `each` of them as one. */
static void sum_rows(const Work *w, const Piece *c, const Summing *how, const Deviations *about,
                     ptrdiff_t from, ptrdiff_t n, ptrdiff_t each, double *lanes)
{
    const Plan *p = w->plan;
    const ptrdiff_t first = c->run * p->n + c->i + from, period = each > 1 ? 1 : period_of(c);
    const ptrdiff_t xstep = p->inner[0].step[X], gstep = p->inner[0].step[G];
    const Walk x = {w->t->x + c->at[X] + first * xstep, each * xstep, 0, 0};
    if (how->by) {
        const Walk g = {w->t->g + c->at[G] + first * gstep, each * gstep, 0, 0};
        w->walk->dots_cols(&x, &g, n, each * c->count, about, NULL, NULL, 0, period, from > 0,
                           lanes);
    } else {
        w->walk->take_cols(x.at, x.step, n, each * c->count, about->k, period, from > 0, lanes);
    }
}

/* As many rows abreast as there are lanes; the last ones join them after. */
static OWN_FRAME void sum_narrow(const Work *w, const Piece *c, const Summing *how,
                                 const Deviations *about, double *lanes)
{
    const ptrdiff_t each = period_of(c), rows = c->runs * c->n, rest = rows % each;
    const ptrdiff_t bytes = c->count * (ptrdiff_t)sizeof(double);
    _Alignas(LINE) double wide[3][TILE];
    Deviations repeats = {repeated(about->k, bytes, each, wide[0]), NULL, NULL};
    if (how->by) {
        repeats.lo = repeated(about->lo, bytes, each, wide[1]);
        repeats.rstd = repeated(about->rstd, bytes, each, wide[2]);
    }
    sum_rows(w, c, how, &repeats, 0, rows / each, each, lanes);
    for (int o = 0; o < 2; o++)
        for (ptrdiff_t l = 1; l < each; l++)
            memcpy(lanes + (o * LANES + l) * PITCH, lanes + o * LANES * PITCH + l * c->count,
                   (size_t)bytes);
    if (rest)
        sum_rows(w, c, how, about, rows - rest, rest, 1, lanes);
}

void sum_flat(const Work *w, const Piece *c, const Summing *how, double *sums)
{
    _Alignas(LINE) double lanes[2 * LANES * PITCH];
    const Deviations k = {how->k, NULL, NULL}, *about = how->by ? &how->by->about : &k;
    lanes_clear(lanes, c->n, c->count);
    if (is_narrow(w, c))
        sum_narrow(w, c, how, about, lanes);
    else
        sum_rows(w, c, how, about, 0, c->runs * c->n, 1, lanes);
    w->walk->fold_cols(lanes, lanes_used(c->n), c->count, sums);
}
