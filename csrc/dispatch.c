/* The table of the instruction set in use. */
#include "cpu.h"
#include "kernels.h"

#ifdef __x86_64__
/* AVX-512's; AVX2's where it has none, and of what small calls begin with: a processor takes 45 ns
 * longer where few of its instructions need vectors so long. */
static Kernels widest[DTYPES];

__attribute__((constructor)) static void compose(void)
{
    memcpy(widest, kernels_avx512, sizeof widest);
    for (Dtype t = 0; t < DTYPES; t++) {
        if (!widest[t].sweep_rows)
            widest[t].sweep_rows = kernels_avx2[t].sweep_rows;
#define STORED(name, args)
#define COMPUTED(name, args)
#define DIRECT(name, args)
#define COMMON(type, name, args) widest[t].name = kernels_avx2[t].name;
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
