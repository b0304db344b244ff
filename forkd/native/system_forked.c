/* Processes that the application forks (system/forked.py says what becomes of them; its PythonForkState is the twin), also
 * where C code forks them, without Python's hooks. */

#define _GNU_SOURCE /* dup3 */
#include "native.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

int in_fork;
unsigned long forks;

static char armed;
static __thread char known; /* Python sees to the fork that this thread makes */
static __thread sigset_t mask; /* of this thread, before a fork */
static uint64_t handled, blocked; /* by forkd; the bit of signal 1 is the lowest */
static int wakeup = -1; /* what Python writes the number of each signal to */

enum { MOST_SIGNALS = 64 };

/* ---- around a fork that C code makes: only what is async-signal-safe ------------------------- */

static void before(void)
{
    sigset_t all;
    if (!armed || known)
        return;
    __atomic_add_fetch(&forks, 1, __ATOMIC_RELAXED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &mask);
}

static void in_parent(void)
{
    if (armed && !known)
        pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

/* Python's handler is the same for all signals: one that the application has set for a signal of forkd's ends, too. */
static void in_child(void)
{
    if (!armed || known)
        return;
    in_fork = 1;
    for (int number = 1; number <= MOST_SIGNALS; number++) {
        struct sigaction now;
        if (handled >> (number - 1) & 1 && !sigaction(number, NULL, &now) && now.sa_handler != SIG_IGN)
            signal(number, SIG_DFL);
        if (blocked >> (number - 1) & 1)
            sigdelset(&mask, number);
    }
    if (wakeup >= 0) { /* or a signal of the child's would be its parent's */
        int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
        if (null < 0 || dup3(null, wakeup, O_CLOEXEC) < 0)
            close(wakeup);
        if (null >= 0)
            close(null);
    }
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

/* ---- from Python ---------------------------------------------------------------------------- */

void leave_fork(void)
{
    PyObject *error = PyErr_Occurred() ? taken_exception() : Py_NewRef(Py_None);
    PyObject *module = PyImport_ImportModule("forkd.system.forked");
    if (module)
        PyObject_CallMethod(module, "leave", "O", error);
    _exit(70); /* it does not return */
}

static int state_truth(PyObject *self)
{
    (void)self;
    return in_fork;
}

static PyObject *state_forks(PyObject *self, void *closure)
{
    (void)self;
    (void)closure;
    return PyLong_FromUnsignedLong(forks);
}

/* mark(): this is a process that the application has forked. */
static PyObject *state_mark(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    in_fork = 1;
    Py_RETURN_NONE;
}

/* expect(): this process is about to fork. */
static PyObject *state_expect(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    __atomic_add_fetch(&forks, 1, __ATOMIC_RELAXED);
    Py_RETURN_NONE;
}

/* know(known): whether Python sees to the fork that this thread makes next. */
static PyObject *state_know(PyObject *self, PyObject *truth)
{
    (void)self;
    known = truth == Py_True;
    Py_RETURN_NONE;
}

/* prepare(armed, handled, blocked, wakeup): whether processes that C code forks are seen to; the signals of forkd, and
 * the descriptor that it is told of them by. */
static PyObject *state_prepare(PyObject *self, PyObject *args)
{
    int wanted, end;
    unsigned long long its, others;
    (void)self;
    if (!PyArg_ParseTuple(args, "pKKi", &wanted, &its, &others, &end))
        return NULL;
    wakeup = end;
    armed = (char)wanted;
    handled = its;
    blocked = others;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"mark", state_mark, METH_NOARGS, NULL},
    {"expect", state_expect, METH_NOARGS, NULL},
    {"know", state_know, METH_O, NULL},
    {"prepare", state_prepare, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getters[] = {
    {"forks", state_forks, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_nb_bool, state_truth},
    {Py_tp_methods, methods},
    {Py_tp_getset, getters},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.ForkState", sizeof(PyObject), 0, Py_TPFLAGS_DEFAULT, slots,
};

int fork_init(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&spec);
    int failed = !type || PyModule_AddObjectRef(module, "ForkState", type);
    Py_XDECREF(type);
    if (!failed && pthread_atfork(before, in_parent, in_child)) {
        PyErr_NoMemory();
        failed = 1;
    }
    return failed ? -1 : 0;
}
