/* Vectors of the native width, by GNU C; the few intrinsics are here. Included once per translation
 * unit: the unit's flags choose the width. */
#ifndef NORMC_VEC_H
#define NORMC_VEC_H
#include "../kernels.h"
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#ifdef __AVX2__
enum { VB = 32 };
#define LANE_NUMBERS {0, 1, 2, 3}
#else
enum { VB = 16 };
#define LANE_NUMBERS {0, 1}
#endif
enum { DW = VB / 8, NV = LANES / DW }; /* doubles in a vector, vectors that hold the lanes */

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
    FEW(32)
    FEW(16)
    FEW(8)
    FEW(4)
    FEW(2)
    FEW(1)
#undef FEW
}

INLINE int any_bit(vl v)
{
#if defined(__AVX2__)
    return !_mm256_testz_si256((__m256i)v, (__m256i)v);
#else
    return (v[0] | v[1]) != 0;
#endif
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
#if defined(__AVX2__)
    return (vd)_mm256_max_pd((__m256d)zero, (__m256d)v);
#elif defined(__SSE2__)
    return (vd)_mm_max_pd((__m128d)zero, (__m128d)v);
#else
    return cut_vd(v, zero);
#endif
}
INLINE vf above_vf(vf v)
{
    const vf zero = {0};
#if defined(__AVX2__)
    return (vf)_mm256_max_ps((__m256)zero, (__m256)v);
#elif defined(__SSE2__)
    return (vf)_mm_max_ps((__m128)zero, (__m128)v);
#else
    return cut_vf(v, zero);
#endif
}

/* A store past the caches; p is a multiple of the vector's size. */
INLINE void stream_vf(float *p, vf v)
{
#if defined(__AVX2__)
    _mm256_stream_ps(p, (__m256)v);
#elif defined(__SSE2__)
    _mm_stream_ps(p, (__m128)v);
#else
    store_vf(p, v);
#endif
}
INLINE void stream_vd(double *p, vd v)
{
#if defined(__AVX2__)
    _mm256_stream_pd(p, (__m256d)v);
#elif defined(__SSE2__)
    _mm_stream_pd(p, (__m128d)v);
#else
    store_vd(p, v);
#endif
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
enum { NEXT = 4096 };     /* bytes from what is stored to what is asked for */
/* Bytes from p to the next cache line. */
INLINE ptrdiff_t to_line(const void *p)
{
    return (ptrdiff_t)(-(uintptr_t)p % LINE);
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

/* DW elements as doubles. */
INLINE vd widen_f64(const double *p)
{
    return load_vd(p);
}
INLINE vd widen_f32(const float *p)
{
#if defined(__AVX2__) /* gcc 12 converts in halves by itself */
    return (vd)_mm256_cvtps_pd(_mm_loadu_ps(p));
#elif defined(__SSE2__)
    return (vd)_mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)(const void *)p)));
#else
    vh v;
    memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, vd);
#endif
}

/* The first m of DW lanes, zero for the others. */
INLINE vd first_of(vd v, ptrdiff_t m)
{
    const vl lane = LANE_NUMBERS;
    return (vd)((vl)v & (lane < m));
}
/* The first m of DW elements as doubles, zero for the others, which are not read. */
INLINE vd widen_part_f64(const double *p, ptrdiff_t m)
{
#ifdef __AVX2__
    const vl lane = LANE_NUMBERS;
    return (vd)_mm256_maskload_pd(p, (__m256i)(lane < m));
#else
    double part[DW] = {0};
    for (ptrdiff_t i = 0; i < m && i < DW; i++)
        part[i] = p[i];
    return load_vd(part);
#endif
}
INLINE vd widen_part_f32(const float *p, ptrdiff_t m)
{
#ifdef __AVX2__
    const __m128i lane = _mm_set_epi32(3, 2, 1, 0);
    const __m128i there = _mm_cmplt_epi32(lane, _mm_set1_epi32(m < DW ? (int)m : DW));
    return (vd)_mm256_cvtps_pd(_mm_maskload_ps(p, there));
#else
    float part[DW] = {0};
    for (ptrdiff_t i = 0; i < m && i < DW; i++)
        part[i] = p[i];
    return widen_f32(part);
#endif
}

/* q + a * b where the product is exact, so that fusing changes no bit. */
INLINE vd add_exact(vd q, vd a, vd b)
{
#ifdef __FMA__
    return (vd)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)q);
#else
    return q + a * b;
#endif
}

