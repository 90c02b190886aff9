/* BatchNorm: its fields, the call, and the publication of the running statistics. What all layers
 * share (state_dict, pickle, repr ...) is normc/_layer.py, on top of this type. */
#include "call.h"
#include "cpu.h"

#include <math.h>
#include <structmember.h>

enum { EPS = LAYER_ARRAYS, MOMENTUM, ON_SINGLE, ON_NONFINITE, ACTIVATED, OBJECTS };

/* Objects and flags are what Python has put there: they are checked at every call. */
typedef struct {
    PyObject_HEAD vectorcallfunc call;
    State *state;               /* the module's, which the type keeps alive */
    PyObject *objects[OBJECTS]; /* NULL: nothing yet, None */
    PyObject *remembered;       /* by the last call, for backward; NULL: there was none */
    Py_ssize_t num_features, axis;
    int correction;
    int least_rank, most_rank; /* of x */
    char track_running_stats, training, frozen;
} BatchNorm;

/* ---- the call -------------------------------------------------------------------------------- */

static int rank_check(const BatchNorm *bn, int ndim)
{
    if (ndim >= bn->least_rank && ndim <= bn->most_rank)
        return 0;
    if (bn->least_rank == bn->most_rank)
        return refuse(PyExc_ValueError, "expected %dD input (got %dD input) for x", bn->least_rank,
                      ndim);
    return refuse(PyExc_ValueError, "expected %dD or %dD input (got %dD input) for x",
                  bn->least_rank, bn->most_rank, ndim);
}

/* The Python side keeps nothing else, so that these are read without running anybody's code. */
static int number_check(PyObject *number, const char *name)
{
    return PyFloat_CheckExact(number) || PyLong_CheckExact(number)
               ? 0
               : refuse(PyExc_TypeError, "%s must be a float or an int, not %s", name,
                        Py_TYPE(number)->tp_name);
}

enum { WORDS = 3 };

/* Which of the words it is; NULL: the first. */
static int word_check(PyObject *word, const char *name, const char *const words[WORDS], int *which)
{
    for (*which = 0; *which < WORDS && word; ++*which)
        if (PyUnicode_Check(word) && PyUnicode_CompareWithASCIIString(word, words[*which]) == 0)
            break;
    if (*which < WORDS)
        return 0;
    return refuse(PyExc_TypeError, "%s is of type %s, or an unknown word", name,
                  Py_TYPE(word)->tp_name);
}

static const char *const single_words[WORDS] = {"error", "running", ""};
static const char *const activation_words[WORDS] = {"", "relu", ""};
enum { PROPAGATE, SKIP, RAISE };
static const char *const nonfinite_words[WORDS] = {
    [PROPAGATE] = "propagate", [SKIP] = "skip", [RAISE] = "raise"};

static int counter_take(Call *c, PyObject *tracked)
{
    PyArrayObject *array = (PyArrayObject *)tracked;
    if (tracked == NULL)
        return 0;
    if (!PyArray_Check(tracked) || PyArray_TYPE(array) != NPY_INT64 || PyArray_NDIM(array) != 0 ||
        !PyArray_ISBEHAVED(array))
        return refuse(PyExc_ValueError,
                      "num_batches_tracked must be a writable 0-d array of int64, but is a %s",
                      Py_TYPE(tracked)->tp_name);
    c->arrays[TRACKED] = (PyArrayObject *)Py_NewRef(tracked);
    c->count = PyArray_DATA(array);
    if (*c->count >= 0 && *c->count < INT64_MAX)
        return 0;
    return refuse(PyExc_ValueError, "num_batches_tracked must be from 0 to 2**63 - 2, but is %lld",
                  (long long)*c->count);
}

