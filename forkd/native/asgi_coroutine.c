/* The steps of an application's coroutine: the twin of app/asgi/steps.py. */

#include "asgi_task.h"
#include <structmember.h>

PyTypeObject *coroutine_type;
RequestCoroutine *coroutine_running;
static PyObject *s_throw, *s_close, *s_cancel, *s_args, *s_blocking, *s_get_loop; /* names of Python's own */

RequestCoroutine *coroutine_new(RequestTasks *tasks)
{
    RequestCoroutine *self = (RequestCoroutine *)allocate(coroutine_type);
    if (self)
        self->tasks = (RequestTasks *)Py_NewRef((PyObject *)tasks);
    return self;
}

void coroutine_forget(RequestCoroutine *self)
{
    Py_CLEAR(self->coro);
    Py_CLEAR(self->owner);
    Py_CLEAR(self->line);
    Py_CLEAR(self->context);
    Py_CLEAR(self->first);
    Py_CLEAR(self->thrown);
    gate_leave(self);
}

void coroutine_end(RequestCoroutine *self, PyObject *failure)
{
    PyObject *owner = self->owner, *coro = self->coro;
    self->over = 1;
    self->owner = self->coro = NULL;
    if (self->waits) {
        self->waits = 0;
        if (PyDict_DelItem(self->tasks->waiting, self->task))
            PyErr_Clear(); /* the worker ends, and has forgotten it */
        Py_CLEAR(self->task);
    }
    Py_XDECREF(coro);
    if (owner)
        self->functions->ended(owner, failure);
    Py_XDECREF(failure);
    Py_XDECREF(owner);
}

/* As PyIter_Send, for an exception. */
static PySendResult throw_into(PyObject *coro, PyObject *thrown, PyObject **result)
{
    *result = PyObject_CallMethodObjArgs(coro, s_throw, thrown, NULL);
    if (*result)
        return PYGEN_NEXT;
    if (!PyErr_ExceptionMatches(PyExc_StopIteration))
        return PYGEN_ERROR;
    PyErr_Clear();
    *result = Py_NewRef(Py_None);
    return PYGEN_RETURN;
}

/* The application's coroutine. Returns 0, or -1 with an exception. */
static int begin(RequestCoroutine *self)
{
    PyObject *made = self->functions->begin(self->owner);
    if (made && (PyObject *)Py_TYPE(made) != self->tasks->coroutine) {
        PyObject *coro = PyObject_CallFunctionObjArgs(self->tasks->awaiting, made, NULL);
        Py_DECREF(made);
        made = coro;
    }
    self->coro = made;
    return made ? 0 : -1;
}

PySendResult coroutine_step(RequestCoroutine *self, PyObject *value, PyObject **result)
{
    PyObject *lane = lane_of(self->tasks->recorder), *thrown = self->thrown;
    RequestCoroutine *outer = coroutine_running;
    char at_once = self->at_once;
    PySendResult outcome = PYGEN_ERROR;
    if (self->runs) {
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
        return PYGEN_ERROR;
    }
    self->runs = 1;
    coroutine_running = self;
    self->thrown = NULL;
    Py_INCREF((PyObject *)self);
    if (lane && !at_once)
        resume_request(lane, self->functions->ticket(self->owner));
    if (self->coro || !begin(self)) {
        PyObject *coro = Py_NewRef(self->coro);
        outcome = thrown ? throw_into(coro, thrown, result) : PyIter_Send(coro, value, result);
        Py_DECREF(coro);
    }
    Py_XDECREF(thrown);
    if (in_fork)
        leave_fork();
    if (outcome == PYGEN_NEXT) {
        if (self->functions->stepped)
            self->functions->stepped(self->owner);
    } else {
        PyObject *failure = outcome == PYGEN_ERROR ? taken_exception() : NULL;
        if (outcome == PYGEN_RETURN)
            Py_DECREF(*result);
        coroutine_end(self, failure);
        *result = Py_NewRef(Py_None);
        outcome = PYGEN_RETURN;
    }
    if (lane && at_once)
        leave_request(lane);
    else if (lane)
        resume_request(lane, 0); /* the loop goes on */
    self->runs = 0;
    coroutine_running = outer;
    Py_DECREF((PyObject *)self);
    return outcome;
}

