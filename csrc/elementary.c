#include "elementary.h"
#include <math.h>

/* hi + lo, |lo| <= ulp(hi) / 2 */
typedef struct {
    double hi, lo;
} Two;

static Two two_sum(double a, double b)
{
    const double s = a + b, t = s - a;
    return (Two){s, (a - (s - t)) + (b - t)};
}

/* Dekker: the halves of 26 bits multiply exactly. */
static Two two_product(double a, double b)
{
    const double split = 0x1p27 + 1, ca = split * a, cb = split * b;
    const double ah = ca - (ca - a), al = a - ah, bh = cb - (cb - b), bl = b - bh, p = a * b;
    return (Two){p, ((ah * bh - p) + ah * bl + al * bh) + al * bl};
}

static Two two_times(Two a, double b)
{
    const Two p = two_product(a.hi, b);
    return two_sum(p.hi, p.lo + a.lo * b);
}

/* log2 of s > 0, finite: 2/ln 2 * atanh f, f = (m - 1) / (m + 1), s = m 2^e, m in [sqrt(1/2), sqrt
 * 2). */
static Two two_log2(double s)
{
    static const Two factor = {0x1.71547652b82fep+1, 0x1.777d0ffda0d24p-55}; /* 2 / ln 2 */
    int e;
    double m = frexp(s, &e);
    if (m < 0x1.6a09e667f3bcdp-1) {
        m *= 2;
        e--;
    }
    const Two den = two_sum(m, 1);
    const double num = m - 1, f = num / den.hi;
    const Two back = two_product(f, den.hi);
    const double f_lo = (((num - back.hi) - back.lo) - f * den.lo) / den.hi;
    const double z = f * f;
    double series = 0;
    for (int i = 23; i >= 3; i -= 2)
        series = z * (1.0 / i + series);
    const Two atanh = two_sum(f, f_lo + f * series);
    const Two head = two_times(atanh, factor.hi),
              all = two_sum(head.hi, head.lo + atanh.hi * factor.lo);
    const Two sum = two_sum((double)e, all.hi);
    return two_sum(sum.hi, sum.lo + all.lo);
}

/* x * 2^(a.hi + a.lo) */
static double scale_exp2(double x, Two a)
{
    static const Two ln2 = {0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56};
    if (!(a.hi > -5000 && a.hi < 5000))
        return a.hi != a.hi ? a.hi : x * (a.hi < 0 ? 0 : INFINITY);
    const int n = (int)(a.hi + (a.hi < 0 ? -0.5 : 0.5));
    const Two t = two_times(ln2, a.hi - n);
    const double rest = t.lo + a.lo * ln2.hi;
    double series = 0;
    for (int i = 14; i >= 2; i--)
        series = t.hi / i * (1 + series);
    const double y = t.hi + (rest * (1 + t.hi + t.hi * series) + t.hi * series); /* e^t - 1 */
    int of_x;
    const double m = frexp(x, &of_x);
    return ldexp(m + m * y, n + of_x);
}

double norm_exp(double x)
{
    static const Two log2e = {0x1.71547652b82fep+0, 0x1.777d0ffda0d24p-56};
    return x > -1000 || x != x ? scale_exp2(1, two_times(log2e, x)) : 0;
}

double norm_pow(double x, double s, int e, double p)
{
    if (p == 0)
        return x;
    if (!(s > 0) || s > 0x1.fffffffffffffp1023) /* 0, infinity; NaN below 0 */
        return x * (s == 0 ? (p > 0 ? 0 : INFINITY) : s > 0 ? (p > 0 ? s : 0) : NAN);
    const Two log = two_log2(s), sum = two_sum(log.hi, e);
    return scale_exp2(x, two_times(two_sum(sum.hi, sum.lo + log.lo), p));
}
