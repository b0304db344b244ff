/* The Shortcut of ASGI over HTTP/1: from a usual request (asgi_scope.c) by the task of its application (asgi_task.c) to its
 * answer (asgi_response.c). Twins: Requests in app/asgi/requests.py, Cycle in app/asgi/cycle.py.
 *
 * The first step of the application is made in the turn in which its request was read. An application that has not answered
 * then is suspended with its connection, which is watched by nobody but the loop: when something comes there, or the
 * application does what is not usual, a Cycle of Python goes on, with the session. */

#include "asgi.h"
#include <stddef.h>
#include <structmember.h>

enum { CLIENT_LEFT_STATUS = 499 }; /* as in app/asgi/cycle.py */

PyTypeObject *asgi_cycle_type;
static PyTypeObject *shortcut_of_asgi;
static PyObject *n_grow, *n_leave, *n_account, *n_ticket, *t_accept;

/* ---- the twin ------------------------------------------------------------------------------- */

PyObject *asgi_twin(AsgiCycle *self)
{
    if (self->twin)
        return self->twin;
    if (in_fork)
        self->corked = 0;
    else if (!self->gone && !call_grown(&self->base.call))
        return NULL;
    if (self->corked && asgi_uncork(self) < 0)
        return NULL;
    asgi_delist(self);
    asgi_uncounted(self);
    self->twin = PyObject_CallMethodObjArgs(self->shortcut->serving, n_grow, (PyObject *)self, self->base.call.peer, NULL);
    Py_CLEAR(self->unsent); /* it has its own; the rest of this request's time may be long */
    PyMem_Free(self->cork);
    self->cork = NULL;
    self->corked = self->room = 0;
    return self->twin && asgi_release(self) ? NULL : self->twin;
}

int asgi_over(AsgiCycle *self)
{
    Call *call = &self->base.call;
    if (asgi_release(self))
        return -1;
    if (!call->shortcut)
        return 0;
    if (call_answered(call, NULL) < 0)
        return -1;
    PyObject *lane = lane_of(self->shortcut->http.base.recorder);
    if (lane) /* the step goes on, and may hold the loop */
        resume_request(lane, 0);
    return 0;
}

/* ---- the application's task ------------------------------------------------------------------ */

static PyObject *call_receive(PyObject *self, PyObject *unused)
{
    (void)unused;
    return asgi_awaiting((AsgiCycle *)self, NULL);
}

static PyObject *call_send(PyObject *self, PyObject *message)
{
    return asgi_awaiting((AsgiCycle *)self, message);
}

/* Name the context, which is current. Returns 0 with an exception. */
static int named(const AsgiCycle *self)
{
    PyObject *names = self->shortcut->names;
    PyObject *done = names == Py_None ? Py_NewRef(names) : PyContextVar_Set(names, self->base.call.line);
    Py_XDECREF(done);
    return done != NULL;
}

static PyObject *cycle_begin(PyObject *owner)
{
    static PyMethodDef receives = {"receive", call_receive, METH_NOARGS, "receive of ASGI"},
                       sends = {"send", call_send, METH_O, "send of ASGI"};
    AsgiCycle *self = (AsgiCycle *)owner;
    PyObject *scope = self->base.environ, *receive = PyCFunction_New(&receives, owner), *send = PyCFunction_New(&sends, owner);
    PyObject *awaitable = NULL;
    self->base.environ = NULL;
    self->stepping = 1;
    if (receive && send && named(self))
        awaitable = PyObject_CallFunctionObjArgs(self->shortcut->app, scope, receive, send, NULL);
    Py_XDECREF(scope);
    Py_XDECREF(receive);
    Py_XDECREF(send);
    return awaitable;
}

static int64_t cycle_ticket(PyObject *owner)
{
    AsgiCycle *self = (AsgiCycle *)owner;
    self->stepping = 1;
    if (!self->twin)
        return self->base.ticket;
    PyObject *number = PyObject_GetAttr(self->twin, n_ticket);
    int64_t ticket = number ? PyLong_AsLongLong(number) : 0;
    Py_XDECREF(number);
    if (PyErr_Occurred())
        PyErr_WriteUnraisable(owner);
    return ticket;
}

static void cycle_stepped(PyObject *owner)
{
    AsgiCycle *self = (AsgiCycle *)owner;
    self->stepping = 0;
    int left = self->corked ? asgi_uncork(self) : 0;
    if (left < 0 || (left && !asgi_twin(self)))
        PyErr_WriteUnraisable(owner);
}

