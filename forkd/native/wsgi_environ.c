/* A request head to a WSGI environ (app/wsgi/shortcut.py; its twin is http/request.py with app/wsgi/environ.py). */

#include "native.h"

enum { MOST_NAME = 64, MEMO = 1024, BUSY = 128 }; /* the latter two are powers of two */

static struct memo {
    Py_ssize_t size;
    char key[MOST_NAME];
    PyObject *text;
} memo[MEMO];

/* A str for an environ key, made once. New reference. `hash`: of its characters. */
PyObject *key_text(const char *key, Py_ssize_t size, uint32_t hash)
{
    struct memo *entry = &memo[hash & (MEMO - 1)];
    if (entry->text && entry->size == size && !memcmp(entry->key, key, size)) {
        Py_INCREF(entry->text);
        return entry->text;
    }
    PyObject *text = PyUnicode_DecodeLatin1(key, size, NULL);
    if (text && !entry->text) { /* the first that comes stays: names that clients make up change nothing */
        memcpy(entry->key, key, size);
        entry->size = size;
        entry->text = text;
        Py_INCREF(text);
    }
    return text;
}

/* ---- the request head --------------------------------------------------------------------- */

static PyObject *methods[7];
static const char method_sizes[7] = {3, 4, 4, 3, 6, 7, 5};
static PyObject *k_host, *k_method, *k_path, *k_query, *k_uri, *k_raw, *k_peer[4], *k_proxy, *k_raw_peer, *k_scheme, *k_its_peer, *k_ssl,
    *https;
static const char *const peer_names[4] = {"SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR", "REMOTE_PORT"};
static const char *const method_names[7] = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"};

PyObject *method_of(Piece name)
{
    for (int i = 0; i < 7; i++)
        if (name.size == method_sizes[i] && !memcmp(name.at, method_names[i], name.size))
            return methods[i];
    return NULL;
}

/* environ[key] = value; takes the reference to value. */
static int put(PyObject *environ, PyObject *key, PyObject *value)
{
    int failed = value == NULL || PyDict_SetItem(environ, key, value);
    Py_XDECREF(value);
    return failed;
}

int usual_host(const char *at, const char *end)
{
    const char *colon = skip(at, end, HOST);
    if (colon == at)
        return 0;
    if (colon == end)
        return 1;
    if (*colon != ':' || end - colon > 6)
        return 0;
    while (++colon < end)
        if (*colon < '0' || *colon > '9')
            return 0;
    return 1;
}

/* What the fields say of the message. */
typedef struct {
    int hosts, keep;
    long long length; /* of the body; negative: not given */
    Piece host;
    uint64_t seen; /* a bit for the hash of each name: where it is not set, the name is the first of its kind */
} Framing;

/* The values that the access log shows, as they were received: strong references, NULL where there is no such
 * field. The application may change its environ, and not these. */
typedef struct {
    PyObject *referer, *agent;
} Shown;

/* The number in [at, end) if all recipients read it alike; else -1. */
long long plain_number(const char *at, const char *end)
{
    long long value = 0;
    if (at == end || end - at > 18 || (*at == '0' && end - at > 1))
        return -1;
    for (; at < end; at++) {
        if (*at < '0' || *at > '9')
            return -1;
        value = value * 10 + (*at - '0');
    }
    return value;
}

/* The value of a field that came before: a list over several lines (RFC 9110 5.3). Takes the reference to `next`. New
 * reference, or NULL with an exception. */
static PyObject *joined(PyObject *before, const char *separator, PyObject *next)
{
    PyObject *list = next ? PyUnicode_FromFormat("%U%s%U", before, separator, next) : NULL;
    Py_XDECREF(next);
    return list;
}

