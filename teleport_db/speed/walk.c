/* The headers of what a database sends: see teleport_db/pgwire/walk.py.  A part of _speed.c. */

#define HEADER_SIZE 5
#define MAX_LENGTH 0x3fffffff

static Py_ssize_t kept[256]; /* bytes of the body that are kept of each type, -1: it is only counted */

static uint32_t
number32(at_t in)
{
    return (uint32_t)in[0] << 24 | (uint32_t)in[1] << 16 | (uint32_t)in[2] << 8 | in[3];
}

/* 0, or -1 with an exception. */
static int
get_size(PyObject *given, Py_ssize_t *size)
{
    *size = PyLong_AsSsize_t(given);
    return *size == -1 && PyErr_Occurred() ? -1 : 0;
}

/* 0, or -1 with an exception. */
static int
take_arguments(Py_ssize_t count, Py_ssize_t expected)
{
    if (count != expected)
        PyErr_Format(PyExc_TypeError, "it takes %zd arguments, not %zd", expected, count);
    return count == expected ? 0 : -1;
}

/* A tuple of what is made for it, which it takes; NULL with an exception when one of it could not be made. */
static PyObject *
tuple_of(PyObject **made, Py_ssize_t count)
{
    PyObject *tuple = PyTuple_New(count);
    for (Py_ssize_t at = 0; at < count; at++) {
        if (made[at] == NULL)
            Py_CLEAR(tuple);
        if (tuple == NULL)
            Py_XDECREF(made[at]);
        else if (PyTuple_SetItem(tuple, at, made[at]) < 0)
            Py_CLEAR(tuple);
    }
    return tuple;
}

static PyObject *
walk(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    char *bytes;
    Py_ssize_t end, left, rows, size, position, start = 0;
    if (take_arguments(count, 4) < 0 || PyBytes_AsStringAndSize(given[0], &bytes, &end) < 0 ||
        get_size(given[1], &left) < 0 || get_size(given[2], &rows) < 0 || get_size(given[3], &size) < 0)
        return NULL;
    if (left < 0) {
        PyErr_SetString(PyExc_ValueError, "left is negative");
        return NULL;
    }
    PyObject *answers = PyList_New(0);
    if (answers == NULL)
        return NULL;
    if (left >= end)
        return Py_BuildValue("(Nnnny#)", answers, left - end, rows, size + end, "", (Py_ssize_t)0);
    at_t data = (at_t)bytes;
    for (position = left; position <= end - HEADER_SIZE;) {
        at_t header = data + position;
        unsigned long length = number32(header + 1);
        if (length < 4 || length > MAX_LENGTH) {
            PyErr_Format(protocol_error, "the database sent a message with an impossible length, %lu", length);
            Py_DECREF(answers);
            return NULL;
        }
        Py_ssize_t following = position + 1 + (Py_ssize_t)length;
        Py_ssize_t keep = kept[header[0]];
        if (keep < 0) {
            rows += header[0] == 'D';
            position = following;
            continue;
        }
        Py_ssize_t body = position + HEADER_SIZE;
        Py_ssize_t needed = body + keep < following ? body + keep : following;
        if (needed > end)
            break;
        Py_ssize_t answered = following < end ? following : end;
        PyObject *made[] = {PyLong_FromLong(header[0]), PyBytes_FromStringAndSize(bytes + body, needed - body),
                            PyLong_FromSsize_t(rows), PyLong_FromSsize_t(size + answered - start)};
        PyObject *answer = tuple_of(made, 4);
        if (answer == NULL || PyList_Append(answers, answer) < 0) {
            Py_XDECREF(answer);
            Py_DECREF(answers);
            return NULL;
        }
        Py_DECREF(answer);
        rows = size = 0;
        start = answered;
        position = following;
    }
    if (position >= end)
        return Py_BuildValue("(Nnnny#)", answers, position - end, rows, size + end - start, "", (Py_ssize_t)0);
    return Py_BuildValue("(Nnnny#)", answers, (Py_ssize_t)0, rows, size + position - start, bytes + position,
                         end - position);
}
