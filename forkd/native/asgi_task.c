/* The tasks of requests: twin of app/asgi/tasks.py, with the first step of each made at once, in the turn of the loop that
 * begins it. A Task's first step is its own, or, where Tasks are used again (asgi_placeholder.c), that of the application's
 * coroutine, with the Task as the current one. If the application waits then, the Task's step is run: the coroutine
 * (asgi_coroutine.c) hands it what it is to wait for, and it goes on as any other. */

#include "asgi_task.h"
#include <structmember.h>

PyTypeObject *tasks_type;
static PyObject *n_ticket, *n_begin;
/* Names of Python's own. */
static PyObject *s_call_soon, *s_shown, *s_factory, *s_debug, *s_factory_key, *s_debug_key, *s_context, *s_eager, *s_loop,
    *s_task, *s_current_task, *s_create_future, *s_set_result;

/* ---- a request -------------------------------------------------------------------------------- */

/* Whether that is neither None nor False, in the loop; -1 with an exception. `get`: its method that tells. */
static int is_set(RequestTasks *self, PyObject *name, PyObject *get)
{
    if (self->tells) {
        PyObject *value = dict_item(self->in_loop, name);
        return value && value != Py_None && value != Py_False;
    }
    PyObject *value = PyObject_CallNoArgs(get);
    int set = value ? value != Py_None && value != Py_False : -1;
    Py_XDECREF(value);
    return set;
}

/* Whether asyncio and the loop are as they were at first, without a task factory, and not in debug mode: Tasks are made
 * and begun as above. -1 with an exception. */
static int is_plain(RequestTasks *self)
{
    if (self->patched)
        return 0;
    if (dict_item(self->asyncio, s_task) != self->task || dict_item(self->asyncio, s_current_task) != self->current)
        return 0;
    int set = is_set(self, s_factory_key, self->factory);
    if (!set)
        set = is_set(self, s_debug_key, self->debug);
    if (!set && self->in_loop && dict_item(self->in_loop, s_call_soon))
        set = 1;
    if (!set) {
        PyObject *of_class = PyObject_GetAttr((PyObject *)Py_TYPE(self->loop), s_call_soon);
        if (!of_class)
            PyErr_Clear();
        set = of_class != self->of_class;
        Py_XDECREF(of_class);
    }
    return set < 0 ? -1 : !set;
}

/* Make the first step of the Task itself. */
static void run_task(RequestCoroutine *coroutine)
{
    PyObject *step = coroutine->step, *done = NULL;
    coroutine->step = NULL;
    if (!PyContext_Enter(coroutine->context)) {
        done = PyObject_CallNoArgs(step);
        PyContext_Exit(coroutine->context);
    }
    Py_DECREF(step);
    Py_XDECREF(done);
    if (!done)
        coroutine_end(coroutine, taken_exception());
}

/* The application waits, or somebody has seen the Task: it goes on by itself. */
static void hand_over(RequestCoroutine *coroutine)
{
    if (PyObject_SetAttr(coroutine->task, s_shown, Py_True))
        PyErr_Clear();
    run_task(coroutine);
}

/* The Task is current while the application's coroutine makes a step. Returns 0, or -1: another is, and nothing was done. */
static int step_for(RequestTasks *self, RequestCoroutine *coroutine)
{
    PyObject *task = Py_NewRef(coroutine->task); /* which it has no more once it has ended */
    PyObject *result = NULL, *current = PyObject_CallFunctionObjArgs(self->enter, self->loop, task, NULL);
    if (!current) {
        PyErr_Clear();
        Py_DECREF(task);
        return -1;
    }
    Py_DECREF(current);
    if (PyContext_Enter(coroutine->context)) {
        coroutine_end(coroutine, taken_exception());
    } else {
        if (coroutine_step(coroutine, Py_None, &result) == PYGEN_NEXT)
            coroutine->first = result;
        else
            Py_XDECREF(result);
        PyContext_Exit(coroutine->context);
    }
    current = PyObject_CallFunctionObjArgs(self->leave, self->loop, task, NULL);
    if (!current)
        PyErr_WriteUnraisable(self->leave); /* a loop that was run within the step has not put it back */
    Py_XDECREF(current);
    Py_DECREF(task);
    return 0;
}

