/* What the byte path does most often, compiled.  Optional: the modules that have the same in Python, pgwire/walk.py, words.py and
 * simple.py, audit/shipped.py, spooled.py, logfile.py, exchange.py and uids.py, say what each function promises, and are used
 * where this was not built.  Nothing here is kept between two calls.
 *
 * Built against the stable interface of CPython 3.11, so that one file serves that and all later versions. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef const unsigned char *at_t;

static PyObject *protocol_error; /* teleport_db.errors.RemoteProtocolError */

/* ---- walk: the headers of what a database sends ---- */

#define HEADER_SIZE 5
#define MAX_LENGTH 0x3fffffff

static Py_ssize_t kept[256]; /* bytes of the body that are kept of each type, -1: it is only counted */

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

/* ---- split: the events of a shipment ---- */

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

/* ---- whole: the records that a piece of the spool begins with ---- */

/* Whether there is a byte of more than seven bits. */
static int
has_high(at_t in, at_t end)
{
    unsigned long long eight;
    for (; end - in >= (Py_ssize_t)sizeof eight; in += sizeof eight) {
        memcpy(&eight, in, sizeof eight);
        if (eight & 0x8080808080808080ULL)
            return 1;
    }
    for (; in < end; in++)
        if (*in & 0x80)
            return 1;
    return 0;
}

/* The digits of the next number; `count` of them are kept when it has one more. */
static int
next_number(char *digits, int count)
{
    int at = count;
    while (at > 0 && digits[at - 1] == '9')
        digits[--at] = '0';
    if (at == 0) {
        memmove(digits + 1, digits, count);
        digits[0] = '1';
        return count + 1;
    }
    digits[at - 1]++;
    return count;
}

static PyObject *
whole(PyObject *module, PyObject *arguments)
{
    static const char seq[] = "{\"seq\":", event[] = ",\"event\":{";
    const size_t seq_size = sizeof seq - 1, event_size = sizeof event - 1;
    PyObject *given;
    char *bytes, digits[32];
    Py_ssize_t size, most, count = 0;
    unsigned long long first;
    if (!PyArg_ParseTuple(arguments, "SKn:whole", &given, &first, &most) ||
        PyBytes_AsStringAndSize(given, &bytes, &size) < 0)
        return NULL;
    size_t width = (size_t)snprintf(digits, sizeof digits, "%llu", first);
    at_t in = (at_t)bytes, end = in + size, line_end;
    while (count < most && (line_end = memchr(in, '\n', end - in)) != NULL) {
        if ((size_t)(line_end - in) < seq_size + width + event_size || memcmp(in, seq, seq_size) != 0 ||
            memcmp(in + seq_size, digits, width) != 0 || memcmp(in + seq_size + width, event, event_size) != 0 ||
            memcmp(line_end - 2, "}}", 2) != 0 || has_high(in, line_end))
            break;
        width = (size_t)next_number(digits, (int)width);
        in = line_end + 1;
        count++;
    }
    return Py_BuildValue("(nn)", count, in - (at_t)bytes);
}

/* ---- The events of one exchange ---- */

#define ROOM 4096

/* Bytes that are put together; `room` is what is left, and running out of it is the caller's mistake. */
typedef struct {
    char *begin, *in;
    char here[ROOM];
} text_writer;

/* 0, or -1 with an exception. */
static int
open_writer(text_writer *writer, size_t most)
{
    writer->begin = most <= ROOM ? writer->here : PyMem_Malloc(most);
    writer->in = writer->begin;
    if (writer->begin == NULL)
        PyErr_NoMemory();
    return writer->begin == NULL ? -1 : 0;
}

static void
close_writer(text_writer *writer)
{
    if (writer->begin != writer->here)
        PyMem_Free(writer->begin);
}

static PyObject *
written(text_writer *writer)
{
    PyObject *made = PyBytes_FromStringAndSize(writer->begin, writer->in - writer->begin);
    close_writer(writer);
    return made;
}

static void
put(text_writer *writer, const char *bytes, size_t size)
{
    memcpy(writer->in, bytes, size);
    writer->in += size;
}

#define PUT(writer, literal) put(writer, literal, sizeof(literal) - 1)

/* At least `width` digits. */
static void
put_number(text_writer *writer, unsigned long long number, int width)
{
    char digits[24];
    int at = sizeof digits;
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
        width--;
    } while (number != 0 || width > 0);
    put(writer, digits + at, sizeof digits - at);
}