static int settle(const BatchNorm *bn, PyObject *const *objects, Call *c)
{
    const int remembers = bn->training, track = bn->track_running_stats;
    const int training = remembers && !bn->frozen;
    PyObject *momentum = objects[MOMENTUM], *eps = objects[EPS];
    if (eps == NULL)
        return refuse(PyExc_RuntimeError, "%s.__init__() has not been called",
                      Py_TYPE(bn)->tp_name);
    c->use_batch = training || !(objects[RUNNING_MEAN] || objects[RUNNING_VAR]);
    c->channel_axis = bn->axis;
    c->momentum = NAN;
    c->job.correction = bn->correction;
    for (int i = 0; i < TRACKED; i++)
        if (objects[i] && (i < RUNNING_MEAN || !training || track) &&
            shared_convert(bn->state, objects[i], array_names[i], &c->arrays[i]) < 0)
            return -1;
    if (momentum && (number_check(momentum, "momentum") < 0 ||
                     as_finite(bn->state, momentum, "momentum", &c->momentum) < 0))
        return -1;
    if (number_check(eps, "eps") < 0 || as_eps(bn->state, eps, "eps", &c->job.eps) < 0)
        return -1;
    if (word_check(objects[ACTIVATED], "activation", activation_words, &c->job.relu) < 0)
        return -1;
    c->keep_moments = remembers;
    if (remembers &&
        (word_check(objects[ON_SINGLE], "on_single", single_words, &c->running_on_single) < 0 ||
         word_check(objects[ON_NONFINITE], "on_nonfinite", nonfinite_words, &c->on_nonfinite) < 0))
        return -1;
    return training && track ? counter_take(c, objects[TRACKED]) : 0;
}

/* The layer as it stands now, held: other threads may change it at any time. momentum NaN: None,
 * the mean of all batches. */
static int snapshot(const BatchNorm *bn, Call *c)
{
    PyObject *held[OBJECTS];
    for (int i = 0; i < OBJECTS; i++)
        held[i] = bn->objects[i] == Py_None ? NULL : Py_XNewRef(bn->objects[i]);
    const int status = settle(bn, held, c);
    for (int i = 0; i < OBJECTS; i++)
        Py_XDECREF(held[i]);
    return status;
}

/* What backward needs, as it is before the call: the arguments of BatchNorm._differentiate, but for
 * MOMENTS_HELD and, of an activation, RESULT_HELD. Or why there will be no backward. */
enum { MOMENTS_HELD = 2, RESULT_HELD = 7 };

static PyObject *or_none(PyArrayObject *array)
{
    return array ? (PyObject *)array : Py_None;
}

static PyObject *memory_make(const Call *c)
{
    PyObject *const *imports = c->o.state->imports;
    const int overlaps = c->keep_moments ? out_overlaps(&c->o, c->arrays[WEIGHT]) : 0;
    if (overlaps < 0)
        return NULL;
    if (overlaps || !c->keep_moments)
        return Py_NewRef(imports[overlaps ? OVERLAPPED : EVALUATED]);
    PyObject *mean = c->use_batch ? Py_None : or_none(c->arrays[RUNNING_MEAN]);
    PyObject *var = c->use_batch ? Py_None : or_none(c->arrays[RUNNING_VAR]);
    return Py_BuildValue("OOOOOOdO", c->o.x, or_none(c->o.where), Py_None,
                         or_none(c->arrays[WEIGHT]), mean, var, c->job.eps, Py_None);
}

/* In place of None. */
static void hold(PyObject *memory, int place, PyObject *object)
{
    Py_DECREF(PyTuple_GET_ITEM(memory, place));
    PyTuple_SET_ITEM(memory, place, Py_NewRef(object));
}

/* What is let go may run any code: the last thing that a call does. */
static void remember(BatchNorm *bn, PyObject *memory, const Call *c)
{
    if (c->moments && PyTuple_Check(memory))
        hold(memory, MOMENTS_HELD, (PyObject *)c->moments);
    if (c->job.relu && PyTuple_Check(memory))
        hold(memory, RESULT_HELD, c->o.result);
    if (bn->remembered != memory)
        Py_XSETREF(bn->remembered, Py_NewRef(memory));
}

/* Batches of which nothing enters the statistics do not count. */
static int has_news(const Call *c)
{
    if (!c->update)
        return c->use_batch && PyArray_MultiplyList(c->o.shape, c->o.t.ndim) > 0;
    for (npy_intp i = 0; i < c->running_mean.n; i++)
        if (!c->job.channels[i].keep)
            return 1;
    return 0;
}

