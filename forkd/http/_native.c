/* Usual heads, in one pass each: a request head to a WSGI environ, a status and headers to bytes.
 *
 * Pure functions without sockets, for http/usual.py, which says what they are for and has their twins
 * in Python. They only ever accept: whatever is not plainly usual comes back as None, and Python, which
 * knows every rule and every error, looks at it. So this file has no error of its own to report, and
 * must never accept what Python would refuse (tests/http/test_usual.py compares the two).
 *
 * Stable ABI (PEP 384) of Python 3.11. All is done under the GIL, and nothing is kept between calls but
 * the memo of names.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { TOKEN = 1, PATH = 2, QUERY = 4, TEXT = 8, HOST = 16 };

static unsigned char kinds[256];

static void fill_kinds(void)
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
        if (alnum || (c && strchr("-._~!$&'()*+,;=", c)))
            kinds[c] |= HOST; /* RFC 3986 3.2.2, without percent-encoding and IP literals */
    }
}

static const char *skip(const char *at, const char *end, int kind)
{
    while (at < end && kinds[(unsigned char)*at] & kind)
        at++;
    return at;
}

/* As `skip` for TEXT, eight bytes at a time where none is a control. */
static const char *skip_text(const char *at, const char *end)
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

static int is(const char *text, Py_ssize_t size, const char *what)
{
    /* ASCII case-insensitively; `what` is lower case. */
    if ((size_t)size != strlen(what))
        return 0;
    for (Py_ssize_t i = 0; i < size; i++) {
        char c = text[i];
        if (c >= 'A' && c <= 'Z')
            c |= 0x20;
        if (c != what[i])
            return 0;
    }
    return 1;
}

/* ---- environ keys ------------------------------------------------------------------------- */

enum { MOST_NAME = 64, MEMO = 1024 }; /* MEMO: a power of two */

static struct memo {
    Py_ssize_t size;
    char key[MOST_NAME];
    PyObject *text;
} memo[MEMO];

/* A str for an environ key, made once. New reference. */
static PyObject *key_text(const char *key, Py_ssize_t size)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (Py_ssize_t i = 0; i < size; i++)
        hash = (hash ^ (unsigned char)key[i]) * 16777619u;
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

static PyObject *methods[7], *k_method, *k_path, *k_query, *k_uri, *k_raw;
static const char *const method_names[7] = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"};

