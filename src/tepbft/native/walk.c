/* Going through requests with their digests, whether they are objects or stand in a body; hashing objects. */
#include "native.h"

typedef struct {
    PyObject_HEAD
    PyObject *requests, *digests; /* a Batch and its Digests, or a list or tuple each */
    Py_ssize_t next, count;
} Walk;

PyObject *name_client, *name_session, *name_seq, *name_op, *name_auth;

int names_ready(void)
{
    return (name_client = PyUnicode_InternFromString("client")) &&
           (name_session = PyUnicode_InternFromString("session")) &&
           (name_seq = PyUnicode_InternFromString("seq")) && (name_op = PyUnicode_InternFromString("op")) &&
           (name_auth = PyUnicode_InternFromString("auth"));
}

int belong_together(PyObject *requests, PyObject *digests)
{
    if (!Py_IS_TYPE(requests, &BatchType) || !Py_IS_TYPE(digests, &DigestsType))
        return 0;
    const Batch *one = (Batch *)requests, *other = ((Digests *)digests)->batch;
    return one->rows == other->rows && one->count == other->count;
}

PyObject *native_signed(PyObject *requests, PyObject *digests)
{
    Py_ssize_t count = PyObject_Size(requests), others = PyObject_Size(digests);
    if (count < 0 || others < 0)
        return NULL;
    if (count != others)
        return PyErr_Format(PyExc_ValueError, "%zd digests for %zd requests", others, count);
    int together = belong_together(requests, digests);
    requests = together ? Py_NewRef(requests) : PySequence_Fast(requests, "requests are a sequence");
    digests = together ? Py_NewRef(digests) : PySequence_Fast(digests, "digests are a sequence");
    Walk *walk = requests && digests ? PyObject_New(Walk, &WalkType) : NULL;
    if (!walk) {
        Py_XDECREF(requests);
        Py_XDECREF(digests);
        return NULL;
    }
    walk->requests = requests;
    walk->digests = digests;
    walk->next = 0;
    walk->count = count;
    return (PyObject *)walk;
}

static void walk_dealloc(Walk *walk)
{
    Py_DECREF(walk->requests);
    Py_DECREF(walk->digests);
    PyObject_Free(walk);
}

static PyObject *next_in_batch(const Batch *batch, Py_ssize_t index)
{
    const Row *row = batch->rows + index;
    PyObject *items[3] = {
        Py_NewRef(batch->clients[row->client]),
        row_digest(row),
        batch_part_of(batch, row->auth, row->auth_size),
    };
    return pack_tuple(3, items);
}

static PyObject *next_of_objects(PyObject *request, PyObject *digest)
{
    PyObject *items[3] = {
        PyObject_GetAttr(request, name_client),
        Py_NewRef(digest),
        PyObject_GetAttr(request, name_auth),
    };
    return pack_tuple(3, items);
}

static PyObject *walk_next(Walk *walk)
{
    Py_ssize_t index = walk->next;
    if (index >= walk->count)
        return NULL;
    walk->next++;
    if (Py_IS_TYPE(walk->requests, &BatchType))
        return next_in_batch((Batch *)walk->requests, index);
    if (index >= PySequence_Fast_GET_SIZE(walk->requests) || index >= PySequence_Fast_GET_SIZE(walk->digests)) {
        PyErr_SetString(PyExc_RuntimeError, "requests were taken away on the way through them");
        return NULL;
    }
    /* Held: whoever is asked for an attribute could change the list. */
    PyObject *request = Py_NewRef(PySequence_Fast_GET_ITEM(walk->requests, index));
    PyObject *digest = Py_NewRef(PySequence_Fast_GET_ITEM(walk->digests, index));
    PyObject *found = next_of_objects(request, digest);
    Py_DECREF(request);
    Py_DECREF(digest);
    return found;
}

PyTypeObject WalkType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "tepbft.native._native.Walk",
    .tp_doc = "Goes through requests with their digests, once.",
    .tp_basicsize = sizeof(Walk),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)walk_dealloc,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)walk_next,
};

/* --- digests of objects --------------------------------------------------------------------------- */

int whole_number(PyObject *request, PyObject *name, uint64_t *value)
{
    PyObject *number = PyObject_GetAttr(request, name);
    if (!number)
        return 0;
    *value = PyLong_AsUnsignedLongLong(number);
    Py_DECREF(number);
    return !PyErr_Occurred();
}

static PyObject *digest_of_object(PyObject *request, const uint8_t *prefix)
{
    PyObject *client = PyObject_GetAttr(request, name_client), *op = PyObject_GetAttr(request, name_op);
    PyObject *found = NULL;
    uint64_t session, seq;
    if (client && op && whole_number(request, name_session, &session) && whole_number(request, name_seq, &seq)) {
        if (!PyBytes_CheckExact(client) || PyBytes_GET_SIZE(client) != CLIENT_BYTES || !PyBytes_CheckExact(op) ||
            PyBytes_GET_SIZE(op) > UINT32_MAX) {
            PyErr_SetString(PyExc_TypeError, "a client is 16 bytes, and an operation is bytes");
        } else {
            uint8_t digest[SHA256_BYTES];
            digest_request(digest, prefix, (const uint8_t *)PyBytes_AS_STRING(client), session, seq,
                           (const uint8_t *)PyBytes_AS_STRING(op), (uint32_t)PyBytes_GET_SIZE(op));
            found = PyBytes_FromStringAndSize((const char *)digest, SHA256_BYTES);
        }
    }
    Py_XDECREF(client);
    Py_XDECREF(op);
    return found;
}

PyObject *native_request_digests(PyObject *prefix, PyObject *requests)
{
    if (!PyBytes_CheckExact(prefix) || PyBytes_GET_SIZE(prefix) != PREFIX_BYTES) {
        PyErr_SetString(PyExc_TypeError, "a prefix of 40 bytes is expected");
        return NULL;
    }
    if (Py_IS_TYPE(requests, &BatchType) && same_prefix((Batch *)requests, prefix))
        return PyObject_GetAttrString(requests, "digests");
    PyObject *all = PySequence_Tuple(requests);
    Py_ssize_t count = all ? PyTuple_GET_SIZE(all) : 0;
    PyObject *digests = all ? PyList_New(count) : NULL;
    for (Py_ssize_t i = 0; digests && i < count; i++) {
        PyObject *digest =
            digest_of_object(PyTuple_GET_ITEM(all, i), (const uint8_t *)PyBytes_AS_STRING(prefix));
        if (digest)
            PyList_SET_ITEM(digests, i, digest);
        else
            Py_CLEAR(digests);
    }
    Py_XDECREF(all);
    return digests;
}
