/* The writes of some blocks, handed on in the order of their keys: see `storage.batch`. */
#include "native.h"

#include <stdlib.h>

typedef struct {
    uint64_t head; /* the first bytes behind what all keys begin with: most comparisons end here */
    PyObject *key, *value;
} Pair;

static int compare(const void *left, const void *right)
{
    const Pair *a = left, *b = right;
    if (a->head != b->head)
        return a->head < b->head ? -1 : 1;
    Py_ssize_t a_size = PyBytes_GET_SIZE(a->key), b_size = PyBytes_GET_SIZE(b->key);
    int found = memcmp(PyBytes_AS_STRING(a->key), PyBytes_AS_STRING(b->key), (size_t)Py_MIN(a_size, b_size));
    return found ? found : (a_size > b_size) - (a_size < b_size);
}

/* How many bytes all keys have in common at their beginning. */
static Py_ssize_t common_bytes(const Pair *pairs, Py_ssize_t count)
{
    const char *first = PyBytes_AS_STRING(pairs[0].key);
    Py_ssize_t common = PyBytes_GET_SIZE(pairs[0].key);
    for (Py_ssize_t i = 1; i < count; i++) {
        const char *key = PyBytes_AS_STRING(pairs[i].key);
        Py_ssize_t most = Py_MIN(common, PyBytes_GET_SIZE(pairs[i].key)), same = 0;
        while (same < most && key[same] == first[same])
            same++;
        common = same;
    }
    return common;
}

/* Bytes beyond the end of a key count as 0; where they decide nothing, the whole keys are compared. */
static uint64_t head_of(PyObject *key, Py_ssize_t from)
{
    const uint8_t *bytes = (const uint8_t *)PyBytes_AS_STRING(key);
    Py_ssize_t size = PyBytes_GET_SIZE(key);
    uint64_t head = 0;
    for (Py_ssize_t i = from; i < from + 8; i++)
        head = head << 8 | (i < size ? bytes[i] : 0);
    return head;
}

/* The items of a dict with references of their own, since what is called may do anything. NULL with an
 * exception if they are not bytes, or None as a value. */
static Pair *collect(PyObject *writes, Py_ssize_t count)
{
    Pair *pairs = PyMem_New(Pair, (size_t)(count ? count : 1));
    if (!pairs)
        return (Pair *)PyErr_NoMemory();
    Py_ssize_t at = 0, filled = 0;
    PyObject *key, *value;
    while (PyDict_Next(writes, &at, &key, &value)) {
        if (!PyBytes_CheckExact(key) || (value != Py_None && !PyBytes_CheckExact(value))) {
            PyErr_SetString(PyExc_TypeError, "keys and values are bytes");
            break;
        }
        pairs[filled++] = (Pair){0, Py_NewRef(key), Py_NewRef(value)};
    }
    if (filled == count)
        return pairs;
    while (filled--) {
        Py_DECREF(pairs[filled].key);
        Py_DECREF(pairs[filled].value);
    }
    PyMem_Free(pairs);
    return NULL;
}

static int hand_on(const Pair *pair, PyObject *prefix, PyObject *put, PyObject *erase)
{
    Py_ssize_t before = PyBytes_GET_SIZE(prefix), size = PyBytes_GET_SIZE(pair->key);
    PyObject *full = PyBytes_FromStringAndSize(NULL, before + size);
    if (!full)
        return 0;
    memcpy(PyBytes_AS_STRING(full), PyBytes_AS_STRING(prefix), (size_t)before);
    memcpy(PyBytes_AS_STRING(full) + before, PyBytes_AS_STRING(pair->key), (size_t)size);
    PyObject *arguments[] = {full, pair->value};
    int gone = pair->value == Py_None;
    PyObject *done = PyObject_Vectorcall(gone ? erase : put, arguments, gone ? 1 : 2, NULL);
    Py_DECREF(full);
    Py_XDECREF(done);
    return done != NULL;
}

PyObject *native_write_in_order(PyObject *writes, PyObject *prefix, PyObject *put, PyObject *erase)
{
    if (!PyDict_CheckExact(writes) || !PyBytes_CheckExact(prefix)) {
        PyErr_SetString(PyExc_TypeError, "a dict and bytes are expected");
        return NULL;
    }
    Py_ssize_t count = PyDict_GET_SIZE(writes);
    Pair *pairs = collect(writes, count);
    if (!pairs)
        return NULL;
    if (count) {
        Py_ssize_t common = common_bytes(pairs, count);
        for (Py_ssize_t i = 0; i < count; i++)
            pairs[i].head = head_of(pairs[i].key, common);
        qsort(pairs, (size_t)count, sizeof *pairs, compare);
    }
    int good = 1;
    for (Py_ssize_t i = 0; i < count; i++) {
        good = good && hand_on(&pairs[i], prefix, put, erase);
        Py_DECREF(pairs[i].key);
        Py_DECREF(pairs[i].value);
    }
    PyMem_Free(pairs);
    return good ? Py_NewRef(Py_None) : NULL;
}
