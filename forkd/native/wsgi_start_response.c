/* A usual request, from its head (wsgi_environ.c) to what its application answers: the object behind start_response.
 *
 * The usual application calls start_response once, with usual headers and without exc_info, and never write().
 * As soon as it does anything else, a Response (app/wsgi/start_response.py, the twin) takes over. */

#include "native.h"
#include <stddef.h>
#include <structmember.h>

PyTypeObject *request_type;
static PyObject *t_usual, *t_old, *n_start_response, *n_write, *n_early_hints, *no_id;

static int request_traverse(UsualRequest *self, visitproc visit, void *arg)
{
    Py_VISIT(self->environ);
    Py_VISIT(self->respond);
    Py_VISIT(self->response);
    Py_VISIT(self->result);
    Py_VISIT(self->failure);
    return call_traverse(&self->call, visit, arg);
}

static int request_clear(UsualRequest *self)
{
    Py_CLEAR(self->environ);
    Py_CLEAR(self->respond);
    Py_CLEAR(self->response);
    Py_CLEAR(self->result);
    Py_CLEAR(self->failure);
    return call_clear(&self->call);
}

void request_release(UsualRequest *self)
{
    Py_CLEAR(self->method);
    Py_CLEAR(self->call.line);
    Py_CLEAR(self->length);
    Py_CLEAR(self->referer);
    Py_CLEAR(self->agent);
    Py_CLEAR(self->client);
    Py_CLEAR(self->id);
    Py_XDECREF((PyObject *)self->block);
    release((PyObject *)self);
}

static void request_dealloc(UsualRequest *self)
{
    PyObject_GC_UnTrack(self);
    request_clear(self);
    request_release(self);
}

PyObject *response_of(UsualRequest *self)
{
    if (!self->response) {
        if (!self->respond) {
            PyErr_SetString(PyExc_RuntimeError, "start_response was called outside of its request");
            return NULL;
        }
        /* A bare link could not send what write() is given, and a process that the application forked must not. */
        if (!self->over && !in_fork && !call_grown(&self->call))
            return NULL;
        self->response = PyObject_CallFunctionObjArgs(self->respond, (PyObject *)self, self->call.peer,
                                                      self->block ? (PyObject *)self->block : Py_None, NULL);
        if (self->response && self->over && PyObject_SetAttrString(self->response, "over", Py_True))
            return NULL;
    }
    return self->response;
}

static PyObject *request_write(UsualRequest *self, PyObject *data)
{
    PyObject *response = response_of(self);
    return response ? PyObject_CallMethodObjArgs(response, n_write, data, NULL) : NULL;
}

static PyObject *request_early_hints(UsualRequest *self, PyObject *headers)
{
    PyObject *response = response_of(self);
    return response ? PyObject_CallMethodObjArgs(response, n_early_hints, headers, NULL) : NULL;
}

/* Call the Response's start_response, as this one was called. */
static PyObject *request_pass_on(UsualRequest *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    Py_ssize_t named = names ? PyTuple_Size(names) : 0;
    PyObject *response = response_of(self), *start = response ? PyObject_GetAttr(response, n_start_response) : NULL,
             *positional = PyTuple_New(nargs), *keywords = PyDict_New(), *result = NULL;
    int failed = !start || !positional || !keywords;
    for (Py_ssize_t i = 0; i < nargs && !failed; i++)
        failed = PyTuple_SetItem(positional, i, Py_NewRef(args[i]));
    for (Py_ssize_t i = 0; i < named && !failed; i++)
        failed = PyDict_SetItem(keywords, PyTuple_GetItem(names, i), args[nargs + i]);
    if (!failed)
        result = PyObject_Call(start, positional, keywords);
    Py_XDECREF(start);
    Py_XDECREF(positional);
    Py_XDECREF(keywords);
    return result;
}

static PyObject *request_start(UsualRequest *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    static PyMethodDef write = {"write", (PyCFunction)request_write, METH_O, "write of PEP 3333"};
    if (!self->response && !self->block && !names && nargs == 2) {
        PyObject *found = usual_block(args[0], args[1]);
        if (!found)
            return NULL;
        if (found != Py_None) {
            self->block = (Block *)found;
            self->call.code = self->block->code;
            return PyCFunction_New(&write, (PyObject *)self);
        }
        Py_DECREF(found);
    }
    return request_pass_on(self, args, nargs, names);
}

