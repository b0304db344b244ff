/* One ring of log lines, at its writer's end and at its reader's (system/log_ring.py, whose Writer and `records` are
 * the twins). */

#include "native.h"
#include <stddef.h>
#include <structmember.h>

PyTypeObject *ring_writer_type;

/* Copy to or from a place in the ring, around its end. */
static void put_bytes(RingWriter *ring, uint64_t at, const void *data, size_t size)
{
    size_t start = at & (ring->room - 1), end = ring->room - start < size ? ring->room - start : size;
    memcpy(ring->text + start, data, end);
    memcpy(ring->text, (const char *)data + end, size - end);
}

static uint64_t free_bytes(const RingWriter *ring)
{
    uint64_t used = *ring->head - __atomic_load_n(ring->tail, __ATOMIC_ACQUIRE);
    return used > ring->room ? 0 : ring->room - used;
}

int ring_has_room(const RingWriter *ring, size_t size)
{
    return !ring->shut && size + RING_HEADER <= free_bytes(ring);
}

uint64_t ring_after(const RingWriter *ring, size_t size)
{
    return *ring->head + RING_HEADER + size;
}

void ring_put(RingWriter *ring, uint32_t log, const char *text, size_t size)
{
    uint32_t header[2] = {(uint32_t)size, log};
    put_bytes(ring, *ring->head, header, sizeof header);
    put_bytes(ring, *ring->head + RING_HEADER, text, size);
    /* The record is there from this store on: a writer that is killed before it has written nothing. */
    __atomic_store_n(ring->head, *ring->head + RING_HEADER + size, __ATOMIC_RELEASE);
}

/* put(log, text) -> whether there was room for the record. All of it under the GIL: threads do not mix. */
static PyObject *writer_put(RingWriter *self, PyObject *const *args, Py_ssize_t nargs)
{
    char *data;
    Py_ssize_t size;
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "put takes the number of a log, and text");
        return NULL;
    }
    unsigned long log = PyLong_AsUnsignedLong(args[0]);
    if (PyErr_Occurred() || PyBytes_AsStringAndSize(args[1], &data, &size))
        return NULL;
    if ((uint64_t)size + RING_HEADER > free_bytes(self))
        Py_RETURN_FALSE;
    ring_put(self, (uint32_t)log, data, size);
    Py_RETURN_TRUE;
}

/* use(index, start, room): the ring of that number, whose text is there. */
static PyObject *writer_use(RingWriter *self, PyObject *args)
{
    Py_ssize_t index, start, room, cells = (Py_ssize_t)(self->memory.len / 8);
    if (!PyArg_ParseTuple(args, "nnn", &index, &start, &room))
        return NULL;
    if (index < 0 || index >= self->count || 2 * self->count > cells || room < 16 || room & (room - 1) || start < 0 ||
        start > self->memory.len - room) {
        PyErr_SetString(PyExc_ValueError, "that is no ring");
        return NULL;
    }
    uint64_t *first = self->memory.buf;
    self->head = first + index;
    self->tail = first + self->count + index;
    self->text = (char *)self->memory.buf + start;
    self->room = room;
    Py_RETURN_NONE;
}

/* RingWriter(memory, count, index, start, room): `memory` begins with the heads of `count` rings, and their tails.
 * Otherwise as `use`. */
static PyObject *writer_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"memory", "count", "index", "start", "room", NULL};
    PyObject *memory, *index, *start, *room, *done;
    Py_ssize_t count;
    if (!by_name(args, keywords, "OnOOO", names, &memory, &count, &index, &start, &room))
        return NULL;
    RingWriter *self = (RingWriter *)allocate(type);
    if (!self)
        return NULL;
    if (PyObject_GetBuffer(memory, &self->memory, PyBUF_WRITABLE))
        goto fail;
    self->count = count;
    PyObject *place = PyTuple_Pack(3, index, start, room);
    done = place ? writer_use(self, place) : NULL;
    Py_XDECREF(place);
    if (!done)
        goto fail;
    Py_DECREF(done);
    return (PyObject *)self;
