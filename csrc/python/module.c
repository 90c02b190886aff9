/* The module: its state, its functions, and what normc/ needs to know of the build. */
#define NORMC_IMPORTS_NUMPY
#include "arguments.h"
#include "blocks.h"
#include "cpu.h"
#include "threads.h"

#ifndef NORMC_VERSION
#error "NORMC_VERSION is the version as a string; setup.py passes it"
#endif
#ifdef __clang__
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

/* The headers tell the version of the C API only; setup.py knows better. */
#ifndef NORMC_NUMPY_BUILT
#define NORMC_NUMPY_BUILT "unknown"
#endif

/* ---- signatures and docstrings, from normc/_docs.py ------------------------------------------ */

static int signature_fill(Signature *s, PyObject *names, PyObject *defaults, int unnamed,
                          int positional)
{
    const Py_ssize_t count = PyTuple_GET_SIZE(names);
    if (count > MAXARGS || PyTuple_GET_SIZE(defaults) != count || positional > count ||
        unnamed > positional || unnamed < 0)
        return refuse(PyExc_ValueError, "a signature has other parameters than defaults");
    s->count = 0;
    for (int i = 0; i < count; i++) {
        const char *name = PyUnicode_AsUTF8(PyTuple_GET_ITEM(names, i));
        s->parameters[i] = name ? find_parameter(name) : NULL;
        if (s->parameters[i] == NULL)
            return refuse(PyExc_ValueError, "no parameter is named %R", PyTuple_GET_ITEM(names, i));
    }
    Py_XSETREF(s->names, Py_NewRef(names));
    s->count = (int)count;
    s->unnamed = unnamed;
    s->positional = positional;
    return 0;
}

/* A method's doc is a C string that lives as long as the process. */
static int document(PyMethodDef *function, PyObject *doc)
{
    const char *text = PyUnicode_AsUTF8(doc);
    if (text == NULL)
        return -1;
    if (function->ml_doc == NULL) {
        Py_INCREF(doc);
        function->ml_doc = text;
    }
    return 0;
}

static PyObject *define(PyObject *module, PyObject *args)
{
    State *state = PyModule_GetState(module);
    PyObject *names, *defaults, *doc;
    const char *name;
    int unnamed, positional, id = 0;
    if (!PyArg_ParseTuple(args, "sO!O!iiU:_define", &name, &PyTuple_Type, &names, &PyTuple_Type,
                          &defaults, &unnamed, &positional, &doc))
        return NULL;
    while (id < FUNCTIONS && strcmp(functions[id].ml_name, name) != 0)
        id++;
    if (id == FUNCTIONS && strcmp(name, "__call__") != 0)
        return PyErr_Format(PyExc_ValueError, "normc has no function %s", name);
    if (signature_fill(&state->signatures[id], names, defaults, unnamed, positional) < 0 ||
        initial_make(state, (SignatureId)id, defaults) < 0 ||
        (id < FUNCTIONS && document(&functions[id], doc) < 0))
        return NULL;
    Py_RETURN_NONE;
}

/* ---- the machine ----------------------------------------------------------------------------- */

static PyObject *use_cpu(PyObject *Py_UNUSED(module), PyObject *name)
{
    const char *wanted = PyUnicode_AsUTF8(name);
    if (wanted == NULL)
        return NULL;
    for (int level = 0; level < CPU_LEVELS; level++)
        if (strcmp(cpu_names[level], wanted) == 0) {
            const char *previous = cpu_names[cpu_in_use()];
            cpu_use((CpuLevel)level);
            return PyUnicode_FromString(previous);
        }
    return PyErr_Format(PyExc_ValueError, "no CPU capability %R", name);
}

static PyObject *stream_from(PyObject *Py_UNUSED(module), PyObject *bytes)
{
    const ptrdiff_t least = PyLong_AsSsize_t(bytes);
    if (least == -1 && PyErr_Occurred())
        return NULL;
    cpu_stream_from(least);
    Py_RETURN_NONE;
}

