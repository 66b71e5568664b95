/* What became of the requests of a block, in order, as its execution fills it in; without an object each.
 *
 * A line knows who asked what from the table that the block's body was opened into, or from the objects if
 * the requests are objects, and gets a status and a result. Receipts are made of lines when somebody looks.
 */
#include "native.h"

#include "encode.h"

#define CONDENSED 0x80 /* see `core.receipt_tree.condensed` */

/* --- making one ---------------------------------------------------------------------------------- */

static int same_length(PyObject *requests, PyObject *digests)
{
    Py_ssize_t count = PyObject_Size(requests), others = PyObject_Size(digests);
    if (count < 0 || others < 0)
        return 0;
    if (count != others)
        PyErr_Format(PyExc_ValueError, "%zd digests for %zd requests", others, count);
    return count == others;
}

static void lines_of_batch(Outcomes *outcomes, const Batch *batch)
{
    for (Py_ssize_t i = 0; i < batch->count; i++) {
        const Row *row = batch->rows + i;
        outcomes->lines[i] = (Line){
            .client = Py_NewRef(batch->clients[row->client]),
            .session = row->session,
            .seq = row->seq,
            .digest = row->digest,
        };
        outcomes->count++;
    }
}

static int bytes_of_size(PyObject *value, Py_ssize_t size)
{
    if (value && PyBytes_CheckExact(value) && PyBytes_GET_SIZE(value) == size)
        return 1;
    if (value)
        PyErr_Format(PyExc_TypeError, "%zd bytes are expected", size);
    return 0;
}

static int lines_of_objects(Outcomes *outcomes)
{
    Py_ssize_t count = PyTuple_GET_SIZE(outcomes->requests);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *request = PyTuple_GET_ITEM(outcomes->requests, i), *digest = PyTuple_GET_ITEM(outcomes->digests, i);
        Line line = {.client = PyObject_GetAttr(request, name_client)};
        if (!bytes_of_size(line.client, CLIENT_BYTES) || !bytes_of_size(digest, SHA256_BYTES) ||
            !whole_number(request, name_session, &line.session) || !whole_number(request, name_seq, &line.seq)) {
            Py_XDECREF(line.client);
            return 0;
        }
        line.digest = (const uint8_t *)PyBytes_AS_STRING(digest);
        outcomes->lines[i] = line;
        outcomes->count++;
    }
    return 1;
}

PyObject *native_outcomes(PyObject *requests, PyObject *digests, PyObject *factory)
{
    if (!same_length(requests, digests))
        return NULL;
    Outcomes *outcomes = PyObject_New(Outcomes, &OutcomesType);
    if (!outcomes)
        return NULL;
    int together = belong_together(requests, digests);
    outcomes->filled = outcomes->count = 0;
    outcomes->factory = Py_NewRef(factory);
    outcomes->requests = together ? Py_NewRef(requests) : PySequence_Tuple(requests);
    outcomes->digests = together ? Py_NewRef(digests) : PySequence_Tuple(digests);
    Py_ssize_t room = outcomes->requests && outcomes->digests ? PyObject_Size(outcomes->requests) : 0;
    outcomes->lines = PyMem_Malloc((room + 1) * sizeof *outcomes->lines);
    int good = outcomes->requests && outcomes->digests && same_length(outcomes->requests, outcomes->digests);
    if (good && !outcomes->lines) {
        PyErr_NoMemory();
        good = 0;
    }
    if (good && together)
        lines_of_batch(outcomes, (Batch *)requests);
    else if (good)
        good = lines_of_objects(outcomes);
    if (!good)
        Py_CLEAR(outcomes);
    return (PyObject *)outcomes;
}

static void outcomes_dealloc(Outcomes *outcomes)
{
    for (Py_ssize_t i = 0; i < outcomes->count; i++)
        Py_DECREF(outcomes->lines[i].client);
    for (Py_ssize_t i = 0; i < outcomes->filled; i++)
        Py_DECREF(outcomes->lines[i].result);
    PyMem_Free(outcomes->lines);
    Py_XDECREF(outcomes->requests);
    Py_XDECREF(outcomes->digests);
    Py_DECREF(outcomes->factory);
    PyObject_Free(outcomes);
}

