/* The type Table: a table as Python has it (storage/shm_table.py, the twin). Each method holds one shard, and calls what
 * is done there; what is damaged is repaired, and tried once more. */

#include "storage_table.h"
#include <unistd.h>

/* Exceptions, by their place in what the constructor is given. */
enum { E_TOO_LARGE, E_FULL, E_STALLED, E_FENCED, E_BUSY, E_DAMAGED, E_COUNT };

static PyTypeObject *table_type;

static PyObject *error_of(const Table *self, int number)
{
    return PyTuple_GetItem(self->errors, number); /* borrowed */
}

/* The exception of a result. NULL. */
PyObject *table_raised(Table *self, Result result)
{
    PyObject *made;
    switch (result) {
    case RES_FULL:
        PyErr_SetString(error_of(self, E_FULL), "there is no room, and nothing that may be evicted");
        break;
    case RES_LARGE:
        PyErr_SetString(error_of(self, E_TOO_LARGE), "larger than this table keeps");
        break;
    case RES_TYPE:
        PyErr_SetString(PyExc_TypeError, "the value is not an int");
        break;
    case RES_OVERFLOW:
        PyErr_SetString(PyExc_OverflowError, "an int of more than 64 bits");
        break;
    case RES_FENCED:
        PyErr_SetString(error_of(self, E_FENCED), "the key was written with a greater fencing token");
        break;
    case RES_BUSY:
        PyErr_SetString(error_of(self, E_BUSY), "another process is in the middle of an update");
        break;
    case RES_STALLED:
        made = PyObject_CallFunction(error_of(self, E_STALLED), "sl", "shared memory",
                                     (long)(self->stalled_by & ((1 << 22) - 1)));
        if (made)
            PyErr_SetObject(error_of(self, E_STALLED), made);
        Py_XDECREF(made);
        break;
    case RES_RAISED:
        break;
    default:
        PyErr_SetString(error_of(self, E_DAMAGED), "shared memory was written over");
    }
    return NULL;
}

/* ---- arguments ------------------------------------------------------------------------------- */

#define ROTATE(x, b) ((x) << (b) | (x) >> (64 - (b)))
#define ROUND                                                                                                           \
    (v0 += v1, v1 = ROTATE(v1, 13), v1 ^= v0, v0 = ROTATE(v0, 32), v2 += v3, v3 = ROTATE(v3, 16), v3 ^= v2, v0 += v3,   \
     v3 = ROTATE(v3, 21), v3 ^= v0, v2 += v1, v1 = ROTATE(v1, 17), v1 ^= v2, v2 = ROTATE(v2, 32))

/* SipHash-1-3, with the seed of the table: a client that names keys cannot make them fall into one bucket. */
static uint64_t hash_of(const Table *self, const char *text, size_t size)
{
    uint64_t v0 = self->seed[0] ^ UINT64_C(0x736f6d6570736575), v1 = self->seed[1] ^ UINT64_C(0x646f72616e646f6d);
    uint64_t v2 = self->seed[0] ^ UINT64_C(0x6c7967656e657261), v3 = self->seed[1] ^ UINT64_C(0x7465646279746573);
    uint64_t word, last = (uint64_t)size << 56;
    for (; size >= 8; text += 8, size -= 8) {
        memcpy(&word, text, 8);
        v3 ^= word;
        ROUND;
        v0 ^= word;
    }
    word = 0;
    memcpy(&word, text, size);
    last |= word;
    v3 ^= last;
    ROUND;
    v0 ^= last;
    v2 ^= 0xff;
    ROUND;
    ROUND;
    ROUND;
    return v0 ^ v1 ^ v2 ^ v3;
}

static int key_of_text(Table *self, const char *text, Py_ssize_t size, Key *key)
{
    if (size < 1) {
        PyErr_SetString(PyExc_ValueError, "a key is empty");
        return 0;
    }
    if (size > MAX_KEY_BYTES) {
        PyErr_Format(error_of(self, E_TOO_LARGE), "a key of %zd bytes; the most is %d", size, MAX_KEY_BYTES);
        return 0;
    }
    key->text = text;
    key->size = size;
    key->hash = hash_of(self, text, (size_t)size);
    key->shard = (uint32_t)(key->hash & 0xffff) % self->shards;
    return 1;
}

/* Of a str or bytes. Whether it is one, or there is an exception. */
int argument_key(Table *self, PyObject *object, Key *key)
{
    Py_ssize_t size;
    const char *text;
    if (PyUnicode_Check(object))
        text = PyUnicode_AsUTF8AndSize(object, &size);
    else if (PyBytes_Check(object)) {
        text = PyBytes_AsString(object);
        size = PyBytes_Size(object);
    } else {
        PyErr_SetString(PyExc_TypeError, "a key is a str or bytes");
        return 0;
    }
    return text && key_of_text(self, text, size, key);
}

/* Its dead letters: in the same shard. */
Key argument_dead(Table *self, const Key *name, char *text)
{
    memcpy(text, name->text, (size_t)name->size);
    memcpy(text + name->size, ".dead", 5);
    Py_ssize_t size = name->size + 5;
    return (Key){text, size, hash_of(self, text, (size_t)size), name->shard};
}

int argument_queue(Table *self, PyObject *object, Key *key)
{
    Key root;
    if (!argument_key(self, object, key))
        return 0;
    for (Py_ssize_t size = key->size; size > 5 && !memcmp(key->text + size - 5, ".dead", 5);) {
        size -= 5;
        root = *key;
        root.hash = hash_of(self, key->text, (size_t)size);
        key->shard = (uint32_t)(root.hash & 0xffff) % self->shards;
    }
    return 1;
}