/* environ[key] = value; takes the reference to value. */
static int put(PyObject *environ, PyObject *key, PyObject *value)
{
    int failed = value == NULL || PyDict_SetItem(environ, key, value);
    Py_XDECREF(value);
    return failed;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Percent-decoded, as urllib.parse.unquote_to_bytes does: what is no %XX stays. */
static PyObject *decoded(const char *at, const char *end)
{
    if (!memchr(at, '%', end - at))
        return PyUnicode_DecodeLatin1(at, end - at, NULL);
    char *buffer = PyMem_Malloc(end - at);
    if (!buffer)
        return PyErr_NoMemory();
    Py_ssize_t size = 0;
    while (at < end) {
        int high, low;
        if (*at == '%' && end - at > 2 && (high = hex(at[1])) >= 0 && (low = hex(at[2])) >= 0) {
            buffer[size++] = (char)(high << 4 | low);
            at += 3;
        } else {
            buffer[size++] = *at++;
        }
    }
    PyObject *text = PyUnicode_DecodeLatin1(buffer, size, NULL);
    PyMem_Free(buffer);
    return text;
}

static int usual_host(const char *at, const char *end)
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

/* One field into environ. Returns 1, 0 when it is not usual, or -1 with an exception. */
static int field(PyObject *environ, const char **place, const char *end, int *hosts, int *keep)
{
    char key[MOST_NAME] = "HTTP_";
    Py_ssize_t size = 5;
    const char *at = *place;
    int dropped = 0;
    for (; at < end && kinds[(unsigned char)*at] & TOKEN; at++) {
        char c = *at;
        if (size == MOST_NAME)
            return 0;
        if (c == '_')
            dropped = 1; /* it would pass for the same name with hyphens */
        key[size++] = c == '-' ? '_' : c >= 'a' && c <= 'z' ? (char)(c - 0x20) : c;
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
    /* What frames or upgrades a message is for the twin. */
    switch (length) {
    case 4:
        if (!memcmp(name, "HOST", 4) && ((*hosts)++ || !usual_host(value, at)))
            return 0;
        break;
    case 6:
        if (!memcmp(name, "EXPECT", 6))
            return 0;
        break;
    case 7:
        if (!memcmp(name, "UPGRADE", 7))
            return 0;
        break;
    case 10:
        if (!memcmp(name, "CONNECTION", 10)) {
            if (is(value, at - value, "close"))
                *keep = 0;
            else if (!is(value, at - value, "keep-alive"))
                return 0;
        }
        break;
    case 12:
        if (!memcmp(name, "CONTENT_TYPE", 12)) {
            memmove(key, key + 5, 12);
            size = 12;
        }
        break;
    case 14:
        if (!memcmp(name, "CONTENT_LENGTH", 14))
            return 0;
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
    PyObject *text = key_text(key, size);
    if (!text)
        return -1;
    Py_ssize_t before = PyDict_Size(environ);
    int failed = put(environ, text, PyUnicode_DecodeLatin1(value, at - value, NULL));
    Py_DECREF(text);
    if (failed)
        return -1;
    return PyDict_Size(environ) > before; /* a repeated field is not usual */
}

PyDoc_STRVAR(environ_doc, "environ(data, most, fields, template) -> (end, method, line, keep_alive, environ)\n\n"
                          "None when the head is not complete, larger than `most` bytes, or unusual.");

static PyObject *environ_of(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    char *data;
    Py_ssize_t size;
    (void)self;
    if (nargs != 4) {
        PyErr_SetString(PyExc_TypeError, "environ takes four arguments");
        return NULL;
    }
    if (PyBytes_AsStringAndSize(args[0], &data, &size))
        return NULL;
    Py_ssize_t most = PyLong_AsSsize_t(args[1]), fields = PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred())
        return NULL;
    const char *end = data + (size < most ? size : most), *at = data;

    PyObject *method = NULL;
    for (int i = 0; i < 7 && !method; i++) {
        Py_ssize_t length = strlen(method_names[i]);
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

    PyObject *environ = PyDict_Copy(args[3]), *uri = NULL, *line = NULL, *result = NULL;
    if (!environ)
        return NULL;
    int hosts = 0, keep = 1, usual = 1;
    while (end - at >= 2 && at[0] != '\r') {
        if (fields-- == 0 || (usual = field(environ, &at, end, &hosts, &keep)) == 0)
            goto unusual;
        if (usual < 0)
            goto done;
    }
    if (end - at < 2 || at[1] != '\n' || hosts != 1)
        goto unusual;
    at += 2;
    uri = PyUnicode_DecodeLatin1(target, target_end - target, NULL);
    line = PyBytes_FromStringAndSize(data, line_end - data);
    if (!uri || !line || PyDict_SetItem(environ, k_method, method) ||
        PyDict_SetItem(environ, k_uri, uri) || PyDict_SetItem(environ, k_raw, uri) ||
        put(environ, k_path, decoded(target, path_end)) ||
        put(environ, k_query, PyUnicode_DecodeLatin1(query, target_end - query, NULL)))
        goto done;
    result = Py_BuildValue("nOOOO", (Py_ssize_t)(at - data), method, line, keep ? Py_True : Py_False, environ);
    goto done;
unusual:
    Py_INCREF(Py_None);
    result = Py_None;
done:
    Py_DECREF(environ);
    Py_XDECREF(uri);
    Py_XDECREF(line);
    return result;
}

/* ---- the response head -------------------------------------------------------------------- */

enum { MOST_BLOCK = 4096 };

/* Not for an application to set (PEP 3333), or for the twin to judge. */
static const char *const not_usual[] = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
    "te", "trailer", "trailers", "transfer-encoding", "upgrade", NULL,
};

/* The characters of a str when it is ASCII; NULL, without an exception, when it is anything else. */
static const char *ascii(PyObject *text, Py_ssize_t *size)
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

PyDoc_STRVAR(block_doc, "block(status, headers) -> (code, block, length, dated, named)\n\n"
                        "None when there is anything unusual in them. `length` is None without one.");

static PyObject *block_of(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    char out[MOST_BLOCK];
    Py_ssize_t size = 0, used = 0, length = -1;
    (void)self;
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "block takes two arguments");
        return NULL;
    }
    const char *status = ascii(args[0], &size);
    if (!status || size < 4 || size > 128 || status[3] != ' ' || !PyList_CheckExact(args[1]))
        Py_RETURN_NONE;
    for (int i = 0; i < 3; i++)
        if (status[i] < '0' || status[i] > '9')
            Py_RETURN_NONE;
    if (status[0] < '2' || skip_text(status, status + size) != status + size)
        Py_RETURN_NONE;
    long code = (status[0] - '0') * 100 + (status[1] - '0') * 10 + (status[2] - '0');
    memcpy(out, "HTTP/1.1 ", 9);
    memcpy(out + 9, status, size);
    memcpy(out + 9 + size, "\r\n", 2);
    used = 11 + size;

    int dated = 0, named = 0;
    Py_ssize_t count = PyList_Size(args[1]);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *pair = PyList_GetItem(args[1], i);
        if (!pair || !PyTuple_CheckExact(pair) || PyTuple_Size(pair) != 2)
            Py_RETURN_NONE;
        Py_ssize_t name_size, value_size;
        const char *name = ascii(PyTuple_GetItem(pair, 0), &name_size);
        const char *value = ascii(PyTuple_GetItem(pair, 1), &value_size);
        if (!name || !value || !name_size || used + name_size + value_size + 4 > MOST_BLOCK ||
            skip(name, name + name_size, TOKEN) != name + name_size ||
            skip_text(value, value + value_size) != value + value_size)
            Py_RETURN_NONE;
        while (value_size && (*value == ' ' || *value == '\t'))
            value++, value_size--;
        while (value_size && (value[value_size - 1] == ' ' || value[value_size - 1] == '\t'))
            value_size--;
        if (is(name, name_size, "content-length")) {
            if (length >= 0 || value_size < 1 || value_size > 18)
                Py_RETURN_NONE;
            length = 0;
            for (Py_ssize_t j = 0; j < value_size; j++) {
                if (value[j] < '0' || value[j] > '9')
                    Py_RETURN_NONE;
                length = length * 10 + (value[j] - '0');
            }
            continue;
        }
        for (int j = 0; not_usual[j]; j++)
            if (is(name, name_size, not_usual[j]))
                Py_RETURN_NONE;
        dated |= is(name, name_size, "date");
        named |= is(name, name_size, "server");
        memcpy(out + used, name, name_size);
        used += name_size;
        out[used++] = ':';
        out[used++] = ' ';
        memcpy(out + used, value, value_size);
        used += value_size;
        out[used++] = '\r';
        out[used++] = '\n';
    }
    PyObject *framed = length < 0 ? Py_NewRef(Py_None) : PyLong_FromSsize_t(length);
    return Py_BuildValue("ly#NOO", code, out, used, framed, dated ? Py_True : Py_False, named ? Py_True : Py_False);
}

/* ---- the module --------------------------------------------------------------------------- */

static PyMethodDef functions[] = {
    {"environ", (PyCFunction)(void (*)(void))environ_of, METH_FASTCALL, environ_doc},
    {"block", (PyCFunction)(void (*)(void))block_of, METH_FASTCALL, block_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "forkd.http._native", "Usual heads in one pass: see forkd/http/usual.py.",
    -1, functions, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void)
{
    fill_kinds();
    for (int i = 0; i < 7; i++)
        if (!(methods[i] = PyUnicode_InternFromString(method_names[i])))
            return NULL;
    if (!(k_method = PyUnicode_InternFromString("REQUEST_METHOD")) ||
        !(k_path = PyUnicode_InternFromString("PATH_INFO")) ||
        !(k_query = PyUnicode_InternFromString("QUERY_STRING")) ||
        !(k_uri = PyUnicode_InternFromString("REQUEST_URI")) ||
        !(k_raw = PyUnicode_InternFromString("RAW_URI")))
        return NULL;
    return PyModule_Create(&module);
}
