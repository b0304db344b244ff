/* What receive() and send() of a WebSocket return: nothing happens until it is awaited, and a message is taken in the step
 * that returns it. The native twin of `receive` and `send` in app/asgi/message_flow.py, which are coroutines. */

#include "asgi.h"
#include "asgi_message_flow.h"
#include "asgi_task.h"

struct FlowStep {
    PyObject_HEAD
    MessageFlow *flow;
    PyObject *message;        /* to be sent; NULL: one is to be received */
    PyObject *waiter, *inner; /* a future that it waits for; what it goes on with: that one's steps, or a coroutine */
    RequestCoroutine *request; /* the one that awaits it, where `waiter` is its gate */
    FlowStep *next;           /* of those that wait */
    char over;
    char held; /* the flow holds `waiter`, and so the Task that waits: nobody else may */
};

static PyTypeObject *step_type;
/* Names of Python's own. */
static PyObject *s_throw, *s_close, *s_callbacks, *s_self, *s_get_coro;

int steps_release(MessageFlow *self)
{
    for (FlowStep *step = self->waiting; step; step = step->next) {
        Py_INCREF((PyObject *)step);
        int failed = waiter_release(step->waiter);
        Py_DECREF((PyObject *)step); /* whoever awaits it has it */
        if (failed)
            return -1;
    }
    return 0;
}

/* The only Task that waits, if it is a request's, which no exception leaves, and which is in no step. New reference; NULL
 * without an exception. */
static PyObject *request_of(PyObject *waiter)
{
    PyObject *callbacks = PyObject_GetAttr(waiter, s_callbacks), *task = NULL, *coro = NULL, *pair = NULL;
    if (callbacks && PyList_Check(callbacks) && PyList_Size(callbacks) == 1)
        pair = PyList_GetItem(callbacks, 0);
    if (pair && PyTuple_Check(pair) && PyTuple_Size(pair) == 2)
        task = PyObject_GetAttr(PyTuple_GetItem(pair, 0), s_self);
    if (task)
        coro = PyObject_CallMethodObjArgs(task, s_get_coro, NULL);
    if (!coro || Py_TYPE(coro) != coroutine_type || ((RequestCoroutine *)coro)->runs)
        Py_CLEAR(task);
    Py_XDECREF(coro);
    Py_XDECREF(callbacks);
    PyErr_Clear();
    return task;
}

/* Make the step of that one. Returns 1, 0, or -1 with an exception. */
static int wake_now(PyObject *waiter)
{
    PyObject *task = request_of(waiter);
    int woken = task ? gate_call(waiter, task, waiter) : 0;
    Py_XDECREF(task);
    return woken;
}

/* A message is there for that step alone. Returns 1; 0: nothing was done; or -1 with an exception. */
static int wake_one(FlowStep *step)
{
    PyObject *waiter = Py_NewRef(step->waiter), *task = step->request ? Py_XNewRef(step->request->task) : NULL;
    RequestCoroutine *request = (RequestCoroutine *)Py_XNewRef((PyObject *)step->request);
    NextStep next = task ? task_next_step(request) : STEP_NOT_MADE;
    /* An application that drives it by hand may have waited for the future alone. */
    int goes_on = next != STEP_NOT_MADE && step->waiter != waiter, woken = goes_on;
    if (next == STEP_IS_FOR_TASK && !(woken = gate_call(waiter, task, request->tasks->ready)))
        goes_on = 0;
    if (!goes_on && woken >= 0)
        woken = next == STEP_IS_FOR_TASK ? (waiter_release(waiter) ? -1 : 1) : wake_now(waiter);
    Py_DECREF(waiter);
    Py_XDECREF(task);
    Py_XDECREF((PyObject *)request);
    return woken;
}

int steps_wake(MessageFlow *flow)
{
    FlowStep *step = flow->waiting;
    int woken = 0;
    if (step && !step->next) {
        Py_INCREF((PyObject *)step);
        woken = wake_one(step);
        Py_DECREF((PyObject *)step);
    }
    return woken ? (woken < 0 ? -1 : 0) : steps_release(flow);
}

int steps_traverse(MessageFlow *flow, visitproc visit, void *arg)
{
    for (FlowStep *step = flow->waiting; step; step = step->next)
        if (step->held)
            Py_VISIT(step->waiter);
    return 0;
}

/* The flow holds what it waits for no more. */
static void let_go(FlowStep *step)
{
    if (step->held) {
        step->held = 0;
        Py_DECREF(step->waiter); /* which it has itself, too */
    }
}

void steps_let_go(MessageFlow *flow)
{
    for (FlowStep *step = flow->waiting; step; step = step->next)
        let_go(step);
}

/* It waits no more. */
static void stop_waiting(FlowStep *step)
{
    if (step->waiter)
        for (FlowStep **at = &step->flow->waiting; *at; at = &(*at)->next)
            if (*at == step) {
                *at = step->next;
                break;
            }
    step->next = NULL;
    let_go(step);
    Py_CLEAR(step->inner);
    Py_CLEAR(step->waiter);
    if (step->request)
        step->request->gate_taken = 0;
    Py_CLEAR(step->request);
}

/* Wait for a message: at the gate of the request that awaits it, or as any coroutine waits for a future. Returns 0, or -1
 * with an exception. */
static int start_waiting(FlowStep *step)
{
    MessageFlow *flow = step->flow;
    if (coroutine_running && (step->waiter = gate_take(coroutine_running)))
        step->request = (RequestCoroutine *)Py_NewRef((PyObject *)coroutine_running);
    else if (!(step->waiter = waiter_new(flow->loop, &step->inner)))
        return -1;
    FlowStep **last = &flow->waiting;
    while (*last)
        last = &(*last)->next;
    *last = step;
    Py_INCREF(step->waiter);
    step->held = 1;
    return 0;
}

