/* WebSocket's frames (RFC 6455) of a client, as messages: the native twin of FrameReader in http/frames.py. What is wrong
 * is raised as there, by the same codes and reasons; compressed messages are inflated by its Inflater. */

#include "http_frames.h"
#include <structmember.h>

enum { FIN = 0x80, RESERVED = 0x70, DEFLATED = 0x40, OPCODE = 0x0F, CONTROL = 0x08, MASKED = 0x80, SIZE = 0x7F };
enum { MAX_CONTROL_BYTES = 125, MASK_BYTES = 4, AT_HAND_BYTES = 4096, FIRST_ROOM = 256 };
enum { PROTOCOL_ERROR = 1002, NO_CODE = 1005, BAD_PAYLOAD = 1007, TOO_BIG = 1009 };

PyTypeObject *frame_reader_type;
static PyObject *n_inflate;
static PyObject *frame_type, *bad_frame; /* http.frames has them; known since the first reader */

/* ---- bytes that come in pieces -------------------------------------------------------------- */

/* Returns where `size` more bytes are to be written, or NULL with an exception. */
static char *gather(Gathered *self, Py_ssize_t size)
{
    Py_ssize_t need = self->size + size;
    if (need > self->room || !self->at) {
        Py_ssize_t room = self->room ? self->room : FIRST_ROOM;
        while (room < need)
            room *= 2;
        char *at = PyMem_Realloc(self->at, (size_t)room);
        if (!at) {
            PyErr_NoMemory();
            return NULL;
        }
        self->at = at;
        self->room = room;
    }
    self->size = need;
    return self->at + need - size;
}

static void drop(Gathered *self)
{
    PyMem_Free(self->at);
    *self = (Gathered){0};
}

static void unmask(char *to, const char *from, size_t size, const char *mask)
{
    uint32_t half;
    memcpy(&half, mask, sizeof half);
    uint64_t key = (uint64_t)half << 32 | half, word;
    size_t i = 0;
    for (; i + sizeof word <= size; i += sizeof word) {
        memcpy(&word, from + i, sizeof word);
        word ^= key;
        memcpy(to + i, &word, sizeof word);
    }
    for (; i < size; i++)
        to[i] = (char)(from[i] ^ mask[i % MASK_BYTES]);
}

/* ---- what is wrong -------------------------------------------------------------------------- */

/* Takes the reference to the reason. */
static FrameOutcome bad_with(long code, PyObject *reason)
{
    PyObject *number = PyLong_FromLong(code), *raised = NULL;
    if (number && reason)
        raised = PyObject_CallFunctionObjArgs(bad_frame, number, reason, NULL);
    if (raised)
        PyErr_SetObject(bad_frame, raised);
    Py_XDECREF(raised);
    Py_XDECREF(number);
    Py_XDECREF(reason);
    return FRAME_FAILED;
}

static FrameOutcome bad(long code, const char *reason)
{
    return bad_with(code, PyUnicode_FromString(reason));
}

static FrameOutcome too_big(const FrameReader *self)
{
    return bad_with(TOO_BIG, PyUnicode_FromFormat("a message of more than %zd bytes", self->most));
}

int frame_is_bad(void)
{
    return PyErr_ExceptionMatches(bad_frame);
}

/* UnicodeDecodeError becomes BadFrame; another exception stays. */
static FrameOutcome bad_text(const char *reason)
{
    if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
        return FRAME_FAILED;
    PyErr_Clear();
    return bad(BAD_PAYLOAD, reason);
}

/* ---- one frame ------------------------------------------------------------------------------ */

typedef struct {
    unsigned char first;
    int opcode;
    const char *mask, *payload;
    size_t size;
} Head;

