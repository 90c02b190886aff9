/* The sums of an item's groups, block by block, in the order that csrc/README.md defines: of x for
 * the moments, of x and the gradient for the dots. */
#include "abreast.h"
#include <stdint.h>

/* Of the elements of a run from its parameter on; NULL: the run has one weight. */
static const double *weights(const Work *w, ptrdiff_t param)
{
    return w->vector ? w->wide + param : NULL;
}

/* Do rows end where the array does, and may another thread have what follows: y's first lines? */
static int at_end(const Work *w, const Piece *c)
{
    return w->threads > 1 && w->plan->runs == 1 && are_last(w->plan, c->at, c->count);
}

/* Bytes from x to what is asked for while rows are taken. Of those that are applied at once the
 * lines of y, for then the next are asked for; where lines pass the caches by, these. */
static ptrdiff_t asked_for(const Work *w, const Piece *c, const Walk *x)
{
    const Tensors *t = w->t;
    const Loop *row = across(w->plan), *run = &w->plan->run[0];
    const ptrdiff_t ahead = at_end(w, c) ? 0 : w->ahead;
    if (w->piped || w->blended || !t->y || t->g || !w->near)
        return ahead;
    if (w->stream)
        return c->count * x->step;
    const int alike = row->step[X] == row->step[Y] && run->step[X] == run->step[Y];
    return alike ? (t->y + c->at[Y]) - (t->x + c->at[X]) : ahead;
}

/* A block of each group, x at its start, while other groups are applied: run by run where each run
 * has parameters of its own. */
static void sweep(const Work *w, const Piece *c, Walk x, const Summing *how, double *sums)
{
    Applying *meanwhile = how->meanwhile;
    const Plan *p = w->plan;
    const ptrdiff_t each = meanwhile && p->run[0].step[PARAM] ? 1 : c->runs;
    _Alignas(LINE) double lanes[KEPT * 2 * LANES];
    if (!p->pack && !how->kept)
        x.ahead = asked_for(w, c, &x);
    else if (!p->pack) /* what the next are made of */
        x.ahead = w->job->sum->x + c->at[X] + c->i * itemsize(F32) + c->count * x.step - x.at;
    for (ptrdiff_t run = 0; run < c->runs; run += each, x.at += x.run) {
        Applied a;
        a.count = 0;
        a.w = NULL;
        if (meanwhile)
            applied_rows(w, meanwhile, c->run + run, c->i, 0, &a);
        Taken t = {x,    c->count,  how->k, lanes, run > 0, run + each < c->runs,
                   sums, how->adds, 0,      0};
        if (how->adds) {
            const Tensors *s = w->job->sum;
            t.x.at = s->x + (x.at - s->y);
            t.r = s->g - s->x;
            t.z = s->y - s->x;
        }
        w->walk->sweep_rows(&a, &t, c->n, each);
    }
}

/* A block of each of an item's groups; a group's step is its runs in scratch, or in memory. */
static OWN_FRAME void sum_rows(const Work *w, const Piece *c, const Summing *how, ptrdiff_t param,
                               double *sums, double *included)
{
    const Weighing *by = how->by;
    const Plan *p = w->plan;
    const Tensors *t = w->t;
    const Loop *row = across(p), *run = &p->run[0];
    const ptrdiff_t size = p->pack ? arithsize(t->dtype) : itemsize(t->dtype),
                    x_at = c->at[X] + c->run * run->step[X] + c->i * itemsize(t->dtype);
    Walk x = {t->x + x_at, row->step[X], run->step[X], 0},
         g = {t->g, row->step[G], run->step[G], 0};
    Scratch xs, gs;
    if (how->kept) {
        x = (Walk){how->kept->bytes + (c->run * p->n + c->i) * size, p->runs * p->n * size,
                   p->n * size, 0};
    } else if (p->pack) {
        x = g = (Walk){xs.bytes, c->runs * c->n * size, c->n * size, 0};
        move(w, IN, c, &xs, how->k, included);
        g.at = gs.bytes;
        if (by)
            move(w, GRAD, c, &gs, NULL, NULL);
    } else if (by) { /* the next item, or the next run */
        g.at += c->at[G] + c->run * run->step[G] + c->i * size;
        const int last = at_end(w, c);
        x.ahead = !w->near ? x.run : last ? 0 : x.step * c->count;
        g.ahead = !w->near ? g.run : last ? 0 : g.step * c->count;
    }
    if (by)
        w->walk->dots_rows(&x, &g, c->count, c->n, c->runs, &by->about, weights(w, param),
                           by->params ? by->params + param : NULL, by->pitch, own_step(w), sums);
    else
        sweep(w, c, x, how, sums);
}

