/* The baton of the leader of a child's threads, and the wait of the follower that watches it (engine/baton.py, the
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
    unsigned still; /* the entry that `watch` has seen stand still; its own until it returns */
    char occupied, asleep;
    /* Under the mutex. */
    char given, ended;
    pthread_mutex_t mutex;
    pthread_cond_t news;
    int calm, looks;
} Baton;

enum { NOTHING, GIVEN, STILL };

PyTypeObject *baton_type;

#define LOAD(place) __atomic_load_n(&(place), __ATOMIC_SEQ_CST)
#define STORE(place, value) __atomic_store_n(&(place), value, __ATOMIC_SEQ_CST)

/* Baton(calm, looks): the watcher sleeps after so many looks at an empty baton; `watch` returns after so many. */
static PyObject *baton_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"calm", "looks", NULL};
    int calm, looks;
    pthread_condattr_t attributes;
    if (!by_name(args, keywords, "ii", names, &calm, &looks))
        return NULL;
    Baton *self = (Baton *)allocate(type);
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

static int baton_traverse(Baton *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->held);
    return 0;
}

static int baton_clear(Baton *self)
{
    Py_CLEAR(self->held);
    return 0;
}

static void baton_dealloc(Baton *self)
{
    PyObject_GC_UnTrack(self);
    baton_clear(self);
    pthread_cond_destroy(&self->news);
    pthread_mutex_destroy(&self->mutex);
    release((PyObject *)self);
}

/* Set `flag`, unless it is NULL, and wake the watcher, which holds the mutex only to look at it. */
static void tell(Baton *self, char *flag)
{
    pthread_mutex_lock(&self->mutex);
    if (flag)
        *flag = 1;
    pthread_cond_signal(&self->news);
    pthread_mutex_unlock(&self->mutex);
}

int baton_hold(PyObject *baton, PyObject *conn)
{
    Baton *self = (Baton *)baton;
    if (self->held) {
        PyErr_SetString(PyExc_RuntimeError, "the baton is held already");
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

static PyObject *baton_hold_method(PyObject *self, PyObject *conn)
{
    return baton_hold(self, conn) ? NULL : Py_NewRef(Py_None);
}

int baton_release(PyObject *baton, PyObject *conn)
{
    Baton *self = (Baton *)baton;
    if (self->held != conn)
        return 0;
    STORE(self->occupied, 0);
    Py_CLEAR(self->held);
    return 1;
}

static PyObject *baton_release_method(PyObject *self, PyObject *conn)
{
    return PyBool_FromLong(baton_release(self, conn));
}

static PyObject *baton_seize(Baton *self, PyObject *unused)
{
    (void)unused;
    PyObject *conn = self->held;
    if (!conn || self->entries != self->still)
        Py_RETURN_NONE; /* the leader has moved on while the watcher waited for the GIL */
    STORE(self->occupied, 0);
    self->held = NULL;
    return conn;
}

static PyObject *baton_pass_on(Baton *self, PyObject *unused)
{
    (void)unused;
    tell(self, &self->given);
    Py_RETURN_NONE;
}

static PyObject *baton_end(Baton *self, PyObject *unused)
{
    (void)unused;
    tell(self, &self->ended);
    Py_RETURN_NONE;
}

/* Wait for `tick`; whether leadership was given away meanwhile, or the end came. With the mutex. */
static int told(Baton *self, int64_t tick)
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

static int look(Baton *self, int64_t tick)
{
    unsigned seen = 0;
    int calm = 0;
    for (int looks = 0; looks < self->looks; looks++) {
        if (told(self, tick))
            break;
        unsigned entries = LOAD(self->entries);
        if (LOAD(self->occupied)) {
            calm = 0;
            if (looks && entries == seen) {
                self->still = entries;
                return STILL;
            }
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

static PyObject *baton_watch(Baton *self, PyObject *seconds)
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
    {"hold", (PyCFunction)baton_hold_method, METH_O, NULL},
    {"release", (PyCFunction)baton_release_method, METH_O, NULL},
    {"seize", (PyCFunction)baton_seize, METH_NOARGS, NULL},
    {"pass_on", (PyCFunction)baton_pass_on, METH_NOARGS, NULL},
    {"end", (PyCFunction)baton_end, METH_NOARGS, NULL},
    {"watch", (PyCFunction)baton_watch, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, baton_new},
    {Py_tp_traverse, baton_traverse},
    {Py_tp_clear, baton_clear},
    {Py_tp_dealloc, baton_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.Baton", sizeof(Baton), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots,
};

int baton_init(PyObject *module)
{
    baton_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return !baton_type || PyModule_AddObjectRef(module, "Baton", (PyObject *)baton_type) ? -1 : 0;
}
