/* The completions of a ring, for connections that are at rest (system/uring.py, whose Python is the twin): what was
 * received is served, and its answer's send begun, without a call of Python; and so are the ends of such sends.
 *
 * All other completions are returned to Python, in their order. */

#include "system_ring.h"
#include <stddef.h>
#include <structmember.h>
#include <sys/socket.h>

enum {
    READABLE = 1,
    MOST_MORE = 1024, /* completions that come while those before are served, and are served in the same turn */
};

/* ---- handles: a descriptor, and what is under way on it -------------------------------------- */

static PyTypeObject *handle_type;

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

/* Its answer is sent, or Python goes on with it. */
static void handle_forget(Handle *self)
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

static PyMemberDef handle_members[] = {
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

static PyType_Slot handle_slots[] = {
    {Py_tp_traverse, handle_traverse},
    {Py_tp_clear, handle_clear},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_members, handle_members},
    {0, NULL},
};

static PyType_Spec handle_spec = {
    "forkd._native.Handle", sizeof(Handle), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, handle_slots,
};

/* ---- completions ---------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    Queues *queues;
    Buffers *buffers;
    PyObject *operations, *handles, *disarmed;
    PyObject *loop, *connections; /* NULL until they are passed to `serve` */
    Resting resting;
    unsigned looked; /* up to there, plain handles have been returned */
    unsigned more;   /* completions of this turn that have come since */
} Completions;


static int completions_traverse(Completions *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->operations);
    Py_VISIT(self->handles);
    Py_VISIT(self->disarmed);
    Py_VISIT(self->loop);
    Py_VISIT(self->connections);
    return resting_traverse(&self->resting, visit, arg);
}

static int completions_clear(Completions *self)
{
    Py_CLEAR(self->operations);
    Py_CLEAR(self->handles);
    Py_CLEAR(self->disarmed);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->connections);
    resting_clear(&self->resting);
    return 0;
}

static void completions_dealloc(Completions *self)
{
    PyObject_GC_UnTrack(self);
    completions_clear(self);
    Py_XDECREF((PyObject *)self->queues);
    Py_XDECREF((PyObject *)self->buffers);
    release((PyObject *)self);
}

/* Completions(queues, buffers, operations, handles, disarmed): `handles` are Handles by serial number; one that is
 * to be armed anew goes into `disarmed`. */
static PyObject *completions_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"queues", "buffers", "operations", "handles", "disarmed", NULL};
    PyObject *queues, *buffers, *operations, *handles, *disarmed;
    if (!by_name(args, keywords, "O!O!OO!O!", names, queues_type, &queues, buffers_type, &buffers, &operations, &PyDict_Type,
                 &handles, &PyList_Type, &disarmed))
        return NULL;
    Completions *self = (Completions *)allocate(type);
    if (self) {
        self->queues = (Queues *)Py_NewRef(queues);
        self->buffers = (Buffers *)Py_NewRef(buffers);
        self->operations = Py_NewRef(operations);
        self->handles = Py_NewRef(handles);
        self->disarmed = Py_NewRef(disarmed);
        self->looked = self->queues->head;
    }
    return (PyObject *)self;
}

/* serve(loop, connections): from now on, those of the Links `connections`, by descriptor, that rest. */
static PyObject *completions_serve(Completions *self, PyObject *args)
{
    PyObject *loop, *connections;
    if (!PyArg_ParseTuple(args, "OO!", &loop, &PyDict_Type, &connections))
        return NULL;
    Py_XDECREF(self->loop);
    Py_XDECREF(self->connections);
    self->loop = Py_NewRef(loop);
    self->connections = Py_NewRef(connections);
    Py_RETURN_NONE;
}

/* Borrowed; NULL, perhaps with an exception. */
static Handle *handle_of(Completions *self, const struct io_uring_cqe *cqe)
{
    PyObject *serial = PyLong_FromUnsignedLongLong(cqe->user_data >> KIND_BITS);
    PyObject *handle = serial ? PyDict_GetItemWithError(self->handles, serial) : NULL;
    Py_XDECREF(serial);
    return handle && PyObject_TypeCheck(handle, handle_type) ? (Handle *)handle : NULL;
}

