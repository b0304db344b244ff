/* Both ends of a connection, as texts: the native twin of session/ends.py. */

#include "native.h"
#include <stddef.h>
#include <structmember.h>

PyTypeObject *ends_type;

PyObject *dict_copied(PyObject *model)
{
    PyObject *copy = PyDict_New(), *key, *value;
    Py_ssize_t at = 0;
    while (copy && PyDict_Next(model, &at, &key, &value)) {
        PyObject *own = PyDict_CheckExact(value) ? dict_copied(value) : Py_NewRef(value);
        if (!own || PyDict_SetItem(copy, key, own))
            Py_CLEAR(copy);
        Py_XDECREF(own);
    }
    return copy;
}

static int ends_traverse(Ends *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->proxy); /* the others are str */
    return 0;
}

static int ends_clear(Ends *self)
{
    Py_CLEAR(self->proxy);
    return 0;
}

static void ends_dealloc(Ends *self)
{
    PyObject_GC_UnTrack(self);
    ends_clear(self);
    Py_XDECREF(self->server);
    Py_XDECREF(self->port);
    Py_XDECREF(self->client);
    Py_XDECREF(self->client_port);
    release((PyObject *)self);
}

PyObject *ends_made(PyObject *server, PyObject *port, PyObject *client, PyObject *client_port, PyObject *proxy)
{
    Ends *self = (Ends *)allocate(ends_type);
    if (self) {
        self->server = Py_NewRef(server);
        self->port = Py_NewRef(port);
        self->client = Py_NewRef(client);
        self->client_port = Py_NewRef(client_port);
        self->proxy = Py_XNewRef(proxy);
    }
    return (PyObject *)self;
}

/* Ends(server, port, client, client_port, proxy=None) */
static PyObject *ends_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"server", "port", "client", "client_port", "proxy", NULL};
    PyObject *server, *port, *client, *client_port, *proxy = Py_None;
    (void)type;
    if (!by_name(args, keywords, "UUUU|O", names, &server, &port, &client, &client_port, &proxy))
        return NULL;
    return ends_made(server, port, client, client_port, proxy == Py_None ? NULL : proxy);
}

#define MEMBER(name) {#name, T_OBJECT, offsetof(Ends, name), READONLY, NULL}

static PyMemberDef members[] = {
    MEMBER(server), MEMBER(port), MEMBER(client), MEMBER(client_port), MEMBER(proxy), {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, ends_new},
    {Py_tp_traverse, ends_traverse},
    {Py_tp_clear, ends_clear},
    {Py_tp_dealloc, ends_dealloc},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.Ends", sizeof(Ends), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots,
};

int ends_init(PyObject *module)
{
    ends_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return !ends_type || PyModule_AddObjectRef(module, "Ends", (PyObject *)ends_type) ? -1 : 0;
}
