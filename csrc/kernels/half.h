/* float16 and bfloat16 <-> float, a vector of them. Exact one way, to nearest even the other,
 * subnormals and infinities included; a NaN stays a NaN. */
#ifndef NORMC_HALF_H
#define NORMC_HALF_H
#include "vec.h"

/* Whole vectors convert fast enough for kernels to walk halves as they lie. */
#ifdef __F16C__
#define HALVES
enum { HALVES_DIRECT = 1 };
#else
enum { HALVES_DIRECT = 0 };
#endif

enum { FW = VB / 4 }; /* floats in a vector */
typedef uint16_t vs __attribute__((vector_size(VB / 2)));
typedef uint32_t vu __attribute__((vector_size(VB)));

INLINE vs load_halves(const uint16_t *x)
{
    vs v;
    memcpy(&v, x, sizeof v);
    return v;
}
/* The first n of 4, of FW halves, zero for the others, which are not read. Without a place in
 * memory, which could not be loaded whole before all of its parts have left for the cache. */
INLINE uint64_t few_halves(const uint16_t *x, ptrdiff_t n)
{
    uint64_t four;
    uint32_t two;
    uint16_t one;
    if (n >= 4) {
        memcpy(&four, x, sizeof four);
        return four;
    }
    if (n <= 0)
        return 0;
    memcpy(&one, x + n - 1, sizeof one);
    if (n == 1)
        return one;
    memcpy(&two, x, sizeof two);
    return n == 3 ? two | (uint64_t)one << 32 : two;
}
INLINE vs first_halves(const uint16_t *x, ptrdiff_t n)
{
#ifdef __AVX2__
    const uint64_t more = n > 4 ? few_halves(x + 4, n - 4) : 0;
    return (vs)_mm_set_epi64x((long long)more, (long long)few_halves(x, n));
#else
    const uint64_t all = few_halves(x, n);
    return load_halves((const uint16_t *)&all);
#endif
}

/* gcc 12 converts vectors of integers one by one. */
INLINE vu widen_bits(vs h)
{
#ifdef __AVX2__
    return (vu)_mm256_cvtepu16_epi32((__m128i)h);
#else
    return __builtin_convertvector(h, vu);
#endif
}
/* Both < 2^16. */
INLINE void narrow_bits(uint16_t *y, vu u, vu v)
{
    const vs a = __builtin_convertvector(u, vs), b = __builtin_convertvector(v, vs);
    memcpy(y, &a, sizeof a);
    memcpy(y + FW, &b, sizeof b);
}

/* Pairs of vectors are converted together. Their elements are in order, or, of bfloat16 on AVX2,
 * dealt: the even ones to the first, the odd ones to the second, which takes no shuffling. */
enum { PAIR = 2 * FW };
INLINE void load_pair_f16(vf v[2], const float *from)
{
    v[0] = load_vf(from);
    v[1] = load_vf(from + FW);
}
#ifdef __AVX2__
enum { DEALT_f16, DEALT_bf16 };
INLINE void load_pair_bf16(vf v[2], const float *from)
{
    __m256 half[2];
    for (int j = 0; j < 2; j++, from += 4)
        half[j] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from)),
                                       _mm_loadu_ps(from + FW), 1);
    v[0] = (vf)_mm256_shuffle_ps(half[0], half[1], 0x88);
    v[1] = (vf)_mm256_shuffle_ps(half[0], half[1], 0xdd);
}
INLINE void widen_pair_bf16(vf v[2], const uint16_t *x)
{
    vu u;
    memcpy(&u, x, sizeof u);
    v[0] = (vf)(u << 16);
    v[1] = (vf)(u & 0xffff0000);
}
#else
#define load_pair_bf16 load_pair_f16
#endif
INLINE vf widen_vector_bf16(vs h)
{
    return (vf)(widen_bits(h) << 16);
}

INLINE vu nearest_bf16(vf v)
{
    const vu u = (vu)v;
    return (u + 0x7fff + ((u >> 16) & 1)) >> 16;
}
INLINE vu nearest_or_nan_bf16(vf v)
{
    const vu nan = (vu)(v != v);
    return (nearest_bf16(v) & ~nan) | (((vu)v >> 16 | 0x40) & nan);
}
#ifdef __AVX2__
/* The upper halves, and one more where the lower is more than half of one, or half and the upper is
 * odd: the mean of the lower and 0x7ffe, or 0x7fff, rounded up, says so in its highest bit. */
