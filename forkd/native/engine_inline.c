/* The demultiplexing of one turn, for connections that are at rest: receive, call, send (engine/inline.py and
 * `dispatch` in engine/loop.py, the twins).
 *
 * A connection rests while its session waits in an Await that has a `shortcut`. What its
 * shortcut reads as a call is answered without the session, which goes on waiting. Anything else is passed to it: as
 * bytes, or as a call that was begun here and that the session continues. */

#define _GNU_SOURCE
#include "engine_inline.h"
#include <stddef.h>
#include <structmember.h>

static PyObject *n_other, *n_ready, *n_deposed, *n_judge, *n_claims;

static PyTypeObject *driver_type;
unsigned long ready_pass;
static unsigned long passes;

static int driver_traverse(InlineDriver *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->loop);
    Py_VISIT(self->driver);
    Py_VISIT(self->calls);
    Py_VISIT(self->connections);
    Py_VISIT(self->silent);
    Py_VISIT(self->suspended);
    Py_VISIT(self->one_shot);
    Py_VISIT(self->baton);
    return resting_traverse(&self->resting, visit, arg);
}

static int driver_clear(InlineDriver *self)
{
    Py_CLEAR(self->loop);
    Py_CLEAR(self->driver);
    Py_CLEAR(self->calls);
    Py_CLEAR(self->connections);
    Py_CLEAR(self->silent);
    Py_CLEAR(self->suspended);
    Py_CLEAR(self->one_shot);
    Py_CLEAR(self->baton);
    resting_clear(&self->resting);
    return 0;
}

static void driver_dealloc(InlineDriver *self)
{
    PyObject_GC_UnTrack(self);
    driver_clear(self);
    release((PyObject *)self);
}

/* InlineDriver(loop, driver, calls, connections, silent, suspended, baton): `calls`, `connections` and `silent`, which are Links, are
 * by descriptor; `baton` None: no other thread leads. */
static PyObject *driver_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"loop", "driver", "calls", "connections", "silent", "suspended", "baton", NULL};
    PyObject *loop, *driver, *calls, *connections, *silent, *suspended, *baton;
    if (!by_name(args, keywords, "OOO!O!O!OO", names, &loop, &driver, &PyDict_Type, &calls, &PyDict_Type, &connections,
                 &PyDict_Type, &silent, &suspended, &baton))
        return NULL;
    if (baton != Py_None && Py_TYPE(baton) != baton_type) {
        PyErr_SetString(PyExc_TypeError, "that is no baton");
        return NULL;
    }
    InlineDriver *self = (InlineDriver *)allocate(type);
    if (self) {
        self->loop = Py_NewRef(loop);
        self->driver = Py_NewRef(driver);
        self->calls = Py_NewRef(calls);
        self->connections = Py_NewRef(connections);
        self->silent = Py_NewRef(silent);
        self->suspended = Py_NewRef(suspended);
        self->baton = baton == Py_None ? NULL : Py_NewRef(baton);
        self->patience = 1e9;
    }
    return (PyObject *)self;
}

/* Whether the loop has taken the call, before its application has it; -1 with an exception. */
static int claimed(InlineDriver *self, Link *conn, Call *call)
{
    PyObject *answer = PyObject_CallMethodObjArgs(self->loop, n_claims, (PyObject *)conn, (PyObject *)call, NULL);
    int truth = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return truth;
}

