/* What the core is handed: plain pointers, shapes and steps. No Python here or below. */
#ifndef NORMC_TENSOR_H
#define NORMC_TENSOR_H
#include <stddef.h>

enum { MAXD = 64 }; /* axes of an array, NumPy's limit */

typedef enum { F16, BF16, F32, F64, DTYPES } Dtype;

static inline ptrdiff_t itemsize(Dtype t)
{
    return t == F64 ? 8 : t == F32 ? 4 : 2;
}

/* The type a storage type computes in: double for F64, float for the rest. */
static inline ptrdiff_t arithsize(Dtype t)
{
    return t == F64 ? 8 : 4;
}

/* x and the arrays that are walked beside it. Steps are in bytes, one per axis of `shape`.
 * y is native-endian and either is x, element for element, or shares no memory with it. */
typedef struct {
    Dtype dtype;
    int ndim;
    int swapped; /* x alone has the other byte order */
    const ptrdiff_t *shape;
    const char *x, *mask; /* mask: one byte an element, 0 excludes it; NULL: none */
    char *y;              /* NULL: nothing is written */
    const char *g; /* the gradient of the forward's y; NULL: a forward. Then y is dx, apart */
    Dtype gdtype;  /* computes in x's arithmetic type */
    int gswapped;
    const ptrdiff_t *xstep, *mstep, *ystep, *gstep;
} Tensors;
#endif
