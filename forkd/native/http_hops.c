/* The hops of a list that proxies append to, and which of them are trusted (twins: http/hops.py, system/networks.py). */

#include "http_hops.h"
#include <stdlib.h>

enum { MOST_HOP = 100 }; /* bytes of an element */

static int parse_network(Network *network, const char *text)
{
    char address[INET6_ADDRSTRLEN];
    const char *slash = strchr(text, '/');
    if (!slash || slash - text >= (Py_ssize_t)sizeof address)
        return -1;
    memcpy(address, text, slash - text);
    address[slash - text] = 0;
    network->size = strchr(address, ':') ? 16 : 4;
    network->prefix = atoi(slash + 1);
    return inet_pton(network->size == 4 ? AF_INET : AF_INET6, address, network->network) == 1 ? 0 : -1;
}

int networks_read(Networks *self, PyObject *cidrs, int over_unix)
{
    Py_ssize_t count = PyTuple_Size(cidrs);
    self->over_unix = over_unix;
    self->all = PyMem_Calloc(count + 1, sizeof *self->all);
    for (; self->all && self->count < count; self->count++) {
        const char *text = PyUnicode_AsUTF8AndSize(PyTuple_GetItem(cidrs, self->count), NULL);
        if (!text || parse_network(&self->all[self->count], text))
            return -1;
    }
    return self->all ? 0 : -1;
}

static int trusts(const Networks *self, const unsigned char *address, int size)
{
    for (int i = 0; i < self->count; i++) {
        const Network *network = &self->all[i];
        int bytes = network->prefix / 8, bits = network->prefix % 8;
        if (network->size == size && !memcmp(network->network, address, bytes) &&
            (!bits || !((network->network[bytes] ^ address[bytes]) >> (8 - bits))))
            return 1;
    }
    return 0;
}



/* As inet_pton reads IPv4, which takes no leading zeros. */
static int read_ipv4(Piece text, unsigned char *address)
{
    const char *at = text.at, *end = at + text.size;
    for (int i = 0; i < 4; i++) {
        int number = 0, first = at < end ? *at : 0, count = 0;
        for (; at < end && *at >= '0' && *at <= '9' && count < 4; at++, count++)
            number = number * 10 + (*at - '0');
        if (!count || number > 255 || (first == '0' && count > 1) || (i < 3 ? at == end || *at++ != '.' : at < end))
            return 0;
        address[i] = (unsigned char)number;
    }
    return 4;
}

/* IPv6 in its canonical form, if that has no "::"; most clients have such an address. */
static int read_plain_ipv6(Piece text, unsigned char *address)
{
    int group = 0, digits = 0, value = 0, former = -1;
    for (Py_ssize_t i = 0; i <= text.size; i++) {
        char c = i < text.size ? text.at[i] : ':';
        if (c == ':') {
            if (!digits || group == 8 || (!value && !former))
                return 0;
            address[2 * group] = (unsigned char)(value >> 8);
            address[2 * group++ + 1] = (unsigned char)value;
            former = value;
            digits = value = 0;
            continue;
        }
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0 || digits == 4 || (digits++ && !value))
            return 0;
        value = value << 4 | digit;
    }
    return group == 8 ? 16 : 0;
}

/* Reads an address from its text; IPv4 that is mapped in IPv6 is IPv4. Returns its size, or 0 when it is none. */
static int read_address(Piece text, int family, unsigned char *address)
{
    static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    char copy[MOST_HOP + 1];
    if (family == AF_INET)
        return read_ipv4(text, address);
    if (text.size > MOST_HOP)
        return 0;
    memcpy(copy, text.at, text.size);
    copy[text.size] = 0;
    char *zone = strchr(copy, '%');
    if (zone)
        *zone = 0;
    if (inet_pton(AF_INET6, copy, address) != 1)
        return 0;
    if (memcmp(address, mapped, sizeof mapped))
        return 16;
    memmove(address, address + sizeof mapped, 4);
    return 4;
}

/* [at, end), which begins with "_", as a name in place of an address or of a port (RFC 7239 6.3). */
static int is_obfuscated(const char *at, const char *end)
{
    const char *first = ++at;
    while (at < end && (kinds[(unsigned char)*at] & HOST) && !strchr("~!$&'()*+,;=", *at))
        at++;
    return at == end && at > first;
}

/* [at, end) as ":" and a port, or nothing; the number of an obfuscated one is not known. */
static int read_port(const char *at, const char *end, Piece *port)
{
    long number = 0;
    *port = (Piece){at, 0};
    if (at == end)
        return 1;
    if (*at++ != ':' || at == end)
        return 0;
    if (*at == '_')
        return is_obfuscated(at, end);
    *port = (Piece){at, end - at};
    if (port->size > 5)
        return 0;
    for (; at < end; at++) {
        if (*at < '0' || *at > '9')
            return 0;
        number = number * 10 + (*at - '0');
    }
    while (port->size > 1 && *port->at == '0') {
        port->at++;
        port->size--;
    }
    return number <= 65535;
}

