/* A packet of the uwsgi protocol to a WSGI environ, in one pass (twins: http/uwsgi.py and app/wsgi/environ.py). It takes
 * what nginx sends with its usual parameters, from a trusted peer; all else is theirs. */

#include "http_hops.h"

enum { HEADER = 4, MOST_NAME = 64, HTTP = 5 /* bytes of HTTP_ */ };

/* Variables that mean something here, in the order in which nginx mostly sends them. */
enum {
    QUERY_STRING, REQUEST_METHOD, CONTENT_TYPE, CONTENT_LENGTH, REQUEST_URI, PATH_INFO, SERVER_PROTOCOL, REQUEST_SCHEME,
    HTTPS, REMOTE_ADDR, REMOTE_PORT, SERVER_PORT, SERVER_NAME, SCRIPT_NAME, UWSGI_SCHEME, VARIABLES
};
static const char *const variable_names[VARIABLES] = {
    "QUERY_STRING", "REQUEST_METHOD", "CONTENT_TYPE", "CONTENT_LENGTH", "REQUEST_URI", "PATH_INFO", "SERVER_PROTOCOL",
    "REQUEST_SCHEME", "HTTPS", "REMOTE_ADDR", "REMOTE_PORT", "SERVER_PORT", "SERVER_NAME", "SCRIPT_NAME", "UWSGI_SCHEME",
};
static Py_ssize_t variable_sizes[VARIABLES];
static PyObject *variable_keys[VARIABLES], *k_host, *k_raw_uri, *k_url_scheme, *t_http, *t_https;

/* A packet, as far as it was read. A value that did not come is {NULL, 0}. */
typedef struct {
    PyObject *environ;
    Said *said;
    Piece variables[VARIABLES], host;
    PyObject *referer, *agent; /* for the access log */
    PyObject *client, *id;
    long long length; /* of the body; negative: not given */
    Py_ssize_t fields; /* how many more there may be */
    int next;          /* the variable that mostly comes now */
} Packet;

/* The next name or value in [*at, end). Returns 0 when it does not end there. */
static int piece(const char **at, const char *end, Piece *found)
{
    const unsigned char *size = (const unsigned char *)*at;
    if (end - *at < 2)
        return 0;
    *found = (Piece){*at + 2, size[0] | size[1] << 8};
    *at = found->at + found->size;
    return found->size <= end - found->at;
}

static int is_text(Piece text)
{
    const char *end = text.at + text.size;
    return !text.size || skip_text(text.at, end) == end;
}

static int same(Piece text, const char *what, Py_ssize_t size)
{
    return text.size == size && !memcmp(text.at, what, size);
}

#define SAME(text, what) same(text, what, sizeof what - 1)

static PyObject *latin1(Piece text)
{
    return PyUnicode_DecodeLatin1(text.at, text.size, NULL);
}

/* environ[key] = value; takes the reference to value. Returns 0, or -1 with an exception. */
static int put(PyObject *environ, PyObject *key, PyObject *value)
{
    int failed = !value || PyDict_SetItem(environ, key, value);
    Py_XDECREF(value);
    return failed ? -1 : 0;
}

/* environ[name] = value, which must not be there yet; `hash`: of the name behind HTTP_, or of all of it. Returns 1, 0 when
 * it is there, or -1 with an exception; with 1, `kept` is a new reference to the value, unless that is NULL. */
static int add(PyObject *environ, Piece name, uint32_t hash, Piece value, PyObject **kept)
{
    Py_ssize_t before = PyDict_Size(environ);
    PyObject *key = key_text(name.at, name.size, hash), *text = latin1(value);
    int failed = !key || !text || PyDict_SetItem(environ, key, text), found = failed ? -1 : PyDict_Size(environ) > before;
    if (found > 0 && kept)
        *kept = Py_NewRef(text);
    Py_XDECREF(key);
    Py_XDECREF(text);
    return found;
}

