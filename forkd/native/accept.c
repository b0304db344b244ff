/* Connections that are over as soon as they are served, without an object of Python for each: they are accepted, and
 * served once, as bare Links (models/inline.py, whose `serve` is the twin). What is more than that becomes a Connection
 * with a session, from where it stands. */

#define _GNU_SOURCE
#include "native.h"
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
        int fd = accept4((int)listener, &address.any, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (i || errno == EAGAIN))
            break; /* the next call will say why */
        PyObject *link = fd < 0 ? PyErr_SetFromErrno(PyExc_OSError) : link_of(fd, &address, size, args);
        if (!link || PyList_Append(links, link))
            Py_CLEAR(links);
        Py_XDECREF(link);
    }
    return links;
}
