/* WebSocket's frames: what http_frames.c has for asgi_message_flow.c. */

#ifndef FORKD_HTTP_FRAMES_H
#define FORKD_HTTP_FRAMES_H

#include "native.h"

/* RFC 6455 5.2. */
enum { WS_CONTINUATION = 0, WS_TEXT = 1, WS_BINARY = 2, WS_CLOSE = 8, WS_PING = 9, WS_PONG = 10 };
enum { WS_MAX_HEAD = 10 }; /* bytes of a frame before its payload, as a server sends it */

/* Bytes that come piece by piece. */
typedef struct {
    char *at;
    Py_ssize_t size, room;
} Gathered;

/* The messages of one client, from its bytes in any pieces. */
typedef struct {
    PyObject_HEAD
    Py_ssize_t most;
    PyObject *inflater;       /* where compressed messages may come; else NULL */
    Gathered held, fragments; /* what no frame was made of yet; of the message whose fragments come */
    const char *at, *end;     /* while bytes are read: those that are left; else NULL */
    Py_ssize_t checked;       /* bytes of `fragments` that are UTF-8 */
    Py_ssize_t came, size;    /* bytes of that message, as they came; those of a compressed one, as they are */
    unsigned char opcode;     /* of it; 0: there is none */
    char deflated;
} FrameReader;

typedef enum { FRAME_FAILED = -1, FRAME_NONE, FRAME_FOUND } FrameOutcome;

/* A whole message, or a control frame. */
typedef struct {
    int opcode;
    long code;      /* of a Close */
    PyObject *data; /* str of text and of a Close, else bytes; a new reference */
} FoundFrame;

extern PyTypeObject *frame_reader_type;
/* Read these bytes, behind those that are held. They must stay until frames_keep. Returns 0, or -1 with an exception. */
int frames_begin(FrameReader *self, const char *data, Py_ssize_t size);
/* The next frame; FRAME_NONE: the rest is no whole one; FRAME_FAILED, with BadFrame or another exception. */
FrameOutcome frames_next(FrameReader *self, FoundFrame *found);
/* Hold what is left. Returns 0, or -1 with an exception. */
int frames_keep(FrameReader *self);
/* Whether a part of a message is here, or of a frame. */
int frames_midway(const FrameReader *self);
/* Whether the exception that is set is BadFrame. */
int frame_is_bad(void);
/* As http.frames.Frame. Takes the reference to its data. New reference. */
PyObject *frame_made(FoundFrame *found);
/* What a server's frame with so many bytes begins with: up to WS_MAX_HEAD bytes; returns how many. */
int frame_head(char *to, int opcode, size_t size);
int frames_init(PyObject *module);

#endif
