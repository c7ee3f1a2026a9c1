/* The events of one exchange: see teleport_db/audit/exchange.py.  A part of _speed.c. */

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