/* The first channel whose statistics are not finite, of the batch or as they would be kept. */
static npy_intp first_nonfinite(const Call *c)
{
    const npy_intp channels = PyArray_DIM(c->moments, 0);
    const Moment *m = c->job.moments;
    npy_intp channel = 0;
    while (channel < channels && isfinite(m[channel].hi) && isfinite(m[channel].m2))
        channel++;
    if (channel == channels && c->update)
        channel = running_overflow(&c->running_mean, &c->running_var, c->job.channels, c->momentum);
    return channel;
}

/* What becomes of the batch. */
static int nonfinite_check(Call *c)
{
    if (c->on_nonfinite == PROPAGATE || c->job.moments == NULL)
        return 0;
    const npy_intp channel = first_nonfinite(c);
    if (channel == PyArray_DIM(c->moments, 0))
        return 0;
    c->update = 0;
    c->count = NULL;
    if (c->on_nonfinite == SKIP)
        return 0;
    return refuse(PyExc_ValueError,
                  "x has a mean or variance that is not finite in channel %zd, and on_nonfinite is "
                  "'raise'",
                  channel);
}

/* Under the GIL from here on: counting and updating are one step to other threads. */
static PyObject *publish(Call *c)
{
    const int news = has_news(c);
    if (isnan(c->momentum)) {
        const FpState saved = fp_enter();
        c->momentum = c->count && news ? 1 / ((double)*c->count + 1) : 0;
        fp_leave(saved);
    }
    if (nonfinite_check(c) < 0)
        return NULL;
    if (c->count && news)
        ++*c->count;
    return norm_finish(c);
}

static PyObject *batchnorm_call(PyObject *self, PyObject *const *args, size_t nargsf,
                                PyObject *kwnames)
{
    BatchNorm *bn = (BatchNorm *)self;
    const char *name = Py_TYPE(self)->tp_name;
    PyObject *result = NULL, *memory = NULL;
    Call c;
    if (call_open(&c, bn->state, LAYER_CALL, name, args, PyVectorcall_NARGS(nargsf), kwnames) < 0)
        return NULL;
    if (snapshot(bn, &c) == 0 && operands_take(&c.o) == 0 && rank_check(bn, c.o.t.ndim) == 0 &&
        channels_check(&c) == 0 && (memory = memory_make(&c)) && norm_compute(&c) == 0 &&
        (result = publish(&c)))
        remember(bn, memory, &c);
    Py_XDECREF(memory);
    call_clear(&c);
    return result;
}

/* ---- fields ---------------------------------------------------------------------------------- */