INLINE __m256i nearest_pair_bf16(vf v, vf w)
{
    const __m256i even = (__m256i)v, odd = (__m256i)w;
    const __m256i upper = _mm256_blend_epi16(_mm256_srli_epi32(even, 16), odd, 0xaa);
    const __m256i lower = _mm256_blend_epi16(even, _mm256_slli_epi32(odd, 16), 0xaa);
    __m256i least = _mm256_set1_epi16(0x7ffe), last = _mm256_set1_epi16(1);
    __asm__("" : "+x"(least), "+x"(last)); /* else gcc 12 makes them anew each time */
    const __m256i half = _mm256_or_si256(_mm256_and_si256(upper, last), least);
    const __m256i more = _mm256_srli_epi16(_mm256_avg_epu16(lower, half), 15);
    return _mm256_add_epi16(upper, more);
}
/* Some are NaN. Not inlined: its constants would be made for every run. */
static __attribute__((noinline, cold)) vu pair_or_nan_bf16(vf v, vf w)
{
    return nearest_or_nan_bf16(v) | nearest_or_nan_bf16(w) << 16;
}
INLINE void narrow_pair_bf16(uint16_t *y, vf v, vf w)
{
    vu pair = (vu)nearest_pair_bf16(v, w);
    if (_mm256_movemask_ps(_mm256_cmp_ps((__m256)v, (__m256)w, _CMP_UNORD_Q)))
        pair = pair_or_nan_bf16(v, w);
    store_vf((float *)(void *)y, (vf)pair);
}
#else
INLINE void narrow_pair_bf16(uint16_t *y, vf v, vf w)
{
    narrow_bits(y, nearest_or_nan_bf16(v), nearest_or_nan_bf16(w));
}
#endif

#ifdef HALVES
/* The last pair of n, or all of less than one, by one store: it is loaded whole. */
INLINE void last_pair(uint16_t to[PAIR], const uint16_t *x, ptrdiff_t n)
{
    const vs none = {0}, a = n < FW ? first_halves(x, n) : load_halves(x);
    if (n >= PAIR)
        store_vf((float *)(void *)to, load_vf((const float *)(const void *)(x + n - PAIR)));
    else
        store_vf((float *)(void *)to,
                 (vf)_mm256_set_m128i((__m128i)(n > FW ? first_halves(x + FW, n - FW) : none),
                                      (__m128i)a));
}
/* DW elements, or the first m of them, as doubles. */
INLINE __m128i quarter(const uint16_t *x, ptrdiff_t m)
{
    return _mm_cvtsi64_si128((long long)few_halves(x, m));
}
INLINE vd widen_few_f16(const uint16_t *x, ptrdiff_t m)
{
    return (vd)_mm256_cvtps_pd(_mm_cvtph_ps(quarter(x, m)));
}
INLINE vd widen_few_bf16(const uint16_t *x, ptrdiff_t m)
{
    const __m128i bits = _mm_cvtepu16_epi32(quarter(x, m));
    return (vd)_mm256_cvtps_pd(_mm_castsi128_ps(_mm_slli_epi32(bits, 16)));
}
#define widen_f16(x)          widen_few_f16(x, DW)
#define widen_bf16(x)         widen_few_bf16(x, DW)
#define widen_part_f16(x, m)  widen_few_f16(x, m)
#define widen_part_bf16(x, m) widen_few_bf16(x, m)

/* DW of a vector's floats as doubles: those of its half j. */
INLINE vd widen_half(vf v, int j)
{
    return (vd)_mm256_cvtps_pd(j ? _mm256_extractf128_ps((__m256)v, 1)
                                 : _mm256_castps256_ps128((__m256)v));
}
#endif

#ifdef __F16C__
INLINE vf widen_vector_f16(vs h)
{
    return (vf)_mm256_cvtph_ps((__m128i)h);
}
INLINE void widen_pair_f16(vf v[2], const uint16_t *x)
{
    for (int j = 0; j < 2; j++)
        v[j] = (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(x + j * FW)));
}
INLINE void narrow_pair_f16(uint16_t *y, vf v, vf w)
{
    const __m128i a = _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
    const __m128i b = _mm256_cvtps_ph((__m256)w, _MM_FROUND_TO_NEAREST_INT);
    store_vf((float *)(void *)y, (vf)_mm256_set_m128i(b, a));
}
#else
INLINE vf widen_vector_f16(vs h)
{
    const vu u = __builtin_convertvector(h, vu), a = u & 0x7fff;
    const vu special = (vu)(a >= 0x7c00);  /* infinity and NaN keep the top exponent */
    const vf v = (vf)(a << 13) * 0x1p112f; /* rebias; a subnormal becomes normal */
    return (vf)((vu)v | (special & 0x7f800000) | ((u & 0x8000) << 16));
}
INLINE vu nearest_f16(vf v)
{
    const vu u = (vu)v, a = u & 0x7fffffff;
    const vu nan = (vu)(a > 0x7f800000), huge = (vu)(a >= 0x47800000), tiny = (vu)(a < 0x38800000);
    const vu normal = (a - 0x38000000 + 0xfff + ((a >> 13) & 1)) >> 13;
    const vf zero = {0};
    const vu small =
        (vu)((vf)(a & tiny) + (zero + 0.5f)) - 0x3f000000; /* 0.5 has the ulp 2^-24 wanted */
    const vu half = (normal & ~tiny & ~huge) | (small & tiny) | (huge & 0x7c00) | (nan & 0x200);
    return half | ((u >> 16) & 0x8000);
}
INLINE void narrow_pair_f16(uint16_t *y, vf v, vf w)
{
    narrow_bits(y, nearest_f16(v), nearest_f16(w));
}
#endif
#endif
