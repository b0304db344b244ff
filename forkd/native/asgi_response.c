/* The messages of an answer to bytes for the connection (twin: app/asgi/response.py). Usual is one http.response.start of
 * plain types, and then http.response.body, each whole. */

#include "asgi.h"

enum {
    SMALL = 16384,     /* bytes of a piece above which it is not copied behind its frame */
    MOST_CORK = 65536, /* bytes that are kept back in a step */
    FIRST_CORK = 2048,
    MOST_FRAME = 32,
    MOST_PIECES = 4,
};

static PyObject *k_type, *k_status, *k_headers, *k_body, *k_more, *no_bytes;

/* A type of message: the str that it is here, and the one that the application has lately had for it. */
typedef struct {
    PyObject *known, *seen;
} MessageType;

static MessageType start, body;

static int is_of(PyObject *text, MessageType *type)
{
    if (text == type->seen)
        return 1;
    if (PyUnicode_Compare(text, type->known))
        return 0;
    PyObject *old = type->seen;
    type->seen = Py_NewRef(text);
    Py_XDECREF(old);
    return 1;
}

/* ---- status and headers --------------------------------------------------------------------- */

/* The two of a header, borrowed. Whether they are plain bytes. */
static int pair_of(PyObject *pair, PyObject **name, PyObject **value)
{
    if (PyTuple_CheckExact(pair) && PyTuple_Size(pair) == 2) {
        *name = PyTuple_GetItem(pair, 0);
        *value = PyTuple_GetItem(pair, 1);
    } else if (PyList_CheckExact(pair) && PyList_Size(pair) == 2) {
        *name = PyList_GetItem(pair, 0);
        *value = PyList_GetItem(pair, 1);
    } else {
        return 0;
    }
    return PyBytes_CheckExact(*name) && PyBytes_CheckExact(*value);
}

/* Whether only ASCII is in it: native code writes no other. */
static int plain(const char *text, Py_ssize_t size)
{
    for (Py_ssize_t i = 0; i < size; i++)
        if ((unsigned char)text[i] >= 0x80)
            return 0;
    return 1;
}

/* A status line, without the version. Returns its size; 0: it is for the twin. */
static Py_ssize_t status_text(const AsgiShortcut *self, PyObject *status, char out[8], const char **text)
{
    Py_ssize_t size;
    PyObject *known = dict_item(self->reasons, status);
    if (known)
        return (*text = ascii(known, &size)) ? size : 0;
    long code = PyLong_AsLong(status);
    if (code < 200 || code > 999) {
        PyErr_Clear();
        return 0;
    }
    *decimal(out, (uint64_t)code) = ' ';
    *text = out;
    return 4;
}

/* http.response.start. */
static MessageOutcome add_start(AsgiCycle *self, PyObject *message)
{
    HeadLines lines;
    char out[8];
    const char *text;
    PyObject *status = dict_item(message, k_status), *headers = dict_item(message, k_headers), *media = NULL;
    Py_ssize_t size = status && PyLong_CheckExact(status) ? status_text(self->shortcut, status, out, &text) : 0;
    int list = headers && PyList_CheckExact(headers);
    if (!size || !lines_begin(&lines, text, size) || (headers && !list && !PyTuple_CheckExact(headers)))
        return MESSAGE_NOT_USUAL;
    Py_ssize_t count = !headers ? 0 : list ? PyList_Size(headers) : PyTuple_Size(headers);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *pair = list ? PyList_GetItem(headers, i) : PyTuple_GetItem(headers, i), *name, *value;
        if (!pair_of(pair, &name, &value))
            return MESSAGE_NOT_USUAL;
        const char *label = PyBytes_AsString(name), *content = PyBytes_AsString(value);
        Py_ssize_t label_size = PyBytes_Size(name), content_size = PyBytes_Size(value);
        if (!plain(content, content_size) || !lines_add(&lines, label, label_size, content, content_size))
            return MESSAGE_NOT_USUAL;
        if (!media && lines.has & HAS_TYPE)
            media = value; /* the first */
    }
    if (lines.length < 0 && !(lines.has & HAS_ENCODING))
        self->media = Py_NewRef(media ? media : no_bytes);
    if (!(self->base.block = lines_block(&lines)))
        return MESSAGE_FAILED;
    self->base.call.code = lines.code;
    return MESSAGE_TAKEN;
}

