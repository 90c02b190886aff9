/* Vectors of the native width, by GNU C; the few intrinsics are in simd_*.h. Included once per
 * translation unit: the unit's flags choose the width. */
#ifndef NORMC_VEC_H
#define NORMC_VEC_H
#include "../kernels.h"
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#if defined(__AVX512BW__)
enum { VB = 64 };
#define LANE_NUMBERS {0, 1, 2, 3, 4, 5, 6, 7}
#elif defined(__AVX2__)
enum { VB = 32 };
#define LANE_NUMBERS {0, 1, 2, 3}
#else
enum { VB = 16 };
#define LANE_NUMBERS {0, 1}
#endif
/* doubles and floats in a vector, vectors that hold the lanes */
enum { DW = VB / 8, FW = VB / 4, NV = LANES / DW };

#define INLINE     static inline __attribute__((always_inline))
#define UNROLL     _Pragma("GCC unroll 16")
#define CAT_(a, b) a##_##b
#define CAT(a, b)  CAT_(a, b)

typedef double vd __attribute__((vector_size(VB)));
typedef float vf __attribute__((vector_size(VB)));
typedef float vh __attribute__((vector_size(VB / 2))); /* as many floats as vd has doubles */
typedef double ve __attribute__((vector_size(VB / 2)));
typedef int32_t vi __attribute__((vector_size(VB)));
typedef int64_t vl __attribute__((vector_size(VB)));

