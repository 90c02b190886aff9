/* The table of the instruction set in use: the baseline's, overridden upward. */
#include "cpu.h"
#include "kernels.h"

const Kernels *kernels(Dtype t)
{
    const Kernels *table = kernels_baseline;
#ifdef NORMC_HAVE_AVX2
    if (cpu_in_use() >= CPU_AVX2)
        table = kernels_avx2;
#endif
    return &table[t];
}
