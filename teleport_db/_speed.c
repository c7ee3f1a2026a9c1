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

/* One unit, so that small functions are inlined wherever they are used; what is further down uses what is further up. */
#include "speed/walk.c"
#include "speed/shipped.c"
#include "speed/spooled.c"
#include "speed/exchange.c"
#include "speed/logfile.c"
#include "speed/words.c"
#include "speed/simple.c"
#include "speed/uids.c"

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
