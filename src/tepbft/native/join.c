/* Requests that came in several bodies, put together into one; and how they follow one another. */
#include "native.h"

#define LONG_LIST 65536 /* from so many items on an array's length takes four bytes */

/* Where the bytes of a batch's requests begin and end in its body: they lie one behind the other. */
static uint32_t begin_of(const Batch *batch)
{
    const Batch *whole = batch->whole ? (const Batch *)batch->whole : batch;
    if (batch->rows != whole->rows)
        return batch->rows[-1].auth + batch->rows[-1].auth_size;
    return whole->count < 16 ? 1 : whole->count < LONG_LIST ? 3 : 5;
}

static uint32_t end_of(const Batch *batch)
{
    const Row *last = batch->rows + batch->count - 1;
    return batch->count ? last->auth + last->auth_size : begin_of(batch);
}

/* The head of an array of `count` items; its size is returned. */
static int write_count(uint8_t *to, size_t count)
{
    int size = count < 16 ? 0 : count < LONG_LIST ? 2 : 4;
    to[0] = size == 0 ? (uint8_t)(0x90 | count) : size == 2 ? 0xdc : 0xdd;
    for (int i = 0; i < size; i++)
        to[1 + i] = (uint8_t)(count >> 8 * (size - 1 - i));
    return 1 + size;
}

/* Adds the rows of `part`, whose bytes stand at `place` of the new body. A client that has several requests
 * in a row is entered once. */
static void add_rows(Batch *joined, const Batch *part, uint32_t place)
{
    uint32_t moved = place - begin_of(part); /* wraps round, and back again when it is added */
    for (Py_ssize_t i = 0; i < part->count; i++) {
        Row *row = joined->rows + joined->count;
        *row = part->rows[i];
        row->op += moved;
        row->auth += moved;
        PyObject *client = part->clients[row->client];
        if (!joined->clients_count || joined->clients[joined->clients_count - 1] != client)
            joined->clients[joined->clients_count++] = Py_NewRef(client);
        row->client = (uint32_t)joined->clients_count - 1;
        joined->count++;
    }
}

/* Fits all of them and leaves the size of their bytes in `size`; 0 with an exception if they do not fit
 * together. */
static int measure(PyObject *parts, Py_ssize_t *count, uint64_t *size)
{
    *count = 0;
    *size = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(parts); i++) {
        const Batch *part = (Batch *)PyTuple_GET_ITEM(parts, i);
        if (!Py_IS_TYPE(part, &BatchType) || !same_prefix((Batch *)PyTuple_GET_ITEM(parts, 0), part->prefix)) {
            PyErr_SetString(PyExc_TypeError, "batches of one chain are expected");
            return 0;
        }
        *count += part->count;
        *size += end_of(part) - begin_of(part);
    }
    if (*size <= INT32_MAX - 5)
        return 1;
    PyErr_SetString(PyExc_ValueError, "the body would be too long");
    return 0;
}

static Batch *join_all(PyObject *parts, Py_ssize_t count, uint64_t size)
{
    const Batch *first = (Batch *)PyTuple_GET_ITEM(parts, 0);
    uint8_t head[5];
    uint32_t place = (uint32_t)write_count(head, (size_t)count);
    PyObject *body = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(place + size));
    if (!body)
        return NULL;
    Batch *joined = batch_with_room(first->prefix, body, first->factory, count);
    Py_DECREF(body);
    if (!joined)
        return NULL;
    char *to = PyBytes_AS_STRING(body);
    memcpy(to, head, place);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(parts); i++) {
        const Batch *part = (Batch *)PyTuple_GET_ITEM(parts, i);
        uint32_t begin = begin_of(part), length = end_of(part) - begin;
        memcpy(to + place, PyBytes_AS_STRING(part->body) + begin, length);
        add_rows(joined, part, place);
        place += length;
    }
    return joined;
}

PyObject *native_join(PyObject *sequence)
{
    PyObject *parts = PySequence_Tuple(sequence), *joined = NULL;
    Py_ssize_t count;
    uint64_t size;
    if (!parts)
        return NULL;
    if (!PyTuple_GET_SIZE(parts))
        PyErr_SetString(PyExc_ValueError, "there is nothing to join");
    else if (measure(parts, &count, &size)) {
        PyObject *only = PyTuple_GET_ITEM(parts, 0);
        int alone = PyTuple_GET_SIZE(parts) == 1 && !((Batch *)only)->whole;
        joined = alone ? Py_NewRef(only) : (PyObject *)join_all(parts, count, size);
    }
    Py_DECREF(parts);
    return joined;
}

/* A tuple (client, session, first number, count) for requests of a client that are numbered one by one. */
static PyObject *run_of(const Batch *batch, const Row *first, Py_ssize_t count)
{
    PyObject *items[4] = {
        Py_NewRef(batch->clients[first->client]),
        PyLong_FromUnsignedLongLong(first->session),
        PyLong_FromUnsignedLongLong(first->seq),
        PyLong_FromSsize_t(count),
    };
    return pack_tuple(4, items);
}

PyObject *native_runs(PyObject *requests)
{
    if (!Py_IS_TYPE(requests, &BatchType)) {
        PyErr_SetString(PyExc_TypeError, "a batch is expected");
        return NULL;
    }
    const Batch *batch = (Batch *)requests;
    PyObject *runs = PyList_New(0);
    Py_ssize_t at = 0;
    while (runs && at < batch->count) {
        const Row *first = batch->rows + at;
        const char *client = PyBytes_AS_STRING(batch->clients[first->client]);
        Py_ssize_t count = 1;
        while (at + count < batch->count) {
            const Row *next = first + count;
            if (next->session != first->session || next->seq != first->seq + (uint64_t)count ||
                (next->client != first->client &&
                 memcmp(PyBytes_AS_STRING(batch->clients[next->client]), client, CLIENT_BYTES)))
                break;
            count++;
        }
        PyObject *run = run_of(batch, first, count);
        if (!run || PyList_Append(runs, run) < 0)
            Py_CLEAR(runs);
        Py_XDECREF(run);
        at += count;
    }
    return runs;
}
