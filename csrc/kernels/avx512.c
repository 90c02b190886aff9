/* Compiled with -mavx512bw -mavx512dq -mavx512vl, too. PARTLY: rows of floats and what is common to
 * all types are AVX2's (dispatch.c). Beyond the first cache such rows were up to a tenth slower
 * here, for nearly each vector as long as a line has parts of two; and a small call, which has few
 * vectors so long, took 45 ns longer. Kernels with more arithmetic are up to a quarter faster. */
#include "../kernels.h"
#ifdef __x86_64__
#define ISA avx512
#define PARTLY
#define sweep_rows_f32 NULL
#define sweep_rows_f64 NULL
#include "isa.inc"
#endif
