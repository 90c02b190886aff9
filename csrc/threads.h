/* Work in fixed items: shape and layout give their number, threads choose only who runs them.
 */
#ifndef NORMC_THREADS_H
#define NORMC_THREADS_H
#include <stddef.h>

/* f(context, i) for every i < items, in any order. */
void parallel(ptrdiff_t items, void (*f)(void *, ptrdiff_t), void *context);
#endif