static void
put_unit(text_writer *writer, unsigned unit)
{
    static const char hex[] = "0123456789abcdef";
    char escaped[] = {'\\', 'u', hex[unit >> 12], hex[unit >> 8 & 15], hex[unit >> 4 & 15], hex[unit & 15]};
    put(writer, escaped, sizeof escaped);
}

/* A character of more than one byte in UTF-8, as Python reads it: nothing overlong, no surrogates.  0: it is none. */
static int
put_character(text_writer *writer, at_t *in, at_t end)
{
    at_t at = *in;
    unsigned first = *at++, rest = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    unsigned character = first & (0x3f >> rest);
    if (first < 0xc2 || first > 0xf4 || end - at < (Py_ssize_t)rest)
        return 0;
    for (unsigned i = 0; i < rest; i++, at++) {
        if ((*at & 0xc0) != 0x80)
            return 0;
        character = character << 6 | (*at & 0x3f);
    }
    if ((rest == 2 && (character < 0x800 || (character >= 0xd800 && character < 0xe000))) ||
        (rest == 3 && (character < 0x10000 || character > 0x10ffff)))
        return 0;
    if (character >= 0x10000) {
        character -= 0x10000;
        put_unit(writer, 0xd800 | character >> 10);
        character = 0xdc00 | (character & 0x3ff);
    }
    put_unit(writer, character);
    *in = at;
    return 1;
}

/* Six bytes for each of these, and two, at most.  0: it is no UTF-8. */
static int
put_quoted(text_writer *writer, const char *bytes, Py_ssize_t size)
{
    at_t in = (at_t)bytes, end = in + size;
    *writer->in++ = '"';
    while (in < end) {
        unsigned char byte = *in;
        if (byte >= 0x80) {
            if (!put_character(writer, &in, end))
                return 0;
            continue;
        }
        in++;
        if (byte >= ' ' && byte <= '~' && byte != '"' && byte != '\\') {
            *writer->in++ = (char)byte;
            continue;
        }
        const char *short_form = byte ? strchr("\"\"\\\\\nn\rr\tt\bb\ff", byte) : NULL;
        if (short_form != NULL) {
            *writer->in++ = '\\';
            *writer->in++ = byte == '"' || byte == '\\' ? (char)byte : short_form[1];
        } else
            put_unit(writer, byte);
    }
    *writer->in++ = '"';
    return 1;
}

/* RFC 3339, UTC, with milliseconds; days to a date as in Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms". */
static void
put_time(text_writer *writer, double now)
{
    unsigned long long thousandths = now > 0 ? (unsigned long long)(now * 1000.0) : 0;
    unsigned long long seconds = thousandths / 1000, days = seconds / 86400 + 719468, of_day = seconds % 86400;
    unsigned long long era = days / 146097, day_of_era = days % 146097;
    unsigned long long year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    unsigned long long day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    unsigned long long shifted = (5 * day_of_year + 2) / 153, month = shifted < 10 ? shifted + 3 : shifted - 9;
    put_number(writer, era * 400 + year_of_era + (month <= 2), 4);
    PUT(writer, "-");
    put_number(writer, month, 2);
    PUT(writer, "-");
    put_number(writer, day_of_year - (153 * shifted + 2) / 5 + 1, 2);
    PUT(writer, "T");
    put_number(writer, of_day / 3600, 2);
    PUT(writer, ":");
    put_number(writer, of_day / 60 % 60, 2);
    PUT(writer, ":");
    put_number(writer, of_day % 60, 2);
    PUT(writer, ".");
    put_number(writer, thousandths % 1000, 3);
    PUT(writer, "Z");
}

/* What the arguments of all three begin with. */
typedef struct {
    unsigned long long ei, id;
    double now;
    text_t uid;
} about_t;

/* 0, or -1 with an exception. */
static int
get_number(PyObject *given, unsigned long long *number)
{
    *number = PyLong_AsUnsignedLongLongMask(given);
    return *number == (unsigned long long)-1 && PyErr_Occurred() ? -1 : 0;
}

static int
get_seconds(PyObject *given, double *seconds)
{
    *seconds = PyFloat_AsDouble(given);
    return *seconds == -1.0 && PyErr_Occurred() ? -1 : 0;
}

