/* ReLU, LeakyReLU, PReLU: no statistics, so any order of the axes will do. */
#include "cpu.h"
#include "threads.h"
#include "work.h"

enum { PIECE = 1 << 16 }; /* elements of an item */

typedef struct {
    Work w;
    const Bend *b;
} Bending;

static void bend_item(void *context, ptrdiff_t item)
{
    const Bending *k = context;
    const Plan *p = k->w.plan;
    const Tensors *t = k->w.t;
    ptrdiff_t at[STEPS];
    const ptrdiff_t total = item_groups(&k->w, item, at), piece = p->pack ? BLOCK : total;
    const int along = across(p)->step[PARAM] != 0;
    Scratch scratch;
    for (ptrdiff_t i = 0; i < total; i += piece) {
        const ptrdiff_t n = total - i < piece ? total - i : piece;
        const void *slope = parameters(&k->w, k->b->slope, at[PARAM]);
        if (!p->pack) {
            k->w.kernels->bend_rows(t->x + at[X], t->y + at[Y], n, k->b->floor, slope, along);
            return;
        }
        const Piece c = {at, n, 0, 1, 0, 1};
        move(&k->w, IN, &c, &scratch, NULL, NULL);
        k->w.kernels->bend_rows(&scratch, &scratch, n, k->b->floor, slope, along);
        move(&k->w, OUT, &c, &scratch, NULL, NULL);
        locate(across(p), 1, n, at);
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
    plan_make(&plan, t->ndim, axes, shared, t, 1);
    plan_columns(&plan, t);
    if (plan.groups == 0)
        return 0;
    make_items(&k.w, PIECE);
    const FpState saved = fp_enter();
    parallel(k.w.items, bend_item, &k);
    fp_leave(saved);
    return 0;
}
