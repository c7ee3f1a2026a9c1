/* What the byte path does most often, compiled.  Optional: pgwire/walk.py and audit/shipped.py have the same in Python,
 * say what each function promises, and are used where this was not built.  Nothing here is kept between two calls.
 *
 * Built against the stable interface of CPython 3.11, so that one file serves that and all later versions. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

typedef const unsigned char *at_t;

static PyObject *protocol_error; /* teleport_db.errors.RemoteProtocolError */

/* ---- walk: the headers of what a database sends ---- */

#define HEADER_SIZE 5
#define MAX_LENGTH 0x3fffffff

static Py_ssize_t kept[256]; /* bytes of the body that are kept of each type, -1: it is only counted */

static PyObject *
walk(PyObject *module, PyObject *arguments)
{
    PyObject *given;
    char *bytes;
    Py_ssize_t end, left, rows, size, position, start = 0;
    if (!PyArg_ParseTuple(arguments, "Snnn:walk", &given, &left, &rows, &size) ||
        PyBytes_AsStringAndSize(given, &bytes, &end) < 0)
        return NULL;
    PyObject *answers = PyList_New(0);
    if (answers == NULL)
        return NULL;
    if (left >= end)
        return Py_BuildValue("(Nnnny#)", answers, left - end, rows, size + end, "", (Py_ssize_t)0);
    at_t data = (at_t)bytes;
    for (position = left; position <= end - HEADER_SIZE;) {
        at_t header = data + position;
        unsigned long length = (unsigned long)header[1] << 24 | (unsigned long)header[2] << 16 |
                               (unsigned long)header[3] << 8 | (unsigned long)header[4];
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
        PyObject *answer = Py_BuildValue("(iy#nn)", (int)header[0], bytes + body, needed - body, rows,
                                         size + answered - start);
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

/* ---- split: the events of a shipment ---- */

#define MAX_NAMES 48
#define MAX_DEPTH 32
#define MAX_FIELD 512

typedef struct {
    at_t begin, end; /* of what stands between the quotes, or of a number */
} text_t;

typedef struct {
    text_t event, code, sid, ei, server, cluster;
    int flat; /* no object in it, no name twice or written with escapes */
} event_t;

/* Behind the quote that ends a string; `in` is behind the one that begins it.  NULL: there is no string. */
static at_t
string_end(at_t in, at_t end, int *escapes)
{
    while (in < end) {
        unsigned char byte = *in++;
        if (byte == '"')
            return in;
        if (byte < 0x20 || byte > 0x7f)
            return NULL;
        if (byte != '\\')
            continue;
        *escapes = 1;
        if (in == end)
            return NULL;
        byte = *in++;
        if (byte == 'u') {
            if (end - in < 4)
                return NULL;
            for (int i = 0; i < 4; i++, in++)
                if (!((*in >= '0' && *in <= '9') || (*in >= 'a' && *in <= 'f') || (*in >= 'A' && *in <= 'F')))
                    return NULL;
        } else if (byte == 0 || strchr("\"\\/bfnrt", byte) == NULL)
            return NULL;
    }
    return NULL;
}

static at_t
digits_end(at_t in, at_t end)
{
    while (in < end && *in >= '0' && *in <= '9')
        in++;
    return in;
}

static at_t
number_end(at_t in, at_t end)
{
    if (in < end && *in == '-')
        in++;
    at_t whole = in;
    in = digits_end(in, end);
    if (in == whole || (*whole == '0' && in - whole > 1))
        return NULL;
    if (in < end && *in == '.') {
        at_t fraction = ++in;
        if ((in = digits_end(in, end)) == fraction)
            return NULL;
    }
    if (in < end && (*in == 'e' || *in == 'E')) {
        in++;
        if (in < end && (*in == '+' || *in == '-'))
            in++;
        at_t exponent = in;
        if ((in = digits_end(in, end)) == exponent)
            return NULL;
    }
    return in;
}

static at_t
word_end(at_t in, at_t end, const char *word)
{
    size_t size = strlen(word);
    return (size_t)(end - in) >= size && memcmp(in, word, size) == 0 ? in + size : NULL;
}

/* Behind a value in compact JSON; NULL: there is none.  An object in it makes the event one that is not flat. */
static at_t
value_end(at_t in, at_t end, int depth, int *flat)
{
    int escapes;
    if (in == end || depth > MAX_DEPTH)
        return NULL;
    switch (*in) {
    case '"':
        return string_end(in + 1, end, &escapes);
    case 't':
        return word_end(in, end, "true");
    case 'f':
        return word_end(in, end, "false");
    case 'n':
        return word_end(in, end, "null");
    case '[':
    case '{': {
        int object = *in == '{';
        unsigned char close = object ? '}' : ']';
        if (object)
            *flat = 0;
        if (++in < end && *in == close)
            return in + 1;
        for (;;) {
            if (object) {
                if (in == end || *in != '"' || (in = string_end(in + 1, end, &escapes)) == NULL || in == end ||
                    *in++ != ':')
                    return NULL;
            }
            if ((in = value_end(in, end, depth + 1, flat)) == NULL || in == end)
                return NULL;
            if (*in == close)
                return in + 1;
            if (*in++ != ',')
                return NULL;
        }
    }
    default:
        return number_end(in, end);
    }
}

static int
is(text_t text, const char *word)
{
    size_t size = strlen(word);
    return (size_t)(text.end - text.begin) == size && memcmp(text.begin, word, size) == 0;
}

static int
same(text_t one, text_t other)
{
    return one.end - one.begin == other.end - other.begin && memcmp(one.begin, other.begin, one.end - one.begin) == 0;
}

/* Behind an event, which is an object; NULL: there is none. */
static at_t
event_end(at_t in, at_t end, event_t *event)
{
    text_t names[MAX_NAMES];
    int count = 0;
    memset(event, 0, sizeof *event);
    event->flat = 1;
    if (in == end || *in++ != '{')
        return NULL;
    for (;;) {
        int escapes = 0;
        text_t name, value;
        if (in == end || *in != '"')
            return NULL;
        name.begin = in + 1;
        if ((in = string_end(name.begin, end, &escapes)) == NULL || in == end || *in != ':')
            return NULL;
        name.end = in - 1;
        if (escapes || count == MAX_NAMES)
            event->flat = 0;
        for (int i = 0; event->flat && i < count; i++)
            if (same(names[i], name))
                event->flat = 0;
        if (event->flat)
            names[count++] = name;
        in++;
        value.begin = in;
        if ((in = value_end(in, end, 0, &event->flat)) == NULL || in == end)
            return NULL;
        value.end = in;
        text_t *wanted = is(name, "event")          ? &event->event
                         : is(name, "code")         ? &event->code
                         : is(name, "sid")          ? &event->sid
                         : is(name, "ei")           ? &event->ei
                         : is(name, "server_id")    ? &event->server
                         : is(name, "cluster_name") ? &event->cluster
                                                    : NULL;
        if (wanted != NULL)
            *wanted = value;
        if (*in == '}')
            return in + 1;
        if (*in++ != ',')
            return NULL;
    }
}

/* Take the quotes off.  0: it is no string, or one with escapes, or a long one. */
static int
unquoted(text_t *text)
{
    if (text->begin == NULL || *text->begin != '"' || text->end - text->begin - 2 > MAX_FIELD)
        return 0;
    text->begin++;
    text->end--;
    return memchr(text->begin, '\\', text->end - text->begin) == NULL;
}

/* A statement's event as (seq, json, name, sid, ei, server_id, cluster_name), another as (seq, json) and five None. */
static PyObject *
entry(long long seq, at_t raw, at_t end, event_t *event)
{
    const char *json = (const char *)raw;
    Py_ssize_t size = end - raw;
    long long ei = 0;
    int number = event->ei.begin != NULL && event->ei.end - event->ei.begin <= 15;
    for (at_t digit = event->ei.begin; number && digit < event->ei.end; digit++) {
        number = *digit >= '0' && *digit <= '9';
        ei = ei * 10 + (*digit - '0');
    }
    if (!event->flat || !number || !unquoted(&event->event) || !unquoted(&event->code) || !unquoted(&event->sid) ||
        !unquoted(&event->server) || !unquoted(&event->cluster) ||
        !(is(event->event, "db.session.query") || is(event->event, "db.session.result")))
        return Py_BuildValue("(Ly#OOOOO)", seq, json, size, Py_None, Py_None, Py_None, Py_None, Py_None);
#define TEXT(text) (const char *)(text).begin, (Py_ssize_t)((text).end - (text).begin)
    return Py_BuildValue("(Ly#s#s#Ls#s#)", seq, json, size, TEXT(event->event), TEXT(event->sid), ei,
                         TEXT(event->server), TEXT(event->cluster));
}

static PyObject *
split(PyObject *module, PyObject *arguments)
{
    PyObject *given;
    char *bytes;
    Py_ssize_t size, most;
    if (!PyArg_ParseTuple(arguments, "Sn:split", &given, &most) || PyBytes_AsStringAndSize(given, &bytes, &size) < 0)
        return NULL;
    at_t in = (at_t)bytes, end = in + size;
    PyObject *found = PyList_New(0);
    if (found == NULL)
        return NULL;
    if ((in = word_end(in, end, "{\"events\":[")) == NULL)
        goto none;
    while (PyList_Size(found) < most) {
        event_t event;
        long long seq = 0;
        if ((in = word_end(in, end, "{\"seq\":")) == NULL)
            goto none;
        at_t digits = in;
        in = digits_end(in, end);
        if (in == digits || in - digits > 18)
            goto none;
        for (; digits < in; digits++)
            seq = seq * 10 + (*digits - '0');
        if ((in = word_end(in, end, ",\"event\":")) == NULL)
            goto none;
        at_t raw = in;
        if ((in = event_end(in, end, &event)) == NULL)
            goto none;
        PyObject *one = entry(seq, raw, in, &event);
        if (one == NULL || PyList_Append(found, one) < 0) {
            Py_XDECREF(one);
            Py_DECREF(found);
            return NULL;
        }
        Py_DECREF(one);
        at_t next = word_end(in, end, "},");
        if (next != NULL) {
            in = next;
            continue;
        }
        if (word_end(in, end, "}]}") == end)
            return found;
        goto none;
    }
none:
    Py_DECREF(found);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"walk", walk, METH_VARARGS, "walk(data, left, rows, size): see teleport_db.pgwire.walk.walk"},
    {"split", split, METH_VARARGS, "split(content, most): see teleport_db.audit.shipped.split"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "teleport_db._speed", NULL, -1, methods,
                                        NULL, NULL, NULL, NULL};

PyMODINIT_FUNC
PyInit__speed(void)
{
    PyObject *errors = PyImport_ImportModule("teleport_db.errors");
    if (errors == NULL)
        return NULL;
    protocol_error = PyObject_GetAttrString(errors, "RemoteProtocolError");
    Py_DECREF(errors);
    if (protocol_error == NULL)
        return NULL;
    for (int type = 0; type < 256; type++)
        kept[type] = -1;
    for (const char *type = "123sITnGHWV"; *type; type++)
        kept[(unsigned char)*type] = 0;
    kept['C'] = 128;
    kept['E'] = 2048;
    kept['Z'] = 1;
    kept['t'] = 16384;
    return PyModule_Create(&definition);
}
