/* The header of the PROXY protocol, where it comes as proxies usually send it: version 2, of TCP, without TLVs, from a
 * trusted peer, and with a call behind it that the Shortcut which follows reads. All else is the session's
 * (session/proxy_header.py, the twin). */

#include "native.h"
#include <arpa/inet.h>
#include <structmember.h>

enum { SIGNATURE = 12, FIXED = 16, PROXY = 0x21, TCP4 = 0x11, TCP6 = 0x21 };

static PyTypeObject *proxy_shortcut_type;
static PyObject *n_shortcut, *k_version, *k_transport, *k_source, *k_destination, *k_peer, *two, *tcp4, *tcp6;

typedef struct {
    Shortcut base;
    PyObject *allows;   /* whether an address is that of a trusted peer */
    PyObject *trusted;  /* the last that was */
    PyObject *opening;  /* what the connection waits in once the header was read */
    Shortcut *following; /* its shortcut */
    PyObject *destination, *destination_port; /* of the last header: see know_destination */
    unsigned char known[18];                  /* the same, as it was sent */
    Py_ssize_t known_size;                    /* bytes of its address */
} ProxyShortcut;

static int proxy_traverse(ProxyShortcut *self, visitproc visit, void *arg)
{
    Py_VISIT(self->allows);
    Py_VISIT(self->opening);
    Py_VISIT((PyObject *)self->following);
    return shortcut_traverse(&self->base, visit, arg);
}

static int proxy_clear(ProxyShortcut *self)
{
    PyObject *following = (PyObject *)self->following;
    self->following = NULL;
    Py_XDECREF(following);
    Py_CLEAR(self->allows);
    Py_CLEAR(self->opening);
    return shortcut_clear(&self->base);
}

static void proxy_dealloc(ProxyShortcut *self)
{
    PyObject_GC_UnTrack(self);
    proxy_clear(self);
    Py_CLEAR(self->trusted);
    Py_CLEAR(self->destination);
    Py_CLEAR(self->destination_port);
    release((PyObject *)self);
}

static const ShortcutFunctions functions;

/* ProxyShortcut(allows, opening): `allows(address)` says whether the peer is trusted, and `opening` is the Await, with a
 * shortcut, that a connection begins with after the header. */
static PyObject *proxy_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"allows", "opening", NULL};
    PyObject *allows, *opening, *following;
    if (!by_name(args, keywords, "OO", names, &allows, &opening))
        return NULL;
    ProxyShortcut *self = NULL;
    following = PyObject_GetAttr(opening, n_shortcut);
    if (!following || !PyObject_TypeCheck(following, shortcut_type) || !((Shortcut *)following)->functions->read)
        PyErr_SetString(PyExc_TypeError, "an opening is an Await in which calls are read");
    else if ((self = (ProxyShortcut *)allocate(type))) {
        self->base.functions = &functions;
        self->base.recorder = Py_XNewRef(((Shortcut *)following)->recorder);
        self->allows = Py_NewRef(allows);
        self->opening = Py_NewRef(opening);
        self->following = (Shortcut *)Py_NewRef(following);
    }
    Py_XDECREF(following);
    return (PyObject *)self;
}

static void exchange(PyObject **place, PyObject *with)
{
    PyObject *old = *place;
    *place = with;
    Py_XDECREF(old);
}

/* Whether the peer may send a header, or -1 with an exception. */
static int trusts(ProxyShortcut *self, PyObject *client)
{
    if (client == self->trusted)
        return 1;
    PyObject *answer = client ? PyObject_CallFunctionObjArgs(self->allows, client, NULL) : Py_NewRef(Py_False);
    int found = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    if (found > 0)
        exchange(&self->trusted, Py_NewRef(client));
    return found;
}

