/* What the files of the binding share: the NumPy API, the module's state, signatures. */
#ifndef NORMC_STATE_H
#define NORMC_STATE_H
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#define NPY_NO_DEPRECATED_API  NPY_1_25_API_VERSION
#define NPY_TARGET_VERSION     NPY_1_25_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL normc_numpy
#ifndef NORMC_IMPORTS_NUMPY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include "norm.h"

/* Whatever takes keywords. */
typedef enum {
#define FUNCTION(name, ...) ID_##name,
#include "functions.def"
#undef FUNCTION
    FUNCTIONS,
    LAYER_CALL = FUNCTIONS, /* a layer called on x */
    SIGNATURES
} SignatureId;

enum { MAXARGS = 16 };

typedef struct Parameter Parameter; /* parameters.c: what a name means and how it is converted */

/* Parameters in positional order: the first `unnamed` are positional-only, those from `positional`
 * on keyword-only; the first `required` have no default. names: a tuple of interned strings.
 * initial: what a call begins with, all defaults converted (call.c). Filled from normc/_docs.py. */
typedef struct {
    int count, unnamed, positional, required;
    PyObject *names;
    const Parameter *parameters[MAXARGS];
    void *initial;
} Signature;

/* Python objects that C needs, imported once: module.c has their homes. */
enum {
    AXIS_ERROR,
    SHARES_MEMORY,
    MOMENTS,
    MOMENT_ROWS,
    REAL,
    INTEGER,
    FLAG,
    WINDOW,
    ACTIVATION,
    SIZES,
    NUMBERS,
    GRADIENT,
    MASK,
    SHARED,
    JOIN_MASK,
    LEAVES_PAIRS,
    OVERLAPS_ITSELF,
    EVALUATED,
    OVERLAPPED,
    IMPORTS
};

typedef struct {
    PyObject *imports[IMPORTS];
    Signature signatures[SIGNATURES];
} State;

extern PyModuleDef normc_module;

/* functions.c, in the order of SignatureId */
extern PyMethodDef functions[FUNCTIONS];
/* parameters.c: NULL: no parameter has this name. */
const Parameter *find_parameter(const char *name);
/* call.c: from the defaults, Ellipsis where there is none. 0, or -1 with an exception set. */
int initial_make(State *, SignatureId, PyObject *defaults);
/* batchnorm.c: adds the type to the module. */
int add_batchnorm(PyObject *module);
#endif
