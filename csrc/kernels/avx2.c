/* Compiled with -mavx2 -mfma -mf16c, and used only where the machine has them. */
#include "../kernels.h"
#ifdef NORMC_HAVE_AVX2
#define ISA avx2
#include "isa.inc"
#endif
