/* One call's work: a job as a plan, its operands, and items. What its layout decides is laid out
 * once; what its data decide is looked at in every call. */
#include "work.h"
#include "cpu.h"
#include "plans.h"
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

/* Of ReLU. What rounds to -0 stays that, as it does where it is rounded first. */
static double cut_of(const Job *job)
{
    static const double zero[DTYPES] = {[F16] = -0x1p-25, [BF16] = -0x1p-134};
    return job->relu ? zero[job->t.dtype] : -INFINITY;
}

static ptrdiff_t tile_of(const Plan *p)
{
    if (!p->pack)
        return TILE;
    if (p->form == COLS) /* rows for all lanes */
        return BLOCK / LANES;
    const ptrdiff_t total = p->runs * p->n, few = total < BLOCK ? BLOCK / total : 1;
    return few < TILE ? few : TILE;
}

/* Bytes that repay a thread: of rows, of a gradient, and, where lines or sums in common cost more,
 * of the forward of columns and of an item that threads share. A norm's gradient takes twice as
 * long as its bytes. */
enum { EACH = 1 << 17, EACH_BACK = 1 << 16, EACH_SPLIT = 7 << 16 };

static int slowness(const Work *w)
{
    return w->split && w->t->g ? 2 : 1;
}

void make_items(Work *w, ptrdiff_t batch)
{
    const ptrdiff_t bytes = w->plan->groups * w->plan->runs * w->plan->n * itemsize(w->t->dtype);
    const ptrdiff_t row = across(w->plan)->n;
    const int any = w->plan->form == COLS && w->parts == 1; /* tiles may end anywhere */
    w->batch = batch;
    w->lead = 0;
    if (w->stream && any && row > batch)
        w->lead = (ptrdiff_t)((uintptr_t)w->t->y % LINE) / itemsize(w->t->dtype);
    w->tiles = (row + w->lead + batch - 1) / batch;
    if (any && w->tiles > 1)
        w->batch = ((row + w->lead + w->tiles - 1) / w->tiles + LANES - 1) / LANES * LANES;
    w->items = w->plan->groups / row * w->tiles;
    const int slow = slowness(w);
    w->bytes = slow * bytes * (1 + (w->t->y != NULL) + (w->t->g != NULL));
    w->each = slow * (!w->split ? EACH : w->t->g ? EACH_BACK : EACH_SPLIT);
    w->threads = threads_for(w->bytes, w->each);
    w->inside = 1;
}

void make_narrow_items(Work *w, ptrdiff_t batch)
{
    enum { NARROW = 4 * LANES, SHARES = 4 };
    make_items(w, batch);
    while (w->threads > 1 && w->items < SHARES * w->threads && batch > NARROW)
        make_items(w, batch = batch / 2 / LANES * LANES);
}

/* Groups of an item: many, for each waits for the statistics of its own groups, or of the item
 * before; so many that they stay in the second cache. Long rows of a pipeline come by several, for
 * their parameters to be near for all. */
static ptrdiff_t batch_of(const Work *w, const Plan *p)
{
    enum { FEW = 3072, FORWARD = 8192, GRADIENT = 1 << 14, FAR = 1 << 14 };
    const int waits = !p->pack && (w->t->g || !w->job->given_mean);
    const ptrdiff_t total = p->runs * p->n;
    const ptrdiff_t near = (!waits ? FEW : w->t->g ? GRADIENT : FORWARD) / total;
    const int far = w->piped && w->vector && total <= FAR && !w->job->sum;
    const ptrdiff_t least = far ? 4 : 1;
    const ptrdiff_t most = w->piped && p->run[0].step[PARAM] ? KEPT : w->tile;
    const ptrdiff_t batch = p->form == COLS || near > most ? most : near < least ? least : near;
    return batch < w->parts ? w->parts : means(w, batch) * w->parts;
}

/* Are the groups of an item applied while the next are taken, in one walk of both? */
static int pipes(const Work *w, const Plan *p)
{
    const Job *job = w->job;
    const int rows = p->form == ROWS && !p->pack && job->t.dtype != F64 && job->t.y && !job->t.g;
    const int fits = 2 * w->parts * p->runs * p->n * itemsize(job->t.dtype) <= cpu_cache_bytes();
    return rows && fits && w->parts <= TILE && !w->blended && !job->given_mean;
}

