/* Which hosts a request may be for (twin: system/hosts.py). It says yes to what is plainly in the set; anything else is
 * for the twin: IPv6 addresses, and what is not in it. */

#include "native.h"

enum { MOST_HOST = 256, MOST_PORT_DIGITS = 5 }; /* bytes of a host without its port; digits without zeros in front */

typedef struct {
    const char *name, *port; /* `name` without `*` and a dot in front; an empty port: any */
    Py_ssize_t size, port_size;
    int exact, below; /* the name itself; those below it */
} Pattern;

struct Hosts {
    PyObject_HEAD
    PyObject *patterns; /* which has the texts */
    Py_ssize_t count;
    Pattern *all;
};

PyTypeObject *hosts_type;

static int is_usual_port(const char *port, Py_ssize_t size)
{
    return (size == 2 && !memcmp(port, "80", 2)) || (size == 3 && !memcmp(port, "443", 3));
}

static int fits(const Pattern *pattern, const char *port, Py_ssize_t size)
{
    if (!pattern->port_size || (size == pattern->port_size && !memcmp(port, pattern->port, size)))
        return 1;
    return !size && is_usual_port(pattern->port, pattern->port_size);
}

int hosts_have(const Hosts *self, const char *host, Py_ssize_t size)
{
    char name[MOST_HOST];
    const char *colon = memchr(host, ':', size), *port = host + size;
    Py_ssize_t port_size = 0;
    if (colon) {
        for (port = colon + 1; port < host + size && *port == '0';)
            port++;
        port_size = host + size - port;
        size = colon - host;
        if (!port_size && port > colon + 1) /* 0 */
            return 0;
        for (Py_ssize_t i = 0; i < port_size; i++)
            if (port[i] < '0' || port[i] > '9')
                return 0;
        if (port_size > MOST_PORT_DIGITS || (port_size == MOST_PORT_DIGITS && memcmp(port, "65535", port_size) > 0))
            return 0;
    }
    if (size && host[size - 1] == '.')
        size--;
    if (!size || size > MOST_HOST)
        return 0;
    for (Py_ssize_t i = 0; i < size; i++) {
        if (host[i] == '.' && (!i || host[i - 1] == '.')) /* an empty label */
            return 0;
        name[i] = host[i] >= 'A' && host[i] <= 'Z' ? (char)(host[i] + 0x20) : host[i];
    }
    for (Py_ssize_t i = 0; i < self->count; i++) {
        const Pattern *pattern = &self->all[i];
        Py_ssize_t more = size - pattern->size;
        if (more < 0 || memcmp(name + more, pattern->name, pattern->size) || !fits(pattern, port, port_size))
            continue;
        if (more ? pattern->below && name[more - 1] == '.' : pattern->exact)
            return 1;
    }
    return 0;
}

static void hosts_dealloc(Hosts *self)
{
    Py_CLEAR(self->patterns);
    PyMem_Free(self->all);
    release((PyObject *)self);
}

/* Hosts(patterns): as Hosts.patterns of the twin, a tuple of str. */
static PyObject *hosts_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"patterns", NULL};
    PyObject *patterns;
    if (!by_name(args, keywords, "O!", names, &PyTuple_Type, &patterns))
        return NULL;
    Hosts *self = (Hosts *)allocate(type);
    if (!self)
        return NULL;
    self->patterns = Py_NewRef(patterns);
    Py_ssize_t count = PyTuple_Size(patterns);
    if (!(self->all = PyMem_Calloc(count + 1, sizeof *self->all))) {
        Py_DECREF((PyObject *)self);
        return PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_ssize_t size;
        const char *text = ascii(PyTuple_GetItem(patterns, i), &size);
        if (!text || !size || *text == '[')
            continue;
        Pattern *pattern = &self->all[self->count++];
        pattern->exact = *text != '*';
        pattern->below = *text == '*' || *text == '.';
        while (size && (*text == '*' || *text == '.'))
            text++, size--;
        const char *colon = memchr(text, ':', size);
        pattern->name = text;
        pattern->size = colon ? colon - text : size;
        pattern->port = colon ? colon + 1 : text + size;
        pattern->port_size = text + size - pattern->port;
    }
    return (PyObject *)self;
}

static PyObject *has(Hosts *self, PyObject *host)
{
    Py_ssize_t size;
    const char *text = ascii(host, &size);
    return PyBool_FromLong(text && hosts_have(self, text, size));
}

static PyMethodDef methods[] = {
    {"has", (PyCFunction)has, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, hosts_new},
    {Py_tp_dealloc, hosts_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {"forkd._native.Hosts", sizeof(Hosts), 0, Py_TPFLAGS_DEFAULT, slots};

int hosts_init(PyObject *module)
{
    hosts_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return !hosts_type || PyModule_AddObjectRef(module, "Hosts", (PyObject *)hosts_type) ? -1 : 0;
}