/* One field into environ. Returns 1, 0 when it is not usual, or -1 with an exception. */
static int field(PyObject *environ, const char **place, const char *end, Framing *framing, Shown *shown, Said *said)
{
    char key[MOST_NAME] = "HTTP_";
    Py_ssize_t size = 5;
    const char *at = *place;
    uint32_t hash = HASH_BASIS;
    int dropped = 0, single = 0; /* `single`: that it comes twice is for the twin */
    for (; at < end && kinds[(unsigned char)*at] & TOKEN; at++) {
        char c = *at;
        if (size == MOST_NAME)
            return 0;
        if (c == '_')
            dropped = 1; /* it would pass for the same name with hyphens */
        key[size] = c == '-' ? '_' : c >= 'a' && c <= 'z' ? (char)(c - 0x20) : c;
        hash = hash_step(hash, key[size++]);
    }
    if (size == 5 || at == end || *at != ':')
        return 0;
    for (at++; at < end && (*at == ' ' || *at == '\t');)
        at++;
    const char *value = at;
    at = skip_text(at, end);
    if (end - at < 2 || at[0] != '\r' || at[1] != '\n')
        return 0;
    *place = at + 2;
    while (at > value && (at[-1] == ' ' || at[-1] == '\t'))
        at--;
    const char *name = key + 5;
    Py_ssize_t length = size - 5;
    PyObject **show = NULL;
    Piece text_of_value = {value, at - value};
    FieldVerdict verdict = dropped ? FIELD_KEPT : fronts_field(said, name, length, hash, text_of_value);
    if (verdict != FIELD_KEPT)
        return verdict == FIELD_DROPPED;
    /* What frames or upgrades a message is for the twin. */
    switch (length) {
    case 4:
        if (!memcmp(name, "HOST", 4) && (framing->hosts++ || !usual_host(value, at)))
            return 0;
        if (length == 4 && framing->hosts && !memcmp(name, "HOST", 4))
            framing->host = text_of_value;
        break;
    case 5:
        if (!memcmp(name, "PROXY", 5))
            dropped = 1; /* HTTP_PROXY is CGI's name for the proxy of an HTTP client (httpoxy) */
        break;
    case 6:
        if (!memcmp(name, "EXPECT", 6))
            return 0;
        break;
    case 7:
        if (!memcmp(name, "UPGRADE", 7))
            return 0;
        if (!memcmp(name, "REFERER", 7))
            show = &shown->referer;
        break;
    case 10:
        if (!memcmp(name, "USER_AGENT", 10))
            show = &shown->agent;
        if (!memcmp(name, "CONNECTION", 10)) {
            single = 1;
            if (is(value, at - value, "close"))
                framing->keep = 0;
            else if (!is(value, at - value, "keep-alive"))
                return 0;
        }
        break;
    case 12:
        if (!memcmp(name, "CONTENT_TYPE", 12)) {
            single = 1;
            memmove(key, key + 5, 12);
            size = 12;
        }
        break;
    case 14:
        if (!memcmp(name, "CONTENT_LENGTH", 14)) {
            if (dropped || (framing->length = plain_number(value, at)) < 0)
                return 0;
            single = 1;
            memmove(key, key + 5, 14);
            size = 14;
        }
        break;
    case 16:
        if (!memcmp(name, "PROXY_CONNECTION", 16))
            return 0;
        break;
    case 17:
        if (!memcmp(name, "TRANSFER_ENCODING", 17))
            return 0;
        break;
    }
    if (dropped)
        return 1;
    PyObject *text = key_text(key, size, hash);
    if (!text)
        return -1;
    uint64_t bit = UINT64_C(1) << (hash & 63);
    PyObject *content = said->text ? Py_NewRef(said->text) : PyUnicode_DecodeLatin1(value, at - value, NULL);
    PyObject *before = framing->seen & bit ? PyDict_GetItemWithError(environ, text) : NULL;
    framing->seen |= bit;
    if (before && single) {
        Py_DECREF(text);
        Py_XDECREF(content);
        return 0;
    }
    if (before)
        content = joined(before, length == 6 && !memcmp(name, "COOKIE", 6) ? "; " : ",", content);
    int failed = !content || PyDict_SetItem(environ, text, content);
    Py_DECREF(text);
    if (show && !failed) {
        Py_XDECREF(*show);
        *show = content;
        return 1;
    }
    Py_XDECREF(content);
    return failed ? -1 : 1;
}

/* ---- the environ to begin with -------------------------------------------------------------- */

/* Connections that were busy lately: the template with their ends in it. */
static struct busy {
    PyObject *template;
    Ends *ends;
    PyObject *environ; /* since they came twice in a row */
} busy[BUSY];

/* What a proxy has said of the connection, as `_tell_proxy` of the twin has it. Returns 0, or -1 with an exception. */
static int tell_proxy(PyObject *environ, PyObject *facts)
{
    PyObject *peer = dict_item(facts, k_its_peer), *ssl = dict_item(facts, k_ssl);
    if (PyDict_SetItem(environ, k_raw_peer, PyTuple_GetItem(peer, 0)))
        return -1;
    return ssl && PyDict_GetItemString(ssl, "tls") == Py_True ? PyDict_SetItem(environ, k_scheme, https) : 0;
}

