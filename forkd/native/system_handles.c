/* epoll_wait(2), with its events as the kernel writes them: a list of tuples would be made only to be taken apart
 * again (system/handles.py, where its twin is). */

#include "native.h"
#include <errno.h>
#include <math.h>

PyTypeObject *events_type;

static void events_dealloc(Events *self)
{
    release((PyObject *)self);
}

static Py_ssize_t events_length(Events *self)
{
    return self->count;
}

static PyObject *events_item(Events *self, Py_ssize_t at)
{
    if (at < 0 || at >= self->count) {
        PyErr_SetString(PyExc_IndexError, "there are no more events");
        return NULL;
    }
    return Py_BuildValue("iI", self->events[at].data.fd, (unsigned)self->events[at].events);
}

/* epoll_wait(epoll, seconds or None) -> the ready (descriptor, mask) pairs, as a sequence. */
PyObject *native_epoll_wait(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (nargs < 1 || nargs > 2) {
        PyErr_SetString(PyExc_TypeError, "epoll_wait takes one or two arguments");
        return NULL;
    }
    long fd = PyLong_AsLong(args[0]);
    /* Rounded up: a wait that ends just before its deadline would be repeated at once. */
    double ms = nargs < 2 || args[1] == Py_None ? -1 : ceil(PyFloat_AsDouble(args[1]) * 1e3);
    if (PyErr_Occurred())
        return NULL;
    Events *self = (Events *)allocate(events_type);
    if (!self)
        return NULL;
    int failed;
    self->epoll = (int)fd;
    Py_BEGIN_ALLOW_THREADS
    self->count = epoll_wait((int)fd, self->events, MOST_EVENTS, ms < 0 ? -1 : ms > 1e9 ? 1000000000 : (int)ms);
    failed = self->count < 0 ? errno : 0;
    Py_END_ALLOW_THREADS
    if (failed == EINTR) { /* a handler may run, and then there is nothing ready */
        self->count = 0;
        failed = PyErr_CheckSignals();
    } else if (failed) {
        errno = failed;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    if (failed) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return (PyObject *)self;
}

int events_again(Events *self)
{
    int count = epoll_wait(self->epoll, self->events, MOST_EVENTS, 0);
    self->count = count > 0 ? count : 0; /* a signal: the next wait will see to it */
    return self->count;
}

/* epoll_control(epoll, operation, fd, mask) -> epoll_ctl(2). The GIL is kept: it takes less time than to let another
 * thread have it, and to wait until that gives it back. */
PyObject *native_epoll_control(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (nargs < 3 || nargs > 4) {
        PyErr_SetString(PyExc_TypeError, "epoll_control takes three or four arguments");
        return NULL;
    }
    long epoll = PyLong_AsLong(args[0]), operation = PyLong_AsLong(args[1]), fd = PyLong_AsLong(args[2]);
    struct epoll_event event = {.events = nargs < 4 ? 0 : (uint32_t)PyLong_AsUnsignedLong(args[3]), .data.fd = (int)fd};
    if (PyErr_Occurred())
        return NULL;
    if (epoll_ctl((int)epoll, (int)operation, (int)fd, &event))
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyType_Slot slots[] = {
    {Py_tp_dealloc, events_dealloc},
    {Py_sq_length, events_length},
    {Py_sq_item, events_item},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.Events", sizeof(Events), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots,
};

int epoll_init(PyObject *module)
{
    (void)module;
    events_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return events_type ? 0 : -1;
}