/* Whatever the application has raised ends its request, and no more: see Duplex.ended. */
static void cycle_ended(PyObject *owner, PyObject *failure)
{
    AsgiCycle *self = (AsgiCycle *)owner;
    PyObject *done = NULL;
    self->stepping = 0;
    if (self->over && !self->twin) {
        if (!failure)
            return;
        done = PyObject_CallMethodObjArgs(self->shortcut->serving, n_failed, self->base.call.line, failure, NULL);
    } else {
        PyObject *twin = asgi_twin(self);
        if (twin)
            done = PyObject_CallMethodObjArgs(twin, n_ended, failure ? failure : Py_None, NULL);
    }
    if (!done)
        PyErr_WriteUnraisable(owner);
    Py_XDECREF(done);
}

static const TaskOwner owner_functions = {
    .begin = cycle_begin, .ticket = cycle_ticket, .stepped = cycle_stepped, .ended = cycle_ended,
};

/* ---- as a Shortcut -------------------------------------------------------------------------- */

static Outcome asgi_call(Shortcut *shortcut, Link *link, Call *call, PyObject **answer)
{
    AsgiShortcut *asgi = (AsgiShortcut *)shortcut;
    AsgiCycle *self = (AsgiCycle *)call;
    call->peer = Py_NewRef((PyObject *)link);
    if (asgi->http.server_timing && (self->base.waited = http_waited(call->peer)) < 0 && PyErr_Occurred())
        return FAILED;
    if (asgi->limit)
        call->began = now_ns(); /* whatever the recorder is */
    if (http_begin(&asgi->http, &self->base) || asgi_counted(self))
        return FAILED;
    if (task_start(asgi->tasks, &owner_functions, (PyObject *)self, call->line) == TASK_FAILED) {
        PyObject *failure = taken_exception(); /* of a task factory, it may be */
        cycle_ended((PyObject *)self, failure);
        Py_DECREF(failure);
    }
    if (self->twin)
        return UNFINISHED;
    if (self->over) {
        *answer = self->unsent;
        self->unsent = NULL;
        return ANSWERED;
    }
    if (shortcut->draining) /* then all that goes on has a session (app/asgi/drain.py) */
        return UNFINISHED;
    return asgi_enlist(self) ? FAILED : SUSPENDED;
}

static int64_t asgi_end(Shortcut *shortcut, Call *call)
{
    AsgiCycle *self = (AsgiCycle *)call;
    asgi_delist(self);
    if (self->over) /* else the application has not returned */
        asgi_uncounted(self);
    int64_t took = http_end(shortcut, call);
    self->base.ticket = 0;
    return took;
}

static int asgi_gone(Shortcut *shortcut, Link *link, Call *call)
{
    AsgiCycle *self = (AsgiCycle *)call;
    (void)link;
    self->gone = 1;
    self->corked = 0;
    if (asgi_release(self))
        return -1;
    if (!self->twin) {
        if (!call->code)
            call->code = CLIENT_LEFT_STATUS;
        return asgi_end(shortcut, call) < 0 ? -1 : 0;
    }
    PyObject *left = PyObject_CallMethodObjArgs(self->twin, n_leave, NULL);
    PyObject *counted = left ? PyObject_CallMethodObjArgs(self->twin, n_account, NULL) : NULL;
    Py_XDECREF(left);
    Py_XDECREF(counted);
    return counted ? 0 : -1;
}

static const ShortcutFunctions functions = {.read = asgi_read, .call = asgi_call, .end = asgi_end, .gone = asgi_gone};

static int asgi_traverse(AsgiShortcut *self, visitproc visit, void *arg)
{
    Py_VISIT(self->app);
    Py_VISIT(self->serving);
    Py_VISIT(self->names);
    Py_VISIT(self->reasons);
    Py_VISIT(self->counted);
    Py_VISIT(self->state);
    Py_VISIT(self->tasks);
    return http_traverse(&self->http, visit, arg);
}

static int asgi_clear(AsgiShortcut *self)
{
    Py_CLEAR(self->app);
    Py_CLEAR(self->serving);
    Py_CLEAR(self->names);
    Py_CLEAR(self->reasons);
    Py_CLEAR(self->counted);
    Py_CLEAR(self->state);
    Py_CLEAR(self->tasks);
    return http_clear(&self->http);
}

