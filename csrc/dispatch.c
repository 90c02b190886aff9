/* The table of the instruction set in use. */
#include "cpu.h"
#include "kernels.h"

#ifdef __x86_64__
static Kernels widest[DTYPES]; /* AVX-512's, and AVX2's where it has none */

__attribute__((constructor)) static void compose(void)
{
    memcpy(widest, kernels_avx512, sizeof widest);
    for (Dtype t = 0; t < DTYPES; t++) {
#define FILL(name)       \
    if (!widest[t].name) \
        widest[t].name = kernels_avx2[t].name;
#define STORED(name, args)   FILL(name)
#define COMPUTED(name, args) FILL(name)
#define DIRECT(name, args)   FILL(name)
#define FOLDED(name, args)   FILL(name)
#define COMMON(name, args)   FILL(name)
#include "kernels/kernels.def"
    }
}
#endif

const Kernels *kernels(Dtype t)
{
#ifdef __x86_64__
    const CpuLevel level = cpu_in_use();
    if (level == CPU_AVX512)
        return &widest[t];
    if (level == CPU_AVX2)
        return &kernels_avx2[t];
#endif
    return &kernels_baseline[t];
}
