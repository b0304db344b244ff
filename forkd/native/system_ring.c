/* The queues of an io_uring, and the buffers that it receives into (system/ring.py, which sets both up, says what
 * holds of them, and has their twins). Used by the one thread that made the ring. */

#define _GNU_SOURCE
#include "system_ring.h"
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

PyTypeObject *queues_type, *buffers_type;

/* struct io_uring_getevents_arg of newer headers, and its timespec */
struct patience {
    uint64_t sigmask;
    uint32_t sigmask_size, pad;
    uint64_t timespec;
};

/* Returns 0, or -1 with an exception. */
static int enter(Queues *self, unsigned least, double seconds)
{
    struct {
        int64_t seconds, nanoseconds;
    } timespec = {(int64_t)seconds, (int64_t)((seconds - (double)(int64_t)seconds) * 1e9)};
    struct patience patience = {0, 0, 0, seconds < 0 ? 0 : (uint64_t)(uintptr_t)&timespec};
    long submitted;
    int number;
    *(volatile unsigned *)self->sq_tail = self->tail;
    Py_BEGIN_ALLOW_THREADS
    submitted = syscall(SYS_io_uring_enter, self->fd, self->unsubmitted, least,
                        IORING_ENTER_GETEVENTS | 1U << 3 /* IORING_ENTER_EXT_ARG */, &patience, sizeof patience);
    number = errno;
    Py_END_ALLOW_THREADS
    if (submitted >= 0) {
        self->unsubmitted -= (unsigned)submitted;
        return 0;
    }
    /* ETIME: the time is up. EBUSY, EAGAIN: no room now, what is queued stays queued. */
    if (number == ETIME || number == EINTR || number == EBUSY || number == EAGAIN)
        return 0;
    errno = number;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

struct io_uring_sqe *ring_next(Queues *self)
{
    while (self->unsubmitted == self->sq_entries)
        if (enter(self, 0, 0))
            return NULL;
    struct io_uring_sqe *sqe = &self->sqes[self->tail++ & (self->sq_entries - 1)];
    self->unsubmitted++;
    return memset(sqe, 0, sizeof *sqe);
}

const struct io_uring_cqe *ring_completion(Queues *self)
{
    unsigned tail = *(volatile unsigned *)self->cq_tail;
    return self->head == tail ? NULL : &self->cqes[self->head & (self->cq_entries - 1)];
}

void ring_taken(Queues *self)
{
    *(volatile unsigned *)self->cq_head = ++self->head;
}

PyObject *ring_tuple(const struct io_uring_cqe *cqe)
{
    return Py_BuildValue("KiI", (unsigned long long)cqe->user_data, (int)cqe->res, (unsigned)cqe->flags);
}

/* put(opcode, flags, ioprio, fd, offset, address, length, operation, user_data, group=0): as struct
 * io_uring_sqe names them. */
static PyObject *queues_put(Queues *self, PyObject *const *args, Py_ssize_t nargs)
{
    unsigned long long values[10] = {0};
    if (nargs < 9 || nargs > 10) {
        PyErr_SetString(PyExc_TypeError, "put takes nine or ten arguments");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < nargs; i++)
        values[i] = PyLong_AsUnsignedLongLongMask(args[i]);
    if (PyErr_Occurred())
        return NULL;
    struct io_uring_sqe *sqe = ring_next(self);
    if (!sqe)
        return NULL;
    sqe->opcode = (uint8_t)values[0];
    sqe->flags = (uint8_t)values[1];
    sqe->ioprio = (uint16_t)values[2];
    sqe->fd = (int32_t)values[3];
    sqe->off = values[4];
    sqe->addr = values[5];
    sqe->len = (uint32_t)values[6];
    sqe->msg_flags = (uint32_t)values[7];
    sqe->user_data = values[8];
    sqe->buf_group = (uint16_t)values[9];
    Py_RETURN_NONE;
}

/* enter(least, seconds or None) */
static PyObject *queues_enter(Queues *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "enter takes two arguments");
        return NULL;
    }
    unsigned long least = PyLong_AsUnsignedLong(args[0]);
    double seconds = args[1] == Py_None ? -1.0 : PyFloat_AsDouble(args[1]);
    if (PyErr_Occurred() || enter(self, (unsigned)least, seconds))
        return NULL;
    Py_RETURN_NONE;
}

