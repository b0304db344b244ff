/* Characters: what RFC 9110 and RFC 3986 allow where, and numbers in decimal. */

#include "native.h"

unsigned char kinds[256];

void fill_kinds(void)
{
    for (int c = 0; c < 256; c++) {
        int alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        if (alnum || (c && strchr("!#$%&'*+-.^_`|~", c)))
            kinds[c] |= TOKEN; /* RFC 9110 5.6.2 */
        if (c > 0x20 && c < 0x7f && c != '#') {
            kinds[c] |= QUERY;
            if (c != '?')
                kinds[c] |= PATH;
        }
        if (c == '\t' || (c >= 0x20 && c != 0x7f))
            kinds[c] |= TEXT; /* RFC 9110 5.5 */
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\')
            kinds[c] |= QUIET; /* in a log nothing needs an escape */
        if (alnum || (c && strchr("-._~!$&'()*+,;=", c)))
            kinds[c] |= HOST; /* RFC 3986 3.2.2, without percent-encoding and IP literals */
    }
}

const char *skip(const char *at, const char *end, int kind)
{
    while (at < end && kinds[(unsigned char)*at] & kind)
        at++;
    return at;
}

/* As `skip` for TEXT, eight bytes at a time where none is a control. */
const char *skip_text(const char *at, const char *end)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), high = ones << 7;
    while (end - at >= 8) {
        uint64_t word, del;
        memcpy(&word, at, 8);
        del = word ^ (ones * 0x7f);
        if (((word - ones * 0x20) & ~word & high) || ((del - ones) & ~del & high))
            break;
        at += 8;
    }
    return skip(at, end, TEXT);
}

/* As `skip` for QUIET, likewise. */
const char *skip_quiet(const char *at, const char *end)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), high = ones << 7;
    while (end - at >= 8) {
        uint64_t word, del, quote, backslash;
        memcpy(&word, at, 8);
        del = word ^ (ones * 0x7f);
        quote = word ^ (ones * '"');
        backslash = word ^ (ones * '\\');
        if ((word | ((word - ones * 0x20) & ~word) | ((del - ones) & ~del) | ((quote - ones) & ~quote) |
             ((backslash - ones) & ~backslash)) & high)
            break;
        at += 8;
    }
    return skip(at, end, QUIET);
}

int is(const char *text, Py_ssize_t size, const char *what)
{
    Py_ssize_t i = 0;
    for (; i < size; i++) {
        char c = text[i];
        if (c >= 'A' && c <= 'Z')
            c |= 0x20;
        if (c != what[i]) /* which also ends there */
            return 0;
    }
    return !what[i];
}

const char *ascii(PyObject *text, Py_ssize_t *size)
{
    if (!PyUnicode_CheckExact(text))
        return NULL;
    const char *found = PyUnicode_AsUTF8AndSize(text, size);
    if (!found) {
        PyErr_Clear();
        return NULL;
    }
    return *size == PyUnicode_GetLength(text) ? found : NULL;
}

char *decimal(char *at, uint64_t number)
{
    char digits[20];
    int count = 0;
    do
        digits[count++] = (char)('0' + number % 10);
    while (number /= 10);
    while (count)
        *at++ = digits[--count];
    return at;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

PyObject *percent_decoded(const char *at, Py_ssize_t size, Decode decode)
{
    if (!memchr(at, '%', size))
        return PyUnicode_DecodeLatin1(at, size, NULL);
    const char *end = at + size;
    char *buffer = PyMem_Malloc(size);
    if (!buffer)
        return PyErr_NoMemory();
    Py_ssize_t left = 0;
    while (at < end) {
        int high, low;
        if (*at == '%' && end - at > 2 && (high = hex(at[1])) >= 0 && (low = hex(at[2])) >= 0) {
            buffer[left++] = (char)(high << 4 | low);
            at += 3;
        } else {
            buffer[left++] = *at++;
        }
    }
    PyObject *text = decode(buffer, left, "replace");
    PyMem_Free(buffer);
    return text;
}
