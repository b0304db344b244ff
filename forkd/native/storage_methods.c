/* The methods of Table for the cache, and the table of all methods (storage/shm_table.py, the twin). */

#include "storage_table.h"

/* What the bytes of a value become. Takes the reference. */
static PyObject *typed(Table *self, PyObject *value, int type)
{
    PyObject *made = value;
    if (value && type == TYPE_STR) {
        made = PyUnicode_DecodeUTF8(PyBytes_AsString(value), PyBytes_Size(value), "strict");
        if (!made && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
            PyErr_Clear();
            table_raised(self, RES_DAMAGED);
        }
    } else if (value && type == TYPE_PACKED)
        made = PyObject_CallFunctionObjArgs(self->packed, value, NULL);
    if (made != value)
        Py_DECREF(value);
    return made;
}

static PyObject *seconds_left(int64_t expires)
{
    int64_t left = expires ? expires - boot_ns() : 0;
    return expires ? PyFloat_FromDouble((double)(left > 0 ? left : 0) / 1e9) : Py_NewRef(Py_None);
}

/* get(key) -> (value, token, seconds left or None), or None. */
static PyObject *table_get(Table *self, PyObject *name)
{
    Key key;
    PyObject *value = NULL;
    int type = 0;
    int64_t token = 0, expires = 0;
    Result result;
    if (!argument_key(self, name, &key))
        return NULL;
    HELD(self, key.shard, result, cache_get(shard, &key, &value, &type, &token, &expires));
    if (result != RES_OK)
        return result == RES_NONE ? Py_NewRef(Py_None) : table_raised(self, result);
    value = typed(self, value, type);
    PyObject *left = value ? seconds_left(expires) : NULL;
    PyObject *made = left ? Py_BuildValue("OLO", value, (long long)token, left) : NULL;
    Py_XDECREF(left);
    Py_XDECREF(value);
    return made;
}

/* read(key, default=None): as Storage.get. */
static PyObject *table_read(Table *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Key key;
    PyObject *value = NULL, *otherwise = count > 1 ? args[1] : Py_None;
    int type = 0;
    int64_t token, expires;
    Result result;
    if (names && PyTuple_Size(names) == 1 && count == 1 &&
        !PyUnicode_CompareWithASCIIString(PyTuple_GetItem(names, 0), "default"))
        otherwise = args[1];
    else if (count < 1 || count > 2 || (names && PyTuple_Size(names))) {
        PyErr_SetString(PyExc_TypeError, "get(key, default=None)");
        return NULL;
    }
    if (!argument_key(self, args[0], &key))
        return NULL;
    HELD(self, key.shard, result, cache_get(shard, &key, &value, &type, &token, &expires));
    if (result == RES_OK)
        return typed(self, value, type);
    return result == RES_NONE ? Py_NewRef(otherwise) : table_raised(self, result);
}

/* put(key, value, ttl, only, token, fence) -> whether it was written. */
static PyObject *table_put(Table *self, PyObject *const *args, Py_ssize_t count)
{
    Key key;
    Value value;
    Terms terms = {0};
    Result result;
    if (count != 6) {
        PyErr_SetString(PyExc_TypeError, "put(key, value, ttl, only, token, fence)");
        return NULL;
    }
    if (!argument_key(self, args[0], &key) || !argument_value(self, args[1], &value) || !argument_expires(args[2], &terms.expires))
        return NULL;
    terms.only = (int)PyLong_AsLong(args[3]);
    terms.has_token = args[4] != Py_None;
    terms.token = terms.has_token ? PyLong_AsLongLong(args[4]) : 0;
    terms.has_fence = args[5] != Py_None;
    terms.fence = terms.has_fence ? PyLong_AsLongLong(args[5]) : 0;
    if (PyErr_Occurred())
        return NULL;
    HELD(self, key.shard, result, cache_put(shard, &key, &value, &terms));
    return truth(self, result);
}

/* write(key, value, ttl=None): as Storage.set; what is more than that is told by None in place of True. */
static PyObject *table_write(Table *self, PyObject *const *args, Py_ssize_t count)
{
    Key key;
    Value value;
    Terms terms = {0};
    Result result;
    if (!argument_key(self, args[0], &key) || !argument_value(self, args[1], &value) ||
        !argument_expires(count > 2 ? args[2] : Py_None, &terms.expires))
        return NULL;
    HELD(self, key.shard, result, cache_put(shard, &key, &value, &terms));
    return result == RES_OK ? Py_NewRef(Py_None) : table_raised(self, result);
}

