/* The books of a request under WSGI and ASGI: in the recorder from its beginning to its end, and in the access log
 * (twins: `_respond` in app/wsgi/exchange.py, `account` in app/asgi/duplex.py). */

#include "native.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

static PyObject *n_client, *n_note, *k_peer, *dash, *no_id;

int http_traverse(HttpShortcut *self, visitproc visit, void *arg)
{
    Py_VISIT(self->access);
    Py_VISIT(self->lines);
    Py_VISIT(self->date_at);
    Py_VISIT((PyObject *)self->limits);
    return shortcut_traverse(&self->base, visit, arg);
}

int http_clear(HttpShortcut *self)
{
    Py_CLEAR(self->access);
    Py_CLEAR(self->lines);
    Py_CLEAR(self->date_at);
    Py_CLEAR(self->limits);
    return shortcut_clear(&self->base);
}

void http_release(HttpShortcut *self)
{
    Py_CLEAR(self->date);
    Py_CLEAR(self->server);
    release((PyObject *)self);
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
    PyObject *address = !note ? NULL : proxy ? Py_XNewRef(PyTuple_GetItem(dict_item(proxy, k_peer), 0)) : peer_of(request);
    Py_XDECREF(note);
    return address;
}

/* Record in the recorder that the request begins. Returns 0, or -1 with an exception. */
int http_begin(HttpShortcut *self, UsualRequest *request)
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
int http_pause(HttpShortcut *self)
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
PyObject *http_date(HttpShortcut *self)
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

/* Seconds that a call has waited for; -1 with an exception. The twin is Connection.waited (engine/connection.py). */
double http_waited(PyObject *peer)
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

const char *http_timing(const UsualRequest *request, char line[MOST_TIMING])
{
    char *number = PyOS_double_to_string(request->waited * 1e3, 'f', 1, 0, NULL); /* not as the locale has it */
    if (number)
        PyOS_snprintf(line, MOST_TIMING, "Server-Timing: queue;dur=%s\r\n", number);
    else
        PyErr_Clear();
    PyMem_Free(number);
    return number ? line : NULL;
}

/* Whether it has waited for too long: its session sheds it (session/shed.py). -1 with an exception. */
int http_sheds(const HttpShortcut *self, UsualRequest *request, PyObject *peer)
{
    double seconds = http_waited(peer);
    request->call.began = now_ns();
    return PyErr_Occurred() ? -1 : seconds > self->base.sheds_after;
}

/* How long it has taken so far (ns), or -1 with an exception. */
static int64_t took_so_far(HttpShortcut *self, const UsualRequest *request)
{
    PyObject *lane = lane_of(self->base.recorder), *took;
    if (lane)
        return request_took(lane, request->ticket);
    took = PyObject_CallMethod(self->base.recorder, "took", "L", (long long)request->ticket);
    int64_t ns = took ? PyLong_AsLongLong(took) : -1;
    Py_XDECREF(took);
    return ns;
}

int64_t http_end(Shortcut *shortcut, Call *call)
{
    HttpShortcut *self = (HttpShortcut *)shortcut;
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

int account_init(PyObject *module)
{
    (void)module;
    return !(n_client = PyUnicode_InternFromString("client")) || !(n_note = PyUnicode_InternFromString("note")) ||
                   !(k_peer = PyUnicode_InternFromString("peer")) || !(dash = PyUnicode_InternFromString("-")) ||
                   !(no_id = PyUnicode_InternFromString(""))
               ? -1
               : 0;
}
