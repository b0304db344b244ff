/* The flow of one WebSocket's messages: what asgi_message_flow.c and asgi_flow_step.c share. */

#ifndef FORKD_ASGI_MESSAGE_FLOW_H
#define FORKD_ASGI_MESSAGE_FLOW_H

#include "http_frames.h"

enum { HIGH_WATER_BYTES = 65536, MAX_AHEAD = 16 };

typedef struct FlowStep FlowStep;

typedef struct {
    PyObject_HEAD
    PyObject *peer, *general; /* NULL once it is detached */
    PyObject *loop, *end;
    FrameReader *reader;
    PyObject **messages; /* a ring of str or bytes: `at_hand`, or memory of its own while it has more than one */
    PyObject *at_hand;
    int first, count, room;
    Py_ssize_t buffered, sent;
    FlowStep *waiting; /* the steps that wait for a message; not owned, but what they wait for is */
    char plain, over, quiet, compresses, discards, started;
} MessageFlow;

/* The next message, for receive(). New reference; NULL without an exception: there is none yet. */
PyObject *flow_take(MessageFlow *self);
/* Send a message, if it is usual. Returns 1; 0, with the coroutine that goes on with it; or -1 with an exception. */
int flow_say(MessageFlow *self, PyObject *message, PyObject **coroutine);
/* What receive() returns; with a message, what send() does. New reference. */
PyObject *step_of(MessageFlow *flow, PyObject *message);
/* Those who wait for a message look again. Returns 0, or -1 with an exception. */
int steps_release(MessageFlow *flow);
/* The same in a turn of the loop, where the step of a request that waits alone is made at once. */
int steps_wake(MessageFlow *flow);
/* Of the garbage collector's: what those wait for. */
int steps_traverse(MessageFlow *flow, visitproc visit, void *arg);
void steps_let_go(MessageFlow *flow);
int flow_step_init(PyObject *module);
int message_flow_init(PyObject *module);

#endif
