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
    PyObject *prefix, *body, *factory;
    Row *rows;
    PyObject **clients; /* each client's bytes once, so that dicts find them by identity */
    Py_ssize_t count, clients_count;
} Batch;

typedef struct {
    PyObject_HEAD
    Batch *batch;
} Digests;

/* What became of one request; the client and, with the requests, the digest are held elsewhere too. */
typedef struct {
    PyObject *client, *result; /* a result once it is filled in */
    const uint8_t *digest;
    uint64_t session, seq;
    uint8_t status;
} Line;

typedef struct {
    PyObject_HEAD
    PyObject *requests, *digests; /* a Batch and its Digests, or a tuple each */
    PyObject *factory;            /* makes a receipt */
    Line *lines;
    Py_ssize_t filled, count;
} Outcomes;

#define STATUS_OK 0

extern PyTypeObject BatchType, DigestsType, WalkType, OutcomesType, LaneType, WritesType;

/* requests.c */
PyObject *native_open_body(PyObject *prefix, PyObject *body, PyObject *factory, const NativeLimits *limits);
/* An empty batch for so many requests, of so many clients at most. */
Batch *batch_with_room(PyObject *prefix, PyObject *body, PyObject *factory, Py_ssize_t count);
/* True if the digests in the batch were computed with that prefix (40 bytes). */
int same_prefix(const Batch *batch, PyObject *prefix);
void digest_request(uint8_t digest[SHA256_BYTES], const uint8_t *prefix, const uint8_t *client,
                    uint64_t session, uint64_t seq, const uint8_t *op, uint32_t op_size);
PyObject *batch_part_of(const Batch *batch, uint32_t place, uint32_t size);
PyObject *row_digest(const Row *row);
int plain_index(PyObject *key, Py_ssize_t length, Py_ssize_t *index);
/* A tuple of `count` new references; NULL, and they are given back, if one of them is NULL. */
PyObject *pack_tuple(int count, PyObject **items);
/* What `factory` makes of `count` new references, which are given up; NULL if one of them is. */
PyObject *make_object(PyObject *factory, int count, PyObject **fields);

/* join.c */
PyObject *native_join(PyObject *parts);
PyObject *native_runs(PyObject *requests);

/* walk.c */
/* Names of what requests as objects, and contexts, are asked for. */
extern PyObject *name_client, *name_session, *name_seq, *name_op, *name_auth;
int names_ready(void);
/* True if these are a Batch and the Digests of just that. */
int belong_together(PyObject *requests, PyObject *digests);
/* The number that `request` has under `name`; 0 with an exception if there is none that fits. */
int whole_number(PyObject *request, PyObject *name, uint64_t *value);
PyObject *native_signed(PyObject *requests, PyObject *digests);
PyObject *native_request_digests(PyObject *prefix, PyObject *requests);

/* outcomes.c */
PyObject *native_outcomes(PyObject *requests, PyObject *digests, PyObject *factory);
/* The outcome of the next request; 0 with an exception if it is none. */
int fill_line(Outcomes *outcomes, PyObject *status, PyObject *result);

/* execute.c */
PyObject *outcomes_advance(Outcomes *outcomes, PyObject *arguments);

/* writes.c */
int set_client(PyObject *context, PyObject *client);
PyObject *native_write_set_digest(PyObject *writes);

/* order.c */
PyObject *native_write_in_order(PyObject *writes, PyObject *prefix, PyObject *put, PyObject *erase);


/* verify.c */
PyObject *native_verify_ecdsa(PyObject *arguments);
PyObject *native_verify_eddsa(PyObject *arguments);

#endif
