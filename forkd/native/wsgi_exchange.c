/* The Shortcut of WSGI: from a usual request (wsgi_start_response.c) by the call of its application to the answer
 * (http_response.c) as bytes.
 *
 * Usual is what begins with start_response as wsgi_start_response.c has it, and returns a list of one block. The session
 * (app/wsgi/exchange.py) goes on with anything else from where it stands. */

#include "native.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <structmember.h>
#include <sys/socket.h>

static PyTypeObject *wsgi_shortcut_type;
static PyObject *n_client, *n_note, *k_peer, *k_input, *k_early_hints, *dash, *no_id, *bytes_io;

typedef struct {
    Shortcut base;
    PyObject *app, *access, *lines, *date_at, *server;
    PyObject *respond; /* see wsgi_start_response.c */
    HeadLimits *limits;
    int keep_alive, early_hints, server_timing;
    Py_ssize_t most;
    time_t second; /* whose `date` is known */
    PyObject *date;
} WsgiShortcut;

static int wsgi_traverse(WsgiShortcut *self, visitproc visit, void *arg)
{
    Py_VISIT(self->app);
    Py_VISIT(self->respond);
    Py_VISIT(self->access);
    Py_VISIT(self->lines);
    Py_VISIT(self->date_at);
    Py_VISIT((PyObject *)self->limits);
    return shortcut_traverse(&self->base, visit, arg);
}

static int wsgi_clear(WsgiShortcut *self)
{
    Py_CLEAR(self->app);
    Py_CLEAR(self->respond);
    Py_CLEAR(self->access);
    Py_CLEAR(self->lines);
    Py_CLEAR(self->date_at);
    Py_CLEAR(self->limits);
    return shortcut_clear(&self->base);
}

static void wsgi_dealloc(WsgiShortcut *self)
{
    PyObject_GC_UnTrack(self);
    wsgi_clear(self);
    Py_CLEAR(self->date);
    Py_CLEAR(self->server);
    release((PyObject *)self);
}

static const ShortcutFunctions functions, uwsgi_functions;

/* WsgiShortcut(app, respond, recorder, access, lines, date_at, keep_alive, server, most, limits, early_hints, server_timing,
 * uwsgi): `respond(request, peer, block)` makes a Response, `keep_alive` False ends the connection, `recorder` and
 * `access` (or None) record each request, `access` by way of its `lines` where these are native, `date_at(seconds)` is the text of Date, `server` the line of
 * Server or nothing, a body of more than `most` bytes is not copied behind its head, `limits` are HeadLimits, and
 * `early_hints`: each environ has wsgi.early_hints; `server_timing`: answers say how long their requests have waited;
 * `uwsgi`: calls come as packets of that protocol. */
static PyObject *wsgi_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"app", "respond", "recorder", "access", "lines", "date_at", "keep_alive", "server", "most", "limits",
                            "early_hints", "server_timing", "uwsgi", NULL};
    PyObject *app, *respond, *recorder, *access, *lines, *date_at, *server, *limits;
    int keep_alive, early_hints, server_timing, uwsgi = 0;
    Py_ssize_t most;
    if (!by_name(args, keywords, "OOOOOOpSnO!pp|p", names, &app, &respond, &recorder, &access, &lines, &date_at, &keep_alive,
                 &server, &most, limits_type, &limits, &early_hints, &server_timing, &uwsgi))
        return NULL;
    WsgiShortcut *self = (WsgiShortcut *)allocate(type);
    if (self) {
        self->base.functions = uwsgi ? &uwsgi_functions : &functions;
        self->base.recorder = Py_NewRef(recorder);
        self->app = Py_NewRef(app);
        self->respond = Py_NewRef(respond);
        self->access = Py_NewRef(access);
        self->lines = Py_NewRef(lines);
        self->date_at = Py_NewRef(date_at);
        self->server = Py_NewRef(server);
        self->keep_alive = keep_alive;
        self->early_hints = early_hints;
        self->server_timing = server_timing;
        self->most = most;
        self->limits = (HeadLimits *)Py_NewRef(limits);
    }
    return (PyObject *)self;
}

/* The address of a request's peer. New reference, or NULL with an exception. */
static PyObject *peer_of(const UsualRequest *request)
{
    PyObject *peer = request->call.peer;
    if (PyObject_TypeCheck(peer, link_type))
        return Py_XNewRef(((Link *)peer)->client);
    return PyObject_GetAttr(peer, n_client);
}

/* The client of a request, and the descriptor of its peer, or -1. New reference, or NULL with an exception. */
static PyObject *client_of(const UsualRequest *request, int *fd)
{
    PyObject *peer = request->call.peer;
    *fd = PyObject_TypeCheck(peer, link_type) ? ((Link *)peer)->fd : -1;
    return request->client ? Py_NewRef(request->client) : peer_of(request);
}

