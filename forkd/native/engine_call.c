/* A call of an application that is made without a session, and what makes it. A suspended one is followed in
 * engine/connections.py. */

#include "native.h"
#include <math.h>
#include <stddef.h>
#include <structmember.h>

PyTypeObject *shortcut_type, *call_type;
static PyObject *n_seconds;

int shortcut_traverse(Shortcut *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->recorder);
    return 0;
}

int shortcut_clear(Shortcut *self)
{
    Py_CLEAR(self->recorder);
    return 0;
}

static void shortcut_dealloc(Shortcut *self)
{
    PyObject_GC_UnTrack(self);
    shortcut_clear(self);
    release((PyObject *)self);
}

PyObject *shortcut_with(const ShortcutFunctions *functions)
{
    Shortcut *self = (Shortcut *)allocate(shortcut_type);
    if (self)
        self->functions = functions;
    return (PyObject *)self;
}

static PyMemberDef shortcut_members[] = {
    {"draining", T_BOOL, offsetof(Shortcut, draining), 0, NULL},
    {"sheds_after", T_DOUBLE, offsetof(Shortcut, sheds_after), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot shortcut_slots[] = {
    {Py_tp_traverse, shortcut_traverse},
    {Py_tp_clear, shortcut_clear},
    {Py_tp_dealloc, shortcut_dealloc},
    {Py_tp_members, shortcut_members},
    {0, NULL},
};

enum { BASE = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION };

static PyType_Spec shortcut_spec = {"forkd._native.Shortcut", sizeof(Shortcut), 0, BASE, shortcut_slots};

int call_traverse(Call *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->peer);
    Py_VISIT(self->answer);
    Py_VISIT((PyObject *)self->shortcut);
    Py_VISIT(self->loop);
    Py_VISIT(self->then);
    Py_VISIT(self->waits);
    return 0;
}

int call_clear(Call *self)
{
    PyObject *shortcut = (PyObject *)self->shortcut;
    self->shortcut = NULL;
    Py_XDECREF(shortcut);
    Py_CLEAR(self->peer);
    Py_CLEAR(self->answer);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->then);
    Py_CLEAR(self->waits);
    return 0;
}

static void call_dealloc(Call *self)
{
    PyObject_GC_UnTrack(self);
    call_clear(self);
    Py_CLEAR(self->line);
    release((PyObject *)self);
}

Link *call_grown(Call *self)
{
    PyObject *link = self->peer;
    if (Py_TYPE(link) == link_type) {
        PyObject *conn = link_grown((Link *)link);
        if (!conn)
            return NULL;
        self->peer = conn;
        Py_DECREF(link);
    }
    return (Link *)self->peer;
}

void call_suspend(Call *self, Shortcut *shortcut, PyObject *loop, PyObject *then, int direct)
{
    Link *link = (Link *)self->peer;
    self->shortcut = (Shortcut *)Py_NewRef((PyObject *)shortcut);
    self->loop = Py_NewRef(loop);
    self->then = Py_NewRef(then);
    self->direct = (char)direct;
    link_forget_call(link);
    link->call = (Call *)Py_NewRef((PyObject *)self);
}

/* A connection that is kept waits in another Await, which has that deadline (seconds of CLOCK_MONOTONIC). */
static void wait_in(Link *link, PyObject *op, double deadline)
{
    PyObject *old = link->op;
    link->op = Py_NewRef(op);
    link->deadline = deadline;
    link->moved = 0;
    Py_XDECREF(old);
}

void call_kept(Call *self, PyObject *op)
{
    self->waits = Py_NewRef(op);
    self->state = CALL_WAITS;
    wait_in((Link *)self->peer, op, INFINITY);
}

/* The answer is sent: the connection rests in `then`, which the loop has to follow unless it was left as it is and is in the
 * wheel (engine/deadlines.py). Takes the reference to `waits`, which may be NULL. Returns 0, or -1 with an exception. */
static int rest_again(PyObject *loop, const Shortcut *shortcut, Link *link, PyObject *then, PyObject *waits)
{
    int kept = waits && link->op == waits && !shortcut->draining && link->bucket < INFINITY;
    Py_XDECREF(waits);
    if (!kept)
        return loop_tell(loop, n_rests, link, then);
    PyObject *seconds = PyObject_GetAttr(then, n_seconds);
    double patience = seconds ? PyFloat_AsDouble(seconds) : -1;
    Py_XDECREF(seconds);
    if (PyErr_Occurred())
        return -1;
    wait_in(link, then, (double)now_ns() / 1e9 + patience);
    return 0;
}

