/* ReLU, LeakyReLU, PReLU: no statistics, so any order of the axes will do. */
#include "cpu.h"
#include "threads.h"
#include "work.h"

enum { PIECE = 1 << 16 }; /* elements of an item */

typedef struct {
    Work w;
    const Bend *b;
    Loop row; /* the innermost loop; the plan's other kept loops stand around it */
    ptrdiff_t pieces;
} Bending;

static void bend_item(void *context, ptrdiff_t item)
{
    const Bending *k = context;
    const Plan *p = k->w.plan;
    const Tensors *t = k->w.t;
    const ptrdiff_t from = item % k->pieces * PIECE, left = k->row.n - from,
                    total = left < PIECE ? left : PIECE;
    const ptrdiff_t piece = p->pack ? BLOCK : total;
    const int along = k->row.step[PARAM] != 0;
    ptrdiff_t at[STEPS] = {0};
    Scratch scratch;
    locate(p->kept, p->nkept - 1, item / k->pieces, at);
    locate(&k->row, 1, from, at);
    for (ptrdiff_t i = 0; i < total; i += piece) {
        const ptrdiff_t n = total - i < piece ? total - i : piece;
        const void *slope = parameters(&k->w, k->b->slope, at[PARAM]);
        if (!p->pack) {
            k->w.kernels->bend_rows(t->x + at[X], t->y + at[Y], n, k->b->floor, slope, along);
            return;
        }
        move_cols(&k->w, IN, at, 0, 0, 1, n, &scratch, NULL, NULL);
        k->w.kernels->bend_rows(&scratch, &scratch, n, k->b->floor, slope, along);
        move_cols(&k->w, OUT, at, 0, 0, 1, n, &scratch, NULL, NULL);
        locate(&k->row, 1, n, at);
    }
}

int bend_forward(const Bend *b)
{
    Loop axes[MAXLOOPS];
    char shared[MAXLOOPS] = {0};
    const Tensors *t = &b->t;
    Plan plan;
    Bending k = {.w = {.t = t, .plan = &plan, .kernels = kernels(t->dtype)}, .b = b};
    for (int i = 0; i < t->ndim; i++) {
        axes[i] = axis_loop(t, i);
        axes[i].step[PARAM] = b->nslope > 1 && i == b->axis;
    }
    plan_make(&plan, t->ndim, axes, shared, t);
    plan_columns(&plan, t);
    if (k.w.plan->groups == 0)
        return 0;
    k.row = k.w.plan->kept[k.w.plan->nkept - 1];
    k.pieces = (k.row.n + PIECE - 1) / PIECE;
    const FpState saved = fp_enter();
    parallel(k.w.plan->groups / k.row.n * k.pieces, bend_item, &k);
    fp_leave(saved);
    return 0;
}
