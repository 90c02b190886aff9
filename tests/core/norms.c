#include "check.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>

/* Which elements share a mean: by kind and axis, or by flags. Sizes straddle lanes, blocks and
 * tiles. */
const Shape shapes[] = {
    {"batch_norm (6,5,7,3)", BATCH, 4, {6, 5, 7, 3}, 1, 0, {0}},
    {"batch_norm (1,1,70,61)", BATCH, 4, {1, 1, 70, 61}, 1, 0, {0}},
    {"batch_norm (7,133)", BATCH, 2, {7, 133}, 1, 0, {0}},
    {"batch_norm (3,2,10,8)", BATCH, 4, {3, 2, 10, 8}, 1, 0, {0}},
    {"group_norm 2 (2,4,9,8)", GROUP, 4, {2, 4, 9, 8}, 1, 2, {0}},
    {"batch_norm (5,33,4) last", BATCH, 3, {5, 33, 4}, 2, 0, {0}},
    {"instance_norm (3,4,5,7)", INSTANCE, 4, {3, 4, 5, 7}, 1, 0, {0}},
    {"group_norm 3 (2,6,5,5)", GROUP, 4, {2, 6, 5, 5}, 1, 3, {0}},
    {"group_norm 2 (3,4)", GROUP, 2, {3, 4}, 1, 2, {0}},
    {"switchable_norm (3,4,5,5)", SWITCHABLE, 4, {3, 4, 5, 5}, 1, 0, {0}},
    {"switchable_norm (9,5)", SWITCHABLE, 2, {9, 5}, 1, 0, {0}},
    {"layer_norm (9,70)", LAYER, 2, {9, 70}, 0, 0, {0, 1}},
    {"layer_norm (4500)", LAYER, 1, {4500}, 0, 0, {1}},
    {"layer_norm (40,1)", LAYER, 2, {40, 1}, 0, 0, {0, 1}},
    {"layer_norm (2,3,5,7) axes 1 to 3", LAYER, 4, {2, 3, 5, 7}, 0, 0, {0, 1, 1, 1}},
    {"layer_norm (2,5,3,47) axis 1", LAYER, 4, {2, 5, 3, 47}, 0, 0, {0, 1, 0, 0}},
    {"layer_norm (3,9,5,6) axes 0, 2", LAYER, 4, {3, 9, 5, 6}, 0, 0, {1, 0, 1, 0}},
    {"standardize (5,7,3)", LAYER, 3, {5, 7, 3}, 0, 0, {1, 1, 1}},
    {"rms_norm (9,70)", RMS, 2, {9, 70}, 0, 0, {0, 1}},
    {"rms_norm (3,37,4) axis 1", RMS, 3, {3, 37, 4}, 0, 0, {0, 1, 0}},
    {"layer_norm (0,5)", LAYER, 2, {0, 5}, 0, 0, {0, 1}},
    {"layer_norm (5,0)", LAYER, 2, {5, 0}, 0, 0, {0, 1}},
    {"batch_norm (0,3,2)", BATCH, 3, {0, 3, 2}, 1, 0, {0}},
};
const int nshapes = sizeof shapes / sizeof *shapes;

/* How a job is called beside its data. */
enum { PLAIN, WITH_PARAMETERS, MASKED, EVALUATION, WAYS };
static const char *const ways[] = {"no parameters", "weight, bias, eps 0", "masked", "evaluation"};

/* What a job reads and writes beside x and y. */
typedef struct {
    char *weight, *bias, *mean, *var, *mask;
    ptrdiff_t mask_step[AXES];
    Moment *moments;
    ChannelStat *channels;
} Room;

static char *parameters(Dtype t, ptrdiff_t n, double centre, int squared)
{
    Dtype a = t == F64 ? F64 : F32;
    Array p = new_array(a, 1, &n, CONTIGUOUS);
    for (ptrdiff_t i = 0; i < n; i++) {
        double v = centre + 3 * random_normal();
        write_element(a, p.block + i * itemsize(a), squared ? v * v : v, 0);
    }
    return p.block;
}

static Room new_room(const Job *j, const Array *x)
{
    ptrdiff_t n = parameters_of(j);
    Room r = {.weight = parameters(x->dtype, n, 1, 0),
              .bias = parameters(x->dtype, n, 0, 0),
              .mean = parameters(F64, n, 0, 0),
              .var = parameters(F64, n, 0, 1),
              .mask = calloc((size_t)x->size + 1, 1),
              .moments = calloc((size_t)groups_of(j) + 1, sizeof *r.moments),
              .channels = calloc((size_t)n + 1, sizeof *r.channels)};
    if (!r.mask || !r.moments || !r.channels)
        abort();
    for (ptrdiff_t i = 0; i < x->size; i++)
        r.mask[i] = random_bits() % 8 > 1;
    for (int i = 0; i < AXES; i++)
        r.mask_step[i] = x->step[i] / itemsize(x->dtype);
    return r;
}

static void free_room(Room *r)
{
    free(r->weight);
    free(r->bias);
    free(r->mean);
    free(r->var);
    free(r->mask);
    free(r->moments);
    free(r->channels);
}

