/* In what order columns are walked. Those that are applied: rows of several come together. */
#ifndef NORMC_COLUMNS_H
#define NORMC_COLUMNS_H
#include "vec.h"

/* How many rows of so many bytes come together: few where they are long, for memory is read in its
 * order. Bytes to what is asked for meanwhile, some 8 KB of columns later: where rows are longer
 * than the columns, no hardware finds it. */
enum { AT_ONCE = 16 };
INLINE ptrdiff_t rows_at_once(ptrdiff_t bytes)
{
    enum { NEAR = 2048 };
    const ptrdiff_t rows = NEAR / bytes;
    return rows < 1 ? 1 : rows > AT_ONCE ? AT_ONCE : rows;
}
INLINE ptrdiff_t rows_ahead(ptrdiff_t step, ptrdiff_t bytes)
{
    enum { AHEAD = 8192 };
    return (AHEAD / bytes + rows_at_once(bytes)) * step;
}
/* Bytes to what is stored soon. Long rows stand in few sets of the first cache. */
INLINE ptrdiff_t rows_soon(ptrdiff_t step)
{
    enum { LATER = 8 };
    return step <= SOON && -step <= SOON ? LATER * step : 0;
}
INLINE void ask_row(const void *row, ptrdiff_t ahead, ptrdiff_t bytes)
{
    for (ptrdiff_t i = 0; i < bytes; i += LINE)
        __builtin_prefetch((const char *)row + ahead + i, 0, 2);
}

/* Of `left` rows, which go to `period` lanes in turn, those of a strip that go to lane l. */
INLINE ptrdiff_t rows_of_lane(ptrdiff_t left, ptrdiff_t l, ptrdiff_t period)
{
    return left < DEEP * period ? (left - l - 1) / period + 1 : DEEP;
}

/* `rows` rows that go to one lane, at most DEEP, xstep and gstep bytes apart: at most WIDE columns
 * of each. */
enum { WIDE = 4 * LANES };
typedef struct {
    const char *x, *g;
    ptrdiff_t xstep, gstep, rows;
} Strip;

INLINE ptrdiff_t some_of(ptrdiff_t left, ptrdiff_t most)
{
    return left < most ? left : most;
}
#endif
