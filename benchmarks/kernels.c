/* Every kernel on every instruction set that this machine has, in gigabytes a second: of what it
 * reads and writes, once each. `make kernels` builds and runs it.
 *
 * Rows of N elements, as many as are near (first level of cache) or far (second); where they take
 * turns, the fastest of many short rounds counts. */
#define _POSIX_C_SOURCE 199309L
#include "cpu.h"
#include "kernels.h"
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { N = 512, NEAR = 2, FAR = 64, WIDTH = 256, ROUNDS = 400 };

/* What the kernels walk: `rows` rows of N elements of a type, values near 1. */
typedef struct {
    const Kernels *k;
    Dtype type;
    ptrdiff_t rows, size, arith; /* bytes of an element, and of one as it is computed */
    char *x, *y, *g, *wide;      /* wide: of the arithmetic type */
    void *params;                /* N values of the arithmetic type, and 1 .. for each column */
    double *weights, *sums, *lanes;
    Affine affine;
    Deviations about;
} Bench;

static ptrdiff_t row(const Bench *b)
{
    return N * b->size;
}

static ptrdiff_t arith_row(const Bench *b)
{
    return N * b->arith;
}

static void pack(Bench *b)
{
    for (ptrdiff_t r = 0; r < b->rows; r++)
        b->k->pack(b->y + r * arith_row(b), b->x + r * row(b), b->size, 0, N);
}

static void unpack(Bench *b)
{
    for (ptrdiff_t r = 0; r < b->rows; r++)
        b->k->unpack(b->y + r * row(b), b->size, b->wide + r * arith_row(b), N);
}

/* Rows of x are taken, rows of y are made. */
static void sweep(Bench *b, int take, int apply, const void *weights)
{
    const Applied a = {.x = {b->x, row(b), 0, 0},
                       .y = {b->y, row(b), 0},
                       .count = apply ? b->rows : 0,
                       .s = &b->affine,
                       .w = weights,
                       .b = weights,
                       .lines = NULL}; /* nothing is streamed */
    const Taken t = {.x = {b->x, row(b), 0, 0},
                     .count = take ? b->rows : 0,
                     .k = b->sums + 2 * TILE,
                     .lanes = b->lanes,
                     .sums = b->sums};
    b->k->sweep_rows(&a, &t, N, 1);
}

static void take_rows(Bench *b)
{
    sweep(b, 1, 0, NULL);
}

static void apply_rows(Bench *b)
{
    sweep(b, 0, 1, NULL);
}

static void apply_rows_vector(Bench *b)
{
    sweep(b, 0, 1, b->params);
}

static void sweep_rows(Bench *b)
{
    sweep(b, 1, 1, NULL);
}

static void sweep_rows_vector(Bench *b)
{
    sweep(b, 1, 1, b->params);
}

static void take_cols(Bench *b)
{
    for (ptrdiff_t c = 0; c < N; c += WIDTH)
        b->k->take_cols(b->x + c * b->size, row(b), b->rows, WIDTH, b->sums + 2 * TILE, LANES, 1,
                        b->lanes);
}

static void take_run_cols(Bench *b)
{
    for (ptrdiff_t c = 0; c < N; c += WIDTH)
        b->k->take_run_cols(b->x + c * b->size, row(b), WIDTH * b->size, b->rows, WIDTH,
                            b->sums + 2 * TILE, b->sums);
}

static void apply_cols(Bench *b)
{
    for (ptrdiff_t c = 0; c < N; c += WIDTH)
        b->k->apply_cols(b->x + c * b->size, b->y + c * b->size, row(b), row(b), b->rows, WIDTH,
                         &b->affine, NULL, NULL);
}

static Walk walk(const Bench *b, const char *at)
{
    return (Walk){at, row(b), 0, 0};
}

static void dots_rows(Bench *b)
{
    const Walk x = walk(b, b->x), g = walk(b, b->g);
    b->k->dots_rows(&x, &g, b->rows, N, 1, &b->about, NULL, NULL, 0, 0, b->sums);
}