/* Do x of an item, and its gradient, stay in the second cache, with as much of y? */
static int is_near(const Work *w, const Plan *p)
{
    enum { NEAR = 1 << 17 };
    return (w->t->g ? 2 : 1) * w->batch * p->runs * p->n * itemsize(w->t->dtype) <= NEAR;
}

/* Are the groups of an item packed once? */
static int keeps(const Work *w, const Plan *p)
{
    const int taken = !w->blended && !w->job->given_mean && !w->t->g;
    return p->form == ROWS && p->pack && taken && w->t->y && w->batch <= w->tile &&
           w->batch * p->runs * p->n * arithsize(w->t->dtype) <= (ptrdiff_t)sizeof(Scratch);
}

/* The plan knows of the sum. */
static int terms_aligned(const Tensors *s)
{
    const ptrdiff_t bits = (ptrdiff_t)((uintptr_t)s->x | (uintptr_t)s->g);
    return (bits & (itemsize(s->dtype) - 1)) == 0;
}

/* Is x made item by item? Rows that lie alike in all three; else, before anything is taken. */
static int adds(const Work *w, const Plan *p)
{
    const Tensors *s = w->job->sum, *t = w->t;
    if (!s || p->form != ROWS || p->pack || w->inside > 1 || s->swapped || s->gswapped ||
        s->gdtype != s->dtype || !terms_aligned(s))
        return 0;
    for (int i = 0; i < t->ndim; i++)
        if (t->shape[i] > 1 && (s->xstep[i] != t->xstep[i] || s->gstep[i] != t->xstep[i]))
            return 0;
    return 1;
}

/* Is a sum too large for the caches? Rows of an item follow each other. */
static int goes_past(const Work *w, const Plan *p)
{
    const ptrdiff_t row = p->n * itemsize(w->t->dtype);
    return w->stream && p->runs == 1 && across(p)->step[X] == row &&
           w->batch * row <= (ptrdiff_t)sizeof(Scratch);
}

/* At most CHUNKS, for each has sums of its own. */
static ptrdiff_t chunk_of(ptrdiff_t groups)
{
    enum { CHUNKS = 16, CHUNK_MIN = 64 };
    const ptrdiff_t even = (groups + CHUNKS - 1) / CHUNKS;
    return even < CHUNK_MIN ? CHUNK_MIN : even;
}

/* Is three quarters of the threads' time used? */
static int evenly(ptrdiff_t items, int threads)
{
    const ptrdiff_t rounds = (items - 1) / threads + 1;
    return 4 * items >= 3 * rounds * threads;
}

/* Items that cannot be dealt evenly come one by one, and threads share their insides, where that
 * repays. -1: out of memory. */
static int share_insides(Work *w, ptrdiff_t items)
{
    enum { TABLE = 1 << 16 }; /* bytes of sums at a time */
    const ptrdiff_t each = w->split ? slowness(w) * EACH_SPLIT : w->each;
    const int inside = threads_of(w->threads, w->bytes, each);
    if (evenly(items, w->threads) || evenly(items, inside))
        return 0;
    const ptrdiff_t most = w->batch < w->tile ? w->batch : w->tile;
    const ptrdiff_t all = w->blocks[w->t->g && w->plan->vector].spans; /* the most */
    const ptrdiff_t size = most * (ptrdiff_t)sizeof *w->spans, fit = (TABLE - 1) / size + 1;
    w->room = all < fit ? all : fit;
    w->spans = malloc((size_t)(w->room * size));
    w->inside = inside;
    w->threads = 1;
    return w->spans ? 0 : -1;
}

void work_close(Work *w)
{
    free(w->spans);
    free(w->owned);
}

static Finish finish_of(const Work *w)
{
    const Limits l = limits(w);
    const ptrdiff_t n = w->parts * w->plan->runs * w->plan->n;
    const double inverse = n & (n - 1) ? 0 : 1 / (double)n;
    return (Finish){inverse, w->job->eps, l.far, l.least, l.most, w->centred};
}

