/* The scope that a request begins with: of the service, and of its connection (twin: app/asgi/scope.py). */

#include "asgi.h"

enum {
    BUSY = 128, /* a power of two */
    MOST_DICTS = 8,
    DICT_BYTES = 32, /* of a dict, behind what each object has */
};

static PyObject *k_asgi, *k_client, *k_extensions, *k_forkd, *k_https, *k_method, *k_peer, *k_proxy, *k_query, *k_scheme, *k_server,
    *k_ssl, *k_tls, *no_bytes, *s_size;
/* Whether a dict's own bytes change whenever its content does: it has a version, up to CPython 3.13. */
static int bytes_tell;

/* A copy of a dict that is lent to one request after the other, each of which may change it: the copy and the dicts in it,
 * each before those in it, with their bytes as they were. None: it is lent once. */
typedef struct {
    int count;
    struct {
        PyObject *dict; /* borrowed */
        char bytes[DICT_BYTES];
    } of[MOST_DICTS];
} Lent;

/* Connections that were busy lately: the template with their ends in it, and what requests have of that. */
static struct busy {
    PyObject *template;
    Ends *ends;
    PyObject *scope, *extensions; /* the latter: what those of a request are copies of */
    PyObject *method;             /* in `scope`; borrowed, of those that are always there */
    Lent asgi_lent, extensions_lent;
} busy[BUSY];

/* dict[key] = value; takes the reference to value. */
static int put(PyObject *dict, PyObject *key, PyObject *value)
{
    int failed = value == NULL || PyDict_SetItem(dict, key, value);
    Py_XDECREF(value);
    return failed;
}

PyObject *asgi_address(PyObject *host, PyObject *port)
{
    const char *digits = PyUnicode_AsUTF8AndSize(port, NULL);
    PyObject *number = digits ? PyLong_FromString(digits, NULL, 10) : NULL;
    PyObject *pair = number ? PyTuple_Pack(2, host, number) : NULL;
    Py_XDECREF(number);
    return pair;
}

static const char *bytes_of(PyObject *dict)
{
    return (const char *)dict + sizeof(PyObject);
}

/* Whether it is as it was, and nobody has a dict of it. */
static int untouched(const Lent *lent)
{
    for (int i = 0; i < lent->count; i++)
        if (Py_REFCNT(lent->of[i].dict) != 1 || memcmp(lent->of[i].bytes, bytes_of(lent->of[i].dict), DICT_BYTES))
            return 0;
    return lent->count;
}

/* Note a dict and those in it. */
static void note(Lent *lent, PyObject *dict, int *fits)
{
    PyObject *key, *value;
    Py_ssize_t at = 0;
    if (!(*fits = *fits && lent->count < MOST_DICTS))
        return;
    lent->of[lent->count].dict = dict;
    memcpy(lent->of[lent->count++].bytes, bytes_of(dict), DICT_BYTES);
    while (PyDict_Next(dict, &at, &key, &value))
        if (PyDict_CheckExact(value))
            note(lent, value, fits);
}

/* Have a copy of `model` in the scope, to be lent, unless the last one is untouched. Returns 0, or -1 with an exception. */
static int lend(PyObject *scope, PyObject *key, PyObject *model, Lent *lent)
{
    int fits = bytes_tell;
    if (untouched(lent))
        return 0;
    lent->count = 0;
    PyObject *copy = dict_copied(model);
    int failed = !copy || PyDict_SetItem(scope, key, copy);
    if (!failed)
        note(lent, copy, &fits);
    if (!fits)
        lent->count = 0;
    Py_XDECREF(copy);
    return failed ? -1 : 0;
}

