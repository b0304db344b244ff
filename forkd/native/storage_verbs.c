/* The methods of Table for locks, limits, queues and channels, and for those who wait (storage/shm_table.py, the
 * twin). */

#include "storage_table.h"

/* ---- locks and limits ------------------------------------------------------------------------ */

/* acquire(name, lease) -> a token, or None. */
PyObject *table_acquire(Table *self, PyObject *args)
{
    PyObject *name;
    double lease;
    Key key;
    int64_t token = 0;
    Result result;
    if (!PyArg_ParseTuple(args, "Od", &name, &lease) || !argument_key(self, name, &key))
        return NULL;
    HELD(self, key.shard, result, lease_acquire(shard, &key, argument_ns(lease), &token));
    if (result == RES_NONE)
        Py_RETURN_NONE;
    return result == RES_OK ? PyLong_FromLongLong(token) : table_raised(self, result);
}

PyObject *table_renew(Table *self, PyObject *args)
{
    PyObject *name;
    double lease;
    long long token;
    Key key;
    Result result;
    if (!PyArg_ParseTuple(args, "OLd", &name, &token, &lease) || !argument_key(self, name, &key))
        return NULL;
    HELD(self, key.shard, result, lease_renew(shard, &key, token, argument_ns(lease)));
    return truth(self, result);
}

PyObject *table_release(Table *self, PyObject *args)
{
    PyObject *name;
    long long token;
    Key key;
    Result result;
    if (!PyArg_ParseTuple(args, "OL", &name, &token) || !argument_key(self, name, &key))
        return NULL;
    HELD(self, key.shard, result, lease_release(shard, &key, token));
    if (result == RES_OK)
        bell_ring(self, key.hash);
    return truth(self, result);
}

/* allow(key, seconds between two, burst, cost) -> (whether it passes, how many more would, seconds until one may). */
PyObject *table_allow(Table *self, PyObject *const *args, Py_ssize_t count)
{
    Key key;
    Passage passage = {0, 0, 0};
    Result result;
    double numbers[3] = {0};
    if (count != 4 || !argument_key(self, args[0], &key)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "allow(key, seconds, burst, cost)");
        return NULL;
    }
    for (int i = 0; i < 3; i++) {
        numbers[i] = PyFloat_AsDouble(args[1 + i]);
        if (numbers[i] == -1 && PyErr_Occurred())
            return NULL;
    }
    if (!(numbers[0] > 0) || !(numbers[0] * numbers[1] <= LONGEST_SECONDS)) {
        PyErr_SetString(PyExc_ValueError, "a limit that is none");
        return NULL;
    }
    HELD(self, key.shard, result, limit_allow(shard, &key, numbers[0] * 1e9, numbers[1], numbers[2], &passage));
    if (result != RES_OK)
        return table_raised(self, result);
    return Py_BuildValue("NLd", PyBool_FromLong(passage.allowed),
                         (long long)(passage.remaining > 0 ? passage.remaining + 1e-6 : 0), passage.retry);
}

/* ---- queues and channels --------------------------------------------------------------------- */

/* push(queue, data, delay, limit or None) -> its id. */
PyObject *table_push(Table *self, PyObject *args)
{
    PyObject *name, *most;
    const char *data;
    Py_ssize_t size;
    double delay;
    Key key;
    int64_t id = 0, limit = -1;
    Result result;
    if (!PyArg_ParseTuple(args, "Oy#dO", &name, &data, &size, &delay, &most) || !argument_queue(self, name, &key))
        return NULL;
    if (most != Py_None && (limit = PyLong_AsLongLong(most)) < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a limit is not negative");
        return NULL;
    }
    if (size > MAX_DATA_BYTES)
        return table_raised(self, RES_LARGE);
    HELD(self, key.shard, result, queue_push(shard, &key, data, (size_t)size, argument_ns(delay), limit, &id));
    if (result != RES_OK)
        return table_raised(self, result);
    bell_ring(self, key.hash);
    return PyLong_FromLongLong(id);
}

/* pop(queue, visible, tries) -> (id, data, tries), or None. */
PyObject *table_pop(Table *self, PyObject *args)
{
    PyObject *name;
    double visible;
    unsigned tries;
    char text[MAX_NAME_BYTES + 5];
    Key key;
    Popped popped = {0, 0, NULL};
    Result result;
    if (!PyArg_ParseTuple(args, "OdI", &name, &visible, &tries) || !argument_queue(self, name, &key))
        return NULL;
    Key dead = argument_dead(self, &key, text);
    HELD(self, key.shard, result, queue_pop(shard, &key, &dead, argument_ns(visible), tries, &popped));
    if (result == RES_NONE)
        Py_RETURN_NONE;
    if (result != RES_OK)
        return table_raised(self, result);
    return Py_BuildValue("LNI", (long long)popped.id, popped.data, popped.tries);
}

PyObject *table_ack(Table *self, PyObject *args)
{
    PyObject *name;
    long long id;
    unsigned tries;
    Key key;
    Result result;
    if (!PyArg_ParseTuple(args, "OLI", &name, &id, &tries) || !argument_queue(self, name, &key))
        return NULL;
    HELD(self, key.shard, result, queue_ack(shard, &key, id, tries));
    return truth(self, result);
}