static void asgi_dealloc(AsgiShortcut *self)
{
    PyObject_GC_UnTrack(self);
    asgi_clear(self);
    Py_CLEAR(self->prefix);
    Py_CLEAR(self->raw_prefix);
    http_release(&self->http);
}

/* AsgiShortcut(app, serving, recorder, access, lines, date_at, keep_alive, server, server_timing, limits, names, reasons, prefix,
 * raw_prefix, most, counted, seconds): see WsgiShortcut (wsgi_exchange.c) and asgi.h; the template of `limits` is a scope. `most`
 * 0: any number, and no request is counted. `seconds` 0: a request may take any time. Its `tasks` and `state` are set later. */
static PyObject *asgi_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"app", "serving", "recorder", "access", "lines", "date_at", "keep_alive", "server", "server_timing",
                            "limits", "names", "reasons", "prefix", "raw_prefix", "most", "counted", "seconds", NULL};
    PyObject *app, *serving, *recorder, *access, *lines, *date_at, *server, *limits, *naming, *reasons, *prefix, *raw_prefix,
        *counted;
    int keep_alive, server_timing;
    Py_ssize_t most;
    double seconds;
    if (!by_name(args, keywords, "OOOOOOpSpO!OO!USnO!d", names, &app, &serving, &recorder, &access, &lines, &date_at, &keep_alive,
                 &server, &server_timing, limits_type, &limits, &naming, &PyDict_Type, &reasons, &prefix, &raw_prefix, &most,
                 &PySet_Type, &counted, &seconds))
        return NULL;
    AsgiShortcut *self = (AsgiShortcut *)allocate(type);
    if (self) {
        self->http.base.functions = &functions;
        self->http.base.recorder = Py_NewRef(recorder);
        self->http.access = Py_NewRef(access);
        self->http.lines = Py_NewRef(lines);
        self->http.date_at = Py_NewRef(date_at);
        self->http.server = Py_NewRef(server);
        self->http.keep_alive = keep_alive;
        self->http.server_timing = server_timing;
        self->http.limits = (HeadLimits *)Py_NewRef(limits);
        self->app = Py_NewRef(app);
        self->serving = Py_NewRef(serving);
        self->names = Py_NewRef(naming);
        self->reasons = Py_NewRef(reasons);
        self->prefix = Py_NewRef(prefix);
        self->raw_prefix = Py_NewRef(raw_prefix);
        self->most = most;
        self->counted = most ? Py_NewRef(counted) : NULL;
        self->limit = (int64_t)(seconds * 1e9);
        self->alarm = INT64_MAX;
        self->state = PyDict_New();
        if (!self->state) {
            Py_DECREF((PyObject *)self);
            return NULL;
        }
    }
    return (PyObject *)self;
}

