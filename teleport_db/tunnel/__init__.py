"""Streams over one connection, as ordinary Twisted transports and endpoints.

:class:`~teleport_db.tunnel.protocol.TunnelProtocol` drives a :mod:`teleport_db.mux` session above any
transport; whatever speaks over one of its streams never learns that it is tunnelled.
"""
