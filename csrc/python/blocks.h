/* Memory of large results: huge pages, and blocks of arrays that are gone, kept for the next. */
#ifndef NORMC_BLOCKS_H
#define NORMC_BLOCKS_H
#include "state.h"

/* Once, before the others. */
int blocks_init(void);

/* Around the creation of an array: where it has 32 MiB or more, and NumPy's own handler is in
 * use, ours is in between. *before: what blocks_leave() puts back, an exception or none; -1: it
 * could not. */
int blocks_enter(npy_intp nbytes, PyObject **before);
int blocks_leave(PyObject *before);

/* Of the blocks that are kept: what arrays they can hold, and how much that may be at most. */
typedef struct {
    size_t bytes, limit;
} Kept;

Kept blocks_kept(void);
/* What exceeds the limit goes back to the system at once; -> the limit before. */
size_t blocks_limit(size_t bytes);
#endif
