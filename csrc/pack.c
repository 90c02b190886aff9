/* Pieces of any layout <-> dense scratch: what the fast kernels cannot walk, they see as if they
 * could. */
#include "work.h"

/* Elements of one loop, side by side in scratch. */
typedef struct {
    ptrdiff_t place[STEPS], n;
    const Loop *along; /* NULL: one element */
} Span;

static ptrdiff_t along(const Span *s, int operand)
{
    return s->along ? s->along->step[operand] : 0;
}

/* fill and included: one value (by 0), or one per element (by 1). */
static void exclude(const Work *w, const Span *s, void *scratch, const double *fill,
                    double *included, int by)
{
    const char *mask = w->t->mask + s->place[MASK];
    const ptrdiff_t step = along(s, MASK);
    for (ptrdiff_t i = 0; i < s->n; i++) {
        if (mask[i * step]) {
            if (included)
                included[i * by] += 1;
        } else if (w->t->dtype == F64) {
            ((double *)scratch)[i] = fill[i * by];
        } else {
            ((float *)scratch)[i] = (float)fill[i * by];
        }
    }
}

static void move(const Work *w, Direction d, const Span *s, void *scratch, const double *fill,
                 double *included, int by)
{
    const Tensors *t = w->t;
    const double zero = 0;
    if (d == IN)
        w->kernels->pack(scratch, t->x + s->place[X], along(s, X), t->swapped, s->n);
    if (t->mask)
        exclude(w, s, scratch, d == IN ? fill : &zero, included, d == IN ? by : 0);
    if (d == OUT)
        w->kernels->unpack(t->y + s->place[Y], along(s, Y), scratch, s->n);
}

static void place_at(Span *s, const ptrdiff_t at[STEPS])
{
    for (int j = 0; j < STEPS; j++)
        s->place[j] = at[j];
}

void move_rows(const Work *w, Direction d, const ptrdiff_t at[STEPS], ptrdiff_t run, ptrdiff_t runs,
               ptrdiff_t i, ptrdiff_t n, Scratch *scratch, double fill, double *included)
{
    const Plan *p = w->plan;
    const Loop *last = p->ninner ? &p->inner[p->ninner - 1] : NULL;
    char *to = (char *)scratch;
    Span s = {.along = last};
    for (ptrdiff_t r = run; r < run + runs; r++)
        for (ptrdiff_t e = i; e < i + n; e += s.n) {
            place_at(&s, at);
            locate(p->run, p->nrun, r, s.place);
            locate(p->inner, p->ninner, e, s.place);
            s.n = last ? last->n - e % last->n : 1;
            if (s.n > i + n - e)
                s.n = i + n - e;
            move(w, d, &s, to, &fill, included, 0);
            to += s.n * arithsize(w->t->dtype);
        }
}

void move_cols(const Work *w, Direction d, const ptrdiff_t at[STEPS], ptrdiff_t run, ptrdiff_t i,
               ptrdiff_t n, ptrdiff_t width, Scratch *scratch, const double *fill, double *included)
{
    const Plan *p = w->plan;
    char *to = (char *)scratch;
    Span s = {.along = &p->kept[p->nkept - 1], .n = width};
    for (ptrdiff_t e = i; e < i + n; e++) {
        place_at(&s, at);
        locate(p->run, p->nrun, run, s.place);
        locate(p->inner, p->ninner, e, s.place);
        move(w, d, &s, to, fill, included, 1);
        to += width * arithsize(w->t->dtype);
    }
}
