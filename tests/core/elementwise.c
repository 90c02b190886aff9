/* What follows a norm, and the norm over a window of channels. */
#include "check.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Arrays, and where their channels are. */
static const struct {
    int ndim, axis;
    ptrdiff_t shape[AXES];
} arrays[] = {{4, 1, {2, 19, 5, 3}}, {4, 3, {1, 3, 7, 19}}, {2, 1, {7, 13}},
              {3, 1, {1, 2, 1100}},  {2, 1, {0, 3}},        {3, 1, {2, 0, 4}}};

typedef struct {
    Array x;
    int axis;
    Data data;
} Input;

/* Elements between an element and its like in the next channel. */
static ptrdiff_t plane(const Array *x, int axis)
{
    ptrdiff_t n = 1;
    for (int i = axis + 1; i < x->ndim; i++)
        n *= x->shape[i];
    return n;
}

static int bend(const void *job)
{
    return bend_forward(job);
}

static int window(const void *job)
{
    return lrn_forward(job);
}

/* One product, rounded in the arithmetic type and then in the storage type. */
static double bent(const Bend *b, double x, ptrdiff_t channel)
{
    if (!(x < 0))
        return x;
    x = fmax(x, b->floor);
    channel = b->nslope > 1 ? channel : 0;
    if (b->t.dtype == F64)
        return x * ((const double *)b->slope)[channel];
    return rounded(b->t.dtype, (float)x * ((const float *)b->slope)[channel]);
}

static void check_bend(const char *name, const Input *in, double floor, ptrdiff_t nslope)
{
    const Array *x = &in->x;
    Dtype arithmetic = x->dtype == F64 ? F64 : F32;
    Array slope = new_array(arithmetic, 1, &nslope, CONTIGUOUS);
    for (ptrdiff_t i = 0; i < nslope; i++)
        write_element(arithmetic, slope.data + i * slope.step[0],
                      floor == 0 ? 1 : 0.01 + 0.3 * (double)i, 0);
    Bend b = {.axis = in->axis, .nslope = nslope, .floor = floor, .slope = slope.data};
    Call c = {.name = name,
              .data = data_names[in->data],
              .way = "",
              .forward = bend,
              .job = &b,
              .t = &b.t};
    point(&b.t, x);
    Array y = check_bits(&c, x);
    for (ptrdiff_t i = 0; i < x->size; i++) {
        ptrdiff_t offset = offset_of(x, i), channel = i / plane(x, b.axis) % x->shape[b.axis];
        check_within(&c, "y", i, read_element(y.dtype, y.data + offset, 0),
                     bent(&b, read_element(x->dtype, x->data + offset, 0), channel), 0);
    }
    free(y.block);
    free(slope.block);
}

static long double windowed(const Window *w, const Array *x, ptrdiff_t i)
{
    ptrdiff_t apart = plane(x, w->axis), channels = x->shape[w->axis];
    ptrdiff_t channel = i / apart % channels;
    long double sum = 0, element = read_element(x->dtype, x->data + offset_of(x, i), 0);
    for (ptrdiff_t c = channel - w->before; c < channel - w->before + w->size; c++)
        if (c >= 0 && c < channels) {
            ptrdiff_t at = offset_of(x, i + (c - channel) * apart);
            long double v = read_element(x->dtype, x->data + at, 0);
            sum += v * v;
        }
    return element / powl(w->k + w->alpha / (long double)w->size * sum, w->beta);
}

static long double window_bound(Dtype t, ptrdiff_t size, long double y)
{
    if (t == F64)
        return fabsl(y) * (size + 6) * 0x1p-53L + 0x1p-1074L;
    if (t == F32)
        return fabsl(y) * (size + 6) * 0x1p-24L + 0x1p-149L;
    return rounding_bound(t, y, ulp(t, (double)y) * 0x1p-8L);
}

static void check_window(const Input *in, ptrdiff_t size, double beta)
{
    const Array *x = &in->x;
    Window w = {
        .axis = in->axis, .size = size, .before = size / 2, .alpha = 0.5, .beta = beta, .k = 2};
    char way[99];
    snprintf(way, sizeof way, "size %td, beta %g", size, beta);
    Call c = {.name = "local_response_norm",
              .data = data_names[in->data],
              .way = way,
              .forward = window,
              .job = &w,
              .t = &w.t};
    point(&w.t, x);
    Array y = check_bits(&c, x);
    for (ptrdiff_t i = 0; i < x->size; i++) {
        long double expected = windowed(&w, x, i);
        check_within(&c, "y", i, read_element(y.dtype, y.data + offset_of(&y, i), 0), expected,
                     window_bound(x->dtype, size, expected));
    }
    free(y.block);
}

static void each_input(void (*f)(const Input *))
{
    for (size_t a = 0; a < sizeof arrays / sizeof *arrays; a++)
        for (int t = 0; t < DTYPES; t++)
            for (int data = 0; data < DATA; data++) {
                Input in = {new_array((Dtype)t, arrays[a].ndim, arrays[a].shape, CONTIGUOUS),
                            arrays[a].axis, (Data)data};
                fill(&in.x, in.data);
                f(&in);
                free(in.x.block);
            }
}

static void bends(const Input *in)
{
    check_bend("relu", in, 0, 1);
    check_bend("leaky_relu", in, -INFINITY, 1);
    check_bend("prelu", in, -INFINITY, in->x.shape[in->axis]);
}

static void windows(const Input *in)
{
    static const struct {
        ptrdiff_t size;
        double beta;
    } cases[] = {{1, 0.5}, {2, 0.75}, {2, 0.6}, {5, 1}, {5, 0.75}, {64, 0.5}};
    size_t first = (size_t)in->data + (size_t)in->x.dtype;
    for (size_t i = first % 3; i < sizeof cases / sizeof *cases; i += 3)
        check_window(in, cases[i].size, cases[i].beta);
}

void check_bends(void)
{
    each_input(bends);
}

void check_windows(void)
{
    each_input(windows);
}
