/* Native code of forkd: what its parts share. See module.c. */

#ifndef FORKD_NATIVE_H
#define FORKD_NATIVE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

/* Kinds of characters, for `skip` (text.c). */
enum { TOKEN = 1, PATH = 2, QUERY = 4, TEXT = 8, HOST = 16, QUIET = 32 };

extern unsigned char kinds[256];
void fill_kinds(void);
/* The first character in [at, end) that is not of `kind`. */
const char *skip(const char *at, const char *end, int kind);
/* As `skip` for TEXT, several at a time. */
const char *skip_text(const char *at, const char *end);
/* Whether text is `what` but for the case of ASCII letters; `what` is lower case. */
int is(const char *text, Py_ssize_t size, const char *what);
/* The characters of a str when it is ASCII; NULL, without an exception, when it is anything else. */
const char *ascii(PyObject *text, Py_ssize_t *size);
/* Writes `number`, which is not negative, in decimal; returns where it ends. */
char *decimal(char *at, uint64_t number);

/* The memory of an object of a type of ours, taken and given back. */
PyObject *allocate(PyTypeObject *type);
void release(PyObject *object);

/* A request that is usual in all; its body, if any, has a length. Otherwise as http.guard.Request (request.c). */
typedef struct {
    PyObject_HEAD
    Py_ssize_t end; /* bytes of the head */
    PyObject *method, *line, *environ;
    PyObject *length; /* of the body; NULL when none was told */
    char keep_alive, is_head;
    /* Its exchange, since that has begun. */
    PyObject *respond, *peer;
    PyObject *block;           /* what start_response was called with; NULL before, and when it was not usual */
    PyObject *response;        /* the Response that goes on, if any */
    PyObject *result, *failure; /* of the application, when not usual */
    long code;
    Py_ssize_t sent; /* bytes of body */
    char close;
} UsualRequest;

extern PyTypeObject *request_type;
int request_init(PyObject *module);
UsualRequest *request_new(PyObject *method, PyObject *line, PyObject *environ);
/* The start_response of a request. New reference. */
PyObject *start_response_of(UsualRequest *request);
/* The Response, which goes on from here. Borrowed. */
PyObject *response_of(UsualRequest *request);

/* head.c, answer.c, line.c, exchange.c: see there. */
int head_init(void);
int exchange_init(PyObject *module);
int line_init(PyObject *module);
PyObject *usual_block(PyObject *status, PyObject *headers);
PyObject *usual_answer(PyObject *block, PyObject *date, PyObject *body, int close, Py_ssize_t most);
PyObject *read_head(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *block(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *answer(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
extern PyTypeObject *lines_type;
/* The lane that a ledger writes in this thread; NULL, without an exception, when it is none of ours. Borrowed. */
PyObject *lane_of(PyObject *ledger);
/* The request that began then (ns) is answered: how long it took (ns). */
int64_t end_request(PyObject *lane, int64_t began, long status);
/* Whether the line is in; not when something in it needs an escape, or has no room; -1 with an exception.
 * `lines` is a Lines. */
int add_line(PyObject *lines, PyObject *host, PyObject *request, uint64_t status, uint64_t sent, PyObject *referer,
             PyObject *agent, uint64_t ns);

/* lane.c, ring.c, stake.c */
int lane_init(PyObject *module);
int ring_init(PyObject *module);
int stake_init(PyObject *module);

#endif
