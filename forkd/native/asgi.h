/* A request under ASGI, for the parts of it that are files of their own (asgi_template.c, asgi_scope.c, asgi_limits.c,
 * asgi_response.c, asgi_messages.c, asgi_cycle.c). */

#ifndef FORKD_NATIVE_ASGI_H
#define FORKD_NATIVE_ASGI_H

#include "native.h"

typedef struct AsgiCycle AsgiCycle;

/* The Shortcut of ASGI over HTTP/1. One per child. */
typedef struct {
    HttpShortcut http;
    PyObject *app, *serving; /* `serving`: Requests of app/asgi/requests.py */
    PyObject *names;         /* the context variable that has the line of a request; or None */
    PyObject *reasons;       /* texts of status lines, by status */
    PyObject *prefix, *raw_prefix; /* of each path: str and bytes, which may be empty */
    PyObject *state;         /* of the lifespan; each request has a copy */
    PyObject *tasks;         /* a RequestTasks (asgi_task.c); NULL: nothing is read here */
    PyObject *counted;       /* the set of requests in flight, of both ways, where they are limited; or NULL */
    Py_ssize_t most;         /* of them */
    char by_driver;          /* sends are operations of the driver's, which has each answer whole, or of a session's */
    int64_t limit, alarm;    /* ns: what a request may take, or 0; when the loop looks at that next */
    AsgiCycle *first;        /* of those that are suspended here; borrowed */
} AsgiShortcut;

/* One request, whose body came with its head (twin: Cycle in app/asgi/cycle.py, which goes on with all that is not usual). */
struct AsgiCycle {
    UsualRequest base; /* `environ`: the scope, until the application has it */
    AsgiShortcut *shortcut;
    PyObject *body;   /* of the request; NULL since the application has it */
    PyObject *accept; /* value of Accept, bytes, or NULL */
    PyObject *media;  /* value of Content-Type, bytes, of an answer that could be ended as if it were whole; or NULL */
    PyObject *twin;   /* the Cycle that goes on, or NULL */
    PyObject *unsent; /* what the socket did not take, for the twin, or what the driver is to send; or NULL */
    PyObject *waiters; /* futures of those that wait in receive(), a list; or NULL */
    char *cork;       /* chunks that are sent at the end of the step */
    Py_ssize_t corked, room;
    char stepping; /* in a step of its own task */
    char head_sent;
    char over; /* the application has sent all of its answer */
    char gone; /* the client has left */
    char lifted; /* its time has no end, or no more */
    int64_t deadline; /* ns of CLOCK_MONOTONIC; 0: not known yet */
    AsgiCycle *next, **place; /* in the list of those that are suspended; `place` NULL: it is not there */
};

extern PyTypeObject *asgi_cycle_type;
/* See ShortcutFunctions.read. */
Outcome asgi_read(Shortcut *self, const char *data, Py_ssize_t size, Link *link, Call **call);
int asgi_scope_init(void);

/* A scope of a connection, but for what its request has: the method is in it, which is one of method_of, and no query; `own`: its
 * extensions will have some of that, too. New reference, or NULL with an exception. */
PyObject *asgi_template(PyObject *template, Ends *ends, PyObject *method, int own);
/* An address with its port, a str. New reference. */
PyObject *asgi_address(PyObject *host, PyObject *port);
int asgi_template_init(void);

/* It is in flight, where that is counted. Returns 0, or -1 with an exception. */
int asgi_counted(AsgiCycle *self);
/* It is no more. */
void asgi_uncounted(AsgiCycle *self);
/* It is suspended: it joins the others, and its time runs. Returns 0, or -1 with an exception. */
int asgi_enlist(AsgiCycle *self);
void asgi_delist(AsgiCycle *self);
/* suspended() -> the requests that are, and that no Cycle has. */
PyObject *asgi_suspended(AsgiShortcut *self, PyObject *unused);
/* overdue() -> those of them whose time is over, each once. */
PyObject *asgi_overdue(AsgiShortcut *self, PyObject *unused);
/* What lifts its limit, for its scope. New reference. */
PyObject *asgi_lift(AsgiCycle *self);
/* Seconds that it has left, or None. New reference. */
PyObject *asgi_remaining(AsgiCycle *self);
int asgi_limits_init(void);

/* What comes of a message for the client: it is taken; it is the twin's; what is left of it is `unsent`. */
typedef enum { MESSAGE_FAILED = -1, MESSAGE_TAKEN, MESSAGE_NOT_USUAL, MESSAGE_UNSENT } MessageOutcome;
MessageOutcome asgi_add(AsgiCycle *self, PyObject *message);
/* Send what was kept back. Returns 0; 1, when some of it is `unsent`; or -1 with an exception. */
int asgi_uncork(AsgiCycle *self);
int asgi_response_init(void);

/* What receive() and send() return: `message` NULL for the former. New reference, or NULL with an exception. */
PyObject *asgi_awaiting(AsgiCycle *cycle, PyObject *message);
int asgi_messages_init(void);

/* Returns a future of `loop`, and its steps; NULL with an exception. New references. */
PyObject *waiter_new(PyObject *loop, PyObject **steps);
/* Whoever waits for it goes on. Returns 0, or -1 with an exception. */
int waiter_release(PyObject *waiter);
int asgi_waiter_init(void);

/* Nobody has to wait in receive() any more. Returns 0, or -1 with an exception. */
int asgi_release(AsgiCycle *self);
/* The Cycle of Python, which goes on from here. Borrowed, or NULL with an exception. */
PyObject *asgi_twin(AsgiCycle *self);
/* All of the answer is sent: the connection rests, if this is not the turn in which it was called. Returns 0, or -1 with an
 * exception. */
int asgi_over(AsgiCycle *self);

#endif
