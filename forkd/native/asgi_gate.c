/* The gate of a request: a future at which its Task stays while it waits for message after message. Its twins wait for a
 * future of each message (app/asgi/message_flow.py, app/asgi/duplex.py).
 *
 * When a message arrives, the next step of the application is made directly, and the Task has to hear of that only if the step
 * has ended in anything but the wait for one more, or if the Task was cancelled meanwhile. It is woken by another future then,
 * so that the gate is done only where somebody else has to see that it is. */

#include "asgi_task.h"

/* What a gate has behind the fields of asyncio's Future, whose size Python alone has. */
typedef struct {
    RequestCoroutine *request; /* borrowed; NULL once it has another gate */
    char marked;               /* it was handed out, as one that a Task may wait at: `_asyncio_future_blocking` */
} GateState;

static Py_ssize_t state_at;
static PyObject *future_cancel, *future_is_blocking, *future_set_blocking; /* of Future */
/* Names of Python's own. */
static PyObject *s_blocking, *s_done, *s_cancel, *s_get, *s_set, *s_basicsize, *s_callbacks, *s_self, *s_remove, *s_set_result;

static GateState *state_of(PyObject *gate)
{
    return (GateState *)((char *)gate + state_at);
}

/* cancel(msg=None), as a Future's. A Task that makes a step waits for nothing: where it is in one while it is still registered
 * here, it is to be cancelled when the step has ended, as Task.cancel() does where this says False. */
static PyObject *gate_cancel(PyObject *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"msg", NULL};
    PyObject *message = Py_None;
    RequestCoroutine *request = state_of(self)->request;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|O:cancel", names, &message))
        return NULL;
    if (!request || !request->runs || !request->at_gate)
        return PyObject_CallFunctionObjArgs(future_cancel, self, message, NULL);
    request->cancelled = 1;
    Py_RETURN_FALSE;
}

static PyObject *gate_is_blocking(PyObject *self, void *unused)
{
    (void)unused;
    return state_of(self)->marked ? Py_NewRef(Py_True) : PyObject_CallFunctionObjArgs(future_is_blocking, self, NULL);
}

