/* A request under ASGI, for the parts of it that are files of their own (asgi_template.c, asgi_scope.c, asgi_response.c,
 * asgi_messages.c, asgi_cycle.c). */

#ifndef FORKD_NATIVE_ASGI_H
#define FORKD_NATIVE_ASGI_H

#include "native.h"

typedef struct AsgiCycle AsgiCycle;

/* The Shortcut of ASGI over HTTP/1. One per child. */
typedef struct {
    HttpShortcut http;
    PyObject *app, *serving; /* `serving`: Requests of app/asgi/requests.py */
    PyObject *names;         /* names the context of a request by its line; or None */
    PyObject *reasons;       /* texts of status lines, by status */
    PyObject *prefix, *raw_prefix; /* of each path: str and bytes, which may be empty */
    PyObject *state;         /* of the lifespan; each request has a copy */
    PyObject *tasks;         /* a RequestTasks (asgi_task.c); NULL: nothing is read here */
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
    PyObject *unsent; /* what the socket did not take, for the twin; or NULL */
    char *cork;       /* chunks that are sent at the end of the step */
    Py_ssize_t corked, room;
    char stepping; /* in a step of its own task */
    char head_sent;
    char over; /* the application has sent all of its answer */
    char gone; /* the client has left */
    AsgiCycle *next, **place; /* in the list of those that are suspended; `place` NULL: it is not there */
};

extern PyTypeObject *asgi_cycle_type;
/* See ShortcutFunctions.read. */
Outcome asgi_read(Shortcut *self, const char *data, Py_ssize_t size, Link *link, Call **call);
int asgi_scope_init(void);

/* A scope of a connection, but for what its request has. New reference, or NULL with an exception. */
PyObject *asgi_template(PyObject *template, Ends *ends);
/* An address with its port, a str. New reference. */
PyObject *asgi_address(PyObject *host, PyObject *port);
int asgi_template_init(void);

/* What comes of a message for the client: it is taken; it is the twin's; what is left of it is `unsent`. */
typedef enum { MESSAGE_FAILED = -1, MESSAGE_TAKEN, MESSAGE_NOT_USUAL, MESSAGE_UNSENT } MessageOutcome;
MessageOutcome asgi_add(AsgiCycle *self, PyObject *message);
/* Send what was kept back. Returns 0; 1, when some of it is `unsent`; or -1 with an exception. */
int asgi_uncork(AsgiCycle *self);
int asgi_response_init(void);

/* What receive() and send() return: `message` NULL for the former. New reference, or NULL with an exception. */
PyObject *asgi_awaiting(AsgiCycle *cycle, PyObject *message);
int asgi_messages_init(void);

/* The Cycle of Python, which goes on from here. Borrowed, or NULL with an exception. */
PyObject *asgi_twin(AsgiCycle *self);
/* All of the answer is sent: the connection rests, if this is not the turn in which it was called. Returns 0, or -1 with an
 * exception. */
int asgi_over(AsgiCycle *self);

#endif
