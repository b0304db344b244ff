/* A request head to the scope of ASGI (twins: http/request.py, app/asgi/scope.py). */

#include "asgi.h"

enum { MOST_NAME = 64, MEMO = 1024 /* a power of two */ };

static PyObject *k_client, *k_extensions, *k_forkd, *k_headers, *k_id, *k_lift, *k_path, *k_query, *k_raw_path, *k_root, *k_scheme,
    *k_server, *k_state, *no_bytes, *host_name, *id_name;
/* Keys of an environ, as which fronts_tell has what proxies say. */
static PyObject *e_port, *e_scheme, *e_server, *e_server_port, *e_host, *e_prefix;

/* ---- names of fields, made once ------------------------------------------------------------- */

static struct memo {
    Py_ssize_t size;
    char name[MOST_NAME];
    PyObject *bytes;
} memo[MEMO];

/* New reference. `hash`: of its characters. */
static PyObject *name_bytes(const char *name, Py_ssize_t size, uint32_t hash)
{
    struct memo *entry = &memo[hash & (MEMO - 1)];
    if (entry->bytes && entry->size == size && !memcmp(entry->name, name, size))
        return Py_NewRef(entry->bytes);
    PyObject *bytes = PyBytes_FromStringAndSize(name, size);
    if (bytes && !entry->bytes) { /* the first that comes stays: names that clients make up change nothing */
        memcpy(entry->name, name, size);
        entry->size = size;
        entry->bytes = Py_NewRef(bytes);
    }
    return bytes;
}

/* dict[key] = value; takes the reference to value. */
static int put(PyObject *dict, PyObject *key, PyObject *value)
{
    int failed = value == NULL || PyDict_SetItem(dict, key, value);
    Py_XDECREF(value);
    return failed;
}

/* ---- the request head ----------------------------------------------------------------------- */

/* What was read of a head. The objects are strong references, NULL where there is no such field. */
typedef struct {
    const char *at, *end;
    PyObject *headers, *referer, *agent, *accept;
    PyObject *told, *client; /* what its proxies say; the address that they name */
    PyObject *id;            /* its name, a str */
    Piece host, given;       /* `given`: that of a field, if it is the only one */
    int hosts, keep, ids, given_count; /* `ids`: requests have names */
    unsigned char seen; /* Connection, Content-Type */
    long long length;   /* of the body; negative: not given */
    Said said;
} Head;

enum { SAW_CONNECTION = 1, SAW_TYPE = 2 };

/* The first of its kind. Returns 0 for a second one. */
static int once(Head *head, unsigned char what)
{
    int first = !(head->seen & what);
    head->seen |= what;
    return first;
}

/* What a field says of the message. Returns 1; 0, when that is for the twin: what frames or upgrades it, and more. */
static int heed(Head *head, const char *name, Py_ssize_t size, Piece value)
{
    switch (size) {
    case 2:
        return memcmp(name, "te", 2) != 0;
    case 4:
        if (memcmp(name, "host", 4))
            return 1;
        head->host = value;
        return !head->hosts++ && usual_host(value.at, value.at + value.size);
    case 6:
        return memcmp(name, "expect", 6) != 0;
    case 7:
        return memcmp(name, "upgrade", 7) != 0;
    case 10:
        if (memcmp(name, "connection", 10))
            return 1;
        if (is(value.at, value.size, "close"))
            head->keep = 0;
        else if (!is(value.at, value.size, "keep-alive"))
            return 0;
        return once(head, SAW_CONNECTION);
    case 12:
        return memcmp(name, "content-type", 12) || once(head, SAW_TYPE);
    case 14:
        return memcmp(name, "content-length", 14) ||
               (head->length < 0 && (head->length = plain_number(value.at, value.at + value.size)) >= 0);
    case 16:
        return memcmp(name, "proxy-connection", 16) != 0;
    case 17:
        return memcmp(name, "transfer-encoding", 17) != 0;
    }
    return 1;
}

/* Keep the text of a field that the access log shows. Returns 1; 0, for a second one; or -1 with an exception. */
static int show(PyObject **place, Piece value)
{
    if (*place)
        return 0;
    *place = PyUnicode_DecodeLatin1(value.at, value.size, NULL);
    return *place ? 1 : -1;
}

