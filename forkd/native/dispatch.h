/* The dispatcher, for the parts of it that are files of their own (dispatch.c, accept.c, flow.c). */

#ifndef FORKD_NATIVE_DISPATCH_H
#define FORKD_NATIVE_DISPATCH_H

#include "native.h"

enum { CHUNK = 65536, READABLE = 1 /* EPOLLIN */ };

typedef struct {
    PyObject_HEAD
    PyObject *loop, *calls, *connections;
    PyObject *stake; /* NULL where one thread leads for good */
    double patience; /* seconds in the application, above which `loop.judge` is told of them */
    char wary;       /* `loop.claims` is asked before the application is called */
    Rest rest;
    char buffer[CHUNK];
} Dispatcher;

/* Send what can be sent now of an answer: bytes, or a tuple of two. Returns what is left to send, or None. */
PyObject *send_now(Link *conn, PyObject *answer);
/* A connection that was just accepted, as a bare Link: all of it, if that is all. Returns 0, or -1 with an exception. */
int link_begin(Dispatcher *self, Link *link, PyObject *opening);
/* Whether what arrives at a connection is a plain stream's. */
int flow_plain(const Dispatcher *self, const Link *conn);
/* What arrived there. Returns 0, or -1 with an exception. */
int flow_ready(Dispatcher *self, Link *conn, double now);

#endif
