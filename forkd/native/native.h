/* Native code of forkd: what its parts share. See module.c. */

#ifndef FORKD_NATIVE_H
#define FORKD_NATIVE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <time.h>

/* contextvars has a C interface that the stable ABI lacks; each CPython exports it. */
extern PyObject *PyContext_Copy(PyObject *context);
extern int PyContext_Enter(PyObject *context);
extern int PyContext_Exit(PyObject *context);
extern PyObject *PyContextVar_Set(PyObject *variable, PyObject *value);

/* CLOCK_MONOTONIC, ns. */
static inline int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Whether the application has forked this process; looked at wherever its code comes back (system_forked.c). */
extern int in_fork;
/* Forks that this process was about to make so far, but for forkd's own. */
extern unsigned long forks;
/* End such a process: the application has raised the exception that is set, or has returned. Does not return. */
void leave_fork(void) __attribute__((noreturn));
int fork_init(PyObject *module);

/* Kinds of characters, for `skip` (http_grammar.c). */
enum { TOKEN = 1, PATH = 2, QUERY = 4, TEXT = 8, HOST = 16, QUIET = 32 };

extern unsigned char kinds[256];
void fill_kinds(void);
/* The first character in [at, end) that is not of `kind`. */
const char *skip(const char *at, const char *end, int kind);
/* As `skip` for TEXT, several at a time. */
const char *skip_text(const char *at, const char *end);
/* As `skip` for QUIET, likewise. */
const char *skip_quiet(const char *at, const char *end);
/* Whether text is `what` but for the case of ASCII letters; `what` is lower case. */
int is(const char *text, Py_ssize_t size, const char *what);
/* The characters of a str when it is ASCII; NULL, without an exception, when it is anything else. */
const char *ascii(PyObject *text, Py_ssize_t *size);
/* Writes `number`, which is not negative, in decimal; returns where it ends. */
char *decimal(char *at, uint64_t number);
/* PyUnicode_DecodeLatin1, or PyUnicode_DecodeUTF8. */
typedef PyObject *(*Decode)(const char *, Py_ssize_t, const char *);
/* A path, which is ASCII, as a str, percent-decoded as urllib.parse.unquote_to_bytes does: what is no %XX stays. New
 * reference, or NULL with an exception. */
PyObject *percent_decoded(const char *at, Py_ssize_t size, Decode decode);

/* What a dict has by a str; NULL, without an exception, when it has nothing. Borrowed. PyDict_GetItem costs twice as much: it
 * keeps an exception that is set meanwhile, and none is set where this is called. */
static inline PyObject *dict_item(PyObject *dict, PyObject *key)
{
    PyObject *found = PyDict_GetItemWithError(dict, key);
    if (!found && PyErr_Occurred()) /* of a key of the application's that is no str */
        PyErr_Clear();
    return found;
}

/* A copy of a dict, and of the dicts in it. New reference, or NULL with an exception. */
PyObject *dict_copied(PyObject *model);

/* The memory of an object of a type of ours, taken and given back. */
PyObject *allocate(PyTypeObject *type);
void release(PyObject *object);
/* Parse the arguments of a constructor, each of which has a name, as PyArg_ParseTupleAndKeywords does. */
int by_name(PyObject *args, PyObject *keywords, const char *format, char **names, ...);

/* Status and headers of an answer, for the wire; otherwise as http.response.Head (http_response.c). */
typedef struct {
    PyObject_HEAD
    PyObject *block;
    long code;
    Py_ssize_t length; /* negative: none was given */
    char dated, named, identified;
} Block;

/* The exception that is set, with its traceback; it is not set any more. New reference. */
PyObject *taken_exception(void);