/* The hash of a name as environ has it, from `at` on; 0, with `plain` 0, when it has other characters. */
static uint32_t hash_of(const char *at, const char *end, int *plain)
{
    uint32_t hash = HASH_BASIS;
    *plain = at < end;
    for (; at < end; at++) {
        if (!((*at >= 'A' && *at <= 'Z') || *at == '_' || (*at >= '0' && *at <= '9')))
            *plain = 0;
        hash = hash_step(hash, *at);
    }
    return hash;
}

/* A field of the client's. Returns 1, 0 when it is not usual, or -1 with an exception. */
static int take_field(Packet *packet, Piece name, Piece value)
{
    Piece field = {name.at + HTTP, name.size - HTTP};
    const char *last = value.at + value.size - 1;
    int plain;
    uint32_t hash = hash_of(field.at, field.at + field.size, &plain);
    if (!plain || !packet->fields-- || !is_text(value))
        return 0;
    if (value.size && (*value.at == ' ' || *value.at == '\t' || *last == ' ' || *last == '\t'))
        return 0;
    FieldVerdict verdict = fronts_field(packet->said, field.at, field.size, hash, value);
    if (verdict != FIELD_KEPT)
        return verdict == FIELD_DROPPED;
    if (SAME(field, "PROXY") || SAME(field, "CONTENT_LENGTH") || SAME(field, "CONTENT_TYPE") ||
        SAME(field, "TRANSFER_ENCODING"))
        return 1;
    if (SAME(field, "HOST")) {
        if (!usual_host(value.at, value.at + value.size))
            return 0;
        packet->host = value; /* the last one counts */
        return put(packet->environ, k_host, latin1(value)) ? -1 : 1;
    }
    PyObject **kept = SAME(field, "REFERER") ? &packet->referer : SAME(field, "USER_AGENT") ? &packet->agent : NULL;
    return add(packet->environ, name, hash, value, kept);
}

/* The same of another parameter. */
static int take_variable(Packet *packet, Piece name, Piece value)
{
    for (int i = 0; i < VARIABLES; i++) {
        int variable = packet->next + i < VARIABLES ? packet->next + i : packet->next + i - VARIABLES;
        if (!same(name, variable_names[variable], variable_sizes[variable]))
            continue;
        if (packet->variables[variable].at)
            return 0;
        packet->variables[variable] = value;
        packet->next = variable + 1;
        return 1;
    }
    int plain;
    uint32_t hash = hash_of(name.at, name.at + name.size, &plain);
    return plain ? add(packet->environ, name, hash, value, NULL) : 0;
}

static int take_all(Packet *packet, const char *at, const char *end)
{
    while (at < end) {
        Piece name, value;
        if (!piece(&at, end, &name) || !piece(&at, end, &value) || name.size > MOST_NAME)
            return 0;
        int field = name.size >= HTTP && !memcmp(name.at, "HTTP_", HTTP);
        int taken = field ? take_field(packet, name, value) : take_variable(packet, name, value);
        if (taken <= 0)
            return taken;
    }
    return 1;
}

/* ---- what they say -------------------------------------------------------------------------- */

/* The variable as it came. Returns 0, or -1 with an exception. */
static int put_variable(const Packet *packet, int variable)
{
    return put(packet->environ, variable_keys[variable], latin1(packet->variables[variable]));
}

/* The number of a port as it is written; -1 when it is none. */
static long long port_of(Piece text)
{
    long long port = text.size ? plain_number(text.at, text.at + text.size) : -1;
    return port <= 65535 ? port : -1;
}

/* 1: https, 0: http, -1: neither. */
static int scheme_of(Piece text)
{
    if (is(text.at, text.size, "https") || is(text.at, text.size, "wss"))
        return 1;
    return is(text.at, text.size, "http") || is(text.at, text.size, "ws") ? 0 : -1;
}

/* 2: none is said; 3: it is for the twin. */
static int scheme_said(const Piece *said)
{
    Piece https = said[HTTPS];
    if (said[UWSGI_SCHEME].size)
        return scheme_of(said[UWSGI_SCHEME]) & 3;
    if (https.size)
        return *https.at == '1' || (https.size >= 2 && is(https.at, 2, "on"));
    return said[REQUEST_SCHEME].size ? scheme_of(said[REQUEST_SCHEME]) & 3 : 2;
}

