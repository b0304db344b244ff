/* A connection as its driver and its session share it: the native twin of engine/link.py. */

#include "native.h"
#include <errno.h>
#include <stddef.h>
#include <structmember.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SEND_AT_ONCE = 65536 }; /* bytes of one piece: for more, and for several, other threads should not wait */

PyTypeObject *link_type;
PyObject *n_feed, *n_lost, *n_failed, *n_rests, *n_ended;
static PyObject *n_grown, *n_shortcut, *n_then, *n_seconds;

static int link_traverse(Link *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->op);
    Py_VISIT(self->client);
    Py_VISIT(self->note);
    Py_VISIT(self->recorder);
    Py_VISIT(self->driver);
    Py_VISIT(self->origin);
    return 0;
}

static int link_clear(Link *self)
{
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

/* ---- a connection at rest ------------------------------------------------------------------- */

int resting_traverse(Resting *resting, visitproc visit, void *arg)
{
    Py_VISIT(resting->op);
    Py_VISIT(resting->exchange);
    Py_VISIT(resting->then);
    return 0;
}

void resting_clear(Resting *resting)
{
    Py_CLEAR(resting->op);
    Py_CLEAR(resting->exchange);
    Py_CLEAR(resting->then);
}

static int meet(Resting *resting, PyObject *op)
{
    PyObject *exchange = PyObject_GetAttr(op, n_shortcut), *then = PyObject_GetAttr(op, n_then), *seconds = NULL;
    if (exchange && then && (seconds = PyObject_GetAttr(then == Py_None ? op : then, n_seconds))) {
        Resting old = *resting;
        resting->op = Py_NewRef(op);
        resting->exchange = Py_TYPE(exchange) == exchange_type ? Py_NewRef(exchange) : NULL;
        resting->flows = exchange == (PyObject *)flow_type;
        resting->then = Py_NewRef(then == Py_None ? op : then);
        resting->seconds = PyFloat_AsDouble(seconds);
        resting_clear(&old);
    }
    Py_XDECREF(exchange);
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
    return conn->op && resting->exchange && conn->note;
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

int loop_answered(PyObject *loop, Link *conn, const UsualRequest *request, PyObject *then, double until)
{
    if (request->close)
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
        {&n_shortcut, "shortcut"}, {&n_then, "then"}, {&n_seconds, "seconds"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!(*names[i].place = PyUnicode_InternFromString(names[i].text)))
            return -1;
    link_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return !link_type || PyModule_AddObjectRef(module, "Link", (PyObject *)link_type) ? -1 : 0;
}