static int
get_bytes(PyObject *given, text_t *text)
{
    char *bytes;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(given, &bytes, &size) < 0)
        return -1;
    text->begin = (at_t)bytes;
    text->end = text->begin + size;
    return 0;
}

static int
get_text(PyObject *given, text_t *text)
{
    Py_ssize_t size;
    const char *utf8 = PyUnicode_AsUTF8AndSize(given, &size);
    if (utf8 == NULL)
        return -1;
    text->begin = (at_t)utf8;
    text->end = text->begin + size;
    return 0;
}

/* There are to be so many arguments, and the first four are ei, uid, now and id: 0, or -1 with an exception. */
static int
get_about(PyObject *const *given, Py_ssize_t count, Py_ssize_t expected, about_t *about)
{
    if (take_arguments(count, expected) < 0 || get_number(given[0], &about->ei) < 0 ||
        get_text(given[1], &about->uid) < 0 || get_seconds(given[2], &about->now) < 0 ||
        get_number(given[3], &about->id) < 0)
        return -1;
    return 0;
}

static Py_ssize_t
size_of(text_t text)
{
    return text.end - text.begin;
}

static void
put_text(text_writer *writer, text_t text)
{
    put(writer, (const char *)text.begin, (size_t)size_of(text));
}

/* What each event begins with, 160 bytes and the id at most. */
#define BEGINNING 160

static void
put_beginning(text_writer *writer, int result, const about_t *about)
{
    PUT(writer, "{\"ei\":");
    put_number(writer, about->ei, 1);
    if (result)
        PUT(writer, ",\"event\":\"db.session.result\",\"uid\":\"");
    else
        PUT(writer, ",\"event\":\"db.session.query\",\"uid\":\"");
    put_text(writer, about->uid);
    if (result)
        PUT(writer, "\",\"code\":\"TDB10I\",\"time\":\"");
    else
        PUT(writer, "\",\"code\":\"TDB02I\",\"time\":\"");
    put_time(writer, about->now);
    PUT(writer, "\",\"statement_id\":");
    put_number(writer, about->id, 1);
}

/* Bytes that put_values() takes at most; -1 with an exception: it is no tuple of bytes and None. */
static Py_ssize_t
values_room(PyObject *values)
{
    if (!PyTuple_Check(values)) {
        PyErr_SetString(PyExc_TypeError, "values are a tuple");
        return -1;
    }
    Py_ssize_t count = PyTuple_Size(values), room = 32;
    for (Py_ssize_t at = 0; at < count; at++) {
        PyObject *value = PyTuple_GetItem(values, at);
        if (value != Py_None && !PyBytes_Check(value)) {
            PyErr_SetString(PyExc_TypeError, "a value is bytes or None");
            return -1;
        }
        room += value == Py_None ? 8 : 6 * PyBytes_Size(value) + 8;
    }
    return room;
}

/* 0: one of them is no UTF-8. */
static int
put_values(text_writer *writer, PyObject *values)
{
    Py_ssize_t count = PyTuple_Size(values);
    if (count == 0)
        return 1;
    PUT(writer, ",\"db_query_parameters\":[");
    for (Py_ssize_t at = 0; at < count; at++) {
        PyObject *value = PyTuple_GetItem(values, at);
        if (at)
            PUT(writer, ",");
        if (value == Py_None)
            PUT(writer, "null");
        else if (!put_quoted(writer, PyBytes_AsString(value), PyBytes_Size(value)))
            return 0;
    }
    PUT(writer, "]");
    return 1;
}

/* `sql`, or where that is NULL the fields in `pieces`, then values. */
static PyObject *
begun_event(const about_t *about, text_t *sql, text_t *pieces, PyObject *values, text_t tail)
{
    text_writer writer;
    Py_ssize_t room = values_room(values);
    if (room < 0)
        return NULL;
    room += sql != NULL ? 6 * size_of(*sql) + 16 : size_of(*pieces) + 1;
    if (open_writer(&writer, BEGINNING + size_of(about->uid) + room + size_of(tail)) < 0)
        return NULL;
    put_beginning(&writer, 0, about);
    if (sql != NULL)
        PUT(&writer, ",\"db_query\":");
    else {
        PUT(&writer, ",");
        put_text(&writer, *pieces);
    }
    if ((sql != NULL && !put_quoted(&writer, (const char *)sql->begin, size_of(*sql))) ||
        !put_values(&writer, values)) {
        close_writer(&writer);
        Py_RETURN_NONE;
    }
    put_text(&writer, tail);
    return written(&writer);
}

