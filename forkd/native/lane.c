/* One lane of the scoreboard, as its child writes it (system/scoreboard.py, whose Row is its twin). */

#include "native.h"
#include <time.h>

enum {
    MOST_BOUNDS = 32,
    CLASSES = 5,       /* of status, 1xx to 5xx */
    REFUSED_CELLS = 16 /* as scoreboard.py has it */
};

typedef struct {
    PyObject_HEAD
    Py_buffer memory;
    int64_t *cells;
    unsigned char *line;
    int most_line; /* bytes of a request line that are kept */
    int request, in_flight, requests, duration, buckets, codes, shed, refused; /* indexes into cells */
    int classes, received, sent;
    int bound_count;
    int64_t bounds[MOST_BOUNDS]; /* ns */
} Lane;

static PyTypeObject *lane_type;

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int note(Lane *lane, PyObject *line)
{
    char *text;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(line, &text, &size))
        return -1;
    if (size > lane->most_line)
        size = lane->most_line;
    lane->line[0] = (unsigned char)size;
    memcpy(lane->line + 1, text, size);
    return 0;
}

int64_t begin_request(PyObject *lane, PyObject *line)
{
    Lane *self = (Lane *)lane;
    if (note(self, line))
        return -1;
    int64_t began = now();
    self->cells[self->in_flight]++;
    self->cells[self->request] = began;
    return began;
}

static PyObject *lane_begin(Lane *lane, PyObject *line)
{
    int64_t began = begin_request((PyObject *)lane, line);
    return began < 0 ? NULL : PyLong_FromLongLong(began);
}

void pause_request(PyObject *lane)
{
    Lane *self = (Lane *)lane;
    self->cells[self->request] = 0;
}

static PyObject *lane_pause(Lane *lane, PyObject *unused)
{
    (void)unused;
    pause_request((PyObject *)lane);
    Py_RETURN_NONE;
}

static PyObject *lane_resume(Lane *lane, PyObject *line)
{
    if (note(lane, line))
        return NULL;
    lane->cells[lane->request] = now();
    Py_RETURN_NONE;
}

static void tally(Lane *lane, long status)
{
    lane->cells[lane->requests]++;
    if (status > 0 && status < 600)
        lane->cells[lane->codes + status]++;
}

/* The sum of the durations of that status, with the buckets behind it. */
static int64_t *durations_of(Lane *lane, long status)
{
    if (status < 100 || status >= 100 * (CLASSES + 1))
        return lane->cells + lane->duration;
    return lane->cells + lane->classes + (status / 100 - 1) * (lane->bound_count + 2);
}

int64_t end_request(PyObject *lane, int64_t began, long status)
{
    Lane *self = (Lane *)lane;
    int64_t took = now() - began;
    int bucket = 0;
    while (bucket < self->bound_count && self->bounds[bucket] < took)
        bucket++;
    self->cells[self->request] = 0;
    self->cells[self->in_flight]--;
    tally(self, status);
    int64_t *durations = durations_of(self, status);
    durations[0] += took;
    durations[1 + bucket]++;
    return took;
}

static PyObject *lane_end(Lane *lane, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "end takes two arguments");
        return NULL;
    }
    int64_t began = PyLong_AsLongLong(args[0]);
    long status = PyLong_AsLong(args[1]);
    return PyErr_Occurred() ? NULL : PyLong_FromLongLong(end_request((PyObject *)lane, began, status));
}

static PyObject *lane_count(Lane *lane, PyObject *status)
{
    long number = PyLong_AsLong(status);
    if (PyErr_Occurred())
        return NULL;
    tally(lane, number);
    Py_RETURN_NONE;
}

static PyObject *lane_shed(Lane *lane, PyObject *unused)
{
    (void)unused;
    lane->cells[lane->shed]++;
    tally(lane, 503);
    Py_RETURN_NONE;
}

static PyObject *lane_refuse(Lane *lane, PyObject *kind)
{
    long number = PyLong_AsLong(kind);
    if (PyErr_Occurred())
        return NULL;
    if (number < 0 || number >= REFUSED_CELLS) {
        PyErr_SetString(PyExc_IndexError, "that is no reason");
        return NULL;
    }
    lane->cells[lane->refused + number]++;
    Py_RETURN_NONE;
}

