/* What writes the requests of a thread to its lane of the scoreboard: the twin of system/recorder.py's Recorder, and of
 * OwnLane in system/lanes.py. */

#include "native.h"

enum {
    STATUSES = 600,
    STATUS_CLASSES = 5, /* 1xx to 5xx */
};
enum { NOT_ENDING, ENDING_WITHOUT_LINE, ENDING_WITH_LINE }; /* ENDING */

typedef struct {
    PyObject_HEAD
    Py_buffer memory;
    int64_t *cells;
    int64_t room;       /* number of cells */
    int at[CELL_COUNT]; /* where each of NATIVE_CELLS is among them */
    Places *places;
    int64_t own; /* its entry */
    Bounds bounds;
} Recorder;

static PyTypeObject *lane_type;

int bounds_read(Bounds *self, PyObject *numbers)
{
    Py_ssize_t count = PyTuple_Size(numbers);
    if (count > MOST_BOUNDS)
        PyErr_SetString(PyExc_ValueError, "too many bounds");
    for (self->count = 0; !PyErr_Occurred() && self->count < count; self->count++)
        self->ns[self->count] = PyLong_AsLongLong(PyTuple_GetItem(numbers, self->count));
    return PyErr_Occurred() ? -1 : 0;
}

int time_bucket(const Bounds *self, int64_t took)
{
    int bucket = 0;
    while (bucket < self->count && self->ns[bucket] < took)
        bucket++;
    return bucket;
}

#define CELL(name) self->cells[self->at[CELL_##name]]

/* Their names, interned. */
#define AS_NAME(name) #name,
static PyObject *cell_names[CELL_COUNT];

int64_t begin_request(PyObject *lane, PyObject *line, PyObject *client, int fd, int64_t *began)
{
    Recorder *self = (Recorder *)lane;
    Places *places = self->places;
    char *text, *entry;
    Py_ssize_t size, client_size = 0;
    if (PyBytes_AsStringAndSize(line, &text, &size))
        return 0;
    const char *host = client && PyUnicode_Check(client) ? ascii(client, &client_size) : NULL;
    int64_t time = *began = now_ns(), place = entry_cells(places, self->own)[0] ? place_take(places) : self->own, *cells;
    if (place) {
        cells = entry_cells(places, place);
        entry = (char *)cells;
        place_note(entry + places->client, places->client_room, host ? host : "", host ? client_size : 0);
        place_note(entry + places->line, places->line_room, text, size);
        cells[1] = fd + 1;
        IN_ORDER();
        cells[0] = time; /* it is in flight from this store on */
        IN_ORDER();
    } else {
        CELL(UNLISTED)++;
    }
    CELL(IN_FLIGHT)++;
    CELL(HELD) = place;
    IN_ORDER();
    CELL(REQUEST) = time;
    return place ? place : -time;
}

/* begin(line), or begin(line, client, fd) -> the ticket. */
static PyObject *lane_begin(Recorder *lane, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 1 && nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "begin takes a line, and maybe a client and a descriptor");
        return NULL;
    }
    long fd = nargs == 3 ? PyLong_AsLong(args[2]) : -1;
    PyObject *client = nargs == 3 ? args[1] : NULL;
    int64_t began, ticket = PyErr_Occurred() ? 0 : begin_request((PyObject *)lane, args[0], client, (int)fd, &began);
    return ticket ? PyLong_FromLongLong(ticket) : NULL;
}

void identify_request(PyObject *lane, int64_t ticket, PyObject *id)
{
    Places *places = ((Recorder *)lane)->places;
    Py_ssize_t size;
    const char *text = ascii(id, &size);
    if (!text || !is_place(places, ticket))
        return;
    int64_t *cells = entry_cells(places, ticket);
    place_note((char *)cells + places->id, places->id_room, text, size);
    IN_ORDER();
    cells[places->id / 8 - 1] = cells[0]; /* in_flight.NAMED: whose name it is */
}

static PyObject *lane_identify(Recorder *lane, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t ticket = nargs == 2 ? PyLong_AsLongLong(args[0]) : 0;
    if (nargs != 2)
        PyErr_SetString(PyExc_TypeError, "identify takes a ticket and a name");
    if (PyErr_Occurred())
        return NULL;
    identify_request((PyObject *)lane, ticket, args[1]);
    Py_RETURN_NONE;
}

void answer_request(PyObject *lane, int64_t ticket)
{
    Places *places = ((Recorder *)lane)->places;
    if (is_place(places, ticket))
        entry_cells(places, ticket)[1] = 0;
    IN_ORDER();
}

static PyObject *lane_answer(Recorder *self, PyObject *number)
{
    int64_t ticket = PyLong_AsLongLong(number);
    if (PyErr_Occurred())
        return NULL;
    answer_request((PyObject *)self, ticket);
    Py_RETURN_NONE;
}