/* The leader's thread was in the application for so long (ns). Returns 0, or -1 with an exception. */
static int judge(InlineDriver *self, Call *call, int64_t took)
{
    if ((double)took <= self->patience * 1e9)
        return 0;
    PyObject *seconds = PyFloat_FromDouble((double)took / 1e9);
    PyObject *done = seconds ? PyObject_CallMethodObjArgs(self->loop, n_judge, call->line, seconds, NULL) : NULL;
    Py_XDECREF(seconds);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* The session goes on with a call, of which `answer` is left to send; NULL: there is none yet. Takes the reference.
 * Returns 0, or -1 with an exception. */
static int go_on_with(InlineDriver *self, PyObject *name, Link *conn, Call *call, PyObject *answer)
{
    call->answer = answer;
    return loop_tell(self->loop, name, conn, (PyObject *)call);
}

/* The application has answered: send that. Returns 0, or -1 with an exception. */
static int send_answer(InlineDriver *self, Shortcut *shortcut, Link *conn, Call *call, PyObject *answer, PyObject *then,
                       double until)
{
    PyObject *left = send_now(conn, answer, 0);
    if (left != Py_None)
        return left ? go_on_with(self, n_feed, conn, call, left) : -1;
    Py_DECREF(left);
    int64_t took = shortcut->functions->end(shortcut, call);
    return took < 0 || loop_answered(self->loop, conn, call, then, until) || judge(self, call, took) ? -1 : 0;
}

/* Call the application, and follow what that comes to. `kept`: the connection is, for input. Returns 0, or -1 with an
 * exception. */
static int run_call(InlineDriver *self, Shortcut *shortcut, Link *conn, Call *call, PyObject *then, double until, int kept)
{
    PyObject *answer = NULL;
    int failed = -1;
    /* From here on the buffer may be another leader's. */
    Outcome outcome = self->baton && baton_hold(self->baton, (PyObject *)conn)
                          ? FAILED
                          : shortcut->functions->call(shortcut, conn, call, &answer);
    int leads = !self->baton || baton_release(self->baton, (PyObject *)conn);
    if (outcome == ANSWERED && leads) {
        failed = send_answer(self, shortcut, conn, call, answer, then, until);
    } else if (outcome == SUSPENDED) {
        call_suspend(call, shortcut, self->loop, then, 1);
        if (kept && !self->baton && call->state == CALL_RUNS) {
            call_kept(call, self->suspended);
            return 0;
        }
        failed = loop_tell(self->loop, leads ? n_suspended : n_deposed, conn, leads ? NULL : (PyObject *)call);
    } else if (outcome != FAILED) {
        failed = go_on_with(self, leads ? n_feed : n_deposed, conn, call, Py_XNewRef(answer));
    }
    Py_XDECREF(answer);
    return failed;
}

/* The session gets what is in the buffer; nothing is the end. Returns 0, or -1 with an exception. */
static int feed(InlineDriver *self, Link *conn, Py_ssize_t size)
{
    PyObject *bytes = PyBytes_FromStringAndSize(self->buffer, size);
    int failed = bytes ? loop_tell(self->loop, n_feed, conn, bytes) : -1;
    Py_XDECREF(bytes);
    return failed;
}

/* What arrived at a connection that rests: receive it. Returns how many bytes; 0 when that is all, or LINK_LOST with an
 * exception. */
static Py_ssize_t receive(InlineDriver *self, Link *conn)
{
    Py_ssize_t size = link_receive(conn, self->buffer, CHUNK);
    if (size > 0)
        return size;
    if (size == LINK_EMPTY)
        return 0;
    int failed = size == LINK_LOST ? loop_tell(self->loop, n_lost, conn, NULL) : feed(self, conn, 0);
    return failed ? LINK_LOST : 0;
}

/* As a call, if it is one. `kept`: see run_call. Returns 0, or -1 with an exception. */
static int serve(InlineDriver *self, Link *conn, double now, int kept)
{
    Py_ssize_t size = receive(self, conn);
    if (size <= 0)
        return size ? -1 : 0;
    /* The application may come back here: another Await may be known by then. */
    Shortcut *shortcut = (Shortcut *)Py_NewRef((PyObject *)self->resting.shortcut);
    PyObject *then = Py_NewRef(self->resting.then);
    double until = now + self->resting.seconds;
    Call *call = NULL;
    Outcome outcome = shortcut->functions->read(shortcut, self->buffer, size, conn, &call);
    int taken = outcome == CALL && self->wary ? claimed(self, conn, call) : 0, failed = -1;
    if (taken)
        failed = taken < 0 ? -1 : 0;
    else if (outcome == CALL)
        failed = run_call(self, shortcut, conn, call, then, until, kept);
    else if (outcome == NOT_USUAL)
        failed = feed(self, conn, size);
    Py_XDECREF((PyObject *)call);
    Py_DECREF((PyObject *)shortcut);
    Py_DECREF(then);
    return failed;
}

/* As the next of something that goes on. Returns 0, or -1 with an exception. */
static int go_on(InlineDriver *self, Link *conn, double now)
{
    Py_ssize_t size = receive(self, conn);
    if (size <= 0)
        return size ? -1 : 0;
    Shortcut *shortcut = (Shortcut *)Py_NewRef((PyObject *)self->resting.shortcut);
    PyObject *op = Py_NewRef(conn->op);
    double until = now + self->resting.seconds;
    int failed = 0;
    Outcome outcome = shortcut->functions->more(shortcut, conn, self->buffer, size);
    if (outcome == FAILED) { /* its session knows what to do */
        PyObject *value = taken_exception();
        failed = loop_tell(self->loop, n_failed, conn, value);
        Py_DECREF(value);
    } else if (outcome == UNFINISHED) {
        failed = loop_tell(self->loop, n_feed, conn, Py_None);
    } else if (conn->op == op) {
        conn->deadline = until;
        conn->moved = 0;
    }
    Py_DECREF((PyObject *)shortcut);
    Py_DECREF(op);
    return failed;
}

/* A handle that is ready: what waits there is accepted, if it is a listener. Returns 0, or -1 with an exception. */
static int accept_at(InlineDriver *self, PyObject *fd)
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

/* Whether the connection that was met last waits for calls, and not for the next bytes of something that goes on. */
static int reads_calls(const InlineDriver *self)
{
    return self->resting.shortcut->functions->read != NULL;
}

/* One handle that is ready. Returns 0; 1, when it is not a connection; or -1 with an exception. */
static int dispatch(InlineDriver *self, PyObject *fd, long mask, double now)
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
    if (rests > 0 && mask == READABLE && reads_calls(self)) {
        ready_pass = passes;
        failed = serve(self, conn, now, 1);
        ready_pass = 0;
    } else if (rests > 0 && mask == READABLE && !self->baton) {
        failed = go_on(self, conn, now);
    } else if (rests >= 0 && (number = PyLong_FromLong(mask))) {
        failed = loop_tell(self->loop, n_ready, conn, number);
        Py_DECREF(number);
    }
    Py_DECREF((PyObject *)conn);
    return failed;
}