/* Borrowed; NULL, perhaps with an exception. */
static Link *connection_of(Completions *self, Handle *handle)
{
    if (handle->fd >= 0 && !handle->conn) {
        PyObject *number = PyLong_FromLong(handle->fd);
        handle->conn = number ? Py_XNewRef(PyDict_GetItemWithError(self->connections, number)) : NULL;
        Py_XDECREF(number);
    }
    return handle->fd >= 0 && handle->conn != Py_None ? (Link *)handle->conn : NULL;
}

/* Begin to send the answer of a call. Returns 0, or -1 with an exception. */
static int begin_send(Completions *self, Handle *handle, const Link *conn, Call *call, PyObject *answer)
{
    struct io_uring_sqe *sqe = ring_next(self->queues);
    if (!sqe)
        return -1;
    char *data;
    Py_ssize_t size;
    PyBytes_AsStringAndSize(answer, &data, &size);
    sqe->opcode = IORING_OP_SEND;
    sqe->fd = handle->fd;
    sqe->addr = (uint64_t)(uintptr_t)data;
    sqe->len = (uint32_t)size;
    sqe->msg_flags = MSG_NOSIGNAL;
    sqe->user_data = (uint64_t)handle->serial << KIND_BITS | SEND;
    PyObject *old = handle->data;
    handle->data = Py_NewRef(answer); /* alive until its completion */
    Py_XDECREF(old);
    handle->offset = 0;
    handle->mask = 0; /* until then, what is received is held */
    handle->call = (Call *)Py_NewRef((PyObject *)call);
    handle->shortcut = (Shortcut *)Py_NewRef((PyObject *)self->resting.shortcut);
    handle->op = Py_NewRef(conn->op);
    handle->then = Py_NewRef(self->resting.then);
    handle->seconds = self->resting.seconds;
    return 0;
}

/* Call the application, and follow what that comes to. Returns 0, or -1 with an exception. */
static int run_call(Completions *self, Handle *handle, Link *conn, Call *call)
{
    /* The application may come back here: another Await may be known by then. */
    Shortcut *shortcut = (Shortcut *)Py_NewRef((PyObject *)self->resting.shortcut);
    PyObject *op = Py_NewRef(conn->op), *then = Py_NewRef(self->resting.then), *answer = NULL;
    int failed = -1;
    Outcome outcome = shortcut->functions->call(shortcut, conn, call, &answer);
    if (outcome == ANSWERED && PyBytes_CheckExact(answer) && self->resting.op == op && handle->fd >= 0) {
        failed = begin_send(self, handle, conn, call, answer);
    } else if (outcome == SUSPENDED) {
        call_suspend(call, shortcut, self->loop, then, 0);
        failed = loop_tell(self->loop, n_suspended, conn, NULL);
    } else if (outcome != FAILED) {
        call->answer = Py_XNewRef(answer);
        failed = loop_tell(self->loop, n_feed, conn, (PyObject *)call);
    }
    Py_XDECREF(answer);
    Py_DECREF((PyObject *)shortcut);
    Py_DECREF(op);
    Py_DECREF(then);
    return failed;
}

/* Something was received. Returns 1 when it is served, 0 when it is for Python, or -1 with an exception. */
static int received(Completions *self, Handle *handle, const struct io_uring_cqe *cqe)
{
    const char *data = ring_received(self->buffers, cqe);
    Link *conn;
    if (!data || handle->fd < 0 || !(handle->mask & READABLE) || PyObject_Size(handle->held) ||
        PyObject_Size(handle->data) || !(conn = connection_of(self, handle)))
        return PyErr_Occurred() ? -1 : 0;
    int rests = resting_known(&self->resting, conn);
    if (rests <= 0 || !self->resting.shortcut->functions->read)
        return rests < 0 ? -1 : 0;
    Py_INCREF((PyObject *)conn);
    Call *call = NULL;
    Outcome outcome = self->resting.shortcut->functions->read(self->resting.shortcut, data, cqe->res, conn, &call);
    int failed = outcome == FAILED ? -1 : 0;
    if (outcome != NOT_USUAL) {
        ring_give_back(self->buffers, cqe);
        if (!(cqe->flags & IORING_CQE_F_MORE)) {
            handle->armed = 0;
            failed = PyList_Append(self->disarmed, (PyObject *)handle) ? -1 : failed;
        }
        conn->moved += cqe->res;
        recorder_add(conn->recorder, CELL_RECEIVED, cqe->res);
    }
    if (outcome == CALL && !failed)
        failed = run_call(self, handle, conn, call);
    Py_XDECREF((PyObject *)call);
    Py_DECREF((PyObject *)conn);
    return failed ? -1 : outcome == CALL;
}