/* ---- what a Task does with it ----------------------------------------------------------------- */

/* The Task hears of what it is to wait for. */
static PyObject *heard(RequestCoroutine *self, PyObject *future)
{
    self->at_gate = (char)gate_is_waited_at(self, future);
    return future;
}

static PySendResult coroutine_am_send(RequestCoroutine *self, PyObject *value, PyObject **result)
{
    PySendResult outcome = PYGEN_NEXT;
    self->at_gate = 0;
    if (self->first) {
        *result = self->first;
        self->first = NULL;
    } else if (self->owner) {
        outcome = coroutine_step(self, value, result);
    } else {
        *result = Py_NewRef(Py_None);
        return PYGEN_RETURN;
    }
    if (outcome == PYGEN_NEXT)
        heard(self, *result);
    return outcome;
}

static PyObject *returned(PySendResult outcome, PyObject *result)
{
    if (outcome == PYGEN_NEXT)
        return result;
    if (outcome == PYGEN_RETURN) {
        PyErr_SetNone(PyExc_StopIteration);
        Py_DECREF(result);
    }
    return NULL;
}

static PyObject *coroutine_send(RequestCoroutine *self, PyObject *value)
{
    PyObject *result = NULL;
    PySendResult outcome = coroutine_am_send(self, value, &result);
    return returned(outcome, result);
}

static PyObject *coroutine_next(RequestCoroutine *self)
{
    return coroutine_send(self, Py_None);
}

/* Whether a Task may wait for it: a future of its own loop that is waited for, and not the Task itself. */
static int is_waited_for(RequestCoroutine *self, PyObject *future)
{
    PyObject *blocking = PyObject_GetAttr(future, s_blocking), *loop = NULL;
    if (blocking == Py_True && future != self->task)
        loop = PyObject_CallMethodObjArgs(future, s_get_loop, NULL);
    PyErr_Clear();
    Py_XDECREF(blocking);
    Py_XDECREF(loop);
    return loop == self->tasks->loop;
}

/* The Task was cancelled in the first step, before it heard what that has ended in: as by a Task that had, the cancellation
 * is for what is waited for, and for the application where that cannot be cancelled. */
static PyObject *cancel_first(RequestCoroutine *self, PyObject *thrown)
{
    PyObject *first = self->first, *args = PyObject_GetAttr(thrown, s_args), *done = NULL;
    self->first = NULL;
    if (args && PyTuple_Check(args) && is_waited_for(self, first))
        done = PyObject_CallMethodObjArgs(first, s_cancel, PyTuple_Size(args) ? PyTuple_GetItem(args, 0) : NULL, NULL);
    PyErr_Clear();
    Py_XDECREF(args);
    if (done != Py_True)
        self->thrown = Py_NewRef(thrown);
    Py_XDECREF(done);
    return first;
}

static PyObject *coroutine_throw(RequestCoroutine *self, PyObject *args)
{
    PyObject *type, *value = NULL, *traceback = NULL, *result = NULL;
    if (!PyArg_ParseTuple(args, "O|OO", &type, &value, &traceback))
        return NULL;
    self->at_gate = 0;
    if (PyExceptionInstance_Check(type))
        PyErr_SetObject((PyObject *)Py_TYPE(type), type);
    else
        PyErr_SetObject(type, value == Py_None ? NULL : value);
    PyObject *thrown = self->owner ? taken_exception() : NULL;
    if (!thrown)
        return NULL; /* it has ended, or is not one */
    if (self->runs) {
        Py_DECREF(thrown);
        (void)coroutine_step(self, Py_None, &result); /* which says so */
        return NULL;
    }
    if (self->first) {
        result = cancel_first(self, thrown);
        Py_DECREF(thrown);
        return heard(self, result);
    }
    if (!self->thrown || Py_TYPE(thrown) == Py_TYPE(self->thrown)) {
        PyObject *due = self->thrown;
        self->thrown = thrown;
        Py_XDECREF(due);
    } else { /* a cancellation is due, which comes first */
        Py_DECREF(thrown);
    }
    PySendResult outcome = coroutine_step(self, Py_None, &result);
    return outcome == PYGEN_NEXT ? heard(self, result) : returned(outcome, result);
}

