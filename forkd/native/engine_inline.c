/* The demultiplexing of one turn, for connections that are at rest: receive, exchange, send (engine/inline.py and
 * `dispatch` in engine/loop.py, the twins).
 *
 * A connection rests while its session waits in an Await that has a `shortcut`. A usual request is answered without
 * the session, which goes on waiting. Anything else is passed to it: as bytes, or as a request that was begun here
 * and that the session continues. */

#define _GNU_SOURCE
#include "engine_inline.h"
#include <stddef.h>
#include <structmember.h>

static PyObject *n_other, *n_ready, *n_deposed, *n_judge, *n_claims;

static PyTypeObject *dispatcher_type;

static int dispatcher_traverse(Dispatcher *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->loop);
    Py_VISIT(self->driver);
    Py_VISIT(self->calls);
    Py_VISIT(self->connections);
    Py_VISIT(self->silent);
    Py_VISIT(self->one_shot);
    Py_VISIT(self->baton);
    return resting_traverse(&self->resting, visit, arg);
}

static int dispatcher_clear(Dispatcher *self)
{
    Py_CLEAR(self->loop);
    Py_CLEAR(self->driver);
    Py_CLEAR(self->calls);
    Py_CLEAR(self->connections);
    Py_CLEAR(self->silent);
    Py_CLEAR(self->one_shot);
    Py_CLEAR(self->baton);
    resting_clear(&self->resting);
    return 0;
}

static void dispatcher_dealloc(Dispatcher *self)
{
    PyObject_GC_UnTrack(self);
    dispatcher_clear(self);
    release((PyObject *)self);
}

/* Dispatcher(loop, driver, calls, connections, silent, baton): `calls`, `connections` and `silent`, which are Links, are by
 * descriptor; `baton` None: no other thread leads. */
static PyObject *dispatcher_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *loop, *driver, *calls, *connections, *silent, *baton;
    (void)keywords;
    if (!PyArg_ParseTuple(args, "OOO!O!O!O", &loop, &driver, &PyDict_Type, &calls, &PyDict_Type, &connections, &PyDict_Type, &silent,
                          &baton))
        return NULL;
    if (baton != Py_None && Py_TYPE(baton) != baton_type) {
        PyErr_SetString(PyExc_TypeError, "that is no baton");
        return NULL;
    }
    Dispatcher *self = (Dispatcher *)allocate(type);
    if (self) {
        self->loop = Py_NewRef(loop);
        self->driver = Py_NewRef(driver);
        self->calls = Py_NewRef(calls);
        self->connections = Py_NewRef(connections);
        self->silent = Py_NewRef(silent);
        self->baton = baton == Py_None ? NULL : Py_NewRef(baton);
        self->patience = 1e9;
    }
    return (PyObject *)self;
}