/* set(key, value, ttl=None, *, fence=None): as Storage.set. */
static PyObject *table_set(Table *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *given[6] = {NULL, NULL, Py_None, NULL, Py_None, Py_None};
    Py_ssize_t named = names ? PyTuple_Size(names) : 0;
    int wrong = count > 3;
    for (Py_ssize_t i = 0; !wrong && i < count; i++)
        given[i] = args[i];
    for (Py_ssize_t i = 0; !wrong && i < named; i++) {
        PyObject *name = PyTuple_GetItem(names, i);
        int at = !PyUnicode_CompareWithASCIIString(name, "ttl")     ? 2
                 : !PyUnicode_CompareWithASCIIString(name, "fence") ? 5
                 : !PyUnicode_CompareWithASCIIString(name, "value") ? 1
                 : !PyUnicode_CompareWithASCIIString(name, "key")   ? 0
                                                                    : -1;
        wrong = at < 0 || at < count;
        if (!wrong)
            given[at] = args[count + i];
    }
    if (wrong || !given[0] || !given[1]) {
        PyErr_SetString(PyExc_TypeError, "set(key, value, ttl=None, *, fence=None)");
        return NULL;
    }
    if (given[5] == Py_None && !(PyObject_CheckBuffer(given[1]) && !PyBytes_Check(given[1])))
        return table_write(self, given, 3);
    PyObject *value = PyObject_CheckBuffer(given[1]) ? PyBytes_FromObject(given[1]) : Py_NewRef(given[1]);
    given[1] = value;
    given[3] = PyLong_FromLong(ONLY_ANY);
    PyObject *done = value && given[3] ? table_put(self, given, 6) : NULL;
    Py_XDECREF(value);
    Py_XDECREF(given[3]);
    Py_XDECREF(done);
    return done ? Py_NewRef(Py_None) : NULL;
}

/* touch(key, ttl) -> whether it is there. */
static PyObject *table_touch(Table *self, PyObject *args)
{
    PyObject *name, *ttl;
    Key key;
    int64_t expires;
    Result result;
    if (!PyArg_ParseTuple(args, "OO", &name, &ttl) || !argument_key(self, name, &key) || !argument_expires(ttl, &expires))
        return NULL;
    HELD(self, key.shard, result, cache_touch(shard, &key, expires));
    return truth(self, result);
}

static PyObject *table_delete(Table *self, PyObject *name)
{
    Key key;
    Result result;
    if (!argument_key(self, name, &key))
        return NULL;
    HELD(self, key.shard, result, cache_delete(shard, &key));
    return truth(self, result);
}

/* incr(key, by=1, ttl=None) -> the new value. */
static PyObject *table_incr(Table *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *given[3] = {NULL, NULL, Py_None};
    Py_ssize_t named = names ? PyTuple_Size(names) : 0;
    Key key;
    int64_t expires, value = 0;
    Result result;
    int wrong = count < 1 || count > 3;
    for (Py_ssize_t i = 0; !wrong && i < count; i++)
        given[i] = args[i];
    for (Py_ssize_t i = 0; !wrong && i < named; i++) {
        PyObject *name = PyTuple_GetItem(names, i);
        int at = !PyUnicode_CompareWithASCIIString(name, "by") ? 1 : !PyUnicode_CompareWithASCIIString(name, "ttl") ? 2 : -1;
        wrong = at < count;
        if (!wrong)
            given[at] = args[count + i];
    }
    if (wrong) {
        PyErr_SetString(PyExc_TypeError, "incr(key, by=1, ttl=None)");
        return NULL;
    }
    int64_t by = given[1] ? PyLong_AsLongLong(given[1]) : 1;
    if ((by == -1 && PyErr_Occurred()) || !argument_key(self, given[0], &key) || !argument_expires(given[2], &expires))
        return NULL;
    HELD(self, key.shard, result, cache_incr(shard, &key, by, expires, &value));
    return result == RES_OK ? PyLong_FromLongLong(value) : table_raised(self, result);
}

