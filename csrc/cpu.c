#include "cpu.h"
#include <stdatomic.h>
#include <unistd.h>

const char *const cpu_names[CPU_LEVELS] = {"baseline", "avx2", "avx512"};

static atomic_int limit = CPU_LEVELS - 1;

CpuLevel cpu_found(void)
{
#ifdef __x86_64__ /* __builtin_cpu_supports asks the operating system, too */
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
        !__builtin_cpu_supports("f16c"))
        return CPU_BASELINE;
    /* vbmi2: from Ice Lake on, for those before clock slower where vectors are so long */
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi2"))
        return CPU_AVX512;
    return CPU_AVX2;
#else
    return CPU_BASELINE;
#endif
}

CpuLevel cpu_in_use(void)
{
    const CpuLevel found = cpu_found(),
                   highest = (CpuLevel)atomic_load_explicit(&limit, memory_order_relaxed);
    return highest < found ? highest : found;
}

void cpu_use(CpuLevel highest)
{
    atomic_store_explicit(&limit, (int)highest, memory_order_relaxed);
}

/* glibc counts all slices of an AMD's third level, of which a core sees one. */
ptrdiff_t cpu_cache_bytes(void)
{
    enum { SLICE = 32 << 20 };
    static atomic_long known;
    long cache = atomic_load_explicit(&known, memory_order_relaxed);
    if (cache == 0) {
#ifdef _SC_LEVEL3_CACHE_SIZE
        cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
        cache = cache > 0 && cache < SLICE ? cache : SLICE;
        atomic_store_explicit(&known, cache, memory_order_relaxed);
    }
    return cache / 4 * 3;
}

static atomic_long stream_from = -1;

ptrdiff_t cpu_stream_bytes(void)
{
    const long from = atomic_load_explicit(&stream_from, memory_order_relaxed);
    return from < 0 ? cpu_cache_bytes() : from;
}

void cpu_stream_from(ptrdiff_t bytes)
{
    atomic_store_explicit(&stream_from, bytes, memory_order_relaxed);
}
