/* Connections that are over as soon as they are served, without an object of Python for each: they are accepted, and
 * served once, as bare Links (models/inline.py, whose `serve` is the twin). What is more than that becomes a Connection
 * with a session, from where it stands. */

#define _GNU_SOURCE
#include "dispatch.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

typedef union {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    struct sockaddr_un un;
} Address;

/* The numeric host, as socket.accept has it; "" for a unix socket. */
static PyObject *host_of(const Address *address, socklen_t size, unsigned *port)
{
    char host[NI_MAXHOST] = "";
    *port = 0;
    if (address->any.sa_family == AF_INET) {
        inet_ntop(AF_INET, &address->in.sin_addr, host, sizeof host);
        *port = ntohs(address->in.sin_port);
    } else if (address->any.sa_family == AF_INET6) {
        if (getnameinfo(&address->any, size, host, sizeof host, NULL, 0, NI_NUMERICHOST))
            *host = 0;
        *port = ntohs(address->in6.sin6_port);
    }
    return PyUnicode_FromString(host);
}

/* Take the socket away from the three standard numbers, as standard.lift does. Returns 0, or -1 with an exception. */
static int lift(Link *link, PyObject *mend)
{
    int fd = fcntl(link->fd, F_DUPFD_CLOEXEC, 3);
    if (fd < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    close(link->fd);
    link->fd = fd;
    PyObject *done = PyObject_CallNoArgs(mend);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* A bare Link for an accepted socket, which it takes. */
static PyObject *link_of(int fd, const Address *address, socklen_t size, PyObject *const *args)
{
    unsigned port;
    Link *link = (Link *)allocate(link_type);
    if (!link) {
        close(fd);
        return NULL;
    }
    link->fd = fd;
    link->bare = 1;
    if ((fd <= 2 && lift(link, args[4])) || !(link->client = host_of(address, size, &port)) ||
        !(link->note = Py_BuildValue("(OOON)", args[2], args[3], link->client, PyUnicode_FromFormat("%u", port)))) {
        Py_DECREF((PyObject *)link);
        return NULL;
    }
    return (PyObject *)link;
}

/* accept(listener, most, name, port, mend) -> up to `most` Links, whose `note` is what Ends are (http/environ.py);
 * fewer: nobody else waits. `name` and `port` are the server's, as strings, and `mend` is what is called when a
 * standard descriptor was missing. Raises OSError, unless there are some. */
PyObject *native_accept(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (nargs != 5) {
        PyErr_SetString(PyExc_TypeError, "accept takes five arguments");
        return NULL;
    }
    long listener = PyLong_AsLong(args[0]), most = PyLong_AsLong(args[1]);
    PyObject *links = PyErr_Occurred() ? NULL : PyList_New(0);
    for (long i = 0; links && i < most; i++) {
        Address address;
        socklen_t size = sizeof address;
        int fd;
        do
            fd = accept4((int)listener, &address.any, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        while (fd < 0 && errno == EINTR);
        if (fd < 0 && (i || errno == EAGAIN))
            break; /* the next call will say why */
        PyObject *link = fd < 0 ? PyErr_SetFromErrno(PyExc_OSError) : link_of(fd, &address, size, args);
        if (!link && i) {
            PyErr_Clear(); /* one is lost, for want of memory; not the others */
            break;
        }
        if (!link || PyList_Append(links, link))
            Py_CLEAR(links);
        Py_XDECREF(link);
    }
    return links;
}

/* ---- served once ---------------------------------------------------------------------------- */

/* The Connection of a bare Link. Returns 0 when it could be made, and was told so with the value; or -1 with an
 * exception. Takes the reference to the value, which is NULL only with an exception. */
static int grow(Dispatcher *self, Link *link, PyObject *name, PyObject *value)
{
    PyObject *conn = value ? link_grown(link) : NULL;
    int failed = conn ? loop_tell(self->loop, name, (Link *)conn, value) : -1;
    Py_XDECREF(conn);
    Py_XDECREF(value);
    return failed;
}

/* Its answer is sent, which was the last. Returns 0, or -1 with an exception. */
static int end_link(Dispatcher *self, Link *link)
{
    char byte;
    if (recv(link->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0) {
        link_close(link);
        return 0;
    }
    PyObject *conn = link_grown(link); /* it sends more: see Keeper */
    int failed = conn ? loop_tell(self->loop, n_ended, (Link *)conn, NULL) : -1;
    Py_XDECREF(conn);
    return failed;
}

int link_begin(Dispatcher *self, Link *link, PyObject *opening)
{
    ssize_t size = recv(link->fd, self->buffer, CHUNK, MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return grow(self, link, n_rest, Py_NewRef(opening));
    if (size <= 0) {
        link_close(link);
        return 0;
    }
    int rests = rest_known(&self->rest, link), failed = -1;
    if (rests < 0)
        return -1;
    PyObject *exchange = Py_XNewRef(self->rest.exchange), *then = Py_NewRef(self->rest.then), *answer = NULL, *rest;
    UsualRequest *request = NULL;
    int begun = rests ? exchange_read(exchange, self->buffer, size, link, &request) : 0;
    if (begun > 0)
        begun = exchange_call(exchange, link, request, &answer);
    if (!begun) {
        failed = grow(self, link, n_feed, PyBytes_FromStringAndSize(self->buffer, size));
    } else if (begun == 2) {
        failed = loop_tell(self->loop, n_feed, (Link *)request->peer, (PyObject *)request);
    } else if (begun == 1 && (rest = send_now(link, answer))) {
        if (rest != Py_None) {
            request->answer = Py_NewRef(rest);
            failed = grow(self, link, n_feed, Py_NewRef((PyObject *)request));
        } else if (exchange_end(exchange, request) >= 0) {
            failed = request->close ? end_link(self, link) : grow(self, link, n_rest, Py_NewRef(then));
        }
        Py_DECREF(rest);
    }
    Py_XDECREF(answer);
    Py_XDECREF((PyObject *)request);
    Py_XDECREF(exchange);
    Py_DECREF(then);
    return failed;
}
