/* The answer of an application to bytes (app/wsgi/shortcut.py; its twin is http/response.py). */

#include "native.h"
#include <stddef.h>
#include <structmember.h>

enum { MOST_PAIRS = 16, MEMOS = 16 /* a power of two */ };

PyTypeObject *block_type;

static void block_dealloc(Block *self)
{
    Py_CLEAR(self->block);
    release((PyObject *)self);
}

static PyObject *block_length(Block *self, void *closure)
{
    (void)closure;
    return self->length < 0 ? Py_NewRef(Py_None) : PyLong_FromSsize_t(self->length);
}

#define MEMBER(name, type) {#name, type, offsetof(Block, name), READONLY, NULL}

static PyMemberDef members[] = {
    MEMBER(block, T_OBJECT), MEMBER(code, T_LONG), MEMBER(dated, T_BOOL), MEMBER(named, T_BOOL),
    MEMBER(identified, T_BOOL), {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef getters[] = {
    {"length", (getter)block_length, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_dealloc, block_dealloc},
    {Py_tp_members, members},
    {Py_tp_getset, getters},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.Block", sizeof(Block), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots,
};

/* New reference; takes `lines`, which may be NULL with an exception. */
static Block *block_new(PyObject *lines, long code, int dated, int named, int identified)
{
    Block *self = lines ? (Block *)allocate(block_type) : NULL;
    if (!self) {
        Py_XDECREF(lines);
        return NULL;
    }
    self->block = lines;
    self->code = code;
    self->length = -1;
    self->dated = dated != 0;
    self->named = named != 0;
    self->identified = identified != 0;
    return self;
}

/* Which field that is, if it is one of those that matter here; 0 for all others. ITS_OWN: PEP 3333. */
static unsigned field_of(const char *name, Py_ssize_t size)
{
    static const struct {
        const char *name;
        Py_ssize_t size;
        unsigned field;
    } fields[] = {
#define FIELD(name, field) {name, sizeof name - 1, field}
        FIELD("content-type", HAS_TYPE), FIELD("content-length", HAS_LENGTH), FIELD("content-encoding", HAS_ENCODING),
        FIELD("date", HAS_DATE), FIELD("server", HAS_SERVER), FIELD("x-request-id", HAS_ID), FIELD("connection", ITS_OWN),
        FIELD("keep-alive", ITS_OWN), FIELD("proxy-authenticate", ITS_OWN), FIELD("proxy-authorization", ITS_OWN),
        FIELD("proxy-connection", ITS_OWN), FIELD("te", ITS_OWN), FIELD("trailer", ITS_OWN), FIELD("trailers", ITS_OWN),
        FIELD("transfer-encoding", ITS_OWN), FIELD("upgrade", ITS_OWN),
#undef FIELD
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (size == fields[i].size && (!memcmp(name, fields[i].name, size) || is(name, size, fields[i].name)))
            return fields[i].field;
    return 0;
}

/* A Content-Length, or -1 when it is not a usual one. */
static Py_ssize_t length_of(const char *at, Py_ssize_t size)
{
    Py_ssize_t length = 0;
    if (size < 1 || size > 18)
        return -1;
    for (Py_ssize_t i = 0; i < size; i++) {
        if (at[i] < '0' || at[i] > '9')
            return -1;
        length = length * 10 + (at[i] - '0');
    }
    return length;
}

/* ---- what was seen before ------------------------------------------------------------------- */

/* Applications name the same constants again and again: the very same tuples of the very same strings, but for
 * Content-Length. They are kept alive here, and so are what they were, as long as an entry stands. */
static struct memo {
    PyObject *status, *pairs[MOST_PAIRS]; /* the name alone, where `framing` */
    Py_ssize_t count, framing; /* `framing`: the place of Content-Length, or -1 */
    Block *block;
} memos[MEMOS];

static struct memo *memo_of(PyObject *status, PyObject *headers, Py_ssize_t count)
{
    uintptr_t mark = (uintptr_t)status;
    if (count)
        mark ^= (uintptr_t)PyList_GetItem(headers, 0) >> 1;
    return &memos[(mark >> 4 ^ mark >> 9 ^ (uintptr_t)count) & (MEMOS - 1)];
}

/* The block of what stands in `memo`, but for its length; NULL, without an exception, when that is not known. */
static Block *remembered(const struct memo *memo, PyObject *status, PyObject *headers, Py_ssize_t count)
{
    Py_ssize_t length = -1;
    if (memo->status != status || memo->count != count)
        return NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *pair = PyList_GetItem(headers, i);
        if (i == memo->framing) {
            Py_ssize_t size;
            const char *text;
            if (!PyTuple_CheckExact(pair) || PyTuple_Size(pair) != 2 || PyTuple_GetItem(pair, 0) != memo->pairs[i] ||
                !(text = ascii(PyTuple_GetItem(pair, 1), &size)) || (length = length_of(text, size)) < 0)
                return NULL;
        } else if (pair != memo->pairs[i]) {
            return NULL;
        }
    }
    const Block *known = memo->block;
    Block *block = block_new(Py_NewRef(known->block), known->code, known->dated, known->named, known->identified);
    if (block)
        block->length = length;
    else
        PyErr_Clear();
    return block;
}

static void remember(struct memo *memo, PyObject *status, PyObject *headers, Py_ssize_t count, Py_ssize_t framing,
                     Block *block)
{
    struct memo old = *memo;
    memo->status = Py_NewRef(status);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *pair = PyList_GetItem(headers, i);
        memo->pairs[i] = Py_NewRef(i == framing ? PyTuple_GetItem(pair, 0) : pair);
    }
    memo->count = count;
    memo->framing = framing;
    memo->block = (Block *)Py_NewRef((PyObject *)block);
    for (Py_ssize_t i = 0; i < old.count; i++)
        Py_DECREF(old.pairs[i]);
    Py_XDECREF(old.status);
    Py_XDECREF((PyObject *)old.block);
}

/* ---- status and headers --------------------------------------------------------------------- */

int lines_begin(HeadLines *self, const char *status, Py_ssize_t size)
{
    if (size < 4 || size > 128 || status[3] != ' ')
        return 0;
    for (int i = 0; i < 3; i++)
        if (status[i] < '0' || status[i] > '9')
            return 0;
    if (status[0] < '2' || skip_text(status, status + size) != status + size)
        return 0;
    self->code = (status[0] - '0') * 100 + (status[1] - '0') * 10 + (status[2] - '0');
    self->length = -1;
    self->has = 0;
    memcpy(self->out, "HTTP/1.1 ", 9);
    memcpy(self->out + 9, status, size);
    memcpy(self->out + 9 + size, "\r\n", 2);
    self->used = 11 + size;
    return 1;
}

int lines_add(HeadLines *self, const char *name, Py_ssize_t name_size, const char *value, Py_ssize_t value_size)
{
    if (!name_size || self->used + name_size + value_size + 4 > MOST_BLOCK ||
        skip(name, name + name_size, TOKEN) != name + name_size || skip_text(value, value + value_size) != value + value_size)
        return 0;
    unsigned field = field_of(name, name_size);
    self->has |= field;
    if (field == HAS_LENGTH)
        return self->length < 0 && (self->length = length_of(value, value_size)) >= 0;
    if (field == ITS_OWN)
        return 0;
    while (value_size && (*value == ' ' || *value == '\t'))
        value++, value_size--;
    while (value_size && (value[value_size - 1] == ' ' || value[value_size - 1] == '\t'))
        value_size--;
    char *at = self->out + self->used;
    memcpy(at, name, name_size);
    at += name_size;
    *at++ = ':';
    *at++ = ' ';
    memcpy(at, value, value_size);
    at += value_size;
    *at++ = '\r';
    *at++ = '\n';
    self->used = at - self->out;
    return 1;
}

Block *lines_block(const HeadLines *self)
{
    Block *block = block_new(PyBytes_FromStringAndSize(self->out, self->used), self->code, self->has & HAS_DATE,
                             self->has & HAS_SERVER, self->has & HAS_ID);
    if (block)
        block->length = self->length;
    return block;
}

/* block(status, headers) -> a Block, which is as a http.response.Head; None when there is anything unusual. */
PyObject *usual_block(PyObject *status_text, PyObject *headers)
{
    HeadLines lines;
    if (!PyList_CheckExact(headers))
        Py_RETURN_NONE;
    Py_ssize_t size = 0, framing = -1, count = PyList_Size(headers);
    struct memo *memo = memo_of(status_text, headers, count);
    Block *block = remembered(memo, status_text, headers, count);
    if (block)
        return (PyObject *)block;
    const char *status = ascii(status_text, &size);
    if (!status || !lines_begin(&lines, status, size))
        Py_RETURN_NONE;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *pair = PyList_GetItem(headers, i);
        if (!pair || !PyTuple_CheckExact(pair) || PyTuple_Size(pair) != 2)
            Py_RETURN_NONE;
        Py_ssize_t name_size, value_size, before = lines.length;
        const char *name = ascii(PyTuple_GetItem(pair, 0), &name_size);
        const char *value = ascii(PyTuple_GetItem(pair, 1), &value_size);
        if (!name || !value || !lines_add(&lines, name, name_size, value, value_size))
            Py_RETURN_NONE;
        if (lines.length != before)
            framing = i;
    }
    if ((block = lines_block(&lines)) && count <= MOST_PAIRS)
        remember(memo, status_text, headers, count, framing, block);
    return (PyObject *)block;
}

