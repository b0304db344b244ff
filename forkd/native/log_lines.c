/* Lines of the access log (log/lines.py, where their twin is): Combined Log Format with the duration. */

#include "native.h"

enum { MOST_LINE = 4096, MOST_NUMBERS = 100, MOST_STAMP = 64 };

/* `at` and what follows it, for text that needs no escape; NULL when it does, or is too long. */
static char *quiet(char *at, const char *limit, const char *text, Py_ssize_t size)
{
    if (!text || limit - at < size || skip_quiet(text, text + size) != text + size)
        return NULL;
    memcpy(at, text, size);
    return at + size;
}

static char *literal(char *at, const char *text)
{
    while (*text)
        *at++ = *text++;
    return at;
}

typedef struct {
    PyObject_HEAD
    PyObject *stamp_of;
    RingWriter *ring;
    uint32_t log;
    time_t second; /* whose stamp is known */
    char stamp[MOST_STAMP];
    Py_ssize_t stamp_size;
    char text[MOST_LINE]; /* the last line */
} Lines;

/* Know the stamp of the present second. Returns 0, or -1 with an exception. */
static int know_stamp(Lines *self)
{
    time_t now = time(NULL);
    if (now == self->second)
        return 0;
    PyObject *number = PyLong_FromLongLong(now), *stamp;
    if (!number)
        return -1;
    stamp = PyObject_CallFunctionObjArgs(self->stamp_of, number, NULL);
    Py_DECREF(number);
    Py_ssize_t size;
    const char *text = stamp ? PyUnicode_AsUTF8AndSize(stamp, &size) : NULL;
    if (text && size <= MOST_STAMP) {
        memcpy(self->stamp, text, size);
        self->stamp_size = size;
        self->second = now;
    } else if (text) {
        PyErr_SetString(PyExc_ValueError, "that is no stamp");
    }
    Py_XDECREF(stamp);
    return self->second == now ? 0 : -1;
}

int make_line(PyObject *lines, PyObject *host_text, PyObject *request_line, uint64_t status, uint64_t sent,
              PyObject *referer, PyObject *agent, uint64_t ns, PyObject *id, Line *line)
{
    Lines *self = (Lines *)lines;
    char *request;
    Py_ssize_t size, request_size;
    uint64_t us = (ns + 500) / 1000;
    if (PyBytes_AsStringAndSize(request_line, &request, &request_size) || know_stamp(self))
        return -1;
    char *at = self->text;
    const char *limit = at + MOST_LINE - MOST_NUMBERS, *host = ascii(host_text, &size);
    if (!(at = host && !size ? literal(at, "unix:") : quiet(at, limit, host, size)))
        return 0;
    at = literal(at, " - - [");
    if (!(at = quiet(at, limit, self->stamp, self->stamp_size)))
        return 0;
    at = literal(at, "] \"");
    if (!(at = quiet(at, limit, request, request_size)))
        return 0;
    at = literal(at, "\" ");
    at = decimal(at, status);
    *at++ = ' ';
    at = decimal(at, sent);
    for (int i = 0; i < 2; i++) {
        at = literal(at, i ? "\" \"" : " \"");
        const char *text = ascii(i ? agent : referer, &size);
        if (!(at = quiet(at, limit, text, size)))
            return 0;
    }
    at = literal(at, "\" ");
    at = decimal(at, us / 1000000);
    *at++ = '.';
    for (uint64_t unit = 100000; unit; unit /= 10)
        *at++ = (char)('0' + us / unit % 10);
    const char *name = id ? ascii(id, &size) : NULL;
    if (name && size) {
        *at++ = ' ';
        if (!(at = quiet(at, self->text + MOST_LINE - 1, name, size)))
            return 0;
    }
    *at++ = '\n';
    line->ring = self->ring;
    line->log = self->log;
    line->text = self->text;
    line->size = at - self->text;
    return ring_has_room(self->ring, line->size);
}

/* make(host, request, status, size, referer, agent, ns, reason, id, peer) -> as the twin; None when something in it needs
 * an escape, or it is too long. */
static PyObject *lines_make(Lines *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 10) {
        PyErr_SetString(PyExc_TypeError, "make takes ten arguments");
        return NULL;
    }
    uint64_t status = PyLong_AsUnsignedLongLong(args[2]), sent = PyLong_AsUnsignedLongLong(args[3]),
             ns = PyLong_AsUnsignedLongLong(args[6]);
    Line line = {NULL, 0, NULL, 0};
    if (PyErr_Occurred() || make_line((PyObject *)self, args[0], args[1], status, sent, args[4], args[5], ns, args[8], &line) < 0)
        return NULL;
    return line.text ? PyBytes_FromStringAndSize(line.text, line.size) : Py_NewRef(Py_None);
}

/* Lines(stamp_of, ring, log): `stamp_of(seconds)` is the text of a time, which needs no escape; lines that native code
 * makes go to that log, by way of that RingWriter. */
static PyObject *lines_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"stamp_of", "ring", "log", NULL};
    PyObject *stamp_of, *ring;
    unsigned log;
    if (!by_name(args, keywords, "OO!I", names, &stamp_of, ring_writer_type, &ring, &log))
        return NULL;
    Lines *self = (Lines *)allocate(type);
    if (self) {
        self->stamp_of = Py_NewRef(stamp_of);
        self->ring = (RingWriter *)Py_NewRef(ring);
        self->log = log;
    }
    return (PyObject *)self;
}

static void lines_dealloc(Lines *self)
{
    Py_XDECREF(self->stamp_of);
    Py_XDECREF((PyObject *)self->ring);
    release((PyObject *)self);
}

static PyMethodDef methods[] = {
    {"make", (PyCFunction)(void (*)(void))lines_make, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, lines_new},
    {Py_tp_dealloc, lines_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.Lines", sizeof(Lines), 0, Py_TPFLAGS_DEFAULT, slots,
};

PyTypeObject *lines_type;

int line_init(PyObject *module)
{
    lines_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return lines_type && !PyModule_AddObjectRef(module, "Lines", (PyObject *)lines_type) ? 0 : -1;
}