/* ---- to the socket -------------------------------------------------------------------------- */

/* Send these; what the socket does not take is `unsent`. */
static MessageOutcome send_pieces(AsgiCycle *self, struct iovec *pieces, int count)
{
    size_t all = 0;
    for (int i = 0; i < count; i++)
        all += pieces[i].iov_len;
    PyObject *lane = lane_of(self->shortcut->http.base.recorder);
    if (lane)
        answer_request(lane, self->base.ticket);
    size_t sent = all && !self->shortcut->by_driver ? (size_t)link_send((Link *)self->base.call.peer, pieces, count, 0) : 0;
    if (sent == all)
        return MESSAGE_TAKEN;
    PyObject *left = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(all - sent));
    char *at = left ? PyBytes_AsString(left) : NULL;
    for (int i = 0; at && i < count; i++) {
        size_t size = pieces[i].iov_len, skipped = sent < size ? sent : size;
        memcpy(at, (char *)pieces[i].iov_base + skipped, size - skipped);
        at += size - skipped;
        sent -= skipped;
    }
    self->unsent = left;
    return left ? MESSAGE_UNSENT : MESSAGE_FAILED;
}

/* Keep them back for the end of the step. Whether there is room. */
static int corked(AsgiCycle *self, const struct iovec *pieces, int count)
{
    Py_ssize_t all = self->corked;
    for (int i = 0; i < count; i++)
        all += (Py_ssize_t)pieces[i].iov_len;
    if (all > MOST_CORK)
        return 0;
    if (all > self->room) {
        Py_ssize_t room = self->room ? self->room : FIRST_CORK;
        while (room < all)
            room *= 2;
        char *cork = PyMem_Realloc(self->cork, room);
        if (!cork)
            return 0;
        self->cork = cork;
        self->room = room;
    }
    for (int i = 0; i < count; i++) {
        memcpy(self->cork + self->corked, pieces[i].iov_base, pieces[i].iov_len);
        self->corked += (Py_ssize_t)pieces[i].iov_len;
    }
    return 1;
}

/* Send these behind what was kept back; or, where more follows in this step, keep them back, too. `pieces` has room for one
 * more. */
static MessageOutcome put_out(AsgiCycle *self, struct iovec *pieces, int count, int more)
{
    if (more && self->stepping && corked(self, pieces, count))
        return MESSAGE_TAKEN;
    if (self->corked) {
        memmove(pieces + 1, pieces, count++ * sizeof *pieces);
        pieces[0] = (struct iovec){self->cork, (size_t)self->corked};
    }
    self->corked = 0;
    MessageOutcome outcome = send_pieces(self, pieces, count);
    int at_once = !more && self->stepping && !self->base.call.shortcut; /* the driver sends it when this step is over */
    return outcome == MESSAGE_UNSENT && self->shortcut->by_driver && at_once ? MESSAGE_TAKEN : outcome;
}

int asgi_uncork(AsgiCycle *self)
{
    struct iovec piece = {self->cork, (size_t)self->corked};
    self->corked = 0;
    MessageOutcome outcome = send_pieces(self, &piece, 1);
    return outcome == MESSAGE_FAILED ? -1 : outcome == MESSAGE_UNSENT;
}

/* ---- the body ------------------------------------------------------------------------------- */

/* The answer is this one piece. */
static MessageOutcome add_whole(AsgiCycle *self, PyObject *date, PyObject *data)
{
    const HttpShortcut *http = &self->shortcut->http;
    char timing[MOST_TIMING];
    const char *more = http->server_timing ? http_timing(&self->base, timing) : NULL;
    PyObject *answer = usual_answer(self->base.block, date, http->server, self->base.id, more, data, self->base.call.close, SMALL);
    if (!answer || answer == Py_None) {
        Py_XDECREF(answer);
        return answer ? MESSAGE_NOT_USUAL : MESSAGE_FAILED;
    }
    struct iovec pieces[MOST_PIECES];
    int count = 1;
    PyObject *head = PyTuple_Check(answer) ? PyTuple_GetItem(answer, 0) : answer;
    pieces[0] = (struct iovec){PyBytes_AsString(head), (size_t)PyBytes_Size(head)};
    if (head != answer)
        pieces[count++] = (struct iovec){PyBytes_AsString(data), (size_t)PyBytes_Size(data)};
    MessageOutcome outcome = put_out(self, pieces, count, 0);
    Py_DECREF(answer);
    return outcome;
}

