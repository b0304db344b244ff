/* The stake of the leader of a child's threads, and the wait of the follower that watches it (engine/baton.py, the
 * twin).
 *
 * The watcher looks a thousand times a second. Here it does so without the GIL, which otherwise each look
 * would take from the leader and give back. */

#include "native.h"
#include <pthread.h>

typedef struct {
    PyObject_HEAD
    PyObject *held; /* under the GIL */
    /* Read by the watcher without it. */
    unsigned entries;
    char occupied, asleep;
    /* Under the mutex. */
    char given, ended;
    pthread_mutex_t mutex;
    pthread_cond_t news;
    int calm, looks;
} Stake;

enum { NOTHING, GIVEN, STILL };

PyTypeObject *stake_type;

#define LOAD(place) __atomic_load_n(&(place), __ATOMIC_SEQ_CST)
#define STORE(place, value) __atomic_store_n(&(place), value, __ATOMIC_SEQ_CST)

/* Stake(calm, looks): the watcher sleeps after so many looks at an empty stake; `watch` returns after so many. */
static PyObject *stake_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    int calm, looks;
    pthread_condattr_t attributes;
    (void)keywords;
    if (!PyArg_ParseTuple(args, "ii", &calm, &looks))
        return NULL;
    Stake *self = (Stake *)allocate(type);
    if (!self)
        return NULL;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&self->mutex, NULL);
    pthread_cond_init(&self->news, &attributes);
    pthread_condattr_destroy(&attributes);
    self->calm = calm;
    self->looks = looks;
    return (PyObject *)self;
}

static int stake_traverse(Stake *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->held);
    return 0;
}

static int stake_clear(Stake *self)
{
    Py_CLEAR(self->held);
    return 0;
}

static void stake_dealloc(Stake *self)
{
    PyObject_GC_UnTrack(self);
    stake_clear(self);
    pthread_cond_destroy(&self->news);
    pthread_mutex_destroy(&self->mutex);
    release((PyObject *)self);
}

/* Set `flag`, unless it is NULL, and wake the watcher, which holds the mutex only to look at it. */
static void tell(Stake *self, char *flag)
{
    pthread_mutex_lock(&self->mutex);
    if (flag)
        *flag = 1;
    pthread_cond_signal(&self->news);
    pthread_mutex_unlock(&self->mutex);
}

int stake_hold(PyObject *stake, PyObject *conn)
{
    Stake *self = (Stake *)stake;
    if (self->held) {
        PyErr_SetString(PyExc_RuntimeError, "the stake is held already");
        return -1;
    }
    self->held = Py_NewRef(conn);
    STORE(self->entries, self->entries + 1);
    STORE(self->occupied, 1);
    if (LOAD(self->asleep)) {
        STORE(self->asleep, 0);
        tell(self, NULL);
    }
    return 0;
}

static PyObject *stake_put(PyObject *self, PyObject *conn)
{
    return stake_hold(self, conn) ? NULL : Py_NewRef(Py_None);
}

int stake_let_go(PyObject *stake, PyObject *conn)
{
    Stake *self = (Stake *)stake;
    if (self->held != conn)
        return 0;
    STORE(self->occupied, 0);
    Py_CLEAR(self->held);
    return 1;
}

static PyObject *stake_drop(PyObject *self, PyObject *conn)
{
    return PyBool_FromLong(stake_let_go(self, conn));
}

static PyObject *stake_take(Stake *self, PyObject *unused)
{
    (void)unused;
    PyObject *conn = self->held;
    if (!conn)
        Py_RETURN_NONE;
    STORE(self->occupied, 0);
    self->held = NULL;
    return conn;
}

static PyObject *stake_give(Stake *self, PyObject *unused)
{
    (void)unused;
    tell(self, &self->given);
    Py_RETURN_NONE;
}

static PyObject *stake_end(Stake *self, PyObject *unused)
{
    (void)unused;
    tell(self, &self->ended);
    Py_RETURN_NONE;
}

/* Wait for `tick`; whether leadership was given away meanwhile, or the end came. With the mutex. */
static int told(Stake *self, int64_t tick)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t ns = until.tv_nsec + tick;
    until.tv_sec += ns / 1000000000;
    until.tv_nsec = ns % 1000000000;
    while (!self->given && !self->ended)
        if (pthread_cond_timedwait(&self->news, &self->mutex, &until))
            break; /* the time is up */
    return self->given || self->ended;
}

static int look(Stake *self, int64_t tick)
{
    unsigned seen = 0;
    int calm = 0;
    for (int looks = 0; looks < self->looks; looks++) {
        if (told(self, tick))
            break;
        unsigned entries = LOAD(self->entries);
        if (LOAD(self->occupied)) {
            calm = 0;
            if (looks && entries == seen)
                return STILL;
        } else if (++calm > self->calm) {
            STORE(self->asleep, 1);
            /* Looked at after that: a thread that puts something in after this look sees it. */
            while (LOAD(self->asleep) && !LOAD(self->occupied) && !self->given && !self->ended)
                pthread_cond_wait(&self->news, &self->mutex);
            STORE(self->asleep, 0);
            return NOTHING;
        }
        seen = entries;
    }
    int given = self->given;
    self->given = 0;
    return given ? GIVEN : NOTHING;
}

static PyObject *stake_watch(Stake *self, PyObject *seconds)
{
    int64_t tick = (int64_t)(PyFloat_AsDouble(seconds) * 1e9);
    int found;
    if (PyErr_Occurred())
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&self->mutex);
    found = look(self, tick);
    pthread_mutex_unlock(&self->mutex);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(found);
}

static PyMethodDef methods[] = {
    {"put", (PyCFunction)stake_put, METH_O, NULL},
    {"drop", (PyCFunction)stake_drop, METH_O, NULL},
    {"take", (PyCFunction)stake_take, METH_NOARGS, NULL},
    {"give", (PyCFunction)stake_give, METH_NOARGS, NULL},
    {"end", (PyCFunction)stake_end, METH_NOARGS, NULL},
    {"watch", (PyCFunction)stake_watch, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, stake_new},
    {Py_tp_traverse, stake_traverse},
    {Py_tp_clear, stake_clear},
    {Py_tp_dealloc, stake_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.Stake", sizeof(Stake), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots,
};

int stake_init(PyObject *module)
{
    stake_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return !stake_type || PyModule_AddObjectRef(module, "Stake", (PyObject *)stake_type) ? -1 : 0;
}