/* A connection as its driver and its session share it (engine/link.py, the twin). */
typedef struct {
    PyObject_HEAD
    int fd;
    Py_ssize_t moved;
    double deadline, bucket;
    PyObject *op, *client, *note;
    PyObject *recorder; /* where its bytes are counted */
    struct Call *call;  /* the application has it, and answers later; else NULL */
    /* Of a bare one (engine_accept.c), which has neither session nor driver: its socket is its own, and `driver` makes a
     * Connection of it when it has to be one, by the intake that is its `origin`. `epoll`: where it waits, or -1. */
    char bare;
    unsigned long forks; /* as they were when the socket was new */
    int epoll;
    PyObject *driver, *origin;
} Link;

/* Both ends of a connection, as texts (session_ends.c). */
typedef struct {
    PyObject_HEAD
    PyObject *server, *port, *client, *client_port;
    PyObject *proxy; /* what a proxy has said, a dict, or NULL */
} Ends;

extern PyTypeObject *ends_type;
int ends_init(PyObject *module);
/* Takes no reference. New reference, or NULL with an exception. */
PyObject *ends_made(PyObject *server, PyObject *port, PyObject *client, PyObject *client_port, PyObject *proxy);

extern PyTypeObject *link_type;
void link_close(Link *link);
/* It has no call any more. */
void link_forget_call(Link *link);
/* What link_receive returns for want of bytes: none have come yet; the client has left, or the socket has failed. */
enum { LINK_EMPTY = -1, LINK_LOST = -2 };
/* Receive what has come, and count it. Returns how many bytes, 0 at their end, LINK_EMPTY or LINK_LOST. */
Py_ssize_t link_receive(Link *link, char *buffer, Py_ssize_t size);
/* Send what can be sent now, and count it; `flags` as send(2) has them. Returns how many bytes; 0, too, when sending
 * fails: that of the rest will fail in the same way, and is looked at. */
Py_ssize_t link_send(Link *link, struct iovec *pieces, int count, int flags);
/* Whether something has come that was not received. */
int link_has_input(const Link *link);
/* The Connection that takes over from a bare Link. New reference, or NULL with an exception. */
PyObject *link_grown(Link *link);

/* A listener, as the server's name and port, and what is called when a standard descriptor was missing
 * (engine_intake.c). */
typedef struct {
    PyObject_HEAD
    int fd;
    PyObject *server, *port, *mend;
} Source;

extern PyTypeObject *source_type;
int intake_init(PyObject *module);
/* Up to `most` Links; fewer: no more wait. NULL with OSError, unless there are some. New reference. */
PyObject *accept_links(const Source *source, long most);

/* ---- what is done with bytes without a session: the one type that drivers are made for (engine_call.c) --- */

typedef struct Shortcut Shortcut;
typedef struct Call Call;

/* What a function of a Shortcut has come to. */
typedef enum {
    FAILED = -1, /* with an exception */
    NOT_USUAL,   /* the bytes are its session's */
    CALL,        /* they are one call of the application, whole and alone */
    ANSWERED,    /* there is the answer; or the bytes were taken, and more may follow */
    UNFINISHED,  /* its session has to go on with it */
    SUSPENDED,   /* the application has the call, and answers later: see call_answered */
} Outcome;

/* The first two may be NULL together, and so may `more`, `takes` and `gone`. All may run Python code, as anything that
 * makes objects may: their collector. */
typedef struct {
    /* What has arrived. CALL with a new reference, NOT_USUAL or FAILED. */
    Outcome (*read)(Shortcut *self, const char *data, Py_ssize_t size, Link *link, Call **call);
    /* Call the application. ANSWERED with what is to be sent, as send_now takes it, or NULL, when that is sent; UNFINISHED, SUSPENDED or FAILED. */
    Outcome (*call)(Shortcut *self, Link *link, Call *call, PyObject **answer);
    /* The next bytes of something that goes on. ANSWERED, UNFINISHED: its session has other needs, or FAILED, with what
     * that is to be thrown. */
    Outcome (*more)(Shortcut *self, Link *link, const char *data, Py_ssize_t size);
    /* The answer is on its way, or the client has left: count the call, and log it. Returns how long it took (ns), or -1
     * with an exception. */
    int64_t (*end)(Shortcut *self, Call *call);
    /* The client of a suspended call has left. It is not answered any more. One that only sends no more has not left; when
     * it is noticed, by io: docs/architecture.md. Returns 0, or -1 with an exception. */
    int (*gone)(Shortcut *self, Link *link, Call *call);
    /* Whether what arrives there is read here, as things stand; NULL: always. */
    int (*takes)(const Shortcut *self, const Link *link);
} ShortcutFunctions;

