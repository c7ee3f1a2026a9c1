"""The auth server: certificate authorities, users, roles, tokens, locks, presence and the HTTPS API.

Small parts with two or three collaborators each, made and held together by
:class:`~teleport_db.auth.server.AuthServer`.  It alone signs.
"""
