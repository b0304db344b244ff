/* forkd._native: the usual case of what every request costs, in one pass each.
 *
 * Optional: each part has a twin in Python, which knows every rule and every error. Native code only ever
 * accepts: what is not plainly usual comes back as None, and the twin looks at it. So it has no error of
 * its own to report, and must never do otherwise than its twin would (tests/native compares the two).
 *
 * Stable ABI (PEP 384) of Python 3.11. All is done under the GIL, but for the waits in system_handles.c,
 * system_ring.c, engine_baton.c and storage_lock.c, large sends in engine_link.c, and the handlers of a fork in
 * system_forked.c and storage_lock.c. These parts make system calls, and so do engine_intake.c,
 * engine_accept.c, http_request_id.c and system_signals.c; the others make none.
 */

#include "asgi_message_flow.h"
#include "storage_table.h"
#include <stdarg.h>

PyObject *allocate(PyTypeObject *type)
{
    return PyType_GenericAlloc(type, 0); /* none of ours, and no class made of one, has another */
}

void release(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    if (PyType_GetFlags(type) & Py_TPFLAGS_HAVE_GC)
        PyObject_GC_Del(object);
    else
        PyObject_Free(object);
    Py_DECREF(type);
}

int by_name(PyObject *args, PyObject *keywords, const char *format, char **names, ...)
{
    va_list places;
    if (PyTuple_Size(args)) {
        PyErr_SetString(PyExc_TypeError, "each argument of it has a name");
        return 0;
    }
    va_start(places, names);
    int parsed = PyArg_VaParseTupleAndKeywords(args, keywords, format, names, places);
    va_end(places);
    return parsed;
}

PyObject *taken_exception(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback)
        PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
}

/* blank(size) -> bytes of no particular content, to be written through a buffer before they are read. */
static PyObject *blank(PyObject *self, PyObject *size)
{
    (void)self;
    Py_ssize_t count = PyLong_AsSsize_t(size);
    if (count < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "fewer than no bytes");
        return NULL;
    }
    return PyBytes_FromStringAndSize(NULL, count);
}

#define FAST(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL, NULL

static PyMethodDef functions[] = {
    {"read_head", FAST(read_head)},
    {"read_packet", FAST(read_packet)},
    {"block", FAST(block)},
    {"answer", FAST(answer)},
    {"blank", blank, METH_O, NULL},
    {"epoll_control", FAST(native_epoll_control)},
    {"epoll_wait", FAST(native_epoll_wait)},
    {"only_from_processes", native_only_from_processes, METH_O, NULL},
    {"wake", native_wake, METH_O, NULL},
    {"records", native_records, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "forkd._native", NULL, -1, functions, NULL, NULL, NULL, NULL,
};

static int (*const parts[])(PyObject *) = {
    fork_init, link_init, call_init, ends_init, request_init, head_init, uwsgi_init, answer_init, fronts_init, hosts_init,
    limits_init, request_id_init, account_init, exchange_init, asgi_init, log_ring_init,
    line_init, in_flight_init, lane_init, turn_times_init, ring_init, baton_init, inline_init, complete_init, epoll_init,
    flow_init, coroutine_init, gate_init, placeholder_init, task_init, intake_init, accept_init, proxy_init, storage_init,
    frames_init, message_flow_init,
};

PyMODINIT_FUNC PyInit__native(void)
{
    fill_kinds();
    PyObject *module = PyModule_Create(&definition);
    for (size_t i = 0; module && i < sizeof parts / sizeof *parts; i++)
        if (parts[i](module))
            Py_CLEAR(module);
    return module;
}
