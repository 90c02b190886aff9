#include "plan.h"
#include "kernels.h"
#include <stdint.h>

static ptrdiff_t magnitude(ptrdiff_t step)
{
    return step < 0 ? -step : step;
}

static int evenly(const Loop *outer, const Loop *inner, int s)
{
    return outer->step[s] == inner->step[s] * inner->n;
}

/* Word by word: a load of two would wait until the stores of both have left for the cache. */
static void set(Loop *to, const Loop *from)
{
    ptrdiff_t n = from->n;
    __asm__("" : "+r"(n));
    to->n = n;
    for (int s = 0; s < STEPS; s++) {
        ptrdiff_t step = from->step[s];
        __asm__("" : "+r"(step));
        to->step[s] = step;
    }
}

/* Appends a loop; two that walk as one become one. Extent 1: nothing to walk, but alone. */
static int append(Loop *loops, int n, const Loop *next)
{
    if (n && next->n == 1)
        return n;
    if (n && loops[n - 1].n == 1)
        n--;
    int one = n > 0;
    for (int s = 0; s < STEPS && one; s++)
        one = evenly(&loops[n - 1], next, s);
    const ptrdiff_t before = one ? loops[--n].n : 1;
    set(&loops[n], next);
    loops[n].n *= before;
    return n + 1;
}

static const Loop nothing = {.n = 1};

static ptrdiff_t extent(const Loop *loops, int n)
{
    ptrdiff_t total = 1;
    for (int j = 0; j < n; j++)
        total *= loops[j].n;
    return total;
}

/* Largest step first, so that neighbours end up innermost. */
static void keep(Plan *p, int naxes, const Loop *axes, const char *shared, int sorted)
{
    const Loop *kept[MAXLOOPS];
    int n = 0;
    for (int i = 0; i < naxes; i++) {
        if (shared[i])
            continue;
        int j = n++;
        for (; sorted && j && magnitude(kept[j - 1]->step[X]) < magnitude(axes[i].step[X]); j--)
            kept[j] = kept[j - 1];
        kept[j] = &axes[i];
    }
    p->nkept = n ? 0 : append(p->kept, 0, &nothing);
    for (int i = 0; i < n; i++)
        p->nkept = append(p->kept, p->nkept, kept[i]);
}

/* Shared axes in shape order: the last stretch is the run, what stands before it are the runs. */
static void share(Plan *p, int naxes, const Loop *axes, const char *shared)
{
    int first = naxes, barrier = 0;
    const Loop *below = NULL;
    for (int i = naxes - 1; i >= 0; i--) {
        if (!shared[i]) {
            barrier = below != NULL;
        } else if (axes[i].n > 1) {
            if (barrier || (below && !evenly(&axes[i], below, PARAM)))
                break;
            below = &axes[i];
            first = i;
        }
    }
    p->nrun = append(p->run, 0, &nothing);
    p->ninner = append(p->inner, 0, &nothing);
    for (int i = 0; i < naxes; i++) {
        if (!shared[i])
            continue;
        if (i < first)
            p->nrun = append(p->run, p->nrun, &axes[i]);
        else
            p->ninner = append(p->inner, p->ninner, &axes[i]);
    }
    p->vector = below && below->step[PARAM] != 0;
}

/* Every element at a multiple of its size: arrays and steps. The types are of one size where it is
 * asked. */
static int aligned(const Plan *p, const Tensors *t)
{
    const Loop *const loops[] = {p->kept, p->run, p->inner};
    const int n[] = {p->nkept, p->nrun, p->ninner};
    ptrdiff_t bits = (ptrdiff_t)((uintptr_t)t->x | (uintptr_t)t->y | (uintptr_t)t->g);
    for (int l = 0; l < 3; l++)
        for (int i = 0; i < n[l]; i++)
            bits |= loops[l][i].step[X] | loops[l][i].step[Y] | loops[l][i].step[G];
    return (bits & (itemsize(t->dtype) - 1)) == 0;
}

static int dense(const Loop *l, const Tensors *t)
{
    const ptrdiff_t size = itemsize(t->dtype);
    return l->n == 1 ||
           (l->step[X] == size && (!t->y || l->step[Y] == size) && (!t->g || l->step[G] == size));
}

/* Of columns that are dense. */
static int follow_each_other(const Plan *p, const Tensors *t)
{
    const Loop *in = &p->inner[0], *run = &p->run[0];
    const ptrdiff_t row = across(p)->n * itemsize(t->dtype);
    const char *const arrays[] = {[X] = t->x, [Y] = t->y, [G] = t->g};
    for (int s = X; s <= G; s++)
        if (arrays[s] &&
            ((p->n > 1 && in->step[s] != row) || (p->runs > 1 && run->step[s] != p->n * row)))
            return 0;
    return p->nrun == 1 && !in->step[PARAM] && !run->step[PARAM];
}

/* The kernels of a form walk floats and doubles whose innermost loop is dense. */
static void choose(Plan *p, const Tensors *t, Form form)
{
    const int dense_enough =
        form == COLS ? dense(across(p), t) : dense(&p->inner[p->ninner - 1], t) && p->nrun == 1;
    p->form = form;
    const int plain = (t->dtype >= F32 || kernels(t->dtype)->direct) && !t->swapped && !t->mask &&
                      (!t->g || (t->gdtype == t->dtype && !t->gswapped));
    p->pack = !(dense_enough && p->ninner == 1 && plain && aligned(p, t));
    p->flat = form == COLS && !p->pack && follow_each_other(p, t);
}

void plan_make(Plan *p, int naxes, const Loop *axes, const char *shared, const Tensors *t,
               int sorted)
{
    enum { COLS_MIN = 8 }; /* fewer columns leave most of a vector empty, unless rows fill it */
    keep(p, naxes, axes, shared, sorted);
    share(p, naxes, axes, shared);
    p->groups = extent(p->kept, p->nkept);
    p->runs = extent(p->run, p->nrun);
    p->n = extent(p->inner, p->ninner);
    memset(p->end, 0, sizeof p->end);
    if (p->groups) {
        locate(p->kept, p->nkept, p->groups - 1, p->end);
        locate(across(p), 1, 1, p->end);
    }
    p->block = t->dtype == F64 ? BLOCK_F64 : BLOCK;
    const ptrdiff_t most = p->block / LANES, each = (p->n + LANES - 1) / LANES;
    p->per = p->runs > 1 && each && each < most ? most / each : 1;
    const Loop *row = &p->inner[p->ninner - 1], *col = across(p);
    const int nearer =
        p->n == 1 || (!dense(row, t) && magnitude(col->step[X]) < magnitude(row->step[X]));
    choose(p, t, nearer ? COLS : ROWS);
    if (nearer && col->n < COLS_MIN && !p->flat)
        choose(p, t, ROWS);
}

void plan_columns(Plan *p, const Tensors *t)
{
    choose(p, t, COLS);
    p->pack |= t->dtype < F32;
    p->flat &= !p->pack;
}
