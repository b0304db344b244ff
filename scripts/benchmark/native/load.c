/* Load that wrk has no means for: messages of our own, two kinds of them, or a fixed rate.
 *
 *   load [-o OPENING] PORT CONNECTIONS SECONDS RATE USUAL LENGTH [RARE LENGTH]
 *
 * With OPENING a connection begins with the contents of that file, as a WebSocket does with its handshake, and
 * what answers it ends with the first empty line.
 * Each connection sends the contents of the file USUAL and waits for LENGTH bytes; one in a hundred,
 * at random, sends RARE instead. RATE 0 is a closed loop: the next message follows at once. Otherwise
 * RATE messages a second are due, and the latency of one counts from when it was due, so that a
 * server that stalls cannot hide those that it kept from being sent.
 * Each connection is served once before it begins, so that accepting is not part of what is measured;
 * then it prints a line. At the end it prints, and waits for the end of its input to close them:
 * messages answered, errors, and p50 and p99 of the usual ones in milliseconds. */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1 << 24, ONE_IN = 100 };

struct message { char *bytes; size_t size, answer; };
struct client { int fd, rare; size_t missing; double begun; struct client *next; };

static struct message messages[2], opening;
static int kinds, set, port;
static long answered, errors;
static float *latencies;
static size_t measured;
static struct client *idle, **idle_end = &idle; /* first in, first out: all take part */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what) { perror(what); exit(1); }

static void rest(struct client *c)
{
    c->next = NULL;
    *idle_end = c;
    idle_end = &c->next;
}

static void open_up(int fd)
{
    const char *end = "\r\n\r\n", *next = end;
    char byte;
    if (send(fd, opening.bytes, opening.size, MSG_NOSIGNAL) != (ssize_t)opening.size) fail("send");
    while (*next) {
        if (recv(fd, &byte, 1, 0) != 1) fail("the answer to the opening");
        next = byte == *next ? next + 1 : byte == *end ? end + 1 : end;
    }
}

static void dial(struct client *c)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct epoll_event watch = {.events = EPOLLIN, .data.ptr = c};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (void *)&address, sizeof address)) fail("connect");
    if (opening.size) open_up(c->fd);
    epoll_ctl(set, EPOLL_CTL_ADD, c->fd, &watch);
}

static void ask(struct client *c, double due)
{
    static uint64_t state = 88172645463325252u; /* xorshift: the same choices in every run */
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    c->rare = kinds > 1 && state % ONE_IN == 0;
    struct message *m = &messages[c->rare];
    c->missing = m->answer;
    c->begun = due;
    if (send(c->fd, m->bytes, m->size, MSG_NOSIGNAL) != (ssize_t)m->size) errors++;
}

/* Whether the answer of c is complete. */
static int take(struct client *c)
{
    static char buffer[1 << 16];
    ssize_t size = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (size <= 0 || (size_t)size > c->missing) {
        errors++;
        close(c->fd);
        dial(c);
        return 1;
    }
    if (c->missing -= size) return 0;
    answered++;
    if (!c->rare && measured < MOST) latencies[measured++] = (now() - c->begun) * 1e3;
    return 1;
}

static void load_message(struct message *m, const char *path, const char *length)
{
    FILE *file = fopen(path, "rb");
    if (!file) fail(path);
    m->bytes = malloc(1 << 16);
    m->size = fread(m->bytes, 1, 1 << 16, file);
    m->answer = atol(length);
    fclose(file);
}

static int compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc > 2 && !strcmp(argv[1], "-o")) {
        load_message(&opening, argv[2], "0");
        argc -= 2, argv += 2;
    }
    if (argc < 7) return 2;
    struct epoll_event events[256];
    int count = atoi(argv[2]);
    double rate = atof(argv[4]), end, due;
    struct client *clients = calloc(count, sizeof *clients);

    port = atoi(argv[1]);
    set = epoll_create1(0);
    latencies = malloc(MOST * sizeof *latencies);
    for (int i = 5; i + 1 < argc && kinds < 2; i += 2)
        load_message(&messages[kinds++], argv[i], argv[i + 1]);
    for (int i = 0; i < count; i++) {
        dial(&clients[i]);
        ask(&clients[i], now());
    }
    for (int missing = count; missing;) {
        int ready = epoll_wait(set, events, 256, -1);
        for (int i = 0; i < ready; i++)
            if (take(events[i].data.ptr)) missing--, rest(events[i].data.ptr);
    }
    answered = errors = measured = 0;
    puts("ready"), fflush(stdout);
    due = now(), end = due + atof(argv[3]);
    for (double at; (at = now()) < end;) {
        for (; idle && (!rate || due <= at); due += rate ? 1 / rate : 0) {
            struct client *c = idle;
            if (!(idle = c->next)) idle_end = &idle;
            ask(c, rate ? due : now());
        }
        int ready = epoll_wait(set, events, 256, rate ? 0 : 100); /* spins: it has a core of its own */
        for (int i = 0; i < ready; i++) {
            struct client *c = events[i].data.ptr;
            if (take(c)) rest(c);
        }
    }
    qsort(latencies, measured, sizeof *latencies, compare);
    printf("%ld %ld %.4f %.4f\n", answered, errors, measured ? latencies[measured / 2] : 0.0,
           measured ? latencies[(size_t)(measured * 0.99)] : 0.0);
    fflush(stdout);
    while (getchar() != EOF) continue;
}