/* `family`: AF_INET, or AF_INET6 for that or IPv4 within. */
static int read_hop_address(Hop *hop, int family)
{
    hop->canonical = 1;
    hop->size = family == AF_INET ? read_ipv4(hop->text, hop->address) : read_plain_ipv6(hop->text, hop->address);
    if (!hop->size && family == AF_INET6) {
        hop->canonical = 0;
        hop->size = read_address(hop->text, family, hop->address);
    }
    return hop->size > 0;
}

int read_hop(Piece text, Hop *hop)
{
    const char *at = text.at, *end = at + text.size;
    hop->port = (Piece){end, 0};
    if (text.size == 5 && !memcmp(at, "unix:", 5)) {
        hop->size = 0;
        return 1;
    }
    if (*at == '[') {
        const char *close = memchr(at, ']', text.size);
        if (!close || !read_port(close + 1, end, &hop->port))
            return 0;
        hop->text = (Piece){at + 1, close - at - 1};
        return read_hop_address(hop, AF_INET6);
    }
    while (at < end && ((*at >= '0' && *at <= '9') || *at == '.'))
        at++;
    if (at > text.at && read_port(at, end, &hop->port)) {
        hop->text = (Piece){text.at, at - text.at};
        return read_hop_address(hop, AF_INET);
    }
    hop->port = (Piece){end, 0};
    hop->text = text;
    return memchr(text.at, ':', text.size) && read_hop_address(hop, AF_INET6);
}

static int is_trusted(const Networks *self, const Hop *hop)
{
    return hop->size ? trusts(self, hop->address, hop->size) : self->over_unix;
}

/* The last element of a list in [at, *end), without white space; *end is where what is left of it ends. Empty ones are
 * none. Returns 0 when there are no more. */
static int last_element(const char *at, const char **end, Piece *element)
{
    while (*end > at) {
        const char *stop = *end, *start = stop;
        while (start > at && start[-1] != ',')
            start--;
        *end = start > at ? start - 1 : at;
        while (stop > start && (stop[-1] == ' ' || stop[-1] == '\t'))
            stop--;
        while (start < stop && (*start == ' ' || *start == '\t'))
            start++;
        if (start < stop) {
            *element = (Piece){start, stop - start};
            return 1;
        }
    }
    return 0;
}

/* The hop of an element that was the last trusted one, too. */
static int is_last_trusted(const Networks *self, Piece text, Hop *hop)
{
    if (text.size != self->text_size || memcmp(text.at, self->text, text.size))
        return 0;
    hop->canonical = 1;
    hop->size = self->address_size;
    memcpy(hop->address, self->address, sizeof hop->address);
    hop->text = text;
    hop->port = (Piece){text.at + text.size, 0};
    return 1;
}

static void keep_trusted(Networks *self, Piece text, const Hop *hop)
{
    if (!hop->size || !hop->canonical || hop->text.size != text.size || text.size >= (Py_ssize_t)sizeof self->text)
        return;
    memcpy(self->text, text.at, text.size);
    memcpy(self->address, hop->address, sizeof self->address);
    self->text_size = (int)text.size;
    self->address_size = hop->size;
}

/* A hop that is hidden on purpose, as most write it: one with a port is the twin's. */
static int is_hidden(Piece text)
{
    return *text.at == '_' ? is_obfuscated(text.at, text.at + text.size) : is(text.at, text.size, "unknown");
}

int find_client(Networks *self, Piece list, Hop *client)
{
    const char *end = list.at + list.size;
    int known = 0;
    Piece element;
    while (last_element(list.at, &end, &element)) {
        Hop hop;
        if (is_last_trusted(self, element, client)) {
            known = 1;
            continue;
        }
        if (element.size > MOST_HOP)
            return -1;
        if (!read_hop(element, &hop)) {
            if (!is_hidden(element))
                return -1; /* malformed, which the twin counts */
            break;
        }
        *client = hop;
        known = 1;
        if (!is_trusted(self, &hop))
            break;
        keep_trusted(self, element, &hop);
    }
    return known;
}

PyObject *text_of_hop(const Hop *hop)
{
    char text[INET6_ADDRSTRLEN];
    if (hop->size && hop->canonical)
        return PyUnicode_DecodeLatin1(hop->text.at, hop->text.size, NULL);
    if (hop->size == 0)
        return PyUnicode_FromStringAndSize(NULL, 0);
    return PyUnicode_FromString(inet_ntop(hop->size == 4 ? AF_INET : AF_INET6, hop->address, text, sizeof text));
}

int is_trusted_peer(const Networks *self, PyObject *peer)
{
    Py_ssize_t size;
    const char *text = ascii(peer, &size);
    unsigned char address[16];
    if (!text)
        return 0;
    if (!size)
        return self->over_unix;
    int found = read_address((Piece){text, size}, memchr(text, ':', size) ? AF_INET6 : AF_INET, address);
    return found && trusts(self, address, found);
}