/* Rows whose groups are a block each, as they lie: nothing is to be placed. */
static void sweep_whole(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count,
                        const Summing *how, Sums *to)
{
    const Plan *p = w->plan;
    const Walk x = {w->t->x + at[X], across(p)->step[X], p->run[0].step[X], 0};
    to->joined = 0;
    sweep(w, &(Piece){at, count, 0, p->runs, 0, p->n}, x, how, to->hi[0]);
}

/* Rows of columns that are taken together. */
static ptrdiff_t strip_of(const Plan *p, ptrdiff_t width, int at_once)
{
    return p->pack ? BLOCK / width / LANES * LANES : at_once ? FOLDED : STRIP;
}

/* Bytes to what is taken after a block that is one run, or a part of it: the rest, the next run, or
 * other columns. */
static ptrdiff_t next_block(const Plan *p, const Piece *c, ptrdiff_t size)
{
    return p->n > c->n   ? c->n * p->inner[0].step[X]
           : p->runs > 1 ? p->run[0].step[X]
                         : c->count * size;
}

/* A block of columns, run by run in strips whose lines stay in cache while lanes are walked.
 * at_once: the block is one run, and one strip. */
static OWN_FRAME void sum_cols(const Work *w, const Piece *c, const Summing *how, ptrdiff_t param,
                               int at_once, double *sums, double *included)
{
    _Alignas(LINE) double lanes[2 * LANES * PITCH];
    const Weighing *by = how->by;
    const double *k = how->k;
    const Plan *p = w->plan;
    const Tensors *t = w->t;
    const ptrdiff_t size = p->pack ? arithsize(t->dtype) : itemsize(t->dtype);
    const ptrdiff_t width = c->count, end = c->i + c->n;
    const ptrdiff_t strip = strip_of(p, width, at_once);
    Scratch xs, gs;
    if (!at_once)
        lanes_clear(lanes, c->n, width);
    for (ptrdiff_t run = c->run; run < c->run + c->runs; run++)
        for (ptrdiff_t i = c->i; i < end; i += strip) {
            const Piece s = {c->at, width, run, 1, i, end - i < strip ? end - i : strip};
            const ptrdiff_t here_param = param + i - c->i;
            const int resume = run > c->run || i > c->i;
            ptrdiff_t here[STEPS];
            memcpy(here, c->at, sizeof here);
            locate(p->run, p->nrun, run, here);
            locate(p->inner, p->ninner, i, here);
            Walk x = {t->x + here[X], p->inner[0].step[X], 0, 0};
            Walk g = {t->g, p->inner[0].step[G], 0, 0};
            if (p->pack) {
                const ptrdiff_t next = i + s.n, left = p->n - next;
                ask_piece(w, &(Piece){c->at, width, run, 1, next, left < s.n ? left : s.n});
                x = g = (Walk){xs.bytes, width * size, 0, 0};
                move(w, IN, &s, &xs, k, included);
                g.at = gs.bytes;
                if (by)
                    move(w, GRAD, &s, &gs, NULL, NULL);
            } else if (by) {
                g.at += here[G];
            }
            if (by)
                w->walk->dots_cols(&x, &g, s.n, width, &by->about, weights(w, here_param),
                                   by->params ? by->params + here_param : NULL, by->pitch, LANES,
                                   resume, lanes);
            else if (at_once)
                w->walk->take_run_cols(x.at, x.step, next_block(p, &s, size), s.n, width, k, sums);
            else
                w->walk->take_cols(x.at, x.step, s.n, width, k, LANES, resume, lanes);
        }
    if (!at_once)
        w->walk->fold_cols(lanes, lanes_used(c->n), width, sums);
}

/* One by one, as rows were summed: a load of several would wait until their stores, and all before,
 * have left for the cache. */
static void join_all(ptrdiff_t count, const double *block, double *hi, double *lo)
{
    for (ptrdiff_t g = 0; g < count; g++) {
        Two t = {hi[g], lo[g]};
        join(&t, block[g]);
        hi[g] = t.hi;
        lo[g] = t.lo;
        __asm__ volatile("" ::: "memory");
    }
}

