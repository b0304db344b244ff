/* A usual exchange: a request (request.c), the call of its application, and the answer (answer.c) as bytes.
 *
 * Usual is what begins with start_response as request.c has it, and returns a list of one block. The session
 * (app/wsgi.py) goes on with anything else from where it stands. */

#include "native.h"
#include <time.h>

static PyObject *n_draining, *n_client, *k_input, *k_referer, *k_agent, *dash, *bytes_io;

typedef struct {
    PyObject_HEAD
    PyObject *app, *host, *ledger, *access, *lines, *date_at;
    PyObject *respond; /* see request.c */
    int keep_alive;
    Py_ssize_t most;
    time_t second; /* whose `date` is known */
    PyObject *date;
} Exchange;

static int exchange_traverse(Exchange *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->app);
    Py_VISIT(self->respond);
    Py_VISIT(self->host);
    Py_VISIT(self->ledger);
    Py_VISIT(self->access);
    Py_VISIT(self->lines);
    Py_VISIT(self->date_at);
    return 0;
}

static int exchange_clear(Exchange *self)
{
    Py_CLEAR(self->app);
    Py_CLEAR(self->respond);
    Py_CLEAR(self->host);
    Py_CLEAR(self->ledger);
    Py_CLEAR(self->access);
    Py_CLEAR(self->lines);
    Py_CLEAR(self->date_at);
    return 0;
}

static void exchange_dealloc(Exchange *self)
{
    PyObject_GC_UnTrack(self);
    exchange_clear(self);
    Py_CLEAR(self->date);
    release((PyObject *)self);
}

/* Exchange(app, respond, host, ledger, access, lines, date_at, keep_alive, most): `respond(request, peer, block)`
 * makes a Response, `host.draining` or `keep_alive` False end the connection, `ledger` and `access` (or None) are
 * told of each request, `access` by way of its `lines` where these are native, `date_at(seconds)` is the text of
 * Date, and a body of more than `most` bytes is not copied behind its head. */
static PyObject *exchange_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *app, *respond, *host, *ledger, *access, *lines, *date_at;
    int keep_alive;
    Py_ssize_t most;
    (void)keywords;
    if (!PyArg_ParseTuple(args, "OOOOOOOpn", &app, &respond, &host, &ledger, &access, &lines, &date_at, &keep_alive,
                          &most))
        return NULL;
    Exchange *self = (Exchange *)allocate(type);
    if (self) {
        self->app = Py_NewRef(app);
        self->respond = Py_NewRef(respond);
        self->host = Py_NewRef(host);
        self->ledger = Py_NewRef(ledger);
        self->access = Py_NewRef(access);
        self->lines = Py_NewRef(lines);
        self->date_at = Py_NewRef(date_at);
        self->keep_alive = keep_alive;
        self->most = most;
    }
    return (PyObject *)self;
}

/* Borrowed; the text of the present second. */
static PyObject *date_of(Exchange *self)
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

/* The answer that `result` makes with what start_response was called with; None when that is not usual. */
static PyObject *answer_of(Exchange *self, UsualRequest *request, PyObject *result)
{
    PyObject *body, *draining, *date, *answer;
    if (request->response || !request->block || request->is_head || !PyList_CheckExact(result) ||
        PyList_Size(result) != 1)
        return Py_NewRef(Py_None);
    body = PyList_GetItem(result, 0);
    if (!PyBytes_CheckExact(body))
        return Py_NewRef(Py_None);
    if (!(draining = PyObject_GetAttr(self->host, n_draining)) || !(date = date_of(self))) {
        Py_XDECREF(draining);
        return NULL;
    }
    request->close = !self->keep_alive || !request->keep_alive || draining == Py_True;
    Py_DECREF(draining);
    answer = usual_answer(request->block, date, body, request->close, self->most);
    request->sent = PyBytes_Size(body);
    return answer;
}

/* run(request, peer, body) -> the whole answer, to be sent; None when it is not usual: `request.outcome` knows what the
 * application did, and `request.response` goes on. `body` is its input; None: an empty one. */
