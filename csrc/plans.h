/* From a job to its work. Calls of the same layouts follow each other: each thread keeps what was
 * laid out for its last ones, but where threads share an item, which has memory of its own. To plan
 * is a fifth of a small call; and what a call does not write again stays in other threads' caches.
 *
 * A layout is all of a job that its plan and items depend on: shape, steps, types, which operands
 * there are and how they are aligned, the table of kernels; never an address or a value. How many
 * threads there were is compared, too. */
#ifndef NORMC_PLANS_H
#define NORMC_PLANS_H
#include "work.h"

/* norm.c: the statistics are given, nothing is taken, and x, more than the first cache holds, is
 * read as it lies. */
int walked(const Job *);
/* norm.c: all axes of a job, outermost first, and which share; how many. */
int axes_of(const Job *, Loop *, char *shared);
/* Are channels, which share, groups of the plan? */
int parted(const Job *);
/* Its row of the table. */
int norm_split(NormKind);
int norm_blended(NormKind);
/* work.c: a job's plan and operands, which are the caller's own or kept, and what work_close()
 * frees; NULL: out of memory. Without elements there is no more than the plan. */
typedef struct {
    Work work;
    Plan plan;
} Planned;
Work *work_open(Planned *own, const Job *);
void work_close(Work *);

/* Slots; axes of a layout at most. */
enum { SLOT_BITS = 4, SLOTS = 1 << SLOT_BITS, AXES = 8 };
/* Steps of what there is. */
typedef struct {
    ptrdiff_t shape, x, y, g, mask;
} Axis;
typedef struct {
    ptrdiff_t operands, axes, num_groups, ndim; /* the first two in bits */
    const Kernels *kernels;
} Layout;
typedef struct {
    int known; /* it is laid out; else what is there is nothing */
    Layout layout;
    Axis axes[AXES];
    Planned planned;
} Slot;
/* Where the job's layout is kept, or is to be; NULL: nowhere. */
Slot *plans_slot(const Job *);
#endif