/* Returns 1, 0 when it is not usual, or -1 with an exception; so do the next. */
static int tell_client(Packet *packet)
{
    Piece address = packet->variables[REMOTE_ADDR], port = packet->variables[REMOTE_PORT];
    Hop hop;
    if (!address.size || !read_hop(address, &hop))
        return 0;
    if (hop.port.size)
        port = hop.port;
    if (port_of(port) < 0)
        return 0;
    if (!(packet->client = text_of_hop(&hop)) ||
        PyDict_SetItem(packet->environ, variable_keys[REMOTE_ADDR], packet->client) ||
        put(packet->environ, variable_keys[REMOTE_PORT], latin1(port)))
        return -1;
    return 1;
}

static int tell_server(Packet *packet)
{
    const Piece *said = packet->variables;
    Piece prefix = said[SCRIPT_NAME];
    int scheme = scheme_said(said);
    while (prefix.size && prefix.at[prefix.size - 1] == '/')
        prefix.size--;
    if (scheme == 3 || (said[SERVER_PORT].size && port_of(said[SERVER_PORT]) <= 0))
        return 0;
    if ((scheme < 2 && PyDict_SetItem(packet->environ, k_url_scheme, scheme ? t_https : t_http)) ||
        (said[SERVER_NAME].size && put_variable(packet, SERVER_NAME)) ||
        (said[SERVER_PORT].size && put_variable(packet, SERVER_PORT)) ||
        (prefix.size && put(packet->environ, variable_keys[SCRIPT_NAME], latin1(prefix))))
        return -1;
    for (int i = 0; i < 3; i++) {
        int variable = (const int[]){REQUEST_SCHEME, HTTPS, UWSGI_SCHEME}[i];
        if (said[variable].at && put_variable(packet, variable))
            return -1;
    }
    return 1;
}

static int tell_body(Packet *packet, const HeadLimits *limits)
{
    Piece digits = packet->variables[CONTENT_LENGTH], type = packet->variables[CONTENT_TYPE];
    packet->length = -1;
    if (digits.size && ((packet->length = plain_number(digits.at, digits.at + digits.size)) < 0 || packet->length > limits->longest))
        return 0;
    if (!is_text(type))
        return 0;
    if ((digits.size && put_variable(packet, CONTENT_LENGTH)) || (type.size && put_variable(packet, CONTENT_TYPE)))
        return -1;
    return 1;
}

static int is_visible(Piece text)
{
    const char *end = text.at + text.size;
    return text.size && skip(text.at, end, QUERY) == end;
}

/* The request line, for logs: bytes. */
static PyObject *line_of(const Piece *said)
{
    Piece parts[3] = {said[REQUEST_METHOD], said[REQUEST_URI], said[SERVER_PROTOCOL]};
    char *at;
    PyObject *line = PyBytes_FromStringAndSize(NULL, parts[0].size + parts[1].size + parts[2].size + 2);
    if (!line)
        return NULL;
    at = PyBytes_AsString(line);
    for (int i = 0; i < 3; i++) {
        memcpy(at, parts[i].at, parts[i].size);
        at += parts[i].size;
        if (i < 2)
            *at++ = ' ';
    }
    return line;
}

static int tell_request(Packet *packet, PyObject **method, PyObject **line)
{
    const Piece *said = packet->variables;
    if (!(*method = method_of(said[REQUEST_METHOD])) || !is_visible(said[REQUEST_URI]) ||
        !is_visible(said[SERVER_PROTOCOL]) || !said[PATH_INFO].at || !said[QUERY_STRING].at)
        return 0;
    PyObject *uri = latin1(said[REQUEST_URI]);
    int failed = !uri || PyDict_SetItem(packet->environ, variable_keys[REQUEST_URI], uri) ||
                 PyDict_SetItem(packet->environ, k_raw_uri, uri) ||
                 PyDict_SetItem(packet->environ, variable_keys[REQUEST_METHOD], *method) ||
                 put_variable(packet, PATH_INFO) || put_variable(packet, QUERY_STRING) ||
                 put_variable(packet, SERVER_PROTOCOL) || !(*line = line_of(said));
    Py_XDECREF(uri);
    return failed ? -1 : 1;
}

