/* The tasks of requests: what asgi_task.c and asgi_coroutine.c share. */

#ifndef FORKD_ASGI_TASK_H
#define FORKD_ASGI_TASK_H

#include "native.h"

typedef struct RequestTasks RequestTasks;

enum { MOST_TASK_BYTES = 512 };

typedef struct RequestCoroutine RequestCoroutine;

/* The coroutine of a request's Task, which makes the steps of the application's: the twin of in_steps in app/asgi/steps.py. */
struct RequestCoroutine {
    PyObject_HEAD
    RequestTasks *tasks;
    const TaskOwner *functions;
    PyObject *owner;   /* NULL before the request and after it */
    PyObject *coro;    /* of the application, likewise */
    PyObject *context; /* of the request */
    PyObject *line;
    PyObject *task;
    PyObject *weak;   /* by which asyncio.all_tasks has the Task, where that has served before; asyncio's own else */
    PyObject *step;   /* of the Task, its first, while that is held back */
    PyObject *name;   /* of the Task */
    PyObject *first;  /* what the application waits for, while its Task has not heard of it */
    PyObject *thrown; /* to be thrown into its next step */
    PyObject *gate;   /* a future, at which its Task stays while it waits for message after message */
    PyObject *gate_done;
    PyObject *seen;   /* weak references to this coroutine */
    char at_once;     /* its first step is made in the turn of the loop that began it */
    char runs;        /* it is in a step */
    char over;        /* it has ended */
    char waits;       /* its Task is among those that wait */
    char plain;       /* its Task was made as asyncio's are, see is_plain */
    char at_gate;     /* its Task waits at that gate, or is to, once a step that was made directly has ended */
    char gate_taken;  /* something waits for the gate */
    char cancelled;   /* its Task is to be cancelled when that step has ended */
};

struct RequestTasks {
    PyObject_HEAD
    PyObject *loop, *recorder;
    PyObject *context; /* that requests have copies of */
    PyObject *waiting;             /* dict: the line of each Task that goes on */
    PyObject *task;                /* asyncio.Task */
    PyObject *current, *enter, *leave, *drop; /* current_task, _enter_task, _leave_task, _unregister_task */
    PyObject *all, *forget;        /* of the WeakSet that all_tasks looks through: the set, and what takes a dead one away */
    PyObject *coroutine;           /* the type of what `async def` makes */
    PyObject *awaiting;            /* makes a coroutine of any awaitable */
    PyObject *by_loop;             /* makes a Task whose first step the loop makes */
    PyObject *asyncio, *in_loop;   /* what the module has, and what the loop, by name; the latter NULL where it has nothing */
    PyObject *factory, *debug;     /* get_task_factory and get_debug of the loop */
    PyObject *of_class;            /* call_soon of the loop's class */
    PyObject *call_soon;           /* of the loop */
    PyObject *capture;             /* stands in for it while a Task is made */
    PyObject *of_loop;             /* the arguments that each Task has */
    RequestCoroutine *spare;       /* for the next request */
    PyObject *gate;                /* the type of gates */
    PyObject *ready;               /* a future that is done */
    PyObject *held, *made;         /* the Task that is being made, and its first step */
    PyTypeObject *step_type;
    PyObject *rest_name;
    Py_ssize_t size, weak_at;      /* of a Task, and where its weak references are, from its beginning */
    Py_ssize_t context_at, name_at;
    char rests[MOST_TASK_BYTES];   /* the bytes of the last Task that was made to serve again, between two requests */
    uint64_t count;                /* of names */
    unsigned long plain_in;        /* the pass in which all was as is_plain has it; see ready_pass */
    char tells;                    /* in_loop has its task factory and debug mode */
    char lazy;                     /* Tasks are used again */
    char patched;                  /* the loop makes them */
    char eager;                    /* a Task makes its first step by itself (eager_start) */
};

extern PyTypeObject *coroutine_type;
int coroutine_init(PyObject *module);
/* One that has begun nothing. New reference. */
RequestCoroutine *coroutine_new(RequestTasks *tasks);
/* Make a step: `value` is what it is resumed with. As PyIter_Send; it returns None. */
PySendResult coroutine_step(RequestCoroutine *self, PyObject *value, PyObject **result);
/* It ends with that exception, which may be NULL; the reference is taken. */
void coroutine_end(RequestCoroutine *self, PyObject *failure);
/* The one that is in a step; NULL: none is. Borrowed. */
extern RequestCoroutine *coroutine_running;
/* Nothing of the request is left in it. */
void coroutine_forget(RequestCoroutine *self);

typedef enum { STEP_NOT_MADE, STEP_WAITS_ON, STEP_IS_FOR_TASK } NextStep;
/* Make the next step of one whose Task waits at the gate, where it may stay unless it has to hear of what that step has
 * ended in. */
NextStep task_next_step(RequestCoroutine *self);
/* The arguments of its Task. New reference, or NULL with an exception. */
PyObject *task_arguments(RequestTasks *self, RequestCoroutine *coroutine);
PyObject *task_name(RequestTasks *self);

/* asgi_gate.c. The type of a loop's gates, where Tasks are of that type. New reference. */
PyObject *gate_type(PyTypeObject *task);
/* Its gate, for one that waits in this step; it says by gate_taken when it does so no more. New reference; NULL without an
 * exception where it has to wait as others do. */
PyObject *gate_take(RequestCoroutine *self);
/* Whether that is its gate, and a message is waited for there, as gate_take said. */
int gate_is_waited_at(const RequestCoroutine *self, PyObject *future);
/* It has none. */
void gate_leave(RequestCoroutine *self);
/* Make the step of the Task that waits for `future`, as when `with` is done. Where both are the same, it gets the result
 * None. Returns 1; 0, when the Task does not wait there; or -1 with an exception. */
int gate_call(PyObject *future, PyObject *task, PyObject *with);

/* asgi_placeholder.c: a Task whose first step is held back. Each returns 0, or -1 with an exception, but where it says else. */
PyObject *placeholder_capture(RequestTasks *self);
/* Make that of `coroutine`. */
int placeholder_make(RequestTasks *self, RequestCoroutine *coroutine);
/* One for the next request, with a context for it. New reference, or NULL with an exception. */
RequestCoroutine *placeholder_take(RequestTasks *self);
/* Its request has ended in the first step. Whether it serves the next one; else somebody has seen it. */
int placeholder_give_back(RequestTasks *self, RequestCoroutine *coroutine);

#endif
