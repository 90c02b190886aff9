/* ReLU, LeakyReLU, PReLU: no statistics, so any order of the axes will do; but for the slopes'
 * gradient. */
#include "cpu.h"
#include "work.h"
#include <stdlib.h>

enum { PIECE = 1 << 14 }; /* elements of an item */

typedef struct {
    Work w;
    const Bend *b;
    Blocks of; /* of what shares a slope: */
    Two *sums; /* of each span of each */
} Bending;

/* n elements from `at` on, in memory or in scratch. */
static void bend_piece(const Bending *k, const ptrdiff_t at[STEPS], const void *x, const void *g,
                       void *y, ptrdiff_t n)
{
    if (k->b->add) { /* in the arithmetic type, which is what scratch has */
        k->w.walk->add_rows(x, g, y, n, NULL);
        return;
    }
    const void *slope = parameters(&k->w, k->b->slope, at[PARAM]);
    const int along = across(k->w.plan)->step[PARAM] != 0;
    if (k->w.t->g)
        k->w.kernels->bend_dx_rows(x, g, y, n, k->b->floor == 0, slope, along);
    else
        k->w.kernels->bend_rows(x, y, n, k->b->floor, slope, along);
}

static void bend_item(const Bending *k, ptrdiff_t item)
{
    const Tensors *t = k->w.t;
    ptrdiff_t at[STEPS];
    const ptrdiff_t total = item_groups(&k->w, item, at);
    Scratch x, g;
    if (!k->w.plan->pack) {
        bend_piece(k, at, t->x + at[X], t->g ? t->g + at[G] : NULL, t->y + at[Y], total);
        return;
    }
    for (ptrdiff_t i = 0; i < total; i += BLOCK) {
        const ptrdiff_t n = total - i < BLOCK ? total - i : BLOCK;
        const Piece c = {at, n, 0, 1, 0, 1};
        move(&k->w, IN, &c, &x, NULL, NULL);
        if (t->g)
            move(&k->w, GRAD, &c, &g, NULL, NULL);
        bend_piece(k, at, &x, &g, &x, n);
        move(&k->w, OUT, &c, &x, NULL, NULL);
        locate(across(k->w.plan), 1, n, at);
    }
}

static void bend_items(void *context, Share *share)
{
    for (ptrdiff_t item; next_item(share, &item);)
        bend_item(context, item);
}

static void bend_plan(const Bend *b, Work *w, Plan *plan, int sums)
{
    Loop axes[MAXLOOPS];
    char shared[MAXLOOPS];
    const Tensors *t = &b->t;
    *w = (Work){.t = t,
                .plan = plan,
                .kernels = kernels(t->dtype),
                .walk = kernels(t->dtype == F64 ? F64 : F32)};
    for (int i = 0; i < t->ndim; i++) {
        axis_loop(t, i, &axes[i]);
        axes[i].step[PARAM] = b->nslope > 1 && i == b->axis;
        shared[i] = (char)(sums && !axes[i].step[PARAM]);
    }
    plan_make(plan, t->ndim, axes, shared, t, !sums);
}

int add_forward(const Tensors *t)
{
    return bend_forward(&(Bend){.t = *t, .add = 1});
}

int bend_forward(const Bend *b)
{
    Plan plan;
    Bending k = {.b = b};
    bend_plan(b, &k.w, &plan, 0);
    plan_columns(&plan, &b->t);
    if (plan.groups == 0)
        return 0;
    make_items(&k.w, PIECE);
    const FpState saved = fp_enter();
    parallel(k.w.threads, k.w.items, bend_items, &k);
    fp_leave(saved);
    return 0;
}

/* What is positive takes no part; as bits, since signs would mislead a branch. */
static void drop_positive(Dtype t, Scratch *restrict x, Scratch *restrict g, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; t == F64 && i < n; i++) {
        const uint64_t keep = (uint64_t)(x->f64[i] > 0) - 1;
        x->u64[i] &= keep;
        g->u64[i] &= keep;
    }
    for (ptrdiff_t i = 0; t != F64 && i < n; i++) {
        const uint32_t keep = (uint32_t)(x->f32[i] > 0) - 1;
        x->u32[i] &= keep;
        g->u32[i] &= keep;
    }
}

/* sum g * x where x is not positive, of a span of what shares one slope. */
static Two slope_sum(const Bending *k, ptrdiff_t group, ptrdiff_t span)
{
    const Work *w = &k->w;
    const Plan *p = w->plan;
    const double zero = 0, one = 1;
    const ptrdiff_t first = span * k->of.span, last = first + k->of.span;
    ptrdiff_t at[STEPS] = {0};
    Scratch x, g;
    Two sum = {0};
    locate(p->kept, p->nkept, group, at);
    for (ptrdiff_t b = first; b < last && b < k->of.all; b++) {
        Piece c = block_of(p, &k->of, b);
        double sums[2 * TILE];
        c.at = at;
        c.count = 1;
        move(w, IN, &c, &x, NULL, NULL);
        move(w, GRAD, &c, &g, NULL, NULL);
        drop_positive(w->t->dtype, &x, &g, c.runs * c.n);
        const Walk xs = {x.bytes, 0, c.n * arithsize(w->t->dtype), 0};
        const Walk gs = {g.bytes, 0, xs.run, 0};
        w->walk->dots_rows(&xs, &gs, 1, c.n, c.runs, &(Deviations){&zero, &zero, &one}, NULL, NULL,
                           0, 0, sums);
        join(&sum, sums[TILE]);
    }
    return sum;
}

static void slope_sums(void *context, Share *share)
{
    const Bending *k = context;
    for (ptrdiff_t item; next_item(share, &item);)
        k->sums[item] = slope_sum(k, item / k->of.spans, item % k->of.spans);
}

static int slopes(Bending *k, double *dslope)
{
    const Plan *p = k->w.plan;
    blocks_of(p, 0, &k->of);
    if (!(k->sums = malloc((size_t)(p->groups * k->of.spans) * sizeof *k->sums)))
        return -1;
    make_items(&k->w, 1);
    parallel(k->w.threads, p->groups * k->of.spans, slope_sums, k);
    for (ptrdiff_t group = 0; group < p->groups; group++) {
        const Two *sum = k->sums + group * k->of.spans;
        ptrdiff_t at[STEPS] = {0};
        Two all = {0};
        locate(p->kept, p->nkept, group, at);
        for (ptrdiff_t span = 0; span < k->of.spans; span++)
            join_two(&all, sum[span]);
        dslope[at[PARAM]] = total(all);
    }
    free(k->sums);
    return 0;
}

int bend_backward(const Bend *b, double *dslope)
{
    Plan plan;
    Bending k = {.b = b};
    int failed = 0;
    for (ptrdiff_t i = 0; dslope && i < b->nslope; i++)
        dslope[i] = 0;
    bend_plan(b, &k.w, &plan, 1);
    if (dslope && plan.groups * plan.runs * plan.n > 0) {
        plan.form = ROWS; /* how pieces are packed */
        const FpState saved = fp_enter();
        failed = slopes(&k, dslope);
        fp_leave(saved);
    }
    return failed ? -1 : bend_forward(b);
}