/* What native code may do where a session waits (session.Await). */
struct Shortcut {
    PyObject_HEAD
    const ShortcutFunctions *functions;
    PyObject *recorder; /* where bytes are counted */
    char draining;      /* each answer is its connection's last: it ends, or waits for less than else */
    double sheds_after; /* seconds; a call that has waited for longer is left to its session; 0: none is */
};

extern PyTypeObject *shortcut_type;
int shortcut_traverse(Shortcut *self, visitproc visit, void *arg);
int shortcut_clear(Shortcut *self);
/* One that has nothing but its functions. New reference. */
PyObject *shortcut_with(const ShortcutFunctions *functions);

/* One call of the application, from its bytes to its answer. */
struct Call {
    PyObject_HEAD
    PyObject *line;   /* what was called, as logs and routes have it: bytes */
    PyObject *peer;   /* the connection, since it was called */
    PyObject *answer; /* what is left to send, where a session goes on with it; or what came before it was suspended */
    int64_t began;    /* ns of CLOCK_MONOTONIC */
    Py_ssize_t sent;  /* bytes of body */
    long code;
    char close; /* the connection ends after the answer */
    enum { CALL_RUNS, CALL_ANSWERED_EARLY, CALL_WAITS, CALL_OVER } state;
    char direct; /* the answer may be sent by send(2) */
    /* While it is suspended. */
    char listens; /* its session goes on with it when something comes, or the client sends no more */
    char deaf;    /* something has come, and the loop looks no more for what does */
    Shortcut *shortcut;
    PyObject *loop, *then;
    PyObject *waits; /* the Await in which the connection was left without the loop's help, or NULL */
};

extern PyTypeObject *call_type;
int call_traverse(Call *self, visitproc visit, void *arg);
int call_clear(Call *self);
/* The Connection of its peer, which was a bare Link until now, or has been one. Borrowed, or NULL with an exception. */
Link *call_grown(Call *self);
/* The application has it, and the connection is the loop's again once that follows SUSPENDED (engine/connections.py).
 * `then`: the Await after the answer; `direct`: see Call. */
void call_suspend(Call *self, Shortcut *shortcut, PyObject *loop, PyObject *then, int direct);
/* The same, where the connection is kept for input: it waits in the Await `op`, and the loop has nothing to follow. */
void call_kept(Call *self, PyObject *op);
/* It listens from now on, also when it is not suspended yet. Returns 0 where it cannot. */
int call_listens(Call *self);
/* A suspended call is answered: with what send_now takes, with NULL, when that is sent, or with None, if its session has to go on with it. On the
 * thread whose loop has the connection, and where threads take turns, on none that is in the application. Returns 1; 0,
 * when its client has left; or -1 with an exception. */
int call_answered(Call *self, PyObject *answer);

/* The Await that was met last, and what native code may do there. */
typedef struct {
    PyObject *op;
    Shortcut *shortcut; /* NULL: nothing */
    PyObject *then;
    double seconds; /* of `then` */
} Resting;

