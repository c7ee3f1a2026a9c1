/* The events of a shipment: see teleport_db/audit/shipped.py.  A part of _speed.c. */

#define MAX_NAMES 48
#define MAX_DEPTH 32
#define MAX_FIELD 512
#define MAX_NUMBER 198 /* below 2^660, as the twin has it */

typedef struct {
    at_t begin, end; /* of what stands between the quotes, or of a number */
} text_t;

typedef struct {
    text_t event, code, sid, ei, server, cluster;
    int flat; /* no object in it, no name twice or written with escapes */
} event_t;

/* What stands in a string for itself: ASCII but for the quote, the backslash and control characters.  The NUL behind the
 * content, which bytes objects have, is none. */
static unsigned char plain[256];

/* Behind the quote that ends a string; `in` is behind the one that begins it.  NULL: there is no string. */
static at_t
string_end(at_t in, at_t end, int *escapes)
{
    for (;;) {
        while (plain[*in])
            in++;
        if (in >= end)
            return NULL;
        unsigned char byte = *in++;
        if (byte == '"')
            return in;
        if (byte != '\\' || in == end)
            return NULL;
        *escapes = 1;
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
}

static at_t
digits_end(at_t in, at_t end)
{
    while (in < end && *in >= '0' && *in <= '9')
        in++;
    return in;
}

/* One that every reader of JSON takes, and takes for a number. */
static at_t
number_end(at_t in, at_t end)
{
    at_t first = in;
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
        if ((in = digits_end(in, end)) == exponent || in - exponent > 2)
            return NULL;
    }
    return in - first > MAX_NUMBER ? NULL : in;
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
    unsigned long long seen = 0; /* a bit for each name: most cannot be any of those before */
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
        Py_ssize_t size = name.end - name.begin;
        unsigned long long bit = 1ULL << ((size * 5 + (size ? name.begin[0] * 3 + name.end[-1] : 0)) & 63);
        if (seen & bit)
            for (int i = 0; event->flat && i < count; i++)
                if (same(names[i], name))
                    event->flat = 0;
        seen |= bit;
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

/* Whether it is a statement's event of the plain kind; then the quotes are off its texts, and `ei` is its number. */
static int
is_statement(event_t *event, long long *ei)
{
    int number = event->ei.begin != NULL && event->ei.end - event->ei.begin <= 15;
    *ei = 0;
    for (at_t digit = event->ei.begin; number && digit < event->ei.end; digit++) {
        number = *digit >= '0' && *digit <= '9';
        *ei = *ei * 10 + (*digit - '0');
    }
    return event->flat && number && unquoted(&event->event) && unquoted(&event->code) && unquoted(&event->sid) &&
           unquoted(&event->server) && unquoted(&event->cluster) &&
           (is(event->event, "db.session.query") || is(event->event, "db.session.result"));
}

/* Statements' events with numbers that follow each other, of one host and cluster. */
typedef struct {
    long long first, count;
    text_t server, cluster;
    PyObject *newest; /* of each session the last ei */
    int64_t *places;  /* where each begins and ends */
} run_t;

/* Add what the run has to what was found, and empty it.  0, or -1 with an exception. */
static int
end_run(run_t *run, PyObject *found)
{
    if (run->count == 0)
        return 0;
#define TEXT(text) (const char *)(text).begin, (Py_ssize_t)((text).end - (text).begin)
    PyObject *one = Py_BuildValue("(Ly#Ns#s#)", run->first, (const char *)run->places,
                                  (Py_ssize_t)(run->count * 2 * sizeof *run->places), run->newest, TEXT(run->server),
                                  TEXT(run->cluster));
    run->newest = NULL;
    run->count = 0;
    int added = one == NULL ? -1 : PyList_Append(found, one);
    Py_XDECREF(one);
    return added;
}

/* 0, or -1 with an exception. */
static int
add_to_run(run_t *run, PyObject *found, long long seq, event_t *event, long long ei, Py_ssize_t begin, Py_ssize_t end)
{
    if (run->count && (seq != run->first + run->count || !same(run->server, event->server) ||
                       !same(run->cluster, event->cluster)) &&
        end_run(run, found) < 0)
        return -1;
    if (run->count == 0) {
        run->first = seq;
        run->server = event->server;
        run->cluster = event->cluster;
        if ((run->newest = PyDict_New()) == NULL)
            return -1;
    }
    run->places[run->count * 2] = begin;
    run->places[run->count * 2 + 1] = end;
    run->count++;
    PyObject *sid = PyUnicode_FromStringAndSize(TEXT(event->sid)), *number = PyLong_FromLongLong(ei);
    int set = sid == NULL || number == NULL ? -1 : PyDict_SetItem(run->newest, sid, number);
    Py_XDECREF(sid);
    Py_XDECREF(number);
    return set;
}

/* What was found; NULL with an exception; `none` becomes 1 for what is no shipment. */
static PyObject *
split_into(PyObject *found, at_t content, at_t end, Py_ssize_t most, run_t *run, int *none)
{
    at_t in = content;
    *none = 1;
    if ((in = word_end(in, end, "{\"events\":[")) == NULL)
        return NULL;
    for (Py_ssize_t count = 0; count < most; count++) {
        event_t event;
        long long seq = 0, ei;
        if ((in = word_end(in, end, "{\"seq\":")) == NULL)
            return NULL;
        at_t digits = in;
        in = digits_end(in, end);
        if (in == digits || in - digits > 18)
            return NULL;
        for (; digits < in; digits++)
            seq = seq * 10 + (*digits - '0');
        if ((in = word_end(in, end, ",\"event\":")) == NULL)
            return NULL;
        at_t raw = in;
        if ((in = event_end(in, end, &event)) == NULL)
            return NULL;
        int added;
        if (is_statement(&event, &ei))
            added = add_to_run(run, found, seq, &event, ei, raw - content, in - content);
        else if ((added = end_run(run, found)) == 0) {
            PyObject *one = Py_BuildValue("(Ly#)", seq, (const char *)raw, (Py_ssize_t)(in - raw));
            added = one == NULL ? -1 : PyList_Append(found, one);
            Py_XDECREF(one);
        }
        at_t next = word_end(in, end, "},");
        int last = next == NULL && word_end(in, end, "}]}") == end;
        if (added < 0 || (last && end_run(run, found) < 0)) {
            *none = 0;
            return NULL;
        }
        if (last)
            return found;
        if ((in = next) == NULL)
            return NULL;
    }
    return NULL;
}

static PyObject *
split(PyObject *module, PyObject *arguments)
{
    PyObject *given;
    char *bytes;
    Py_ssize_t size, most;
    int none = 0;
    if (!PyArg_ParseTuple(arguments, "Sn:split", &given, &most) || PyBytes_AsStringAndSize(given, &bytes, &size) < 0)
        return NULL;
    /* An entry has 19 bytes and more. */
    run_t run = {.places = PyMem_Malloc((size / 19 + 1) * 2 * sizeof *run.places)};
    PyObject *list = run.places == NULL ? PyErr_NoMemory() : PyList_New(0), *found = NULL;
    if (list != NULL)
        found = split_into(list, (at_t)bytes, (at_t)bytes + size, most, &run, &none);
    if (found == NULL)
        Py_XDECREF(list);
    Py_XDECREF(run.newest);
    PyMem_Free(run.places);
    if (found == NULL && none)
        Py_RETURN_NONE;
    return found;
}
