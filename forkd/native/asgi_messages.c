/* What receive() and send() return: awaitables, as the coroutines of their twins are (app/asgi/cycle.py). A call does nothing;
 * what it is for is done in the step that awaits it. A receive() that has nothing to give waits here for the end of the answer
 * or of its client, and goes on in Python when something comes. */

#include "asgi.h"
#include "asgi_task.h"

typedef struct {
    PyObject_HEAD
    AsgiCycle *cycle;
    PyObject *message; /* to send; NULL: to receive */
    PyObject *waiter;  /* what it waits for */
    PyObject *inner;   /* the steps of that; or else the coroutine of the twin, which goes on with it */
    char done;
} Awaiting;

static PyTypeObject *awaiting_type;
static Awaiting *spare; /* memory of one that is gone, for the next: each message has one */
static PyObject *n_receive, *n_send, *n_room, *n_throw, *n_close, *k_type, *k_body, *k_more, *t_request, *t_disconnect;

static int awaiting_traverse(Awaiting *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT((PyObject *)self->cycle);
    Py_VISIT(self->message);
    Py_VISIT(self->waiter);
    Py_VISIT(self->inner);
    return 0;
}

static void stop_waiting(Awaiting *self);

static int awaiting_clear(Awaiting *self)
{
    stop_waiting(self);
    PyObject *cycle = (PyObject *)self->cycle;
    self->cycle = NULL;
    Py_XDECREF(cycle);
    Py_CLEAR(self->message);
    Py_CLEAR(self->inner);
    return 0;
}

static void awaiting_dealloc(Awaiting *self)
{
    PyObject_GC_UnTrack(self);
    awaiting_clear(self);
    if (!spare) {
        spare = self;
        Py_DECREF(awaiting_type);
        return;
    }
    release((PyObject *)self);
}

/* One that is as new: the spare one, if there is. */
static Awaiting *fresh(void)
{
    Awaiting *self = spare;
    if (!self)
        return (Awaiting *)allocate(awaiting_type);
    spare = NULL;
    self->done = 0;
    PyObject_Init((PyObject *)self, awaiting_type);
    PyObject_GC_Track(self);
    return self;
}

PyObject *asgi_awaiting(AsgiCycle *cycle, PyObject *message)
{
    Awaiting *self = fresh();
    if (self) {
        self->cycle = (AsgiCycle *)Py_NewRef((PyObject *)cycle);
        self->message = Py_XNewRef(message);
    }
    return (PyObject *)self;
}

/* ---- the end that receive() waits for ------------------------------------------------------- */

int asgi_release(AsgiCycle *self)
{
    for (Py_ssize_t i = 0; self->waiters && i < PyList_Size(self->waiters); i++)
        if (waiter_release(PyList_GetItem(self->waiters, i)))
            return -1;
    return 0;
}

/* Whether the session has no part in it until something comes. */
static int listens(AsgiCycle *cycle)
{
    return !cycle->twin && !in_fork && !cycle->shortcut->http.base.draining && call_listens(&cycle->base.call);
}

/* Returns 0, or -1 with an exception. */
static int start_waiting(Awaiting *self)
{
    AsgiCycle *cycle = self->cycle;
    if (!cycle->waiters && !(cycle->waiters = PyList_New(0)))
        return -1;
    self->waiter = waiter_new(((RequestTasks *)cycle->shortcut->tasks)->loop, &self->inner);
    return !self->waiter || PyList_Append(cycle->waiters, self->waiter) ? -1 : 0;
}

static void stop_waiting(Awaiting *self)
{
    if (!self->waiter)
        return;
    PyObject *waiters = self->cycle->waiters;
    for (Py_ssize_t i = 0; waiters && i < PyList_Size(waiters); i++)
        if (PyList_GetItem(waiters, i) == self->waiter) {
            if (PyList_SetSlice(waiters, i, i + 1, NULL))
                PyErr_WriteUnraisable(waiters);
            break;
        }
    Py_CLEAR(self->inner);
    Py_CLEAR(self->waiter);
}

/* ---- what is done at once ------------------------------------------------------------------- */

/* A message for the application. New reference. */
static PyObject *received(PyObject *type, PyObject *body)
{
    PyObject *message = PyDict_New();
    if (!message || PyDict_SetItem(message, k_type, type) ||
        (body && (PyDict_SetItem(message, k_body, body) || PyDict_SetItem(message, k_more, Py_False))))
        Py_CLEAR(message);
    return message;
}

/* Returns 1 with a message; 0, when that is for the twin; or -1 with an exception. */
static int receive_now(AsgiCycle *cycle, PyObject **message)
{
    if (cycle->twin)
        return 0;
    if (cycle->gone || cycle->over) {
        *message = received(t_disconnect, NULL);
    } else if (cycle->body) {
        *message = received(t_request, cycle->body);
        if (*message)
            Py_CLEAR(cycle->body);
    } else {
        return 0; /* it waits for the end */
    }
    return *message ? 1 : -1;
}

/* An error of an application that has sent all. Returns -1, with the exception. */
static int sent_after_the_end(PyObject *message)
{
    PyObject *type = PyObject_GetItem(message, k_type);
    if (type)
        PyErr_Format(PyExc_RuntimeError, "%S after the last one, whose more_body was false", type);
    Py_XDECREF(type);
    return -1;
}

