/* Compiled with -mavx512bw -mavx512dq -mavx512vl, too. PARTLY: rows of doubles, short runs of
 * floats and what is common to all types are AVX2's (dispatch.c, rows.inc). Where there are few
 * vectors so long, or sums are folded often, these were up to a tenth slower here, and a small call
 * took 45 ns longer. Long rows of floats are an eighth faster, kernels with more arithmetic up to a
 * quarter. */
#include "../kernels.h"
#ifdef __x86_64__
#define ISA            avx512
#define PARTLY         1
#define sweep_rows_f64 NULL
#include "isa.inc"
#endif