INLINE vd load_vd(const double *p)
{
    vd v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void store_vd(double *p, vd v)
{
    memcpy(p, &v, sizeof v);
}
INLINE vf load_vf(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void store_vf(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}

/* n bytes, fewer than most, a power of two: moves of fixed sizes, the second of which may have
 * bytes in common with the first. */
INLINE void copy_few(int most, void *to, const void *from, ptrdiff_t n)
{
    char *t = to;
    const char *f = from;
    n &= most - 1;
#define FEW(size)                                 \
    if (most > size && n >= size) {               \
        memcpy(t, f, size);                       \
        memcpy(t + n - size, f + n - size, size); \
        return;                                   \
    }
    FEW(64)
    FEW(32)
    FEW(16)
    FEW(8)
    FEW(4)
    FEW(2)
    FEW(1)
#undef FEW
}

/* any_bit: of integers. max: b where they are equal or one is NaN. stream: past the caches, to a
 * multiple of the vector's size. widen: DW elements as doubles; widen_part: the first m of them,
 * zero for the others, which are not read. load_part, store_part, part: likewise, of vectors; not
 * worth it unless PARTS. add_exact: q + a * b where the product is exact, so that fusing changes no
 * bit. add_fused: a + b, by the units that multiply, where conversions fill those that add.
 * nearest_float: rounded to float; store_floats: and stored. transpose: lane j of vector i <-> lane
 * i of vector j. add_halves: of two vectors, 4 + 4 doubles, 2 + 2, 1 + 1. */
#if defined(__AVX512BW__)
#include "simd_avx512.h"
#elif defined(__AVX2__)
#include "simd_avx2.h"
#else
#include "simd_base.h"
#endif

#ifndef __AVX512BW__ /* elements one by one are no slower there */
enum { PARTS = 0 };
INLINE vf load_part_vf(const float *p, ptrdiff_t m)
{
    vf v = {0};
    memcpy(&v, p, (size_t)m * sizeof *p);
    return v;
}
INLINE vd load_part_vd(const double *p, ptrdiff_t m)
{
    return widen_part_f64(p, m);
}
INLINE void store_part_vf(float *p, vf v, ptrdiff_t m)
{
    memcpy(p, &v, (size_t)m * sizeof *p);
}
INLINE void store_part_vd(double *p, vd v, ptrdiff_t m)
{
    memcpy(p, &v, (size_t)m * sizeof *p);
}

INLINE vf part_vf(vf v, ptrdiff_t m)
{
    return load_part_vf((const float *)&v, m);
}
INLINE vd part_vd(vd v, ptrdiff_t m)
{
    return load_part_vd((const double *)&v, m);
}
#endif

INLINE vd widen_f64(const double *p)
{
    return load_vd(p);
}

/* What is less than cut becomes 0; NaN is not. */
INLINE vd cut_vd(vd v, vd cut)
{
    return (vd)((vl)v & ~(vl)(v < cut));
}
INLINE vf cut_vf(vf v, vf cut)
{
    return (vf)((vi)v & ~(vi)(v < cut));
}

/* The same where cut is 0, as it is of floats that are stored: -0 stays, too. */
enum { ABOVE_0 = 2 };
INLINE vd above_vd(vd v)
{
    const vd zero = {0};
    return max_vd(zero, v);
}
INLINE vf above_vf(vf v)
{
    const vf zero = {0};
    return max_vf(zero, v);
}

INLINE void place_vf(int stream, float *p, vf v)
{
    (stream ? stream_vf : store_vf)(p, v);
}
INLINE void place_vd(int stream, double *p, vd v)
{
    (stream ? stream_vd : store_vd)(p, v);
}
enum { STREAM_MIN = 64 }; /* elements of a run whose lines are worth it */
/* How a run is stored: by vectors from its start on, from where each is of one line, or by lines
 * that pass the caches by. */
enum { ANYHOW, ALIGNED, STREAMED };
enum { SOON = 1024 }; /* bytes to what will be read or stored soon */
INLINE int stored_as(int stream, ptrdiff_t n)
{
    return stream && n >= STREAM_MIN ? STREAMED : n >= LINED ? ALIGNED : ANYHOW;
}
/* Bytes from p to the next cache line. */
INLINE ptrdiff_t to_line(const void *p)
{
    return (ptrdiff_t)(-(uintptr_t)p % LINE);
}
/* Bytes before the first vector of a run. */
INLINE ptrdiff_t head_of(int stored, const void *y)
{
    return stored == STREAMED ? to_line(y) : stored == ALIGNED ? to_line(y) % VB : 0;
}
INLINE void stream_line(char *to, const char *from)
{
    UNROLL
    for (int i = 0; i < LINE; i += VB)
        stream_vf((float *)(void *)(to + i), load_vf((const float *)(const void *)(from + i)));
}
/* Where to put the start of a run, n bytes up to a line: after what waits of that line, or y. */
INLINE void *line_end(Lines *l, void *y, ptrdiff_t n)
{
    const int i = l->now;
    if (l->made[i] != LINE - n || l->at[i] + l->made[i] != (char *)y)
        return y;
    l->made[i] = LINE;
    return l->bytes[i] + LINE - n;
}
/* Where to put the end of a run, less than a line. */
INLINE void *line_start(Lines *l, void *y, ptrdiff_t n)
{
    const int i = l->now = (l->now + 1) % SHARED;
    if (l->made[i] == LINE)
        stream_line(l->at[i], l->bytes[i]);
    else
        memcpy(l->at[i], l->bytes[i], (size_t)l->made[i]);
    l->at[i] = y;
    l->made[i] = n;
    return l->bytes[i];
}

/* DW doubles that have just been stored one by one: a load of them all would wait until they, and
 * every store before, have left for the cache. */
INLINE vd collect_vd(const double *p)
{
#if defined(__SSE2__)
    vd v;
    UNROLL
    for (int j = 0; j < DW; j++) {
        double d = p[j];
        __asm__("" : "+x"(d)); /* else they would become one load again */
        v[j] = d;
    }
    return v;
#else
    return load_vd(p);
#endif
}

/* The first m of DW lanes, zero for the others. */
INLINE vd first_of(vd v, ptrdiff_t m)
{
    const vl lane = LANE_NUMBERS;
    return (vd)((vl)v & (lane < m));
}
/* hi + lo += x by TwoSum, as join() does. */
INLINE void join_vd(int fused, vd *hi, vd *lo, vd x)
{
    const vd sum = fused ? add_fused(x, *hi) : *hi + x, part = sum - *hi;
    *lo += (*hi - (sum - part)) + (x - part);
    *hi = sum;
}

/* Lanes, folded: 8 + 8, 4 + 4, 2 + 2, 1 + 1. */
INLINE vd fold_vectors(int n, const vd *lanes)
{
    vd d[LANES];
    UNROLL
    for (int j = 0; j < n; j++)
        d[j] = lanes[j];
    UNROLL
    for (int h = n / 2; h; h /= 2) {
        UNROLL
        for (int j = 0; j < h; j++)
            d[j] += d[j + h];
    }
    return d[0];
}

/* Of two sums, as one double each. */
INLINE void fold_lanes(const vd *r, const vd *q, double *r_sum, double *q_sum)
{
    add_halves(fold_vectors(NV, r), fold_vectors(NV, q), r_sum, q_sum);
}

/* The same, of n groups, to sums[2][TILE]: one alone would be waited for. */
enum { TOGETHER = 16 };
INLINE void fold_groups(vd lanes[2][TOGETHER], ptrdiff_t n, double *sums)
{
    const vd zero = {0};
    for (ptrdiff_t i = n; i % DW; i++)
        lanes[0][i] = lanes[1][i] = zero;
    for (int o = 0; o < 2; o++)
        for (ptrdiff_t i = 0; i < n; i += DW) {
            double *to = sums + o * TILE + i;
            transpose(lanes[o] + i);
            const vd sum = fold_vectors(DW, lanes[o] + i);
            if (n - i < DW)
                copy_few(VB, to, &sum, (n - i) * (ptrdiff_t)sizeof(double));
            else
                store_vd(to, sum);
        }
}
#endif