/* completions() -> [(user_data, result, flags)] */
static PyObject *queues_completions(Queues *self, PyObject *unused)
{
    (void)unused;
    unsigned tail = *(volatile unsigned *)self->cq_tail, count = tail - self->head;
    PyObject *found = PyList_New(count);
    if (!found)
        return NULL;
    for (unsigned i = 0; i < count; i++) {
        const struct io_uring_cqe *cqe = &self->cqes[(self->head + i) & (self->cq_entries - 1)];
        PyObject *entry = ring_tuple(cqe);
        if (!entry || PyList_SetItem(found, i, entry)) {
            Py_DECREF(found);
            return NULL;
        }
    }
    self->head = tail;
    *(volatile unsigned *)self->cq_head = tail;
    return found;
}

/* Queues(fd, rings, sqes, sq_tail, sq_entries, cq_head, cq_tail, cqes, cq_entries): the mapped memory, and
 * byte offsets into `rings`. */
static PyObject *queues_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"fd", "rings", "sqes", "sq_tail", "sq_entries", "cq_head", "cq_tail", "cqes", "cq_entries", NULL};
    PyObject *rings, *sqes;
    unsigned sq_tail, cq_head, cq_tail, cqes;
    Queues *self = (Queues *)allocate(type);
    if (!self)
        return NULL;
    if (!by_name(args, keywords, "iOOIIIIII", names, &self->fd, &rings, &sqes, &sq_tail, &self->sq_entries, &cq_head,
                 &cq_tail, &cqes, &self->cq_entries) ||
        PyObject_GetBuffer(rings, &self->rings, PyBUF_WRITABLE) ||
        PyObject_GetBuffer(sqes, &self->submissions, PyBUF_WRITABLE))
        goto fail;
    size_t size = (size_t)self->rings.len;
    if (sq_tail + 4UL > size || cq_head + 4UL > size || cq_tail + 4UL > size ||
        cqes + self->cq_entries * sizeof(struct io_uring_cqe) > size ||
        self->sq_entries * sizeof(struct io_uring_sqe) > (size_t)self->submissions.len) {
        PyErr_SetString(PyExc_ValueError, "those are no queues");
        goto fail;
    }
    char *at = self->rings.buf;
    self->sq_tail = (unsigned *)(at + sq_tail);
    self->cq_head = (unsigned *)(at + cq_head);
    self->cq_tail = (unsigned *)(at + cq_tail);
    self->cqes = (struct io_uring_cqe *)(at + cqes);
    self->sqes = self->submissions.buf;
    return (PyObject *)self;
fail:
    Py_DECREF(self);
    return NULL;
}

static void queues_dealloc(Queues *self)
{
    if (self->rings.obj)
        PyBuffer_Release(&self->rings);
    if (self->submissions.obj)
        PyBuffer_Release(&self->submissions);
    release((PyObject *)self);
}