/* Bytes of an address in a usual header, or 0. */
static Py_ssize_t usual(const unsigned char *data, Py_ssize_t size)
{
    if (size < FIXED || memcmp(data, "\r\n\r\n\0\r\nQUIT\n", SIGNATURE) || data[12] != PROXY || data[14])
        return 0;
    return data[13] == TCP4 && data[15] == 12 ? 4 : data[13] == TCP6 && data[15] == 36 ? 16 : 0;
}

/* The text of an address; of one that is mapped in IPv6, that of the IPv4 address. New reference, or NULL. */
static PyObject *host_of(const unsigned char *address, Py_ssize_t size)
{
    static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};
    char text[INET6_ADDRSTRLEN], *at = text;
    if (size == 16 && memcmp(address, mapped, sizeof mapped))
        return PyUnicode_FromString(inet_ntop(AF_INET6, address, text, sizeof text));
    for (const unsigned char *part = address + size - 4; part < address + size; part++) {
        at = decimal(at, *part);
        *at++ = '.';
    }
    return PyUnicode_FromStringAndSize(text, at - 1 - text);
}

/* Address and port; takes the references. New reference, or NULL with an exception. */
static PyObject *end_of(PyObject *host, PyObject *port)
{
    PyObject *end = host && port ? PyTuple_Pack(2, host, port) : NULL;
    Py_XDECREF(host);
    Py_XDECREF(port);
    return end;
}

static PyObject *port_of(const unsigned char *at)
{
    return PyLong_FromLong(at[0] << 8 | at[1]);
}

static PyObject *port_text(const unsigned char *at)
{
    char text[5];
    return PyUnicode_FromStringAndSize(text, decimal(text, (uint64_t)(at[0] << 8 | at[1])) - text);
}

/* Where clients connect to, which is the same for most of them: as (address, port), and the port as text. Returns 0, or -1
 * with an exception. */
static int know_destination(ProxyShortcut *self, const unsigned char *address, Py_ssize_t size, const unsigned char *port)
{
    if (self->destination && self->known_size == size && !memcmp(self->known, address, size) &&
        !memcmp(self->known + size, port, 2))
        return 0;
    PyObject *end = end_of(host_of(address, size), port_of(port)), *text = end ? port_text(port) : NULL;
    if (!text) {
        Py_XDECREF(end);
        return -1;
    }
    exchange(&self->destination, end);
    exchange(&self->destination_port, text);
    memcpy(self->known, address, size);
    memcpy(self->known + size, port, 2);
    self->known_size = size;
    return 0;
}

/* What the header says, for applications, with the peer's own address. New reference, or NULL with an exception. */
static PyObject *facts_of(PyObject *source, PyObject *destination, Py_ssize_t size, const Link *link)
{
    PyObject *peer = end_of(Py_NewRef(link->client), PyNumber_Long(((Ends *)link->note)->client_port));
    PyObject *facts = peer ? PyDict_New() : NULL;
    if (facts && (PyDict_SetItem(facts, k_version, two) || PyDict_SetItem(facts, k_transport, size == 4 ? tcp4 : tcp6) ||
                  PyDict_SetItem(facts, k_source, source) || PyDict_SetItem(facts, k_destination, destination) ||
                  PyDict_SetItem(facts, k_peer, peer)))
        Py_CLEAR(facts);
    Py_XDECREF(peer);
    return facts;
}

/* The ends that are in the header. New reference, or NULL with an exception. */
static PyObject *note_of(PyObject *source, PyObject *source_port, const ProxyShortcut *self, PyObject *facts)
{
    PyObject *host = PyTuple_GetItem(self->destination, 0);
    return ends_made(host, self->destination_port, PyTuple_GetItem(source, 0), source_port, facts);
}