static PyObject *
query_event(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    about_t about;
    text_t sql, tail;
    if (get_about(given, count, 7, &about) < 0 || get_bytes(given[4], &sql) < 0 || get_bytes(given[6], &tail) < 0)
        return NULL;
    return begun_event(&about, &sql, NULL, given[5], tail);
}

static PyObject *
bound_event(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    about_t about;
    text_t pieces, tail;
    if (get_about(given, count, 7, &about) < 0 || get_text(given[4], &pieces) < 0 || get_bytes(given[6], &tail) < 0)
        return NULL;
    return begun_event(&about, NULL, &pieces, given[5], tail);
}

/* Milliseconds with what is needed of three decimals, and one at least. */
static void
put_duration(text_writer *writer, double seconds)
{
    unsigned long long micros = seconds > 0 ? (unsigned long long)(seconds * 1e6 + 0.5) : 0;
    put_number(writer, micros / 1000, 1);
    PUT(writer, ".");
    unsigned rest = (unsigned)(micros % 1000);
    int width = 3;
    while (width > 1 && rest % 10 == 0) {
        rest /= 10;
        width--;
    }
    put_number(writer, rest, width);
}

static PyObject *
result_event(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    about_t about;
    unsigned long long affected, rows, sent, received;
    double duration;
    text_t tag, tail;
    text_writer writer;
    if (get_about(given, count, 11, &about) < 0 || get_number(given[4], &affected) < 0 ||
        get_number(given[5], &rows) < 0 || get_number(given[6], &sent) < 0 || get_number(given[7], &received) < 0 ||
        get_seconds(given[8], &duration) < 0 || get_bytes(given[9], &tag) < 0 || get_bytes(given[10], &tail) < 0 ||
        open_writer(&writer, BEGINNING + size_of(about.uid) + 256 + 6 * size_of(tag) + size_of(tail)) < 0)
        return NULL;
    put_beginning(&writer, 1, &about);
    PUT(&writer, ",\"success\":true,\"affected_records\":");
    put_number(&writer, affected, 1);
    PUT(&writer, ",\"rows\":");
    put_number(&writer, rows, 1);
    PUT(&writer, ",\"bytes_sent\":");
    put_number(&writer, sent, 1);
    PUT(&writer, ",\"bytes_received\":");
    put_number(&writer, received, 1);
    PUT(&writer, ",\"duration_ms\":");
    put_duration(&writer, duration);
    PUT(&writer, ",\"command_tag\":");
    if (!put_quoted(&writer, (const char *)tag.begin, size_of(tag))) {
        close_writer(&writer);
        Py_RETURN_NONE;
    }
    put_text(&writer, tail);
    return written(&writer);
}

/* ---- chain_run: the log's lines of such a run ---- */

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

/* ---- Words that SQL may have ---- */

static unsigned char lower_case[256]; /* as bytes.lower() has it */
static unsigned char begins_word[256];
static const char *const words[] = {"prepare", "declare", "deallocate", "pass", "secret", "token", "://", "u&"};

static int
has_word(at_t in, Py_ssize_t size)
{
    for (at_t end = in + size; in < end; in++) {
        if (!begins_word[*in])
            continue;
        for (size_t word = 0; word < sizeof words / sizeof *words; word++) {
            Py_ssize_t same = 0;
            while (words[word][same] != 0 && in + same < end && lower_case[in[same]] == words[word][same])
                same++;
            if (words[word][same] == 0)
                return 1;
        }
    }
    return 0;
}

static PyObject *
mentions(PyObject *module, PyObject *given)
{
    char *sql;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(given, &sql, &size) < 0)
        return NULL;
    return PyBool_FromLong(has_word((at_t)sql, size));
}

/* ---- The common exchanges ---- */

static PyObject *
query_text(PyObject *module, PyObject *given)
{
    char *chunk;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(given, &chunk, &size) < 0)
        return NULL;
    at_t header = (at_t)chunk;
    const char *sql = chunk + HEADER_SIZE, *last = chunk + size - 1;
    if (size <= HEADER_SIZE || *chunk != 'Q' ||
        ((unsigned long long)header[1] << 24 | header[2] << 16 | header[3] << 8 | header[4]) + 1 !=
            (unsigned long long)size ||
        memchr(sql, 0, size - HEADER_SIZE) != last || has_word((at_t)sql, last - sql))
        Py_RETURN_NONE;
    return PyBytes_FromStringAndSize(sql, last - sql);
}