/* A request that is usual in all; its body, if any, has a length. Otherwise as http.guard.Request (wsgi_start_response.c). */
typedef struct {
    Call call;
    Py_ssize_t end; /* bytes of the head */
    PyObject *method, *environ;
    PyObject *length; /* of the body; NULL when none was given */
    PyObject *referer, *agent; /* as received, for the access log; NULL where there is no such field */
    PyObject *client;          /* the address that its proxies name; NULL: the peer's */
    PyObject *id;              /* its name, a str; NULL where requests have none */
    double waited;             /* seconds before its call, where that is told (Server-Timing) */
    char keep_alive, is_head;
    char http10; /* it is answered as one of HTTP/1.0 is */
    /* Its exchange, since that has begun. */
    PyObject *respond;
    Block *block;              /* what start_response was called with; NULL before, and when it was not usual */
    PyObject *response;        /* the Response that goes on, if any */
    PyObject *result, *failure; /* of the application, when not usual */
    int64_t ticket; /* what its lane knows it by; 0 before it has begun */
    char over; /* as Response.over */
} UsualRequest;

/* An asyncio stream (stream_flow.c). */
typedef struct {
    PyObject_HEAD
    PyObject *peer, *protocol, *general;
    char plain, owed, quiet;
} Flow;

int flow_init(PyObject *module);
int accept_init(PyObject *module);
int proxy_init(PyObject *module);

/* Know the Await that a connection is in. Whether its shortcut reads what arrives there, or -1 with an exception. */
int resting_known(Resting *resting, const Link *conn);
int resting_traverse(Resting *resting, visitproc visit, void *arg);
void resting_clear(Resting *resting);
/* What is left of a buffer of which `sent` bytes were sent. New reference. */
PyObject *remainder_of(PyObject *buffer, Py_ssize_t sent);
/* Call the loop with the connection, and an argument unless that is NULL. Returns 0, or -1 with an exception. */
int loop_tell(PyObject *loop, PyObject *name, Link *conn, PyObject *argument);
/* The request is answered: its connection is at its end, or rests until then. Returns 0, or -1 with an exception. */
int loop_answered(PyObject *loop, Link *conn, const Call *call, PyObject *then, double until);
/* Send what can be sent now of an answer: bytes, or a tuple of two, or NULL for nothing; `flags` as send(2) has them. Returns what is left to
 * send, or None. */
PyObject *send_now(Link *conn, PyObject *answer, int flags);
/* What a loop is called for. */
extern PyObject *n_feed, *n_lost, *n_failed, *n_rests, *n_ended, *n_suspended;

typedef struct Fronts Fronts;
typedef struct Hosts Hosts;

/* What a request may be (wsgi_environ.c). */
typedef struct {
    PyObject_HEAD
    Py_ssize_t most, fields;
    long long longest;
    PyObject *template;
    Fronts *fronts; /* NULL: heads with fields of proxies are not usual */
    Hosts *hosts;   /* for which a request may be; NULL: any */
    int ids;        /* requests have names */
} HeadLimits;

/* A part of a head. */
typedef struct {
    const char *at;
    Py_ssize_t size;
} Piece;

/* What the fields of proxies in a head have said so far (http_forwarded.c). */
enum { MOST_DROPPED = 16, MOST_SAID = 5, NAMES_EACH = 24, DROPPED_CELLS = 4 * NAMES_EACH /* system/cells.py */ };
typedef struct {
    Fronts *fronts;
    PyObject *peer; /* its address, a str */
    int trusted;    /* -1: that was not looked at */
    int any;
    PyObject *text; /* of the last field's value, where it is at hand; borrowed, or NULL */
    Piece by[MOST_SAID];
    int dropped_count;
    unsigned char dropped[MOST_DROPPED];
} Said;

typedef enum { FIELD_UNUSUAL, FIELD_KEPT, FIELD_DROPPED } FieldVerdict;

extern PyTypeObject *hosts_type;
int hosts_init(PyObject *module);
/* Whether the host is plainly in the set that Host names, with a port or without. */
int hosts_have(const Hosts *self, const char *host, Py_ssize_t size);

