/* Compiled with -mavx2 -mfma -mf16c, and used only where the machine has them. */
#include "../kernels.h"
#ifdef __x86_64__
#define ISA avx2
#include "isa.inc"
#endif
