/* The native driver, for the parts of it that are files of their own (engine_inline.c, engine_accept.c). */

#ifndef FORKD_NATIVE_ENGINE_INLINE_H
#define FORKD_NATIVE_ENGINE_INLINE_H

#include "native.h"

enum {
    CHUNK = 65536,
    READABLE = 1 /* EPOLLIN */,
    ROUNDS = 8,
    MOST_ACCEPTS = 16,       /* connections in one share, as engine/share.py has it */
    SHARE_OVER = 1 << 20,    /* more than any: its time is over, or Python has had it; the turn ends */
    MOST_ACCEPT_NS = 10000000, /* the same, in time */
};

typedef struct {
    PyObject_HEAD
    PyObject *loop, *driver, *calls, *connections; /* `driver`: engine/native_driver.py */
    PyObject *silent; /* bare Links of which nothing has come yet, by descriptor */
    PyObject *baton; /* NULL where one thread leads for good */
    PyObject *suspended; /* the Await of a connection whose call is suspended */
    PyObject *one_shot; /* a OneShot, where connections are (engine_accept.c) */
    long accepted;   /* of those, since this was set to 0 */
    long taken;      /* of those, in this share: see engine/share.py */
    double due;      /* seconds of CLOCK_MONOTONIC: the rest of a turn is not before that, if shares are whole */
    double patience; /* seconds in the application, above which `loop.judge` is called */
    char wary;       /* `loop.claims` is asked before the application is called */
    PyObject *batch; /* bare Links that are being begun, one after the other; borrowed, NULL when none are */
    Link *begun;     /* the one that is; borrowed, as well */
    Resting resting;
    char buffer[CHUNK];
} InlineDriver;

/* A connection that was just accepted, as a bare Link: all of it, if that is all. If nothing has come yet it is silent
 * where there is an `epoll` to wait in, else a Connection. Returns 0, or -1 with an exception. */
int link_begin(InlineDriver *self, Link *link, int epoll);
/* The same, but for the next turn, as if nothing had come yet. */
int link_later(InlineDriver *self, Link *link, int epoll);
/* Whether the handle is the listener of `one_shot`: then what waits there is accepted and begun. Or -1 with an exception. */
int links_accepted(InlineDriver *self, PyObject *fd);
/* See driver_begin. */
int links_begin(InlineDriver *self, PyObject *links, PyObject *opening, PyObject *intake, int epoll);
/* held() -> the descriptors of bare Links that are in no dictionary, since they are being begun. */
PyObject *links_held(InlineDriver *self, PyObject *unused);
/* One that was silent may have something by now. */
int link_go_on(InlineDriver *self, PyObject *fd, Link *link);

#endif