/* A copy of the template with the ends of a connection. New reference, or NULL with an exception. */
static PyObject *with_ends(PyObject *template, const Ends *ends)
{
    PyObject *scope = PyDict_Copy(template), *extensions = NULL, *peer = ends->client, *ssl = NULL, *tls = NULL;
    if (ends->proxy) {
        peer = PyTuple_GetItem(dict_item(ends->proxy, k_peer), 0);
        ssl = dict_item(ends->proxy, k_ssl);
        tls = ssl ? dict_item(ssl, k_tls) : NULL;
    }
    int failed = !scope || PyDict_SetItem(scope, k_query, no_bytes) || put(scope, k_server, asgi_address(ends->server, ends->port));
    if (!failed && PyUnicode_GetLength(ends->client))
        failed = put(scope, k_client, asgi_address(ends->client, ends->client_port));
    if (!failed)
        failed = !(extensions = dict_copied(dict_item(scope, k_extensions))) ||
                 PyDict_SetItem(dict_item(extensions, k_forkd), k_peer, peer) ||
                 (ends->proxy && PyDict_SetItem(dict_item(extensions, k_forkd), k_proxy, ends->proxy)) ||
                 (tls == Py_True && PyDict_SetItem(scope, k_scheme, k_https)) ||
                 PyDict_SetItem(scope, k_extensions, extensions);
    Py_XDECREF(extensions);
    if (failed)
        Py_CLEAR(scope);
    return scope;
}

/* Note a connection that is busy. Returns 0, or -1 with an exception. */
static int meet(struct busy *entry, PyObject *template, Ends *ends)
{
    PyObject *scope = with_ends(template, ends);
    if (!scope)
        return -1;
    struct busy old = *entry;
    *entry = (struct busy){.template = Py_NewRef(template), .ends = (Ends *)Py_NewRef((PyObject *)ends), .scope = scope,
                           .extensions = Py_NewRef(dict_item(scope, k_extensions))};
    Py_XDECREF(old.template);
    Py_XDECREF((PyObject *)old.ends);
    Py_XDECREF(old.scope);
    Py_XDECREF(old.extensions);
    return 0;
}

PyObject *asgi_template(PyObject *template, Ends *ends, PyObject *method, int own)
{
    struct busy *entry = &busy[((uintptr_t)ends >> 4 ^ (uintptr_t)ends >> 10) & (BUSY - 1)];
    if ((entry->ends != ends || entry->template != template) && meet(entry, template, ends))
        return NULL;
    if (entry->method != method && PyDict_SetItem(entry->scope, k_method, method))
        return NULL;
    entry->method = method;
    if (lend(entry->scope, k_asgi, dict_item(template, k_asgi), &entry->asgi_lent) ||
        (!own && lend(entry->scope, k_extensions, entry->extensions, &entry->extensions_lent)))
        return NULL;
    PyObject *scope = PyDict_Copy(entry->scope);
    if (scope && own && put(scope, k_extensions, dict_copied(entry->extensions)))
        Py_CLEAR(scope);
    return scope;
}

/* Whether they do here. Returns -1 with an exception. */
static int tried_bytes(void)
{
    char before[DICT_BYTES];
    PyObject *size = PyObject_GetAttr((PyObject *)&PyDict_Type, s_size), *dict = PyDict_New();
    int tell = size && dict && !PyDict_SetItem(dict, k_method, k_asgi) ? 1 : -1;
    if (tell > 0 && PyLong_AsSsize_t(size) != (Py_ssize_t)sizeof(PyObject) + DICT_BYTES)
        tell = 0;
    if (tell > 0) {
        memcpy(before, bytes_of(dict), DICT_BYTES);
        if (PyDict_SetItem(dict, k_method, k_client) || PyDict_SetItem(dict, k_method, k_asgi))
            tell = -1;
        else
            tell = memcmp(before, bytes_of(dict), DICT_BYTES) != 0;
    }
    Py_XDECREF(size);
    Py_XDECREF(dict);
    return tell;
}

int asgi_template_init(void)
{
    static const struct {
        PyObject **place;
        const char *text;
    } keys[] = {
        {&k_asgi, "asgi"}, {&k_client, "client"}, {&k_extensions, "extensions"}, {&k_forkd, "forkd"},
        {&k_https, "https"}, {&k_method, "method"}, {&k_peer, "peer"}, {&k_proxy, "proxy"}, {&k_query, "query_string"}, {&k_scheme, "scheme"}, {&k_server, "server"},
        {&k_ssl, "ssl"}, {&k_tls, "tls"}, {&s_size, "__basicsize__"},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!(*keys[i].place = PyUnicode_InternFromString(keys[i].text)))
            return -1;
    return (no_bytes = PyBytes_FromStringAndSize("", 0)) && (bytes_tell = tried_bytes()) >= 0 ? 0 : -1;
}
