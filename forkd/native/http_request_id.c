/* Names of requests (twin: http/request_id.py). */

#include "native.h"
#include <sys/mman.h>
#include <sys/random.h>

enum { MOST_ID = 128, ID_SIZE = 36, RANDOM_EACH = 10, POOLED = 4000 /* a multiple of that */ };

/* Random bytes, for many names at a time. The kernel zeroes the page in a process that is forked: no two processes make
 * a name of the same bytes. */
typedef struct {
    int left;
    unsigned char bytes[POOLED];
} Pool;

static Pool *pool; /* NULL: the kernel has no such pages, and each name makes a call */
static PyObject *k_field, *k_id, *k_unique;

static const unsigned char *random_bytes(unsigned char *own)
{
    if (!pool)
        return getrandom(own, RANDOM_EACH, 0) == RANDOM_EACH ? own : NULL;
    if (!pool->left) {
        for (int done = 0; done < POOLED;) { /* up to 256 bytes come at once, and whole */
            int size = POOLED - done < 256 ? POOLED - done : 256;
            if (getrandom(pool->bytes + done, size, 0) != size)
                return NULL;
            done += size;
        }
        pool->left = POOLED;
    }
    pool->left -= RANDOM_EACH;
    return pool->bytes + pool->left;
}

/* A UUID of version 7. New reference, or NULL with an exception. */
static PyObject *new_id(void)
{
    static const char digits[] = "0123456789abcdef";
    unsigned char id[16], own[RANDOM_EACH];
    const unsigned char *chance = random_bytes(own);
    struct timespec now;
    char text[ID_SIZE], *at = text;
    if (!chance)
        return PyErr_SetFromErrno(PyExc_OSError);
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    for (int i = 0; i < 6; i++)
        id[i] = (unsigned char)(ms >> (40 - 8 * i));
    memcpy(id + 6, chance, RANDOM_EACH);
    id[6] = (unsigned char)(0x70 | (id[6] & 0x0f));
    id[8] = (unsigned char)(0x80 | (id[8] & 0x3f));
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *at++ = '-';
        *at++ = digits[id[i] >> 4];
        *at++ = digits[id[i] & 15];
    }
    return PyUnicode_DecodeLatin1(text, ID_SIZE, NULL);
}

static int is_id(const char *text, Py_ssize_t size)
{
    if (!size || size > MOST_ID)
        return 0;
    for (Py_ssize_t i = 0; i < size; i++)
        if (!(((text[i] | 0x20) >= 'a' && (text[i] | 0x20) <= 'z') || (text[i] >= '0' && text[i] <= '9') ||
              text[i] == '.' || text[i] == '_' || text[i] == '-'))
            return 0;
    return 1;
}

/* Whether it is one, of a trusted peer. */
static int counts(Said *said, Piece given)
{
    return given.at && is_id(given.at, given.size) && fronts_trust(said);
}

/* One that no field has given: see choose_request_id. */
static int other_id(PyObject *proxy, PyObject **id)
{
    if (proxy && dict_item(proxy, k_unique))
        return 0;
    return (*id = new_id()) ? 1 : -1;
}

int choose_request_id(Said *said, Piece given, PyObject *proxy, PyObject **id)
{
    if (!counts(said, given))
        return other_id(proxy, id);
    return (*id = PyUnicode_DecodeLatin1(given.at, given.size, NULL)) ? 1 : -1;
}

int put_request_id(Said *said, PyObject *environ, PyObject *proxy, PyObject **id)
{
    Piece text = {NULL, 0};
    PyObject *given = dict_item(environ, k_field);
    if (given)
        text.at = ascii(given, &text.size);
    int usual = counts(said, text) ? 1 : other_id(proxy, id);
    if (usual <= 0)
        return usual;
    if (!*id)
        *id = Py_NewRef(given);
    else if (PyDict_SetItem(environ, k_field, *id))
        return -1;
    return PyDict_SetItem(environ, k_id, *id) ? -1 : 1;
}

int request_id_init(PyObject *module)
{
    (void)module;
    void *page = mmap(NULL, sizeof *pool, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page != MAP_FAILED && madvise(page, sizeof *pool, MADV_WIPEONFORK))
        munmap(page, sizeof *pool);
    else if (page != MAP_FAILED)
        pool = page;
    return !(k_field = PyUnicode_InternFromString("HTTP_X_REQUEST_ID")) ||
                   !(k_id = PyUnicode_InternFromString("forkd.request_id")) ||
                   !(k_unique = PyUnicode_InternFromString("unique_id"))
               ? -1
               : 0;
}
