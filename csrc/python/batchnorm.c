/* BatchNorm: its fields, the call, and the publication of the running statistics. What all layers
 * share (state_dict, pickle, repr ...) is normc/_layers.py, on top of this type. */
#include "call.h"

#include <math.h>
#include <structmember.h>

enum { EPS = LAYER_ARRAYS, MOMENTUM, OBJECTS };

typedef struct {
    PyObject_HEAD vectorcallfunc call;
    State *state;               /* the module's, which the type keeps alive */
    PyObject *objects[OBJECTS]; /* ndarrays, eps and momentum as given; NULL: None */
    Py_ssize_t num_features, axis;
    double eps, momentum; /* NaN: None, the mean of all batches */
    int correction;
    int least_rank, most_rank; /* of x */
    int affine, track_running_stats, training, frozen;
    int ready; /* __init__ has been through */
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

/* The layer as it stands now; other threads may change it while the norm is computed. */
static int snapshot(const BatchNorm *bn, Call *c)
{
    const int training = bn->training && !bn->frozen, track = bn->track_running_stats;
    c->use_batch = training || !(bn->objects[RUNNING_MEAN] || bn->objects[RUNNING_VAR]);
    c->channel_axis = bn->axis;
    c->momentum = bn->momentum;
    c->job.eps = bn->eps;
    c->job.correction = bn->correction;
    for (int i = 0; i < TRACKED; i++)
        if (bn->objects[i] && (i < RUNNING_MEAN || !training || track) &&
            shared_convert(bn->objects[i], array_names[i], &c->arrays[i]) < 0)
            return -1;
    if (training && track)
        c->arrays[TRACKED] = (PyArrayObject *)Py_XNewRef(bn->objects[TRACKED]);
    return rank_check(bn, c->o.t.ndim);
}

/* Batches of which nothing enters the statistics do not count. */
static int has_news(const Call *c)
{
    if (!c->update)
        return PyArray_MultiplyList(c->o.shape, c->o.t.ndim) > 0;
    for (npy_intp i = 0; i < c->running_mean.n; i++)
        if (!c->job.channels[i].keep)
            return 1;
    return 0;
}

/* Under the GIL from here on: counting and updating are one step to other threads. */
static PyObject *publish(Call *c)
{
    int64_t *count = c->arrays[TRACKED] ? PyArray_DATA(c->arrays[TRACKED]) : NULL;
    if (count && has_news(c))
        ++*count;
    if (isnan(c->momentum))
        c->momentum = count ? 1 / (double)*count : 0;
    return norm_finish(c);
}

static int ready_check(const BatchNorm *bn)
{
    return bn->ready ? 0
                     : refuse(PyExc_RuntimeError, "%s.__init__() has not been called",
                              Py_TYPE(bn)->tp_name);
}

static PyObject *batchnorm_call(PyObject *self, PyObject *const *args, size_t nargsf,
                                PyObject *kwnames)
{
    const BatchNorm *bn = (BatchNorm *)self;
    PyObject *result = NULL;
    Call c;
    if (ready_check(bn) < 0)
        return NULL;
    call_init(&c, bn->state, BATCH);
    if (call_convert(&c, LAYER_CALL, Py_TYPE(self)->tp_name, args, PyVectorcall_NARGS(nargsf),
                     kwnames) == 0 &&
        snapshot(bn, &c) == 0 && channels_check(&c) == 0 && norm_compute(&c) == 0)
        result = publish(&c);
    call_clear(&c);
    return result;
}

/* ---- fields ---------------------------------------------------------------------------------- */

static PyArrayObject *as_counter(PyObject *value)
{
    Py_ssize_t count;
    if (as_size(value, array_names[TRACKED], &count) < 0)
        return NULL;
    if (count == PY_SSIZE_T_MAX || count == PY_SSIZE_T_MIN) /* clipped, or about to overflow */
        return (PyArrayObject *)PyErr_Format(
            PyExc_ValueError, "num_batches_tracked must fit an int64, but got %S", value);
    PyObject *array = PyArray_SimpleNew(0, NULL, NPY_INT64);
    if (array)
        *(int64_t *)PyArray_DATA((PyArrayObject *)array) = count;
    return (PyArrayObject *)array;
}

/* An ndarray is kept as it is, so that both sides see each other's changes. */
static PyArrayObject *as_array(const BatchNorm *bn, PyObject *value, const char *name)
{
    PyArrayObject *array = NULL;
    const int given = PyArray_Check(value);
    int status = given ? shared_convert(value, name, &array)
                       : parameter_convert(bn->state, value, name, &array);
    if (status == 0 && (status = vector_check(array, name, bn->num_features)) == 0 && given)
        Py_SETREF(array, (PyArrayObject *)Py_NewRef(value));
    if (status < 0)
        Py_CLEAR(array);
    return array;
}

static int set_array(BatchNorm *bn, PyObject *value, int which)
{
    PyArrayObject *array = NULL;
    if (ready_check(bn) < 0)
        return -1;
    if (value != Py_None) {
        array = which == TRACKED ? as_counter(value) : as_array(bn, value, array_names[which]);
        if (array == NULL)
            return -1;
    }
    Py_XSETREF(bn->objects[which], (PyObject *)array);
    return 0;
}

static int set_number(BatchNorm *bn, PyObject *value, int which)
{
    double number = NAN;
    if (which == EPS ? as_eps(value, "eps", &number) < 0
                     : value != Py_None && as_finite(value, "momentum", &number) < 0)
        return -1;
    *(which == EPS ? &bn->eps : &bn->momentum) = number;
    Py_XSETREF(bn->objects[which], Py_NewRef(value));
    return 0;
}

/* One of the objects, or a flag at this offset. */
typedef struct {
    const char *name;
    int which;
    size_t flag;
} Field;

static PyObject *get_field(PyObject *self, void *closure)
{
    const Field *f = closure;
    PyObject *object = f->flag ? NULL : ((BatchNorm *)self)->objects[f->which];
    if (f->flag)
        return PyBool_FromLong(*(int *)(void *)((char *)self + f->flag));
    return Py_NewRef(object ? object : Py_None);
}

static int set_field(PyObject *self, PyObject *value, void *closure)
{
    const Field *f = closure;
    BatchNorm *bn = (BatchNorm *)self;
    if (value == NULL)
        return refuse(PyExc_AttributeError, "%s cannot be deleted", f->name);
    if (f->flag)
        return as_bool(value, f->name, (int *)(void *)((char *)self + f->flag));
    return f->which < LAYER_ARRAYS ? set_array(bn, value, f->which)
                                   : set_number(bn, value, f->which);
}

#define FIELD(name, which, flag, doc)                           \
    {                                                           \
        name, get_field, set_field, doc, (void *)&(const Field) \
        {                                                       \
            name, which, flag                                   \
        }                                                       \
    }
#define FLAG(name, doc) FIELD(#name, 0, offsetof(BatchNorm, name), doc)
static PyGetSetDef fields[] = {
    FIELD("weight", WEIGHT, 0, "Scale of each channel, or None."),
    FIELD("bias", BIAS, 0, "Shift of each channel, or None."),
    FIELD("running_mean", RUNNING_MEAN, 0, "Averaged batch means, or None."),
    FIELD("running_var", RUNNING_VAR, 0, "Averaged batch variances, or None."),
    FIELD("num_batches_tracked", TRACKED, 0, "Batches averaged so far, 0-d int64, or None."),
    FIELD("eps", EPS, 0, "Added to the variance."),
    FIELD("momentum", MOMENTUM, 0, "Weight of the new batch; None: mean of all batches."),
    FLAG(affine, "There is a weight."),
    FLAG(track_running_stats, "Training updates the running statistics."),
    FLAG(training, "Normalise by the batch's own statistics."),
    FLAG(frozen, "Behave as in evaluation, whatever `training` says."),
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef members[] = {
    {"num_features", T_PYSSIZET, offsetof(BatchNorm, num_features), READONLY, "Channels."},
    {"axis", T_PYSSIZET, offsetof(BatchNorm, axis), READONLY, "The channel axis."},
    {"correction", T_INT, offsetof(BatchNorm, correction), READONLY,
     "1: the running variance takes the unbiased one, 0: the biased one."},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(BatchNorm, call), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
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
    return 0;
}

/* What cannot change later, positional only; the rest are fields. normc/_layers.py has the public
 * face. */
static int batchnorm_init(PyObject *self, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    BatchNorm *bn = (BatchNorm *)self;
    PyObject *num_features, *axis, *correction;
    BatchNorm new = {.training = 1, .ready = 1};
    if (!PyArg_ParseTuple(args, "OOO(ii):BatchNorm", &num_features, &axis, &correction,
                          &new.least_rank, &new.most_rank) ||
        as_size(num_features, "num_features", &new.num_features) < 0 ||
        as_size(axis, "axis", &new.axis) < 0 ||
        as_correction(correction, "correction", &new.correction) < 0)
        return -1;
    if (PyBool_Check(num_features))
        return refuse(PyExc_TypeError, "num_features must be an integer, not bool");
    if (new.num_features < 0 || new.num_features > PY_SSIZE_T_MAX / 8)
        return refuse(PyExc_ValueError,
                      "num_features must be non-negative, and no more than an array can hold, but "
                      "got %S",
                      num_features);
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
    return 0;
}

static void batchnorm_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    batchnorm_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot slots[] = {
    {Py_tp_doc, "The fields and the call of normc.BatchNorm."},
    {Py_tp_new, batchnorm_new},
    {Py_tp_init, batchnorm_init},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_traverse, batchnorm_traverse},
    {Py_tp_clear, batchnorm_clear},
    {Py_tp_dealloc, batchnorm_dealloc},
    {Py_tp_getset, fields},
    {Py_tp_members, members},
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