/* It is suspended no more. Returns 0, or -1 with an exception. */
static int deliver(Call *self, PyObject *answer)
{
    Link *link = (Link *)Py_NewRef(self->peer);
    Shortcut *shortcut = self->shortcut;
    PyObject *loop = self->loop, *then = self->then, *waits = self->waits, *left = NULL;
    self->state = CALL_OVER;
    self->shortcut = NULL;
    self->loop = self->then = self->waits = NULL;
    link_forget_call(link); /* the caller has another reference */
    int failed = 0;
    if (answer != Py_None) /* what can be sent of it is, where that is no operation's */
        failed = !(left = self->direct || !answer ? send_now(link, answer, 0) : Py_NewRef(answer));
    if (left == Py_None) {
        failed = shortcut->functions->end(shortcut, self) < 0;
        if (!failed && !self->close) {
            failed = rest_again(loop, shortcut, link, then, waits);
            waits = NULL;
        } else if (!failed) {
            failed = loop_tell(loop, n_ended, link, NULL);
        }
    } else if (!failed) {
        self->answer = Py_XNewRef(left);
        failed = loop_tell(loop, n_feed, link, (PyObject *)self);
    }
    Py_XDECREF(left);
    Py_XDECREF(waits);
    Py_DECREF((PyObject *)link);
    Py_DECREF((PyObject *)shortcut);
    Py_DECREF(loop);
    Py_DECREF(then);
    return failed ? -1 : 0;
}

int call_answered(Call *self, PyObject *answer)
{
    if (self->state == CALL_RUNS) { /* the loop follows soon */
        self->answer = Py_XNewRef(answer);
        self->state = CALL_ANSWERED_EARLY;
        return 1;
    }
    if (self->state != CALL_WAITS)
        return 0;
    Py_INCREF((PyObject *)self);
    int failed = deliver(self, answer);
    Py_DECREF((PyObject *)self);
    return failed ? -1 : 1;
}

int call_listens(Call *self)
{
    if (self->deaf || self->state == CALL_OVER || self->state == CALL_ANSWERED_EARLY)
        return 0;
    self->listens = 1;
    return 1;
}

/* answered(answer) -> whether the client is still there: see call_answered. */
static PyObject *call_answered_by(Call *self, PyObject *answer)
{
    int there = call_answered(self, answer);
    return there < 0 ? NULL : PyBool_FromLong(there);
}

/* suspend(): the loop has followed; an answer that came before that is sent now. */
static PyObject *call_followed(Call *self, PyObject *unused)
{
    (void)unused;
    if (!self->shortcut) /* its client has left meanwhile */
        Py_RETURN_NONE;
    int early = self->state == CALL_ANSWERED_EARLY, failed = 0;
    self->state = CALL_WAITS;
    if (early) {
        PyObject *answer = self->answer;
        self->answer = NULL;
        failed = deliver(self, answer);
        Py_XDECREF(answer);
    }
    return failed ? NULL : Py_NewRef(Py_None);
}

/* gone(): the client has left, or its connection ends otherwise. */
static PyObject *call_gone(Call *self, PyObject *unused)
{
    (void)unused;
    Shortcut *shortcut = self->shortcut;
    if (!shortcut)
        Py_RETURN_NONE;
    Link *link = (Link *)Py_NewRef(self->peer);
    self->state = CALL_OVER;
    self->shortcut = NULL;
    Py_CLEAR(self->loop);
    Py_CLEAR(self->then);
    Py_CLEAR(self->waits);
    link_forget_call(link);
    int failed = shortcut->functions->gone(shortcut, link, self);
    Py_DECREF((PyObject *)shortcut);
    Py_DECREF((PyObject *)link);
    return failed ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef call_methods[] = {
    {"answered", (PyCFunction)call_answered_by, METH_O, NULL},
    {"suspend", (PyCFunction)call_followed, METH_NOARGS, NULL},
    {"gone", (PyCFunction)call_gone, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

#define CALL_MEMBER(name, type) {#name, type, offsetof(Call, name), READONLY, NULL}

static PyMemberDef call_members[] = {
    CALL_MEMBER(line, T_OBJECT), CALL_MEMBER(answer, T_OBJECT), CALL_MEMBER(began, T_LONGLONG),
    CALL_MEMBER(sent, T_PYSSIZET), CALL_MEMBER(code, T_LONG), CALL_MEMBER(close, T_BOOL), CALL_MEMBER(listens, T_BOOL),
    {"deaf", T_BOOL, offsetof(Call, deaf), 0, NULL}, {NULL, 0, 0, 0, NULL},
};

static PyType_Slot call_slots[] = {
    {Py_tp_traverse, call_traverse},
    {Py_tp_clear, call_clear},
    {Py_tp_dealloc, call_dealloc},
    {Py_tp_methods, call_methods},
    {Py_tp_members, call_members},
    {0, NULL},
};

static PyType_Spec call_spec = {"forkd._native.Call", sizeof(Call), 0, BASE, call_slots};

int call_init(PyObject *module)
{
    shortcut_type = (PyTypeObject *)PyType_FromSpec(&shortcut_spec);
    call_type = (PyTypeObject *)PyType_FromSpec(&call_spec);
    return !shortcut_type || !call_type || !(n_seconds = PyUnicode_InternFromString("seconds")) ||
                   PyModule_AddObjectRef(module, "Shortcut", (PyObject *)shortcut_type) ||
                   PyModule_AddObjectRef(module, "Call", (PyObject *)call_type)
               ? -1
               : 0;
}
