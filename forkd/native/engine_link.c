/* A connection as its driver and its session share it: the native twin of engine/link.py. */

#include "native.h"
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <structmember.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SEND_AT_ONCE = 65536 }; /* bytes of one piece: for more, and for several, other threads should not wait */

PyTypeObject *link_type;
PyObject *n_feed, *n_lost, *n_failed, *n_rests, *n_ended, *n_suspended;
static PyObject *n_grown, *n_shortcut, *n_then, *n_seconds;

static int link_traverse(Link *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->op);
    Py_VISIT(self->client);
    Py_VISIT(self->note);
    Py_VISIT(self->recorder);
    Py_VISIT((PyObject *)self->call);
    Py_VISIT(self->driver);
    Py_VISIT(self->origin);
    return 0;
}

static void forget_call(Link *self)
{
    PyObject *call = (PyObject *)self->call;
    self->call = NULL;
    Py_XDECREF(call);
}

static int link_clear(Link *self)
{
    forget_call(self);
    Py_CLEAR(self->op);
    Py_CLEAR(self->client);
    Py_CLEAR(self->note);
    Py_CLEAR(self->recorder);
    Py_CLEAR(self->driver);
    Py_CLEAR(self->origin);
    return 0;
}

void link_close(Link *self)
{
    if (self->bare) {
        if (self->forks != forks) /* a process that was forked meanwhile may hold a copy: the client would wait */
            shutdown(self->fd, SHUT_WR);
        close(self->fd);
    }
    self->bare = 0;
}

static void link_dealloc(Link *self)
{
    PyObject_GC_UnTrack(self);
    link_close(self);
    link_clear(self);
    release((PyObject *)self);
}

#define MEMBER(name, type) {#name, type, offsetof(Link, name), 0, NULL}

static PyMemberDef members[] = {
    MEMBER(fd, T_INT),
    MEMBER(moved, T_PYSSIZET),
    MEMBER(forks, T_ULONG),
    MEMBER(deadline, T_DOUBLE),
    MEMBER(bucket, T_DOUBLE),
    MEMBER(op, T_OBJECT_EX),
    MEMBER(client, T_OBJECT_EX),
    MEMBER(note, T_OBJECT_EX),
    MEMBER(recorder, T_OBJECT_EX),
    MEMBER(origin, T_OBJECT_EX),
    {"call", T_OBJECT, offsetof(Link, call), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_traverse, link_traverse},
    {Py_tp_clear, link_clear},
    {Py_tp_dealloc, link_dealloc},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.Link", sizeof(Link), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots,
};

PyObject *link_grown(Link *self)
{
    if (!self->bare || !self->driver) {
        PyErr_SetString(PyExc_RuntimeError, "it is no bare link");
        return NULL;
    }
    self->bare = 0; /* whatever becomes of it: a descriptor should not be closed twice */
    if (self->epoll >= 0)
        epoll_ctl(self->epoll, EPOLL_CTL_DEL, self->fd, NULL);
    return PyObject_CallMethodObjArgs(self->driver, n_grown, (PyObject *)self, NULL);
}

/* ---- its bytes: no other file receives or sends any (tests/engine/test_bytes_move.py) ----------------- */

Py_ssize_t link_receive(Link *self, char *buffer, Py_ssize_t size)
{
    ssize_t received = recv(self->fd, buffer, (size_t)size, MSG_DONTWAIT);
    if (received < 0)
        return errno == EAGAIN || errno == EINTR ? LINK_EMPTY : LINK_LOST;
    self->moved += received;
    recorder_add(self->recorder, CELL_RECEIVED, received);
    return received;
}

Py_ssize_t link_send(Link *self, struct iovec *pieces, int count, int flags)
{
    ssize_t sent;
    flags |= MSG_DONTWAIT | MSG_NOSIGNAL;
    if (count == 1 && pieces->iov_len <= SEND_AT_ONCE) {
        sent = send(self->fd, pieces->iov_base, pieces->iov_len, flags);
    } else {
        struct msghdr message = {.msg_iov = pieces, .msg_iovlen = (size_t)count};
        Py_BEGIN_ALLOW_THREADS
        sent = sendmsg(self->fd, &message, flags);
        Py_END_ALLOW_THREADS
    }
    if (sent <= 0)
        return 0;
    self->moved += sent;
    recorder_add(self->recorder, CELL_SENT, sent);
    return sent;
}