static PySendResult step_send(FlowStep *self, PyObject *value, PyObject **result)
{
    *result = NULL;
    if (self->over) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited receive() or send()");
        return PYGEN_ERROR;
    }
    for (;; value = Py_None) {
        if (self->inner) {
            PySendResult sent = PyIter_Send(self->inner, value, result);
            if (sent == PYGEN_NEXT)
                return PYGEN_NEXT;
            stop_waiting(self);
            if (sent == PYGEN_ERROR || self->message) {
                self->over = 1;
                return sent;
            }
            Py_CLEAR(*result);
        } else if (self->waiter) {
            stop_waiting(self);
        }
        if (self->message) {
            int done = flow_say(self->flow, self->message, &self->inner);
            if (!done)
                continue;
            self->over = 1;
            if (done > 0)
                *result = Py_NewRef(Py_None);
        } else if ((*result = flow_take(self->flow)) || PyErr_Occurred()) {
            self->over = 1;
        } else if (!start_waiting(self)) {
            if (self->inner)
                continue;
            *result = Py_NewRef(self->waiter);
            return PYGEN_NEXT;
        } else {
            self->over = 1;
        }
        return *result ? PYGEN_RETURN : PYGEN_ERROR;
    }
}

/* As an iterator's: the exception StopIteration has what it returns; none is that of None. */
static PyObject *step_next(FlowStep *self)
{
    PyObject *result, *stop;
    PySendResult sent = step_send(self, Py_None, &result);
    if (sent != PYGEN_RETURN)
        return result;
    if (result != Py_None && (stop = PyObject_CallFunctionObjArgs(PyExc_StopIteration, result, NULL))) {
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
    }
    Py_DECREF(result);
    return NULL;
}

static PyObject *step_pysend(FlowStep *self, PyObject *value)
{
    (void)value;
    PyObject *result = step_next(self);
    if (!result && !PyErr_Occurred())
        PyErr_SetNone(PyExc_StopIteration);
    return result;
}

/* throw(exception) or throw(type, value, traceback) */
static PyObject *step_throw(FlowStep *self, PyObject *args)
{
    PyObject *type, *value = NULL, *traceback = NULL, *thrown = NULL;
    if (!PyArg_ParseTuple(args, "O|OO", &type, &value, &traceback))
        return NULL;
    if (self->inner) {
        PyObject *inner = Py_NewRef(self->inner), *throw = PyObject_GetAttr(inner, s_throw);
        thrown = throw ? PyObject_Call(throw, args, NULL) : NULL;
        Py_XDECREF(throw);
        Py_DECREF(inner);
        if (thrown)
            return thrown;
    } else if (PyExceptionInstance_Check(type)) {
        PyErr_SetObject((PyObject *)Py_TYPE(type), type);
    } else {
        PyErr_SetObject(type, value && value != Py_None ? value : NULL);
    }
    stop_waiting(self);
    self->over = 1;
    return NULL;
}

static PyObject *step_close(FlowStep *self, PyObject *unused)
{
    (void)unused;
    PyObject *inner = Py_XNewRef(self->inner), *done = NULL;
    stop_waiting(self);
    self->over = 1;
    if (inner)
        done = PyObject_CallMethodObjArgs(inner, s_close, NULL);
    int failed = inner && !done;
    Py_XDECREF(inner);
    Py_XDECREF(done);
    return failed ? NULL : Py_NewRef(Py_None);
}

static int step_traverse(FlowStep *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT((PyObject *)self->flow);
    Py_VISIT(self->message);
    Py_VISIT(self->waiter);
    Py_VISIT(self->inner);
    Py_VISIT((PyObject *)self->request);
    return 0;
}

static int step_clear(FlowStep *self)
{
    if (self->flow)
        stop_waiting(self);
    Py_CLEAR(self->message);
    PyObject *flow = (PyObject *)self->flow;
    self->flow = NULL;
    self->over = 1;
    Py_XDECREF(flow);
    return 0;
}

static void step_dealloc(FlowStep *self)
{
    PyObject_GC_UnTrack(self);
    step_clear(self);
    release((PyObject *)self);
}

PyObject *step_of(MessageFlow *flow, PyObject *message)
{
    FlowStep *step = (FlowStep *)allocate(step_type);
    if (step) {
        step->flow = (MessageFlow *)Py_NewRef((PyObject *)flow);
        step->message = Py_XNewRef(message);
    }
    return (PyObject *)step;
}

static PyMethodDef methods[] = {
    {"send", (PyCFunction)step_pysend, METH_O, NULL},
    {"throw", (PyCFunction)step_throw, METH_VARARGS, NULL},
    {"close", (PyCFunction)step_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_traverse, step_traverse},
    {Py_tp_clear, step_clear},
    {Py_tp_dealloc, step_dealloc},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, step_send},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, step_next},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.FlowStep", sizeof(FlowStep), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots,
};

int flow_step_init(PyObject *module)
{
    static const struct {
        PyObject **place;
        const char *text;
    } names[] = {
        {&s_throw, "throw"}, {&s_close, "close"}, {&s_callbacks, "_callbacks"},
        {&s_self, "__self__"}, {&s_get_coro, "get_coro"},
    };
    (void)module;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!(*names[i].place = PyUnicode_InternFromString(names[i].text)))
            return -1;
    step_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return step_type ? 0 : -1;
}
