/* What the files of the extension share. */
#ifndef TEPBFT_NATIVE_H
#define TEPBFT_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "sha256.h"

#define CLIENT_BYTES 16
#define PREFIX_BYTES 40 /* the tag and the name of the chain, at the head of what a digest covers */

/* Bounds of what a body may hold. */
typedef struct {
    uint64_t requests, operation, authenticator;
} NativeLimits;

/* A request: its numbers, where the rest of it stands in the body, and its digest. */
typedef struct {
    uint64_t session, seq;
    uint32_t client; /* index into `clients` */
    uint32_t op, op_size, auth, auth_size;
    uint8_t digest[SHA256_BYTES];
} Row;

/* All requests of a body, or some that follow one another. */
typedef struct {
    PyObject_HEAD
    PyObject *whole; /* the batch that owns all below, if this is a part of one; else NULL */
    PyObject *body, *factory;
    Row *rows;
    PyObject **clients; /* each client's bytes once, so that dicts find them by identity */
    Py_ssize_t count, clients_count;
} Batch;

typedef struct {
    PyObject_HEAD
    Batch *batch;
} Digests;

extern PyTypeObject BatchType, DigestsType, WalkType;

/* requests.c */
PyObject *native_open_body(PyObject *prefix, PyObject *body, PyObject *factory, const NativeLimits *limits);
void digest_request(uint8_t digest[SHA256_BYTES], const uint8_t *prefix, const uint8_t *client,
                    uint64_t session, uint64_t seq, const uint8_t *op, uint32_t op_size);
PyObject *batch_part_of(const Batch *batch, uint32_t place, uint32_t size);
PyObject *row_digest(const Row *row);
/* A tuple of `count` new references; NULL, and they are given back, if one of them is NULL. */
PyObject *pack_tuple(int count, PyObject **items);

/* walk.c */
typedef enum { SIGNED, ROWS } WalkKind;
PyObject *native_walk(PyObject *requests, PyObject *digests, WalkKind kind);
PyObject *native_request_digests(PyObject *prefix, PyObject *requests);
int walk_ready(void);

#endif
