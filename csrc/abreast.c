#include "abreast.h"

/* So many as fill a few lines, if they can. */
static ptrdiff_t rows_abreast(ptrdiff_t columns)
{
    enum { FEW = 4 * LANES };
    ptrdiff_t rows = 1;
    while (columns * rows * 2 <= TILE && (columns * rows < FEW || columns * rows % LANES))
        rows *= 2;
    return rows;
}

static const void *repeated(const void *values, ptrdiff_t bytes, ptrdiff_t times, char *to)
{
    for (ptrdiff_t i = 0; i < times; i++)
        memcpy(to + i * bytes, values, (size_t)bytes);
    return to;
}

void abreast_open(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t columns, const Affine *s,
                  Abreast *to)
{
    const ptrdiff_t bytes = columns * arithsize(w->t->dtype), rows = rows_abreast(columns);
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
    for (ptrdiff_t i = 0; i < width; i++)
        wide[i % b->columns] |= bad[i];
}

void apply_abreast(const Work *w, const Abreast *b, ptrdiff_t first, ptrdiff_t n, char wide[TILE])
{
    const ptrdiff_t whole = n / b->abreast, rest = n % b->abreast;
    apply_wide(w, b, first, whole, b->abreast * b->columns, wide);
    apply_wide(w, b, first + n - rest, rest > 0, rest * b->columns, wide);
}
