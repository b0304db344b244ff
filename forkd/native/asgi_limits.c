/* How many requests may be in flight under ASGI, and how long each may take (twin: Requests in app/asgi/requests.py).
 *
 * A request that was answered in its first step needs no clock. Those that are suspended are in a list; one timer of the
 * loop is set for the first of them whose time is over, and what it finds is for a Cycle of Python to answer. */

#include "asgi.h"

enum { NS = 1000000000 };

static PyObject *n_wake_in, *n_lift;

/* ---- how many ------------------------------------------------------------------------------- */

int asgi_counted(AsgiCycle *self)
{
    PyObject *counted = self->shortcut->counted;
    return counted ? PySet_Add(counted, (PyObject *)self) : 0;
}

void asgi_uncounted(AsgiCycle *self)
{
    PyObject *counted = self->shortcut->counted;
    if (counted && PySet_Discard(counted, (PyObject *)self) < 0)
        PyErr_WriteUnraisable((PyObject *)self);
}

/* ---- for how long --------------------------------------------------------------------------- */

/* When its time is over; a wait in queues counts. Returns -1 with an exception. */
static int64_t deadline_of(AsgiCycle *self)
{
    if (!self->deadline) {
        double waited = http_waited(self->base.call.peer);
        if (waited < 0 && PyErr_Occurred())
            return -1;
        /* What has come since it began says nothing of it. */
        int64_t came = now_ns() - (int64_t)(waited * NS), began = self->base.call.began;
        self->deadline = (came < began ? came : began) + self->shortcut->limit;
    }
    return self->deadline;
}

/* Have the loop look at that time, if that is sooner than it would. Returns 0, or -1 with an exception. */
static int wake_at(AsgiShortcut *self, int64_t deadline)
{
    if (deadline >= self->alarm)
        return 0;
    int64_t left = deadline - now_ns();
    PyObject *seconds = PyFloat_FromDouble(left > 0 ? (double)left / NS : 0);
    PyObject *done = seconds ? PyObject_CallMethodObjArgs(self->serving, n_wake_in, seconds, NULL) : NULL;
    Py_XDECREF(seconds);
    Py_XDECREF(done);
    if (done)
        self->alarm = deadline;
    return done ? 0 : -1;
}

static PyObject *call_lift(PyObject *owner, PyObject *unused)
{
    AsgiCycle *self = (AsgiCycle *)owner;
    (void)unused;
    self->lifted = 1;
    return self->twin ? PyObject_CallMethodObjArgs(self->twin, n_lift, NULL) : Py_NewRef(Py_None);
}

PyObject *asgi_lift(AsgiCycle *self)
{
    static PyMethodDef lifts = {"lift_request_timeout", call_lift, METH_NOARGS, "lift --request-timeout for this request"};
    return PyCFunction_New(&lifts, (PyObject *)self);
}

PyObject *asgi_remaining(AsgiCycle *self)
{
    if (!self->shortcut->limit || self->lifted || self->gone)
        Py_RETURN_NONE;
    int64_t deadline = deadline_of(self), left = deadline - now_ns();
    return deadline < 0 ? NULL : PyFloat_FromDouble(left > 0 ? (double)left / NS : 0);
}

/* ---- those that are suspended --------------------------------------------------------------- */

int asgi_enlist(AsgiCycle *self)
{
    AsgiCycle **place = &self->shortcut->first;
    self->next = *place;
    self->place = place;
    if (self->next)
        self->next->place = &self->next;
    *place = self;
    if (!self->shortcut->limit || self->lifted)
        return 0;
    int64_t deadline = deadline_of(self);
    return deadline < 0 ? -1 : wake_at(self->shortcut, deadline);
}

void asgi_delist(AsgiCycle *self)
{
    if (!self->place)
        return;
    *self->place = self->next;
    if (self->next)
        self->next->place = self->place;
    self->place = NULL;
    self->next = NULL;
}

PyObject *asgi_suspended(AsgiShortcut *self, PyObject *unused)
{
    PyObject *found = PyList_New(0);
    (void)unused;
    for (AsgiCycle *each = self->first; found && each; each = each->next)
        if (PyList_Append(found, (PyObject *)each))
            Py_CLEAR(found);
    return found;
}

PyObject *asgi_overdue(AsgiShortcut *self, PyObject *unused)
{
    PyObject *found = PyList_New(0);
    int64_t now = now_ns(), next = INT64_MAX;
    (void)unused;
    for (AsgiCycle *each = self->first; found && each; each = each->next) {
        if (each->lifted)
            continue;
        if (each->deadline > now) {
            next = each->deadline < next ? each->deadline : next;
        } else {
            each->lifted = 1;
            if (PyList_Append(found, (PyObject *)each))
                Py_CLEAR(found);
        }
    }
    self->alarm = INT64_MAX;
    if (found && next < INT64_MAX && wake_at(self, next))
        Py_CLEAR(found);
    return found;
}

int asgi_limits_init(void)
{
    return (n_wake_in = PyUnicode_InternFromString("wake_in")) && (n_lift = PyUnicode_InternFromString("lift")) ? 0 : -1;
}