/* a + b, by the units that multiply: where conversions fill those that add. */
INLINE vd add_fused(vd a, vd b)
{
#ifdef __FMA__
    vd one = {1, 1, 1, 1};
    __asm__("" : "+x"(one)); /* else it would become an addition again */
    return (vd)_mm256_fmadd_pd((__m256d)a, (__m256d)one, (__m256d)b);
#else
    return a + b;
#endif
}

/* hi + lo += x by TwoSum, as join() does. */
INLINE void join_vd(int fused, vd *hi, vd *lo, vd x)
{
    const vd sum = fused ? add_fused(x, *hi) : *hi + x, part = sum - *hi;
    *lo += (*hi - (sum - part)) + (x - part);
    *hi = sum;
}

INLINE vf add_fused_vf(vf a, vf b)
{
#ifdef __FMA__
    vf one = {1, 1, 1, 1, 1, 1, 1, 1};
    __asm__("" : "+x"(one));
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)one, (__m256)b);
#else
    return a + b;
#endif
}

INLINE vf sqrt_vf(vf v)
{
#if defined(__AVX2__)
    return (vf)_mm256_sqrt_ps((__m256)v);
#elif defined(__SSE2__)
    return (vf)_mm_sqrt_ps((__m128)v);
#else
    for (int i = 0; i < VB / 4; i++)
        v[i] = sqrtf(v[i]);
    return v;
#endif
}
INLINE vd sqrt_vd(vd v)
{
#if defined(__AVX2__)
    return (vd)_mm256_sqrt_pd((__m256d)v);
#elif defined(__SSE2__)
    return (vd)_mm_sqrt_pd((__m128d)v);
#else
    for (int i = 0; i < DW; i++)
        v[i] = sqrt(v[i]);
    return v;
#endif
}

/* Rounded to float, as doubles. */
INLINE vd nearest_float(vd v)
{
#if defined(__AVX2__)
    return (vd)_mm256_cvtps_pd(_mm256_cvtpd_ps((__m256d)v));
#elif defined(__SSE2__)
    return (vd)_mm_cvtps_pd(_mm_cvtpd_ps((__m128d)v));
#else
    return __builtin_convertvector(__builtin_convertvector(v, vh), vd);
#endif
}

/* Lane j of vector i <-> lane i of vector j. */
INLINE void transpose(vd v[DW])
{
#if defined(__AVX2__)
    const __m256d a = _mm256_unpacklo_pd((__m256d)v[0], (__m256d)v[1]);
    const __m256d b = _mm256_unpackhi_pd((__m256d)v[0], (__m256d)v[1]);
    const __m256d c = _mm256_unpacklo_pd((__m256d)v[2], (__m256d)v[3]);
    const __m256d d = _mm256_unpackhi_pd((__m256d)v[2], (__m256d)v[3]);
    v[0] = (vd)_mm256_permute2f128_pd(a, c, 0x20);
    v[1] = (vd)_mm256_permute2f128_pd(b, d, 0x20);
    v[2] = (vd)_mm256_permute2f128_pd(a, c, 0x31);
    v[3] = (vd)_mm256_permute2f128_pd(b, d, 0x31);
#else
    const vd a = v[0], b = v[1];
    v[0] = (vd){a[0], b[0]};
    v[1] = (vd){a[1], b[1]};
#endif
}

/* Each rounded to float. */
INLINE void store_floats(float *p, vd v)
{
#if defined(__AVX2__)
    _mm_storeu_ps(p, _mm256_cvtpd_ps((__m256d)v));
#elif defined(__SSE2__)
    _mm_storel_pi((__m64 *)(void *)p, _mm_cvtpd_ps((__m128d)v));
#else
    const vh f = __builtin_convertvector(v, vh);
    memcpy(p, &f, sizeof f);
#endif
}

/* Lanes, folded: 8 + 8, 4 + 4, 2 + 2, 1 + 1. */
INLINE vd fold_vectors(int n, const vd *lanes)
{
    vd d[NV];
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
    const vd a = fold_vectors(NV, r), b = fold_vectors(NV, q);
#if defined(__AVX2__)
    const __m128d s =
        _mm_add_pd(_mm256_castpd256_pd128((__m256d)a), _mm256_extractf128_pd((__m256d)a, 1));
    const __m128d t =
        _mm_add_pd(_mm256_castpd256_pd128((__m256d)b), _mm256_extractf128_pd((__m256d)b, 1));
    const __m128d both = _mm_add_pd(_mm_unpacklo_pd(s, t), _mm_unpackhi_pd(s, t));
    _mm_storel_pd(r_sum, both);
    _mm_storeh_pd(q_sum, both);
#else
    *r_sum = a[0] + a[1];
    *q_sum = b[0] + b[1];
#endif
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
