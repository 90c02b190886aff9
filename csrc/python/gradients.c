/* The gradients of the norms: what they take beside x, and the arrays that they return. */
#include "call.h"

int moments_convert(Call *c, PyObject *moments)
{
    if (moments == Py_None)
        return 0;
    c->moments =
        (PyArrayObject *)PyObject_CallFunction(c->o.state->imports[MOMENT_ROWS], "Os", moments,
                                               norm_centred(c->job.kind) ? "mean" : "zero");
    return c->moments ? 0 : -1;
}

/* They are of as many elements as a group has, or of fewer, if some are masked. */
static int counts_check(const Call *c, const Moment *rows, ptrdiff_t groups)
{
    const npy_intp size = PyArray_MultiplyList(c->o.shape, c->o.t.ndim);
    const double most = groups ? (double)(size / groups) : 0;
    for (ptrdiff_t g = 0; g < groups; g++) {
        if (rows[g].m2 < 0)
            return refuse(PyExc_ValueError, "m2 of moments must not be negative");
        if (c->o.where ? rows[g].count > most : rows[g].count != most)
            return refuse(PyExc_ValueError,
                          "moments must be of this x, whose means are of %zd elements, but count "
                          "%zd",
                          size / groups, (Py_ssize_t)rows[g].count);
    }
    return 0;
}

/* The forward's Moments: of this x, and where they have a say. */
static int moments_take(Call *c, const Moment **rows)
{
    ptrdiff_t shape[MAXD];
    const int ndim = c->o.t.ndim;
    *rows = NULL;
    if (c->moments == NULL)
        return 0;
    const ptrdiff_t groups = norm_groups(&c->job, shape);
    const npy_intp *dims = PyArray_DIMS(c->moments);
    if (PyArray_NDIM(c->moments) != ndim + 1 ||
        !PyArray_CompareLists(dims, (const npy_intp *)shape, ndim))
        return refuse(
            PyExc_ValueError, "moments must have shape %s, as the forward's have, but have %s",
            SHAPE(ndim, (const npy_intp *)shape), SHAPE(PyArray_NDIM(c->moments) - 1, dims));
    if (!c->use_batch && c->job.kind != SWITCHABLE)
        return refuse(PyExc_ValueError, "moments and running statistics cannot both be given");
    *rows = PyArray_DATA(c->moments);
    return counts_check(c, *rows, groups);
}

Like like(PyArrayObject *array)
{
    Like l = {.ndim = PyArray_NDIM(array), .type = PyArray_TYPE(array)};
    for (int i = 0; i < l.ndim; i++)
        l.shape[i] = PyArray_DIM(array, i);
    return l;
}

/* Of no weight: the shape it would have, float32 or float64. */
static Like like_weight(const Call *c)
{
    Like l = {.type = c->o.t.dtype == F64 ? NPY_DOUBLE : NPY_FLOAT};
    if (c->arrays[WEIGHT])
        return like(c->arrays[WEIGHT]);
    for (int i = 0; i < c->o.t.ndim; i++)
        if (norm_has_channels(c->job.kind) ? i == c->job.axis : c->reduce[i])
            l.shape[l.ndim++] = c->o.shape[i];
    return l;
}

PyObject *rounded(const Like *l, const double *values)
{
    PyArrayObject *array = (PyArrayObject *)PyArray_SimpleNewFromDescr(
        l->ndim, l->shape, PyArray_DescrFromType(l->type));
    if (array)
        round_values(values, PyArray_SIZE(array), (Dtype)dtype_of(array), PyArray_BYTES(array));
    return (PyObject *)array;
}

/* (dx, dweight, dbias), without dbias of rms_norm, with the logits' of switchable_norm. */
static PyObject *gradients(const Call *c, const Gradient *g, const Like *weight)
{
    PyObject *dweight = rounded(weight, g->dweight);
    PyObject *dbias = norm_centred(c->job.kind) ? rounded(weight, g->dbias) : NULL;
    if (c->job.kind == RMS)
        return Py_BuildValue("ON", c->o.result, dweight);
    if (c->job.kind != SWITCHABLE)
        return Py_BuildValue("ONN", c->o.result, dweight, dbias);
    const Like mean = like(c->arrays[MEAN_WEIGHT]), var = like(c->arrays[VAR_WEIGHT]);
    return Py_BuildValue("ONNNN", c->o.result, rounded(&mean, g->dlogits.mean),
                         rounded(&var, g->dlogits.var), dweight, dbias);
}

PyObject *gradient(Call *c)
{
    const Like weight = like_weight(c);
    Gradient g = {.dweight = NULL};
    PyObject *result = NULL;
    c->job.t = c->o.t;
    if (moments_take(c, &g.moments) < 0 || job_place(c) < 0)
        return NULL;
    g.job = c->job;
    const npy_intp n = norm_parameters(&g.job);
    g.dweight = PyMem_New(double, 2 * n);
    g.dbias = g.dweight + n;
    PyThreadState *thread = release_gil(&c->o);
    const int failed = g.dweight == NULL || norm_backward(&g) < 0;
    restore_gil(thread);
    if (failed)
        PyErr_NoMemory();
    else
        result = gradients(c, &g, &weight);
    PyMem_Free(g.dweight);
    return result;
}
