/* What the proxies of a usual head say: X-Forwarded-*, and fields with the client's address alone (twin:
 * http/forwarded.py). What is in conflict, malformed, or a list where one value is usual, is left to them,
 * and so is RFC 7239. */

#include "http_hops.h"

enum {
    MOST_NAMES = 32, /* known and chosen */
    SLOTS = 128,     /* of their table by hash: a power of two */
    MOST_NAME = 64
};

/* What a field says. */
enum { SAYS_CLIENT, SAYS_SCHEME, SAYS_HOST, SAYS_PORT, SAYS_PREFIX, ROLES, SAYS_MORE, SAYS_NOTHING };

typedef struct {
    char name[MOST_NAME]; /* as environ has it, without HTTP_ */
    Py_ssize_t size;
    int place; /* in grammar.FORWARDED_NAMES */
    int role, chosen;
} Name;

/* A Policy: see http/forwarded.py. */
struct Fronts {
    PyObject_HEAD
    PyObject *recorder; /* where dropped fields are counted */
    PyObject *peer;     /* the last one that was judged, for a proxy comes again; or NULL */
    int peer_trusted;
    PyObject *server; /* the last name of a server; or NULL */
    int passes, tells, name_count;
    Name names[MOST_NAMES];
    signed char slots[SLOTS]; /* -1: none */
    Networks trusted;
};

PyTypeObject *fronts_type;
static PyObject *k_address, *k_port, *k_scheme, *k_host, *k_server, *k_server_port, *k_prefix, *t_http, *t_https, *t_zero, *t_80, *t_443;

static const struct {
    const char *name;
    int role;
} known[] = {
    {"", SAYS_NOTHING},
    {"FORWARDED", SAYS_MORE},
    {"X_FORWARDED_FOR", SAYS_CLIENT},
    {"X_FORWARDED_PROTO", SAYS_SCHEME},
    {"X_FORWARDED_HOST", SAYS_HOST},
    {"X_FORWARDED_PORT", SAYS_PORT},
    {"X_FORWARDED_PREFIX", SAYS_PREFIX},
    {"X_FORWARDED_SSL", SAYS_MORE},
    {"X_FORWARDED_PROTOCOL", SAYS_MORE},
    {"X_REAL_IP", SAYS_CLIENT},
    {"X_CLIENT_IP", SAYS_CLIENT},
    {"TRUE_CLIENT_IP", SAYS_CLIENT},
    {"CF_CONNECTING_IP", SAYS_CLIENT},
};

static int of_family(const char *name, Py_ssize_t size)
{
    return size >= 12 && !memcmp(name, "X_FORWARDED_", 12);
}

/* ---- the policy ---------------------------------------------------------------------------- */

static uint32_t hash_of(const char *name, Py_ssize_t size)
{
    uint32_t hash = HASH_BASIS;
    for (Py_ssize_t i = 0; i < size; i++)
        hash = hash_step(hash, name[i]);
    return hash;
}

/* The name's row; NULL where there is none. */
static Name *find_name(Fronts *self, const char *name, Py_ssize_t size, uint32_t hash)
{
    for (uint32_t slot = hash & (SLOTS - 1); self->slots[slot] >= 0; slot = (slot + 1) & (SLOTS - 1)) {
        Name *found = &self->names[self->slots[slot]];
        if (found->size == size && !memcmp(found->name, name, size))
            return found;
    }
    return NULL;
}

/* Its row, which is made where there is none; NULL: too many, or too long. */
static Name *add_name(Fronts *self, const char *name, Py_ssize_t size, int place, int role)
{
    uint32_t hash = hash_of(name, size), slot = hash & (SLOTS - 1);
    Name *found = find_name(self, name, size, hash);
    if (found || self->name_count == MOST_NAMES || size >= MOST_NAME)
        return found;
    while (self->slots[slot] >= 0)
        slot = (slot + 1) & (SLOTS - 1);
    self->slots[slot] = (signed char)self->name_count;
    found = &self->names[self->name_count++];
    memcpy(found->name, name, size);
    found->size = size;
    found->place = place;
    found->role = role;
    return found;
}

