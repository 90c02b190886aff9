/* Halves on AVX-512; the same names as in half_avx2.h. AVX512_BF16's conversion is of no use: it
 * takes subnormals for zeros. */

INLINE vs first_halves(const uint16_t *x, ptrdiff_t n)
{
    return (vs)_mm256_maskz_loadu_epi16((__mmask16)lanes_below(n, FW), x);
}
INLINE void last_pair(uint16_t to[PAIR], const uint16_t *x, ptrdiff_t n)
{
    const uint16_t *from = n < PAIR ? x : x + n - PAIR;
    store_vf((float *)(void *)to, (vf)_mm512_maskz_loadu_epi16(lanes_below(n, PAIR), from));
}

INLINE vu widen_bits(vs h)
{
    return (vu)_mm512_cvtepu16_epi32((__m256i)h);
}
INLINE __m128i quarter(const uint16_t *x, ptrdiff_t m)
{
    return _mm_maskz_loadu_epi16((__mmask8)lanes_below(m, DW), x);
}
INLINE vd widen_part_f16(const uint16_t *x, ptrdiff_t m)
{
    return (vd)_mm512_cvtps_pd(_mm256_cvtph_ps(quarter(x, m)));
}
INLINE vd widen_part_bf16(const uint16_t *x, ptrdiff_t m)
{
    const __m256i bits = _mm256_cvtepu16_epi32(quarter(x, m));
    return (vd)_mm512_cvtps_pd(_mm256_castsi256_ps(_mm256_slli_epi32(bits, 16)));
}
INLINE vd widen_half(vf v, int j)
{
    return (vd)_mm512_cvtps_pd(j ? _mm512_extractf32x8_ps((__m512)v, 1)
                                 : _mm512_castps512_ps256((__m512)v));
}

INLINE void load_pair_bf16(vf v[2], const float *from)
{
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    const __m512 a = (__m512)load_vf(from), b = (__m512)load_vf(from + FW);
    v[0] = (vf)_mm512_permutex2var_ps(a, even, b);
    v[1] = (vf)_mm512_permutex2var_ps(a, odd, b);
}
INLINE vu nearest_pair_bf16(vf v, vf w)
{
    const __m512i even = (__m512i)v, odd = (__m512i)w;
    const __mmask32 odds = 0xaaaaaaaa;
    const __m512i upper = _mm512_mask_blend_epi16(odds, _mm512_srli_epi32(even, 16), odd);
    const __m512i lower = _mm512_mask_blend_epi16(odds, even, _mm512_slli_epi32(odd, 16));
    __m512i least = _mm512_set1_epi16(0x7ffe), last = _mm512_set1_epi16(1);
    __asm__("" : "+v"(least), "+v"(last));
    const __m512i half = _mm512_or_si512(_mm512_and_si512(upper, last), least);
    const __m512i more = _mm512_srli_epi16(_mm512_avg_epu16(lower, half), 15);
    return (vu)_mm512_add_epi16(upper, more);
}
INLINE int any_nan(vf v, vf w)
{
    return _mm512_cmp_ps_mask((__m512)v, (__m512)w, _CMP_UNORD_Q) != 0;
}

INLINE vf widen_vector_f16(vs h)
{
    return (vf)_mm512_cvtph_ps((__m256i)h);
}
INLINE void widen_pair_f16(vf v[2], const uint16_t *x)
{
    v[0] = widen_vector_f16(load_halves(x));
    v[1] = widen_vector_f16(load_halves(x + FW));
}
INLINE void narrow_vector_f16(uint16_t *y, vf v)
{
    const vs h = (vs)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT);
    memcpy(y, &h, sizeof h);
}
