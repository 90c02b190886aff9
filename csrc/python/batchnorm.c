/* BatchNorm: its fields, the call, and the publication of the running statistics. What all layers
 * share (state_dict, pickle, repr ...) is normc/_layers.py, on top of this type. */
#include "call.h"

#include <structmember.h>

enum { WEIGHT, BIAS, RUNNING_MEAN, RUNNING_VAR, TRACKED, ARRAYS, EPS = ARRAYS, MOMENTUM, OBJECTS };
static const char *const array_names[ARRAYS] = {"weight", "bias", "running_mean", "running_var",
                                                "num_batches_tracked"};

typedef struct {
    PyObject_HEAD vectorcallfunc call;
    State *state;               /* the module's, which the type keeps alive */
    PyObject *objects[OBJECTS]; /* ndarrays, eps and momentum as given; NULL: None */
    Py_ssize_t num_features, axis;
    double eps, momentum;
    int cumulative; /* momentum is None */
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
        PyErr_Format(PyExc_ValueError, "expected %dD input (got %dD input) for x", bn->least_rank,
                     ndim);
    else
        PyErr_Format(PyExc_ValueError, "expected %dD or %dD input (got %dD input) for x",
                     bn->least_rank, bn->most_rank, ndim);
    return -1;
}

/* An array of the layer for a call; NULL: None. */
static int lend(const BatchNorm *bn, int which, PyArrayObject **array)
{
    PyObject *own = bn->objects[which];
    return own ? shared_convert(bn->state, own, array_names[which], array) : 0;
}

/* The counter is no place for out. */
static int counter_check(const Call *c, PyArrayObject *tracked)
{
    const int shared = tracked && c->o.y ? share_memory(c->o.state, tracked, c->o.y) : 0;
    if (shared > 0)
        PyErr_SetString(PyExc_ValueError, "num_batches_tracked and out must not share memory");
    return shared ? -1 : 0;
}

/* The layer as it stands now; other threads may change it while the norm is computed. *counts: is
 * this call to be counted? */
static int snapshot(const BatchNorm *bn, Call *c, PyArrayObject **tracked, int *counts)
{
    const int training = bn->training && !bn->frozen, track = bn->track_running_stats;
    c->use_batch = training || !(bn->objects[RUNNING_MEAN] || bn->objects[RUNNING_VAR]);
    c->channel_axis = bn->axis;
    c->momentum = bn->cumulative ? 0 : bn->momentum;
    c->job.eps = bn->eps;
    c->job.correction = bn->correction;
    *tracked = (PyArrayObject *)Py_XNewRef(bn->objects[TRACKED]);
    *counts = training && track && *tracked;
    if (*counts && !PyArray_ISWRITEABLE(*tracked)) {
        PyErr_SetString(PyExc_ValueError, "num_batches_tracked is read-only");
        return -1;
    }
    if (lend(bn, WEIGHT, &c->weight) < 0 || lend(bn, BIAS, &c->bias) < 0)
        return -1;
    if (training && !track)
        return 0;
    return lend(bn, RUNNING_MEAN, &c->running.mean) < 0 ? -1
                                                        : lend(bn, RUNNING_VAR, &c->running.var);
}

/* Batches of which nothing enters the statistics do not count. */
static int has_news(const Call *c)
{
    if (!c->update)
        return PyArray_MultiplyList(c->o.shape, c->o.t.ndim) > 0;
    for (npy_intp i = 0; i < c->running.mean_at.n; i++)
        if (!c->job.channels[i].keep)
            return 1;
    return 0;
}

/* Under the GIL from here on: counting and updating are one step to other threads. */
static PyObject *publish(const BatchNorm *bn, Call *c, PyArrayObject *tracked)
{
    if (tracked && has_news(c)) {
        int64_t *count = PyArray_DATA(tracked);
        ++*count;
        if (bn->cumulative)
            c->momentum = 1 / (double)*count;
    }
    return norm_finish(c);
}