/* The first frame of what is left, once it is all here. What its head says is judged before that. */
static FrameOutcome read_frame_head(const FrameReader *self, Head *head)
{
    const unsigned char *at = (const unsigned char *)self->at;
    size_t left = (size_t)(self->end - self->at), start = 2;
    if (left < start)
        return FRAME_NONE;
    int first = at[0], opcode = first & OPCODE, control = opcode & CONTROL;
    uint64_t size = at[1] & SIZE, shortest = 0;
    int deflated = self->inflater && (first & RESERVED) == DEFLATED && (opcode == WS_TEXT || opcode == WS_BINARY);
    if (first & RESERVED && !deflated)
        return bad(PROTOCOL_ERROR, "a reserved bit is set");
    if (opcode > (control ? WS_PONG : WS_BINARY))
        return bad(PROTOCOL_ERROR, "unknown opcode");
    if (!(at[1] & MASKED))
        return bad(PROTOCOL_ERROR, "a client's frame without a mask");
    if (control && (size > MAX_CONTROL_BYTES || !(first & FIN)))
        return bad(PROTOCOL_ERROR, "a control frame that is fragmented, or too long");
    if (!control && (opcode == WS_CONTINUATION) != (self->opcode != 0))
        return bad(PROTOCOL_ERROR, "a fragment out of place");
    if (size > MAX_CONTROL_BYTES) {
        start = size == 126 ? 4 : 10;
        shortest = size == 126 ? 126 : 1 << 16;
        if (left < start)
            return FRAME_NONE;
        size = 0;
        for (size_t i = 2; i < start; i++)
            size = size << 8 | at[i];
        if (size < shortest || size >> 63)
            return bad(PROTOCOL_ERROR, "a length in more bytes than it needs");
    }
    if (!control) {
        uint64_t most = (uint64_t)self->most;
        if (deflated || self->deflated)
            most += most / 4 + 1024; /* data that does not become shorter becomes longer */
        if ((uint64_t)self->came + size > most)
            return too_big(self);
    }
    start += MASK_BYTES;
    if (left < start || left - start < size)
        return FRAME_NONE;
    *head = (Head){(unsigned char)first, opcode, self->at + start - MASK_BYTES, self->at + start, (size_t)size};
    return FRAME_FOUND;
}

static PyObject *unmasked(const Head *head)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)head->size);
    if (bytes)
        unmask(PyBytes_AsString(bytes), head->payload, head->size, head->mask);
    return bytes;
}

/* The data of a message in one piece. */
static FrameOutcome whole(int opcode, const char *data, Py_ssize_t size, FoundFrame *found)
{
    *found = (FoundFrame){opcode, 0, NULL};
    found->data = opcode == WS_TEXT ? PyUnicode_DecodeUTF8(data, size, NULL) : PyBytes_FromStringAndSize(data, size);
    return found->data ? FRAME_FOUND : bad_text("text that is not UTF-8");
}

/* A message in one frame, which is not compressed. */
static FrameOutcome single(const Head *head, FoundFrame *found)
{
    char at_hand[AT_HAND_BYTES];
    if (head->opcode == WS_TEXT && head->size <= AT_HAND_BYTES) {
        unmask(at_hand, head->payload, head->size, head->mask);
        return whole(WS_TEXT, at_hand, (Py_ssize_t)head->size, found);
    }
    PyObject *bytes = unmasked(head);
    if (bytes && head->opcode == WS_TEXT) {
        FrameOutcome outcome = whole(WS_TEXT, PyBytes_AsString(bytes), (Py_ssize_t)head->size, found);
        Py_DECREF(bytes);
        return outcome;
    }
    *found = (FoundFrame){head->opcode, 0, bytes};
    return bytes ? FRAME_FOUND : FRAME_FAILED;
}

/* Add what a frame of a compressed message inflates to. Returns 0, or -1 with an exception. */
static int inflate(FrameReader *self, const Head *head, int last)
{
    PyObject *bytes = unmasked(head), *most = PyLong_FromSsize_t(self->most - self->size), *made = NULL;
    if (bytes && most)
        made = PyObject_CallMethodObjArgs(self->inflater, n_inflate, bytes, last ? Py_True : Py_False, most, NULL);
    Py_XDECREF(bytes);
    Py_XDECREF(most);
    if (!made && PyErr_ExceptionMatches(PyExc_ValueError)) {
        PyObject *error = taken_exception();
        bad_with(BAD_PAYLOAD, PyUnicode_FromFormat("a message that is not compressed as it says: %S", error));
        Py_DECREF(error);
    }
    char *data, *to;
    Py_ssize_t size;
    int failed = !made || PyBytes_AsStringAndSize(made, &data, &size);
    if (!failed && (self->size += size) > self->most) {
        too_big(self);
        failed = 1;
    }
    if (!failed && !(failed = !(to = gather(&self->fragments, size))))
        memcpy(to, data, (size_t)size);
    Py_XDECREF(made);
    return failed ? -1 : 0;
}