static PyMethodDef asgi_methods[] = {
    {"suspended", (PyCFunction)asgi_suspended, METH_NOARGS, NULL},
    {"overdue", (PyCFunction)asgi_overdue, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef asgi_members[] = {
    {"by_driver", T_BOOL, offsetof(AsgiShortcut, by_driver), 0, NULL},
    {"state", T_OBJECT_EX, offsetof(AsgiShortcut, state), 0, NULL},
    {"tasks", T_OBJECT_EX, offsetof(AsgiShortcut, tasks), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot asgi_slots[] = {
    {Py_tp_new, asgi_new},
    {Py_tp_traverse, asgi_traverse},
    {Py_tp_clear, asgi_clear},
    {Py_tp_dealloc, asgi_dealloc},
    {Py_tp_methods, asgi_methods},
    {Py_tp_members, asgi_members},
    {0, NULL},
};

static PyType_Spec asgi_spec = {
    "forkd._native.AsgiShortcut", sizeof(AsgiShortcut), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, asgi_slots,
};

/* ---- a request, as its twin has it ------------------------------------------------------------ */

static int cycle_traverse(AsgiCycle *self, visitproc visit, void *arg)
{
    Py_VISIT((PyObject *)self->shortcut);
    Py_VISIT(self->twin);
    Py_VISIT(self->waiters);
    Py_VISIT(self->base.environ);
    return call_traverse(&self->base.call, visit, arg);
}

static int cycle_clear(AsgiCycle *self)
{
    asgi_delist(self);
    PyObject *shortcut = (PyObject *)self->shortcut;
    self->shortcut = NULL;
    Py_XDECREF(shortcut);
    Py_CLEAR(self->twin);
    Py_CLEAR(self->waiters);
    Py_CLEAR(self->base.environ);
    return call_clear(&self->base.call);
}

static void cycle_dealloc(AsgiCycle *self)
{
    PyObject_GC_UnTrack(self);
    cycle_clear(self);
    Py_CLEAR(self->body);
    Py_CLEAR(self->accept);
    Py_CLEAR(self->media);
    Py_CLEAR(self->unsent);
    PyMem_Free(self->cork);
    request_release(&self->base);
}

/* path -> as Request.path of http/guard.py, of its line. */
static PyObject *cycle_path(AsgiCycle *self, void *closure)
{
    char *line;
    Py_ssize_t size;
    (void)closure;
    if (PyBytes_AsStringAndSize(self->base.call.line, &line, &size))
        return NULL;
    const char *at = memchr(line, ' ', size), *end = at ? skip(at + 1, line + size, PATH) : line;
    return at ? PyBytes_FromStringAndSize(at + 1, end - at - 1) : PyBytes_FromStringAndSize("", 0);
}

/* headers -> those by which a retiring worker tells which streams it may end (app/asgi/streams.py). */
static PyObject *cycle_headers(AsgiCycle *self, void *closure)
{
    (void)closure;
    return self->accept ? Py_BuildValue("[(OO)]", t_accept, self->accept) : PyList_New(0);
}

/* suspended -> whether its connection waits for its answer, without a session. */
static PyObject *cycle_suspended(AsgiCycle *self, void *closure)
{
    (void)closure;
    return PyBool_FromLong(self->base.call.shortcut != NULL);
}

/* grown() -> see asgi_twin. */
static PyObject *cycle_grown(AsgiCycle *self, PyObject *unused)
{
    (void)unused;
    return Py_XNewRef(asgi_twin(self));
}

/* remaining -> see asgi_remaining. */
static PyObject *cycle_remaining(AsgiCycle *self, void *closure)
{
    (void)closure;
    return asgi_remaining(self);
}

static PyMethodDef cycle_methods[] = {
    {"grown", (PyCFunction)cycle_grown, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef cycle_getters[] = {
    {"path", (getter)cycle_path, NULL, NULL, NULL},
    {"headers", (getter)cycle_headers, NULL, NULL, NULL},
    {"remaining", (getter)cycle_remaining, NULL, NULL, NULL},
    {"suspended", (getter)cycle_suspended, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define MEMBER(name, type) {#name, type, offsetof(AsgiCycle, name), READONLY, NULL}

static PyMemberDef cycle_members[] = {
    MEMBER(body, T_OBJECT), MEMBER(media, T_OBJECT), MEMBER(unsent, T_OBJECT),
    MEMBER(head_sent, T_BOOL), MEMBER(over, T_BOOL),
    {"left", T_BOOL, offsetof(AsgiCycle, gone), READONLY, NULL},
    {"block", T_OBJECT, offsetof(AsgiCycle, base.block), READONLY, NULL}, {NULL, 0, 0, 0, NULL},
};

static PyType_Slot cycle_slots[] = {
    {Py_tp_traverse, cycle_traverse},
    {Py_tp_clear, cycle_clear},
    {Py_tp_dealloc, cycle_dealloc},
    {Py_tp_methods, cycle_methods},
    {Py_tp_members, cycle_members},
    {Py_tp_getset, cycle_getters},
    {0, NULL},
};

static PyType_Spec cycle_spec = {
    "forkd._native.AsgiCycle", sizeof(AsgiCycle), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, cycle_slots,
};

int asgi_init(PyObject *module)
{
    static const struct {
        PyObject **place;
        const char *text;
    } names[] = {
        {&n_grow, "grow"}, {&n_leave, "leave"}, {&n_account, "account"}, {&n_ticket, "ticket"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!(*names[i].place = PyUnicode_InternFromString(names[i].text)))
            return -1;
    asgi_cycle_type = (PyTypeObject *)PyType_FromSpecWithBases(&cycle_spec, (PyObject *)request_type);
    shortcut_of_asgi = (PyTypeObject *)PyType_FromSpecWithBases(&asgi_spec, (PyObject *)shortcut_type);
    return !asgi_cycle_type || !shortcut_of_asgi || !(t_accept = PyBytes_FromStringAndSize("accept", 6)) ||
                   asgi_template_init() || asgi_scope_init() || asgi_limits_init() || asgi_response_init() ||
                   asgi_waiter_init() || asgi_messages_init() ||
                   PyModule_AddObjectRef(module, "AsgiShortcut", (PyObject *)shortcut_of_asgi)
               ? -1
               : 0;
}