/* --- filling in ---------------------------------------------------------------------------------- */

int fill_line(Outcomes *outcomes, PyObject *status, PyObject *result)
{
    long number = PyLong_AsLong(status);
    if (number == -1 && PyErr_Occurred())
        return 0;
    if (number < 0 || number >= CONDENSED || !PyBytes_CheckExact(result)) {
        PyErr_SetString(PyExc_TypeError, "a status below 128 and a result in bytes are expected");
        return 0;
    }
    if (outcomes->filled == outcomes->count) {
        PyErr_SetString(PyExc_IndexError, "every request has its outcome");
        return 0;
    }
    Line *line = outcomes->lines + outcomes->filled++;
    line->status = (uint8_t)number;
    line->result = Py_NewRef(result);
    return 1;
}

static PyObject *outcomes_add(Outcomes *outcomes, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "add(status, result)");
        return NULL;
    }
    return fill_line(outcomes, arguments[0], arguments[1]) ? Py_NewRef(Py_None) : NULL;
}

/* --- encodings ----------------------------------------------------------------------------------- */

#define MOST_LINE (1 + 2 * MOST_INTEGER + 3 * MOST_HEAD + CLIENT_BYTES + SHA256_BYTES + 2)

static uint8_t *write_end(uint8_t *to, const Line *line)
{
    to = write_integer(to, line->status);
    return write_bytes(to, PyBytes_AS_STRING(line->result), (size_t)PyBytes_GET_SIZE(line->result));
}

static uint8_t *write_start(uint8_t *to, const Line *line)
{
    *to++ = 0x96;
    to = write_bytes(to, PyBytes_AS_STRING(line->client), CLIENT_BYTES);
    to = write_integer(to, line->session);
    to = write_integer(to, line->seq);
    return write_bytes(to, line->digest, SHA256_BYTES);
}

static uint8_t *write_receipt(uint8_t *to, const Line *line)
{
    return write_end(write_start(to, line), line);
}

/* What a client's record keeps of a receipt: all but the client and the session. */
static uint8_t *write_answer(uint8_t *to, const Line *line)
{
    *to++ = 0x94;
    to = write_integer(to, line->seq);
    to = write_bytes(to, line->digest, SHA256_BYTES);
    return write_end(to, line);
}

static size_t result_size(const Line *line)
{
    return (size_t)PyBytes_GET_SIZE(line->result);
}

/* Bytes that were written up to `end`, of the more that were reserved. */
static PyObject *cut(PyObject *bytes, const uint8_t *end)
{
    _PyBytes_Resize(&bytes, (const char *)end - PyBytes_AS_STRING(bytes));
    return bytes;
}

/* The line that item `i` of a list of indices names; NULL if there is none. Plain integers only: asking others
 * for their value would run code that may change the list. */
static const Line *named_line(const Outcomes *outcomes, PyObject *indices, Py_ssize_t i)
{
    PyObject *item = PyList_GET_ITEM(indices, i);
    if (!PyLong_CheckExact(item)) {
        PyErr_SetString(PyExc_TypeError, "indices are integers");
        return NULL;
    }
    Py_ssize_t index = PyNumber_AsSsize_t(item, PyExc_IndexError);
    if (index == -1 && PyErr_Occurred())
        return NULL;
    if (index < 0 || index >= outcomes->filled) {
        PyErr_SetString(PyExc_IndexError, "there is no such outcome");
        return NULL;
    }
    return outcomes->lines + index;
}

typedef uint8_t *(*WriteLine)(uint8_t *to, const Line *line);