int64_t argument_ns(double seconds)
{
    return (int64_t)((seconds < LONGEST_SECONDS ? seconds > 0 ? seconds : 0 : LONGEST_SECONDS) * 1e9);
}

/* When something with that ttl ends: 0 for None, -1 for at once. Whether there is no exception. */
int argument_expires(PyObject *ttl, int64_t *expires)
{
    *expires = 0;
    if (ttl == Py_None)
        return 1;
    double seconds = PyFloat_AsDouble(ttl);
    if (seconds == -1 && PyErr_Occurred())
        return 0;
    if (seconds != seconds) {
        PyErr_SetString(PyExc_ValueError, "a ttl is a number of seconds, and not NaN");
        return 0;
    }
    if (seconds >= LONGEST_SECONDS) /* no end */
        return 1;
    *expires = seconds > 0 ? boot_ns() + argument_ns(seconds) : -1;
    return 1;
}

int argument_value(Table *self, PyObject *object, Value *value)
{
    *value = (Value){TYPE_BYTES, 0, "", 0};
    if (PyLong_Check(object)) {
        value->type = TYPE_INT;
        value->number = PyLong_AsLongLong(object);
        return !(value->number == -1 && PyErr_Occurred());
    }
    if (PyUnicode_Check(object)) {
        value->type = TYPE_STR;
        value->data = PyUnicode_AsUTF8AndSize(object, &value->size);
    } else if (PyBytes_Check(object)) {
        value->type = (PyObject *)Py_TYPE(object) == self->packed ? TYPE_PACKED : TYPE_BYTES;
        value->data = PyBytes_AsString(object);
        value->size = PyBytes_Size(object);
    } else {
        PyErr_Format(PyExc_TypeError, "a value is bytes, an int or a str");
        return 0;
    }
    if (value->size > MAX_VALUE_BYTES)
        PyErr_Format(error_of(self, E_TOO_LARGE), "a value of %zd bytes; the most is %d", value->size, MAX_VALUE_BYTES);
    return value->data && value->size <= MAX_VALUE_BYTES;
}

/* ---- the type -------------------------------------------------------------------------------- */

/* Table(memory, page or None, slot, fd, instant, layout, born, seed, errors, packed): see the twin. */
static PyObject *table_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *memory, *page, *errors, *packed;
    int slot, fd, instant;
    unsigned long long layout[6], born;
    const char *seed;
    Py_ssize_t seed_size;
    (void)keywords;
    if (!PyArg_ParseTuple(args, "OOiip(KKKKKK)Ky#O!O", &memory, &page, &slot, &fd, &instant, &layout[0], &layout[1],
                          &layout[2], &layout[3], &layout[4], &layout[5], &born, &seed, &seed_size, &PyTuple_Type, &errors,
                          &packed))
        return NULL;
    Table *self = (Table *)allocate(type);
    if (!self)
        return NULL;
    if (PyObject_GetBuffer(memory, &self->memory, PyBUF_WRITABLE) ||
        (page != Py_None && PyObject_GetBuffer(page, &self->page, PyBUF_SIMPLE)))
        goto fail;
    unsigned long long room = (unsigned long long)self->memory.len;
    if (seed_size != 16 || PyTuple_Size(errors) != E_COUNT || !layout[0] || layout[1] > room ||
        room < TABLE_HEADER + layout[0] * layout[1] || layout[2] > UINT32_MAX || !layout[3] || layout[3] > layout[2] ||
        layout[3] & (layout[3] - 1) || layout[4] != SHARD_HEADER + 4 * layout[2] ||
        layout[5] < layout[4] + 4 * layout[3] || layout[5] % BLOCK || layout[5] + layout[2] * BLOCK > layout[1]) {
        PyErr_SetString(PyExc_ValueError, "this is no table");
        goto fail;
    }
    self->shards = (uint32_t)layout[0], self->shard_bytes = layout[1], self->blocks = (uint32_t)layout[2];
    self->buckets = (uint32_t)layout[3], self->buckets_at = layout[4], self->blocks_at = layout[5];
    self->born = born;
    memcpy(self->seed, seed, sizeof self->seed);
    self->slot = slot, self->fd = fd, self->instant = instant, self->pid = getpid();
    self->errors = Py_NewRef(errors);
    self->packed = Py_NewRef(packed);
    return (PyObject *)self;
fail:
    Py_DECREF(self);
    return NULL;
}

static void table_dealloc(Table *self)
{
    if (self->memory.obj)
        PyBuffer_Release(&self->memory);
    if (self->page.obj)
        PyBuffer_Release(&self->page);
    Py_XDECREF(self->errors);
    Py_XDECREF(self->packed);
    release((PyObject *)self);
}

static PyType_Slot slots[] = {
    {Py_tp_new, table_new},
    {Py_tp_dealloc, table_dealloc},
    {Py_tp_methods, table_methods},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.Table", sizeof(Table), 0, Py_TPFLAGS_DEFAULT, slots,
};

int storage_init(PyObject *module)
{
    table_type = (PyTypeObject *)PyType_FromSpec(&spec);
    if (!table_type || PyModule_AddObjectRef(module, "Table", (PyObject *)table_type))
        return -1;
    if (storage_lock_init()) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}