NextStep task_next_step(RequestCoroutine *self)
{
    PyObject *done = self->at_gate && !self->runs ? PyObject_CallNoArgs(self->gate_done) : NULL;
    NextStep next = STEP_NOT_MADE;
    self->cancelled = 0;
    if (done == Py_False && !step_for(self->tasks, self)) {
        next = gate_is_waited_at(self, self->first) && !self->cancelled ? STEP_WAITS_ON : STEP_IS_FOR_TASK;
        if (next == STEP_WAITS_ON)
            Py_CLEAR(self->first);
    }
    PyErr_Clear();
    Py_XDECREF(done);
    return next;
}

/* The loop makes the first step of that Task, since it is in another one. Returns 0, or -1 with an exception. */
static int put_off(RequestTasks *self, RequestCoroutine *coroutine)
{
    PyObject *args = PyTuple_Pack(1, coroutine->step), *keywords = PyDict_New(), *handle = NULL;
    coroutine->at_once = 0;
    if (args && keywords && !PyDict_SetItem(keywords, s_context, coroutine->context))
        handle = PyObject_Call(self->call_soon, args, keywords);
    Py_XDECREF(args);
    Py_XDECREF(keywords);
    if (!handle)
        return -1;
    Py_DECREF(handle);
    Py_CLEAR(coroutine->step);
    return 0;
}

/* Whether a Task is current; -1 with an exception. */
static int is_in_task(RequestTasks *self)
{
    PyObject *task = PyObject_CallFunctionObjArgs(self->current, self->loop, NULL);
    int found = task ? task != Py_None : -1;
    Py_XDECREF(task);
    return found;
}

/* A Task that makes its first step as it is made, or leaves it to the loop. Returns 0, or -1 with an exception. */
static int begin_new(RequestTasks *self, RequestCoroutine *coroutine, int by_loop)
{
    PyObject *args = PyTuple_Pack(1, (PyObject *)coroutine), *task = NULL;
    if (by_loop) {
        coroutine->at_once = 0;
        task = PyObject_CallFunctionObjArgs(self->by_loop, (PyObject *)coroutine, coroutine->context, NULL);
    } else {
        PyObject *keywords = task_arguments(self, coroutine);
        if (args && keywords && !PyDict_SetItem(keywords, s_eager, Py_True))
            task = PyObject_Call(self->task, args, keywords);
        Py_XDECREF(keywords);
    }
    Py_XDECREF(args);
    coroutine->task = task;
    return task ? 0 : -1;
}

TaskOutcome task_start(PyObject *tasks, const TaskOwner *functions, PyObject *owner, PyObject *line)
{
    RequestTasks *self = (RequestTasks *)tasks;
    int met = ready_pass && self->plain_in == ready_pass && !self->patched; /* what else was ready is of the same moment */
    int plain = met ? 1 : is_plain(self), failed = 0;
    int in_task = plain > 0 && !self->lazy ? is_in_task(self) : 0;
    if (plain < 0 || in_task < 0)
        return TASK_FAILED;
    self->plain_in = plain ? ready_pass : 0;
    RequestCoroutine *coroutine = plain && self->lazy ? placeholder_take(self) : coroutine_new(self);
    if (!coroutine || (!coroutine->context && !(coroutine->context = PyContext_Copy(self->context)))) {
        Py_XDECREF((PyObject *)coroutine);
        return TASK_FAILED;
    }
    coroutine->functions = functions;
    coroutine->owner = Py_NewRef(owner);
    coroutine->at_once = 1;
    coroutine->plain = (char)plain;
    if (plain && self->lazy) {
        if (step_for(self, coroutine))
            failed = put_off(self, coroutine);
        else if (!coroutine->over || !placeholder_give_back(self, coroutine))
            hand_over(coroutine);
    } else if (!plain || in_task || self->eager) {
        failed = begin_new(self, coroutine, !plain || in_task);
    } else if (!(failed = placeholder_make(self, coroutine)) && coroutine->step) {
        run_task(coroutine);
    }
    coroutine->at_once = 0;
    if (!failed && !coroutine->over) {
        failed = PyDict_SetItem(self->waiting, coroutine->task, line);
        coroutine->waits = !failed;
    }
    TaskOutcome outcome = failed ? TASK_FAILED : coroutine->over ? TASK_ENDED : TASK_WAITS;
    if (failed)
        coroutine_forget(coroutine);
    if (outcome != TASK_WAITS && self->spare != coroutine)
        Py_CLEAR(coroutine->task);
    Py_DECREF((PyObject *)coroutine);
    return outcome;
}

