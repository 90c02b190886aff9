/* Halves in integers; the fewer names of half_avx2.h that are asked for. */

INLINE vs first_halves(const uint16_t *x, ptrdiff_t n)
{
    const uint64_t all = few_halves(x, n);
    return load_halves((const uint16_t *)&all);
}
INLINE vu widen_bits(vs h)
{
    return __builtin_convertvector(h, vu);
}
/* Both < 2^16. */
INLINE void narrow_bits(uint16_t *y, vu u, vu v)
{
    const vs a = __builtin_convertvector(u, vs), b = __builtin_convertvector(v, vs);
    memcpy(y, &a, sizeof a);
    memcpy(y + FW, &b, sizeof b);
}

#define load_pair_bf16 load_pair_f16
INLINE void narrow_pair_bf16(uint16_t *y, vf v, vf w)
{
    narrow_bits(y, nearest_or_nan_bf16(v), nearest_or_nan_bf16(w));
}

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