static uint32_t
number32(at_t in)
{
    return (uint32_t)in[0] << 24 | (uint32_t)in[1] << 16 | (uint32_t)in[2] << 8 | in[3];
}

static Py_ssize_t
number16(at_t in)
{
    return in[0] << 8 | in[1];
}

/* Behind the message of this type that begins here and has a body; NULL: there is none, or not all of it before `end`. */
static at_t
message_end(at_t in, at_t end, char type)
{
    if (end - in <= HEADER_SIZE || *in != type)
        return NULL;
    uint32_t length = number32(in + 1);
    return length < HEADER_SIZE || length > (size_t)(end - in) - 1 ? NULL : in + 1 + length;
}

/* A Parse of the unnamed statement, perhaps, and a Bind of the unnamed portal. */
typedef struct {
    text_t sql, statement; /* `sql` is NULL without a Parse */
    at_t types, formats, values;
    Py_ssize_t type_count, format_count, value_count;
} bound_t;

/* Behind so many items of so many bytes, which a count stands before; NULL: they are not all before `end`. */
static at_t
counted(at_t in, at_t end, Py_ssize_t size, Py_ssize_t *count, at_t *items)
{
    if (end - in < 2)
        return NULL;
    *count = number16(in);
    *items = in + 2;
    return (end - *items) / size < *count ? NULL : *items + *count * size;
}

/* 0: the body between these is not that of such a Parse. */
static int
read_parse(bound_t *bound, at_t in, at_t end)
{
    if (*in++ != 0)
        return 0;
    bound->sql.begin = in;
    bound->sql.end = memchr(in, 0, end - in);
    return bound->sql.end != NULL &&
           counted(bound->sql.end + 1, end, 4, &bound->type_count, &bound->types) == end;
}

/* 0: the body between these is not that of such a Bind. */
static int
read_bind(bound_t *bound, at_t in, at_t end)
{
    Py_ssize_t results;
    at_t codes;
    if (*in++ != 0)
        return 0;
    bound->statement.begin = in;
    bound->statement.end = memchr(in, 0, end - in);
    if (bound->statement.end == NULL ||
        (in = counted(bound->statement.end + 1, end, 2, &bound->format_count, &bound->formats)) == NULL ||
        counted(in, end, 1, &bound->value_count, &bound->values) == NULL)
        return 0;
    in = bound->values;
    for (Py_ssize_t at = 0; at < bound->value_count; at++) {
        if (end - in < 4)
            return 0;
        uint32_t length = number32(in);
        in += 4;
        if (length == 0xffffffff)
            continue; /* NULL */
        if (length > (size_t)(end - in))
            return 0;
        in += length;
    }
    return counted(in, end, 2, &results, &codes) == end;
}

/* A tuple of numbers of so many bytes. */
static PyObject *
number_tuple(at_t in, Py_ssize_t count, int size)
{
    PyObject *made = PyTuple_New(count);
    for (Py_ssize_t at = 0; made != NULL && at < count; at++, in += size) {
        PyObject *number = PyLong_FromUnsignedLong(size == 4 ? number32(in) : (uint32_t)number16(in));
        if (number == NULL || PyTuple_SetItem(made, at, number) < 0)
            Py_CLEAR(made);
    }
    return made;
}

static PyObject *
value_tuple(at_t in, Py_ssize_t count)
{
    PyObject *made = PyTuple_New(count);
    for (Py_ssize_t at = 0; made != NULL && at < count; at++) {
        uint32_t length = number32(in);
        PyObject *value = NULL;
        in += 4;
        if (length == 0xffffffff) {
            Py_INCREF(Py_None);
            value = Py_None;
        } else {
            value = PyBytes_FromStringAndSize((const char *)in, length);
            in += length;
        }
        if (value == NULL || PyTuple_SetItem(made, at, value) < 0)
            Py_CLEAR(made);
    }
    return made;
}

static int
all_zero(at_t in, Py_ssize_t size)
{
    while (size > 0 && in[size - 1] == 0)
        size--;
    return size == 0;
}