static PyObject *batchnorm_call(PyObject *self, PyObject *const *args, size_t nargsf,
                                PyObject *kwnames)
{
    const BatchNorm *bn = (BatchNorm *)self;
    const char *name = Py_TYPE(self)->tp_name;
    PyObject *result = NULL;
    PyArrayObject *tracked = NULL;
    int counts;
    Call c;
    if (!bn->ready)
        return PyErr_Format(PyExc_RuntimeError, "%s.__init__() has not been called", name);
    call_init(&c, bn->state, BATCH);
    if (call_convert(&c, LAYER_CALL, name, args, PyVectorcall_NARGS(nargsf), kwnames) == 0 &&
        snapshot(bn, &c, &tracked, &counts) == 0 && rank_check(bn, c.o.t.ndim) == 0 &&
        channels_check(&c) == 0 && counter_check(&c, tracked) == 0 && norm_compute(&c) == 0)
        result = publish(bn, &c, counts ? tracked : NULL);
    Py_XDECREF(tracked);
    call_clear(&c);
    return result;
}

/* ---- fields ---------------------------------------------------------------------------------- */

static int refuse_deletion(PyObject *value, const char *name)
{
    if (value)
        return 0;
    PyErr_Format(PyExc_AttributeError, "%s cannot be deleted", name);
    return -1;
}

static PyObject *get_object(PyObject *self, void *which)
{
    PyObject *object = ((BatchNorm *)self)->objects[(int)(intptr_t)which];
    return Py_NewRef(object ? object : Py_None);
}