#define OBJECT(name, which, doc) {name, T_OBJECT, offsetof(BatchNorm, objects[which]), 0, doc}
#define FLAG(name, doc)          {#name, T_BOOL, offsetof(BatchNorm, name), 0, doc}
static PyMemberDef members[] = {
    OBJECT("weight", WEIGHT, "Scale of each channel, or None."),
    OBJECT("bias", BIAS, "Shift of each channel, or None."),
    OBJECT("running_mean", RUNNING_MEAN, "Averaged batch means, or None."),
    OBJECT("running_var", RUNNING_VAR, "Averaged batch variances, or None."),
    OBJECT("num_batches_tracked", TRACKED, "Batches averaged so far, 0-d int64, or None."),
    OBJECT("eps", EPS, "Added to the variance."),
    OBJECT("momentum", MOMENTUM, "Weight of the new batch; None: mean of all batches."),
    OBJECT("on_single", ON_SINGLE, "Of one value per channel: error or running."),
    OBJECT("on_nonfinite", ON_NONFINITE, "Of NaN in the statistics: propagate, skip or raise."),
    OBJECT("activation", ACTIVATED, "Applied to the result: relu, or None."),
    FLAG(track_running_stats, "Training updates the running statistics."),
    FLAG(training, "Normalise by the batch's own statistics."),
    FLAG(frozen, "Behave as in evaluation, whatever `training` says."),
    {"num_features", T_PYSSIZET, offsetof(BatchNorm, num_features), READONLY, "Channels."},
    {"axis", T_PYSSIZET, offsetof(BatchNorm, axis), READONLY, "The channel axis."},
    {"correction", T_INT, offsetof(BatchNorm, correction), READONLY,
     "1: the running variance takes the unbiased one, 0: the biased one."},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(BatchNorm, call), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* One of many threads gets what is remembered. */
static PyObject *batchnorm_exchange(PyObject *self, PyObject *memory)
{
    BatchNorm *bn = (BatchNorm *)self;
    PyObject *held = bn->remembered;
    bn->remembered = Py_NewRef(memory);
    return held ? held : Py_NewRef(Py_None);
}

static PyMethodDef methods[] = {
    {"_exchange", batchnorm_exchange, METH_O, "Remembers this, and returns what was."},
    {NULL, NULL, 0, NULL},
};

/* ---- life ------------------------------------------------------------------------------------ */

static PyObject *batchnorm_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                               PyObject *Py_UNUSED(keywords))
{
    PyObject *module = PyType_GetModuleByDef(type, &normc_module);
    BatchNorm *bn = module ? (BatchNorm *)type->tp_alloc(type, 0) : NULL;
    if (bn == NULL)
        return NULL;
    bn->call = batchnorm_call;
    bn->state = PyModule_GetState(module);
    return (PyObject *)bn;
}

static int batchnorm_clear(PyObject *self)
{
    BatchNorm *bn = (BatchNorm *)self;
    for (int i = 0; i < OBJECTS; i++)
        Py_CLEAR(bn->objects[i]);
    Py_CLEAR(bn->remembered);
    return 0;
}

/* What cannot change later, positional only; the rest are fields. normc/_layers.py has the public
 * face. */
static int batchnorm_init(PyObject *self, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    BatchNorm *bn = (BatchNorm *)self;
    PyObject *num_features, *axis, *correction;
    BatchNorm new = {.training = 1};
    if (!PyArg_ParseTuple(args, "OOO(ii):BatchNorm", &num_features, &axis, &correction,
                          &new.least_rank, &new.most_rank) ||
        as_size(bn->state, num_features, "num_features", &new.num_features) < 0 ||
        as_size(bn->state, axis, "axis", &new.axis) < 0 ||
        as_correction(bn->state, correction, "correction", &new.correction) < 0)
        return -1;
    if (PyBool_Check(num_features))
        return refuse(PyExc_TypeError, "num_features must be an integer, not bool");
    if (new.num_features < 0 || new.num_features > PY_SSIZE_T_MAX / 8)
        return refuse(PyExc_ValueError,
                      "num_features must be non-negative, and no more than an array can hold, but "
                      "got %zd",
                      new.num_features);
    batchnorm_clear(self);
    const size_t own = offsetof(BatchNorm, num_features);
    memcpy((char *)bn + own, (char *)&new + own, sizeof new - own);
    return 0;
}

static int batchnorm_traverse(PyObject *self, visitproc visit, void *arg)
{
    BatchNorm *bn = (BatchNorm *)self;
    Py_VISIT(Py_TYPE(self));
    for (int i = 0; i < OBJECTS; i++)
        Py_VISIT(bn->objects[i]);
    Py_VISIT(bn->remembered);
    return 0;
}

static void batchnorm_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, batchnorm_dealloc);
    batchnorm_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static PyType_Slot slots[] = {
    {Py_tp_doc, "The fields and the call of normc.BatchNorm."},
    {Py_tp_new, batchnorm_new},
    {Py_tp_init, batchnorm_init},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_traverse, batchnorm_traverse},
    {Py_tp_clear, batchnorm_clear},
    {Py_tp_dealloc, batchnorm_dealloc},
    {Py_tp_members, members},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "normc._core.BatchNorm",
    .basicsize = sizeof(BatchNorm),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int add_batchnorm(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &spec, NULL);
    const int status = type ? PyModule_AddType(module, (PyTypeObject *)type) : -1;
    Py_XDECREF(type);
    return status;
}
