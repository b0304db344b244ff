/* Entries of the requests that are in flight, and which of them are free (system/in_flight.py, whose Places is the
 * twin). */

#include "native.h"

PyTypeObject *places_type;

int64_t *entry_cells(const Places *places, int64_t place)
{
    return (int64_t *)(places->entries + place * places->entry);
}

int64_t place_take(Places *places)
{
    if (places->free_count)
        return places->first + places->free[--places->free_count];
    if (places->high >= places->count)
        return 0;
    int64_t place = places->first + places->high++;
    entry_cells(places, 0)[0] = places->high; /* readers look at so many entries */
    IN_ORDER();
    return place;
}

void place_note(char *at, Py_ssize_t room, const char *text, Py_ssize_t size)
{
    if (size > room - 1)
        size = room - 1;
    *(unsigned char *)at = (unsigned char)size;
    memcpy(at + 1, text, size);
}

int is_place(const Places *places, int64_t ticket)
{
    return ticket > 0 && ticket < places->first + places->count;
}

void place_give_back(Places *places, int64_t place)
{
    if (place >= places->first && places->free_count < MOST_POOL)
        places->free[places->free_count++] = (int16_t)(place - places->first);
}

/* Places(memory, entry, client, client_room, line, line_room, id, id_room, first, count): `memory` holds entries
 * of that many bytes; each has its client, its line and its name there; those from `first` on are the pool. */
static PyObject *places_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"memory", "entry", "client", "client_room", "line", "line_room", "id", "id_room",
                            "first", "count", NULL};
    PyObject *memory;
    Py_ssize_t entry, client, client_room, line, line_room, id, id_room;
    long long first, count;
    if (!by_name(args, keywords, "OnnnnnnnLL", names, &memory, &entry, &client, &client_room, &line, &line_room, &id,
                 &id_room, &first, &count))
        return NULL;
    Places *self = (Places *)allocate(type);
    if (!self)
        return NULL;
    if (PyObject_GetBuffer(memory, &self->memory, PyBUF_WRITABLE))
        goto fail;
    if (entry < 16 || entry % 8 || client < 16 || line < 16 || client_room < 1 || client_room > 256 || line_room < 1 ||
        line_room > 256 || client + client_room > entry || line + line_room > entry || id < 24 || id % 8 || id_room < 1 || id_room > 256 || id + id_room > entry || first < 1 || count < 0 ||
        count > MOST_POOL || self->memory.len / entry < first + count) {
        PyErr_SetString(PyExc_ValueError, "these are no entries");
        goto fail;
    }
    self->entries = self->memory.buf;
    self->entry = entry;
    self->client = client, self->client_room = client_room;
    self->line = line, self->line_room = line_room;
    self->id = id, self->id_room = id_room;
    self->first = first, self->count = count;
    return (PyObject *)self;
fail:
    Py_DECREF(self);
    return NULL;
}

static void places_dealloc(Places *self)
{
    if (self->memory.obj)
        PyBuffer_Release(&self->memory);
    release((PyObject *)self);
}

static PyType_Slot places_slots[] = {
    {Py_tp_new, places_new},
    {Py_tp_dealloc, places_dealloc},
    {0, NULL},
};

static PyType_Spec places_spec = {
    "forkd._native.Places", sizeof(Places), 0, Py_TPFLAGS_DEFAULT, places_slots,
};

int in_flight_init(PyObject *module)
{
    places_type = (PyTypeObject *)PyType_FromSpec(&places_spec);
    return places_type && !PyModule_AddObjectRef(module, "Places", (PyObject *)places_type) ? 0 : -1;
}
