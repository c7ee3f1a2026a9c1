/* The common exchanges: see teleport_db/pgwire/simple.py.  A part of _speed.c. */

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

static PyObject *
query_text(PyObject *module, PyObject *given)
{
    char *chunk;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(given, &chunk, &size) < 0)
        return NULL;
    const char *sql = chunk + HEADER_SIZE, *last = chunk + size - 1;
    if (message_end((at_t)chunk, (at_t)chunk + size, 'Q') != (at_t)chunk + size ||
        memchr(sql, 0, size - HEADER_SIZE) != last || has_word((at_t)sql, last - sql))
        Py_RETURN_NONE;
    return PyBytes_FromStringAndSize(sql, last - sql);
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
