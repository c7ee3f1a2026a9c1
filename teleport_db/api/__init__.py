"""The HTTPS API of the auth server as its callers see it: a blocking client for commands, one on the reactor for services.

Importing this package costs nothing; commands that must start at once import :mod:`teleport_db.api.http` alone.
"""
