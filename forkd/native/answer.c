/* The answer of an application to bytes (http/usual.py; its twin is http/response.py). */

#include "native.h"

enum { MOST_BLOCK = 4096 };

/* Not for an application to set (PEP 3333), or for the twin to judge. */
static const char *const not_usual[] = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
    "te", "trailer", "trailers", "transfer-encoding", "upgrade", NULL,
};

/* block(status, headers) -> (lines for the wire, code, Content-Length or None, has Date, has Server), which
 * makes a http.response.Head; None when there is anything unusual in them. */
PyObject *usual_block(PyObject *status_text, PyObject *headers)
{
    char out[MOST_BLOCK];
    Py_ssize_t size = 0, used = 0, length = -1;
    const char *status = ascii(status_text, &size);
    if (!status || size < 4 || size > 128 || status[3] != ' ' || !PyList_CheckExact(headers))
        Py_RETURN_NONE;
    for (int i = 0; i < 3; i++)
        if (status[i] < '0' || status[i] > '9')
            Py_RETURN_NONE;
    if (status[0] < '2' || skip_text(status, status + size) != status + size)
        Py_RETURN_NONE;
    long code = (status[0] - '0') * 100 + (status[1] - '0') * 10 + (status[2] - '0');
    memcpy(out, "HTTP/1.1 ", 9);
    memcpy(out + 9, status, size);
    memcpy(out + 9 + size, "\r\n", 2);
    used = 11 + size;

    int dated = 0, named = 0;
    Py_ssize_t count = PyList_Size(headers);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *pair = PyList_GetItem(headers, i);
        if (!pair || !PyTuple_CheckExact(pair) || PyTuple_Size(pair) != 2)
            Py_RETURN_NONE;
        Py_ssize_t name_size, value_size;
        const char *name = ascii(PyTuple_GetItem(pair, 0), &name_size);
        const char *value = ascii(PyTuple_GetItem(pair, 1), &value_size);
        if (!name || !value || !name_size || used + name_size + value_size + 4 > MOST_BLOCK ||
            skip(name, name + name_size, TOKEN) != name + name_size ||
            skip_text(value, value + value_size) != value + value_size)
            Py_RETURN_NONE;
        while (value_size && (*value == ' ' || *value == '\t'))
            value++, value_size--;
        while (value_size && (value[value_size - 1] == ' ' || value[value_size - 1] == '\t'))
            value_size--;
        if (is(name, name_size, "content-length")) {
            if (length >= 0 || value_size < 1 || value_size > 18)
                Py_RETURN_NONE;
            length = 0;
            for (Py_ssize_t j = 0; j < value_size; j++) {
                if (value[j] < '0' || value[j] > '9')
                    Py_RETURN_NONE;
                length = length * 10 + (value[j] - '0');
            }
            continue;
        }
        for (int j = 0; not_usual[j]; j++)
            if (is(name, name_size, not_usual[j]))
                Py_RETURN_NONE;
        dated |= is(name, name_size, "date");
        named |= is(name, name_size, "server");
        memcpy(out + used, name, name_size);
        used += name_size;
        out[used++] = ':';
        out[used++] = ' ';
        memcpy(out + used, value, value_size);
        used += value_size;
        out[used++] = '\r';
        out[used++] = '\n';
    }
    PyObject *framed = length < 0 ? Py_NewRef(Py_None) : PyLong_FromSsize_t(length);
    return Py_BuildValue("y#lNOO", out, used, code, framed, dated ? Py_True : Py_False, named ? Py_True : Py_False);
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

enum { MOST_EXTRA = 160 };

static char *copy(char *at, const void *from, size_t size)
{
    memcpy(at, from, size);
    return at + size;
}

#define COPY(at, literal) copy(at, literal, sizeof literal - 1)

/* The answer to a GET or the like, whose body is one block: as bytes; with a body of more than `most` bytes as
 * a head and that body. None when that is not all there is to it. */
PyObject *usual_answer(PyObject *block, PyObject *date_text, PyObject *body_bytes, int close, Py_ssize_t most)
{
    const char *lines;
    char *date, *body;
    Py_ssize_t lines_size, date_size, body_size;
    PyObject *length;
    long code;
    int dated, named;
    if (!PyArg_ParseTuple(block, "y#lOpp", &lines, &lines_size, &code, &length, &dated, &named) ||
        PyBytes_AsStringAndSize(date_text, &date, &date_size) ||
        PyBytes_AsStringAndSize(body_bytes, &body, &body_size))
        return NULL;
    if (code == 204 || code == 304 || date_size > 40 ||
        (length != Py_None && PyLong_AsSsize_t(length) != body_size))
        Py_RETURN_NONE;
    char extra[MOST_EXTRA], *at = extra;
    if (!dated) {
        at = COPY(at, "Date: ");
        at = copy(at, date, date_size);
        at = COPY(at, "\r\n");
    }
    if (!named)
        at = COPY(at, "Server: forkd\r\n");
    at = COPY(at, "Content-Length: ");
    at = decimal(at, (uint64_t)body_size);
    if (close)
        at = COPY(at, "\r\nConnection: close");
    at = COPY(at, "\r\n\r\n");
    int whole = body_size <= most;
    PyObject *result = PyBytes_FromStringAndSize(NULL, lines_size + (at - extra) + (whole ? body_size : 0));
    if (result) {
        char *out = copy(copy(PyBytes_AsString(result), lines, lines_size), extra, at - extra);
        if (whole)
            copy(out, body, body_size);
    }
    return whole || !result ? result : Py_BuildValue("NO", result, body_bytes);
}

/* answer(block, date, body, close): see usual_answer; always as bytes. */
PyObject *answer(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    (void)self;
    if (nargs != 4) {
        PyErr_SetString(PyExc_TypeError, "answer takes four arguments");
        return NULL;
    }
    return usual_answer(args[0], args[1], args[2], args[3] == Py_True, PY_SSIZE_T_MAX);
}