/* Where a request's connection came from, as fronts.origin_of has it. New reference, or NULL with an exception. */
static PyObject *origin_of(const UsualRequest *request)
{
    PyObject *peer = request->call.peer, *note = PyObject_GetAttr(peer, n_note);
    PyObject *proxy = note && Py_TYPE(note) == ends_type ? ((Ends *)note)->proxy : NULL;
    PyObject *address = !note ? NULL : proxy ? Py_XNewRef(PyTuple_GetItem(PyDict_GetItem(proxy, k_peer), 0)) : peer_of(request);
    Py_XDECREF(note);
    return address;
}

/* Record in the recorder that the request begins. Returns 0, or -1 with an exception. */
static int begin(WsgiShortcut *self, UsualRequest *request)
{
    int fd;
    PyObject *lane = lane_of(self->base.recorder), *ticket, *client = client_of(request, &fd);
    if (client && lane) {
        request->ticket = begin_request(lane, request->call.line, client, fd, &request->call.began);
        if (request->id && request->ticket)
            identify_request(lane, request->ticket, request->id);
    } else if (client) {
        ticket = PyObject_CallMethod(self->base.recorder, "begin", "OOi", request->call.line, client, fd);
        request->ticket = ticket ? PyLong_AsLongLong(ticket) : 0;
        if (ticket && request->id) {
            PyObject *done = PyObject_CallMethod(self->base.recorder, "identify", "OO", ticket, request->id);
            if (!done)
                request->ticket = 0;
            Py_XDECREF(done);
        }
        Py_XDECREF(ticket);
    }
    Py_XDECREF(client);
    return request->ticket ? 0 : -1;
}

