/* Hops of proxies, and networks that are trusted: what http_hops.c has for http_forwarded.c. */

#ifndef FORKD_HTTP_HOPS_H
#define FORKD_HTTP_HOPS_H

#include "native.h"
#include <arpa/inet.h>

typedef struct {
    int size, prefix; /* bytes of an address; bits */
    unsigned char network[16];
} Network;

typedef struct {
    Network *all;
    Py_ssize_t count;
    int over_unix; /* peers over unix sockets are trusted */
    /* The hop that was trusted last, for a front comes again; its text, if that is an address alone. */
    unsigned char address[16];
    int address_size, text_size;
    char text[INET6_ADDRSTRLEN];
} Networks;

typedef struct {
    unsigned char address[16];
    int size;          /* 0: over a unix socket */
    int canonical;     /* `text` is */
    Piece text, port;  /* as it is written; an empty port: there is none */
} Hop;

/* From a tuple of canonical CIDRs; `all` is the caller's to free. Returns 0, or -1. */
int networks_read(Networks *self, PyObject *cidrs, int over_unix);
/* Whether the peer is trusted, whose address is a str; empty over a unix socket. */
int is_trusted_peer(const Networks *self, PyObject *peer);
/* The hop that an element names, which is not empty. Returns 0 for one that names none. */
int read_hop(Piece text, Hop *hop);
/* As hops.find_client, but for the place. Returns 1; 0, when no hop is known; -1: that is for the twin. */
int find_client(Networks *self, Piece list, Hop *client);
/* The canonical text of a hop's address. New reference. */
PyObject *text_of_hop(const Hop *hop);

#endif