static void dots_rows_vector(Bench *b)
{
    const Walk x = walk(b, b->x), g = walk(b, b->g);
    b->k->dots_rows(&x, &g, b->rows, N, 1, &b->about, b->weights, b->lanes, N, 0, b->sums);
}

static void dots_cols(Bench *b)
{
    for (ptrdiff_t c = 0; c < N; c += WIDTH) {
        const Walk x = walk(b, b->x + c * b->size), g = walk(b, b->g + c * b->size);
        b->k->dots_cols(&x, &g, b->rows, WIDTH, &b->about, NULL, NULL, 0, LANES, 1, b->lanes);
    }
}

static void dx_rows(Bench *b)
{
    const Walk g = walk(b, b->g);
    const Applied a = {.x = walk(b, b->x),
                       .y = {b->y, row(b), 0},
                       .count = b->rows,
                       .s = &b->affine,
                       .w = b->params};
    char wide[TILE] = {0};
    b->k->dx_rows(&a, &g, N, 1, wide);
}

static void dx_cols(Bench *b)
{
    char wide[TILE] = {0};
    for (ptrdiff_t c = 0; c < N; c += WIDTH) {
        const Walk x = walk(b, b->x + c * b->size), g = walk(b, b->g + c * b->size);
        b->k->dx_cols(&x, &g, b->y + c * b->size, row(b), b->rows, WIDTH, &b->affine, NULL, wide);
    }
}

static void bend_rows(Bench *b)
{
    for (ptrdiff_t r = 0; r < b->rows; r++)
        b->k->bend_rows(b->x + r * arith_row(b), b->y + r * arith_row(b), N, -6, b->params, 0);
}

static void bend_dx_rows(Bench *b)
{
    for (ptrdiff_t r = 0, at = 0; r < b->rows; r++, at += arith_row(b))
        b->k->bend_dx_rows(b->x + at, b->g + at, b->y + at, N, 0, b->params, 0);
}

static void lrn_rows(Bench *b)
{
    int wide;
    for (ptrdiff_t r = 0; r + 4 < b->rows || r == 0; r++) {
        const void *window[5];
        for (ptrdiff_t j = 0; j < 5; j++)
            window[j] = b->x + (r + j) % b->rows * arith_row(b);
        b->k->lrn_rows(b->x + r * arith_row(b), b->y + r * arith_row(b), N, window, 5, b->x, 0, 1,
                       1e-4, POW_THREE_QUARTERS, &wide);
    }
}

/* Bytes are of the storage type (s) and the arithmetic one (a), of each element. */
static const struct {
    const char *name;
    void (*run)(Bench *);
    int s, a;
    int stored, direct; /* has halves of its own; where the instruction set converts them */
} kernel_list[] = {
    {"pack", pack, 1, 1, 1, 0},
    {"unpack", unpack, 1, 1, 1, 0},
    {"sweep_rows, take", take_rows, 1, 0, 0, 1},
    {"sweep_rows, apply", apply_rows, 2, 0, 0, 1},
    {"the same, weights", apply_rows_vector, 2, 0, 0, 1},
    {"sweep_rows, both", sweep_rows, 3, 0, 0, 1},
    {"the same, weights", sweep_rows_vector, 3, 0, 0, 1},
    {"take_cols", take_cols, 1, 0, 0, 1},
    {"take_run_cols", take_run_cols, 1, 0, 0, 1},
    {"apply_cols", apply_cols, 2, 0, 0, 1},
    {"dots_rows", dots_rows, 2, 0, 0, 1},
    {"the same, weights", dots_rows_vector, 2, 0, 0, 1},
    {"dots_cols", dots_cols, 2, 0, 0, 1},
    {"dx_rows", dx_rows, 3, 0, 0, 1},
    {"dx_cols", dx_cols, 3, 0, 0, 1},
    {"bend_rows", bend_rows, 0, 2, 0, 0},
    {"bend_dx_rows", bend_dx_rows, 0, 3, 0, 0},
    {"lrn_rows", lrn_rows, 0, 2, 0, 0},
};
enum { KERNELS = sizeof kernel_list / sizeof *kernel_list };

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double gigabytes(int i, Bench *b)
{
    const double bytes =
        (double)(b->rows * N) * (double)(kernel_list[i].s * b->size + kernel_list[i].a * b->arith);
    const int repeats = b->rows == NEAR ? 32 : 1;
    double best = 1;
    for (int round = 0; round < ROUNDS; round++) {
        const double start = seconds();
        for (int j = 0; j < repeats; j++)
            kernel_list[i].run(b);
        const double took = (seconds() - start) / repeats;
        best = took < best ? took : best;
    }
    return bytes / best / 1e9;
}