/* ---- from Python ------------------------------------------------------------------------------ */

static int64_t ticket_of(PyObject *request)
{
    PyObject *number = PyObject_GetAttr(request, n_ticket);
    int64_t ticket = number ? PyLong_AsLongLong(number) : 0;
    if (PyErr_Occurred())
        PyErr_WriteUnraisable(request);
    Py_XDECREF(number);
    return ticket;
}

static PyObject *begin_of(PyObject *request)
{
    return PyObject_CallMethodObjArgs(request, n_begin, NULL);
}

static void request_ended(PyObject *request, PyObject *failure)
{
    PyObject *done = PyObject_CallMethodObjArgs(request, n_ended, failure ? failure : Py_None, NULL);
    if (!done)
        PyErr_WriteUnraisable(request);
    Py_XDECREF(done);
}

/* start(request, line) -> whether it goes on. */
static PyObject *tasks_start(RequestTasks *self, PyObject *args)
{
    static const TaskOwner functions = {.begin = begin_of, .ticket = ticket_of, .ended = request_ended};
    PyObject *request, *line;
    if (!PyArg_ParseTuple(args, "OS", &request, &line))
        return NULL;
    TaskOutcome outcome = task_start((PyObject *)self, &functions, request, line);
    return outcome == TASK_FAILED ? NULL : PyBool_FromLong(outcome == TASK_WAITS);
}

/* New reference, or NULL with an exception. */
static PyObject *done_future(PyObject *loop)
{
    PyObject *future = PyObject_CallMethodObjArgs(loop, s_create_future, NULL);
    PyObject *done = future ? PyObject_CallMethodObjArgs(future, s_set_result, Py_None, NULL) : NULL;
    if (!done)
        Py_CLEAR(future);
    Py_XDECREF(done);
    return future;
}

/* RequestTasks(loop, context, recorder, waiting, task, current, enter, leave, drop, all, forget, coroutine, awaiting, by_loop, asyncio,
 * in_loop, size, weak_at, lazy, eager): see the struct; `coroutine` is the type of what `async def` makes, `in_loop` may be None. */
