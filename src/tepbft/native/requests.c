/* Requests of a block as they stand in its body, and their digests, without an object for each.
 *
 * A body is a msgpack array of requests, each an array of client (16 bytes), session, seq, operation and
 * authenticator. It is good in its canonical encoding only. Everything in it comes from another machine and
 * is hostile until it was looked at: every length is checked against what is left before it is believed.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "native.h"

#define MAX_INTEGER ((uint64_t)INT64_MAX)
#define LEAST_REQUEST_BYTES 25 /* five fields, of which only the client has a fixed size */

/* --- reading msgpack ----------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *at, *end, *start;
    const char *wrong; /* why it is refused; NULL as long as it is good */
} Reader;

static uint64_t big_endian(const uint8_t *data, int size)
{
    uint64_t value = 0;
    for (int i = 0; i < size; i++)
        value = value << 8 | data[i];
    return value;
}

/* The `size` bytes of a number after its marker; `least` is what a shorter form could not hold. */
static uint64_t number(Reader *in, int size, uint64_t least)
{
    if (in->end - in->at < size) {
        in->wrong = "the body ends too early";
        return 0;
    }
    uint64_t value = big_endian(in->at, size);
    in->at += size;
    if (value < least)
        in->wrong = "not the canonical encoding";
    return value;
}

static uint8_t marker(Reader *in)
{
    if (in->at == in->end) {
        in->wrong = "the body ends too early";
        return 0;
    }
    return *in->at++;
}

static uint64_t read_integer(Reader *in)
{
    uint8_t kind = marker(in);
    uint64_t value;
    switch (kind) {
    case 0xcc:
        return number(in, 1, 1 << 7);
    case 0xcd:
        return number(in, 2, 1 << 8);
    case 0xce:
        return number(in, 4, 1 << 16);
    case 0xcf:
        value = number(in, 8, (uint64_t)1 << 32);
        if (value > MAX_INTEGER)
            in->wrong = "a number is too large";
        return value;
    default:
        if (kind >= 0x80)
            in->wrong = "a number is expected";
        return kind;
    }
}

/* Where the bytes begin, and how many they are. */
static uint32_t read_bytes(Reader *in, uint32_t *size, uint64_t most)
{
    uint64_t length = 0;
    switch (marker(in)) {
    case 0xc4:
        length = number(in, 1, 0);
        break;
    case 0xc5:
        length = number(in, 2, 1 << 8);
        break;
    case 0xc6:
        length = number(in, 4, 1 << 16);
        break;
    default:
        in->wrong = in->wrong ? in->wrong : "bytes are expected";
    }
    if (in->wrong)
        return 0;
    if (length > most) {
        in->wrong = "a field is too long";
        return 0;
    }
    if ((uint64_t)(in->end - in->at) < length) {
        in->wrong = "the body ends too early";
        return 0;
    }
    uint32_t place = (uint32_t)(in->at - in->start);
    in->at += length;
    *size = (uint32_t)length;
    return place;
}

static Py_ssize_t read_count(Reader *in, uint64_t most)
{
    uint8_t kind = marker(in);
    uint64_t count = 0;
    if (kind >> 4 == 9)
        count = kind & 15;
    else if (kind == 0xdc)
        count = number(in, 2, 16);
    else if (kind == 0xdd)
        count = number(in, 4, 1 << 16);
    else
        in->wrong = in->wrong ? in->wrong : "an array is expected";
    if (!in->wrong && count > most)
        in->wrong = "too many requests";
    return in->wrong ? 0 : (Py_ssize_t)count;
}

/* --- digests ------------------------------------------------------------------------------------- */

static void little_endian(uint8_t *to, uint64_t value, int size)
{
    for (int i = 0; i < size; i++)
        to[i] = (uint8_t)(value >> 8 * i);
}

void digest_request(uint8_t digest[SHA256_BYTES], const uint8_t *prefix, const uint8_t *client,
                    uint64_t session, uint64_t seq, const uint8_t *op, uint32_t op_size)
{
    uint8_t head[PREFIX_BYTES + CLIENT_BYTES + 20];
    Sha256 hash;
    memcpy(head, prefix, PREFIX_BYTES);
    memcpy(head + PREFIX_BYTES, client, CLIENT_BYTES);
    little_endian(head + PREFIX_BYTES + CLIENT_BYTES, session, 8);
    little_endian(head + PREFIX_BYTES + CLIENT_BYTES + 8, seq, 8);
    little_endian(head + PREFIX_BYTES + CLIENT_BYTES + 16, op_size, 4);
    sha256_init(&hash);
    sha256_update(&hash, head, sizeof head);
    sha256_update(&hash, op, op_size);
    sha256_final(&hash, digest);
}

