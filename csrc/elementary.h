/* Elementary functions whose bits are ours on every machine: the four operations and sqrt, nothing
 * of libm but the exact frexp and ldexp. */
#ifndef NORMC_ELEMENTARY_H
#define NORMC_ELEMENTARY_H

/* e^x within 1 ulp while normal. */
double norm_exp(double x);

/* x * (s * 2^e)^p within 2 ulp while normal; s < 0 gives NaN, zero and infinity as C's pow. */
double norm_pow(double x, double s, int e, double p);
#endif
