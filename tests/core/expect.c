/* Every norm from its formula, and how far from it a result may be. */
#include "check.h"
#include <math.h>
#include <stdlib.h>

/* 2 to the power of minus the significant bits, of the type that is computed in. */
static const long double unit[] = {0x1p-24L, 0x1p-24L, 0x1p-24L, 0x1p-53L};
static const long double tiny[] = {0x1p-24L, 0x1p-133L, 0x1p-149L, 0x1p-1074L};

static ptrdiff_t size_of(const Tensors *t)
{
    ptrdiff_t size = 1;
    for (int i = 0; i < t->ndim; i++)
        size *= t->shape[i];
    return size;
}

static ptrdiff_t coordinate(const Tensors *t, ptrdiff_t element, int axis)
{
    for (int i = t->ndim - 1; i > axis; i--)
        element /= t->shape[i];
    return element % t->shape[axis];
}

static ptrdiff_t at(const Tensors *t, const ptrdiff_t *step, ptrdiff_t element)
{
    ptrdiff_t offset = 0;
    for (int i = 0; i < t->ndim; i++)
        offset += coordinate(t, element, i) * step[i];
    return offset;
}

/* The number of `element` among the axes whose flag is `flag`, in C order. */
static ptrdiff_t number_among(const Job *j, ptrdiff_t element, char flag)
{
    ptrdiff_t number = 0;
    for (int i = 0; i < j->t.ndim; i++)
        if (j->reduce[i] == flag)
            number = number * j->t.shape[i] + coordinate(&j->t, element, i);
    return number;
}

static ptrdiff_t extent_of(const Job *j, char flag)
{
    ptrdiff_t extent = 1;
    for (int i = 0; i < j->t.ndim; i++)
        if (j->reduce[i] == flag)
            extent *= j->t.shape[i];
    return extent;
}

ptrdiff_t group_of(const Job *j, ptrdiff_t element)
{
    if (j->kind == LAYER || j->kind == RMS)
        return number_among(j, element, 0);
    ptrdiff_t channels = j->t.shape[j->axis], c = coordinate(&j->t, element, j->axis);
    ptrdiff_t n = coordinate(&j->t, element, 0);
    if (j->kind == BATCH)
        return c;
    if (j->kind == GROUP)
        return n * j->num_groups + c / (channels / j->num_groups);
    return n * channels + c;
}

ptrdiff_t groups_of(const Job *j)
{
    if (j->kind == LAYER || j->kind == RMS)
        return extent_of(j, 0);
    return (j->kind == BATCH ? 1 : j->t.shape[0]) *
           (j->kind == GROUP ? j->num_groups : j->t.shape[j->axis]);
}

ptrdiff_t parameters_of(const Job *j)
{
    return j->kind == LAYER || j->kind == RMS ? extent_of(j, 1) : j->t.shape[j->axis];
}

static ptrdiff_t parameter_of(const Job *j, ptrdiff_t element)
{
    return j->kind == LAYER || j->kind == RMS ? number_among(j, element, 1)
                                              : coordinate(&j->t, element, j->axis);
}

static int excluded(const Tensors *t, ptrdiff_t element)
{
    return t->mask && !t->mask[at(t, t->mstep, element)];
}

static long double value(const Tensors *t, ptrdiff_t element)
{
    return read_element(t->dtype, t->x + at(t, t->xstep, element), t->swapped);
}

/* Means are kept as differences from one element, which are exact or nearly so: no mean is too
 * large for them. */
long double origin_of(const Job *j)
{
    ptrdiff_t size = size_of(&j->t);
    for (ptrdiff_t i = 0; j->kind != RMS && i < size; i++)
        if (!excluded(&j->t, i) && isfinite(value(&j->t, i)))
            return value(&j->t, i);
    return 0;
}

Exact *exact_moments(const Job *j)
{
    ptrdiff_t groups = groups_of(j), size = size_of(&j->t);
    long double origin = origin_of(j);
    Exact *m = calloc((size_t)groups + 1, sizeof *m);
    if (!m)
        abort();
    for (ptrdiff_t i = 0; i < size; i++)
        if (!excluded(&j->t, i)) {
            m[group_of(j, i)].count++;
            m[group_of(j, i)].mean += value(&j->t, i) - origin;
        }
    for (ptrdiff_t g = 0; g < groups; g++)
        m[g].mean = j->kind == RMS || m[g].count == 0 ? 0 : m[g].mean / m[g].count;
    for (ptrdiff_t i = 0; i < size; i++)
        if (!excluded(&j->t, i)) {
            Exact *g = &m[group_of(j, i)];
            long double d = value(&j->t, i) - origin - g->mean;
            g->m2 += isfinite(d) ? d * d : NAN;
        }
    return m;
}

static void softmax(int n, const double *logits, long double *p)
{
    long double sum = 0;
    for (int i = 0; i < n; i++)
        sum += p[i] = expl(logits[i]);
    for (int i = 0; i < n; i++)
        p[i] /= sum;
}

/* Of groups of one size: the mean of all, the mean of their variances, the variance of their
 * means. The correction is of the groups' own variance or, where they are single elements (two
 * logits), of that between them. */
typedef struct {
    long double mean, within, between;
} Joined;

static Joined joined(const Job *j, const Exact *m, ptrdiff_t step, ptrdiff_t count)
{
    int single = j->kind == SWITCHABLE && j->logits.n == 2;
    Joined all = {0, 0, 0};
    for (ptrdiff_t i = 0; i < count; i++)
        all.mean += m[i * step].mean / count;
    for (ptrdiff_t i = 0; i < count; i++) {
        long double d = m[i * step].mean - all.mean, n = m[i * step].count - j->correction;
        all.within += m[i * step].m2 / (n > 0 ? n : 1) / count;
        all.between += d * d / (single && count > 1 ? count - j->correction : count);
    }
    return all;
}

