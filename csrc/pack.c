/* Pieces of any layout <-> dense scratch: what the fast kernels cannot walk, they see as if they
 * could. */
#include "work.h"

/* Elements of one loop, side by side in scratch. */
typedef struct {
    ptrdiff_t at[STEPS], n;
    const Loop *along;
} Span;

/* fill and included: one value (by 0), or one per element (by 1). */
static void exclude(const Work *w, const Span *s, void *scratch, const double *fill,
                    double *included, int by)
{
    const char *mask = w->t->mask + s->at[MASK];
    for (ptrdiff_t i = 0; i < s->n; i++)
        if (!mask[i * s->along->step[MASK]])
            put(w, scratch, i, fill[i * by]);
        else if (included)
            included[i * by] += 1;
}

static void move_span(const Work *w, Direction d, const Span *s, void *scratch, const double *fill,
                      double *included, int by)
{
    const Tensors *t = w->t;
    const double zero = 0;
    if (d == IN)
        w->kernels->pack(scratch, t->x + s->at[X], s->along->step[X], t->swapped, s->n);
    else if (d == GRAD)
        kernels(t->gdtype)->pack(scratch, t->g + s->at[G], s->along->step[G], t->gswapped, s->n);
    if (t->mask)
        exclude(w, s, scratch, d == IN ? fill : &zero, included, d == IN ? by : 0);
    if (d == OUT)
        w->kernels->unpack(t->y + s->at[Y], s->along->step[Y], scratch, s->n);
}

static int step_of(Direction d)
{
    return d == IN ? X : d == GRAD ? G : Y;
}

/* Do all elements of a piece follow each other in memory? */
static int gapless(const Plan *p, Direction d, const Piece *c)
{
    const int s = step_of(d);
    const Loop *in = &p->inner[0], *run = &p->run[0], *row = across(p);
    if (p->form == COLS)
        return p->ninner == 1 && (c->n == 1 || in->step[s] == c->count * row->step[s]);
    const ptrdiff_t runs = c->n * in->step[s], groups = c->runs * runs;
    return p->ninner == 1 && (c->runs == 1 || (p->nrun == 1 && run->step[s] == runs)) &&
           (c->count == 1 || row->step[s] == groups);
}

static void move_rows(const Work *w, Direction d, const Piece *c, char *scratch, const double *fill,
                      double *included)
{
    const Plan *p = w->plan;
    Span s = {.along = &p->inner[p->ninner - 1]};
    for (ptrdiff_t g = 0; g < c->count; g++)
        for (ptrdiff_t r = c->run; r < c->run + c->runs; r++)
            for (ptrdiff_t e = c->i, end = e + c->n; e < end; e += s.n) {
                memcpy(s.at, c->at, sizeof s.at);
                locate(across(p), 1, g, s.at);
                locate(p->run, p->nrun, r, s.at);
                locate(p->inner, p->ninner, e, s.at);
                const ptrdiff_t left = s.along->n - e % s.along->n;
                s.n = left < end - e ? left : end - e;
                move_span(w, d, &s, scratch, fill ? fill + g : NULL, included ? included + g : NULL,
                          0);
                scratch += s.n * arithsize(w->t->dtype);
            }
}

static void move_cols(const Work *w, Direction d, const Piece *c, char *scratch, const double *fill,
                      double *included)
{
    const Plan *p = w->plan;
    Span s = {.along = across(p), .n = c->count};
    for (ptrdiff_t e = c->i; e < c->i + c->n; e++) {
        memcpy(s.at, c->at, sizeof s.at);
        locate(p->run, p->nrun, c->run, s.at);
        locate(p->inner, p->ninner, e, s.at);
        move_span(w, d, &s, scratch, fill, included, 1);
        scratch += s.n * arithsize(w->t->dtype);
    }
}

void move(const Work *w, Direction d, const Piece *c, void *scratch, const double *fill,
          double *included)
{
    const Plan *p = w->plan;
    const int cols = p->form == COLS;
    if (w->t->mask || !gapless(p, d, c)) {
        (cols ? move_cols : move_rows)(w, d, c, scratch, fill, included);
        return;
    }
    Span s = {.along = cols ? across(p) : &p->inner[0], .n = c->count * c->runs * c->n};
    memcpy(s.at, c->at, sizeof s.at);
    locate(p->run, p->nrun, c->run, s.at);
    locate(p->inner, p->ninner, c->i, s.at);
    move_span(w, d, &s, scratch, NULL, NULL, 0);
}

/* Rows of columns lie further apart than hardware looks. */
void ask_piece(const Work *w, const Piece *c)
{
    const Plan *p = w->plan;
    const Tensors *t = w->t;
    const Loop *in = &p->inner[0], *row = across(p);
    ptrdiff_t at[STEPS];
    memcpy(at, c->at, sizeof at);
    locate(p->run, p->nrun, c->run, at);
    locate(p->inner, p->ninner, c->i, at);
    for (ptrdiff_t e = 0; e < c->n && p->ninner == 1; e++)
        for (ptrdiff_t i = 0; i < c->count; i += LINE / itemsize(t->dtype)) {
            __builtin_prefetch(t->x + at[X] + e * in->step[X] + i * row->step[X], 0, 2);
            if (t->g)
                __builtin_prefetch(t->g + at[G] + e * in->step[G] + i * row->step[G], 0, 2);
        }
}