static PyObject *output_cache(PyObject *Py_UNUSED(module), PyObject *bytes)
{
    const Py_ssize_t limit = PyLong_AsSsize_t(bytes);
    if (limit == -1 && PyErr_Occurred())
        return NULL;
    return PyLong_FromSize_t(blocks_limit((size_t)limit));
}

static PyObject *config(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    const Kept kept = blocks_kept();
    _Static_assert(CPU_LEVELS == 3, "cpu_names has them all");
    return Py_BuildValue("{s:s, s:s, s:s, s:s, s:s, s:[sss], s:n, s:n}", "version", NORMC_VERSION,
                         "compiler", COMPILER, "numpy_built", NORMC_NUMPY_BUILT, "cpu_found",
                         cpu_names[cpu_found()], "cpu_used", cpu_names[cpu_in_use()], "cpu_names",
                         cpu_names[CPU_BASELINE], cpu_names[CPU_AVX2], cpu_names[CPU_AVX512],
                         "output_kept", (Py_ssize_t)kept.bytes, "output_limit",
                         (Py_ssize_t)kept.limit);
}

/* By this symbol threadpoolctl knows the library. */
__attribute__((visibility("default"))) int normc_threads(void);
int normc_threads(void)
{
    return threads_limit();
}

static PyObject *get_threads(PyObject *Py_UNUSED(module), PyObject *args)
{
    const int own = PyTuple_GET_SIZE(args) ? 0 : threads_own_limit();
    return PyLong_FromLong(own ? own : threads_limit());
}

/* 0 .. MAX_THREADS, or -1 with an exception set. */
static int threads_number(PyObject *number)
{
    const long n = PyLong_AsLong(number);
    if (n >= 0 && n <= MAX_THREADS)
        return (int)n;
    return PyErr_Occurred() ? -1 : refuse(PyExc_ValueError, "no number of threads: %ld", n);
}

static PyObject *set_threads(PyObject *Py_UNUSED(module), PyObject *number)
{
    const int n = threads_number(number);
    if (n < 0)
        return NULL;
    threads_set_limit(n ? n : 1);
    Py_RETURN_NONE;
}

static PyObject *set_own_threads(PyObject *Py_UNUSED(module), PyObject *number)
{
    const int n = threads_number(number), before = threads_own_limit();
    if (n < 0)
        return NULL;
    threads_set_own_limit(n);
    return PyLong_FromLong(before);
}

static PyObject *from_bytes(PyObject *Py_UNUSED(module), PyObject *bytes)
{
    const ptrdiff_t least = PyLong_AsSsize_t(bytes);
    if (least == -1 && PyErr_Occurred())
        return NULL;
    threads_from(least);
    Py_RETURN_NONE;
}

static PyMethodDef internals[] = {
    {"_define", define, METH_VARARGS,
     "_define(name, names, defaults, unnamed, positional, doc): gives a function its signature."},
    {"_use_cpu", use_cpu, METH_O,
     "_use_cpu(name): at most this CPU capability; -> the one before."},
    {"_stream_from", stream_from, METH_O,
     "_stream_from(bytes): larger results pass the caches by; below 0: than the machine's cache."},
    {"_get_threads", get_threads, METH_VARARGS,
     "_get_threads(everywhere=False): how many a call from here may use, or from elsewhere."},
    {"_set_threads", set_threads, METH_O, "_set_threads(n): at most n, in all Python threads."},
    {"_set_own_threads", set_own_threads, METH_O,
     "_set_own_threads(n): at most n in this one; 0: as in all; -> the number before."},
    {"_threads_from", from_bytes, METH_O,
     "_threads_from(bytes): a thread for so many bytes of work; 0: as it repays."},
    {"_output_cache", output_cache, METH_O,
     "_output_cache(bytes): so much of freed large results is kept at most; -> before."},
    {"_config", config, METH_NOARGS, "_config(): what the build and the machine are, as a dict."},
    {NULL, NULL, 0, NULL},
};

