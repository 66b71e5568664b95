/* Verifying the signatures of a batch in one call, without the interpreter in between: it calls the functions
 * of the library that verifies, whose addresses it is given. */
#include "native.h"

#define SIGNATURE_BYTES 64
#define ECDSA_KEY_BYTES 64 /* libsecp256k1's own form of a key, and of a signature */
#define EDDSA_KEY_BYTES 32

typedef int (*ParseCompact)(const void *context, void *signature, const uint8_t *input64);
typedef int (*EcdsaVerify)(const void *context, const void *signature, const uint8_t *digest32, const void *key);
typedef int (*SignOpen)(uint8_t *message, unsigned long long *size, const uint8_t *signed_message,
                        unsigned long long signed_size, const uint8_t *key);

/* How one signature is verified; `good` gives 1 if it is its key's. */
typedef struct Scheme {
    int (*good)(const struct Scheme *scheme, const uint8_t *key, const uint8_t *digest, const uint8_t *signature);
    Py_ssize_t key_bytes;
    ParseCompact parse;
    EcdsaVerify verify;
    const void *context;
    SignOpen open;
} Scheme;

static int ecdsa_good(const Scheme *scheme, const uint8_t *key, const uint8_t *digest, const uint8_t *signature)
{
    _Alignas(16) uint8_t parsed[ECDSA_KEY_BYTES];
    return scheme->parse(scheme->context, parsed, signature) &&
           scheme->verify(scheme->context, parsed, digest, key);
}

static int eddsa_good(const Scheme *scheme, const uint8_t *key, const uint8_t *digest, const uint8_t *signature)
{
    uint8_t whole[SIGNATURE_BYTES + SHA256_BYTES], message[SIGNATURE_BYTES + SHA256_BYTES];
    unsigned long long size;
    memcpy(whole, signature, SIGNATURE_BYTES);
    memcpy(whole + SIGNATURE_BYTES, digest, SHA256_BYTES);
    return scheme->open(message, &size, whole, sizeof whole, key) == 0;
}

/* The key of each of the batch's clients, NULL for a stranger; they stay as long as `keys` does not change. */
static const uint8_t **keys_of(const Batch *batch, PyObject *keys, Py_ssize_t key_bytes)
{
    const uint8_t **found = PyMem_Calloc((size_t)batch->clients_count + 1, sizeof *found);
    if (!found)
        return (const uint8_t **)PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < batch->clients_count; i++) {
        PyObject *key = PyDict_GetItemWithError(keys, batch->clients[i]);
        if (!key && !PyErr_Occurred())
            continue;
        if (key && PyBytes_CheckExact(key) && PyBytes_GET_SIZE(key) == key_bytes) {
            found[i] = (const uint8_t *)PyBytes_AS_STRING(key);
            continue;
        }
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_TypeError, "a key is %zd bytes", key_bytes);
        PyMem_Free(found);
        return NULL;
    }
    return found;
}

static PyObject *listed(const uint8_t *bad, Py_ssize_t count)
{
    PyObject *indices = PyList_New(0);
    for (Py_ssize_t i = 0; indices && i < count; i++) {
        if (!bad[i])
            continue;
        PyObject *index = PyLong_FromSsize_t(i);
        if (!index || PyList_Append(indices, index) < 0)
            Py_CLEAR(indices);
        Py_XDECREF(index);
    }
    return indices;
}

static PyObject *verify(const Scheme *scheme, PyObject *keys, PyObject *requests, PyObject *digests)
{
    if (!belong_together(requests, digests))
        Py_RETURN_NONE;
    const Batch *batch = (Batch *)requests;
    const uint8_t **found = keys_of(batch, keys, scheme->key_bytes);
    uint8_t *bad = found ? PyMem_Calloc((size_t)batch->count + 1, 1) : NULL;
    if (!bad) {
        PyMem_Free(found);
        return found ? PyErr_NoMemory() : NULL;
    }
    const uint8_t *body = (const uint8_t *)PyBytes_AS_STRING(batch->body);
    Py_BEGIN_ALLOW_THREADS; /* a batch never changes, and the caller holds it and the keys */
    for (Py_ssize_t i = 0; i < batch->count; i++) {
        const Row *row = batch->rows + i;
        const uint8_t *key = found[row->client];
        bad[i] = !key || row->auth_size != SIGNATURE_BYTES ||
                 !scheme->good(scheme, key, row->digest, body + row->auth);
    }
    Py_END_ALLOW_THREADS;
    PyObject *indices = listed(bad, batch->count);
    PyMem_Free(bad);
    PyMem_Free(found);
    return indices;
}

PyObject *native_verify_ecdsa(PyObject *arguments)
{
    unsigned long long parse, check, context;
    PyObject *keys, *requests, *digests;
    if (!PyArg_ParseTuple(arguments, "KKKO!OO", &parse, &check, &context, &PyDict_Type, &keys, &requests, &digests))
        return NULL;
    const Scheme scheme = {
        .good = ecdsa_good,
        .key_bytes = ECDSA_KEY_BYTES,
        .parse = (ParseCompact)(uintptr_t)parse,
        .verify = (EcdsaVerify)(uintptr_t)check,
        .context = (const void *)(uintptr_t)context,
    };
    return verify(&scheme, keys, requests, digests);
}

PyObject *native_verify_eddsa(PyObject *arguments)
{
    unsigned long long open;
    PyObject *keys, *requests, *digests;
    if (!PyArg_ParseTuple(arguments, "KO!OO", &open, &PyDict_Type, &keys, &requests, &digests))
        return NULL;
    const Scheme scheme = {.good = eddsa_good, .key_bytes = EDDSA_KEY_BYTES, .open = (SignOpen)(uintptr_t)open};
    return verify(&scheme, keys, requests, digests);
}
