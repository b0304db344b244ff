/* Connections that were just accepted, as bare Links (engine_intake.c): their first request is served without an object of
 * Python for each (engine/native_driver.py; twins: `take` in engine/loop.py, `serve` in engine/inline.py). A connection
 * that goes on after that gets a Connection and a session, which continue from there. */

#define _GNU_SOURCE
#include "engine_inline.h"
#include <sys/epoll.h>
#include <sys/socket.h>

static PyObject *n_crowded;

enum {
    AT_ONCE = 1000000,  /* ns */
    SLOW = 5000000,     /* ns: what takes longer ends a batch (engine/batch.py) */
    TOGETHER = MSG_MORE /* the answer waits for the FIN, which comes next: one segment, and one wake-up of the client */
};

/* The listener of a loop whose connections are all one-shot: up to `most` are accepted at once, while fewer than `room`
 * are silent; they wait in `epoll`, their sessions, if they ever have one, in the Await `opening` first, and their
 * `intake` makes Connections. */
typedef struct {
    PyObject_HEAD
    Source *source;
    long most, room;
    int epoll;
    PyObject *opening, *intake;
} OneShot;

static PyTypeObject *one_shot_type;

/* ---- served once ---------------------------------------------------------------------------- */

/* Make the Connection of a bare Link, and call the loop's method `name` with it and the value. Returns 0, or -1 with
 * an exception. Takes the reference to the value, which is NULL only with an exception. */
static int grow(InlineDriver *self, Link *link, PyObject *name, PyObject *value)
{
    PyObject *conn = value ? link_grown(link) : NULL;
    int failed = conn ? loop_tell(self->loop, name, (Link *)conn, value) : -1;
    Py_XDECREF(conn);
    Py_XDECREF(value);
    return failed;
}

/* Its answer is sent, which was the last. Returns 0, or -1 with an exception. */
static int end_link(InlineDriver *self, Link *link)
{
    if (!link_has_input(link)) {
        link_close(link);
        return 0;
    }
    PyObject *conn = link_grown(link); /* it sends more: see engine/connections.py */
    int failed = conn ? loop_tell(self->loop, n_ended, (Link *)conn, NULL) : -1;
    Py_XDECREF(conn);
    return failed;
}

/* Wait in `epoll`, for once: then nothing has to be said there when it is closed. Returns 0, or -1 with an exception. */
static int wait_silent(InlineDriver *self, Link *link, int epoll)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.fd = link->fd};
    int again = link->epoll >= 0;
    PyObject *fd = PyLong_FromLong(link->fd);
    if (!fd)
        return -1;
    if (epoll_ctl(epoll, again ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, link->fd, &event)) {
        Py_DECREF(fd);
        return grow(self, link, n_rests, Py_NewRef(link->op));
    }
    link->epoll = epoll;
    int failed = PyDict_SetItem(self->silent, fd, (PyObject *)link);
    Py_DECREF(fd);
    return failed;
}