/* So many bytes of rows are under way, of so many each. */
enum { AHEAD = 8192 };
static ptrdiff_t steps_ahead(ptrdiff_t bytes)
{
    return bytes < AHEAD ? AHEAD / bytes + 1 : 1;
}

/* Of the run itself, where it is long, or of later ones; of the next groups, where runs are short
 * and those would soon be beyond the group. */
static ptrdiff_t ahead_of(const Plan *p, ptrdiff_t size)
{
    enum { LATER = 8 };
    const ptrdiff_t bytes = p->n * size, runs = steps_ahead(bytes);
    const int beyond = LATER * runs >= p->runs && bytes < AHEAD && across(p)->n > 1;
    if (bytes >= 4 * AHEAD)
        return AHEAD;
    if (p->runs > 1 && !beyond)
        return runs * p->run[0].step[X];
    return steps_ahead(p->runs * bytes) * across(p)->step[X];
}

/* All that the layout decides; -1: out of memory. */
static int lay_out(Planned *to, const Job *job)
{
    Loop axes[MAXLOOPS + 1];
    char shared[MAXLOOPS + 1];
    Work *w = &to->work;
    Plan *plan = &to->plan;
    const int naxes = axes_of(job, axes, shared), parts = parted(job);
    *w = (Work){.t = &job->t,
                .plan = plan,
                .job = job,
                .kernels = kernels(job->t.dtype),
                .parts = parts ? job->t.shape[job->axis] / job->num_groups : 1,
                .walked = walked(job),
                .params = norm_parameters(job),
                .cut = cut_of(job),
                .centred = norm_centred(job->kind),
                .blended = norm_blended(job->kind)};
    /* a parameter's gradient is summed over groups in their order, where the weight runs along
     * them; parts are neighbours */
    plan_make(plan, naxes, axes, shared, &job->t,
              parts ? 0 : !job->t.g || (norm_has_channels(job->kind) && !norm_split(job->kind)));
    const ptrdiff_t elements = plan->groups * plan->runs * plan->n;
    if (elements == 0)
        return 0;
    w->vector = plan->vector && (job->weight || job->bias || job->t.g);
    w->walk = plan->pack && job->t.dtype < F32 ? kernels(F32) : w->kernels;
    w->stream = job->t.dtype >= F32 && job->t.y && job->t.y != job->t.x && !plan->pack &&
                elements * itemsize(job->t.dtype) * (job->t.g ? 3 : 2) > cpu_stream_bytes();
    blocks_of(plan, 0, &w->blocks[0]);
    if (job->t.g && plan->vector)
        blocks_of(plan, 1, &w->blocks[1]);
    w->ahead = ahead_of(plan, itemsize(job->t.dtype));
    w->finish = finish_of(w);
    w->piped = pipes(w, plan);
    w->tile = tile_of(plan);
    w->split = plan->form == COLS || job->t.g;
    make_items(w, batch_of(w, plan));
    w->kept = keeps(w, plan);
    w->near = is_near(w, plan);
    w->chunk = chunk_of(plan->groups);
    if (share_insides(w, job->t.g && w->vector ? chunks_of(w) : w->items) < 0)
        return -1;
    w->piped = w->piped && w->inside == 1;
    w->kept = w->kept && w->inside == 1;
    w->added = adds(w, plan);
    w->past = w->added && w->piped && goes_past(w, plan);
    w->summed = w->added && w->piped && job->t.dtype == F32 && !w->past;
    w->added = w->added && !w->summed;
    return 0;
}

/* What is shared inside has memory of its own, and is not kept. */
Work *work_open(Planned *own, const Job *job)
{
    Slot *slot = plans_slot(job);
    Planned *p = slot ? &slot->planned : own;
    Work *w = &p->work;
    if (!(slot && slot->known && threads_for(w->bytes, w->each) == w->threads)) {
        if (slot)
            slot->known = 0; /* whatever becomes of it */
        if (lay_out(p, job) < 0)
            return NULL;
        if (slot)
            slot->known = w->inside == 1;
    }
    w->t = &job->t;
    w->job = job;
    w->finish.eps = job->eps;
    w->table = NULL;
    if (p->plan.groups * p->plan.runs * p->plan.n > 0 && weights_open(w) < 0) {
        free(w->spans);
        return NULL;
    }
    return w;
}