/* What is not UTF-8 is so at once. Returns 0, or -1 with an exception. */
static int check_fragments(FrameReader *self)
{
    Py_ssize_t used = 0;
    PyObject *text = PyUnicode_DecodeUTF8Stateful(
        self->fragments.at + self->checked, self->fragments.size - self->checked, NULL, &used);
    if (!text)
        return bad_text("text that is not UTF-8");
    Py_DECREF(text);
    self->checked += used;
    return 0;
}

/* A frame of a message. FRAME_NONE: others follow. */
static FrameOutcome data_frame(FrameReader *self, const Head *head, FoundFrame *found)
{
    int last = head->first & FIN;
    if (last && !self->opcode && !(head->first & DEFLATED))
        return single(head, found);
    if (!self->opcode) {
        self->opcode = (unsigned char)head->opcode;
        self->deflated = (head->first & DEFLATED) != 0;
    }
    self->came += (Py_ssize_t)head->size;
    if (self->deflated) {
        if (inflate(self, head, last))
            return FRAME_FAILED;
    } else {
        char *to = gather(&self->fragments, (Py_ssize_t)head->size);
        if (!to)
            return FRAME_FAILED;
        unmask(to, head->payload, head->size, head->mask);
    }
    if (!last)
        return self->opcode == WS_TEXT && check_fragments(self) ? FRAME_FAILED : FRAME_NONE;
    FrameOutcome outcome = whole(self->opcode, self->fragments.at, self->fragments.size, found);
    drop(&self->fragments);
    self->checked = self->came = self->size = 0;
    self->opcode = 0;
    self->deflated = 0;
    return outcome;
}

/* Whether a Close frame may have that code (http.frames.may_be_sent). */
static int may_be_sent(long code)
{
    return (code >= 1000 && code <= 1014 && !(code >= 1004 && code <= 1006)) || (code >= 3000 && code <= 4999);
}

static FrameOutcome control_frame(const Head *head, FoundFrame *found)
{
    char payload[MAX_CONTROL_BYTES];
    unmask(payload, head->payload, head->size, head->mask);
    *found = (FoundFrame){head->opcode, 0, NULL};
    Py_ssize_t size = (Py_ssize_t)head->size;
    if (head->opcode != WS_CLOSE) {
        found->data = PyBytes_FromStringAndSize(payload, size);
        return found->data ? FRAME_FOUND : FRAME_FAILED;
    }
    found->code = size < 2 ? NO_CODE : (unsigned char)payload[0] << 8 | (unsigned char)payload[1];
    if (size == 1 || (size && !may_be_sent(found->code)))
        return bad(PROTOCOL_ERROR, "a Close frame without a proper code");
    found->data = PyUnicode_DecodeUTF8(payload + 2, size ? size - 2 : 0, NULL);
    return found->data ? FRAME_FOUND : bad_text("a reason that is not UTF-8");
}

/* ---- what others call ----------------------------------------------------------------------- */

int frames_midway(const FrameReader *self)
{
    return self->opcode || (self->at ? self->end > self->at : self->held.size > 0);
}

int frames_keep(FrameReader *self)
{
    const char *at = self->at;
    Py_ssize_t left = at ? self->end - at : 0;
    if (!at)
        return 0;
    self->at = self->end = NULL;
    Gathered held = self->held, kept = {0};
    if (held.size && left > held.room / 4) { /* it is there */
        memmove(held.at, at, (size_t)left);
        self->held.size = left;
        return 0;
    }
    char *to = left ? gather(&kept, left) : NULL;
    if (left && !to)
        return -1;
    if (left)
        memcpy(to, at, (size_t)left);
    drop(&held);
    self->held = kept;
    return 0;
}

int frames_begin(FrameReader *self, const char *data, Py_ssize_t size)
{
    if (frames_keep(self))
        return -1;
    if (self->held.size) {
        char *to = gather(&self->held, size);
        if (!to)
            return -1;
        memcpy(to, data, (size_t)size);
        data = self->held.at;
        size = self->held.size;
    }
    self->at = data;
    self->end = data + size;
    return 0;
}

