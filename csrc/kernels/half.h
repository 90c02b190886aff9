/* float16 and bfloat16 <-> float, a vector of them. Exact one way, to nearest even the other,
 * subnormals and infinities included; a NaN stays a NaN. */
#ifndef NORMC_HALF_H
#define NORMC_HALF_H
#include "vec.h"

enum { FW = VB / 4 }; /* floats in a vector */
typedef uint16_t vs __attribute__((vector_size(VB / 2)));
typedef uint32_t vu __attribute__((vector_size(VB)));

INLINE vf widen_vector_bf16(vs h)
{
    return (vf)(__builtin_convertvector(h, vu) << 16);
}

INLINE vs narrow_vector_bf16(vf v)
{
    const vu u = (vu)v, nan = (vu)(v != v);
    const vu even = u + 0x7fff + ((u >> 16) & 1);
    return __builtin_convertvector(((even & ~nan) | ((u | 0x400000) & nan)) >> 16, vs);
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
#endif