/* ---- life ------------------------------------------------------------------------------------ */

static const struct {
    const char *module, *name;
} homes[IMPORTS] = {
    [AXIS_ERROR] = {"numpy.exceptions", "AxisError"},
    [SHARES_MEMORY] = {"numpy", "shares_memory"},
    [MOMENTS] = {"normc._moments", "from_core"},
    [MOMENT_ROWS] = {"normc._moments", "rows_of"},
    [REAL] = {"normc._convert", "real"},
    [INTEGER] = {"normc._convert", "integer"},
    [FLAG] = {"normc._convert", "flag"},
    [WINDOW] = {"normc._convert", "is_onnx"},
    [ACTIVATION] = {"normc._convert", "is_relu"},
    [SIZES] = {"normc._convert", "sizes"},
    [NUMBERS] = {"normc._convert", "numbers"},
    [GRADIENT] = {"normc._convert", "gradient"},
    [MASK] = {"normc._convert", "mask"},
    [SHARED] = {"normc._convert", "shared"},
    [JOIN_MASK] = {"normc._convert", "join_mask"},
    [LEAVES_PAIRS] = {"normc._convert", "leaves_pairs"},
    [OVERLAPS_ITSELF] = {"normc._convert", "overlaps_itself"},
    [EVALUATED] = {"normc._memory", "EVALUATED"},
    [OVERLAPPED] = {"normc._memory", "OVERLAPPED"},
};

static int import_all(State *state)
{
    for (int i = 0; i < IMPORTS; i++) {
        PyObject *from = PyImport_ImportModule(homes[i].module);
        state->imports[i] = from ? PyObject_GetAttrString(from, homes[i].name) : NULL;
        Py_XDECREF(from);
        if (state->imports[i] == NULL)
            return -1;
    }
    return 0;
}

/* Public functions name the package as their home, so that they pickle by reference to it. */
static int add_functions(PyObject *module)
{
    PyObject *home = PyUnicode_InternFromString("normc");
    int status = home ? 0 : -1;
    for (int i = 0; i < FUNCTIONS && status == 0; i++) {
        PyObject *function = PyCFunction_NewEx(&functions[i], module, home);
        status = function ? PyModule_AddObjectRef(module, functions[i].ml_name, function) : -1;
        Py_XDECREF(function);
    }
    Py_XDECREF(home);
    return status;
}

static int module_exec(PyObject *module)
{
    /* NumPy would not follow, either. */
    if (PyInterpreterState_Get() != PyInterpreterState_Main())
        return refuse(PyExc_ImportError, "normc does not support subinterpreters");
    State *state = PyModule_GetState(module);
    if (PyArray_ImportNumPyAPI() < 0 || blocks_init() < 0 || import_all(state) < 0 ||
        PyModule_AddStringConstant(module, "__version__", NORMC_VERSION) < 0 ||
        PyModule_AddIntConstant(module, "_MAX_THREADS", MAX_THREADS) < 0 ||
        add_functions(module) < 0)
        return -1;
    return add_batchnorm(module);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    for (int i = 0; i < IMPORTS; i++)
        Py_VISIT(state->imports[i]);
    return 0;
}

static int module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    for (int i = 0; i < IMPORTS; i++)
        Py_CLEAR(state->imports[i]);
    for (int i = 0; i < SIGNATURES; i++) {
        state->signatures[i].count = 0;
        Py_CLEAR(state->signatures[i].names);
        PyMem_Free(state->signatures[i].initial);
        state->signatures[i].initial = NULL;
    }
    return 0;
}

static void module_free(void *module)
{
    module_clear(module);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

PyModuleDef normc_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "normc._core",
    .m_doc = "The norms in C, as Python functions.",
    .m_size = sizeof(State),
    .m_methods = internals,
    .m_slots = slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&normc_module);
}
