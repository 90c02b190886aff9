#include "running.h"
#include "cpu.h"
#include "kernels.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { CHUNK = 256 };

typedef union {
    double wide[CHUNK];
    float narrow[CHUNK];
    char bytes[8 * CHUNK];
} Chunk;

/* Neighbours, of the machine's own byte order. */
static int is_plain(const Vector *v)
{
    return v->step == itemsize(v->dtype) && !v->swapped;
}

static void read_chunk(const Vector *v, ptrdiff_t at, ptrdiff_t n, double *values)
{
    Chunk c;
    if (v->dtype >= F32 && is_plain(v)) /* sooner than a kernel is found */
        memcpy(&c, v->data + at * v->step, (size_t)(n * v->step));
    else
        kernels(v->dtype)->pack(&c, v->data + at * v->step, v->step, v->swapped, n);
    for (ptrdiff_t i = 0; i < n; i++)
        values[i] = v->dtype == F64 ? c.wide[i] : (double)c.narrow[i];
}

/* To float, to odd where inexact: to half from there rounds as if it had been once (Boldo and
 * Melquiond, "Emulation of FMA and correctly rounded sums", 2008). */
static float round_to_odd(double x)
{
    float nearest = (float)x;
    uint32_t bits;
    if ((double)nearest == x || x != x)
        return nearest;
    memcpy(&bits, &nearest, 4);
    bits = (bits - (fabs((double)nearest) > fabs(x))) | 1;
    memcpy(&nearest, &bits, 4);
    return nearest;
}

/* At most CHUNK values, rounded once, to neighbours in native order. */
static void round_chunk(Dtype dtype, const double *values, ptrdiff_t n, char *to)
{
    Chunk from;
    for (ptrdiff_t i = 0; i < n; i++)
        if (dtype == F64)
            from.wide[i] = values[i];
        else
            from.narrow[i] = dtype == F32 ? (float)values[i] : round_to_odd(values[i]);
    kernels(dtype)->unpack(to, itemsize(dtype), &from, n);
}

/* But for the channels that keep what they have. */
static void write_chunk(const Vector *v, ptrdiff_t at, ptrdiff_t n, const double *values,
                        const ChannelStat *batch)
{
    const ptrdiff_t size = itemsize(v->dtype);
    Chunk to;
    int keep = 0;
    round_chunk(v->dtype, values, n, to.bytes);
    for (ptrdiff_t i = 0; i < n; i++)
        keep |= batch[at + i].keep;
    if (!keep && is_plain(v)) {
        memcpy(v->data + at * size, &to, (size_t)(n * size));
        return;
    }
    for (ptrdiff_t i = 0; i < n; i++)
        for (ptrdiff_t j = 0; j < size && !batch[at + i].keep; j++)
            v->data[(at + i) * v->step + j] = to.bytes[i * size + (v->swapped ? size - 1 - j : j)];
}

static ptrdiff_t chunk_size(const Vector *v, ptrdiff_t at)
{
    return v->n - at < CHUNK ? v->n - at : CHUNK;
}

void vector_read(const Vector *v, Dtype arithmetic, void *to)
{
    const FpState saved = fp_enter();
    double own[CHUNK];
    for (ptrdiff_t at = 0; at < v->n; at += CHUNK) {
        const ptrdiff_t n = chunk_size(v, at);
        double *const values = arithmetic == F64 ? (double *)to + at : own;
        read_chunk(v, at, n, values);
        for (ptrdiff_t i = 0; i < n && values == own; i++)
            ((float *)to)[at + i] = (float)values[i];
    }
    fp_leave(saved);
}

void round_values(const double *values, ptrdiff_t n, Dtype dtype, char *to)
{
    const FpState saved = fp_enter();
    for (ptrdiff_t at = 0; at < n; at += CHUNK)
        round_chunk(dtype, values + at, n - at < CHUNK ? n - at : CHUNK, to + at * itemsize(dtype));
    fp_leave(saved);
}

/* The next mean and variance of channels from `at` on; old: as they were. */
static void average(const Vector *v, ptrdiff_t at, ptrdiff_t n, const ChannelStat *batch,
                    int of_var, double momentum, double *old, double *next)
{
    read_chunk(v, at, n, old);
    for (ptrdiff_t i = 0; i < n; i++) {
        const double b = of_var ? batch[at + i].var : batch[at + i].mean;
        next[i] = (1 - momentum) * old[i] + momentum * b;
    }
}

void running_update(const Vector *mean, const Vector *var, const ChannelStat *batch,
                    double momentum)
{
    const FpState saved = fp_enter();
    const Vector *const both[] = {mean, var};
    double old[CHUNK], next[CHUNK];
    for (int k = 0; k < 2; k++)
        for (ptrdiff_t at = 0; at < mean->n; at += CHUNK) {
            const ptrdiff_t n = chunk_size(mean, at);
            average(both[k], at, n, batch, k, momentum, old, next);
            write_chunk(both[k], at, n, next, batch);
        }
    fp_leave(saved);
}

ptrdiff_t running_overflow(const Vector *mean, const Vector *var, const ChannelStat *batch,
                           double momentum)
{
    const FpState saved = fp_enter();
    const Vector *const both[] = {mean, var};
    double old[CHUNK], next[CHUNK];
    ptrdiff_t first = mean->n;
    for (int k = 0; k < 2; k++)
        for (ptrdiff_t at = 0; at < first; at += CHUNK) {
            const ptrdiff_t n = chunk_size(mean, at);
            Chunk to;
            average(both[k], at, n, batch, k, momentum, old, next);
            round_chunk(both[k]->dtype, next, n, to.bytes);
            read_chunk(&(Vector){to.bytes, n, itemsize(both[k]->dtype), both[k]->dtype, 0}, 0, n,
                       next);
            for (ptrdiff_t i = 0; i < n; i++)
                if (!isfinite(next[i]) && isfinite(old[i]) && !batch[at + i].keep && at + i < first)
                    first = at + i;
        }
    fp_leave(saved);
    return first;
}