void leave_request(PyObject *lane)
{
    Recorder *self = (Recorder *)lane;
    CELL(REQUEST) = 0;
}

void pause_request(PyObject *lane)
{
    Recorder *self = (Recorder *)lane;
    if (CELL(REQUEST) && is_place(self->places, CELL(HELD)))
        entry_cells(self->places, CELL(HELD))[1] = 0; /* an answer may be under way from here on */
    IN_ORDER();
    CELL(REQUEST) = 0;
}

static PyObject *lane_pause(Recorder *lane, PyObject *unused)
{
    (void)unused;
    pause_request((PyObject *)lane);
    Py_RETURN_NONE;
}

/* The ticket that Python has; an exception is set where it is none. */
static int64_t ticket_of(const Recorder *lane, PyObject *number)
{
    int64_t ticket = PyLong_AsLongLong(number);
    if (!PyErr_Occurred() && ticket >= 0 && !is_place(lane->places, ticket))
        PyErr_SetString(PyExc_ValueError, "that is no ticket");
    return ticket;
}

void resume_request(PyObject *lane, int64_t ticket)
{
    Recorder *self = (Recorder *)lane;
    CELL(HELD) = ticket > 0 ? ticket : 0;
    IN_ORDER();
    CELL(REQUEST) = now_ns();
}

static PyObject *lane_resume(Recorder *self, PyObject *number)
{
    int64_t ticket = ticket_of(self, number);
    if (PyErr_Occurred())
        return NULL;
    resume_request((PyObject *)self, ticket);
    Py_RETURN_NONE;
}

/* The sum of the durations of that status, with the buckets behind it. */
static int64_t *durations_of(Recorder *self, long status)
{
    if (status < 100 || status >= 100 * (STATUS_CLASSES + 1))
        return &CELL(DURATION);
    return &CELL(CLASSES) + (status / 100 - 1) * (self->bounds.count + 2);
}

int64_t request_took(PyObject *lane, int64_t ticket)
{
    Recorder *self = (Recorder *)lane;
    return now_ns() - (ticket < 0 ? -ticket : entry_cells(self->places, ticket)[0]);
}

static PyObject *lane_took(Recorder *self, PyObject *number)
{
    int64_t ticket = ticket_of(self, number);
    return PyErr_Occurred() ? NULL : PyLong_FromLongLong(request_took((PyObject *)self, ticket));
}

/* An end is noted first, then its line is in the ring, and what the note says is stored last: whoever finds the note of
 * a dead process knows by the head of the ring whether the end was reached, and stores the same again. */
void end_request(PyObject *lane, int64_t ticket, long status, int64_t took, const Line *line)
{
    Recorder *self = (Recorder *)lane;
    Places *places = self->places;
    int bucket = time_bucket(&self->bounds, took);
    if (status < 0 || status >= STATUSES)
        status = 0;
    int64_t *code = &CELL(CODES) + status, *duration_cell = durations_of(self, status),
            *bucket_cell = duration_cell + 1 + bucket;
    int64_t code_count = *code + (status > 0), requests = CELL(REQUESTS) + 1, duration = *duration_cell + took,
            bucket_count = *bucket_cell + 1, in_flight = CELL(IN_FLIGHT) - 1, unlisted = CELL(UNLISTED) - (ticket < 0);
    CELL(REQUEST) = 0;
    CELL(END_HEAD) = line->ring ? (int64_t)ring_after(line->ring, line->size) : 0;
    CELL(END_STATUS) = status;
    CELL(END_TICKET) = ticket;
    CELL(END_CODE) = code_count;
    CELL(END_REQUESTS) = requests;
    CELL(END_DURATION) = duration;
    CELL(END_BUCKET) = bucket;
    CELL(END_BUCKET_COUNT) = bucket_count;
    CELL(END_IN_FLIGHT) = in_flight;
    CELL(END_UNLISTED) = unlisted;
    IN_ORDER();
    CELL(ENDING) = line->ring ? ENDING_WITH_LINE : ENDING_WITHOUT_LINE;
    IN_ORDER();
    if (line->ring)
        ring_put(line->ring, line->log, line->text, line->size);
    IN_ORDER();
    *code = code_count;
    CELL(REQUESTS) = requests;
    *duration_cell = duration;
    *bucket_cell = bucket_count;
    CELL(IN_FLIGHT) = in_flight;
    CELL(UNLISTED) = unlisted;
    if (ticket > 0)
        entry_cells(places, ticket)[0] = 0;
    IN_ORDER();
    CELL(ENDING) = NOT_ENDING;
    place_give_back(places, ticket);
}

/* end(ticket, status, took) and end(ticket, status, took, ring, log, line) -> whether it has ended: not when the ring does
 * not take the line. */
