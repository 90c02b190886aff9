/* The gradient of LocalResponseNorm, in double: with y = x s^-beta, s = k + alpha * sum of x^2,
 *
 *   dx_j = g_j s_j^-beta - 2 alpha beta * sum of g_i s_i^-beta (x_i / sqrt s_i) (x_j / sqrt s_i),
 *
 * over the i whose windows hold j: no factor leaves double's range where the result does not. Rows
 * of a tile are walked channel by channel: read, then, a window further, its own terms, then,
 * another window further, dx. */
#include "cpu.h"
#include "elementary.h"
#include "lrn.h"
#include <math.h>
#include <stdlib.h>

enum { WIDTH = 256 }; /* elements of a row, at most */
/* x; g, then g s^-beta; 1 / sqrt |s|; g s^-beta x / sqrt s */
enum { INPUT, OWN, ROOT, TERM, KINDS };

typedef struct {
    Work w;
    const Window *job;
    double alpha; /* of one element */
    Power power;
    ptrdiff_t slots; /* channels at hand */
    double *ring;    /* KINDS rows for each. Of each thread, as `window` is */
    const void **window;
} Back;

static double *row_of(const Back *b, int kind, ptrdiff_t c)
{
    return b->ring + ((c % b->slots) * KINDS + kind) * b->w.batch;
}

static void read_row(const Back *b, const ptrdiff_t at[STEPS], ptrdiff_t c, ptrdiff_t width)
{
    const Piece piece = {at, width, 0, 1, c, 1};
    double *x = row_of(b, INPUT, c), *g = row_of(b, OWN, c);
    Scratch raw;
    move(&b->w, IN, &piece, &raw, NULL, NULL);
    for (ptrdiff_t i = 0; i < width; i++)
        x[i] = get(&b->w, &raw, i);
    move(&b->w, GRAD, &piece, &raw, NULL, NULL);
    for (ptrdiff_t i = 0; i < width; i++)
        g[i] = get(&b->w, &raw, i);
}

static double value(const void *row, ptrdiff_t i)
{
    return ((const double *)row)[i];
}

static int holds(double s)
{
    return s > LRN_LOW_f64 && s < LRN_HIGH_f64;
}

/* Plain operations, so that vectors of them have the same bits; where s holds the squares. */
static void roots(Power power, const double *s, const double *x, double *own, double *inverse,
                  double *term, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        const double root = sqrt(s[i]);
        const double divisor = power == POW_ONE    ? s[i]
                               : power == POW_HALF ? root
                                                   : root * sqrt(root);
        const double by = own[i] / divisor;
        own[i] = holds(s[i]) ? by : own[i];
        inverse[i] = 1 / root;
        term[i] = by * (x[i] * inverse[i]);
    }
}

static void own_row(const Back *b, ptrdiff_t c, ptrdiff_t width)
{
    const Window *job = b->job;
    double *x = row_of(b, INPUT, c), *own = row_of(b, OWN, c), *term = row_of(b, TERM, c);
    double *inverse = row_of(b, ROOT, c);
    double s[WIDTH] = {0};
    ptrdiff_t first;
    const ptrdiff_t end = lrn_window(c, job->before, job->size, b->w.plan->n, &first);
    for (ptrdiff_t j = first; j < end; j++) {
        const double *v = row_of(b, INPUT, j);
        b->window[j - first] = v;
        for (ptrdiff_t i = 0; i < width; i++)
            s[i] += v[i] * v[i];
    }
    for (ptrdiff_t i = 0; i < width; i++)
        s[i] = b->power == POW_OTHER ? NAN : job->k + b->alpha * s[i];
    roots(b->power, s, x, own, inverse, term, width);
    for (ptrdiff_t i = 0; i < width; i++) {
        if (holds(s[i]))
            continue;
        const Scaled wide = lrn_scaled(job, b->alpha, value, b->window, end - first, i);
        own[i] = norm_pow(own[i], wide.m, 2 * wide.e, -job->beta);
        inverse[i] = ldexp(1 / sqrt(fabs(wide.m)), -wide.e);
        term[i] = copysign(1, wide.m) * own[i] * (x[i] * inverse[i]);
    }
}

static void dx_row(const Back *b, const ptrdiff_t at[STEPS], ptrdiff_t c, ptrdiff_t width)
{
    const Window *job = b->job;
    const double *x = row_of(b, INPUT, c), *own = row_of(b, OWN, c);
    const double by = -2 * job->beta * b->alpha;
    double sum[WIDTH];
    Scratch dx;
    ptrdiff_t first;
    const ptrdiff_t end =
        lrn_window(c, job->size - 1 - job->before, job->size, b->w.plan->n, &first);
    for (ptrdiff_t i = 0; i < width; i++)
        sum[i] = 0;
    for (ptrdiff_t j = first; j < end; j++) {
        const double *t = row_of(b, TERM, j), *inverse = row_of(b, ROOT, j);
        for (ptrdiff_t i = 0; i < width; i++)
            sum[i] += t[i] * (x[i] * inverse[i]);
    }
    for (ptrdiff_t i = 0; i < width; i++)
        put(&b->w, &dx, i, by == 0 ? own[i] : own[i] + by * sum[i]);
    move(&b->w, OUT, &(Piece){at, width, 0, 1, c, 1}, &dx, NULL, NULL);
}

static void back_item(const Back *b, ptrdiff_t item)
{
    const ptrdiff_t channels = b->w.plan->n, size = b->job->size, before = b->job->before;
    const ptrdiff_t after = size - 1 - before;
    ptrdiff_t at[STEPS];
    const ptrdiff_t width = item_groups(&b->w, item, at);
    for (ptrdiff_t c = 0, read = 0, own = 0; c < channels; c++) {
        for (; own < channels && own - before <= c; own++) {
            for (; read < channels && read - after <= own; read++)
                read_row(b, at, read, width);
            own_row(b, own, width);
        }
        dx_row(b, at, c, width);
    }
}

static void back_items(void *context, Share *share)
{
    Back own = *(const Back *)context;
    own.ring += share->thread * own.slots * KINDS * own.w.batch;
    own.window += share->thread * own.slots;
    for (ptrdiff_t item; next_item(share, &item);)
        back_item(&own, item);
}

int lrn_backward(const Window *job)
{
    enum { RING = 1 << 18 };
    Plan plan;
    Back b = {.job = job};
    lrn_plan(job, &b.w, &plan);
    if (plan.groups * plan.runs * plan.n == 0)
        return 0;
    const FpState saved = fp_enter();
    b.alpha = job->alpha / (double)job->size;
    b.power = lrn_power(job, b.alpha);
    b.slots = job->size < plan.n / 2 ? 2 * job->size : plan.n;
    const ptrdiff_t width = RING / KINDS / 8 / b.slots / LANES * LANES;
    make_narrow_items(&b.w, width < LANES ? LANES : width > WIDTH ? WIDTH : width);
    b.ring = malloc((size_t)(b.w.threads * b.slots * KINDS * b.w.batch) * sizeof *b.ring);
    b.window = malloc((size_t)(b.w.threads * b.slots) * sizeof *b.window);
    const int failed = !b.ring || !b.window;
    if (!failed)
        parallel(b.w.threads, b.w.items, back_items, &b);
    fp_leave(saved);
    free(b.window);
    free(b.ring);
    return failed ? -1 : 0;
}