/* One field. Returns 1, 0 when it is not usual, or -1 with an exception. */
static int field(Head *head)
{
    char name[MOST_NAME], upper[MOST_NAME]; /* `upper`: as environ would have it */
    Py_ssize_t size = 0;
    const char *at = head->at, *end = head->end;
    uint32_t hash = HASH_BASIS;
    for (; at < end && kinds[(unsigned char)*at] & TOKEN; at++, size++) {
        char c = *at;
        if (size == MOST_NAME || c == '_')
            return 0;
        name[size] = c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
        upper[size] = c == '-' ? '_' : c >= 'a' && c <= 'z' ? (char)(c - 0x20) : c;
        hash = hash_step(hash, upper[size]);
    }
    if (!size || at == end || *at != ':')
        return 0;
    for (at++; at < end && (*at == ' ' || *at == '\t');)
        at++;
    Piece value = {at, 0};
    at = skip_text(at, end);
    if (end - at < 2 || at[0] != '\r' || at[1] != '\n')
        return 0;
    head->at = at + 2;
    while (at > value.at && (at[-1] == ' ' || at[-1] == '\t'))
        at--;
    value.size = at - value.at;
    FieldVerdict verdict = fronts_field(&head->said, upper, size, hash, value);
    if (verdict != FIELD_KEPT)
        return verdict == FIELD_DROPPED;
    if (head->ids && size == 12 && !memcmp(name, "x-request-id", 12)) {
        head->given = head->given_count++ ? (Piece){NULL, 0} : value;
        return 1;
    }
    int usual = heed(head, name, size, value);
    if (usual && size == 7 && !memcmp(name, "referer", 7))
        usual = show(&head->referer, value);
    else if (usual && size == 10 && !memcmp(name, "user-agent", 10))
        usual = show(&head->agent, value);
    if (usual <= 0)
        return usual;
    PyObject *label = name_bytes(name, size, hash), *text = PyBytes_FromStringAndSize(value.at, value.size);
    PyObject *pair = label && text ? PyTuple_Pack(2, label, text) : NULL;
    if (pair && size == 6 && !memcmp(name, "accept", 6)) {
        usual = !head->accept; /* else it is a list over several lines */
        if (usual)
            head->accept = Py_NewRef(text);
    }
    Py_XDECREF(label);
    Py_XDECREF(text);
    int failed = !pair || PyList_Append(head->headers, pair);
    Py_XDECREF(pair);
    return failed ? -1 : usual;
}

/* The field Host with what a proxy says that it was, before all others. Returns 0, or -1 with an exception. */
static int put_host(Head *head, const char *text, Py_ssize_t size)
{
    PyObject *value = PyBytes_FromStringAndSize(text, size), *pair = value ? PyTuple_Pack(2, host_name, value) : NULL;
    int failed = !pair;
    Py_XDECREF(value);
    for (Py_ssize_t i = 0; !failed && i < PyList_Size(head->headers); i++)
        if (PyObject_RichCompareBool(PyTuple_GetItem(PyList_GetItem(head->headers, i), 0), host_name, Py_EQ) == 1) {
            failed = PyList_SetSlice(head->headers, i, i + 1, NULL);
            break;
        }
    failed = failed || PyList_Insert(head->headers, 0, pair);
    Py_XDECREF(pair);
    return failed ? -1 : 0;
}

/* Whether a prefix is the same in `raw_path`, where it is percent-encoded. */
static int quoted_alike(PyObject *prefix)
{
    Py_ssize_t size = 0;
    const char *at = prefix ? ascii(prefix, &size) : "";
    for (const char *end = at + size; at && at < end; at++)
        if (*at != '/' && (!(kinds[(unsigned char)*at] & HOST) || strchr("!$&'()*+,;=", *at)))
            return 0;
    return at != NULL;
}

/* What trusted proxies say of the request. Returns as `field`. */
static int hear_proxies(Head *head)
{
    if (!(head->told = PyDict_New()))
        return -1;
    int usual = fronts_tell(&head->said, head->told, head->host, &head->client);
    if (usual > 0 && !quoted_alike(dict_item(head->told, e_prefix)))
        return 0;
    PyObject *host = usual > 0 ? dict_item(head->told, e_host) : NULL;
    Py_ssize_t size;
    const char *text = host ? PyUnicode_AsUTF8AndSize(host, &size) : NULL;
    if (text && (size != head->host.size || memcmp(text, head->host.at, size)) && put_host(head, text, size))
        return -1;
    if (text)
        head->host = (Piece){text, size};
    return host && !text ? -1 : usual;
}

/* Name the request, also in its fields. Returns as `field`. */
static int identify(Head *head, PyObject *proxy)
{
    int usual = choose_request_id(&head->said, head->given, proxy, &head->id);
    if (usual <= 0)
        return usual;
    PyObject *text = PyUnicode_AsASCIIString(head->id), *pair = text ? PyTuple_Pack(2, id_name, text) : NULL;
    int failed = !pair || PyList_Append(head->headers, pair);
    Py_XDECREF(text);
    Py_XDECREF(pair);
    return failed ? -1 : 1;
}