extern PyTypeObject *fronts_type;
int fronts_init(PyObject *module);
/* Take in a field, if it is one of proxies; `name` as environ has it, without HTTP_, and its hash. */
FieldVerdict fronts_field(Said *said, const char *name, Py_ssize_t size, uint32_t hash, Piece value);
/* Put what was said into the environ of the head; `host`: the value of Host. Returns 1, with a new reference to the
 * client's address if one was said; 0, when that is for the twin; or -1 with an exception. */
int fronts_tell(const Said *said, PyObject *environ, Piece host, PyObject **client);
/* Whether the head's peer is trusted. */
int fronts_trust(Said *said);
int request_id_init(PyObject *module);
/* Name the request of a head, in its environ; `proxy`: what a proxy has said of the connection, or NULL. Returns 1, with
 * a new reference to the name; 0, when that is for the twin; or -1 with an exception. */
int put_request_id(Said *said, PyObject *environ, PyObject *proxy, PyObject **id);
/* The same for one whose field X-Request-ID, if there is one such, is `given`; it is put nowhere. */
int choose_request_id(Said *said, Piece given, PyObject *proxy, PyObject **id);
/* Count what was dropped: the head is served. */
void fronts_count(const Said *said);

/* FNV-1a. */
#define HASH_BASIS UINT32_C(2166136261)
static inline uint32_t hash_step(uint32_t hash, char c)
{
    return (hash ^ (unsigned char)c) * UINT32_C(16777619);
}

extern PyTypeObject *request_type;
int request_init(PyObject *module);
/* What a request has besides objects that may have one another, and its memory, given back. */
void request_release(UsualRequest *self);
UsualRequest *request_new(PyObject *method, PyObject *line, PyObject *environ);
/* The start_response of a request. New reference. */
PyObject *start_response_of(UsualRequest *request);
/* The wsgi.early_hints of a request. New reference. */
PyObject *early_hints_of(UsualRequest *request);
/* The Response, which goes on from here. Borrowed. */
PyObject *response_of(UsualRequest *request);

/* What the shortcuts of requests over HTTP have in common (app_account.c). */
typedef struct {
    Shortcut base;
    PyObject *access, *lines, *date_at, *server; /* see wsgi_exchange.c */
    HeadLimits *limits;
    int keep_alive, server_timing;
    time_t second; /* whose `date` is known */
    PyObject *date;
} HttpShortcut;

int account_init(PyObject *module);
int asgi_init(PyObject *module);
int http_traverse(HttpShortcut *self, visitproc visit, void *arg);
int http_clear(HttpShortcut *self);
void http_release(HttpShortcut *self);
/* Record that the request begins. Returns 0, or -1 with an exception. */
int http_begin(HttpShortcut *self, UsualRequest *request);
/* The application has given control back for good. Returns 0, or -1 with an exception. */
int http_pause(HttpShortcut *self);
/* The text of the present second. Borrowed, or NULL with an exception. */
PyObject *http_date(HttpShortcut *self);
/* Seconds that a call has waited for; -1 with an exception. The twin is Connection.waited (engine/connection.py). */
double http_waited(PyObject *peer);
/* The line of Server-Timing, in `line`; NULL: there is no memory for it. */
enum { MOST_TIMING = 60 };
const char *http_timing(const UsualRequest *request, char line[MOST_TIMING]);
/* Whether it has waited for too long: its session sheds it (session/shed.py). -1 with an exception. */
int http_sheds(const HttpShortcut *self, UsualRequest *request, PyObject *peer);
/* See ShortcutFunctions. */
int64_t http_end(Shortcut *shortcut, Call *call);

/* Status and headers, while they are written (http_response.c). */
enum { MOST_BLOCK = 4096, MOST_HEAD = MOST_BLOCK + 480 };
typedef struct {
    char out[MOST_BLOCK];
    Py_ssize_t used, length; /* `length`: its Content-Length, which is not among them; negative: none */
    long code;
    unsigned has; /* which of these fields there are */
} HeadLines;
/* Fields that forkd adds where they are missing, or looks at; ITS_OWN are not for an application to set, or for the twin to
 * judge. */