/* --- opening a body ------------------------------------------------------------------------------ */

/* Clients seen so far: a table of places in `clients`, plus one, by hash. It is never more than half full.
 * Whoever made the body chose the clients, and could choose such as fall on one place: after a few steps the
 * search ends, and such a client has bytes of its own for each request, which costs little. */
#define MOST_STEPS 16

typedef struct {
    uint32_t *places;
    size_t mask;
} Seen;

static int64_t client_index(Batch *batch, Seen *seen, const uint8_t *client)
{
    uint64_t words[2];
    memcpy(words, client, sizeof words);
    size_t at = (size_t)((words[0] ^ words[1] * 0x9e3779b97f4a7c15u) * 0xff51afd7ed558ccdu >> 32) & seen->mask;
    int steps = 0;
    while (seen->places[at] && steps < MOST_STEPS) {
        uint32_t index = seen->places[at] - 1;
        if (!memcmp(PyBytes_AS_STRING(batch->clients[index]), client, CLIENT_BYTES))
            return index;
        at = (at + 1) & seen->mask;
        steps++;
    }
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)client, CLIENT_BYTES);
    if (!bytes)
        return -1;
    batch->clients[batch->clients_count] = bytes;
    batch->clients_count++;
    if (steps < MOST_STEPS)
        seen->places[at] = (uint32_t)batch->clients_count;
    return batch->clients_count - 1;
}

/* One request; 0 if it is refused (`in->wrong`) or memory is short. */
static int read_row(Batch *batch, Seen *seen, Reader *in, Row *row, const uint8_t *prefix,
                    const NativeLimits *limits)
{
    uint32_t client_size = 0;
    if (marker(in) != 0x95 && !in->wrong)
        in->wrong = "a request has five fields";
    if (in->wrong)
        return 0;
    uint32_t client = read_bytes(in, &client_size, CLIENT_BYTES);
    if (!in->wrong && client_size != CLIENT_BYTES)
        in->wrong = "a client is 16 bytes";
    if (in->wrong)
        return 0;
    row->session = read_integer(in);
    if (!in->wrong)
        row->seq = read_integer(in);
    if (!in->wrong)
        row->op = read_bytes(in, &row->op_size, limits->operation);
    if (!in->wrong)
        row->auth = read_bytes(in, &row->auth_size, limits->authenticator);
    if (in->wrong)
        return 0;
    int64_t index = client_index(batch, seen, in->start + client);
    if (index < 0)
        return 0;
    row->client = (uint32_t)index;
    digest_request(row->digest, prefix, in->start + client, row->session, row->seq, in->start + row->op,
                   row->op_size);
    return 1;
}

static int read_rows(Batch *batch, Reader *in, const uint8_t *prefix, const NativeLimits *limits)
{
    size_t size = 16;
    while (size < 2 * (size_t)batch->count)
        size *= 2;
    Seen seen = {PyMem_Calloc(size, sizeof *seen.places), size - 1};
    if (!seen.places) {
        PyErr_NoMemory();
        return 0;
    }
    Py_ssize_t done = 0;
    while (done < batch->count && read_row(batch, &seen, in, batch->rows + done, prefix, limits))
        done++;
    PyMem_Free(seen.places);
    if (PyErr_Occurred())
        return 0;
    if (!in->wrong && in->at != in->end)
        in->wrong = "there is something behind the requests";
    if (in->wrong)
        PyErr_Format(PyExc_ValueError, "%s (request %zd, byte %zd)", in->wrong, done,
                     (Py_ssize_t)(in->at - in->start));
    return !in->wrong;
}

Batch *batch_with_room(PyObject *prefix, PyObject *body, PyObject *factory, Py_ssize_t count)
{
    Batch *batch = PyObject_New(Batch, &BatchType);
    if (!batch)
        return NULL;
    batch->whole = NULL;
    batch->prefix = Py_NewRef(prefix);
    batch->body = Py_NewRef(body);
    batch->factory = Py_NewRef(factory);
    batch->count = batch->clients_count = 0;
    batch->rows = PyMem_Malloc((size_t)(count + 1) * sizeof *batch->rows);
    batch->clients = PyMem_Malloc((size_t)(count + 1) * sizeof *batch->clients);
    if (batch->rows && batch->clients)
        return batch;
    Py_DECREF(batch);
    return (Batch *)PyErr_NoMemory();
}

int same_prefix(const Batch *batch, PyObject *prefix)
{
    return batch->prefix == prefix ||
           !memcmp(PyBytes_AS_STRING(batch->prefix), PyBytes_AS_STRING(prefix), PREFIX_BYTES);
}

