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
/* u < 2^16 */
INLINE vs narrow_bits(vu u)
{
#ifdef __AVX2__
    return (vs)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)u),
                                _mm256_extracti128_si256((__m256i)u, 1));
#else
    return __builtin_convertvector(u, vs);
#endif
}

INLINE vf widen_vector_bf16(vs h)
{
    return (vf)(widen_bits(h) << 16);
}

INLINE vu nearest_bf16(vf v)
{
    const vu u = (vu)v;
    return u + 0x7fff + ((u >> 16) & 1);
}
INLINE vs narrow_vector_bf16(vf v)
{
    const vu u = (vu)v, nan = (vu)(v != v);
    return narrow_bits(((nearest_bf16(v) & ~nan) | ((u | 0x400000) & nan)) >> 16);
}

#ifdef __F16C__
INLINE vf widen_vector_f16(vs h)
{
    return (vf)_mm256_cvtph_ps((__m128i)h);
}
INLINE vs narrow_vector_f16(vf v)
{
    return (vs)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
}
#else
INLINE vf widen_vector_f16(vs h)
{
    const vu u = __builtin_convertvector(h, vu), a = u & 0x7fff;
    const vu special = (vu)(a >= 0x7c00);  /* infinity and NaN keep the top exponent */
    const vf v = (vf)(a << 13) * 0x1p112f; /* rebias; a subnormal becomes normal */
    return (vf)((vu)v | (special & 0x7f800000) | ((u & 0x8000) << 16));
}
INLINE vs narrow_vector_f16(vf v)
{
    const vu u = (vu)v, a = u & 0x7fffffff;
    const vu nan = (vu)(a > 0x7f800000), huge = (vu)(a >= 0x47800000), tiny = (vu)(a < 0x38800000);
    const vu normal = (a - 0x38000000 + 0xfff + ((a >> 13) & 1)) >> 13;
    const vf zero = {0};
    const vu small =
        (vu)((vf)(a & tiny) + (zero + 0.5f)) - 0x3f000000; /* 0.5 has the ulp 2^-24 wanted */
    const vu half = (normal & ~tiny & ~huge) | (small & tiny) | (huge & 0x7c00) | (nan & 0x200);
    return __builtin_convertvector(half | ((u >> 16) & 0x8000), vs);
}
#endif

/* ---- as kernels of rows see them ---------------------------------------------------- */
#ifdef HALVES

INLINE vf get_f16(const uint16_t *p)
{
    vs h;
    memcpy(&h, p, sizeof h);
    return widen_vector_f16(h);
}
INLINE vf get_bf16(const uint16_t *p)
{
    vs h;
    memcpy(&h, p, sizeof h);
    return widen_vector_bf16(h);
}
INLINE void place_half(int stream, uint16_t *p, vs h)
{
    if (stream)
        _mm_stream_si128((__m128i *)(void *)p, (__m128i)h);
    else
        memcpy(p, &h, sizeof h);
}
INLINE void set_f16(int stream, uint16_t *p, vf v)
{
    place_half(stream, p, narrow_vector_f16(v));
}
/* A NaN here comes of a bfloat16 or of nothing, so that its lower half is 0 and rounding leaves it
 * alone. */
INLINE void set_bf16(int stream, uint16_t *p, vf v)
{
    place_half(stream, p, narrow_bits(nearest_bf16(v) >> 16));
}

INLINE float get_one_f16(uint16_t h)
{
    return widen_vector_f16((vs){h})[0];
}
INLINE float get_one_bf16(uint16_t h)
{
    return widen_vector_bf16((vs){h})[0];
}
INLINE uint16_t set_one_f16(float v)
{
    return narrow_vector_f16((vf){v})[0];
}
INLINE uint16_t set_one_bf16(float v)
{
    return narrow_vector_bf16((vf){v})[0];
}

INLINE void widen_halves(vf v, vd x[2])
{
    x[0] = (vd)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v));
    x[1] = (vd)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1));
}

#define lane_f16 lane_f32
#define fold_f16 fold_lanes
INLINE void widen_all_f16(const uint16_t *p, vd x[NV])
{
    widen_halves(get_f16(p), x);
    widen_halves(get_f16(p + FW), x + 2);
}

/* Even places, then odd ones: a shift or a mask makes either a float. */
INLINE vl lane_bf16(int j)
{
    const vl lane = LANE_NUMBERS;
    return 2 * lane + (j & 1) * 8 + (j >> 1);
}
INLINE void widen_all_bf16(const uint16_t *p, vd x[NV])
{
    vu pairs;
    memcpy(&pairs, p, sizeof pairs);
    widen_halves((vf)(pairs << 16), x);
    widen_halves((vf)(pairs & 0xffff0000), x + 2);
}
INLINE double fold_pairs(const vd *lanes)
{
    const vd even = lanes[0] + lanes[1], odd = lanes[2] + lanes[3];
    return ((even[0] + even[2]) + (even[1] + even[3])) + ((odd[0] + odd[2]) + (odd[1] + odd[3]));
}
INLINE void fold_bf16(const vd *r, const vd *q, double *r_sum, double *q_sum)
{
    *r_sum = fold_pairs(r);
    *q_sum = fold_pairs(q);
}

INLINE void widen_some_f16(const uint16_t *p, ptrdiff_t n, vd x[NV])
{
    uint16_t part[LANES] = {0};
    for (ptrdiff_t i = 0; i < n; i++)
        part[i] = p[i];
    widen_all_f16(part, x);
}
INLINE void widen_some_bf16(const uint16_t *p, ptrdiff_t n, vd x[NV])
{
    uint16_t part[LANES] = {0};
    for (ptrdiff_t i = 0; i < n; i++)
        part[i] = p[i];
    widen_all_bf16(part, x);
}
#endif
#endif