/* Returns 1, when it is sent, or kept back; 0, when that is for the twin; or -1 with an exception. `waits`: for room. */
static int send_now_or_wait(AsgiCycle *cycle, PyObject *message, int *waits)
{
    *waits = 0;
    if (cycle->twin || in_fork)
        return 0;
    if (cycle->gone)
        return 1;
    if (cycle->over)
        return sent_after_the_end(message);
    MessageOutcome outcome = asgi_add(cycle, message);
    if (outcome == MESSAGE_UNSENT) {
        *waits = !cycle->over;
        return asgi_twin(cycle) ? !*waits : -1;
    }
    if (outcome == MESSAGE_TAKEN && cycle->over)
        return asgi_over(cycle) ? -1 : 1;
    return outcome == MESSAGE_FAILED ? -1 : outcome == MESSAGE_TAKEN;
}

/* ---- as a coroutine -------------------------------------------------------------------------- */

/* The coroutine of the twin that goes on. Returns 0, or -1 with an exception. */
static int pass_on(Awaiting *self, int waits)
{
    PyObject *twin = asgi_twin(self->cycle);
    if (!twin)
        return -1;
    if (!self->message)
        self->inner = PyObject_CallMethodObjArgs(twin, n_receive, NULL);
    else if (waits)
        self->inner = PyObject_CallMethodObjArgs(twin, n_room, NULL);
    else
        self->inner = PyObject_CallMethodObjArgs(twin, n_send, self->message, NULL);
    return self->inner ? 0 : -1;
}

static PySendResult awaiting_step(PyObject *object, PyObject *value, PyObject **result)
{
    Awaiting *self = (Awaiting *)object;
    *result = NULL;
    if (!self->inner && self->done) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return PYGEN_ERROR;
    }
    self->done = 1;
    for (;; value = Py_None) {
        int waits = 0, done;
        if (self->inner) {
            PySendResult sent = PyIter_Send(self->inner, value, result);
            if (sent == PYGEN_NEXT || !self->waiter)
                return sent;
            stop_waiting(self);
            if (sent == PYGEN_ERROR)
                return sent;
            Py_CLEAR(*result);
        }
        done = self->message ? send_now_or_wait(self->cycle, self->message, &waits) : receive_now(self->cycle, result);
        if (done > 0 && !*result)
            *result = Py_NewRef(Py_None);
        if (done)
            return done > 0 ? PYGEN_RETURN : PYGEN_ERROR;
        if (!self->message && listens(self->cycle) ? start_waiting(self) : pass_on(self, waits))
            return PYGEN_ERROR;
    }
}

/* What it yields, or NULL with StopIteration and the value, as Python code is told. */
static PyObject *as_told(PySendResult outcome, PyObject *result)
{
    if (outcome == PYGEN_RETURN) {
        PyObject *stop = PyObject_CallFunctionObjArgs(PyExc_StopIteration, result, NULL);
        Py_DECREF(result);
        if (stop) {
            PyErr_SetObject(PyExc_StopIteration, stop);
            Py_DECREF(stop);
        }
        return NULL;
    }
    return outcome == PYGEN_NEXT ? result : NULL;
}

static PyObject *awaiting_send(PyObject *self, PyObject *value)
{
    PyObject *result;
    PySendResult outcome = awaiting_step(self, value, &result);
    return as_told(outcome, result);
}

static PyObject *awaiting_next(PyObject *self)
{
    return awaiting_send(self, Py_None);
}

/* throw(type[, value[, traceback]]) */
static PyObject *awaiting_throw(Awaiting *self, PyObject *args)
{
    PyObject *type, *value = NULL, *traceback = NULL;
    if (self->inner) {
        PyObject *method = PyObject_GetAttr(self->inner, n_throw), *yielded = method ? PyObject_CallObject(method, args) : NULL;
        Py_XDECREF(method);
        if (!yielded)
            stop_waiting(self);
        return yielded;
    }
    self->done = 1; /* it has not begun, and never will */
    if (!PyArg_UnpackTuple(args, "throw", 1, 3, &type, &value, &traceback))
        return NULL;
    if (PyExceptionInstance_Check(type))
        PyErr_SetObject((PyObject *)Py_TYPE(type), type);
    else
        PyErr_SetObject(type, value == Py_None ? NULL : value);
    return NULL;
}

static PyObject *awaiting_close(Awaiting *self, PyObject *unused)
{
    (void)unused;
    self->done = 1;
    PyObject *closed = self->inner ? PyObject_CallMethodObjArgs(self->inner, n_close, NULL) : Py_NewRef(Py_None);
    stop_waiting(self);
    return closed;
}

static PyObject *awaiting_self(PyObject *self)
{
    return Py_NewRef(self);
}

static PyMethodDef methods[] = {
    {"send", awaiting_send, METH_O, NULL},
    {"throw", (PyCFunction)awaiting_throw, METH_VARARGS, NULL},
    {"close", (PyCFunction)awaiting_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_traverse, awaiting_traverse},
    {Py_tp_clear, awaiting_clear},
    {Py_tp_dealloc, awaiting_dealloc},
    {Py_tp_iter, awaiting_self},
    {Py_tp_iternext, awaiting_next},
    {Py_am_await, awaiting_self},
    {Py_am_send, awaiting_step},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.Awaiting", sizeof(Awaiting), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots,
};

int asgi_messages_init(void)
{
    static const struct {
        PyObject **place;
        const char *text;
    } names[] = {
        {&n_receive, "receive"}, {&n_send, "send"}, {&n_room, "room"}, {&n_throw, "throw"}, {&n_close, "close"},
        {&k_type, "type"}, {&k_body, "body"}, {&k_more, "more_body"}, {&t_request, "http.request"},
        {&t_disconnect, "http.disconnect"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!(*names[i].place = PyUnicode_InternFromString(names[i].text)))
            return -1;
    return (awaiting_type = (PyTypeObject *)PyType_FromSpec(&spec)) ? 0 : -1;
}