/* A name as --forwarded-fields has it. Returns 0, or -1: too many. */
static int choose(Fronts *self, const char *text)
{
    char name[MOST_NAME + 1];
    Py_ssize_t size = 0;
    for (; text[size] && size < MOST_NAME; size++)
        name[size] = text[size] == '-' ? '_' : text[size] >= 'a' && text[size] <= 'z' ? text[size] - 0x20 : text[size];
    Name *found = add_name(self, name, size, 0, of_family(name, size) ? SAYS_NOTHING : SAYS_CLIENT);
    if (!found)
        return -1;
    found->chosen = 1;
    return 0;
}

/* Fronts(recorder, networks, unix, chosen, passes, tells): `networks` are canonical CIDRs, `chosen` names in lower case
 * (tuples of str); `tells`: what is dropped is left to Python, which logs it. ValueError: more names than native code takes. */
static PyObject *fronts_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"recorder", "networks", "unix", "chosen", "passes", "tells", NULL};
    PyObject *recorder, *networks, *chosen;
    int unix_trusted, passes, tells, failed = 0;
    if (!by_name(args, keywords, "OO!pO!pp", names, &recorder, &PyTuple_Type, &networks, &unix_trusted, &PyTuple_Type,
                 &chosen, &passes, &tells))
        return NULL;
    Fronts *self = (Fronts *)allocate(type);
    if (!self)
        return NULL;
    self->recorder = Py_NewRef(recorder);
    self->passes = passes;
    self->tells = tells;
    memset(self->slots, -1, sizeof self->slots);
    for (size_t i = 1; i < sizeof known / sizeof *known; i++)
        add_name(self, known[i].name, (Py_ssize_t)strlen(known[i].name), (int)i, known[i].role);
    for (Py_ssize_t i = 0; i < PyTuple_Size(chosen) && !failed; i++) {
        const char *text = PyUnicode_AsUTF8AndSize(PyTuple_GetItem(chosen, i), NULL);
        failed = !text || choose(self, text);
    }
    failed = failed || networks_read(&self->trusted, networks, unix_trusted);
    if (failed) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "more names than native code takes, or no network");
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return (PyObject *)self;
}

static void fronts_dealloc(Fronts *self)
{
    Py_CLEAR(self->recorder);
    Py_CLEAR(self->peer);
    Py_CLEAR(self->server);
    PyMem_Free(self->trusted.all);
    release((PyObject *)self);
}

/* ---- one head ------------------------------------------------------------------------------ */

static int peer_trusted(Fronts *self, PyObject *peer)
{
    if (self->peer != peer) {
        PyObject *former = self->peer;
        self->peer = Py_NewRef(peer);
        self->peer_trusted = is_trusted_peer(&self->trusted, peer);
        Py_XDECREF(former);
    }
    return self->peer_trusted;
}

int fronts_trust(Said *said)
{
    if (said->trusted < 0)
        said->trusted = said->fronts && peer_trusted(said->fronts, said->peer);
    return said->trusted;
}

/* The text of a value that most requests have, without making it anew; NULL for others. Borrowed. */
static PyObject *known_text(const Fronts *self, int role, Piece value)
{
    Py_ssize_t size;
    const char *server;
    switch (role) {
    case SAYS_SCHEME:
        if (value.size == 5 && !memcmp(value.at, "https", 5))
            return t_https;
        return value.size == 4 && !memcmp(value.at, "http", 4) ? t_http : NULL;
    case SAYS_PORT:
        if (value.size == 3 && !memcmp(value.at, "443", 3))
            return t_443;
        return value.size == 2 && !memcmp(value.at, "80", 2) ? t_80 : NULL;
    case SAYS_HOST:
        server = self->server ? ascii(self->server, &size) : NULL;
        return server && size == value.size && !memcmp(server, value.at, size) ? self->server : NULL;
    }
    return NULL;
}