/* Call what is to be called when `fd` is readable, if it is that kind of handle. Returns 0, or -1 with an exception. */
static int call(InlineDriver *self, PyObject *fd)
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
static int run_once(InlineDriver *self, PyObject *events, double now)
{
    enum { CALLS, CONNECTIONS, LISTENERS, PASSES };
    int listeners = 0;
    passes++;
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
static int next_share(InlineDriver *self)
{
    if ((double)now_ns() / 1e9 >= self->due)
        return 0;
    self->taken = 0;
    return 1;
}

/* run(events, now): what epoll_wait returned, or a list of (descriptor, mask); `now` in seconds of CLOCK_MONOTONIC.
 * Where several were ready, or connections came, there will soon be more of them, and the rest of a turn costs as much as
 * a request. But when new connections have had their share of it, the rest is due. */
static PyObject *driver_run(InlineDriver *self, PyObject *const *args, Py_ssize_t nargs)
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

/* begin(links, opening, intake, epoll): bare Links, which the intake has accepted, and whose sessions, if they ever
 * have one, wait in the Await `opening` first. They are silent in `epoll`, unless that is -1. */
static PyObject *driver_begin(InlineDriver *self, PyObject *const *args, Py_ssize_t nargs)
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

/* answer(conn, call) -> the Await that the connection is to wait in, once it has the answer to a call that was read here;
 * None: its session has to go on with that, which was begun, or it is suspended. In any thread. */
static PyObject *driver_answer(InlineDriver *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2 || !PyObject_TypeCheck(args[1], call_type) || ((Call *)args[1])->peer) {
        PyErr_SetString(PyExc_TypeError, "answer takes a connection, and a new call");
        return NULL;
    }
    Link *conn = (Link *)args[0];
    Call *call = (Call *)args[1];
    int rests = resting_known(&self->resting, conn);
    if (rests <= 0 || !reads_calls(self))
        return rests < 0 ? NULL : PyErr_Format(PyExc_RuntimeError, "the connection does not rest");
    /* Another thread may meet another Await meanwhile. */
    Shortcut *shortcut = (Shortcut *)Py_NewRef((PyObject *)self->resting.shortcut);
    PyObject *then = Py_NewRef(self->resting.then), *answer = NULL, *left = NULL;
    Outcome outcome = shortcut->functions->call(shortcut, conn, call, &answer);
    if (outcome == ANSWERED)
        left = send_now(conn, answer, 0);
    int failed = outcome == FAILED || (outcome == ANSWERED && !left), all = left == Py_None;
    if (all)
        failed = shortcut->functions->end(shortcut, call) < 0;
    else if (outcome == SUSPENDED)
        call_suspend(call, shortcut, self->loop, then, 1);
    else
        call->answer = Py_XNewRef(left);
    Py_XDECREF(left);
    Py_XDECREF(answer);
    Py_DECREF((PyObject *)shortcut);
    if (!failed && all)
        return then;
    Py_DECREF(then);
    return failed ? NULL : Py_NewRef(Py_None);
}

