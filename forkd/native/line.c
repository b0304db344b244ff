/* One line of the access log (log.py, where its twin is): Combined Log Format with the duration. */

#include "native.h"

enum { MOST_LINE = 4096, MOST_NUMBERS = 100 };

/* `at` and what follows it, for text that needs no escape; NULL when it does, or is too long. */
static char *quiet(char *at, const char *limit, const char *text, Py_ssize_t size)
{
    if (!text || limit - at < size || skip(text, text + size, QUIET) != text + size)
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

/* line(host, stamp, request, status, size, referer, agent, ns) -> bytes, with its newline; None when
 * something in it needs an escape. */
PyObject *line(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    char out[MOST_LINE], *at = out, *request;
    const char *limit = out + MOST_LINE - MOST_NUMBERS;
    Py_ssize_t size, request_size;
    (void)self;
    if (nargs != 8) {
        PyErr_SetString(PyExc_TypeError, "line takes eight arguments");
        return NULL;
    }
    unsigned long long status = PyLong_AsUnsignedLongLong(args[3]), sent = PyLong_AsUnsignedLongLong(args[4]),
                       ns = PyLong_AsUnsignedLongLong(args[7]), us = (ns + 500) / 1000;
    if (PyErr_Occurred() || PyBytes_AsStringAndSize(args[2], &request, &request_size))
        return NULL;
    const char *host = ascii(args[0], &size);
    if (!(at = host && !size ? literal(at, "unix:") : quiet(at, limit, host, size)))
        Py_RETURN_NONE;
    at = literal(at, " - - [");
    const char *stamp = ascii(args[1], &size);
    if (!(at = quiet(at, limit, stamp, size)))
        Py_RETURN_NONE;
    at = literal(at, "] \"");
    if (!(at = quiet(at, limit, request, request_size)))
        Py_RETURN_NONE;
    at = literal(at, "\" ");
    at = decimal(at, status);
    *at++ = ' ';
    at = decimal(at, sent);
    for (int i = 5; i < 7; i++) {
        at = literal(at, i == 5 ? " \"" : "\" \"");
        const char *text = ascii(args[i], &size);
        if (!(at = quiet(at, limit, text, size)))
            Py_RETURN_NONE;
    }
    at = literal(at, "\" ");
    at = decimal(at, us / 1000000);
    *at++ = '.';
    for (uint64_t unit = 100000; unit; unit /= 10)
        *at++ = (char)('0' + us / unit % 10);
    *at++ = '\n';
    return PyBytes_FromStringAndSize(out, at - out);
}
