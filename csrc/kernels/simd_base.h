/* What GNU C has no word for: SSE2, or without it GNU C after all. The same names as in
 * simd_avx2.h and simd_avx512.h, one of which vec.h includes. */

INLINE int any_bit(vl v)
{
    return (v[0] | v[1]) != 0;
}

/* The greater; b where they are equal or one is NaN. */
INLINE vd max_vd(vd a, vd b)
{
#ifdef __SSE2__
    return (vd)_mm_max_pd((__m128d)a, (__m128d)b);
#else
    return (vd)(((vl)a & (vl)(a > b)) | ((vl)b & ~(vl)(a > b)));
#endif
}
INLINE vf max_vf(vf a, vf b)
{
#ifdef __SSE2__
    return (vf)_mm_max_ps((__m128)a, (__m128)b);
#else
    return (vf)(((vi)a & (vi)(a > b)) | ((vi)b & ~(vi)(a > b)));
#endif
}

INLINE void stream_vf(float *p, vf v)
{
#ifdef __SSE2__
    _mm_stream_ps(p, (__m128)v);
#else
    memcpy(p, &v, sizeof v);
#endif
}
INLINE void stream_vd(double *p, vd v)
{
#ifdef __SSE2__
    _mm_stream_pd(p, (__m128d)v);
#else
    memcpy(p, &v, sizeof v);
#endif
}

INLINE vd widen_f32(const float *p)
{
#ifdef __SSE2__
    return (vd)_mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)(const void *)p)));
#else
    vh v;
    memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, vd);
#endif
}
INLINE vd widen_part_f64(const double *p, ptrdiff_t m)
{
    double part[DW] = {0};
    for (ptrdiff_t i = 0; i < m && i < DW; i++)
        part[i] = p[i];
    return load_vd(part);
}
INLINE vd widen_part_f32(const float *p, ptrdiff_t m)
{
    float part[DW] = {0};
    for (ptrdiff_t i = 0; i < m && i < DW; i++)
        part[i] = p[i];
    return widen_f32(part);
}

INLINE vd add_exact(vd q, vd a, vd b)
{
    return q + a * b;
}
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
#ifdef __SSE2__
    return (vf)_mm_sqrt_ps((__m128)v);
#else
    for (int i = 0; i < FW; i++)
        v[i] = sqrtf(v[i]);
    return v;
#endif
}
INLINE vd sqrt_vd(vd v)
{
#ifdef __SSE2__
    return (vd)_mm_sqrt_pd((__m128d)v);
#else
    for (int i = 0; i < DW; i++)
        v[i] = sqrt(v[i]);
    return v;
#endif
}

INLINE vd nearest_float(vd v)
{
#ifdef __SSE2__
    return (vd)_mm_cvtps_pd(_mm_cvtpd_ps((__m128d)v));
#else
    return __builtin_convertvector(__builtin_convertvector(v, vh), vd);
#endif
}
INLINE void store_floats(float *p, vd v)
{
#ifdef __SSE2__
    _mm_storel_pi((__m64 *)(void *)p, _mm_cvtpd_ps((__m128d)v));
#else
    const vh f = __builtin_convertvector(v, vh);
    memcpy(p, &f, sizeof f);
#endif
}

INLINE void transpose(vd v[DW])
{
    const vd a = v[0], b = v[1];
    v[0] = (vd){a[0], b[0]};
    v[1] = (vd){a[1], b[1]};
}
INLINE void add_halves(vd a, vd b, double *a_sum, double *b_sum)
{
    *a_sum = a[0] + a[1];
    *b_sum = b[0] + b[1];
}