/* All fields, and the empty line. Returns as `field`. */
static int fields(Head *head, const HeadLimits *limits)
{
    Py_ssize_t left = limits->fields;
    int usual;
    while (head->end - head->at >= 2 && head->at[0] != '\r')
        if (left-- == 0)
            return 0;
        else if ((usual = field(head)) <= 0)
            return usual;
    if (head->end - head->at < 2 || head->at[1] != '\n' || head->hosts != 1)
        return 0;
    head->at += 2;
    if (head->said.any && (usual = hear_proxies(head)) <= 0)
        return usual;
    return !limits->hosts || hosts_have(limits->hosts, head->host.at, head->host.size);
}

/* scope["path"] and scope["raw_path"]; `before`: the prefix of the former, and `raw_before` of the latter. Returns 0, or -1
 * with an exception. */
static int put_path(PyObject *scope, Piece path, PyObject *before, PyObject *raw_before)
{
    PyObject *text = percent_decoded(path.at, path.size, PyUnicode_DecodeUTF8), *raw = PyBytes_FromStringAndSize(path.at, path.size);
    if (text && raw && PyUnicode_GetLength(before)) {
        PyObject *whole = PyUnicode_Concat(before, text), *prefix = Py_NewRef(raw_before);
        PyBytes_Concat(&prefix, raw);
        Py_DECREF(text);
        Py_DECREF(raw);
        text = whole;
        raw = prefix;
    }
    int failed = put(scope, k_path, text) | put(scope, k_raw_path, raw);
    return failed ? -1 : 0;
}

/* What proxies have said, and the path with the prefix that they have taken from it. Returns 0, or -1 with an exception. */
static int put_told(const AsgiShortcut *self, PyObject *scope, const Head *head, Piece path)
{
    PyObject *scheme = dict_item(head->told, e_scheme), *prefix = dict_item(head->told, e_prefix);
    PyObject *name = dict_item(head->told, e_server), *port = dict_item(head->told, e_server_port);
    PyObject *server = dict_item(scope, k_server), *pair;
    if (scheme && PyDict_SetItem(scope, k_scheme, scheme))
        return -1;
    if (head->client) {
        int known = PyUnicode_GetLength(head->client) > 0;
        if (put(scope, k_client, known ? asgi_address(head->client, dict_item(head->told, e_port)) : Py_NewRef(Py_None)))
            return -1;
    }
    if (port) { /* whatever else is said of the server, this is */
        if (!(pair = asgi_address(name ? name : PyTuple_GetItem(server, 0), port)) || put(scope, k_server, pair))
            return -1;
    }
    if (!prefix)
        return put_path(scope, path, self->prefix, self->raw_prefix);
    PyObject *raw = PyUnicode_AsASCIIString(prefix);
    int failed = !raw || PyDict_SetItem(scope, k_root, prefix) || put_path(scope, path, prefix, raw);
    Py_XDECREF(raw);
    return failed ? -1 : 0;
}

/* The scope of a head that was read. New reference, or NULL with an exception. */
static PyObject *scope_made(const AsgiShortcut *self, Ends *ends, const Head *head, PyObject *method, Piece path, Piece query)
{
    PyObject *scope = asgi_template(self->http.limits->template, ends, method, head->id || self->limit);
    if (!scope ||
        (head->told ? put_told(self, scope, head, path) : put_path(scope, path, self->prefix, self->raw_prefix)) ||
        PyDict_SetItem(scope, k_headers, head->headers) ||
        (query.size && put(scope, k_query, PyBytes_FromStringAndSize(query.at, query.size))) ||
        put(scope, k_state, PyDict_Copy(self->state)))
        Py_CLEAR(scope);
    return scope;
}

/* What the extensions of a scope have of this request alone. Returns 0, or -1 with an exception. */
static int put_own(AsgiCycle *cycle, PyObject *scope)
{
    PyObject *forkd = dict_item(dict_item(scope, k_extensions), k_forkd), *id = cycle->base.id;
    if (id && PyDict_SetItem(forkd, k_id, id))
        return -1;
    return cycle->shortcut->limit ? put(forkd, k_lift, asgi_lift(cycle)) : 0;
}

