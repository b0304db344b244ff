/* A future of the loop's, for whoever waits in receive() (twin: `_wait` and `release` in app/asgi/duplex.py). */

#include "asgi.h"

/* Names of Python's own. */
static PyObject *s_create_future, *s_await, *s_done, *s_set_result;

PyObject *waiter_new(PyObject *loop, PyObject **steps)
{
    PyObject *waiter = PyObject_CallMethodObjArgs(loop, s_create_future, NULL);
    *steps = waiter ? PyObject_CallMethodObjArgs(waiter, s_await, NULL) : NULL;
    if (!*steps)
        Py_CLEAR(waiter);
    return waiter;
}

int waiter_release(PyObject *waiter)
{
    Py_INCREF(waiter);
    PyObject *done = PyObject_CallMethodObjArgs(waiter, s_done, NULL), *set = NULL;
    if (done == Py_False)
        set = PyObject_CallMethodObjArgs(waiter, s_set_result, Py_None, NULL);
    else if (done)
        set = Py_NewRef(Py_None);
    Py_XDECREF(done);
    Py_XDECREF(set);
    Py_DECREF(waiter);
    return set ? 0 : -1;
}

int asgi_waiter_init(void)
{
    return (s_create_future = PyUnicode_InternFromString("create_future")) &&
                   (s_await = PyUnicode_InternFromString("__await__")) && (s_done = PyUnicode_InternFromString("done")) &&
                   (s_set_result = PyUnicode_InternFromString("set_result"))
               ? 0
               : -1;
}
