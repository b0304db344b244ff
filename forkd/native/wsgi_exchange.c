/* The Shortcut of WSGI: from a usual request (wsgi_start_response.c) by the call of its application to the answer
 * (http_response.c) as bytes.
 *
 * Usual is what begins with start_response as wsgi_start_response.c has it, and returns a list of one block. The session
 * (app/wsgi/exchange.py) goes on with anything else from where it stands. */

#include "native.h"
#include <stddef.h>
#include <structmember.h>

static PyTypeObject *wsgi_shortcut_type;
static PyObject *k_input, *k_early_hints, *bytes_io;

typedef struct {
    HttpShortcut http;
    PyObject *app;
    PyObject *respond; /* see wsgi_start_response.c */
    int early_hints;
    Py_ssize_t most;
} WsgiShortcut;

static int wsgi_traverse(WsgiShortcut *self, visitproc visit, void *arg)
{
    Py_VISIT(self->app);
    Py_VISIT(self->respond);
    return http_traverse(&self->http, visit, arg);
}

static int wsgi_clear(WsgiShortcut *self)
{
    Py_CLEAR(self->app);
    Py_CLEAR(self->respond);
    return http_clear(&self->http);
}

static void wsgi_dealloc(WsgiShortcut *self)
{
    PyObject_GC_UnTrack(self);
    wsgi_clear(self);
    http_release(&self->http);
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
        self->http.base.functions = uwsgi ? &uwsgi_functions : &functions;
        self->http.base.recorder = Py_NewRef(recorder);
        self->app = Py_NewRef(app);
        self->respond = Py_NewRef(respond);
        self->http.access = Py_NewRef(access);
        self->http.lines = Py_NewRef(lines);
        self->http.date_at = Py_NewRef(date_at);
        self->http.server = Py_NewRef(server);
        self->http.keep_alive = keep_alive;
        self->early_hints = early_hints;
        self->http.server_timing = server_timing;
        self->most = most;
        self->http.limits = (HeadLimits *)Py_NewRef(limits);
    }
    return (PyObject *)self;
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
    Py_INCREF(body); /* http_date may call Python, and the list may be shared */
    request->call.close = !self->http.keep_alive || !request->keep_alive || self->http.base.draining;
    if ((date = http_date(&self->http))) {
        char timing[MOST_TIMING];
        const char *more = self->http.server_timing ? http_timing(request, timing) : NULL;
        answer = usual_answer(request->block, date, self->http.server, request->id, more, body, request->call.close, self->most);
    }
    request->call.sent = PyBytes_Size(body);
    Py_DECREF(body);
    return answer;
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
    int shed = self->http.base.sheds_after > 0 ? http_sheds(&self->http, request, peer) : 0;
    if (shed)
        return shed < 0 ? NULL : Py_NewRef(Py_None);
    if (self->http.server_timing && (request->waited = http_waited(peer)) < 0 && PyErr_Occurred())
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
    result = http_begin(&self->http, request) ? NULL
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
            if (answer && http_pause(&self->http))
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
    PyObject *found = reads(data, size, ((WsgiShortcut *)self)->http.limits, link->note, &said);
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

static const ShortcutFunctions functions = {.read = wsgi_read, .call = wsgi_call, .end = http_end};
static const ShortcutFunctions uwsgi_functions = {.read = uwsgi_read, .call = wsgi_call, .end = http_end};

/* end(request): see ShortcutFunctions. */
static PyObject *end(WsgiShortcut *self, PyObject *request)
{
    if (Py_TYPE(request) != request_type || !((Call *)request)->peer) {
        PyErr_SetString(PyExc_TypeError, "end takes a request that was run");
        return NULL;
    }
    return http_end(&self->http.base, (Call *)request) < 0 ? NULL : Py_NewRef(Py_None);
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
                 !(k_input = PyUnicode_InternFromString("wsgi.input")) ||
                 !(k_early_hints = PyUnicode_InternFromString("wsgi.early_hints")) ||
                 PyModule_AddObjectRef(module, "WsgiShortcut", (PyObject *)wsgi_shortcut_type);
    Py_XDECREF(io);
    return failed ? -1 : 0;
}