static PyObject *add_to(int64_t *cell, PyObject *count)
{
    long long bytes = PyLong_AsLongLong(count);
    if (PyErr_Occurred())
        return NULL;
    *cell += bytes;
    Py_RETURN_NONE;
}

static PyObject *lane_received(Lane *lane, PyObject *count)
{
    return add_to(lane->cells + lane->received, count);
}

static PyObject *lane_sent(Lane *lane, PyObject *count)
{
    return add_to(lane->cells + lane->sent, count);
}

/* Lane(memory, (request, in_flight, requests, duration, buckets, codes, shed, refused, classes, received, sent,
 * line), bounds): indexes of cells of 8 bytes, the last one's being that of the line's first byte, which reaches
 * to the end. */
static PyObject *lane_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *memory, *bounds;
    int request, in_flight, requests, duration, buckets, codes, shed, refused, classes, received, sent, line;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "O(iiiiiiiiiiii)O!", &memory, &request, &in_flight, &requests, &duration, &buckets,
                          &codes, &shed, &refused, &classes, &received, &sent, &line, &PyTuple_Type, &bounds))
        return NULL;
    Lane *lane = (Lane *)allocate(type);
    if (!lane)
        return NULL;
    if (PyObject_GetBuffer(memory, &lane->memory, PyBUF_WRITABLE))
        goto fail;
    Py_ssize_t room = lane->memory.len - line * 8, count = PyTuple_Size(bounds);
    if (room < 2 || count > MOST_BOUNDS || codes + 600 > shed || shed >= line || refused <= shed ||
        refused + REFUSED_CELLS > line || buckets + count >= codes || buckets != duration + 1 || classes <= shed ||
        classes + CLASSES * (count + 2) > line || received <= shed || received >= line || sent <= shed ||
        sent >= line) {
        PyErr_SetString(PyExc_ValueError, "that is no lane");
        goto fail;
    }
    lane->cells = lane->memory.buf;
    lane->line = (unsigned char *)lane->memory.buf + line * 8;
    lane->most_line = (int)(room > 256 ? 255 : room - 1);
    lane->request = request, lane->in_flight = in_flight, lane->requests = requests;
    lane->duration = duration, lane->buckets = buckets, lane->codes = codes, lane->shed = shed;
    lane->refused = refused, lane->classes = classes, lane->received = received, lane->sent = sent;
    lane->bound_count = (int)count;
    for (Py_ssize_t i = 0; i < count; i++)
        lane->bounds[i] = PyLong_AsLongLong(PyTuple_GetItem(bounds, i));
    if (PyErr_Occurred())
        goto fail;
    return (PyObject *)lane;
fail:
    Py_DECREF(lane);
    return NULL;
}

static void lane_dealloc(Lane *lane)
{
    if (lane->memory.obj)
        PyBuffer_Release(&lane->memory);
    release((PyObject *)lane);
}

