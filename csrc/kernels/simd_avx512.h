/* What GNU C has no word for, on AVX-512 (F, BW, DQ, VL). */

INLINE int any_bit(vl v)
{
    return _mm512_test_epi64_mask((__m512i)v, (__m512i)v) != 0;
}

INLINE vd max_vd(vd a, vd b)
{
    return (vd)_mm512_max_pd((__m512d)a, (__m512d)b);
}
INLINE vf max_vf(vf a, vf b)
{
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
}

INLINE void stream_vf(float *p, vf v)
{
    _mm512_stream_ps(p, (__m512)v);
}
INLINE void stream_vd(double *p, vd v)
{
    _mm512_stream_pd(p, (__m512d)v);
}

/* The first m of `most`, at most 32; none for a negative m. */
INLINE uint32_t lanes_below(ptrdiff_t m, ptrdiff_t most)
{
    return (uint32_t)(((uint64_t)1 << (m < 0 ? 0 : m < most ? m : most)) - 1);
}

INLINE vd widen_f32(const float *p)
{
    return (vd)_mm512_cvtps_pd(_mm256_loadu_ps(p));
}
INLINE vd widen_part_f64(const double *p, ptrdiff_t m)
{
    return (vd)_mm512_maskz_loadu_pd((__mmask8)lanes_below(m, DW), p);
}
INLINE vd widen_part_f32(const float *p, ptrdiff_t m)
{
    return (vd)_mm512_cvtps_pd(_mm256_maskz_loadu_ps((__mmask8)lanes_below(m, DW), p));
}

enum { PARTS = 1 };
INLINE vf load_part_vf(const float *p, ptrdiff_t m)
{
    return (vf)_mm512_maskz_loadu_ps((__mmask16)lanes_below(m, FW), p);
}
INLINE vd load_part_vd(const double *p, ptrdiff_t m)
{
    return widen_part_f64(p, m);
}
INLINE void store_part_vf(float *p, vf v, ptrdiff_t m)
{
    _mm512_mask_storeu_ps(p, (__mmask16)lanes_below(m, FW), (__m512)v);
}
INLINE void store_part_vd(double *p, vd v, ptrdiff_t m)
{
    _mm512_mask_storeu_pd(p, (__mmask8)lanes_below(m, DW), (__m512d)v);
}

INLINE vf part_vf(vf v, ptrdiff_t m)
{
    return (vf)_mm512_maskz_mov_ps((__mmask16)lanes_below(m, FW), (__m512)v);
}
INLINE vd part_vd(vd v, ptrdiff_t m)
{
    return (vd)_mm512_maskz_mov_pd((__mmask8)lanes_below(m, DW), (__m512d)v);
}

INLINE vd add_exact(vd q, vd a, vd b)
{
    return (vd)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)q);
}
/* Both kinds of unit do everything here. */
INLINE vd add_fused(vd a, vd b)
{
    return a + b;
}
INLINE vf add_fused_vf(vf a, vf b)
{
    return a + b;
}

INLINE vf sqrt_vf(vf v)
{
    return (vf)_mm512_sqrt_ps((__m512)v);
}
INLINE vd sqrt_vd(vd v)
{
    return (vd)_mm512_sqrt_pd((__m512d)v);
}

/* Pairs, then pairs of pairs, then halves change places. */
INLINE void transpose(vd v[DW])
{
    __m512d a[DW], b[DW];
    UNROLL
    for (int j = 0; j < DW; j += 2) {
        a[j] = _mm512_unpacklo_pd((__m512d)v[j], (__m512d)v[j + 1]);
        a[j + 1] = _mm512_unpackhi_pd((__m512d)v[j], (__m512d)v[j + 1]);
    }
    UNROLL
    for (int j = 0; j < DW; j++) {
        const int at = j / 4 * 4 + j % 2;
        b[j] = j % 4 < 2 ? _mm512_shuffle_f64x2(a[at], a[at + 2], 0x88)
                         : _mm512_shuffle_f64x2(a[at], a[at + 2], 0xdd);
    }
    UNROLL
    for (int j = 0; j < DW; j++) {
        const int at = j % 4;
        v[j] = (vd)(j < 4 ? _mm512_shuffle_f64x2(b[at], b[at + 4], 0x88)
                          : _mm512_shuffle_f64x2(b[at], b[at + 4], 0xdd));
    }
}
INLINE void add_halves(vd a, vd b, double *a_sum, double *b_sum)
{
    const __m256d s =
        _mm256_add_pd(_mm512_castpd512_pd256((__m512d)a), _mm512_extractf64x4_pd((__m512d)a, 1));
    const __m256d t =
        _mm256_add_pd(_mm512_castpd512_pd256((__m512d)b), _mm512_extractf64x4_pd((__m512d)b, 1));
    const __m256d u =
        _mm256_add_pd(_mm256_permute2f128_pd(s, t, 0x20), _mm256_permute2f128_pd(s, t, 0x31));
    const __m128d lo = _mm256_castpd256_pd128(u), hi = _mm256_extractf128_pd(u, 1);
    const __m128d both = _mm_add_pd(_mm_unpacklo_pd(lo, hi), _mm_unpackhi_pd(lo, hi));
    _mm_storel_pd(a_sum, both);
    _mm_storeh_pd(b_sum, both);
}
