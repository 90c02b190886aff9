#include "check.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const dtype_names[] = {"float16", "bfloat16", "float32", "float64"};
const char *const data_names[] = {"centred",    "mean 1", "mean 1e3",  "large mean", "constant",
                                  "two-valued", "large",  "subnormal", "outlier",    "not finite"};
const char *const layout_names[] = {"contiguous", "Fortran",    "channels-last", "reversed",
                                    "spread",     "misaligned", "byte-swapped"};

enum { BIG_ENDIAN_HOST = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ };

/* Significant bits, exponents of the smallest and the largest normal number. */
static const struct {
    int bits, least, most;
} formats[] = {{11, -14, 15}, {8, -126, 127}, {24, -126, 127}, {53, -1022, 1023}};

static uint64_t state;

/* splitmix64 */
uint64_t random_bits(void)
{
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

double random_normal(void)
{
    int64_t sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (int64_t)(random_bits() >> 14);
    return ldexp((double)(sum - ((int64_t)1 << 51)), -50);
}

double ulp(Dtype t, double v)
{
    int e = v == 0 ? formats[t].least : ilogb(v);
    return ldexp(1, (e > formats[t].least ? e : formats[t].least) - formats[t].bits + 1);
}

double largest(Dtype t)
{
    return ldexp(2 - ldexp(1, 1 - formats[t].bits), formats[t].most);
}

double rounded(Dtype t, double v)
{
    if (v == 0 || !isfinite(v) || t == F64)
        return v;
    double spacing = ulp(t, v), r = rint(v / spacing) * spacing;
    return fabs(r) <= largest(t) ? r : copysign(INFINITY, v);
}

static uint16_t half_bits(double v)
{
    uint16_t sign = signbit(v) ? 0x8000 : 0;
    if (isnan(v))
        return 0x7e00;
    if (isinf(v))
        return (uint16_t)(sign | 0x7c00);
    double a = fabs(v);
    if (a < ldexp(1, -14))
        return (uint16_t)(sign | (int)ldexp(a, 24));
    int e = ilogb(a);
    return (uint16_t)(sign | ((e + 15) << 10) | ((int)ldexp(a, 10 - e) & 0x3ff));
}

static double half_value(uint16_t h)
{
    int e = h >> 10 & 31, fraction = h & 0x3ff;
    double a = e == 31 ? (fraction ? NAN : INFINITY)
               : e     ? ldexp(fraction + 1024, e - 25)
                       : ldexp(fraction, -24);
    return h & 0x8000 ? -a : a;
}

static void copy_bytes(char *to, const char *from, ptrdiff_t n, int swapped)
{
    for (ptrdiff_t i = 0; i < n; i++)
        to[i] = from[swapped ? n - 1 - i : i];
}

double read_element(Dtype t, const char *p, int swapped)
{
    char bytes[8];
    copy_bytes(bytes, p, itemsize(t), swapped);
    double d;
    float f;
    uint16_t h;
    switch (t) {
    case F64:
        memcpy(&d, bytes, sizeof d);
        return d;
    case F32:
        memcpy(&f, bytes, sizeof f);
        return (double)f;
    default:
        memcpy(&h, bytes, sizeof h);
        if (t == F16)
            return half_value(h);
        uint32_t wide = (uint32_t)h << 16;
        memcpy(&f, &wide, sizeof f);
        return (double)f;
    }
}

void write_element(Dtype t, char *p, double v, int swapped)
{
    v = rounded(t, v);
    float f = (float)v;
    uint32_t wide;
    memcpy(&wide, &f, sizeof f);
    uint16_t h = t == F16 ? half_bits(v) : (uint16_t)(isnan(v) ? 0x7fc0 : wide >> 16);
    const void *from = t == F64 ? (void *)&v : t == F32 ? (void *)&f : (void *)&h;
    copy_bytes(p, from, itemsize(t), swapped);
}

/* The axes from the slowest to the fastest in memory. */
static void memory_order(Layout layout, int ndim, int *order)
{
    for (int i = 0; i < ndim; i++)
        order[i] = layout == FORTRAN ? ndim - 1 - i : i;
    if (layout == CHANNELS_LAST && ndim > 1) {
        for (int i = 1; i < ndim - 1; i++)
            order[i] = i + 1;
        order[ndim - 1] = 1;
    }
}

Array new_array(Dtype t, int ndim, const ptrdiff_t *shape, Layout layout)
{
    Array a = {.dtype = t, .ndim = ndim, .swapped = layout == SWAPPED, .size = 1};
    int order[AXES];
    ptrdiff_t step = itemsize(t) * (layout == SPREAD ? 3 : 1);
    memory_order(layout, ndim, order);
    for (int i = ndim - 1; i >= 0; i--) {
        a.step[order[i]] = step;
        step *= a.shape[order[i]] = shape[order[i]];
        a.size *= shape[order[i]];
    }
    ptrdiff_t before = layout == MISALIGNED || step == 0; /* nothing to spare behind the last */
    a.block = calloc((size_t)(step + before), 1);
    if (!a.block)
        abort();
    a.data = a.block + before;
    for (int i = 0; layout == REVERSED && i < ndim; i++)
        if (shape[i] > 0) {
            a.data += (shape[i] - 1) * a.step[i];
            a.step[i] = -a.step[i];
        }
    return a;
}

ptrdiff_t offset_of(const Array *a, ptrdiff_t element)
{
    ptrdiff_t offset = 0;
    for (int i = a->ndim - 1; i >= 0; i--) {
        offset += element % a->shape[i] * a->step[i];
        element /= a->shape[i];
    }
    return offset;
}

/* From the offset of an element to that of the next in C order. */
static ptrdiff_t next_offset(const Array *a, ptrdiff_t offset, ptrdiff_t index[AXES])
{
    for (int i = a->ndim - 1; i >= 0; i--) {
        offset += a->step[i];
        if (++index[i] < a->shape[i])
            break;
        offset -= a->step[i] * index[i];
        index[i] = 0;
    }
    return offset;
}

Array laid_out(const Array *from, Layout layout)
{
    Array to = new_array(from->dtype, from->ndim, from->shape, layout);
    ptrdiff_t index[AXES] = {0}, n = itemsize(to.dtype), offset = 0;
    for (ptrdiff_t i = 0; i < from->size; i++) {
        copy_bytes(to.data + offset, from->data + i * n, n, to.swapped);
        offset = next_offset(&to, offset, index);
    }
    return to;
}

static double datum(Dtype t, Data kind, ptrdiff_t i)
{
    int half = t == F16 || t == BF16;
    double most = ldexp(1, formats[t].most), least = ldexp(1, formats[t].least);
    switch (kind) {
    case MEAN_1:
        return random_normal() + 1;
    case MEAN_1E3:
        return random_normal() + 1e3;
    case LARGE_MEAN:
        return random_normal() + (t == F64 ? 1e12 : half ? 100 : 1e7);
    case CONSTANT:
        return 0.1;
    case TWO_VALUED:
        return random_bits() & 1 ? 1.1 : -0.3;
    case LARGE:
        return random_normal() * 0.5 * most;
    case SUBNORMAL:
        return random_normal() * 0.25 * least;
    case OUTLIER:
        return i == 7 ? (t == F16 ? 3e4 : 1e6) : random_normal();
    case NOT_FINITE:
        return i == 5 ? NAN : i == 100 ? INFINITY : random_normal();
    default:
        return random_normal();
    }
}

void fill(Array *a, Data kind)
{
    state = (uint64_t)a->size * 1000 + (uint64_t)kind * 10 + (uint64_t)a->dtype;
    for (ptrdiff_t i = 0; i < a->size; i++)
        write_element(a->dtype, a->data + i * itemsize(a->dtype), datum(a->dtype, kind, i), 0);
}

static uint64_t hash_bits(Dtype t, uint64_t bits, uint64_t hash)
{
    static const uint64_t infinity[] = {0x7c00, 0x7f80, 0x7f800000, 0x7ff0000000000000};
    uint64_t sign = (uint64_t)1 << (8 * itemsize(t) - 1);
    hash = (hash ^ ((bits & ~sign) > infinity[t] ? ~(uint64_t)0 : bits)) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 32;
}

uint64_t hash_double(double v, uint64_t hash)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof v);
    return hash_bits(F64, bits, hash);
}

uint64_t hash_array(const Array *a, uint64_t hash)
{
    ptrdiff_t index[AXES] = {0}, n = itemsize(a->dtype), offset = 0;
    for (ptrdiff_t i = 0; i < a->size; i++) {
        uint64_t bits = 0;
        for (ptrdiff_t byte = 0; byte < n; byte++) /* the same number in either byte order */
            bits |= (uint64_t)(unsigned char)a->data[offset + byte]
                    << 8 * (BIG_ENDIAN_HOST ? n - 1 - byte : byte);
        hash = hash_bits(a->dtype, bits, hash);
        offset = next_offset(a, offset, index);
    }
    return hash;
}
