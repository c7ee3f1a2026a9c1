"""The HTTPS API of the auth server as its callers see it.

A blocking client for commands, one on the reactor for services, and the shapes of resources.

Importing this package costs nothing; commands that must start at once import :mod:`teleport_db.api.http` alone.
"""