static PyObject *lane_end(Recorder *lane, PyObject *const *args, Py_ssize_t nargs)
{
    char *text;
    Py_ssize_t size;
    Line line = {NULL, 0, NULL, 0};
    if ((nargs != 3 && nargs != 6) || (nargs == 6 && Py_TYPE(args[3]) != ring_writer_type)) {
        PyErr_SetString(PyExc_TypeError, "end takes a ticket, a status and a duration, and maybe a RingWriter, a log and a line");
        return NULL;
    }
    int64_t ticket = ticket_of(lane, args[0]);
    long status = PyErr_Occurred() ? 0 : PyLong_AsLong(args[1]);
    int64_t took = PyErr_Occurred() ? 0 : PyLong_AsLongLong(args[2]);
    if (nargs == 6 && !PyErr_Occurred()) {
        line.ring = (RingWriter *)args[3];
        line.log = (uint32_t)PyLong_AsUnsignedLong(args[4]);
        if (!PyErr_Occurred() && !PyBytes_AsStringAndSize(args[5], &text, &size)) {
            line.text = text;
            line.size = size;
            if (!ring_has_room(line.ring, line.size))
                Py_RETURN_FALSE;
        }
    }
    if (PyErr_Occurred())
        return NULL;
    end_request((PyObject *)lane, ticket, status, took, &line);
    Py_RETURN_TRUE;
}

/* add(cell), or add(cell, n): that counter grows by `n`, or by one. */
static PyObject *lane_add(Recorder *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 1 && nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "add takes a cell, and maybe a number");
        return NULL;
    }
    long cell = PyLong_AsLong(args[0]);
    long long n = nargs == 2 && !PyErr_Occurred() ? PyLong_AsLongLong(args[1]) : 1;
    if (PyErr_Occurred())
        return NULL;
    if (cell < 0 || cell >= self->room) {
        PyErr_SetString(PyExc_IndexError, "that is no cell");
        return NULL;
    }
    self->cells[cell] += n;
    Py_RETURN_NONE;
}

/* Where each of NATIVE_CELLS is, by `numbers`, and whether all that native code writes is within the lane. */
static int cells_known(Recorder *self, PyObject *numbers)
{
    for (int i = 0; i < CELL_COUNT; i++) {
        PyObject *number = PyDict_GetItemWithError(numbers, cell_names[i]);
        long at = number ? PyLong_AsLong(number) : -1;
        if (at < 0 || at >= self->room)
            return 0;
        self->at[i] = (int)at;
    }
    int64_t durations = self->bounds.count + 2;
    return self->at[CELL_DROPPED] + DROPPED_CELLS <= self->room && self->at[CELL_CODES] + STATUSES <= self->room && self->at[CELL_DURATION] + durations <= self->room &&
           self->at[CELL_CLASSES] + STATUS_CLASSES * durations <= self->room;
}

/* Recorder(memory, numbers, bounds, places, own): `numbers` are those of the cells by their names, of 8 bytes each; `own` is
 * the entry of `places` that is this lane's. */
static PyObject *lane_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"memory", "numbers", "bounds", "places", "own", NULL};
    PyObject *memory, *numbers, *bounds, *places;
    long long own;
    if (!by_name(args, keywords, "OO!O!O!L", names, &memory, &PyDict_Type, &numbers, &PyTuple_Type, &bounds, places_type,
                 &places, &own))
        return NULL;
    Recorder *self = (Recorder *)allocate(type);
    if (!self)
        return NULL;
    self->places = (Places *)Py_NewRef(places);
    self->own = own;
    if (PyObject_GetBuffer(memory, &self->memory, PyBUF_WRITABLE) || bounds_read(&self->bounds, bounds))
        goto fail;
    self->cells = self->memory.buf;
    self->room = self->memory.len / 8;
    if (own <= 0 || own >= self->places->first || !cells_known(self, numbers)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "that is no lane");
        goto fail;
    }
    return (PyObject *)self;
fail:
    Py_DECREF(self);
    return NULL;
}

static void lane_dealloc(Recorder *self)
{
    if (self->memory.obj)
        PyBuffer_Release(&self->memory);
    Py_XDECREF((PyObject *)self->places);
    release((PyObject *)self);
}

