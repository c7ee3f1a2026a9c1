/* The log's lines of such a run: see teleport_db/audit/logfile.py.  A part of _speed.c. */

static PyObject *sha256; /* hashlib.sha256 */
static PyObject *hexdigest;

#define CHAIN 64
static const char before_event[] = ",\"event\":", before_chain[] = ",\"chain\":\"", behind_chain[] = "\"}\n";

/* The chain value of a line of `size` bytes, given that of the line before, which it takes the place of: 0 or -1. */
static int
next_chain(char *chain, Py_ssize_t chain_size, const char *line, Py_ssize_t size)
{
    PyObject *both = PyBytes_FromStringAndSize(NULL, chain_size + size), *hash = NULL, *digest = NULL;
    Py_ssize_t length = 0;
    const char *text = NULL;
    if (both != NULL) {
        char *into = PyBytes_AsString(both);
        memcpy(into, chain, chain_size);
        memcpy(into + chain_size, line, size);
        hash = PyObject_CallFunctionObjArgs(sha256, both, NULL);
    }
    if (hash != NULL)
        digest = PyObject_CallMethodObjArgs(hash, hexdigest, NULL);
    if (digest != NULL)
        text = PyUnicode_AsUTF8AndSize(digest, &length);
    if (text != NULL && length == CHAIN)
        memcpy(chain, text, CHAIN);
    else if (text != NULL)
        PyErr_SetString(PyExc_ValueError, "a SHA-256 has 64 digits");
    Py_XDECREF(both);
    Py_XDECREF(hash);
    Py_XDECREF(digest);
    return text != NULL && length == CHAIN ? 0 : -1;
}

static PyObject *
chain_run(PyObject *module, PyObject *arguments)
{
    const char *head, *content, *bytes, *given;
    Py_ssize_t head_size, size, places_size, given_size, begin, end, room = 0;
    long long first;
    char chain[CHAIN];
    if (!PyArg_ParseTuple(arguments, "y#Ly#y#nns#:chain_run", &head, &head_size, &first, &content, &size, &bytes,
                          &places_size, &begin, &end, &given, &given_size))
        return NULL;
    int64_t place[2];
    if (first < 0 || begin < 0 || begin > end || end > places_size / (Py_ssize_t)sizeof place || given_size > CHAIN) {
        PyErr_SetString(PyExc_ValueError, "there is no such run");
        return NULL;
    }
    for (Py_ssize_t at = begin; at < end; at++) {
        memcpy(place, bytes + at * sizeof place, sizeof place);
        if (place[0] < 0 || place[0] > place[1] || place[1] > size) {
            PyErr_SetString(PyExc_ValueError, "an event is not in the content");
            return NULL;
        }
        room += head_size + 20 + (Py_ssize_t)(place[1] - place[0]) + CHAIN + sizeof before_event + sizeof before_chain +
                sizeof behind_chain;
    }
    memcpy(chain, given, given_size);
    text_writer writer;
    if (open_writer(&writer, room) < 0)
        return NULL;
    for (Py_ssize_t at = begin; at < end; at++) {
        char *line = writer.in;
        memcpy(place, bytes + at * sizeof place, sizeof place);
        put(&writer, head, head_size);
        put_number(&writer, (unsigned long long)first + (unsigned long long)at, 1);
        PUT(&writer, before_event);
        put(&writer, content + place[0], (size_t)(place[1] - place[0]));
        if (next_chain(chain, given_size, line, writer.in - line) < 0) {
            close_writer(&writer);
            return NULL;
        }
        given_size = CHAIN;
        PUT(&writer, before_chain);
        put(&writer, chain, CHAIN);
        PUT(&writer, behind_chain);
    }
    PyObject *lines = written(&writer);
    return lines == NULL ? NULL : Py_BuildValue("(Ns#)", lines, chain, given_size);
}