/* A send has ended. As `received`. */
static int sent(Completions *self, Handle *handle, const struct io_uring_cqe *cqe)
{
    if (!handle->call)
        return 0;
    Call *call = (Call *)Py_NewRef((PyObject *)handle->call);
    Shortcut *shortcut = (Shortcut *)Py_NewRef((PyObject *)handle->shortcut);
    PyObject *op = Py_NewRef(handle->op), *then = Py_NewRef(handle->then), *data = Py_NewRef(handle->data);
    Py_ssize_t size = PyBytes_Size(data);
    Link *conn = connection_of(self, handle);
    int served = 0, failed = PyErr_Occurred() ? -1 : 0;
    handle_forget(handle);
    Py_XINCREF((PyObject *)conn);
    if (failed || !conn || conn->op != op) { /* it goes other ways by now */
        failed = failed || shortcut->functions->end(shortcut, call) < 0;
    } else {
        served = 1;
        conn->moved += cqe->res > 0 ? cqe->res : 0;
        recorder_add(conn->recorder, CELL_SENT, cqe->res > 0 ? cqe->res : 0);
        Py_DECREF(handle->data);
        handle->data = PyBytes_FromStringAndSize(NULL, 0);
        handle->mask = READABLE;
        if (cqe->res == size) {
            failed = shortcut->functions->end(shortcut, call) < 0;
            if (!failed && shortcut->draining && !call->close)
                failed = loop_tell(self->loop, n_rests, conn, then); /* for less long, which Connections knows */
            else if (!failed)
                failed = loop_answered(self->loop, conn, call, then, (double)now_ns() / 1e9 + handle->seconds);
        } else {
            PyObject *rest = cqe->res <= 0 ? Py_NewRef(data) : remainder_of(data, cqe->res);
            call->answer = cqe->res <= 0 || !rest ? rest : Py_BuildValue("(N)", rest);
            failed = !rest || loop_tell(self->loop, n_feed, conn, (PyObject *)call);
        }
        if (!failed && handle->fd >= 0 && handle->mask & READABLE && (!handle->armed || PyObject_Size(handle->held))) {
            PyObject *done = PyObject_CallMethod(self->operations, "modify", "ii", handle->fd, handle->mask);
            Py_XDECREF(done);
            failed = !done;
        }
    }
    Py_XDECREF((PyObject *)conn);
    Py_DECREF((PyObject *)call);
    Py_DECREF((PyObject *)shortcut);
    Py_DECREF(op);
    Py_DECREF(then);
    Py_DECREF(data);
    return failed ? -1 : served;
}

/* sent(name, result, flags) -> whether that completion of a send, which was taken from the queue by `remainder`, was one that
 * was begun here, and is served. */
static PyObject *completions_sent(Completions *self, PyObject *args)
{
    unsigned long long name;
    struct io_uring_cqe cqe = {0};
    int result;
    unsigned flags;
    if (!PyArg_ParseTuple(args, "KiI", &name, &result, &flags))
        return NULL;
    cqe.user_data = name;
    cqe.res = result;
    cqe.flags = flags;
    Handle *handle = handle_of(self, &cqe);
    int served = PyErr_Occurred() ? -1 : 0;
    if (handle && self->loop) {
        Py_INCREF((PyObject *)handle);
        served = sent(self, handle, &cqe);
        Py_DECREF((PyObject *)handle);
    }
    return served < 0 ? NULL : PyBool_FromLong(served);
}