/* Instance, layer and batch statistics of group (n, c), blended. */
static void blended(const Job *j, const Exact *m, ptrdiff_t n, ptrdiff_t c, long double *mean,
                    long double *var)
{
    ptrdiff_t channels = j->t.shape[j->axis], batch = j->t.shape[0];
    int first = 3 - j->logits.n;
    long double p[3], q[3];
    Joined kinds[] = {joined(j, m + n * channels + c, 0, 1),
                      joined(j, m + n * channels, 1, channels), joined(j, m + c, channels, batch)};
    if (j->given_mean)
        kinds[2] = (Joined){j->given_mean[c] - origin_of(j), j->given_var[c], 0};
    softmax(j->logits.n, j->logits.mean, p);
    softmax(j->logits.n, j->logits.var, q);
    *mean = *var = 0;
    for (int i = 0; i < j->logits.n; i++) {
        *mean += p[i] * kinds[first + i].mean;
        *var += q[i] * (kinds[first + i].within + kinds[first + i].between);
    }
}

/* What a channel adds to its running statistics: instances are averaged, a batch is one group. */
Exact *exact_channels(const Job *j, const Exact *m)
{
    int channelwise = j->kind == BATCH || j->kind == INSTANCE || j->kind == SWITCHABLE;
    ptrdiff_t channels = channelwise ? j->t.shape[j->axis] : 0, groups = groups_of(j);
    Exact *sum = calloc((size_t)channels + 1, sizeof *sum);
    if (!sum)
        abort();
    for (ptrdiff_t c = 0; c < channels; c++) {
        Joined all = joined(j, m + c, channels, groups / channels);
        sum[c].mean = all.mean;
        sum[c].m2 = all.within + (j->kind == INSTANCE ? 0 : all.between);
        for (ptrdiff_t g = c; g < groups; g += channels)
            sum[c].count += m[g].count;
    }
    return sum;
}

/* What group g is normalised by; the mean less the origin. */
static void statistics(const Job *j, const Exact *m, ptrdiff_t g, long double *mean,
                       long double *var)
{
    ptrdiff_t channels = j->kind == LAYER || j->kind == RMS ? 1 : j->t.shape[j->axis];
    if (j->kind == SWITCHABLE) {
        blended(j, m, g / channels, g % channels, mean, var);
    } else if (j->given_mean) {
        *mean = j->given_mean[g % channels] - origin_of(j);
        *var = j->given_var[g % channels];
    } else {
        *mean = m[g].mean;
        *var = m[g].count > 0 ? m[g].m2 / m[g].count : 0;
    }
}

static long double parameter(const Job *j, const void *values, ptrdiff_t i, long double none)
{
    return !values             ? none
           : j->t.dtype == F64 ? ((const double *)values)[i]
                               : ((const float *)values)[i];
}

Expected *expected_norm(const Job *j, const Exact *m)
{
    ptrdiff_t size = size_of(&j->t), groups = groups_of(j);
    long double origin = origin_of(j);
    long double(*of_group)[2] = calloc((size_t)groups + 1, sizeof *of_group);
    Expected *e = calloc((size_t)size + 1, sizeof *e);
    if (!e || !of_group)
        abort();
    for (ptrdiff_t g = 0; g < groups; g++)
        statistics(j, m, g, &of_group[g][0], &of_group[g][1]);
    for (ptrdiff_t i = 0; i < size; i++) {
        const long double *mean_var = of_group[group_of(j, i)];
        long double spread = mean_var[1] + j->eps, d = value(&j->t, i) - origin - mean_var[0];
        e[i].nothing = excluded(&j->t, i);
        e[i].weight = parameter(j, j->weight, parameter_of(j, i), 1);
        e[i].bias = parameter(j, j->bias, parameter_of(j, i), 0);
        e[i].mean = origin + mean_var[0];
        e[i].sigma = sqrtl(spread);
        e[i].y = e[i].nothing  ? 0
                 : spread == 0 ? e[i].bias
                               : d / e[i].sigma * e[i].weight + e[i].bias;
    }
    free(of_group);
    return e;
}

long double rounding_bound(Dtype t, long double y, long double error)
{
    double size = (double)(fabsl(y) + error);
    return t == F16 || t == BF16 ? (long double)ulp(t, size) / 2 + error : error;
}

/* float32, float64, and the half types, which are computed in float32. A blend adds the rounding
 * of its softmax. */
long double norm_bound(const Job *j, const Expected *e)
{
    Dtype t = j->t.dtype;
    long double u = unit[t], y = fabsl(e->y), less = fabsl(e->y - e->bias), w = fabsl(e->weight);
    long double least = tiny[t] * (e->sigma > 0 ? 1 + w / e->sigma : 1);
    long double means = e->sigma > 0 ? fabsl(e->mean) / e->sigma : 0;
    long double blend = j->kind == SWITCHABLE ? w * means * 0x1p-50L : 0;
    if (t == F64)
        return u * y + 8 * u * less + 8 * u * w + least + blend;
    if (t == F32)
        return u * y + 5 * u * less + w * (0x1p-42L + 0x1p-46L * means) + least + blend;
    double larger = (double)(y > less ? y : less);
    return rounding_bound(t, e->y, ulp(t, larger) * 0x1p-8L + blend);
}