static PyObject *coroutine_close(RequestCoroutine *self, PyObject *unused)
{
    (void)unused;
    return self->coro ? PyObject_CallMethodObjArgs(self->coro, s_close, NULL) : Py_NewRef(Py_None);
}

/* What asyncio shows of a coroutine, and stacks are found by: the application's; None before it, where a task factory sees
 * this one first, and once that has ended. */
static PyObject *coroutine_shown(RequestCoroutine *self, void *name)
{
    PyObject *coro = Py_XNewRef(self->coro), *found = coro ? PyObject_GetAttrString(coro, name) : Py_NewRef(Py_None);
    Py_XDECREF(coro);
    return found;
}

static PyObject *coroutine_name(RequestCoroutine *self, void *name)
{
    return self->coro ? coroutine_shown(self, name) : PyUnicode_FromString("request");
}

#define SHOWN(name, get) {name, (getter)get, NULL, NULL, name}

static PyGetSetDef shown[] = {
    SHOWN("__name__", coroutine_name), SHOWN("__qualname__", coroutine_name), SHOWN("cr_frame", coroutine_shown),
    SHOWN("cr_code", coroutine_shown), SHOWN("cr_running", coroutine_shown), SHOWN("cr_await", coroutine_shown),
    SHOWN("cr_suspended", coroutine_shown), SHOWN("cr_origin", coroutine_shown),
    {NULL, NULL, NULL, NULL, NULL},
};

static int coroutine_traverse(RequestCoroutine *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT((PyObject *)self->tasks);
    Py_VISIT(self->owner);
    Py_VISIT(self->coro);
    Py_VISIT(self->context);
    Py_VISIT(self->task);
    Py_VISIT(self->step);
    Py_VISIT(self->first);
    Py_VISIT(self->thrown);
    Py_VISIT(self->gate);
    Py_VISIT(self->gate_done);
    return 0;
}

static int coroutine_clear(RequestCoroutine *self)
{
    PyObject *tasks = (PyObject *)self->tasks;
    coroutine_forget(self);
    Py_CLEAR(self->step);
    Py_CLEAR(self->task);
    Py_CLEAR(self->name);
    Py_CLEAR(self->weak);
    self->tasks = NULL;
    Py_XDECREF(tasks);
    return 0;
}

static void coroutine_dealloc(RequestCoroutine *self)
{
    PyObject_GC_UnTrack(self);
    if (self->seen)
        PyObject_ClearWeakRefs((PyObject *)self);
    coroutine_clear(self);
    release((PyObject *)self);
}

static PyMethodDef methods[] = {
    {"send", (PyCFunction)coroutine_send, METH_O, NULL},
    {"throw", (PyCFunction)coroutine_throw, METH_VARARGS, NULL},
    {"close", (PyCFunction)coroutine_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(RequestCoroutine, seen), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_am_send, coroutine_am_send},
    {Py_am_await, PyObject_SelfIter},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, coroutine_next},
    {Py_tp_traverse, coroutine_traverse},
    {Py_tp_clear, coroutine_clear},
    {Py_tp_dealloc, coroutine_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, shown},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.RequestCoroutine", sizeof(RequestCoroutine), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots,
};

int coroutine_init(PyObject *module)
{
    (void)module;
    coroutine_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return !coroutine_type || !(s_throw = PyUnicode_InternFromString("throw")) ||
                   !(s_close = PyUnicode_InternFromString("close")) || !(s_cancel = PyUnicode_InternFromString("cancel")) ||
                   !(s_args = PyUnicode_InternFromString("args")) ||
                   !(s_blocking = PyUnicode_InternFromString("_asyncio_future_blocking")) ||
                   !(s_get_loop = PyUnicode_InternFromString("get_loop"))
               ? -1
               : 0;
}
