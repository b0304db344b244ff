/* A Task of asyncio's that was made before its request: twin of app/asgi/tasks.py, which has none.
 *
 * A Task costs more than all else of a short request, so that one serves many. Its first step is held back. It is asyncio's
 * own, whole, and pending until its request has ended; where that is in the first step, and nobody has kept, changed or
 * weakly referenced the Task, it is as it was and serves the next request. Two of its fields differ by request, context and
 * name: where they are is looked for in one that was made of known ones. */

#include "asgi_task.h"

static PyObject *s_call_soon, *s_self, *s_shown, *s_context, *s_name; /* names of Python's own */

#define FIELD(task, at) (*(PyObject **)((char *)(task) + (at)))

static void set_field(PyObject *task, Py_ssize_t at, PyObject *value)
{
    PyObject *old = FIELD(task, at);
    FIELD(task, at) = Py_NewRef(value);
    Py_DECREF(old);
}

PyObject *task_name(RequestTasks *self)
{
    char text[32] = "Request-", *end = decimal(text + strlen(text), ++self->count);
    return PyUnicode_FromStringAndSize(text, end - text);
}

/* Stands in for call_soon of the loop while a Task is made, and holds back its first step alone. */
static PyObject *hold_back(PyObject *tasks, PyObject *args, PyObject *keywords)
{
    RequestTasks *self = (RequestTasks *)tasks;
    PyObject *callback = PyTuple_Size(args) == 1 ? PyTuple_GetItem(args, 0) : NULL;
    if (callback && !self->held && !PyCFunction_Check(callback) && (!self->step_type || Py_TYPE(callback) == self->step_type)) {
        PyObject *of = PyObject_GetAttr(callback, s_self);
        int found = of && of == self->made;
        PyErr_Clear();
        Py_XDECREF(of);
        if (found) {
            self->held = Py_NewRef(callback);
            self->step_type = Py_TYPE(callback);
            Py_RETURN_NONE;
        }
    }
    return PyObject_Call(self->call_soon, args, keywords);
}

static PyMethodDef hold_back_method = {"call_soon", (PyCFunction)(void (*)(void))hold_back, METH_VARARGS | METH_KEYWORDS, NULL};

/* What a Task of that coroutine is made with. */
PyObject *task_arguments(RequestTasks *self, RequestCoroutine *coroutine)
{
    PyObject *keywords = PyDict_Copy(self->of_loop);
    coroutine->name = task_name(self);
    if (keywords && coroutine->name && !PyDict_SetItem(keywords, s_context, coroutine->context) &&
        !PyDict_SetItem(keywords, s_name, coroutine->name))
        return keywords;
    Py_XDECREF(keywords);
    return NULL;
}

/* Make its Task, whose first step is held back. Returns 0, or -1 with an exception. */
int placeholder_make(RequestTasks *self, RequestCoroutine *coroutine)
{
    PyTypeObject *type = (PyTypeObject *)self->task;
    PyObject *none = PyTuple_New(0), *args = PyTuple_Pack(1, (PyObject *)coroutine), *keywords = task_arguments(self, coroutine);
    PyObject *task = none ? ((newfunc)PyType_GetSlot(type, Py_tp_new))(type, none, NULL) : NULL;
    int failed = !task || !args || !keywords || PyObject_SetAttr(self->loop, s_call_soon, self->capture);
    if (!failed) {
        PyObject *exception, *value, *traceback;
        self->made = task;
        failed = ((initproc)PyType_GetSlot(type, Py_tp_init))(task, args, keywords);
        PyErr_Fetch(&exception, &value, &traceback);
        if (PyObject_DelAttr(self->loop, s_call_soon))
            PyErr_Clear(); /* a finalizer has put another in its place, or taken it away */
        PyErr_Restore(exception, value, traceback);
        self->made = NULL;
        coroutine->step = self->held;
        self->held = NULL;
    }
    coroutine->task = task;
    Py_XDECREF(none);
    Py_XDECREF(args);
    Py_XDECREF(keywords);
    return failed ? -1 : 0;
}

/* ---- whether a Task is as it was -------------------------------------------------------------- */

/* What its bytes are between two requests; `weak` is the one weak reference to it, or NULL. */
static void note_rest(RequestCoroutine *coroutine, PyObject *weak)
{
    RequestTasks *self = coroutine->tasks;
    PyObject *context = self->context, *name = self->rest_name;
    memcpy(self->rests, coroutine->task, (size_t)self->size);
    memcpy(self->rests + self->context_at, &context, sizeof context);
    memcpy(self->rests + self->name_at, &name, sizeof name);
    if (self->weak_at > 0)
        memcpy(self->rests + self->weak_at, &weak, sizeof weak);
}

/* Whether nobody but us has the Task, its step, its coroutine or a weak reference to it, and nobody has changed it. The last
 * weak reference is the first in the list that the Task has. */