fail:
    Py_DECREF(self);
    return NULL;
}

static void writer_dealloc(RingWriter *self)
{
    if (self->memory.obj)
        PyBuffer_Release(&self->memory);
    release((PyObject *)self);
}

static PyObject *writer_free(RingWriter *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLongLong(free_bytes(self));
}

static PyObject *writer_head(RingWriter *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLongLong(*self->head);
}

static PyMethodDef methods[] = {
    {"put", (PyCFunction)(void (*)(void))writer_put, METH_FASTCALL, NULL},
    {"use", (PyCFunction)writer_use, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"room", T_PYSSIZET, offsetof(RingWriter, room), READONLY, NULL},
    {"shut", T_BOOL, offsetof(RingWriter, shut), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef getters[] = {
    {"free", (getter)writer_free, NULL, NULL, NULL},
    {"head", (getter)writer_head, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, writer_new},
    {Py_tp_dealloc, writer_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, getters},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.RingWriter", sizeof(RingWriter), 0, Py_TPFLAGS_DEFAULT, slots,
};

/* ---- the reader -------------------------------------------------------------------------------- */

static void get_bytes(const char *ring, size_t room, uint64_t at, void *data, size_t size)
{
    size_t start = at & (room - 1), end = room - start < size ? room - start : size;
    memcpy(data, ring + start, end);
    memcpy((char *)data + end, ring, size - end);
}

/* The size of the record at `at` with `pending` bytes to the head, and its log; 0 when it makes no sense. */
static uint64_t record_at(const char *ring, size_t room, uint64_t at, uint64_t pending, uint32_t *log)
{
    uint32_t header[2];
    if (pending <= RING_HEADER || pending > room)
        return 0;
    get_bytes(ring, room, at, header, sizeof header);
    *log = header[1];
    return header[0] <= pending - RING_HEADER ? header[0] : 0;
}

/* records(text, at, pending, most) -> (size of the first record's text, bytes of all in the ring, their text): the records
 * at `at`, all for one log, of up to `most` bytes, and one at least; none where what is there makes no sense. */
PyObject *native_records(PyObject *module, PyObject *args)
{
    PyObject *memory, *found = NULL, *text = NULL;
    unsigned long long at, pending;
    Py_ssize_t most;
    Py_buffer ring;
    (void)module;
    if (!PyArg_ParseTuple(args, "OKKn", &memory, &at, &pending, &most) || PyObject_GetBuffer(memory, &ring, PyBUF_SIMPLE))
        return NULL;
    size_t room = ring.len, size = 0, used = 0;
    uint32_t log = 0, other;
    if (!room || room & (room - 1)) {
        PyErr_SetString(PyExc_ValueError, "that is no ring");
        goto done;
    }
    /* The writer may be mad, and change what was read: sizes are looked at once, and the text is as long as they were. */
    uint64_t first = record_at(ring.buf, room, at, pending, &log);
    if (first > (uint64_t)most)
        most = (Py_ssize_t)first;
    char *copy = PyMem_Malloc(first ? (size_t)most : 1);
    if (!copy) {
        PyErr_NoMemory();
        goto done;
    }
    for (uint64_t next = first; next && size + next <= (size_t)most;) {
        get_bytes(ring.buf, room, at + used + RING_HEADER, copy + size, next);
        size += next;
        used += next + RING_HEADER;
        next = record_at(ring.buf, room, at + used, pending - used, &other);
        if (other != log)
            break;
    }
    text = PyBytes_FromStringAndSize(copy, size);
    PyMem_Free(copy);
    found = text ? Py_BuildValue("KKN", (unsigned long long)first, (unsigned long long)used, text) : NULL;
done:
    PyBuffer_Release(&ring);
    return found;
}

int log_ring_init(PyObject *module)
{
    ring_writer_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return ring_writer_type && !PyModule_AddObjectRef(module, "RingWriter", (PyObject *)ring_writer_type) ? 0 : -1;
}
