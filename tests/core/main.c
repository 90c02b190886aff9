#include "check.h"
#include "cpu.h"
#include "threads.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long checks, failures, failures_of_call;
static uint64_t hash = 0xCBF29CE484222325u;
static int races;                   /* are looked for, alone */
static int emulated;                /* threads cost too much, and cannot fork */
static long double closest[DTYPES]; /* largest error, as a fraction of its bound */

void check(int holds, const Call *c, const char *what, ptrdiff_t element, double got,
           double expected)
{
    checks++;
    if (holds)
        return;
    failures++;
    if (failures_of_call++ < 2)
        printf("FAILED %s, %s, %s%s%s: %s, element %td: got %.17g, expected %.17g\n", c->name,
               dtype_names[c->t->dtype], c->data, *c->way ? ", " : "", c->way, what, element, got,
               expected);
}

void check_within(const Call *c, const char *what, ptrdiff_t element, double got,
                  long double expected, long double bound)
{
    if (isnan(expected) || (isinf(got) && fabsl(expected) + bound > largest(c->t->dtype))) {
        check(isnan(expected) ? isnan(got) : (got > 0) == (expected > 0), c, what, element, got,
              (double)expected);
        return;
    }
    long double error = fabsl(got - expected);
    check(error <= bound, c, what, element, got, (double)expected);
    if (*what == 'y' && bound > 0 && error / bound > closest[c->t->dtype])
        closest[c->t->dtype] = error / bound;
}

int left_out(int level, int layout, int threaded, int crowded)
{
    return emulated ? threaded : races && (level < (int)cpu_found() || layout % 2 || !crowded);
}

static uint64_t fingerprint(const Call *c, const Array *y, uint64_t h)
{
    h = hash_array(y, h);
    for (ptrdiff_t g = 0; g < c->groups; g++) {
        const Moment *m = &c->moments[g];
        h = hash_double(m->m2, hash_double(m->count, h));
        if (!isnan(m->m2))
            h = hash_double(m->lo, hash_double(m->hi, h));
    }
    for (ptrdiff_t i = 0; i < c->nchannels; i++) {
        h = hash_double(c->channels[i].keep, h);
        if (!c->channels[i].keep)
            h = hash_double(c->channels[i].var, hash_double(c->channels[i].mean, h));
    }
    return h;
}

/* Where a job finds x. */
void point(Tensors *t, const Array *x)
{
    t->dtype = x->dtype;
    t->ndim = x->ndim;
    t->shape = x->shape;
    t->x = x->data;
    t->xstep = x->step;
    t->swapped = x->swapped;
}

enum { APART, IN_PLACE, STREAMED, THREADED, CROWDED, STORES };

static Array run(const Call *c, const Array *contiguous, CpuLevel level, Layout layout, int stores)
{
    const int in_place = stores == IN_PLACE;
    Array x = laid_out(contiguous, layout), y = x;
    if (!in_place)
        y = new_array(x.dtype, x.ndim, x.shape, layout == SWAPPED ? CONTIGUOUS : layout);
    point(c->t, &x);
    c->t->y = y.data;
    c->t->ystep = y.step;
    cpu_use(level);
    cpu_stream_from(stores == STREAMED ? 0 : -1);
    threads_set_limit(stores == THREADED ? 2 : stores == CROWDED ? 7 : 1);
    check(c->forward(c->job) == 0, c, "return value", 0, -1, 0);
    point(c->t, contiguous);
    if (!in_place)
        free(x.block);
    return y;
}

static void check_full_mask(const Call *c, const Array *x, uint64_t expected)
{
    static const ptrdiff_t step[AXES];
    static const char one = 1;
    if (!c->takes_mask || c->t->mask)
        return;
    c->t->mask = &one;
    c->t->mstep = step;
    for (int level = 0; level <= (int)cpu_found(); level++) {
        Array y = run(c, x, (CpuLevel)level, CONTIGUOUS, 0);
        check(fingerprint(c, &y, 0) == expected, c, "bits differ: mask all true", 0, NAN, NAN);
        free(y.block);
    }
    c->t->mask = NULL;
}

Array check_bits(const Call *c, const Array *x)
{
    failures_of_call = 0;
    Array first = run(c, x, CPU_BASELINE, CONTIGUOUS, 0);
    uint64_t expected = fingerprint(c, &first, 0);
    hash = fingerprint(c, &first, hash);
    for (int level = 0; level <= (int)cpu_found(); level++)
        for (int layout = 0; layout < LAYOUTS; layout++)
            for (int stores = APART; stores < STORES; stores++) {
                static const char *const names[STORES] = {"", ", in place", ", streamed",
                                                          ", two threads", ", seven threads"};
                char what[99];
                if (stores == IN_PLACE && (layout == SWAPPED || level < (int)cpu_found()))
                    continue;
                if (left_out(level, layout, stores >= THREADED, stores == CROWDED))
                    continue;
                Array y = run(c, x, (CpuLevel)level, (Layout)layout, stores);
                snprintf(what, sizeof what, "bits differ: %s, %s%s", cpu_names[level],
                         layout_names[layout], names[stores]);
                check(fingerprint(c, &y, 0) == expected, c, what, 0, NAN, NAN);
                free(y.block);
            }
    if (!races)
        check_full_mask(c, x, expected);
    return first;
}

void digest(uint64_t h)
{
    hash = hash_double((double)(h >> 12), hash) ^ h;
}

int main(int argc, char **argv)
{
    races = argc > 1 && strcmp(argv[1], "races") == 0;
    emulated = argc > 1 && strcmp(argv[1], "emulated") == 0;
    threads_from(1);
    if (!emulated)
        check_pool();
    check_norms();
    check_bends();
    check_windows();
    check_gradients();
    printf("instruction sets:");
    for (int level = 0; level <= (int)cpu_found(); level++)
        printf(" %s", cpu_names[level]);
    printf("\nlargest error, of what the bound allows:");
    for (int t = 0; t < DTYPES; t++)
        printf(" %s %.3f", dtype_names[t], (double)closest[t]);
    printf("\n%ld checks, %ld failures\nhash %016" PRIx64 "\n", checks, failures, hash);
    return failures > 0;
}
