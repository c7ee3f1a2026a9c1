/* Random UUIDs: see teleport_db/audit/uids.py.  A part of _speed.c. */

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