FrameOutcome frames_next(FrameReader *self, FoundFrame *found)
{
    for (;;) {
        Head head;
        FrameOutcome outcome = self->at ? read_frame_head(self, &head) : FRAME_NONE;
        if (outcome != FRAME_FOUND)
            return outcome;
        self->at = head.payload + head.size;
        outcome = head.opcode & CONTROL ? control_frame(&head, found) : data_frame(self, &head, found);
        if (outcome != FRAME_NONE)
            return outcome;
    }
}

PyObject *frame_made(FoundFrame *found)
{
    PyObject *opcode = PyLong_FromLong(found->opcode), *code = PyLong_FromLong(found->code), *made = NULL;
    if (opcode && code)
        made = PyObject_CallFunctionObjArgs(frame_type, opcode, found->data, code, NULL);
    Py_XDECREF(opcode);
    Py_XDECREF(code);
    Py_CLEAR(found->data);
    return made;
}

int frame_head(char *to, int opcode, size_t size)
{
    to[0] = (char)(FIN | opcode);
    if (size <= MAX_CONTROL_BYTES) {
        to[1] = (char)size;
        return 2;
    }
    int bytes = size < 1 << 16 ? 2 : 8;
    to[1] = bytes == 2 ? 126 : 127;
    for (int i = 0; i < bytes; i++)
        to[2 + i] = (char)((uint64_t)size >> 8 * (bytes - 1 - i));
    return 2 + bytes;
}

/* ---- the type ------------------------------------------------------------------------------- */

static void reader_dealloc(FrameReader *self)
{
    drop(&self->held);
    drop(&self->fragments);
    Py_CLEAR(self->inflater);
    release((PyObject *)self);
}

/* FrameReader(most, inflater): `inflater` may be None. */
static PyObject *reader_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"most", "inflater", NULL};
    Py_ssize_t most;
    PyObject *inflater;
    if (!by_name(args, keywords, "nO", names, &most, &inflater))
        return NULL;
    if (!frame_type) {
        PyObject *frames = PyImport_ImportModule("forkd.http.frames");
        PyObject *frame = frames ? PyObject_GetAttrString(frames, "Frame") : NULL;
        PyObject *wrong = frames ? PyObject_GetAttrString(frames, "BadFrame") : NULL;
        Py_XDECREF(frames);
        if (!frame || !wrong) {
            Py_XDECREF(frame);
            Py_XDECREF(wrong);
            return NULL;
        }
        frame_type = frame;
        bad_frame = wrong;
    }
    FrameReader *self = (FrameReader *)allocate(type);
    if (self) {
        self->most = most;
        self->inflater = inflater == Py_None ? NULL : Py_NewRef(inflater);
    }
    return (PyObject *)self;
}

/* feed(data) -> itself, which goes through the frames that are complete. */
static PyObject *reader_feed(FrameReader *self, PyObject *data)
{
    char *bytes, *to;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(data, &bytes, &size) || frames_keep(self))
        return NULL;
    if (size && !(to = gather(&self->held, size))) /* the bytes need not stay */
        return NULL;
    if (size)
        memcpy(to, bytes, (size_t)size);
    return frames_begin(self, "", 0) ? NULL : Py_NewRef((PyObject *)self);
}

static PyObject *reader_next(FrameReader *self)
{
    FoundFrame found;
    FrameOutcome outcome = frames_next(self, &found);
    if (outcome == FRAME_FOUND)
        return frame_made(&found);
    if (outcome == FRAME_NONE)
        frames_keep(self);
    return NULL;
}

static PyObject *reader_midway(FrameReader *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(frames_midway(self));
}

static PyGetSetDef getters[] = {{"midway", (getter)reader_midway, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};

static PyMethodDef methods[] = {{"feed", (PyCFunction)reader_feed, METH_O, NULL}, {NULL, NULL, 0, NULL}};

static PyType_Slot slots[] = {
    {Py_tp_new, reader_new},
    {Py_tp_dealloc, reader_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, reader_next},
    {Py_tp_methods, methods},
    {Py_tp_getset, getters},
    {0, NULL},
};

static PyType_Spec spec = {"forkd._native.FrameReader", sizeof(FrameReader), 0, Py_TPFLAGS_DEFAULT, slots};

int frames_init(PyObject *module)
{
    n_inflate = PyUnicode_InternFromString("inflate");
    frame_reader_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return !n_inflate || !frame_reader_type ||
                   PyModule_AddObjectRef(module, "FrameReader", (PyObject *)frame_reader_type)
               ? -1
               : 0;
}