/* A piece of several, with the head before the first one. */
static MessageOutcome add_piece(AsgiCycle *self, PyObject *date, PyObject *data, int more)
{
    const HttpShortcut *http = &self->shortcut->http;
    const Block *block = self->base.block;
    Py_ssize_t size = PyBytes_Size(data), head = 0;
    char frame[MOST_HEAD + MOST_FRAME], *at = frame, tail[8], *end = tail;
    if (!self->head_sent) {
        char timing[MOST_TIMING];
        const char *line = http->server_timing ? http_timing(&self->base, timing) : NULL;
        head = usual_head(frame, block, date, http->server, self->base.id, line, block->length, self->base.call.close);
        if (head <= 0)
            return head ? MESSAGE_FAILED : MESSAGE_NOT_USUAL;
    }
    at += head;
    if (block->length < 0 && size) {
        at += PyOS_snprintf(at, MOST_FRAME, "%zx\r\n", (size_t)size);
        memcpy(end, "\r\n", 2);
        end += 2;
    }
    if (block->length < 0 && !more) {
        memcpy(end, "0\r\n\r\n", 5);
        end += 5;
    }
    struct iovec pieces[MOST_PIECES] = {
        {frame, (size_t)(at - frame)}, {PyBytes_AsString(data), (size_t)size}, {tail, (size_t)(end - tail)},
    };
    return put_out(self, pieces, 3, more);
}

/* http.response.body. */
static MessageOutcome add_body(AsgiCycle *self, PyObject *message)
{
    Call *call = &self->base.call;
    const Block *block = self->base.block;
    AsgiShortcut *shortcut = self->shortcut;
    PyObject *data = dict_item(message, k_body), *further = dict_item(message, k_more), *date = NULL;
    if (!data)
        data = no_bytes;
    int more = further ? PyObject_IsTrue(further) : 0;
    if (more < 0)
        return MESSAGE_FAILED;
    if (!PyBytes_CheckExact(data) || block->code == 204 || block->code == 304)
        return MESSAGE_NOT_USUAL;
    Py_ssize_t offered = call->sent + PyBytes_Size(data);
    if (block->length >= 0 && (offered > block->length || (!more && offered < block->length)))
        return MESSAGE_NOT_USUAL; /* an error, which the twin raises */
    Py_INCREF(data); /* what follows may call Python */
    if (!self->head_sent) {
        call->close = !shortcut->http.keep_alive || !self->base.keep_alive || shortcut->http.base.draining;
        if (!(date = http_date(&shortcut->http))) {
            Py_DECREF(data);
            return MESSAGE_FAILED;
        }
    }
    MessageOutcome outcome = self->head_sent || more ? add_piece(self, date, data, more) : add_whole(self, date, data);
    Py_DECREF(data);
    if (outcome == MESSAGE_TAKEN || outcome == MESSAGE_UNSENT) {
        call->sent = offered;
        self->head_sent = 1;
        self->over = (char)!more;
    }
    return outcome;
}

MessageOutcome asgi_add(AsgiCycle *self, PyObject *message)
{
    PyObject *type = PyDict_CheckExact(message) ? dict_item(message, k_type) : NULL;
    if (!type || !PyUnicode_CheckExact(type))
        return MESSAGE_NOT_USUAL;
    if (self->base.block)
        return is_of(type, &body) ? add_body(self, message) : MESSAGE_NOT_USUAL;
    return is_of(type, &start) ? add_start(self, message) : MESSAGE_NOT_USUAL;
}

int asgi_response_init(void)
{
    static const struct {
        PyObject **place;
        const char *text;
    } keys[] = {
        {&k_type, "type"}, {&k_status, "status"}, {&k_headers, "headers"}, {&k_body, "body"}, {&k_more, "more_body"},
        {&start.known, "http.response.start"}, {&body.known, "http.response.body"},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!(*keys[i].place = PyUnicode_InternFromString(keys[i].text)))
            return -1;
    return (no_bytes = PyBytes_FromStringAndSize("", 0)) ? 0 : -1;
}