PyObject *block(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    (void)self;
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "block takes two arguments");
        return NULL;
    }
    return usual_block(args[0], args[1]);
}

enum { MOST_EXTRA = 480, MOST_SERVER = 160, MOST_ID = 128 };

static char *copy(char *at, const void *from, size_t size)
{
    memcpy(at, from, size);
    return at + size;
}

#define COPY(at, literal) copy(at, literal, sizeof literal - 1)

/* The lines that forkd adds to those of a block, up to the end of the head: see usual_answer. `length` negative: the body
 * is in chunks. Returns their size, or -1 with an exception; 0: they are for the twin. */
static Py_ssize_t own_lines(char extra[MOST_EXTRA], const Block *block, PyObject *date_text, PyObject *server_line,
                            PyObject *request_id, const char *more, Py_ssize_t length, int close)
{
    char *date, *server, *at = extra;
    Py_ssize_t date_size, server_size, id_size = 0;
    const char *id = request_id ? ascii(request_id, &id_size) : NULL;
    if (PyBytes_AsStringAndSize(date_text, &date, &date_size) || PyBytes_AsStringAndSize(server_line, &server, &server_size))
        return -1;
    if (block->code == 204 || block->code == 304 || date_size > 40 || server_size > MOST_SERVER || id_size > MOST_ID ||
        (more && strlen(more) >= MOST_TIMING))
        return 0;
    if (!block->dated) {
        at = COPY(at, "Date: ");
        at = copy(at, date, date_size);
        at = COPY(at, "\r\n");
    }
    if (!block->named)
        at = copy(at, server, server_size);
    if (id_size && !block->identified) {
        at = COPY(at, "X-Request-ID: ");
        at = copy(at, id, id_size);
        at = COPY(at, "\r\n");
    }
    if (more)
        at = copy(at, more, strlen(more));
    if (length < 0) {
        at = COPY(at, "Transfer-Encoding: chunked");
    } else {
        at = COPY(at, "Content-Length: ");
        at = decimal(at, (uint64_t)length);
    }
    if (close)
        at = COPY(at, "\r\nConnection: close");
    at = COPY(at, "\r\n\r\n");
    return at - extra;
}