/* plain() -> the completions of plain handles that have come since the last call; they are not returned again. */
static PyObject *completions_plain(Completions *self, PyObject *unused)
{
    (void)unused;
    Queues *queues = self->queues;
    PyObject *found = PyList_New(0);
    unsigned tail = *(volatile unsigned *)queues->cq_tail;
    self->more = 0;
    for (self->looked = queues->head; found && self->looked != tail; self->looked++) {
        const struct io_uring_cqe *cqe = &queues->cqes[self->looked & (queues->cq_entries - 1)];
        if ((cqe->user_data & ((1 << KIND_BITS) - 1)) != POLL)
            continue;
        PyObject *entry = ring_tuple(cqe);
        if (!entry || PyList_Append(found, entry))
            Py_CLEAR(found);
        Py_XDECREF(entry);
    }
    return found;
}

/* next() -> the next completion that is not served here, as Queues.completions has it, or None. */
static PyObject *completions_next(Completions *self, PyObject *unused)
{
    const struct io_uring_cqe *there;
    (void)unused;
    while ((there = ring_completion(self->queues))) {
        struct io_uring_cqe cqe = *there; /* the application may go on reading the queue */
        int told = self->looked != self->queues->head, served = 0, kind = (int)(cqe.user_data & ((1 << KIND_BITS) - 1));
        if (!told && self->more++ == MOST_MORE)
            break; /* the rest of the turn is due: deadlines, the master's channel, the log */
        ring_taken(self->queues);
        if (kind == POLL && told)
            continue;
        if (!told)
            self->looked++;
        if (self->loop && (kind == RECEIVE || kind == SEND)) {
            Handle *handle = handle_of(self, &cqe);
            if (handle) {
                Py_INCREF((PyObject *)handle);
                served = kind == RECEIVE ? received(self, handle, &cqe) : sent(self, handle, &cqe);
                Py_DECREF((PyObject *)handle);
            }
            if (served < 0 || PyErr_Occurred())
                return NULL;
        }
        if (!served)
            return ring_tuple(&cqe);
    }
    Py_RETURN_NONE;
}

/* remainder() -> all completions that were not returned yet. */
static PyObject *completions_remainder(Completions *self, PyObject *unused)
{
    const struct io_uring_cqe *cqe;
    PyObject *found = PyList_New(0);
    (void)unused;
    for (; found && (cqe = ring_completion(self->queues)); ring_taken(self->queues)) {
        int told = self->looked != self->queues->head;
        if (told && (cqe->user_data & ((1 << KIND_BITS) - 1)) == POLL)
            continue;
        if (!told)
            self->looked++;
        PyObject *entry = ring_tuple(cqe);
        if (!entry || PyList_Append(found, entry))
            Py_CLEAR(found);
        Py_XDECREF(entry);
    }
    return found;
}

static PyMethodDef completions_methods[] = {
    {"serve", (PyCFunction)completions_serve, METH_VARARGS, NULL},
    {"sent", (PyCFunction)completions_sent, METH_VARARGS, NULL},
    {"plain", (PyCFunction)completions_plain, METH_NOARGS, NULL},
    {"next", (PyCFunction)completions_next, METH_NOARGS, NULL},
    {"remainder", (PyCFunction)completions_remainder, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot completions_slots[] = {
    {Py_tp_new, completions_new},
    {Py_tp_traverse, completions_traverse},
    {Py_tp_clear, completions_clear},
    {Py_tp_dealloc, completions_dealloc},
    {Py_tp_methods, completions_methods},
    {0, NULL},
};

static PyType_Spec completions_spec = {
    "forkd._native.Completions", sizeof(Completions), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, completions_slots,
};

int complete_init(PyObject *module)
{
    handle_type = (PyTypeObject *)PyType_FromSpec(&handle_spec);
    PyObject *type = PyType_FromSpec(&completions_spec);
    int failed = !handle_type || PyModule_AddObjectRef(module, "Handle", (PyObject *)handle_type) || !type ||
                 PyModule_AddObjectRef(module, "Completions", type);
    Py_XDECREF(type);
    return failed ? -1 : 0;
}