int link_has_input(const Link *self)
{
    char byte;
    return recv(self->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

PyObject *send_now(Link *conn, PyObject *answer, int flags)
{
    PyObject *parts[2] = {answer, NULL};
    struct iovec pieces[2] = {{0}};
    int count = 1;
    if (!answer)
        Py_RETURN_NONE;
    if (PyTuple_Check(answer))
        for (count = 0; count < 2; count++)
            parts[count] = PyTuple_GetItem(answer, count);
    for (int i = 0; i < count; i++) {
        Py_ssize_t size;
        char *data;
        if (!parts[i] || PyBytes_AsStringAndSize(parts[i], &data, &size))
            return NULL;
        pieces[i] = (struct iovec){data, (size_t)size};
    }
    Py_ssize_t sent = link_send(conn, pieces, count, flags);
    size_t all = pieces[0].iov_len + pieces[1].iov_len;
    if ((size_t)sent == all)
        return Py_NewRef(Py_None);
    if (!sent)
        return Py_NewRef(answer);
    if ((size_t)sent < pieces[0].iov_len) {
        PyObject *rest = remainder_of(parts[0], sent);
        return !rest ? NULL : count == 1 ? Py_BuildValue("(N)", rest) : Py_BuildValue("(NO)", rest, parts[1]);
    }
    PyObject *rest = remainder_of(parts[1], sent - (Py_ssize_t)pieces[0].iov_len);
    return rest ? Py_BuildValue("(N)", rest) : NULL;
}

/* ---- a connection at rest ------------------------------------------------------------------- */

int resting_traverse(Resting *resting, visitproc visit, void *arg)
{
    Py_VISIT(resting->op);
    Py_VISIT((PyObject *)resting->shortcut);
    Py_VISIT(resting->then);
    return 0;
}

void resting_clear(Resting *resting)
{
    PyObject *shortcut = (PyObject *)resting->shortcut;
    resting->shortcut = NULL;
    Py_XDECREF(shortcut);
    Py_CLEAR(resting->op);
    Py_CLEAR(resting->then);
}

static int meet(Resting *resting, PyObject *op)
{
    PyObject *shortcut = PyObject_GetAttr(op, n_shortcut), *then = PyObject_GetAttr(op, n_then), *seconds = NULL;
    if (shortcut && then && (seconds = PyObject_GetAttr(then == Py_None ? op : then, n_seconds))) {
        Resting old = *resting;
        resting->op = Py_NewRef(op);
        resting->shortcut = PyObject_TypeCheck(shortcut, shortcut_type) ? (Shortcut *)Py_NewRef(shortcut) : NULL;
        resting->then = Py_NewRef(then == Py_None ? op : then);
        resting->seconds = PyFloat_AsDouble(seconds);
        resting_clear(&old);
    }
    Py_XDECREF(shortcut);
    Py_XDECREF(then);
    Py_XDECREF(seconds);
    return PyErr_Occurred() ? -1 : 0;
}

int resting_known(Resting *resting, const Link *conn)
{
    if (!PyObject_TypeCheck((PyObject *)conn, link_type)) {
        PyErr_SetString(PyExc_TypeError, "a connection is a Link");
        return -1;
    }
    if (conn->op != resting->op && conn->op && meet(resting, conn->op))
        return -1;
    const Shortcut *shortcut = conn->op ? resting->shortcut : NULL;
    return shortcut && (!shortcut->functions->takes || shortcut->functions->takes(shortcut, conn));
}

PyObject *remainder_of(PyObject *buffer, Py_ssize_t sent)
{
    PyObject *view = PyMemoryView_FromObject(buffer), *rest;
    rest = view ? PySequence_GetSlice(view, sent, PY_SSIZE_T_MAX) : NULL;
    Py_XDECREF(view);
    return rest;
}

int loop_tell(PyObject *loop, PyObject *name, Link *conn, PyObject *argument)
{
    PyObject *done = PyObject_CallMethodObjArgs(loop, name, (PyObject *)conn, argument, NULL);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

int loop_answered(PyObject *loop, Link *conn, const Call *call, PyObject *then, double until)
{
    if (call->close)
        return loop_tell(loop, n_ended, conn, NULL);
    if (conn->op != then)
        return loop_tell(loop, n_rests, conn, then);
    conn->deadline = until;
    conn->moved = 0;
    return 0;
}

/* ---- what is done without a session --------------------------------------------------------- */

PyTypeObject *shortcut_type, *call_type;

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
    forget_call(link);
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
    forget_call(link); /* the caller has another reference */
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
    forget_call(link);
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
    CALL_MEMBER(sent, T_PYSSIZET), CALL_MEMBER(code, T_LONG), CALL_MEMBER(close, T_BOOL), {NULL, 0, 0, 0, NULL},
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

int link_init(PyObject *module)
{
    static const struct {
        PyObject **place;
        const char *text;
    } names[] = {
        {&n_feed, "feed"}, {&n_lost, "lost"}, {&n_failed, "failed"}, {&n_grown, "grown"}, {&n_rests, "rests"}, {&n_ended, "ended"},
        {&n_suspended, "suspended"}, {&n_shortcut, "shortcut"}, {&n_then, "then"}, {&n_seconds, "seconds"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!(*names[i].place = PyUnicode_InternFromString(names[i].text)))
            return -1;
    link_type = (PyTypeObject *)PyType_FromSpec(&spec);
    shortcut_type = (PyTypeObject *)PyType_FromSpec(&shortcut_spec);
    call_type = (PyTypeObject *)PyType_FromSpec(&call_spec);
    return !link_type || !shortcut_type || !call_type || PyModule_AddObjectRef(module, "Link", (PyObject *)link_type) ||
                   PyModule_AddObjectRef(module, "Shortcut", (PyObject *)shortcut_type) ||
                   PyModule_AddObjectRef(module, "Call", (PyObject *)call_type)
               ? -1
               : 0;
}
