/* The extension module: what Python may call. `core/requests.py`, `execution/outcomes.py`,
 * `execution/writes.py`, `storage/batch.py`, `crypto/secp256k1.py` and `crypto/ed25519.py` say what it means. */
#include "native.h"

static PyObject *open_body(PyObject *module, PyObject *arguments)
{
    PyObject *prefix, *body, *factory;
    unsigned long long requests, operation, authenticator;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOOKKK", &prefix, &body, &factory, &requests, &operation, &authenticator))
        return NULL;
    NativeLimits limits = {requests, operation, authenticator};
    return native_open_body(prefix, body, factory, &limits);
}

static PyObject *request_digests(PyObject *module, PyObject *arguments)
{
    PyObject *prefix, *requests;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OO", &prefix, &requests))
        return NULL;
    return native_request_digests(prefix, requests);
}

static PyObject *with_authenticators(PyObject *module, PyObject *arguments)
{
    PyObject *requests, *digests;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OO", &requests, &digests))
        return NULL;
    return native_signed(requests, digests);
}

static PyObject *join(PyObject *module, PyObject *parts)
{
    (void)module;
    return native_join(parts);
}

static PyObject *runs(PyObject *module, PyObject *requests)
{
    (void)module;
    return native_runs(requests);
}

static PyObject *outcomes(PyObject *module, PyObject *arguments)
{
    PyObject *requests, *digests, *factory;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOO", &requests, &digests, &factory))
        return NULL;
    return native_outcomes(requests, digests, factory);
}

static PyObject *write_set_digest(PyObject *module, PyObject *writes)
{
    (void)module;
    return native_write_set_digest(writes);
}

static PyObject *write_in_order(PyObject *module, PyObject *arguments)
{
    PyObject *writes, *prefix, *put, *erase;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOOO", &writes, &prefix, &put, &erase))
        return NULL;
    return native_write_in_order(writes, prefix, put, erase);
}

static PyObject *verify_ecdsa(PyObject *module, PyObject *arguments)
{
    (void)module;
    return native_verify_ecdsa(arguments);
}

static PyObject *verify_eddsa(PyObject *module, PyObject *arguments)
{
    (void)module;
    return native_verify_eddsa(arguments);
}

static PyObject *sha256_plain(PyObject *module, PyObject *data)
{
    char *bytes;
    Py_ssize_t length;
    uint8_t digest[SHA256_BYTES];
    (void)module;
    if (PyBytes_AsStringAndSize(data, &bytes, &length) < 0)
        return NULL;
    sha256_choose(1);
    sha256_of(digest, bytes, (size_t)length);
    sha256_choose(0);
    return PyBytes_FromStringAndSize((const char *)digest, sizeof digest);
}

static PyMethodDef functions[] = {
    {"open_body", open_body, METH_VARARGS,
     "open_body(prefix, body, factory, max_requests, max_operation, max_authenticator) -> Batch; ValueError "
     "for what is no body in its canonical encoding."},
    {"request_digests", request_digests, METH_VARARGS, "request_digests(prefix, requests) -> digests, in order."},
    {"join", join, METH_O, "join(batches) -> a batch of all their requests, in order; one at least."},
    {"runs", runs, METH_O,
     "runs(batch) -> list of (client, session, first number, count): requests numbered one by one."},
    {"with_authenticators", with_authenticators, METH_VARARGS,
     "with_authenticators(requests, digests) -> iterator of (client, digest, auth)."},
    {"outcomes", outcomes, METH_VARARGS, "outcomes(requests, digests, factory) -> Outcomes, none of them known yet."},
    {"write_set_digest", write_set_digest, METH_O, "write_set_digest(writes) -> digest of a dict of bytes."},
    {"write_in_order", write_in_order, METH_VARARGS,
     "write_in_order(writes, prefix, put, delete): calls put(prefix + key, value), or delete(prefix + key) for None, "
     "by ascending key."},
    {"sha256_plain", sha256_plain, METH_O,
     "sha256_plain(data) -> digest, by the C that serves processors without instructions for it: for tests."},
    {"verify_ecdsa", verify_ecdsa, METH_VARARGS,
     "verify_ecdsa(parse, verify, context, keys, requests, digests) -> indices of those that are not their "
     "client's; None for what is no table. Addresses of libsecp256k1's functions and context; its form of keys."},
    {"verify_eddsa", verify_eddsa, METH_VARARGS,
     "verify_eddsa(open, keys, requests, digests) -> the same with Ed25519; the address of crypto_sign_open."},
    {0},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "tepbft.native._native",
    .m_doc = "Hot loops over requests. Each has a twin in Python that gives the same.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__native(void)
{
    sha256_choose(0);
    PyTypeObject *types[] = {&BatchType, &DigestsType, &WalkType, &OutcomesType, &LaneType, &WritesType};
    const char *names[] = {"Batch", "Digests", NULL, "Outcomes", "Lane", "Writes"};
    PyObject *module = names_ready() ? PyModule_Create(&definition) : NULL;
    for (size_t i = 0; module && i < sizeof types / sizeof *types; i++) {
        if (PyType_Ready(types[i]) < 0 ||
            (names[i] && PyModule_AddObjectRef(module, names[i], (PyObject *)types[i]) < 0))
            Py_CLEAR(module);
    }
    return module;
}
