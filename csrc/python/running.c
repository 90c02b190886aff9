/* The running statistics: the caller's own arrays, of any floating dtype, strides and byte order,
 * read and written element by element so that a value is rounded once and nothing warns. */
#include "call.h"

#include <math.h>

typedef union {
    unsigned char bytes[8];
    uint16_t half;
    uint32_t single_bits;
    float single;
    double wide;
} Element;

static void reverse(Element *e, int size)
{
    for (int i = 0; i < size / 2; i++) {
        const unsigned char byte = e->bytes[i];
        e->bytes[i] = e->bytes[size - 1 - i];
        e->bytes[size - 1 - i] = byte;
    }
}

static double from_half(uint16_t h)
{
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    const double size = exponent == 31 ? (fraction ? NAN : INFINITY)
                        : exponent     ? ldexp(1024 + fraction, exponent - 25)
                                       : ldexp(fraction, -24);
    return h >> 15 ? -size : size;
}

/* To a 16-bit float of `digits` fraction bits, to nearest even. Counted in units of its last place,
 * and with the fraction carrying into the exponent, rounding needs no cases. */
static uint16_t to_half(double value, int digits)
{
    const int exponents = 15 - digits, bias = (1 << (exponents - 1)) - 1;
    const int infinite = ((1 << exponents) - 1) << digits;
    const uint16_t sign = signbit(value) ? 0x8000 : 0;
    int exponent;
    if (isnan(value))
        return (uint16_t)(sign | infinite | 1 << (digits - 1));
    if (isinf(value))
        return (uint16_t)(sign | infinite);
    const double fraction = frexp(fabs(value), &exponent); /* 0, or [1/2, 1) */
    int place = exponent - 1 + bias;                       /* the exponent field */
    place = fraction == 0 || place < 1 ? 1 : place;
    if (place > 2 * bias)
        return (uint16_t)(sign | infinite);
    const double units = ldexp(fraction, exponent + bias - place + digits);
    int whole = (int)units;
    const double rest = units - whole;
    whole += rest > 0.5 || (rest == 0.5 && whole % 2);
    return (uint16_t)(sign | (((place - 1) << digits) + whole));
}

static double element_load(const char *from, Dtype dtype, int swapped)
{
    Element e = {.wide = 0};
    memcpy(&e, from, (size_t)itemsize(dtype));
    if (swapped)
        reverse(&e, (int)itemsize(dtype));
    switch (dtype) {
    case F16:
        return from_half(e.half);
    case BF16:
        e.single_bits = (uint32_t)e.half << 16;
        return e.single;
    case F32:
        return e.single;
    default:
        return e.wide;
    }
}

static void element_store(char *to, Dtype dtype, int swapped, double value)
{
    Element e = {.wide = 0};
    switch (dtype) {
    case F16:
        e.half = to_half(value, 10);
        break;
    case BF16:
        e.half = to_half(value, 7);
        break;
    case F32:
        e.single = (float)value;
        break;
    default:
        e.wide = value;
    }
    if (swapped)
        reverse(&e, (int)itemsize(dtype));
    memcpy(to, &e, (size_t)itemsize(dtype));
}

int vector_take(State *state, PyArrayObject *array, const char *name, Vector *v)
{
    const int dtype = dtype_of(state, array);
    if (dtype < 0)
        return refuse_changed(name);
    *v = (Vector){PyArray_DATA(array), PyArray_DIM(array, 0), PyArray_STRIDE(array, 0),
                  (Dtype)dtype, PyArray_ISBYTESWAPPED(array)};
    return 0;
}

void vector_read(const Vector *v, double *values)
{
    for (npy_intp i = 0; i < v->n; i++)
        values[i] = element_load(v->data + i * v->step, v->dtype, v->swapped);
}

static void publish_one(const Vector *v, npy_intp i, double momentum, double batch)
{
    char *at = v->data + i * v->step;
    const double old = element_load(at, v->dtype, v->swapped);
    element_store(at, v->dtype, v->swapped, (1 - momentum) * old + momentum * batch);
}

/* Nothing here can fail or run Python code, and the GIL is held: an update is whole. */
void running_publish(const Running *r, const ChannelStat *stats, double momentum)
{
    for (npy_intp i = 0; i < r->mean_at.n; i++) {
        if (stats[i].keep)
            continue;
        publish_one(&r->mean_at, i, momentum, stats[i].mean);
        publish_one(&r->var_at, i, momentum, stats[i].var);
    }
}

static int refuse_shared(const State *state, PyArrayObject *running, const char *name,
                         PyArrayObject *other, const char *other_name)
{
    const int shared = other ? share_memory(state, running, other) : 0;
    if (shared > 0)
        PyErr_Format(PyExc_ValueError, "%s and %s must not share memory", name, other_name);
    return shared ? -1 : 0;
}

static int check_one(const Call *c, PyArrayObject *running, const char *name)
{
    if (c->update && !PyArray_ISWRITEABLE(running)) {
        PyErr_Format(PyExc_ValueError, "%s is to be updated, but is read-only", name);
        return -1;
    }
    const struct {
        PyArrayObject *array;
        const char *name;
    } others[] = {
        {c->o.x, "x"},
        {c->o.where, "where"},
        {c->o.y, "out"},
        {c->weight, "weight"},
        {c->mean_weight, "mean_weight"},
        {c->bias, "bias"},
        {c->var_weight, "var_weight"},
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (refuse_shared(c->o.state, running, name, others[i].array, others[i].name) < 0)
            return -1;
    return 0;
}

int running_check(Call *c)
{
    Running *r = &c->running;
    if (r->mean == NULL)
        return 0;
    if (vector_take(c->o.state, r->mean, "running_mean", &r->mean_at) < 0 ||
        vector_take(c->o.state, r->var, "running_var", &r->var_at) < 0 ||
        check_one(c, r->mean, "running_mean") < 0 || check_one(c, r->var, "running_var") < 0)
        return -1;
    return refuse_shared(c->o.state, r->mean, "running_mean", r->var, "running_var");
}
