/* The messages of one WebSocket on their way: the native twin of app/asgi/message_flow.py. While it is plainly open, they
 * go past the session and app/asgi/websocket.py, which do the same, and all else. */

#include "asgi_message_flow.h"
#include <stddef.h>
#include <structmember.h>

enum { AT_HAND_BYTES = 16384 };

static PyTypeObject *flow_type;
static PyObject *n_say, *n_spill, *n_control, *n_wrong, *n_drained;
static PyObject *s_type, *s_text, *s_bytes, *s_connect, *s_receive, *s_send;

/* ---- the queue ------------------------------------------------------------------------------ */

static int is_full(const MessageFlow *self)
{
    return self->buffered >= HIGH_WATER_BYTES || self->count >= MAX_AHEAD;
}

/* Takes the reference. Returns 0, or -1 with an exception. */
static int push(MessageFlow *self, PyObject *data)
{
    Py_ssize_t size = PyObject_Size(data);
    if (self->count == self->room) {
        PyObject **messages = PyMem_Calloc(MAX_AHEAD, sizeof *messages);
        if (!messages) {
            Py_DECREF(data);
            PyErr_NoMemory();
            return -1;
        }
        messages[0] = self->at_hand;
        self->messages = messages;
        self->room = MAX_AHEAD;
    }
    self->messages[(self->first + self->count++) % self->room] = data;
    self->buffered += size;
    return 0;
}

/* The first message, which must be there. New reference. */
static PyObject *pop(MessageFlow *self)
{
    PyObject *data = self->messages[self->first];
    self->count--;
    self->buffered -= PyObject_Size(data);
    if (self->count) {
        self->first = (self->first + 1) % self->room;
    } else {
        self->first = 0;
        if (self->room > 1)
            PyMem_Free(self->messages);
        self->messages = &self->at_hand;
        self->room = 1;
    }
    return data;
}

static void empty(MessageFlow *self)
{
    while (self->count) {
        PyObject *data = pop(self);
        Py_DECREF(data);
    }
}

/* ---- from the client ------------------------------------------------------------------------ */