FieldVerdict fronts_field(Said *said, const char *name, Py_ssize_t size, uint32_t hash, Piece value)
{
    Fronts *self = said->fronts;
    Name *found = self ? find_name(self, name, size, hash) : NULL;
    said->text = NULL;
    if (!found && !of_family(name, size))
        return FIELD_KEPT;
    if (!self)
        return FIELD_UNUSUAL;
    if (found && found->chosen && fronts_trust(said)) {
        if (found->role == SAYS_MORE || (found->role < ROLES && said->by[found->role].at))
            return FIELD_UNUSUAL;
        if (found->role < ROLES) {
            said->by[found->role] = value;
            said->text = known_text(self, found->role, value);
            said->any = 1;
        }
        return FIELD_KEPT;
    }
    if (self->passes)
        return FIELD_KEPT;
    if (self->tells || said->dropped_count == MOST_DROPPED)
        return FIELD_UNUSUAL;
    said->dropped[said->dropped_count++] =
        (unsigned char)((fronts_trust(said) ? NAMES_EACH : 0) + (found ? found->place : 0)); /* NOT_CHOSEN, UNTRUSTED */
    return FIELD_DROPPED;
}

void fronts_count(const Said *said)
{
    for (int i = 0; i < said->dropped_count; i++)
        recorder_add_at(said->fronts->recorder, CELL_DROPPED, said->dropped[i], 1);
}

static int set(PyObject *environ, PyObject *key, PyObject *value)
{
    int failed = !value || PyDict_SetItem(environ, key, value);
    Py_XDECREF(value);
    return failed;
}

static PyObject *latin1(Piece text)
{
    return PyUnicode_DecodeLatin1(text.at, text.size, NULL);
}

/* The number of a port, which is not 0; 0 for what is none. */
static long port_number(Piece text)
{
    long number = 0;
    if (text.size > 5)
        return 0;
    for (Py_ssize_t i = 0; i < text.size; i++) {
        if (text.at[i] < '0' || text.at[i] > '9')
            return 0;
        number = number * 10 + (text.at[i] - '0');
    }
    return number <= 65535 ? number : 0;
}

/* A path of plain segments, of which the slash at its end is cut off. */
static int read_prefix(Piece *text)
{
    const char *at = text->at, *end = at + text->size, *segment = at + 1;
    if (*at != '/')
        return 0;
    if (end - at == 1) {
        text->size = 0;
        return 1;
    }
    if (end[-1] == '/')
        end--;
    for (at++;; at++) {
        if (at < end && (kinds[(unsigned char)*at] & HOST || *at == ':' || *at == '@'))
            continue;
        Py_ssize_t size = at - segment;
        if ((at < end && *at != '/') || size == 0 || (size <= 2 && !memcmp(segment, "..", size)))
            return 0;
        if (at == end)
            break;
        segment = at + 1;
    }
    text->size = end - text->at;
    return 1;
}

/* What is said, read and judged. Returns 0 when that is for the twin. */
typedef struct {
    Hop client;
    int has_client, https;
    Piece host; /* with its port; empty: that of Host stays */
    Piece server, prefix;
    long own, port; /* of the host, and the other; 0: none */
} Facts;

static int read_facts(const Said *said, Piece host, Facts *facts)
{
    const Piece *by = said->by;
    *facts = (Facts){.https = -1};
    for (int role = SAYS_SCHEME; role < ROLES; role++)
        if (by[role].at && (!by[role].size || memchr(by[role].at, ',', by[role].size)))
            return 0;
    if (by[SAYS_CLIENT].at && (facts->has_client = find_client(&said->fronts->trusted, by[SAYS_CLIENT], &facts->client)) < 0)
        return 0;
    if (by[SAYS_SCHEME].at) {
        Piece text = by[SAYS_SCHEME];
        if (is(text.at, text.size, "https") || is(text.at, text.size, "wss"))
            facts->https = 1;
        else if (is(text.at, text.size, "http") || is(text.at, text.size, "ws"))
            facts->https = 0;
        else
            return 0;
    }
    if (by[SAYS_PORT].at && !(facts->port = port_number(by[SAYS_PORT])))
        return 0;
    facts->prefix = by[SAYS_PREFIX];
    if (facts->prefix.at && !read_prefix(&facts->prefix))
        return 0;
    if (by[SAYS_HOST].at && !usual_host(by[SAYS_HOST].at, by[SAYS_HOST].at + by[SAYS_HOST].size))
        return 0;
    facts->host = by[SAYS_HOST];
    Piece wanted = by[SAYS_HOST].at ? by[SAYS_HOST] : host;
    const char *colon = memchr(wanted.at, ':', wanted.size);
    facts->server = (Piece){wanted.at, colon ? colon - wanted.at : wanted.size};
    if (colon) {
        Piece digits = {colon + 1, wanted.at + wanted.size - colon - 1};
        facts->own = port_number(digits);
        if (!facts->own)
            return 0;
    }
    return !facts->own || !facts->port || facts->own == facts->port;
}