static PyObject *
bound(PyObject *module, PyObject *given)
{
    static const char behind[] = "D\0\0\0\6P\0E\0\0\0\11\0\0\0\0\0S\0\0\0\4";
    const Py_ssize_t behind_size = sizeof behind - 1;
    char *chunk;
    Py_ssize_t size;
    bound_t found = {.sql = {NULL, NULL}};
    if (PyBytes_AsStringAndSize(given, &chunk, &size) < 0)
        return NULL;
    at_t in = (at_t)chunk, end = in + size - behind_size, next;
    if (size <= behind_size || memcmp(end, behind, behind_size) != 0)
        Py_RETURN_NONE;
    if ((next = message_end(in, end, 'P')) != NULL) {
        if (!read_parse(&found, in + HEADER_SIZE, next))
            Py_RETURN_NONE;
        in = next;
    }
    if (message_end(in, end, 'B') != end || !read_bind(&found, in + HEADER_SIZE, end) ||
        (found.sql.begin != NULL && found.statement.begin != found.statement.end) || has_word((at_t)chunk, size))
        Py_RETURN_NONE;
    if (all_zero(found.formats, 2 * found.format_count))
        found.format_count = 0;
    return Py_BuildValue("(y#NNy#N)", TEXT(found.statement), number_tuple(found.formats, found.format_count, 2),
                         value_tuple(found.values, found.value_count), TEXT(found.sql),
                         number_tuple(found.types, found.type_count, 4));
}

typedef struct {
    int kind;
    char *body;
    Py_ssize_t length, rows, size;
} answer_t;

/* 0: there is none of that shape, and no exception. */
static int
get_answer(PyObject *answers, Py_ssize_t at, answer_t *answer)
{
    PyObject *given = PyList_GetItem(answers, at);
    if (given == NULL || !PyTuple_Check(given) || PyTuple_Size(given) != 4 ||
        PyBytes_AsStringAndSize(PyTuple_GetItem(given, 1), &answer->body, &answer->length) < 0) {
        PyErr_Clear();
        return 0;
    }
    answer->kind = (int)PyLong_AsLong(PyTuple_GetItem(given, 0));
    answer->rows = PyLong_AsSsize_t(PyTuple_GetItem(given, 2));
    answer->size = PyLong_AsSsize_t(PyTuple_GetItem(given, 3));
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    return 1;
}

/* The number that a tag ends with, of 18 digits at most; 0 when there is none. */
static unsigned long long
last_number(const char *tag, Py_ssize_t length)
{
    Py_ssize_t at = length;
    unsigned long long number = 0;
    while (at > 0 && tag[at - 1] != ' ')
        at--;
    if (length - at > 18)
        return 0;
    for (; at < length; at++) {
        if (tag[at] < '0' || tag[at] > '9')
            return 0;
        number = number * 10 + (unsigned long long)(tag[at] - '0');
    }
    return number;
}

static PyObject *
ending(PyObject *module, PyObject *const *given, Py_ssize_t given_count)
{
    static const char *const before[] = {"T", "2?", "12?"}, *const tags[] = {"DEALLOCATE", "DISCARD", "COPY "};
    answer_t answer, ready;
    Py_ssize_t asked;
    if (take_arguments(given_count, 2) < 0 || get_size(given[1], &asked) < 0)
        return NULL;
    PyObject *answers = given[0];
    if (asked < 0 || asked > 2) {
        PyErr_SetString(PyExc_ValueError, "asked is QUERIED, BOUND or PARSED");
        return NULL;
    }
    if (!PyList_Check(answers))
        Py_RETURN_NONE;
    const char *expected = before[asked];
    Py_ssize_t count = PyList_Size(answers), received = 0;
    if (asked == 0 && count == 2)
        expected = "";
    if (count != (Py_ssize_t)strlen(expected) + 2)
        Py_RETURN_NONE;
    for (Py_ssize_t at = 0; at < count - 2; at++) {
        if (!get_answer(answers, at, &answer) || answer.rows != 0 ||
            (expected[at] == '?' ? answer.kind != 'T' && answer.kind != 'n' : answer.kind != expected[at]))
            Py_RETURN_NONE;
        received += answer.size;
    }
    if (!get_answer(answers, count - 2, &answer) || answer.kind != 'C' || !get_answer(answers, count - 1, &ready) ||
        ready.kind != 'Z' || ready.rows != 0)
        Py_RETURN_NONE;
    for (size_t at = 0; at < sizeof tags / sizeof *tags; at++)
        if ((size_t)answer.length >= strlen(tags[at]) && memcmp(answer.body, tags[at], strlen(tags[at])) == 0)
            Py_RETURN_NONE;
    const char *end = memchr(answer.body, 0, answer.length);
    Py_ssize_t length = end == NULL ? answer.length : end - answer.body;
    received += answer.size + (asked == 0 ? ready.size : 0);
    PyObject *made[] = {PyBytes_FromStringAndSize(answer.body, length),
                        PyLong_FromUnsignedLongLong(last_number(answer.body, length)), PyLong_FromSsize_t(answer.rows),
                        PyLong_FromSsize_t(received), PyBool_FromLong(ready.length == 1 && *ready.body == 'I')};
    return tuple_of(made, 5);
}

