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
    _Alignas(LINE) char params[ROWS_OF_PARAMS][TILE * sizeof(double)];
} Abreast;

void abreast_open(const Work *, const ptrdiff_t at[STEPS], ptrdiff_t columns, const Affine *,
                  Abreast *);
void apply_abreast(const Work *, const Abreast *, ptrdiff_t first, ptrdiff_t n, char wide[TILE]);

/* Is a block of so many columns summed like that? */
int sums_abreast(const Work *, const Piece *block, const Summing *);
void sum_abreast(const Work *, const Piece *block, const Summing *, double *sums);
#endif