PyObject *native_open_body(PyObject *prefix, PyObject *body, PyObject *factory, const NativeLimits *limits)
{
    if (!PyBytes_CheckExact(prefix) || PyBytes_GET_SIZE(prefix) != PREFIX_BYTES || !PyBytes_CheckExact(body)) {
        PyErr_SetString(PyExc_TypeError, "a prefix of 40 bytes and a body in bytes are expected");
        return NULL;
    }
    const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(body);
    if (PyBytes_GET_SIZE(body) > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "the body is too long");
        return NULL;
    }
    Reader in = {data, data + PyBytes_GET_SIZE(body), data, NULL};
    Py_ssize_t count = read_count(&in, limits->requests);
    /* The least that a request takes: nobody makes this node reserve memory for what is not there. */
    if (!in.wrong && (in.end - in.at) / LEAST_REQUEST_BYTES < count)
        in.wrong = "the body ends too early";
    if (in.wrong) {
        PyErr_SetString(PyExc_ValueError, in.wrong);
        return NULL;
    }
    Batch *batch = batch_with_room(prefix, body, factory, count);
    if (!batch)
        return NULL;
    batch->count = count;
    if (!read_rows(batch, &in, (const uint8_t *)PyBytes_AS_STRING(prefix), limits)) {
        Py_DECREF(batch);
        return NULL;
    }
    return (PyObject *)batch;
}

/* --- the batch as a sequence of requests ---------------------------------------------------------- */

static void batch_dealloc(Batch *batch)
{
    if (batch->whole) {
        Py_DECREF(batch->whole);
    } else {
        for (Py_ssize_t i = 0; i < batch->clients_count; i++)
            Py_DECREF(batch->clients[i]);
        PyMem_Free(batch->clients);
        PyMem_Free(batch->rows);
        Py_DECREF(batch->prefix);
        Py_DECREF(batch->body);
        Py_DECREF(batch->factory);
    }
    PyObject_Free(batch);
}

PyObject *batch_part_of(const Batch *batch, uint32_t place, uint32_t size)
{
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(batch->body) + place, size);
}

PyObject *row_digest(const Row *row)
{
    return PyBytes_FromStringAndSize((const char *)row->digest, SHA256_BYTES);
}

PyObject *pack_tuple(int count, PyObject **items)
{
    int good = 1;
    for (int i = 0; i < count; i++)
        good &= items[i] != NULL;
    PyObject *tuple = good ? PyTuple_New(count) : NULL;
    for (int i = 0; i < count; i++) {
        if (tuple)
            PyTuple_SET_ITEM(tuple, i, items[i]);
        else
            Py_XDECREF(items[i]);
    }
    return tuple;
}

PyObject *make_object(PyObject *factory, int count, PyObject **fields)
{
    PyObject *arguments = pack_tuple(count, fields);
    PyObject *made = arguments ? PyObject_CallObject(factory, arguments) : NULL;
    Py_XDECREF(arguments);
    return made;
}

static Py_ssize_t batch_length(Batch *batch)
{
    return batch->count;
}

static PyObject *batch_item(Batch *batch, Py_ssize_t index)
{
    if (index < 0 || index >= batch->count) {
        PyErr_SetString(PyExc_IndexError, "there is no such request");
        return NULL;
    }
    const Row *row = batch->rows + index;
    PyObject *fields[5] = {
        Py_NewRef(batch->clients[row->client]),
        PyLong_FromUnsignedLongLong(row->session),
        PyLong_FromUnsignedLongLong(row->seq),
        batch_part_of(batch, row->op, row->op_size),
        batch_part_of(batch, row->auth, row->auth_size),
    };
    return make_object(batch->factory, 5, fields);
}

/* The part of a batch from `start` on. */
static Batch *batch_part(Batch *batch, Py_ssize_t start, Py_ssize_t count)
{
    Batch *part = PyObject_New(Batch, &BatchType);
    if (!part)
        return NULL;
    part->whole = Py_NewRef(batch->whole ? batch->whole : (PyObject *)batch);
    part->prefix = batch->prefix;
    part->body = batch->body;
    part->factory = batch->factory;
    part->clients = batch->clients;
    part->clients_count = batch->clients_count;
    part->rows = batch->rows + start;
    part->count = count;
    return part;
}

/* start and count of a slice without steps; 0 with an exception otherwise. */
static int simple_slice(PyObject *slice, Py_ssize_t length, Py_ssize_t *start, Py_ssize_t *count)
{
    Py_ssize_t stop, step;
    if (PySlice_Unpack(slice, start, &stop, &step) < 0)
        return 0;
    if (step != 1) {
        PyErr_SetString(PyExc_ValueError, "a part of a batch has no steps");
        return 0;
    }
    *count = PySlice_AdjustIndices(length, start, &stop, step);
    return 1;
}