static UsualRequest *request_of(const Packet *packet, PyObject *method, PyObject *line, const char *data, const char *end)
{
    UsualRequest *request = request_new(method, line, packet->environ);
    if (!request)
        return NULL;
    request->end = end - data;
    request->http10 = 1;
    request->is_head = SAME(packet->variables[REQUEST_METHOD], "HEAD");
    request->referer = Py_XNewRef(packet->referer);
    request->agent = Py_XNewRef(packet->agent);
    request->client = Py_XNewRef(packet->client);
    request->id = Py_XNewRef(packet->id);
    if (packet->length >= 0 && !(request->length = PyLong_FromLongLong(packet->length))) {
        Py_DECREF((PyObject *)request);
        return NULL;
    }
    return request;
}

PyObject *packet_of(const char *data, Py_ssize_t size, const HeadLimits *limits, PyObject *ends, Said *said)
{
    const unsigned char *header = (const unsigned char *)data;
    if (size < HEADER || header[0] || header[3])
        Py_RETURN_NONE;
    const char *end = data + HEADER + (header[1] | header[2] << 8);
    if (Py_TYPE(ends) != ends_type) {
        PyErr_SetString(PyExc_TypeError, "the ends of a connection are Ends");
        return NULL;
    }
    *said = (Said){.fronts = limits->fronts, .peer = ((Ends *)ends)->client, .trusted = -1};
    if (end - data > size || end - data > limits->most || !limits->fronts || !fronts_trust(said))
        Py_RETURN_NONE;
    Packet packet = {.environ = environ_for(limits->template, (Ends *)ends), .said = said, .fields = limits->fields};
    if (!packet.environ)
        return NULL;
    PyObject *method = NULL, *line = NULL, *result = NULL;
    int usual = take_all(&packet, data + HEADER, end);
    if (usual > 0)
        usual = tell_body(&packet, limits);
    if (usual > 0 && ((packet.length > 0 ? packet.length : 0) < size - (end - data) ||
                      (limits->hosts && !(packet.host.at && hosts_have(limits->hosts, packet.host.at, packet.host.size)))))
        usual = 0;
    if (usual > 0)
        usual = tell_client(&packet);
    if (usual > 0)
        usual = tell_server(&packet);
    if (usual > 0)
        usual = tell_request(&packet, &method, &line);
    if (usual > 0 && limits->ids)
        usual = put_request_id(said, packet.environ, ((Ends *)ends)->proxy, &packet.id);
    if (usual > 0)
        result = (PyObject *)request_of(&packet, method, line, data, end);
    else if (!usual)
        result = Py_NewRef(Py_None);
    Py_DECREF(packet.environ);
    Py_XDECREF(packet.referer);
    Py_XDECREF(packet.agent);
    Py_XDECREF(packet.client);
    Py_XDECREF(packet.id);
    Py_XDECREF(line);
    return result;
}

/* read_packet: as read_head, of a packet, and of what came behind it, which is its body and no more. */
PyObject *read_packet(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    (void)self;
    return read_by(packet_of, args, nargs);
}

int uwsgi_init(PyObject *module)
{
    (void)module;
    for (int i = 0; i < VARIABLES; i++) {
        variable_sizes[i] = (Py_ssize_t)strlen(variable_names[i]);
        if (!(variable_keys[i] = PyUnicode_InternFromString(variable_names[i])))
            return -1;
    }
    return !(k_host = PyUnicode_InternFromString("HTTP_HOST")) || !(k_raw_uri = PyUnicode_InternFromString("RAW_URI")) ||
                   !(k_url_scheme = PyUnicode_InternFromString("wsgi.url_scheme")) ||
                   !(t_http = PyUnicode_InternFromString("http")) || !(t_https = PyUnicode_InternFromString("https"))
               ? -1
               : 0;
}