/* ---- Random UUIDs ---- */

static PyObject *
uuids(PyObject *module, PyObject *given)
{
    static const char hex[] = "0123456789abcdef";
    char *random;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(given, &random, &size) < 0)
        return NULL;
    PyObject *found = PyList_New(size / 16);
    for (Py_ssize_t at = 0; found != NULL && at < size / 16; at++) {
        char text[36], *out = text;
        for (int i = 0; i < 16; i++) {
            unsigned byte = (unsigned char)random[at * 16 + i];
            if (i == 6)
                byte = 0x40 | (byte & 0x0f);
            if (i == 8)
                byte = 0x80 | (byte & 0x3f);
            if (i == 4 || i == 6 || i == 8 || i == 10)
                *out++ = '-';
            *out++ = hex[byte >> 4];
            *out++ = hex[byte & 15];
        }
        PyObject *uuid = PyUnicode_FromStringAndSize(text, sizeof text);
        if (uuid == NULL || PyList_SetItem(found, at, uuid) < 0)
            Py_CLEAR(found);
    }
    return found;
}

/* A function that takes its arguments as they lie on the stack. */
#define FAST(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef methods[] = {
    {"walk", FAST(walk), METH_FASTCALL, "walk(data, left, rows, size): see teleport_db.pgwire.walk.walk"},
    {"split", split, METH_VARARGS, "split(content, most): see teleport_db.audit.shipped.split"},
    {"chain_run", chain_run, METH_VARARGS,
     "chain_run(head, first, content, places, begin, end, chain): see teleport_db.audit.logfile"},
    {"whole", whole, METH_VARARGS, "whole(data, first, most): see teleport_db.audit.spooled"},
    {"query_event", FAST(query_event), METH_FASTCALL,
     "query_event(ei, uid, now, id, sql, values, tail): see teleport_db.audit.exchange"},
    {"bound_event", FAST(bound_event), METH_FASTCALL, "bound_event(ei, uid, now, id, pieces, values, tail): likewise"},
    {"result_event", FAST(result_event), METH_FASTCALL,
     "result_event(ei, uid, now, id, affected, rows, sent, received, duration, tag, tail): likewise"},
    {"mentions", mentions, METH_O, "mentions(sql): see teleport_db.pgwire.words"},
    {"query_text", query_text, METH_O, "query_text(chunk): see teleport_db.pgwire.simple"},
    {"bound", bound, METH_O, "bound(chunk): likewise"},
    {"ending", FAST(ending), METH_FASTCALL, "ending(answers, asked): likewise"},
    {"uuids", uuids, METH_O, "uuids(random): see teleport_db.audit.uids"},
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
    PyObject *hashlib = PyImport_ImportModule("hashlib");
    if (protocol_error == NULL || hashlib == NULL)
        return NULL;
    sha256 = PyObject_GetAttrString(hashlib, "sha256");
    hexdigest = PyUnicode_InternFromString("hexdigest");
    Py_DECREF(hashlib);
    if (sha256 == NULL || hexdigest == NULL)
        return NULL;
    for (int byte = ' '; byte < 0x80; byte++)
        plain[byte] = byte != '"' && byte != '\\';
    for (int byte = 0; byte < 256; byte++)
        lower_case[byte] = (unsigned char)(byte >= 'A' && byte <= 'Z' ? byte | 0x20 : byte);
    for (int byte = 0; byte < 256; byte++)
        for (size_t word = 0; word < sizeof words / sizeof *words; word++)
            begins_word[byte] |= lower_case[byte] == (unsigned char)*words[word];
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