/* An error of the second moment that moves y by an eighth of its unit at most. */
static void check_moments(const Call *c, const Job *j, const Exact *exact)
{
    long double u = j->t.dtype == F64 ? 0x1p-50L : 0x1p-26L, origin = origin_of(j);
    for (ptrdiff_t g = 0; g < c->groups; g++) {
        const Moment *m = &c->moments[g];
        const Exact *e = &exact[g];
        check(m->count == (double)e->count, c, "count", g, m->count, (double)e->count);
        check_within(c, "m2", g, m->m2, e->m2, u * e->m2 + DBL_TRUE_MIN * m->count);
        if (e->count == 0)
            check(m->hi == 0 && m->lo == 0, c, "mean of nothing", g, m->hi, 0);
        else if (!isnan(e->m2))
            check_within(c, "mean", g, (double)(m->hi - origin + m->lo), e->mean,
                         u * sqrtl(e->m2 / e->count) + 0x1p-50L * fabsl(e->mean) + DBL_TRUE_MIN);
    }
}

static void check_channels(const Call *c, const Job *j, const Exact *moments)
{
    Exact *exact = exact_channels(j, moments);
    long double u = j->t.dtype == F64 ? 0x1p-50L : 0x1p-26L, origin = origin_of(j);
    for (ptrdiff_t i = 0; i < c->nchannels; i++) {
        const ChannelStat *s = &c->channels[i];
        const Exact *e = &exact[i];
        check(s->keep == (e->count < 2), c, "keep", i, s->keep, e->count < 2);
        if (s->keep)
            continue;
        check_within(c, "running variance", i, s->var, e->m2, u * e->m2 + DBL_TRUE_MIN * 16);
        if (isnan(e->m2)) {
            check(!isfinite(s->mean), c, "running mean", i, s->mean, NAN);
            continue;
        }
        check_within(c, "running mean", i, s->mean, origin + e->mean,
                     u * sqrtl(e->m2) + 0x1p-51L * fabsl(origin + e->mean) + DBL_TRUE_MIN);
    }
    free(exact);
}

static void check_norm(const Call *c, const Job *j, const Array *x)
{
    Array y = check_bits(c, x);
    Exact *exact = exact_moments(j);
    Expected *e = expected_norm(j, exact);
    for (ptrdiff_t i = 0; i < y.size; i++)
        check_within(c, "y", i, read_element(y.dtype, y.data + i * itemsize(y.dtype), 0), e[i].y,
                     e[i].nothing ? 0 : norm_bound(j, &e[i]));
    check_moments(c, j, exact);
    check_channels(c, j, exact);
    free(exact);
    free(e);
    free(y.block);
}

static int forward(const void *job)
{
    return norm_forward(job);
}

static void check_way(int s, Data data, int way, const Array *x)
{
    Job j = {.kind = shapes[s].kind,
             .axis = shapes[s].axis,
             .num_groups = shapes[s].num_groups,
             .reduce = shapes[s].reduce,
             .eps = way == WITH_PARAMETERS ? 0 : 1e-5,
             .correction = way == WITH_PARAMETERS,
             .logits = {shapes[s].ndim == 2 ? 2 : 3, {0.5, -0.25, 1}, {-1, 0.75, 0}}};
    point(&j.t, x);
    Room room = new_room(&j, x);
    Call c = {.name = shapes[s].name,
              .data = data_names[data],
              .way = ways[way],
              .forward = forward,
              .job = &j,
              .t = &j.t,
              .takes_mask = j.kind != SWITCHABLE};
    if (way == WITH_PARAMETERS || way == MASKED) {
        j.weight = room.weight;
        j.bias = j.kind == RMS ? NULL : room.bias;
    }
    if (way == MASKED) {
        j.t.mask = room.mask;
        j.t.mstep = room.mask_step;
    }
    if (way == EVALUATION) {
        j.given_mean = (const double *)(void *)room.mean;
        j.given_var = (const double *)(void *)room.var;
    } else {
        j.moments = c.moments = room.moments;
        c.groups = groups_of(&j);
        if (j.kind == BATCH || j.kind == INSTANCE || j.kind == SWITCHABLE) {
            j.channels = c.channels = room.channels;
            c.nchannels = parameters_of(&j);
        }
    }
    check_norm(&c, &j, x);
    free_room(&room);
}

static int makes_sense(NormKind kind, int way)
{
    if (way == EVALUATION)
        return kind == BATCH || kind == INSTANCE || kind == SWITCHABLE;
    return way != MASKED || kind != SWITCHABLE;
}

void check_norms(void)
{
    for (int s = 0; s < nshapes; s++)
        for (int t = 0; t < DTYPES; t++)
            for (int data = 0; data < DATA; data++) {
                Array x = new_array((Dtype)t, shapes[s].ndim, shapes[s].shape, CONTIGUOUS);
                fill(&x, (Data)data);
                for (int way = 0; way < WAYS; way++)
                    if (makes_sense(shapes[s].kind, way))
                        check_way(s, (Data)data, way, &x);
                free(x.block);
            }
}
