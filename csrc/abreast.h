/* Rows of columns that follow each other without a gap (Plan.flat) go several abreast, as one row
 * of more columns: a few columns leave most of a vector empty, and their ends are no whole one.
 *
 * Applied, what columns are made with is repeated, and so many rows go abreast that they fill
 * lines. Summed, as many do as there are lanes: each of the wide row's columns is then a lane of a
 * column, and their order is what it was. */
#ifndef NORMC_ABREAST_H
#define NORMC_ABREAST_H
#include "work.h"

/* The groups of `at`, all columns: rows `first` .. first + n - 1 of all runs. */
typedef struct {
    const ptrdiff_t *at;
    ptrdiff_t columns, abreast;
    Affine s;
    _Alignas(LINE) double params[ROWS_OF_PARAMS][TILE]; /* of the arithmetic type */
} Abreast;

void abreast_open(const Work *, const ptrdiff_t at[STEPS], ptrdiff_t columns, const Affine *,
                  Abreast *);
void apply_abreast(const Work *, const Abreast *, ptrdiff_t first, ptrdiff_t n, char wide[TILE]);

/* Is a block summed by sum_flat(), its runs as one? at_once: else it is one run, and one strip. */
int sums_flat(const Work *, const Piece *block, int at_once);
void sum_flat(const Work *, const Piece *block, const Summing *, double *sums);

/* Lanes to which the rows of runs of n go, made a power of two. */
static inline int lanes_used(ptrdiff_t n)
{
    int lanes = 1;
    while (lanes < n && lanes < LANES)
        lanes *= 2;
    return lanes;
}

/* Those of them to which none goes; the others need not be. */
static inline void lanes_clear(double lanes[2 * LANES * PITCH], ptrdiff_t n, ptrdiff_t width)
{
    for (ptrdiff_t l = n; l < lanes_used(n); l++)
        for (int o = 0; o < 2; o++)
            memset(lanes + (o * LANES + l) * PITCH, 0, (size_t)(width + LANES) * sizeof *lanes);
}
#endif