UsualRequest *request_new(PyObject *method, PyObject *line, PyObject *environ)
{
    UsualRequest *self = (UsualRequest *)allocate(request_type);
    if (self) {
        self->method = Py_NewRef(method);
        self->call.line = Py_NewRef(line);
        self->environ = Py_NewRef(environ);
    }
    return self;
}

PyObject *start_response_of(UsualRequest *request)
{
    static PyMethodDef start = {
        "start_response", (PyCFunction)(void (*)(void))request_start, METH_FASTCALL | METH_KEYWORDS,
        "start_response of PEP 3333",
    };
    return PyCFunction_New(&start, (PyObject *)request);
}

PyObject *early_hints_of(UsualRequest *request)
{
    static PyMethodDef hints = {"early_hints", (PyCFunction)request_early_hints, METH_O, "see docs/wsgi.md"};
    return PyCFunction_New(&hints, (PyObject *)request);
}

/* outcome() -> what the application returned, when that was not usual; or raises what it raised. */
static PyObject *request_outcome(UsualRequest *self, PyObject *unused)
{
    (void)unused;
    PyObject *failure = self->failure, *result = self->result;
    self->failure = self->result = NULL;
    if (failure) {
        PyErr_SetObject((PyObject *)Py_TYPE(failure), failure);
        Py_DECREF(failure);
        return NULL;
    }
    if (!result)
        PyErr_SetString(PyExc_RuntimeError, "the outcome was asked for twice");
    return result;
}

static PyMethodDef request_methods[] = {
    {"outcome", (PyCFunction)request_outcome, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

#define MEMBER(name, type) {#name, type, offsetof(UsualRequest, name), READONLY, NULL}

static PyMemberDef request_members[] = {
    MEMBER(end, T_PYSSIZET),
    MEMBER(method, T_OBJECT),
    MEMBER(environ, T_OBJECT),
    MEMBER(length, T_OBJECT),
    MEMBER(referer, T_OBJECT),
    MEMBER(agent, T_OBJECT),
    MEMBER(client, T_OBJECT),
    MEMBER(keep_alive, T_BOOL),
    /* after the exchange */
    MEMBER(response, T_OBJECT),
    MEMBER(ticket, T_LONGLONG),
    MEMBER(waited, T_DOUBLE),
    {NULL, 0, 0, 0, NULL},
};

static PyObject *request_id(UsualRequest *self, void *closure)
{
    (void)closure;
    return Py_NewRef(self->id ? self->id : no_id);
}

static PyObject *request_version(UsualRequest *self, void *closure)
{
    (void)closure;
    return Py_NewRef(self->http10 ? t_old : t_usual);
}

static PyGetSetDef request_getters[] = {
    {"version", (getter)request_version, NULL, NULL, NULL},
    {"id", (getter)request_id, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot request_slots[] = {
    {Py_tp_traverse, request_traverse},
    {Py_tp_clear, request_clear},
    {Py_tp_dealloc, request_dealloc},
    {Py_tp_methods, request_methods},
    {Py_tp_members, request_members},
    {Py_tp_getset, request_getters},
    {0, NULL},
};

static PyType_Spec request_spec = {
    "forkd._native.UsualRequest", sizeof(UsualRequest), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    request_slots,
};


int request_init(PyObject *module)
{
    request_type = (PyTypeObject *)PyType_FromSpecWithBases(&request_spec, (PyObject *)call_type);
    PyObject *type = (PyObject *)request_type;
    return !type || !(t_usual = PyUnicode_InternFromString("1.1")) || !(t_old = PyUnicode_InternFromString("1.0")) ||
                   !(n_start_response = PyUnicode_InternFromString("start_response")) ||
                   !(n_write = PyUnicode_InternFromString("write")) || !(no_id = PyUnicode_InternFromString("")) ||
                   !(n_early_hints = PyUnicode_InternFromString("early_hints")) ||
                   /* which is the same in every one */
                   PyObject_SetAttrString(type, "chunked", Py_False) ||
                   PyObject_SetAttrString(type, "expect_continue", Py_False) ||
                   PyObject_SetAttrString(type, "forwarded", Py_False) ||
                   PyModule_AddObjectRef(module, "UsualRequest", type)
               ? -1
               : 0;
}