/* A copy of the template with the ends of a connection. New reference, or NULL with an exception. */
static PyObject *with_ends(PyObject *template, const Ends *ends)
{
    PyObject *environ = PyDict_Copy(template), *texts[] = {ends->server, ends->port, ends->client, ends->client_port};
    for (int i = 0; i < 4; i++)
        if (environ && PyDict_SetItem(environ, k_peer[i], texts[i]))
            Py_CLEAR(environ);
    if (environ && PyDict_SetItem(environ, k_raw_peer, ends->client))
        Py_CLEAR(environ);
    if (environ && ends->proxy && tell_proxy(environ, ends->proxy))
        Py_CLEAR(environ);
    return environ;
}

/* The same, for less where the connection is a busy one. */
static PyObject *with_busy_ends(PyObject *template, Ends *ends)
{
    struct busy *entry = &busy[((uintptr_t)ends >> 4 ^ (uintptr_t)ends >> 10) & (BUSY - 1)];
    if (entry->ends == ends && entry->template == template) {
        if (!entry->environ && !(entry->environ = with_ends(template, ends)))
            return NULL;
        return PyDict_Copy(entry->environ);
    }
    struct busy old = *entry;
    *entry = (struct busy){Py_NewRef(template), (Ends *)Py_NewRef((PyObject *)ends), NULL};
    Py_XDECREF(old.template);
    Py_XDECREF((PyObject *)old.ends);
    Py_XDECREF(old.environ);
    return with_ends(template, ends);
}

PyObject *environ_for(PyObject *template, Ends *ends)
{
    PyObject *environ = with_busy_ends(template, ends);
    if (environ && ends->proxy) { /* what an application does with it is done to its copy */
        PyObject *facts = dict_copied(ends->proxy);
        if (!facts || PyDict_SetItem(environ, k_proxy, facts))
            Py_CLEAR(environ);
        Py_XDECREF(facts);
    }
    return environ;
}

/* Whether the request may be for its host, as its proxies have it. */
static int host_allowed(const Hosts *hosts, PyObject *environ)
{
    Py_ssize_t size;
    PyObject *host = dict_item(environ, k_host);
    const char *text = host ? ascii(host, &size) : NULL;
    return text && hosts_have(hosts, text, size);
}