PyObject *send_now(Link *conn, PyObject *answer, int flags)
{
    PyObject *parts[2] = {answer, NULL};
    struct iovec pieces[2] = {{0}};
    int count = 1;
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

/* Whether the loop has taken the request, before its application is called; -1 with an exception. */
static int claimed(Dispatcher *self, Link *conn, UsualRequest *request)
{
    PyObject *answer = PyObject_CallMethodObjArgs(self->loop, n_claims, (PyObject *)conn, (PyObject *)request, NULL);
    int truth = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return truth;
}

/* The leader's thread was in the application for so long (ns). Returns 0, or -1 with an exception. */
static int judge(Dispatcher *self, UsualRequest *request, int64_t took)
{
    if ((double)took <= self->patience * 1e9)
        return 0;
    PyObject *seconds = PyFloat_FromDouble((double)took / 1e9);
    PyObject *done = seconds ? PyObject_CallMethodObjArgs(self->loop, n_judge, request->line, seconds, NULL) : NULL;
    Py_XDECREF(seconds);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* What arrived at a connection that rests. Returns 0, or -1 with an exception. */
static int serve(Dispatcher *self, Link *conn, double now)
{
    Py_ssize_t size = link_receive(conn, self->buffer, CHUNK);
    if (size < 0)
        return size == LINK_EMPTY ? 0 : loop_tell(self->loop, n_lost, conn, NULL);
    /* The application may come back here: another Await may be known by then. */
    PyObject *exchange = Py_NewRef(self->resting.exchange), *then = Py_NewRef(self->resting.then), *answer = NULL, *value;
    double until = now + self->resting.seconds;
    UsualRequest *request = NULL;
    int begun = size ? exchange_read(exchange, self->buffer, size, conn, &request) : 0, leads = 1, failed;
    if (begun > 0 && self->wary) {
        int taken = claimed(self, conn, request);
        if (taken) {
            failed = taken < 0 ? -1 : 0;
            goto done;
        }
    }
    if (begun > 0) { /* from here on the buffer may be another leader's */
        begun = self->baton && baton_hold(self->baton, (PyObject *)conn)
                    ? -1
                    : exchange_call(exchange, conn, request, &answer);
        leads = !self->baton || baton_release(self->baton, (PyObject *)conn);
    }
    failed = begun < 0 ? -1 : 0;
    if (!begun) {
        value = PyBytes_FromStringAndSize(self->buffer, size);
    } else if (begun == 1 && leads) {
        value = send_now(conn, answer, 0); /* None: all of it */
    } else {
        value = answer;
        answer = NULL;
    }
    if (value == Py_None) {
        int64_t took = exchange_end(exchange, request);
        failed = took < 0 || loop_answered(self->loop, conn, request, then, until) || judge(self, request, took) ? -1 : 0;
    } else if (!failed) {
        PyObject *name = leads ? n_feed : n_deposed;
        if (request)
            request->answer = value ? Py_NewRef(value) : NULL;
        failed = begun == 2 || value ? loop_tell(self->loop, name, conn, request ? (PyObject *)request : value) : -1;
    }
    Py_XDECREF(value);
    Py_XDECREF(answer);
done:
    Py_XDECREF((PyObject *)request);
    Py_DECREF(exchange);
    Py_DECREF(then);
    return failed;
}

/* A handle that is ready: what waits there is accepted, if it is a listener. Returns 0, or -1 with an exception. */
static int accept_at(Dispatcher *self, PyObject *fd)
{
    int held = PyDict_Contains(self->connections, fd); /* since then */
    if (!held)
        held = PyDict_Contains(self->silent, fd);
    if (held)
        return held < 0 ? -1 : 0;
    int accepted = links_accepted(self, fd);
    if (accepted)
        return accepted < 0 ? -1 : 0;
    PyObject *done = PyObject_CallMethodObjArgs(self->driver, n_other, fd, NULL);
    if (done == Py_True)
        self->taken = SHARE_OVER; /* a listener */
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* One handle that is ready. Returns 0; 1, when it is not a connection; or -1 with an exception. */
static int dispatch(Dispatcher *self, PyObject *fd, long mask, double now)
{
    PyObject *number;
    Link *conn = (Link *)PyDict_GetItemWithError(self->connections, fd); /* borrowed */
    int failed = -1;
    if (!conn && !PyErr_Occurred() && (conn = (Link *)PyDict_GetItemWithError(self->silent, fd))) {
        Py_INCREF((PyObject *)conn);
        if (Py_TYPE((PyObject *)conn) == link_type)
            failed = link_go_on(self, fd, conn);
        else
            PyErr_SetString(PyExc_TypeError, "only a bare link is silent");
        Py_DECREF((PyObject *)conn);
        return failed;
    }
    if (!conn)
        return PyErr_Occurred() ? -1 : 1;
    Py_INCREF((PyObject *)conn);
    int rests = resting_known(&self->resting, conn);
    if (rests > 0 && mask == READABLE) {
        failed = serve(self, conn, now);
    } else if (rests == 0 && mask == READABLE && flow_plain(self, conn)) {
        failed = flow_ready(self, conn, now);
    } else if (rests >= 0 && (number = PyLong_FromLong(mask))) {
        failed = loop_tell(self->loop, n_ready, conn, number);
        Py_DECREF(number);
    }
    Py_DECREF((PyObject *)conn);
    return failed;
}

/* Call what is to be called when `fd` is readable, if it is that kind of handle. Returns 0, or -1 with an exception. */
static int call(Dispatcher *self, PyObject *fd)
{
    PyObject *wanted = PyDict_GetItemWithError(self->calls, fd), *done;
    if (!wanted)
        return PyErr_Occurred() ? -1 : 0;
    Py_INCREF(wanted);
    done = PyObject_CallNoArgs(wanted);
    Py_DECREF(wanted);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* The descriptor and the mask of an event. New reference, or NULL with an exception. */
static PyObject *event_of(PyObject *events, Py_ssize_t at, long *mask)
{
    if (Py_TYPE(events) == events_type) {
        const struct epoll_event *event = &((Events *)events)->events[at];
        *mask = event->events;
        return PyLong_FromLong(event->data.fd);
    }
    PyObject *event = PyList_GetItem(events, at);
    if (!event || !PyTuple_Check(event) || PyTuple_Size(event) != 2) {
        PyErr_SetString(PyExc_TypeError, "an event is a descriptor and a mask");
        return NULL;
    }
    *mask = PyLong_AsLong(PyTuple_GetItem(event, 1));
    return Py_NewRef(PyTuple_GetItem(event, 0));
}

/* How many, in a list or in Events. */
static Py_ssize_t count_of(PyObject *events)
{
    return Py_TYPE(events) == events_type ? ((Events *)events)->count : PyList_Size(events);
}

/* What was ready at one wait. Calls come first: a request that came together with the master's word is answered as the
 * last one. Listeners come last: between two shares of new connections are all others that were ready. Returns 0, or -1
 * with an exception. */
static int run_once(Dispatcher *self, PyObject *events, double now)
{
    enum { CALLS, CONNECTIONS, LISTENERS, PASSES };
    int listeners = 0;
    for (int pass = CALLS; pass < PASSES - !listeners; pass++) {
        for (Py_ssize_t i = 0; i < count_of(events); i++) {
            long mask;
            PyObject *fd = event_of(events, i, &mask);
            int done = !fd ? -1 : pass == CALLS ? call(self, fd) : pass == LISTENERS ? accept_at(self, fd) : dispatch(self, fd, mask, now);
            if (done > 0) { /* no connection */
                int last = i + 1 == count_of(events) && !listeners;
                done = last ? accept_at(self, fd) : 0;
                listeners = !last;
            }
            Py_XDECREF(fd);
            if (done)
                return -1;
        }
    }
    return 0;
}

/* A share is over by its number, and another may follow at once: what else a turn is for is not due yet, and all that is
 * ready by now comes before it. */
static int next_share(Dispatcher *self)
{
    if ((double)now_ns() / 1e9 >= self->due)
        return 0;
    self->taken = 0;
    return 1;
}

/* run(events, now): what epoll_wait returned, or a list of (descriptor, mask); `now` in seconds of CLOCK_MONOTONIC.
 * Where several were ready, or connections came, there will soon be more of them, and the rest of a turn costs as much as
 * a request. But when new connections have had their share of it, the rest is due. */
static PyObject *dispatcher_run(Dispatcher *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2 || !(Py_TYPE(args[0]) == events_type || PyList_Check(args[0]))) {
        PyErr_SetString(PyExc_TypeError, "run takes events, and the time");
        return NULL;
    }
    double now = PyFloat_AsDouble(args[1]);
    int more = Py_TYPE(args[0]) == events_type;
    if (PyErr_Occurred())
        return NULL;
    self->taken = 0;
    for (int round = 1;; round++) {
        long accepted = self->accepted;
        if (run_once(self, args[0], now))
            return NULL;
        if (!more || round == ROUNDS || self->taken > MOST_ACCEPTS || (self->taken == MOST_ACCEPTS && !next_share(self)) ||
            (count_of(args[0]) < 2 && self->accepted == accepted) || !events_again((Events *)args[0]))
            Py_RETURN_NONE;
    }
}

static int begin_all(Dispatcher *self, PyObject *links, PyObject *opening, PyObject *intake, int epoll)
{
    int64_t ends = now_ns() + MOST_ACCEPT_NS;
    int late = 0;
    for (Py_ssize_t i = 0; i < PyList_Size(links); i++) {
        Link *link = (Link *)PyList_GetItem(links, i);
        if (!link || Py_TYPE((PyObject *)link) != link_type || link->op) {
            PyErr_SetString(PyExc_TypeError, "that is no new link");
            return -1;
        }
        link->op = Py_NewRef(opening);
        link->driver = Py_NewRef(self->driver);
        link->origin = Py_NewRef(intake);
        late = late || (i && now_ns() >= ends);
        if (late ? link_later(self, link, epoll) : link_begin(self, link, epoll))
            return -1;
    }
    if (late)
        self->taken = SHARE_OVER;
    return 0;
}

int links_begin(Dispatcher *self, PyObject *links, PyObject *opening, PyObject *intake, int epoll)
{
    PyObject *outer = self->batch;
    self->batch = links;
    int failed = begin_all(self, links, opening, intake, epoll);
    self->batch = outer;
    return failed;
}

/* Add the descriptor of a bare Link to a list. Returns 0, or -1 with an exception. */
static int tell_descriptor(PyObject *found, const Link *link)
{
    PyObject *fd = link->bare ? PyLong_FromLong(link->fd) : NULL;
    int failed = link->bare && (!fd || PyList_Append(found, fd));
    Py_XDECREF(fd);
    return failed ? -1 : 0;
}

/* held() -> the descriptors of bare Links that are in no dictionary, since they are being begun. */
static PyObject *dispatcher_held(Dispatcher *self, PyObject *unused)
{
    PyObject *found = PyList_New(0);
    (void)unused;
    for (Py_ssize_t i = 0; found && self->batch && i < PyList_Size(self->batch); i++)
        if (tell_descriptor(found, (Link *)PyList_GetItem(self->batch, i)))
            Py_CLEAR(found);
    if (found && self->begun && tell_descriptor(found, self->begun))
        Py_CLEAR(found);
    return found;
}

/* begin(links, opening, intake, epoll): bare Links, which the intake has accepted, and whose sessions, if they ever
 * have one, wait in the Await `opening` first. They are silent in `epoll`, unless that is -1. */
static PyObject *dispatcher_begin(Dispatcher *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 4 || !PyList_Check(args[0]) || self->baton) {
        PyErr_SetString(PyExc_TypeError, "begin takes a list of links, an Await, an intake and a descriptor, where no "
                                         "other thread leads");
        return NULL;
    }
    long epoll = PyLong_AsLong(args[3]);
    if (PyErr_Occurred() || links_begin(self, args[0], args[1], args[2], (int)epoll))
        return NULL;
    Py_RETURN_NONE;
}

/* answer(conn, request) -> the Await that the connection is to wait in, once it has the answer to a request that was
 * read here; None: its session has to go on with that, which was begun. In any thread. */
static PyObject *dispatcher_answer(Dispatcher *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2 || Py_TYPE(args[1]) != request_type || ((UsualRequest *)args[1])->respond) {
        PyErr_SetString(PyExc_TypeError, "answer takes a connection, and a new request");
        return NULL;
    }
    Link *conn = (Link *)args[0];
    UsualRequest *request = (UsualRequest *)args[1];
    int rests = resting_known(&self->resting, conn);
    if (rests <= 0)
        return rests ? NULL : PyErr_Format(PyExc_RuntimeError, "the connection does not rest");
    /* Another thread may meet another Await meanwhile. */
    PyObject *exchange = Py_NewRef(self->resting.exchange), *then = Py_NewRef(self->resting.then), *answer = NULL, *left = NULL;
    int begun = exchange_call(exchange, conn, request, &answer);
    if (begun == 1)
        left = send_now(conn, answer, 0);
    int failed = begun < 0 || (begun == 1 && !left), all = left == Py_None;
    if (all)
        failed = exchange_end(exchange, request) < 0;
    else
        request->answer = Py_XNewRef(left);
    Py_XDECREF(left);
    Py_XDECREF(answer);
    Py_DECREF(exchange);
    if (!failed && all)
        return then;
    Py_DECREF(then);
    return failed ? NULL : Py_NewRef(Py_None);
}

/* grow(link) -> the Connection that takes over from a silent Link, which is silent no more. */
static PyObject *dispatcher_grow(Dispatcher *self, PyObject *link)
{
    (void)self;
    if (Py_TYPE(link) != link_type) {
        PyErr_SetString(PyExc_TypeError, "grow takes a link");
        return NULL;
    }
    return link_grown((Link *)link);
}

/* receive(conn, now) -> whether what has arrived at a connection was looked for here, as it is if that rests. */
static PyObject *dispatcher_receive(Dispatcher *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "receive takes a connection, and the time");
        return NULL;
    }
    Link *conn = (Link *)args[0];
    double now = PyFloat_AsDouble(args[1]);
    int rests = PyErr_Occurred() ? -1 : resting_known(&self->resting, conn);
    if (rests < 0 || (rests && serve(self, conn, now)))
        return NULL;
    return PyBool_FromLong(rests);
}

