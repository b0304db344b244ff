/* Accepting connections as bare Links, without an object of Python for each: the native twin of ListenerIntake.take in
 * engine/intake.py. */

#define _GNU_SOURCE
#include "native.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

PyTypeObject *source_type;

typedef union {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    struct sockaddr_un un;
} Address;

/* The numeric host, as socket.accept has it; "" for a unix socket. */
static PyObject *host_of(const Address *address, socklen_t size, unsigned *port)
{
    static PyObject *last; /* clients come again, and a proxy is a client */
    static in_addr_t its;
    char host[NI_MAXHOST] = "";
    *port = 0;
    if (address->any.sa_family == AF_INET) {
        *port = ntohs(address->in.sin_port);
        if (!last || address->in.sin_addr.s_addr != its) {
            PyObject *text = PyUnicode_FromString(inet_ntop(AF_INET, &address->in.sin_addr, host, sizeof host));
            if (!text)
                return NULL;
            Py_XDECREF(last);
            last = text;
            its = address->in.sin_addr.s_addr;
        }
        return Py_NewRef(last);
    } else if (address->any.sa_family == AF_INET6) {
        if (getnameinfo(&address->any, size, host, sizeof host, NULL, 0, NI_NUMERICHOST))
            *host = 0;
        *port = ntohs(address->in6.sin6_port);
    }
    return PyUnicode_FromString(host);
}

static PyObject *text_of(unsigned port)
{
    char digits[5], *at = digits + sizeof digits;
    do
        *--at = (char)('0' + port % 10);
    while (port /= 10);
    return PyUnicode_FromStringAndSize(at, digits + sizeof digits - at);
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

/* Both ends of a connection. Takes the reference to the last, which is NULL only with an exception. */
static PyObject *ends_of(PyObject *name, PyObject *port, PyObject *client, PyObject *client_port)
{
    PyObject *ends = client_port ? ends_made(name, port, client, client_port, NULL) : NULL;
    Py_XDECREF(client_port);
    return ends;
}

/* A bare Link for an accepted socket, which it takes. */
static PyObject *link_of(int fd, const Address *address, socklen_t size, const Source *source)
{
    unsigned port;
    Link *link = (Link *)allocate(link_type);
    if (!link) {
        close(fd);
        return NULL;
    }
    link->fd = fd;
    link->bare = 1;
    link->forks = forks;
    link->epoll = -1;
    if ((fd <= 2 && lift(link, source->mend)) || !(link->client = host_of(address, size, &port)) ||
        !(link->note = ends_of(source->server, source->port, link->client, text_of(port)))) {
        Py_DECREF((PyObject *)link);
        return NULL;
    }
    return (PyObject *)link;
}

PyObject *accept_links(const Source *source, long most)
{
    PyObject *links = PyList_New(0);
    for (long i = 0; links && i < most; i++) {
        Address address;
        socklen_t size = sizeof address;
        int fd;
        do
            fd = accept4(source->fd, &address.any, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        while (fd < 0 && errno == EINTR);
        if (fd < 0 && (i || errno == EAGAIN))
            break; /* the next call will say why */
        PyObject *link = fd < 0 ? PyErr_SetFromErrno(PyExc_OSError) : link_of(fd, &address, size, source);
        if (!link && i) {
            PyErr_Clear(); /* out of memory: one is lost, not the others */
            break;
        }
        if (!link || PyList_Append(links, link))
            Py_CLEAR(links);
        Py_XDECREF(link);
    }
    return links;
}

/* accept(most) -> up to `most` Links; fewer: no more wait. The `note` of each is its Ends. Raises OSError, unless there are
 * some. */
static PyObject *source_accept(Source *self, PyObject *number)
{
    long most = PyLong_AsLong(number);
    return PyErr_Occurred() ? NULL : accept_links(self, most);
}

static int source_traverse(Source *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->mend); /* the others are str */
    return 0;
}

static int source_clear(Source *self)
{
    Py_CLEAR(self->mend);
    return 0;
}

static void source_dealloc(Source *self)
{
    PyObject_GC_UnTrack(self);
    source_clear(self);
    Py_XDECREF(self->server);
    Py_XDECREF(self->port);
    release((PyObject *)self);
}

/* Source(fd, server, port, mend): a listener; `mend` is called when a standard descriptor was missing. */
static PyObject *source_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"fd", "server", "port", "mend", NULL};
    PyObject *server, *port, *mend;
    int fd;
    if (!by_name(args, keywords, "iUUO", names, &fd, &server, &port, &mend))
        return NULL;
    Source *self = (Source *)allocate(type);
    if (self) {
        self->fd = fd;
        self->server = Py_NewRef(server);
        self->port = Py_NewRef(port);
        self->mend = Py_NewRef(mend);
    }
    return (PyObject *)self;
}

static PyMethodDef methods[] = {
    {"accept", (PyCFunction)source_accept, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, source_new},
    {Py_tp_traverse, source_traverse},
    {Py_tp_clear, source_clear},
    {Py_tp_dealloc, source_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.Source", sizeof(Source), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots,
};

int intake_init(PyObject *module)
{
    source_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return !source_type || PyModule_AddObjectRef(module, "Source", (PyObject *)source_type) ? -1 : 0;
}