Outcome asgi_read(Shortcut *shortcut, const char *data, Py_ssize_t size, Link *link, Call **call)
{
    AsgiShortcut *self = (AsgiShortcut *)shortcut;
    const HeadLimits *limits = self->http.limits;
    Ends *ends = (Ends *)link->note;
    Head head = {.end = data + (size < limits->most ? size : limits->most), .at = data, .keep = 1, .length = -1,
                 .ids = limits->ids};
    if (!self->tasks || !ends || Py_TYPE((PyObject *)ends) != ends_type)
        return NOT_USUAL;
    if (self->most && PySet_Size(self->counted) >= self->most)
        return NOT_USUAL;
    if (shortcut->sheds_after > 0 && http_waited((PyObject *)link) > shortcut->sheds_after)
        return NOT_USUAL;

    const char *space = memchr(data, ' ', size < 9 ? size : 9);
    PyObject *method = space ? method_of((Piece){data, space - data}) : NULL;
    if (!method || *data == 'H' /* HEAD */ || space + 1 == head.end || space[1] != '/')
        return NOT_USUAL;
    Piece path = {space + 1, 0}, query = {NULL, 0};
    head.at = skip(path.at, head.end, PATH);
    path.size = head.at - path.at;
    if (head.at < head.end && *head.at == '?') {
        query.at = head.at + 1;
        head.at = skip(query.at, head.end, QUERY);
        query.size = head.at - query.at;
    }
    if (head.end - head.at < 11 || memcmp(head.at, " HTTP/1.1\r\n", 11))
        return NOT_USUAL;
    Piece line = {data, head.at + 9 - data};
    head.at += 11;
    head.said = (Said){.fronts = limits->fronts, .peer = ends->client, .trusted = -1};

    head.headers = PyList_New(0);
    int usual = head.headers ? fields(&head, limits) : -1;
    Py_ssize_t length = head.length < 0 ? 0 : (Py_ssize_t)head.length;
    if (usual > 0 && (data + size - head.at != length || head.length > limits->longest || (length && data[0] == 'G')))
        usual = 0; /* a body that is not here, or behind which there is more, or where none is expected */
    if (usual > 0 && head.ids)
        usual = identify(&head, ends->proxy);
    PyObject *text = usual > 0 ? PyBytes_FromStringAndSize(line.at, line.size) : NULL;
    PyObject *scope = text ? scope_made(self, ends, &head, method, path, query) : NULL;
    AsgiCycle *cycle = scope ? (AsgiCycle *)allocate(asgi_cycle_type) : NULL;
    if (cycle) {
        cycle->shortcut = (AsgiShortcut *)Py_NewRef((PyObject *)self);
        cycle->base.method = Py_NewRef(method);
        cycle->base.call.line = Py_NewRef(text);
        cycle->base.environ = Py_NewRef(scope);
        cycle->base.end = head.at - data;
        cycle->base.keep_alive = (char)head.keep;
        cycle->base.referer = Py_XNewRef(head.referer);
        cycle->base.agent = Py_XNewRef(head.agent);
        cycle->base.client = Py_XNewRef(head.client);
        cycle->base.id = Py_XNewRef(head.id);
        cycle->accept = Py_XNewRef(head.accept);
        cycle->body = length ? PyBytes_FromStringAndSize(head.at, length) : Py_NewRef(no_bytes);
        if (!cycle->body || ((head.id || self->limit) && put_own(cycle, scope)))
            Py_CLEAR(cycle);
    }
    Py_XDECREF(text);
    Py_XDECREF(scope);
    Py_XDECREF(head.headers);
    Py_XDECREF(head.referer);
    Py_XDECREF(head.agent);
    Py_XDECREF(head.accept);
    Py_XDECREF(head.told);
    Py_XDECREF(head.client);
    Py_XDECREF(head.id);
    if (!usual)
        return NOT_USUAL;
    if (!cycle)
        return FAILED;
    fronts_count(&head.said);
    *call = (Call *)cycle;
    return CALL;
}

int asgi_scope_init(void)
{
    static const struct {
        PyObject **place;
        const char *text;
    } keys[] = {
        {&k_client, "client"}, {&k_extensions, "extensions"}, {&k_forkd, "forkd"}, {&k_id, "request_id"},
        {&k_lift, "lift_request_timeout"}, {&k_headers, "headers"}, {&k_path, "path"},
        {&k_query, "query_string"}, {&k_raw_path, "raw_path"},
        {&k_root, "root_path"}, {&k_scheme, "scheme"}, {&k_server, "server"}, {&k_state, "state"},
        {&e_port, "REMOTE_PORT"}, {&e_scheme, "wsgi.url_scheme"}, {&e_server, "SERVER_NAME"}, {&e_server_port, "SERVER_PORT"},
        {&e_host, "HTTP_HOST"}, {&e_prefix, "SCRIPT_NAME"},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!(*keys[i].place = PyUnicode_InternFromString(keys[i].text)))
            return -1;
    return (no_bytes = PyBytes_FromStringAndSize("", 0)) && (host_name = PyBytes_FromStringAndSize("host", 4)) &&
                   (id_name = PyBytes_FromStringAndSize("x-request-id", 12))
               ? 0
               : -1;
}
