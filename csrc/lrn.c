/* LocalResponseNorm: a window over channels, so every row of a tile is walked channel by channel.
 * Tiles are columns of whatever axis is nearest. Rows that are not dense, or that y will overwrite,
 * go through a ring of as many rows as the window has. */
#include "cpu.h"
#include "elementary.h"
#include "lrn.h"
#include <math.h>
#include <stdlib.h>

typedef struct {
    Work w;
    const Window *job;
    ptrdiff_t slots; /* rows of the ring */
    double alpha;    /* of one element */
    Power power;
    const void **rows; /* of the window, twice: as they are read, and in the window's order */
    char *ring;        /* NULL: rows are used where they are. Of each thread, as `rows` are */
} Lrn;

/* Did the kernel's own arithmetic carry element i? The same operations, the same answer, so that
 * neighbours have no say in it. */
static int carried(const Lrn *l, const void *const *window, ptrdiff_t size, ptrdiff_t i)
{
    if (l->power == POW_OTHER)
        return 0;
    if (l->w.t->dtype == F64) {
        double sum = 0;
        for (ptrdiff_t j = 0; j < size; j++)
            sum += ((const double *)window[j])[i] * ((const double *)window[j])[i];
        const double s = l->job->k + l->alpha * sum;
        return s > LRN_LOW_f64 && s < LRN_HIGH_f64;
    }
    float sum = 0;
    for (ptrdiff_t j = 0; j < size; j++)
        sum += ((const float *)window[j])[i] * ((const float *)window[j])[i];
    const float s = (float)l->job->k + (float)l->alpha * sum;
    return s > LRN_LOW_f32 && s < LRN_HIGH_f32;
}

static double value_f32(const void *row, ptrdiff_t i)
{
    return ((const float *)row)[i];
}

static double value_f64(const void *row, ptrdiff_t i)
{
    return ((const double *)row)[i];
}

/* The larger of k and alpha * x^2 is scaled to about 1 by a power of two, alpha = m * 2^(2 q). */
Scaled lrn_scaled(const Window *job, double alpha, double (*value)(const void *, ptrdiff_t),
                  const void *const *window, ptrdiff_t size, ptrdiff_t i)
{
    int of_alpha, of_k, of_x;
    double most = 0, sum = 0;
    (void)frexp(alpha, &of_alpha);
    (void)frexp(job->k, &of_k);
    const int q = of_alpha / 2;
    for (ptrdiff_t j = 0; j < size; j++)
        most = fmax(most, fabs(value(window[j], i)));
    (void)frexp(most < INFINITY ? most : 1, &of_x);
    const int alone = (alpha == 0 && most < INFINITY) || most == 0; /* k is all there is */
    const int e = alone || (job->k != 0 && of_k / 2 > of_x + q) ? of_k / 2 : of_x + q;
    for (ptrdiff_t j = 0; j < size && !alone; j++) {
        const double v = ldexp(value(window[j], i), q - e);
        sum += v * v;
    }
    return (Scaled){ldexp(job->k, -2 * e) + ldexp(alpha, -2 * q) * sum, e};
}

/* What the kernel could not carry, in double: any beta, any magnitude. */
static void wide_row(const Lrn *l, const void *x, void *y, ptrdiff_t n, const void *const *window,
                     ptrdiff_t size)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        if (carried(l, window, size, i))
            continue;
        const Scaled s = lrn_scaled(l->job, l->alpha, l->w.t->dtype == F64 ? value_f64 : value_f32,
                                    window, size, i);
        put(&l->w, y, i, norm_pow(get(&l->w, x, i), s.m, 2 * s.e, -l->job->beta));
    }
}

ptrdiff_t lrn_window(ptrdiff_t c, ptrdiff_t before, ptrdiff_t size, ptrdiff_t channels,
                     ptrdiff_t *first)
{
    const ptrdiff_t room = channels - (c - before);
    *first = c < before ? 0 : c - before;
    return room > size ? c - before + size : channels;
}

/* The row of channel c, all rows of its window at hand. */
static void one_row(const Lrn *l, const ptrdiff_t at[STEPS], ptrdiff_t c, ptrdiff_t width,
                    const void *next, Scratch *scratch)
{
    const Window *job = l->job;
    const Plan *p = l->w.plan;
    ptrdiff_t from;
    const ptrdiff_t end = lrn_window(c, job->before, job->size, p->n, &from);
    const void *x = l->rows[c % l->slots], **window = l->rows + l->slots;
    ptrdiff_t here[STEPS] = {[Y] = at[Y]};
    int wide = l->power == POW_OTHER;
    for (ptrdiff_t j = from; j < end; j++)
        window[j - from] = l->rows[j % l->slots];
    locate(p->inner, p->ninner, c, here);
    void *y = p->pack ? (void *)scratch : (void *)(l->w.t->y + here[Y]);
    if (!wide)
        l->w.kernels->lrn_rows(x, y, width, window, end - from, next, l->w.stream, job->k, l->alpha,
                               l->power, &wide);
    if (wide)
        wide_row(l, x, y, width, window, end - from);
    if (p->pack)
        move(&l->w, OUT, &(Piece){at, width, 0, 1, c, 1}, scratch, NULL, NULL);
}