/* The application has given control back for good. Returns 0, or -1 with an exception. */
static int lay_down(WsgiShortcut *self)
{
    PyObject *lane = lane_of(self->base.recorder), *done;
    if (lane) {
        pause_request(lane);
        return 0;
    }
    done = PyObject_CallMethod(self->base.recorder, "pause", NULL);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* Borrowed; the text of the present second. */
static PyObject *date_of(WsgiShortcut *self)
{
    time_t second = time(NULL);
    if (second != self->second || !self->date) {
        PyObject *number = PyLong_FromLongLong(second), *date;
        if (!number)
            return NULL;
        date = PyObject_CallFunctionObjArgs(self->date_at, number, NULL);
        Py_DECREF(number);
        if (!date)
            return NULL;
        Py_XDECREF(self->date);
        self->date = date;
        self->second = second;
    }
    return self->date;
}

/* The line of Server-Timing, for PyMem_Free; NULL: there is no memory. */
static char *timing_of(const UsualRequest *request)
{
    enum { MOST_TIMING = 60 };
    char *number = PyOS_double_to_string(request->waited * 1e3, 'f', 1, 0, NULL); /* not as the locale has it */
    char *line = number ? PyMem_Malloc(MOST_TIMING) : NULL;
    if (line)
        PyOS_snprintf(line, MOST_TIMING, "Server-Timing: queue;dur=%s\r\n", number);
    PyMem_Free(number);
    return line;
}

/* The answer that `result` makes with what start_response was called with; None when that is not usual. */
static PyObject *answer_of(WsgiShortcut *self, UsualRequest *request, PyObject *result)
{
    PyObject *body, *date, *answer = NULL;
    if (request->response || !request->block || request->is_head || !PyList_CheckExact(result) ||
        PyList_Size(result) != 1)
        return Py_NewRef(Py_None);
    body = PyList_GetItem(result, 0);
    if (!PyBytes_CheckExact(body))
        return Py_NewRef(Py_None);
    Py_INCREF(body); /* date_of may call Python, and the list may be shared */
    request->call.close = !self->keep_alive || !request->keep_alive || self->base.draining;
    if ((date = date_of(self))) {
        char *more = self->server_timing ? timing_of(request) : NULL;
        answer = self->server_timing && !more ? PyErr_NoMemory()
                                              : usual_answer(request->block, date, self->server, request->id, more, body,
                                                             request->call.close, self->most);
        PyMem_Free(more);
    }
    request->call.sent = PyBytes_Size(body);
    Py_DECREF(body);
    return answer;
}

/* Seconds that a call has waited for; -1 with an exception. The twin is Connection.waited (engine/connection.py). */
static double waited(PyObject *peer)
{
    if (PyObject_TypeCheck(peer, link_type)) {
        struct tcp_info info = {0};
        socklen_t size = sizeof info;
        if (!getsockopt(((Link *)peer)->fd, IPPROTO_TCP, TCP_INFO, &info, &size))
            return info.tcpi_last_data_recv / 1e3;
        if (((Link *)peer)->bare) /* a unix socket does not say, and it was in no queue of ours */
            return 0;
    }
    PyObject *seconds = PyObject_CallMethod(peer, "waited", NULL);
    double found = seconds ? PyFloat_AsDouble(seconds) : -1;
    Py_XDECREF(seconds);
    return found;
}

/* Whether it has waited for too long: its session sheds it (session/shed.py). -1 with an exception. */
static int is_shed(const WsgiShortcut *self, UsualRequest *request, PyObject *peer)
{
    double seconds = waited(peer);
    request->call.began = now_ns();
    return PyErr_Occurred() ? -1 : seconds > self->base.sheds_after;
}

/* Returns 0, or -1 with an exception. */
static int put_early_hints(UsualRequest *request)
{
    PyObject *hints = early_hints_of(request);
    int failed = !hints || PyDict_SetItem(request->environ, k_early_hints, hints);
    Py_XDECREF(hints);
    return failed ? -1 : 0;
}

/* Call the application for `request`, which is new; `input` NULL: an empty body. Returns the whole answer, as
 * usual_answer does, or None when it is not usual: `request.outcome` knows what the application did, and
 * `request.response` goes on; or, where that was not called, the request has no ticket. */
static PyObject *call(WsgiShortcut *self, UsualRequest *request, PyObject *peer, PyObject *body)
{
    int shed = self->base.sheds_after > 0 ? is_shed(self, request, peer) : 0;
    if (shed)
        return shed < 0 ? NULL : Py_NewRef(Py_None);
    if (self->server_timing && (request->waited = waited(peer)) < 0 && PyErr_Occurred())
        return NULL;
    PyObject *input = body ? Py_NewRef(body) : PyObject_CallNoArgs(bytes_io), *start_response, *result, *answer;
    if (!input)
        return NULL;
    int failed = PyDict_SetItem(request->environ, k_input, input);
    Py_DECREF(input);
    if (failed || (self->early_hints && put_early_hints(request)) || !(start_response = start_response_of(request)))
        return NULL;
    request->respond = Py_NewRef(self->respond);
    request->call.peer = Py_NewRef(peer);
    result = begin(self, request) ? NULL
                                  : PyObject_CallFunctionObjArgs(self->app, request->environ, start_response, NULL);
    if (in_fork)
        leave_fork();
    Py_DECREF(start_response);
    if (self->early_hints)
        Py_CLEAR(request->environ); /* which has the request: no garbage is to wait for the collector */
    if (result) {
        answer = answer_of(self, request, result);
        if (answer != Py_None) {
            Py_DECREF(result);
            if (answer && lay_down(self))
                Py_CLEAR(answer);
            return answer;
        }
        Py_DECREF(answer);
        request->result = result;
    } else {
        request->failure = taken_exception();
    }
    return response_of(request) ? Py_NewRef(Py_None) : NULL;
}

/* run(request, peer, body) -> see `call`; `body` None: an empty one. */
static PyObject *wsgi_run(WsgiShortcut *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3 || Py_TYPE(args[0]) != request_type || ((Call *)args[0])->peer) {
        PyErr_SetString(PyExc_TypeError, "run takes a new request, its peer, and its body");
        return NULL;
    }
    return call(self, (UsualRequest *)args[0], args[1], args[2] == Py_None ? NULL : args[2]);
}

static inline Outcome read_with(Reads reads, Shortcut *self, const char *data, Py_ssize_t size, Link *link, Call **read)
{
    if (!link->note)
        return NOT_USUAL;
    Said said;
    PyObject *found = reads(data, size, ((WsgiShortcut *)self)->limits, link->note, &said);
    if (!found)
        return FAILED;
    if (found == Py_None || ((UsualRequest *)found)->end != size || ((UsualRequest *)found)->length) {
        Py_DECREF(found);
        return NOT_USUAL;
    }
    fronts_count(&said);
    *read = (Call *)found;
    return CALL;
}

static Outcome wsgi_read(Shortcut *self, const char *data, Py_ssize_t size, Link *link, Call **read)
{
    return read_with(head_of, self, data, size, link, read);
}

static Outcome uwsgi_read(Shortcut *self, const char *data, Py_ssize_t size, Link *link, Call **read)
{
    return read_with(packet_of, self, data, size, link, read);
}

static Outcome wsgi_call(Shortcut *self, Link *link, Call *request, PyObject **answer)
{
    PyObject *result = call((WsgiShortcut *)self, (UsualRequest *)request, (PyObject *)link, NULL);
    if (!result)
        return FAILED;
    if (result != Py_None) {
        *answer = result;
        return ANSWERED;
    }
    Py_DECREF(result);
    return UNFINISHED;
}

