/* The gradients: the same bits on every instruction set and memory layout. How near they are to the
 * exact ones is tested in Python, against autograd among others. */
#include "check.h"
#include "cpu.h"
#include "threads.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { PLAIN, WITH_PARAMETERS, MASKED, EVALUATION, WAYS };
static const char *const ways[] = {"no parameters", "weight, eps 0", "masked", "evaluation"};

typedef struct {
    Call call;
    Tensors *t; /* of what is differentiated */
    int (*backward)(void *job);
    void *job;
    double *sums; /* what it gives beside dx */
    ptrdiff_t nsums;
} Back;

enum { APART, STREAMED, THREADED, CROWDED, STORES };
static const char *const stores_names[STORES] = {"", "streamed", "two threads", "seven threads"};

static uint64_t run(const Back *b, const Array *x, const Array *g, CpuLevel level, int stores,
                    Layout of_x, Layout of_g)
{
    Array xs = laid_out(x, of_x), gs = laid_out(g, of_g);
    Array dx = new_array(x->dtype, x->ndim, x->shape, of_x == SWAPPED ? CONTIGUOUS : of_x);
    Tensors *t = b->t;
    point(t, &xs);
    t->g = gs.data;
    t->gdtype = gs.dtype;
    t->gstep = gs.step;
    t->gswapped = gs.swapped;
    t->y = dx.data;
    t->ystep = dx.step;
    cpu_use(level);
    cpu_stream_from(stores == STREAMED ? 0 : -1);
    threads_set_limit(stores == THREADED ? 2 : stores == CROWDED ? 7 : 1);
    check(b->backward(b->job) == 0, &b->call, "return value", 0, -1, 0);
    uint64_t h = hash_array(&dx, 0);
    for (ptrdiff_t i = 0; i < b->nsums; i++)
        h = hash_double(b->sums[i], h);
    free(xs.block);
    free(gs.block);
    free(dx.block);
    return h;
}

static void check_back(const Back *b, const Array *x, const Array *g)
{
    const uint64_t expected = run(b, x, g, CPU_BASELINE, 0, CONTIGUOUS, CONTIGUOUS);
    digest(expected);
    for (int level = 0; level <= (int)cpu_found(); level++)
        for (int layout = 0; layout < LAYOUTS; layout++) {
            const Layout other = (Layout)((layout + 3 * level + 1) % LAYOUTS);
            for (int stores = APART; stores < STORES; stores++) {
                if (left_out(level, layout, stores >= THREADED, stores == CROWDED))
                    continue;
                const uint64_t h = run(b, x, g, (CpuLevel)level, stores, (Layout)layout, other);
                char what[99];
                snprintf(what, sizeof what, "%s %s", layout_names[layout], stores_names[stores]);
                check(h == expected, &b->call, what, 0, NAN, NAN);
            }
        }
}

/* x of the kind, and a gradient about 0.3, now and then large. */
static Array gradient_of(const Array *x)
{
    Array g = new_array(x->dtype, x->ndim, x->shape, CONTIGUOUS);
    for (ptrdiff_t i = 0; i < g.size; i++)
        write_element(g.dtype, g.data + i * itemsize(g.dtype),
                      (0.3 + random_normal()) * (random_bits() % 64 ? 1 : 1000), 0);
    return g;
}

static double *values(ptrdiff_t n, double centre, int squared)
{
    double *v = calloc((size_t)n + 1, sizeof *v);
    if (!v)
        abort();
    for (ptrdiff_t i = 0; i < n; i++) {
        v[i] = centre + random_normal();
        v[i] *= squared ? v[i] : 1;
    }
    return v;
}

/* ---- norms --------------------------------------------------------------------------- */

typedef struct {
    Gradient gradient;
    double *sums;
    ptrdiff_t n;
} NormBack;

static int norm_back(void *job)
{
    NormBack *b = job;
    b->gradient.dweight = b->sums;
    b->gradient.dbias = b->sums + b->n;
    const int failed = norm_backward(&b->gradient);
    for (int k = 0; k < 3; k++) {
        b->sums[2 * b->n + k] = b->gradient.dlogits.mean[k];
        b->sums[2 * b->n + 3 + k] = b->gradient.dlogits.var[k];
    }
    return failed;
}

