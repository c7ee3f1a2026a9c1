/* The records that a piece of the spool begins with: see teleport_db/audit/spooled.py.  A part of _speed.c. */

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