/* How long it has taken so far (ns), or -1 with an exception. */
static int64_t took_so_far(WsgiShortcut *self, const UsualRequest *request)
{
    PyObject *lane = lane_of(self->base.recorder), *took;
    if (lane)
        return request_took(lane, request->ticket);
    took = PyObject_CallMethod(self->base.recorder, "took", "L", (long long)request->ticket);
    int64_t ns = took ? PyLong_AsLongLong(took) : -1;
    Py_XDECREF(took);
    return ns;
}

static int64_t wsgi_end(Shortcut *shortcut, Call *call)
{
    WsgiShortcut *self = (WsgiShortcut *)shortcut;
    UsualRequest *request = (UsualRequest *)call;
    PyObject *client, *done, *lane = lane_of(self->base.recorder);
    Line line = {NULL, 0, NULL, 0};
    int64_t ns = took_so_far(self, request);
    int fd;
    request->over = 1;
    if (ns < 0)
        return -1;
    if (self->access == Py_None) {
        if (lane) {
            end_request(lane, request->ticket, call->code, ns, &line);
            return ns;
        }
        done = PyObject_CallMethod(self->base.recorder, "end", "LlL", (long long)request->ticket, call->code, (long long)ns);
        Py_XDECREF(done);
        return done ? ns : -1;
    }
    if (!(client = client_of(request, &fd)))
        return -1;
    /* Of what was received, since the application may have changed its environ. */
    PyObject *referer = request->referer ? request->referer : dash, *agent = request->agent ? request->agent : dash;
    int made = lane && Py_TYPE(self->lines) == lines_type
                   ? make_line(self->lines, client, call->line, call->code, call->sent, referer, agent, ns, request->id, &line)
                   : 0;
    if (made > 0) {
        end_request(lane, request->ticket, call->code, ns, &line);
    } else if (!made) {
        PyObject *peer = origin_of(request);
        done = !peer ? NULL
                     : PyObject_CallMethod(self->access, "end", "OLOOlnOOLOO", self->base.recorder,
                                           (long long)request->ticket, client, call->line, call->code, call->sent, referer,
                                           agent, (long long)ns, request->id ? request->id : no_id, peer);
        Py_XDECREF(peer);
        Py_XDECREF(done);
        made = done ? 1 : -1;
    }
    Py_DECREF(client);
    return made < 0 ? -1 : ns;
}

static const ShortcutFunctions functions = {.read = wsgi_read, .call = wsgi_call, .end = wsgi_end};
static const ShortcutFunctions uwsgi_functions = {.read = uwsgi_read, .call = wsgi_call, .end = wsgi_end};

/* end(request): see ShortcutFunctions. */
static PyObject *end(WsgiShortcut *self, PyObject *request)
{
    if (Py_TYPE(request) != request_type || !((Call *)request)->peer) {
        PyErr_SetString(PyExc_TypeError, "end takes a request that was run");
        return NULL;
    }
    return wsgi_end(&self->base, (Call *)request) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef wsgi_methods[] = {
    {"run", (PyCFunction)(void (*)(void))wsgi_run, METH_FASTCALL, NULL},
    {"end", (PyCFunction)end, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot wsgi_slots[] = {
    {Py_tp_new, wsgi_new},
    {Py_tp_traverse, wsgi_traverse},
    {Py_tp_clear, wsgi_clear},
    {Py_tp_dealloc, wsgi_dealloc},
    {Py_tp_methods, wsgi_methods},
    {0, NULL},
};

static PyType_Spec wsgi_spec = {
    "forkd._native.WsgiShortcut", sizeof(WsgiShortcut), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, wsgi_slots,
};

int exchange_init(PyObject *module)
{
    PyObject *io = PyImport_ImportModule("io");
    wsgi_shortcut_type = (PyTypeObject *)PyType_FromSpecWithBases(&wsgi_spec, (PyObject *)shortcut_type);
    int failed = !wsgi_shortcut_type || !io || !(bytes_io = PyObject_GetAttrString(io, "BytesIO")) ||
                 !(n_client = PyUnicode_InternFromString("client")) || !(n_note = PyUnicode_InternFromString("note")) ||
                 !(k_peer = PyUnicode_InternFromString("peer")) ||
                 !(dash = PyUnicode_InternFromString("-")) || !(no_id = PyUnicode_InternFromString("")) ||
                 !(k_input = PyUnicode_InternFromString("wsgi.input")) ||
                 !(k_early_hints = PyUnicode_InternFromString("wsgi.early_hints")) ||
                 PyModule_AddObjectRef(module, "WsgiShortcut", (PyObject *)wsgi_shortcut_type);
    Py_XDECREF(io);
    return failed ? -1 : 0;
}
