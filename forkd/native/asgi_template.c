/* The scope that a request begins with: of the service, and of its connection (twin: app/asgi/scope.py). */

#include "asgi.h"

enum { BUSY = 128 /* a power of two */ };

static PyObject *k_asgi, *k_client, *k_extensions, *k_forkd, *k_https, *k_peer, *k_proxy, *k_scheme, *k_server, *k_ssl, *k_tls;

/* Connections that were busy lately: the template with their ends in it; and what a request has had of it that it may
 * change. */
static struct busy {
    PyObject *template;
    Ends *ends;
    PyObject *scope, *asgi, *extensions;
    PyObject *asgi_model, *extensions_model; /* in `scope`; borrowed */
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

/* Whether such a copy is as it was, with the very same keys and values, and nobody has a dict in it. */
static int untouched(PyObject *copy, PyObject *model)
{
    PyObject *key, *value, *its_key, *its_value;
    Py_ssize_t at = 0, its_at = 0;
    if (Py_REFCNT(copy) != 1 || PyDict_Size(copy) != PyDict_Size(model))
        return 0;
    if (!PyDict_Size(copy)) /* most extensions */
        return 1;
    while (PyDict_Next(model, &at, &key, &value)) /* in the same order, too */
        if (!PyDict_Next(copy, &its_at, &its_key, &its_value) || its_key != key ||
            (its_value != value && (!PyDict_CheckExact(its_value) || !PyDict_CheckExact(value) || !untouched(its_value, value))))
            return 0;
    return 1;
}

/* A copy for a request, which may change it: the one of before, if that is untouched. New reference. */
static PyObject *fresh(PyObject **kept, PyObject *model)
{
    if (!*kept || !untouched(*kept, model)) {
        PyObject *old = *kept;
        *kept = dict_copied(model);
        Py_XDECREF(old);
    }
    return Py_XNewRef(*kept);
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
    int failed = !scope || put(scope, k_server, asgi_address(ends->server, ends->port));
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

PyObject *asgi_template(PyObject *template, Ends *ends, int own)
{
    struct busy *entry = &busy[((uintptr_t)ends >> 4 ^ (uintptr_t)ends >> 10) & (BUSY - 1)];
    if (entry->ends != ends || entry->template != template) {
        PyObject *made = with_ends(template, ends);
        if (!made)
            return NULL;
        struct busy old = *entry;
        *entry = (struct busy){Py_NewRef(template), (Ends *)Py_NewRef((PyObject *)ends), made, NULL, NULL,
                               dict_item(made, k_asgi), dict_item(made, k_extensions)};
        Py_XDECREF(old.template);
        Py_XDECREF((PyObject *)old.ends);
        Py_XDECREF(old.scope);
        Py_XDECREF(old.asgi);
        Py_XDECREF(old.extensions);
    }
    PyObject *scope = PyDict_Copy(entry->scope);
    if (scope && (put(scope, k_asgi, fresh(&entry->asgi, entry->asgi_model)) ||
                  put(scope, k_extensions, own ? dict_copied(entry->extensions_model)
                                               : fresh(&entry->extensions, entry->extensions_model))))
        Py_CLEAR(scope);
    return scope;
}

int asgi_template_init(void)
{
    static const struct {
        PyObject **place;
        const char *text;
    } keys[] = {
        {&k_asgi, "asgi"}, {&k_client, "client"}, {&k_extensions, "extensions"}, {&k_forkd, "forkd"},
        {&k_https, "https"}, {&k_peer, "peer"}, {&k_proxy, "proxy"}, {&k_scheme, "scheme"}, {&k_server, "server"},
        {&k_ssl, "ssl"}, {&k_tls, "tls"},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!(*keys[i].place = PyUnicode_InternFromString(keys[i].text)))
            return -1;
    return 0;
}
