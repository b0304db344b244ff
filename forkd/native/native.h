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

/* head.c, answer.c, line.c: see there. */
int head_init(PyObject *module);
PyObject *read_head(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *block(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *answer(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *line(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
/* lane.c */
int lane_init(PyObject *module);

#endif