static PyMethodDef methods[] = {
    {"begin", (PyCFunction)lane_begin, METH_O, NULL},
    {"pause", (PyCFunction)lane_pause, METH_NOARGS, NULL},
    {"resume", (PyCFunction)lane_resume, METH_O, NULL},
    {"end", (PyCFunction)(void (*)(void))lane_end, METH_FASTCALL, NULL},
    {"count", (PyCFunction)lane_count, METH_O, NULL},
    {"shed", (PyCFunction)lane_shed, METH_NOARGS, NULL},
    {"refuse", (PyCFunction)lane_refuse, METH_O, NULL},
    {"received", (PyCFunction)lane_received, METH_O, NULL},
    {"sent", (PyCFunction)lane_sent, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, lane_new},
    {Py_tp_dealloc, lane_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.Lane", sizeof(Lane), 0, Py_TPFLAGS_DEFAULT, slots,
};

/* ---- one lane for each thread --------------------------------------------------------------- */

static PyTypeObject *lanes_type;

/* The calling thread's. Whoever bound it keeps it alive. */
static _Thread_local Lane *own;
/* The last that any thread of this process has become. A thread that the application has started has none, and may move
 * bytes: they are counted there, which the interpreter's lock allows, as all counting here is done under it. */
static PyObject *latest;

static PyObject *lanes_become(PyObject *self, PyObject *lane)
{
    (void)self;
    if (Py_TYPE(lane) != lane_type) {
        PyErr_SetString(PyExc_TypeError, "that is no lane");
        return NULL;
    }
    own = (Lane *)lane;
    PyObject *old = latest;
    latest = Py_NewRef(lane);
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static Lane *own_or_latest(void)
{
    return own ? own : (Lane *)latest;
}

static Lane *bound(void)
{
    if (!own)
        PyErr_SetString(PyExc_RuntimeError, "this thread has no lane");
    return own;
}

static PyObject *lanes_begin(PyObject *self, PyObject *line)
{
    (void)self;
    return bound() ? lane_begin(own, line) : NULL;
}

static PyObject *lanes_pause(PyObject *self, PyObject *unused)
{
    (void)self;
    return bound() ? lane_pause(own, unused) : NULL;
}

static PyObject *lanes_resume(PyObject *self, PyObject *line)
{
    (void)self;
    return bound() ? lane_resume(own, line) : NULL;
}

static PyObject *lanes_end(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    (void)self;
    return bound() ? lane_end(own, args, nargs) : NULL;
}

static PyObject *lanes_count(PyObject *self, PyObject *status)
{
    (void)self;
    return bound() ? lane_count(own, status) : NULL;
}

static PyObject *lanes_shed(PyObject *self, PyObject *unused)
{
    (void)self;
    return bound() ? lane_shed(own, unused) : NULL;
}

static PyObject *lanes_refuse(PyObject *self, PyObject *kind)
{
    (void)self;
    return bound() ? lane_refuse(own, kind) : NULL;
}

static PyObject *lanes_received(PyObject *self, PyObject *count)
{
    (void)self;
    return own_or_latest() ? lane_received(own_or_latest(), count) : (PyObject *)bound();
}

static PyObject *lanes_sent(PyObject *self, PyObject *count)
{
    (void)self;
    return own_or_latest() ? lane_sent(own_or_latest(), count) : (PyObject *)bound();
}

static PyMethodDef lanes_methods[] = {
    {"become", lanes_become, METH_O, NULL},
    {"begin", lanes_begin, METH_O, NULL},
    {"pause", lanes_pause, METH_NOARGS, NULL},
    {"resume", lanes_resume, METH_O, NULL},
    {"end", (PyCFunction)(void (*)(void))lanes_end, METH_FASTCALL, NULL},
    {"count", lanes_count, METH_O, NULL},
    {"shed", lanes_shed, METH_NOARGS, NULL},
    {"refuse", lanes_refuse, METH_O, NULL},
    {"received", lanes_received, METH_O, NULL},
    {"sent", lanes_sent, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot lanes_slots[] = {
    {Py_tp_methods, lanes_methods},
    {0, NULL},
};

static PyType_Spec lanes_spec = {
    "forkd._native.OwnLane", sizeof(PyObject), 0, Py_TPFLAGS_DEFAULT, lanes_slots,
};

PyObject *lane_of(PyObject *ledger)
{
    if (Py_TYPE(ledger) == lane_type)
        return ledger;
    return Py_TYPE(ledger) == lanes_type ? (PyObject *)own : NULL;
}

/* As `lane_of`, for bytes that any thread may have moved. */
static Lane *mover_of(PyObject *ledger)
{
    if (!ledger || Py_TYPE(ledger) == lane_type)
        return (Lane *)ledger;
    return Py_TYPE(ledger) == lanes_type ? own_or_latest() : NULL;
}

void count_received(PyObject *ledger, Py_ssize_t bytes)
{
    Lane *lane = mover_of(ledger);
    if (lane)
        lane->cells[lane->received] += bytes;
}

void count_sent(PyObject *ledger, Py_ssize_t bytes)
{
    Lane *lane = mover_of(ledger);
    if (lane)
        lane->cells[lane->sent] += bytes;
}

int lane_init(PyObject *module)
{
    lane_type = (PyTypeObject *)PyType_FromSpec(&spec);
    lanes_type = (PyTypeObject *)PyType_FromSpec(&lanes_spec);
    return !lane_type || !lanes_type || PyModule_AddObjectRef(module, "Lane", (PyObject *)lane_type) ||
                   PyModule_AddObjectRef(module, "OwnLane", (PyObject *)lanes_type)
               ? -1
               : 0;
}