enum {
    HAS_LENGTH = 1, HAS_DATE = 2, HAS_SERVER = 4, HAS_ID = 8, HAS_TYPE = 16, HAS_ENCODING = 32, ITS_OWN = 64,
};

/* Each returns 0 for what is not usual. */
int lines_begin(HeadLines *self, const char *status, Py_ssize_t size);
int lines_add(HeadLines *self, const char *name, Py_ssize_t name_size, const char *value, Py_ssize_t value_size);
/* New reference, or NULL with an exception. */
Block *lines_block(const HeadLines *self);
/* The head of an answer whose body has that length, or, where it is negative, comes in chunks; otherwise as usual_answer.
 * Returns its size; 0: it is for the twin; or -1 with an exception. */
Py_ssize_t usual_head(char out[MOST_HEAD], const Block *block, PyObject *date, PyObject *server, PyObject *id,
                      const char *more, Py_ssize_t length, int close);

/* wsgi_environ.c, http_response.c, log_lines.c, wsgi_exchange.c: see there. */
int head_init(PyObject *module);
int answer_init(PyObject *module);
int exchange_init(PyObject *module);
int line_init(PyObject *module);
PyObject *usual_block(PyObject *status, PyObject *headers);
PyObject *usual_answer(const Block *block, PyObject *date, PyObject *server, PyObject *id, const char *more, PyObject *body,
                       int close, Py_ssize_t most);
