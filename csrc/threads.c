#include "threads.h"

void parallel(ptrdiff_t items, void (*f)(void *, ptrdiff_t), void *context)
{
    for (ptrdiff_t i = 0; i < items; i++)
        f(context, i);
}