/* defer(queue, id, tries, delay, held) -> whether it was taken by that receipt. */
PyObject *table_defer(Table *self, PyObject *args)
{
    PyObject *name;
    long long id;
    unsigned tries;
    double delay;
    int held;
    Key key;
    Result result;
    if (!PyArg_ParseTuple(args, "OLIdp", &name, &id, &tries, &delay, &held) || !argument_queue(self, name, &key))
        return NULL;
    HELD(self, key.shard, result, queue_defer(shard, &key, id, tries, argument_ns(delay), held));
    if (result == RES_OK)
        bell_ring(self, key.hash);
    return truth(self, result);
}

/* size(queue) -> (waiting, delayed, taken, dead). */
PyObject *table_size(Table *self, PyObject *name)
{
    char text[MAX_NAME_BYTES + 5];
    Key key;
    QueueSizes sizes;
    Result result;
    if (!argument_queue(self, name, &key))
        return NULL;
    Key dead = argument_dead(self, &key, text);
    HELD(self, key.shard, result, queue_sizes(shard, &key, &dead, &sizes));
    if (result != RES_OK)
        return table_raised(self, result);
    return Py_BuildValue("KKKK", sizes.waiting, sizes.delayed, sizes.taken, sizes.dead);
}

/* publish(channel, data) -> to how many subscriptions. */
PyObject *table_publish(Table *self, PyObject *args)
{
    PyObject *name;
    const char *data;
    Py_ssize_t size;
    Key key;
    int64_t count = 0;
    Result result;
    if (!PyArg_ParseTuple(args, "Oy#", &name, &data, &size) || !argument_key(self, name, &key))
        return NULL;
    if (size > MAX_DATA_BYTES)
        return table_raised(self, RES_LARGE);
    HELD(self, key.shard, result, channel_publish(shard, &key, data, (size_t)size, &count));
    if (result != RES_OK)
        return table_raised(self, result);
    if (count)
        bell_ring(self, key.hash);
    return PyLong_FromLongLong(count);
}

/* join(channel, by) -> the number of its last message. */
PyObject *table_join(Table *self, PyObject *args)
{
    PyObject *name;
    long long by;
    Key key;
    int64_t number = 0;
    Result result;
    if (!PyArg_ParseTuple(args, "OL", &name, &by) || !argument_key(self, name, &key))
        return NULL;
    HELD(self, key.shard, result, channel_join(shard, &key, by, &number));
    return result == RES_OK ? PyLong_FromLongLong(number) : table_raised(self, result);
}

/* message(channel, after) -> (its number, the data or None). */
PyObject *table_message(Table *self, PyObject *args)
{
    PyObject *name, *data = NULL;
    long long after;
    Key key;
    int64_t number = 0;
    Result result;
    if (!PyArg_ParseTuple(args, "OL", &name, &after) || !argument_key(self, name, &key))
        return NULL;
    HELD(self, key.shard, result, channel_next(shard, &key, after, &number, &data));
    if (result != RES_OK && result != RES_NONE)
        return table_raised(self, result);
    return Py_BuildValue("LN", (long long)number, data ? data : Py_NewRef(Py_None));
}

/* ---- waiting --------------------------------------------------------------------------------- */

/* bell(name) -> a number that changes with what `name` may be waited for. */
PyObject *table_bell(Table *self, PyObject *name)
{
    Key key;
    return argument_key(self, name, &key) ? PyLong_FromUnsignedLong(bell_seen(self, key.hash)) : NULL;
}

/* sleep(name, seen, seconds): until the bell is no more as it was seen, for a tenth of a second at most. */
PyObject *table_sleep(Table *self, PyObject *args)
{
    PyObject *name;
    unsigned seen;
    double seconds;
    Key key;
    if (!PyArg_ParseTuple(args, "OId", &name, &seen, &seconds) || !argument_key(self, name, &key))
        return NULL;
    return bell_wait(self, key.hash, seen, seconds) ? NULL : Py_NewRef(Py_None);
}

static PyObject *due_in(Table *self, Result result, int64_t due)
{
    if (result != RES_OK && result != RES_NONE)
        return table_raised(self, result);
    int64_t now = boot_ns();
    return result == RES_NONE ? Py_NewRef(Py_None) : PyFloat_FromDouble(due > now ? (double)(due - now) / 1e9 : 0);
}

/* held_for(name) -> seconds until the lease of its holder ends; None: it is free. */
PyObject *table_held_for(Table *self, PyObject *name)
{
    Key key;
    int64_t due = 0;
    Result result;
    if (!argument_key(self, name, &key))
        return NULL;
    HELD(self, key.shard, result, lease_due(shard, &key, &due));
    return due_in(self, result, due);
}

/* due_in(queue) -> seconds until its next item is due; None: it has none. */
PyObject *table_due_in(Table *self, PyObject *name)
{
    Key key;
    int64_t due = 0;
    Result result;
    if (!argument_queue(self, name, &key))
        return NULL;
    HELD(self, key.shard, result, queue_due(shard, &key, &due));
    return due_in(self, result, due);
}
