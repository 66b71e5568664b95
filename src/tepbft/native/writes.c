/* What an operation writes while it runs: see `execution.writes`. */
#include "native.h"

#include <structmember.h>

#include "encode.h"

/* An operation's writes stand in `own` and join `block` when it takes effect. Most operations write one key:
 * the first write waits in `key` and `value`, and moves to `own` when there is another, or someone looks. */
typedef struct {
    PyObject_HEAD
    PyObject *block, *own, *key, *value, *client;
    Py_ssize_t bytes, committed, max_value, max_key, max_bytes, max_writes;
} Writes;

static PyObject *writes_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    (void)arguments, (void)keywords; /* a subclass may have others */
    Writes *writes = (Writes *)type->tp_alloc(type, 0);
    if (!writes)
        return NULL;
    writes->block = PyDict_New();
    writes->own = PyDict_New();
    writes->client = PyBytes_FromStringAndSize(NULL, 0);
    if (!writes->block || !writes->own || !writes->client)
        Py_CLEAR(writes);
    return (PyObject *)writes;
}

static int writes_init(Writes *writes, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"max_value", "max_key", "max_bytes", "max_writes", NULL};
    return PyArg_ParseTupleAndKeywords(arguments, keywords, "nnnn", names, &writes->max_value, &writes->max_key,
                                       &writes->max_bytes, &writes->max_writes)
               ? 0
               : -1;
}

static int writes_traverse(Writes *writes, visitproc visit, void *arg)
{
    Py_VISIT(writes->block);
    Py_VISIT(writes->own);
    Py_VISIT(writes->key);
    Py_VISIT(writes->value);
    Py_VISIT(writes->client);
    return 0;
}

static int writes_clear(Writes *writes)
{
    Py_CLEAR(writes->block);
    Py_CLEAR(writes->own);
    Py_CLEAR(writes->key);
    Py_CLEAR(writes->value);
    Py_CLEAR(writes->client);
    return 0;
}

static void writes_dealloc(Writes *writes)
{
    PyObject_GC_UnTrack(writes);
    writes_clear(writes);
    Py_TYPE(writes)->tp_free(writes);
}

/* The first write joins the others. */
static int spill(Writes *writes)
{
    if (!writes->key)
        return 1;
    PyObject *key = writes->key, *value = writes->value;
    writes->key = writes->value = NULL;
    int good = PyDict_SetItem(writes->own, key, value) == 0;
    Py_DECREF(key);
    Py_DECREF(value);
    return good;
}

/* The key of the state: that of the application behind its prefix. */
static PyObject *full_key(PyObject *key)
{
    if (PyBytes_CheckExact(key)) {
        Py_ssize_t size = PyBytes_GET_SIZE(key);
        PyObject *full = PyBytes_FromStringAndSize(NULL, size + 1);
        if (full) {
            PyBytes_AS_STRING(full)[0] = 'a';
            memcpy(PyBytes_AS_STRING(full) + 1, PyBytes_AS_STRING(key), (size_t)size);
        }
        return full;
    }
    PyObject *prefix = PyBytes_FromStringAndSize("a", 1);
    PyObject *full = prefix ? PySequence_Concat(prefix, key) : NULL;
    Py_XDECREF(prefix);
    return full;
}

static int within_bounds(Writes *writes, PyObject *full, Py_ssize_t size, Py_ssize_t total)
{
    if (size <= writes->max_value && PyBytes_GET_SIZE(full) <= writes->max_key && total <= writes->max_bytes &&
        PyDict_GET_SIZE(writes->own) < writes->max_writes)
        return 1;
    PyObject *checked = PyObject_CallMethod((PyObject *)writes, "_check", "Onn", full, size, total);
    Py_XDECREF(checked);
    return checked != NULL;
}

static PyObject *writes_put(Writes *writes, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_CheckExact(arguments[1])) {
        PyErr_SetString(PyExc_TypeError, count != 2 ? "put(key, value)" : "a value must be bytes");
        return NULL;
    }
    PyObject *value = arguments[1], *full = full_key(arguments[0]);
    if (!full)
        return NULL;
    Py_ssize_t size = PyBytes_GET_SIZE(value), total = writes->bytes + PyBytes_GET_SIZE(full) + size;
    int good = within_bounds(writes, full, size, total);
    if (good && !writes->key && PyDict_GET_SIZE(writes->own) == 0) {
        writes->key = Py_NewRef(full);
        writes->value = Py_NewRef(value);
    } else if (good) {
        good = spill(writes) && PyDict_SetItem(writes->own, full, value) == 0;
    }
    Py_DECREF(full);
    if (!good)
        return NULL;
    writes->bytes = total;
    Py_RETURN_NONE;
}

