/* float16 and bfloat16 <-> float, a vector of them. Exact one way, to nearest even the other,
 * subnormals and infinities included; a NaN stays a NaN. What an instruction set converts by itself
 * is in half_avx2.h and half_avx512.h; where none does, in half_base.h. */
#ifndef NORMC_HALF_H
#define NORMC_HALF_H
#include "vec.h"

typedef uint16_t vs __attribute__((vector_size(VB / 2)));
typedef uint32_t vu __attribute__((vector_size(VB)));

/* Pairs of vectors are converted together. Their elements are in order, or, of bfloat16 where whole
 * vectors convert, dealt: the even ones to the first, the odd ones to the second, which takes no
 * shuffling. */
enum { PAIR = 2 * FW };

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

INLINE void load_pair_f16(vf v[2], const float *from)
{
    v[0] = load_vf(from);
    v[1] = load_vf(from + FW);
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

#if defined(__AVX512BW__)
#define HALVES
#include "half_avx512.h"
#elif defined(__AVX2__) && defined(__F16C__)
#define HALVES
#include "half_avx2.h"
#else
#include "half_base.h"
#endif

INLINE vf widen_vector_bf16(vs h)
{
    return (vf)(widen_bits(h) << 16);
}

/* Kernels walk halves as they lie. */
#ifdef HALVES
enum { HALVES_DIRECT = 1, DEALT_f16 = 0, DEALT_bf16 = 1, DTYPE_f16 = F16, DTYPE_bf16 = BF16 };

INLINE void widen_pair_bf16(vf v[2], const uint16_t *x)
{
    vu u;
    memcpy(&u, x, sizeof u);
    v[0] = (vf)(u << 16);
    v[1] = (vf)(u & 0xffff0000);
}
/* Some are NaN. Not inlined: its constants would be made for every run. */
static __attribute__((noinline, cold)) vu pair_or_nan_bf16(vf v, vf w)
{
    return nearest_or_nan_bf16(v) | nearest_or_nan_bf16(w) << 16;
}
INLINE void narrow_pair_f16(uint16_t *y, vf v, vf w)
{
    narrow_vector_f16(y, v);
    narrow_vector_f16(y + FW, w);
}
INLINE void narrow_pair_bf16(uint16_t *y, vf v, vf w)
{
    vu pair = nearest_pair_bf16(v, w);
    if (any_nan(v, w))
        pair = pair_or_nan_bf16(v, w);
    store_vf((float *)(void *)y, (vf)pair);
}

#define widen_f16(x)  widen_part_f16(x, DW)
#define widen_bf16(x) widen_part_bf16(x, DW)
#else
enum { HALVES_DIRECT = 0 };
#endif
#endif