static void *aligned(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p)
        exit(EXIT_FAILURE);
    memset(p, 0, bytes);
    return p;
}

static void fill(const Kernels *k, Dtype type, char *to, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        const double d = 1 + (double)(i % 13) / 16;
        const float f = (float)d;
        k->unpack(to + i * itemsize(type), 0, type == F64 ? (const void *)&d : (const void *)&f, 1);
    }
}

static Bench bench(Dtype type)
{
    Bench b = {.k = &kernels_baseline[type], .type = type, .size = itemsize(type)};
    b.arith = arithsize(type);
    const size_t all = FAR * N * sizeof(double);
    b.x = aligned(all); /* loads from where stores of the same place in a page wait would be slow */
    b.y = (char *)aligned(all + 4096) + 1024;
    b.g = (char *)aligned(all + 4096) + 2048;
    b.wide = aligned(all);
    b.params = aligned(N * sizeof(double));
    b.weights = aligned(N * sizeof(double));
    b.sums = aligned(3 * TILE * sizeof(double));
    b.lanes = aligned(2 * LANES * PITCH * sizeof(double));
    fill(b.k, type, b.x, FAR * N);
    fill(b.k, type, b.g, FAR * N);
    fill(&kernels_baseline[type == F64 ? F64 : F32], type == F64 ? F64 : F32, b.wide, FAR * N);
    fill(&kernels_baseline[type == F64 ? F64 : F32], type == F64 ? F64 : F32, b.params, N);
    fill(&kernels_baseline[F64], F64, (char *)b.weights, N);
    b.affine = (Affine){.hi = b.params,
                        .lo = b.params,
                        .scale = b.params,
                        .shift = b.params,
                        .slope = b.params,
                        .weight = b.params,
                        .cut = -INFINITY};
    b.about = (Deviations){b.weights, b.sums + 2 * TILE, b.weights};
    return b;
}

static void print_row(int i, Bench *b)
{
    static const char *const types[] = {"float16", "bfloat16", "float32", "float64"};
    printf("%-24s%-10s", kernel_list[i].name, types[b->type]);
    for (int level = 0; level < CPU_LEVELS; level++)
        for (int far = 0; far < 2; far++) {
            cpu_use((CpuLevel)level);
            b->k = kernels(b->type);
            const int there = level <= (int)cpu_found() &&
                              (b->type >= F32 || kernel_list[i].stored || b->k->direct);
            if (!there) {
                printf("%10s", "");
                continue;
            }
            b->rows = far ? FAR : NEAR;
            printf("%10.1f", gigabytes(i, b));
        }
    printf("\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const Dtype types[] = {F32, F64, F16, BF16};
    printf("GB/s, in %d KB (near) and %d KB (far) of float32\n\n%-34s", NEAR * N * 4 / 1024,
           FAR * N * 4 / 1024, "");
    for (int level = 0; level < CPU_LEVELS; level++)
        printf("%20s", cpu_names[level]);
    printf("\n%-34s", "");
    for (int level = 0; level < CPU_LEVELS; level++)
        printf("%10s%10s", "near", "far");
    printf("\n");
    for (int t = 0; t < 4; t++) {
        Bench b = bench(types[t]);
        for (int i = 0; i < KERNELS; i++)
            if ((types[t] >= F32 || kernel_list[i].stored || kernel_list[i].direct) &&
                (argc < 2 || strstr(kernel_list[i].name, argv[1])))
                print_row(i, &b);
    }
    return EXIT_SUCCESS;
}
