/* Words that SQL may have: see teleport_db/pgwire/words.py.  A part of _speed.c. */

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