/* The counter is an int64 that can be written in place. */
static PyArrayObject *as_counter(PyObject *value)
{
    if (PyArray_Check(value)) {
        PyArrayObject *array = (PyArrayObject *)value;
        if (PyArray_TYPE(array) == NPY_INT64 && PyArray_NDIM(array) == 0 &&
            PyArray_ISBEHAVED(array))
            return (PyArrayObject *)Py_NewRef(value);
    }
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
static PyArrayObject *as_field(const BatchNorm *bn, PyObject *value, const char *name)
{
    PyArrayObject *array = NULL;
    if (!PyArray_Check(value))
        parameter_convert(bn->state, value, name, &array);
    else if (shared_convert(bn->state, value, name, &array) == 0)
        Py_SETREF(array, (PyArrayObject *)Py_NewRef(value));
    if (array && vector_check(array, name, bn->num_features) < 0)
        Py_CLEAR(array);
    return array;
}

static int set_array(PyObject *self, PyObject *value, void *closure)
{
    BatchNorm *bn = (BatchNorm *)self;
    const int which = (int)(intptr_t)closure;
    PyArrayObject *array = NULL;
    if (refuse_deletion(value, array_names[which]) < 0)
        return -1;
    if (!bn->ready) {
        PyErr_Format(PyExc_RuntimeError, "%s.__init__() has not been called",
                     Py_TYPE(self)->tp_name);
        return -1;
    }
    if (value != Py_None) {
        array = which == TRACKED ? as_counter(value) : as_field(bn, value, array_names[which]);
        if (array == NULL)
            return -1;
    }
    Py_XSETREF(bn->objects[which], (PyObject *)array);
    return 0;
}

static int set_eps(PyObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    BatchNorm *bn = (BatchNorm *)self;
    double eps;
    if (refuse_deletion(value, "eps") < 0 || as_eps(value, "eps", &eps) < 0)
        return -1;
    bn->eps = eps;
    Py_XSETREF(bn->objects[EPS], Py_NewRef(value));
    return 0;
}

static int set_momentum(PyObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    BatchNorm *bn = (BatchNorm *)self;
    double momentum = 0;
    if (refuse_deletion(value, "momentum") < 0 ||
        (value != Py_None && as_finite(value, "momentum", &momentum) < 0))
        return -1;
    bn->momentum = momentum;
    bn->cumulative = value == Py_None;
    Py_XSETREF(bn->objects[MOMENTUM], Py_NewRef(value));
    return 0;
}

typedef struct {
    const char *name;
    size_t offset;
} Flag;
static const Flag flags[] = {
    {"affine", offsetof(BatchNorm, affine)},
    {"track_running_stats", offsetof(BatchNorm, track_running_stats)},
    {"training", offsetof(BatchNorm, training)},
    {"frozen", offsetof(BatchNorm, frozen)},
};

static int *flag_of(PyObject *self, const Flag *flag)
{
    return (int *)(void *)((char *)self + flag->offset);
}

static PyObject *get_flag(PyObject *self, void *flag)
{
    return PyBool_FromLong(*flag_of(self, flag));
}

static int set_flag(PyObject *self, PyObject *value, void *closure)
{
    const Flag *flag = closure;
    int state;
    if (refuse_deletion(value, flag->name) < 0 || as_bool(value, flag->name, &state) < 0)
        return -1;
    *flag_of(self, flag) = state;
    return 0;
}

static PyGetSetDef fields[] = {
    {"weight", get_object, set_array, "Scale of each channel, or None.", (void *)WEIGHT},
    {"bias", get_object, set_array, "Shift of each channel, or None.", (void *)BIAS},
    {"running_mean", get_object, set_array, "Averaged batch means, or None.", (void *)RUNNING_MEAN},
    {"running_var", get_object, set_array, "Averaged batch variances, or None.",
     (void *)RUNNING_VAR},
    {"num_batches_tracked", get_object, set_array, "Batches averaged so far, 0-d int64, or None.",
     (void *)TRACKED},
    {"eps", get_object, set_eps, "Added to the variance.", (void *)EPS},
    {"momentum", get_object, set_momentum, "Weight of the new batch; None: cumulative mean.",
     (void *)MOMENTUM},
    {"affine", get_flag, set_flag, "There is a weight.", (void *)&flags[0]},
    {"track_running_stats", get_flag, set_flag, "Training updates the running statistics.",
     (void *)&flags[1]},
    {"training", get_flag, set_flag, "Normalise by the batch's own statistics.", (void *)&flags[2]},
    {"frozen", get_flag, set_flag, "Behave as in evaluation, whatever `training` says.",
     (void *)&flags[3]},
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
    for (int i = 0; i < OBJECTS; i++)
        Py_CLEAR(((BatchNorm *)self)->objects[i]);
    return 0;
}

/* Positional only, without arrays: BatchNorm of normc/_layers.py is the public face. */
static int batchnorm_init(PyObject *self, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    BatchNorm *bn = (BatchNorm *)self;
    PyObject *num_features, *eps, *momentum, *affine, *track, *axis, *correction;
    BatchNorm new = {.training = 1, .ready = 1};
    if (!PyArg_ParseTuple(args, "OOOOOOO(ii):BatchNorm", &num_features, &eps, &momentum, &affine,
                          &track, &axis, &correction, &new.least_rank, &new.most_rank) ||
        as_size(num_features, "num_features", &new.num_features) < 0 ||
        as_eps(eps, "eps", &new.eps) < 0 ||
        (momentum != Py_None && as_finite(momentum, "momentum", &new.momentum) < 0) ||
        as_bool(affine, "affine", &new.affine) < 0 ||
        as_bool(track, "track_running_stats", &new.track_running_stats) < 0 ||
        as_size(axis, "axis", &new.axis) < 0 ||
        as_correction(correction, "correction", &new.correction) < 0)
        return -1;
    if (PyBool_Check(num_features)) {
        PyErr_SetString(PyExc_TypeError, "num_features must be an integer, not bool");
        return -1;
    }
    if (new.num_features < 0 || new.num_features > PY_SSIZE_T_MAX / 8) {
        PyErr_Format(PyExc_ValueError,
                     "num_features must be non-negative, and no more than an array can hold, but "
                     "got %S",
                     num_features);
        return -1;
    }
    new.cumulative = momentum == Py_None;
    batchnorm_clear(self);
    const size_t own = offsetof(BatchNorm, num_features);
    memcpy((char *)bn + own, (char *)&new + own, sizeof new - own);
    bn->objects[EPS] = Py_NewRef(eps);
    bn->objects[MOMENTUM] = Py_NewRef(momentum);
    return 0;
}

static int batchnorm_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (int i = 0; i < OBJECTS; i++)
        Py_VISIT(((BatchNorm *)self)->objects[i]);
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