/* A Task takes the mark away, and so does whatever waits for the gate by itself, and not for a message. */
static int gate_set_blocking(PyObject *self, PyObject *value, void *unused)
{
    (void)unused;
    PyObject *done = PyObject_CallFunctionObjArgs(future_set_blocking, self, value ? value : Py_False, NULL);
    if (done)
        state_of(self)->marked = 0;
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* Look up what Future has. Returns 0, or -1 with an exception. */
static int look_up_future(PyObject *future)
{
    if (state_at)
        return 0;
    PyObject *blocking = PyObject_GetAttr(future, s_blocking), *size = PyObject_GetAttr(future, s_basicsize);
    if (blocking && size && (future_cancel = PyObject_GetAttr(future, s_cancel)) &&
        (future_is_blocking = PyObject_GetAttr(blocking, s_get)) && (future_set_blocking = PyObject_GetAttr(blocking, s_set)))
        state_at = PyLong_AsSsize_t(size);
    Py_XDECREF(blocking);
    Py_XDECREF(size);
    return state_at > 0 ? 0 : -1;
}

PyObject *gate_type(PyTypeObject *task)
{
    static PyMethodDef methods[] = {
        {"cancel", (PyCFunction)(void (*)(void))gate_cancel, METH_VARARGS | METH_KEYWORDS, NULL},
        {NULL, NULL, 0, NULL},
    };
    static PyGetSetDef getset[] = {
        {"_asyncio_future_blocking", gate_is_blocking, gate_set_blocking, NULL, NULL},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static PyType_Slot slots[] = {{Py_tp_methods, methods}, {Py_tp_getset, getset}, {0, NULL}};
    PyObject *future = (PyObject *)PyType_GetSlot(task, Py_tp_base), *bases = future ? PyTuple_Pack(1, future) : NULL;
    PyObject *made = NULL;
    if (bases && !look_up_future(future)) {
        PyType_Spec spec = {"forkd._native.Gate", (int)(state_at + (Py_ssize_t)sizeof(GateState)), 0, Py_TPFLAGS_DEFAULT, slots};
        made = PyType_FromSpecWithBases(&spec, bases);
    }
    Py_XDECREF(bases);
    return made;
}

/* Whether that request's Task is the current one: not so in a Task that makes its first step within a step of the request's, or
 * in a loop that was run in one. */
static int is_current(const RequestCoroutine *self)
{
    PyObject *current = PyObject_CallFunctionObjArgs(self->tasks->current, self->tasks->loop, NULL);
    Py_XDECREF(current);
    return current && current == self->task;
}

void gate_leave(RequestCoroutine *self)
{
    if (self->gate)
        state_of(self->gate)->request = NULL;
    Py_CLEAR(self->gate_done);
    Py_CLEAR(self->gate);
}

PyObject *gate_take(RequestCoroutine *self)
{
    PyObject *done = Py_True;
    if (!self->plain || self->gate_taken || !is_current(self)) {
        PyErr_Clear();
        return NULL;
    }
    if (self->gate)
        done = self->at_gate ? Py_False : PyObject_CallNoArgs(self->gate_done);
    if (done == Py_True) {
        PyObject *none = PyTuple_New(0);
        gate_leave(self);
        self->gate = none ? PyObject_Call(self->tasks->gate, none, self->tasks->of_loop) : NULL;
        self->gate_done = self->gate ? PyObject_GetAttr(self->gate, s_done) : NULL;
        Py_XDECREF(none);
    }
    if (!done || !self->gate_done) {
        PyErr_Clear();
        return NULL;
    }
    *state_of(self->gate) = (GateState){.request = self, .marked = 1};
    self->gate_taken = 1;
    return Py_NewRef(self->gate);
}

int gate_is_waited_at(const RequestCoroutine *self, PyObject *future)
{
    return future && future == self->gate && state_of(future)->marked;
}

int gate_call(PyObject *future, PyObject *task, PyObject *with)
{
    PyObject *callbacks = PyObject_GetAttr(future, s_callbacks), *wakeup = NULL, *context = NULL, *done = NULL;
    Py_ssize_t count = callbacks && PyList_Check(callbacks) ? PyList_Size(callbacks) : 0;
    PyErr_Clear();
    for (Py_ssize_t i = 0; i < count && !wakeup; i++) {
        PyObject *pair = PyList_GetItem(callbacks, i);
        if (!PyTuple_Check(pair) || PyTuple_Size(pair) != 2)
            continue;
        PyObject *of = PyObject_GetAttr(PyTuple_GetItem(pair, 0), s_self);
        PyErr_Clear();
        if (of && of == task) {
            wakeup = Py_NewRef(PyTuple_GetItem(pair, 0));
            context = Py_NewRef(PyTuple_GetItem(pair, 1));
        }
        Py_XDECREF(of);
    }
    Py_XDECREF(callbacks);
    if (!wakeup)
        return 0;
    done = PyObject_CallMethodObjArgs(future, s_remove, wakeup, NULL);
    if (done && with == future) {
        Py_DECREF(done);
        done = PyObject_CallMethodObjArgs(future, s_set_result, Py_None, NULL);
    }
    if (done && !PyContext_Enter(context)) {
        Py_DECREF(done);
        done = PyObject_CallFunctionObjArgs(wakeup, with, NULL);
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        PyContext_Exit(context);
        PyErr_Restore(type, value, traceback);
    } else {
        Py_CLEAR(done);
    }
    Py_DECREF(wakeup);
    Py_DECREF(context);
    Py_XDECREF(done);
    return done ? 1 : -1;
}

int gate_init(PyObject *module)
{
    static const struct {
        PyObject **place;
        const char *text;
    } names[] = {
        {&s_blocking, "_asyncio_future_blocking"}, {&s_done, "done"}, {&s_cancel, "cancel"}, {&s_get, "__get__"},
        {&s_set, "__set__"}, {&s_basicsize, "__basicsize__"}, {&s_callbacks, "_callbacks"}, {&s_self, "__self__"},
        {&s_remove, "remove_done_callback"}, {&s_set_result, "set_result"},
    };
    (void)module;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!(*names[i].place = PyUnicode_InternFromString(names[i].text)))
            return -1;
    return 0;
}
