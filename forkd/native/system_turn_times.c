/* How long the turns of an event loop take, counted in a lane of the scoreboard: the twin of system/turn_times.py. */

#include "native.h"

typedef struct {
    PyObject_HEAD
    Py_buffer memory;
    int64_t *began, *sum, *late; /* cells; a counter for each bound, and one more, are behind `sum` */
    int64_t limit;               /* ns */
    Bounds bounds;
} TurnTimes;

static PyObject *turn_times_end(TurnTimes *self, PyObject *unused)
{
    (void)unused;
    if (*self->began) {
        int64_t took = now_ns() - *self->began;
        *self->sum += took;
        self->sum[1 + time_bucket(&self->bounds, took)]++;
        *self->late += took > self->limit;
    }
    Py_RETURN_NONE;
}

/* TurnTimes(memory, began, sum, late, bounds, limit): as its twin. */
static PyObject *turn_times_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"memory", "began", "sum", "late", "bounds", "limit", NULL};
    PyObject *memory, *bounds;
    Py_ssize_t began, sum, late;
    long long limit;
    if (!by_name(args, keywords, "OnnnO!L", names, &memory, &began, &sum, &late, &PyTuple_Type, &bounds, &limit))
        return NULL;
    TurnTimes *self = (TurnTimes *)allocate(type);
    if (!self)
        return NULL;
    if (PyObject_GetBuffer(memory, &self->memory, PyBUF_WRITABLE) || bounds_read(&self->bounds, bounds))
        goto fail;
    Py_ssize_t room = self->memory.len / 8;
    if (began < 0 || began >= room || late < 0 || late >= room || sum < 0 || sum >= room - self->bounds.count - 1) {
        PyErr_SetString(PyExc_ValueError, "that is no lane");
        goto fail;
    }
    int64_t *cells = self->memory.buf;
    self->began = cells + began;
    self->sum = cells + sum;
    self->late = cells + late;
    self->limit = limit;
    return (PyObject *)self;
fail:
    Py_DECREF(self);
    return NULL;
}

static void turn_times_dealloc(TurnTimes *self)
{
    if (self->memory.obj)
        PyBuffer_Release(&self->memory);
    release((PyObject *)self);
}

static PyMethodDef methods[] = {
    {"end", (PyCFunction)turn_times_end, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, turn_times_new},
    {Py_tp_dealloc, turn_times_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {"forkd._native.TurnTimes", sizeof(TurnTimes), 0, Py_TPFLAGS_DEFAULT, slots};

int turn_times_init(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&spec);
    return !type || PyModule_AddObjectRef(module, "TurnTimes", type) ? -1 : 0;
}