int link_go_on(InlineDriver *self, PyObject *fd, Link *link)
{
    if (PyDict_DelItem(self->silent, fd))
        return -1;
    int64_t began = now_ns();
    if (link_begin(self, link, link->epoll))
        return -1;
    int64_t took = now_ns() - began;
    if (took < SLOW)
        return 0;
    PyObject *done = PyObject_CallMethod(self->driver, "served", "id", 0, (double)took / 1e9);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

int link_later(InlineDriver *self, Link *link, int epoll)
{
    return epoll >= 0 ? wait_silent(self, link, epoll) : grow(self, link, n_rests, Py_NewRef(link->op));
}

/* The session of a link, which gets one now, goes on with a call, or waits for it: `name`. Returns 0, or -1 with an
 * exception. */
static int grow_with(InlineDriver *self, PyObject *name, Call *call, PyObject *argument)
{
    Link *conn = call_grown(call);
    if (!conn)
        return -1;
    Py_INCREF((PyObject *)conn);
    int failed = loop_tell(self->loop, name, conn, argument);
    Py_DECREF((PyObject *)conn);
    return failed;
}

/* The application has answered: send that. Returns 0, or -1 with an exception. */
static int send_first(InlineDriver *self, Shortcut *shortcut, Link *link, Call *call, PyObject *answer, PyObject *then)
{
    PyObject *left = send_now(link, answer, call->close ? TOGETHER : 0);
    if (left != Py_None) {
        call->answer = left;
        return left ? grow_with(self, n_feed, call, (PyObject *)call) : -1;
    }
    Py_DECREF(left);
    if (shortcut->functions->end(shortcut, call) < 0)
        return -1;
    return call->close ? end_link(self, link) : grow(self, link, n_rests, Py_NewRef(then));
}

/* Call the application, and follow what that comes to. Returns 0, or -1 with an exception. */
static int run_first(InlineDriver *self, Shortcut *shortcut, Link *link, Call *call, PyObject *then)
{
    PyObject *answer = NULL;
    int failed = -1;
    switch (shortcut->functions->call(shortcut, link, call, &answer)) {
    case ANSWERED:
        failed = send_first(self, shortcut, link, call, answer, then);
        break;
    case SUSPENDED:
        if (!call_grown(call))
            break;
        call_suspend(call, shortcut, self->loop, then, 1);
        failed = grow_with(self, n_suspended, call, NULL);
        break;
    case UNFINISHED: /* maybe before it was called */
        failed = call->peer ? grow_with(self, n_feed, call, (PyObject *)call)
                            : grow(self, link, n_feed, Py_NewRef((PyObject *)call));
        break;
    default:
        break;
    }
    Py_XDECREF(answer);
    return failed;
}

static int begin(InlineDriver *self, Link *link, int epoll)
{
    int rests = resting_known(&self->resting, link), failed = -1;
    if (rests < 0)
        return -1;
    Shortcut *shortcut = rests ? (Shortcut *)Py_NewRef((PyObject *)self->resting.shortcut) : NULL;
    if (shortcut && !link->recorder)
        link->recorder = Py_XNewRef(shortcut->recorder);
    Py_ssize_t size = link_receive(link, self->buffer, CHUNK);
    if (size <= 0) {
        Py_XDECREF((PyObject *)shortcut);
        if (size == LINK_EMPTY)
            return link_later(self, link, epoll);
        link_close(link);
        return 0;
    }
    PyObject *then = Py_NewRef(self->resting.then);
    Call *call = NULL;
    Outcome outcome = shortcut ? shortcut->functions->read(shortcut, self->buffer, size, link, &call) : NOT_USUAL;
    if (outcome == CALL)
        failed = run_first(self, shortcut, link, call, then);
    else if (outcome == NOT_USUAL)
        failed = grow(self, link, n_feed, PyBytes_FromStringAndSize(self->buffer, size));
    Py_XDECREF((PyObject *)call);
    Py_XDECREF((PyObject *)shortcut);
    Py_DECREF(then);
    return failed;
}

int link_begin(InlineDriver *self, Link *link, int epoll)
{
    Link *outer = self->begun;
    self->begun = link;
    int failed = begin(self, link, epoll);
    self->begun = outer;
    return failed;
}

static int begin_all(InlineDriver *self, PyObject *links, PyObject *opening, PyObject *intake, int epoll)
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

int links_begin(InlineDriver *self, PyObject *links, PyObject *opening, PyObject *intake, int epoll)
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

PyObject *links_held(InlineDriver *self, PyObject *unused)
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

/* ---- a leader whose connections are all one-shot ----------------------------------------------- */

/* Accept and begin with up to `most` connections. Returns 1; 0, when there is something for the loop to see; or -1 with
 * an exception. */
static int accept_some(InlineDriver *self, const OneShot *one_shot, long most)
{
    int64_t began = now_ns();
    PyObject *links = accept_links(one_shot->source, most), *done = NULL;
    Py_ssize_t count = links ? PyList_Size(links) : 0;
    int ours = 1;
    self->taken += count;
    if (!links && PyErr_ExceptionMatches(PyExc_OSError)) {
        PyErr_Clear(); /* the loop will see it, too */
        ours = 0;
    } else if (links && !count) {
        ours = 0; /* no connection was there: the loop counts how often */
    } else if (links && count >= one_shot->most) {
        done = PyObject_CallMethodObjArgs(self->driver, n_crowded, one_shot->intake, links, NULL);
    } else if (links && !links_begin(self, links, one_shot->opening, one_shot->intake, one_shot->epoll)) {
        int64_t took = now_ns() - began;
        if (took < AT_ONCE && !PyDict_Size(self->connections)) {
            self->accepted += count;
            done = Py_NewRef(Py_None);
        } else {
            self->taken = SHARE_OVER; /* so all rounds of a turn take less than its share of time */
            done = PyObject_CallMethod(self->driver, "served", "nd", count, (double)took / 1e9);
        }
    }
    Py_XDECREF(links);
    Py_XDECREF(done);
    return done || !ours ? ours : -1;
}

int links_accepted(InlineDriver *self, PyObject *fd)
{
    OneShot *one_shot = (OneShot *)self->one_shot;
    if (!one_shot || Py_TYPE((PyObject *)one_shot) != one_shot_type || PyDict_Size(self->connections))
        return 0;
    long number = PyLong_AsLong(fd);
    if (number != one_shot->source->fd || PyDict_Size(self->silent) >= one_shot->room)
        return number == -1 && PyErr_Occurred() ? -1 : 0;
    /* What is left of this turn's share. Only after a whole batch may more be waiting: a part of one ends the turn. */
    long most = MOST_ACCEPTS - self->taken;
    if (most <= 0)
        return 1;
    Py_INCREF((PyObject *)one_shot); /* the loop may set another meanwhile */
    int accepted = accept_some(self, one_shot, most < one_shot->most ? most : one_shot->most);
    Py_DECREF((PyObject *)one_shot);
    return accepted;
}

static int one_shot_traverse(OneShot *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT((PyObject *)self->source);
    Py_VISIT(self->opening);
    Py_VISIT(self->intake);
    return 0;
}

static int one_shot_clear(OneShot *self)
{
    Py_CLEAR(self->source);
    Py_CLEAR(self->opening);
    Py_CLEAR(self->intake);
    return 0;
}

static void one_shot_dealloc(OneShot *self)
{
    PyObject_GC_UnTrack(self);
    one_shot_clear(self);
    release((PyObject *)self);
}

/* OneShot(source, most, room, epoll, opening, intake): see there. */
static PyObject *one_shot_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"source", "most", "room", "epoll", "opening", "intake", NULL};
    PyObject *source, *opening, *intake;
    long most, room;
    int epoll;
    if (!by_name(args, keywords, "O!lliOO", names, source_type, &source, &most, &room, &epoll, &opening, &intake))
        return NULL;
    OneShot *self = (OneShot *)allocate(type);
    if (self) {
        self->source = (Source *)Py_NewRef(source);
        self->most = most;
        self->room = room;
        self->epoll = epoll;
        self->opening = Py_NewRef(opening);
        self->intake = Py_NewRef(intake);
    }
    return (PyObject *)self;
}

static PyType_Slot slots[] = {
    {Py_tp_new, one_shot_new},
    {Py_tp_traverse, one_shot_traverse},
    {Py_tp_clear, one_shot_clear},
    {Py_tp_dealloc, one_shot_dealloc},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.OneShot", sizeof(OneShot), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots,
};

int accept_init(PyObject *module)
{
    one_shot_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return !one_shot_type || !(n_crowded = PyUnicode_InternFromString("crowded")) ||
                   PyModule_AddObjectRef(module, "OneShot", (PyObject *)one_shot_type)
               ? -1
               : 0;
}
