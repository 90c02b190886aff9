/* Instruction sets: what the machine allows, and what is in use. And the floating-point state that
 * all of them need. */
#ifndef NORMC_CPU_H
#define NORMC_CPU_H
#include <stddef.h>
#if defined(__SSE2__)
#include <xmmintrin.h>
#else
#include <fenv.h>
#endif

typedef enum { CPU_BASELINE, CPU_AVX2, CPU_AVX512, CPU_LEVELS } CpuLevel;

extern const char *const cpu_names[CPU_LEVELS]; /* "baseline", "avx2", "avx512" */

CpuLevel cpu_found(void);       /* highest that compiler, CPU and operating system allow */
CpuLevel cpu_in_use(void);      /* at most cpu_found() */
void cpu_use(CpuLevel highest); /* lowers (or raises again) the level in use, for later calls */

/* Bytes of traffic that stay near; from which stores had better pass the caches by: the same, but
 * where a test asks for another number (below 0: no longer). */
ptrdiff_t cpu_cache_bytes(void);
ptrdiff_t cpu_stream_bytes(void);
void cpu_stream_from(ptrdiff_t bytes);
/* Such stores are ordered among themselves, and with others, from here on. */
static inline void cpu_stream_end(void)
{
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

/* To nearest, subnormals kept, nothing trapped, whatever the caller has set; left as it was found.
 */
#if defined(__SSE2__)
typedef unsigned FpState;
static inline FpState fp_enter(void)
{
    const FpState saved = _mm_getcsr();
    _mm_setcsr(0x1f80);
    return saved;
}
static inline void fp_leave(FpState saved)
{
    _mm_setcsr(saved);
}
#else
typedef fenv_t FpState;
static inline FpState fp_enter(void)
{
    FpState saved;
    fegetenv(&saved);
    fesetenv(FE_DFL_ENV);
    return saved;
}
static inline void fp_leave(FpState saved)
{
    fesetenv(&saved);
}
#endif
#endif