/* Queue a message, or have a control frame heeded. Takes the reference to its data. Returns 0, or -1 with an exception. */
static int take_frame(MessageFlow *self, FoundFrame *found)
{
    if (found->opcode == WS_TEXT || found->opcode == WS_BINARY) {
        if (self->discards) {
            Py_CLEAR(found->data);
            return 0;
        }
        return push(self, found->data);
    }
    PyObject *general = Py_NewRef(self->general), *frame = frame_made(found), *done = NULL;
    if (frame)
        done = PyObject_CallMethodObjArgs(general, n_control, frame, NULL);
    Py_XDECREF(frame);
    Py_DECREF(general);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* The client's bytes are wrong: BadFrame is set. Returns 0, or -1 with that or another exception. */
static int frame_is_wrong(MessageFlow *self)
{
    if (!frame_is_bad())
        return -1;
    PyObject *general = Py_NewRef(self->general), *bad = taken_exception(), *done;
    done = PyObject_CallMethodObjArgs(general, n_wrong, bad, NULL);
    Py_DECREF(bad);
    Py_DECREF(general);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* As MessageFlow.read, but for those who wait. Returns 0, or -1 with an exception. */
static int read_frames(MessageFlow *self, const char *data, Py_ssize_t size)
{
    FrameReader *reader = self->reader;
    FoundFrame found;
    FrameOutcome outcome;
    self->quiet = 0;
    int failed = frames_begin(reader, data, size);
    while (!failed && self->general && !self->over && !is_full(self)) {
        if ((outcome = frames_next(reader, &found)) == FRAME_NONE)
            break;
        failed = outcome == FRAME_FOUND ? take_frame(self, &found) : frame_is_wrong(self);
        if (outcome == FRAME_FAILED)
            break;
    }
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    failed |= frames_keep(reader);
    if (type)
        PyErr_Restore(type, value, traceback);
    return failed ? -1 : 0;
}

static PyObject *flow_read(MessageFlow *self, PyObject *bytes)
{
    char *data;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(bytes, &data, &size))
        return NULL;
    return read_frames(self, data, size) || (self->count && steps_release(self)) ? NULL : Py_NewRef(Py_None);
}

/* ---- for the application -------------------------------------------------------------------- */

PyObject *flow_take(MessageFlow *self)
{
    PyObject *message, *data, *done = Py_None;
    if (!self->started) {
        self->started = 1;
        message = PyDict_New();
        if (message && PyDict_SetItem(message, s_type, s_connect))
            Py_CLEAR(message);
        return message;
    }
    if (!self->count)
        return Py_XNewRef(self->end);
    if (!(message = PyDict_New()))
        return NULL;
    data = self->messages[self->first];
    if (PyDict_SetItem(message, s_type, s_receive) ||
        PyDict_SetItem(message, PyUnicode_Check(data) ? s_text : s_bytes, data)) {
        Py_DECREF(message);
        return NULL;
    }
    int full = is_full(self);
    data = pop(self);
    Py_DECREF(data);
    if (full && !is_full(self) && self->general) {
        PyObject *general = Py_NewRef(self->general);
        done = PyObject_CallMethodObjArgs(general, n_drained, NULL);
        Py_DECREF(general);
        if (!done)
            Py_CLEAR(message);
        Py_XDECREF(done);
    }
    return message;
}

/* Send a frame. Returns how many of its bytes the socket has not taken, and these as `rest`; or -1 with an exception. */
static Py_ssize_t send_frame(MessageFlow *self, int opcode, const char *data, Py_ssize_t size, PyObject **rest)
{
    char out[WS_MAX_HEAD + AT_HAND_BYTES];
    Py_ssize_t head = frame_head(out, opcode, (size_t)size), all = head + size;
    struct iovec pieces[] = {{out, (size_t)head}, {(char *)data, (size_t)size}};
    int count = 2;
    if (size <= AT_HAND_BYTES) {
        memcpy(out + head, data, (size_t)size);
        pieces[0].iov_len = (size_t)all;
        count = 1;
    }
    Py_ssize_t sent = link_send((Link *)self->peer, pieces, count, 0), left = all - sent;
    self->sent += all;
    self->quiet = 0;
    if (!left)
        return 0;
    if (!(*rest = PyBytes_FromStringAndSize(NULL, left)))
        return -1;
    char *to = PyBytes_AsString(*rest);
    if (sent < head) {
        memcpy(to, out + sent, (size_t)(head - sent));
        to += head - sent;
        sent = head;
    }
    memcpy(to, data + (sent - head), (size_t)(all - sent));
    return left;
}

/* What a usual message has to send. Returns its opcode; 0: it is not usual; -1 with an exception. */
static int usual_message(PyObject *message, const char **data, Py_ssize_t *size)
{
    if (!PyDict_CheckExact(message))
        return 0;
    PyObject *type = PyDict_GetItemWithError(message, s_type), *text, *bytes;
    if (!type || (type != s_send && !(PyUnicode_CheckExact(type) && !PyUnicode_Compare(type, s_send))))
        return PyErr_Occurred() ? -1 : 0;
    text = PyDict_GetItemWithError(message, s_text);
    bytes = PyErr_Occurred() ? NULL : PyDict_GetItemWithError(message, s_bytes);
    if (PyErr_Occurred())
        return -1;
    text = text == Py_None ? NULL : text;
    bytes = bytes == Py_None ? NULL : bytes;
    if (!text == !bytes)
        return 0;
    if (bytes && PyBytes_CheckExact(bytes)) {
        *data = PyBytes_AsString(bytes);
        *size = PyBytes_Size(bytes);
        return WS_BINARY;
    }
    if (text && PyUnicode_CheckExact(text)) {
        if ((*data = PyUnicode_AsUTF8AndSize(text, size)))
            return WS_TEXT;
        PyErr_Clear(); /* it is for the twin to say so */
    }
    return 0;
}

int flow_say(MessageFlow *self, PyObject *message, PyObject **coroutine)
{
    const char *data;
    Py_ssize_t size;
    PyObject *rest = NULL;
    int opcode = self->plain && !self->compresses && !in_fork ? usual_message(message, &data, &size) : 0;
    if (opcode < 0)
        return -1;
    if (!self->general) {
        PyErr_SetString(PyExc_ConnectionError, "the WebSocket is over");
        return -1;
    }
    if (opcode) {
        Py_ssize_t left = send_frame(self, opcode, data, size, &rest);
        if (left <= 0)
            return left ? -1 : 1;
    }
    PyObject *general = Py_NewRef(self->general);
    *coroutine = PyObject_CallMethodObjArgs(general, rest ? n_spill : n_say, rest ? rest : message, NULL);
    Py_DECREF(general);
    Py_XDECREF(rest);
    return *coroutine ? 0 : -1;
}

static PyObject *flow_receive(MessageFlow *self, PyObject *unused)
{
    (void)unused;
    return step_of(self, NULL);
}

static PyObject *flow_send(MessageFlow *self, PyObject *message)
{
    return step_of(self, message);
}

/* ---- for the session ------------------------------------------------------------------------ */

static PyObject *flow_release(MessageFlow *self, PyObject *unused)
{
    (void)unused;
    return steps_release(self) ? NULL : Py_NewRef(Py_None);
}

static PyObject *flow_discard(MessageFlow *self, PyObject *unused)
{
    (void)unused;
    self->discards = 1;
    empty(self);
    Py_RETURN_NONE;
}

static PyObject *flow_detach(MessageFlow *self, PyObject *unused)
{
    (void)unused;
    self->plain = 0;
    Py_CLEAR(self->peer);
    Py_CLEAR(self->general);
    Py_RETURN_NONE;
}

static PyObject *flow_full(MessageFlow *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(is_full(self));
}

static int flow_traverse(MessageFlow *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->peer);
    Py_VISIT(self->general);
    Py_VISIT(self->loop);
    Py_VISIT(self->end);
    return steps_traverse(self, visit, arg);
}

