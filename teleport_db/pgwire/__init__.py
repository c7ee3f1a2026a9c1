"""PostgreSQL's frontend/backend protocol, sans-I/O.

Bytes go in, bytes and facts come out; nothing here knows a socket, a clock or Twisted.  ``startup``
is a client's way in, ``frontend`` walks what it sends afterwards, ``backend_tls`` and ``login`` are the
agent's way into a database (its passwords in ``authentication`` and ``scram``), ``messages`` builds and reads what
all of them share.
"""