static PyObject *encode_some(Outcomes *outcomes, PyObject *indices, WriteLine write)
{
    if (!PyList_CheckExact(indices)) {
        PyErr_SetString(PyExc_TypeError, "a list of indices is expected");
        return NULL;
    }
    Py_ssize_t count = PyList_GET_SIZE(indices);
    size_t size = MOST_HEAD + (size_t)count * MOST_LINE;
    for (Py_ssize_t i = 0; i < count; i++) {
        const Line *line = named_line(outcomes, indices, i);
        if (!line)
            return NULL;
        size += result_size(line);
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (!bytes)
        return NULL;
    uint8_t *to = write_array((uint8_t *)PyBytes_AS_STRING(bytes), (uint64_t)count);
    for (Py_ssize_t i = 0; i < count; i++) {
        const Line *line = named_line(outcomes, indices, i);
        if (!line) {
            Py_DECREF(bytes);
            return NULL;
        }
        to = write(to, line);
    }
    return cut(bytes, to);
}

static PyObject *outcomes_answers(Outcomes *outcomes, PyObject *indices)
{
    return encode_some(outcomes, indices, write_answer);
}

static PyObject *outcomes_span(Outcomes *outcomes, PyObject *indices)
{
    uint64_t least = UINT64_MAX, greatest = 0;
    if (!PyList_CheckExact(indices) || PyList_GET_SIZE(indices) == 0) {
        PyErr_SetString(PyExc_ValueError, "a list of indices is expected");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(indices); i++) {
        const Line *line = named_line(outcomes, indices, i);
        if (!line)
            return NULL;
        least = line->seq < least ? line->seq : least;
        greatest = line->seq > greatest ? line->seq : greatest;
    }
    return Py_BuildValue("KK", (unsigned long long)least, (unsigned long long)greatest);
}

static PyObject *encode_all(const Outcomes *outcomes)
{
    size_t size = MOST_HEAD + (size_t)outcomes->filled * MOST_LINE;
    for (Py_ssize_t i = 0; i < outcomes->filled; i++)
        size += result_size(outcomes->lines + i);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (!bytes)
        return NULL;
    uint8_t *to = write_array((uint8_t *)PyBytes_AS_STRING(bytes), (uint64_t)outcomes->filled);
    for (Py_ssize_t i = 0; i < outcomes->filled; i++)
        to = write_receipt(to, outcomes->lines + i);
    return cut(bytes, to);
}

static PyObject *outcomes_encoded(Outcomes *outcomes, PyObject *const *arguments, Py_ssize_t count)
{
    if (count > 1) {
        PyErr_SetString(PyExc_TypeError, "encoded(indices=all of them)");
        return NULL;
    }
    return count ? encode_some(outcomes, arguments[0], write_receipt) : encode_all(outcomes);
}

/* --- who is to be told ------------------------------------------------------------------------------ */

/* `index` joins the list of `connection`. */
static int put_in_group(PyObject *groups, PyObject *connection, PyObject *index)
{
    PyObject *group = PyDict_GetItemWithError(groups, connection);
    if (group)
        return PyList_Append(group, index) == 0;
    group = PyErr_Occurred() ? NULL : PyList_New(0);
    int good = group && PyList_Append(group, index) == 0 && PyDict_SetItem(groups, connection, group) == 0;
    Py_XDECREF(group);
    return good;
}

static int put_in_groups(PyObject *groups, PyObject *connections, Py_ssize_t place)
{
    PyObject *connection, *unused, *index = PyLong_FromSsize_t(place);
    Py_ssize_t at = 0;
    int good = index != NULL;
    if (good && !PyDict_CheckExact(connections)) {
        PyErr_SetString(PyExc_TypeError, "a dict of connections is expected");
        good = 0;
    }
    while (good && PyDict_Next(connections, &at, &connection, &unused))
        good = put_in_group(groups, connection, index);
    Py_XDECREF(index);
    return good;
}

static PyObject *outcomes_grouped(Outcomes *outcomes, PyObject *routes)
{
    if (!PyDict_CheckExact(routes)) {
        PyErr_SetString(PyExc_TypeError, "a dict of routes is expected");
        return NULL;
    }
    PyObject *groups = PyDict_New();
    for (Py_ssize_t i = 0; groups && i < outcomes->filled; i++) {
        PyObject *connections = PyDict_GetItemWithError(routes, outcomes->lines[i].client);
        if (connections ? !put_in_groups(groups, connections, i) : PyErr_Occurred() != NULL)
            Py_CLEAR(groups);
    }
    return groups;
}

/* --- the tree over receipts: see core.receipt_tree and crypto.hash ---------------------------------- */

#define GROUP 8
#define LONG_RESULT 64
static const char GROUP_PREFIX[] = "\x00TEP1/RCG", ROOT_PREFIX[] = "\x02TEP1/RCR", EMPTY_TREE[] = "TEP1/MERKLE/EMPTY";
#define PREFIX_SIZE (sizeof GROUP_PREFIX - 1)

/* A receipt as it stands in the tree: a long result by its hash, and the status marked. */
static uint8_t *write_condensed(uint8_t *to, const Line *line)
{
    if (result_size(line) <= LONG_RESULT)
        return write_receipt(to, line);
    uint8_t digest[SHA256_BYTES];
    sha256_of(digest, PyBytes_AS_STRING(line->result), result_size(line));
    to = write_start(to, line);
    to = write_integer(to, line->status | CONDENSED);
    return write_bytes(to, digest, SHA256_BYTES);
}

static void hash_groups(const Outcomes *outcomes, uint8_t (*hashes)[SHA256_BYTES], size_t groups)
{
    uint8_t buffer[PREFIX_SIZE + MOST_HEAD + GROUP * (MOST_LINE + LONG_RESULT)];
    memcpy(buffer, GROUP_PREFIX, PREFIX_SIZE);
    for (size_t i = 0; i < groups; i++) {
        const Line *line = outcomes->lines + i * GROUP;
        size_t rest = (size_t)outcomes->filled - i * GROUP, count = rest < GROUP ? rest : GROUP;
        uint8_t *to = write_array(buffer + PREFIX_SIZE, count);
        for (size_t j = 0; j < count; j++)
            to = write_condensed(to, line + j);
        sha256_of(hashes[i], buffer, (size_t)(to - buffer));
    }
}

/* The top of the tree over `width` hashes, in their place: an odd one moves up as it is. */
static void fold(uint8_t (*hashes)[SHA256_BYTES], size_t width)
{
    uint8_t pair[1 + 2 * SHA256_BYTES] = {1};
    while (width > 1) {
        for (size_t i = 0; i < width / 2; i++) {
            memcpy(pair + 1, hashes[2 * i], 2 * SHA256_BYTES);
            sha256_of(hashes[i], pair, sizeof pair);
        }
        if (width % 2)
            memmove(hashes[width / 2], hashes[width - 1], SHA256_BYTES);
        width = (width + 1) / 2;
    }
}

/* `hash` becomes the hash of `prefix`, a number of eight bytes, little end first, and itself. */
static void bind(uint8_t hash[SHA256_BYTES], const void *prefix, size_t prefix_size, size_t count)
{
    uint8_t number[8];
    Sha256 bound;
    for (int i = 0; i < 8; i++)
        number[i] = (uint8_t)((uint64_t)count >> 8 * i);
    sha256_init(&bound);
    sha256_update(&bound, prefix, prefix_size);
    sha256_update(&bound, number, sizeof number);
    sha256_update(&bound, hash, SHA256_BYTES);
    sha256_final(&bound, hash);
}

static PyObject *outcomes_root(Outcomes *outcomes, PyObject *unused)
{
    (void)unused;
    size_t groups = ((size_t)outcomes->filled + GROUP - 1) / GROUP;
    uint8_t(*hashes)[SHA256_BYTES] = PyMem_Malloc((groups + 1) * SHA256_BYTES);
    if (!hashes)
        return PyErr_NoMemory();
    if (groups) {
        hash_groups(outcomes, hashes, groups);
        fold(hashes, groups);
        bind(hashes[0], ROOT_PREFIX, 1, groups);
        bind(hashes[0], ROOT_PREFIX, PREFIX_SIZE, (size_t)outcomes->filled);
    } else {
        sha256_of(hashes[0], EMPTY_TREE, sizeof EMPTY_TREE - 1);
    }
    PyObject *root = PyBytes_FromStringAndSize((const char *)hashes[0], SHA256_BYTES);
    PyMem_Free(hashes);
    return root;
}

/* --- as a sequence of receipts --------------------------------------------------------------------- */

static Py_ssize_t outcomes_length(Outcomes *outcomes)
{
    return outcomes->filled;
}

static PyObject *outcomes_item(Outcomes *outcomes, Py_ssize_t index)
{
    if (index < 0 || index >= outcomes->filled) {
        PyErr_SetString(PyExc_IndexError, "there is no such outcome");
        return NULL;
    }
    const Line *line = outcomes->lines + index;
    PyObject *fields[6] = {
        Py_NewRef(line->client),
        PyLong_FromUnsignedLongLong(line->session),
        PyLong_FromUnsignedLongLong(line->seq),
        PyBytes_FromStringAndSize((const char *)line->digest, SHA256_BYTES),
        PyLong_FromLong(line->status),
        Py_NewRef(line->result),
    };
    return make_object(outcomes->factory, 6, fields);
}

static PyObject *outcomes_subscript(Outcomes *outcomes, PyObject *key)
{
    Py_ssize_t start, stop, step;
    if (!PySlice_Check(key))
        return plain_index(key, outcomes->filled, &start) ? outcomes_item(outcomes, start) : NULL;
    if (PySlice_Unpack(key, &start, &stop, &step) < 0)
        return NULL;
    Py_ssize_t count = PySlice_AdjustIndices(outcomes->filled, &start, &stop, step);
    PyObject *found = PyList_New(count);
    for (Py_ssize_t i = 0; found && i < count; i++) {
        PyObject *receipt = outcomes_item(outcomes, start + i * step);
        if (receipt)
            PyList_SET_ITEM(found, i, receipt);
        else
            Py_CLEAR(found);
    }
    return found;
}

/* Equal to a sequence of the same receipts, of either kind. */
static PyObject *outcomes_compare(PyObject *one, PyObject *other, int operation)
{
    if ((operation != Py_EQ && operation != Py_NE) || !(PyList_Check(other) || Py_IS_TYPE(other, &OutcomesType)))
        Py_RETURN_NOTIMPLEMENTED;
    PyObject *mine = PySequence_List(one), *theirs = mine ? PySequence_List(other) : NULL;
    PyObject *found = theirs ? PyObject_RichCompare(mine, theirs, operation) : NULL;
    Py_XDECREF(mine);
    Py_XDECREF(theirs);
    return found;
}

static PyMethodDef outcomes_methods[] = {
    {"add", (PyCFunction)(void (*)(void))outcomes_add, METH_FASTCALL, "add(status, result): of the next request."},
    {"advance", (PyCFunction)outcomes_advance, METH_VARARGS,
     "advance(lanes, context, apply, room) -> room: execute what comes next as long as it is in order."},
    {"encoded", (PyCFunction)(void (*)(void))outcomes_encoded, METH_FASTCALL,
     "encoded(indices=all of them) -> receipts in the wire encoding."},
    {"grouped", (PyCFunction)outcomes_grouped, METH_O,
     "grouped(routes) -> indices by connection, for connections by client."},
    {"answers", (PyCFunction)outcomes_answers, METH_O, "answers(indices) -> what a client's record keeps of them."},
    {"span", (PyCFunction)outcomes_span, METH_O, "span(indices) -> the least and the greatest number among them."},
    {"root", (PyCFunction)outcomes_root, METH_NOARGS, "root() -> the root of the tree over receipts."},
    {0},
};
static PySequenceMethods outcomes_sequence = {
    .sq_length = (lenfunc)outcomes_length,
    .sq_item = (ssizeargfunc)outcomes_item,
};
static PyMappingMethods outcomes_mapping = {
    .mp_length = (lenfunc)outcomes_length,
    .mp_subscript = (binaryfunc)outcomes_subscript,
};
PyTypeObject OutcomesType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "tepbft.native._native.Outcomes",
    .tp_doc = "What became of the requests of a block, so far, in order: a sequence of receipts.",
    .tp_basicsize = sizeof(Outcomes),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)outcomes_dealloc,
    .tp_richcompare = outcomes_compare,
    .tp_hash = PyObject_HashNotImplemented,
    .tp_as_sequence = &outcomes_sequence,
    .tp_as_mapping = &outcomes_mapping,
    .tp_methods = outcomes_methods,
};
