/* The table of norms: which elements share; a job's axes. */
#include "kernels.h"
#include "norm.h"
#include "plans.h"

/* Which elements share a mean, and along what the weight runs. The channel norms see x as (N, C,
 * P), wherever the channel axis stands; the others share the axes that the job names. */
static const struct {
    char channels;         /* (N, C, P); else the job's axes, along which the weight runs */
    char over_n, over_p;   /* which of them share */
    char split;            /* C is num_groups groups of channels, which share: parts, or a run */
    char centred, blended; /* blended: between take and apply, instance, layer and batch */
} table[NORMS] = {
    [BATCH] = {.channels = 1, .over_n = 1, .over_p = 1, .centred = 1},
    [INSTANCE] = {.channels = 1, .over_p = 1, .centred = 1},
    [GROUP] = {.channels = 1, .over_p = 1, .split = 1, .centred = 1},
    [SWITCHABLE] = {.channels = 1, .over_p = 1, .centred = 1, .blended = 1},
    [LAYER] = {.centred = 1},
    [RMS] = {.centred = 0},
};

int norm_centred(NormKind kind)
{
    return table[kind].centred;
}

int norm_has_channels(NormKind kind)
{
    return table[kind].channels;
}

int norm_split(NormKind kind)
{
    return table[kind].split;
}

int norm_blended(NormKind kind)
{
    return table[kind].blended;
}

ptrdiff_t norm_groups(const Job *job, ptrdiff_t *shape)
{
    ptrdiff_t groups = 1;
    for (int i = 0; i < job->t.ndim; i++) {
        const int kept = !table[job->kind].channels ? !job->reduce[i]
                         : i == job->axis           ? 1
                                          : i == (job->axis == 0) && !table[job->kind].over_n;
        shape[i] = kept ? job->t.shape[i] : 1;
        if (table[job->kind].split && i == job->axis)
            shape[i] = job->num_groups;
        groups *= shape[i];
    }
    return groups;
}

ptrdiff_t norm_parameters(const Job *job)
{
    ptrdiff_t n = 1;
    if (table[job->kind].channels)
        return job->t.shape[job->axis];
    for (int i = 0; i < job->t.ndim; i++)
        n *= job->reduce[i] ? job->t.shape[i] : 1;
    return n;
}

/* ---- axes ---------------------------------------------------------------------------- */

/* (N, C): the rest is one element. */
static int flat(const Job *job)
{
    const ptrdiff_t examples = job->t.ndim > 1 ? job->t.shape[job->axis == 0] : 1;
    ptrdiff_t elements = 1;
    for (int i = 0; i < job->t.ndim; i++)
        elements *= job->t.shape[i];
    return elements == examples * job->t.shape[job->axis];
}

int parted(const Job *job)
{
    return table[job->kind].split && !flat(job) && job->num_groups < job->t.shape[job->axis];
}

int walked(const Job *job)
{
    enum { NEAR = 1 << 14 }; /* bytes: x and y are in the first cache, where nothing is far */
    ptrdiff_t bytes = itemsize(job->t.dtype);
    for (int i = 0; i < job->t.ndim; i++)
        bytes *= job->t.shape[i];
    return job->given_mean && !job->t.g && !table[job->kind].blended && bytes > NEAR;
}

/* Few channels, which lie nearest: what has all of them is followed by the next place's. */
static int channels_last(const Job *job)
{
    const Tensors *t = &job->t;
    const ptrdiff_t channels = t->shape[job->axis], step = t->xstep[job->axis];
    int i = t->ndim - 1;
    while (i >= 0 && (i == job->axis || t->shape[i] == 1))
        i--;
    return channels > 1 && channels <= TILE && i >= 0 && step == itemsize(t->dtype) &&
           t->xstep[i] == channels * step;
}

/* A run is what one channel has of an example, or, if that is one element, or channels are nearer,
 * of all; but for the gradients of the parameters. */
static int shares_n(const Job *job)
{
    return walked(job) ? flat(job) || channels_last(job) : table[job->kind].over_n;
}

/* (N, C, P): the first axis that is not the channels, the channels, the rest. */
static int channel_axes(const Job *job, Loop *axes, char *shared)
{
    const int first = job->axis == 0;
    int n = 0;
    if (job->t.ndim > 1) {
        axis_loop(&job->t, first, &axes[n]);
        shared[n++] = (char)shares_n(job);
    }
    axis_loop(&job->t, job->axis, &axes[n]);
    axes[n].step[PARAM] = 1;
    shared[n++] = 0;
    if (table[job->kind].split && flat(job)) { /* (C) -> (groups, C / groups) */
        axes[n] = axes[n - 1];
        axes[n].n /= job->num_groups;
        shared[n++] = 1;
        axes[n - 2].n = job->num_groups;
        for (int s = 0; s < STEPS; s++)
            axes[n - 2].step[s] *= axes[n - 1].n;
    }
    for (int i = first + 1; i < job->t.ndim; i++) {
        if (i == job->axis)
            continue;
        axis_loop(&job->t, i, &axes[n]);
        shared[n++] = table[job->kind].over_p;
    }
    return n;
}

static int named_axes(const Job *job, Loop *axes, char *shared)
{
    ptrdiff_t along = 1;
    for (int i = job->t.ndim - 1; i >= 0; i--) {
        axis_loop(&job->t, i, &axes[i]);
        shared[i] = job->reduce[i];
        if (shared[i]) {
            axes[i].step[PARAM] = along;
            along *= axes[i].n;
        }
    }
    return job->t.ndim;
}

/* Statistics are stored in the order of the kept axes as they stand in x: where the channels come
 * first, (C, N). */
static void number_statistics(const Job *job, int naxes, Loop *axes, const char *shared)
{
    const int channels_first =
        table[job->kind].channels && !parted(job) && job->axis == 0 && naxes > 1 && !shared[0];
    ptrdiff_t along = 1;
    for (int i = naxes - 1; i >= 0; i--)
        if (!shared[i] && !(channels_first && i == 1)) {
            axes[i].step[STAT] = along;
            along *= axes[i].n;
        }
    if (channels_first)
        axes[1].step[STAT] = along;
}

Grid grid(const Job *job, ptrdiff_t groups)
{
    const ptrdiff_t channels = job->t.shape[job->axis], instances = groups / channels;
    return job->axis == 0 ? (Grid){instances, channels, 1, instances}
                          : (Grid){instances, channels, channels, 1};
}

int axes_of(const Job *job, Loop *axes, char *shared)
{
    const int channels = table[job->kind].channels;
    const int naxes = channels ? channel_axes(job, axes, shared) : named_axes(job, axes, shared);
    number_statistics(job, naxes, axes, shared);
    return naxes;
}