/* The answer to a GET or the like, whose body is one block, with the line of Server or nothing, the name of
 * its request, a str, if it has one, and another line, or NULL: as bytes; with a body of more than `most` bytes as
 * a head and that body. None when that is not all there is to it. */
PyObject *usual_answer(const Block *block, PyObject *date, PyObject *server, PyObject *id, const char *more,
                       PyObject *body_bytes, int close, Py_ssize_t most)
{
    char *lines, *body, extra[MOST_EXTRA];
    Py_ssize_t lines_size, body_size, extra_size;
    if (PyBytes_AsStringAndSize(block->block, &lines, &lines_size) ||
        PyBytes_AsStringAndSize(body_bytes, &body, &body_size) ||
        (extra_size = own_lines(extra, block, date, server, id, more, body_size, close)) < 0)
        return NULL;
    if (!extra_size || (block->length >= 0 && block->length != body_size))
        Py_RETURN_NONE;
    int whole = body_size <= most;
    PyObject *result = PyBytes_FromStringAndSize(NULL, lines_size + extra_size + (whole ? body_size : 0));
    if (result) {
        char *out = copy(copy(PyBytes_AsString(result), lines, lines_size), extra, extra_size);
        if (whole)
            copy(out, body, body_size);
    }
    return whole || !result ? result : Py_BuildValue("NO", result, body_bytes);
}

Py_ssize_t usual_head(char out[MOST_HEAD], const Block *block, PyObject *date, PyObject *server, PyObject *id,
                      const char *more, Py_ssize_t length, int close)
{
    char *lines;
    Py_ssize_t lines_size, extra_size;
    if (PyBytes_AsStringAndSize(block->block, &lines, &lines_size))
        return -1;
    memcpy(out, lines, lines_size);
    extra_size = own_lines(out + lines_size, block, date, server, id, more, length, close);
    return extra_size <= 0 ? extra_size : lines_size + extra_size;
}

/* answer(block, date, server, id, body, close): see usual_answer; always as bytes. */
PyObject *answer(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    (void)self;
    if (nargs != 6) {
        PyErr_SetString(PyExc_TypeError, "answer takes six arguments");
        return NULL;
    }
    if (Py_TYPE(args[0]) != block_type) {
        PyErr_SetString(PyExc_TypeError, "that is no block");
        return NULL;
    }
    return usual_answer((Block *)args[0], args[1], args[2], args[3], NULL, args[4], args[5] == Py_True, PY_SSIZE_T_MAX);
}

int answer_init(PyObject *module)
{
    block_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return !block_type || PyObject_SetAttrString((PyObject *)block_type, "close", Py_False) ||
                   PyModule_AddObjectRef(module, "Block", (PyObject *)block_type)
               ? -1
               : 0;
}
