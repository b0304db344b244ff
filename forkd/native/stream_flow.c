/* The bytes of an asyncio stream that is plainly open, past the session and the transport (app/stream/flow.py,
 * app/stream/transport.py, which do the same, and all else). */

#include "native.h"
#include <stddef.h>
#include <structmember.h>

static PyTypeObject *flow_type;
static PyObject *n_data_received;

static int flow_traverse(Flow *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->peer);
    Py_VISIT(self->protocol);
    Py_VISIT(self->general);
    return 0;
}

static int flow_clear(Flow *self)
{
    Py_CLEAR(self->peer);
    Py_CLEAR(self->protocol);
    Py_CLEAR(self->general);
    return 0;
}

static void flow_dealloc(Flow *self)
{
    PyObject_GC_UnTrack(self);
    flow_clear(self);
    release((PyObject *)self);
}

/* Flow(peer, general): `general` writes what `write` does not. */
static PyObject *flow_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"peer", "general", NULL};
    PyObject *peer, *general;
    if (!by_name(args, keywords, "O!O", names, link_type, &peer, &general))
        return NULL;
    Flow *self = (Flow *)allocate(type);
    if (self) {
        self->peer = Py_NewRef(peer);
        self->general = Py_NewRef(general);
        self->protocol = Py_NewRef(Py_None);
    }
    return (PyObject *)self;
}

/* write(data): as asyncio.Transport's. */
static PyObject *flow_write(Flow *self, PyObject *data)
{
    Py_ssize_t size = self->plain && PyBytes_CheckExact(data) ? PyBytes_Size(data) : 0;
    Py_ssize_t sent = 0;
    if (size) {
        struct iovec piece = {PyBytes_AsString(data), (size_t)size};
        sent = link_send((Link *)self->peer, &piece, 1, 0);
        if (sent)
            self->owed = self->quiet = 0;
        if (sent == size)
            Py_RETURN_NONE;
    }
    PyObject *rest = sent > 0 ? PySequence_GetSlice(data, sent, size) : Py_NewRef(data), *done;
    if (!rest)
        return NULL;
    done = PyObject_CallFunctionObjArgs(self->general, rest, NULL);
    Py_DECREF(rest);
    return done;
}

/* Give the protocol what came. Returns 0, or -1 with an exception. */
static int receive(Flow *self, const char *data, Py_ssize_t size)
{
    PyObject *bytes = PyBytes_FromStringAndSize(data, size), *protocol = Py_NewRef(self->protocol), *done = NULL;
    self->owed = 1;
    self->quiet = 0;
    if (bytes)
        done = PyObject_CallMethodObjArgs(protocol, n_data_received, bytes, NULL);
    if (in_fork)
        leave_fork();
    Py_XDECREF(bytes);
    Py_DECREF(protocol);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* ---- what drivers call ---------------------------------------------------------------------- */

static int flow_takes(const Shortcut *self, const Link *link)
{
    (void)self;
    return link->note && Py_TYPE(link->note) == flow_type && ((Flow *)link->note)->plain;
}

static Outcome flow_more(Shortcut *self, Link *link, const char *data, Py_ssize_t size)
{
    (void)self;
    Flow *flow = (Flow *)Py_NewRef(link->note);
    int failed = receive(flow, data, size), plain = flow->plain;
    Py_DECREF((PyObject *)flow);
    return failed ? FAILED : plain ? ANSWERED : UNFINISHED;
}

/* For each connection whose note is a Flow. */
static const ShortcutFunctions functions = {.more = flow_more, .takes = flow_takes};

static PyMethodDef methods[] = {
    {"write", (PyCFunction)flow_write, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

#define MEMBER(name, type) {#name, type, offsetof(Flow, name), 0, NULL}

static PyMemberDef members[] = {
    MEMBER(plain, T_BOOL), MEMBER(owed, T_BOOL), MEMBER(quiet, T_BOOL), MEMBER(protocol, T_OBJECT), {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, flow_new},
    {Py_tp_traverse, flow_traverse},
    {Py_tp_clear, flow_clear},
    {Py_tp_dealloc, flow_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.Flow", sizeof(Flow), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots,
};

int flow_init(PyObject *module)
{
    flow_type = (PyTypeObject *)PyType_FromSpec(&spec);
    PyObject *shortcut = shortcut_with(&functions);
    int failed = !flow_type || !shortcut || !(n_data_received = PyUnicode_InternFromString("data_received")) ||
                 PyModule_AddObjectRef(module, "Flow", (PyObject *)flow_type) ||
                 PyModule_AddObjectRef(module, "FLOW_SHORTCUT", shortcut);
    Py_XDECREF(shortcut);
    return failed ? -1 : 0;
}