/* The ends of the connection are those of the header. Returns 0, or -1 with an exception. */
static int take(ProxyShortcut *self, Link *link, const unsigned char *addresses, Py_ssize_t size)
{
    const unsigned char *ports = addresses + 2 * size;
    if (know_destination(self, addresses + size, size, ports + 2))
        return -1;
    PyObject *source = end_of(host_of(addresses, size), port_of(ports)), *port = source ? port_text(ports) : NULL;
    PyObject *facts = port ? facts_of(source, self->destination, size, link) : NULL;
    PyObject *note = facts ? note_of(source, port, self, facts) : NULL;
    if (note) {
        link->note = note;
        link->client = Py_NewRef(PyTuple_GetItem(source, 0));
    }
    Py_XDECREF(source);
    Py_XDECREF(port);
    Py_XDECREF(facts);
    return note ? 0 : -1;
}

static Outcome proxy_read(Shortcut *shortcut, const char *data, Py_ssize_t size, Link *link, Call **call)
{
    ProxyShortcut *self = (ProxyShortcut *)shortcut;
    Py_ssize_t address = usual((const unsigned char *)data, size), header = FIXED + 2 * (address + 2);
    if (!address || size <= header || !link->note || Py_TYPE(link->note) != ends_type)
        return NOT_USUAL;
    int trusted = trusts(self, link->client);
    if (trusted <= 0)
        return trusted ? FAILED : NOT_USUAL;
    PyObject *client = link->client, *note = link->note, *op = link->op;
    if (take(self, link, (const unsigned char *)data + FIXED, address))
        return FAILED;
    link->op = Py_NewRef(self->opening);
    Outcome outcome = self->following->functions->read(self->following, data + header, size - header, link, call);
    if (outcome == CALL) {
        Py_DECREF(client);
        Py_DECREF(note);
        Py_DECREF(op);
    } else { /* the session reads the header once more */
        exchange(&link->client, client);
        exchange(&link->note, note);
        exchange(&link->op, op);
    }
    return outcome;
}

static Outcome proxy_call(Shortcut *shortcut, Link *link, Call *call, PyObject **answer)
{
    Shortcut *following = ((ProxyShortcut *)shortcut)->following;
    return following->functions->call(following, link, call, answer);
}

static int64_t proxy_end(Shortcut *shortcut, Call *call)
{
    Shortcut *following = ((ProxyShortcut *)shortcut)->following;
    return following->functions->end(following, call);
}

static int proxy_gone(Shortcut *shortcut, Link *link, Call *call)
{
    Shortcut *following = ((ProxyShortcut *)shortcut)->following;
    return following->functions->gone(following, link, call);
}

/* A Connection has a session, which waits for the header. */
static int proxy_takes(const Shortcut *shortcut, const Link *link)
{
    (void)shortcut;
    return link->bare;
}

static const ShortcutFunctions functions = {
    .read = proxy_read, .call = proxy_call, .end = proxy_end, .gone = proxy_gone, .takes = proxy_takes,
};

static PyType_Slot slots[] = {
    {Py_tp_new, proxy_new},
    {Py_tp_traverse, proxy_traverse},
    {Py_tp_clear, proxy_clear},
    {Py_tp_dealloc, proxy_dealloc},
    {0, NULL},
};

static PyType_Spec spec = {
    "forkd._native.ProxyShortcut", sizeof(ProxyShortcut), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots,
};

int proxy_init(PyObject *module)
{
    static const struct {
        PyObject **place;
        const char *text;
    } texts[] = {
        {&n_shortcut, "shortcut"}, {&k_version, "version"}, {&k_transport, "transport"}, {&k_source, "source"},
        {&k_destination, "destination"}, {&k_peer, "peer"}, {&tcp4, "tcp4"}, {&tcp6, "tcp6"},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!(*texts[i].place = PyUnicode_InternFromString(texts[i].text)))
            return -1;
    two = PyLong_FromLong(2);
    proxy_shortcut_type = (PyTypeObject *)PyType_FromSpecWithBases(&spec, (PyObject *)shortcut_type);
    return !two || !proxy_shortcut_type ||
                   PyModule_AddObjectRef(module, "ProxyShortcut", (PyObject *)proxy_shortcut_type)
               ? -1
               : 0;
}