static int flow_clear(MessageFlow *self)
{
    self->plain = 0;
    Py_CLEAR(self->peer);
    Py_CLEAR(self->general);
    Py_CLEAR(self->end);
    steps_let_go(self);
    empty(self);
    return 0;
}

static void flow_dealloc(MessageFlow *self)
{
    PyObject_GC_UnTrack(self);
    flow_clear(self);
    Py_CLEAR(self->loop);
    PyObject *reader = (PyObject *)self->reader;
    Py_XDECREF(reader);
    release((PyObject *)self);
}

static PyObject *flow_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"peer", "general", "loop", "reader", "compresses", NULL};
    PyObject *peer, *general, *loop, *reader;
    int compresses;
    if (!by_name(args, keywords, "O!OOO!p", names, link_type, &peer, &general, &loop, frame_reader_type, &reader,
                 &compresses))
        return NULL;
    MessageFlow *self = (MessageFlow *)allocate(type);
    if (self) {
        self->peer = Py_NewRef(peer);
        self->general = Py_NewRef(general);
        self->loop = Py_NewRef(loop);
        self->reader = (FrameReader *)Py_NewRef(reader);
        self->compresses = (char)compresses;
        self->messages = &self->at_hand;
        self->room = 1;
    }
    return (PyObject *)self;
}

/* ---- what drivers call ---------------------------------------------------------------------- */

static int flow_takes(const Shortcut *self, const Link *link)
{
    (void)self;
    const MessageFlow *flow = (const MessageFlow *)link->note;
    return link->note && Py_TYPE(link->note) == flow_type && flow->plain && !is_full(flow);
}

static Outcome flow_more(Shortcut *self, Link *link, const char *data, Py_ssize_t size)
{
    (void)self;
    MessageFlow *flow = (MessageFlow *)Py_NewRef(link->note);
    int failed = read_frames(flow, data, size) || (flow->count && steps_wake(flow)), plain = flow->plain && !is_full(flow);
    Py_DECREF((PyObject *)flow);
    return failed ? FAILED : plain ? ANSWERED : UNFINISHED;
}

/* For each connection whose note is a MessageFlow. */
static const ShortcutFunctions functions = {.more = flow_more, .takes = flow_takes};

static PyMethodDef methods[] = {
    {"receive", (PyCFunction)flow_receive, METH_NOARGS, NULL},
    {"send", (PyCFunction)flow_send, METH_O, NULL},
    {"read", (PyCFunction)flow_read, METH_O, NULL},
    {"release", (PyCFunction)flow_release, METH_NOARGS, NULL},
    {"discard", (PyCFunction)flow_discard, METH_NOARGS, NULL},
    {"detach", (PyCFunction)flow_detach, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

#define MEMBER(name, type, flags) {#name, type, offsetof(MessageFlow, name), flags, NULL}

static PyMemberDef members[] = {
    MEMBER(plain, T_BOOL, 0), MEMBER(over, T_BOOL, 0), MEMBER(quiet, T_BOOL, 0), MEMBER(sent, T_PYSSIZET, 0),
    MEMBER(end, T_OBJECT, 0), MEMBER(reader, T_OBJECT, READONLY), MEMBER(count, T_INT, READONLY), {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef getters[] = {{"full", (getter)flow_full, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot slots[] = {
    {Py_tp_new, flow_new},
    {Py_tp_traverse, flow_traverse},
    {Py_tp_clear, flow_clear},
    {Py_tp_dealloc, flow_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, getters},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.MessageFlow", sizeof(MessageFlow), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots,
};

int message_flow_init(PyObject *module)
{
    static const struct {
        PyObject **place;
        const char *text;
    } names[] = {
        {&n_say, "say"}, {&n_spill, "spill"}, {&n_control, "control"}, {&n_wrong, "wrong"},
        {&n_drained, "drained"}, {&s_type, "type"}, {&s_text, "text"}, {&s_bytes, "bytes"},
        {&s_connect, "websocket.connect"}, {&s_receive, "websocket.receive"}, {&s_send, "websocket.send"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!(*names[i].place = PyUnicode_InternFromString(names[i].text)))
            return -1;
    flow_type = (PyTypeObject *)PyType_FromSpec(&spec);
    PyObject *shortcut = shortcut_with(&functions);
    int failed = !flow_type || !shortcut || flow_step_init(module) ||
                 PyModule_AddObjectRef(module, "MessageFlow", (PyObject *)flow_type) ||
                 PyModule_AddObjectRef(module, "MESSAGE_SHORTCUT", shortcut);
    Py_XDECREF(shortcut);
    return failed ? -1 : 0;
}