/* grow(link) -> the Connection that takes over from a silent Link, which is silent no more. */
static PyObject *driver_grow(InlineDriver *self, PyObject *link)
{
    (void)self;
    if (Py_TYPE(link) != link_type) {
        PyErr_SetString(PyExc_TypeError, "grow takes a link");
        return NULL;
    }
    return link_grown((Link *)link);
}

/* receive(conn, now) -> whether what has arrived at a connection was looked for here, as it is if that rests. */
static PyObject *driver_receive(InlineDriver *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "receive takes a connection, and the time");
        return NULL;
    }
    Link *conn = (Link *)args[0];
    double now = PyFloat_AsDouble(args[1]);
    int rests = PyErr_Occurred() ? -1 : resting_known(&self->resting, conn);
    if (rests > 0)
        rests = reads_calls(self);
    if (rests < 0 || (rests && serve(self, conn, now, 0)))
        return NULL;
    return PyBool_FromLong(rests);
}

static PyMethodDef methods[] = {
    {"answer", (PyCFunction)(void (*)(void))driver_answer, METH_FASTCALL, NULL},
    {"begin", (PyCFunction)(void (*)(void))driver_begin, METH_FASTCALL, NULL},
    {"grow", (PyCFunction)driver_grow, METH_O, NULL},
    {"held", (PyCFunction)links_held, METH_NOARGS, NULL},
    {"receive", (PyCFunction)(void (*)(void))driver_receive, METH_FASTCALL, NULL},
    {"run", (PyCFunction)(void (*)(void))driver_run, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"patience", T_DOUBLE, offsetof(InlineDriver, patience), 0, NULL},
    {"accepted", T_LONG, offsetof(InlineDriver, accepted), 0, NULL},
    {"taken", T_LONG, offsetof(InlineDriver, taken), 0, NULL},
    {"due", T_DOUBLE, offsetof(InlineDriver, due), 0, NULL},
    {"one_shot", T_OBJECT, offsetof(InlineDriver, one_shot), 0, NULL},
    {"wary", T_BOOL, offsetof(InlineDriver, wary), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, driver_new},
    {Py_tp_traverse, driver_traverse},
    {Py_tp_clear, driver_clear},
    {Py_tp_dealloc, driver_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.InlineDriver", sizeof(InlineDriver), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots,
};

int inline_init(PyObject *module)
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
    driver_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return !driver_type || PyModule_AddObjectRef(module, "InlineDriver", (PyObject *)driver_type) ? -1 : 0;
}
