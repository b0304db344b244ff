/* A connection as its driver and its session share it: the native twin of engine/link.py. */

#include "native.h"
#include <errno.h>
#include <stddef.h>
#include <structmember.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
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

void link_forget_call(Link *self)
{
    PyObject *call = (PyObject *)self->call;
    self->call = NULL;
    Py_XDECREF(call);
}

static int link_clear(Link *self)
{
    link_forget_call(self);
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
    int bytes; /* less work for the kernel than a recv that finds nothing */
    return !ioctl(self->fd, FIONREAD, &bytes) && bytes > 0;
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
    return !link_type || PyModule_AddObjectRef(module, "Link", (PyObject *)link_type) ? -1 : 0;
}