void blocks_of(const Plan *p, int each_run, Blocks *to)
{
    *to = (Blocks){1, 1, 1, 1, 1};
    if (p->runs == 1 && p->n <= p->block)
        return;
    const ptrdiff_t per = each_run ? 1 : p->per, along = (p->n - 1) / p->block + 1;
    const ptrdiff_t elements = along > 1 ? p->block : per * p->n;
    const ptrdiff_t all = ((p->runs - 1) / per + 1) * along, even = all * elements / SPANS;
    const ptrdiff_t most = even < BLOCK ? BLOCK : even > SPAN ? SPAN : even;
    const ptrdiff_t span = (most - 1) / elements + 1;
    *to = (Blocks){per, along, all, span, (all - 1) / span + 1};
}

Piece block_of(const Plan *p, const Blocks *of, ptrdiff_t b)
{
    const ptrdiff_t run = b ? b / of->along * of->per : 0, i = b ? b % of->along * p->block : 0;
    return (Piece){.run = run,
                   .runs = p->runs - run < of->per ? p->runs - run : of->per,
                   .i = i,
                   .n = p->n - i < p->block ? p->n - i : p->block};
}

static void sum_block(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Summing *how,
                      const Blocks *of, ptrdiff_t b, double *sum, double *included)
{
    const Plan *p = w->plan;
    const ptrdiff_t longest = p->n < p->block ? p->n : p->block;
    const int single = of->per == 1 || p->runs == 1;
    const int at_once = p->form == COLS && !how->by && single && longest <= strip_of(p, count, 1);
    Piece c = block_of(p, of, b);
    c.at = at;
    c.count = count;
    ptrdiff_t here[STEPS] = {[PARAM] = at[PARAM]};
    if (how->by && p->vector) {
        locate(p->run, p->nrun, c.run, here);
        here[PARAM] += c.i;
    }
    if (p->form == COLS && sums_flat(w, &c, at_once))
        sum_flat(w, &c, how, sum);
    else if (p->form == COLS)
        sum_cols(w, &c, how, here[PARAM], at_once, sum, included);
    else
        sum_rows(w, &c, how, here[PARAM], sum, included);
}

static void clear(Sums *to, ptrdiff_t count)
{
    for (ptrdiff_t g = 0; g < count; g++)
        to->hi[0][g] = to->lo[0][g] = to->hi[1][g] = to->lo[1][g] = 0;
}

/* Some blocks of each group; the included elements are added to `included`. */
static void sum_blocks(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count,
                       const Summing *how, const Blocks *of, ptrdiff_t first, ptrdiff_t last,
                       Sums *to, double *included)
{
    _Alignas(LINE) double block[2 * TILE];
    to->joined = last - first > 1;
    if (to->joined)
        clear(to, count);
    for (ptrdiff_t b = first; b < last; b++) {
        sum_block(w, at, count, how, of, b, to->joined ? block : to->hi[0], included);
        for (int o = 0; o < 2 && to->joined; o++)
            join_all(count, block + o * TILE, to->hi[o], to->lo[o]);
    }
}

static void sum_span(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Summing *how,
                     const Blocks *of, ptrdiff_t span, Sums *to, double *included)
{
    const ptrdiff_t first = span * of->span, last = first + of->span;
    sum_blocks(w, at, count, how, of, first, last < of->all ? last : of->all, to, included);
}

static void add_span(Sums *to, ptrdiff_t g, const SpanSums *s)
{
    for (int o = 0; o < 2; o++) {
        Two t = {to->hi[o][g], to->lo[o][g]};
        join_two(&t, (Two){s->hi[o], s->lo[o]});
        to->hi[o][g] = t.hi;
        to->lo[o][g] = t.lo;
    }
}

static SpanSums span_sums(const Sums *s, ptrdiff_t g)
{
    const Two r = sum_of(s, 0, g), q = sum_of(s, 1, g);
    return (SpanSums){{r.hi, q.hi}, {r.lo, q.lo}, 0};
}