/* scan(shard, bucket, count, clear) -> the keys of so many buckets from that one on. */
static PyObject *table_scan(Table *self, PyObject *args)
{
    unsigned number, bucket, count;
    int clear;
    Result result;
    if (!PyArg_ParseTuple(args, "IIIp", &number, &bucket, &count, &clear))
        return NULL;
    if (number >= self->shards || bucket >= self->buckets || count > self->buckets - bucket) {
        PyErr_SetString(PyExc_ValueError, "there is no such bucket");
        return NULL;
    }
    PyObject *keys = PyList_New(0);
    for (unsigned i = 0; keys && i < count; i++) {
        HELD(self, number, result, cache_scan(shard, bucket + i, clear, keys));
        if (result != RES_OK) {
            table_raised(self, result);
            Py_CLEAR(keys);
        }
    }
    return keys;
}

/* cells(shard) -> what the shard begins with, as bytes. */
static PyObject *table_cells(Table *self, PyObject *number)
{
    unsigned long shard = PyLong_AsUnsignedLong(number);
    if (PyErr_Occurred())
        return NULL;
    if (shard >= self->shards) {
        PyErr_SetString(PyExc_ValueError, "there is no such shard");
        return NULL;
    }
    const char *at = (char *)self->memory.buf + TABLE_HEADER + shard * self->shard_bytes;
    return PyBytes_FromStringAndSize(at, S_CELLS * 8);
}

static Result repaired(Shard *shard, int *same)
{
    uint64_t keys = shard->cell[S_KEYS], used = shard->cell[S_HIGH] - shard->cell[S_FREE_COUNT];
    Result result = shard_repair(shard);
    *same = shard->cell[S_KEYS] == keys && shard->cell[S_HIGH] - shard->cell[S_FREE_COUNT] == used;
    return result;
}

/* repair(shard): make all that follows from its index anew -> whether it was as it had to be. */
static PyObject *table_repair(Table *self, PyObject *number)
{
    unsigned long at = PyLong_AsUnsignedLong(number);
    int same = 0;
    Result result;
    if (PyErr_Occurred())
        return NULL;
    if (at >= self->shards) {
        PyErr_SetString(PyExc_ValueError, "there is no such shard");
        return NULL;
    }
    HELD(self, (uint32_t)at, result, repaired(shard, &same));
    return result == RES_OK ? PyBool_FromLong(same) : table_raised(self, result);
}

#define METHOD(name, function, flags) {name, (PyCFunction)(void (*)(void))function, flags, NULL}

PyMethodDef table_methods[] = {
    METHOD("get", table_get, METH_O),
    METHOD("read", table_read, METH_FASTCALL | METH_KEYWORDS),
    METHOD("set", table_set, METH_FASTCALL | METH_KEYWORDS),
    METHOD("put", table_put, METH_FASTCALL),
    METHOD("touch", table_touch, METH_VARARGS),
    METHOD("delete", table_delete, METH_O),
    METHOD("incr", table_incr, METH_FASTCALL | METH_KEYWORDS),
    METHOD("scan", table_scan, METH_VARARGS),
    METHOD("acquire", table_acquire, METH_VARARGS),
    METHOD("renew", table_renew, METH_VARARGS),
    METHOD("release", table_release, METH_VARARGS),
    METHOD("allow", table_allow, METH_FASTCALL),
    METHOD("push", table_push, METH_VARARGS),
    METHOD("pop", table_pop, METH_VARARGS),
    METHOD("ack", table_ack, METH_VARARGS),
    METHOD("defer", table_defer, METH_VARARGS),
    METHOD("size", table_size, METH_O),
    METHOD("publish", table_publish, METH_VARARGS),
    METHOD("join", table_join, METH_VARARGS),
    METHOD("message", table_message, METH_VARARGS),
    METHOD("bell", table_bell, METH_O),
    METHOD("sleep", table_sleep, METH_VARARGS),
    METHOD("held_for", table_held_for, METH_O),
    METHOD("due_in", table_due_in, METH_O),
    METHOD("cells", table_cells, METH_O),
    METHOD("repair", table_repair, METH_O),
    {NULL, NULL, 0, NULL},
};

