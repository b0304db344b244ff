/* A second shortcut, for tests/native/test_suspending.py: a call is a line, and its application, in Python, answers at
 * once, with bytes; later, with None; or leaves it to the session, with False. */

#include "native.h"

typedef struct {
    Shortcut base;
    PyObject *application, *left;
} Suspending;

PyObject *plain_init(void); /* PyInit__native of module.c */
static PyObject *suspending_type;

static Outcome read_line(Shortcut *self, const char *data, Py_ssize_t size, Link *link, Call **call)
{
    (void)self, (void)link;
    if (data[size - 1] != '\n' || memchr(data, '\n', (size_t)size - 1))
        return NOT_USUAL;
    *call = (Call *)allocate(call_type);
    return *call && ((*call)->line = PyBytes_FromStringAndSize(data, size - 1)) ? CALL : FAILED;
}

static Outcome call_application(Shortcut *self, Link *link, Call *call, PyObject **answer)
{
    call->peer = Py_NewRef((PyObject *)link);
    call->began = now_ns();
    call->close = self->draining || !strncmp(PyBytes_AsString(call->line), "last", 4);
    PyObject *result = PyObject_CallFunctionObjArgs(((Suspending *)self)->application, (PyObject *)call, NULL);
    if (!result)
        return FAILED;
    if (PyBytes_Check(result)) {
        *answer = result;
        return ANSWERED;
    }
    Py_DECREF(result); /* None and False are not freed by that */
    return result == Py_None ? SUSPENDED : UNFINISHED;
}

static int64_t end(Shortcut *self, Call *call)
{
    (void)self;
    return now_ns() - call->began;
}

static int gone(Shortcut *self, Link *link, Call *call)
{
    (void)link;
    PyObject *done = PyObject_CallFunctionObjArgs(((Suspending *)self)->left, (PyObject *)call, NULL);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

static PyObject *new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static const ShortcutFunctions functions = {.read = read_line, .call = call_application, .end = end, .gone = gone};
    static char *names[] = {"application", "left", "recorder", NULL};
    Suspending *self = (Suspending *)allocate(type);
    if (self && by_name(args, keywords, "OOO", names, &self->application, &self->left, &self->base.recorder)) {
        Py_INCREF(self->application); /* for good: there is one in a process */
        Py_INCREF(self->left);
        Py_INCREF(self->base.recorder);
        self->base.functions = &functions;
    }
    return PyErr_Occurred() ? NULL : (PyObject *)self;
}

PyMODINIT_FUNC PyInit__native(void)
{
    static PyType_Slot slots[] = {{Py_tp_new, new}, {Py_tp_traverse, shortcut_traverse}, {0, NULL}};
    static PyType_Spec spec = {
        "forkd._native.Suspending", sizeof(Suspending), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots,
    };
    PyObject *module = plain_init();
    if (module && (suspending_type = PyType_FromSpecWithBases(&spec, (PyObject *)shortcut_type)))
        PyModule_AddObjectRef(module, "Suspending", suspending_type);
    return module;
}