/* The request whose head is at `data`, or None; see read_head. */
PyObject *head_of(const char *data, Py_ssize_t size, const HeadLimits *limits, PyObject *ends, Said *said)
{
    Py_ssize_t fields = limits->fields;
    const char *end = data + (size < limits->most ? size : limits->most), *at = data;
    if (Py_TYPE(ends) != ends_type) {
        PyErr_SetString(PyExc_TypeError, "the ends of a connection are Ends");
        return NULL;
    }

    PyObject *method = NULL;
    for (int i = 0; i < 7 && !method; i++) {
        Py_ssize_t length = method_sizes[i];
        if (end - at > length && at[length] == ' ' && !memcmp(at, method_names[i], length)) {
            method = methods[i];
            at += length + 1;
        }
    }
    if (!method || at == end || *at != '/')
        Py_RETURN_NONE;
    const char *target = at, *path_end = skip(at, end, PATH), *query = path_end;
    at = path_end;
    if (at < end && *at == '?') {
        query = at + 1;
        at = skip(query, end, QUERY);
    }
    const char *target_end = at;
    if (end - at < 11 || memcmp(at, " HTTP/1.1\r\n", 11))
        Py_RETURN_NONE;
    const char *line_end = at + 9;
    at += 11;

    PyObject *environ = environ_for(limits->template, (Ends *)ends), *uri = NULL, *line = NULL;
    UsualRequest *result = NULL;
    if (!environ)
        return NULL;
    int usual = 1;
    Framing framing = {0, 1, -1, {NULL, 0}, 0};
    PyObject *client = NULL, *id = NULL;
    Shown shown = {NULL, NULL};
    *said = (Said){.fronts = limits->fronts, .peer = ((Ends *)ends)->client, .trusted = -1};
    while (end - at >= 2 && at[0] != '\r') {
        if (fields-- == 0 || (usual = field(environ, &at, end, &framing, &shown, said)) == 0)
            goto unusual;
        if (usual < 0)
            goto done;
    }
    if (end - at < 2 || at[1] != '\n' || framing.hosts != 1 || framing.length > limits->longest)
        goto unusual;
    if (framing.length > 0 && (method == methods[0] || method == methods[1]))
        goto unusual; /* a body where none is expected */
    if ((usual = fronts_tell(said, environ, framing.host, &client)) == 0)
        goto unusual;
    if (usual < 0)
        goto done;
    if (limits->hosts && !host_allowed(limits->hosts, environ))
        goto unusual;
    if (limits->ids && (usual = put_request_id(said, environ, ((Ends *)ends)->proxy, &id)) == 0)
        goto unusual;
    if (usual < 0)
        goto done;
    at += 2;
    uri = PyUnicode_DecodeLatin1(target, target_end - target, NULL);
    line = PyBytes_FromStringAndSize(data, line_end - data);
    if (!uri || !line || PyDict_SetItem(environ, k_method, method) ||
        PyDict_SetItem(environ, k_uri, uri) || PyDict_SetItem(environ, k_raw, uri) ||
        put(environ, k_path, percent_decoded(target, path_end - target, PyUnicode_DecodeLatin1)) ||
        put(environ, k_query, PyUnicode_DecodeLatin1(query, target_end - query, NULL)))
        goto done;
    if ((result = request_new(method, line, environ))) {
        result->end = at - data;
        result->keep_alive = (char)framing.keep;
        result->is_head = method == methods[1];
        result->referer = Py_XNewRef(shown.referer);
        result->agent = Py_XNewRef(shown.agent);
        result->client = Py_XNewRef(client);
        result->id = Py_XNewRef(id);
        if (framing.length >= 0 && !(result->length = PyLong_FromLongLong(framing.length)))
            Py_CLEAR(result);
    }
done:
    Py_DECREF(environ);
    Py_XDECREF(client);
    Py_XDECREF(id);
    Py_XDECREF(shown.referer);
    Py_XDECREF(shown.agent);
    Py_XDECREF(uri);
    Py_XDECREF(line);
    return (PyObject *)result;
unusual:
    Py_DECREF(environ);
    Py_XDECREF(client);
    Py_XDECREF(id);
    Py_XDECREF(shown.referer);
    Py_XDECREF(shown.agent);
    Py_RETURN_NONE;
}

PyObject *read_by(Reads reads, PyObject *const *args, Py_ssize_t nargs)
{
    char *data;
    Py_ssize_t size;
    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "it takes three arguments");
        return NULL;
    }
    if (Py_TYPE(args[1]) != limits_type) {
        PyErr_SetString(PyExc_TypeError, "those are no HeadLimits");
        return NULL;
    }
    if (PyBytes_AsStringAndSize(args[0], &data, &size))
        return NULL;
    Said said;
    PyObject *found = reads(data, size, (HeadLimits *)args[1], args[2], &said);
    if (found && found != Py_None)
        fronts_count(&said);
    return found;
}

PyObject *read_head(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    (void)self;
    return read_by(head_of, args, nargs);
}

int head_init(PyObject *module)
{
    (void)module;
    for (int i = 0; i < 7; i++)
        if (!(methods[i] = PyUnicode_InternFromString(method_names[i])))
            return -1;
    for (int i = 0; i < 4; i++)
        if (!(k_peer[i] = PyUnicode_InternFromString(peer_names[i])))
            return -1;
    if (!(k_proxy = PyUnicode_InternFromString("forkd.proxy")) ||
        !(k_raw_peer = PyUnicode_InternFromString("forkd.peer")) ||
        !(k_scheme = PyUnicode_InternFromString("wsgi.url_scheme")) ||
        !(k_its_peer = PyUnicode_InternFromString("peer")) || !(k_ssl = PyUnicode_InternFromString("ssl")) ||
        !(https = PyUnicode_InternFromString("https")) || !(k_host = PyUnicode_InternFromString("HTTP_HOST")) ||
        !(k_method = PyUnicode_InternFromString("REQUEST_METHOD")) ||
        !(k_path = PyUnicode_InternFromString("PATH_INFO")) ||
        !(k_query = PyUnicode_InternFromString("QUERY_STRING")) ||
        !(k_uri = PyUnicode_InternFromString("REQUEST_URI")) ||
        !(k_raw = PyUnicode_InternFromString("RAW_URI")))
        return -1;
    return 0;
}
