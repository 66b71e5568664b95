/* The common case of execution: the next request of a client whose requests come in order. */
#include "native.h"

#include <structmember.h>

/* --- lanes --------------------------------------------------------------------------------------- */

/* See `execution.outcomes.Lane`. */
typedef struct {
    PyObject_HEAD
    unsigned long long session, expected;
    PyObject *answers; /* a list of indices of outcomes */
} Lane;

static PyObject *lane_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    unsigned long long session, expected;
    PyObject *answers;
    static char *names[] = {"session", "expected", "answers", NULL};
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "KKO!", names, &session, &expected, &PyList_Type, &answers))
        return NULL;
    Lane *lane = (Lane *)type->tp_alloc(type, 0);
    if (!lane)
        return NULL;
    lane->session = session;
    lane->expected = expected;
    lane->answers = Py_NewRef(answers);
    return (PyObject *)lane;
}

static int lane_traverse(Lane *lane, visitproc visit, void *arg)
{
    Py_VISIT(lane->answers);
    return 0;
}

static int lane_clear(Lane *lane)
{
    Py_CLEAR(lane->answers);
    return 0;
}

static void lane_dealloc(Lane *lane)
{
    PyObject_GC_UnTrack(lane);
    lane_clear(lane);
    Py_TYPE(lane)->tp_free(lane);
}

static PyMemberDef lane_members[] = {
    {"session", T_ULONGLONG, offsetof(Lane, session), 0, NULL},
    {"expected", T_ULONGLONG, offsetof(Lane, expected), 0, "The number that is next."},
    {"answers", T_OBJECT_EX, offsetof(Lane, answers), READONLY, NULL},
    {0},
};
PyTypeObject LaneType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "tepbft.native._native.Lane",
    .tp_doc = "Lane(session, expected, answers): a client whose requests come in order.",
    .tp_basicsize = sizeof(Lane),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = lane_new,
    .tp_traverse = (traverseproc)lane_traverse,
    .tp_clear = (inquiry)lane_clear,
    .tp_dealloc = (destructor)lane_dealloc,
    .tp_members = lane_members,
};

/* --- going on ------------------------------------------------------------------------------------ */

/* The operation of a request, as bytes of its own. */
static PyObject *operation_at(const Outcomes *outcomes, Py_ssize_t index)
{
    if (Py_IS_TYPE(outcomes->requests, &BatchType)) {
        const Batch *batch = (Batch *)outcomes->requests;
        return batch_part_of(batch, batch->rows[index].op, batch->rows[index].op_size);
    }
    return PyObject_GetAttr(PyTuple_GET_ITEM(outcomes->requests, index), name_op);
}

/* What `apply` returned: (status, result). `room` is what is left after a result that counts. */
static int take_result(Outcomes *outcomes, PyObject *found, Py_ssize_t *room)
{
    if (!PyTuple_CheckExact(found) || PyTuple_GET_SIZE(found) != 2) {
        PyErr_SetString(PyExc_TypeError, "status and result are expected");
        return 0;
    }
    if (!fill_line(outcomes, PyTuple_GET_ITEM(found, 0), PyTuple_GET_ITEM(found, 1)))
        return 0;
    const Line *line = outcomes->lines + outcomes->filled - 1;
    if (line->status == STATUS_OK)
        *room -= PyBytes_GET_SIZE(line->result);
    return 1;
}

/* Executes the next request. `lane` is its client's, and has it next. */
static int execute_next(Outcomes *outcomes, Lane *lane, PyObject *context, PyObject *apply, Py_ssize_t *room)
{
    Py_ssize_t index = outcomes->filled;
    PyObject *answers = Py_NewRef(lane->answers);
    PyObject *arguments[3] = {context, operation_at(outcomes, index), PyLong_FromSsize_t(*room)};
    PyObject *place = PyLong_FromSsize_t(index), *found = NULL;
    lane->expected++;
    if (arguments[1] && arguments[2] && place && set_client(context, outcomes->lines[index].client))
        found = PyObject_Vectorcall(apply, arguments, 3, NULL);
    int good = 0;
    if (found && outcomes->filled != index)
        PyErr_SetString(PyExc_RuntimeError, "an operation cannot execute others");
    else if (found)
        good = take_result(outcomes, found, room) && PyList_Append(answers, place) == 0;
    Py_XDECREF(found);
    Py_XDECREF(place);
    Py_XDECREF(arguments[1]);
    Py_XDECREF(arguments[2]);
    Py_DECREF(answers);
    return good;
}

PyObject *outcomes_advance(Outcomes *outcomes, PyObject *arguments)
{
    PyObject *lanes, *context, *apply;
    Py_ssize_t room;
    if (!PyArg_ParseTuple(arguments, "O!OOn", &PyDict_Type, &lanes, &context, &apply, &room))
        return NULL;
    while (outcomes->filled < outcomes->count) {
        const Line *line = outcomes->lines + outcomes->filled;
        PyObject *found = PyDict_GetItemWithError(lanes, line->client);
        if (!found && PyErr_Occurred())
            return NULL;
        if (!found || !Py_IS_TYPE(found, &LaneType))
            break;
        Lane *lane = (Lane *)found;
        if (lane->expected != line->seq || lane->session != line->session)
            break;
        Py_INCREF(lane);
        int good = execute_next(outcomes, lane, context, apply, &room);
        Py_DECREF(lane);
        if (!good)
            return NULL;
    }
    return PyLong_FromSsize_t(room);
}