static int is_at_rest(const RequestCoroutine *coroutine)
{
    const RequestTasks *self = coroutine->tasks;
    PyObject *task = coroutine->task;
    if (Py_REFCNT(task) != 2 || Py_REFCNT(coroutine->step) != 1 || Py_REFCNT((PyObject *)coroutine) != 2 || coroutine->seen)
        return 0;
    /* Where that list is before the object, attributes of its own follow it. */
    if (self->weak_at < 0 && (FIELD(task, self->weak_at) != coroutine->weak || FIELD(task, self->weak_at + (Py_ssize_t)sizeof(PyObject *))))
        return 0;
    size_t head = sizeof(PyObject);
    return !memcmp(self->rests + head, (char *)task + head, (size_t)self->size - head);
}

/* Where a Task that was made of `coroutine` has that. Returns 0: nowhere, or in several places. */
static Py_ssize_t place_of(const RequestTasks *self, PyObject *task, PyObject *what)
{
    Py_ssize_t found = 0;
    for (Py_ssize_t at = sizeof(PyObject); at + (Py_ssize_t)sizeof(PyObject *) <= self->size; at += sizeof(PyObject *))
        if (FIELD(task, at) == what) {
            if (found)
                return 0;
            found = at;
        }
    return found;
}

/* One with a Task, for any request. */
static RequestCoroutine *new_spare(RequestTasks *self)
{
    RequestCoroutine *coroutine = coroutine_new(self);
    if (coroutine && (coroutine->context = PyContext_Copy(self->context)) && !placeholder_make(self, coroutine) &&
        coroutine->step && !PyObject_SetAttr(coroutine->task, s_shown, Py_False)) {
        if (!self->context_at) {
            self->context_at = place_of(self, coroutine->task, coroutine->context);
            self->name_at = place_of(self, coroutine->task, coroutine->name);
        }
        if (self->context_at && self->name_at) {
            note_rest(coroutine, NULL);
            return coroutine;
        }
    }
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_RuntimeError, "a Task of asyncio's is not made as it was");
    Py_XDECREF((PyObject *)coroutine);
    return NULL;
}

/* One that is the next request's, with the context of that. */
RequestCoroutine *placeholder_take(RequestTasks *self)
{
    RequestCoroutine *coroutine = self->spare;
    self->spare = NULL;
    if (coroutine && !is_at_rest(coroutine)) {
        Py_DECREF((PyObject *)coroutine);
        coroutine = NULL;
    }
    if (!coroutine)
        return new_spare(self);
    coroutine->over = 0;
    coroutine->name = task_name(self);
    coroutine->context = PyContext_Copy(self->context);
    if (!coroutine->name || !coroutine->context || PySet_Add(self->all, coroutine->weak)) {
        Py_DECREF((PyObject *)coroutine);
        return NULL;
    }
    set_field(coroutine->task, self->context_at, coroutine->context);
    set_field(coroutine->task, self->name_at, coroutine->name);
    return coroutine;
}

/* It is among the tasks that asyncio.all_tasks looks through no more, and nothing of its request is left in it. Whether
 * that left it as it was. */
static int is_free(RequestTasks *self, RequestCoroutine *coroutine)
{
    if (coroutine->weak) {
        if (PySet_Discard(self->all, coroutine->weak) < 0)
            PyErr_Clear();
    } else { /* its first request */
        PyObject *done = PyObject_CallFunctionObjArgs(self->drop, coroutine->task, NULL);
        if (!done)
            PyErr_Clear();
        Py_XDECREF(done);
    }
    set_field(coroutine->task, self->context_at, self->context);
    set_field(coroutine->task, self->name_at, self->rest_name);
    if (!is_at_rest(coroutine))
        return 0;
    if (coroutine->weak)
        return 1;
    coroutine->weak = PyWeakref_NewRef(coroutine->task, self->forget);
    if (!coroutine->weak || PyObject_Hash(coroutine->weak) == -1) { /* which it has no more when the Task is gone */
        PyErr_Clear();
        return 0;
    }
    note_rest(coroutine, coroutine->weak);
    return 1;
}

int placeholder_give_back(RequestTasks *self, RequestCoroutine *coroutine)
{
    PyObject *context = FIELD(coroutine->task, self->context_at), *name = FIELD(coroutine->task, self->name_at);
    if (context != coroutine->context || name != coroutine->name)
        return 0;
    Py_INCREF(context);
    Py_INCREF(name);
    int rests = is_free(self, coroutine);
    if (rests) {
        Py_CLEAR(coroutine->name);
        coroutine_forget(coroutine);
        Py_XDECREF((PyObject *)self->spare);
        self->spare = (RequestCoroutine *)Py_NewRef((PyObject *)coroutine);
    } else { /* somebody has it, and sees what it was in */
        set_field(coroutine->task, self->context_at, context);
        set_field(coroutine->task, self->name_at, name);
    }
    Py_DECREF(context);
    Py_DECREF(name);
    return rests;
}

PyObject *placeholder_capture(RequestTasks *self)
{
    return PyCFunction_New(&hold_back_method, (PyObject *)self);
}

int placeholder_init(PyObject *module)
{
    (void)module;
    return (s_call_soon = PyUnicode_InternFromString("call_soon")) && (s_self = PyUnicode_InternFromString("__self__")) &&
                   (s_shown = PyUnicode_InternFromString("_log_destroy_pending")) &&
                   (s_context = PyUnicode_InternFromString("context")) && (s_name = PyUnicode_InternFromString("name"))
               ? 0
               : -1;
}
