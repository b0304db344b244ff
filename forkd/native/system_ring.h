/* The queues of an io_uring and its buffers, for what uses them without a call from Python (system_ring.c, system_uring.c). */

#ifndef FORKD_NATIVE_RING_H
#define FORKD_NATIVE_RING_H

#include "native.h"
#include <linux/io_uring.h>

typedef struct {
    PyObject_HEAD
    int fd;
    Py_buffer rings, submissions;
    unsigned *sq_tail, *cq_head, *cq_tail;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
    unsigned sq_entries, cq_entries; /* powers of two */
    unsigned tail, head, unsubmitted;
} Queues;

typedef struct {
    PyObject_HEAD
    Py_buffer memory, ring;
    unsigned size, count; /* of each buffer, and of all; `count` a power of two */
    uint16_t tail;
} Buffers;

enum { POLL, ACCEPT, RECEIVE, SEND, OTHER, KIND_BITS = 3 }; /* of operations */

typedef struct {
    PyObject_HEAD
    int fd, kind, mask;
    long long serial;
    char armed;
    PyObject *held, *data;
    PyObject *conn; /* once it was looked up; None when it was released */
    Py_ssize_t offset;
    /* While an answer is sent without Python. */
    Call *call;
    Shortcut *shortcut;
    PyObject *op, *then;
    double seconds;
} Handle;

extern PyTypeObject *queues_type, *buffers_type;

/* The next submission, all zeros, which the next io_uring_enter submits. NULL with an exception. */
struct io_uring_sqe *ring_next(Queues *queues);
/* The next completion, or NULL; `ring_taken` when it was looked at. */
const struct io_uring_cqe *ring_completion(Queues *queues);
void ring_taken(Queues *queues);
/* A completion as Python sees it. New reference. */
PyObject *ring_tuple(const struct io_uring_cqe *cqe);
/* What was received into the buffer of a completion; NULL, without an exception, when there is no such buffer. */
const char *ring_received(Buffers *buffers, const struct io_uring_cqe *cqe);
/* That buffer goes back to the kernel. */
void ring_give_back(Buffers *buffers, const struct io_uring_cqe *cqe);

#endif