static PyMethodDef methods[] = {
    {"answer", (PyCFunction)(void (*)(void))dispatcher_answer, METH_FASTCALL, NULL},
    {"begin", (PyCFunction)(void (*)(void))dispatcher_begin, METH_FASTCALL, NULL},
    {"grow", (PyCFunction)dispatcher_grow, METH_O, NULL},
    {"held", (PyCFunction)dispatcher_held, METH_NOARGS, NULL},
    {"receive", (PyCFunction)(void (*)(void))dispatcher_receive, METH_FASTCALL, NULL},
    {"run", (PyCFunction)(void (*)(void))dispatcher_run, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"patience", T_DOUBLE, offsetof(Dispatcher, patience), 0, NULL},
    {"accepted", T_LONG, offsetof(Dispatcher, accepted), 0, NULL},
    {"taken", T_LONG, offsetof(Dispatcher, taken), 0, NULL},
    {"due", T_DOUBLE, offsetof(Dispatcher, due), 0, NULL},
    {"one_shot", T_OBJECT, offsetof(Dispatcher, one_shot), 0, NULL},
    {"wary", T_BOOL, offsetof(Dispatcher, wary), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, dispatcher_new},
    {Py_tp_traverse, dispatcher_traverse},
    {Py_tp_clear, dispatcher_clear},
    {Py_tp_dealloc, dispatcher_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.Dispatcher", sizeof(Dispatcher), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots,
};

int dispatch_init(PyObject *module)
{
    static const struct {
        PyObject **place;
        const char *text;
    } names[] = {
        {&n_other, "other"}, {&n_ready, "ready"}, {&n_deposed, "deposed"}, {&n_judge, "judge"},
        {&n_claims, "claims"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!(*names[i].place = PyUnicode_InternFromString(names[i].text)))
            return -1;
    dispatcher_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return !dispatcher_type || PyModule_AddObjectRef(module, "Dispatcher", (PyObject *)dispatcher_type) ? -1 : 0;
}
