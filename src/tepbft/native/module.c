/* The extension module: what Python may call. `tepbft.core.requests` says what each function means. */
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

static PyObject *walk(PyObject *arguments, WalkKind kind)
{
    PyObject *requests, *digests;
    if (!PyArg_ParseTuple(arguments, "OO", &requests, &digests))
        return NULL;
    return native_walk(requests, digests, kind);
}

static PyObject *with_authenticators(PyObject *module, PyObject *arguments)
{
    (void)module;
    return walk(arguments, SIGNED);
}

static PyObject *with_operations(PyObject *module, PyObject *arguments)
{
    (void)module;
    return walk(arguments, ROWS);
}

static PyMethodDef functions[] = {
    {"open_body", open_body, METH_VARARGS,
     "open_body(prefix, body, factory, max_requests, max_operation, max_authenticator) -> Batch; ValueError "
     "for what is no body in its canonical encoding."},
    {"request_digests", request_digests, METH_VARARGS, "request_digests(prefix, requests) -> list of digests."},
    {"with_authenticators", with_authenticators, METH_VARARGS,
     "with_authenticators(requests, digests) -> iterator of (client, digest, auth)."},
    {"with_operations", with_operations, METH_VARARGS,
     "with_operations(requests, digests) -> iterator of (client, session, seq, op, digest)."},
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
    if (!sha256_available()) {
        PyErr_SetString(PyExc_ImportError, "this processor has no instructions for SHA-256");
        return NULL;
    }
    if (PyType_Ready(&BatchType) < 0 || PyType_Ready(&DigestsType) < 0 || PyType_Ready(&WalkType) < 0 ||
        !walk_ready())
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module && (PyModule_AddObjectRef(module, "Batch", (PyObject *)&BatchType) < 0 ||
                   PyModule_AddObjectRef(module, "Digests", (PyObject *)&DigestsType) < 0))
        Py_CLEAR(module);
    return module;
}
