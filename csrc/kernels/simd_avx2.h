/* What GNU C has no word for, on AVX2 with FMA. */

INLINE int any_bit(vl v)
{
    return !_mm256_testz_si256((__m256i)v, (__m256i)v);
}

INLINE vd max_vd(vd a, vd b)
{
    return (vd)_mm256_max_pd((__m256d)a, (__m256d)b);
}
INLINE vf max_vf(vf a, vf b)
{
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
}

INLINE void stream_vf(float *p, vf v)
{
    _mm256_stream_ps(p, (__m256)v);
}
INLINE void stream_vd(double *p, vd v)
{
    _mm256_stream_pd(p, (__m256d)v);
}

INLINE vd widen_f32(const float *p) /* gcc 12 converts in halves by itself */
{
    return (vd)_mm256_cvtps_pd(_mm_loadu_ps(p));
}
INLINE vd widen_part_f64(const double *p, ptrdiff_t m)
{
    const vl lane = LANE_NUMBERS;
    return (vd)_mm256_maskload_pd(p, (__m256i)(lane < m));
}
INLINE vd widen_part_f32(const float *p, ptrdiff_t m)
{
    const __m128i lane = _mm_set_epi32(3, 2, 1, 0);
    const __m128i there = _mm_cmplt_epi32(lane, _mm_set1_epi32(m < DW ? (int)m : DW));
    return (vd)_mm256_cvtps_pd(_mm_maskload_ps(p, there));
}

INLINE vd add_exact(vd q, vd a, vd b)
{
    return (vd)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)q);
}
INLINE vd add_fused(vd a, vd b)
{
    vd one = {1, 1, 1, 1};
    __asm__("" : "+x"(one)); /* else it would become an addition again */
    return (vd)_mm256_fmadd_pd((__m256d)a, (__m256d)one, (__m256d)b);
}
INLINE vf add_fused_vf(vf a, vf b)
{
    vf one = {1, 1, 1, 1, 1, 1, 1, 1};
    __asm__("" : "+x"(one));
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)one, (__m256)b);
}

INLINE vf sqrt_vf(vf v)
{
    return (vf)_mm256_sqrt_ps((__m256)v);
}
INLINE vd sqrt_vd(vd v)
{
    return (vd)_mm256_sqrt_pd((__m256d)v);
}

INLINE vd nearest_float(vd v)
{
    return (vd)_mm256_cvtps_pd(_mm256_cvtpd_ps((__m256d)v));
}
INLINE void store_floats(float *p, vd v)
{
    _mm_storeu_ps(p, _mm256_cvtpd_ps((__m256d)v));
}

INLINE void transpose(vd v[DW])
{
    const __m256d a = _mm256_unpacklo_pd((__m256d)v[0], (__m256d)v[1]);
    const __m256d b = _mm256_unpackhi_pd((__m256d)v[0], (__m256d)v[1]);
    const __m256d c = _mm256_unpacklo_pd((__m256d)v[2], (__m256d)v[3]);
    const __m256d d = _mm256_unpackhi_pd((__m256d)v[2], (__m256d)v[3]);
    v[0] = (vd)_mm256_permute2f128_pd(a, c, 0x20);
    v[1] = (vd)_mm256_permute2f128_pd(b, d, 0x20);
    v[2] = (vd)_mm256_permute2f128_pd(a, c, 0x31);
    v[3] = (vd)_mm256_permute2f128_pd(b, d, 0x31);
}
INLINE void add_halves(vd a, vd b, double *a_sum, double *b_sum)
{
    const __m128d s =
        _mm_add_pd(_mm256_castpd256_pd128((__m256d)a), _mm256_extractf128_pd((__m256d)a, 1));
    const __m128d t =
        _mm_add_pd(_mm256_castpd256_pd128((__m256d)b), _mm256_extractf128_pd((__m256d)b, 1));
    const __m128d both = _mm_add_pd(_mm_unpacklo_pd(s, t), _mm_unpackhi_pd(s, t));
    _mm_storel_pd(a_sum, both);
    _mm_storeh_pd(b_sum, both);
}
