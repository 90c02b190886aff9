/* float16 and bfloat16 <-> float, a vector of them. Exact one way, to nearest even the other,
 * subnormals and infinities included; a NaN stays a NaN. */
#ifndef NORMC_HALF_H
#define NORMC_HALF_H
#include "vec.h"

/* Whole vectors convert fast enough for kernels of rows to walk halves as they lie. */
#ifdef __F16C__
#define HALVES
enum { HALVES_DIRECT = 1 };
#else
enum { HALVES_DIRECT = 0 };
#endif

enum { FW = VB / 4 }; /* floats in a vector */
typedef uint16_t vs __attribute__((vector_size(VB / 2)));
typedef uint32_t vu __attribute__((vector_size(VB)));

/* gcc 12 converts vectors of integers one by one. */
INLINE vu widen_bits(vs h)
{
#ifdef __AVX2__
    return (vu)_mm256_cvtepu16_epi32((__m128i)h);
#else
    return __builtin_convertvector(h, vu);
#endif
}
/* Both < 2^16. Here and below, y[0] .. y[2 * FW - 1] are stored, past the caches where that is
 * asked. */
INLINE void narrow_bits(int stream, uint16_t *y, vu u, vu v)
{
#ifdef __AVX2__
    const __m256i pairs = _mm256_packus_epi32((__m256i)u, (__m256i)v);
    place_vf(stream, (float *)(void *)y, (vf)_mm256_permute4x64_epi64(pairs, 0xd8));
#else
    (void)stream;
    const vs a = __builtin_convertvector(u, vs), b = __builtin_convertvector(v, vs);
    memcpy(y, &a, sizeof a);
    memcpy(y + FW, &b, sizeof b);
#endif
}

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
INLINE int any_nan(vf v, vf w)
{
#ifdef __AVX__
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)v, (__m256)w, _CMP_UNORD_Q));
#else
    (void)v, (void)w;
    return 1; /* as fast */
#endif
}
INLINE void narrow_pair_bf16(int stream, uint16_t *y, vf v, vf w)
{
    if (any_nan(v, w))
        narrow_bits(stream, y, nearest_or_nan_bf16(v), nearest_or_nan_bf16(w));
    else
        narrow_bits(stream, y, nearest_bf16(v), nearest_bf16(w));
}

#ifdef __F16C__
INLINE vf widen_vector_f16(vs h)
{
    return (vf)_mm256_cvtph_ps((__m128i)h);
}
INLINE void narrow_pair_f16(int stream, uint16_t *y, vf v, vf w)
{
    const __m128i a = _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
    const __m128i b = _mm256_cvtps_ph((__m256)w, _MM_FROUND_TO_NEAREST_INT);
    place_vf(stream, (float *)(void *)y, (vf)_mm256_set_m128i(b, a));
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
INLINE void narrow_pair_f16(int stream, uint16_t *y, vf v, vf w)
{
    narrow_bits(stream, y, nearest_f16(v), nearest_f16(w));
}
#endif
#endif
