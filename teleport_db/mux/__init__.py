"""yamux, version 0, without I/O: many streams over one connection.

:class:`~teleport_db.mux.session.Session` turns bytes into events and calls into bytes.  It has no clock
and no socket; :mod:`teleport_db.tunnel` gives it both.  The specification is
https://github.com/hashicorp/yamux/blob/master/spec.md.
"""
