#include "plans.h"
#include "cpu.h"
#include <stdint.h>
#include <stdlib.h>

Plans *plans_new(void)
{
    return calloc(1, sizeof(Plans));
}

void plans_free(Plans *plans)
{
    free(plans);
}

/* Which operands there are and what they are of, a bit or two each; the kernels are x's. */
static ptrdiff_t operands_of(const Job *job)
{
    const Tensors *t = &job->t;
    const uintptr_t low = ((uintptr_t)t->x | (uintptr_t)t->y | (uintptr_t)t->g) & 7;
    return (ptrdiff_t)low | (t->y != NULL) << 3 | (t->g != NULL) << 4 | (t->mask != NULL) << 5 |
           (t->swapped != 0) << 6 | (t->gswapped != 0) << 7 | (job->relu != 0) << 8 |
           (job->weight != NULL) << 9 | (job->bias != NULL) << 10 |
           (job->given_mean != NULL) << 11 | (int)t->gdtype << 12 | (int)job->kind << 14;
}

/* How channels are grouped, or which axes share. */
static ptrdiff_t axes_named(const Job *job)
{
    ptrdiff_t bits = 0;
    if (norm_has_channels(job->kind))
        return job->axis;
    for (int i = 0; i < job->t.ndim; i++)
        bits = bits << 1 | job->reduce[i];
    return bits;
}

/* A sum's terms are not looked at. Beyond SMALL, planning is little; what is less than a third of
 * the caches never passes them by. */
static int fits(const Job *job)
{
    enum { SMALL = 1 << 15 };
    ptrdiff_t bytes = itemsize(job->t.dtype);
    if (!job->plans || job->sum || job->t.ndim > AXES)
        return 0;
    for (int i = 0; i < job->t.ndim; i++)
        bytes *= job->t.shape[i];
    return bytes > 0 && bytes <= SMALL && 3 * bytes <= cpu_stream_bytes();
}

/* What there is of shape and steps. */
static int rows_of(const Tensors *t, const ptrdiff_t *rows[ROWS_OF_AXES])
{
    int n = 0;
    rows[n++] = t->shape;
    rows[n++] = t->xstep;
    if (t->y)
        rows[n++] = t->ystep;
    if (t->g)
        rows[n++] = t->gstep;
    if (t->mask)
        rows[n++] = t->mstep;
    return n;
}

/* No vectors: they would be prepared for a few words. */
static inline int same_row(const ptrdiff_t *a, const ptrdiff_t *b, int n)
{
    int i = 0;
    while (i < n && a[i] == b[i])
        i++;
    return i == n;
}

Slot *plans_slot(const Job *job)
{
    const Tensors *t = &job->t;
    const ptrdiff_t *rows[ROWS_OF_AXES];
    if (!fits(job))
        return NULL;
    const int n = rows_of(t, rows);
    const Layout all = {operands_of(job), axes_named(job), job->num_groups, t->ndim,
                        kernels(t->dtype)};
    uint64_t hash = (uint64_t)all.operands;
    for (int i = 0; i < t->ndim; i++)
        hash = (hash << 9 | hash >> 55) ^ (uint64_t)(t->shape[i] + t->xstep[i]);
    Slot *slot = &job->plans->slot[hash * 0x9e3779b97f4a7c15u >> (64 - SLOT_BITS)];
    const Layout *had = &slot->layout;
    int same = slot->known && had->operands == all.operands && had->axes == all.axes &&
               had->num_groups == all.num_groups && had->ndim == all.ndim &&
               had->kernels == all.kernels;
    for (int r = 0; r < n && same; r++)
        same = same_row(slot->rows[r], rows[r], t->ndim);
    if (same)
        return slot;
    slot->known = 0;
    slot->layout = all;
    for (int r = 0; r < n; r++)
        memcpy(slot->rows[r], rows[r], (size_t)t->ndim * sizeof *rows[r]);
    return slot;
}
