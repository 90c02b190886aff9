/* Halves on AVX2 with F16C. */

INLINE vs first_halves(const uint16_t *x, ptrdiff_t n)
{
    const uint64_t more = n > 4 ? few_halves(x + 4, n - 4) : 0;
    return (vs)_mm_set_epi64x((long long)more, (long long)few_halves(x, n));
}
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

INLINE vu widen_bits(vs h) /* gcc 12 converts vectors of integers one by one */
{
    return (vu)_mm256_cvtepu16_epi32((__m128i)h);
}
/* DW elements, or the first m of them, as doubles. */
INLINE __m128i quarter(const uint16_t *x, ptrdiff_t m)
{
    return _mm_cvtsi64_si128((long long)few_halves(x, m));
}
INLINE vd widen_part_f16(const uint16_t *x, ptrdiff_t m)
{
    return (vd)_mm256_cvtps_pd(_mm_cvtph_ps(quarter(x, m)));
}
INLINE vd widen_part_bf16(const uint16_t *x, ptrdiff_t m)
{
    const __m128i bits = _mm_cvtepu16_epi32(quarter(x, m));
    return (vd)_mm256_cvtps_pd(_mm_castsi128_ps(_mm_slli_epi32(bits, 16)));
}
/* DW of a vector's floats as doubles: those of its half j. */
INLINE vd widen_half(vf v, int j)
{
    return (vd)_mm256_cvtps_pd(j ? _mm256_extractf128_ps((__m256)v, 1)
                                 : _mm256_castps256_ps128((__m256)v));
}

INLINE void load_pair_bf16(vf v[2], const float *from)
{
    __m256 half[2];
    for (int j = 0; j < 2; j++, from += 4)
        half[j] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from)),
                                       _mm_loadu_ps(from + FW), 1);
    v[0] = (vf)_mm256_shuffle_ps(half[0], half[1], 0x88);
    v[1] = (vf)_mm256_shuffle_ps(half[0], half[1], 0xdd);
}
/* The upper halves, and one more where the lower is more than half of one, or half and the upper is
 * odd: the mean of the lower and 0x7ffe, or 0x7fff, rounded up, says so in its highest bit. */
INLINE vu nearest_pair_bf16(vf v, vf w)
{
    const __m256i even = (__m256i)v, odd = (__m256i)w;
    const __m256i upper = _mm256_blend_epi16(_mm256_srli_epi32(even, 16), odd, 0xaa);
    const __m256i lower = _mm256_blend_epi16(even, _mm256_slli_epi32(odd, 16), 0xaa);
    __m256i least = _mm256_set1_epi16(0x7ffe), last = _mm256_set1_epi16(1);
    __asm__("" : "+x"(least), "+x"(last)); /* else gcc 12 makes them anew each time */
    const __m256i half = _mm256_or_si256(_mm256_and_si256(upper, last), least);
    const __m256i more = _mm256_srli_epi16(_mm256_avg_epu16(lower, half), 15);
    return (vu)_mm256_add_epi16(upper, more);
}
INLINE int any_nan(vf v, vf w)
{
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)v, (__m256)w, _CMP_UNORD_Q));
}

INLINE vf widen_vector_f16(vs h)
{
    return (vf)_mm256_cvtph_ps((__m128i)h);
}
INLINE void widen_pair_f16(vf v[2], const uint16_t *x)
{
    for (int j = 0; j < 2; j++)
        v[j] = (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(x + j * FW)));
}
/* Converted on its way to memory: by way of a register it takes a shuffle more. */
INLINE void narrow_vector_f16(uint16_t *y, vf v)
{
    const vs h = (vs)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
    memcpy(y, &h, sizeof h);
}