int plain_index(PyObject *key, Py_ssize_t length, Py_ssize_t *index)
{
    *index = PyNumber_AsSsize_t(key, PyExc_IndexError);
    if (*index == -1 && PyErr_Occurred())
        return 0;
    if (*index < 0)
        *index += length;
    return 1;
}

static PyObject *batch_subscript(Batch *batch, PyObject *key)
{
    Py_ssize_t start, count;
    if (PySlice_Check(key))
        return simple_slice(key, batch->count, &start, &count) ? (PyObject *)batch_part(batch, start, count) : NULL;
    return plain_index(key, batch->count, &start) ? batch_item(batch, start) : NULL;
}

static PyObject *digests_over(Batch *batch)
{
    Digests *digests = batch ? PyObject_New(Digests, &DigestsType) : NULL;
    if (digests)
        digests->batch = batch;
    else
        Py_XDECREF(batch);
    return (PyObject *)digests;
}

static PyObject *batch_digests(Batch *batch, void *unused)
{
    (void)unused;
    return digests_over((Batch *)Py_NewRef(batch));
}

static PyObject *batch_size(Batch *batch, void *unused)
{
    (void)unused;
    size_t size = 0;
    for (Py_ssize_t i = 0; i < batch->count; i++)
        size += batch->rows[i].op_size + batch->rows[i].auth_size;
    return PyLong_FromSize_t(size);
}

static PyObject *batch_body(Batch *batch, void *unused)
{
    (void)unused;
    PyObject *alone = PyTuple_Pack(1, (PyObject *)batch), *joined = alone ? native_join(alone) : NULL;
    PyObject *body = joined ? Py_NewRef(((Batch *)joined)->body) : NULL;
    Py_XDECREF(alone);
    Py_XDECREF(joined);
    return body;
}

static PyGetSetDef batch_attributes[] = {
    {"body", (getter)batch_body, NULL, "The body of a block that holds just these.", NULL},
    {"digests", (getter)batch_digests, NULL, "Digests of the requests, in order.", NULL},
    {"content_bytes", (getter)batch_size, NULL, "Bytes of operations and authenticators together.", NULL},
    {0},
};
static PySequenceMethods batch_sequence = {
    .sq_length = (lenfunc)batch_length,
    .sq_item = (ssizeargfunc)batch_item,
};
static PyMappingMethods batch_mapping = {
    .mp_length = (lenfunc)batch_length,
    .mp_subscript = (binaryfunc)batch_subscript,
};
PyTypeObject BatchType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "tepbft.native._native.Batch",
    .tp_doc = "The requests of a body, in order.",
    .tp_basicsize = sizeof(Batch),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)batch_dealloc,
    .tp_as_sequence = &batch_sequence,
    .tp_as_mapping = &batch_mapping,
    .tp_getset = batch_attributes,
};

/* --- its digests as a sequence -------------------------------------------------------------------- */

static void digests_dealloc(Digests *digests)
{
    Py_DECREF(digests->batch);
    PyObject_Free(digests);
}

static Py_ssize_t digests_length(Digests *digests)
{
    return digests->batch->count;
}

static PyObject *digests_item(Digests *digests, Py_ssize_t index)
{
    if (index < 0 || index >= digests->batch->count) {
        PyErr_SetString(PyExc_IndexError, "there is no such digest");
        return NULL;
    }
    return row_digest(digests->batch->rows + index);
}

static PyObject *digests_subscript(Digests *digests, PyObject *key)
{
    Py_ssize_t start, count;
    if (PySlice_Check(key))
        return simple_slice(key, digests->batch->count, &start, &count)
                   ? digests_over(batch_part(digests->batch, start, count))
                   : NULL;
    return plain_index(key, digests->batch->count, &start) ? digests_item(digests, start) : NULL;
}

static PySequenceMethods digests_sequence = {
    .sq_length = (lenfunc)digests_length,
    .sq_item = (ssizeargfunc)digests_item,
};
static PyMappingMethods digests_mapping = {
    .mp_length = (lenfunc)digests_length,
    .mp_subscript = (binaryfunc)digests_subscript,
};
PyTypeObject DigestsType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "tepbft.native._native.Digests",
    .tp_doc = "The digests of a body's requests, in order.",
    .tp_basicsize = sizeof(Digests),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)digests_dealloc,
    .tp_as_sequence = &digests_sequence,
    .tp_as_mapping = &digests_mapping,
};