/* One after the other. */
static OWN_FRAME void sum_in_turn(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count,
                                  const Summing *how, const Blocks *of, Sums *to)
{
    Sums each;
    to->joined = 1;
    clear(to, count);
    for (ptrdiff_t span = 0; span < of->spans; span++) {
        sum_span(w, at, count, how, of, span, &each, to->count);
        for (ptrdiff_t g = 0; g < count; g++) {
            const SpanSums s = span_sums(&each, g);
            add_span(to, g, &s);
        }
    }
}

/* Spans of an item, and groups of it, for threads to share: as many at a time as have room. */
typedef struct {
    const Work *w;
    const ptrdiff_t *at;
    const Summing *how;
    const Blocks *of;
    ptrdiff_t count, each; /* groups; that are summed together */
    ptrdiff_t first, spans;
} Spread;

static OWN_FRAME void sum_part(const Spread *s, ptrdiff_t item)
{
    const ptrdiff_t span = item % s->spans, g = item / s->spans * s->each;
    const ptrdiff_t count = s->count - g < s->each ? s->count - g : s->each;
    const Weighing *by = s->how->by;
    Weighing weighing;
    Summing how = *s->how;
    Sums sum;
    double included[TILE] = {0};
    how.k = how.k ? how.k + g : NULL;
    if (by) {
        weighing = *by;
        weighing.about = (Deviations){by->about.k + g, by->about.lo + g, by->about.rstd + g};
        how.by = &weighing;
    }
    sum_span(s->w, nth(s->w, s->at, g).at, count, &how, s->of, s->first + span, &sum, included);
    for (ptrdiff_t i = 0; i < count; i++) {
        SpanSums *to = &s->w->spans[span * s->count + g + i];
        *to = span_sums(&sum, i);
        to->count = included[i];
    }
}

static void sum_parts_of(void *context, Share *share)
{
    for (ptrdiff_t item; next_item(share, &item);)
        sum_part(context, item);
}

/* Groups that one thread sums together: several where spans are few, but no fewer than fill lines
 * of columns, or a block. What goes to parameters as well is summed in the order of groups. */
static ptrdiff_t groups_together(const Work *w, ptrdiff_t count, ptrdiff_t spans)
{
    enum { COLUMNS = 2 * LANES, SHARES = 2 };
    const ptrdiff_t pieces = (SHARES * w->inside - 1) / spans + 1, n = w->plan->runs * w->plan->n;
    const ptrdiff_t least = w->plan->form == COLS ? COLUMNS : (BLOCK - 1) / n + 1;
    const ptrdiff_t each = (count - 1) / pieces + 1, lanes = (each - 1) / LANES * LANES + LANES;
    return each < least ? least : w->plan->form == COLS ? lanes : each;
}

static void sum_shared_out(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count,
                           const Summing *how, const Blocks *of, Sums *to)
{
    const int ordered = how->by && how->by->params;
    const ptrdiff_t each = ordered ? count : groups_together(w, count, of->spans);
    Spread s = {w, at, how, of, count, each, 0, 0};
    to->joined = 1;
    clear(to, count);
    for (; count && s.first < of->spans; s.first += s.spans) {
        const ptrdiff_t left = of->spans - s.first;
        s.spans = left < w->room ? left : w->room;
        parallel(w->inside, ((count - 1) / each + 1) * s.spans, sum_parts_of, &s);
        for (ptrdiff_t i = 0; i < s.spans * count; i++) {
            add_span(to, i % count, &w->spans[i]);
            to->count[i % count] += w->spans[i].count;
        }
    }
}

void sums(const Work *w, const ptrdiff_t at[STEPS], ptrdiff_t count, const Summing *how, Sums *to)
{
    const Plan *p = w->plan;
    const Blocks *of = &w->blocks[how->by && p->vector];
    to->n = (double)(p->runs * p->n);
    to->masked = w->t->mask != NULL;
    if (of->all == 1 && p->form == ROWS && !p->pack && w->inside == 1 && !how->by && !how->kept) {
        sweep_whole(w, at, count, how, to);
        return;
    }
    for (ptrdiff_t g = 0; g < count; g++)
        to->count[g] = 0;
    if (how->kept && p->pack)
        move(w, IN, &(Piece){at, count, 0, p->runs, 0, p->n}, how->kept->bytes, how->k, to->count);
    if (w->inside > 1)
        sum_shared_out(w, at, count, how, of, to);
    else if (of->spans > 1)
        sum_in_turn(w, at, count, how, of, to);
    else
        sum_blocks(w, at, count, how, of, 0, of->all, to, to->count);
}