static void check_norm(const Shape *s, Data data, int way, const Array *x)
{
    NormBack b = {
        .gradient.job = {.kind = s->kind,
                         .axis = s->axis,
                         .num_groups = s->num_groups,
                         .reduce = s->reduce,
                         .eps = way == WITH_PARAMETERS ? 0 : 1e-5,
                         .correction = way == WITH_PARAMETERS,
                         .logits = {s->ndim == 2 ? 2 : 3, {0.5, -0.25, 1}, {-1, 0.75, 0}}}};
    Job *j = &b.gradient.job;
    point(&j->t, x);
    b.n = parameters_of(j);
    b.sums = values(2 * b.n + 6, 0, 0);
    const Dtype arithmetic = x->dtype == F64 ? F64 : F32;
    Array weight = new_array(arithmetic, 1, &b.n, CONTIGUOUS), g = gradient_of(x);
    double *mean = values(b.n, 0, 0), *var = values(b.n, 1, 1);
    char *mask = calloc((size_t)x->size + 1, 1);
    ptrdiff_t mask_step[AXES];
    if (!mask)
        abort();
    for (ptrdiff_t i = 0; i < b.n; i++)
        write_element(arithmetic, weight.data + i * weight.step[0], 1 + random_normal(), 0);
    for (ptrdiff_t i = 0; i < x->size; i++)
        mask[i] = random_bits() % 8 > 1;
    for (int i = 0; i < AXES; i++)
        mask_step[i] = x->step[i] / itemsize(x->dtype);
    if (way == WITH_PARAMETERS || way == MASKED)
        j->weight = weight.data;
    if (way == MASKED) {
        j->t.mask = mask;
        j->t.mstep = mask_step;
    }
    if (way == EVALUATION) {
        j->given_mean = mean;
        j->given_var = var;
    }
    const Back back = {
        .call = {.name = s->name, .data = data_names[data], .way = ways[way], .t = &j->t},
        .t = &j->t,
        .backward = norm_back,
        .job = &b,
        .sums = b.sums,
        .nsums = 2 * b.n + 6 * (s->kind == SWITCHABLE)};
    check_back(&back, x, &g);
    free(g.block);
    free(weight.block);
    free(b.sums);
    free(mean);
    free(var);
    free(mask);
}

static int makes_sense(NormKind kind, int way)
{
    if (way == EVALUATION)
        return kind == BATCH || kind == INSTANCE || kind == SWITCHABLE;
    return way != MASKED || kind != SWITCHABLE;
}

/* ---- the others ---------------------------------------------------------------------- */

typedef struct {
    Bend bend;
    double sum[64];
} BendBack;

static int bend_back(void *job)
{
    BendBack *b = job;
    return bend_backward(&b->bend, b->sum);
}

static int window_back(void *job)
{
    return lrn_backward(job);
}

static void check_others(Data data, const Array *x)
{
    double slopes[64] = {0};
    Array g = gradient_of(x);
    BendBack b = {.bend = {.axis = 1, .nslope = x->shape[1], .floor = -INFINITY, .slope = slopes}};
    for (int i = 0; i < 64; i++)
        write_element(x->dtype == F64 ? F64 : F32, (char *)slopes + i * (x->dtype == F64 ? 8 : 4),
                      0.1 * i, 0);
    point(&b.bend.t, x);
    const Call call = {.name = "prelu", .data = data_names[data], .way = "", .t = &b.bend.t};
    check_back(&(Back){call, &b.bend.t, bend_back, &b, b.sum, x->shape[1]}, x, &g);
    for (int i = 0; i < 3; i++) {
        Window w = {.axis = 1,
                    .size = (ptrdiff_t[]){5, 2, 13}[i],
                    .before = 1,
                    .alpha = 0.5,
                    .beta = (double[]){0.75, 0.6, 1}[i],
                    .k = 2};
        point(&w.t, x);
        const Call of_window = {
            .name = "local_response_norm", .data = data_names[data], .way = "", .t = &w.t};
        check_back(&(Back){of_window, &w.t, window_back, &w, NULL, 0}, x, &g);
    }
    free(g.block);
}

void check_gradients(void)
{
    static const ptrdiff_t images[AXES] = {2, 19, 5, 3};
    for (int t = 0; t < DTYPES; t++)
        for (int data = 0; data < DATA; data++) {
            for (int s = 0; s < nshapes; s++) {
                Array x = new_array((Dtype)t, shapes[s].ndim, shapes[s].shape, CONTIGUOUS);
                fill(&x, (Data)data);
                for (int way = 0; way < WAYS; way++)
                    if (makes_sense(shapes[s].kind, way))
                        check_norm(&shapes[s], (Data)data, way, &x);
                free(x.block);
            }
            Array x = new_array((Dtype)t, AXES, images, CONTIGUOUS);
            fill(&x, (Data)data);
            check_others((Data)data, &x);
            free(x.block);
        }
}