static PyMethodDef methods[] = {
    {"begin", (PyCFunction)(void (*)(void))lane_begin, METH_FASTCALL, NULL},
    {"identify", (PyCFunction)(void (*)(void))lane_identify, METH_FASTCALL, NULL},
    {"answer", (PyCFunction)lane_answer, METH_O, NULL},
    {"pause", (PyCFunction)lane_pause, METH_NOARGS, NULL},
    {"resume", (PyCFunction)lane_resume, METH_O, NULL},
    {"took", (PyCFunction)lane_took, METH_O, NULL},
    {"end", (PyCFunction)(void (*)(void))lane_end, METH_FASTCALL, NULL},
    {"add", (PyCFunction)(void (*)(void))lane_add, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, lane_new},
    {Py_tp_dealloc, lane_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.Recorder", sizeof(Recorder), 0, Py_TPFLAGS_DEFAULT, slots,
};

/* ---- one lane for each thread --------------------------------------------------------------- */

static PyTypeObject *lanes_type;

/* The calling thread's. Whoever bound it keeps it alive. */
static _Thread_local Recorder *own;
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
    own = (Recorder *)lane;
    PyObject *old = latest;
    latest = Py_NewRef(lane);
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static Recorder *own_or_latest(void)
{
    return own ? own : (Recorder *)latest;
}

static Recorder *bound(void)
{
    if (!own)
        PyErr_SetString(PyExc_RuntimeError, "this thread has no lane");
    return own;
}

static PyObject *lanes_begin(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    (void)self;
    return bound() ? lane_begin(own, args, nargs) : NULL;
}

static PyObject *lanes_identify(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    (void)self;
    return bound() ? lane_identify(own, args, nargs) : NULL;
}

static PyObject *lanes_answer(PyObject *self, PyObject *ticket)
{
    (void)self;
    return bound() ? lane_answer(own, ticket) : NULL;
}

static PyObject *lanes_pause(PyObject *self, PyObject *unused)
{
    (void)self;
    return bound() ? lane_pause(own, unused) : NULL;
}

static PyObject *lanes_resume(PyObject *self, PyObject *ticket)
{
    (void)self;
    return bound() ? lane_resume(own, ticket) : NULL;
}

static PyObject *lanes_took(PyObject *self, PyObject *ticket)
{
    (void)self;
    return bound() ? lane_took(own, ticket) : NULL;
}

static PyObject *lanes_end(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    (void)self;
    return bound() ? lane_end(own, args, nargs) : NULL;
}

static PyObject *lanes_add(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    (void)self;
    return own_or_latest() ? lane_add(own_or_latest(), args, nargs) : (PyObject *)bound();
}

static PyMethodDef lanes_methods[] = {
    {"become", lanes_become, METH_O, NULL},
    {"begin", (PyCFunction)(void (*)(void))lanes_begin, METH_FASTCALL, NULL},
    {"identify", (PyCFunction)(void (*)(void))lanes_identify, METH_FASTCALL, NULL},
    {"answer", lanes_answer, METH_O, NULL},
    {"pause", lanes_pause, METH_NOARGS, NULL},
    {"resume", lanes_resume, METH_O, NULL},
    {"took", lanes_took, METH_O, NULL},
    {"end", (PyCFunction)(void (*)(void))lanes_end, METH_FASTCALL, NULL},
    {"add", (PyCFunction)(void (*)(void))lanes_add, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot lanes_slots[] = {
    {Py_tp_methods, lanes_methods},
    {0, NULL},
};

static PyType_Spec lanes_spec = {
    "forkd._native.OwnLane", sizeof(PyObject), 0, Py_TPFLAGS_DEFAULT, lanes_slots,
};

PyObject *lane_of(PyObject *recorder)
{
    if (Py_TYPE(recorder) == lane_type)
        return recorder;
    return Py_TYPE(recorder) == lanes_type ? (PyObject *)own : NULL;
}

/* As `lane_of`, for bytes that any thread may have moved. */
static Recorder *mover_of(PyObject *recorder)
{
    if (!recorder || Py_TYPE(recorder) == lane_type)
        return (Recorder *)recorder;
    return Py_TYPE(recorder) == lanes_type ? own_or_latest() : NULL;
}

void recorder_add_at(PyObject *recorder, int cell, int place, int64_t n)
{
    Recorder *self = mover_of(recorder);
    if (self)
        self->cells[self->at[cell] + place] += n;
}

void recorder_add(PyObject *recorder, int cell, int64_t n)
{
    recorder_add_at(recorder, cell, 0, n);
}

int lane_init(PyObject *module)
{
    static const char *const names[] = {NATIVE_CELLS(AS_NAME)};
    for (int i = 0; i < CELL_COUNT; i++)
        if (!(cell_names[i] = PyUnicode_InternFromString(names[i])))
            return -1;
    lane_type = (PyTypeObject *)PyType_FromSpec(&spec);
    lanes_type = (PyTypeObject *)PyType_FromSpec(&lanes_spec);
    return !lane_type || !lanes_type || PyModule_AddObjectRef(module, "Recorder", (PyObject *)lane_type) ||
                   PyModule_AddObjectRef(module, "OwnLane", (PyObject *)lanes_type)
               ? -1
               : 0;
}