static PyObject *tasks_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"loop", "context", "recorder", "waiting", "task", "current", "enter", "leave", "drop", "all", "forget",
                            "coroutine", "awaiting", "by_loop", "asyncio", "in_loop", "size", "weak_at", "lazy", "eager", NULL};
    PyObject *loop, *context, *recorder, *waiting, *task, *current, *enter, *leave, *drop, *all, *forget, *coroutine, *awaiting, *by_loop,
        *asyncio, *in_loop;
    Py_ssize_t size, weak_at;
    int lazy, eager;
    if (!by_name(args, keywords, "OOOO!O!OOOOO!OO!OOO!Onnpp", names, &loop, &context, &recorder, &PyDict_Type, &waiting,
                 &PyType_Type, &task, &current, &enter, &leave, &drop, &PySet_Type, &all, &forget, &PyType_Type, &coroutine, &awaiting, &by_loop,
                 &PyDict_Type, &asyncio, &in_loop, &size, &weak_at, &lazy, &eager))
        return NULL;
    if (size < (Py_ssize_t)sizeof(PyObject) || size > MOST_TASK_BYTES || (in_loop != Py_None && !PyDict_Check(in_loop))) {
        PyErr_SetString(PyExc_ValueError, "that is no Task, or no loop");
        return NULL;
    }
    RequestTasks *self = (RequestTasks *)allocate(type);
    if (!self)
        return NULL;
    self->loop = Py_NewRef(loop);
    self->context = Py_NewRef(context);
    self->recorder = Py_NewRef(recorder);
    self->waiting = Py_NewRef(waiting);
    self->task = Py_NewRef(task);
    self->current = Py_NewRef(current);
    self->enter = Py_NewRef(enter);
    self->leave = Py_NewRef(leave);
    self->drop = Py_NewRef(drop);
    self->all = Py_NewRef(all);
    self->forget = Py_NewRef(forget);
    self->coroutine = Py_NewRef(coroutine);
    self->awaiting = Py_NewRef(awaiting);
    self->by_loop = Py_NewRef(by_loop);
    self->asyncio = Py_NewRef(asyncio);
    self->in_loop = in_loop == Py_None ? NULL : Py_NewRef(in_loop);
    self->tells = self->in_loop && PyDict_Contains(in_loop, s_factory_key) == 1;
    self->size = size;
    self->weak_at = weak_at;
    self->lazy = (char)lazy;
    self->eager = (char)eager;
    if (!(self->factory = PyObject_GetAttr(loop, s_factory)) || !(self->debug = PyObject_GetAttr(loop, s_debug)) ||
        !(self->of_class = PyObject_GetAttr((PyObject *)Py_TYPE(loop), s_call_soon)) ||
        !(self->call_soon = PyObject_GetAttr(loop, s_call_soon)) || !(self->capture = placeholder_capture(self)) ||
        !(self->gate = gate_type((PyTypeObject *)task)) || !(self->ready = done_future(loop)) ||
        !(self->of_loop = PyDict_New()) || PyDict_SetItem(self->of_loop, s_loop, loop) || !(self->rest_name = task_name(self)))
        Py_CLEAR(self);
    return (PyObject *)self;
}

#define EACH(_)                                                                                                          \
    _(self->loop) _(self->context) _(self->recorder) _(self->waiting) _(self->task) _(self->current) _(self->enter)      \
    _(self->leave) _(self->drop) _(self->all) _(self->forget) _(self->coroutine) _(self->awaiting) _(self->by_loop) _(self->asyncio)     \
    _(self->in_loop) _(self->factory) _(self->debug) _(self->of_class) _(self->call_soon) _(self->capture) _(self->of_loop)  \
    _(self->gate) _(self->ready) _(self->held) _(self->rest_name)

static int tasks_traverse(RequestTasks *self, visitproc visit, void *arg)
{
#define VISIT(object) Py_VISIT(object);
    EACH(VISIT)
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT((PyObject *)self->spare);
    return 0;
}

static int tasks_clear(RequestTasks *self)
{
#define CLEAR(object) Py_CLEAR(object);
    EACH(CLEAR)
    Py_CLEAR(self->spare);
    return 0;
}

static void tasks_dealloc(RequestTasks *self)
{
    PyObject_GC_UnTrack(self);
    tasks_clear(self);
    release((PyObject *)self);
}

static PyMethodDef methods[] = {
    {"start", (PyCFunction)tasks_start, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"patched", T_BOOL, offsetof(RequestTasks, patched), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, tasks_new},
    {Py_tp_traverse, tasks_traverse},
    {Py_tp_clear, tasks_clear},
    {Py_tp_dealloc, tasks_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.RequestTasks", sizeof(RequestTasks), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots,
};

int task_init(PyObject *module)
{
    struct {
        PyObject **name;
        const char *text;
    } names[] = {
        {&s_call_soon, "call_soon"}, {&s_shown, "_log_destroy_pending"}, {&s_factory, "get_task_factory"},
        {&s_debug, "get_debug"}, {&s_factory_key, "_task_factory"}, {&s_debug_key, "_debug"}, {&s_context, "context"},
        {&s_eager, "eager_start"}, {&s_loop, "loop"}, {&s_task, "Task"}, {&s_current_task, "current_task"},
        {&s_create_future, "create_future"}, {&s_set_result, "set_result"}, {&n_ticket, "ticket"}, {&n_begin, "begin"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!(*names[i].name = PyUnicode_InternFromString(names[i].text)))
            return -1;
    tasks_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return !tasks_type || PyModule_AddObjectRef(module, "RequestTasks", (PyObject *)tasks_type) ? -1 : 0;
}