static void lrn_item(const Lrn *l, ptrdiff_t item)
{
    const Window *job = l->job;
    const Plan *p = l->w.plan;
    ptrdiff_t at[STEPS];
    const ptrdiff_t width = item_groups(&l->w, item, at),
                    pitch = l->w.batch * arithsize(l->w.t->dtype);
    const ptrdiff_t after = job->size - 1 - job->before;
    Scratch scratch;
    for (ptrdiff_t c = 0, read = 0; c < p->n; c++) {
        for (; read < p->n && read - after <= c; read++) {
            ptrdiff_t here[STEPS] = {[X] = at[X]};
            locate(p->inner, p->ninner, read, here);
            const ptrdiff_t slot = read % l->slots;
            l->rows[slot] = l->ring ? l->ring + slot * pitch : l->w.t->x + here[X];
            if (l->ring)
                move(&l->w, IN, &(Piece){at, width, 0, 1, read, 1}, l->ring + slot * pitch, NULL,
                     NULL);
        }
        const ptrdiff_t step = read < p->n ? read : 0; /* or where it was */
        one_row(l, at, c, width, l->w.t->x + at[X] + step * p->inner[0].step[X], &scratch);
    }
}

static ptrdiff_t ring_bytes(const Lrn *l)
{
    return l->slots * l->w.batch * arithsize(l->w.t->dtype);
}

static void lrn_items(void *context, Share *share)
{
    Lrn own = *(const Lrn *)context;
    own.rows += share->thread * 2 * own.slots;
    own.ring += own.ring ? share->thread * ring_bytes(&own) : 0;
    for (ptrdiff_t item; next_item(share, &item);)
        lrn_item(&own, item);
}

Power lrn_power(const Window *job, double alpha)
{
    if (!(job->k >= 0 && (alpha == 0 || (alpha > 0x1p-60 && alpha < 0x1p10))))
        return POW_OTHER;
    return job->beta == 0.75  ? POW_THREE_QUARTERS
           : job->beta == 0.5 ? POW_HALF
           : job->beta == 1   ? POW_ONE
                              : POW_OTHER;
}

void lrn_plan(const Window *job, Work *w, Plan *plan)
{
    Loop axes[MAXLOOPS];
    char shared[MAXLOOPS];
    const Tensors *t = &job->t;
    *w = (Work){.t = t, .plan = plan, .kernels = kernels(t->dtype)};
    for (int i = 0; i < t->ndim; i++) {
        axis_loop(t, i, &axes[i]);
        shared[i] = i == job->axis;
    }
    plan_make(plan, t->ndim, axes, shared, t, 1);
    plan_columns(plan, t);
}

int lrn_forward(const Window *job)
{
    enum { WIDTH = 1024, RING = 1 << 18 };
    const Tensors *t = &job->t;
    Plan plan;
    Lrn l = {.job = job};
    lrn_plan(job, &l.w, &plan);
    if (plan.groups * plan.runs * plan.n == 0)
        return 0;
    const FpState saved = fp_enter();
    l.alpha = job->alpha / (double)job->size;
    l.power = lrn_power(job, l.alpha);
    l.slots = job->size < plan.n ? job->size : plan.n;
    const ptrdiff_t width = RING / arithsize(t->dtype) / l.slots / LANES * LANES;
    l.w.stream = t->x != t->y && !plan.pack &&
                 plan.groups * plan.n * itemsize(t->dtype) * 2 > cpu_stream_bytes();
    make_narrow_items(&l.w, width < LANES ? LANES : width > WIDTH ? WIDTH : width);
    const int own = plan.pack || t->x == t->y;
    l.rows = malloc((size_t)(l.w.threads * l.slots * 2) * sizeof *l.rows);
    l.ring = own ? aligned_alloc(LINE, (size_t)(l.w.threads * ring_bytes(&l))) : NULL;
    const int failed = !l.rows || (own && !l.ring);
    if (!failed)
        parallel(l.w.threads, l.w.items, lrn_items, &l);
    cpu_stream_end();
    fp_leave(saved);
    free(l.ring);
    free(l.rows);
    return failed ? -1 : 0;
}