static PyObject *writes_commit(Writes *writes, PyObject *unused)
{
    (void)unused;
    int good = 1;
    if (writes->key) {
        good = PyDict_SetItem(writes->block, writes->key, writes->value) == 0;
        Py_CLEAR(writes->key);
        Py_CLEAR(writes->value);
        writes->committed = writes->bytes;
    } else if (PyDict_GET_SIZE(writes->own)) {
        good = PyDict_Update(writes->block, writes->own) == 0;
        PyDict_Clear(writes->own);
        writes->committed = writes->bytes;
    }
    return good ? Py_NewRef(Py_None) : NULL;
}

static PyObject *writes_discard(Writes *writes, PyObject *unused)
{
    (void)unused;
    Py_CLEAR(writes->key);
    Py_CLEAR(writes->value);
    PyDict_Clear(writes->own);
    writes->bytes = writes->committed;
    Py_RETURN_NONE;
}

static PyObject *writes_own(Writes *writes, void *unused)
{
    (void)unused;
    return spill(writes) ? Py_NewRef(writes->own) : NULL;
}

int set_client(PyObject *context, PyObject *client)
{
    if (!PyObject_TypeCheck(context, &WritesType))
        return PyObject_SetAttr(context, name_client, client) == 0;
    Py_XSETREF(((Writes *)context)->client, Py_NewRef(client));
    return 1;
}

static PyMethodDef writes_methods[] = {
    {"put", (PyCFunction)(void (*)(void))writes_put, METH_FASTCALL, "put(key, value)"},
    {"commit", (PyCFunction)writes_commit, METH_NOARGS, "commit(): the operation took effect."},
    {"discard", (PyCFunction)writes_discard, METH_NOARGS, "discard(): the operation was refused."},
    {0},
};
static PyMemberDef writes_members[] = {
    {"client", T_OBJECT_EX, offsetof(Writes, client), 0, NULL},
    {"_block", T_OBJECT_EX, offsetof(Writes, block), READONLY, NULL},
    {"_bytes", T_PYSSIZET, offsetof(Writes, bytes), 0, NULL},
    {"_committed_bytes", T_PYSSIZET, offsetof(Writes, committed), READONLY, NULL},
    {0},
};
static PyGetSetDef writes_attributes[] = {
    {"_own", (getter)writes_own, NULL, NULL, NULL},
    {0},
};
PyTypeObject WritesType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "tepbft.native._native.Writes",
    .tp_doc = "Writes(max_value, max_key, max_bytes, max_writes): see execution.writes.",
    .tp_basicsize = sizeof(Writes),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = writes_new,
    .tp_init = (initproc)writes_init,
    .tp_traverse = (traverseproc)writes_traverse,
    .tp_clear = (inquiry)writes_clear,
    .tp_dealloc = (destructor)writes_dealloc,
    .tp_methods = writes_methods,
    .tp_members = writes_members,
    .tp_getset = writes_attributes,
};

/* --- the digest of a block's writes ---------------------------------------------------------------- */

static int hash_bytes(Sha256 *hash, PyObject *bytes)
{
    uint8_t head[MOST_HEAD];
    if (!PyBytes_CheckExact(bytes) || PyBytes_GET_SIZE(bytes) > UINT32_MAX) {
        PyErr_SetString(PyExc_TypeError, "keys and values are bytes");
        return 0;
    }
    size_t size = (size_t)PyBytes_GET_SIZE(bytes);
    sha256_update(hash, head, (size_t)(write_bytes_head(head, size) - head));
    sha256_update(hash, PyBytes_AS_STRING(bytes), size);
    return 1;
}

PyObject *native_write_set_digest(PyObject *writes)
{
    if (!PyDict_CheckExact(writes)) {
        PyErr_SetString(PyExc_TypeError, "a dict is expected");
        return NULL;
    }
    uint8_t head[MOST_HEAD], digest[SHA256_BYTES];
    const uint8_t pair = 0x92, nil = 0xc0;
    PyObject *key, *value;
    Py_ssize_t at = 0;
    Sha256 hash;
    sha256_init(&hash);
    sha256_update(&hash, head, (size_t)(write_array(head, (uint64_t)PyDict_GET_SIZE(writes)) - head));
    while (PyDict_Next(writes, &at, &key, &value)) {
        sha256_update(&hash, &pair, 1);
        if (!hash_bytes(&hash, key))
            return NULL;
        if (value == Py_None)
            sha256_update(&hash, &nil, 1);
        else if (!hash_bytes(&hash, value))
            return NULL;
    }
    sha256_final(&hash, digest);
    return PyBytes_FromStringAndSize((const char *)digest, SHA256_BYTES);
}