static PyMethodDef queues_methods[] = {
    {"put", (PyCFunction)(void (*)(void))queues_put, METH_FASTCALL, NULL},
    {"enter", (PyCFunction)(void (*)(void))queues_enter, METH_FASTCALL, NULL},
    {"completions", (PyCFunction)queues_completions, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot queues_slots[] = {
    {Py_tp_new, queues_new},
    {Py_tp_dealloc, queues_dealloc},
    {Py_tp_methods, queues_methods},
    {0, NULL},
};

static PyType_Spec queues_spec = {
    "forkd._native.Queues", sizeof(Queues), 0, Py_TPFLAGS_DEFAULT, queues_slots,
};

/* ---- provided buffers ----------------------------------------------------------------------- */

struct buffer { /* struct io_uring_buf of newer headers; the tail of the ring is where the first has `unused` */
    uint64_t address;
    uint32_t size;
    uint16_t number, unused;
};

static void give(Buffers *self, unsigned number)
{
    struct buffer *buffers = self->ring.buf, *entry = &buffers[self->tail & (self->count - 1)];
    entry->address = (uint64_t)(uintptr_t)((char *)self->memory.buf + (size_t)number * self->size);
    entry->size = self->size;
    entry->number = (uint16_t)number;
    *(volatile uint16_t *)&buffers[0].unused = ++self->tail;
}

const char *ring_received(Buffers *self, const struct io_uring_cqe *cqe)
{
    unsigned number = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
    if (!(cqe->flags & IORING_CQE_F_BUFFER) || number >= self->count || cqe->res <= 0 ||
        (unsigned)cqe->res > self->size)
        return NULL;
    return (const char *)self->memory.buf + (size_t)number * self->size;
}

void ring_give_back(Buffers *self, const struct io_uring_cqe *cqe)
{
    give(self, cqe->flags >> IORING_CQE_BUFFER_SHIFT);
}

/* take(flags, count) -> the bytes of a completion; its buffer goes back to the kernel. */
static PyObject *buffers_take(Buffers *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "take takes two arguments");
        return NULL;
    }
    unsigned long number = PyLong_AsUnsignedLong(args[0]) >> IORING_CQE_BUFFER_SHIFT,
                  count = PyLong_AsUnsignedLong(args[1]);
    if (PyErr_Occurred())
        return NULL;
    if (number >= self->count || count > self->size) {
        PyErr_SetString(PyExc_ValueError, "there is no such buffer");
        return NULL;
    }
    PyObject *data = PyBytes_FromStringAndSize((char *)self->memory.buf + number * self->size, count);
    give(self, (unsigned)number);
    return data;
}

/* Buffers(memory, ring, size, count) */
static PyObject *buffers_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"memory", "ring", "size", "count", NULL};
    PyObject *memory, *ring;
    Buffers *self = (Buffers *)allocate(type);
    if (!self)
        return NULL;
    if (!by_name(args, keywords, "OOII", names, &memory, &ring, &self->size, &self->count) ||
        PyObject_GetBuffer(memory, &self->memory, PyBUF_WRITABLE) ||
        PyObject_GetBuffer(ring, &self->ring, PyBUF_WRITABLE))
        goto fail;
    if ((size_t)self->size * self->count > (size_t)self->memory.len ||
        self->count * sizeof(struct buffer) > (size_t)self->ring.len) {
        PyErr_SetString(PyExc_ValueError, "those are no buffers");
        goto fail;
    }
    for (unsigned number = 0; number < self->count; number++)
        give(self, number);
    return (PyObject *)self;
fail:
    Py_DECREF(self);
    return NULL;
}

static void buffers_dealloc(Buffers *self)
{
    if (self->memory.obj)
        PyBuffer_Release(&self->memory);
    if (self->ring.obj)
        PyBuffer_Release(&self->ring);
    release((PyObject *)self);
}

static PyMethodDef buffers_methods[] = {
    {"take", (PyCFunction)(void (*)(void))buffers_take, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot buffers_slots[] = {
    {Py_tp_new, buffers_new},
    {Py_tp_dealloc, buffers_dealloc},
    {Py_tp_methods, buffers_methods},
    {0, NULL},
};

static PyType_Spec buffers_spec = {
    "forkd._native.Buffers", sizeof(Buffers), 0, Py_TPFLAGS_DEFAULT, buffers_slots,
};

int ring_init(PyObject *module)
{
    queues_type = (PyTypeObject *)PyType_FromSpec(&queues_spec);
    buffers_type = (PyTypeObject *)PyType_FromSpec(&buffers_spec);
    return !queues_type || !buffers_type || PyModule_AddObjectRef(module, "Queues", (PyObject *)queues_type) ||
                   PyModule_AddObjectRef(module, "Buffers", (PyObject *)buffers_type)
               ? -1
               : 0;
}