/* The name of a server, which is mostly the last one. New reference. */
static PyObject *server_name(Fronts *self, Piece name)
{
    Py_ssize_t size;
    const char *last = self->server ? ascii(self->server, &size) : NULL;
    if (last && size == name.size && !memcmp(last, name.at, size))
        return Py_NewRef(self->server);
    PyObject *text = latin1(name), *former = self->server;
    if (text) {
        self->server = Py_NewRef(text);
        Py_XDECREF(former);
    }
    return text;
}

static PyObject *port_text(long port)
{
    char digits[20];
    if (port == 80 || port == 443)
        return Py_NewRef(port == 80 ? t_80 : t_443);
    return PyUnicode_DecodeLatin1(digits, decimal(digits, (uint64_t)port) - digits, NULL);
}

/* The host with the other port. New reference. */
static PyObject *with_port(Piece server, long port)
{
    PyObject *name = latin1(server), *text = name ? PyUnicode_FromFormat("%U:%ld", name, port) : NULL;
    Py_XDECREF(name);
    return text;
}

int fronts_tell(const Said *said, PyObject *environ, Piece host, PyObject **client)
{
    Facts facts;
    if (!said->any)
        return 1;
    if (!read_facts(said, host, &facts))
        return 0;
    long usual = facts.https == 1 ? 443 : 80, port = facts.own ? facts.own : facts.port ? facts.port : usual;
    int failed = 0;
    if (facts.has_client) {
        Piece number = facts.client.port;
        failed = !(*client = text_of_hop(&facts.client)) || PyDict_SetItem(environ, k_address, *client) ||
                 set(environ, k_port, number.size ? latin1(number) : Py_NewRef(t_zero));
    }
    if (!failed && facts.https >= 0)
        failed = PyDict_SetItem(environ, k_scheme, facts.https ? t_https : t_http);
    if (!failed && facts.host.at) {
        PyObject *server = server_name(said->fronts, facts.server);
        failed = !server || PyDict_SetItem(environ, k_server, server) ||
                 set(environ, k_host, facts.own ? latin1(facts.host) : Py_NewRef(server));
        Py_XDECREF(server);
    }
    if (!failed && !facts.own && facts.port && facts.port != usual)
        failed = set(environ, k_host, with_port(facts.server, facts.port));
    if (!failed && (facts.host.at || facts.port || facts.https >= 0))
        failed = set(environ, k_server_port, port_text(port));
    if (!failed && facts.prefix.size)
        failed = set(environ, k_prefix, latin1(facts.prefix));
    return failed ? -1 : 1;
}

static PyType_Slot slots[] = {
    {Py_tp_new, fronts_new},
    {Py_tp_dealloc, fronts_dealloc},
    {0, NULL},
};

static PyType_Spec spec = {"forkd._native.Fronts", sizeof(Fronts), 0, Py_TPFLAGS_DEFAULT, slots};

int fronts_init(PyObject *module)
{
    fronts_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return !fronts_type || !(k_address = PyUnicode_InternFromString("REMOTE_ADDR")) ||
                   !(k_port = PyUnicode_InternFromString("REMOTE_PORT")) ||
                   !(k_scheme = PyUnicode_InternFromString("wsgi.url_scheme")) ||
                   !(k_host = PyUnicode_InternFromString("HTTP_HOST")) ||
                   !(k_server = PyUnicode_InternFromString("SERVER_NAME")) ||
                   !(k_server_port = PyUnicode_InternFromString("SERVER_PORT")) ||
                   !(k_prefix = PyUnicode_InternFromString("SCRIPT_NAME")) ||
                   !(t_http = PyUnicode_InternFromString("http")) || !(t_https = PyUnicode_InternFromString("https")) ||
                   !(t_zero = PyUnicode_InternFromString("0")) ||
                   !(t_80 = PyUnicode_InternFromString("80")) || !(t_443 = PyUnicode_InternFromString("443")) ||
                   PyModule_AddObjectRef(module, "Fronts", (PyObject *)fronts_type)
               ? -1
               : 0;
}
