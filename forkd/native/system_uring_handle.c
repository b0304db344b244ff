/* What a ring's operations are about: a descriptor, and what is under way on it (system/uring.py, where its twin is). */

#include "system_ring.h"
#include <stddef.h>
#include <structmember.h>

PyTypeObject *handle_type;

static int handle_traverse(Handle *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->held);
    Py_VISIT(self->conn);
    Py_VISIT((PyObject *)self->call);
    Py_VISIT((PyObject *)self->shortcut);
    Py_VISIT(self->op);
    Py_VISIT(self->then);
    return 0;
}

void handle_forget(Handle *self)
{
    PyObject *call = (PyObject *)self->call, *shortcut = (PyObject *)self->shortcut;
    self->call = NULL;
    self->shortcut = NULL;
    Py_XDECREF(call);
    Py_XDECREF(shortcut);
    Py_CLEAR(self->op);
    Py_CLEAR(self->then);
}

static int handle_clear(Handle *self)
{
    handle_forget(self);
    Py_CLEAR(self->held);
    Py_CLEAR(self->conn);
    return 0;
}

static void handle_dealloc(Handle *self)
{
    PyObject_GC_UnTrack(self);
    handle_clear(self);
    Py_CLEAR(self->data);
    release((PyObject *)self);
}

#define MEMBER(name, type) {#name, type, offsetof(Handle, name), 0, NULL}

static PyMemberDef members[] = {
    MEMBER(fd, T_INT),
    MEMBER(kind, T_INT),
    MEMBER(mask, T_INT),
    MEMBER(serial, T_LONGLONG),
    MEMBER(armed, T_BOOL),
    MEMBER(held, T_OBJECT_EX),
    MEMBER(data, T_OBJECT_EX),
    MEMBER(conn, T_OBJECT),
    MEMBER(offset, T_PYSSIZET),
    {"call", T_OBJECT, offsetof(Handle, call), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_traverse, handle_traverse},
    {Py_tp_clear, handle_clear},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.Handle", sizeof(Handle), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots,
};

int handle_init(PyObject *module)
{
    handle_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return !handle_type || PyModule_AddObjectRef(module, "Handle", (PyObject *)handle_type) ? -1 : 0;
}
