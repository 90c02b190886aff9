/* Compiled with -mavx512bw -mavx512dq -mavx512vl, too. Floats' rows are AVX2's (dispatch.c): beyond
 * the first cache they were up to a tenth slower here, for nearly each vector as long as a line has
 * parts of two; kernels with more arithmetic are a tenth to a quarter faster. */
#include "../kernels.h"
#ifdef __x86_64__
#define ISA avx512
#define NO_SWEEPS
#define sweep_rows_f32 NULL
#define sweep_rows_f64 NULL
#include "isa.inc"
#endif