PyObject *read_head(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
/* See read_head; `said`: what its proxies say, which is not counted yet. */
PyObject *head_of(const char *data, Py_ssize_t size, const HeadLimits *limits, PyObject *ends, Said *said);
/* The same of a packet of the uwsgi protocol (wsgi_uwsgi.c). */
PyObject *packet_of(const char *data, Py_ssize_t size, const HeadLimits *limits, PyObject *ends, Said *said);
typedef PyObject *(*Reads)(const char *data, Py_ssize_t size, const HeadLimits *limits, PyObject *ends, Said *said);
/* Either as a function of Python's, (data, limits, ends) -> UsualRequest; None when the head is not complete, is beyond the
 * HeadLimits, or is not usual. `ends`: what REMOTE_ADDR and so on shall be, unless the head says another. */
PyObject *read_by(Reads reads, PyObject *const *args, Py_ssize_t nargs);
PyObject *read_packet(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
int uwsgi_init(PyObject *module);
/* A str for a key of an environ, made once. New reference. `hash`: of its characters. */
PyObject *key_text(const char *key, Py_ssize_t size, uint32_t hash);
/* A copy of the template with the ends of a connection. New reference, or NULL with an exception. */
PyObject *environ_for(PyObject *template, Ends *ends);
/* The str of a usual method. Borrowed; NULL, without an exception, for another. */
PyObject *method_of(Piece name);
/* The number in [at, end) if all recipients read it alike; else -1. */
long long plain_number(const char *at, const char *end);
int usual_host(const char *at, const char *end);
extern PyTypeObject *limits_type;
int limits_init(PyObject *module);
PyObject *block(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *answer(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
/* A ring of log lines, at its writer's end (system_log_ring.c). */
enum { RING_HEADER = 8 }; /* bytes of a record before its text */
typedef struct {
    PyObject_HEAD
    Py_buffer memory;
    Py_ssize_t count; /* of all rings */
    uint64_t *head, *tail;
    char *text;
    size_t room; /* a power of two */
    char shut;   /* lines were lost, and the loss is to be logged before others follow */
} RingWriter;

extern PyTypeObject *ring_writer_type;
/* Whether a record with so many bytes of text is taken now. */
int ring_has_room(const RingWriter *ring, size_t size);
/* Where the head is once that record is there. */
uint64_t ring_after(const RingWriter *ring, size_t size);
/* Add it, where there is room. */
void ring_put(RingWriter *ring, uint32_t log, const char *text, size_t size);
PyObject *native_records(PyObject *module, PyObject *args);
int log_ring_init(PyObject *module);

/* Stores come in the order of the text: a process may be killed between any two, and another reads what it left. */
#define IN_ORDER() __atomic_signal_fence(__ATOMIC_SEQ_CST)

enum { MOST_POOL = 4096 };

/* Which entries of a slot are free (system/in_flight.py, whose Places is the twin). */
typedef struct {
    PyObject_HEAD
    Py_buffer memory;
    char *entries;
    Py_ssize_t entry, client, client_room, line, line_room, id, id_room; /* bytes, and where in an entry */
    int64_t first, count; /* of the pool */
    int64_t high;         /* taken so far, at once */
    int free_count;
    int16_t free[MOST_POOL]; /* of the pool */
} Places;

extern PyTypeObject *places_type;
/* The cells that an entry begins with. */
int64_t *entry_cells(const Places *places, int64_t place);
/* Whether that is the number of an entry. */
int is_place(const Places *places, int64_t ticket);
/* One of the pool, or 0 when all are taken. */
int64_t place_take(Places *places);
/* It is free, if it is one of the pool. */
void place_give_back(Places *places, int64_t place);
/* Text with its size before it. */
void place_note(char *at, Py_ssize_t room, const char *text, Py_ssize_t size);
int in_flight_init(PyObject *module);

/* A line for the access log, and where it goes. */
typedef struct {
    RingWriter *ring; /* NULL: nowhere */
    uint32_t log;
    const char *text;
    size_t size;
} Line;

/* The cells that native code writes, by their names in system/cells.py. */
#define NATIVE_CELLS(_)                                                                                                 \
    _(REQUEST) _(IN_FLIGHT) _(REQUESTS) _(DURATION) _(CODES) _(CLASSES) _(RECEIVED) _(SENT) _(HELD) _(UNLISTED)         \
    _(ENDING) _(END_HEAD) _(END_STATUS) _(END_TICKET) _(END_CODE) _(END_REQUESTS) _(END_DURATION) _(END_BUCKET)         \
    _(END_BUCKET_COUNT) _(END_IN_FLIGHT) _(END_UNLISTED) _(DROPPED)
#define AS_CELL(name) CELL_##name,
enum { NATIVE_CELLS(AS_CELL) CELL_COUNT };

extern PyTypeObject *lines_type;
/* The bounds of the buckets that times are counted in. */
enum { MOST_BOUNDS = 32 };
typedef struct {
    int count;
    int64_t ns[MOST_BOUNDS];
} Bounds;

/* From a tuple of numbers. Returns 0, or -1 with an exception. */
int bounds_read(Bounds *self, PyObject *numbers);
int time_bucket(const Bounds *self, int64_t took);

/* The lane that a recorder writes in this thread; NULL, without an exception, when it is none of ours. Borrowed. */
PyObject *lane_of(PyObject *recorder);
/* A counter grows by `n`: CELL_ and a name of NATIVE_CELLS. Nothing for a recorder that is not native, or NULL. */
void recorder_add(PyObject *recorder, int cell, int64_t n);
/* The same for one of several: the place counts from that cell. */
void recorder_add_at(PyObject *recorder, int cell, int place, int64_t n);
/* Its ticket, or 0 with an exception. `client`: a str; anything else is as an empty one. `fd`: of its socket. */
int64_t begin_request(PyObject *lane, PyObject *line, PyObject *client, int fd, int64_t *began);
/* The request of that ticket has this name, a str. */
void identify_request(PyObject *lane, int64_t ticket, PyObject *id);
/* The step of that request holds the thread from now on; 0: something else of the loop's does. */
void resume_request(PyObject *lane, int64_t ticket);
/* Bytes of an answer to that request may be sent from here on. */
void answer_request(PyObject *lane, int64_t ticket);
/* The application has given control back, and what it has returned is the answer. */
void pause_request(PyObject *lane);
/* It has given control back, and goes on. */
void leave_request(PyObject *lane);
/* How long the request of that ticket has taken so far (ns). */
int64_t request_took(PyObject *lane, int64_t ticket);
/* It is answered: it is counted, and its line is in the ring, or neither is. `line->ring` has room. */
void end_request(PyObject *lane, int64_t ticket, long status, int64_t took, const Line *line);
/* Whether the line was made; not when something in it needs an escape, or is too long, or its ring does not take it;
 * -1 with an exception. `lines` is a Lines; `id` is NULL where requests have no names. What is made stands until the next one is, or Python runs. */
int make_line(PyObject *lines, PyObject *host, PyObject *request, uint64_t status, uint64_t sent, PyObject *referer,
              PyObject *agent, uint64_t ns, PyObject *id, Line *line);

/* engine_baton.c: see there; what can be done without a call from Python. */
extern PyTypeObject *baton_type;
int baton_hold(PyObject *baton, PyObject *conn); /* put; -1 with an exception */
int baton_release(PyObject *baton, PyObject *conn); /* drop; whether it still leads */

/* What owns the task of a request, by its functions (asgi_task.c). */
typedef struct {
    /* The application's coroutine, or any awaitable. New reference, or NULL with an exception, with which it has ended.
     * Called once, as the task, in its context. */
    PyObject *(*begin)(PyObject *owner);
    /* The ticket of the request in the recorder, or 0 once that has ended. */
    int64_t (*ticket)(PyObject *owner);
    /* A step has ended, and the application waits. As the task, in its context; may be NULL. */
    void (*stepped)(PyObject *owner);
    /* The application has returned, or has raised `failure`. Called once, likewise. */
    void (*ended)(PyObject *owner, PyObject *failure);
} TaskOwner;

typedef enum {
    TASK_FAILED = -1, /* with an exception: nothing was begun */
    TASK_ENDED,       /* in its first step */
    TASK_WAITS,       /* it goes on by itself, or has not begun: where the loop makes tasks in a way of its own */
} TaskOutcome;

/* The number of the pass over connections that were ready at one moment (engine_inline.c): none of their requests was sent
 * because of another's answer. 0: none is being made. */
extern unsigned long ready_pass;
extern PyTypeObject *tasks_type;
/* Run it as a task of the loop, in a copy of the context of `tasks`, with the first step at once: in the turn of the loop or
 * in a callback, after begin_request. The lane is paused then. It has a reference to `owner` until it has ended; `line` is the
 * request's. */
TaskOutcome task_start(PyObject *tasks, const TaskOwner *functions, PyObject *owner, PyObject *line);
int coroutine_init(PyObject *module);
int gate_init(PyObject *module);
int placeholder_init(PyObject *module);
int task_init(PyObject *module);

/* What epoll_wait returned (system_handles.c). */
enum { MOST_EVENTS = 256 };
typedef struct {
    PyObject_HEAD
    int epoll, count;
    struct epoll_event events[MOST_EVENTS];
} Events;

/* Look once more, without waiting. How many are ready. */
int events_again(Events *events);

extern PyTypeObject *events_type;
PyObject *native_epoll_wait(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *native_epoll_control(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *native_only_from_processes(PyObject *module, PyObject *number);

/* engine_link.c, engine_inline.c, system_recorder.c, system_ring.c, system_uring.c, system_turn_times.c,
 * engine_baton.c, system_handles.c */
int epoll_init(PyObject *module);
int link_init(PyObject *module);
int call_init(PyObject *module);
int inline_init(PyObject *module);
int lane_init(PyObject *module);
int turn_times_init(PyObject *module);
int ring_init(PyObject *module);
int complete_init(PyObject *module);
int baton_init(PyObject *module);

#endif
