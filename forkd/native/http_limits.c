/* What a head may be that native code reads, and the environ that it begins with (twin: http/limits.py). */

#include "native.h"

PyTypeObject *limits_type;

static int limits_traverse(HeadLimits *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->template);
    Py_VISIT((PyObject *)self->fronts);
    Py_VISIT((PyObject *)self->hosts);
    return 0;
}

static int limits_clear(HeadLimits *self)
{
    Py_CLEAR(self->template);
    Py_CLEAR(self->fronts);
    Py_CLEAR(self->hosts);
    return 0;
}

static void limits_dealloc(HeadLimits *self)
{
    PyObject_GC_UnTrack(self);
    limits_clear(self);
    release((PyObject *)self);
}

/* HeadLimits(head, fields, body, template, fronts, hosts, ids): the most bytes of a head, its most fields, the most bytes of a
 * body, the environ to begin with, a Fronts or None, a Hosts, or None for any, and whether requests have names. */
static PyObject *limits_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"head", "fields", "body", "template", "fronts", "hosts", "ids", NULL};
    Py_ssize_t most, fields;
    long long longest;
    int ids;
    PyObject *template, *fronts, *hosts;
    if (!by_name(args, keywords, "nnLO!OOp", names, &most, &fields, &longest, &PyDict_Type, &template, &fronts, &hosts, &ids))
        return NULL;
    if ((fronts != Py_None && Py_TYPE(fronts) != fronts_type) || (hosts != Py_None && Py_TYPE(hosts) != hosts_type)) {
        PyErr_SetString(PyExc_TypeError, "those are no Fronts, or no Hosts");
        return NULL;
    }
    HeadLimits *self = (HeadLimits *)allocate(type);
    if (self) {
        self->most = most;
        self->fields = fields;
        self->longest = longest;
        self->template = Py_NewRef(template);
        self->fronts = fronts == Py_None ? NULL : (Fronts *)Py_NewRef(fronts);
        self->hosts = hosts == Py_None ? NULL : (Hosts *)Py_NewRef(hosts);
        self->ids = ids;
    }
    return (PyObject *)self;
}

static PyType_Slot limits_slots[] = {
    {Py_tp_new, limits_new},
    {Py_tp_traverse, limits_traverse},
    {Py_tp_clear, limits_clear},
    {Py_tp_dealloc, limits_dealloc},
    {0, NULL},
};

static PyType_Spec limits_spec = {
    "forkd._native.HeadLimits", sizeof(HeadLimits), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, limits_slots,
};

int limits_init(PyObject *module)
{
    limits_type = (PyTypeObject *)PyType_FromSpec(&limits_spec);
    return !limits_type || PyModule_AddObjectRef(module, "HeadLimits", (PyObject *)limits_type) ? -1 : 0;
}
