/* The distinction between signals that a process has sent and those of the kernel for a terminal
 * (system/signals.py, SignalQueue).
 *
 * Its twin cannot make it: Python's handlers are not given a siginfo_t. A master that has a terminal takes no such
 * signal for an order there. */

#include "native.h"
#include <signal.h>

/* What Python has installed, by signal. */
static void (*before[NSIG])(int);

static void tell_apart(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (info->si_code != SI_KERNEL) /* that of tty_ioctl(4) and job control: sigaction(2) */
        before[number](number);
}

/* only_from_processes(number): call the handler that the signal has, one of Python's, for those of processes. */
PyObject *native_only_from_processes(PyObject *self, PyObject *given)
{
    (void)self;
    struct sigaction action;
    long number = PyLong_AsLong(given);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    if (number <= 0 || number >= NSIG || sigaction((int)number, NULL, &action)) {
        PyErr_SetString(PyExc_ValueError, "no such signal");
        return NULL;
    }
    if (action.sa_flags & SA_SIGINFO || action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN) {
        PyErr_SetString(PyExc_ValueError, "it has no handler of Python's");
        return NULL;
    }
    before[number] = action.sa_handler;
    action.sa_sigaction = tell_apart;
    action.sa_flags |= SA_SIGINFO;
    sigaction((int)number, &action, NULL);
    Py_RETURN_NONE;
}