static PyObject *exchange_run(Exchange *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3 || Py_TYPE(args[0]) != request_type || ((UsualRequest *)args[0])->respond) {
        PyErr_SetString(PyExc_TypeError, "run takes a new request, its peer, and its body");
        return NULL;
    }
    UsualRequest *request = (UsualRequest *)args[0];
    PyObject *input = args[2] == Py_None ? PyObject_CallNoArgs(bytes_io) : Py_NewRef(args[2]);
    PyObject *start_response, *result, *answer;
    if (!input)
        return NULL;
    int failed = PyDict_SetItem(request->environ, k_input, input);
    Py_DECREF(input);
    if (failed || !(start_response = start_response_of(request)))
        return NULL;
    request->respond = Py_NewRef(self->respond);
    request->peer = Py_NewRef(args[1]);
    result = PyObject_CallFunctionObjArgs(self->app, request->environ, start_response, NULL);
    Py_DECREF(start_response);
    if (result) {
        answer = answer_of(self, request, result);
        if (answer != Py_None) {
            Py_DECREF(result);
            return answer;
        }
        Py_DECREF(answer);
        request->result = result;
    } else {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        PyErr_NormalizeException(&type, &value, &traceback);
        if (traceback)
            PyException_SetTraceback(value, traceback);
        Py_XDECREF(type);
        Py_XDECREF(traceback);
        request->failure = value;
    }
    return response_of(request) ? Py_NewRef(Py_None) : NULL;
}

/* Borrowed: a variable of the environ, or "-". */
static PyObject *variable(UsualRequest *request, PyObject *key)
{
    PyObject *value = PyDict_GetItemWithError(request->environ, key);
    return value || PyErr_Occurred() ? value : dash;
}

/* end(request, began): its answer is on its way, or its client has left. Counts it, and logs it. */
static PyObject *exchange_end(Exchange *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2 || Py_TYPE(args[0]) != request_type || !((UsualRequest *)args[0])->peer) {
        PyErr_SetString(PyExc_TypeError, "end takes a request that was run, and when it began");
        return NULL;
    }
    UsualRequest *request = (UsualRequest *)args[0];
    PyObject *client, *referer, *agent, *done = NULL;
    int64_t ns = PyLong_AsLongLong(args[1]);
    if (PyErr_Occurred())
        return NULL;
    PyObject *lane = lane_of(self->ledger);
    if (lane) {
        ns = end_request(lane, ns, request->code);
    } else {
        PyObject *took = PyObject_CallMethod(self->ledger, "end", "Ol", args[1], request->code);
        ns = took ? PyLong_AsLongLong(took) : 0;
        Py_XDECREF(took);
        if (PyErr_Occurred())
            return NULL;
    }
    if (self->access == Py_None)
        Py_RETURN_NONE;
    if ((client = PyObject_GetAttr(request->peer, n_client)) && (referer = variable(request, k_referer)) &&
        (agent = variable(request, k_agent))) {
        int added = Py_TYPE(self->lines) == lines_type
                        ? add_line(self->lines, client, request->line, request->code, request->sent, referer,
                                   agent, ns)
                        : 0;
        if (added > 0)
            done = Py_NewRef(Py_None);
        else if (!added)
            done = PyObject_CallMethod(self->access, "add", "OOlnOOL", client, request->line, request->code,
                                       request->sent, referer, agent, (long long)ns);
    }
    Py_XDECREF(client);
    return done;
}

static PyMethodDef exchange_methods[] = {
    {"run", (PyCFunction)(void (*)(void))exchange_run, METH_FASTCALL, NULL},
    {"end", (PyCFunction)(void (*)(void))exchange_end, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot exchange_slots[] = {
    {Py_tp_new, exchange_new},
    {Py_tp_traverse, exchange_traverse},
    {Py_tp_clear, exchange_clear},
    {Py_tp_dealloc, exchange_dealloc},
    {Py_tp_methods, exchange_methods},
    {0, NULL},
};

static PyType_Spec exchange_spec = {
    "forkd._native.Exchange", sizeof(Exchange), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, exchange_slots,
};

int exchange_init(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&exchange_spec), *io = PyImport_ImportModule("io");
    int failed = !type || !io || !(bytes_io = PyObject_GetAttrString(io, "BytesIO")) ||
                 !(n_draining = PyUnicode_InternFromString("draining")) ||
                 !(n_client = PyUnicode_InternFromString("client")) ||
                 !(k_referer = PyUnicode_InternFromString("HTTP_REFERER")) ||
                 !(k_agent = PyUnicode_InternFromString("HTTP_USER_AGENT")) ||
                 !(dash = PyUnicode_InternFromString("-")) ||
                 !(k_input = PyUnicode_InternFromString("wsgi.input")) ||
                 PyModule_AddObjectRef(module, "Exchange", type);
    Py_XDECREF(type);
    Py_XDECREF(io);
    return failed ? -1 : 0;
}
